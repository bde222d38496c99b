//! Where a Vault answers: `https` only, and `http` on loopback for who asks for it by a name with `insecure` in it.

use std::{fmt, net::IpAddr};

use http::Uri;
use thiserror::Error;

/// The most addresses that one Vault is reached by.
pub const MAX_ADDRESSES: usize = 8;

/// Why text is no address of a Vault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not a URL of scheme, host and port.
    #[error("{0:?} is no address of a Vault; it looks like \"https://vault.example:8200\"")]
    Malformed(String),
    /// Not `https`.
    #[error("{0:?} is not https: tokens and keys would travel in the clear")]
    Plaintext(String),
    /// Somebody's name, and maybe a password, which is why the text is not quoted.
    #[error("an address of a Vault has a user before \"@\"; name scheme, host and port only")]
    User,
    /// A namespace, a mount or `/v1` in the address.
    #[error("{0:?} has a path; name scheme, host and port only")]
    Path(String),
    /// None at all.
    #[error("no address of a Vault was given")]
    None,
    /// More than [`MAX_ADDRESSES`].
    #[error("{0} addresses were given, at most {MAX_ADDRESSES} are taken")]
    TooMany(usize),
    /// The same one twice.
    #[error("address {0} was given twice")]
    Twice(Address),
}

/// Scheme, host and port of one Vault server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    is_tls: bool,
    host: String,
    port: u16,
}

impl Address {
    /// Reads `https://HOST[:PORT]`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let address = Self::read(text)?;
        if address.is_tls { Ok(address) } else { Err(AddressError::Plaintext(shortened(text))) }
    }

    /// As [`Address::parse`], and takes `http` where the host is a literal address of loopback: for a Vault that runs
    /// in development mode on the same machine, and for nothing else.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse_insecure_loopback(text: &str) -> Result<Self, AddressError> {
        let address = Self::read(text)?;
        let is_loopback = address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if address.is_tls || is_loopback {
            Ok(address)
        } else {
            Err(AddressError::Plaintext(shortened(text)))
        }
    }

    fn read(text: &str) -> Result<Self, AddressError> {
        // Wherever it stands: no address has one, and a password may have a slash in it.
        if text.contains('@') {
            return Err(AddressError::User);
        }
        let malformed = || AddressError::Malformed(shortened(text));
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let address = Self::of(&uri).ok_or_else(malformed)?;
        match uri.path_and_query().map(|target| target.as_str()) {
            None | Some("/") => Ok(address),
            Some(_) => Err(AddressError::Path(shortened(text))),
        }
    }

    /// Where `uri` leads to: scheme, host and port. `None` if it is not absolute, has a user in it, or is of another
    /// scheme.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok()?,
            None => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || port == 0 || authority.as_str().contains('@') {
            return None;
        }
        Some(Self { is_tls, host, port })
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
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

    /// What stands in the `host` header.
    pub(crate) fn authority(&self) -> String {
        let (left, right) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{left}{}{right}:{}", self.host, self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The addresses of one Vault, in the order in which they are tried. At least one, at most [`MAX_ADDRESSES`]. A token
/// goes to these and to nobody else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses(Vec<Address>);

impl Addresses {
    /// Takes them in order.
    ///
    /// # Errors
    /// When there are none, too many, or one is there twice.
    pub fn try_new(addresses: Vec<Address>) -> Result<Self, AddressError> {
        match addresses.len() {
            0 => return Err(AddressError::None),
            1..=MAX_ADDRESSES => {}
            count => return Err(AddressError::TooMany(count)),
        }
        for (index, address) in addresses.iter().enumerate() {
            if addresses[..index].contains(address) {
                return Err(AddressError::Twice(address.clone()));
            }
        }
        Ok(Self(addresses))
    }

    /// In order.
    #[must_use]
    pub fn as_slice(&self) -> &[Address] {
        &self.0
    }

    /// The place of the one that `location`, from a redirect, leads to, if it is one of these. Nothing but scheme,
    /// host and port of it is looked at.
    #[must_use]
    pub fn place_of(&self, location: &str) -> Option<usize> {
        let target = Address::of(&location.parse().ok()?)?;
        self.0.iter().position(|address| *address == target)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_has_no_path() {
        let check = |text: &str, expected: Result<&str, AddressError>| {
            let parsed = Address::parse(text);
            assert_eq!(parsed.map(|address| address.to_string()), expected.map(str::to_owned), "{text}");
        };
        check("https://vault.example:8200", Ok("https://vault.example:8200"));
        check("https://Vault.Example", Ok("https://vault.example:443"));
        check("https://[::1]:8200/", Ok("https://[::1]:8200"));
        for text in ["", "vault.example:8200", "https://", "ftp://h:1", "https://h:0"] {
            check(text, Err(AddressError::Malformed(text.to_owned())));
        }
        for text in
            ["https://u@h:1", "https://u:p@h:1", "http://u:p@127.0.0.1:1", "u:p@h", "https://u:p/q@h:1"]
        {
            check(text, Err(AddressError::User));
        }
        for text in ["https://h:1/v1", "https://h:1/?x", "https://h/ui/"] {
            check(text, Err(AddressError::Path(text.to_owned())));
        }
        for text in ["http://vault.example:8200", "http://127.0.0.1:8200"] {
            check(text, Err(AddressError::Plaintext(text.to_owned())));
        }
    }

    #[test]
    fn plaintext_is_for_literal_addresses_of_loopback_and_has_to_be_asked_for() {
        for text in ["http://127.0.0.1:8200", "http://[::1]:8200", "https://vault.example:8200"] {
            assert!(Address::parse_insecure_loopback(text).is_ok(), "{text}");
        }
        // A name is whatever the resolver says.
        for text in ["http://localhost:8200", "http://10.0.0.1:8200", "http://127.0.0.1.example:8200"] {
            let refused = Address::parse_insecure_loopback(text);
            assert_eq!(refused, Err(AddressError::Plaintext(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_redirect_leads_to_an_address_that_was_configured_or_nowhere() {
        let two =
            ["https://a.example:8200", "https://b.example:8200"].map(|text| Address::parse(text).unwrap());
        let addresses = Addresses::try_new(two.to_vec()).unwrap();
        let check =
            |location: &str, expected| assert_eq!(addresses.place_of(location), expected, "{location}");
        check("https://b.example:8200/v1/pki/issuers", Some(1));
        check("https://B.example:8200/elsewhere?x=1", Some(1));
        for location in [
            "https://b.example/v1/x",
            "http://b.example:8200/v1/x",
            "https://c.example:8200/v1/x",
            "https://b.example:8200@c.example/v1/x",
            "https://a@b.example:8200/v1/x",
            "//b.example:8200/v1/x",
            "/v1/x",
            "",
            "not a location",
        ] {
            check(location, None);
        }
    }

    #[test]
    fn addresses_are_some_and_not_many_and_each_is_there_once() {
        let one = Address::parse("https://a.example:8200").unwrap();
        assert_eq!(Addresses::try_new(Vec::new()), Err(AddressError::None));
        let twice = vec![one.clone(), one.clone()];
        assert_eq!(Addresses::try_new(twice), Err(AddressError::Twice(one.clone())));
        assert_eq!(Addresses::try_new(vec![one; 9]), Err(AddressError::TooMany(9)));
    }
}
