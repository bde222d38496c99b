//! Signature algorithms that count: path building does a bounded number of signature checks, whatever is presented.

use std::sync::atomic::{AtomicU32, Ordering};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use webpki::aws_lc_rs as algorithms;

use crate::{
    Certificate,
    certificate::Parts,
    der::{self, NotDer, Reader},
};

/// The most signatures that are checked for one chain. A path of the greatest depth needs five, with lists of
/// revocations ten; the rest is for cross-signed authorities.
pub const MAX_SIGNATURE_CHECKS: u32 = 32;

/// ECDSA first: it is what Credence issues. RSA and Ed25519 are for foreign chains.
const ACCEPTED: [&dyn SignatureVerificationAlgorithm; 19] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// How many checks were asked for.
#[derive(Debug, Default)]
pub(super) struct Work(AtomicU32);

impl Work {
    /// Checks made; never more than [`MAX_SIGNATURE_CHECKS`].
    pub(super) fn checks(&self) -> u32 {
        self.0.load(Ordering::Relaxed).min(MAX_SIGNATURE_CHECKS)
    }

    /// Whether a check was asked for that was not made.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MAX_SIGNATURE_CHECKS
    }

    /// The accepted algorithms, each of which counts here.
    pub(super) fn algorithms(&self) -> Vec<Counted<'_>> {
        ACCEPTED.iter().map(|algorithm| Counted { algorithm: *algorithm, work: self }).collect()
    }
}

/// One algorithm and where it counts.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    work: &'a Work,
}

impl SignatureVerificationAlgorithm for Counted<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        if self.work.0.fetch_add(1, Ordering::Relaxed) >= MAX_SIGNATURE_CHECKS {
            return Err(InvalidSignature);
        }
        self.algorithm.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// What a signature says of a certificate and the one above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    /// The key above made it.
    Holds,
    /// It did not.
    Broken,
    /// No accepted algorithm fits both the signature and the key.
    Unfit,
}

/// Checks one signature with the algorithms that path building accepts.
pub(crate) fn signature(below: &Certificate, above: &Certificate) -> Signature {
    let parts = || -> Result<_, NotDer> {
        let Parts { signed, algorithm, signature } = below.parts()?;
        let algorithm = Reader::new(algorithm).expect(der::SEQUENCE)?.value;
        let mut info = der::open(above.spki_der(), der::SEQUENCE)?;
        let kind = info.expect(der::SEQUENCE)?.value;
        let key = info.expect(der::BIT_STRING)?.value;
        let ([0, signature @ ..], [0, key @ ..]) = (signature, key) else { return Err(NotDer) };
        Ok((signed, algorithm, signature, kind, key))
    };
    let Ok((signed, algorithm, signature, kind, key)) = parts() else { return Signature::Unfit };
    let mut fitting = ACCEPTED
        .iter()
        .filter(|one| {
            one.signature_alg_id().as_ref() == algorithm && one.public_key_alg_id().as_ref() == kind
        })
        .peekable();
    if fitting.peek().is_none() {
        return Signature::Unfit;
    }
    match fitting.any(|one| one.verify_signature(key, signed, signature).is_ok()) {
        true => Signature::Holds,
        false => Signature::Broken,
    }
}
