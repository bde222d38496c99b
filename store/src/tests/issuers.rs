//! Issuers in the store.

use api::ports::{
    Earlier, Issuer, IssuerStore, KeptIssuer, MAX_ISSUERS, NodeStore, StoreError, VaultLogin, VaultSettings,
};
use ca::ports::{AuthorityState, DefaultIssuer, JournalError, LeafIssuer, LeafStore, Migration, Source};
use certs::{Certificate, SecretBytes};
use fixtures::TestAuthority;
use spiffe::IssuerName;
use sqlx::Connection;

use super::{nodes::enrolment, promises::meddle, *};
use crate::schema::{SCHEMA, Schema};

pub(super) fn kept(name: &str, credential: &str) -> KeptIssuer {
    let root = Certificate::from_der(TestAuthority::root("td", now()).der()).unwrap();
    let login = VaultLogin::AppRole { mount: "approle".into(), role_id: "credence".into() };
    let vault = VaultSettings {
        addresses: vec!["https://127.0.0.1:8200".into()],
        ca_file: "/etc/credence/vault-ca.pem".into(),
        namespace: None,
        mount: "pki".into(),
        issuer: "0bd4d8ba".into(),
        role: None,
        lifetime: std::time::Duration::from_secs(86_400),
        login,
    };
    let issuer = Issuer {
        name: IssuerName::parse(name).unwrap(),
        vault,
        anchor: root.clone(),
        signer: root.clone(),
        generation: 2,
        earlier: vec![Earlier { signer: root.clone(), anchor: root, issuer: "1c3f".into(), generation: 1 }],
        fallback: Some(IssuerName::builtin()),
        created: now(),
        updated: now(),
        version: 0,
    };
    KeptIssuer { issuer, credential: SecretBytes::new(Zeroizing::new(credential.as_bytes().to_vec())) }
}

pub(super) async fn put(store: &Store, issuer: KeptIssuer, expected: u64) -> Result<u64, StoreError> {
    store.put_issuer(issuer, expected, event(Action::IssuerSet, "issuer")).await
}

#[tokio::test]
async fn issuer_outlives_the_process_with_its_credential_and_versions_are_insisted_on() {
    let world = World::new().await;
    assert_eq!(put(&world.store, kept("corp", "first"), 0).await.unwrap(), 1);
    let again = put(&world.store, kept("corp", "x"), 0).await.unwrap_err();
    assert_eq!(again.to_string(), "issuer corp exists already");
    assert_eq!(put(&world.store, kept("corp", "second"), 1).await.unwrap(), 2);
    let stale = put(&world.store, kept("corp", "x"), 1).await.unwrap_err();
    assert_eq!(stale.to_string(), "issuer corp is at revision 2, not 1");
    let missing = put(&world.store, kept("other", "x"), 1).await.unwrap_err();
    assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
    // Some have nothing to hand in.
    put(&world.store, kept("jwt", ""), 0).await.unwrap();

    let world = World::open(world.close().await).await;
    let all = world.store.issuers().await.unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|one| (one.issuer.name.as_str(), one.issuer.version, one.credential.expose_secret().to_vec()))
        .collect();
    assert_eq!(shown, [("corp", 2, b"second".to_vec()), ("jwt", 1, Vec::new())]);
    assert_eq!(all[0].issuer.vault.issuer, "0bd4d8ba");
    assert_eq!(all[0].issuer.signers().count(), 2);

    let name = IssuerName::parse("corp").unwrap();
    let remove = event(Action::IssuerRemove, "corp");
    world.store.remove_issuer(&name, remove.clone()).await.unwrap();
    let gone = world.store.remove_issuer(&name, remove).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }));
    assert_eq!(world.store.issuers().await.unwrap().len(), 1);
    assert!(world.store.check_rollback().await.unwrap().is_empty());
}

#[tokio::test]
async fn no_credential_is_sent_where_a_meddler_wants_it() {
    let world = World::new().await;
    for name in ["a", "b"] {
        put(&world.store, kept(name, name), 0).await.unwrap();
    }
    let mut connection = meddle(&world.place).await;
    sqlx::query("UPDATE sealed SET record = (SELECT record FROM sealed WHERE id = 'a') WHERE id = 'b'")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let all = world.store.issuers().await.unwrap();
    let names: Vec<_> = all.iter().map(|one| one.issuer.name.as_str()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(world.store.issuer_names().await.unwrap(), ["a", "b"], "whoever compares knows of both");
    assert_eq!(world.store.findings().borrow().len(), 1, "and it is said");
}

#[tokio::test]
async fn there_is_a_bounded_number_of_issuers() {
    let world = World::new().await;
    for number in 0..MAX_ISSUERS {
        put(&world.store, kept(&format!("i{number}"), "x"), 0).await.unwrap();
    }
    let full = put(&world.store, kept("more", "x"), 0).await.unwrap_err();
    assert_eq!(full.to_string(), "there are 16 issuers of tenant default, no more are taken");
    put(&world.store, kept("i3", "y"), 1).await.unwrap();
}

#[tokio::test]
async fn what_an_issuer_was_before_is_kept_whole() {
    let world = World::new().await;
    put(&world.store, kept("corp", "first"), 0).await.unwrap();
    let world = World::open(world.close().await).await;
    let read = world.store.issuers().await.unwrap().remove(0).issuer;
    let written = kept("corp", "first").issuer;
    assert_eq!((read.generation, &read.fallback), (2, &written.fallback));
    let before = &read.earlier[0];
    assert_eq!((before.issuer.as_str(), before.generation), ("1c3f", 1));
    let asked: Vec<_> = read.asked().into_iter().map(|one| (one.generation, one.issuer)).collect();
    assert_eq!(asked, [(2, "0bd4d8ba".to_owned()), (1, "1c3f".to_owned())]);
}

#[tokio::test]
async fn issuer_of_whom_leaves_are_or_are_to_be_is_not_removed() {
    let world = World::new().await;
    put(&world.store, kept("corp", "first"), 0).await.unwrap();
    let name = IssuerName::parse("corp").unwrap();
    let set = || vec![event(Action::IssuerSet, "corp")];
    let refused = async || {
        let removed = world.store.remove_issuer(&name, event(Action::IssuerRemove, "corp")).await;
        removed.unwrap_err().to_string()
    };
    let source = Source { name: name.clone(), generation: 1 };
    let one = LeafIssuer { source, state: AuthorityState::Retired, since: now(), is_hurried: false };
    world.store.set_leaf_issuers(vec![one], set()).await.unwrap();
    assert_eq!(refused().await, "issuer corp is in use: its root stands in the bundle of workloads");
    world.store.set_leaf_issuers(Vec::new(), set()).await.unwrap();

    let default = DefaultIssuer { current: name.clone(), ..DefaultIssuer::default() };
    world.store.set_default_issuer(default, set()).await.unwrap();
    assert_eq!(refused().await, "issuer corp is in use: it signs the leaves of workloads, or is about to");
    world.store.set_default_issuer(DefaultIssuer::default(), set()).await.unwrap();

    let (mut binding, token) = enrolment("web-1");
    binding.issuer = Some(IssuerName::parse("nobody").unwrap());
    let enroll = |binding| {
        let event = event(Action::ProxyEnroll, "web-1");
        let (store, token) = (world.store.clone(), token.clone());
        async move { store.enroll(&binding, &token, false, event).await }
    };
    let unknown = enroll(binding.clone()).await.unwrap_err();
    assert_eq!(unknown.to_string(), "issuer nobody does not exist");
    binding.issuer = Some(name.clone());
    enroll(binding.clone()).await.unwrap();
    assert_eq!(world.store.bindings().await.unwrap(), [binding.clone()]);
    assert_eq!(refused().await, "issuer corp is in use: the binding of node web-1 names it");
    let change = |issuer: Option<&IssuerName>| {
        let (store, issuer) = (world.store.clone(), issuer.cloned());
        let (node, event) = (binding.node.clone(), event(Action::ProxyChange, "web-1"));
        async move { store.set_issuer(&node, issuer.as_ref(), event).await }
    };
    change(Some(&IssuerName::builtin())).await.unwrap();
    assert_eq!(world.store.bindings().await.unwrap()[0].issuer, Some(IssuerName::builtin()));
    // Enrolled in its own place by whoever has not seen that, the node keeps it.
    let (mut next, mut other_token) = enrolment("web-1");
    other_token.id = "T2".into();
    next.issuer = None;
    let replaced = world.store.enroll(&next, &other_token, true, event(Action::ProxyEnroll, "web-1")).await;
    replaced.unwrap();
    assert_eq!(world.store.bindings().await.unwrap()[0].issuer, Some(IssuerName::builtin()));
    change(None).await.unwrap();
    world.store.remove_issuer(&name, event(Action::IssuerRemove, "corp")).await.unwrap();
    let gone = change(Some(&name)).await.unwrap_err();
    assert_eq!(gone.to_string(), "issuer corp does not exist");
    assert_eq!(world.store.bindings().await.unwrap()[0].issuer, None);
}

#[tokio::test]
async fn issuer_that_signs_in_the_place_of_another_is_not_removed_and_one_that_is_gone_takes_nobodys_place() {
    let world = World::new().await;
    let of = |name: &str, fallback: Option<&str>| {
        let mut kept = kept(name, "x");
        kept.issuer.fallback = fallback.map(|text| IssuerName::parse(text).unwrap());
        kept
    };
    let remove = async |name: &str| {
        let (name, event) = (IssuerName::parse(name).unwrap(), event(Action::IssuerRemove, name));
        world.store.remove_issuer(&name, event).await
    };
    let gone = put(&world.store, of("corp", Some("lab")), 0).await.unwrap_err();
    assert_eq!(gone.to_string(), "issuer lab does not exist");
    put(&world.store, of("lab", None), 0).await.unwrap();
    put(&world.store, of("corp", Some("lab")), 0).await.unwrap();
    let refused = remove("lab").await.unwrap_err();
    assert_eq!(refused.to_string(), "issuer lab is in use: it signs in the place of corp");
    // One whose record does not open signs nothing, so that nobody stands in for it.
    let mut connection = meddle(&world.place).await;
    sqlx::query("UPDATE sealed SET record = x'00' WHERE id = 'corp'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    remove("lab").await.unwrap();
    assert!(world.store.issuers().await.unwrap().is_empty());
    let corp = IssuerName::parse("corp").unwrap();
    assert!(world.store.has_issuer(&corp).await.unwrap(), "it is there, and can be removed all the same");
    remove("corp").await.unwrap();
    assert!(!world.store.has_issuer(&corp).await.unwrap());
    put(&world.store, of("corp", None), 0).await.unwrap();
}

#[tokio::test]
async fn whoever_signed_leaves_before_there_was_a_default_is_the_default() {
    for (rows, expected) in [
        (&[][..], (IssuerName::BUILTIN, None)),
        (&[("corp", "active")], ("corp", None)),
        (&[("corp", "active"), ("lab", "retired")], ("corp", None)),
        (&[("corp", "active"), ("lab", "prepared")], ("corp", Some("lab"))),
        (&[("lab", "prepared")], (IssuerName::BUILTIN, Some("lab"))),
    ] {
        let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
        Schema(&SCHEMA.0[..12]).migrate(&mut connection, 0, now()).await.unwrap();
        for (name, state) in rows {
            sqlx::query("INSERT INTO leaf_issuers (name, state, since) VALUES (?, ?, 7)")
                .bind(name)
                .bind(state)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        SCHEMA.migrate(&mut connection, 12, now()).await.unwrap();
        let (value,): (String,) =
            sqlx::query_as("SELECT value FROM default_issuer").fetch_one(&mut connection).await.unwrap();
        let default: DefaultIssuer = serde_json::from_str(&value).unwrap();
        let to = default.migration.as_ref().map(|migration| migration.to.as_str());
        assert_eq!((default.current.as_str(), to), expected, "{value}");
        assert!(default.migration.is_none_or(|migration| migration.stages.is_empty()), "{value}");
        let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM leaf_issuers WHERE generation = 0")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(usize::try_from(count).unwrap(), rows.len());
    }
}

#[tokio::test]
async fn leaves_do_not_move_to_an_issuer_that_was_removed_meanwhile() {
    let world = World::new().await;
    put(&world.store, kept("corp", "first"), 0).await.unwrap();
    let name = IssuerName::parse("corp").unwrap();
    let set = async |next: DefaultIssuer| {
        world.store.set_default_issuer(next, vec![event(Action::IssuerSet, "corp")]).await
    };
    let migration = || Migration {
        to: name.clone(),
        stages: vec![100],
        stage: 0,
        since: now(),
        hold: std::time::Duration::ZERO,
        stopped: None,
        is_hurried: false,
    };
    let moving = || DefaultIssuer { migration: Some(migration()), ..DefaultIssuer::default() };
    let moved = || DefaultIssuer { current: name.clone(), ..DefaultIssuer::default() };
    for next in [moving(), moved(), DefaultIssuer::default()] {
        set(next).await.unwrap();
    }
    world.store.remove_issuer(&name, event(Action::IssuerRemove, "corp")).await.unwrap();
    for next in [moving(), moved()] {
        assert_eq!(set(next).await, Err(JournalError::NoIssuer(name.clone())));
    }
    assert_eq!(world.store.default_issuer().await.unwrap(), DefaultIssuer::default());
}
