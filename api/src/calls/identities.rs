//! Identities: which there are, who speaks for them, which are blocked, and how far that is enforced.

use std::{collections::BTreeMap, time::Duration};

use audit::Action;
use spiffe::{BindingState, Class, SpiffeId};
use xds::{TypeUrl, Uptake, catalog::Concerned};

use super::{
    CallError, Caller, Calls,
    configs::Verdict,
    error::{self, count},
};
use crate::wire;

/// How long an answer waits for proxies to acknowledge a block.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an eviction does, after its block has: a call must end in [`crate::rest::TIMEOUT`].
const EVICTING: Duration = Duration::from_secs(3);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);
/// What refuses who is blocked.
const REFUSES: &[TypeUrl] = &[TypeUrl::Extension, TypeUrl::Cluster];
/// What ends sessions beside it.
const EVICTS: &[TypeUrl] = &[TypeUrl::Extension, TypeUrl::Cluster, TypeUrl::Listener];
/// Names of one list in an answer.
const MAX_NAMES: usize = 100;

impl Calls {
    /// Every identity that a node is or speaks for, and every blocked one; or only `id`.
    ///
    /// # Errors
    /// When `id` is none, or nobody's.
    pub fn list_identities(
        &self,
        caller: &Caller,
        id: Option<&str>,
    ) -> Result<wire::Page<wire::Identity>, CallError> {
        let wanted = id.map(|text| error::id("identity", SpiffeId::parse(text))).transpose()?;
        let mut nodes: BTreeMap<SpiffeId, Vec<String>> = BTreeMap::new();
        let bindings = self.configs.bindings();
        for binding in bindings.iter().filter(|binding| binding.tenant == caller.tenant) {
            nodes.entry(self.domain.node_id(&binding.node)).or_default().push(binding.node.to_string());
            for id in &binding.identities {
                nodes.entry(id.clone()).or_default().push(binding.node.to_string());
            }
        }
        let blocks = self.configs.blocks();
        for (id, _) in blocks.iter() {
            nodes.entry(id.clone()).or_default();
        }
        if let Some(wanted) = &wanted {
            nodes.retain(|id, _| id == wanted);
            if nodes.is_empty() {
                return Err(CallError::NotFound { what: "identity", name: wanted.to_string() });
            }
        }
        let enforced = blocks.enforced();
        let enforcement = (!enforced.is_empty()).then(|| self.enforcement(REFUSES));
        let items = nodes.into_iter().map(|(id, nodes)| {
            let block = blocks.get(&id);
            wire::Identity {
                class: id.class().map_or("reserved", |class| class.word()).to_owned(),
                id: id.to_string(),
                nodes,
                blocked_since: block.map(|block| block.since.to_string()),
                blocked_reason: block.map(|block| block.reason.clone()),
                enforcement: enforcement.clone().filter(|_| enforced.contains(&id)),
            }
        });
        Ok(wire::Page::whole(items.collect()))
    }

    /// Blocks an identity: its streams end, renewal and enrolment are refused; and, if it must hold now, proxies
    /// refuse it. Then the answer waits for their acknowledgements, [`PATIENCE`] at most.
    ///
    /// # Errors
    /// When it is foreign, our own or the caller's, or blocked so already.
    pub async fn block(
        &self,
        caller: &Caller,
        wanted: &wire::Block,
    ) -> Result<wire::BlockOutcome, CallError> {
        let id = self.blockable(caller, &wanted.id)?;
        let blocks = self.configs.blocks();
        if wanted.evict && !(wanted.now && id.class() == Ok(Class::Workload)) {
            let why = "sessions are those of workloads, and end only where their block holds now".to_owned();
            return Err(CallError::Parameter { what: "evict", why });
        }
        let is_enforced = blocks.get(&id).is_some_and(|block| block.is_enforced);
        let evicts = wanted.evict && !blocks.is_evicted(&id);
        if blocks.contains(&id) && (is_enforced || !wanted.now) && !evicts {
            return Err(CallError::Exists { what: "block of", name: id.to_string() });
        }
        let drain = match wanted.evict {
            true => Some(self.drain(&self.configs.plan_drain(Some(id.clone())).await?)),
            false => None,
        };
        let changes = self.changes(&id, wanted.now, drain.as_ref()).await?;
        let word = if wanted.dry_run { "would block" } else { "blocked" };
        let nobodys = match self.is_anybodys(&id) {
            true => "",
            false => "; no node is it or speaks for it: was another meant? (credence identity list)",
        };
        let mut outcome = wire::BlockOutcome {
            dry_run: wanted.dry_run,
            summary: format!(
                "{word} {id}: its streams end, renewal and enrolment are refused; {changes}{nobodys}"
            ),
            enforcement: None,
            took_ms: None,
            drain,
        };
        if wanted.dry_run {
            return Ok(outcome);
        }
        let event = || {
            let mut event = caller.event(self.clock.now(), Action::IdentityBlock, id.as_str());
            event.reason.clone_from(&wanted.reason);
            event.with("now", wanted.now)
        };
        if !is_enforced {
            let verdict = Verdict { reason: wanted.reason.clone(), is_enforced: wanted.now };
            self.configs.block(id.clone(), verdict, event()).await?;
            if wanted.now && id.class() == Ok(Class::Workload) {
                self.await_enforcement("blocked", REFUSES, PATIENCE, &mut outcome).await;
            }
        }
        // Only now: a new session that is let in between the two would outlive both.
        if evicts {
            self.configs.evict(id.clone(), event().with("evict", true)).await?;
            self.await_enforcement("the end of its sessions is acknowledged", EVICTS, EVICTING, &mut outcome)
                .await;
        }
        Ok(outcome)
    }

    /// Lifts a block.
    ///
    /// # Errors
    /// When the identity is not blocked.
    pub async fn unblock(
        &self,
        caller: &Caller,
        wanted: &wire::Unblock,
    ) -> Result<wire::BlockOutcome, CallError> {
        let id = error::id("identity", SpiffeId::parse(&wanted.id))?;
        let Some(was_enforced) = self.configs.blocks().get(&id).map(|block| block.is_enforced) else {
            return Err(CallError::NotFound { what: "block of", name: id.to_string() });
        };
        let word = if wanted.dry_run { "would lift" } else { "lifted" };
        let mut outcome = wire::BlockOutcome {
            dry_run: wanted.dry_run,
            summary: format!("{word} the block of {id}"),
            enforcement: None,
            took_ms: None,
            drain: None,
        };
        if wanted.dry_run {
            return Ok(outcome);
        }
        let mut event = caller.event(self.clock.now(), Action::IdentityUnblock, id.as_str());
        event.reason.clone_from(&wanted.reason);
        self.configs.unblock(id.clone(), event).await?;
        if was_enforced && id.class() == Ok(Class::Workload) {
            self.await_enforcement("admitted again", REFUSES, PATIENCE, &mut outcome).await;
        }
        Ok(outcome)
    }

    /// What a block changes on proxies, in a sentence.
    async fn changes(
        &self,
        id: &SpiffeId,
        now: bool,
        drain: Option<&wire::Drain>,
    ) -> Result<String, CallError> {
        if let Ok(Class::Node(node)) = id.class() {
            let bindings = self.configs.bindings();
            let speaks = bindings.get(&node).map(|binding| binding.identities.as_slice()).unwrap_or_default();
            let names: Vec<_> = speaks.iter().map(ToString::to_string).collect();
            return Ok(match names.is_empty() {
                true => "no proxy is shown this certificate".to_owned(),
                false => format!(
                    "no proxy is shown this certificate, but those of {} until they end: block these too",
                    names.join(", ")
                ),
            });
        }
        if id.class() != Ok(Class::Workload) {
            return Ok("no proxy is shown this certificate".to_owned());
        }
        if !now {
            return Ok(
                "certificates that it has work until they end, --now makes every proxy refuse it".to_owned()
            );
        }
        let Concerned { clusters, cluster_nodes, tcp_listeners, tcp_nodes } =
            self.configs.concerned(id.clone()).await?;
        let proxies = self.enforcement(REFUSES).proxies;
        let sessions = if tcp_listeners == 0 {
            "no TCP listener admits it or leads to it".to_owned()
        } else if let Some(drain) = drain {
            format!(
                "the TCP chains of {} on {} are replaced: every TCP session that is open there ends, those of others too, \
                 and how many these are only the proxies know; {drain}",
                count(drain.listeners, "listener", "listeners"),
                count(drain.proxies, "proxy", "proxies"),
            )
        } else {
            let some: Vec<_> = tcp_nodes.iter().take(MAX_NAMES).map(ToString::to_string).collect();
            format!(
                "{} on {} may hold TCP sessions of it, which last until they close unless --evict ends them: {}",
                count(tcp_listeners, "listener", "listeners"),
                count(tcp_nodes.len(), "proxy", "proxies"),
                some.join(", "),
            )
        };
        Ok(format!(
            "every proxy ({proxies} with listeners or clusters) refuses its requests, on open connections too; {} on \
             {} that name it take it for a server no more; no HTTP connection of others ends; {sessions}",
            count(clusters, "cluster", "clusters"),
            count(cluster_nodes, "proxy", "proxies"),
        ))
    }

    /// How far proxies hold the newest list of whom they must refuse.
    pub(super) fn enforcement(&self, types: &[TypeUrl]) -> wire::Enforcement {
        let views = self.configs.views();
        let bindings = self.configs.bindings();
        let mut found = wire::Enforcement::default();
        for binding in bindings.iter().filter(|binding| binding.state == BindingState::Enabled) {
            let Some(snapshot) = views.get(&binding.node) else { continue };
            if types.iter().all(|type_url| snapshot.of(*type_url).is_empty()) {
                continue;
            }
            found.proxies += 1;
            let list = match self.delivery.uptake(&binding.node, snapshot, types) {
                Uptake::Acknowledged => {
                    found.acknowledged += 1;
                    continue;
                }
                Uptake::Waiting => &mut found.waiting,
                Uptake::Refused => &mut found.refused,
                Uptake::Offline => &mut found.offline,
            };
            if list.len() < MAX_NAMES {
                list.push(binding.node.to_string());
            }
        }
        found
    }

    /// Waits until no connected proxy is left to answer, and says how it went.
    async fn await_enforcement(
        &self,
        word: &str,
        types: &[TypeUrl],
        patience: Duration,
        outcome: &mut wire::BlockOutcome,
    ) {
        let start = self.clock.now();
        let settled = async {
            loop {
                let enforcement = self.enforcement(types);
                if enforcement.waiting.is_empty() {
                    return enforcement;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let enforcement = match tokio::time::timeout(patience, settled).await {
            Ok(enforcement) => enforcement,
            Err(_) => self.enforcement(types),
        };
        let took = self.clock.now().since(start);
        outcome.summary += &format!("; {word} on {} in {:.2} s", enforcement, took.as_secs_f64());
        // An eviction waits twice.
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        outcome.took_ms = Some(outcome.took_ms.unwrap_or_default().saturating_add(took));
        outcome.enforcement = Some(enforcement);
    }

    /// Whether an operator, or a node that is enrolled, is this or speaks for it.
    fn is_anybodys(&self, id: &SpiffeId) -> bool {
        let bindings = self.configs.bindings();
        match id.class() {
            Ok(Class::Node(node)) => bindings.get(&node).is_some(),
            Ok(Class::Workload) => bindings.iter().any(|binding| binding.identities.contains(id)),
            _ => true,
        }
    }

    fn blockable(&self, caller: &Caller, text: &str) -> Result<SpiffeId, CallError> {
        let id = error::id("identity", SpiffeId::parse(text))?;
        if id.trust_domain() != &self.domain {
            return Err(CallError::Policy(format!("{id} is not in trust domain {}", self.domain)));
        }
        if id.class() == Ok(Class::Server) {
            return Err(CallError::Policy(format!("{id} is this server itself")));
        }
        if caller.actor.to_string() == id.as_str() {
            return Err(CallError::Policy(format!("{id} is who you are: you would lock yourself out")));
        }
        Ok(id)
    }
}
