//! The numbered steps that lead from an empty database to this version's.

use certs::Timestamp;
use sqlx::{Executor, SqliteConnection};

/// `PRAGMA application_id`: "CRED". Tells our databases from others.
pub(crate) const APPLICATION: i64 = 0x4352_4544;

/// The schema as a list of steps; a database of version n has seen the first n of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema(pub(crate) &'static [&'static str]);

/// Since this step each sealed record has its row in the audit log; those that were there before get theirs with it.
pub(crate) const SEALING: &str = include_str!("schema/0002_sealing.sql");

/// This version's.
pub(crate) const SCHEMA: Schema = Schema(&[
    include_str!("schema/0001_initial.sql"),
    SEALING,
    include_str!("schema/0003_enforced_blocks.sql"),
    include_str!("schema/0004_root_rotation.sql"),
    include_str!("schema/0005_pause.sql"),
    include_str!("schema/0006_stolen.sql"),
    include_str!("schema/0007_offline_root.sql"),
    include_str!("schema/0008_revocation.sql"),
    include_str!("schema/0009_evictions.sql"),
    include_str!("schema/0010_hooks.sql"),
    include_str!("schema/0011_recovery.sql"),
    include_str!("schema/0012_leaf_issuers.sql"),
    include_str!("schema/0013_issuer_of_binding.sql"),
    include_str!("schema/0014_forgotten_requests.sql"),
]);

impl Schema {
    pub(crate) fn version(self) -> u32 {
        u32::try_from(self.0.len()).expect("there are few steps")
    }

    /// Carries out the steps after `from`, all or none.
    pub(crate) async fn migrate(
        self,
        connection: &mut SqliteConnection,
        from: u32,
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        connection.execute("BEGIN IMMEDIATE").await?;
        for step in self.0.iter().skip(from as usize) {
            connection.execute(sqlx::raw_sql(*step)).await?;
            if *step == SEALING {
                crate::ledger::adopt(connection, now).await?;
            }
        }
        // A pragma takes no bound values; these are numbers of ours.
        let stamp =
            format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}", self.version());
        connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(stamp))).await?;
        connection.execute("COMMIT").await?;
        Ok(())
    }
}
