//! Issuers beside the built-in one: they sign our issuing authorities, and those sign leaves as ever. So an issuer that
//! is away costs nobody a leaf before the authority of now is near its end.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use audit::{Action, Event};
use ca::{
    ports::{AuthorityRecord, AuthorityState, Place},
    rotation::{Step, Wish},
    upstream,
};
use certs::{Certificate, SecretBytes, certificates_from_pem, is_self_signed, parse_duration};
use spiffe::IssuerName;
use zeroize::Zeroizing;

use super::{CallError, Caller, Calls, error, trust::unavailable};
use crate::{
    ports::{Issuer, KeptIssuer, MAX_EARLIER, VaultLogin, VaultSettings},
    sources::{Draft, Examined},
    wire,
};

/// The most addresses of one issuer.
const MAX_ADDRESSES: usize = 8;
/// The most bytes of a credential.
const MAX_CREDENTIAL: usize = 16 * 1024;

/// A check that ended an examination.
const FAILED: &str = "failed";

impl Calls {
    /// The built-in issuer and those beside it.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_issuers(&self) -> Result<wire::Page<wire::Issuer>, CallError> {
        let (kept, records) = (self.issuers.issuers().await?, self.records().await?);
        let others: Vec<_> = kept.iter().map(|one| self.shown_issuer(&one.issuer, &records)).collect();
        let mut all = vec![builtin(&records, &others)];
        all.extend(others);
        Ok(wire::Page::whole(all))
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn show_issuer(&self, name: &str) -> Result<wire::Issuer, CallError> {
        let all = self.list_issuers().await?;
        let missing = || CallError::NotFound { what: "issuer", name: name.to_owned() };
        all.items.into_iter().find(|one| one.name == name).ok_or_else(missing)
    }

    /// Names an issuer. It is tried whole, and kept only if it could sign our next authority now.
    ///
    /// # Errors
    /// [`CallError::Issuer`] with everything that does not work; when there is one of that name, or a field is wrong.
    pub async fn add_issuer(
        &self,
        caller: &Caller,
        wanted: wire::AddIssuer,
    ) -> Result<wire::IssuerChange, CallError> {
        let name = error::name("name", IssuerName::parse(&wanted.name))?;
        let kept = self.issuers.issuers().await?;
        if name.as_str() == IssuerName::BUILTIN || kept.iter().any(|one| one.issuer.name == name) {
            return Err(CallError::Exists { what: "issuer", name: name.to_string() });
        }
        let vault = self.settings(wanted.vault)?;
        let credential = credential(&vault.login, wanted.credential.as_ref())?;
        unwrappable(&vault.login, wanted.is_wrapped, wanted.dry_run)?;
        let anchor = anchor(&wanted.anchor)?;
        let draft = Draft { name, vault, anchor, credential, is_wrapped: wanted.is_wrapped };
        self.write_issuer(caller, draft, None, &wanted.reason, wanted.dry_run).await
    }

    /// Changes an issuer; what the author leaves out stays. It is tried whole before anything is kept.
    ///
    /// # Errors
    /// As [`Calls::add_issuer`]; and when there is none of that name.
    pub async fn update_issuer(
        &self,
        caller: &Caller,
        name: &str,
        wanted: wire::UpdateIssuer,
    ) -> Result<wire::IssuerChange, CallError> {
        let KeptIssuer { issuer: before, credential: known } = self.find_issuer(name).await?;
        let mut vault = self.wire_settings(&before.vault);
        vault.addresses = wanted.addresses.unwrap_or(vault.addresses);
        vault.issuer = wanted.issuer.unwrap_or(vault.issuer);
        vault.lifetime = wanted.lifetime.or(vault.lifetime);
        let vault = self.settings(vault)?;
        let anchor = wanted.anchor.as_deref().map_or_else(|| Ok(before.anchor.clone()), anchor)?;
        // Whoever is asked at a new address is told it: only who has the credential may send it there.
        let is_elsewhere = vault.addresses.iter().any(|address| !before.vault.addresses.contains(address));
        if is_elsewhere && wanted.credential.is_none() && vault.login.credential().is_some() {
            let why = "it would be sent to an address that it was not given for: give it again".to_owned();
            return Err(CallError::Parameter { what: "credential", why });
        }
        let credential = match &wanted.credential {
            Some(_) => credential(&vault.login, wanted.credential.as_ref())?,
            None => known,
        };
        let is_wrapped = wanted.is_wrapped && wanted.credential.is_some();
        unwrappable(&vault.login, is_wrapped, wanted.dry_run)?;
        let draft = Draft { name: before.name.clone(), vault, anchor, credential, is_wrapped };
        self.write_issuer(caller, draft, Some(before), &wanted.reason, wanted.dry_run).await
    }

    async fn write_issuer(
        &self,
        caller: &Caller,
        draft: Draft,
        before: Option<Issuer>,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::IssuerChange, CallError> {
        let now = self.clock.now();
        let (name, vault, anchor) = (draft.name.clone(), draft.vault.clone(), draft.anchor.clone());
        // Before anything is sent anywhere, a dry run included.
        let event = caller.event(now, Action::IssuerAsk, name.as_str()).with("as", "test");
        self.audit.append(vec![event.with("addresses", vault.addresses.join(" "))]).await?;
        let Examined { checks, signer, credential } = self.upstreams.examine(draft).await;
        let has_failed = checks.iter().any(|check| check.verdict == FAILED);
        let Some(signer) = signer.filter(|_| !has_failed) else {
            let error = CallError::Issuer { name: name.to_string(), checks };
            let event = Event::refused(
                now,
                caller.actor.clone(),
                Action::IssuerSet,
                name.as_str(),
                error.to_string(),
            );
            self.refusals.refuse(event.in_request(caller.request_id.clone()));
            return Err(error);
        };
        let others = self.issuers.issuers().await?;
        let mut others = others.iter().map(|other| &other.issuer).filter(|other| other.name != name);
        if let Some(other) = others.find(|other| other.signer.spki_hash() == signer.spki_hash()) {
            // Both would be asked for the same successor.
            let why = format!("signs by the same authority as issuer {}: update that one", other.name);
            return Err(CallError::Conflict { what: "issuer", name: name.to_string(), why });
        }
        let expected = before.as_ref().map_or(0, |before| before.version);
        let mut issuer = Issuer {
            name: name.clone(),
            created: before.as_ref().map_or(now, |before| before.created),
            updated: now,
            version: expected + 1,
            vault,
            anchor,
            earlier: earlier(before.as_ref(), &signer),
            signer,
        };
        if !dry_run {
            let mut event = caller.event(now, Action::IssuerSet, name.as_str());
            reason.clone_into(&mut event.reason);
            let event = event
                .with("addresses", issuer.vault.addresses.join(" "))
                .with("mount", &issuer.vault.mount)
                .with("issuer_id", &issuer.vault.issuer)
                .with("login", issuer.vault.login.word());
            let kept = KeptIssuer { issuer: issuer.clone(), credential };
            issuer.version = self.issuers.put_issuer(kept, expected, event).await?;
        }
        let records = self.records().await?;
        let shown = self.shown_issuer(&issuer, &records);
        let word = match (dry_run, before.is_some()) {
            (true, false) => "would add",
            (true, true) => "would change",
            (false, false) => "added",
            (false, true) => "changed",
        };
        let next = if shown.state == "signs" {
            "it signs our next authority when that is due".to_owned()
        } else {
            format!("nothing is signed by it before: credence issuer migrate --to {name}")
        };
        let summary = format!("{word} issuer {name}: {next}");
        Ok(wire::IssuerChange { dry_run, summary, issuer: shown, checks })
    }

    /// Tries everything that the next renewal of an issuer needs, with a throwaway key.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn test_issuer(&self, caller: &Caller, name: &str) -> Result<wire::IssuerTest, CallError> {
        let KeptIssuer { issuer, credential } = self.find_issuer(name).await?;
        let draft = Draft {
            name: issuer.name,
            vault: issuer.vault,
            anchor: issuer.anchor,
            credential,
            is_wrapped: false,
        };
        let event = caller.event(self.clock.now(), Action::IssuerAsk, name).with("as", "test");
        self.audit.append(vec![event]).await?;
        let Examined { checks, .. } = self.upstreams.examine(draft).await;
        let passed = checks.iter().all(|check| check.verdict != FAILED);
        Ok(wire::IssuerTest { name: name.to_owned(), passed, checks })
    }

    /// Has an issuer sign our next authority. Under the root of now it signs at once, and leaves follow; another root
    /// goes through the gates of its rotation, and nobody loses a request.
    ///
    /// # Errors
    /// When there is none of that name, it does not sign, or what it signed is refused.
    pub async fn migrate_issuer(
        &self,
        caller: &Caller,
        wanted: &wire::MigrateIssuer,
    ) -> Result<wire::IssuerMigration, CallError> {
        if wanted.to == IssuerName::BUILTIN {
            return self.migrate_to_builtin(caller, wanted).await;
        }
        let issuer = self.find_issuer(&wanted.to).await?.issuer;
        if wanted.dry_run {
            let anchor = spiffe::AuthorityId::of(issuer.anchor.spki_hash());
            let is_same = self.anchor.borrow().root == Some(anchor);
            let next = if is_same {
                "under the root of now: it signs leaves at once".to_owned()
            } else {
                format!(
                    "root {anchor} enters every bundle, prepared, and its gates follow: credence ca status"
                )
            };
            let summary = format!("would have {} sign our next authority, {next}", issuer.name);
            return Ok(wire::IssuerMigration { dry_run: true, summary, installed: None });
        }
        let obtained = self.upstreams.obtain(caller, &issuer.name, wanted.automatic, &wanted.reason).await?;
        let installed = self.installed(&obtained, false).await?;
        let next = if installed.is_new_root {
            format!("its root {} is prepared: credence ca status shows who has it", installed.root)
        } else {
            "leaves follow".to_owned()
        };
        let summary = format!("{} signed authority {}; {next}", issuer.name, installed.authority);
        Ok(wire::IssuerMigration { dry_run: false, summary, installed: Some(installed) })
    }

    /// A root of our own again, made here. Whoever signed before vouches for nobody of ours, so that activation also
    /// waits until each node has the new root in its bundle file.
    async fn migrate_to_builtin(
        &self,
        caller: &Caller,
        wanted: &wire::MigrateIssuer,
    ) -> Result<wire::IssuerMigration, CallError> {
        let builtin = self.show_issuer(IssuerName::BUILTIN).await?;
        if builtin.state == "signs" {
            let why = "signs already: credence ca rotate root prepare replaces its root".to_owned();
            return Err(CallError::Conflict { what: "issuer", name: builtin.name, why });
        }
        let wish = Wish {
            step: Step::Prepare,
            leave_behind: BTreeSet::new(),
            automatic: wanted.automatic,
            alone: true,
        };
        let status = self.rotation.rotate_root(caller, wish, &wanted.reason, wanted.dry_run).await?;
        let summary = match status.other.filter(|_| !wanted.dry_run) {
            Some(root) => format!("root {root} of our own is prepared: credence ca status shows who has it"),
            None => "would make a root of our own, which enters every bundle, prepared: credence ca rotate root activate \
                     and finish go on with it"
                .to_owned(),
        };
        Ok(wire::IssuerMigration { dry_run: wanted.dry_run, summary, installed: None })
    }

    /// Removes an issuer and destroys its credentials.
    ///
    /// # Errors
    /// When there is none of that name, or an authority of it is in use.
    pub async fn remove_issuer(
        &self,
        caller: &Caller,
        name: &str,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let issuer = self.find_issuer(name).await?.issuer;
        let records = self.records().await?;
        let of_it = |record: &&AuthorityRecord| is_of(record, &records, &issuer);
        let in_use = records.iter().filter(of_it).filter(|record| record.state != AuthorityState::Removed);
        let in_use: Vec<String> = in_use.map(|record| record.id.to_string()).collect();
        if !in_use.is_empty() {
            let why = format!(
                "signed {}, which is in use or has unexpired leaves: migrate to another issuer, and wait for them",
                in_use.join(", ")
            );
            return Err(CallError::Conflict { what: "issuer", name: name.to_owned(), why });
        }
        if !dry_run {
            let mut event = caller.event(self.clock.now(), Action::IssuerRemove, name);
            reason.clone_into(&mut event.reason);
            self.issuers.remove_issuer(&issuer.name, event).await?;
        }
        let word = if dry_run { "would remove" } else { "removed" };
        Ok(wire::Done { dry_run, summary: format!("{word} issuer {name} and its credentials") })
    }

    async fn find_issuer(&self, name: &str) -> Result<KeptIssuer, CallError> {
        let missing = || CallError::NotFound { what: "issuer", name: name.to_owned() };
        let kept = self.issuers.issuers().await?;
        kept.into_iter().find(|one| one.issuer.name.as_str() == name).ok_or_else(missing)
    }

    async fn records(&self) -> Result<Vec<AuthorityRecord>, CallError> {
        self.authorities.load().await.map_err(|error| unavailable("authorities", &error))
    }

    fn shown_issuer(&self, issuer: &Issuer, records: &[AuthorityRecord]) -> wire::Issuer {
        let current = upstream::current(records, issuer.signers());
        let standing = self.upstreams.standing(&issuer.name);
        wire::Issuer {
            name: issuer.name.to_string(),
            kind: "vault".into(),
            state: if current.is_some() { "signs" } else { "idle" }.into(),
            vault: Some(self.wire_settings(&issuer.vault)),
            signer: Some(issuer.signer.subject().to_owned()),
            signer_expires: Some(issuer.signer.not_after().to_string()),
            anchor_sha256: Some(hex::encode(issuer.anchor.fingerprint())),
            authority: current.map(|current| current.id.to_string()),
            next: standing.next.map(|at| at.to_string()),
            failures: standing.failures,
            problem: standing.problem,
            is_at_risk: standing.is_at_risk,
            warnings: standing.warnings,
            version: Some(issuer.version),
        }
    }

    fn wire_settings(&self, vault: &VaultSettings) -> wire::VaultIssuer {
        wire::VaultIssuer {
            addresses: vault.addresses.clone(),
            ca_file: vault.ca_file.clone(),
            namespace: vault.namespace.clone(),
            mount: vault.mount.clone(),
            issuer: vault.issuer.clone(),
            lifetime: Some(certs::format_duration(vault.lifetime)),
            login: vault.login.clone(),
        }
    }

    fn settings(&self, wanted: wire::VaultIssuer) -> Result<VaultSettings, CallError> {
        let wrong = |what: &'static str, why: String| CallError::Parameter { what, why };
        if wanted.addresses.is_empty() || wanted.addresses.len() > MAX_ADDRESSES {
            let why = format!("{} are given, 1 to {MAX_ADDRESSES} are taken", wanted.addresses.len());
            return Err(wrong("addresses", why));
        }
        for address in &wanted.addresses {
            if !address.starts_with("https://") || address.len() > 255 {
                return Err(wrong("addresses", format!("{address:?} is not https://HOST:PORT")));
            }
        }
        let of_login = login_files(&wanted.login).into_iter().map(|file| ("login", file));
        for (what, file) in std::iter::once(("ca_file", &wanted.ca_file)).chain(of_login) {
            if !file.is_absolute() {
                return Err(wrong(what, format!("{} is not absolute: the server reads it", file.display())));
            }
        }
        let is_segment = |text: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !text.is_empty() && text.len() <= 128 && !text.starts_with('.') && text.chars().all(is_allowed)
        };
        let is_path = |text: &str| text.len() <= 255 && text.split('/').all(is_segment);
        if !is_path(&wanted.mount) {
            return Err(wrong("mount", format!("{:?} is no path of a Vault", wanted.mount)));
        }
        if !is_segment(&wanted.issuer) {
            return Err(wrong("issuer", format!("{:?} is no id of an issuer", wanted.issuer)));
        }
        if let Some(namespace) = wanted.namespace.as_deref().filter(|text| !is_path(text)) {
            return Err(wrong("namespace", format!("{namespace:?} is no namespace of a Vault")));
        }
        if let Some(mount) = login_mount(&wanted.login).filter(|text| !is_path(text)) {
            return Err(wrong("login", format!("{mount:?} is no path of a Vault")));
        }
        let lifetime = match &wanted.lifetime {
            None => self.upstreams.lifetime(),
            Some(text) => {
                let why = || wrong("lifetime", format!("{text:?} is no duration, such as 30d"));
                parse_duration(text).filter(|life| *life >= Duration::from_secs(60)).ok_or_else(why)?
            }
        };
        Ok(VaultSettings {
            addresses: wanted.addresses,
            ca_file: wanted.ca_file,
            namespace: wanted.namespace,
            mount: wanted.mount,
            issuer: wanted.issuer,
            lifetime,
            login: wanted.login,
        })
    }
}

/// Whether the issuer signed `record` itself, now or before its settings were changed.
fn is_of(record: &AuthorityRecord, all: &[AuthorityRecord], issuer: &Issuer) -> bool {
    let signed = upstream::signer_of(record, all).filter(|_| record.place == Place::Issuing);
    signed.is_some_and(|signed| issuer.signers().any(|signer| signed.spki_hash() == signer.spki_hash()))
}

/// Who signed before: an authority of theirs is still of this issuer.
fn earlier(before: Option<&Issuer>, signer: &Certificate) -> Vec<Certificate> {
    let known = before.into_iter().flat_map(Issuer::signers);
    known.filter(|one| one.spki_hash() != signer.spki_hash()).take(MAX_EARLIER).cloned().collect()
}

/// The root whose key is here.
fn builtin(records: &[AuthorityRecord], others: &[wire::Issuer]) -> wire::Issuer {
    let root =
        records.iter().find(|record| record.place == Place::Root && record.state == AuthorityState::Active);
    let is_here = root.is_some_and(|root| root.offline.is_none());
    let active = records
        .iter()
        .find(|record| record.place == Place::Issuing && record.state == AuthorityState::Active);
    let signs = is_here && others.iter().all(|other| other.state != "signs");
    wire::Issuer {
        name: IssuerName::BUILTIN.into(),
        kind: "builtin".into(),
        state: if signs { "signs" } else { "idle" }.into(),
        vault: None,
        signer: root.filter(|_| is_here).map(|root| root.certificate.subject().to_owned()),
        signer_expires: root.filter(|_| is_here).map(|root| root.certificate.not_after().to_string()),
        anchor_sha256: root.filter(|_| is_here).map(|root| hex::encode(root.certificate.fingerprint())),
        authority: active.filter(|_| signs).map(|record| record.id.to_string()),
        next: None,
        failures: 0,
        problem: None,
        is_at_risk: false,
        warnings: Vec::new(),
        version: None,
    }
}

fn login_mount(login: &VaultLogin) -> Option<&str> {
    match login {
        VaultLogin::Token => None,
        VaultLogin::AppRole { mount, .. }
        | VaultLogin::Certificate { mount, .. }
        | VaultLogin::Jwt { mount, .. }
        | VaultLogin::Kubernetes { mount, .. } => Some(mount),
    }
}

/// The files of the server's host that a login reads.
fn login_files(login: &VaultLogin) -> Vec<&PathBuf> {
    match login {
        VaultLogin::Token | VaultLogin::AppRole { .. } => Vec::new(),
        VaultLogin::Certificate { chain, key, .. } => vec![chain, key],
        VaultLogin::Jwt { file, .. } | VaultLogin::Kubernetes { file, .. } => vec![file],
    }
}

fn credential(login: &VaultLogin, given: Option<&wire::Hidden>) -> Result<SecretBytes, CallError> {
    let wrong = |why: String| CallError::Parameter { what: "credential", why };
    match (login.credential(), given) {
        (Some(what), None) => Err(wrong(format!("login by {} needs {what}", login.word()))),
        (None, Some(_)) => Err(wrong(format!("login by {} takes none", login.word()))),
        (None, None) => Ok(SecretBytes::new(Zeroizing::new(Vec::new()))),
        (Some(_), Some(text)) => {
            let trimmed = text.as_bytes().trim_ascii();
            if trimmed.is_empty() || trimmed.len() > MAX_CREDENTIAL {
                return Err(wrong(format!(
                    "it has {} bytes, 1 to {MAX_CREDENTIAL} are taken",
                    trimmed.len()
                )));
            }
            Ok(SecretBytes::new(Zeroizing::new(trimmed.to_vec())))
        }
    }
}

fn unwrappable(login: &VaultLogin, is_wrapped: bool, dry_run: bool) -> Result<(), CallError> {
    let wrong = |why: &str| Err(CallError::Parameter { what: "credential", why: why.into() });
    match (is_wrapped, login) {
        (false, _) => Ok(()),
        (true, _) if dry_run => wrong("a wrapped one can be unwrapped once, and not by a dry run"),
        (true, VaultLogin::AppRole { .. }) => Ok(()),
        (true, _) => wrong("secret ids only come wrapped"),
    }
}

/// One self-signed certificate.
fn anchor(pem: &str) -> Result<Certificate, CallError> {
    let wrong = |why: String| CallError::Parameter { what: "anchor", why };
    let ders = certificates_from_pem(pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let [der] = ders.as_slice() else {
        return Err(wrong(format!("{} certificates are given, the root alone is taken", ders.len())));
    };
    let root = Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
    if !is_self_signed(&root) {
        return Err(wrong(format!("{:?} is not self-signed: give the root above it", root.subject())));
    }
    Ok(root)
}
