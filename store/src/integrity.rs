//! What `credence doctor` asks of a store: is everything in it whole, and is it kept as promised?

use std::collections::BTreeSet;

use async_trait::async_trait;
use audit::Head;
use sqlx::Row;

use crate::{
    Store, audit_log,
    keyring::{Class, RowName},
    rollback::Finding,
    row::{bytes32, number, unsigned},
    seal::SealError,
    slots::Slot,
    sqlite::pragma,
    writer::{Change, Fault, Refusal, Tx},
};
use api::ports::StoreError;

/// How many rows are looked at in one go.
const PAGE: u64 = 1000;

/// The state of a store, as far as it can be seen from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    /// What SQLite's own check finds wrong; empty if nothing.
    pub damage: Vec<String>,
    /// `PRAGMA synchronous` of the writer; 2 is FULL.
    pub synchronous: i64,
    /// `PRAGMA journal_mode`; `wal` is right.
    pub journal_mode: String,
    /// Whether foreign keys are enforced.
    pub foreign_keys: bool,
    /// The schema's version.
    pub schema: u32,
    /// The end of the audit chain.
    pub audit_rows: u64,
    /// The hash at its end, in hexadecimal: keep it elsewhere, and rows cut off at the end show too.
    pub audit_head: String,
    /// The first audit row that does not follow from the one before it.
    pub audit_broken: Option<u64>,
    /// How many sealed records there are.
    pub sealed: u64,
    /// Which of them do not open, and why.
    pub unsealable: Vec<(String, SealError)>,
    /// How the store differs from what its audit log and its anchor say.
    pub rollback: Vec<Finding>,
    /// How many key slots open it.
    pub slots: usize,
}

impl Integrity {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems().is_empty()
    }

    /// One sentence for each thing that is wrong.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.damage.clone();
        if self.synchronous != 2 {
            problems.push(format!("synchronous is {}, not FULL", self.synchronous));
        }
        if self.journal_mode != "wal" {
            problems.push(format!("journal mode is {}, not wal", self.journal_mode));
        }
        if !self.foreign_keys {
            problems.push("foreign keys are not enforced".into());
        }
        if let Some(sequence) = self.audit_broken {
            problems.push(format!("audit chain is broken at row {sequence}"));
        }
        for (record, error) in &self.unsealable {
            problems.push(format!("{record}: {error}"));
        }
        problems.extend(self.rollback.iter().map(ToString::to_string));
        problems
    }
}

/// Asks the writer's own connection, whose settings are the ones that count.
struct Settings;

#[async_trait]
impl Change for Settings {
    type Answer = (i64, bool, String);
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Self::Answer, Fault<StoreError>> {
        let synchronous = pragma(tx.sql(), "PRAGMA synchronous").await?;
        let foreign_keys = pragma(tx.sql(), "PRAGMA foreign_keys").await? == 1;
        let journal_mode = sqlx::query("PRAGMA journal_mode").fetch_one(tx.sql()).await?.try_get(0)?;
        Ok((synchronous, foreign_keys, journal_mode))
    }
}

impl Store {
    /// Reads everything once. Takes as long as the store is large; writes go on meanwhile.
    ///
    /// # Errors
    /// When the store cannot be read, or its writer does not run.
    pub async fn integrity(&self) -> Result<Integrity, StoreError> {
        let (synchronous, foreign_keys, journal_mode) = self.write(Settings).await?;
        let look = async {
            let mut connection = self.read().await?;
            let check = sqlx::query("PRAGMA quick_check").fetch_all(&mut *connection).await?;
            let damage: Vec<String> = check.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            let schema = pragma(&mut connection, "PRAGMA user_version").await?;
            drop(connection);
            let accepted = self.accepted_breaks().await?;
            let (head, audit_broken) = self.follow_audit(Head::GENESIS, &accepted).await?;
            let (sealed, unsealable) = self.check_sealed().await?;
            Ok(Integrity {
                damage: damage.into_iter().filter(|line| line != "ok").collect(),
                synchronous,
                journal_mode,
                foreign_keys,
                schema: u32::try_from(schema).unwrap_or(0),
                audit_rows: head.sequence,
                audit_head: hex::encode(head.hash),
                audit_broken,
                sealed,
                unsealable,
                rollback: Vec::clone(&self.findings().borrow()),
                slots: Slot::load(&mut *self.read().await?).await?.len(),
            })
        };
        look.await.map_err(|error: sqlx::Error| StoreError::unavailable(error.to_string()))
    }

    /// Follows the chain from `head`, page by page; answers how far it holds, and where it breaks if nobody has
    /// accepted that.
    pub(crate) async fn follow_audit(
        &self,
        mut head: Head,
        accepted: &BTreeSet<u64>,
    ) -> Result<(Head, Option<u64>), sqlx::Error> {
        loop {
            let rows = sqlx::query("SELECT * FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?")
                .bind(number(head.sequence))
                .bind(number(PAGE))
                .fetch_all(&mut *self.read().await?)
                .await?;
            if rows.is_empty() {
                return Ok((head, None));
            }
            for row in &rows {
                let sequence = unsigned(row, "sequence")?;
                // What does not even read was edited too.
                let follows =
                    audit_log::read(row).ok().and_then(|read| audit::verify_chain(head, [&read]).ok());
                head = match follows {
                    Some(next) => next,
                    None if accepted.contains(&sequence) => Head { sequence, hash: bytes32(row, "hash")? },
                    None => return Ok((head, Some(sequence))),
                };
            }
        }
    }

    /// Opens every sealed record, and forgets what was in it.
    async fn check_sealed(&self) -> Result<(u64, Vec<(String, SealError)>), sqlx::Error> {
        let rows = sqlx::query("SELECT * FROM sealed ORDER BY tenant, class, kind, id")
            .fetch_all(&mut *self.read().await?)
            .await?;
        let mut unsealable = Vec::new();
        for row in &rows {
            let (tenant, class, kind, id): (&str, &str, &str, &str) =
                (row.try_get("tenant")?, row.try_get("class")?, row.try_get("kind")?, row.try_get("id")?);
            let name = RowName { tenant, kind, id, version: unsigned(row, "version")? };
            let opened = match Class::parse(class) {
                Some(class) => self.keyring().open(class, &name, row.try_get("record")?).map(drop),
                None => Err(SealError::Malformed),
            };
            if let Err(error) = opened {
                unsealable.push((format!("sealed {kind} {id} of tenant {tenant}"), error));
            }
        }
        Ok((rows.len() as u64, unsealable))
    }
}
