//! What ends, as the stores know it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ca::ports::{Authorities, AuthorityRecord, AuthorityState, Journal, Place, Remaining};
use certs::{Profile, Timestamp};
use spiffe::{Bindings, BlockList, EdgeName, Tenant};
use tokio::sync::watch;

use super::{Ending, ExpiryKind, ExpirySource, LeafFacts, LeafView};
use crate::{
    calls::{BRING_INTERMEDIATE, BRING_ROOT, CallError, unavailable, upstream_of_now, word},
    ports::{IssuerStore, NodeStore},
    sources::{Edges, Revoking, Upstreams},
};

/// How long something that has ended without a successor is still listed.
const LISTED_AFTER_END: Duration = Duration::from_secs(24 * 60 * 60);

/// Every authority that was not removed: prepared, active, retired.
pub struct AuthorityEndings {
    /// What is kept of them.
    pub authorities: Arc<dyn Authorities>,
    /// Issuers, which may have signed the one that signs now.
    pub issuers: Arc<dyn IssuerStore>,
    /// Whether they are late with its successor.
    pub upstreams: Arc<dyn Upstreams>,
}

/// What an operator has to do about an authority whose issuer has not signed its successor in time.
const LOOK_AT_ISSUER: &str = "credence issuer list says why its issuer has signed no successor";

#[async_trait]
impl ExpirySource for AuthorityEndings {
    async fn endings(&self, _: Timestamp) -> Result<Vec<Ending>, CallError> {
        let records = self.authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
        let is_distant = records.iter().any(|record| {
            record.place == Place::Root && record.state == AuthorityState::Active && record.offline.is_some()
        });
        let bring = if is_distant { self.bring_intermediate(&records).await? } else { None };
        let kept = records.into_iter().filter(|record| record.state != AuthorityState::Removed);
        Ok(kept
            .map(|record| Ending {
                kind: match record.place {
                    Place::Root => ExpiryKind::Root,
                    Place::Issuing => ExpiryKind::Intermediate,
                },
                name: record.id.to_string(),
                node: None,
                state: Some(word(&record.state)),
                tenant: None,
                began: record.created,
                ends: record.certificate.not_after(),
                advice: match record.place {
                    _ if !is_distant || record.state != AuthorityState::Active => None,
                    Place::Root => Some(BRING_ROOT),
                    Place::Issuing => bring,
                },
            })
            .collect())
    }
}

impl AuthorityEndings {
    /// What is to be done about the issuing authority of now. An issuer that signed it is asked for the next one by
    /// itself: nobody is to bring that before it has come to nothing for long.
    async fn bring_intermediate(
        &self,
        records: &[AuthorityRecord],
    ) -> Result<Option<&'static str>, CallError> {
        let upstream = upstream_of_now(&*self.issuers, &*self.upstreams, records).await?;
        let Some((authority, _, standing)) = upstream else { return Ok(Some(BRING_INTERMEDIATE)) };
        let parent = records.iter().find(|record| record.id == authority).and_then(|record| record.parent);
        let is_followed = records.iter().any(|record| {
            record.place == Place::Issuing
                && record.state == AuthorityState::Prepared
                && record.parent == parent
        });
        Ok(Some(LOOK_AT_ISSUER).filter(|_| standing.is_at_risk && !is_followed))
    }
}

/// Every certificate that somebody counts on: of nodes and what they speak for, of operators, our own.
pub struct LeafEndings {
    /// What was issued.
    pub journal: Arc<dyn Journal>,
    /// What nodes are entitled to.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// Who is blocked: nobody waits for their renewal.
    pub blocks: watch::Receiver<Arc<BlockList>>,
    /// What connected nodes use.
    pub leaves: Arc<dyn LeafFacts>,
}

#[async_trait]
impl ExpirySource for LeafEndings {
    async fn endings(&self, now: Timestamp) -> Result<Vec<Ending>, CallError> {
        let rows = self.journal.remaining(now - LISTED_AFTER_END).await;
        let rows = rows.map_err(|error| unavailable("journal", &error))?;
        let (bindings, blocks) = (self.bindings.borrow().clone(), self.blocks.borrow().clone());
        let view = LeafView::new(self.leaves.facts());
        let counted =
            rows.into_iter().filter(|row| !blocks.contains(&row.id) && is_counted_on(row, &bindings, &view));
        Ok(counted
            .map(|row| Ending {
                kind: row.profile.into(),
                name: row.id.to_string(),
                node: row.node,
                state: None,
                tenant: Some(row.tenant),
                began: row.issued,
                ends: row.not_after,
                advice: None,
            })
            .collect())
    }
}

/// Whether anybody counts on a certificate that the journal knows.
fn is_counted_on(row: &Remaining, bindings: &Bindings, view: &LeafView) -> bool {
    let binding = row.node.as_ref().and_then(|node| bindings.enabled(node));
    let binding = binding.filter(|binding| row.issued >= binding.created);
    match row.profile {
        Profile::Node => binding.is_some(),
        // One without a node is the probe of `credence verify`: nobody renews it.
        Profile::Workload => binding.is_some_and(|binding| {
            binding.identities.contains(&row.id) && view.may_use(&binding.node, &row.id)
        }),
        Profile::Server | Profile::Operator => true,
        Profile::Root | Profile::Issuing => false,
    }
}

/// The newest revocation list of every issuing authority, where there are lists.
pub struct ListEndings(pub Arc<dyn Revoking>);

#[async_trait]
impl ExpirySource for ListEndings {
    async fn endings(&self, _: Timestamp) -> Result<Vec<Ending>, CallError> {
        let Some(lists) = self.0.lists() else { return Ok(Vec::new()) };
        let state = if lists.is_shown { "shown" } else { "withdrawn" };
        let endings = lists.lists.into_iter().map(|list| Ending {
            kind: ExpiryKind::Crl,
            name: list.authority.to_string(),
            node: None,
            state: Some(state.to_owned()),
            tenant: None,
            began: list.made,
            ends: list.ends,
            advice: None,
        });
        Ok(endings.collect())
    }
}

/// Every join token that can still be used.
pub struct TokenEndings(pub Arc<dyn NodeStore>);

#[async_trait]
impl ExpirySource for TokenEndings {
    async fn endings(&self, now: Timestamp) -> Result<Vec<Ending>, CallError> {
        let unused = self.0.unused_tokens(now).await?;
        Ok(unused
            .into_iter()
            .map(|token| Ending {
                kind: ExpiryKind::Token,
                name: token.id,
                node: Some(token.node),
                state: None,
                tenant: Some(token.tenant),
                began: token.created,
                ends: token.expires,
                advice: None,
            })
            .collect())
    }
}

/// A certificate that was obtained for an edge, as whoever obtains it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeFacts {
    /// Whose.
    pub tenant: Tenant,
    /// Of which edge.
    pub name: EdgeName,
    /// When it began.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// What an operator has to do about an edge that is not renewed.
const LOOK_AT_EDGE: &str = "credence edge list says what fails, and what to do about it";

/// Every certificate that proxies show at the edge.
pub struct EdgeEndings {
    /// Those that were obtained.
    pub facts: watch::Receiver<Vec<EdgeFacts>>,
    /// Whoever renews them, and fails to.
    pub at_work: Arc<dyn Edges>,
}

#[async_trait]
impl ExpirySource for EdgeEndings {
    async fn endings(&self, _: Timestamp) -> Result<Vec<Ending>, CallError> {
        let facts = self.facts.borrow().clone();
        let endings = facts.into_iter().map(|fact| {
            let is_failing = self.at_work.standing(&fact.tenant, &fact.name).failures > 0;
            Ending {
                kind: ExpiryKind::Edge,
                name: fact.name.to_string(),
                node: None,
                state: is_failing.then(|| "failing".to_owned()),
                tenant: Some(fact.tenant),
                began: fact.not_before,
                ends: fact.not_after,
                advice: is_failing.then_some(LOOK_AT_EDGE),
            }
        });
        Ok(endings.collect())
    }
}
