//! How one certificate is obtained (PURE): an order, its names shown to be ours, the request, the certificate. It goes
//! on from what was stored after a kill at any step, and tries again with pauses when something fails.
//!
//! ```text
//! Begin --no order--> (Keep) NewOrder --> (Keep) --pending--> Authorization... --> (Keep) Publish --Published-->
//!   |  '--it is not known whether there is one--> FindOrder                        '--late--> Withdraw, later
//!   '--an order--> Order --ready--> Withdraw, Finalize --processing--> Order --valid--> Certificate --> Obtained
//!                                                      Challenge... --> Authorization... --valid--> Order
//!                    '--invalid, gone, expired--> Withdraw, (Keep), later: NewOrder
//! ```
//!
//! At most one order becomes valid: a request for a certificate goes to the one order whose URL is stored, and another
//! order is made only after that one is known to be of no use.

mod vocabulary;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use certs::{Certificate, PublicKey, Timestamp};

pub use self::vocabulary::{Action, Answered, Ask, Event, Saved, Wanted, WantedError};
use crate::{
    AuthorizationBody, AuthorizationStatus, ChallengeStatus, Failures, Jitter, OrderBody, OrderStatus, Pace,
    Presented, Problem, ProblemKind, RetryAfter, Trouble, Url,
    check::{self, Asked, Refusal},
};

/// How long everybody has to publish a challenge.
pub const PUBLISH_WITHIN: Duration = Duration::from_secs(60);
/// How long a challenge is published, whatever the server does: then nothing more is asked or published for it. What is
/// under way just then is waited for.
pub const MAX_PRESENTED: Duration = Duration::from_secs(600);
/// The longest pause between two looks at something that the server works on, where it names none.
pub const MAX_POLL: Duration = Duration::from_secs(30);
/// The longest pause between two looks where the server names one.
pub const MAX_LOOK: Duration = Duration::from_secs(3600);
/// How often it is looked at before that counts as a failure.
const MAX_POLLS: u32 = 60;
/// How often in a row a server may break down over an order before it is made without what it replaces.
const MAX_BREAKDOWNS: u32 = 5;
/// How much of what could not be withdrawn is kept beside what is presented, in octets as it is stored: whoever stores
/// an order has a bound, and what is left of orders before must not be why it is refused.
pub const MAX_LEAVING: usize = 16 * 1024;
/// How soon it is withdrawn again, when that did not work.
const WITHDRAW_AGAIN: Duration = Duration::from_secs(60);

const OVERDUE: Trouble = Trouble::Stuck("a challenge was published for ten minutes");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Begin,
    Order,
    Authorizations,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Work {
    Waiting { at: Timestamp, next: Next },
    Asking(Ask),
    Publishing { until: Timestamp },
    Done,
}

/// One certificate, from what is wanted to the chain.
#[derive(Debug, Clone)]
pub struct Order {
    saved: Saved,
    key: PublicKey,
    thumbprint: String,
    anchors: Vec<Certificate>,
    work: Work,
    /// The order as it was seen last.
    body: Option<OrderBody>,
    /// Its authorizations as they were seen last.
    seen: BTreeMap<Url, AuthorizationBody>,
    /// Those that are still to be looked at in this round.
    left: Vec<Url>,
    /// Challenges whose being published the server was told, or is to be told next.
    told: BTreeSet<Url>,
    telling: Vec<Url>,
    /// Whether what is presented is published everywhere, as far as this process knows.
    is_published: bool,
    /// Whether it is only to be found out why the order failed.
    is_explaining: bool,
    /// Whether all authorizations were seen to be valid.
    is_settled: bool,
    polls: u32,
    /// How far the order was since it was last begun or gone on with.
    furthest: Option<OrderStatus>,
    /// The pause that the server asked for in this round.
    asked_pause: Option<Duration>,
    /// What is to be withdrawn until somebody says that it is.
    leaving: Vec<Presented>,
    withdraw_at: Option<Timestamp>,
    /// How many withdrawals nobody has answered: one may begin before it is known how the one before ended.
    withdrawing: u32,
    alternates: Option<(Refusal, Vec<Url>)>,
}

impl Order {
    /// Begins, or goes on from what was stored. What was stored of another certificate, or of another account, is
    /// withdrawn and dropped, but for when the server lets us come again. `key` is that of the certificate, stored by the caller; `thumbprint` names that of the
    /// account. The chain must lead to one of the `anchors`, if there are any.
    #[must_use]
    pub fn new(
        wanted: Wanted,
        saved: Option<Saved>,
        key: PublicKey,
        thumbprint: String,
        anchors: Vec<Certificate>,
        now: Timestamp,
    ) -> Self {
        let fresh = Saved {
            wanted: wanted.clone(),
            is_asking: false,
            order: None,
            is_replaces_refused: false,
            breakdowns: 0,
            presented: Vec::new(),
            presented_at: None,
            failures: Failures::default(),
            stumbled: None,
        };
        let saved = match saved {
            None => fresh,
            Some(saved) if saved.wanted == wanted => saved,
            Some(other) => Saved {
                presented: other.presented,
                presented_at: other.presented_at,
                failures: other.failures.only_what_was_said(),
                ..fresh
            },
        };
        let at = saved.failures.next().unwrap_or(now).max(now);
        Self {
            saved,
            key,
            thumbprint,
            anchors,
            work: Work::Waiting { at, next: Next::Begin },
            body: None,
            seen: BTreeMap::new(),
            left: Vec::new(),
            told: BTreeSet::new(),
            telling: Vec::new(),
            is_published: false,
            is_explaining: false,
            is_settled: false,
            polls: 0,
            furthest: None,
            asked_pause: None,
            leaving: Vec::new(),
            withdraw_at: None,
            withdrawing: 0,
            alternates: None,
        }
    }

    /// What is stored of it now.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let mut saved = self.saved.clone();
        saved
            .presented
            .extend(self.leaving.iter().filter(|one| !self.saved.presented.contains(one)).cloned());
        saved
    }

    /// What may still be published.
    #[must_use]
    pub fn presented(&self) -> Vec<Presented> {
        self.saved().presented
    }

    /// What failed so far.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.saved.failures
    }

    /// Whether the certificate was obtained.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.work == Work::Done
    }

    /// What the server is waited for, in a few words; `None` while something else is done, or is tried again later.
    #[must_use]
    pub fn waits_for(&self) -> Option<&'static str> {
        match self.work {
            Work::Waiting { next: Next::Authorizations, .. } => {
                Some("the server looks whether the names are ours")
            }
            Work::Waiting { next: Next::Order, .. } => match self.furthest {
                Some(OrderStatus::Processing) => Some("the server makes the certificate"),
                _ => Some("the server has all that it asked for, and has not gone on yet"),
            },
            Work::Waiting { next: Next::Begin, .. }
            | Work::Publishing { .. }
            | Work::Asking(_)
            | Work::Done => None,
        }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let next = match self.work {
            Work::Waiting { at, .. } => Some(at.min(self.presented_until().unwrap_or(Timestamp::MAX))),
            Work::Publishing { until } => Some(until),
            Work::Asking(_) | Work::Done => None,
        };
        [next, self.withdraw_at].into_iter().flatten().min()
    }

    /// What was being withdrawn when it was stored has no time left.
    fn presented_until(&self) -> Option<Timestamp> {
        let until = self.saved.presented_at.map_or(Timestamp::EPOCH, |at| at + MAX_PRESENTED);
        if self.saved.presented.is_empty() { None } else { Some(until) }
    }

    fn is_overdue(&self, now: Timestamp) -> bool {
        self.presented_until().is_some_and(|until| until <= now)
    }

    /// Takes one event; `jitter` spreads a pause, should there be one.
    pub fn step(&mut self, event: Event, jitter: Jitter, now: Timestamp) -> Vec<Action> {
        let mut turn = Turn { actions: Vec::new(), jitter, now };
        match event {
            Event::Tick => {}
            Event::Hurry => {
                if let Work::Waiting { at, .. } = &mut self.work {
                    *at = self.saved.failures.hurry(now).min(*at);
                }
            }
            // Only the last was of everything.
            Event::Withdrawn | Event::NotWithdrawn(_) if self.withdrawing > 1 => self.withdrawing -= 1,
            Event::Withdrawn => {
                self.withdrawing = 0;
                if self.withdraw_at.take().is_some() {
                    self.leaving.clear();
                    self.keep(&mut turn);
                }
            }
            Event::NotWithdrawn(left) => {
                self.withdrawing = 0;
                self.withdraw_at = self.withdraw_at.map(|_| now + WITHDRAW_AGAIN);
                let before = self.leaving.len();
                self.leaving.retain(|one| left.contains(one));
                if self.leaving.len() < before {
                    self.keep(&mut turn);
                }
            }
            Event::Published => {
                if let Work::Publishing { .. } = self.work {
                    self.is_published = true;
                    self.tell_next(&mut turn);
                }
            }
            Event::NotPublished(why) => {
                if let Work::Publishing { .. } = self.work {
                    let challenge = self.saved.wanted.challenge;
                    self.fail(Trouble::NotPublished { challenge, why }, false, &mut turn);
                }
            }
            Event::Answered(answer) => {
                if let Work::Asking(ask) = self.work.clone() {
                    if self.saved.stumbled.as_deref() == Some(ask.word()) {
                        self.saved.stumbled = None;
                        self.saved.failures.went_on();
                    }
                    self.answered(&ask, *answer, &mut turn);
                }
            }
            Event::Failed(trouble) => {
                if let Work::Asking(ask) = self.work.clone() {
                    self.saved.stumbled = Some(ask.word().to_owned());
                    self.failed(&ask, trouble, &mut turn);
                }
            }
        }
        self.due(&mut turn);
        turn.actions
    }

    /// Begins what is due now.
    fn due(&mut self, turn: &mut Turn) {
        if self.withdraw_at.is_some_and(|at| at <= turn.now) {
            self.withdrawing = 0;
            self.withdraw_leaving(turn);
        }
        match self.work {
            Work::Publishing { until } if until <= turn.now => {
                let why = format!("not by all within {} s", PUBLISH_WITHIN.as_secs());
                let challenge = self.saved.wanted.challenge;
                self.fail(Trouble::NotPublished { challenge, why }, false, turn);
            }
            Work::Waiting { next, .. } if self.is_overdue(turn.now) => {
                if next == Next::Begin {
                    self.withdraw(turn);
                    self.due(turn);
                } else {
                    self.fail(OVERDUE, false, turn);
                }
            }
            Work::Waiting { at, next } if at <= turn.now => match next {
                Next::Begin => self.begin(turn),
                Next::Order => self.look(turn),
                Next::Authorizations => self.round(turn),
            },
            Work::Waiting { .. } | Work::Publishing { .. } | Work::Asking(_) | Work::Done => {}
        }
    }

    fn begin(&mut self, turn: &mut Turn) {
        if self.saved.order.is_some() {
            return self.look(turn);
        }
        // Nothing that is published belongs to an order that is to be made.
        self.withdraw(turn);
        if self.saved.is_asking {
            let Wanted { names, profile, .. } = self.saved.wanted.clone();
            return self.ask(Ask::FindOrder { names, profile }, turn);
        }
        self.make(turn);
    }

    fn make(&mut self, turn: &mut Turn) {
        self.saved.is_asking = true;
        self.keep(turn);
        let Wanted { names, profile, replaces, .. } = self.saved.wanted.clone();
        let replaces = replaces.filter(|_| !self.saved.is_replaces_refused);
        self.ask(Ask::NewOrder { names, profile, replaces }, turn);
    }

    fn look(&mut self, turn: &mut Turn) {
        match self.saved.order.clone() {
            Some(url) => self.ask(Ask::Order(url), turn),
            None => self.begin(turn),
        }
    }

    /// Nothing is asked for the sake of what has been published for long enough.
    fn ask(&mut self, ask: Ask, turn: &mut Turn) {
        if self.is_overdue(turn.now) {
            return self.fail(OVERDUE, false, turn);
        }
        turn.actions.push(Action::Ask(ask.clone()));
        self.work = Work::Asking(ask);
    }

    fn keep(&self, turn: &mut Turn) {
        turn.actions.push(Action::Keep(Box::new(self.saved())));
    }

    /// Looks again when the server says, within the hour, or after 1, 2, 4 ... 30 seconds; and when the order expires.
    fn wait(&mut self, next: Next, turn: &mut Turn) {
        if self.polls >= MAX_POLLS {
            return self.fail(Trouble::Stuck("the order stays as it is"), false, turn);
        }
        let doubled =
            Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(self.polls.min(8))).min(MAX_POLL);
        self.polls = self.polls.saturating_add(1);
        let pause = self.asked_pause.take().unwrap_or(doubled).clamp(Duration::from_secs(1), MAX_LOOK);
        let expires = self.body.as_ref().and_then(|body| body.expires).filter(|expires| *expires > turn.now);
        let at = (turn.now + pause).min(expires.unwrap_or(Timestamp::MAX));
        self.work = Work::Waiting { at, next };
    }

    /// Of several pauses that the server asks for in one round, the longest.
    fn remember(&mut self, retry_after: Option<RetryAfter>, now: Timestamp) {
        self.asked_pause = self.asked_pause.max(retry_after.map(|after| after.from_now(now)));
    }

    fn withdraw(&mut self, turn: &mut Turn) {
        self.is_published = false;
        self.saved.presented_at = None;
        if self.saved.presented.is_empty() {
            return;
        }
        for one in std::mem::take(&mut self.saved.presented) {
            if !self.leaving.contains(&one) {
                self.leaving.push(one);
            }
        }
        self.withdraw_leaving(turn);
    }

    fn withdraw_leaving(&mut self, turn: &mut Turn) {
        self.withdraw_at = Some(turn.now + WITHDRAW_AGAIN);
        self.withdrawing += 1;
        turn.actions.push(Action::Withdraw(self.leaving.clone()));
    }

    /// The order is of no use any more.
    fn drop_order(&mut self) {
        (self.saved.order, self.saved.is_asking, self.body) = (None, false, None);
    }

    fn forget_round(&mut self) {
        self.seen.clear();
        self.left.clear();
        self.told.clear();
        self.telling.clear();
        (self.is_explaining, self.is_settled, self.polls) = (false, false, 0);
        (self.furthest, self.asked_pause, self.alternates) = (None, None, None);
    }

    /// It is tried again later; without the order, if that is of no use any more.
    fn fail(&mut self, trouble: Trouble, drops: bool, turn: &mut Turn) {
        let first = turn.actions.len();
        if drops {
            self.drop_order();
        }
        let is_passing = trouble.pace() == Pace::Soon && !matches!(trouble, Trouble::Stuck(_));
        if drops || !is_passing {
            self.withdraw(turn);
        }
        self.forget_round();
        let again = self.saved.failures.note(&trouble, turn.jitter, turn.now);
        // What the server said is stored before anything that takes time.
        turn.actions.insert(first, Action::Keep(Box::new(self.saved())));
        turn.actions.push(Action::Report { trouble, again });
        self.work = Work::Waiting { at: again, next: Next::Begin };
    }

    fn answered(&mut self, ask: &Ask, answer: Answered, turn: &mut Turn) {
        match (ask, answer) {
            (Ask::FindOrder { .. }, Answered::Found(Some((url, body)))) => self.adopt(url, body, None, turn),
            (Ask::FindOrder { .. }, Answered::Found(None)) => self.make(turn),
            (Ask::NewOrder { .. }, Answered::Made { url, body, retry_after }) => {
                self.saved.breakdowns = 0;
                self.adopt(url, body, retry_after, turn);
            }
            // It has the request, and has not begun: no reason to send it again at once.
            (Ask::Finalize(_), Answered::Order { body, retry_after })
                if body.status == OrderStatus::Ready =>
            {
                self.remember(retry_after, turn.now);
                self.wait(Next::Order, turn);
            }
            (Ask::Order(_) | Ask::Finalize(_), Answered::Order { body, retry_after }) => {
                self.ordered(body, retry_after, turn);
            }
            // Nothing is published for a name that nobody wants a certificate of.
            (Ask::Authorization(_), Answered::Authorization { body, .. })
                if !self.saved.wanted.names.are_shown_by(&body.name) =>
            {
                let why = format!("an authorization of {}, which was not ordered", body.name);
                self.fail(Trouble::not_acme(200, why), true, turn);
            }
            (Ask::Authorization(url), Answered::Authorization { body, retry_after }) => {
                self.remember(retry_after, turn.now);
                self.seen.insert(url.clone(), body);
                self.next_authorization(turn);
            }
            (Ask::Challenge(url), Answered::Told { retry_after }) => {
                self.remember(retry_after, turn.now);
                self.told.insert(url.clone());
                self.tell_next(turn);
            }
            (Ask::Certificate(_), Answered::Certificate { pem, alternates }) => {
                self.certificate(&pem, alternates, turn);
            }
            // The shell answers what it was asked.
            (_, _) => self.fail(Trouble::not_acme(200, "the answer of another request"), false, turn),
        }
    }

    /// The order is ours from now on: stored before anything is asked of it.
    fn adopt(&mut self, url: Url, body: OrderBody, retry_after: Option<RetryAfter>, turn: &mut Turn) {
        self.forget_round();
        (self.saved.order, self.saved.is_asking) = (Some(url), false);
        self.keep(turn);
        self.ordered(body, retry_after, turn);
    }

    fn ordered(&mut self, body: OrderBody, retry_after: Option<RetryAfter>, turn: &mut Turn) {
        if !self.saved.wanted.names.is_exactly(&body.names) {
            return self.fail(Trouble::not_acme(200, "an order of other names"), true, turn);
        }
        if !body.may_be_by(self.saved.wanted.profile.as_deref()) {
            return self.fail(Trouble::not_acme(200, "an order of another profile"), true, turn);
        }
        let is_decided = matches!(body.status, OrderStatus::Valid | OrderStatus::Invalid);
        if !is_decided && body.expires.is_some_and(|expires| expires <= turn.now) {
            return self.fail(Trouble::Stuck("the order has expired"), true, turn);
        }
        self.remember(retry_after, turn.now);
        // To and fro is not on.
        if self.furthest.is_none_or(|before| before < body.status) {
            (self.polls, self.furthest) = (0, Some(body.status));
        }
        self.body = Some(body.clone());
        match body.status {
            OrderStatus::Pending if self.is_settled => self.wait(Next::Order, turn),
            OrderStatus::Pending => self.round(turn),
            OrderStatus::Ready => {
                self.withdraw(turn);
                self.ask(Ask::Finalize(body.finalize), turn);
            }
            OrderStatus::Processing => {
                self.withdraw(turn);
                self.wait(Next::Order, turn);
            }
            OrderStatus::Valid => {
                self.withdraw(turn);
                match body.certificate {
                    Some(url) => self.ask(Ask::Certificate(url), turn),
                    None => {
                        self.fail(Trouble::not_acme(200, "a valid order without a certificate"), true, turn)
                    }
                }
            }
            OrderStatus::Invalid => match body.problem {
                Some(problem) => {
                    let name = problem.subproblems.first().and_then(|one| one.name.clone());
                    self.fail(Trouble::Failed { name, problem }, true, turn);
                }
                None => {
                    self.withdraw(turn);
                    self.is_explaining = true;
                    self.round(turn);
                }
            },
        }
    }

    /// Looks at every authorization that is not known to be valid.
    fn round(&mut self, turn: &mut Turn) {
        let Some(body) = &self.body else { return self.look(turn) };
        let is_valid =
            |url: &Url| self.seen.get(url).is_some_and(|one| one.status == AuthorizationStatus::Valid);
        self.left = body.authorizations.iter().filter(|url| !is_valid(url)).rev().cloned().collect();
        self.next_authorization(turn);
    }

    fn next_authorization(&mut self, turn: &mut Turn) {
        match self.left.pop() {
            Some(url) => self.ask(Ask::Authorization(url), turn),
            None => self.decide(turn),
        }
    }

    /// All authorizations were looked at.
    fn decide(&mut self, turn: &mut Turn) {
        let lost = self
            .seen
            .values()
            .find(|one| !matches!(one.status, AuthorizationStatus::Pending | AuthorizationStatus::Valid));
        if let Some(lost) = lost {
            let trouble = Trouble::Failed { name: Some(lost.name.clone()), problem: reason(lost) };
            return self.fail(trouble, true, turn);
        }
        if self.is_explaining {
            let problem =
                Problem::new(ProblemKind::Unauthorized, "the order is invalid; the server does not say why");
            return self.fail(Trouble::Failed { name: None, problem }, true, turn);
        }
        let pending: Vec<&AuthorizationBody> =
            self.seen.values().filter(|one| one.status == AuthorizationStatus::Pending).collect();
        if pending.is_empty() {
            self.is_settled = true;
            return self.look(turn);
        }
        let kind = self.saved.wanted.challenge;
        let (mut presented, mut telling) = (Vec::new(), Vec::new());
        for one in pending {
            let Some(challenge) = one.challenges.iter().find(|challenge| challenge.kind == kind) else {
                let trouble = Trouble::NotOffered {
                    name: one.name.clone(),
                    wanted: kind,
                    offered: one.offered.clone(),
                };
                return self.fail(trouble, true, turn);
            };
            presented.push(Presented::new(one.name.clone(), kind, &challenge.token, &self.thumbprint));
            if challenge.status == ChallengeStatus::Pending && !self.told.contains(&challenge.url) {
                telling.push(challenge.url.clone());
            }
        }
        presented.sort();
        telling.reverse();
        self.telling = telling;
        let is_there = presented.iter().all(|one| self.saved.presented.contains(one));
        if self.is_published && is_there {
            return self.tell_next(turn);
        }
        self.present(presented, turn);
    }

    /// Stored first: a kill must not leave behind what nobody knows to withdraw.
    fn present(&mut self, presented: Vec<Presented>, turn: &mut Turn) {
        if self.is_overdue(turn.now) {
            return self.fail(OVERDUE, false, turn);
        }
        let (stale, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.saved.presented).into_iter().partition(|one| !presented.contains(one));
        let since = self.saved.presented_at.filter(|_| !kept.is_empty());
        if !stale.is_empty() {
            self.saved.presented = stale;
            self.withdraw(turn);
        }
        self.leaving.retain(|one| !presented.contains(one));
        let given_up = keep_newest(&mut self.leaving, MAX_LEAVING);
        if !given_up.is_empty() {
            turn.actions.push(Action::GiveUp(given_up));
        }
        self.saved.presented = presented.clone();
        self.saved.presented_at = Some(since.unwrap_or(turn.now));
        self.is_published = false;
        self.keep(turn);
        turn.actions.push(Action::Publish(presented));
        self.work = Work::Publishing { until: turn.now + PUBLISH_WITHIN };
    }

    /// Says of the next challenge that it is published; after the last, looks again later.
    fn tell_next(&mut self, turn: &mut Turn) {
        match self.telling.pop() {
            Some(url) => self.ask(Ask::Challenge(url), turn),
            None => self.wait(Next::Authorizations, turn),
        }
    }

    fn certificate(&mut self, pem: &[u8], alternates: Vec<Url>, turn: &mut Turn) {
        let asked = Asked { names: &self.saved.wanted.names, key: &self.key, anchors: &self.anchors };
        let refusal = match check::issued(pem, &asked, turn.now) {
            Ok(chain) => {
                self.saved.failures = Failures::default();
                self.forget_round();
                self.work = Work::Done;
                turn.actions.push(Action::Obtained(chain));
                return;
            }
            Err(refusal) => refusal,
        };
        // Another chain to the same certificate may do; of all, the first is spoken of.
        let (first, mut left) = match self.alternates.take() {
            Some(before) => before,
            None if refusal.is_about_chain() => (refusal, alternates.into_iter().rev().collect()),
            None => (refusal, Vec::new()),
        };
        self.other_chain(first, &mut left, turn);
    }

    fn other_chain(&mut self, first: Refusal, left: &mut Vec<Url>, turn: &mut Turn) {
        match left.pop() {
            Some(url) => {
                self.alternates = Some((first, std::mem::take(left)));
                self.ask(Ask::Certificate(url), turn);
            }
            None => {
                // What leads elsewhere than wanted is a certificate all the same, and the next would be no better.
                let drops = !first.is_about_chain();
                self.fail(Trouble::Refused(first), drops, turn);
            }
        }
    }

    fn failed(&mut self, ask: &Ask, trouble: Trouble, turn: &mut Turn) {
        match ask {
            Ask::FindOrder { .. } => match trouble {
                // It keeps no list, or not for us.
                Trouble::NotAcme { .. } => self.make(turn),
                Trouble::Problem { retry_after: None, .. }
                    if matches!(trouble.pace(), Pace::Validation | Pace::Operator) =>
                {
                    self.make(turn);
                }
                // Nothing is known of its list.
                _ => self.fail(trouble, false, turn),
            },
            Ask::NewOrder { replaces: Some(_), .. } if may_be_about_replaces(&trouble) => {
                self.saved.is_replaces_refused = true;
                // It is refused, so that there is none; without naming it there may be one, when the server lets us.
                if trouble.retry_after().is_some() {
                    return self.fail(trouble, true, turn);
                }
                self.make(turn);
            }
            Ask::NewOrder { replaces, .. } => {
                // Some servers break down over what is to be replaced: a renewal must not stop for that either.
                if replaces.is_some() && trouble.kind() == Some(ProblemKind::ServerInternal) {
                    self.saved.breakdowns = self.saved.breakdowns.saturating_add(1);
                    self.saved.is_replaces_refused |= self.saved.breakdowns > MAX_BREAKDOWNS;
                }
                let drops = !trouble.is_outcome_unknown();
                self.fail(trouble, drops, turn);
            }
            Ask::Order(_) | Ask::Authorization(_) => {
                let drops = is_gone(&trouble);
                self.fail(trouble, drops, turn);
            }
            Ask::Challenge(url) => match &trouble {
                // It was told before, or is decided: the authorization says how.
                Trouble::Problem { problem, .. }
                    if matches!(problem.kind.pace(), Pace::Validation | Pace::Operator) =>
                {
                    self.told.insert(url.clone());
                    self.tell_next(turn);
                }
                _ => self.fail(trouble, false, turn),
            },
            Ask::Finalize(_) => {
                let drops = !trouble.is_outcome_unknown()
                    && !matches!(trouble.pace(), Pace::Soon | Pace::Limit)
                    && trouble.kind().is_some();
                self.fail(trouble, drops, turn);
            }
            Ask::Certificate(_) => match self.alternates.take() {
                Some((first, mut left)) if trouble.pace() != Pace::Soon => {
                    self.other_chain(first, &mut left, turn);
                }
                _ => {
                    let drops = is_gone(&trouble);
                    self.fail(trouble, drops, turn);
                }
            },
        }
    }
}

/// Takes out the first of these until the rest has at most so many octets as it is stored, and answers what was taken.
pub fn keep_newest(all: &mut Vec<Presented>, most: usize) -> Vec<Presented> {
    let octets = |one: &Presented| serde_json::to_string(one).map_or(0, |text| text.len() + 1);
    let mut total: usize = all.iter().map(octets).sum();
    let is_too_much = |one: &&Presented| {
        let is_too_much = total > most;
        total -= octets(one);
        is_too_much
    };
    let count = all.iter().take_while(is_too_much).count();
    all.drain(..count).collect()
}

/// What one step has to do, and with what.
struct Turn {
    actions: Vec<Action>,
    jitter: Jitter,
    now: Timestamp,
}

/// Whether the server does not know what it is asked about: it was deleted, or is of another account.
fn is_gone(trouble: &Trouble) -> bool {
    let Trouble::Problem { status, problem, .. } = trouble else {
        return matches!(trouble, Trouble::NotAcme { status: 404 | 410, .. });
    };
    matches!(
        problem.kind,
        ProblemKind::Malformed | ProblemKind::Unauthorized | ProblemKind::AccountDoesNotExist
    ) || matches!(status, 404 | 410)
}

/// Whether an order may have been refused for the certificate that it names to be replaced. Servers judge that by rules
/// of their own, and say by several kinds of problem that it does not do (RFC 9773 5).
fn may_be_about_replaces(trouble: &Trouble) -> bool {
    let Trouble::Problem { status: 400..=428 | 430..=499, problem, .. } = trouble else { return false };
    let is_about_account = matches!(
        problem.kind,
        ProblemKind::AccountDoesNotExist
            | ProblemKind::BadPublicKey
            | ProblemKind::BadSignatureAlgorithm
            | ProblemKind::ExternalAccountRequired
            | ProblemKind::UserActionRequired
    );
    let is_about_us = matches!(problem.kind.pace(), Pace::Validation | Pace::Operator) && !is_about_account;
    is_about_us || problem.kind == ProblemKind::AlreadyReplaced
}

/// Why an authorization is lost.
fn reason(lost: &AuthorizationBody) -> Problem {
    let said = lost.challenges.iter().find_map(|challenge| challenge.problem.clone());
    said.unwrap_or_else(|| {
        let word = match lost.status {
            AuthorizationStatus::Pending | AuthorizationStatus::Valid | AuthorizationStatus::Invalid => {
                "invalid"
            }
            AuthorizationStatus::Deactivated => "deactivated",
            AuthorizationStatus::Expired => "expired",
            AuthorizationStatus::Revoked => "revoked",
        };
        Problem::new(
            ProblemKind::Unauthorized,
            &format!("the authorization is {word}; the server does not say why"),
        )
    })
}

#[cfg(test)]
mod tests;
