//! What an answer of Vault means (PURE): the same status stands for several things, which are told apart here and
//! nowhere else.

use certs::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use std::time::Duration;
use time::{PrimitiveDateTime, macros::format_description};
use zeroize::Zeroizing;

use crate::{
    RetryAfter, Trouble,
    trouble::{FORWARDING, Said},
};

/// The most warnings of an answer that are kept.
const MAX_WARNINGS: usize = 16;

/// What came back.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<&'a str>,
    /// The header `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// The body, whole.
    pub body: Zeroizing<Vec<u8>>,
}

/// A success: the body, which may hold secrets, or nothing.
pub struct Answer {
    status: u16,
    body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({} bytes)", self.body.len())
    }
}

#[derive(Deserialize)]
struct Enveloped<T> {
    data: T,
}

#[derive(Deserialize)]
struct Margin {
    #[serde(default)]
    lease_id: Option<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

impl Answer {
    /// Its member `data`.
    ///
    /// # Errors
    /// When it has none, or of another shape than asked for. The error does not quote it.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        self.whole::<Enveloped<T>>().map(|enveloped| enveloped.data)
    }

    /// All of it.
    ///
    /// # Errors
    /// When it is of another shape than asked for.
    pub fn whole<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // The text of the error may quote the answer, which may hold a secret; its place does not.
            let at = format!("line {} column {}", error.line(), error.column());
            let reason =
                if self.body.is_empty() { "empty".to_owned() } else { format!("unknown shape at {at}") };
            Trouble::NotVault { status: self.status, reason }
        })
    }

    /// The lease that it came with; empty where there is none.
    ///
    /// # Errors
    /// When it is not of the shape that Vault's answers have.
    pub fn lease_id(&self) -> Result<String, Trouble> {
        Ok(self.whole::<Margin>()?.lease_id.unwrap_or_default())
    }

    /// What Vault warns of.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let margin = self.whole::<Margin>().ok();
        let warnings = margin.and_then(|margin| margin.warnings).unwrap_or_default();
        warnings.iter().take(MAX_WARNINGS).map(|text| Said::new([text.as_str()]).to_string()).collect()
    }
}

/// Decides what a reply is.
///
/// # Errors
/// Everything but a success.
pub fn judge(reply: Reply<'_>) -> Result<Answer, Trouble> {
    let Reply { status, location, retry_after, body } = reply;
    if status == 204 {
        return Ok(Answer { status, body: Zeroizing::default() });
    }
    // Whatever Vault says is a JSON object, or nothing.
    let seen = Seen::of(&body);
    if status == 200 {
        return match seen {
            Some(_) => Ok(Answer { status, body }),
            None => Err(Trouble::NotVault { status, reason: "the body is no JSON object".to_owned() }),
        };
    }
    let is_vault = seen.is_some();
    let seen = seen.unwrap_or_default();
    let retry_after = retry_after.and_then(read_retry_after);
    let said = Said::new(seen.errors.iter().map(String::as_str));
    Err(match status {
        // Others redirect with all kinds of status; Vault does so with this one.
        307 => Trouble::Elsewhere { to: origin(location) },
        400 if is_vault => Trouble::Refused { said },
        403 if is_vault && said.has("invalid token") => Trouble::InvalidToken { said },
        403 if is_vault => Trouble::Forbidden { said },
        404 if is_vault => Trouble::NotFound { said },
        412 => Trouble::NotYet { said },
        429 if seen.standby == Some(true) => Trouble::Standby,
        429 => Trouble::Busy { retry_after, said },
        472 => Trouble::DisasterRecovery,
        473 => Trouble::Standby,
        474 => Trouble::CutOff,
        500 if is_vault && is_election(&said) => Trouble::Election { said },
        500 if is_vault => Trouble::Failed { said },
        501 => Trouble::Uninitialised,
        503 if seen.sealed == Some(true) || said.has("Vault is sealed") => Trouble::Sealed,
        500 | 502..=504 => Trouble::Unavailable { status, retry_after, said },
        530 => Trouble::Removed,
        _ if is_vault => Trouble::NotVault { status, reason: said.to_string() },
        _ => Trouble::NotVault { status, reason: "the body is no JSON object".to_owned() },
    })
}

/// What is looked at whatever the status: the errors, and what a health check says.
#[derive(Default, Deserialize)]
struct Seen {
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    standby: Option<bool>,
    #[serde(default)]
    sealed: Option<bool>,
}

impl Seen {
    fn of(body: &[u8]) -> Option<Self> {
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        is_object.then(|| serde_json::from_slice(body).ok()).flatten()
    }
}

/// While no node is active, or one is becoming so, requests fail with 500 and work a moment later.
fn is_election(said: &Said) -> bool {
    const SIGNS: [&str; 5] = [
        "active cluster node not found",
        "node is not the leader",
        "leadership lost",
        "not the active node",
        FORWARDING,
    ];
    SIGNS.iter().any(|sign| said.has(sign))
}

/// Scheme, host and port of a redirect: its path may hold what is nobody's business.
fn origin(location: Option<&str>) -> String {
    let Some(location) = location else { return String::new() };
    let end = location.find("://").map_or(0, |at| at + 3);
    let path = location[end..].find(['/', '?', '#']).map_or(location.len(), |at| end + at);
    location[..path].chars().filter(|c| !c.is_control()).take(256).collect()
}

/// Both forms: seconds, and a date (RFC 9110 5.6.7, of whose forms only the one is read that may be sent).
fn read_retry_after(text: &str) -> Option<RetryAfter> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(RetryAfter::In(Duration::from_secs(seconds.into())));
    }
    let date = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = PrimitiveDateTime::parse(text, &date).ok()?.assume_utc();
    Some(RetryAfter::At(Timestamp::from_unix_secs(at.unix_timestamp())))
}

#[cfg(test)]
mod tests;
