//! Text formats that rules name, in the reading of protoc-gen-validate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

pub(super) fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

pub(super) fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// RFC 1034: labels of letters, digits and inner hyphens, 63 each and 253 in all.
pub(super) fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

pub(super) fn is_address(text: &str) -> bool {
    is_hostname(text) || is_ip(text)
}

pub(super) fn is_email(text: &str) -> bool {
    let is_local = |local: &str| {
        (1..=64).contains(&local.len())
            && local.split('.').all(|atom| {
                !atom.is_empty()
                    && atom.chars().all(|c| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
            })
    };
    text.len() <= 254
        && text.rsplit_once('@').is_some_and(|(local, host)| is_local(local) && is_hostname(host))
}

/// RFC 3986: absolute, with a scheme.
pub(super) fn is_uri(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)) && is_uri_text(text)
}

/// RFC 3986: absolute or relative.
pub(super) fn is_uri_ref(text: &str) -> bool {
    let first = text.split(['/', '?', '#']).next().unwrap_or_default();
    is_uri_text(text) && first.split_once(':').is_none_or(|(scheme, _)| is_scheme(scheme))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn is_uri_text(text: &str) -> bool {
    let is_allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
    };
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    text.bytes().all(is_allowed)
        && text.split('%').skip(1).all(is_escape)
        && text.bytes().filter(|byte| *byte == b'#').count() <= 1
}

/// RFC 4122: 8-4-4-4-12 hexadecimal digits.
pub(super) fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// RFC 7230 3.2.6 with an optional colon in front, for HTTP/2. The comma is there because the reference expression
/// (`+-.`) takes it, and Envoy with it.
pub(super) fn is_header_name(text: &str) -> bool {
    let name = text.strip_prefix(':').unwrap_or(text);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&b))
}

/// RFC 7230 3.2: no control characters except the tab.
pub(super) fn is_header_value(text: &str) -> bool {
    !text.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
}

/// What `strict: false` leaves of both: nothing that ends a header line.
pub(super) fn is_header_text(text: &str) -> bool {
    !text.contains(['\0', '\n', '\r'])
}
