//! Whether a token may do what it should and nothing else (PURE).
//!
//! Vault says so in `sys/internal/ui/resultant-acl`, to tokens that have the policy `default`; its shape is not
//! promised. Where it is not to be had, or not known, a fixed list of paths is asked one by one, and that list says
//! nothing about the others: then the breadth is not provable.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_json::Value;

use crate::{Answer, Mount, Policy, policy::Rule};

/// Something that a token may do, and should not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Surplus {
    /// On which path; `*` at its end stands for all that begin so. Or how many more there are, after [`MAX_NAMED`].
    pub path: String,
    /// What; empty of those that are only counted.
    pub what: String,
}

/// The most surpluses, and the most lacking paths, that are named; the others are counted.
pub const MAX_NAMED: usize = 16;
/// The most characters of a path, and of what may be done there.
const MAX_TEXT: usize = 300;

impl Surplus {
    fn new(path: &str, what: &str) -> Self {
        Self { path: cut(path), what: cut(what) }
    }
}

impl fmt::Display for Surplus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what.as_str() {
            "" => f.write_str(&self.path),
            what => write!(f, "{} ({what})", self.path),
        }
    }
}

/// Vault's words, which have no bound of their own.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// The first [`MAX_NAMED`], and how many more there are.
fn first<T>(mut all: Vec<T>, more: impl FnOnce(String) -> T) -> Vec<T> {
    let beyond = all.len().saturating_sub(MAX_NAMED);
    if beyond > 0 {
        all.truncate(MAX_NAMED);
        all.push(more(format!("and {beyond} more")));
    }
    all
}

fn wide(surplus: Vec<Surplus>) -> Breadth {
    Breadth::Wide(first(surplus, |path| Surplus { path, what: String::new() }))
}

/// What a token may do, beside what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breadth {
    /// No more than it should. The paths that it should and may not are named.
    Narrow {
        /// What it lacks.
        missing: Vec<String>,
    },
    /// More than it should.
    Wide(Vec<Surplus>),
    /// None of the probed paths is open, which says nothing about others.
    NotProvable {
        /// Why.
        why: String,
        /// How many paths were probed.
        probed: usize,
        /// What it lacks.
        missing: Vec<String>,
    },
}

/// What the policy `default` gives: a token's care for itself. Globs as Vault writes them, without the `*`.
const DEFAULT_EXACT: [&str; 14] = [
    "auth/token/lookup-self",
    "auth/token/renew-self",
    "auth/token/revoke-self",
    "sys/capabilities-self",
    "sys/control-group/request",
    "sys/internal/ui/resultant-acl",
    "sys/leases/lookup",
    "sys/leases/renew",
    "sys/renew",
    "sys/tools/hash",
    "sys/wrapping/lookup",
    "sys/wrapping/unwrap",
    "sys/wrapping/wrap",
    // Of OpenBao.
    "sys/internal/ui/namespaces",
];
const DEFAULT_GLOBS: [&str; 3] = ["cubbyhole/", "sys/tools/hash/", "identity/oidc/provider/+/authorize"];
/// What it gives of the token's own entity, to read.
const OWN_ENTITY: [&str; 2] = ["identity/entity/id/", "identity/entity/name/"];

/// What an access control list says of one path.
#[derive(Debug, Deserialize)]
struct Grants {
    /// Never empty: that is a shape which is not known.
    capabilities: Vec<String>,
    #[serde(default)]
    allowed_parameters: Option<BTreeMap<String, Option<Vec<Value>>>>,
    #[serde(default)]
    required_parameters: Option<Vec<String>>,
}

impl Grants {
    fn is_denied(&self) -> bool {
        self.capabilities.iter().all(|one| one == "deny")
    }
}

/// Why a list cannot be judged.
const UNKNOWN_SHAPE: &str = "sys/internal/ui/resultant-acl has a shape that is not known";

/// Holds what `resultant-acl` answered against the policy. In a namespace it names every path with the namespace before
/// it, while a policy is written without; what lies outside of the namespace is a surplus, whatever it is.
///
/// # Errors
/// In words, when its shape is not known: then the paths of [`probes`] must be asked.
pub fn judge_acl(acl: &Value, policy: &Policy, namespace: Option<&Mount>) -> Result<Breadth, String> {
    let unknown = || UNKNOWN_SHAPE.to_owned();
    let members = acl.as_object().ok_or_else(unknown)?;
    if members.get("root").is_some_and(|root| root != &Value::Bool(false)) {
        return Ok(wide(vec![Surplus::new("*", "root")]));
    }
    if members
        .keys()
        .any(|key| !["root", "exact_paths", "glob_paths", "chroot_namespace"].contains(&key.as_str()))
    {
        return Err(unknown());
    }
    let read = |key: &str| -> Result<BTreeMap<String, Grants>, String> {
        match members.get(key) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| unknown()),
        }
        .and_then(|all: BTreeMap<String, Grants>| {
            let is_known = all.values().all(|grants| !grants.capabilities.is_empty());
            if is_known { Ok(all) } else { Err(unknown()) }
        })
    };
    let (exact, globs) = (read("exact_paths")?, read("glob_paths")?);
    if exact.is_empty() && globs.is_empty() {
        return Err(unknown());
    }
    let before = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let mut surplus = Vec::new();
    for (path, grants) in exact.iter().filter(|(_, grants)| !grants.is_denied()) {
        let what = match path.strip_prefix(&before) {
            Some(inner) => exact_surplus(inner, grants, policy),
            None => Some(grants.capabilities.join(", ")),
        };
        surplus.extend(what.map(|what| Surplus::new(path, &what)));
    }
    for (path, grants) in globs.iter().filter(|(_, grants)| !grants.is_denied()) {
        if !path.strip_prefix(&before).is_some_and(|inner| DEFAULT_GLOBS.contains(&inner)) {
            let star = if path.contains('+') { "" } else { "*" };
            surplus.push(Surplus::new(&format!("{path}{star}"), &grants.capabilities.join(", ")));
        }
    }
    if !surplus.is_empty() {
        return Ok(wide(surplus));
    }
    let lacks = |rule: &&Rule| {
        let granted = exact.get(&format!("{before}{}", rule.path));
        !granted.is_some_and(|grants| {
            rule.capabilities.iter().all(|one| grants.capabilities.iter().any(|has| has == one))
        })
    };
    let missing = policy.rules().iter().filter(lacks).map(|rule| rule.path.clone()).collect();
    Ok(Breadth::Narrow { missing: first(missing, |more| more) })
}

/// What a path without wildcards gives beyond the policy.
fn exact_surplus(path: &str, grants: &Grants, policy: &Policy) -> Option<String> {
    let beyond = |may: &[&str]| {
        let more: Vec<&str> =
            grants.capabilities.iter().map(String::as_str).filter(|one| !may.contains(one)).collect();
        (!more.is_empty()).then(|| more.join(", "))
    };
    if let Some(rule) = policy.rules().iter().find(|rule| rule.covers(path)) {
        return beyond(&rule.capabilities).or_else(|| parameter_surplus(rule, grants));
    }
    if DEFAULT_EXACT.contains(&path) {
        return None;
    }
    let is_own = OWN_ENTITY
        .iter()
        .any(|entity| path.strip_prefix(entity).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')));
    beyond(if is_own { &["read"] } else { &[] })
}

/// What parameters give beyond a rule that limits them.
fn parameter_surplus(rule: &Rule, grants: &Grants) -> Option<String> {
    if rule.allowed.is_empty() {
        return None;
    }
    let allowed = grants.allowed_parameters.as_ref().filter(|allowed| !allowed.is_empty());
    let Some(allowed) = allowed else { return Some("any parameter, such as not_after".to_owned()) };
    for (name, values) in allowed {
        let Some((_, expected)) = rule.allowed.iter().find(|(known, _)| known == name) else {
            return Some(format!("parameter {name}"));
        };
        let values = values.as_deref().unwrap_or_default();
        let is_within = values.iter().all(|value| expected.iter().any(|one| value == one));
        if !expected.is_empty() && (values.is_empty() || !is_within) {
            return Some(format!("parameter {name} with other values than {expected:?}"));
        }
    }
    let required = grants.required_parameters.as_deref().unwrap_or_default();
    let lacking = rule.required.iter().find(|name| !required.iter().any(|one| one == *name));
    lacking.map(|name| format!("without the required parameter {name}"))
}

/// The paths that are asked one by one: those of the policy, and what nobody who only signs, or only keeps a slot,
/// should be let near. Neighbours are named by a name that nobody uses, so that what is found open is open by a
/// wildcard.
#[must_use]
pub fn probes(policy: &Policy, mounts: &[&Mount]) -> Vec<String> {
    const NEAR: [&str; 21] = [
        "root",
        "keys",
        "keys/credence-probe",
        "keys/credence-probe/config",
        "encrypt/credence-probe",
        "decrypt/credence-probe",
        "export/encryption-key/credence-probe",
        "backup/credence-probe",
        "roles/credence-probe",
        "sign/credence-probe",
        "issue/credence-probe",
        "sign-verbatim",
        "sign-verbatim/credence-probe",
        "root/sign-intermediate",
        "root/sign-self-issued",
        "issuer/default",
        "issuer/default/sign/credence-probe",
        "issuer/default/sign-verbatim",
        "issuer/default/sign-intermediate",
        "config/ca",
        "config/issuers",
    ];
    const FAR: [&str; 20] = [
        "auth/token/create",
        "auth/token/create-orphan",
        "auth/token/roles/credence-probe",
        "identity/entity",
        "identity/group",
        "kv/data/credence-probe",
        "secret/data/credence-probe",
        "ssh/sign/credence-probe",
        "sys/audit/credence-probe",
        "sys/auth",
        "sys/auth/credence-probe",
        "sys/mounts",
        "sys/mounts/credence-probe",
        "sys/namespaces/credence-probe",
        "sys/plugins/catalog/auth/credence-probe",
        "sys/policies/acl/credence-probe",
        "sys/policy/credence-probe",
        "sys/raw/core/credence-probe",
        "sys/seal",
        "sys/storage/raft/snapshot",
    ];
    let mut paths: Vec<String> = policy.rules().iter().map(|rule| rule.path.clone()).collect();
    paths.extend(mounts.iter().flat_map(|mount| NEAR.iter().map(move |path| format!("{mount}/{path}"))));
    paths.extend(FAR.iter().map(|path| (*path).to_owned()));
    paths
}

/// Holds the answer of `sys/capabilities-self` about [`probes`] against the policy. `why` says why it was asked.
///
/// # Errors
/// In words, when the answer is of another shape, or does not name each of the paths.
pub fn judge_probes(
    answer: &Answer,
    asked: &[String],
    policy: &Policy,
    why: &str,
) -> Result<Breadth, String> {
    let shape = || "sys/capabilities-self has a shape that is not known".to_owned();
    let found: BTreeMap<String, Value> = answer.data().map_err(|_| shape())?;
    let (mut surplus, mut missing) = (Vec::new(), Vec::new());
    for path in asked {
        let has: Vec<String> =
            found.get(path).and_then(|value| serde_json::from_value(value.clone()).ok()).ok_or_else(shape)?;
        let rule = policy.rules().iter().find(|rule| rule.path == *path);
        let may = rule.map(|rule| rule.capabilities.as_slice()).unwrap_or_default();
        let more: Vec<&str> =
            has.iter().map(String::as_str).filter(|one| *one != "deny" && !may.contains(one)).collect();
        if !more.is_empty() {
            surplus.push(Surplus::new(path, &more.join(", ")));
        }
        if may.iter().any(|one| !has.iter().any(|has| has == one)) {
            missing.push(path.clone());
        }
    }
    if !surplus.is_empty() {
        return Ok(wide(surplus));
    }
    let missing = first(missing, |more| more);
    Ok(Breadth::NotProvable { why: why.to_owned(), probed: asked.len(), missing })
}

#[cfg(test)]
mod tests;
