//! What each kind of certificate may hold (security reference 5.1, DESIGN section 5).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::KeyKind;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The kinds of certificate that Credence issues.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// A self-signed authority, path length 1.
    Root,
    /// An authority signed by a root, path length 0; it signs leaves.
    Issuing,
    /// A proxy or agent towards us.
    Node,
    /// What a node speaks for, proxy to proxy.
    Workload,
    /// Ourselves.
    Server,
    /// A person or program that operates us.
    Operator,
}

impl Profile {
    /// Whether it signs certificates.
    #[must_use]
    pub fn is_authority(self) -> bool {
        matches!(self, Self::Root | Self::Issuing)
    }

    /// How long one lives unless configured otherwise.
    #[must_use]
    pub fn default_lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Root => 365 * DAY,
            Self::Issuing | Self::Operator => 30 * DAY,
            Self::Node => DAY,
            Self::Workload | Self::Server => 12 * HOUR,
        })
    }

    /// The longest that may be configured.
    #[must_use]
    pub fn max_lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Root => 3653 * DAY,
            Self::Issuing => 366 * DAY,
            Self::Operator => 90 * DAY,
            Self::Node | Self::Workload | Self::Server => DAY,
        })
    }

    /// The shortest that may be configured without development mode.
    #[must_use]
    pub fn min_lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Root | Self::Issuing => DAY,
            Self::Operator => HOUR,
            Self::Node | Self::Workload | Self::Server => 10 * MINUTE,
        })
    }

    /// The key that Credence makes for it.
    #[must_use]
    pub fn key_kind(self) -> KeyKind {
        if self == Self::Root { KeyKind::P384 } else { KeyKind::P256 }
    }

    /// The path length constraint of an authority (RFC 5280 4.2.1.9).
    #[must_use]
    pub fn path_length(self) -> Option<u8> {
        match self {
            Self::Root => Some(1),
            Self::Issuing => Some(0),
            Self::Node | Self::Workload | Self::Server | Self::Operator => None,
        }
    }
}
