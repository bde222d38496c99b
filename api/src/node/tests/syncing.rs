//! Calls that wait for news.

use super::*;

#[tokio::test]
async fn a_held_call_is_answered_when_the_bundle_or_the_root_changes() {
    let world = World::new();
    let peer = world.peer("spiffe://td/credence/node/web-1");
    let held = world.issuer.trust().own().content_hash();
    // Another bundle than ours is answered at once.
    let answer = world.sync(&peer, vec![7; 32]).await.unwrap();
    assert_eq!((answer.bundle_der.len(), answer.renew), (1, false));
    assert_eq!(world.renewal.door.reported_bundle(&node("web-1")).unwrap().bundle, Some([7; 32]));
    // The same one is held, until the bundle changes.
    let other = FakeIssuer::new("td", Arc::new(world.clock.clone()));
    let waiting = world.sync(&peer, held.to_vec());
    let change = async {
        tokio::task::yield_now().await;
        let both = [world.issuer.trust().own().authorities(), other.trust().own().authorities()].concat();
        let domain = other.trust().own().trust_domain().clone();
        world.trust.send_replace(Arc::new(Trust::new(spiffe::TrustBundle::new(domain, both, 1))));
    };
    let (answer, ()) = tokio::join!(waiting, change);
    let answer = answer.unwrap();
    assert_eq!((answer.bundle_der.len(), answer.renew), (2, false));
    // In step again, it is held until the root changes, and then its turn in the spread has come.
    let held = world.trust.borrow().own().content_hash();
    let waiting = world.sync(&peer, held.to_vec());
    let change = async {
        tokio::task::yield_now().await;
        let root = AuthorityId::of(other.trust().own().authorities()[0].spki_hash());
        let since = Some(world.clock.now() - Duration::from_secs(600));
        world.anchor.send_replace(Arc::new(Anchor { root: Some(root), since, ..Anchor::default() }));
    };
    let (answer, ()) = tokio::join!(waiting, change);
    assert_eq!(answer.unwrap(), SyncResponse { bundle_der: vec![], renew: true });
    let report = world.renewal.door.reported_bundle(&node("web-1")).unwrap();
    let authority = AuthorityId::of(peer.svid().authority());
    assert_eq!(report, BundleReport { bundle: Some(held), at: world.clock.now(), authority });
    assert!(world.heard.0.lock().unwrap().is_empty());
    // Whoever is enrolled by this name later has said nothing yet.
    let door = &world.renewal.door;
    door.forget(&node("web-1"), Some(world.clock.now()));
    assert!(door.reported_bundle(&node("web-1")).is_some(), "it said so since");
    door.forget(&node("web-1"), None);
    assert!(door.reported_bundle(&node("web-1")).is_none());
}

#[tokio::test]
async fn a_held_call_ends_with_its_time_its_connection_or_a_newer_call() {
    let world = World::new();
    let peer = world.peer("spiffe://td/credence/node/web-1");
    let held = world.issuer.trust().own().content_hash().to_vec();
    let nothing = SyncResponse::default();
    let pass = async {
        tokio::task::yield_now().await;
        world.clock.advance(Duration::from_secs(51));
    };
    let (answer, ()) = tokio::join!(world.sync(&peer, held.clone()), pass);
    assert_eq!(answer.unwrap(), nothing);

    let going_away = tokio_util::sync::CancellationToken::new();
    let (drain, _driving) = xds::ConnectionDrain::new(going_away.clone());
    let mut request = Request::new(SyncRequest { bundle_sha256: held.clone() });
    request.extensions_mut().insert(Arc::clone(&peer));
    request.extensions_mut().insert(drain);
    let end = async {
        tokio::task::yield_now().await;
        going_away.cancel();
    };
    let (answer, ()) = tokio::join!(world.renewal.sync(request), end);
    assert_eq!(answer.unwrap().into_inner(), nothing);

    let second = async {
        tokio::task::yield_now().await;
        world.sync(&peer, vec![]).await
    };
    let (first, second) = tokio::join!(world.sync(&peer, held), second);
    assert_eq!(first.unwrap_err().code(), Code::Aborted);
    assert_eq!(second.unwrap().bundle_der.len(), 1);
}

#[tokio::test]
async fn waiting_for_news_is_for_bound_nodes_only_and_not_too_often() {
    let world = World::new();
    let stranger = world.peer("spiffe://td/credence/node/unknown");
    let status = world.sync(&stranger, vec![]).await.unwrap_err();
    world.was_refused(&status, Code::PermissionDenied, "node unknown has no enabled binding");
    let peer = world.peer("spiffe://td/credence/node/pay-1");
    let status = world.sync(&peer, vec![1; 31]).await.unwrap_err();
    world.was_refused(&status, Code::PermissionDenied, "bundle hash has 31 octets instead of 32");
    for _ in 1..10 {
        world.sync(&peer, vec![]).await.unwrap();
    }
    let status = world.sync(&peer, vec![]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let key = SecretKey::generate(KeyKind::P256);
    world.renew(&peer, &key, vec![]).await.expect("renewal has a bucket of its own");
}
