//! Which connections each node has open: at most a few, and the newest wins (R9); and what the node was issued, which
//! its connections are to show next.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use spiffe::{AuthorityId, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Two live Envoys (a hot restart) and an agent, with room for one that is just being replaced.
const CONNECTIONS_PER_NODE: usize = 4;
/// Nodes whose last certificate is remembered; past it those that are not connected are forgotten.
const MAX_ISSUED: usize = 20_000;

/// The open connections by node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: Mutex<BTreeMap<NodeId, Vec<(u64, CancellationToken)>>>,
    next: std::sync::atomic::AtomicU64,
    issued: Mutex<BTreeMap<NodeId, watch::Sender<Option<AuthorityId>>>>,
}

impl Registry {
    /// Enters a connection of `node`; `end` is cancelled if it must make room. The oldest goes first.
    pub(crate) fn enter(&self, node: &NodeId, end: CancellationToken) -> u64 {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = open.entry(node.clone()).or_default();
        connections.push((number, end));
        if connections.len() > CONNECTIONS_PER_NODE {
            let (_, oldest) = connections.remove(0);
            oldest.cancel();
        }
        number
    }

    /// `node` has been issued a certificate under `root`.
    pub(crate) fn note_issued(&self, node: &NodeId, root: AuthorityId) {
        self.with_issued(node, |issued| issued.send_replace(Some(root)));
    }

    /// The root of the last certificate that the node was issued, and of the next ones; none for whoever is no node.
    pub(crate) fn issued(&self, node: Option<&NodeId>) -> watch::Receiver<Option<AuthorityId>> {
        match node {
            Some(node) => self.with_issued(node, |issued| issued.subscribe()),
            None => watch::channel(None).1,
        }
    }

    fn with_issued<T>(&self, node: &NodeId, act: impl FnOnce(&watch::Sender<Option<AuthorityId>>) -> T) -> T {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.len() >= MAX_ISSUED && !issued.contains_key(node) {
            issued.retain(|_, one| one.receiver_count() > 0);
        }
        act(issued.entry(node.clone()).or_default())
    }

    /// The connection is gone.
    pub(crate) fn leave(&self, node: &NodeId, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = open.get_mut(node) {
            connections.retain(|(other, _)| *other != number);
            if connections.is_empty() {
                open.remove(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_connections_of_a_node_win() {
        let registry = Registry::default();
        let node = NodeId::parse("web").unwrap();
        let ends: Vec<_> = (0..6).map(|_| CancellationToken::new()).collect();
        let numbers: Vec<_> = ends.iter().map(|end| registry.enter(&node, end.clone())).collect();
        let ended: Vec<_> = ends.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(ended, [true, true, false, false, false, false]);
        for number in numbers {
            registry.leave(&node, number);
        }
        assert!(registry.open.lock().unwrap().is_empty());
    }

    #[test]
    fn connections_hear_what_their_node_was_issued_before_and_after_they_were_opened() {
        let registry = Registry::default();
        let name = |number: usize| NodeId::parse(&format!("n{number}")).unwrap();
        let root = |number| AuthorityId::of(certs::SpkiHash([number; 32]));
        let mut earlier = registry.issued(Some(&name(0)));
        assert!(!earlier.has_changed().unwrap());
        registry.note_issued(&name(0), root(1));
        registry.note_issued(&name(1), root(2));
        assert_eq!(*earlier.borrow_and_update(), Some(root(1)));
        assert_eq!(*registry.issued(Some(&name(0))).borrow(), Some(root(1)));
        assert_eq!(*registry.issued(None).borrow(), None);
        // Past the bound whoever is connected stays.
        for number in 2..=MAX_ISSUED {
            registry.note_issued(&name(number), root(3));
        }
        assert_eq!(registry.issued.lock().unwrap().len(), 2);
        assert_eq!(*registry.issued(Some(&name(0))).borrow(), Some(root(1)));
        assert_eq!(*registry.issued(Some(&name(1))).borrow(), None);
    }
}
