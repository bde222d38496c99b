//! An authority of ours that was proven: for holding what it signs next against the same path, cheaply.

use certs::{Certificate, Chain, Timestamp, Usage, VerifiedIssuer};

use crate::{
    SpiffeId, SvidError, Trust,
    verify::{check_revoked, check_usages, class, identity, verify_path},
};

/// An authority whose path to a root of our own trust domain holds, for servers and for clients.
///
/// It is worth what it was made with: another bundle, another authority, another tainted key or another revoked
/// certificate needs another proof.
/// See [`VerifiedIssuer`] for what is asked again of each leaf, and why the rest need not be.
#[derive(Debug, Clone)]
pub struct ProvenAuthority {
    issuer: VerifiedIssuer,
    trust: Trust,
}

impl ProvenAuthority {
    /// Verifies `chain` whole, as [`crate::verify_svid`] does, once for servers and once for clients. Answers whose
    /// it is, and the proof of its authority; none if the two uses lead to different roots, or if it is of another
    /// trust domain than ours.
    ///
    /// # Errors
    /// See [`SvidError`].
    pub fn prove(
        chain: &Chain,
        trust: &Trust,
        now: Timestamp,
    ) -> Result<(SpiffeId, Option<Self>), SvidError> {
        let (id, server) = verify_path(chain, trust, now, Usage::Server)?;
        let (_, client) = verify_path(chain, trust, now, Usage::Client)?;
        class(&id, trust)?;
        let issuer = client.issuer();
        let is_same = server.issuer() == issuer && id.trust_domain() == trust.own().trust_domain();
        let proven = is_same.then(|| Self { issuer, trust: trust.clone() });
        Ok((id, proven))
    }

    /// Whether it is about this path: the authority that signs, and all above it but the root.
    #[must_use]
    pub fn is_of(&self, path: &[Certificate]) -> bool {
        self.issuer.authorities().split_last().is_some_and(|(_, below)| below == path)
    }

    /// Holds a leaf that the authority signed against its path, for servers and for clients, and answers whose it
    /// is.
    ///
    /// # Errors
    /// See [`SvidError`]. Nothing passes that [`ProvenAuthority::prove`] would refuse.
    pub fn verify(&self, leaf: &Certificate, now: Timestamp) -> Result<SpiffeId, SvidError> {
        let id = identity(leaf)?;
        if id.trust_domain() != self.trust.own().trust_domain() {
            return Err(SvidError::TrustDomain(id.trust_domain().clone()));
        }
        self.issuer.verify(leaf, now, Usage::Any, self.trust.tainted())?;
        check_usages(leaf, Usage::Any)?;
        if let Some(authority) = self.issuer.authorities().first() {
            check_revoked(&self.trust, authority, leaf)?;
        }
        id.class().map_err(|reason| SvidError::Id { name: id.to_string(), reason })?;
        Ok(id)
    }
}
