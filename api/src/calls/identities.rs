//! Identities: which there are, who speaks for them, which are blocked.

use std::collections::BTreeMap;

use audit::Action;
use spiffe::{Class, SpiffeId};

use super::{CallError, Caller, Calls, error};
use crate::wire;

impl Calls {
    /// Every identity that a node is or speaks for, and every blocked one.
    #[must_use]
    pub fn list_identities(&self, caller: &Caller) -> wire::Page<wire::Identity> {
        let mut nodes: BTreeMap<SpiffeId, Vec<String>> = BTreeMap::new();
        let bindings = self.configs.bindings();
        for binding in bindings.iter().filter(|binding| binding.tenant == caller.tenant) {
            nodes.entry(self.domain.node_id(&binding.node)).or_default().push(binding.node.to_string());
            for id in &binding.identities {
                nodes.entry(id.clone()).or_default().push(binding.node.to_string());
            }
        }
        let blocks = self.configs.blocks();
        for (id, _, _) in blocks.iter() {
            nodes.entry(id.clone()).or_default();
        }
        let items = nodes.into_iter().map(|(id, nodes)| {
            let block = blocks.iter().find(|(blocked, _, _)| **blocked == id);
            wire::Identity {
                class: id.class().map_or("reserved", |class| class.word()).to_owned(),
                id: id.to_string(),
                nodes,
                blocked_since: block.map(|(_, since, _)| since.to_string()),
                blocked_reason: block.map(|(_, _, reason)| reason.to_owned()),
            }
        });
        wire::Page::whole(items.collect())
    }

    /// Blocks an identity: its streams end, and renewal and enrolment are refused.
    ///
    /// # Errors
    /// When it is foreign, our own or the caller's, or blocked already.
    pub async fn block(&self, caller: &Caller, wanted: &wire::Block) -> Result<wire::Done, CallError> {
        let id = self.blockable(caller, &wanted.id)?;
        if self.configs.blocks().contains(&id) {
            return Err(CallError::Exists { what: "block of", name: id.to_string() });
        }
        if !wanted.dry_run {
            let mut event = caller.event(self.clock.now(), Action::IdentityBlock, id.as_str());
            event.reason.clone_from(&wanted.reason);
            self.configs.block(id.clone(), wanted.reason.clone(), event).await?;
        }
        let word = if wanted.dry_run { "would block" } else { "blocked" };
        let summary = format!("{word} {id}: its streams end, renewal and enrolment are refused");
        Ok(wire::Done { dry_run: wanted.dry_run, summary })
    }

    /// Lifts a block.
    ///
    /// # Errors
    /// When the identity is not blocked.
    pub async fn unblock(&self, caller: &Caller, wanted: &wire::Block) -> Result<wire::Done, CallError> {
        let id = error::id("identity", SpiffeId::parse(&wanted.id))?;
        if !self.configs.blocks().contains(&id) {
            return Err(CallError::NotFound { what: "block of", name: id.to_string() });
        }
        if !wanted.dry_run {
            let mut event = caller.event(self.clock.now(), Action::IdentityUnblock, id.as_str());
            event.reason.clone_from(&wanted.reason);
            self.configs.unblock(id.clone(), event).await?;
        }
        let word = if wanted.dry_run { "would lift" } else { "lifted" };
        Ok(wire::Done { dry_run: wanted.dry_run, summary: format!("{word} the block of {id}") })
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
