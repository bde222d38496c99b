//! Blocked identities.

use api::ports::{BlockStore, StoreError};
use async_trait::async_trait;
use audit::Event;
use spiffe::{Block as Blocked, BlockList, Eviction, SpiffeId};
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    Store, Topic,
    row::{parsed, time, unsigned},
    writer::{Change, Fault, Refusal, Tx},
};

struct Block {
    id: SpiffeId,
    reason: String,
    is_enforced: bool,
    event: Event,
}

#[async_trait]
impl Change for Block {
    type Answer = Blocked;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Blocked, Fault<StoreError>> {
        let made = sqlx::query(
            "INSERT INTO blocks (id, tenant, at, reason, enforced) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET enforced = 1,
                 reason = CASE WHEN excluded.reason = '' THEN reason ELSE excluded.reason END
             WHERE enforced = 0 AND excluded.enforced = 1
             RETURNING at, reason, enforced",
        )
        .bind(self.id.as_str())
        .bind(self.event.tenant.as_str())
        .bind(self.event.at.unix_millis())
        .bind(&self.reason)
        .bind(self.is_enforced)
        .fetch_optional(tx.sql())
        .await?;
        let Some(row) = made else {
            return Err(Fault::Refused(StoreError::Exists { what: "block of", name: self.id.to_string() }));
        };
        let block = blocked(&row)?;
        tx.record(self.event);
        tx.touch(Topic::Blocks);
        Ok(block)
    }
}

struct Unblock {
    id: SpiffeId,
    event: Event,
}

#[async_trait]
impl Change for Unblock {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let gone =
            sqlx::query("DELETE FROM blocks WHERE id = ?").bind(self.id.as_str()).execute(tx.sql()).await?;
        if gone.rows_affected() == 0 {
            return Err(Fault::Refused(StoreError::NotFound { what: "block of", name: self.id.to_string() }));
        }
        tx.record(self.event);
        tx.touch(Topic::Blocks);
        Ok(())
    }
}

struct Evict {
    id: SpiffeId,
    event: Event,
}

#[async_trait]
impl Change for Evict {
    type Answer = Eviction;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Eviction, Fault<StoreError>> {
        let made = sqlx::query(
            "INSERT INTO evictions (id, generation, at)
             SELECT id, (SELECT coalesce(max(generation), 0) + 1 FROM evictions), ?
               FROM blocks WHERE id = ? AND enforced = 1
             ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, at = excluded.at
             RETURNING generation, at",
        )
        .bind(self.event.at.unix_millis())
        .bind(self.id.as_str())
        .fetch_optional(tx.sql())
        .await?;
        let Some(row) = made else {
            return Err(Fault::Refused(StoreError::NotFound { what: "block of", name: self.id.to_string() }));
        };
        let eviction = eviction(&row)?;
        tx.record(self.event);
        tx.touch(Topic::Blocks);
        Ok(eviction)
    }
}

fn blocked(row: &SqliteRow) -> Result<Blocked, sqlx::Error> {
    Ok(Blocked {
        since: time(row, "at")?,
        reason: row.try_get("reason")?,
        is_enforced: row.try_get("enforced")?,
    })
}

fn eviction(row: &SqliteRow) -> Result<Eviction, sqlx::Error> {
    Ok(Eviction { generation: unsigned(row, "generation")?, at: time(row, "at")? })
}

#[async_trait]
impl BlockStore for Store {
    async fn blocks(&self) -> Result<BlockList, StoreError> {
        let load = async {
            let mut connection = self.read().await?;
            let rows = sqlx::query("SELECT id, at, reason, enforced FROM blocks")
                .fetch_all(&mut *connection)
                .await?;
            let evicted =
                sqlx::query("SELECT id, generation, at FROM evictions").fetch_all(&mut *connection).await?;
            let evictions = evicted.iter().map(|row| Ok((parsed(row, "id")?, eviction(row)?)));
            let evictions = evictions.collect::<Result<Vec<_>, sqlx::Error>>()?;
            let entries = rows.iter().map(|row| Ok((parsed(row, "id")?, blocked(row)?)));
            let blocks = BlockList::new(entries.collect::<Result<Vec<_>, sqlx::Error>>()?);
            Ok(blocks.with_evictions(evictions))
        };
        load.await.map_err(|error: sqlx::Error| StoreError::unavailable(error.to_string()))
    }

    async fn block(
        &self,
        id: &SpiffeId,
        reason: &str,
        is_enforced: bool,
        event: Event,
    ) -> Result<Blocked, StoreError> {
        self.write(Block { id: id.clone(), reason: reason.to_owned(), is_enforced, event }).await
    }

    async fn evict(&self, id: &SpiffeId, event: Event) -> Result<Eviction, StoreError> {
        self.write(Evict { id: id.clone(), event }).await
    }

    async fn unblock(&self, id: &SpiffeId, event: Event) -> Result<(), StoreError> {
        self.write(Unblock { id: id.clone(), event }).await
    }
}
