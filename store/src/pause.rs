//! The pause of automatic rotation, if there is one.

use api::ports::{PauseStore, StoreError};
use async_trait::async_trait;
use audit::Event;
use ca::Pause;
use sqlx::Row;

use crate::{
    Store,
    row::time,
    writer::{Change, Fault, Refusal, Tx},
};

struct SetPause {
    pause: Option<Pause>,
    event: Event,
}

#[async_trait]
impl Change for SetPause {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        sqlx::query("DELETE FROM pause").execute(tx.sql()).await?;
        if let Some(pause) = self.pause {
            sqlx::query("INSERT INTO pause (one, reason, by, since, until) VALUES (1, ?, ?, ?, ?)")
                .bind(pause.reason)
                .bind(pause.by)
                .bind(pause.since.unix_millis())
                .bind(pause.until.unix_millis())
                .execute(tx.sql())
                .await?;
        }
        tx.record(self.event);
        Ok(())
    }
}

#[async_trait]
impl PauseStore for Store {
    async fn pause(&self) -> Result<Option<Pause>, StoreError> {
        let load = async {
            let query = sqlx::query("SELECT reason, by, since, until FROM pause");
            let row = query.fetch_optional(&mut *self.read().await?).await?;
            let read = |row: sqlx::sqlite::SqliteRow| {
                Ok(Pause {
                    reason: row.try_get("reason")?,
                    by: row.try_get("by")?,
                    since: time(&row, "since")?,
                    until: time(&row, "until")?,
                })
            };
            row.map(read).transpose()
        };
        load.await.map_err(|error: sqlx::Error| StoreError::unavailable(error.to_string()))
    }

    async fn set_pause(&self, pause: Option<Pause>, event: Event) -> Result<(), StoreError> {
        self.write(SetPause { pause, event }).await
    }
}
