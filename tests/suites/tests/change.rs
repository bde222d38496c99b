//! What operators change, and what proxies make of it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use http::Method;
use kit::{Admin, Pair, TestWorld, Upstream, WorldOptions, back, endpoints, envoy, eventually, get, within};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_route_table_that_envoy_refuses_takes_no_other_with_it_on_1_40() {
    refused_among_good("nack-one-1.40.0", "1.40.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_table_that_envoy_refuses_takes_no_other_with_it_on_1_36() {
    refused_among_good("nack-one-1.36.4", "1.36.4").await;
}

/// The node wants all tables in one request. Envoy gives them to their listeners in no order, and stops at the bad one.
async fn refused_among_good(name: &'static str, version: &'static str) {
    let Some(envoy) = envoy(version) else { return };
    let mut world =
        TestWorld::boot(name, WorldOptions { envoy: Some(envoy), ..WorldOptions::default() }).await;
    world.start_proxy("edge", "edge", &["edge"]).await;
    // We cannot know that an operator has lowered a limit of this Envoy; it finds out.
    let admin = world.admin("edge").await;
    post(admin, "/runtime_modify?re2.max_program_size.error_level=20").await;

    let ports = TestWorld::free_ports(13);
    let (bad, good) = ports.split_last().unwrap();
    let documents: Vec<String> = good.iter().map(|at| answering(*at, "prefix: /")).collect();
    let refused = answering(*bad, "regex: \"/[a-z]{40}\"");
    world.rest().apply(&[documents.join("---\n"), refused].join("---\n")).await;
    for at in good {
        eventually(&format!("{at} answers"), async || match get(*at, "/").await {
            Ok((status, _)) if status == 204 => Ok(()),
            other => Err(other),
        })
        .await;
    }
    let told = within(Duration::from_secs(4), "one table is refused, and one only", async || {
        let shown = world.proxy("edge").await["status"]["types"].clone();
        let tables = shown.as_array().into_iter().flatten().find(|one| one["word"] == "RDS").cloned();
        let tables = tables.ok_or("no table was asked for")?;
        let of = tables["resources"].as_array().unwrap().iter();
        let (refused, taken): (Vec<_>, Vec<_>) = of.partition(|one| one["refusal"].is_string());
        match refused[..] {
            [one] if taken.iter().all(|one| one["acked"].is_string() && one["acked"] == one["sent"]) => {
                Ok((one["name"].clone(), tables["refusal"]["message"].to_string()))
            }
            _ => Err("more, or fewer"),
        }
    })
    .await;
    assert_eq!(told.0, format!("of-{}", bad.port()));
    assert!(told.1.contains("max program size"), "{}", told.1);

    // Once it is mended, the node agrees, and the listener answers.
    world.rest().apply(&answering(*bad, "prefix: /")).await;
    eventually("the mended one answers", async || match get(*bad, "/").await {
        Ok((status, _)) if status == 204 => Ok(()),
        other => Err(other),
    })
    .await;
    world.synced("edge").await;
    world.finish().await;
}

/// A listener with a route table of its own, that answers what matches by itself.
fn answering(at: SocketAddr, matching: &str) -> String {
    let (ip, port) = (at.ip(), at.port());
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: of-{port}}}
spec:
  selector: {{matchLabels: {{app: edge}}}}
  listeners:
    - name: of-{port}
      address: {ip}
      port: {port}
      mtls: off
      filterChains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              config: {{routeConfig: of-{port}}}
  routes:
    - name: of-{port}
      virtualHosts:
        - name: all
          domains: ["*"]
          routes:
            - match: {{{matching}}}
              directResponse: {{status: 204}}
"#
    )
}

async fn post(admin: Admin, path: &str) {
    let mut tcp = TcpStream::connect(admin.address()).await.unwrap();
    let request =
        format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
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
