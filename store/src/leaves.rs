//! Issuers beside the built-in one that sign leaves of workloads, and what they were asked for.

use std::{collections::HashSet, time::Duration};

use api::ports::StoreError;
use async_trait::async_trait;
use audit::Event;
use ca::ports::{
    DefaultIssuer, JournalError, LeafAnswer, LeafIssuer, LeafOutcome, LeafRequest, LeafStore, MAX_UNKNOWN,
    SignedLeaf, Source,
};
use certs::{SpkiHash, Timestamp};
use spiffe::IssuerName;
use sqlx::{Executor, Row, sqlite::SqliteRow};

use crate::{
    Store,
    issuers::exists,
    many::Many,
    rollback::refuse_while_found,
    row::{
        bytes32, chain_bytes, decode, from_json, from_word, json, number, optional_parsed, parsed, time,
        unsigned, word,
    },
    writer::{Change, Fault, Outcomes, Tx, refusal},
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
        let before = sqlx::query(DEFAULT).fetch_optional(tx.sql()).await?;
        let before = before.as_ref().map(read_default).transpose()?.unwrap_or_default();
        // Whoever is named already could not be removed since; who is named anew may be gone.
        for name in named_by(&next).filter(|name| !named_by(&before).any(|one| one == *name)) {
            if !exists(tx, name).await? {
                return Err(Fault::Refused(JournalError::NoIssuer(name.clone())));
            }
        }
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
    if let Some(default) = default.as_ref().map(read_default).transpose()?
        && named_by(&default).any(|one| one.as_str() == name)
    {
        return Ok(Some("it signs the leaves of workloads, or is about to".to_owned()));
    }
    let named = sqlx::query("SELECT node FROM bindings WHERE issuer = ? ORDER BY node LIMIT 1")
        .bind(name)
        .fetch_optional(tx.sql())
        .await?;
    let Some(row) = named else { return Ok(None) };
    Ok(Some(format!("the binding of node {} names it", row.try_get::<String, _>("node")?)))
}

/// Who signs leaves, and who is about to.
fn named_by(default: &DefaultIssuer) -> impl Iterator<Item = &IssuerName> {
    let to = default.migration.as_ref().map(|migration| &migration.to);
    [&default.current].into_iter().chain(to)
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

    fn is_one_statement(&self) -> bool {
        true
    }

    fn comes_in_numbers(&self) -> bool {
        true
    }

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self(request, event) = &self;
        refuse_while_found(tx, JournalError::Unavailable)?;
        if insert_requests(tx, &[request]).await?.is_empty() {
            return Err(Fault::Refused(asked_before(request)));
        }
        tx.record(event.clone());
        Ok(())
    }

    async fn carry_out_together(changes: &[Self], tx: &mut Tx<'_>) -> Result<Outcomes<Self>, sqlx::Error> {
        let requests: Vec<&LeafRequest> = changes.iter().map(|Self(request, _)| request).collect();
        // What is found is said to each of them apart.
        if !tx.live().findings().borrow().is_empty() || !are_distinct(requests.iter().map(|one| one.spki)) {
            return Ok(None);
        }
        let made = insert_requests(tx, &requests).await?;
        let outcome = |Self(request, event): &Self| match made.contains(&request.spki.0[..]) {
            true => {
                tx.record(event.clone());
                Ok(())
            }
            false => Err(asked_before(request)),
        };
        Ok(Some(changes.iter().map(outcome).collect()))
    }
}

fn asked_before(request: &LeafRequest) -> JournalError {
    JournalError::Unavailable(format!("key {} was asked for before", request.spki))
}

fn are_distinct(keys: impl ExactSizeIterator<Item = SpkiHash>) -> bool {
    let count = keys.len();
    keys.collect::<HashSet<_>>().len() == count
}

/// How long a request is remembered after its leaf has ended, however it was answered.
pub(crate) const REQUEST_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The most requests that one transaction forgets: others write in between.
const FORGOTTEN_AT_ONCE: u64 = 1_000;

/// By their end, which has an index.
pub(crate) const FORGET: &str = "DELETE FROM leaf_requests WHERE sequence IN (
    SELECT sequence FROM leaf_requests WHERE not_after < ? ORDER BY not_after LIMIT ?)";

/// Forgets the oldest of those whose leaves would have ended before then: nobody can show one any more.
struct Forget(Timestamp);

#[async_trait]
impl Change for Forget {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let gone = sqlx::query(FORGET)
            .bind(self.0.unix_millis())
            .bind(number(FORGOTTEN_AT_ONCE))
            .execute(tx.sql())
            .await?;
        Ok(gone.rows_affected())
    }
}

impl Store {
    /// Forgets what issuers were asked for whose leaves have ended a week before `now`, in one transaction; certificates
    /// that came of it stay in the journal. Answers whether there are more.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn forget_requests(&self, now: Timestamp) -> Result<bool, StoreError> {
        Ok(self.write(Forget(now - REQUEST_KEPT)).await? == FORGOTTEN_AT_ONCE)
    }
}

static INSERT_REQUESTS: Many = Many::new(
    "INSERT INTO leaf_requests (tenant, issuer, role, authority, epoch, id, node, purpose, spki, not_after, at, request_id,
                                state, reason)
     SELECT *, 'unknown', '' FROM ",
    12,
    " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING RETURNING spki",
);

/// Answers for which keys it was written: those that were not asked for before.
async fn insert_requests(
    tx: &mut Tx<'_>,
    requests: &[&LeafRequest],
) -> Result<HashSet<Vec<u8>>, sqlx::Error> {
    let mut query = sqlx::query(INSERT_REQUESTS.sql(requests.len()));
    for request in requests {
        query = query
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
            .bind(json(&request.request_id)?);
    }
    written(query.fetch_all(tx.sql()).await?)
}

/// The keys that a statement has written. They are not decoded, as in the journal.
fn written(rows: Vec<SqliteRow>) -> Result<HashSet<Vec<u8>>, sqlx::Error> {
    rows.iter().map(|row| row.try_get("spki")).collect()
}

struct RecordAnswer(LeafAnswer, Event);

impl RecordAnswer {
    /// What was signed, if something was.
    fn signed(&self) -> Option<&SignedLeaf> {
        match &self.0.outcome {
            LeafOutcome::Issued(signed) => Some(signed),
            LeafOutcome::Failed(_) | LeafOutcome::Unknown(_) => None,
        }
    }
}

#[async_trait]
impl Change for RecordAnswer {
    type Answer = ();
    type Refusal = JournalError;

    /// Two, where something was signed, with a savepoint of their own.
    fn is_one_statement(&self) -> bool {
        true
    }

    fn comes_in_numbers(&self) -> bool {
        true
    }

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        answer(tx, &[&self]).await?.remove(0).map_err(Fault::Refused)
    }

    async fn carry_out_together(changes: &[Self], tx: &mut Tx<'_>) -> Result<Outcomes<Self>, sqlx::Error> {
        if !are_distinct(changes.iter().map(|change| change.0.spki)) {
            return Ok(None);
        }
        answer(tx, &changes.iter().collect::<Vec<_>>()).await.map(Some)
    }
}

// Materialised, as in the journal.
pub(crate) static ANSWER: Many = Many::new(
    "WITH answer (spki, state, reason, finished) AS MATERIALIZED ",
    4,
    " UPDATE leaf_requests SET state = answer.state, reason = answer.reason, finished = answer.finished
        FROM answer
       WHERE leaf_requests.spki = answer.spki AND leaf_requests.state = 'unknown' AND leaf_requests.finished IS NULL
      RETURNING spki",
);

pub(crate) static INSERT_SIGNED: Many = Many::new(
    "INSERT INTO certificates (serial, tbs_sha256, not_before, not_after, finished, chain, tenant, authority, epoch, id,
                               profile, node, purpose, spki, at, request_id, state, reason)
     SELECT column2, column3, column4, column5, column6, column7, tenant, authority, epoch, id,
            'workload', node, purpose, spki, at, request_id, 'issued', '' FROM ",
    7,
    " CROSS JOIN leaf_requests ON spki = column1 AND state = 'unknown' AND finished IS NULL
      WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING RETURNING spki",
);

/// What of these was written: all or nothing, if the database fails in between.
async fn answer(
    tx: &mut Tx<'_>,
    changes: &[&RecordAnswer],
) -> Result<Vec<Result<(), JournalError>>, sqlx::Error> {
    let signs = changes.iter().any(|change| change.signed().is_some());
    if signs {
        tx.sql().execute("SAVEPOINT answer").await?;
    }
    let finished = finish(tx, changes).await;
    if signs {
        if finished.is_err() {
            tx.sql().execute("ROLLBACK TO answer").await?;
        }
        tx.sql().execute("RELEASE answer").await?;
    }
    let finished = finished?;
    let mut outcomes = Vec::with_capacity(changes.len());
    for change in changes {
        let RecordAnswer(LeafAnswer { spki, .. }, event) = change;
        outcomes.push(if finished.contains(&spki.0[..]) {
            tx.record(event.clone());
            Ok(())
        } else {
            Err(refusal(refused(tx, change).await)?)
        });
    }
    Ok(outcomes)
}

/// What was signed becomes a certificate of the journal first, which its serial number may stand in the way of; then
/// the requests have their answers. Answers whose have.
async fn finish(tx: &mut Tx<'_>, changes: &[&RecordAnswer]) -> Result<HashSet<Vec<u8>>, sqlx::Error> {
    let signed: Vec<_> = changes.iter().filter_map(|change| Some((&change.0, change.signed()?))).collect();
    let mut made = HashSet::new();
    if !signed.is_empty() {
        let mut query = sqlx::query(INSERT_SIGNED.sql(signed.len()));
        for (LeafAnswer { spki, at, .. }, signed) in signed {
            query = query
                .bind(spki.0.as_slice())
                .bind(signed.serial.as_bytes())
                .bind(signed.tbs_sha256.as_slice())
                .bind(signed.not_before.unix_millis())
                .bind(signed.not_after.unix_millis())
                .bind(at.unix_millis())
                .bind(chain_bytes(signed.chain.iter().map(Vec::as_slice)));
        }
        made = written(query.fetch_all(tx.sql()).await?)?;
    }
    let stands = |change: &&&RecordAnswer| change.signed().is_none() || made.contains(&change.0.spki.0[..]);
    let answered: Vec<_> = changes.iter().filter(stands).collect();
    if answered.is_empty() {
        return Ok(HashSet::new());
    }
    let mut query = sqlx::query(ANSWER.sql(answered.len()));
    for RecordAnswer(LeafAnswer { spki, outcome, at }, _) in answered {
        let (state, reason) = match outcome {
            LeafOutcome::Issued(_) => ("issued", ""),
            LeafOutcome::Failed(reason) => ("failed", reason.as_str()),
            LeafOutcome::Unknown(reason) => ("unknown", reason.as_str()),
        };
        query = query.bind(spki.0.as_slice()).bind(state).bind(reason).bind(at.unix_millis());
    }
    written(query.fetch_all(tx.sql()).await?)
}

/// Why an answer was not written.
async fn refused(tx: &mut Tx<'_>, change: &RecordAnswer) -> Fault<JournalError> {
    let spki = change.0.spki;
    let waits = "SELECT 1 FROM leaf_requests WHERE spki = ? AND state = 'unknown' AND finished IS NULL";
    let waits = sqlx::query(waits).bind(spki.0.as_slice()).fetch_optional(tx.sql()).await;
    match (waits, change.signed()) {
        (Err(error), _) => Fault::Database(error),
        (Ok(Some(_)), Some(signed)) => Fault::Refused(JournalError::SerialTaken(signed.serial.clone())),
        (Ok(_), _) => Fault::Refused(JournalError::NoRequest(spki)),
    }
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
