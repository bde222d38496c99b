//! Where a server is, and by which key a stranger knows it.

use std::{fmt, str::FromStr};

use certs::SpkiHash;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why text is no `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not HOST:PORT; write an IPv6 address in brackets, such as [::1]:18001")]
pub struct AddressError(String);

/// Host and port of a server. The host is a DNS name or an address, and says nothing about who answers there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ServerAddress {
    host: String,
    port: u16,
}

impl ServerAddress {
    /// Reads `HOST:PORT`.
    ///
    /// # Errors
    /// When there is no port, or the host is empty or no name.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError(text.chars().take(256).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        let bare = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
            Some(_) => return Err(refused()),
            None if host.contains(':') => return Err(refused()),
            None => host,
        };
        rustls_pki_types::ServerName::try_from(bare).map_err(|_| refused())?;
        Ok(Self { host: bare.to_owned(), port })
    }

    /// The host, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host, on another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// Whether the host is an address, which nobody has to resolve.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok()
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{left}{}{right}:{}", self.host, self.port)
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

/// Why text is no pin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no pin; it is \"sha256:\" and 64 hexadecimal digits, as `credence proxy enroll` printed it"
)]
pub struct PinError(String);

/// SHA-256 of the public key (SubjectPublicKeyInfo) of the root that signs for the server: what a node knows of it
/// before it has a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pin(pub SpkiHash);

impl Pin {
    /// Reads `sha256:HEX`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, PinError> {
        let mut hash = [0; 32];
        text.strip_prefix("sha256:")
            .and_then(|digits| hex::decode_to_slice(digits, &mut hash).ok())
            .ok_or_else(|| PinError(text.chars().take(128).collect()))?;
        Ok(Self(SpkiHash(hash)))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;
    fn from_str(text: &str) -> Result<Self, PinError> {
        Self::parse(text)
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

impl TryFrom<String> for Pin {
    type Error = PinError;
    fn try_from(text: String) -> Result<Self, PinError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        let check = |text: &str, expected: Option<(&str, u16, bool)>| {
            let parsed = ServerAddress::parse(text);
            let seen = parsed.as_ref().ok().map(|a| (a.host(), a.port(), a.is_literal()));
            assert_eq!(seen, expected, "{text}");
            if let Ok(parsed) = parsed {
                assert_eq!(parsed.to_string(), text);
            }
        };
        check("localhost:18001", Some(("localhost", 18001, false)));
        check("127.0.0.1:18001", Some(("127.0.0.1", 18001, true)));
        check("[::1]:18001", Some(("::1", 18001, true)));
        for bad in
            ["", "localhost", "localhost:", ":1", "host:0", "host:65536", "::1:18001", "[x]:1", "a b:1"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn pins_read_back_as_written() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(Pin::parse(&text).unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha256:0a", &"0a".repeat(32), &format!("sha1:{}", "0a".repeat(32))] {
            assert!(Pin::parse(bad).is_err(), "{bad}");
        }
    }
}
