//! Whether an ACME server is as the settings of an issuer say, and has our account.

use std::{sync::Arc, time::Duration};

use acme::{Client, Directory, ExternalAccount, Opens, Trouble, hint_about};
use api::{
    ports::{AcmeSettings, KeptAcme},
    wire::IssuerCheck,
};
use certs::{Clock, SecretBytes, format_duration};

use super::{PATIENCE, READING, settings, settle::signer};
use crate::app::checks::Checks;

/// All that is tried of a directory, in order.
const OF_DIRECTORY: [&str; 5] = ["directory", "terms", "external-account", "profile", "renewal-info"];

/// Holds settings against the directory that they lead to. Nothing else is read, and nothing sent.
pub(super) async fn directory(
    clock: &Arc<dyn Clock>,
    acme: &AcmeSettings,
    external_key: Option<&SecretBytes>,
) -> Vec<IssuerCheck> {
    let mut checks = Checks::default();
    let made = settings::client(acme, clock);
    let judged = async {
        let Some(directory) = read(made, &mut checks).await else { return };
        judge(&directory, acme, Standing::New { external_key }, &mut checks);
    };
    tokio::select! {
        () = judged => checks.0,
        () = clock.sleep_until(clock.now() + READING) => too_slow(READING),
    }
}

/// The same of one that is kept, and whether its account is there.
pub(super) async fn kept(clock: &Arc<dyn Clock>, kept: &KeptAcme) -> Vec<IssuerCheck> {
    let mut checks = Checks::default();
    let acme = &kept.issuer.acme;
    let judged = async {
        let client = settings::client(acme, clock);
        let Some(directory) = read(client.as_ref().map_err(Clone::clone), &mut checks).await else {
            return checks.skip(&["account"]);
        };
        judge(&directory, acme, Standing::Kept, &mut checks);
        if let Ok(client) = client {
            account(&client, kept, &mut checks).await;
        }
    };
    tokio::select! {
        () = judged => checks.0,
        () = clock.sleep_until(clock.now() + PATIENCE) => too_slow(PATIENCE),
    }
}

fn too_slow(limit: Duration) -> Vec<IssuerCheck> {
    let mut checks = Checks::default();
    let found = format!("not all was tried within {}", format_duration(limit));
    checks.failed("in-time", found, "is the server reachable and quick?");
    checks.0
}

async fn read<C: std::borrow::Borrow<Client>>(
    client: Result<C, String>,
    checks: &mut Checks,
) -> Option<Arc<Directory>> {
    let read = match &client {
        Ok(client) => {
            client.borrow().directory().await.map_err(|trouble| (trouble.to_string(), trouble.hint()))
        }
        Err(why) => Err((why.clone(), "correct it, and give the command again".to_owned())),
    };
    match read {
        Ok(directory) => {
            let found = "it answers as an ACME server, and its certificate is vouched for";
            checks.passed("directory", found.into());
            Some(directory)
        }
        Err((found, advice)) => {
            checks.failed("directory", found, advice);
            checks.skip(&OF_DIRECTORY[1..]);
            None
        }
    }
}

/// Whose settings are judged.
#[derive(Clone, Copy)]
pub(super) enum Standing<'a> {
    /// Of an account that is still to be made.
    New {
        /// The HMAC key of the external account.
        external_key: Option<&'a SecretBytes>,
    },
    /// Of one that is kept.
    Kept,
}

/// Whether settings fit a directory.
pub(super) fn judge(directory: &Directory, acme: &AcmeSettings, standing: Standing<'_>, checks: &mut Checks) {
    terms(directory, acme, standing, checks);
    external(directory, acme, standing, checks);
    let offered: Vec<&str> = directory.profiles.keys().map(String::as_str).collect();
    match &acme.profile {
        None if offered.is_empty() => checks.passed("profile", "the server has none".into()),
        None => {
            let found =
                format!("none is named, and the server takes which it likes of {}", offered.join(", "));
            checks.passed("profile", found);
        }
        Some(profile) if offered.contains(&profile.as_str()) => {
            checks.passed("profile", format!("{profile}: {}", directory.profiles[profile]));
        }
        Some(profile) => {
            let offered = offered.into_iter().map(str::to_owned).collect();
            let trouble = Trouble::NoSuchProfile { profile: profile.clone(), offered };
            checks.failed("profile", trouble.to_string(), trouble.hint());
        }
    }
    match &directory.renewal_info {
        Some(_) => checks.passed("renewal-info", "the server says when to renew".into()),
        None => checks.warning(
            "renewal-info",
            "the server does not say when to renew".into(),
            "nothing: a certificate is renewed at two thirds of its life",
        ),
    }
}

fn terms(directory: &Directory, acme: &AcmeSettings, standing: Standing<'_>, checks: &mut Checks) {
    match (&directory.terms, &acme.agreed, standing) {
        (None, _, _) => checks.passed("terms", "the server has none".into()),
        (Some(terms), Some(agreed), _) if terms == agreed => {
            checks.passed("terms", format!("{terms} is agreed to"));
        }
        (Some(terms), _, Standing::New { .. }) => {
            let found = Trouble::TermsNotAgreed { terms: terms.clone() }.to_string();
            checks.failed("terms", found, format!("read them, and agree by --agree-terms {terms}"));
        }
        (Some(terms), _, Standing::Kept) => {
            let found = format!("the server has other terms than those that were agreed to: {terms}");
            checks.warning(
                "terms",
                found,
                "read them: the server may refuse orders until they are agreed to there",
            );
        }
    }
}

fn external(directory: &Directory, acme: &AcmeSettings, standing: Standing<'_>, checks: &mut Checks) {
    let rule = "external-account";
    let flags = "give --external-key-id and --external-key-file as who runs the server hands them out";
    match (&acme.external, standing) {
        (Some(id), Standing::Kept) => checks.passed(rule, format!("the account is bound to {id}")),
        (None, Standing::Kept) => checks.passed(rule, "none was needed when the account was made".into()),
        (Some(id), Standing::New { external_key }) => {
            let parsed = external_key.map(|key| ExternalAccount::parse(id, key));
            match parsed {
                Some(Ok(_)) => checks.passed(rule, format!("the account will be bound to {id}")),
                Some(Err(error)) => checks.failed(rule, error.to_string(), flags),
                None => checks.failed(rule, format!("{id} has no key"), flags),
            }
        }
        (None, Standing::New { .. }) if directory.is_external_account_required => {
            checks.failed(rule, Trouble::ExternalAccountNeeded.to_string(), flags);
        }
        (None, Standing::New { .. }) => checks.passed(rule, "none is needed".into()),
    }
}

/// Whether the server has our account, by its key.
async fn account(client: &Client, kept: &KeptAcme, checks: &mut Checks) {
    let lost = format!(
        "the server has lost it, or somebody has given it another key: credence issuer credentials {} --register-again",
        kept.issuer.name
    );
    let Some(url) = &kept.issuer.account else {
        let found = "it is not known yet whether the server has made it".to_owned();
        return checks.warning("account", found, "nothing: it is found out by itself");
    };
    let told = |trouble: Trouble| told(&trouble, kept);
    let found = async {
        let key = signer(&kept.key)?;
        let found = match &kept.next_key {
            None => client.find(&*key).await.map_err(told)?,
            Some(next) => {
                let (next, account) = (signer(next)?, settings::url(url)?);
                match client.opens(&account, &*key, &*next).await.map_err(told)? {
                    Opens::Old => client.find(&*key).await.map_err(told)?,
                    Opens::New => client.find(&*next).await.map_err(told)?,
                    Opens::Neither => None,
                }
            }
        };
        Ok::<_, String>(found)
    };
    match found.await {
        Ok(Some(found)) if found.url.as_str() != url => {
            checks.failed("account", format!("its key opens {}, and not {url}", found.url), lost);
        }
        Ok(Some(found)) if !found.is_valid => {
            let advice = "ask who runs the server why; then add it under another name, and remove this one";
            checks.failed("account", format!("{url} was deactivated"), advice);
        }
        Ok(Some(_)) if kept.next_key.is_some() => {
            let found = format!("{url} is there; it is getting another key");
            checks.warning("account", found, "nothing: which key it has is found out by itself");
        }
        Ok(Some(_)) => checks.passed("account", format!("{url} is found by its key")),
        Ok(None) => checks.failed("account", format!("the server knows no key of {url}"), lost),
        Err(why) => checks.failed("account", why, "look at the server, and try again"),
    }
}

fn told(trouble: &Trouble, kept: &KeptAcme) -> String {
    format!("{trouble}; {}", hint_about(&trouble.hint(), kept.issuer.name.as_str()))
}
