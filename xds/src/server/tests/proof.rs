//! Which of our roots a node has proven.

use spiffe::{AuthorityId, Proof};

use super::*;

fn root(number: u8) -> AuthorityId {
    AuthorityId::of(certs::SpkiHash([number; 32]))
}

fn at(secs: u64) -> Timestamp {
    T0 + Duration::from_secs(secs)
}

/// Opens a stream on a connection whose handshake was done under `proof`.
fn open(world: &World, node: &str, proof: Option<Proof>) -> (Requests, Response<XdsBody>) {
    let (requests, mut request) = request(ADS_DELTA);
    request.extensions_mut().insert(Arc::new(Peer::clone(&peer_of(node)).with_proof(proof)));
    let mut response = world.server.call(request);
    assert_eq!(response.headers().get("grpc-status"), None);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::pin::Pin::new(response.body_mut()).poll_frame(&mut context);
    (requests, response)
}

#[tokio::test]
async fn a_stream_proves_the_root_under_which_its_connection_was_made() {
    let world = World::new(2);
    let node = NodeId::parse("n0").unwrap();
    assert!(world.board.proven_roots(&node).is_empty());
    drop(open(&world, "n0", None));
    assert!(world.board.proven_roots(&node).is_empty(), "a handshake that could end at several roots");
    let first = open(&world, "n0", Some(Proof { root: root(1), at: at(1) }));
    let status = world.board.node(&node).unwrap();
    assert_eq!(status.streams[0].server_root, Some(root(1)));
    let second = open(&world, "n0", Some(Proof { root: root(2), at: at(5) }));
    // A stream reopened on the connection of before proves nothing newer.
    let third = open(&world, "n0", Some(Proof { root: root(1), at: at(1) }));
    let proven = [(root(1), at(1)), (root(2), at(5))].into();
    assert_eq!(world.board.proven_roots(&node), proven);
    drop((first, second, third));
    assert_eq!(world.board.node(&node).unwrap().proven_roots, proven, "it stays when the node leaves");
    assert!(world.board.proven_roots(&NodeId::parse("n1").unwrap()).is_empty());
    let signer = AuthorityId::of(peer_of("n0").svid().authority());
    assert_eq!(
        world.board.shown_authority(&node),
        Some(signer),
        "who signed what it came with last stays too"
    );
    assert_eq!(world.board.shown_authority(&NodeId::parse("n1").unwrap()), None);
    for number in 10..30 {
        drop(open(&world, "n0", Some(Proof { root: root(number), at: at(u64::from(number)) })));
    }
    let proven = world.board.proven_roots(&node);
    assert_eq!(proven.len(), 8);
    assert!(proven.values().all(|time| *time >= at(22)), "the newest proofs stay");
}

#[tokio::test]
async fn a_node_that_is_removed_leaves_nothing_to_whoever_is_enrolled_by_its_name() {
    let world = World::new(2);
    let node = NodeId::parse("n0").unwrap();
    let before = open(&world, "n0", Some(Proof { root: root(1), at: at(1) }));
    world.board.forget(&node, None);
    assert!(world.board.node(&node).is_none());
    drop(before);
    assert!(world.board.nodes().is_empty(), "nor does a stream that ends only then");
    // Another one came before anybody heard that the first was gone.
    let old = open(&world, "n0", Some(Proof { root: root(1), at: at(1) }));
    world.clock.advance(Duration::from_secs(10));
    let enrolled = world.clock.now();
    let new = open(&world, "n0", Some(Proof { root: root(2), at: enrolled }));
    world.board.forget(&node, Some(enrolled));
    let left = world.board.node(&node).unwrap();
    assert_eq!((left.streams.len(), left.proven_roots), (1, [(root(2), enrolled)].into()));
    drop((old, new));
    world.board.forget(&node, Some(enrolled + Duration::from_secs(1)));
    assert!(world.board.node(&node).is_none());
}
