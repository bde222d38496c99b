//! A key that can sign bytes: in software here, in Vault or a token behind the same trait later.

use std::fmt;

use rcgen::KeyPair;
use thiserror::Error;

use crate::{KeyError, PublicKey, SecretKey, secret::load_pair};

/// Why a signature was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignError {
    /// The key refused or its backend failed.
    #[error("signing failed: {0}")]
    Failed(String),
}

/// A private key behind a door: says its public half, signs what it is given.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half.
    fn public(&self) -> &PublicKey;

    /// Signs with ECDSA and the hash that belongs to the curve; answers the ASN.1 form.
    ///
    /// # Errors
    /// When the key's backend fails.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A key in this process's memory.
pub struct SoftwareSigner {
    pair: KeyPair,
    public: PublicKey,
}

impl SoftwareSigner {
    /// From a private key.
    ///
    /// # Errors
    /// When the provider does not take the key, which a [`SecretKey`] rules out.
    pub fn try_new(key: &SecretKey) -> Result<Self, KeyError> {
        Ok(Self { pair: load_pair(key.expose_secret())?, public: key.public().clone() })
    }
}

impl Signer for SoftwareSigner {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        rcgen::SigningKey::sign(&self.pair, message).map_err(|error| SignError::Failed(error.to_string()))
    }
}

impl fmt::Debug for SoftwareSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareSigner({:?})", self.public)
    }
}

pub(crate) fn build_csr(key: &SecretKey) -> Vec<u8> {
    let pair = load_pair(key.expose_secret()).expect("a SecretKey holds a key the provider takes");
    crate::csr::request_der(&pair)
}
