//! Revoked certificates and revocation lists.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Certificate;

/// Asks for a certificate to count no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Why, in the words of RFC 5280: `unspecified` (the default), `key-compromise`, `superseded`,
    /// `cessation-of-operation` or `privilege-withdrawn`. Stands in the list.
    #[serde(default)]
    pub code: String,
    /// Why, in your words. Stands in the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// How far proxies are with the revocation lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListUptake {
    /// Connected proxies that verify peers.
    pub proxies: usize,
    /// Of these, those that acknowledged the newest lists.
    pub acknowledged: usize,
    /// Those that did not, by name; at most 100.
    pub waiting: Vec<String>,
}

/// Revoked certificates of workloads that have not ended. Proxies refuse them by revocation lists alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StillRevoked {
    /// How many.
    pub certificates: usize,
    /// When the first of them ends.
    pub first_ends: String,
    /// When the last of them ends.
    pub last_ends: String,
}

impl fmt::Display for StillRevoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificates, first_ends, last_ends } = self;
        match certificates {
            1 => write!(f, "1 revoked certificate, which ends at {first_ends}"),
            more => write!(
                f,
                "{more} revoked certificates, the first of which ends at {first_ends} and the last at {last_ends}"
            ),
        }
    }
}

/// What came of revoking a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revocation {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// The certificate.
    pub certificate: Certificate,
    /// What is done, in the order in which it takes effect.
    pub steps: Vec<String>,
    /// What it does not do.
    pub limits: Vec<String>,
    /// Why it is on no list yet although there are lists. It will be, as soon as one can be made and shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted: Option<String>,
    /// How far proxies had acknowledged the newest lists when the answer was given, if there are lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptake: Option<ListUptake>,
    /// Milliseconds from the change to the last acknowledgement, or to the answer if some are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// The newest revocation list of an authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevocationList {
    /// Its number, which grows with every list of the authority.
    pub number: u64,
    /// How many certificates it names.
    pub revoked: usize,
    /// When it was made.
    pub made: String,
    /// When it ends.
    pub ends: String,
    /// Whether proxies are shown it, with those of the other authorities.
    pub is_shown: bool,
}
