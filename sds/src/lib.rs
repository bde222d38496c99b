//! Secrets to proxies: fresh, and only to their owners.
//!
//! Decides which name a node may have, when a leaf is due, and wraps keys and bundles as opaque resources. Knows
//! no stream protocol (that is `xds`, which sees a [`Sds`] as its [`xds::SecretSource`]) and no authority (that is
//! behind [`spiffe::SvidIssuer`]). Keys live in this process's memory only and are never stored.
//!
//! ```text
//! xds session --interest--> Sds --> access --> rotation --Request--> SvidIssuer
//!            <----view-----     <-- secret  <------------Issued-----'
//! ```
//!
//! Start reading at [`access`] (may it?), then [`rotation`] and [`schedule`] (when?), then the shell, [`SdsManager`].

pub mod access;
mod deliveries;
mod edges;
mod imported;
mod manager;
pub mod rotation;
pub mod schedule;
mod secret;
mod status;

pub use self::edges::{EdgePair, EdgePart, EdgeSecret, EdgeSecrets};
pub use self::imported::{ImportedSecret, ImportedSecrets, SecretFacts};
pub use self::manager::{LeafKey, Sds, SdsInputs, SdsManager, SdsSettings};
pub use self::status::{ContextStatus, IssuerCounters, LeafPhase, LeafStatus, SdsCounters, SdsStatus};
