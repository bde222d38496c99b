//! Leaves of workloads that an issuer elsewhere signs: its own queue, few requests at a time, a time within which it
//! answers, and a rest when it does not. Nothing that the built-in issuer does waits for any of this.
//!
//! ```text
//! SvidRequest + CSR -> queue -> authorize -> LeafStore (request) -> LeafSigner -> strict check -> LeafStore (answer)
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use audit::{Action, Actor, Event, Outcome, Refusals};
use certs::{Certificate, Chain, Clock, Profile, PublicKey, SpkiHash, Timestamp};
use futures::stream::{FuturesUnordered, StreamExt};
use spiffe::{
    AuthorityId, IssueError, IssuedSvid, IssuerName, Signers, SvidRequest, Trust, TrustBundle, TrustDomain,
};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Signing,
    builtin::refuse,
    circuit::{self, Circuit},
    queue::{Job, MAX_WAITING, Queue},
};
use crate::{
    clock::Reading,
    issuance::{Authorized, Judge, refusal_of, word},
    manager::turned_away,
    policy::Policy,
    ports::{JournalError, LeafAnswer, LeafOutcome, LeafRequest, LeafStore, SignedLeaf, Source},
};

/// How many requests an issuer has before it at a time.
const MAX_IN_FLIGHT: usize = 32;
/// How long one may take. Whoever waits for a leaf gives up after half a minute, with the time in the queue.
const ANSWER: Duration = Duration::from_secs(10);
/// The most characters of an issuer's words that are kept: with its name before them, an audit row takes no more.
const MAX_WORDS: usize = 400;
/// How far the clock of an issuer may be ahead of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// An issuer beside the built-in one that signs leaves, under one of its roots, and by what it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    /// Its name, and which of its roots this is.
    pub source: Source,
    /// The role by which it signs.
    pub role: String,
    /// The root that what it signs must lead to.
    pub anchor: Certificate,
    /// The authority that signs.
    pub signer: Certificate,
    /// Those that signed for it under this root before its settings were changed.
    pub earlier: Vec<Certificate>,
    /// Who signs in its place while it rests after failures, if an operator named somebody.
    pub fallback: Option<IssuerName>,
}

impl Outsider {
    /// Who signs, as certificates and the journal call it.
    #[must_use]
    pub fn authority(&self) -> AuthorityId {
        AuthorityId::of(self.signer.spki_hash())
    }

    /// Who signs, and who did.
    pub fn authorities(&self) -> impl Iterator<Item = AuthorityId> {
        std::iter::once(&self.signer).chain(&self.earlier).map(|one| AuthorityId::of(one.spki_hash()))
    }

    /// Its root, as acknowledgements call it.
    #[must_use]
    pub fn root(&self) -> AuthorityId {
        AuthorityId::of(self.anchor.spki_hash())
    }
}

/// What an issuer is asked for.
#[derive(Debug, Clone)]
pub struct LeafAsked {
    /// The request signed with its key (PKCS#10, DER). Nothing in it but the key counts.
    pub csr: Vec<u8>,
    /// That key.
    pub key: PublicKey,
    /// The one name.
    pub uri: String,
    /// How long it may live from `at`.
    pub lifetime: Duration,
    /// When it is asked.
    pub at: Timestamp,
}

/// Why an issuer gave no leaf.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignFailure {
    /// It answered, and does not sign this, or what it signed is not what was asked for.
    #[error("{0}")]
    Refused(String),
    /// It cannot be asked now. Nothing was signed.
    #[error("{0}")]
    Unavailable(String),
    /// It was asked, and what became of it is not known.
    #[error("{0}")]
    Unknown(String),
}

/// Asks issuers elsewhere.
#[async_trait]
pub trait LeafSigner: Send + Sync {
    /// Has an issuer sign a leaf under one of its roots, and answers the chain: the leaf first, the root left out. It is
    /// what was asked for; whether it holds against that root, and is signed by who was to, is asked of nobody else:
    /// whoever asks verifies it.
    async fn sign(&self, source: &Source, asked: LeafAsked) -> Result<Chain, SignFailure>;
}

/// How an issuer elsewhere does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Failures in a row.
    pub failures: u32,
    /// What the last one said, until it answers again.
    pub problem: Option<String>,
    /// How many requests wait or are under way.
    pub waiting: usize,
    /// Who signs in its place, since it rests.
    pub stands_in: Option<IssuerName>,
}

/// Where requests go at one moment.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) signers: Arc<Signers>,
    pub(crate) builtin: mpsc::Sender<Job>,
    /// The queues of the issuers that may sign, besides the built-in one.
    pub(crate) ways: BTreeMap<IssuerName, mpsc::Sender<Job>>,
}

impl Routes {
    /// The queue for a request, if an issuer elsewhere is to be asked.
    pub(crate) fn elsewhere(&self, request: &SvidRequest) -> Option<&mpsc::Sender<Job>> {
        if request.profile != Profile::Workload {
            return None;
        }
        self.ways.get(&self.signers.of(&request.id, request.issuer.as_ref()).name)
    }

    /// Puts a request into the queue that is its own now.
    pub(crate) fn send(&self, job: Job) {
        let way = self.elsewhere(&job.request).unwrap_or(&self.builtin);
        if let Err(error) = way.try_send(job) {
            let why = turned_away(&error);
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = error;
            let _ = job.reply.send(Err(why));
        }
    }

    /// Hands a request to whoever signs in the place of `resting`, and answers who that is.
    fn hand_on(&self, resting: &IssuerName, job: Job) -> Result<IssuerName, Box<Job>> {
        let fallback = self.signers.outside.get(resting).and_then(|one| one.fallback.as_ref());
        let Some(fallback) = fallback.filter(|_| !job.is_fallback) else {
            return Err(Box::new(job));
        };
        let way = if fallback.is_builtin() { Some(&self.builtin) } else { self.ways.get(fallback) };
        let Some(way) = way else { return Err(Box::new(job)) };
        way.try_send(Job { is_fallback: true, ..job }).map(|()| fallback.clone()).map_err(|error| {
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = error;
            Box::new(job)
        })
    }
}

/// An issuer that signs leaves, with what its leaves are held against: its root alone, and the one authority that is to
/// sign. What the built-in authorities sign counts for nothing here, and the other way round.
#[derive(Debug)]
pub(crate) struct Asking {
    outsider: Outsider,
    judge: Judge,
}

impl Asking {
    pub(crate) fn new(outsider: Outsider, domain: &TrustDomain) -> Self {
        let bundle = TrustBundle::new(domain.clone(), vec![outsider.anchor.clone()], 0);
        let signers = Arc::new(std::iter::once(outsider.signer.spki_hash()).collect());
        let judge = Judge::new(Arc::new(Trust::new(bundle).with_issuers(signers)));
        Self { outsider, judge }
    }

    pub(crate) fn outsider(&self) -> &Outsider {
        &self.outsider
    }
}

/// What every asking needs.
pub(crate) struct OutsidePipeline {
    pub(crate) store: Arc<dyn LeafStore>,
    pub(crate) signer: Arc<dyn LeafSigner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) refusals: Arc<dyn Refusals>,
    pub(crate) policy: Policy,
    pub(crate) epoch: u64,
    /// By which keys nothing may be asked for.
    pub(crate) signing: watch::Receiver<Arc<Signing>>,
    /// Whether the clock can be believed.
    pub(crate) time: watch::Receiver<Reading>,
}

/// What an asking says about the issuer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It was not asked.
    Nothing,
    /// It signed.
    Signs,
    /// It answered, and there is no leaf; these are the words.
    Refuses(String),
    /// It could not be asked, or gave no answer; these are the words.
    Fails(String),
}

impl OutsidePipeline {
    async fn issue(
        &self,
        asking: &Asking,
        request: SvidRequest,
        csr: Vec<u8>,
    ) -> (Result<IssuedSvid, IssueError>, Verdict) {
        let before = |error| (Err(error), Verdict::Nothing);
        if let Some(why) = self.time.borrow().stopped() {
            return before(IssueError::Unavailable(why));
        }
        let keys = Arc::clone(&self.signing.borrow());
        let now = self.clock.now();
        if let Err(refusal) = Authorized::authorize(request.clone(), &self.policy, &keys.authority_keys) {
            return before(refuse(self.refusals.as_ref(), now, &request, refusal.to_string()));
        }
        if request.profile != Profile::Workload {
            let reason = "an issuer elsewhere signs leaves of workloads only".to_owned();
            return before(refuse(self.refusals.as_ref(), now, &request, reason));
        }
        let intent = self.intent(asking, &request, now);
        let event = event(&intent);
        if let Err(error) = self.store.record_request(intent, event.clone()).await {
            return before(refusal_of(error));
        }
        let asked = LeafAsked {
            csr,
            key: request.public_key.clone(),
            uri: request.id.as_str().to_owned(),
            lifetime: request.lifetime,
            at: now,
        };
        let signed = tokio::select! {
            signed = self.signer.sign(&asking.outsider.source, asked) => signed,
            () = self.clock.sleep_until(now + ANSWER) => {
                let limit = certs::format_duration(ANSWER);
                Err(SignFailure::Unknown(format!("no answer within {limit}")))
            }
        };
        let spki = request.public_key.hash();
        match signed {
            Ok(chain) => {
                let answer = match self.fault(asking, &request, &chain, now) {
                    None => self.release(asking, chain, spki, now, event).await,
                    Some(fault) => {
                        let name = &asking.outsider.source.name;
                        let fault = format!(
                            "issuer {name}: what it signed is refused: {fault}; credence issuer test {name} says more"
                        );
                        let error = IssueError::BadOutput(bounded(fault));
                        self.failed(spki, LeafOutcome::Failed(error.to_string()), event).await;
                        Err(error)
                    }
                };
                let verdict = match &answer {
                    Err(error @ IssueError::BadOutput(_)) => Verdict::Refuses(error.to_string()),
                    _ => Verdict::Signs,
                };
                (answer, verdict)
            }
            Err(failure) => {
                let failure = match failure {
                    SignFailure::Refused(words) => SignFailure::Refused(bounded(words)),
                    SignFailure::Unavailable(words) => SignFailure::Unavailable(bounded(words)),
                    SignFailure::Unknown(words) => SignFailure::Unknown(bounded(words)),
                };
                let words = format!("issuer {}: {failure}", asking.outsider.source.name);
                let (outcome, verdict) = match &failure {
                    SignFailure::Refused(_) => {
                        (LeafOutcome::Failed(words.clone()), Verdict::Refuses(failure.to_string()))
                    }
                    SignFailure::Unavailable(_) => {
                        (LeafOutcome::Failed(words.clone()), Verdict::Fails(failure.to_string()))
                    }
                    SignFailure::Unknown(_) => {
                        (LeafOutcome::Unknown(words.clone()), Verdict::Fails(failure.to_string()))
                    }
                };
                self.failed(spki, outcome, event).await;
                (Err(IssueError::Unavailable(words)), verdict)
            }
        }
    }

    fn intent(&self, asking: &Asking, request: &SvidRequest, now: Timestamp) -> LeafRequest {
        LeafRequest {
            issuer: asking.outsider.source.name.clone(),
            role: asking.outsider.role.clone(),
            authority: asking.outsider.authority(),
            epoch: self.epoch,
            id: request.id.clone(),
            tenant: request.tenant.clone(),
            node: request.node.clone(),
            purpose: request.purpose,
            spki: request.public_key.hash(),
            not_after: now + request.lifetime + CLOCK_TOLERANCE,
            at: now,
            request_id: request.request_id.clone(),
        }
    }

    /// What is wrong with the chain that came back.
    fn fault(
        &self,
        asking: &Asking,
        request: &SvidRequest,
        chain: &Chain,
        asked: Timestamp,
    ) -> Option<String> {
        let leaf = chain.leaf();
        if leaf.spki_der() != request.public_key.spki_der() {
            return Some("its key is another".to_owned());
        }
        if leaf.not_after() > asked + request.lifetime + CLOCK_TOLERANCE {
            return Some(format!("it lives until {}, longer than was asked for", leaf.not_after()));
        }
        if !leaf.subject().is_empty() || leaf.subject_alt_names().len() != 1 {
            return Some("it has other names beside its identity".to_owned());
        }
        match asking.judge.verify(chain, self.clock.now()) {
            Ok(id) if id == request.id => None,
            Ok(id) => Some(format!("it names {id}")),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Records what came back, and only then lets it out.
    async fn release(
        &self,
        asking: &Asking,
        chain: Chain,
        spki: SpkiHash,
        issued: Timestamp,
        event: Event,
    ) -> Result<IssuedSvid, IssueError> {
        let leaf = chain.leaf();
        let signed = SignedLeaf {
            serial: leaf.serial().clone(),
            tbs_sha256: leaf.signed_sha256(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            chain: chain.certificates().map(|certificate| certificate.der().to_vec()).collect(),
        };
        let at = self.clock.now();
        let event = event.with("serial", leaf.serial()).with("not_after", leaf.not_after());
        let event = Event { action: Action::CertificateIssue, at, ..event };
        let answer = LeafAnswer { spki, outcome: LeafOutcome::Issued(signed), at };
        match self.store.record_answer(answer, event.clone()).await {
            Ok(()) => Ok(IssuedSvid { chain, authority: asking.outsider.authority(), issued }),
            Err(error @ JournalError::SerialTaken(_)) => {
                let error = IssueError::BadOutput(error.to_string());
                self.failed(spki, LeafOutcome::Failed(error.to_string()), event).await;
                Err(error)
            }
            Err(error) => Err(IssueError::Unavailable(error.to_string())),
        }
    }

    /// Records that there is no leaf. If that is not possible either, its outcome stays unknown.
    async fn failed(&self, spki: SpkiHash, outcome: LeafOutcome, event: Event) {
        let at = self.clock.now();
        let reason = match &outcome {
            LeafOutcome::Issued(_) => String::new(),
            LeafOutcome::Failed(reason) | LeafOutcome::Unknown(reason) => reason.clone(),
        };
        let event = Event { action: Action::CertificateFail, at, outcome: Outcome::Failed, reason, ..event };
        if let Err(error) = self.store.record_answer(LeafAnswer { spki, outcome, at }, event).await {
            tracing::warn!(%error, "that an issuer gave no leaf was not recorded, its outcome stays unknown");
        }
    }
}

/// Words that may quote the issuer, or a certificate that it gave: they go to the store, the log and operators.
fn bounded(words: String) -> String {
    if words.len() <= MAX_WORDS { words } else { words.chars().take(MAX_WORDS).collect() }
}

/// What is told of a request, whatever becomes of it.
fn event(request: &LeafRequest) -> Event {
    let actor = match &request.node {
        Some(node) => Actor::Identity { id: request.id.trust_domain().node_id(node) },
        None => Actor::System,
    };
    let event = Event::done(request.at, actor, Action::CertificateIntent, request.id.as_str())
        .with("issuer", &request.issuer)
        .with("role", &request.role)
        .with("authority_id", request.authority)
        .with("profile", word(&Profile::Workload))
        .with("purpose", word(&request.purpose))
        .with("spki_sha256", request.spki)
        .with("not_after", request.not_after)
        .for_tenant(request.tenant.clone())
        .in_request(request.request_id.clone());
    match &request.node {
        Some(node) => event.with("node_id", node),
        None => event,
    }
}

/// The shell around queue, circuit and pipeline of one issuer.
pub(crate) struct OutsideIssuer {
    pub(crate) name: IssuerName,
    pub(crate) pipeline: Arc<OutsidePipeline>,
    pub(crate) jobs: mpsc::Receiver<Job>,
    /// Under which of its roots it is asked; closed when it is asked no more.
    pub(crate) asked: watch::Receiver<Arc<Asking>>,
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    pub(crate) health: watch::Sender<BTreeMap<IssuerName, Health>>,
}

/// Says that another signs in its place, or does so no more.
fn tell_replaced(issuer: &IssuerName, now_is: &Health) {
    let Some(by) = &now_is.stands_in else {
        return tracing::info!(%issuer, "issuer signs again, nobody in its place");
    };
    tracing::warn!(%issuer, %by, failures = now_is.failures, problem = now_is.problem, "another issuer signs in its place");
}

impl OutsideIssuer {
    /// Asks until it is asked no more, or until `shutdown`. Then it finishes what is under way; the rest goes to whoever
    /// signs now, or is turned away.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let Self { name, pipeline, mut jobs, mut asked, routes, health } = self;
        let (pipeline, clock) = (pipeline.as_ref(), Arc::clone(&pipeline.clock));
        let life = pipeline.policy.lifetimes.workload;
        let mut asking = Arc::clone(&asked.borrow_and_update());
        let (mut queue, mut circuit) = (Queue::new(Vec::new()), Circuit::new(life));
        let (mut now_is, mut replaced_by) = (Health::default(), None);
        let carry_out = async |asking: Arc<Asking>, job: Job| {
            let (answer, verdict) = pipeline.issue(&asking, job.request, job.csr).await;
            // Whoever asked may be gone; what was signed is in the journal all the same.
            let _ = job.reply.send(answer);
            (asking, verdict)
        };
        let mut in_flight = FuturesUnordered::new();
        let is_ending = loop {
            while in_flight.len() < MAX_IN_FLIGHT {
                let Some(job) = queue.pop() else { break };
                match circuit.step(circuit::Event::Wanted, clock.now()) {
                    Some(circuit::Action::Rest(until)) => {
                        let routes = Arc::clone(&routes.borrow());
                        match routes.hand_on(&name, job) {
                            Ok(stands_in) => now_is.stands_in = Some(stands_in),
                            Err(job) => {
                                let words = now_is.problem.as_deref().unwrap_or("it does not answer");
                                let failures = now_is.failures;
                                let why = format!(
                                    "issuer {name} rests until {until}, {failures} failures: {words}"
                                );
                                let _ = job.reply.send(Err(IssueError::Unavailable(why)));
                            }
                        }
                    }
                    Some(circuit::Action::Ask) | None => {
                        in_flight.push(carry_out(Arc::clone(&asking), job));
                    }
                }
            }
            now_is.waiting = queue.len() + in_flight.len();
            if replaced_by != now_is.stands_in {
                tell_replaced(&name, &now_is);
                replaced_by = now_is.stands_in.clone();
            }
            health.send_if_modified(|all| {
                let is_changed = all.get(&name) != Some(&now_is);
                all.insert(name.clone(), now_is.clone());
                is_changed
            });
            tokio::select! {
                // Who is asked comes before what is next: nobody is sent to an issuer that is asked no more.
                biased;
                () = shutdown.cancelled() => break true,
                changed = asked.changed() => {
                    if changed.is_err() {
                        break false;
                    }
                    asking = Arc::clone(&asked.borrow_and_update());
                    (circuit, now_is) = (Circuit::new(life), Health::default());
                }
                Some((of, verdict)) = in_flight.next(), if !in_flight.is_empty() => {
                    // What one that is not asked any more said is of no interest.
                    if Arc::ptr_eq(&asking, &of) {
                        let event = match &verdict {
                            Verdict::Nothing => circuit::Event::NotAsked,
                            Verdict::Signs | Verdict::Refuses(_) => circuit::Event::Answered,
                            Verdict::Fails(_) => circuit::Event::Failed,
                        };
                        circuit.step(event, clock.now());
                        match verdict {
                            Verdict::Nothing => {}
                            Verdict::Signs => now_is = Health::default(),
                            Verdict::Refuses(words) | Verdict::Fails(words) => {
                                tracing::warn!(issuer = %name, words, "issuer gave no leaf");
                                if event == circuit::Event::Answered {
                                    // It is asked again, whatever it says.
                                    now_is.stands_in = None;
                                }
                                now_is.failures += 1;
                                now_is.problem = Some(words);
                            }
                        }
                    }
                }
                Some(job) = jobs.recv() => {
                    let now = clock.now();
                    let arrived = std::iter::once(job).chain(std::iter::from_fn(|| jobs.try_recv().ok()));
                    for turned_away in arrived.take(MAX_WAITING).filter_map(|job| queue.push(job, now)) {
                        let busy = "too many requests wait that are more urgent".to_owned();
                        let _ = turned_away.reply.send(Err(IssueError::Unavailable(busy)));
                    }
                }
            }
        };
        health.send_if_modified(|all| all.remove(&name).is_some());
        if !is_ending {
            jobs.close();
            let routes = Arc::clone(&routes.borrow());
            let waiting =
                std::iter::from_fn(|| queue.pop()).chain(std::iter::from_fn(|| jobs.try_recv().ok()));
            waiting.for_each(|job| routes.send(job));
        }
        // Dropping queue and channel answers their jobs: the askers see the reply channel close.
        drop((queue, jobs));
        while in_flight.next().await.is_some() {}
    }
}
