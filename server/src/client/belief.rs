//! Whom the command line believes to be the server.

use std::sync::Arc;

use certs::{Chain, Timestamp, Usage};
use rustls::{CertificateError, OtherError};
use rustls_pki_types::UnixTime;
use spiffe::{SpiffeId, Trust, verify_svid};

use crate::tls::Belief;

/// Knows the server by its SPIFFE ID.
#[derive(Debug)]
pub(super) struct ServerBelief {
    pub(super) trust: Trust,
    pub(super) expected: SpiffeId,
}

impl Belief for ServerBelief {
    fn judge(&self, shown: &[&[u8]], now: UnixTime) -> Result<(), rustls::Error> {
        let refused = |why: String| {
            let why = Arc::new(Unverified(why));
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))
        };
        let chain = Chain::from_ders(shown.iter().copied()).map_err(|error| refused(error.to_string()))?;
        let now = Timestamp::from_unix_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let svid = verify_svid(&chain, &self.trust, now, Usage::Server)
            .map_err(|error| refused(error.to_string()))?;
        if *svid.id() != self.expected {
            return Err(refused(format!("it is {}, not {}", svid.id(), self.expected)));
        }
        Ok(())
    }
}

/// Why the server was not believed, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Unverified(String);
