//! A key slot in the Transit engine of a real Vault: it is added, opens the store at a start, follows its key, and is
//! waited for where Vault is away, without a restart; what cannot work is refused, and nothing of it is kept.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use certs::{Clock, certificates_to_pem};
use fixtures::{Blueprint, TestAuthority, TestKey, TestKeyKind};
use http::Method;
use kit::{SystemClock, TestWorld, Vault, WorldOptions, eventually, get, not_run, within, workspace};
use serde_json::{Value, json};

/// Between two tries there is half a minute at most, and a quarter more.
const LONG: Duration = Duration::from_secs(120);

/// A world, and a Vault with a key for it and a login that may use it and nothing else.
struct Stage {
    world: TestWorld,
    vault: Vault,
    role_id: String,
}

impl Stage {
    /// `None` where there is no Vault.
    async fn set(name: &'static str) -> Option<Self> {
        kit::vault_program()?;
        let world = TestWorld::boot(name, WorldOptions::default()).await;
        let vault = Vault::start().await?;
        vault.write("sys/mounts/transit", json!({ "type": "transit" })).await;
        vault.write("transit/keys/credence", json!({ "type": "aes256-gcm96" })).await;
        let (code, policy, words) =
            world.run(&["kek", "add-slot", "vault", "--print-policy", "--key", "credence"]).await;
        assert_eq!(code, 0, "{words}");
        vault.policy("slot", &policy).await;
        let (role_id, secret_id) = vault.approle("slot", &["slot"], json!({})).await;
        let stage = Self { world, vault, role_id };
        stage.file("secret-id", &secret_id);
        Some(stage)
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.world.sandbox().path(name), text).unwrap();
    }

    /// The entry of `secrets.slots`, with `changes` of its text.
    fn slot(&self, name: &str, changes: &[(&str, &str)]) -> String {
        let mut text = format!(
            "    - name: {name}\n      transit:\n        addresses: [\"{}\"]\n        ca_file: \"{}\"\n        key: credence\n        \
             approle: {{role_id: \"{}\", secret_id_file: secret-id}}\n",
            self.vault.addresses()[0],
            self.vault.ca_file().display(),
            self.role_id,
        );
        for (from, to) in changes {
            assert!(text.contains(from), "{from} is not in {text}");
            text = text.replace(from, to);
        }
        text
    }

    /// Writes the section `secrets` anew.
    fn configure(&self, secrets: &str) {
        let path = self.world.sandbox().path("credence.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("secrets:\n").unwrap();
        let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
        let text = format!("{before}secrets:\n{secrets}  admin_dir: credence-admin\n\n{after}");
        fs::write(path, text).unwrap();
    }

    /// With the key file of the start, and these slots.
    fn with_file(&self, slots: &str) {
        self.configure(&format!("  kek_file: credence.kek\n  slots:\n{slots}"));
    }

    /// With the slot in Vault and nothing else.
    fn vault_only(&self) {
        self.configure(&format!("  slots:\n{}", self.slot("vault", &[])));
    }

    async fn kek(&self) -> Value {
        self.world.command(&["kek", "status"]).await
    }

    async fn shown(&self, slot: &str) -> Value {
        let status = self.kek().await;
        let slots = status["slots"].as_array().unwrap();
        slots.iter().find(|one| one["name"] == slot).unwrap_or_else(|| panic!("{status:#}")).clone()
    }

    async fn slots(&self) -> Vec<String> {
        let status = self.world.rest().get("/api/v1/kek").await;
        let slots = status["slots"].as_array().unwrap();
        slots.iter().map(|slot| slot["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A command that is refused, with these words.
    async fn refused(&self, arguments: &[&str], words: &[&str]) {
        let (code, out, errors) = self.world.run(arguments).await;
        assert_eq!(code, 3, "{arguments:?}: {out} {errors}");
        for word in words {
            assert!(errors.contains(word), "{arguments:?} does not say {word:?}: {errors}");
        }
        assert!(!errors.contains(self.vault.root_token()), "a credential is shown: {errors}");
    }

    /// Vault and a recovery slot that is kept elsewhere: what a server is to have.
    async fn vault_and_recovery(&self) {
        let recovery = "    - {name: recovery, kek_file: recovery.kek}\n";
        self.with_file(&format!("{}{recovery}", self.slot("vault", &[])));
        self.world.command(&["kek", "add-slot", "vault"]).await;
        self.world.command(&["kek", "add-slot", "recovery"]).await;
        self.world.command(&["kek", "remove-slot", "primary", "--yes"]).await;
        self.vault_only();
    }

    /// How many tokens Vault knows.
    async fn tokens(&self) -> usize {
        let all = self.vault.call(Method::GET, "auth/token/accessors?list=true", &Value::Null).await;
        all["data"]["keys"].as_array().unwrap().len()
    }

    async fn is_ready(&self) -> Result<(), String> {
        match get(self.world.ports().probes, "/readyz").await {
            Ok((status, _)) if status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Waits until the server has looked at its slots and found so many, and so many of them failing.
    async fn looked(&self, slots: u32, failing: u32) {
        eventually("what is measured of the key slots", async || {
            let metric = async |name| self.world.metric(name).await;
            let found = (metric("credence_key_slots").await, metric("credence_key_slots_failing").await);
            if found == (slots.into(), failing.into()) { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Waits until the server's log says what it did not say before `work`.
    async fn logs(&self, words: &str, work: impl AsyncFnOnce()) {
        let count = || {
            let log = fs::read_to_string(self.world.sandbox().path("serve.log")).unwrap();
            log.matches(words).count()
        };
        let before = count();
        work().await;
        let told = async || if count() > before { Ok(()) } else { Err("not yet") };
        within(LONG, &format!("the log says {words:?}"), told).await;
    }

    /// Waits until the server says that it lives and waits for its key, in this word; answers its process.
    async fn waits(&self, word: &str) -> u32 {
        let probes = self.world.ports().probes;
        let body = within(LONG, &format!("the server waits for its key: {word}"), async || {
            match get(probes, "/readyz").await {
                Ok((status, body)) if status == 503 && body.contains(&format!("({word})")) => Ok(body),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert!(!body.contains("https://") && !body.contains("127.0.0.1"), "{body}");
        let live = get(probes, "/livez").await.unwrap();
        assert_eq!(live.0.as_u16(), 200);
        assert_eq!(
            (self.world.metric("credence_ready").await, self.world.metric("credence_store_sealed").await),
            (0.0, 1.0)
        );
        self.world.sandbox().control_plane().unwrap()
    }

    /// Waits until it is ready, in that process.
    async fn opens(&self, process: u32) {
        within(LONG, "the server is ready by itself", async || self.is_ready().await).await;
        assert_eq!(self.world.sandbox().control_plane(), Some(process), "no restart was needed");
        assert_eq!(self.world.metric("credence_ready").await, 1.0);
    }
}

/// Every file of the data directory by name.
fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let durable = paths.filter(|path| !path.to_str().unwrap().ends_with("-shm"));
    durable.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// A store is made with a slot in Vault; with nothing beside it only where somebody says that he wants that.
async fn is_made_in_vault(stage: &Stage) {
    let folder = stage.world.sandbox().path("made");
    fs::create_dir(&folder).unwrap();
    fs::copy(stage.world.sandbox().path("secret-id"), folder.join("secret-id")).unwrap();
    let run = |arguments: &[&str]| {
        let program = stage.world.sandbox().program();
        let output = Command::new(program).args(arguments).current_dir(&folder).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let write = |slots: &str| {
        let text = format!("trust_domain: made.example\nsecrets:\n  slots:\n{slots}");
        fs::write(folder.join("credence.yaml"), text).unwrap();
    };
    let tokens = stage.tokens().await;
    let from = ["init", "--from", "credence.yaml"];
    write(&stage.slot("vault", &[]));
    let (code, out, errors) = run(&from);
    assert!(code == 1 && errors.contains("--insecure-single-slot"), "{code} {out} {errors}");
    write(&stage.slot("vault", &[("key: credence", "key: nobody")]));
    let (code, out, errors) = run(&[&from[..], &["--insecure-single-slot"]].concat());
    assert!(code == 1 && errors.contains("nobody"), "{code} {out} {errors}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "something was left behind");
    write(&stage.slot("vault", &[]));
    let (code, out, errors) = run(&[&from[..], &["--recovery-kek-file", "recovery.kek"]].concat());
    assert!(code == 0 && out.contains("slot vault: key credence of Vault's"), "{code} {out} {errors}");
    // By Vault, and without it by the key that is kept elsewhere.
    fs::rename(folder.join("recovery.kek"), folder.join("safe.kek")).unwrap();
    let (code, out, errors) = run(&["init", "--reissue-admin"]);
    assert!(code == 0 && out.contains("issued again"), "{code} {out} {errors}");
    write("    - {name: recovery, kek_file: safe.kek}\n");
    let (code, out, errors) = run(&["init", "--reissue-admin"]);
    assert!(code == 0 && out.contains("issued again"), "{code} {out} {errors}");
    assert_eq!(stage.tokens().await, tokens, "every token was given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_in_vault_follows_its_key_opens_the_next_start_and_vault_gone_costs_nothing() {
    let Some(mut stage) = Stage::set("kek-transit").await else { return };
    is_made_in_vault(&stage).await;
    stage.refused(&["kek", "add-slot", "vault"], &["is not in secrets.slots"]).await;
    stage.with_file(&stage.slot("vault", &[]));
    let tokens = stage.tokens().await;
    stage.world.command(&["kek", "add-slot", "vault"]).await;
    let slot = stage.shown("vault").await;
    assert_eq!(
        (&slot["kind"], &slot["state"], &slot["key_id"]),
        (&json!("transit"), &json!("opens"), &json!("transit/credence"))
    );
    assert_eq!(
        (&slot["version"], &slot["latest_version"], &slot["minimum_version"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let (_, text, _) = stage.world.run(&["kek", "status"]).await;
    assert!(text.contains("1 (latest 1, oldest 1)"), "{text}");
    assert_eq!(stage.tokens().await, tokens, "every token was given back");
    let added = stage.world.audit_says(&["kek-slot-add", "vault", "transit/credence"]).await;
    assert_eq!(added["outcome"], "done");

    // Vault rotates the key: the slot is stale, opens all the same, and is wrapped anew by its name.
    stage.vault.write("transit/keys/credence/rotate", json!({})).await;
    let status = stage.kek().await;
    let told = status["warnings"].to_string();
    assert!(told.contains("credence kek rotate slot vault"), "{told}");
    let slot = stage.shown("vault").await;
    assert_eq!(
        (&slot["state"], &slot["stale"], &slot["version"], &slot["latest_version"]),
        (&json!("opens"), &json!(true), &json!(1), &json!(2))
    );
    let planned = stage.world.command(&["kek", "rotate", "slot", "vault", "--dry-run"]).await;
    assert_eq!(planned["steps"].as_array().unwrap().len(), 3);
    assert_eq!(stage.shown("vault").await["version"], 1, "a dry run does nothing");
    stage.world.command(&["kek", "rotate", "slot", "vault", "--yes"]).await;
    let slot = stage.shown("vault").await;
    assert_eq!((&slot["version"], &slot["stale"]), (&json!(2), &Value::Null));
    stage
        .refused(&["kek", "rotate", "slot", "primary", "--yes"], &["whose key has no versions", "--to NAME"])
        .await;

    // A version that decrypts no more is said before any start, and mended while the root key is in memory.
    stage.vault.write("transit/keys/credence/rotate", json!({})).await;
    stage.vault.write("transit/keys/credence/config", json!({ "min_decryption_version": 3 })).await;
    let slot = stage.shown("vault").await;
    let problem = slot["problem"].to_string();
    assert_eq!(slot["state"], "fails");
    assert!(
        problem.contains("version 2 of the key made this slot")
            && problem.contains("the oldest that does is 3"),
        "{problem}"
    );
    assert!(problem.contains("min_decryption_version=2"), "{problem}");
    // So does what looks by itself, although this slot is younger than the process; and the key file may go.
    let path = |name| stage.world.sandbox().path(name);
    stage.vault_only();
    fs::rename(path("credence.kek"), path("aside.kek")).unwrap();
    stage.world.command(&["kek", "rotate", "data", "--yes"]).await;
    stage.looked(2, 1).await;
    // While it cannot be read, what it named before holds.
    let text = fs::read_to_string(path("credence.yaml")).unwrap();
    fs::write(path("credence.yaml"), text.replace("  slots:", "  slotz:")).unwrap();
    stage
        .logs("what the configuration named before is kept", async || {
            stage.world.command(&["kek", "rotate", "data", "--yes"]).await;
        })
        .await;
    stage.looked(2, 1).await;
    fs::write(path("credence.yaml"), text).unwrap();
    stage.world.command(&["kek", "rotate", "slot", "vault", "--yes"]).await;
    stage.looked(2, 0).await;
    fs::rename(path("aside.kek"), path("credence.kek")).unwrap();
    stage.with_file(&stage.slot("vault", &[]));
    let slot = stage.shown("vault").await;
    assert_eq!(
        (&slot["state"], &slot["version"], &slot["minimum_version"]),
        (&json!("opens"), &json!(3), &json!(3))
    );

    // Vault alone needs somebody's word; with a slot that is kept elsewhere it needs none.
    let loses = "whoever loses that Vault loses everything";
    stage.refused(&["kek", "remove-slot", "primary", "--yes"], &[loses, "--insecure-single-slot"]).await;
    stage
        .refused(
            &["kek", "rotate", "slot", "primary", "--to", "second", "--yes"],
            &["is not in secrets.slots"],
        )
        .await;
    stage.with_file(&format!("{}{}", stage.slot("vault", &[]), stage.slot("second", &[])));
    stage.refused(&["kek", "rotate", "slot", "primary", "--to", "second", "--yes"], &[loses]).await;
    stage.refused(&["kek", "rotate", "root", "--leave-behind", "primary", "--yes"], &[loses]).await;
    assert_eq!(stage.slots().await, ["primary", "vault"], "nothing of that was done");
    stage.vault_and_recovery_from_there().await;
    stage
        .world
        .command(&["kek", "rotate", "root", "--leave-behind", "recovery", "--insecure-single-slot", "--yes"])
        .await;
    let warnings = stage.kek().await["warnings"].to_string();
    assert!(warnings.contains("only Vault opens the store"), "{warnings}");
    stage
        .refused(&["kek", "remove-slot", "vault", "--insecure-single-slot", "--yes"], &["is the last one"])
        .await;

    // Vault is gone: everything goes on, new certificates too.
    stage.vault.kill(0).await;
    let node = stage.world.node("alice", &["alice"]).await;
    stage.world.workload(&node, "default").await;
    stage.world.command(&["kek", "rotate", "data", "--yes"]).await;
    stage.is_ready().await.unwrap();
    let slot = stage.shown("vault").await;
    assert!(slot["state"] == "fails" && slot["problem"].to_string().contains("cannot reach"), "{slot}");
    stage
        .refused(&["kek", "rotate", "slot", "vault", "--yes"], &["cannot reach", "is Vault running there"])
        .await;
    assert_eq!(stage.shown("vault").await["version"], 3);
    stage.vault.restart(0).await;

    // The next start opens by Vault and nothing else.
    stage.world.terminate().await;
    stage.world.start().await;
    assert_eq!(stage.shown("vault").await["state"], "opens");
    assert_eq!(stage.slots().await, ["vault"]);
    stage.world.finish().await;
}

impl Stage {
    /// As [`Stage::vault_and_recovery`], where the slot in Vault is there.
    async fn vault_and_recovery_from_there(&self) {
        let recovery = "    - {name: recovery, kek_file: recovery.kek}\n";
        self.with_file(&format!("{}{recovery}", self.slot("vault", &[])));
        self.world.command(&["kek", "add-slot", "recovery"]).await;
        self.world.command(&["kek", "remove-slot", "primary", "--yes"]).await;
        self.refused(&["kek", "remove-slot", "recovery", "--yes"], &["--insecure-single-slot"]).await;
        self.vault_only();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_a_vault_that_is_away_at_its_start_and_opens_by_itself_or_by_another_slot() {
    let Some(mut stage) = Stage::set("kek-transit-waits").await else { return };
    stage.vault_and_recovery().await;
    stage.world.terminate().await;
    let data = stage.world.sandbox().path("credence-data");
    let before = bytes_of(&data);

    // Sealed: alive, not ready, and nothing is written.
    stage.vault.seal().await;
    stage.world.launch(&[]);
    let process = stage.waits("sealed").await;
    let (_, found, _) = stage.world.run(&["doctor"]).await;
    assert!(found.contains("the store waits for its key (sealed)"), "{found}");
    assert!(bytes_of(&data) == before, "something was written");
    stage.vault.unseal().await;
    stage.opens(process).await;
    let node = stage.world.node("alice", &["alice"]).await;
    stage.world.workload(&node, "default").await;
    stage.world.terminate().await;

    // Issuers that the store does not hold are not overlooked because it was opened late.
    let path = stage.world.sandbox().path("credence.yaml");
    let plain = fs::read_to_string(&path).unwrap();
    let acme = "{directory: \"https://acme.example/d\", ca_file: /ca.pem}";
    fs::write(&path, format!("{plain}\nissuers: [{{name: le, acme: {acme}}}]\n")).unwrap();
    stage.vault.seal().await;
    stage.world.launch(&[]);
    stage.waits("sealed").await;
    stage.vault.unseal().await;
    let ended = within(LONG, "it ends", async || stage.world.sandbox_mut().ended().ok_or(())).await;
    assert!(ended.contains("exit status: 2") && ended.contains("issuer le is not in the store"), "{ended}");
    assert!(ended.contains("credence issuer add acme le --directory https://acme.example/d"), "{ended}");
    fs::write(&path, plain).unwrap();

    // Nobody there: it ends when it is told to, and opens by the recovery slot once that is named.
    stage.vault.kill(0).await;
    stage.world.launch(&[]);
    stage.waits("unreachable").await;
    // Nor does a pipe keep it, at whose other end somebody stays and writes nothing.
    let pipe = stage.world.sandbox().path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let piped = "    - {name: piped, passphrase_file: pipe}\n";
    stage
        .logs("is no regular file", async || {
            stage.configure(&format!("  slots:\n{}{piped}", stage.slot("vault", &[])));
        })
        .await;
    stage.waits("unreachable").await;
    stage.world.terminate().await;
    drop(writer);
    stage.vault_only();
    stage.world.launch(&[]);
    let process = stage.waits("unreachable").await;
    // What is mistyped meanwhile ends nothing.
    stage.configure("  slots:\n    - {name: recovery, kek_file: nowhere.kek}\n");
    stage.waits("no key opens it").await;
    let kept = "what the configuration named before is kept";
    let mistyped = "  slots:\n    - {name: recovery, kek_fil: recovery.kek}\n";
    stage.logs(kept, async || stage.configure(mistyped)).await;
    stage.waits("no key opens it").await;
    let recovery = "    - {name: recovery, kek_file: recovery.kek}\n";
    stage.configure(&format!("  slots:\n{}{recovery}", stage.slot("vault", &[])));
    stage.opens(process).await;
    assert_eq!(stage.shown("recovery").await["state"], "opens");
    stage.world.terminate().await;
    stage.vault_only();
    stage.vault.restart(0).await;

    // A login that is refused is not tried again and again, but at once when its file is another.
    let secret = fs::read_to_string(stage.world.sandbox().path("secret-id")).unwrap();
    stage.file("secret-id", "f3b7c2a1-0000-0000-0000-000000000000");
    stage.world.launch(&[]);
    let process = stage.waits("not-logged-in").await;
    stage.file("secret-id", &secret);
    stage.opens(process).await;
    stage.world.terminate().await;

    // Too old a version, a key that is gone for now, and no file: each is waited for.
    stage.vault.write("transit/keys/credence/rotate", json!({})).await;
    stage.vault.write("transit/keys/credence/config", json!({ "min_decryption_version": 2 })).await;
    stage.world.launch(&[]);
    let process = stage.waits("too-old").await;
    let log = stage.world.sandbox().tail("serve");
    assert!(
        log.contains("version 1 of the key made this slot") && log.contains("min_decryption_version=1"),
        "{log}"
    );
    stage.vault.write("transit/keys/credence/config", json!({ "min_decryption_version": 1 })).await;
    stage.opens(process).await;
    stage.world.command(&["kek", "rotate", "slot", "vault", "--yes"]).await;
    stage.world.terminate().await;
    fs::remove_file(stage.world.sandbox().path("secret-id")).unwrap();
    stage.world.launch(&[]);
    let process = stage.waits("file").await;
    stage.file("secret-id", &secret);
    stage.opens(process).await;

    // A token that may do more opens the store all the same, and it is said.
    stage.vault.policy("wide", "path \"secret/*\" { capabilities = [\"read\"] }").await;
    stage.vault.write("auth/approle/role/slot", json!({ "token_policies": ["slot", "wide"] })).await;
    stage.world.terminate().await;
    stage.world.start().await;
    let status = stage.kek().await;
    assert!(status["warnings"].to_string().contains("secret/*"), "{status:#}");
    assert_eq!(stage.shown("vault").await["state"], "opens");
    stage
        .refused(&["kek", "rotate", "slot", "vault", "--yes"], &["may do more than it should", "secret/*"])
        .await;
    stage.world.finish().await;
}

/// What is wrong, what of the slot's text is another, and what is said.
type Case<'a> = (&'a str, Vec<(&'a str, String)>, &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_what_to_do_and_nothing_is_kept() {
    let Some(mut stage) = Stage::set("kek-transit-refused").await else { return };
    let vault = &stage.vault;
    for (key, settings) in [
        ("rsa", json!({ "type": "rsa-4096" })),
        ("out", json!({ "type": "aes256-gcm96", "exportable": true })),
        ("derived", json!({ "type": "aes256-gcm96", "derived": true })),
    ] {
        vault.write(&format!("transit/keys/{key}"), settings).await;
        let (_, policy, _) =
            stage.world.run(&["kek", "add-slot", "vault", "--print-policy", "--key", key]).await;
        vault.policy(key, &policy).await;
        stage.file(&format!("{key}-token"), &vault.token(&[key], Value::Null).await);
    }
    let (_, policy, _) =
        stage.world.run(&["kek", "add-slot", "vault", "--print-policy", "--key", "absent"]).await;
    vault.policy("absent", &policy).await;
    stage.file("absent-token", &vault.token(&["absent"], Value::Null).await);
    assert_eq!(policy.matches("path ").count(), 3, "{policy}");
    vault.policy("half", "path \"transit/encrypt/credence\" { capabilities = [\"update\"] }\npath \"transit/keys/credence\" { capabilities = [\"read\"] }").await;
    stage.file("half-token", &vault.token(&["half"], Value::Null).await);
    stage.file("root-token", vault.root_token());
    stage.file("spoiled", "two words");
    let other = TestAuthority::root("other", SystemClock.now());
    stage.file("other.pem", &certificates_to_pem([other.der()]));
    let closed = format!("https://{}", TestWorld::free_port());
    let (address, ca_file) = (vault.addresses()[0].clone(), vault.ca_file().display().to_string());
    let login = format!("approle: {{role_id: \"{}\", secret_id_file: secret-id}}", stage.role_id);
    let by = |file: &str| format!("token_file: {file}");
    let cases: Vec<Case<'_>> = vec![
        ("nobody there", vec![(&address, closed)], &["cannot reach", "is Vault running there"]),
        ("nobody vouches for it", vec![(&ca_file, "other.pem".into())], &["is not believed"]),
        (
            "no file",
            vec![("secret_id_file: secret-id", "secret_id_file: nowhere".into())],
            &["secret id cannot be read", "nowhere"],
        ),
        (
            "no secret id in it",
            vec![("secret_id_file: secret-id", "secret_id_file: spoiled".into())],
            &["spoiled"],
        ),
        (
            "a wrong role id",
            vec![(&stage.role_id, "f3b7c2a1".into())],
            &["refuses the credentials", "invalid role or secret ID"],
        ),
        (
            "no such key",
            vec![(&login, by("absent-token")), ("key: credence", "key: absent".into())],
            &["there is no key by that name", "vault write -f transit/keys/absent"],
        ),
        (
            "no such mount",
            vec![("key: credence", "key: credence\n        mount: nowhere".into())],
            &["may do more than it should", "transit/encrypt/credence"],
        ),
        (
            "a key of RSA",
            vec![(&login, by("rsa-token")), ("key: credence", "key: rsa".into())],
            &["rsa-4096", "aes256-gcm96"],
        ),
        (
            "a key that may leave",
            vec![(&login, by("out-token")), ("key: credence", "key: out".into())],
            &["can be exported"],
        ),
        (
            "a derived key",
            vec![(&login, by("derived-token")), ("key: credence", "key: derived".into())],
            &["derived"],
        ),
        (
            "a token that may do everything",
            vec![(&login, by("root-token"))],
            &["may do more than it should", "--print-policy --mount transit --key credence"],
        ),
        (
            "a token that may not decrypt",
            vec![(&login, by("half-token"))],
            &["may not use transit/decrypt/credence", "--print-policy"],
        ),
    ];
    let rows = stage.world.audit().await.len();
    for (what, changes, words) in &cases {
        let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
        stage.with_file(&stage.slot("vault", &changes));
        println!("{what}");
        stage.refused(&["kek", "add-slot", "vault"], words).await;
        assert_eq!(stage.slots().await, ["primary"], "{what} was kept");
    }
    let added = stage.world.audit().await;
    let added = added[..added.len() - rows]
        .iter()
        .filter(|row| row["action"] == "kek-slot-add" && row["outcome"] == "done");
    assert_eq!(added.count(), 0);
    let keys = stage.vault.call(Method::GET, "transit/keys?list=true", &Value::Null).await;
    assert_eq!(keys["data"]["keys"], json!(["credence", "derived", "out", "rsa"]), "no key came into being");

    // Nothing of all this is in the way of doing it right, twice.
    stage.vault.write("transit/keys/other", json!({ "type": "aes256-gcm96" })).await;
    let (_, policy, _) = stage.world.run(&["kek", "add-slot", "x", "--print-policy", "--key", "other"]).await;
    stage.vault.policy("other", &policy).await;
    stage.file("other-token", &stage.vault.token(&["other"], Value::Null).await);
    let other =
        |name| stage.slot(name, &[(&login, "token_file: other-token"), ("key: credence", "key: other")]);
    let both = format!("{}{}", stage.slot("vault", &[]), stage.slot("twin", &[]));
    stage.with_file(&both);
    for slot in ["vault", "twin"] {
        stage.world.command(&["kek", "add-slot", slot]).await;
    }
    reader_opens(&stage).await;

    // Another key than the slot's, and what another slot holds: the start says so and ends, and nothing is written.
    let wrong = other("vault");
    stage.configure(&format!("  slots:\n{wrong}"));
    stage.world.terminate().await;
    let data = stage.world.sandbox().path("credence-data");
    let before = bytes_of(&data);
    let ends = async |stage: &Stage, words: &str| {
        let (code, out, errors) = stage.world.run(&["serve", "--dev", "--config", "credence.yaml"]).await;
        assert_eq!(code, 1, "{out}{errors}");
        assert!(errors.contains(words) && errors.contains("nothing was changed"), "{errors}");
    };
    ends(&stage, "is not the key of slot vault (transit)").await;
    assert!(bytes_of(&data) == before, "something was written");
    let moved = "UPDATE key_slots SET wrapped = (
                     SELECT CAST(substr(key_slots.wrapped, 1, 26) || substr(other.wrapped, 27) AS BLOB)
                       FROM key_slots AS other WHERE other.name = 'twin')
                  WHERE name = 'vault'";
    meddle(&data.join("credence.db"), moved);
    stage.vault_only();
    ends(&stage, "is not the key of slot vault (transit)").await;
    stage.with_file(&both);
    stage.world.start().await;
    assert_eq!(stage.shown("vault").await["state"], "fails");
    assert_eq!(stage.shown("twin").await["state"], "opens");
    stage.world.command(&["kek", "rotate", "slot", "vault", "--yes"]).await;
    assert_eq!(stage.shown("vault").await["state"], "opens", "mended: the root key is in memory");
    stage.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_login_opens_its_slot_a_silent_vault_holds_up_no_answer_and_no_credential_is_shown() {
    let Some(stage) = Stage::set("kek-transit-logins").await else { return };
    // A client certificate with a common name, and a token of somebody else.
    let authority = TestAuthority::root("corp", SystemClock.now());
    let key = TestKey::generate(TestKeyKind::P256);
    let made = authority.leaf_blueprint("spiffe://td/credence", &key, SystemClock.now());
    let made = Blueprint { subject: fixtures::der::name("Corp", "credence"), ..made };
    stage.file("client.pem", &certificates_to_pem([made.sign(authority.key()).as_slice()]));
    stage.file("client.key", &key.pkcs8_pem());
    stage.vault.write("sys/auth/cert", json!({ "type": "cert" })).await;
    let role = json!({ "certificate": certificates_to_pem([authority.der()]), "token_policies": ["slot"] });
    stage.vault.write("auth/cert/certs/credence", role).await;
    let token = stage.vault.token(&["slot"], Value::Null).await;
    stage.file("given-token", &token);
    let login = format!("approle: {{role_id: \"{}\", secret_id_file: secret-id}}", stage.role_id);
    let certificate = "certificate: {role: credence, chain_file: client.pem, key_file: client.key}";
    let slots = |first: String| {
        let certified = stage.slot("certified", &[(&login, certificate)]);
        let given = stage.slot("given", &[(&login, "token_file: given-token")]);
        format!("{first}{certified}{given}")
    };
    stage.with_file(&slots(stage.slot("vault", &[])));
    let tokens = stage.tokens().await;
    for slot in ["vault", "certified", "given"] {
        stage.world.command(&["kek", "add-slot", slot]).await;
    }
    // Twice: a token that somebody else gave is not given back.
    for _ in 0..2 {
        for slot in ["vault", "certified", "given"] {
            assert_eq!(stage.shown(slot).await["state"], "opens", "{slot}");
        }
    }
    assert_eq!(stage.tokens().await, tokens);

    // Whoever takes connections and says nothing costs a call less than it has.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", silent.local_addr().unwrap());
    stage.with_file(&slots(stage.slot("vault", &[(&stage.vault.addresses()[0], &address)])));
    let slot = stage.shown("vault").await;
    assert_eq!(slot["state"], "fails", "{slot}");
    assert_eq!(stage.shown("certified").await["state"], "opens");
    // Nor do three of them cost more: they are looked at at the same time.
    let silent = |name| stage.slot(name, &[(&stage.vault.addresses()[0], &address)]);
    stage.with_file(&["vault", "certified", "given"].map(silent).concat());
    let status = stage.kek().await;
    let states = status["slots"].as_array().unwrap().iter().map(|slot| slot["state"].as_str().unwrap());
    assert_eq!(states.collect::<Vec<_>>(), ["opens", "fails", "fails", "fails"], "{status:#}");

    let log = fs::read_to_string(stage.world.sandbox().path("serve.log")).unwrap();
    let told = [
        log,
        Value::from(stage.world.audit().await).to_string(),
        stage.kek().await.to_string(),
        stage.world.metrics().await,
    ]
    .concat();
    let secret_id = fs::read_to_string(stage.world.sandbox().path("secret-id")).unwrap();
    for secret in [secret_id.trim(), &token, stage.vault.root_token(), "PRIVATE KEY"] {
        assert!(!told.contains(secret), "a credential is shown");
    }
    assert!(told.contains("transit/credence"), "the search works");
    stage.world.finish().await;
}

/// The reader in `tests/sealing` was written from docs/reference/sealing.md; it shares no code with us.
async fn reader_opens(stage: &Stage) {
    let python = workspace().join("target/python/bin/python");
    if !python.exists() {
        return not_run("there is no target/python with cryptography (tests/run makes it)");
    }
    let read = async |slot: &str| {
        let output = tokio::process::Command::new(&python)
            .arg(workspace().join("tests/sealing/reader.py"))
            .arg("--database")
            .arg(stage.world.sandbox().path("credence-data/credence.db"))
            .args(["--slot", slot, "--vault", &stage.vault.addresses()[0], "--vault-ca"])
            .arg(stage.vault.ca_file())
            .arg("--vault-token-file")
            .arg(stage.world.sandbox().path("root-token"))
            .output()
            .await
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null), words)
    };
    let (code, found, words) = read("twin").await;
    assert_eq!(
        (code, &found["slot"], &found["refused"]),
        (Some(0), &json!("twin"), &json!({})),
        "{found} {words}"
    );
    let (code, ..) = read("primary").await;
    assert_eq!(code, Some(3), "Vault opens no slot of a key file");
    eventually("the reader was no burden", async || stage.is_ready().await).await;
}

/// Runs SQL on the database behind the server's back.
fn meddle(database: &Path, sql: &str) {
    let program = "import sqlite3, sys\n\
                   db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)\n\
                   db.execute(sys.argv[2])";
    let output = Command::new("python3").args(["-c", program]).arg(database).arg(sql).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
