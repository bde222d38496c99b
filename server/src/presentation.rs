//! The chains by which our own certificate is vouched for: by the root that signs now, and for those who have not
//! heard of it yet by the root before.
//!
//! ```text
//! nodes       leaf, issuing                        (back: leaf, cross)             one root each, so that it proves
//! operators   leaf, issuing, cross                 (back: leaf, cross, issuing)    any of the roots will do
//! strangers   leaf, issuing, root, cross, root before                              they know a root by its pin
//! ```

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ca::Anchor;
use certs::{Certificate, Chain, SecretKey};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use spiffe::{AuthorityId, Trust};
use tokio::sync::watch;

use crate::tls::{Admits, certified_key};

/// What a handshake is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The chain to the root that signs now.
    Active,
    /// The same certificate, vouched for by the root before.
    Cross,
}

/// Our certificate for one handshake.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) key: Arc<CertifiedKey>,
    /// The root that it leads to, if it is one only.
    pub(crate) root: Option<AuthorityId>,
    /// What it is: without a root before there is no way back.
    pub(crate) shown: Shown,
    /// Whether the same certificate could be shown in another way.
    pub(crate) has_way_back: bool,
}

/// Every chain of one certificate.
#[derive(Debug)]
struct Chains {
    root: Option<AuthorityId>,
    nodes: Arc<CertifiedKey>,
    operators: Arc<CertifiedKey>,
    strangers: Arc<CertifiedKey>,
    back: Option<Back>,
}

#[derive(Debug)]
struct Back {
    root: AuthorityId,
    nodes: Arc<CertifiedKey>,
    operators: Arc<CertifiedKey>,
}

/// Our own certificate, swapped while listeners run; a new handshake takes what is there.
#[derive(Debug, Default)]
pub(crate) struct OwnCertificate {
    chains: ArcSwapOption<Chains>,
    showing: watch::Sender<Option<AuthorityId>>,
}

impl OwnCertificate {
    /// Puts the next certificate in place, in every way in which `trust` and `anchor` let it be shown.
    ///
    /// # Errors
    /// When chain and key do not belong together.
    pub(crate) fn install(
        &self,
        chain: &Chain,
        key: &SecretKey,
        trust: &Trust,
        anchor: &Anchor,
    ) -> Result<(), rustls::Error> {
        let chains = Chains::build(chain, certified_key(chain, key)?, trust, anchor);
        let root = chains.root;
        self.chains.store(Some(Arc::new(chains)));
        self.showing.send_if_modified(|showing| std::mem::replace(showing, root) != root);
        Ok(())
    }

    /// The root that the chain leads to which nodes are shown first.
    pub(crate) fn showing(&self) -> watch::Receiver<Option<AuthorityId>> {
        self.showing.subscribe()
    }

    /// What one handshake is shown; `None` before there is a certificate.
    pub(crate) fn offer(&self, admits: Admits, shown: Shown) -> Option<Offer> {
        let chains = self.chains.load_full()?;
        let back = chains.back.as_ref();
        let has_way_back = back.is_some() && admits != Admits::Strangers;
        let offer =
            |key: &Arc<CertifiedKey>, root, shown| Offer { key: key.clone(), root, shown, has_way_back };
        Some(match (admits, back.filter(|_| shown == Shown::Cross)) {
            (Admits::Nodes, Some(back)) => offer(&back.nodes, Some(back.root), Shown::Cross),
            (Admits::Nodes, None) => offer(&chains.nodes, chains.root, Shown::Active),
            (Admits::Operators, Some(back)) => offer(&back.operators, None, Shown::Cross),
            (Admits::Operators, None) => offer(&chains.operators, None, Shown::Active),
            (Admits::Strangers, _) => offer(&chains.strangers, None, Shown::Active),
        })
    }
}

impl Chains {
    fn build(chain: &Chain, plain: CertifiedKey, trust: &Trust, anchor: &Anchor) -> Self {
        let key = plain.key.clone();
        let with = |certificates: Vec<&Certificate>| {
            let ders = certificates.into_iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
            Arc::new(CertifiedKey::new(ders, key.clone()))
        };
        let (leaf, intermediates) = (chain.leaf(), chain.intermediates());
        let issuing = intermediates.first();
        let above = |certificate: &Certificate| root_above(trust, certificate);
        let last = intermediates.last().unwrap_or(leaf);
        let root = above(last);
        let cross = anchor.cross.as_ref().filter(|cross| {
            issuing.is_some_and(|issuing| {
                issuing.spki_hash() == cross.spki_hash() && issuing.der() != cross.der()
            })
        });
        let before = cross.and_then(|cross| Some((cross, above(cross)?)));
        let of = |root: &Certificate| AuthorityId::of(root.spki_hash());
        let back = before.as_ref().map(|(cross, before)| Back {
            root: of(before),
            nodes: with(vec![leaf, cross]),
            operators: with([leaf, *cross].into_iter().chain(intermediates).collect()),
        });
        let mut operators: Vec<&Certificate> = std::iter::once(leaf).chain(intermediates).collect();
        let mut strangers: Vec<&Certificate> = operators.iter().copied().chain(root.as_ref()).collect();
        if let Some((cross, before)) = &before {
            operators.push(cross);
            strangers.extend([*cross, before]);
        }
        Self {
            root: root.as_ref().map(of),
            operators: with(operators),
            strangers: with(strangers),
            nodes: Arc::new(plain),
            back,
        }
    }
}

fn root_above(trust: &Trust, certificate: &Certificate) -> Option<Certificate> {
    let roots = trust.own().authorities().iter();
    let mut above = roots.filter(|root| {
        root.subject_key_id() == certificate.authority_key_id() && certificate.is_signed_by(root)
    });
    above.next().cloned()
}

#[cfg(test)]
mod tests;
