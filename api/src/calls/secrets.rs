//! Imported secrets: written, listed, removed. A value that came in never goes out by a call; nodes get it by SDS.

use std::collections::BTreeSet;

use audit::Action;
use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{ImportError, Imported, Timestamp};
use sds::{ImportedSecret, SecretFacts};
use spiffe::{Class, SecretName, SpiffeId};
use zeroize::Zeroizing;

use super::{
    CallError, Caller, Calls,
    error::{self, count},
};
use crate::{ports::NewSecret, wire};

/// The most listeners that an answer names.
const MAX_SHOWING: usize = 5;
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
            Ok(found) => Some(found.facts),
            Err(CallError::NotFound { .. }) => None,
            Err(other) => return Err(other),
        };
        let expected = before.as_ref().map_or(0, |facts| facts.version);
        self.write_secret(caller, wanted, name, grants, value, before, expected).await
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
        let facts = found.facts;
        let (grants, expected) = (facts.grants.clone(), facts.version);
        self.write_secret(caller, wanted, name, grants, value, Some(facts), expected).await
    }

    #[expect(clippy::too_many_arguments, reason = "what both ways to write have found out by now")]
    async fn write_secret(
        &self,
        caller: &Caller,
        wanted: &wire::SetSecret,
        name: SecretName,
        grants: BTreeSet<SpiffeId>,
        value: Imported,
        before: Option<SecretFacts>,
        expected: u64,
    ) -> Result<wire::SecretChange, CallError> {
        let now = self.clock.now();
        let facts = SecretFacts {
            tenant: caller.tenant.clone(),
            name: name.clone(),
            version: expected + 1,
            grants: grants.clone(),
            created: before.as_ref().map_or(now, |facts| facts.created),
            updated: now,
        };
        let mut shown = self.shown(&facts, &value);
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
        if let Some(begins) = &shown.begins {
            summary += &format!(
                "; ITS CERTIFICATE BEGINS AT {begins} ONLY: until then whoever verifies it refuses it"
            );
        }
        Ok(wire::SecretChange { dry_run: wanted.dry_run, summary, secret: shown })
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
        let showing = self.configs.showing(caller.tenant.clone(), name.clone()).await?;
        if !dry_run {
            let event = caller.event(self.clock.now(), Action::SecretRemove, name.to_string());
            self.secrets.remove_secret(&caller.tenant, &name, event).await?;
        }
        let word = if dry_run { "would remove" } else { "removed" };
        let uri = name.to_uri();
        let kept = format!("{word} {uri}: what proxies hold of it they keep until they restart");
        let summary = match showing.as_slice() {
            [] => kept,
            showing => {
                let named =
                    showing.iter().take(MAX_SHOWING).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = match showing.len().saturating_sub(MAX_SHOWING) {
                    0 => String::new(),
                    more => format!(" and {}", count(more, "more listener", "more listeners")),
                };
                format!("{kept}, and then they close every connection to {named}{more}")
            }
        };
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
        let nodes = bindings.iter().filter(|binding| {
            binding.tenant == facts.tenant && binding.identities.iter().any(|id| facts.grants.contains(id))
        });
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
