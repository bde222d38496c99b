//! The octets of a leaf below one authority, written in one go (RFC 5280 4.1).
//!
//! A leaf has one shape, and leaves are most of what an authority signs; a general builder makes each of them of
//! many small buffers. It still builds authorities, which are few, and a test holds every kind of leaf against what it
//! would build, octet for octet.

use std::net::IpAddr;

use ::time::OffsetDateTime;

use crate::{
    Certificate, IssueError, KeyKind, SpkiHash, Template, Timestamp,
    anatomy::{Anatomy, oid, tag},
    der::{self, encode},
};

/// What all leaves of one authority have in common.
#[derive(Debug)]
pub(crate) struct Form {
    /// The AlgorithmIdentifier of the authority's signatures.
    algorithm: &'static [u8],
    /// The authority's name, with its header.
    issuer: Vec<u8>,
    /// How long that header is.
    header: usize,
    /// The extension that names its key.
    authority_key_id: Vec<u8>,
}

/// ecdsa-with-SHA256 and ecdsa-with-SHA384 (RFC 5758 3.2).
const P256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const P384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
/// Version 3, in its explicit tag.
const VERSION: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
/// A BIT STRING with digitalSignature alone.
const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
/// An empty SEQUENCE: a name without parts, and BasicConstraints that say `cA FALSE`.
pub(crate) const EMPTY: &[u8] = &[0x30, 0x00];
/// Octets of a key identifier: the SHA-256 of the key, cut (RFC 7093 2).
const KEY_ID: usize = 20;

impl Form {
    /// Of the authority that `certificate` is of, whose key is of `kind`.
    pub(crate) fn of(certificate: &Certificate, kind: KeyKind) -> Result<Self, IssueError> {
        let unusable = |reason: &str| IssueError::Issuer(reason.to_owned());
        let parts = Anatomy::of(certificate.der()).map_err(|_| unusable("it is not DER"))?;
        let id = certificate.subject_key_id().ok_or_else(|| unusable("it has no key identifier"))?;
        let id = encode(der::SEQUENCE, &[&encode(0x80, &[id])]);
        let issuer = encode(der::SEQUENCE, &[parts.subject]);
        Ok(Self {
            algorithm: match kind {
                KeyKind::P256 => P256,
                KeyKind::P384 => P384,
            },
            header: issuer.len() - parts.subject.len(),
            issuer,
            authority_key_id: extension(oid::AUTHORITY_KEY_ID, false, &id),
        })
    }

    /// The content of the authority's name.
    pub(crate) fn issuer_name(&self) -> &[u8] {
        &self.issuer[self.header..]
    }

    /// The part of the leaf that is signed.
    pub(crate) fn to_be_signed(&self, template: &Template) -> Result<Vec<u8>, IssueError> {
        if template.profile.is_authority() || template.subject.is_some() {
            return Err(IssueError::Template("a leaf is no authority and has an empty subject"));
        }
        let serial = template.serial.as_bytes();
        let sign: &[u8] = if serial.first().is_some_and(|octet| octet & 0x80 != 0) { &[0] } else { &[] };
        let validity = [date(template.validity.not_before)?, date(template.validity.not_after)?];
        let key_id = SpkiHash::of(template.public_key.spki_der());
        let extensions = encode(
            der::SEQUENCE,
            &[
                &self.authority_key_id,
                &extension(oid::SUBJECT_ALT_NAME, true, &names(template)?),
                &extension(oid::KEY_USAGE, true, DIGITAL_SIGNATURE),
                &extension(oid::EXTENDED_KEY_USAGE, false, &purposes()),
                &extension(oid::SUBJECT_KEY_ID, false, &encode(der::OCTET_STRING, &[&key_id.0[..KEY_ID]])),
                &extension(oid::BASIC_CONSTRAINTS, true, EMPTY),
            ],
        );
        Ok(encode(
            der::SEQUENCE,
            &[
                VERSION,
                &encode(der::INTEGER, &[sign, serial]),
                self.algorithm,
                &self.issuer,
                &encode(der::SEQUENCE, &[&validity[0], &validity[1]]),
                EMPTY,
                template.public_key.spki_der(),
                &encode(0xa3, &[&extensions]),
            ],
        ))
    }

    /// The leaf whose signed part is `signed`, with a signature (an ASN.1 one).
    pub(crate) fn certificate(&self, signed: &[u8], signature: &[u8]) -> Vec<u8> {
        encode(der::SEQUENCE, &[signed, self.algorithm, &encode(der::BIT_STRING, &[&[0], signature])])
    }
}

/// Whether the content of an AlgorithmIdentifier is one that leaves are written with.
pub(crate) fn is_known_algorithm(content: &[u8]) -> bool {
    [P256, P384].iter().any(|known| &known[2..] == content)
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[der::BOOLEAN, 1, 0xff] } else { &[] };
    encode(der::SEQUENCE, &[&encode(der::OBJECT_ID, &[id]), critical, &encode(der::OCTET_STRING, &[value])])
}

fn names(template: &Template) -> Result<Vec<u8>, IssueError> {
    let ascii = |name: &String| {
        if name.is_ascii() { Ok(()) } else { Err(IssueError::Name(name.clone())) }
    };
    ascii(&template.uri)?;
    let mut names = encode(tag::URI, &[template.uri.as_bytes()]);
    for name in &template.dns_names {
        ascii(name)?;
        names.extend(encode(tag::DNS, &[name.as_bytes()]));
    }
    for address in &template.ip_addresses {
        names.extend(match address {
            IpAddr::V4(address) => encode(tag::IP, &[&address.octets()]),
            IpAddr::V6(address) => encode(tag::IP, &[&address.octets()]),
        });
    }
    Ok(encode(der::SEQUENCE, &[&names]))
}

fn purposes() -> Vec<u8> {
    let id = |purpose| encode(der::OBJECT_ID, &[purpose]);
    encode(der::SEQUENCE, &[&id(oid::SERVER_AUTH), &id(oid::CLIENT_AUTH)])
}

/// UTCTime until 2049, GeneralizedTime after it (RFC 5280 4.1.2.5).
fn date(at: Timestamp) -> Result<Vec<u8>, IssueError> {
    let out_of_range = IssueError::Template("validity is out of range");
    let at = OffsetDateTime::from_unix_timestamp(at.unix_secs()).map_err(|_| out_of_range.clone())?;
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let rest = format!("{month:02}{day:02}{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
    match year {
        1950..2050 => Ok(encode(der::UTC_TIME, &[format!("{:02}", year % 100).as_bytes(), rest.as_bytes()])),
        0..=9999 => Ok(encode(der::GENERALIZED_TIME, &[format!("{year:04}").as_bytes(), rest.as_bytes()])),
        _ => Err(out_of_range),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Profile, PublicKey, SecretKey, Serial, SoftwareSigner, Validity, sign};

    fn root(kind: KeyKind) -> (Certificate, SoftwareSigner) {
        let key = SecretKey::generate(kind);
        let signer = SoftwareSigner::try_new(&key).unwrap();
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let template = Template {
            profile: Profile::Root,
            serial: Serial::random(),
            validity: Validity::starting(now, Duration::from_secs(864_000), None),
            public_key: key.public().clone(),
            subject: Some(("Credence".into(), "root 0011".into())),
            uri: "spiffe://td".into(),
            dns_names: vec![],
            ip_addresses: vec![],
        };
        (sign(&template, None, &signer).unwrap(), signer)
    }

    fn leaf(profile: Profile, key: &PublicKey) -> Template {
        let at = Timestamp::from_unix_secs(1_800_000_000);
        Template {
            profile,
            serial: Serial::random(),
            validity: Validity::starting(at, Duration::from_secs(36_000), None),
            public_key: key.clone(),
            subject: None,
            uri: "spiffe://td/ns/shop/web".into(),
            dns_names: vec![],
            ip_addresses: vec![],
        }
    }

    #[test]
    fn every_leaf_is_the_one_that_the_general_builder_makes() {
        let mut held = 0;
        for kind in [KeyKind::P256, KeyKind::P384] {
            let (root, signer) = root(kind);
            let form = Form::of(&root, kind).unwrap();
            let mut check = |change: &dyn Fn(&mut Template)| {
                for profile in [Profile::Node, Profile::Workload, Profile::Server, Profile::Operator] {
                    for key in [KeyKind::P256, KeyKind::P384] {
                        let mut template = leaf(profile, SecretKey::generate(key).public());
                        change(&mut template);
                        let expected = sign(&template, Some(&root), &signer).unwrap();
                        let signed = form.to_be_signed(&template).unwrap();
                        assert_eq!(
                            hex::encode(&signed),
                            hex::encode(expected.to_be_signed()),
                            "{template:?}"
                        );
                        let parts = expected.parts().unwrap();
                        assert_eq!(form.certificate(&signed, &parts.signature[1..]), expected.der());
                        held += 1;
                    }
                }
            };
            check(&|_| {});
            check(&|template| template.uri = format!("spiffe://td/{}", "a".repeat(200)));
            check(&|template| template.uri = format!("spiffe://td/{}", "a".repeat(2000)));
            check(&|template| template.dns_names = vec!["localhost".into(), "web.shop.example".into()]);
            check(&|template| {
                template.dns_names = vec!["a".into()];
                template.ip_addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
            });
            check(&|template| template.serial = "01".parse().unwrap());
            check(&|template| template.serial = Serial::from_der_integer(&[0, 0x80]).unwrap());
            check(&|template| template.serial = Serial::from_der_integer(&[0, 0xff, 0x01]).unwrap());
            // The last second of UTCTime, the first after it, and both in one validity.
            let last = Timestamp::from_unix_secs(2_524_607_999);
            check(&|template| template.validity = Validity { not_before: last, not_after: last });
            check(&|template| {
                let not_after = last + Duration::from_secs(1);
                template.validity = Validity { not_before: last, not_after };
            });
            check(&|template| {
                let leap = Timestamp::from_unix_secs(1_835_395_199);
                template.validity = Validity { not_before: leap, not_after: leap + Duration::from_secs(1) };
            });
        }
        assert_eq!(held, 2 * 11 * 4 * 2);
    }

    #[test]
    fn what_is_no_leaf_is_not_written() {
        let (root, _) = root(KeyKind::P256);
        let form = Form::of(&root, KeyKind::P256).unwrap();
        let key = SecretKey::generate(KeyKind::P256);
        let check = |change: &dyn Fn(&mut Template)| {
            let mut template = leaf(Profile::Workload, key.public());
            assert!(form.to_be_signed(&template).is_ok());
            change(&mut template);
            form.to_be_signed(&template).unwrap_err()
        };
        assert!(matches!(check(&|template| template.profile = Profile::Issuing), IssueError::Template(_)));
        assert!(matches!(check(&|t| t.subject = Some(("a".into(), "b".into()))), IssueError::Template(_)));
        assert!(matches!(check(&|template| template.uri = "spiffe://td/ä".into()), IssueError::Name(_)));
        assert!(matches!(check(&|t| t.dns_names = vec!["ä".into()]), IssueError::Name(_)));
        let far = Timestamp::from_unix_secs(999_999_999_999);
        let never = Validity { not_before: far, not_after: far };
        assert!(matches!(check(&|template| template.validity = never), IssueError::Template(_)));
    }
}
