//! Documents and their revisions. Every change makes a revision with a number of its own: storing a draft, making it
//! effective, and deleting alike, so that whoever has read a number sees any change since.

use api::ports::{DocumentChange, DocumentFilter, DocumentStore, RevisionState, StoreError, StoredDocument};
use async_trait::async_trait;
use audit::Event;
use certs::Timestamp;
use spiffe::{Namespace, Tenant};
use sqlx::{QueryBuilder, Row, Sqlite, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    Store, Topic,
    row::{from_word, number, parsed, time, unsigned, uuid, word},
    seal::random,
    writer::{Change, Fault, Refusal, Tx},
};

/// Columns of a revision with its document; what follows says which revisions.
const SELECT: &str = "SELECT d.id, d.tenant, d.namespace, d.kind, d.name, d.live, d.newest, d.effective,
           r.revision, r.state, r.text, r.author, r.reason, r.at
      FROM documents d JOIN revisions r ON ";

struct Commit {
    changes: Vec<DocumentChange>,
    author: String,
    reason: String,
    event: Event,
}

#[async_trait]
impl Change for Commit {
    type Answer = Vec<StoredDocument>;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Vec<StoredDocument>, Fault<StoreError>> {
        let Self { changes, author, reason, event } = self;
        let by = By { author: &author, reason: &reason, at: event.at };
        let mut made = Vec::with_capacity(changes.len());
        for change in changes {
            made.push(match change {
                DocumentChange::Put { tenant, namespace, kind, name, text, expected, apply } => {
                    put(tx, &by, Named { tenant, namespace, kind, name }, text, expected, apply).await?
                }
                DocumentChange::Apply { id, expected } => make_effective(tx, &by, id, expected).await?,
                DocumentChange::Delete { id, expected } => delete(tx, &by, id, expected).await?,
            });
        }
        let event = match (made.first(), made.last()) {
            (Some(first), Some(last)) if first.revision == last.revision => {
                event.with("revision", first.revision)
            }
            (Some(first), Some(last)) => {
                event.with("revision", format_args!("{}-{}", first.revision, last.revision))
            }
            _ => event,
        };
        tx.record(event);
        tx.touch(Topic::Documents);
        Ok(made)
    }
}

struct By<'a> {
    author: &'a str,
    reason: &'a str,
    at: Timestamp,
}

struct Named {
    tenant: Tenant,
    namespace: Namespace,
    kind: String,
    name: String,
}

/// A live document and its newest revision.
struct Current {
    newest: StoredDocument,
    effective: Option<u64>,
}

fn read(row: &SqliteRow) -> Result<StoredDocument, sqlx::Error> {
    Ok(StoredDocument {
        id: uuid(row, "id")?,
        tenant: parsed(row, "tenant")?,
        namespace: parsed(row, "namespace")?,
        kind: row.try_get("kind")?,
        name: row.try_get("name")?,
        revision: unsigned(row, "revision")?,
        state: from_word(row, "state")?,
        text: row.try_get("text")?,
        author: row.try_get("author")?,
        reason: row.try_get("reason")?,
        at: time(row, "at")?,
    })
}

fn read_current(row: &SqliteRow) -> Result<Current, sqlx::Error> {
    let effective =
        row.try_get::<Option<i64>, _>("effective")?.and_then(|revision| u64::try_from(revision).ok());
    Ok(Current { newest: read(row)?, effective })
}

fn conflict(document: &StoredDocument, expected: u64) -> Fault<StoreError> {
    Fault::Refused(StoreError::Conflict {
        what: "document",
        name: label(document),
        expected,
        actual: document.revision,
    })
}

fn label(document: &StoredDocument) -> String {
    format!("{} {}/{}", document.kind, document.namespace, document.name)
}

async fn put(
    tx: &mut Tx<'_>,
    by: &By<'_>,
    named: Named,
    text: String,
    expected: Option<u64>,
    apply: bool,
) -> Result<StoredDocument, Fault<StoreError>> {
    let state = if apply { RevisionState::Applied } else { RevisionState::Draft };
    let current = live(tx, &named).await?;
    match (&current, expected) {
        (Some(current), Some(0)) => {
            return Err(Fault::Refused(StoreError::Exists {
                what: "document",
                name: label(&current.newest),
            }));
        }
        (Some(current), Some(expected)) if expected != current.newest.revision => {
            return Err(conflict(&current.newest, expected));
        }
        (None, Some(expected @ 1..)) => {
            let name = format!("{} {}/{}", named.kind, named.namespace, named.name);
            return Err(Fault::Refused(StoreError::Conflict { what: "document", name, expected, actual: 0 }));
        }
        _ => {}
    }
    let id = match &current {
        Some(current) => current.newest.id,
        None => {
            let millis = u64::try_from(by.at.unix_millis()).unwrap_or(0);
            let id = uuid::Builder::from_unix_timestamp_millis(millis, &random()).into_uuid();
            create(tx, id, &named).await?;
            id
        }
    };
    let Named { tenant, namespace, kind, name } = named;
    let document = StoredDocument {
        id,
        tenant,
        namespace,
        kind,
        name,
        revision: 0,
        state,
        text,
        author: by.author.to_owned(),
        reason: by.reason.to_owned(),
        at: by.at,
    };
    append(tx, document, current.and_then(|current| current.effective)).await
}

async fn make_effective(
    tx: &mut Tx<'_>,
    by: &By<'_>,
    id: Uuid,
    expected: Option<u64>,
) -> Result<StoredDocument, Fault<StoreError>> {
    let current = expect_live(tx, id, expected).await?;
    if current.newest.state == RevisionState::Applied {
        // Nothing newer waits: it is effective already.
        return Ok(current.newest);
    }
    let document = StoredDocument {
        state: RevisionState::Applied,
        author: by.author.to_owned(),
        reason: by.reason.to_owned(),
        at: by.at,
        ..current.newest
    };
    append(tx, document, current.effective).await
}

async fn delete(
    tx: &mut Tx<'_>,
    by: &By<'_>,
    id: Uuid,
    expected: Option<u64>,
) -> Result<StoredDocument, Fault<StoreError>> {
    let current = expect_live(tx, id, expected).await?;
    let document = StoredDocument {
        state: RevisionState::Deleted,
        text: String::new(),
        author: by.author.to_owned(),
        reason: by.reason.to_owned(),
        at: by.at,
        ..current.newest
    };
    append(tx, document, None).await
}

async fn live(tx: &mut Tx<'_>, named: &Named) -> Result<Option<Current>, sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(SELECT);
    query.push("r.revision = d.newest WHERE d.live = 1 AND d.tenant = ").push_bind(named.tenant.as_str());
    query.push(" AND d.namespace = ").push_bind(named.namespace.as_str());
    query.push(" AND d.kind = ").push_bind(named.kind.as_str());
    query.push(" AND d.name = ").push_bind(named.name.as_str());
    query.build().fetch_optional(tx.sql()).await?.as_ref().map(read_current).transpose()
}

async fn expect_live(tx: &mut Tx<'_>, id: Uuid, expected: Option<u64>) -> Result<Current, Fault<StoreError>> {
    let mut query = QueryBuilder::<Sqlite>::new(SELECT);
    query.push("r.revision = d.newest WHERE d.live = 1 AND d.id = ").push_bind(id.as_bytes().as_slice());
    let row = query.build().fetch_optional(tx.sql()).await?;
    let Some(row) = row else {
        return Err(Fault::Refused(StoreError::NotFound { what: "document", name: id.to_string() }));
    };
    let current = read_current(&row)?;
    match expected {
        Some(expected) if expected != current.newest.revision => Err(conflict(&current.newest, expected)),
        _ => Ok(current),
    }
}

async fn create(tx: &mut Tx<'_>, id: Uuid, named: &Named) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO documents (id, tenant, namespace, kind, name, live, newest, effective)
         VALUES (?, ?, ?, ?, ?, 1, 0, NULL)",
    )
    .bind(id.as_bytes().as_slice())
    .bind(named.tenant.as_str())
    .bind(named.namespace.as_str())
    .bind(&named.kind)
    .bind(&named.name)
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Writes a revision and points the document to it.
async fn append(
    tx: &mut Tx<'_>,
    mut document: StoredDocument,
    effective: Option<u64>,
) -> Result<StoredDocument, Fault<StoreError>> {
    let row = sqlx::query(
        "INSERT INTO revisions (tenant, document, state, text, author, reason, at) VALUES (?, ?, ?, ?, ?, ?, ?)
         RETURNING revision",
    )
    .bind(document.tenant.as_str())
    .bind(document.id.as_bytes().as_slice())
    .bind(word(&document.state)?)
    .bind(&document.text)
    .bind(&document.author)
    .bind(&document.reason)
    .bind(document.at.unix_millis())
    .fetch_one(tx.sql())
    .await?;
    document.revision = unsigned(&row, "revision")?;
    let effective = match document.state {
        RevisionState::Draft => effective,
        RevisionState::Applied => Some(document.revision),
        RevisionState::Deleted => None,
    };
    sqlx::query("UPDATE documents SET live = ?, newest = ?, effective = ? WHERE id = ?")
        .bind(document.state != RevisionState::Deleted)
        .bind(number(document.revision))
        .bind(effective.map(number))
        .bind(document.id.as_bytes().as_slice())
        .execute(tx.sql())
        .await?;
    Ok(document)
}

impl Store {
    async fn select(
        &self,
        join: &'static str,
        filter: &DocumentFilter,
    ) -> Result<Vec<StoredDocument>, sqlx::Error> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(join).push(" WHERE d.live = 1");
        if let Some(tenant) = &filter.tenant {
            query.push(" AND d.tenant = ").push_bind(tenant.as_str());
        }
        if let Some(namespace) = &filter.namespace {
            query.push(" AND d.namespace = ").push_bind(namespace.as_str());
        }
        if let Some(kind) = &filter.kind {
            query.push(" AND d.kind = ").push_bind(kind.as_str());
        }
        if let Some(name) = &filter.name {
            query.push(" AND d.name = ").push_bind(name.as_str());
        }
        if let Some(after) = &filter.after {
            query.push(" AND d.id > ").push_bind(after.as_bytes().as_slice());
        }
        query.push(" ORDER BY d.id");
        if filter.limit > 0 {
            query.push(" LIMIT ").push_bind(number(filter.limit as u64));
        }
        let rows = query.build().fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(read).collect()
    }

    async fn newest_of(&self, id: Uuid) -> Result<Option<StoredDocument>, sqlx::Error> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push("r.revision = d.newest WHERE d.id = ").push_bind(id.as_bytes().as_slice());
        query.build().fetch_optional(&mut *self.read().await?).await?.as_ref().map(read).transpose()
    }

    async fn revisions(
        &self,
        named: &Named,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDocument>, sqlx::Error> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push("r.document = d.id WHERE d.tenant = ").push_bind(named.tenant.as_str());
        query.push(" AND d.namespace = ").push_bind(named.namespace.as_str());
        query.push(" AND d.kind = ").push_bind(named.kind.as_str());
        query.push(" AND d.name = ").push_bind(named.name.as_str());
        if let Some(before) = before {
            query.push(" AND r.revision < ").push_bind(number(before));
        }
        query.push(" ORDER BY r.revision DESC LIMIT ").push_bind(number(limit as u64));
        let rows = query.build().fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(read).collect()
    }
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::unavailable(error.to_string())
}

#[async_trait]
impl DocumentStore for Store {
    async fn commit(
        &self,
        changes: Vec<DocumentChange>,
        author: &str,
        reason: &str,
        event: Event,
    ) -> Result<Vec<StoredDocument>, StoreError> {
        let (author, reason) = (author.to_owned(), reason.to_owned());
        self.write(Commit { changes, author, reason, event }).await
    }

    async fn newest(&self, filter: &DocumentFilter) -> Result<Vec<StoredDocument>, StoreError> {
        self.select("r.revision = d.newest", filter).await.map_err(unavailable)
    }

    async fn effective(&self, filter: &DocumentFilter) -> Result<Vec<StoredDocument>, StoreError> {
        self.select("r.revision = d.effective", filter).await.map_err(unavailable)
    }

    async fn get(&self, id: Uuid) -> Result<Option<StoredDocument>, StoreError> {
        self.newest_of(id).await.map_err(unavailable)
    }

    async fn history(
        &self,
        tenant: &Tenant,
        namespace: &Namespace,
        kind: &str,
        name: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDocument>, StoreError> {
        let named = Named {
            tenant: tenant.clone(),
            namespace: namespace.clone(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        };
        self.revisions(&named, before, limit).await.map_err(unavailable)
    }
}
