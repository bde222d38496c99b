//! The shell: one task that keeps the token, and calls from whoever needs Vault.

use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

use certs::Clock;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Action, Answer, Breadth, Credentials, Event, Failure, Jitter, Mount, NotLoggedIn, Policy, Remedy,
    Request, SecretId, Session, Settings, Trouble, Unwrapped, Warning,
    breadth::{judge_acl, judge_probes, probes},
    file,
    login::{self, read_login, read_lookup},
    request::Bearer,
    secret::{Body, MAX_SECRET, Secret},
    transport::Transport,
};

/// How many commands wait for the keeper, at most.
const COMMANDS: usize = 16;
/// How long it is waited until a token is given back: one that cannot be ends by itself.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// How long a login that took all of its time has to say so.
const TO_SAY: Duration = Duration::from_millis(300);

/// How it stands with the session.
#[derive(Debug, Clone, Default)]
pub struct Status {
    token: Option<Arc<Secret>>,
    /// Which token it is, counted from 1.
    pub generation: u64,
    /// Why there is no token, while there is none; or why there is soon none.
    pub reason: Option<NotLoggedIn>,
    /// When the token ends, if it does.
    pub ends: Option<certs::Timestamp>,
    /// What somebody should hear of, although all works.
    pub warnings: Vec<Warning>,
    /// What was the matter at the last try to log in, to renew or to look at the token; `None` after a success.
    pub trouble: Option<Trouble>,
    /// What the token may do, as far as it was found out.
    pub breadth: Option<Breadth>,
    /// Why the last look at what it may do found nothing out.
    unseen: Option<Trouble>,
    /// The secret id that was in a wrapping token, for whoever keeps it encrypted: it cannot be had again.
    pub secret_id: Option<Arc<Secret>>,
}

impl Status {
    /// Whether there is a token.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.token.is_some()
    }

    /// Why nobody may use the token, where nothing was ever found out of what it may do.
    fn why_unknown(&self) -> Option<Trouble> {
        if self.breadth.is_some() { None } else { self.unseen.clone() }
    }

    /// Why there is no token, where it is known that the next moment brings none.
    fn why_not(&self) -> Option<Trouble> {
        match (&self.token, self.reason, &self.trouble) {
            (Some(_), ..) | (None, None | Some(NotLoggedIn::NotYet), None) => None,
            // What is refused gets a reason in a moment.
            (
                None,
                None | Some(NotLoggedIn::NotYet),
                Some(
                    Trouble::Refused { .. }
                    | Trouble::Forbidden { .. }
                    | Trouble::NotFound { .. }
                    | Trouble::InvalidToken { .. },
                ),
            ) => None,
            (None, None | Some(NotLoggedIn::NotYet), Some(trouble)) => Some(trouble.clone()),
            (None, Some(reason), _) => Some(Trouble::NotLoggedIn(reason)),
        }
    }
}

enum Command {
    Refused(u64),
    Replace(Box<Credentials>),
    Look,
}

struct Shared {
    transport: Transport,
    status: watch::Sender<Status>,
    commands: mpsc::Sender<Command>,
}

/// Calls Vault with the token of its session. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.0.transport).finish()
    }
}

/// Keeps the token. Runs until it is told to stop; without it there is none.
#[derive(Debug)]
pub struct Keeper {
    client: Client,
    clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Command>,
    credentials: Credentials,
    session: Session,
    /// The token that came with the last login, until the session takes it into use.
    pending: Option<Arc<Secret>>,
    /// The token that the session has taken into use, until it was looked at.
    adopted: Option<(u64, Arc<Secret>)>,
    /// What the token should be able to do, and in which mounts; without, its breadth is not looked at.
    narrow: Option<(Policy, Vec<Mount>)>,
    /// Other credentials came: what the token of those before may do says nothing about the next one.
    is_other: bool,
}

impl Client {
    /// A client, and the keeper of its token. With a policy, a token that may do more than it says is not used, nor one
    /// of which that could not be found out for the moment. One of which it is not provable is used.
    #[must_use]
    pub fn new(
        settings: Settings,
        credentials: Credentials,
        narrow: Option<(Policy, Vec<Mount>)>,
        clock: Arc<dyn Clock>,
    ) -> (Self, Keeper) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let transport = Transport::new(settings, clock.clone());
        transport.present(credentials.identity().cloned());
        let session = Session::new(credentials.means(), clock.now());
        let status = Status { reason: session.reason(), ..Status::default() };
        let (status, _) = watch::channel(status);
        let client = Self(Arc::new(Shared { transport, status, commands: sender }));
        let keeper = Keeper {
            client: client.clone(),
            clock,
            commands,
            credentials,
            session,
            pending: None,
            adopted: None,
            narrow,
            is_other: false,
        };
        (client, keeper)
    }

    /// How it stands, and every change of it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Other credentials, from now on. The token in use is used until they have brought another.
    pub async fn replace(&self, credentials: Credentials) {
        // Nobody listens when the keeper has ended, and then nobody needs credentials.
        let _ = self.0.commands.send(Command::Replace(Box::new(credentials))).await;
    }

    /// Looks soon at what the token may do, and not within the hour: it was changed in Vault.
    pub fn look_again(&self) {
        // When the queue is full, the keeper has enough to do that ends with a look.
        let _ = self.0.commands.try_send(Command::Look);
    }

    /// Asks Vault, with the token where one is needed. Waits for the token as long as for an answer. When Vault does
    /// not know the token, it is replaced and the call repeated, once.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn call(&self, request: &Request) -> Result<Answer, Trouble> {
        if !matches!(request.bearer, Bearer::Session) {
            return self.0.transport.send(request, None).await;
        }
        let mut refused = 0;
        loop {
            let (generation, token) = self.token(refused, request.is_own).await?;
            match self.0.transport.send(request, Some(&token)).await {
                Err(trouble) if trouble.remedy() == Remedy::LogIn => {
                    // When the queue is full, others have said so.
                    let _ = self.0.commands.try_send(Command::Refused(generation));
                    if refused > 0 {
                        return Err(trouble);
                    }
                    refused = generation;
                }
                answered => return answered,
            }
        }
    }

    /// Opens a wrapping token in which a secret id of `mount` lies. It cannot be opened twice: what comes out must be
    /// kept.
    ///
    /// # Errors
    /// When it was opened before, or something else lies in it.
    pub async fn unwrap(&self, mount: &Mount, wrapped: &Secret) -> Result<Unwrapped, Trouble> {
        let transport = &self.0.transport;
        login::check_wrapped(&transport.send(&login::look_into(wrapped), None).await?, mount)?;
        login::read_unwrapped(&transport.send(&login::unwrap(wrapped), None).await?)
    }

    /// Gives the token back, if there is one: it is good for nothing afterwards.
    async fn give_back(&self) {
        if self.0.status.borrow().is_logged_in()
            && !matches!(timeout(GIVE_BACK, self.call(&login::give_back())).await, Ok(Ok(_)))
        {
            tracing::debug!("a token was not given back, and ends by itself");
        }
    }

    /// A token that is newer than `refused`; or why there is none, as soon as that is known.
    async fn token(&self, refused: u64, is_own: bool) -> Result<(u64, Arc<Secret>), Trouble> {
        let mut status = self.0.status.subscribe();
        let ready = status.wait_for(|status| {
            let is_newer = status.token.is_some() && status.generation > refused;
            is_newer || status.why_not().is_some()
        });
        // When it takes too long, or nobody keeps the token any more, what is known by now must do. A login that took all
        // the time of an answer has said so by then.
        let _ = timeout(self.0.transport.timeout() + TO_SAY, ready).await;
        let status = self.0.status.borrow().clone();
        match (&status.token, &status.breadth) {
            (Some(_), Some(Breadth::Wide(surplus))) if !is_own => Err(Trouble::OverGranted(surplus.clone())),
            (Some(token), _) if status.generation > refused => match status.why_unknown() {
                Some(trouble) if !is_own => Err(trouble),
                _ => Ok((status.generation, Arc::clone(token))),
            },
            _ => {
                Err(status.why_not().or(status.trouble).unwrap_or(Trouble::NotLoggedIn(NotLoggedIn::NotYet)))
            }
        }
    }
}

impl Keeper {
    /// Logs in, renews, logs in again, and looks at what the token may do, until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.work() => {}
        }
    }

    /// As [`Keeper::run`], and gives the token back `grace` later, when the calls have ended that are under way with it.
    /// One that somebody gave is left as it is.
    pub async fn run_and_give_back(mut self, shutdown: CancellationToken, grace: Duration) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.work() => {}
        }
        if self.is_ours() {
            self.clock.sleep_until(self.clock.now() + grace).await;
            self.client.give_back().await;
        }
    }

    /// Keeps the token while `work` is done, and gives it back then. One that somebody gave is left as it is.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        let (client, is_ours) = (self.client.clone(), self.is_ours());
        let work = async {
            let done = work.await;
            if is_ours {
                client.give_back().await;
            }
            done
        };
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = self.work() => {}
        }
        work.await
    }

    /// Whether the token came by a login.
    fn is_ours(&self) -> bool {
        !matches!(self.credentials, Credentials::Token(_))
    }

    async fn work(&mut self) {
        loop {
            let clock = self.clock.clone();
            let event = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Refused(generation)) => Event::TokenRefused { generation, jitter: jitter() },
                    Some(Command::Replace(credentials)) => {
                        self.credentials = *credentials;
                        self.client.0.transport.present(self.credentials.identity().cloned());
                        self.is_other = true;
                        // It is of the credentials before.
                        self.publish(|status| status.secret_id = None);
                        Event::CredentialsChanged(self.credentials.means())
                    }
                    Some(Command::Look) => Event::BreadthWanted,
                    None => return,
                },
                () = until(&*clock, self.session.deadline()) => Event::Tick,
            };
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                let now = clock.now();
                let actions = self.session.step(event, now);
                let is_lost = actions.contains(&Action::Forget);
                if is_lost {
                    self.publish(|status| {
                        (status.token, status.trouble, status.unseen) = (None, None, None);
                    });
                }
                for action in actions {
                    events.extend(self.carry_out(action).await);
                }
                let (reason, ends, held) =
                    (self.session.reason(), self.session.ends(), self.session.is_held());
                self.publish(|status| {
                    status.ends = ends;
                    if !held {
                        status.reason = reason;
                    }
                });
            }
        }
    }

    fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.client.0.status.send_modify(change);
    }

    /// Does it; what came of it is the next event.
    async fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Unwrap => Some(self.unwrap().await),
            Action::Enter => Some(self.enter().await),
            Action::Renew => Some(self.renew().await),
            Action::CheckBreadth => {
                let event = self.check_breadth().await;
                self.look_at_secret_id().await;
                event
            }
            Action::Adopt { generation } => {
                tracing::info!(generation, method = self.credentials.word(), "logged in to Vault");
                // It is used when it is known what it may do: the session asks for that next.
                self.adopted = self.pending.take().map(|token| (generation, token));
                self.publish(|status| {
                    status.warnings.retain(Warning::is_about_secret_id);
                });
                None
            }
            Action::Forget => {
                tracing::info!("the token of Vault is not used any more");
                None
            }
            Action::Warn(warning) => {
                tracing::warn!(%warning, "session with Vault");
                self.publish(|status| {
                    if !status.warnings.contains(&warning) {
                        status.warnings.push(warning);
                    }
                });
                None
            }
            Action::Alarm(reason) => {
                tracing::error!(%reason, hint = reason.hint(), "no token of Vault");
                self.publish(|status| status.reason = Some(reason));
                None
            }
        }
    }

    /// Remembers what the matter was.
    fn note(&self, trouble: Option<Trouble>) {
        if let Some(trouble) = &trouble {
            tracing::warn!(code = trouble.code(), %trouble, "session with Vault");
        }
        self.publish(|status| status.trouble = trouble);
    }

    /// What the session makes of it.
    fn failure(&self, trouble: Trouble) -> Failure {
        let asked = trouble.retry_after().map(|after| after.from_now(self.clock.now()));
        let failure = match &trouble {
            Trouble::InvalidToken { .. } => Failure::InvalidToken,
            Trouble::NotVouched { .. } => Failure::NotVouched,
            Trouble::Refused { .. } | Trouble::Forbidden { .. } | Trouble::NotFound { .. } => {
                Failure::Refused
            }
            // A file may be there in a moment, a fault be over, and a certificate be replaced.
            _ => Failure::Transient(asked),
        };
        self.note(Some(trouble));
        failure
    }

    async fn unwrap(&mut self) -> Event {
        let Credentials::AppRole { mount, secret_id: SecretId::Wrapped(wrapped), .. } = &self.credentials
        else {
            return Event::Unwrapped { uses: None, ends: None };
        };
        match self.client.unwrap(mount, wrapped).await {
            Ok(unwrapped) => {
                let (uses, ends) = (unwrapped.uses, unwrapped.ends(self.clock.now()));
                let kept = Arc::new(unwrapped.secret_id.copy());
                if let Credentials::AppRole { secret_id, .. } = &mut self.credentials {
                    *secret_id = SecretId::Plain(unwrapped.secret_id);
                }
                self.publish(|status| status.secret_id = Some(kept));
                self.note(None);
                Event::Unwrapped { uses, ends }
            }
            Err(trouble) => Event::UnwrapFailed { failure: self.failure(trouble), jitter: jitter() },
        }
    }

    async fn enter(&mut self) -> Event {
        match self.try_enter().await {
            Ok(grant) => {
                self.note(None);
                Event::Entered { grant, jitter: jitter() }
            }
            Err(trouble) => Event::EnterFailed { failure: self.failure(trouble), jitter: jitter() },
        }
    }

    async fn try_enter(&mut self) -> Result<crate::Grant, Trouble> {
        let jwt = match self.credentials.token_file() {
            Some(file) => Some(read_secret(file, self.client.0.transport.timeout()).await?),
            None => None,
        };
        let given = match &self.credentials {
            Credentials::Token(token) => Some(token.clone()),
            _ => None,
        };
        // Kept before it is known to be good: it is, if Vault may not say.
        self.pending.clone_from(&given);
        let answer =
            self.client.0.transport.send(&self.credentials.enter(jwt.as_ref()), given.as_deref()).await;
        let answer = answer.map_err(|trouble| match (trouble, &self.credentials) {
            (Trouble::Forbidden { said }, Credentials::Kubernetes { .. }) => Trouble::NotVouched { said },
            (trouble, _) => trouble,
        })?;
        if given.is_some() {
            return read_lookup(&answer);
        }
        let (token, grant) = read_login(&answer)?;
        self.pending = Some(Arc::new(token));
        Ok(grant)
    }

    async fn renew(&mut self) -> Event {
        let token = self.client.0.status.borrow().token.clone();
        let renewed = match self.client.0.transport.send(&login::renew(), token.as_deref()).await {
            Ok(answer) => read_login(&answer),
            Err(trouble) => Err(trouble),
        };
        match renewed {
            Ok((_, grant)) => {
                self.note(None);
                Event::Renewed { grant, jitter: jitter() }
            }
            Err(trouble) => Event::RenewFailed { failure: self.failure(trouble), jitter: jitter() },
        }
    }

    /// Looks at what the token may do, hourly, and at a new one before it is used. When that cannot be found out for a
    /// moment, what is known of the last one, by the same credentials, stands; if that is nothing, nobody may use it.
    async fn check_breadth(&mut self) -> Option<Event> {
        let adopted = self.adopted.take();
        let current = self.client.0.status.borrow().token.clone();
        let looked = self
            .look(adopted.as_ref().map(|(_, token)| token).or(current.as_ref()).map(|token| &**token))
            .await;
        let (found, unseen) = match looked {
            Ok(found) => {
                if found.is_some() {
                    self.note(None);
                }
                (found, None)
            }
            // Another is got, and looked at.
            Err(trouble) if trouble.remedy() == Remedy::LogIn => {
                self.note(Some(trouble));
                let generation = self.session.generation();
                return Some(Event::TokenRefused { generation, jitter: jitter() });
            }
            Err(trouble) => {
                self.note(Some(trouble.clone()));
                (None, Some(trouble))
            }
        };
        let ends = self.session.ends();
        let is_unknown = unseen.is_some();
        let is_other = adopted.is_some() && std::mem::take(&mut self.is_other);
        self.publish(|status| {
            if let Some((generation, token)) = adopted {
                (status.generation, status.token, status.reason) = (generation, Some(token), None);
                status.ends = ends;
            }
            if is_other {
                status.breadth = None;
            }
            if let Some(found) = found {
                status.breadth = Some(found);
            }
            status.unseen = unseen;
        });
        let stands = self.client.0.status.borrow().breadth.is_some();
        is_unknown.then_some(Event::BreadthUnknown { stands })
    }

    /// Warns of a secret id that ends, or is used up, while it still works.
    async fn look_at_secret_id(&self) {
        let token = self.client.0.status.borrow().token.clone();
        let Some(request) = login::look_up_secret_id(&self.credentials) else { return };
        let answer = self.client.0.transport.send(&request, token.as_deref()).await;
        match answer.and_then(|answer| login::read_secret_id(&answer)) {
            Ok(found) => {
                for warning in &found {
                    tracing::warn!(%warning, "session with Vault");
                }
                self.publish(|status| {
                    status.warnings.retain(|one| !one.is_about_secret_id());
                    status.warnings.extend(found);
                });
            }
            // It is a convenience: who does not allow it hears of it when the secret id has ended.
            Err(trouble) => tracing::debug!(code = trouble.code(), "the secret id cannot be looked up"),
        }
    }

    /// What the token may do. `None`: nobody asked, or there is no token.
    async fn look(&self, token: Option<&Secret>) -> Result<Option<Breadth>, Trouble> {
        let (Some((policy, mounts)), Some(token)) = (&self.narrow, token) else { return Ok(None) };
        let transport = &self.client.0.transport;
        let namespace = transport.namespace();
        let acl = Request::get("sys/internal/ui/resultant-acl".to_owned()).own();
        let why = match transport.send(&acl, Some(token)).await {
            Ok(answer) => match answer.data::<Value>().map(|acl| judge_acl(&acl, policy, namespace)) {
                Ok(Ok(breadth)) => return Ok(Some(self.say(breadth))),
                Ok(Err(why)) => why,
                Err(trouble) => trouble.to_string(),
            },
            Err(
                trouble @ (Trouble::Forbidden { .. } | Trouble::NotFound { .. } | Trouble::Refused { .. }),
            ) => trouble.to_string(),
            Err(trouble) => return Err(trouble),
        };
        let asked = probes(policy, &mounts.iter().collect::<Vec<_>>());
        let body = Body::default().json("paths", &asked);
        let request = Request::post("sys/capabilities-self".to_owned(), body).repeatable().own();
        let breadth = match transport.send(&request, Some(token)).await {
            Ok(answer) => judge_probes(&answer, &asked, policy, &why),
            Err(
                trouble @ (Trouble::Forbidden { .. } | Trouble::NotFound { .. } | Trouble::Refused { .. }),
            ) => Err(trouble.to_string()),
            Err(trouble) => return Err(trouble),
        };
        let unknown = |why| Breadth::NotProvable { why, probed: 0, missing: Vec::new() };
        Ok(Some(self.say(breadth.unwrap_or_else(unknown))))
    }

    fn say(&self, breadth: Breadth) -> Breadth {
        if self.client.0.status.borrow().breadth.as_ref() != Some(&breadth) {
            match &breadth {
                Breadth::Narrow { missing } if missing.is_empty() => {}
                Breadth::Narrow { missing } => {
                    tracing::warn!(paths = missing.join(", "), "the token of Vault lacks rights");
                }
                Breadth::Wide(surplus) => {
                    let paths: Vec<String> = surplus.iter().map(ToString::to_string).collect();
                    tracing::error!(
                        paths = paths.join(", "),
                        "the token of Vault may do more than it should"
                    );
                }
                Breadth::NotProvable { why, .. } => {
                    tracing::warn!(%why, "what the token of Vault may do is not provable");
                }
            }
        }
        breadth
    }
}

async fn until(clock: &dyn Clock, deadline: Option<certs::Timestamp>) {
    match deadline {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn jitter() -> Jitter {
    Jitter::new(rand::random())
}

/// Reads a token, a secret id or a JWT from a regular file, which nobody has longer than `limit` for.
///
/// # Errors
/// [`Trouble::File`], which does not say what stands in it.
pub async fn read_secret(path: &Path, limit: Duration) -> Result<Secret, Trouble> {
    let bytes = file::read(path, MAX_SECRET + 1, limit).await?;
    Secret::parse(bytes).map_err(|error| Trouble::File { file: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests;
