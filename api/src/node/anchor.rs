//! Under which root certificates are signed now.

use certs::Timestamp;
use spiffe::AuthorityId;

/// Under whom we sign, for those who must show it. Published as `watch<Arc<Anchor>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The root above the issuing authority.
    pub root: Option<AuthorityId>,
    /// When that root began to sign.
    pub since: Option<Timestamp>,
}
