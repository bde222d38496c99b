//! Imported secrets in the store.

use std::collections::BTreeSet;

use api::ports::{NewSecret, SecretStore, StoreError};
use certs::{Imported, SecretBytes};
use sds::ImportedSecret;
use spiffe::{SecretName, SpiffeId, Tenant};
use sqlx::Connection;

use super::{promises::meddle, *};

fn new(tenant: &str, name: &str, value: &str) -> NewSecret {
    NewSecret {
        tenant: Tenant::parse(tenant).unwrap(),
        name: SecretName::from_path(name).unwrap(),
        grants: BTreeSet::from([SpiffeId::parse("spiffe://td/web").unwrap()]),
        created: now(),
        value: Imported::generic(Zeroizing::new(value.as_bytes().to_vec())).unwrap(),
    }
}

async fn put(store: &Store, secret: NewSecret, expected: Option<u64>) -> Result<u64, StoreError> {
    store.put_secret(secret, expected, event(Action::SecretSet, "secret")).await
}

fn value(secret: &ImportedSecret) -> &SecretBytes {
    match &secret.value {
        Imported::Generic(bytes) => bytes,
        Imported::Tls { key, .. } => key,
    }
}

#[tokio::test]
async fn secret_outlives_the_process_with_its_grants_and_versions_are_insisted_on() {
    let world = World::new().await;
    assert_eq!(put(&world.store, new("default", "default/db", "first"), Some(0)).await.unwrap(), 1);
    let again = put(&world.store, new("default", "default/db", "x"), Some(0)).await.unwrap_err();
    assert!(matches!(again, StoreError::Exists { .. }), "{again}");
    assert_eq!(put(&world.store, new("default", "default/db", "second"), Some(1)).await.unwrap(), 2);
    let stale = put(&world.store, new("default", "default/db", "x"), Some(1)).await.unwrap_err();
    assert_eq!(stale.to_string(), "secret default/db is at revision 2, not 1");
    // Another tenant has a data key of its own, made with its first secret.
    put(&world.store, new("other", "default/db", "theirs"), None).await.unwrap();
    let world = World::open(world.close().await).await;
    let all = world.store.secrets().await.unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|one| (one.facts.tenant.as_str(), one.facts.version, value(one).expose_secret().to_vec()))
        .collect();
    assert_eq!(shown, [("default", 2, b"second".to_vec()), ("other", 1, b"theirs".to_vec())]);
    assert_eq!(all[0].facts.grants.len(), 1);

    let name = SecretName::from_path("default/db").unwrap();
    let remove = event(Action::SecretRemove, "default/db");
    world.store.remove_secret(&Tenant::default(), &name, remove.clone()).await.unwrap();
    let gone = world.store.remove_secret(&Tenant::default(), &name, remove).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }));
    assert_eq!(world.store.secrets().await.unwrap().len(), 1);
    // A name that comes back does not repeat a version: its old record would fit otherwise.
    assert_eq!(put(&world.store, new("default", "default/db", "third"), Some(0)).await.unwrap(), 3);
    assert!(world.store.check_rollback().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_damaged_secret_is_left_out_and_the_others_are_served() {
    let world = World::new().await;
    for name in ["default/a", "default/b", "default/c"] {
        put(&world.store, new("default", name, name), None).await.unwrap();
    }
    let mut connection = meddle(&world.place).await;
    sqlx::query("UPDATE sealed SET record = (SELECT record FROM sealed WHERE id = 'default/a') WHERE id = 'default/b'")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let names: Vec<_> =
        world.store.secrets().await.unwrap().iter().map(|one| one.facts.name.to_string()).collect();
    assert_eq!(names, ["default/a", "default/c"]);
    assert_eq!(world.store.findings().borrow().len(), 1, "and it is said");
}

#[tokio::test]
async fn tenant_has_a_bounded_number_of_secrets() {
    let world = World::new().await;
    for number in 0..MAX_SECRETS {
        put(&world.store, new("default", &format!("default/s{number}"), "x"), None).await.unwrap();
    }
    let full = put(&world.store, new("default", "default/more", "x"), None).await.unwrap_err();
    assert_eq!(full.to_string(), "there are 2000 secrets of tenant default, no more are taken");
    put(&world.store, new("default", "default/s7", "y"), None).await.unwrap();
    put(&world.store, new("other", "default/more", "x"), None).await.unwrap();
}
