//! The control plane dies, is told to end, comes back; traffic does not notice, and nothing is forgotten.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{collections::BTreeSet, net::SocketAddr};

use kit::{Admin, Load, LoadPlan, Pair, SDS, TestWorld, WorldOptions, envoy, eventually};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_started_again_it_costs_no_request_and_no_secret() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot("restart-kill", options).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let (web, pay) = (world.admin("web").await, world.admin("pay").await);
    let before = (secrets(web).await, secrets(pay).await);
    assert!(!before.0.is_empty() && !before.1.is_empty(), "{before:?}");
    let audit = world.audit().await.len();
    let configs = world.rest().get("/api/v1/configs?text=true").await;

    for round in 0..2 {
        world.kill().await;
        requests_flow(&load).await;
        world.start().await;
        requests_flow(&load).await;
        for node in ["web", "pay"] {
            let proxy = world.synced(node).await;
            assert_eq!(proxy["status"]["connected"], true, "round {round}: {proxy:#}");
        }
    }
    let after = (secrets(web).await, secrets(pay).await);
    assert_eq!(after, before, "a secret was removed or renamed");
    for admin in [web, pay] {
        let stats = admin.stats("update_rejected|warming_state|total_clusters_warming").await.unwrap();
        let bad: Vec<_> = stats.iter().filter(|(_, count)| **count > 0).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
    load.finish_unharmed(100).await;
    assert_eq!(world.rest().get("/api/v1/configs?text=true").await, configs, "documents changed");
    assert!(world.audit().await.len() > audit, "audit lost rows");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_drains_and_what_comes_back_is_the_same() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot("restart-term", options).await;
    let pair = Pair::start(&mut world).await;
    world.synced("pay").await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    // Fails if the process does not end by itself within its drain time.
    world.terminate().await;
    requests_flow(&load).await;
    let log = std::fs::read_to_string(world.sandbox().path("serve.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    world.start().await;
    for node in ["web", "pay"] {
        world.synced(node).await;
    }
    pair.answers(&mut world, "paid").await;
    load.finish_unharmed(50).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_broken_connection_nor_a_restart_opens_a_gate() {
    let mut world = TestWorld::boot("restart-gate", WorldOptions::default()).await;
    let (node, stream) = world.mute_node("mute").await;
    world.command(&["ca", "rotate", "root", "prepare", "--yes"]).await;
    refused(&world, "mute has not acknowledged a bundle with the new root").await;

    drop(stream);
    connected(&world, false).await;
    refused(&world, "mute has not acknowledged a bundle with the new root").await;
    // Nor does one that is there and has not asked for anything yet.
    let silent = world.xds(&node).delta(&node.id, &node.namespace);
    connected(&world, true).await;
    refused(&world, "mute has not acknowledged a bundle with the new root").await;
    drop(silent);
    connected(&world, false).await;
    refused(&world, "mute has not acknowledged a bundle with the new root").await;

    world.kill().await;
    world.start().await;
    refused(&world, "mute has not come back since the server began").await;
    let silent = world.xds(&node).delta(&node.id, &node.namespace);
    connected(&world, true).await;
    refused(&world, "mute has not come back since the server began").await;
    drop(silent);
    let status = world.rest().get("/api/v1/authorities/root/rotation").await;
    let tally = &status["tally"];
    assert_eq!((&tally["connected"], &tally["bundle"]), (&1.into(), &0.into()), "{status:#}");

    let mut stream = world.xds(&node).delta(&node.id, &node.namespace);
    stream.subscribe(SDS, &["ROOTCA"]).await;
    let both = stream.next().await.unwrap();
    refused(&world, "mute has not acknowledged a bundle with the new root").await;
    stream.ack(&both).await;
    eventually("who has come back with both roots is in nobody's way", async || {
        match world.run(&["ca", "rotate", "root", "activate", "--yes"]).await {
            (0, ..) => Ok(()),
            refused => Err(refused),
        }
    })
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moved_is_followed_and_one_that_is_silent_keeps_no_envoy_from_its_work() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot("restart-moved", options).await;
    world.start_proxy("web", "web", &["web"]).await;
    world.synced("web").await;

    // Both doors are elsewhere: whoever is started with the new address asks there before anything else.
    let [xds, enrolment, later] = TestWorld::free_ports(3)[..] else { unreachable!("three were asked for") };
    let server = enrolment.to_string();
    moved(&mut world, xds, enrolment).await;
    world.sandbox_mut().restart_agent_with("web", &["--server", &server]).unwrap();
    world.synced("web").await;

    // Discovery alone is elsewhere, and the address is kept already: Envoy starts with what there is, and again where
    // discovery is.
    moved(&mut world, later, enrolment).await;
    world.sandbox_mut().restart_agent_with("web", &["--server", &server]).unwrap();
    world.synced("web").await;
    let node = std::fs::read_to_string(world.sandbox().path("web/node.json")).unwrap();
    assert!(node.contains(&later.to_string()) && node.contains(&server), "{node}");

    // Whoever takes connections and says nothing is waited for beside an Envoy that runs.
    world.sandbox_mut().stop_agent("web").await.unwrap();
    world.terminate().await;
    let silent = std::net::TcpListener::bind(enrolment).unwrap();
    std::fs::remove_file(world.sandbox().path("web/admin-address")).unwrap();
    world.sandbox_mut().restart_agent_with("web", &["--server", &server]).unwrap();
    world.admin("web").await;
    let log = std::fs::read_to_string(world.sandbox().path("web.log")).unwrap();
    let (kept, given_up) = (log.rfind("credence: keeps "), log.rfind("was not found out"));
    assert!(given_up.is_none_or(|given_up| kept < Some(given_up)), "Envoy waited for an answer: {log}");
    drop(silent);
    world.start().await;
    world.synced("web").await;
    world.finish().await;
}

/// Starts the server again where it is now; the agent of `web` is stopped meanwhile.
async fn moved(world: &mut TestWorld, xds: SocketAddr, enrolment: SocketAddr) {
    world.sandbox_mut().stop_agent("web").await.unwrap();
    world.terminate().await;
    world.sandbox_mut().move_ports(xds, enrolment).unwrap();
    world.start().await;
}

/// Waits until the node `mute` has a stream, or none.
async fn connected(world: &TestWorld, wanted: bool) {
    eventually("its stream is there, or has ended", async || {
        let status = world.proxy("mute").await["status"].clone();
        if status["connected"] == wanted { Ok(()) } else { Err(status) }
    })
    .await;
}

/// The root is not activated, for this reason.
async fn refused(world: &TestWorld, why: &str) {
    let (code, out, error) = world.run(&["ca", "rotate", "root", "activate", "--yes"]).await;
    assert_eq!(code, 3, "{out}{error}");
    assert!(error.contains(why), "{error}");
}

/// Waits until the load has seen more answers.
async fn requests_flow(load: &Load) {
    let least = load.so_far().total + 100;
    eventually("requests flow", async || {
        let report = load.so_far();
        if report.total >= least { Ok(()) } else { Err(report) }
    })
    .await;
}

/// The names of the secrets that an Envoy holds and uses.
async fn secrets(admin: Admin) -> BTreeSet<String> {
    let dump = admin.config_dump().await.unwrap();
    let sections = dump["configs"].as_array().cloned().unwrap_or_default();
    let active = |section: &Value| section["dynamic_active_secrets"].as_array().cloned().unwrap_or_default();
    let all = sections.iter().flat_map(active);
    all.filter_map(|secret| secret["name"].as_str().map(str::to_owned)).collect()
}
