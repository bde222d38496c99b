//! Recovery windows, and who came back in them.

use std::time::Duration;

use api::ports::{Expired, Recovered, RecoveryStore, RecoveryWindow, StoreError};
use async_trait::async_trait;
use audit::Event;
use ca::ports::{Intent, JournalError};
use certs::Timestamp;
use spiffe::{RecoveryRefusal, RecoverySpend, TrustDomain};
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    Store,
    journal::already_issued,
    row::{bytes32, number, optional_time, parsed, time, unsigned},
    writer::{Change, Fault, Refusal, Tx},
};

/// What bars a certificate `c` from bringing its node back, as columns for [`barred`].
macro_rules! barred {
    () => {
        "EXISTS (SELECT 1 FROM revocations r WHERE r.authority = c.authority AND r.serial = c.serial) AS revoked,
         EXISTS (SELECT 1 FROM authorities a LEFT JOIN authorities p ON p.id = a.parent
                  WHERE a.id = c.authority AND (a.stolen IS NOT NULL OR p.stolen IS NOT NULL)) AS stolen"
    };
}

fn barred(row: &SqliteRow) -> Result<Option<RecoveryRefusal>, sqlx::Error> {
    let (revoked, stolen) = (row.try_get("revoked")?, row.try_get("stolen")?);
    Ok(match (revoked, stolen) {
        (true, _) => Some(RecoveryRefusal::Revoked),
        (false, true) => Some(RecoveryRefusal::Stolen),
        (false, false) => None,
    })
}

struct Open {
    window: RecoveryWindow,
    event: Event,
}

#[async_trait]
impl Change for Open {
    type Answer = RecoveryWindow;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<RecoveryWindow, Fault<StoreError>> {
        let Self { window, event } = self;
        close(tx, event.at).await?;
        let made = sqlx::query(
            "INSERT INTO recovery_windows (reason, by, opened, until, reach) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(&window.reason)
        .bind(&window.by)
        .bind(window.opened.unix_millis())
        .bind(window.until.unix_millis())
        .bind(number(u64::try_from(window.reach.as_millis()).unwrap_or(u64::MAX)))
        .execute(tx.sql())
        .await?;
        let id = u64::try_from(made.last_insert_rowid()).unwrap_or_default();
        tx.record(event.with("recovery_window", id));
        Ok(RecoveryWindow { id, ..window })
    }
}

async fn close(tx: &mut Tx<'_>, at: Timestamp) -> Result<u64, sqlx::Error> {
    let closed = sqlx::query("UPDATE recovery_windows SET closed = ? WHERE closed IS NULL AND until > ?")
        .bind(at.unix_millis())
        .bind(at.unix_millis())
        .execute(tx.sql())
        .await?;
    Ok(closed.rows_affected())
}

struct Close(Event);

#[async_trait]
impl Change for Close {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        if close(tx, self.0.at).await? == 0 {
            let name = "window".to_owned();
            return Err(Fault::Refused(StoreError::NotFound { what: "open recovery", name }));
        }
        tx.record(self.0);
        Ok(())
    }
}

/// Uses up the one coming back of a node in a window, or says why it may not come back.
pub(crate) async fn spend(
    tx: &mut Tx<'_>,
    intent: &Intent,
    spend: &RecoverySpend,
) -> Result<(), Fault<JournalError>> {
    let refuse = |refusal: RecoveryRefusal| Err(Fault::Refused(refusal.into()));
    let window = sqlx::query(
        "SELECT 1 FROM recovery_windows WHERE id = ? AND closed IS NULL AND until > ?
            AND id = (SELECT max(id) FROM recovery_windows)",
    )
    .bind(number(spend.window))
    .bind(intent.at.unix_millis())
    .fetch_optional(tx.sql())
    .await?;
    if window.is_none() {
        return refuse(RecoveryRefusal::Closed);
    }
    let bound = sqlx::query("SELECT created FROM bindings WHERE node = ? AND state = 'enabled'")
        .bind(spend.node.as_str())
        .fetch_optional(tx.sql())
        .await?;
    let Some(bound) = bound else { return refuse(RecoveryRefusal::NotBound) };
    let earlier = sqlx::query("SELECT spki FROM recoveries WHERE window = ? AND node = ?")
        .bind(number(spend.window))
        .bind(spend.node.as_str())
        .fetch_optional(tx.sql())
        .await?;
    if let Some(earlier) = earlier {
        if bytes32(&earlier, "spki")? != spend.spki.0 {
            return refuse(RecoveryRefusal::Spent);
        }
        let issued = sqlx::query(
            "SELECT chain, authority, at FROM certificates
              WHERE id = ? AND node = ? AND spki = ? AND state = 'issued' ORDER BY sequence DESC LIMIT 1",
        )
        .bind(intent.id.as_str())
        .bind(spend.node.as_str())
        .bind(spend.spki.0.as_slice())
        .fetch_optional(tx.sql())
        .await?;
        if let Some(issued) = issued {
            return Err(Fault::Refused(already_issued(&issued)?));
        }
    }
    let newest = sqlx::query(concat!(
        "SELECT serial, at, ",
        barred!(),
        " FROM certificates c WHERE id = ? AND node = ? AND state = 'issued' ORDER BY sequence DESC LIMIT 1"
    ))
    .bind(intent.id.as_str())
    .bind(spend.node.as_str())
    .fetch_optional(tx.sql())
    .await?;
    match newest {
        Some(newest) if newest.try_get::<&[u8], _>("serial")? == spend.replaces.as_bytes() => {
            if time(&newest, "at")? < time(&bound, "created")? {
                return refuse(RecoveryRefusal::NotBound);
            }
            if let Some(refusal) = barred(&newest)? {
                return refuse(refusal);
            }
        }
        Some(_) | None => return refuse(RecoveryRefusal::Superseded),
    }
    sqlx::query("INSERT OR REPLACE INTO recoveries (window, node, id, spki, at) VALUES (?, ?, ?, ?, ?)")
        .bind(number(spend.window))
        .bind(spend.node.as_str())
        .bind(intent.id.as_str())
        .bind(spend.spki.0.as_slice())
        .bind(intent.at.unix_millis())
        .execute(tx.sql())
        .await?;
    Ok(())
}

fn read_window(row: &SqliteRow) -> Result<RecoveryWindow, sqlx::Error> {
    Ok(RecoveryWindow {
        id: unsigned(row, "id")?,
        reason: row.try_get("reason")?,
        by: row.try_get("by")?,
        opened: time(row, "opened")?,
        until: time(row, "until")?,
        closed: optional_time(row, "closed")?,
        reach: Duration::from_millis(unsigned(row, "reach")?),
    })
}

impl Store {
    async fn newest_window(&self) -> Result<Option<RecoveryWindow>, sqlx::Error> {
        let query = sqlx::query("SELECT * FROM recovery_windows ORDER BY id DESC LIMIT 1");
        query.fetch_optional(&mut *self.read().await?).await?.as_ref().map(read_window).transpose()
    }

    async fn list_expired(
        &self,
        domain: &TrustDomain,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Expired>, sqlx::Error> {
        let rows = sqlx::query(concat!(
            "SELECT b.node, c.not_after, ",
            barred!(),
            " FROM bindings b JOIN certificates c ON c.sequence = (
                SELECT n.sequence FROM certificates n
                 WHERE n.id = ? || b.node AND n.node = b.node AND n.state = 'issued' ORDER BY n.sequence DESC LIMIT 1)
              WHERE b.state = 'enabled' AND c.at >= b.created AND c.not_after BETWEEN ? AND ?
              ORDER BY c.not_after, b.node"
        ))
        .bind(format!("spiffe://{domain}/credence/node/"))
        .bind(since.unix_millis())
        .bind(now.unix_millis())
        .fetch_all(&mut *self.read().await?)
        .await?;
        let read = |row: &SqliteRow| {
            Ok(Expired { node: parsed(row, "node")?, at: time(row, "not_after")?, barred: barred(row)? })
        };
        rows.iter().map(read).collect()
    }

    async fn list_recovered(&self, window: u64) -> Result<Vec<Recovered>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT r.node, max(c.at) AS at, max(c.not_after) AS until FROM recoveries r
               JOIN certificates c ON c.id = r.id AND c.node = r.node AND c.spki = r.spki AND c.state = 'issued'
              WHERE r.window = ? GROUP BY r.node ORDER BY r.node",
        )
        .bind(number(window))
        .fetch_all(&mut *self.read().await?)
        .await?;
        let read = |row: &SqliteRow| {
            Ok(Recovered { node: parsed(row, "node")?, at: time(row, "at")?, until: time(row, "until")? })
        };
        rows.iter().map(read).collect()
    }
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::unavailable(error.to_string())
}

#[async_trait]
impl RecoveryStore for Store {
    async fn recovery(&self) -> Result<Option<RecoveryWindow>, StoreError> {
        self.newest_window().await.map_err(unavailable)
    }

    async fn open_recovery(
        &self,
        window: RecoveryWindow,
        event: Event,
    ) -> Result<RecoveryWindow, StoreError> {
        self.write(Open { window, event }).await
    }

    async fn close_recovery(&self, event: Event) -> Result<(), StoreError> {
        self.write(Close(event)).await
    }

    async fn expired(
        &self,
        domain: &TrustDomain,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Expired>, StoreError> {
        self.list_expired(domain, since, now).await.map_err(unavailable)
    }

    async fn recovered(&self, window: u64) -> Result<Vec<Recovered>, StoreError> {
        self.list_recovered(window).await.map_err(unavailable)
    }
}
