//! A node comes back with a certificate that has ended, by proof of its old key, once while operators let it.
//!
//! What it presents must stand in the journal byte for byte, so nothing but that row is believed: no authority, for the
//! root may have changed since. Whether it is the node's newest certificate, and the first time in this window, is
//! judged in the transaction that journals the new one.

use std::sync::Arc;

use audit::{Actor, Event};
use ca::ports::{CertificateFilter, CertificateRow, CertificateState};
use certs::{Certificate, Profile, PublicKey, Timestamp};
use proto::credence::v1::{FinishRequest, FinishResponse};
use spiffe::{
    Class, NodeId, Purpose, RecoveryRefusal, RecoverySpend, Spend, SpiffeId, SvidRequest,
    attestation::OldKeyClaim,
};

use super::{
    Call, NodeDoor, Refusal, TlsExporter,
    enrolment::{Enrolment, Proven},
};
use crate::ports::RecoveryWindow;

impl NodeDoor {
    /// The recovery window that is open at `now`.
    pub(super) fn recovery(&self, now: Timestamp) -> Option<Arc<RecoveryWindow>> {
        self.inputs.recovery.borrow().clone().filter(|window| window.is_open(now))
    }

    /// The journal's row of a certificate, if it holds exactly these octets as issued to `node`.
    async fn journalled(
        &self,
        certificate: &Certificate,
        id: &SpiffeId,
        node: &NodeId,
    ) -> Result<CertificateRow, Refusal> {
        let filter = CertificateFilter {
            serial: Some(certificate.serial().clone()),
            id: Some(id.clone()),
            node: Some(node.clone()),
            profile: Some(Profile::Node),
            ..CertificateFilter::default()
        };
        let rows = self.inputs.journal.certificates(&filter).await?;
        let is_it = |row: &CertificateRow| {
            row.state == CertificateState::Issued
                && row.chain.first().is_some_and(|leaf| leaf == certificate.der())
        };
        rows.into_iter().find(is_it).ok_or(Refusal::NotJournalled)
    }
}

/// Expired nodes ask again and again while no window is open. They share one row a minute in the audit log: what they
/// ask is no secret, and a thousand of them must not fill the disk.
pub(super) fn shared(event: Event) -> Event {
    let actor = Actor::Stranger { address: "expired nodes".to_owned() };
    Event { actor, object: "recovery".to_owned(), ..event }
}

impl Enrolment {
    /// Certifies the new key of a node whose certificate has ended.
    pub(super) async fn recover(
        &self,
        call: &mut Call,
        exporter: Option<TlsExporter>,
        request: &FinishRequest,
    ) -> Result<FinishResponse, Refusal> {
        let proven = self.proven(call, exporter, request)?;
        let window = self.door.recovery(call.now).ok_or(RecoveryRefusal::Closed)?;
        let certificate = Certificate::from_der(&request.expired_certificate_der)?;
        let node = self.node_of(&certificate).ok_or(Refusal::NoNode)?;
        call.object = format!("node {node}");
        holds_old_key(&proven, &certificate, request)?;
        let (binding, id) = self.door.entitled(&node)?;
        call.tenant = binding.tenant.clone();
        let ended = certificate.not_after();
        if call.now < ended {
            return Err(Refusal::NotExpired(ended));
        }
        if call.now.since(ended) > window.reach {
            return Err(Refusal::OutOfReach(ended));
        }
        let row = self.door.journalled(&certificate, &id, &node).await?;
        if row.intent.at < binding.created {
            return Err(Refusal::Outlived(node));
        }
        let spend = RecoverySpend {
            window: window.id,
            node: node.clone(),
            replaces: row.intent.serial,
            spki: proven.key.hash(),
            from: call.actor.to_string(),
        };
        let svid = self
            .door
            .issue(SvidRequest {
                id: id.clone(),
                profile: Profile::Node,
                public_key: proven.key,
                lifetime: self.door.settings.lifetime,
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
                tenant: binding.tenant.clone(),
                node: Some(node.clone()),
                issuer: None,
                purpose: Purpose::Recovery,
                deadline: None,
                spend: Some(Spend::Recovery(spend)),
                request_id: call.id.clone(),
            })
            .await?;
        tracing::info!(
            request_id = %call.id, actor = %call.actor, node_id = %node, serial = %svid.chain.leaf().serial(),
            authority_id = %svid.authority, %ended, "node came back with an expired certificate"
        );
        Ok(self.answer(&svid, &id, &binding))
    }

    /// The node of this trust domain that a certificate names.
    fn node_of(&self, certificate: &Certificate) -> Option<NodeId> {
        let [name] = certificate.uri_names() else { return None };
        let id = SpiffeId::parse(std::str::from_utf8(name).ok()?).ok()?;
        if id.trust_domain() != self.door.trust().own().trust_domain() {
            return None;
        }
        match id.class() {
            Ok(Class::Node(node)) => Some(node),
            _ => None,
        }
    }
}

/// Whether the caller holds the key of the certificate too, which must not be the one that it wants certified.
fn holds_old_key(proven: &Proven, certificate: &Certificate, request: &FinishRequest) -> Result<(), Refusal> {
    let old = PublicKey::from_spki_der(certificate.spki_der()).map_err(|_| Refusal::OldKey)?;
    if old.hash() == proven.key.hash() {
        return Err(Refusal::SameKey);
    }
    let claim = OldKeyClaim {
        nonce: &proven.nonce,
        exporter: &proven.exporter,
        spki: proven.key.hash(),
        certificate: certificate.der(),
        tenant: &proven.tenant,
    };
    claim.verify(&old, &request.old_proof).map_err(|_| Refusal::OldProof)
}
