//! The loop of one stream: wait for something, step the session, carry out what it says.

use std::{collections::VecDeque, fmt::Display, future::pending, sync::Arc, time::Duration};

use audit::Actor;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use spiffe::{Binding, Bindings, BlockList, Clock, RequestId, Timestamp};
use tokio::sync::{mpsc, watch};

use super::{ConnectionDrain, Shared, registry::Seat, status_of};
use crate::{
    Action, Code, Event, Note, Refusal, SecretFeed, Session, Snapshot, TypeUrl, Version, Views,
    hub::Count,
    status::Place,
    wire::{Deframer, Rope, decode},
};

/// One discovery stream.
pub(super) struct Stream {
    shared: Arc<Shared>,
    session: Session,
    stream: u64,
    request_id: RequestId,
    connection: Option<ConnectionDrain>,
    seat: Seat,
    place: Place,
    _open: Open,
    views: watch::Receiver<Arc<Views>>,
    bindings: watch::Receiver<Arc<Bindings>>,
    blocks: watch::Receiver<Arc<BlockList>>,
    feed: Option<SecretFeed>,
    /// Interests that the source has not taken yet. No request is taken up while more wait than a stream may want
    /// names, so that they are bounded by that and by what one request changes; the peer waits meanwhile.
    interests: VecDeque<(Arc<str>, bool)>,
    view: Option<Arc<Snapshot>>,
    binding: Option<Binding>,
    deframer: Deframer,
    out: Rope,
    /// When the piece that waits began to wait.
    waits_since: Timestamp,
    is_draining: bool,
    end: Option<End>,
}

enum End {
    /// With this status.
    Status(Code),
    /// With this one, and for the record.
    Refused(Refusal),
    /// Nobody is there any more.
    Gone,
}

enum Wake {
    Inbound(Option<Result<Bytes, String>>),
    Views,
    Bindings,
    Blocks,
    Secrets,
    Interest,
    Written,
    Gone,
    Time,
    Drain,
    Superseded,
    /// The source of secrets has let go of the stream, or never took it.
    Forsaken,
}

/// Counts a stream as open for as long as it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        let traffic = &self.0.deps.traffic;
        traffic.streams_open().fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Stream {
    pub(super) fn new(
        shared: Arc<Shared>,
        session: Session,
        stream: u64,
        request_id: RequestId,
        connection: Option<ConnectionDrain>,
    ) -> Self {
        let deps = &shared.deps;
        deps.traffic.streams_open().add(1);
        let node = session.node().clone();
        Self {
            seat: shared.registry.enter(&node, stream, deps.limits.streams_per_node),
            place: deps.status.open(&session, session.method(), stream, deps.clock.clone()),
            _open: Open(shared.clone()),
            views: deps.views.clone(),
            bindings: deps.bindings.clone(),
            blocks: deps.blocks.clone(),
            feed: None,
            interests: VecDeque::new(),
            view: None,
            binding: None,
            deframer: Deframer::new(deps.limits.message_bytes),
            out: Rope::default(),
            waits_since: deps.clock.now(),
            is_draining: false,
            end: None,
            shared,
            session,
            stream,
            request_id,
            connection,
        }
    }

    /// Runs until the stream is over.
    pub(super) async fn run<B>(mut self, wait: Duration, mut inbound: B, frames: mpsc::Sender<Frame<Bytes>>)
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: Display,
    {
        let clock = self.shared.deps.clock.clone();
        clock.sleep_until(clock.now() + wait).await;
        // Whatever changed between opening and now.
        self.access_changed();
        self.views_changed();
        while self.end.is_none() {
            let wake = self.wake(&mut inbound, &frames).await;
            self.woken(wake);
        }
        let Some(trailers) = self.finish() else { return };
        let patience = clock.now() + self.shared.deps.limits.drain;
        tokio::select! {
            _ = frames.send(Frame::trailers(trailers)) => {}
            () = clock.sleep_until(patience) => {
                // What is queued inside HTTP/2 goes with the connection only.
                self.connection.iter().for_each(|connection| connection.stalled().cancel());
            }
        }
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.deps.clock
    }

    fn deadline(&self) -> Option<Timestamp> {
        let stall = (!self.out.is_empty()).then(|| self.waits_since + self.shared.deps.limits.write_stall);
        self.session.deadline().into_iter().chain(stall).min()
    }

    async fn wake<B>(&mut self, inbound: &mut B, frames: &mpsc::Sender<Frame<Bytes>>) -> Wake
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: Display,
    {
        let (deadline, may_read) = (self.deadline(), self.may_read());
        let clock = self.shared.deps.clock.clone();
        let (sender, secrets) = match &mut self.feed {
            Some(feed) => (Some(&feed.interest), Some(&mut feed.view)),
            None => (None, None),
        };
        let (out, interests) = (&mut self.out, &mut self.interests);
        tokio::select! {
            frame = inbound.frame(), if may_read => Wake::Inbound(frame.map(|frame| match frame {
                Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
                Err(error) => Err(error.to_string()),
            })),
            permit = frames.reserve(), if !out.is_empty() => match (permit, out.next()) {
                (Ok(permit), Some(piece)) => {
                    permit.send(Frame::data(piece));
                    Wake::Written
                }
                _ => Wake::Gone,
            },
            permit = reserve(sender), if !interests.is_empty() => {
                match (permit, interests.pop_front()) {
                    (Some(permit), Some(interest)) => {
                        permit.send(interest);
                        Wake::Interest
                    }
                    _ => Wake::Forsaken,
                }
            }
            () = changed(&mut self.views) => Wake::Views,
            () = changed(&mut self.bindings) => Wake::Bindings,
            () = changed(&mut self.blocks) => Wake::Blocks,
            is_there = changed_if(secrets) => if is_there { Wake::Secrets } else { Wake::Forsaken },
            () = frames.closed() => Wake::Gone,
            () = going_away(self.connection.as_ref()), if !self.is_draining => Wake::Drain,
            () = self.seat.superseded.cancelled() => Wake::Superseded,
            () = until(&*clock, deadline) => Wake::Time,
        }
    }

    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Inbound(Some(Ok(bytes))) => {
                self.deframer.push(&bytes);
                self.read();
            }
            // Half-closed by the client, or reset: there is nobody to serve.
            Wake::Inbound(None) => self.end = Some(End::Status(Code::Ok)),
            Wake::Inbound(Some(Err(error))) => {
                tracing::debug!(request_id = %self.request_id, %error, "discovery stream broke off");
                self.end = Some(End::Gone);
            }
            Wake::Views => self.views_changed(),
            Wake::Bindings | Wake::Blocks => self.access_changed(),
            Wake::Secrets => {
                let view = self.feed.as_mut().map(|feed| feed.view.borrow_and_update().clone());
                if let Some(view) = view {
                    self.step(Event::Secrets(view));
                }
            }
            // What was left unread when too many waited.
            Wake::Interest => self.read(),
            Wake::Written => {
                self.waits_since = self.clock().now();
                if self.out.is_empty() {
                    self.step(Event::Writable);
                }
            }
            Wake::Gone => self.end = Some(End::Gone),
            Wake::Drain => {
                self.is_draining = true;
                self.step(Event::Drain);
            }
            // A new stream gets another place with the source; without one this would wait for secrets until it ends.
            Wake::Forsaken => self.end = Some(End::Status(Code::Unavailable)),
            Wake::Superseded => self.end = Some(End::Refused(Refusal::Superseded)),
            Wake::Time => self.time_passed(),
        }
    }

    fn time_passed(&mut self) {
        let stalled_at = self.waits_since + self.shared.deps.limits.write_stall;
        if !self.out.is_empty() && self.clock().now() >= stalled_at {
            self.connection.iter().for_each(|connection| connection.stalled().cancel());
            self.end = Some(End::Refused(Refusal::Stalled));
            return;
        }
        self.step(Event::Tick);
    }

    fn may_read(&self) -> bool {
        self.interests.len() <= self.shared.deps.limits.names_per_stream
    }

    fn read(&mut self) {
        while self.end.is_none() && self.may_read() {
            let event = match self.deframer.next() {
                Ok(None) => return,
                Ok(Some(message)) if self.session.method().delta => {
                    decode::<DeltaDiscoveryRequest>(message).map(Event::Delta)
                }
                Ok(Some(message)) => decode::<DiscoveryRequest>(message).map(Event::Sotw),
                Err(refusal) => Err(refusal),
            };
            match event {
                Ok(event) => {
                    self.shared.deps.traffic.requests().add(1);
                    self.step(event);
                }
                Err(refusal) => self.end = Some(End::Refused(refusal)),
            }
        }
    }

    fn views_changed(&mut self) {
        let view = self.views.borrow_and_update().get(self.session.node()).cloned();
        let is_news = match (&self.view, &view) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (_, new) => new.is_some(),
        };
        if is_news {
            self.view.clone_from(&view);
            self.step(Event::View(view));
        }
    }

    fn access_changed(&mut self) {
        if self.blocks.borrow_and_update().contains(self.session.peer().id()) {
            return self.step(Event::Blocked);
        }
        let binding = self.bindings.borrow_and_update().of(self.session.peer()).cloned();
        if binding.is_none() || binding != self.binding {
            self.binding.clone_from(&binding);
            self.step(Event::Binding(binding));
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.clock().now();
        for action in self.session.step(event, now) {
            match action {
                Action::Send(response) => {
                    let traffic = &self.shared.deps.traffic;
                    traffic.responses().add(1);
                    traffic.resources_sent().add(response.resources.len());
                    self.out = Rope::of(&response, self.session.method().delta, &self.shared.deps.identifier);
                    self.waits_since = now;
                    if let Some(type_url) = TypeUrl::parse(&response.type_url) {
                        self.place.record(&self.session, type_url, true);
                    }
                }
                Action::Interest { name, wanted } => self.interested(name, wanted),
                Action::Settled { type_url, items, refusal } => {
                    self.settled(type_url, &items, refusal.as_deref());
                }
                Action::Dropped(type_url) => self.place.record(&self.session, type_url, false),
                Action::Note(note) => self.note(note),
                Action::Refuse(refusal) => self.end = Some(End::Refused(refusal)),
                Action::Close(code) => self.end = Some(End::Status(code)),
            }
        }
    }

    fn interested(&mut self, name: Arc<str>, wanted: bool) {
        if self.feed.is_none() {
            let mut feed = self.shared.deps.secrets.open(self.session.peer(), self.stream);
            feed.view.mark_changed();
            self.feed = Some(feed);
        }
        self.interests.push_back((name, wanted));
    }

    fn settled(&mut self, type_url: TypeUrl, items: &[(Arc<str>, Version)], refusal: Option<&str>) {
        let deps = &self.shared.deps;
        match refusal {
            None => deps.traffic.acks().add(1),
            Some(words) => {
                deps.traffic.nacks().add(1);
                tracing::warn!(
                    request_id = %self.request_id,
                    node_id = %self.session.node(),
                    type_url = type_url.as_str(),
                    words,
                    "node refused configuration"
                );
            }
        }
        if type_url == TypeUrl::Secret {
            for (name, version) in items {
                deps.secrets.settled(self.session.node(), name, version, refusal);
            }
        }
        self.place.record(&self.session, type_url, false);
    }

    fn note(&self, note: Note) {
        let traffic = &self.shared.deps.traffic;
        match note {
            Note::StaleNonce => traffic.stale_nonces().add(1),
            Note::UnknownType => traffic.unknown_types().add(1),
            Note::LateVersions => traffic.late_versions().add(1),
        }
    }

    /// The status that the peer is told, if it is there.
    fn finish(&mut self) -> Option<http::HeaderMap> {
        match self.end.take()? {
            End::Status(code) => Some(status_of(code, None)),
            End::Refused(refusal) => {
                let actor = Actor::Identity { id: self.session.peer().id().clone() };
                let node = self.session.node().to_string();
                self.shared.report(actor, node, &refusal, &self.request_id);
                Some(status_of(refusal.code(), Some(&self.request_id)))
            }
            End::Gone => None,
        }
    }
}

/// Waits for news; for ever if there will be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// Waits for news; false if there will be none.
async fn changed_if<T>(receiver: Option<&mut watch::Receiver<T>>) -> bool {
    match receiver {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => pending().await,
    }
}

/// A place in the source's queue; `None` if the source is gone.
async fn reserve<T>(sender: Option<&mpsc::Sender<T>>) -> Option<mpsc::Permit<'_, T>> {
    match sender {
        Some(sender) => sender.reserve().await.ok(),
        None => pending().await,
    }
}

async fn going_away(connection: Option<&ConnectionDrain>) {
    match connection {
        Some(connection) => connection.going_away().cancelled().await,
        None => pending().await,
    }
}

async fn until(clock: &dyn Clock, deadline: Option<Timestamp>) {
    match deadline {
        Some(at) => clock.sleep_until(at).await,
        None => pending().await,
    }
}
