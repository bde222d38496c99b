//! What must not be shown: tokens, secret ids, bodies that hold them. The only file of this crate that reads private
//! bytes, in order to hand them to Vault.
//!
//! What is ours to zero is zeroed: the values, the bodies of requests, the answers. What the HTTP and TLS libraries
//! copy into their own buffers on the way is not.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use certs::SecretBytes;
use http::HeaderValue;
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;
use zeroize::Zeroizing;

/// The longest token, secret id or JWT that is taken.
pub const MAX_SECRET: usize = 16 * 1024;

/// Why bytes are no token, secret id or JWT. It does not say what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SecretError {
    /// There is nothing but white space.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_SECRET`] bytes.
    #[error("has {0} bytes, at most {MAX_SECRET} are taken")]
    TooLong(usize),
    /// A byte that cannot stand in a token: a space, a control character, or one beyond ASCII.
    #[error(
        "holds a character that no token has; is it the whole JSON answer of Vault, or an encrypted file?"
    )]
    Character,
}

/// A token, a secret id, a role id or a JWT. Zeroed when dropped; cannot be cloned, compared, printed or serialized.
pub struct Secret(SecretBytes);

impl Secret {
    /// Takes bytes as they stand in a file; white space around them is cut off.
    ///
    /// # Errors
    /// When nothing is left, or what cannot stand in a header.
    pub fn parse(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        let trimmed = bytes.trim_ascii();
        match trimmed.len() {
            0 => return Err(SecretError::Empty),
            1..=MAX_SECRET => {}
            length => return Err(SecretError::TooLong(length)),
        }
        if !trimmed.iter().all(u8::is_ascii_graphic) {
            return Err(SecretError::Character);
        }
        Ok(Self(SecretBytes::new(Zeroizing::new(trimmed.to_vec()))))
    }

    /// As [`Secret::parse`], of text.
    ///
    /// # Errors
    /// See there.
    pub fn of_text(text: &str) -> Result<Self, SecretError> {
        Self::parse(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// As [`Secret::parse`], of what was kept encrypted.
    ///
    /// # Errors
    /// See there.
    pub fn of(bytes: &SecretBytes) -> Result<Self, SecretError> {
        Self::parse(Zeroizing::new(bytes.expose_secret().to_vec()))
    }

    /// For whoever keeps it encrypted: the bytes, which stay what they are.
    #[must_use]
    pub fn bytes(&self) -> &SecretBytes {
        &self.0
    }

    /// The bytes for whoever is to own them.
    #[must_use]
    pub fn into_bytes(self) -> SecretBytes {
        self.0
    }

    /// The same once more, for a request that owns what it sends.
    pub(crate) fn copy(&self) -> Self {
        Self(SecretBytes::new(Zeroizing::new(self.0.expose_secret().to_vec())))
    }

    /// As the value of a header, which shows itself to nobody and is zeroed when the last copy is gone.
    pub(crate) fn to_header(&self) -> HeaderValue {
        let owned = Bytes::from_owner(Zeroizing::new(self.0.expose_secret().to_vec()));
        let mut value = HeaderValue::from_maybe_shared(owned).expect("a Secret holds what a header may");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret text")
            }
            // Never with the text in the error.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Secret::of_text(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// Bytes that Vault hands out as base64.
#[derive(Debug)]
pub(crate) struct Base64Secret(pub(crate) SecretBytes);

impl<'de> Deserialize<'de> for Base64Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Base64Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret in base64")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64Secret, E> {
                let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
                let length = STANDARD.decode_slice(text, &mut bytes).map_err(|_| E::custom("no base64"))?;
                bytes.truncate(length);
                Ok(Base64Secret(SecretBytes::new(bytes)))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// The body of a request: a JSON object of texts, numbers and switches, written once into memory that is zeroed.
#[derive(Default)]
pub(crate) struct Body(Zeroizing<Vec<u8>>);

impl Body {
    /// Room for `secret` octets beside what is nobody's secret, so that nothing is copied while it is written.
    fn with_room(secret: usize) -> Self {
        // An escaped octet takes six at most.
        Self(Zeroizing::new(Vec::with_capacity(1024 + 6 * secret)))
    }

    /// With a secret in it.
    pub(crate) fn of_secret(name: &str, secret: &Secret) -> Self {
        Self::with_room(secret.0.len()).secret(name, secret)
    }

    /// Another secret.
    pub(crate) fn secret(mut self, name: &str, secret: &Secret) -> Self {
        // Moved by hand where it has to move: a buffer that grows by itself leaves the old one behind.
        let mut grown = Vec::with_capacity(self.0.len() + 1024 + 6 * secret.0.len());
        grown.extend_from_slice(&self.0);
        self.0 = Zeroizing::new(grown);
        self.raw(name, |body| {
            let text = std::str::from_utf8(secret.0.expose_secret()).expect("a Secret is ASCII");
            write_json(body, text);
        })
    }

    /// With secret bytes in it, as base64.
    pub(crate) fn of_bytes(name: &str, secret: &SecretBytes) -> Self {
        Self::with_room(secret.len()).raw(name, |body| {
            let mut text = Zeroizing::new(vec![0; secret.len().div_ceil(3) * 4]);
            let length = STANDARD.encode_slice(secret.expose_secret(), &mut text);
            text.truncate(length.expect("base64 takes four for three"));
            body.push(b'"');
            body.extend_from_slice(&text);
            body.push(b'"');
        })
    }

    /// A text.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.raw(name, |body| write_json(body, value))
    }

    /// Anything that serializes.
    pub(crate) fn json<T: serde::Serialize + ?Sized>(self, name: &str, value: &T) -> Self {
        self.raw(name, |body| write_json(body, value))
    }

    fn raw(mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let before = if self.0.is_empty() { b'{' } else { b',' };
        self.0.push(before);
        write_json(&mut self.0, name);
        self.0.push(b':');
        write(&mut self.0);
        self
    }

    /// The JSON; what is handed to the HTTP library is zeroed when it has let go of it.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut whole = Zeroizing::new(Vec::with_capacity(self.0.len() + 2));
        whole.extend_from_slice(if self.0.is_empty() { b"{" } else { &self.0 });
        whole.push(b'}');
        Bytes::from_owner(whole)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

fn write_json<T: serde::Serialize + ?Sized>(into: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(into, value).expect("what a body is made of serializes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_of_itself() {
        let secret = Secret::of_text("hvs.topsecret").unwrap();
        let body = Body::of_secret("secret_id", &secret).text("role_id", "r");
        assert_eq!(body.to_bytes(), &b"{\"secret_id\":\"hvs.topsecret\",\"role_id\":\"r\"}"[..]);
        for shown in [format!("{secret:?}"), format!("{body:?}"), format!("{:?}", secret.to_header())] {
            assert!(!shown.contains("topsecret"), "{shown}");
        }
        assert_eq!(secret.to_header().as_bytes(), b"hvs.topsecret");
        let error = serde_json::from_str::<Secret>("\"top secret\"").unwrap_err().to_string();
        assert!(!error.contains("top secret"), "{error}");
        let error = serde_json::from_str::<Base64Secret>("\"topsecret!\"").unwrap_err().to_string();
        assert!(!error.contains("topsecret"), "{error}");
    }

    #[test]
    fn takes_what_a_file_holds_and_refuses_what_no_token_is() {
        let read = |text: &str| Secret::of_text(text).map(|secret| secret.to_header().as_bytes().to_vec());
        assert_eq!(read("hvs.abc\n"), Ok(b"hvs.abc".to_vec()));
        assert_eq!(read(" \n"), Err(SecretError::Empty));
        assert_eq!(read(&"a".repeat(MAX_SECRET + 1)), Err(SecretError::TooLong(MAX_SECRET + 1)));
        for text in ["a b", "a\nX-Other: b", "a\u{e9}", "{ \"auth\": 1 }"] {
            assert_eq!(read(text), Err(SecretError::Character), "{text}");
        }
    }

    #[test]
    fn secret_bytes_travel_as_base64() {
        for length in 0..7 {
            let bytes = SecretBytes::new(Zeroizing::new((0..length).collect()));
            let body = Body::of_bytes("plaintext", &bytes).to_bytes();
            let sent: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let read: Base64Secret = serde_json::from_value(sent["plaintext"].clone()).unwrap();
            assert_eq!(read.0.expose_secret(), bytes.expose_secret());
        }
        assert_eq!(Body::default().to_bytes(), &b"{}"[..]);
    }
}
