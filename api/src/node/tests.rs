//! Enrolment and renewal over a store in memory, a fake issuer, and a clock moved by hand.

use std::{collections::HashMap, net::SocketAddr};

use async_trait::async_trait;
use certs::{Csr, KeyKind, ManualClock, SecretKey, SoftwareSigner};
use proto::credence::v1::{
    BeginRequest, FinishRequest, FinishResponse, RenewRequest, RenewResponse, SyncRequest, SyncResponse,
    enrolment_service_server::EnrolmentService, renewal_service_server::RenewalService,
};
use spiffe::{
    AuthorityId, BindingState, IssuerName, Peer, Purpose, VerifiedSvid,
    attestation::{Claim, MAX_WRONG_SECRETS, METHOD_JOIN_TOKEN},
    fake::FakeIssuer,
};
use tonic::{Code, Request};

use super::*;

const TOKEN_KEY: [u8; 32] = [5; 32];
const LIFE: Duration = Duration::from_secs(600);

/// Whose certificates were heard of, and of which root.
type Certificates = Arc<Mutex<Vec<(NodeId, AuthorityId)>>>;

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Event>>);

impl Refusals for Heard {
    fn refuse(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// Tokens in memory; the rest of the port is not the node door's.
#[derive(Default)]
struct Tokens {
    kept: Mutex<HashMap<String, StoredToken>>,
    burned: Mutex<Vec<Event>>,
}

#[async_trait]
impl NodeStore for Tokens {
    async fn bindings(&self) -> Result<Vec<Binding>, StoreError> {
        Err(StoreError::Unavailable("not asked for".to_owned()))
    }

    async fn enroll(&self, _: &Binding, token: &StoredToken, _: bool, _: Event) -> Result<(), StoreError> {
        self.kept.lock().unwrap().insert(token.id.clone(), token.clone());
        Ok(())
    }

    async fn set_issuer(&self, _: &NodeId, _: Option<&IssuerName>, _: Event) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("not asked for".to_owned()))
    }

    async fn remove(&self, _: &NodeId, _: Event) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("not asked for".to_owned()))
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        Ok(self.kept.lock().unwrap().values().cloned().collect())
    }

    async fn unused_tokens(&self, _: Timestamp) -> Result<Vec<StoredToken>, StoreError> {
        Err(StoreError::Unavailable("not asked for".to_owned()))
    }

    async fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError> {
        Ok(self.kept.lock().unwrap().get(id).cloned())
    }

    async fn revoke_token(&self, _: &str, _: Event) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("not asked for".to_owned()))
    }

    async fn token_failure(&self, id: &str, burned: Event) -> Result<u32, StoreError> {
        let mut kept = self.kept.lock().unwrap();
        let not_found = || StoreError::NotFound { what: "token", name: id.to_owned() };
        let token = kept.get_mut(id).ok_or_else(not_found)?;
        token.failures += 1;
        if token.failures == MAX_WRONG_SECRETS {
            token.revoked = Some(burned.at);
            self.burned.lock().unwrap().push(burned);
        }
        Ok(token.failures)
    }

    async fn token_key(&self) -> Result<[u8; 32], StoreError> {
        Ok(TOKEN_KEY)
    }
}

struct World {
    clock: ManualClock,
    issuer: Arc<FakeIssuer>,
    tokens: Arc<Tokens>,
    bindings: watch::Sender<Arc<Bindings>>,
    blocks: watch::Sender<Arc<BlockList>>,
    trust: watch::Sender<Arc<Trust>>,
    anchor: watch::Sender<Arc<Anchor>>,
    heard: Arc<Heard>,
    certified: Certificates,
    enrolment: Enrolment,
    renewal: Renewal,
}

/// One TLS connection of a would-be node: its exporter, its address, and the key it holds.
struct Applicant {
    exporter: [u8; 32],
    remote: SocketAddr,
    key: SecretKey,
}

/// What an applicant sends last; tests bend it.
struct Attempt {
    request: FinishRequest,
    exporter: [u8; 32],
    remote: SocketAddr,
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn binding(name: &str, state: BindingState) -> Binding {
    Binding {
        node: node(name),
        tenant: Tenant::default(),
        namespace: Default::default(),
        labels: Default::default(),
        identities: vec![SpiffeId::parse("spiffe://td/web").unwrap()],
        issuer: None,
        state,
        created: Timestamp::EPOCH,
    }
}

fn applicant(number: u8) -> Applicant {
    Applicant {
        exporter: [number; 32],
        remote: SocketAddr::from(([10, 0, 0, number], 4000)),
        key: SecretKey::generate(KeyKind::P256),
    }
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
        let issuer = Arc::new(FakeIssuer::new("td", Arc::new(clock.clone())));
        let tokens = Arc::new(Tokens::default());
        let enabled = ["web-1", "pay-1"].map(|name| binding(name, BindingState::Enabled));
        let (trust, trust_read) = watch::channel(Arc::new(issuer.trust()));
        let root = AuthorityId::of(issuer.trust().own().authorities()[0].spki_hash());
        let anchor = Anchor { root: Some(root), since: Some(clock.now()), ..Anchor::default() };
        let (anchor, anchor_read) = watch::channel(Arc::new(anchor));
        let (bindings, bindings_read) = watch::channel(Arc::new(Bindings::new(enabled)));
        let (blocks, blocks_read) = watch::channel(Arc::new(BlockList::default()));
        let heard = Arc::new(Heard::default());
        let certified: Certificates = Arc::default();
        let inputs = NodeInputs {
            issuer: Arc::clone(&issuer) as Arc<dyn SvidIssuer>,
            store: Arc::clone(&tokens) as Arc<dyn NodeStore>,
            trust: trust_read,
            anchor: anchor_read,
            authority: watch::channel(None).1,
            bindings: bindings_read,
            blocks: blocks_read,
            recovery: watch::channel(None).1,
            journal: Arc::new(ca::testing::MemoryStore::new()),
            refusals: Arc::clone(&heard) as Arc<dyn Refusals>,
            certified: {
                let certified = Arc::clone(&certified);
                Box::new(move |node, root| certified.lock().unwrap().push((node.clone(), root)))
            },
            clock: Arc::new(clock.clone()),
        };
        let door = NodeDoor::new(NodeSettings { calls_at_once: 10, ..NodeSettings::default() }, inputs);
        let (enrolment, renewal) = (Enrolment::new(Arc::clone(&door)), Renewal::new(door));
        Self { clock, issuer, tokens, bindings, blocks, trust, anchor, heard, certified, enrolment, renewal }
    }

    /// A token for `name`, as `proxy enroll` makes it.
    fn token(&self, name: &str) -> JoinToken {
        let now = self.clock.now();
        let (token, stored) =
            new_token(&TOKEN_KEY, Tenant::default(), node(name), "ann".to_owned(), LIFE, now);
        self.tokens.kept.lock().unwrap().insert(stored.id.clone(), stored);
        token
    }

    /// Does what an honest agent does, up to the last message.
    async fn prepare(&self, who: &Applicant, token: &JoinToken) -> Attempt {
        let spki = who.key.public().hash();
        let tenant = token.tenant().to_string();
        let begin = BeginRequest {
            method: METHOD_JOIN_TOKEN.to_owned(),
            tenant: tenant.clone(),
            spki_sha256: spki.0.to_vec(),
        };
        let mut begin = Request::new(begin);
        begin.extensions_mut().insert(who.remote);
        let challenge = self.enrolment.begin(begin).await.unwrap().into_inner();
        let claim = Claim {
            nonce: &challenge.nonce,
            exporter: &who.exporter,
            spki,
            method: METHOD_JOIN_TOKEN,
            tenant: token.tenant(),
        };
        let proof = claim.prove(&SoftwareSigner::try_new(&who.key).unwrap()).unwrap();
        let request = FinishRequest {
            method: METHOD_JOIN_TOKEN.to_owned(),
            tenant,
            cookie: challenge.cookie,
            join_token: token.to_clear_text(),
            csr_der: Csr::build(&who.key),
            proof,
            ..FinishRequest::default()
        };
        Attempt { request, exporter: who.exporter, remote: who.remote }
    }

    async fn finish(&self, attempt: &Attempt) -> Result<FinishResponse, Status> {
        let mut request = Request::new(attempt.request.clone());
        request.extensions_mut().insert(attempt.remote);
        request.extensions_mut().insert(TlsExporter(attempt.exporter));
        self.enrolment.finish(request).await.map(tonic::Response::into_inner)
    }

    /// The attempt is refused, the applicant hears an id only, and audit says why under it.
    async fn refuses(&self, attempt: &Attempt, reason: &str) {
        let status = self.finish(attempt).await.unwrap_err();
        self.was_refused(&status, Code::PermissionDenied, reason);
    }

    fn was_refused(&self, status: &Status, code: Code, reason: &str) {
        assert_eq!(status.code(), code, "{status:?}");
        let heard = self.heard.0.lock().unwrap();
        let event = heard.last().unwrap();
        let id = event.request_id.as_ref().unwrap();
        let word = if code == Code::Unavailable { "unavailable" } else { "refused" };
        assert_eq!(status.message(), format!("{word}, id {id}"));
        assert!(status.details().is_empty() && status.metadata().is_empty());
        assert_eq!(event.reason, reason);
    }

    async fn renew(&self, peer: &Arc<Peer>, key: &SecretKey, held: Vec<u8>) -> Result<RenewResponse, Status> {
        let mut request = Request::new(RenewRequest { csr_der: Csr::build(key), bundle_sha256: held });
        request.extensions_mut().insert(Arc::clone(peer));
        self.renewal.renew(request).await.map(tonic::Response::into_inner)
    }

    async fn sync(&self, peer: &Arc<Peer>, held: Vec<u8>) -> Result<SyncResponse, Status> {
        let mut request = Request::new(SyncRequest { bundle_sha256: held });
        request.extensions_mut().insert(Arc::clone(peer));
        self.renewal.sync(request).await.map(tonic::Response::into_inner)
    }

    fn peer(&self, id: &str) -> Arc<Peer> {
        let end = self.clock.now() + Duration::from_secs(3600);
        let root = self.issuer.trust().own().authorities()[0].spki_hash();
        let svid = VerifiedSvid::for_tests(SpiffeId::parse(id).unwrap(), end).signed_by(root, root);
        Arc::new(Peer::new(svid, SocketAddr::from(([10, 0, 0, 1], 4000))))
    }

    fn issued(&self) -> usize {
        self.issuer.seen().len()
    }
}

#[tokio::test]
async fn a_good_token_and_key_earn_the_certificate_of_the_bound_node() {
    let world = World::new();
    let who = applicant(1);
    let attempt = world.prepare(&who, &world.token("web-1")).await;
    let answer = world.finish(&attempt).await.unwrap();
    let leaf = Certificate::from_der(&answer.chain_der[0]).unwrap();
    assert_eq!(leaf.spki_hash(), who.key.public().hash());
    assert_eq!(answer.chain_der.len(), 2);
    assert_eq!(answer.bundle_der.len(), 1);
    assert_eq!(answer.spiffe_id, "spiffe://td/credence/node/web-1");
    assert_eq!((answer.node_id.as_str(), answer.namespace.as_str()), ("web-1", "default"));
    assert_eq!(answer.server_id, "spiffe://td/credence/server");
    assert_eq!(answer.trust_domain, "td");
    assert_eq!(answer.not_after_unix_ms, leaf.not_after().unix_millis());
    let request = world.issuer.seen().remove(0);
    assert_eq!((request.profile, request.purpose), (Profile::Node, Purpose::Enrolment));
    assert_eq!(request.lifetime, Duration::from_secs(86_400));
}

#[tokio::test]
async fn a_lost_answer_is_repeated_and_another_key_finds_the_token_spent() {
    let world = World::new();
    let (who, thief, token) = (applicant(1), applicant(2), world.token("web-1"));
    let first = world.finish(&world.prepare(&who, &token).await).await.unwrap();
    let again = world.finish(&world.prepare(&who, &token).await).await.unwrap();
    assert_eq!(first.chain_der, again.chain_der);
    world.refuses(&world.prepare(&thief, &token).await, "join token was used already").await;
    world.clock.advance(LIFE);
    world.refuses(&world.prepare(&who, &token).await, "join token has expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_who_spend_one_token_at_once_exactly_one_wins() {
    let world = Arc::new(World::new());
    let token = Arc::new(world.token("web-1"));
    let start = Arc::new(tokio::sync::Barrier::new(200));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (world, token, start) = (Arc::clone(&world), Arc::clone(&token), Arc::clone(&start));
        tasks.spawn(async move {
            let attempt = world.prepare(&applicant(number), &token).await;
            start.wait().await;
            world.finish(&attempt).await
        });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    assert!(refused.clone().all(|status| status.code() == Code::PermissionDenied));
    assert_eq!(refused.count(), 199);
}

#[tokio::test]
async fn evidence_fits_its_own_connection_key_and_request_only() {
    let world = World::new();
    let (who, token) = (applicant(1), world.token("web-1"));
    let good = world.prepare(&who, &token).await;
    let bent = |change: &dyn Fn(&mut Attempt)| {
        let mut attempt =
            Attempt { request: good.request.clone(), exporter: good.exporter, remote: good.remote };
        change(&mut attempt);
        attempt
    };
    let other = applicant(2);
    let check = async |reason: &str, change: &dyn Fn(&mut Attempt)| {
        world.refuses(&bent(change), reason).await;
        world.clock.advance(Duration::from_secs(2));
    };
    let (proof, cookie) =
        ("enrolment proof does not hold", "enrolment cookie is not ours, or was made for another request");
    check(proof, &|attempt| attempt.exporter = [9; 32]).await;
    check(cookie, &|attempt| attempt.request.csr_der = Csr::build(&other.key)).await;
    check(cookie, &|attempt| attempt.request.tenant = "acme".to_owned()).await;
    check("tenant is malformed", &|attempt| attempt.request.tenant = "A B".to_owned()).await;
    check(cookie, &|attempt| attempt.request.cookie.clear()).await;
    check(cookie, &|attempt| attempt.request.cookie[0] ^= 1).await;
    check(proof, &|attempt| attempt.request.proof.clear()).await;
    check("method \"x509pop\" is unknown", &|attempt| attempt.request.method = "x509pop".to_owned()).await;
    check("join token does not have the form crd1_TENANT_ID_SECRET_CRC", &|attempt| {
        attempt.request.join_token.clear();
    })
    .await;
    assert_eq!(world.issued(), 0);
    world.finish(&good).await.expect("nothing of it burned the token");
}

#[tokio::test]
async fn a_cookie_is_good_for_a_minute_and_a_connection() {
    let world = World::new();
    let (who, token) = (applicant(1), world.token("web-1"));
    let mut replayed = world.prepare(&who, &token).await;
    world.finish(&replayed).await.unwrap();
    replayed.exporter = [2; 32];
    world.refuses(&replayed, "enrolment proof does not hold").await;
    let late = world.prepare(&who, &token).await;
    world.clock.advance(Duration::from_secs(60));
    world.refuses(&late, "enrolment cookie has expired").await;
}

#[tokio::test]
async fn nothing_is_enrolled_without_keying_material_of_the_connection() {
    let world = World::new();
    let attempt = world.prepare(&applicant(1), &world.token("web-1")).await;
    let mut request = Request::new(attempt.request);
    request.extensions_mut().insert(attempt.remote);
    let status = world.enrolment.finish(request).await.unwrap_err();
    world.was_refused(&status, Code::PermissionDenied, "the connection exports no keying material");
}

#[tokio::test]
async fn the_fifth_wrong_secret_burns_the_token() {
    let world = World::new();
    let token = world.token("web-1");
    // The same id with a secret of another token: what somebody sends who saw only the id.
    let stranger = JoinToken::generate(Tenant::default());
    let text = |token: &JoinToken| token.to_clear_text().split('_').nth(3).unwrap().to_owned();
    let forged = token.to_clear_text().replace(&text(&token), &text(&stranger));
    let forged = with_check_sum(&forged);
    for attempt in 1..=MAX_WRONG_SECRETS {
        let mut wrong = world.prepare(&applicant(attempt as u8), &token).await;
        wrong.request.join_token = forged.clone();
        world.refuses(&wrong, "join token has a wrong secret").await;
        assert_eq!(world.tokens.burned.lock().unwrap().len(), usize::from(attempt == MAX_WRONG_SECRETS));
    }
    let burned = world.tokens.burned.lock().unwrap()[0].clone();
    assert_eq!((burned.action, burned.actor.to_string().as_str()), (Action::TokenBurn, "10.0.0.5"));
    assert_eq!(burned.object, format!("token {}", token.id()));
    world.refuses(&world.prepare(&applicant(9), &token).await, "join token was revoked").await;
    assert_eq!(world.issued(), 0);
}

/// The check sum is no secret: whoever forges a token computes it.
fn with_check_sum(text: &str) -> String {
    let (body, _) = text.rsplit_once('_').unwrap();
    let crc = !body.bytes().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    format!("{body}_{crc:08x}")
}

#[tokio::test]
async fn an_unknown_token_is_refused_like_any_other() {
    let world = World::new();
    let unknown = JoinToken::generate(Tenant::default());
    world.refuses(&world.prepare(&applicant(1), &unknown).await, "join token is unknown").await;
}

#[tokio::test]
async fn disabled_removed_and_blocked_nodes_neither_enrol_nor_renew() {
    let world = World::new();
    let peer = world.peer("spiffe://td/credence/node/web-1");
    let check = async |reason: &str| {
        world.refuses(&world.prepare(&applicant(1), &world.token("web-1")).await, reason).await;
        let status = world.renew(&peer, &SecretKey::generate(KeyKind::P256), vec![]).await.unwrap_err();
        world.was_refused(&status, Code::PermissionDenied, reason);
        assert_eq!(world.heard.0.lock().unwrap().last().unwrap().action, Action::RenewalRefuse);
    };
    world.bindings.send_replace(Arc::new(Bindings::new([binding("web-1", BindingState::Disabled)])));
    check("node web-1 has no enabled binding").await;
    world.bindings.send_replace(Arc::default());
    check("node web-1 has no enabled binding").await;
    world.bindings.send_replace(Arc::new(Bindings::new([binding("web-1", BindingState::Enabled)])));
    let id = SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap();
    world.blocks.send_replace(Arc::new(BlockList::new([(
        id,
        spiffe::Block { since: Timestamp::EPOCH, reason: "lost".to_owned(), is_enforced: false },
    )])));
    check("identity spiffe://td/credence/node/web-1 is blocked").await;
    assert_eq!(world.issued(), 0);
}

#[tokio::test]
async fn the_certificate_of_a_removed_node_does_not_renew_for_its_successor() {
    let world = World::new();
    let now = world.clock.now();
    let mut successor = binding("web-1", BindingState::Enabled);
    successor.created = now;
    world.bindings.send_replace(Arc::new(Bindings::new([successor])));
    let renew_from = async |not_before| {
        let id = SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap();
        let svid = VerifiedSvid::for_tests(id, now + Duration::from_secs(3600)).valid_from(not_before);
        let peer = Arc::new(Peer::new(svid, applicant(1).remote));
        world.renew(&peer, &SecretKey::generate(KeyKind::P256), vec![]).await
    };
    // Issued a second before the successor was admitted, and as much backdated as all are.
    let earlier = now - Duration::from_secs(61);
    let status = renew_from(earlier.floor_secs()).await.unwrap_err();
    let reason = "certificate is of an earlier node web-1, which was removed";
    world.was_refused(&status, Code::PermissionDenied, reason);
    assert!(renew_from((now - Duration::from_secs(60)).floor_secs()).await.is_ok());
}

#[tokio::test]
async fn a_binding_moved_to_another_tenant_takes_no_token_of_the_old_one() {
    let world = World::new();
    let token = world.token("web-1");
    let moved = Binding { tenant: Tenant::parse("acme").unwrap(), ..binding("web-1", BindingState::Enabled) };
    world.bindings.send_replace(Arc::new(Bindings::new([moved])));
    world.refuses(&world.prepare(&applicant(1), &token).await, "node web-1 has no enabled binding").await;
}

#[tokio::test]
async fn an_address_that_calls_too_often_is_held_back_alone() {
    let world = World::new();
    let begin = |remote: [u8; 4]| {
        let mut request = Request::new(BeginRequest {
            method: METHOD_JOIN_TOKEN.to_owned(),
            tenant: "default".to_owned(),
            spki_sha256: vec![0; 32],
        });
        request.extensions_mut().insert(SocketAddr::from((remote, 4000)));
        world.enrolment.begin(request)
    };
    for _ in 0..10 {
        begin([10, 0, 0, 1]).await.unwrap();
    }
    let status = begin([10, 0, 0, 1]).await.unwrap_err();
    world.was_refused(&status, Code::ResourceExhausted, "too many calls from one caller");
    begin([10, 0, 0, 2]).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    begin([10, 0, 0, 1]).await.unwrap();
    assert!(begin([10, 0, 0, 1]).await.is_err());
}

#[tokio::test]
async fn an_issuer_that_is_away_is_no_fault_of_the_node() {
    let world = World::new();
    let (who, token) = (applicant(1), world.token("web-1"));
    world.issuer.fail_with(Some(IssueError::Unavailable("sealed".to_owned())));
    let status = world.finish(&world.prepare(&who, &token).await).await.unwrap_err();
    world.was_refused(&status, Code::Unavailable, "issuer is unavailable: sealed");
    world.issuer.fail_with(None);
    world.finish(&world.prepare(&who, &token).await).await.expect("the token was not spent");
}

#[tokio::test]
async fn a_node_renews_itself_with_a_new_key() {
    let world = World::new();
    let peer = world.peer("spiffe://td/credence/node/web-1");
    let key = SecretKey::generate(KeyKind::P256);
    let answer = world.renew(&peer, &key, vec![]).await.unwrap();
    let leaf = Certificate::from_der(&answer.chain_der[0]).unwrap();
    assert_eq!(leaf.spki_hash(), key.public().hash());
    assert_eq!(answer.bundle_der.len(), 1);
    let request = world.issuer.seen().remove(0);
    assert_eq!(request.id.as_str(), "spiffe://td/credence/node/web-1");
    assert_eq!((request.purpose, request.deadline), (Purpose::NodeRenewal, Some(peer.svid().not_after())));
    assert!(world.certified.lock().unwrap().is_empty(), "of its authority no root is known");
    let issuing = Some(world.issuer.authority());
    let anchor = Anchor { issuing, ..world.anchor.borrow().as_ref().clone() };
    world.anchor.send_replace(Arc::new(anchor.clone()));
    let held = world.issuer.trust().own().content_hash().to_vec();
    let answer = world.renew(&peer, &SecretKey::generate(KeyKind::P256), held).await.unwrap();
    assert!(answer.bundle_der.is_empty(), "a bundle that is held is not sent");
    assert_eq!(*world.certified.lock().unwrap(), [(node("web-1"), anchor.root.unwrap())]);
}

#[tokio::test]
async fn renewal_refuses_the_old_key_expired_peers_and_other_classes() {
    let world = World::new();
    let key = SecretKey::generate(KeyKind::P256);
    let check = async |peer: &Arc<Peer>, reason: &str| {
        let status = world.renew(peer, &key, vec![]).await.unwrap_err();
        world.was_refused(&status, Code::PermissionDenied, reason);
    };
    for id in ["spiffe://td/web", "spiffe://td/credence/operator/ann", "spiffe://td/credence/server"] {
        check(&world.peer(id), "the connection proved no node identity").await;
    }
    check(&world.peer("spiffe://td/credence/node/stranger"), "node stranger has no enabled binding").await;
    let node_id = "spiffe://td/credence/node/web-1";
    let same =
        VerifiedSvid::for_tests_with_key(node_id.parse().unwrap(), Timestamp::MAX, key.public().hash());
    check(&Arc::new(Peer::new(same, applicant(1).remote)), "renewal brought the key that it should replace")
        .await;
    let over = world.peer(node_id);
    world.clock.advance(Duration::from_secs(3600));
    check(&over, "certificate of the connection has expired").await;
    let status = world.renewal.renew(Request::new(RenewRequest::default())).await.unwrap_err();
    world.was_refused(&status, Code::PermissionDenied, "the connection proved no node identity");
    assert_eq!(world.issued(), 0);
}

#[tokio::test]
async fn a_request_that_is_no_csr_is_refused() {
    let world = World::new();
    let mut attempt = world.prepare(&applicant(1), &world.token("web-1")).await;
    attempt.request.csr_der = vec![0x30; 100];
    assert!(world.finish(&attempt).await.is_err());
    let heard = world.heard.0.lock().unwrap().last().unwrap().clone();
    assert_eq!((heard.action, heard.actor.to_string().as_str()), (Action::EnrolRefuse, "10.0.0.1"));
}

#[test]
fn neither_statuses_nor_traces_can_hold_a_token() {
    let token = JoinToken::generate(Tenant::default());
    let secret = token.to_clear_text().split('_').nth(3).unwrap().to_owned();
    let request = FinishRequest { join_token: token.to_clear_text(), ..FinishRequest::default() };
    assert!(!format!("{request:?} {token:?} {:?}", TlsExporter([7; 32])).contains(&secret));
    assert!(!format!("{:?}", TlsExporter([7; 32])).contains('7'));
}

mod recovery;
mod syncing;
