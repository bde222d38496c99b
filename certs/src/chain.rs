//! Leaf first, then intermediates; the root is left out.

use thiserror::Error;

use crate::{Certificate, CertificateError, certificates_to_pem};

/// The most certificates a peer may present; more are refused before path building.
pub const MAX_CHAIN_CERTIFICATES: usize = 8;
/// The most bytes a presented chain may have in all; more are refused before path building.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Why a list of certificates is no chain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// No certificate at all.
    #[error("chain is empty")]
    Empty,
    /// More than [`MAX_CHAIN_CERTIFICATES`].
    #[error("chain has {0} certificates, at most {MAX_CHAIN_CERTIFICATES} are allowed")]
    TooMany(usize),
    /// More than [`MAX_CHAIN_BYTES`].
    #[error("chain has {0} bytes, at most {MAX_CHAIN_BYTES} are allowed")]
    TooLarge(usize),
    /// One of them does not parse.
    #[error("certificate {index} of the chain: {source}")]
    Certificate {
        /// Which one, counted from 0, the leaf.
        index: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
}

/// A leaf and the intermediates that lead towards a root. Bounded; says nothing about trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

impl Chain {
    /// Puts parsed certificates together.
    #[must_use]
    pub fn new(leaf: Certificate, intermediates: Vec<Certificate>) -> Self {
        Self { leaf, intermediates }
    }

    /// Parses DER certificates, leaf first, after checking the bounds.
    ///
    /// # Errors
    /// When there are none, too many or too large ones, or one does not parse.
    pub fn from_ders<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ChainError> {
        let ders: Vec<&[u8]> = ders.into_iter().collect();
        if ders.len() > MAX_CHAIN_CERTIFICATES {
            return Err(ChainError::TooMany(ders.len()));
        }
        let bytes = ders.iter().map(|der| der.len()).sum();
        if bytes > MAX_CHAIN_BYTES {
            return Err(ChainError::TooLarge(bytes));
        }
        let mut parsed = Vec::with_capacity(ders.len());
        for (index, der) in ders.into_iter().enumerate() {
            parsed.push(
                Certificate::from_der(der).map_err(|source| ChainError::Certificate { index, source })?,
            );
        }
        if parsed.is_empty() {
            return Err(ChainError::Empty);
        }
        let intermediates = parsed.split_off(1);
        Ok(Self { leaf: parsed.remove(0), intermediates })
    }

    /// Refuses more than [`MAX_CHAIN_CERTIFICATES`] or [`MAX_CHAIN_BYTES`], however the chain was put together.
    pub(crate) fn check_bounds(&self) -> Result<(), ChainError> {
        let count = 1 + self.intermediates.len();
        let bytes = self.certificates().map(|certificate| certificate.der().len()).sum();
        if count > MAX_CHAIN_CERTIFICATES {
            Err(ChainError::TooMany(count))
        } else if bytes > MAX_CHAIN_BYTES {
            Err(ChainError::TooLarge(bytes))
        } else {
            Ok(())
        }
    }

    /// The end-entity certificate.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What stands between leaf and root, nearest to the leaf first.
    #[must_use]
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// All certificates, leaf first.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.intermediates)
    }

    /// As PEM, leaf first.
    #[must_use]
    pub fn to_pem(&self) -> String {
        certificates_to_pem(self.certificates().map(Certificate::der))
    }
}
