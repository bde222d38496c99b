use std::path::{Path, PathBuf};

use api::{
    expiry::{Ending, ExpiryKind},
    testing::MemoryStore,
};
use ca::{
    RotationStatus, Tally,
    dependents::{Laggard, Reason},
    rotation::Step,
};
use serde_json::Value;

use super::*;
use crate::{
    clock::SystemClock,
    config::{HookConfig, HookTarget, Topic},
};

/// Renewals that fail as a test says.
struct Failures(Vec<wire::FailedRenewal>);

impl Renewals for Failures {
    fn failing(&self) -> Vec<wire::FailedRenewal> {
        self.0.clone()
    }
}

fn hook(name: &str, words: &[&str]) -> HookConfig {
    HookConfig {
        name: name.to_owned(),
        topics: Topic::NAMED.into_iter().collect(),
        target: HookTarget::Command(words.iter().map(|word| (*word).to_owned()).collect()),
        timeout: Duration::from_secs(5),
        after: Some(Duration::from_millis(200)),
    }
}

struct World {
    tellers: Arc<[Arc<Teller>]>,
    watched: Watched,
    store: MemoryStore,
    status: watch::Sender<Vec<HookStatus>>,
    file: PathBuf,
    _seen: watch::Sender<Arc<Seen>>,
    _ca: watch::Sender<Arc<CaStatus>>,
    _folder: tempfile::TempDir,
}

/// A node's certificate at 75 % of its life, an authority that lags, and a renewal that fails.
fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let path = file.to_string_lossy().into_owned();
    let hooks = [hook("broken", &["/bin/false"]), hook("good", &["/usr/bin/tee", "-a", &path])];
    let domain = spiffe::TrustDomain::parse("td.example").unwrap();
    let tellers: Arc<[Arc<Teller>]> =
        hooks.into_iter().map(|hook| Teller::new(hook, domain.clone())).collect();
    let now = SystemClock.now();
    let ending = Ending {
        kind: ExpiryKind::Node,
        name: "web-1".into(),
        node: None,
        state: None,
        tenant: None,
        began: now - Duration::from_secs(750),
        ends: now + Duration::from_secs(250),
        advice: None,
    };
    let seen = watch::Sender::new(Arc::new(Seen { at: Some(now), endings: vec![ending], survivals: vec![] }));
    let reason = Reason::BundleNotAcknowledged;
    let rotation = RotationStatus {
        phase: "prepared".into(),
        standing: String::new(),
        root: None,
        other: None,
        is_automatic: true,
        emergency: None,
        is_at_risk: false,
        due: Vec::new(),
        since: Some(now),
        tally: Tally::default(),
        laggards: vec![Laggard { name: "web-2".into(), is_connected: true, reason }],
        barrier: Some(ca::rotation::Barrier { step: Step::Activate, since: now }),
        settles: None,
        needless: Vec::new(),
    };
    let ca = watch::Sender::new(Arc::new(CaStatus { rotation: Some(rotation), ..CaStatus::default() }));
    let failed = wire::FailedRenewal {
        class: "workload".into(),
        name: "spiffe://td.example/web".into(),
        node: Some("web-3".into()),
        at: String::new(),
        failures: 3,
        message: "no issuing authority is active".into(),
        expires: None,
    };
    World {
        watched: Watched {
            seen: seen.subscribe(),
            ca: ca.subscribe(),
            renewals: Arc::new(Failures(vec![failed])),
        },
        status: watch::Sender::new(vec![HookStatus::default(); tellers.len()]),
        tellers,
        store: MemoryStore::default(),
        file,
        _seen: seen,
        _ca: ca,
        _folder: folder,
    }
}

impl World {
    fn herald(&self) -> Herald {
        Herald {
            tellers: self.tellers.clone(),
            watched: Watched {
                seen: self.watched.seen.clone(),
                ca: self.watched.ca.clone(),
                renewals: self.watched.renewals.clone(),
            },
            store: Arc::new(self.store.clone()),
            audit: Arc::new(self.store.clone()),
            clock: Arc::new(SystemClock),
            period: Duration::ZERO,
            status: self.status.clone(),
        }
    }

    /// Runs a herald until `done` says so of how the hooks stand.
    async fn until(&self, done: impl Fn(&[HookStatus]) -> bool) {
        let mut status = self.status.subscribe();
        let seen = status.wait_for(|all| done(all));
        let running = self.herald().run(CancellationToken::new());
        let both = async {
            tokio::select! {
                () = running => panic!("it ended by itself"),
                seen = seen => drop(seen),
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), Box::pin(both)).await;
        assert!(in_time.is_ok(), "{:?}", self.status.borrow());
    }
}

fn told(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_hook_hears_everything_once_whatever_another_one_does_and_also_after_a_restart() {
    let world = world();
    world.until(|all| all[1].told == 3 && all[0].failed >= 2).await;
    let heard = told(&world.file);
    let mut events: Vec<&str> = heard.iter().filter_map(|one| one["event"].as_str()).collect();
    events.sort_unstable();
    assert_eq!(events, ["barrier", "expiry", "issuer"]);
    let of = |event: &str| heard.iter().find(|one| one["event"] == event).unwrap();
    assert_eq!((&of("expiry")["threshold_percent"], &of("expiry")["version"]), (&70.into(), &1.into()));
    assert_eq!(of("barrier")["concerned"][0]["name"], "web-2");
    let message = of("issuer")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("no issuing authority is active"), "{message}");
    assert_eq!(of("issuer")["trust_domain"], "td.example");

    let rows = world.store.events();
    let of =
        |hook: &str, outcome| rows.iter().filter(|row| row.object == hook && row.outcome == outcome).count();
    assert_eq!((of("broken", Outcome::Failed), of("good", Outcome::Done)), (1, 3), "{rows:#?}");

    // The next process knows what was told, but for what only holds since it lives.
    std::fs::remove_file(&world.file).unwrap();
    world.status.send_modify(|all| all.fill(HookStatus::default()));
    world.until(|all| all[1].told == 1 && all[0].failed >= 1).await;
    assert_eq!(told(&world.file).len(), 1);
    assert_eq!(told(&world.file)[0]["event"], "issuer");
}

#[tokio::test]
async fn operators_test_a_hook_and_hear_what_it_made_of_it() {
    let world = world();
    let clock = Arc::new(SystemClock);
    let desk = Desk { tellers: world.tellers.clone(), status: world.status.subscribe(), clock };
    let good = desk.test("good").await.unwrap();
    assert!(good.taken && good.reason.is_empty(), "{good:?}");
    assert_eq!(told(&world.file)[0]["event"], "test");
    let broken = desk.test("broken").await.unwrap();
    assert_eq!((broken.taken, broken.reason.as_str()), (false, "/bin/false ended with exit status: 1"));
    assert!(matches!(desk.test("none").await, Err(CallError::NotFound { .. })));
    let names: Vec<String> = desk.hooks().into_iter().map(|hook| hook.name).collect();
    assert_eq!(names, ["broken", "good"]);
}
