//! A certificate taken apart into the octets that were signed (RFC 5280 4.1), for rules to look at.

use crate::der::{self, NotDer, Reader};

/// Object identifiers of extensions (RFC 5280 4.2), as content octets.
pub(crate) mod oid {
    pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(crate) const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
    pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
    pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
    pub(crate) const POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x24];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(crate) const AUTHORITY_INFO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x01];
    pub(crate) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
    pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
}

/// Tags of GeneralName (RFC 5280 4.2.1.6).
pub(crate) mod tag {
    pub(crate) const OTHER: u8 = 0xa0;
    pub(crate) const EMAIL: u8 = 0x81;
    pub(crate) const DNS: u8 = 0x82;
    pub(crate) const DIRECTORY: u8 = 0xa4;
    pub(crate) const URI: u8 = 0x86;
    pub(crate) const IP: u8 = 0x87;
    pub(crate) const REGISTERED_ID: u8 = 0x88;
}

/// One extension as it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extension<'a> {
    pub(crate) oid: &'a [u8],
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

/// The parts of a certificate, borrowed from its DER.
#[derive(Debug, Clone)]
pub(crate) struct Anatomy<'a> {
    /// 1, 2 or 3, as people count.
    pub(crate) version: u8,
    /// The algorithm inside the signed part is the one outside.
    pub(crate) algorithms_agree: bool,
    /// The content of the signature's AlgorithmIdentifier.
    pub(crate) signature_algorithm: &'a [u8],
    pub(crate) serial: &'a [u8],
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    /// Tag and content of notBefore and notAfter.
    pub(crate) validity: [(u8, &'a [u8]); 2],
    pub(crate) spki: &'a [u8],
    pub(crate) has_unique_id: bool,
    pub(crate) extensions: Vec<Extension<'a>>,
    /// The content of the BIT STRING that holds the signature.
    pub(crate) signature: &'a [u8],
}

impl<'a> Anatomy<'a> {
    pub(crate) fn of(der: &'a [u8]) -> Result<Self, NotDer> {
        let mut certificate = der::open(der, der::SEQUENCE)?;
        let mut tbs = Reader::new(certificate.expect(der::SEQUENCE)?.value);
        let outer = certificate.expect(der::SEQUENCE)?;
        let signature = certificate.expect(der::BIT_STRING)?.value;
        certificate.finish()?;

        let version = match tbs.optional(0xa0)? {
            None => 1,
            Some(explicit) => match der::open(explicit.value, der::INTEGER).map(|_| explicit.value)? {
                [_, 1, number @ 1..=2] => number + 1,
                // Version 1 is the default and may not be written (X.690 11.5).
                _ => return Err(NotDer),
            },
        };
        let serial = tbs.expect(der::INTEGER)?.value;
        let inner = tbs.expect(der::SEQUENCE)?;
        let issuer = tbs.expect(der::SEQUENCE)?.value;
        let mut dates = Reader::new(tbs.expect(der::SEQUENCE)?.value);
        let (not_before, not_after) = (dates.next()?, dates.next()?);
        dates.finish()?;
        let subject = tbs.expect(der::SEQUENCE)?.value;
        let spki = tbs.expect(der::SEQUENCE)?.raw;
        let mut has_unique_id = false;
        for tag in [0x81, 0x82] {
            has_unique_id |= tbs.optional(tag)?.is_some();
        }
        let extensions = match tbs.optional(0xa3)? {
            None => Vec::new(),
            Some(explicit) => extensions(der::open(explicit.value, der::SEQUENCE)?)?,
        };
        tbs.finish()?;
        Ok(Self {
            version,
            algorithms_agree: inner.raw == outer.raw,
            signature_algorithm: outer.value,
            serial,
            issuer,
            subject,
            validity: [(not_before.tag, not_before.value), (not_after.tag, not_after.value)],
            spki,
            has_unique_id,
            extensions,
            signature,
        })
    }

    pub(crate) fn extension(&self, oid: &[u8]) -> Option<Extension<'a>> {
        self.extensions.iter().find(|extension| extension.oid == oid).copied()
    }

    pub(crate) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

pub(crate) fn extensions(mut list: Reader<'_>) -> Result<Vec<Extension<'_>>, NotDer> {
    // As many as a leaf has.
    let mut found = Vec::with_capacity(6);
    while !list.is_empty() {
        let mut fields = Reader::new(list.expect(der::SEQUENCE)?.value);
        let oid = fields.expect(der::OBJECT_ID)?.value;
        let critical = match fields.optional(der::BOOLEAN)?.map(|element| element.value) {
            None => false,
            Some([0xff]) => true,
            Some(_) => return Err(NotDer),
        };
        let value = fields.expect(der::OCTET_STRING)?.value;
        fields.finish()?;
        found.push(Extension { oid, critical, value });
    }
    Ok(found)
}

/// BasicConstraints (RFC 5280 4.2.1.9). A written `cA FALSE` is tolerated: many issuers write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub(crate) ca: bool,
    pub(crate) path_length: Option<u8>,
}

impl BasicConstraints {
    pub(crate) fn parse(value: &[u8]) -> Result<Self, NotDer> {
        let mut fields = der::open(value, der::SEQUENCE)?;
        let ca = match fields.optional(der::BOOLEAN)?.map(|element| element.value) {
            None | Some([0]) => false,
            Some([0xff]) => true,
            Some(_) => return Err(NotDer),
        };
        let path_length = match fields.optional(der::INTEGER)?.map(|element| element.value) {
            None => None,
            Some([length @ 0..=0x7f] | [0, length @ 0x80..=0xff]) => Some(*length),
            Some(_) => return Err(NotDer),
        };
        fields.finish()?;
        Ok(Self { ca, path_length })
    }
}

/// KeyUsage (RFC 5280 4.2.1.3): bit 0, digitalSignature, is the highest bit of the first octet.
pub(crate) fn key_usage_bits(value: &[u8]) -> Result<u16, NotDer> {
    let mut reader = Reader::new(value);
    let bits = reader.expect(der::BIT_STRING)?.value;
    reader.finish()?;
    match *bits {
        [0..=7, first] => Ok(u16::from(first) << 8),
        [0..=7, first, second] => Ok(u16::from(first) << 8 | u16::from(second)),
        _ => Err(NotDer),
    }
}

/// The object identifiers of ExtendedKeyUsage; at least one (RFC 5280 4.2.1.12).
pub(crate) fn extended_key_usages(value: &[u8]) -> Result<Vec<&[u8]>, NotDer> {
    let mut list = der::open(value, der::SEQUENCE)?;
    let mut found = vec![list.expect(der::OBJECT_ID)?.value];
    while !list.is_empty() {
        found.push(list.expect(der::OBJECT_ID)?.value);
    }
    Ok(found)
}

/// The GeneralNames of SubjectAltName by tag and content; at least one (RFC 5280 4.2.1.6).
pub(crate) fn general_names(value: &[u8]) -> Result<Vec<(u8, &[u8])>, NotDer> {
    let mut list = der::open(value, der::SEQUENCE)?;
    let mut found = Vec::new();
    loop {
        let name = list.next()?;
        found.push((name.tag, name.value));
        if list.is_empty() {
            return Ok(found);
        }
    }
}
