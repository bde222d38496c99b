//! What imported secrets are called.

use std::fmt;

use thiserror::Error;

use crate::Namespace;

/// The longest name within a namespace.
const MAX_NAME: usize = 128;

/// The name of an imported secret: `NAMESPACE/NAME`, unique within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    namespace: Namespace,
    name: String,
}

/// Why a text is no name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretNameError {
    /// The namespace is none.
    #[error("namespace of the secret: {0}")]
    Namespace(String),
    /// The name within it.
    #[error("a secret's name is 1 to {MAX_NAME} of a-z, 0-9, -, _ and .")]
    Name,
}

impl SecretName {
    /// How the names begin under which proxies ask.
    pub const SCHEME: &str = "secret://";

    /// Checks both parts.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, SecretNameError> {
        let namespace =
            Namespace::parse(namespace).map_err(|error| SecretNameError::Namespace(error.to_string()))?;
        let is_name = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if is_name { Ok(Self { namespace, name: name.to_owned() }) } else { Err(SecretNameError::Name) }
    }

    /// Reads `NAMESPACE/NAME`.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let (namespace, name) = path.split_once('/')?;
        Self::parse(namespace, name).ok()
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name within it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What proxies ask for: `secret://NAMESPACE/NAME`.
    #[must_use]
    pub fn to_uri(&self) -> String {
        format!("{}{self}", Self::SCHEME)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for path in ["default/db", "a/b.c_d-1"] {
            assert_eq!(SecretName::from_path(path).unwrap().to_string(), path);
        }
        let long = format!("default/{}", "x".repeat(129));
        for path in [
            "",
            "default",
            "default/",
            "/x",
            "default/X",
            "default/a/b",
            "Default/a",
            "default/ä",
            "default/a?g=1",
            &long,
        ] {
            assert_eq!(SecretName::from_path(path), None, "{path}");
        }
    }
}
