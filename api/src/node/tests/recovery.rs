//! Nodes that come back with certificates that have ended, over a real authority with a journal in memory.

use audit::Actor;
use ca::{
    Lifetimes, Manager, Policy,
    ports::{Authorities, Revocations, Revoked, Taint},
    testing::FakeDependents,
};
use spiffe::{
    Spend, TrustDomain,
    attestation::{METHOD_EXPIRED, OldKeyClaim},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

const NODE_LIFE: Duration = Duration::from_secs(600);
const REACH: Duration = Duration::from_secs(86_400);

struct World {
    clock: ManualClock,
    journal: ca::testing::MemoryStore,
    handle: ca::Handle,
    bindings: watch::Sender<Arc<Bindings>>,
    blocks: watch::Sender<Arc<BlockList>>,
    window: watch::Sender<Option<Arc<RecoveryWindow>>>,
    heard: Arc<Heard>,
    enrolment: Enrolment,
    _running: DropGuard,
}

/// A certificate as a node holds it.
struct Held {
    chain: certs::Chain,
    key: SecretKey,
}

impl Held {
    fn der(&self) -> Vec<u8> {
        self.chain.leaf().der().to_vec()
    }
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the manager runs beside the test")]
    async fn new() -> Self {
        let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
        let (journal, heard) = (ca::testing::MemoryStore::new(), Arc::new(Heard::default()));
        let deps = ca::Deps {
            authorities: Arc::new(journal.clone()),
            journal: Arc::new(journal.clone()),
            revocations: Arc::new(journal.clone()),
            clock: Arc::new(clock.clone()),
            refusals: Arc::clone(&heard) as Arc<dyn Refusals>,
            policy: Policy {
                trust_domain: TrustDomain::parse("td").unwrap(),
                lifetimes: Lifetimes::default(),
                max_connection: Duration::from_secs(3600),
                lists: None,
                dev: false,
            },
            epoch: 1,
        };
        Manager::initialise(&deps, Actor::Host).await.unwrap();
        let manager = Manager::open(deps).await.unwrap();
        let (handle, shutdown) = (manager.handle(), CancellationToken::new());
        tokio::spawn(manager.run(Arc::new(FakeDependents::default()), shutdown.clone()));
        let enabled = ["web-1", "pay-1"].map(|name| binding(name, BindingState::Enabled));
        enabled.iter().for_each(|binding| journal.bind(&binding.node, Some(binding.created)));
        let (bindings, bindings_read) = watch::channel(Arc::new(Bindings::new(enabled)));
        let (blocks, blocks_read) = watch::channel(Arc::new(BlockList::default()));
        let (window, window_read) = watch::channel(None);
        let inputs = NodeInputs {
            issuer: Arc::new(handle.clone()),
            store: Arc::new(Tokens::default()),
            trust: handle.trust(),
            anchor: handle.anchor(),
            authority: handle.active(),
            bindings: bindings_read,
            blocks: blocks_read,
            recovery: window_read,
            journal: Arc::new(journal.clone()),
            refusals: Arc::clone(&heard) as Arc<dyn Refusals>,
            certified: Box::new(|_, _| {}),
            clock: Arc::new(clock.clone()),
        };
        let settings = NodeSettings { lifetime: NODE_LIFE, ..NodeSettings::default() };
        let enrolment = Enrolment::new(NodeDoor::new(settings, inputs));
        let _running = shutdown.drop_guard();
        Self { clock, journal, handle, bindings, blocks, window, heard, enrolment, _running }
    }

    /// A certificate of `name`, as it got it long ago.
    async fn certify(&self, name: &str) -> Held {
        let key = SecretKey::generate(KeyKind::P256);
        let request = SvidRequest {
            id: SpiffeId::parse(&format!("spiffe://td/credence/node/{name}")).unwrap(),
            profile: Profile::Node,
            public_key: key.public().clone(),
            lifetime: NODE_LIFE,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            tenant: Tenant::default(),
            node: Some(node(name)),
            issuer: None,
            purpose: Purpose::NodeRenewal,
            deadline: None,
            spend: None,
            request_id: RequestId::random(),
        };
        Held { chain: self.handle.issue(request).await.unwrap().chain, key }
    }

    /// Opens a window of an hour from now.
    fn open(&self) -> u64 {
        let now = self.clock.now();
        let until = now + Duration::from_secs(3600);
        let id = self.journal.open_recovery(until);
        let window = RecoveryWindow {
            id,
            reason: "power cut".into(),
            by: "ann".into(),
            opened: now,
            until,
            closed: None,
            reach: REACH,
        };
        self.window.send_replace(Some(Arc::new(window)));
        id
    }

    async fn begin(&self, who: &Applicant) -> Result<proto::credence::v1::BeginResponse, Status> {
        let mut begin = Request::new(BeginRequest {
            method: METHOD_EXPIRED.to_owned(),
            tenant: Tenant::default().to_string(),
            spki_sha256: who.key.public().hash().0.to_vec(),
        });
        begin.extensions_mut().insert(who.remote);
        self.enrolment.begin(begin).await.map(tonic::Response::into_inner)
    }

    /// Does what an honest agent does, up to the last message: `who` presents `held`.
    async fn prepare(&self, who: &Applicant, held: &Held) -> Result<Attempt, Status> {
        let spki = who.key.public().hash();
        let challenge = self.begin(who).await?;
        assert_eq!(challenge.xds_server, "127.0.0.1:18000", "a node that looks for us is told");
        let tenant = Tenant::default();
        let (nonce, exporter) = (&challenge.nonce, &who.exporter);
        let claim = Claim { nonce, exporter, spki, method: METHOD_EXPIRED, tenant: &tenant };
        let proof = claim.prove(&SoftwareSigner::try_new(&who.key).unwrap()).unwrap();
        let certificate = held.der();
        let old = OldKeyClaim { nonce, exporter, spki, certificate: &certificate, tenant: &tenant };
        let old_proof = old.prove(&SoftwareSigner::try_new(&held.key).unwrap()).unwrap();
        let request = FinishRequest {
            method: METHOD_EXPIRED.to_owned(),
            tenant: tenant.to_string(),
            cookie: challenge.cookie,
            csr_der: Csr::build(&who.key),
            proof,
            expired_certificate_der: certificate,
            old_proof,
            ..FinishRequest::default()
        };
        Ok(Attempt { request, exporter: who.exporter, remote: who.remote })
    }

    async fn finish(&self, attempt: &Attempt) -> Result<FinishResponse, Status> {
        let mut request = Request::new(attempt.request.clone());
        request.extensions_mut().insert(attempt.remote);
        request.extensions_mut().insert(TlsExporter(attempt.exporter));
        self.enrolment.finish(request).await.map(tonic::Response::into_inner)
    }

    async fn recover(&self, who: &Applicant, held: &Held) -> Result<FinishResponse, Status> {
        self.finish(&self.prepare(who, held).await?).await
    }

    /// It is refused, the applicant hears an id only, and audit says why under it.
    async fn refuses(&self, attempt: &Attempt, reason: &str) {
        let status = self.finish(attempt).await.unwrap_err();
        self.was_refused(&status, reason);
    }

    fn was_refused(&self, status: &Status, reason: &str) {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let heard = self.heard.0.lock().unwrap();
        let event = heard.last().unwrap();
        assert!(event.reason.contains(reason), "{}", event.reason);
        let id = event.request_id.as_ref().unwrap();
        assert_eq!(status.message(), format!("refused, id {id}"));
    }
}

#[tokio::test]
async fn an_expired_node_comes_back_by_its_old_key_once_in_each_window() {
    let world = World::new().await;
    let held = world.certify("web-1").await;
    world.clock.advance(NODE_LIFE);
    let who = applicant(1);
    world.was_refused(&world.begin(&who).await.unwrap_err(), "no recovery window is open");
    let waiting = world.heard.0.lock().unwrap().last().unwrap().actor.to_string();
    assert_eq!(waiting, "expired nodes", "a thousand that wait share one row");

    let window = world.open();
    let answer = world.recover(&who, &held).await.unwrap();
    let leaf = Certificate::from_der(&answer.chain_der[0]).unwrap();
    assert_eq!(leaf.spki_hash(), who.key.public().hash());
    assert_eq!(answer.spiffe_id, "spiffe://td/credence/node/web-1");
    assert_eq!((answer.node_id.as_str(), answer.bundle_der.len()), ("web-1", 1));
    let event = world.journal.events().pop().unwrap();
    assert_eq!((event.action, event.details["recovery_window"].as_str()), (Action::NodeRecover, "1"));
    assert_eq!(event.details["replaces"], held.chain.leaf().serial().to_string());
    assert_eq!(
        event.details["from"],
        who.remote.ip().to_string(),
        "whoever stole a key shows by where it came from"
    );
    assert_eq!(window, 1);

    // A lost answer burns nothing: the same key gets the same certificate. Another key gets none.
    let again = world.recover(&who, &held).await.unwrap();
    assert_eq!(again.chain_der, answer.chain_der);
    let thief = applicant(2);
    world.refuses(&world.prepare(&thief, &held).await.unwrap(), "came back in this window already").await;
    // Nor does the node itself, should its new certificate end in the same window.
    world.clock.advance(NODE_LIFE);
    let chain = certs::Chain::from_ders(answer.chain_der.iter().map(AsRef::as_ref)).unwrap();
    let second = Held { chain, key: who.key };
    let who = applicant(3);
    world.refuses(&world.prepare(&who, &second).await.unwrap(), "came back in this window already").await;
    world.open();
    assert!(world.recover(&who, &second).await.is_ok(), "in the next window it does");
}

#[tokio::test]
async fn nobody_comes_back_with_a_certificate_that_is_not_its_own_newest_and_expired() {
    let world = World::new().await;
    let (older, held, other) =
        (world.certify("web-1").await, world.certify("web-1").await, world.certify("pay-1").await);
    world.open();
    let who = applicant(1);
    world.refuses(&world.prepare(&who, &held).await.unwrap(), "it is renewed, not recovered").await;
    world.clock.advance(NODE_LIFE);
    world.refuses(&world.prepare(&who, &older).await.unwrap(), "newer certificate").await;

    let good = world.prepare(&who, &held).await.unwrap();
    let bent = |change: &dyn Fn(&mut Attempt)| {
        let mut attempt =
            Attempt { request: good.request.clone(), exporter: good.exporter, remote: good.remote };
        change(&mut attempt);
        attempt
    };
    let stranger = applicant(2);
    let check = async |reason: &str, change: &dyn Fn(&mut Attempt)| {
        world.refuses(&bent(change), reason).await;
    };
    let (proof, old) = ("enrolment proof does not hold", "proof of the old key does not hold");
    // A proof that was overheard fits no other connection, challenge, key or certificate.
    check(proof, &|attempt| attempt.exporter = [9; 32]).await;
    check("cookie is not ours", &|attempt| attempt.request.cookie[9] ^= 1).await;
    check("cookie is not ours", &|attempt| attempt.request.csr_der = Csr::build(&stranger.key)).await;
    check(old, &|attempt| attempt.request.expired_certificate_der = other.der()).await;
    check(old, &|attempt| attempt.request.old_proof.clear()).await;
    check(old, &|attempt| attempt.request.old_proof = attempt.request.proof.clone()).await;
    check("presented certificate:", &|attempt| attempt.request.expired_certificate_der.clear()).await;
    check("presented certificate:", &|attempt| attempt.request.expired_certificate_der[0] ^= 1).await;
    check("cookie is not ours", &|attempt| attempt.request.method = METHOD_JOIN_TOKEN.to_owned()).await;
    // One that another authority signed for the same name and key, or that we never issued.
    let forged = FakeIssuer::new("td", Arc::new(world.clock.clone()));
    let request = SvidRequest {
        id: SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap(),
        profile: Profile::Node,
        public_key: held.key.public().clone(),
        lifetime: Duration::from_secs(1),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        tenant: Tenant::default(),
        node: Some(node("web-1")),
        issuer: None,
        purpose: Purpose::NodeRenewal,
        deadline: None,
        spend: None,
        request_id: RequestId::random(),
    };
    let chain = forged.issue(request).await.unwrap().chain;
    world.clock.advance(Duration::from_secs(2));
    let forged = Held { chain, key: held.key.copy_for_tests() };
    world.refuses(&world.prepare(&who, &forged).await.unwrap(), "not in the journal").await;
    // The same key again proves nothing new.
    let same = Applicant { key: held.key.copy_for_tests(), ..applicant(4) };
    world.refuses(&world.prepare(&same, &held).await.unwrap(), "the key that it should replace").await;
    assert!(world.recover(&who, &held).await.is_ok(), "none of this burned anything");
}

#[tokio::test]
async fn removed_blocked_disabled_and_long_expired_nodes_stay_away() {
    let world = World::new().await;
    let held = world.certify("web-1").await;
    let certified = world.clock.now();
    world.clock.advance(NODE_LIFE);
    world.open();
    let who = applicant(1);
    let tries = async |reason: &str| {
        world.refuses(&world.prepare(&who, &held).await.unwrap(), reason).await;
    };
    let bind = |state, created| {
        let binding = Binding { created, ..binding("web-1", state) };
        world.bindings.send_replace(Arc::new(Bindings::new([binding])));
        let bound = (state == BindingState::Enabled).then_some(created);
        world.journal.bind(&node("web-1"), bound);
    };
    world.bindings.send_replace(Arc::new(Bindings::default()));
    tries("has no enabled binding").await;
    bind(BindingState::Disabled, Timestamp::EPOCH);
    tries("has no enabled binding").await;
    bind(BindingState::Enabled, certified + Duration::from_secs(1));
    tries("earlier node web-1").await;
    bind(BindingState::Enabled, Timestamp::EPOCH);
    // Removed in the moment between the look and the transaction.
    world.journal.bind(&node("web-1"), None);
    tries("no enabled binding").await;
    world.journal.bind(&node("web-1"), Some(Timestamp::EPOCH));

    let id = SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap();
    let block = spiffe::Block { since: world.clock.now(), reason: String::new(), is_enforced: false };
    world.blocks.send_replace(Arc::new(BlockList::new([(id, block)])));
    tries("is blocked").await;
    world.blocks.send_replace(Arc::new(BlockList::default()));

    // Closed in that moment, too; then for the door as well.
    world.journal.close_recovery();
    tries("no recovery window is open").await;
    world.window.send_replace(None);
    world.was_refused(&world.begin(&who).await.unwrap_err(), "no recovery window is open");
    // One that nobody closes ends by itself, also for whoever was challenged before.
    world.open();
    world.clock.advance(Duration::from_secs(3599));
    let late = world.prepare(&applicant(3), &held).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.refuses(&late, "no recovery window is open").await;
    world.open();
    assert!(world.recover(&applicant(2), &held).await.is_ok());

    let world = World::new().await;
    let held = world.certify("web-1").await;
    world.clock.advance(NODE_LIFE + REACH + Duration::from_secs(1));
    world.open();
    world.refuses(&world.prepare(&who, &held).await.unwrap(), "longer ago than the recovery window").await;
}

#[tokio::test]
async fn a_revoked_certificate_brings_nobody_back() {
    let world = World::new().await;
    let held = world.certify("web-1").await;
    let (now, leaf) = (world.clock.now(), held.chain.leaf());
    let revoked = Revoked {
        authority: AuthorityId::of(held.chain.intermediates()[0].spki_hash()),
        serial: leaf.serial().clone(),
        at: now,
        reason: certs::RevocationReason::KeyCompromise,
        not_after: leaf.not_after(),
    };
    let event = Event::done(now, Actor::Host, Action::CertificateFail, "revoked");
    world.journal.revoke(revoked, now, event).await.unwrap();
    world.clock.advance(NODE_LIFE);
    world.open();
    world.refuses(&world.prepare(&applicant(1), &held).await.unwrap(), "is revoked").await;
}

#[tokio::test]
async fn a_certificate_of_a_stolen_authority_brings_nobody_back() {
    let world = World::new().await;
    let held = world.certify("web-1").await;
    world.clock.advance(NODE_LIFE);
    world.open();
    let root = world.handle.anchor().borrow().root.unwrap();
    let event = Event::done(world.clock.now(), Actor::Host, Action::AuthorityTaint, "root");
    world.journal.taint(vec![root], Taint::Stolen, world.clock.now(), vec![event]).await.unwrap();
    let attempt = world.prepare(&applicant(1), &held).await.unwrap();
    world.refuses(&attempt, "believed to be stolen").await;
}

/// Who copied the key is as fast as the node: there is one certificate to be had, for one of them.
#[tokio::test]
async fn of_many_who_hold_one_old_key_at_once_exactly_one_comes_back() {
    let world = World::new().await;
    let held = world.certify("web-1").await;
    world.clock.advance(NODE_LIFE);
    world.open();
    let mut attempts = Vec::new();
    for number in 0..5 {
        attempts.push(world.prepare(&applicant(number), &held).await.unwrap());
    }
    let finish = |number: usize| world.finish(&attempts[number]);
    let (first, second, third, fourth, fifth) =
        tokio::join!(finish(0), finish(1), finish(2), finish(3), finish(4));
    let answers = [first, second, third, fourth, fifth];
    let refused = |answer: &Result<FinishResponse, Status>| {
        answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
    };
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(answers.iter().filter(|answer| refused(answer)).count(), 4);
    let issued = world.journal.events().into_iter().filter(|event| event.action == Action::NodeRecover);
    assert_eq!(issued.count(), 1);
}

#[tokio::test]
async fn many_come_back_from_one_address_and_keep_no_newcomer_from_joining() {
    let world = World::new().await;
    let mut held = Vec::new();
    for number in 0..40 {
        let name = format!("n{number}");
        world.journal.bind(&node(&name), Some(Timestamp::EPOCH));
        held.push(world.certify(&name).await);
    }
    let bound = (0..40).map(|number| binding(&format!("n{number}"), BindingState::Enabled));
    world.bindings.send_replace(Arc::new(Bindings::new(bound)));
    world.clock.advance(NODE_LIFE);
    let here =
        |number: u8| Applicant { remote: SocketAddr::from(([10, 0, 0, 9], 4000)), ..applicant(number) };
    for number in 0..100 {
        let refused = world.begin(&here(number)).await.unwrap_err().code();
        assert_eq!(
            refused,
            Code::PermissionDenied,
            "{number}: none is in another's way while no window is open"
        );
    }
    world.open();
    for (number, held) in (0..).zip(&held) {
        let answer = world.recover(&here(number), held).await;
        assert!(answer.is_ok(), "{number}: {answer:?}");
    }
    let mut left = 0;
    while world.begin(&here(0)).await.is_ok() {
        left += 1;
    }
    assert_eq!(left, RECOVERY_CALLS_AT_ONCE - 80);
    world.clock.advance(Duration::from_secs(1));
    let mut next = 0;
    while world.begin(&here(0)).await.is_ok() {
        next += 1;
    }
    assert_eq!(next, RECOVERY_CALLS_PER_SECOND);
    // A new node from the same address is let in all the same.
    let mut join = Request::new(BeginRequest {
        method: METHOD_JOIN_TOKEN.to_owned(),
        tenant: Tenant::default().to_string(),
        spki_sha256: vec![0; 32],
    });
    join.extensions_mut().insert(here(0).remote);
    assert!(world.enrolment.begin(join).await.is_ok());
    let spent = world.journal.events().into_iter().filter(|event| event.action == Action::NodeRecover);
    assert_eq!(spent.count(), 40);
}

#[test]
fn a_spend_names_what_it_uses_up() {
    let spend = spiffe::RecoverySpend {
        window: 3,
        node: node("web-1"),
        replaces: certs::Serial::random(),
        spki: certs::SpkiHash([1; 32]),
        from: "127.0.0.1".into(),
    };
    assert_eq!(Spend::Recovery(spend).name(), "recovery 3 of web-1");
}
