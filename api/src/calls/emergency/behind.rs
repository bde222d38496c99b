//! Who was left behind when everything that a stolen key signed was replaced (PURE).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ca::ports::Unexpired;
use certs::{Profile, Serial};
use spiffe::{AuthorityId, BindingState, Bindings, BlockList, NodeId, SpiffeId};

use crate::expiry::LeafFact;

/// Who signed the newest certificate of each identity and node.
pub(super) type Newest = BTreeMap<(SpiffeId, Option<NodeId>), AuthorityId>;

/// What is known of the fleet.
pub(super) struct Known<'a> {
    /// The authorities of the stolen root.
    pub(super) stolen: &'a BTreeSet<AuthorityId>,
    /// The numbers of the unexpired certificates that they signed.
    pub(super) serials: &'a HashSet<Serial>,
    pub(super) newest: &'a Newest,
    pub(super) bindings: &'a Bindings,
    pub(super) blocks: &'a BlockList,
    /// Who signed what a node came with last; nobody if it has not come yet.
    pub(super) shown: &'a dyn Fn(&NodeId) -> Vec<AuthorityId>,
    pub(super) is_connected: &'a dyn Fn(&NodeId) -> bool,
}

impl Known<'_> {
    /// Whether the owner of a certificate has a newer one from another root, as far as is known: that of a node may
    /// have been lost on the way, unless the node has come with one since.
    pub(super) fn is_replaced(&self, id: &SpiffeId, node: Option<&NodeId>, profile: Profile) -> bool {
        let newest = self.newest.get(&(id.clone(), node.cloned()));
        let is_issued = newest.is_some_and(|by| !self.stolen.contains(by));
        let lacks = |node: &NodeId| {
            let shown = (self.shown)(node);
            !shown.is_empty() && shown.iter().all(|by| self.stolen.contains(by))
        };
        is_issued && !(profile == Profile::Node && node.is_some_and(lacks))
    }

    /// Nodes that are away and connected ones that still show such a certificate, of those that are entitled to
    /// another; and operators. By name.
    pub(super) fn left_behind(&self, unexpired: &[Unexpired], facts: &[LeafFact]) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for leaf in unexpired {
            if self.blocks.contains(&leaf.id) || self.is_replaced(&leaf.id, leaf.node.as_ref(), leaf.profile)
            {
                continue;
            }
            match (leaf.profile, &leaf.node) {
                (Profile::Operator, _) => {
                    names.insert(leaf.id.path().trim_start_matches("/credence/").to_owned());
                }
                // One that is connected came in by a new certificate; what it makes of its leaves follows below.
                (Profile::Node | Profile::Workload, Some(node))
                    if self.is_entitled(leaf, node) && !(self.is_connected)(node) =>
                {
                    names.insert(node.to_string());
                }
                _ => {}
            }
        }
        for fact in facts.iter().filter(|fact| fact.is_wanted) {
            let shows = fact.acknowledged.as_ref().is_some_and(|serial| self.serials.contains(serial));
            if shows && (self.is_connected)(&fact.node) {
                names.insert(fact.node.to_string());
            }
        }
        names
    }

    fn is_entitled(&self, leaf: &Unexpired, node: &NodeId) -> bool {
        let binding = self.bindings.get(node).filter(|binding| binding.state == BindingState::Enabled);
        binding.is_some_and(|binding| leaf.profile == Profile::Node || binding.identities.contains(&leaf.id))
    }
}

#[cfg(test)]
mod tests {
    use certs::{SpkiHash, Timestamp};
    use spiffe::{Binding, Block, Namespace, Tenant};

    use super::*;

    const STOLEN: u8 = 1;
    const NEXT: u8 = 2;

    fn authority(number: u8) -> AuthorityId {
        AuthorityId::of(SpkiHash([number; 32]))
    }

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td{path}")).unwrap()
    }

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn leaf(id: SpiffeId, at: Option<&str>, profile: Profile) -> Unexpired {
        let not_after = Timestamp::MAX;
        Unexpired { id, node: at.map(node), profile, authority: authority(STOLEN), not_after }
    }

    fn binding(name: &str, state: BindingState) -> Binding {
        Binding {
            node: node(name),
            tenant: Tenant::default(),
            namespace: Namespace::default(),
            labels: BTreeMap::new(),
            identities: vec![id("/web")],
            issuer: None,
            state,
            created: Timestamp::EPOCH,
        }
    }

    /// One world of `web-1` (entitled to `/web`), `off` (disabled) and the operator ann.
    struct World {
        newest: Newest,
        shown: Vec<AuthorityId>,
        connected: bool,
        facts: Vec<LeafFact>,
        blocks: BlockList,
    }

    impl World {
        fn new(newest: &[(SpiffeId, Option<&str>, u8)]) -> Self {
            let newest = newest.iter().map(|(id, at, by)| ((id.clone(), at.map(node)), authority(*by)));
            Self {
                newest: newest.collect(),
                shown: Vec::new(),
                connected: false,
                facts: Vec::new(),
                blocks: BlockList::default(),
            }
        }

        fn left_behind(&self, unexpired: &[Unexpired]) -> Vec<String> {
            let enabled = [("web-1", BindingState::Enabled), ("off", BindingState::Disabled)];
            let bindings = Bindings::new(enabled.map(|(name, state)| binding(name, state)));
            let known = Known {
                stolen: &[authority(STOLEN)].into(),
                serials: &[Serial::from_random([7; 20])].into(),
                newest: &self.newest,
                bindings: &bindings,
                blocks: &self.blocks,
                shown: &|_| self.shown.clone(),
                is_connected: &|_| self.connected,
            };
            known.left_behind(unexpired, &self.facts).into_iter().collect()
        }
    }

    #[test]
    fn names_whoever_is_entitled_to_another_certificate_and_has_none() {
        let of_node = || leaf(id("/credence/node/web-1"), Some("web-1"), Profile::Node);
        let of_web = || leaf(id("/web"), Some("web-1"), Profile::Workload);
        let nobody = Vec::<String>::new();
        let none = World::new(&[]);
        assert_eq!(none.left_behind(&[of_node(), of_web()]), ["web-1"]);
        assert_eq!(none.left_behind(&[leaf(id("/other"), Some("web-1"), Profile::Workload)]), nobody);
        assert_eq!(none.left_behind(&[leaf(id("/credence/node/off"), Some("off"), Profile::Node)]), nobody);
        assert_eq!(none.left_behind(&[leaf(id("/credence/node/gone"), Some("gone"), Profile::Node)]), nobody);
        assert_eq!(none.left_behind(&[leaf(id("/credence/server"), None, Profile::Server)]), nobody);
        let ann = || leaf(id("/credence/operator/ann"), None, Profile::Operator);
        assert_eq!(none.left_behind(&[ann()]), ["operator/ann"]);
        let block = Block { since: Timestamp::EPOCH, reason: String::new(), is_enforced: false };
        let blocked = World { blocks: BlockList::new([(ann().id, block)]), ..World::new(&[]) };
        assert_eq!(blocked.left_behind(&[ann()]), nobody, "whoever is blocked gets no other");

        let replaced = |by| World::new(&[(id("/credence/node/web-1"), Some("web-1"), by)]);
        assert_eq!(replaced(NEXT).left_behind(&[of_node()]), nobody);
        assert_eq!(replaced(STOLEN).left_behind(&[of_node()]), ["web-1"]);
        assert_eq!(World { connected: true, ..replaced(STOLEN) }.left_behind(&[of_node()]), nobody);
    }

    #[test]
    fn a_certificate_that_its_node_never_came_with_may_have_been_lost() {
        let of_node = [leaf(id("/credence/node/web-1"), Some("web-1"), Profile::Node)];
        let issued = |shown: &[u8], connected| World {
            shown: shown.iter().copied().map(authority).collect(),
            connected,
            ..World::new(&[(id("/credence/node/web-1"), Some("web-1"), NEXT)])
        };
        assert_eq!(issued(&[STOLEN], false).left_behind(&of_node), ["web-1"]);
        assert_eq!(issued(&[STOLEN, STOLEN], false).left_behind(&of_node), ["web-1"]);
        let nobody = Vec::<String>::new();
        assert_eq!(issued(&[STOLEN, NEXT], false).left_behind(&of_node), nobody, "its agent came with it");
        assert_eq!(issued(&[], false).left_behind(&of_node), nobody, "it has not come since we began");
        assert_eq!(issued(&[STOLEN], true).left_behind(&of_node), nobody);
    }

    #[test]
    fn a_connected_proxy_that_shows_such_a_leaf_is_named() {
        let fact = |serial, is_wanted| LeafFact {
            node: node("web-1"),
            identity: id("/web"),
            is_wanted,
            acknowledged: Some(Serial::from_random([serial; 20])),
        };
        let world = |fact, connected| World { facts: vec![fact], connected, ..World::new(&[]) };
        assert_eq!(world(fact(7, true), true).left_behind(&[]), ["web-1"]);
        for quiet in [world(fact(8, true), true), world(fact(7, false), true), world(fact(7, true), false)] {
            assert_eq!(quiet.left_behind(&[]), Vec::<String>::new());
        }
    }
}
