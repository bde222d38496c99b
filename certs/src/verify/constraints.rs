//! Name constraints along a path (RFC 5280 4.2.1.10), anchors included.
//!
//! webpki knows DNS names and addresses; mailboxes and directory names are ours. A form that nobody here can
//! compare, URIs above all, is refused as soon as a name of that form meets a constraint on it.

use crate::{
    Certificate,
    anatomy::{self, Anatomy, oid, tag},
    der::{self, NotDer, Reader},
};

use super::names;

/// The most comparisons of a name with a subtree in one verification.
const MAX_COMPARISONS: u32 = 20_000;

/// emailAddress in a subject (RFC 5280 4.1.2.6).
const EMAIL_ADDRESS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// A name or the base of a subtree: its GeneralName tag and content.
type Name<'a> = (u8, &'a [u8]);

/// Why names do not stand inside their constraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    Outside,
    TooMuchWork,
}

/// The subtrees of one NameConstraints extension.
#[derive(Debug, Default)]
pub(super) struct Subtrees<'a> {
    permitted: Vec<Name<'a>>,
    excluded: Vec<Name<'a>>,
}

impl<'a> Subtrees<'a> {
    /// At least one list, each with at least one subtree, each without minimum and maximum.
    pub(super) fn parse(value: &'a [u8]) -> Result<Self, NotDer> {
        let mut lists = der::open(value, der::SEQUENCE)?;
        if lists.is_empty() {
            return Err(NotDer);
        }
        let mut found = Self::default();
        for (kind, subtrees) in [(0xa0, &mut found.permitted), (0xa1, &mut found.excluded)] {
            let Some(list) = lists.optional(kind)? else { continue };
            let mut list = Reader::new(list.value);
            loop {
                let mut subtree = Reader::new(list.expect(der::SEQUENCE)?.value);
                let base = subtree.next()?;
                subtree.finish()?;
                if !is_base(base.tag, base.value) {
                    return Err(NotDer);
                }
                subtrees.push((base.tag, base.value));
                if list.is_empty() {
                    break;
                }
            }
        }
        lists.finish()?;
        Ok(found)
    }

    fn check(&self, name: Name<'_>, comparisons: &mut u32) -> Result<(), Violation> {
        let of_this_form = |list: &[Name<'a>]| list.iter().filter(|(kind, _)| *kind == name.0).count();
        let (permitted, excluded) = (of_this_form(&self.permitted), of_this_form(&self.excluded));
        *comparisons = comparisons.saturating_add(u32::try_from(permitted + excluded).unwrap_or(u32::MAX));
        if *comparisons > MAX_COMPARISONS {
            return Err(Violation::TooMuchWork);
        }
        let same = |base: &&Name<'a>| base.0 == name.0;
        let is_excluded = self.excluded.iter().filter(same).any(|base| is_within(name, base.1, true));
        let is_permitted =
            permitted == 0 || self.permitted.iter().filter(same).any(|base| is_within(name, base.1, false));
        if is_excluded || !is_permitted { Err(Violation::Outside) } else { Ok(()) }
    }
}

/// Whether the base of a subtree is well formed, where this layer knows its form.
fn is_base(kind: u8, value: &[u8]) -> bool {
    match kind {
        tag::DNS => value.is_empty() || (!value.starts_with(b"*") && names::is_dns_name(value)),
        tag::IP => match value.len() {
            8 | 32 => is_prefix_mask(&value[value.len() / 2..]),
            _ => false,
        },
        tag::EMAIL if value.contains(&b'@') => names::is_mailbox(value),
        tag::EMAIL => {
            !value.starts_with(b"*") && names::is_dns_name(value.strip_prefix(b".").unwrap_or(value))
        }
        tag::DIRECTORY => relative_names(value).is_ok(),
        _ => true,
    }
}

/// Ones, then zeros.
fn is_prefix_mask(mask: &[u8]) -> bool {
    let ones: u32 = mask.iter().map(|octet| octet.count_ones()).sum();
    let leading = mask
        .iter()
        .position(|octet| *octet != 0xff)
        .map_or(mask.len() * 8, |index| index * 8 + mask[index].leading_ones() as usize);
    ones as usize == leading
}

/// Whether comparing every name of `certificates` with every subtree in them is too much to begin with: webpki
/// compares before we do.
pub(super) fn is_too_much<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> bool {
    let (mut names, mut subtrees) = (0_usize, 0_usize);
    for certificate in certificates {
        let Ok(parts) = Anatomy::of(certificate.der()) else { continue };
        if let Some(extension) = parts.extension(oid::SUBJECT_ALT_NAME) {
            names += anatomy::general_names(extension.value).map_or(0, |list| list.len());
        }
        if let Some(extension) = parts.extension(oid::NAME_CONSTRAINTS) {
            subtrees += Subtrees::parse(extension.value)
                .map_or(0, |found| found.permitted.len() + found.excluded.len());
        }
    }
    names.saturating_mul(subtrees) > MAX_COMPARISONS as usize
}

/// Checks every certificate of `path` (leaf first, anchor last) against the constraints of those above it.
pub(crate) fn check_path(path: &[Certificate]) -> Result<(), Violation> {
    let parts: Vec<Anatomy<'_>> = path
        .iter()
        .map(|one| Anatomy::of(one.der()))
        .collect::<Result<_, _>>()
        .map_err(|_| Violation::Outside)?;
    let mut comparisons = 0;
    for (height, authority) in parts.iter().enumerate().skip(1) {
        let Some(extension) = authority.extension(oid::NAME_CONSTRAINTS) else { continue };
        let subtrees = Subtrees::parse(extension.value).map_err(|NotDer| Violation::Outside)?;
        for (index, below) in parts[..height].iter().enumerate() {
            // Self-issued certificates are exempt, the leaf is not (RFC 5280 6.1.3 b, c).
            if index > 0 && below.is_self_issued() {
                continue;
            }
            check_certificate(below, &subtrees, &mut comparisons)?;
        }
    }
    Ok(())
}

/// Whether an authority of `path` constrains URIs, and if so, whether the leaf's URI names have exactly a host that
/// each such authority permits, so that whoever can compare them finds them inside.
pub(crate) fn uris(path: &[Certificate]) -> Option<bool> {
    let (leaf, authorities) = path.split_first()?;
    let hosts: Vec<&[u8]> = leaf.uri_names().iter().filter_map(|uri| host(uri)).collect();
    let mut answer = None;
    for authority in authorities {
        let Ok(parts) = Anatomy::of(authority.der()) else { continue };
        let Some(extension) = parts.extension(oid::NAME_CONSTRAINTS) else { continue };
        let Ok(subtrees) = Subtrees::parse(extension.value) else { continue };
        let of_uris = |list: &[Name<'_>]| list.iter().any(|(kind, _)| *kind == tag::URI);
        if !of_uris(&subtrees.permitted) && !of_uris(&subtrees.excluded) {
            continue;
        }
        let is_inside = !of_uris(&subtrees.excluded)
            && hosts.len() == leaf.uri_names().len()
            && hosts.iter().all(|host| subtrees.permitted.contains(&(tag::URI, *host)));
        answer = Some(answer.unwrap_or(true) && is_inside);
    }
    answer
}

/// The host of a URI that has one.
fn host(uri: &[u8]) -> Option<&[u8]> {
    let start = uri.windows(3).position(|at| at == b"://")? + 3;
    let rest = &uri[start..];
    let end = rest.iter().position(|octet| b"/?#".contains(octet)).unwrap_or(rest.len());
    (end > 0).then_some(&rest[..end])
}

fn check_certificate(
    certificate: &Anatomy<'_>,
    subtrees: &Subtrees<'_>,
    comparisons: &mut u32,
) -> Result<(), Violation> {
    let alternative = match certificate.extension(oid::SUBJECT_ALT_NAME) {
        None => Vec::new(),
        Some(extension) => anatomy::general_names(extension.value).map_err(|NotDer| Violation::Outside)?,
    };
    for name in &alternative {
        subtrees.check(*name, comparisons)?;
    }
    if certificate.subject.is_empty() {
        return Ok(());
    }
    subtrees.check_subject(certificate.subject, comparisons)
}

impl Subtrees<'_> {
    fn check_subject(&self, subject: &[u8], comparisons: &mut u32) -> Result<(), Violation> {
        let constrained =
            |kind: u8| self.permitted.iter().chain(&self.excluded).any(|(other, _)| *other == kind);
        if constrained(tag::DIRECTORY) {
            let name = sequence(subject);
            self.check((tag::DIRECTORY, &name), comparisons)?;
        }
        if constrained(tag::EMAIL) {
            let names = relative_names_of(subject).map_err(|NotDer| Violation::Outside)?;
            let mailboxes = names.iter().flatten().filter(|attribute| attribute.kind == EMAIL_ADDRESS);
            for mailbox in mailboxes {
                self.check((tag::EMAIL, mailbox.value), comparisons)?;
            }
        }
        Ok(())
    }
}

/// Whether `name` lies in the subtree of `base`, which has the same form. Where it cannot be told, the answer is
/// the careful one: inside what is excluded, outside what is permitted.
fn is_within(name: Name<'_>, base: &[u8], excluded: bool) -> bool {
    match name.0 {
        tag::DNS => is_dns_within(name.1, base, excluded),
        tag::IP => is_address_within(name.1, base),
        tag::EMAIL => is_mailbox_within(name.1, base),
        tag::DIRECTORY => is_directory_within(name.1, base).unwrap_or(excluded),
        _ => excluded,
    }
}

fn is_dns_within(name: &[u8], base: &[u8], excluded: bool) -> bool {
    let ends_with_label = |name: &[u8], base: &[u8]| {
        name.len().checked_sub(base.len()).is_some_and(|rest| {
            name[rest..].eq_ignore_ascii_case(base)
                && (rest == 0 || base.is_empty() || name[rest - 1] == b'.')
        })
    };
    match name.strip_prefix(b"*.") {
        // A wildcard stands for every name under it: one excluded name among them excludes it.
        Some(parent) if excluded => ends_with_label(parent, base) || ends_with_label(base, parent),
        Some(parent) => ends_with_label(parent, base),
        None => ends_with_label(name, base),
    }
}

fn is_address_within(address: &[u8], base: &[u8]) -> bool {
    let (network, mask) = base.split_at(base.len() / 2);
    address.len() == network.len()
        && address.iter().zip(network).zip(mask).all(|((octet, of), mask)| octet & mask == of & mask)
}

fn is_mailbox_within(mailbox: &[u8], base: &[u8]) -> bool {
    let split = |text: &[u8]| text.iter().rposition(|octet| *octet == b'@');
    let Some(at) = split(mailbox) else { return false };
    let (local, host) = (&mailbox[..at], &mailbox[at + 1..]);
    match (split(base), base.strip_prefix(b".")) {
        (Some(at), _) => *local == base[..at] && host.eq_ignore_ascii_case(&base[at + 1..]),
        (None, Some(parent)) => host.len() > parent.len() && is_dns_within(host, parent, false),
        (None, None) => host.eq_ignore_ascii_case(base),
    }
}

/// One AttributeTypeAndValue.
#[derive(Debug, PartialEq, Eq)]
struct Attribute<'a> {
    kind: &'a [u8],
    form: u8,
    value: &'a [u8],
}

impl Attribute<'_> {
    /// Case and runs of spaces do not count (RFC 5280 7.1). `None` when the form cannot be compared.
    fn folded(&self) -> Option<String> {
        let text = match self.form {
            UTF8_STRING | PRINTABLE_STRING | IA5_STRING => std::str::from_utf8(self.value).ok()?,
            _ => return None,
        };
        Some(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase())
    }
}

/// Whether the name starts with the relative names of `base`; `None` when that cannot be told.
fn is_directory_within(name: &[u8], base: &[u8]) -> Option<bool> {
    let (name, base) = (relative_names(name).ok()?, relative_names(base).ok()?);
    if base.len() > name.len() {
        return Some(false);
    }
    for (one, other) in name.iter().zip(&base) {
        let folded = |set: &[Attribute<'_>]| {
            let mut pairs: Vec<_> = set
                .iter()
                .map(|attribute| attribute.folded().map(|text| (attribute.kind.to_vec(), text)))
                .collect::<Option<_>>()?;
            pairs.sort();
            Some(pairs)
        };
        if one != other && folded(one)? != folded(other)? {
            return Some(false);
        }
    }
    Some(true)
}

/// The relative names of a Name with its SEQUENCE header.
fn relative_names(name: &[u8]) -> Result<Vec<Vec<Attribute<'_>>>, NotDer> {
    let mut reader = Reader::new(name);
    let content = reader.expect(der::SEQUENCE)?.value;
    reader.finish()?;
    relative_names_of(content)
}

/// The relative names of the content of a Name.
fn relative_names_of(content: &[u8]) -> Result<Vec<Vec<Attribute<'_>>>, NotDer> {
    let mut reader = Reader::new(content);
    let mut names = Vec::new();
    while !reader.is_empty() {
        let mut set = Reader::new(reader.expect(der::SET)?.value);
        let mut attributes = Vec::new();
        while !set.is_empty() {
            let mut pair = Reader::new(set.expect(der::SEQUENCE)?.value);
            let kind = pair.expect(der::OBJECT_ID)?.value;
            let value = pair.next()?;
            pair.finish()?;
            attributes.push(Attribute { kind, form: value.tag, value: value.value });
        }
        names.push(attributes);
    }
    Ok(names)
}

/// `content` as a SEQUENCE.
fn sequence(content: &[u8]) -> Vec<u8> {
    let mut octets = vec![der::SEQUENCE];
    match content.len() {
        short @ 0..=0x7f => octets.push(short as u8),
        long => {
            let length = long.to_be_bytes();
            let significant = &length[length.iter().take_while(|octet| **octet == 0).count()..];
            octets.push(0x80 | significant.len() as u8);
            octets.extend_from_slice(significant);
        }
    }
    octets.extend_from_slice(content);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_subtrees_end_at_labels_and_wildcards_are_taken_carefully() {
        let check = |name: &str, base: &str, permitted: bool, excluded: bool| {
            let within = |careful| is_dns_within(name.as_bytes(), base.as_bytes(), careful);
            assert_eq!((within(false), within(true)), (permitted, excluded), "{name} {base}");
        };
        check("a.example", "example", true, true);
        check("example", "example", true, true);
        check("A.Example", "example", true, true);
        check("badexample", "example", false, false);
        check("anything", "", true, true);
        check("*.example", "example", true, true);
        check("*.example", "a.example", false, true);
        check("*.a.example", "b.example", false, false);
    }

    #[test]
    fn mailboxes_match_by_whole_host_or_below_a_dot() {
        let check = |mailbox: &str, base: &str, expected: bool| {
            assert_eq!(is_mailbox_within(mailbox.as_bytes(), base.as_bytes()), expected, "{mailbox} {base}");
        };
        check("a@example.com", "a@example.com", true);
        check("A@example.com", "a@example.com", false);
        check("a@EXAMPLE.com", "example.com", true);
        check("a@sub.example.com", "example.com", false);
        check("a@sub.example.com", ".example.com", true);
        check("a@example.com", ".example.com", false);
        check("a@badexample.com", ".example.com", false);
        check("*@example.com", "*@example.com", true);
        check("b@example.com", "*@example.com", false);
    }

    #[test]
    fn addresses_match_under_their_mask_and_family() {
        let base = [10, 1, 0, 0, 255, 255, 0, 0];
        assert!(is_address_within(&[10, 1, 2, 3], &base));
        assert!(!is_address_within(&[10, 2, 2, 3], &base));
        assert!(!is_address_within(&[0; 16], &base));
        assert!(is_prefix_mask(&[255, 240, 0, 0]) && is_prefix_mask(&[0; 4]) && is_prefix_mask(&[255; 4]));
        assert!(!is_prefix_mask(&[255, 0, 255, 0]) && !is_prefix_mask(&[0x7f, 0, 0, 0]));
    }
}
