//! The certificates that are authoritative for a trust domain.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use certs::{Certificate, Serial, SpkiHash, Timestamp};
use ring::digest;
use thiserror::Error;

use crate::{AuthorityId, Lists, TrustDomain, VerifiedSvid};

/// The roots of one trust domain, with a sequence number that grows with every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    domain: TrustDomain,
    authorities: Vec<Certificate>,
    sequence: u64,
}

impl TrustBundle {
    /// A bundle of `authorities`, in an order that does not depend on how they were found.
    #[must_use]
    pub fn new(domain: TrustDomain, mut authorities: Vec<Certificate>, sequence: u64) -> Self {
        authorities.sort_by_key(Certificate::fingerprint);
        authorities.dedup();
        Self { domain, authorities, sequence }
    }

    /// Whose it is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// Grows with every change.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The roots that are valid at `now`: an expired anchor is no anchor.
    pub fn valid_authorities(&self, now: Timestamp) -> impl Iterator<Item = &Certificate> {
        self.authorities.iter().filter(move |root| root.not_before() <= now && now <= root.not_after())
    }

    /// SHA-256 over the sorted roots: two bundles with equal content have equal hashes.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for root in &self.authorities {
            context.update(&root.fingerprint());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

/// Two trust domains have an authority in common.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("trust domains {one} and {other} share the authority key {key}")]
pub struct SharedAuthority {
    /// The key.
    pub key: SpkiHash,
    /// The domain that had it.
    pub one: TrustDomain,
    /// The domain that was to have it too.
    pub other: TrustDomain,
}

/// What a certificate that was taken for good is worth later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// What it was.
    Good,
    /// The key of its authority is tainted; we know that we issued it ourselves. It is to be replaced.
    Vouched,
    /// The key of its authority is tainted, and anybody may have made it.
    Refused,
}

/// Everything that may be trusted: the own bundle, and those of federated domains beside it, never pooled.
/// Published as `watch<Arc<Trust>>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    own: Arc<TrustBundle>,
    federated: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    tainted: Vec<SpkiHash>,
    vouched: Arc<HashSet<[u8; 32]>>,
    revoked: Arc<HashSet<(AuthorityId, Serial)>>,
    issuers: Option<Arc<HashSet<SpkiHash>>>,
    lists: Lists,
}

impl Trust {
    /// The own bundle alone.
    #[must_use]
    pub fn new(own: TrustBundle) -> Self {
        Self {
            own: Arc::new(own),
            federated: BTreeMap::new(),
            tainted: Vec::new(),
            vouched: Arc::default(),
            revoked: Arc::default(),
            issuers: None,
            lists: Lists::Off,
        }
    }

    /// Trusts `bundle` for the identities of its own domain, and for no others.
    ///
    /// # Errors
    /// When it shares a key with another bundle: one authority could then vouch for two domains.
    pub fn with_federated(mut self, bundle: TrustBundle) -> Result<Self, SharedAuthority> {
        let keys = |bundle: &TrustBundle| -> Vec<SpkiHash> {
            bundle.authorities.iter().map(Certificate::spki_hash).collect()
        };
        let new = keys(&bundle);
        let others = self.bundles().filter(|other| other.domain != bundle.domain);
        for other in others {
            if let Some(key) = keys(other).into_iter().find(|key| new.contains(key)) {
                return Err(SharedAuthority { key, one: other.domain.clone(), other: bundle.domain });
            }
        }
        if bundle.domain == self.own.domain {
            self.own = Arc::new(bundle);
        } else {
            self.federated.insert(bundle.domain.clone(), Arc::new(bundle));
        }
        Ok(self)
    }

    /// The same with `anchors` beside the roots of our own trust domain: what workloads believe of each other while an
    /// issuer beside ours signs some of their leaves. Nothing of ours opens by it: a door never holds such a trust.
    #[must_use]
    pub fn with_anchors(mut self, anchors: Vec<Certificate>) -> Self {
        let own = &self.own;
        let all = own.authorities.iter().cloned().chain(anchors).collect();
        self.own = Arc::new(TrustBundle::new(own.domain.clone(), all, own.sequence));
        self
    }

    /// Refuses every path that carries one of these keys.
    #[must_use]
    pub fn with_tainted(mut self, keys: Vec<SpkiHash>) -> Self {
        self.tainted = keys;
        self
    }

    /// Takes these leaves for good although a tainted authority signed them, each by the SHA-256 of all that its
    /// signature covers: whoever has a stolen authority's key can sign any name, number and key, and no leaf but the same
    /// with any of these hashes. So they may still come and get a certificate of the next authority.
    #[must_use]
    pub fn with_vouched(mut self, leaves: Arc<HashSet<[u8; 32]>>) -> Self {
        self.vouched = leaves;
        self
    }

    /// Refuses leaves by the authority that signed them and their number.
    #[must_use]
    pub fn with_revoked(mut self, leaves: Arc<HashSet<(AuthorityId, Serial)>>) -> Self {
        self.revoked = leaves;
        self
    }

    /// Whether the leaf of that number was revoked.
    #[must_use]
    pub fn is_revoked(&self, authority: AuthorityId, serial: &Serial) -> bool {
        !self.revoked.is_empty() && self.revoked.contains(&(authority, serial.clone()))
    }

    /// Takes leaves of our own trust domain from authorities with these keys only. Where a root is an enterprise's,
    /// others sign below it too, and none of them may say who is ours.
    #[must_use]
    pub fn with_issuers(mut self, keys: Arc<HashSet<SpkiHash>>) -> Self {
        self.issuers = Some(keys);
        self
    }

    /// Whether this key may sign leaves of our own trust domain.
    pub(crate) fn may_issue(&self, key: SpkiHash) -> bool {
        self.issuers.as_ref().is_none_or(|keys| keys.contains(&key))
    }

    /// Has proxies check against revocation lists of our own trust domain.
    #[must_use]
    pub fn with_lists(mut self, lists: Lists) -> Self {
        self.lists = lists;
        self
    }

    /// What proxies check against, as far as it comes from revocation lists.
    #[must_use]
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// Whether `leaf` is taken for good whoever signed it. See [`Trust::with_vouched`].
    pub(crate) fn vouches_for(&self, leaf: &Certificate) -> bool {
        !self.vouched.is_empty() && self.vouched.contains(&leaf.signed_sha256())
    }

    /// How a certificate that was found good when its connection was opened stands now.
    #[must_use]
    pub fn standing(&self, svid: &VerifiedSvid) -> Standing {
        let is_tainted = |key: &SpkiHash| self.tainted.contains(key);
        if !is_tainted(&svid.authority()) && !is_tainted(&svid.root()) {
            Standing::Good
        } else if self.vouched.contains(&svid.signed_sha256) {
            Standing::Vouched
        } else {
            Standing::Refused
        }
    }

    /// The bundle of our own trust domain.
    #[must_use]
    pub fn own(&self) -> &Arc<TrustBundle> {
        &self.own
    }

    /// The bundle of `domain`, which alone may vouch for its identities (SPIFFE Federation 7.3).
    #[must_use]
    pub fn of(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        if self.own.trust_domain() == domain { Some(&self.own) } else { self.federated.get(domain) }
    }

    /// Every bundle, the own one first.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        std::iter::once(&self.own).chain(self.federated.values())
    }

    /// Keys that no certificate may carry any more.
    #[must_use]
    pub fn tainted(&self) -> &[SpkiHash] {
        &self.tainted
    }
}
