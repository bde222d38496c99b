//! The control plane's own trust changes with the root: every proxy proves the new one, and one whose bundle file
//! is stale keeps working and is known by name.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use kit::{Envoy, Load, LoadPlan, Pair, TestWorld, WorldOptions, back, envoy, within};
use serde_json::Value;

/// Envoy waits up to half a minute between two tries of its streams, and who was given the way back is asked to try
/// the new root again after half a minute.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_bundle_file_is_known_by_name_and_costs_no_stream_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        rotate("own-trust-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_bundle_file_is_known_by_name_and_costs_no_stream_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        rotate("own-trust-1.36.4", envoy).await;
    }
}

async fn rotate(name: &'static str, envoy: Envoy) {
    let options = WorldOptions {
        envoy: Some(envoy),
        adjust: |config| {
            config.lifetimes.leaf = Duration::from_secs(60);
        },
    };
    let mut world = TestWorld::boot(name, options).await;
    let pair = Pair::start(&mut world).await;
    world.start_proxy("stale", "stale", &["stale"]).await;
    world.synced("stale").await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let nodes = ["web", "pay", "stale"];
    for node in nodes {
        until(&world, node, "its agent has told of the bundle", |status| {
            status["bundle"]["is_current"] == true
        })
        .await;
    }
    let old = world.proxy("web").await["status"]["server_root"].as_str().unwrap().to_owned();
    for node in nodes {
        assert!(proves(&world.proxy(node).await["status"], &old), "{node} proves the first root");
    }

    // From now on the bundle file of one node stays what it is.
    world.sandbox().freeze_agent("stale").unwrap();
    world.command(&["ca", "rotate", "root", "prepare", "--yes"]).await;
    for node in ["web", "pay"] {
        until(&world, node, "it holds the bundle with both roots", |status| {
            status["bundle"]["is_current"] == true
        })
        .await;
    }
    assert_eq!(world.proxy("stale").await["status"]["bundle"]["is_current"], false);
    within(LONG, "the root is activated once all have acknowledged it", async || {
        match world.run(&["ca", "rotate", "root", "activate", "--yes"]).await {
            (0, ..) => Ok(()),
            refused => Err(refused),
        }
    })
    .await;

    // Everybody else proves the new root although all of them share one address.
    for node in ["web", "pay"] {
        until(&world, node, "it proves the new root", |status| newer(status, &old).is_some()).await;
    }
    // Between two connections a node has none: what it has proven stays.
    let new = newer(&world.proxy("web").await["status"], &old).unwrap();
    let before = world.proxy("stale").await["status"].clone();
    // The stale one is led back to the old root, on a connection of after the change, and goes on.
    world.rest().apply(&back("stale", TestWorld::free_port(), &[&world.id("web")])).await;
    until(&world, "stale", "it acknowledges a change", |status| {
        let types = status["types"].as_array().unwrap();
        let has_listener =
            types.iter().any(|one| one["word"] == "LDS" && !one["resources"].as_array().unwrap().is_empty());
        status["connected"] == true && status["sync"] == "SYNCED" && has_listener
    })
    .await;
    assert!(world.metric("credence_connections_disbelieved_total").await >= 1.0);
    let status = world.proxy("stale").await["status"].clone();
    assert_eq!(status["server_root"], old.as_str(), "{before:#} {status:#}");
    assert!(!proves(&status, &new), "{status:#}");
    let (code, _, words) = world.run(&["ca", "rotate", "root", "finish", "--yes"]).await;
    assert!(code != 0 && words.contains("stale"), "finish is refused by name: {code} {words}");

    // Healed, it proves the new root by itself.
    world.sandbox().thaw_agent("stale").unwrap();
    until(&world, "stale", "it proves the new root", |status| proves(status, &new)).await;
    load.finish_unharmed(500).await;
    world.finish().await;
}

/// The root beside `old` that a node has proven.
fn newer(status: &Value, old: &str) -> Option<String> {
    status["proven_roots"].as_object()?.keys().find(|root| *root != old).cloned()
}

fn proves(status: &Value, root: &str) -> bool {
    status["proven_roots"].get(root).is_some()
}

async fn until(world: &TestWorld, node: &str, what: &str, holds: impl Fn(&Value) -> bool) {
    within(LONG, &format!("{node}: {what}"), async || {
        let status = world.proxy(node).await["status"].clone();
        if holds(&status) { Ok(()) } else { Err(status) }
    })
    .await;
}
