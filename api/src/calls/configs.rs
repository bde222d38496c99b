//! The one owner of what nodes get and may do: documents, bindings and blocks.
//!
//! A change is validated whole, committed to the store with its audit event, and only then published. If the
//! store does not commit, nothing is published and nothing has changed.
//!
//! ```text
//! Handle --Command--> Manager: apply to a copy of the catalog --> store.commit --> watch: Views, Bindings, BlockList
//! ```

mod challenges;
mod drains;
mod shown;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use audit::{Actor, Event};
use spiffe::{Binding, Bindings, BlockList, IssuerName, Namespace, NodeId, SecretName, SpiffeId, Tenant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xds::{
    TypeUrl, Views,
    catalog::{Applied, Catalog, Change, Concerned, EdgeListener, Explained, PlannedNodes},
    model::{self, Document, DocumentKey, Problems, Scope},
    translate::{Challenges, Denied, Drains},
};

use super::{
    CallError, Caller,
    documents::{label, shown, to_fault},
};
use crate::{
    ports::{
        BlockStore, DocumentChange, DocumentFilter, DocumentStore, NodeStore, RevisionState, SecretStore,
        StoreError, StoredDocument, StoredToken,
    },
    wire,
};

pub use self::challenges::Which;

/// How many commands may wait. A caller past it waits with its own deadline.
const QUEUE: usize = 64;

/// A document as it was read, with the part of the text that is its own.
#[derive(Debug, Clone)]
pub struct Written {
    /// What it says.
    pub document: Document,
    /// How it says it.
    pub text: String,
}

/// One step of a change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Stores a revision: effective at once if `apply`, else a draft.
    Put {
        /// The document.
        written: Box<Written>,
        /// The revision that the author had read: `Some(0)` for "must not exist", `None` for "whatever is there".
        expected: Option<u64>,
        /// Whether it becomes effective.
        apply: bool,
    },
    /// Makes the newest draft effective.
    Apply {
        /// Which document.
        id: Uuid,
        /// The revision that the caller had read, if it insists.
        expected: Option<u64>,
    },
    /// Ends a document.
    Delete {
        /// Which document.
        id: Uuid,
        /// The revision that the caller had read, if it insists.
        expected: Option<u64>,
    },
}

/// Ends every document of a namespace that no step puts.
#[derive(Debug, Clone)]
pub struct Prune {
    /// Whose.
    pub tenant: Tenant,
    /// Which namespace.
    pub namespace: Namespace,
    /// The newest revision that a document which ends may have: whoever said yes has seen no newer one.
    pub up_to: Option<u64>,
}

/// A change of documents: all of it happens, or nothing.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub steps: Vec<Step>,
    /// What to end beside.
    pub prune: Option<Prune>,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Who asks.
    pub author: Actor,
    /// Why, in the author's words.
    pub reason: String,
    /// What the audit log says of it.
    pub event: Event,
}

impl Request {
    /// `steps` for `caller`, without reason, for real.
    #[must_use]
    pub fn new(caller: &Caller, steps: Vec<Step>, event: Event) -> Self {
        let author = caller.actor.clone();
        Self { steps, prune: None, dry_run: false, author, reason: String::new(), event }
    }

    /// The same, only to be looked at if `dry_run`.
    #[must_use]
    pub fn dry(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }
}

/// How somebody is blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: String,
    /// Whether proxies refuse it at once.
    pub is_enforced: bool,
}

type Reply<T> = oneshot::Sender<Result<T, CallError>>;

enum Command {
    Change(Box<Request>, Reply<wire::Plan>),
    Explain(NodeId, Reply<Vec<wire::ExplainedResource>>),
    Showing(Tenant, SecretName, Option<BTreeSet<NodeId>>, Reply<Vec<String>>),
    Enroll {
        binding: Box<Binding>,
        token: Box<StoredToken>,
        replaces: Option<Box<Binding>>,
        event: Box<Event>,
        reply: Reply<()>,
    },
    Remove(NodeId, Box<Event>, Reply<()>),
    SetIssuer(NodeId, Option<IssuerName>, Box<Event>, Reply<()>),
    Concerned(SpiffeId, Reply<Concerned>),
    Block(SpiffeId, Verdict, Box<Event>, Reply<()>),
    Unblock(SpiffeId, Box<Event>, Reply<()>),
    Drain(u64, Reply<()>),
    PlanDrain(Option<SpiffeId>, Reply<Arc<[PlannedNodes]>>),
    Evict(SpiffeId, Box<Event>, Reply<()>),
    Challenge(Box<Challenges>, Reply<()>),
    EdgeListeners {
        tenant: Tenant,
        namespace: Namespace,
        which: Which,
        reply: Reply<Vec<EdgeListener>>,
    },
}

/// How everybody else reaches the manager, and what it publishes.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    views: watch::Receiver<Arc<Views>>,
    bindings: watch::Receiver<Arc<Bindings>>,
    blocks: watch::Receiver<Arc<BlockList>>,
    drained: watch::Receiver<u64>,
}

impl Handle {
    /// What each node gets, now.
    #[must_use]
    pub fn views(&self) -> Arc<Views> {
        self.views.borrow().clone()
    }

    /// What each node is entitled to, now.
    #[must_use]
    pub fn bindings(&self) -> Arc<Bindings> {
        self.bindings.borrow().clone()
    }

    /// Who is blocked, now.
    #[must_use]
    pub fn blocks(&self) -> Arc<BlockList> {
        self.blocks.borrow().clone()
    }

    /// What each node gets, from now on.
    #[must_use]
    pub fn watch_views(&self) -> watch::Receiver<Arc<Views>> {
        self.views.clone()
    }

    /// What each node is entitled to, from now on.
    #[must_use]
    pub fn watch_bindings(&self) -> watch::Receiver<Arc<Bindings>> {
        self.bindings.clone()
    }

    /// Who is blocked, from now on.
    #[must_use]
    pub fn watch_blocks(&self) -> watch::Receiver<Arc<BlockList>> {
        self.blocks.clone()
    }

    /// Plans a change and carries it out unless it is a dry run.
    ///
    /// # Errors
    /// With every problem, when what would be effective is not valid; when the store does not commit.
    pub async fn change(&self, request: Request) -> Result<wire::Plan, CallError> {
        self.ask(|reply| Command::Change(Box::new(request), reply)).await
    }

    /// Which document caused each resource of a node.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn explain(&self, node: NodeId) -> Result<Vec<wire::ExplainedResource>, CallError> {
        self.ask(|reply| Command::Explain(node, reply)).await
    }

    /// The listeners that show an imported certificate, each with its document; of these nodes only, if some are given.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn showing(
        &self,
        tenant: Tenant,
        secret: SecretName,
        nodes: Option<BTreeSet<NodeId>>,
    ) -> Result<Vec<String>, CallError> {
        self.ask(|reply| Command::Showing(tenant, secret, nodes, reply)).await
    }

    /// Writes a binding and its join token, in the place of the one that it `replaces`, if it does.
    ///
    /// # Errors
    /// When there is another binding of the node by now, or none that it could replace; when documents that would now meet at this node contradict each other, or the store does not commit.
    pub async fn enroll(
        &self,
        binding: Binding,
        token: StoredToken,
        replaces: Option<Binding>,
        event: Event,
    ) -> Result<(), CallError> {
        let (binding, token, event) = (Box::new(binding), Box::new(token), Box::new(event));
        let replaces = replaces.map(Box::new);
        self.ask(|reply| Command::Enroll { binding, token, replaces, event, reply }).await
    }

    /// Removes a binding.
    ///
    /// # Errors
    /// When there is none, or the store does not commit.
    pub async fn remove(&self, node: NodeId, event: Event) -> Result<(), CallError> {
        self.ask(|reply| Command::Remove(node, Box::new(event), reply)).await
    }

    /// Has an issuer sign the leaves of a node, or whoever does by default.
    ///
    /// # Errors
    /// When there is no such node or issuer, or the store does not commit.
    pub async fn set_issuer(
        &self,
        node: NodeId,
        issuer: Option<IssuerName>,
        event: Event,
    ) -> Result<(), CallError> {
        self.ask(|reply| Command::SetIssuer(node, issuer, Box::new(event), reply)).await
    }

    /// Blocks an identity.
    ///
    /// # Errors
    /// When the store does not commit.
    pub async fn block(&self, id: SpiffeId, verdict: Verdict, event: Event) -> Result<(), CallError> {
        self.ask(|reply| Command::Block(id, verdict, Box::new(event), reply)).await
    }

    /// What a block of `id` concerns.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn concerned(&self, id: SpiffeId) -> Result<Concerned, CallError> {
        self.ask(|reply| Command::Concerned(id, reply)).await
    }

    /// Lifts a block.
    ///
    /// # Errors
    /// When the store does not commit.
    pub async fn unblock(&self, id: SpiffeId, event: Event) -> Result<(), CallError> {
        self.ask(|reply| Command::Unblock(id, Box::new(event), reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || CallError::stopped("configuration manager");
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// The stores that the manager writes to, and the one that it looks into.
#[derive(Clone)]
pub struct Stores {
    /// Documents.
    pub documents: Arc<dyn DocumentStore>,
    /// Bindings and tokens.
    pub nodes: Arc<dyn NodeStore>,
    /// Blocks.
    pub blocks: Arc<dyn BlockStore>,
    /// Imported secrets, which are only read.
    pub secrets: Arc<dyn SecretStore>,
}

/// The effective revision of a document.
#[derive(Debug, Clone)]
struct Effective {
    id: Uuid,
    text: String,
}

/// Says which of the bound nodes run on our own host: asked before each change.
pub type Locality = Box<dyn Fn(&Bindings) -> BTreeSet<NodeId> + Send + Sync>;

/// Owns the catalog and publishes what follows from it. One task runs it.
pub struct Manager {
    stores: Stores,
    catalog: Catalog,
    locality: Locality,
    effective: BTreeMap<DocumentKey, Effective>,
    /// What a drain of everything would replace, if that was asked for since something was published.
    drain_plan: Option<Arc<[PlannedNodes]>>,
    commands: mpsc::Receiver<Command>,
    views: watch::Sender<Arc<Views>>,
    bindings: watch::Sender<Arc<Bindings>>,
    blocks: watch::Sender<Arc<BlockList>>,
    drained: watch::Sender<u64>,
}

/// What a request comes to, before anything is written.
struct Planned {
    changes: Vec<DocumentChange>,
    /// The effective set after it, by what changes: `None` for documents that end.
    touched: Vec<(DocumentKey, Option<String>)>,
    /// The catalog after it.
    next: Catalog,
    plan: wire::Plan,
}

impl Manager {
    /// Loads what is effective from `stores` into `catalog`, which has nothing yet.
    ///
    /// # Errors
    /// When the store cannot read, or what it holds is not valid any more: nothing is served then, because a
    /// part of it would look to proxies like a deletion.
    pub async fn load(
        stores: Stores,
        mut catalog: Catalog,
        locality: Locality,
    ) -> Result<(Self, Handle), CallError> {
        let bindings = Arc::new(Bindings::new(stores.nodes.bindings().await?));
        let blocks = Arc::new(stores.blocks.blocks().await?);
        let mut changes = Vec::new();
        let mut effective = BTreeMap::new();
        for stored in stores.documents.effective(&DocumentFilter::default()).await? {
            let document = reread(&stored)?;
            let one = Effective { id: stored.id, text: stored.text };
            effective.insert(document.key.clone(), one);
            changes.push(Change::Put(Box::new(document)));
        }
        // Documents before bindings: a node whose documents do not fit together gets none of them, and the others
        // get theirs.
        catalog.deny(Denied::new(blocks.enforced()));
        catalog.drain(Drains::new(catalog.drains().all(), blocks.evicted()));
        let restored = catalog.restore(changes).map_err(|problems| {
            for problem in &problems.0 {
                tracing::error!(%problem, hint = problem.hint, "effective document is not valid any more");
            }
            invalid(problems)
        })?;
        for warning in &restored.warnings {
            if warning.0.is_of_envoy() {
                tracing::warn!(%warning, hint = warning.0.hint, "Envoy refuses what this effective document says");
            }
        }
        warn_refused(&catalog.bind(&bindings).refused);
        let (sender, commands) = mpsc::channel(QUEUE);
        let views = watch::channel(catalog.views()).0;
        let (bindings, blocks) = (watch::channel(bindings).0, watch::channel(blocks).0);
        let drained = watch::channel(catalog.drains().all()).0;
        let handle = Handle {
            commands: sender,
            views: views.subscribe(),
            bindings: bindings.subscribe(),
            blocks: blocks.subscribe(),
            drained: drained.subscribe(),
        };
        let manager = Self {
            stores,
            catalog,
            locality,
            effective,
            drain_plan: None,
            commands,
            views,
            bindings,
            blocks,
            drained,
        };
        Ok((manager, handle))
    }

    /// Obeys until `shutdown`, or until nobody can command any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let command = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                command = self.commands.recv() => command,
            };
            let Some(command) = command else { return };
            self.obey(command).await;
        }
    }

    /// A caller that has gone does not hear the answer; the change stands all the same.
    async fn obey(&mut self, command: Command) {
        match command {
            Command::Change(request, reply) => drop(reply.send(self.change(*request).await)),
            Command::Explain(node, reply) => {
                let explained = self.catalog.explain(&node).unwrap_or_default();
                drop(reply.send(Ok(explained.into_iter().map(explained_line).collect())));
            }
            Command::Showing(tenant, secret, nodes, reply) => {
                let bindings = self.bindings.borrow().clone();
                let reaches = |document: &Document| match &nodes {
                    Some(nodes) => {
                        nodes.iter().filter_map(|node| bindings.get(node)).any(|one| document.reaches(one))
                    }
                    None => true,
                };
                let documents = self.catalog.documents();
                let documents =
                    documents.filter(|document| document.key.tenant == tenant && reaches(document));
                drop(reply.send(Ok(shown::listeners_with(documents, &secret))));
            }
            Command::Enroll { binding, token, replaces, event, reply } => {
                drop(reply.send(self.enroll(*binding, &token, replaces.as_deref(), *event).await));
            }
            Command::Remove(node, event, reply) => drop(reply.send(self.remove(&node, *event).await)),
            Command::SetIssuer(node, issuer, event, reply) => {
                drop(reply.send(self.set_issuer(&node, issuer, *event).await));
            }
            Command::Concerned(id, reply) => {
                drop(reply.send(Ok(self.catalog.concerned(&id))));
            }
            Command::Block(id, verdict, event, reply) => {
                drop(reply.send(self.block(&id, &verdict, *event).await));
            }
            Command::Unblock(id, event, reply) => drop(reply.send(self.unblock(&id, *event).await)),
            Command::Drain(generation, reply) => {
                self.drain(generation);
                drop(reply.send(Ok(())));
            }
            Command::PlanDrain(only, reply) => drop(reply.send(Ok(self.plan_drain(only)))),
            Command::Evict(id, event, reply) => drop(reply.send(self.evict(&id, *event).await)),
            Command::Challenge(challenges, reply) => {
                self.challenge(*challenges);
                drop(reply.send(Ok(())));
            }
            Command::EdgeListeners { tenant, namespace, which, reply } => {
                drop(reply.send(Ok(self.edge_listeners(&tenant, &namespace, &which))));
            }
        }
    }

    async fn change(&mut self, request: Request) -> Result<wire::Plan, CallError> {
        let mut planned = self.plan(&request).await?;
        planned.plan.dry_run = request.dry_run;
        if request.dry_run || planned.changes.is_empty() {
            return Ok(planned.plan);
        }
        let author = request.author.to_string();
        let commit = self.stores.documents.commit(planned.changes, &author, &request.reason, request.event);
        let revisions = commit.await?;
        planned.plan.revisions = revisions.iter().map(|one| shown(one, false)).collect();
        if !planned.touched.is_empty() {
            self.adopt(planned.touched, &revisions);
            self.publish(planned.next);
        }
        Ok(planned.plan)
    }

    fn adopt(&mut self, touched: Vec<(DocumentKey, Option<String>)>, revisions: &[StoredDocument]) {
        for (key, text) in touched {
            let Some(text) = text else {
                self.effective.remove(&key);
                continue;
            };
            let id = revisions.iter().find(|one| {
                one.name == *key.name && one.kind == key.kind.word() && one.namespace == key.namespace
            });
            if let Some(id) = id.map(|one| one.id) {
                self.effective.insert(key, Effective { id, text });
            }
        }
    }

    fn publish(&mut self, catalog: Catalog) {
        self.catalog = catalog;
        self.drain_plan = None;
        let views = self.catalog.views();
        tracing::info!(revision = views.revision, "configuration published");
        self.views.send_replace(views);
    }

    async fn plan(&self, request: &Request) -> Result<Planned, CallError> {
        let mut draft = Draft::default();
        for step in &request.steps {
            self.plan_step(step, &mut draft).await?;
        }
        let mut prune_up_to = None;
        if let Some(prune) = &request.prune {
            prune_up_to = Some(self.plan_prune(prune, &mut draft).await?);
        }
        let mut warnings = self.unserved(&draft.puts, request.event.at).await?;
        let (next, applied) = self.staged(draft.puts, draft.removes)?;
        warnings.extend(applied.warnings.iter().cloned());
        let plan = wire::Plan {
            dry_run: request.dry_run,
            items: draft.items,
            nodes: if draft.touched.is_empty() { Vec::new() } else { reached(&applied) },
            warnings: warnings.iter().map(ToString::to_string).chain(draft.warnings).collect(),
            revisions: Vec::new(),
            prune_up_to,
        };
        Ok(Planned { changes: draft.changes, touched: draft.touched, next, plan })
    }

    /// The catalog after a change, which nobody sees yet.
    fn staged(
        &self,
        puts: Vec<Document>,
        removes: Vec<DocumentKey>,
    ) -> Result<(Catalog, Applied), CallError> {
        let puts = puts.into_iter().map(|document| Change::Put(Box::new(document)));
        let changes = removes.into_iter().map(Change::Delete).chain(puts).collect();
        let mut next = self.catalog.clone();
        next.set_local_nodes((self.locality)(&self.bindings.borrow()));
        let applied = next.apply(changes).map_err(invalid)?;
        Ok((next, applied))
    }

    async fn plan_step(&self, step: &Step, draft: &mut Draft) -> Result<(), CallError> {
        match step {
            Step::Put { written, expected, apply } => {
                let key = &written.document.key;
                if draft.items.iter().any(|item| is_of(item, key)) {
                    let message = format!("document {key} stands twice in the text");
                    let hint = "remove one of the two, or give it another name";
                    let problem = written.document.problem("duplicate-document", message, hint);
                    return Err(CallError::Invalid(vec![to_fault(problem)]));
                }
                if *expected == Some(0) {
                    self.must_be_new(key).await?;
                }
                let before = self.effective.get(key).map(|one| one.text.clone());
                let same = before.as_ref() == Some(&written.text);
                draft.item(key, before, Some(written.text.clone()));
                let waiting = if *apply { self.waiting(key).await? } else { None };
                if same && *apply && waiting.is_none() {
                    return Ok(());
                }
                draft.changes.push(put(written, *expected, *apply));
                if let Some(waiting) = waiting.filter(|waiting| waiting.text != written.text) {
                    draft.warnings.push(superseded(&waiting));
                }
                if same && *apply {
                    // What ends is the draft that waited beside it: no node hears anything else.
                    return Ok(());
                }
                draft.puts.push(written.document.clone());
                if *apply {
                    draft.touched.push((key.clone(), Some(written.text.clone())));
                }
            }
            Step::Apply { id, expected } => {
                let stored = self.stored(*id).await?;
                let document = reread(&stored)?;
                let before = self.effective.get(&document.key).map(|one| one.text.clone());
                let same = before.as_ref() == Some(&stored.text);
                draft.item(&document.key, before, Some(stored.text.clone()));
                if stored.state == RevisionState::Draft {
                    draft.changes.push(DocumentChange::Apply { id: *id, expected: *expected });
                    if !same {
                        draft.touched.push((document.key.clone(), Some(stored.text)));
                        draft.puts.push(document);
                    }
                }
            }
            Step::Delete { id, expected } => {
                let stored = self.stored(*id).await?;
                let key = reread(&stored)?.key;
                let effective = self.effective.get(&key).map(|one| one.text.clone());
                if effective.is_some() && stored.state == RevisionState::Draft {
                    draft.warnings.push(superseded(&stored));
                }
                let before = effective.unwrap_or(stored.text);
                draft.delete(key, *id, *expected, before);
            }
        }
        Ok(())
    }

    /// Answers the newest revision among what ends.
    async fn plan_prune(&self, prune: &Prune, draft: &mut Draft) -> Result<u64, CallError> {
        let Prune { tenant, namespace, up_to } = prune;
        let filter = DocumentFilter {
            tenant: Some(tenant.clone()),
            namespace: Some(namespace.clone()),
            ..DocumentFilter::default()
        };
        let stored = self.stores.documents.newest(&filter).await?;
        let stored: BTreeMap<Uuid, &StoredDocument> = stored.iter().map(|one| (one.id, one)).collect();
        let kept = |key: &DocumentKey, draft: &Draft| draft.items.iter().any(|item| is_of(item, key));
        let mut newest = 0;
        for (key, one) in &self.effective {
            if key.tenant != *tenant || key.namespace != *namespace || kept(key, draft) {
                continue;
            }
            let stored = stored.get(&one.id);
            let revision = stored.map_or(0, |stored| stored.revision);
            if up_to.is_some_and(|up_to| revision > up_to) {
                let why = format!(
                    "would end, and is at revision {revision} by now, which is newer than the plan that was looked at"
                );
                return Err(CallError::Conflict { what: "document", name: key.to_string(), why });
            }
            newest = newest.max(revision);
            if let Some(waiting) = stored.filter(|stored| stored.state == RevisionState::Draft) {
                draft.warnings.push(superseded(waiting));
            }
            draft.delete(key.clone(), one.id, None, one.text.clone());
        }
        Ok(newest)
    }

    async fn stored(&self, id: Uuid) -> Result<StoredDocument, CallError> {
        let found = self.stores.documents.get(id).await?;
        let found = found.filter(|one| one.state != RevisionState::Deleted);
        found.ok_or_else(|| CallError::NotFound { what: "document", name: id.to_string() })
    }

    async fn newest(&self, key: &DocumentKey) -> Result<Option<StoredDocument>, CallError> {
        let filter = DocumentFilter {
            tenant: Some(key.tenant.clone()),
            namespace: Some(key.namespace.clone()),
            kind: Some(key.kind.word().to_owned()),
            name: Some(key.name.to_string()),
            ..DocumentFilter::default()
        };
        Ok(self.stores.documents.newest(&filter).await?.into_iter().next())
    }

    async fn must_be_new(&self, key: &DocumentKey) -> Result<(), CallError> {
        match self.newest(key).await? {
            Some(stored) => Err(CallError::Exists { what: "document", name: label(&stored) }),
            None => Ok(()),
        }
    }

    /// The draft of a document that is newer than what is effective of it.
    async fn waiting(&self, key: &DocumentKey) -> Result<Option<StoredDocument>, CallError> {
        Ok(self.newest(key).await?.filter(|stored| stored.state == RevisionState::Draft))
    }

    async fn enroll(
        &mut self,
        mut binding: Binding,
        token: &StoredToken,
        replaces: Option<&Binding>,
        event: Event,
    ) -> Result<(), CallError> {
        if let Some(replaced) = replaces {
            // What the new one keeps was read from it: one that was removed meanwhile must not come back by that.
            if self.bindings.borrow().get(&binding.node) != Some(replaced) {
                let why =
                    "its binding was changed or removed meanwhile: look at it, and ask again".to_owned();
                return Err(CallError::Conflict { what: "node", name: binding.node.to_string(), why });
            }
            // A node whose binding is written anew goes on with its certificate; one that was removed does not.
            binding.created = replaced.created;
        }
        let mut next = self.bindings.borrow().iter().cloned().collect::<Vec<_>>();
        next.push(binding.clone());
        let next = Arc::new(Bindings::new(next));
        let planned = self.with_bindings(&next, Some(&binding.node))?;
        self.stores.nodes.enroll(&binding, token, replaces.is_some(), event).await.map_err(|error| {
            match error {
                StoreError::Exists { .. } => CallError::NodeExists { node: binding.node, namespace: None },
                other => other.into(),
            }
        })?;
        self.rebind(planned, next);
        Ok(())
    }

    async fn remove(&mut self, node: &NodeId, event: Event) -> Result<(), CallError> {
        let rest = self
            .bindings
            .borrow()
            .iter()
            .filter(|binding| binding.node != *node)
            .cloned()
            .collect::<Vec<_>>();
        let next = Arc::new(Bindings::new(rest));
        let planned = self.with_bindings(&next, None)?;
        self.stores.nodes.remove(node, event).await?;
        self.rebind(planned, next);
        Ok(())
    }

    async fn set_issuer(
        &mut self,
        node: &NodeId,
        issuer: Option<IssuerName>,
        event: Event,
    ) -> Result<(), CallError> {
        let mut next = self.bindings.borrow().iter().cloned().collect::<Vec<_>>();
        next.iter_mut()
            .filter(|binding| binding.node == *node)
            .for_each(|one| one.issuer.clone_from(&issuer));
        let next = Arc::new(Bindings::new(next));
        let planned = self.with_bindings(&next, None)?;
        self.stores.nodes.set_issuer(node, issuer.as_ref(), event).await?;
        self.rebind(planned, next);
        Ok(())
    }

    /// The catalog with other bindings. Refused if the documents that now meet at `node` do not fit together.
    fn with_bindings(&self, bindings: &Bindings, node: Option<&NodeId>) -> Result<Catalog, CallError> {
        let mut next = self.catalog.clone();
        let refused = next.bind(bindings).refused;
        warn_refused(&refused);
        match refused.into_iter().find(|(refused, _)| Some(refused) == node) {
            Some((_, problems)) => Err(invalid(problems)),
            None => Ok(next),
        }
    }

    /// Views first: whoever sees a binding finds its snapshot.
    fn rebind(&mut self, planned: Catalog, bindings: Arc<Bindings>) {
        self.publish(planned);
        self.bindings.send_replace(bindings);
    }

    async fn block(&mut self, id: &SpiffeId, verdict: &Verdict, event: Event) -> Result<(), CallError> {
        let block = self.stores.blocks.block(id, &verdict.reason, verdict.is_enforced, event).await?;
        self.show_blocks(|blocks| blocks.with(id.clone(), block));
        Ok(())
    }

    async fn unblock(&mut self, id: &SpiffeId, event: Event) -> Result<(), CallError> {
        self.stores.blocks.unblock(id, event).await?;
        self.show_blocks(|blocks| blocks.without(id));
        Ok(())
    }

    /// Acts on a change that is kept, without asking the store again: that could fail, and what is kept would be done by
    /// nobody. Views first: a blocked node's own proxy is still sent what makes it refuse, before its streams end.
    fn show_blocks(&mut self, change: impl FnOnce(BlockList) -> BlockList) {
        let blocks = change(BlockList::clone(&self.blocks.borrow()));
        let denied = Denied::new(blocks.enforced());
        let drains = Drains::new(self.catalog.drains().all(), blocks.evicted());
        if denied != *self.catalog.denied() || drains != *self.catalog.drains() {
            let mut next = self.catalog.clone();
            next.deny(denied);
            next.drain(drains);
            self.publish(next);
        }
        self.blocks.send_replace(Arc::new(blocks));
    }
}

/// A plan while it grows.
#[derive(Default)]
struct Draft {
    puts: Vec<Document>,
    removes: Vec<DocumentKey>,
    changes: Vec<DocumentChange>,
    touched: Vec<(DocumentKey, Option<String>)>,
    items: Vec<wire::PlanItem>,
    /// What somebody loses by it, beside what the documents themselves are warned of.
    warnings: Vec<String>,
}

impl Draft {
    fn item(&mut self, key: &DocumentKey, before: Option<String>, after: Option<String>) {
        let action = match (&before, &after) {
            (None, _) => wire::PlanAction::Create,
            (Some(_), None) => wire::PlanAction::Delete,
            (Some(before), Some(after)) if before == after => wire::PlanAction::Unchanged,
            (Some(_), Some(_)) => wire::PlanAction::Update,
        };
        self.items.push(wire::PlanItem {
            action,
            kind: key.kind.word().to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            before,
            after,
        });
    }

    fn delete(&mut self, key: DocumentKey, id: Uuid, expected: Option<u64>, before: String) {
        self.item(&key, Some(before), None);
        self.changes.push(DocumentChange::Delete { id, expected });
        self.removes.push(key.clone());
        self.touched.push((key, None));
    }
}

/// What whoever makes another text effective, or none, should know of the draft that waited.
fn superseded(draft: &StoredDocument) -> String {
    let StoredDocument { kind, namespace, name, revision, author, .. } = draft;
    format!(
        "the draft of {kind} {namespace}/{name} by {author} (revision {revision}) waits no more; credence rollback {kind} \
         {name} -n {namespace} --to {revision} makes its text effective"
    )
}

fn is_of(item: &wire::PlanItem, key: &DocumentKey) -> bool {
    item.kind == key.kind.word() && item.namespace == key.namespace.as_str() && item.name == *key.name
}

fn put(written: &Written, expected: Option<u64>, apply: bool) -> DocumentChange {
    let key = &written.document.key;
    DocumentChange::Put {
        tenant: key.tenant.clone(),
        namespace: key.namespace.clone(),
        kind: key.kind.word().to_owned(),
        name: key.name.to_string(),
        text: written.text.clone(),
        expected,
        apply,
    }
}

/// The nodes that any changed document reaches, or reached until now.
fn reached(applied: &Applied) -> Vec<String> {
    let nodes: BTreeSet<&NodeId> = applied.reaches.iter().flat_map(|(_, nodes)| nodes).collect();
    nodes.into_iter().map(ToString::to_string).collect()
}

fn warn_refused(refused: &[(NodeId, Problems)]) {
    for (node_id, problems) in refused {
        tracing::warn!(%node_id, %problems, "documents of a node do not fit together, it keeps what it had");
    }
}

fn explained_line(explained: Explained) -> wire::ExplainedResource {
    let nothing = || match explained.type_url {
        TypeUrl::Extension => "who is blocked: credence identity list".to_owned(),
        _ => "no document gives it addresses".to_owned(),
    };
    wire::ExplainedResource {
        word: explained.type_url.word().to_owned(),
        name: explained.name.to_string(),
        version: explained.version.to_string(),
        source: explained
            .cause
            .map_or_else(nothing, |cause| format!("{} {} ({})", cause.document, cause.path, cause.place)),
    }
}

fn invalid(problems: Problems) -> CallError {
    CallError::Invalid(problems.0.into_iter().map(to_fault).collect())
}

/// Reads a stored text again; it was readable when it was written.
fn reread(stored: &StoredDocument) -> Result<Document, CallError> {
    let scope = Scope { tenant: stored.tenant.clone(), namespace: stored.namespace.clone() };
    let read = model::parse_in(&scope, &label(stored), &stored.text).map_err(invalid)?;
    let missing = || CallError::Unavailable { part: "store", why: format!("{} has no text", label(stored)) };
    read.into_iter().next().ok_or_else(missing)
}
