//! One node (SHELL): its streams, and the renewal of its certificate, beside each other until the program ends.

mod recovery;
mod report;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::renewal::{Action, Event as RenewalEvent, Renewal};
use certs::{Clock, KeyKind, SecretKey, Timestamp};
use futures::stream;
use proto::envoy::{
    config::core::v3::Node as Envoy,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use sds::schedule::{Jitter, Life};
use spiffe::TrustBundle;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tonic::{Code, Status, Streaming};

use crate::{
    certify::{self, Certified, Uncertified},
    connection::{Connection, Identity, source},
    holding::{Event, Holding},
    protocol::{Counters, NodePlan, Part, Stage},
};

/// The first pause between tries, and the longest: those of an Envoy.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between two questions for news, and after news that the certificate is to be renewed: those of an agent.
const NEWS_PAUSE: Duration = Duration::from_secs(1);
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Responses that a frozen node keeps for later.
const MAX_FROZEN: usize = 1_000;

/// What all nodes of one start share.
pub(crate) struct Place {
    pub(crate) xds: SocketAddr,
    pub(crate) enrolment: Option<SocketAddr>,
    pub(crate) recover_from: Option<IpAddr>,
    pub(crate) handshakes: Semaphore,
    pub(crate) news: bool,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What a node was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders {
    pub(crate) stopped: bool,
    pub(crate) acks: bool,
    pub(crate) bundle: bool,
    pub(crate) renewal: bool,
    /// Grows with every order to renew at once.
    pub(crate) renewals: u64,
}

impl Orders {
    pub(crate) fn freeze(&mut self, part: Part) {
        match part {
            Part::Acks => self.acks = true,
            Part::Bundle => self.bundle = true,
            Part::Renewal => self.renewal = true,
        }
    }

    pub(crate) fn thaw(&mut self) {
        (self.acks, self.bundle, self.renewal) = (false, false, false);
    }
}

/// One node.
pub(crate) struct Node {
    name: String,
    namespace: String,
    from: IpAddr,
    place: Arc<Place>,
    orders: watch::Sender<Orders>,
    /// Grows with every certificate.
    certified: watch::Sender<u64>,
    /// Grows with every renewal that was tried.
    tried: watch::Sender<u64>,
    /// The connection over which there was news last: a renewal that was asked for goes over it, as an agent's does.
    link: tokio::sync::Mutex<Option<Connection>>,
    state: Mutex<State>,
}

/// How it stands.
struct State {
    stage: Stage,
    since: Timestamp,
    identity: Option<Identity>,
    certified_at: Timestamp,
    bundle: TrustBundle,
    bundle_at: Timestamp,
    holding: Holding,
    counters: Counters,
    last_error: Option<String>,
}

/// How a stream ended.
struct Ended {
    answered: bool,
    status: Status,
}

impl Node {
    /// A node that does nothing until it is run.
    pub(crate) fn new(
        number: usize,
        plan: &NodePlan,
        place: Arc<Place>,
        bundle: TrustBundle,
        identity: Option<Identity>,
        holding: Holding,
    ) -> Self {
        let now = place.clock.now();
        let stage = if identity.is_some() { Stage::Connecting } else { Stage::Enrolling };
        Self {
            name: plan.node.clone(),
            namespace: plan.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            from: source(place.xds, number),
            place,
            orders: watch::Sender::new(Orders::default()),
            certified: watch::Sender::new(0),
            tried: watch::Sender::new(0),
            link: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                stage,
                since: now,
                identity,
                certified_at: now,
                bundle,
                bundle_at: now,
                holding,
                counters: Counters::default(),
                last_error: None,
            }),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives it orders.
    pub(crate) fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// Enrols, then keeps a stream and a certificate for ever.
    pub(crate) async fn run(self: Arc<Self>, token: Option<String>) {
        if let Some(token) = token
            && !self.enrol(&token).await
        {
            return;
        }
        let news = async {
            if self.place.news {
                self.keep_informed().await;
            }
        };
        tokio::join!(Box::pin(self.keep_streaming()), Box::pin(self.keep_certificate()), Box::pin(news));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.place.clock.now()
    }

    fn stage(&self, stage: Stage) {
        let now = self.now();
        let mut state = self.state();
        if state.stage != stage {
            (state.stage, state.since) = (stage, now);
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        let mut state = self.state();
        state.counters.failures += 1;
        state.last_error = Some(format!("{error:#}"));
    }

    async fn enrol(&self, token: &str) -> bool {
        let key = Arc::new(SecretKey::generate(KeyKind::P256));
        let mut failures = 0;
        loop {
            match Box::pin(self.try_enrol(token, &key)).await {
                Ok(certified) => {
                    self.install(certified, true);
                    self.stage(Stage::Connecting);
                    return true;
                }
                Err(Uncertified { is_passing, error }) => {
                    self.failed(&error);
                    if !is_passing {
                        self.stage(Stage::Refused);
                        return false;
                    }
                }
            }
            failures += 1;
            sleep(pause(failures)).await;
        }
    }

    async fn try_enrol(&self, token: &str, key: &Arc<SecretKey>) -> Result<Certified, Uncertified> {
        let bundle = self.state().bundle.clone();
        let to = self.place.enrolment.ok_or_else(|| anyhow::anyhow!("start names no enrolment address"))?;
        let clock = &self.place.clock;
        let _permit = self.place.handshakes.acquire().await.map_err(anyhow::Error::from)?;
        let connection = Connection::open(self.from, to, &bundle, None, clock).await?;
        certify::join(&connection, token, key, &bundle, clock).await
    }

    fn install(&self, certified: Certified, with_bundle: bool) {
        let now = self.now();
        let mut state = self.state();
        state.identity = Some(certified.identity);
        state.certified_at = now;
        if let Some(bundle) = certified.bundle.filter(|_| with_bundle) {
            (state.bundle, state.bundle_at) = (bundle, now);
        }
        drop(state);
        self.certified.send_modify(|count| *count += 1);
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let (bundle, identity) = {
            let state = self.state();
            (state.bundle.clone(), state.identity.clone())
        };
        let _permit = self.place.handshakes.acquire().await?;
        Connection::open(self.from, self.place.xds, &bundle, identity.as_ref(), &self.place.clock).await
    }

    /// A stream, and another when it ends: on the same connection, unless the server said GOAWAY or it broke.
    async fn keep_streaming(&self) {
        let mut orders = self.orders.subscribe();
        let mut connection: Option<Connection> = None;
        let mut failures = 0_u32;
        loop {
            if orders.borrow_and_update().stopped {
                drop(connection.take());
                self.stage(Stage::Stopped);
                if orders.wait_for(|orders| !orders.stopped).await.is_err() {
                    return;
                }
            }
            self.stage(Stage::Connecting);
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => self.connect().await.inspect(|_| self.state().counters.connections += 1),
            };
            match open {
                Ok(mut open) => {
                    let ended = self.stream(&open, &mut orders).await;
                    let now = self.now();
                    self.state().holding.step(Event::Ended, now);
                    self.stage(Stage::Connecting);
                    failures = if ended.answered { 0 } else { failures.saturating_add(1) };
                    if ended.status.code() != Code::Ok {
                        self.failed(&anyhow::anyhow!(
                            "stream: {:?}: {}",
                            ended.status.code(),
                            ended.status.message()
                        ));
                    }
                    if open.is_usable().await {
                        // Not told to go: an Envoy, too, takes its time before it opens the next.
                        failures = failures.max(1);
                        connection = Some(open);
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.failed(&error);
                }
            }
            if failures > 0 {
                tokio::select! {
                    () = sleep(pause(failures)) => {}
                    () = stopped(&orders) => {}
                }
            }
        }
    }

    /// One stream from its opening to its end.
    async fn stream(&self, connection: &Connection, orders: &mut watch::Receiver<Orders>) -> Ended {
        let (channel, origin) = connection.channel();
        let (send, receive) = mpsc::channel::<DeltaDiscoveryRequest>(64);
        let requests = stream::unfold(receive, async |mut receive| {
            receive.recv().await.map(|request| (request, receive))
        });
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel, origin)
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let now = self.now();
        let mut opening = self.state().holding.step(Event::Opened, now);
        if let Some(first) = opening.first_mut() {
            first.node =
                Some(Envoy { id: self.name.clone(), cluster: self.namespace.clone(), ..Envoy::default() });
        }
        for request in opening {
            if send.send(request).await.is_err() {
                break;
            }
        }
        let mut ended = Ended { answered: false, status: Status::ok("") };
        let mut answers = tokio::select! {
            answers = client.delta_aggregated_resources(requests) => match answers {
                Ok(answers) => answers.into_inner(),
                Err(status) => return Ended { status, ..ended },
            },
            () = stopped(orders) => return ended,
        };
        self.state().counters.streams += 1;
        let mut waiting: Vec<DeltaDiscoveryResponse> = Vec::new();
        loop {
            let received = tokio::select! {
                received = next(&mut answers) => received,
                changed = orders.changed() => {
                    if changed.is_err() || orders.borrow_and_update().stopped {
                        return ended;
                    }
                    Ok(None)
                }
            };
            match received {
                Ok(Some(response)) => {
                    ended.answered = true;
                    self.stage(Stage::Connected);
                    if waiting.len() >= MAX_FROZEN {
                        ended.status = Status::resource_exhausted("fleet: too much came while frozen");
                        return ended;
                    }
                    waiting.push(response);
                }
                Ok(None) => {}
                Err(status) => {
                    ended.status = status;
                    return ended;
                }
            }
            if !orders.borrow().acks {
                for response in waiting.drain(..) {
                    self.take(response, &send).await;
                }
            }
        }
    }

    async fn take(&self, response: DeltaDiscoveryResponse, send: &mpsc::Sender<DeltaDiscoveryRequest>) {
        let now = self.now();
        let requests = self.state().holding.step(Event::Received(Box::new(response)), now);
        for request in requests {
            // A stream that has ended says so when it is read.
            let _ = send.send(request).await;
        }
    }

    /// Holds a call for news on a connection of its own, which ends with the certificate that opened it.
    async fn keep_informed(&self) {
        let (mut orders, mut certified) = (self.orders.subscribe(), self.certified.subscribe());
        let mut tried = self.tried.subscribe();
        let mut failures = 0_u32;
        loop {
            if orders.wait_for(|orders| !orders.stopped && !orders.bundle).await.is_err() {
                return;
            }
            certified.mark_unchanged();
            tried.mark_unchanged();
            let asked = async {
                let open = self.linked().await?;
                let bundle = self.state().bundle.clone();
                Ok::<_, Uncertified>((certify::news(&open, &bundle).await?, open))
            };
            let asked = tokio::select! {
                asked = Box::pin(asked) => asked,
                changed = certified.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = stopped(&orders) => continue,
            };
            let wait = match asked {
                Ok((news, open)) => {
                    failures = 0;
                    *self.link.lock().await = Some(open);
                    let now = self.now();
                    if let Some(bundle) = news.bundle {
                        let mut state = self.state();
                        (state.bundle, state.bundle_at) = (bundle, now);
                    }
                    if news.renew {
                        // One that was asked for is carried out before anything else is asked.
                        self.order(|orders| orders.renewals += 1);
                        if tried.changed().await.is_err() {
                            return;
                        }
                    }
                    if news.renew { RENEWAL_PAUSE } else { NEWS_PAUSE }
                }
                Err(_) => {
                    failures = failures.saturating_add(1);
                    pause(failures)
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                // The next question goes over a connection of the new certificate.
                changed = certified.changed() => if changed.is_err() { return } else { *self.link.lock().await = None },
            }
        }
    }

    /// Renews at the agent's times, and when told to; comes back when its certificate has ended.
    async fn keep_certificate(&self) {
        let mut orders = self.orders.subscribe();
        let mut done = orders.borrow().renewals;
        let mut machine = Renewal::new(self.life(), Jitter::random());
        loop {
            let now = self.now();
            let (asked, frozen) = {
                let orders = orders.borrow_and_update();
                (orders.renewals, orders.renewal || orders.stopped)
            };
            if !frozen && self.place.enrolment.is_some() && self.life().is_over(now) {
                self.come_back(&mut orders).await;
                machine = Renewal::new(self.life(), Jitter::random());
                continue;
            }
            let due = !frozen && machine.step(RenewalEvent::Tick, now).contains(&Action::Renew);
            if due || asked != done {
                done = asked;
                let renewed = Box::pin(self.renew()).await;
                let jitter = Jitter::random();
                match renewed {
                    Ok(()) if due => {
                        machine.step(RenewalEvent::Renewed { life: self.life(), jitter }, self.now());
                    }
                    Ok(()) => machine = Renewal::new(self.life(), jitter),
                    Err(error) => {
                        self.state().counters.renewals_failed += 1;
                        self.failed(&error.error.context("renewal"));
                        machine.step(RenewalEvent::Failed { jitter }, self.now());
                    }
                }
                continue;
            }
            let deadline = machine.deadline().filter(|_| !frozen);
            tokio::select! {
                () = until(&self.place.clock, deadline) => {}
                changed = orders.changed() => if changed.is_err() { return },
            }
        }
    }

    fn life(&self) -> Life {
        let state = self.state();
        let expires = state.identity.as_ref().map(|identity| identity.leaf.chain.leaf().not_after());
        Life { issued: state.certified_at, expires: expires.unwrap_or(state.certified_at) }
    }

    /// The connection for calls that is open, or another.
    async fn linked(&self) -> anyhow::Result<Connection> {
        let open = self.link.lock().await.take();
        if let Some(mut open) = open
            && open.is_usable().await
        {
            return Ok(open);
        }
        self.connect().await
    }

    async fn renew(&self) -> Result<(), Uncertified> {
        let renewed = self.try_renew().await;
        self.tried.send_modify(|count| *count += 1);
        renewed
    }

    async fn try_renew(&self) -> Result<(), Uncertified> {
        let connection = self.linked().await?;
        let bundle = self.state().bundle.clone();
        let certified = certify::renew(&connection, &bundle, &self.place.clock).await?;
        let with_bundle = !self.orders.borrow().bundle;
        self.install(certified, with_bundle);
        self.state().counters.renewals += 1;
        Ok(())
    }
}

/// The next response; the end of the stream is a status too.
async fn next(
    answers: &mut Streaming<DeltaDiscoveryResponse>,
) -> Result<Option<DeltaDiscoveryResponse>, Status> {
    answers.message().await?.map(Some).ok_or_else(|| Status::ok("the stream ended"))
}

async fn stopped(orders: &watch::Receiver<Orders>) {
    let _ = orders.clone().wait_for(|orders| orders.stopped).await;
}

async fn until(clock: &Arc<dyn Clock>, deadline: Option<Timestamp>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A random part of a pause that doubles.
fn pause(failures: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    Jitter::random().of(whole)
}
