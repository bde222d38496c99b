//! Why a stream is refused or ended, and what the other side is told of it: a code.

use thiserror::Error;

use crate::TypeUrl;

/// A gRPC status code, as far as it is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// Too slow.
    DeadlineExceeded = 4,
    /// Not for this peer.
    PermissionDenied = 7,
    /// Too much.
    ResourceExhausted = 8,
    /// No such call.
    Unimplemented = 12,
    /// Come again.
    Unavailable = 14,
    /// Nobody is known to be there.
    Unauthenticated = 16,
}

/// Why a stream is refused or ended. This is for the audit trail; the peer gets [`Refusal::code`] and a
/// correlation id, nothing else (R12).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The connection carries no verified identity.
    #[error("the connection has no verified identity")]
    NoPeer,
    /// The identity is not a node's.
    #[error("the identity is not a node's")]
    NotANode,
    /// The identity is blocked.
    #[error("the identity is blocked")]
    Blocked,
    /// No enabled binding names the node.
    #[error("the node has no enabled binding")]
    Unbound,
    /// The first message lacks `node` or `node.id`.
    #[error("the first message has no node id")]
    NoNode,
    /// Too many nodes come at once (R11).
    #[error("too many new streams at once")]
    Crowded,
    /// `node.id` is not the certificate's.
    #[error("the certificate is another node's than node.id {said:?}")]
    OtherNode {
        /// What it said.
        said: String,
    },
    /// `node.cluster` is neither empty nor the binding's namespace.
    #[error("node.cluster {said:?} is not the namespace of the binding")]
    OtherCluster {
        /// What it said.
        said: String,
    },
    /// A later message came from another node than the first.
    #[error("node changed during the stream, to {said:?}")]
    NodeChanged {
        /// What it said.
        said: String,
    },
    /// No type URL on the aggregated service.
    #[error("a request without type URL on the aggregated service")]
    NoType,
    /// A type URL that is not the service's.
    #[error("type URL {said:?} on the service of {}", .service.word())]
    OtherType {
        /// Whose service it is.
        service: TypeUrl,
        /// What was asked.
        said: String,
    },
    /// What this node may have is not known yet.
    #[error("no snapshot of this node exists yet")]
    NotReady,
    /// More names than a stream, or one list of a request, may have.
    #[error("{count} names on one stream, at most {limit} are allowed")]
    TooManyNames {
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A name, type URL or known version that is too long.
    #[error("a name of {bytes} bytes, at most {limit} are allowed")]
    LongName {
        /// How long.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Nothing was asked in time.
    #[error("no message came in time")]
    Silent,
    /// A message that cannot be read.
    #[error("undecodable message: {0}")]
    Undecodable(String),
    /// A message with the compressed flag.
    #[error("a compressed message, which was not agreed on")]
    Compressed,
    /// A message beyond the limit.
    #[error("a message of {bytes} bytes, at most {limit} are allowed")]
    LongMessage {
        /// How long.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The peer did not read.
    #[error("the peer did not read for too long")]
    Stalled,
    /// Newer streams of the same node took its place.
    #[error("newer streams of the node took its place")]
    Superseded,
    /// No such method.
    #[error("no such method: {0}")]
    NoMethod(String),
}

impl Refusal {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoPeer => Code::Unauthenticated,
            Self::NotANode
            | Self::Blocked
            | Self::Unbound
            | Self::OtherNode { .. }
            | Self::OtherCluster { .. }
            | Self::NodeChanged { .. } => Code::PermissionDenied,
            Self::NoNode | Self::NoType | Self::OtherType { .. } | Self::LongName { .. } => {
                Code::InvalidArgument
            }
            Self::Undecodable(_) => Code::InvalidArgument,
            Self::NotReady => Code::Unavailable,
            Self::TooManyNames { .. } | Self::LongMessage { .. } | Self::Superseded | Self::Crowded => {
                Code::ResourceExhausted
            }
            Self::Silent | Self::Stalled => Code::DeadlineExceeded,
            Self::Compressed | Self::NoMethod(_) => Code::Unimplemented,
        }
    }
}
