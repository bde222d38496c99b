//! What a node hears while it waits: a new bundle at once, and when to renew before its time.
//!
//! ```text
//! Sync(hash) --judge--> answer                         (another bundle, or time to renew)
//!                 '---> wait: trust, anchor, deadline, GOAWAY, a newer call of the node --> judge again
//! ```
//! [`judge`] is pure; [`Syncs`] keeps what nodes reported last and which call of theirs is held.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ca::Anchor;
use certs::{SpkiHash, Timestamp};
use proto::credence::v1::{SyncRequest, SyncResponse};
use spiffe::{AuthorityId, NodeId, Peer, Trust, VerifiedSvid};
use tokio_util::sync::CancellationToken;

use super::{Call, Refusal, Renewal, ders};

/// How long a call is held when there is no news. Below the minute after which middleboxes forget a connection.
pub(super) const HOLD: Duration = Duration::from_secs(50);
/// Over how long nodes renew when an authority of theirs is tainted: soon, and not all in one second.
const SPREAD_WHEN_TAINTED: Duration = Duration::from_secs(10);
/// Nodes whose last report is remembered; those that reported longest ago make room.
const MAX_REPORTS: usize = 20_000;

/// Which bundle a node holds, as its agent said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleReport {
    /// SHA-256 of the bundle; `None` when it holds none.
    pub bundle: Option<[u8; 32]>,
    /// When it said so last: at least once a minute while it is connected.
    pub at: Timestamp,
    /// Who signed the certificate that it said so with.
    pub authority: AuthorityId,
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Answer { with_bundle: bool, renew: bool },
    /// Nothing to say before this time, unless trust changes.
    WaitUntil(Timestamp),
}

/// What a verdict is reached from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    /// The hash that the node sent.
    pub(super) bundle: Option<[u8; 32]>,
    /// The certificate of its connection.
    pub(super) svid: &'a VerifiedSvid,
    /// Whether an authority of it is tainted.
    pub(super) is_tainted: bool,
    /// When the call is answered at the latest.
    pub(super) until: Timestamp,
}

/// Decides (PURE).
pub(super) fn judge(
    held: &Held<'_>,
    trust: &Trust,
    anchor: &Anchor,
    spread: Duration,
    now: Timestamp,
) -> Verdict {
    let with_bundle = held.bundle != Some(trust.own().content_hash());
    let renew_at = renew_at(held, trust, anchor, spread);
    let renew = renew_at.is_some_and(|at| at <= now);
    if with_bundle || renew || held.until <= now {
        return Verdict::Answer { with_bundle, renew };
    }
    Verdict::WaitUntil(renew_at.map_or(held.until, |at| at.min(held.until)))
}

/// When the certificate is to be renewed before its time, if it is.
fn renew_at(held: &Held<'_>, trust: &Trust, anchor: &Anchor, spread: Duration) -> Option<Timestamp> {
    let part = part_of(&held.svid.spki());
    if held.is_tainted {
        // In an emergency nothing is signed until another root has taken over. From then on it is counted: a node
        // comes again and again meanwhile, and must not begin to wait anew each time.
        let signs = |id| !trust.tainted().iter().any(|key| AuthorityId::of(*key) == id);
        anchor.issuing.filter(|id| signs(*id))?;
        return Some(anchor.since? + spread.min(SPREAD_WHEN_TAINTED).mul_f64(part));
    }
    let (root, since) = (anchor.root?, anchor.since?);
    (AuthorityId::of(held.svid.root()) != root).then(|| since + spread.mul_f64(part))
}

/// Where in a spread this certificate stands, from 0 to 1: its key is as good as chance, and stays the same.
fn part_of(key: &SpkiHash) -> f64 {
    let bits = u32::from_be_bytes([key.0[0], key.0[1], key.0[2], key.0[3]]);
    f64::from(bits) / f64::from(u32::MAX)
}

fn is_tainted(svid: &VerifiedSvid, trust: &Trust) -> bool {
    trust.tainted().iter().any(|key| *key == svid.authority() || *key == svid.root())
}

/// The last report of each node, and its held call.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reports: BTreeMap<NodeId, BundleReport>,
    held: BTreeMap<NodeId, (u64, CancellationToken)>,
    next: u64,
}

/// A held call's place, left when it is dropped.
struct Seat<'a> {
    syncs: &'a Syncs,
    node: NodeId,
    number: u64,
    /// Cancelled when a newer call of the node takes the place.
    superseded: CancellationToken,
}

impl Syncs {
    pub(super) fn report(&self, node: &NodeId) -> Option<BundleReport> {
        self.lock().reports.get(node).copied()
    }

    fn note(&self, node: &NodeId, report: BundleReport) {
        let reports = &mut self.lock().reports;
        if reports.len() >= MAX_REPORTS && !reports.contains_key(node) {
            let oldest = reports.iter().min_by_key(|(_, report)| report.at).map(|(node, _)| node.clone());
            oldest.and_then(|oldest| reports.remove(&oldest));
        }
        reports.insert(node.clone(), report);
    }

    pub(super) fn forget(&self, node: &NodeId, again: Option<Timestamp>) {
        let reports = &mut self.lock().reports;
        if reports.get(node).is_some_and(|report| again.is_none_or(|again| report.at < again)) {
            reports.remove(node);
        }
    }

    fn enter(&self, node: &NodeId) -> Seat<'_> {
        let superseded = CancellationToken::new();
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        if let Some((_, older)) = state.held.insert(node.clone(), (number, superseded.clone())) {
            older.cancel();
        }
        Seat { syncs: self, node: node.clone(), number, superseded }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.syncs.lock();
        if state.held.get(&self.node).is_some_and(|(number, _)| *number == self.number) {
            state.held.remove(&self.node);
        }
    }
}

impl Renewal {
    /// Holds the call until there is news for the node, or `ending` says that its connection ends.
    pub(super) async fn sync_for(
        &self,
        call: &mut Call,
        peer: Option<&Peer>,
        request: &SyncRequest,
        ending: CancellationToken,
    ) -> Result<SyncResponse, Refusal> {
        let peer = peer.ok_or(Refusal::NoPeer)?;
        let node = peer.node().ok_or(Refusal::NoPeer)?;
        self.syncing.take(node, call.now)?;
        if call.now >= peer.svid().not_after() {
            return Err(Refusal::Expired);
        }
        let (binding, _) = self.door.entitled(node)?;
        if !binding.admits(peer.svid()) {
            return Err(Refusal::Outlived(node.clone()));
        }
        call.tenant = binding.tenant;
        let bundle = match request.bundle_sha256.len() {
            0 => None,
            length => {
                let hash = request.bundle_sha256.as_slice().try_into();
                Some(hash.map_err(|_| Refusal::BundleHash(length))?)
            }
        };
        let authority = AuthorityId::of(peer.svid().authority());
        self.door.syncs.note(node, BundleReport { bundle, at: call.now, authority });
        let seat = self.door.syncs.enter(node);
        let held = Held { bundle, svid: peer.svid(), is_tainted: false, until: call.now + HOLD };
        tokio::select! {
            answer = self.hold(held) => Ok(answer),
            () = ending.cancelled() => Ok(SyncResponse::default()),
            () = seat.superseded.cancelled() => Err(Refusal::Superseded(node.clone())),
        }
    }

    async fn hold(&self, mut held: Held<'_>) -> SyncResponse {
        let inputs = &self.door.inputs;
        let (mut trusts, mut anchors) = (inputs.trust.clone(), inputs.anchor.clone());
        let mut authorities = inputs.authority.clone();
        loop {
            let now = inputs.clock.now();
            let (trust, anchor) =
                (Arc::clone(&trusts.borrow_and_update()), Arc::clone(&anchors.borrow_and_update()));
            held.is_tainted = is_tainted(held.svid, &trust);
            let is_urgent = authorities.borrow_and_update().is_some_and(|active| active.is_urgent);
            let spread = self.door.settings.authority_spread;
            let spread = if is_urgent { spread.min(SPREAD_WHEN_TAINTED) } else { spread };
            match judge(&held, &trust, &anchor, spread, now) {
                Verdict::Answer { with_bundle, renew } => {
                    let bundle_der = if with_bundle { ders(trust.own().authorities()) } else { Vec::new() };
                    return SyncResponse { bundle_der, renew };
                }
                Verdict::WaitUntil(at) => tokio::select! {
                    () = inputs.clock.sleep_until(at) => {}
                    // When what publishes them is gone, the process ends; so does the connection.
                    Ok(()) = trusts.changed() => {}
                    Ok(()) = anchors.changed() => {}
                    Ok(()) = authorities.changed() => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spiffe::{SpiffeId, TrustBundle, TrustDomain};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(secs: u64) -> Timestamp {
        START + Duration::from_secs(secs)
    }

    fn key(first: u8) -> SpkiHash {
        SpkiHash([first; 32])
    }

    /// A node's certificate half-way in every spread, signed by authority 1 under root 2.
    fn svid() -> VerifiedSvid {
        let id = SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap();
        VerifiedSvid::for_tests_with_key(id, at(86_400), SpkiHash([0x7f; 32])).signed_by(key(1), key(2))
    }

    #[test]
    fn answers_when_there_is_news_and_waits_when_there_is_none() {
        let bundle = TrustBundle::new(TrustDomain::parse("td").unwrap(), vec![], 0);
        let (same, other) = (Some(bundle.content_hash()), Some([9; 32]));
        let trust = |tainted: &[u8]| {
            Trust::new(bundle.clone()).with_tainted(tainted.iter().map(|first| key(*first)).collect())
        };
        let anchor = |root: u8, since| Anchor {
            root: Some(AuthorityId::of(key(root))),
            issuing: Some(AuthorityId::of(key(root + 10))),
            since: Some(at(since)),
            ..Anchor::default()
        };
        let answer = |with_bundle, renew| Verdict::Answer { with_bundle, renew };
        let svid = svid();
        let verdict = |now, bundle, trust: &Trust, anchor: Anchor, is_tainted: bool| {
            let held = Held { bundle, svid: &svid, is_tainted, until: at(1050) };
            judge(&held, trust, &anchor, Duration::from_secs(600), at(now))
        };
        let half = |verdict: Verdict, since: u64, whole: u64| {
            let Verdict::WaitUntil(until) = verdict else { panic!("{verdict:?}") };
            let middle = Duration::from_secs(whole) / 2;
            let off = until.since(at(since) + middle).max((at(since) + middle).since(until));
            assert!(off < Duration::from_secs(5), "{verdict:?}");
        };
        let clean = trust(&[]);
        let check = |name: &str, got: Verdict, wanted: Verdict| assert_eq!(got, wanted, "{name}");
        let waits = Verdict::WaitUntil(at(1050));
        check("in step", verdict(1000, same, &clean, anchor(2, 0), false), waits);
        check("held long enough", verdict(1050, same, &clean, anchor(2, 0), false), answer(false, false));
        check("another bundle", verdict(1000, other, &clean, anchor(2, 0), false), answer(true, false));
        check("no bundle", verdict(1000, None, &clean, anchor(2, 0), false), answer(true, false));
        check("root changed long ago", verdict(1000, same, &clean, anchor(3, 0), false), answer(false, true));
        check("both", verdict(1000, other, &clean, anchor(3, 0), false), answer(true, true));
        let tainted = trust(&[2]);
        check(
            "tainted a while ago",
            verdict(1000, same, &tainted, anchor(3, 990), true),
            answer(false, true),
        );
        check("nothing is signed yet", verdict(1000, same, &trust(&[2, 12]), anchor(2, 0), true), waits);
        half(verdict(725, same, &clean, anchor(3, 720), false), 720, 600);
        half(verdict(1000, same, &tainted, anchor(3, 1000), true), 1000, 10);
        // A call that begins later waits no longer for it.
        half(verdict(1004, same, &tainted, anchor(3, 1000), true), 1000, 10);
        assert!(is_tainted(&svid, &trust(&[1])) && is_tainted(&svid, &trust(&[2])));
        assert!(!is_tainted(&svid, &trust(&[3])));
    }

    #[test]
    fn one_call_of_a_node_is_held_and_the_last_report_stays() {
        let syncs = Syncs::default();
        let node = NodeId::parse("web-1").unwrap();
        let first = syncs.enter(&node);
        let second = syncs.enter(&node);
        assert!(first.superseded.is_cancelled() && !second.superseded.is_cancelled());
        drop(first);
        assert_eq!(syncs.lock().held.len(), 1, "the older one does not take the newer one's place away");
        drop(second);
        assert!(syncs.lock().held.is_empty());
        assert_eq!(syncs.report(&node), None);
        let authority = AuthorityId::of(key(1));
        let report = |secs| BundleReport { bundle: Some([1; 32]), at: at(secs), authority };
        syncs.note(&node, report(1));
        syncs.note(&node, report(2));
        assert_eq!(syncs.report(&node), Some(report(2)));
    }

    #[test]
    fn remembers_a_bounded_number_of_reports() {
        let syncs = Syncs::default();
        let name = |number: usize| NodeId::parse(&format!("n{number}")).unwrap();
        let authority = AuthorityId::of(key(1));
        for number in 0..=MAX_REPORTS {
            let report = BundleReport { bundle: None, at: at(number as u64), authority };
            syncs.note(&name(number), report);
        }
        assert_eq!(syncs.lock().reports.len(), MAX_REPORTS);
        assert_eq!(syncs.report(&name(0)), None);
        assert!(syncs.report(&name(MAX_REPORTS)).is_some());
    }
}
