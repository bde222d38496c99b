//! The shell: signs what is asked with a nonce of the server, reads what comes back, and carries out what an
//! [`Order`](crate::Order) wants done.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use certs::{Chain, Clock, Signer, Timestamp};
use serde_json::{Value, json};
use thiserror::Error;

use crate::{
    AccountFound, Action, Answered, Ask, AuthorizationBody, CertificateId, Directory, Event, ExternalAccount,
    Identifier, Jitter, Names, Order, OrderBody, OrderStatus, PUBLISH_WITHIN, Pace, Presented, ProblemKind,
    RenewalEvent, Reply, Saved, Settings, Trouble, Url, Window,
    answer::{judge, read_orders},
    jws::{By, encode, key_change, sign},
    transport::{Sent, Transport},
};

/// How often one request is signed anew because the server did not know its nonce. With each refusal it gives another
/// nonce: where half of all are refused, one request in a million fails.
pub const MAX_NONCE_TRIES: usize = 20;
/// How many nonces are kept.
const MAX_NONCES: usize = 8;
/// How long one request of an order has, with all that belongs to it: a connection, a nonce, what is signed again. A
/// search of the account's list is many requests, and has longer.
const ASK_WITHIN: Duration = Duration::from_secs(120);
const SEARCH_WITHIN: Duration = Duration::from_secs(600);
/// How long a directory is believed.
const DIRECTORY_LIFE: Duration = Duration::from_secs(3600);
/// The most pages of an account's list of orders that are read.
const MAX_PAGES: usize = 64;
/// The most orders that are looked at, in search of one.
const MAX_LOOKED_AT: usize = 64;

/// What a new account is made with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Registration<'a> {
    /// Whom the server may write to: `mailto:ops@example.com`.
    pub contacts: &'a [String],
    /// The terms that were agreed to, by the URL that the directory names.
    pub agreed: Option<&'a str>,
    /// An account with who runs the server, where it wants one.
    pub external: Option<&'a ExternalAccount>,
}

/// An account of ours: by what the server knows it, and its key.
#[derive(Debug, Clone)]
pub struct Account {
    /// By what the server knows it.
    pub url: Url,
    /// Signs for it.
    pub signer: Arc<dyn Signer>,
}

/// Which of two keys opens an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// The old one: the change did not happen.
    Old,
    /// The new one: it did.
    New,
    /// Neither: the account is gone, or has a third key.
    Neither,
}

/// What was to be stored could not be, so that nothing that needs it was done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the state of the order was not stored: {0}")]
pub struct NotKept(pub String);

/// Who stores and publishes what an order needs.
#[async_trait]
pub trait Desk: Send + Sync {
    /// Stores it.
    ///
    /// # Errors
    /// When it is not stored; then the order does not go on.
    async fn keep(&self, saved: &Saved) -> Result<(), String>;

    /// Publishes all of these, and comes back when everybody who should has done so. Some may be published already.
    ///
    /// # Errors
    /// When somebody cannot.
    async fn publish(&self, presented: &[Presented]) -> Result<(), String>;

    /// Publishes these no more, and comes back when nobody does. They may not be published at all. Each is taken out of
    /// `presented` when that is known of it, so that it is known also where this is stopped half-way.
    ///
    /// # Errors
    /// When somebody may still; it is asked again for those that are left.
    async fn withdraw(&self, presented: &mut Vec<Presented>) -> Result<(), String>;

    /// Is told that it failed, and when it is tried again.
    fn report(&self, trouble: &Trouble, again: Timestamp);

    /// Is told what the server is waited for, whenever something happened: see [`Order::waits_for`].
    fn waits(&self, _what: Option<&'static str>) {}

    /// Comes back when somebody has changed something, and it should be tried now.
    async fn hurried(&self) {
        std::future::pending().await
    }
}

/// Somebody must know of each: nobody but an operator takes it away any more.
pub fn given_up(all: &[Presented]) {
    for one in all {
        let (kind, name, value) = (one.kind, one.record_name(), one.record_value());
        tracing::warn!(%kind, name, value, "what could not be withdrawn is not tried again: too much is left over");
    }
}

/// Speaks to one ACME server.
pub struct Client {
    directory: Url,
    transport: Transport,
    clock: Arc<dyn Clock>,
    nonces: Mutex<Vec<String>>,
    known: Mutex<Option<(Timestamp, Arc<Directory>)>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Client {
    /// For the server of these settings. Nothing is sent yet.
    #[must_use]
    pub fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Self {
        Self {
            directory: settings.directory.clone(),
            transport: Transport::new(settings, clock.clone()),
            clock,
            nonces: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// What the server offers; read again after an hour.
    ///
    /// # Errors
    /// See [`Trouble`]; [`Trouble::NotAcme`] where there is no directory.
    pub async fn directory(&self) -> Result<Arc<Directory>, Trouble> {
        let now = self.clock.now();
        if let Some((read, directory)) = &*lock(&self.known)
            && now.since(*read) < DIRECTORY_LIFE
        {
            return Ok(directory.clone());
        }
        let reply = self.transport.ask(&self.directory, &Sent::Get).await?;
        let directory = Arc::new(Directory::read(&reply, &self.directory)?);
        *lock(&self.known) = Some((now, directory.clone()));
        Ok(directory)
    }

    /// Makes an account for a key, or finds the one that it has.
    ///
    /// # Errors
    /// [`Trouble::TermsNotAgreed`] and [`Trouble::ExternalAccountNeeded`] before anything is sent, and see [`Trouble`].
    pub async fn register(
        &self,
        signer: &dyn Signer,
        registration: &Registration<'_>,
    ) -> Result<AccountFound, Trouble> {
        let directory = self.directory().await?;
        if let Some(terms) = &directory.terms
            && registration.agreed != Some(terms.as_str())
        {
            return Err(Trouble::TermsNotAgreed { terms: terms.clone() });
        }
        if directory.is_external_account_required && registration.external.is_none() {
            return Err(Trouble::ExternalAccountNeeded);
        }
        let mut payload = json!({ "termsOfServiceAgreed": registration.agreed.is_some() });
        if !registration.contacts.is_empty() {
            payload["contact"] = registration.contacts.into();
        }
        if let Some(external) = registration.external {
            payload["externalAccountBinding"] = external.bind(signer.public(), &directory.new_account);
        }
        let reply = self.post(&directory.new_account, signer, By::Key, Some(&payload)).await?;
        AccountFound::read(&reply, &self.directory)
    }

    /// The account that a key has, if it has one. None is made.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn find(&self, signer: &dyn Signer) -> Result<Option<AccountFound>, Trouble> {
        let directory = self.directory().await?;
        let payload = json!({ "onlyReturnExisting": true });
        match self.post(&directory.new_account, signer, By::Key, Some(&payload)).await {
            Ok(reply) => AccountFound::read(&reply, &self.directory).map(Some),
            Err(trouble) if trouble.kind() == Some(ProblemKind::AccountDoesNotExist) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Gives an account another key, which the caller has stored before: a kill leaves an account that one of the two
    /// opens, and [`Client::opens`] finds out which.
    ///
    /// # Errors
    /// [`Trouble::Unsupported`] where the server cannot, and see [`Trouble`]. After any other error too, ask
    /// [`Client::opens`].
    pub async fn change_key(&self, account: &Account, new: &dyn Signer) -> Result<(), Trouble> {
        let directory = self.directory().await?;
        let url = directory.key_change.as_ref().ok_or(Trouble::Unsupported("change of an account's key"))?;
        let inner = key_change(new, &account.url, account.signer.public(), url).map_err(unsigned)?;
        self.post(url, &*account.signer, By::Account(&account.url), Some(&inner)).await?;
        // Said, and not done: then the old key must not be thrown away.
        match self.find(new).await? {
            Some(found) if found.url == account.url => Ok(()),
            _ => Err(Trouble::not_acme(200, "the key was said to be changed, and is not")),
        }
    }

    /// Which of two keys opens an account.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn opens(&self, account: &Url, old: &dyn Signer, new: &dyn Signer) -> Result<Opens, Trouble> {
        // The new one again, which may have been taken while the old one was asked for.
        for (signer, which) in [(new, Opens::New), (old, Opens::Old), (new, Opens::New)] {
            if self.find(signer).await?.is_some_and(|found| found.url == *account) {
                return Ok(which);
            }
        }
        Ok(Opens::Neither)
    }

    /// When the server wants a certificate to be renewed.
    ///
    /// # Errors
    /// When it cannot be asked: see [`RenewalEvent::of`].
    pub async fn renewal(&self, id: &CertificateId) -> Result<RenewalEvent, Trouble> {
        let directory = self.directory().await?;
        let Some(base) = &directory.renewal_info else { return Ok(RenewalEvent::Absent) };
        let text = format!("{}/{id}", base.as_str().trim_end_matches('/'));
        let url = self.directory.named(&text).map_err(|error| Trouble::not_acme(200, error.to_string()))?;
        let reply = self.transport.ask(&url, &Sent::Get).await?;
        Ok(RenewalEvent::Told { window: Window::read(&reply)?, retry_after: reply.retry_after() })
    }

    /// The orders of an account, by their URLs, as far as the server lists them: the first thousands.
    ///
    /// # Errors
    /// [`Trouble::Unsupported`] where it lists none, and see [`Trouble`].
    pub async fn orders(&self, account: &Account) -> Result<Vec<Url>, Trouble> {
        let reply = self.read(account, &account.url).await?;
        let found = AccountFound::read_at(&reply, account.url.clone(), &self.directory)?;
        let mut next = found.orders;
        if next.is_none() {
            return Err(Trouble::Unsupported("list of an account's orders"));
        }
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { break };
            let (orders, after) = read_orders(&self.read(account, &url).await?, &self.directory)?;
            all.extend(orders);
            next = after;
        }
        Ok(all)
    }

    /// One order.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn order(&self, account: &Account, url: &Url) -> Result<OrderBody, Trouble> {
        OrderBody::read(&self.read(account, url).await?, &self.directory)
    }

    /// Carries an order out until there is a certificate, waiting and trying again as it says. May be dropped at any
    /// time, and gone on with by an [`Order`] of what was stored. `csr` is the request (PKCS#10, DER) of the key and
    /// names of the order.
    ///
    /// # Errors
    /// When what must be stored is not.
    pub async fn obtain(
        &self,
        account: &Account,
        order: &mut Order,
        csr: &[u8],
        desk: &dyn Desk,
    ) -> Result<Chain, NotKept> {
        let mut events = VecDeque::from([Event::Tick]);
        loop {
            let event = match events.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                    () = self.until(order.deadline()) => Event::Tick,
                    () = desk.hurried() => Event::Hurry,
                },
            };
            for action in order.step(event, jitter(), self.clock.now()) {
                match action {
                    Action::Keep(saved) => desk.keep(&saved).await.map_err(NotKept)?,
                    Action::Ask(ask) => events.push_back(Box::pin(self.ask(account, &ask, csr)).await),
                    Action::Publish(all) => events.push_back(tokio::select! {
                        done = desk.publish(&all) => done.map_or_else(Event::NotPublished, |()| Event::Published),
                        () = self.until(Some(self.clock.now() + PUBLISH_WITHIN)) => Event::Tick,
                    }),
                    Action::Withdraw(mut all) => {
                        let is_done = tokio::select! {
                            done = desk.withdraw(&mut all) => done.is_ok(),
                            () = self.until(Some(self.clock.now() + PUBLISH_WITHIN)) => false,
                        };
                        events.push_back(if is_done { Event::Withdrawn } else { Event::NotWithdrawn(all) });
                    }
                    Action::GiveUp(all) => given_up(&all),
                    Action::Report { trouble, again } => {
                        tracing::warn!(code = trouble.code(), %trouble, %again, "an ACME order failed");
                        desk.report(&trouble, again);
                    }
                    Action::Obtained(chain) => return Ok(chain),
                }
            }
            // An answer that is looked at next says more.
            if events.is_empty() {
                desk.waits(order.waits_for());
            }
        }
    }

    async fn until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// One request of an order, and what came of it: within two minutes, a search within ten.
    pub async fn ask(&self, account: &Account, ask: &Ask, csr: &[u8]) -> Event {
        let limit = if matches!(ask, Ask::FindOrder { .. }) { SEARCH_WITHIN } else { ASK_WITHIN };
        let late = self.until(Some(self.clock.now() + limit));
        let answer = tokio::select! {
            answer = Box::pin(self.answer(account, ask, csr)) => answer,
            // It may have been sent.
            () = late => Err(Trouble::Lost {
                origin: self.directory.origin(),
                reason: format!("nothing within {} s", limit.as_secs()),
            }),
        };
        answer.map_or_else(Event::Failed, |answered| Event::Answered(Box::new(answered)))
    }

    async fn answer(&self, account: &Account, ask: &Ask, csr: &[u8]) -> Result<Answered, Trouble> {
        let by = By::Account(&account.url);
        match ask {
            Ask::FindOrder { names, profile } => {
                self.find_order(account, names, profile.as_deref()).await.map(Answered::Found)
            }
            Ask::NewOrder { names, profile, replaces } => {
                let directory = self.directory().await?;
                let payload = new_order(&directory, names, profile.as_deref(), replaces.as_deref())?;
                let reply = self.post(&directory.new_order, &*account.signer, by, Some(&payload)).await?;
                Ok(Answered::Made {
                    url: reply.location(&self.directory)?,
                    body: OrderBody::read(&reply, &self.directory)?,
                    retry_after: reply.retry_after(),
                })
            }
            Ask::Order(url) => self.read_order(&self.read(account, url).await?),
            Ask::Authorization(url) => {
                let reply = self.read(account, url).await?;
                let body = AuthorizationBody::read(&reply, &self.directory)?;
                Ok(Answered::Authorization { body, retry_after: reply.retry_after() })
            }
            Ask::Challenge(url) => {
                let reply = self.post(url, &*account.signer, by, Some(&json!({}))).await?;
                Ok(Answered::Told { retry_after: reply.retry_after() })
            }
            Ask::Finalize(url) => {
                let payload = json!({ "csr": encode(csr) });
                self.read_order(&self.post(url, &*account.signer, by, Some(&payload)).await?)
            }
            Ask::Certificate(url) => {
                let reply = self.read(account, url).await?;
                let alternates = reply.links("alternate", &self.directory);
                Ok(Answered::Certificate { pem: reply.body, alternates })
            }
        }
    }

    fn read_order(&self, reply: &Reply) -> Result<Answered, Trouble> {
        let body = OrderBody::read(reply, &self.directory)?;
        Ok(Answered::Order { body, retry_after: reply.retry_after() })
    }

    /// One of these names and this profile that can still become something.
    async fn find_order(
        &self,
        account: &Account,
        names: &Names,
        profile: Option<&str>,
    ) -> Result<Option<(Url, OrderBody)>, Trouble> {
        let all = match self.orders(account).await {
            Err(Trouble::Unsupported(_)) => return Ok(None),
            all => all?,
        };
        for url in all.into_iter().rev().take(MAX_LOOKED_AT) {
            let body = match self.order(account, &url).await {
                Ok(body) => body,
                // It is gone, or nothing that we can read: the one that is looked for may be another.
                Err(trouble) if is_passed_over(&trouble) => continue,
                Err(trouble) => return Err(trouble),
            };
            let is_open = matches!(body.status, OrderStatus::Pending | OrderStatus::Ready)
                && body.expires.is_none_or(|expires| self.clock.now() < expires);
            if is_open && names.is_exactly(&body.names) && body.may_be_by(profile) {
                return Ok(Some((url, body)));
            }
        }
        Ok(None)
    }

    /// POST-as-GET (RFC 8555 6.3).
    async fn read(&self, account: &Account, url: &Url) -> Result<Reply, Trouble> {
        self.post(url, &*account.signer, By::Account(&account.url), None).await
    }

    /// Signs and sends. A refused nonce means that nothing was done, so that it is signed again with another.
    async fn post(
        &self,
        url: &Url,
        signer: &dyn Signer,
        by: By<'_>,
        payload: Option<&Value>,
    ) -> Result<Reply, Trouble> {
        let mut tries = 0;
        loop {
            let nonce = self.nonce().await?;
            let jws = sign(signer, by, Some(&nonce), url, payload).map_err(unsigned)?;
            let reply = self.transport.send(url, &Sent::Jws(jws.to_string().into())).await?;
            let fresh = reply.nonce().map(str::to_owned);
            let judged = judge(reply, url);
            let is_refused = matches!(&judged, Err(trouble) if trouble.kind() == Some(ProblemKind::BadNonce));
            self.put_nonce(fresh, is_refused);
            tries += 1;
            if !is_refused || tries == MAX_NONCE_TRIES {
                return judged;
            }
        }
    }

    async fn nonce(&self) -> Result<String, Trouble> {
        if let Some(nonce) = lock(&self.nonces).pop() {
            return Ok(nonce);
        }
        let directory = self.directory().await?;
        let reply = self.transport.ask(&directory.new_nonce, &Sent::Head).await?;
        let nonce = reply.nonce().map(str::to_owned);
        nonce.ok_or_else(|| Trouble::not_acme(reply.status, "the server gives no nonce"))
    }

    /// When one was refused, those that came before are no better.
    fn put_nonce(&self, fresh: Option<String>, is_refused: bool) {
        let mut nonces = lock(&self.nonces);
        if is_refused {
            nonces.clear();
        }
        if nonces.len() < MAX_NONCES {
            nonces.extend(fresh);
        }
    }
}

/// The payload of a new order, if the server can take it.
fn new_order(
    directory: &Directory,
    names: &Names,
    profile: Option<&str>,
    replaces: Option<&str>,
) -> Result<Value, Trouble> {
    let name = |one: &Identifier| json!({ "type": one.kind(), "value": one.to_string() });
    let mut payload = json!({ "identifiers": names.as_slice().iter().map(name).collect::<Vec<_>>() });
    if let Some(profile) = profile {
        if !directory.profiles.contains_key(profile) {
            let offered = directory.profiles.keys().cloned().collect();
            return Err(Trouble::NoSuchProfile { profile: profile.to_owned(), offered });
        }
        payload["profile"] = profile.into();
    }
    // Only a server with a renewal service knows what it means (RFC 9773 5).
    if let Some(replaces) = replaces.filter(|_| directory.renewal_info.is_some()) {
        payload["replaces"] = replaces.into();
    }
    Ok(payload)
}

/// Whether nothing is to be had of one order of a list, whatever becomes of the others.
fn is_passed_over(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::NotAcme { status, .. } => *status < 500,
        Trouble::Problem { status, retry_after, .. } => {
            (400..500).contains(status)
                && retry_after.is_none()
                && matches!(trouble.pace(), Pace::Validation | Pace::Operator)
        }
        _ => false,
    }
}

fn unsigned(error: certs::SignError) -> Trouble {
    Trouble::Sign(error.to_string())
}

fn jitter() -> Jitter {
    Jitter::new(rand::random())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use certs::{KeyKind, ManualClock, SecretKey, SoftwareSigner};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_request_of_an_order_ends_in_time_whatever_the_server_and_the_settings_do() {
        let url = |text: &str| Url::parse_insecure_loopback(text).unwrap();
        let signer = Arc::new(SoftwareSigner::try_new(&SecretKey::generate(KeyKind::P256)).unwrap());
        let names = Names::try_new(vec![Identifier::parse("a.example").unwrap()]).unwrap();
        for (is_search, limit) in [(false, ASK_WITHIN), (true, SEARCH_WITHIN)] {
            // It takes the connection, and says nothing.
            let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let origin = format!("http://{}", silent.local_addr().unwrap());
            let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
            let settings = Settings {
                timeout: Duration::from_secs(24 * 3600),
                ..Settings::new(url(&format!("{origin}/dir")), "none.pem".into())
            };
            let client = Client::new(&settings, Arc::new(clock.clone()));
            let account = Account { url: url(&format!("{origin}/account")), signer: signer.clone() };
            let ask = if is_search {
                Ask::FindOrder { names: names.clone(), profile: None }
            } else {
                Ask::Order(url(&format!("{origin}/order")))
            };
            let mut asking = Box::pin(client.ask(&account, &ask, &[]));
            let _held = tokio::select! {
                event = &mut asking => panic!("{event:?}"),
                accepted = silent.accept() => accepted.unwrap(),
            };
            clock.advance(limit - Duration::from_secs(1));
            let early = tokio::select! {
                biased;
                event = &mut asking => Some(event),
                () = std::future::ready(()) => None,
            };
            assert_eq!(early, None);
            clock.advance(Duration::from_secs(1));
            let reason = format!("nothing within {} s", limit.as_secs());
            assert_eq!(asking.await, Event::Failed(Trouble::Lost { origin, reason }));
        }
    }
}
