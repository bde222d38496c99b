//! What this deployment issues: its trust domain, and how long things live.

use std::time::Duration;

use certs::{Profile, format_duration};
use spiffe::TrustDomain;
use thiserror::Error;

use crate::lists::LEAST_LIFE;

/// How long each kind of certificate lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The root.
    pub root: Duration,
    /// Issuing authorities; replaced at half of it.
    pub issuing: Duration,
    /// Node certificates.
    pub node: Duration,
    /// Workload certificates.
    pub workload: Duration,
    /// Our own server certificate.
    pub server: Duration,
    /// Operators' certificates.
    pub operator: Duration,
}

impl Default for Lifetimes {
    /// The defaults of each profile (DESIGN section 4).
    fn default() -> Self {
        Self {
            root: Profile::Root.default_lifetime(),
            issuing: Profile::Issuing.default_lifetime(),
            node: Profile::Node.default_lifetime(),
            workload: Profile::Workload.default_lifetime(),
            server: Profile::Server.default_lifetime(),
            operator: Profile::Operator.default_lifetime(),
        }
    }
}

impl Lifetimes {
    /// The longest life among the certificates that are renewed by themselves: operators' are not.
    #[must_use]
    pub fn longest_renewed(&self) -> Duration {
        self.workload.max(self.node).max(self.server)
    }

    /// That of `profile`.
    #[must_use]
    pub fn of(&self, profile: Profile) -> Duration {
        match profile {
            Profile::Root => self.root,
            Profile::Issuing => self.issuing,
            Profile::Node => self.node,
            Profile::Workload => self.workload,
            Profile::Server => self.server,
            Profile::Operator => self.operator,
        }
    }
}

/// How many times the life of what it signs an issuing authority lives, at least. It is replaced at half of its
/// life, when three lives of a leaf are left: one for the leaves that it signed last, and two in which its successor
/// may fail to be made, before it has too little left to sign ([`Policy::least_remaining`]).
pub const ISSUING_FACTOR: u32 = certs::MIN_LEAF_LIVES;

/// A lifetime that cannot be configured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Outside the bounds of its profile.
    #[error("{} is not between {} and {}", format_duration(*lifetime), format_duration(*min), format_duration(*max))]
    Bounds {
        /// Whose.
        profile: Profile,
        /// What was asked for.
        lifetime: Duration,
        /// The least that is allowed.
        min: Duration,
        /// The most that is allowed.
        max: Duration,
    },
    /// Too short beside what it signs.
    #[error("{} is too short: what it signs lives {}, and needs {} times that, {}",
        format_duration(*lifetime), format_duration(*child), factor, format_duration(*min))]
    TooShortToSign {
        /// Whose.
        profile: Profile,
        /// What was asked for.
        lifetime: Duration,
        /// How long the signed ones live.
        child: Duration,
        /// How many times as long it must live.
        factor: u32,
        /// The least that is allowed.
        min: Duration,
    },
}

impl PolicyError {
    /// Whose lifetime it is about.
    #[must_use]
    pub fn profile(&self) -> Profile {
        match self {
            Self::Bounds { profile, .. } | Self::TooShortToSign { profile, .. } => *profile,
        }
    }
}

/// What is issued here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The one trust domain.
    pub trust_domain: TrustDomain,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// The greatest age of a connection between proxies: what our listeners set.
    pub max_connection: Duration,
    /// How long revocation lists live that proxies check against; `None` for no lists. Never less than
    /// [`Policy::least_list_life`].
    pub lists: Option<Duration>,
    /// Development mode: lives may be as short as a second.
    pub dev: bool,
}

impl Policy {
    /// The bounds of a lifetime of `profile`.
    #[must_use]
    pub fn bounds(&self, profile: Profile) -> (Duration, Duration) {
        let min = if self.dev { Duration::from_secs(1) } else { profile.min_lifetime() };
        (min, profile.max_lifetime())
    }

    /// Every lifetime that cannot be configured.
    #[must_use]
    pub fn problems(&self) -> Vec<PolicyError> {
        let lifetimes = &self.lifetimes;
        let mut problems = Vec::new();
        for profile in [
            Profile::Root,
            Profile::Issuing,
            Profile::Node,
            Profile::Workload,
            Profile::Server,
            Profile::Operator,
        ] {
            let (lifetime, (min, max)) = (lifetimes.of(profile), self.bounds(profile));
            if !(min..=max).contains(&lifetime) {
                problems.push(PolicyError::Bounds { profile, lifetime, min, max });
            }
        }
        for (profile, child, factor) in [
            (Profile::Issuing, lifetimes.longest_renewed(), ISSUING_FACTOR),
            (Profile::Root, lifetimes.issuing, 2),
        ] {
            let (lifetime, min) = (lifetimes.of(profile), child * factor);
            if lifetime < min {
                problems.push(PolicyError::TooShortToSign { profile, lifetime, child, factor, min });
            }
        }
        problems
    }

    /// The least life of a revocation list: a week, and two lives of a leaf, so that a proxy which is cut off from us
    /// loses its own leaf before its lists end and refuse everybody. In development mode the latter alone.
    #[must_use]
    pub fn least_list_life(&self) -> Duration {
        let leaves = 2 * self.lifetimes.workload;
        if self.dev { leaves } else { leaves.max(LEAST_LIFE) }
    }

    /// How long revocation lists live, if there are any.
    #[must_use]
    pub fn list_life(&self) -> Option<Duration> {
        self.lists.map(|life| life.max(self.least_list_life()))
    }

    /// How much life an issuing authority must have left to sign: two leaf lifetimes (security reference 5.5).
    #[must_use]
    pub fn least_remaining(&self) -> Duration {
        2 * self.lifetimes.workload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_lifetime_that_cannot_be_configured() {
        let check = |dev: bool, change: &dyn Fn(&mut Lifetimes), expected: &[Profile]| {
            let mut lifetimes = Lifetimes::default();
            change(&mut lifetimes);
            let policy = Policy {
                trust_domain: TrustDomain::parse("td").unwrap(),
                lifetimes,
                max_connection: Duration::from_secs(3600),
                lists: None,
                dev,
            };
            let profiles: Vec<_> = policy.problems().iter().map(PolicyError::profile).collect();
            assert_eq!(profiles, expected, "{:?}", policy.problems());
        };
        let day = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(day(1), Profile::Node.max_lifetime());
        check(false, &|_| {}, &[]);
        check(false, &|l| l.workload = Duration::from_secs(599), &[Profile::Workload]);
        check(true, &|l| l.workload = Duration::from_secs(12), &[]);
        check(true, &|l| l.workload = Duration::from_millis(12), &[Profile::Workload]);
        check(true, &|l| l.workload = Duration::from_secs(86_401), &[Profile::Workload]);
        // 6 x the day that a node's certificate lives.
        check(false, &|l| l.issuing = day(6), &[]);
        check(false, &|l| l.issuing = day(6) - Duration::from_secs(1), &[Profile::Issuing]);
        check(true, &|l| l.issuing = day(6) - Duration::from_secs(1), &[Profile::Issuing]);
        check(false, &|l| (l.issuing, l.node) = (day(6) - Duration::from_secs(1), day(1) / 2), &[]);
        check(false, &|l| l.root = Duration::from_secs(59 * 86_400), &[Profile::Root]);
        check(
            false,
            &|l| {
                l.node = Duration::ZERO;
                l.operator = Duration::from_secs(91 * 86_400);
            },
            &[Profile::Node, Profile::Operator],
        );
    }
}
