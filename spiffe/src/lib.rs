//! Who someone is: SPIFFE identities, the documents that prove them, and what an identity is entitled to.
//!
//! This crate knows no socket, store or Envoy. It parses and compares; deciding to sign is `ca`'s, sending is
//! `xds`'s. Start reading at [`SpiffeId`], then [`Peer`] (a verified other end), then [`Binding`] (what a node
//! may have).
//!
//! ```text
//! TLS chain --verify_svid(TrustBundle)--> Peer --Bindings--> Binding --> names it may ask for
//! ```

pub mod attestation;
mod binding;
mod block;
mod bundle;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod id;
mod issuer;
mod ladder;
mod lists;
mod names;
mod peer;
mod proven;
mod secret_name;
mod signers;
mod text;
mod verify;

pub use self::binding::{
    Binding, BindingError, BindingState, Bindings, LabelFault, MAX_IDENTITIES, MAX_LABEL_KEY,
    MAX_LABEL_VALUE, MAX_LABELS, NODE_LABEL, check_labels,
};
pub use self::block::{Block, BlockList, Eviction};
pub use self::bundle::{SharedAuthority, Standing, Trust, TrustBundle};
pub use self::id::{IdError, MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain};
pub use self::issuer::{
    ActiveAuthority, AuthorityId, AuthorityIdError, IssueError, IssuedSvid, Purpose, RecoveryRefusal,
    RecoverySpend, Spend, SvidIssuer, SvidRequest, TokenRefusal, TokenSpend,
};
pub use self::ladder::{Expected, explain};
pub use self::lists::{Lists, RevocationLists, ShownList};
pub use self::names::{EdgeName, IssuerName, Labels, NameError, Namespace, NodeId, RequestId, Tenant};
pub use self::peer::{Class, Peer, Proof, VerifiedSvid};
pub use self::proven::ProvenAuthority;
pub use self::secret_name::{SecretName, SecretNameError};
pub use self::signers::{Division, OutsideSigner, Share, Signer, Signers, bucket};
pub use self::text::is_unprintable;
pub use self::verify::{SvidError, verify_svid};

// For crates that know identities and must not know certificates: the time port, and nothing else of `certs`.
pub use certs::{Clock, Timestamp};
