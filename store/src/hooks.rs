//! What hooks were told.

use api::ports::{HookStore, StoreError, Told};
use async_trait::async_trait;
use audit::Event;
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    Store,
    row::time,
    writer::{Change, Fault, Refusal, Tx},
};

struct Remember {
    told: Told,
    event: Event,
}

#[async_trait]
impl Change for Remember {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let Self { told, event } = self;
        sqlx::query("DELETE FROM told WHERE until <= ?")
            .bind(event.at.unix_millis())
            .execute(tx.sql())
            .await?;
        sqlx::query("INSERT OR REPLACE INTO told (hook, id, until) VALUES (?, ?, ?)")
            .bind(told.hook)
            .bind(told.id)
            .bind(told.until.unix_millis())
            .execute(tx.sql())
            .await?;
        tx.record(event);
        Ok(())
    }
}

#[async_trait]
impl HookStore for Store {
    async fn told(&self) -> Result<Vec<Told>, StoreError> {
        let load = async {
            let rows = sqlx::query("SELECT hook, id, until FROM told ORDER BY hook, id")
                .fetch_all(&mut *self.read().await?)
                .await?;
            let read = |row: &SqliteRow| {
                Ok(Told { hook: row.try_get("hook")?, id: row.try_get("id")?, until: time(row, "until")? })
            };
            rows.iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        load.await.map_err(|error: sqlx::Error| StoreError::unavailable(error.to_string()))
    }

    async fn remember_told(&self, told: Told, event: Event) -> Result<(), StoreError> {
        self.write(Remember { told, event }).await
    }
}
