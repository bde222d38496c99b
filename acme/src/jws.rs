//! What is sent is signed (RFC 8555 6.2): flattened JWS of the account's key, by which the server knows us, over the
//! URL that it is sent to and a nonce that it gave. Keys sign behind [`certs::Signer`]; their bytes are not seen here.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use certs::{KeyKind, PublicKey, SecretBytes, SignError, Signer};
use ring::digest;
use serde_json::{Value, json};
use thiserror::Error;

use crate::Url;

/// The longest key id of an external account.
pub const MAX_KEY_ID: usize = 256;

/// By what the server knows who signs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    /// By the public key itself, before there is an account, or to find it.
    Key,
    /// By the URL of the account.
    Account(&'a Url),
}

/// Why text is no external account.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExternalAccountError {
    /// The key id is empty, too long, or has control characters.
    #[error("the key id of an external account has 1 to {MAX_KEY_ID} printable characters")]
    KeyId,
    /// The key is no base64url, or shorter than 16 octets. It is not quoted.
    #[error("the HMAC key of an external account is no base64url of at least 16 octets")]
    Key,
}

/// An account with who runs the ACME server, by which it knows whose the new one is (RFC 8555 7.3.4).
pub struct ExternalAccount {
    key_id: String,
    key: SecretBytes,
}

impl ExternalAccount {
    /// Takes the key id, and the HMAC key as servers hand it out: in base64url.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parse(key_id: &str, key: &SecretBytes) -> Result<Self, ExternalAccountError> {
        if !(1..=MAX_KEY_ID).contains(&key_id.len()) || key_id.chars().any(char::is_control) {
            return Err(ExternalAccountError::KeyId);
        }
        let key = key.decode_base64url().filter(|key| key.len() >= 16).ok_or(ExternalAccountError::Key)?;
        Ok(Self { key_id: key_id.to_owned(), key })
    }

    /// The new account's key, vouched for by the external one.
    pub(crate) fn bind(&self, key: &PublicKey, url: &Url) -> Value {
        let header = json!({ "alg": "HS256", "kid": self.key_id, "url": url.as_str() });
        let (protected, payload) = (encode(header.to_string()), encode(jwk(key).to_string()));
        let tag = self.key.authenticate(format!("{protected}.{payload}").as_bytes());
        json!({ "protected": protected, "payload": payload, "signature": encode(tag) })
    }
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalAccount({:?})", self.key_id)
    }
}

/// A signed request. Without a payload it only asks (`POST-as-GET`, RFC 8555 6.3).
pub(crate) fn sign(
    signer: &dyn Signer,
    by: By<'_>,
    nonce: Option<&str>,
    url: &Url,
    payload: Option<&Value>,
) -> Result<Value, SignError> {
    let algorithm = match signer.public().kind() {
        KeyKind::P256 => "ES256",
        KeyKind::P384 => "ES384",
    };
    let mut header = json!({ "alg": algorithm, "url": url.as_str() });
    match by {
        By::Key => header["jwk"] = jwk(signer.public()),
        By::Account(account) => header["kid"] = account.as_str().into(),
    }
    if let Some(nonce) = nonce {
        header["nonce"] = nonce.into();
    }
    let protected = encode(header.to_string());
    let payload = payload.map(|payload| encode(payload.to_string())).unwrap_or_default();
    let der = signer.sign(format!("{protected}.{payload}").as_bytes())?;
    let signature = fixed(&der, coordinate(signer.public().kind()))
        .ok_or_else(|| SignError::Failed("the key made a signature that does not parse".to_owned()))?;
    Ok(json!({ "protected": protected, "payload": payload, "signature": encode(signature) }))
}

/// What the new key signs to become that of `account` (RFC 8555 7.3.5): the payload of a request that the old one
/// signs.
pub(crate) fn key_change(
    new: &dyn Signer,
    account: &Url,
    old: &PublicKey,
    url: &Url,
) -> Result<Value, SignError> {
    let payload = json!({ "account": account.as_str(), "oldKey": jwk(old) });
    sign(new, By::Key, None, url, Some(&payload))
}

/// The name of a key in key authorizations (RFC 7638): SHA-256 over its canonical JSON.
#[must_use]
pub fn thumbprint(key: &PublicKey) -> String {
    let (curve, x, y) = coordinates(key);
    let canonical = format!("{{\"crv\":\"{curve}\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
    encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
}

fn jwk(key: &PublicKey) -> Value {
    let (curve, x, y) = coordinates(key);
    json!({ "crv": curve, "kty": "EC", "x": x, "y": y })
}

fn coordinates(key: &PublicKey) -> (&'static str, String, String) {
    let size = coordinate(key.kind());
    let curve = match key.kind() {
        KeyKind::P256 => "P-256",
        KeyKind::P384 => "P-384",
    };
    // A PublicKey ends with an uncompressed point.
    let point = &key.spki_der()[key.spki_der().len() - 2 * size..];
    (curve, encode(&point[..size]), encode(&point[size..]))
}

fn coordinate(kind: KeyKind) -> usize {
    match kind {
        KeyKind::P256 => 32,
        KeyKind::P384 => 48,
    }
}

pub(crate) fn encode(octets: impl AsRef<[u8]>) -> String {
    BASE64.encode(octets)
}

/// An ECDSA signature in the fixed form of RFC 7518 3.4, of its ASN.1 form.
fn fixed(der: &[u8], size: usize) -> Option<Vec<u8>> {
    let (sequence, rest) = element(der, 0x30)?;
    let (r, s) = element(sequence, 0x02)?;
    let (s, end) = element(s, 0x02)?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    let mut both = Vec::with_capacity(2 * size);
    for number in [r, s] {
        let significant =
            number.iter().position(|octet| *octet != 0).map_or(&number[..0], |at| &number[at..]);
        both.extend(std::iter::repeat_n(0, size.checked_sub(significant.len())?));
        both.extend_from_slice(significant);
    }
    Some(both)
}

/// The content of the first element, and what follows it. Of lengths below 256, as signatures have.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (first, rest),
        0x81 => rest.split_first().map(|(length, rest)| (*length, rest))?,
        _ => return None,
    };
    if found != tag {
        return None;
    }
    rest.split_at_checked(usize::from(length))
}

#[cfg(test)]
mod tests {
    use certs::{SecretKey, SoftwareSigner};
    use ring::signature;

    use super::*;

    fn decoded(value: &Value) -> Value {
        serde_json::from_slice(&BASE64.decode(value.as_str().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn another_library_verifies_what_is_signed() {
        let url = Url::parse("https://acme.example/new-order").unwrap();
        let account = Url::parse("https://acme.example/account/1").unwrap();
        for (kind, algorithm, verifier) in [
            (KeyKind::P256, "ES256", &signature::ECDSA_P256_SHA256_FIXED),
            (KeyKind::P384, "ES384", &signature::ECDSA_P384_SHA384_FIXED),
        ] {
            let key = SecretKey::generate(kind);
            let signer = SoftwareSigner::try_new(&key).unwrap();
            // Some of these have numbers that begin with zeros.
            for _ in 0..64 {
                let by = By::Account(&account);
                let made = sign(&signer, by, Some("n-1"), &url, Some(&json!({ "a": 1 }))).unwrap();
                let header = decoded(&made["protected"]);
                let expected =
                    json!({ "alg": algorithm, "kid": account.as_str(), "nonce": "n-1", "url": url.as_str() });
                assert_eq!(header, expected);
                assert_eq!(decoded(&made["payload"]), json!({ "a": 1 }));
                let text =
                    format!("{}.{}", made["protected"].as_str().unwrap(), made["payload"].as_str().unwrap());
                let point =
                    &key.public().spki_der()[key.public().spki_der().len() - 2 * coordinate(kind) - 1..];
                let tag = BASE64.decode(made["signature"].as_str().unwrap()).unwrap();
                signature::UnparsedPublicKey::new(verifier, point).verify(text.as_bytes(), &tag).unwrap();
            }
            let asked = sign(&signer, By::Key, None, &url, None).unwrap();
            assert_eq!(asked["payload"], "");
            assert_eq!(
                decoded(&asked["protected"]),
                json!({ "alg": algorithm, "jwk": jwk(key.public()), "url": url.as_str() })
            );
        }
    }

    #[test]
    fn a_change_of_keys_is_signed_by_the_new_one_and_names_the_old() {
        let [old, new] = [(); 2].map(|()| SecretKey::generate(KeyKind::P256));
        let signer = SoftwareSigner::try_new(&new).unwrap();
        let [account, url] = ["https://acme.example/account/1", "https://acme.example/key-change"]
            .map(|text| Url::parse(text).unwrap());
        let made = key_change(&signer, &account, old.public(), &url).unwrap();
        let header = json!({ "alg": "ES256", "jwk": jwk(new.public()), "url": url.as_str() });
        assert_eq!(decoded(&made["protected"]), header);
        assert_eq!(
            decoded(&made["payload"]),
            json!({ "account": account.as_str(), "oldKey": jwk(old.public()) })
        );
    }

    #[test]
    fn the_name_of_a_key_is_that_of_rfc_7638() {
        // The P-256 key of RFC 7515 A.3; its thumbprint was made by another program.
        let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        let y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
        let prefix = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
        let mut spki = hex::decode(prefix).unwrap();
        spki.extend(BASE64.decode(x).unwrap());
        spki.extend(BASE64.decode(y).unwrap());
        let key = PublicKey::from_spki_der(&spki).unwrap();
        assert_eq!(jwk(&key), json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y }));
        assert_eq!(thumbprint(&key), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    }

    #[test]
    fn an_external_account_vouches_by_its_key_and_shows_it_to_nobody() {
        let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec().into());
        // RFC 4231, test case 1, through the same function.
        let tag = SecretBytes::new(vec![0x0b; 20].into()).authenticate(b"Hi There");
        assert_eq!(hex::encode(tag), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        let text = encode([7; 32]);
        let account = ExternalAccount::parse("kid-1", &secret(&format!("{text}\n"))).unwrap();
        let key = SecretKey::generate(KeyKind::P256);
        let url = Url::parse("https://acme.example/new-account").unwrap();
        let made = account.bind(key.public(), &url);
        assert_eq!(
            decoded(&made["protected"]),
            json!({ "alg": "HS256", "kid": "kid-1", "url": url.as_str() })
        );
        assert_eq!(decoded(&made["payload"]), jwk(key.public()));
        let signed = format!("{}.{}", made["protected"].as_str().unwrap(), made["payload"].as_str().unwrap());
        let expected = SecretBytes::new(vec![7; 32].into()).authenticate(signed.as_bytes());
        assert_eq!(made["signature"], encode(expected));
        assert!(!format!("{account:?}").contains(&text));
        for (key_id, key, expected) in [
            ("", text.as_str(), ExternalAccountError::KeyId),
            ("a\nb", text.as_str(), ExternalAccountError::KeyId),
            ("kid", "not base64!", ExternalAccountError::Key),
            ("kid", "c2hvcnQ", ExternalAccountError::Key),
        ] {
            assert_eq!(ExternalAccount::parse(key_id, &secret(key)).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_signature_that_is_none_is_not_sent() {
        for der in [&b""[..], &[0x30, 0], &[0x30, 3, 2, 1, 1], &[0x30, 7, 2, 1, 1, 2, 1, 1, 0]] {
            assert_eq!(fixed(der, 32), None, "{der:?}");
        }
        let mut long = vec![0x30, 38, 2, 33];
        long.extend([1; 33]);
        long.extend([2, 1, 1]);
        assert_eq!(fixed(&long, 32), None);
        assert_eq!(fixed(&[0x30, 6, 2, 1, 1, 2, 1, 2], 2), Some(vec![0, 1, 0, 2]));
    }
}
