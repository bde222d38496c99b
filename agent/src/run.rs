//! Keeps one node's certificate and bundle fresh (SHELL around [`Renewal`], [`Syncing`] and [`Recovery`]).

use std::sync::Arc;

use certs::{Clock, Csr, KeyKind, SecretKey, Serial, Timestamp, format_duration};
use proto::credence::v1::{RenewRequest, SyncRequest, SyncResponse};
use sds::schedule::Jitter;
use thiserror::Error;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    ServerAddress,
    files::{Credentials, Membership, StateDir, StateError},
    join::{AnswerError, accept_chain, come_back, read_bundle, with_causes},
    link::{CallError, Ends, Link},
    outage::{self, Outage, Reason},
    recovery::{self, Recovery},
    renewal::{Action, Event, Renewal},
    syncing::{self, Syncing},
};

/// Why the agent stopped, other than being told to.
#[derive(Debug, Error)]
pub enum RunError {
    /// The state directory fails.
    #[error(transparent)]
    State(#[from] StateError),
}

impl RunError {
    /// What to do about it, if more can be said than the error says.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::State(error) => error.hint(),
        }
    }
}

/// Why one renewal brought nothing.
#[derive(Debug, Error)]
enum RenewError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("server gave a bad answer: {0}")]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// How the node stands. Published as `watch<Arc<AgentStatus>>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentStatus {
    /// Who it is and where it belongs.
    pub membership: Membership,
    /// The serial number of the certificate in hand.
    pub serial: Serial,
    /// When it ends.
    pub expires: Timestamp,
    /// When it is renewed, or tried again. `None` while a renewal is in flight.
    pub next_renewal: Option<Timestamp>,
    /// How many renewals have worked since the agent started.
    pub renewals: u64,
    /// How many have failed in a row.
    pub failures: u32,
    /// Why the last one failed; `None` after one that worked.
    pub last_error: Option<String>,
    /// How many times the bundle alone was replaced since the agent started.
    pub bundles: u64,
    /// How many times the node came back with a certificate that had ended.
    pub recoveries: u64,
}

/// The keeper of one node's certificate.
#[derive(Debug)]
pub struct Agent {
    state: StateDir,
    clock: Arc<dyn Clock>,
    membership: Membership,
    credentials: Credentials,
    renewal: Renewal,
    syncing: Syncing,
    outage: Outage,
    link: Link,
    renewals: u64,
    bundles: u64,
    recoveries: u64,
    last_error: Option<String>,
    status: watch::Sender<Arc<AgentStatus>>,
}

impl Agent {
    /// Takes over the node that has joined in `state`.
    ///
    /// # Errors
    /// When none has, or its files are damaged.
    pub fn open(state: StateDir, clock: Arc<dyn Clock>) -> Result<Self, StateError> {
        let (membership, credentials) = state.load()?;
        let renewal = Renewal::new(credentials.life(clock.now()), Jitter::random());
        let status = watch::Sender::new(Arc::new(AgentStatus {
            membership: membership.clone(),
            serial: credentials.chain.leaf().serial().clone(),
            expires: renewal.life().expires,
            next_renewal: renewal.deadline(),
            renewals: 0,
            failures: 0,
            last_error: None,
            bundles: 0,
            recoveries: 0,
        }));
        Ok(Self {
            syncing: Syncing::new(clock.now()),
            state,
            clock,
            membership,
            credentials,
            renewal,
            outage: Outage::default(),
            link: Link::default(),
            renewals: 0,
            bundles: 0,
            recoveries: 0,
            last_error: None,
            status,
        })
    }

    /// How the node stands, now and after every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<AgentStatus>> {
        self.status.subscribe()
    }

    /// Where its files are.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// Renews, and takes over every new bundle, until told to stop. An outage of the server is waited out. Once its
    /// certificate has ended the node asks to come back with it, until operators let it.
    ///
    /// # Errors
    /// When the state directory fails.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut event = Event::Tick;
        loop {
            for action in self.renewal.step(event, self.clock.now()) {
                let is_over = match action {
                    Action::GiveUp => true,
                    Action::Renew => {
                        self.publish();
                        let renewed = tokio::select! {
                            renewed = Box::pin(self.renew()) => renewed,
                            () = shutdown.cancelled() => return Ok(()),
                        };
                        self.conclude(renewed)
                    }
                };
                self.publish();
                if is_over {
                    tokio::select! {
                        () = Box::pin(self.come_back()) => {}
                        () = shutdown.cancelled() => return Ok(()),
                    }
                }
            }
            let renewal_due = self.renewal.deadline().unwrap_or_else(|| self.clock.now());
            let sync = self.syncing.step(syncing::Event::Tick, self.clock.now());
            let clock = self.clock.clone();
            event = Event::Tick;
            if sync.is_empty() {
                let due = self.syncing.deadline().map_or(renewal_due, |due| due.min(renewal_due));
                // By the other clock too: this one may be put back.
                let pause = due.since(clock.now());
                tokio::select! {
                    _ = timeout(pause, clock.sleep_until(due)) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                continue;
            }
            tokio::select! {
                answered = Box::pin(self.sync()) => {
                    if self.take_news(answered) {
                        event = Event::Asked;
                    }
                }
                () = clock.sleep_until(renewal_due) => {
                    self.syncing.step(syncing::Event::Interrupted, clock.now());
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Says which bundle is held, and waits for news.
    async fn sync(&mut self) -> Result<SyncResponse, CallError> {
        let request = SyncRequest { bundle_sha256: self.credentials.bundle.content_hash().to_vec() };
        let ends = Ends { membership: &self.membership, credentials: &self.credentials, clock: &self.clock };
        let (outage, server) = (&mut self.outage, &self.membership.xds_server);
        let held = || conclude_outage(outage, server, self.clock.now());
        self.link.sync(ends, request, held).await
    }

    /// Says of a call that brought nothing what is worth a word.
    fn mention(&mut self, error: &CallError, reason: Reason) {
        let now = self.clock.now();
        let (id, server) = (&self.membership.spiffe_id, &self.membership.xds_server);
        let (text, expires) = (with_causes(error), self.renewal.life().expires);
        tracing::debug!(spiffe_id = %id, error = text, "server brought no news");
        for action in self.outage.step(outage::Event::Failed(reason), now) {
            let outage::Action::Warn(reason) = action else { continue };
            let hint = error.hint(&self.membership.node_id);
            let what = match reason {
                Reason::Away => "server is out of reach",
                Reason::Disbelieved => "whoever answers as the server is not believed",
                Reason::Refused => "server refuses this node",
            };
            tracing::warn!(
                spiffe_id = %id,
                %server,
                error = text,
                certificate_until = %expires,
                hint,
                "{what}; the agent goes on trying, and proxies keep what they have"
            );
        }
    }

    /// Takes an answer; says whether the server wants the certificate renewed.
    fn take_news(&mut self, answered: Result<SyncResponse, CallError>) -> bool {
        let failed = answered.as_ref().err().and_then(|error| Some((error, error.reason()?)));
        match failed {
            Some((error, reason)) => self.mention(error, reason),
            None => conclude_outage(&mut self.outage, &self.membership.xds_server, self.clock.now()),
        }
        let event = match answered {
            Ok(news) => match self.take_bundle(&news.bundle_der) {
                Ok(()) => syncing::Event::Answered { renew: news.renew },
                Err(error) => {
                    let text = with_causes(&error);
                    tracing::warn!(spiffe_id = %self.membership.spiffe_id, error = text, "new bundle not taken over");
                    syncing::Event::Failed { jitter: Jitter::random() }
                }
            },
            Err(CallError::Unsupported) => syncing::Event::Unsupported,
            Err(_) => syncing::Event::Failed { jitter: Jitter::random() },
        };
        let actions = self.syncing.step(event, self.clock.now());
        actions.contains(&syncing::Action::Renew)
    }

    /// Puts a bundle in place; chain and key stay. None came when none is new.
    fn take_bundle(&mut self, ders: &[Vec<u8>]) -> Result<(), RenewError> {
        if ders.is_empty() {
            return Ok(());
        }
        let bundle = read_bundle(self.membership.trust_domain.clone(), ders)?;
        if bundle.content_hash() == self.credentials.bundle.content_hash() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.credentials.bundle, bundle);
        if let Err(error) = self.state.install(&self.credentials) {
            self.credentials.bundle = before;
            return Err(error.into());
        }
        self.bundles += 1;
        tracing::info!(
            spiffe_id = %self.membership.spiffe_id,
            roots = self.credentials.bundle.authorities().len(),
            "bundle replaced"
        );
        self.publish();
        Ok(())
    }

    /// Takes the result of a renewal; says whether all is over.
    fn conclude(&mut self, renewed: Result<Credentials, RenewError>) -> bool {
        let jitter = Jitter::random();
        let id = &self.membership.spiffe_id;
        let event = match renewed {
            Ok(credentials) => {
                self.credentials = credentials;
                self.link.close();
                self.syncing.step(syncing::Event::Renewed, self.clock.now());
                self.renewals += 1;
                self.last_error = None;
                let leaf = self.credentials.chain.leaf();
                tracing::info!(spiffe_id = %id, serial = %leaf.serial(), expires = %leaf.not_after(), "node certificate renewed");
                Event::Renewed { life: self.credentials.life(self.clock.now()), jitter }
            }
            Err(error) => {
                let text = with_causes(&error);
                let expires = self.renewal.life().expires;
                let hint = match &error {
                    RenewError::Call(error) => error.hint(&self.membership.node_id),
                    RenewError::State(error) => error.hint(),
                    RenewError::Answer(_) => None,
                };
                tracing::warn!(spiffe_id = %id, error = text, %expires, hint, "node certificate not renewed");
                self.last_error = Some(text);
                Event::Failed { jitter }
            }
        };
        !self.renewal.step(event, self.clock.now()).is_empty()
    }

    /// Asks for a certificate with a new key, and puts it on disk.
    async fn renew(&mut self) -> Result<Credentials, RenewError> {
        let key = SecretKey::generate(KeyKind::P256);
        let bundle = &self.credentials.bundle;
        let request =
            RenewRequest { csr_der: Csr::build(&key), bundle_sha256: bundle.content_hash().to_vec() };
        let ends = Ends { membership: &self.membership, credentials: &self.credentials, clock: &self.clock };
        let answer = self.link.renew(ends, request).await?;
        let domain = self.membership.trust_domain.clone();
        let bundle = if answer.bundle_der.is_empty() {
            bundle.clone()
        } else {
            read_bundle(domain, &answer.bundle_der)?
        };
        let wanted = &self.membership.spiffe_id;
        let chain = accept_chain(&answer.chain_der, &key, wanted, &bundle, self.clock.now())?;
        let credentials = Credentials { chain, key, bundle };
        self.state.install(&credentials)?;
        Ok(credentials)
    }

    /// Asks to come back with the certificate that has ended, until that works, or the clock is put right and it has
    /// not.
    async fn come_back(&mut self) {
        tracing::warn!(
            spiffe_id = %self.membership.spiffe_id,
            expired = %self.renewal.life().expires,
            last_error = self.last_error,
            "certificate has ended; running proxies keep their configuration"
        );
        let mut machine = Recovery::new(self.clock.now(), Jitter::random());
        loop {
            let due = machine.deadline().unwrap_or_else(|| self.clock.now());
            // By the other clock too: this one may be put back.
            let _ = timeout(recovery::LONGEST, self.clock.sleep_until(due)).await;
            if !self.credentials.life(self.clock.now()).is_over(self.clock.now()) {
                tracing::info!(spiffe_id = %self.membership.spiffe_id, "clock was put right: certificate has not ended");
                self.renewal = Renewal::new(self.credentials.life(self.clock.now()), Jitter::random());
                self.publish();
                return;
            }
            if machine.step(recovery::Event::Tick, self.clock.now()).is_empty() {
                continue;
            }
            let (error, hint) = match Box::pin(self.try_to_come_back()).await {
                Ok(credentials) => {
                    self.came_back(credentials);
                    return;
                }
                Err(failed) => failed,
            };
            machine.step(recovery::Event::Failed { jitter: Jitter::random() }, self.clock.now());
            let again = machine.deadline().map(|next| format_duration(next.since(self.clock.now())));
            tracing::warn!(
                spiffe_id = %self.membership.spiffe_id,
                error,
                again_in = again,
                hint,
                "node may not come back yet"
            );
            self.last_error = Some(error);
            self.publish();
        }
    }

    /// Asks once to come back, and puts what it got on disk. A failure comes with what an operator can do, if anything.
    async fn try_to_come_back(&mut self) -> Result<Credentials, (String, Option<String>)> {
        let unkept = |error: StateError| (with_causes(&error), error.hint());
        let ended = self.credentials.chain.leaf().serial();
        // On disk before anybody hears of it, so that a lost answer, or one that cannot be kept, costs nothing: whoever
        // asks again with the same key gets the same certificate.
        let (key, _) = self.state.joining_key(&format!("back{ended}")).map_err(unkept)?;
        let asked = come_back(&self.membership, &self.credentials, &key, &self.clock).await;
        let (chain, bundle) = asked
            .map_err(|error| (with_causes(&error), error.hint_to_come_back(&self.membership.node_id)))?;
        let credentials = Credentials { chain, key, bundle };
        self.state.install(&credentials).map_err(unkept)?;
        if let Err(error) = self.state.forget_joining_keys() {
            tracing::warn!(error = with_causes(&error), "a key that is no longer needed was not removed");
        }
        Ok(credentials)
    }

    fn came_back(&mut self, credentials: Credentials) {
        self.credentials = credentials;
        self.link.close();
        self.renewal = Renewal::new(self.credentials.life(self.clock.now()), Jitter::random());
        self.syncing.step(syncing::Event::Renewed, self.clock.now());
        self.outage = Outage::default();
        self.recoveries += 1;
        self.last_error = None;
        let leaf = self.credentials.chain.leaf();
        let (serial, expires) = (leaf.serial(), leaf.not_after());
        tracing::info!(spiffe_id = %self.membership.spiffe_id, %serial, %expires, "node came back");
        self.publish();
    }

    fn publish(&self) {
        self.status.send_replace(Arc::new(AgentStatus {
            membership: self.membership.clone(),
            serial: self.credentials.chain.leaf().serial().clone(),
            expires: self.renewal.life().expires,
            next_renewal: self.renewal.deadline(),
            renewals: self.renewals,
            failures: self.renewal.failures(),
            last_error: self.last_error.clone(),
            bundles: self.bundles,
            recoveries: self.recoveries,
        }));
    }
}

/// Takes note that the server answers, and says so if it was said that it did not.
fn conclude_outage(outage: &mut Outage, server: &ServerAddress, now: Timestamp) {
    for action in outage.step(outage::Event::Answered, now) {
        if let outage::Action::Back(after) = action {
            let after = format_duration(after);
            tracing::info!(%server, after, "server answers again");
        }
    }
}

#[cfg(test)]
mod tests;
