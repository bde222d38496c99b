//! How a node whose certificate has ended proves that it is still the one that the certificate was issued to.

use certs::{PublicKey, SignError, Signer, SpkiHash};

use super::{EXPORTER_OCTETS, ProofError, hash_of, holds};
use crate::Tenant;

/// The method of enrolment by an expired certificate, as it stands in the protocol.
pub const METHOD_EXPIRED: &str = "expired_certificate";

const DOMAIN: &[u8] = b"credence-recover-1";

/// What a node signs with the key of its expired certificate, beside the [`Claim`](super::Claim) that it signs with
/// the new one: for this challenge, this TLS connection, this certificate and this new key alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldKeyClaim<'a> {
    /// What the server challenged with.
    pub nonce: &'a [u8],
    /// What both ends exported from their TLS connection.
    pub exporter: &'a [u8; EXPORTER_OCTETS],
    /// The key to certify.
    pub spki: SpkiHash,
    /// The expired certificate, DER.
    pub certificate: &'a [u8],
    /// Whose node it is.
    pub tenant: &'a Tenant,
}

impl OldKeyClaim<'_> {
    fn message(&self) -> [u8; 32] {
        let tenant = self.tenant.as_str().as_bytes();
        hash_of([DOMAIN, self.nonce, self.exporter, &self.spki.0, self.certificate, tenant])
    }

    /// Proves the claim with the old key.
    ///
    /// # Errors
    /// When the signer fails.
    pub fn prove(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        signer.sign(&self.message())
    }

    /// Holds a proof against `key`, which the caller has taken from the certificate of the claim.
    ///
    /// # Errors
    /// [`ProofError`], which does not say why.
    pub fn verify(&self, key: &PublicKey, proof: &[u8]) -> Result<(), ProofError> {
        holds(key, &self.message(), proof)
    }
}

#[cfg(test)]
mod tests {
    use certs::{KeyKind, SecretKey, SoftwareSigner};

    use super::*;

    #[test]
    fn a_proof_of_the_old_key_holds_for_exactly_its_claim() {
        let (old, other) = (SecretKey::generate(KeyKind::P256), SecretKey::generate(KeyKind::P256));
        let (tenant, other_tenant) = (Tenant::default(), Tenant::parse("acme").unwrap());
        let claim = OldKeyClaim {
            nonce: b"nonce",
            exporter: &[7; EXPORTER_OCTETS],
            spki: SpkiHash([1; 32]),
            certificate: b"certificate",
            tenant: &tenant,
        };
        let proof = claim.prove(&SoftwareSigner::try_new(&old).unwrap()).unwrap();
        assert_eq!(claim.verify(old.public(), &proof), Ok(()));
        assert_eq!(claim.verify(other.public(), &proof), Err(ProofError));
        for bent in [
            OldKeyClaim { nonce: b"other", ..claim },
            OldKeyClaim { exporter: &[8; EXPORTER_OCTETS], ..claim },
            OldKeyClaim { spki: SpkiHash([2; 32]), ..claim },
            OldKeyClaim { certificate: b"another", ..claim },
            OldKeyClaim { tenant: &other_tenant, ..claim },
        ] {
            assert_eq!(bent.verify(old.public(), &proof), Err(ProofError), "{bent:?}");
        }
    }
}
