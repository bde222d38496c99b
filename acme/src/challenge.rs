//! How one shows that a name is one's own: what must be published, where, for each of the three ways.

use std::fmt;

use certs::{Certificate, IssueError, Signer, Timestamp, challenge_certificate};
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::{Identifier, jws::encode};

/// The ALPN name by which a TLS-ALPN-01 challenge is asked for.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The longest token of a challenge.
pub(crate) const MAX_TOKEN: usize = 256;

/// A way to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeKind {
    /// A text at a path, by plain HTTP at port 80 (RFC 8555 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate at port 443, shown to who asks for `acme-tls/1` (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record (RFC 8555 8.4). The only way for a wildcard; none for an address.
    #[serde(rename = "dns-01")]
    Dns01,
}

impl ChallengeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http01, Self::TlsAlpn01, Self::Dns01];

    /// As ACME and operators write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }

    /// Reads its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == text)
    }

    /// Whether it can show that this name is one's own.
    #[must_use]
    pub fn fits(self, name: &Identifier) -> bool {
        match (self, name) {
            (Self::Dns01, Identifier::Ip(_)) => false,
            (Self::Dns01, Identifier::Dns(_)) => true,
            (Self::Http01 | Self::TlsAlpn01, _) => !name.is_wildcard(),
        }
    }
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is to be published for one name until the authority has looked. None of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Presented {
    /// The name; of a wildcard the name below which it stands.
    pub name: Identifier,
    /// By which way.
    pub kind: ChallengeKind,
    /// What the server calls this challenge. It is fit to stand in a path.
    pub token: String,
    /// The token, and the account that it was given to.
    pub key_authorization: String,
}

impl Presented {
    pub(crate) fn new(name: Identifier, kind: ChallengeKind, token: &str, thumbprint: &str) -> Self {
        Self { name, kind, token: token.to_owned(), key_authorization: format!("{token}.{thumbprint}") }
    }

    /// HTTP-01: the path at which [`Presented::key_authorization`] is the body.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/.well-known/acme-challenge/{}", self.token)
    }

    /// DNS-01: the name of the TXT record.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!("_acme-challenge.{}", self.name)
    }

    /// DNS-01: its value.
    #[must_use]
    pub fn record_value(&self) -> String {
        encode(self.digest())
    }

    /// TLS-ALPN-01: what the certificate holds.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut octets = [0; 32];
        octets.copy_from_slice(digest::digest(&digest::SHA256, self.key_authorization.as_bytes()).as_ref());
        octets
    }

    /// TLS-ALPN-01: the server name by which it is asked for: that of an address is its name in the reverse tree
    /// (RFC 8738 6).
    #[must_use]
    pub fn server_name(&self) -> String {
        match &self.name {
            Identifier::Dns(name) => name.clone(),
            Identifier::Ip(std::net::IpAddr::V4(ip)) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            Identifier::Ip(std::net::IpAddr::V6(ip)) => {
                let halves = ip.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
                halves.map(|half| format!("{half:x}.")).collect::<String>() + "ip6.arpa"
            }
        }
    }

    /// TLS-ALPN-01: the certificate, for a key that is thrown away with it.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn certificate(&self, signer: &dyn Signer, now: Timestamp) -> Result<Certificate, IssueError> {
        challenge_certificate(&self.name.to_server_name(), self.digest(), signer, now)
    }
}

/// Tokens are base64url (RFC 8555 8.3): they stand in paths.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(name: &str, kind: ChallengeKind) -> Presented {
        let thumbprint = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";
        Presented::new(
            Identifier::parse(name).unwrap(),
            kind,
            "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA",
            thumbprint,
        )
    }

    #[test]
    fn what_is_published_is_what_the_standards_say() {
        let http = presented("shop.example", ChallengeKind::Http01);
        assert_eq!(http.path(), "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA");
        // RFC 8555 8.3.
        let expected =
            "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";
        assert_eq!(http.key_authorization, expected);
        let dns = presented("shop.example", ChallengeKind::Dns01);
        assert_eq!(dns.record_name(), "_acme-challenge.shop.example");
        assert_eq!(dns.record_value().len(), 43);
        assert_eq!(encode(dns.digest()), dns.record_value());
    }

    #[test]
    fn an_address_is_asked_for_by_its_name_in_the_reverse_tree() {
        let name = |text| presented(text, ChallengeKind::TlsAlpn01).server_name();
        assert_eq!(name("shop.example"), "shop.example");
        assert_eq!(name("192.0.2.7"), "7.2.0.192.in-addr.arpa");
        let expected = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(name("2001:db8::1"), expected);
    }

    #[test]
    fn a_way_fits_the_names_that_it_can_show() {
        let check = |name: &str, fits: [bool; 3]| {
            let name = Identifier::parse(name).unwrap();
            assert_eq!(ChallengeKind::ALL.map(|kind| kind.fits(&name)), fits, "{name}");
        };
        check("shop.example", [true, true, true]);
        check("*.shop.example", [false, false, true]);
        check("192.0.2.7", [true, true, false]);
        for kind in ChallengeKind::ALL {
            assert_eq!(ChallengeKind::parse(kind.name()), Some(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn a_token_leads_nowhere_else() {
        assert!(is_token("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"));
        for text in
            ["", "../secret", "a/b", "a.b", "a%2f", "a b", "a\r\nb", "\u{e9}", &"a".repeat(MAX_TOKEN + 1)]
        {
            assert!(!is_token(text), "{text}");
        }
    }
}
