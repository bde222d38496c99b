//! Leaves move between the built-in issuer and a real Vault: stage by stage and back, to another root of that Vault, by
//! binding, at once when the Vault is not to be trusted any more; and no request fails on any of these ways.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test, and tell what they measured"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use certs::Certificate;
use kit::{
    Config, Kind, LeafVault, Load, LoadPlan, Mesh, Pair, ROLE, TestWorld, Traffic, WorldOptions, envoy,
    listed_issuer as issuer, within,
};
use serde_json::json;
use spiffe::{SpiffeId, bucket};
use tokio::time::Instant;

const PAIRS: usize = 10;
/// Envoy waits up to half a minute between two tries of its streams, and twenty of them share two processors.
const LONG: Duration = Duration::from_secs(240);

fn fleet_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(180);
    config.max_connection = Duration::from_secs(60);
}

fn short_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(60);
    config.max_connection = Duration::from_secs(30);
}

/// Long enough that leaves have not ended when the root above them has gone.
fn longer_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(150);
    config.max_connection = Duration::from_secs(30);
}

/// Who signed the newest leaf of each identity that a proxy shows, by name and authority; nobody by name for the
/// built-in one.
async fn signed(world: &TestWorld) -> BTreeMap<String, (Option<String>, String)> {
    let listed = world.command(&["cert", "list"]).await;
    let mut newest = BTreeMap::new();
    for one in listed.as_array().unwrap() {
        if one["class"] != "workload" || !one["node"].is_string() {
            continue;
        }
        let text = |name: &str| one[name].as_str().map(str::to_owned);
        let (id, issued) = (text("id").unwrap(), text("issued").unwrap());
        let of = (text("issuer"), text("authority").unwrap());
        let known = newest.entry(id).or_insert_with(|| (issued.clone(), of.clone()));
        if known.0 <= issued {
            *known = (issued, of);
        }
    }
    newest.into_iter().map(|(id, (_, of))| (id, of)).collect()
}

/// Waits until whoever signed each leaf is as `expected` says of its identity.
async fn all_signed(
    world: &TestWorld,
    count: usize,
    what: &str,
    expected: impl Fn(&SpiffeId, &Option<String>, &str) -> bool,
) {
    within(LONG, what, async || {
        let leaves = signed(world).await;
        let fits = |(id, (name, authority)): (&String, &(Option<String>, String))| {
            expected(&SpiffeId::parse(id).unwrap(), name, authority)
        };
        if leaves.len() == count && leaves.iter().all(fits) { Ok(()) } else { Err(leaves) }
    })
    .await;
}

fn is_corp(name: &Option<String>) -> bool {
    name.as_deref() == Some("corp")
}

/// The stages that were begun, as the audit log has them, oldest first.
async fn stages(world: &TestWorld) -> Vec<String> {
    let rows = world.audit().await;
    let mut rows: Vec<_> = rows.iter().filter(|row| row["details"]["migration"].is_string()).collect();
    rows.sort_by_key(|row| row["sequence"].as_u64());
    rows.iter().map(|row| row["details"]["percent"].as_str().unwrap().to_owned()).collect()
}

struct Watch(Instant);

impl Watch {
    fn tell(&self, what: &str, traffic: &Traffic) {
        let failed: u64 = traffic.so_far().values().map(|report| report.failed).sum();
        eprintln!("{:5.1} s: {what}; {failed} failed so far", self.0.elapsed().as_secs_f32());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_twenty_proxies_move_by_stages_and_to_another_root_and_back_under_every_kind_of_traffic() {
    let (Some(newer), Some(older)) = (envoy("1.40.0"), envoy("1.36.4")) else { return };
    let options = WorldOptions { envoy: Some(newer.clone()), adjust: fleet_lives };
    let mut world = TestWorld::boot("issuer-migration", options).await;
    let Some(corp) = LeafVault::start(&world).await else { return };
    let mesh = Mesh::start(&mut world, PAIRS, &[newer.clone(), newer, older.clone(), older]).await;
    let (code, out, words) = corp.add(&world, "corp", ROLE, &[]).await;
    assert_eq!(code, 0, "{out} {words}");
    let traffic = Traffic::start(mesh.fronts());
    let watch = Watch(Instant::now());

    // By stages: whoever is within the share is of Vault, and nobody else.
    let migrate = ["issuer", "migrate", "--from", "builtin", "--to", "corp", "--yes"];
    let by_stages = ["--stage", "30%,60%,100%", "--hold", "4s"];
    world.command(&[&migrate[..], &by_stages].concat()).await;
    let first = within(LONG, "the first stage is under way", async || {
        let one = issuer(&world, "corp").await;
        if one["percent"].as_u64() > Some(0) { Ok(one) } else { Err(one) }
    })
    .await;
    assert_eq!(first["migration"]["from"], "builtin", "{first:#}");
    let leaves = signed(&world).await;
    let percent = issuer(&world, "corp").await["percent"].as_u64().unwrap();
    let too_soon = |(id, (name, _)): &(&String, &(Option<String>, String))| {
        is_corp(name) && u64::from(bucket(&SpiffeId::parse(id).unwrap())) >= percent
    };
    let too_soon: Vec<_> = leaves.iter().filter(too_soon).collect();
    assert!(too_soon.is_empty(), "{percent}: {too_soon:#?}");
    within(LONG, "all have moved", async || {
        let one = issuer(&world, "corp").await;
        if one["is_default"] == true && one["migration"].is_null() { Ok(()) } else { Err(one) }
    })
    .await;
    all_signed(&world, 2 * PAIRS, "every leaf is of Vault", |_, name, _| is_corp(name)).await;
    assert_eq!(stages(&world).await, ["30", "60", "100"]);
    watch.tell("every leaf is of Vault", &traffic);

    // Vault's team makes another root.
    let before = issuer(&world, "corp").await;
    let (id, second) = corp.another_root(&world, "anchor-2.pem").await;
    let update = ["issuer", "update", "corp", "--issuer", &id];
    corp.grant_printed(&world, &[&update[..], &["--print-policy"]].concat()).await;
    let (code, out, words) = world.run(&[&update[..], &["--trust-anchor", "anchor-2.pem"]].concat()).await;
    assert!(code == 0 && out.contains("when every connected node has acknowledged"), "{out} {words}");
    let next = issuer(&world, "corp").await["authority"].as_str().unwrap().to_owned();
    assert_ne!(json!(next), before["authority"]);
    all_signed(&world, 2 * PAIRS, "every leaf is of the other root", |_, name, authority| {
        is_corp(name) && authority == next
    })
    .await;
    watch.tell("every leaf is of another root of Vault", &traffic);

    world.command(&["issuer", "migrate", "--to", "builtin", "--yes"]).await;
    all_signed(&world, 2 * PAIRS, "every leaf is of the built-in issuer", |_, name, _| name.is_none()).await;
    watch.tell("every leaf is of the built-in issuer", &traffic);
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
    for number in 0..PAIRS {
        for node in [format!("web-{number}"), format!("pay-{number}")] {
            let stats = world.admin(&node).await.stats("update_rejected").await.unwrap();
            assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
        }
    }
    let roots: Vec<Certificate> = corp.roots().into_iter().chain(second).collect();
    world.finish_beside(&roots).await;
}

/// What stands in the row that says who signs in the place of whom.
async fn stand_ins(world: &TestWorld) -> Vec<String> {
    let rows = world.audit().await;
    let mut rows: Vec<_> = rows.iter().filter(|row| row["action"] == "issuer-fallback").collect();
    rows.sort_by_key(|row| row["sequence"].as_u64());
    rows.iter().map(|row| row["details"]["signs_instead"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_has_its_leaves_of_vault_and_of_another_in_its_place_only_where_that_is_said() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), adjust: short_lives };
    let mut world = TestWorld::boot("issuer-binding", options).await;
    let Some(corp) = LeafVault::start(&world).await else { return };
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let (code, _, words) = corp.add(&world, "corp", ROLE, &["--fallback", "corp"]).await;
    assert!(code == 2 && words.contains("in its own place"), "{code} {words}");
    let (code, out, words) = corp.add(&world, "corp", ROLE, &["--fallback", "builtin"]).await;
    assert_eq!(code, 0, "{out} {words}");

    let (code, _, words) = world.run(&["proxy", "issuer", "pay", "nobody"]).await;
    assert!(code == 4 && words.contains("issuer nobody does not exist"), "{code} {words}");
    world.command(&["proxy", "issuer", "pay", "corp"]).await;
    let is_pay = |id: &SpiffeId| id.as_str().ends_with("/pay");
    all_signed(&world, 2, "pay is of Vault and web is not", |id, name, _| is_pay(id) == is_corp(name)).await;
    let (code, _, words) = world.run(&["issuer", "remove", "corp", "--yes"]).await;
    assert!(code == 5, "{code} {words}");
    assert_eq!(issuer(&world, "corp").await["named_by"], 1);

    corp.vault.seal().await;
    all_signed(&world, 2, "the built-in issuer signs while Vault rests", |_, name, _| name.is_none()).await;
    within(LONG, "that is on record and on the screen", async || {
        let (_, table, _) = world.run(&["issuer", "list"]).await;
        let rows = stand_ins(&world).await;
        if rows == ["builtin"] && table.contains("SIGNS IN ITS PLACE") { Ok(()) } else { Err((rows, table)) }
    })
    .await;
    corp.vault.unseal().await;
    all_signed(&world, 2, "Vault signs again", |id, name, _| is_pay(id) == is_corp(name)).await;
    within(LONG, "that is on record, too", async || {
        let rows = stand_ins(&world).await;
        if rows == ["builtin", "nobody"] { Ok(()) } else { Err(rows) }
    })
    .await;

    world.command(&["proxy", "issuer", "pay", "--default"]).await;
    all_signed(&world, 2, "all are of the default", |_, name, _| name.is_none()).await;
    let report = load.finish_unharmed(500).await;
    eprintln!("issuer binding: {} requests, {} failed", report.total, report.failed);
    world.finish_beside(&corp.roots()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_stops_a_migration_and_an_issuer_that_is_not_trusted_any_more_is_left_at_once() {
    let Some(envoy) = envoy("1.36.4") else { return };
    let options = WorldOptions { envoy: Some(envoy), adjust: longer_lives };
    let mut world = TestWorld::boot("issuer-trouble", options).await;
    let Some(corp) = LeafVault::start(&world).await else { return };
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let (code, out, words) = corp.add(&world, "corp", ROLE, &[]).await;
    assert_eq!(code, 0, "{out} {words}");

    // Its role allows nothing any more: what is asked for is refused.
    let denied = json!({ "allowed_uri_sans": "spiffe://elsewhere/*" });
    corp.vault.role("pki", ROLE, world.domain(), denied).await;
    world.command(&["issuer", "migrate", "--to", "corp", "--stage", "100", "--yes"]).await;
    let stopped = within(LONG, "trouble stops it", async || {
        let one = issuer(&world, "corp").await;
        if one["migration"]["stopped"].is_string() { Ok(one) } else { Err(one) }
    })
    .await;
    assert_eq!((&stopped["percent"], &stopped["is_default"]), (&json!(0), &json!(false)), "{stopped:#}");
    let (_, table, _) = world.run(&["issuer", "list"]).await;
    assert!(table.contains("STOPPED") && table.contains("migrate --resume"), "{table}");
    world.audit_says(&["issuer-set", "stopped", "failed or were refused"]).await;
    all_signed(&world, 2, "leaves stay with who signs", |_, name, _| name.is_none()).await;

    // Over a restart it is stopped, and goes on when somebody says so.
    world.kill().await;
    world.start().await;
    world.read_operator();
    assert!(issuer(&world, "corp").await["migration"]["stopped"].is_string());
    corp.vault.role("pki", ROLE, world.domain(), json!({})).await;
    world.command(&["issuer", "migrate", "--resume", "--yes"]).await;
    all_signed(&world, 2, "leaves move", |_, name, _| is_corp(name)).await;
    world.command(&["issuer", "migrate", "--abort", "--yes"]).await;
    all_signed(&world, 2, "leaves go back", |_, name, _| name.is_none()).await;
    let (code, _, words) = world.run(&["issuer", "migrate", "--abort", "--yes"]).await;
    assert!(code == 5 && words.contains("is not under way"), "{code} {words}");

    let (code, _, words) = world.run(&["issuer", "migrate", "--to", "corp", "--now", "--yes"]).await;
    assert!(code == 3 && words.contains("credence ca emergency"), "{code} {words}");
    world.command(&["issuer", "migrate", "--to", "corp", "--yes"]).await;
    all_signed(&world, 2, "Vault signs", |_, name, _| is_corp(name)).await;
    let begun = Instant::now();
    world.command(&["issuer", "migrate", "--to", "builtin", "--now", "--yes", "--reason", "breach"]).await;
    let left = within(LONG, "its root leaves before its leaves have ended", async || {
        let one = issuer(&world, "corp").await;
        if one["state"] == "idle" { Ok(one) } else { Err(one) }
    })
    .await;
    let told = left["warnings"].to_string();
    assert!(told.contains("left as not to be trusted"), "{left:#}");
    let (code, _, words) = world.run(&["proxy", "issuer", "web", "corp"]).await;
    assert!(code == 5 && words.contains("not to be trusted"), "{code} {words}");
    let took = begun.elapsed();
    assert!(left["leaves"]["unexpired"].as_u64() > Some(0), "{left:#}");
    all_signed(&world, 2, "no leaf is of it", |_, name, _| name.is_none()).await;
    let certificates = world.admin("web").await.certificates().await.unwrap();
    let anchors = certificates.iter().filter(|one| one.is_anchor).map(|one| &one.serial);
    let anchors: BTreeSet<_> = anchors.collect();
    assert_eq!(anchors.len(), 1, "our own root alone: {certificates:#?}");
    eprintln!("left in a hurry: its root was believed by nobody after {:.1} s", took.as_secs_f32());
    let report = load.finish_unharmed(500).await;
    eprintln!("issuer trouble: {} requests, {} failed", report.total, report.failed);
    world.finish_beside(&corp.roots()).await;
}
