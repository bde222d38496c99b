//! Key slots by name, and what is accepted by an operator's word.

use super::*;

#[tokio::test]
async fn slots_are_added_rotated_and_removed_by_name() {
    let world = world().await;
    let dry = world.call("POST", "/api/v1/kek/slots", JSON, r#"{"name": "recovery", "dry_run": true}"#).await;
    assert_eq!((dry.status.as_u16(), dry.body["dry_run"].as_bool()), (200, Some(true)), "{:?}", dry.body);
    let names = async || -> Vec<String> {
        let slots = world.get("/api/v1/kek").await.body["slots"].as_array().unwrap().clone();
        slots.iter().map(|slot| slot["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names().await, ["primary"]);
    let last = world.call("DELETE", "/api/v1/kek/slots/primary", "", "").await;
    assert_eq!(
        (last.status.as_u16(), last.body["type"].as_str()),
        (403, Some("urn:credence:problem:policy"))
    );
    let rotated = r#"{"key": {"slot": {"from": "primary", "to": "primary-2"}}, "reason": "yearly"}"#;
    let rotated = world.call("POST", "/api/v1/kek/rotate", JSON, rotated).await;
    assert_eq!(rotated.status.as_u16(), 200, "{:?}", rotated.body);
    assert_eq!(rotated.body["steps"].as_array().unwrap().len(), 3);
    assert_eq!(names().await, ["primary-2"]);
    let recovery = world.call("POST", "/api/v1/kek/slots", JSON, r#"{"name": "recovery"}"#).await;
    assert_eq!(recovery.status.as_u16(), 200, "{:?}", recovery.body);
    for (slot, is_named) in [("primary-2", false), ("recovery", true)] {
        let planned = world.call("DELETE", &format!("/api/v1/kek/slots/{slot}?dry_run=true"), "", "").await;
        let summary = planned.body["summary"].as_str().unwrap().to_owned();
        assert_eq!(
            summary.contains("secrets.slots of credence.yaml still leads to that key"),
            is_named,
            "{summary}"
        );
    }
    let gone = world.call("DELETE", "/api/v1/kek/slots/recovery", "", "").await;
    assert_eq!(gone.status.as_u16(), 200, "{:?}", gone.body);
    for (body, status, word) in [
        (r#"{"name": "primary-2"}"#, 409, "exists"),
        (r#"{"name": "unknown"}"#, 404, "not-found"),
        (r#"{"name": "x", "kek_file": "/etc/passwd"}"#, 400, "syntax"),
        (r#"{"name": "x", "passphrase": "secret"}"#, 400, "syntax"),
    ] {
        let answer = world.call("POST", "/api/v1/kek/slots", JSON, body).await;
        let expected = format!("urn:credence:problem:{word}");
        assert_eq!((answer.status.as_u16(), answer.body["type"].as_str()), (status, Some(expected.as_str())));
    }
    for body in [
        r#"{"key": {"slot": {"from": "a", "to": "a"}}}"#,
        r#"{"key": {"slot": {"to": "a"}}}"#,
        r#"{"key": "all"}"#,
    ] {
        let answer = world.call("POST", "/api/v1/kek/rotate", JSON, body).await;
        assert_eq!(answer.status.as_u16(), 400, "{body}: {:?}", answer.body);
    }
    let behind = r#"{"key": {"root": {"leave_behind": ["recovery"]}}, "dry_run": true}"#;
    let behind = world.call("POST", "/api/v1/kek/rotate", JSON, behind).await;
    assert_eq!(behind.body["steps"][3], "left to you: take recovery out of secrets.slots of credence.yaml");
    for body in [
        r#"{"key": {"root": {}}}"#,
        r#"{"key": {"root": {"leave_behind": ["x"]}}}"#,
        r#"{"key": {"data": {"class": "tls"}}}"#,
    ] {
        let answer = world.call("POST", "/api/v1/kek/rotate", JSON, body).await;
        assert_eq!(answer.status.as_u16(), 200, "{body}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn a_slot_that_was_added_is_told_of_where_the_old_one_stays() {
    let world = world().await;
    let rotated = r#"{"key": {"slot": {"from": "primary", "to": "stays"}}}"#;
    let rotated = world.call("POST", "/api/v1/kek/rotate", JSON, rotated).await;
    assert_eq!(rotated.status.as_u16(), 409, "{:?}", rotated.body);
    assert_eq!(
        rotated.body["detail"],
        "key slot stays was added and stands, and primary was not removed: key slot is unavailable; what is left to do: \
         credence kek remove-slot primary"
    );
    assert_eq!(world.get("/api/v1/kek").await.body["slots"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn vault_alone_is_left_only_where_somebody_says_so_and_its_slots_are_wrapped_anew() {
    let world = world().await;
    let rotate = async |body: &'static str| {
        let answer = world.call("POST", "/api/v1/kek/rotate", JSON, body).await;
        (answer.status.as_u16(), answer.body["steps"].as_array().map_or(0, Vec::len))
    };
    // Refused before the new slot is made.
    assert_eq!(rotate(r#"{"key": {"slot": {"from": "primary", "to": "vault"}}}"#).await, (403, 0));
    let added = world.call("POST", "/api/v1/kek/slots", JSON, r#"{"name": "vault"}"#).await;
    assert_eq!(added.status.as_u16(), 200, "it was not there: {:?}", added.body);
    let remove = async |path: &'static str| world.call("DELETE", path, "", "").await.status.as_u16();
    assert_eq!(remove("/api/v1/kek/slots/primary").await, 403);
    assert_eq!(remove("/api/v1/kek/slots/primary?insecure=true").await, 400);
    assert_eq!(remove("/api/v1/kek/slots/primary?dry_run=true&insecure_single_slot=true").await, 200);
    assert_eq!(rotate(r#"{"key": {"slot": {"from": "primary"}}}"#).await, (403, 0));
    assert_eq!(rotate(r#"{"key": {"slot": {"from": "none"}}}"#).await, (404, 0));
    assert_eq!(rotate(r#"{"key": {"slot": {"from": "vault"}}, "reason": "yearly"}"#).await, (200, 3));
    assert_eq!(remove("/api/v1/kek/slots/primary?insecure_single_slot=true").await, 200);
}

#[tokio::test]
async fn store_is_accepted_with_a_reason_and_only_when_something_was_found() {
    let world = world().await;
    let accept = async |body: &'static str| world.call("POST", "/api/v1/audit/accept", JSON, body).await;
    assert_eq!(accept(r#"{"reason": "restored"}"#).await.status.as_u16(), 404);
    world.sealing.state.lock().unwrap().findings.push("sealed x is missing".into());
    assert_eq!(accept(r#"{"reason": " "}"#).await.status.as_u16(), 400);
    assert_eq!(accept(r#"{}"#).await.status.as_u16(), 400);
    let dry = accept(r#"{"reason": "restored", "dry_run": true}"#).await;
    assert!(
        dry.body["summary"].as_str().unwrap().contains("would accept: sealed x is missing"),
        "{:?}",
        dry.body
    );
    let status = world.get("/api/v1/status").await;
    assert_eq!(status.body["store"]["findings"][0], "sealed x is missing");
    assert_eq!(accept(r#"{"reason": "restored"}"#).await.status.as_u16(), 200);
    assert_eq!(world.get("/api/v1/status").await.body["store"]["findings"], Value::Null);
}
