//! Rules for text and bytes.

use regex::{Regex, bytes};

use super::check::{Broken, quoted};
use super::formats;
use crate::generated::validate::{BytesRules, KnownRegex, StringRules, bytes_rules, string_rules::WellKnown};

/// A pattern; `None` inside if it is beyond our engine, which counts as never matching.
type Pattern<T> = Option<(String, Option<T>)>;

/// Rules for text.
pub(super) struct TextCheck {
    rules: StringRules,
    pattern: Pattern<Regex>,
}

impl TextCheck {
    pub(super) fn read(rules: StringRules) -> Self {
        let pattern = rules.pattern.clone().map(|text| (text.clone(), Regex::new(&text).ok()));
        Self { rules, pattern }
    }

    /// Whether the pattern, if any, could be compiled.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        self.pattern.as_ref().is_none_or(|(_, regex)| regex.is_some())
    }

    pub(super) fn broken(&self, text: &str) -> Vec<Broken> {
        let rules = &self.rules;
        if rules.ignore_empty() && text.is_empty() {
            return Vec::new();
        }
        let mut broken = self.lengths(text);
        let mut refuse = |rule, text: String| broken.push(Broken::new(rule, text));
        if let Some(equal) = rules.r#const.as_deref().filter(|equal| *equal != text) {
            refuse("string.const", format!("must be {}", quoted(equal)));
        }
        if let Some((source, regex)) = &self.pattern
            && !regex.as_ref().is_some_and(|regex| regex.is_match(text))
        {
            refuse("string.pattern", format!("must match {source}"));
        }
        if let Some(prefix) = rules.prefix.as_deref().filter(|prefix| !text.starts_with(prefix)) {
            refuse("string.prefix", format!("must start with {}", quoted(prefix)));
        }
        if let Some(suffix) = rules.suffix.as_deref().filter(|suffix| !text.ends_with(suffix)) {
            refuse("string.suffix", format!("must end with {}", quoted(suffix)));
        }
        if let Some(part) = rules.contains.as_deref().filter(|part| !text.contains(part)) {
            refuse("string.contains", format!("must contain {}", quoted(part)));
        }
        if let Some(part) = rules.not_contains.as_deref().filter(|part| text.contains(part)) {
            refuse("string.not_contains", format!("must not contain {}", quoted(part)));
        }
        if !rules.r#in.is_empty() && !rules.r#in.iter().any(|one| one == text) {
            refuse("string.in", format!("must be one of {}", rules.r#in.join(", ")));
        }
        if rules.not_in.iter().any(|one| one == text) {
            refuse("string.not_in", format!("must not be one of {}", rules.not_in.join(", ")));
        }
        broken.extend(self.format(text));
        broken
    }

    fn lengths(&self, text: &str) -> Vec<Broken> {
        let rules = &self.rules;
        let chars = || u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let refused = [
            rules.len.filter(|len| chars() != *len).map(|n| ("string.len", "exactly", n, "character")),
            rules
                .min_len
                .filter(|min| chars() < *min)
                .map(|n| ("string.min_len", "at least", n, "character")),
            rules.max_len.filter(|max| chars() > *max).map(|n| ("string.max_len", "at most", n, "character")),
            rules.len_bytes.filter(|len| bytes != *len).map(|n| ("string.len_bytes", "exactly", n, "byte")),
            rules.min_bytes.filter(|min| bytes < *min).map(|n| ("string.min_bytes", "at least", n, "byte")),
            rules.max_bytes.filter(|max| bytes > *max).map(|n| ("string.max_bytes", "at most", n, "byte")),
        ];
        refused.into_iter().flatten().map(counted).collect()
    }

    fn format(&self, text: &str) -> Option<Broken> {
        let strict = self.rules.strict();
        let (is_kept, rule, wanted) = match self.rules.well_known.as_ref()? {
            WellKnown::Email(true) => (formats::is_email(text), "string.email", "an email address"),
            WellKnown::Hostname(true) => (formats::is_hostname(text), "string.hostname", "a host name"),
            WellKnown::Ip(true) => (formats::is_ip(text), "string.ip", "an IP address"),
            WellKnown::Ipv4(true) => (formats::is_ipv4(text), "string.ipv4", "an IPv4 address"),
            WellKnown::Ipv6(true) => (formats::is_ipv6(text), "string.ipv6", "an IPv6 address"),
            WellKnown::Uri(true) => (formats::is_uri(text), "string.uri", "an absolute URI"),
            WellKnown::UriRef(true) => (formats::is_uri_ref(text), "string.uri_ref", "a URI reference"),
            WellKnown::Address(true) => {
                (formats::is_address(text), "string.address", "a host name or an IP address")
            }
            WellKnown::Uuid(true) => (formats::is_uuid(text), "string.uuid", "a UUID"),
            WellKnown::WellKnownRegex(kind) => match (KnownRegex::try_from(*kind), strict) {
                (Ok(KnownRegex::HttpHeaderName), true) => {
                    (formats::is_header_name(text), "string.well_known_regex", "an HTTP header name")
                }
                (Ok(KnownRegex::HttpHeaderValue), true) => {
                    (formats::is_header_value(text), "string.well_known_regex", "an HTTP header value")
                }
                (Ok(KnownRegex::HttpHeaderName | KnownRegex::HttpHeaderValue), false) => (
                    formats::is_header_text(text),
                    "string.well_known_regex",
                    "free of line ends and null characters",
                ),
                (Ok(KnownRegex::Unknown) | Err(_), _) => return None,
            },
            _ => return None,
        };
        (!is_kept).then(|| Broken::new(rule, format!("must be {wanted}")))
    }
}

/// Rules for bytes.
pub(super) struct BytesCheck {
    rules: BytesRules,
    pattern: Pattern<bytes::Regex>,
}

impl BytesCheck {
    pub(super) fn read(rules: BytesRules) -> Self {
        let pattern = rules.pattern.clone().map(|text| (text.clone(), bytes::Regex::new(&text).ok()));
        Self { rules, pattern }
    }

    /// Whether the pattern, if any, could be compiled.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        self.pattern.as_ref().is_none_or(|(_, regex)| regex.is_some())
    }

    pub(super) fn broken(&self, value: &[u8]) -> Vec<Broken> {
        let rules = &self.rules;
        if rules.ignore_empty() && value.is_empty() {
            return Vec::new();
        }
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        let lengths = [
            rules.len.filter(|len| length != *len).map(|n| ("bytes.len", "exactly", n, "byte")),
            rules.min_len.filter(|min| length < *min).map(|n| ("bytes.min_len", "at least", n, "byte")),
            rules.max_len.filter(|max| length > *max).map(|n| ("bytes.max_len", "at most", n, "byte")),
        ];
        let mut broken: Vec<_> = lengths.into_iter().flatten().map(counted).collect();
        let mut refuse = |rule, text: &str| broken.push(Broken::new(rule, text.to_owned()));
        if rules.r#const.as_deref().is_some_and(|equal| equal != value) {
            refuse("bytes.const", "must be the bytes of the rule");
        }
        if let Some((source, regex)) = &self.pattern
            && !regex.as_ref().is_some_and(|regex| regex.is_match(value))
        {
            refuse("bytes.pattern", &format!("must match {source}"));
        }
        if rules.prefix.as_deref().is_some_and(|prefix| !value.starts_with(prefix)) {
            refuse("bytes.prefix", "must start with the bytes of the rule");
        }
        if rules.suffix.as_deref().is_some_and(|suffix| !value.ends_with(suffix)) {
            refuse("bytes.suffix", "must end with the bytes of the rule");
        }
        if rules.contains.as_deref().is_some_and(|part| !contains(value, part)) {
            refuse("bytes.contains", "must contain the bytes of the rule");
        }
        if !rules.r#in.is_empty() && !rules.r#in.iter().any(|one| one == value) {
            refuse("bytes.in", "must be one of the values of the rule");
        }
        if rules.not_in.iter().any(|one| one == value) {
            refuse("bytes.not_in", "must not be one of the values of the rule");
        }
        match rules.well_known {
            Some(bytes_rules::WellKnown::Ip(true)) if !matches!(value.len(), 4 | 16) => {
                refuse("bytes.ip", "must be the bytes of an IP address");
            }
            Some(bytes_rules::WellKnown::Ipv4(true)) if value.len() != 4 => {
                refuse("bytes.ipv4", "must be the bytes of an IPv4 address");
            }
            Some(bytes_rules::WellKnown::Ipv6(true)) if value.len() != 16 => {
                refuse("bytes.ipv6", "must be the bytes of an IPv6 address");
            }
            _ => {}
        }
        broken
    }
}

fn contains(value: &[u8], part: &[u8]) -> bool {
    part.is_empty() || value.windows(part.len()).any(|window| window == part)
}

fn counted((rule, how, count, unit): (&'static str, &str, u64, &str)) -> Broken {
    let plural = if count == 1 { "" } else { "s" };
    Broken::new(rule, format!("must have {how} {count} {unit}{plural}"))
}
