//! Two worlds side by side have nothing to say to one another.

use kit::{
    Identity, Outcome, Pair, TestWorld, WorldOptions, envoy, eventually, front, get, probe, renew,
    shakes_hands, try_http, try_stream,
};

const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_operators_of_one_world_are_strangers_in_the_other() {
    let (a, b) = tokio::join!(
        TestWorld::boot("worlds-a", WorldOptions::default()),
        TestWorld::boot("worlds-b", WorldOptions::default())
    );
    for (here, there) in [(&a, &b), (&b, &a)] {
        let node = here.node("twin", &["twin"]).await;
        let operator = Identity::from_files(
            &here.sandbox().path("credence-admin/operator.crt"),
            &here.sandbox().path("credence-admin/operator.key"),
        );
        let outcome = try_stream(there.ports().xds, Some(&node.identity), ADS).await;
        assert!(outcome.is_refused_by_tls(), "{outcome:?}");
        assert!(renew(there.ports().xds, &node.identity).await.is_err());
        let outcome = try_http(there.ports().rest, Some(&operator), "/api/v1/status").await;
        assert!(outcome.is_refused_by_tls(), "{outcome:?}");
        there.audit_says(&["connection-refuse", here.domain()]).await;
        let token = here.enroll("later", &["later"]).await;
        let key = certs::SecretKey::generate(certs::KeyKind::P256);
        assert!(kit::Enrolment::join(there.ports().enrolment, &token, &key).await.is_err());
        // At home it works.
        here.workload(&node, "default").await;
    }
    a.finish().await;
    b.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_one_world_do_not_shake_hands_with_those_of_the_other() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut a = TestWorld::boot("worlds-proxies-a", options.clone()).await;
    let mut b = TestWorld::boot("worlds-proxies-b", options).await;
    let of_a = Pair::start(&mut a).await;
    let of_b = Pair::start(&mut b).await;

    // Serials and identities are of the right world each.
    for (world, pair) in [(&a, &of_a), (&b, &of_b)] {
        assert_eq!(probe(pair.pay).await.and_then(|shown| shown.id), Some(world.id("pay")));
    }
    // A client of a, with a real certificate, at the proxy of b.
    let client = a.node("client", &["web"]).await;
    let client = a.workload(&client, "default").await;
    let home = shakes_hands(of_a.pay, Some(&client)).await;
    assert!(matches!(home, Outcome::Http { status: 200, .. }), "{home:?}");
    let abroad = shakes_hands(of_b.pay, Some(&client)).await;
    assert!(abroad.is_refused_by_tls(), "{abroad:?}");
    // The proxy web of a, sent to the proxy pay of b.
    let astray = front("web", of_a.web, &a.id("web"), &a.id("pay"), of_b.pay);
    let before = of_b.upstream.requests();
    a.rest().apply(&astray).await;
    eventually("web of a gets nowhere at pay of b", async || match get(of_a.web, "/").await {
        Ok((status, _)) if status == 503 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(of_b.upstream.requests(), before, "a request of a reached the upstream of b");
    a.finish().await;
    b.finish().await;
}
