//! Bindings of nodes and the join tokens that enrol them.

use std::time::Duration;

use api::ports::{NodeStore, StoreError, StoredToken};
use async_trait::async_trait;
use audit::Event;
use certs::{SpkiHash, Timestamp};
use spiffe::{Binding, IssuerName, NodeId, Tenant};
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    Store, Topic,
    issuers::must_exist,
    keyring::{Class, RowName},
    row::{bytes32, decode, from_json, from_word, json, optional_time, parsed, time, unsigned, word},
    sealed::SealedError,
    writer::{Change, Fault, Refusal, Tx},
};

/// Where the key of the tokens' HMAC is kept.
pub(crate) const TOKEN_KEY: RowName<'static> =
    RowName { tenant: "default", kind: "token-key", id: "join", version: 1 };
/// How many wrong secrets burn a token.
const FAILURES: u64 = 5;
/// How long a token is kept past its end.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

struct Enroll {
    binding: Binding,
    token: StoredToken,
    replace: bool,
    event: Event,
}

#[async_trait]
impl Change for Enroll {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let Self { mut binding, token, replace, event } = self;
        if replace && binding.issuer.is_none() {
            // Whoever was named since the call was read stays.
            let before = sqlx::query("SELECT issuer FROM bindings WHERE node = ? AND tenant = ?")
                .bind(binding.node.as_str())
                .bind(binding.tenant.as_str())
                .fetch_optional(tx.sql())
                .await?;
            binding.issuer = before.as_ref().map(issuer).transpose()?.flatten();
        }
        must_exist(tx, binding.issuer.as_ref()).await?;
        if replace {
            drop_binding(tx, &binding.node, Some(&binding.tenant), event.at).await?;
        }
        let made = sqlx::query(
            "INSERT INTO bindings (node, tenant, namespace, labels, identities, issuer, state, created)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(binding.node.as_str())
        .bind(binding.tenant.as_str())
        .bind(binding.namespace.as_str())
        .bind(json(&binding.labels)?)
        .bind(json(&binding.identities)?)
        .bind(binding.issuer.as_ref().map(IssuerName::as_str))
        .bind(word(&binding.state)?)
        .bind(binding.created.unix_millis())
        .execute(tx.sql())
        .await?;
        if made.rows_affected() == 0 {
            return Err(Fault::Refused(StoreError::Exists { what: "node", name: binding.node.to_string() }));
        }
        insert_token(tx, &token).await?;
        sqlx::query("DELETE FROM tokens WHERE expires < ?")
            .bind((event.at - KEPT).unix_millis())
            .execute(tx.sql())
            .await?;
        tx.record(event);
        tx.touch(Topic::Bindings);
        Ok(())
    }
}

/// Answers whether there was one; that of another tenant than `only` stays.
async fn drop_binding(
    tx: &mut Tx<'_>,
    node: &NodeId,
    only: Option<&Tenant>,
    at: Timestamp,
) -> Result<bool, sqlx::Error> {
    let only = only.map(Tenant::as_str);
    let gone = sqlx::query("DELETE FROM bindings WHERE node = ?1 AND tenant = coalesce(?2, tenant)")
        .bind(node.as_str())
        .bind(only)
        .execute(tx.sql())
        .await?;
    sqlx::query(
        "UPDATE tokens SET revoked = ?1
          WHERE node = ?2 AND tenant = coalesce(?3, tenant) AND spent IS NULL AND revoked IS NULL",
    )
    .bind(at.unix_millis())
    .bind(node.as_str())
    .bind(only)
    .execute(tx.sql())
    .await?;
    Ok(gone.rows_affected() > 0)
}

async fn insert_token(tx: &mut Tx<'_>, token: &StoredToken) -> Result<(), Fault<StoreError>> {
    let made = sqlx::query(
        "INSERT INTO tokens (id, tenant, mac, node, author, created, expires, spent, spent_spki, revoked, failures)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(&token.id)
    .bind(token.tenant.as_str())
    .bind(token.mac.as_slice())
    .bind(token.node.as_str())
    .bind(&token.author)
    .bind(token.created.unix_millis())
    .bind(token.expires.unix_millis())
    .bind(token.spent.map(|(at, _)| at.unix_millis()))
    .bind(token.spent.as_ref().map(|(_, spki)| spki.0.as_slice()))
    .bind(token.revoked.map(Timestamp::unix_millis))
    .bind(token.failures)
    .execute(tx.sql())
    .await?;
    if made.rows_affected() == 0 {
        return Err(Fault::Refused(StoreError::Exists { what: "token", name: token.id.clone() }));
    }
    Ok(())
}

struct Remove {
    node: NodeId,
    event: Event,
}

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        if !drop_binding(tx, &self.node, None, self.event.at).await? {
            return Err(Fault::Refused(StoreError::NotFound { what: "node", name: self.node.to_string() }));
        }
        tx.record(self.event);
        tx.touch(Topic::Bindings);
        Ok(())
    }
}

struct SetIssuer {
    node: NodeId,
    issuer: Option<IssuerName>,
    event: Event,
}

#[async_trait]
impl Change for SetIssuer {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let Self { node, issuer, event } = self;
        must_exist(tx, issuer.as_ref()).await?;
        let changed = sqlx::query("UPDATE bindings SET issuer = ? WHERE node = ?")
            .bind(issuer.as_ref().map(IssuerName::as_str))
            .bind(node.as_str())
            .execute(tx.sql())
            .await?;
        if changed.rows_affected() == 0 {
            return Err(Fault::Refused(StoreError::NotFound { what: "node", name: node.to_string() }));
        }
        tx.record(event);
        tx.touch(Topic::Bindings);
        Ok(())
    }
}

struct RevokeToken {
    id: String,
    event: Event,
}

#[async_trait]
impl Change for RevokeToken {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let revoked = sqlx::query("UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE id = ?")
            .bind(self.event.at.unix_millis())
            .bind(&self.id)
            .execute(tx.sql())
            .await?;
        if revoked.rows_affected() == 0 {
            return Err(Fault::Refused(StoreError::NotFound { what: "token", name: self.id }));
        }
        tx.record(self.event);
        Ok(())
    }
}

struct TokenFailure {
    id: String,
    burned: Event,
}

#[async_trait]
impl Change for TokenFailure {
    type Answer = u32;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u32, Fault<StoreError>> {
        let row =
            sqlx::query("UPDATE tokens SET failures = failures + 1 WHERE id = ? RETURNING failures, revoked")
                .bind(&self.id)
                .fetch_optional(tx.sql())
                .await?;
        let Some(row) = row else {
            return Err(Fault::Refused(StoreError::NotFound { what: "token", name: self.id }));
        };
        let failures = unsigned(&row, "failures")?;
        if failures >= FAILURES && optional_time(&row, "revoked")?.is_none() {
            sqlx::query("UPDATE tokens SET revoked = ? WHERE id = ?")
                .bind(self.burned.at.unix_millis())
                .bind(&self.id)
                .execute(tx.sql())
                .await?;
            tx.record(self.burned);
        }
        Ok(u32::try_from(failures).unwrap_or(u32::MAX))
    }
}

fn read_binding(row: &SqliteRow) -> Result<Binding, sqlx::Error> {
    Ok(Binding {
        node: parsed(row, "node")?,
        tenant: parsed(row, "tenant")?,
        namespace: parsed(row, "namespace")?,
        labels: from_json(row, "labels")?,
        identities: from_json(row, "identities")?,
        issuer: issuer(row)?,
        state: from_word(row, "state")?,
        created: time(row, "created")?,
    })
}

fn issuer(row: &SqliteRow) -> Result<Option<IssuerName>, sqlx::Error> {
    let text: Option<String> = row.try_get("issuer")?;
    text.map(|text| IssuerName::parse(&text).map_err(|error| decode("issuer", error))).transpose()
}

fn read_token(row: &SqliteRow) -> Result<StoredToken, sqlx::Error> {
    let spent = match optional_time(row, "spent")? {
        Some(at) => Some((at, SpkiHash(bytes32(row, "spent_spki")?))),
        None => None,
    };
    Ok(StoredToken {
        id: row.try_get("id")?,
        mac: bytes32(row, "mac")?,
        tenant: parsed(row, "tenant")?,
        node: parsed(row, "node")?,
        author: row.try_get("author")?,
        created: time(row, "created")?,
        expires: time(row, "expires")?,
        spent,
        revoked: optional_time(row, "revoked")?,
        failures: row.try_get("failures")?,
    })
}

impl Store {
    async fn load_bindings(&self) -> Result<Vec<Binding>, sqlx::Error> {
        let rows =
            sqlx::query("SELECT * FROM bindings ORDER BY node").fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(read_binding).collect()
    }

    async fn load_tokens(&self) -> Result<Vec<StoredToken>, sqlx::Error> {
        let rows = sqlx::query("SELECT * FROM tokens WHERE expires >= ? ORDER BY created, id")
            .bind((self.now() - KEPT).unix_millis())
            .fetch_all(&mut *self.read().await?)
            .await?;
        rows.iter().map(read_token).collect()
    }

    async fn load_unused_tokens(&self, now: Timestamp) -> Result<Vec<StoredToken>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT * FROM tokens WHERE spent IS NULL AND revoked IS NULL AND expires > ? ORDER BY created, id",
        )
        .bind(now.unix_millis())
        .fetch_all(&mut *self.read().await?)
        .await?;
        rows.iter().map(read_token).collect()
    }

    async fn load_token(&self, id: &str) -> Result<Option<StoredToken>, sqlx::Error> {
        let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
            .bind(id)
            .fetch_optional(&mut *self.read().await?)
            .await?;
        row.as_ref().map(read_token).transpose()
    }
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::unavailable(error.to_string())
}

#[async_trait]
impl NodeStore for Store {
    async fn bindings(&self) -> Result<Vec<Binding>, StoreError> {
        self.load_bindings().await.map_err(unavailable)
    }

    async fn enroll(
        &self,
        binding: &Binding,
        token: &StoredToken,
        replace: bool,
        event: Event,
    ) -> Result<(), StoreError> {
        self.write(Enroll { binding: binding.clone(), token: token.clone(), replace, event }).await
    }

    async fn set_issuer(
        &self,
        node: &NodeId,
        issuer: Option<&IssuerName>,
        event: Event,
    ) -> Result<(), StoreError> {
        self.write(SetIssuer { node: node.clone(), issuer: issuer.cloned(), event }).await
    }

    async fn remove(&self, node: &NodeId, event: Event) -> Result<(), StoreError> {
        self.write(Remove { node: node.clone(), event }).await
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        self.load_tokens().await.map_err(unavailable)
    }

    async fn unused_tokens(&self, now: Timestamp) -> Result<Vec<StoredToken>, StoreError> {
        self.load_unused_tokens(now).await.map_err(unavailable)
    }

    async fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError> {
        self.load_token(id).await.map_err(unavailable)
    }

    async fn revoke_token(&self, id: &str, event: Event) -> Result<(), StoreError> {
        self.write(RevokeToken { id: id.to_owned(), event }).await
    }

    async fn token_failure(&self, id: &str, burned: Event) -> Result<u32, StoreError> {
        self.write(TokenFailure { id: id.to_owned(), burned }).await
    }

    async fn token_key(&self) -> Result<[u8; 32], StoreError> {
        let opened = self.open_sealed(Class::AuditMac, TOKEN_KEY, |keyring, row, record| {
            keyring.open(Class::AuditMac, row, record)
        });
        let missing = || StoreError::NotFound { what: "key", name: TOKEN_KEY.kind.to_owned() };
        let plaintext = opened.await.map_err(SealedError::into_store_error)?.ok_or_else(missing)?;
        plaintext.as_slice().try_into().map_err(|_| StoreError::unavailable("token key is damaged".into()))
    }
}
