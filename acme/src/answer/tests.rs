use serde_json::{Value, json};

use super::*;
use crate::Pace;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn directory() -> Url {
    url("https://acme.example/directory")
}

fn reply(status: u16, body: &Value) -> Reply {
    Reply { status, body: body.to_string().into_bytes(), ..Reply::default() }
}

fn problem(kind: &str) -> Value {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no" })
}

#[test]
fn a_status_and_its_body_mean_one_thing() {
    let check = |status: u16, body: &str, code: &str, pace: Pace, is_unknown: bool| {
        let reply = Reply { status, body: body.as_bytes().to_vec(), ..Reply::default() };
        let trouble = judge(reply, &directory()).unwrap_err();
        let found = (trouble.code(), trouble.pace(), trouble.is_outcome_unknown());
        assert_eq!(found, (code, pace, is_unknown), "{status} {body}: {trouble}");
    };
    check(400, &problem("badNonce").to_string(), "badNonce", Pace::Soon, false);
    check(403, &problem("unauthorized").to_string(), "unauthorized", Pace::Validation, false);
    check(429, &problem("rateLimited").to_string(), "rateLimited", Pace::Limit, false);
    check(503, &problem("rateLimited").to_string(), "rateLimited", Pace::Limit, true);
    check(500, &problem("serverInternal").to_string(), "serverInternal", Pace::Soon, true);
    check(429, "slow down", "rateLimited", Pace::Limit, false);
    check(429, "{\"type\":\"about:blank\"}", "rateLimited", Pace::Limit, false);
    check(501, "<html>", "unavailable", Pace::Soon, false);
    check(502, "<html>", "unavailable", Pace::Soon, true);
    check(503, "{\"type\":\"about:blank\"}", "unavailable", Pace::Soon, true);
    check(404, "<html><body>nothing here</body></html>", "not-acme", Pace::Operator, false);
    check(400, "{\"type\":\"about:blank\"}", "unknown", Pace::Operator, false);
    check(301, "", "redirected", Pace::Operator, false);
    assert!(judge(reply(201, &json!({})), &directory()).is_ok());
    let moved = Reply {
        status: 308,
        location: Some("https://other.example/secret?path".to_owned()),
        ..Reply::default()
    };
    let trouble = judge(moved, &directory()).unwrap_err();
    let expected =
        Trouble::Redirected { from: "https://acme.example".into(), to: "https://other.example".into() };
    assert_eq!(trouble, expected);
}

#[test]
fn retry_after_is_read_in_both_forms_and_nothing_else() {
    let at = |text: &str| Reply { retry_after: Some(text.to_owned()), ..Reply::default() }.retry_after();
    assert_eq!(at("120"), Some(RetryAfter::In(Duration::from_secs(120))));
    assert_eq!(at("99999999999999999999"), Some(RetryAfter::In(Duration::from_secs(u32::MAX.into()))));
    let date = RetryAfter::At(Timestamp::from_unix_secs(784_111_777));
    assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(date));
    for text in ["", "-1", "1.5", "+1", "soon", "Sun, 06 Nov 1994 08:49:37"] {
        assert_eq!(at(text), None, "{text}");
    }
}

#[test]
fn links_are_read_by_their_relation_in_one_header_or_several() {
    let reply = Reply {
        links: vec![
            "<https://acme.example/dir>;rel=\"index\"".to_owned(),
            "<https://acme.example/c/1>; rel=\"alternate\", <https://acme.example/c/2,3>;title=x; rel=alternate"
                .to_owned(),
            "<http://acme.example/c/4>;rel=\"alternate\"".to_owned(),
            "https://acme.example/c/5;rel=\"alternate\"".to_owned(),
        ],
        ..Reply::default()
    };
    let expected = ["https://acme.example/c/1", "https://acme.example/c/2,3"].map(url);
    assert_eq!(reply.links("alternate", &directory()), expected);
    assert_eq!(reply.links("next", &directory()), []);
    let many = Reply { links: vec!["<https://a.example/>;rel=alternate".to_owned(); 99], ..Reply::default() };
    assert_eq!(many.links("alternate", &directory()).len(), MAX_ALTERNATES);
}

#[test]
fn a_directory_is_read_with_what_it_offers_and_a_page_is_none() {
    let full = json!({
        "newNonce": "https://acme.example/nonce", "newAccount": "https://acme.example/account",
        "newOrder": "https://other.example/order", "keyChange": "https://acme.example/key",
        "renewalInfo": "https://acme.example/renewal", "revokeCert": "https://acme.example/revoke",
        "meta": { "termsOfService": "https://acme.example/terms", "externalAccountRequired": true,
                  "profiles": { "short": "six\ndays" }, "website": "https://acme.example" },
        "x": "https://community.example",
    });
    let read = Directory::read(&reply(200, &full), &directory()).unwrap();
    assert_eq!(read.new_order, url("https://other.example/order"));
    assert_eq!(read.terms.as_deref(), Some("https://acme.example/terms"));
    assert!(read.is_external_account_required && read.renewal_info.is_some());
    assert_eq!(read.profiles["short"], "six days");
    let mut least = json!({
        "newNonce": "https://acme.example/nonce", "newAccount": "https://acme.example/account",
        "newOrder": "https://acme.example/order",
    });
    let read = Directory::read(&reply(200, &least), &directory()).unwrap();
    assert_eq!((read.key_change, read.renewal_info, read.terms), (None, None, None));
    least["newOrder"] = "http://acme.example/order".into();
    let trouble = Directory::read(&reply(200, &least), &directory()).unwrap_err();
    assert_eq!(trouble.code(), "not-acme");
    for body in ["", "<html>", "[]", "{}", "{\"newNonce\":1}"] {
        let page = Reply { status: 200, body: body.as_bytes().to_vec(), ..Reply::default() };
        let trouble = Directory::read(&page, &directory()).unwrap_err();
        assert_eq!(trouble.code(), "not-acme", "{body}");
    }
}

fn order() -> Value {
    json!({
        "status": "pending", "expires": "2030-01-01T00:00:00Z", "finalize": "https://acme.example/f/1",
        "identifiers": [{ "type": "dns", "value": "A.example" }, { "type": "ip", "value": "192.0.2.7" }],
        "authorizations": ["https://acme.example/a/1", "https://acme.example/a/2"],
        "error": null, "profile": "short",
    })
}

#[test]
fn an_order_is_of_names_and_has_its_urls() {
    let read = OrderBody::read(&reply(200, &order()), &directory()).unwrap();
    assert_eq!(read.status, OrderStatus::Pending);
    assert_eq!(read.names, ["a.example", "192.0.2.7"].map(|name| Identifier::parse(name).unwrap()));
    assert_eq!((read.profile.as_deref(), read.replaces, read.problem), (Some("short"), None, None));
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut body = order();
        change(&mut body);
        assert!(OrderBody::read(&reply(200, &body), &directory()).is_err(), "{body}");
    };
    refused(&|body| body["status"] = "done".into());
    refused(&|body| body["finalize"] = "/f/1".into());
    refused(&|body| body["finalize"] = "http://127.0.0.1/f".into());
    refused(&|body| body["authorizations"] = json!(["https://u:p@acme.example/a"]));
    refused(&|body| body["authorizations"] = vec!["https://acme.example/a"; 101].into());
    refused(&|body| body["identifiers"] = json!([{ "type": "dns", "value": "192.0.2.7" }]));
    refused(&|body| body["identifiers"] = json!([{ "type": "email", "value": "a@b.example" }]));
    refused(&|body| body["error"] = json!("no problem"));
}

#[test]
fn a_challenge_that_could_lead_elsewhere_is_none() {
    let challenge = |kind: &str, token: &str| json!({ "type": kind, "url": "https://acme.example/c/1", "status": "pending", "token": token });
    let read = |challenges: Vec<Value>| {
        let body = json!({
            "identifier": { "type": "dns", "value": "a.example" }, "status": "pending", "wildcard": true,
            "challenges": challenges,
        });
        AuthorizationBody::read(&reply(200, &body), &directory())
    };
    let good = read(vec![challenge("dns-account-01", "?"), challenge("http-01", "abc-_1")]).unwrap();
    assert_eq!(good.challenges.len(), 1);
    assert_eq!(good.offered, ["dns-account-01", "http-01"]);
    assert!(read(vec![challenge("http-01", "../../secret")]).is_err());
    assert!(read(vec![challenge("http-01", "")]).is_err());
    assert!(read(vec![challenge("http-01", "abc"); MAX_CHALLENGES + 1]).is_err());
}

#[test]
fn a_window_begins_before_it_ends() {
    let read = |start: &str, end: &str| {
        let body = json!({ "suggestedWindow": { "start": start, "end": end }, "explanationURL": "https://x.example" });
        Window::read(&reply(200, &body))
    };
    let good = read("2027-01-02T04:00:00Z", "2027-01-03T04:00:00+00:00").unwrap();
    assert_eq!(good.end.since(good.start), Duration::from_secs(24 * 3600));
    assert_eq!(good.explanation.as_deref(), Some("https://x.example"));
    for (start, end) in [("2027-01-03T04:00:00Z", "2027-01-03T04:00:00Z"), ("x", "2027-01-03T04:00:00Z")] {
        assert!(read(start, end).is_err());
    }
}

#[test]
fn a_list_of_orders_has_pages_and_nonces_are_of_their_alphabet() {
    let page = Reply {
        links: vec!["<https://acme.example/orders?cursor=2>;rel=\"next\"".to_owned()],
        ..reply(200, &json!({ "orders": ["https://acme.example/o/1"] }))
    };
    let (orders, next) = read_orders(&page, &directory()).unwrap();
    assert_eq!((orders.len(), next), (1, Some(url("https://acme.example/orders?cursor=2"))));
    assert!(
        read_orders(&reply(200, &json!({ "orders": vec!["https://a.example"; 1001] })), &directory())
            .is_err()
    );
    let nonce =
        |text: &str| Reply { nonce: Some(text.to_owned()), ..Reply::default() }.nonce().map(str::to_owned);
    assert_eq!(nonce("oFvnlFP1wIhRlYS2jTaXbA").as_deref(), Some("oFvnlFP1wIhRlYS2jTaXbA"));
    for text in ["", "a b", "a\"b", "a=", &"a".repeat(513)] {
        assert_eq!(nonce(text), None, "{text}");
    }
}

#[test]
fn an_account_has_its_url_in_a_header_or_is_asked_at_it() {
    let body = json!({ "status": "valid", "orders": "https://acme.example/orders/1", "contact": [] });
    let made = Reply { location: Some("https://acme.example/acct/1".to_owned()), ..reply(201, &body) };
    let found = AccountFound::read(&made, &directory()).unwrap();
    assert_eq!((found.url.as_str(), found.is_valid), ("https://acme.example/acct/1", true));
    assert!(AccountFound::read(&reply(201, &body), &directory()).is_err(), "without a Location");
    let gone = json!({ "status": "deactivated" });
    let found =
        AccountFound::read_at(&reply(200, &gone), url("https://acme.example/acct/1"), &directory()).unwrap();
    assert_eq!((found.is_valid, found.orders), (false, None));
}
