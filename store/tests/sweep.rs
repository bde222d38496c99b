//! No secret stands in the data directory in any form, log included; a planted one is found.

#![expect(clippy::unwrap_used, reason = "a test ends where anything is not as it should be")]

use std::{fs, sync::Arc};

use api::ports::NodeStore;
use audit::{Action, Actor, Event};
use ca::ports::{Authorities, AuthorityRecord, AuthorityState, Place};
use certs::{ManualClock, Profile, SecretKey, Serial, SoftwareSigner, Template, Timestamp, Validity, sign};
use credence_store::{
    Cost, InitOptions, KekSource, NewSlot, OnlyTransit, OpenOptions, Store, initialise, open, testing::Sweep,
};
use ring::{rand::SystemRandom, signature};
use spiffe::AuthorityId;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

/// A key whose bytes the test knows: (PKCS#8, scalar).
fn known_key() -> (Vec<u8>, Vec<u8>) {
    let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
    let pkcs8 = pkcs8.as_ref().to_vec();
    // RFC 5915: the private key is the first OCTET STRING of 32 bytes after the version.
    let marker = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = pkcs8.windows(5).position(|window| window == marker).unwrap() + 5;
    (pkcs8.clone(), pkcs8[at..at + 32].to_vec())
}

async fn insert(store: &Store, pkcs8: &[u8]) -> AuthorityId {
    let key = SecretKey::from_pkcs8_der(Zeroizing::new(pkcs8.to_vec())).unwrap();
    let template = Template {
        profile: Profile::Issuing,
        serial: Serial::random(),
        validity: Validity::starting(now(), Profile::Issuing.default_lifetime(), None),
        public_key: key.public().clone(),
        subject: Some(("Credence".to_owned(), "sweep".to_owned())),
        uri: "spiffe://td".to_owned(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    let record = AuthorityRecord {
        id: AuthorityId::of(key.public().hash()),
        place: Place::Issuing,
        state: AuthorityState::Prepared,
        certificate: sign(&template, None, &SoftwareSigner::try_new(&key).unwrap()).unwrap(),
        parent: None,
        created: now(),
        activated: None,
        retired: None,
        removed: None,
        automatic: true,
        tainted: None,
        stolen: None,
        cross: None,
        offline: None,
        between: Vec::new(),
        arrivals: 1,
    };
    let id = record.id;
    let made = Event::done(now(), Actor::Host, Action::AuthorityPrepare, id.to_string());
    store.insert(vec![(record, key)], vec![made]).await.unwrap();
    id
}

#[tokio::test]
async fn no_secret_stands_in_the_data_directory() {
    let folder = tempfile::tempdir().unwrap();
    let (data, kek) = (folder.path().join("data"), folder.path().join("kek"));
    let passphrase = b"correct horse battery staple";
    let slots = vec![
        NewSlot { name: "primary".into(), source: KekSource::File(kek.clone()), cost: Cost::FLOOR },
        NewSlot {
            name: "recovery".into(),
            source: KekSource::Passphrase(Zeroizing::new(passphrase.to_vec())),
            cost: Cost::FLOOR,
        },
    ];
    initialise(InitOptions {
        directory: data.clone(),
        slots,
        only_transit: OnlyTransit::Refused,
        created: now(),
        dev: false,
    })
    .await
    .unwrap();
    let clock = Arc::new(ManualClock::new(now()));
    let options = OpenOptions {
        directory: data.clone(),
        keys: vec![KekSource::File(kek.clone()).into()],
        anchor: None,
        clock,
        dev: false,
    };
    let (store, writer) = open(options).await.unwrap();
    let shutdown = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "a test is its own composition root")]
    let running = tokio::spawn(writer.run(shutdown.clone()));

    let keys = [known_key(), known_key()];
    let mut sweep = Sweep::new()
        .with("passphrase", passphrase)
        .with("key-encryption key", &fs::read(&kek).unwrap())
        .with("token key", &store.token_key().await.unwrap());
    for (number, (pkcs8, scalar)) in keys.iter().enumerate() {
        let id = insert(&store, pkcs8).await;
        store.load_key(id).await.unwrap();
        sweep = sweep.with(&format!("scalar {number}"), scalar);
    }
    assert!(fs::metadata(data.join("credence.db-wal")).unwrap().len() > 0, "the log is swept too");
    assert_eq!(sweep.search_path(&data).unwrap(), []);

    // A secret that does reach the database is found: in the log, and in the database after the end.
    let planted = hex::encode(&keys[1].1);
    let careless = Event::done(now(), Actor::Host, Action::CallRefuse, planted);
    audit::AuditLog::append(&store, vec![careless]).await.unwrap();
    let found = sweep.search_path(&data).unwrap();
    assert!(found.iter().all(|one| one.name == "scalar 1" && one.encoding == "hex") && !found.is_empty());
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let found = sweep.search_path(&data).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].place, data.join("credence.db"));
}
