//! Everything that ends, in one list: `status --expiring`, metrics, alerts and hooks are all read from it, so that
//! none of them can forget what another one knows.
//!
//! Whoever keeps something that ends offers it as an [`ExpirySource`]; `server` puts the sources together. What
//! follows from the list (what is soonest, how much of a life is used) is pure.
//!
//! ```text
//! ExpirySource (authorities, leaves, tokens ...) --> Expiries::collect --> soonest first --> status, metrics, hooks
//! ```

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use certs::{Profile, Timestamp};
use spiffe::{NodeId, Tenant};

use crate::calls::CallError;

mod sources;
mod survival;

pub use self::{
    sources::{AuthorityEndings, EdgeEndings, EdgeFacts, LeafEndings, ListEndings, TokenEndings},
    survival::{Hold, LeafFact, LeafFacts, LeafView, Survival, holds, survivals},
};

/// What sort of thing ends. A new sort is a variant here and a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExpiryKind {
    /// A root.
    Root,
    /// An issuing authority.
    Intermediate,
    /// Our own certificate.
    Server,
    /// A node's certificate.
    Node,
    /// The leaf of one identity at one node.
    Workload,
    /// An operator's certificate.
    Operator,
    /// A join token that can still be used.
    Token,
    /// An imported certificate.
    Secret,
    /// The revocation list of an issuing authority.
    Crl,
    /// The key of a key slot that has an end.
    Kek,
    /// A certificate for public names.
    Edge,
}

impl ExpiryKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Root,
        Self::Intermediate,
        Self::Server,
        Self::Node,
        Self::Workload,
        Self::Operator,
        Self::Token,
        Self::Secret,
        Self::Crl,
        Self::Kek,
        Self::Edge,
    ];

    /// Its word in tables and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Server => "server",
            Self::Node => "node",
            Self::Workload => "workload",
            Self::Operator => "operator",
            Self::Token => "token",
            Self::Secret => "secret",
            Self::Crl => "crl",
            Self::Kek => "kek",
            Self::Edge => "edge",
        }
    }

    /// Whether its end takes something away that somebody still needs. A join token is made to end.
    #[must_use]
    pub fn is_missed(self) -> bool {
        self != Self::Token
    }
}

impl From<Profile> for ExpiryKind {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Root => Self::Root,
            Profile::Issuing => Self::Intermediate,
            Profile::Node => Self::Node,
            Profile::Workload => Self::Workload,
            Profile::Server => Self::Server,
            Profile::Operator => Self::Operator,
        }
    }
}

/// One thing that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Of which sort.
    pub kind: ExpiryKind,
    /// Its name: an authority's id, a SPIFFE ID, a token's public half.
    pub name: String,
    /// For which node, if for one.
    pub node: Option<NodeId>,
    /// Where it stands, if it has states.
    pub state: Option<String>,
    /// On whose account; `None` for what belongs to the whole deployment.
    pub tenant: Option<Tenant>,
    /// When its life began.
    pub began: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    /// What an operator has to do about it, where nothing renews it by itself.
    pub advice: Option<&'static str>,
}

impl Ending {
    /// Its name with its node: unique within its kind.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.node {
            Some(node) if self.kind == ExpiryKind::Workload => format!("{}@{node}", self.name),
            _ => self.name.clone(),
        }
    }

    /// Milliseconds until its end at `now`; negative after it.
    #[must_use]
    pub fn millis_left(&self, now: Timestamp) -> i64 {
        self.ends.millis_since(now)
    }

    /// Whether an operator should see to it at `now`: nothing renews it by itself, and half of its life is used.
    #[must_use]
    pub fn waits_for_operator(&self, now: Timestamp) -> bool {
        self.advice.is_some() && self.used(now) >= 0.5
    }

    /// How much of its life is used at `now`: 0 when it begins, 1 when it ends, more afterwards.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn used(&self, now: Timestamp) -> f64 {
        let length = self.ends.millis_since(self.began).max(1);
        (now.millis_since(self.began) as f64 / length as f64).max(0.0)
    }
}

/// Knows of things that end.
#[async_trait]
pub trait ExpirySource: Send + Sync {
    /// All of them at `now`, in any order.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn endings(&self, now: Timestamp) -> Result<Vec<Ending>, CallError>;
}

/// All sources.
#[derive(Clone, Default)]
pub struct Expiries(Arc<[Arc<dyn ExpirySource>]>);

impl Expiries {
    /// From its sources.
    #[must_use]
    pub fn new(sources: impl IntoIterator<Item = Arc<dyn ExpirySource>>) -> Self {
        Self(sources.into_iter().collect())
    }

    /// Everything that ends, soonest first.
    ///
    /// # Errors
    /// When a source cannot be read: a list with holes would be a surprise.
    pub async fn collect(&self, now: Timestamp) -> Result<Vec<Ending>, CallError> {
        let mut endings = Vec::new();
        for source in self.0.iter() {
            endings.extend(source.endings(now).await?);
        }
        endings.sort_by_cached_key(|one| (one.ends, one.kind, one.label()));
        Ok(endings)
    }
}

/// The first `count` of each kind, in the order of `endings`, and how many of each kind there are.
#[must_use]
pub fn first_of_each_kind(endings: &[Ending], count: usize) -> (Vec<&Ending>, BTreeMap<ExpiryKind, usize>) {
    let mut counts: BTreeMap<ExpiryKind, usize> = ExpiryKind::ALL.map(|kind| (kind, 0)).into();
    let first = endings.iter().filter(|ending| {
        let seen = counts.entry(ending.kind).or_default();
        *seen += 1;
        *seen <= count
    });
    (first.collect(), counts)
}

#[cfg(test)]
mod tests;
