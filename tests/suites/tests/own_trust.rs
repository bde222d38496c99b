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
    let old = world.active("root").await;
    // Between two connections a node has none: what it has proven stays, so that is what is waited for.
    for node in nodes {
        until(&world, node, "it proves the first root", |status| proves(status, &old)).await;
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

    let new = world.active("root").await;
    assert_ne!(new, old);

    // Everybody else proves the new root although all of them share one address.
    for node in ["web", "pay"] {
        until(&world, node, "it proves the new root", |status| proves(status, &new)).await;
    }
    // The stale one is led back to the old root, on a connection of after the change, and goes on.
    world.rest().apply(&back("stale", TestWorld::free_port(), &[&world.id("web")])).await;
    until(&world, "stale", "it acknowledges a change", |status| {
        let has_listener = status["types"].as_array().is_some_and(|types| {
            let listeners = types.iter().find(|one| one["word"] == "LDS");
            listeners.and_then(|one| one["resources"].as_array()).is_some_and(|held| !held.is_empty())
        });
        let on_the_old_root = status["server_root"] == old.as_str();
        status["connected"] == true && status["sync"] == "SYNCED" && has_listener && on_the_old_root
    })
    .await;
    assert!(world.metric("credence_connections_disbelieved_total").await >= 1.0);
    let status = world.proxy("stale").await["status"].clone();
    assert!(!proves(&status, &new), "{status:#}");
    let (code, _, words) = world.run(&["ca", "rotate", "root", "finish", "--yes"]).await;
    assert!(code != 0 && words.contains("stale"), "finish is refused by name: {code} {words}");

    // Healed, it proves the new root by itself.
    world.sandbox().thaw_agent("stale").unwrap();
    until(&world, "stale", "it proves the new root", |status| proves(status, &new)).await;
    load.finish_unharmed(500).await;
    world.finish().await;
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
