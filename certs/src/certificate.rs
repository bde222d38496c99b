//! One certificate, parsed once: the facts that the rest of the workspace asks for.

mod own;

use std::{fmt, net::IpAddr, sync::Arc};

use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::{
    Serial, SerialError, SpkiHash, Timestamp,
    anatomy::{self, Anatomy, oid},
    der,
};

/// Why bytes are not a certificate that Credence can read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not DER, or not X.509, or bytes follow.
    #[error("certificate does not parse: {0}")]
    Malformed(String),
    /// A serial number that RFC 5280 4.1.2.2 forbids.
    #[error("certificate has a bad serial number: {0}")]
    Serial(#[from] SerialError),
}

/// A name in the SubjectAltName extension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectAltName {
    /// uniformResourceIdentifier, where SPIFFE IDs stand.
    Uri(String),
    /// dNSName.
    Dns(String),
    /// iPAddress.
    Ip(IpAddr),
    /// Any other form, by the name of its type.
    Other(&'static str),
}

/// The KeyUsage extension (RFC 5280 4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage {
    critical: bool,
    bits: u16,
}

impl KeyUsage {
    /// Whether the extension is critical.
    #[must_use]
    pub fn is_critical(self) -> bool {
        self.critical
    }

    /// Whether the key may authenticate a TLS peer.
    #[must_use]
    pub fn has_digital_signature(self) -> bool {
        self.bits & 0x8000 != 0
    }

    /// Whether the key may sign certificates.
    #[must_use]
    pub fn has_key_cert_sign(self) -> bool {
        self.bits & 0x0400 != 0
    }

    /// Whether the key may sign revocation lists.
    #[must_use]
    pub fn has_crl_sign(self) -> bool {
        self.bits & 0x0200 != 0
    }

    /// All bits, digitalSignature the highest.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.bits
    }
}

/// A purpose in the ExtendedKeyUsage extension (RFC 5280 4.2.1.12).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExtendedKeyUsage {
    /// TLS server authentication.
    ServerAuth,
    /// TLS client authentication.
    ClientAuth,
    /// Any purpose.
    Any,
    /// Another one, by its object identifier in dotted decimals.
    Other(String),
}

impl fmt::Display for ExtendedKeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerAuth => "serverAuth",
            Self::ClientAuth => "clientAuth",
            Self::Any => "anyExtendedKeyUsage",
            Self::Other(identifier) => identifier,
        })
    }
}

/// Purposes in the words of RFC 5280, or that there are none.
pub(crate) fn purposes_text(purposes: &[ExtendedKeyUsage]) -> String {
    match purposes {
        [] => "nothing in particular".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// A certificate: its DER bytes and what they say. Cheap to clone. Parsing says nothing about trust.
#[derive(Clone)]
pub struct Certificate {
    der: Arc<[u8]>,
    facts: Arc<Facts>,
}

/// What the signed part of a certificate says. The signature is no part of it.
#[cfg_attr(test, derive(Debug, PartialEq))]
struct Facts {
    serial: Serial,
    not_before: Timestamp,
    not_after: Timestamp,
    subject: String,
    issuer: String,
    spki_der: Vec<u8>,
    subject_alt_names: Vec<SubjectAltName>,
    is_ca: bool,
    path_length: Option<u32>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    authority_serial: Option<Vec<u8>>,
    uri_names: Vec<Vec<u8>>,
    key_usage: Option<KeyUsage>,
    extended_key_usages: Vec<ExtendedKeyUsage>,
}

/// What a certificate consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// What the signature covers, with its header.
    pub(crate) signed: &'a [u8],
    /// The signature's AlgorithmIdentifier, with its header.
    pub(crate) algorithm: &'a [u8],
    /// The content of the BIT STRING that holds the signature.
    pub(crate) signature: &'a [u8],
}

impl Certificate {
    /// Parses DER; nothing may follow the certificate.
    ///
    /// # Errors
    /// When it does not parse, or its serial number is not positive.
    pub fn from_der(octets: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |reason: &dyn fmt::Display| CertificateError::Malformed(reason.to_string());
        let (rest, parsed) = X509Certificate::from_der(octets).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&format_args!("{} bytes follow it", rest.len())));
        }
        let mut facts = Facts {
            serial: serial(&parsed)?,
            not_before: Timestamp::from_unix_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_unix_secs(parsed.validity().not_after.timestamp()),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            spki_der: parsed.public_key().raw.to_vec(),
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
        facts.read_octets(octets);
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(basic) => {
                    facts.is_ca = basic.ca;
                    facts.path_length = basic.path_len_constraint;
                }
                ParsedExtension::SubjectKeyIdentifier(id) => facts.subject_key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                    facts.authority_serial = id.authority_cert_serial.map(<[u8]>::to_vec);
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.subject_alt_names = names.general_names.iter().map(alt_name).collect();
                }
                _ => {}
            }
        }
        Ok(Self { der: octets.into(), facts: Arc::new(facts) })
    }

    /// The DER bytes.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.facts.serial
    }

    /// The first second in which it is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.facts.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// The subject's distinguished name as text; empty for our leaves.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.facts.subject
    }

    /// The issuer's distinguished name as text.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.facts.issuer
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.facts.spki_der
    }

    /// SHA-256 over the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_hash(&self) -> SpkiHash {
        SpkiHash::of(&self.facts.spki_der)
    }

    /// Every name in SubjectAltName, in order.
    #[must_use]
    pub fn subject_alt_names(&self) -> &[SubjectAltName] {
        &self.facts.subject_alt_names
    }

    /// Whether BasicConstraints says that it may sign certificates.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.facts.is_ca
    }

    /// How many authorities BasicConstraints lets stand below it, if it says.
    #[must_use]
    pub fn path_length(&self) -> Option<u32> {
        self.facts.path_length
    }

    /// The octets of every URI name in SubjectAltName, in order, as they were signed.
    #[must_use]
    pub fn uri_names(&self) -> &[Vec<u8>] {
        &self.facts.uri_names
    }

    /// KeyUsage, if present and well formed.
    #[must_use]
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.facts.key_usage
    }

    /// The purposes in ExtendedKeyUsage, in order; empty if it is absent.
    #[must_use]
    pub fn extended_key_usages(&self) -> &[ExtendedKeyUsage] {
        &self.facts.extended_key_usages
    }

    /// SubjectKeyIdentifier, if present.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.facts.subject_key_id.as_deref()
    }

    /// AuthorityKeyIdentifier's key id, if present.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.facts.authority_key_id.as_deref()
    }

    /// Whether its AuthorityKeyIdentifier, as far as it says anything, is about `issuer`: by key id, and by serial
    /// number. Envoy looks for the issuer by both, and passes by a certificate of the same name and key that is not
    /// meant (RFC 5280 4.2.1.1).
    #[must_use]
    pub fn means_issuer(&self, issuer: &Self) -> bool {
        let same_key = match (self.authority_key_id(), issuer.subject_key_id()) {
            (Some(wanted), Some(found)) => wanted == found,
            (None, _) | (_, None) => true,
        };
        let plain = |serial: &[u8]| {
            let zeros = serial.iter().take_while(|octet| **octet == 0).count();
            serial[zeros..].to_vec()
        };
        let wanted = self.facts.authority_serial.as_deref();
        same_key && wanted.is_none_or(|wanted| plain(wanted) == plain(issuer.serial().as_bytes()))
    }

    /// The octets that its signature covers: all of the certificate but the signature.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        // What is no DER at all has no such part; the lint and the verifier refuse it by its own rule.
        self.parts().map_or(self.der(), |parts| parts.signed)
    }

    /// The SHA-256 of [`Certificate::to_be_signed`].
    #[must_use]
    pub fn signed_sha256(&self) -> [u8; 32] {
        SpkiHash::of(self.to_be_signed()).0
    }

    /// Whether the two are the same, octet for octet, but for their signatures.
    #[must_use]
    pub fn differs_in_signature_only(&self, other: &Self) -> bool {
        let (Ok(one), Ok(other)) = (self.parts(), other.parts()) else { return false };
        (one.signed, one.algorithm) == (other.signed, other.algorithm)
    }

    /// The same certificate with another signature (an ASN.1 one). What it says was read from the signed octets, which
    /// stay as they are, so it is not read again.
    pub(crate) fn with_signature(&self, signature: &[u8]) -> Result<Self, der::NotDer> {
        let parts = self.parts()?;
        let signature = der::encode(der::BIT_STRING, &[&[0], signature]);
        let der = der::encode(der::SEQUENCE, &[parts.signed, parts.algorithm, &signature]);
        let signed = Self { der: der.into(), facts: Arc::clone(&self.facts) };
        if signed.differs_in_signature_only(self) { Ok(signed) } else { Err(der::NotDer) }
    }

    /// The three parts of a certificate (RFC 5280 4.1).
    pub(crate) fn parts(&self) -> Result<Parts<'_>, der::NotDer> {
        let mut whole = der::open(self.der(), der::SEQUENCE)?;
        let signed = whole.expect(der::SEQUENCE)?.raw;
        let algorithm = whole.expect(der::SEQUENCE)?.raw;
        let signature = whole.expect(der::BIT_STRING)?.value;
        whole.finish()?;
        Ok(Parts { signed, algorithm, signature })
    }

    /// Whether the key of `issuer` made its signature. Says nothing about anything else.
    #[must_use]
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        let parse = |octets| X509Certificate::from_der(octets).map(|(_, parsed)| parsed);
        let (Ok(parsed), Ok(above)) = (parse(self.der()), parse(issuer.der())) else { return false };
        parsed.verify_signature(Some(above.public_key())).is_ok()
    }

    /// SHA-256 over the DER bytes, as people compare certificates.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        SpkiHash::of(&self.der).0
    }
}

impl Facts {
    /// What decides about identity is read from the octets, not from what a lenient parser made of them.
    fn read_octets(&mut self, octets: &[u8]) {
        let Ok(parts) = Anatomy::of(octets) else { return };
        if let Some(names) = parts.extension(oid::SUBJECT_ALT_NAME) {
            let names = anatomy::general_names(names.value).unwrap_or_default();
            let uris = names.into_iter().filter(|(tag, _)| *tag == anatomy::tag::URI);
            self.uri_names = uris.map(|(_, value)| value.to_vec()).collect();
        }
        self.key_usage = parts.extension(oid::KEY_USAGE).and_then(|extension| {
            let bits = anatomy::key_usage_bits(extension.value).ok()?;
            Some(KeyUsage { critical: extension.critical, bits })
        });
        if let Some(purposes) = parts.extension(oid::EXTENDED_KEY_USAGE) {
            let purposes = anatomy::extended_key_usages(purposes.value).unwrap_or_default();
            self.extended_key_usages = purposes.into_iter().map(purpose).collect();
        }
    }
}

/// Positive (RFC 5280 4.1.2.2), except that old self-signed roots, some of them widely trusted, have zero.
fn serial(parsed: &X509Certificate<'_>) -> Result<Serial, SerialError> {
    if parsed.raw_serial() == [0] && parsed.issuer().as_raw() == parsed.subject().as_raw() {
        return Ok(Serial::zero());
    }
    Serial::from_der_integer(parsed.raw_serial())
}

fn purpose(id: &[u8]) -> ExtendedKeyUsage {
    match id {
        oid::SERVER_AUTH => ExtendedKeyUsage::ServerAuth,
        oid::CLIENT_AUTH => ExtendedKeyUsage::ClientAuth,
        oid::ANY_USAGE => ExtendedKeyUsage::Any,
        other => ExtendedKeyUsage::Other(der::dotted(other)),
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.facts.serial)
            .field("subject", &self.facts.subject)
            .field("names", &self.facts.subject_alt_names)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

fn alt_name(name: &GeneralName<'_>) -> SubjectAltName {
    match name {
        GeneralName::URI(uri) => SubjectAltName::Uri((*uri).to_owned()),
        GeneralName::DNSName(dns) => SubjectAltName::Dns((*dns).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).map(|ip| SubjectAltName::Ip(ip.into())),
            16 => <[u8; 16]>::try_from(*octets).map(|ip| SubjectAltName::Ip(ip.into())),
            _ => return SubjectAltName::Other("malformed iPAddress"),
        }
        .unwrap_or(SubjectAltName::Other("malformed iPAddress")),
        GeneralName::RFC822Name(_) => SubjectAltName::Other("rfc822Name"),
        GeneralName::DirectoryName(_) => SubjectAltName::Other("directoryName"),
        GeneralName::OtherName(..) => SubjectAltName::Other("otherName"),
        GeneralName::RegisteredID(_) => SubjectAltName::Other("registeredID"),
        _ => SubjectAltName::Other("other"),
    }
}
