//! One discovery stream from open to close. Pure: events in, actions out, no clock, channel or randomness.
//!
//! It decides who is served, which type goes when, and what must follow what. What one type needs is
//! [`Subscription`]'s. It knows nothing of frames and sockets.
//!
//! A flush is not a list that was made once: whenever the shell can take a message, the first type in sending order
//! that has one gives one. A new view is taken up only when nothing more can be sent of the old, so that clusters,
//! listeners and routes of one flush are of one view.

mod drain_time;
mod order;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use proto::envoy::{
    config::core::v3::{Node, node::UserAgentVersionType},
    service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
};
use spiffe::{Binding, NodeId, Peer, Timestamp, is_unprintable};

pub use self::drain_time::DRAIN_TIME_KEY;
pub(crate) use crate::subscription::Progress;
use crate::{
    Code, Limits, Refusal, Response, SecretView, Snapshot, TypeUrl, Version,
    subscription::{NamesChange, Nonces, Reply, Source, Subscription},
};

/// What a method of the discovery services carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// The only type of the service; `None` on the aggregated one.
    pub only: Option<TypeUrl>,
    /// Differences only, or whole sets.
    pub delta: bool,
}

/// What a stream begins with.
#[derive(Debug)]
pub struct Opening {
    /// Who is there, proven.
    pub peer: Arc<Peer>,
    /// What was called.
    pub method: Method,
    /// The stream's number; nonces carry it.
    pub stream: u64,
    /// When.
    pub now: Timestamp,
    /// Whether the identity is blocked.
    pub is_blocked: bool,
    /// The enabled binding of the node.
    pub binding: Option<Binding>,
    /// What the node may have.
    pub view: Option<Arc<Snapshot>>,
    /// The bounds.
    pub limits: Limits,
}

/// What a session is told.
#[derive(Debug)]
pub enum Event {
    /// A state-of-the-world request.
    Sotw(Box<DiscoveryRequest>),
    /// A delta request.
    Delta(Box<DeltaDiscoveryRequest>),
    /// What the node may have changed. `None` is no news: what was said stands.
    View(Option<Arc<Snapshot>>),
    /// What is known of its secrets changed.
    Secrets(SecretView),
    /// The binding changed; `None` if it is gone or disabled.
    Binding(Option<Binding>),
    /// The identity was blocked.
    Blocked,
    /// The connection is going away.
    Drain,
    /// The last message was taken: another may be sent.
    Writable,
    /// Time passed.
    Tick,
}

/// What a shell carries out.
#[derive(Debug)]
pub enum Action {
    /// Write this; [`Event::Writable`] when it is taken.
    Send(Response),
    /// A secret name is wanted, or no longer.
    Interest {
        /// Which.
        name: Arc<str>,
        /// Whether it is.
        wanted: bool,
    },
    /// The node applied these versions, or refused them. Words without items: it refused several together, and each
    /// comes once more alone.
    Settled {
        /// Of what type.
        type_url: TypeUrl,
        /// Name and version of each.
        items: Vec<(Arc<str>, Version)>,
        /// Its words, if it refused.
        refusal: Option<Arc<str>>,
    },
    /// Names of this type are wanted no longer; nothing need be sent for that.
    Dropped(TypeUrl),
    /// Count this.
    Note(Note),
    /// End the stream, and put the reason on record.
    Refuse(Refusal),
    /// End the stream in peace.
    Close(Code),
}

/// Something worth a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A reply to a response that is no longer the newest.
    StaleNonce,
    /// A type that is not served was asked for.
    UnknownType,
    /// `initial_resource_versions` after the first message of a type.
    LateVersions,
}

/// One discovery stream.
#[derive(Debug)]
pub struct Session {
    peer: Arc<Peer>,
    node: NodeId,
    method: Method,
    limits: Limits,
    binding: Binding,
    opened: Timestamp,
    /// What the first message said of the node.
    said: Option<Box<Said>>,
    nonces: Nonces,
    subscriptions: [Subscription; TypeUrl::ALL.len()],
    /// Taken up when nothing more can be sent of the current one; the newest wins.
    next_view: Option<Arc<Snapshot>>,
    /// Answers about types that are not served.
    strays: VecDeque<(Arc<str>, Vec<Arc<str>>)>,
    is_writable: bool,
    draining_since: Option<Timestamp>,
    sent_any: bool,
    is_over: bool,
    stepped_at: Timestamp,
}

#[derive(Debug)]
struct Said {
    id: String,
    cluster: String,
    agent: String,
    agent_version: String,
    drain_time: Option<Duration>,
    /// Older Envoys report the first instead of the latest version of a wildcard's resources (envoy#20699).
    trust_known: bool,
}

/// Envoy corrected what it reports as known versions before this one.
const FIRST_TRUSTED_ENVOY: (u32, u32) = (1, 24);
const MAX_STRAYS: usize = 16;

impl Session {
    /// Opens a stream for a proven peer.
    ///
    /// # Errors
    /// Why it may not: nothing is kept of it then.
    pub fn open(opening: Opening) -> Result<Self, Refusal> {
        let Opening { peer, method, stream, now, is_blocked, binding, view, limits } = opening;
        let node = peer.node().ok_or(Refusal::NotANode)?.clone();
        if is_blocked {
            return Err(Refusal::Blocked);
        }
        let binding = binding.filter(|binding| binding.node == node).ok_or(Refusal::Unbound)?;
        let view = view.ok_or(Refusal::NotReady)?;
        let subscriptions = TypeUrl::ALL.map(|type_url| {
            let source = match type_url {
                TypeUrl::Secret => Source::Secrets(SecretView::new()),
                _ => Source::of(&view, type_url),
            };
            Subscription::new(type_url, method.delta, source)
        });
        Ok(Self {
            peer,
            node,
            method,
            limits,
            binding,
            opened: now,
            said: None,
            nonces: Nonces::new(stream),
            subscriptions,
            next_view: None,
            strays: VecDeque::new(),
            is_writable: true,
            draining_since: None,
            sent_any: false,
            is_over: false,
            stepped_at: now,
        })
    }

    /// One event, at `now`. After [`Action::Refuse`] or [`Action::Close`] it is over and says nothing more.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_over {
            return actions;
        }
        self.stepped_at = now;
        if let Err(refusal) = self.take(event, now, &mut actions) {
            self.is_over = true;
            actions.push(Action::Refuse(refusal));
            return actions;
        }
        self.pump(now, &mut actions);
        actions
    }

    fn take(&mut self, event: Event, now: Timestamp, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        match event {
            Event::Sotw(request) => self.take_sotw(*request, now, actions)?,
            Event::Delta(request) => self.take_delta(*request, now, actions)?,
            Event::View(Some(view)) => self.next_view = Some(view),
            Event::View(None) => {}
            Event::Secrets(view) => {
                self.subscription(TypeUrl::Secret).update(Source::Secrets(view));
            }
            Event::Binding(binding) => self.rebind(binding)?,
            Event::Blocked => return Err(Refusal::Blocked),
            Event::Drain => self.draining_since = self.draining_since.or(Some(now)),
            Event::Writable => self.is_writable = true,
            Event::Tick if self.said.is_none() && now >= self.opened + self.limits.first_message => {
                return Err(Refusal::Silent);
            }
            Event::Tick => {}
        }
        Ok(())
    }

    /// When to step with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.is_over {
            return None;
        }
        let first = self.said.is_none().then(|| self.opened + self.limits.first_message);
        let drain = self.draining_since.map(|since| since + self.limits.drain);
        [first, drain]
            .into_iter()
            .flatten()
            .chain(self.gate_deadlines())
            .filter(|at| *at > self.stepped_at)
            .min()
    }

    /// Who is there.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The node it serves.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// What was called.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// What the node calls its software, and the version of it; empty before its first message.
    #[must_use]
    pub fn agent(&self) -> (&str, &str) {
        self.said.as_ref().map_or(("", ""), |said| (&said.agent, &said.agent_version))
    }

    /// How long the node lets connections of what was replaced go on, if it said so: [`DRAIN_TIME_KEY`].
    #[must_use]
    pub fn drain_time(&self) -> Option<Duration> {
        self.said.as_ref().and_then(|said| said.drain_time)
    }

    /// Whether an un-acknowledged response of this type is on its way.
    #[must_use]
    pub fn is_in_flight(&self, type_url: TypeUrl) -> bool {
        self.subscriptions[type_url as usize].in_flight()
    }

    /// What is known of delivery, if the type was asked for.
    pub(crate) fn progress(&self, type_url: TypeUrl) -> Option<Progress> {
        let subscription = &self.subscriptions[type_url as usize];
        subscription.started().then(|| subscription.progress())
    }

    fn subscription(&mut self, type_url: TypeUrl) -> &mut Subscription {
        &mut self.subscriptions[type_url as usize]
    }

    fn take_sotw(
        &mut self,
        request: DiscoveryRequest,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        self.check_node(request.node.as_ref())?;
        self.check_list(request.resource_names.iter(), self.limits.names_per_stream)?;
        let Some(type_url) = self.check_type(&request.type_url)? else {
            actions.push(Action::Note(Note::UnknownType));
            return Ok(());
        };
        let refusal = request.error_detail.map(|status| clean_words(&status.message));
        self.take_reply(type_url, &request.response_nonce, refusal, now, actions);
        let change = self.subscription(type_url).request_sotw(request.resource_names, &request.version_info);
        self.after_names(type_url, change, actions)
    }

    fn take_delta(
        &mut self,
        request: DeltaDiscoveryRequest,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        self.check_node(request.node.as_ref())?;
        self.check_list(request.resource_names_subscribe.iter(), self.limits.names_per_stream)?;
        self.check_list(request.resource_names_unsubscribe.iter(), self.limits.names_per_stream)?;
        let type_url = self.check_type(&request.type_url)?;
        self.check_known(type_url, &request.initial_resource_versions)?;
        let Some(type_url) = type_url else {
            actions.push(Action::Note(Note::UnknownType));
            self.stray(request.type_url, request.resource_names_subscribe);
            return Ok(());
        };
        let refusal = request.error_detail.map(|status| clean_words(&status.message));
        self.take_reply(type_url, &request.response_nonce, refusal, now, actions);
        let late = self.subscription(type_url).started() && !request.initial_resource_versions.is_empty();
        if late {
            actions.push(Action::Note(Note::LateVersions));
        }
        let trust_known = self.said.as_ref().is_some_and(|said| said.trust_known);
        let change = self.subscription(type_url).request_delta(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
            request.initial_resource_versions,
            trust_known,
        );
        self.after_names(type_url, change, actions)
    }

    fn take_reply(
        &mut self,
        type_url: TypeUrl,
        nonce: &str,
        refusal: Option<Arc<str>>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        // A nonce on the first request of a type is of an older stream (xds.md 11).
        if !self.subscription(type_url).started() {
            return;
        }
        match self.subscription(type_url).reply(nonce, refusal, now) {
            Reply::Nothing => {}
            Reply::Stale => actions.push(Action::Note(Note::StaleNonce)),
            Reply::Settled { items, refusal } => {
                actions.push(Action::Settled { type_url, items, refusal });
            }
        }
    }

    fn after_names(
        &mut self,
        type_url: TypeUrl,
        change: NamesChange,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let limit = self.limits.names_per_stream;
        let wanted: usize = self.subscriptions.iter().map(Subscription::name_count).sum();
        let leaving: usize = self.subscriptions.iter().map(Subscription::leaving_count).sum();
        if let Some(count) = [wanted, leaving].into_iter().find(|count| *count > limit) {
            return Err(Refusal::TooManyNames { count, limit });
        }
        if change.drops() {
            actions.push(Action::Dropped(type_url));
        }
        if type_url == TypeUrl::Secret {
            let interest = |wanted| move |name| Action::Interest { name, wanted };
            actions.extend(change.added.into_iter().map(interest(true)));
            actions.extend(change.dropped.into_iter().map(interest(false)));
        }
        Ok(())
    }

    /// A type that is not served: delta is told that the names do not exist, and nothing is kept (xds.md 7, R3).
    fn stray(&mut self, type_url: String, names: Vec<String>) {
        let waiting: usize = self.strays.iter().map(|(_, names)| names.len()).sum();
        let has_room =
            self.strays.len() < MAX_STRAYS && waiting + names.len() <= self.limits.names_per_stream;
        if !names.is_empty() && has_room {
            self.strays.push_back((type_url.into(), names.into_iter().map(Into::into).collect()));
        }
    }

    /// What a client holds from before may be all that there is, and as much that is gone as it could want by name.
    fn check_known(&self, type_url: Option<TypeUrl>, known: &HashMap<String, String>) -> Result<(), Refusal> {
        let offered = type_url.map_or(0, |type_url| self.subscriptions[type_url as usize].offer_count());
        let limit = self.limits.names_per_stream + offered;
        self.check_list(known.keys(), limit)?;
        self.check_list(known.values(), limit)
    }

    /// Each list of a request is bounded by itself: a client may leave all that it wants for as much else at once.
    fn check_list<'a>(
        &self,
        mut names: impl ExactSizeIterator<Item = &'a String>,
        limit: usize,
    ) -> Result<(), Refusal> {
        let (count, longest) = (names.len(), self.limits.name_bytes);
        if count > limit {
            return Err(Refusal::TooManyNames { count, limit });
        }
        match names.find(|name| name.len() > longest) {
            Some(name) => Err(Refusal::LongName { bytes: name.len(), limit: longest }),
            None => Ok(()),
        }
    }

    /// The type asked for; `None` if it is not served (xds.md 5, 6, 7).
    fn check_type(&self, said: &str) -> Result<Option<TypeUrl>, Refusal> {
        match self.method.only {
            None if said.is_empty() => Err(Refusal::NoType),
            None if said.len() > self.limits.name_bytes => {
                Err(Refusal::LongName { bytes: said.len(), limit: self.limits.name_bytes })
            }
            None => Ok(TypeUrl::parse(said)),
            Some(only) if said.is_empty() || said == only.as_str() => Ok(Some(only)),
            Some(only) => Err(Refusal::OtherType { service: only, said: said.chars().take(256).collect() }),
        }
    }

    /// What the node says of itself is compared with its binding and never believed (xds.md 1-3, R2).
    fn check_node(&mut self, node: Option<&Node>) -> Result<(), Refusal> {
        let short = |text: &str| text.chars().take(256).collect::<String>();
        match (&self.said, node) {
            (Some(_), None) => Ok(()),
            (Some(said), Some(node)) if said.id == node.id && said.cluster == node.cluster => Ok(()),
            (Some(_), Some(node)) => Err(Refusal::NodeChanged { said: short(&node.id) }),
            (None, None) => Err(Refusal::NoNode),
            (None, Some(node)) if node.id.is_empty() => Err(Refusal::NoNode),
            (None, Some(node)) if node.id != self.node.as_str() => {
                Err(Refusal::OtherNode { said: short(&node.id) })
            }
            (None, Some(node)) if !is_cluster_of(&node.cluster, &self.binding) => {
                Err(Refusal::OtherCluster { said: short(&node.cluster) })
            }
            (None, Some(node)) => {
                self.said = Some(Box::new(Said::of(node)));
                Ok(())
            }
        }
    }

    /// Decisions hold as long as their grounds (R8).
    fn rebind(&mut self, binding: Option<Binding>) -> Result<(), Refusal> {
        let binding = binding.filter(|binding| binding.node == self.node).ok_or(Refusal::Unbound)?;
        if let Some(said) = &self.said
            && !is_cluster_of(&said.cluster, &binding)
        {
            return Err(Refusal::OtherCluster { said: said.cluster.chars().take(256).collect() });
        }
        self.binding = binding;
        Ok(())
    }
}

impl Said {
    fn of(node: &Node) -> Self {
        let (agent_version, numbers) = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(text)) => (plain_word(text), None),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
                Some(v) => {
                    let text = format!("{}.{}.{}", v.major_number, v.minor_number, v.patch);
                    (text, Some((v.major_number, v.minor_number)))
                }
                None => (String::new(), None),
            },
            None => (String::new(), None),
        };
        let is_old = node.user_agent_name == "envoy" && numbers.is_some_and(|v| v < FIRST_TRUSTED_ENVOY);
        Self {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            agent: plain_word(&node.user_agent_name),
            agent_version,
            drain_time: drain_time::of(node),
            trust_known: !is_old,
        }
    }
}

/// A short word of a stranger, without what a terminal would obey.
fn plain_word(word: &str) -> String {
    word.chars().filter(|c| !is_unprintable(*c)).take(64).collect()
}

/// Our bootstraps write the namespace as `node.cluster`; a proxy may also leave it out.
fn is_cluster_of(cluster: &str, binding: &Binding) -> bool {
    cluster.is_empty() || cluster == binding.namespace.as_str()
}

/// The words of a stranger: one line, no control characters, at most 4 KiB (xds.md 121).
fn clean_words(words: &str) -> Arc<str> {
    const LIMIT: usize = 4096;
    let mut clean = String::with_capacity(words.len().min(LIMIT));
    for letter in words.chars() {
        let letter = if is_unprintable(letter) { ' ' } else { letter };
        if clean.len() + letter.len_utf8() > LIMIT {
            break;
        }
        clean.push(letter);
    }
    clean.into()
}

#[cfg(test)]
mod tests;
