//! What a node's identity entitles it to.

use std::collections::BTreeMap;

use certs::{Timestamp, Validity};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Class, IssuerName, Labels, Namespace, NodeId, Peer, SpiffeId, Tenant, TrustDomain, VerifiedSvid,
    is_unprintable,
};

/// The most workload identities one node may speak for.
pub const MAX_IDENTITIES: usize = 64;
/// The most labels one node may have.
pub const MAX_LABELS: usize = 64;
/// The longest key of a label, in characters.
pub const MAX_LABEL_KEY: usize = 128;
/// The longest value of a label, in characters.
pub const MAX_LABEL_VALUE: usize = 256;
/// What the keys of labels begin with that nodes carry by themselves.
const OWN_LABELS: &str = "credence/";
/// The label that every node carries by itself: its own id, so that a document can mean one node.
pub const NODE_LABEL: &str = "credence/node";

/// Whether a node may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindingState {
    /// It may enrol, connect and renew.
    Enabled,
    /// It may do nothing; kept so that its name is not given away unnoticed.
    Disabled,
}

/// Why a binding cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BindingError {
    /// A node without a workload identity cannot serve anything.
    #[error("node {0} has no workload identity")]
    NoIdentity(NodeId),
    /// An identity of another trust domain.
    #[error(
        "identity {id} is not in trust domain {domain}: an identity of it begins with spiffe://{domain}/"
    )]
    ForeignIdentity {
        /// The identity asked for.
        id: SpiffeId,
        /// The one trust domain of this deployment.
        domain: TrustDomain,
    },
    /// An identity under `/credence/`.
    #[error("identity {0} is reserved")]
    ReservedIdentity(SpiffeId),
    /// A label that cannot be given to a node.
    #[error("label {key:?} {fault}")]
    Label {
        /// Its key, of a long one the beginning.
        key: String,
        /// What is wrong with it.
        fault: LabelFault,
    },
    /// More than [`MAX_IDENTITIES`] or [`MAX_LABELS`].
    #[error("{what}: {count} are too many, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
}

/// What is wrong with a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LabelFault {
    /// The key is empty.
    #[error("has no key: write KEY=VALUE, such as app=web")]
    NoKey,
    /// The key is longer than [`MAX_LABEL_KEY`].
    #[error("has a key of {0} characters, at most {MAX_LABEL_KEY} are allowed")]
    LongKey(usize),
    /// The value is longer than [`MAX_LABEL_VALUE`].
    #[error("has a value of {0} characters, at most {MAX_LABEL_VALUE} are allowed")]
    LongValue(usize),
    /// A character that a terminal would obey.
    #[error("has {0:?}, which cannot be printed")]
    Unprintable(char),
    /// One that nodes carry by themselves.
    #[error("is Credence's own: nodes carry by themselves what is under {OWN_LABELS}")]
    Own,
}

/// Checks labels that somebody gives to a node.
///
/// # Errors
/// Of the first that has no key, is too long, has a character that no terminal prints, or is Credence's own.
pub fn check_labels(labels: &Labels) -> Result<(), BindingError> {
    let fault = |(key, value): (&String, &String)| match (key.chars().count(), value.chars().count()) {
        (0, _) => Some(LabelFault::NoKey),
        (length, _) if length > MAX_LABEL_KEY => Some(LabelFault::LongKey(length)),
        (_, length) if length > MAX_LABEL_VALUE => Some(LabelFault::LongValue(length)),
        _ if key.starts_with(OWN_LABELS) => Some(LabelFault::Own),
        _ => key.chars().chain(value.chars()).find(|c| is_unprintable(*c)).map(LabelFault::Unprintable),
    };
    match labels.iter().find_map(|label| Some((label.0, fault(label)?))) {
        Some((key, fault)) => Err(BindingError::Label { key: key.chars().take(64).collect(), fault }),
        None => Ok(()),
    }
}

/// What one node is entitled to. Looked up by the identity of its certificate; what the node says of itself is
/// compared with it and never believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The node.
    pub node: NodeId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Which documents may reach it.
    pub namespace: Namespace,
    /// What selectors match.
    pub labels: Labels,
    /// The workload identities it speaks for; the first is its `default`. Never empty.
    pub identities: Vec<SpiffeId>,
    /// Who signs the leaves of these identities for this node; `None` for the default of the deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerName>,
    /// Whether it may connect.
    pub state: BindingState,
    /// When it was written first. Certificates from before belong to an earlier node of this name, which was
    /// removed: they open nothing.
    pub created: Timestamp,
}

impl Binding {
    /// Checks the rules that hold for every binding of `domain`.
    ///
    /// # Errors
    /// See [`BindingError`].
    pub fn validate(&self, domain: &TrustDomain) -> Result<(), BindingError> {
        if self.identities.is_empty() {
            return Err(BindingError::NoIdentity(self.node.clone()));
        }
        for (what, count, limit) in
            [("identities", self.identities.len(), MAX_IDENTITIES), ("labels", self.labels.len(), MAX_LABELS)]
        {
            if count > limit {
                return Err(BindingError::TooMany { what, count, limit });
            }
        }
        for id in &self.identities {
            if id.trust_domain() != domain {
                return Err(BindingError::ForeignIdentity { id: id.clone(), domain: domain.clone() });
            }
            if id.class() != Ok(Class::Workload) {
                return Err(BindingError::ReservedIdentity(id.clone()));
            }
        }
        Ok(())
    }

    /// Whether `svid` was issued for this binding, and not for an earlier one of the same name.
    #[must_use]
    pub fn admits(&self, svid: &VerifiedSvid) -> bool {
        *svid.class() == Class::Node(self.node.clone())
            && svid.not_before() >= (self.created - Validity::BACKDATE).floor_secs()
    }

    /// The identity that the secret name `default` means.
    #[must_use]
    pub fn default_identity(&self) -> &SpiffeId {
        self.identities.first().expect("a validated binding has an identity")
    }

    /// Whether the node carries every label of `wanted`; [`NODE_LABEL`] is its id, whatever its labels say.
    #[must_use]
    pub fn matches(&self, wanted: &Labels) -> bool {
        wanted.iter().all(|(key, value)| match key.as_str() {
            NODE_LABEL => self.node.as_str() == value,
            _ => self.labels.get(key) == Some(value),
        })
    }
}

/// All bindings at one moment. Published as `watch<Arc<Bindings>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    by_node: BTreeMap<NodeId, Binding>,
}

impl Bindings {
    /// Collects bindings; a later one of the same node wins.
    #[must_use]
    pub fn new(bindings: impl IntoIterator<Item = Binding>) -> Self {
        Self { by_node: bindings.into_iter().map(|binding| (binding.node.clone(), binding)).collect() }
    }

    /// The binding of `node`.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&Binding> {
        self.by_node.get(node)
    }

    /// The binding of `node` if it may connect.
    #[must_use]
    pub fn enabled(&self, node: &NodeId) -> Option<&Binding> {
        self.get(node).filter(|binding| binding.state == BindingState::Enabled)
    }

    /// The binding of the node at the other end, if that may connect with the certificate it presented.
    #[must_use]
    pub fn of(&self, peer: &Peer) -> Option<&Binding> {
        self.enabled(peer.node()?).filter(|binding| binding.admits(peer.svid()))
    }

    /// All of them, by node.
    pub fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.by_node.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_node.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_printable_and_none_is_credences_own() {
        let check = |key: &str, value: &str, expected: Option<LabelFault>| {
            let found = check_labels(&Labels::from([(key.to_owned(), value.to_owned())]));
            let found = found.err().map(|error| match error {
                BindingError::Label { fault, .. } => fault,
                other => panic!("{other}"),
            });
            assert_eq!(found, expected, "{key:?}={value:?}");
        };
        check("app", "web", None);
        check("app", "", None);
        check("team.example/größe", "größer als 漢字", None);
        check(&"k".repeat(MAX_LABEL_KEY), &"v".repeat(MAX_LABEL_VALUE), None);
        check("", "web", Some(LabelFault::NoKey));
        check(&"k".repeat(300), "web", Some(LabelFault::LongKey(300)));
        check("app", &"v".repeat(90_000), Some(LabelFault::LongValue(90_000)));
        check("app", "\u{1b}[2J", Some(LabelFault::Unprintable('\u{1b}')));
        check("a\nb", "web", Some(LabelFault::Unprintable('\n')));
        check("app", "\u{202e}bew", Some(LabelFault::Unprintable('\u{202e}')));
        check(NODE_LABEL, "web-2", Some(LabelFault::Own));
    }
}
