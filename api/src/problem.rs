//! Problem documents (RFC 9457): what every refusal and failure looks like from outside.
//!
//! The words in `type` are stable. One exhaustive mapping makes them from [`CallError`], so that a new way to
//! fail does not compile until it has a word, a status and a hint.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use spiffe::IssuerName;
use utoipa::ToSchema;

use crate::{calls::CallError, wire};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";
const PREFIX: &str = "urn:credence:problem:";
/// The rule that a body of named fields breaks, which is no document.
pub(crate) const FIELDS: &str = "body";

/// The type of a problem by its last word.
#[must_use]
pub fn type_uri(word: &str) -> String {
    format!("{PREFIX}{word}")
}

/// One thing wrong with a text: what, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// The file, or `body`; empty where it was no text.
    pub file: String,
    /// The line, from 1; 0 where the problem has no place.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The field, as it is spelled there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What stands there, shortened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The stable name of the rule.
    pub rule: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Fault {
    /// What a check that failed says.
    fn of(check: &wire::IssuerCheck) -> Option<Self> {
        (check.verdict == "failed").then(|| Self {
            file: String::new(),
            line: 0,
            column: 0,
            path: String::new(),
            value: String::new(),
            rule: check.rule.clone(),
            message: check.found.clone(),
            fix: check.advice.clone(),
        })
    }
}

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:credence:problem:WORD`, stable.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The same in words, equal for every problem of the type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Finds the call in log and audit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Everything wrong with the text, if it was the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// Every rule that was asked, if it was a chain of certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Box<wire::Ladder>>,
}

impl Problem {
    /// The last word of its type.
    #[must_use]
    pub fn word(&self) -> &str {
        self.type_uri.strip_prefix(PREFIX).unwrap_or("")
    }

    /// The document for `error` in the request `request_id`.
    #[must_use]
    pub fn new(error: &CallError, request_id: &str) -> Self {
        let face = Face::of(error);
        let errors = match error {
            CallError::Syntax(faults) | CallError::Invalid(faults) => faults.clone(),
            CallError::Issuer { checks, .. } | CallError::Edge { checks, .. } => {
                checks.iter().filter_map(Fault::of).collect()
            }
            _ => Vec::new(),
        };
        let ladder = match error {
            CallError::Chain(ladder) => Some(Box::new(wire::Ladder::from(ladder.as_ref()))),
            _ => None,
        };
        Self {
            ladder,
            type_uri: type_uri(face.word),
            title: face.title.to_owned(),
            status: face.status.as_u16(),
            detail: error.told(),
            hint: face.hint,
            request_id: request_id.to_owned(),
            errors,
        }
    }

    /// The same of something that is not there because the server is not ready, which `reasons` say: what they name is
    /// to be seen to, and not waited for.
    #[must_use]
    pub fn while_not_ready(self, reasons: &[String]) -> Self {
        match reasons {
            [] => self,
            reasons => Self {
                hint: format!("not ready: {}; \"credence status\" says what to do", reasons.join("; ")),
                ..self
            },
        }
    }
}

struct Face {
    word: &'static str,
    title: &'static str,
    status: StatusCode,
    hint: String,
}

impl Face {
    fn of(error: &CallError) -> Self {
        let face = |status, word, title, hint: &str| Self { word, title, status, hint: hint.to_owned() };
        match error {
            CallError::NoCredential => face(
                StatusCode::UNAUTHORIZED,
                "no-credential",
                "no credential",
                "connect with the operator certificate that \"credence init\" wrote into --admin-dir",
            ),
            CallError::Forbidden { .. } => face(
                StatusCode::FORBIDDEN,
                "forbidden",
                "not allowed",
                "use a certificate of class operator (spiffe://TRUST-DOMAIN/credence/operator/NAME)",
            ),
            CallError::RateLimited { retry_after } => face(
                StatusCode::TOO_MANY_REQUESTS,
                "rate-limited",
                "too many requests",
                &format!("wait {} ms", retry_after.as_millis()),
            ),
            CallError::NoRoute(_) => face(
                StatusCode::NOT_FOUND,
                "no-route",
                "no such address",
                "GET /api/v1/openapi.json lists every address",
            ),
            CallError::NoMethod { .. } => face(
                StatusCode::METHOD_NOT_ALLOWED,
                "no-method",
                "no such method",
                "GET /api/v1/openapi.json lists the methods of every address",
            ),
            CallError::ContentType { .. } => face(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content-type",
                "content type is not supported",
                "send the body as application/yaml or application/json",
            ),
            CallError::TooLarge { limit } => face(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "body is too large",
                &format!("split it: {limit} bytes are allowed in one request"),
            ),
            CallError::Parameter { what, .. } => face(
                StatusCode::BAD_REQUEST,
                "parameter",
                "parameter is not valid",
                &format!("correct the {what}"),
            ),
            // What no file holds is not to be looked for in one.
            CallError::Syntax(faults) if faults.iter().all(|fault| fault.rule == FIELDS) => face(
                StatusCode::BAD_REQUEST,
                "syntax",
                "text cannot be read",
                "correct what \"errors\" lists; GET /api/v1/openapi.json describes the body",
            ),
            CallError::Syntax(_) => face(
                StatusCode::BAD_REQUEST,
                "syntax",
                "text cannot be read",
                "correct what \"errors\" lists; \"credence check FILE\" finds the same offline",
            ),
            CallError::Invalid(_) => face(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-document",
                "documents cannot be applied",
                "correct what \"errors\" lists; \"credence check FILE\" finds most of it offline",
            ),
            CallError::NotFound { what, .. } => {
                face(StatusCode::NOT_FOUND, "not-found", "no such thing", &not_found_hint(what))
            }
            CallError::Exists { what, name } => {
                face(StatusCode::CONFLICT, "exists", "exists already", &exists_hint(what, name))
            }
            CallError::NodeExists { node, .. } => face(
                StatusCode::CONFLICT,
                "exists",
                "exists already",
                &format!(
                    "a node's name is unique over all namespaces: \"credence proxy show {node}\" shows whose it is; \
                     \"credence proxy enroll {node} --replace\" writes its binding anew"
                ),
            ),
            CallError::Conflict { what, name, .. } => face(
                StatusCode::CONFLICT,
                "conflict",
                "its state does not allow this",
                &conflict_hint(what, name),
            ),
            CallError::Stale { actual, .. } => face(
                StatusCode::PRECONDITION_FAILED,
                "stale-revision",
                "somebody else changed it",
                &format!("read it again, merge, and send If-Match: \"{actual}\""),
            ),
            CallError::Chain(_) => face(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-chain",
                "chain is refused",
                "\"ladder\" says of each rule what was found and what to do; the request stays, nothing was changed",
            ),
            CallError::Issuer { .. } => face(
                StatusCode::UNPROCESSABLE_ENTITY,
                "issuer-refused",
                "issuer cannot work",
                "\"errors\" says what does not work, and on which side to change it; nothing was kept",
            ),
            CallError::Edge { .. } => face(
                StatusCode::UNPROCESSABLE_ENTITY,
                "edge-refused",
                "edge cannot work",
                "\"errors\" says what does not work, and on which side to change it; nothing was kept",
            ),
            CallError::Policy(_) => face(
                StatusCode::FORBIDDEN,
                "policy",
                "refused by policy",
                "nothing was changed: what stands in the way is to be changed, or waited for, first",
            ),
            CallError::Unavailable { why, .. } if why.contains("STORE_ROLLBACK") => face(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "temporarily unavailable",
                "trying again does not help: \"credence status\" says how the store is not what it was, and what to do",
            ),
            CallError::Unavailable { .. } => face(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "temporarily unavailable",
                "try again in a few seconds; the server's log has the cause under the request id",
            ),
            CallError::TimedOut(_) => face(
                StatusCode::SERVICE_UNAVAILABLE,
                "timed-out",
                "timed out",
                "the change may or may not have happened: read its state before you try again",
            ),
        }
    }
}

fn not_found_hint(what: &str) -> String {
    if what == "certificate" {
        return "\"credence cert list\" shows what there is; the first 8 digits of a serial number are enough".to_owned();
    }
    let command = match what {
        "node" | "proxy" => "credence proxy list",
        "token" => "credence token list",
        "identity" | "block of" => "credence identity list",
        "request for" => return "\"credence ca csr\" makes one, to be signed by somebody else".to_owned(),
        "revision" => "credence history KIND NAME",
        "key slot" | "data key" => "credence kek status",
        "finding" => "credence status",
        "secret" => "credence secret list",
        "issuer" => "credence issuer list",
        "edge" => "credence edge list",
        "hook" => "credence hook list",
        "authority" => "credence ca show",
        "pause of" => "credence rollout list",
        "open recovery" => "credence recover --list",
        _ => "credence get KIND",
    };
    format!("\"{command}\" shows what there is")
}

fn conflict_hint(what: &str, name: &str) -> String {
    match what {
        "certificate" => format!("nothing is left to be done about it: credence cert show {name}"),
        "token" => "nothing is left to be done about it: it admits nobody any more".to_owned(),
        "document" => {
            "nothing was changed: credence diff --prune -f FILE shows what would end now, and so does the same command, again"
                .to_owned()
        }
        "rotation of" => {
            "credence ca status says at which step it is, and what comes next; a step that is past is not taken again"
                .to_owned()
        }
        "replacement of" => {
            "it goes on by itself, also without those who lag once the one that signs gets old: see why they do not take \
             their list (credence proxy show NODE --explain), or remove who is gone (credence proxy remove NODE); \
             credence ca show says who is waited for"
                .to_owned()
        }
        _ => "what it says stands in the way is to be changed first, where it can be".to_owned(),
    }
}

fn exists_hint(what: &str, name: &str) -> String {
    match what {
        "issuer" if name == IssuerName::BUILTIN => {
            "choose another name: this is the issuer that is built in, and always there"
        }
        "issuer" => {
            return format!("choose another name, or change it if it is a Vault: credence issuer update {name}");
        }
        "edge" => {
            return format!(
                "\"credence edge remove {name}\" makes room for it; \"credence edge show {name}\" shows what it is"
            );
        }
        "key slot" => {
            "choose another name in secrets.slots of the server's credence.yaml; a slot is never overwritten"
        }
        _ => "update it by its id, or choose another name",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_the_environment_says_out_of_the_answer() {
        let error = CallError::Unavailable { part: "store", why: "/var/lib/credence: disk full".into() };
        let problem = Problem::new(&error, "0011223344556677");
        assert_eq!((problem.status, problem.word()), (503, "unavailable"));
        assert!(!serde_json::to_string(&problem).unwrap().contains("disk"));
    }

    #[test]
    fn what_stands_in_the_way_is_named_where_it_is_known() {
        let error = CallError::Unavailable { part: "authority", why: "clock".into() };
        let problem = Problem::new(&error, "");
        assert!(problem.clone().while_not_ready(&[]).hint.starts_with("try again in a few seconds"));
        let problem =
            problem.while_not_ready(&["the clock is off".to_owned(), "the disk is full".to_owned()]);
        let hint = "not ready: the clock is off; the disk is full; \"credence status\" says what to do";
        assert_eq!((problem.hint.as_str(), problem.detail.as_str()), (hint, "authority is unavailable"));
    }

    #[test]
    fn a_stale_revision_names_both_and_what_to_send() {
        let error =
            CallError::Stale { what: "ProxyConfig", name: "default/web".into(), expected: 3, actual: 5 };
        let problem = Problem::new(&error, "");
        assert_eq!(problem.status, 412);
        assert_eq!(problem.detail, "ProxyConfig default/web is at revision 5, not 3");
        assert!(problem.hint.contains("If-Match: \"5\""));
    }

    #[test]
    fn what_no_second_try_helps_is_not_to_be_tried_again() {
        let hint = |what, name: &str| {
            let error = CallError::Conflict { what, name: name.into(), why: "was revoked".into() };
            Problem::new(&error, "").hint
        };
        assert!(hint("certificate", "7f01").ends_with("credence cert show 7f01"));
        assert!(hint("token", "a").contains("admits nobody"));
        assert!(hint("rotation of", "root").contains("credence ca status"));
        assert!(hint("replacement of", "a").contains("goes on by itself"));
        for what in ["certificate", "token", "rotation of", "replacement of", "issuer"] {
            assert!(!hint(what, "a").contains("the same again"), "{what}");
        }
    }

    #[test]
    fn what_exists_already_is_named_with_what_changes_it() {
        let hint = |what, name: &str| Problem::new(&CallError::Exists { what, name: name.into() }, "").hint;
        assert!(hint("issuer", "corp").ends_with("credence issuer update corp"));
        assert!(
            hint("issuer", "builtin").contains("choose another name")
                && !hint("issuer", "builtin").contains("update")
        );
        assert!(hint("edge", "shop").contains("credence edge remove shop"));
        let node = |namespace: Option<&str>| {
            let namespace = namespace.map(|text| spiffe::Namespace::parse(text).unwrap());
            let node = spiffe::NodeId::parse("web-1").unwrap();
            Problem::new(&CallError::NodeExists { node, namespace }, "")
        };
        assert!(node(None).hint.contains("enroll web-1 --replace"));
        assert_eq!(node(None).detail, "node web-1 exists already");
        assert_eq!(node(Some("team-a")).detail, "node web-1 exists already, in namespace team-a");
    }

    #[test]
    fn every_problem_says_what_to_do() {
        for error in [
            CallError::NoCredential,
            CallError::NoRoute("/x".into()),
            CallError::Syntax(Vec::new()),
            CallError::NotFound { what: "token", name: "x".into() },
            CallError::Policy("no".into()),
        ] {
            let problem = Problem::new(&error, "");
            assert!(!problem.hint.is_empty(), "{}", problem.word());
            assert!(!problem.word().is_empty());
        }
    }
}
