//! What policy allows to be asked for: class, names, life, key and purpose belong together, or it is refused.

use std::{collections::BTreeSet, time::Duration};

use certs::{Profile, SpkiHash, Timestamp, Validity, format_duration};
use spiffe::{Class, NodeId, Purpose, Spend, SpiffeId, SvidRequest, TrustDomain};
use thiserror::Error;

use crate::{clock::is_bridged, policy::Policy};

/// Why policy forbids a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("{id} is outside the trust domain {domain}")]
    ForeignDomain { id: SpiffeId, domain: TrustDomain },
    #[error("{0} is reserved and given out to nobody")]
    Reserved(SpiffeId),
    #[error("{id} is of class {class}, which a {profile:?} certificate cannot carry")]
    WrongClass { id: SpiffeId, class: &'static str, profile: Profile },
    #[error("{id} cannot be issued for node {node}")]
    WrongNode { id: SpiffeId, node: NodeId },
    #[error("purpose {purpose:?} does not go with a {profile:?} certificate")]
    WrongPurpose { purpose: Purpose, profile: Profile },
    #[error("lifetime {} is not between {} and {}",
        format_duration(*lifetime), format_duration(*min), format_duration(*max))]
    Lifetime { lifetime: Duration, min: Duration, max: Duration },
    #[error("DNS names and addresses are for server certificates, not for {0}")]
    Names(SpiffeId),
    #[error("the key is that of an authority")]
    AuthorityKey,
    #[error(
        "an enrolment spends a join token for its own key, and a recovery a node's coming back; nothing else does"
    )]
    Spend,
    #[error("the certificate would break rule {rule}: {message}")]
    Lint { rule: &'static str, message: String },
}

/// A request that policy allows.
#[derive(Debug)]
pub(crate) struct Authorized {
    pub(super) request: Box<SvidRequest>,
    /// The node that it is for; of a node's own certificate, that node.
    pub(super) node: Option<NodeId>,
    /// What the system's clock says where it is behind the time to go by, and must be able to believe the certificate.
    by_clock: Option<Timestamp>,
}

impl Authorized {
    /// The same, for whoever goes by a clock that says `at` too.
    pub(crate) fn by_clock(self, at: Option<Timestamp>) -> Self {
        Self { by_clock: at, ..self }
    }

    /// What the certificate will say of its life. Where somebody goes by a clock that is behind it begins by that one, if
    /// one certificate can be good by both; it ends no later for that.
    pub(super) fn validity(&self, now: Timestamp, issuer: Validity) -> Validity {
        let lifetime = self.request.lifetime;
        let validity = Validity::starting(now, lifetime, Some(issuer));
        match self.by_clock {
            Some(clock) if is_bridged(now.since(clock), lifetime) => {
                let earlier = Validity::starting(clock, self.request.profile.max_lifetime(), Some(issuer));
                Validity {
                    not_before: earlier.not_before.min(validity.not_before),
                    not_after: earlier.not_after.min(validity.not_after),
                }
            }
            _ => validity,
        }
    }

    /// Holds `request` against policy; `authority_keys` are the keys of every authority there ever was.
    pub(crate) fn authorize(
        request: SvidRequest,
        policy: &Policy,
        authority_keys: &BTreeSet<SpkiHash>,
    ) -> Result<Self, Refusal> {
        let id = &request.id;
        if *id.trust_domain() != policy.trust_domain {
            return Err(Refusal::ForeignDomain { id: id.clone(), domain: policy.trust_domain.clone() });
        }
        let node = allowed_node(&request)?;
        if !purpose_fits(request.purpose, request.profile) {
            return Err(Refusal::WrongPurpose { purpose: request.purpose, profile: request.profile });
        }
        let (min, max) = policy.bounds(request.profile);
        if !(min..=max).contains(&request.lifetime) {
            return Err(Refusal::Lifetime { lifetime: request.lifetime, min, max });
        }
        let has_names = !request.dns_names.is_empty() || !request.ip_addresses.is_empty();
        if has_names && request.profile != Profile::Server {
            return Err(Refusal::Names(id.clone()));
        }
        let spki = request.public_key.hash();
        if authority_keys.contains(&spki) {
            return Err(Refusal::AuthorityKey);
        }
        if !spend_fits(&request, spki) {
            return Err(Refusal::Spend);
        }
        Ok(Self { request: Box::new(request), node, by_clock: None })
    }
}

fn allowed_node(request: &SvidRequest) -> Result<Option<NodeId>, Refusal> {
    let id = &request.id;
    let class = id.class().map_err(|_| Refusal::Reserved(id.clone()))?;
    match (request.profile, &class) {
        (Profile::Node, Class::Node(node)) => match &request.node {
            Some(other) if other != node => Err(Refusal::WrongNode { id: id.clone(), node: other.clone() }),
            _ => Ok(Some(node.clone())),
        },
        (Profile::Workload, Class::Workload) => Ok(request.node.clone()),
        (Profile::Server, Class::Server) | (Profile::Operator, Class::Operator(_)) => match &request.node {
            Some(node) => Err(Refusal::WrongNode { id: id.clone(), node: node.clone() }),
            None => Ok(None),
        },
        (profile, class) => Err(Refusal::WrongClass { id: id.clone(), class: class.word(), profile }),
    }
}

/// Whether the request uses up what its purpose demands, for its own key and node, and nothing else.
fn spend_fits(request: &SvidRequest, spki: SpkiHash) -> bool {
    match (request.purpose, &request.spend) {
        (Purpose::Enrolment, Some(Spend::Token(spend))) => spend.spki == spki,
        (Purpose::Recovery, Some(Spend::Recovery(spend))) => {
            spend.spki == spki && request.node.as_ref() == Some(&spend.node)
        }
        (Purpose::Enrolment | Purpose::Recovery, _) => false,
        (_, spend) => spend.is_none(),
    }
}

fn purpose_fits(purpose: Purpose, profile: Profile) -> bool {
    match purpose {
        Purpose::Enrolment | Purpose::NodeRenewal | Purpose::Recovery => profile == Profile::Node,
        Purpose::Delivery => profile == Profile::Workload,
        Purpose::Renewal | Purpose::ForcedRenewal => matches!(profile, Profile::Workload | Profile::Server),
        Purpose::Server => profile == Profile::Server,
        // Of a workload too: an operator asks for one to probe another (`credence verify`).
        Purpose::Operator => matches!(profile, Profile::Operator | Profile::Workload),
    }
}
