//! Leaves of workloads that an issuer elsewhere signs: its own queue, few requests at a time, a time within which it
//! answers, and a rest when it does not. Nothing that the built-in issuer does waits for any of this.
//!
//! ```text
//! SvidRequest + CSR -> queue -> authorize -> LeafStore (request) -> LeafSigner -> strict check -> LeafStore (answer)
//! ```

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use audit::{Action, Actor, Event, Outcome, Refusals};
use certs::{Certificate, Chain, Clock, Profile, PublicKey, SpkiHash, Timestamp};
use futures::stream::{FuturesUnordered, StreamExt};
use spiffe::{AuthorityId, IssueError, IssuedSvid, IssuerName, SvidRequest, Trust, TrustBundle, TrustDomain};
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
    ports::{JournalError, LeafAnswer, LeafOutcome, LeafRequest, LeafStore, SignedLeaf},
};

/// How many requests an issuer has before it at a time.
const MAX_IN_FLIGHT: usize = 16;
/// How long one may take. Whoever waits for a leaf gives up after half a minute, with the time in the queue.
const ANSWER: Duration = Duration::from_secs(10);
/// The most characters of an issuer's words that are kept: with its name before them, an audit row takes no more.
const MAX_WORDS: usize = 400;
/// How far the clock of an issuer may be ahead of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// An issuer beside the built-in one that signs leaves, and by what it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    /// Its name.
    pub name: IssuerName,
    /// The role by which it signs.
    pub role: String,
    /// The root that what it signs must lead to.
    pub anchor: Certificate,
    /// The authority that signs.
    pub signer: Certificate,
    /// Those that signed for it before its settings were changed.
    pub earlier: Vec<Certificate>,
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
    /// Has `issuer` sign a leaf, and answers the chain: the leaf first, the root left out.
    async fn sign(&self, issuer: &IssuerName, asked: LeafAsked) -> Result<Chain, SignFailure>;
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
            signed = self.signer.sign(&asking.outsider.name, asked) => signed,
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
                let words = format!("issuer {}: {failure}", asking.outsider.name);
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
            issuer: asking.outsider.name.clone(),
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
            tbs_sha256: SpkiHash::of(leaf.to_be_signed()).0,
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

/// The shell around queue, circuit and pipeline: asks whoever signs the leaves of workloads now.
pub(crate) struct OutsideIssuer {
    pub(crate) pipeline: OutsidePipeline,
    pub(crate) jobs: mpsc::Receiver<Job>,
    pub(crate) asked: watch::Receiver<Option<Arc<Asking>>>,
    /// Where requests go when nobody elsewhere is asked any more.
    pub(crate) builtin: mpsc::Sender<Job>,
    pub(crate) health: watch::Sender<Health>,
}

impl OutsideIssuer {
    /// Asks until `shutdown`; then finishes what is under way and turns the rest away.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let Self { pipeline, mut jobs, mut asked, builtin, health } = self;
        let (pipeline, clock) = (&pipeline, Arc::clone(&pipeline.clock));
        let life = pipeline.policy.lifetimes.workload;
        let (mut queue, mut circuit) = (Queue::new(Vec::new()), Circuit::new(life));
        let (mut failures, mut problem): (u32, Option<String>) = (0, None);
        let mut asking = asked.borrow_and_update().clone();
        let carry_out = async |asking: Arc<Asking>, job: Job| {
            let (answer, verdict) = pipeline.issue(&asking, job.request, job.csr).await;
            // Whoever asked may be gone; what was signed is in the journal all the same.
            let _ = job.reply.send(answer);
            (asking, verdict)
        };
        let mut in_flight = FuturesUnordered::new();
        loop {
            while in_flight.len() < MAX_IN_FLIGHT {
                let Some(job) = queue.pop() else { break };
                let Some(asking) = &asking else {
                    hand_over(&builtin, job);
                    continue;
                };
                match circuit.step(circuit::Event::Wanted, clock.now()) {
                    Some(circuit::Action::Rest(until)) => {
                        let name = &asking.outsider.name;
                        let words = problem.as_deref().unwrap_or("it does not answer");
                        let why = format!("issuer {name} rests until {until}, {failures} failures: {words}");
                        let _ = job.reply.send(Err(IssueError::Unavailable(why)));
                    }
                    Some(circuit::Action::Ask) | None => {
                        in_flight.push(carry_out(Arc::clone(asking), job));
                    }
                }
            }
            let waiting = queue.len() + in_flight.len();
            let now = Health { failures, problem: problem.clone(), waiting };
            health.send_if_modified(|shown| {
                let is_changed = *shown != now;
                *shown = now;
                is_changed
            });
            tokio::select! {
                // Who is asked comes before what is next: nobody is sent to an issuer that is asked no more.
                biased;
                () = shutdown.cancelled() => break,
                Ok(()) = asked.changed() => {
                    asking = asked.borrow_and_update().clone();
                    (circuit, failures, problem) = (Circuit::new(life), 0, None);
                }
                Some((of, verdict)) = in_flight.next(), if !in_flight.is_empty() => {
                    // What one that is not asked any more said is of no interest.
                    if asking.as_ref().is_some_and(|asking| Arc::ptr_eq(asking, &of)) {
                        let event = match &verdict {
                            Verdict::Nothing => circuit::Event::NotAsked,
                            Verdict::Signs | Verdict::Refuses(_) => circuit::Event::Answered,
                            Verdict::Fails(_) => circuit::Event::Failed,
                        };
                        circuit.step(event, clock.now());
                        match verdict {
                            Verdict::Nothing => {}
                            Verdict::Signs => (failures, problem) = (0, None),
                            Verdict::Refuses(words) | Verdict::Fails(words) => {
                                tracing::warn!(issuer = %of.outsider.name, words, "issuer gave no leaf");
                                failures += 1;
                                problem = Some(words);
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
        }
        // Dropping queue and channel answers their jobs: the askers see the reply channel close.
        drop((queue, jobs));
        while in_flight.next().await.is_some() {}
    }
}

/// The built-in issuer signs again: whoever waits gets a leaf of it.
fn hand_over(builtin: &mpsc::Sender<Job>, job: Job) {
    if let Err(error) = builtin.try_send(job) {
        let why = turned_away(&error);
        let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = error;
        let _ = job.reply.send(Err(why));
    }
}
