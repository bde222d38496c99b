//! Imported secrets, served and withdrawn.

use super::*;
use crate::{ImportedSecret, SecretFacts};

fn imported(name: &str, version: u64, grants: &[&str], value: &str) -> ImportedSecret {
    let facts = SecretFacts {
        tenant: spiffe::Tenant::default(),
        name: spiffe::SecretName::from_path(name).unwrap(),
        version,
        grants: grants.iter().map(|text| SpiffeId::parse(text).unwrap()).collect(),
        created: Timestamp::EPOCH,
        updated: Timestamp::EPOCH,
    };
    let value = certs::Imported::generic(zeroize::Zeroizing::new(value.as_bytes().to_vec())).unwrap();
    ImportedSecret { facts, value }
}

fn generic_value(resource: &Resource) -> Vec<u8> {
    let secret = Secret::decode(&*resource.to_any().unwrap().value).unwrap();
    assert_eq!(secret.name, resource.name().as_ref());
    let Some(secret::Type::GenericSecret(generic)) = secret.r#type else { panic!("no generic secret") };
    match generic.secret.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => panic!("not inline"),
    }
}

#[tokio::test]
async fn imported_secret_is_served_replaced_and_withdrawn_to_whom_it_is_granted() {
    let world = World::new();
    let set =
        |secrets: Vec<ImportedSecret>| world.imported.send_replace(Arc::new(ImportedSecrets::new(secrets)));
    let mut web = world.open("web-1");
    // Asked for before it is there: the answer follows.
    web.want("secret://default/db").await;
    web.absent("secret://default/db").await;
    set(vec![
        imported("default/db", 1, &["spiffe://td/web"], "first"),
        imported("default/theirs", 1, &["spiffe://td/payments"], "not for web"),
    ]);
    let first = web.held("secret://default/db").await;
    assert_eq!(generic_value(&first), b"first");
    web.want("secret://default/theirs").await;
    web.absent("secret://default/theirs").await;
    world.drained(1);
    web.want("secret://default/db?g=1").await;
    let drained = web.held("secret://default/db?g=1").await;
    assert_eq!(generic_value(&drained), b"first");

    set(vec![imported("default/db", 2, &["spiffe://td/web"], "second")]);
    let second = web.held_other_than("secret://default/db", &first).await;
    assert_eq!(generic_value(&second), b"second");
    set(vec![imported("default/db", 3, &["spiffe://td/payments"], "second")]);
    web.absent("secret://default/db").await;
    assert!(world.issuer.seen().is_empty(), "nobody signs for imported secrets");
}
