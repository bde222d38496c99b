//! The real authorities of a world, in the hands of a test: it signs what no honest authority would, so that a
//! certificate is refused for its flaw and not for its issuer. Taken from the data directory before `serve` starts,
//! with the key-encryption key, as only the owner of the host can.

use std::{path::Path, sync::Arc};

use ca::ports::{Authorities, AuthorityRecord, AuthorityState, Place};
use certs::{Clock, Timestamp};
use fixtures::{TestAuthority, TestKey, TestKeyKind, World};
use server::clock::SystemClock;

use crate::eventually;

/// Private keys of a world's authorities, as PKCS#8.
#[derive(Clone)]
pub struct Keys {
    domain: String,
    root: (AuthorityRecord, Vec<u8>),
    issuing: (AuthorityRecord, Vec<u8>),
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads them; nothing may have the store open.
    pub(crate) async fn read(domain: &str, data_dir: &Path, kek: &Path) -> Self {
        let (store, _writer) = open(data_dir, kek).await;
        let records = store.load().await.unwrap_or_else(|error| panic!("authorities: {error}"));
        let active = async |place: Place| {
            let found =
                records.iter().find(|one| one.place == place && one.state == AuthorityState::Active).cloned();
            let record = found.unwrap_or_else(|| panic!("no active authority of place {place:?}"));
            let key = store.load_key(record.id).await.unwrap_or_else(|error| panic!("key: {error}"));
            (record, key.expose_secret().to_vec())
        };
        Self {
            domain: domain.to_owned(),
            root: active(Place::Root).await,
            issuing: active(Place::Issuing).await,
        }
    }

    /// The authorities as a world of the fixtures, now.
    #[must_use]
    pub fn world(&self) -> World {
        self.world_at(SystemClock.now())
    }

    /// The authorities as a world of the fixtures, at another time.
    #[must_use]
    pub fn world_at(&self, now: Timestamp) -> World {
        let authority = |(record, key): &(AuthorityRecord, Vec<u8>), kind| {
            let name = subject(record.certificate.to_be_signed());
            TestAuthority::existing(record.certificate.clone(), name, TestKey::from_pkcs8_der(kind, key))
        };
        let root = authority(&self.root, TestKeyKind::P384);
        let issuing = authority(&self.issuing, TestKeyKind::P256);
        World::existing(&self.domain, now, root, issuing)
    }

    /// The keys, each with a name.
    #[must_use]
    pub fn private(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![("root key", self.root.1.clone()), ("issuing key", self.issuing.1.clone())]
    }
}

/// The store of a data directory, which nothing may have open.
pub(crate) async fn open(data_dir: &Path, kek: &Path) -> (store::Store, store::Writer) {
    // Between fork and exec a child of another test holds copies of our file locks.
    eventually("the store opens", async || {
        let options = store::OpenOptions {
            directory: data_dir.to_owned(),
            keys: vec![store::KekSource::File(kek.to_owned()).into()],
            anchor: None,
            clock: Arc::new(SystemClock),
            dev: true,
        };
        store::open(options).await
    })
    .await
}

/// The subject of a to-be-signed certificate, as it stands there: the sixth field, the version included.
fn subject(tbs: &[u8]) -> Vec<u8> {
    let (mut rest, _) = element(tbs);
    for _ in 0..5 {
        rest = element(rest).1;
    }
    let (_, after) = element(rest);
    rest[..rest.len() - after.len()].to_vec()
}

/// The content of the first element, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, start) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        long => {
            let octets = usize::from(long & 0x7f);
            let length = der[2..2 + octets].iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
            (length, 2 + octets)
        }
    };
    (&der[start..start + length], &der[start + length..])
}
