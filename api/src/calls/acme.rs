//! ACME servers as issuers: they give certificates to edges, and sign neither workloads nor authorities.

use audit::{Action, Event};
use certs::SecretBytes;
use spiffe::IssuerName;
use zeroize::Zeroizing;

use super::{CallError, Caller, Calls, error};
use crate::{
    ports::{AcmeIssuer, AcmeSettings, KeptAcme, MAX_CONTACTS},
    sources::{AcmeDraft, AcmeOutcome},
    wire,
};

/// The most octets of a URL.
const MAX_URL: usize = 2048;
/// The most octets of a contact, a key id or the name of a profile.
const MAX_WORD: usize = 255;
/// The most octets of the HMAC key of an external account.
const MAX_KEY: usize = 1024;
/// The verdict of what was done.
const PASSED: &str = "passed";

impl Calls {
    /// Names an ACME server and makes an account there. Its directory is held against what is wanted before anything
    /// is signed; a dry run reads nothing but that.
    ///
    /// # Errors
    /// [`CallError::Issuer`] with everything that does not work; when there is one of that name, or a field is wrong.
    pub async fn add_acme(
        &self,
        caller: &Caller,
        wanted: wire::AddAcme,
    ) -> Result<wire::IssuerChange, CallError> {
        let name = error::name("name", IssuerName::parse(&wanted.name))?;
        let (acme, external_key) = settings(&wanted)?;
        self.refuse_taken(&name, &acme).await?;
        let now = self.clock.now();
        let event = caller.event(now, Action::IssuerAsk, name.as_str()).with("as", "test");
        self.audit.append(vec![event.with("directory", &acme.directory)]).await?;
        let draft = AcmeDraft { name: name.clone(), acme, external_key };
        let mut checks = self.acme.examine(&draft).await;
        if checks.iter().any(|check| check.verdict == "failed") {
            return Err(self.acme_refused(caller, &name, checks));
        }
        if wanted.dry_run {
            let directory = &draft.acme.directory;
            let summary = format!("would add issuer {name}: an account would be made at {directory}");
            let issuer = AcmeIssuer {
                name,
                acme: draft.acme,
                account: None,
                is_changing_key: false,
                created: now,
                updated: now,
                version: 1,
            };
            return Ok(wire::IssuerChange {
                dry_run: true,
                summary,
                issuer: self.shown_acme(&issuer),
                checks,
            });
        }
        let AcmeOutcome { issuer, check } = match self.acme.register(caller, draft, &wanted.reason).await {
            Ok(outcome) => outcome,
            Err(CallError::Issuer { checks: more, .. }) => {
                checks.extend(more);
                return Err(self.acme_refused(caller, &name, checks));
            }
            Err(error) => return Err(error),
        };
        // The record may say more than whoever waited for the server knows: only the check says how it ended.
        let summary = match &issuer.account {
            Some(account) if check.verdict == PASSED => {
                format!("added issuer {name}: its account is {account}")
            }
            _ => format!(
                "whether the server made the account of issuer {name} is not known yet, and is found out by itself: \
                 credence issuer list"
            ),
        };
        checks.push(check);
        Ok(wire::IssuerChange { dry_run: false, summary, issuer: self.shown_acme(&issuer), checks })
    }

    /// Gives the account at an ACME server another key.
    ///
    /// # Errors
    /// [`CallError::Issuer`] when the server refuses; when there is no ACME server of that name, or no account yet.
    pub async fn change_account_key(
        &self,
        caller: &Caller,
        name: &str,
        wanted: &wire::ChangeAccountKey,
    ) -> Result<wire::IssuerChange, CallError> {
        let KeptAcme { issuer, .. } = self.find_account(name).await?;
        if wanted.dry_run {
            let summary = format!("would give the account of issuer {name} another key");
            let issuer = self.shown_acme(&issuer);
            return Ok(wire::IssuerChange { dry_run: true, summary, issuer, checks: Vec::new() });
        }
        let changed = self.acme.change_key(caller, &issuer.name, &wanted.reason).await;
        let AcmeOutcome { issuer, check } = match changed {
            Err(CallError::Issuer { checks, .. }) => {
                return Err(self.acme_refused(caller, &issuer.name, checks));
            }
            changed => changed?,
        };
        // A record of one key says that a change has ended, and not how: only the check does.
        let summary = if check.verdict == PASSED {
            format!("the account of issuer {name} has another key, and the one before is destroyed")
        } else {
            format!(
                "whether the account of issuer {name} has another key is not known yet, and is found out by itself: \
                 credence issuer list"
            )
        };
        let issuer = self.shown_acme(&issuer);
        Ok(wire::IssuerChange { dry_run: false, summary, issuer, checks: vec![check] })
    }

    /// Makes the account anew, for the key that is kept, at a server that has lost it. The server is asked before
    /// whether it has it, and what it wants; a dry run ends there.
    ///
    /// # Errors
    /// [`CallError::Issuer`] with everything that does not work, and nothing is changed; [`CallError::Conflict`] when
    /// the server has the account; when there is no ACME server of that name, no account yet, or a field is wrong.
    pub async fn register_again(
        &self,
        caller: &Caller,
        name: &str,
        wanted: wire::RegisterAgain,
    ) -> Result<wire::IssuerChange, CallError> {
        let kept = self.find_account(name).await?;
        let conflict = |why: String| CallError::Conflict { what: "issuer", name: name.to_owned(), why };
        if kept.issuer.is_changing_key {
            let why =
                "is getting another key, and whether it has is found out by itself: credence issuer list";
            return Err(conflict(why.to_owned()));
        }
        let issuer = kept.issuer.clone();
        let (acme, external_key) = settings(&wire::AddAcme {
            name: name.to_owned(),
            directory: issuer.acme.directory.clone(),
            ca_file: issuer.acme.ca_file.clone(),
            contacts: issuer.acme.contacts.clone(),
            agree_terms: wanted.agree_terms.or_else(|| issuer.acme.agreed.clone()),
            external_key_id: wanted.external_key_id,
            external_key: wanted.external_key,
            profile: issuer.acme.profile.clone(),
            reason: String::new(),
            dry_run: wanted.dry_run,
        })?;
        let event = caller.event(self.clock.now(), Action::IssuerAsk, name).with("as", "register-again");
        self.audit.append(vec![event.with("directory", &acme.directory)]).await?;
        let tested = self.acme.test(kept).await;
        if tested.iter().any(|check| check.rule == "account" && check.verdict == PASSED) {
            let why =
                "has its account, which the server finds by its key: there is nothing to register again";
            return Err(conflict(why.to_owned()));
        }
        let draft = AcmeDraft { name: issuer.name.clone(), acme, external_key };
        let mut checks = self.acme.examine(&draft).await;
        if checks.iter().any(|check| check.verdict == "failed") {
            return Err(self.acme_refused(caller, &issuer.name, checks));
        }
        if wanted.dry_run {
            let directory = &draft.acme.directory;
            let summary = format!(
                "would register the account of issuer {name} again: another would be made at {directory} for its key"
            );
            let issuer = self.shown_acme(&issuer);
            return Ok(wire::IssuerChange { dry_run: true, summary, issuer, checks });
        }
        let AcmeOutcome { issuer, check } =
            match self.acme.register_again(caller, draft, &wanted.reason).await {
                Err(CallError::Issuer { checks: more, .. }) => {
                    checks.extend(more);
                    return Err(self.acme_refused(caller, &issuer.name, checks));
                }
                registered => registered?,
            };
        let summary = match &issuer.account {
            Some(account) if check.verdict == PASSED => {
                format!(
                    "registered the account of issuer {name} again: it is {account}, and edges order by it"
                )
            }
            _ => format!(
                "whether the server made the account of issuer {name} again is not known yet: credence issuer list"
            ),
        };
        checks.push(check);
        Ok(wire::IssuerChange { dry_run: false, summary, issuer: self.shown_acme(&issuer), checks })
    }

    pub(super) async fn test_acme(
        &self,
        caller: &Caller,
        kept: KeptAcme,
    ) -> Result<wire::IssuerTest, CallError> {
        let name = kept.issuer.name.to_string();
        let event = caller.event(self.clock.now(), Action::IssuerAsk, &name).with("as", "test");
        self.audit.append(vec![event]).await?;
        let checks = self.acme.test(kept).await;
        let passed = checks.iter().all(|check| check.verdict != "failed");
        Ok(wire::IssuerTest { name, passed, checks })
    }

    pub(super) async fn remove_acme(
        &self,
        caller: &Caller,
        kept: KeptAcme,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let name = kept.issuer.name;
        self.refuse_while_edges_need(&name).await?;
        if !dry_run {
            let mut event = caller.event(self.clock.now(), Action::IssuerRemove, name.as_str());
            reason.clone_into(&mut event.reason);
            self.acme_store.remove_acme_issuer(&name, Some(kept.issuer.version), event).await?;
        }
        let word = if dry_run { "would remove" } else { "removed" };
        let summary =
            format!("{word} issuer {name} and the key of its account, which nobody can use any more");
        Ok(wire::Done { dry_run, summary })
    }

    /// All ACME servers, as they are shown.
    pub(super) async fn shown_acmes(&self) -> Result<Vec<wire::Issuer>, CallError> {
        let all = self.acme_store.acme_issuers().await?;
        Ok(all.iter().map(|kept| self.shown_acme(&kept.issuer)).collect())
    }

    /// The ACME server of that name, if there is one.
    pub(super) async fn find_acme(&self, name: &str) -> Result<Option<KeptAcme>, CallError> {
        let all = self.acme_store.acme_issuers().await?;
        Ok(all.into_iter().find(|kept| kept.issuer.name.as_str() == name))
    }

    /// The same, if it has an account.
    async fn find_account(&self, name: &str) -> Result<KeptAcme, CallError> {
        let conflict =
            |why: &str| CallError::Conflict { what: "issuer", name: name.to_owned(), why: why.to_owned() };
        match self.find_acme(name).await? {
            Some(kept) if kept.issuer.account.is_none() => {
                Err(conflict("has no account yet, it is being registered"))
            }
            Some(kept) => Ok(kept),
            None => {
                self.show_issuer(name).await?;
                Err(conflict("is no ACME server, and has no account there"))
            }
        }
    }

    /// A name is that of one issuer, of whatever kind; but what was begun by the same settings is gone on with.
    async fn refuse_taken(&self, name: &IssuerName, acme: &AcmeSettings) -> Result<(), CallError> {
        let is_vault = self.issuers.issuers().await?.iter().any(|kept| kept.issuer.name == *name);
        let known = self.find_acme(name.as_str()).await?.map(|kept| kept.issuer);
        let exists = || CallError::Exists { what: "issuer", name: name.to_string() };
        match known {
            _ if is_vault || name.as_str() == IssuerName::BUILTIN => Err(exists()),
            None => Ok(()),
            Some(known) if known.account.is_some() => Err(exists()),
            Some(known) if known.acme == *acme => Ok(()),
            Some(_) => {
                let why =
                    "is being registered with other settings: give the same, or remove it first".to_owned();
                Err(CallError::Conflict { what: "issuer", name: name.to_string(), why })
            }
        }
    }

    /// The refusal, which is on record.
    fn acme_refused(&self, caller: &Caller, name: &IssuerName, checks: Vec<wire::IssuerCheck>) -> CallError {
        let error = CallError::Issuer { name: name.to_string(), checks };
        let (now, actor) = (self.clock.now(), caller.actor.clone());
        let event = Event::refused(now, actor, Action::IssuerSet, name.as_str(), error.to_string());
        self.refusals.refuse(event.in_request(caller.request_id.clone()));
        error
    }

    fn shown_acme(&self, issuer: &AcmeIssuer) -> wire::Issuer {
        let standing = self.acme.standing(&issuer.name);
        let state = match (&issuer.account, issuer.is_changing_key) {
            (None, _) => "registering",
            (Some(_), true) => "changing-key",
            (Some(_), false) => "ready",
        };
        let acme = &issuer.acme;
        let server = wire::AcmeServer {
            directory: acme.directory.clone(),
            ca_file: acme.ca_file.clone(),
            contacts: acme.contacts.clone(),
            agreed_terms: acme.agreed.clone(),
            external_key_id: acme.external.clone(),
            profile: acme.profile.clone(),
            account: issuer.account.clone(),
        };
        wire::Issuer {
            name: issuer.name.to_string(),
            kind: "acme".into(),
            state: state.into(),
            acme: Some(server),
            next: standing.next.map(|at| at.to_string()),
            failures: standing.failures,
            problem: standing.problem,
            version: Some(issuer.version),
            ..wire::Issuer::default()
        }
    }
}

/// It signs nothing of ours.
pub(super) fn signs_nothing(name: &str) -> CallError {
    CallError::Policy(format!(
        "issuer {name} is an ACME server: it gives certificates to edges, and signs neither workloads nor authorities"
    ))
}

/// What is changed of a Vault is not of an ACME server.
pub(super) fn changes_not(name: &str) -> CallError {
    let why = "is an ACME server, whose settings stay as they are: add another one; its account gets another key by \
               credence issuer credentials NAME --new-account-key";
    CallError::Conflict { what: "issuer", name: name.to_owned(), why: why.into() }
}

/// Reads what is wanted; whether it is what the server wants, its directory says.
fn settings(wanted: &wire::AddAcme) -> Result<(AcmeSettings, Option<SecretBytes>), CallError> {
    let wrong = |what: &'static str, why: String| Err(CallError::Parameter { what, why });
    let is_plain = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_url = |text: &str| {
        let rest = text.strip_prefix("https://").filter(|rest| !rest.is_empty());
        rest.is_some() && text.len() <= MAX_URL && is_plain(text)
    };
    let is_word = |text: &str| (1..=MAX_WORD).contains(&text.len()) && is_plain(text);
    if !is_url(&wanted.directory) {
        return wrong(
            "directory",
            format!("{:?} is no URL that begins with https://", shortened(&wanted.directory)),
        );
    }
    if !wanted.ca_file.is_absolute() {
        return wrong(
            "ca_file",
            format!("{} is not absolute: the server reads it", wanted.ca_file.display()),
        );
    }
    if wanted.contacts.len() > MAX_CONTACTS {
        return wrong(
            "contacts",
            format!("{} are given, at most {MAX_CONTACTS} are taken", wanted.contacts.len()),
        );
    }
    for contact in &wanted.contacts {
        let address = contact.strip_prefix("mailto:").and_then(|address| address.split_once('@'));
        if !is_word(contact) || address.is_none_or(|(who, host)| who.is_empty() || host.is_empty()) {
            return wrong("contacts", format!("{:?} is not mailto:NAME@HOST", shortened(contact)));
        }
    }
    if let Some(terms) = wanted.agree_terms.as_deref()
        && (terms.len() > MAX_URL || terms.is_empty() || !is_plain(terms))
    {
        return wrong("agree_terms", format!("{:?} is no URL", shortened(terms)));
    }
    if let Some(id) = wanted.external_key_id.as_deref()
        && !is_word(id)
    {
        return wrong("external_key_id", format!("{:?} is no key id", shortened(id)));
    }
    if let Some(profile) = wanted.profile.as_deref()
        && !is_word(profile)
    {
        return wrong("profile", format!("{:?} is no name of a profile", shortened(profile)));
    }
    let key = match (&wanted.external_key_id, &wanted.external_key) {
        (None, None) => None,
        (Some(_), Some(key)) => {
            let key = key.as_bytes().trim_ascii();
            if key.is_empty() || key.len() > MAX_KEY {
                return wrong(
                    "external_key",
                    format!("it has {} octets, 1 to {MAX_KEY} are taken", key.len()),
                );
            }
            Some(SecretBytes::new(Zeroizing::new(key.to_vec())))
        }
        (Some(_), None) => return wrong("external_key", "a key id is given without its key".into()),
        (None, Some(_)) => return wrong("external_key_id", "a key is given without its id".into()),
    };
    let acme = AcmeSettings {
        directory: wanted.directory.clone(),
        ca_file: wanted.ca_file.clone(),
        contacts: wanted.contacts.clone(),
        agreed: wanted.agree_terms.clone(),
        external: wanted.external_key_id.clone(),
        profile: wanted.profile.clone(),
    };
    Ok((acme, key))
}

fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}
