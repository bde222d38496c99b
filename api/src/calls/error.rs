//! Why a call was not answered as asked, by blame: the caller's input, policy, somebody else, our environment.

use std::time::Duration;

use ca::migration::WishRefusal;
use spiffe::{BindingError, IdError, IssueError, NameError, Namespace, NodeId};
use thiserror::Error;

use crate::{ports::StoreError, problem::Fault, wire};

/// Why a call was not answered as asked. Every front maps it exhaustively.
#[derive(Debug, Error)]
pub enum CallError {
    /// The connection proved no identity.
    #[error("this address needs an operator certificate")]
    NoCredential,
    /// The identity may not do this.
    #[error("{id} may not {operation}")]
    Forbidden {
        /// Who.
        id: String,
        /// What.
        operation: String,
    },
    /// Too many calls from one principal.
    #[error("too many requests, at most {} a second", crate::limit::RATE_PER_SECOND)]
    RateLimited {
        /// When the next one may come.
        retry_after: Duration,
    },
    /// There is no such address.
    #[error("there is nothing at {0}")]
    NoRoute(String),
    /// The address knows other methods only.
    #[error("{path} does not take {method}")]
    NoMethod {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The body has another media type.
    #[error("body has content type {found:?}")]
    ContentType {
        /// What the caller sent.
        found: String,
    },
    /// The body is longer than this many bytes.
    #[error("body is longer than {limit} bytes")]
    TooLarge {
        /// How many bytes are allowed.
        limit: usize,
    },
    /// A parameter, header or part of the path means nothing.
    #[error("{what} is not valid: {why}")]
    Parameter {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The body or document cannot be read at all.
    #[error("{} cannot be read", count(.0.len(), "place in the text", "places in the text"))]
    Syntax(Vec<Fault>),
    /// The documents are readable and cannot be applied.
    #[error("{} in the documents", count(.0.len(), "problem", "problems"))]
    Invalid(Vec<Fault>),
    /// No such thing.
    #[error("{what} {name} does not exist")]
    NotFound {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// There is one of that name already.
    #[error("{what} {name} exists already")]
    Exists {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// There is a node of that name already, whose namespace is told to whoever may see it.
    #[error("node {node} exists already{}", .namespace.as_ref().map_or_else(String::new, |of| format!(", in namespace {of}")))]
    NodeExists {
        /// Which.
        node: NodeId,
        /// Its namespace.
        namespace: Option<Namespace>,
    },
    /// It is not in a state that allows this.
    #[error("{what} {name} {why}")]
    Conflict {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
        /// Why it does not allow it.
        why: String,
    },
    /// Somebody else changed it since the caller read it.
    #[error("{what} {name} is at revision {actual}, not {expected}")]
    Stale {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
        /// What the caller had read.
        expected: u64,
        /// What it is now.
        actual: u64,
    },
    /// The chain for an issuing authority breaks rules.
    #[error("the chain is refused: {}", broken(.0))]
    Chain(Box<certs::Ladder>),
    /// An issuer beside the built-in one cannot work as it is described.
    #[error("issuer {name} cannot work: {}", failed(.checks))]
    Issuer {
        /// Its name.
        name: String,
        /// Everything that was tried with it.
        checks: Vec<wire::IssuerCheck>,
    },
    /// A certificate for public names cannot be obtained or shown as it is wanted.
    #[error("edge {name} cannot work: {}", failed(.checks))]
    Edge {
        /// Its name.
        name: String,
        /// Everything that was tried with it.
        checks: Vec<wire::IssuerCheck>,
    },
    /// A rule of ours forbids it; asking again does not help.
    #[error("{0}")]
    Policy(String),
    /// The store, an issuer or the process itself cannot answer now.
    #[error("{part} is unavailable: {why}")]
    Unavailable {
        /// Which part.
        part: &'static str,
        /// Why; stands in the log, and not in the answer.
        why: String,
    },
    /// The answer took too long.
    #[error("the call took longer than {0:?}")]
    TimedOut(Duration),
}

impl CallError {
    /// It as a caller may hear it. What our environment says may name paths and hosts: it stands in the log.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Unavailable { part, .. } => format!("{part} is unavailable"),
            other => other.to_string(),
        }
    }

    /// Why leaves do not go where an operator wants them.
    #[must_use]
    pub fn wish(refusal: &WishRefusal) -> Self {
        wish(refusal)
    }
}

fn wish(refusal: &WishRefusal) -> CallError {
    let conflict =
        |name: &str, why: String| CallError::Conflict { what: "issuer", name: name.to_owned(), why };
    match refusal {
        WishRefusal::NotFrom { current, said } => {
            let why = format!("does not sign the leaves of workloads: {current} does");
            conflict(said.as_str(), why)
        }
        WishRefusal::Already(name) => {
            conflict(name.as_str(), "signs the leaves of workloads already".to_owned())
        }
        WishRefusal::UnderWay(name) | WishRefusal::NotStopped(name) => {
            let why = match refusal {
                WishRefusal::UnderWay(_) => {
                    "is where leaves are on their way to: let them arrive, or call that off with credence issuer migrate \
                     --abort"
                }
                _ => "is where leaves move, and nothing stopped them",
            };
            conflict(name.as_str(), why.to_owned())
        }
        WishRefusal::Nothing => {
            let why = "is not under way: credence issuer migrate --to NAME begins one".to_owned();
            CallError::Conflict { what: "migration", name: "of leaves".to_owned(), why }
        }
        WishRefusal::LeavesBuiltin => CallError::Policy(refusal.to_string()),
        WishRefusal::Stages(_) | WishRefusal::Shrinks(_) | WishRefusal::HurriedStages => {
            CallError::Parameter { what: "stages", why: refusal.to_string() }
        }
    }
}

/// The rules that are broken, and by what.
fn broken(ladder: &certs::Ladder) -> String {
    let rungs = ladder.failures().map(|rung| format!("{} ({}: {})", rung.rule, rung.subject, rung.found));
    rungs.collect::<Vec<_>>().join("; ")
}

/// What failed of what was tried.
fn failed(checks: &[wire::IssuerCheck]) -> String {
    let failed = checks.iter().filter(|check| check.verdict == "failed");
    failed.map(|check| check.found.as_str()).collect::<Vec<_>>().join("; ")
}

/// A number of things: `1 node`, `2 nodes`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

impl CallError {
    /// Something that the configuration manager or another part of the process did not answer.
    #[must_use]
    pub fn stopped(part: &'static str) -> Self {
        Self::Unavailable { part, why: "it has stopped".into() }
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what, name } => Self::NotFound { what, name },
            StoreError::Exists { what, name } => Self::Exists { what, name },
            StoreError::Conflict { what, name, expected, actual } => {
                Self::Stale { what, name, expected, actual }
            }
            StoreError::InUse { what, name, why } => {
                Self::Conflict { what, name, why: format!("is in use: {why}") }
            }
            StoreError::Full(why) => Self::Policy(why),
            StoreError::Unavailable(why) => Self::Unavailable { part: "store", why },
        }
    }
}

impl From<audit::AuditError> for CallError {
    fn from(error: audit::AuditError) -> Self {
        match error {
            audit::AuditError::Unavailable(why) => Self::Unavailable { part: "audit log", why },
        }
    }
}

impl From<BindingError> for CallError {
    fn from(error: BindingError) -> Self {
        let why = error.to_string();
        match error {
            BindingError::NoIdentity(_) | BindingError::TooMany { .. } => {
                Self::Parameter { what: "binding", why }
            }
            BindingError::Label { .. } => Self::Parameter { what: "labels", why },
            BindingError::ForeignIdentity { .. } | BindingError::ReservedIdentity(_) => Self::Policy(why),
        }
    }
}

impl From<IssueError> for CallError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Refused(why) => Self::Policy(why),
            IssueError::Token(refusal) => Self::Policy(refusal.to_string()),
            IssueError::Recovery(refusal) => Self::Policy(refusal.to_string()),
            IssueError::AlreadyIssued(_) => {
                Self::Conflict { what: "certificate", name: String::new(), why: "was issued before".into() }
            }
            IssueError::Unavailable(why) | IssueError::BadOutput(why) => {
                Self::Unavailable { part: "issuer", why }
            }
        }
    }
}

/// Reads a name that came in a path, query or body.
pub(crate) fn name<T>(what: &'static str, parsed: Result<T, NameError>) -> Result<T, CallError> {
    parsed.map_err(|error| CallError::Parameter { what, why: error.to_string() })
}

/// Reads a SPIFFE ID that came in a path, query or body.
pub(crate) fn id<T>(what: &'static str, parsed: Result<T, IdError>) -> Result<T, CallError> {
    parsed.map_err(|error| CallError::Parameter { what, why: error.to_string() })
}
