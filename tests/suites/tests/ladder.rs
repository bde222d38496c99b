//! What a ladder says of Envoy and rustls is what Envoy and rustls do: each flaw of the fixtures is presented to a
//! real Envoy, configured by Credence, and to a rustls server with rustls's own verifier.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a measurement that cannot be made fails the test")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use certs::{Certificate, Context, Ladder, Opinion, Part, Usage, certificates_to_pem};
use fixtures::{Blueprint, Credential, Negative, Oddity, TestKey, TestKeyKind, World, der, dns, oid, uri};
use kit::{
    Envoy, Identity, Outcome, Pair, RustlsPeer, TestWorld, WorldOptions, envoy, eventually, front, get,
    shakes_hands,
};
use spiffe::{Expected, TrustDomain};

/// How one peer took a certificate: whether it let it pass, and what it said.
#[derive(Debug)]
struct Taken {
    accepted: bool,
    words: String,
}

/// Two proxies, a rustls server, and the log of the Envoy that judges.
struct Judges {
    world: TestWorld,
    pair: Pair,
    rustls: RustlsPeer,
    log: PathBuf,
    folder: PathBuf,
}

impl Judges {
    async fn start(name: &'static str, envoy: Envoy) -> Self {
        let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
        let mut world = TestWorld::boot(name, options).await;
        let pair = Pair::start(&mut world).await;
        let signer = world.keys().world();
        let own = Identity::of(&signer.leaf(&world.id("rustls")));
        let rustls = RustlsPeer::start(&own, &signer.anchors()).await;
        for node in ["pay", "web"] {
            post(world.admin(node).await.address(), "logging?connection=debug");
        }
        let log = world.sandbox().path("pay").join("envoy.log");
        let folder = world.sandbox().path("openssl");
        std::fs::create_dir_all(&folder).unwrap();
        Self { world, pair, rustls, log, folder }
    }

    fn signer(&self) -> World {
        self.world.keys().world()
    }

    fn ladder(&self, credential: &Credential, usage: Usage) -> Ladder {
        let ders: Vec<&[u8]> = credential.ders().iter().map(Vec::as_slice).collect();
        let signer = self.signer();
        let anchors = signer.anchors();
        let domain = TrustDomain::parse(self.world.domain()).unwrap();
        let context = Context { anchors: Some(&anchors), ..Context::new(signer.now(), Part::Leaf(usage)) };
        spiffe::explain(&ders, &context, Expected { id: None, domain: Some(&domain) })
    }

    /// Presents it as a client to both.
    async fn judge(&self, shown: &Shown) -> (Taken, Taken) {
        let from = length(&self.log);
        let _ = self.rustls.take_refusals();
        let envoy = shown.to(self.pair.pay, &self.folder).await;
        let rustls = shown.to(self.rustls.address(), &self.folder).await;
        let envoy = Taken { accepted: envoy, words: words_since(&self.log, from, envoy).await };
        let words = eventually("rustls says why", async || {
            let words = self.rustls.take_refusals().join("\n");
            if rustls || !words.is_empty() { Ok(words) } else { Err("nothing yet") }
        })
        .await;
        (envoy, Taken { accepted: rustls, words })
    }
}

/// Something to present, with its key: as one that rustls can sign with, or as PEM for openssl, which signs with
/// keys that no honest library would.
enum Shown {
    Rustls(Credential),
    Openssl(Credential, Vec<u8>),
}

impl Shown {
    /// A flaw with the key that is in its certificate, so that the flaw is what it is refused for.
    fn of(flaw: Negative, signer: &World, identity: &str, folder: &Path) -> Self {
        let key: &[&str] = match flaw {
            Negative::Rsa1024 => &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
            Negative::RsaExponent3 => {
                &["RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"]
            }
            Negative::P224 => &["EC", "-pkeyopt", "ec_paramgen_curve:secp224r1"],
            Negative::ExplicitCurve => {
                &["EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"]
            }
            Negative::AuthorityKeyLeaf => {
                let made = flaw.make(signer, identity);
                let key = TestKey::from_pkcs8_der(TestKeyKind::P256, &signer.issuing().key().pkcs8_der());
                return Self::Rustls(Credential::new(made.ders().to_vec(), key));
            }
            Negative::Sha1 => return Self::Rustls(really_sha1(flaw.make(signer, identity), signer, folder)),
            _ => return Self::Rustls(flaw.make(signer, identity)),
        };
        let key = openssl(&[&["genpkey", "-algorithm"], key].concat(), b"");
        let spki = openssl(&["pkey", "-pubout", "-outform", "DER"], &key);
        let credential = signer.leaf_with(identity, |leaf| Blueprint { spki, ..leaf });
        Self::Openssl(credential, key)
    }

    fn credential(&self) -> &Credential {
        match self {
            Self::Rustls(credential) | Self::Openssl(credential, _) => credential,
        }
    }

    /// Whether the peer at `address` let it in as far as an answer.
    async fn to(&self, address: SocketAddr, folder: &Path) -> bool {
        match self {
            Self::Rustls(credential) => match shakes_hands(address, Some(&Identity::of(credential))).await {
                Outcome::Http { status: 200, .. } => true,
                outcome if outcome.is_refused_by_tls() => false,
                outcome => panic!("{outcome:?}"),
            },
            Self::Openssl(credential, key) => {
                let (address, folder) = (address.to_string(), folder.to_owned());
                let (ders, key) = (credential.ders().to_vec(), key.clone());
                let asked = tokio::task::spawn_blocking(move || s_client(&address, &ders, &key, &folder));
                asked.await.unwrap()
            }
        }
    }
}

/// The same certificate with a signature that really is made with SHA-1.
fn really_sha1(made: Credential, signer: &World, folder: &Path) -> Credential {
    let key = folder.join("issuing.pem");
    std::fs::write(&key, signer.issuing().key().pkcs8_pem()).unwrap();
    let leaf = Certificate::from_der(&made.ders()[0]).unwrap();
    let signature = openssl(&["dgst", "-sha1", "-sign", key.to_str().unwrap()], leaf.to_be_signed());
    let algorithm = der::sequence(&[&der::object_id(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01])]);
    let leaf = der::sequence(&[leaf.to_be_signed(), &algorithm, &der::bit_string(&signature)]);
    let key = TestKey::from_pkcs8_der(TestKeyKind::P256, &made.key().pkcs8_der());
    Credential::new(vec![leaf, made.ders()[1].clone()], key)
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// One request by `openssl s_client`, over TLS 1.3; whether it was answered with 200.
fn s_client(address: &str, ders: &[Vec<u8>], key: &[u8], folder: &Path) -> bool {
    let file = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pem = |ders: &[Vec<u8>]| certificates_to_pem(ders.iter().map(Vec::as_slice)).into_bytes();
    let (leaf, above) = (file("leaf.pem", &pem(&ders[..1])), file("above.pem", &pem(&ders[1..])));
    let key = file("key.pem", key);
    let mut child = Command::new("timeout")
        .args(["8", "openssl", "s_client", "-connect", address, "-tls1_3", "-quiet", "-alpn", "http/1.1"])
        .args(["-cipher", "DEFAULT@SECLEVEL=0", "-cert", &leaf, "-cert_chain", &above, "-key", &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = child.stdout.take().unwrap().read_to_end(&mut answer);
    drop(input);
    let _ = child.wait();
    answer.starts_with(b"HTTP/1.1 200")
}

fn post(admin: SocketAddr, path: &str) {
    let mut tcp = TcpStream::connect(admin).unwrap();
    write!(tcp, "POST /{path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn length(log: &Path) -> usize {
    std::fs::read(log).unwrap().len()
}

/// Why Envoy ended handshakes, from its log; waits until it has written it.
async fn words_since(log: &Path, from: usize, accepted: bool) -> String {
    eventually("Envoy's log says why", async || {
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()[from..]).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("TLS_error:")).collect();
        if accepted || !lines.is_empty() { Ok(lines.join("\n")) } else { Err("nothing yet") }
    })
    .await
}

/// What is wrong with what the ladder says of one peer.
fn disagreement(said: Option<bool>, words: Option<Opinion>, taken: &Taken) -> Option<String> {
    if said != Some(taken.accepted) {
        return Some(format!("the ladder says it passes: {said:?}, it was: {taken:?}"));
    }
    match words {
        Some(Opinion::Refuses(words)) if !taken.words.contains(words) => {
            Some(format!("the ladder quotes {words:?}, it said {:?}", taken.words))
        }
        _ => None,
    }
}

fn compare(name: &str, ladder: &Ladder, envoy: &Taken, rustls: &Taken, wrong: &mut Vec<String>) {
    let refusal = |opinion: fn(&certs::Rung) -> Option<Opinion>| {
        ladder.failures().filter_map(opinion).find(|one| matches!(one, Opinion::Refuses(_)))
    };
    let pairs = [
        ("Envoy", disagreement(ladder.passes_envoy(), refusal(|rung| rung.envoy), envoy)),
        ("rustls", disagreement(ladder.passes_rustls(), refusal(|rung| rung.rustls), rustls)),
    ];
    for (peer, problem) in pairs {
        wrong.extend(problem.map(|problem| format!("{name}, {peer}: {problem}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ladder_says_of_envoy_and_rustls_is_what_they_do() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let judges = Judges::start("ladder-peers", envoy).await;
    let web = judges.world.id("web");
    let mut wrong = Vec::new();
    let mut tried = 0;
    for flaw in Negative::ALL.iter().filter(|flaw| flaw.usage() == Usage::Client) {
        let shown = Shown::of(*flaw, &judges.signer(), &web, &judges.folder);
        let ladder = judges.ladder(shown.credential(), Usage::Client);
        assert!(!ladder.is_passed(), "{}", flaw.name());
        let (envoy, rustls) = judges.judge(&shown).await;
        compare(flaw.name(), &ladder, &envoy, &rustls, &mut wrong);
        tried += 1;
    }
    for oddity in Oddity::ALL {
        // It ends while it is being presented.
        if *oddity == Oddity::LastSecond {
            continue;
        }
        let shown = Shown::Rustls(oddity.make(&judges.signer(), &web));
        let ladder = judges.ladder(shown.credential(), Usage::Client);
        let (envoy, rustls) = judges.judge(&shown).await;
        compare(&format!("{oddity:?}"), &ladder, &envoy, &rustls, &mut wrong);
        tried += 1;
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    judges.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_profile_asks_neither_envoy_nor_rustls_asks() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let judges = Judges::start("ladder-profile", envoy).await;
    let web = judges.world.id("web");
    type Change = fn(Blueprint, &str) -> Blueprint;
    let changes: [(&str, Change); 5] = [
        ("subject", |leaf, _| Blueprint { subject: der::name("Example", "web"), ..leaf }),
        ("serial-entropy", |leaf, _| Blueprint { serial: vec![1, 2, 3, 4], ..leaf }),
        ("lifetime", |leaf, _| {
            let not_after = leaf.not_before + Duration::from_secs(20 * 86_400);
            Blueprint { not_after, ..leaf }
        }),
        ("names", |leaf, id| leaf.with_names(&[uri(id), (0x81, b"a@example.com".to_vec())])),
        ("extensions", |leaf, _| leaf.with(oid::UNKNOWN, false, vec![0x05, 0x00])),
    ];
    for (rule, change) in changes {
        let signer = judges.signer();
        let credential = signer.leaf_with(&web, |leaf| change(leaf, &web));
        let leaf = Certificate::from_der(&credential.ders()[0]).unwrap();
        let issuer = signer.issuing().certificate();
        let ladder = certs::explain_profile(&leaf, Some(issuer), certs::Profile::Workload);
        let failed: Vec<&str> = ladder.failures().map(|rung| rung.rule).collect();
        assert_eq!(failed, [rule]);
        let (envoy, rustls) = judges.judge(&Shown::Rustls(credential)).await;
        let mut wrong = Vec::new();
        compare(rule, &ladder, &envoy, &rustls, &mut wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    let good = judges.signer().leaf_with(&web, |leaf| leaf.with_names(&[uri(&web), dns("web.example")]));
    assert!(judges.judge(&Shown::Rustls(good)).await.0.accepted);
    judges.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_clients_certificate_is_refused_as_the_ladder_says() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let judges = Judges::start("ladder-server", envoy).await;
    let (pay, web) = (judges.world.id("pay"), judges.world.id("web"));
    let log = judges.world.sandbox().path("web").join("envoy.log");
    let at = async |credential: &Credential| {
        let server = RustlsPeer::start(&Identity::of(credential), &[]).await;
        let toward = front("web", judges.pair.web, &web, &pay, server.address());
        judges.world.rest().apply(&toward).await;
        judges.world.synced("web").await;
        server
    };
    let good = judges.signer().leaf(&pay);
    let server = at(&good).await;
    eventually("web reaches a good server", async || match get(judges.pair.web, "/").await {
        Ok((status, text)) if status == 200 && text == "rustls" => Ok(()),
        other => Err(other),
    })
    .await;
    drop(server);
    let flawed = Negative::EkuClientOnly.make(&judges.signer(), &pay);
    let ladder = judges.ladder(&flawed, Usage::Server);
    let from = length(&log);
    let _server = at(&flawed).await;
    let words = eventually("web refuses the flawed server", async || {
        let answer = get(judges.pair.web, "/").await;
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()[from..]).into_owned();
        let line = text.lines().find(|line| line.contains("TLS_error:") && line.contains("purpose"));
        match (answer, line) {
            (Ok((status, _)), Some(line)) if status == 503 => Ok(line.to_owned()),
            (answer, _) => Err(answer),
        }
    })
    .await;
    let failure = ladder.first_failure().unwrap();
    let Some(Opinion::Refuses(quoted)) = failure.envoy else { panic!("{failure:?}") };
    assert!(words.contains(quoted), "{quoted:?}: {words}");
    let error = kit::rustls_refuses_server(&flawed, &judges.signer().anchors(), judges.signer().now());
    let Some(Opinion::Refuses(quoted)) = failure.rustls else { panic!("{failure:?}") };
    assert!(error.as_deref().is_some_and(|error| error.contains(quoted)), "{quoted:?}: {error:?}");
    assert_eq!(kit::rustls_refuses_server(&good, &judges.signer().anchors(), judges.signer().now()), None);
    judges.world.finish().await;
}
