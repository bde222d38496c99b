//! Authorities and certificates: see them, replace the issuing authority, issue a probe.

use std::time::Duration;

use audit::Actor;
use base64::{Engine, engine::general_purpose::STANDARD};
use ca::ports::{
    AuthorityRecord, AuthorityState, CertificateFilter, CertificateRow, CertificateState, Place,
};
use ca::rotation::Refusal;
use certs::{Chain, Csr, Profile, Serial, SerialError, SerialStart, Timestamp, certificates_to_pem};
use spiffe::{AuthorityId, Class, NodeId, Purpose, SpiffeId, SvidRequest};

use super::{CallError, Caller, Calls, error, rotation::shown_laggard};
use crate::wire;

/// How long a probe certificate lives.
pub const PROBE_LIFETIME: Duration = Duration::from_secs(600);
const PROBE_PATH: &str = "/credence-probe";
/// Certificates that begin alike and are named.
const MAX_NAMED: usize = 10;

/// Which certificates to list. Absent fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct CertificateQuery {
    /// Of this identity.
    pub id: Option<SpiffeId>,
    /// For this node.
    pub node: Option<NodeId>,
    /// Of this class: `node`, `workload`, `server`, `operator`.
    pub class: Option<Profile>,
    /// Signed by this authority.
    pub authority: Option<AuthorityId>,
    /// Expired, failed and replaced ones too.
    pub all: bool,
    /// At most this many.
    pub limit: usize,
    /// Skips this many.
    pub offset: usize,
}

impl Calls {
    /// Every authority that was not removed, roots first.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_authorities(&self) -> Result<wire::Page<wire::Authority>, CallError> {
        let now = self.clock.now();
        let records = self.authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
        let next = self.next_replacement().await?;
        let lists = self.revoking.lists().unwrap_or_default();
        let mut items = Vec::new();
        for record in records.iter().filter(|record| record.state != AuthorityState::Removed) {
            let leaves = match record.place {
                Place::Root => None,
                Place::Issuing => {
                    let leaves = self.journal.unexpired_leaves(record.id, now).await;
                    Some(leaves.map_err(|error| unavailable("journal", &error))?.count)
                }
            };
            let next = next.as_ref().filter(|next| next.authority == record.id);
            let rotates = next.map(|next| next.at.to_string());
            let list = lists.lists.iter().find(|list| list.authority == record.id);
            let waits_for = match (record.place, record.state) {
                (Place::Issuing, AuthorityState::Prepared) => self.rotation.laggards(),
                (Place::Root | Place::Issuing, _) => Vec::new(),
            };
            items.push(wire::Authority {
                revocation_list: list.map(|list| wire::RevocationList {
                    number: list.number,
                    revoked: list.revoked,
                    made: list.made.to_string(),
                    ends: list.ends.to_string(),
                    is_shown: lists.is_shown,
                }),
                waits_for: waits_for.iter().map(shown_laggard).collect(),
                ..shown_authority(record, now, leaves, rotates)
            });
        }
        items.sort_by_key(|authority| authority.place != "root");
        Ok(wire::Page::whole(items))
    }

    /// Replaces the issuing authority by one with a new key.
    ///
    /// # Errors
    /// When none is active, or it cannot be made or kept.
    pub async fn rotate_issuing(
        &self,
        caller: &Caller,
        wanted: &wire::Rotate,
    ) -> Result<wire::Rotation, CallError> {
        if self.rotation.by_hand().is_some() {
            return Err(CallError::Policy(Refusal::NoRootKey.to_string()));
        }
        let next = self
            .rotation
            .next()
            .ok_or(CallError::Unavailable { part: "issuing authority", why: "none is active".into() })?;
        let leaves = self.journal.unexpired_leaves(next.active, self.clock.now()).await;
        let count = leaves.map_err(|error| unavailable("journal", &error))?.count;
        let to = if wanted.dry_run {
            None
        } else {
            Some(self.rotation.rotate_issuing(caller, &wanted.reason).await?.to_string())
        };
        let waits_for = self.rotation.laggards();
        let wait = match waits_for.len() {
            0 => "where proxies check against revocation lists, wait until every connected one has its list"
                .to_owned(),
            1 => format!("go on waiting for {}, which has not acknowledged its list", waits_for[0].name),
            more => format!("go on waiting for {more} proxies that have not acknowledged its list"),
        };
        let steps = vec![
            match waits_for.is_empty() {
                true => "make an issuing authority with a new key, signed by the same root".to_owned(),
                false => "take the issuing authority with a new key that is prepared already".to_owned(),
            },
            wait,
            "sign every new leaf with it".to_owned(),
            format!("renew {}, each when its proxy has acknowledged the new one", unexpired(count)),
            format!("retire {} and destroy its key when no unexpired leaf depends on it", next.active),
        ];
        Ok(wire::Rotation { dry_run: wanted.dry_run, from: next.active.to_string(), to, steps })
    }

    /// Certificates as the journal knows them, newest first.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_certificates(
        &self,
        caller: &Caller,
        query: &CertificateQuery,
    ) -> Result<wire::Page<wire::Certificate>, CallError> {
        let now = self.clock.now();
        let filter = CertificateFilter {
            id: query.id.clone(),
            node: query.node.clone(),
            profile: query.class,
            authorities: query.authority.into_iter().collect(),
            valid_at: (!query.all).then_some(now),
            newest_only: !query.all,
            limit: query.limit + 1,
            offset: query.offset,
            ..CertificateFilter::default()
        };
        let rows =
            self.journal.certificates(&filter).await.map_err(|error| unavailable("journal", &error))?;
        let more = rows.len() > query.limit;
        let own = rows.iter().take(query.limit).filter(|row| row.intent.tenant == caller.tenant);
        let outside = self.outside_authorities().await?;
        let shown = |row: &CertificateRow| wire::Certificate {
            issuer: outside.get(&row.intent.authority).map(|issuer| issuer.name.to_string()),
            ..shown_certificate(row, now)
        };
        let items = own.map(shown).collect();
        Ok(wire::Page { items, next: more.then(|| (query.offset + query.limit).to_string()) })
    }

    /// One certificate with its chain.
    ///
    /// # Errors
    /// When no certificate has this serial number.
    pub async fn get_certificate(
        &self,
        caller: &Caller,
        serial: &str,
    ) -> Result<wire::Certificate, CallError> {
        let row = self.find_certificate(caller, serial).await?;
        let row = row.ok_or_else(|| CallError::NotFound { what: "certificate", name: serial.to_owned() })?;
        let pem = certificates_to_pem(row.chain.iter().map(Vec::as_slice));
        let issuer = self.outside_authorities().await?.remove(&row.intent.authority);
        Ok(wire::Certificate {
            pem: Some(pem),
            root: issuer.as_ref().map(|issuer| certificates_to_pem([issuer.anchor.der()])),
            issuer: issuer.map(|issuer| issuer.name.to_string()),
            ..shown_certificate(&row, self.clock.now())
        })
    }

    /// The certificate of that serial number, or else the only one whose number begins so.
    ///
    /// # Errors
    /// When it is no serial number and the beginning of none, or several begin so.
    pub(super) async fn find_certificate(
        &self,
        caller: &Caller,
        text: &str,
    ) -> Result<Option<CertificateRow>, CallError> {
        let (whole, start) = (text.parse::<Serial>(), text.parse::<SerialStart>());
        let find = async |filter: CertificateFilter| {
            let rows = self.journal.certificates(&filter).await;
            let mut rows = rows.map_err(|error| unavailable("journal", &error))?;
            rows.retain(|row| row.intent.tenant == caller.tenant);
            Ok::<_, CallError>(rows)
        };
        if let Ok(serial) = &whole {
            let serial = Some(serial.clone());
            let rows = find(CertificateFilter { serial, limit: 1, ..CertificateFilter::default() }).await?;
            if let Some(row) = rows.into_iter().next() {
                return Ok(Some(row));
            }
        }
        match (whole, start) {
            (_, Ok(start)) => {
                let filter =
                    CertificateFilter { serial_start: Some(start.clone()), ..CertificateFilter::default() };
                let mut rows = find(filter).await?;
                if rows.len() > 1 {
                    return Err(several(&start, &rows));
                }
                Ok(rows.pop())
            }
            // Too little for a beginning, and nobody has that number.
            (Ok(_), Err(_)) => Ok(None),
            (Err(whole), Err(start)) => {
                let error = if matches!(start, SerialError::Short(_)) && matches!(whole, SerialError::Odd(_))
                {
                    start
                } else {
                    whole
                };
                let why = format!("{text:?}: {error}; cert list shows serial numbers");
                Err(CallError::Parameter { what: "serial", why })
            }
        }
    }

    /// Issues a short certificate of `spiffe://TD/credence-probe` for `credence verify`. No node speaks for it,
    /// and nothing of ours opens to it.
    ///
    /// # Errors
    /// When the request is none, or the issuer cannot sign.
    pub async fn issue_probe(
        &self,
        caller: &Caller,
        wanted: &wire::Probe,
    ) -> Result<wire::Probed, CallError> {
        let id = error::id("probe identity", self.domain.id(PROBE_PATH))?;
        let probed = self.issue(caller, wanted, id, Profile::Workload, PROBE_LIFETIME).await?;
        // The other side may show a leaf of another issuer.
        let believed = self.workload_trust.borrow().clone();
        let roots = believed.own().authorities().iter().map(certs::Certificate::der);
        Ok(wire::Probed { bundle: certificates_to_pem(roots), ..probed })
    }

    /// Issues the caller's own operator certificate again, for a new key and as long a life as is configured. What the
    /// one before had is no measure: it was cut where the authority that signed it ended, and lives would only get shorter.
    ///
    /// # Errors
    /// When the caller is no operator, the journal does not know its certificate, or the issuer cannot sign.
    pub async fn renew_operator(
        &self,
        caller: &Caller,
        wanted: &wire::Probe,
    ) -> Result<wire::Probed, CallError> {
        let id = match &caller.actor {
            Actor::Identity { id } if matches!(id.class(), Ok(Class::Operator(_))) => id.clone(),
            other => return Err(CallError::Policy(format!("{other} is no operator"))),
        };
        let filter = CertificateFilter {
            id: Some(id.clone()),
            profile: Some(Profile::Operator),
            newest_only: true,
            limit: 1,
            ..CertificateFilter::default()
        };
        let rows =
            self.journal.certificates(&filter).await.map_err(|error| unavailable("journal", &error))?;
        if rows.is_empty() {
            return Err(CallError::NotFound { what: "certificate", name: id.to_string() });
        }
        self.issue(caller, wanted, id, Profile::Operator, self.facts.operator_lifetime).await
    }

    async fn issue(
        &self,
        caller: &Caller,
        wanted: &wire::Probe,
        id: SpiffeId,
        profile: Profile,
        lifetime: Duration,
    ) -> Result<wire::Probed, CallError> {
        let bad = |why: String| CallError::Parameter { what: "csr", why };
        let der = STANDARD.decode(&wanted.csr).map_err(|error| bad(error.to_string()))?;
        let csr = Csr::from_der(&der).map_err(|error| bad(error.to_string()))?;
        let request = SvidRequest {
            id: id.clone(),
            profile,
            public_key: csr.public_key().clone(),
            lifetime,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            tenant: caller.tenant.clone(),
            node: None,
            issuer: None,
            purpose: Purpose::Operator,
            // Somebody waits for the answer; what it replaces may be good for weeks, but not in an emergency.
            deadline: Some(self.clock.now()),
            spend: None,
            request_id: caller.request_id.clone(),
        };
        let issued = self.issuer.issue(request).await?;
        let trust = self.trust.borrow().clone();
        Ok(wire::Probed {
            id: id.to_string(),
            expires: issued.chain.leaf().not_after().to_string(),
            pem: issued.chain.to_pem(),
            bundle: certificates_to_pem(trust.own().authorities().iter().map(certs::Certificate::der)),
        })
    }
}

/// How many leaves have not ended, in words.
pub(super) fn unexpired(leaves: u64) -> String {
    error::count(usize::try_from(leaves).unwrap_or(usize::MAX), "unexpired leaf", "unexpired leaves")
}

pub(crate) fn unavailable(part: &'static str, error: &impl ToString) -> CallError {
    CallError::Unavailable { part, why: error.to_string() }
}

fn shown_authority(
    record: &AuthorityRecord,
    now: Timestamp,
    live_leaves: Option<u64>,
    rotates_at: Option<String>,
) -> wire::Authority {
    let certificate = &record.certificate;
    wire::Authority {
        id: record.id.to_string(),
        place: match record.place {
            Place::Root => "root".into(),
            Place::Issuing => "intermediate".into(),
        },
        state: match record.state {
            AuthorityState::Prepared => "prepared".into(),
            AuthorityState::Active => "active".into(),
            AuthorityState::Retired => "retired".into(),
            AuthorityState::Removed => "removed".into(),
        },
        subject: certificate.subject().to_owned(),
        not_before: certificate.not_before().to_string(),
        not_after: certificate.not_after().to_string(),
        expires_in_secs: certificate.not_after().millis_since(now) / 1000,
        spki_sha256: format!("sha256:{}", hex::encode(certificate.spki_hash().0)),
        tainted_since: record.tainted.map(|at| at.to_string()),
        stolen_since: record.stolen.map(|at| at.to_string()),
        live_leaves,
        rotates_at,
        offline_since: record.offline.map(|at| at.to_string()),
        between: record.between.iter().map(|one| one.subject().to_owned()).collect(),
        revocation_list: None,
        waits_for: Vec::new(),
        pem: Chain::new(certificate.clone(), Vec::new()).to_pem(),
    }
}

pub(super) fn shown_certificate(row: &CertificateRow, now: Timestamp) -> wire::Certificate {
    let intent = &row.intent;
    wire::Certificate {
        serial: intent.serial.to_string(),
        id: intent.id.to_string(),
        class: class_word(intent.profile).to_owned(),
        node: intent.node.as_ref().map(ToString::to_string),
        authority: authority_text(intent.authority),
        purpose: word(&intent.purpose),
        issued: intent.at.to_string(),
        expires: intent.not_after.to_string(),
        expires_in_secs: intent.not_after.millis_since(now) / 1000,
        state: match row.state {
            _ if row.revoked.is_some() => "revoked".into(),
            CertificateState::Unknown => "intended".into(),
            CertificateState::Issued => "issued".into(),
            CertificateState::Failed(_) => "failed".into(),
        },
        revoked: row.revoked.map(|at| at.to_string()),
        issuer: None,
        pem: None,
        root: None,
    }
}

/// None of them is meant for sure.
fn several(start: &SerialStart, rows: &[CertificateRow]) -> CallError {
    let named = rows.iter().take(MAX_NAMED).map(|row| {
        let node = row.intent.node.as_ref().map_or_else(String::new, |node| format!(" at {node}"));
        format!("{} of {}{node}", row.intent.serial, row.intent.id)
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if rows.len() > MAX_NAMED { ", and more" } else { "" };
    CallError::Parameter {
        what: "serial",
        why: format!("several certificates begin with {start}: {named}{more}; write more of it"),
    }
}

fn authority_text(id: AuthorityId) -> String {
    id.to_string()
}

/// The word of a profile in tables and metrics.
#[must_use]
pub fn class_word(profile: Profile) -> &'static str {
    match profile {
        Profile::Root => "root",
        Profile::Issuing => "intermediate",
        Profile::Node => "node",
        Profile::Workload => "workload",
        Profile::Server => "server",
        Profile::Operator => "operator",
    }
}

pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
