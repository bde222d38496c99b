//! The strict layer: what webpki does not ask of a certificate, and we do (security reference 5.2).

use super::{Fault, Usage, constraints::Subtrees, keys, names};
use crate::{
    Certificate, Timestamp,
    anatomy::{self, Anatomy, BasicConstraints, Extension, oid, tag},
    der::{self, NotDer, Reader},
};

/// Which part a certificate plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// At the start of a path, used for this.
    Leaf(Usage),
    /// Between leaf and anchor.
    Intermediate,
    /// Trusted by itself.
    Anchor,
}

impl Role {
    fn is_leaf(self) -> bool {
        matches!(self, Self::Leaf(_))
    }
}

/// The extensions that the path builder or this layer evaluates; others may not be critical.
const UNDERSTOOD: [&[u8]; 5] = [
    oid::BASIC_CONSTRAINTS,
    oid::KEY_USAGE,
    oid::SUBJECT_ALT_NAME,
    oid::EXTENDED_KEY_USAGE,
    oid::NAME_CONSTRAINTS,
];

const KEY_CERT_SIGN: u16 = 0x0400;
const CRL_SIGN: u16 = 0x0200;

/// Everything that is wrong with `certificate` in `role`, gravest first; `now` is left out where validity is not
/// asked about.
pub(crate) fn faults(certificate: &Certificate, role: Role, now: Option<Timestamp>) -> Vec<Fault> {
    let Ok(anatomy) = Anatomy::of(certificate.der()) else { return vec![Fault::NotDer] };
    let mut found = Vec::new();
    encoding(&anatomy, role, &mut found);
    validity(certificate, &anatomy, now, &mut found);
    found.extend(keys::check_key(anatomy.spki).err());
    identifiers(&anatomy, role, &mut found);
    names(&anatomy, &mut found);
    constraints(&anatomy, role, &mut found);
    usages(&anatomy, role, &mut found);
    found
}

fn encoding(anatomy: &Anatomy<'_>, role: Role, found: &mut Vec<Fault>) {
    if anatomy.version != 3 {
        found.push(Fault::Version(anatomy.version));
    }
    if anatomy.has_unique_id {
        found.push(Fault::UniqueId);
    }
    if !der::is_shortest_integer(anatomy.serial) {
        found.push(Fault::SerialForm);
    }
    if role != Role::Anchor && anatomy.serial == [0] {
        found.push(Fault::SerialZero);
    }
    if !anatomy.algorithms_agree {
        found.push(Fault::AlgorithmMismatch);
    }
    // Nobody relies on an anchor's own signature.
    if role != Role::Anchor {
        found.extend(keys::check_signature_algorithm(anatomy.signature_algorithm).err());
    }
    for (index, extension) in anatomy.extensions.iter().enumerate() {
        if anatomy.extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
            found.push(Fault::DuplicateExtension(der::dotted(extension.oid)));
        }
        let excused = [oid::AUTHORITY_KEY_ID, oid::SUBJECT_KEY_ID];
        if extension.critical && !UNDERSTOOD.contains(&extension.oid) && !excused.contains(&extension.oid) {
            found.push(Fault::UnknownCriticalExtension(der::dotted(extension.oid)));
        }
        if extension.oid == oid::AUTHORITY_INFO && !is_authority_info(extension.value) {
            found.push(Fault::MalformedExtension("AuthorityInfoAccess"));
        }
    }
}

fn validity(
    certificate: &Certificate,
    anatomy: &Anatomy<'_>,
    now: Option<Timestamp>,
    found: &mut Vec<Fault>,
) {
    if !anatomy.validity.iter().all(|(tag, value)| is_date(*tag, value)) {
        found.push(Fault::DateForm);
    }
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if not_before > not_after {
        found.push(Fault::NegativeValidity);
    }
    let Some(now) = now else { return };
    if now < not_before {
        found.push(Fault::NotYetValid { not_before, now });
    }
    if is_over(not_after, now) {
        found.push(Fault::Expired { not_after, now });
    }
}

/// The last second belongs to the validity (RFC 5280 4.1.2.5).
fn is_over(not_after: Timestamp, now: Timestamp) -> bool {
    now.floor_secs() > not_after
}

/// What [`faults`] says of the validity of `certificate` at `now`, if that is all that is asked.
pub(super) fn expiry(certificate: &Certificate, now: Timestamp) -> Option<Fault> {
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if now < not_before {
        Some(Fault::NotYetValid { not_before, now })
    } else if is_over(not_after, now) {
        Some(Fault::Expired { not_after, now })
    } else {
        None
    }
}

fn is_date(tag: u8, value: &[u8]) -> bool {
    let digits = match tag {
        der::UTC_TIME => 12,
        der::GENERALIZED_TIME => 14,
        _ => return false,
    };
    value.len() == digits + 1 && value[..digits].iter().all(u8::is_ascii_digit) && value[digits] == b'Z'
}

fn identifiers(anatomy: &Anatomy<'_>, role: Role, found: &mut Vec<Fault>) {
    const AKI: &str = "AuthorityKeyIdentifier";
    const SKI: &str = "SubjectKeyIdentifier";
    match anatomy.extension(oid::AUTHORITY_KEY_ID) {
        // A self-signed root needs none (RFC 5280 4.2.1.1).
        None if role == Role::Anchor && anatomy.is_self_issued() => {}
        None => found.push(Fault::MissingExtension(AKI)),
        Some(Extension { critical: true, .. }) => found.push(Fault::CriticalExtension(AKI)),
        Some(Extension { value, .. }) => match authority_key_id(value) {
            Ok(Some(_)) => {}
            Ok(None) if role == Role::Anchor => {}
            _ => found.push(Fault::MalformedExtension(AKI)),
        },
    }
    match anatomy.extension(oid::SUBJECT_KEY_ID) {
        None if role.is_leaf() => {}
        None => found.push(Fault::MissingExtension(SKI)),
        Some(Extension { critical: true, .. }) => found.push(Fault::CriticalExtension(SKI)),
        Some(Extension { value, .. }) => {
            if !matches!(der::open(value, der::OCTET_STRING), Ok(id) if !id.is_empty()) {
                found.push(Fault::MalformedExtension(SKI));
            }
        }
    }
    if anatomy.issuer.is_empty() {
        found.push(Fault::EmptyIssuer);
    }
    if anatomy.subject.is_empty() && !role.is_leaf() {
        found.push(Fault::EmptySubject);
    }
}

/// The key identifier of an AuthorityKeyIdentifier, which may have two more fields.
fn authority_key_id(value: &[u8]) -> Result<Option<&[u8]>, NotDer> {
    let mut fields = der::open(value, der::SEQUENCE)?;
    let id = fields.optional(0x80)?.map(|element| element.value);
    fields.optional(0xa1)?;
    fields.optional(0x82)?;
    fields.finish()?;
    if id.is_some_and(<[u8]>::is_empty) { Err(NotDer) } else { Ok(id) }
}

fn names(anatomy: &Anatomy<'_>, found: &mut Vec<Fault>) {
    const SAN: &str = "SubjectAltName";
    let Some(extension) = anatomy.extension(oid::SUBJECT_ALT_NAME) else { return };
    if anatomy.subject.is_empty() && !extension.critical {
        found.push(Fault::UncriticalExtension(SAN));
    }
    match anatomy::general_names(extension.value) {
        Err(NotDer) => found.push(Fault::MalformedExtension(SAN)),
        Ok(list) => {
            found.extend(list.into_iter().find_map(|(tag, value)| names::check_name(tag, value).err()));
        }
    }
}

fn constraints(anatomy: &Anatomy<'_>, role: Role, found: &mut Vec<Fault>) {
    const BASIC: &str = "BasicConstraints";
    let basic = anatomy.extension(oid::BASIC_CONSTRAINTS);
    match basic.map(|extension| (extension.critical, BasicConstraints::parse(extension.value))) {
        Some((_, Err(NotDer))) => found.push(Fault::MalformedExtension(BASIC)),
        Some((_, Ok(basic))) if role.is_leaf() => {
            if basic.ca {
                found.push(Fault::LeafIsAuthority);
            }
        }
        Some((critical, Ok(basic))) => {
            if !basic.ca {
                found.push(Fault::NotAuthority);
            }
            if !critical {
                found.push(Fault::UncriticalExtension(BASIC));
            }
        }
        None if role.is_leaf() => {}
        None => found.push(Fault::MissingExtension(BASIC)),
    }
    const NAMES: &str = "NameConstraints";
    if let Some(extension) = anatomy.extension(oid::NAME_CONSTRAINTS) {
        if role.is_leaf() {
            found.push(Fault::ForbiddenExtension(NAMES));
        }
        if !extension.critical {
            found.push(Fault::UncriticalExtension(NAMES));
        }
        if Subtrees::parse(extension.value).is_err() {
            found.push(Fault::MalformedExtension(NAMES));
        }
    }
    if anatomy.extension(oid::POLICY_CONSTRAINTS).is_some_and(|extension| !extension.critical) {
        found.push(Fault::UncriticalExtension("PolicyConstraints"));
    }
}

fn usages(anatomy: &Anatomy<'_>, role: Role, found: &mut Vec<Fault>) {
    const KEY: &str = "KeyUsage";
    if let Some(extension) = anatomy.extension(oid::KEY_USAGE) {
        match anatomy::key_usage_bits(extension.value) {
            Err(NotDer) | Ok(0) => found.push(Fault::MalformedExtension(KEY)),
            Ok(bits) if role.is_leaf() => {
                if bits & (KEY_CERT_SIGN | CRL_SIGN) != 0 {
                    found.push(Fault::LeafSigns);
                }
            }
            Ok(bits) => {
                if bits & KEY_CERT_SIGN == 0 {
                    found.push(Fault::NoCertSign);
                }
            }
        }
    }
    if let Some(extension) = anatomy.extension(oid::EXTENDED_KEY_USAGE) {
        match anatomy::extended_key_usages(extension.value) {
            Err(NotDer) => found.push(Fault::MalformedExtension("ExtendedKeyUsage")),
            Ok(list) => found.extend(wrong_usage(&list, role)),
        }
    }
}

fn wrong_usage(list: &[&[u8]], role: Role) -> Option<Fault> {
    let Role::Leaf(usage) = role else { return None };
    if list.contains(&oid::ANY_USAGE) {
        return Some(Fault::AnyUsage);
    }
    match usage {
        Usage::Server if !list.contains(&oid::SERVER_AUTH) => {
            Some(Fault::WrongUsage("server authentication"))
        }
        Usage::Client if !list.contains(&oid::CLIENT_AUTH) => {
            Some(Fault::WrongUsage("client authentication"))
        }
        _ => None,
    }
}

/// A list of at least one AccessDescription: a method and a location (RFC 5280 4.2.2.1).
fn is_authority_info(value: &[u8]) -> bool {
    let parse = || -> Result<(), NotDer> {
        let mut list = der::open(value, der::SEQUENCE)?;
        loop {
            let mut description = Reader::new(list.expect(der::SEQUENCE)?.value);
            description.expect(der::OBJECT_ID)?;
            let location = description.next()?;
            description.finish()?;
            if location.tag == tag::URI && !location.value.is_ascii() {
                return Err(NotDer);
            }
            if list.is_empty() {
                return Ok(());
            }
        }
    };
    parse().is_ok()
}

/// Whether its key usage forbids `certificate` to sign revocation lists.
pub(super) fn may_not_sign_crls(certificate: &Certificate) -> bool {
    let Ok(anatomy) = Anatomy::of(certificate.der()) else { return true };
    let Some(extension) = anatomy.extension(oid::KEY_USAGE) else { return false };
    anatomy::key_usage_bits(extension.value).map_or(true, |bits| bits & CRL_SIGN == 0)
}
