//! SPIFFE IDs and trust domains: one parser, which refuses and never normalises (SPIFFE-ID 2.1 to 2.4).
//! After it, comparison is by bytes.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Class, NodeId};

/// The longest SPIFFE ID in bytes (SPIFFE-ID 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// The longest trust domain in bytes (SPIFFE-ID 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const SCHEME: &str = "spiffe://";
const RESERVED: &str = "/credence/";

/// Why text is no SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Does not start with `spiffe://` in lower case.
    #[error("does not start with \"spiffe://\"")]
    Scheme,
    /// The trust domain is empty.
    #[error("trust domain is empty")]
    EmptyTrustDomain,
    /// The trust domain has capital letters.
    #[error("trust domain {0:?} has capital letters")]
    CapitalLetters(String),
    /// The trust domain has a character outside `a-z 0-9 . - _`.
    #[error("trust domain has {0:?}, only a-z, 0-9, \".\", \"-\" and \"_\" are allowed")]
    TrustDomainCharacter(char),
    /// Longer than [`MAX_ID_BYTES`], or its trust domain than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("has {0} bytes, at most {1} are allowed")]
    TooLong(usize, usize),
    /// A path segment is empty, or the path ends with a slash.
    #[error("path has an empty segment or a trailing slash")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("path has a segment \".\" or \"..\"")]
    DotSegment,
    /// The path has a character outside `a-z A-Z 0-9 . - _`; this covers query, fragment and percent-encoding.
    #[error("path has {0:?}, only a-z, A-Z, 0-9, \".\", \"-\" and \"_\" are allowed")]
    PathCharacter(char),
    /// An identity of a workload needs a path (X509-SVID 3.1).
    #[error("has no path")]
    NoPath,
    /// Under `/credence/`, but none of the forms that Credence gives out.
    #[error("path prefix /credence/ is reserved")]
    Reserved,
}

/// A namespace of identities under one root of trust, such as `prod.example`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses the bare name, without scheme.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character outside the alphabet.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        if name.is_empty() {
            return Err(IdError::EmptyTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(IdError::TooLong(name.len(), MAX_TRUST_DOMAIN_BYTES));
        }
        if name.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(IdError::CapitalLetters(name.to_owned()));
        }
        match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some(bad) => Err(IdError::TrustDomainCharacter(bad)),
            None => Ok(Self(name.into())),
        }
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://NAME`, the URI that stands in authorities and names a validation context.
    #[must_use]
    pub fn to_uri(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// The identity with `path` (which starts with a slash) in this domain.
    ///
    /// # Errors
    /// When the path breaks a rule of SPIFFE-ID 2.2.
    pub fn id(&self, path: &str) -> Result<SpiffeId, IdError> {
        SpiffeId::parse(&format!("{SCHEME}{}{path}", self.0))
    }

    /// The identity of a node.
    #[must_use]
    pub fn node_id(&self, node: &NodeId) -> SpiffeId {
        self.id(&format!("/credence/node/{node}")).expect("node ids are single path segments")
    }

    /// Our own identity.
    #[must_use]
    pub fn server_id(&self) -> SpiffeId {
        self.id("/credence/server").expect("a constant path parses")
    }

    /// The identity of an operator.
    ///
    /// # Errors
    /// When the name is not one path segment.
    pub fn operator_id(&self, name: &str) -> Result<SpiffeId, IdError> {
        let id = self.id(&format!("/credence/operator/{name}"))?;
        if name.contains('/') { Err(IdError::Reserved) } else { Ok(id) }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.to_string()
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

/// The name of a workload, node, operator or server: `spiffe://trust-domain/path`. Always has a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// Parses an identity with a path. What SPIFFE-ID does not allow is refused, never repaired.
    ///
    /// # Errors
    /// See [`IdError`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(IdError::TooLong(text.len(), MAX_ID_BYTES));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let domain = TrustDomain::parse(domain)?;
        if path.is_empty() {
            return Err(IdError::NoPath);
        }
        for segment in path[1..].split('/') {
            match segment {
                "" => return Err(IdError::EmptySegment),
                "." | ".." => return Err(IdError::DotSegment),
                _ => {}
            }
            if let Some(bad) =
                segment.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
            {
                return Err(IdError::PathCharacter(bad));
            }
        }
        Ok(Self { text: text.into(), domain })
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Its path, with the leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain.as_str().len()..]
    }

    /// Which class of certificate carries this identity. Anything outside the reserved prefix is a workload.
    ///
    /// # Errors
    /// [`IdError::Reserved`] for a reserved path that Credence gives out to nobody.
    pub fn class(&self) -> Result<Class, IdError> {
        let Some(reserved) = self.path().strip_prefix(RESERVED) else {
            return if self.path() == "/credence" { Err(IdError::Reserved) } else { Ok(Class::Workload) };
        };
        match reserved.split('/').collect::<Vec<_>>()[..] {
            ["server"] => Ok(Class::Server),
            ["operator", name] => Ok(Class::Operator(name.to_owned())),
            ["node", name] => NodeId::parse(name).map(Class::Node).map_err(|_| IdError::Reserved),
            _ => Err(IdError::Reserved),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.to_string()
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_standard_forbids_and_normalises_nothing() {
        let check = |text: &str, expected: Result<&str, IdError>| {
            assert_eq!(
                SpiffeId::parse(text).as_ref().map(SpiffeId::path),
                expected.as_ref().map(|p| *p),
                "{text}"
            );
        };
        check("spiffe://td/web", Ok("/web"));
        check("spiffe://a-b_c.d9/ns/Prod/sa/web.1", Ok("/ns/Prod/sa/web.1"));
        check("SPIFFE://td/web", Err(IdError::Scheme));
        check("spiffe:///web", Err(IdError::EmptyTrustDomain));
        check("spiffe://TD/web", Err(IdError::CapitalLetters("TD".into())));
        check("spiffe://td:80/web", Err(IdError::TrustDomainCharacter(':')));
        check("spiffe://user@td/web", Err(IdError::TrustDomainCharacter('@')));
        check("spiffe://td", Err(IdError::NoPath));
        check("spiffe://td/", Err(IdError::EmptySegment));
        check("spiffe://td/web/", Err(IdError::EmptySegment));
        check("spiffe://td//web", Err(IdError::EmptySegment));
        check("spiffe://td/./web", Err(IdError::DotSegment));
        check("spiffe://td/../web", Err(IdError::DotSegment));
        check("spiffe://td/w%65b", Err(IdError::PathCharacter('%')));
        check("spiffe://td/web?x=1", Err(IdError::PathCharacter('?')));
        check("spiffe://td/web#x", Err(IdError::PathCharacter('#')));
        check("spiffe://td/wéb", Err(IdError::PathCharacter('é')));
        check("spiffe://td/we\0b", Err(IdError::PathCharacter('\0')));
    }

    #[test]
    fn classes_follow_the_reserved_prefix() {
        let class = |path: &str| TrustDomain::parse("td").unwrap().id(path).unwrap().class();
        assert_eq!(class("/credence/node/web-1"), Ok(Class::Node(NodeId::parse("web-1").unwrap())));
        assert_eq!(class("/credence/server"), Ok(Class::Server));
        assert_eq!(class("/credence/operator/ann"), Ok(Class::Operator("ann".into())));
        assert_eq!(class("/credences/web"), Ok(Class::Workload));
        for path in ["/credence", "/credence/x", "/credence/node", "/credence/node/a/b", "/credence/server/x"]
        {
            assert_eq!(class(path), Err(IdError::Reserved), "{path}");
        }
    }
}
