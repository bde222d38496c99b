//! What was revoked, and every list that says so.

use std::sync::Arc;

use async_trait::async_trait;
use audit::Event;
use ca::ports::{JournalError, ListRecord, MAX_REVOKED, Revocations, RevokeError, Revoked};
use certs::{Crl, Timestamp};
use spiffe::AuthorityId;
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    Store,
    rollback::refuse_while_found,
    row::{decode, from_word, number, parsed, serial, time, unsigned, word},
    writer::{Change, Fault, Refusal, Tx},
};

/// How many lists of an authority stay to be read: the newest.
const LISTS_KEPT: u64 = 100;

impl Refusal for RevokeError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }
}

struct Revoke {
    revoked: Revoked,
    since: Timestamp,
    event: Event,
}

#[async_trait]
impl Change for Revoke {
    type Answer = ();
    type Refusal = RevokeError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<RevokeError>> {
        let Self { revoked, since, event } = self;
        let known = sqlx::query("SELECT at FROM revocations WHERE authority = ? AND serial = ?")
            .bind(revoked.authority.to_string())
            .bind(revoked.serial.as_bytes())
            .fetch_optional(tx.sql())
            .await?;
        if let Some(row) = known {
            return Err(Fault::Refused(RevokeError::Already(time(&row, "at")?)));
        }
        let counted = sqlx::query("SELECT count(*) AS count FROM revocations WHERE not_after >= ?")
            .bind(since.unix_millis())
            .fetch_one(tx.sql())
            .await?;
        if unsigned(&counted, "count")? >= MAX_REVOKED as u64 {
            return Err(Fault::Refused(RevokeError::Full));
        }
        sqlx::query(
            "INSERT INTO revocations (tenant, authority, serial, at, reason, not_after) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(event.tenant.as_str())
        .bind(revoked.authority.to_string())
        .bind(revoked.serial.as_bytes())
        .bind(revoked.at.unix_millis())
        .bind(word(&revoked.reason)?)
        .bind(revoked.not_after.unix_millis())
        .execute(tx.sql())
        .await?;
        tx.record(event);
        Ok(())
    }
}

struct ReserveList {
    authority: AuthorityId,
    at: Timestamp,
}

#[async_trait]
impl Change for ReserveList {
    type Answer = u64;
    type Refusal = JournalError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<JournalError>> {
        // An older store may have forgotten what was revoked: a list made from it would take that back.
        refuse_while_found(tx, JournalError::Unavailable)?;
        let row = sqlx::query(
            "INSERT INTO revocation_lists (authority, number, at)
             SELECT ?1, coalesce(max(number), 0) + 1, ?2 FROM revocation_lists WHERE authority = ?1
             RETURNING number",
        )
        .bind(self.authority.to_string())
        .bind(self.at.unix_millis())
        .fetch_one(tx.sql())
        .await?;
        Ok(unsigned(&row, "number")?)
    }
}

struct KeepList {
    list: ListRecord,
    event: Event,
}

#[async_trait]
impl Change for KeepList {
    type Answer = ();
    type Refusal = JournalError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self { list, event } = self;
        let authority = list.authority.to_string();
        let kept = sqlx::query(
            "UPDATE revocation_lists SET at = ?1, list = ?2 WHERE authority = ?3 AND number = ?4 AND list IS NULL
                AND number > (SELECT coalesce(max(number), 0) FROM revocation_lists
                               WHERE authority = ?3 AND list IS NOT NULL)",
        )
        .bind(list.at.unix_millis())
        .bind(list.crl.der())
        .bind(&authority)
        .bind(number(list.number))
        .execute(tx.sql())
        .await?;
        if kept.rows_affected() == 0 {
            let (authority, number) = (list.authority, list.number);
            return Err(Fault::Refused(JournalError::NotReserved { authority, number }));
        }
        sqlx::query("UPDATE revocation_lists SET list = NULL WHERE authority = ? AND number <= ?")
            .bind(&authority)
            .bind(number(list.number.saturating_sub(LISTS_KEPT)))
            .execute(tx.sql())
            .await?;
        tx.record(event);
        Ok(())
    }
}

fn read_revoked(row: &SqliteRow) -> Result<Revoked, sqlx::Error> {
    Ok(Revoked {
        authority: parsed(row, "authority")?,
        serial: serial(row)?,
        at: time(row, "at")?,
        reason: from_word(row, "reason")?,
        not_after: time(row, "not_after")?,
    })
}

fn read_list(row: &SqliteRow) -> Result<ListRecord, sqlx::Error> {
    let crl = Crl::from_der(row.try_get("list")?).map_err(|error| decode("list", error))?;
    Ok(ListRecord {
        authority: parsed(row, "authority")?,
        number: unsigned(row, "number")?,
        at: time(row, "at")?,
        crl: Arc::new(crl),
    })
}

impl Store {
    async fn list_revoked(&self, since: Timestamp) -> Result<Vec<Revoked>, sqlx::Error> {
        let query = sqlx::query(
            "SELECT authority, serial, at, reason, not_after FROM revocations WHERE not_after >= ? ORDER BY sequence",
        );
        let rows = query.bind(since.unix_millis()).fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(read_revoked).collect()
    }

    async fn newest_lists(&self) -> Result<Vec<ListRecord>, sqlx::Error> {
        let query = sqlx::query(
            "SELECT authority, number, at, list FROM revocation_lists l WHERE list IS NOT NULL AND number =
                (SELECT max(number) FROM revocation_lists n WHERE n.authority = l.authority AND n.list IS NOT NULL)",
        );
        let rows = query.fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(read_list).collect()
    }
}

fn unavailable(error: sqlx::Error) -> JournalError {
    JournalError::Unavailable(error.to_string())
}

#[async_trait]
impl Revocations for Store {
    async fn revoke(&self, revoked: Revoked, since: Timestamp, event: Event) -> Result<(), RevokeError> {
        self.write(Revoke { revoked, since, event }).await
    }

    async fn revoked(&self, since: Timestamp) -> Result<Vec<Revoked>, JournalError> {
        self.list_revoked(since).await.map_err(unavailable)
    }

    async fn reserve_list(&self, authority: AuthorityId, at: Timestamp) -> Result<u64, JournalError> {
        self.write(ReserveList { authority, at }).await
    }

    async fn keep_list(&self, list: ListRecord, event: Event) -> Result<(), JournalError> {
        self.write(KeepList { list, event }).await
    }

    async fn lists(&self) -> Result<Vec<ListRecord>, JournalError> {
        self.newest_lists().await.map_err(unavailable)
    }
}
