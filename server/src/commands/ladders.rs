//! `cert explain`, `cert lint`: why a certificate is believed or not, rule by rule, and how ladders are printed.

use std::{io::Read, path::Path};

use api::wire;
use certs::{
    Certificate, Clock, Context, Ladder, MAX_FILE_BYTES, Part, Profile, RevocationState, Serial, SerialStart,
    SpkiHash, SubjectAltName, Timestamp, Usage, explain_profile, read_certificates,
};
use serde::Serialize;
use spiffe::{Class, Expected, SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use super::parse_duration;
use crate::{
    cli::{AsPart, ExplainArgs, LintArgs, UsedFor},
    client::{Client, encode},
    clock::SystemClock,
    output::{self, Exit, Failure, count, note},
    tls,
};

/// What `cert explain` found, for programs.
#[derive(Debug, Serialize)]
struct Explained {
    source: String,
    certificates: usize,
    /// Whether Envoy lets it pass all the same; absent when that was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    passes_envoy: Option<bool>,
    /// Whether rustls does.
    #[serde(skip_serializing_if = "Option::is_none")]
    passes_rustls: Option<bool>,
    #[serde(flatten)]
    ladder: Ladder,
}

/// One certificate of `cert lint`, for programs.
#[derive(Debug, Serialize)]
struct Linted {
    source: String,
    /// Counted from 1.
    certificate: usize,
    profile: Profile,
    #[serde(flatten)]
    ladder: Ladder,
}

/// What is to be explained, and against what.
struct Question {
    source: String,
    ders: Vec<Vec<u8>>,
    anchors: Option<Vec<Certificate>>,
    tainted: Vec<SpkiHash>,
    revocation: RevocationState,
    domain: Option<TrustDomain>,
}

pub(super) async fn explain(args: &ExplainArgs) -> Result<Exit, Failure> {
    let question = question(args).await?;
    let identity = args.identity.as_deref().map(identity).transpose()?;
    let key = args.key.as_deref().map(public_half).transpose()?;
    let now = match &args.at {
        None => SystemClock.now(),
        Some(text) => time(text)?,
    };
    let ders: Vec<&[u8]> = question.ders.iter().map(Vec::as_slice).collect();
    let context = Context {
        anchors: question.anchors.as_deref(),
        tainted: &question.tainted,
        key,
        revocation: question.revocation,
        ..Context::new(now, part(args)?)
    };
    let domain = identity.as_ref().map(SpiffeId::trust_domain).or(question.domain.as_ref());
    let ladder = match args.part {
        AsPart::Leaf => spiffe::explain(&ders, &context, Expected { id: identity.as_ref(), domain }),
        AsPart::Issuing | AsPart::Root => certs::explain(&ders, &context),
    };
    let explained = Explained {
        source: question.source,
        certificates: ders.len(),
        passes_envoy: ladder.passes_envoy(),
        passes_rustls: ladder.passes_rustls(),
        ladder,
    };
    output::show(args.output, &explained, explained_text)?;
    Ok(if explained.ladder.is_passed() { Exit::Ok } else { Exit::Failed })
}

fn part(args: &ExplainArgs) -> Result<Part, Failure> {
    if args.part != AsPart::Leaf && args.identity.is_some() {
        return Err(Failure::usage("--for is asked of a leaf", "leave out --as, or --for"));
    }
    Ok(match (args.part, args.usage) {
        (AsPart::Leaf, UsedFor::Both) => Part::Leaf(Usage::Any),
        (AsPart::Leaf, UsedFor::Server) => Part::Leaf(Usage::Server),
        (AsPart::Leaf, UsedFor::Client) => Part::Leaf(Usage::Client),
        (AsPart::Issuing, _) => Part::Issuing(parse_duration("--leaf-lifetime", &args.leaf_lifetime)?),
        (AsPart::Root, _) => Part::Root,
    })
}

async fn question(args: &ExplainArgs) -> Result<Question, Failure> {
    let path = Path::new(&args.subject);
    if args.subject != "-" && !path.exists() {
        let (whole, start) = (args.subject.parse::<Serial>(), args.subject.parse::<SerialStart>());
        if let (Err(_), Err(error)) = (whole, start) {
            let message = format!("there is no file {:?}, and it is no serial number: {error}", args.subject);
            return Err(Failure::new(Exit::NotFound, message, "credence cert list shows serial numbers"));
        }
        return of_server(args).await;
    }
    let contents = read(path)?;
    let anchors = args.bundle.as_deref().map(bundle).transpose()?;
    let domain = anchors.as_deref().and_then(domain_of);
    Ok(Question {
        source: args.subject.clone(),
        ders: contents,
        anchors,
        tainted: Vec::new(),
        revocation: RevocationState::Unasked,
        domain,
    })
}

/// A certificate of the running server, held against what the server trusts.
async fn of_server(args: &ExplainArgs) -> Result<Question, Failure> {
    let client = Client::open(&args.server)?;
    let one: wire::Certificate = client.get(&format!("/certificates/{}", encode(&args.subject))).await?;
    let revocation = revocation(&one);
    let pem = one.pem.ok_or_else(|| {
        let message = format!("certificate {} was intended and not signed", args.subject);
        Failure::new(Exit::NotFound, message, "credence cert list --all shows its state")
    })?;
    let authorities: wire::Page<wire::Authority> = client.get("/authorities").await?;
    let (mut anchors, mut tainted) = (Vec::new(), Vec::new());
    for authority in &authorities.items {
        let source = || format!("authority {}", authority.id);
        let [certificate] = parse(&source(), &contents(&source(), authority.pem.as_bytes())?)?
            .try_into()
            .map_err(|_| unreadable(&source(), "is not one certificate"))?;
        if authority.stolen_since.is_some() {
            tainted.push(certificate.spki_hash());
        }
        if authority.place == "root" && authority.state != "removed" {
            anchors.push(certificate);
        }
    }
    if let Some(root) = &one.root {
        // What workloads believe beside our own roots.
        anchors.extend(parse("the issuer's root", &contents("the issuer's root", root.as_bytes())?)?);
    }
    let anchors = match &args.bundle {
        Some(path) => bundle(path)?,
        None => anchors,
    };
    Ok(Question {
        source: format!("certificate {} of {}", one.serial, one.id),
        ders: contents("the server's answer", pem.as_bytes())?,
        anchors: Some(anchors),
        tainted,
        revocation,
        domain: Some(client.domain().clone()),
    })
}

/// What the server knows of a certificate being revoked: all, if it signed that itself. An issuer beside may have revoked
/// its own without telling.
fn revocation(one: &wire::Certificate) -> RevocationState {
    match one.revoked.as_deref().map(Timestamp::parse_rfc3339) {
        None if one.issuer.is_some() => RevocationState::Unasked,
        None => RevocationState::Good,
        Some(at) => RevocationState::Revoked(at.unwrap_or(Timestamp::EPOCH)),
    }
}

pub(super) fn lint(args: &LintArgs) -> Result<Exit, Failure> {
    let above = args.bundle.as_deref().map(bundle).transpose()?.unwrap_or_default();
    let mut found = Vec::new();
    for path in &args.files {
        let source = path.display().to_string();
        let certificates = parse(&source, &read(path)?)?;
        for (index, certificate) in certificates.iter().enumerate() {
            let profile =
                args.part.map_or_else(|| profile_of(certificate), |part| profile_as(part, certificate));
            let issuer = certificates.iter().chain(&above).find(|one| certificate.is_signed_by(one));
            let ladder = explain_profile(certificate, issuer, profile);
            found.push(Linted { source: source.clone(), certificate: index + 1, profile, ladder });
        }
    }
    output::show(args.output, &found, |found| lint_text(found))?;
    let passed = found.iter().all(|one| one.ladder.is_passed());
    Ok(if passed { Exit::Ok } else { Exit::Failed })
}

fn profile_as(part: AsPart, certificate: &Certificate) -> Profile {
    match part {
        AsPart::Root => Profile::Root,
        AsPart::Issuing => Profile::Issuing,
        AsPart::Leaf => leaf_profile(certificate),
    }
}

/// What a certificate says that it is.
fn profile_of(certificate: &Certificate) -> Profile {
    if !certificate.is_ca() {
        leaf_profile(certificate)
    } else if certificate.is_signed_by(certificate) {
        Profile::Root
    } else {
        Profile::Issuing
    }
}

fn leaf_profile(certificate: &Certificate) -> Profile {
    let ids =
        certificate.uri_names().iter().filter_map(|uri| SpiffeId::parse(std::str::from_utf8(uri).ok()?).ok());
    match ids.filter_map(|id| id.class().ok()).next() {
        Some(Class::Node(_)) => Profile::Node,
        Some(Class::Server) => Profile::Server,
        Some(Class::Operator(_)) => Profile::Operator,
        Some(Class::Workload) | None => Profile::Workload,
    }
}

fn identity(text: &str) -> Result<SpiffeId, Failure> {
    SpiffeId::parse(text).map_err(|error| {
        Failure::usage(format!("--for {text:?}: {error}"), "write spiffe://prod.example/web")
    })
}

fn time(text: &str) -> Result<Timestamp, Failure> {
    Timestamp::parse_rfc3339(text)
        .ok_or_else(|| Failure::usage(format!("--at {text:?} is not a time"), "write 2026-12-24T18:00:00Z"))
}

/// The trust domain that every root of a bundle names.
fn domain_of(anchors: &[Certificate]) -> Option<TrustDomain> {
    let named = |anchor: &Certificate| {
        anchor.subject_alt_names().iter().find_map(|name| match name {
            SubjectAltName::Uri(uri) => TrustDomain::parse(uri.strip_prefix("spiffe://")?).ok(),
            SubjectAltName::Dns(_) | SubjectAltName::Ip(_) | SubjectAltName::Other(_) => None,
        })
    };
    let first = named(anchors.first()?)?;
    anchors.iter().all(|anchor| named(anchor).as_ref() == Some(&first)).then_some(first)
}

fn public_half(path: &Path) -> Result<SpkiHash, Failure> {
    let pem = Zeroizing::new(bytes(path)?);
    tls::public_half(&pem).map_err(|error| unreadable(&path.display().to_string(), &error.to_string()))
}

fn bundle(path: &Path) -> Result<Vec<Certificate>, Failure> {
    parse(&path.display().to_string(), &read(path)?)
}

fn parse(source: &str, ders: &[Vec<u8>]) -> Result<Vec<Certificate>, Failure> {
    let certificates = ders.iter().enumerate().map(|(index, der)| {
        Certificate::from_der(der)
            .map_err(|error| unreadable(source, &format!("certificate {}: {error}", index + 1)))
    });
    certificates.collect()
}

/// The certificates of a file or of standard input, DER.
fn read(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    contents(&path.display().to_string(), &bytes(path)?)
}

fn contents(source: &str, text: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let contents = read_certificates(text).map_err(|error| unreadable(source, &error.to_string()))?;
    if contents.private_keys > 0 {
        let keys = count(contents.private_keys, "private key", "private keys");
        note(&format!("credence: {source} also holds {keys}, which was not looked at"));
    }
    Ok(contents.certificates)
}

/// A whole file, or what of standard input tells that it is too long.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(exit, message, "name a file of PEM or DER, or - for standard input")
    };
    let limit = MAX_FILE_BYTES as u64 + 1;
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(limit).read_to_end(&mut text).map_err(failed)?;
    }
    Ok(text)
}

fn unreadable(source: &str, what: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{source}: {what}"),
        "give it PEM blocks of certificates, or one in DER",
    )
}

fn explained_text(explained: &Explained) -> String {
    let certificates = count(explained.certificates, "certificate", "certificates");
    let mut text = format!("{}: {certificates}\n", explained.source);
    text.push_str(&ladder_text(&(&explained.ladder).into(), output::width(), true));
    let verdict = |passes: Option<bool>| match passes {
        Some(true) => "would let it pass",
        Some(false) => "would refuse it",
        None => "was not measured on all of this",
    };
    let is_unasked =
        |rung: &certs::Rung| rung.rule == "unknown-issuer" && rung.verdict == certs::Verdict::Skipped;
    if explained.ladder.is_passed() && explained.ladder.rungs.iter().any(is_unasked) {
        text.push_str(
            "Whether a root that is trusted vouches for it was not asked: give the roots with --bundle.\n",
        );
    }
    if !explained.ladder.is_passed() {
        let peers = (verdict(explained.passes_envoy), verdict(explained.passes_rustls));
        text.push_str(&format!("Credence refuses it. Envoy {}, rustls {}.\n", peers.0, peers.1));
    }
    text
}

fn lint_text(found: &[Linted]) -> String {
    let mut text = String::new();
    for one in found {
        let profile = output::word(&one.profile);
        text.push_str(&format!("{}, certificate {}, as {profile}\n", one.source, one.certificate));
        text.push_str(&ladder_text(&(&one.ladder).into(), output::width(), false));
        text.push('\n');
    }
    text
}

/// A ladder for people: a tick or a cross for each rule, wrapped to `width`; `whole`, or only what is worth reading.
pub(super) fn ladder_text(ladder: &wire::Ladder, width: usize, whole: bool) -> String {
    let mut text = String::new();
    for link in &ladder.chain {
        let mark = if link.holds { "✓" } else { "✗" };
        text.push_str(&output::wrapped(&format!("{mark} {}", link.subject), width, 2, 4));
        text.push_str(&output::wrapped(&format!("signed by {}", link.signed_by), width, 6, 8));
    }
    if !ladder.chain.is_empty() {
        text.push('\n');
    }
    let name_width = ladder.rungs.iter().map(|rung| rung.rule.len()).max().unwrap_or(0);
    for rung in &ladder.rungs {
        if whole || rung.verdict == "fail" || (rung.verdict == "pass" && !rung.found.is_empty()) {
            text.push_str(&rung_text(rung, name_width, width));
        }
    }
    let number = |verdict: &str| ladder.rungs.iter().filter(|rung| rung.verdict == verdict).count();
    text.push_str(&format!(
        "{}: {} kept, {} broken, {} not asked\n",
        count(ladder.rungs.len(), "rule", "rules"),
        number("pass"),
        number("fail"),
        number("skipped"),
    ));
    text
}

fn rung_text(rung: &wire::Rung, name_width: usize, width: usize) -> String {
    let (mark, words) = match rung.verdict.as_str() {
        "pass" if rung.found.is_empty() => ("✓", rung.asks.clone()),
        "pass" => ("✓", format!("{}, and {}", rung.asks, rung.found)),
        "fail" => ("✗", format!("{}: {}", rung.subject, rung.found)),
        _ => ("-", format!("not asked: {}", rung.found)),
    };
    let indent = name_width + 6;
    let first = format!("{mark} {:name_width$}  {words}", rung.rule);
    let mut text = output::wrapped(&first, width, 2, indent);
    if let Some(sentence) = &rung.sentence {
        text.push_str(&output::wrapped(sentence, width, indent, indent));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cli::Format;

    const ID: &str = "spiffe://prod.example/web";

    fn args(subject: &Path, bundle: Option<PathBuf>) -> ExplainArgs {
        let subject = subject.display().to_string();
        let server = crate::cli::ServerArgs { admin_dir: "/nonexistent".into(), server: None };
        ExplainArgs {
            subject,
            bundle,
            part: AsPart::Leaf,
            usage: UsedFor::Both,
            key: None,
            at: None,
            identity: Some(ID.into()),
            leaf_lifetime: "12h".into(),
            output: Format::Json,
            server,
        }
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    fn world() -> fixtures::World {
        fixtures::World::new("prod.example", SystemClock.now())
    }

    #[tokio::test]
    async fn a_good_chain_passes_and_a_bad_one_or_another_key_fails() {
        let (files, world) = (Files::new(), world());
        let leaf = world.leaf(ID);
        let chain = files.write("web.pem", leaf.chain_pem());
        let key = files.write("web.key", leaf.key().pkcs8_pem());
        let roots = certs::certificates_to_pem([world.root().der()]);
        let bundle = files.write("bundle.pem", &roots);
        let good = ExplainArgs { key: Some(key.clone()), ..args(&chain, Some(bundle.clone())) };
        assert_eq!(explain(&good).await, Ok(Exit::Ok));
        let late = ExplainArgs { at: Some("2099-01-01T00:00:00Z".into()), ..good.clone() };
        assert_eq!(explain(&late).await, Ok(Exit::Failed));
        let other = ExplainArgs { identity: Some("spiffe://prod.example/other".into()), ..good.clone() };
        assert_eq!(explain(&other).await, Ok(Exit::Failed));
        let wrong = files.write("wrong.key", world.leaf(ID).key().pkcs8_pem());
        let wrong = ExplainArgs { key: Some(wrong), ..good.clone() };
        assert_eq!(explain(&wrong).await, Ok(Exit::Failed));
        let der = files.write("web.der", &leaf.ders()[0]);
        assert_eq!(explain(&args(&der, None)).await, Ok(Exit::Ok));
        // A file with its key beside the chain: the key is passed over.
        let both = files.write("both.pem", format!("{}{}", leaf.key().pkcs8_pem(), leaf.chain_pem()));
        assert_eq!(explain(&args(&both, Some(bundle))).await, Ok(Exit::Ok));
    }

    #[test]
    fn says_that_nobody_was_asked_who_vouches_for_it() {
        let world = world();
        let chain = world.leaf(ID);
        let ders: Vec<&[u8]> = chain.ders().iter().map(Vec::as_slice).collect();
        let roots = [Certificate::from_der(world.root().der()).unwrap()];
        for (anchors, is_told) in [(None, true), (Some(roots.as_slice()), false)] {
            let context = Context { anchors, ..Context::new(SystemClock.now(), Part::Leaf(Usage::Any)) };
            let ladder = certs::explain(&ders, &context);
            let explained = Explained {
                source: "web.pem".into(),
                certificates: ders.len(),
                passes_envoy: None,
                passes_rustls: None,
                ladder,
            };
            let text = explained_text(&explained);
            assert!(text.contains(" 0 broken"), "{text}");
            assert_eq!(text.ends_with("give the roots with --bundle.\n"), is_told, "{text}");
        }
    }

    #[test]
    fn a_certificate_that_the_server_revoked_is_broken_and_one_that_it_did_not_is_asked_about() {
        let world = world();
        let chain = world.leaf(ID);
        let ders: Vec<&[u8]> = chain.ders().iter().map(Vec::as_slice).collect();
        let ladder = |revoked: Option<&str>| {
            let one = serde_json::json!({
                "serial": "7f01", "id": ID, "class": "workload", "authority": "a", "purpose": "first",
                "issued": "T", "expires": "T", "expires_in_secs": 1, "state": "issued", "revoked": revoked,
            });
            let revocation = revocation(&serde_json::from_value(one).unwrap());
            let anchors = world.anchors();
            let context = Context {
                anchors: Some(&anchors),
                revocation,
                ..Context::new(world.now(), Part::Leaf(Usage::Any))
            };
            spiffe::explain(&ders, &context, Expected::default())
        };
        let good = ladder(None);
        assert!(good.is_passed());
        let rung = good.rungs.iter().find(|rung| rung.rule == "revoked").unwrap();
        assert_eq!(rung.verdict, certs::Verdict::Pass);
        let revoked = ladder(Some("2026-12-24T18:00:00Z"));
        let text = ladder_text(&(&revoked).into(), 100, true);
        assert!(!revoked.is_passed() && text.contains("✗ revoked"), "{text}");
        assert!(
            text.contains("was revoked at 2026-12-24T18:00:00Z") && text.contains("issued again"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn refuses_what_is_no_certificate_by_name() {
        let (files, world) = (Files::new(), world());
        let check = async |path: &Path, exit: Exit, words: &str| {
            let failure = explain(&args(path, None)).await.unwrap_err();
            assert!(failure.message.contains(words), "{}", failure.message);
            assert_eq!(failure.exit, exit);
        };
        check(&files.write("junk", "hello"), Exit::Failed, "neither PEM nor a DER certificate").await;
        check(Path::new("/nonexistent/x.pem"), Exit::NotFound, "no serial number").await;
        let key = files.write("key.pem", world.leaf(ID).key().pkcs8_pem());
        check(&key, Exit::Failed, "no certificate").await;
        check(&files.write("large", vec![b'x'; MAX_FILE_BYTES + 1]), Exit::Failed, "at most").await;
        let chain = files.write("web.pem", world.leaf(ID).chain_pem());
        let wrong = ExplainArgs { part: AsPart::Root, ..args(&chain, None) };
        assert_eq!(explain(&wrong).await.unwrap_err().exit, Exit::Usage);
        let wrong = ExplainArgs { key: Some(chain.clone()), ..args(&chain, None) };
        assert!(explain(&wrong).await.unwrap_err().message.contains("no private key"));
    }

    #[test]
    fn lints_each_certificate_as_what_it_says_it_is() {
        let (files, world) = (Files::new(), world());
        let lint_file = |path: PathBuf, bundle: Option<PathBuf>| {
            lint(&LintArgs { files: vec![path], bundle, part: None, output: Format::Json })
        };
        let leaf =
            |credential: &fixtures::Credential| certs::certificates_to_pem([credential.ders()[0].as_slice()]);
        let issuing = files.write("issuing.pem", certs::certificates_to_pem([world.issuing().der()]));
        let root = files.write("root.pem", certs::certificates_to_pem([world.root().der()]));
        let good = files.write("leaf.pem", leaf(&world.leaf(ID)));
        assert_eq!(lint_file(good.clone(), Some(issuing)), Ok(Exit::Ok));
        assert_eq!(lint_file(good, None), Ok(Exit::Ok));
        assert_eq!(lint_file(root, None), Ok(Exit::Ok));
        let odd = world.leaf_with(ID, |leaf| fixtures::Blueprint { serial: vec![1, 2], ..leaf });
        assert_eq!(lint_file(files.write("odd.pem", leaf(&odd)), None), Ok(Exit::Failed));
    }

    #[test]
    fn the_reference_names_every_rule() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/certificates.md");
        let page = std::fs::read_to_string(page).unwrap();
        let world = world();
        let leaf = world.leaf(ID);
        let context = Context::new(world.now(), Part::Leaf(Usage::Any));
        let whole = spiffe::explain(&[&leaf.ders()[0]], &context, Expected::default());
        let certificate = Certificate::from_der(&leaf.ders()[0]).unwrap();
        let profile = explain_profile(&certificate, None, Profile::Workload);
        let brought = certs::explain_unreadable("");
        for rung in whole.rungs.iter().chain(&profile.rungs).chain(&brought.rungs) {
            let row = format!("| `{}` | {} |", rung.rule, rung.asks);
            assert!(page.contains(&row), "docs/reference/certificates.md lacks {row}");
        }
    }

    #[test]
    fn a_ladder_is_wrapped_and_says_what_to_do() {
        let world = world();
        let expired = fixtures::Negative::Expired.make(&world, ID);
        let ders: Vec<&[u8]> = expired.ders().iter().map(Vec::as_slice).collect();
        let anchors = world.anchors();
        let context =
            Context { anchors: Some(&anchors), ..Context::new(world.now(), Part::Leaf(Usage::Any)) };
        let ladder = wire::Ladder::from(&spiffe::explain(&ders, &context, Expected::default()));
        let text = ladder_text(&ladder, 80, true);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("✗ expired") && text.contains("certificate has expired\""), "{text}");
        assert!(text.contains("renew it"), "{text}");
        let names = |mark: &str| text.lines().filter(|line| line.trim_start().starts_with(mark)).count();
        assert_eq!(names("✗ expired"), 1);
        assert!(!ladder_text(&ladder, 80, false).contains("✓ parse"));
    }
}
