//! When a peer is asked to come again (PURE): another handshake proves that it knows the root which signs now, or
//! brings the certificate that it was given meanwhile.
//!
//! In an emergency a whole fleet comes again within a minute, so nobody is asked to before that can bring anything: a
//! handshake too many of everybody would keep the door from those that count.

use std::time::Duration;

use spiffe::AuthorityId;

/// Whoever verified us under the root before is asked to try the new one again no sooner than this.
const LEAST_RETRIAL: Duration = Duration::from_secs(30);
/// In an emergency: within this after a node was issued its next certificate, which its agent has on disk by then.
const SETTLED: Duration = Duration::from_secs(2);
/// In an emergency: within this, again and again, when the peer came without what it should have by now.
const URGENT: Duration = Duration::from_secs(6);

/// What is known of a connection, and of us, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// The root under which the peer verified us.
    pub(super) proven: AuthorityId,
    /// The root of the peer's own certificate.
    pub(super) shows: AuthorityId,
    /// The root that we are known by.
    pub(super) ours: AuthorityId,
    /// The root of the last certificate that the peer's node was issued by this process.
    pub(super) issued: Option<AuthorityId>,
    /// Whether a root whose key is believed to be stolen is still being replaced.
    pub(super) is_emergency: bool,
}

/// How long the connection goes on from now; `None` when there is nothing to come again for.
///
/// `spread` is over how long a fleet comes again, `chance` this connection's place in it, from 0 to 1. `is_fresh` means
/// that the connection was just opened: its peer came by the way back and needs time to learn of the new root, or its
/// agent has not put another certificate on its disk yet.
pub(super) fn stay(facts: Facts, spread: Duration, is_fresh: bool, chance: f64) -> Option<Duration> {
    let is_unproven = facts.proven != facts.ours;
    let is_replaced = facts.shows != facts.ours;
    if !is_unproven && !is_replaced {
        return None;
    }
    if facts.is_emergency {
        // Its agent is asked to renew over a call of its own; until it has, the peer has nothing else to show.
        let has_another = facts.issued == Some(facts.ours);
        let within = match (is_replaced, has_another, is_fresh) {
            (true, false, _) => return None,
            (true, true, false) => SETTLED,
            (true, true, true) | (false, ..) => URGENT,
        };
        return Some(within.mul_f64(0.5 + chance / 2.0));
    }
    Some(match is_fresh {
        true => spread.max(LEAST_RETRIAL).mul_f64(0.8 + chance * 0.4),
        false => spread.mul_f64(chance),
    })
}

#[cfg(test)]
mod tests {
    use certs::SpkiHash;

    use super::*;

    const SPREAD: Duration = Duration::from_secs(600);

    fn root(number: u8) -> AuthorityId {
        AuthorityId::of(SpkiHash([number; 32]))
    }

    #[test]
    fn comes_again_when_another_handshake_would_tell_more_and_soon_in_an_emergency() {
        let facts = |proven, shows, is_emergency| Facts {
            proven: root(proven),
            shows: root(shows),
            ours: root(2),
            issued: None,
            is_emergency,
        };
        let issued = |facts, number| Facts { issued: Some(root(number)), ..facts };
        let check = |name: &str, facts, is_fresh, expected: Option<u64>| {
            let stays = stay(facts, SPREAD, is_fresh, 0.5);
            assert_eq!(stays, expected.map(Duration::from_millis), "{name}");
        };
        check("in step", facts(2, 2, false), false, None);
        check("its certificate is of the root before", facts(2, 1, false), false, Some(300_000));
        check("it came again too early for another", facts(2, 1, false), true, Some(600_000));
        check("the root has changed", facts(1, 1, false), false, Some(300_000));
        check("it came by the way back", facts(1, 1, false), true, Some(600_000));
        check("stolen, and ours is not replaced yet", facts(2, 2, true), false, None);
        check("stolen, ours is replaced and its own is not yet", facts(1, 1, true), false, None);
        check("its last one is of the root before", issued(facts(1, 1, true), 1), false, None);
        check("its own was replaced this moment", issued(facts(1, 1, true), 2), false, Some(1_500));
        check("it came again too early for it", issued(facts(2, 1, true), 2), true, Some(4_500));
        check("it shows the new one and came by the way back", facts(1, 2, true), true, Some(4_500));
        check("it has everything", facts(2, 2, true), true, None);
    }
}
