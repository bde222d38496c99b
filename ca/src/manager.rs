//! Opens the authorities of a deployment, keeps them alive, and offers the issuer.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use audit::{Action, Actor, Event, Refusals};
use certs::{Certificate, Clock, KeyError, Ladder, Serial, SpkiHash, Timestamp};
use spiffe::{
    ActiveAuthority, AuthorityId, IssueError, IssuedSvid, Lists, SvidIssuer, SvidRequest, Trust, TrustBundle,
    TrustDomain,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{PrepareError, SigningAuthority, event, make_issuing, make_root},
    clock::Reading,
    dependents::{Dependents, Laggard},
    drain::Drain,
    issuance::Judge,
    issuer::{BuiltinIssuer, Job, Pipeline, Signing},
    keeper::{Command, Install, Installed, Keeper, Left, Listing, Published, Reply, Rotate, settings},
    lifecycle::Lifecycle,
    pause::Pause,
    policy::{Policy, PolicyError},
    ports::{
        Authorities, AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState, CertificateRow,
        Journal, JournalError, Place, Revocations,
    },
    revocation::{Revoke, RevokeRefusal},
    rotation::{self, Refusal, Wish},
    status::{CaStatus, RotationStatus},
};

/// How many operators may ask for a rotation at once.
const MAX_COMMANDS: usize = 16;

/// What a manager works with.
#[derive(Clone)]
pub struct Deps {
    /// Keeps authorities and their keys.
    pub authorities: Arc<dyn Authorities>,
    /// Keeps intents and results.
    pub journal: Arc<dyn Journal>,
    /// Keeps what was revoked, and lists.
    pub revocations: Arc<dyn Revocations>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Hears of requests that policy refuses.
    pub refusals: Arc<dyn Refusals>,
    /// What is issued here.
    pub policy: Policy,
    /// The store's writer epoch; stands in every intent.
    pub epoch: u64,
}

/// Why a deployment's authorities cannot be made or opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A lifetime that cannot be.
    #[error("lifetime of {:?}: {problem}", problem.profile())]
    Policy {
        /// Which, and why.
        problem: PolicyError,
    },
    /// There are no authorities yet.
    #[error("no root is active, the data directory is not initialised")]
    NotInitialised,
    /// There are authorities already.
    #[error("authorities exist already, {0} is one")]
    AlreadyInitialised(AuthorityId),
    /// An authority is another trust domain's.
    #[error("authority {authority} is not of trust domain {configured}")]
    WrongTrustDomain {
        /// Which authority.
        authority: AuthorityId,
        /// The configured trust domain.
        configured: String,
    },
    /// An authority was not made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Authorities were neither kept nor found.
    #[error(transparent)]
    Authorities(#[from] AuthorityError),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The journal does not answer.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Why an authority was not replaced. The old one signs on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RotateError {
    /// It was tried and failed.
    #[error("authority was not replaced: {0}")]
    Failed(String),
    /// A gate is closed, or the step is not due.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no such authority, or it was removed.
    #[error("authority {0} does not exist or was removed")]
    NotFound(AuthorityId),
    /// No request for an authority is pending.
    #[error("no request for an authority is pending: `credence ca csr` makes one")]
    NoRequest,
    /// The chain for the pending request breaks rules.
    #[error("the chain is refused: {}", broken(.0))]
    Chain(Box<Ladder>),
    /// The next issuing authority is prepared, and these would refuse what it signs. The rotation goes on when they
    /// have its revocation list.
    #[error("{}", behind(*next, *since, laggards.len()))]
    Behind {
        /// The one that waits.
        next: AuthorityId,
        /// Since when.
        since: Timestamp,
        /// For whom; nobody where that could not be found out.
        laggards: Vec<Laggard>,
    },
    /// What was brought is kept, and could not begin to sign yet: that is tried again by itself.
    #[error("authority {authority} is installed, and it is tried again by itself to have it sign: {why}")]
    Kept {
        /// Which.
        authority: AuthorityId,
        /// Why it does not sign yet.
        why: String,
    },
    /// Too many ask, or the process is shutting down.
    #[error("rotation cannot be asked for now")]
    Unavailable,
}

/// How far the next issuing authority is.
fn behind(next: AuthorityId, since: Timestamp, laggards: usize) -> String {
    let prepared = format!("{next} is prepared since {since}, and signs");
    match laggards {
        0 => format!("{prepared} when it is known that nobody would refuse it"),
        1 => format!("{prepared} when 1 proxy more has acknowledged its revocation list"),
        more => format!("{prepared} when {more} proxies more have acknowledged its revocation list"),
    }
}

/// The rules that a ladder says are broken, and by what.
fn broken(ladder: &Ladder) -> String {
    let rungs = ladder.failures().map(|rung| format!("{} ({}: {})", rung.rule, rung.subject, rung.found));
    rungs.collect::<Vec<_>>().join("; ")
}

/// Owns the authorities. [`Manager::run`] must be running for anything to be issued.
pub struct Manager {
    keeper: Keeper,
    issuer: BuiltinIssuer,
    handle: Handle,
}

impl Manager {
    /// Makes the root and the first issuing authority of a deployment, in one transaction.
    ///
    /// # Errors
    /// When the policy is impossible, there are authorities already, or they cannot be kept.
    pub async fn initialise(deps: &Deps, actor: Actor) -> Result<Vec<AuthorityRecord>, OpenError> {
        if let Some(problem) = deps.policy.problems().into_iter().next() {
            return Err(OpenError::Policy { problem });
        }
        if let Some(known) = deps.authorities.load().await?.first() {
            return Err(OpenError::AlreadyInitialised(known.id));
        }
        let now = deps.clock.now();
        let (root, root_key) = make_root(&deps.policy, now)?;
        let root = AuthorityRecord { state: AuthorityState::Active, activated: Some(now), ..root };
        let (issuing, issuing_key) = make_issuing(&deps.policy, &root, &root_key, now)?;
        let issuing = AuthorityRecord { state: AuthorityState::Active, activated: Some(now), ..issuing };
        let domain = deps.policy.trust_domain.as_str();
        let mut events = vec![Event::done(now, actor.clone(), Action::Init, domain)];
        for record in [&root, &issuing] {
            events.push(event(Action::AuthorityPrepare, record, now, actor.clone(), ""));
            events.push(event(Action::AuthorityActivate, record, now, actor.clone(), ""));
        }
        let records = vec![root.clone(), issuing.clone()];
        deps.authorities.insert(vec![(root, root_key), (issuing, issuing_key)], events).await?;
        Ok(records)
    }

    /// Opens what [`Manager::initialise`] made, wherever the last process ended.
    ///
    /// # Errors
    /// When there is nothing to open, it is of another trust domain, or the store or a key does not answer.
    pub async fn open(deps: Deps) -> Result<Self, OpenError> {
        if let Some(problem) = deps.policy.problems().into_iter().next() {
            return Err(OpenError::Policy { problem });
        }
        let records = deps.authorities.load().await?;
        let root = active(&records, Place::Root).ok_or(OpenError::NotInitialised)?;
        let in_use = records.iter().filter(|record| record.state != AuthorityState::Removed);
        let foreign = in_use.chain([root]).find(|record| !is_of(record, &deps.policy.trust_domain));
        if let Some(record) = foreign {
            let configured = deps.policy.trust_domain.to_string();
            return Err(OpenError::WrongTrustDomain { authority: record.id, configured });
        }
        let authority = match active(&records, Place::Issuing) {
            Some(record) if record.tainted.is_some() => None,
            Some(record) => {
                let key = deps.authorities.load_key(record.id).await?;
                Some(Arc::new(SigningAuthority::try_new(record, &key)?))
            }
            None => None,
        };
        let remaining = deps.journal.remaining(deps.clock.now()).await?;
        let machine = Lifecycle::resume(settings(&deps.policy), &records);

        let vouched = vouched(&deps, &records).await?;
        let listing = Listing::load(&deps).await?;
        // Lists follow before anybody asks: the keeper looks whether all are there.
        let revoked = Revoked { leaves: listing.refused(), lists: listing.shown(&records, deps.clock.now()) };
        let first = signing(&deps.policy, &records, authority, Arc::clone(&vouched), revoked);
        let published = Published {
            trust: watch::Sender::new(Arc::clone(&first.trust)),
            active: watch::Sender::new(active_authority(&records)),
            anchor: watch::Sender::new(Arc::new(Anchor::of(&records))),
            drain: watch::Sender::new(Drain::of(&records, first.trust.own().sequence())),
            signing: watch::Sender::new(Arc::new(first)),
            status: watch::Sender::default(),
        };
        let (commands, asked) = mpsc::channel(MAX_COMMANDS);
        let (_, time) = watch::channel(Reading::default());
        let pipeline = Pipeline {
            journal: Arc::clone(&deps.journal),
            clock: Arc::clone(&deps.clock),
            refusals: Arc::clone(&deps.refusals),
            policy: deps.policy.clone(),
            epoch: deps.epoch,
            signing: published.signing.subscribe(),
            time: time.clone(),
        };
        let (issuer, jobs) = BuiltinIssuer::new(pipeline, remaining);
        let handle = Handle {
            jobs,
            commands,
            trust: published.trust.subscribe(),
            status: published.status.subscribe(),
            active: published.active.subscribe(),
            anchor: published.anchor.subscribe(),
            drain: published.drain.subscribe(),
            time,
            signing: published.signing.subscribe(),
        };
        let request = deps.authorities.request().await?;
        let left = Left { vouched, request, listing };
        let mut keeper = Keeper::new(deps, machine, records, asked, published, left);
        keeper.open_lists().await;
        Ok(Self { keeper, issuer, handle })
    }

    /// The way in, for everybody else.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What issues, without the queue in front of it and without whoever replaces authorities.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn into_pipeline(self) -> Pipeline {
        self.issuer.into_pipeline()
    }

    /// Follows operators' wish that no authority is replaced by itself for a while.
    #[must_use]
    pub fn heeding(mut self, pause: watch::Receiver<Option<Arc<Pause>>>) -> Self {
        self.keeper.heed(pause);
        self
    }

    /// Issues nothing while the clock cannot be believed, our own certificate excepted, and makes no authority.
    /// Revocation lists are made all the same: one that is not renewed in time would end.
    #[must_use]
    pub fn minding(mut self, time: watch::Receiver<Reading>) -> Self {
        self.issuer.mind(time.clone());
        self.keeper.mind(time.clone());
        self.handle.time = time;
        self
    }

    /// Issues, and replaces and removes authorities, until `shutdown`. Steps of a rotation wait for what
    /// `dependents` observes.
    pub async fn run(self, dependents: Arc<dyn Dependents>, shutdown: CancellationToken) {
        let Self { keeper, issuer, handle } = self;
        drop(handle);
        tokio::join!(keeper.run(dependents, shutdown.clone()), issuer.run(shutdown));
    }
}

/// Whether an authority may be of `domain`: ours name their trust domain, and who else signed may have left it out.
fn is_of(record: &AuthorityRecord, domain: &TrustDomain) -> bool {
    let names = record.certificate.uri_names();
    let ours = domain.to_uri();
    let is_brought = record.offline.is_some() || record.place == Place::Issuing;
    match names {
        [] => is_brought,
        names => names.iter().all(|name| *name == ours.as_bytes() || !name.starts_with(b"spiffe:")),
    }
}

/// What was revoked, as doors and proxies hear of it.
pub(crate) struct Revoked {
    /// Refused at our doors.
    pub(crate) leaves: Arc<HashSet<(AuthorityId, Serial)>>,
    /// What proxies check against.
    pub(crate) lists: Lists,
}

/// The leaves that stolen authorities signed while they were ours, by the SHA-256 of what was signed.
pub(crate) type Vouched = Arc<HashSet<[u8; 32]>>;

/// What the journal holds of authorities whose keys are believed to be stolen, or the keys of their roots.
pub(crate) async fn vouched(deps: &Deps, records: &[AuthorityRecord]) -> Result<Vouched, JournalError> {
    let in_use = || records.iter().filter(|record| record.state != AuthorityState::Removed);
    let roots: Vec<_> = in_use().filter(|record| record.stolen.is_some()).map(|record| record.id).collect();
    let is_stolen = |record: &&AuthorityRecord| {
        record.stolen.is_some() || record.parent.is_some_and(|parent| roots.contains(&parent))
    };
    let stolen: Vec<_> = in_use().filter(is_stolen).map(|record| record.id).collect();
    if stolen.is_empty() {
        return Ok(Arc::default());
    }
    let issued = deps.journal.issued(&stolen, deps.clock.now()).await?;
    Ok(Arc::new(issued.into_iter().map(|leaf| leaf.tbs_sha256).collect()))
}

/// The authority that signs, and whether what others signed is replaced at once.
pub(crate) fn active_authority(records: &[AuthorityRecord]) -> Option<ActiveAuthority> {
    let id = active(records, Place::Issuing).filter(|record| record.tainted.is_none())?.id;
    let is_tainted =
        |record: &AuthorityRecord| record.state == AuthorityState::Retired && record.tainted.is_some();
    Some(ActiveAuthority { id, is_urgent: records.iter().any(is_tainted) })
}

/// Under whom we sign, for those who must show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The issuing authority.
    pub issuing: Option<AuthorityId>,
    /// The root above it.
    pub root: Option<AuthorityId>,
    /// When that root began to sign.
    pub since: Option<Timestamp>,
    /// The root before it, as long as that stands in the bundle.
    pub previous: Option<AuthorityId>,
    /// The issuing authority's certificate signed by the root before, as long as that stands in the bundle: a chain
    /// that ends with it verifies for those who have not heard of the new root.
    pub cross: Option<Certificate>,
}

impl Anchor {
    pub(crate) fn of(records: &[AuthorityRecord]) -> Self {
        let issuing = active(records, Place::Issuing);
        let root = active(records, Place::Root);
        let retired = |record: &&AuthorityRecord| {
            record.place == Place::Root && record.state == AuthorityState::Retired
        };
        let previous = records.iter().find(retired).map(|record| record.id);
        Self {
            issuing: issuing.map(|record| record.id),
            root: root.map(|record| record.id),
            since: root.and_then(|record| record.activated),
            previous,
            cross: previous.and_then(|_| issuing?.cross.clone()),
        }
    }
}

fn active(records: &[AuthorityRecord], place: Place) -> Option<&AuthorityRecord> {
    records.iter().find(|record| record.place == place && record.state == AuthorityState::Active)
}

/// What issuances go by, as `records` say it.
pub(crate) fn signing(
    policy: &Policy,
    records: &[AuthorityRecord],
    authority: Option<Arc<SigningAuthority>>,
    vouched: Vouched,
    revoked: Revoked,
) -> Signing {
    let roots = || records.iter().filter(|record| record.place == Place::Root);
    let anchors = roots()
        .filter(|root| root.state != AuthorityState::Removed)
        .map(|root| root.certificate.clone())
        .collect();
    // Counts every coming and going, so it grows with each change and survives a restart.
    let changes = roots().map(|root| {
        let gone = if root.state == AuthorityState::Removed { 1 } else { 0 };
        2 * u64::from(root.arrivals) - 1 + gone
    });
    let sequence = changes.sum();
    let bundle = TrustBundle::new(policy.trust_domain.clone(), anchors, sequence);
    let authority_keys: BTreeSet<SpkiHash> =
        records.iter().map(|record| record.certificate.spki_hash()).collect();
    let stolen = records.iter().filter(|record| record.stolen.is_some());
    let tainted = stolen.map(|record| record.certificate.spki_hash()).collect();
    let issuers = records.iter().filter(|record| record.place == Place::Issuing);
    let issuers = issuers.filter(|record| record.state != AuthorityState::Removed);
    let issuers = issuers.map(|record| record.certificate.spki_hash()).collect();
    let trust = Trust::new(bundle)
        .with_issuers(Arc::new(issuers))
        .with_tainted(tainted)
        .with_vouched(vouched)
        .with_revoked(revoked.leaves)
        .with_lists(revoked.lists);
    let trust = Arc::new(trust);
    let judge = Judge::new(Arc::clone(&trust));
    Signing { authority, authority_keys, trust, judge }
}

/// The way to a running [`Manager`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    jobs: mpsc::Sender<Job>,
    commands: mpsc::Sender<Command>,
    trust: watch::Receiver<Arc<Trust>>,
    status: watch::Receiver<Arc<CaStatus>>,
    active: watch::Receiver<Option<ActiveAuthority>>,
    anchor: watch::Receiver<Arc<Anchor>>,
    drain: watch::Receiver<Drain>,
    time: watch::Receiver<Reading>,
    signing: watch::Receiver<Arc<Signing>>,
}

/// Who asks for a change, and why.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub actor: Actor,
    /// Why, as they said; may be empty.
    pub reason: String,
}

impl Handle {
    /// What is trusted, as it changes.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.clone()
    }

    /// The authorities, as they change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<CaStatus>> {
        self.status.clone()
    }

    /// The issuing authority that signs. When it changes, leaves of the one before are to be issued again.
    #[must_use]
    pub fn active(&self) -> watch::Receiver<Option<ActiveAuthority>> {
        self.active.clone()
    }

    /// Under which root we sign, as it changes.
    #[must_use]
    pub fn anchor(&self) -> watch::Receiver<Arc<Anchor>> {
        self.anchor.clone()
    }

    /// When connections between proxies have to end, as it changes; after the bundle that it is about.
    #[must_use]
    pub fn drain(&self) -> watch::Receiver<Drain> {
        self.drain.clone()
    }

    /// Replaces the issuing authority with a new key now, and answers the new one once it signs.
    ///
    /// # Errors
    /// When it was not possible; the old one signs on.
    pub async fn rotate_issuing(&self, actor: Actor, reason: &str) -> Result<AuthorityId, RotateError> {
        self.in_time()?;
        let asked = Asked { actor, reason: reason.to_owned() };
        self.ask(|reply| Command::Issuing(Rotate { asked, reply })).await
    }

    /// Takes a step of the rotation of the root, and answers how it stands after it.
    ///
    /// # Errors
    /// When a gate is closed or the step is not due, with who or what is in the way; nothing changed then.
    pub async fn rotate_root(&self, wish: Wish, asked: Asked) -> Result<RotationStatus, RotateError> {
        if wish.step.needs_time() {
            self.in_time()?;
        }
        self.ask(|reply| Command::Root { wish, asked, reply }).await
    }

    /// What [`Handle::rotate_root`] would do, against what is observed now, and how the rotation stands; changes nothing.
    ///
    /// # Errors
    /// As [`Handle::rotate_root`].
    pub async fn simulate_root(&self, wish: Wish) -> Result<(RotationStatus, rotation::Action), RotateError> {
        self.ask(|reply| Command::Simulate { wish, reply }).await
    }

    /// Treats the key of `authority` as stolen: it signs nothing more, a new root and issuing authority take over,
    /// everything that was signed is replaced at once, and the old root leaves the bundle, within a minute and
    /// without waiting for laggards. Asked again, it answers how far that is.
    ///
    /// # Errors
    /// When there is no such authority, the key of the root is kept elsewhere, or the store does not answer.
    pub async fn emergency(
        &self,
        authority: AuthorityId,
        asked: Asked,
    ) -> Result<RotationStatus, RotateError> {
        // It ends with the old root gone: whoever could not be issued anything until then would be cut off.
        self.in_time()?;
        self.ask(|reply| Command::Emergency { authority, asked, reply }).await
    }

    /// Whether [`Handle::emergency`] would begin now; nothing happens.
    ///
    /// # Errors
    /// Those of [`Handle::emergency`].
    pub async fn simulate_emergency(&self, authority: AuthorityId) -> Result<RotationStatus, RotateError> {
        self.in_time()?;
        self.ask(|reply| Command::SimulateEmergency { authority, reply }).await
    }

    /// The request for an issuing authority that somebody else is to sign: the pending one, or a new one with a new key
    /// when there is none. `renew` makes a new one in any case, and destroys the key of the one before.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub async fn request(&self, renew: bool, asked: Asked) -> Result<AuthorityRequest, RotateError> {
        self.ask(|reply| Command::Request { renew, asked, reply }).await
    }

    /// Drops the pending request and destroys its key.
    ///
    /// # Errors
    /// [`RotateError::NoRequest`] when none is pending.
    pub async fn drop_request(&self, asked: Asked) -> Result<AuthorityId, RotateError> {
        self.ask(|reply| Command::DropRequest { asked, reply }).await
    }

    /// Takes the chain that somebody else signed for the pending request. Under the root that signs it becomes the
    /// issuing authority at once; another root enters the bundle, prepared, as [`Handle::rotate_root`] does with its
    /// first step.
    ///
    /// # Errors
    /// [`RotateError::Chain`] with every rule that it breaks, [`RotateError::Refused`] when no rotation of the root may
    /// begin now; the request stays, and nothing changed.
    pub async fn install(&self, wanted: Install, asked: Asked) -> Result<Installed, RotateError> {
        self.ask(|reply| Command::Install { wanted, asked, reply }).await
    }

    /// Has a certificate count no more: our doors refuse it at once, and it is on the next revocation list, where there
    /// are lists. `event` is the audit row. Answers its row of the journal.
    ///
    /// # Errors
    /// When there is no such certificate, it counts no more anyway, or the store does not answer.
    pub async fn revoke(&self, wanted: Revoke, event: Event) -> Result<CertificateRow, RevokeRefusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Revoke { wanted, event, reply };
        self.commands.try_send(command).map_err(|_| RevokeRefusal::Unavailable)?;
        answer.await.map_err(|_| RevokeRefusal::Unavailable)?
    }

    /// Whether the clock is believed, without which nothing new begins.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn in_time(&self) -> Result<(), RotateError> {
        self.time.borrow().stopped().map_or(Ok(()), |why| Err(RotateError::Failed(why)))
    }

    /// The queue of the built-in issuer.
    pub(crate) fn jobs(&self) -> &mpsc::Sender<Job> {
        &self.jobs
    }

    /// What issuances go by.
    pub(crate) fn signing(&self) -> watch::Receiver<Arc<Signing>> {
        self.signing.clone()
    }

    /// How far the clock is believed.
    pub(crate) fn time(&self) -> watch::Receiver<Reading> {
        self.time.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RotateError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|_| RotateError::Unavailable)?;
        answer.await.map_err(|_| RotateError::Unavailable)?
    }
}

/// What is said where an issuer has ended.
pub(crate) fn ended() -> IssueError {
    IssueError::Unavailable("the issuer is shutting down".to_owned())
}

/// What is said to whoever finds no place in a queue.
pub(crate) fn turned_away<T>(error: &mpsc::error::TrySendError<T>) -> IssueError {
    match error {
        mpsc::error::TrySendError::Full(_) => {
            IssueError::Unavailable("too many requests are waiting".to_owned())
        }
        mpsc::error::TrySendError::Closed(_) => ended(),
    }
}

#[async_trait]
impl SvidIssuer for Handle {
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { request, csr: Vec::new(), is_fallback: false, reply };
        self.jobs.try_send(job).map_err(|error| turned_away(&error))?;
        answer.await.map_err(|_| ended())?
    }
}

#[cfg(test)]
mod tests;
