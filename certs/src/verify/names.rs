//! Which names may stand in SubjectAltName (RFC 5280 4.2.1.6), octet by octet.

use super::Fault;
use crate::anatomy::tag;

/// The longest URI name that is looked at.
const MAX_URI: usize = 2048;

/// Checks one GeneralName by tag and content.
pub(super) fn check_name(kind: u8, value: &[u8]) -> Result<(), Fault> {
    let fine = match kind {
        tag::EMAIL => is_mailbox(value),
        tag::DNS => is_dns_name(value),
        tag::URI => is_uri(value),
        tag::IP => matches!(value.len(), 4 | 16),
        // otherName, x400Address, directoryName, ediPartyName, registeredID: nobody looks at them.
        tag::OTHER | 0xa3 | tag::DIRECTORY | 0xa5 | tag::REGISTERED_ID => true,
        _ => false,
    };
    if fine { Ok(()) } else { Err(Fault::Name(printable(value))) }
}

fn printable(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(256)]).into_owned()
}

/// Letters, digits, hyphens; a wildcard as the whole of the first label, before at least two more; never an
/// address (RFC 1034 3.5, RFC 1123 2.1, RFC 9525 6.3).
pub(super) fn is_dns_name(value: &[u8]) -> bool {
    if value.is_empty() || value.len() > 253 {
        return false;
    }
    let mut labels: Vec<&[u8]> = value.split(|octet| *octet == b'.').collect();
    if labels[0] == b"*" {
        labels.remove(0);
        if labels.len() < 2 {
            return false;
        }
    }
    let is_label = |label: &&[u8]| {
        (1..=63).contains(&label.len())
            && label.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
            && label.first() != Some(&b'-')
            && label.last() != Some(&b'-')
    };
    let is_number = |label: &&[u8]| label.iter().all(u8::is_ascii_digit);
    labels.iter().all(is_label) && !labels.last().is_some_and(is_number)
}

/// A scheme, a colon, and then only what RFC 3986 lets stand in a URI.
fn is_uri(value: &[u8]) -> bool {
    let Some(colon) = value.iter().position(|octet| *octet == b':') else { return false };
    let (scheme, rest) = value.split_at(colon);
    value.len() <= MAX_URI
        && scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|octet| octet.is_ascii_alphanumeric() || b"+-.".contains(octet))
        && rest.len() > 1
        && rest.iter().all(|octet| octet.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(octet))
}

/// A local part, one `@`, a host (RFC 5280 4.2.1.6); literal asterisks in the local part are just characters.
pub(super) fn is_mailbox(value: &[u8]) -> bool {
    let Some(at) = value.iter().rposition(|octet| *octet == b'@') else { return false };
    let (local, host) = (&value[..at], &value[at + 1..]);
    !local.is_empty()
        && local.iter().all(|octet| octet.is_ascii_graphic() && *octet != b'@')
        && host.first() != Some(&b'*')
        && is_dns_name(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_are_labels_of_letters_digits_and_hyphens() {
        let check =
            |name: &str, expected: bool| assert_eq!(is_dns_name(name.as_bytes()), expected, "{name:?}");
        for good in ["a", "localhost", "a.b", "xn--bcher-kva.example", "*.example.com", "1.2.3.example"] {
            check(good, true);
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a_b.c",
            "-a.b",
            "a-.b",
            "*",
            "*.com",
            "*a.b.c",
            "a.*.c",
            "**.b.c",
            "1.2.3.4",
            "a b",
            "bücher.example",
            "a\0b",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn uris_have_a_scheme_and_printable_octets() {
        let check = |name: &str, expected: bool| assert_eq!(is_uri(name.as_bytes()), expected, "{name:?}");
        check("spiffe://td/web", true);
        check("urn:x", true);
        for bad in ["", ":", "x", "x:", "1x:y", "spiffe://td/\0web", "spiffe://td/ü", "spiffe://td/a b"] {
            check(bad, false);
        }
    }
}
