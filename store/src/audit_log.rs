//! Audit rows: kept in the transaction of the change that they tell of, chained by hash.

use async_trait::async_trait;
use audit::{AuditError, AuditFilter, AuditLog, AuditRow, Event, Head};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};

use crate::{
    Store,
    many::{AT_ONCE, Many},
    row::{bytes32, decode, json, number},
    writer::{Change, Fault, Refusal, Tx},
};

/// The most rows that one answer holds.
const PAGE: usize = 1000;
/// The longest text of an event that is kept.
const TEXT: usize = 1024;
/// The most details of an event that are kept.
const DETAILS: usize = 32;

impl Refusal for AuditError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }
}

/// Cuts what is too long: what a stranger sends may stand in an event, and must not fill the disk.
pub(crate) fn bounded(mut event: Event) -> Event {
    cut(&mut event.object);
    cut(&mut event.reason);
    while event.details.len() > DETAILS {
        event.details.pop_last();
    }
    event.details.values_mut().for_each(cut);
    event
}

fn cut(text: &mut String) {
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

static INSERT: Many = Many::new(
    "INSERT INTO audit (sequence, at, tenant, actor, action, object, event, hash) SELECT * FROM ",
    8,
    " WHERE column1 IS NOT NULL",
);

pub(crate) async fn insert(connection: &mut SqliteConnection, rows: &[AuditRow]) -> Result<(), sqlx::Error> {
    for rows in rows.chunks(AT_ONCE) {
        let mut query = sqlx::query(INSERT.sql(rows.len()));
        for row in rows {
            let event = &row.event;
            query = query
                .bind(number(row.sequence))
                .bind(event.at.unix_millis())
                .bind(event.tenant.as_str())
                .bind(event.actor.to_string())
                .bind(event.action.word())
                .bind(event.object.as_str())
                .bind(json(event)?)
                .bind(row.hash.as_slice());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// The end of the chain.
pub(crate) async fn head(connection: &mut SqliteConnection) -> Result<Head, sqlx::Error> {
    let last = sqlx::query("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    last.map_or(Ok(Head::GENESIS), |row| {
        Ok(Head { sequence: crate::row::unsigned(&row, "sequence")?, hash: bytes32(&row, "hash")? })
    })
}

/// Reads a row, and whether the columns that repeat the event still say the same.
pub(crate) fn read(row: &SqliteRow) -> Result<AuditRow, sqlx::Error> {
    let event: Event = crate::row::from_json(row, "event")?;
    let repeated = row.try_get::<i64, _>("at")? == event.at.unix_millis()
        && row.try_get::<&str, _>("tenant")? == event.tenant.as_str()
        && row.try_get::<&str, _>("actor")? == event.actor.to_string()
        && row.try_get::<&str, _>("action")? == event.action.word()
        && row.try_get::<&str, _>("object")? == event.object;
    if !repeated {
        return Err(decode("event", "columns of the row differ from its event"));
    }
    Ok(AuditRow { sequence: crate::row::unsigned(row, "sequence")?, event, hash: bytes32(row, "hash")? })
}

struct Append(Vec<Event>);

#[async_trait]
impl Change for Append {
    type Answer = ();
    type Refusal = AuditError;

    fn is_one_statement(&self) -> bool {
        true
    }

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuditError>> {
        self.0.into_iter().for_each(|event| tx.record(event));
        Ok(())
    }
}

#[async_trait]
impl AuditLog for Store {
    async fn append(&self, events: Vec<Event>) -> Result<(), AuditError> {
        if events.is_empty() {
            return Ok(());
        }
        self.write(Append(events)).await
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, AuditError> {
        let limit = if filter.limit == 0 { PAGE } else { filter.limit.min(PAGE) };
        let unavailable = |error: sqlx::Error| AuditError::Unavailable(error.to_string());
        let mut connection = self.read().await.map_err(unavailable)?;
        let mut found = Vec::new();
        let mut filter = filter.clone();
        // Free text is searched here and not in SQL, whose idea of letter case ends with ASCII.
        let size = if filter.text.is_some() { PAGE } else { limit };
        loop {
            let rows = page(&filter, size).build().fetch_all(&mut *connection).await.map_err(unavailable)?;
            let last_page = rows.len() < size;
            for row in &rows {
                let sequence = crate::row::unsigned(row, "sequence").map_err(unavailable)?;
                filter.before_sequence = Some(sequence);
                // One that does not read is named by the check of the chain, and hides no other.
                let Ok(row) = read(row) else { continue };
                // The page before this row is looked at, not this row.
                let sought = AuditFilter { before_sequence: None, ..filter.clone() };
                if sought.matches(&row) {
                    found.push(row);
                }
                if found.len() == limit {
                    return Ok(found);
                }
            }
            if last_page {
                return Ok(found);
            }
        }
    }
}

fn page(filter: &AuditFilter, size: usize) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT * FROM audit WHERE true");
    if let Some(since) = filter.since {
        query.push(" AND at >= ").push_bind(since.unix_millis());
    }
    if let Some(until) = filter.until {
        query.push(" AND at < ").push_bind(until.unix_millis());
    }
    if let Some(action) = filter.action {
        query.push(" AND action = ").push_bind(action.word());
    }
    if let Some(actor) = &filter.actor {
        query.push(" AND actor = ").push_bind(actor.clone());
    }
    if let Some(object) = &filter.object {
        query.push(" AND object = ").push_bind(object.clone());
    }
    if let Some(before) = filter.before_sequence {
        query.push(" AND sequence < ").push_bind(number(before));
    }
    query.push(" ORDER BY sequence DESC LIMIT ").push_bind(number(size as u64));
    query
}
