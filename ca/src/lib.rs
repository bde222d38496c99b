//! Authorities and what they sign: who may have which certificate, the journal of issuances, and the life of
//! the keys that sign.
//!
//! Knows no Envoy, no network and no database: what it needs kept stands in [`ports`], and `store` keeps it.
//! Start reading at [`Manager`], then `issuance` (one certificate) and [`lifecycle`] (one authority).
//!
//! ```text
//! SvidRequest -> Handle -> queue -> issuance -> Journal (intent) -> sign -> check -> Journal (result) -> IssuedSvid
//!                                      ^ who signs
//! rotate_issuing -> keeper <-> lifecycle (issuing authorities) -> Authorities
//! rotate_root, emergency -> keeper <-> rotation (roots) <- Dependents (what nodes acknowledged)
//! request, install -> keeper -> both: what somebody else signed goes the same ways
//! upstream: when somebody outside is asked to sign the next issuing authority, by request and install
//! LeafDesk -> the built-in queue, or issuer::outside -> LeafStore (request) -> LeafSigner -> check -> LeafStore
//! migrate -> leaves <-> migration (whose leaves are where), delegation (who may sign) <- Following, Dependents
//! revoke -> keeper <-> lists -> Revocations (what was revoked, and the lists that say so)
//! ```

mod authority;
pub mod clock;
pub mod delegation;
pub mod dependents;
mod drain;
mod issuance;
mod issuer;
mod keeper;
mod leaves;
pub mod lifecycle;
pub mod lists;
mod manager;
pub mod migration;
mod pause;
mod policy;
pub mod ports;
mod revocation;
pub mod rotation;
mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upstream;

pub use self::authority::PrepareError;
pub use self::drain::Drain;
pub use self::issuer::{Health, LeafAsked, LeafSigner, Outsider, SignFailure};
pub use self::keeper::{Install, Installed};
pub use self::leaves::{
    Following, LeafDesk, LeafIssuerStatus, Leaves, LeavesDeps, LeavesStatus, MigrateError,
};
pub use self::manager::{Anchor, Asked, Deps, Handle, Manager, OpenError, RotateError};
pub use self::pause::Pause;
pub use self::policy::{ISSUING_FACTOR, Lifetimes, Policy, PolicyError};
pub use self::revocation::{Revoke, RevokeRefusal, revocable};
pub use self::status::{
    AuthorityStatus, ByHand, CaStatus, ListStatus, ListsStatus, Requested, RotationStatus, Tally, Withdrawn,
};
