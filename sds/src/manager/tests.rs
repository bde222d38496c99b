//! The whole of `sds` with a clock moved by hand and a fake issuer.

use std::{collections::BTreeMap, sync::Mutex};

use audit::{Action, Event};
use certs::ManualClock;
use prost::Message;
use proto::envoy::{
    config::core::v3::data_source::Specifier,
    extensions::transport_sockets::tls::v3::{Secret, secret},
};
use spiffe::{Binding, BindingState, Purpose, VerifiedSvid, fake::FakeIssuer};
use xds::{Resource, SecretOffer};

use super::*;
use crate::{LeafPhase, SdsCounters};

mod edges;
mod imported;
mod signers;

const LIFE: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Event>>);

impl Refusals for Heard {
    fn refuse(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

fn settings() -> SdsSettings {
    SdsSettings { leaf_lifetime: LIFE, jitter: || Jitter::NONE, ..SdsSettings::default() }
}

/// A running manager and everything around it.
struct World {
    clock: ManualClock,
    issuer: Arc<FakeIssuer>,
    trust: watch::Sender<Arc<Trust>>,
    bindings: watch::Sender<Arc<Bindings>>,
    blocks: watch::Sender<Arc<BlockList>>,
    imported: watch::Sender<Arc<ImportedSecrets>>,
    edges: watch::Sender<Arc<EdgeSecrets>>,
    views: watch::Sender<Arc<Views>>,
    signers: watch::Sender<Arc<Signers>>,
    heard: Arc<Heard>,
    sds: Sds,
    shutdown: CancellationToken,
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn binding(name: &str, identities: &[&str]) -> Binding {
    Binding {
        node: node(name),
        tenant: Default::default(),
        namespace: Default::default(),
        labels: Default::default(),
        identities: identities.iter().map(|text| id(text)).collect(),
        issuer: None,
        state: BindingState::Enabled,
        created: Timestamp::EPOCH,
    }
}

fn blocked(ids: &[&str]) -> Arc<BlockList> {
    Arc::new(BlockList::new(ids.iter().map(|text| {
        (id(text), spiffe::Block { since: Timestamp::EPOCH, reason: "test".to_owned(), is_enforced: false })
    })))
}

fn two_nodes() -> Vec<Binding> {
    vec![binding("web-1", &["spiffe://td/web"]), binding("pay-1", &["spiffe://td/payments"])]
}

impl World {
    fn new() -> Self {
        Self::with(two_nodes(), settings(), HashMap::new())
    }

    fn issued_by(issuer: impl FnOnce(Arc<FakeIssuer>) -> Arc<dyn SvidIssuer>) -> Self {
        Self::build(two_nodes(), settings(), HashMap::new(), issuer)
    }

    fn with(bindings: Vec<Binding>, settings: SdsSettings, known: HashMap<LeafKey, Timestamp>) -> Self {
        Self::build(bindings, settings, known, |issuer| issuer)
    }

    fn build(
        bindings: Vec<Binding>,
        settings: SdsSettings,
        known: HashMap<LeafKey, Timestamp>,
        wrapped: impl FnOnce(Arc<FakeIssuer>) -> Arc<dyn SvidIssuer>,
    ) -> Self {
        let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
        let issuer = Arc::new(FakeIssuer::new("td", Arc::new(clock.clone())));
        let (trust, trust_read) = watch::channel(Arc::new(issuer.trust()));
        let (bindings, bindings_read) = watch::channel(Arc::new(Bindings::new(bindings)));
        let (blocks, blocks_read) = watch::channel(blocked(&[]));
        let (imported, imported_read) = watch::channel(Arc::default());
        let (edges, edges_read) = watch::channel(Arc::default());
        let (views, views_read) = watch::channel(Arc::default());
        let (signers, signers_read) = watch::channel(signs(issuer.authority()));
        let heard = Arc::new(Heard::default());
        let inputs = SdsInputs {
            issuer: wrapped(Arc::clone(&issuer)),
            trust: trust_read,
            bindings: bindings_read,
            blocks: blocks_read,
            imported: imported_read,
            edges: edges_read,
            views: views_read,
            signers: signers_read,
            known,
            refusals: Arc::clone(&heard) as Arc<dyn Refusals>,
            clock: Arc::new(clock.clone()),
        };
        let (sds, manager) = SdsManager::new(settings, inputs);
        let shutdown = CancellationToken::new();
        spawn(manager.run(shutdown.clone()));
        Self { clock, issuer, trust, bindings, blocks, imported, edges, views, signers, heard, sds, shutdown }
    }

    fn open(&self, name: &str) -> Stream {
        let id = id(&format!("spiffe://td/credence/node/{name}"));
        let svid = VerifiedSvid::for_tests(id, self.clock.now() + Duration::from_secs(86_400));
        let peer = Arc::new(Peer::new(svid, "127.0.0.1:4000".parse().unwrap()));
        Stream(self.sds.open(&peer, 1))
    }

    /// Waits until what is published satisfies `wanted`.
    async fn status(&self, wanted: impl FnMut(&Arc<SdsStatus>) -> bool) -> Arc<SdsStatus> {
        Arc::clone(&*within(self.sds.status().wait_for(wanted)).await.unwrap())
    }

    /// A drain generation begins, and nobody has a listener.
    fn drained(&self, generation: u64) {
        self.views.send_replace(Arc::new(Views { drained: generation, ..Views::default() }));
    }

    async fn counters(&self, wanted: impl Fn(SdsCounters) -> bool) -> SdsCounters {
        self.status(|status| wanted(status.counters())).await.counters()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no server to spawn for it")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// Turns a wait for ever into a failure.
async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it happens in time")
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

struct Stream(SecretFeed);

impl Stream {
    async fn want(&self, name: &str) {
        self.0.interest.send((name.into(), true)).await.unwrap();
    }

    async fn offered(&mut self, name: &str, wanted: impl Fn(&SecretOffer) -> bool) -> SecretOffer {
        let seen = within(self.0.view.wait_for(|view| view.get(name).is_some_and(&wanted))).await;
        seen.unwrap().get(name).unwrap().clone()
    }

    async fn held(&mut self, name: &str) -> Arc<Resource> {
        match self.offered(name, |offer| matches!(offer, SecretOffer::Held(_))).await {
            SecretOffer::Held(resource) => resource,
            other => panic!("{other:?}"),
        }
    }

    async fn held_other_than(&mut self, name: &str, old: &Arc<Resource>) -> Arc<Resource> {
        let is_new =
            |offer: &SecretOffer| matches!(offer, SecretOffer::Held(new) if new.version() != old.version());
        match self.offered(name, is_new).await {
            SecretOffer::Held(resource) => resource,
            other => panic!("{other:?}"),
        }
    }

    async fn silent(&mut self, name: &str) {
        self.offered(name, |offer| matches!(offer, SecretOffer::Pending)).await;
    }

    async fn absent(&mut self, name: &str) {
        self.offered(name, |offer| matches!(offer, SecretOffer::Absent)).await;
    }

    fn now(&self, name: &str) -> Option<SecretOffer> {
        self.0.view.borrow().get(name).cloned()
    }
}

fn key_pem(resource: &Resource) -> Vec<u8> {
    let secret = Secret::decode(&*resource.to_any().unwrap().value).unwrap();
    let Some(secret::Type::TlsCertificate(certificate)) = secret.r#type else { panic!("no certificate") };
    match certificate.private_key.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => panic!("not inline"),
    }
}

#[tokio::test]
async fn gives_each_node_its_own_leaf_and_the_bundle() {
    let world = World::new();
    let mut web = world.open("web-1");
    world.drained(2);
    for name in ["default", "spiffe://td/web", "spiffe://td/web?g=2", "ROOTCA", "spiffe://td", "ALL"] {
        web.want(name).await;
        assert_eq!(web.held(name).await.name().as_ref(), name);
    }
    let (first, second) = (web.held("default").await, web.held("spiffe://td/web?g=2").await);
    assert_eq!(key_pem(&first), key_pem(&second), "names of one identity share one leaf");
    let requests = world.issuer.seen();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].purpose, requests[0].lifetime), (Purpose::Delivery, LIFE));
    assert_eq!(requests[0].node, Some(node("web-1")));
}

#[tokio::test]
async fn two_streams_of_a_node_share_a_leaf_and_two_nodes_do_not() {
    let both = vec![binding("a", &["spiffe://td/web"]), binding("b", &["spiffe://td/web"])];
    let world = World::with(both, settings(), HashMap::new());
    let (mut one, mut two, mut other) = (world.open("a"), world.open("a"), world.open("b"));
    for stream in [&one, &two, &other] {
        stream.want("default").await;
    }
    let (one, two, other) =
        (one.held("default").await, two.held("default").await, other.held("default").await);
    assert_eq!(one.version(), two.version());
    assert_ne!(key_pem(&one), key_pem(&other), "each node has a key of its own");
    assert_eq!(world.issuer.seen().len(), 2);
}

#[tokio::test]
async fn refuses_secret_of_another_node_and_says_so_in_audit_only() {
    let world = World::new();
    world.drained(1);
    let mut web = world.open("web-1");
    for name in ["spiffe://td/payments", "no-such-name", "spiffe://td/payments?g=1"] {
        web.want(name).await;
        web.absent(name).await;
    }
    assert!(world.issuer.seen().is_empty(), "nothing is requested before access said yes");
    let heard = world.heard.0.lock().unwrap().clone();
    let said: Vec<(&str, &str)> =
        heard.iter().map(|event| (event.object.as_str(), event.reason.as_str())).collect();
    let reason = "identity spiffe://td/payments is not bound to the node";
    assert_eq!(
        said,
        [
            ("spiffe://td/payments", reason),
            ("no-such-name", "no such name"),
            ("spiffe://td/payments?g=1", reason)
        ]
    );
    assert!(heard.iter().all(|event| event.action == Action::SecretRefuse));
    assert_eq!(heard[0].actor.to_string(), "spiffe://td/credence/node/web-1");
}

#[tokio::test]
async fn renews_by_its_own_deadline_and_counts_it() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("default").await;
    let mut leaf = web.held("default").await;
    for rotation in 1..=5 {
        settle().await;
        world.clock.advance(Duration::from_secs(240));
        leaf = web.held_other_than("default", &leaf).await;
        let counters = world.counters(|counters| counters.rotations == rotation).await;
        assert_eq!((counters.deliveries, counters.rotations_forced), (1, 0));
    }
    let requests = world.issuer.seen();
    assert!(
        requests[1..].iter().all(|request| request.purpose == Purpose::Renewal && request.deadline.is_some())
    );
}

#[tokio::test]
async fn keeps_valid_leaf_while_the_issuer_is_down_and_says_that_it_is_at_risk() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("default").await;
    let first = web.held("default").await;
    world.issuer.fail_with(Some(IssueError::Unavailable("sealed".to_owned())));
    for _ in 0..45 {
        settle().await;
        world.clock.advance(Duration::from_secs(10));
    }
    let status = world.status(|status| status.leaves().any(|leaf| leaf.at_risk)).await;
    let leaf = status.leaves().next().unwrap();
    assert_eq!(leaf.last_error.as_deref(), Some("issuer is unavailable: sealed"));
    assert!(leaf.failures >= 3 && status.counters().failures >= 3);
    assert_eq!(web.held("default").await.version(), first.version(), "the valid leaf stays");
    world.issuer.fail_with(None);
    for _ in 0..6 {
        settle().await;
        world.clock.advance(Duration::from_secs(5));
    }
    web.held_other_than("default", &first).await;
    let status = world.status(|status| status.leaves().all(|leaf| leaf.failures == 0)).await;
    assert_eq!(status.leaves().next().unwrap().phase, LeafPhase::Held);
}

#[tokio::test]
async fn an_expired_leaf_becomes_pending_and_never_absent() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("default").await;
    web.held("default").await;
    world.issuer.fail_with(Some(IssueError::Unavailable("gone".to_owned())));
    settle().await;
    world.clock.advance(LIFE);
    web.offered("default", |offer| matches!(offer, SecretOffer::Pending)).await;
    assert_eq!(world.counters(|counters| counters.expired == 1).await.expired, 1);
}

#[tokio::test]
async fn an_issuer_that_never_answers_counts_as_failed() {
    let world = World::new();
    world.issuer.delay_by(Duration::from_secs(1_000_000));
    let mut web = world.open("web-1");
    web.want("default").await;
    settle().await;
    world.clock.advance(Duration::from_secs(30));
    world.counters(|counters| counters.failures == 1).await;
    assert!(matches!(web.now("default"), Some(SecretOffer::Pending)));
    world.issuer.delay_by(Duration::ZERO);
    settle().await;
    world.clock.advance(Duration::from_secs(1));
    web.held("default").await;
}

#[tokio::test]
async fn after_a_restart_names_stay_pending_and_the_least_remaining_life_goes_first() {
    let bindings: Vec<Binding> =
        ["a", "b", "c"].iter().map(|name| binding(name, &["spiffe://td/web"])).collect();
    let end = |secs: i64| Timestamp::from_unix_secs(1_800_000_000 + secs);
    let key = |name: &str| LeafKey { node: node(name), identity: id("spiffe://td/web") };
    let known = HashMap::from([(key("a"), end(300)), (key("b"), end(200)), (key("c"), end(100))]);
    let settings = SdsSettings { max_in_flight: 1, ..settings() };
    let world = World::with(bindings, settings, known);
    world.issuer.delay_by(Duration::from_secs(5));
    let mut streams = [world.open("a"), world.open("b"), world.open("c")];
    for stream in &streams {
        stream.want("default").await;
    }
    for stream in &mut streams {
        stream.offered("default", |offer| matches!(offer, SecretOffer::Pending)).await;
    }
    for _ in 0..3 {
        settle().await;
        world.clock.advance(Duration::from_secs(5));
    }
    for stream in &mut streams {
        stream.held("default").await;
    }
    let seen = world.issuer.seen();
    let order: Vec<String> =
        seen.iter().filter_map(|seen| seen.node.as_ref().map(NodeId::to_string)).collect();
    assert_eq!(order, ["a", "c", "b"], "the first who came, then the least remaining life");
}

#[tokio::test]
async fn a_block_brings_nothing_new_and_removes_nothing_and_lifting_it_brings_a_fresh_leaf() {
    let world = World::new();
    let (mut web, mut pay) = (world.open("web-1"), world.open("pay-1"));
    web.want("default").await;
    web.want("ROOTCA").await;
    pay.want("default").await;
    let before = web.held("default").await;
    let untouched = pay.held("default").await;
    world.blocks.send_replace(blocked(&["spiffe://td/web"]));
    web.silent("default").await;
    web.held("ROOTCA").await;
    world.status(|status| status.leaves().all(|leaf| leaf.node != node("web-1"))).await;
    world.blocks.send_replace(blocked(&[]));
    web.held_other_than("default", &before).await;
    assert_eq!(pay.held("default").await.version(), untouched.version());
    world.blocks.send_replace(blocked(&["spiffe://td/credence/node/web-1"]));
    web.silent("default").await;
    web.silent("ROOTCA").await;
}

#[tokio::test]
async fn an_identity_taken_from_the_binding_is_gone_and_a_new_one_appears() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("spiffe://td/web").await;
    web.want("spiffe://td/shop").await;
    web.want("default").await;
    web.held("spiffe://td/web").await;
    web.absent("spiffe://td/shop").await;
    let old_default = web.held("default").await;
    world.bindings.send_replace(Arc::new(Bindings::new([binding("web-1", &["spiffe://td/shop"])])));
    web.absent("spiffe://td/web").await;
    web.held("spiffe://td/shop").await;
    let new_default = web.held_other_than("default", &old_default).await;
    let shop = web.held("spiffe://td/shop").await;
    assert_eq!(key_pem(&new_default), key_pem(&shop));
    world.bindings.send_replace(Arc::new(Bindings::default()));
    web.absent("default").await;
}

fn signs(id: spiffe::AuthorityId) -> Arc<Signers> {
    Arc::new(Signers::builtin(Some(id)))
}

#[tokio::test]
async fn what_a_tainted_authority_signed_is_replaced_the_most_exposed_first() {
    let bindings = vec![
        binding("pay-1", &["spiffe://td/payments"]),
        binding("web-1", &["spiffe://td/web"]),
        binding("web-2", &["spiffe://td/web"]),
    ];
    let settings = SdsSettings { max_in_flight: 1, ..settings() };
    let world = World::with(bindings, settings, HashMap::new());
    let mut streams = Vec::new();
    for name in ["pay-1", "web-1", "web-2"] {
        let mut stream = world.open(name);
        stream.want("default").await;
        stream.held("default").await;
        // Those of payments end first, and would be asked for first.
        world.clock.advance(Duration::from_secs(1));
        streams.push(stream);
    }
    let id = world.issuer.replace_authority();
    world.signers.send_replace(Arc::new(Signers { is_urgent: true, ..Signers::builtin(Some(id)) }));
    world.status(|status| status.counters().rotations_forced == 3).await;
    let asked: Vec<_> = world.issuer.seen().into_iter().skip(3).map(|one| one.id.path().to_owned()).collect();
    assert_eq!(asked, ["/web", "/web", "/payments"]);
}

#[tokio::test]
async fn another_authority_forces_new_leaves_spread_over_the_window() {
    let world = World::with(
        two_nodes(),
        SdsSettings { authority_spread: Duration::ZERO, ..settings() },
        HashMap::new(),
    );
    let mut web = world.open("web-1");
    web.want("default").await;
    let before = web.held("default").await;
    let active = world.issuer.replace_authority();
    world.signers.send_replace(Arc::new(Signers::builtin(None)));
    world.signers.send_replace(signs(active));
    web.held_other_than("default", &before).await;
    let status = world.status(|status| status.counters().rotations_forced == 1).await;
    assert_eq!(status.leaves().next().unwrap().authority, Some(active));
    assert_eq!(world.issuer.seen().last().unwrap().purpose, Purpose::ForcedRenewal);
}

#[tokio::test]
async fn a_new_bundle_reaches_every_context() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("ROOTCA").await;
    web.want("default").await;
    let (before, leaf) = (web.held("ROOTCA").await, web.held("default").await);
    let other = FakeIssuer::new("td", Arc::new(world.clock.clone()));
    world.trust.send_replace(Arc::new(other.trust()));
    web.held_other_than("ROOTCA", &before).await;
    assert_eq!(web.held("default").await.version(), leaf.version());
}

#[tokio::test]
async fn lists_come_with_the_context_and_a_revoked_leaf_is_replaced() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("ROOTCA").await;
    web.want("default").await;
    let (before, leaf) = (web.held("ROOTCA").await, web.held("default").await);
    let status = world.status(|status| status.context("ROOTCA").is_some()).await;
    assert_eq!(status.context("ROOTCA").unwrap().lists, None);

    let serial = world.sds.status().borrow().leaves().next().unwrap().serial.clone().unwrap();
    let authority = world.issuer.authority();
    let life = Duration::from_secs(60);
    let lists = spiffe::RevocationLists::new(vec![world.issuer.list(3, std::slice::from_ref(&serial), life)]);
    let trust = world.issuer.trust();
    let revoked = trust.clone().with_revoked(Arc::new([(authority, serial.clone())].into()));
    world.trust.send_replace(Arc::new(revoked.with_lists(spiffe::Lists::Shown(Arc::new(lists)))));
    web.held_other_than("default", &leaf).await;
    assert_eq!(world.issuer.seen().last().unwrap().purpose, Purpose::ForcedRenewal);
    let with = web.held_other_than("ROOTCA", &before).await;
    let status = world.status(|status| status.context("ROOTCA").is_some_and(|one| one.lists.is_some())).await;
    let context = status.context("ROOTCA").unwrap();
    assert_eq!(context.lists, Some([(authority, 3)].into()));
    assert_eq!(context.version, *with.version());

    // Whatever else fails, a list that has ended is with nobody.
    settle().await;
    world.clock.advance(life);
    let without = web.held_other_than("ROOTCA", &with).await;
    assert_eq!(without.version(), before.version());
}

#[tokio::test]
async fn a_leaf_outlives_its_last_stream_by_the_grace_and_is_then_dropped() {
    let world = World::with(
        two_nodes(),
        SdsSettings { grace: Duration::from_secs(60), ..settings() },
        HashMap::new(),
    );
    let mut web = world.open("web-1");
    web.want("default").await;
    let first = web.held("default").await;
    drop(web);
    world.status(|status| status.leaves().all(|leaf| !leaf.wanted)).await;
    let mut again = world.open("web-1");
    again.want("default").await;
    assert_eq!(again.held("default").await.version(), first.version(), "no new leaf for a short absence");
    drop(again);
    world.status(|status| status.leaves().all(|leaf| !leaf.wanted)).await;
    settle().await;
    world.clock.advance(Duration::from_secs(60));
    world.status(|status| status.leaves().next().is_none()).await;
    assert_eq!(world.issuer.seen().len(), 1);
}

#[tokio::test]
async fn what_the_node_answers_is_in_the_status() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("default").await;
    let leaf = web.held("default").await;
    let name: Arc<str> = "default".into();
    world.sds.settled(&node("web-1"), &name, leaf.version(), None);
    let status = world.status(|status| status.leaves().any(|leaf| leaf.acknowledged.is_some())).await;
    let shown = status.leaf(&node("web-1"), &id("spiffe://td/web")).unwrap();
    assert_eq!(shown.acknowledged, shown.serial);
    world.sds.settled(&node("web-1"), &name, leaf.version(), Some("key does not match"));
    let status = world.status(|status| status.counters().refused_by_node == 1).await;
    assert_eq!(status.leaves().next().unwrap().refusal.as_deref(), Some("key does not match"));
}

#[tokio::test]
async fn the_status_tells_by_which_names_the_newest_acknowledged_leaf_has_which_version() {
    let world = World::new();
    let (mut one, mut two) = (world.open("web-1"), world.open("web-1"));
    one.want("default").await;
    let old = one.held("default").await;
    let version = |leaf: &Arc<Resource>| Some(leaf.version().clone());
    let check = async |expected: &[(&str, Option<Version>)]| {
        let expected: BTreeMap<Arc<str>, _> =
            expected.iter().map(|(name, version)| ((*name).into(), version.clone())).collect();
        world.status(|status| status.leaves().all(|leaf| leaf.names == expected)).await;
    };
    check(&[("default", None)]).await;
    world.sds.settled(&node("web-1"), &"default".into(), old.version(), None);
    check(&[("default", version(&old))]).await;
    // It is the same leaf by another name, whoever has answered to that.
    two.want("spiffe://td/web").await;
    let other = two.held("spiffe://td/web").await;
    check(&[("default", version(&old)), ("spiffe://td/web", version(&other))]).await;
    world.sds.settled(&node("web-1"), &"spiffe://td/web".into(), other.version(), None);
    settle().await;
    world.clock.advance(Duration::from_secs(240));
    let new = one.held_other_than("default", &old).await;
    check(&[("default", version(&old)), ("spiffe://td/web", version(&other))]).await;
    world.sds.settled(&node("web-1"), &"default".into(), new.version(), None);
    let other = two.held_other_than("spiffe://td/web", &other).await;
    check(&[("default", version(&new)), ("spiffe://td/web", version(&other))]).await;
    drop(two);
    check(&[("default", version(&new))]).await;
}

#[tokio::test]
async fn a_thousand_nodes_get_their_leaves_with_a_bounded_number_of_requests() {
    let names: Vec<String> = (0..1000).map(|n| format!("n{n}")).collect();
    let bindings = names.iter().map(|name| binding(name, &["spiffe://td/web"])).collect();
    let world = World::with(bindings, settings(), HashMap::new());
    world.issuer.delay_by(Duration::from_secs(1));
    let mut streams: Vec<Stream> = names.iter().map(|name| world.open(name)).collect();
    for stream in &streams {
        stream.want("default").await;
    }
    for _ in 0..6 {
        world.status(|status| status.leaves().count() == 1000).await;
        settle().await;
        world.clock.advance(Duration::from_secs(1));
    }
    for stream in &mut streams {
        stream.held("default").await;
    }
    assert_eq!(world.issuer.most_running(), 256);
    assert_eq!(world.issuer.seen().len(), 1000);
    let counters = world.counters(|counters| counters.deliveries == 1000).await;
    assert_eq!(counters.failures, 0);
}

#[tokio::test]
async fn a_stream_that_asks_for_too_much_is_bounded() {
    let world = World::new();
    let mut web = world.open("web-1");
    world.drained(u64::MAX);
    for number in 0..crate::deliveries::MAX_NAMES + 50 {
        web.want(&format!("ROOTCA?g={number}")).await;
    }
    web.held(&format!("ROOTCA?g={}", crate::deliveries::MAX_NAMES - 1)).await;
    settle().await;
    assert_eq!(web.0.view.borrow().len(), crate::deliveries::MAX_NAMES);
}

#[tokio::test]
async fn no_node_keeps_what_others_acknowledge_from_being_known() {
    let world = World::new();
    let limit = crate::deliveries::MAX_NAMES;
    let mut streams: Vec<_> = (0..16).map(|_| world.open("pay-1")).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        let names: Vec<_> = (1..=limit).map(|name| format!("ROOTCA?g={}", number * limit + name)).collect();
        for name in &names {
            stream.want(name).await;
        }
        stream.offered(&names[limit - 1], |_| true).await;
    }
    let mut web = world.open("web-1");
    web.want("spiffe://td").await;
    web.held("spiffe://td").await;
    let status = world.status(|status| status.context("spiffe://td").is_some()).await;
    assert!(!status.context("spiffe://td").unwrap().roots.is_empty());
    // The generation that begins is known too, though everybody asks for it first.
    web.want("spiffe://td?g=1").await;
    web.absent("spiffe://td?g=1").await;
    world.drained(1);
    web.held("spiffe://td?g=1").await;
    world.status(|status| status.context("spiffe://td?g=1").is_some()).await;
    // It begins together with other news.
    web.want("spiffe://td?g=2").await;
    web.absent("spiffe://td?g=2").await;
    world.blocks.send_replace(blocked(&["spiffe://td/payments"]));
    world.drained(2);
    web.held("spiffe://td?g=2").await;
}

#[tokio::test]
async fn a_name_that_stays_refused_is_audited_once() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("spiffe://td/payments").await;
    web.want("ROOTCA").await;
    web.absent("spiffe://td/payments").await;
    let before = web.held("ROOTCA").await;
    let other = FakeIssuer::new("td", Arc::new(world.clock.clone()));
    world.trust.send_replace(Arc::new(other.trust()));
    web.held_other_than("ROOTCA", &before).await;
    assert_eq!(world.heard.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_leaf_that_was_under_way_when_access_was_withdrawn_is_never_offered() {
    let world = World::new();
    world.issuer.delay_by(Duration::from_secs(5));
    let mut web = world.open("web-1");
    web.want("default").await;
    settle().await;
    world.blocks.send_replace(blocked(&["spiffe://td/web"]));
    settle().await;
    world.blocks.send_replace(blocked(&[]));
    web.offered("default", |offer| matches!(offer, SecretOffer::Pending)).await;
    world.clock.advance(Duration::from_secs(5));
    settle().await;
    assert_eq!(world.issuer.seen().len(), 2, "the first result is thrown away, and asked for again");
    let mut late = world.open("web-1");
    late.want("spiffe://td/web").await;
    late.offered("spiffe://td/web", |offer| matches!(offer, SecretOffer::Pending)).await;
    world.clock.advance(Duration::from_secs(5));
    web.held("default").await;
}

#[tokio::test]
async fn an_answer_to_an_older_version_says_nothing_about_the_new_one() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("default").await;
    let old = web.held("default").await;
    settle().await;
    world.clock.advance(Duration::from_secs(240));
    let new = web.held_other_than("default", &old).await;
    let name: Arc<str> = "default".into();
    world.sds.settled(&node("web-1"), &name, old.version(), None);
    settle().await;
    let status = Arc::clone(&world.sds.status().borrow());
    assert_eq!(status.leaves().next().unwrap().acknowledged, None);
    world.sds.settled(&node("web-1"), &name, new.version(), None);
    world.status(|status| status.leaves().any(|leaf| leaf.acknowledged.is_some())).await;
}

/// Certifies a key of its own instead of the one it was given.
struct WrongKey(Arc<FakeIssuer>);

#[async_trait::async_trait]
impl SvidIssuer for WrongKey {
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        let public_key = SecretKey::generate(Profile::Workload.key_kind()).public().clone();
        self.0.issue(SvidRequest { public_key, ..request }).await
    }
}

#[tokio::test]
async fn a_certificate_for_another_key_is_thrown_away() {
    let world = World::issued_by(|issuer| Arc::new(WrongKey(issuer)));
    let mut web = world.open("web-1");
    web.want("default").await;
    let status = world.status(|status| status.counters().failures == 1).await;
    let error = status.leaves().next().unwrap().last_error.clone().unwrap();
    assert_eq!(error, "issued certificate failed its own check: it certifies another key");
    web.offered("default", |offer| matches!(offer, SecretOffer::Pending)).await;
}

#[tokio::test]
async fn a_root_that_ends_leaves_its_contexts() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("ROOTCA").await;
    web.want("ALL").await;
    web.held("ALL").await;
    settle().await;
    world.clock.advance(Duration::from_secs(366 * 86_400));
    for name in ["ROOTCA", "ALL"] {
        web.offered(name, |offer| matches!(offer, SecretOffer::Pending)).await;
    }
}

#[tokio::test]
async fn a_peer_that_is_no_node_finds_the_door_closed() {
    let world = World::new();
    let svid = VerifiedSvid::for_tests(id("spiffe://td/web"), Timestamp::MAX);
    let peer = Arc::new(Peer::new(svid, "127.0.0.1:4000".parse().unwrap()));
    let feed = world.sds.open(&peer, 1);
    assert!(feed.interest.is_closed());
}
