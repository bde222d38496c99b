//! Issuers beside the built-in one that sign leaves of workloads, and what they were asked for.

use async_trait::async_trait;
use audit::Event;
use ca::ports::{
    DefaultIssuer, JournalError, LeafAnswer, LeafIssuer, LeafOutcome, LeafRequest, LeafStore, MAX_UNKNOWN,
    SignedLeaf, Source,
};
use certs::{SpkiHash, Timestamp};
use spiffe::IssuerName;
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    Store,
    rollback::refuse_while_found,
    row::{
        bytes32, chain_bytes, decode, from_json, from_word, json, number, optional_parsed, parsed, time,
        unsigned, word,
    },
    writer::{Change, Fault, Tx},
};

struct SetIssuers(Vec<LeafIssuer>, Vec<Event>);

#[async_trait]
impl Change for SetIssuers {
    type Answer = ();
    type Refusal = JournalError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self(all, events) = self;
        refuse_while_found(tx, JournalError::Unavailable)?;
        sqlx::query("DELETE FROM leaf_issuers").execute(tx.sql()).await?;
        for one in all {
            sqlx::query("INSERT INTO leaf_issuers (name, generation, state, since, is_hurried) VALUES (?, ?, ?, ?, ?)")
                .bind(one.source.name.as_str())
                .bind(one.source.generation)
                .bind(word(&one.state)?)
                .bind(one.since.unix_millis())
                .bind(one.is_hurried)
                .execute(tx.sql())
                .await?;
        }
        events.into_iter().for_each(|event| tx.record(event));
        Ok(())
    }
}

struct SetDefault(DefaultIssuer, Vec<Event>);

#[async_trait]
impl Change for SetDefault {
    type Answer = ();
    type Refusal = JournalError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self(next, events) = self;
        refuse_while_found(tx, JournalError::Unavailable)?;
        sqlx::query(
            "INSERT INTO default_issuer (only, value) VALUES (1, ?)
                 ON CONFLICT (only) DO UPDATE SET value = excluded.value",
        )
        .bind(json(&next)?)
        .execute(tx.sql())
        .await?;
        events.into_iter().for_each(|event| tx.record(event));
        Ok(())
    }
}

/// Why leaves of `name` may be in use, or are to be, if they may.
pub(crate) async fn use_of(tx: &mut Tx<'_>, name: &str) -> Result<Option<String>, sqlx::Error> {
    let found =
        sqlx::query("SELECT 1 FROM leaf_issuers WHERE name = ?").bind(name).fetch_optional(tx.sql()).await?;
    if found.is_some() {
        return Ok(Some("its root stands in the bundle of workloads".to_owned()));
    }
    let default = sqlx::query(DEFAULT).fetch_optional(tx.sql()).await?;
    if let Some(default) = default.as_ref().map(read_default).transpose()? {
        let to = default.migration.as_ref().map(|migration| migration.to.as_str());
        if default.current.as_str() == name || to == Some(name) {
            return Ok(Some("it signs the leaves of workloads, or is about to".to_owned()));
        }
    }
    let named = sqlx::query("SELECT node FROM bindings WHERE issuer = ? ORDER BY node LIMIT 1")
        .bind(name)
        .fetch_optional(tx.sql())
        .await?;
    let Some(row) = named else { return Ok(None) };
    Ok(Some(format!("the binding of node {} names it", row.try_get::<String, _>("node")?)))
}

const DEFAULT: &str = "SELECT value FROM default_issuer";

fn read_default(row: &SqliteRow) -> Result<DefaultIssuer, sqlx::Error> {
    from_json(row, "value")
}

struct RecordRequest(LeafRequest, Event);

#[async_trait]
impl Change for RecordRequest {
    type Answer = ();
    type Refusal = JournalError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self(request, event) = self;
        refuse_while_found(tx, JournalError::Unavailable)?;
        let written = sqlx::query(
            "INSERT INTO leaf_requests (tenant, issuer, role, authority, epoch, id, node, purpose, spki, not_after, at,
                                        request_id, state, reason)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'unknown', '') ON CONFLICT DO NOTHING",
        )
        .bind(request.tenant.as_str())
        .bind(request.issuer.as_str())
        .bind(&request.role)
        .bind(request.authority.to_string())
        .bind(number(request.epoch))
        .bind(request.id.as_str())
        .bind(request.node.as_ref().map(|node| node.as_str()))
        .bind(word(&request.purpose)?)
        .bind(request.spki.0.as_slice())
        .bind(request.not_after.unix_millis())
        .bind(request.at.unix_millis())
        .bind(json(&request.request_id)?)
        .execute(tx.sql())
        .await?;
        if written.rows_affected() == 0 {
            let why = format!("key {} was asked for before", request.spki);
            return Err(Fault::Refused(JournalError::Unavailable(why)));
        }
        tx.record(event);
        Ok(())
    }
}

struct RecordAnswer(LeafAnswer, Event);

#[async_trait]
impl Change for RecordAnswer {
    type Answer = ();
    type Refusal = JournalError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self(LeafAnswer { spki, outcome, at }, event) = self;
        let (state, reason) = match &outcome {
            LeafOutcome::Issued(_) => ("issued", ""),
            LeafOutcome::Failed(reason) => ("failed", reason.as_str()),
            LeafOutcome::Unknown(reason) => ("unknown", reason.as_str()),
        };
        let written = sqlx::query(
            "UPDATE leaf_requests SET state = ?, reason = ?, finished = ?
              WHERE spki = ? AND state = 'unknown' AND finished IS NULL",
        )
        .bind(state)
        .bind(reason)
        .bind(at.unix_millis())
        .bind(spki.0.as_slice())
        .execute(tx.sql())
        .await?;
        if written.rows_affected() == 0 {
            return Err(Fault::Refused(JournalError::NoRequest(spki)));
        }
        if let LeafOutcome::Issued(signed) = outcome {
            insert(tx, spki, signed, at).await?;
        }
        tx.record(event);
        Ok(())
    }
}

/// What was asked for becomes a certificate of the journal.
async fn insert(
    tx: &mut Tx<'_>,
    spki: SpkiHash,
    signed: SignedLeaf,
    at: Timestamp,
) -> Result<(), Fault<JournalError>> {
    let written = sqlx::query(
        "INSERT INTO certificates (tenant, authority, serial, epoch, tbs_sha256, id, profile, node, purpose, spki,
                                   not_before, not_after, at, request_id, state, reason, finished, chain)
         SELECT tenant, authority, ?, epoch, ?, id, 'workload', node, purpose, spki, ?, ?, at, request_id, 'issued', '',
                ?, ? FROM leaf_requests WHERE spki = ?
             ON CONFLICT DO NOTHING",
    )
    .bind(signed.serial.as_bytes())
    .bind(signed.tbs_sha256.as_slice())
    .bind(signed.not_before.unix_millis())
    .bind(signed.not_after.unix_millis())
    .bind(at.unix_millis())
    .bind(chain_bytes(signed.chain.iter().map(Vec::as_slice)))
    .bind(spki.0.as_slice())
    .execute(tx.sql())
    .await?;
    if written.rows_affected() == 0 {
        return Err(Fault::Refused(JournalError::SerialTaken(signed.serial)));
    }
    Ok(())
}

fn read(row: &SqliteRow) -> Result<LeafRequest, sqlx::Error> {
    Ok(LeafRequest {
        issuer: issuer(row, "issuer")?,
        role: row.try_get("role")?,
        authority: parsed(row, "authority")?,
        epoch: unsigned(row, "epoch")?,
        id: parsed(row, "id")?,
        tenant: parsed(row, "tenant")?,
        node: optional_parsed(row, "node")?,
        purpose: from_word(row, "purpose")?,
        spki: SpkiHash(bytes32(row, "spki")?),
        not_after: time(row, "not_after")?,
        at: time(row, "at")?,
        request_id: from_json(row, "request_id")?,
    })
}

fn issuer(row: &SqliteRow, column: &str) -> Result<IssuerName, sqlx::Error> {
    IssuerName::parse(row.try_get(column)?).map_err(|error| decode(column, error))
}

fn unavailable(error: sqlx::Error) -> JournalError {
    JournalError::Unavailable(error.to_string())
}

#[async_trait]
impl LeafStore for Store {
    async fn default_issuer(&self) -> Result<DefaultIssuer, JournalError> {
        let load = async {
            let row = sqlx::query(DEFAULT).fetch_optional(&mut *self.read().await?).await?;
            Ok(row.as_ref().map(read_default).transpose()?.unwrap_or_default())
        };
        load.await.map_err(unavailable)
    }

    async fn set_default_issuer(&self, next: DefaultIssuer, events: Vec<Event>) -> Result<(), JournalError> {
        self.write(SetDefault(next, events)).await
    }

    async fn leaf_issuers(&self) -> Result<Vec<LeafIssuer>, JournalError> {
        let load = async {
            let query = sqlx::query("SELECT * FROM leaf_issuers ORDER BY name, generation");
            let rows = query.fetch_all(&mut *self.read().await?).await?;
            let one = |row: &SqliteRow| {
                Ok(LeafIssuer {
                    source: Source { name: issuer(row, "name")?, generation: row.try_get("generation")? },
                    state: from_word(row, "state")?,
                    since: time(row, "since")?,
                    is_hurried: row.try_get("is_hurried")?,
                })
            };
            rows.iter().map(one).collect::<Result<Vec<_>, sqlx::Error>>()
        };
        load.await.map_err(unavailable)
    }

    async fn set_leaf_issuers(&self, all: Vec<LeafIssuer>, events: Vec<Event>) -> Result<(), JournalError> {
        self.write(SetIssuers(all, events)).await
    }

    async fn record_request(&self, request: LeafRequest, event: Event) -> Result<(), JournalError> {
        self.write(RecordRequest(request, event)).await
    }

    async fn record_answer(&self, answer: LeafAnswer, event: Event) -> Result<(), JournalError> {
        self.write(RecordAnswer(answer, event)).await
    }

    async fn unknown_leaves(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LeafRequest>, JournalError> {
        let load = async {
            let rows = sqlx::query(
                "SELECT * FROM leaf_requests WHERE state = 'unknown' AND issuer = ? AND at < ? AND not_after >= ?
                  ORDER BY sequence DESC LIMIT ?",
            )
            .bind(issuer.as_str())
            .bind(before.unix_millis())
            .bind(now.unix_millis())
            .bind(number(MAX_UNKNOWN as u64))
            .fetch_all(&mut *self.read().await?)
            .await?;
            rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()
        };
        load.await.map_err(unavailable)
    }
}
