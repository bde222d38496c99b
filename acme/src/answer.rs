//! What an answer of an ACME server means (PURE). A stranger sends it: every text, list and number in it has a bound
//! here, and every URL is read by the rule of the directory before it is called.

use std::{collections::BTreeMap, time::Duration};

use certs::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use time::{PrimitiveDateTime, macros::format_description};

use crate::{
    ChallengeKind, Identifier, MAX_NAMES, Problem, ProblemKind, RetryAfter, Trouble, Url,
    challenge::is_token, problem::clean,
};

/// The largest answer that is read, in octets.
pub const MAX_ANSWER: usize = 512 * 1024;
/// The most challenges of one authorization that are looked at.
const MAX_CHALLENGES: usize = 32;
/// The most profiles of a directory that are kept.
const MAX_PROFILES: usize = 64;
/// The most chains beside the first that are offered.
pub const MAX_ALTERNATES: usize = 8;
/// The most orders on one page of an account's list.
const MAX_PAGE: usize = 1000;
/// The longest nonce.
const MAX_NONCE: usize = 512;

/// What came back, as far as it is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The header `Replay-Nonce`.
    pub nonce: Option<String>,
    /// The headers `Link`.
    pub links: Vec<String>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Reply {
    /// When to come again, in either form.
    #[must_use]
    pub fn retry_after(&self) -> Option<RetryAfter> {
        self.retry_after.as_deref().and_then(read_retry_after)
    }

    /// The nonce, if it is one (RFC 8555 6.5.1).
    #[must_use]
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref().filter(|nonce| {
            let known = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
            (1..=MAX_NONCE).contains(&nonce.len()) && nonce.bytes().all(known)
        })
    }

    /// Where the header `Location` leads to.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn location(&self, directory: &Url) -> Result<Url, Trouble> {
        let text = self.location.as_deref().ok_or_else(|| self.odd("the answer has no Location"))?;
        directory.named(text).map_err(|error| self.odd(&error.to_string()))
    }

    /// The targets of the links of a relation (RFC 8288), the first few; what is no URL to call is left out.
    #[must_use]
    pub fn links(&self, relation: &str, directory: &Url) -> Vec<Url> {
        // A target may hold a comma, and never an angle bracket.
        let all = self.links.iter().take(4 * MAX_ALTERNATES).flat_map(|header| header.split('<').skip(1));
        let target = |link: &str| {
            let (target, parameters) = link.split_once('>')?;
            let is_it = parameters.trim_end_matches([',', ' ']).split(';').any(|one| {
                let (name, value) = one.split_once('=').unwrap_or((one, ""));
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split(' ').any(|word| word == relation)
            });
            if is_it { directory.named(target).ok() } else { None }
        };
        all.filter_map(target).take(MAX_ALTERNATES).collect()
    }

    fn odd(&self, reason: &str) -> Trouble {
        Trouble::not_acme(self.status, reason)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let at = format!("line {} column {}", error.line(), error.column());
            self.odd(&if self.body.is_empty() {
                "empty".to_owned()
            } else {
                format!("unknown shape at {at}")
            })
        })
    }

    fn url(&self, text: &str, directory: &Url) -> Result<Url, Trouble> {
        directory.named(text).map_err(|error| self.odd(&error.to_string()))
    }
}

/// Decides what a reply is.
///
/// # Errors
/// Everything but a success.
pub fn judge(reply: Reply, from: &Url) -> Result<Reply, Trouble> {
    let status = reply.status;
    if (200..300).contains(&status) {
        return Ok(reply);
    }
    if (300..400).contains(&status) {
        let to = reply.location.as_deref().map(origin).unwrap_or_default();
        return Err(Trouble::Redirected { from: from.origin(), to });
    }
    let retry_after = reply.retry_after();
    let problem = serde_json::from_slice::<Problem>(&reply.body).ok();
    Err(match (status, problem) {
        (_, Some(problem)) if problem.kind != ProblemKind::Unknown => {
            Trouble::Problem { status, problem, retry_after }
        }
        // A balancer before it limits as well.
        (429, problem) => {
            let detail = problem.map_or_else(|| shown(&reply.body), |problem| problem.detail);
            Trouble::Problem { status, problem: Problem::new(ProblemKind::RateLimited, &detail), retry_after }
        }
        (500.., problem) => {
            let said = problem.map_or_else(|| shown(&reply.body), |problem| problem.detail);
            Trouble::Unavailable { status, retry_after, said }
        }
        (_, Some(problem)) => Trouble::Problem { status, problem, retry_after },
        (_, None) => Trouble::not_acme(status, shown(&reply.body)),
    })
}

/// The beginning of a page, as one line.
fn shown(body: &[u8]) -> String {
    clean(&String::from_utf8_lossy(&body[..body.len().min(1024)])).chars().take(120).collect()
}

/// Scheme, host and port of a redirect: the rest is nobody's business.
fn origin(location: &str) -> String {
    let end = location.find("://").map_or(0, |at| at + 3);
    let path = location[end..].find(['/', '?', '#']).map_or(location.len(), |at| end + at);
    location[..path].chars().filter(|c| !c.is_control()).take(256).collect()
}

/// Both forms: seconds, and a date (RFC 9110 5.6.7, of whose forms only the one is read that may be sent).
fn read_retry_after(text: &str) -> Option<RetryAfter> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Some(RetryAfter::In(Duration::from_secs(text.parse().unwrap_or(u32::MAX).into())));
    }
    let date = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = PrimitiveDateTime::parse(text, &date).ok()?.assume_utc();
    Some(RetryAfter::At(Timestamp::from_unix_secs(at.unix_timestamp())))
}

/// What a server offers, and where (RFC 8555 7.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it stands itself.
    pub url: Url,
    /// Where nonces are had.
    pub new_nonce: Url,
    /// Where accounts are made and found.
    pub new_account: Url,
    /// Where orders are made.
    pub new_order: Url,
    /// Where an account gets another key, if it can.
    pub key_change: Option<Url>,
    /// Where it says when to renew (RFC 9773), if it does.
    pub renewal_info: Option<Url>,
    /// Its terms, to be agreed to.
    pub terms: Option<String>,
    /// Whether an account must be bound to an external one.
    pub is_external_account_required: bool,
    /// Its profiles, each with what it says about it; empty where it has none.
    pub profiles: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDirectory {
    new_nonce: String,
    new_account: String,
    new_order: String,
    #[serde(default)]
    key_change: Option<String>,
    #[serde(default)]
    renewal_info: Option<String>,
    #[serde(default)]
    meta: Option<RawMeta>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    #[serde(default)]
    terms_of_service: Option<String>,
    #[serde(default)]
    external_account_required: Option<bool>,
    #[serde(default)]
    profiles: Option<BTreeMap<String, String>>,
}

impl Directory {
    /// Reads it.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(reply: &Reply, url: &Url) -> Result<Self, Trouble> {
        let raw: RawDirectory = reply.read()?;
        let optional = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(|text| reply.url(text, url)).transpose()
        };
        let meta = raw.meta.unwrap_or_default();
        let profiles = meta.profiles.unwrap_or_default().into_iter().take(MAX_PROFILES);
        let terms = meta.terms_of_service.filter(|terms| !terms.is_empty());
        Ok(Self {
            url: url.clone(),
            new_nonce: reply.url(&raw.new_nonce, url)?,
            new_account: reply.url(&raw.new_account, url)?,
            new_order: reply.url(&raw.new_order, url)?,
            key_change: optional(&raw.key_change)?,
            renewal_info: optional(&raw.renewal_info)?,
            terms: terms.map(|terms| clean(&terms)),
            is_external_account_required: meta.external_account_required.unwrap_or(false),
            profiles: profiles.map(|(name, about)| (clean(&name), clean(&about))).collect(),
        })
    }
}

/// An account as the server has it (RFC 8555 7.1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountFound {
    /// By what the server knows it.
    pub url: Url,
    /// Whether it can be used: else it was deactivated or revoked.
    pub is_valid: bool,
    /// Its list of orders, if the server keeps one.
    pub orders: Option<Url>,
}

impl AccountFound {
    /// Reads it, of an answer that has its URL in a header.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(reply: &Reply, directory: &Url) -> Result<Self, Trouble> {
        Self::read_at(reply, reply.location(directory)?, directory)
    }

    /// Reads it, of the answer of its own URL.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_at(reply: &Reply, url: Url, directory: &Url) -> Result<Self, Trouble> {
        #[derive(Deserialize)]
        struct Raw {
            status: String,
            #[serde(default)]
            orders: Option<String>,
        }
        let raw: Raw = reply.read()?;
        let orders = raw.orders.filter(|text| !text.is_empty());
        let orders = orders.map(|text| reply.url(&text, directory)).transpose()?;
        Ok(Self { url, is_valid: raw.status == "valid", orders })
    }
}

/// Reads one page of an account's list of orders, and where the next one is.
///
/// # Errors
/// When it is none.
pub fn read_orders(reply: &Reply, directory: &Url) -> Result<(Vec<Url>, Option<Url>), Trouble> {
    #[derive(Deserialize)]
    struct Raw {
        orders: Vec<String>,
    }
    let raw: Raw = reply.read()?;
    if raw.orders.len() > MAX_PAGE {
        return Err(reply.odd("too many orders on a page"));
    }
    let orders = raw.orders.iter().map(|text| reply.url(text, directory)).collect::<Result<_, _>>()?;
    Ok((orders, reply.links("next", directory).into_iter().next()))
}

/// How far an order is (RFC 8555 7.1.6): what is greater comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    /// Names must be shown to be one's own.
    Pending,
    /// It can be finalised.
    Ready,
    /// The certificate is being made.
    Processing,
    /// There is a certificate.
    Valid,
    /// It failed, and will not become anything.
    Invalid,
}

/// An order as the server has it (RFC 8555 7.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderBody {
    /// How far it is.
    pub status: OrderStatus,
    /// For which names.
    pub names: Vec<Identifier>,
    /// What must be shown.
    pub authorizations: Vec<Url>,
    /// Where the request goes when all is shown.
    pub finalize: Url,
    /// Where the certificate is.
    pub certificate: Option<Url>,
    /// When the server forgets it.
    pub expires: Option<Timestamp>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// By which profile.
    pub profile: Option<String>,
    /// Which certificate it replaces.
    pub replaces: Option<String>,
}

#[derive(Deserialize)]
struct RawName {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

impl OrderBody {
    /// Reads it.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(reply: &Reply, directory: &Url) -> Result<Self, Trouble> {
        #[derive(Deserialize)]
        struct Raw {
            status: OrderStatus,
            identifiers: Vec<RawName>,
            authorizations: Vec<String>,
            finalize: String,
            #[serde(default)]
            certificate: Option<String>,
            #[serde(default)]
            expires: Option<String>,
            #[serde(default)]
            error: Option<Problem>,
            #[serde(default)]
            profile: Option<String>,
            #[serde(default)]
            replaces: Option<String>,
        }
        let raw: Raw = reply.read()?;
        if raw.identifiers.len() > MAX_NAMES || raw.authorizations.len() > MAX_NAMES {
            return Err(reply.odd("an order of too many names"));
        }
        let name = |one: &RawName| {
            Identifier::of_kind(&one.kind, &one.value)
                .ok_or_else(|| reply.odd("an order of something that is no name"))
        };
        let certificate = raw.certificate.as_deref().filter(|text| !text.is_empty());
        let authorizations = raw.authorizations.iter().map(|text| reply.url(text, directory));
        Ok(Self {
            status: raw.status,
            names: raw.identifiers.iter().map(name).collect::<Result<_, _>>()?,
            authorizations: authorizations.collect::<Result<_, _>>()?,
            finalize: reply.url(&raw.finalize, directory)?,
            certificate: certificate.map(|text| reply.url(text, directory)).transpose()?,
            expires: raw.expires.as_deref().and_then(Timestamp::parse_rfc3339),
            problem: raw.error,
            profile: raw.profile.map(|profile| clean(&profile)).filter(|profile| !profile.is_empty()),
            replaces: raw.replaces.map(|id| clean(&id)).filter(|id| !id.is_empty()),
        })
    }
}

impl OrderBody {
    /// Whether it is by this profile, as far as it says.
    pub(crate) fn may_be_by(&self, profile: Option<&str>) -> bool {
        profile.is_none_or(|wanted| self.profile.as_deref().is_none_or(|found| found == wanted))
    }
}

/// How far an authorization is (RFC 8555 7.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorizationStatus {
    /// To be shown.
    Pending,
    /// Shown.
    Valid,
    /// Tried, and not shown.
    Invalid,
    /// Given up by its owner.
    Deactivated,
    /// Over.
    Expired,
    /// Taken away by the server.
    Revoked,
}

/// How far a challenge is (RFC 8555 7.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChallengeStatus {
    /// Nobody has said that it is published.
    Pending,
    /// The server is looking.
    Processing,
    /// The server has seen it.
    Valid,
    /// The server has not seen it.
    Invalid,
}

/// One way to show a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeBody {
    /// Which way.
    pub kind: ChallengeKind,
    /// Where one says that it is published.
    pub url: Url,
    /// How far it is.
    pub status: ChallengeStatus,
    /// What the server calls it.
    pub token: String,
    /// Why it failed.
    pub problem: Option<Problem>,
}

/// What must be shown for one name (RFC 8555 7.1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationBody {
    /// The name; of a wildcard the one below which it stands.
    pub name: Identifier,
    /// How far it is.
    pub status: AuthorizationStatus,
    /// The ways that we know.
    pub challenges: Vec<ChallengeBody>,
    /// The names of all ways, the first few.
    pub offered: Vec<String>,
}

impl AuthorizationBody {
    /// Reads it.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(reply: &Reply, directory: &Url) -> Result<Self, Trouble> {
        #[derive(Deserialize)]
        struct Raw {
            identifier: RawName,
            status: AuthorizationStatus,
            challenges: Vec<RawChallenge>,
        }
        #[derive(Deserialize)]
        struct RawChallenge {
            #[serde(rename = "type")]
            kind: String,
            url: String,
            #[serde(default)]
            status: Option<ChallengeStatus>,
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            error: Option<Problem>,
        }
        let raw: Raw = reply.read()?;
        let name = Identifier::of_kind(&raw.identifier.kind, &raw.identifier.value)
            .filter(|name| !name.is_wildcard())
            .ok_or_else(|| reply.odd("an authorization of something that is no name"))?;
        if raw.challenges.len() > MAX_CHALLENGES {
            return Err(reply.odd("an authorization with too many challenges"));
        }
        let mut challenges = Vec::new();
        for one in &raw.challenges {
            let Some(kind) = ChallengeKind::parse(&one.kind) else { continue };
            let token = one.token.clone().unwrap_or_default();
            if !is_token(&token) {
                return Err(reply.odd("a challenge without a token that could stand in a path"));
            }
            challenges.push(ChallengeBody {
                kind,
                url: reply.url(&one.url, directory)?,
                status: one.status.unwrap_or(ChallengeStatus::Pending),
                token,
                problem: one.error.clone(),
            });
        }
        let offered = raw.challenges.iter().take(8).map(|one| clean(&one.kind)).collect();
        Ok(Self { name, status: raw.status, challenges, offered })
    }
}

/// When a server wants a certificate to be renewed (RFC 9773 4.2).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Window {
    /// Not before.
    pub start: Timestamp,
    /// Not after.
    pub end: Timestamp,
    /// A page that says why, if it says so.
    pub explanation: Option<String>,
}

impl Window {
    /// Reads it.
    ///
    /// # Errors
    /// When it is none, or ends before it begins.
    pub fn read(reply: &Reply) -> Result<Self, Trouble> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            suggested_window: RawWindow,
            #[serde(default, rename = "explanationURL")]
            explanation: Option<String>,
        }
        #[derive(Deserialize)]
        struct RawWindow {
            start: String,
            end: String,
        }
        let raw: Raw = reply.read()?;
        let time =
            |text: &str| Timestamp::parse_rfc3339(text).ok_or_else(|| reply.odd("a window of no time"));
        let (start, end) = (time(&raw.suggested_window.start)?, time(&raw.suggested_window.end)?);
        if end <= start {
            return Err(reply.odd("a window that ends before it begins"));
        }
        let explanation = raw.explanation.map(|page| clean(&page)).filter(|page| !page.is_empty());
        Ok(Self { start, end, explanation })
    }
}

#[cfg(test)]
mod tests;
