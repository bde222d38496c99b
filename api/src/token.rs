//! Join tokens, as the rules of enrolment define them: both ends read them, so they stand in `spiffe`.

pub use spiffe::attestation::{JoinToken, TokenError};
