//! Another issuer signs: our authorities, or the leaves of workloads.

use std::{collections::BTreeSet, time::Duration};

use ca::{
    migration::{Begin, MigrationWish, Migrations},
    ports::{AuthorityRecord, AuthorityState},
    rotation::{Step, Wish},
    upstream,
};
use certs::parse_duration;
use spiffe::{AuthorityId, IssuerName};

use super::super::{CallError, Caller, Calls, acme, error};
use crate::{ports::Issuer, wire};

/// How long a stage stands, complete and without trouble, before the next, unless said.
const HOLD: Duration = Duration::from_secs(60);

impl Calls {
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
        let from =
            wanted.from.as_deref().map(|text| error::name("from", IssuerName::parse(text))).transpose()?;
        if let Some(from) = &from {
            self.refuse_unknown(from).await?;
        }
        if wanted.to == IssuerName::BUILTIN {
            return self.migrate_to_builtin(caller, from, wanted).await;
        }
        if self.find_acme(&wanted.to).await?.is_some() {
            return Err(acme::signs_nothing(&wanted.to));
        }
        let issuer = self.find_issuer(&wanted.to).await?.issuer;
        if issuer.vault.role.is_some() {
            return self.migrate_leaves(caller, from, Some(&issuer), wanted).await;
        }
        self.refuse_stages(from, wanted).await?;
        let anchor = AuthorityId::of(issuer.anchor.spki_hash());
        let records = self.records().await?;
        let is_prepared = |one: &AuthorityRecord| one.id == anchor && one.state == AuthorityState::Prepared;
        if records.iter().any(is_prepared) {
            let why = format!(
                "is on its way already: its root {anchor} is prepared. credence ca status says who is waited for, credence ca \
                 rotate root activate and finish go on with it unless it goes by itself, and rollback calls it off"
            );
            return Err(CallError::Conflict { what: "issuer", name: issuer.name.to_string(), why });
        }
        if wanted.dry_run {
            let signs = |one: &AuthorityRecord| one.id == anchor && one.state == AuthorityState::Active;
            let is_same = records.iter().any(signs);
            let signs_already = upstream::current(&records, issuer.signers()).is_some();
            let next = if is_same && signs_already {
                "before its time: it signs already, and is asked by itself (credence issuer list says when)"
                    .to_owned()
            } else if is_same {
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
        from: Option<IssuerName>,
        wanted: &wire::MigrateIssuer,
    ) -> Result<wire::IssuerMigration, CallError> {
        // Not by the records of issuers: one that does not open may be what is to be left.
        let leaves = self.upstreams.leaves();
        if wanted.now || !leaves.default.current.is_builtin() || leaves.default.migration.is_some() {
            return self.migrate_leaves(caller, from, None, wanted).await;
        }
        self.refuse_stages(from, wanted).await?;
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
        let root = match wanted.dry_run {
            true => self.rotation.simulate_root(wish).await.map(|_| None)?,
            false => self.rotation.rotate_root(caller, wish, &wanted.reason).await?.other,
        };
        let summary = match root {
            Some(root) => format!("root {root} of our own is prepared: credence ca status shows who has it"),
            None => "would make a root of our own, which enters every bundle, prepared: credence ca rotate root activate \
                     and finish go on with it"
                .to_owned(),
        };
        Ok(wire::IssuerMigration { dry_run: wanted.dry_run, summary, installed: None })
    }

    /// Whoever is to be left exists, be it that its record does not open.
    async fn refuse_unknown(&self, name: &IssuerName) -> Result<(), CallError> {
        let is_known = name.is_builtin()
            || self.issuers.has_issuer(name).await?
            || self.find_acme(name.as_str()).await?.is_some()
            || self.upstreams.leaves().of(name).is_some();
        let missing = || CallError::NotFound { what: "issuer", name: name.to_string() };
        is_known.then_some(()).ok_or_else(missing)
    }

    /// What is of leaves alone, where our authorities are to be signed by another.
    async fn refuse_stages(
        &self,
        from: Option<IssuerName>,
        wanted: &wire::MigrateIssuer,
    ) -> Result<(), CallError> {
        let wrong = |what: &'static str, why: &str| Err(CallError::Parameter { what, why: why.to_owned() });
        if !wanted.stages.is_empty() || wanted.hold.is_some() {
            let why = "our own authority signs all leaves, and its root goes through the gates of a rotation: stages are of \
                       issuers with a role";
            return wrong("stages", why);
        }
        if wanted.now {
            let why = "the key of an authority of ours is here, whoever signed it: credence ca emergency --authority ID \
                       replaces a stolen one at once";
            return wrong("now", why);
        }
        if let Some(from) = from {
            let state = self.show_issuer(from.as_str()).await?.state;
            if !matches!(state.as_str(), "signs" | "offline") {
                let why = "does not sign our authorities: credence issuer list says who does".to_owned();
                return Err(CallError::Conflict { what: "issuer", name: from.to_string(), why });
            }
        }
        Ok(())
    }

    /// Who signs the leaves of workloads whose bindings name nobody: an issuer with a role, as soon as every connected
    /// node has acknowledged its root; or our own authorities, at once.
    async fn migrate_leaves(
        &self,
        caller: &Caller,
        from: Option<IssuerName>,
        to: Option<&Issuer>,
        wanted: &wire::MigrateIssuer,
    ) -> Result<wire::IssuerMigration, CallError> {
        if wanted.automatic {
            let why = "leaves move by what proxies acknowledge; it is of the root of our own authorities"
                .to_owned();
            return Err(CallError::Parameter { what: "automatic", why });
        }
        if to.is_some() && self.revoking.lists().is_some() {
            return Err(CallError::Policy(ca::MigrateError::Lists.to_string()));
        }
        let hold = match &wanted.hold {
            None => HOLD,
            Some(text) => {
                let why = || format!("{text:?} is no duration, such as 10m");
                parse_duration(text).ok_or_else(|| CallError::Parameter { what: "hold", why: why() })?
            }
        };
        let begin = Begin {
            from,
            to: to.map_or_else(IssuerName::builtin, |to| to.name.clone()),
            stages: wanted.stages.clone(),
            hold,
            is_hurried: wanted.now,
        };
        let to_name = begin.to.clone();
        self.turn(caller, MigrationWish::Begin(begin), &wanted.reason, wanted.dry_run).await?;
        let moves = if wanted.dry_run { "would move leaves" } else { "leaves move" };
        let root = to.map(|to| AuthorityId::of(to.anchor.spki_hash()).to_string());
        let gate = match &root {
            Some(root) => format!(
                "root {root} enters the bundles of workloads first, and nothing moves before every connected node has \
                 acknowledged that; nodes, operators and this server stay with our own authority"
            ),
            None => "our root stands in every bundle, so that nobody is waited for".to_owned(),
        };
        let stages = match wanted.stages.as_slice() {
            [] if wanted.now => "all of the issuer that is left are replaced at once, and its root leaves the bundles \
                                 when no connected node shows a leaf of it, a minute from now at least"
                .to_owned(),
            [] => "all move at once, and the root of the issuer before leaves the bundles when its last leaf has ended"
                .to_owned(),
            stages => {
                let stages: Vec<_> = stages.iter().map(|stage| format!("{stage} %")).collect();
                let hold = certs::format_duration(hold);
                format!(
                    "{} of identities move, each stage when all of the one before is acknowledged and has stood for {hold} \
                     without trouble",
                    stages.join(", ")
                )
            }
        };
        let named = self.configs.bindings().iter().filter(|binding| binding.issuer.is_some()).count();
        let named = match named {
            0 => String::new(),
            named => format!("; {named} bindings name their issuer, and stay"),
        };
        let summary =
            format!("{moves} of workloads to {to_name}: {gate}; {stages}{named}: credence issuer list");
        Ok(wire::IssuerMigration { dry_run: wanted.dry_run, summary, installed: None })
    }

    /// Calls a migration of leaves off, or has one that is stopped go on.
    ///
    /// # Errors
    /// When there is none, or it is not stopped.
    pub async fn turn_migration(
        &self,
        caller: &Caller,
        wanted: &wire::TurnMigration,
        is_abort: bool,
    ) -> Result<wire::IssuerMigration, CallError> {
        let leaves = self.upstreams.leaves();
        let wish = if is_abort { MigrationWish::Abort } else { MigrationWish::Resume };
        self.turn(caller, wish, &wanted.reason, wanted.dry_run).await?;
        let to =
            leaves.default.migration.as_ref().map(|migration| migration.to.to_string()).unwrap_or_default();
        let from = &leaves.default.current;
        let (would, s, es) = if wanted.dry_run { ("would have ", "", "") } else { ("", "s", "es") };
        let summary = if is_abort {
            format!(
                "{would}{from} sign{s} all leaves again: those of {to} are replaced, and its root leaves the bundles of \
                 workloads when the last of them has ended"
            )
        } else {
            format!("{would}the migration from {from} to {to} go{es} on with the stage that was taken back")
        };
        Ok(wire::IssuerMigration { dry_run: wanted.dry_run, summary, installed: None })
    }

    async fn turn(
        &self,
        caller: &Caller,
        wish: MigrationWish,
        reason: &str,
        dry_run: bool,
    ) -> Result<(), CallError> {
        let leaves = self.upstreams.leaves();
        let active = leaves.issuers.iter().filter(|one| one.state == AuthorityState::Active);
        let may_sign = active.map(|one| one.source.name.clone()).collect();
        let machine = Migrations::resume(leaves.default.clone(), may_sign);
        machine.judge(&wish, self.clock.now()).map_err(|refusal| CallError::wish(&refusal))?;
        if dry_run { Ok(()) } else { self.upstreams.turn(caller, wish, reason).await }
    }
}
