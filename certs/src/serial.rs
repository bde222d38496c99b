//! Serial numbers: 20 octets, 159 random bits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A certificate's serial number, unique under its issuer: positive, at most 20 octets (RFC 5280 4.1.2.2),
/// kept as the DER integer's content without a leading zero.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Serial(Vec<u8>);

/// Why bytes or text are no serial number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SerialError {
    /// Not 1 to 20 octets.
    #[error("serial number has {0} octets, 1 to 20 are allowed")]
    Length(usize),
    /// Zero, or the top bit set.
    #[error("serial number is not positive")]
    NotPositive,
    /// Not hexadecimal.
    #[error("serial number is not hexadecimal")]
    NotHex,
    /// Too little of one.
    #[error("the beginning of a serial number has {0} hexadecimal digits, and {least} at least", least = SerialStart::LEAST)]
    Short(usize),
    /// Hexadecimal, and a digit is missing or too many.
    #[error("serial number has {0} hexadecimal digits, which come in pairs: one is missing, or one too many")]
    Odd(usize),
}

impl Serial {
    /// Makes a serial of 159 bits out of 20 random octets: the top bit is cleared, and the next one set so
    /// that all serials have the same length.
    #[must_use]
    pub fn from_random(mut octets: [u8; 20]) -> Self {
        octets[0] = (octets[0] & 0x7f) | 0x40;
        Self(octets.to_vec())
    }

    /// Draws one from the system's random generator.
    #[must_use]
    pub fn random() -> Self {
        let mut octets = [0; 20];
        aws_lc_rs::rand::fill(&mut octets).expect("the system random generator answers");
        Self::from_random(octets)
    }

    /// Takes the octets of a DER INTEGER (a leading zero that only keeps it positive is dropped).
    ///
    /// # Errors
    /// When the number is zero, negative or longer than 20 octets.
    pub fn from_der_integer(octets: &[u8]) -> Result<Self, SerialError> {
        if octets.is_empty() || octets.len() > 20 {
            return Err(SerialError::Length(octets.len()));
        }
        if octets[0] & 0x80 != 0 {
            return Err(SerialError::NotPositive);
        }
        let significant = if octets[0] == 0 { &octets[1..] } else { octets };
        if significant.iter().all(|octet| *octet == 0) {
            return Err(SerialError::NotPositive);
        }
        Ok(Self(significant.to_vec()))
    }

    /// Takes the octets of a serial as [`Serial::as_bytes`] gives them: of a number that is not signed, so that the top
    /// bit may be set.
    ///
    /// # Errors
    /// When the number is zero or longer than 20 octets.
    pub fn from_bytes(octets: &[u8]) -> Result<Self, SerialError> {
        if octets.is_empty() || octets.len() > 20 {
            return Err(SerialError::Length(octets.len()));
        }
        if octets.iter().all(|octet| *octet == 0) {
            return Err(SerialError::NotPositive);
        }
        Ok(Self(octets.to_vec()))
    }

    /// The number zero, which old self-signed roots have and nothing else may.
    pub(crate) fn zero() -> Self {
        Self(vec![0])
    }

    /// The octets, most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How a serial number begins, as an operator writes it: by hexadecimal digits that need not come in pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialStart(String);

impl SerialStart {
    /// The fewest digits that are a beginning.
    pub const LEAST: usize = 8;

    /// Whether `serial` begins so.
    #[must_use]
    pub fn is_of(&self, serial: &Serial) -> bool {
        serial.to_string().starts_with(&self.0)
    }

    /// The octets at or behind which, and before which, every number that begins so stands.
    #[must_use]
    pub fn range(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let octets = |digits: &str| {
            let pairs = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("{digits}0") };
            hex::decode(pairs).expect("only hexadecimal digits are taken")
        };
        let grows = self.0.trim_end_matches('f');
        let end = grows.char_indices().last().and_then(|(at, last)| {
            let next = char::from_digit(last.to_digit(16)? + 1, 16)?;
            Some(octets(&format!("{}{next}", &grows[..at])))
        });
        (octets(&self.0), end)
    }
}

impl fmt::Display for SerialStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SerialStart {
    type Err = SerialError;
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits = text.replace(':', "").to_ascii_lowercase();
        if !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(SerialError::NotHex);
        }
        match digits.len() {
            short if short < Self::LEAST => Err(SerialError::Short(short)),
            long if long > 40 => Err(SerialError::Length(long.div_ceil(2))),
            _ => Ok(Self(digits)),
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Serial {
    type Err = SerialError;
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits = text.replace(':', "");
        if !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(SerialError::NotHex);
        }
        Self::from_bytes(&hex::decode(&digits).map_err(|_| SerialError::Odd(digits.len()))?)
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

impl TryFrom<String> for Serial {
    type Error = SerialError;
    fn try_from(text: String) -> Result<Self, SerialError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_serial_number_says_what_is_wrong_with_it() {
        let read = |text: &str| text.parse::<Serial>().map(|serial| serial.to_string());
        assert_eq!(read("7F:62:03"), Ok("7f6203".to_owned()));
        assert_eq!(read("deadbeef"), Ok("deadbeef".to_owned()));
        assert_eq!(read(&"7".repeat(39)), Err(SerialError::Odd(39)));
        assert_eq!(read("7f620g"), Err(SerialError::NotHex));
        assert_eq!(read(""), Err(SerialError::Length(0)));
    }

    #[test]
    fn the_beginning_of_a_serial_number_finds_it_and_no_other() {
        let start = |text: &str| text.parse::<SerialStart>();
        assert_eq!(start("7f:62:03"), Err(SerialError::Short(6)));
        assert_eq!(start("7f62031g"), Err(SerialError::NotHex));
        assert_eq!(start(&"7".repeat(41)), Err(SerialError::Length(21)));
        let check = |text: &str, serial: &str, expected: bool| {
            let (start, serial) = (start(text).unwrap(), serial.parse::<Serial>().unwrap());
            assert_eq!(start.is_of(&serial), expected, "{text} {serial}");
            let (from, to) = start.range();
            let octets = serial.as_bytes();
            let is_inside = octets >= &from[..] && to.is_none_or(|to| octets < &to[..]);
            assert_eq!(is_inside, expected, "{text} {serial}");
        };
        let whole = "7f62035c1de84b90";
        for length in 8..=16 {
            check(&whole[..length], whole, true);
            check(&whole[..length].to_uppercase(), whole, true);
        }
        check("7f62035c1", "7f62035c0fffffff", false);
        check("7f62035c1", "7f62035c20000000", false);
        check("7f62035f", "7f62035fffffffff", true);
        check("7f62035f", "7f620360", false);
        check("7fffffff", "80000000", false);
        check("ffffffff", "ffffffffff", true);
        check("ffffffff", "fffffffeff", false);
    }

    #[test]
    fn octets_are_read_back_whatever_their_top_bit() {
        let check = |octets: &[u8], expected: Result<&str, SerialError>| {
            let read = Serial::from_bytes(octets);
            assert_eq!(
                read.as_ref().map(Serial::to_string),
                expected.as_ref().map(|text| (*text).to_owned())
            );
            if let Ok(serial) = read {
                assert_eq!(serial.as_bytes(), octets);
            }
        };
        check(&[0x7f, 1], Ok("7f01"));
        check(&[0xff, 1], Ok("ff01"));
        check(Serial::from_der_integer(&[0, 0x80]).unwrap().as_bytes(), Ok("80"));
        check(&[0xff; 20], Ok(&"ff".repeat(20)));
        check(&[0xff; 21], Err(SerialError::Length(21)));
        check(&[], Err(SerialError::Length(0)));
        check(&[0, 0], Err(SerialError::NotPositive));
    }
}
