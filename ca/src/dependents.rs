//! Who depends on which authority, as it was observed: acknowledgements and handshakes, never assumptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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

/// Whether somebody has a stream with us. A gate that looked only at those who have one would open whenever a connection
/// breaks, and for everybody when this process begins: just then nobody has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// A stream is open.
    Here,
    /// One was until a moment ago, and its proxy tries again, or has come back and asked for nothing yet: what it
    /// acknowledged is what it has.
    JustLeft,
    /// This process began a moment ago, and it has not come back, or asked for nothing yet: what it acknowledged before is
    /// not known.
    Expected,
    /// It has none, and none is awaited. Operators never have one.
    Away,
}

/// For how long a node is awaited: Envoy waits up to half a minute between two tries of its streams.
const PATIENCE: Duration = Duration::from_secs(60);
/// Leaves that live for less are for development, where nobody waits as long.
const SHORT_LEAF: Duration = Duration::from_secs(600);
/// However short they live.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// Which nodes are awaited (PURE): those whose connection has just broken, and those that the process before served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaiting {
    /// When this process began to serve.
    pub began: Timestamp,
    /// For how long.
    pub period: Duration,
}

/// What is seen of a node that has a stream or had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// When the oldest of its open streams began; `None` while it has none.
    pub since: Option<Timestamp>,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// Whether an open stream has asked for what the node trusts.
    pub has_asked: bool,
    /// Whether an earlier one had, and none that is open has.
    pub had_asked: bool,
    /// Whether it may come back: its binding is enabled, and it is not blocked.
    pub may_return: bool,
}

impl Awaiting {
    /// From `began` on, where leaves live for `leaf` and `fleet` nodes are let in `per_second`: a minute, or a twentieth of
    /// lives that are short, and as long as it takes to let in the last.
    #[must_use]
    pub fn new(began: Timestamp, leaf: Duration, fleet: usize, per_second: u32) -> Self {
        let patience = if leaf < SHORT_LEAF { (leaf / 20).max(LEAST_PATIENCE) } else { PATIENCE };
        let fleet = u64::try_from(fleet).unwrap_or(u64::MAX);
        let admission = Duration::from_secs(fleet / u64::from(per_second.max(1)));
        Self { began, period: patience.saturating_add(admission) }
    }

    /// Whether nodes that the process before served are awaited at `at`.
    #[must_use]
    pub fn is_beginning(&self, at: Timestamp) -> bool {
        at < self.began + self.period
    }

    /// Where a node is at `now`. Until a stream has asked for what its node trusts, it tells nothing of that: what the node
    /// had before counts, else coming back would open a gate.
    #[must_use]
    pub fn presence(&self, seen: &Sighting, now: Timestamp) -> Presence {
        match seen.since {
            None if seen.may_return && now < seen.last_seen + self.period => Presence::JustLeft,
            None => Presence::Away,
            Some(since) if seen.has_asked || now >= since + self.period => Presence::Here,
            Some(_) if seen.had_asked => Presence::JustLeft,
            Some(since) if self.is_beginning(since) => Presence::Expected,
            Some(_) => Presence::Here,
        }
    }
}

/// What a node is known to trust.
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
    /// Whether it has a stream.
    pub presence: Presence,
    /// What it acknowledged and proved, of a node that is [`Presence::Here`] or [`Presence::JustLeft`].
    pub known: Option<Acknowledged>,
    /// While it is here: the last acknowledged leaf of each identity, and the certificates of its streams. Otherwise:
    /// everything of its that has not expired.
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
    /// It is served and has not acknowledged a bundle with the new root.
    BundleNotAcknowledged,
    /// The process before may have served it, and it has not come back since, or asked for nothing yet: what it
    /// acknowledged is not known. See [`Presence::Expected`].
    NotBack,
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
    /// It is served, checks against revocation lists, and has not acknowledged that of the next issuing authority.
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

impl Dependent {
    fn is_here(&self) -> bool {
        self.presence == Presence::Here
    }

    /// Whether it is served now, or is about to be again.
    pub(crate) fn is_served(&self) -> bool {
        self.presence != Presence::Away
    }

    fn laggard(&self, reason: Reason) -> Laggard {
        Laggard { name: self.name.clone(), is_connected: self.is_here(), reason }
    }

    /// In the way as long as nobody knows what it has.
    fn not_back(&self) -> Option<Laggard> {
        (self.presence == Presence::Expected).then(|| self.laggard(Reason::NotBack))
    }
}

/// Who would break if leaves came from `new` now: served nodes that have not acknowledged it. Without a way back, no
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
    let reason = match &dependent.known {
        Some(known) => match known.file {
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
    Some(dependent.laggard(reason))
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

/// Who would refuse leaves of `issuing`, prepared or not, now: served nodes that check against revocation lists and have
/// not acknowledged its. Of those that are expected nobody knows.
#[must_use]
pub fn behind_lists(dependents: &[Dependent], issuing: AuthorityId) -> Vec<Laggard> {
    let behind = |dependent: &Dependent| {
        let Some(known) = &dependent.known else { return dependent.not_back() };
        let lists = known.lists.as_ref()?;
        if lists.contains_key(&issuing) {
            return None;
        }
        let refused = known.refusal.clone().map(|words| Reason::BundleRefused { words });
        Some(dependent.laggard(refused.unwrap_or(Reason::ListNotAcknowledged)))
    };
    dependents.iter().filter_map(behind).collect()
}

fn lacks(dependent: &Dependent, new: AuthorityId) -> Option<Laggard> {
    let Some(known) = &dependent.known else { return dependent.not_back() };
    let roots = known.roots.as_ref()?;
    if roots.contains(&new) {
        return None;
    }
    let refused = known.refusal.clone().map(|words| Reason::BundleRefused { words });
    Some(dependent.laggard(refused.unwrap_or(Reason::BundleNotAcknowledged)))
}

/// Whether `dependent` shows, or may show, a certificate that one of `signed` signed.
pub(crate) fn holds_any(dependent: &Dependent, signed: &BTreeSet<AuthorityId>, now: Timestamp) -> bool {
    dependent.holds.iter().any(|held| signed.contains(&held.authority) && held.until >= now)
}

/// Who is served and shows a certificate that one of `signed` signed, or may until it has come back.
#[must_use]
pub fn showing(dependents: &[Dependent], signed: &BTreeSet<AuthorityId>, now: Timestamp) -> Vec<Laggard> {
    let served = dependents.iter().filter(|dependent| dependent.is_served());
    served.filter_map(|dependent| holds(dependent, signed, now)).collect()
}

/// The certificate of one of `signed` that `dependent` shows, or may show, and that lives longest.
fn holds(dependent: &Dependent, signed: &BTreeSet<AuthorityId>, now: Timestamp) -> Option<Laggard> {
    let held = dependent.holds.iter().filter(|held| signed.contains(&held.authority) && held.until >= now);
    let held = held.max_by_key(|held| held.until)?;
    let (id, until) = (held.id.clone(), held.until);
    let is_here = dependent.is_here();
    Some(dependent.laggard(if is_here { Reason::Shows { id, until } } else { Reason::MayHold { id, until } }))
}

fn depends(
    dependent: &Dependent,
    signed: &BTreeSet<AuthorityId>,
    new: AuthorityId,
    now: Timestamp,
) -> Option<Laggard> {
    let unproven = || {
        let is_unproven = dependent.known.as_ref().is_some_and(|known| !known.proven.contains(&new));
        is_unproven.then(|| dependent.laggard(Reason::NotProven))
    };
    lacks(dependent, new).or_else(|| holds(dependent, signed, now)).or_else(unproven)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
    }

    #[test]
    fn a_node_is_where_it_was_until_it_has_asked_for_what_it_trusts() {
        let awaiting = Awaiting { began: at(1000), period: Duration::from_secs(60) };
        let new = Sighting {
            since: Some(at(1010)),
            last_seen: at(1010),
            has_asked: false,
            had_asked: false,
            may_return: true,
        };
        let gone = Sighting { since: None, ..new };
        let late = Sighting { since: Some(at(1060)), last_seen: at(1060), ..new };
        for (seen, now, expected) in [
            (Sighting { has_asked: true, ..new }, 1010, Presence::Here),
            (Sighting { had_asked: true, ..new }, 1010, Presence::JustLeft),
            (Sighting { had_asked: true, ..new }, 1069, Presence::JustLeft),
            // One that asks for nothing in all that time needs nothing.
            (Sighting { had_asked: true, ..new }, 1070, Presence::Here),
            (new, 1010, Presence::Expected),
            (new, 1069, Presence::Expected),
            (new, 1070, Presence::Here),
            // It joins later: nobody knows of anything that it had.
            (late, 1060, Presence::Here),
            (Sighting { had_asked: true, ..late }, 1060, Presence::JustLeft),
            (gone, 1069, Presence::JustLeft),
            (gone, 1070, Presence::Away),
            (Sighting { may_return: false, ..gone }, 1011, Presence::Away),
        ] {
            assert_eq!(awaiting.presence(&seen, at(now)), expected, "{seen:?} at {now}");
        }
        assert!(awaiting.is_beginning(at(1059)) && !awaiting.is_beginning(at(1060)));
    }

    #[test]
    fn nodes_are_awaited_for_a_minute_and_as_long_as_it_takes_to_let_them_in() {
        for (leaf, fleet, secs) in
            [(43_200, 0, 60), (600, 99, 60), (43_200, 20_000, 260), (599, 0, 29), (60, 50, 3), (5, 0, 2)]
        {
            let period = Awaiting::new(at(0), Duration::from_secs(leaf), fleet, 100).period;
            assert_eq!(period.as_secs(), secs, "{leaf} {fleet}");
        }
        assert_eq!(Awaiting::new(at(0), Duration::from_secs(5), 7, 0).period, Duration::from_secs(9));
    }
}
