//! An ACME server as an issuer, against a real Pebble: the account that is made there, another key for it, answers
//! that are lost, kills in between, and the mistakes that people make.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use acme::{Client, Settings, Url};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use certs::{Clock, SoftwareSigner, certificates_to_pem};
use fixtures::TestAuthority;
use futures::future::join_all;
use http::Response;
use http_body_util::Full;
use kit::{
    Asked, Challenges, Fault, Pebble, PebbleOptions, Relay, SystemClock, TestWorld, WorldOptions, within,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

/// Until what was begun goes on by itself: at a start at once, and half a minute later where the server may be about
/// to change a key.
const LONG: Duration = Duration::from_secs(90);
/// Where Pebble has its terms.
const TERMS: &str = "data:text/plain,Do%20what%20thou%20wilt";
/// The key of an external account, as Pebble is told it.
const MAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

fn options(with_external: bool) -> PebbleOptions {
    let external = with_external.then(|| ("kid-1".to_owned(), MAC.to_owned()));
    let life = |days: u64| Duration::from_secs(days * 24 * 3600);
    PebbleOptions {
        external_accounts: external.into_iter().collect(),
        profiles: vec![("classic".to_owned(), life(90)), ("short".to_owned(), life(6))],
        ..PebbleOptions::default()
    }
}

/// Flags with what stands there instead.
type Changes<'a> = &'a [(&'a str, &'a str)];

/// The words of `issuer add acme le` that fit, with `changes` in the place of what they name.
fn add(directory: &str, pebble: &Pebble, changes: Changes<'_>) -> Vec<String> {
    let ca_file = pebble.ca_file().display().to_string();
    let mut arguments: Vec<String> = ["issuer", "add", "acme", "le"].map(String::from).to_vec();
    for (flag, value) in [
        ("--directory", directory),
        ("--ca-file", &ca_file),
        ("--contact", "mailto:ops@example.com"),
        ("--agree-terms", TERMS),
        ("--profile", "classic"),
        ("--external-key-id", "kid-1"),
        ("--external-key-file", "mac"),
    ] {
        match changes.iter().find(|(name, _)| *name == flag).map(|(_, changed)| *changed) {
            Some("") => {}
            changed => arguments.extend([flag.to_owned(), changed.unwrap_or(value).to_owned()]),
        }
    }
    arguments
}

/// Without an external account.
const UNBOUND: [(&str, &str); 2] = [("--external-key-id", ""), ("--external-key-file", "")];

async fn run(world: &TestWorld, arguments: &[String]) -> (i32, String, String) {
    world.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

async fn issuers(world: &TestWorld) -> Vec<Value> {
    world.command(&["issuer", "list"]).await.as_array().unwrap().clone()
}

async fn issuer(world: &TestWorld) -> Value {
    let all = issuers(world).await;
    all.iter().find(|one| one["name"] == "le").unwrap_or_else(|| panic!("{all:#?}")).clone()
}

/// Waits until it is known what became of it, and tries the account.
async fn settles(world: &TestWorld) -> Value {
    let settled = within(LONG, "what was begun goes on by itself", async || match issuer(world).await {
        one if one["state"] == "ready" => Ok(one),
        one => Err(one),
    })
    .await;
    let (code, out, words) = world.run(&["issuer", "test", "le"]).await;
    assert!(code == 0 && out.contains("is found by its key"), "{out} {words}");
    settled
}

async fn restart(world: &mut TestWorld) {
    world.kill().await;
    world.start().await;
    world.read_operator();
}

#[tokio::test(flavor = "multi_thread")]
async fn account_is_made_tried_given_another_key_and_is_there_after_a_restart() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&options(true), &challenges).await else { return };
    let relay = Relay::start(&pebble.identity(), pebble.address(), |_: &Asked| Fault::None).await;
    let mut world = TestWorld::boot("issuer-acme", WorldOptions::default()).await;
    std::fs::write(world.sandbox().path("mac"), MAC).unwrap();
    let directory = pebble.directory_at(relay.address());

    let mut dry = add(&directory, &pebble, &[]);
    dry.push("--dry-run".into());
    let (code, out, words) = run(&world, &dry).await;
    assert!(code == 0 && out.contains("would add issuer le"), "{out} {words}");
    let asked: Vec<_> = relay.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(asked, ["/dir"], "a dry run signs nothing");
    assert_eq!(issuers(&world).await.len(), 1);

    let (code, out, words) = run(&world, &add(&directory, &pebble, &[])).await;
    assert!(code == 0 && out.contains("✓ account"), "{code} {out} {words}");
    let made = issuer(&world).await;
    assert_eq!(
        (&made["kind"], &made["state"], &made["failures"]),
        (&"acme".into(), &"ready".into(), &0.into())
    );
    assert_eq!(made["acme"]["profile"], "classic", "{made:#}");
    let account = made["acme"]["account"].clone();
    assert!(account.as_str().unwrap().starts_with("https://"), "{made:#}");
    let (code, table, _) = world.run(&["issuer", "list", "-o", "table"]).await;
    assert!(code == 0 && table.contains("profile classic"), "{table}");
    assert_eq!(settles(&world).await["acme"]["account"], account);

    let (code, _, words) = run(&world, &add(&directory, &pebble, &[])).await;
    assert!(code == 5 && words.contains("exists already"), "{code} {words}");
    let (code, _, words) = world.run(&["issuer", "migrate", "--to", "le", "--dry-run"]).await;
    assert!(code == 3 && words.contains("gives certificates to edges"), "{code} {words}");

    let change = ["issuer", "credentials", "le", "--new-account-key", "--reason", "of old age"];
    let (code, out, words) = world.run(&change).await;
    assert!(code == 0 && out.contains("another key"), "{code} {out} {words}");
    world.audit_says(&["issuer-set", "key-changed", "of old age"]).await;
    restart(&mut world).await;
    assert_eq!(settles(&world).await["acme"]["account"], account);

    let (code, out, words) = world.run(&["issuer", "remove", "le", "--yes"]).await;
    assert!(code == 0 && out.contains("the key of its account"), "{code} {out} {words}");
    assert_eq!(issuers(&world).await.len(), 1);
    world.audit_says(&["issuer-remove", "le", "done"]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_what_to_do_and_nothing_is_kept() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&options(true), &challenges).await else { return };
    let page = |_: &Asked| Fault::Answer(Response::new(Full::from("<html>welcome</html>")));
    let page = Relay::start(&pebble.identity(), pebble.address(), page).await;
    let world = TestWorld::boot("issuer-acme-bad", WorldOptions::default()).await;
    for (name, text) in
        [("mac", MAC), ("other-mac", "c29tZWJvZHktZWxzZXMta2V5LW9mLTMyLW9jdGV0cw"), ("no-mac", "!")]
    {
        std::fs::write(world.sandbox().path(name), text).unwrap();
    }
    let other = TestAuthority::root("other", SystemClock.now());
    let file = world.sandbox().path("other.pem");
    std::fs::write(&file, certificates_to_pem([other.der()])).unwrap();
    let other = file.display().to_string();
    let closed = format!("https://{}/dir", TestWorld::free_port());
    let (directory, page) = (pebble.directory(), pebble.directory_at(page.address()));
    let wrong = format!("{directory}/elsewhere");
    let cases: [(&str, Changes<'_>, &str); 10] = [
        ("nobody there", &[("--directory", &closed)], "cannot reach"),
        ("somebody else", &[("--ca-file", &other)], "is not believed"),
        ("no such file", &[("--ca-file", "/nowhere/roots.pem")], "/nowhere/roots.pem"),
        ("a page", &[("--directory", &page)], "ACME server"),
        ("another path", &[("--directory", &wrong)], "not an answer of an ACME server"),
        ("no terms", &[("--agree-terms", "")], "--agree-terms data:text/plain"),
        ("other terms", &[("--agree-terms", "https://a.example/terms")], "--agree-terms data:text/plain"),
        ("no such profile", &[("--profile", "long")], "it has classic, short"),
        ("no external account", &UNBOUND, "--external-key-id"),
        ("no key", &[("--external-key-file", "no-mac")], "base64url"),
    ];
    for (what, changes, told) in cases {
        let (code, out, words) = run(&world, &add(&directory, &pebble, changes)).await;
        assert_eq!(code, 1, "{what}: {out} {words}");
        assert!(words.contains(told), "{what}: {words}");
        assert_eq!(issuers(&world).await.len(), 1, "{what} was kept");
    }
    // What only the server knows it says when the account is asked for: then what was stored before is gone again.
    for changes in [[("--external-key-file", "other-mac")], [("--external-key-id", "kid-2")]] {
        let (code, out, words) = run(&world, &add(&directory, &pebble, &changes)).await;
        assert!(code == 1 && words.contains("the server refuses"), "{code} {out} {words}");
        assert!(!words.contains("c29tZWJvZHk"), "{words}");
        assert_eq!(issuers(&world).await.len(), 1, "{changes:?} was kept");
    }
    world.audit_says(&["issuer-set", "refused", "le"]).await;
    world.audit_says(&["issuer-remove", "no account was made"]).await;
    let (code, _, words) = run(&world, &add("http://127.0.0.1:1/dir", &pebble, &[])).await;
    assert!(code == 2 && words.contains("https://"), "{code} {words}");
    let (code, _, words) = world.run(&["issuer", "credentials", "builtin", "--new-account-key"]).await;
    assert!(code == 5 && words.contains("no ACME server"), "{code} {words}");
    world.finish().await;
}

/// What a relay loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// The first answer that makes an account, and everything after it.
    Registration,
    /// Everything from the request for another key on, that included.
    Change,
    /// The same, but that is carried out.
    Changed,
    /// Everything but the directory.
    All,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_or_killed_in_between_the_account_is_found_by_its_key() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&options(false), &challenges).await else { return };
    let lost = Arc::new(Mutex::new(Loses::Nothing));
    let loses = Arc::clone(&lost);
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let mut loses = loses.lock().unwrap();
        let (is_account, is_change) = (asked.path == "/sign-me-up", asked.path == "/rollover-account-key");
        match *loses {
            Loses::Registration if is_account => {
                *loses = Loses::All;
                Fault::LoseReply
            }
            Loses::Change | Loses::Changed if is_change => {
                let fault = if *loses == Loses::Change { Fault::LoseRequest } else { Fault::LoseReply };
                *loses = Loses::All;
                fault
            }
            Loses::All if is_account || is_change => Fault::LoseRequest,
            _ => Fault::None,
        }
    })
    .await;
    let set = |loses| *lost.lock().unwrap() = loses;
    let mut world = TestWorld::boot("issuer-acme-lost", WorldOptions::default()).await;
    let directory = pebble.directory_at(relay.address());
    let wanted = add(&directory, &pebble, &UNBOUND);

    // The account is made, and nobody hears of it: the same command finds it.
    set(Loses::Registration);
    let (code, out, words) = run(&world, &wanted).await;
    assert_eq!(code, 7, "{out} {words}");
    let pending = issuer(&world).await;
    assert_eq!(pending["state"], "registering", "{pending:#}");
    assert!(pending["problem"].as_str().unwrap().contains("no answer"), "{pending:#}");
    let other = add(&directory, &pebble, &[UNBOUND[0], UNBOUND[1], ("--profile", "short")]);
    let (code, _, words) = run(&world, &other).await;
    assert!(code == 5 && words.contains("with other settings"), "{code} {words}");
    set(Loses::Nothing);
    let (code, out, words) = run(&world, &wanted).await;
    assert_eq!(code, 0, "{out} {words}");
    settles(&world).await;
    let (code, _, words) = world.run(&["issuer", "remove", "le", "--yes"]).await;
    assert_eq!(code, 0, "{words}");

    // The same, and the process is killed: the next one finds it.
    set(Loses::Registration);
    assert_eq!(run(&world, &wanted).await.0, 7);
    world.kill().await;
    set(Loses::Nothing);
    world.start().await;
    world.read_operator();
    let account = settles(&world).await["acme"]["account"].clone();

    for loses in [Loses::Change, Loses::Changed] {
        set(loses);
        let change = ["issuer", "credentials", "le", "--new-account-key"];
        let (code, out, words) = world.run(&change).await;
        assert_eq!(code, 7, "{loses:?}: {out} {words}");
        assert_eq!(issuer(&world).await["state"], "changing-key", "{loses:?}");
        world.kill().await;
        set(Loses::Nothing);
        world.start().await;
        world.read_operator();
        assert_eq!(settles(&world).await["acme"]["account"], account, "{loses:?}");
    }
    // One that was changed is changed again.
    let (code, out, words) = world.run(&["issuer", "credentials", "le", "--new-account-key"]).await;
    assert_eq!(code, 0, "{out} {words}");
    assert_eq!(settles(&world).await["acme"]["account"], account);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_a_key_that_the_server_fails_at_ends_and_is_never_said_to_be_done() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&options(false), &challenges).await else { return };
    let status = Arc::new(Mutex::new(None::<u16>));
    let answered = Arc::clone(&status);
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let status = *answered.lock().unwrap();
        match status.filter(|_| asked.path == "/rollover-account-key") {
            Some(status) => {
                let body = Full::from("not here");
                Fault::Answer(Response::builder().status(status).body(body).unwrap())
            }
            None => Fault::None,
        }
    })
    .await;
    let set = |code: Option<u16>| *status.lock().unwrap() = code;
    let world = TestWorld::boot("issuer-acme-change", WorldOptions::default()).await;
    let directory = pebble.directory_at(relay.address());
    let (code, out, words) = run(&world, &add(&directory, &pebble, &UNBOUND)).await;
    assert_eq!(code, 0, "{out} {words}");
    let account = issuer(&world).await["acme"]["account"].clone();
    let change = ["issuer", "credentials", "le", "--new-account-key"];

    // It does not do that: it is known at once, and stays to be seen.
    set(Some(501));
    let (code, out, words) = world.run(&change).await;
    assert!(code == 1 && words.contains("status 501"), "{code} {out} {words}");
    let refused = issuer(&world).await;
    assert_eq!(refused["state"], "ready", "{refused:#}");
    assert!(refused["problem"].as_str().unwrap().contains("status 501"), "{refused:#}");

    // It fails: what became of it is looked at, and the change ends without being asked for again.
    set(Some(503));
    let (code, out, words) = world.run(&change).await;
    assert!(code == 7 && out.contains("is not known yet"), "{code} {out} {words}");
    assert_eq!(issuer(&world).await["state"], "changing-key");
    let ended = within(LONG, "the change ends", async || match issuer(&world).await {
        one if one["problem"].as_str().is_some_and(|problem| problem.contains("has not changed it")) => {
            Ok(one)
        }
        one => Err(one),
    })
    .await;
    assert_eq!(ended["state"], "ready", "{ended:#}");
    world.audit_says(&["issuer-set", "key-not-changed"]).await;

    set(None);
    let (code, out, words) = world.run(&change).await;
    assert!(code == 0 && out.contains("has another key"), "{code} {out} {words}");
    let changed = settles(&world).await;
    assert_eq!((&changed["acme"]["account"], &changed["problem"]), (&account, &Value::Null), "{changed:#}");
    world.finish().await;
}

/// What becomes of one request on the way of a change, and of the flow with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Goes,
    Loses,
    LosesReply,
    /// It is answered by this status instead.
    Refuses(u16),
    /// The server is killed before the request arrives.
    Before,
    /// The server is killed after it was carried out, and before the answer arrives.
    After,
}

const DIRECTORY: &str = "/dir";
const NONCE: &str = "/nonce-plz";
const ACCOUNT: &str = "/sign-me-up";
const CHANGE: &str = "/rollover-account-key";

/// A moment at which the server is killed: what becomes of each request of the flow until then.
type Moment = &'static [(&'static str, Way)];

/// Those that differ most come first.
const MOMENTS: [Moment; 20] = [
    &[(CHANGE, Way::Before)],
    &[(CHANGE, Way::After)],
    &[(CHANGE, Way::Goes), (ACCOUNT, Way::Before)],
    &[(CHANGE, Way::Goes), (ACCOUNT, Way::After)],
    &[(CHANGE, Way::Loses), (ACCOUNT, Way::Goes), (ACCOUNT, Way::After)],
    &[(CHANGE, Way::LosesReply), (ACCOUNT, Way::After)],
    &[(CHANGE, Way::Refuses(400)), (ACCOUNT, Way::Before)],
    &[(DIRECTORY, Way::Before)],
    &[(DIRECTORY, Way::After)],
    &[(NONCE, Way::Before)],
    &[(NONCE, Way::After)],
    &[(CHANGE, Way::Loses), (ACCOUNT, Way::Before)],
    &[(CHANGE, Way::Loses), (ACCOUNT, Way::After)],
    &[(CHANGE, Way::Loses), (ACCOUNT, Way::Goes), (ACCOUNT, Way::Before)],
    &[(CHANGE, Way::LosesReply), (ACCOUNT, Way::Before)],
    &[(CHANGE, Way::Refuses(503)), (ACCOUNT, Way::Before)],
    &[(CHANGE, Way::Refuses(503)), (ACCOUNT, Way::Goes), (ACCOUNT, Way::After)],
    &[(CHANGE, Way::Refuses(400)), (ACCOUNT, Way::Goes), (ACCOUNT, Way::After)],
    &[(CHANGE, Way::Goes), (ACCOUNT, Way::Loses), (ACCOUNT, Way::Before)],
    &[(CHANGE, Way::Goes), (ACCOUNT, Way::LosesReply), (ACCOUNT, Way::After)],
];

/// What one account was asked with.
#[derive(Debug, Default)]
struct Flow {
    left: VecDeque<(&'static str, Way)>,
    /// The public key by which the account was asked for last.
    asked_by: Value,
    /// Keys that it was to get, the last one last, and whether the server was asked to change it.
    offered: Vec<Value>,
    is_carried_out: bool,
}

/// A part of a signed request.
fn part(jws: &Value, name: &str) -> Value {
    let octets = URL_SAFE_NO_PAD.decode(jws[name].as_str().unwrap_or_default()).unwrap();
    serde_json::from_slice(&octets).unwrap_or_default()
}

impl Flow {
    fn judge(&mut self, asked: &Asked) -> Fault {
        let path = asked.path.as_str();
        let jws: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        match path {
            ACCOUNT => self.asked_by = part(&jws, "protected")["jwk"].clone(),
            CHANGE => self.offered.push(part(&part(&jws, "payload"), "protected")["jwk"].clone()),
            _ => {}
        }
        let is_next = self.left.front().is_some_and(|(next, _)| *next == path);
        let way = if is_next { self.left.pop_front().unwrap().1 } else { Way::Goes };
        if path == CHANGE && matches!(way, Way::Goes | Way::LosesReply | Way::After) {
            self.is_carried_out = true;
        }
        match way {
            Way::Goes => Fault::None,
            Way::Loses => Fault::LoseRequest,
            Way::LosesReply => Fault::LoseReply,
            Way::Refuses(status) => {
                let body = r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"no"}"#;
                let body = if status < 500 { Full::from(body) } else { Full::default() };
                Fault::Answer(Response::builder().status(status).body(body).unwrap())
            }
            Way::Before => Fault::HoldRequest,
            Way::After => Fault::HoldReply,
        }
    }
}

/// An account before a proxy of its own.
struct Killed {
    name: String,
    relay: Relay,
    flow: Arc<Mutex<Flow>>,
}

impl Killed {
    async fn start(number: usize, pebble: &Pebble, seen: &watch::Sender<usize>) -> Self {
        let flow = Arc::new(Mutex::new(Flow::default()));
        let (judged, seen) = (Arc::clone(&flow), seen.clone());
        let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
            seen.send_modify(|seen| *seen += 1);
            judged.lock().unwrap().judge(asked)
        })
        .await;
        Self { name: format!("le-{number}"), relay, flow }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap()
    }

    /// Waits until it is known which key the account has, and tries it: the key that the store has now.
    async fn key(&self, world: &TestWorld) -> (Value, Value) {
        let settled = within(LONG, &format!("{} is settled", self.name), async || {
            let all = world.rest().get("/api/v1/issuers").await;
            let of_it = |one: &&Value| one["name"] == self.name.as_str();
            match all["items"].as_array().into_iter().flatten().find(of_it) {
                Some(one) if one["state"] == "ready" => Ok(one.clone()),
                other => Err(other.cloned()),
            }
        })
        .await;
        let (code, out, words) = world.run(&["issuer", "test", &self.name]).await;
        assert!(code == 0 && out.contains("is found by its key"), "{}: {out} {words}", self.name);
        (self.flow().asked_by.clone(), settled)
    }

    async fn change(&self, world: &TestWorld) -> i32 {
        world.run(&["issuer", "credentials", &self.name, "--new-account-key"]).await.0
    }

    /// How often it was said that its key was changed, and that it was not.
    fn said(&self, rows: &[Value]) -> [usize; 2] {
        ["key-changed", "key-not-changed"].map(|step| {
            let is_it = |row: &&Value| row["object"] == self.name.as_str() && row["details"]["step"] == step;
            rows.iter().filter(is_it).count()
        })
    }
}

/// An account at each moment, all of them killed at once: first where the proxies hold each of them, and in a full run
/// then at moments that are drawn.
#[tokio::test(flavor = "multi_thread")]
async fn change_of_a_key_is_killed_at_each_step_and_one_key_opens_the_account_and_is_kept() {
    // A store takes sixteen issuers.
    let (accounts, rounds, draws) = if kit::is_full() { (10, 2, 5) } else { (8, 1, 0) };
    let seed = rand::random::<u64>();
    let mut random = StdRng::seed_from_u64(seed);
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&options(false), &challenges).await else { return };
    let seen = watch::Sender::new(0_usize);
    let mut all = Vec::new();
    for number in 0..accounts {
        all.push(Killed::start(number, &pebble, &seen).await);
    }
    let mut world = TestWorld::boot("issuer-acme-kills", WorldOptions::default()).await;
    let made = join_all(all.iter().map(async |one| {
        let mut wanted = add(&pebble.directory_at(one.relay.address()), &pebble, &UNBOUND);
        wanted[3].clone_from(&one.name);
        let (code, out, words) = run(&world, &wanted).await;
        assert_eq!(code, 0, "{}: {out} {words}", one.name);
        one.flow().asked_by.clone()
    }))
    .await;
    let mut keys = made;
    let mut said = vec![[0, 0]; accounts];
    for round in 0..rounds + draws {
        let moments = MOMENTS.chunks(accounts).nth(round).filter(|_| round < rounds).unwrap_or_default();
        // One that has asked for nothing yet reads the directory first.
        restart(&mut world).await;
        for (index, one) in all.iter().enumerate() {
            let left = moments.get(index).into_iter().copied().flatten().copied().collect();
            *one.flow() = Flow { left, ..Flow::default() };
        }
        let count = *seen.borrow() + random.random_range(1..accounts * 4);
        let changes = join_all(all.iter().map(|one| one.change(&world)));
        let reached = async {
            if moments.is_empty() {
                let _ = timeout(LONG, seen.subscribe().wait_for(|seen| *seen >= count)).await;
            } else {
                within(LONG, "each of them is held", async || {
                    let held: Vec<usize> = all.iter().map(|one| one.relay.held()).collect();
                    if held.iter().all(|held| *held == round + 1) { Ok(()) } else { Err(held) }
                })
                .await;
            }
            world.strike();
        };
        let (codes, ()) = tokio::join!(changes, reached);
        for one in &all {
            one.flow().left.clear();
        }
        restart(&mut world).await;
        let settled = join_all(all.iter().map(|one| one.key(&world))).await;
        let rows = world.audit().await;
        for (index, ((key, shown), code)) in settled.into_iter().zip(codes).enumerate() {
            let (one, before) = (&all[index], &keys[index]);
            let what = format!("seed {seed}, round {round}, {:?}, {shown:#}", moments.get(index));
            let is_carried_out = one.flow().is_carried_out;
            let is_changed = key != *before;
            assert!(!is_changed || one.flow().offered.contains(&key), "a key that nobody offered: {what}");
            if !moments.is_empty() {
                assert_eq!(is_changed, is_carried_out, "{what}");
                assert_ne!(code, 0, "it is said to be done: {what}");
            }
            assert!(code != 0 || is_changed, "it is said to be done, and is not: {what}");
            let [changed, unchanged] = one.said(&rows);
            let more = [changed - said[index][0], unchanged - said[index][1]];
            assert_eq!(more[0], usize::from(is_changed), "{what}");
            assert!(more[1] <= usize::from(!is_changed), "{what}");
            assert!(shown["acme"]["account"].is_string(), "{what}");
            (keys[index], said[index]) = (key, [changed, unchanged]);
        }
    }
    world.kill().await;
    for kept in world.accounts().await {
        assert!(!kept.is_changing_key, "{}", kept.name);
        let one = all.iter().find(|one| one.name == kept.name).unwrap();
        let url = Url::parse(&pebble.directory_at(one.relay.address())).unwrap();
        let client = Client::new(&Settings::new(url, pebble.ca_file()), Arc::new(SystemClock));
        let found = client.find(&SoftwareSigner::try_new(&kept.key).unwrap()).await.unwrap();
        assert_eq!(found.map(|found| found.url.to_string()), kept.url, "{}", kept.name);
    }
    let (held, drawn) = (rounds * accounts, draws * accounts);
    println!(
        "changes of a key killed at {held} moments that differ and {drawn} that were drawn, seed {seed}"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn account_is_asked_for_with_the_key_of_the_external_account_that_was_given_last() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&options(true), &challenges).await else { return };
    let is_lost = Arc::new(Mutex::new(true));
    let loses = Arc::clone(&is_lost);
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let is_lost = *loses.lock().unwrap() && asked.path == "/sign-me-up";
        if is_lost { Fault::LoseRequest } else { Fault::None }
    })
    .await;
    let world = TestWorld::boot("issuer-acme-key", WorldOptions::default()).await;
    for (name, text) in [("mac", MAC), ("other-mac", "c29tZWJvZHktZWxzZXMta2V5LW9mLTMyLW9jdGV0cw")] {
        std::fs::write(world.sandbox().path(name), text).unwrap();
    }
    let directory = pebble.directory_at(relay.address());
    let mistaken = add(&directory, &pebble, &[("--external-key-file", "other-mac")]);
    let (code, out, words) = run(&world, &mistaken).await;
    assert_eq!(code, 7, "{out} {words}");
    assert_eq!(issuer(&world).await["state"], "registering");
    *is_lost.lock().unwrap() = false;
    let (code, out, words) = run(&world, &add(&directory, &pebble, &[])).await;
    assert_eq!(code, 0, "{out} {words}");
    settles(&world).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn account_that_is_lost_is_made_again_once_with_the_external_account_that_the_server_wants() {
    let challenges = Challenges::start().await;
    let Some(mut pebble) = Pebble::start(&options(true), &challenges).await else { return };
    let loses = Arc::new(Mutex::new(false));
    let judged = Arc::clone(&loses);
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let jws: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let is_made = asked.path == ACCOUNT && part(&jws, "payload")["onlyReturnExisting"] != true;
        if is_made && std::mem::take(&mut *judged.lock().unwrap()) { Fault::LoseReply } else { Fault::None }
    })
    .await;
    let world = TestWorld::boot("issuer-acme-again", WorldOptions::default()).await;
    std::fs::write(world.sandbox().path("mac"), MAC).unwrap();
    let directory = pebble.directory_at(relay.address());
    let (code, out, words) = run(&world, &add(&directory, &pebble, &[])).await;
    assert_eq!(code, 0, "{out} {words}");
    let before = issuer(&world).await["acme"]["account"].clone();
    pebble.restart().await;

    let again = ["issuer", "credentials", "le", "--register-again"];
    let (code, _, words) = world.run(&again).await;
    assert!(code == 1 && words.contains("--external-key-id"), "{code} {words}");
    let bound = [&again[..], &["--external-key-id", "kid-1", "--external-key-file", "mac"]].concat();
    let (code, out, words) = world.run(&[&bound[..], &["--dry-run"]].concat()).await;
    assert!(code == 0 && out.contains("would register"), "{code} {out} {words}");
    // It is made, and nobody hears of it: the same command finds it.
    *loses.lock().unwrap() = true;
    let (code, _, words) = world.run(&bound).await;
    assert!(code == 1 && words.contains("give the command again"), "{code} {words}");
    let lost = issuer(&world).await;
    assert_eq!((&lost["state"], &lost["acme"]["account"]), (&"ready".into(), &before), "{lost:#}");
    let (code, out, words) = world.run(&bound).await;
    assert_eq!(code, 0, "{out} {words}");
    let settled = settles(&world).await;
    assert_ne!(settled["acme"]["account"], before, "{settled:#}");
    assert_eq!(settled["acme"]["external_key_id"], "kid-1", "{settled:#}");
    let (code, _, words) = world.run(&bound).await;
    assert!(code == 5 && words.contains("nothing to register again"), "{code} {words}");
    world.finish().await;
}
