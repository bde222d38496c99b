//! A key-encryption key on a PKCS#11 token: the root key goes to the token to be wrapped and unwrapped, the key
//! itself never comes out of it.
//!
//! ```text
//! magic 4 | format 1 | suite 4 | slot id 16 | nonce 12, random | ciphertext | tag 16
//! ```
//!
//! The token computes AES-256-GCM with the place of the slot as associated data, like any sealed record.

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use certs::Timestamp;
use cryptoki::{
    context::{CInitializeArgs, Pkcs11},
    error::{Error as Pkcs11Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::{Date, RawAuthPin},
};
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::seal::{FORMAT, MAGIC, random};

const SUITE: u8 = 4;
const NONCE: usize = 22;
const CIPHERTEXT: usize = NONCE + 12;
const TAG_BITS: u64 = 128;

/// Modules are loaded, used and let go of by one at a time: a module counts its users per process.
static MODULE: Mutex<()> = Mutex::new(());

/// Names a key on a token, with what opens the token.
#[derive(Clone)]
pub struct TokenKey {
    /// The PKCS#11 module, a shared library. It comes from the configuration on this host and from nowhere else.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
    /// The user's PIN; read from a file or descriptor, never from arguments or the environment.
    pub pin: Zeroizing<Vec<u8>>,
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} on token {}", self.key, self.token)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({self})")
    }
}

/// What a token says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFacts {
    /// Its label and id.
    pub(crate) id: String,
    /// The last second of its last day (`CKA_END_DATE`, in UTC); none if whoever made it set no end, or the token does
    /// not say.
    pub(crate) ends: Option<Timestamp>,
}

/// Why a token or its key cannot be used.
#[derive(Debug, Error)]
pub enum TokenError {
    /// No such token in any of the module's slots.
    #[error("module {} has no token {token}, it has {found}", module.display())]
    NoToken {
        /// The module.
        module: PathBuf,
        /// The label that was looked for.
        token: String,
        /// The labels that are there.
        found: String,
    },
    /// The token has no such key.
    #[error("token {token} has no AES key {key}")]
    NoKey {
        /// The token.
        token: String,
        /// The label that was looked for.
        key: String,
    },
    /// The token has several, and which one is meant cannot be known.
    #[error("token {token} has {count} keys of the label {key}")]
    Ambiguous {
        /// The token.
        token: String,
        /// The label.
        key: String,
        /// How many.
        count: usize,
    },
    /// The key could leave the token.
    #[error("key {key} on token {token} is not sensitive or may be extracted")]
    Extractable {
        /// The token.
        token: String,
        /// The key's label.
        key: String,
    },
    /// The token or its module said no.
    #[error("token {token}: {doing} failed: {reason}")]
    Failed {
        /// The token.
        token: String,
        /// What was asked of it.
        doing: &'static str,
        /// What it said.
        reason: String,
    },
}

impl TokenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoToken { .. } => "look at the label of the token, and at the module's own configuration".into(),
            Self::NoKey { .. } => {
                "`credence kek add-slot` makes the key when it makes the slot; for a slot that is there, bring \
                 back the token that holds its key, or open the store with another slot"
                    .into()
            }
            Self::Ambiguous { .. } => "give the key a label that no other key on the token has".into(),
            Self::Extractable { .. } => {
                "make a key with CKA_SENSITIVE true and CKA_EXTRACTABLE false, or let `credence kek add-slot` make it"
                    .into()
            }
            Self::Failed { doing: "loading the module", .. } => {
                "install the module for this machine, or correct secrets.slots[].pkcs11.module; another slot opens the \
                 store meanwhile"
                    .into()
            }
            Self::Failed { doing: "login", .. } => "look at the PIN in secrets.slots[].pkcs11.pin_file".into(),
            Self::Failed { .. } => "look at the token and its module; another slot opens the store meanwhile".into(),
        }
    }
}

impl TokenKey {
    /// Makes the key if the token has none of this label. Answers whether it was made.
    pub(crate) fn ensure(&self) -> Result<bool, TokenError> {
        self.ensure_with(&[Attribute::Private(true)])
    }

    /// As another program might make it: it ends with that day, which the token keeps and does not enforce, and is
    /// seen by whoever has no PIN unless it is private.
    #[cfg(test)]
    pub(crate) fn ensure_until(&self, last_day: Date, is_private: bool) -> Result<bool, TokenError> {
        self.ensure_with(&[Attribute::Private(is_private), Attribute::EndDate(last_day)])
    }

    fn ensure_with(&self, more: &[Attribute]) -> Result<bool, TokenError> {
        self.session(true, |session| match self.find(session) {
            Ok(_) => Ok(false),
            Err(TokenError::NoKey { .. }) => {
                let mut template = vec![
                    Attribute::Class(ObjectClass::SECRET_KEY),
                    Attribute::Token(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::ValueLen(32.into()),
                    Attribute::Label(self.key.clone().into_bytes()),
                    Attribute::Id(random::<8>().to_vec()),
                ];
                template.extend(more.iter().cloned());
                let made = session.generate_key(&Mechanism::AesKeyGen, &template);
                made.map_err(|error| self.failed("making the key", &error)).map(|_| true)
            }
            Err(other) => Err(other),
        })
    }

    /// How the token names the key, and until when it is meant to be used.
    pub(crate) fn facts(&self) -> Result<KeyFacts, TokenError> {
        self.session(false, |session| {
            let key = self.find(session)?;
            let attributes = session
                .get_attributes(key, &[AttributeType::Id])
                .map_err(|error| self.failed("reading the key's id", &error))?;
            let id = attributes.iter().find_map(|attribute| match attribute {
                Attribute::Id(id) => Some(hex::encode(id)),
                _ => None,
            });
            // Apart: a token that cannot tell (SoftHSM2, of private keys) is as good as one that has nothing to tell.
            let end = session.get_attributes(key, &[AttributeType::EndDate]).unwrap_or_default();
            let ends = end.iter().find_map(|attribute| match attribute {
                Attribute::EndDate(day) => end_of(day),
                _ => None,
            });
            Ok(KeyFacts { id: format!("{}#{}", self.key, id.unwrap_or_default()), ends })
        })
    }

    /// Wraps `root` for the slot `id`.
    pub(crate) fn wrap(&self, id: Uuid, place: &[u8], root: &[u8]) -> Result<Vec<u8>, TokenError> {
        let nonce = random::<12>();
        let ciphertext = self.session(false, |session| {
            let key = self.find(session)?;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&nonce, place, TAG_BITS.into()));
            session.encrypt(&mechanism, key, root).map_err(|error| self.failed("wrapping", &error))
        })?;
        let mut wrapped = Vec::with_capacity(CIPHERTEXT + ciphertext.len());
        wrapped.extend_from_slice(MAGIC);
        wrapped.extend_from_slice(&[FORMAT, SUITE]);
        wrapped.extend_from_slice(id.as_bytes());
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(&ciphertext);
        Ok(wrapped)
    }

    /// Unwraps what [`TokenKey::wrap`] made; `None` if it is not this key's, was altered or is no such record: a
    /// token does not tell these apart.
    pub(crate) fn unwrap(
        &self,
        id: Uuid,
        place: &[u8],
        wrapped: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TokenError> {
        let is_ours = wrapped.len() > CIPHERTEXT
            && wrapped.starts_with(MAGIC)
            && wrapped[4..6] == [FORMAT, SUITE]
            && wrapped[6..NONCE] == *id.as_bytes();
        if !is_ours {
            return Ok(None);
        }
        self.session(false, |session| {
            let key = self.find(session)?;
            let nonce = &wrapped[NONCE..CIPHERTEXT];
            let mechanism = Mechanism::AesGcm(GcmParams::new(nonce, place, TAG_BITS.into()));
            Ok(session.decrypt(&mechanism, key, &wrapped[CIPHERTEXT..]).ok().map(Zeroizing::new))
        })
    }

    fn failed(&self, doing: &'static str, error: &Pkcs11Error) -> TokenError {
        TokenError::Failed { token: self.token.clone(), doing, reason: words(error) }
    }

    /// The one key of our label, which must not be able to leave.
    fn find(&self, session: &Session) -> Result<ObjectHandle, TokenError> {
        let sought = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(self.key.clone().into_bytes()),
        ];
        let found =
            session.find_objects(&sought).map_err(|error| self.failed("looking for the key", &error))?;
        let (token, key) = (self.token.clone(), self.key.clone());
        let handle = match found.as_slice() {
            [] => return Err(TokenError::NoKey { token, key }),
            [one] => *one,
            several => return Err(TokenError::Ambiguous { token, key, count: several.len() }),
        };
        let attributes = session
            .get_attributes(handle, &[AttributeType::Sensitive, AttributeType::Extractable])
            .map_err(|error| self.failed("reading the key's attributes", &error))?;
        let stays = attributes.contains(&Attribute::Sensitive(true))
            && attributes.contains(&Attribute::Extractable(false));
        if stays { Ok(handle) } else { Err(TokenError::Extractable { token, key }) }
    }

    /// Loads the module, logs in, works, and lets go of all of it.
    fn session<T>(
        &self,
        writes: bool,
        work: impl FnOnce(&Session) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let _one = MODULE.lock().unwrap_or_else(PoisonError::into_inner);
        let module = Pkcs11::new(&self.module).map_err(|error| self.failed("loading the module", &error))?;
        let failed = |doing| move |error: Pkcs11Error| self.failed(doing, &error);
        module.initialize(CInitializeArgs::OsThreads).map_err(failed("starting the module"))?;
        let slots = module.get_slots_with_initialized_token().map_err(failed("listing tokens"))?;
        let mut labels = Vec::new();
        for slot in slots {
            let token = module.get_token_info(slot).map_err(failed("listing tokens"))?;
            if token.label() != self.token {
                labels.push(token.label().to_owned());
                continue;
            }
            let opened = if writes { module.open_rw_session(slot) } else { module.open_ro_session(slot) };
            let session = opened.map_err(failed("opening a session"))?;
            let pin = RawAuthPin::new(self.pin.to_vec());
            session.login_with_raw(UserType::User, &pin).map_err(failed("login"))?;
            return work(&session);
        }
        let found = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        Err(TokenError::NoToken { module: self.module.clone(), token: self.token.clone(), found })
    }
}

/// What a module or token said, for people: the loader's own words, and of a code that means something to whoever looks
/// after the token its sentence without the standard's advice to programmers.
fn words(error: &Pkcs11Error) -> String {
    match error {
        Pkcs11Error::LibraryLoading(error) => error.to_string(),
        Pkcs11Error::Pkcs11(code, _) => match code {
            RvError::PinIncorrect => "the PIN is wrong".to_owned(),
            RvError::PinLocked => "the PIN is locked, after too many wrong ones".to_owned(),
            RvError::PinExpired => "the PIN has expired".to_owned(),
            RvError::PinInvalid | RvError::PinLenRange => "the PIN is none that the token takes".to_owned(),
            RvError::UserPinNotInitialized => "the token has no user PIN yet".to_owned(),
            RvError::GeneralError | RvError::FunctionFailed => {
                format!("the module failed and does not say why (CKR {code:?})")
            }
            RvError::DeviceRemoved => "the token was taken out".to_owned(),
            RvError::DeviceError | RvError::DeviceMemory => format!("the device failed (CKR {code:?})"),
            RvError::TokenWriteProtected => "the token is write-protected".to_owned(),
            RvError::MechanismInvalid | RvError::MechanismParamInvalid => {
                "the token does not know AES-GCM as it is asked for".to_owned()
            }
            code => format!("the module answered CKR {code:?}"),
        },
        Pkcs11Error::NullFunctionPointer => "the module lacks a function that is needed".to_owned(),
        other => other.to_string(),
    }
}

/// The last second of a day; none of a day that is none.
fn end_of(day: &Date) -> Option<Timestamp> {
    let digits = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (year, month, day) = (digits(&day.year), digits(&day.month), digits(&day.day));
    Timestamp::parse_rfc3339(&format!("{year}-{month}-{day}T23:59:59Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_for_people_what_a_module_or_token_answers() {
        let key = TokenKey {
            module: "/nowhere/module.so".into(),
            token: "t".into(),
            key: "k".into(),
            pin: Zeroizing::new(b"1234".to_vec()),
        };
        let error = key.facts().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("token t: loading the module failed: ") && !text.contains("libloading"),
            "{text}"
        );
        assert!(error.hint().contains("pkcs11.module"), "{}", error.hint());
        let said = |code| words(&Pkcs11Error::Pkcs11(code, cryptoki::context::Function::Login));
        assert_eq!(said(RvError::PinIncorrect), "the PIN is wrong");
        assert!(said(RvError::FunctionFailed).len() < 80, "{}", said(RvError::FunctionFailed));
        assert_eq!(said(RvError::SlotIdInvalid), "the module answered CKR SlotIdInvalid");
    }
}
