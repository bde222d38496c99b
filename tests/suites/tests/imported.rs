//! Imported certificates on real Envoys: shown to whoever comes, by those alone who are granted them, and replaced
//! without a restart.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{fs, net::SocketAddr};

use certs::Clock;
use fixtures::{Blueprint, TestAuthority, TestKey, TestKeyKind};
use kit::{
    Envoy, Kept, Outcome, Speaks, SystemClock, TestWorld, Upstream, WorldOptions, envoy, eventually,
    plaintext, probe, try_http,
};
use serde_json::Value;
use server::sandbox::ProxyOptions;

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_an_imported_certificate_and_its_successor_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        strangers_see_it("imported-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_an_imported_certificate_and_its_successor_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        strangers_see_it("imported-1.36.4", envoy).await;
    }
}

/// A certificate for `shop.example`, as an authority of the web would sign it, and its key, in files of the world.
/// Its serial number.
fn certificate(world: &TestWorld, authority: &TestAuthority) -> String {
    let key = TestKey::generate(TestKeyKind::P256);
    let now = SystemClock.now();
    let name = fixtures::dns("shop.example");
    let made: Blueprint =
        authority.leaf_blueprint("spiffe://web.example/shop", &key, now).with_names(&[name]);
    let der = made.sign(authority.key());
    let serial = certs::Certificate::from_der(&der).unwrap().serial().to_string();
    let pem = certs::certificates_to_pem([der.as_slice(), authority.der()]);
    fs::write(world.sandbox().path("shop.pem"), pem).unwrap();
    fs::write(world.sandbox().path("shop.key"), key.pkcs8_pem()).unwrap();
    serial
}

fn document(app: &str, listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: {app}}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  listeners:
    - name: {app}
      address: {}
      port: {}
      tls: {{certificate: default/shop}}
      filterChains:
        - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: {app}}}}}]
  routes:
    - name: {app}
      virtualHosts:
        - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: {app}}}}}]}}
  clusters:
    - {{name: {app}, type: STATIC, endpoints: [{{address: {}, port: {}}}]}}
"#,
        listen.ip(),
        listen.port(),
        upstream.ip(),
        upstream.port()
    )
}

async fn strangers_see_it(name: &'static str, envoy: Envoy) {
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot(name, options).await;
    let upstream = Upstream::start("from the shop").await;
    for node in ["edge", "other"] {
        let proxy = ProxyOptions {
            identities: vec![world.id(node)],
            labels: vec![format!("app={node}")],
            ..ProxyOptions::default()
        };
        world.start_proxy_with(node, proxy).await;
    }
    let ports = TestWorld::free_ports(2);
    let [edge, other] = ports[..] else { panic!("two ports") };
    let documents =
        [document("edge", edge, upstream.address()), document("other", other, upstream.address())];
    let plan = world.rest().apply(&documents.join("---\n")).await;

    // The secret comes after the listener that needs it: whoever applied it was warned, and the proxy closes what
    // comes.
    let warnings: Vec<&Value> = plan["warnings"].as_array().into_iter().flatten().collect();
    let is_warned =
        |one: &Value| one.as_str().unwrap().contains("shows secret default/shop, which does not exist");
    assert_eq!(warnings.iter().filter(|one| is_warned(one)).count(), 2, "{warnings:?}");
    eventually("the proxy takes the listener and closes connections", async || {
        match try_http(edge, None, "/").await {
            outcome if outcome.is_refused_by_tls() => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let authority = TestAuthority::root("web.example", SystemClock.now());
    let first = certificate(&world, &authority);
    let identity = world.id("edge");
    let files = ["--cert", "shop.pem", "--key", "shop.key"];
    world.command(&[&["secret", "set", "shop", "--grant", &identity][..], &files].concat()).await;
    let answers = async |serial: &str| {
        let shown = probe(edge).await.map(|shown| shown.serial);
        match try_http(edge, None, "/").await {
            Outcome::Http { status: 200, body, .. }
                if body == "from the shop" && shown.as_deref() == Some(serial) =>
            {
                Ok(())
            }
            other => Err((shown, other)),
        }
    };
    eventually("a client without a certificate is answered", async || answers(&first).await).await;
    assert!(!plaintext(edge).await.starts_with(b"HTTP/"), "plaintext was answered");
    assert_eq!(kit::strikes_tls12(edge).await.first(), Some(&22), "TLS 1.2 is spoken at the edge");

    // Whom it was not granted to does not serve it, and the audit log says who asked.
    world.audit_says(&["secret-refuse", "default/shop", "other"]).await;
    let unserved = try_http(other, None, "/").await;
    assert!(!matches!(unserved, Outcome::Http { .. }), "{unserved:?}");

    // A successor, under requests on connections that stay open.
    let mut kept = vec![
        Kept::anonymous(edge, Speaks::Http1).await.unwrap(),
        Kept::anonymous(edge, Speaks::Http2).await.unwrap(),
    ];
    let second = certificate(&world, &authority);
    world.command(&[&["secret", "rotate", "shop"][..], &files].concat()).await;
    eventually("new connections see the successor", async || {
        for open in &mut kept {
            let (status, body) = open.ask("/").await.unwrap();
            assert_eq!((status, body.as_str()), (200, "from the shop"), "on a connection that was open");
        }
        answers(&second).await
    })
    .await;

    // A restart of the server takes nothing away.
    world.kill().await;
    answers(&second).await.unwrap();
    world.start().await;
    world.synced("edge").await;
    for open in &mut kept {
        assert_eq!(open.ask("/").await.unwrap().0, 200);
    }

    // What comes out again says everything but the value.
    let shown: Value = world.command(&["secret", "show", "shop"]).await;
    let text = shown.to_string();
    assert!(text.contains(&identity) && !text.contains("PRIVATE"), "{text}");
    let key = fs::read_to_string(world.sandbox().path("shop.key")).unwrap();
    let line = key.lines().nth(1).unwrap();
    for place in [world.admin("edge").await.config_dump().await.unwrap().to_string(), text] {
        assert!(!place.contains(line), "the key is shown");
    }
    world.finish().await;
}
