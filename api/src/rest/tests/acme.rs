//! `/issuers` of kind `acme`.

use super::*;
use crate::testing::Mood;

pub(super) fn wanted(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut wanted = json!({
        "name": name,
        "directory": "https://acme.example/directory",
        "ca_file": "/etc/ssl/certs/ca-certificates.crt",
        "contacts": ["mailto:ops@example.com"],
        "agree_terms": "https://acme.example/terms",
        "external_key_id": "kid-1",
        "external_key": "c2VjcmV0LW9mLXRoZS1hY2NvdW50",
        "profile": "classic",
    });
    change(&mut wanted);
    wanted
}

fn mood(world: &World, mood: Mood) {
    *world.acme.mood.lock().unwrap() = mood;
}

#[tokio::test]
async fn acme_server_is_added_tried_given_another_key_and_removed_and_signs_nothing() {
    let world = world().await;
    let dry = wanted("le", |wanted| wanted["dry_run"] = json!(true));
    let dry = world.json("POST", "/api/v1/issuers/acme", dry).await;
    assert_eq!((dry.status, dry.body["dry_run"].as_bool()), (StatusCode::OK, Some(true)), "{}", dry.body);
    assert_eq!(world.get("/api/v1/issuers/le").await.status, StatusCode::NOT_FOUND);

    let added = world.json("POST", "/api/v1/issuers/acme", wanted("le", |_| {})).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    let summary = "added issuer le: its account is https://acme.example/directory/account/1";
    assert_eq!(added.body["summary"], summary);
    for (method, path) in [("POST", "/api/v1/issuers/acme"), ("POST", "/api/v1/issuers")] {
        let mut same =
            if path.ends_with("acme") { wanted("le", |_| {}) } else { issuers::wanted("le", |_| {}) };
        let again = world.json(method, path, same.take()).await;
        assert_eq!(again.status, StatusCode::CONFLICT, "{path}: {}", again.body);
    }

    let shown = world.get("/api/v1/issuers/le").await.body;
    assert_eq!((&shown["kind"], &shown["state"]), (&json!("acme"), &json!("ready")), "{shown}");
    assert_eq!(shown["acme"]["profile"], "classic");
    assert_eq!(shown["acme"]["external_key_id"], "kid-1");
    assert!(!world.get("/api/v1/issuers").await.body.to_string().contains("c2VjcmV0"), "keys go in only");

    let tested = world.json("POST", "/api/v1/issuers/le/test", json!({})).await;
    assert_eq!(tested.body["passed"], true, "{}", tested.body);
    let planned = world.json("POST", "/api/v1/issuers/le/account-key", json!({"dry_run": true})).await;
    assert_eq!(planned.body["issuer"]["version"], 1, "{}", planned.body);
    let changed = world.json("POST", "/api/v1/issuers/le/account-key", json!({})).await;
    assert_eq!((changed.status, &changed.body["issuer"]["version"]), (StatusCode::OK, &json!(2)));

    let migrated = world.json("POST", "/api/v1/issuers/migrate", json!({"to": "le", "dry_run": true})).await;
    assert_eq!(migrated.status, StatusCode::FORBIDDEN, "{}", migrated.body);
    assert!(migrated.body["detail"].as_str().unwrap().contains("certificates to edges"), "{}", migrated.body);
    let changed = world.json("PATCH", "/api/v1/issuers/le", json!({"credential": "x"})).await;
    assert_eq!(changed.status, StatusCode::CONFLICT, "{}", changed.body);
    assert!(changed.body["detail"].as_str().unwrap().contains("--new-account-key"), "{}", changed.body);

    let removed = world.call("DELETE", "/api/v1/issuers/le", "", "").await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
    assert_eq!(world.get("/api/v1/issuers/le").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_no_acme_server_takes_is_refused_by_the_name_of_the_field() {
    let world = world().await;
    let long = "x".repeat(300);
    for (what, field, value) in [
        ("name", "name", json!("A")),
        ("directory", "directory", json!("http://acme.example/directory")),
        ("directory", "directory", json!("https://")),
        ("directory", "directory", json!("https://a b")),
        ("ca_file", "ca_file", json!("roots.pem")),
        ("contacts", "contacts", json!(["ops@example.com"])),
        ("contacts", "contacts", json!(["mailto:@"])),
        ("contacts", "contacts", json!(vec!["mailto:a@b"; 9])),
        ("agree_terms", "agree_terms", json!("")),
        ("external_key_id", "external_key_id", json!(long)),
        ("external_key_id", "external_key_id", Value::Null),
        ("external_key", "external_key", Value::Null),
        ("external_key", "external_key", json!("  ")),
        ("profile", "profile", json!(long)),
    ] {
        let body = wanted("le", |wanted| wanted[field] = value);
        let answer = world.json("POST", "/api/v1/issuers/acme", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {}", answer.body);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{what} is not valid")), "{what}: {detail}");
    }
    let reserved = world.json("POST", "/api/v1/issuers/acme", wanted("builtin", |_| {})).await;
    assert_eq!(reserved.status, StatusCode::CONFLICT);
    for mood_now in [Mood::Unfit("no directory".into()), Mood::Refusing("no directory".into())] {
        mood(&world, mood_now);
        let refused = world.json("POST", "/api/v1/issuers/acme", wanted("le", |_| {})).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
        assert_eq!(refused.body["detail"], "issuer le cannot work: no directory");
        assert_eq!(world.get("/api/v1/issuers/le").await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_became_of_a_request_is_found_out_and_not_asked_twice() {
    let world = world().await;
    mood(&world, Mood::Silent);
    let kept = world.json("POST", "/api/v1/issuers/acme", wanted("le", |_| {})).await;
    assert_eq!((kept.status, &kept.body["issuer"]["state"]), (StatusCode::OK, &json!("registering")));
    assert_eq!(kept.body["issuer"]["problem"], "no answer");
    let change = async || world.json("POST", "/api/v1/issuers/le/account-key", json!({})).await;
    assert_eq!(change().await.status, StatusCode::CONFLICT);
    let other = wanted("le", |wanted| wanted["profile"] = json!("other"));
    let other = world.json("POST", "/api/v1/issuers/acme", other).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.body);

    mood(&world, Mood::Willing);
    let again = world.json("POST", "/api/v1/issuers/acme", wanted("le", |_| {})).await;
    assert_eq!(again.body["issuer"]["state"], "ready", "{}", again.body);

    mood(&world, Mood::Silent);
    let unknown = change().await;
    assert_eq!(unknown.body["issuer"]["state"], "changing-key", "{}", unknown.body);
    mood(&world, Mood::Refusing("not this key".into()));
    assert_eq!(change().await.status, StatusCode::UNPROCESSABLE_ENTITY);
    mood(&world, Mood::Willing);
    assert_eq!(change().await.body["issuer"]["state"], "ready");
    for name in ["builtin", "none"] {
        let path = format!("/api/v1/issuers/{name}/account-key");
        let status = world.json("POST", &path, json!({})).await.status;
        let expected = if name == "none" { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
        assert_eq!(status, expected, "{name}");
    }
}

#[tokio::test]
async fn account_that_the_server_has_lost_is_registered_again_and_no_other_is() {
    let world = world().await;
    let again = async |name: &str, wanted: Value| {
        world.json("POST", &format!("/api/v1/issuers/{name}/register-again"), wanted).await
    };
    assert_eq!(again("le", json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(again("builtin", json!({})).await.status, StatusCode::CONFLICT);
    mood(&world, Mood::Silent);
    world.json("POST", "/api/v1/issuers/acme", wanted("le", |_| {})).await;
    let early = again("le", json!({})).await;
    assert!(early.body["detail"].as_str().unwrap().contains("being registered"), "{}", early.body);
    mood(&world, Mood::Willing);
    world.json("POST", "/api/v1/issuers/acme", wanted("le", |_| {})).await;

    let known = again("le", json!({})).await;
    assert_eq!(known.status, StatusCode::CONFLICT);
    assert!(known.body["detail"].as_str().unwrap().contains("nothing to register again"), "{}", known.body);
    let account = async || world.get("/api/v1/issuers/le").await.body["acme"]["account"].clone();
    let first = account().await;

    for (mood_now, told) in [
        (Mood::Unfit("other terms".into()), "other terms"),
        (Mood::Refusing("not today".into()), "not today"),
    ] {
        mood(&world, mood_now);
        let refused = again("le", json!({})).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
        assert!(refused.body["detail"].as_str().unwrap().contains(told), "{}", refused.body);
    }
    mood(&world, Mood::Forgetful);
    let wrong = again("le", json!({"external_key_id": "kid-2"})).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{}", wrong.body);
    let dry = again("le", json!({"dry_run": true})).await;
    assert!(dry.body["summary"].as_str().unwrap().starts_with("would register"), "{}", dry.body);
    assert_eq!(account().await, first);
    let made = again("le", json!({"agree_terms": "https://acme.example/terms/2"})).await;
    let summary = "registered the account of issuer le again: it is https://acme.example/directory/account/2, and edges \
                   order by it";
    assert_eq!(made.body["summary"], summary);
    assert_eq!(made.body["issuer"]["acme"]["agreed_terms"], "https://acme.example/terms/2");

    mood(&world, Mood::Silent);
    world.json("POST", "/api/v1/issuers/le/account-key", json!({})).await;
    let changing = again("le", json!({})).await;
    assert!(changing.body["detail"].as_str().unwrap().contains("another key"), "{}", changing.body);
}
