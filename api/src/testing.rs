//! Fakes of the ports: a store in memory that can be told to fail, and sources that answer what they are told.

mod acme;
mod edges;
mod issuers;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use audit::{AuditError, AuditFilter, AuditLog, AuditRow, Event, Head, Refusals};
use certs::Timestamp;
use spiffe::{
    Binding, Block, BlockList, Eviction, IssuerName, Namespace, NodeId, SpiffeId, Tenant, TrustDomain,
};
use uuid::Uuid;

mod secrets;
mod still;

pub use self::{
    secrets::MemorySecrets,
    still::{Still, StillRevoking, StillRotation},
};

use crate::ports::{
    BlockStore, DocumentChange, DocumentFilter, DocumentStore, Expired, HookStore, NodeStore, PauseStore,
    Recovered, RecoveryStore, RecoveryWindow, RevisionState, StoreError, StoredDocument, StoredToken, Told,
};

pub use self::acme::{MemoryAcme, Mood, StillAcme};
pub use self::edges::{MemoryEdges, StillEdges};
pub use self::issuers::{MemoryIssuers, StillVault};

#[derive(Clone, Default)]
struct State {
    /// Oldest first.
    revisions: Vec<StoredDocument>,
    documents: u128,
    bindings: BTreeMap<NodeId, Binding>,
    tokens: BTreeMap<String, StoredToken>,
    blocks: BTreeMap<SpiffeId, Block>,
    evictions: BTreeMap<SpiffeId, Eviction>,
    rows: Vec<AuditRow>,
    pause: Option<ca::Pause>,
    told: Vec<Told>,
    windows: Vec<RecoveryWindow>,
    expired: Vec<Expired>,
    recovered: Vec<(u64, Recovered)>,
    failing: bool,
    hides_blocks: bool,
}

/// Documents, nodes, blocks and audit rows in memory.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStore")
    }
}

impl MemoryStore {
    /// Lets every write fail from now on, or no more.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Lets every look at the blocks fail from now on.
    pub fn hide_blocks(&self) {
        self.lock().hides_blocks = true;
    }

    /// Plants a node whose certificate has ended.
    pub fn expire(&self, one: Expired) {
        self.lock().expired.push(one);
    }

    /// Plants a node that came back in a window.
    pub fn recover(&self, window: u64, one: Recovered) {
        self.lock().recovered.push((window, one));
    }

    /// Everything that is kept but audit rows, as text: equal before and after means that nothing changed.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let state = self.lock();
        format!("{:?} {:?} {:?} {:?}", state.revisions, state.bindings, state.tokens, state.blocks)
    }

    /// The events that were kept, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().rows.iter().map(|row| row.event.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries `change` out on a copy and keeps it with `event`, or leaves everything as it was.
    fn write<T>(
        &self,
        event: Event,
        change: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.lock();
        if state.failing {
            return Err(StoreError::Unavailable("told to fail".into()));
        }
        let mut next = state.clone();
        let answer = change(&mut next)?;
        next.keep(event);
        *state = next;
        Ok(answer)
    }
}

impl State {
    fn keep(&mut self, event: Event) {
        let head =
            self.rows.last().map_or(Head::GENESIS, |row| Head { sequence: row.sequence, hash: row.hash });
        self.rows.push(head.next(event));
    }

    fn newest(&self, id: Uuid) -> Option<&StoredDocument> {
        self.revisions.iter().rev().find(|one| one.id == id)
    }

    fn live(&self) -> Vec<&StoredDocument> {
        let mut newest: BTreeMap<Uuid, &StoredDocument> = BTreeMap::new();
        for one in &self.revisions {
            newest.insert(one.id, one);
        }
        newest.into_values().filter(|one| one.state != RevisionState::Deleted).collect()
    }

    fn push(&mut self, mut one: StoredDocument) -> StoredDocument {
        one.revision = self.revisions.len() as u64 + 1;
        self.revisions.push(one.clone());
        one
    }

    fn check(&self, id: Uuid, expected: Option<u64>) -> Result<StoredDocument, StoreError> {
        let found = self.newest(id).filter(|one| one.state != RevisionState::Deleted);
        let found = found.ok_or_else(|| StoreError::NotFound { what: "document", name: id.to_string() })?;
        match expected {
            Some(expected) if expected != found.revision => Err(StoreError::Conflict {
                what: "document",
                name: found.name.clone(),
                expected,
                actual: found.revision,
            }),
            _ => Ok(found.clone()),
        }
    }

    fn carry_out(&mut self, change: DocumentChange, by: &Author<'_>) -> Result<StoredDocument, StoreError> {
        let next = match change {
            DocumentChange::Put { tenant, namespace, kind, name, text, expected, apply } => {
                let state = if apply { RevisionState::Applied } else { RevisionState::Draft };
                let same = |one: &&StoredDocument| {
                    one.tenant == tenant && one.namespace == namespace && one.kind == kind && one.name == name
                };
                let current = self.live().into_iter().find(same).cloned();
                let id = match (current, expected) {
                    (Some(_), Some(0)) => return Err(StoreError::Exists { what: "document", name }),
                    (Some(current), _) => self.check(current.id, expected)?.id,
                    (None, _) => {
                        self.documents += 1;
                        Uuid::from_u128(self.documents)
                    }
                };
                let at = by.at;
                let (author, reason) = (by.author.to_owned(), by.reason.to_owned());
                StoredDocument {
                    id,
                    tenant,
                    namespace,
                    kind,
                    name,
                    revision: 0,
                    state,
                    text,
                    author,
                    reason,
                    at,
                }
            }
            DocumentChange::Apply { id, expected } => {
                StoredDocument { state: RevisionState::Applied, ..self.check(id, expected)? }
            }
            DocumentChange::Delete { id, expected } => StoredDocument {
                state: RevisionState::Deleted,
                text: String::new(),
                ..self.check(id, expected)?
            },
        };
        Ok(self.push(next))
    }
}

struct Author<'a> {
    author: &'a str,
    reason: &'a str,
    at: Timestamp,
}

fn matches(one: &StoredDocument, filter: &DocumentFilter) -> bool {
    filter.tenant.as_ref().is_none_or(|wanted| *wanted == one.tenant)
        && filter.namespace.as_ref().is_none_or(|wanted| *wanted == one.namespace)
        && filter.kind.as_ref().is_none_or(|wanted| *wanted == one.kind)
        && filter.name.as_ref().is_none_or(|wanted| *wanted == one.name)
        && filter.after.is_none_or(|after| one.id > after)
}

fn limited(found: impl Iterator<Item = StoredDocument>, limit: usize) -> Vec<StoredDocument> {
    found.take(if limit == 0 { usize::MAX } else { limit }).collect()
}

#[async_trait]
impl DocumentStore for MemoryStore {
    async fn commit(
        &self,
        changes: Vec<DocumentChange>,
        author: &str,
        reason: &str,
        event: Event,
    ) -> Result<Vec<StoredDocument>, StoreError> {
        let by = Author { author, reason, at: event.at };
        self.write(event, |state| changes.into_iter().map(|change| state.carry_out(change, &by)).collect())
    }

    async fn newest(&self, filter: &DocumentFilter) -> Result<Vec<StoredDocument>, StoreError> {
        let state = self.lock();
        let found = state.live().into_iter().filter(|one| matches(one, filter)).cloned();
        Ok(limited(found, filter.limit))
    }

    async fn effective(&self, filter: &DocumentFilter) -> Result<Vec<StoredDocument>, StoreError> {
        let state = self.lock();
        let live = state.live();
        let applied = live.iter().filter_map(|one| {
            let of_it = state.revisions.iter().rev().filter(|older| older.id == one.id);
            of_it.into_iter().find(|older| older.state == RevisionState::Applied)
        });
        Ok(limited(applied.filter(|one| matches(one, filter)).cloned(), filter.limit))
    }

    async fn get(&self, id: Uuid) -> Result<Option<StoredDocument>, StoreError> {
        Ok(self.lock().newest(id).cloned())
    }

    async fn history(
        &self,
        tenant: &Tenant,
        namespace: &Namespace,
        kind: &str,
        name: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDocument>, StoreError> {
        let filter = DocumentFilter {
            tenant: Some(tenant.clone()),
            namespace: Some(namespace.clone()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            ..DocumentFilter::default()
        };
        let state = self.lock();
        let older = |one: &&StoredDocument| before.is_none_or(|before| one.revision < before);
        let found = state.revisions.iter().rev().filter(older).filter(|one| matches(one, &filter));
        Ok(limited(found.cloned(), limit))
    }
}

#[async_trait]
impl NodeStore for MemoryStore {
    async fn bindings(&self) -> Result<Vec<Binding>, StoreError> {
        Ok(self.lock().bindings.values().cloned().collect())
    }

    async fn enroll(
        &self,
        binding: &Binding,
        token: &StoredToken,
        replace: bool,
        event: Event,
    ) -> Result<(), StoreError> {
        let at = event.at;
        self.write(event, |state| {
            let known = state.bindings.get(&binding.node);
            if known.is_some_and(|known| !replace || known.tenant != binding.tenant) {
                return Err(StoreError::Exists { what: "node", name: binding.node.to_string() });
            }
            state.revoke_unspent(&binding.node, at);
            state.bindings.insert(binding.node.clone(), binding.clone());
            state.tokens.insert(token.id.clone(), token.clone());
            Ok(())
        })
    }

    async fn set_issuer(
        &self,
        node: &NodeId,
        issuer: Option<&IssuerName>,
        event: Event,
    ) -> Result<(), StoreError> {
        self.write(event, |state| {
            let missing = || StoreError::NotFound { what: "node", name: node.to_string() };
            state.bindings.get_mut(node).ok_or_else(missing)?.issuer = issuer.cloned();
            Ok(())
        })
    }

    async fn remove(&self, node: &NodeId, event: Event) -> Result<(), StoreError> {
        let at = event.at;
        self.write(event, |state| {
            let missing = || StoreError::NotFound { what: "node", name: node.to_string() };
            state.bindings.remove(node).ok_or_else(missing)?;
            state.revoke_unspent(node, at);
            Ok(())
        })
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        Ok(self.lock().tokens.values().cloned().collect())
    }

    async fn unused_tokens(&self, now: Timestamp) -> Result<Vec<StoredToken>, StoreError> {
        let is_unused =
            |token: &&StoredToken| token.spent.is_none() && token.revoked.is_none() && token.expires > now;
        Ok(self.lock().tokens.values().filter(is_unused).cloned().collect())
    }

    async fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError> {
        Ok(self.lock().tokens.get(id).cloned())
    }

    async fn revoke_token(&self, id: &str, event: Event) -> Result<(), StoreError> {
        let at = event.at;
        self.write(event, |state| {
            let missing = || StoreError::NotFound { what: "token", name: id.to_owned() };
            state.tokens.get_mut(id).ok_or_else(missing)?.revoked = Some(at);
            Ok(())
        })
    }

    async fn token_failure(&self, id: &str, burned: Event) -> Result<u32, StoreError> {
        let mut state = self.lock();
        let missing = || StoreError::NotFound { what: "token", name: id.to_owned() };
        let token = state.tokens.get_mut(id).ok_or_else(missing)?;
        token.failures += 1;
        let failures = token.failures;
        if failures == 5 {
            token.revoked = Some(burned.at);
            state.keep(burned);
        }
        Ok(failures)
    }

    async fn token_key(&self) -> Result<[u8; 32], StoreError> {
        Ok([7; 32])
    }
}

impl State {
    fn revoke_unspent(&mut self, node: &NodeId, at: Timestamp) {
        for token in self.tokens.values_mut().filter(|token| token.node == *node && token.spent.is_none()) {
            token.revoked.get_or_insert(at);
        }
    }
}

#[async_trait]
impl BlockStore for MemoryStore {
    async fn blocks(&self) -> Result<BlockList, StoreError> {
        let state = self.lock();
        if state.hides_blocks {
            return Err(StoreError::Unavailable("told to fail".into()));
        }
        let entries = state.blocks.iter();
        let blocks = BlockList::new(entries.map(|(id, block)| (id.clone(), block.clone())));
        Ok(blocks.with_evictions(state.evictions.clone()))
    }

    async fn block(
        &self,
        id: &SpiffeId,
        reason: &str,
        is_enforced: bool,
        event: Event,
    ) -> Result<Block, StoreError> {
        let block = Block { since: event.at, reason: reason.to_owned(), is_enforced };
        self.write(event, |state| {
            if state.blocks.get(id).is_some_and(|old| old.is_enforced || !is_enforced) {
                return Err(StoreError::Exists { what: "block of", name: id.to_string() });
            }
            state.blocks.insert(id.clone(), block.clone());
            Ok(block)
        })
    }

    async fn evict(&self, id: &SpiffeId, event: Event) -> Result<Eviction, StoreError> {
        let at = event.at;
        self.write(event, |state| {
            if !state.blocks.get(id).is_some_and(|block| block.is_enforced) {
                return Err(StoreError::NotFound { what: "block of", name: id.to_string() });
            }
            let last = state.evictions.values().map(|eviction| eviction.generation).max();
            let eviction = Eviction { generation: last.unwrap_or_default() + 1, at };
            state.evictions.insert(id.clone(), eviction);
            Ok(eviction)
        })
    }

    async fn unblock(&self, id: &SpiffeId, event: Event) -> Result<(), StoreError> {
        self.write(event, |state| {
            let missing = || StoreError::NotFound { what: "block of", name: id.to_string() };
            state.blocks.remove(id).map(drop).ok_or_else(missing)
        })
    }
}

#[async_trait]
impl PauseStore for MemoryStore {
    async fn pause(&self) -> Result<Option<ca::Pause>, StoreError> {
        Ok(self.lock().pause.clone())
    }

    async fn set_pause(&self, pause: Option<ca::Pause>, event: Event) -> Result<(), StoreError> {
        self.write(event, |state| {
            state.pause = pause;
            Ok(())
        })
    }
}

#[async_trait]
impl HookStore for MemoryStore {
    async fn told(&self) -> Result<Vec<Told>, StoreError> {
        Ok(self.lock().told.clone())
    }

    async fn remember_told(&self, told: Told, event: Event) -> Result<(), StoreError> {
        let now = event.at;
        self.write(event, |state| {
            state.told.retain(|one| now < one.until && (one.hook != told.hook || one.id != told.id));
            state.told.push(told);
            Ok(())
        })
    }
}

#[async_trait]
impl RecoveryStore for MemoryStore {
    async fn recovery(&self) -> Result<Option<RecoveryWindow>, StoreError> {
        Ok(self.lock().windows.last().cloned())
    }

    async fn open_recovery(
        &self,
        window: RecoveryWindow,
        event: Event,
    ) -> Result<RecoveryWindow, StoreError> {
        self.write(event, |state| {
            let window = RecoveryWindow { id: state.windows.len() as u64 + 1, ..window };
            state.windows.push(window.clone());
            Ok(window)
        })
    }

    async fn close_recovery(&self, event: Event) -> Result<(), StoreError> {
        let at = event.at;
        self.write(event, |state| {
            let open = state.windows.last_mut().filter(|window| window.is_open(at));
            let missing = || StoreError::NotFound { what: "open recovery", name: "window".to_owned() };
            open.map(|window| window.closed = Some(at)).ok_or_else(missing)
        })
    }

    /// Those that were planted.
    async fn expired(
        &self,
        _: &TrustDomain,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Expired>, StoreError> {
        let asked = |one: &&Expired| since <= one.at && one.at <= now;
        Ok(self.lock().expired.iter().filter(asked).cloned().collect())
    }

    /// Those that were planted.
    async fn recovered(&self, window: u64) -> Result<Vec<Recovered>, StoreError> {
        let state = self.lock();
        let of_it = state.recovered.iter().filter(|(one, _)| *one == window);
        Ok(of_it.map(|(_, recovered)| recovered.clone()).collect())
    }
}

#[async_trait]
impl AuditLog for MemoryStore {
    async fn append(&self, events: Vec<Event>) -> Result<(), AuditError> {
        let mut state = self.lock();
        if state.failing {
            return Err(AuditError::Unavailable("told to fail".into()));
        }
        events.into_iter().for_each(|event| state.keep(event));
        Ok(())
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, AuditError> {
        let state = self.lock();
        let limit = if filter.limit == 0 { usize::MAX } else { filter.limit };
        Ok(state.rows.iter().rev().filter(|row| filter.matches(row)).take(limit).cloned().collect())
    }
}

impl Refusals for MemoryStore {
    fn refuse(&self, event: Event) {
        self.lock().keep(event);
    }
}
