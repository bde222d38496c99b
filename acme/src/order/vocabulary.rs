//! What an order is told and what it says: the words between [`Order`](super::Order) and its shell, and what is stored.

use certs::{Chain, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    AuthorizationBody, ChallengeKind, Failures, Identifier, Names, OrderBody, Presented, RetryAfter, Trouble,
    Url,
};

/// Why a certificate cannot be wanted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WantedError {
    /// The way does not fit a name.
    #[error(
        "{challenge} cannot show that {name} is one's own; a wildcard needs dns-01, an address http-01 or tls-alpn-01"
    )]
    Way {
        /// Which name.
        name: Identifier,
        /// Which way.
        challenge: ChallengeKind,
    },
}

/// What certificate is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Of which account.
    pub account: Url,
    /// For which names.
    pub names: Names,
    /// How they are shown to be ours.
    pub challenge: ChallengeKind,
    /// By which profile of the server.
    pub profile: Option<String>,
    /// Which certificate it replaces ([`CertificateId`](crate::CertificateId)): of the same names, and only where the
    /// server has a renewal service.
    pub replaces: Option<String>,
}

impl Wanted {
    /// Without profile, and replacing nothing.
    ///
    /// # Errors
    /// When the way does not fit a name.
    pub fn try_new(account: Url, names: Names, challenge: ChallengeKind) -> Result<Self, WantedError> {
        if let Some(name) = names.as_slice().iter().find(|name| !challenge.fits(name)) {
            return Err(WantedError::Way { name: name.clone(), challenge });
        }
        Ok(Self { account, names, challenge, profile: None, replaces: None })
    }
}

/// What is stored of an order, before the request that needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// What is wanted.
    pub wanted: Wanted,
    /// Whether an order was asked for whose URL is not known.
    pub is_asking: bool,
    /// The order.
    pub order: Option<Url>,
    /// Whether [`Wanted::replaces`] is not named any more, because the server refused an order that named it.
    pub is_replaces_refused: bool,
    /// How often in a row the server broke down over an order that names it.
    #[serde(default)]
    pub breakdowns: u32,
    /// What may be published.
    pub presented: Vec<Presented>,
    /// Since when; `None` while it is being withdrawn.
    pub presented_at: Option<Timestamp>,
    /// What failed so far.
    pub failures: Failures,
    /// The kind of request that failed last: when it works, faults on the way count no more.
    #[serde(default)]
    pub stumbled: Option<String>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Look for an order of these names among those of the account that are not decided yet.
    FindOrder {
        /// Which names.
        names: Names,
        /// By this profile; of one that says nothing of its profile it is not known.
        profile: Option<String>,
    },
    /// Make an order.
    NewOrder {
        /// For these names.
        names: Names,
        /// By this profile.
        profile: Option<String>,
        /// In the place of this certificate.
        replaces: Option<String>,
    },
    /// How far is the order?
    Order(Url),
    /// How far is the authorization?
    Authorization(Url),
    /// It is published: look.
    Challenge(Url),
    /// Here is the request for the certificate.
    Finalize(Url),
    /// The certificate, and where other chains of it are.
    Certificate(Url),
}

impl Ask {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::FindOrder { .. } => "find-order",
            Self::NewOrder { .. } => "new-order",
            Self::Order(_) => "order",
            Self::Authorization(_) => "authorization",
            Self::Challenge(_) => "challenge",
            Self::Finalize(_) => "finalize",
            Self::Certificate(_) => "certificate",
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// Of [`Ask::FindOrder`].
    Found(Option<(Url, OrderBody)>),
    /// Of [`Ask::NewOrder`].
    Made {
        /// Where it is.
        url: Url,
        /// What it is.
        body: OrderBody,
        /// When to look again, if that was said.
        retry_after: Option<RetryAfter>,
    },
    /// Of [`Ask::Order`] and [`Ask::Finalize`].
    Order {
        /// What it is.
        body: OrderBody,
        /// When to look again, if that was said.
        retry_after: Option<RetryAfter>,
    },
    /// Of [`Ask::Authorization`].
    Authorization {
        /// What it is.
        body: AuthorizationBody,
        /// When to look again, if that was said.
        retry_after: Option<RetryAfter>,
    },
    /// Of [`Ask::Challenge`].
    Told {
        /// When to look, if that was said.
        retry_after: Option<RetryAfter>,
    },
    /// Of [`Ask::Certificate`].
    Certificate {
        /// The chain, PEM.
        pem: Vec<u8>,
        /// Where other chains are.
        alternates: Vec<Url>,
    },
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passed.
    Tick,
    /// Somebody has changed something: it is tried now, or when the server lets us.
    Hurry,
    /// The request was answered.
    Answered(Box<Answered>),
    /// It was not, or refused.
    Failed(Trouble),
    /// Everybody who should has published it.
    Published,
    /// Somebody cannot.
    NotPublished(String),
    /// Nobody publishes it any more.
    Withdrawn,
    /// Somebody may still publish these.
    NotWithdrawn(Vec<Presented>),
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store it, before anything that follows. If that fails, nothing that follows may be done.
    Keep(Box<Saved>),
    /// Ask, and feed the answer back.
    Ask(Ask),
    /// Publish all of these, and say when that is done. They may be published already.
    Publish(Vec<Presented>),
    /// Publish these no more, and say when that is done. They may not be published at all.
    Withdraw(Vec<Presented>),
    /// Too much could not be withdrawn to keep account of all of it: nobody is asked again to withdraw these. Say so.
    GiveUp(Vec<Presented>),
    /// It failed, and is tried again then.
    Report {
        /// What is the matter.
        trouble: Trouble,
        /// When it is tried again.
        again: Timestamp,
    },
    /// Here it is: store it, and then forget [`Saved`], in one step.
    Obtained(Chain),
}
