//! What can be the matter with an ACME server, and with what it is asked: one variant for each thing that somebody can
//! do something about.

use std::{path::PathBuf, time::Duration};

use certs::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ChallengeKind, Identifier, Pace, Problem, ProblemKind, check::Refusal};

/// The longest that a `Retry-After` is believed: limits are counted by the week.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// The one status of 500 and more that refuses: the server does not do such a thing, and has not done it.
const NOT_IMPLEMENTED: u16 = 501;

/// When to come again, as `Retry-After` says it (RFC 9110 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryAfter {
    /// After so long.
    In(Duration),
    /// At a point in time.
    At(Timestamp),
}

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

/// Why there is no certificate, or no answer that could be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Trouble {
    // --- on the way
    /// Nobody answers there, or no TLS handshake comes about. Nothing was sent.
    #[error("cannot reach {origin}: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        origin: String,
        /// What the system says.
        reason: String,
    },
    /// Somebody answers whom the CA file does not vouch for. Nothing was sent.
    #[error("{origin} is not believed: {reason}")]
    NotBelieved {
        /// Scheme, host and port.
        origin: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The request went out, and no whole answer came. What came of it is not known.
    #[error("no answer of {origin}: {reason}")]
    Lost {
        /// Scheme, host and port.
        origin: String,
        /// How it ended.
        reason: String,
    },
    /// The file of certificates that vouch for the server cannot be used.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server sends us elsewhere. It was not followed: what is signed names the URL that it was signed for.
    #[error("{from} sends us to {to:?}")]
    Redirected {
        /// Who sends us.
        from: String,
        /// Where to, without path.
        to: String,
    },

    // --- the server
    /// A status of 500 and more without a reason that ACME knows.
    #[error("the server is not available, status {status}: {said:?}")]
    Unavailable {
        /// The status.
        status: u16,
        /// When to come again, if that was said.
        retry_after: Option<RetryAfter>,
        /// What it said.
        said: String,
    },
    /// It refuses, and says why.
    #[error("the server refuses: {problem}")]
    Problem {
        /// The status.
        status: u16,
        /// Why.
        problem: Problem,
        /// When to come again, if that was said.
        retry_after: Option<RetryAfter>,
    },
    /// An answer that no ACME server gives: another server, a page of a proxy, or a shape that we do not know.
    #[error("not an answer of an ACME server, status {status}: {reason}")]
    NotAcme {
        /// The status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// The server's directory does not offer it. Nothing was sent.
    #[error("the server offers no {0}")]
    Unsupported(&'static str),

    // --- what only an operator can give
    /// The server has terms, and they were not agreed to. Nothing was sent.
    #[error("the server's terms were not agreed to: {terms}")]
    TermsNotAgreed {
        /// Where they stand.
        terms: String,
    },
    /// The server wants an external account, and none was given. Nothing was sent.
    #[error("the server makes accounts only for who has an external account with it")]
    ExternalAccountNeeded,
    /// The server lists its profiles, and this is none of them. Nothing was sent.
    #[error("the server has no profile {profile:?}; it has {}", list(.offered))]
    NoSuchProfile {
        /// Which.
        profile: String,
        /// Those that there are.
        offered: Vec<String>,
    },
    /// The server does not offer this way for a name.
    #[error("the server offers no {wanted} for {name}, but {}", list(.offered))]
    NotOffered {
        /// For which name.
        name: Identifier,
        /// What was wanted.
        wanted: ChallengeKind,
        /// What it offers.
        offered: Vec<String>,
    },

    // --- one order
    /// A name was not validated, or the order failed otherwise.
    #[error("the order failed{}: {problem}", about(.name.as_ref()))]
    Failed {
        /// For which name, if it was one.
        name: Option<Identifier>,
        /// Why.
        problem: Problem,
    },
    /// What must be seen by the authority could not be published everywhere.
    #[error("the challenge was not published everywhere: {why}")]
    NotPublished {
        /// Where it had to be seen.
        challenge: ChallengeKind,
        /// What stood in the way.
        why: String,
    },
    /// The server did not go on in time.
    #[error("the server did not go on in time: {0}")]
    Stuck(&'static str),
    /// What the server issued is not what was asked for. It is not used.
    #[error("the certificate that came is not taken: {0}")]
    Refused(#[from] Refusal),
    /// The key of the account, or of the certificate, did not sign.
    #[error("the key did not sign: {0}")]
    Sign(String),
}

impl Trouble {
    pub(crate) fn not_acme(status: u16, reason: impl Into<String>) -> Self {
        Self::NotAcme { status, reason: reason.into() }
    }

    /// What kind of problem the server says it is, if it says that.
    #[must_use]
    pub fn kind(&self) -> Option<ProblemKind> {
        match self {
            Self::Problem { problem, .. } | Self::Failed { problem, .. } => Some(problem.kind),
            _ => None,
        }
    }

    /// How soon it makes sense to ask again when nobody has changed anything.
    #[must_use]
    pub fn pace(&self) -> Pace {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Unavailable { .. } | Self::Stuck(_) => {
                Pace::Soon
            }
            Self::Problem { problem, status, .. }
                if problem.kind == ProblemKind::Unknown && *status >= 500 =>
            {
                Pace::Soon
            }
            Self::Problem { problem, .. } | Self::Failed { problem, .. } => problem.kind.pace(),
            Self::NotPublished { .. } => Pace::Publication,
            Self::NotBelieved { .. }
            | Self::File { .. }
            | Self::Redirected { .. }
            | Self::NotAcme { .. }
            | Self::Unsupported(_)
            | Self::TermsNotAgreed { .. }
            | Self::ExternalAccountNeeded
            | Self::NoSuchProfile { .. }
            | Self::NotOffered { .. }
            | Self::Refused(_)
            | Self::Sign(_) => Pace::Operator,
        }
    }

    /// Whether it is not known what came of a request that went out.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Unavailable { status, .. }
            | Self::Problem { status, .. }
            | Self::NotAcme { status, .. } => *status != NOT_IMPLEMENTED && !(300..500).contains(status),
            _ => false,
        }
    }

    /// When to come again at the earliest, if the server said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Problem { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Its name in metrics and logs, and by which failures are counted.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::NotBelieved { .. } => "not-believed",
            Self::Lost { .. } => "lost",
            Self::File { .. } => "file",
            Self::Redirected { .. } => "redirected",
            Self::Unavailable { .. } => "unavailable",
            Self::Problem { problem, .. } | Self::Failed { problem, .. } => problem.kind.name(),
            Self::NotAcme { .. } => "not-acme",
            Self::Unsupported(_) => "unsupported",
            Self::TermsNotAgreed { .. } => "terms-not-agreed",
            Self::ExternalAccountNeeded => "external-account-needed",
            Self::NoSuchProfile { .. } => "no-such-profile",
            Self::NotOffered { .. } => "not-offered",
            Self::NotPublished { .. } => "not-published",
            Self::Stuck(_) => "stuck",
            Self::Refused(_) => "certificate-refused",
            Self::Sign(_) => "sign",
        }
    }

    /// What to do about it, in words.
    #[must_use]
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Unreachable { .. } => "is the server running there, and does a firewall stand between?",
            Self::NotBelieved { .. } => {
                "the CA file must hold the root of this server's certificate, which must name the host of the URL; for \
                 a public authority give the system's file of roots. If it does, somebody else answers there"
            }
            Self::Lost { .. } => "nothing: what came of it is looked at before anything is asked again",
            Self::File { .. } => "give a file of certificates in PEM that this process may read",
            Self::Redirected { to, .. } => {
                return format!(
                    "give the URL of the directory at {to} itself, if that is the server you mean"
                );
            }
            Self::Unavailable { status: NOT_IMPLEMENTED, .. } => {
                "the server does not do this: ask who runs it. Another server may; nothing on this side can"
            }
            Self::Unavailable { .. } => {
                "nothing: it is tried again by itself. If it lasts, look at the status page of who runs the server"
            }
            Self::Problem { problem, .. } | Self::Failed { problem, .. } => problem.kind.hint(),
            Self::NotAcme { .. } => {
                "does the URL lead to the directory of an ACME server (RFC 8555), or to a page, a proxy or another \
                 program before it?"
            }
            Self::Unsupported(_) => "another server may offer it; nothing on this side can",
            Self::TermsNotAgreed { terms } => {
                return format!("read them, and agree by naming them: {terms}");
            }
            Self::ExternalAccountNeeded => "get a key id and an HMAC key from who runs the server",
            Self::NoSuchProfile { .. } => "name one of these, or none",
            Self::NotOffered { .. } => {
                "take one of the ways that are offered; only dns-01 shows a wildcard, and none but it needs no listener"
            }
            Self::NotPublished { challenge: ChallengeKind::Dns01, .. } => {
                "every record must be published within a minute by the name server or the program of the edge: is it \
                 reached, and may it do that?"
            }
            Self::NotPublished { .. } => {
                "every connected proxy that serves the name must take the challenge within a minute: is one refusing \
                 its configuration?"
            }
            Self::Stuck(_) => {
                "nothing: it is looked at again. If it lasts, look at the status page of the server"
            }
            Self::Refused(refusal) => refusal.hint(),
            Self::Sign(_) => "is the key there, and of a kind that the server takes (P-256, P-384)?",
        };
        text.to_owned()
    }
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn about(name: Option<&Identifier>) -> String {
    name.map(|name| format!(" for {name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_publish_is_asked_about_by_name() {
        let hint = |challenge| Trouble::NotPublished { challenge, why: String::new() }.hint();
        assert!(hint(ChallengeKind::Dns01).contains("name server"));
        assert!(hint(ChallengeKind::TlsAlpn01).contains("every connected proxy"));
    }
}
