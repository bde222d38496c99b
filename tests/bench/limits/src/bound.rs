//! The least that a certificate costs: its signatures, by the library that the product signs with.

use std::{cell::Cell, hint::black_box};

use anyhow::anyhow;
use aws_lc_rs::{
    rand::{SecureRandom, SystemRandom},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    },
};

/// How many different keys and messages are used in turn. With one alone the processor learns its branches by heart,
/// and no certificate is ever verified that fast.
const DIFFERENT: usize = 256;

/// P-256 keys, and for each a message of a certificate's size with its signature.
pub(crate) struct Bound {
    random: SystemRandom,
    signed: Vec<Signed>,
    next: Cell<usize>,
}

struct Signed {
    pair: EcdsaKeyPair,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Bound {
    /// With new keys.
    pub(crate) fn try_new() -> anyhow::Result<Self> {
        let unusable = |_| anyhow!("the library makes no P-256 key");
        let random = SystemRandom::new();
        let signed = (0..DIFFERENT).map(|_| {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(unusable)?;
            let mut message = vec![0; 360];
            random.fill(&mut message).map_err(unusable)?;
            let signature = pair.sign(&random, &message).map_err(unusable)?.as_ref().to_vec();
            anyhow::Ok(Signed { pair, message, signature })
        });
        Ok(Self { signed: signed.collect::<Result<_, _>>()?, random, next: Cell::new(0) })
    }

    fn next(&self) -> &Signed {
        let next = self.next.get();
        self.next.set((next + 1) % self.signed.len());
        &self.signed[next]
    }

    /// Signs once.
    pub(crate) fn sign(&self) {
        // An authority signs many messages with one key.
        black_box(self.signed[0].pair.sign(&self.random, black_box(&self.next().message)).is_ok());
    }

    /// Verifies once.
    pub(crate) fn verify(&self) {
        let Signed { pair, message, signature } = self.next();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref());
        assert!(key.verify(black_box(message), signature).is_ok(), "its own signature holds");
    }

    /// Makes a key.
    pub(crate) fn generate(&self) {
        black_box(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).is_ok());
    }

    /// Everything that an issuance signs and verifies: the request's signature, the throwaway one that is linted,
    /// the real one, and the check of that.
    pub(crate) fn full(&self) {
        self.verify();
        self.sign();
        self.sign();
        self.verify();
    }
}
