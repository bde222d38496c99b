//! Whole streams: by calling the service, and once over a real HTTP/2 connection.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use certs::ManualClock;
use futures::{FutureExt, SinkExt, channel::mpsc as frames};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
};
use spiffe::{Binding, BindingState, Labels, Namespace, NodeId, SpiffeId, Tenant, Timestamp, VerifiedSvid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Hub, Resource, SecretFeed, SecretOffer, SecretView, Snapshot, Sync, Uptake, Version, ViewId,
    wire::Deframer,
};

const ADS_DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const ADS_SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const T0: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

#[derive(Debug, Default)]
struct Ears(Mutex<Vec<audit::Event>>);

impl Refusals for Ears {
    fn refuse(&self, event: audit::Event) {
        self.0.lock().unwrap().push(event);
    }
}

type Interests = mpsc::Receiver<(Arc<str>, bool)>;

/// Secrets as a test offers them.
#[derive(Debug)]
struct Offers {
    view: watch::Sender<SecretView>,
    interests: Mutex<Vec<Interests>>,
    settled: Mutex<Vec<String>>,
    /// Takes no stream any more.
    is_full: AtomicBool,
}

impl SecretSource for Offers {
    fn open(&self, _: &Arc<Peer>, _: u64) -> SecretFeed {
        let (interest, wanted) = mpsc::channel(4);
        if self.is_full.load(Ordering::Relaxed) {
            return SecretFeed { interest, view: watch::channel(SecretView::new()).1 };
        }
        self.interests.lock().unwrap().push(wanted);
        SecretFeed { interest, view: self.view.subscribe() }
    }

    fn settled(&self, node: &NodeId, name: &Arc<str>, version: &Version, refusal: Option<&str>) {
        self.settled.lock().unwrap().push(format!("{node} {name} {version} {refusal:?}"));
    }
}

struct World {
    hub: Hub,
    views: Views,
    bindings: watch::Sender<Arc<Bindings>>,
    blocks: watch::Sender<Arc<BlockList>>,
    offers: Arc<Offers>,
    ears: Arc<Ears>,
    clock: ManualClock,
    board: Arc<Board>,
    server: XdsServer,
}

fn id_of(node: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.test/credence/node/{node}")).unwrap()
}

fn peer_of(node: &str) -> Arc<Peer> {
    let svid = VerifiedSvid::for_tests(id_of(node), T0 + Duration::from_secs(3600));
    Arc::new(Peer::new(svid, "192.0.2.7:40000".parse().unwrap()))
}

fn binding_of(node: &str) -> Binding {
    Binding {
        node: NodeId::parse(node).unwrap(),
        tenant: Tenant::default(),
        namespace: Namespace::default(),
        labels: Labels::new(),
        identities: vec![SpiffeId::parse("spiffe://example.test/web").unwrap()],
        issuer: None,
        state: BindingState::Enabled,
        created: T0,
    }
}

impl World {
    /// Nodes `n0` to `nN`, all of one view.
    fn new(nodes: usize) -> Self {
        let names: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
        let hub = Hub::new(Arc::default());
        let mut views = Views { revision: 1, ..Views::default() };
        for name in &names {
            views.view_of.insert(NodeId::parse(name).unwrap(), ViewId(1));
        }
        views.snapshots.insert(ViewId(1), Arc::default());
        hub.publish(views.clone());
        let bindings = Bindings::new(names.iter().map(|name| binding_of(name)));
        let (bindings, blocks) = (watch::Sender::new(Arc::new(bindings)), watch::Sender::new(Arc::default()));
        let offers = Arc::new(Offers {
            view: watch::Sender::new(SecretView::new()),
            interests: Mutex::default(),
            settled: Mutex::default(),
            is_full: AtomicBool::default(),
        });
        let (ears, board, clock) = (Arc::<Ears>::default(), Arc::<Board>::default(), ManualClock::new(T0));
        let server = XdsServer::new(XdsDeps {
            views: hub.subscribe(),
            bindings: bindings.subscribe(),
            blocks: blocks.subscribe(),
            secrets: offers.clone(),
            status: board.clone(),
            audit: ears.clone(),
            clock: Arc::new(clock.clone()),
            traffic: hub.traffic().clone(),
            limits: Limits::default(),
            identifier: "credence".into(),
        });
        Self { hub, views, bindings, blocks, offers, ears, clock, board, server }
    }

    fn publish(&mut self, resources: impl IntoIterator<Item = (TypeUrl, String, Vec<u8>)>) {
        let mut snapshot = Snapshot::clone(&self.views.snapshots[&ViewId(1)]);
        for (type_url, name, content) in resources {
            snapshot.insert(Arc::new(Resource::new(type_url, name, content, vec![])));
        }
        self.views.snapshots.insert(ViewId(1), Arc::new(snapshot));
        self.views.revision += 1;
        assert!(self.hub.publish(self.views.clone()));
    }

    fn publish_one(&mut self, type_url: TypeUrl, name: &str, content: &str) {
        self.publish([(type_url, name.to_owned(), content.as_bytes().to_vec())]);
    }

    fn reasons(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.ears.0.lock().unwrap());
        events.into_iter().map(|event| event.reason).collect()
    }
}

type Inbound = frames::Receiver<Result<Frame<Bytes>, Infallible>>;
type Requests = frames::Sender<Result<Frame<Bytes>, Infallible>>;

/// The other end of one stream.
struct Client {
    node: String,
    requests: Requests,
    response: Response<XdsBody>,
    deframer: Deframer,
    trailers: Option<HeaderMap>,
    said_node: bool,
}

fn request(path: &str) -> (Requests, Request<StreamBody<Inbound>>) {
    let (requests, body) = frames::channel(1024);
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(StreamBody::new(body))
        .unwrap();
    (requests, request)
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

impl Client {
    fn open(world: &World, node: &str, path: &str) -> Self {
        Self::open_on(world, node, path, None)
    }

    fn open_on(world: &World, node: &str, path: &str, connection: Option<&ConnectionDrain>) -> Self {
        let (requests, mut request) = request(path);
        request.extensions_mut().insert(peer_of(node));
        request.extensions_mut().extend(
            connection
                .cloned()
                .map(|connection| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(connection);
                    extensions
                })
                .unwrap_or_default(),
        );
        let response = world.server.call(request);
        let (deframer, node) = (Deframer::new(1 << 30), node.to_owned());
        Self { node, requests, response, deframer, trailers: None, said_node: false }
    }

    fn node(&mut self) -> Option<Node> {
        let node = Node { id: self.node.clone(), user_agent_name: "envoy".to_owned(), ..Node::default() };
        (!std::mem::replace(&mut self.said_node, true)).then_some(node)
    }

    fn say(&mut self, message: &impl Message) {
        self.requests.try_send(Ok(Frame::data(framed(message)))).unwrap();
    }

    fn subscribe(&mut self, type_url: TypeUrl, names: &[&str]) {
        let message = DeltaDiscoveryRequest {
            node: self.node(),
            type_url: type_url.as_str().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        self.say(&message);
    }

    fn answer(&mut self, response: &DeltaDiscoveryResponse, refusal: Option<&str>) {
        let message = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refusal.map(|words| proto::google::rpc::Status {
                code: 13,
                message: words.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.say(&message);
    }

    /// The next message, if one comes without waiting for anything.
    fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.deframer.next().unwrap() {
                return Some(message);
            }
            match tokio::task::unconstrained(self.response.body_mut().frame()).now_or_never()?? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.deframer.push(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Err(Aborted) => return None,
            }
        }
    }

    fn delta(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.next().map(|message| DeltaDiscoveryResponse::decode(message).unwrap())
    }

    fn names(&mut self) -> Option<Vec<String>> {
        let response = self.delta()?;
        self.answer(&response, None);
        let _ = self.requests.flush().now_or_never();
        Some(response.resources.into_iter().map(|resource| resource.name).collect())
    }

    /// Code and message of the end, if it came.
    fn status(&mut self) -> Option<(u16, String)> {
        while self.next().is_some() {}
        status_words(self.trailers.as_ref()?)
    }
}

fn status_words(headers: &HeaderMap) -> Option<(u16, String)> {
    let code = headers.get("grpc-status")?.to_str().unwrap().parse().unwrap();
    let message = headers.get("grpc-message").map(|message| message.to_str().unwrap().to_owned());
    Some((code, message.unwrap_or_default()))
}

/// xds.md 139, 160, R12: code and correlation id, nothing else.
#[tokio::test]
async fn who_may_not_is_told_a_code_and_an_id() {
    let world = World::new(1);
    let check = |path: &str, peer: Option<Arc<Peer>>, expected: u16, reason: &str| {
        let (_requests, mut request) = request(path);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let response = world.server.call(request);
        assert_eq!(response.status(), StatusCode::OK);
        let (code, message) = status_words(response.headers()).unwrap();
        assert_eq!(code, expected, "{path}");
        assert!(message.starts_with("request ") && message.len() == 24, "{message}");
        assert_eq!(world.reasons(), [reason]);
    };
    check(ADS_DELTA, None, 16, "the connection has no verified identity");
    check(ADS_DELTA, Some(peer_of("stranger")), 7, "the node has no enabled binding");
    let fetch = "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters";
    check(fetch, Some(peer_of("n0")), 12, &format!("no such method: {fetch}"));
    let (_requests, mut plain) = request(ADS_DELTA);
    plain.headers_mut().remove(header::CONTENT_TYPE);
    assert_eq!(world.server.call(plain).status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(world.server.open_streams(), 0);
}

/// xds.md 9.
#[test]
fn streams_of_seven_services_are_served_and_nothing_else() {
    let only = |path: &str| method_of(path).map(|method| (method.only, method.delta));
    assert_eq!(only(ADS_DELTA), Some((None, true)));
    assert_eq!(only(ADS_SOTW), Some((None, false)));
    let sds = "/envoy.service.secret.v3.SecretDiscoveryService/";
    assert_eq!(only(&format!("{sds}StreamSecrets")), Some((Some(TypeUrl::Secret), false)));
    assert_eq!(only(&format!("{sds}DeltaSecrets")), Some((Some(TypeUrl::Secret), true)));
    for call in ["FetchSecrets", "StreamListeners", "Secrets", "streamsecrets", ""] {
        assert_eq!(only(&format!("{sds}{call}")), None, "{call}");
    }
    assert_eq!(only("/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"), None);
}

#[tokio::test]
async fn a_change_reaches_the_node_and_its_answer_the_board() {
    let mut world = World::new(1);
    world.publish_one(TypeUrl::Cluster, "a", "1");
    let mut client = Client::open(&world, "n0", ADS_DELTA);
    let node = NodeId::parse("n0").unwrap();
    let mut changes = world.board.changes(&node);
    let uptake = |world: &World| {
        let snapshot = world.views.get(&node).unwrap();
        world.board.uptake(&node, snapshot, &[TypeUrl::Cluster, TypeUrl::Extension])
    };
    client.subscribe(TypeUrl::Cluster, &[]);
    let response = client.delta().unwrap();
    assert_eq!(response.resources[0].name, "a");
    assert_eq!(uptake(&world), Uptake::Waiting);
    assert_eq!(response.control_plane.as_ref().unwrap().identifier, "credence");
    let status = world.board.node(&node).unwrap();
    assert_eq!((status.sync, status.is_connected), (Sync::Stale, true));
    client.answer(&response, None);
    assert_eq!(client.delta(), None);
    let status = world.board.node(&node).unwrap();
    assert_eq!(status.sync, Sync::Synced);
    assert_eq!(uptake(&world), Uptake::Acknowledged);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    world.publish_one(TypeUrl::Cluster, "a", "2");
    assert_eq!(uptake(&world), Uptake::Waiting, "what it acknowledged is not the newest");
    let response = client.delta().unwrap();
    client.answer(&response, Some("no\rway"));
    assert_eq!(client.delta(), None);
    assert_eq!(uptake(&world), Uptake::Refused);
    let status = world.board.node(&node).unwrap();
    let resource = &status.streams[0].types[0].resources[0];
    assert_eq!(status.sync, Sync::Nack);
    assert_eq!(resource.nack.as_ref().unwrap().words, "no way");
    assert_eq!(resource.acked.as_deref(), Some(Version::of(b"1").as_str()));
    assert_eq!(status.streams[0].agent, "envoy");
    assert!(changes.has_changed().unwrap());
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.contains("\"NACK\""), "{text}");
    // A filter that it never asked for is one that it does not have.
    world.publish_one(TypeUrl::Cluster, "a", "3");
    let response = client.delta().unwrap();
    client.answer(&response, None);
    assert_eq!(client.delta(), None);
    assert_eq!(uptake(&world), Uptake::Acknowledged);
    world.publish_one(TypeUrl::Extension, "f", "1");
    assert_eq!(uptake(&world), Uptake::Waiting);
    drop(client);
    assert_eq!(uptake(&world), Uptake::Offline);
    let status = world.board.node(&node).unwrap();
    assert_eq!((status.is_connected, status.streams.len()), (false, 1));
    assert_eq!(world.hub.traffic().read().streams_open, 0);
}

/// A route that is gone is no longer wanted by whoever had it, and nobody waits for anything then.
#[tokio::test]
async fn what_a_node_wants_no_longer_is_not_missing_on_the_board() {
    let node = NodeId::parse("n0").unwrap();
    for path in [ADS_DELTA, ADS_SOTW] {
        let is_delta = path == ADS_DELTA;
        let mut world = World::new(1);
        world.publish_one(TypeUrl::Route, "a", "1");
        let mut client = Client::open(&world, "n0", path);
        let want = |client: &mut Client, names: &[&str], dropped: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let (node, type_url) = (client.node(), TypeUrl::Route.as_str().to_owned());
            match is_delta {
                true => client.say(&DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe: owned(names),
                    resource_names_unsubscribe: owned(dropped),
                    ..Default::default()
                }),
                false => client.say(&DiscoveryRequest {
                    node,
                    type_url,
                    resource_names: owned(names),
                    ..Default::default()
                }),
            }
        };
        let read = |client: &mut Client| while client.next().is_some() {};
        want(&mut client, &["b"], &[]);
        read(&mut client);
        let status = world.board.node(&node).unwrap();
        assert_ne!(status.sync, Sync::Synced, "{path}: there is no b");
        want(&mut client, &["a"], &["b"]);
        read(&mut client);
        let status = world.board.node(&node).unwrap();
        let listed: Vec<_> =
            status.streams[0].types[0].resources.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(listed, ["a"], "{path}");
        want(&mut client, &[], &["a"]);
        read(&mut client);
        let status = world.board.node(&node).unwrap();
        assert_eq!(status.sync, Sync::Synced, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn whole_sets_flow_too() {
    let mut world = World::new(1);
    world.publish_one(TypeUrl::Listener, "l", "1");
    let mut client = Client::open(&world, "n0", ADS_SOTW);
    let first = DiscoveryRequest {
        node: client.node(),
        type_url: TypeUrl::Listener.as_str().to_owned(),
        ..Default::default()
    };
    client.say(&first);
    let response = DiscoveryResponse::decode(client.next().unwrap()).unwrap();
    assert_eq!(response.resources.len(), 1);
    assert!(!response.version_info.is_empty() && response.version_info.len() <= 22);
}

/// Performance finding 5: the work is the change. That one resource is encoded for it, the catalog proves.
#[tokio::test]
async fn one_change_among_many_is_sent_to_who_asked() {
    const RESOURCES: usize = 10_000;
    const STREAMS: usize = 1000;
    let mut world = World::new(STREAMS);
    world.publish((0..RESOURCES).map(|n| (TypeUrl::Endpoints, format!("e{n}"), n.to_be_bytes().to_vec())));
    let mut clients: Vec<_> =
        (0..STREAMS).map(|n| Client::open(&world, &format!("n{n}"), ADS_DELTA)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.subscribe(TypeUrl::Endpoints, &[&format!("e{}", n / 10)]);
        assert_eq!(client.names().unwrap(), [format!("e{}", n / 10)]);
        assert_eq!(client.names(), None);
    }
    let before = world.hub.traffic().read();
    world.publish_one(TypeUrl::Endpoints, "e7", "changed");
    let told: Vec<usize> = clients
        .iter_mut()
        .enumerate()
        .filter_map(|(n, client)| {
            let names = client.names()?;
            assert_eq!(names, ["e7"]);
            assert_eq!(client.names(), None);
            Some(n)
        })
        .collect();
    assert_eq!(told, (70..80).collect::<Vec<_>>());
    let after = world.hub.traffic().read();
    assert_eq!(after.responses - before.responses, 10);
    assert_eq!(after.resources_sent - before.resources_sent, 10);
    drop(clients);
    assert_eq!(world.server.open_streams(), 0, "xds.md 13");
}

#[tokio::test]
async fn secrets_come_from_their_source_and_answers_go_back() {
    let world = World::new(1);
    let mut client = Client::open(&world, "n0", ADS_DELTA);
    client.subscribe(TypeUrl::Secret, &["default", "a", "b", "c", "d", "e"]);
    assert_eq!(client.delta(), None);
    let mut interests = world.offers.interests.lock().unwrap().pop().unwrap();
    let mut wanted = Vec::new();
    loop {
        let before = wanted.len();
        wanted.extend(std::iter::from_fn(|| interests.try_recv().ok()).map(|(name, _)| name.to_string()));
        assert_eq!(client.delta(), None);
        if wanted.len() == before {
            break;
        }
    }
    assert_eq!(wanted, ["default", "a", "b", "c", "d", "e"]);
    let version = Version::keyed(&[7; 32], b"key");
    let secret = Resource::with_version(TypeUrl::Secret, "default", version.clone(), b"key".to_vec(), vec![]);
    world.offers.view.send_modify(|view| {
        view.insert("default".into(), SecretOffer::Held(Arc::new(secret)));
    });
    assert_eq!(client.names().unwrap(), ["default"]);
    assert_eq!(client.names(), None);
    assert_eq!(*world.offers.settled.lock().unwrap(), [format!("n0 default {version} None")]);
    let status = world.board.node(&NodeId::parse("n0").unwrap()).unwrap();
    let text = format!("{:?}{status:?}", world.board);
    assert!(text.contains(version.as_str()) && !text.contains("bytes)"), "versions only: {text}");
}

/// It would wait for its secrets as long as its connection lives.
#[tokio::test]
async fn a_stream_that_the_source_of_secrets_does_not_follow_ends_so_that_the_node_comes_again() {
    let world = World::new(1);
    let mut client = Client::open(&world, "n0", ADS_DELTA);
    client.subscribe(TypeUrl::Secret, &["default"]);
    assert_eq!(client.status(), None);
    drop(world.offers.interests.lock().unwrap().pop().unwrap());
    client.subscribe(TypeUrl::Secret, &["other"]);
    assert_eq!(client.status().unwrap().0, 14);
    world.offers.is_full.store(true, Ordering::Relaxed);
    let mut client = Client::open(&world, "n0", ADS_DELTA);
    client.subscribe(TypeUrl::Secret, &["default"]);
    assert_eq!(client.status().unwrap().0, 14);
}

/// The peer changes its mind faster than the source listens.
#[tokio::test]
async fn nothing_is_read_while_too_many_interests_wait() {
    const FRAMES: usize = 5;
    let world = World::new(1);
    let limit = Limits::default().names_per_stream;
    let names: Vec<String> = (0..limit).map(|n| format!("s{n}")).collect();
    let mut client = Client::open(&world, "n0", ADS_DELTA);
    for _ in 0..FRAMES {
        let message = |node, wanted: &[String], left: &[String]| DeltaDiscoveryRequest {
            node,
            type_url: TypeUrl::Secret.as_str().to_owned(),
            resource_names_subscribe: wanted.to_vec(),
            resource_names_unsubscribe: left.to_vec(),
            ..Default::default()
        };
        // Two in one frame: what is received already waits, too.
        let (first, second) = (message(client.node(), &names, &[]), message(None, &[], &names));
        client.requests.try_send(Ok(Frame::data([framed(&first), framed(&second)].concat().into()))).unwrap();
    }
    assert_eq!(client.delta(), None);
    let mut interests = world.offers.interests.lock().unwrap().pop().unwrap();
    let mut taken = Vec::new();
    loop {
        let read = usize::try_from(world.hub.traffic().read().requests).unwrap();
        assert!(read <= taken.len() / limit + 3, "{read} requests are read, {} interests taken", taken.len());
        let before = taken.len();
        taken.extend(std::iter::from_fn(|| interests.try_recv().ok()));
        if taken.len() == before {
            break;
        }
        assert_eq!(client.delta(), None);
    }
    let expected = (0..FRAMES).flat_map(|_| [true, false]);
    let expected =
        expected.flat_map(|wanted| names.iter().map(move |name| (Arc::from(name.as_str()), wanted)));
    assert!(taken.into_iter().eq(expected), "each in its turn, and none lost");
}

/// xds.md 143, R8.
#[tokio::test]
async fn a_block_or_a_lost_binding_ends_streams_at_once() {
    let world = World::new(3);
    let mut clients: Vec<_> = (0..3).map(|n| Client::open(&world, &format!("n{n}"), ADS_DELTA)).collect();
    for client in &mut clients {
        client.subscribe(TypeUrl::Cluster, &[]);
        assert_eq!(client.names().unwrap(), [""; 0]);
    }
    world.blocks.send_replace(Arc::new(BlockList::new([(
        id_of("n0"),
        spiffe::Block { since: T0, reason: "stolen".to_owned(), is_enforced: false },
    )])));
    world.bindings.send_replace(Arc::new(Bindings::new([binding_of("n0"), binding_of("n2")])));
    let codes: Vec<_> = clients.iter_mut().map(|client| client.status().map(|(code, _)| code)).collect();
    assert_eq!(codes, [Some(7), Some(7), None]);
    assert_eq!(world.reasons(), ["the identity is blocked", "the node has no enabled binding"]);
}

/// R9.
#[tokio::test]
async fn the_newest_streams_of_a_node_win() {
    let world = World::new(1);
    let mut clients: Vec<_> = (0..17).map(|_| Client::open(&world, "n0", ADS_DELTA)).collect();
    let ended: Vec<_> = clients.iter_mut().map(|client| client.status().map(|(code, _)| code)).collect();
    assert_eq!(ended[0], Some(8));
    assert!(ended[1..].iter().all(Option::is_none));
    assert_eq!(world.server.open_streams(), 16);
}

/// xds.md 14, 147.
#[tokio::test]
async fn garbage_ends_its_own_stream_only() {
    let world = World::new(1);
    let mut good = Client::open(&world, "n0", ADS_DELTA);
    for garbage in [&b"\0\0\0\0\x02\xff\xff"[..], b"\x01\0\0\0\0", b"\0\xff\xff\xff\xff"] {
        let mut bad = Client::open(&world, "n0", ADS_DELTA);
        bad.requests.try_send(Ok(Frame::data(Bytes::from_static(garbage)))).unwrap();
        assert!(bad.status().is_some(), "{garbage:?}");
    }
    good.subscribe(TypeUrl::Cluster, &[]);
    assert_eq!(good.names().unwrap(), [""; 0]);
}

/// xds.md 135.
#[tokio::test]
async fn a_draining_connection_ends_its_streams_in_peace() {
    let world = World::new(1);
    let going_away = CancellationToken::new();
    let (connection, mut driving) = ConnectionDrain::new(going_away.clone());
    let mut client = Client::open_on(&world, "n0", ADS_DELTA, Some(&connection));
    client.subscribe(TypeUrl::Cluster, &[]);
    assert!((&mut driving).now_or_never().is_none());
    assert!(client.delta().is_some());
    going_away.cancel();
    // The piece that was taken makes room for the status.
    for _ in 0..3 {
        assert!((&mut driving).now_or_never().is_none());
        let _ = client.status();
    }
    assert_eq!(client.status(), Some((0, String::new())));
    drop(connection);
    drop(client);
    assert!((&mut driving).now_or_never().is_some(), "nothing is left to do");
}

/// xds.md 133, 134: reading and watching go on while nobody reads what we write.
#[tokio::test]
async fn a_reader_that_stalls_is_closed() {
    let mut world = World::new(1);
    let big = "x".repeat(8000);
    world.publish((0..10).map(|n| (TypeUrl::Cluster, format!("c{n}"), big.clone().into_bytes())));
    let (connection, mut driving) = ConnectionDrain::new(CancellationToken::new());
    let mut client = Client::open_on(&world, "n0", ADS_DELTA, Some(&connection));
    client.subscribe(TypeUrl::Cluster, &[]);
    assert!((&mut driving).now_or_never().is_none());
    world.clock.advance(Duration::from_secs(29));
    assert!((&mut driving).now_or_never().is_none());
    assert!(!connection.stalled().is_cancelled());
    world.clock.advance(Duration::from_secs(1));
    assert!((&mut driving).now_or_never().is_none());
    assert!(connection.stalled().is_cancelled());
    assert_eq!(world.reasons(), ["the peer did not read for too long"]);
}

/// The same over sockets' worth of HTTP/2.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test drives both ends of a connection")]
async fn streams_work_over_http2() {
    let mut world = World::new(1);
    let big = "x".repeat(300_000);
    world.publish((0..10).map(|n| (TypeUrl::Cluster, format!("c{n}"), big.clone().into_bytes())));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let going_away = CancellationToken::new();
    let (connection, driving) = ConnectionDrain::new(going_away.clone());
    let server = world.server.clone();
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer_of("n0"));
        request.extensions_mut().insert(connection.clone());
        ready(Ok::<_, Infallible>(server.call(request)))
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(far), service);
    let serving = tokio::spawn(async move { tokio::join!(serving, driving).0 });
    let (mut calls, client) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    let client = tokio::spawn(client);
    let (mut requests, request) = request(&format!("http://credence{ADS_DELTA}"));
    let say = |requests: &mut Requests, message: DeltaDiscoveryRequest| {
        requests.try_send(Ok(Frame::data(framed(&message)))).unwrap();
    };
    say(
        &mut requests,
        DeltaDiscoveryRequest {
            node: Some(Node { id: "n0".to_owned(), ..Node::default() }),
            type_url: TypeUrl::Cluster.as_str().to_owned(),
            ..Default::default()
        },
    );
    let mut response = calls.send_request(request).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    let (mut deframer, mut names, mut trailers) = (Deframer::new(1 << 22), Vec::new(), None);
    while let Some(frame) = response.body_mut().frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => deframer.push(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        while let Some(message) = deframer.next().unwrap() {
            let response = DeltaDiscoveryResponse::decode(message).unwrap();
            names.extend(response.resources.into_iter().map(|resource| resource.name));
            say(
                &mut requests,
                DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    ..Default::default()
                },
            );
            if names.len() == 10 {
                going_away.cancel();
            }
        }
    }
    assert_eq!(names.len(), 10);
    assert_eq!(status_words(&trailers.unwrap()), Some((0, String::new())));
    drop((calls, requests, response));
    client.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
    assert_eq!(world.server.open_streams(), 0);
}

mod proof;
