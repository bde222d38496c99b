//! Twenty real Envoys of two versions go through the rotation of leaves, issuing authority, key-encryption key and
//! root, under five kinds of traffic, and no request, stream or session of any kind fails.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test, and tell what they measured"
)]

use std::{collections::BTreeMap, time::Duration};

use certs::Certificate;
use kit::{Config, Kind, LoadReport, Mesh, TestWorld, Traffic, WorldOptions, envoy, within};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use tokio::time::Instant;

const PAIRS: usize = 10;
/// Envoy waits up to half a minute between two tries of its streams, and twenty of them share two processors.
const LONG: Duration = Duration::from_secs(240);

fn short_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(90);
    config.max_connection = Duration::from_secs(60);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_trust_is_replaced_under_every_kind_of_traffic() {
    let (Some(newer), Some(older)) = (envoy("1.40.0"), envoy("1.36.4")) else { return };
    let options = WorldOptions { envoy: Some(newer.clone()), adjust: short_lives };
    let mut world = TestWorld::boot("trust", options).await;
    let mesh = Mesh::start(&mut world, PAIRS, &[newer.clone(), newer, older.clone(), older]).await;
    // One more, which is ended before anything begins, and is missed by name.
    world.start_proxy("gone", "gone", &["gone"]).await;
    within(LONG, "it has joined", async || {
        let status = world.proxy("gone").await["status"].clone();
        if status["sync"] == "SYNCED" { Ok(()) } else { Err(status) }
    })
    .await;
    world.sandbox_mut().stop_agent("gone").await.unwrap();
    let traffic = Traffic::start(mesh.fronts());
    let watch = Watch(Instant::now());

    leaves(&world).await;
    watch.tell("every leaf has been renewed", &traffic);
    issuing_authority(&world).await;
    watch.tell("every leaf is of a new issuing authority", &traffic);
    key_encryption_key(&world).await;
    watch.tell("everything is sealed under a new key-encryption key", &traffic);
    root(&mut world, &watch, &traffic).await;
    watch.tell("the old root is gone", &traffic);
    // Streams that began before the last step come to their end.
    let sofar = traffic.so_far()[&Kind::Stream].total;
    within(LONG, "another stream of each pair has ended", async || {
        let report = traffic.so_far()[&Kind::Stream].clone();
        if report.total >= sofar + PAIRS as u64 { Ok(()) } else { Err(report) }
    })
    .await;

    let reports = traffic.finish().await;
    for (kind, report) in &reports {
        eprintln!("{kind:?}: {} in all, {} failed {:?}", report.total, report.failed, report.failures);
    }
    let failed: u64 = reports.values().map(|report| report.failed).sum();
    assert_eq!(failed, 0, "{reports:#?}");
    enough(&reports);
    for number in 0..PAIRS {
        for node in [format!("web-{number}"), format!("pay-{number}")] {
            let stats = world.admin(&node).await.stats("update_rejected").await.unwrap();
            assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
        }
    }
    world.finish().await;
}

/// When what was done.
struct Watch(Instant);

impl Watch {
    fn tell(&self, what: &str, traffic: &Traffic) {
        let failed: u64 = traffic.so_far().values().map(|report| report.failed).sum();
        eprintln!("{:5.1} s: {what}; {failed} failed so far", self.0.elapsed().as_secs_f32());
    }
}

fn enough(reports: &BTreeMap<Kind, LoadReport>) {
    for kind in [Kind::KeptHttp1, Kind::Http2, Kind::NewConnections] {
        assert!(reports[&kind].total >= 1_000, "too few to say anything: {reports:#?}");
    }
    for kind in [Kind::Stream, Kind::Session] {
        assert!(reports[&kind].total >= 2 * PAIRS as u64, "too few to say anything: {reports:#?}");
    }
}

/// The newest leaf of each identity of the mesh: its serial and authority.
async fn newest(world: &TestWorld) -> BTreeMap<String, (String, String)> {
    let mut newest = BTreeMap::<String, (String, String, String)>::new();
    let mut after = String::new();
    loop {
        let page = world.rest().get(&format!("/api/v1/certificates?class=workload&limit=500{after}")).await;
        for one in page["items"].as_array().unwrap() {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            let (id, found) = (text("id"), (text("issued"), text("serial"), text("authority")));
            if one["state"] != "issued" || id.ends_with("/gone") {
                continue;
            }
            if newest.get(&id).is_none_or(|known| known.0 < found.0) {
                newest.insert(id, found);
            }
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    newest.into_iter().map(|(id, (_, serial, authority))| (id, (serial, authority))).collect()
}

async fn leaves(world: &TestWorld) {
    let before = newest(world).await;
    assert_eq!(before.len(), 2 * PAIRS, "{before:#?}");
    within(LONG, "every leaf is renewed by itself", async || {
        let now = newest(world).await;
        let same: Vec<_> =
            before.iter().filter(|(id, leaf)| now.get(*id).is_none_or(|new| new.0 == leaf.0)).collect();
        if same.is_empty() { Ok(()) } else { Err(format!("{same:?}")) }
    })
    .await;
}

async fn issuing_authority(world: &TestWorld) {
    let rotated = world.command(&["ca", "rotate", "intermediate", "--yes"]).await;
    let to = rotated["to"].as_str().unwrap().to_owned();
    within(LONG, "every leaf is of the new issuing authority", async || {
        let now = newest(world).await;
        let old: Vec<_> = now.iter().filter(|(_, leaf)| leaf.1 != to).collect();
        if old.is_empty() && now.len() == 2 * PAIRS { Ok(()) } else { Err(format!("{old:?}")) }
    })
    .await;
}

/// Writes the section `secrets` of the configuration anew.
fn slots(world: &TestWorld, secrets: &str) {
    let path = world.sandbox().path("credence.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("secrets:\n").unwrap();
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    std::fs::write(&path, format!("{before}secrets:\n{secrets}  admin_dir: credence-admin\n\n{after}"))
        .unwrap();
}

async fn key_encryption_key(world: &TestWorld) {
    slots(world, "  kek_file: credence.kek\n  slots:\n    - {name: next, kek_file: next.kek}\n");
    world.command(&["kek", "rotate", "slot", "primary", "--to", "next", "--yes"]).await;
    slots(world, "  slots:\n    - {name: next, kek_file: next.kek}\n");
    world.command(&["kek", "rotate", "root", "--yes"]).await;
    world.command(&["kek", "rotate", "data", "--yes"]).await;
    within(LONG, "no row is sealed under an old key", async || {
        let status = world.rest().get("/api/v1/kek").await;
        if status["rows_on_old_key"] == 0 { Ok(()) } else { Err(status) }
    })
    .await;
}

async fn step(world: &TestWorld, step: &str) -> Value {
    let what = format!("{step} of the root goes through its gate");
    within(LONG, &what, async || {
        match world.run(&["ca", "rotate", "root", step, "--yes", "-o", "json"]).await {
            (0, out, _) => Ok(serde_json::from_str(&out).unwrap()),
            refused => Err(refused),
        }
    })
    .await
}

async fn root(world: &mut TestWorld, watch: &Watch, traffic: &Traffic) {
    let old =
        world.rest().get("/api/v1/authorities/root/rotation").await["root"].as_str().unwrap().to_owned();
    step(world, "prepare").await;
    let active = step(world, "activate").await;
    assert_ne!(active["root"], old.as_str(), "{active:#}");
    watch.tell("a new root is active", traffic);
    // The operator follows by giving a command.
    let laggards = within(LONG, "only the one that is gone is in the way", async || {
        let standing = world.command(&["ca", "rotate", "root", "status"]).await;
        let laggards = standing["laggards"].as_array().unwrap().clone();
        if laggards.len() == 1 { Ok(laggards) } else { Err(standing) }
    })
    .await;
    world.read_operator();
    assert_eq!(laggards[0]["name"], "gone", "{laggards:#?}");
    let (code, _, words) = world.run(&["ca", "rotate", "root", "finish", "--yes"]).await;
    assert!(code != 0 && words.contains("gone"), "finish is not refused by name: {code} {words}");
    watch.tell("finish is refused by the name of who is gone", traffic);
    world.sandbox_mut().restart_agent("gone").unwrap();
    step(world, "finish").await;
    let listed = world.rest().get("/api/v1/authorities").await;
    let authorities = listed["items"].as_array().unwrap();
    let gone = authorities.iter().find(|one| one["id"] == old.as_str()).map(serial);
    let roots: Vec<String> = authorities
        .iter()
        .filter(|one| one["place"] == "root" && one["state"] == "active")
        .map(serial)
        .collect();
    for number in 0..PAIRS {
        for node in [format!("web-{number}"), format!("pay-{number}")] {
            let admin = world.admin(&node).await;
            within(LONG, &format!("{node} trusts the new root only, not {gone:?}"), async || {
                let held = admin.certificates().await.map_err(|error| error.to_string())?;
                let anchors: Vec<String> =
                    held.into_iter().filter(|one| one.is_anchor).map(|one| one.serial).collect();
                let all_new = !anchors.is_empty() && anchors.iter().all(|anchor| roots.contains(anchor));
                if all_new { Ok(()) } else { Err(format!("{anchors:?} instead of {roots:?}")) }
            })
            .await;
        }
    }
}

fn serial(authority: &Value) -> String {
    let der = CertificateDer::from_pem_slice(authority["pem"].as_str().unwrap().as_bytes()).unwrap();
    Certificate::from_der(&der).unwrap().serial().to_string()
}
