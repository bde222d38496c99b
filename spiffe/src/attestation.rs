//! The rules of enrolment that both ends must agree on (PURE; security reference 3.3): what a node signs to prove
//! that it holds its key, on this TLS connection and for this request alone.

use certs::{KeyKind, PublicKey, SignError, Signer, SpkiHash};
use ring::{digest, signature};
use thiserror::Error;

mod cookie;
mod recovery;
mod token;

pub use self::cookie::{COOKIE_LIFE, CookieError, CookieKey, NONCE_OCTETS, Subject};
pub use self::recovery::{METHOD_EXPIRED, OldKeyClaim};
pub use self::token::{
    DEFAULT_TOKEN_LIFE, JoinToken, MAX_TOKEN_LIFE, MAX_WRONG_SECRETS, StoredToken, TokenError,
};
use crate::Tenant;

/// The label under which both ends export a value of their TLS connection (RFC 8446 7.5, in the manner of
/// RFC 9266). There is no context value.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-credence-enrol-1";
/// How many octets are exported.
pub const EXPORTER_OCTETS: usize = 32;
/// The method of enrolment by a join token, as it stands in the protocol.
pub const METHOD_JOIN_TOKEN: &str = "join_token";

const DOMAIN: &[u8] = b"credence-enrol-1";

/// The proof is no signature of the key over the claim: another key, another connection, another nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("enrolment proof does not hold")]
pub struct ProofError;

/// What a node signs with the key that it wants certified. Evidence that is relayed over another TLS connection,
/// or presented for another key, does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// What the server challenged with.
    pub nonce: &'a [u8],
    /// What both ends exported from their TLS connection.
    pub exporter: &'a [u8; EXPORTER_OCTETS],
    /// The key to certify.
    pub spki: SpkiHash,
    /// How the node proves itself otherwise.
    pub method: &'a str,
    /// Which tenant it joins.
    pub tenant: &'a Tenant,
}

impl Claim<'_> {
    /// The octets to sign: SHA-256 over all fields, each behind its length, so that no two claims have the same.
    #[must_use]
    pub fn message(&self) -> [u8; 32] {
        hash_of([
            DOMAIN,
            self.nonce,
            self.exporter,
            &self.spki.0,
            self.method.as_bytes(),
            self.tenant.as_str().as_bytes(),
        ])
    }

    /// Proves the claim with its key.
    ///
    /// # Errors
    /// When the signer fails.
    pub fn prove(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        signer.sign(&self.message())
    }

    /// Holds a proof against the key that was presented, which must be the one of the claim.
    ///
    /// # Errors
    /// [`ProofError`], which does not say why.
    pub fn verify(&self, key: &PublicKey, proof: &[u8]) -> Result<(), ProofError> {
        if key.hash() != self.spki {
            return Err(ProofError);
        }
        holds(key, &self.message(), proof)
    }
}

/// SHA-256 over fields, each behind its length.
fn hash_of<const COUNT: usize>(fields: [&[u8]; COUNT]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for field in fields {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field);
    }
    let mut message = [0; 32];
    message.copy_from_slice(context.finish().as_ref());
    message
}

/// Whether `proof` is a signature of `key` over `message`.
fn holds(key: &PublicKey, message: &[u8], proof: &[u8]) -> Result<(), ProofError> {
    let (algorithm, point): (&dyn signature::VerificationAlgorithm, usize) = match key.kind() {
        KeyKind::P256 => (&signature::ECDSA_P256_SHA256_ASN1, 65),
        KeyKind::P384 => (&signature::ECDSA_P384_SHA384_ASN1, 97),
    };
    let spki = key.spki_der();
    signature::UnparsedPublicKey::new(algorithm, &spki[spki.len() - point..])
        .verify(message, proof)
        .map_err(|_| ProofError)
}

#[cfg(test)]
mod tests {
    use certs::{SecretKey, SoftwareSigner};

    use super::*;

    #[test]
    fn a_proof_holds_for_exactly_its_claim() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let key = SecretKey::generate(kind);
            let signer = SoftwareSigner::try_new(&key).unwrap();
            let (tenant, other_tenant) = (Tenant::default(), Tenant::parse("acme").unwrap());
            let claim = Claim {
                nonce: b"nonce",
                exporter: &[7; EXPORTER_OCTETS],
                spki: key.public().hash(),
                method: METHOD_JOIN_TOKEN,
                tenant: &tenant,
            };
            let proof = claim.prove(&signer).unwrap();
            assert_eq!(claim.verify(key.public(), &proof), Ok(()));
            let refuses = |claim: Claim<'_>, key: &SecretKey| {
                assert_eq!(claim.verify(key.public(), &proof), Err(ProofError), "{claim:?}");
            };
            refuses(Claim { nonce: b"other", ..claim }, &key);
            refuses(Claim { exporter: &[8; EXPORTER_OCTETS], ..claim }, &key);
            refuses(Claim { method: "x509pop", ..claim }, &key);
            refuses(Claim { tenant: &other_tenant, ..claim }, &key);
            let other = SecretKey::generate(kind);
            refuses(claim, &other);
            refuses(Claim { spki: other.public().hash(), ..claim }, &other);
        }
    }

    #[test]
    fn octets_cannot_move_between_fields() {
        let tenant = Tenant::default();
        let claim = |nonce: &'static [u8], method: &'static str| {
            Claim { nonce, exporter: &[0; 32], spki: SpkiHash([0; 32]), method, tenant: &tenant }.message()
        };
        assert_ne!(claim(b"ab", "c"), claim(b"a", "bc"));
    }
}
