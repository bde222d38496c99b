//! What operators change, and what proxies make of it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{net::TcpListener, time::Duration};

use http::Method;
use kit::{Admin, Pair, TestWorld, Upstream, WorldOptions, back, endpoints, envoy, eventually, get, within};
use serde_json::Value;

async fn boot(name: &'static str) -> Option<(TestWorld, Pair)> {
    let envoy = envoy("1.40.0")?;
    let mut world =
        TestWorld::boot(name, WorldOptions { envoy: Some(envoy), ..WorldOptions::default() }).await;
    let pair = Pair::start(&mut world).await;
    for node in ["web", "pay"] {
        world.synced(node).await;
    }
    Some((world, pair))
}

async fn stat(admin: Admin, name: &str) -> u64 {
    let stats = admin.stats(&format!("^{}$", name.replace('.', "\\."))).await.unwrap();
    stats.get(name).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_endpoint_reaches_envoy_within_a_second_and_warms_no_cluster() {
    let Some((mut world, pair)) = boot("endpoint-change").await else { return };
    let admin = world.admin("pay").await;
    let clusters = async || {
        (
            stat(admin, "cluster_manager.cluster_added").await,
            stat(admin, "cluster_manager.cluster_modified").await,
            stat(admin, "cluster_manager.cluster_removed").await,
            stat(admin, "listener_manager.listener_modified").await,
        )
    };
    let before = clusters().await;
    let other = Upstream::start("the other").await;
    world.rest().apply(&endpoints("pay-upstream", "default", &[other.address()])).await;
    within(Duration::from_secs(1), "the new endpoint answers", async || match get(pair.web, "/").await {
        Ok((_, body)) if body == "the other" => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(clusters().await, before, "an endpoint changed, and so did clusters or listeners");
    pair.answers(&mut world, "the other").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_updated_rolled_back_drafted_and_deleted() {
    let Some((mut world, pair)) = boot("update-delete").await else { return };
    let status = async || get(pair.web, "/").await.map(|(status, _)| status.as_u16());

    // Update: only /v2 is routed.
    let first = back("pay", pair.pay, &[&world.id("web")]);
    let second = first.replace("prefix: \"/\"", "prefix: \"/v2\"");
    let plan = world.rest().apply(&second).await;
    assert_eq!(plan["items"][0]["action"], "update", "{plan:#}");
    assert_eq!(plan["nodes"], serde_json::json!(["pay"]), "{plan:#}");
    eventually("/ is not routed any more", async || match status().await {
        Ok(404) => Ok(()),
        other => Err(other),
    })
    .await;

    // Rollback, by the command line.
    let history = world.command(&["history", "ProxyConfig", "pay"]).await;
    let revisions: Vec<u64> = numbers(&history, "revision");
    let oldest = revisions.iter().min().unwrap().to_string();
    world.command(&["rollback", "ProxyConfig", "pay", "--to", &oldest, "--yes"]).await;
    pair.answers(&mut world, "paid").await;
    let after = numbers(&world.command(&["history", "ProxyConfig", "pay"]).await, "revision");
    assert_eq!(after.len(), revisions.len() + 1, "a rollback is a new revision: {after:?}");

    // A draft changes nothing until it is applied.
    let config = config(&world, "ProxyConfig", "pay").await;
    let path = format!("/api/v1/configs/{}", config["id"].as_str().unwrap());
    let call = async |method, path: &str, text: &str| {
        world.rest().call(method, path, "application/yaml", text.to_owned()).await.unwrap()
    };
    let draft = call(Method::PUT, &path, &second).await;
    assert_eq!(draft.status, 200, "{}", draft.text);
    assert_eq!(draft.json()["state"], "draft", "{}", draft.text);
    assert_eq!(status().await, Ok(200), "a draft took effect");
    let applied = call(Method::POST, &format!("{path}/apply"), "").await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    eventually("the applied draft is effective", async || match status().await {
        Ok(404) => Ok(()),
        other => Err(other),
    })
    .await;

    // Delete: the listener of web closes.
    world.command(&["delete", "ProxyConfig", "web", "--yes"]).await;
    eventually("the listener of web is closed", async || match get(pair.web, "/").await {
        Err(_) => Ok(()),
        Ok(answer) => Err(answer),
    })
    .await;
    let left = world.rest().get("/api/v1/configs?kind=ProxyConfig").await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "{left:#}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_envoy_refuses_is_told_in_its_words_while_other_types_go_on() {
    let Some((mut world, pair)) = boot("nack").await else { return };
    // We cannot know that another process of the node's host holds the port; Envoy finds out.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let refused = back("refused", port, &[&world.id("web")])
        .replace("matchLabels: {app: refused}", "matchLabels: {app: pay}")
        .replace("refused-upstream", "pay-upstream-2");
    let with_endpoints =
        [refused, endpoints("pay-upstream-2", "default", &[pair.upstream.address()])].join("---\n");
    world.rest().apply(&with_endpoints).await;
    let told = within(Duration::from_secs(1), "proxy show tells Envoy's words", async || {
        let proxy = world.proxy("pay").await;
        let types = proxy["status"]["types"].as_array().cloned().unwrap_or_default();
        let listeners = types.into_iter().find(|one| one["word"] == "LDS").unwrap_or(Value::Null);
        if listeners["sync"] == "NACK" { Ok(listeners) } else { Err(proxy) }
    })
    .await;
    let words = told["refusal"]["message"].as_str().unwrap();
    assert!(words.contains("annot bind") && words.contains(&port.port().to_string()), "{words}");
    let shown = world.command(&["proxy", "show", "pay"]).await;
    assert!(shown.to_string().contains("annot bind"), "{shown:#}");

    // Endpoints and clusters of the same node go on.
    let other = Upstream::start("the other").await;
    world.rest().apply(&endpoints("pay-upstream", "default", &[other.address()])).await;
    pair.answers(&mut world, "the other").await;
    let types = world.proxy("pay").await["status"]["types"].clone();
    for one in types.as_array().unwrap() {
        assert!(one["word"] == "LDS" || one["sync"] == "SYNCED", "{types:#}");
    }

    // Once it is taken back, the node agrees again.
    world.command(&["delete", "ProxyConfig", "refused", "--yes"]).await;
    world.synced("pay").await;
    world.finish().await;
}

async fn config(world: &TestWorld, kind: &str, name: &str) -> Value {
    let found = world.rest().get(&format!("/api/v1/configs?kind={kind}&name={name}")).await;
    found["items"][0].clone()
}

/// Every number under `key`, wherever it stands.
fn numbers(value: &Value, key: &str) -> Vec<u64> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| numbers(item, key)).collect(),
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| match field.as_u64() {
                Some(number) if name == key => vec![number],
                _ => numbers(field, key),
            })
            .collect(),
        _ => Vec::new(),
    }
}
