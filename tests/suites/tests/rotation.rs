//! Every certificate is replaced under load, and nobody notices.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{collections::BTreeSet, time::Duration};

use kit::{Config, Envoy, Load, LoadPlan, Pair, TestWorld, WorldOptions, envoy, eventually, probe, within};

const LEAF: Duration = Duration::from_secs(12);
/// Three lives of a leaf: renewed by itself more than once, and time for a new authority in between.
const LONG: Duration = Duration::from_secs(60);

fn short_leaves(config: &mut Config) {
    config.lifetimes.leaf = LEAF;
}

fn short_nodes(config: &mut Config) {
    config.lifetimes.node = Duration::from_secs(20);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_and_the_issuing_authority_rotate_under_load_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        rotate("rotation-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_and_the_issuing_authority_rotate_under_load_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        rotate("rotation-1.36.4", envoy).await;
    }
}

async fn rotate(name: &'static str, envoy: Envoy) {
    let mut world = TestWorld::boot(name, WorldOptions { envoy: Some(envoy), adjust: short_leaves }).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let mut seen = Seen::default();
    seen.until(&pair, 2).await;

    let rotated = world.command(&["ca", "rotate", "intermediate", "--yes"]).await;
    let (from, to) = (rotated["from"].as_str().unwrap(), rotated["to"].as_str().unwrap());
    assert_ne!(from, to, "{rotated:#}");
    let renewed = seen.pay.len() + 2;
    seen.until(&pair, renewed).await;
    eventually("both leaves in use come from the new authority", async || {
        let listed = world.rest().get("/api/v1/certificates?class=workload&all=true&limit=500").await;
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let newest = |id: &str| {
            let of = items.iter().filter(|one| one["id"] == id && one["state"] == "issued");
            of.max_by_key(|one| one["issued"].as_str().unwrap_or_default().to_owned()).cloned()
        };
        let both = [newest(&world.id("web")), newest(&world.id("pay"))];
        let fresh = both.iter().all(|one| one.as_ref().is_some_and(|one| one["authority"] == to));
        if fresh { Ok(()) } else { Err(both) }
    })
    .await;

    load.finish_unharmed(500).await;
    assert!(seen.web.len() >= 2 && seen.pay.len() >= 2, "{seen:?}");
    let purposes =
        world.rest().get("/api/v1/certificates?class=workload&all=true&limit=500").await.to_string();
    assert!(purposes.contains("\"renewal\""), "no leaf was renewed by its own deadline: {purposes}");
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    world.finish().await;
}

/// The serials that each proxy showed in handshakes.
#[derive(Debug, Default)]
struct Seen {
    web: BTreeSet<String>,
    pay: BTreeSet<String>,
}

impl Seen {
    async fn until(&mut self, pair: &Pair, count: usize) {
        within(LONG, &format!("{count} serials are seen at each proxy"), async || {
            for (address, serials) in [(pair.web, &mut self.web), (pair.pay, &mut self.pay)] {
                serials.extend(probe(address).await.map(|shown| shown.serial));
            }
            let (web, pay) = (self.web.len(), self.pay.len());
            if web >= count && pay >= count { Ok(()) } else { Err((web, pay)) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_node_certificate_comes_into_use_on_a_new_connection() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), adjust: short_nodes };
    let mut world = TestWorld::boot("node-renewal", options).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let admin = world.admin("pay").await;
    let before = world.synced("pay").await["status"].clone();
    let connections = async || {
        let stats = admin.stats("cluster.credence_xds.upstream_cx_(total|active)").await.unwrap();
        stats.get("cluster.credence_xds.upstream_cx_total").copied().unwrap_or_default()
    };
    let opened = connections().await;

    let after = within(LONG, "a connection with the renewed certificate", async || {
        let status = world.proxy("pay").await["status"].clone();
        let later = status["certificate_expires"].as_str() > before["certificate_expires"].as_str();
        if later && status["connected"] == true { Ok(status) } else { Err(status) }
    })
    .await;
    assert_ne!(after["remote"], before["remote"], "the streams are still on the old TCP connection");
    assert!(connections().await > opened, "Envoy opened no new connection");
    // And it goes on: the certificate after that, too.
    within(LONG, "the certificate after the next", async || {
        let status = world.proxy("pay").await["status"].clone();
        let later = status["certificate_expires"].as_str() > after["certificate_expires"].as_str();
        if later { Ok(()) } else { Err(status) }
    })
    .await;
    let listed = world.rest().get("/api/v1/certificates?class=node&node=pay&all=true").await;
    assert!(listed["items"].as_array().unwrap().len() >= 3, "{listed:#}");
    world.synced("pay").await;
    load.finish_unharmed(100).await;
    world.finish().await;
}
