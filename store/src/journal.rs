//! The journal of issuances: an intent before each signature, its result after it.

use std::collections::HashSet;

use async_trait::async_trait;
use audit::Event;
use ca::ports::{
    CertificateFilter, CertificateRow, CertificateState, Intent, IssueOutcome, Issued, Journal, JournalError,
    Leaves, Remaining, ResultRecord, Unexpired,
};
use certs::{Profile, SpkiHash, Timestamp};
use spiffe::{AuthorityId, RequestId, Spend, TokenRefusal, TokenSpend};
use sqlx::{QueryBuilder, Row, Sqlite, sqlite::SqliteRow};

use crate::{
    Store,
    gathering::Part,
    many::Many,
    newest::NEWEST,
    recovery,
    rollback::refuse_while_found,
    row::{
        bytes32, chain_bytes, chain_of, decode, from_json, from_word, json, number, optional_parsed,
        optional_time, parsed, serial, time, unsigned, word,
    },
    writer::{Change, Fault, Outcomes, Refusal, Tx, refusal},
};

/// The most rows that one answer holds.
const PAGE: usize = 10_000;

impl Refusal for JournalError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }
}

struct RecordIntent {
    intent: Intent,
    spend: Option<Spend>,
    event: Event,
}

#[async_trait]
impl Change for RecordIntent {
    type Answer = ();
    type Refusal = JournalError;
    const PART: Part = Part::First;

    fn is_one_statement(&self) -> bool {
        self.spend.is_none()
    }

    fn comes_in_numbers(&self) -> bool {
        self.spend.is_none()
    }

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        let Self { intent, spend, event } = self;
        // Without a certificate of our own nobody could reach us to look.
        if intent.profile != Profile::Server {
            refuse_while_found(tx, JournalError::Unavailable)?;
        }
        let token = match spend {
            None => None,
            Some(spend) => {
                refuse_stolen(tx, intent.authority).await?;
                match spend {
                    Spend::Token(spend) => {
                        spend_token(tx, &spend, intent.at).await?;
                        Some(spend.token_id)
                    }
                    Spend::Recovery(spend) => {
                        recovery::spend(tx, &intent, &spend).await?;
                        None
                    }
                }
            }
        };
        if insert(tx, &[&intent], token.as_deref()).await?.is_empty() {
            refuse_stolen(tx, intent.authority).await?;
            return Err(Fault::Refused(JournalError::SerialTaken(intent.serial)));
        }
        tx.record(event);
        Ok(())
    }

    async fn carry_out_together(changes: &[Self], tx: &mut Tx<'_>) -> Result<Outcomes<Self>, sqlx::Error> {
        let intents: Vec<&Intent> = changes.iter().map(|change| &change.intent).collect();
        // What is found is said to each of them apart.
        if !tx.live().findings().borrow().is_empty() || !are_distinct(intents.iter().map(|one| key(one))) {
            return Ok(None);
        }
        let made = insert(tx, &intents, None).await?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for Self { intent, event, .. } in changes {
            outcomes.push(match made.contains(&key(intent)) {
                true => {
                    tx.record(event.clone());
                    Ok(())
                }
                false => Err(match refuse_stolen(tx, intent.authority).await {
                    Ok(()) => JournalError::SerialTaken(intent.serial.clone()),
                    Err(fault) => refusal(fault)?,
                }),
            });
        }
        Ok(Some(outcomes))
    }
}

/// A certificate, as the journal tells it from others: authority and serial number, as their columns hold them.
type Key = (String, Vec<u8>);

fn key(intent: &Intent) -> Key {
    (intent.authority.to_string(), intent.serial.as_bytes().to_vec())
}

fn are_distinct(keys: impl ExactSizeIterator<Item = Key>) -> bool {
    let count = keys.len();
    keys.collect::<HashSet<_>>().len() == count
}

/// What an authority signs counts as ours if the journal has it before the theft was said, and never afterwards: the
/// two are ordered here, where both are written.
async fn refuse_stolen(tx: &mut Tx<'_>, authority: AuthorityId) -> Result<(), Fault<JournalError>> {
    let stolen = sqlx::query("SELECT 1 FROM authorities WHERE id = ? AND stolen IS NOT NULL")
        .bind(authority.to_string())
        .fetch_optional(tx.sql())
        .await?;
    match stolen {
        Some(_) => Err(Fault::Refused(JournalError::Unavailable(format!(
            "the key of authority {authority} is believed to be stolen"
        )))),
        None => Ok(()),
    }
}

async fn spend_token(tx: &mut Tx<'_>, spend: &TokenSpend, at: Timestamp) -> Result<(), Fault<JournalError>> {
    judge(tx, spend, at).await?;
    sqlx::query("UPDATE tokens SET spent = coalesce(spent, ?), spent_spki = ? WHERE id = ?")
        .bind(at.unix_millis())
        .bind(spend.spki.0.as_slice())
        .bind(&spend.token_id)
        .execute(tx.sql())
        .await?;
    Ok(())
}

/// Whether the token may be spent for this key now.
async fn judge(tx: &mut Tx<'_>, spend: &TokenSpend, now: Timestamp) -> Result<(), Fault<JournalError>> {
    let refuse = |refusal: TokenRefusal| Err(Fault::Refused(refusal.into()));
    let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
        .bind(&spend.token_id)
        .fetch_optional(tx.sql())
        .await?;
    let Some(row) = row else { return refuse(TokenRefusal::Unknown) };
    if optional_time(&row, "revoked")?.is_some() {
        return refuse(TokenRefusal::Revoked);
    }
    if time(&row, "expires")? <= now {
        return refuse(TokenRefusal::Expired);
    }
    if optional_time(&row, "spent")?.is_none() {
        return Ok(());
    }
    if bytes32(&row, "spent_spki")? != spend.spki.0 {
        return refuse(TokenRefusal::Spent);
    }
    let issued = sqlx::query(
        "SELECT chain, authority, at FROM certificates WHERE token = ? AND state = 'issued'
          ORDER BY sequence DESC LIMIT 1",
    )
    .bind(&spend.token_id)
    .fetch_optional(tx.sql())
    .await?;
    match issued {
        None => Ok(()),
        Some(row) => Err(Fault::Refused(already_issued(&row)?)),
    }
}

/// The certificate of a row, as the answer to whoever asks again.
pub(crate) fn already_issued(row: &SqliteRow) -> Result<JournalError, sqlx::Error> {
    Ok(JournalError::AlreadyIssued {
        chain: chain_of(row, "chain")?,
        authority: parsed(row, "authority")?,
        issued: time(row, "at")?,
    })
}

static INSERT: Many = Many::new(
    "INSERT INTO certificates (tenant, authority, serial, epoch, tbs_sha256, id, profile, node, purpose, spki,
                               not_before, not_after, at, request_id, token, state, reason)
     SELECT *, 'unknown', '' FROM ",
    15,
    " WHERE column1 IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM authorities WHERE id = column2 AND stolen IS NOT NULL)
         ON CONFLICT DO NOTHING RETURNING authority, serial",
);

/// Answers which were written: the serial number was free, and the authority is not stolen.
async fn insert(
    tx: &mut Tx<'_>,
    intents: &[&Intent],
    token: Option<&str>,
) -> Result<HashSet<Key>, sqlx::Error> {
    let mut query = sqlx::query(INSERT.sql(intents.len()));
    for intent in intents {
        query = query
            .bind(intent.tenant.as_str())
            .bind(intent.authority.to_string())
            .bind(intent.serial.as_bytes())
            .bind(number(intent.epoch))
            .bind(intent.tbs_sha256.as_slice())
            .bind(intent.id.as_str())
            .bind(word(&intent.profile)?)
            .bind(intent.node.as_ref().map(|node| node.as_str()))
            .bind(word(&intent.purpose)?)
            .bind(intent.spki.0.as_slice())
            .bind(intent.not_before.unix_millis())
            .bind(intent.not_after.unix_millis())
            .bind(intent.at.unix_millis())
            .bind(json(&intent.request_id)?)
            .bind(token);
    }
    written(query.fetch_all(tx.sql()).await?)
}

/// The certificates whose rows a statement has written. They are not decoded: what was bound comes back, and these
/// columns hold nothing else than text and octets (STRICT).
fn written(rows: Vec<SqliteRow>) -> Result<HashSet<Key>, sqlx::Error> {
    rows.iter().map(|row| Ok((row.try_get("authority")?, row.try_get("serial")?))).collect()
}

struct RecordResult {
    result: ResultRecord,
    event: Event,
}

impl RecordResult {
    fn key(&self) -> Key {
        (self.result.authority.to_string(), self.result.serial.as_bytes().to_vec())
    }

    /// Why it was not written.
    async fn refused(&self, tx: &mut Tx<'_>) -> Fault<JournalError> {
        if matches!(self.result.outcome, IssueOutcome::Issued(_))
            && let Err(fault) = refuse_stolen(tx, self.result.authority).await
        {
            return fault;
        }
        Fault::Refused(JournalError::NoIntent(self.result.serial.clone()))
    }
}

#[async_trait]
impl Change for RecordResult {
    type Answer = ();
    type Refusal = JournalError;
    const PART: Part = Part::Last;

    fn is_one_statement(&self) -> bool {
        true
    }

    fn comes_in_numbers(&self) -> bool {
        true
    }

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<JournalError>> {
        if finish(tx, std::slice::from_ref(&self)).await?.is_empty() {
            return Err(self.refused(tx).await);
        }
        tx.record(self.event);
        Ok(())
    }

    async fn carry_out_together(changes: &[Self], tx: &mut Tx<'_>) -> Result<Outcomes<Self>, sqlx::Error> {
        if !are_distinct(changes.iter().map(Self::key)) {
            return Ok(None);
        }
        let finished = finish(tx, changes).await?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(match finished.contains(&change.key()) {
                true => {
                    tx.record(change.event.clone());
                    Ok(())
                }
                false => Err(refusal(change.refused(tx).await)?),
            });
        }
        Ok(Some(outcomes))
    }
}

// Materialised, so that the results are gone through and each is looked up: else SQLite goes through all certificates.
pub(crate) static FINISH: Many = Many::new(
    "WITH result (authority, serial, state, reason, chain, finished) AS MATERIALIZED ",
    6,
    " UPDATE certificates
         SET state = result.state, reason = result.reason, chain = result.chain, finished = result.finished
        FROM result
       WHERE certificates.authority = result.authority AND certificates.serial = result.serial
         AND certificates.state = 'unknown'
         AND (result.state <> 'issued' OR NOT EXISTS
              (SELECT 1 FROM authorities WHERE id = result.authority AND stolen IS NOT NULL))
      RETURNING authority, serial",
);

/// Answers which were written: their intents had no result yet, and no authority that issued is stolen.
async fn finish(tx: &mut Tx<'_>, results: &[RecordResult]) -> Result<HashSet<Key>, sqlx::Error> {
    let mut query = sqlx::query(FINISH.sql(results.len()));
    for RecordResult { result, .. } in results {
        let (state, reason, chain) = match &result.outcome {
            IssueOutcome::Issued(chain) => ("issued", "", Some(chain_bytes(chain.iter().map(Vec::as_slice)))),
            IssueOutcome::Failed(reason) => ("failed", reason.as_str(), None),
        };
        query = query
            .bind(result.authority.to_string())
            .bind(result.serial.as_bytes())
            .bind(state)
            .bind(reason)
            .bind(chain)
            .bind(result.at.unix_millis());
    }
    written(query.fetch_all(tx.sql()).await?)
}

fn read(row: &SqliteRow) -> Result<CertificateRow, sqlx::Error> {
    let state = match row.try_get::<&str, _>("state")? {
        "unknown" => CertificateState::Unknown,
        "issued" => CertificateState::Issued,
        "failed" => CertificateState::Failed(row.try_get("reason")?),
        other => return Err(decode("state", format!("unknown state {other}"))),
    };
    let request_id: RequestId = from_json(row, "request_id")?;
    let intent = Intent {
        serial: serial(row)?,
        authority: parsed(row, "authority")?,
        epoch: unsigned(row, "epoch")?,
        tbs_sha256: bytes32(row, "tbs_sha256")?,
        id: parsed(row, "id")?,
        profile: from_word(row, "profile")?,
        tenant: parsed(row, "tenant")?,
        node: optional_parsed(row, "node")?,
        purpose: from_word(row, "purpose")?,
        spki: SpkiHash(bytes32(row, "spki")?),
        not_before: time(row, "not_before")?,
        not_after: time(row, "not_after")?,
        at: time(row, "at")?,
        request_id,
    };
    Ok(CertificateRow {
        intent,
        state,
        finished: optional_time(row, "finished")?,
        revoked: optional_time(row, "revoked")?,
        chain: chain_of(row, "chain")?,
    })
}

/// Every authority of the journal, each found by one step through the index.
const AUTHORITIES: &str = "(WITH RECURSIVE known (authority) AS (
    SELECT min(authority) FROM certificates
    UNION ALL
    SELECT (SELECT min(authority) FROM certificates WHERE authority > known.authority) FROM known
     WHERE known.authority IS NOT NULL)
  SELECT authority FROM known WHERE authority IS NOT NULL)";

pub(crate) fn listing(filter: &CertificateFilter) -> Result<QueryBuilder<Sqlite>, sqlx::Error> {
    let mut query = QueryBuilder::new(
        "SELECT c.*, (SELECT r.at FROM revocations r WHERE r.authority = c.authority AND r.serial = c.serial) AS revoked
           FROM certificates c WHERE true",
    );
    // The index of serial numbers begins with the authority: each of the few is looked into, and not every certificate.
    if filter.serial.is_some() || filter.serial_start.is_some() {
        query.push(" AND c.authority IN ").push(AUTHORITIES);
    }
    if let Some(serial) = &filter.serial {
        query.push(" AND c.serial = ").push_bind(serial.as_bytes().to_vec());
    }
    if let Some(start) = &filter.serial_start {
        let (from, to) = start.range();
        query.push(" AND c.serial >= ").push_bind(from);
        if let Some(to) = to {
            query.push(" AND c.serial < ").push_bind(to);
        }
    }
    if let Some(id) = &filter.id {
        query.push(" AND c.id = ").push_bind(id.as_str().to_owned());
    }
    if let Some(node) = &filter.node {
        query.push(" AND c.node = ").push_bind(node.as_str().to_owned());
    }
    if let Some(profile) = &filter.profile {
        query.push(" AND c.profile = ").push_bind(word(profile)?);
    }
    if !filter.authorities.is_empty() {
        query.push(" AND c.authority IN (");
        let mut ids = query.separated(", ");
        for authority in &filter.authorities {
            ids.push_bind(authority.to_string());
        }
        query.push(")");
    }
    if let Some(at) = filter.valid_at {
        query.push(" AND c.not_after >= ").push_bind(at.unix_millis());
    }
    if filter.revoked_only {
        query.push(" AND (c.authority, c.serial) IN (SELECT authority, serial FROM revocations)");
    }
    if filter.newest_only {
        query.push(" AND ").push(NEWEST);
    }
    let limit = if filter.limit == 0 { PAGE } else { filter.limit.min(PAGE) };
    query.push(" ORDER BY c.sequence DESC LIMIT ").push_bind(number(limit as u64));
    query.push(" OFFSET ").push_bind(number(filter.offset as u64));
    Ok(query)
}

/// Restricts a query to what `authorities` signed and has not expired at `now`.
fn by_authorities(query: &mut QueryBuilder<Sqlite>, authorities: &[AuthorityId], now: Timestamp) {
    query.push(" WHERE authority IN (");
    let mut ids = query.separated(", ");
    for id in authorities {
        ids.push_bind(id.to_string());
    }
    ids.push_unseparated(") AND not_after >= ");
    query.push_bind(now.unix_millis());
}

impl Store {
    async fn leaves(&self, authority: AuthorityId, now: Timestamp) -> Result<Leaves, sqlx::Error> {
        let row = sqlx::query(
            "SELECT count(*) AS count, max(not_after) AS last FROM (
                SELECT not_after FROM certificates WHERE authority = ?1 AND not_after >= ?2 AND state <> 'failed'
                UNION ALL
                SELECT not_after FROM leaf_requests WHERE authority = ?1 AND not_after >= ?2 AND state = 'unknown')",
        )
        .bind(authority.to_string())
        .bind(now.unix_millis())
        .fetch_one(&mut *self.read().await?)
        .await?;
        Ok(Leaves { count: unsigned(&row, "count")?, last: optional_time(&row, "last")? })
    }

    async fn list_unexpired(
        &self,
        authorities: &[AuthorityId],
        now: Timestamp,
    ) -> Result<Vec<Unexpired>, sqlx::Error> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, node, profile, authority, max(not_after) AS not_after FROM certificates",
        );
        by_authorities(&mut query, authorities, now);
        query.push(" AND state <> 'failed' GROUP BY id, node, authority");
        let rows = query.build().fetch_all(&mut *self.read().await?).await?;
        rows.iter()
            .map(|row| {
                Ok(Unexpired {
                    id: parsed(row, "id")?,
                    node: optional_parsed(row, "node")?,
                    profile: from_word(row, "profile")?,
                    authority: parsed(row, "authority")?,
                    not_after: time(row, "not_after")?,
                })
            })
            .collect()
    }

    async fn list_issued(
        &self,
        authorities: &[AuthorityId],
        now: Timestamp,
    ) -> Result<Vec<Issued>, sqlx::Error> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT serial, tbs_sha256 FROM certificates");
        by_authorities(&mut query, authorities, now);
        query.push(" AND state = 'issued'");
        let rows = query.build().fetch_all(&mut *self.read().await?).await?;
        rows.iter()
            .map(|row| Ok(Issued { serial: serial(row)?, tbs_sha256: bytes32(row, "tbs_sha256")? }))
            .collect()
    }

    async fn list_certificates(
        &self,
        filter: &CertificateFilter,
    ) -> Result<Vec<CertificateRow>, sqlx::Error> {
        let rows = listing(filter)?.build().fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(read).collect()
    }
}

fn unavailable(error: sqlx::Error) -> JournalError {
    JournalError::Unavailable(error.to_string())
}

#[async_trait]
impl Journal for Store {
    async fn record_intent(
        &self,
        intent: Intent,
        spend: Option<Spend>,
        event: Event,
    ) -> Result<(), JournalError> {
        self.write(RecordIntent { intent, spend, event }).await
    }

    async fn record_result(&self, result: ResultRecord, event: Event) -> Result<(), JournalError> {
        self.write(RecordResult { result, event }).await
    }

    async fn unexpired_leaves(&self, authority: AuthorityId, now: Timestamp) -> Result<Leaves, JournalError> {
        self.leaves(authority, now).await.map_err(unavailable)
    }

    async fn unexpired(
        &self,
        authorities: &[AuthorityId],
        now: Timestamp,
    ) -> Result<Vec<Unexpired>, JournalError> {
        self.list_unexpired(authorities, now).await.map_err(unavailable)
    }

    async fn issued(&self, authorities: &[AuthorityId], now: Timestamp) -> Result<Vec<Issued>, JournalError> {
        self.list_issued(authorities, now).await.map_err(unavailable)
    }

    async fn certificates(&self, filter: &CertificateFilter) -> Result<Vec<CertificateRow>, JournalError> {
        self.list_certificates(filter).await.map_err(unavailable)
    }

    async fn remaining(&self, now: Timestamp) -> Result<Vec<Remaining>, JournalError> {
        self.list_remaining(now).await.map_err(unavailable)
    }
}
