//! Issuing authorities that somebody else signs: what goes out, and what comes back refused.

use super::*;

#[tokio::test]
async fn a_request_goes_out_and_is_dropped() {
    let world = world().await;
    let answer = world.get("/api/v1/authorities/request").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let looked = world.json("POST", "/api/v1/authorities/request", json!({ "dry_run": true })).await;
    assert_eq!((looked.body["is_new"].clone(), looked.body.get("pem")), (json!(true), None));
    let made = world.json("POST", "/api/v1/authorities/request", json!({ "reason": "offline root" })).await;
    assert_eq!(made.status, StatusCode::OK, "{:#}", made.body);
    assert!(made.body["pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    let unknown = world.json("POST", "/api/v1/authorities/request", json!({ "new": true })).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    let dropped =
        world.send(Request::delete("/api/v1/authorities/request").body(Body::empty()).unwrap()).await;
    assert!(dropped.body["summary"].as_str().unwrap().starts_with("dropped the request"));
}

#[tokio::test]
async fn a_chain_that_breaks_rules_is_answered_by_the_whole_ladder_and_leaves_a_row() {
    let world = world().await;
    let check = async |chain: &str, rule: &str| {
        let body = json!({ "chain": chain, "reason": "drill" });
        let refused = world.json("POST", "/api/v1/authorities/install", body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.body["type"], "urn:credence:problem:invalid-chain");
        let rungs = refused.body["ladder"]["rungs"].as_array().unwrap();
        assert!(rungs.len() > 50, "every rule is in it");
        let failed: Vec<&Value> = rungs.iter().filter(|rung| rung["verdict"] == "fail").collect();
        assert!(failed.iter().any(|rung| rung["rule"] == rule), "{failed:#?}");
        assert!(failed.iter().all(|rung| !rung["fix"].as_str().unwrap().is_empty()));
    };
    check("garbage", "parse").await;
    check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "parse").await;
    let root = world.get("/api/v1/bundle").await.body;
    let Value::String(root) = root else { panic!("{root}") };
    check(&root, "key-match").await;
    let rows = world.get("/api/v1/audit?action=authority-install").await;
    let rows = rows.body["items"].as_array().unwrap().clone();
    assert!(rows.iter().all(|row| row["outcome"] == "refused"), "{rows:#?}");
    assert!(rows.iter().any(|row| row["reason"].as_str().unwrap().contains("key-match")), "{rows:#?}");
}
