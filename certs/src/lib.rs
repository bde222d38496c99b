//! X.509 and key vocabulary: values only.
//!
//! This crate knows no network, no file, no clock and no identity scheme: what a SPIFFE ID is stands in
//! `spiffe`, who may sign in `ca`. Private bytes live in [`SecretKey`] and nowhere else in the workspace.
//!
//! Start reading at [`Template`] (one certificate about to be signed), [`Chain`] (what comes back) and
//! [`verify_chain`] (what anybody must hold against it).
//!
//! ```text
//! Csr --public key--> Template --profile--> sign(Signer) --> Certificate --> Chain --> verify_chain(anchors)
//!                                              ^ SecretKey
//! ```

mod anatomy;
mod certificate;
mod chain;
mod crl;
mod csr;
mod der;
mod imported;
mod ladder;
mod leaf;
mod lint;
mod names;
mod pem;
mod profile;
mod rehearsal;
mod revocation;
mod secret;
mod serial;
mod signer;
mod template;
mod time;
mod verify;
mod web;

pub use self::certificate::{Certificate, CertificateError, ExtendedKeyUsage, KeyUsage, SubjectAltName};
pub use self::chain::{Chain, ChainError, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
pub use self::crl::{Crl, CrlError};
pub use self::csr::{Csr, CsrError, MAX_CSR_BYTES};
pub use self::imported::{ImportError, Imported, KeyForm, MAX_IMPORTED_BYTES, SecretBytes};
pub use self::ladder::{
    Board, Brought, Context, Ladder, Link, MAX_INTERMEDIATES, MIN_LEAF_LIVES, Opinion, Part, RevocationState,
    Rule, Rung, Scope, Verdict, Wanted, explain, explain_brought, explain_on, explain_profile,
    explain_unreadable, is_self_signed,
};
pub use self::lint::{Finding, Severity, lint};
pub use self::pem::{
    Contents, MAX_FILE_BYTES, MAX_FILE_CERTIFICATES, PemError, certificates_from_pem, certificates_to_pem,
    crls_to_pem, read_certificates, request_to_pem,
};
pub use self::profile::Profile;
pub use self::rehearsal::{Rehearsal, Rehearser};
pub use self::revocation::{CrlTemplate, Revocation, RevocationReason, UnknownReason, sign_crl};
pub use self::secret::{EncryptedKeyError, KeyError, KeyKind, PublicKey, SecretKey, SpkiHash};
pub use self::serial::{Serial, SerialError, SerialStart};
pub use self::signer::{SignError, Signer, SoftwareSigner};
pub use self::template::{IssueError, Template, Validity, rehearse, rehearse_twin, request, sign, sign_twin};
#[cfg(any(test, feature = "testing"))]
pub use self::time::ManualClock;
pub use self::time::{Clock, Timestamp, format_duration, parse_duration};
pub use self::verify::{
    Fault, MAX_DEPTH, MAX_SIGNATURE_CHECKS, Position, Usage, VerifiedChain, VerifiedIssuer, VerifyError,
    VerifyOptions, verify_chain, verify_chain_counting,
};
pub use self::web::{ServerName, challenge_certificate, request_for_names};
