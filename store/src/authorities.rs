//! Authorities, and their keys sealed in a table apart.

use async_trait::async_trait;
use audit::{Actor, Event};
use ca::ports::{
    Authorities, AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState, Taint, Transition,
};
use certs::{Certificate, SecretKey, Timestamp};
use spiffe::AuthorityId;
use sqlx::{Row, sqlite::SqliteRow};

mod brought;

use crate::{
    Store,
    keyring::{Class, RowName},
    rollback::refuse_while_found,
    row::{
        chain_bytes, chain_of, decode, from_word, optional_parsed, optional_time, parsed, time, unsigned,
        word,
    },
    sealed::{Cause, Content},
    writer::{Change, Fault, Refusal, Tx},
};

/// Authorities serve the whole deployment.
const TENANT: &str = "default";

/// Where the key of an authority stands, from its request on.
fn key_row(id: &str) -> RowName<'_> {
    RowName { tenant: TENANT, kind: "authority-key", id, version: 1 }
}

impl Refusal for AuthorityError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }
}

struct Insert {
    authorities: Vec<(AuthorityRecord, SecretKey)>,
    events: Vec<Event>,
}

#[async_trait]
impl Change for Insert {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        refuse_while_found(tx, AuthorityError::Unavailable)?;
        for (record, key) in &self.authorities {
            if !insert(tx, record).await? {
                return Err(Fault::Refused(AuthorityError::Exists(record.id)));
            }
            let id = record.id.to_string();
            let cause =
                self.events.first().map_or(Cause { at: record.created, actor: Actor::System }, Cause::from);
            tx.put_sealed(Class::Ca, key_row(&id), Content::Key(key), &cause).await?;
            if record.state == AuthorityState::Active {
                check_one_active(tx, record.id).await?;
            }
        }
        for event in self.events {
            tx.record(event);
        }
        Ok(())
    }
}

async fn insert(tx: &mut Tx<'_>, record: &AuthorityRecord) -> Result<bool, sqlx::Error> {
    let made = sqlx::query(
        "INSERT INTO authorities (id, tenant, place, state, certificate, parent, created, activated, retired, removed,
                                  automatic, tainted, stolen, cross_certificate, offline, between_chain, arrivals)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(record.id.to_string())
    .bind(TENANT)
    .bind(word(&record.place)?)
    .bind(word(&record.state)?)
    .bind(record.certificate.der())
    .bind(record.parent.map(|parent| parent.to_string()))
    .bind(record.created.unix_millis())
    .bind(record.activated.map(Timestamp::unix_millis))
    .bind(record.retired.map(Timestamp::unix_millis))
    .bind(record.removed.map(Timestamp::unix_millis))
    .bind(record.automatic)
    .bind(record.tainted.map(Timestamp::unix_millis))
    .bind(record.stolen.map(Timestamp::unix_millis))
    .bind(record.cross.as_ref().map(Certificate::der))
    .bind(record.offline.map(Timestamp::unix_millis))
    .bind(between(record))
    .bind(record.arrivals)
    .execute(tx.sql())
    .await?;
    Ok(made.rows_affected() == 1)
}

fn between(record: &AuthorityRecord) -> Option<Vec<u8>> {
    (!record.between.is_empty()).then(|| chain_bytes(record.between.iter().map(Certificate::der)))
}

struct Step {
    transitions: Vec<Transition>,
    events: Vec<Event>,
}

#[async_trait]
impl Change for Step {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        for step in &self.transitions {
            carry_out(tx, step).await?;
        }
        for step in self.transitions.iter().filter(|step| step.to == AuthorityState::Active) {
            check_one_active(tx, step.id).await?;
        }
        for event in self.events {
            tx.record(event);
        }
        Ok(())
    }
}

async fn carry_out(tx: &mut Tx<'_>, step: &Transition) -> Result<(), Fault<AuthorityError>> {
    let id = step.id.to_string();
    let row =
        sqlx::query("SELECT state FROM authorities WHERE id = ?").bind(&id).fetch_optional(tx.sql()).await?;
    let Some(row) = row else { return Err(Fault::Refused(AuthorityError::NotFound(step.id))) };
    if from_word::<AuthorityState>(&row, "state")? != step.from || !step.from.may_become(step.to) {
        return Err(Fault::Refused(AuthorityError::Conflict(step.id)));
    }
    let update = match step.to {
        AuthorityState::Prepared => return Err(Fault::Refused(AuthorityError::Conflict(step.id))),
        AuthorityState::Active => {
            "UPDATE authorities SET state = ?, activated = ?, retired = NULL WHERE id = ?"
        }
        AuthorityState::Retired => "UPDATE authorities SET state = ?, retired = ? WHERE id = ?",
        AuthorityState::Removed => "UPDATE authorities SET state = ?, removed = ? WHERE id = ?",
    };
    sqlx::query(update).bind(word(&step.to)?).bind(step.at.unix_millis()).bind(&id).execute(tx.sql()).await?;
    if step.to == AuthorityState::Removed {
        let cause = Cause { at: step.at, actor: Actor::System };
        tx.destroy_sealed(Class::Ca, key_row(&id), &cause).await?;
    }
    Ok(())
}

async fn check_one_active(tx: &mut Tx<'_>, id: AuthorityId) -> Result<(), Fault<AuthorityError>> {
    let row = sqlx::query(
        "SELECT count(*) AS count FROM authorities
          WHERE state = 'active' AND place = (SELECT place FROM authorities WHERE id = ?)",
    )
    .bind(id.to_string())
    .fetch_one(tx.sql())
    .await?;
    match row.try_get::<i64, _>("count")? {
        ..=1 => Ok(()),
        _ => Err(Fault::Refused(AuthorityError::Conflict(id))),
    }
}

fn read(row: &SqliteRow) -> Result<AuthorityRecord, sqlx::Error> {
    let der: &[u8] = row.try_get("certificate")?;
    Ok(AuthorityRecord {
        id: parsed(row, "id")?,
        place: from_word(row, "place")?,
        state: from_word(row, "state")?,
        certificate: Certificate::from_der(der).map_err(|error| decode("certificate", error))?,
        parent: optional_parsed(row, "parent")?,
        created: time(row, "created")?,
        activated: optional_time(row, "activated")?,
        retired: optional_time(row, "retired")?,
        removed: optional_time(row, "removed")?,
        automatic: row.try_get("automatic")?,
        tainted: optional_time(row, "tainted")?,
        stolen: optional_time(row, "stolen")?,
        cross: row
            .try_get::<Option<&[u8]>, _>("cross_certificate")?
            .map(|der| Certificate::from_der(der).map_err(|error| decode("cross_certificate", error)))
            .transpose()?,
        offline: optional_time(row, "offline")?,
        between: chain_of(row, "between_chain")?
            .iter()
            .map(|der| Certificate::from_der(der).map_err(|error| decode("between_chain", error)))
            .collect::<Result<_, _>>()?,
        arrivals: u32::try_from(unsigned(row, "arrivals")?).map_err(|error| decode("arrivals", error))?,
    })
}

struct Mark {
    authorities: Vec<AuthorityId>,
    why: Taint,
    at: Timestamp,
    events: Vec<Event>,
}

#[async_trait]
impl Change for Mark {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        let stolen = (self.why == Taint::Stolen).then(|| self.at.unix_millis());
        let update = "UPDATE authorities SET tainted = coalesce(tainted, ?), stolen = coalesce(stolen, ?) WHERE id = ?";
        for id in self.authorities {
            let marked = sqlx::query(update)
                .bind(self.at.unix_millis())
                .bind(stolen)
                .bind(id.to_string())
                .execute(tx.sql())
                .await?;
            if marked.rows_affected() == 0 {
                return Err(Fault::Refused(AuthorityError::NotFound(id)));
            }
        }
        for event in self.events {
            tx.record(event);
        }
        Ok(())
    }
}

impl Store {
    async fn load_authorities(&self) -> Result<Vec<AuthorityRecord>, sqlx::Error> {
        let rows = sqlx::query("SELECT * FROM authorities ORDER BY sequence")
            .fetch_all(&mut *self.read().await?)
            .await?;
        rows.iter().map(read).collect()
    }
}

fn unavailable(error: sqlx::Error) -> AuthorityError {
    AuthorityError::Unavailable(error.to_string())
}

#[async_trait]
impl Authorities for Store {
    async fn load(&self) -> Result<Vec<AuthorityRecord>, AuthorityError> {
        self.load_authorities().await.map_err(unavailable)
    }

    async fn insert(
        &self,
        authorities: Vec<(AuthorityRecord, SecretKey)>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        self.write(Insert { authorities, events }).await
    }

    async fn transition(
        &self,
        transitions: Vec<Transition>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        self.write(Step { transitions, events }).await
    }

    async fn taint(
        &self,
        authorities: Vec<AuthorityId>,
        why: Taint,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        self.write(Mark { authorities, why, at, events }).await
    }

    async fn load_key(&self, id: AuthorityId) -> Result<SecretKey, AuthorityError> {
        let name = id.to_string();
        let opened = self.open_sealed(Class::Ca, key_row(&name), |keyring, row, record| {
            keyring.open_secret_key(Class::Ca, row, record)
        });
        match opened.await {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Err(AuthorityError::NotFound(id)),
            Err(error) => Err(AuthorityError::Unavailable(format!("key of authority {id}: {error}"))),
        }
    }

    async fn request(&self) -> Result<Option<AuthorityRequest>, AuthorityError> {
        self.load_request().await.map_err(unavailable)
    }

    async fn put_request(
        &self,
        request: AuthorityRequest,
        key: SecretKey,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        self.write(brought::Put { request, key, events }).await
    }

    async fn drop_request(&self, id: AuthorityId, events: Vec<Event>) -> Result<(), AuthorityError> {
        self.write(brought::Drop { id, events }).await
    }

    async fn give_up_key(
        &self,
        id: AuthorityId,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        self.write(brought::GiveUp { id, at, events }).await
    }

    async fn install(
        &self,
        issuing: AuthorityRecord,
        root: Option<AuthorityRecord>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        self.write(brought::Install { issuing, root, events }).await
    }
}
