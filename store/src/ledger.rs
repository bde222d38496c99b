//! What the audit log says of sealed records: which exist, at which version, with which bytes. Somebody who can
//! write the database can put an older record back, and it opens; here it shows (`docs/reference/sealing.md`,
//! "Rollback").
//!
//! Pure but for loading: events go in, findings come out.

use std::{collections::BTreeMap, fmt};

use audit::{Action, Actor, Event, Head};
use certs::Timestamp;
use ring::digest;
use spiffe::Tenant;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    audit_log,
    keyring::{Class, RowName},
    row::{from_json, unsigned},
};

/// Names a row of `sealed`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowKey {
    pub(crate) tenant: String,
    pub(crate) class: String,
    pub(crate) kind: String,
    pub(crate) id: String,
}

impl RowKey {
    pub(crate) fn of(class: Class, row: &RowName<'_>) -> Self {
        let (tenant, kind, id) = (row.tenant.into(), row.kind.into(), row.id.into());
        Self { tenant, class: class.word().into(), kind, id }
    }

    pub(crate) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            tenant: row.try_get("tenant")?,
            class: row.try_get("class")?,
            kind: row.try_get("kind")?,
            id: row.try_get("id")?,
        })
    }

    /// As events name it: class and kind have no slash in them.
    fn object(&self) -> String {
        format!("{}/{}/{}", self.class, self.kind, self.id)
    }

    fn of_event(event: &Event) -> Option<Self> {
        let mut parts = event.object.splitn(3, '/').map(str::to_owned);
        let (class, kind, id) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { tenant: event.tenant.to_string(), class, kind, id })
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of tenant {}", self.kind, self.id, self.tenant)
    }
}

/// What is known of a sealed record without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) version: u64,
    pub(crate) sha256: [u8; 32],
}

impl Print {
    pub(crate) fn of(version: u64, record: &[u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, record).as_ref());
        Self { version, sha256 }
    }

    pub(crate) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self::of(unsigned(row, "version")?, row.try_get("record")?))
    }
}

/// One step of the ledger; made by the change that writes the row, kept with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Sealed(RowKey, Print),
    Destroyed(RowKey, u64),
}

impl Entry {
    fn key(&self) -> &RowKey {
        match self {
            Self::Sealed(key, _) | Self::Destroyed(key, _) => key,
        }
    }

    /// Of `entries`, those of one row.
    pub(crate) fn of_row(entries: &[Self], key: &RowKey) -> Vec<Self> {
        entries.iter().filter(|entry| entry.key() == key).cloned().collect()
    }

    /// The event that says so, on account of whoever caused it.
    pub(crate) fn event(&self, at: Timestamp, actor: Actor) -> Event {
        match self {
            Self::Sealed(key, print) => Event::done(at, actor, Action::RecordSeal, key.object())
                .for_tenant(tenant(key))
                .with("version", print.version)
                .with("sha256", hex::encode(print.sha256)),
            Self::Destroyed(key, version) => Event::done(at, actor, Action::RecordDestroy, key.object())
                .for_tenant(tenant(key))
                .with("version", version),
        }
    }

    /// What an event says, if it speaks of a sealed record.
    fn of_event(event: &Event) -> Option<Self> {
        let version = event.details.get("version").and_then(|text| text.parse().ok());
        match event.action {
            Action::RecordSeal => {
                let mut sha256 = [0; 32];
                hex::decode_to_slice(event.details.get("sha256")?, &mut sha256).ok()?;
                Some(Self::Sealed(RowKey::of_event(event)?, Print { version: version?, sha256 }))
            }
            Action::RecordDestroy => Some(Self::Destroyed(RowKey::of_event(event)?, version?)),
            _ => None,
        }
    }
}

/// Rows come from the database: a tenant that is none was planted, and shows as a row nobody knows.
fn tenant(key: &RowKey) -> Tenant {
    Tenant::parse(&key.tenant).unwrap_or_default()
}

/// How a sealed record differs from what the audit log says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowFault {
    /// It is gone.
    Missing,
    /// It is an older version.
    Older {
        /// The version in the store.
        found: u64,
        /// The version in the audit log.
        known: u64,
    },
    /// It is a version that was never committed.
    Newer {
        /// The version in the store.
        found: u64,
        /// The version in the audit log.
        known: u64,
    },
    /// The version is right, the bytes are others.
    Altered,
    /// Nobody ever wrote it, or it was destroyed.
    Unknown,
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Older { found, known } => {
                write!(f, "is back at version {found}, the audit log knows {known}")
            }
            Self::Newer { found, known } => {
                write!(f, "is at version {found}, the audit log knows {known} only")
            }
            Self::Altered => f.write_str("has other bytes than the audit log says"),
            Self::Unknown => f.write_str("is not in the audit log"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    version: u64,
    /// None once it is destroyed: its number is kept, so that a successor does not repeat it.
    sha256: Option<[u8; 32]>,
}

/// What the audit log says of every sealed record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger(BTreeMap<RowKey, Known>);

impl Ledger {
    pub(crate) fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Sealed(key, Print { version, sha256 }) => {
                self.0.insert(key, Known { version, sha256: Some(sha256) });
            }
            Entry::Destroyed(key, version) => {
                self.0.insert(key, Known { version, sha256: None });
            }
        }
    }

    /// The version that the next record of this row gets.
    pub(crate) fn next_version(&self, key: &RowKey) -> u64 {
        self.0.get(key).map_or(1, |known| known.version + 1)
    }

    /// Whether a row is what was committed last.
    pub(crate) fn judge(&self, key: &RowKey, found: Option<Print>) -> Result<(), RowFault> {
        let known = self.0.get(key).filter(|known| known.sha256.is_some());
        match (known, found) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(RowFault::Unknown),
            (Some(_), None) => Err(RowFault::Missing),
            (Some(known), Some(found)) if found.version < known.version => {
                Err(RowFault::Older { found: found.version, known: known.version })
            }
            (Some(known), Some(found)) if found.version > known.version => {
                Err(RowFault::Newer { found: found.version, known: known.version })
            }
            (Some(known), Some(found)) if known.sha256 != Some(found.sha256) => Err(RowFault::Altered),
            _ => Ok(()),
        }
    }

    /// Every row that differs, in both directions.
    pub(crate) fn compare(&self, found: &BTreeMap<RowKey, Print>) -> Vec<(RowKey, RowFault)> {
        let keys = self.0.keys().chain(found.keys().filter(|key| !self.0.contains_key(*key)));
        keys.filter_map(|key| {
            let fault = self.judge(key, found.get(key).copied()).err()?;
            Some((key.clone(), fault))
        })
        .collect()
    }

    /// The same, with what a transaction has done to it so far.
    pub(crate) fn after(&self, entries: &[Entry]) -> Self {
        let mut after = self.clone();
        for entry in entries {
            after.apply(entry.clone());
        }
        after
    }

    /// Reads the audit log's events of sealed records, oldest first.
    pub(crate) async fn load(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let mut ledger = Self::default();
        let rows = sqlx::query("SELECT event FROM audit WHERE action IN (?, ?) ORDER BY sequence")
            .bind(Action::RecordSeal.word())
            .bind(Action::RecordDestroy.word())
            .fetch_all(connection)
            .await?;
        for row in &rows {
            // What does not read was edited: the check of the chain names it.
            if let Ok(event) = from_json::<Event>(row, "event")
                && let Some(entry) = Entry::of_event(&event)
            {
                ledger.apply(entry);
            }
        }
        Ok(ledger)
    }
}

/// All sealed records as they are.
pub(crate) async fn prints(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<RowKey, Print>, sqlx::Error> {
    let rows = sqlx::query("SELECT tenant, class, kind, id, version, record FROM sealed")
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((RowKey::read(row)?, Print::read(row)?))).collect()
}

/// Gives each record that is there already its row in the audit log.
pub(crate) async fn adopt(connection: &mut SqliteConnection, now: Timestamp) -> Result<Head, sqlx::Error> {
    let mut head = audit_log::head(connection).await?;
    for (key, print) in prints(connection).await? {
        let row = head.next(Entry::Sealed(key, print).event(now, Actor::Host));
        head = Head { sequence: row.sequence, hash: row.hash };
        audit_log::insert(connection, &[row]).await?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> RowKey {
        RowKey::of(Class::Tls, &RowName { tenant: "default", kind: "secret", id, version: 0 })
    }

    fn print(version: u64, byte: u8) -> Print {
        Print { version, sha256: [byte; 32] }
    }

    #[test]
    fn events_say_what_entries_say() {
        for entry in [
            Entry::Sealed(key("default/a"), print(3, 7)),
            Entry::Sealed(key("a/b/c"), print(u64::MAX, 0)),
            Entry::Destroyed(key("default/a"), 4),
        ] {
            assert_eq!(Entry::of_event(&entry.event(Timestamp::EPOCH, Actor::System)), Some(entry));
        }
        let other = Event::done(Timestamp::EPOCH, Actor::System, Action::Start, "a/b/c");
        assert_eq!(Entry::of_event(&other), None);
    }

    #[test]
    fn every_difference_has_its_name() {
        let mut ledger = Ledger::default();
        ledger.apply(Entry::Sealed(key("a"), print(2, 1)));
        let check = |found: Option<Print>, expected: Result<(), RowFault>| {
            assert_eq!(ledger.judge(&key("a"), found), expected, "{found:?}");
        };
        check(Some(print(2, 1)), Ok(()));
        check(None, Err(RowFault::Missing));
        check(Some(print(1, 1)), Err(RowFault::Older { found: 1, known: 2 }));
        check(Some(print(3, 1)), Err(RowFault::Newer { found: 3, known: 2 }));
        check(Some(print(2, 2)), Err(RowFault::Altered));
        assert_eq!(ledger.judge(&key("b"), Some(print(1, 1))), Err(RowFault::Unknown));
        ledger.apply(Entry::Destroyed(key("a"), 2));
        assert_eq!(ledger.judge(&key("a"), Some(print(2, 1))), Err(RowFault::Unknown), "destroyed is gone");
        assert_eq!((ledger.next_version(&key("a")), ledger.next_version(&key("b"))), (3, 1));
    }

    /// Whatever is written and then changed behind the back shows, and nothing else does.
    #[test]
    fn random_walk_finds_exactly_what_was_meddled_with() {
        use rand::{RngExt, SeedableRng};
        for seed in 0..200 {
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let (mut ledger, mut store) = (Ledger::default(), BTreeMap::new());
            let mut past: Vec<(RowKey, Print)> = Vec::new();
            for _ in 0..60 {
                let key = key(&random.random_range(0..6).to_string());
                if random.random_range(0..4) == 0 && store.remove(&key).is_some() {
                    let version = ledger.next_version(&key) - 1;
                    ledger.apply(Entry::Destroyed(key, version));
                } else {
                    let print = print(ledger.next_version(&key), random.random());
                    past.extend(store.insert(key.clone(), print).map(|old| (key.clone(), old)));
                    ledger.apply(Entry::Sealed(key, print));
                }
                assert_eq!(ledger.compare(&store), [], "seed {seed}");
            }
            if past.is_empty() {
                continue;
            }
            let (key, old) = past[random.random_range(0..past.len())].clone();
            let mut meddled = store.clone();
            meddled.insert(key.clone(), old);
            let found = ledger.compare(&meddled);
            assert_eq!(found.len(), 1, "seed {seed}: {found:?}");
            assert_eq!(found[0].0, key);
        }
    }
}
