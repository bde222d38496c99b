//! Secrets at rest, on the real program: keys are replaced while it serves, wrong keys change nothing, a reader that
//! knows only the written format agrees, and no value stands where it should not.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use certs::{KeyKind, SecretKey, Timestamp};
use fixtures::{TestAuthority, TestKey, TestKeyKind};
use http::Method;
use kit::{
    Enrolment, Needle, Node, SDS, SoftHsm, TestWorld, WorldOptions, eventually, generic_of, get, not_run,
    search, secret_of, workspace,
};
use proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use serde_json::{Value, json};

const JSON: &str = "application/json";

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let number =
            chunk.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..4)
            .map(|at| match at <= chunk.len() {
                true => char::from(DIGITS[(number >> (18 - 6 * at)) as usize & 63]),
                false => '=',
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// A secret over REST.
async fn set(world: &TestWorld, name: &str, grants: &[&str], value: &[u8]) -> Value {
    let grants: Vec<String> = grants.iter().map(|path| world.id(path)).collect();
    let body = json!({"namespace": "default", "name": name, "grants": grants, "value": base64(value)});
    world.rest().post("/api/v1/secrets", &body).await
}

/// The first answer with a resource: one that was written a moment ago may be absent at first.
async fn answered(world: &TestWorld, node: &Node, name: &str) -> DeltaDiscoveryResponse {
    let mut stream = world.xds(node).delta(&node.id, &node.namespace);
    stream.subscribe(SDS, &[name]).await;
    loop {
        let answer = stream.next().await.unwrap_or_else(|status| panic!("{name}: {status}"));
        if !answer.resources.is_empty() {
            return answer;
        }
    }
}

async fn served(world: &TestWorld, node: &Node, name: &str) -> Vec<u8> {
    generic_of(&answered(world, node, name).await)
}

/// Writes the section `secrets` of the world's configuration anew.
fn configure(world: &TestWorld, secrets: &str) {
    let path = world.sandbox().path("credence.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("secrets:\n").unwrap();
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    fs::write(&path, format!("{before}secrets:\n{secrets}  admin_dir: credence-admin\n\n{after}")).unwrap();
}

async fn all_on_new_keys(world: &TestWorld) {
    eventually("no record is under an old key", async || {
        let status = world.rest().get("/api/v1/kek").await;
        let keys = status["data_keys"].as_array().unwrap();
        let settled = status["rows_on_old_key"] == 0 && keys.iter().all(|key| key["state"] == "active");
        if settled { Ok(()) } else { Err(status) }
    })
    .await;
}

/// A Python with the package `cryptography`. Says so loudly when there is none, like [`kit::envoy`].
fn python() -> Option<PathBuf> {
    let path = workspace().join("target/python/bin/python");
    if path.exists() {
        return Some(path);
    }
    not_run("there is no target/python with cryptography (tests/run makes it)");
    None
}

/// The independent reader: its exit code, and what it says.
fn read(python: &Path, database: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = Command::new(python)
        .arg(workspace().join("tests/sealing/reader.py"))
        .arg("--database")
        .arg(database)
        .args(arguments)
        .output()
        .unwrap();
    let code = output.status.code().unwrap_or(-1);
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    assert!(code != 1 && code != 2, "{}", String::from_utf8_lossy(&output.stderr));
    (code, value)
}

/// Every file of the data directory by name.
fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let durable = paths.filter(|path| !path.to_str().unwrap().ends_with("-shm"));
    durable.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_while_secrets_are_served_and_a_killed_server_goes_on() {
    let mut world = TestWorld::boot("sealing", WorldOptions::default()).await;
    let alice = world.node("alice", &["alice"]).await;
    let bob = world.node("bob", &["bob"]).await;
    for number in 0..250 {
        set(&world, &format!("s{number}"), &["alice"], format!("value of secret {number}").as_bytes()).await;
    }
    assert_eq!(served(&world, &alice, "secret://default/s7").await, b"value of secret 7");

    // Over the network only names of slots pass; the server takes keys from where its own file says.
    let unknown = world.run(&["kek", "add-slot", "second"]).await;
    assert!(unknown.0 == 3 && unknown.2.contains("is not in secrets.slots"), "{unknown:?}");
    configure(&world, "  kek_file: credence.kek\n  slots:\n    - {name: second, kek_file: second.kek}\n");
    let planned = world.command(&["kek", "rotate", "slot", "primary", "--to", "second", "--dry-run"]).await;
    let steps = planned["steps"].as_array().unwrap();
    let left = steps[3].as_str().unwrap();
    assert!(steps.len() == 4 && left.starts_with("left to you: take primary out of secrets of "), "{left}");
    assert!(!world.sandbox().path("second.kek").exists(), "a dry run makes nothing");
    world.command(&["kek", "rotate", "slot", "primary", "--to", "second", "--yes"]).await;
    let mode = fs::metadata(world.sandbox().path("second.kek")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
    let last = world.run(&["kek", "remove-slot", "second", "--yes"]).await;
    assert!(last.0 == 3 && last.2.contains("is the last one"), "{last:?}");
    configure(&world, "  slots:\n    - {name: second, kek_file: second.kek}\n");
    world.command(&["kek", "rotate", "root", "--yes"]).await;
    assert_eq!(served(&world, &alice, "secret://default/s8").await, b"value of secret 8");

    // Killed in the middle of a rotation of every data key, again and again.
    let mut resumed = 0;
    for round in 0..3 {
        world.command(&["kek", "rotate", "data", "--yes"]).await;
        tokio::time::sleep(Duration::from_millis(20 * round)).await;
        world.kill().await;
        world.start().await;
        resumed += 1;
        all_on_new_keys(&world).await;
        assert_eq!(world.metric("credence_rows_on_old_key").await, 0.0);
        // After a restart the first answer has it: it never looks removed.
        let mut stream = world.xds(&alice).delta("alice", "default");
        stream.subscribe(SDS, &["secret://default/s9"]).await;
        assert_eq!(generic_of(&stream.next().await.unwrap()), b"value of secret 9");
    }
    assert_eq!(resumed, 3);
    let status = world.rest().get("/api/v1/status").await;
    assert_eq!(status["store"]["findings"], Value::Null, "{status}");
    assert!(status["store"]["anchor"].as_str().unwrap().starts_with("none"), "{status}");
    let rows = world.audit().await;
    for action in
        ["kek-slot-add", "kek-slot-remove", "root-key-rotate", "data-key-prepare", "data-key-destroy"]
    {
        assert!(rows.iter().any(|row| row["action"] == action), "{action}");
    }

    // Forbidden and absent look alike.
    let mut stream = world.xds(&bob).delta("bob", "default");
    stream.subscribe(SDS, &["secret://default/s1", "secret://default/none"]).await;
    let answer = stream.next_within(Duration::from_secs(5)).await;
    let nothing = answer.map_or(true, |answer| answer.resources.is_empty());
    assert!(nothing, "bob gets nothing");
    world.audit_says(&["secret-refuse", "secret://default/s1"]).await;
    world.finish().await;
}

/// Row F23: a key-encryption key that is missing, wrong or changed at the start.
#[tokio::test(flavor = "multi_thread")]
async fn missing_wrong_and_changed_keys_are_refused_with_a_clear_message_and_nothing_is_written() {
    let mut world = TestWorld::boot("kek", WorldOptions::default()).await;
    set(&world, "db", &["alice"], b"a value that is long enough").await;
    world.terminate().await;
    let (kek, data) = (world.sandbox().path("credence.kek"), world.sandbox().path("credence-data"));
    let good = fs::read(&kek).unwrap();
    let before = bytes_of(&data);
    let mut cases = 0;
    let mut check = async |content: Option<&[u8]>, mode: u32, words: &[&str]| {
        fs::remove_file(&kek).unwrap();
        if let Some(content) = content {
            fs::write(&kek, content).unwrap();
            fs::set_permissions(&kek, fs::Permissions::from_mode(mode)).unwrap();
        }
        let (code, out, errors) = world.run(&["serve", "--dev", "--config", "credence.yaml"]).await;
        assert_eq!(code, 1, "{out}{errors}");
        for word in words.iter().chain(&["credence: hint:"]) {
            assert!(errors.contains(word), "{word}: {errors}");
        }
        assert!(bytes_of(&data) == before, "something was written: {words:?}");
        let _ = fs::remove_file(&kek);
        fs::write(&kek, &good).unwrap();
        cases += 1;
    };
    check(None, 0, &["does not exist", "restore it from its backup"]).await;
    check(Some(&[7; 32]), 0o400, &["is not the key of slot primary (key-file)", "nothing was changed"]).await;
    let mut flipped = good.clone();
    flipped[31] ^= 1;
    check(Some(&flipped), 0o400, &["is not the key of slot primary (key-file)"]).await;
    check(Some(&good[..31]), 0o400, &["has 31 bytes"]).await;
    check(Some(&good), 0o440, &["has mode 0440", "chmod 0400"]).await;
    check(Some(b""), 0o400, &["has 0 bytes"]).await;
    assert_eq!(cases, 6);
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o400)).unwrap();
    world.start().await;
    assert_eq!(world.rest().get("/api/v1/secrets/default/db").await["version"], 1);
    world.finish().await;
}

/// The reader in `tests/sealing` was written from docs/reference/sealing.md; it shares no code with us.
#[tokio::test(flavor = "multi_thread")]
async fn independent_reader_opens_counts_and_refuses_as_the_written_format_says() {
    let Some(python) = python() else { return };
    let mut world = TestWorld::boot("reader", WorldOptions::default()).await;
    for number in 0..30 {
        set(&world, &format!("s{number}"), &["alice"], format!("known value {number}").as_bytes()).await;
    }
    let (kek, old) = (world.sandbox().path("credence.kek"), world.sandbox().path("old.kek"));
    fs::copy(&kek, &old).unwrap();
    let phrase = world.sandbox().path("phrase");
    fs::write(&phrase, "correct horse battery staple\n").unwrap();
    configure(
        &world,
        "  kek_file: credence.kek\n  slots:\n    - {name: second, kek_file: second.kek}\n    - {name: spoken, passphrase_file: phrase}\n",
    );
    world.command(&["kek", "add-slot", "spoken"]).await;
    world.command(&["kek", "rotate", "slot", "primary", "--to", "second", "--yes"]).await;
    configure(
        &world,
        "  slots:\n    - {name: second, kek_file: second.kek}\n    - {name: spoken, passphrase_file: phrase}\n",
    );
    world.command(&["kek", "rotate", "root", "--yes"]).await;
    world.command(&["kek", "rotate", "data", "--class", "tls", "--yes"]).await;
    all_on_new_keys(&world).await;
    let shown = world.rest().get("/api/v1/kek").await;
    world.terminate().await;

    let database = world.sandbox().path("credence-data/credence.db");
    let second = world.sandbox().path("second.kek");
    let (second, old, phrase) = (second.to_str().unwrap(), old.to_str().unwrap(), phrase.to_str().unwrap());
    let (code, found) = read(&python, &database, &["--kek", second, "--open", "tls/secret/default/s7"]);
    assert_eq!((code, &found["slot"]), (0, &json!("second")), "{found}");
    let plaintext = found["plaintext"].as_str().unwrap();
    let known: String = b"known value 7".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(plaintext.ends_with(&known), "{found}");
    assert_eq!(found["refused"], json!({}));
    assert_eq!(found["differs_from_audit"], json!([]));
    let keys = shown["data_keys"].as_array().unwrap();
    assert_eq!(found["data_keys"]["active"], keys.len(), "{found} {shown}");
    assert_eq!(found["rows_on_old_key"], shown["rows_on_old_key"]);
    let records: u64 = keys.iter().map(|key| key["records"].as_u64().unwrap()).sum();
    assert_eq!(found["opened"], records);
    // In the middle of a rotation: a record that does not open holds its old key, and both count it.
    world.start().await;
    meddle(
        &database,
        "UPDATE sealed SET record = CAST(substr(record, 1, 90) || x'0000' || substr(record, 93) AS BLOB)
          WHERE kind = 'secret' AND id = 'default/s3'",
    );
    world.command(&["kek", "rotate", "data", "--class", "tls", "--yes"]).await;
    let shown = eventually("one record is left under the old key", async || {
        let status = world.rest().get("/api/v1/kek").await;
        if status["rows_on_old_key"] == 1 { Ok(status) } else { Err(status) }
    })
    .await;
    world.kill().await;
    let (_, halfway) = read(&python, &database, &["--kek", second]);
    assert_eq!(halfway["rows_on_old_key"], shown["rows_on_old_key"], "{halfway}");
    let count = |state: &str| {
        let keys = shown["data_keys"].as_array().unwrap();
        keys.iter().filter(|key| key["state"] == state).count()
    };
    assert_eq!(halfway["data_keys"], json!({"active": count("active"), "retiring": count("retiring")}));
    assert_eq!(halfway["refused"], json!({"tls/secret/default/s3": "altered, or in another place"}));
    assert_eq!(halfway["differs_from_audit"], json!(["default/tls/secret/default/s3"]));
    let records = records - 1;
    let (code, spoken) = read(&python, &database, &["--passphrase-file", phrase]);
    assert_eq!((code, &spoken["slot"], &spoken["opened"]), (0, &json!("spoken"), &json!(records)));
    let (code, _) = read(&python, &database, &["--kek", old]);
    assert_eq!(code, 3, "the removed key opens nothing");
    world.finish().await;
}

/// Runs SQL on the database behind the server's back, and answers what the last statement selects.
fn meddle(database: &Path, sql: &str) -> String {
    let program = "import sqlite3, sys\n\
                   db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n\
                   for statement in sys.argv[2].split(';'): rows = db.execute(statement).fetchall()\n\
                   print(rows[0][0] if rows else '')";
    let output = Command::new("python3").args(["-c", program]).arg(database).arg(sql).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Row 2.6: an older record is put back while nobody looks.
#[tokio::test(flavor = "multi_thread")]
async fn older_record_stops_signing_and_not_serving_until_an_operator_accepts_the_store() {
    let mut world = TestWorld::boot("rollback", WorldOptions::default()).await;
    let alice = world.node("alice", &["alice"]).await;
    let token = world.enroll("late", &["late"]).await;
    set(&world, "whole", &["alice"], b"this one was not touched").await;
    set(&world, "back", &["alice"], b"the first value of it").await;
    let database = world.sandbox().path("credence-data/credence.db");
    let row = "WHERE kind = 'secret' AND id = 'default/back'";
    let first = meddle(&database, &format!("SELECT hex(record) FROM sealed {row}"));
    set(&world, "back", &["alice"], b"the second value of it").await;
    world.terminate().await;
    meddle(&database, &format!("UPDATE sealed SET version = 1, record = X'{first}' {row}"));

    // It comes up, and says why it is not ready.
    let sandbox = world.sandbox();
    let log = fs::File::create(sandbox.path("again.log")).unwrap();
    let mut server = tokio::process::Command::new(sandbox.program())
        .args(["serve", "--dev", "--config", "credence.yaml"])
        .current_dir(sandbox.path(""))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let probes = world.ports().probes;
    let body = eventually("the server is not ready, and tells strangers nothing more", async || {
        match get(probes, "/readyz").await {
            Ok((status, body)) if status == 503 => Ok(body),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(!body.contains("STORE_ROLLBACK"), "{body:?}");
    let status = eventually("management answers", async || {
        world.rest().call(Method::GET, "/api/v1/status", "", Bytes::new()).await.map(|answer| answer.json())
    })
    .await;
    let finding = status["store"]["findings"][0].as_str().unwrap_or_default().to_owned();
    assert!(finding.contains("secret default/back") && finding.contains("is back at version 1"), "{status}");
    assert!(world.metric("credence_store_rollback").await >= 1.0);
    world.audit_says(&["store-rollback", "default/back"]).await;

    // Serving goes on, of what is whole; signing does not.
    assert_eq!(served(&world, &alice, "secret://default/whole").await, b"this one was not touched");
    let key = SecretKey::generate(KeyKind::P256);
    let refused = Enrolment::join(world.ports().enrolment, &token, &key).await;
    assert!(refused.is_err(), "nothing is signed");

    let listed = world.rest().get("/api/v1/secrets").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "what was put back is not used: {listed}");
    let accepted = world.run(&["audit", "accept", "--reason", "we know", "--yes"]).await;
    assert_eq!(accepted.0, 0, "{accepted:?}");
    eventually("signing goes on", async || {
        Enrolment::join(world.ports().enrolment, &token, &key).await.map(drop)
    })
    .await;
    world.audit_says(&["store-accept", "we know"]).await;
    server.kill().await.unwrap();
    world.start().await;
    world.finish().await;
}

/// Row S3: forty values through every path, and none of them anywhere but sealed.
#[tokio::test(flavor = "multi_thread")]
async fn forty_canaries_are_found_nowhere() {
    let mut world = TestWorld::boot("canaries", WorldOptions::default()).await;
    let alice = world.node("alice", &["alice"]).await;
    let mut needles = Vec::new();
    let mut canary = |name: &str| {
        let value = format!("canary-{name}-{:032x}", rand::random::<u128>());
        needles.push(Needle::new(name.to_owned(), value.as_bytes()));
        value
    };
    // Ten by REST, ten by the command line, ten that replace others, and five that are refused.
    for number in 0..10 {
        let value = canary(&format!("rest {number}"));
        set(&world, &format!("r{number}"), &["alice"], value.as_bytes()).await;
    }
    let file = world.sandbox().path("handed-over");
    let identity = world.id("alice");
    for number in 0..10 {
        fs::write(&file, canary(&format!("command {number}"))).unwrap();
        let name = format!("c{number}");
        let line = ["secret", "set", &name, "--grant", &identity, "--value-file", "handed-over"];
        assert_eq!(world.run(&line).await.0, 0);
        fs::write(&file, canary(&format!("replacement {number}"))).unwrap();
        assert_eq!(world.run(&["secret", "rotate", &name, "--value-file", "handed-over"]).await.0, 0);
    }
    for (number, body) in [
        json!({"namespace": "default", "name": "NOT", "grants": [identity], "value": base64(canary("refused 0").as_bytes())}),
        json!({"namespace": "default", "name": "x", "grants": [], "value": base64(canary("refused 1").as_bytes())}),
        json!({"namespace": "default", "name": "x", "grants": ["spiffe://other/x"], "value": base64(canary("refused 2").as_bytes())}),
        json!({"namespace": "default", "name": "x", "grants": [identity], "value": canary("refused 3")}),
        json!({"namespace": "default", "name": "x", "grants": [identity], "key": canary("refused 4"), "certificate": "x"}),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = world.rest().call(Method::POST, "/api/v1/secrets", JSON, Bytes::from(body.to_string())).await;
        let answer = answer.unwrap();
        assert!(answer.status == 400 || answer.status == 403, "refused {number}: {}", answer.text);
        assert!(!answer.text.contains("canary"), "{}", answer.text);
    }
    // Five keys of certificates.
    let now = Timestamp::from_unix_secs(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed());
    let root = TestAuthority::root("imported", now);
    let issuing = root.issuing("imported", now);
    for number in 0..5 {
        let key = SecretKey::generate(KeyKind::P256);
        let pkcs8 = key.expose_secret().to_vec();
        let test_key = TestKey::from_pkcs8_der(TestKeyKind::P256, &pkcs8);
        let blueprint = issuing.leaf_blueprint("spiffe://imported/shop", &test_key, now);
        let pem_key = test_key.pkcs8_pem();
        let leaf = TestAuthority::from_blueprint(blueprint, test_key, Some(&issuing));
        let chain = certs::certificates_to_pem([leaf.der(), issuing.der()]);
        let body = json!({"namespace": "default", "name": format!("t{number}"), "grants": [identity],
                          "certificate": chain, "key": pem_key});
        world.rest().post("/api/v1/secrets", &body).await;
        needles.push(Needle::scalar(format!("key {number}"), &pkcs8));
        let answer = answered(&world, &alice, &format!("secret://default/t{number}")).await;
        let (served_chain, served_key) = secret_of(&answer);
        assert_eq!(String::from_utf8(served_chain).unwrap(), chain);
        assert_eq!(
            String::from_utf8(served_key).unwrap().replace('\r', "").trim(),
            pem_key.replace('\r', "").trim()
        );
    }
    assert_eq!(needles.len(), 40);
    for number in 0..10 {
        served(&world, &alice, &format!("secret://default/c{number}")).await;
    }
    world.command(&["kek", "rotate", "data", "--yes"]).await;
    all_on_new_keys(&world).await;
    fs::remove_file(&file).unwrap();

    let mut texts = vec![("metrics".to_owned(), world.metrics().await)];
    texts.push(("audit".to_owned(), Value::from(world.audit().await).to_string()));
    for path in [
        "secrets",
        "secrets/default/c1",
        "status",
        "stats",
        "kek",
        "proxies/alice",
        "proxies/alice/config",
        "certificates?limit=500",
    ] {
        texts.push((path.to_owned(), world.rest().get(&format!("/api/v1/{path}")).await.to_string()));
    }
    for line in [
        &["secret", "list"][..],
        &["secret", "show", "t1"],
        &["status"],
        &["kek", "status"],
        &["audit", "list", "--limit", "1000"],
    ] {
        let (_, out, errors) = world.run(line).await;
        texts.push((line.join(" "), out + &errors));
    }
    let texts: Vec<(&str, &[u8])> =
        texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    let folder = world.sandbox().path("");
    // The database, its log and index while it runs; logs; configuration. Then the database after a clean end.
    let found = search(&needles, &texts, &[&folder]);
    assert!(found.is_empty(), "{found:#?}");
    world.terminate().await;
    let found = search(&needles, &[], &[&folder]);
    assert!(found.is_empty(), "{found:#?}");
    // The search itself works.
    let planted = folder.join("planted");
    fs::write(&planted, needles.iter().flat_map(|needle| needle.octets.clone()).collect::<Vec<_>>()).unwrap();
    let found = search(&needles, &[], &[&folder]);
    assert!(needles.iter().all(|needle| found.iter().any(|one| one.needle == needle.name)));
    fs::remove_file(planted).unwrap();
    println!(
        "S3: {} canaries in {} texts and every file of the installation: 0 hits",
        needles.len(),
        texts.len()
    );
    world.start().await;
    world.finish().await;
}

/// The section `secrets` that names one key on a token, and nothing else.
fn on_token(module: &Path, token: &str, key: &str, pin: &Path) -> String {
    format!(
        "  slots:\n    - {{name: hsm, pkcs11: {{module: {module:?}, token: {token}, key: {key}, pin_file: {pin:?}}}}}\n"
    )
}

/// A store is made with that key alone, by a configuration that is there; a mistake in it leaves nothing behind.
fn is_made_on_token(world: &TestWorld, hsm: &SoftHsm) {
    let folder = world.sandbox().path("made");
    fs::create_dir_all(folder.join("credence-data")).unwrap();
    let path = folder.join("credence.yaml");
    let run = |arguments: &[&str]| {
        let output = Command::new(world.sandbox().program())
            .args(arguments)
            .envs(hsm.environment())
            .current_dir(&folder)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let made = || {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let write = |pin: &str| {
        let slot = on_token(hsm.module(), "credence", "kek-1", &hsm.path(pin));
        let text = format!("trust_domain: made.example\nca:\n  root_lifetime: 3650d\nsecrets:\n{slot}");
        fs::write(&path, &text).unwrap();
        text
    };
    write("wrong-pin");
    let before = made();
    let (code, out, errors) = run(&["init", "--from", "credence.yaml"]);
    assert!(code == 1 && errors.contains("token credence: login failed"), "{code} {out} {errors}");
    assert_eq!(made(), before, "something was left behind");
    assert_eq!(fs::read_dir(folder.join("credence-data")).unwrap().count(), 0);
    let text = write("pin");
    let (code, out, errors) = run(&["init"]);
    assert!(code == 2 && errors.contains("--trust-domain"), "{code} {out} {errors}");
    let (code, out, errors) = run(&["init", "--trust-domain", "made.example"]);
    assert!(code == 5 && errors.contains("credence init --from credence.yaml"), "{code} {out} {errors}");
    let (code, out, errors) = run(&["init", "--from", "credence.yaml"]);
    assert!(code == 0 && out.contains("slot hsm: key kek-1 on the token credence"), "{code} {out} {errors}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let expected = ["credence-admin", "credence-data", "credence.yaml"].map(String::from);
    assert_eq!(made(), BTreeSet::from(expected), "no key lies in a file");
    let (code, out, errors) = run(&["init", "--reissue-admin"]);
    assert!(code == 0 && out.contains("issued again"), "{code} {out} {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_on_a_token_alone_opens_the_store_and_its_likely_mistakes_leave_nothing_behind() {
    let Some(hsm) = SoftHsm::start() else { return };
    let pin = || format!("{:020}", rand::random::<u64>());
    let (right, wrong) = (pin(), pin());
    for (name, text) in [("pin", right.as_str()), ("wrong-pin", &wrong), ("empty-pin", "")] {
        fs::write(hsm.path(name), format!("{text}\n")).unwrap();
    }
    ["credence", "other"].iter().for_each(|label| hsm.make_token(label, &right));
    let mut world = TestWorld::boot_in("token", WorldOptions::default(), hsm.environment()).await;
    let alice = world.node("alice", &["alice"]).await;
    set(&world, "db", &["alice"], b"a value that is long enough").await;
    let on = |token: &str, key: &str| on_token(hsm.module(), token, key, &hsm.path("pin"));
    let good = on("credence", "kek-1");
    let module = |path: &str| on_token(Path::new(path), "credence", "kek-1", &hsm.path("pin"));
    let with_pin = |file: &str| on_token(hsm.module(), "credence", "kek-1", &hsm.path(file));
    let mistakes = [
        ("wrong PIN", with_pin("wrong-pin"), "token credence: login failed", "pin_file"),
        ("no PIN", with_pin("no-pin"), "cannot read the PIN", "put the PIN there"),
        ("empty PIN", with_pin("empty-pin"), "has 0 bytes", "as one line"),
        ("no such token", on("elsewhere", "kek-1"), "has no token elsewhere, it has ", "label"),
        ("no module", module("/nonexistent.so"), "loading the module failed", "module"),
        ("no such module", module("/etc/hostname"), "loading the module failed", "module"),
    ];

    is_made_on_token(&world, &hsm);

    // It is given a slot there; what does not work makes none.
    let beside = |slot: &str| format!("  kek_file: credence.kek\n{slot}");
    for (what, slot, words, _) in &mistakes {
        configure(&world, &beside(slot));
        let (code, out, errors) = world.run(&["kek", "add-slot", "hsm"]).await;
        assert!(code != 0 && errors.contains(words), "{what}: {code} {out} {errors}");
        let status = world.rest().get("/api/v1/kek").await;
        assert_eq!(status["slots"].as_array().unwrap().len(), 1, "{what}: {status}");
    }
    // A key of the same label on another token, which is made there and left.
    configure(&world, &beside(&on("other", "kek-1")));
    world.command(&["kek", "add-slot", "hsm"]).await;
    world.command(&["kek", "remove-slot", "hsm", "--yes"]).await;
    configure(&world, &beside(&good));
    world.command(&["kek", "add-slot", "hsm"]).await;
    world.command(&["kek", "rotate", "root", "--yes"]).await;
    configure(&world, &good);
    world.command(&["kek", "remove-slot", "primary", "--yes"]).await;
    fs::remove_file(world.sandbox().path("credence.kek")).unwrap();
    let slots = world.rest().get("/api/v1/kek").await["slots"].clone();
    let of = |name: &str| slots[0][name].as_str().unwrap().to_owned();
    assert_eq!((of("name"), of("kind"), of("state")), ("hsm".into(), "pkcs11".into(), "opens".into()));
    assert!(of("key_id").starts_with("kek-1#") && slots[1].is_null(), "{slots}");
    let mut said = Vec::new();
    // While it runs it needs no token, and says that there is none.
    hsm.plug(false);
    assert_eq!(served(&world, &alice, "secret://default/db").await, b"a value that is long enough");
    let status = world.rest().get("/api/v1/kek").await;
    assert_eq!(status["slots"][0]["state"], "fails", "{status}");
    hsm.plug(true);
    let process = world.sandbox().control_plane().unwrap();
    said.push(fs::read(format!("/proc/{process}/cmdline")).unwrap());
    world.terminate().await;

    // The start, by that slot alone.
    let data = world.sandbox().path("credence-data");
    let before = bytes_of(&data);
    let mut refused = async |what: &str, words: &str, hint: &str| {
        let serve = tokio::process::Command::new(world.sandbox().program())
            .args(["serve", "--dev", "--config", "credence.yaml"])
            .envs(hsm.environment())
            .current_dir(world.sandbox().path(""))
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(Duration::from_secs(60), serve).await.expect(what).unwrap();
        let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{what}: {errors}");
        let advice = errors.split("credence: hint:").nth(1).unwrap_or_else(|| panic!("{what}: {errors}"));
        assert!(errors.contains(words) && advice.contains(hint), "{what}: {errors}");
        assert!(bytes_of(&data) == before, "{what}: something was written");
        said.push([ended.stdout, ended.stderr].concat());
    };
    for (what, slot, words, hint) in &mistakes {
        configure(&world, slot);
        refused(what, words, hint).await;
    }
    configure(&world, &on("credence", "kek-2"));
    refused("no such key", "token credence has no AES key kek-2", "bring back the token").await;
    refused("none was made", "token credence has no AES key kek-2", "bring back the token").await;
    configure(&world, &on("other", "kek-1"));
    refused(
        "the key of another token",
        "kek-1 on token other is not the key of slot hsm",
        "nothing was changed",
    )
    .await;
    configure(&world, &good);
    hsm.plug(false);
    refused("the token is away", "has no token credence, it has none", "label of the token").await;
    hsm.plug(true);
    println!("token: {} starts refused", said.len() - 1);

    world.start().await;
    assert_eq!(served(&world, &alice, "secret://default/db").await, b"a value that is long enough");
    set(&world, "db", &["alice"], b"another value, as long as that").await;
    world.terminate().await;
    let needles = [Needle::new("PIN", right.as_bytes()), Needle::new("wrong PIN", wrong.as_bytes())];
    let texts: Vec<_> =
        said.iter().map(|text| ("arguments, or what a start said", text.as_slice())).collect();
    let found = search(&needles, &texts, &[&world.sandbox().path("")]);
    assert!(found.is_empty(), "{found:#?}");
    world.start().await;
    world.finish().await;
}
