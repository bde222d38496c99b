//! Whether documents make sense: rules that a parser cannot see. Pure; every rule reports all that break it, and
//! nothing is repaired.
//!
//! Rules on one document are here and in the files beside; rules on all documents that reach one node are in
//! `node_set`; Envoy's own rules on the result in `envoy`. `catalog` runs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use spiffe::{Class, NodeId, SpiffeId, TrustDomain};

use crate::{
    model::{Document, Problem, Spec, Warning, node::At},
    translate::Defaults,
};

mod cluster;
mod endpoints;
mod envoy;
mod expression;
mod listener;
mod names;
mod node_set;
mod route;
mod template;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::envoy::check as check_envoy;
pub(crate) use self::names::{NAME_HINT, name_fault};
pub(crate) use self::node_set::{Member, NodeSet, identities_of};

/// What rules look at beside the documents.
#[derive(Debug, Clone)]
pub struct Context {
    /// Trust domain and default mode.
    pub defaults: Defaults,
    /// What our own listeners hold.
    pub own_addresses: Vec<SocketAddr>,
    /// Nodes known to run on our own host: they cannot listen on `own_addresses`.
    pub local_nodes: BTreeSet<NodeId>,
}

impl Context {
    /// Strict mTLS in `trust_domain`, and nothing known about this host.
    #[must_use]
    pub fn strict(trust_domain: TrustDomain) -> Self {
        Self {
            defaults: Defaults::strict(trust_domain),
            own_addresses: Vec::new(),
            local_nodes: BTreeSet::new(),
        }
    }
}

/// What rules found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
}

impl Findings {
    pub(crate) fn refuse(
        &mut self,
        at: &At<'_>,
        rule: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.push(at.problem(rule, message, hint));
    }

    pub(crate) fn warn(
        &mut self,
        at: &At<'_>,
        rule: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.warnings.push(Warning(at.problem(rule, message, hint)));
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.problems.append(&mut other.problems);
        self.warnings.append(&mut other.warnings);
    }
}

/// The rules that hold for one document, whomever it reaches.
pub(crate) fn check_document(document: &Document, defaults: &Defaults) -> Findings {
    let mut findings = Findings::default();
    let spec = At::spec(&document.source);
    match &document.spec {
        Spec::Endpoints(set) => endpoints::check(&set.endpoints, &spec.key("endpoints"), true, &mut findings),
        Spec::ProxyConfig(config) => {
            let at = spec.key("listeners");
            unique(config.listeners.iter().map(|listener| &listener.name), &at, "listener", &mut findings);
            for (index, listener) in config.listeners.iter().enumerate() {
                listener::check(listener, &at.index(index), defaults, &mut findings);
            }
            let at = spec.key("routes");
            unique(config.routes.iter().map(|table| &table.name), &at, "route table", &mut findings);
            for (index, table) in config.routes.iter().enumerate() {
                route::check(table, &at.index(index), &mut findings);
            }
            let at = spec.key("clusters");
            unique(config.clusters.iter().map(|cluster| &cluster.name), &at, "cluster", &mut findings);
            for (index, cluster) in config.clusters.iter().enumerate() {
                cluster::check(cluster, &at.index(index), defaults, &mut findings);
            }
        }
    }
    findings
}

/// Names of one list: each is well formed and stands once.
fn unique<'a>(names: impl Iterator<Item = &'a String>, list: &At<'_>, what: &str, findings: &mut Findings) {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, name) in names.enumerate() {
        let at = list.index(index).key("name");
        if let Some(fault) = name_fault(name) {
            findings.refuse(&at, "name", format!("name {name:?} {fault}"), NAME_HINT);
        }
        match first.get(name.as_str()) {
            Some(&earlier) => {
                let earlier = list.index(earlier).key("name").cite();
                let message = format!("{what} {name:?} is there already, at {earlier}");
                findings.refuse(&at, "duplicate-name", message, "give one of the two another name");
            }
            None => {
                first.insert(name, index);
            }
        }
    }
}

/// That an identity is a workload's, of our own trust domain.
fn check_identity(id: &SpiffeId, defaults: &Defaults, at: &At<'_>, findings: &mut Findings) {
    let domain = &defaults.trust_domain;
    if id.trust_domain() != domain {
        let mut message = format!("{id} is not in trust domain {domain}");
        if defaults.revocation_lists {
            message += "; and revocation lists are on, which Envoy's SPIFFE validator, the one for several trust \
                        domains, ignores";
        }
        findings.refuse(at, "trust-domain", message, format!("write spiffe://{domain}/..."));
    } else if id.class() != Ok(Class::Workload) {
        let message = format!("{id} is reserved: no proxy speaks for it to another");
        findings.refuse(at, "reserved-identity", message, "name a workload, outside of /credence/");
    }
}

fn check_regex(expression: &str, at: &At<'_>, findings: &mut Findings) {
    if let Some(fault) = expression::fault(expression) {
        let hint = "expressions are RE2: no look-around, no back references";
        findings.refuse(at, "regex", format!("{expression:?} {fault}"), hint);
    }
}

/// Refuses when not exactly one (or, if `optional`, at most one) of some fields is given.
fn check_choice(given: &[(&'static str, bool)], optional: bool, at: &At<'_>, findings: &mut Findings) {
    let count = given.iter().filter(|(_, is_given)| *is_given).count();
    if count == 1 || (optional && count == 0) {
        return;
    }
    let names: Vec<_> = given.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let message = match count {
        0 => format!("one of {names} is needed"),
        _ => {
            let both: Vec<_> =
                given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
            format!("{} exclude one another", both.join(" and "))
        }
    };
    findings.refuse(
        at,
        "one-of",
        message,
        format!("give {} of {names}", if optional { "at most one" } else { "one" }),
    );
}

/// Whether nobody but this host can be reached under an address.
fn is_loopback(address: &str) -> bool {
    address.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
