//! Under which root certificates are signed now.

use certs::{Certificate, Timestamp};
use spiffe::AuthorityId;

/// Under whom we sign, for those who must show it. Published as `watch<Arc<Anchor>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The issuing authority.
    pub issuing: Option<AuthorityId>,
    /// The root above it.
    pub root: Option<AuthorityId>,
    /// When that root began to sign.
    pub since: Option<Timestamp>,
    /// The root before it, as long as that stands in the bundle.
    pub previous: Option<AuthorityId>,
    /// The issuing authority's certificate signed by the root before, as long as that stands in the bundle.
    pub cross: Option<Certificate>,
}
