//! Imported secrets: what goes in is checked, and never comes out.

use super::*;

fn set(name: &str, grants: &[&str]) -> Value {
    // base64 of "hunter2hunter2"
    json!({"namespace": "default", "name": name, "grants": grants, "value": "aHVudGVyMmh1bnRlcjI="})
}

#[tokio::test]
async fn secret_is_written_listed_replaced_and_removed_and_its_value_never_answered() {
    let world = world().await;
    let web = "spiffe://td.example/web";
    let dry = json!({"dry_run": true});
    let mut planned = set("db", &[web]);
    planned["dry_run"] = dry["dry_run"].clone();
    let plan = world.json("POST", "/api/v1/secrets", planned).await;
    assert_eq!(plan.status, 200, "{}", plan.body);
    assert!(plan.body["summary"].as_str().unwrap().starts_with("would add secret://default/db"));
    assert_eq!(world.get("/api/v1/secrets").await.body["items"].as_array().unwrap().len(), 0);
    let made = world.json("POST", "/api/v1/secrets", set("db", &[web])).await;
    assert_eq!(
        (made.status, made.body["secret"]["version"].as_u64()),
        (StatusCode::OK, Some(1)),
        "{}",
        made.body
    );
    let body = json!({"value": "bmV3IHZhbHVlIG5ldyB2YWx1ZQ=="});
    let rotated = world.json("POST", "/api/v1/secrets/default/db/rotate", body).await;
    assert_eq!(
        (rotated.status, rotated.body["secret"]["version"].as_u64()),
        (StatusCode::OK, Some(2)),
        "{}",
        rotated.body
    );
    assert_eq!(rotated.body["secret"]["grants"][0], web);
    let shown = world.get("/api/v1/secrets/default/db").await;
    for answer in [&made, &rotated, &shown] {
        let text = answer.body.to_string();
        assert!(!text.contains("hunter") && !text.contains("aHVudGVy") && !text.contains("bmV3"), "{text}");
        assert_eq!(answer.body.get("value"), None);
    }
    let removed = world.call("DELETE", "/api/v1/secrets/default/db", "", "").await;
    assert_eq!(removed.status, 200, "{}", removed.body);
    assert_eq!(world.get("/api/v1/secrets/default/db").await.status, 404);
}

#[tokio::test]
async fn secrets_that_are_none_are_refused_with_the_reason_and_nothing_is_kept() {
    let world = world().await;
    let web = "spiffe://td.example/web";
    let check = async |body: Value, status: u16, words: &str| {
        let answer = world.json("POST", "/api/v1/secrets", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert!(answer.body.to_string().contains(words), "{words}: {}", answer.body);
        assert_eq!(world.get("/api/v1/secrets").await.body["items"].as_array().unwrap().len(), 0);
    };
    let with = |key: &str, value: Value| {
        let mut body = set("db", &[web]);
        body[key] = value;
        body
    };
    check(with("name", json!("DB")), 400, "a secret's name is").await;
    check(with("namespace", json!("a/b")), 400, "namespace").await;
    check(with("grants", json!([])), 400, "at least one identity").await;
    check(with("grants", json!(["spiffe://other.example/web"])), 403, "not in trust domain").await;
    check(with("grants", json!(["spiffe://td.example/credence/node/x"])), 403, "reserved").await;
    check(with("grants", json!(["web"])), 400, "grant").await;
    check(with("value", json!("***")), 400, "not base64").await;
    check(with("value", json!("")), 400, "secret is empty").await;
    check(with("value", json!("QUFB".repeat(21_846 + 1))), 400, "at most 65536").await;
    check(with("certificate", json!("x")), 400, "give certificate and key, or value").await;
    check(with("password", json!("x")), 400, "password").await;
    let tls = json!({"namespace": "default", "name": "t", "grants": [web], "certificate": "x", "key": "y"});
    check(tls, 400, "no certificate in the PEM text").await;
}

/// A listener that shows a certificate, on nodes with the label `app: edge`.
fn edge(certificate: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: edge}}
spec:
  selector: {{matchLabels: {{app: edge}}}}
  listeners:
    - name: edge
      address: 127.0.0.1
      port: 8443
      tls: {{certificate: {certificate}}}
      filterChains:
        - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: edge}}}}]
  routes:
    - name: edge
      virtualHosts:
        - name: all
          domains: ["*"]
          routes: [{{match: {{prefix: /}}, directResponse: {{status: 200}}}}]
"#
    )
}

#[tokio::test]
async fn whoever_takes_a_grant_away_or_changes_the_kind_hears_what_breaks() {
    let world = world().await;
    let (shop, web) = ("spiffe://td.example/shop", "spiffe://td.example/web");
    for (node, id, app) in [("edge-1", web, "edge"), ("shop-1", shop, "shop")] {
        let body = json!({"node": node, "identities": [id], "labels": {"app": app}});
        let enrolled = world.json("POST", "/api/v1/proxies", body).await;
        assert!(enrolled.status.is_success(), "{}", enrolled.body);
    }
    world.applied(&edge("default/front")).await;
    let summary = async |mut body: Value, dry_run: bool| {
        body["dry_run"] = json!(dry_run);
        let answer = world.json("POST", "/api/v1/secrets", body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["summary"].as_str().unwrap().to_owned()
    };
    let kept = "what proxies hold of it they keep until they restart";
    let closes = "and then they close every connection to listener edge of ProxyConfig default/edge";

    world.plant_certificate("front", web).await;
    for dry_run in [true, false] {
        let said = summary(set("front", &[web]), dry_run).await;
        let wanted = format!(
            "IT WAS tls, AND IS generic NOW: proxies refuse it where a certificate is shown, {kept}, {closes}"
        );
        assert!(said.ends_with(&wanted) && !said.contains("NO MORE"), "{said}");
    }
    for dry_run in [true, false] {
        let said = summary(set("front", &[shop]), dry_run).await;
        assert!(said.ends_with(&format!("; IT GOES NO MORE TO edge-1: {kept}, {closes}")), "{said}");
    }
    // Whom it goes to beside is no loss, nor is one whose listeners show another.
    let said = summary(set("front", &[shop, web]), false).await;
    assert!(said.ends_with("2 nodes are bound to an identity that it is granted to"), "{said}");
    let said = summary(set("front", &[web]), false).await;
    assert!(said.ends_with(&format!("; IT GOES NO MORE TO shop-1: {kept}")), "{said}");
}

#[tokio::test]
async fn a_plan_warns_of_a_certificate_that_a_node_would_not_get() {
    let world = world().await;
    let web = "spiffe://td.example/web";
    for (node, app) in [("edge-1", "edge"), ("edge-2", "edge"), ("other", "other")] {
        let body = json!({"node": node, "identities": [web], "labels": {"app": app}});
        let enrolled = world.json("POST", "/api/v1/proxies", body).await;
        assert!(enrolled.status.is_success(), "{}", enrolled.body);
    }
    let warns = async |certificate: &str| -> Vec<String> {
        let plan = world.yaml("POST", "/api/v1/apply?dry_run=true", &edge(certificate)).await;
        assert_eq!(plan.status, 200, "{}", plan.body);
        let warnings = plan.body["warnings"].as_array().into_iter().flatten();
        warnings.map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let says = |warnings: &[String], words: &str| {
        let one = format!(
            "listener \"edge\" shows secret {words}: nodes take the listener all the same, and close"
        );
        assert!(warnings.len() == 1 && warnings[0].contains(&one), "{words}: {warnings:?}");
    };
    says(&warns("default/shop").await, "default/shop, which does not exist");

    world.json("POST", "/api/v1/secrets", set("words", &[web])).await;
    says(&warns("default/words").await, "default/words, which holds no certificate");

    world.plant_certificate("shop", "spiffe://td.example/other").await;
    says(&warns("default/shop").await, "default/shop, which is granted to no identity of edge-1, edge-2");
    world.plant_certificate("shop", web).await;
    assert_eq!(warns("default/shop").await, [""; 0]);
    let later = ManualClock::new(world.clock.now() + Duration::from_secs(86_400));
    world.plant_certificate_at("soon", web, later).await;
    let warnings = warns("default/soon").await;
    assert!(
        warnings.len() == 1 && warnings[0].contains("shows secret default/soon, whose certificate begins at"),
        "{warnings:?}"
    );
    let soon = world.get("/api/v1/secrets/default/soon").await;
    assert!(warnings[0].contains(soon.body["begins"].as_str().unwrap()), "{warnings:?} {}", soon.body);
    assert_eq!(world.get("/api/v1/secrets/default/shop").await.body.get("begins"), None);
    says(&warns("default/shpo").await, "default/shpo, which does not exist");

    // Whoever removes one hears who shows it, before and after.
    let remove = async |dry: &str| {
        let answer = world.call("DELETE", &format!("/api/v1/secrets/default/shop{dry}"), "", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["summary"].as_str().unwrap().to_owned()
    };
    assert!(!remove("?dry_run=true").await.contains("listener"));
    let applied = world.yaml("POST", "/api/v1/apply", &edge("default/shop")).await;
    assert_eq!(applied.status, 200, "{}", applied.body);
    for dry in ["?dry_run=true", ""] {
        let summary = remove(dry).await;
        assert!(summary.ends_with("connection to listener edge of ProxyConfig default/edge"), "{summary}");
    }
}
