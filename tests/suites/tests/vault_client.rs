//! The client of Vault against a real HashiCorp Vault: what it is told, what it takes, and where a token goes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use certs::{
    Certificate, Chain, Clock, Csr, KeyKind, SecretBytes, SecretKey, Usage, VerifyOptions,
    certificates_from_pem, verify_chain,
};
use fixtures::{Blueprint, CsrBlueprint, TestAuthority, TestKey, TestKeyKind, dns, uri};
use http::{Method, Response};
use http_body_util::Full;
use kit::{Identity, Kubernetes, Recorder, SystemClock, Vault, VaultPki, eventually, https, jwt_by, within};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use vault::{
    Address, Addresses, Breadth, Client, Credentials, IdentityFiles, Mount, Name, NotLoggedIn, Policy,
    Request, Secret, SecretId, Settings, Trouble, Warning,
    pki::{self, check},
    transit::{self, SlotRefusal},
};
use zeroize::Zeroizing;

const TD: &str = "td";
const URI: &str = "spiffe://td/web";
const HOUR: Duration = Duration::from_secs(3600);
/// Between two logins there is half a minute, and up to one while nobody vouches for us.
const MINUTES: Duration = Duration::from_secs(120);

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn mount(text: &str) -> Mount {
    Mount::parse(text).unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::of_text(text).unwrap()
}

/// A client with its keeper, which ends with it.
struct Session {
    client: Client,
    _stop: DropGuard,
    _keeper: JoinSet<()>,
}

impl Session {
    fn open(settings: Settings, credentials: Credentials, narrow: Option<(Policy, Vec<Mount>)>) -> Self {
        let (client, keeper) = Client::new(settings, credentials, narrow, Arc::new(SystemClock));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(stop.clone()));
        Self { client, _stop: stop.drop_guard(), _keeper: tasks }
    }

    async fn call(&self, request: &Request) -> Result<vault::Answer, Trouble> {
        self.client.call(request).await
    }

    /// The generation of the token, once there is one.
    async fn logged_in(&self) -> u64 {
        let mut status = self.client.status();
        let status = tokio::time::timeout(kit::PATIENCE, status.wait_for(vault::Status::is_logged_in)).await;
        status.expect("a login in time").expect("a keeper").generation
    }

    async fn reason(&self, wanted: NotLoggedIn) {
        eventually("the session says why", async || {
            let status = self.client.status().borrow().clone();
            if status.reason == Some(wanted) { Ok(()) } else { Err(status) }
        })
        .await;
    }
}

fn addresses(all: &[String]) -> Addresses {
    Addresses::try_new(all.iter().map(|text| Address::parse(text).unwrap()).collect()).unwrap()
}

fn settings(vault: &Vault) -> Settings {
    Settings::new(addresses(&vault.addresses()), vault.ca_file())
}

fn given(token: &str) -> Credentials {
    Credentials::Token(Arc::new(secret(token)))
}

fn approle(role_id: &str, secret_id: SecretId) -> Credentials {
    Credentials::AppRole {
        mount: mount("approle"),
        role: Some(name("credence")),
        role_id: secret(role_id),
        secret_id,
    }
}

/// Everything below one issuer of a real Vault.
struct Pki {
    issuer: pki::Issuer,
    role: Name,
    anchors: Vec<Certificate>,
}

impl Pki {
    fn new(made: &VaultPki, role: &str) -> Self {
        let root = certificates_from_pem(made.root.as_bytes()).unwrap();
        Self {
            issuer: pki::Issuer { mount: mount(&made.mount), id: name(&made.issuer) },
            role: name(role),
            anchors: vec![Certificate::from_der(&root[0]).unwrap()],
        }
    }

    fn policy(&self) -> Policy {
        Policy::leaves(&self.issuer.mount, [&self.issuer.id], &self.role, TD)
    }

    fn narrow(&self) -> Option<(Policy, Vec<Mount>)> {
        Some((self.policy(), vec![self.issuer.mount.clone()]))
    }

    /// An engine with the role of the documentation, and the printed policy by the name `credence`.
    async fn make(vault: &Vault) -> Self {
        let made = vault.pki("pki").await;
        vault.role("pki", "svid", TD, Value::Null).await;
        let pki = Self::new(&made, "svid");
        vault.policy("credence", &pki.policy().to_hcl()).await;
        pki
    }

    async fn sign(&self, session: &Session) -> Result<Chain, Trouble> {
        let key = SecretKey::generate(KeyKind::P256);
        let at = SystemClock.now();
        let answer = session.call(&self.issuer.sign(&self.role, &Csr::build(&key), URI, HOUR)).await?;
        let signed = pki::read_signed(&answer)?;
        let asked = check::Asked { uri: URI, key: key.public(), at, lifetime: HOUR };
        Ok(self.judge(&signed, &asked).expect("what was asked for"))
    }

    /// Whether what the root signed is what was asked for, and holds against it.
    fn judge(&self, signed: &pki::Signed, asked: &check::Asked<'_>) -> Result<Chain, String> {
        let root = &self.anchors[0];
        let chain = check::leaf(signed, asked, root, root).map_err(|refusal| refusal.to_string())?;
        for usage in [Usage::Server, Usage::Client] {
            verify_chain(&chain, &self.anchors, &VerifyOptions::new(SystemClock.now(), usage))
                .map_err(|error| error.to_string())?;
        }
        Ok(chain)
    }
}

#[tokio::test]
async fn a_leaf_is_signed_by_the_printed_policy_and_is_exactly_what_was_asked_for() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let (role_id, secret_id) = vault.approle("credence", &["credence"], Value::Null).await;
    let credentials = approle(&role_id, SecretId::Plain(secret(&secret_id)));
    let session = Session::open(settings(&vault), credentials, pki.narrow());
    let chain = pki.sign(&session).await.unwrap();
    assert_eq!(chain.leaf().uri_names(), [URI.as_bytes()]);
    assert_eq!(session.client.status().borrow().breadth, Some(Breadth::Narrow { missing: Vec::new() }));

    // The policy itself refuses what nobody should ask: other domains, and a life beyond the role.
    let key = SecretKey::generate(KeyKind::P256);
    let other = pki.issuer.sign(&pki.role, &Csr::build(&key), "spiffe://other/web", HOUR);
    assert!(matches!(session.call(&other).await, Err(Trouble::Forbidden { .. })));
    let (_, token) = vault_login(&vault, &role_id, &secret_id).await;
    let path = format!("pki/issuer/{}/sign/svid", pki.issuer.id);
    let csr = certs::request_to_pem(&Csr::build(&key));
    let mut body = json!({ "csr": csr, "uri_sans": URI });
    assert_eq!(vault.call_node(0, Method::POST, &path, &token, &body).await.0, 200);
    body["not_after"] = "2040-01-01T00:00:00Z".into();
    assert_eq!(vault.call_node(0, Method::POST, &path, &token, &body).await.0, 403);

    // What a mount has, for anybody to read.
    let listed = pki::read_list(&session.call(&pki::list(&pki.issuer.mount)).await.unwrap()).unwrap();
    assert_eq!(listed.iter().map(|one| &one.id).collect::<Vec<_>>(), [&pki.issuer.id]);
    for request in [pki.issuer.read(), pki::read_default(&pki.issuer.mount)] {
        let issuer = pki::read_issuer(&session.call(&request).await.unwrap()).unwrap();
        assert_eq!((&issuer.id, issuer.name.as_str()), (&pki.issuer.id, "root"));
        assert_eq!(issuer.root(), Some(&pki.anchors[0]));
        assert!(!issuer.is_revoked && issuer.above.is_empty());
    }
    let role = session.call(&pki::read_role(&pki.issuer.mount, &pki.role)).await.unwrap();
    let role = pki::Role::read(&role).unwrap();
    assert_eq!((role.findings(TD), role.max_ttl_secs()), (Vec::new(), 24 * 3600));

    // To revoke is a right of its own.
    let revoke = pki::revoke(&pki.issuer.mount, chain.leaf());
    assert!(matches!(session.call(&revoke).await, Err(Trouble::Forbidden { .. })));
    vault.policy("credence", &pki.policy().with_revocation(&pki.issuer.mount).to_hcl()).await;
    session.call(&revoke).await.unwrap();
}

/// A login as another program does it; the accessor and the token.
async fn vault_login(vault: &Vault, role_id: &str, secret_id: &str) -> (String, String) {
    let body = json!({ "role_id": role_id, "secret_id": secret_id });
    let (_, answer) = vault.call_node(0, Method::POST, "auth/approle/login", "", &body).await;
    let text = |key: &str| answer["auth"][key].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (text("accessor"), text("client_token"))
}

#[tokio::test]
async fn an_authority_is_signed_below_the_root_of_vault() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::new(&vault.pki("pki").await, "none");
    let policy = Policy::authorities(&pki.issuer.mount, &pki.issuer.id, TD);
    vault.policy("credence", &policy.to_hcl()).await;
    let token = vault.token(&["credence"], Value::Null).await;
    let narrow = Some((policy, vec![pki.issuer.mount.clone()]));
    let session = Session::open(settings(&vault), given(&token), narrow);
    let (key, at, days) = (SecretKey::generate(KeyKind::P256), SystemClock.now(), HOUR * 24 * 30);
    let request = pki.issuer.sign_intermediate(&Csr::build(&key), "Credence td", "spiffe://td", days);
    let signed = pki::read_signed(&session.call(&request).await.unwrap()).unwrap();
    let asked = check::Asked { uri: "spiffe://td", key: key.public(), at, lifetime: days };
    let chain = check::authority(&signed, &asked, "Credence td", &pki.anchors, SystemClock.now()).unwrap();
    assert!(chain.intermediates().is_empty());
    assert_eq!(session.client.status().borrow().breadth, Some(Breadth::Narrow { missing: Vec::new() }));
}

#[tokio::test]
async fn a_role_that_lets_the_request_name_itself_is_caught_and_so_is_every_other_flaw() {
    let Some(vault) = Vault::start().await else { return };
    let made = vault.pki("pki").await;
    let session = Session::open(settings(&vault), given(vault.root_token()), None);
    let check = async |flaw: Value, expected: &str, instead: &str| {
        vault.role("pki", "svid", TD, flaw.clone()).await;
        let pki = Pki::new(&made, "svid");
        let role = session.call(&pki::read_role(&pki.issuer.mount, &pki.role)).await.unwrap();
        let found = pki::Role::read(&role).unwrap().findings(TD);
        assert!(found.iter().any(|one| one.is_fatal && one.instead == instead), "{flaw}: {found:?}");
        // Whoever makes the request wants to be somebody else.
        let key = TestKey::generate(TestKeyKind::P256);
        let wanted = fixtures::der::sequence(&[&fixtures::der::element(0x86, b"spiffe://td/admin")]);
        let csr =
            CsrBlueprint::honest(&key).asking_for(fixtures::oid::SUBJECT_ALT_NAME, true, &wanted).sign(&key);
        let public = Csr::from_der(&csr).unwrap().public_key().clone();
        let at = SystemClock.now();
        let answer = session.call(&pki.issuer.sign(&pki.role, &csr, URI, HOUR)).await.unwrap();
        let asked = check::Asked { uri: URI, key: &public, at, lifetime: HOUR };
        let signed = pki::read_signed(&answer).unwrap();
        let refusal = pki.judge(&signed, &asked).unwrap_err();
        assert!(refusal.contains(expected), "{flaw}: {refusal}");
    };
    let names = "names [\"spiffe://td/admin\"] instead of \"spiffe://td/web\"";
    check(json!({ "use_csr_sans": true }), names, "use_csr_sans=false").await;
    check(json!({ "generate_lease": true, "no_store": false }), "lease", "generate_lease=false").await;
    check(json!({ "server_flag": false }), "not for server authentication", "server_flag=true").await;

    // A role with an end of its own signs nothing for whoever asks for a lifetime.
    vault.role("pki", "svid", TD, json!({ "not_after": not_after_in(HOUR * 24 * 30) })).await;
    let pki = Pki::new(&made, "svid");
    let role = session.call(&pki::read_role(&pki.issuer.mount, &pki.role)).await.unwrap();
    let found = pki::Role::read(&role).unwrap().findings(TD);
    assert!(found.iter().any(|one| one.is_fatal && one.instead == "not_after=\"\""), "{found:?}");
    let trouble = pki.sign(&session).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Refused { said } if said.has("not_after")), "{trouble}");
}

fn not_after_in(length: Duration) -> String {
    (SystemClock.now() + length).floor_secs().to_string()
}

#[tokio::test]
async fn an_issuer_that_is_not_there_is_named_and_another_node_is_not_to_blame() {
    let Some(vault) = Vault::start().await else { return };
    let mut pki = Pki::make(&vault).await;
    let session = Session::open(settings(&vault), given(vault.root_token()), None);
    pki.issuer.id = name("00000000-0000-0000-0000-000000000000");
    let Err(Trouble::Failed { said }) = pki.sign(&session).await else { panic!("signed by nobody") };
    assert!(said.has("unable to find PKI issuer for reference"), "{said}");
    pki.role = name("nobody");
    let trouble = pki.sign(&session).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Refused { said } if said.has("unknown role: nobody")), "{trouble}");
    let absent = session.call(&pki::read_role(&mount("elsewhere"), &pki.role)).await.unwrap_err();
    assert!(matches!(absent, Trouble::NotFound { .. }), "{absent}");
}

#[tokio::test]
async fn a_sealed_vault_says_so_and_the_same_token_works_when_it_is_unsealed() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let (role_id, secret_id) = vault.approle("credence", &["credence"], Value::Null).await;
    let credentials = || approle(&role_id, SecretId::Plain(secret(&secret_id)));
    let session = Session::open(settings(&vault), credentials(), pki.narrow());
    let generation = session.logged_in().await;
    vault.seal().await;
    assert_eq!(pki.sign(&session).await.unwrap_err(), Trouble::Sealed);
    assert_eq!(session.call(&pki.issuer.read()).await.unwrap_err(), Trouble::Sealed);
    // Who comes meanwhile learns why there is no login, and gets in by itself when there can be one.
    let late = Session::open(settings(&vault), credentials(), pki.narrow());
    assert_eq!(pki.sign(&late).await.unwrap_err(), Trouble::Sealed);
    vault.unseal().await;
    pki.sign(&session).await.unwrap();
    assert_eq!(session.logged_in().await, generation);
    late.logged_in().await;
    pki.sign(&late).await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_is_replaced_by_a_login_and_a_given_one_alarms() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let (role_id, secret_id) = vault.approle("credence", &["credence"], Value::Null).await;
    let session =
        Session::open(settings(&vault), approle(&role_id, SecretId::Plain(secret(&secret_id))), pki.narrow());
    pki.sign(&session).await.unwrap();
    assert_eq!(session.logged_in().await, 1);
    // Every token of the method, at once, in the middle of many calls: each call succeeds, and there is one login.
    vault.write("sys/leases/revoke-prefix/auth/approle", json!({ "sync": true })).await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(pki.sign(&session));
    }
    for result in futures::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(session.logged_in().await, 2);

    let token = vault.token(&["credence"], Value::Null).await;
    let session = Session::open(settings(&vault), given(&token), pki.narrow());
    pki.sign(&session).await.unwrap();
    vault.write("auth/token/revoke", json!({ "token": token })).await;
    let trouble = pki.sign(&session).await.unwrap_err();
    assert_eq!(trouble, Trouble::NotLoggedIn(NotLoggedIn::TokenRevoked), "{trouble}");
    session.reason(NotLoggedIn::TokenRevoked).await;
    // Another one is taken without a restart.
    session.client.replace(given(&vault.token(&["credence"], Value::Null).await)).await;
    eventually("the other token is used", async || pki.sign(&session).await).await;
}

#[tokio::test]
async fn short_tokens_are_renewed_at_two_thirds_and_replaced_near_their_longest_life() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let ttl = json!({ "token_ttl": "4s", "token_max_ttl": "9s" });
    let (role_id, secret_id) = vault.approle("credence", &["credence"], ttl).await;
    let session =
        Session::open(settings(&vault), approle(&role_id, SecretId::Plain(secret(&secret_id))), pki.narrow());
    assert_eq!(session.logged_in().await, 1);
    let first = session.client.status().borrow().ends.unwrap();
    within(kit::PATIENCE, "a second login", async || {
        pki.sign(&session).await.unwrap();
        match session.logged_in().await {
            1 => Err("the first token"),
            _ => Ok(()),
        }
    })
    .await;
    let now = SystemClock.now();
    assert!(now > first, "it was renewed before it was replaced: it would have ended at {first}");
    let batch = json!({ "token_ttl": "3s", "token_max_ttl": "3s", "token_type": "batch" });
    let (role_id, secret_id) = vault.approle("batch", &["credence"], batch).await;
    let session =
        Session::open(settings(&vault), approle(&role_id, SecretId::Plain(secret(&secret_id))), pki.narrow());
    within(kit::PATIENCE, "a third batch token", async || {
        pki.sign(&session).await.unwrap();
        if session.logged_in().await > 2 { Ok(()) } else { Err("fewer") }
    })
    .await;
    assert_eq!(session.client.status().borrow().trouble, None);
}

#[tokio::test]
async fn a_wrapped_secret_id_is_opened_once_and_its_limits_are_said() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let limits = json!({ "secret_id_num_uses": 2, "secret_id_ttl": "1h" });
    let (role_id, plain) = vault.approle("credence", &["credence"], limits).await;
    let token = vault.wrapped("auth/approle/role/credence/secret-id").await;
    let credentials = || approle(&role_id, SecretId::Wrapped(secret(&token)));
    let session = Session::open(settings(&vault), credentials(), pki.narrow());
    pki.sign(&session).await.unwrap();
    let status = session.client.status().borrow().clone();
    assert!(status.secret_id.is_some(), "whoever keeps it encrypted must get it");
    assert!(status.warnings.contains(&Warning::SecretIdUses(2)), "{:?}", status.warnings);
    assert!(
        status.warnings.iter().any(|one| matches!(one, Warning::SecretIdEnds(_))),
        "{:?}",
        status.warnings
    );

    let second = Session::open(settings(&vault), credentials(), pki.narrow());
    second.reason(NotLoggedIn::WrappedSpent).await;
    // Something else that is wrapped is not opened: it can be opened still by whom it is for.
    let other = vault.wrapped("sys/policies/acl/credence").await;
    let refused = session.client.unwrap(&mount("approle"), &secret(&other)).await.unwrap_err();
    assert!(refused.to_string().contains("sys/policies/acl/credence"), "{refused}");
    let (status, _) = vault.call_node(0, Method::POST, "sys/wrapping/unwrap", &other, &json!({})).await;
    assert_eq!(status, 200);

    // Where the policy allows it, how much is left of a plain one is asked.
    let lookup = pki.policy().with_secret_id_lookup(&mount("approle"), &name("credence"));
    vault.policy("credence", &lookup.to_hcl()).await;
    let left = vault.write("auth/approle/role/credence/secret-id", json!({})).await;
    let left = SecretId::Plain(secret(left["secret_id"].as_str().unwrap()));
    let session = Session::open(settings(&vault), approle(&role_id, left), Some((lookup, Vec::new())));
    session.logged_in().await;
    eventually("one login is left of two", async || {
        let warnings = session.client.status().borrow().warnings.clone();
        if warnings.contains(&Warning::SecretIdUses(1)) { Ok(()) } else { Err(warnings) }
    })
    .await;

    // A secret id that is used up: refused, said once, and another brings it back.
    let spent = Session::open(settings(&vault), approle(&role_id, SecretId::Plain(secret(&plain))), None);
    spent.logged_in().await;
    vault_login(&vault, &role_id, &plain).await;
    let spent = Session::open(settings(&vault), approle(&role_id, SecretId::Plain(secret(&plain))), None);
    spent.reason(NotLoggedIn::CredentialsRefused).await;
    let trouble = spent.client.status().borrow().trouble.clone();
    assert!(matches!(&trouble, Some(Trouble::Refused { said }) if said.has("invalid role or secret ID")));
    let fresh = vault.wrapped("auth/approle/role/credence/secret-id").await;
    spent.client.replace(approle(&role_id, SecretId::Wrapped(secret(&fresh)))).await;
    spent.logged_in().await;
}

/// A certificate with a common name, in files.
fn write_identity(authority: &TestAuthority, folder: &Path, common_name: &str) -> IdentityFiles {
    let key = TestKey::generate(TestKeyKind::P256);
    let made = authority.leaf_blueprint("spiffe://td/credence", &key, SystemClock.now());
    let made = Blueprint { subject: fixtures::der::name("Corp", common_name), ..made };
    let made = made.with_names(&[uri("spiffe://td/credence")]).sign(authority.key());
    let files = IdentityFiles { chain: folder.join("client.pem"), key: folder.join("client.key") };
    fs::write(&files.chain, certs::certificates_to_pem([made.as_slice()])).unwrap();
    fs::write(&files.key, key.pkcs8_pem()).unwrap();
    files
}

#[tokio::test]
async fn a_certificate_logs_in_is_read_again_and_renews() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let authority = TestAuthority::root("corp", SystemClock.now());
    vault.write("sys/auth/cert", json!({ "type": "cert" })).await;
    let trusted = certs::certificates_to_pem([authority.der()]);
    let role = json!({
        "certificate": trusted, "allowed_uri_sans": "spiffe://td/credence", "token_policies": ["credence"],
        "token_ttl": "4s", "token_max_ttl": "1h",
    });
    vault.write("auth/cert/certs/credence", role).await;
    let files = write_identity(&authority, vault.folder(), "credence");
    let credentials =
        Credentials::Certificate { mount: mount("cert"), role: Some(name("credence")), files: files.clone() };
    let session = Session::open(settings(&vault), credentials, pki.narrow());
    pki.sign(&session).await.unwrap();
    // The files are read for the next renewal, whatever stands in them by then.
    for file in [&files.chain, &files.key] {
        fs::write(file, "nothing").unwrap();
    }
    let first = session.client.status().borrow().ends;
    eventually("the renewal names the file", async || match session.client.status().borrow().clone() {
        status if matches!(status.trouble, Some(Trouble::File { .. })) => Ok(()),
        status => Err(status),
    })
    .await;
    // Another certificate and key in the same files: the session goes on by them.
    write_identity(&authority, vault.folder(), "credence");
    eventually("the session goes on by the new certificate", async || {
        let status = session.client.status().borrow().clone();
        let is_back = status.trouble.is_none() && status.is_logged_in() && status.ends > first;
        if is_back { Ok(()) } else { Err(status) }
    })
    .await;
    pki.sign(&session).await.unwrap();
    // One that Vault does not know is refused, and the session says so.
    let stranger = TestAuthority::root("stranger", SystemClock.now());
    let folder = vault.folder().join("stranger");
    fs::create_dir(&folder).unwrap();
    let files = write_identity(&stranger, &folder, "credence");
    let credentials = Credentials::Certificate { mount: mount("cert"), role: Some(name("credence")), files };
    let session = Session::open(settings(&vault), credentials, None);
    session.reason(NotLoggedIn::CredentialsRefused).await;
}

#[tokio::test]
async fn a_jwt_logs_in_from_a_file_that_is_read_again() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let key = TestKey::generate(TestKeyKind::P256);
    let public = STANDARD.encode(key.spki_der());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
    vault.write("sys/auth/jwt", json!({ "type": "jwt" })).await;
    let config = json!({ "jwt_validation_pubkeys": [pem], "bound_issuer": "https://issuer.example" });
    vault.write("auth/jwt/config", config).await;
    let role = json!({
        "role_type": "jwt", "bound_audiences": ["vault"], "user_claim": "sub", "token_policies": ["credence"],
    });
    vault.write("auth/jwt/role/credence", role).await;
    let file = vault.folder().join("token.jwt");
    let credentials =
        Credentials::Jwt { mount: mount("jwt"), role: Some(name("credence")), file: file.clone() };
    let session = Session::open(settings(&vault), credentials, pki.narrow());
    // Nobody has put it there yet: it is looked for again.
    eventually("the missing file is named", async || {
        let trouble = session.client.status().borrow().trouble.clone();
        if matches!(trouble, Some(Trouble::File { .. })) { Ok(()) } else { Err(trouble) }
    })
    .await;
    fs::write(&file, jwt_by(&key, "vault")).unwrap();
    session.logged_in().await;
    pki.sign(&session).await.unwrap();
    // Revoked while the file holds one for somebody else: refused with Vault's reason. Then a good one comes.
    fs::write(&file, jwt_by(&key, "other")).unwrap();
    vault.write("sys/leases/revoke-prefix/auth/jwt", json!({ "sync": true })).await;
    let trouble = pki.sign(&session).await.unwrap_err();
    assert_eq!(trouble, Trouble::NotLoggedIn(NotLoggedIn::CredentialsRefused), "{trouble}");
    let trouble = session.client.status().borrow().trouble.clone().unwrap();
    assert!(trouble.to_string().contains("audience"), "{trouble}");
    fs::write(&file, jwt_by(&key, "vault")).unwrap();
    let credentials = Credentials::Jwt { mount: mount("jwt"), role: Some(name("credence")), file };
    session.client.replace(credentials).await;
    eventually("it is back", async || pki.sign(&session).await).await;
}

#[tokio::test]
async fn a_service_account_logs_in_by_a_real_kubernetes_and_its_token_is_read_again() {
    let Some(mut cluster) = Kubernetes::start().await else { return };
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    cluster.vouch_to(&vault, "credence").await;
    let file = vault.folder().join("service-account");
    fs::write(&file, cluster.token("credence", Some("vault")).await).unwrap();
    let credentials =
        Credentials::Kubernetes { mount: mount("kubernetes"), role: name("credence"), file: file.clone() };
    let session = Session::open(settings(&vault), credentials, pki.narrow());
    pki.sign(&session).await.unwrap();
    assert_eq!(session.logged_in().await, 1);

    // Every token of the method is revoked: the next call succeeds, after a login with what kubelet wrote last. The
    // account of the token before is gone.
    let revoke = async || {
        vault.write("sys/leases/revoke-prefix/auth/kubernetes", json!({ "sync": true })).await;
    };
    cluster.remove_service_account("credence").await;
    cluster.service_account("credence").await;
    fs::write(&file, cluster.token("credence", Some("vault")).await).unwrap();
    revoke().await;
    pki.sign(&session).await.unwrap();
    assert_eq!(session.logged_in().await, 2);

    // Vault cannot ask: the token in use is as good as before, and what needs a login waits until it can.
    cluster.kill().await;
    pki.sign(&session).await.unwrap();
    revoke().await;
    within(MINUTES, "it is said that nobody vouches", async || match pki.sign(&session).await {
        Err(Trouble::NotLoggedIn(NotLoggedIn::NotVouched)) => Ok(()),
        other => Err(other),
    })
    .await;
    let status = session.client.status().borrow().clone();
    assert!(matches!(status.trouble, Some(Trouble::NotVouched { .. })), "{status:?}");
    cluster.restart().await;
    within(MINUTES, "it is back by itself", async || pki.sign(&session).await).await;
    let status = session.client.status().borrow().clone();
    assert_eq!((status.generation, status.reason), (3, None));
}

#[tokio::test]
async fn a_token_that_may_do_more_than_it_should_is_not_used_and_the_paths_are_named() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    vault
        .policy(
            "more",
            "path \"secret/*\" { capabilities = [\"read\"] }\npath \"pki/sign-verbatim\" { \
        capabilities = [\"update\"] }",
        )
        .await;
    let token = vault.token(&["credence", "more"], Value::Null).await;
    let session = Session::open(settings(&vault), given(&token), pki.narrow());
    let trouble = pki.sign(&session).await.unwrap_err();
    let words = "the token may do more than it should: pki/sign-verbatim (update), secret/* (read)";
    assert_eq!(trouble.to_string(), words);
    // Narrowed in Vault, and looked at again with the next token.
    let token = vault.token(&["credence"], Value::Null).await;
    session.client.replace(given(&token)).await;
    eventually("the narrow token is used", async || pki.sign(&session).await).await;

    // The same token, when the policy changes behind it.
    vault.policy("credence", "path \"sys/seal\" { capabilities = [\"update\", \"sudo\"] }").await;
    session.client.look_again();
    eventually("the wider policy is noticed", async || match pki.sign(&session).await {
        Err(Trouble::OverGranted(surplus)) => {
            assert_eq!(surplus[0].to_string(), "sys/seal (sudo, update)");
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    vault.policy("credence", &pki.policy().to_hcl()).await;
    session.client.look_again();
    eventually("and so is the narrow one", async || pki.sign(&session).await).await;

    // What an entity gives does not stand in the token's own policies, and is found.
    let (role_id, secret_id) = vault.approle("credence", &["credence"], Value::Null).await;
    let (accessor, _) = vault_login(&vault, &role_id, &secret_id).await;
    let looked = vault.write("auth/token/lookup-accessor", json!({ "accessor": accessor })).await;
    let entity = looked["entity_id"].as_str().unwrap().to_owned();
    vault.write(&format!("identity/entity/id/{entity}"), json!({ "policies": ["more"] })).await;
    let session =
        Session::open(settings(&vault), approle(&role_id, SecretId::Plain(secret(&secret_id))), pki.narrow());
    assert_eq!(pki.sign(&session).await.unwrap_err().to_string(), words);

    // Without the policy `default` Vault does not say what a token may do: a fixed list is probed.
    let probe = "path \"sys/capabilities-self\" { capabilities = [\"update\"] }";
    vault.policy("probe", probe).await;
    let bare = json!({ "no_default_policy": true });
    let token = vault.token(&["credence", "probe"], bare.clone()).await;
    let session = Session::open(settings(&vault), given(&token), pki.narrow());
    pki.sign(&session).await.unwrap();
    let breadth = session.client.status().borrow().breadth.clone();
    assert!(
        matches!(&breadth, Some(Breadth::NotProvable { probed: 40.., missing, .. }) if missing.is_empty()),
        "{breadth:?}"
    );
    let token = vault.token(&["credence", "probe", "more"], bare.clone()).await;
    let session = Session::open(settings(&vault), given(&token), pki.narrow());
    let trouble = pki.sign(&session).await.unwrap_err().to_string();
    assert!(trouble.contains("pki/sign-verbatim (update)"), "{trouble}");
    // Not even that: nothing is provable, and it is said.
    let session =
        Session::open(settings(&vault), given(&vault.token(&["credence"], bare).await), pki.narrow());
    pki.sign(&session).await.unwrap();
    let breadth = session.client.status().borrow().breadth.clone();
    assert!(matches!(breadth, Some(Breadth::NotProvable { probed: 0, .. })), "{breadth:?}");
    let root = Session::open(settings(&vault), given(vault.root_token()), pki.narrow());
    let trouble = pki.sign(&root).await.unwrap_err().to_string();
    assert_eq!(trouble, "the token may do more than it should: * (root)");
}

#[tokio::test]
async fn a_token_of_which_nothing_is_known_is_not_used_until_that_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, ca_file) = loopback(folder.path());
    // 0: what a token may do is not to be had for a moment; 1: it is narrow; 2: Vault does not say it to this one;
    // 3: this one is not known, and the next is narrow.
    let state = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&state);
    let issuer = pki::Issuer { mount: mount("pki"), id: name("i") };
    let policy = Policy::leaves(&issuer.mount, [&issuer.id], &name("r"), TD);
    let narrow = || Some((policy.clone(), vec![issuer.mount.clone()]));
    let exact = json!({
        "pki/roles/r": { "capabilities": ["read"] },
        "pki/issuer/i/sign/r": {
            "capabilities": ["update"], "required_parameters": ["csr", "uri_sans"],
            "allowed_parameters": { "csr": [], "uri_sans": ["spiffe://td/*"], "ttl": [], "format": ["pem"] },
        },
    });
    let acl = json!({ "data": { "root": false, "exact_paths": exact, "glob_paths": {} } }).to_string();
    let node = Recorder::start(Some(&identity), move |asked| {
        let (state, acl) = (told.load(Ordering::SeqCst), acl.clone());
        let is_look = asked.path.ends_with("resultant-acl") || asked.path.ends_with("capabilities-self");
        if is_look && state == 3 {
            told.store(1, Ordering::SeqCst);
        }
        async move {
            match state {
                _ if !is_look => answer(200, "", LOOKED_UP),
                0 => answer(503, "", "{}"),
                1 => answer(200, "", &acl),
                3 => answer(403, "", r#"{"errors":["permission denied","invalid token"]}"#),
                _ => answer(403, "", r#"{"errors":["permission denied"]}"#),
            }
        }
    })
    .await;
    let at = || addresses(&[format!("https://{}", node.address())]);
    let settings = || Settings::new(at(), ca_file.clone());
    let role = pki::read_role(&issuer.mount, &name("r"));
    let roles = || node.asked().into_iter().filter(|one| one.path.contains("/roles/")).count();

    let session = Session::open(settings(), given("t"), narrow());
    let trouble = session.call(&role).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Unavailable { status: 503, .. }), "{trouble}");
    assert!(session.client.status().borrow().is_logged_in());
    assert_eq!((roles(), session.client.status().borrow().trouble.clone()), (0, Some(trouble)));
    // It is looked at again by itself, and the good look ends the trouble.
    state.store(1, Ordering::SeqCst);
    eventually("it is used when it is known to be narrow", async || session.call(&role).await).await;
    let status = session.client.status().borrow().clone();
    assert_eq!((status.trouble, status.breadth), (None, Some(Breadth::Narrow { missing: Vec::new() })));
    // What is known stands when it is not to be had for a moment; of other credentials nothing is known.
    state.store(0, Ordering::SeqCst);
    session.client.look_again();
    eventually("the failed look is noted", async || {
        let trouble = session.client.status().borrow().trouble.clone();
        trouble.map(drop).ok_or("no trouble")
    })
    .await;
    session.call(&role).await.unwrap();
    session.client.replace(given("other")).await;
    eventually("the other token is not used", async || match session.call(&role).await {
        Err(Trouble::Unavailable { status: 503, .. }) => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(session.client.status().borrow().breadth.is_none());

    // Not provable is another thing than not known: it is used, and said.
    state.store(2, Ordering::SeqCst);
    let session = Session::open(settings(), given("t"), narrow());
    session.call(&role).await.unwrap();
    let breadth = session.client.status().borrow().breadth.clone();
    assert!(matches!(breadth, Some(Breadth::NotProvable { probed: 0, .. })), "{breadth:?}");
    // And one that is not known when it is looked at is got anew; the call waits for that.
    state.store(3, Ordering::SeqCst);
    let session = Session::open(settings(), given("t"), narrow());
    session.call(&role).await.unwrap();
    assert_eq!(session.logged_in().await, 2);
}

#[tokio::test]
async fn a_given_token_that_one_node_forgets_is_looked_up_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, ca_file) = loopback(folder.path());
    // The first call is refused as of an unknown token, and so is any other token than the first.
    let refusals = Arc::new(AtomicUsize::new(0));
    let refused = Arc::clone(&refusals);
    let node = Recorder::start(Some(&identity), move |asked| {
        let is_known = asked.header("x-vault-token") == "t";
        let is_refused = asked.path.contains("/roles/") && refused.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            match is_known && !is_refused {
                true => answer(200, "", LOOKED_UP),
                false => answer(403, "", r#"{"errors":["permission denied","invalid token"]}"#),
            }
        }
    })
    .await;
    let settings = Settings::new(addresses(&[format!("https://{}", node.address())]), ca_file);
    let session = Session::open(settings, given("t"), None);
    let role = pki::read_role(&mount("pki"), &name("r"));
    session.call(&role).await.unwrap();
    assert_eq!((refusals.load(Ordering::SeqCst), session.logged_in().await), (2, 2));
    // One that Vault never knew replaces nothing, and it is said.
    session.client.replace(given("unknown")).await;
    session.reason(NotLoggedIn::TokenRevoked).await;
    session.call(&role).await.unwrap();
    assert_eq!(session.logged_in().await, 2);
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_no_outage() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let session = Session::open(settings(&vault), given(vault.root_token()), None);
    pki.sign(&session).await.unwrap();
    let quota = json!({ "path": "pki/", "rate": 1.0, "interval": "30s", "block_interval": "2s" });
    vault.write("sys/quotas/rate-limit/pki", quota).await;
    let mut last = None;
    for _ in 0..3 {
        last = pki.sign(&session).await.err();
    }
    let trouble = last.expect("the quota is used up");
    assert!(matches!(&trouble, Trouble::Busy { retry_after: None, .. }), "{trouble}");
    vault.write("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await;
    let trouble = pki.sign(&session).await.unwrap_err();
    let pause = trouble.retry_after().expect("Vault says when").from_now(SystemClock.now());
    assert!(pause <= Duration::from_secs(31), "{pause:?}");
    // Anything else goes on meanwhile, with the same token.
    let trouble = session.call(&pki::read_role(&mount("other"), &name("x"))).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::NotFound { said } if said.has("no handler for route")), "{trouble}");
    assert_eq!(session.logged_in().await, 1);
}

#[tokio::test]
async fn a_cluster_whose_active_node_is_killed_is_found_again_without_hands() {
    let Some(mut vault) = Vault::start_cluster(2).await else { return };
    let pki = Pki::make(&vault).await;
    let (role_id, secret_id) = vault.approle("credence", &["credence"], Value::Null).await;
    let credentials = || approle(&role_id, SecretId::Plain(secret(&secret_id)));
    let both = Session::open(settings(&vault), credentials(), pki.narrow());
    pki.sign(&both).await.unwrap();
    // The standby alone forwards.
    let only = |index: usize| addresses(&vault.addresses()[index..=index]);
    let standby = Settings::new(only(1), vault.ca_file());
    let standby = Session::open(standby, credentials(), pki.narrow());
    eventually("the standby forwards", async || pki.sign(&standby).await).await;

    vault.kill(0).await;
    // Two nodes are no majority without one: nothing is signed, and what is said is why.
    let trouble = pki.sign(&both).await.unwrap_err();
    assert!(trouble.is_transient(), "{trouble}");
    within(Duration::from_secs(60), "the standby knows that it is cut off", async || {
        match pki.sign(&standby).await {
            Err(trouble @ (Trouble::Election { .. } | Trouble::CutOff | Trouble::Elsewhere { .. })) => {
                Ok(trouble)
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    vault.restart(0).await;
    within(Duration::from_secs(90), "it goes on", async || pki.sign(&both).await).await;
    within(Duration::from_secs(90), "through the other as well", async || pki.sign(&standby).await).await;
}

/// An answer of a server that is no Vault.
fn answer(status: u16, location: &str, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    if !location.is_empty() {
        response.headers_mut().insert("location", location.parse().unwrap());
    }
    response
}

/// What a Vault would say of any token.
const LOOKED_UP: &str = r#"{"data":{"ttl":3600,"renewable":true}}"#;

/// An identity for loopback and the file that vouches for it.
fn loopback(folder: &Path) -> (Identity, std::path::PathBuf) {
    let authority = TestAuthority::root("loopback", SystemClock.now());
    let key = TestKey::generate(TestKeyKind::P256);
    let made = authority.leaf_blueprint("urn:x", &key, SystemClock.now());
    let made = made.with_names(&[dns("localhost"), (0x87, vec![127, 0, 0, 1])]).sign(authority.key());
    let file = folder.join("loopback.pem");
    fs::write(&file, certs::certificates_to_pem([authority.der()])).unwrap();
    (Identity::of(&fixtures::Credential::new(vec![made], key)), file)
}

#[tokio::test]
async fn a_token_never_reaches_a_host_that_was_not_configured() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, ca_file) = loopback(folder.path());
    // Strangers whose certificate would be believed, over https and http: only that they were not configured counts.
    let believed = Recorder::start(Some(&identity), |_| async { answer(200, "", LOOKED_UP) }).await;
    let plain = Recorder::start(None, |_| async { answer(200, "", LOOKED_UP) }).await;
    let targets = [
        format!("https://{}/v1/pki/roles/r", believed.address()),
        format!("http://{}/v1/pki/roles/r", plain.address()),
        format!("https://localhost:{}/v1/pki/roles/r", believed.address().port()),
        "/v1/sys/internal".to_owned(),
    ];
    for status in [301, 302, 303, 307, 308] {
        for target in &targets {
            let location = target.clone();
            let standby = Recorder::start(Some(&identity), move |asked| {
                let location = location.clone();
                async move {
                    if asked.path.ends_with("lookup-self") {
                        answer(200, "", LOOKED_UP)
                    } else {
                        answer(status, &location, "")
                    }
                }
            })
            .await;
            let settings =
                Settings::new(addresses(&[format!("https://{}", standby.address())]), ca_file.clone());
            let session = Session::open(settings, given("hvs.topsecret"), None);
            let trouble = session.call(&pki::read_role(&mount("pki"), &name("r"))).await.unwrap_err();
            let is_told = matches!(&trouble, Trouble::Elsewhere { .. } | Trouble::NotVault { .. });
            assert!(is_told && !trouble.to_string().contains("topsecret"), "{status} {target}: {trouble}");
            let asked = standby.asked();
            assert!(asked.iter().all(|one| one.header("x-vault-token") == "hvs.topsecret"), "{asked:?}");
            assert_eq!(asked.len(), 2, "it was asked who the token is, and once for the role");
        }
    }
    assert_eq!((believed.connections(), plain.connections()), (0, 0));
    // Whoever answers at a configured address without a certificate of the CA file hears nothing.
    let other = tempfile::tempdir().unwrap();
    let (_, other_file) = loopback(other.path());
    let settings = Settings::new(addresses(&[format!("https://{}", believed.address())]), other_file);
    let session = Session::open(settings, given("hvs.topsecret"), None);
    let trouble = session.call(&pki::read_role(&mount("pki"), &name("r"))).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::NotBelieved { .. }), "{trouble}");
    assert!(believed.asked().is_empty());
}

#[tokio::test]
async fn a_standby_that_names_another_configured_node_is_followed_once() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, ca_file) = loopback(folder.path());
    let active = Recorder::start(Some(&identity), |_| async { answer(200, "", LOOKED_UP) }).await;
    let location = format!("https://{}/v1/ignored?x=1", active.address());
    let standby = Recorder::start(Some(&identity), move |_| {
        let location = location.clone();
        async move { answer(307, &location, "") }
    })
    .await;
    let both = [&standby, &active].map(|one| format!("https://{}", one.address()));
    let session = Session::open(Settings::new(addresses(&both), ca_file.clone()), given("t"), None);
    session.call(&pki::read_role(&mount("pki"), &name("r"))).await.unwrap();
    // The path is ours, not that of the redirect; and once found, the active node is asked first.
    let paths: Vec<String> = active.asked().into_iter().map(|one| one.path).collect();
    assert_eq!(paths, ["/v1/auth/token/lookup-self", "/v1/pki/roles/r"]);
    // One that is slow to open has the other dialled beside it.
    assert!(standby.asked().len() <= 1);

    // Two that send us to each other do not send us round and round.
    let other = Arc::new(std::sync::Mutex::new(String::new()));
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let other = Arc::clone(&other);
        let node = Recorder::start(Some(&identity), move |asked| {
            let host = asked.header("host").to_owned();
            let both = other.lock().unwrap().clone();
            let target = both.split(' ').find(|one| !one.ends_with(&host)).unwrap_or_default().to_owned();
            async move { answer(307, &target, "") }
        })
        .await;
        nodes.push(node);
    }
    let both: Vec<String> = nodes.iter().map(|one| format!("https://{}", one.address())).collect();
    *other.lock().unwrap() = both.join(" ");
    let session = Session::open(Settings::new(addresses(&both), ca_file), given("t"), None);
    let trouble = session.call(&pki::list(&mount("pki"))).await.unwrap_err();
    assert!(matches!(trouble, Trouble::Elsewhere { .. }), "{trouble}");
    let lists = nodes.iter().flat_map(Recorder::asked).filter(|one| one.path.contains("issuers")).count();
    assert_eq!(lists, 4);
}

#[tokio::test]
async fn a_signature_whose_answer_is_lost_is_not_asked_for_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let signs = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let seen = Arc::clone(&signs);
    tasks.spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut octets = vec![0; 65536];
            // One request a connection; a signature is swallowed, and anything else answered.
            let count = tcp.read(&mut octets).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&octets[..count]).into_owned();
            if text.contains("/sign/") {
                seen.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let body = LOOKED_UP;
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = tcp.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    let one = Address::parse_insecure_loopback(&format!("http://{address}")).unwrap();
    // A node that could answer stands beside it, and must not be asked.
    let folder = tempfile::tempdir().unwrap();
    let (identity, ca_file) = loopback(folder.path());
    let other = Recorder::start(Some(&identity), |_| async { answer(200, "", LOOKED_UP) }).await;
    let two = Address::parse(&format!("https://{}", other.address())).unwrap();
    let settings = Settings::new(Addresses::try_new(vec![one, two]).unwrap(), ca_file);
    let session = Session::open(settings, given("t"), None);
    session.logged_in().await;
    let issuer = pki::Issuer { mount: mount("pki"), id: name("i") };
    let csr = Csr::build(&SecretKey::generate(KeyKind::P256));
    let trouble = session.call(&issuer.sign(&name("r"), &csr, URI, HOUR)).await.unwrap_err();
    assert!(trouble.is_outcome_unknown(), "{trouble}");
    assert_eq!((signs.load(Ordering::SeqCst), other.asked().len()), (1, 0));
}

#[tokio::test]
async fn a_vault_that_is_silent_or_never_stops_costs_its_time_and_the_next_one_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, ca_file) = loopback(folder.path());
    let good = Recorder::start(Some(&identity), |_| async { answer(200, "", LOOKED_UP) }).await;
    let good = Address::parse(&format!("https://{}", good.address())).unwrap();
    // One takes connections and says nothing, one answers without end.
    let mut tasks = JoinSet::new();
    for endless in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad =
            Address::parse_insecure_loopback(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tasks.spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                let asked = tcp.read(&mut [0; 4096]).await;
                if endless && asked.is_ok() {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let mut sent = tcp.write_all(head.as_bytes()).await;
                    while sent.is_ok() {
                        sent = tcp.write_all(format!("4000\r\n{}\r\n", "x".repeat(0x4000)).as_bytes()).await;
                    }
                }
                open.push(tcp);
            }
        });
        let two = Addresses::try_new(vec![bad.clone(), good.clone()]).unwrap();
        let limit = Duration::from_millis(500);
        let settings = Settings { timeout: limit, ..Settings::new(two, ca_file.clone()) };
        let session = Session::open(settings, given("t"), None);
        session.logged_in().await;
        session.call(&pki::read_role(&mount("pki"), &name("r"))).await.unwrap();
        let settings = Settings {
            timeout: limit,
            ..Settings::new(Addresses::try_new(vec![bad]).unwrap(), ca_file.clone())
        };
        let session = Session::open(settings, given("t"), None);
        let trouble = session.call(&pki::list(&mount("pki"))).await.unwrap_err();
        let words = if endless { "more than 1048576 bytes" } else { "nothing within 500ms" };
        assert!(trouble.is_outcome_unknown() && trouble.to_string().contains(words), "{trouble}");
    }
}

#[tokio::test]
async fn the_ca_file_is_read_again_when_it_is_replaced() {
    let Some(vault) = Vault::start().await else { return };
    vault.pki("pki").await;
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = loopback(folder.path());
    let session = Session::open(
        Settings::new(addresses(&vault.addresses()), file.clone()),
        given(vault.root_token()),
        None,
    );
    let refused = session.call(&pki::list(&mount("pki"))).await.unwrap_err();
    assert!(matches!(&refused, Trouble::NotBelieved { .. }), "{refused}");
    fs::copy(vault.ca_file(), &file).unwrap();
    session.logged_in().await;
    fs::write(&file, "nothing").unwrap();
    // What is open goes on; what is opened needs the file.
    session.call(&pki::list(&mount("pki"))).await.unwrap();
    let another = Session::open(Settings::new(addresses(&vault.addresses()), file), given("t"), None);
    let trouble = another.call(&pki::list(&mount("pki"))).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::File { .. }), "{trouble}");
}

#[tokio::test]
async fn a_slot_in_transit_opens_for_its_purpose_and_no_key_comes_into_being_by_being_used() {
    let Some(vault) = Vault::start().await else { return };
    vault.write("sys/mounts/transit", json!({ "type": "transit" })).await;
    vault.write("transit/keys/credence", json!({ "type": "aes256-gcm96" })).await;
    let slot = transit::Slot { mount: mount("transit"), key: name("credence") };
    let policy = Policy::slot(&slot.mount, &slot.key);
    vault.policy("slot", &policy.to_hcl()).await;
    let token = vault.token(&["slot"], Value::Null).await;
    let session = Session::open(settings(&vault), given(&token), Some((policy, vec![slot.mount.clone()])));
    let key = transit::read_key(&session.call(&slot.read()).await.unwrap()).unwrap();
    assert_eq!((key.latest, key.minimum, key.is_deletable), (1, 1, false));
    assert_eq!(session.client.status().borrow().breadth, Some(Breadth::Narrow { missing: Vec::new() }));

    let root_key: Vec<u8> = (0..32).collect();
    let plain = || SecretBytes::new(Zeroizing::new(root_key.clone()));
    let encrypt = async |purpose: &[u8]| {
        let answer = session.call(&slot.encrypt(&key, &plain(), purpose)).await.unwrap();
        transit::read_ciphertext(&answer).unwrap()
    };
    let open = async |ciphertext: &transit::Ciphertext, purpose: &[u8]| {
        let answer = session.call(&slot.decrypt(ciphertext, purpose)).await.map_err(SlotRefusal::of)?;
        Ok::<_, SlotRefusal>(transit::read_plain(&answer)?.expose_secret().to_vec())
    };
    let first = encrypt(b"store 1").await;
    assert_eq!(first.version(), 1);
    assert_eq!(open(&first, b"store 1").await, Ok(root_key.clone()));
    for purpose in [&b"store 2"[..], b""] {
        assert_eq!(open(&first, purpose).await, Err(SlotRefusal::WrongPurpose));
    }
    // Rotation: anew under the latest version, the old one is open until it is retired.
    vault.write("transit/keys/credence/rotate", json!({})).await;
    let key = transit::read_key(&session.call(&slot.read()).await.unwrap()).unwrap();
    assert_eq!((key.latest, key.minimum), (2, 1));
    let second = encrypt(b"store 1").await;
    assert_eq!(second.version(), 2);
    assert_eq!(open(&first, b"store 1").await, Ok(root_key.clone()));
    vault.write("transit/keys/credence/config", json!({ "min_decryption_version": 2 })).await;
    assert_eq!(open(&first, b"store 1").await, Err(SlotRefusal::TooOld));
    assert_eq!(open(&second, b"store 1").await, Ok(root_key));
    for (text, expected) in
        [("vault:v2:AAAA", SlotRefusal::Malformed), ("vault:v3:AAAA", SlotRefusal::TooNew)]
    {
        let ciphertext = transit::Ciphertext::parse(text).unwrap();
        assert_eq!(open(&ciphertext, b"store 1").await, Err(expected), "{text}");
    }

    // A key that is not there: forbidden to this token; and even a token that may do all reads first.
    let absent = transit::Slot { mount: mount("transit"), key: name("absent") };
    let forbidden = session.call(&absent.read()).await.unwrap_err();
    assert!(matches!(forbidden, Trouble::Forbidden { .. }), "{forbidden}");
    let root = Session::open(settings(&vault), given(vault.root_token()), None);
    let refused = SlotRefusal::of(root.call(&absent.read()).await.unwrap_err());
    assert_eq!(refused, SlotRefusal::NoKey);
    vault.write("transit/keys/rsa", json!({ "type": "rsa-4096" })).await;
    let rsa = transit::Slot { mount: mount("transit"), key: name("rsa") };
    let refused = transit::read_key(&root.call(&rsa.read()).await.unwrap());
    assert_eq!(refused, Err(SlotRefusal::Kind { kind: "rsa-4096".to_owned() }));
    let keys = vault.call(Method::GET, "transit/keys?list=true", &Value::Null).await;
    assert_eq!(keys["data"]["keys"], json!(["credence", "rsa"]));
}

/// What a token may do, as Vault Enterprise says it in the namespace: it stands before every path.
fn within_namespace(text: &str) -> String {
    let mut answer: Value = serde_json::from_str(text).unwrap();
    for member in ["exact_paths", "glob_paths"] {
        let Some(paths) = answer["data"][member].as_object_mut() else { continue };
        let named = std::mem::take(paths).into_iter();
        paths.extend(named.map(|(path, grants)| (format!("teams/mesh/{path}"), grants)));
    }
    answer.to_string()
}

/// The community edition takes any namespace for its own. This is NOT a Vault with namespaces: a proxy of this test
/// that requires the header, strips it, puts the namespace before the paths of what a token may do, and answers as
/// Enterprise does where it is asked for 472 and 473.
#[tokio::test]
async fn every_request_carries_the_namespace_through_a_recording_proxy_that_is_no_vault_enterprise() {
    let Some(vault) = Vault::start().await else { return };
    let pki = Pki::make(&vault).await;
    let (role_id, secret_id) = vault.approle("credence", &["credence"], Value::Null).await;
    let behind = vault.address();
    let status = Arc::new(AtomicUsize::new(0));
    let forced = Arc::clone(&status);
    let proxy = Recorder::start(Some(&vault.identity()), move |mut asked| {
        let forced = u16::try_from(forced.load(Ordering::SeqCst)).unwrap();
        async move {
            if forced > 0 {
                return answer(forced, "", "{}");
            }
            if asked.headers.remove("x-vault-namespace").is_none_or(|value| value != "teams/mesh") {
                return answer(404, "", r#"{"errors":["no handler for route"]}"#);
            }
            match https(behind, None, asked.to_request()).await {
                Ok((status, _, text)) if asked.path.ends_with("resultant-acl") => {
                    answer(status.as_u16(), "", &within_namespace(&text))
                }
                Ok((status, _, text)) => answer(status.as_u16(), "", &text),
                Err(outcome) => answer(502, "", &format!("{outcome:?}")),
            }
        }
    })
    .await;
    let at = || addresses(&[format!("https://{}", proxy.address())]);
    let credentials = || approle(&role_id, SecretId::Plain(secret(&secret_id)));
    let settings = Settings { namespace: Some(mount("teams/mesh")), ..Settings::new(at(), vault.ca_file()) };
    let session = Session::open(settings, credentials(), pki.narrow());
    pki.sign(&session).await.unwrap();
    assert_eq!(session.client.status().borrow().breadth, Some(Breadth::Narrow { missing: Vec::new() }));
    let asked = proxy.asked();
    assert!(asked.len() >= 3 && asked.iter().all(|one| one.header("x-vault-namespace") == "teams/mesh"));
    let token_of = |path: &str| {
        let one =
            asked.iter().find(|one| one.path.contains(path)).unwrap_or_else(|| panic!("{path}: {asked:?}"));
        one.header("x-vault-token").to_owned()
    };
    assert_eq!(token_of("/v1/auth/approle/login"), "", "a login needs no token, and gets none");
    assert!(token_of("/sign/svid").starts_with("hvs."));
    let without = Session::open(Settings::new(at(), vault.ca_file()), credentials(), None);
    without.reason(NotLoggedIn::CredentialsRefused).await;
    for (code, expected) in [(472, Trouble::DisasterRecovery), (473, Trouble::Standby)] {
        status.store(code, Ordering::SeqCst);
        assert_eq!(pki.sign(&session).await.unwrap_err(), expected);
    }
    status.store(0, Ordering::SeqCst);
    pki.sign(&session).await.unwrap();
}
