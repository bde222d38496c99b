//! Imported secrets: written, listed, removed. A value that came in never goes out by a call; nodes get it by SDS.

use std::collections::BTreeSet;

use audit::Action;
use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{ImportError, Imported, Timestamp};
use sds::{ImportedSecret, SecretFacts};
use spiffe::{Binding, Class, NodeId, SecretName, SpiffeId};
use zeroize::Zeroizing;

use super::{
    CallError, Caller, Calls,
    error::{self, count},
};
use crate::{ports::NewSecret, wire};

/// The most listeners, or nodes, that an answer names.
const MAX_NAMED: usize = 5;
/// The most identities that one secret is granted to.
const MAX_GRANTS: usize = 256;

impl Calls {
    /// The tenant's imported secrets, by name, without their values.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_secrets(&self, caller: &Caller) -> Result<wire::Page<wire::Secret>, CallError> {
        let found = self.secrets.secrets().await?;
        let own = found.iter().filter(|one| one.facts.tenant == caller.tenant);
        Ok(wire::Page::whole(own.map(|one| self.shown(&one.facts, &one.value)).collect()))
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn get_secret(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<wire::Secret, CallError> {
        let found = self.find_secret(caller, &secret_name(namespace, name)?).await?;
        Ok(self.shown(&found.facts, &found.value))
    }

    /// Writes an imported secret, whether or not there was one. What does not parse, match or chain is refused with
    /// the reason, and nothing is kept.
    ///
    /// # Errors
    /// See above; and when a grant is foreign, reserved or missing.
    pub async fn set_secret(
        &self,
        caller: &Caller,
        wanted: &wire::SetSecret,
    ) -> Result<wire::SecretChange, CallError> {
        let name = secret_name(&wanted.namespace, &wanted.name)?;
        let grants = self.grants(&wanted.grants)?;
        if grants.is_empty() {
            let why = "at least one identity is needed, or nobody ever gets the secret".into();
            return Err(CallError::Parameter { what: "grants", why });
        }
        let value = value(wanted, self.clock.now())?;
        let before = match self.find_secret(caller, &name).await {
            Ok(found) => Some(found),
            Err(CallError::NotFound { .. }) => None,
            Err(other) => return Err(other),
        };
        self.write_secret(caller, wanted, name, grants, value, before).await
    }

    /// Replaces the value of an imported secret; its grants stay.
    ///
    /// # Errors
    /// As [`Calls::set_secret`]; and when there is none, or the kind differs.
    pub async fn rotate_secret(
        &self,
        caller: &Caller,
        wanted: &wire::SetSecret,
    ) -> Result<wire::SecretChange, CallError> {
        let name = secret_name(&wanted.namespace, &wanted.name)?;
        if !wanted.grants.is_empty() {
            let why = "the grants of a secret stay when its value is replaced; set it to change them".into();
            return Err(CallError::Parameter { what: "grants", why });
        }
        let found = self.find_secret(caller, &name).await?;
        let value = value(wanted, self.clock.now())?;
        if value.word() != found.value.word() {
            let why = format!("is {}, what came is {}", found.value.word(), value.word());
            return Err(CallError::Conflict { what: "secret", name: name.to_string(), why });
        }
        let grants = found.facts.grants.clone();
        self.write_secret(caller, wanted, name, grants, value, Some(found)).await
    }

    async fn write_secret(
        &self,
        caller: &Caller,
        wanted: &wire::SetSecret,
        name: SecretName,
        grants: BTreeSet<SpiffeId>,
        value: Imported,
        before: Option<ImportedSecret>,
    ) -> Result<wire::SecretChange, CallError> {
        let now = self.clock.now();
        let expected = before.as_ref().map_or(0, |before| before.facts.version);
        let facts = SecretFacts {
            tenant: caller.tenant.clone(),
            name: name.clone(),
            version: expected + 1,
            grants: grants.clone(),
            created: before.as_ref().map_or(now, |before| before.facts.created),
            updated: now,
        };
        let mut shown = self.shown(&facts, &value);
        let losses = match &before {
            Some(before) => self.losses(before, &facts, &value).await?,
            None => String::new(),
        };
        if !wanted.dry_run {
            let mut event = caller.event(now, Action::SecretSet, name.to_string());
            event.reason.clone_from(&wanted.reason);
            let event = event.with("secret_kind", value.word()).with("grants", shown.grants.join(" "));
            let new = NewSecret { tenant: facts.tenant, name, grants, created: facts.created, value };
            shown.version = self.secrets.put_secret(new, Some(expected), event).await?;
        }
        let word = match (wanted.dry_run, before.is_some()) {
            (true, false) => "would add",
            (true, true) => "would replace",
            (false, false) => "added",
            (false, true) => "replaced",
        };
        let nodes = count(shown.nodes.len(), "node is", "nodes are");
        let mut summary =
            format!("{word} {}: {nodes} bound to an identity that it is granted to", shown.sds_name);
        summary += &losses;
        if let Some(begins) = &shown.begins {
            summary += &format!(
                "; ITS CERTIFICATE BEGINS AT {begins} ONLY: until then whoever verifies it refuses it"
            );
        }
        Ok(wire::SecretChange { dry_run: wanted.dry_run, summary, secret: shown })
    }

    /// What nodes lose by another value or other grants of a secret: the end of a sentence about it, empty if nothing.
    async fn losses(
        &self,
        before: &ImportedSecret,
        after: &SecretFacts,
        value: &Imported,
    ) -> Result<String, CallError> {
        let (tenant, name) = (&after.tenant, &after.name);
        let mut said = String::new();
        let bindings = self.configs.bindings();
        let lost = bindings.iter().filter(|one| gets(one, &before.facts) && !gets(one, after));
        let lost: BTreeSet<NodeId> = lost.map(|one| one.node.clone()).collect();
        if !lost.is_empty() {
            let names: Vec<String> = lost.iter().map(ToString::to_string).collect();
            let showing = self.configs.showing(tenant.clone(), name.clone(), Some(lost)).await?;
            let names = named(&names, "more node", "more nodes");
            said += &format!("; IT GOES NO MORE TO {names}: {KEPT}{}", closing(&showing));
        }
        let (was, is) = (before.value.word(), value.word());
        if was != is {
            said += &format!("; IT WAS {was}, AND IS {is} NOW");
            let showing = self.configs.showing(tenant.clone(), name.clone(), None).await?;
            if matches!(value, Imported::Generic(_)) && !showing.is_empty() {
                said +=
                    &format!(": proxies refuse it where a certificate is shown, {KEPT}{}", closing(&showing));
            }
        }
        Ok(said)
    }

    /// Removes an imported secret: proxies that hold it keep it until they restart, and get it no more.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn remove_secret(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let name = secret_name(namespace, name)?;
        self.find_secret(caller, &name).await?;
        let showing = self.configs.showing(caller.tenant.clone(), name.clone(), None).await?;
        if !dry_run {
            let event = caller.event(self.clock.now(), Action::SecretRemove, name.to_string());
            self.secrets.remove_secret(&caller.tenant, &name, event).await?;
        }
        let word = if dry_run { "would remove" } else { "removed" };
        let uri = name.to_uri();
        let summary = format!("{word} {uri}: {KEPT}{}", closing(&showing));
        Ok(wire::Done { dry_run, summary })
    }

    async fn find_secret(&self, caller: &Caller, name: &SecretName) -> Result<ImportedSecret, CallError> {
        let found = self.secrets.secrets().await?;
        let own = found.into_iter().find(|one| one.facts.tenant == caller.tenant && one.facts.name == *name);
        own.ok_or_else(|| CallError::NotFound { what: "secret", name: name.to_string() })
    }

    fn grants(&self, texts: &[String]) -> Result<BTreeSet<SpiffeId>, CallError> {
        if texts.len() > MAX_GRANTS {
            let why = format!("{} identities, at most {MAX_GRANTS} are taken", texts.len());
            return Err(CallError::Parameter { what: "grants", why });
        }
        let mut grants = BTreeSet::new();
        for text in texts {
            let id = error::id("grant", SpiffeId::parse(text))?;
            if id.trust_domain() != &self.domain {
                return Err(CallError::Policy(format!("{id} is not in trust domain {}", self.domain)));
            }
            if id.class() != Ok(Class::Workload) {
                return Err(CallError::Policy(format!(
                    "{id} is reserved; secrets are granted to workload identities"
                )));
            }
            grants.insert(id);
        }
        Ok(grants)
    }

    fn shown(&self, facts: &SecretFacts, value: &Imported) -> wire::Secret {
        let bindings = self.configs.bindings();
        let nodes = bindings.iter().filter(|binding| gets(binding, facts));
        let subject = match value {
            Imported::Tls { chain, .. } => Some(chain.leaf().subject().to_owned()),
            Imported::Generic(_) => None,
        };
        wire::Secret {
            namespace: facts.name.namespace().to_string(),
            name: facts.name.name().to_owned(),
            sds_name: facts.name.to_uri(),
            kind: value.word().to_owned(),
            version: facts.version,
            grants: facts.grants.iter().map(ToString::to_string).collect(),
            nodes: nodes.map(|binding| binding.node.to_string()).collect(),
            created: facts.created.to_string(),
            updated: facts.updated.to_string(),
            subject: subject.filter(|subject| !subject.is_empty()),
            begins: value.not_before().filter(|at| *at > self.clock.now()).map(|at| at.to_string()),
            expires: value.not_after().map(|at| at.to_string()),
            expires_in_secs: value.not_after().map(|at| at.millis_since(self.clock.now()).div_euclid(1000)),
        }
    }
}

/// What becomes of a secret on proxies that get it no more: a removal takes nothing away from them.
const KEPT: &str = "what proxies hold of it they keep until they restart";

/// Whether a node is bound to an identity that a secret is granted to.
fn gets(binding: &Binding, facts: &SecretFacts) -> bool {
    binding.tenant == facts.tenant && binding.identities.iter().any(|id| facts.grants.contains(id))
}

/// What happens then at the listeners that show it.
fn closing(showing: &[String]) -> String {
    match showing {
        [] => String::new(),
        showing => {
            let listeners = named(showing, "more listener", "more listeners");
            format!(", and then they close every connection to {listeners}")
        }
    }
}

/// The first of some names, and how many more there are.
fn named(names: &[String], one: &str, many: &str) -> String {
    let shown = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {}", count(more, one, many)),
    }
}

fn secret_name(namespace: &str, name: &str) -> Result<SecretName, CallError> {
    SecretName::parse(namespace, name)
        .map_err(|error| CallError::Parameter { what: "name", why: error.to_string() })
}

/// What was sent, parsed. No message says anything of the value itself.
fn value(wanted: &wire::SetSecret, now: Timestamp) -> Result<Imported, CallError> {
    let refused = |error: ImportError| CallError::Parameter {
        what: "secret",
        why: format!("{error}; {}", error.hint()),
    };
    match (&wanted.certificate, &wanted.key, &wanted.value) {
        (Some(certificate), Some(key), None) => {
            Imported::tls(certificate.as_bytes(), key.as_bytes(), now).map_err(refused)
        }
        (None, None, Some(value)) => {
            let bytes = STANDARD.decode(value.as_bytes());
            let bad = |_| CallError::Parameter { what: "value", why: "it is not base64".into() };
            Imported::generic(Zeroizing::new(bytes.map_err(bad)?)).map_err(refused)
        }
        _ => Err(CallError::Parameter { what: "secret", why: "give certificate and key, or value".into() }),
    }
}
