//! A real Vault signs leaves of workloads by a role: its root comes to every proxy before the first of them, no request
//! fails on the way there and back, and while it is sealed it costs nobody but itself a renewal.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{collections::BTreeSet, time::Duration};

use kit::{
    Config, LeafVault, Load, LoadPlan, Outcome, Pair, ROLE, TestWorld, WorldOptions, envoy,
    listed_issuer as issuer, try_http, within,
};
use serde_json::{Value, json};

/// Envoy waits up to half a minute between two tries of its streams, and a root stays two minutes after its last leaf.
const LONG: Duration = Duration::from_secs(240);

fn short_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(60);
    config.lifetimes.node = Duration::from_secs(20);
    config.lifetimes.server = Duration::from_secs(20);
    config.max_connection = Duration::from_secs(30);
}

/// Long enough for a leaf to outlive two changes of who signs the others.
fn longer_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(120);
    config.max_connection = Duration::from_secs(30);
}

/// The newest leaves of the two proxies.
async fn leaves(world: &TestWorld) -> Vec<Value> {
    let listed = world.command(&["cert", "list"]).await;
    let of_proxies =
        |one: &&Value| one["class"] == "workload" && (one["node"] == "web" || one["node"] == "pay");
    listed.as_array().unwrap().iter().filter(of_proxies).cloned().collect()
}

/// Waits until the newest leaf of each proxy is of this issuer (`null` for the built-in one) and issued after `since`.
async fn renewed(world: &TestWorld, issuer: Value, since: &str) -> Vec<Value> {
    within(LONG, &format!("leaves of {issuer} issued after {since}"), async || {
        let leaves = leaves(world).await;
        let is_new = |one: &Value| one["issuer"] == issuer && one["issued"].as_str() > Some(since);
        if leaves.len() == 2 && leaves.iter().all(is_new) { Ok(leaves) } else { Err(leaves) }
    })
    .await
}

async fn now(world: &TestWorld) -> String {
    let rows = world.audit().await;
    rows.iter().filter_map(|row| row["at"].as_str()).max().unwrap().to_owned()
}

/// How many certificates of nodes and of this server were issued so far.
async fn of_ours(world: &TestWorld) -> usize {
    let rows = world.audit().await;
    let is_ours = |row: &&Value| {
        row["action"] == "certificate-issue"
            && ["node", "server"].iter().any(|class| row["details"]["profile"] == *class)
    };
    rows.iter().filter(is_ours).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_signs_leaves_of_workloads_and_no_request_fails_on_the_way_there_and_back() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let mut world =
        TestWorld::boot("issuer-vault-leaves", WorldOptions { envoy: Some(envoy), adjust: short_lives })
            .await;
    let Some(corp) = LeafVault::start(&world).await else { return };
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());

    let (code, out, words) = corp.add(&world, "corp", "svid", &[]).await;
    assert_eq!(code, 0, "{out} {words}");
    assert!(out.contains("✓ role") && out.contains("✓ throwaway"), "{out}");
    assert_eq!(issuer(&world, "corp").await["state"], "idle");
    let (code, out, words) = world.run(&["issuer", "test", "corp"]).await;
    assert!(code == 0 && !out.contains('✗'), "{out} {words}");
    let (_, table, _) = world.run(&["issuer", "list"]).await;
    assert!(table.contains("role svid"), "{table}");

    let begun = now(&world).await;
    let migrated = world.command(&["issuer", "migrate", "--to", "corp", "--yes"]).await;
    assert!(migrated["summary"].as_str().unwrap().contains("every connected node"), "{migrated:#}");
    let signed = renewed(&world, json!("corp"), &begun).await;
    let corp_now = issuer(&world, "corp").await;
    assert_eq!((&corp_now["state"], &corp_now["authority"]), (&json!("signs"), &signed[0]["authority"]));
    assert_eq!(issuer(&world, "builtin").await["state"], "signs", "nodes, operators and this server stay");
    // Before the first of its leaves, each proxy had acknowledged its root.
    let rows = world.audit().await;
    let sequence = |row: &Value| row["sequence"].as_u64().unwrap();
    let is_active = |row: &&Value| row["action"] == "issuer-set" && row["details"]["leaves"] == "active";
    let active = sequence(rows.iter().find(is_active).unwrap_or_else(|| panic!("{rows:#?}")));
    let asked = rows.iter().filter(|row| row["action"] == "certificate-intent");
    let asked: Vec<_> = asked.filter(|row| row["details"]["issuer"] == "corp").map(sequence).collect();
    assert!(!asked.is_empty() && asked.iter().all(|one| *one > active), "{active} {asked:?}");
    // Who signed it alone can revoke it: reports list what we obtained, and say so.
    let id = signed[0]["authority"].as_str().unwrap();
    let listed = world.rest().get(&format!("/api/v1/authorities/{id}/signed")).await;
    assert!(listed["items"].as_array().unwrap().iter().all(|one| one["issuer"] == "corp"), "{listed:#}");
    let (code, _, words) = world.run(&["ca", "emergency", "--authority", id, "--yes"]).await;
    assert!(code == 5 && words.contains("credence issuer migrate --to builtin"), "{code} {words}");
    let serial = signed[0]["serial"].as_str().unwrap();
    let (code, out, words) = world.run(&["cert", "show", serial]).await;
    assert!(code == 0 && out.contains("corp"), "{out} {words}");
    let (code, out, words) = world.run(&["cert", "explain", serial]).await;
    assert_eq!(code, 0, "{out} {words}");
    let (code, out, words) = world.run(&["status", "--expiring", "1h"]).await;
    assert_eq!(code, 0, "{out} {words}");
    let (code, _, words) = world.run(&["issuer", "remove", "corp", "--yes"]).await;
    assert!(code == 5 && words.contains("migrate to another issuer"), "{code} {words}");

    // Over a restart: what proxies hold is believed on, and the next one is asked for by itself.
    world.kill().await;
    world.start().await;
    world.read_operator();
    let begun = now(&world).await;
    renewed(&world, json!("corp"), &begun).await;

    // Sealed: leaves in hand stay, nodes and this server are renewed in the same seconds, and it is said.
    let before = of_ours(&world).await;
    corp.vault.seal().await;
    let failing = within(LONG, "a sealed Vault is said", async || match issuer(&world, "corp").await {
        one if one["failures"].as_u64() > Some(0) && one["problem"].to_string().contains("sealed") => Ok(one),
        one => Err(one),
    })
    .await;
    assert_eq!(failing["state"], "signs");
    within(LONG, "our own certificates are renewed while Vault is sealed", async || {
        match of_ours(&world).await {
            count if count > before => Ok(()),
            count => Err(count),
        }
    })
    .await;
    assert!(world.metric("credence_issuer_down").await > 0.0);
    corp.vault.unseal().await;
    let begun = now(&world).await;
    renewed(&world, json!("corp"), &begun).await;
    within(LONG, "it is said that it is over", async || match issuer(&world, "corp").await {
        one if one["failures"] == 0 && one["problem"].is_null() => Ok(()),
        one => Err(one),
    })
    .await;

    // And back: at once, and its root stays until its last leaf has ended.
    let begun = now(&world).await;
    world.command(&["issuer", "migrate", "--to", "builtin", "--yes"]).await;
    renewed(&world, Value::Null, &begun).await;
    assert_eq!(issuer(&world, "corp").await["state"], "retired");
    let (code, _, words) = world.run(&["issuer", "remove", "corp", "--yes"]).await;
    assert!(code == 5 && words.contains("unexpired lea"), "{code} {words}");
    within(LONG, "nothing depends on it, and it is removed", async || {
        match world.run(&["issuer", "remove", "corp", "--yes"]).await {
            (0, ..) => Ok(()),
            refused => Err(refused),
        }
    })
    .await;
    let report = load.finish_unharmed(1_000).await;
    println!("issuer vault leaves: {} requests, {} failed", report.total, report.failed);
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(!stats.is_empty() && stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    world.finish_beside(&corp.roots()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_or_a_policy_that_cannot_work_is_refused_with_what_to_write_and_nothing_is_kept() {
    let world = TestWorld::boot("issuer-vault-role", WorldOptions::default()).await;
    let Some(corp) = LeafVault::start(&world).await else { return };
    let cases = [
        ("a request that names itself", json!({ "use_csr_sans": true }), "use_csr_sans=false"),
        ("no names", json!({ "allowed_uri_sans": "" }), "allowed_uri_sans=spiffe://"),
        ("a common name", json!({ "require_cn": true }), "require_cn=false"),
        ("RSA keys", json!({ "key_type": "rsa", "key_bits": 2048 }), "key_type=ec"),
        ("leases", json!({ "generate_lease": true, "no_store": false }), "generate_lease=false"),
        ("no servers", json!({ "server_flag": false }), "server_flag=true"),
        ("other usages", json!({ "key_usage": "KeyAgreement" }), "key_usage=DigitalSignature"),
        ("too short a life", json!({ "ttl": "10m", "max_ttl": "10m" }), "max_ttl="),
    ];
    for (what, changes, told) in cases {
        corp.vault.role("pki", "svid", world.domain(), changes).await;
        let (code, out, words) = corp.add(&world, "corp", "svid", &[]).await;
        assert_eq!(code, 1, "{what}: {out} {words}");
        assert!(words.contains(told) && words.contains("vault write pki/roles/svid"), "{what}: {words}");
        assert_eq!(world.command(&["issuer", "list"]).await.as_array().unwrap().len(), 1, "{what} was kept");
    }
    corp.vault.role("pki", "svid", world.domain(), json!({})).await;

    corp.grant(&world, "none").await;
    let (code, _, words) = corp.add(&world, "corp", "none", &[]).await;
    assert!(code == 1 && words.contains("pki/roles/none does not exist"), "{code} {words}");
    let (code, _, words) = corp.add(&world, "corp", "svid", &[]).await;
    assert!(code == 1 && words.contains("sign/none"), "another role is too much: {code} {words}");
    corp.vault.policy("credence", "path \"pki/none\" { capabilities = [\"deny\"] }").await;
    let (code, _, words) = corp.add(&world, "corp", "svid", &[]).await;
    assert!(code == 1 && words.contains("sign/svid"), "what the token lacks is named: {code} {words}");
    // A token that may do more is not used, by the path.
    let wide = "path \"pki/issuer/*\" { capabilities = [\"update\"] }";
    corp.vault.policy("credence", wide).await;
    let (code, _, words) = corp.add(&world, "corp", "svid", &[]).await;
    assert!(code == 1 && words.contains("--role svid --print-policy"), "{code} {words}");
    assert_eq!(world.command(&["issuer", "list"]).await.as_array().unwrap().len(), 1);
    world.audit_says(&["issuer-set", "refused", "corp"]).await;

    // What is better otherwise is said, and taken.
    corp.grant(&world, "svid").await;
    corp.vault.role("pki", "svid", world.domain(), json!({ "no_store": false })).await;
    let (code, out, words) = corp.add(&world, "corp", "svid", &[]).await;
    assert!(code == 0 && out.contains("no_store=true"), "{code} {out} {words}");
    let (code, _, words) = corp.add(&world, "twin", "svid", &[]).await;
    assert!(code == 5 && words.contains("credence issuer update corp"), "{code} {words}");
    let (code, _, words) = world.run(&["issuer", "update", "corp", "--lifetime", "10d"]).await;
    assert!(code == 2 && words.contains("ca.leaf_lifetime"), "{code} {words}");
    let planned = world.command(&["issuer", "migrate", "--to", "corp", "--dry-run"]).await;
    assert!(
        planned["summary"].as_str().unwrap().starts_with("would move leaves of workloads to corp"),
        "{planned:#}"
    );
    let (code, out, words) = world.run(&["issuer", "remove", "corp", "--yes"]).await;
    assert_eq!(code, 0, "{out} {words}");
    world.finish_beside(&corp.roots()).await;
}

/// Points the issuer at another authority of its mount, and waits until both proxies have leaves of that one.
async fn point(world: &TestWorld, corp: &LeafVault, id: &str) -> String {
    let update = ["issuer", "update", "corp", "--issuer", id];
    corp.grant_printed(world, &[&update[..], &["--print-policy"]].concat()).await;
    let (code, out, words) = world.run(&update).await;
    assert!(code == 0 && out.contains("as before; those of another authority are replaced"), "{out} {words}");
    let next = issuer(world, "corp").await;
    assert_eq!(next["state"], "signs", "{next:#}");
    within(LONG, "leaves of the next authority", async || {
        // The one before may have renewed one meanwhile.
        let leaves = leaves(world).await;
        let is_next = |one: &Value| one["issuer"] == "corp" && one["authority"] == next["authority"];
        let are_new = leaves.len() == 2 && leaves.iter().all(is_next);
        if are_new { Ok(()) } else { Err(leaves) }
    })
    .await;
    next["authority"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_below_the_same_root_signs_at_once_and_leaves_of_the_one_before_are_believed_on() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), adjust: longer_lives };
    let mut world = TestWorld::boot("issuer-vault-below", options).await;
    let Some(mut corp) = LeafVault::start(&world).await else { return };
    let (first, second) = (corp.below("Corp issuing 1").await, corp.below("Corp issuing 2").await);
    corp.pki.issuer.clone_from(&first);
    corp.grant(&world, ROLE).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let (code, out, words) = corp.add(&world, "corp", ROLE, &[]).await;
    assert_eq!(code, 0, "{out} {words}");
    let begun = now(&world).await;
    world.command(&["issuer", "migrate", "--to", "corp", "--yes"]).await;
    let of_first = renewed(&world, json!("corp"), &begun).await[0]["authority"].clone();
    let anchors = async || {
        let shown = world.admin("pay").await.certificates().await.unwrap();
        let anchors: BTreeSet<_> =
            shown.into_iter().filter(|one| one.is_anchor).map(|one| one.serial).collect();
        anchors
    };
    let believed = anchors().await;
    assert_eq!(believed.len(), 2, "our own root, and that of Vault: {believed:?}");
    // Somebody else with the name of web, who keeps his leaf.
    let other = world.node("web-2", &["web"]).await;
    let kept = world.workload(&other, "default").await;
    let let_in = async |when: &str| {
        let answer = try_http(pair.pay, Some(&kept), "/").await;
        assert!(matches!(&answer, Outcome::Http { status: 200, .. }), "{when}: {answer:?}");
        assert_eq!(anchors().await, believed, "{when}: its root was taken out");
    };
    let_in("before").await;

    let before = world.audit().await.len();
    let of_second = point(&world, &corp, &second).await;
    assert_ne!(json!(of_second), of_first);
    let_in("leaves of web and pay are of another authority").await;
    assert_eq!(json!(point(&world, &corp, &first).await), of_first);
    let_in("they are back").await;
    // The same root all the time: it never had to enter a bundle again.
    let rows = world.audit().await;
    let moved =
        rows.iter().filter(|row| row["action"] == "issuer-set" && row["details"]["leaves"].is_string());
    assert_eq!(moved.filter(|row| row["sequence"].as_u64() > Some(before as u64)).count(), 0, "{rows:#?}");
    let report = load.finish_unharmed(500).await;
    println!("issuer vault below: {} requests, {} failed", report.total, report.failed);
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(!stats.is_empty() && stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    world.finish_beside(&corp.roots()).await;
}
