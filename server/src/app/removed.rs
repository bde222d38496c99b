//! Nodes that were removed: what was known of them is forgotten, so that nobody counts them any more, and so that a node
//! which is enrolled anew by the same name inherits nothing, least of all which roots the one before has proven.

use std::{collections::BTreeMap, sync::Arc};

use api::node::NodeDoor;
use certs::Timestamp;
use spiffe::{Bindings, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xds::Board;

/// When each node was enrolled.
type Enrolled = BTreeMap<NodeId, Timestamp>;

/// Follows bindings until `shutdown`.
pub(super) async fn forget(
    mut bindings: watch::Receiver<Arc<Bindings>>,
    board: Arc<Board>,
    nodes: Arc<NodeDoor>,
    shutdown: CancellationToken,
) {
    let mut before = enrolled(&bindings.borrow_and_update());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = bindings.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let now = enrolled(&bindings.borrow_and_update());
        for (node, again) in gone(&before, &now) {
            board.forget(node, again);
            nodes.forget(node, again);
        }
        before = now;
    }
}

fn enrolled(bindings: &Bindings) -> Enrolled {
    bindings.iter().map(|binding| (binding.node.clone(), binding.created)).collect()
}

/// Who of `before` is no more, each with when another one was enrolled by its name, if one was (PURE).
fn gone<'a>(before: &'a Enrolled, now: &Enrolled) -> impl Iterator<Item = (&'a NodeId, Option<Timestamp>)> {
    let ended = before.iter().filter(|(node, enrolled)| now.get(*node) != Some(*enrolled));
    ended.map(|(node, _)| (node, now.get(node).copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_removed_or_enrolled_anew_is_gone() {
        let of = |nodes: &[(&str, i64)]| -> Enrolled {
            let enrolled =
                |(node, secs): &(&str, i64)| (NodeId::parse(node).unwrap(), Timestamp::from_unix_secs(*secs));
            nodes.iter().map(enrolled).collect()
        };
        let before = of(&[("stays", 1), ("removed", 2), ("again", 3)]);
        let now = of(&[("stays", 1), ("again", 7), ("new", 8)]);
        let gone: Vec<_> = gone(&before, &now).map(|(node, again)| (node.to_string(), again)).collect();
        let again = Some(Timestamp::from_unix_secs(7));
        assert_eq!(gone, [("again".to_owned(), again), ("removed".to_owned(), None)]);
    }
}
