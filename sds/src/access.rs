//! Which secret a name means, and whether a node may have it (PURE; DESIGN section 5, "Names in SDS").

use spiffe::{Binding, Bindings, BlockList, EdgeName, NodeId, SecretName, SpiffeId, Trust, TrustDomain};
use thiserror::Error;

use xds::Views;

use crate::{
    edges::{self, EdgePart, EdgeSecrets},
    imported::ImportedSecrets,
};

/// What a granted name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// The node's own SVID of this identity.
    Svid(SpiffeId),
    /// The validation context of this trust domain.
    Context(TrustDomain),
    /// Every bundle that proxies may trust, each for its own domain.
    All,
    /// An imported secret of the node's tenant.
    Imported(SecretName),
    /// A certificate for public names, or what shows that one of them is ours.
    Edge(EdgeName, EdgePart),
}

/// Why a name does not exist for a node. The node hears none of it; the words stand in audit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Absence {
    /// No name of the grammar.
    #[error("no such name")]
    UnknownName,
    /// The node has no binding, or a disabled one.
    #[error("node {0} has no enabled binding")]
    NotBound(NodeId),
    /// The identity is not among those of the binding.
    #[error("identity {0} is not bound to the node")]
    NotGranted(SpiffeId),
    /// The node itself or the identity is blocked.
    #[error("identity {0} is blocked")]
    Blocked(SpiffeId),
    /// There is no such imported secret, or none of the node's identities is granted it.
    #[error("secret {0} does not exist or is not granted to an identity of the node")]
    SecretNotGranted(SecretName),
    /// There is no such edge in the node's namespace, or no listener of the node shows it.
    #[error("edge {0} does not exist in the node's namespace or no listener of the node shows it")]
    EdgeNotShown(EdgeName),
    /// What showed an ACME server a name of this edge is withdrawn; a proxy asks for it until it has drained.
    #[error("nothing is shown to ACME servers for edge {0} now")]
    ChallengeOver(EdgeName),
    /// Proxies check against revocation lists, and what this name stands for cannot.
    #[error("Envoy's SPIFFE validator, which {0} needs, ignores the revocation lists that are switched on")]
    Unlisted(&'static str),
    /// There is no bundle of that trust domain.
    #[error("trust domain {0} is not trusted")]
    UnknownDomain(TrustDomain),
}

/// What decides: the facts of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What nodes are entitled to.
    pub bindings: &'a Bindings,
    /// Who is blocked.
    pub blocks: &'a BlockList,
    /// What may be trusted.
    pub trust: &'a Trust,
    /// What was imported.
    pub imported: &'a ImportedSecrets,
    /// Certificates for public names.
    pub edges: &'a EdgeSecrets,
    /// What listeners nodes have, and in which drain generation.
    pub views: &'a Views,
}

/// Says what `name` means for `node`. A drain generation `?g=N` changes the name and not the meaning; one that has not
/// begun does not exist, so that nobody can ask for more names than there are.
///
/// # Errors
/// See [`Absence`]; towards the node all of them look the same.
pub fn decide(node: &NodeId, name: &str, facts: Facts<'_>) -> Result<Grant, Absence> {
    let binding = admit(node, facts)?;
    let own = facts.trust.own().trust_domain();
    let (base, generation) = with_generation(name).ok_or(Absence::UnknownName)?;
    if generation > facts.views.drained {
        return Err(Absence::UnknownName);
    }
    match base {
        "default" => may_have(binding, binding.default_identity().clone(), facts.blocks),
        "ROOTCA" => Ok(Grant::Context(own.clone())),
        "ALL" if facts.trust.lists().are_wanted() => Err(Absence::Unlisted("ALL")),
        "ALL" => Ok(Grant::All),
        _ if base.starts_with(SecretName::SCHEME) => {
            let path = base.strip_prefix(SecretName::SCHEME).unwrap_or_default();
            let secret = SecretName::from_path(path).ok_or(Absence::UnknownName)?;
            if facts.imported.grants(binding, &secret, facts.blocks) {
                Ok(Grant::Imported(secret))
            } else {
                Err(Absence::SecretNotGranted(secret))
            }
        }
        _ if base.starts_with(EdgeName::SCHEME) => {
            let path = base.strip_prefix(EdgeName::SCHEME).unwrap_or_default();
            let (edge, part) = edges::parse(path).ok_or(Absence::UnknownName)?;
            let grants = |uri: &str, part| facts.edges.grants((binding, uri), (&edge, part), facts.views);
            if grants(base, &part) {
                return Ok(Grant::Edge(edge, part));
            }
            let is_over = part != EdgePart::Certificate && grants(&edge.to_uri(), &EdgePart::Certificate);
            Err(if is_over { Absence::ChallengeOver(edge) } else { Absence::EdgeNotShown(edge) })
        }
        _ => {
            let rest = base.strip_prefix("spiffe://").ok_or(Absence::UnknownName)?;
            if rest.contains('/') {
                let id = SpiffeId::parse(base).map_err(|_| Absence::UnknownName)?;
                return may_have(binding, id, facts.blocks);
            }
            let domain = TrustDomain::parse(rest).map_err(|_| Absence::UnknownName)?;
            match facts.trust.of(&domain) {
                Some(_) => Ok(Grant::Context(domain)),
                None => Err(Absence::UnknownDomain(domain)),
            }
        }
    }
}

/// Whether `node` may still hold a leaf of `id`.
///
/// # Errors
/// See [`Absence`].
pub fn may_hold(node: &NodeId, id: &SpiffeId, facts: Facts<'_>) -> Result<(), Absence> {
    may_have(admit(node, facts)?, id.clone(), facts.blocks).map(|_| ())
}

/// The binding of a node that may ask at all.
fn admit<'a>(node: &NodeId, facts: Facts<'a>) -> Result<&'a Binding, Absence> {
    let binding = facts.bindings.enabled(node).ok_or_else(|| Absence::NotBound(node.clone()))?;
    // Nearly always nobody is blocked, and this is asked for every leaf whenever a binding changes.
    if !facts.blocks.is_empty() {
        let itself = facts.trust.own().trust_domain().node_id(node);
        if facts.blocks.contains(&itself) {
            return Err(Absence::Blocked(itself));
        }
    }
    Ok(binding)
}

fn may_have(binding: &Binding, id: SpiffeId, blocks: &BlockList) -> Result<Grant, Absence> {
    if !binding.identities.contains(&id) {
        Err(Absence::NotGranted(id))
    } else if blocks.contains(&id) {
        Err(Absence::Blocked(id))
    } else {
        Ok(Grant::Svid(id))
    }
}

/// Cuts a well-formed `?g=N` off and reads it; `None` when there is a question mark and something else behind it. One
/// number has one spelling, so that two names never mean one generation; the first one has no number.
fn with_generation(name: &str) -> Option<(&str, u64)> {
    let Some((base, query)) = name.split_once('?') else { return Some((name, 0)) };
    let number = query.strip_prefix("g=")?;
    let generation: u64 = number.parse().ok()?;
    (generation.to_string() == number).then_some((base, generation))
}

#[cfg(test)]
mod tests;
