//! `issuer …`: credentials are read from files and descriptors, and go in only.

use std::path::Path;

use api::{
    ports::VaultLogin,
    wire::{self, Hidden},
};
use zeroize::Zeroizing;

use super::{dash, done, may_go_on, secret::text};
use crate::{
    cli::{
        AddIssuerCommand, AddVaultArgs, CredentialsArgs, IssuerCommand, LoginMethod, MigrateArgs,
        NamedIssuerArgs, RemoveIssuerArgs, UpdateIssuerArgs,
    },
    client::{Client, encode},
    output::{self, Exit, Failure},
};

pub(super) async fn run(command: IssuerCommand) -> Result<Exit, Failure> {
    match command {
        IssuerCommand::Add(AddIssuerCommand::Vault(args)) => add_vault(*args).await,
        IssuerCommand::Add(AddIssuerCommand::Acme(args)) => super::acme::add(*args).await,
        IssuerCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Issuer> = client.get("/issuers").await?;
            output::show(args.output, &page.items, |items| table(items))?;
            Ok(Exit::Ok)
        }
        IssuerCommand::Test(args) => test(&args).await,
        IssuerCommand::Update(args) => update(&args).await,
        IssuerCommand::Credentials(args) if args.new_account_key => super::acme::change_key(&args).await,
        IssuerCommand::Credentials(args) if args.register_again => super::acme::register_again(&args).await,
        IssuerCommand::Credentials(args) => credentials(&args).await,
        IssuerCommand::Migrate(args) => migrate(&args).await,
        IssuerCommand::Remove(args) => remove(&args).await,
    }
}

async fn add_vault(args: AddVaultArgs) -> Result<Exit, Failure> {
    if args.print_policy {
        return print_policy(&args).await;
    }
    let login = login(&args)?;
    let (Some(ca_file), Some(anchor)) = (args.ca_file, args.trust_anchor) else {
        return Err(Failure::usage("--ca-file or --trust-anchor is missing", "give both"));
    };
    let wanted = wire::AddIssuer {
        name: args.name,
        vault: wire::VaultIssuer {
            addresses: args.addresses,
            ca_file,
            namespace: args.namespace,
            mount: args.mount,
            issuer: args.issuer,
            role: args.role,
            lifetime: args.lifetime,
            login,
        },
        credential: args.credential.credential_file.as_deref().map(hidden).transpose()?,
        is_wrapped: args.credential.wrapped,
        fallback: args.fallback,
        anchor: text("trust anchor", &anchor)?.to_string(),
        reason: args.reason,
        dry_run: args.change.dry_run,
    };
    let client = Client::open(&args.change.server)?;
    let made: wire::IssuerChange = client.post("/issuers", &wanted).await?;
    output::show(args.change.output, &made, change_text)?;
    Ok(Exit::Ok)
}

async fn print_policy(args: &AddVaultArgs) -> Result<Exit, Failure> {
    let wrong = |error: vault::NameError| Failure::usage(error.to_string(), "write it as Vault shows it");
    let mount = vault::Mount::parse(&args.mount).map_err(wrong)?;
    let issuer = vault::Name::parse(&args.issuer).map_err(wrong)?;
    let status: wire::Status = Client::open(&args.change.server)?.get("/status").await?;
    let policy = match args.role.as_deref().map(vault::Name::parse).transpose().map_err(wrong)? {
        Some(role) => vault::Policy::leaves(&mount, [&issuer], &role, &status.trust_domain),
        None => vault::Policy::authorities(&mount, &issuer, &status.trust_domain),
    };
    output::say(policy.to_hcl().trim_end());
    Ok(Exit::Ok)
}

fn login(args: &AddVaultArgs) -> Result<VaultLogin, Failure> {
    let needs =
        |what: &str, flag: &str| Failure::usage(format!("the login needs {what}"), format!("give {flag}"));
    let mount = |default: &str| args.login_mount.clone().unwrap_or_else(|| default.to_owned());
    let role = || args.login_role.clone().ok_or_else(|| needs("a role", "--login-role NAME"));
    let file = || {
        let missing = || needs("the file with the token, on the server's host", "--token-path PATH");
        args.token_path.clone().ok_or_else(missing)
    };
    let method = args.login.ok_or_else(|| needs("a method", "--login METHOD"))?;
    Ok(match method {
        LoginMethod::Token => VaultLogin::Token,
        LoginMethod::Approle => {
            let role_id = args.role_id.clone().ok_or_else(|| needs("the role id", "--role-id ID"))?;
            VaultLogin::AppRole { mount: mount("approle"), role_id }
        }
        LoginMethod::Certificate => {
            let (Some(chain), Some(key)) = (args.client_certificate.clone(), args.client_key.clone()) else {
                let flags = "--client-certificate PATH and --client-key PATH";
                return Err(needs("files with a certificate and its key, on the server's host", flags));
            };
            VaultLogin::Certificate { mount: mount("cert"), role: args.login_role.clone(), chain, key }
        }
        LoginMethod::Jwt => VaultLogin::Jwt { mount: mount("jwt"), role: role()?, file: file()? },
        LoginMethod::Kubernetes => {
            VaultLogin::Kubernetes { mount: mount("kubernetes"), role: role()?, file: file()? }
        }
    })
}

pub(super) fn hidden(path: &Path) -> Result<Hidden, Failure> {
    let text = text("credential", path)?;
    Ok(Hidden::new(Zeroizing::new(text.trim().to_owned())))
}

async fn test(args: &NamedIssuerArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let path = format!("/issuers/{}/test", encode(&args.name));
    let tested: wire::IssuerTest = client.post(&path, &serde_json::json!({})).await?;
    output::show(args.list.output, &tested, |tested| checks(&tested.checks))?;
    Ok(if tested.passed { Exit::Ok } else { Exit::Failed })
}

/// Until the last leaf under the authority before has ended, both may be asked.
async fn print_both(args: &UpdateIssuerArgs) -> Result<Exit, Failure> {
    let wrong = |error: vault::NameError| Failure::usage(error.to_string(), "write it as Vault shows it");
    let client = Client::open(&args.change.server)?;
    let status: wire::Status = client.get("/status").await?;
    let issuer: wire::Issuer = client.get(&format!("/issuers/{}", encode(&args.name))).await?;
    let vault = issuer.vault.filter(|vault| vault.role.is_some()).ok_or_else(|| {
        Failure::usage(
            format!("issuer {} signs no leaves by a role", args.name),
            "credence issuer add vault NAME --print-policy prints what one may do that signs authorities",
        )
    })?;
    let mount = vault::Mount::parse(&vault.mount).map_err(wrong)?;
    let role = vault::Name::parse(vault.role.as_deref().unwrap_or_default()).map_err(wrong)?;
    let mut ids = vec![vault::Name::parse(&vault.issuer).map_err(wrong)?];
    let next = vault::Name::parse(args.issuer.as_deref().unwrap_or_default()).map_err(wrong)?;
    if !ids.contains(&next) {
        ids.push(next);
    }
    let policy = vault::Policy::leaves(&mount, &ids, &role, &status.trust_domain);
    output::say(policy.to_hcl().trim_end());
    Ok(Exit::Ok)
}

async fn update(args: &UpdateIssuerArgs) -> Result<Exit, Failure> {
    if args.print_policy {
        return print_both(args).await;
    }
    let anchor = args.trust_anchor.as_deref().map(|path| text("trust anchor", path)).transpose()?;
    let wanted = wire::UpdateIssuer {
        addresses: Some(args.addresses.clone()).filter(|addresses| !addresses.is_empty()),
        issuer: args.issuer.clone(),
        lifetime: args.lifetime.clone(),
        anchor: anchor.map(|text| text.to_string()),
        fallback: if args.no_fallback { Some(String::new()) } else { args.fallback.clone() },
        credential: args.credential.credential_file.as_deref().map(hidden).transpose()?,
        is_wrapped: args.credential.wrapped,
        reason: args.reason.clone(),
        dry_run: args.change.dry_run,
    };
    change(&args.name, &wanted, &args.change).await
}

async fn credentials(args: &CredentialsArgs) -> Result<Exit, Failure> {
    let Some(file) = args.credential_file.as_deref() else {
        return Err(Failure::usage(
            "--credential-file is missing",
            "give it, --new-account-key or --register-again",
        ));
    };
    let wanted = wire::UpdateIssuer {
        addresses: None,
        issuer: None,
        lifetime: None,
        anchor: None,
        fallback: None,
        credential: Some(hidden(file)?),
        is_wrapped: args.wrapped,
        reason: args.reason.clone(),
        dry_run: args.change.dry_run,
    };
    change(&args.name, &wanted, &args.change).await
}

async fn change(
    name: &str,
    wanted: &wire::UpdateIssuer,
    change: &crate::cli::ChangeArgs,
) -> Result<Exit, Failure> {
    let client = Client::open(&change.server)?;
    let made: wire::IssuerChange = client.patch(&format!("/issuers/{}", encode(name)), wanted).await?;
    output::show(change.output, &made, change_text)?;
    Ok(Exit::Ok)
}

async fn migrate(args: &MigrateArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let Some(to) = args.to.clone() else { return turn(args, &client).await };
    let mut wanted = wire::MigrateIssuer {
        to,
        from: args.from.clone(),
        stages: args.stages.clone(),
        hold: args.hold.clone(),
        now: args.now,
        automatic: args.automatic,
        reason: args.reason.clone(),
        dry_run: true,
    };
    let planned: wire::IssuerMigration = client.post("/issuers/migrate", &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, migration)?;
        return Ok(Exit::Ok);
    }
    may_go_on(&args.change, &format!("{}\ndo it?", planned.summary))?;
    wanted.dry_run = false;
    let made: wire::IssuerMigration = client.post("/issuers/migrate", &wanted).await?;
    output::show(args.change.output, &made, migration)?;
    Ok(Exit::Ok)
}

/// `--abort` and `--resume`.
async fn turn(args: &MigrateArgs, client: &Client) -> Result<Exit, Failure> {
    let path = if args.abort { "/issuers/migrate/abort" } else { "/issuers/migrate/resume" };
    let mut wanted = wire::TurnMigration { reason: args.reason.clone(), dry_run: true };
    let planned: wire::IssuerMigration = client.post(path, &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, migration)?;
        return Ok(Exit::Ok);
    }
    may_go_on(&args.change, &format!("{}\ndo it?", planned.summary))?;
    wanted.dry_run = false;
    let made: wire::IssuerMigration = client.post(path, &wanted).await?;
    output::show(args.change.output, &made, migration)?;
    Ok(Exit::Ok)
}

async fn remove(args: &RemoveIssuerArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let path = |dry_run| {
        format!("/issuers/{}?dry_run={dry_run}&reason={}", encode(&args.name), encode(&args.reason))
    };
    let planned: wire::Done = client.delete(&path(true)).await?;
    if args.change.dry_run {
        return done(&args.change, &planned);
    }
    may_go_on(&args.change, &format!("remove issuer {} and its credentials?", args.name))?;
    done(&args.change, &client.delete(&path(false)).await?)
}

/// What an issuer signs now, of all that is signed.
fn signs(one: &wire::Issuer, all: &[wire::Issuer]) -> String {
    let share = |percent: u8| match percent {
        0 => None,
        100 => Some("leaves by default".to_owned()),
        part => Some(format!("{part} % of leaves by default")),
    };
    let named = |count: usize| match count {
        0 => None,
        1 => Some("leaves of 1 binding that names it".to_owned()),
        more => Some(format!("leaves of {more} bindings that name it")),
    };
    let instead = all.iter().filter(|other| other.stands_in.as_deref() == Some(one.name.as_str()));
    let instead = instead.map(|other| format!("leaves in the place of {}", other.name));
    let is_of_leaves = one.vault.as_ref().is_some_and(|vault| vault.role.is_some());
    let is_at_work = matches!(one.state.as_str(), "signs" | "offline");
    let parts: Vec<String> = if !is_at_work || one.stands_in.is_some() {
        Vec::new()
    } else if is_of_leaves {
        let parts: Vec<String> =
            share(one.percent).into_iter().chain(named(one.named_by)).chain(instead).collect();
        let others = all.iter().filter(|other| other.fallback.as_deref() == Some(one.name.as_str()));
        let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
        match parts.as_slice() {
            [] if !others.is_empty() => {
                vec![format!("nothing now, it is the fallback of {}", others.join(", "))]
            }
            _ => parts,
        }
    } else {
        // Whoever signed it, our own authority signs what is built in.
        let ours = all.iter().find(|other| other.kind == "builtin");
        let leaves = ours.and_then(|ours| share(ours.percent));
        let named = ours.and_then(|ours| named(ours.named_by)).filter(|_| one.kind == "builtin");
        let own = match one.state.as_str() {
            "offline" => "for nodes, operators and this server, by the issuing authority of now",
            _ => "the issuing authority, which signs for nodes, operators and this server",
        };
        [Some(own.to_owned()), leaves, named].into_iter().flatten().chain(instead).collect()
    };
    parts.join(", ")
}

fn table(issuers: &[wire::Issuer]) -> String {
    let rows = issuers.iter().map(|one| {
        let warnings = one.warnings.iter().map(String::as_str);
        let mut leaves = of_migration(one);
        leaves.extend(one.leaves.as_ref().map(of_leaves).unwrap_or_default());
        let told =
            one.problem.as_deref().into_iter().chain(leaves.iter().map(String::as_str)).chain(warnings);
        let told: Vec<&str> = told.collect();
        let place = |vault: &wire::VaultIssuer| {
            let role = vault.role.as_ref().map_or_else(String::new, |role| format!(" role {role}"));
            format!("{}{role}", vault.addresses.join(" "))
        };
        let account = |acme: &wire::AcmeServer| {
            let profile =
                acme.profile.as_ref().map_or_else(String::new, |profile| format!(" profile {profile}"));
            format!("{}{profile}", acme.directory)
        };
        let place = one.vault.as_ref().map(place).or_else(|| one.acme.as_ref().map(account));
        // The account stands where others have the authority that signs.
        let authority = one.authority.as_deref().or_else(|| one.acme.as_ref()?.account.as_deref());
        vec![
            one.name.clone(),
            one.kind.clone(),
            one.state.clone(),
            dash(Some(&signs(one, issuers))),
            dash(place.as_deref()),
            dash(authority),
            dash(one.next.as_deref()),
            one.failures.to_string(),
            dash(Some(&told.join("; "))),
        ]
    });
    let heads = [
        "issuer",
        "kind",
        "state",
        "signs",
        "where",
        "authority or account",
        "next is due",
        "failures",
        "to be known",
    ];
    output::table(&heads, rows)
}

/// Who has leaves of it, where leaves are on their way to it, and who signs in its place.
fn of_migration(one: &wire::Issuer) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(by) = &one.stands_in {
        told.push(format!("{by} SIGNS IN ITS PLACE"));
    }
    if let Some(migration) = &one.migration {
        let stages: Vec<_> = migration.stages.iter().map(|stage| format!("{stage} %")).collect();
        let from = &migration.from;
        told.push(match (&migration.stopped, stages.as_slice()) {
            (Some(why), _) => format!(
                "STOPPED on the way from {from}: {why}; credence issuer migrate --resume goes on, --abort goes back"
            ),
            (None, _) if one.state == "prepared" => {
                format!("leaves come over from {from} when every connected node has acknowledged its root")
            }
            (None, []) => format!("all leaves have come over from {from}"),
            (None, stages) => {
                let (stage, behind) = (migration.stage + 1, migration.behind);
                let waits = match migration.waits_for.as_slice() {
                    [] => String::new(),
                    names => format!(": {}", names.join(", ")),
                };
                format!(
                    "{} % of leaves have come over from {from}, stage {stage} of {}, {behind} of {} not acknowledged{waits}",
                    one.percent,
                    stages.len(),
                    migration.total,
                )
            }
        });
    }
    if one.state == "offline" {
        told.push("the key of its root is kept elsewhere: credence ca status says when the next authority is to be brought".to_owned());
    }
    if one.named_by > 0 && !matches!(one.state.as_str(), "signs" | "offline") {
        told.push(format!("named by {} bindings", one.named_by));
    }
    if let Some(fallback) = one.fallback.as_ref().filter(|_| one.stands_in.is_none()) {
        told.push(format!("{fallback} would sign in its place if it failed"));
    }
    told
}

/// What is to be known of the leaves of an issuer.
fn of_leaves(leaves: &wire::IssuerLeaves) -> Vec<String> {
    let waits = leaves.waits_for.iter().map(|one| format!("waits for {}: {}", one.name, one.reason));
    let mut told: Vec<String> = waits.take(3).collect();
    if leaves.waits_for.len() > 3 {
        told.push(format!("and for {} more", leaves.waits_for.len() - 3));
    }
    if leaves.unexpired > 0 {
        told.push(format!("{} leaves may be in use", leaves.unexpired));
    }
    if !leaves.unknown.is_empty() {
        let count = leaves.unknown.len();
        told.push(format!("outcome unknown of {count}: Vault may have signed what nobody has the key of"));
    }
    told
}

pub(super) fn checks(checks: &[wire::IssuerCheck]) -> String {
    let lines = checks.iter().map(|check| {
        let mark = match check.verdict.as_str() {
            "passed" => "✓",
            "failed" => "✗",
            "warning" => "!",
            _ => "-",
        };
        let advice =
            if check.advice.is_empty() { String::new() } else { format!("\n    do: {}", check.advice) };
        format!("{mark} {}: {}{advice}", check.rule, check.found)
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(super) fn change_text(made: &wire::IssuerChange) -> String {
    format!("{}\n{}", checks(&made.checks), made.summary)
}

fn migration(made: &wire::IssuerMigration) -> String {
    let steps = made.installed.iter().flat_map(|installed| &installed.steps);
    steps.fold(made.summary.clone(), |text, step| format!("{text}\n  {step}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(name: &str, kind: &str, state: &str, percent: u8) -> wire::Issuer {
        wire::Issuer {
            name: name.into(),
            kind: kind.into(),
            state: state.into(),
            percent,
            ..wire::Issuer::default()
        }
    }

    fn with_role(issuer: wire::Issuer) -> wire::Issuer {
        let vault = serde_json::json!({
            "addresses": ["https://v:8200"], "ca_file": "/c", "mount": "pki", "issuer": "i", "role": "svid",
            "login": {"method": "token"},
        });
        wire::Issuer { vault: Some(serde_json::from_value(vault).unwrap()), ..issuer }
    }

    #[test]
    fn says_of_each_issuer_what_it_signs() {
        let builtin = issuer("builtin", "builtin", "signs", 75);
        let corp = wire::Issuer { named_by: 2, ..with_role(issuer("corp", "vault", "signs", 25)) };
        let spare = with_role(issuer("spare", "vault", "prepared", 0));
        let all = [builtin, corp, spare];
        assert_eq!(
            all.each_ref().map(|one| signs(one, &all)),
            [
                "the issuing authority, which signs for nodes, operators and this server, 75 % of leaves by default",
                "25 % of leaves by default, leaves of 2 bindings that name it",
                "",
            ]
        );
        let kept_elsewhere = [issuer("builtin", "builtin", "offline", 100)];
        assert_eq!(
            signs(&kept_elsewhere[0], &kept_elsewhere),
            "for nodes, operators and this server, by the issuing authority of now, leaves by default"
        );
        assert!(table(&kept_elsewhere).contains("the key of its root is kept elsewhere"));
        // Whoever signs the authority of ours signs by it what is built in.
        let all = [issuer("builtin", "builtin", "idle", 100), issuer("root", "vault", "signs", 0)];
        assert_eq!(
            all.each_ref().map(|one| signs(one, &all)),
            [
                "",
                "the issuing authority, which signs for nodes, operators and this server, leaves by default"
            ]
        );
        let mut corp = with_role(issuer("corp", "vault", "signs", 100));
        corp.stands_in = Some("spare".into());
        let all = [corp, with_role(issuer("spare", "vault", "signs", 0))];
        assert_eq!(
            all.each_ref().map(|one| signs(one, &all)),
            ["", "leaves in the place of corp"],
            "who rests signs nothing"
        );
        assert!(table(&all).contains("leaves in the place of corp"));
    }

    #[test]
    fn says_of_a_fallback_that_it_would_sign_and_of_one_that_leaves_are_to_come_to_that_they_will() {
        let mut corp = with_role(issuer("corp", "vault", "signs", 100));
        corp.fallback = Some("spare".into());
        let all = [corp, with_role(issuer("spare", "vault", "signs", 0))];
        assert_eq!(signs(&all[1], &all), "nothing now, it is the fallback of corp");
        assert_eq!(of_migration(&all[0]), ["spare would sign in its place if it failed"]);
        let [mut corp, _] = all;
        corp.stands_in = Some("spare".into());
        assert_eq!(of_migration(&corp), ["spare SIGNS IN ITS PLACE"]);

        let migration = serde_json::json!({
            "from": "builtin", "stages": [], "stage": 0, "since": "T", "hold": "0s", "total": 0, "behind": 0,
        });
        let mut next = issuer("next", "vault", "prepared", 0);
        next.migration = Some(serde_json::from_value(migration).unwrap());
        let told = of_migration(&next);
        assert_eq!(
            told,
            ["leaves come over from builtin when every connected node has acknowledged its root"]
        );
        next.state = "signs".into();
        assert_eq!(of_migration(&next), ["all leaves have come over from builtin"]);
    }
}
