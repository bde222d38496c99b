//! Each answer that was seen on a real Vault 1.21, and what is made of it.

use super::*;
use crate::Remedy;

fn reply(status: u16, body: &str) -> Reply<'static> {
    Reply { status, location: None, retry_after: None, body: Zeroizing::new(body.as_bytes().to_vec()) }
}

fn errors(messages: &[&str]) -> String {
    serde_json::json!({ "errors": messages }).to_string()
}

const HEALTH: &str = r#"{"initialized":true,"sealed":false,"standby":true,"performance_standby":false}"#;
const INVALID: &str = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n";
const POLICY: &str = "1 error occurred:\n\t* permission denied\n\n";
const ELECTION: &str = "local node not active but active cluster node not found";

#[test]
fn each_status_means_what_it_means() {
    let check = |status: u16, body: &str, code: &str, remedy: Remedy, transient: bool| {
        let trouble = judge(reply(status, body)).unwrap_err();
        assert_eq!((trouble.code(), trouble.remedy()), (code, remedy), "{status} {body}: {trouble}");
        assert_eq!(trouble.is_transient(), transient, "{status} {body}");
        assert!(!trouble.hint().is_empty());
    };
    use Remedy::{AnotherNode, Later, LogIn, Operator};
    check(307, "", "elsewhere", AnotherNode, true);
    check(400, &errors(&["invalid role or secret ID"]), "refused", Operator, false);
    check(403, &errors(&[INVALID]), "invalid-token", LogIn, false);
    check(403, &errors(&[POLICY]), "forbidden", Operator, false);
    check(403, &errors(&["permission denied"]), "forbidden", Operator, false);
    check(404, &errors(&[]), "not-found", Operator, false);
    check(412, &errors(&["required index state not present"]), "not-yet", AnotherNode, true);
    check(429, HEALTH, "standby", AnotherNode, true);
    check(429, &errors(&["request path \"x\": rate limit quota exceeded"]), "busy", Later, true);
    check(429, "", "busy", Later, true);
    check(472, HEALTH, "disaster-recovery", AnotherNode, true);
    check(473, HEALTH, "standby", AnotherNode, true);
    check(474, HEALTH, "cut-off", AnotherNode, true);
    check(500, &errors(&[ELECTION]), "election", AnotherNode, true);
    check(500, &errors(&["unable to find PKI issuer for reference"]), "failed", Operator, false);
    check(500, "<html>", "unavailable", AnotherNode, true);
    check(501, HEALTH, "uninitialised", AnotherNode, false);
    check(502, "<html>", "unavailable", AnotherNode, true);
    check(503, &errors(&["Vault is sealed"]), "sealed", AnotherNode, true);
    check(503, r#"{"initialized":true,"sealed":true,"standby":true}"#, "sealed", AnotherNode, true);
    check(503, "no healthy upstream", "unavailable", AnotherNode, true);
    check(530, HEALTH, "removed", AnotherNode, false);
    check(200, "<html>", "not-vault", Operator, false);
    check(200, "[]", "not-vault", Operator, false);
    check(301, "", "not-vault", Operator, false);
    check(302, "", "not-vault", Operator, false);
    check(308, "", "not-vault", Operator, false);
    // Somebody before Vault says so, not Vault.
    check(400, "Client sent an HTTP request to an HTTPS server.", "not-vault", Operator, false);
    check(403, "<html>", "not-vault", Operator, false);
    check(404, "<html>", "not-vault", Operator, false);
    check(405, &errors(&["unsupported operation"]), "not-vault", Operator, false);
    check(418, "", "not-vault", Operator, false);
}

#[test]
fn what_was_passed_on_and_not_answered_may_have_been_carried_out() {
    let check = |status: u16, body: &str, is_unknown: bool| {
        let trouble = judge(reply(status, body)).unwrap_err();
        assert_eq!(trouble.is_outcome_unknown(), is_unknown, "{status} {body}: {trouble}");
        assert_eq!(trouble.hint().contains("may have been carried out"), is_unknown, "{status} {body}");
    };
    for page in ["", "<html>", &errors(&["upstream timed out"])] {
        check(502, page, true);
        check(504, page, true);
        check(503, page, false);
    }
    check(500, "<html>", true);
    check(500, &errors(&["error while forwarding request"]), true);
    check(500, &errors(&[ELECTION]), false);
    check(500, &errors(&["unable to find PKI issuer for reference"]), false);
    check(503, &errors(&["Vault is sealed"]), false);
    check(400, &errors(&["no"]), false);
    check(403, &errors(&[INVALID]), false);
    check(429, "", false);
    check(307, "", false);
    check(474, HEALTH, false);
}

#[test]
fn a_success_is_read_by_the_shape_that_is_asked_for() {
    let empty = judge(reply(204, "")).unwrap();
    assert!(matches!(empty.data::<String>(), Err(Trouble::NotVault { status: 204, .. })));
    let body =
        r#"{"lease_id":"pki/1","data":{"key":"topsecret"},"warnings":["TTL is longer\nthan permitted"]}"#;
    let answer = judge(reply(200, body)).unwrap();
    assert_eq!(answer.lease_id(), Ok("pki/1".to_owned()));
    assert_eq!(answer.warnings(), ["\"TTL is longer than permitted\""]);
    assert!(!format!("{answer:?}").contains("topsecret"));
    let wrong = answer.data::<u32>().unwrap_err();
    assert!(!format!("{wrong} {wrong:?}").contains("topsecret"), "{wrong}");
    assert_eq!(answer.data::<serde_json::Value>().unwrap()["key"], "topsecret");
}

#[test]
fn retry_after_is_read_in_both_forms_and_believed_within_limits() {
    let now = Timestamp::parse_rfc3339("2026-11-21T10:00:00Z").unwrap();
    let check = |text: &str, secs: Option<u64>| {
        let body = Zeroizing::new(errors(&["rate limit quota exceeded"]).into_bytes());
        let trouble =
            judge(Reply { status: 429, location: None, retry_after: Some(text), body }).unwrap_err();
        let pause = trouble.retry_after().map(|after| after.from_now(now));
        assert_eq!(pause, secs.map(Duration::from_secs), "{text}");
    };
    check("7", Some(7));
    check(" 0 ", Some(0));
    check("86400", Some(900));
    check("Sat, 21 Nov 2026 10:00:30 GMT", Some(30));
    check("Sat, 21 Nov 2026 09:00:00 GMT", Some(0));
    for text in ["", "-1", "soon", "Sat, 21 Nov 2026 10:00:30 CET", "99999999999"] {
        check(text, None);
    }
}

#[test]
fn a_redirect_is_named_without_its_path() {
    let check = |location: Option<&str>, to: &str| {
        let body = Zeroizing::default();
        let trouble = judge(Reply { status: 307, location, retry_after: None, body }).unwrap_err();
        assert_eq!(trouble, Trouble::Elsewhere { to: to.to_owned() });
    };
    check(Some("https://b.example:8200/v1/auth/approle/login?secret=1"), "https://b.example:8200");
    check(Some("https://b.example?x"), "https://b.example");
    check(Some("/v1/x"), "");
    check(None, "");
}

#[test]
fn what_vault_says_is_kept_short_and_in_one_line() {
    let long = "x".repeat(10_000);
    let said = |messages: &[&str]| match judge(reply(400, &errors(messages))) {
        Err(Trouble::Refused { said }) => said.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&["a\n\tb\u{1b}[31m", " ", "c"]), "\"a b[31m; c\"");
    assert_eq!(said(&[]), "no reason given");
    assert!(said(&[&long, &long, &long, &long, &long]).len() < 1300);
}
