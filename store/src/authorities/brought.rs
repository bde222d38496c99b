//! Requests for authorities that somebody else signs, and what comes back.

use async_trait::async_trait;
use audit::{Actor, Event};
use ca::ports::{AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState};
use certs::{Certificate, SecretKey, Timestamp};
use spiffe::AuthorityId;
use sqlx::{Row, SqliteConnection};

use super::{TENANT, between, check_one_active, insert, key_row};
use crate::{
    Store,
    keyring::Class,
    rollback::refuse_while_found,
    row::{parsed, time, word},
    sealed::{Cause, Content},
    writer::{Change, Fault, Tx},
};

/// Makes a request, in place of another.
pub(super) struct Put {
    pub(super) request: AuthorityRequest,
    pub(super) key: SecretKey,
    pub(super) events: Vec<Event>,
}

/// Drops a request, with its key.
pub(super) struct Drop {
    pub(super) id: AuthorityId,
    pub(super) events: Vec<Event>,
}

/// Takes what was signed for a request.
pub(super) struct Install {
    pub(super) issuing: AuthorityRecord,
    pub(super) root: Option<AuthorityRecord>,
    pub(super) events: Vec<Event>,
}

/// Destroys the key of a root that is kept elsewhere.
pub(super) struct GiveUp {
    pub(super) id: AuthorityId,
    pub(super) at: Timestamp,
    pub(super) events: Vec<Event>,
}

#[async_trait]
impl Change for GiveUp {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        refuse_while_found(tx, AuthorityError::Unavailable)?;
        let id = self.id.to_string();
        let marked = sqlx::query("UPDATE authorities SET offline = ? WHERE id = ? AND place = 'root'")
            .bind(self.at.unix_millis())
            .bind(&id)
            .execute(tx.sql())
            .await?;
        let cause = cause(&self.events, self.at);
        let is_destroyed =
            marked.rows_affected() == 1 && tx.destroy_sealed(Class::Ca, key_row(&id), &cause).await?;
        if !is_destroyed {
            return Err(Fault::Refused(AuthorityError::NotFound(self.id)));
        }
        record(tx, self.events).await
    }
}

async fn find(connection: &mut SqliteConnection) -> Result<Option<AuthorityRequest>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM authority_request").fetch_optional(connection).await?;
    row.map(|row| {
        Ok(AuthorityRequest {
            id: parsed(&row, "id")?,
            csr: row.try_get("csr")?,
            created: time(&row, "created")?,
            by: row.try_get("by")?,
        })
    })
    .transpose()
}

fn cause(events: &[Event], at: Timestamp) -> Cause {
    events.first().map_or(Cause { at, actor: Actor::System }, Cause::from)
}

/// Takes the pending request away, which must be `id` if one is named; its key stays.
async fn end(tx: &mut Tx<'_>, id: AuthorityId) -> Result<(), Fault<AuthorityError>> {
    let ended = sqlx::query("DELETE FROM authority_request WHERE id = ?")
        .bind(id.to_string())
        .execute(tx.sql())
        .await?;
    if ended.rows_affected() == 0 { Err(Fault::Refused(AuthorityError::NoRequest)) } else { Ok(()) }
}

#[async_trait]
impl Change for Put {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        refuse_while_found(tx, AuthorityError::Unavailable)?;
        let cause = cause(&self.events, self.request.created);
        if let Some(before) = find(tx.sql()).await? {
            end(tx, before.id).await?;
            tx.destroy_sealed(Class::Ca, key_row(&before.id.to_string()), &cause).await?;
        }
        let id = self.request.id.to_string();
        sqlx::query(
            "INSERT INTO authority_request (one, id, tenant, csr, created, by) VALUES (1, ?, ?, ?, ?, ?)",
        )
        .bind(&id)
        .bind(TENANT)
        .bind(&self.request.csr)
        .bind(self.request.created.unix_millis())
        .bind(&self.request.by)
        .execute(tx.sql())
        .await?;
        tx.put_sealed(Class::Ca, key_row(&id), Content::Key(&self.key), &cause).await?;
        record(tx, self.events).await
    }
}

#[async_trait]
impl Change for Drop {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        end(tx, self.id).await?;
        let cause = cause(&self.events, Timestamp::EPOCH);
        tx.destroy_sealed(Class::Ca, key_row(&self.id.to_string()), &cause).await?;
        record(tx, self.events).await
    }
}

#[async_trait]
impl Change for Install {
    type Answer = ();
    type Refusal = AuthorityError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<AuthorityError>> {
        refuse_while_found(tx, AuthorityError::Unavailable)?;
        end(tx, self.issuing.id).await?;
        if let Some(root) = &self.root
            && !(insert(tx, root).await? || bring_back(tx, root).await?)
        {
            return Err(Fault::Refused(AuthorityError::Exists(root.id)));
        }
        if !insert(tx, &self.issuing).await? {
            return Err(Fault::Refused(AuthorityError::Exists(self.issuing.id)));
        }
        for record in self.root.iter().chain([&self.issuing]) {
            if record.state == AuthorityState::Active {
                check_one_active(tx, record.id).await?;
            }
        }
        record(tx, self.events).await
    }
}

/// A root that was removed, and not because its key was stolen, enters again.
async fn bring_back(tx: &mut Tx<'_>, root: &AuthorityRecord) -> Result<bool, sqlx::Error> {
    let made = sqlx::query(
        "UPDATE authorities SET state = ?, certificate = ?, created = ?, activated = NULL, retired = NULL,
                                removed = NULL, automatic = ?, cross_certificate = ?, offline = ?,
                                between_chain = ?, arrivals = arrivals + 1
          WHERE id = ? AND state = 'removed' AND tainted IS NULL",
    )
    .bind(word(&root.state)?)
    .bind(root.certificate.der())
    .bind(root.created.unix_millis())
    .bind(root.automatic)
    .bind(root.cross.as_ref().map(Certificate::der))
    .bind(root.offline.map(Timestamp::unix_millis))
    .bind(between(root))
    .bind(root.id.to_string())
    .execute(tx.sql())
    .await?;
    Ok(made.rows_affected() == 1)
}

async fn record(tx: &mut Tx<'_>, events: Vec<Event>) -> Result<(), Fault<AuthorityError>> {
    for event in events {
        tx.record(event);
    }
    Ok(())
}

impl Store {
    pub(super) async fn load_request(&self) -> Result<Option<AuthorityRequest>, sqlx::Error> {
        find(&mut *self.read().await?).await
    }
}
