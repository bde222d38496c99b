//! Authorities that somebody else signs: our own root goes offline and signs from there, an enterprise root takes over
//! through the gates, no request fails, and whatever does not parse, match or chain is refused with every rule, and
//! changes nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail the test, and say what was measured"
)]

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use certs::{Clock, Csr, Timestamp, certificates_to_pem};
use fixtures::{Blueprint, TestAuthority, TestKey, TestKeyKind, der};
use kit::{
    Config, Corp, Envoy, Load, LoadPlan, Pair, SystemClock, TestWorld, WorldOptions, envoy, kept_keys, within,
};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use serde_json::Value;

/// Envoy waits up to half a minute between two tries of its streams, and connections live a minute.
const LONG: Duration = Duration::from_secs(180);
const DAY: Duration = Duration::from_secs(86_400);

fn short_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(60);
    config.max_connection = Duration::from_secs(60);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enterprise_root_takes_over_and_no_request_fails_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        enterprise("own-ca-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enterprise_root_takes_over_and_no_request_fails_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        enterprise("own-ca-1.36.4", envoy).await;
    }
}

/// An RSA root with an authority on P-256 between it and ours.
async fn enterprise(name: &'static str, envoy: Envoy) {
    let options = WorldOptions { envoy: Some(envoy), adjust: short_lives };
    let mut world = TestWorld::boot(name, options).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let policy = Corp::root("Corp Root", &["rsa:3072"]).below("Corp Policy");

    let old = root(&world).await;
    let chain = sign_request(&world, &policy).await;
    let planned = world.command(&["ca", "install", &chain, "--dry-run"]).await;
    assert_eq!((&planned["is_new_root"], &planned["has_way_back"]), (&true.into(), &true.into()));
    let installed = world.command(&["ca", "install", &chain, "--yes"]).await;
    let (issuing, new) = (text(&installed, "authority"), text(&installed, "root"));
    assert_eq!(installed["between"], 1, "{installed:#}");
    assert_eq!(text(&installed["rotation"], "phase"), "prepared");
    // The process may end at any step.
    world.kill().await;
    world.start().await;
    assert_eq!(root(&world).await, old, "it signs nothing yet");
    step(&world, "activate").await;
    follow(&mut world, &issuing).await;
    world.kill().await;
    world.start().await;
    step(&world, "finish").await;
    world.read_operator();
    let shown = world.command(&["ca", "show"]).await;
    let shown = shown.as_array().unwrap();
    let roots: Vec<&Value> = shown.iter().filter(|one| one["place"] == "root").collect();
    assert!(roots.len() == 1 && text(roots[0], "id") == new, "{shown:#?}");
    assert!(roots[0]["offline_since"].is_string(), "{shown:#?}");

    // Credence keeps an issuing authority only: it says so, and what to do.
    for refused in [&["ca", "rotate", "intermediate"][..], &["ca", "rotate", "root", "prepare"]] {
        let (code, _, words) = world.run(&[refused, &["--yes"]].concat()).await;
        assert!(code == 3 && words.contains("credence ca csr"), "{refused:?}: {code} {words}");
    }
    let (code, _, words) = world.run(&["ca", "emergency", "--authority", &issuing, "--yes"]).await;
    assert!(code == 3 && words.contains("signed by another root"), "{code} {words}");

    // The next issuing authority comes from the same hand, and signs at once; the root need not be in the file.
    let again = sign_request(&world, &policy).await;
    let installed = world.command(&["ca", "install", &again, "--yes"]).await;
    assert_eq!(installed["is_new_root"], false, "{installed:#}");
    follow(&mut world, &text(&installed, "authority")).await;
    load.finish_unharmed(1_000).await;
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_goes_offline_and_signs_from_there_and_no_request_fails_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        offline("offline-root-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_goes_offline_and_signs_from_there_and_no_request_fails_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        offline("offline-root-1.36.4", envoy).await;
    }
}

async fn offline(name: &'static str, envoy: Envoy) {
    let adjust = |config: &mut Config| config.max_connection = Duration::from_secs(60);
    let mut world = TestWorld::boot(name, WorldOptions { envoy: Some(envoy), adjust }).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let old = root(&world).await;
    let path = |world: &TestWorld, name: &str| world.sandbox().path(name);
    std::fs::write(path(&world, "phrase"), "correct horse battery staple\n").unwrap();
    let export =
        ["ca", "root", "export", "--offline", "--out", "root.pem", "--passphrase-file", "phrase", "--yes"];
    let (code, _, words) = world.run(&export).await;
    assert!(code != 0 && words.contains("in use"), "a running server holds the store: {code} {words}");
    assert!(!path(&world, "root.pem").exists());

    // The proxies go on without us for the moment.
    world.terminate().await;
    let before = kept_keys(&path(&world, "credence-data")).await;
    assert!(before.contains(&old), "{before:?}");
    let exported = world.command(&export).await;
    assert_eq!((&exported["key_is_here"], &exported["root"]), (&false.into(), &old.clone().into()));
    let after = kept_keys(&path(&world, "credence-data")).await;
    assert!(!after.contains(&old) && after.len() + 1 == before.len(), "{after:?}");
    let mode = std::fs::metadata(path(&world, "root.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.start().await;
    world.command(&["status"]).await;
    world.read_operator();
    let (code, _, words) = world.run(&["ca", "rotate", "intermediate", "--yes"]).await;
    assert!(code == 3 && words.contains("credence ca csr"), "{code} {words}");
    let waits = world.command(&["ca", "status"]).await;
    assert_eq!(waits["by_hand"]["is_due"], false, "{waits:#}");

    // openssl signs the next issuing authority with the exported key.
    let vault = Corp::exported(&path(&world, "root.pem"), &path(&world, "phrase"));
    let chain = sign_request(&world, &vault).await;
    let installed = world.command(&["ca", "install", &chain, "--yes"]).await;
    assert_eq!((&installed["is_new_root"], &installed["root"]), (&false.into(), &old.clone().into()));
    follow(&mut world, &text(&installed, "authority")).await;
    world.kill().await;
    world.start().await;

    // An enterprise root takes over. Nobody here can vouch for it towards those that know the old one only.
    let corp = Corp::root("Corp Root", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let chain = sign_request(&world, &corp).await;
    let installed = world.command(&["ca", "install", &chain, "--yes"]).await;
    assert_eq!((&installed["is_new_root"], &installed["has_way_back"]), (&true.into(), &false.into()));
    step(&world, "activate").await;
    follow(&mut world, &text(&installed, "authority")).await;
    step(&world, "finish").await;
    world.read_operator();
    assert_eq!(root(&world).await, text(&installed, "root"));
    let report = load.finish_unharmed(1_000).await;
    println!("offline root: {} requests, {} failed", report.total, report.failed);
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    world.finish().await;
}

/// Writes the pending request to a file and has it signed; answers the file with the chain.
async fn sign_request(world: &TestWorld, corp: &Corp) -> String {
    let name = format!("request-{:08x}", rand::random::<u32>());
    let (request, chain) = (format!("{name}.pem"), format!("{name}-chain.pem"));
    world.command(&["ca", "csr", "--out", &request]).await;
    let signed = corp.sign(&world.sandbox().path(&request));
    std::fs::write(world.sandbox().path(&chain), signed).unwrap();
    chain
}

async fn root(world: &TestWorld) -> String {
    text(&world.rest().get("/api/v1/authorities/root/rotation").await, "root")
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value:#}")).to_owned()
}

async fn step(world: &TestWorld, step: &str) -> Value {
    within(LONG, &format!("{step} of the root goes through its gate"), async || {
        match world.run(&["ca", "rotate", "root", step, "--yes", "-o", "json"]).await {
            (0, out, _) => Ok(serde_json::from_str(&out).unwrap()),
            refused => Err(refused),
        }
    })
    .await
}

/// Waits until the newest leaf of each proxy is of `authority`.
async fn follow(world: &mut TestWorld, authority: &str) {
    world.command(&["status"]).await;
    world.read_operator();
    within(LONG, &format!("leaves follow authority {authority}"), async || {
        let listed = world.rest().get("/api/v1/certificates?class=workload&limit=500").await;
        let items = listed["items"].as_array().unwrap();
        let ours = |id: &str| items.iter().any(|one| one["id"] == id && one["authority"] == authority);
        if ours(&world.id("web")) && ours(&world.id("pay")) { Ok(()) } else { Err(listed) }
    })
    .await;
}

/// What a chain that is refused must leave as it was.
async fn everything(world: &TestWorld) -> String {
    let mut authorities = world.rest().get("/api/v1/authorities").await;
    for one in authorities["items"].as_array_mut().unwrap() {
        let one = one.as_object_mut().unwrap();
        one.remove("expires_in_secs");
        one.remove("live_leaves");
    }
    let request = world.rest().get("/api/v1/authorities/request").await;
    format!("{authorities:#}\n{request:#}")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_does_not_parse_match_or_chain_is_refused_with_every_rule_and_changes_nothing() {
    let world = TestWorld::boot("own-ca-refused", WorldOptions::default()).await;
    let now = SystemClock.now();
    world.command(&["ca", "csr", "--out", "first.pem"]).await;
    let earlier = request_key(&world.sandbox().path("first.pem"));
    world.command(&["ca", "csr", "--new", "--yes", "--out", "second.pem"]).await;
    let key = request_key(&world.sandbox().path("second.pem"));
    let again = world.command(&["ca", "csr"]).await;
    assert_eq!(again["is_new"], false, "asked again it is the same");
    assert_eq!(request_key_of(&text(&again, "pem")), key);

    let uri = format!("spiffe://{}", world.domain());
    let corp = corp(None, now);
    let sign = |spki: &[u8], change: &dyn Fn(Blueprint) -> Blueprint| {
        let any = TestKey::generate(TestKeyKind::P256);
        let made = corp.authority_blueprint("issuing", &any, Some(0), now).with_names(&[fixtures::uri(&uri)]);
        let made = Blueprint { spki: spki.to_vec(), ..made }.with_key_ids(Some(&corp.key().spki_der()));
        change(made).sign(corp.key())
    };
    let good = |change: &dyn Fn(Blueprint) -> Blueprint| sign(&key, change);
    let pem = |ders: &[&[u8]]| certificates_to_pem(ders.iter().copied());
    let with_root = |der: &[u8]| pem(&[der, corp.der()]);
    let stranger = TestKey::generate(TestKeyKind::P256).spki_der();
    let shallow = self::corp(Some(0), now);
    let below_shallow = {
        let any = TestKey::generate(TestKeyKind::P256);
        let made = shallow.authority_blueprint("issuing", &any, Some(0), now);
        let made = Blueprint { spki: key.clone(), ..made };
        made.with_key_ids(Some(&shallow.key().spki_der())).sign(shallow.key())
    };
    let expired = |made: Blueprint| Blueprint { not_before: now - 2 * DAY, not_after: now - DAY, ..made };
    let short = |made: Blueprint| Blueprint { not_after: now + 5 * DAY, ..made };
    let constraints = {
        let host = der::element(0x86, world.domain().as_bytes());
        der::sequence(&[&der::element(0xa0, &der::sequence(&[&host]))])
    };
    let constrained = |made: Blueprint| made.with(fixtures::oid::NAME_CONSTRAINTS, true, constraints.clone());
    let cases: Vec<(&str, String, &str)> = vec![
        ("garbage", "hello".to_owned(), "parse"),
        ("a block that is no certificate", pem(&[b"junk"]), "parse"),
        ("nothing but the root", pem(&[corp.der()]), "key-match"),
        ("another key", with_root(&sign(&stranger, &|made| made)), "key-match"),
        ("an earlier request", with_root(&sign(&earlier, &|made| made)), "key-match"),
        ("no root", pem(&[&good(&|made| made)]), "unknown-issuer"),
        (
            "another root of the same name",
            pem(&[&good(&|made| made), self::corp(None, now).der()]),
            "bad-signature",
        ),
        ("an expired one", with_root(&good(&expired)), "expired"),
        ("too short a life", with_root(&good(&short)), "life-left"),
        ("a path that is too long", pem(&[&below_shallow, shallow.der()]), "path-length"),
        (
            "no path length",
            with_root(&good(&|made| made.with_basic_constraints(true, None))),
            "issuing-constraints",
        ),
        ("no authority", with_root(&good(&|made| made.with_basic_constraints(false, None))), "not-authority"),
        (
            "no cRLSign",
            with_root(&good(&|made| made.with_key_usage(true, fixtures::KEY_CERT_SIGN))),
            "issuing-usage",
        ),
        (
            "another trust domain",
            with_root(&good(&|made| made.with_names(&[fixtures::uri("spiffe://x.test")]))),
            "authority-domain",
        ),
        ("constraints on URIs", with_root(&good(&constrained)), "authority-constraints"),
        ("one too many", pem(&[&good(&|made| made), corp.der(), shallow.der()]), "nothing-else"),
    ];
    let before = everything(&world).await;
    for (what, chain, rule) in &cases {
        std::fs::write(world.sandbox().path("chain.pem"), chain).unwrap();
        let (code, out, words) = world.run(&["ca", "install", "chain.pem", "--yes", "-o", "json"]).await;
        assert_eq!(code, 1, "{what}: {out} {words}");
        let ladder: Value = serde_json::from_str(&out).unwrap();
        let rungs = ladder["rungs"].as_array().unwrap();
        let failed = |rung: &&Value| rung["verdict"] == "fail";
        assert!(rungs.iter().filter(failed).any(|rung| rung["rule"] == *rule), "{what}: {ladder:#}");
        assert!(words.contains(rule), "{what}: {words}");
        let (code, out, _) = world.run(&["ca", "install", "chain.pem", "--yes"]).await;
        assert!(code == 1 && out.contains(&format!("✗ {rule}")), "{what}: {out}");
        assert_eq!(everything(&world).await, before, "{what} changed something");
    }
    world.audit_says(&["authority-install", "refused", "key-match"]).await;

    // The request stays, and what was good all along is taken.
    std::fs::write(world.sandbox().path("chain.pem"), with_root(&good(&|made| made))).unwrap();
    let installed = world.command(&["ca", "install", "chain.pem", "--yes"]).await;
    assert_eq!(text(&installed["rotation"], "phase"), "prepared");
    // Another one is refused with the step that is due, and taken back by the same steps.
    world.command(&["ca", "csr", "--out", "third.pem"]).await;
    let third = request_key(&world.sandbox().path("third.pem"));
    let other = self::corp(None, now);
    let made = other.authority_blueprint("issuing", &TestKey::generate(TestKeyKind::P256), Some(0), now);
    let made = Blueprint { spki: third, ..made }.with_key_ids(Some(&other.key().spki_der()));
    std::fs::write(world.sandbox().path("other.pem"), pem(&[&made.sign(other.key()), other.der()])).unwrap();
    let (code, _, words) = world.run(&["ca", "install", "other.pem", "--yes"]).await;
    assert!(code == 5 && words.contains("due is activate or rollback"), "{code} {words}");
    world.command(&["ca", "rotate", "root", "rollback", "--yes"]).await;
    world.command(&["ca", "install", "other.pem", "--yes"]).await;
    world.command(&["ca", "rotate", "root", "rollback", "--yes"]).await;
    let (code, _, words) = world.run(&["ca", "install", "other.pem", "--yes"]).await;
    assert!(code == 4 && words.contains("request"), "it was answered: {code} {words}");
    world.finish().await;
}

fn corp(path_length: Option<u8>, now: Timestamp) -> TestAuthority {
    let key = TestKey::generate(TestKeyKind::P384);
    let name = der::name("Example Corp", "Corp Root");
    let made = Blueprint::authority(&name, &key, &name, None, path_length, now);
    TestAuthority::from_blueprint(made, key, None)
}

/// The key of a request, as a SubjectPublicKeyInfo.
fn request_key(path: &PathBuf) -> Vec<u8> {
    request_key_of(&std::fs::read_to_string(path).unwrap())
}

fn request_key_of(pem: &str) -> Vec<u8> {
    let request = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    Csr::from_der(&request).unwrap().public_key().spki_der().to_vec()
}
