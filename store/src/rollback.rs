//! Is the store still what its audit log, and the anchor outside, say it was? Asked when it is opened and every
//! hour. A finding stops signing, not serving, until an operator has looked and accepts the store as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use audit::{Action, Actor, AuditRow, Event, Head};
use certs::Timestamp;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Store,
    anchor::Anchor,
    audit_log,
    ledger::{Entry, Ledger, RowFault, RowKey, prints},
    row::{bytes32, from_json, number, uuid},
    writer::{Change, Fault, Refusal, Tx},
};
use api::ports::StoreError;

/// How often the anchor is written at most.
const ANCHOR_PACE: Duration = Duration::from_secs(1);

/// One way in which the store is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A sealed record is not the one that was committed last.
    Row {
        /// Which.
        row: String,
        /// How it differs.
        fault: RowFault,
    },
    /// The root key is not the one that was made last.
    RootKey {
        /// The root key of the store.
        found: String,
        /// The one that was made last.
        known: String,
    },
    /// A key slot is there again that was removed.
    Slot {
        /// Its name.
        name: String,
    },
    /// The audit chain does not hold at this row.
    AuditBroken {
        /// Its number.
        sequence: u64,
    },
    /// The audit log ends elsewhere than where we ended it.
    AuditEnd {
        /// The last row of the log.
        found: u64,
        /// The last row that we wrote.
        known: u64,
    },
    /// The anchor knows a row that the audit log does not have, or has otherwise: the whole store was put back.
    BehindAnchor {
        /// The last row of the log.
        found: u64,
        /// The row that the anchor knows.
        anchored: u64,
    },
    /// The anchor is of another store.
    ForeignAnchor,
    /// The anchor is there and cannot be read.
    AnchorUnreadable {
        /// Why.
        reason: String,
    },
}

impl Finding {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BehindAnchor { .. } | Self::AuditEnd { .. } => {
                "if an older copy was put back on purpose, credence audit accept takes it as it is; else restore the \
                 database"
            }
            Self::Row { .. } | Self::RootKey { .. } | Self::Slot { .. } | Self::AuditBroken { .. } => {
                "somebody has changed the database: find out who, and restore it; credence audit accept takes it as it is"
            }
            Self::ForeignAnchor => {
                "storage.anchor_file names that of another store: name one of this store, or where none is yet"
            }
            Self::AnchorUnreadable { .. } => {
                "let the user who runs the server read storage.anchor_file; where it is damaged, move it away"
            }
        }
    }

    /// Whether it tells of the store itself, and not of what lies beside it: then it can be taken as it is.
    #[must_use]
    pub fn is_about_store(&self) -> bool {
        !matches!(self, Self::ForeignAnchor | Self::AnchorUnreadable { .. })
    }

    /// Whether it is the same matter as `other`: what is put back is found once, although the log grows by what is
    /// written of it.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::BehindAnchor { anchored, .. }, Self::BehindAnchor { anchored: before, .. }) => {
                anchored == before
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row { row, fault } => write!(f, "sealed {row} {fault}"),
            Self::RootKey { found, known } => {
                write!(f, "store is back under root key {found}, the audit log knows {known}")
            }
            Self::Slot { name } => write!(f, "key slot {name} is there again, which was removed"),
            Self::AuditBroken { sequence } => write!(f, "audit chain is broken at row {sequence}"),
            Self::AuditEnd { found, known } => {
                write!(
                    f,
                    "audit log ends with another row {found} than the row {known} that was written last"
                )
            }
            Self::BehindAnchor { found, anchored } => write!(
                f,
                "store is older than its anchor: the audit log ends at row {found} and has not the row \
                 {anchored} that the anchor holds"
            ),
            Self::ForeignAnchor => f.write_str("anchor file is of another store"),
            Self::AnchorUnreadable { reason } => write!(f, "anchor file cannot be read: {reason}"),
        }
    }
}

/// How the anchor stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnchorStatus {
    /// The audit row that it holds.
    pub sequence: u64,
    /// When it was written last.
    pub at: Option<Timestamp>,
    /// Why it could not be written.
    pub problem: Option<String>,
}

/// What is found before anything was written to the store.
pub(crate) async fn at_opening(
    connection: &mut SqliteConnection,
    store: uuid::Uuid,
    ledger: &Ledger,
    anchor: Option<&Path>,
) -> Result<Vec<Finding>, sqlx::Error> {
    let mut findings = rows(ledger.compare(&prints(connection).await?));
    let keys = Keys::read(connection).await?;
    findings.extend(keys.root_finding(&keys.known_root));
    findings.extend(keys.slot_findings());
    if let Some(path) = anchor {
        findings.extend(against_anchor(connection, store, path).await?);
    }
    Ok(findings)
}

fn rows(faults: Vec<(RowKey, RowFault)>) -> Vec<Finding> {
    faults.into_iter().map(|(key, fault)| Finding::Row { row: key.to_string(), fault }).collect()
}

/// What opens the store, as it is and as the audit log says it was. It is in no ledger: who once had the root key, or the
/// key of a slot, could put back what he can open.
struct Keys {
    root: String,
    /// The root key that was made last, or accepted after that; `None` for one that the store was made with.
    known_root: Option<String>,
    /// By id, with their names.
    slots: BTreeMap<String, String>,
    removed_slots: BTreeSet<String>,
}

/// Details of the events that tell of keys.
pub(crate) const ROOT_KEY: &str = "root_key_id";
pub(crate) const SLOT: &str = "slot_id";
const SLOTS: &str = "slot_ids";

impl Keys {
    async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let root = sqlx::query("SELECT root_key FROM store").fetch_one(&mut *connection).await?;
        let slots = sqlx::query("SELECT id, name FROM key_slots").fetch_all(&mut *connection).await?;
        let slot =
            |row: &SqliteRow| Ok::<_, sqlx::Error>((uuid(row, "id")?.to_string(), row.try_get("name")?));
        let mut keys = Self {
            root: uuid(&root, "root_key")?.to_string(),
            known_root: None,
            slots: slots.iter().map(slot).collect::<Result<_, _>>()?,
            removed_slots: BTreeSet::new(),
        };
        let events = sqlx::query("SELECT event FROM audit WHERE action IN (?, ?, ?) ORDER BY sequence")
            .bind(Action::RootKeyRotate.word())
            .bind(Action::KekSlotRemove.word())
            .bind(Action::StoreAccept.word())
            .fetch_all(connection)
            .await?;
        for row in &events {
            // What does not read was edited: the check of the chain names it.
            let Ok(mut event) = from_json::<Event>(row, "event") else { continue };
            if let Some(root) = event.details.remove(ROOT_KEY) {
                keys.known_root = Some(root);
            }
            keys.removed_slots.extend(event.details.remove(SLOT));
            for accepted in event.details.get(SLOTS).into_iter().flat_map(|ids| ids.split(' ')) {
                keys.removed_slots.remove(accepted);
            }
        }
        Ok(keys)
    }

    fn root_finding(&self, known: &Option<String>) -> Option<Finding> {
        let known = known.as_ref().filter(|known| **known != self.root)?;
        Some(Finding::RootKey { found: self.root.clone(), known: known.clone() })
    }

    fn slot_findings(&self) -> impl Iterator<Item = Finding> {
        let back = self.slots.iter().filter(|(id, _)| self.removed_slots.contains(*id));
        back.map(|(_, name)| Finding::Slot { name: name.clone() })
    }
}

async fn against_anchor(
    connection: &mut SqliteConnection,
    store: uuid::Uuid,
    path: &Path,
) -> Result<Option<Finding>, sqlx::Error> {
    let anchor = match Anchor::read(path) {
        Ok(Some(anchor)) => anchor,
        Ok(None) => return Ok(None),
        Err(error) => return Ok(Some(Finding::AnchorUnreadable { reason: error.to_string() })),
    };
    if anchor.store != store {
        return Ok(Some(Finding::ForeignAnchor));
    }
    let row = sqlx::query("SELECT hash FROM audit WHERE sequence = ?")
        .bind(number(anchor.sequence))
        .fetch_optional(&mut *connection)
        .await?;
    let holds = match row {
        Some(row) => hex::encode(bytes32(&row, "hash")?) == anchor.hash,
        None => anchor.sequence == 0,
    };
    if holds {
        return Ok(None);
    }
    let found = audit_log::head(connection).await?.sequence;
    Ok(Some(Finding::BehindAnchor { found, anchored: anchor.sequence }))
}

/// Compares store, ledger and the end of the audit log, as they are within the group that it is written in.
struct Compare;

#[async_trait]
impl Change for Compare {
    type Answer = Vec<Finding>;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Vec<Finding>, Fault<StoreError>> {
        let found = prints(tx.sql()).await?;
        let mut findings = rows(tx.compare(&found));
        let keys = Keys::read(tx.sql()).await?;
        // That of memory: who has replaced it within this group has no row in the log yet.
        findings.extend(keys.root_finding(&Some(tx.keyring().root().id.to_string())));
        findings.extend(keys.slot_findings());
        let (written, end) = (tx.head(), audit_log::head(tx.sql()).await?);
        if written != end {
            findings.push(Finding::AuditEnd { found: end.sequence, known: written.sequence });
        }
        Ok(findings)
    }
}

/// Notes findings in the audit log.
struct Note(Vec<Finding>, Timestamp);

#[async_trait]
impl Change for Note {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        for finding in self.0 {
            let mut event = Event::done(self.1, Actor::System, Action::StoreRollback, "store");
            event.reason = finding.to_string();
            tx.record(event);
        }
        Ok(())
    }
}

/// How many broken rows one row of the log names: their numbers fit into a detail.
const ROWS_NAMED: usize = 48;

/// Takes the store as it is: what is there now is what was committed.
struct Accept(Event, Vec<u64>);

#[async_trait]
impl Change for Accept {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        // What this process sealed from here on, the next one could not open.
        let keys = Keys::read(tx.sql()).await?;
        if keys.root != tx.keyring().root().id.to_string() {
            return Err(Fault::Refused(StoreError::InUse {
                what: "root key",
                name: tx.keyring().root().id.to_string(),
                why: "the store names another one, which this process does not work with: restart the server, and \
                      accept then"
                    .to_owned(),
            }));
        }
        let end = audit_log::head(tx.sql()).await?;
        tx.continue_from(end);
        let found = prints(tx.sql()).await?;
        // What the log says, and what we know it said: rows may have been cut off it.
        let written = Ledger::load(tx.sql()).await?;
        let faults: BTreeMap<RowKey, RowFault> =
            written.compare(&found).into_iter().chain(tx.compare(&found)).collect();
        let cause = (self.0.at, self.0.actor.clone());
        let broken: Vec<String> = self.1.iter().map(ToString::to_string).collect();
        let mut broken = broken.chunks(ROWS_NAMED).map(|rows| rows.join(" "));
        let first = broken.next().unwrap_or_default();
        let slots: Vec<&str> = keys.slots.keys().map(String::as_str).collect();
        let event = self.0.clone().with("broken_rows", first).with("records", faults.len());
        tx.record(event.with(SLOTS, slots.join(" ")).with(ROOT_KEY, keys.root));
        // A detail is cut where it is too long, and what is cut off would be broken still.
        for rows in broken {
            tx.record(self.0.clone().with("broken_rows", rows));
        }
        for (key, _) in faults {
            let entry = match found.get(&key) {
                Some(print) => Entry::Sealed(key, *print),
                None => {
                    let version = tx.live().ledger(|ledger| ledger.next_version(&key)) - 1;
                    Entry::Destroyed(key, version)
                }
            };
            tx.enter(entry, cause.0, cause.1.clone());
        }
        Ok(())
    }
}

impl Store {
    /// What was found wrong and not accepted; none when the store is what it was.
    #[must_use]
    pub fn findings(&self) -> watch::Receiver<Arc<Vec<Finding>>> {
        self.live().findings()
    }

    /// How the anchor stands; `None` without one: then a rollback of the whole store is not noticed.
    #[must_use]
    pub fn anchor(&self) -> Option<AnchorStatus> {
        self.anchor_path()
            .is_some()
            .then(|| self.anchor_state().lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Compares the store with its audit log and anchor, follows the audit chain from where it was followed last,
    /// and raises what is new.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn check_rollback(&self) -> Result<Arc<Vec<Finding>>, StoreError> {
        let mut findings = self.write(Compare).await?;
        let read = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        if let Some(path) = self.anchor_path() {
            let mut connection = self.read().await.map_err(read)?;
            findings.extend(against_anchor(&mut connection, self.id(), path).await.map_err(read)?);
        }
        let from = *self.followed().lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = self.accepted_breaks().await.map_err(read)?;
        let (head, broken) = self.follow_audit(from, &accepted).await.map_err(read)?;
        match broken {
            Some(sequence) => findings.push(Finding::AuditBroken { sequence }),
            None => *self.followed().lock().unwrap_or_else(PoisonError::into_inner) = head,
        }
        self.raise(findings).await?;
        let findings = self.findings().borrow().clone();
        Ok(findings)
    }

    /// Adds to what was found, and says so once in log and audit.
    pub(crate) async fn raise(&self, findings: Vec<Finding>) -> Result<(), StoreError> {
        let new = self.live().add(findings);
        if new.is_empty() { Ok(()) } else { self.write(Note(new, self.now())).await }
    }

    /// Notes in the audit log what was found while the store was opened.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn note_findings(&self) -> Result<(), StoreError> {
        let found = Vec::clone(&self.findings().borrow());
        for finding in &found {
            tracing::error!(%finding, hint = finding.hint(), "STORE_ROLLBACK: signing stops");
        }
        if found.is_empty() { Ok(()) } else { self.write(Note(found, self.now())).await }
    }

    /// Takes the store as it is, with `event` as the record of who decided that: signing goes on, the anchor is
    /// written anew. What is found while this goes on stands, and is to be accepted by itself.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn accept(&self, event: Event) -> Result<(), StoreError> {
        let read = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let findings = self.findings().borrow().clone();
        let mut accepted = self.accepted_breaks().await.map_err(read)?;
        let mut broken = Vec::new();
        while let (_, Some(sequence)) = self.follow_audit(Head::GENESIS, &accepted).await.map_err(read)? {
            accepted.insert(sequence);
            broken.push(sequence);
        }
        self.write(Accept(event, broken)).await?;
        self.live().remove(&findings);
        if let Some(path) = self.anchor_path() {
            let head = *self.live().head().borrow();
            self.drop_anchor(path, head);
        }
        Ok(())
    }

    /// Rows at which an operator has accepted that the chain does not hold. That counts only where the row which says so
    /// holds itself, and only for rows before it: else whoever edits one row could write over another that this was
    /// accepted, and no hash would be another.
    pub(crate) async fn accepted_breaks(&self) -> Result<BTreeSet<u64>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT accept.*, previous.hash AS previous_hash
               FROM audit AS accept JOIN audit AS previous ON previous.sequence = accept.sequence - 1
              WHERE accept.action = ?",
        )
        .bind(Action::StoreAccept.word())
        .fetch_all(&mut *self.read().await?)
        .await?;
        let mut accepted = BTreeSet::new();
        for row in rows.iter().filter_map(that_holds) {
            let numbers = row.event.details.get("broken_rows").map(String::as_str).unwrap_or_default();
            let numbers = numbers.split(' ').filter_map(|text| text.parse::<u64>().ok());
            accepted.extend(numbers.filter(|number| *number < row.sequence));
        }
        Ok(accepted)
    }

    /// Keeps the anchor at the end of the audit chain until `shutdown`; without an anchor, waits for it.
    pub async fn keep_anchor(self, shutdown: CancellationToken) {
        let Some(path) = self.anchor_path().map(Path::to_owned) else { return shutdown.cancelled().await };
        let mut head = self.live().head();
        let mut is_last = false;
        loop {
            let newest = *head.borrow_and_update();
            // What was found wrong must not become what is right.
            if self.findings().borrow().is_empty() {
                self.drop_anchor(&path, newest);
            }
            if is_last {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => is_last = true,
                changed = head.changed() => if changed.is_err() { return },
            }
            if !is_last {
                tokio::select! {
                    () = shutdown.cancelled() => is_last = true,
                    () = self.clock().sleep_until(self.now() + ANCHOR_PACE) => {}
                }
            }
        }
    }

    fn drop_anchor(&self, path: &Path, head: Head) {
        let at = self.now();
        let written: io::Result<()> = Anchor::new(self.id(), head, at).write(path);
        let mut state = self.anchor_state().lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => *state = AnchorStatus { sequence: head.sequence, at: Some(at), problem: None },
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "anchor was not written");
                state.problem = Some(error.to_string());
            }
        }
    }
}

/// The row, if it follows the one before it as that stands there.
fn that_holds(row: &SqliteRow) -> Option<AuditRow> {
    let read = audit_log::read(row).ok()?;
    let previous =
        Head { sequence: read.sequence.checked_sub(1)?, hash: bytes32(row, "previous_hash").ok()? };
    audit::verify_chain(previous, [&read]).ok()?;
    Some(read)
}

/// Whether signing may go on.
pub(crate) fn refuse_while_found<R>(tx: &Tx<'_>, refusal: fn(String) -> R) -> Result<(), Fault<R>> {
    let findings = tx.live().findings();
    let findings = findings.borrow();
    match findings.first() {
        None => Ok(()),
        Some(first) => Err(Fault::Refused(refusal(format!(
            "STORE_ROLLBACK, nothing is signed until an operator has looked: {first}"
        )))),
    }
}
