//! How texts, numbers, durations, addresses and identities are written.

use std::{net::IpAddr, num::NonZeroU16, time::Duration};

use serde_json::{Value, json};
use spiffe::{EdgeName, SecretName, SpiffeId};

use super::{
    decode::{Field, Reader, list, nearest},
    node::{Node, Scalar},
};

/// The longest duration that a document may hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn text<'n>(node: &'n Node, what: &str, reader: &mut Reader<'_>) -> Option<&'n str> {
    match node.scalar() {
        Some(Scalar::Text(text)) => Some(text),
        _ => reader.expected(node, what),
    }
}

/// One of `words`, exactly.
pub(crate) fn word<'w>(node: &Node, words: &[&'w str], reader: &mut Reader<'_>) -> Option<&'w str> {
    let found = text(node, &format!("one of the texts {}", list(words)), reader)?;
    if let Some(known) = words.iter().find(|word| **word == found) {
        return Some(known);
    }
    let hint = match nearest(found, words) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known values: {}", list(words)),
    };
    reader.refuse(node, "enum", format!("unknown value {found:?}"), hint)
}

impl Field for String {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        text(node, "text", reader).map(str::to_owned)
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl Field for bool {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match node.scalar() {
            Some(Scalar::Bool(value)) => Some(value),
            _ => reader.expected(node, "true or false"),
        }
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

fn whole_number<T: TryFrom<i64>>(node: &Node, from: i64, to: i64, reader: &mut Reader<'_>) -> Option<T> {
    let Some(Scalar::Int(number)) = node.scalar() else {
        return reader.expected(node, "a whole number");
    };
    let within = if (from..=to).contains(&number) { T::try_from(number).ok() } else { None };
    within.or_else(|| {
        let message = format!("{number} is out of range, {from} to {to} is allowed");
        reader.refuse(node, "range", message, "")
    })
}

impl Field for u32 {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        whole_number(node, 0, i64::from(Self::MAX), reader)
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0, "maximum": Self::MAX})
    }
}

/// A port, 1 to 65535.
impl Field for NonZeroU16 {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        whole_number::<u16>(node, 1, i64::from(u16::MAX), reader).and_then(Self::new)
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 1, "maximum": u16::MAX})
    }
}

impl Field for IpAddr {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let found = text(node, "an IP address as text", reader)?;
        found.parse().ok().or_else(|| {
            let hint = match found {
                "localhost" => "write 127.0.0.1 or ::1",
                "*" => "write 0.0.0.0 or \"::\"",
                _ => "write an IPv4 or IPv6 address, without port",
            };
            reader.refuse(node, "address", format!("{found:?} is not an IP address"), hint)
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
    }
}

impl Field for Duration {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let hint = "write a number with ms, s, m or h, as 250ms or 5s";
        if let Some(Scalar::Int(number)) = node.scalar() {
            let message = format!("duration {number} has no unit");
            return reader.refuse(node, "duration", message, hint);
        }
        let found = text(node, "a duration as text, such as 5s", reader)?;
        match parse_duration(found) {
            Some(duration) if duration <= LONGEST => Some(duration),
            Some(_) => reader.refuse(node, "duration", format!("duration {found} is longer than a year"), ""),
            None => reader.refuse(node, "duration", format!("{found:?} is not a duration"), hint),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,9})?(ms|s|m|h)$"})
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) =
        number.split_once('.').map_or((number, None), |(whole, rest)| (whole, Some(rest)));
    let digits =
        |text: &str| !text.is_empty() && text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || fraction.is_some_and(|rest| !digits(rest) || rest.len() > 9) {
        return None;
    }
    let nanos_per_unit: u128 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let mut nanos = whole.parse::<u128>().ok()? * nanos_per_unit;
    if let Some(rest) = fraction {
        nanos += rest.parse::<u128>().ok()? * nanos_per_unit / 10u128.pow(u32::try_from(rest.len()).ok()?);
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?))
}

impl Field for SpiffeId {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let found = text(node, "a SPIFFE ID as text", reader)?;
        Self::parse(found)
            .map_err(|error| {
                let hint = "write spiffe://TRUST-DOMAIN/PATH";
                reader.refuse::<()>(node, "spiffe-id", format!("SPIFFE ID {found:?} {error}"), hint)
            })
            .ok()
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$"})
    }
}

impl Field for SecretName {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let found = text(node, "the name of a secret as text", reader)?;
        let name = found.strip_prefix(Self::SCHEME).unwrap_or(found);
        let read = Self::from_path(name);
        if read.is_none() {
            let hint = "write NAMESPACE/NAME, as `credence secret list` shows them";
            reader.refuse::<()>(node, "secret-name", format!("{found:?} is no name of a secret"), hint);
        }
        read
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^(secret://)?[a-z0-9-]+/[a-z0-9._-]{1,128}$"})
    }
}

impl Field for EdgeName {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let found = text(node, "the name of an edge as text", reader)?;
        Self::parse(found.strip_prefix(Self::SCHEME).unwrap_or(found))
            .map_err(|error| {
                let hint = "write the name of an edge, as `credence edge list` shows them";
                reader.refuse::<()>(
                    node,
                    "edge-name",
                    format!("{found:?} is no name of an edge: {error}"),
                    hint,
                )
            })
            .ok()
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^(edge://)?[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(parse_duration(text), expected, "{text}");
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        check("5s", Some(Duration::from_secs(5)));
        check("250ms", Some(Duration::from_millis(250)));
        check("1.5s", Some(Duration::from_millis(1500)));
        check("2m", Some(Duration::from_secs(120)));
        check("1h", Some(Duration::from_secs(3600)));
        for bad in ["", "s", "5", "5 s", "-5s", "1.s", ".5s", "5d", "1e3s", "1s2m", "99999999999999s"] {
            check(bad, None);
        }
    }
}
