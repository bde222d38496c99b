//! `/edges`.

use spiffe::{EdgeName, NodeId};

use super::*;
use crate::sources::EdgeStanding;

fn wanted(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut wanted = json!({
        "name": name,
        "listener": "web",
        "issuer": "public",
        "challenge": {"kind": "http-01", "listener": "plain"},
    });
    change(&mut wanted);
    wanted
}

impl World {
    fn stand(&self, name: &str, standing: EdgeStanding) {
        let name = EdgeName::parse(name).unwrap();
        self.edges.standing.lock().unwrap().insert(name, standing);
    }
}

#[tokio::test]
async fn edge_is_added_shown_hurried_and_removed() {
    let world = world().await;
    let dry = wanted("api.example.com", |wanted| wanted["dry_run"] = json!(true));
    let planned = world.json("POST", "/api/v1/edges", dry).await;
    assert_eq!(planned.status, StatusCode::OK, "{}", planned.body);
    assert!(planned.body["summary"].as_str().unwrap().starts_with("would add edge api.example.com"));
    assert_eq!(world.get("/api/v1/edges/api.example.com").await.status, StatusCode::NOT_FOUND);

    let added = world
        .json(
            "POST",
            "/api/v1/edges",
            wanted("api.example.com", |wanted| wanted["reason"] = json!("go live")),
        )
        .await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    let edge = &added.body["edge"];
    assert_eq!(edge["domains"], json!(["api.example.com"]), "what it is called");
    assert_eq!((&edge["state"], &edge["version"]), (&json!("waiting"), &json!(1)));
    assert_eq!(added.body["checks"].as_array().unwrap().len(), 2, "what was tried is shown");
    let again = world.json("POST", "/api/v1/edges", wanted("api.example.com", |_| {})).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert!(again.body["hint"].as_str().unwrap().contains("credence edge remove"), "{}", again.body);

    let name = |text: &str| NodeId::parse(text).unwrap();
    let proxies = [(name("edge-1"), true), (name("edge-2"), false)];
    let failing = EdgeStanding {
        proxies: proxies.into(),
        doing: "waits until it is tried again".into(),
        next: Some(world.clock.now() + Duration::from_secs(300)),
        failures: 2,
        problem: Some("the name has no address; make a record".into()),
    };
    world.stand("api.example.com", failing);
    let listed = world.get("/api/v1/edges").await;
    let one = &listed.body["items"][0];
    assert_eq!((&one["state"], &one["failures"]), (&json!("failing"), &json!(2)), "{one}");
    assert_eq!(one["proxies"][1], json!({"node": "edge-2", "acknowledged": false}));
    assert_eq!(one["next"], "2027-01-15T08:05:00Z");
    world.stand("api.example.com", EdgeStanding { doing: "shows the names".into(), ..Default::default() });
    assert_eq!(world.get("/api/v1/edges/api.example.com").await.body["state"], "ordering");

    let planned = world.json("POST", "/api/v1/edges/api.example.com/renew", json!({"dry_run": true})).await;
    assert_eq!(planned.body["summary"], "would look at edge api.example.com now", "{}", planned.body);
    assert!(world.edges.hurried.lock().unwrap().is_empty());
    let hurried =
        world.json("POST", "/api/v1/edges/api.example.com/renew", json!({"reason": "mended"})).await;
    assert_eq!(hurried.status, StatusCode::OK, "{}", hurried.body);
    assert_eq!(*world.edges.hurried.lock().unwrap(), [EdgeName::parse("api.example.com").unwrap()]);
    let events = world.store.events();
    let last = events.last().unwrap();
    assert_eq!(
        (last.action, last.reason.as_str()),
        (Action::EdgeRenew, "mended"),
        "who hurried it is on record"
    );

    let path = "/api/v1/edges/api.example.com";
    let planned = world.call("DELETE", &format!("{path}?dry_run=true"), "", "").await;
    assert!(planned.body["summary"].as_str().unwrap().starts_with("would remove"), "{}", planned.body);
    let removed = world.call("DELETE", &format!("{path}?reason=gone"), "", "").await;
    assert_eq!(removed.body["summary"], "removed edge api.example.com, its certificate and its keys");
    for (method, path) in [("DELETE", path.to_owned()), ("POST", format!("{path}/renew"))] {
        let missing = world.call(method, &path, "application/json", "{}").await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND, "{method} {}", missing.body);
    }
    assert_eq!(world.edges.hurried.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn edge_that_cannot_work_is_refused_with_what_to_do_and_nothing_is_kept() {
    let world = world().await;
    let dns = |program: &str| json!({"kind": "dns-01", "publisher": {"by": "command", "program": program}});
    let update = || {
        json!({"kind": "dns-01", "publisher": {
            "by": "update", "server": "192.0.2.1:53", "zone": "example.com", "key": "k", "algorithm": "hmac-sha256",
        }})
    };
    let many: Vec<String> = (0..101).map(|number| format!("n{number}.example.com")).collect();
    for (what, body) in [
        ("name", wanted("API", |_| {})),
        ("namespace", wanted("a.example", |wanted| wanted["namespace"] = json!("a/b"))),
        ("issuer", wanted("a.example", |wanted| wanted["issuer"] = json!("a b"))),
        ("listener", wanted("a.example", |wanted| wanted["listener"] = json!(""))),
        ("challenge.listener", wanted("a.example", |wanted| wanted["challenge"]["listener"] = json!("web"))),
        ("challenge.program", wanted("a.example", |wanted| wanted["challenge"] = dns("bin/publish"))),
        ("domains", wanted("a", |wanted| wanted["domains"] = json!(["a.example", "b b.example"]))),
        ("domains", wanted("a", |wanted| wanted["domains"] = json!([""]))),
        ("domains", wanted("a", |wanted| wanted["domains"] = json!(many))),
        ("profile", wanted("a.example", |wanted| wanted["profile"] = json!("short lived"))),
        ("dns_key", wanted("a.example", |wanted| wanted["dns_key"] = json!("c2VjcmV0"))),
        ("dns_key", wanted("a.example", |wanted| wanted["challenge"] = update())),
        (
            "dns_key",
            wanted("a.example", |wanted| (wanted["challenge"], wanted["dns_key"]) = (update(), json!("***"))),
        ),
        (
            "challenge.algorithm",
            wanted("a.example", |wanted| {
                wanted["challenge"] = update();
                wanted["challenge"]["publisher"]["algorithm"] = json!("hmac-md5");
            }),
        ),
    ] {
        let answer = world.json("POST", "/api/v1/edges", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {}", answer.body);
        assert!(
            answer.body["detail"].as_str().unwrap().starts_with(&format!("{what} is not valid")),
            "{}",
            answer.body
        );
    }
    let both = wanted("a", |wanted| wanted["domains"] = json!(["a b", "a.example", "c d"]));
    let both = world.json("POST", "/api/v1/edges", both).await;
    assert!(both.body["detail"].as_str().unwrap().contains("\"a b\", \"c d\" are no names"), "{}", both.body);
    let unknown = wanted("a.example", |wanted| wanted["challenge"] = json!({"kind": "tls-sni-01"}));
    assert_eq!(world.json("POST", "/api/v1/edges", unknown).await.status, StatusCode::BAD_REQUEST);

    *world.edges.fault.lock().unwrap() = Some("no document has a listener web".into());
    let refused = world.json("POST", "/api/v1/edges", wanted("a.example", |_| {})).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
    assert_eq!(refused.body["type"], "urn:credence:problem:edge-refused");
    assert_eq!(refused.body["errors"][0]["fix"], "apply a document that has it");
    let events = world.store.events();
    let last = events.last().unwrap();
    assert_eq!((last.action, last.outcome), (Action::EdgeSet, audit::Outcome::Refused));

    *world.edges.fault.lock().unwrap() = None;
    let keyed = wanted("a.example", |wanted| {
        (wanted["challenge"], wanted["dns_key"]) = (update(), json!("cGxhbnRlZA=="));
    });
    let added = world.json("POST", "/api/v1/edges", keyed).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    assert!(!added.body.to_string().contains("cGxhbnRlZA"), "keys go in and never come out");
    assert_eq!(world.get("/api/v1/edges").await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn acme_server_stays_while_an_edge_is_certified_by_it() {
    let world = world().await;
    let server = world.json("POST", "/api/v1/issuers/acme", acme::wanted("public", |_| {})).await;
    assert_eq!(server.status, StatusCode::OK, "{}", server.body);
    for number in 0..12 {
        let added = world.json("POST", "/api/v1/edges", wanted(&format!("a{number}.example"), |_| {})).await;
        assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    }
    let refused = world.call("DELETE", "/api/v1/issuers/public?dry_run=true", "", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("issuer public is asked for the certificates of edges a0.example, a1"),
        "{detail}"
    );
    assert!(detail.ends_with(" and 2 more: remove these first"), "{detail}");
    for number in 0..12 {
        let path = format!("/api/v1/edges/a{number}.example");
        assert_eq!(world.call("DELETE", &path, "", "").await.status, StatusCode::OK);
    }
    let removed = world.call("DELETE", "/api/v1/issuers/public", "", "").await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
}

#[tokio::test]
async fn edge_that_a_listener_shows_stays_until_the_document_is_changed() {
    let world = world().await;
    let document = |name: &str, tls: &str| {
        format!(
            r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: {name}}}
spec:
  listeners:
    - name: web
      address: 127.0.0.1
      port: 8443
      tls: {tls}
      filterChains:
        - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: web}}}}]
  routes:
    - name: web
      virtualHosts:
        - name: all
          domains: ["*"]
          routes: [{{match: {{prefix: /}}, directResponse: {{status: 200}}}}]
"#
        )
    };
    for name in ["shop.example", "other.example"] {
        let added = world.json("POST", "/api/v1/edges", wanted(name, |_| {})).await;
        assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    }
    world.applied(&document("site", "{edge: shop.example}")).await;
    for query in ["", "?dry_run=true"] {
        let path = format!("/api/v1/edges/shop.example{query}");
        let refused = world.call("DELETE", &path, "", "").await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
        let says = "edge shop.example is shown by ProxyConfig default/site: take tls: {edge: shop.example} out of it";
        assert!(refused.body["detail"].as_str().unwrap().starts_with(says), "{}", refused.body);
    }
    assert_eq!(world.call("DELETE", "/api/v1/edges/other.example", "", "").await.status, StatusCode::OK);
    world.applied(&document("site", "{edge: other.example}")).await;
    let removed = world.call("DELETE", "/api/v1/edges/shop.example", "", "").await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
}

#[tokio::test]
async fn edge_whose_record_does_not_open_is_removed_by_its_name_and_added_anew() {
    let world = world().await;
    world.json("POST", "/api/v1/edges", wanted("shop", |_| {})).await;
    world.kept_edges.damage(&Tenant::default(), &EdgeName::parse("shop").unwrap());
    assert_eq!(world.get("/api/v1/edges/shop").await.status, StatusCode::NOT_FOUND);
    let remove = async || world.call("DELETE", "/api/v1/edges/shop", "", "").await;
    // Who was given it while it was whole must not be left without.
    let shop = EdgeName::parse("shop").unwrap();
    let shown =
        EdgeStanding { proxies: [(NodeId::parse("web-1").unwrap(), true)].into(), ..Default::default() };
    world.edges.standing.lock().unwrap().insert(shop, shown);
    let refused = remove().await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("is shown by web-1 still"), "{}", refused.body);
    world.edges.standing.lock().unwrap().clear();
    let removed = remove().await;
    assert_eq!(removed.body["summary"], "removed edge shop, whose record does not open", "{}", removed.body);
    assert_eq!(remove().await.status, StatusCode::NOT_FOUND);
    let again = world.json("POST", "/api/v1/edges", wanted("shop", |_| {})).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.body);
}
