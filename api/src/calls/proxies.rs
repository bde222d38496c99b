//! Nodes: admit, see, resync, remove.

use std::{collections::BTreeMap, time::Duration};

use audit::{Action, AuditFilter, Event};
use ca::ports::CertificateFilter;
use certs::{Timestamp, format_duration};
use spiffe::{AuthorityId, Binding, BindingState, IssuerName, Namespace, NodeId, SpiffeId, check_labels};
use xds::{Resource, TypeUrl};

use super::{CallError, Caller, Calls, error};
use crate::{redact, token::JoinToken, wire};

/// The longest that a join token may be asked to be good.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Which nodes to list. Absent fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct ProxyFilter {
    /// In which namespace.
    pub namespace: Option<Namespace>,
    /// How they stand.
    pub standing: Option<Standing>,
    /// At most this many.
    pub limit: usize,
    /// After this node.
    pub after: Option<NodeId>,
}

/// How a node stands, in the words of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has a stream open.
    Online,
    /// It has none.
    Offline,
    /// It has acknowledged all that it was sent.
    Synced,
    /// It asked for something that it was not sent.
    NotSent,
    /// It has not answered what it was sent last.
    Stale,
    /// It has refused something.
    Nack,
}

impl Standing {
    /// Every one of them.
    pub const ALL: [Self; 6] =
        [Self::Online, Self::Offline, Self::Synced, Self::NotSent, Self::Stale, Self::Nack];

    /// Its word, as it is asked for.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Synced => "synced",
            Self::NotSent => "not-sent",
            Self::Stale => "stale",
            Self::Nack => "nack",
        }
    }

    /// Reads a word, also as listings show it: `NOT SENT`.
    ///
    /// # Errors
    /// When there is no such word; names those that there are.
    pub fn parse(text: &str) -> Result<Self, CallError> {
        let folded = text.to_ascii_lowercase().replace([' ', '_'], "-");
        Self::ALL.into_iter().find(|one| one.word() == folded).ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            CallError::Parameter { what: "state", why: format!("{text:?} is not one of {words}") }
        })
    }

    fn is_of(self, status: &wire::ProxyStatus) -> bool {
        match self {
            Self::Online => status.connected,
            Self::Offline => !status.connected,
            Self::Synced | Self::NotSent | Self::Stale | Self::Nack => {
                Self::parse(&status.sync).is_ok_and(|found| found == self)
            }
        }
    }
}

impl Calls {
    /// Writes a binding with a join token; answers the token once. Where it replaces one, what is not asked for stays as
    /// it is there.
    ///
    /// # Errors
    /// When a name is not valid, an identity is foreign or reserved, or the node is enrolled already: by somebody else, also
    /// where it should be replaced.
    pub async fn enroll(&self, caller: &Caller, wanted: wire::Enroll) -> Result<wire::Enrolled, CallError> {
        let now = self.clock.now();
        let node = error::name("node", NodeId::parse(&wanted.node))?;
        let known = self.configs.bindings().get(&node).cloned();
        // What somebody else's node has is neither kept nor told.
        let kept = known.as_ref().filter(|known| wanted.replace && known.tenant == caller.tenant);
        let binding = self.binding(caller, &wanted, node, kept).await?;
        let ttl = wanted.ttl_secs.map_or(self.facts.token_ttl, Duration::from_secs);
        if ttl.is_zero() || ttl > MAX_TTL {
            let why = format!("{} is not between 1s and {}", format_duration(ttl), format_duration(MAX_TTL));
            return Err(CallError::Parameter { what: "ttl_secs", why });
        }
        if let Some(known) = known.as_ref().filter(|_| kept.is_none()) {
            let namespace = (known.tenant == caller.tenant).then(|| known.namespace.clone());
            return Err(CallError::NodeExists { node: binding.node, namespace });
        }
        let changes = kept.map(|kept| changes(kept, &binding)).unwrap_or_default();
        let expires = now + ttl;
        let mut token = None;
        if !wanted.dry_run {
            let join = JoinToken::generate(binding.tenant.clone());
            let key = self.nodes.token_key().await?;
            let author = caller.actor.to_string();
            let stored = join.to_stored(&key, binding.node.clone(), author, now, expires);
            let event = caller
                .event(now, Action::ProxyEnroll, binding.node.as_str())
                .with("token", join.id())
                .with("spiffe_id", binding.default_identity())
                .with("namespace", &binding.namespace);
            let event = match changes.iter().map(|change| change.what.as_str()).collect::<Vec<_>>() {
                changed if changed.is_empty() => event,
                changed => event.with("changed", changed.join(", ")),
            };
            self.configs.enroll(binding.clone(), stored, kept.cloned(), event).await?;
            token = Some(join.to_clear_text());
        }
        Ok(wire::Enrolled {
            proxy: self.proxy(&binding),
            changes,
            token,
            expires: expires.to_string(),
            server: self.facts.enrolment_address.clone(),
            pin: self.pin(),
        })
    }

    /// The identity of a node that is given none.
    fn derived(&self, namespace: &Namespace, node: &NodeId) -> Result<SpiffeId, CallError> {
        error::id("identity", self.domain.id(&format!("/{namespace}/{node}")))
    }

    /// What is asked for; where it is not said, what is `kept` of the binding that this one replaces.
    async fn binding(
        &self,
        caller: &Caller,
        wanted: &wire::Enroll,
        node: NodeId,
        kept: Option<&Binding>,
    ) -> Result<Binding, CallError> {
        let namespace = match &wanted.namespace {
            Some(text) => error::name("namespace", Namespace::parse(text))?,
            None => kept.map(|kept| kept.namespace.clone()).unwrap_or_default(),
        };
        let mut identities = match &wanted.identities {
            Some(texts) => {
                let ids = texts.iter().map(|text| error::id("identity", SpiffeId::parse(text)));
                ids.collect::<Result<Vec<_>, _>>()?
            }
            // One that was not chosen, but derived from the namespace, follows the namespace.
            None => match kept {
                Some(kept) if kept.identities != [self.derived(&kept.namespace, &node)?] => {
                    kept.identities.clone()
                }
                _ => Vec::new(),
            },
        };
        if identities.is_empty() {
            identities.push(self.derived(&namespace, &node)?);
        }
        let binding = Binding {
            node,
            tenant: caller.tenant.clone(),
            namespace,
            labels: match &wanted.labels {
                Some(labels) => {
                    check_labels(labels)?;
                    labels.clone()
                }
                None => kept.map(|kept| kept.labels.clone()).unwrap_or_default(),
            },
            identities,
            issuer: match &wanted.issuer {
                Some(text) => Some(self.leaf_issuer(text).await?),
                None => kept.and_then(|kept| kept.issuer.clone()),
            },
            state: BindingState::Enabled,
            created: self.clock.now(),
        };
        binding.validate(&self.domain)?;
        Ok(binding)
    }

    /// The roots of the trust domain as PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        let trust = self.trust.borrow().clone();
        certs::certificates_to_pem(trust.own().authorities().iter().map(certs::Certificate::der))
    }

    /// `sha256:HEX` of the root that agents are told to expect: the one under which we sign.
    fn pin(&self) -> String {
        let (trust, active) = (self.trust.borrow().clone(), self.anchor.borrow().root);
        let mut roots = trust.own().authorities().iter();
        let active = roots.find(|root| Some(AuthorityId::of(root.spki_hash())) == active);
        active.map(|root| format!("sha256:{}", hex::encode(root.spki_hash().0))).unwrap_or_default()
    }

    /// The nodes with how they stand, resources left out.
    pub async fn list_proxies(&self, caller: &Caller, filter: &ProxyFilter) -> wire::Page<wire::Proxy> {
        let bindings = self.configs.bindings();
        let mut chosen = bindings
            .iter()
            .filter(|binding| binding.tenant == caller.tenant)
            .filter(|binding| filter.namespace.as_ref().is_none_or(|wanted| *wanted == binding.namespace))
            .filter(|binding| filter.after.as_ref().is_none_or(|after| binding.node > *after))
            .map(|binding| self.listed(binding))
            .filter(|proxy| filter.standing.is_none_or(|wanted| wanted.is_of(&proxy.status)));
        let mut items: Vec<_> = chosen.by_ref().take(filter.limit).collect();
        let next = chosen.next().and(items.last()).map(|last| last.node_id.clone());
        self.say_ends(&mut items).await;
        wire::Page { items, next }
    }

    /// When the certificates end of those that are not connected, as the journal knows: one look at an index for each. How
    /// nodes stand is told without it, where it cannot be read.
    async fn say_ends(&self, proxies: &mut [wire::Proxy]) {
        for proxy in proxies.iter_mut().filter(|proxy| proxy.status.certificate_expires.is_none()) {
            let Ok(node) = NodeId::parse(&proxy.node_id) else { continue };
            let newest = CertificateFilter {
                id: Some(self.domain.node_id(&node)),
                node: Some(node),
                newest_only: true,
                limit: 1,
                ..CertificateFilter::default()
            };
            let found = match self.journal.certificates(&newest).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "when certificates of nodes end is not known");
                    return;
                }
            };
            // A certificate of a node that was removed and enrolled again is not of this one.
            let created = Timestamp::parse_rfc3339(&proxy.created);
            let of_it = found.first().filter(|row| row.revoked.is_none() && Some(row.intent.at) >= created);
            proxy.status.certificate_expires = of_it.map(|row| row.intent.not_after.to_string());
        }
    }

    fn listed(&self, binding: &Binding) -> wire::Proxy {
        let mut proxy = self.proxy(binding);
        proxy.status.types.iter_mut().for_each(|of_type| of_type.resources.clear());
        proxy
    }

    fn proxy(&self, binding: &Binding) -> wire::Proxy {
        wire::Proxy {
            node_id: binding.node.to_string(),
            tenant: binding.tenant.to_string(),
            namespace: binding.namespace.to_string(),
            labels: binding.labels.clone(),
            identities: binding.identities.iter().map(ToString::to_string).collect(),
            issuer: binding.issuer.as_ref().map(ToString::to_string),
            state: match binding.state {
                BindingState::Enabled => "enabled".into(),
                BindingState::Disabled => "disabled".into(),
            },
            created: binding.created.to_string(),
            status: self.delivery.status(&binding.node),
            refused: None,
        }
    }

    /// Why a node that has no stream open is not let in: what it was told last, since it went away. When that was is not
    /// known of one that has not come since this process began; what it was told before may be long past.
    async fn refusal(&self, binding: &Binding, status: &wire::ProxyStatus) -> Option<String> {
        let id = self.domain.node_id(&binding.node);
        if self.configs.blocks().contains(&id) {
            return Some(format!("its identity is blocked: credence identity unblock {id}"));
        }
        let left = status.since.as_deref().and_then(Timestamp::parse_rfc3339);
        let since = left.unwrap_or(self.facts.began).max(binding.created);
        let filter = AuditFilter {
            since: Some(since),
            action: Some(Action::StreamRefuse),
            actor: Some(id.to_string()),
            limit: 1,
            ..AuditFilter::default()
        };
        match self.audit.list(&filter).await {
            Ok(rows) => {
                let row = rows.into_iter().next()?;
                Some(format!("its stream was refused at {}: {}", row.event.at, row.event.reason))
            }
            Err(error) => {
                tracing::warn!(%error, "why a node is not let in is not known");
                None
            }
        }
    }

    /// One node with how it stands, resource by resource.
    ///
    /// # Errors
    /// When it is not enrolled.
    pub async fn get_proxy(&self, caller: &Caller, node: &str) -> Result<wire::Proxy, CallError> {
        let binding = self.known(caller, node)?;
        let mut proxy = self.proxy(&binding);
        self.say_ends(std::slice::from_mut(&mut proxy)).await;
        if !proxy.status.connected {
            proxy.refused = self.refusal(&binding, &proxy.status).await;
        }
        Ok(proxy)
    }

    pub(super) fn known(&self, caller: &Caller, node: &str) -> Result<Binding, CallError> {
        let id = error::name("node id", NodeId::parse(node))?;
        let bindings = self.configs.bindings();
        let binding = bindings.get(&id).filter(|binding| binding.tenant == caller.tenant);
        binding.cloned().ok_or_else(|| CallError::NotFound { what: "node", name: node.to_owned() })
    }

    /// The exact snapshot of a node: what is in the current publication for it, keys redacted; secrets are what
    /// was sent, by name and version.
    ///
    /// # Errors
    /// When it is not enrolled.
    pub fn proxy_config(&self, caller: &Caller, node: &str) -> Result<wire::ProxyConfig, CallError> {
        let binding = self.known(caller, node)?;
        let views = self.configs.views();
        let mut types = BTreeMap::new();
        for of_type in TypeUrl::ALL.into_iter().filter(|of_type| *of_type != TypeUrl::Secret) {
            let resources: Vec<_> = views
                .get(&binding.node)
                .map(|snapshot| snapshot.of(of_type).values().map(|resource| shown(resource)).collect())
                .unwrap_or_default();
            types.insert(of_type.word().to_owned(), resources);
        }
        let status = self.delivery.status(&binding.node);
        let secrets = status.types.into_iter().filter(|of_type| of_type.word == TypeUrl::Secret.word());
        let secrets = secrets.flat_map(|of_type| of_type.resources).map(|resource| wire::ConfigResource {
            name: resource.name,
            version: resource.sent.unwrap_or_default(),
            resource: None,
        });
        types.insert(TypeUrl::Secret.word().to_owned(), secrets.collect());
        Ok(wire::ProxyConfig { node_id: binding.node.to_string(), revision: views.revision, types })
    }

    /// Which document caused each resource of a node.
    ///
    /// # Errors
    /// When it is not enrolled.
    pub async fn explain_proxy(&self, caller: &Caller, node: &str) -> Result<wire::Explanation, CallError> {
        let binding = self.known(caller, node)?;
        let lines = self.configs.explain(binding.node.clone()).await?;
        Ok(wire::Explanation { node_id: binding.node.to_string(), lines })
    }

    /// Sends a node everything again, on the streams it has open. Nothing restarts.
    ///
    /// # Errors
    /// When it is not enrolled, or the audit log cannot be written.
    pub async fn reload_proxy(
        &self,
        caller: &Caller,
        node: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let binding = self.known(caller, node)?;
        let streams = self.delivery.status(&binding.node).streams;
        if dry_run {
            let summary = format!("would send everything again on {streams} open streams of {node}");
            return Ok(wire::Done { dry_run, summary });
        }
        let event = caller.event(self.clock.now(), Action::ProxyReload, binding.node.as_str());
        self.audit.append(vec![event.with("streams", streams)]).await?;
        let streams = self.delivery.resync(&binding.node);
        Ok(wire::Done {
            dry_run,
            summary: format!("sent everything again on {streams} open streams of {node}"),
        })
    }

    /// Has an issuer sign the leaves of a node, or whoever does by default.
    ///
    /// # Errors
    /// When the node is not enrolled, or there is no such issuer of leaves.
    pub async fn set_proxy_issuer(
        &self,
        caller: &Caller,
        node: &str,
        wanted: &wire::ProxyIssuer,
    ) -> Result<wire::Done, CallError> {
        let binding = self.known(caller, node)?;
        let issuer = match &wanted.issuer {
            Some(text) => Some(self.leaf_issuer(text).await?),
            None => None,
        };
        if binding.issuer == issuer {
            let why = match &issuer {
                Some(name) => format!("names issuer {name} already"),
                None => "names no issuer: whoever signs by default signs its leaves".to_owned(),
            };
            return Err(CallError::Conflict { what: "node", name: node.to_owned(), why });
        }
        if !wanted.dry_run {
            let mut event = caller.event(self.clock.now(), Action::ProxyChange, binding.node.as_str());
            event.reason.clone_from(&wanted.reason);
            let word = issuer.as_ref().map_or("default", IssuerName::as_str);
            self.configs.set_issuer(binding.node.clone(), issuer.clone(), event.with("issuer", word)).await?;
        }
        let signs = if wanted.dry_run { "would sign" } else { "signs" };
        let summary = match &issuer {
            Some(name) if name.is_builtin() => {
                format!("our own authority {signs} the leaves of {node}, which are replaced over ten minutes")
            }
            Some(name) => format!(
                "{name} {signs} the leaves of {node} when every connected node has acknowledged its root, and whoever does \
                 by default until then: credence issuer list"
            ),
            None => format!("whoever does by default {signs} the leaves of {node}: credence issuer list"),
        };
        Ok(wire::Done { dry_run: wanted.dry_run, summary })
    }

    /// Removes a node's binding and revokes its tokens: its streams end, and it cannot come back.
    ///
    /// # Errors
    /// When it is not enrolled, or the store cannot write.
    pub async fn remove_proxy(
        &self,
        caller: &Caller,
        node: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let binding = self.known(caller, node)?;
        if !dry_run {
            let event: Event = caller.event(self.clock.now(), Action::ProxyRemove, binding.node.as_str());
            self.configs.remove(binding.node.clone(), event).await?;
        }
        let word = if dry_run { "would remove" } else { "removed" };
        let summary = format!("{word} {node}: its streams end, its tokens are revoked, it cannot renew");
        Ok(wire::Done { dry_run, summary })
    }
}

/// What is different in a binding that is written anew.
fn changes(before: &Binding, after: &Binding) -> Vec<wire::BindingChange> {
    let parts = |of: &Binding| {
        let labels: Vec<_> = of.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let identities: Vec<_> = of.identities.iter().map(ToString::to_string).collect();
        let issuer = of.issuer.as_ref().map(ToString::to_string).unwrap_or_default();
        [
            ("namespace", of.namespace.to_string()),
            ("labels", labels.join(", ")),
            ("identities", identities.join(", ")),
            ("issuer", issuer),
        ]
    };
    let both = parts(before).into_iter().zip(parts(after)).filter(|(before, after)| before != after);
    both.map(|((what, before), (_, after))| wire::BindingChange { what: what.to_owned(), before, after })
        .collect()
}

fn shown(resource: &Resource) -> wire::ConfigResource {
    wire::ConfigResource {
        name: resource.name().to_string(),
        version: resource.version().to_string(),
        resource: resource.to_any().and_then(|any| redact::to_redacted_json(&any)),
    }
}
