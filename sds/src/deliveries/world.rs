//! The facts that decide, at one moment.

use std::sync::Arc;

use spiffe::{Bindings, BlockList, IssuerName, NodeId, Signer, Signers, SpiffeId, Trust};

use crate::{LeafKey, access::Facts, edges::EdgeWorld, imported::ImportedSecrets};

/// The facts that decide, as the manager last saw them.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) trust: Arc<Trust>,
    /// Who signs whose leaves.
    pub(crate) signers: Arc<Signers>,
    pub(crate) bindings: Arc<Bindings>,
    pub(crate) blocks: Arc<BlockList>,
    pub(crate) imported: Arc<ImportedSecrets>,
    pub(crate) edge: EdgeWorld,
}

impl World {
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            bindings: &self.bindings,
            blocks: &self.blocks,
            trust: &self.trust,
            imported: &self.imported,
            edges: &self.edge.edges,
            views: &self.edge.views,
        }
    }

    /// Who signs a leaf.
    pub(super) fn signer(&self, key: &LeafKey) -> Signer {
        self.signers.of(&key.identity, self.issuer(&key.node))
    }

    /// Whom the binding of a node names.
    pub(super) fn issuer(&self, node: &NodeId) -> Option<&IssuerName> {
        self.bindings.get(node)?.issuer.as_ref()
    }

    /// Whether `node` stands in `other` as it stands here.
    pub(super) fn is_same_for(&self, node: &NodeId, other: &Self) -> bool {
        let binding = self.bindings.get(node);
        if binding != other.bindings.get(node) {
            return false;
        }
        if Arc::ptr_eq(&self.blocks, &other.blocks) {
            return true;
        }
        let is_as_before = |id: &SpiffeId| self.blocks.contains(id) == other.blocks.contains(id);
        is_as_before(&self.trust.own().trust_domain().node_id(node))
            && binding.is_none_or(|binding| binding.identities.iter().all(is_as_before))
    }
}
