//! What is certified: DNS names (RFC 8555 9.7.7) and addresses (RFC 8738).

use std::{fmt, net::IpAddr};

use certs::{ServerName, SubjectAltName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most names of one certificate.
pub const MAX_NAMES: usize = 100;

/// Why text is no name that a public authority certifies.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentifierError {
    /// Neither a DNS name nor an address.
    #[error(
        "{0:?} is neither a DNS name nor an address; write \"shop.example\", \"*.shop.example\" or \"192.0.2.7\""
    )]
    Malformed(String),
    /// Letters beyond ASCII.
    #[error("{0:?} has letters beyond ASCII; write it as it stands in DNS (\"xn--...\")")]
    NotAscii(String),
    /// None at all.
    #[error("no name was given")]
    None,
    /// More than [`MAX_NAMES`].
    #[error("{0} names were given, at most {MAX_NAMES} stand in a certificate")]
    TooMany(usize),
    /// The same one twice.
    #[error("{0} was given twice")]
    Twice(Identifier),
}

/// One name, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Identifier {
    /// A DNS name; it may begin with `*.`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl Identifier {
    /// Reads a DNS name or an address.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        if !text.is_ascii() {
            return Err(IdentifierError::NotAscii(shortened(text)));
        }
        let name = text.to_ascii_lowercase();
        if is_dns(name.strip_prefix("*.").unwrap_or(&name)) {
            Ok(Self::Dns(name))
        } else {
            Err(IdentifierError::Malformed(shortened(text)))
        }
    }

    /// Whether it stands for all names one label below.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.starts_with("*."))
    }

    /// As a name in a certificate.
    #[must_use]
    pub fn to_server_name(&self) -> ServerName<'_> {
        match self {
            Self::Dns(name) => ServerName::Dns(name),
            Self::Ip(ip) => ServerName::Ip(*ip),
        }
    }

    /// Of a certificate's name, if it is of a form that can be ordered.
    #[must_use]
    pub fn of(name: &SubjectAltName) -> Option<Self> {
        match name {
            SubjectAltName::Dns(name) => Self::parse(name).ok().filter(|one| matches!(one, Self::Dns(_))),
            SubjectAltName::Ip(ip) => Some(Self::Ip(*ip)),
            SubjectAltName::Uri(_) | SubjectAltName::Other(_) => None,
        }
    }

    /// `dns` or `ip`, as ACME calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Ip(_) => "ip",
        }
    }

    /// Of what ACME calls it.
    pub(crate) fn of_kind(kind: &str, value: &str) -> Option<Self> {
        Self::parse(value).ok().filter(|one| one.kind() == kind)
    }
}

/// Letters, digits, hyphens and underscores in labels of 63, two labels at least, and the last not a number, as no
/// address is taken for a name.
fn is_dns(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.contains('.')
        && name.split('.').all(is_label)
        && !last.bytes().all(|octet| octet.is_ascii_digit())
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Identifier> for String {
    fn from(one: Identifier) -> Self {
        one.to_string()
    }
}

impl TryFrom<String> for Identifier {
    type Error = IdentifierError;
    fn try_from(text: String) -> Result<Self, IdentifierError> {
        Self::parse(&text)
    }
}

/// The names of one certificate: some, not too many, each once, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Identifier>", into = "Vec<Identifier>")]
pub struct Names(Vec<Identifier>);

impl Names {
    /// Takes them, in any order.
    ///
    /// # Errors
    /// When there are none, too many, or one is there twice.
    pub fn try_new(mut names: Vec<Identifier>) -> Result<Self, IdentifierError> {
        match names.len() {
            0 => return Err(IdentifierError::None),
            1..=MAX_NAMES => {}
            count => return Err(IdentifierError::TooMany(count)),
        }
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(IdentifierError::Twice(pair[0].clone())),
            None => Ok(Self(names)),
        }
    }

    /// In order.
    #[must_use]
    pub fn as_slice(&self) -> &[Identifier] {
        &self.0
    }

    /// Whether these are the same, in whatever order.
    #[must_use]
    pub fn is_exactly(&self, others: &[Identifier]) -> bool {
        Self::try_new(others.to_vec()).is_ok_and(|others| others == *self)
    }

    /// Whether one of these is shown to be ours by an authorization of this name: itself, or the wildcard below it.
    #[must_use]
    pub fn are_shown_by(&self, name: &Identifier) -> bool {
        self.0.iter().any(|one| match (one, name) {
            (Identifier::Dns(one), Identifier::Dns(name)) => one.strip_prefix("*.").unwrap_or(one) == name,
            _ => one == name,
        })
    }
}

impl From<Names> for Vec<Identifier> {
    fn from(names: Names) -> Self {
        names.0
    }
}

impl TryFrom<Vec<Identifier>> for Names {
    type Error = IdentifierError;
    fn try_from(names: Vec<Identifier>) -> Result<Self, IdentifierError> {
        Self::try_new(names)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_stands_in_dns_or_an_address() {
        let dns = |name: &str| Ok(Identifier::Dns(name.to_owned()));
        let bad = |text: &str| Err(IdentifierError::Malformed(text.to_owned()));
        let check = |text: &str, expected| assert_eq!(Identifier::parse(text), expected, "{text}");
        check("Shop.Example", dns("shop.example"));
        check("*.shop.example", dns("*.shop.example"));
        check("_a.xn--bcher-kva.example", dns("_a.xn--bcher-kva.example"));
        check("192.0.2.7", Ok(Identifier::Ip("192.0.2.7".parse().unwrap())));
        check("2001:DB8::7", Ok(Identifier::Ip("2001:db8::7".parse().unwrap())));
        check("b\u{fc}cher.example", Err(IdentifierError::NotAscii("b\u{fc}cher.example".to_owned())));
        for text in [
            "",
            "localhost",
            ".example",
            "a..example",
            "-a.example",
            "a-.example",
            "*",
            "*.*.example",
            "a.*.example",
            "shop.example.",
            "shop example",
            "shop.example:443",
            "https://shop.example",
            "300.1.1.1",
        ] {
            check(text, bad(text));
        }
        check(&format!("{}.example", "a".repeat(64)), bad(&format!("{}.example", "a".repeat(64))));
    }

    #[test]
    fn names_are_some_and_each_is_there_once_in_whatever_order() {
        let one = |text: &str| Identifier::parse(text).unwrap();
        assert_eq!(Names::try_new(Vec::new()), Err(IdentifierError::None));
        let twice = Names::try_new(vec![one("b.example"), one("B.example")]);
        assert_eq!(twice, Err(IdentifierError::Twice(one("b.example"))));
        let many = (0..=MAX_NAMES).map(|n| one(&format!("a{n}.example"))).collect();
        assert_eq!(Names::try_new(many), Err(IdentifierError::TooMany(MAX_NAMES + 1)));
        let names = Names::try_new(vec![one("b.example"), one("a.example")]).unwrap();
        assert!(names.is_exactly(&[one("a.example"), one("b.example")]));
        assert!(names.is_exactly(&[one("b.example"), one("a.example")]));
        assert!(!names.is_exactly(&[one("a.example")]));
        assert!(names.are_shown_by(&one("a.example")) && !names.are_shown_by(&one("c.example")));
        let mixed = Names::try_new(vec![one("*.w.example"), one("192.0.2.7")]).unwrap();
        for (text, is_one) in [
            ("w.example", true),
            ("192.0.2.7", true),
            ("a.w.example", false),
            ("example.w", false),
            ("xw.example", false),
            ("192.0.2.8", false),
        ] {
            assert_eq!(mixed.are_shown_by(&one(text)), is_one, "{text}");
        }
        let stored = serde_json::to_string(&names).unwrap();
        assert_eq!(stored, "[\"a.example\",\"b.example\"]");
        assert_eq!(serde_json::from_str::<Names>(&stored).unwrap(), names);
        assert!(serde_json::from_str::<Names>("[\"a.example\",\"a.example\"]").is_err());
    }
}
