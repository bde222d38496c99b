//! One call of Vault's API as a value: what is asked, by whom, and whether it may be asked twice.

use std::fmt;

use thiserror::Error;

use crate::secret::{Body, Secret};

/// The longest name of a mount, a role, an issuer or a key.
pub const MAX_NAME: usize = 128;

/// Why text is no name in Vault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no name in Vault; it has letters, digits, `-`, `_` and `.` only")]
pub struct NameError(String);

impl NameError {
    fn of(text: &str) -> Self {
        Self(text.chars().take(MAX_NAME).collect())
    }
}

fn is_name(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(known) && text.chars().any(|c| c != '.')
}

/// The name of a role, an issuer or a key: one segment of a path, which cannot lead elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Reads it.
    ///
    /// # Errors
    /// When it has anything but letters, digits, `-`, `_` and `.`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if is_name(text) { Ok(Self(text.to_owned())) } else { Err(NameError::of(text)) }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Where an engine is mounted, or a namespace: names with `/` between them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mount(String);

impl Mount {
    /// Reads it; a `/` at its end is left out.
    ///
    /// # Errors
    /// When one of its parts is no name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let plain = text.strip_suffix('/').unwrap_or(text);
        let good = plain.len() <= MAX_NAME && plain.split('/').all(is_name);
        if good { Ok(Self(plain.to_owned())) } else { Err(NameError::of(text)) }
    }

    /// As text, without `/` at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Post,
}

/// In whose name it is asked.
#[derive(Debug)]
pub(crate) enum Bearer {
    /// Of the session.
    Session,
    /// Of nobody: logins and public reads.
    Nobody,
    /// Of who holds this token, which the session is not: a wrapped answer.
    Own(Secret),
}

/// One call.
#[derive(Debug)]
pub struct Request {
    pub(crate) verb: Verb,
    pub(crate) path: String,
    pub(crate) body: Option<Body>,
    pub(crate) bearer: Bearer,
    /// Whether it may be sent again when it is not known what came of it.
    pub(crate) is_repeatable: bool,
    /// Whether it needs a connection of its own, made with the files as they are now.
    pub(crate) is_fresh: bool,
    /// Whether it is asked even while the token may do more than it should: by whom finds out.
    pub(crate) is_own: bool,
}

impl Request {
    fn new(verb: Verb, path: String, body: Option<Body>) -> Self {
        let is_repeatable = verb != Verb::Post;
        let bearer = Bearer::Session;
        Self { verb, path, body, bearer, is_repeatable, is_fresh: false, is_own: false }
    }

    pub(crate) fn get(path: String) -> Self {
        Self::new(Verb::Get, path, None)
    }

    pub(crate) fn list(path: String) -> Self {
        Self::new(Verb::List, path, None)
    }

    pub(crate) fn post(path: String, body: Body) -> Self {
        Self::new(Verb::Post, path, Some(body))
    }

    pub(crate) fn repeatable(self) -> Self {
        Self { is_repeatable: true, ..self }
    }

    pub(crate) fn fresh(self) -> Self {
        Self { is_fresh: true, ..self }
    }

    pub(crate) fn own(self) -> Self {
        Self { is_own: true, ..self }
    }

    pub(crate) fn by(self, bearer: Bearer) -> Self {
        Self { bearer, ..self }
    }

    /// The path below `/v1/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for text in ["svid", "a.b-c_D9", "1c3f-9", "..a"] {
            assert_eq!(Name::parse(text).unwrap().as_str(), text);
        }
        for text in ["", ".", "..", "a/b", "a%2fb", "a?b", "a#b", "a b", "é", &"a".repeat(MAX_NAME + 1)] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mount_is_names_with_slashes_between() {
        assert_eq!(Mount::parse("pki/int/").unwrap().as_str(), "pki/int");
        for text in ["", "/", "/pki", "pki//int", "pki/../sys", "pki/./int", "pki/+", "pki/*"] {
            assert!(Mount::parse(text).is_err(), "{text}");
        }
    }
}
