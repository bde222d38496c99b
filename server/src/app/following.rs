//! How leaves do that move from one issuer to another, as proxies have acknowledged and refused them; and which issuers
//! bindings name.

use std::{collections::BTreeSet, sync::Arc};

use ca::{Following, migration::Followers};
use sds::SdsStatus;
use spiffe::{Bindings, IssuerName, Signers};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How many of those that are behind are named.
const MAX_NAMES: usize = 5;

/// Looks at leaves.
pub(super) struct LeafFollowing {
    pub(super) sds: watch::Receiver<Arc<SdsStatus>>,
    pub(super) signers: watch::Receiver<Arc<Signers>>,
    pub(super) bindings: watch::Receiver<Arc<Bindings>>,
}

impl Following for LeafFollowing {
    fn followers(&self, of: &IssuerName) -> Followers {
        let (status, signers) = (self.sds.borrow().clone(), self.signers.borrow().clone());
        let bindings = self.bindings.borrow().clone();
        let counted = status.issuer(of);
        let mut followers = Followers {
            issued: counted.issued,
            failed: counted.failed + counted.refused,
            ..Followers::default()
        };
        for leaf in status.leaves().filter(|leaf| leaf.wanted) {
            let wish = bindings.get(&leaf.node).and_then(|binding| binding.issuer.as_ref());
            let signer = signers.of(&leaf.identity, wish);
            if wish.is_some() || signer.name != *of {
                continue;
            }
            followers.total += 1;
            if leaf.acknowledged_authority == signer.authority && signer.authority.is_some() {
                continue;
            }
            followers.behind += 1;
            if followers.waits_for.len() < MAX_NAMES {
                followers.waits_for.push(format!("{} on {}", leaf.identity, leaf.node));
            }
        }
        followers
    }
}

/// The issuers that bindings name.
pub(super) fn named(bindings: &Bindings) -> Arc<BTreeSet<IssuerName>> {
    Arc::new(bindings.iter().filter_map(|binding| binding.issuer.clone()).collect())
}

/// Tells which issuers bindings name, as they change.
pub(super) async fn follow_named(
    mut bindings: watch::Receiver<Arc<Bindings>>,
    shown: watch::Sender<Arc<BTreeSet<IssuerName>>>,
    shutdown: CancellationToken,
) {
    loop {
        let next = named(&bindings.borrow_and_update());
        shown.send_if_modified(|known| {
            let is_changed = *known != next;
            *known = next;
            is_changed
        });
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = bindings.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
