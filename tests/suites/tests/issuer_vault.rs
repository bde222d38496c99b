//! A real Vault signs our issuing authorities: it takes over through the gates and no request fails, renews by itself,
//! and whether it is sealed, forbids or lets us do too much is said with what to do, while everything is served.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::Duration;

use certs::{Clock, certificates_to_pem};
use fixtures::TestAuthority;
use kit::{
    Config, Kubernetes, Load, LoadPlan, Pair, SystemClock, TestWorld, Vault, VaultPki, WorldOptions, envoy,
    within,
};
use serde_json::{Value, json};

/// Envoy waits up to half a minute between two tries of its streams, and connections live a minute.
const LONG: Duration = Duration::from_secs(240);

/// An authority lives for 140 s, and its successor is asked for after 63 s.
fn short_lives(config: &mut Config) {
    config.lifetimes.issuing = Duration::from_secs(140);
    config.lifetimes.leaf = Duration::from_secs(12);
    config.lifetimes.node = Duration::from_secs(20);
    config.lifetimes.server = Duration::from_secs(20);
    config.max_connection = Duration::from_secs(30);
}

/// A Vault with an engine whose root is to sign, and a role for us that may do what Credence asks for.
struct Corp {
    vault: Vault,
    pki: VaultPki,
    role_id: String,
}

impl Corp {
    async fn new(world: &TestWorld) -> Option<Self> {
        let vault = Vault::start().await?;
        let pki = vault.pki("pki").await;
        std::fs::write(world.sandbox().path("anchor.pem"), &pki.root).unwrap();
        let print =
            ["issuer", "add", "vault", "corp", "--mount", "pki", "--issuer", &pki.issuer, "--print-policy"];
        let (code, policy, words) = world.run(&print).await;
        assert_eq!(code, 0, "{words}");
        vault.policy("credence", &policy).await;
        let (role_id, secret_id) = vault.approle("credence", &["credence"], json!({})).await;
        std::fs::write(world.sandbox().path("secret-id"), secret_id).unwrap();
        Some(Self { vault, pki, role_id })
    }

    /// The words of `issuer add` that fit, with `changes` in the place of what they name.
    fn add(&self, changes: &[(&str, &str)]) -> Vec<String> {
        let ca_file = self.vault.ca_file().display().to_string();
        let addresses = self.vault.addresses();
        let mut arguments: Vec<String> = ["issuer", "add", "vault", "corp"].map(String::from).to_vec();
        for (flag, value) in [
            ("--addr", addresses[0].as_str()),
            ("--ca-file", &ca_file),
            ("--mount", "pki"),
            ("--issuer", &self.pki.issuer),
            ("--trust-anchor", "anchor.pem"),
            ("--login", "approle"),
            ("--role-id", &self.role_id),
            ("--credential-file", "secret-id"),
        ] {
            let changed = changes.iter().find(|(name, _)| *name == flag).map(|(_, changed)| *changed);
            match changed {
                Some("") => {}
                value_or => {
                    arguments.push(flag.to_owned());
                    arguments.push(value_or.unwrap_or(value).to_owned());
                }
            }
        }
        arguments
    }
}

async fn run(world: &TestWorld, arguments: &[String]) -> (i32, String, String) {
    world.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

async fn issuer(world: &TestWorld, name: &str) -> Value {
    let listed = world.command(&["issuer", "list"]).await;
    let all = listed.as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{listed:#}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_signs_our_authorities_by_itself_and_no_request_fails() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let mut world =
        TestWorld::boot("issuer-vault", WorldOptions { envoy: Some(envoy), adjust: short_lives }).await;
    let Some(corp) = Corp::new(&world).await else { return };
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());

    let (code, out, words) = run(&world, &corp.add(&[])).await;
    assert_eq!(code, 0, "{out} {words}");
    assert!(out.contains("✓ throwaway") && out.contains("credence issuer migrate --to corp"), "{out}");
    assert_eq!(issuer(&world, "corp").await["state"], "idle");
    assert_eq!(issuer(&world, "builtin").await["state"], "signs");
    let (code, out, _) = world.run(&["issuer", "test", "corp"]).await;
    assert!(code == 0 && !out.contains('✗'), "{out}");

    let migrated = world.command(&["issuer", "migrate", "--to", "corp", "--automatic", "--yes"]).await;
    assert_eq!(migrated["installed"]["is_new_root"], true, "{migrated:#}");
    let first = migrated["installed"]["authority"].as_str().unwrap().to_owned();
    let steady = within(LONG, "the root of Vault takes over", async || {
        world.command(&["status"]).await;
        match world.command(&["ca", "status"]).await {
            status if status["phase"] == "steady" && status["root"] == migrated["installed"]["root"] => {
                Ok(status)
            }
            status => Err(status),
        }
    })
    .await;
    println!("issuer vault: {}", steady["standing"]);
    let signs = issuer(&world, "corp").await;
    assert_eq!((&signs["state"], &signs["authority"]), (&"signs".into(), &first.clone().into()), "{signs:#}");
    assert_eq!(issuer(&world, "builtin").await["state"], "idle");
    let (code, _, words) = world.run(&["issuer", "remove", "corp", "--yes"]).await;
    assert!(code == 5 && words.contains(&first), "{code} {words}");

    // The next one is asked for without anybody's doing, also after a restart.
    world.kill().await;
    world.start().await;
    world.read_operator();
    let second = renewed(&world, &first).await;
    world.audit_says(&["issuer-ask", "corp", "done"]).await;

    // Sealed, it is asked in vain; nobody loses anything, and it goes on by itself when it is unsealed.
    corp.vault.seal().await;
    let failing = within(LONG, "a sealed Vault is said", async || match issuer(&world, "corp").await {
        one if one["failures"].as_u64() > Some(0) && one["problem"].to_string().contains("sealed") => Ok(one),
        one => Err(one),
    })
    .await;
    assert_eq!((&failing["authority"], &failing["state"]), (&second.clone().into(), &"signs".into()));
    corp.vault.unseal().await;
    let third = renewed(&world, &second).await;
    println!("issuer vault: {first}, {second} and {third} signed, the last one after a seal");

    // And back: a root of our own takes over by the same gates, and nothing holds the issuer any more.
    world.read_operator();
    world.command(&["issuer", "migrate", "--to", "builtin", "--automatic", "--yes"]).await;
    within(LONG, "a root of our own takes over", async || {
        let status = world.command(&["ca", "status"]).await;
        let signs = issuer(&world, "builtin").await["state"] == "signs";
        if status["phase"] == "steady" && signs { Ok(()) } else { Err(status) }
    })
    .await;
    within(LONG, "the issuer is removed", async || {
        match world.run(&["issuer", "remove", "corp", "--yes"]).await {
            (0, ..) => Ok(()),
            refused => Err(refused),
        }
    })
    .await;
    let report = load.finish_unharmed(1_000).await;
    println!("issuer vault: {} requests, {} failed", report.total, report.failed);
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    world.finish().await;
}

/// Waits until another authority of the issuer signs than `before`; answers which.
async fn renewed(world: &TestWorld, before: &str) -> String {
    let one = within(LONG, &format!("Vault signs the successor of {before}"), async || {
        match issuer(world, "corp").await {
            one if one["authority"].is_string() && one["authority"] != before => Ok(one),
            one => Err(one),
        }
    })
    .await;
    one["authority"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_what_to_change_on_which_side_and_nothing_is_kept() {
    let world = TestWorld::boot("issuer-vault-refused", WorldOptions::default()).await;
    let Some(corp) = Corp::new(&world).await else { return };
    let path = |name: &str| world.sandbox().path(name);
    std::fs::write(path("root-token"), corp.vault.root_token()).unwrap();
    std::fs::write(path("wrong-secret-id"), "f3b7c2a1-0000-0000-0000-000000000000").unwrap();
    let other = TestAuthority::root("other", SystemClock.now());
    std::fs::write(path("other.pem"), certificates_to_pem([other.der()])).unwrap();
    let other = path("other.pem").display().to_string();
    let closed = format!("https://{}", TestWorld::free_port());
    let login = [("--login", "token"), ("--role-id", ""), ("--credential-file", "root-token")];
    let cases = [
        ("nobody there", vec![("--addr", closed.as_str())], "cannot reach"),
        ("nobody vouches for it", vec![("--ca-file", other.as_str())], "is not believed"),
        (
            "no such issuer",
            vec![("--issuer", "5f3c0a52-1111-2222-3333-444444444444")],
            "vault list pki/issuers",
        ),
        ("an issuer by its name", vec![("--issuer", "root")], "pin it by its id"),
        ("another root", vec![("--trust-anchor", "other.pem")], "--trust-anchor"),
        ("a wrong secret id", vec![("--credential-file", "wrong-secret-id")], "invalid role or secret ID"),
        ("a token that may do everything", login.to_vec(), "--print-policy"),
        ("too short a life", vec![("--lifetime", "2m")], "--lifetime"),
    ];
    for (what, changes, told) in &cases {
        let mut arguments = corp.add(changes);
        if let [("--lifetime", life)] = changes.as_slice() {
            arguments.extend(["--lifetime".to_owned(), (*life).to_owned()]);
        }
        let (code, out, words) = run(&world, &arguments).await;
        assert_eq!(code, 1, "{what}: {out} {words}");
        assert!(words.contains(told), "{what}: {words}");
        assert!(!words.contains(corp.vault.root_token()), "{what} shows a credential");
        assert_eq!(world.command(&["issuer", "list"]).await.as_array().unwrap().len(), 1, "{what} was kept");
    }
    world.audit_says(&["issuer-set", "refused", "corp"]).await;

    // A role that may not sign lacks a path, by name.
    corp.vault.policy("credence", "path \"pki/none\" { capabilities = [\"deny\"] }").await;
    let (code, _, words) = run(&world, &corp.add(&[])).await;
    assert!(code == 1 && words.contains("sign-intermediate"), "{code} {words}");

    // Nothing of all this is in the way of doing it right.
    let print =
        ["issuer", "add", "vault", "corp", "--mount", "pki", "--issuer", &corp.pki.issuer, "--print-policy"];
    let (_, policy, _) = world.run(&print).await;
    corp.vault.policy("credence", &policy).await;
    let (code, out, words) = run(&world, &corp.add(&[])).await;
    assert_eq!(code, 0, "{out} {words}");

    // What is changed is tried whole before, and a credential goes where it was given for.
    let update = ["issuer", "update", "corp", "--lifetime", "10d"];
    let (code, out, words) = world.run(&update).await;
    assert_eq!(code, 0, "{out} {words}");
    assert_eq!(issuer(&world, "corp").await["vault"]["lifetime"], "10d");
    let (code, _, words) = world.run(&["issuer", "update", "corp", "--addr", &closed]).await;
    assert!(code == 2 && words.contains("an address that it was not given for"), "{code} {words}");
    let credentials = async |file: &str, more: &[&str]| {
        let credentials = ["issuer", "credentials", "corp", "--credential-file", file];
        world.run(&[&credentials, more].concat()).await
    };
    let (code, _, words) = credentials("wrong-secret-id", &[]).await;
    assert!(code == 1 && words.contains("invalid role or secret ID"), "{code} {words}");
    // A wrapped secret id is opened once, and whoever opened it before shows.
    let wrapped = corp.vault.wrapped("auth/approle/role/credence/secret-id").await;
    std::fs::write(path("wrapped"), wrapped).unwrap();
    let (code, out, words) = credentials("wrapped", &["--wrapped"]).await;
    assert!(code == 0 && out.contains("✓ unwrap"), "{out} {words}");
    let (code, _, words) = credentials("wrapped", &["--wrapped"]).await;
    assert!(code == 1 && words.contains("destroy that secret id in Vault"), "{code} {words}");
    let (code, out, words) = world.run(&["issuer", "test", "corp"]).await;
    assert_eq!(code, 0, "what was unwrapped before is kept: {out} {words}");
    let (code, out, words) = world.run(&["issuer", "remove", "corp", "--yes"]).await;
    assert_eq!(code, 0, "{out} {words}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_asks_a_real_kubernetes_who_we_are_signs_and_a_token_that_ends_costs_nothing() {
    let Some(mut cluster) = Kubernetes::start().await else { return };
    let world = TestWorld::boot("issuer-vault-kubernetes", WorldOptions::default()).await;
    let Some(corp) = Corp::new(&world).await else { return };
    cluster.vouch_to(&corp.vault, "credence").await;
    let file = world.sandbox().path("service-account");
    let add = async || {
        let mut words = corp.add(&[("--login", "kubernetes"), ("--role-id", ""), ("--credential-file", "")]);
        let more =
            ["--login-role", "credence", "--token-path", &file.display().to_string()].map(str::to_owned);
        words.extend(more);
        run(&world, &words).await
    };
    // A token that is for somebody else, and then the right one.
    std::fs::write(&file, cluster.token("credence", Some("other")).await).unwrap();
    let (code, out, words) = add().await;
    assert!(code == 1 && words.contains("Kubernetes does not vouch for the token"), "{code} {out} {words}");
    std::fs::write(&file, cluster.token("credence", Some("vault")).await).unwrap();
    let (code, out, words) = add().await;
    assert!(code == 0 && out.contains("✓ throwaway"), "{code} {out} {words}");

    // Every token of it is revoked: the next authority is signed all the same.
    corp.vault.write("sys/leases/revoke-prefix/auth/kubernetes", json!({ "sync": true })).await;
    let migrated = world.command(&["issuer", "migrate", "--to", "corp", "--automatic", "--yes"]).await;
    assert_eq!(migrated["installed"]["is_new_root"], true, "{migrated:#}");
    assert_eq!(issuer(&world, "corp").await["problem"], Value::Null);

    // The reviewer is away, and comes back.
    cluster.kill().await;
    let (code, out, words) = world.run(&["issuer", "test", "corp"]).await;
    assert!(code == 1 && out.contains("or Vault cannot ask it"), "{code} {out} {words}");
    cluster.restart().await;
    let (code, out, words) = world.run(&["issuer", "test", "corp"]).await;
    assert!(code == 0 && !out.contains('✗'), "{code} {out} {words}");
    world.finish().await;
}
