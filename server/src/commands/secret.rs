//! `secret …`: values are read from files and descriptors, and go in only.

use std::{io::Read, path::Path};

use api::wire::{self, Hidden};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{dash, done, dry, may_go_on};
use crate::{
    cli::{ChangeArgs, SecretCommand, SecretRemoveArgs, SecretValueArgs},
    client::{Client, encode},
    config::nearest,
    output::{self, Exit, Failure, left},
};

/// The most bytes of a file that is read; the server takes less.
const MAX_FILE: u64 = 1 << 20;

pub(super) async fn run(command: SecretCommand) -> Result<Exit, Failure> {
    match command {
        SecretCommand::Set(args) => {
            let mut wanted = value(&args.value)?;
            wanted.namespace.clone_from(&args.namespace);
            wanted.name.clone_from(&args.name);
            wanted.grants.clone_from(&args.grants);
            write("/secrets", wanted, &args.reason, &args.change).await
        }
        SecretCommand::Rotate(args) => {
            let path = format!("/secrets/{}/{}/rotate", encode(&args.namespace), encode(&args.name));
            write(&path, value(&args.value)?, &args.reason, &args.change).await
        }
        SecretCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Secret> = client.get("/secrets").await?;
            output::show(args.output, &page.items, |items| table(items))?;
            output::remark_if_empty(args.output, &page.items, "none yet; credence secret set NAME makes one");
            Ok(Exit::Ok)
        }
        SecretCommand::Show(args) => {
            let client = Client::open(&args.list.server)?;
            let path = format!("/secrets/{}/{}", encode(&args.namespace), encode(&args.name));
            let secret: wire::Secret = client.get(&path).await?;
            output::show(args.list.output, &secret, details)?;
            Ok(Exit::Ok)
        }
        SecretCommand::Remove(args) => remove(&args).await,
    }
}

async fn write(
    path: &str,
    mut wanted: wire::SetSecret,
    reason: &str,
    change: &ChangeArgs,
) -> Result<Exit, Failure> {
    let client = Client::open(&change.server)?;
    wanted.reason = reason.to_owned();
    wanted.dry_run = change.dry_run;
    let made: wire::SecretChange = client.post(path, &wanted).await?;
    output::show(change.output, &made, |made| made.summary.clone())?;
    if made.secret.nodes.is_empty() {
        let known = client.get("/identities").await;
        remarks(&made.secret.grants, known).iter().for_each(|remark| output::note(remark));
    }
    Ok(Exit::Ok)
}

/// What is said of grants that nobody speaks for. The secret is written by now: that its reader cannot be told whom else
/// there is, is no failure of the command.
fn remarks(grants: &[String], known: Result<wire::Page<wire::Identity>, Failure>) -> Vec<String> {
    let Ok(known) = known else { return Vec::new() };
    let known: Vec<String> = known.items.into_iter().map(|one| one.id).collect();
    let meant = meant(grants, &known).into_iter();
    meant.map(|(grant, near)| format!("credence: nobody speaks for {grant}; did you mean {near}?")).collect()
}

/// Grants that nobody speaks for, each with the identity that it may have been meant to be.
fn meant<'a>(grants: &'a [String], known: &'a [String]) -> Vec<(&'a str, &'a str)> {
    let unknown = grants.iter().filter(|grant| !known.contains(grant));
    unknown
        .filter_map(|grant| {
            let (domain, path) = grant.strip_prefix("spiffe://")?.split_once('/')?;
            let prefix = format!("spiffe://{domain}/");
            let near = nearest(path, known.iter().filter_map(|id| id.strip_prefix(prefix.as_str())))?;
            Some((
                grant.as_str(),
                known.iter().find(|id| id.strip_prefix(prefix.as_str()) == Some(near))?.as_str(),
            ))
        })
        .collect()
}

async fn remove(args: &SecretRemoveArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let path = format!("/secrets/{}/{}{}", encode(&args.namespace), encode(&args.name), dry(&args.change));
    if !args.change.dry_run {
        let question = format!("remove secret {}/{}: proxies get it no more?", args.namespace, args.name);
        may_go_on(&args.change, &question)?;
    }
    done(&args.change, &client.delete(&path).await?)
}

fn value(args: &SecretValueArgs) -> Result<wire::SetSecret, Failure> {
    let mut wanted = wire::SetSecret {
        namespace: String::new(),
        name: String::new(),
        grants: Vec::new(),
        certificate: None,
        key: None,
        value: None,
        reason: String::new(),
        dry_run: false,
    };
    match (&args.cert, &args.key, &args.value_file) {
        (Some(cert), Some(key), None) => {
            wanted.certificate = Some(text("certificate", cert)?.to_string());
            wanted.key = Some(Hidden::new(text("key", key)?));
        }
        (None, None, Some(file)) => {
            let bytes = read("value", file)?;
            wanted.value = Some(Hidden::new(Zeroizing::new(STANDARD.encode(&*bytes))));
        }
        _ => {
            return Err(Failure::usage(
                "a secret is a certificate with its key, or a value",
                "write --cert FILE --key FILE, or --value-file FILE",
            ));
        }
    }
    Ok(wanted)
}

/// A file, a descriptor such as /dev/fd/3, or standard input for `-`.
fn read(what: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let outcome = if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_FILE).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
    };
    match outcome {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::usage(
            format!("the {what} cannot be read from {}: {error}", path.display()),
            "name a file that you may read, a descriptor such as /dev/fd/3, or - for standard input",
        )),
    }
}

pub(super) fn text(what: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = read(what, path)?;
    std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| {
        Failure::usage(
            format!("the {what} in {} is not text", path.display()),
            "PEM is text: openssl x509 and openssl pkey convert it",
        )
    })
}

fn table(secrets: &[wire::Secret]) -> String {
    let rows = secrets.iter().map(|one| {
        vec![
            one.namespace.clone(),
            one.name.clone(),
            one.kind.clone(),
            one.version.to_string(),
            match &one.begins {
                Some(begins) => format!("begins at {begins}"),
                None => one.expires_in_secs.map_or_else(|| "-".into(), left),
            },
            one.grants.join(", "),
            one.nodes.len().to_string(),
        ]
    });
    output::table(&["namespace", "secret", "kind", "version", "expires in", "granted to", "nodes"], rows)
}

fn details(one: &wire::Secret) -> String {
    let rows = [
        ("secret", one.name.clone()),
        ("asked for as", one.sds_name.clone()),
        ("kind", one.kind.clone()),
        ("version", one.version.to_string()),
        ("subject", dash(one.subject.as_deref())),
        ("expires", dash(one.expires.as_deref())),
        ("granted to", dash(Some(&one.grants.join(", ")))),
        ("nodes that get it", dash(Some(&one.nodes.join(", ")))),
        ("made", one.created.clone()),
        ("written", one.updated.clone()),
    ];
    output::facts(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_that_nobody_speaks_for_is_told_with_the_one_that_was_meant() {
        let ids = |paths: &[&str]| -> Vec<String> {
            paths.iter().map(|path| format!("spiffe://prod.example/{path}")).collect()
        };
        let known = ids(&["shop", "payments"]);
        let grants = ids(&["paymnets", "shop", "nothing-alike"]);
        assert_eq!(
            meant(&grants, &known),
            [("spiffe://prod.example/paymnets", "spiffe://prod.example/payments")]
        );
        assert_eq!(meant(&["spiffe://other.example/paymnets".to_owned()], &known), []);
    }

    #[test]
    fn a_secret_that_is_written_is_written_although_nobody_can_be_asked_for_its_grants() {
        let unreachable = Failure::new(Exit::Unavailable, "cannot reach cp.example:8080", "");
        assert_eq!(remarks(&["spiffe://prod.example/shop".to_owned()], Err(unreachable)), [""; 0]);
    }
}
