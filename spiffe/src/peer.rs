//! The authenticated other end of a connection.

use std::net::SocketAddr;

use certs::{Serial, SpkiHash, Timestamp};

use crate::{AuthorityId, NodeId, SpiffeId, Trust};

/// Which class of certificate an identity belongs to (DESIGN section 5). Each listener admits its own only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Class {
    /// `/credence/node/NODE`: a proxy or agent towards us.
    Node(NodeId),
    /// Any other path: proxy to proxy, nothing of ours.
    Workload,
    /// `/credence/server`: us.
    Server,
    /// `/credence/operator/NAME`: whoever operates us.
    Operator(String),
}

impl Class {
    /// The word that audit and metrics use.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Workload => "workload",
            Self::Server => "server",
            Self::Operator(_) => "operator",
        }
    }
}

/// What `verify_svid` found: the proof that a chain is an SVID of this identity. It cannot be made by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSvid {
    pub(crate) id: SpiffeId,
    pub(crate) class: Class,
    pub(crate) serial: Serial,
    pub(crate) spki: SpkiHash,
    pub(crate) authority: SpkiHash,
    pub(crate) root: SpkiHash,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// Of all that the leaf's signature covers.
    pub(crate) signed_sha256: [u8; 32],
}

impl VerifiedSvid {
    /// Whose.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Of which class.
    #[must_use]
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// The leaf's serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The leaf's key.
    #[must_use]
    pub fn spki(&self) -> SpkiHash {
        self.spki
    }

    /// The key that signed the leaf.
    #[must_use]
    pub fn authority(&self) -> SpkiHash {
        self.authority
    }

    /// The key of the trusted certificate at the end of the chain.
    #[must_use]
    pub fn root(&self) -> SpkiHash {
        self.root
    }

    /// Whether an operator has revoked it since it was verified.
    #[must_use]
    pub fn is_revoked(&self, trust: &Trust) -> bool {
        trust.is_revoked(AuthorityId::of(self.authority), &self.serial)
    }

    /// When the leaf begins.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When the leaf ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// An SVID without proof, for tests of what comes after verification. It is as young as can be.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn for_tests(id: SpiffeId, not_after: Timestamp) -> Self {
        let class = id.class().expect("test identities have a class");
        let spki = SpkiHash::of(id.as_str().as_bytes());
        let authority = SpkiHash([0; 32]);
        let serial = Serial::random();
        let (root, not_before, signed_sha256) = (authority, not_after, spki.0);
        Self { id, class, serial, spki, authority, root, not_before, not_after, signed_sha256 }
    }

    /// The same, signed by an authority under a root, both named by their keys.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn signed_by(self, authority: SpkiHash, root: SpkiHash) -> Self {
        Self { authority, root, ..self }
    }

    /// The same, valid from another time.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn valid_from(self, not_before: Timestamp) -> Self {
        Self { not_before, ..self }
    }

    /// The same with a key that the test knows.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn for_tests_with_key(id: SpiffeId, not_after: Timestamp, spki: SpkiHash) -> Self {
        Self { spki, ..Self::for_tests(id, not_after) }
    }
}

/// What the other end has proven of us: that it verifies our certificate under this root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The root that the chain which it was shown leads to, and no other.
    pub root: AuthorityId,
    /// When the handshake was done.
    pub at: Timestamp,
}

/// A verified SVID at the other end of one connection. Every stream and every call begins with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    svid: VerifiedSvid,
    remote: SocketAddr,
    proof: Option<Proof>,
}

impl Peer {
    /// The peer that presented `svid` from `remote`.
    #[must_use]
    pub fn new(svid: VerifiedSvid, remote: SocketAddr) -> Self {
        Self { svid, remote, proof: None }
    }

    /// The same, which completed its handshake with us under one root.
    #[must_use]
    pub fn with_proof(self, proof: Option<Proof>) -> Self {
        Self { proof, ..self }
    }

    /// Under which of our roots it completed its handshake, if it was shown one only.
    #[must_use]
    pub fn proof(&self) -> Option<Proof> {
        self.proof
    }

    /// What it proved.
    #[must_use]
    pub fn svid(&self) -> &VerifiedSvid {
        &self.svid
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// The node it is, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match &self.svid.class {
            Class::Node(node) => Some(node),
            Class::Workload | Class::Server | Class::Operator(_) => None,
        }
    }

    /// Where it connected from; for logs and audit, never for decisions.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }
}
