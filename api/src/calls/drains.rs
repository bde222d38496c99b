//! Connections that end before their time: whose, how soon, and how far that is.

use std::collections::{BTreeMap, BTreeSet};

use spiffe::NodeId;
use xds::{TypeUrl, catalog::PlannedNodes};

use super::Calls;
use crate::wire;

/// Names of one list in an answer.
const MAX_NAMES: usize = 100;

impl Calls {
    /// A plan of a drain in numbers, with the drain time of each proxy as far as it is known.
    pub(super) fn drain(&self, planned: &[PlannedNodes]) -> wire::Drain {
        let mut drain = wire::Drain::default();
        let mut nodes: BTreeSet<&NodeId> = BTreeSet::new();
        for group in planned {
            let of = |wanted| group.changes.iter().filter(|change| change.type_url == wanted).count();
            drain.listeners += of(TypeUrl::Listener) * group.nodes.len();
            drain.clusters += of(TypeUrl::Cluster) * group.nodes.len();
            nodes.extend(&group.nodes);
        }
        drain.proxies = nodes.len();
        let mut told: BTreeMap<u64, usize> = BTreeMap::new();
        for node in nodes {
            match self.delivery.drain_time(node) {
                Some(time) => *told.entry(time.as_secs()).or_default() += 1,
                None => {
                    drain.untold_count += 1;
                    if drain.untold.len() < MAX_NAMES {
                        drain.untold.push(node.to_string());
                    }
                }
            }
        }
        drain.within = told.into_iter().map(|(secs, proxies)| wire::DrainTime { secs, proxies }).collect();
        drain
    }
}
