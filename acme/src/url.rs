//! Where an ACME server answers: `https` only, and `http` on loopback for who asks for it by a name with `insecure` in
//! it. A server names further URLs, each of which is read here before anything is sent there.

use std::{fmt, net::IpAddr};

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

/// The longest URL that is taken, in octets.
pub const MAX_URL: usize = 2048;

/// Why text is no URL to call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Not an absolute URL with a host.
    #[error("{0:?} is no URL; it looks like \"https://acme.example/directory\"")]
    Malformed(String),
    /// Neither `https`, nor `http` on loopback where that was allowed.
    #[error("{0:?} is not https: who is in between could order certificates, or read which")]
    Plaintext(String),
    /// Somebody's name, and maybe a password, which is why the text is not quoted.
    #[error("a URL has a user before \"@\"")]
    User,
    /// Longer than [`MAX_URL`].
    #[error("a URL has {0} octets, at most {MAX_URL} are taken")]
    TooLong(usize),
}

/// An absolute URL. It is sent back as it came, octet for octet: a signed request names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    text: String,
    is_tls: bool,
    host: String,
    port: u16,
    target: String,
}

impl Url {
    /// Reads `https://HOST[:PORT]/PATH`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Self::read(text)?;
        if url.is_tls { Ok(url) } else { Err(UrlError::Plaintext(shortened(text))) }
    }

    /// As [`Url::parse`], and takes `http` where the host is a literal address of loopback: for an ACME server that
    /// runs in development on the same machine, and for nothing else.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse_insecure_loopback(text: &str) -> Result<Self, UrlError> {
        let url = Self::read(text)?;
        let is_loopback = url.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if url.is_tls || is_loopback { Ok(url) } else { Err(UrlError::Plaintext(shortened(text))) }
    }

    /// Reads what the server of `self` names. It is no less protected than `self`.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn named(&self, text: &str) -> Result<Self, UrlError> {
        if self.is_tls { Self::parse(text) } else { Self::parse_insecure_loopback(text) }
    }

    fn read(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::TooLong(text.len()));
        }
        let malformed = || UrlError::Malformed(shortened(text));
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::User);
        }
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(malformed()),
        };
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| malformed())?,
            None if is_tls => 443,
            None => 80,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || port == 0 || text.contains('#') {
            return Err(malformed());
        }
        // A path that is not there is written as "/" in a request, before a query too (RFC 9112 3.2.1).
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { text: text.to_owned(), is_tls, host, port, target })
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// What stands in the `host` header: without the port that the scheme implies, as servers build their own URLs
    /// from it and compare them with the signed one.
    pub(crate) fn authority(&self) -> String {
        let (left, right) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        let implied = if self.is_tls { 443 } else { 80 };
        if self.port == implied {
            format!("{left}{}{right}", self.host)
        } else {
            format!("{left}{}{right}:{}", self.host, self.port)
        }
    }

    /// Scheme, host and port: for people.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }

    /// Whether the other is at the same scheme, host and port.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        (self.is_tls, &self.host, self.port) == (other.is_tls, &other.host, other.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Serialize for Url {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// What was stored was read before, by the rule of its directory.
impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_insecure_loopback(&text).map_err(de::Error::custom)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Sent, build};

    #[test]
    fn a_url_is_https_and_stays_as_it_was_written() {
        let check = |text: &str, expected: Result<(&str, u16, &str, &str), UrlError>| {
            let parsed = Url::parse(text);
            let parsed = parsed.as_ref().map(|url| (url.host(), url.port(), url.target(), url.as_str()));
            assert_eq!(parsed, expected.as_ref().copied(), "{text}");
            // Whatever is read can be called.
            if let Ok(url) = Url::parse(text) {
                let request = build(&url, &Sent::Get);
                assert_eq!(request.uri().to_string(), url.target(), "{text}");
                assert_eq!(request.headers()["host"], url.authority(), "{text}");
            }
        };
        let plain = "https://acme.example/directory";
        check(plain, Ok(("acme.example", 443, "/directory", plain)));
        let odd = "https://ACME.example:14000/dir?a=b%2f";
        check(odd, Ok(("acme.example", 14000, "/dir?a=b%2f", odd)));
        check("https://[::1]:1", Ok(("::1", 1, "/", "https://[::1]:1")));
        check("https://h?x=1", Ok(("h", 443, "/?x=1", "https://h?x=1")));
        check("https://h:1?", Ok(("h", 1, "/?", "https://h:1?")));
        check("https://h//a/../b?", Ok(("h", 443, "//a/../b?", "https://h//a/../b?")));
        for text in ["", "/dir", "acme.example/dir", "https://", "ftp://h/d", "https://h:0/", "https://h/#f"]
        {
            check(text, Err(UrlError::Malformed(text.to_owned())));
        }
        for text in ["https://u@h/", "https://u:p@h/"] {
            check(text, Err(UrlError::User));
        }
        for text in ["http://acme.example/", "http://127.0.0.1:4000/dir"] {
            check(text, Err(UrlError::Plaintext(text.to_owned())));
        }
        let long = format!("https://h/{}", "a".repeat(MAX_URL));
        check(&long, Err(UrlError::TooLong(long.len())));
    }

    #[test]
    fn plaintext_is_for_literal_addresses_of_loopback_and_has_to_be_asked_for() {
        for text in ["http://127.0.0.1:4000/dir", "http://[::1]:4000/dir", "https://acme.example/dir"] {
            assert!(Url::parse_insecure_loopback(text).is_ok(), "{text}");
        }
        for text in ["http://localhost:4000/dir", "http://10.0.0.1/dir", "http://127.0.0.1.example/dir"] {
            let refused = Url::parse_insecure_loopback(text);
            assert_eq!(refused, Err(UrlError::Plaintext(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_server_over_tls_names_nothing_in_the_clear() {
        let directory = Url::parse("https://acme.example/dir").unwrap();
        assert!(directory.named("https://other.example/order").is_ok());
        assert!(directory.named("http://127.0.0.1:4000/order").is_err());
        let development = Url::parse_insecure_loopback("http://127.0.0.1:4000/dir").unwrap();
        assert!(development.named("http://127.0.0.1:4000/order").is_ok());
        assert!(development.named("http://acme.example/order").is_err());
    }
}
