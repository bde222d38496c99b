//! What an ACME server says when it refuses (RFC 8555 6.7): which kind of problem, what an operator can do about it,
//! and how soon it makes sense to ask again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Identifier;

/// The most subproblems that are kept, and the most characters of a text.
const MAX_KEPT: (usize, usize) = (8, 300);
/// The most subproblems that are read.
const MAX_READ: usize = 256;
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// How soon it makes sense to ask again when nobody has changed anything. How long the pauses are is said at
/// [`Failures`](crate::Failures).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// In seconds: the way or the server has a fault that may be over.
    Soon,
    /// In half a minute, and then within minutes: the server was told nothing, and counts nothing; who is to publish may be
    /// on the way.
    Publication,
    /// In minutes, because servers count validations that failed: somebody repairs DNS, a firewall, a route.
    Validation,
    /// In a quarter of an hour and later: a limit of the server.
    Limit,
    /// In an hour and later: it fails until somebody changes something.
    Operator,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $pace:ident, $hint:literal;)+) => {
        /// The kinds of problem that ACME knows (RFC 8555 6.7, RFC 9773 5, and the draft of profiles).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $variant,)+
            /// One that is not in this list.
            Unknown,
        }

        impl ProblemKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+ Self::Unknown];

            /// As ACME writes it, without what all have in common.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unknown => "unknown",
                }
            }

            /// How soon it makes sense to ask again.
            #[must_use]
            pub fn pace(self) -> Pace {
                match self {
                    $(Self::$variant => Pace::$pace,)+
                    Self::Unknown => Pace::Operator,
                }
            }

            /// What an operator can do about it.
            #[must_use]
            pub fn hint(self) -> &'static str {
                match self {
                    $(Self::$variant => $hint,)+
                    Self::Unknown => "read what the server says; its documentation knows the kind",
                }
            }
        }
    };
}

kinds! {
    /// The account is gone, or was never there.
    AccountDoesNotExist, "accountDoesNotExist", Operator,
        "the server does not know the account, which it may have lost: register it again by credence issuer credentials \
         NAME --register-again";
    /// The certificate that an order replaces was replaced before.
    AlreadyReplaced, "alreadyReplaced", Soon,
        "nothing: it is ordered again without naming the certificate that it replaces";
    /// Revoked before.
    AlreadyRevoked, "alreadyRevoked", Operator,
        "nothing is left to be revoked";
    /// The request for a certificate is not acceptable.
    BadCsr, "badCSR", Operator,
        "the server does not certify such a key, or such names together: try a P-256 key, and fewer names";
    /// A nonce that the server does not know.
    BadNonce, "badNonce", Soon,
        "nothing: it is tried again with the nonce that came with the refusal. If it lasts, several servers behind one \
         address do not share their nonces";
    /// The account's key is not acceptable.
    BadPublicKey, "badPublicKey", Operator,
        "the server does not take such a key for an account: make a P-256 one";
    /// A reason of revocation that may not be given.
    BadRevocationReason, "badRevocationReason", Operator,
        "give another reason, or none";
    /// The server does not know the algorithm of signatures.
    BadSignatureAlgorithm, "badSignatureAlgorithm", Operator,
        "the server does not take signatures of that kind: make a P-256 key for the account";
    /// CAA records forbid it.
    Caa, "caa", Validation,
        "the domain's CAA records do not allow this authority: add `0 issue \"AUTHORITY\"` for it, or take them away";
    /// Several at once.
    Compound, "compound", Validation,
        "several names failed, each for the reason that stands beside it";
    /// The server could not connect to what it validates.
    Connection, "connection", Validation,
        "the authority could not connect to the name: does it lead here from the internet, to a listener that is open \
         on port 80 (http-01) or 443 (tls-alpn-01), over IPv6 as well if it has an AAAA record?";
    /// The server could not resolve the name.
    Dns, "dns", Validation,
        "the authority could not resolve the name, or its TXT record: do its name servers answer, and DNSSEC hold?";
    /// There must be an external account.
    ExternalAccountRequired, "externalAccountRequired", Operator,
        "the server wants to know whose the account is: get a key id and an HMAC key from who runs it";
    /// What was found there is something else.
    IncorrectResponse, "incorrectResponse", Validation,
        "something else answered the authority: is a proxy, a redirect or an old record before what was published?";
    /// A contact that the server does not like.
    InvalidContact, "invalidContact", Operator,
        "give a contact that is a valid address of mail";
    /// The profile is not one of the server's.
    InvalidProfile, "invalidProfile", Operator,
        "the server has no such profile, or not for this account: name one of those that it lists";
    /// The request is not well formed, or is about something that there is not.
    Malformed, "malformed", Operator,
        "the server does not understand the request, or knows nothing of what it is about: is it the right server, \
         and was the account made there?";
    /// The order is not ready to be finalised.
    OrderNotReady, "orderNotReady", Soon,
        "nothing: the order is looked at again";
    /// A limit of the server.
    RateLimited, "rateLimited", Limit,
        "wait: it is tried again when the server says. Fewer names, or a test server while you are trying, spare limits";
    /// The server does not certify such a name.
    RejectedIdentifier, "rejectedIdentifier", Operator,
        "the authority does not certify this name: its policy says why";
    /// The server failed.
    ServerInternal, "serverInternal", Soon,
        "nothing: it is tried again. If it lasts, look at the status page of who runs the server";
    /// The server could not validate over TLS.
    Tls, "tls", Validation,
        "the authority's TLS handshake with the name failed: is another program at port 443, that does not speak \
         `acme-tls/1`?";
    /// The account may not do that, or what was found there is something else.
    Unauthorized, "unauthorized", Validation,
        "the authority found something else than was published, or the account may not do this: what it found stands \
         in its answer";
    /// A contact of a kind that the server does not know.
    UnsupportedContact, "unsupportedContact", Operator,
        "give a contact that begins with `mailto:`";
    /// A kind of name that the server does not know.
    UnsupportedIdentifier, "unsupportedIdentifier", Operator,
        "the authority does not certify names of this kind, or only by another profile";
    /// Somebody must do something by hand, most often agree to new terms.
    UserActionRequired, "userActionRequired", Operator,
        "somebody must visit the page that the server names, most often to agree to new terms";
}

/// Where a hint has the name of the account that it is about.
const ACCOUNT: &str = "credentials NAME ";

/// A hint of a [`ProblemKind`], with the account that it is about under the name that it has here.
#[must_use]
pub fn hint_about(hint: &str, account: &str) -> String {
    hint.replace(ACCOUNT, &format!("credentials {account} "))
}

impl ProblemKind {
    /// Of its type URI. What is no ACME type at all is [`ProblemKind::Unknown`].
    #[must_use]
    pub fn of(kind: &str) -> Self {
        let name = kind.strip_prefix(PREFIX).unwrap_or_default();
        Self::ALL
            .iter()
            .copied()
            .find(|one| one.name() == name && *one != Self::Unknown)
            .unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the server says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subproblem {
    /// Which name.
    pub name: Option<Identifier>,
    /// What kind.
    pub kind: ProblemKind,
    /// In its words.
    pub detail: String,
}

/// Why the server refuses. Texts are cut, and have no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// In its words.
    pub detail: String,
    /// What it says of single names, the first few.
    pub subproblems: Vec<Subproblem>,
    /// Where somebody must go, for [`ProblemKind::UserActionRequired`].
    pub instance: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    subproblems: Option<Vec<RawSub>>,
}

#[derive(Deserialize)]
struct RawSub {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    identifier: Option<RawName>,
}

#[derive(Deserialize)]
struct RawName {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

impl Problem {
    /// One of ours to make, of a kind and its words.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: &str) -> Self {
        Self { kind, detail: clean(detail), subproblems: Vec::new(), instance: None }
    }
}

/// Reads a problem document (RFC 9457); refuses what has no type, or an endless list in it.
impl<'de> Deserialize<'de> for Problem {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        let subproblems = raw.subproblems.unwrap_or_default();
        if subproblems.len() > MAX_READ {
            return Err(serde::de::Error::custom("too many subproblems"));
        }
        let sub = |one: &RawSub| Subproblem {
            name: one.identifier.as_ref().and_then(|name| Identifier::of_kind(&name.kind, &name.value)),
            kind: ProblemKind::of(&one.kind),
            detail: clean(one.detail.as_deref().unwrap_or_default()),
        };
        let kind = ProblemKind::of(&raw.kind);
        let mut detail = clean(raw.detail.as_deref().unwrap_or_default());
        if kind == ProblemKind::Unknown {
            detail = clean(&format!("{} {detail}", raw.kind));
        }
        Ok(Self {
            kind,
            detail,
            subproblems: subproblems.iter().take(MAX_KEPT.0).map(sub).collect(),
            instance: raw.instance.as_deref().map(clean),
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.kind, self.detail)?;
        for one in &self.subproblems {
            match &one.name {
                Some(name) => write!(f, "; {name}: {}: {:?}", one.kind, one.detail)?,
                None => write!(f, "; {}: {:?}", one.kind, one.detail)?,
            }
        }
        match &self.instance {
            Some(page) => write!(f, "; see {page:?}"),
            None => Ok(()),
        }
    }
}

/// What a stranger says, fit to be shown.
pub(crate) fn clean(text: &str) -> String {
    let begun: String = text.chars().take(4 * MAX_KEPT.1).collect();
    let words: Vec<&str> = begun.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(MAX_KEPT.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_by_its_name_and_says_what_to_do() {
        for kind in ProblemKind::ALL.iter().copied() {
            let read = ProblemKind::of(&format!("{PREFIX}{}", kind.name()));
            assert_eq!(read, kind);
            assert!(kind.hint().len() > 20, "{kind}");
            assert_eq!(ProblemKind::of(kind.name()), ProblemKind::Unknown, "without its prefix");
        }
        assert_eq!(ProblemKind::of("about:blank"), ProblemKind::Unknown);
    }

    #[test]
    fn a_hint_names_the_account_that_it_is_about() {
        let hint = hint_about(ProblemKind::AccountDoesNotExist.hint(), "le");
        assert!(hint.ends_with("by credence issuer credentials le --register-again"), "{hint}");
        for kind in ProblemKind::ALL {
            assert!(!hint_about(kind.hint(), "le").contains("NAME"), "{kind}");
        }
    }

    #[test]
    fn what_the_server_says_is_shown_short_and_with_the_names_that_it_is_about() {
        let long = "x".repeat(1000);
        let text = serde_json::json!({
            "type": "urn:ietf:params:acme:error:compound", "detail": format!("two\n\u{1b}[31mnames {long}"),
            "subproblems": [
                { "type": "urn:ietf:params:acme:error:caa", "detail": "no",
                  "identifier": { "type": "dns", "value": "shop.example" } },
                { "type": "urn:ietf:params:acme:error:dns", "identifier": { "type": "ip", "value": "shop.example" } },
            ],
        });
        let problem: Problem = serde_json::from_value(text).unwrap();
        assert_eq!((problem.kind, problem.subproblems.len()), (ProblemKind::Compound, 2));
        let shown = problem.to_string();
        assert!(shown.starts_with("compound: \"two [31mnames xxx"), "{shown}");
        assert!(shown.ends_with("; shop.example: caa: \"no\"; dns: \"\""), "{shown}");
        assert!(shown.len() < 400);
        let unknown: Problem =
            serde_json::from_str("{\"type\":\"about:blank\",\"detail\":\"maintenance\"}").unwrap();
        assert_eq!(unknown.to_string(), "unknown: \"about:blank maintenance\"");
        assert!(serde_json::from_str::<Problem>("{\"detail\":\"x\"}").is_err());
        let many =
            serde_json::json!({ "type": "x", "subproblems": vec![serde_json::json!({ "type": "y" }); 257] });
        assert!(serde_json::from_value::<Problem>(many).is_err());
    }
}
