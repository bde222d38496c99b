//! Which public keys and signature algorithms anybody may have.

use super::Fault;
use crate::der::{self, NotDer, Reader};

const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const NULL: &[u8] = &[0x05, 0x00];

/// The smallest RSA modulus, in bits.
const MIN_RSA_BITS: usize = 2048;
/// The largest: verifying costs more than quadratically in it.
const MAX_RSA_BITS: usize = 4096;

/// Checks a SubjectPublicKeyInfo (RFC 3279 2.3.1, RFC 5480 2, RFC 8410 4).
pub(super) fn check_key(spki: &[u8]) -> Result<(), Fault> {
    let parts = || -> Result<_, NotDer> {
        let mut info = der::open(spki, der::SEQUENCE)?;
        let mut algorithm = Reader::new(info.expect(der::SEQUENCE)?.value);
        let bits = info.expect(der::BIT_STRING)?.value;
        info.finish()?;
        let kind = algorithm.expect(der::OBJECT_ID)?.value;
        let parameters = if algorithm.is_empty() { None } else { Some(algorithm.next()?) };
        algorithm.finish()?;
        let [0, key @ ..] = bits else { return Err(NotDer) };
        Ok((kind, parameters, key))
    };
    let (kind, parameters, key) = parts().map_err(|NotDer| Fault::MalformedKey)?;
    match (kind, parameters) {
        (EC, Some(curve)) if curve.tag == der::OBJECT_ID => {
            let octets = match curve.value {
                P256 => 32,
                P384 => 48,
                P521 => 66,
                other => return Err(Fault::Curve(der::dotted(other))),
            };
            match key {
                [4, point @ ..] if point.len() == 2 * octets => Ok(()),
                [2 | 3, x @ ..] if x.len() == octets => Ok(()),
                _ => Err(Fault::MalformedKey),
            }
        }
        (EC, _) => Err(Fault::Curve("written out".to_owned())),
        (ED25519, None) if key.len() == 32 => Ok(()),
        (RSA, Some(null)) if null.raw == NULL => check_rsa(key),
        (ED25519 | RSA, _) => Err(Fault::MalformedKey),
        (other, _) => Err(Fault::KeyAlgorithm(der::dotted(other))),
    }
}

fn check_rsa(key: &[u8]) -> Result<(), Fault> {
    let parts = || -> Result<_, NotDer> {
        let mut fields = der::open(key, der::SEQUENCE)?;
        let modulus = fields.expect(der::INTEGER)?.value;
        let exponent = fields.expect(der::INTEGER)?.value;
        fields.finish()?;
        if !der::is_shortest_integer(modulus) || !der::is_shortest_integer(exponent) || modulus[0] & 0x80 != 0
        {
            return Err(NotDer);
        }
        Ok((modulus, exponent))
    };
    let (modulus, exponent) = parts().map_err(|NotDer| Fault::MalformedKey)?;
    let significant = if modulus[0] == 0 { &modulus[1..] } else { modulus };
    let bits = match significant.first() {
        None => 0,
        Some(first) => significant.len() * 8 - first.leading_zeros() as usize,
    };
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || !bits.is_multiple_of(8) {
        return Err(Fault::RsaSize(bits));
    }
    if exponent == [1, 0, 1] { Ok(()) } else { Err(Fault::RsaExponent) }
}

/// Checks the content of a signature's AlgorithmIdentifier: SHA-2 with RSA or ECDSA, or Ed25519.
pub(super) fn check_signature_algorithm(identifier: &[u8]) -> Result<(), Fault> {
    /// ecdsa-with-SHA256, 384, 512 (RFC 5758 3.2) without the last arc.
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    /// pkcs-1 (RFC 8017) without the last arc.
    const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    let oid = Reader::new(identifier)
        .expect(der::OBJECT_ID)
        .map(|element| element.value)
        .map_err(|_| Fault::NotDer)?;
    let accepted = match oid.split_last() {
        _ if oid == ED25519 => true,
        Some((2..=4, ECDSA)) => true,
        // RSASSA-PSS, and sha256, sha384, sha512 with RSA.
        Some((10..=13, PKCS1)) => true,
        _ => false,
    };
    if accepted { Ok(()) } else { Err(Fault::SignatureAlgorithm(signature_name(oid))) }
}

fn signature_name(oid: &[u8]) -> String {
    match oid {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04] => "MD5 and RSA".to_owned(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05] => "SHA-1 and RSA".to_owned(),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01] => "SHA-1 and ECDSA".to_owned(),
        other => der::dotted(other),
    }
}
