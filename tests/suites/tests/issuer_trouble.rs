//! A Vault in trouble costs itself alone: it is late, out of reach or over its quota, its tokens are revoked or may
//! suddenly do too much; nodes renew their certificates and are told of changes in the same seconds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::Duration;

use certs::{Certificate, Clock, Csr, KeyKind, SecretKey, certificates_from_pem, certificates_to_pem};
use fixtures::{Blueprint, TestAuthority, TestKey, TestKeyKind, uri};
use futures::future::join_all;
use kit::{
    CDS, Config, DeltaStream, EDS, Identity, Line, Load, LoadPlan, Pair, Renewals, SDS, SystemClock,
    TestWorld, Vault, VaultPki, WorldOptions, XdsClient, back, endpoints, envoy, jwt_by, secret_of, within,
};
use proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use serde_json::{Value, json};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(90);
/// By how much a Vault that is late is so. Nobody who has nothing to do with it waits for as long as one of its answers.
const LATE: Duration = Duration::from_secs(2);
/// How often neighbours are changed and renew while leaves of a late Vault are waited for.
const LIVES: usize = 4;
const UPSTREAM: &str = "watched-upstream";

/// Nodes that want nothing of a Vault: they are pushed configuration, and renew their certificates.
struct Neighbours {
    streams: Vec<DeltaStream>,
    renewals: Vec<Renewals>,
    changes: u16,
}

impl Neighbours {
    async fn settle(world: &TestWorld) -> Self {
        let mut this = Self { streams: Vec::new(), renewals: Vec::new(), changes: 0 };
        world.rest().apply(&back("watched", TestWorld::free_port(), &[])).await;
        world.rest().apply(&this.change()).await;
        let identity = world.id("watched");
        let bodies = names()
            .map(|name| json!({ "node": name, "identities": [identity], "labels": { "app": "watched" } }));
        world.enroll_all(bodies).await;
        this.connect(world).await;
        this
    }

    async fn connect(&mut self, world: &TestWorld) {
        let signer = world.keys().world();
        (self.streams, self.renewals) = (Vec::new(), Vec::new());
        for name in names() {
            let identity = Identity::of(&signer.leaf(&world.node_id(&name)));
            self.renewals.push(Renewals::open(world.ports().xds, &identity).await.unwrap());
            let mut stream = XdsClient::new(world.ports().xds, &identity).delta(&name, "default");
            for (type_url, names) in [(CDS, &[][..]), (EDS, &[UPSTREAM][..])] {
                stream.subscribe(type_url, names).await;
                acknowledge(&mut stream, type_url).await;
            }
            self.streams.push(stream);
        }
    }

    fn change(&mut self) -> String {
        self.changes += 1;
        endpoints(UPSTREAM, "default", &[([127, 0, 0, 1], 10_000 + self.changes).into()])
    }

    /// Changes something, and has each node renew its certificate: nobody waits.
    async fn live(&mut self, world: &TestWorld, meanwhile: &str) {
        let change = self.change();
        let began = Instant::now();
        let pushed = join_all(self.streams.iter_mut().map(|stream| acknowledge(stream, EDS)));
        let renewed = join_all(self.renewals.iter_mut().map(async |connection| {
            let key = SecretKey::generate(KeyKind::P256);
            connection.renew(Csr::build(&key)).await.unwrap();
        }));
        tokio::join!(world.rest().apply(&change), pushed, renewed);
        let took = began.elapsed();
        assert!(took < LATE, "{meanwhile}: pushes and renewals took {took:?}");
    }
}

fn names() -> impl Iterator<Item = String> {
    (0..4).map(|number| format!("watched-{number}"))
}

async fn acknowledge(stream: &mut DeltaStream, type_url: &str) {
    let response = stream.next().await.unwrap();
    assert_eq!(response.type_url, type_url);
    stream.ack(&response).await;
}

/// An issuer of its own in a Vault: an engine, a role, and the policy that is printed for it.
struct Issuer {
    name: &'static str,
    pki: VaultPki,
    root: Certificate,
    policy: String,
}

impl Issuer {
    async fn new(world: &TestWorld, vault: &Vault, name: &'static str) -> Self {
        let pki = vault.pki(name).await;
        vault.role(name, "svid", world.domain(), json!({})).await;
        std::fs::write(world.sandbox().path(&format!("{name}.pem")), &pki.root).unwrap();
        let print = ["issuer", "add", "vault", name, "--mount", name, "--issuer", &pki.issuer];
        let (code, policy, words) =
            world.run(&[&print[..], &["--role", "svid", "--print-policy"]].concat()).await;
        assert_eq!(code, 0, "{words}");
        vault.policy(name, &policy).await;
        let root = Certificate::from_der(&certificates_from_pem(pki.root.as_bytes()).unwrap()[0]).unwrap();
        Self { name, pki, root, policy }
    }

    /// Adds it with the words of a login, and has it sign.
    async fn add(&self, world: &TestWorld, vault: &Vault, address: &str, login: &[&str]) {
        let (ca_file, anchor) = (vault.ca_file().display().to_string(), format!("{}.pem", self.name));
        let words = ["issuer", "add", "vault", self.name, "--addr", address, "--ca-file", &ca_file];
        let of = ["--mount", self.name, "--issuer", &self.pki.issuer, "--role", "svid"];
        let of = [&of[..], &["--trust-anchor", &anchor]].concat();
        let (code, out, words) = world.run(&[&words[..], &of, login].concat()).await;
        assert_eq!(code, 0, "{}: {out} {words}", self.name);
        self.migrate(world).await;
    }

    async fn migrate(&self, world: &TestWorld) {
        world.command(&["issuer", "migrate", "--to", self.name, "--yes"]).await;
        within(LONG, &format!("{} signs", self.name), async || match self.standing(world).await {
            one if one["state"] == "signs" => Ok(()),
            one => Err(one),
        })
        .await;
    }

    async fn standing(&self, world: &TestWorld) -> Value {
        let listed = world.command(&["issuer", "list"]).await;
        let all = listed.as_array().unwrap();
        all.iter().find(|one| one["name"] == self.name).unwrap_or_else(|| panic!("{listed:#}")).clone()
    }

    /// Waits until its trouble is said, in these words, in the list and as a metric.
    async fn says(&self, world: &TestWorld, words: &str) {
        let one =
            within(LONG, &format!("{}: {words}", self.name), async || match self.standing(world).await {
                one if one["problem"].to_string().contains(words) => Ok(one),
                one => Err(one),
            })
            .await;
        assert!(world.metric("credence_issuer_down").await > 0.0, "{one:#}");
    }

    /// Waits until there is nothing to say.
    async fn is_well(&self, world: &TestWorld) {
        within(LONG, &format!("{} is well", self.name), async || match self.standing(world).await {
            one if one["problem"].is_null() && one["failures"] == 0 => Ok(()),
            one => Err(one),
        })
        .await;
        let down = world.metric("credence_issuer_down").await;
        assert_eq!(down, 0.0, "{}", self.standing(world).await);
    }

    /// Somebody who wants a leaf that nobody else has.
    async fn wanted(&self, world: &TestWorld, identity: &str) -> DeltaStream {
        let node = world.node(&format!("{identity}-host"), &[identity]).await;
        let mut stream = world.xds(&node).delta(&node.id, &node.namespace);
        stream.subscribe(SDS, &["default"]).await;
        stream
    }

    /// It comes, and this one has signed it.
    async fn arrives(&self, mut stream: DeltaStream) {
        let response =
            stream.next_within(LONG).await.unwrap_or_else(|status| panic!("{}: {status}", self.name));
        self.is_of_it(&response);
    }

    fn is_of_it(&self, response: &DeltaDiscoveryResponse) {
        let (chain, key) = secret_of(response);
        let leaf = Identity::from_pem(&chain, &key).leaf();
        assert!(leaf.is_signed_by(&self.root), "{}: {:?} signed it", self.name, leaf.issuer());
    }
}

/// Sees to it that a certificate with a common name logs in; the words of that login.
async fn certificate_login(vault: &Vault, policy: &str) -> Vec<String> {
    let authority = TestAuthority::root("corp", SystemClock.now());
    vault.write("sys/auth/cert", json!({ "type": "cert" })).await;
    let role = json!({
        "certificate": certificates_to_pem([authority.der()]), "allowed_uri_sans": "spiffe://td/credence",
        "token_policies": [policy],
    });
    vault.write("auth/cert/certs/credence", role).await;
    let key = TestKey::generate(TestKeyKind::P256);
    let made = authority.leaf_blueprint("spiffe://td/credence", &key, SystemClock.now());
    let made = Blueprint { subject: fixtures::der::name("Corp", "credence"), ..made };
    let made = made.with_names(&[uri("spiffe://td/credence")]).sign(authority.key());
    let path = |name: &str| vault.folder().join(name).display().to_string();
    std::fs::write(path("client.pem"), certificates_to_pem([made.as_slice()])).unwrap();
    std::fs::write(path("client.key"), key.pkcs8_pem()).unwrap();
    let words = ["--login", "certificate", "--login-role", "credence", "--client-certificate"];
    let files = [path("client.pem"), "--client-key".to_owned(), path("client.key")];
    words.map(String::from).into_iter().chain(files).collect()
}

/// The same for a JWT.
async fn jwt_login(vault: &Vault, policy: &str) -> Vec<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let key = TestKey::generate(TestKeyKind::P256);
    let public = STANDARD.encode(key.spki_der());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
    vault.write("sys/auth/jwt", json!({ "type": "jwt" })).await;
    let config = json!({ "jwt_validation_pubkeys": [pem], "bound_issuer": "https://issuer.example" });
    vault.write("auth/jwt/config", config).await;
    let role = json!({
        "role_type": "jwt", "bound_audiences": ["vault"], "user_claim": "sub", "token_policies": [policy],
    });
    vault.write("auth/jwt/role/credence", role).await;
    let file = vault.folder().join("token.jwt");
    std::fs::write(&file, jwt_by(&key, "vault")).unwrap();
    let words = ["--login", "jwt", "--login-role", "credence", "--token-path"];
    words.map(String::from).into_iter().chain([file.display().to_string()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_survive_the_loss_of_their_token_a_given_one_alarms_and_a_broad_one_is_not_used() {
    let Some(vault) = Vault::start().await else { return };
    let mut world = TestWorld::boot("issuer-trouble-token", WorldOptions::default()).await;
    let mut neighbours = Neighbours::settle(&world).await;
    let address = &vault.addresses()[0];
    let mut roots = Vec::new();

    // By each method that can log in again: its tokens are revoked, and the next leaf comes all the same.
    let (role_id, secret_id) = vault.approle("credence", &["approle"], json!({})).await;
    std::fs::write(world.sandbox().path("secret-id"), secret_id).unwrap();
    let approle = ["--login", "approle", "--role-id", &role_id, "--credential-file", "secret-id"];
    let logins = [
        ("approle", approle.map(String::from).to_vec()),
        ("cert", certificate_login(&vault, "cert").await),
        ("jwt", jwt_login(&vault, "jwt").await),
    ];
    for (method, login) in &logins {
        let issuer = Issuer::new(&world, &vault, method).await;
        issuer.add(&world, &vault, address, &login.iter().map(String::as_str).collect::<Vec<_>>()).await;
        issuer.arrives(issuer.wanted(&world, &format!("{method}-before")).await).await;
        vault.write(&format!("sys/leases/revoke-prefix/auth/{method}"), json!({ "sync": true })).await;
        issuer.arrives(issuer.wanted(&world, &format!("{method}-after")).await).await;
        issuer.is_well(&world).await;
        neighbours.live(&world, "a token was revoked").await;
        roots.push(issuer.root);
    }

    // A token that somebody gave cannot be replaced: it is said, whoever waits for a leaf waits on, nobody else does.
    let given = Issuer::new(&world, &vault, "given").await;
    let token = vault.token(&["given"], json!({})).await;
    std::fs::write(world.sandbox().path("token"), &token).unwrap();
    given.add(&world, &vault, address, &["--login", "token", "--credential-file", "token"]).await;
    given.arrives(given.wanted(&world, "given-before").await).await;
    vault.write("auth/token/revoke", json!({ "token": token })).await;
    let waits = given.wanted(&world, "given-after").await;
    given.says(&world, "the token was revoked").await;
    neighbours.live(&world, "a given token was revoked").await;
    std::fs::write(world.sandbox().path("token"), vault.token(&["given"], json!({})).await).unwrap();
    let (code, out, words) =
        world.run(&["issuer", "credentials", "given", "--credential-file", "token"]).await;
    assert_eq!(code, 0, "{out} {words}");
    given.arrives(waits).await;
    given.is_well(&world).await;

    // What a token may do grows behind it: at its next login that is found, and the issuer is not asked any more.
    let narrow = given.policy.clone();
    let wide = format!("{narrow}path \"given/sign-verbatim\" {{ capabilities = [\"update\"] }}\n");
    vault.policy("given", &wide).await;
    std::fs::write(world.sandbox().path("token"), vault.token(&["given"], json!({})).await).unwrap();
    world.kill().await;
    world.start().await;
    world.read_operator();
    let waits = given.wanted(&world, "given-broad").await;
    given.says(&world, "given/sign-verbatim (update)").await;
    neighbours.connect(&world).await;
    neighbours.live(&world, "a token may do too much").await;
    let listed = world.command(&["cert", "list"]).await;
    let of = |name: &str| listed.as_array().unwrap().iter().filter(|one| one["id"] == world.id(name)).count();
    let counts = (of("given-before"), of("given-broad"));
    assert_eq!(counts, (1, 0), "an issuer whose token may do too much was asked: {listed:#}");
    // Narrowed in Vault, and tried: the token that is in use is looked at again.
    vault.policy("given", &narrow).await;
    let (code, out, words) = world.run(&["issuer", "test", "given"]).await;
    assert_eq!(code, 0, "{out} {words}");
    given.arrives(waits).await;
    given.is_well(&world).await;
    roots.push(given.root);
    drop(neighbours);
    world.finish_beside(&roots).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_late_a_line_that_is_cut_and_a_quota_cost_the_vault_alone() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let Some(vault) = Vault::start().await else { return };
    let mut world = TestWorld::boot(
        "issuer-trouble-line",
        WorldOptions { envoy: Some(envoy), ..WorldOptions::default() },
    )
    .await;
    let mut neighbours = Neighbours::settle(&world).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let line = Line::start(vault.address()).await;
    let corp = Issuer::new(&world, &vault, "corp").await;
    let (role_id, secret_id) = vault.approle("credence", &["corp"], json!({})).await;
    std::fs::write(world.sandbox().path("secret-id"), secret_id).unwrap();
    let login = ["--login", "approle", "--role-id", &role_id, "--credential-file", "secret-id"];
    corp.add(&world, &vault, &format!("https://{}", line.address()), &login).await;
    corp.arrives(corp.wanted(&world, "quick").await).await;

    // Late: its leaves come all the same, at once and not one after the other. All but one need a connection first, which
    // is as late, so that they are waited for in the same seconds.
    line.slow(LATE);
    let began = Instant::now();
    let waiting = join_all(["late-1", "late-2", "late-3"].map(|name| corp.wanted(&world, name))).await;
    for _ in 0..LIVES {
        neighbours.live(&world, "a Vault answers late").await;
    }
    let lived = began.elapsed();
    join_all(waiting.into_iter().map(|stream| corp.arrives(stream))).await;
    let took = began.elapsed();
    assert!(
        lived < LATE * 2 && took >= LATE * 2,
        "{LIVES} changes took {lived:?}, leaves came after {took:?}"
    );
    println!("issuer trouble: {LIVES} changes and renewals within {lived:?}, leaves after {took:?}");
    line.mend();
    corp.is_well(&world).await;

    // Cut: said at once; what is wanted meanwhile comes when it is back.
    line.cut();
    let waits = corp.wanted(&world, "cut").await;
    corp.says(&world, "cannot reach").await;
    neighbours.live(&world, "a Vault is out of reach").await;
    line.mend();
    corp.arrives(waits).await;
    corp.is_well(&world).await;

    // A quota that is used up, which is no outage.
    let quota = json!({ "path": "corp/", "rate": 1.0, "interval": "60s" });
    vault.write("sys/quotas/rate-limit/corp", quota).await;
    let waiting = join_all(["busy-1", "busy-2", "busy-3"].map(|name| corp.wanted(&world, name))).await;
    corp.says(&world, "a quota of Vault is used up").await;
    neighbours.live(&world, "a Vault is busy").await;
    vault.call(http::Method::DELETE, "sys/quotas/rate-limit/corp", &Value::Null).await;
    join_all(waiting.into_iter().map(|stream| corp.arrives(stream))).await;
    corp.is_well(&world).await;

    let report = load.finish_unharmed(500).await;
    println!("issuer trouble: {} requests, {} failed", report.total, report.failed);
    for node in ["web", "pay"] {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(!stats.is_empty() && stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
    drop(neighbours);
    world.finish_beside(&[corp.root]).await;
}

/// So that a renewal that failed is tried again soon: after a tenth of what is left.
fn short_lives(config: &mut Config) {
    config.lifetimes.leaf = Duration::from_secs(90);
}

/// Has the leaf of an identity replaced.
async fn revoke(world: &TestWorld, identity: &str) {
    let (listed, id) = (world.command(&["cert", "list"]).await, world.id(identity));
    let leaf = listed.as_array().unwrap().iter().find(|one| one["id"] == id);
    let serial = leaf.unwrap_or_else(|| panic!("{listed:#}"))["serial"].as_str().unwrap();
    world.command(&["cert", "revoke", serial, "--yes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_active_node_is_killed_costs_itself_alone_and_goes_on_at_another() {
    let Some(mut vault) = Vault::start_cluster(3).await else { return };
    let options = WorldOptions { adjust: short_lives, ..WorldOptions::default() };
    let world = TestWorld::boot("issuer-trouble-leader", options).await;
    let mut neighbours = Neighbours::settle(&world).await;
    let corp = Issuer::new(&world, &vault, "corp").await;
    let (role_id, secret_id) = vault.approle("credence", &["corp"], json!({})).await;
    std::fs::write(world.sandbox().path("secret-id"), secret_id).unwrap();
    let login = ["--login", "approle", "--role-id", &role_id, "--credential-file", "secret-id"];
    let nodes = vault.addresses();
    let others = ["--addr", &nodes[1], "--addr", &nodes[2]];
    corp.add(&world, &vault, &nodes[0], &[&login[..], &others].concat()).await;
    corp.arrives(corp.wanted(&world, "before").await).await;

    // One of three: those that are left elect another, which is found.
    let began = Instant::now();
    let first = vault.active().await;
    vault.kill(first).await;
    let waiting = join_all(["elected-1", "elected-2"].map(|name| corp.wanted(&world, name))).await;
    for _ in 0..LIVES {
        neighbours.live(&world, "a Vault has no active node").await;
    }
    join_all(waiting.into_iter().map(|stream| corp.arrives(stream))).await;
    let elected = began.elapsed();
    corp.is_well(&world).await;

    // One of two: the one that is left is no majority, so that renewals and whoever is new wait until the other is back.
    let active = vault.active().await;
    vault.expel(first, active).await;
    let mut kept = corp.wanted(&world, "kept").await;
    corp.is_of_it(&kept.next_within(LONG).await.unwrap());
    vault.kill(active).await;
    revoke(&world, "kept").await;
    let new = corp.wanted(&world, "new").await;
    for _ in 0..LIVES {
        neighbours.live(&world, "a Vault is no majority").await;
    }
    corp.says(&world, "Vault").await;
    neighbours.live(&world, "a Vault has been no majority for a while").await;
    vault.restart(active).await;
    let back = Instant::now();
    tokio::join!(corp.arrives(kept), corp.arrives(new));
    let renewed = back.elapsed();
    corp.is_well(&world).await;
    println!(
        "issuer trouble: leaves {elected:?} after the active node of three was killed, and {renewed:?} after that of two \
         was back"
    );
    drop(neighbours);
    world.finish_beside(&[corp.root]).await;
}
