//! A slot of a key-encryption key in Vault's Transit engine: what is sealed goes there and back with what it belongs
//! to.
//!
//! A key is never made by being used: who encrypts shows that the key was read first, and the printed policy has no
//! `create`. `rewrap` and `datakey` are not used: they do not keep to associated data.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::SecretBytes;
use serde::Deserialize;
use thiserror::Error;

use crate::{
    Answer, Mount, Name, Request, Trouble,
    secret::{Base64Secret, Body},
};

/// Which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Where Transit is mounted.
    pub mount: Mount,
    /// The key's name.
    pub key: Name,
}

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// Its type, such as `aes256-gcm96`.
    pub kind: String,
    /// The version that encrypts.
    pub latest: u32,
    /// The oldest version that still decrypts.
    pub minimum: u32,
    /// Whether it may be destroyed.
    pub is_deletable: bool,
}

/// Why a key is no slot, or a slot does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlotRefusal {
    /// No key by that name.
    #[error("there is no key by that name")]
    NoKey,
    /// A key that does not keep to associated data, or encrypts nothing.
    #[error("a key of type {kind} does not bind what it encrypts to what it belongs to")]
    Kind {
        /// Its type.
        kind: String,
    },
    /// A key that wants a context with each use.
    #[error("the key is derived: it wants a context with each use")]
    Derived,
    /// Vault would hand the key out to who may export it.
    #[error("the key can be exported from Vault")]
    Exportable,
    /// The ciphertext is not of this key, or belongs to something else.
    #[error("it was not encrypted by this key for this purpose")]
    WrongPurpose,
    /// The version that encrypted it does not decrypt any more.
    #[error("the version of the key that encrypted it does not decrypt any more")]
    TooOld,
    /// The key does not have the version that encrypted it.
    #[error("the key does not have the version that encrypted it")]
    TooNew,
    /// Not a text that Transit made.
    #[error("is not a ciphertext of Transit")]
    Malformed,
    /// Anything else.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

impl SlotRefusal {
    /// What to do about it, in words.
    #[must_use]
    pub fn hint(&self) -> String {
        let text = match self {
            Self::NoKey => "make it: vault write -f MOUNT/keys/NAME type=aes256-gcm96",
            Self::Kind { .. } => "take a key of type aes256-gcm96, aes128-gcm96 or chacha20-poly1305",
            Self::Derived => "take a key that was made without derived=true",
            Self::Exportable => "take a key that was made without exportable=true and allow_plaintext_backup",
            Self::WrongPurpose => {
                "it is the slot of another store, or another key: which one is named in the slot"
            }
            Self::TooOld => "lower min_decryption_version of the key, rotate the slot, then raise it again",
            Self::TooNew => {
                "it is another key, or Vault was restored from a backup that is older than the slot"
            }
            Self::Malformed => "the slot was damaged: open by another slot, and make this one anew",
            Self::Trouble(trouble) => return trouble.hint(),
        };
        text.to_owned()
    }

    /// What a refusal of Vault says about a slot.
    #[must_use]
    pub fn of(trouble: Trouble) -> Self {
        match &trouble {
            Trouble::NotFound { .. } => Self::NoKey,
            Trouble::Refused { said } if said.has("encryption key not found") => Self::NoKey,
            Trouble::Refused { said } if said.has("message authentication failed") => Self::WrongPurpose,
            Trouble::Refused { said } if said.has("too old") => Self::TooOld,
            Trouble::Refused { said } if said.has("version is too new") => Self::TooNew,
            Trouble::Refused { said } if said.has("invalid ciphertext") => Self::Malformed,
            _ => Self::Trouble(trouble),
        }
    }
}

/// What Transit made of what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ciphertext {
    text: String,
    version: u32,
}

impl Ciphertext {
    /// Reads `vault:vN:BASE64`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, SlotRefusal> {
        let read = || {
            let (version, payload) = text.strip_prefix("vault:v")?.split_once(':')?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
            let is_good = !payload.is_empty() && payload.chars().all(plain);
            is_good.then(|| version.parse().ok()).flatten()
        };
        let version = read().ok_or(SlotRefusal::Malformed)?;
        Ok(Self { text: text.to_owned(), version })
    }

    /// As it is kept.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The version of the key that made it.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }
}

impl Slot {
    /// Asks what the key is.
    #[must_use]
    pub fn read(&self) -> Request {
        Request::get(format!("{}/keys/{}", self.mount, self.key))
    }

    /// Asks to encrypt `plain` with the latest version for one purpose, which must be named again to decrypt it.
    /// `_known` shows that the key is there.
    #[must_use]
    pub fn encrypt(&self, _known: &KeyState, plain: &SecretBytes, purpose: &[u8]) -> Request {
        let body = Body::of_bytes("plaintext", plain).text("associated_data", &STANDARD.encode(purpose));
        Request::post(format!("{}/encrypt/{}", self.mount, self.key), body).repeatable()
    }

    /// Asks to decrypt what was encrypted for that purpose.
    #[must_use]
    pub fn decrypt(&self, ciphertext: &Ciphertext, purpose: &[u8]) -> Request {
        let body = Body::default()
            .text("ciphertext", ciphertext.as_str())
            .text("associated_data", &STANDARD.encode(purpose));
        Request::post(format!("{}/decrypt/{}", self.mount, self.key), body).repeatable()
    }
}

/// Reads the answer to [`Slot::read`].
///
/// # Errors
/// When the key is no good for a slot.
pub fn read_key(answer: &Answer) -> Result<KeyState, SlotRefusal> {
    #[derive(Deserialize)]
    struct Key {
        r#type: String,
        latest_version: u32,
        min_decryption_version: u32,
        exportable: bool,
        #[serde(default)]
        allow_plaintext_backup: bool,
        deletion_allowed: bool,
        #[serde(default)]
        derived: bool,
        supports_encryption: bool,
        supports_decryption: bool,
        keys: BTreeMap<String, serde_json::Value>,
    }
    let key: Key = answer.data()?;
    let binds = ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305"].contains(&key.r#type.as_str());
    if !binds || !key.supports_encryption || !key.supports_decryption {
        return Err(SlotRefusal::Kind { kind: key.r#type });
    }
    if key.derived {
        return Err(SlotRefusal::Derived);
    }
    if key.exportable || key.allow_plaintext_backup {
        return Err(SlotRefusal::Exportable);
    }
    // Zero stands for the oldest that there is.
    let oldest = key.keys.keys().filter_map(|version| version.parse().ok()).min().unwrap_or(1);
    Ok(KeyState {
        kind: key.r#type,
        latest: key.latest_version,
        minimum: key.min_decryption_version.max(oldest),
        is_deletable: key.deletion_allowed,
    })
}

/// Reads the answer to [`Slot::encrypt`].
///
/// # Errors
/// When it is no ciphertext.
pub fn read_ciphertext(answer: &Answer) -> Result<Ciphertext, SlotRefusal> {
    #[derive(Deserialize)]
    struct Encrypted {
        ciphertext: String,
    }
    Ciphertext::parse(&answer.data::<Encrypted>()?.ciphertext)
}

/// Reads the answer to [`Slot::decrypt`].
///
/// # Errors
/// When it is of another shape.
pub fn read_plain(answer: &Answer) -> Result<SecretBytes, SlotRefusal> {
    #[derive(Deserialize)]
    struct Decrypted {
        plaintext: Base64Secret,
    }
    Ok(answer.data::<Decrypted>()?.plaintext.0)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{Reply, judge};

    fn answer(status: u16, body: &serde_json::Value) -> Result<Answer, Trouble> {
        let body = Zeroizing::new(body.to_string().into_bytes());
        judge(Reply { status, location: None, retry_after: None, body })
    }

    fn key(change: impl FnOnce(&mut serde_json::Value)) -> Result<KeyState, SlotRefusal> {
        let mut data = serde_json::json!({
            "type": "aes256-gcm96", "latest_version": 3, "min_decryption_version": 1, "exportable": false,
            "allow_plaintext_backup": false, "deletion_allowed": false, "supports_encryption": true,
            "supports_decryption": true, "keys": { "2": 1, "3": 2 },
        });
        change(&mut data);
        read_key(&answer(200, &serde_json::json!({ "data": data })).unwrap())
    }

    #[test]
    fn a_key_is_taken_that_binds_and_stays_in_vault() {
        let state = key(|_| {}).unwrap();
        assert_eq!((state.latest, state.minimum), (3, 2));
        assert_eq!(key(|data| data["exportable"] = true.into()), Err(SlotRefusal::Exportable));
        assert_eq!(key(|data| data["allow_plaintext_backup"] = true.into()), Err(SlotRefusal::Exportable));
        assert_eq!(key(|data| data["derived"] = true.into()), Err(SlotRefusal::Derived));
        for kind in ["rsa-4096", "ecdsa-p256", "hmac"] {
            let refused = key(|data| data["type"] = kind.into());
            assert_eq!(refused, Err(SlotRefusal::Kind { kind: kind.to_owned() }));
        }
    }

    #[test]
    fn what_vault_says_of_a_slot_has_a_name() {
        let check = |status, words: &str, expected: Option<SlotRefusal>| {
            let trouble = answer(status, &serde_json::json!({ "errors": [words] })).unwrap_err();
            let expected = expected.unwrap_or(SlotRefusal::Trouble(trouble.clone()));
            assert_eq!(SlotRefusal::of(trouble), expected, "{words}");
        };
        check(400, "cipher: message authentication failed", Some(SlotRefusal::WrongPurpose));
        check(
            400,
            "ciphertext or signature version is disallowed by policy (too old)",
            Some(SlotRefusal::TooOld),
        );
        check(400, "encryption key not found", Some(SlotRefusal::NoKey));
        check(404, "", Some(SlotRefusal::NoKey));
        check(400, "invalid ciphertext length", Some(SlotRefusal::Malformed));
        check(400, "invalid ciphertext: version is too new", Some(SlotRefusal::TooNew));
        check(503, "Vault is sealed", None);
        check(403, "permission denied", None);
    }

    #[test]
    fn a_ciphertext_names_its_version() {
        assert_eq!(Ciphertext::parse("vault:v12:AbC+/=").unwrap().version(), 12);
        for text in
            ["", "vault:v1:", "vault:1:AA==", "vault:vx:AA==", "vault:v1:A A", "vault:v1:\"", "v1:AA=="]
        {
            assert_eq!(Ciphertext::parse(text), Err(SlotRefusal::Malformed), "{text}");
        }
    }
}
