//! What a signed certificate is held against, as a peer would: what is trusted now.

use std::sync::{Arc, OnceLock};

use certs::{Chain, Timestamp};
use spiffe::{ProvenAuthority, SpiffeId, SvidError, Trust};

/// Verifies what one authority signs, for as long as trust stays as it is; another trust needs another judge.
///
/// The first chain is verified whole, for servers and for clients. After that the path above the leaf is known:
/// each further leaf costs one signature, and its own rules and every date of the path are asked anew.
#[derive(Debug)]
pub(crate) struct Judge {
    trust: Arc<Trust>,
    proven: OnceLock<ProvenAuthority>,
}

impl Judge {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self { trust, proven: OnceLock::new() }
    }

    /// Whose `chain` is, if servers and clients believe it at `now`.
    pub(crate) fn verify(&self, chain: &Chain, now: Timestamp) -> Result<SpiffeId, SvidError> {
        if let Some(proven) = self.proven.get().filter(|proven| proven.is_of(chain.intermediates())) {
            return proven.verify(chain.leaf(), now);
        }
        let (id, proven) = ProvenAuthority::prove(chain, &self.trust, now)?;
        if let Some(proven) = proven {
            // Another thread may have been first, with the same proof.
            let _ = self.proven.set(proven);
        }
        Ok(id)
    }
}
