//! ACME servers in the store, with the keys of their accounts.

use api::{
    ports::{AcmeIssuer, AcmeSettings, AcmeStore, KeptAcme, MAX_ISSUERS, StoreError},
    testing::MemoryAcme,
};
use certs::{KeyKind, SecretBytes, SecretKey};
use spiffe::IssuerName;

use super::*;

fn bytes(text: &str) -> SecretBytes {
    SecretBytes::new(Zeroizing::new(text.as_bytes().to_vec()))
}

pub(super) fn kept(name: &str, key: &str, next: Option<&str>, external: Option<&str>) -> KeptAcme {
    let acme = AcmeSettings {
        directory: "https://acme.example/directory".into(),
        ca_file: "/etc/ssl/roots.pem".into(),
        contacts: vec!["mailto:ops@example.com".into()],
        agreed: Some("https://acme.example/terms".into()),
        external: external.map(|_| "kid-1".into()),
        profile: None,
    };
    let issuer = AcmeIssuer {
        name: IssuerName::parse(name).unwrap(),
        acme,
        account: external.is_none().then(|| "https://acme.example/account/1".into()),
        is_changing_key: false,
        created: now(),
        updated: now(),
        version: 0,
    };
    KeptAcme { issuer, key: bytes(key), next_key: next.map(bytes), external_key: external.map(bytes) }
}

/// What may be held against what was put.
fn shown(kept: &KeptAcme) -> String {
    let secret = |bytes: &SecretBytes| String::from_utf8(bytes.expose_secret().to_vec()).unwrap();
    let all = [Some(&kept.key), kept.next_key.as_ref(), kept.external_key.as_ref()];
    let all = all.map(|one| one.map(secret).unwrap_or_default()).join("/");
    let issuer = &kept.issuer;
    format!(
        "{} {} {} {} {all}",
        issuer.name,
        issuer.version,
        issuer.account.is_some(),
        issuer.is_changing_key
    )
}

async fn all(store: &dyn AcmeStore) -> Vec<String> {
    store.acme_issuers().await.unwrap().iter().map(shown).collect()
}

/// What any store of ACME servers does.
async fn contract(store: &dyn AcmeStore) {
    let put = |kept, expected| store.put_acme_issuer(kept, expected, event(Action::IssuerSet, "le"));
    assert_eq!(put(kept("le", "first", None, Some("mac")), 0).await.unwrap(), 1);
    assert_eq!(all(store).await, ["le 1 false false first//mac"]);
    let again = put(kept("le", "x", None, None), 0).await.unwrap_err();
    assert_eq!(again.to_string(), "issuer le exists already");
    assert_eq!(put(kept("le", "first", None, None), 1).await.unwrap(), 2);
    assert_eq!(put(kept("le", "first", Some("second"), None), 2).await.unwrap(), 3);
    assert_eq!(all(store).await, ["le 3 true true first/second/"]);
    let stale = put(kept("le", "x", None, None), 1).await.unwrap_err();
    assert_eq!(stale.to_string(), "issuer le is at revision 3, not 1");
    let missing = put(kept("other", "x", None, None), 1).await.unwrap_err();
    assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
    put(kept("a", "key", None, None), 0).await.unwrap();
    assert_eq!(all(store).await, ["a 1 true false key//", "le 3 true true first/second/"]);

    let name = IssuerName::parse("le").unwrap();
    let remove = |expected| store.remove_acme_issuer(&name, expected, event(Action::IssuerRemove, "le"));
    let stale = remove(Some(2)).await.unwrap_err();
    assert!(matches!(stale, StoreError::Conflict { expected: 2, actual: 3, .. }), "{stale}");
    remove(Some(3)).await.unwrap();
    assert!(matches!(remove(Some(3)).await.unwrap_err(), StoreError::NotFound { .. }));
    assert_eq!(all(store).await, ["a 1 true false key//"]);
    // Whatever version there is.
    put(kept("le", "first", None, None), 0).await.unwrap();
    assert!(store.has_acme_issuer(&name).await.unwrap());
    remove(None).await.unwrap();
    assert!(!store.has_acme_issuer(&name).await.unwrap());
    assert!(matches!(remove(None).await.unwrap_err(), StoreError::NotFound { .. }));
}

#[tokio::test]
async fn acme_server_is_kept_with_its_keys_in_every_store() {
    contract(&MemoryAcme::default()).await;
    let world = World::new().await;
    contract(&world.store).await;
    let world = World::open(world.close().await).await;
    assert_eq!(all(&world.store).await, ["a 1 true false key//"]);
    assert!(world.store.check_rollback().await.unwrap().is_empty());
}

#[tokio::test]
async fn name_is_that_of_one_issuer_of_whatever_kind() {
    let world = World::new().await;
    let put = async |name: &str| {
        let event = event(Action::IssuerSet, name);
        world.store.put_acme_issuer(kept(name, "x", None, None), 0, event).await
    };
    put("le").await.unwrap();
    let taken = issuers::put(&world.store, issuers::kept("le", "x"), 0).await.unwrap_err();
    assert_eq!(taken.to_string(), "issuer le exists already");
    issuers::put(&world.store, issuers::kept("corp", "x"), 0).await.unwrap();
    assert_eq!(put("corp").await.unwrap_err().to_string(), "issuer corp exists already");
    for number in 1..MAX_ISSUERS {
        put(&format!("i{number}")).await.unwrap();
    }
    let full = put("more").await.unwrap_err();
    assert_eq!(full.to_string(), "there are 16 issuers of tenant default, no more are taken");
}

#[tokio::test]
async fn key_of_an_account_stands_nowhere_in_the_clear() {
    let world = World::new().await;
    let key = SecretKey::generate(KeyKind::P256);
    let scalar = key.expose_secret()[36..68].to_vec();
    let kept = KeptAcme { key: key.to_bytes(), ..kept("le", "", None, None) };
    world.store.put_acme_issuer(kept, 0, event(Action::IssuerSet, "le")).await.unwrap();
    let opened = world.store.acme_issuers().await.unwrap();
    assert!(SecretKey::from_bytes(&opened[0].key).is_ok());
    for (file, bytes) in world.place.bytes() {
        assert!(!bytes.windows(32).any(|window| window == scalar), "{} has the key", file.display());
    }
}
