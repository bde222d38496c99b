//! `ca csr`, `ca install`: issuing authorities that somebody else signs.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use api::wire;
use base64::{Engine, engine::general_purpose::STANDARD};
use certs::SecretKey;
use zeroize::Zeroizing;

use super::{done, ladders, may_go_on, rotation};
use crate::{
    cli::{CsrArgs, InstallArgs},
    client::{Client, encode},
    output::{self, Exit, Failure, note},
};

const REQUEST: &str = "/authorities/request";

pub(super) async fn csr(args: &CsrArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    if args.drop {
        let path = |dry_run| format!("{REQUEST}?dry_run={dry_run}&reason={}", encode(&args.reason));
        let planned: wire::Done = client.delete(&path(true)).await?;
        if args.change.dry_run {
            return done(&args.change, &planned);
        }
        if !args.change.yes {
            may_go_on(&args.change, &format!("{}\ndrop it?", planned.summary))?;
        }
        return done(&args.change, &client.delete(&path(false)).await?);
    }
    let mut wanted = wire::RequestAuthority { renew: args.new, dry_run: true, reason: args.reason.clone() };
    let planned: wire::AuthorityRequest = client.post(REQUEST, &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, request_text)?;
        return Ok(Exit::Ok);
    }
    if args.new && !args.change.yes && has_pending(&client).await? {
        let question = "make another request, and destroy the key of the one that is pending?";
        may_go_on(&args.change, question)?;
    }
    wanted.dry_run = false;
    let made: wire::AuthorityRequest = client.post(REQUEST, &wanted).await?;
    if let (Some(path), Some(pem)) = (&args.out, &made.pem) {
        write(path, pem)?;
        note(&format!("credence: {} holds the request", path.display()));
        note("credence: have it signed, then: credence ca install FILE");
    }
    let to_screen = args.out.is_none();
    output::show(args.change.output, &made, |made| {
        if to_screen { made.pem.clone().unwrap_or_default() } else { request_text(made) }
    })?;
    Ok(Exit::Ok)
}

async fn has_pending(client: &Client) -> Result<bool, Failure> {
    match client.get::<wire::AuthorityRequest>(REQUEST).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.exit == Exit::NotFound => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn request_text(request: &wire::AuthorityRequest) -> String {
    match (&request.authority, &request.made, &request.by) {
        (Some(authority), Some(made), Some(by)) => {
            let word = if request.is_new { "new request" } else { "pending request" };
            format!("{word} for {authority}, made {made} by {by}")
        }
        _ => "would make a key and a request for it; the key never leaves the server".to_owned(),
    }
}

/// Writes a new file; one that is there is left alone, unless it says the same.
fn write(path: &Path, pem: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(Exit::Failed, message, "the request is pending: ask again with another --out")
    };
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    match file {
        Ok(mut file) => file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed),
        Err(_) if fs::read(path).is_ok_and(|held| held == pem.as_bytes()) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

pub(super) async fn install(args: &InstallArgs) -> Result<Exit, Failure> {
    let chain = text(ladders::bytes(&args.file)?)?;
    let client = Client::open(&args.change.server)?;
    let mut wanted = wire::InstallAuthority {
        chain,
        automatic: args.automatic,
        dry_run: true,
        reason: args.reason.clone(),
    };
    let planned = post(&client, args, &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, installed_text)?;
        return Ok(Exit::Ok);
    }
    if !args.change.yes {
        note(&installed_text(&planned));
        let question = if planned.is_new_root {
            "put its root into every bundle?"
        } else {
            "replace the issuing authority?"
        };
        may_go_on(&args.change, question)?;
    }
    wanted.dry_run = false;
    let installed = post(&client, args, &wanted).await?;
    output::show(args.change.output, &installed, installed_text)?;
    Ok(Exit::Ok)
}

/// Asks; a chain that is refused is shown with every rule.
async fn post(
    client: &Client,
    args: &InstallArgs,
    wanted: &wire::InstallAuthority,
) -> Result<wire::Installed, Failure> {
    let outcome = client.post("/authorities/install", wanted).await;
    let Err(Failure { ladder: Some(ladder), .. }) = &outcome else { return outcome };
    let is_read = ladder.rungs.iter().any(|rung| rung.verdict == "pass");
    output::show(args.change.output, ladder.as_ref(), |ladder| {
        ladders::ladder_text(ladder, output::width(), is_read)
    })?;
    let hint = to_do(ladder);
    outcome.map_err(|failure| Failure { hint, ..failure })
}

/// What helps, where the rules that stand above are broken.
fn to_do(ladder: &wire::Ladder) -> String {
    let is_broken = |rule: &str| ladder.rungs.iter().any(|one| one.rule == rule && one.verdict == "fail");
    let advice = if is_broken("unknown-issuer") {
        "put every authority above it into the file too, up to its root and with that"
    } else if is_broken("parse") {
        "give a file of certificates in PEM, or one certificate in DER"
    } else {
        "what is said above of each broken rule says what to do"
    };
    format!("{advice}; the request stays, nothing was changed")
}

/// A file as PEM: what is not text is taken for one certificate in DER, and judged by the server like the rest. A private
/// key goes nowhere.
fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    let is_key = |text: &str| text.contains("PRIVATE KEY-----");
    let is_bare_key = |der: &[u8]| SecretKey::from_pkcs8_der(Zeroizing::new(der.to_vec())).is_ok();
    let refused = || {
        let hint = "name the file with the certificates: the key of the request never left the server";
        Failure::usage("the file holds a private key, and was not sent", hint)
    };
    match String::from_utf8(bytes) {
        Ok(text) if is_key(&text) => Err(refused()),
        Ok(text) => Ok(text),
        Err(error) if is_bare_key(error.as_bytes()) => Err(refused()),
        Err(error) => {
            let body = STANDARD.encode(error.as_bytes());
            Ok(format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"))
        }
    }
}

fn installed_text(installed: &wire::Installed) -> String {
    let between = match installed.between {
        0 => String::new(),
        count => format!(", {} between them", output::count(count, "authority", "authorities")),
    };
    let known = if installed.is_new_root { "another root" } else { "the root that signs now" };
    let verb = if installed.dry_run { "would install" } else { "installed" };
    let mut text = format!(
        "{verb} issuing authority {} until {}, under {known}, {}{between}\n",
        installed.authority, installed.expires, installed.root
    );
    for (index, step) in installed.steps.iter().enumerate() {
        text.push_str(&output::wrapped(&format!("{}. {step}", index + 1), output::width(), 2, 5));
    }
    if installed.is_new_root && !installed.dry_run {
        text.push_str(&rotation::text(&installed.rotation));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_overwrites_what_is_there_and_takes_the_same_for_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("request.pem");
        write(&path, "one").unwrap();
        write(&path, "one").unwrap();
        let refused = write(&path, "two").unwrap_err();
        assert!(refused.message.contains("exists") && refused.hint.contains("--out"), "{refused:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    }

    #[test]
    fn a_private_key_is_not_sent() {
        let der = fixtures::TestKey::generate(fixtures::TestKeyKind::P256).pkcs8_der();
        for bytes in [
            der,
            b"-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n".to_vec(),
            b"-----BEGIN EC PRIVATE KEY-----\n".to_vec(),
        ] {
            let refused = text(bytes).unwrap_err();
            assert!(refused.message.contains("private key") && refused.hint.contains("certificates"));
        }
    }

    #[test]
    fn says_what_was_installed_and_what_comes_next() {
        let installed = wire::Installed {
            dry_run: false,
            authority: "aa".into(),
            expires: "T".into(),
            between: 1,
            root: "bb".into(),
            is_new_root: true,
            has_way_back: false,
            steps: vec!["root bb enters every bundle".into(), "credence ca rotate root activate".into()],
            rotation: wire::RootRotation {
                standing: "root cc signs, bb is prepared".into(),
                phase: "prepared".into(),
                ..Default::default()
            },
            ladder: wire::Ladder { passed: true, chain: Vec::new(), rungs: Vec::new() },
        };
        let text = installed_text(&installed);
        for words in ["another root, bb, 1 authority between them", "2. credence ca rotate", "bb is prepared"]
        {
            assert!(text.contains(words), "{text}");
        }
        let planned = wire::Installed { dry_run: true, is_new_root: false, between: 0, ..installed };
        let text = installed_text(&planned);
        assert!(text.starts_with("would install") && text.contains("root that signs now, bb\n"), "{text}");
    }

    #[test]
    fn a_chain_without_its_root_is_to_have_it_in_the_file() {
        let ladder = |rule: &str| {
            let rung = wire::Rung {
                rule: rule.into(),
                asks: String::new(),
                subject: String::new(),
                verdict: "fail".into(),
                found: String::new(),
                why: String::new(),
                fix: String::new(),
                sentence: None,
            };
            wire::Ladder { passed: false, chain: Vec::new(), rungs: vec![rung] }
        };
        for (rule, words) in [
            ("unknown-issuer", "up to its root"),
            ("parse", "certificates in PEM"),
            ("issuing-usage", "each broken rule"),
        ] {
            let hint = to_do(&ladder(rule));
            assert!(hint.contains(words) && hint.ends_with("nothing was changed"), "{hint}");
        }
    }

    #[test]
    fn what_is_no_text_is_sent_as_one_certificate() {
        assert_eq!(text(b"PEM".to_vec()).unwrap(), "PEM");
        assert!(text(vec![0x30, 0x82, 0xff]).unwrap().contains("MIL/"));
    }
}
