//! The router with stores in memory: every address on its good path, and what it refuses.

use std::collections::BTreeSet;
use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use ca::{
    Anchor,
    clock::{Reading, State, Why},
};
use certs::{Clock, ManualClock, Timestamp};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use spiffe::{AuthorityId, Peer, SpiffeId, TrustDomain, VerifiedSvid, fake::FakeIssuer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use xds::{catalog::Catalog, validate::Context};

use super::*;
use crate::{
    calls::{
        Facts, Pauses, Recoveries,
        configs::{Manager, Stores},
    },
    expiry::{AuthorityEndings, Expiries, ExpirySource, LeafEndings, LeafFacts, ListEndings, TokenEndings},
    ports::RecoveryStore,
    testing::{MemoryStore, Still, StillRevoking, StillRotation},
};

mod acme;
mod brought;
mod edges;
mod emergency;
mod hooks;
mod issuers;
mod recovery;
mod revocation;
mod sealing;
mod secrets;

const JSON: &str = "application/json";
const TOKEN_TTL: Duration = Duration::from_secs(1200);
const OPERATOR_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const ENDPOINTS: &str = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: api}\nspec:\n  endpoints:\n    - {address: 127.0.0.1, port: 3001}\n";

/// A listener whose route names a cluster that is not there.
const DANGLING: &str = r#"apiVersion: v1
kind: ProxyConfig
metadata: {name: web}
spec:
  listeners:
    - name: http
      address: 127.0.0.1
      port: 8443
      filterChains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              config: {routeConfig: main}
  routes:
    - name: main
      virtualHosts:
        - name: all
          domains: ["*"]
          routes:
            - match: {prefix: /}
              route: {cluster: nowhere}
"#;

struct World {
    router: Router,
    configs: crate::calls::configs::Handle,
    store: MemoryStore,
    still: Still,
    journal: Arc<ca::testing::MemoryStore>,
    clock: ManualClock,
    time: watch::Sender<Reading>,
    sealing: Arc<crate::sealing::MemorySealing>,
    revoking: Arc<StillRevoking>,
    secrets: Arc<crate::testing::MemorySecrets>,
    rotation: Arc<StillRotation>,
    vault: crate::testing::StillVault,
    acme: crate::testing::StillAcme,
    edges: crate::testing::StillEdges,
    kept_issuers: Arc<crate::testing::MemoryIssuers>,
    kept_edges: Arc<crate::testing::MemoryEdges>,
    peer: Option<Arc<Peer>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

fn peer(path: &str) -> Arc<Peer> {
    let id = SpiffeId::parse(&format!("spiffe://td.example{path}")).unwrap();
    let remote: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    Arc::new(Peer::new(VerifiedSvid::for_tests(id, Timestamp::MAX), remote))
}

async fn world() -> World {
    world_with(|store| Arc::new(store)).await
}

/// A world whose recovery windows are kept by another store.
#[expect(clippy::disallowed_methods, reason = "the manager runs beside the test")]
async fn world_with(recoveries: impl FnOnce(MemoryStore) -> Arc<dyn RecoveryStore>) -> World {
    let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
    let (store, still) = (MemoryStore::default(), Still::default());
    let shared = Arc::new(store.clone());
    let secrets = Arc::new(crate::testing::MemorySecrets::default());
    let stores = Stores {
        documents: shared.clone(),
        nodes: shared.clone(),
        blocks: shared.clone(),
        secrets: secrets.clone(),
    };
    let domain = TrustDomain::parse("td.example").unwrap();
    let catalog = Catalog::new(Context::strict(domain.clone()));
    let (manager, configs) = Manager::load(stores, catalog, Box::new(|_| BTreeSet::new())).await.unwrap();
    tokio::spawn(manager.run(CancellationToken::new()));
    let issuer = Arc::new(FakeIssuer::new("td.example", Arc::new(clock.clone())));
    let trust = watch::channel(Arc::new(issuer.trust())).1;
    let root = issuer.trust().own().authorities().first().map(|root| AuthorityId::of(root.spki_hash()));
    let anchor = watch::channel(Arc::new(Anchor { root, ..Anchor::default() })).1;
    let ca = Arc::new(ca::testing::MemoryStore::new());
    // A second later than what a test does at once, which is as in the process before.
    let began = clock.now() + Duration::from_secs(1);
    let facts = Facts {
        version: "0.1.0".into(),
        enrolment_address: "localhost:18001".into(),
        began,
        operator_lifetime: OPERATOR_LIFETIME,
        token_ttl: TOKEN_TTL,
        default_mtls: xds::model::MtlsMode::Permissive,
    };
    let sealing = Arc::new(crate::sealing::MemorySealing::default());
    let leaves: Arc<dyn LeafFacts> = Arc::new(still.clone());
    let endings = LeafEndings {
        journal: ca.clone(),
        bindings: configs.watch_bindings(),
        blocks: configs.watch_blocks(),
        leaves: leaves.clone(),
    };
    let revoking =
        Arc::new(StillRevoking { revocations: ca.clone(), lists: Arc::default(), uptake: Arc::default() });
    let (vault, acme) = (crate::testing::StillVault::default(), crate::testing::StillAcme::default());
    let kept_issuers = Arc::new(crate::testing::MemoryIssuers::default());
    let authority_endings = AuthorityEndings {
        authorities: ca.clone(),
        issuers: kept_issuers.clone(),
        upstreams: Arc::new(vault.clone()),
    };
    let expiries: [Arc<dyn ExpirySource>; 4] = [
        Arc::new(authority_endings),
        Arc::new(endings),
        Arc::new(TokenEndings(shared.clone())),
        Arc::new(ListEndings(revoking.clone())),
    ];
    let rotation = Arc::new(StillRotation::default());
    let pauses = Pauses::load(shared.clone()).await.unwrap();
    let time = watch::Sender::<Reading>::default();
    let edges = crate::testing::StillEdges::default();
    let kept_edges = Arc::new(crate::testing::MemoryEdges::default());
    let calls = Calls {
        pauses,
        recoveries: Recoveries::load(recoveries(store.clone())).await.unwrap(),
        expiries: Expiries::new(expiries),
        leaves,
        domain,
        facts: Arc::new(facts),
        clock: Arc::new(clock.clone()),
        time: time.subscribe(),
        configs: configs.clone(),
        documents: shared.clone(),
        nodes: shared.clone(),
        audit: shared.clone(),
        refusals: shared,
        journal: ca.clone(),
        authorities: ca.clone(),
        rotation: rotation.clone(),
        revoking: revoking.clone(),
        issuer,
        workload_trust: trust.clone(),
        trust,
        anchor,
        delivery: Arc::new(still.clone()),
        renewals: Arc::new(still.clone()),
        readiness: Arc::new(still.clone()),
        metrics: Arc::new(still.clone()),
        sealing: sealing.clone(),
        secrets: secrets.clone(),
        hooks: Arc::new(still.clone()),
        issuers: kept_issuers.clone(),
        upstreams: Arc::new(vault.clone()),
        acme_store: acme.store.clone(),
        acme: Arc::new(acme.clone()),
        edges: kept_edges.clone(),
        edges_at_work: Arc::new(edges.clone()),
    };
    let peer = Some(peer("/credence/operator/ann"));
    World {
        router: router(calls),
        configs,
        store,
        still,
        journal: ca,
        clock,
        time,
        sealing,
        revoking,
        vault,
        acme,
        edges,
        kept_issuers,
        kept_edges,
        secrets,
        rotation,
        peer,
    }
}

impl World {
    async fn send(&self, request: Request<Body>) -> Answer {
        let mut request = request;
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert("192.0.2.7:999".parse::<SocketAddr>().unwrap());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 8 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Plants a certificate in the journal; answers its serial number.
    async fn issued(
        &self,
        id: SpiffeId,
        profile: certs::Profile,
        node: Option<&str>,
        life: Duration,
    ) -> certs::Serial {
        self.planted(certs::Serial::random(), id, profile, node, life).await
    }

    /// The same, with that serial number.
    async fn planted(
        &self,
        serial: certs::Serial,
        id: SpiffeId,
        profile: certs::Profile,
        node: Option<&str>,
        life: Duration,
    ) -> certs::Serial {
        let now = self.clock.now();
        let intent = ca::ports::Intent {
            serial: serial.clone(),
            authority: AuthorityId::of(certs::SpkiHash([1; 32])),
            epoch: 1,
            tbs_sha256: [0; 32],
            id,
            profile,
            tenant: Tenant::default(),
            node: node.map(|node| spiffe::NodeId::parse(node).unwrap()),
            purpose: spiffe::Purpose::Operator,
            spki: certs::SpkiHash([2; 32]),
            not_before: now,
            not_after: now + life,
            at: now,
            request_id: RequestId::random(),
        };
        let event = || Event::done(now, Actor::System, Action::CertificateIntent, "planted");
        let result = ca::ports::ResultRecord {
            serial: serial.clone(),
            authority: intent.authority,
            outcome: ca::ports::IssueOutcome::Issued(vec![vec![1]]),
            at: now,
        };
        ca::ports::Journal::record_intent(&*self.journal, intent, None, event()).await.unwrap();
        ca::ports::Journal::record_result(&*self.journal, result, event()).await.unwrap();
        serial
    }

    /// Imports a certificate of that name into the namespace `default`, granted to one identity.
    async fn plant_certificate(&self, name: &str, grant: &str) {
        self.plant_certificate_at(name, grant, self.clock.clone()).await;
    }

    /// The same, made by another clock.
    async fn plant_certificate_at(&self, name: &str, grant: &str, clock: ManualClock) {
        let issuer = FakeIssuer::new("web.example", Arc::new(clock));
        let chain = certs::Chain::new(issuer.trust().own().authorities()[0].clone(), Vec::new());
        let key = certs::SecretBytes::new(zeroize::Zeroizing::new(vec![1]));
        let secret = crate::ports::NewSecret {
            tenant: Tenant::default(),
            name: spiffe::SecretName::parse("default", name).unwrap(),
            grants: [SpiffeId::parse(grant).unwrap()].into(),
            created: self.clock.now(),
            value: certs::Imported::Tls { chain, form: certs::KeyForm::Pkcs8, key },
        };
        let event = Event::done(self.clock.now(), Actor::System, Action::SecretSet, name);
        crate::ports::SecretStore::put_secret(&*self.secrets, secret, None, event).await.unwrap();
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn call(&self, method: &str, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn yaml(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call(method, path, "application/yaml", body.to_owned()).await
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call(method, path, "application/json", body.to_string()).await
    }

    /// Creates and applies `text`; answers the id of its document.
    async fn applied(&self, text: &str) -> String {
        let answer = self.yaml("POST", "/api/v1/apply", text).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["revisions"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Sends what must be refused, as a problem of type `word`, leaving everything as it was.
    async fn refuses(&self, request: Request<Body>, status: u16, word: &str) -> Answer {
        let (what, before) = (format!("{} {}", request.method(), request.uri()), self.store.fingerprint());
        let answer = self.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], MEDIA_TYPE, "{what}");
        assert_eq!(answer.body["type"], format!("urn:credence:problem:{word}"), "{what}: {}", answer.body);
        for field in ["title", "detail", "hint", "request_id"] {
            assert!(answer.body[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: {field}");
        }
        assert_eq!(answer.headers["x-request-id"], answer.body["request_id"].as_str().unwrap());
        assert_eq!(self.store.fingerprint(), before, "{what} changed something");
        answer
    }
}

fn request(method: &str, path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    request.body(body.into()).unwrap()
}

#[tokio::test]
async fn every_route_has_a_row_and_every_row_a_route() {
    let world = world().await;
    for (method, path, _) in access::TABLE {
        let path = path.replace("{node_id}", "web-1").replace("{id}", "x").replace("{name}", "x");
        let path = path.replace("{service}", "x").replace("{serial}", "01");
        let answer = world.send(request(method.as_str(), &path, "text/plain", Body::empty())).await;
        let word = answer.body["type"].as_str().unwrap_or_default().to_owned();
        assert!(!word.ends_with("no-route") && !word.ends_with("no-method"), "{method} {path}: {word}");
        world.clock.advance(Duration::from_secs(1));
    }
    // A route that the table does not know would answer something else than this.
    for method in [Method::PATCH, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = world.send(request(method.as_str(), "/api/v1/status", "", Body::empty())).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

#[tokio::test]
async fn a_document_lives_from_draft_to_deletion() {
    let world = world().await;
    let created = world.yaml("POST", "/api/v1/configs", ENDPOINTS).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    assert_eq!(
        (&created.body["state"], &created.headers["etag"]),
        (&json!("draft"), &"\"1\"".parse().unwrap())
    );
    let id = created.body["id"].as_str().unwrap();
    let path = format!("/api/v1/configs/{id}");
    assert_eq!(created.headers["location"], path.as_str());

    let shown = world.get(&path).await;
    assert_eq!(shown.body["text"], ENDPOINTS);
    assert_eq!(world.yaml("POST", &format!("{path}/validate"), "").await.body["valid"], true);
    let applied = world.yaml("POST", &format!("{path}/apply"), "").await;
    assert_eq!(applied.body["revisions"][0]["state"], "applied");
    assert_eq!(world.get("/api/v1/services/api").await.body["items"][0]["endpoints"][0]["port"], 3001);
    assert_eq!(world.get("/api/v1/endpoints/api").await.body["items"][0]["address"], "127.0.0.1");

    let changed = ENDPOINTS.replace("3001", "3002");
    let put = Request::put(&path).header("content-type", "application/yaml").header("if-match", "\"2\"");
    let updated = world.send(put.body(changed.into()).unwrap()).await;
    assert_eq!(
        (updated.status, &updated.body["state"]),
        (StatusCode::OK, &json!("draft")),
        "{}",
        updated.body
    );
    assert_eq!(world.get("/api/v1/services").await.body["items"][0]["endpoints"][0]["port"], 3001);

    let deleted = world.send(Request::delete(&path).body(Body::empty()).unwrap()).await;
    assert_eq!(deleted.body["items"][0]["action"], "delete", "{}", deleted.body);
    assert_eq!(world.get(&path).await.status, StatusCode::NOT_FOUND);
    let history = world.get("/api/v1/history?kind=Endpoints&name=api").await;
    assert_eq!(history.body["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn applies_all_documents_of_a_text_or_none() {
    let world = world().await;
    let two = format!("{ENDPOINTS}---\n{}", ENDPOINTS.replace("name: api", "name: other"));
    let plan = world.yaml("POST", "/api/v1/apply?dry_run=true", &two).await;
    assert_eq!(plan.body["items"].as_array().unwrap().len(), 2, "{}", plan.body);
    assert!(world.store.events().is_empty(), "a dry run writes nothing");

    let bad = format!("{ENDPOINTS}---\n{DANGLING}");
    let refused = request("POST", "/api/v1/apply", "application/yaml", bad);
    let refused = world.refuses(refused, 422, "invalid-document").await;
    let error = &refused.body["errors"][0];
    assert_eq!((&error["line"], &error["value"]), (&json!(27), &json!("nowhere")), "{error}");
    assert!(error["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{error}");

    world.applied(&two).await;
    assert_eq!(world.store.events().len(), 1, "one transaction, one row");
    let again = world.yaml("POST", "/api/v1/apply", &two).await;
    assert_eq!(again.body["items"][0]["action"], "unchanged");
    assert_eq!(world.store.events().len(), 1, "nothing changed");

    let pruned = world.yaml("POST", "/api/v1/apply?prune=true", ENDPOINTS).await;
    assert_eq!(
        pruned.body["items"][1],
        json!({"action": "delete", "kind": "Endpoints", "namespace": "default",
        "name": "other", "before": two.split("---\n").nth(1).unwrap()})
    );
    assert_eq!(world.get("/api/v1/configs").await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn prunes_no_namespace_that_the_text_has_nothing_of() {
    let world = world().await;
    world.applied(ENDPOINTS).await;
    let elsewhere = ENDPOINTS.replace("{name: api}", "{name: api, namespace: team-a}");
    for text in ["", "# nothing\n", &elsewhere] {
        for path in ["/api/v1/apply?prune=true", "/api/v1/apply?prune=true&dry_run=true"] {
            let request = request("POST", path, "application/yaml", text.to_owned());
            let refused = world.refuses(request, 400, "parameter").await.body["detail"].to_string();
            assert!(refused.contains("no document of namespace default"), "{refused}");
        }
    }
    let there = world.yaml("POST", "/api/v1/apply?prune=true&namespace=team-a", &elsewhere).await;
    assert_eq!(there.status, 200, "{}", there.body);
    assert_eq!(there.body["items"].as_array().unwrap().len(), 1, "{}", there.body);
}

#[tokio::test]
async fn a_prune_that_was_looked_at_ends_nothing_that_came_or_changed_since() {
    let world = world().await;
    let other = ENDPOINTS.replace("name: api", "name: other");
    world.applied(ENDPOINTS).await;
    let up_to = async || {
        let plan = world.yaml("POST", "/api/v1/apply?prune=true&dry_run=true", ENDPOINTS).await;
        plan.body["prune_up_to"].as_u64().unwrap()
    };
    let prune = |up_to: u64| {
        request(
            "POST",
            &format!("/api/v1/apply?prune=true&prune_up_to={up_to}"),
            "application/yaml",
            ENDPOINTS,
        )
    };
    let nothing = up_to().await;
    assert_eq!(nothing, 0);
    let id = world.applied(&other).await;
    let came = world.refuses(prune(nothing), 409, "conflict").await;
    assert!(came.body["detail"].to_string().contains("default/other"), "{}", came.body);

    // A draft that waits would end with its document.
    let seen = up_to().await;
    let draft = world.yaml("PUT", &format!("/api/v1/configs/{id}"), &other.replace("3001", "3002")).await;
    assert_eq!(draft.status, 200, "{}", draft.body);
    world.refuses(prune(seen), 409, "conflict").await;
    let pruned = world.send(prune(up_to().await)).await;
    assert_eq!(pruned.status, 200, "{}", pruned.body);
    assert_eq!(world.get("/api/v1/configs").await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_plan_names_the_draft_that_it_supersedes() {
    let world = world().await;
    let enrolled = world.json("POST", "/api/v1/proxies", json!({"node": "web-1"})).await;
    assert_eq!(enrolled.status, StatusCode::CREATED, "{}", enrolled.body);
    let config = DANGLING.replace("nowhere", "api") + "  clusters:\n    - {name: api, type: EDS}\n";
    world.applied(&config).await;
    let id = world.applied(ENDPOINTS).await;
    let path = format!("/api/v1/configs/{id}");
    let text = |port: &str| ENDPOINTS.replace("3001", port);
    let draft = async |port: &str| {
        let draft = world.yaml("PUT", &path, &text(port)).await;
        assert_eq!(draft.body["state"], "draft", "{}", draft.body);
        format!(
            "the draft of Endpoints default/api by spiffe://td.example/credence/operator/ann (revision {}) waits no more; \
             credence rollback Endpoints api -n default --to",
            draft.body["revision"]
        )
    };
    let said = |plan: &Answer| -> (String, usize, usize) {
        assert_eq!(plan.status, StatusCode::OK, "{}", plan.body);
        let drafts = plan.body["warnings"].as_array().into_iter().flatten().map(|one| one.as_str().unwrap());
        let drafts: Vec<_> = drafts.filter(|one| one.starts_with("the draft of")).collect();
        let nodes = plan.body["nodes"].as_array().unwrap().len();
        (drafts.join("\n"), nodes, plan.body["revisions"].as_array().map_or(0, Vec::len))
    };
    let apply = async |port: &str, query: &str| {
        said(&world.yaml("POST", &format!("/api/v1/apply{query}"), &text(port)).await)
    };

    let waits = draft("3002").await;
    for (query, revisions) in [("?dry_run=true", 0), ("", 1)] {
        let (warned, nodes, made) = apply("3001", query).await;
        assert!(warned.starts_with(&waits), "{warned}");
        assert_eq!((nodes, made), (0, revisions), "what is effective stays as it is");
    }
    assert_eq!(apply("3001", "").await, (String::new(), 0, 0), "nothing waits any more");

    let waits = draft("3003").await;
    let (warned, nodes, _) = apply("3004", "").await;
    assert!(warned.starts_with(&waits) && nodes == 1, "{nodes} {warned}");
    // One's own draft, applied from the file that it came from.
    draft("3005").await;
    assert_eq!(apply("3005", "").await, (String::new(), 1, 1));
    draft("3005").await;
    assert_eq!(said(&world.yaml("POST", &format!("{path}/apply"), "").await), (String::new(), 0, 1));

    let waits = draft("3006").await;
    let pruned = said(&world.yaml("POST", "/api/v1/apply?prune=true&dry_run=true", &config).await).0;
    let deleted = said(&world.call("DELETE", &path, "", "").await).0;
    assert!(pruned.starts_with(&waits) && deleted.starts_with(&waits), "{pruned} {deleted}");
}

#[tokio::test]
async fn rolls_back_to_an_older_text_as_a_new_revision() {
    let world = world().await;
    world.applied(ENDPOINTS).await;
    world.applied(&ENDPOINTS.replace("3001", "3002")).await;
    let body = json!({"kind": "Endpoints", "name": "api", "to": 1, "reason": "it broke"});
    let plan = world.json("POST", "/api/v1/rollback", body).await;
    assert_eq!(plan.body["revisions"][0]["revision"], 3, "{}", plan.body);
    assert_eq!(world.get("/api/v1/endpoints").await.body["items"][0]["port"], 3001);
    let body = json!({"kind": "Endpoints", "name": "api", "to": 77}).to_string();
    world.refuses(request("POST", "/api/v1/rollback", "application/json", body), 404, "not-found").await;
}

#[tokio::test]
async fn a_long_history_is_listed_to_its_end_and_its_first_revision_is_still_there() {
    let world = world().await;
    let id = world.applied(ENDPOINTS).await;
    world.applied(&ENDPOINTS.replace("3001", "3002")).await;
    let change = |port: usize| crate::ports::DocumentChange::Put {
        tenant: Tenant::default(),
        namespace: spiffe::Namespace::default(),
        kind: "Endpoints".into(),
        name: "api".into(),
        text: ENDPOINTS.replace("3001", &port.to_string()),
        expected: None,
        apply: true,
    };
    let event = Event::done(world.clock.now(), Actor::System, Action::DocumentApply, "planted");
    let many = (4001..4600).map(change).collect();
    crate::ports::DocumentStore::commit(&world.store, many, "ann", "", event).await.unwrap();
    let of_it = format!("/api/v1/configs/{id}/history?");
    for path in ["/api/v1/history?kind=Endpoints&name=api&", &of_it] {
        let page = async |query: &str| {
            let answer = world.get(&format!("{path}{query}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
            let revisions: Vec<u64> = answer.body["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["revision"].as_u64().unwrap())
                .collect();
            (revisions, answer.body.get("next").and_then(Value::as_str).map(str::to_owned))
        };
        let (mut all, next) = page("").await;
        assert_eq!((all.len(), next.as_deref()), (500, Some("102")));
        let (rest, next) = page("after=102").await;
        all.extend(rest);
        assert_eq!((all, next), ((1..=601).rev().collect(), None));
        assert_eq!(page("limit=2&after=4").await, (vec![3, 2], Some("2".to_owned())));
        assert_eq!(world.get(&format!("{path}after=x")).await.status, StatusCode::BAD_REQUEST);
    }
    let back = json!({"kind": "Endpoints", "name": "api", "to": 1});
    let plan = world.json("POST", "/api/v1/rollback", back).await;
    assert_eq!(plan.status, StatusCode::OK, "{}", plan.body);
    assert_eq!(world.get(&format!("/api/v1/configs/{id}")).await.body["text"], ENDPOINTS);
}

#[tokio::test]
async fn rollback_says_which_endpoints_go_back_and_which_stay() {
    let world = world().await;
    let config = |port: u16| {
        format!(
            "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: web}}\nspec:\n  clusters:\n    - {{name: \
             pay, type: STATIC, mtls: off, endpoints: [{{address: 127.0.0.1, port: {port}}}]}}\n    - {{name: api, type: \
             EDS, mtls: off}}\n"
        )
    };
    world.applied(ENDPOINTS).await;
    world.applied(&config(4001)).await;
    let history = world.get("/api/v1/history?kind=ProxyConfig&namespace=default&name=web").await.body;
    let first = &history["items"][0]["revision"];
    let back = json!({"kind": "ProxyConfig", "name": "web", "to": first, "dry_run": true});
    let warnings = async || {
        let plan = world.json("POST", "/api/v1/rollback", back.clone()).await;
        assert_eq!(plan.status, StatusCode::OK, "{}", plan.body);
        let all = plan.body["warnings"].as_array().cloned().unwrap_or_default();
        let text: Vec<_> = all.iter().map(|one| one.as_str().unwrap().to_owned()).collect();
        text.join("\n")
    };
    let none = warnings().await;
    assert!(!none.contains("goes back") && !none.contains("keeps the endpoints"), "{none}");
    world.clock.advance(Duration::from_secs(60));
    let path = format!("/api/v1/configs/{}", world.applied(&config(4002)).await);
    let endpoints = world.applied(&ENDPOINTS.replace("3001", "3002")).await;
    let goes_back = "pay goes back to endpoints 127.0.0.1:4001, from 127.0.0.1:4002";
    let said = warnings().await;
    assert!(said.contains(goes_back), "{said}");
    assert!(said.contains("api keeps the endpoints of Endpoints default/api"), "{said}");

    // What is effective counts, not a draft; and endpoints may be gone.
    let tag = world.get(&path).await.headers["etag"].clone();
    let put = Request::put(&path).header("content-type", "application/yaml").header("if-match", tag);
    let draft = world.send(put.body(config(4001).into()).unwrap()).await;
    assert_eq!(draft.body["state"], "draft", "{}", draft.body);
    let gone = Request::delete(format!("/api/v1/configs/{endpoints}")).body(Body::empty()).unwrap();
    assert_eq!(world.send(gone).await.status, StatusCode::OK);
    let said = warnings().await;
    assert!(said.contains(goes_back), "{said}");
    assert!(said.contains("api has no endpoints: Endpoints default/api was deleted"), "{said}");
}

#[tokio::test]
async fn a_join_token_lives_as_configured_unless_asked_otherwise() {
    let world = world().await;
    let expires = async |body: Value| {
        let enrolled = world.json("POST", "/api/v1/proxies", body).await;
        assert_eq!(enrolled.status, StatusCode::CREATED, "{}", enrolled.body);
        enrolled.body["expires"].clone()
    };
    let now = world.clock.now();
    assert_eq!(expires(json!({"node": "web-1"})).await, json!((now + TOKEN_TTL).to_string()));
    let asked = expires(json!({"node": "web-2", "ttl_secs": 60})).await;
    assert_eq!(asked, json!((now + Duration::from_secs(60)).to_string()));
}

#[tokio::test]
async fn enrols_shows_and_removes_a_node() {
    let world = world().await;
    let enrolled =
        world.json("POST", "/api/v1/proxies", json!({"node": "web-1", "labels": {"app": "web"}})).await;
    assert_eq!(enrolled.status, StatusCode::CREATED, "{}", enrolled.body);
    assert_eq!(enrolled.body["proxy"]["identities"][0], "spiffe://td.example/default/web-1");
    assert!(enrolled.body["pin"].as_str().unwrap().starts_with("sha256:"));
    let token = crate::token::JoinToken::parse(enrolled.body["token"].as_str().unwrap()).unwrap();

    let tokens = world.get("/api/v1/tokens").await;
    assert_eq!(tokens.body["items"][0]["id"], token.id());
    assert_eq!(tokens.body["items"][0]["state"], "unused");
    assert!(!tokens.body.to_string().contains(enrolled.body["token"].as_str().unwrap()));
    let good = DANGLING.replace("nowhere", "api") + "  clusters:\n    - {name: api, type: EDS}\n";
    world.applied(&format!("{good}---\n{ENDPOINTS}")).await;
    let config = world.get("/api/v1/proxies/web-1/config").await.body;
    assert_eq!(config["types"]["EDS"][0]["name"], "api", "{config}");
    let explained = world.get("/api/v1/proxies/web-1/explain").await.body;
    assert!(explained["lines"].to_string().contains("ProxyConfig default/web"), "{explained}");
    for path in ["", "/status"] {
        let answer = world.get(&format!("/api/v1/proxies/web-1{path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    }
    let offline = async || world.get("/api/v1/proxies").await.body["items"][0]["status"].clone();
    assert_eq!(
        (&offline().await["sync"], offline().await.get("certificate_expires")),
        (&json!("OFFLINE"), None)
    );
    let life = Duration::from_secs(86_400);
    let id = SpiffeId::parse("spiffe://td.example/credence/node/web-1").unwrap();
    world.issued(id.clone(), certs::Profile::Node, Some("web-1"), life).await;
    let ends = json!((world.clock.now() + life).to_string());
    assert_eq!(offline().await["certificate_expires"], ends);
    assert_eq!(world.get("/api/v1/proxies/web-1/status").await.body["certificate_expires"], ends);
    assert_eq!(world.yaml("POST", "/api/v1/proxies/web-1/reload", "").await.status, StatusCode::OK);
    let identities = world.get("/api/v1/identities").await;
    assert_eq!(identities.body["items"].as_array().unwrap().len(), 2);

    let refused = async || world.get("/api/v1/proxies/web-1").await.body["refused"].clone();
    for (id, why) in [
        (&id, "what the process before said"),
        (&id, "another namespace"),
        (&SpiffeId::parse("spiffe://td.example/other").unwrap(), "other"),
    ] {
        assert!(!refused().await.to_string().contains("before"), "it may be long past");
        let actor = Actor::Identity { id: id.clone() };
        let row = Event::refused(world.clock.now(), actor, Action::StreamRefuse, "18000", why);
        audit::AuditLog::append(&world.store, vec![row]).await.unwrap();
        assert_eq!(refused().await == Value::Null, why.contains("before"));
        world.clock.advance(Duration::from_secs(1));
    }
    let told = format!(
        "its stream was refused at {}: another namespace",
        world.clock.now() - Duration::from_secs(2)
    );
    assert_eq!(refused().await, json!(told));
    assert_eq!(world.get("/api/v1/proxies").await.body["items"][0].get("refused"), None);
    let block = json!({"id": id.as_str(), "reason": "stolen"});
    assert_eq!(world.json("POST", "/api/v1/identities/block", block).await.status, StatusCode::OK);
    assert!(refused().await.as_str().unwrap().starts_with("its identity is blocked"));

    let again =
        request("POST", "/api/v1/proxies", "application/json", r#"{"node": "web-1", "namespace": "shop"}"#);
    let again = world.refuses(again, 409, "exists").await;
    assert_eq!(again.body["detail"], "node web-1 exists already, in namespace default");
    let revoke = Request::delete(format!("/api/v1/tokens/{}", token.id()));
    assert_eq!(world.send(revoke.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
    let removed = world.send(Request::delete("/api/v1/proxies/web-1").body(Body::empty()).unwrap()).await;
    assert_eq!(removed.status, StatusCode::OK);
    world.refuses(Request::get("/api/v1/proxies/web-1").body(Body::empty()).unwrap(), 404, "not-found").await;
}

#[tokio::test]
async fn lists_the_nodes_that_stand_as_asked_over_all_pages() {
    let world = world().await;
    for node in ["a", "b", "c", "d", "e"] {
        world.json("POST", "/api/v1/proxies", json!({"node": node})).await;
    }
    let stands =
        |sync: &str| crate::wire::ProxyStatus { connected: true, sync: sync.into(), ..Default::default() };
    for (node, sync) in [("b", "NOT SENT"), ("d", "SYNCED"), ("e", "NOT SENT")] {
        world.still.nodes.lock().unwrap().insert(spiffe::NodeId::parse(node).unwrap(), stands(sync));
    }
    let check = async |query: &str, expected: &[&str], next: Option<&str>| {
        let page = world.get(&format!("/api/v1/proxies?{query}")).await.body;
        let nodes: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|one| one["node_id"].as_str().unwrap()).collect();
        assert_eq!((nodes, page["next"].as_str()), (expected.to_vec(), next), "{query}");
    };
    check("state=online", &["b", "d", "e"], None).await;
    check("state=OFFLINE", &["a", "c"], None).await;
    check("state=not-sent&limit=1", &["b"], Some("b")).await;
    check("state=not-sent&limit=1&after=b", &["e"], None).await;
    check("state=NOT%20SENT&namespace=default", &["b", "e"], None).await;
    check("state=nack", &[], None).await;
    let unknown = Request::get("/api/v1/proxies?state=gone").body(Body::empty()).unwrap();
    let answer = world.refuses(unknown, 400, "parameter").await;
    let told = "state is not valid: \"gone\" is not one of online, offline, synced, not-sent, stale, nack";
    assert_eq!(answer.body["detail"], told);
}

#[tokio::test]
async fn a_binding_that_is_replaced_keeps_what_is_not_given_and_says_what_changes() {
    let world = world().await;
    let enroll = async |body: Value| world.json("POST", "/api/v1/proxies", body).await.body;
    let (id, own) = ("spiffe://td.example/lag", "spiffe://td.example/production/web-1");
    enroll(json!({
        "node": "web-1", "namespace": "production", "labels": {"app": "lag"}, "identities": [id],
    }))
    .await;
    let same = enroll(json!({"node": "web-1", "replace": true})).await;
    assert_eq!(same["proxy"]["labels"], json!({"app": "lag"}), "{same}");
    assert_eq!(same["proxy"]["identities"], json!([id]), "{same}");
    assert_eq!((&same["proxy"]["namespace"], same.get("changes")), (&json!("production"), None), "{same}");

    let change =
        |what: &str, before: &str, after: &str| json!({"what": what, "before": before, "after": after});
    let wanted = json!({
        "node": "web-1", "replace": true, "namespace": "staging", "labels": {"app": "web", "tier": "1"}, "dry_run": true,
    });
    let moved = enroll(wanted).await;
    let expected =
        [change("namespace", "production", "staging"), change("labels", "app=lag", "app=web, tier=1")];
    assert_eq!(moved["changes"], json!(expected));
    assert_eq!(moved["proxy"]["identities"], json!([id]), "{moved}");

    let bare = enroll(json!({"node": "web-1", "replace": true, "labels": {}, "identities": []})).await;
    assert_eq!(bare["changes"], json!([change("labels", "app=lag", ""), change("identities", id, own)]));
    let rows = world.get("/api/v1/audit?action=proxy-enroll").await.body;
    assert!(rows.to_string().contains("labels, identities"), "{rows}");
    // One that was derived from the namespace follows it.
    let moved = enroll(json!({"node": "web-1", "replace": true, "namespace": "staging"})).await;
    assert_eq!(moved["proxy"]["identities"], json!(["spiffe://td.example/staging/web-1"]), "{moved}");
}

#[tokio::test]
async fn a_node_of_another_tenant_is_replaced_by_nobody_else() {
    let world = world().await;
    let (node, now) = (spiffe::NodeId::parse("web-1").unwrap(), world.clock.now());
    let tenant = Tenant::parse("acme").unwrap();
    let token = crate::token::JoinToken::generate(tenant.clone());
    let token = token.to_stored(&[7; 32], node.clone(), "eve".into(), now, now + Duration::from_secs(60));
    let theirs = spiffe::Binding {
        node: node.clone(),
        tenant,
        namespace: spiffe::Namespace::parse("theirs").unwrap(),
        labels: [("app".to_owned(), "secret".to_owned())].into(),
        identities: vec![SpiffeId::parse("spiffe://td.example/theirs/web-1").unwrap()],
        issuer: None,
        state: spiffe::BindingState::Enabled,
        created: now,
    };
    let event = Event::done(now, Actor::System, Action::ProxyEnroll, "web-1");
    world.configs.enroll(theirs.clone(), token, None, event).await.unwrap();
    for replace in [false, true] {
        for dry_run in [true, false] {
            let body = json!({"node": "web-1", "replace": replace, "dry_run": dry_run}).to_string();
            let wanted = request("POST", "/api/v1/proxies", "application/json", body);
            let refused = world.refuses(wanted, 409, "exists").await.body.to_string();
            assert!(!refused.contains("theirs") && !refused.contains("secret"), "{refused}");
        }
    }
    assert_eq!(world.configs.bindings().get(&node), Some(&theirs));
}

#[tokio::test]
async fn a_binding_that_was_changed_or_removed_meanwhile_is_not_written_back() {
    let world = world().await;
    let node = spiffe::NodeId::parse("web-1").unwrap();
    let read = || world.configs.bindings().get(&node).cloned();
    let write_back = async |known: spiffe::Binding| {
        let now = world.clock.now();
        let token = crate::token::JoinToken::generate(known.tenant.clone());
        let token = token.to_stored(&[7; 32], node.clone(), "ann".into(), now, now + Duration::from_secs(60));
        let event = Event::done(now, Actor::System, Action::ProxyEnroll, "web-1");
        world.configs.enroll(known.clone(), token, Some(known), event).await
    };
    let enroll = async |labels: Value| {
        world
            .json("POST", "/api/v1/proxies", json!({"node": "web-1", "labels": labels, "replace": true}))
            .await
    };
    assert_eq!(enroll(json!({"app": "old"})).await.status, StatusCode::CREATED);
    let old = read().unwrap();
    write_back(old.clone()).await.expect("it is the same still");
    let old = read().unwrap();
    assert_eq!(enroll(json!({"app": "new"})).await.status, StatusCode::CREATED);
    assert!(matches!(write_back(old.clone()).await, Err(CallError::Conflict { .. })), "changed");
    assert_eq!(read().unwrap().labels["app"], "new");
    let removed = world.send(Request::delete("/api/v1/proxies/web-1").body(Body::empty()).unwrap()).await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
    assert!(matches!(write_back(old).await, Err(CallError::Conflict { .. })), "removed");
    assert_eq!(read(), None);
}

#[tokio::test]
async fn a_word_that_is_no_action_hears_which_there_are() {
    let world = world().await;
    let foo = Request::get("/api/v1/audit?action=foo").body(Body::empty()).unwrap();
    let problem = world.refuses(foo, 400, "parameter").await.body;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("proxy-enroll, ") && !detail.contains('`'), "{detail}");
}

#[tokio::test]
async fn labels_and_reasons_that_a_terminal_would_obey_are_refused() {
    let world = world().await;
    for (key, value) in [("app", "\u{1b}[2J"), ("", "web"), ("credence/node", "web-2")] {
        let body = json!({"node": "web-1", "labels": {key: value}}).to_string();
        world.refuses(request("POST", "/api/v1/proxies", "application/json", body), 400, "parameter").await;
    }
    for reason in ["two\nlines", "\u{1b}[31mred", "\u{202e}turned", &"r".repeat(501)] {
        for (path, body) in [
            ("authorities/root/rotation", json!({"step": "prepare", "reason": reason})),
            ("identities/block", json!({"id": "spiffe://td.example/web", "reason": reason})),
            ("rollouts/pause", json!({"all": true, "reason": reason, "for": "4h"})),
        ] {
            let path = format!("/api/v1/{path}");
            let request = request("POST", &path, "application/json", body.to_string());
            world.refuses(request, 400, "parameter").await;
        }
    }
    let ending = Request::delete("/api/v1/recovery?reason=a%1b%5b2J").body(Body::empty()).unwrap();
    world.refuses(ending, 400, "parameter").await;
}

#[tokio::test]
async fn blocks_and_frees_identities() {
    let world = world().await;
    let body = json!({"id": "spiffe://td.example/web", "reason": "stolen key"});
    assert_eq!(world.json("POST", "/api/v1/identities/block", body.clone()).await.status, StatusCode::OK);
    let listed = world.get("/api/v1/identities").await;
    assert_eq!(listed.body["items"][0]["blocked_reason"], "stolen key");
    for (id, status, word) in [
        ("spiffe://td.example/web", 409, "exists"),
        ("spiffe://td.example/credence/operator/ann", 403, "policy"),
        ("spiffe://td.example/credence/server", 403, "policy"),
        ("spiffe://other.example/web", 403, "policy"),
        ("web", 400, "parameter"),
    ] {
        let body = json!({"id": id}).to_string();
        let request = request("POST", "/api/v1/identities/block", "application/json", body);
        world.refuses(request, status, word).await;
    }
    let noted: Vec<String> = world
        .store
        .events()
        .into_iter()
        .filter(|event| event.action == Action::CallRefuse)
        .map(|event| event.object)
        .collect();
    assert_eq!(noted, ["POST /api/v1/identities/block"; 3], "what a rule forbids is on record");
    assert_eq!(world.json("POST", "/api/v1/identities/unblock", body).await.status, StatusCode::OK);
    assert!(world.get("/api/v1/identities").await.body["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_block_that_is_kept_holds_though_the_store_cannot_be_read_then() {
    let world = world().await;
    let id = "spiffe://td.example/web";
    let blocked = || world.configs.blocks().iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
    world.store.hide_blocks();
    let call = async |path, body| {
        let answer = world.json("POST", path, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    };
    call("/api/v1/identities/block", json!({"id": id, "now": true})).await;
    assert_eq!(blocked(), [id]);
    call("/api/v1/identities/block", json!({"id": id, "now": true, "evict": true})).await;
    assert_eq!(world.configs.blocks().evicted().len(), 1);
    call("/api/v1/identities/unblock", json!({"id": id})).await;
    assert!(blocked().is_empty());
}

#[tokio::test]
async fn a_block_that_holds_now_says_on_how_many_proxies_it_is_acknowledged() {
    let world = world().await;
    let id = "spiffe://td.example/web";
    let call = |body| async { world.json("POST", "/api/v1/identities/block", body).await };
    let planned = call(json!({"id": id, "now": true, "dry_run": true})).await;
    assert_eq!((planned.status, &planned.body["enforcement"]), (StatusCode::OK, &Value::Null));
    let summary = planned.body["summary"].as_str().unwrap();
    assert!(summary.starts_with("would block") && summary.contains("was another meant?"), "{summary}");
    assert_eq!(world.get(&format!("/api/v1/identities?id={id}")).await.status, StatusCode::NOT_FOUND);
    // It can begin as one that refuses what is new only, and that is no longer a way back.
    let soft = call(json!({"id": id})).await;
    assert!(soft.body["summary"].as_str().unwrap().contains("--now"), "{}", soft.body);
    let listed = world.get(&format!("/api/v1/identities?id={id}")).await;
    assert_eq!(listed.body["items"][0]["enforcement"], Value::Null);
    let hard = call(json!({"id": id, "now": true, "reason": "stolen"})).await;
    assert_eq!(hard.status, StatusCode::OK, "{}", hard.body);
    assert_eq!(hard.body["enforcement"]["proxies"], 0);
    assert!(hard.body["summary"].as_str().unwrap().contains("blocked on 0/0 proxies in"), "{}", hard.body);
    let listed = world.get(&format!("/api/v1/identities?id={id}")).await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed.body["items"][0]["enforcement"]["acknowledged"], 0);
    for body in [json!({"id": id, "now": true}), json!({"id": id})] {
        assert_eq!(call(body).await.status, StatusCode::CONFLICT);
    }
    // Nodes are known to us only, and their workloads are others'.
    let node = call(json!({"id": "spiffe://td.example/credence/node/web-1", "now": true})).await;
    assert_eq!(node.body["enforcement"], Value::Null, "{}", node.body);
    let freed = world.json("POST", "/api/v1/identities/unblock", json!({"id": id})).await;
    assert_eq!(freed.body["enforcement"]["proxies"], 0, "{}", freed.body);
    let body = json!({"id": id, "now": true}).to_string();
    let request = request("POST", "/api/v1/identities/unblock", "application/json", body);
    world.refuses(request, 400, "syntax").await;
}

#[tokio::test]
async fn shows_trust_audit_and_status() {
    let world = world().await;
    world.applied(ENDPOINTS).await;
    for path in
        ["authorities", "certificates", "certificates?class=node&all=true", "stats", "status", "openapi.json"]
    {
        let answer = world.get(&format!("/api/v1/{path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    }
    let rotated = world.json("POST", "/api/v1/authorities/rotate", json!({"dry_run": true})).await;
    assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.body);
    assert!(rotated.body["to"].is_null());
    assert!(!world.json("POST", "/api/v1/authorities/rotate", json!({})).await.body["to"].is_null());
    let audit = world.get("/api/v1/audit?action=document-apply").await;
    assert_eq!(audit.body["items"][0]["actor"], "spiffe://td.example/credence/operator/ann");
    let key = certs::SecretKey::generate(certs::KeyKind::P256);
    let csr = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certs::Csr::build(&key));
    let probed = world.json("POST", "/api/v1/certificates/probe", json!({"csr": csr})).await;
    assert_eq!(probed.body["id"], "spiffe://td.example/credence-probe", "{}", probed.body);
}

#[tokio::test]
async fn renews_the_callers_own_certificate_for_as_long_as_is_configured_whatever_the_one_before_had() {
    let mut world = world().await;
    let key = certs::SecretKey::generate(certs::KeyKind::P256);
    let csr = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certs::Csr::build(&key));
    let body = json!({"csr": csr}).to_string();
    let renew = || request("POST", "/api/v1/certificates/renew", "application/json", body.clone());
    world.refuses(renew(), 404, "not-found").await;
    let now = world.clock.now();
    let id = world.peer.as_ref().unwrap().id().clone();
    // One that was cut where its authority ended, and one from before a shorter life was configured.
    for before in [Duration::from_secs(7200), 2 * OPERATOR_LIFETIME] {
        world.issued(id.clone(), certs::Profile::Operator, None, before).await;
        let renewed = world.send(renew()).await;
        assert_eq!(renewed.status, StatusCode::CREATED, "{}", renewed.body);
        assert_eq!(renewed.body["id"], "spiffe://td.example/credence/operator/ann");
        assert_eq!(renewed.body["expires"], (now + OPERATOR_LIFETIME).to_string());
    }
    world.peer = Some(peer("/credence/node/a"));
    world.refuses(renew(), 403, "forbidden").await;
}

#[tokio::test]
async fn refuses_bad_input_and_leaves_everything_as_it_was() {
    let world = world().await;
    let id = world.applied(ENDPOINTS).await;
    let (yaml, json_type) = ("application/yaml", "application/json");
    let big = "#".repeat(MAX_BODY_BYTES + 1);
    let config = format!("/api/v1/configs/{id}");
    let unknown = ENDPOINTS.replace("spec:", "specs:");
    let twice = format!("{ENDPOINTS}---\n{ENDPOINTS}");
    let renamed = ENDPOINTS.replace("name: api", "name: other");
    let cases: Vec<(&str, &str, &str, &str, u16, &str)> = vec![
        ("POST", "/api/v1/configs", yaml, "a: [", 400, "syntax"),
        ("POST", "/api/v1/configs", json_type, "{\"apiVersion\":", 400, "syntax"),
        ("POST", "/api/v1/configs", yaml, "", 400, "parameter"),
        ("POST", "/api/v1/configs", yaml, &unknown, 422, "invalid-document"),
        ("POST", "/api/v1/configs", yaml, DANGLING, 422, "invalid-document"),
        ("POST", "/api/v1/configs", yaml, ENDPOINTS, 409, "exists"),
        ("POST", "/api/v1/configs", yaml, &twice, 400, "parameter"),
        ("POST", "/api/v1/configs", yaml, &big, 413, "too-large"),
        ("POST", "/api/v1/configs", "text/plain", ENDPOINTS, 415, "content-type"),
        ("POST", "/api/v1/configs?color=red", yaml, ENDPOINTS, 400, "parameter"),
        ("POST", "/api/v1/apply", yaml, &twice, 422, "invalid-document"),
        ("POST", "/api/v1/apply", yaml, DANGLING, 422, "invalid-document"),
        ("POST", "/api/v1/apply", yaml, "# nothing\n", 400, "parameter"),
        ("POST", "/api/v1/apply?namespace=No", yaml, ENDPOINTS, 400, "parameter"),
        ("POST", "/api/v1/validate", yaml, &unknown, 422, "invalid-document"),
        ("PUT", &config, yaml, &renamed, 400, "parameter"),
        ("PUT", "/api/v1/configs/none", yaml, ENDPOINTS, 400, "parameter"),
        ("PUT", "/api/v1/configs/01234567-89ab-7def-8123-456789abcdef", yaml, ENDPOINTS, 404, "not-found"),
        ("POST", "/api/v1/rollback", json_type, "{\"kind\": 1", 400, "syntax"),
        ("POST", "/api/v1/rollback", json_type, "{\"kind\": \"Endpoints\", \"nam\": 1}", 400, "syntax"),
        ("POST", "/api/v1/proxies", json_type, "{\"node\": \"Web 1\"}", 400, "parameter"),
        ("POST", "/api/v1/proxies", json_type, "{\"node\": \"web-1\", \"ttl_secs\": 0}", 400, "parameter"),
        (
            "POST",
            "/api/v1/proxies",
            json_type,
            "{\"node\": \"a\", \"identities\": [\"spiffe://x/y\"]}",
            403,
            "policy",
        ),
        ("POST", "/api/v1/certificates/probe", json_type, "{\"csr\": \"AAAA\"}", 400, "parameter"),
        ("GET", "/api/v1/configs?limit=501", yaml, "", 400, "parameter"),
        ("POST", "/api/v1/authorities/rotate", json_type, "", 400, "syntax"),
        ("POST", "/api/v1/authorities/rotate", json_type, "null", 400, "syntax"),
        ("POST", "/api/v1/authorities/rotate", yaml, "# nothing\n", 400, "syntax"),
        ("POST", "/api/v1/authorities/rotate", "application/json; charset=latin1", "{}", 415, "content-type"),
        ("POST", "/api/v1/authorities/request", json_type, "", 400, "syntax"),
        ("POST", "/api/v1/rollouts/resume", json_type, "", 400, "syntax"),
        ("GET", "/api/v1/audit?since=yesterday", yaml, "", 400, "parameter"),
        ("GET", "/api/v1/certificates?class=root", yaml, "", 400, "parameter"),
        ("GET", "/api/v1/certificates/00", yaml, "", 400, "parameter"),
        ("DELETE", "/api/v1/tokens/none", yaml, "", 404, "not-found"),
        ("GET", "/api/v2/configs", yaml, "", 404, "no-route"),
        ("PATCH", "/api/v1/configs", yaml, "", 405, "no-method"),
    ];
    for (method, path, kind, body, status, word) in cases {
        world.refuses(request(method, path, kind, body.to_owned()), status, word).await;
        world.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_body_that_is_forgotten_changes_nothing_and_an_empty_one_is_written() {
    let world = world().await;
    let forgotten = request("POST", "/api/v1/authorities/rotate", JSON, "");
    let answer = world.refuses(forgotten, 400, "syntax").await.body;
    assert_eq!(
        (answer["errors"][0]["message"].as_str(), answer["errors"][0]["fix"].as_str()),
        (Some("there is no body"), Some("send at least {}"))
    );
    assert!(answer["hint"].as_str().unwrap().ends_with("openapi.json describes the body"), "{answer}");
    for kind in [JSON, "application/json; charset=utf-8", "application/json;charset=\"UTF-8\""] {
        let answer = world.call("POST", "/api/v1/authorities/rotate", kind, "{}").await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_limit_out_of_bounds_hears_the_bounds() {
    let world = world().await;
    for path in ["audit", "proxies", "configs", "certificates", "expiries"] {
        for limit in ["-1", "0", "501", "x", "99999999999999999999"] {
            let get = Request::get(format!("/api/v1/{path}?limit={limit}")).body(Body::empty()).unwrap();
            let told = format!("limit is not valid: {limit:?} is not a number from 1 to 500");
            assert_eq!(world.refuses(get, 400, "parameter").await.body["detail"], told, "{path}");
            world.clock.advance(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn places_syntax_errors_by_line_and_column() {
    let world = world().await;
    let broken = request("POST", "/api/v1/configs", "application/yaml", "apiVersion: v1\nkind: [\n");
    let error = world.refuses(broken, 400, "syntax").await.body["errors"][0].clone();
    assert_eq!(error["file"], "body");
    assert!(error["line"].as_u64().unwrap() >= 2, "{error}");
    let unknown = request("POST", "/api/v1/proxies", "application/json", "{\"node\": \"a\",\n \"nod\": 1}");
    let error = world.refuses(unknown, 400, "syntax").await.body["errors"][0].clone();
    assert_eq!(error["line"], 2, "{error}");
}

#[tokio::test]
async fn a_stale_if_match_names_both_revisions() {
    let world = world().await;
    let id = world.applied(ENDPOINTS).await;
    let path = format!("/api/v1/configs/{id}");
    for (method, path) in [("PUT", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/apply"))]
    {
        let stale = Request::builder().method(method).uri(path).header("if-match", "\"9\"");
        let stale = stale.header("content-type", "application/yaml").body(Body::from(ENDPOINTS)).unwrap();
        let answer = world.refuses(stale, 412, "stale-revision").await;
        assert!(answer.body["detail"].as_str().unwrap().contains("at revision 1, not 9"), "{}", answer.body);
    }
    let weak = Request::delete(&path).header("if-match", "W/\"1\"").body(Body::empty()).unwrap();
    world.refuses(weak, 400, "parameter").await;
}

#[tokio::test]
async fn strangers_and_other_classes_get_nothing_but_a_reason() {
    let mut world = world().await;
    for (peer_path, status, word) in [
        (None, 401, "no-credential"),
        (Some("/web"), 403, "forbidden"),
        (Some("/credence/node/a"), 403, "forbidden"),
    ] {
        world.peer = peer_path.map(peer);
        for path in ["/api/v1/configs", "/api/v1/nothing", "/metrics", "/livez"] {
            world.refuses(Request::get(path).body(Body::empty()).unwrap(), status, word).await;
        }
    }
    let events = world.store.events();
    assert!(events.iter().all(|event| event.action == Action::CallRefuse));
    assert_eq!(events[0].actor, Actor::Stranger { address: "192.0.2.7".into() });
}

#[tokio::test]
async fn a_caller_that_calls_too_often_waits() {
    let world = world().await;
    for _ in 0..crate::limit::BURST {
        assert_eq!(world.get("/livez").await.status, StatusCode::OK);
    }
    let answer =
        world.refuses(Request::get("/livez").body(Body::empty()).unwrap(), 429, "rate-limited").await;
    assert_eq!(answer.headers["retry-after"], "1");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_store_that_fails_publishes_nothing() {
    let world = world().await;
    world.applied(ENDPOINTS).await;
    let before = world.get("/api/v1/stats").await.body["revision"].clone();
    world.store.fail(true);
    let change = ENDPOINTS.replace("3001", "3002");
    let change = request("POST", "/api/v1/apply", "application/yaml", change);
    world.refuses(change, 503, "unavailable").await;
    let enrol = request("POST", "/api/v1/proxies", "application/json", r#"{"node": "web-1"}"#);
    world.refuses(enrol, 503, "unavailable").await;
    assert_eq!(world.get("/api/v1/stats").await.body["revision"], before);
    assert!(world.get("/api/v1/proxies").await.body["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn probes_answer_without_identity_and_say_what_is_missing() {
    let still = Still::default();
    let probes = probes(Arc::new(still.clone()), Arc::new(still.clone()));
    let status = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        probes.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    for path in ["/livez", "/health", "/readyz", "/ready", "/metrics"] {
        assert_eq!(status(path).await, 200, "{path}");
    }
    still.not_ready.lock().unwrap().push("store".into());
    assert_eq!((status("/readyz").await, status("/livez").await), (503, 200));
    let request = Request::get("/readyz").body(Body::empty()).unwrap();
    let body = probes.clone().oneshot(request).await.unwrap().into_body();
    assert_eq!(axum::body::to_bytes(body, 100).await.unwrap(), "not ready\n", "strangers learn no reason");
    assert_eq!(status("/api/v1/status").await, 404);
    let world = world().await;
    world.still.not_ready.lock().unwrap().push("store".into());
    let answer = world.get("/readyz").await;
    assert_eq!((answer.status, answer.body), (StatusCode::SERVICE_UNAVAILABLE, json!("not ready: store\n")));
}

#[tokio::test]
async fn status_tells_what_a_listener_is_that_says_nothing_of_mtls() {
    assert_eq!(world().await.get("/api/v1/status").await.body["default_mtls"], "permissive");
}

#[tokio::test]
async fn status_tells_how_far_the_clock_is_to_be_believed() {
    let world = world().await;
    let seen = async || {
        let status = world.get("/api/v1/status").await.body;
        (status["clock"].clone(), status["warnings"].to_string().contains("clock"))
    };
    assert_eq!(seen().await, (json!({"state": "good", "skew_millis": 0}), false));
    world.time.send_replace(Reading { state: State::Drifting, skew_millis: 5_000 });
    let (clock, warned) = seen().await;
    assert!(warned && clock["problem"].as_str().unwrap().contains("5s ahead of"), "{clock}");
    let (since, why) = (world.clock.now(), Why::Stepped);
    world.time.send_replace(Reading { state: State::Stopped { why, since }, skew_millis: -120_000 });
    // The readiness says so; once is enough.
    let (clock, warned) = seen().await;
    assert!(!warned && clock["since"] == since.to_string(), "{clock}");
    assert!(clock["problem"].as_str().unwrap().contains("2m behind"), "{clock}");
}

#[tokio::test]
async fn pages_are_bounded_and_follow_one_another() {
    let world = world().await;
    for name in ["a", "b", "c"] {
        world.applied(&ENDPOINTS.replace("name: api", &format!("name: {name}"))).await;
        world.json("POST", "/api/v1/proxies", json!({"node": name})).await;
    }
    for path in ["configs", "proxies"] {
        let first = world.get(&format!("/api/v1/{path}?limit=2")).await.body;
        assert_eq!(first["items"].as_array().unwrap().len(), 2);
        let after = first["next"].as_str().unwrap();
        let second = world.get(&format!("/api/v1/{path}?limit=2&after={after}")).await.body;
        assert_eq!((second["items"].as_array().unwrap().len(), &second["next"]), (1, &Value::Null), "{path}");
    }
    let now = world.clock.now();
    assert_eq!(world.get(&format!("/api/v1/audit?limit=1&until={now}")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_answer_tells_an_operator_which_bundle_is_in_force_and_whom_to_renew_under() {
    let mut world = world().await;
    let answer = world.get("/api/v1/status").await;
    let hash = answer.headers[BUNDLE_SHA256].to_str().unwrap().to_owned();
    assert!(answer.headers.contains_key(RENEW), "the test operator's root is no root of ours");
    let bundle = world.get("/api/v1/bundle").await;
    assert_eq!(bundle.status, StatusCode::OK);
    let ders = certs::certificates_from_pem(bundle.body.as_str().unwrap().as_bytes()).unwrap();
    let root = certs::Certificate::from_der(&ders[0]).unwrap();
    let domain = TrustDomain::parse("td.example").unwrap();
    let held = spiffe::TrustBundle::new(domain, vec![root.clone()], 0).content_hash();
    assert_eq!(hash, hex::encode(held));
    let id = SpiffeId::parse("spiffe://td.example/credence/operator/ann").unwrap();
    let svid = VerifiedSvid::for_tests(id, Timestamp::MAX).signed_by(root.spki_hash(), root.spki_hash());
    world.peer = Some(Arc::new(Peer::new(svid, "127.0.0.1:5000".parse().unwrap())));
    assert!(!world.get("/api/v1/status").await.headers.contains_key(RENEW));
    world.peer = None;
    assert!(!world.get("/api/v1/status").await.headers.contains_key(BUNDLE_SHA256), "a stranger");
}

#[tokio::test]
async fn a_pause_of_rollouts_is_kept_said_everywhere_and_ends_by_itself() {
    let world = world().await;
    let banner = async |path: &str| {
        let answer = world.get(path).await;
        let header = answer.headers.get(PAUSED).map(|value| value.to_str().unwrap().to_owned());
        (header.is_some(), answer.body["paused"].clone())
    };
    assert_eq!(banner("/api/v1/status").await, (false, Value::Null));
    let wanted = json!({"all": true, "reason": "Black Friday", "for": "4h"});
    for (change, word) in [
        (json!({"all": true, "reason": " ", "for": "4h"}), "parameter"),
        (json!({"all": true, "reason": "two\nlines", "for": "4h"}), "parameter"),
        (json!({"all": false, "reason": "r", "for": "4h"}), "parameter"),
        (json!({"all": true, "reason": "r", "for": "8d"}), "parameter"),
        (json!({"all": true, "reason": "r", "for": "0s"}), "parameter"),
        (json!({"all": true, "reason": "r", "for": "soon"}), "parameter"),
    ] {
        let body = change.to_string();
        world.refuses(request("POST", "/api/v1/rollouts/pause", "application/json", body), 400, word).await;
    }
    let mut dry = wanted.clone();
    dry["dry_run"] = json!(true);
    assert_eq!(world.json("POST", "/api/v1/rollouts/pause", dry).await.status, StatusCode::OK);
    assert!(world.store.events().is_empty(), "a dry run changes nothing");

    assert_eq!(world.json("POST", "/api/v1/rollouts/pause", wanted.clone()).await.status, StatusCode::OK);
    for path in ["/api/v1/status", "/api/v1/rollouts", "/api/v1/authorities", "/api/v1/proxies", "/readyz"] {
        assert!(banner(path).await.0, "{path} does not say that rotation is paused");
    }
    assert_eq!(banner("/api/v1/status").await.1["reason"], "Black Friday");
    let kept = Pauses::load(Arc::new(world.store.clone())).await.unwrap();
    assert!(kept.current(world.clock.now()).is_some(), "a restart forgets it");

    world.clock.advance(Duration::from_secs(4 * 3600));
    assert_eq!(banner("/api/v1/rollouts").await, (false, Value::Null), "it ends by itself");
    let resume = || request("POST", "/api/v1/rollouts/resume", "application/json", "{}");
    world.refuses(resume(), 404, "not-found").await;

    world.json("POST", "/api/v1/rollouts/pause", wanted).await;
    assert_eq!(world.send(resume()).await.status, StatusCode::OK);
    assert_eq!(banner("/api/v1/rollouts").await, (false, Value::Null));
    let actions: Vec<Action> = world
        .store
        .events()
        .into_iter()
        .map(|event| event.action)
        .filter(|one| *one != Action::CallRefuse)
        .collect();
    assert_eq!(actions, [Action::RolloutPause, Action::RolloutPause, Action::RolloutResume]);
    assert_eq!(world.store.events()[0].reason, "Black Friday");
}
