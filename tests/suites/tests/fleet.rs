//! Hundreds of nodes of their own see every change, once and in order. `CREDENCE_FULL=1` makes them a thousand.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use certs::Clock;
use kit::{
    SystemClock, TestWorld, WorldOptions, all, back, endpoints, eventually,
    fleet::{Fleet, Part, Tally, Times, Type, Until, Wait},
    is_full,
};
use serde_json::json;

const APP: &str = "web";
const UPSTREAM: &str = "web-upstream";
const LONG: Duration = Duration::from_secs(180);
/// Changes in a row, faster than they can be acknowledged.
const BURST: u16 = 10;
/// Of the issue: a thousand nodes take less than 1 GiB.
const BYTES_PER_NODE: u64 = 1 << 20;

fn nodes() -> usize {
    if is_full() { 1_000 } else { 200 }
}

fn upstream() -> Until {
    Until::Holds { r#type: Type::Eds, name: UPSTREAM.into(), version: None, other_than: None }
}

fn upstream_other_than(version: &str) -> Until {
    Until::Holds { r#type: Type::Eds, name: UPSTREAM.into(), version: None, other_than: Some(version.into()) }
}

fn tell(what: &str, times: Times) {
    #[expect(clippy::print_stderr, reason = "what was measured is worth a line")]
    {
        eprintln!("{what}: p50 {} ms, p99 {} ms, last {} ms", times.p50, times.p99, times.max);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_sees_every_change_once_and_in_order() {
    let world = TestWorld::boot("fleet", WorldOptions::default()).await;
    let count = nodes();
    world.rest().apply(&back(APP, TestWorld::free_port(), &[])).await;
    set_upstream(&world, 1_000).await;
    let mut fleet = world.start_fleet(count, APP).await;
    let began = SystemClock.now().unix_millis();
    all(&mut fleet, Until::Connected, LONG).await;
    all(&mut fleet, upstream(), LONG).await;
    let signer = world.active("intermediate").await;
    all(&mut fleet, leaf_from(&signer), LONG).await;
    let wait = Wait { until: leaf_from(&signer), nodes: Vec::new(), within_ms: 0, since_ms: Some(began) };
    let certified = fleet.wait_for(wait).await.unwrap();
    tell(&format!("{count} nodes enrolled, connected and certified"), certified.times);
    all(&mut fleet, Until::NodeFrom { authority: signer.clone() }, LONG).await;

    one_change(&world, &mut fleet).await;
    a_burst_of_changes(&world, &mut fleet).await;
    a_rotation(&world, &mut fleet, &signer).await;
    some_go_and_come_back(&world, &mut fleet).await;
    one_sleeps(&world, &mut fleet).await;

    has_what_the_server_has(&world, &mut fleet).await;
    let summary = fleet.summary().await.unwrap();
    assert_eq!(summary.nodes, count, "{summary:#?}");
    assert!(summary.broken.is_empty(), "{summary:#?}");
    assert_eq!(summary.unanswered, 0, "{summary:#?}");
    assert_eq!(summary.counters.renewals, count as u64, "{summary:#?}");
    let room = BYTES_PER_NODE * count as u64 + (64 << 20);
    assert!(summary.memory_bytes < room, "{} bytes for {count} nodes", summary.memory_bytes);
    drop(fleet);
    world.finish().await;
}

async fn one_change(world: &TestWorld, fleet: &mut Fleet) {
    let before = version(fleet).await;
    set_upstream(world, 2_000).await;
    let seen = all(fleet, upstream_other_than(&before), LONG).await;
    tell("one endpoint change, from its answer to the last acknowledgement", seen.times);
    version(fleet).await;
}

async fn a_burst_of_changes(world: &TestWorld, fleet: &mut Fleet) {
    for port in 0..BURST {
        set_upstream(world, 3_000 + port).await;
    }
    has_what_the_server_has(world, fleet).await;
    version(fleet).await;
}

/// Every leaf, and every node's own certificate, comes from the new authority, and is believed before it is used.
async fn a_rotation(world: &TestWorld, fleet: &mut Fleet, from: &str) {
    let rotated = world.rest().post("/api/v1/authorities/rotate", &json!({ "reason": "fleet" })).await;
    let to = eventually("another authority signs", async || {
        let active = world.active("intermediate").await;
        if active == from { Err(rotated.clone()) } else { Ok(active) }
    })
    .await;
    let seen = all(fleet, leaf_from(&to), LONG).await;
    tell("rotation of the issuing authority, from its answer to the last leaf", seen.times);
    fleet.renew(&[]).await.unwrap();
    all(fleet, Until::NodeFrom { authority: to.clone() }, LONG).await;
    let tally = fleet.tally(Tally::Leaf { secret: "default".into() }).await.unwrap();
    assert_eq!(tally.keys().collect::<Vec<_>>(), [&to]);
}

/// Nodes that come back are sent what changed meanwhile, and nothing that they hold.
async fn some_go_and_come_back(world: &TestWorld, fleet: &mut Fleet) {
    let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = version(fleet).await;
    fleet.stop(&names).await.unwrap();
    eventually("they are gone", async || {
        let gone = fleet.tally(Tally::Stage).await.unwrap();
        if gone.get("stopped") == Some(&names.len()) { Ok(()) } else { Err(gone) }
    })
    .await;
    set_upstream(world, 4_000).await;
    fleet.resume(&names).await.unwrap();
    all(fleet, Until::Connected, LONG).await;
    all(fleet, upstream_other_than(&before), LONG).await;
}

/// A node that does not acknowledge is found by name, holds nobody up, and misses nothing.
async fn one_sleeps(world: &TestWorld, fleet: &mut Fleet) {
    let before = version(fleet).await;
    fleet.freeze(&["n7"], Part::Acks).await.unwrap();
    set_upstream(world, 5_000).await;
    eventually("all others have it", async || {
        let waited = fleet.wait(upstream_other_than(&before), Duration::ZERO).await.unwrap();
        if waited.names == ["n7"] { Ok(()) } else { Err(waited) }
    })
    .await;
    fleet.thaw(&["n7"]).await.unwrap();
    all(fleet, upstream_other_than(&before), LONG).await;
}

async fn set_upstream(world: &TestWorld, port: u16) {
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    world.rest().apply(&endpoints(UPSTREAM, "default", &[address])).await;
}

fn leaf_from(authority: &str) -> Until {
    Until::LeafFrom { secret: "default".into(), authority: authority.into() }
}

/// The version of the endpoints that every node holds alike.
async fn version(fleet: &mut Fleet) -> String {
    let tally = fleet.tally(Tally::Version { r#type: Type::Eds, name: UPSTREAM.into() }).await.unwrap();
    assert_eq!(tally.len(), 1, "not all hold the same: {tally:?}");
    tally.into_keys().next().unwrap()
}

/// What nodes hold is, version by version, what the server says that they should have. Every 20th node is asked.
async fn has_what_the_server_has(world: &TestWorld, fleet: &mut Fleet) {
    for number in (0..nodes()).step_by(20) {
        let name = format!("n{number}");
        eventually(&format!("{name} holds what the server has"), async || {
            let config = world.rest().get(&format!("/api/v1/proxies/{name}/config")).await;
            let report = fleet.report(&[&name]).await.unwrap().remove(&name).unwrap();
            let mut differ = Vec::new();
            for (word, kind) in
                [("CDS", Type::Cds), ("EDS", Type::Eds), ("LDS", Type::Lds), ("RDS", Type::Rds)]
            {
                let has = config["types"][word].as_array().cloned().unwrap_or_default();
                let has: BTreeMap<String, String> = has
                    .iter()
                    .map(|one| {
                        (one["name"].as_str().unwrap().into(), one["version"].as_str().unwrap().into())
                    })
                    .collect();
                if report.held[&kind] != has || has.is_empty() {
                    differ.push((word, has, report.held[&kind].clone()));
                }
            }
            if differ.is_empty() { Ok(()) } else { Err(differ) }
        })
        .await;
    }
}
