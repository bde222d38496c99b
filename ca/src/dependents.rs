//! Who depends on which authority, as it was observed: acknowledgements and handshakes, never assumptions.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use certs::{Serial, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{AuthorityId, Class, SpiffeId};

use crate::ports::{JournalError, Unexpired};

/// One certificate that somebody shows, or may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Whose it is.
    pub id: SpiffeId,
    /// Who signed it.
    pub authority: AuthorityId,
    /// Its number, where that is known: of a leaf that was acknowledged.
    pub serial: Option<Serial>,
    /// Its last second.
    pub until: Timestamp,
}

/// What a connected node is known to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The roots that stand in every validation context that it asked for, as it acknowledged them; `None` when it
    /// asked for none, so that no bundle can break it.
    pub roots: Option<BTreeSet<AuthorityId>>,
    /// The numbers of the revocation lists that stand in every validation context that it asked for, as it acknowledged
    /// them: it refuses what other issuing authorities signed. `None` when it checks against no list.
    pub lists: Option<BTreeMap<AuthorityId, u64>>,
    /// Its words when it refused the bundle that it was sent last.
    pub refusal: Option<String>,
    /// The roots under which it completed a handshake with our own certificate on a connection that carries its
    /// discovery streams, since this process started.
    pub proven: BTreeSet<AuthorityId>,
    /// The bundle file by which it knows us.
    pub file: BundleFile,
}

/// What is known of the bundle file by which a node knows us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BundleFile {
    /// Its agent has said nothing since this process started.
    #[default]
    Unknown,
    /// Its agent holds another bundle than ours.
    Stale,
    /// It is what we trust now.
    Current,
}

/// Somebody who depends on authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// A node's id, or an operator's identity.
    pub name: String,
    /// What a connected node acknowledged and proved; `None` for a node that is not connected, and for operators.
    pub connected: Option<Acknowledged>,
    /// While it is connected: the last acknowledged leaf of each identity, and the certificates of its streams.
    /// Otherwise: everything of its that has not expired.
    pub holds: Vec<Holding>,
}

/// Observes dependents.
#[async_trait]
pub trait Dependents: Send + Sync {
    /// Everybody, at `now`. `unexpired` is what the journal knows of the authorities in question; it stands in for
    /// what nobody acknowledged.
    async fn observe(&self, unexpired: &[Unexpired], now: Timestamp) -> Result<Vec<Dependent>, JournalError>;
}

/// Sees nobody, and says so: for a process that serves no nodes, such as the one that makes a deployment. No rotation
/// goes on by it.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

#[async_trait]
impl Dependents for Unobserved {
    async fn observe(&self, _: &[Unexpired], _: Timestamp) -> Result<Vec<Dependent>, JournalError> {
        Err(JournalError::Unavailable("this process serves no nodes".to_owned()))
    }
}

/// Why somebody is in the way of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// It is connected and has not acknowledged a bundle with the new root.
    BundleNotAcknowledged,
    /// It refused the bundle with the new root.
    BundleRefused {
        /// Its words.
        words: String,
    },
    /// The last leaf that it acknowledged, or the certificate of an open stream, is from the old root.
    Shows {
        /// Whose certificate.
        id: SpiffeId,
        /// Its last second.
        until: Timestamp,
    },
    /// It is not connected and may hold a certificate from the old root that has not expired.
    MayHold {
        /// Whose certificate.
        id: SpiffeId,
        /// Its last second.
        until: Timestamp,
    },
    /// It is connected, checks against revocation lists, and has not acknowledged that of the next issuing authority.
    ListNotAcknowledged,
    /// It has not completed a handshake with our certificate under the new root: its own trust bundle file may be
    /// stale.
    NotProven,
    /// It is connected, and the bundle file by which it knows us lacks the new root. Nothing vouches for us towards
    /// those that do not know that root.
    FileStale,
    /// The same, and its agent has not said which bundle it holds.
    FileUnknown,
    /// It is not connected and would not know us when it comes back: it would have to enrol again.
    LockedOut {
        /// Until when its certificate would have let it come back.
        until: Timestamp,
    },
}

/// Somebody in the way of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laggard {
    /// A node's id, or an operator's identity.
    pub name: String,
    /// Whether it is connected.
    pub is_connected: bool,
    /// Why.
    pub reason: Reason,
}

/// Who would break if leaves came from `new` now: connected nodes that have not acknowledged it. Without a way back, no
/// certificate of ours is vouched for by the root before: then also every node that would not know *us*.
#[must_use]
pub fn behind_activation(
    dependents: &[Dependent],
    new: AuthorityId,
    has_way_back: bool,
    now: Timestamp,
) -> Vec<Laggard> {
    let behind = |dependent: &Dependent| {
        lacks(dependent, new).or_else(|| locked_out(dependent, now).filter(|_| !has_way_back))
    };
    dependents.iter().filter_map(behind).collect()
}

/// A node that would not know us by the new root alone. Operators are not: each command brings them the bundle.
fn locked_out(dependent: &Dependent, now: Timestamp) -> Option<Laggard> {
    let is_connected = dependent.connected.is_some();
    let reason = match &dependent.connected {
        Some(connected) => match connected.file {
            BundleFile::Current => return None,
            BundleFile::Stale => Reason::FileStale,
            BundleFile::Unknown => Reason::FileUnknown,
        },
        None => {
            let of_nodes =
                dependent.holds.iter().filter(|held| matches!(held.id.class(), Ok(Class::Node(_))));
            let until = of_nodes.map(|held| held.until).filter(|until| *until >= now).max()?;
            Reason::LockedOut { until }
        }
    };
    Some(Laggard { name: dependent.name.clone(), is_connected, reason })
}

/// Who would break if `old` left the bundle now. `signed` are the authorities that lead to it.
#[must_use]
pub fn behind_finish(
    dependents: &[Dependent],
    signed: &BTreeSet<AuthorityId>,
    new: AuthorityId,
    now: Timestamp,
) -> Vec<Laggard> {
    dependents.iter().filter_map(|dependent| depends(dependent, signed, new, now)).collect()
}

/// Who would refuse leaves of `issuing`, prepared or not, now: connected nodes that check against revocation lists and
/// have not acknowledged its.
#[must_use]
pub fn behind_lists(dependents: &[Dependent], issuing: AuthorityId) -> Vec<Laggard> {
    let behind = |dependent: &&Dependent| {
        let lists = dependent.connected.as_ref().and_then(|connected| connected.lists.as_ref());
        lists.is_some_and(|lists| !lists.contains_key(&issuing))
    };
    let laggard = |dependent: &Dependent| {
        let refusal = dependent.connected.as_ref().and_then(|connected| connected.refusal.clone());
        Laggard {
            name: dependent.name.clone(),
            is_connected: true,
            reason: refusal.map_or(Reason::ListNotAcknowledged, |words| Reason::BundleRefused { words }),
        }
    };
    dependents.iter().filter(behind).map(laggard).collect()
}

fn lacks(dependent: &Dependent, new: AuthorityId) -> Option<Laggard> {
    let connected = dependent.connected.as_ref()?;
    let roots = connected.roots.as_ref()?;
    if roots.contains(&new) {
        return None;
    }
    let reason = match &connected.refusal {
        Some(words) => Reason::BundleRefused { words: words.clone() },
        None => Reason::BundleNotAcknowledged,
    };
    Some(Laggard { name: dependent.name.clone(), is_connected: true, reason })
}

/// Whether `dependent` shows, or may show, a certificate that one of `signed` signed.
pub(crate) fn holds_any(dependent: &Dependent, signed: &BTreeSet<AuthorityId>, now: Timestamp) -> bool {
    dependent.holds.iter().any(|held| signed.contains(&held.authority) && held.until >= now)
}

/// Who is connected and shows a certificate that one of `signed` signed.
#[must_use]
pub fn showing(dependents: &[Dependent], signed: &BTreeSet<AuthorityId>, now: Timestamp) -> Vec<Laggard> {
    let connected = dependents.iter().filter(|dependent| dependent.connected.is_some());
    let shown = connected.filter_map(|dependent| {
        let held =
            dependent.holds.iter().filter(|held| signed.contains(&held.authority) && held.until >= now);
        let held = held.max_by_key(|held| held.until)?;
        let reason = Reason::Shows { id: held.id.clone(), until: held.until };
        Some(Laggard { name: dependent.name.clone(), is_connected: true, reason })
    });
    shown.collect()
}

fn depends(
    dependent: &Dependent,
    signed: &BTreeSet<AuthorityId>,
    new: AuthorityId,
    now: Timestamp,
) -> Option<Laggard> {
    if let Some(laggard) = lacks(dependent, new) {
        return Some(laggard);
    }
    let is_connected = dependent.connected.is_some();
    let laggard = |reason| Some(Laggard { name: dependent.name.clone(), is_connected, reason });
    let mut held: Vec<_> =
        dependent.holds.iter().filter(|held| signed.contains(&held.authority) && held.until >= now).collect();
    held.sort_by_key(|held| held.until);
    if let Some(held) = held.pop() {
        let (id, until) = (held.id.clone(), held.until);
        return laggard(if is_connected {
            Reason::Shows { id, until }
        } else {
            Reason::MayHold { id, until }
        });
    }
    let proven = dependent.connected.as_ref().is_none_or(|connected| connected.proven.contains(&new));
    if proven { None } else { laggard(Reason::NotProven) }
}
