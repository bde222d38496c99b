//! Certificates for public names: what is wanted is judged whole before it is kept; whoever obtains them is told by the
//! store, and does so beside these calls.

use std::collections::BTreeSet;

use audit::{Action, Event};
use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{SecretBytes, Timestamp};
use spiffe::{EdgeName, IssuerName, Namespace, NodeId, Tenant};
use zeroize::Zeroizing;

use super::{CallError, Caller, Calls, configs::Which, error};
use crate::{
    ports::{DnsPublisher, Edge, EdgeChallenge, EdgeSettings, EdgeWork, KeptEdge, MAX_EDGE_SECRET},
    sources::EdgeStanding,
    wire,
};

/// The most nodes that a refusal names.
const MAX_NODES: usize = 10;
/// The most names of one certificate.
pub const MAX_EDGE_NAMES: usize = 100;
/// The most octets of one of them.
const MAX_EDGE_NAME: usize = 255;
/// How many are named where there are many.
const SHOWN: usize = 10;
/// A check that ended an examination.
const FAILED: &str = "failed";

impl Calls {
    /// The tenant's edges, by name, without their keys.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_edges(&self, caller: &Caller) -> Result<wire::Page<wire::Edge>, CallError> {
        let kept = self.edges.edges().await?;
        let own = kept.iter().filter(|one| one.edge.tenant == caller.tenant);
        Ok(wire::Page::whole(own.map(|one| self.shown_edge(&one.edge, &one.work)).collect()))
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn show_edge(&self, caller: &Caller, name: &str) -> Result<wire::Edge, CallError> {
        let found = self.find_edge(caller, name).await?;
        Ok(self.shown_edge(&found.edge, &found.work))
    }

    /// Wants a certificate for public names. What is wanted is tried whole, and kept only if nothing of it fails.
    ///
    /// # Errors
    /// [`CallError::Edge`] with everything that does not work; when there is one of that name, or a field is wrong.
    pub async fn add_edge(
        &self,
        caller: &Caller,
        wanted: wire::AddEdge,
    ) -> Result<wire::EdgeChange, CallError> {
        let name = error::name("name", EdgeName::parse(&wanted.name))?;
        let kept = self.edges.edges().await?;
        if kept.iter().any(|one| one.edge.tenant == caller.tenant && one.edge.name == name) {
            return Err(CallError::Exists { what: "edge", name: name.to_string() });
        }
        let mut settings = settings(&name, &wanted)?;
        let dns_key = dns_key(&settings.challenge, wanted.dns_key.as_ref())?;
        let checks =
            self.edges_at_work.examine_edge(&caller.tenant, &name, &mut settings, dns_key.as_ref()).await;
        let now = self.clock.now();
        if checks.iter().any(|check| check.verdict == FAILED) {
            let error = CallError::Edge { name: name.to_string(), checks };
            let (actor, why) = (caller.actor.clone(), error.to_string());
            let event = Event::refused(now, actor, Action::EdgeSet, name.as_str(), why);
            let event = event.for_tenant(caller.tenant.clone());
            self.refusals.refuse(event.in_request(caller.request_id.clone()));
            return Err(error);
        }
        let mut edge = Edge {
            tenant: caller.tenant.clone(),
            name: name.clone(),
            settings,
            certificate: None,
            created: now,
            updated: now,
            version: 1,
        };
        if !wanted.dry_run {
            let EdgeSettings { namespace, listener, issuer, names, challenge, .. } = &edge.settings;
            let mut event = caller.event(now, Action::EdgeSet, name.as_str());
            event.reason = wanted.reason;
            let event = event
                .with("namespace", namespace)
                .with("listener", listener)
                .with("issuer", issuer)
                .with("names", names.join(" "))
                .with("challenge", challenge.word());
            let kept = KeptEdge {
                edge: edge.clone(),
                key: None,
                next_key: None,
                dns_key,
                work: EdgeWork::default(),
            };
            edge.version = self.edges.put_edge(kept, 0, event).await?;
        }
        let word = if wanted.dry_run { "would add" } else { "added" };
        let (issuer, listener) = (&edge.settings.issuer, &edge.settings.listener);
        let summary = format!(
            "{word} edge {name}: {issuer} is asked for its certificate, which a listener {listener} with \
             tls: {{edge: {name}}} shows"
        );
        let shown = self.shown_edge(&edge, &EdgeWork::default());
        Ok(wire::EdgeChange { dry_run: wanted.dry_run, summary, edge: shown, checks })
    }

    /// Wants no certificate any more; its record and keys are destroyed.
    ///
    /// # Errors
    /// When there is none of that name, or a listener shows it: a proxy that has it would be left without. One whose record
    /// does not open is removed unless proxies have it still, from before the record was damaged, and can be added anew.
    pub async fn remove_edge(
        &self,
        caller: &Caller,
        name: &str,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let (edge, what) = match self.find_edge(caller, name).await {
            Ok(found) => {
                self.refuse_while_shown(&found.edge).await?;
                (found.edge.name, "its certificate and its keys")
            }
            Err(missing @ CallError::NotFound { .. }) => match EdgeName::parse(name) {
                Ok(name) if self.edges.has_edge(&caller.tenant, &name).await? => {
                    self.refuse_while_held(&caller.tenant, &name)?;
                    (name, "whose record does not open")
                }
                _ => return Err(missing),
            },
            Err(other) => return Err(other),
        };
        if !dry_run {
            let mut event = caller.event(self.clock.now(), Action::EdgeRemove, name);
            reason.clone_into(&mut event.reason);
            self.edges.remove_edge(&caller.tenant, &edge, event).await?;
        }
        let word = if dry_run { "would remove" } else { "removed" };
        Ok(wire::Done { dry_run, summary: format!("{word} edge {edge}, {what}") })
    }

    /// Has one obtained or renewed now, as far as the server lets us.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn renew_edge(
        &self,
        caller: &Caller,
        name: &str,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let edge = self.find_edge(caller, name).await?.edge;
        if dry_run {
            return Ok(wire::Done { dry_run, summary: format!("would look at edge {name} now") });
        }
        let mut event = caller.event(self.clock.now(), Action::EdgeRenew, name);
        reason.clone_into(&mut event.reason);
        self.audit.append(vec![event]).await?;
        self.edges_at_work.hurry(&edge.tenant, &edge.name);
        let summary =
            format!("edge {name} is looked at now: credence edge show {name} says what becomes of it");
        Ok(wire::Done { dry_run, summary })
    }

    /// Whoever is asked for certificates of edges is there as long as they are.
    pub(super) async fn refuse_while_edges_need(&self, issuer: &IssuerName) -> Result<(), CallError> {
        let kept = self.edges.edges().await?;
        let of_it = kept.iter().filter(|one| one.edge.settings.issuer == *issuer);
        let names: Vec<&str> = of_it.map(|one| one.edge.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let why = format!("is asked for the certificates of edges {shown}{more}: remove these first");
        Err(CallError::Conflict { what: "issuer", name: issuer.to_string(), why })
    }

    async fn refuse_while_shown(&self, edge: &Edge) -> Result<(), CallError> {
        let (tenant, namespace) = (edge.tenant.clone(), edge.settings.namespace.clone());
        let shown = self.configs.edge_listeners(tenant, namespace, Which::Showing(edge.name.clone())).await?;
        if shown.is_empty() {
            return Ok(());
        }
        let places: BTreeSet<String> = shown.iter().map(|listener| listener.document.to_string()).collect();
        let places: Vec<String> = places.into_iter().collect();
        let why = format!(
            "is shown by {}: take tls: {{edge: {}}} out of {}, apply, and remove it then",
            places.join(", "),
            edge.name,
            if places.len() == 1 { "it" } else { "them" },
        );
        Err(CallError::Conflict { what: "edge", name: edge.name.to_string(), why })
    }

    /// What was opened while its record was whole may still be shown, by listeners that cannot be named without it.
    fn refuse_while_held(&self, tenant: &Tenant, name: &EdgeName) -> Result<(), CallError> {
        let held = self.edges_at_work.standing(tenant, name).proxies;
        if held.is_empty() {
            return Ok(());
        }
        let nodes: Vec<&str> = held.keys().take(MAX_NODES).map(NodeId::as_str).collect();
        let why = format!(
            "is shown by {} still, and its record does not open any more: take tls: {{edge: {name}}} out of their \
             listeners, apply, and remove it then",
            nodes.join(", ")
        );
        Err(CallError::Conflict { what: "edge", name: name.to_string(), why })
    }

    async fn find_edge(&self, caller: &Caller, name: &str) -> Result<KeptEdge, CallError> {
        let missing = || CallError::NotFound { what: "edge", name: name.to_owned() };
        let mut kept = self.edges.edges().await?.into_iter();
        kept.find(|one| one.edge.tenant == caller.tenant && one.edge.name.as_str() == name)
            .ok_or_else(missing)
    }

    fn shown_edge(&self, edge: &Edge, work: &EdgeWork) -> wire::Edge {
        let now = self.clock.now();
        let standing = self.edges_at_work.standing(&edge.tenant, &edge.name);
        let state = state(edge, work, &standing, now);
        let settings = &edge.settings;
        let certificate = edge.certificate.as_ref().map(|certificate| {
            let leaf = certificate.chain.leaf();
            wire::EdgeCertificate {
                serial: leaf.serial().to_string(),
                sha256: hex::encode(leaf.fingerprint()),
                obtained: certificate.obtained.to_string(),
                not_before: leaf.not_before().to_string(),
                not_after: leaf.not_after().to_string(),
                expires_in_secs: leaf.not_after().millis_since(now).div_euclid(1000),
            }
        });
        let proxies = standing.proxies.iter().map(|(node, acknowledged)| wire::EdgeProxy {
            node: node.to_string(),
            acknowledged: *acknowledged,
        });
        wire::Edge {
            name: edge.name.to_string(),
            namespace: settings.namespace.to_string(),
            listener: settings.listener.clone(),
            domains: settings.names.clone(),
            issuer: settings.issuer.to_string(),
            challenge: settings.challenge.clone(),
            profile: settings.profile.clone(),
            state: state.to_owned(),
            certificate,
            next: standing.next.map(|at| at.to_string()),
            proxies: proxies.collect(),
            failures: standing.failures,
            doing: standing.doing,
            problem: standing.problem,
            created: edge.created.to_string(),
            version: edge.version,
        }
    }
}

/// In one word; see [`wire::Edge::state`].
fn state(edge: &Edge, work: &EdgeWork, standing: &EdgeStanding, now: Timestamp) -> &'static str {
    let is_valid =
        edge.certificate.as_ref().is_some_and(|certificate| now < certificate.chain.leaf().not_after());
    if standing.failures > 0 {
        "failing"
    } else if is_valid {
        "valid"
    } else if work.order.is_some() || !standing.doing.is_empty() {
        "ordering"
    } else {
        "waiting"
    }
}

fn wrong(what: &'static str, why: impl Into<String>) -> CallError {
    CallError::Parameter { what, why: why.into() }
}

/// What can be judged of it without asking anybody.
fn settings(name: &EdgeName, wanted: &wire::AddEdge) -> Result<EdgeSettings, CallError> {
    let namespace = match wanted.namespace.as_str() {
        "" => Namespace::default(),
        text => error::name("namespace", Namespace::parse(text))?,
    };
    let issuer = error::name("issuer", IssuerName::parse(&wanted.issuer))?;
    let listener = listener("listener", &wanted.listener)?;
    match &wanted.challenge {
        EdgeChallenge::Http01 { listener: plain } => {
            if self::listener("challenge.listener", plain)? == listener {
                let why = format!(
                    "{listener} shows the edge, and http-01 is answered by plain HTTP: at another one"
                );
                return Err(wrong("challenge.listener", why));
            }
        }
        EdgeChallenge::TlsAlpn01 => {}
        EdgeChallenge::Dns01 { publisher } => judge_publisher(publisher)?,
    }
    if let Some(profile) = wanted.profile.as_deref().filter(|text| !is_word(text, 64)) {
        return Err(wrong("profile", format!("{profile:?} is no name of a profile")));
    }
    let domains = match wanted.domains.as_slice() {
        [] => &[name.to_string()],
        domains => domains,
    };
    if domains.len() > MAX_EDGE_NAMES {
        return Err(wrong(
            "domains",
            format!("{} are given, at most {MAX_EDGE_NAMES} are taken", domains.len()),
        ));
    }
    // Whether they are names of DNS, whoever asks for the certificate judges.
    let short = |text: &String| format!("{:?}", text.chars().take(100).collect::<String>());
    let bad: Vec<String> =
        domains.iter().filter(|text| !is_word(text, MAX_EDGE_NAME)).take(SHOWN).map(short).collect();
    if !bad.is_empty() {
        let are = if bad.len() == 1 { "is no name" } else { "are no names" };
        return Err(wrong("domains", format!("{} {are}: write api.example.com", bad.join(", "))));
    }
    Ok(EdgeSettings {
        namespace,
        listener,
        issuer,
        names: domains.to_vec(),
        challenge: wanted.challenge.clone(),
        profile: wanted.profile.clone(),
    })
}

fn listener(what: &'static str, text: &str) -> Result<String, CallError> {
    if is_word(text, 255) { Ok(text.to_owned()) } else { Err(wrong(what, "it names no listener")) }
}

/// Whether it is a word that can be shown in a line.
fn is_word(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn judge_publisher(publisher: &DnsPublisher) -> Result<(), CallError> {
    match publisher {
        DnsPublisher::Command { program } if program.is_absolute() => Ok(()),
        DnsPublisher::Command { program } => {
            let why = format!("{} is not absolute: the server runs it", program.display());
            Err(wrong("challenge.program", why))
        }
        DnsPublisher::Update { server, zone, key, algorithm } => {
            let fields = [("challenge.server", server), ("challenge.zone", zone), ("challenge.key", key)];
            if let Some((field, _)) = fields.into_iter().find(|(_, text)| !is_word(text, 255)) {
                return Err(wrong(field, "it is empty, too long or no word"));
            }
            if !matches!(algorithm.as_str(), "hmac-sha256" | "hmac-sha384" | "hmac-sha512") {
                let why = format!("{algorithm:?} is none of hmac-sha256, hmac-sha384 and hmac-sha512");
                return Err(wrong("challenge.algorithm", why));
            }
            Ok(())
        }
    }
}

/// The key that a challenge needs, or none.
fn dns_key(
    challenge: &EdgeChallenge,
    given: Option<&wire::Hidden>,
) -> Result<Option<SecretBytes>, CallError> {
    let is_needed = matches!(challenge, EdgeChallenge::Dns01 { publisher: DnsPublisher::Update { .. } });
    match (is_needed, given) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(wrong("dns_key", "only updates of a name server are signed")),
        (true, None) => Err(wrong("dns_key", "updates of a name server are signed: give the key in base64")),
        (true, Some(text)) => {
            let bytes = STANDARD.decode(text.as_bytes().trim_ascii()).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| wrong("dns_key", "it is not base64"))?;
            if bytes.is_empty() || bytes.len() > MAX_EDGE_SECRET {
                let why = format!("it has {} bytes, 1 to {MAX_EDGE_SECRET} are taken", bytes.len());
                return Err(wrong("dns_key", why));
            }
            Ok(Some(SecretBytes::new(bytes)))
        }
    }
}
