//! When a peer is asked to come again (PURE): another handshake proves that it knows the root which signs now, or brings
//! the certificate that it was given meanwhile.

use std::time::Duration;

use spiffe::AuthorityId;

/// Whoever verified us under the root before is asked to try the new one again no sooner than this.
const LEAST_RETRIAL: Duration = Duration::from_secs(30);
/// In an emergency: within this, again and again, until the peer has what it needs. Nodes renew in ten seconds.
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
    Some(match (facts.is_emergency, is_fresh) {
        (true, _) => URGENT.mul_f64(0.5 + chance / 2.0),
        (false, true) => spread.max(LEAST_RETRIAL).mul_f64(0.8 + chance * 0.4),
        (false, false) => spread.mul_f64(chance),
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
            is_emergency,
        };
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
        check("stolen, and ours is replaced", facts(1, 1, true), false, Some(4_500));
        check("it has proven us and shows the old one", facts(2, 1, true), true, Some(4_500));
        check("it shows the new one and came by the way back", facts(1, 2, true), true, Some(4_500));
        check("it has everything", facts(2, 2, true), true, None);
    }
}
