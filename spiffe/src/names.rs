//! Names that are not SPIFFE IDs: nodes, tenants, namespaces, labels.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why text is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing, or more than 63 bytes.
    #[error("a name has 1 to 63 characters, this has {0}")]
    Length(usize),
    /// A character outside the alphabet, or a dot or dash at an edge.
    #[error(
        "{0:?} cannot stand there, names have a-z, 0-9, \"-\" and \".\", and begin and end with a letter or digit"
    )]
    Character(char),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 63 {
        return Err(NameError::Length(text.len()));
    }
    if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')) {
        return Err(NameError::Character(bad));
    }
    match [text.chars().next(), text.chars().last()].into_iter().flatten().find(|c| matches!(c, '-' | '.')) {
        Some(edge) => Err(NameError::Character(edge)),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name of 1 to 63 characters: lower case letters, digits, dashes and dots.
            ///
            /// # Errors
            /// See [`NameError`].
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
    };
}

name! {
    /// One Envoy, named by its node id and proven by its certificate.
    NodeId
}
name! {
    /// Whose binding, document, token or row it is.
    Tenant
}
name! {
    /// The namespace of nodes and documents inside a tenant.
    Namespace
}
name! {
    /// What certifies: the built-in authorities, or somebody outside whom an operator named.
    IssuerName
}

name! {
    /// A certificate for public names, which proxies show at the edge.
    EdgeName
}

impl EdgeName {
    /// What the name of its secret begins with.
    pub const SCHEME: &str = "edge://";

    /// The name of the secret that is its certificate.
    #[must_use]
    pub fn to_uri(&self) -> String {
        format!("{}{self}", Self::SCHEME)
    }

    /// The name of the secret by which one of its names is shown to an ACME server (RFC 8737).
    #[must_use]
    pub fn challenge_uri(&self, server_name: &str) -> String {
        format!("{}{self}/{server_name}", Self::SCHEME)
    }
}

impl IssuerName {
    /// The built-in one: authorities whose keys Credence made and signed itself.
    pub const BUILTIN: &str = "builtin";

    /// The built-in one.
    #[must_use]
    pub fn builtin() -> Self {
        Self(Self::BUILTIN.into())
    }

    /// Whether it is the built-in one.
    #[must_use]
    pub fn is_builtin(&self) -> bool {
        self.as_str() == Self::BUILTIN
    }
}

impl Default for Tenant {
    /// `default`, the one tenant that exists from the beginning.
    fn default() -> Self {
        Self("default".into())
    }
}

impl Default for Namespace {
    /// `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

/// Labels of a node or document, by key.
pub type Labels = BTreeMap<String, String>;

/// Names one request through logs, answers and audit.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// From 8 random octets, written as 16 hexadecimal digits.
    #[must_use]
    pub fn from_random(octets: [u8; 8]) -> Self {
        Self(hex::encode(octets).into())
    }

    /// Draws one from the system's random generator.
    #[must_use]
    pub fn random() -> Self {
        let mut octets = [0; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut octets)
            .expect("the system random generator answers");
        Self::from_random(octets)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
