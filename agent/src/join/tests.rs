use std::sync::Mutex;

use spiffe::Tenant;

use super::*;
use crate::{
    ServerRefusal,
    testing::{DAY, FakeServer, LeapingClock, NOW, TestAuthority, Turn, reopen},
};

#[derive(Default)]
struct Heard(Mutex<Vec<Step>>);

impl Progress for Heard {
    fn say(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }
}

struct Attempt {
    folder: tempfile::TempDir,
    heard: Heard,
    token: String,
}

impl Attempt {
    fn new() -> Self {
        let token = JoinToken::generate(Tenant::default()).to_clear_text();
        Self { folder: tempfile::tempdir().unwrap(), heard: Heard::default(), token }
    }

    async fn join(
        &self,
        server: &Arc<FakeServer>,
        change: impl FnOnce(&mut JoinRequest),
    ) -> Result<Membership, JoinError> {
        let mut request = JoinRequest {
            token: JoinToken::parse(&self.token).unwrap(),
            server: server.address(),
            pin: server.authority.pin(),
            envoy: EnvoyOptions::default(),
            patience: Duration::from_secs(60),
        };
        change(&mut request);
        let state = reopen(self.folder.path());
        server.during(join(&request, &state, &server.clock, &self.heard)).await
    }

    fn load(&self) -> Result<(Membership, Credentials), StateError> {
        reopen(self.folder.path()).load()
    }
}

#[tokio::test]
async fn writes_what_a_node_needs() {
    let server = Arc::new(FakeServer::start(NOW).await);
    let attempt = Attempt::new();
    let membership = attempt.join(&server, |_| {}).await.unwrap();
    assert_eq!(membership.node_id.as_str(), "web-1");
    assert_eq!(membership.namespace.as_str(), "shop");
    let (loaded, credentials) = attempt.load().unwrap();
    assert_eq!(loaded, membership);
    assert_eq!(credentials.life(NOW).length(), DAY);
    assert_eq!(credentials.bundle.content_hash(), server.authority.bundle().content_hash());
    let steps = attempt.heard.0.lock().unwrap();
    assert!(matches!(steps.last(), Some(Step::Written(_))), "{steps:?}");
    assert!(steps.iter().all(|step| !step.to_string().contains(&attempt.token)), "a token was shown");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let server = Arc::new(FakeServer::start(NOW).await);
    server.script([Turn::LoseAnswer, Turn::Refuse(Status::unavailable("restarting")), Turn::LoseAnswer]);
    let attempt = Attempt::new();
    attempt.join(&server, |_| {}).await.unwrap();
    let (_, credentials) = attempt.load().unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!((seen.finishes, seen.issued.len()), (4, 1));
    assert_eq!(seen.issued[&attempt.token].1, credentials.chain);
}

#[tokio::test]
async fn a_pause_ends_also_on_a_clock_that_does_not_get_there() {
    let mut server = FakeServer::start(NOW).await;
    server.clock = Arc::new(certs::ManualClock::new(NOW));
    let server = Arc::new(server);
    server.script([Turn::LoseAnswer]);
    let attempt = Attempt::new();
    let joined = timeout(Duration::from_secs(20), attempt.join(&server, |_| {})).await;
    joined.expect("it does not wait for the clock").unwrap();
}

#[tokio::test]
async fn a_later_run_goes_on_with_the_key_of_the_first() {
    let server = Arc::new(FakeServer::start(NOW).await);
    server.script([Turn::LoseAnswer]);
    let attempt = Attempt::new();
    let error = attempt.join(&server, |request| request.patience = Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, JoinError::Unanswered(_)), "{error}");
    assert!(matches!(attempt.load(), Err(StateError::NotJoined(_))));
    attempt.join(&server, |_| {}).await.unwrap();
    assert_eq!(server.seen.lock().unwrap().issued[&attempt.token].1, attempt.load().unwrap().1.chain);
    assert!(attempt.heard.0.lock().unwrap().contains(&Step::Key(KeyOrigin::EarlierTry)));

    // The key is spent with the token: another enrolment has a key of its own.
    let error = attempt.join(&server, |_| {}).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused(words) if words.contains("0123456789abcdef")), "{error}");
    assert!(error.hint().unwrap().contains("audit"));
}

#[tokio::test]
async fn who_is_turned_away_by_a_bound_hears_so_and_is_let_in_later() {
    let server = Arc::new(FakeServer::start(NOW).await);
    let busy = || Turn::Refuse(Status::resource_exhausted("refused, id 0123456789abcdef"));
    server.script([busy(), busy()]);
    let attempt = Attempt::new();
    let error = attempt.join(&server, |request| request.patience = Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, JoinError::Busy(words) if words.contains("0123456789abcdef")), "{error}");
    assert!(error.to_string().starts_with("server has too many such calls from this address"), "{error}");
    attempt.join(&server, |_| {}).await.unwrap();
}

#[test]
fn only_a_node_that_is_refused_is_told_of_recovery() {
    let node = NodeId::parse("web-1").unwrap();
    let unreachable = ConnectError::Unreachable {
        server: ServerAddress::parse("credence.example:18001").unwrap(),
        source: std::io::Error::other("refused"),
    };
    let source = SvidError::UriNames(0);
    let other_root = ConnectError::Refused {
        server: ServerAddress::parse("credence.example:18001").unwrap(),
        source: source.clone().into(),
    };
    assert_eq!(
        with_causes(&other_root).matches(&source.to_string()).count(),
        1,
        "{}",
        with_causes(&other_root)
    );
    for (error, wanted) in [
        (JoinError::Refused("refused, id 0".into()), Some("proxy enroll web-1 --replace")),
        (JoinError::Connect(unreachable), Some("is `credence serve` running")),
        (JoinError::Connect(other_root), Some("join again with the line that `credence proxy enroll web-1")),
        (JoinError::Answer(AnswerError::Bundle), Some("versions that do not fit")),
        (JoinError::Unanswered("unavailable, id 0".into()), None),
        (JoinError::Busy("refused, id 0".into()), None),
    ] {
        let hint = error.hint_to_come_back(&node);
        let is_told = hint.as_ref().is_some_and(|hint| hint.contains("credence recover"));
        assert_eq!(is_told, matches!(error, JoinError::Refused(_)), "{hint:?}");
        assert!(hint.as_deref().unwrap_or_default().contains(wanted.unwrap_or_default()), "{hint:?}");
        assert_eq!(hint.is_some(), wanted.is_some(), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_pin_sends_nothing() {
    let server = Arc::new(FakeServer::start(NOW).await);
    let other = TestAuthority::new("td", NOW).pin();
    let attempt = Attempt::new();
    let error = attempt.join(&server, |request| request.pin = other).await.unwrap_err();
    let JoinError::Connect(ConnectError::Refused { source, .. }) = &error else { panic!("{error:?}") };
    assert!(matches!(source, ServerRefusal::Pin { wanted, .. } if *wanted == other), "{source}");
    assert!(error.hint().unwrap().contains("proxy enroll"));
    assert_eq!(server.seen.lock().unwrap().finishes, 0);
}

#[tokio::test]
async fn believes_the_server_identity_and_no_other() {
    let check = async |path, presents_root, shift: i64| {
        let mut server = FakeServer::start(NOW).await;
        (server.path, server.presents_root) = (path, presents_root);
        let server = Arc::new(server);
        let attempt = Attempt::new();
        let state = StateDir::open(attempt.folder.path()).unwrap();
        let request = JoinRequest {
            token: JoinToken::parse(&attempt.token).unwrap(),
            server: server.address(),
            pin: server.authority.pin(),
            envoy: EnvoyOptions::default(),
            patience: Duration::ZERO,
        };
        let clock = LeapingClock::start(Timestamp::from_unix_millis(NOW.unix_millis() + shift));
        match server.during(join(&request, &state, &clock, &attempt.heard)).await.unwrap_err() {
            JoinError::Connect(ConnectError::Refused { source, .. }) => source,
            other => panic!("{path}: {other:?}"),
        }
    };
    let hour = 3_600_000;
    assert!(matches!(check("/credence/node/web-2", true, 0).await, ServerRefusal::Identity { .. }));
    assert!(matches!(check("/web", true, 0).await, ServerRefusal::Identity { .. }));
    assert!(matches!(check("/credence/server", false, 0).await, ServerRefusal::Pin { .. }));
    assert!(matches!(check("/credence/server", true, -hour).await, ServerRefusal::Clock { .. }));
    assert!(matches!(check("/credence/server", true, 25 * hour).await, ServerRefusal::Clock { .. }));
}

#[tokio::test]
async fn a_server_that_lies_leaves_the_node_as_it_was() {
    let check = async |change: fn(&mut FinishResponse)| {
        let server = Arc::new(FakeServer::start(NOW).await);
        server.script([Turn::AnswerWith(change)]);
        let attempt = Attempt::new();
        let error = attempt.join(&server, |_| {}).await.unwrap_err();
        assert!(matches!(error, JoinError::Answer(_)), "{error:?}");
        assert!(matches!(attempt.load(), Err(StateError::NotJoined(_))));
    };
    check(|answer| answer.chain_der.clear()).await;
    check(|answer| answer.chain_der.truncate(1)).await;
    check(|answer| answer.bundle_der.clear()).await;
    check(|answer| answer.bundle_der = vec![vec![1, 2, 3]]).await;
    check(|answer| answer.bundle_der = vec![TestAuthority::new("td", NOW).root.der().to_vec()]).await;
    check(|answer| answer.node_id = "web-2".into()).await;
    check(|answer| answer.spiffe_id = "spiffe://td/web".into()).await;
    check(|answer| answer.trust_domain = "other".into()).await;
    check(|answer| answer.server_id = "spiffe://td/web".into()).await;
    check(|answer| answer.xds_server = "nowhere".into()).await;
    check(|answer| answer.chain_der.swap(0, 1)).await;
}

#[tokio::test]
async fn says_who_cannot_be_reached() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ServerAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    drop(listener);
    let server = Arc::new(FakeServer::start(NOW).await);
    let attempt = Attempt::new();
    let error = attempt.join(&server, |request| request.server = address.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach {address}"));
    assert!(error.hint().unwrap().contains("credence serve"));
    let steps = attempt.heard.0.lock().unwrap();
    assert!(steps.iter().filter(|step| matches!(step, Step::Waiting { .. })).count() > 3, "{steps:?}");
    let says_why = |step: &Step| match step {
        Step::Waiting { reason, .. } => reason.to_lowercase().contains("refused"),
        _ => true,
    };
    assert!(steps.iter().all(says_why), "each try says its reason: {steps:?}");
}
