//! Issuers in the store.

use api::ports::{Issuer, IssuerStore, KeptIssuer, MAX_ISSUERS, StoreError, VaultLogin, VaultSettings};
use ca::ports::{AuthorityState, LeafIssuer, LeafStore};
use certs::{Certificate, SecretBytes};
use fixtures::TestAuthority;
use spiffe::IssuerName;
use sqlx::Connection;

use super::{promises::meddle, *};

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
        earlier: vec![root],
        created: now(),
        updated: now(),
        version: 0,
    };
    KeptIssuer { issuer, credential: SecretBytes::new(Zeroizing::new(credential.as_bytes().to_vec())) }
}

pub(super) async fn put(store: &Store, issuer: KeptIssuer, expected: u64) -> Result<u64, StoreError> {
    store.put_issuer(issuer, expected, false, event(Action::IssuerSet, "issuer")).await
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
async fn issuer_whose_root_stands_in_the_bundle_of_workloads_is_neither_removed_nor_moved() {
    let world = World::new().await;
    put(&world.store, kept("corp", "first"), 0).await.unwrap();
    let name = IssuerName::parse("corp").unwrap();
    let one = LeafIssuer { name: name.clone(), state: AuthorityState::Retired, since: now() };
    let change = event(Action::IssuerSet, "corp");
    world.store.set_leaf_issuers(vec![one], vec![change.clone()]).await.unwrap();
    let remove = || world.store.remove_issuer(&name, event(Action::IssuerRemove, "corp"));
    let refused = remove().await.unwrap_err();
    assert_eq!(refused.to_string(), "issuer corp is in use: its root stands in the bundle of workloads");
    assert_eq!(world.store.issuers().await.unwrap().len(), 1);
    // Its credential may be another at any time, its root may not.
    put(&world.store, kept("corp", "second"), 1).await.unwrap();
    let moved = |event| world.store.put_issuer(kept("corp", "third"), 2, true, event);
    let refused = moved(event(Action::IssuerSet, "corp")).await.unwrap_err();
    assert!(refused.to_string().starts_with("issuer corp is in use: its root stands"), "{refused}");
    world.store.set_leaf_issuers(Vec::new(), vec![change]).await.unwrap();
    moved(event(Action::IssuerSet, "corp")).await.unwrap();
    remove().await.unwrap();
}
