//! Bad input gets a problem that says what, where and what to do, and leaves everything as it was.

#![expect(clippy::panic, reason = "helpers of tests fail the test")]

use http::Method;
use kit::{Answer, Rest, TestWorld, WorldOptions, back, endpoints};
use serde_json::Value;

const YAML: &str = "application/yaml";
const JSON: &str = "application/json";

/// A document that is good on its own.
fn good() -> String {
    let listen = ([127, 0, 0, 1], 4_242).into();
    [back("shop", listen, &[]), endpoints("shop-upstream", "default", &[([127, 0, 0, 1], 4_243).into()])]
        .join("---\n")
}

/// Everything that bad input could have changed.
async fn state(world: &TestWorld) -> Value {
    let mut parts = Vec::new();
    for path in ["configs?text=true", "proxies", "tokens", "identities", "authorities"] {
        let mut part = world.rest().get(&format!("/api/v1/{path}")).await;
        forget_time(&mut part);
        parts.push(part);
    }
    parts.into()
}

/// Seconds until something pass by themselves.
fn forget_time(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_time),
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("in_secs") && name != "live_leaves");
            fields.values_mut().for_each(forget_time);
        }
        _ => {}
    }
}

async fn call(world: &TestWorld, method: Method, path: &str, kind: &str, body: &str) -> Answer {
    let answer = world.rest().call(method, &format!("/api/v1{path}"), kind, body.to_owned()).await;
    answer.unwrap_or_else(|outcome| panic!("{path}: {outcome:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_documents_are_refused_with_their_place_and_change_nothing() {
    let world = TestWorld::boot("bad-documents", WorldOptions::default()).await;
    world.enroll("alice", &["alice"]).await;
    world.rest().apply(&good()).await;
    let before = state(&world).await;
    let replace = |from: &str, to: &str| {
        let text = good().replacen(from, to, 1);
        assert_ne!(text, good(), "{from:?} does not stand in the document");
        text
    };
    // What is sent; the problem's word; the line; something that the error names.
    let cases: Vec<(String, &str, u64, &str)> = vec![
        ("a: [b\nc: d".to_owned(), "syntax", 0, ""),
        ("\t- x".to_owned(), "", 1, ""),
        ("apiVersion: v1\n".to_owned(), "", 1, "kind"),
        (replace("kind: ProxyConfig", "kind: Proxyconfig"), "", 2, "Proxyconfig"),
        (replace("apiVersion: v1", "apiVersion: v9"), "", 1, "v9"),
        (replace("  selector:", "  selektor:"), "", 5, "selektor"),
        (replace("port: 4242", "port: 70000"), "", 9, "70000"),
        (replace("port: 4242", "port: http"), "", 9, "http"),
        (replace("address: 127.0.0.1", "address: localhost:1"), "", 8, "localhost"),
        (replace("mode: strict", "mode: strickt"), "", 10, "strickt"),
        (replace("allow: []", "allow: [\"https://x\"]"), "", 10, "https://x"),
        (replace("routeConfig: shop", "routeConfig: shoq"), "", 14, "shoq"),
        (replace("cluster: shop-upstream", "cluster: nowhere"), "", 22, "nowhere"),
        (replace("type: EDS", "type: EDSS"), "", 25, "EDSS"),
        (replace("prefix: \"/\"", "prefix: \"/\", regex: \"(\""), "", 21, ""),
        (replace("domains: [\"*\"]", "domains: []"), "", 19, ""),
        (
            replace("- {address: 127.0.0.1, port: 4243}", "- {address: example.com, port: 4243}"),
            "",
            0,
            "example.com",
        ),
        (format!("{}---\n{}", good(), back("shop", ([127, 0, 0, 1], 4_244).into(), &[])), "", 0, "shop"),
        (replace("{name: shop}", "{name: shop, name: shop}"), "", 3, "name"),
    ];
    for (text, word, line, named) in cases {
        for path in ["/apply?file=bad.yaml", "/validate?file=bad.yaml"] {
            let answer = call(&world, Method::POST, path, YAML, &text).await;
            let problem = explained(&answer, &text);
            assert!(word.is_empty() || answer.problem() == word, "{}\n{text}", answer.text);
            let errors = problem["errors"].as_array().cloned().unwrap_or_default();
            assert!(!errors.is_empty(), "no error is listed: {}\n{text}", answer.text);
            let hit = errors.iter().find(|one| line == 0 || one["line"] == line);
            let hit = hit.unwrap_or_else(|| panic!("no error in line {line}: {}\n{text}", answer.text));
            assert_eq!(hit["file"], "bad.yaml", "{hit}");
            assert!(hit["column"].as_u64().is_some_and(|column| column > 0), "{hit}");
            for part in ["rule", "message", "fix"] {
                assert!(
                    hit[part].as_str().is_some_and(|text| !text.is_empty()),
                    "{part} is missing: {hit}\n{text}"
                );
            }
            assert!(hit.to_string().contains(named), "{named:?} is not named: {hit}");
        }
    }
    assert_eq!(state(&world).await, before, "refused documents changed something");
    world.finish().await;
}

/// A problem document with everything that it must have.
fn explained(answer: &Answer, what: &str) -> Value {
    assert!((400..500).contains(&answer.status), "{} {}\n{what}", answer.status, answer.text);
    assert!(
        !answer.problem().is_empty(),
        "no problem document: {} {}\n{what}",
        answer.content_type,
        answer.text
    );
    let problem = answer.json();
    for part in ["title", "detail", "hint", "request_id"] {
        assert!(problem[part].as_str().is_some_and(|text| !text.is_empty()), "{part} is missing: {problem}");
    }
    assert_eq!(problem["status"], answer.status, "{problem}");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_are_refused_by_name_and_change_nothing() {
    let world = TestWorld::boot("bad-calls", WorldOptions::default()).await;
    world.enroll("alice", &["alice"]).await;
    world.rest().apply(&good()).await;
    let before = state(&world).await;
    let configs = world.rest().get("/api/v1/configs?kind=ProxyConfig").await;
    let id = configs["items"][0]["id"].as_str().unwrap().to_owned();
    let huge = format!("# {}", "x".repeat(2 << 20));
    let nowhere = "00000000-0000-7000-8000-000000000000";
    let of = |path: &str| path.replace("ID", &id);
    let cases: &[(Method, String, &str, &str, u16)] = &[
        (Method::POST, "/apply".into(), "text/plain", "a: b", 415),
        (Method::POST, "/apply".into(), "", "a: b", 415),
        (Method::POST, "/apply".into(), YAML, &huge, 413),
        (Method::POST, "/validate".into(), YAML, &huge, 413),
        (Method::POST, "/apply?prunes=true".into(), YAML, "", 400),
        (Method::POST, "/apply?namespace=Not+A+Name".into(), YAML, "a: b", 400),
        (Method::POST, "/configs".into(), JSON, "{", 400),
        (Method::POST, "/configs".into(), "image/png", "{}", 415),
        (Method::GET, "/configs?limit=0".into(), "", "", 400),
        (Method::GET, "/configs?limit=100000".into(), "", "", 400),
        (Method::GET, "/configs?colour=red".into(), "", "", 400),
        (Method::GET, "/configs/not-a-uuid".into(), "", "", 400),
        (Method::GET, format!("/configs/{nowhere}"), "", "", 404),
        (Method::DELETE, format!("/configs/{nowhere}"), "", "", 404),
        (Method::POST, format!("/configs/{nowhere}/apply"), "", "", 404),
        (Method::PUT, of("/configs/ID"), YAML, "kind: nothing", 422),
        (Method::PUT, of("/configs/ID"), "text/html", "x", 415),
        (Method::PATCH, of("/configs/ID"), YAML, "x", 405),
        (Method::GET, "/nothing/here".into(), "", "", 404),
        (Method::GET, "/history?kind=ProxyConfig".into(), "", "", 400),
        (Method::GET, "/history?kind=ProxyConfig&name=nobody".into(), "", "", 404),
        (Method::POST, "/rollback".into(), JSON, r#"{"kind":"ProxyConfig","name":"shop","to":999}"#, 404),
        (Method::POST, "/rollback".into(), JSON, r#"{"kind":"ProxyConfig","name":"shop","too":1}"#, 400),
        (Method::POST, "/rollback".into(), JSON, "", 400),
        (Method::POST, "/proxies".into(), JSON, r#"{"node":"alice"}"#, 409),
        (Method::POST, "/proxies".into(), JSON, r#"{"node":"Not a name"}"#, 400),
        (Method::POST, "/proxies".into(), JSON, r#"{"node":"x","identities":["https://x"]}"#, 400),
        (
            Method::POST,
            "/proxies".into(),
            JSON,
            r#"{"node":"x","identities":["spiffe://elsewhere.test/x"]}"#,
            403,
        ),
        (Method::POST, "/proxies".into(), JSON, r#"{"node":"x","ttl_secs":999999999}"#, 400),
        (Method::POST, "/proxies".into(), JSON, r#"{"nodes":"x"}"#, 400),
        (Method::POST, "/proxies".into(), "text/plain", r#"{"node":"x"}"#, 415),
        (Method::GET, "/proxies/nobody".into(), "", "", 404),
        (Method::GET, "/proxies/nobody/status".into(), "", "", 404),
        (Method::GET, "/proxies/nobody/config".into(), "", "", 404),
        (Method::POST, "/proxies/nobody/reload".into(), "", "", 404),
        (Method::DELETE, "/proxies/nobody".into(), "", "", 404),
        (Method::DELETE, "/tokens/0000000000000000".into(), "", "", 404),
        (Method::POST, "/identities/block".into(), JSON, r#"{"id":"nothing"}"#, 400),
        (Method::POST, "/identities/block".into(), JSON, r#"{"identity":"x"}"#, 400),
        (Method::POST, "/authorities/rotate".into(), JSON, r#"{"what":"root"}"#, 400),
        (Method::GET, "/certificates?class=king".into(), "", "", 400),
        (Method::GET, "/certificates/zz".into(), "", "", 400),
        (Method::POST, "/certificates/probe".into(), JSON, r#"{"csr":"????"}"#, 400),
        (Method::GET, "/audit?since=yesterday".into(), "", "", 400),
        (Method::GET, "/services/nobody".into(), "", "", 404),
    ];
    for (method, path, kind, body, status) in cases {
        let answer = call(&world, method.clone(), path, kind, body).await;
        let shown = format!("{method} {path} {kind} {}", body.chars().take(80).collect::<String>());
        explained(&answer, &shown);
        // What is wrong with a parameter or a text is 400 or 422, as it is or is not readable.
        let fine = answer.status == *status || (*status == 400 && answer.status == 422);
        assert!(fine, "{shown}: {} instead of {status}: {}", answer.status, answer.text);
    }
    // A change against an old revision.
    let stale = Rest::new(world.ports().rest, None);
    let answer = stale.call(Method::GET, "/api/v1/configs", "", "").await.unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (401, "no-credential"));
    assert_eq!(state(&world).await, before, "refused calls changed something");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_commands_end_with_a_hint_and_the_exit_code_of_their_sort() {
    let world = TestWorld::boot("bad-commands", WorldOptions::default()).await;
    world.enroll("alice", &["alice"]).await;
    world.rest().apply(&good()).await;
    let before = state(&world).await;
    let write = |name: &str, text: &str| std::fs::write(world.sandbox().path(name), text).unwrap();
    write("bad.yaml", &good().replace("port: 4242", "port: 70000"));
    write("broken.yaml", "a: [b\n");
    write("dangling.yaml", &good().replace("cluster: shop-upstream", "cluster: nowhere"));
    write("credence-bad.yaml", "trust_domain: Prod.Example\nserver:\n  grpc: {portt: 1}\n");
    let pin = format!("sha256:{}", "00".repeat(32));
    // What is typed; the exit code; what standard error names.
    let cases: &[(&[&str], i32, &str)] = &[
        (&["frobnicate"], 2, "frobnicate"),
        (&["apply"], 2, "--file"),
        (&["apply", "-f", "nothing.yaml", "--yes"], 4, "nothing.yaml"),
        (&["apply", "-f", "bad.yaml", "--yes"], 1, "bad.yaml:9:"),
        (&["apply", "-f", "broken.yaml", "--yes"], 1, "broken.yaml:"),
        (&["apply", "-f", "dangling.yaml", "--yes"], 1, "dangling.yaml:22:"),
        (&["check", "bad.yaml"], 1, "bad.yaml:9:"),
        (&["check", "dangling.yaml"], 1, "dangling.yaml:22:"),
        (&["check", "credence-bad.yaml"], 1, "credence-bad.yaml:1:"),
        (&["diff", "-f", "bad.yaml"], 1, "bad.yaml:9:"),
        (&["get", "Nonsense"], 2, "Nonsense"),
        (&["get", "ProxyConfig", "nobody"], 4, "nobody"),
        (&["delete", "ProxyConfig", "nobody", "--yes"], 4, "nobody"),
        (&["delete", "Endpoints", "nobody", "--yes"], 4, "nobody"),
        (&["history", "ProxyConfig", "nobody"], 4, "nobody"),
        (&["rollback", "ProxyConfig", "shop", "--to", "999", "--yes"], 4, "999"),
        (&["rollback", "ProxyConfig", "shop", "--to", "x"], 2, "x"),
        (&["verify", "nobody"], 4, "nobody"),
        (&["proxy", "enroll", "Not a name"], 2, "node"),
        (&["proxy", "enroll", "alice"], 5, "alice"),
        (&["proxy", "enroll", "x", "--label", "no-value"], 2, "no-value"),
        (&["proxy", "enroll", "x", "--identity", "https://x"], 2, "identity"),
        (&["proxy", "enroll", "x", "--ttl", "soon"], 2, "soon"),
        (&["proxy", "show", "nobody"], 4, "nobody"),
        (&["proxy", "remove", "nobody", "--yes"], 4, "nobody"),
        (&["token", "revoke", "0000000000000000", "--yes"], 4, "0000000000000000"),
        (&["identity", "block", "nothing", "--yes"], 2, "identity"),
        (&["identity", "unblock", "nothing", "--yes"], 2, "identity"),
        (&["cert", "show", "zz"], 2, "serial"),
        (&["cert", "show", "00ff"], 4, "00ff"),
        (&["expose", "ftp://x", "--as", "a", "--on", "alice", "--listen", "1"], 2, "ftp"),
        (
            &["expose", "http://127.0.0.1:1", "--as", "a", "--on", "nobody", "--listen", "4999", "--yes"],
            4,
            "nobody",
        ),
        (&["status", "--server", "127.0.0.1:1"], 6, "127.0.0.1:1"),
        (&["status", "--admin-dir", "nowhere"], 1, "nowhere"),
        (&["init", "--trust-domain", "Prod.Example", "--config", "x.yaml"], 2, "Prod.Example"),
        (&["init", "--trust-domain", "prod.example"], 5, "credence.yaml"),
        (&["serve", "--config", "credence-bad.yaml"], 2, "credence-bad.yaml:1:"),
        (
            &["agent", "join", "nonsense", "--server", "127.0.0.1:1", "--pin", &pin, "--state-dir", "s1"],
            2,
            "token",
        ),
        (&["agent", "run", "--state-dir", "s2"], 1, "s2"),
    ];
    let mut wrong = Vec::new();
    for (arguments, expected, named) in cases {
        let (code, out, errors) = world.run(arguments).await;
        let hints = errors.contains("hint:") || *expected == 2 && errors.contains("--help");
        if code != *expected || !errors.contains(named) || !hints || errors.contains("panicked") {
            wrong.push(format!(
                "{arguments:?}: exit {code}, expected {expected} naming {named:?}\n{out}{errors}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(state(&world).await, before, "refused commands changed something");
    world.finish().await;
}
