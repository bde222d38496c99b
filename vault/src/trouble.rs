//! What can be the matter with a Vault: one variant for each thing that somebody can do something about.

use std::{fmt, path::PathBuf, time::Duration};

use certs::Timestamp;
use thiserror::Error;

use crate::{Address, NotLoggedIn, Surplus};

/// What Vault said, as text: a few lines at most, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said(Vec<String>);

/// The most messages that are kept, and the most characters of each.
const MAX_SAID: (usize, usize) = (4, 300);

impl Said {
    /// Keeps the beginning of the messages.
    pub(crate) fn new<'a>(messages: impl IntoIterator<Item = &'a str>) -> Self {
        let clean = |message: &str| {
            let words: Vec<&str> = message.split_whitespace().collect();
            words.join(" ").chars().filter(|c| !c.is_control()).take(MAX_SAID.1).collect()
        };
        Self(
            messages
                .into_iter()
                .map(clean)
                .filter(|text: &String| !text.is_empty())
                .take(MAX_SAID.0)
                .collect(),
        )
    }

    /// Whether one of the messages has `words` in it.
    #[must_use]
    pub fn has(&self, words: &str) -> bool {
        self.0.iter().any(|message| message.contains(words))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("no reason given") } else { write!(f, "{:?}", self.0.join("; ")) }
    }
}

/// When to come again, as `Retry-After` says it (RFC 9110 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// After so long.
    In(Duration),
    /// At a point in time.
    At(Timestamp),
}

/// The longest that a `Retry-After` is believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

impl RetryAfter {
    /// How long that is from `now`, at most [`MAX_RETRY_AFTER`].
    #[must_use]
    pub fn from_now(self, now: Timestamp) -> Duration {
        let pause = match self {
            Self::In(pause) => pause,
            Self::At(at) => at.since(now),
        };
        pause.min(MAX_RETRY_AFTER)
    }
}

/// What a standby says that passed a request on to the active node, and got no answer.
pub(crate) const FORWARDING: &str = "error while forwarding";

/// Why there is no answer that could be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Trouble {
    // --- on the way
    /// Nobody answers there, or no TLS handshake comes about. Nothing was sent.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// Who was called.
        address: Address,
        /// What the system says.
        reason: String,
    },
    /// Somebody answers whom the CA file does not vouch for. Nothing was sent.
    #[error("{address} is not believed: {reason}")]
    NotBelieved {
        /// Who was called.
        address: Address,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The request went out, and no whole answer came. What came of it is not known.
    #[error("no answer of {address}: {reason}")]
    Lost {
        /// Who was called.
        address: Address,
        /// How it ended.
        reason: String,
    },
    /// The file of certificates that vouch for Vault, or that of our own certificate or key, cannot be used.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    // --- this node of Vault cannot
    /// A standby that sends us to the active node, at an address that was not configured: it was not followed.
    #[error("Vault sends us to {to:?}, which is not one of its configured addresses")]
    Elsewhere {
        /// Where to, without path.
        to: String,
    },
    /// 429 of the health check, 473: a standby, which forwards requests.
    #[error("this node of Vault is a standby")]
    Standby,
    /// 472: it repeats another cluster, and serves nobody before it is promoted.
    #[error("this node of Vault belongs to a disaster recovery secondary")]
    DisasterRecovery,
    /// 474: a standby that cannot reach the active node.
    #[error("this node of Vault is cut off from its active node")]
    CutOff,
    /// 530: taken out of its cluster.
    #[error("this node of Vault was removed from its cluster")]
    Removed,
    /// 501: empty.
    #[error("Vault is not initialised")]
    Uninitialised,
    /// 503: sealed.
    #[error("Vault is sealed")]
    Sealed,
    /// 500 while the cluster has no active node: it elects one.
    #[error("Vault has no active node at the moment: {said}")]
    Election {
        /// What it said.
        said: Said,
    },
    /// 502, 503 without a seal, 504, a page with 500: somebody between us and Vault, or maintenance.
    #[error("Vault is not available, status {status}: {said}")]
    Unavailable {
        /// The status.
        status: u16,
        /// When to come again, if that was said.
        retry_after: Option<RetryAfter>,
        /// What it said.
        said: Said,
    },

    // --- who we are
    /// 403, invalid token: expired, revoked, used up, or of another Vault. To log in again helps.
    #[error("Vault does not know the token: {said}")]
    InvalidToken {
        /// What it said.
        said: Said,
    },
    /// 403: the policy does not allow it. To log in again does not help.
    #[error("Vault forbids it: {said}")]
    Forbidden {
        /// What it said.
        said: Said,
    },
    /// 403 to a login by Kubernetes: it does not vouch for the token, or Vault could not ask it. Vault says both alike.
    #[error("Kubernetes does not vouch for the token, or Vault cannot ask it: {said}")]
    NotVouched {
        /// What it said.
        said: Said,
    },
    /// There is no token at the moment; nothing was sent.
    #[error("not logged in to Vault: {0}")]
    NotLoggedIn(NotLoggedIn),
    /// The token may do more than its work asks for; nothing was sent.
    #[error("the token may do more than it should: {}", list(.0))]
    OverGranted(Vec<Surplus>),

    // --- what was asked
    /// 400: Vault refuses it, and will again.
    #[error("Vault refuses it: {said}")]
    Refused {
        /// What it said.
        said: Said,
    },
    /// 404: there is nothing by that name.
    #[error("Vault has nothing there: {said}")]
    NotFound {
        /// What it said.
        said: Said,
    },
    /// 412: this node has not seen yet what another one wrote.
    #[error("this node of Vault is behind: {said}")]
    NotYet {
        /// What it said.
        said: Said,
    },
    /// 429: a quota is used up.
    #[error("a quota of Vault is used up: {said}")]
    Busy {
        /// When to come again, if that was said: Vault says it only when it is configured to.
        retry_after: Option<RetryAfter>,
        /// What it said.
        said: Said,
    },

    // --- what cannot be understood
    /// 500 for another reason: a pinned issuer that is gone, a key without a usage, a fault.
    #[error("Vault failed: {said}")]
    Failed {
        /// What it said.
        said: Said,
    },
    /// An answer that no Vault gives: another server, a page of a proxy, or a shape that we do not know.
    #[error("not an answer of Vault, status {status}: {reason}")]
    NotVault {
        /// The status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Log in again, once.
    LogIn,
    /// Try another node of the same Vault.
    AnotherNode,
    /// Come again later by itself.
    Later,
    /// Somebody must change something, here or in Vault.
    Operator,
}

impl Trouble {
    /// What is to be done about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::InvalidToken { .. } => Remedy::LogIn,
            Self::Unreachable { .. }
            | Self::NotBelieved { .. }
            | Self::Lost { .. }
            | Self::Elsewhere { .. }
            | Self::Standby
            | Self::DisasterRecovery
            | Self::CutOff
            | Self::Removed
            | Self::Uninitialised
            | Self::Sealed
            | Self::Election { .. }
            | Self::Unavailable { .. }
            | Self::NotYet { .. } => Remedy::AnotherNode,
            Self::Busy { .. }
            | Self::NotVouched { .. }
            | Self::NotLoggedIn(NotLoggedIn::NotYet | NotLoggedIn::NotVouched) => Remedy::Later,
            Self::File { .. }
            | Self::Forbidden { .. }
            | Self::NotLoggedIn(_)
            | Self::OverGranted(_)
            | Self::Refused { .. }
            | Self::NotFound { .. }
            | Self::Failed { .. }
            | Self::NotVault { .. } => Remedy::Operator,
        }
    }

    /// Whether the same may work later although nobody has changed anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotBelieved { .. } | Self::Uninitialised | Self::Removed => false,
            // Somebody unseals it, and then it goes on by itself.
            _ => matches!(self.remedy(), Remedy::AnotherNode | Remedy::Later),
        }
    }

    /// Whether it is not known what came of a request that went out: no answer came, or one of somebody who had passed
    /// it on and got none.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            // 503 is said by who passes nothing on.
            Self::Unavailable { status, .. } => matches!(status, 500 | 502 | 504),
            Self::Election { said } => said.has(FORWARDING),
            _ => false,
        }
    }

    /// When to come again at the earliest, if Vault said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Busy { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::NotBelieved { .. } => "not-believed",
            Self::Lost { .. } => "lost",
            Self::File { .. } => "file",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Standby => "standby",
            Self::DisasterRecovery => "disaster-recovery",
            Self::CutOff => "cut-off",
            Self::Removed => "removed",
            Self::Uninitialised => "uninitialised",
            Self::Sealed => "sealed",
            Self::Election { .. } => "election",
            Self::Unavailable { .. } => "unavailable",
            Self::InvalidToken { .. } => "invalid-token",
            Self::Forbidden { .. } => "forbidden",
            Self::NotVouched { .. } => "not-vouched",
            Self::NotLoggedIn(_) => "not-logged-in",
            Self::OverGranted(_) => "over-granted",
            Self::Refused { .. } => "refused",
            Self::NotFound { .. } => "not-found",
            Self::NotYet { .. } => "not-yet",
            Self::Busy { .. } => "busy",
            Self::Failed { .. } => "failed",
            Self::NotVault { .. } => "not-vault",
        }
    }

    /// What to do about it, in words.
    #[must_use]
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Unreachable { .. } => "is Vault running there, and does a firewall stand between?",
            Self::NotBelieved { .. } => {
                "the CA file must hold the root of this server's certificate, which must name the host of the address; \
                 if it does, somebody else answers there"
            }
            Self::Lost { .. } => "it may have been carried out: Vault's audit log knows",
            Self::Election { .. } | Self::Unavailable { .. } if self.is_outcome_unknown() => {
                "it may have been carried out: Vault's audit log knows. If it lasts, look at what stands before Vault, and \
                 at Vault's own log"
            }
            Self::File { .. } => "give a file in PEM that this process may read",
            Self::Elsewhere { to } => {
                return format!(
                    "if {to} is a node of this Vault, add it to the addresses; a token is sent nowhere else"
                );
            }
            Self::Standby => "nothing: a standby forwards requests to the active node",
            Self::DisasterRecovery => "give the addresses of the primary cluster, or promote this one",
            Self::CutOff => "look at the network between the nodes of Vault; another node is tried meanwhile",
            Self::Removed => "take its address out, or join the node again",
            Self::Uninitialised => {
                "initialise it (`vault operator init`), or is it another Vault than you mean?"
            }
            Self::Sealed => {
                "unseal it; what it has signed stays valid, and renewals are caught up by themselves"
            }
            Self::Election { .. } | Self::Unavailable { .. } | Self::NotYet { .. } => {
                "nothing: it is tried again by itself. If it lasts, look at Vault's own log"
            }
            Self::InvalidToken { .. } => {
                "nothing where Credence logs in by itself; a token that was given must be replaced"
            }
            Self::Forbidden { .. } => "compare the policy of the token with the one that Credence prints",
            Self::NotVouched { .. } => NotLoggedIn::NotVouched.hint(),
            Self::NotLoggedIn(reason) => return reason.hint().to_owned(),
            Self::OverGranted(_) => "give the token the printed policy and no other, beside `default`",
            Self::Refused { said } if said.has("invalid role or secret ID") => {
                "give the role id (--role-id) and a secret id of the same role that has not ended; a wrapping token needs \
                 --wrapped"
            }
            Self::Refused { .. } => {
                "Vault says what it does not like: change the role, or what is asked of it"
            }
            Self::NotFound { .. } => {
                "is the mount, the role or the key spelled as in Vault, and in this namespace?"
            }
            Self::Busy { .. } => {
                "nothing: it is tried again more slowly. If it lasts, raise the quota (`sys/quotas/rate-limit`)"
            }
            Self::Failed { .. } => {
                "a pinned issuer that was removed, or may not issue, ends here; else look at Vault's own log"
            }
            Self::NotVault { .. } => {
                "does the address lead to Vault, or to a proxy or another program before it?"
            }
        };
        text.to_owned()
    }
}

fn list(surplus: &[Surplus]) -> String {
    surplus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
