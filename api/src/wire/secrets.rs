//! Imported secrets. Values go in and never come out.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// A text on its way in that nobody may see: zeroed when dropped, and not printed.
pub struct Hidden(Zeroizing<String>);

impl Hidden {
    /// Takes the text.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// Its bytes, for the one who parses them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hidden({} bytes)", self.0.len())
    }
}

/// For the command line, which sends it.
impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Hidden;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Hidden, E> {
                Ok(Hidden(Zeroizing::new(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Hidden, E> {
                Ok(Hidden(Zeroizing::new(text)))
            }
        }
        deserializer.deserialize_string(Text)
    }
}

/// Writes an imported secret: a certificate with its key, or a value.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    /// The namespace; may stand in the address instead.
    #[serde(default)]
    pub namespace: String,
    /// The name within it, which may stand in the address instead: `secret://NAMESPACE/NAME` is what proxies ask for.
    #[serde(default)]
    pub name: String,
    /// The identities that may have it. Absent when its value is replaced: then the grants stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// The chain as PEM, leaf first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The key of the certificate as PEM, unencrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key: Option<Hidden>,
    /// Bytes of any meaning, as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub value: Option<Hidden>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// An imported secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
    /// What proxies ask for.
    pub sds_name: String,
    /// `tls` or `generic`.
    pub kind: String,
    /// Grows with each write.
    pub version: u64,
    /// The identities that may have it.
    pub grants: Vec<String>,
    /// The nodes that get it now: those bound to one of them.
    pub nodes: Vec<String>,
    /// When it was made.
    pub created: String,
    /// When it was written last.
    pub updated: String,
    /// The subject of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When its certificate begins, where that is to come: until then whoever verifies it refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<String>,
    /// When its certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Seconds until then, negative afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<i64>,
}

/// What writing an imported secret did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretChange {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// In a sentence.
    pub summary: String,
    /// The secret as it is, or would be.
    pub secret: Secret,
}
