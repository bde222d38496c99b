use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use certs::{KeyKind, Profile, PublicKey, SecretKey, SignError, Signer, SoftwareSigner, SpkiHash};
use spiffe::{
    NodeId, RecoverySpend, Spend, SpiffeId, SvidRequest, TokenSpend, Trust, TrustBundle, TrustDomain,
};

use super::*;
use crate::{
    authority::{make_issuing, make_root},
    policy::Lifetimes,
    ports::{CertificateFilter, CertificateState},
    testing::{Call, MemoryStore, request},
};

/// Says it is the authority, counts what it is asked to sign, and does so with the right key, another one, or not
/// at all.
#[derive(Debug)]
struct Spy {
    claims: PublicKey,
    signer: Option<SoftwareSigner>,
    signatures: Arc<AtomicU32>,
}

impl Signer for Spy {
    fn public(&self) -> &PublicKey {
        &self.claims
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.signatures.fetch_add(1, Ordering::SeqCst);
        match &self.signer {
            Some(signer) => signer.sign(message),
            None => Err(SignError::Failed("backend is sealed".to_owned())),
        }
    }
}

struct Bench {
    policy: Policy,
    store: MemoryStore,
    judge: Judge,
    authority: SigningAuthority,
    key: SecretKey,
    keys: BTreeSet<SpkiHash>,
    signatures: Arc<AtomicU32>,
}

fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_500)
}

impl Bench {
    fn new() -> Self {
        let trust_domain = TrustDomain::parse("td").unwrap();
        let policy = Policy {
            trust_domain: trust_domain.clone(),
            lifetimes: Lifetimes::default(),
            max_connection: Duration::from_secs(3600),
            lists: None,
            dev: false,
        };
        let (root, root_key) = make_root(&policy, now()).unwrap();
        let (issuing, key) = make_issuing(&policy, &root, &root_key, now()).unwrap();
        let keys = BTreeSet::from([root.certificate.spki_hash(), issuing.certificate.spki_hash()]);
        let trust = Trust::new(TrustBundle::new(trust_domain, vec![root.certificate], 1));
        let authority = SigningAuthority::try_new(&issuing, &key).unwrap();
        let signatures = Arc::new(AtomicU32::new(0));
        let judge = Judge::new(Arc::new(trust));
        let bench = Self { policy, store: MemoryStore::new(), judge, authority, key, keys, signatures };
        let signer = SoftwareSigner::try_new(&bench.key).ok();
        bench.signing_with(signer)
    }

    fn signing_with(self, signer: Option<SoftwareSigner>) -> Self {
        let spy = Spy { claims: self.key.public().clone(), signer, signatures: Arc::clone(&self.signatures) };
        Self { authority: self.authority.with_signer(Box::new(spy)), ..self }
    }

    fn authorize(&self, request: SvidRequest) -> Result<Authorized, Refusal> {
        Authorized::authorize(request, &self.policy, &self.keys)
    }

    async fn issue_later(&self, request: SvidRequest, wait: Duration) -> Result<IssuedSvid, IssueError> {
        let journal = &self.store;
        let prepared = self
            .authorize(request)
            .unwrap()
            .prepare(&self.authority, &self.policy, Serial::random(), 7, now())
            .unwrap();
        let intended = match prepared.record(journal).await {
            Recorded::Intended(intended) => intended,
            Recorded::SerialTaken(_) => return Err(IssueError::Unavailable("serial".to_owned())),
            Recorded::Refused(error) => return Err(error),
        };
        match intended.sign(&self.authority, &self.judge, now() + wait) {
            Ok(signed) => signed.release(journal, now() + wait).await,
            Err(failed) => Err(failed.record(journal, now() + wait).await),
        }
    }

    async fn states(&self) -> Vec<CertificateState> {
        let rows = self.store.certificates(&CertificateFilter::default()).await.unwrap();
        rows.into_iter().map(|row| row.state).collect()
    }
}

fn workload() -> SvidRequest {
    request("/web", Purpose::Delivery)
}

#[tokio::test]
async fn every_class_is_issued_as_asked_for() {
    for (path, purpose) in [
        ("/web", Purpose::Delivery),
        ("/ns/shop/web", Purpose::Renewal),
        ("/credence/node/web-1", Purpose::NodeRenewal),
        ("/credence/server", Purpose::Server),
        ("/credence/operator/ann", Purpose::Operator),
    ] {
        let bench = Bench::new();
        let mut asked = request(path, purpose);
        if purpose == Purpose::Server {
            asked.dns_names = vec!["localhost".to_owned()];
            asked.ip_addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        }
        let issued = bench.issue_later(asked.clone(), Duration::ZERO).await.unwrap();
        let leaf = issued.chain.leaf();
        assert_eq!(leaf.spki_der(), asked.public_key.spki_der());
        assert_eq!(leaf.subject_alt_names().len(), if purpose == Purpose::Server { 4 } else { 1 });
        assert_eq!(issued.issued, now());
        assert_eq!(issued.authority, bench.authority.id());
        let end = (now() + asked.lifetime).floor_secs();
        let limit = bench.authority.certificate().not_after() - Duration::from_secs(1);
        assert_eq!(leaf.not_after(), end.min(limit), "{path}: never past its issuer");

        let rows = bench.store.certificates(&CertificateFilter::default()).await.unwrap();
        assert_eq!(rows.len(), 1);
        let intent = &rows[0].intent;
        assert_eq!(intent.tbs_sha256, leaf.signed_sha256());
        assert_eq!((&intent.serial, intent.epoch, intent.not_after), (leaf.serial(), 7, leaf.not_after()));
        assert_eq!(rows[0].chain.len(), 2);
        let actions: Vec<_> = bench.store.events().iter().map(|event| event.action).collect();
        assert_eq!(actions, [Action::CertificateIntent, Action::CertificateIssue]);
    }
}

#[test]
fn refuses_what_policy_forbids() {
    let bench = Bench::new();
    let check = |path: &str, purpose: Purpose, change: &dyn Fn(&mut SvidRequest), expected: &str| {
        let mut asked = request(path, purpose);
        change(&mut asked);
        let error = bench.authorize(asked).unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    };
    let node = |text: &str| NodeId::parse(text).ok();
    let foreign = || SpiffeId::parse("spiffe://other/web").unwrap();
    let spend = |spki| Some(Spend::Token(TokenSpend { token_id: "t".to_owned(), spki }));
    let recovery = |name: &str, spki| {
        let (node, replaces) = (NodeId::parse(name).unwrap(), Serial::random());
        Some(Spend::Recovery(RecoverySpend { window: 1, node, replaces, spki, from: "192.0.2.7".into() }))
    };
    let (node_path, workload) = ("/credence/node/web-1", Profile::Workload);

    check("/web", Purpose::Delivery, &|r| r.id = foreign(), "outside the trust domain");
    for path in ["/credence", "/credence/x", "/credence/node/a/b", "/credence/root"] {
        check(path, Purpose::Delivery, &|_| {}, "reserved");
    }
    for profile in [Profile::Node, Profile::Server, Profile::Operator, Profile::Root, Profile::Issuing] {
        check("/web", Purpose::Delivery, &|r| r.profile = profile, "of class workload");
    }
    check(node_path, Purpose::Delivery, &|r| r.profile = workload, "of class node");
    check("/credence/server", Purpose::Delivery, &|r| r.profile = workload, "of class server");
    check("/credence/operator/ann", Purpose::Server, &|r| r.profile = Profile::Server, "of class operator");
    check(node_path, Purpose::NodeRenewal, &|r| r.node = node("web-2"), "for node web-2");
    check("/credence/server", Purpose::Server, &|r| r.node = node("web-1"), "for node web-1");
    check("/web", Purpose::NodeRenewal, &|_| {}, "purpose NodeRenewal");
    check(node_path, Purpose::Delivery, &|_| {}, "purpose Delivery");
    check("/web", Purpose::Delivery, &|r| r.lifetime = Duration::from_secs(599), "lifetime");
    check("/web", Purpose::Delivery, &|r| r.lifetime = Duration::from_secs(86_401), "lifetime");
    check("/web", Purpose::Delivery, &|r| r.dns_names = vec!["web".to_owned()], "DNS names");
    check(node_path, Purpose::NodeRenewal, &|r| r.ip_addresses = vec!["::1".parse().unwrap()], "DNS names");
    check("/web", Purpose::Delivery, &|r| r.public_key = bench.key.public().clone(), "of an authority");
    check(node_path, Purpose::Enrolment, &|_| {}, "join token");
    check(node_path, Purpose::Enrolment, &|r| r.spend = spend(SpkiHash([0; 32])), "join token");
    check(node_path, Purpose::NodeRenewal, &|r| r.spend = spend(r.public_key.hash()), "join token");
    check("/web", Purpose::Delivery, &|r| r.spend = spend(r.public_key.hash()), "join token");
    check(node_path, Purpose::Recovery, &|_| {}, "coming back");
    check(node_path, Purpose::Recovery, &|r| r.spend = spend(r.public_key.hash()), "coming back");
    check(node_path, Purpose::Recovery, &|r| r.spend = recovery("web-1", SpkiHash([0; 32])), "coming back");
    check(node_path, Purpose::Recovery, &|r| r.spend = recovery("web-2", r.public_key.hash()), "coming back");
    check(
        node_path,
        Purpose::Enrolment,
        &|r| r.spend = recovery("web-1", r.public_key.hash()),
        "coming back",
    );
    check(
        "/web",
        Purpose::Recovery,
        &|r| r.spend = recovery("web-1", r.public_key.hash()),
        "purpose Recovery",
    );
    let mut good = request(node_path, Purpose::Recovery);
    good.spend = recovery("web-1", good.public_key.hash());
    assert!(bench.authorize(good).is_ok());
}

#[test]
fn short_lives_need_development_mode() {
    let mut bench = Bench::new();
    let short = || SvidRequest { lifetime: Duration::from_secs(12), ..workload() };
    assert!(matches!(bench.authorize(short()), Err(Refusal::Lifetime { .. })));
    bench.policy.dev = true;
    let prepared = bench
        .authorize(short())
        .unwrap()
        .prepare(&bench.authority, &bench.policy, Serial::random(), 0, now())
        .unwrap();
    assert_eq!(prepared.template.validity.not_after, (now() + Duration::from_secs(12)).floor_secs());
}

#[test]
fn the_lint_refuses_before_the_authority_signs() {
    let bench = Bench::new();
    for name in ["under_score", "a..b", "*.*"] {
        let mut asked = request("/credence/server", Purpose::Server);
        asked.dns_names = vec![name.to_owned()];
        let authorized = bench.authorize(asked).unwrap();
        let answer = authorized.prepare(&bench.authority, &bench.policy, Serial::random(), 0, now());
        assert!(matches!(answer, Err(IssueError::Refused(_))), "{name}");
    }
    assert_eq!(bench.signatures.load(Ordering::SeqCst), 0);
}

#[test]
fn an_authority_with_less_than_two_leaf_lives_left_does_not_sign() {
    let bench = Bench::new();
    let end = bench.authority.certificate().not_after();
    let at = |before_end: Duration| {
        let authorized = bench.authorize(workload()).unwrap();
        authorized.prepare(&bench.authority, &bench.policy, Serial::random(), 0, end - before_end)
    };
    let two_lives = 2 * bench.policy.lifetimes.workload;
    assert!(at(two_lives).is_ok());
    let late = at(two_lives - Duration::from_millis(1));
    assert!(matches!(late, Err(IssueError::Unavailable(reason)) if reason.contains("successor")));
}

#[tokio::test]
async fn nothing_is_signed_before_its_intent_is_kept_nor_released_before_its_result() {
    // What fails; the answer; how many signatures; what the journal says.
    enum Step {
        Intent,
        Key,
        WrongKey,
        TooLate,
        Result,
        KeyAndResult,
    }
    type Expected = fn(&CertificateState) -> bool;
    let failed: Expected = |state| matches!(state, CertificateState::Failed(_));
    let unknown: Expected = |state| *state == CertificateState::Unknown;
    let cases: [(Step, &str, u32, Option<Expected>); 6] = [
        (Step::Intent, "unavailable", 0, None),
        (Step::Key, "backend", 1, Some(failed)),
        (Step::WrongKey, "failed its own check", 1, Some(failed)),
        (Step::TooLate, "took too long", 0, Some(failed)),
        (Step::Result, "unavailable", 1, Some(unknown)),
        (Step::KeyAndResult, "backend", 1, Some(unknown)),
    ];
    for (step, answer, signatures, state) in cases {
        let mut bench = Bench::new();
        let mut wait = Duration::ZERO;
        match step {
            Step::Intent => bench.store.fail(Call::Intent),
            Step::Key => bench = bench.signing_with(None),
            Step::WrongKey => {
                let other = SecretKey::generate(KeyKind::P256);
                bench = bench.signing_with(SoftwareSigner::try_new(&other).ok());
            }
            Step::TooLate => wait = MAX_PENDING + Duration::from_millis(1),
            Step::Result => bench.store.fail(Call::Result),
            Step::KeyAndResult => {
                bench.store.fail(Call::Result);
                bench = bench.signing_with(None);
            }
        }
        let error = bench.issue_later(workload(), wait).await.unwrap_err().to_string();
        assert!(error.contains(answer) || answer == "backend", "{error}");
        assert_eq!(bench.signatures.load(Ordering::SeqCst), signatures, "{error}");
        let states = bench.states().await;
        assert_eq!(states.len(), usize::from(state.is_some()), "{error}");
        assert!(state.is_none_or(|expected| expected(&states[0])), "{error}: {states:?}");
    }
}

#[tokio::test]
async fn what_was_proven_by_one_certificate_excuses_no_other() {
    let mut bench = Bench::new();
    assert!(bench.issue_later(workload(), Duration::ZERO).await.is_ok());
    // The path above is known now. Another key than the authority's still does not pass,
    let other = SecretKey::generate(KeyKind::P256);
    bench = bench.signing_with(SoftwareSigner::try_new(&other).ok());
    let error = bench.issue_later(workload(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, IssueError::BadOutput(_)), "{error}");
    // nor does the right key when an authority above it has ended meanwhile,
    let key = SoftwareSigner::try_new(&bench.key).ok();
    bench = bench.signing_with(key);
    let template = |bench: &Bench| {
        bench.authorize(workload()).unwrap().prepare(
            &bench.authority,
            &bench.policy,
            Serial::random(),
            7,
            now(),
        )
    };
    let chain = |bench: &Bench| {
        let leaf = bench.authority.sign(&template(bench).unwrap().rehearsal).unwrap();
        Chain::new(leaf, vec![bench.authority.certificate().clone()])
    };
    let end = bench.authority.certificate().not_after();
    assert!(bench.judge.verify(&chain(&bench), now()).is_ok());
    assert!(bench.judge.verify(&chain(&bench), end + Duration::from_secs(1)).is_err());
    // nor another authority that the same root does not know.
    let stranger = Bench::new();
    assert!(bench.judge.verify(&chain(&stranger), now()).is_err());
    assert!(stranger.judge.verify(&chain(&stranger), now()).is_ok());
}

#[tokio::test]
async fn a_taken_serial_is_drawn_again() {
    let bench = Bench::new();
    let serial = Serial::random();
    let prepare = |authorized: Authorized| {
        authorized.prepare(&bench.authority, &bench.policy, serial.clone(), 0, now()).unwrap()
    };
    let first = prepare(bench.authorize(workload()).unwrap());
    assert!(matches!(first.record(&bench.store).await, Recorded::Intended(_)));
    let second = prepare(bench.authorize(workload()).unwrap());
    assert!(matches!(second.record(&bench.store).await, Recorded::SerialTaken(_)));
    assert_eq!(bench.states().await.len(), 1);
}

mod requests;
