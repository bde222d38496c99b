//! Edges: everything about one stands sealed in its record (what is wanted, what was obtained, how far the next one is,
//! and the keys), so that whoever can write the database can neither read a key nor have another name shown.

use api::ports::{
    Edge, EdgeCertificate, EdgeSettings, EdgeStore, EdgeWork, KeptEdge, MAX_EDGE_SECRET, MAX_EDGE_TEXT,
    MAX_EDGES, StoreError,
};
use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, Chain, SecretBytes, Timestamp, certificates_from_pem};
use serde::{Deserialize, Serialize};
use spiffe::{EdgeName, IssuerName, Tenant};

use crate::{
    Store, Topic,
    acme::ACME,
    kept::{Found, Shelf},
    keyring::Class,
    writer::{Change, Fault, Tx},
};

const SHELF: Shelf =
    Shelf { class: Class::Tls, kind: "edge", what: "edge", topic: Topic::Edges, most: MAX_EDGES as u64 };

/// What stands before the keys in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    settings: EdgeSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<Obtained>,
    /// The order under way, as whoever obtains it writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    /// The same, of the renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewal: Option<String>,
    /// The same, of what an order that is over left published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leftover: Option<String>,
    created: i64,
    updated: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Obtained {
    /// As PEM, leaf first.
    chain: String,
    at: i64,
}

impl Header {
    fn of(edge: &Edge, work: &EdgeWork) -> Self {
        Self {
            settings: edge.settings.clone(),
            certificate: edge.certificate.as_ref().map(|certificate| Obtained {
                chain: certificate.chain.to_pem(),
                at: certificate.obtained.unix_millis(),
            }),
            order: work.order.clone(),
            renewal: work.renewal.clone(),
            leftover: work.leftover.clone(),
            created: edge.created.unix_millis(),
            updated: edge.updated.unix_millis(),
        }
    }
}

/// Insists on the bounds of what others wrote: servers, and who keeps account of them.
fn measure(kept: &KeptEdge, header: &Header) -> Result<(), StoreError> {
    let chain = header.certificate.as_ref().map_or(0, |certificate| certificate.chain.len());
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let key = |key: &Option<SecretBytes>| key.as_ref().map_or(0, SecretBytes::len);
    let parts = [
        ("chain", chain, MAX_EDGE_TEXT),
        ("order", text(&header.order), MAX_EDGE_TEXT),
        ("renewal", text(&header.renewal), MAX_EDGE_TEXT),
        ("leftover", text(&header.leftover), MAX_EDGE_TEXT),
        ("key", key(&kept.key), MAX_EDGE_SECRET),
        ("next key", key(&kept.next_key), MAX_EDGE_SECRET),
        ("DNS key", key(&kept.dns_key), MAX_EDGE_SECRET),
    ];
    match parts.iter().find(|(_, length, most)| length > most) {
        None => Ok(()),
        Some((part, length, most)) => {
            let name = &kept.edge.name;
            Err(StoreError::Full(format!("the {part} of edge {name} has {length} bytes, {most} are taken")))
        }
    }
}

struct Put {
    kept: KeptEdge,
    expected: u64,
    event: Event,
}

#[async_trait]
impl Change for Put {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let Self { kept, expected, event } = self;
        let (tenant, id) = (kept.edge.tenant.to_string(), kept.edge.name.to_string());
        SHELF.expect(tx, &tenant, &id, Some(expected)).await?;
        let issuer = &kept.edge.settings.issuer;
        // It may have been removed while the edge was judged. Of one that is there already it cannot be.
        if expected == 0 && ACME.version(tx, Tenant::default().as_str(), issuer.as_str()).await?.is_none() {
            let missing = StoreError::NotFound { what: ACME.what, name: issuer.to_string() };
            return Err(Fault::Refused(missing));
        }
        let header = Header::of(&kept.edge, &kept.work);
        measure(&kept, &header).map_err(Fault::Refused)?;
        let keys = SecretBytes::join([kept.key.as_ref(), kept.next_key.as_ref(), kept.dns_key.as_ref()]);
        Ok(SHELF.put(tx, &tenant, &id, &header, &keys, event).await?)
    }
}

/// The first edge of any tenant whose certificate this issuer is asked for, of those that open.
pub(crate) async fn first_of(tx: &mut Tx<'_>, issuer: &IssuerName) -> Result<Option<String>, sqlx::Error> {
    for tenant in SHELF.tenants(tx).await? {
        let names_it = |header: &[u8]| {
            let header: Option<Header> = serde_json::from_slice(header).ok();
            header.is_some_and(|header| header.settings.issuer == *issuer)
        };
        let headers = SHELF.headers(tx, &tenant).await?;
        if let Some((name, _)) = headers.into_iter().find(|(_, header)| names_it(header)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

struct Remove(Tenant, EdgeName, Event);

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let Self(tenant, name, event) = self;
        SHELF.remove(tx, tenant.as_str(), name.as_str(), event).await
    }
}

/// What [`Put`] sealed, read back.
fn read(found: Found<'_>, header: &[u8], keys: SecretBytes) -> Option<KeptEdge> {
    let header: Header = serde_json::from_slice(header).ok()?;
    let [key, next_key, dns_key] = keys.split()?;
    let certificate = match header.certificate {
        None => None,
        Some(Obtained { chain, at }) => {
            let ders = certificates_from_pem(chain.as_bytes()).ok()?;
            let mut chain = ders.iter().map(|der| Certificate::from_der(der).ok());
            let leaf = chain.next()??;
            let chain = Chain::new(leaf, chain.collect::<Option<_>>()?);
            Some(EdgeCertificate { chain, obtained: Timestamp::from_unix_millis(at) })
        }
    };
    let edge = Edge {
        tenant: Tenant::parse(found.tenant).ok()?,
        name: EdgeName::parse(found.id).ok()?,
        settings: header.settings,
        certificate,
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
        version: found.version,
    };
    let work = EdgeWork { order: header.order, renewal: header.renewal, leftover: header.leftover };
    Some(KeptEdge { edge, key, next_key, dns_key, work })
}

#[async_trait]
impl EdgeStore for Store {
    async fn edges(&self) -> Result<Vec<KeptEdge>, StoreError> {
        self.kept(&SHELF, 100 * MAX_EDGES as u64, read).await
    }

    async fn has_edge(&self, tenant: &Tenant, name: &EdgeName) -> Result<bool, StoreError> {
        self.has(&SHELF, tenant.as_str(), name.as_str()).await
    }

    async fn put_edge(&self, kept: KeptEdge, expected: u64, event: Event) -> Result<u64, StoreError> {
        self.write(Put { kept, expected, event }).await
    }

    async fn remove_edge(&self, tenant: &Tenant, name: &EdgeName, event: Event) -> Result<(), StoreError> {
        self.write(Remove(tenant.clone(), name.clone(), event)).await
    }
}
