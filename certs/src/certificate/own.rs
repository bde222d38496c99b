//! A leaf of the one shape in which an authority of ours writes them, read by our own strict reader of DER alone.
//!
//! The general parser reads whatever certificate there may be, and that costs more than all else that is done to a leaf
//! beside its signatures. Here is read what is exactly of our shape; whatever is not goes to the general parser. Both
//! say the same of every certificate that is read here, which tests hold against each other over changed octets.

use std::{net::IpAddr, sync::Arc};

use ::time::{Date, Month, PrimitiveDateTime, Time};

use super::{Certificate, CertificateError, Facts, KeyUsage, SubjectAltName, purpose};
use crate::{
    PublicKey, Serial, Timestamp,
    anatomy::{self, Anatomy, oid, tag},
    der::{self, Reader},
    leaf::{self, Form},
};

impl Certificate {
    /// As [`Certificate::from_der`], for what is meant to be a leaf with `key` below `issuer`, whose leaves have `form`.
    pub(crate) fn leaf_from_der(
        octets: &[u8],
        form: &Form,
        issuer: &Self,
        key: &PublicKey,
    ) -> Result<Self, CertificateError> {
        match Anatomy::of(octets).ok().and_then(|parts| facts(&parts, form, issuer, key)) {
            Some(facts) => Ok(Self { der: octets.into(), facts: Arc::new(facts) }),
            None => Self::from_der(octets),
        }
    }
}

/// What the leaf says; `None` when anything about it is unusual.
fn facts(parts: &Anatomy<'_>, form: &Form, issuer: &Certificate, key: &PublicKey) -> Option<Facts> {
    let is_of_our_shape = parts.version == 3
        && parts.algorithms_agree
        && leaf::is_known_algorithm(parts.signature_algorithm)
        && parts.signature.first() == Some(&0)
        && parts.issuer == form.issuer_name()
        && parts.subject.is_empty()
        && parts.spki == key.spki_der()
        && !parts.has_unique_id
        && der::is_shortest_integer(parts.serial);
    if !is_of_our_shape {
        return None;
    }
    let [not_before, not_after] = parts.validity;
    let mut facts = Facts {
        serial: Serial::from_der_integer(parts.serial).ok()?,
        not_before: date(not_before)?,
        not_after: date(not_after)?,
        subject: String::new(),
        issuer: issuer.subject().to_owned(),
        spki_der: parts.spki.to_vec(),
        subject_alt_names: Vec::new(),
        is_ca: false,
        path_length: None,
        subject_key_id: None,
        authority_key_id: None,
        authority_serial: None,
        uri_names: Vec::new(),
        key_usage: None,
        extended_key_usages: Vec::new(),
    };
    for (index, extension) in parts.extensions.iter().enumerate() {
        if parts.extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
            return None;
        }
        let value = extension.value;
        match extension.oid {
            oid::SUBJECT_ALT_NAME => names(value, &mut facts)?,
            oid::KEY_USAGE => {
                let bits = anatomy::key_usage_bits(value).ok()?;
                facts.key_usage = Some(KeyUsage { critical: extension.critical, bits });
            }
            oid::EXTENDED_KEY_USAGE => {
                let purposes = anatomy::extended_key_usages(value).ok()?;
                facts.extended_key_usages = purposes.into_iter().map(purpose).collect();
            }
            oid::BASIC_CONSTRAINTS if value == leaf::EMPTY => {}
            oid::SUBJECT_KEY_ID => {
                let mut id = Reader::new(value);
                facts.subject_key_id = Some(id.expect(der::OCTET_STRING).ok()?.value.to_vec());
                id.finish().ok()?;
            }
            oid::AUTHORITY_KEY_ID => {
                let mut id = der::open(value, der::SEQUENCE).ok()?;
                facts.authority_key_id = Some(id.expect(0x80).ok()?.value.to_vec());
                id.finish().ok()?;
            }
            _ => return None,
        }
    }
    Some(facts)
}

fn names(value: &[u8], facts: &mut Facts) -> Option<()> {
    let text = |value: &[u8]| value.is_ascii().then(|| String::from_utf8(value.to_vec()).ok()).flatten();
    for (tag, value) in anatomy::general_names(value).ok()? {
        facts.subject_alt_names.push(match tag {
            tag::URI => {
                facts.uri_names.push(value.to_vec());
                SubjectAltName::Uri(text(value)?)
            }
            tag::DNS => SubjectAltName::Dns(text(value)?),
            tag::IP => match value.len() {
                4 => SubjectAltName::Ip(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
                16 => SubjectAltName::Ip(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
                _ => return None,
            },
            _ => return None,
        });
    }
    Some(())
}

/// `YYMMDDhhmmssZ`, or with the century (RFC 5280 4.1.2.5).
fn date((tag, value): (u8, &[u8])) -> Option<Timestamp> {
    let (digits, b'Z') = (value.get(..value.len().checked_sub(1)?)?, *value.last()?) else { return None };
    let pair = |at: usize| match digits.get(at..at + 2) {
        Some([tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => Some((tens - b'0') * 10 + ones - b'0'),
        _ => None,
    };
    let (year, rest) = match (tag, digits.len()) {
        (der::UTC_TIME, 12) => {
            let year = i32::from(pair(0)?);
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        (der::GENERALIZED_TIME, 14) => (i32::from(pair(0)?) * 100 + i32::from(pair(2)?), 4),
        _ => return None,
    };
    let month = Month::try_from(pair(rest)?).ok()?;
    let date = Date::from_calendar_date(year, month, pair(rest + 2)?).ok()?;
    let time = Time::from_hms(pair(rest + 4)?, pair(rest + 6)?, pair(rest + 8)?).ok()?;
    Some(Timestamp::from_unix_secs(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp()))
}

#[cfg(test)]
mod tests;
