use std::collections::BTreeMap;

use certs::certificates_to_pem;
use fixtures::{Blueprint, TestAuthority, TestKey, TestKeyKind, dns, oid};

use super::*;
use crate::{ChallengeBody, ChallengeKind, Identifier, MAX_RETRY_AFTER, Names};

mod walk;

const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
const THUMBPRINT: &str = "thumb";

fn at(secs: u64) -> Timestamp {
    START + Duration::from_secs(secs)
}

fn url(path: &str) -> Url {
    Url::parse(&format!("https://acme.example/{path}")).unwrap()
}

fn name(text: &str) -> Identifier {
    Identifier::parse(text).unwrap()
}

fn names(all: &[&str]) -> Names {
    Names::try_new(all.iter().map(|text| name(text)).collect()).unwrap()
}

/// A certificate of two names that lives for ten years, and its key.
struct Certified {
    pem: Vec<u8>,
    key: PublicKey,
    root: Certificate,
}

impl Certified {
    fn new() -> Self {
        let life = |blueprint: Blueprint| Blueprint {
            not_after: START + Duration::from_secs(10 * 365 * 24 * 3600),
            ..blueprint
        };
        let key = TestKey::generate(TestKeyKind::P256);
        let root_key = TestKey::generate(TestKeyKind::P256);
        let subject = fixtures::der::name("Test", "acme");
        let root = Blueprint::authority(&subject, &root_key, &subject, None, None, START);
        let root = TestAuthority::from_blueprint(life(root), root_key, None);
        let leaf = life(root.leaf_blueprint("urn:x", &key, START)).with_purposes(&[oid::SERVER_AUTH]);
        let leaf = leaf.with_names(&[dns("a.example"), dns("b.example")]).sign(root.key());
        Self {
            pem: certificates_to_pem([leaf.as_slice(), root.der()]).into_bytes(),
            key: PublicKey::from_spki_der(&key.spki_der()).unwrap(),
            root: root.certificate().clone(),
        }
    }
}

fn wanted() -> Wanted {
    let mut wanted =
        Wanted::try_new(url("acct/1"), names(&["a.example", "b.example"]), ChallengeKind::Http01).unwrap();
    wanted.replaces = Some("aki.serial".to_owned());
    wanted
}

fn order_body(status: OrderStatus) -> OrderBody {
    OrderBody {
        status,
        names: vec![name("a.example"), name("b.example")],
        authorizations: vec![url("authz/a"), url("authz/b")],
        finalize: url("finalize/1"),
        certificate: (status == OrderStatus::Valid).then(|| url("cert/1")),
        expires: Some(at(7 * 24 * 3600)),
        problem: None,
        profile: None,
        replaces: Some("aki.serial".to_owned()),
    }
}

fn authorization(one: &str, status: AuthorizationStatus, challenge: ChallengeStatus) -> AuthorizationBody {
    let body = |kind: ChallengeKind| ChallengeBody {
        kind,
        url: url(&format!("chall/{one}/{kind}")),
        status: challenge,
        token: format!("token-{one}"),
        problem: None,
    };
    AuthorizationBody {
        name: name(&format!("{one}.example")),
        status,
        challenges: vec![body(ChallengeKind::Dns01), body(ChallengeKind::Http01)],
        offered: vec!["dns-01".to_owned(), "http-01".to_owned()],
    }
}

fn problem(kind: ProblemKind) -> Trouble {
    Trouble::Problem { status: 400, problem: Problem::new(kind, "no"), retry_after: None }
}

fn lost() -> Trouble {
    Trouble::Lost { origin: "https://acme.example".to_owned(), reason: "closed".to_owned() }
}

fn answered(answer: Answered) -> Event {
    Event::Answered(Box::new(answer))
}

fn is_order(status: OrderStatus) -> Event {
    answered(Answered::Order { body: order_body(status), retry_after: None })
}

fn is_authorization(one: &str, status: AuthorizationStatus) -> Event {
    let body = authorization(one, status, ChallengeStatus::Pending);
    answered(Answered::Authorization { body, retry_after: None })
}

fn made() -> Event {
    answered(Answered::Made {
        url: url("order/1"),
        body: order_body(OrderStatus::Pending),
        retry_after: None,
    })
}

fn is_told() -> Event {
    answered(Answered::Told { retry_after: None })
}

/// A machine, and steps written as: at which second, what happens, what is done in a word each, when the next is due.
struct Table {
    order: Order,
    certified: Certified,
}

impl Table {
    fn new(saved: Option<Saved>) -> Self {
        let certified = Certified::new();
        let order =
            Order::new(wanted(), saved, certified.key.clone(), THUMBPRINT.to_owned(), Vec::new(), START);
        Self { order, certified }
    }

    fn anchored(anchors: Vec<Certificate>, certified: Certified) -> Self {
        let key = certified.key.clone();
        let order = Order::new(wanted(), None, key, THUMBPRINT.to_owned(), anchors, START);
        Self { order, certified }
    }

    fn check(&mut self, secs: u64, event: Event, done: &[&str], deadline: Option<u64>) {
        let shown = format!("at {secs}: {event:?}");
        let actions = self.order.step(event, Jitter::NONE, at(secs));
        let words: Vec<String> = actions.iter().map(word).collect();
        assert_eq!(words, done, "{shown}");
        assert_eq!(self.order.deadline(), deadline.map(at), "{shown}");
    }

    fn certificate(&self) -> Event {
        answered(Answered::Certificate { pem: self.certified.pem.clone(), alternates: Vec::new() })
    }

    fn none_withdrawn(&self) -> Event {
        Event::NotWithdrawn(self.order.presented())
    }

    /// To the point where both authorizations are known to be pending.
    fn go_to_publishing(&mut self) {
        self.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
        self.check(0, made(), &["keep order/1", "authorization authz/a"], None);
        self.check(0, is_authorization("a", AuthorizationStatus::Pending), &["authorization authz/b"], None);
        let event = is_authorization("b", AuthorizationStatus::Pending);
        self.check(0, event, &["keep order/1 +2", "publish 2"], Some(60));
    }

    /// To the point where the server looks.
    fn go_to_validation(&mut self) {
        self.go_to_publishing();
        self.check(2, Event::Published, &["challenge chall/a/http-01"], None);
        self.check(2, is_told(), &["challenge chall/b/http-01"], None);
        self.check(2, is_told(), &[], Some(3));
    }

    fn go_to_ready(&mut self) {
        self.go_to_validation();
        self.check(3, Event::Tick, &["authorization authz/a"], None);
        self.check(3, is_authorization("a", AuthorizationStatus::Valid), &["authorization authz/b"], None);
        self.check(3, is_authorization("b", AuthorizationStatus::Valid), &["order order/1"], None);
        let done = ["withdraw 2", "finalize finalize/1"];
        self.check(3, is_order(OrderStatus::Ready), &done, Some(63));
        self.check(3, Event::Withdrawn, &["keep order/1"], None);
    }
}

fn word(action: &Action) -> String {
    let path = |url: &Url| url.as_str().trim_start_matches("https://acme.example/").to_owned();
    match action {
        Action::Keep(saved) => {
            let mut text = "keep".to_owned();
            if saved.is_asking {
                text += " asking";
            }
            if let Some(order) = &saved.order {
                text += &format!(" {}", path(order));
            }
            if !saved.presented.is_empty() {
                text += &format!(" +{}", saved.presented.len());
            }
            text
        }
        Action::Ask(Ask::NewOrder { replaces, .. }) => {
            if replaces.is_some() {
                "new-order replacing".to_owned()
            } else {
                "new-order".to_owned()
            }
        }
        Action::Ask(Ask::FindOrder { profile: Some(profile), .. }) => format!("find-order by {profile}"),
        Action::Ask(Ask::FindOrder { profile: None, .. }) => "find-order".to_owned(),
        Action::Ask(ask) => match ask {
            Ask::Order(url)
            | Ask::Authorization(url)
            | Ask::Challenge(url)
            | Ask::Finalize(url)
            | Ask::Certificate(url) => format!("{} {}", ask.word(), path(url)),
            Ask::FindOrder { .. } | Ask::NewOrder { .. } => ask.word().to_owned(),
        },
        Action::Publish(all) => format!("publish {}", all.len()),
        Action::Withdraw(all) => format!("withdraw {}", all.len()),
        Action::GiveUp(all) => format!("give-up {}", all.len()),
        Action::Report { trouble, again } => {
            format!("report {} {}", trouble.code(), again.since(START).as_secs())
        }
        Action::Obtained(chain) => format!("obtained {}", chain.intermediates().len()),
    }
}

#[test]
fn an_order_goes_from_what_is_wanted_to_the_chain() {
    let mut it = Table::new(None);
    it.go_to_ready();
    it.check(4, is_order(OrderStatus::Processing), &[], Some(5));
    it.check(5, Event::Tick, &["order order/1"], None);
    it.check(5, is_order(OrderStatus::Valid), &["certificate cert/1"], None);
    let certificate = it.certificate();
    it.check(6, certificate, &["obtained 0"], None);
    assert!(it.order.is_done() && it.order.presented().is_empty());
    it.check(7, Event::Tick, &[], None);
}

#[test]
fn what_is_valid_already_is_not_shown_again() {
    let mut it = Table::new(None);
    it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    let ready = answered(Answered::Made {
        url: url("order/1"),
        body: order_body(OrderStatus::Ready),
        retry_after: None,
    });
    it.check(0, ready, &["keep order/1", "finalize finalize/1"], None);
    it.check(0, is_order(OrderStatus::Valid), &["certificate cert/1"], None);
    let certificate = it.certificate();
    it.check(0, certificate, &["obtained 0"], None);
}

#[test]
fn the_server_says_when_it_is_looked_at_again() {
    let mut it = Table::new(None);
    it.go_to_publishing();
    it.check(2, Event::Published, &["challenge chall/a/http-01"], None);
    let told =
        |secs| answered(Answered::Told { retry_after: Some(RetryAfter::In(Duration::from_secs(secs))) });
    it.check(2, told(7), &["challenge chall/b/http-01"], None);
    it.check(2, told(5), &[], Some(9));
    it.check(9, Event::Tick, &["authorization authz/a"], None);
    let pending = |one, secs| {
        let body = authorization(one, AuthorizationStatus::Pending, ChallengeStatus::Processing);
        answered(Answered::Authorization { body, retry_after: Some(RetryAfter::At(at(secs))) })
    };
    it.check(9, pending("a", 20), &["authorization authz/b"], None);
    it.check(9, pending("b", 15), &[], Some(20));
}

#[test]
fn what_is_not_published_by_all_within_a_minute_is_withdrawn() {
    let mut late = Table::new(None);
    late.go_to_publishing();
    late.check(59, Event::Tick, &[], Some(60));
    let done = ["keep order/1 +2", "withdraw 2", "report not-published 90"];
    late.check(60, Event::Tick, &done, Some(90));
    late.check(61, Event::Published, &[], Some(90));
    late.check(62, late.none_withdrawn(), &[], Some(90));
    late.check(90, Event::Tick, &["order order/1"], Some(122));
    late.check(122, Event::Tick, &["withdraw 2"], Some(182));
    late.check(123, Event::Withdrawn, &["keep order/1"], None);

    let mut refused = Table::new(None);
    refused.go_to_publishing();
    let done = ["keep order/1 +2", "withdraw 2", "report not-published 35"];
    refused.check(5, Event::NotPublished("edge-1 refuses it".to_owned()), &done, Some(35));
    refused.check(5, Event::Withdrawn, &["keep order/1"], Some(35));
    // Somebody repaired it: it is tried at once.
    refused.check(9, Event::Hurry, &["order order/1"], None);
}

#[test]
fn a_withdrawal_that_ends_well_says_nothing_of_the_one_after_it() {
    let mut before = Table::new(None);
    before.go_to_publishing();
    let mut it = Table::new(Some(before.order.saved()));
    it.check(5, Event::Tick, &["order order/1"], None);
    it.check(5, is_order(OrderStatus::Pending), &["authorization authz/a"], None);
    it.check(5, is_authorization("a", AuthorizationStatus::Valid), &["authorization authz/b"], None);
    let event = is_authorization("b", AuthorizationStatus::Pending);
    it.check(5, event, &["withdraw 1", "keep order/1 +2", "publish 1"], Some(65));
    it.check(5, it.none_withdrawn(), &[], Some(65));
    let done = ["withdraw 1", "keep order/1 +2", "withdraw 2", "report not-published 95"];
    it.check(65, Event::Tick, &done, Some(95));
    // The first worked, the second did not.
    it.check(65, Event::Withdrawn, &[], Some(95));
    assert_eq!(it.order.presented().len(), 2);
    it.check(70, it.none_withdrawn(), &[], Some(95));
    it.check(95, Event::Tick, &["order order/1"], Some(130));
    it.check(130, Event::Tick, &["withdraw 2"], Some(190));
    it.check(130, Event::Withdrawn, &["keep order/1"], None);
    assert!(it.order.presented().is_empty());
}

#[test]
fn what_is_withdrawn_is_not_withdrawn_again_with_what_is_not() {
    let mut it = Table::new(None);
    it.go_to_publishing();
    let done = ["keep order/1 +2", "withdraw 2", "report not-published 35"];
    it.check(5, Event::NotPublished("edge-1 refuses it".to_owned()), &done, Some(35));
    let mut left = it.order.presented();
    left.truncate(1);
    it.check(5, Event::NotWithdrawn(left.clone()), &["keep order/1 +1"], Some(35));
    it.check(35, Event::Tick, &["order order/1"], Some(65));
    it.check(65, Event::Tick, &["withdraw 1"], Some(125));
    it.check(66, Event::NotWithdrawn(left), &[], Some(126));
}

#[test]
fn what_cannot_be_withdrawn_does_not_grow_without_bound() {
    let mut before = Table::new(None);
    before.go_to_publishing();
    let mut saved = before.order.saved();
    let old = |number: usize| {
        let token = format!("{number:043}");
        Presented::new(name("a.example"), ChallengeKind::Http01, &token, THUMBPRINT)
    };
    saved.presented = (0..300).map(old).chain(saved.presented).collect();
    let mut it = Table::new(Some(saved));
    it.check(5, Event::Tick, &["order order/1"], None);
    it.check(5, is_order(OrderStatus::Pending), &["authorization authz/a"], None);
    it.check(5, is_authorization("a", AuthorizationStatus::Pending), &["authorization authz/b"], None);
    let event = is_authorization("b", AuthorizationStatus::Pending);
    // All of it is tried once more before the oldest is given up.
    let done = ["withdraw 300", "give-up 201", "keep order/1 +101", "publish 2"];
    it.check(5, event, &done, Some(65));
    let presented = it.order.presented();
    assert!(presented.contains(&old(299)) && !presented.contains(&old(200)), "the oldest go");
    assert!(serde_json::to_string(&presented).unwrap().len() <= MAX_LEAVING + 512);
    it.check(6, it.none_withdrawn(), &[], Some(65));
}

#[test]
fn a_name_that_fails_ends_the_order_and_the_next_one_is_made_later() {
    let mut it = Table::new(None);
    it.go_to_validation();
    it.check(3, Event::Tick, &["authorization authz/a"], None);
    it.check(3, is_authorization("a", AuthorizationStatus::Valid), &["authorization authz/b"], None);
    let mut body = authorization("b", AuthorizationStatus::Invalid, ChallengeStatus::Invalid);
    body.challenges[1].problem = Some(Problem::new(ProblemKind::Connection, "refused"));
    let failed = answered(Answered::Authorization { body, retry_after: None });
    it.check(3, failed, &["keep +2", "withdraw 2", "report connection 303"], Some(63));
    assert!(it.order.failures().last().unwrap().text.contains("b.example"));
    it.check(4, Event::Withdrawn, &["keep"], Some(303));
    it.check(303, Event::Tick, &["keep asking", "new-order replacing"], None);
    assert_eq!(it.order.failures().count("connection"), 1);
}

#[test]
fn an_invalid_order_is_asked_why() {
    let mut it = Table::new(None);
    it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    let body = order_body(OrderStatus::Invalid);
    let made = answered(Answered::Made { url: url("order/1"), body, retry_after: None });
    it.check(0, made, &["keep order/1", "authorization authz/a"], None);
    it.check(0, is_authorization("a", AuthorizationStatus::Valid), &["authorization authz/b"], None);
    let mut body = authorization("b", AuthorizationStatus::Invalid, ChallengeStatus::Invalid);
    body.challenges[0].problem = Some(Problem::new(ProblemKind::Caa, "forbidden"));
    let failed = answered(Answered::Authorization { body, retry_after: None });
    it.check(0, failed, &["keep", "report caa 300"], Some(300));
}

#[test]
fn an_order_of_which_no_answer_came_is_looked_for_before_another_is_made() {
    let mut it = Table::new(None);
    it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    it.check(0, Event::Failed(lost()), &["keep asking", "report lost 1"], Some(1));
    it.check(1, Event::Tick, &["find-order"], None);
    let found = Answered::Found(Some((url("order/1"), order_body(OrderStatus::Ready))));
    let done = ["keep order/1", "finalize finalize/1"];
    it.check(1, answered(found), &done, None);

    let mut none = Table::new(Some(Saved { is_asking: true, ..it.order.saved() }));
    none.order.saved.order = None;
    none.order.work = Work::Waiting { at: START, next: Next::Begin };
    none.check(9, Event::Tick, &["find-order"], None);
    none.check(9, answered(Answered::Found(None)), &["keep asking", "new-order replacing"], None);

    // Refused is refused: there is none, and nothing is looked for.
    let mut refused = Table::new(None);
    refused.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    let limited = Trouble::Problem {
        status: 429,
        problem: Problem::new(ProblemKind::RateLimited, "too many"),
        retry_after: Some(RetryAfter::In(Duration::from_secs(5000))),
    };
    refused.check(0, Event::Failed(limited), &["keep", "report rateLimited 5000"], Some(5000));
    refused.check(10, Event::Hurry, &[], Some(5000));
    refused.check(5000, Event::Tick, &["keep asking", "new-order replacing"], None);
}

#[test]
fn another_order_is_made_only_where_the_server_has_no_list() {
    let saved = |profile: Option<&str>| {
        let mut it = Table::new(None);
        it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
        let mut saved = it.order.saved();
        saved.wanted.profile = profile.map(str::to_owned);
        saved
    };
    let looking = || {
        let mut it = Table::new(Some(saved(None)));
        it.check(0, Event::Tick, &["find-order"], None);
        it
    };
    for trouble in [problem(ProblemKind::Malformed), Trouble::not_acme(404, "a page")] {
        looking().check(0, Event::Failed(trouble), &["keep asking", "new-order replacing"], None);
    }
    let origin = || "https://acme.example".to_owned();
    let with_pause = Trouble::Problem {
        status: 403,
        problem: Problem::new(ProblemKind::Unauthorized, "not now"),
        retry_after: Some(RetryAfter::In(Duration::from_secs(50))),
    };
    for (trouble, report, again) in [
        (Trouble::NotBelieved { origin: origin(), reason: "expired".to_owned() }, "not-believed", 3600),
        (Trouble::File { file: "ca.pem".into(), reason: "gone".to_owned() }, "file", 3600),
        (Trouble::Redirected { from: origin(), to: origin() }, "redirected", 3600),
        (with_pause, "unauthorized", 50),
        (lost(), "lost", 1),
    ] {
        let mut it = looking();
        it.check(
            0,
            Event::Failed(trouble),
            &["keep asking", &format!("report {report} {again}")],
            Some(again),
        );
        it.check(again, Event::Tick, &["find-order"], None);
    }
    // Of the profile that is wanted.
    let saved = saved(Some("short"));
    let (certified, wanted) = (Certified::new(), saved.wanted.clone());
    let mut order = Order::new(wanted, Some(saved), certified.key, THUMBPRINT.to_owned(), Vec::new(), START);
    let words: Vec<_> = order.step(Event::Tick, Jitter::NONE, START).iter().map(word).collect();
    assert_eq!(words, ["find-order by short"]);
}

#[test]
fn an_order_that_is_refused_is_made_once_without_what_it_replaces() {
    let begun = || {
        let mut it = Table::new(None);
        it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
        it
    };
    let refused = |kind, status, after: Option<u64>| {
        let retry_after = after.map(|secs| RetryAfter::In(Duration::from_secs(secs)));
        Event::Failed(Trouble::Problem { status, problem: Problem::new(kind, "no"), retry_after })
    };
    // Refused again, it was for something else.
    for (kind, status, report) in [
        (ProblemKind::Malformed, 404, "report malformed 3600"),
        (ProblemKind::Unauthorized, 403, "report unauthorized 300"),
        (ProblemKind::RejectedIdentifier, 400, "report rejectedIdentifier 3600"),
        (ProblemKind::Unknown, 409, "report unknown 3600"),
    ] {
        let mut it = begun();
        it.check(0, refused(kind, status, None), &["keep asking", "new-order"], None);
        let later = it.order.clone();
        it.check(0, made(), &["keep order/1", "authorization authz/a"], None);
        it.order = later;
        let pause = if kind == ProblemKind::Unauthorized { 300 } else { 3600 };
        it.check(0, refused(kind, status, None), &["keep", report], Some(pause));
        let saved: Saved = serde_json::from_str(&serde_json::to_string(&it.order.saved()).unwrap()).unwrap();
        it.check(pause, Event::Tick, &["keep asking", "new-order"], None);
        let mut restarted = Table::new(Some(saved));
        restarted.check(pause, Event::Tick, &["keep asking", "new-order"], None);
    }
    // Not sooner than the server says.
    let mut it = begun();
    it.check(0, refused(ProblemKind::Malformed, 400, Some(50)), &["keep", "report malformed 50"], Some(50));
    it.check(50, Event::Tick, &["keep asking", "new-order"], None);
    // What is about a limit, a nonce, the account or the server's own faults is not about that.
    for (kind, status, done, deadline) in [
        (ProblemKind::RateLimited, 429, ["keep", "report rateLimited 900"], 900),
        (ProblemKind::BadNonce, 400, ["keep", "report badNonce 1"], 1),
        (ProblemKind::AccountDoesNotExist, 400, ["keep", "report accountDoesNotExist 3600"], 3600),
        (ProblemKind::ExternalAccountRequired, 403, ["keep", "report externalAccountRequired 3600"], 3600),
        (ProblemKind::UserActionRequired, 403, ["keep", "report userActionRequired 3600"], 3600),
        (ProblemKind::Malformed, 429, ["keep", "report malformed 3600"], 3600),
        (ProblemKind::Malformed, 500, ["keep asking", "report malformed 3600"], 3600),
    ] {
        let mut it = begun();
        it.check(0, refused(kind, status, None), &done, Some(deadline));
        assert!(!it.order.saved().is_replaces_refused, "{kind} {status}");
    }
}

#[test]
fn a_server_that_breaks_down_over_what_is_replaced_is_asked_without_it() {
    let mut it = Table::new(None);
    it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    let broken = || {
        Event::Failed(Trouble::Problem {
            status: 500,
            problem: Problem::new(ProblemKind::ServerInternal, "no such serial number"),
            retry_after: None,
        })
    };
    let mut now = 0;
    for pause in [1, 2, 4, 8, 16, 32] {
        let report = format!("report serverInternal {}", now + pause);
        it.check(now, broken(), &["keep asking", &report], Some(now + pause));
        now += pause;
        it.check(now, Event::Tick, &["find-order"], None);
        let asked = if pause < 32 { "new-order replacing" } else { "new-order" };
        it.check(now, answered(Answered::Found(None)), &["keep asking", asked], None);
    }
    it.check(now, made(), &["keep order/1", "authorization authz/a"], None);
    assert_eq!(it.order.saved().breakdowns, 0, "they are counted in a row");
}

#[test]
fn a_certificate_that_was_replaced_before_is_not_named_again() {
    let mut it = Table::new(None);
    it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    let event = Event::Failed(problem(ProblemKind::AlreadyReplaced));
    it.check(0, event, &["keep asking", "new-order"], None);
    it.check(
        0,
        Event::Failed(problem(ProblemKind::ServerInternal)),
        &["keep", "report serverInternal 1"],
        Some(1),
    );
    it.check(1, Event::Tick, &["keep asking", "new-order"], None);
}

#[test]
fn it_goes_on_from_what_was_stored() {
    let mut it = Table::new(None);
    it.go_to_publishing();
    let stored = serde_json::to_string(&it.order.saved()).unwrap();
    let saved = || Some(serde_json::from_str::<Saved>(&stored).unwrap());
    // The same challenges are published again, which changes nothing, and are told.
    let mut same = Table::new(saved());
    same.check(5, Event::Tick, &["order order/1"], None);
    same.check(5, is_order(OrderStatus::Pending), &["authorization authz/a"], None);
    same.check(5, is_authorization("a", AuthorizationStatus::Pending), &["authorization authz/b"], None);
    let event = is_authorization("b", AuthorizationStatus::Pending);
    same.check(5, event, &["keep order/1 +2", "publish 2"], Some(65));
    // It was decided meanwhile: nothing needs to be published any more.
    let mut ready = Table::new(saved());
    ready.check(5, Event::Tick, &["order order/1"], None);
    ready.check(5, is_order(OrderStatus::Ready), &["withdraw 2", "finalize finalize/1"], Some(65));
    // The server has forgotten it.
    let mut gone = Table::new(saved());
    gone.check(5, Event::Tick, &["order order/1"], None);
    let event = Event::Failed(problem(ProblemKind::Malformed));
    gone.check(5, event, &["keep +2", "withdraw 2", "report malformed 3605"], Some(65));
    // Too long ago: withdrawn first.
    let mut old = Table::new(saved());
    old.check(600, Event::Tick, &["withdraw 2", "order order/1"], Some(660));
    // Of another certificate: its order is none of ours, and what it published is withdrawn.
    let foreign = || Wanted { profile: Some("other".to_owned()), ..wanted() };
    let other = Saved { wanted: foreign(), ..saved().unwrap() };
    let mut fresh = Table::new(Some(other));
    let done = ["withdraw 2", "keep asking +2", "new-order replacing"];
    fresh.check(5, Event::Tick, &done, Some(65));
    // What the server said holds for whatever is asked.
    let limited = Trouble::Problem {
        status: 429,
        problem: Problem::new(ProblemKind::RateLimited, "too many"),
        retry_after: Some(RetryAfter::In(Duration::from_secs(5000))),
    };
    let mut failures = Failures::default();
    failures.note(&problem(ProblemKind::Caa), Jitter::NONE, START);
    failures.note(&limited, Jitter::NONE, START);
    let other = Saved { wanted: foreign(), presented: Vec::new(), failures, ..saved().unwrap() };
    let mut later = Table::new(Some(other));
    assert_eq!((later.order.deadline(), later.order.failures().total()), (Some(at(5000)), 0));
    later.check(10, Event::Hurry, &[], Some(5000));
}

#[test]
fn faults_on_the_way_count_no_more_when_the_request_works_again_after_a_kill_too() {
    let mut it = Table::new(None);
    it.go_to_ready();
    it.check(4, Event::Failed(lost()), &["keep order/1", "report lost 5"], Some(5));
    it.check(5, Event::Tick, &["order order/1"], None);
    it.check(5, Event::Failed(lost()), &["keep order/1", "report lost 7"], Some(7));
    let stored = serde_json::to_string(&it.order.saved()).unwrap();
    let mut next = Table::new(Some(serde_json::from_str(&stored).unwrap()));
    next.check(7, Event::Tick, &["order order/1"], None);
    next.check(7, is_order(OrderStatus::Processing), &[], Some(8));
    assert_eq!(next.order.failures().total(), 0);
    next.check(8, Event::Tick, &["order order/1"], None);
    next.check(8, Event::Failed(lost()), &["keep order/1", "report lost 9"], Some(9));
    // What was stored before requests were remembered is read as well.
    let mut old: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert!(old.as_object_mut().unwrap().remove("stumbled").is_some());
    assert_eq!(serde_json::from_value::<Saved>(old).unwrap().failures.count("lost"), 2);
}

#[test]
fn faults_on_the_way_leave_the_challenge_where_it_is_for_ten_minutes() {
    let mut it = Table::new(None);
    it.go_to_validation();
    it.check(3, Event::Tick, &["authorization authz/a"], None);
    it.check(3, Event::Failed(lost()), &["keep order/1 +2", "report lost 4"], Some(4));
    it.check(4, Event::Tick, &["order order/1"], None);
    it.check(4, is_order(OrderStatus::Pending), &["authorization authz/a"], None);
    let processing = |one| {
        let body = authorization(one, AuthorizationStatus::Pending, ChallengeStatus::Processing);
        answered(Answered::Authorization { body, retry_after: Some(RetryAfter::In(MAX_RETRY_AFTER)) })
    };
    it.check(4, processing("a"), &["authorization authz/b"], None);
    it.check(4, processing("b"), &[], Some(600));
    it.check(600, Event::Tick, &["keep order/1 +2", "withdraw 2", "report stuck 601"], Some(601));
}

#[test]
fn after_ten_minutes_it_is_withdrawn_though_each_answer_would_bring_another_request() {
    let done = ["keep order/1 +2", "withdraw 2", "report stuck 601"];
    let told = || {
        let mut it = Table::new(None);
        it.go_to_publishing();
        it.check(2, Event::Published, &["challenge chall/a/http-01"], None);
        it
    };
    // Told of one, and the next is not told.
    let mut early = told();
    early.check(599, is_told(), &["challenge chall/b/http-01"], None);
    let mut late = told();
    late.check(600, is_told(), &done, Some(601));
    late.check(600, Event::Withdrawn, &["keep order/1"], Some(601));
    late.check(601, Event::Tick, &["order order/1"], None);
    let mut refused = told();
    refused.check(600, Event::Failed(problem(ProblemKind::Malformed)), &done, Some(601));
    // One authorization was looked at, and the next is not; or both are valid, and the order is looked at when nothing
    // is published any more.
    let looking = || {
        let mut it = Table::new(None);
        it.go_to_validation();
        it.check(3, Event::Tick, &["authorization authz/a"], None);
        it
    };
    looking().check(600, is_authorization("a", AuthorizationStatus::Valid), &done, Some(601));
    looking().check(600, is_authorization("a", AuthorizationStatus::Pending), &done, Some(601));
    let mut valid = looking();
    valid.check(3, is_authorization("a", AuthorizationStatus::Valid), &["authorization authz/b"], None);
    valid.check(600, is_authorization("b", AuthorizationStatus::Valid), &done, Some(601));
    // Nor is it published again, after a fault that leaves it unknown whether it is.
    let mut it = looking();
    it.check(3, Event::Failed(lost()), &["keep order/1 +2", "report lost 4"], Some(4));
    it.check(4, Event::Tick, &["order order/1"], None);
    let mut again = Table::new(Some(it.order.saved()));
    again.check(4, Event::Tick, &["order order/1"], None);
    again.check(4, is_order(OrderStatus::Pending), &["authorization authz/a"], None);
    again.check(4, is_authorization("a", AuthorizationStatus::Pending), &["authorization authz/b"], None);
    again.check(600, is_authorization("b", AuthorizationStatus::Pending), &done, Some(601));
    // What is ready needs nothing published, and goes on.
    it.check(600, is_order(OrderStatus::Ready), &["withdraw 2", "finalize finalize/1"], Some(660));
}

#[test]
fn a_way_that_the_server_does_not_offer_is_named_with_those_that_it_offers() {
    let mut it = Table::new(None);
    it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
    it.check(0, made(), &["keep order/1", "authorization authz/a"], None);
    let mut body = authorization("a", AuthorizationStatus::Pending, ChallengeStatus::Pending);
    body.challenges.truncate(1);
    body.offered = vec!["dns-01".to_owned()];
    let event = answered(Answered::Authorization { body, retry_after: None });
    it.check(0, event, &["authorization authz/b"], None);
    let event = is_authorization("b", AuthorizationStatus::Pending);
    it.check(0, event, &["keep", "report not-offered 3600"], Some(3600));
    let text = &it.order.failures().last().unwrap().text;
    assert_eq!(text, "the server offers no http-01 for a.example, but dns-01");
    let wrong = Wanted::try_new(url("acct/1"), names(&["*.a.example"]), ChallengeKind::Http01);
    assert!(wrong.unwrap_err().to_string().starts_with("http-01 cannot show that *.a.example"));
}

#[test]
fn nothing_is_published_for_a_name_that_was_not_ordered() {
    for status in [AuthorizationStatus::Pending, AuthorizationStatus::Valid, AuthorizationStatus::Invalid] {
        let mut it = Table::new(None);
        it.check(0, Event::Tick, &["keep asking", "new-order replacing"], None);
        it.check(0, made(), &["keep order/1", "authorization authz/a"], None);
        it.check(0, is_authorization("a", AuthorizationStatus::Pending), &["authorization authz/b"], None);
        it.check(0, is_authorization("victim", status), &["keep", "report not-acme 3600"], Some(3600));
        let text = &it.order.failures().last().unwrap().text;
        assert!(text.ends_with("an authorization of victim.example, which was not ordered"), "{text}");
    }
    // Nor in a later round, when the others are published.
    let mut it = Table::new(None);
    it.go_to_validation();
    it.check(3, Event::Tick, &["authorization authz/a"], None);
    let event = is_authorization("victim", AuthorizationStatus::Pending);
    it.check(3, event, &["keep +2", "withdraw 2", "report not-acme 3603"], Some(63));
    assert!(it.order.presented().iter().all(|one| one.name != name("victim.example")));

    // Of a wildcard it is the name below which it stands.
    let wanted = Wanted::try_new(url("acct/1"), names(&["*.a.example"]), ChallengeKind::Dns01).unwrap();
    let key = Certified::new().key;
    let mut it = Order::new(wanted, None, key, THUMBPRINT.to_owned(), Vec::new(), START);
    let body = OrderBody {
        names: vec![name("*.a.example")],
        authorizations: vec![url("authz/a")],
        ..order_body(OrderStatus::Pending)
    };
    let made = Answered::Made { url: url("order/1"), body, retry_after: None };
    let mut words = Vec::new();
    for event in [Event::Tick, answered(made), is_authorization("a", AuthorizationStatus::Pending)] {
        words.extend(it.step(event, Jitter::NONE, START).iter().map(word));
    }
    let expected =
        ["keep asking", "new-order", "keep order/1", "authorization authz/a", "keep order/1 +1", "publish 1"];
    assert_eq!(words, expected);
}

#[test]
fn another_chain_is_looked_for_where_the_first_leads_elsewhere() {
    let (stranger, certified) = (Certified::new(), Certified::new());
    let good = certified.pem.clone();
    let mut it = Table::anchored(vec![certified.root.clone()], certified);
    it.go_to_ready();
    it.check(4, is_order(OrderStatus::Valid), &["certificate cert/1"], None);
    // A chain with a link that does not fit, and two others.
    let mut broken = good.clone();
    broken.extend_from_slice(&good);
    let alternates = vec![url("cert/1/alternate/1"), url("cert/1/alternate/2")];
    let event = answered(Answered::Certificate { pem: broken.clone(), alternates: alternates.clone() });
    it.check(4, event, &["certificate cert/1/alternate/1"], None);
    let event = answered(Answered::Certificate { pem: broken.clone(), alternates: alternates.clone() });
    it.check(4, event, &["certificate cert/1/alternate/2"], None);
    let event = answered(Answered::Certificate { pem: good.clone(), alternates });
    it.check(4, event, &["obtained 0"], None);

    // None leads to the anchor: it is kept, and looked at again later.
    let certified =
        Certified { pem: good.clone(), key: it.certified.key.clone(), root: stranger.root.clone() };
    let mut never = Table::anchored(vec![stranger.root], certified);
    never.go_to_ready();
    never.check(4, is_order(OrderStatus::Valid), &["certificate cert/1"], None);
    let event = answered(Answered::Certificate { pem: good, alternates: Vec::new() });
    never.check(4, event, &["keep order/1", "report certificate-refused 3604"], Some(3604));
}

#[test]
fn a_certificate_of_another_key_is_not_taken() {
    let mut it = Table::new(None);
    it.go_to_ready();
    it.check(4, is_order(OrderStatus::Valid), &["certificate cert/1"], None);
    let event = answered(Answered::Certificate {
        pem: Certified::new().pem,
        alternates: vec![url("cert/1/alternate/1")],
    });
    it.check(4, event, &["keep", "report certificate-refused 3604"], Some(3604));
}

#[test]
fn it_says_what_the_server_is_waited_for_and_nothing_while_it_is_asked() {
    let mut it = Table::new(None);
    it.go_to_publishing();
    assert_eq!(it.order.waits_for(), None);
    it.check(2, Event::Published, &["challenge chall/a/http-01"], None);
    it.check(2, is_told(), &["challenge chall/b/http-01"], None);
    it.check(2, is_told(), &[], Some(3));
    assert_eq!(it.order.waits_for(), Some("the server looks whether the names are ours"));
    it.check(3, Event::Tick, &["authorization authz/a"], None);
    assert_eq!(it.order.waits_for(), None);
    it.check(3, is_authorization("a", AuthorizationStatus::Valid), &["authorization authz/b"], None);
    it.check(3, is_authorization("b", AuthorizationStatus::Valid), &["order order/1"], None);
    it.check(3, is_order(OrderStatus::Pending), &[], Some(5));
    assert_eq!(it.order.waits_for(), Some("the server has all that it asked for, and has not gone on yet"));
    it.check(5, Event::Tick, &["order order/1"], None);
    it.check(5, is_order(OrderStatus::Ready), &["withdraw 2", "finalize finalize/1"], Some(65));
    it.check(5, Event::Withdrawn, &["keep order/1"], None);
    it.check(5, is_order(OrderStatus::Processing), &[], Some(6));
    assert_eq!(it.order.waits_for(), Some("the server makes the certificate"));
    // What failed is said elsewhere.
    it.check(6, Event::Tick, &["order order/1"], None);
    it.check(6, Event::Failed(lost()), &["keep order/1", "report lost 7"], Some(7));
    assert_eq!(it.order.waits_for(), None);
}

#[test]
fn an_order_that_does_not_move_is_told_and_looked_at_more_slowly() {
    let mut it = Table::new(None);
    it.go_to_ready();
    let mut now = 4;
    it.check(now, is_order(OrderStatus::Processing), &[], Some(5));
    let mut pauses = Vec::new();
    loop {
        let next = it.order.deadline().unwrap().since(START).as_secs();
        pauses.push(next - now);
        now = next;
        let asked = it.order.step(Event::Tick, Jitter::NONE, at(now));
        assert_eq!(asked.iter().map(word).collect::<Vec<_>>(), ["order order/1"]);
        let actions = it.order.step(is_order(OrderStatus::Processing), Jitter::NONE, at(now));
        if !actions.is_empty() {
            let text = format!("report stuck {}", now + 1);
            assert_eq!(actions.iter().map(word).collect::<Vec<_>>(), ["keep order/1".to_owned(), text]);
            break;
        }
    }
    assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
    // It is the same order all the time.
    it.check(now + 1, Event::Tick, &["order order/1"], None);
}

#[test]
fn it_is_looked_at_each_hour_and_when_it_expires_however_long_the_server_wants_to_be_left_alone() {
    let processing = |after: RetryAfter, expires: u64| {
        let body = OrderBody { expires: Some(at(expires)), ..order_body(OrderStatus::Processing) };
        answered(Answered::Order { body, retry_after: Some(after) })
    };
    let week = RetryAfter::In(MAX_RETRY_AFTER);
    let mut it = Table::new(None);
    it.go_to_ready();
    it.check(4, processing(week, 9000), &[], Some(3604));
    it.check(3604, Event::Tick, &["order order/1"], None);
    it.check(3604, processing(RetryAfter::At(at(900_000)), 9000), &[], Some(7204));
    it.check(7204, Event::Tick, &["order order/1"], None);
    it.check(7204, processing(week, 9000), &[], Some(9000));
    it.check(9000, Event::Tick, &["order order/1"], None);
    it.check(9000, processing(week, 9000), &["keep", "report stuck 9001"], Some(9001));
    // Less is what the server says.
    let mut it = Table::new(None);
    it.go_to_ready();
    it.check(4, processing(RetryAfter::In(Duration::from_secs(3000)), 90_000), &[], Some(3004));
}

#[test]
fn an_order_that_goes_to_and_fro_is_told_as_one_that_does_not_move() {
    let mut it = Table::new(None);
    it.go_to_ready();
    let (mut secs, mut looks) = (4, 0);
    let mut status = OrderStatus::Processing;
    loop {
        let actions = it.order.step(is_order(status), Jitter::NONE, at(secs));
        let words: Vec<_> = actions.iter().map(word).collect();
        if words.last().is_some_and(|word| word.starts_with("report")) {
            assert_eq!(words, ["keep order/1".to_owned(), format!("report stuck {}", secs + 1)]);
            break;
        }
        looks += 1;
        assert!(looks < 200, "it is never told");
        if words == ["finalize finalize/1"] {
            status = OrderStatus::Processing;
            continue;
        }
        assert_eq!(words, [""; 0]);
        secs = it.order.deadline().unwrap().since(START).as_secs();
        it.check(secs, Event::Tick, &["order order/1"], None);
        status = OrderStatus::Ready;
    }
    assert!(looks > 100, "sixty looks, and as many requests: {looks}");
}

#[test]
fn to_hurry_ends_any_pause_but_that_of_a_limit() {
    // What the server works on is looked at now.
    let mut it = Table::new(None);
    it.go_to_validation();
    it.check(2, Event::Hurry, &["authorization authz/a"], None);
    // While it is asked there is nothing to hurry.
    it.check(2, Event::Hurry, &[], None);
    let mut it = Table::new(None);
    it.go_to_ready();
    let body = order_body(OrderStatus::Processing);
    let retry_after = Some(RetryAfter::In(Duration::from_secs(3000)));
    it.check(4, answered(Answered::Order { body, retry_after }), &[], Some(3004));
    it.check(7, Event::Hurry, &["order order/1"], None);
    // Of a limit it does not, whatever is waited for.
    let limited = Trouble::Problem {
        status: 429,
        problem: Problem::new(ProblemKind::RateLimited, "too many"),
        retry_after: Some(RetryAfter::In(Duration::from_secs(5000))),
    };
    it.check(8, Event::Failed(limited), &["keep order/1", "report rateLimited 5008"], Some(5008));
    it.check(9, Event::Hurry, &[], Some(5008));
    it.check(5008, Event::Tick, &["order order/1"], None);
}
