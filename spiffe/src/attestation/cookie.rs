//! The challenge of an enrolment, kept by the one who is challenged: the server holds nothing between `Begin` and
//! `Finish`, so strangers cannot fill its memory.

use std::{fmt, time::Duration};

use certs::{SpkiHash, Timestamp};
use ring::hmac;
use thiserror::Error;

use crate::Tenant;

/// How long a challenge is good.
pub const COOKIE_LIFE: Duration = Duration::from_secs(60);
/// How long a nonce is.
pub const NONCE_OCTETS: usize = 32;

const DOMAIN: &[u8] = b"credence-enrol-cookie-1";
const TIME_OCTETS: usize = 8;

/// Why a cookie does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CookieError {
    /// Not ours, of another process, or for another method, tenant or key.
    #[error("enrolment cookie is not ours, or was made for another request")]
    Foreign,
    /// Past its end.
    #[error("enrolment cookie has expired")]
    Expired,
}

/// What a challenge is for; it opens for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// How the node proves itself.
    pub method: &'a str,
    /// Which tenant it joins.
    pub tenant: &'a Tenant,
    /// The key to certify.
    pub spki: SpkiHash,
}

/// Authenticates cookies. Random and new in each process.
pub struct CookieKey(hmac::Key);

impl CookieKey {
    /// From 32 random octets.
    #[must_use]
    pub fn new(octets: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, octets))
    }

    /// Wraps `nonce` for `subject` until `expires`.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE_OCTETS], subject: Subject<'_>, expires: Timestamp) -> Vec<u8> {
        let mut cookie = expires.unix_millis().to_be_bytes().to_vec();
        cookie.extend_from_slice(nonce);
        let tag = hmac::sign(&self.0, &authenticated(&cookie, subject));
        cookie.extend_from_slice(tag.as_ref());
        cookie
    }

    /// Takes the nonce out again.
    ///
    /// # Errors
    /// See [`CookieError`].
    pub fn open(
        &self,
        cookie: &[u8],
        subject: Subject<'_>,
        now: Timestamp,
    ) -> Result<[u8; NONCE_OCTETS], CookieError> {
        let (content, tag) =
            cookie.split_at_checked(TIME_OCTETS + NONCE_OCTETS).ok_or(CookieError::Foreign)?;
        hmac::verify(&self.0, &authenticated(content, subject), tag).map_err(|_| CookieError::Foreign)?;
        let (mut time, mut nonce) = ([0; TIME_OCTETS], [0; NONCE_OCTETS]);
        time.copy_from_slice(&content[..TIME_OCTETS]);
        nonce.copy_from_slice(&content[TIME_OCTETS..]);
        let expires = Timestamp::from_unix_millis(i64::from_be_bytes(time));
        if now < expires { Ok(nonce) } else { Err(CookieError::Expired) }
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey")
    }
}

/// Everything that the tag covers, each field behind its length.
fn authenticated(content: &[u8], subject: Subject<'_>) -> Vec<u8> {
    let fields =
        [DOMAIN, content, subject.method.as_bytes(), subject.tenant.as_str().as_bytes(), &subject.spki.0];
    let mut octets = Vec::new();
    for field in fields {
        octets.extend_from_slice(&(field.len() as u64).to_be_bytes());
        octets.extend_from_slice(field);
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_for_its_subject_in_its_time_only() {
        let key = CookieKey::new(&[1; 32]);
        let (tenant, other) = (Tenant::default(), Tenant::parse("acme").unwrap());
        let subject = Subject { method: "join_token", tenant: &tenant, spki: SpkiHash([2; 32]) };
        let (now, end) = (Timestamp::from_unix_secs(100), Timestamp::from_unix_secs(160));
        let cookie = key.seal(&[3; 32], subject, end);
        let check = |cookie: &[u8], subject: Subject<'_>, at: Timestamp, expected| {
            assert_eq!(key.open(cookie, subject, at), expected, "{subject:?} {at}");
        };
        check(&cookie, subject, now, Ok([3; 32]));
        check(&cookie, subject, end, Err(CookieError::Expired));
        check(&cookie, Subject { method: "x509pop", ..subject }, now, Err(CookieError::Foreign));
        check(&cookie, Subject { tenant: &other, ..subject }, now, Err(CookieError::Foreign));
        check(&cookie, Subject { spki: SpkiHash([4; 32]), ..subject }, now, Err(CookieError::Foreign));
        for octet in 0..cookie.len() {
            let mut bent = cookie.clone();
            bent[octet] ^= 1;
            check(&bent, subject, now, Err(CookieError::Foreign));
            check(&cookie[..octet], subject, now, Err(CookieError::Foreign));
        }
        assert_eq!(CookieKey::new(&[9; 32]).open(&cookie, subject, now), Err(CookieError::Foreign));
    }
}
