//! Nodes whose certificates have ended come back by one command: hundreds of simulated ones behind one address, and a
//! real agent with its Envoy. `CREDENCE_FULL=1` makes them a thousand.

use std::{net::IpAddr, time::Duration};

use kit::{
    Config, TestWorld, WorldOptions, all, back, envoy, eventually,
    fleet::{Part, Tally, Until},
    is_full, within,
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(240);
/// Of the issue.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// Behind which all nodes come back.
const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 9, 9, 9));

fn nodes() -> usize {
    if is_full() { 1_000 } else { 200 }
}

/// Long enough for all to join, short enough to wait for the end.
fn short_node_lives(config: &mut Config) {
    config.lifetimes.node = Duration::from_secs(if nodes() > 200 { 150 } else { 45 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_comes_back_within_five_minutes_of_one_command() {
    let count = nodes();
    let options = WorldOptions { envoy: None, adjust: short_node_lives };
    let world = TestWorld::boot("recovery", options).await;
    let mut fleet = world.start_fleet_behind(count, "web", Some(ROUTER)).await;
    all(&mut fleet, Until::Connected, LONG).await;
    fleet.freeze(&[], Part::Renewal).await.unwrap();
    all(&mut fleet, Until::Disconnected, LONG).await;
    let listed = within(LONG, "all have expired", async || {
        let listed = world.command(&["recover", "--list"]).await;
        if listed["expired_count"] == count { Ok(listed) } else { Err(listed["expired_count"].clone()) }
    })
    .await;
    assert!(listed["open"] == false && listed["waiting_count"] == 0, "{listed:#}");

    // Off by default: they ask, and stay away.
    fleet.thaw(&[]).await.unwrap();
    let asked =
        async |fleet: &mut kit::fleet::Fleet| fleet.summary().await.unwrap().counters.recoveries_failed;
    within(LONG, "all have asked", async || match asked(&mut fleet).await {
        times if times >= count as u64 => Ok(()),
        times => Err(times),
    })
    .await;
    assert_eq!(fleet.summary().await.unwrap().counters.recoveries, 0);
    assert_eq!(fleet.tally(Tally::Stage).await.unwrap().get("connected"), None);

    let opened = world.command(&["recover", "--window", "24h", "--reason", "power cut", "--yes"]).await;
    assert_eq!((&opened["open"], &opened["waiting_count"]), (&true.into(), &count.into()), "{opened:#}");
    let back = all(&mut fleet, Until::Connected, FIVE_MINUTES).await;
    let times = back.times;
    eprintln!(
        "{count} expired nodes behind one address came back after one command: p50 {} ms, p99 {} ms, last {} ms",
        times.p50, times.p99, times.max
    );
    let (code, shown, _) = world.run(&["recover", "--list", "--watch", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &shown["recovered_count"], &shown["waiting_count"]), (0, &count.into(), &0.into()));
    let summary = fleet.summary().await.unwrap();
    assert_eq!((summary.counters.recoveries, summary.nodes), (count as u64, count), "{summary:#?}");
    assert!(summary.broken.is_empty(), "{summary:#?}");
    let rows = world.rest().get("/api/v1/audit?action=enrol-refuse&limit=500").await;
    let waited = |row: &Value| row["reason"] == "no recovery window is open";
    let rows: Vec<&Value> = rows["items"].as_array().unwrap().iter().filter(|row| waited(row)).collect();
    // Each agent asked at least once while there was no window: they share a row a minute.
    assert!((1..20).contains(&rows.len()), "{rows:#?}");
    assert!(rows.iter().all(|row| row.to_string().contains("expired nodes")), "{rows:#?}");
    let rows = world.rest().get("/api/v1/audit?action=node-recover&limit=10").await;
    assert_eq!(rows["items"][0]["details"]["recovery_window"], "1", "{rows:#}");

    world.command(&["recover", "--close", "--reason", "all are back", "--yes"]).await;
    assert_eq!(world.command(&["recover", "--list"]).await["open"], false);
    for action in ["recovery-open", "recovery-close"] {
        let rows = world.rest().get(&format!("/api/v1/audit?action={action}")).await;
        assert_eq!(rows["items"].as_array().unwrap().len(), 1, "{rows:#}");
    }
    drop(fleet);
    world.finish().await;
}

fn twenty_seconds(config: &mut Config) {
    config.lifetimes.node = Duration::from_secs(20);
}

/// The agent was stopped for longer than its certificate lived. It says what helps, comes back by itself once it may,
/// and its Envoy with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_comes_back_with_its_envoy() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), adjust: twenty_seconds };
    let mut world = TestWorld::boot("recovery-agent", options).await;
    world.rest().apply(&back("web", TestWorld::free_port(), &[])).await;
    world.start_proxy("web-1", "web", &["web"]).await;
    let sync = async |wanted: &str| {
        let proxy = world.rest().get("/api/v1/proxies/web-1").await;
        let sync = proxy["status"]["sync"].as_str().unwrap_or_default().to_owned();
        if sync == wanted { Ok(()) } else { Err(proxy) }
    };
    within(LONG, "the proxy is in step", async || sync("SYNCED").await).await;
    world.sandbox().freeze_agent("web-1").unwrap();
    within(LONG, "its certificate has ended", async || {
        let listed = world.command(&["recover"]).await;
        if listed["expired"][0]["node"] == "web-1" { Ok(()) } else { Err(listed) }
    })
    .await;
    within(LONG, "the proxy is gone", async || sync("OFFLINE").await).await;

    world.sandbox().thaw_agent("web-1").unwrap();
    let log = world.sandbox().path("web-1.log");
    eventually("the agent says what helps", async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let said = text.contains("node may not come back yet") && text.contains("credence recover --window");
        if said { Ok(()) } else { Err(text) }
    })
    .await;
    world.command(&["recover", "--window", "1h", "--yes"]).await;
    for screen in [&["status"][..], &["proxy", "list"], &["ca", "show"]] {
        let said = world.sandbox().output(screen).await.unwrap().stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("recovery window is OPEN for"), "{screen:?}: {said}");
    }
    within(LONG, "the proxy is in step again", async || sync("SYNCED").await).await;
    let listed = world.command(&["recover"]).await;
    assert_eq!(listed["recovered"][0]["node"], "web-1", "{listed:#}");
    let node = world.node_id("web-1");
    let certificates = world.rest().get("/api/v1/certificates?class=node&all=true&limit=100").await;
    let purposes = certificates["items"].as_array().unwrap().iter();
    assert!(purposes.clone().any(|one| one["id"] == node.as_str() && one["purpose"] == "recovery"));
    // And it renews as before.
    within(LONG, "the next certificate is a plain renewal", async || {
        let listed = world.rest().get("/api/v1/certificates?class=node&limit=100").await;
        let purpose = listed["items"][0]["purpose"].clone();
        if purpose == "node-renewal" { Ok(()) } else { Err(purpose) }
    })
    .await;
    world.finish().await;
}
