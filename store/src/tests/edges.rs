//! Edges in the store.

use api::ports::{
    AcmeStore, DnsPublisher, Edge, EdgeCertificate, EdgeChallenge, EdgeSettings, EdgeStore, EdgeWork,
    KeptEdge, MAX_EDGE_TEXT, MAX_EDGES, StoreError,
};
use certs::{Certificate, Chain, SecretBytes};
use fixtures::TestAuthority;
use spiffe::{EdgeName, IssuerName, Namespace, Tenant};
use sqlx::Connection;

use super::{acme, promises::meddle, *};

fn secret(text: &str) -> Option<SecretBytes> {
    Some(SecretBytes::new(Zeroizing::new(text.as_bytes().to_vec())))
}

/// An edge that waits for its first certificate.
fn kept(tenant: &str, name: &str) -> KeptEdge {
    let settings = EdgeSettings {
        namespace: Namespace::default(),
        listener: "web".into(),
        issuer: IssuerName::parse("public").unwrap(),
        names: vec![name.into(), format!("www.{name}")],
        challenge: EdgeChallenge::Dns01 {
            publisher: DnsPublisher::Command { program: "/usr/local/bin/dns".into() },
        },
        profile: None,
    };
    let edge = Edge {
        tenant: Tenant::parse(tenant).unwrap(),
        name: EdgeName::parse(name).unwrap(),
        settings,
        certificate: None,
        created: now(),
        updated: now(),
        version: 0,
    };
    KeptEdge { edge, key: None, next_key: None, dns_key: None, work: EdgeWork::default() }
}

/// A store with the issuer that edges name.
async fn with_issuer() -> World {
    let world = World::new().await;
    let issuer = acme::kept("public", "key", None, None);
    world.store.put_acme_issuer(issuer, 0, event(Action::IssuerSet, "public")).await.unwrap();
    world
}

async fn put(store: &Store, edge: KeptEdge, expected: u64) -> Result<u64, StoreError> {
    store.put_edge(edge, expected, event(Action::EdgeSet, "edge")).await
}

fn text(secret: Option<&SecretBytes>) -> Option<&str> {
    secret.map(|secret| std::str::from_utf8(secret.expose_secret()).unwrap())
}

#[tokio::test]
async fn edge_outlives_the_process_with_its_keys_and_work_and_versions_are_insisted_on() {
    let world = with_issuer().await;
    let mut changes = world.store.changes(Topic::Edges);
    assert_eq!(put(&world.store, kept("default", "api.example.com"), 0).await.unwrap(), 1);
    assert!(changes.has_changed().unwrap(), "whoever obtains certificates hears of it");
    changes.mark_unchanged();
    let again = put(&world.store, kept("default", "api.example.com"), 0).await.unwrap_err();
    assert_eq!(again.to_string(), "edge api.example.com exists already");

    let certificates = ["leaf", "intermediate"]
        .map(|name| Certificate::from_der(TestAuthority::root(name, now()).der()).unwrap());
    let [leaf, above] = certificates;
    let chain = Chain::new(leaf, vec![above]);
    let mut full = kept("default", "api.example.com");
    full.edge.certificate = Some(EdgeCertificate { chain: chain.clone(), obtained: now() });
    full.key = secret("key");
    full.dns_key = secret("dns");
    let order = Some("{\"a\":1}".to_owned());
    let work = EdgeWork { order, leftover: Some("[]".into()), ..EdgeWork::default() };
    full.work = work.clone();
    assert_eq!(put(&world.store, full, 1).await.unwrap(), 2);
    assert!(changes.has_changed().unwrap());
    let stale = put(&world.store, kept("default", "api.example.com"), 1).await.unwrap_err();
    assert_eq!(stale.to_string(), "edge api.example.com is at revision 2, not 1");
    let missing = put(&world.store, kept("default", "other.example.com"), 1).await.unwrap_err();
    assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
    // Another tenant may want the same name; who may show it is not the store's to say.
    let mut theirs = kept("other", "api.example.com");
    theirs.next_key = secret("next");
    theirs.work.renewal = Some("{}".into());
    put(&world.store, theirs, 0).await.unwrap();

    let world = World::open(world.close().await).await;
    let all = world.store.edges().await.unwrap();
    let [own, theirs] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((own.edge.tenant.as_str(), own.edge.version), ("default", 2));
    assert_eq!(own.edge.settings, kept("default", "api.example.com").edge.settings);
    assert_eq!(own.edge.certificate, Some(EdgeCertificate { chain, obtained: now() }));
    let keys = |one: &KeptEdge| {
        [&one.key, &one.next_key, &one.dns_key].map(|key| text(key.as_ref()).map(str::to_owned))
    };
    assert_eq!(keys(own), [Some("key".into()), None, Some("dns".into())]);
    assert_eq!(own.work, work);
    assert_eq!(keys(theirs), [None, Some("next".into()), None]);
    assert_eq!((theirs.edge.tenant.as_str(), theirs.edge.version), ("other", 1));

    let name = EdgeName::parse("api.example.com").unwrap();
    let remove = event(Action::EdgeRemove, "api.example.com");
    world.store.remove_edge(&Tenant::default(), &name, remove.clone()).await.unwrap();
    let gone = world.store.remove_edge(&Tenant::default(), &name, remove).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }));
    assert_eq!(world.store.edges().await.unwrap().len(), 1, "the other tenant's stays");
    // A name that comes back does not repeat a version: its old record would fit otherwise.
    assert_eq!(put(&world.store, kept("default", "api.example.com"), 0).await.unwrap(), 3);
    assert!(world.store.check_rollback().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_damaged_edge_is_left_out_and_no_key_is_shown_under_another_name() {
    let world = with_issuer().await;
    for name in ["a", "b", "c"] {
        put(&world.store, kept("default", name), 0).await.unwrap();
    }
    let mut connection = meddle(&world.place).await;
    sqlx::query("UPDATE sealed SET record = (SELECT record FROM sealed WHERE id = 'a') WHERE id = 'b'")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let all = world.store.edges().await.unwrap();
    let names: Vec<_> = all.iter().map(|one| one.edge.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(world.store.findings().borrow().len(), 1, "and it is said");
    // What does not open can be removed all the same.
    let (tenant, name) = (Tenant::default(), EdgeName::parse("b").unwrap());
    assert!(world.store.has_edge(&tenant, &name).await.unwrap());
    world.store.remove_edge(&tenant, &name, event(Action::EdgeRemove, "b")).await.unwrap();
    assert!(!world.store.has_edge(&tenant, &name).await.unwrap());
    assert_eq!(
        world.store.check_rollback().await.unwrap().len(),
        1,
        "that it was found stays until it is accepted"
    );
    put(&world.store, kept("default", "b"), 0).await.unwrap();
}

#[tokio::test]
async fn what_servers_write_and_how_many_edges_there_are_is_bounded() {
    let world = with_issuer().await;
    let mut long = kept("default", "long");
    long.work.order = Some("x".repeat(MAX_EDGE_TEXT));
    put(&world.store, long, 0).await.unwrap();
    let mut longer = kept("default", "long");
    longer.work.renewal = Some("x".repeat(MAX_EDGE_TEXT + 1));
    let full = put(&world.store, longer, 1).await.unwrap_err();
    assert_eq!(full.to_string(), "the renewal of edge long has 131073 bytes, 131072 are taken");
    let mut large = kept("default", "long");
    large.next_key = secret(&"x".repeat(20_000));
    let full = put(&world.store, large, 1).await.unwrap_err();
    assert_eq!(full.to_string(), "the next key of edge long has 20000 bytes, 16384 are taken");

    for number in 1..MAX_EDGES {
        put(&world.store, kept("default", &format!("e{number}")), 0).await.unwrap();
    }
    let full = put(&world.store, kept("default", "more"), 0).await.unwrap_err();
    assert!(matches!(&full, StoreError::Full(why) if why.contains("1000 edges")), "{full}");
    put(&world.store, kept("default", "e7"), 1).await.unwrap();
    put(&world.store, kept("other", "more"), 0).await.unwrap();
}

#[tokio::test]
async fn keys_of_edges_follow_the_data_key_and_stand_nowhere_in_clear() {
    let world = with_issuer().await;
    let planted = "planted-private-key-of-an-edge";
    for number in 0..3 {
        let mut one = kept("default", &format!("e{number}"));
        one.key = secret(planted);
        put(&world.store, one, 0).await.unwrap();
    }
    for bytes in world.place.bytes().values() {
        assert!(!bytes.windows(planted.len()).any(|window| window == planted.as_bytes()));
    }
    let rotate = event(Action::DataKeyPrepare, "tls");
    assert_eq!(
        world.store.prepare_data_keys(Some(Class::Tls), rotate).await.unwrap(),
        [Class::Tls],
        "edges are sealed by the key of TLS keys"
    );
    assert_eq!(world.store.advance().await.unwrap(), Progress::Activated);
    assert_eq!(world.store.rows_on_old_key().await.unwrap(), 3);
    assert_eq!(world.store.advance().await.unwrap(), Progress::Sealed(3));
    assert_eq!(world.store.advance().await.unwrap(), Progress::Destroyed);
    let world = World::open(world.close().await).await;
    let all = world.store.edges().await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|one| text(one.key.as_ref()) == Some(planted) && one.next_key.is_none()));
}

#[tokio::test]
async fn an_edge_and_its_issuer_come_and_go_in_order() {
    let world = with_issuer().await;
    let name = IssuerName::parse("public").unwrap();
    let remove = async |expected: Option<u64>| {
        world.store.remove_acme_issuer(&name, expected, event(Action::IssuerRemove, "public")).await
    };
    put(&world.store, kept("other", "api.example.com"), 0).await.unwrap();
    for expected in [Some(1), None] {
        let used = remove(expected).await.unwrap_err().to_string();
        let why = "issuer public is in use: it is asked for the certificate of edge api.example.com";
        assert_eq!(used, why, "whoever's it is");
    }
    let (tenant, edge) = (Tenant::parse("other").unwrap(), EdgeName::parse("api.example.com").unwrap());
    world.store.remove_edge(&tenant, &edge, event(Action::EdgeRemove, "api.example.com")).await.unwrap();
    remove(Some(1)).await.unwrap();
    let missing = put(&world.store, kept("default", "api.example.com"), 0).await.unwrap_err();
    assert_eq!(missing.to_string(), "issuer public does not exist");
}
