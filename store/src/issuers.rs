//! Issuers beside the built-in one: everything about one stands sealed in its record, addresses included, so that
//! whoever can write the database can neither read a credential nor have it sent elsewhere.

use api::ports::{Earlier, Issuer, IssuerStore, KeptIssuer, MAX_ISSUERS, StoreError, VaultSettings};
use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{IssuerName, Tenant};
use sqlx::Row;

use crate::{
    Store, Topic,
    acme::ACME,
    kept::{Found, Shelf},
    keyring::Class,
    writer::{Change, Fault, Refusal, Tx},
};

pub(crate) const VAULTS: Shelf = Shelf {
    class: Class::Backend,
    kind: "issuer",
    what: "issuer",
    topic: Topic::Issuers,
    most: MAX_ISSUERS as u64,
};

/// What stands before the credential in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    vault: VaultSettings,
    /// The root, DER in hexadecimal digits.
    anchor: String,
    /// The certificate of the authority that signs, the same.
    signer: String,
    #[serde(default)]
    generation: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<EarlierHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fallback: Option<IssuerName>,
    created: i64,
    updated: i64,
}

/// One of those before.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum EarlierHeader {
    /// As it was written before issuers had more than one root: its certificate alone.
    Signer(String),
    /// Certificates as above.
    Whole { signer: String, anchor: String, issuer: String, generation: u32 },
}

fn tenant() -> String {
    Tenant::default().to_string()
}

struct Put {
    kept: KeptIssuer,
    expected: u64,
    event: Event,
}

#[async_trait]
impl Change for Put {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let Self { kept: KeptIssuer { issuer, credential }, expected, event } = self;
        let (tenant, id) = (tenant(), issuer.name.to_string());
        VAULTS.expect(tx, &tenant, &id, Some(expected)).await?;
        if ACME.version(tx, &tenant, &id).await?.is_some() {
            return Err(Fault::Refused(StoreError::Exists { what: VAULTS.what, name: id }));
        }
        must_exist(tx, issuer.fallback.as_ref()).await?;
        let header = Header {
            vault: issuer.vault,
            anchor: hex::encode(issuer.anchor.der()),
            signer: hex::encode(issuer.signer.der()),
            generation: issuer.generation,
            earlier: issuer
                .earlier
                .iter()
                .map(|one| EarlierHeader::Whole {
                    signer: hex::encode(one.signer.der()),
                    anchor: hex::encode(one.anchor.der()),
                    issuer: one.issuer.clone(),
                    generation: one.generation,
                })
                .collect(),
            fallback: issuer.fallback,
            created: issuer.created.unix_millis(),
            updated: event.at.unix_millis(),
        };
        Ok(VAULTS.put(tx, &tenant, &id, &header, &credential, event).await?)
    }
}

/// An issuer that was removed meanwhile is named by nobody.
pub(crate) async fn must_exist(tx: &mut Tx<'_>, named: Option<&IssuerName>) -> Result<(), Fault<StoreError>> {
    let Some(name) = named else { return Ok(()) };
    if !exists(tx, name).await? {
        return Err(Fault::Refused(StoreError::NotFound { what: VAULTS.what, name: name.to_string() }));
    }
    Ok(())
}

/// Whether there is an issuer of that name that may be asked to sign for workloads or authorities of ours.
pub(crate) async fn exists(tx: &mut Tx<'_>, name: &IssuerName) -> Result<bool, sqlx::Error> {
    Ok(name.is_builtin() || VAULTS.version(tx, &tenant(), name.as_str()).await?.is_some())
}

/// In whose place it signs while that one rests, if in somebody's.
async fn place_of(tx: &mut Tx<'_>, name: &IssuerName) -> Result<Option<String>, sqlx::Error> {
    let headers = VAULTS.headers(tx, &tenant()).await?;
    let names_it = |header: &[u8]| {
        let header: Option<Header> = serde_json::from_slice(header).ok();
        header.is_some_and(|header| header.fallback.as_ref() == Some(name))
    };
    Ok(headers.into_iter().find(|(_, header)| names_it(header)).map(|(id, _)| id))
}

struct Remove(IssuerName, Event);

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let (tenant, id) = (tenant(), self.0.to_string());
        let in_place = place_of(tx, &self.0).await?.map(|other| format!("it signs in the place of {other}"));
        if let Some(why) = crate::leaves::use_of(tx, &id).await?.or(in_place) {
            return Err(Fault::Refused(StoreError::InUse { what: "issuer", name: id, why }));
        }
        VAULTS.remove(tx, &tenant, &id, self.1).await
    }
}

/// What [`Put`] sealed, read back.
fn read(found: Found<'_>, header: &[u8], credential: SecretBytes) -> Option<KeptIssuer> {
    let header: Header = serde_json::from_slice(header).ok()?;
    let certificate = |text: &str| Certificate::from_der(&hex::decode(text).ok()?).ok();
    let anchor = certificate(&header.anchor)?;
    let earlier = |one: &EarlierHeader| {
        Some(match one {
            EarlierHeader::Signer(signer) => Earlier {
                signer: certificate(signer)?,
                anchor: anchor.clone(),
                issuer: header.vault.issuer.clone(),
                generation: header.generation,
            },
            EarlierHeader::Whole { signer, anchor, issuer, generation } => Earlier {
                signer: certificate(signer)?,
                anchor: certificate(anchor)?,
                issuer: issuer.clone(),
                generation: *generation,
            },
        })
    };
    let earlier = header.earlier.iter().map(earlier).collect::<Option<Vec<_>>>()?;
    let issuer = Issuer {
        name: IssuerName::parse(found.id).ok()?,
        vault: header.vault,
        anchor,
        signer: certificate(&header.signer)?,
        generation: header.generation,
        earlier,
        fallback: header.fallback,
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
        version: found.version,
    };
    Some(KeptIssuer { issuer, credential })
}

#[async_trait]
impl IssuerStore for Store {
    async fn issuers(&self) -> Result<Vec<KeptIssuer>, StoreError> {
        self.kept(&VAULTS, VAULTS.most, read).await
    }

    async fn has_issuer(&self, name: &IssuerName) -> Result<bool, StoreError> {
        self.has(&VAULTS, &tenant(), name.as_str()).await
    }

    async fn put_issuer(&self, kept: KeptIssuer, expected: u64, event: Event) -> Result<u64, StoreError> {
        self.write(Put { kept, expected, event }).await
    }

    async fn remove_issuer(&self, name: &IssuerName, event: Event) -> Result<(), StoreError> {
        self.write(Remove(name.clone(), event)).await
    }
}

impl Store {
    /// The names of all records of issuers beside the built-in one, of whatever kind, whether they open or not.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn issuer_names(&self) -> Result<Vec<String>, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let mut names = Vec::new();
        for shelf in [VAULTS, ACME] {
            let rows =
                sqlx::query("SELECT id FROM sealed WHERE tenant = ? AND class = ? AND kind = ? ORDER BY id")
                    .bind(tenant())
                    .bind(shelf.class.word())
                    .bind(shelf.kind)
                    .fetch_all(&mut *self.read().await.map_err(unavailable)?)
                    .await
                    .map_err(unavailable)?;
            for row in &rows {
                names.push(row.try_get("id").map_err(unavailable)?);
            }
        }
        Ok(names)
    }
}
