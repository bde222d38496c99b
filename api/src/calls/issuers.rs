//! Issuers beside the built-in one. Most sign our issuing authorities, and those sign leaves as ever: such an issuer
//! that is away costs nobody a leaf before the authority of now is near its end. One with a role signs leaves of
//! workloads itself, and each renewal asks it.

mod given;
mod migrate;

use std::collections::BTreeMap;

use audit::{Action, Event};
use ca::{
    LeavesStatus,
    ports::{AuthorityRecord, AuthorityState, Place},
    upstream,
};
use certs::{Certificate, Timestamp};
use spiffe::{AuthorityId, IssuerName};

use self::given::{anchor, credential, unwrappable};
use super::{
    CallError, Caller, Calls, acme, error, rotation::shown_laggard, trust::unavailable, trust::unexpired,
};
use crate::{
    ports::{Earlier, Issuer, IssuerStore, KeptIssuer, MAX_EARLIER, VaultSettings},
    sources::{Draft, Examined, IssuerStanding, Upstreams},
    wire,
};

/// The replacement of the issuing authority of now that comes by itself.
pub(super) struct Replacement {
    /// The authority that is replaced.
    pub(super) authority: AuthorityId,
    /// When, or when an issuer is asked for its successor.
    pub(super) at: Timestamp,
    /// Which issuer is asked, if it is not made here.
    pub(super) issuer: Option<IssuerName>,
}

/// The issuing authority of now, which issuer signed it, and how that one stands.
pub(crate) type UpstreamOfNow = (AuthorityId, IssuerName, IssuerStanding);

/// Which issuer signed the issuing authority of now and is asked for its successor, if one did.
///
/// # Errors
/// When the store cannot read.
pub(crate) async fn upstream_of_now(
    issuers: &dyn IssuerStore,
    upstreams: &dyn Upstreams,
    records: &[AuthorityRecord],
) -> Result<Option<UpstreamOfNow>, CallError> {
    let signed = |KeptIssuer { issuer, .. }: &KeptIssuer| {
        let is_upstream = issuer.vault.role.is_none();
        let current = upstream::current(records, issuer.signers()).filter(|_| is_upstream)?;
        Some((current.id, issuer.name.clone(), upstreams.standing(&issuer.name)))
    };
    Ok(issuers.issuers().await?.iter().find_map(signed))
}

/// A check that ended an examination.
const FAILED: &str = "failed";

impl Calls {
    /// The built-in issuer and those beside it.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_issuers(&self) -> Result<wire::Page<wire::Issuer>, CallError> {
        let (kept, records) = (self.issuers.issuers().await?, self.records().await?);
        let mut others = Vec::with_capacity(kept.len());
        for KeptIssuer { issuer, .. } in &kept {
            let leaves = self.leaves_of(issuer).await?;
            others.push(wire::Issuer { leaves, ..self.shown_issuer(issuer, &records) });
        }
        let mut all = vec![builtin(&records, &others)];
        all.extend(others);
        let leaves = self.upstreams.leaves();
        for one in &mut all {
            self.show_leaves(one, &leaves);
        }
        all.extend(self.shown_acmes().await?);
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

    /// When the issuing authority is replaced by itself, and by whom: the one day that every listing says.
    ///
    /// # Errors
    /// When the store cannot read.
    pub(super) async fn next_replacement(&self) -> Result<Option<Replacement>, CallError> {
        if let Some((authority, issuer, standing)) = self.upstream_of_now().await? {
            return Ok(standing.next.map(|at| Replacement { authority, at, issuer: Some(issuer) }));
        }
        let next = self.rotation.next();
        Ok(next.map(|next| Replacement { authority: next.active, at: next.at, issuer: None }))
    }

    /// Which issuer signed the issuing authority of now and is asked for its successor, if one did.
    ///
    /// # Errors
    /// When the store cannot read.
    pub(super) async fn upstream_of_now(&self) -> Result<Option<UpstreamOfNow>, CallError> {
        upstream_of_now(&*self.issuers, &*self.upstreams, &self.records().await?).await
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
        let is_taken =
            kept.iter().any(|one| one.issuer.name == name) || self.find_acme(name.as_str()).await?.is_some();
        if name.as_str() == IssuerName::BUILTIN || is_taken {
            return Err(CallError::Exists { what: "issuer", name: name.to_string() });
        }
        let vault = self.settings(wanted.vault)?;
        let credential = credential(&vault.login, wanted.credential.as_ref())?;
        unwrappable(&vault.login, wanted.is_wrapped, wanted.dry_run)?;
        let anchor = anchor(&wanted.anchor)?;
        let fallback = wanted.fallback.as_deref();
        let fallback = self.fallback(&name, vault.role.is_some(), fallback, &kept)?;
        let is_wrapped = wanted.is_wrapped;
        let draft = Draft { name, vault, anchor, credential, is_wrapped };
        self.write_issuer(caller, draft, None, fallback, &wanted.reason, wanted.dry_run).await
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
        if self.find_acme(name).await?.is_some() {
            return Err(acme::changes_not(name));
        }
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
        let fallback = match wanted.fallback.as_deref() {
            None => before.fallback.clone(),
            Some("") => None,
            text => {
                let kept = self.issuers.issuers().await?;
                self.fallback(&before.name, vault.role.is_some(), text, &kept)?
            }
        };
        let draft = Draft { name: before.name.clone(), vault, anchor, credential, is_wrapped };
        self.write_issuer(caller, draft, Some(before), fallback, &wanted.reason, wanted.dry_run).await
    }

    async fn write_issuer(
        &self,
        caller: &Caller,
        draft: Draft,
        before: Option<Issuer>,
        fallback: Option<IssuerName>,
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
        // Who signs leaves and who signs authorities may be the same: nobody takes the one for the other.
        let is_like =
            |other: &&Issuer| other.name != name && other.vault.role.is_some() == vault.role.is_some();
        let mut others = others.iter().map(|other| &other.issuer).filter(is_like);
        if let Some(other) = others.find(|other| other.signer.spki_hash() == signer.spki_hash()) {
            // Both would be asked for the same successor, or each other's leaves be counted.
            let why = format!(
                "would sign by the same authority as issuer {0}: change that one (credence issuer update {0}), or name \
                 another authority",
                other.name
            );
            return Err(CallError::Conflict { what: "issuer", name: name.to_string(), why });
        }
        let generation = before.as_ref().map_or(0, |before| generation(before, &vault, &anchor));
        let (earlier, forgotten) = earlier(before.as_ref(), &signer, generation);
        self.refuse_mixed(&name, &signer, generation, &earlier)?;
        self.refuse_forgotten(&name, &forgotten)?;
        let expected = before.as_ref().map_or(0, |before| before.version);
        let mut issuer = Issuer {
            name: name.clone(),
            created: before.as_ref().map_or(now, |before| before.created),
            updated: now,
            version: expected + 1,
            vault,
            anchor,
            earlier,
            generation,
            fallback,
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
        let next = if shown.state == "signs" && issuer.vault.role.is_none() {
            "it signs our next authority when that is due".to_owned()
        } else if shown.leaves_wanted()
            && issuer.generation != before.as_ref().map_or(0, |one| one.generation)
        {
            let root = AuthorityId::of(issuer.anchor.spki_hash());
            format!(
                "root {root} enters the bundles of workloads, and it signs under that one when every connected node has \
                 acknowledged it; under the one before until then"
            )
        } else if shown.leaves_wanted() {
            "it signs leaves of workloads, as before; those of another authority are replaced".to_owned()
        } else {
            format!("nothing is signed by it before: credence issuer migrate --to {name}")
        };
        let was_replaced = before.as_ref().and_then(|before| before.fallback.as_ref());
        let fallback = match &issuer.fallback {
            Some(by) if was_replaced != Some(by) => format!("; {by} signs in its place while it fails"),
            None if was_replaced.is_some() => {
                "; nobody signs in its place any more while it fails".to_owned()
            }
            _ => String::new(),
        };
        let summary = format!("{word} issuer {name}: {next}{fallback}");
        Ok(wire::IssuerChange { dry_run, summary, issuer: shown, checks })
    }

    /// Tries everything that the next renewal of an issuer needs, with a throwaway key; of an ACME server, whether it
    /// is as its settings say, and has our account.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn test_issuer(&self, caller: &Caller, name: &str) -> Result<wire::IssuerTest, CallError> {
        if let Some(kept) = self.find_acme(name).await? {
            return self.test_acme(caller, kept).await;
        }
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

    /// Removes an issuer and destroys its credentials.
    ///
    /// # Errors
    /// When there is none of that name, or an authority of it is in use. Of one whose record does not open nobody can say
    /// whose authority it signed: that stays as it is.
    pub async fn remove_issuer(
        &self,
        caller: &Caller,
        name: &str,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        if let Some(kept) = self.find_acme(name).await? {
            return self.remove_acme(caller, kept, reason, dry_run).await;
        }
        let issuer = match self.find_issuer(name).await {
            Ok(found) => found.issuer,
            Err(missing @ CallError::NotFound { .. }) => {
                return self.remove_damaged_issuer(caller, name, missing, reason, dry_run).await;
            }
            Err(other) => return Err(other),
        };
        if issuer.vault.role.is_some() {
            // Whoever names it is why it has leaves, and knows of no migration.
            self.refuse_while_named(&issuer.name).await?;
            self.refuse_while_leaves(&issuer).await?;
        }
        // Looked at first: what is signed after this is installed only while there is the issuer.
        if self.upstreams.standing(&issuer.name).is_asked {
            let why = "is being asked for our next authority: wait for its answer".to_owned();
            return Err(CallError::Conflict { what: "issuer", name: name.to_owned(), why });
        }
        let records = self.records().await?;
        let is_upstream = issuer.vault.role.is_none();
        let of_it = |record: &&AuthorityRecord| is_upstream && is_of(record, &records, &issuer);
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

    /// One whose record does not open, so that it is in no list and can be asked for nothing.
    async fn remove_damaged_issuer(
        &self,
        caller: &Caller,
        name: &str,
        missing: CallError,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let Ok(name) = IssuerName::parse(name) else { return Err(missing) };
        let is_acme = self.acme_store.has_acme_issuer(&name).await?;
        if is_acme {
            self.refuse_while_edges_need(&name).await?;
        } else if self.issuers.has_issuer(&name).await? {
            if self.upstreams.standing(&name).leaves.is_some() {
                let why = "has a root in the bundle of workloads: migrate to another issuer, and wait for its leaves";
                return Err(CallError::Conflict { what: "issuer", name: name.to_string(), why: why.into() });
            }
            self.refuse_while_named(&name).await?;
        } else {
            return Err(missing);
        }
        if !dry_run {
            let mut event = caller.event(self.clock.now(), Action::IssuerRemove, name.as_str());
            reason.clone_into(&mut event.reason);
            match is_acme {
                true => self.acme_store.remove_acme_issuer(&name, None, event).await?,
                false => self.issuers.remove_issuer(&name, event).await?,
            }
        }
        let word = if dry_run { "would remove" } else { "removed" };
        Ok(wire::Done { dry_run, summary: format!("{word} issuer {name}, whose record does not open") })
    }

    /// Whoever has a leaf of it must be believed until that has ended.
    async fn refuse_while_leaves(&self, issuer: &Issuer) -> Result<(), CallError> {
        let Some(standing) = self.upstreams.standing(&issuer.name).leaves else { return Ok(()) };
        let why = match standing.state {
            AuthorityState::Prepared | AuthorityState::Active => {
                "signs the leaves of workloads, or is about to: migrate to another issuer".to_owned()
            }
            AuthorityState::Retired | AuthorityState::Removed => {
                let leaves = self.leaves_of(issuer).await?.unwrap_or_default();
                let last = leaves.last.map_or_else(String::new, |last| format!(", the last until {last}"));
                format!(
                    "has {}{last}: its root leaves the bundles of workloads two minutes after the \
                     last",
                    unexpired(leaves.unexpired)
                )
            }
        };
        Err(CallError::Conflict { what: "issuer", name: issuer.name.to_string(), why })
    }

    /// Whoever names it would have leaves of nobody.
    async fn refuse_while_named(&self, name: &IssuerName) -> Result<(), CallError> {
        let conflict = |why| Err(CallError::Conflict { what: "issuer", name: name.to_string(), why });
        let bindings = self.configs.bindings();
        let mut nodes = bindings.iter().filter(|one| one.issuer.as_ref() == Some(name));
        if let Some(first) = nodes.next() {
            let more = nodes.count();
            let more = if more == 0 { String::new() } else { format!(" and of {more} more") };
            let node = &first.node;
            return conflict(format!(
                "is named by the binding of {node}{more}: credence proxy issuer {node} --default, or another one"
            ));
        }
        let kept = self.issuers.issuers().await?;
        match kept.iter().find(|one| one.issuer.fallback.as_ref() == Some(name)) {
            Some(KeptIssuer { issuer, .. }) => conflict(format!(
                "signs in the place of {} while that rests: credence issuer update {} --no-fallback",
                issuer.name, issuer.name
            )),
            None => Ok(()),
        }
    }

    /// Who is to sign in its place, if somebody may.
    fn fallback(
        &self,
        name: &IssuerName,
        has_role: bool,
        wanted: Option<&str>,
        kept: &[KeptIssuer],
    ) -> Result<Option<IssuerName>, CallError> {
        let wrong = |why: String| CallError::Parameter { what: "fallback", why };
        let Some(text) = wanted else { return Ok(None) };
        let fallback = error::name("fallback", IssuerName::parse(text))?;
        if !has_role {
            let why = "an issuer without a role signs our authorities, and no leaf waits for it";
            return Err(wrong(why.to_owned()));
        }
        if fallback == *name {
            return Err(wrong(format!("{name} cannot sign in its own place")));
        }
        let signs_leaves = |one: &KeptIssuer| one.issuer.name == fallback && one.issuer.vault.role.is_some();
        if !fallback.is_builtin() && !kept.iter().any(signs_leaves) {
            return Err(wrong(format!(
                "{fallback} is no issuer with a role, and not {}",
                IssuerName::BUILTIN
            )));
        }
        Ok(Some(fallback))
    }

    /// What an issuer that signs leaves of workloads is asked for by name: that it exists.
    pub(super) async fn leaf_issuer(&self, text: &str) -> Result<IssuerName, CallError> {
        let name = error::name("issuer", IssuerName::parse(text))?;
        if name.is_builtin() {
            return Ok(name);
        }
        let issuer = self.find_issuer(text).await?.issuer;
        if issuer.vault.role.is_none() {
            let why = format!("{name} signs our authorities, and no leaves: it has no role");
            return Err(CallError::Parameter { what: "issuer", why });
        }
        if self.revoking.lists().is_some() {
            return Err(CallError::Policy(ca::MigrateError::Lists.to_string()));
        }
        if self.upstreams.leaves().default.left.contains(&name) {
            let why = format!("{} before", left_advice(&name));
            return Err(CallError::Conflict { what: "issuer", name: name.to_string(), why });
        }
        Ok(name)
    }

    /// Leaves are known by the authority that signed them: of one that stands under two roots nobody could say when those
    /// under the first have ended.
    fn refuse_mixed(
        &self,
        name: &IssuerName,
        signer: &Certificate,
        generation: u32,
        earlier: &[Earlier],
    ) -> Result<(), CallError> {
        let is_under_another =
            |one: &&Earlier| one.generation != generation && one.signer.spki_hash() == signer.spki_hash();
        if !earlier.iter().any(|one| is_under_another(&one)) {
            return Ok(());
        }
        let why = "has leaves of the same authority (the same key) under another root: have Vault make one with a key of its \
                   own, or add it as an issuer by another name"
            .to_owned();
        Err(CallError::Conflict { what: "issuer", name: name.to_string(), why })
    }

    /// An authority whose leaves may be in use is not forgotten, nor whom to ask under its root.
    fn refuse_forgotten(&self, name: &IssuerName, forgotten: &[Earlier]) -> Result<(), CallError> {
        let leaves = self.upstreams.leaves();
        let of_it = leaves.issuers.iter().filter(|one| one.source.name == *name);
        let is_forgotten = |of: u32| forgotten.iter().any(|one| one.generation == of);
        if of_it.clone().all(|one| !is_forgotten(one.source.generation)) {
            return Ok(());
        }
        let why = "has leaves of too many authorities that have not ended: wait for them".to_owned();
        Err(CallError::Conflict { what: "issuer", name: name.to_string(), why })
    }

    /// What of one issuer is to be known of the leaves of workloads as a whole.
    fn show_leaves(&self, one: &mut wire::Issuer, leaves: &LeavesStatus) {
        let current = leaves.default.current.as_str();
        let moving = leaves.default.migration.as_ref();
        one.is_default = one.name == current;
        one.percent = match moving {
            Some(migration) if migration.to.as_str() == one.name => leaves.moved,
            _ if one.is_default => 100 - leaves.moved,
            _ => 0,
        };
        one.migration = moving.filter(|migration| migration.to.as_str() == one.name).map(|migration| {
            let followers = leaves.followers.clone().unwrap_or_default();
            wire::Migration {
                from: current.to_owned(),
                stages: migration.stages.clone(),
                stage: migration.stage,
                since: migration.since.to_string(),
                hold: certs::format_duration(migration.hold),
                stopped: migration.stopped.clone(),
                total: followers.total,
                behind: followers.behind,
                waits_for: followers.waits_for,
            }
        });
        if let Some(name) = leaves.default.left.iter().find(|name| name.as_str() == one.name) {
            one.warnings.push(left_advice(name));
        }
        let bindings = self.configs.bindings();
        one.named_by = bindings
            .iter()
            .filter(|node| node.issuer.as_ref().is_some_and(|name| name.as_str() == one.name))
            .count();
        let health = leaves.health.iter().find(|(name, _)| name.as_str() == one.name);
        one.stands_in = health.and_then(|(_, health)| health.stands_in.as_ref()).map(ToString::to_string);
    }

    /// What there is of the leaves that an issuer signs by its role.
    async fn leaves_of(&self, issuer: &Issuer) -> Result<Option<wire::IssuerLeaves>, CallError> {
        if issuer.vault.role.is_none() {
            return Ok(None);
        }
        let mut leaves = ca::ports::Leaves::default();
        for signer in issuer.signers() {
            let id = AuthorityId::of(signer.spki_hash());
            let found = self.journal.unexpired_leaves(id, self.clock.now()).await;
            let found = found.map_err(|error| unavailable("journal", &error))?;
            leaves.count += found.count;
            leaves.last = leaves.last.max(found.last);
        }
        let status = self.upstreams.leaves();
        let of_it = status.issuers.iter().filter(|one| one.source.name == issuer.name);
        let laggards = of_it.flat_map(|one| &one.waits_for);
        let unknown = self.upstreams.unknown(&issuer.name).await?.into_iter().map(|one| wire::UnknownLeaf {
            request_id: one.request_id.to_string(),
            id: one.id.to_string(),
            node: one.node.map(|node| node.to_string()),
            role: one.role,
            spki_sha256: one.spki.to_string(),
            asked: one.at.to_string(),
        });
        Ok(Some(wire::IssuerLeaves {
            unexpired: leaves.count,
            last: leaves.last.map(|at| at.to_string()),
            waits_for: laggards.map(shown_laggard).collect(),
            unknown: unknown.collect(),
        }))
    }

    /// The authorities of issuers that sign leaves, and whose they are.
    pub(super) async fn outside_authorities(&self) -> Result<BTreeMap<AuthorityId, Issuer>, CallError> {
        let kept = self.issuers.issuers().await?;
        let of_leaves = kept.into_iter().map(|one| one.issuer).filter(|issuer| issuer.vault.role.is_some());
        let ids = |issuer: Issuer| {
            let ids: Vec<_> = issuer.signers().map(|one| AuthorityId::of(one.spki_hash())).collect();
            ids.into_iter().map(move |id| (id, issuer.clone()))
        };
        Ok(of_leaves.flat_map(ids).collect())
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
        let is_upstream = issuer.vault.role.is_none();
        let current = upstream::current(records, issuer.signers()).filter(|_| is_upstream);
        let standing = self.upstreams.standing(&issuer.name);
        let state = match standing.leaves.as_ref().map(|leaves| leaves.state) {
            Some(AuthorityState::Active) => "signs",
            Some(AuthorityState::Prepared) => "prepared",
            Some(AuthorityState::Retired) => "retired",
            Some(AuthorityState::Removed) | None if current.is_some() => "signs",
            Some(AuthorityState::Removed) | None => "idle",
        };
        let of_leaves = (!is_upstream).then(|| AuthorityId::of(issuer.signer.spki_hash()));
        wire::Issuer {
            name: issuer.name.to_string(),
            kind: "vault".into(),
            state: state.into(),
            vault: Some(self.wire_settings(&issuer.vault)),
            signer: Some(issuer.signer.subject().to_owned()),
            signer_expires: Some(issuer.signer.not_after().to_string()),
            anchor_sha256: Some(hex::encode(issuer.anchor.fingerprint())),
            authority: current.map(|current| current.id).or(of_leaves).map(|id| id.to_string()),
            next: standing.next.map(|at| at.to_string()),
            failures: standing.failures,
            problem: standing.problem,
            is_at_risk: standing.is_at_risk,
            warnings: standing.warnings,
            fallback: issuer.fallback.as_ref().map(ToString::to_string),
            version: Some(issuer.version),
            ..wire::Issuer::default()
        }
    }

    fn wire_settings(&self, vault: &VaultSettings) -> wire::VaultIssuer {
        wire::VaultIssuer {
            addresses: vault.addresses.clone(),
            ca_file: vault.ca_file.clone(),
            namespace: vault.namespace.clone(),
            mount: vault.mount.clone(),
            issuer: vault.issuer.clone(),
            role: vault.role.clone(),
            lifetime: vault.role.is_none().then(|| certs::format_duration(vault.lifetime)),
            login: vault.login.clone(),
        }
    }
}

/// Whether the issuer signed `record` itself, now or before its settings were changed.
fn is_of(record: &AuthorityRecord, all: &[AuthorityRecord], issuer: &Issuer) -> bool {
    let signed = upstream::signer_of(record, all).filter(|_| record.place == Place::Issuing);
    signed.is_some_and(|signed| issuer.signers().any(|signer| signed.spki_hash() == signer.spki_hash()))
}

/// What is to be known of one that is not trusted any more.
fn left_advice(name: &IssuerName) -> String {
    format!(
        "was left as not to be trusted, so nobody has leaves of it, whoever names it: credence issuer migrate --to {name} \
         trusts it again"
    )
}

/// Which of the issuer's roots `anchor` is. Only where it signs leaves those under one before may be in use.
fn generation(before: &Issuer, vault: &VaultSettings, anchor: &Certificate) -> u32 {
    if vault.role.is_none() {
        return before.generation;
    }
    let all = before.asked();
    let known = all.iter().find(|one| one.anchor == *anchor);
    let next = all.iter().map(|one| one.generation).max().map_or(0, |newest| newest.saturating_add(1));
    known.map_or(next, |one| one.generation)
}

/// Who signed before: an authority of theirs is still of this issuer, and so are leaves under their roots.
/// Beside them those that are too many.
fn earlier(before: Option<&Issuer>, signer: &Certificate, generation: u32) -> (Vec<Earlier>, Vec<Earlier>) {
    let Some(before) = before else { return (Vec::new(), Vec::new()) };
    let newest = before.asked().into_iter().take(1);
    let mut all: Vec<Earlier> = Vec::new();
    for one in newest.chain(before.earlier.iter().cloned()) {
        let is_now = one.generation == generation && one.signer.spki_hash() == signer.spki_hash();
        let is_known = |other: &Earlier| {
            other.generation == one.generation && other.signer.spki_hash() == one.signer.spki_hash()
        };
        if !is_now && !all.iter().any(is_known) {
            all.push(one);
        }
    }
    let forgotten = all.split_off(all.len().min(MAX_EARLIER));
    (all, forgotten)
}

/// Whether it signs leaves of workloads, and no authority of ours.
fn is_of_leaves(issuer: &wire::Issuer) -> bool {
    issuer.vault.as_ref().is_some_and(|vault| vault.role.is_some())
}

/// The root whose key is here; without it our issuing authority signs as ever, as long as it lasts.
fn builtin(records: &[AuthorityRecord], others: &[wire::Issuer]) -> wire::Issuer {
    let root =
        records.iter().find(|record| record.place == Place::Root && record.state == AuthorityState::Active);
    let is_here = root.is_some_and(|root| root.offline.is_none());
    let active = records
        .iter()
        .find(|record| record.place == Place::Issuing && record.state == AuthorityState::Active);
    let is_own = others.iter().all(|other| other.state != "signs" || is_of_leaves(other));
    let state = match root {
        Some(_) if is_own && is_here => "signs",
        Some(_) if is_own => "offline",
        _ => "idle",
    };
    wire::Issuer {
        name: IssuerName::BUILTIN.into(),
        kind: "builtin".into(),
        state: state.into(),
        signer: root.filter(|_| is_here).map(|root| root.certificate.subject().to_owned()),
        signer_expires: root.filter(|_| is_here).map(|root| root.certificate.not_after().to_string()),
        anchor_sha256: root.filter(|_| is_here).map(|root| hex::encode(root.certificate.fingerprint())),
        authority: active.filter(|_| state != "idle").map(|record| record.id.to_string()),
        ..wire::Issuer::default()
    }
}
