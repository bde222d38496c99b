//! Join tokens: `crd1_TENANT_ID_SECRET_CRC`. The id is public; the secret half leaves this process once, on the
//! line that `proxy enroll` prints, and is kept only as an HMAC.

use std::{fmt, time::Duration};

use certs::{SpkiHash, Timestamp};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{NodeId, Tenant, TokenRefusal};

/// How long a join token is good unless configured otherwise.
pub const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(10 * 60);
/// The longest that a join token may be good.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many wrong secrets burn a join token.
pub const MAX_WRONG_SECRETS: u32 = 5;

const PREFIX: &str = "crd1";
const ID_OCTETS: usize = 8;
const SECRET_OCTETS: usize = 32;

/// Why text is no join token. None of these needs the store, so a mistyped token burns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It has not the five parts `crd1_TENANT_ID_SECRET_CRC`.
    #[error("join token does not have the form crd1_TENANT_ID_SECRET_CRC")]
    Form,
    /// Its check sum differs: a character was lost or changed.
    #[error("join token has a wrong check sum, a character was lost or changed")]
    CheckSum,
}

/// A join token in clear, for as long as it takes to print it or to check it.
pub struct JoinToken {
    tenant: Tenant,
    id: String,
    secret: Zeroizing<[u8; SECRET_OCTETS]>,
}

impl JoinToken {
    /// Draws a new one from the system's random generator.
    #[must_use]
    pub fn generate(tenant: Tenant) -> Self {
        let random = SystemRandom::new();
        let mut id = [0; ID_OCTETS];
        let mut secret = Zeroizing::new([0; SECRET_OCTETS]);
        random.fill(&mut id).expect("the system random generator answers");
        random.fill(&mut *secret).expect("the system random generator answers");
        Self { tenant, id: hex::encode(id), secret }
    }

    /// Reads one as it was printed.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('_').collect();
        let [PREFIX, tenant, id, secret_hex, crc] = parts[..] else {
            return Err(TokenError::Form);
        };
        let mut secret = Zeroizing::new([0; SECRET_OCTETS]);
        hex::decode_to_slice(secret_hex, &mut *secret).map_err(|_| TokenError::Form)?;
        let tenant = Tenant::parse(tenant).map_err(|_| TokenError::Form)?;
        if id.len() != 2 * ID_OCTETS || hex::decode(id).is_err() {
            return Err(TokenError::Form);
        }
        let token = Self { tenant, id: id.to_owned(), secret };
        if token.check_sum() == crc { Ok(token) } else { Err(TokenError::CheckSum) }
    }

    /// Its public half.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What is kept of its secret: an HMAC-SHA-256 under the store's token key, over tenant, id and secret.
    #[must_use]
    pub fn mac(&self, key: &[u8; 32]) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &self.authenticated());
        let mut mac = [0; 32];
        mac.copy_from_slice(tag.as_ref());
        mac
    }

    /// Whether this is the token whose HMAC is `mac`; takes the same time either way.
    #[must_use]
    pub fn matches(&self, key: &[u8; 32], mac: &[u8; 32]) -> bool {
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &self.authenticated(), mac).is_ok()
    }

    /// The record that the store keeps of it.
    #[must_use]
    pub fn to_stored(
        &self,
        key: &[u8; 32],
        node: NodeId,
        author: String,
        created: Timestamp,
        expires: Timestamp,
    ) -> StoredToken {
        StoredToken {
            id: self.id.clone(),
            mac: self.mac(key),
            tenant: self.tenant.clone(),
            node,
            author,
            created,
            expires,
            spent: None,
            revoked: None,
            failures: 0,
        }
    }

    /// The whole token in clear: for the one answer that hands it out.
    #[must_use]
    pub fn to_clear_text(&self) -> String {
        format!("{}_{}", *self.without_check_sum(), self.check_sum())
    }

    fn authenticated(&self) -> Zeroizing<Vec<u8>> {
        let prefix = format!("credence-join-token-1|{}|{}|", self.tenant, self.id);
        let mut bytes = Zeroizing::new(Vec::with_capacity(prefix.len() + SECRET_OCTETS));
        bytes.extend_from_slice(prefix.as_bytes());
        bytes.extend_from_slice(&*self.secret);
        bytes
    }

    fn without_check_sum(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{PREFIX}_{}_{}_{}",
            self.tenant,
            self.id,
            *Zeroizing::new(hex::encode(self.secret.as_slice()))
        ))
    }

    fn check_sum(&self) -> String {
        format!("{:08x}", crc32(self.without_check_sum().as_bytes()))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({} of {})", self.id, self.tenant)
    }
}

/// A join token as it is kept: an HMAC of its secret, never the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Its public half.
    pub id: String,
    /// HMAC-SHA-256 of the secret half.
    pub mac: [u8; 32],
    /// Whose.
    pub tenant: Tenant,
    /// The one node it enrols.
    pub node: NodeId,
    /// Who made it.
    pub author: String,
    /// When.
    pub created: Timestamp,
    /// Its end.
    pub expires: Timestamp,
    /// When, and for which key, it was spent.
    pub spent: Option<(Timestamp, SpkiHash)>,
    /// When it was revoked or burned.
    pub revoked: Option<Timestamp>,
    /// How many wrong secrets were tried; the fifth burns it.
    pub failures: u32,
}

impl StoredToken {
    /// Whether `presented` may be spent for the key `spki` now. What was spent for the same key before passes: the
    /// issuer answers it with the same certificate, so that a lost answer burns nothing.
    ///
    /// # Errors
    /// [`TokenRefusal`]. A wrong secret is told from the rest because it is counted.
    pub fn judge(
        &self,
        presented: &JoinToken,
        key: &[u8; 32],
        spki: SpkiHash,
        now: Timestamp,
    ) -> Result<(), TokenRefusal> {
        let has_secret = presented.matches(key, &self.mac);
        if self.id != presented.id || self.tenant != presented.tenant {
            Err(TokenRefusal::Unknown)
        } else if self.revoked.is_some() {
            Err(TokenRefusal::Revoked)
        } else if !has_secret {
            Err(TokenRefusal::WrongSecret)
        } else if now >= self.expires {
            Err(TokenRefusal::Expired)
        } else {
            match self.spent {
                Some((_, other)) if other != spki => Err(TokenRefusal::Spent),
                Some(_) | None => Ok(()),
            }
        }
    }
}

/// CRC-32 (ISO-HDLC), bit by bit: it finds typing errors and is no protection.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_prints() {
        let token = JoinToken::generate(Tenant::default());
        let again = JoinToken::parse(&token.to_clear_text()).unwrap();
        assert_eq!((again.id(), again.tenant()), (token.id(), token.tenant()));
        assert!(again.matches(&[7; 32], &token.mac(&[7; 32])));
        assert!(!again.matches(&[8; 32], &token.mac(&[7; 32])));
        assert!(!JoinToken::generate(Tenant::default()).matches(&[7; 32], &token.mac(&[7; 32])));
    }

    #[test]
    fn refuses_mistyped_tokens_before_any_look_up() {
        let good = JoinToken::generate(Tenant::default()).to_clear_text();
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        let swapped = if good.ends_with('0') { "1" } else { "0" };
        assert_eq!(
            JoinToken::parse(&format!("{}{swapped}", &good[..good.len() - 1])).unwrap_err(),
            TokenError::CheckSum
        );
        for bad in ["", "crd1", "crd2_default_00_00_00", &good[1..], &good[..40]] {
            assert_eq!(JoinToken::parse(bad).unwrap_err(), TokenError::Form, "{bad}");
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = JoinToken::generate(Tenant::default());
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret.as_slice())));
    }

    #[test]
    fn tenants_may_have_dashes_and_dots() {
        let tenant = Tenant::parse("team-a.eu").unwrap();
        let token = JoinToken::generate(tenant.clone());
        assert_eq!(JoinToken::parse(&token.to_clear_text()).unwrap().tenant(), &tenant);
    }

    #[test]
    fn a_token_is_good_for_one_key_until_its_end() {
        let (now, end) = (Timestamp::from_unix_secs(100), Timestamp::from_unix_secs(700));
        let (key, mine, other) = ([7; 32], SpkiHash([1; 32]), SpkiHash([2; 32]));
        let token = JoinToken::generate(Tenant::default());
        let node = NodeId::parse("web-1").unwrap();
        let fresh = token.to_stored(&key, node, "ann".to_owned(), now, end);
        let check = |stored: &StoredToken, presented: &JoinToken, at, expected| {
            assert_eq!(stored.judge(presented, &key, mine, at), expected, "{stored:?}");
        };
        check(&fresh, &token, now, Ok(()));
        check(&fresh, &token, end, Err(TokenRefusal::Expired));
        check(&fresh, &JoinToken::generate(Tenant::default()), now, Err(TokenRefusal::Unknown));
        let forged = JoinToken { id: token.id.clone(), ..JoinToken::generate(Tenant::default()) };
        check(&fresh, &forged, now, Err(TokenRefusal::WrongSecret));
        let moved = JoinToken {
            tenant: Tenant::parse("acme").unwrap(),
            id: token.id.clone(),
            secret: token.secret.clone(),
        };
        check(&fresh, &moved, now, Err(TokenRefusal::Unknown));
        check(&StoredToken { spent: Some((now, mine)), ..fresh.clone() }, &token, now, Ok(()));
        check(
            &StoredToken { spent: Some((now, other)), ..fresh.clone() },
            &token,
            now,
            Err(TokenRefusal::Spent),
        );
        check(&StoredToken { revoked: Some(now), ..fresh.clone() }, &token, now, Err(TokenRefusal::Revoked));
        check(&StoredToken { revoked: Some(now), ..fresh }, &forged, now, Err(TokenRefusal::Revoked));
    }
}
