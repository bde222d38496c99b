//! The built-in issuer: a bounded queue in front of the issuance pipeline, with many requests in flight so that
//! they share the commits of the journal.

use std::{collections::BTreeSet, sync::Arc};

use audit::{Action, Actor, Event, Refusals};
use certs::{Clock, Profile, Serial, SpkiHash, Timestamp};
use futures::stream::{FuturesUnordered, StreamExt};
use spiffe::{IssueError, IssuedSvid, Spend, SvidRequest, Trust};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::queue::{Job, MAX_WAITING, Queue};
use crate::{
    authority::SigningAuthority,
    clock::Reading,
    issuance::{Authorized, Judge, Recorded},
    policy::Policy,
    ports::{Journal, Remaining},
};

/// How many issuances are under way at once: as many as one commit of the journal takes in. Fewer would need more commits
/// for a fleet, more would only be out of order.
const MAX_IN_FLIGHT: usize = 256;
/// How often a serial number may turn out to be taken. Of 159 random bits none ever is; a journal that says so
/// again and again is broken.
const MAX_SERIALS: u32 = 4;

/// Who signs at the moment, and what the result is held against.
#[derive(Debug)]
pub(crate) struct Signing {
    pub(crate) authority: Option<Arc<SigningAuthority>>,
    pub(crate) authority_keys: BTreeSet<SpkiHash>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) judge: Judge,
}

/// What every issuance needs.
pub(crate) struct Pipeline {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) refusals: Arc<dyn Refusals>,
    pub(crate) policy: Policy,
    pub(crate) epoch: u64,
    pub(crate) signing: watch::Receiver<Arc<Signing>>,
    /// Whether the clock can be believed.
    pub(crate) time: watch::Receiver<Reading>,
}

impl Pipeline {
    pub(crate) async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        let signing = Arc::clone(&self.signing.borrow());
        let authority = signing
            .authority
            .as_deref()
            .ok_or_else(|| IssueError::Unavailable("no issuing authority is active".to_owned()))?;
        let mut authorized =
            match Authorized::authorize(request.clone(), &self.policy, &signing.authority_keys) {
                Ok(authorized) => authorized,
                Err(refusal) => return Err(self.refuse(&request, refusal.to_string())),
            };
        for _ in 0..MAX_SERIALS {
            let now = self.clock.now();
            self.in_time(&request)?;
            let prepared = authorized
                .by_clock(self.behind(request.profile, now))
                .prepare(authority, &self.policy, Serial::random(), self.epoch, now)
                .map_err(|error| match error {
                    IssueError::Refused(reason) => self.refuse(&request, reason),
                    error => error,
                })?;
            let intended = match prepared.record(self.journal.as_ref()).await {
                Recorded::Intended(intended) => intended,
                Recorded::SerialTaken(again) => {
                    authorized = again;
                    continue;
                }
                Recorded::Refused(error) => return Err(error),
            };
            let now = self.clock.now();
            return match intended.sign(authority, &signing.judge, now) {
                Ok(signed) => signed.release(self.journal.as_ref(), now).await,
                Err(failed) => Err(failed.record(self.journal.as_ref(), now).await),
            };
        }
        Err(IssueError::Unavailable("the journal calls every serial number taken".to_owned()))
    }

    /// Nothing is signed by a clock that cannot be believed, but our own certificate: without it nobody could connect
    /// to look.
    fn in_time(&self, request: &SvidRequest) -> Result<(), IssueError> {
        let stopped = self.time.borrow().stopped().filter(|_| request.profile != Profile::Server);
        stopped.map_or(Ok(()), |why| Err(IssueError::Unavailable(why)))
    }

    /// What the system's clock says while it is behind and not believed. Nobody knows then whether it is wrong, or the
    /// records are: our own certificate must be good by both, so that operators can connect either way.
    fn behind(&self, profile: Profile, now: Timestamp) -> Option<Timestamp> {
        self.time.borrow().behind().filter(|_| profile == Profile::Server).map(|behind| now - behind)
    }

    fn refuse(&self, request: &SvidRequest, reason: String) -> IssueError {
        refuse(self.refusals.as_ref(), self.clock.now(), request, reason)
    }
}

/// Takes note of a request that policy refuses, and answers it.
pub(super) fn refuse(
    refusals: &dyn Refusals,
    now: Timestamp,
    request: &SvidRequest,
    reason: String,
) -> IssueError {
    let actor = match &request.node {
        Some(node) => Actor::Identity { id: request.id.trust_domain().node_id(node) },
        None => Actor::System,
    };
    let event = Event::refused(now, actor, Action::CertificateFail, request.id.as_str(), reason.clone())
        .for_tenant(request.tenant.clone())
        .in_request(request.request_id.clone());
    refusals.refuse(event);
    IssueError::Refused(reason)
}

/// The shell around queue and pipeline.
pub(crate) struct BuiltinIssuer {
    pipeline: Pipeline,
    queue: Queue,
    jobs: mpsc::Receiver<Job>,
}

impl BuiltinIssuer {
    /// An issuer, and where its jobs go in.
    pub(crate) fn new(pipeline: Pipeline, remaining: Vec<Remaining>) -> (Self, mpsc::Sender<Job>) {
        let (sender, jobs) = mpsc::channel(MAX_WAITING);
        (Self { pipeline, queue: Queue::new(remaining), jobs }, sender)
    }

    /// The pipeline without the queue in front of it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn into_pipeline(self) -> Pipeline {
        self.pipeline
    }

    /// Signs by this clock while it can be believed.
    pub(crate) fn mind(&mut self, time: watch::Receiver<Reading>) {
        self.pipeline.time = time;
    }

    /// Issues until `shutdown`; then finishes what is under way and turns the rest away.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let Self { pipeline, mut queue, mut jobs } = self;
        let pipeline = &pipeline;
        let carry_out = async |job: Job| {
            let spent = job.request.spend.as_ref().map(Spend::name);
            let answer = pipeline.issue(job.request).await;
            // Whoever asked may be gone; the certificate is in the journal all the same.
            let _ = job.reply.send(answer);
            spent
        };
        let mut in_flight = FuturesUnordered::new();
        loop {
            while in_flight.len() < MAX_IN_FLIGHT {
                let Some(job) = queue.pop() else { break };
                in_flight.push(carry_out(job));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(spent) = in_flight.next(), if !in_flight.is_empty() => {
                    if let Some(spent) = spent {
                        queue.spent(&spent);
                    }
                }
                Some(job) = jobs.recv() => {
                    let now = pipeline.clock.now();
                    // As many as were there at once, so that their order is decided among all of them.
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
