//! What is done for one edge, for as long as there is one: order, show, wait until it is renewed, order again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use acme::{
    CertificateId, ChallengeKind, Desk, Identifier, Jitter, MAX_PRESENTED, Names, NotKept, Order, Pace,
    Presented, Renewal, RenewalAction, RenewalEvent, Saved, Trouble, Wanted, hint_about,
};
use api::{
    calls::configs::Which,
    ports::{DnsPublisher, EdgeChallenge, EdgeWork, KeptEdge, MAX_EDGE_TEXT, StoreError},
    sources::EdgeStanding,
};
use async_trait::async_trait;
use audit::{Action, Actor, Event};
use certs::{Chain, KeyKind, SecretKey, SoftwareSigner, Timestamp, request_for_names};
use futures::FutureExt;
use rand::seq::SliceRandom;
use spiffe::IssuerName;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use xds::{
    TypeUrl,
    translate::{ChallengeText, EDGE_FETCH_TIMEOUT},
};

use super::{
    super::accounts::Opened,
    EdgeKey, Inputs,
    bulletin::{Pair, Shown},
    changed,
    gate::{self, Proxy, Verdict},
    publisher::{Deed, Publisher},
    record::{Next, Record, write},
    turns::{Held, Turn},
};

/// When an edge is tried again that could not even begin: its issuer is not there, or the store does not commit.
const RETRY: Duration = Duration::from_secs(60);
/// How often proxies are looked at while they take a challenge.
const LOOK: Duration = Duration::from_millis(200);

/// How long proxies and name servers have to take a challenge: a little less than an order waits, so that it is known who is late.
const PATIENCE: Duration = Duration::from_secs(55);

/// What is being done while an order waits for nobody but us.
const ORDERING: &str = "ordering";

/// When what an order that is over left published is withdrawn again, after that failed.
const CLEAR_AGAIN: Duration = Duration::from_secs(3600);

/// How long that may take: whoever waits for a certificate waits for this as well.
const CLEAR_WITHIN: Duration = Duration::from_secs(60);

/// How much of that is kept account of, in octets: half of what the store takes.
const MAX_LEFT_OVER: usize = MAX_EDGE_TEXT / 2;

/// One edge at work.
pub(super) struct Duty {
    pub(super) key: EdgeKey,
    pub(super) inputs: Arc<Inputs>,
    /// Somebody wants it now.
    pub(super) hurry: Arc<Notify>,
    /// It is wanted now, and there is no order yet that would say so.
    pub(super) is_hurried: AtomicBool,
    /// What is left over is not withdrawn before.
    pub(super) clear_after: StdMutex<Timestamp>,
}

/// Why a turn ended early.
enum Halt {
    /// In words; it is tried again.
    Problem(String),
    /// The record in hand is not the one that is stored.
    Stale,
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } | StoreError::NotFound { .. } => Self::Stale,
            other => Self::Problem(format!("it cannot be stored: {other}")),
        }
    }
}

impl Duty {
    /// Until `stop`, when the edge is gone: what it published elsewhere is withdrawn then. Of what proxies show, nothing
    /// is left by whoever stopped it.
    pub(super) async fn run(self, mut record: Record, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.work(&mut record) => {}
        }
        if !matches!(record.edge().settings.challenge, EdgeChallenge::Dns01 { .. }) {
            return;
        }
        let mut left = record.leftover();
        left.extend(record.saved().into_iter().flat_map(|saved| saved.presented));
        if left.is_empty() {
            return;
        }
        if let Err(why) = self.withdraw(&record, &mut left).await {
            tracing::warn!(edge = %self.key.1, why, "what a removed edge published was not withdrawn");
        }
    }

    /// Ends by itself when the edge is gone.
    async fn work(&self, record: &mut Record) {
        loop {
            let mut changes = self.inputs.issuer_changes();
            match self.turn(record).await {
                Ok(()) => {}
                Err(Halt::Problem(why)) => {
                    self.withdraw_overdue(record).await;
                    let again = self.inputs.clock.now() + RETRY;
                    tracing::warn!(edge = %self.key.1, why, %again, "an edge is not served");
                    self.inputs.standing(&self.key, |standing| {
                        standing.doing.clear();
                        standing.failures = standing.failures.saturating_add(1);
                        standing.problem = Some(why);
                        standing.next = Some(again);
                    });
                    tokio::select! {
                        () = self.inputs.clock.sleep_until(again) => {}
                        () = self.hurry.notified() => {}
                        () = changed(&mut changes) => {}
                    }
                }
                Err(Halt::Stale) => match self.reread(record).await {
                    Some(kept) => *record = Record::new(kept),
                    None => return,
                },
            }
        }
    }

    /// The record as it is stored; `None` when it is gone, or another edge has its name.
    async fn reread(&self, before: &Record) -> Option<KeptEdge> {
        loop {
            match self.inputs.store.edges().await {
                Ok(all) => {
                    let is_it =
                        |one: &KeptEdge| (&one.edge.tenant, &one.edge.name) == (&self.key.0, &self.key.1);
                    let found = all.into_iter().find(is_it);
                    return found.filter(|one| one.edge.created == before.edge().created);
                }
                Err(error) => {
                    tracing::warn!(%error, edge = %self.key.1, "an edge was not read");
                    self.inputs.clock.sleep_until(self.inputs.clock.now() + RETRY).await;
                }
            }
        }
    }

    /// Proxies show the certificate that there is.
    pub(super) async fn show(&self, record: &Record) {
        let created = record.edge().created;
        let pair = record.edge().certificate.as_ref().zip(record.key());
        let pair = pair.map(|(held, key)| Pair { chain: held.chain.clone(), key: key.duplicate() });
        let shown = self.inputs.bulletin.update(&self.key, created, |shown| shown.certificate = pair).await;
        if let Err(why) = shown {
            tracing::debug!(edge = %self.key.1, why, "an edge is not shown: the configuration has ended");
        }
    }

    /// Waits until the certificate is to be renewed, if there is one, and obtains the next.
    async fn turn(&self, record: &mut Record) -> Result<(), Halt> {
        self.clear_away(record).await?;
        let is_ordered = record.work().order.is_some();
        let is_wanted = is_ordered || self.is_hurried.load(Ordering::Relaxed);
        if !is_wanted && record.edge().certificate.is_some() {
            self.await_renewal(record).await?;
        }
        self.obtain(record).await
    }

    /// When what orders that are over left behind is withdrawn again, if there is any.
    fn clear_at(&self, record: &Record) -> Option<Timestamp> {
        let after = *super::lock(&self.clear_after);
        (!record.leftover().is_empty()).then_some(after)
    }

    /// Withdraws what orders that are over may have left behind; what cannot be withdrawn holds nothing up, and is tried
    /// again after [`CLEAR_AGAIN`].
    async fn clear_away(&self, record: &mut Record) -> Result<(), Halt> {
        let clock = &self.inputs.clock;
        if self.clear_at(record).is_none_or(|at| clock.now() < at) {
            return Ok(());
        }
        *super::lock(&self.clear_after) = clock.now() + CLEAR_AGAIN;
        let leftover = record.leftover();
        let mut left = leftover.clone();
        // Not always in the same order: where some take all the time that there is, others come next time.
        left.shuffle(&mut rand::rng());
        let withdrawn = tokio::time::timeout(CLEAR_WITHIN, self.withdraw(record, &mut left)).await;
        let late = || Err(format!("not all of it within {} s", CLEAR_WITHIN.as_secs()));
        if let Err(why) = withdrawn.unwrap_or_else(|_| late()) {
            let count = left.len();
            tracing::warn!(edge = %self.key.1, why, count, "what an order published is still there");
        }
        if left.is_empty() {
            *super::lock(&self.clear_after) = Timestamp::EPOCH;
        } else if left.len() == leftover.len() {
            return Ok(());
        }
        let still: Vec<Presented> = leftover.into_iter().filter(|one| left.contains(one)).collect();
        let work = EdgeWork { leftover: written(&still), ..record.work().clone() };
        self.put(record, Next { work, ..self.same_key(record) }, "withdrawn").await
    }

    /// What must not stay published longer, though nobody goes on with its order now: once, and whoever goes on publishes
    /// it anew.
    async fn withdraw_overdue(&self, record: &mut Record) {
        let Some(mut saved) = record.saved() else { return };
        let until = saved.presented_at.map_or(Timestamp::EPOCH, |at| at + MAX_PRESENTED);
        if saved.presented.is_empty() || self.inputs.clock.now() < until {
            return;
        }
        let before = saved.presented.len();
        if let Err(why) = self.withdraw(record, &mut saved.presented).await {
            tracing::warn!(edge = %self.key.1, why, "what an order published is still there");
        }
        if saved.presented.len() == before {
            return;
        }
        if saved.presented.is_empty() {
            saved.presented_at = None;
        }
        let work = EdgeWork { order: write(&saved), ..record.work().clone() };
        if self.put(record, Next { work, ..self.same_key(record) }, "withdrawn").await.is_err() {
            tracing::warn!(edge = %self.key.1, "that an order publishes nothing any more is not kept");
        }
    }

    async fn await_renewal(&self, record: &mut Record) -> Result<(), Halt> {
        let clock = &self.inputs.clock;
        let Some(leaf) = record.edge().certificate.as_ref().map(|held| held.chain.leaf().clone()) else {
            return Ok(());
        };
        let fresh = || Renewal::new(&leaf, Jitter::new(rand::random()), clock.now());
        let mut renewal = record.renewal().unwrap_or_else(fresh);
        let mut event = RenewalEvent::Tick;
        loop {
            let mut answer = None;
            for action in renewal.step(event, clock.now()) {
                match action {
                    RenewalAction::Keep => {
                        let work = EdgeWork { renewal: write(&renewal), ..record.work().clone() };
                        self.put(record, Next { work, ..self.same_key(record) }, "renewal").await?;
                    }
                    RenewalAction::Ask => answer = Some(self.ask_for_window(record, &leaf).await),
                    RenewalAction::Renew => return Ok(()),
                }
            }
            if renewal.is_due() {
                return Ok(());
            }
            self.inputs.standing(&self.key, |standing| {
                standing.doing.clear();
                standing.failures = 0;
                standing.problem = None;
                standing.next = Some(renewal.at());
            });
            let clear_at = self.clear_at(record);
            event = match answer {
                Some(answer) => answer,
                None => tokio::select! {
                    () = self.until(renewal.deadline()) => RenewalEvent::Tick,
                    () = self.until(clear_at) => {
                        self.clear_away(record).await?;
                        RenewalEvent::Tick
                    }
                    () = self.hurry.notified() => {
                        self.is_hurried.store(true, Ordering::Relaxed);
                        return Ok(());
                    }
                },
            };
        }
    }

    /// When the server wants the certificate to be renewed.
    async fn ask_for_window(&self, record: &Record, leaf: &certs::Certificate) -> RenewalEvent {
        let Some(id) = CertificateId::of(leaf) else { return RenewalEvent::Absent };
        let opened = match self.inputs.accounts.open(&record.edge().settings.issuer).await {
            Ok(opened) => opened,
            Err(why) => {
                tracing::debug!(edge = %self.key.1, why, "nobody can be asked when to renew");
                return RenewalEvent::Failed { retry_after: None };
            }
        };
        match opened.client.renewal(&id).await {
            Ok(event) => event,
            Err(trouble) => {
                tracing::info!(edge = %self.key.1, %trouble, "the server does not say when to renew");
                RenewalEvent::of(&trouble)
            }
        }
    }

    /// Its turn to order these names, which comes after the pause of an order that failed, if somebody else has it: who
    /// has nothing to do now keeps nobody waiting. `None` when the account is another now.
    async fn await_turn(
        &self,
        turn: &Turn,
        record: &mut Record,
        opened: &Opened,
        changes: &mut watch::Receiver<u64>,
    ) -> Option<Held> {
        if let Some(held) = turn.try_take() {
            return Some(held);
        }
        self.withdraw_overdue(record).await;
        let doing = "waits for its turn: another edge orders the same names from this issuer";
        self.inputs.standing(&self.key, |standing| doing.clone_into(&mut standing.doing));
        let rests = record.saved().and_then(|saved| saved.failures.next());
        let take = async {
            let is_hurried = tokio::select! {
                () = self.until(rests), if rests.is_some() => false,
                () = self.hurry.notified(), if rests.is_some() => true,
                else => false,
            };
            let held = turn.take().await;
            if is_hurried {
                // For the order, which knows whether the server lets us.
                self.hurry.notify_one();
            }
            held
        };
        tokio::select! {
            held = take => Some(held),
            () = self.inputs.issuer_changed(&record.edge().settings.issuer, opened, changes) => None,
        }
    }

    async fn obtain(&self, record: &mut Record) -> Result<(), Halt> {
        let clock = Arc::clone(&self.inputs.clock);
        let settings = record.edge().settings.clone();
        let mut changes = self.inputs.issuer_changes();
        let opened = self.inputs.accounts.open(&settings.issuer).await.map_err(Halt::Problem)?;
        let names = names(&settings.names).map_err(Halt::Problem)?;
        let kind = kind(&settings.challenge);
        let mut wanted = Wanted::try_new(opened.account.url.clone(), names, kind)
            .map_err(|error| Halt::Problem(error.to_string()))?;
        let turn = self.inputs.turns.of(&wanted.account, &wanted.names);
        let Some(_held) = self.await_turn(&turn, record, &opened, &mut changes).await else { return Ok(()) };
        wanted.profile = settings.profile.clone().or_else(|| opened.settings.profile.clone());
        let held = record.edge().certificate.as_ref().and_then(|held| CertificateId::of(held.chain.leaf()));
        wanted.replaces = held.map(|id| id.as_str().to_owned());
        // Stored with the first step, before anything is asked for.
        let key = match record.next_key() {
            Some(bytes) => SecretKey::from_bytes(bytes).map_err(|error| Halt::Problem(error.to_string()))?,
            None => SecretKey::generate(KeyKind::P256),
        };
        let signer = SoftwareSigner::try_new(&key).map_err(|error| Halt::Problem(error.to_string()))?;
        let server_names: Vec<_> = wanted.names.as_slice().iter().map(Identifier::to_server_name).collect();
        let csr =
            request_for_names(&server_names, &signer).map_err(|error| Halt::Problem(error.to_string()))?;
        let saved = record.saved().map(|saved| turn.unspent(saved));
        let thumbprint = acme::thumbprint(opened.account.signer.public());
        let mut order =
            Order::new(wanted.clone(), saved, key.public().clone(), thumbprint, Vec::new(), clock.now());
        self.inputs.standing(&self.key, |standing| {
            ORDERING.clone_into(&mut standing.doing);
            standing.next = order.failures().next();
            standing.failures = order.failures().total();
            let told = |last: &acme::LastFailure| told(&last.text, &last.hint, &settings.issuer);
            standing.problem = order.failures().last().map(told);
        });
        let desk = EdgeDesk {
            duty: self,
            issuer: &settings.issuer,
            record: Mutex::new(record),
            key: &key,
            halt: Mutex::default(),
            rests: watch::Sender::new(order.failures().next()),
        };
        let obtained = tokio::select! {
            obtained = opened.client.obtain(&opened.account, &mut order, &csr, &desk) => Some(obtained),
            // Its account may have another key now: gone on with from what is stored.
            () = self.inputs.issuer_changed(&settings.issuer, &opened, &mut changes) => None,
            // It failed, and others need not wait for its next try; gone on with in the same way.
            () = turn.is_better_given(&desk.rests, &*clock) => None,
        };
        let halt = desk.halt.into_inner();
        match obtained {
            None => Ok(()),
            Some(Ok(chain)) => {
                self.inputs.accounts.proven(&settings.issuer);
                let spent = order.saved().order;
                self.take(record, &key, chain, &order.presented()).await?;
                // One whose certificate could not be stored is gone on with.
                spent.into_iter().for_each(|order| turn.spend(order));
                Ok(())
            }
            Some(Err(NotKept(why))) => Err(halt.unwrap_or(Halt::Problem(why))),
        }
    }

    /// Stores the certificate in place of the order, and has proxies show it.
    async fn take(
        &self,
        record: &mut Record,
        key: &SecretKey,
        chain: Chain,
        presented: &[Presented],
    ) -> Result<(), Halt> {
        let now = self.inputs.clock.now();
        let leaf = chain.leaf().clone();
        let renewal = Renewal::new(&leaf, Jitter::new(rand::random()), now);
        let (leftover, given_up) = left_over(record.leftover(), presented);
        acme::given_up(&given_up);
        let work = EdgeWork { order: None, renewal: write(&renewal), leftover: written(&leftover) };
        let (serial, until) = (leaf.serial().clone(), leaf.not_after());
        debug_assert_eq!(leaf.spki_der(), key.public().spki_der());
        let event = self.event("obtained").with("serial", &serial).with("not_after", until);
        let next = Next { next_key: None, certificate: Some((chain, now)), work };
        record.put(&*self.inputs.store, next, event).await?;
        tracing::info!(edge = %self.key.1, %serial, %until, "an edge has its certificate");
        self.inputs.standing(&self.key, |standing| *standing = EdgeStanding::default());
        // Whoever hurried meanwhile has what he wanted.
        self.is_hurried.store(false, Ordering::Relaxed);
        let _ = self.hurry.notified().now_or_never();
        self.show(record).await;
        self.inputs.publish_endings(&self.key, record.edge());
        Ok(())
    }

    fn same_key(&self, record: &Record) -> Next {
        Next { next_key: record.next_key().map(certs::SecretBytes::duplicate), ..Next::default() }
    }

    async fn put(&self, record: &mut Record, next: Next, step: &str) -> Result<(), Halt> {
        Ok(record.put(&*self.inputs.store, next, self.event(step)).await?)
    }

    fn event(&self, step: &str) -> Event {
        Event::done(self.inputs.clock.now(), Actor::System, Action::EdgeObtain, self.key.1.as_str())
            .with("step", step)
            .for_tenant(self.key.0.clone())
    }

    async fn until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.inputs.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Publishes, and waits for everybody who should have it.
    async fn publish(&self, record: &Record, presented: &[Presented]) -> Result<(), String> {
        let (settings, created) = (&record.edge().settings, record.edge().created);
        match &settings.challenge {
            EdgeChallenge::Dns01 { publisher } => {
                let until = tokio::time::Instant::now() + PATIENCE;
                self.records(publisher, record, Deed::Publish, &mut presented.to_vec()).await?;
                let doing = "waits until every name server of the zone has the records";
                self.inputs.standing(&self.key, |standing| doing.clone_into(&mut standing.doing));
                self.publisher(publisher, record).await_everywhere(presented, until).await
            }
            EdgeChallenge::Http01 { listener } => {
                let tables = self.tables(record, listener).await?;
                let texts = tables
                    .iter()
                    .flat_map(|table| presented.iter().map(move |one| (table.clone(), text(one))));
                let texts: Vec<_> = texts.collect();
                let update = self.inputs.bulletin.update(&self.key, created, |shown| shown.texts = texts);
                update.await?;
                let wanted = tables.iter().map(|table| (TypeUrl::Route, table.clone())).collect::<Vec<_>>();
                self.await_proxies(record, listener, &wanted).await?;
                self.await_listeners(record).await;
                Ok(())
            }
            EdgeChallenge::TlsAlpn01 => {
                let mut pairs = Vec::new();
                for one in presented {
                    pairs.push((one.server_name(), pair(one, self.inputs.clock.now())?));
                }
                let update = self.inputs.bulletin.update(&self.key, created, |shown| {
                    for (server_name, pair) in pairs {
                        // What is shown already stays as it is, so that nobody waits for it twice.
                        shown.challenges.entry(server_name).or_insert(pair);
                    }
                });
                update.await?;
                let secret =
                    |one: &Presented| (TypeUrl::Secret, self.key.1.challenge_uri(&one.server_name()));
                let mut wanted: Vec<_> = presented.iter().map(secret).collect();
                wanted.push((TypeUrl::Listener, settings.listener.clone()));
                self.await_proxies(record, &settings.listener, &wanted).await?;
                self.await_listeners(record).await;
                Ok(())
            }
        }
    }

    /// Proxies have acknowledged a listener that waits for a certificate which cannot come yet; one that has just started
    /// opens none at all before it gave up waiting, not even for plain HTTP.
    async fn await_listeners(&self, record: &Record) {
        if record.edge().certificate.is_none() {
            tokio::time::sleep(2 * EDGE_FETCH_TIMEOUT).await;
        }
    }

    async fn records(
        &self,
        how: &DnsPublisher,
        record: &Record,
        deed: Deed,
        presented: &mut Vec<Presented>,
    ) -> Result<(), String> {
        self.publisher(how, record).carry_out(deed, presented).await
    }

    fn publisher<'a>(&'a self, how: &'a DnsPublisher, record: &'a Record) -> Publisher<'a> {
        let inputs = &self.inputs;
        let (allowed, key) = (inputs.dns_commands.as_slice(), record.dns_key());
        Publisher { how, allowed, key, clock: &*inputs.clock }
    }

    /// Takes out of `presented` what is not published any more.
    async fn withdraw(&self, record: &Record, presented: &mut Vec<Presented>) -> Result<(), String> {
        let (settings, created) = (&record.edge().settings, record.edge().created);
        match &settings.challenge {
            EdgeChallenge::Dns01 { publisher } => {
                return self.records(publisher, record, Deed::Withdraw, presented).await;
            }
            EdgeChallenge::Http01 { .. } => {
                let gone: BTreeSet<ChallengeText> = presented.iter().map(text).collect();
                let change = |shown: &mut Shown| shown.texts.retain(|(_, text)| !gone.contains(text));
                self.inputs.bulletin.update(&self.key, created, change).await?;
            }
            EdgeChallenge::TlsAlpn01 => {
                let gone: Vec<String> = presented.iter().map(Presented::server_name).collect();
                let change = |shown: &mut Shown| {
                    shown.challenges.retain(|server_name, _| !gone.contains(server_name));
                };
                self.inputs.bulletin.update(&self.key, created, change).await?;
            }
        }
        presented.clear();
        Ok(())
    }

    /// The route tables of the listener that answers.
    async fn tables(&self, record: &Record, listener: &str) -> Result<Vec<String>, String> {
        let (tenant, namespace) = (self.key.0.clone(), record.edge().settings.namespace.clone());
        let named = Which::Named(listener.to_owned());
        let found = self.inputs.configs.edge_listeners(tenant, namespace.clone(), named).await;
        let found = found.map_err(|error| error.to_string())?;
        let plain = found.into_iter().filter(|one| one.is_plain);
        let mut tables: Vec<String> = plain.flat_map(|one| one.tables).collect();
        tables.sort();
        tables.dedup();
        if tables.is_empty() {
            return Err(format!(
                "no document of namespace {namespace} has a listener {listener:?} that takes plain HTTP: apply one"
            ));
        }
        Ok(tables)
    }

    /// Comes back when every connected proxy that serves the listener has acknowledged these as they are now.
    async fn await_proxies(
        &self,
        record: &Record,
        listener: &str,
        wanted: &[(TypeUrl, String)],
    ) -> Result<(), String> {
        let namespace = &record.edge().settings.namespace;
        let until = self.inputs.clock.now() + PATIENCE;
        loop {
            let proxies = self.inputs.proxies(&self.key.0, namespace, listener, wanted);
            match gate::judge(&proxies) {
                Verdict::Ready => {
                    tracing::info!(edge = %self.key.1, proxies = proxies.len(), "every proxy shows the challenge");
                    return Ok(());
                }
                Verdict::Refused(node, words) => return Err(format!("proxy {node} refuses it: {words}")),
                // Also after a start, when they have not come back yet.
                Verdict::Nobody => {
                    let doing =
                        format!("no connected proxy of namespace {namespace} serves listener {listener:?}");
                    self.wait(doing, until).await?;
                }
                Verdict::Waiting(late) => self.wait(waits_for(&proxies, &late), until).await?,
            }
        }
    }

    /// Says what is waited for, and comes back after a moment.
    ///
    /// # Errors
    /// The same, when the time is over.
    async fn wait(&self, doing: String, until: Timestamp) -> Result<(), String> {
        if self.inputs.clock.now() >= until {
            return Err(format!("not within {} s: {doing}", PATIENCE.as_secs()));
        }
        self.inputs.standing(&self.key, |standing| standing.doing = doing);
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}

fn waits_for(proxies: &[Proxy], late: &[spiffe::NodeId]) -> String {
    const MAX_NAMED: usize = 3;
    let named: Vec<&str> = late.iter().take(MAX_NAMED).map(spiffe::NodeId::as_str).collect();
    let more = if late.len() > MAX_NAMED { " and others" } else { "" };
    format!(
        "{} of {} proxies show it, it waits for {}{more}",
        proxies.len() - late.len(),
        proxies.len(),
        named.join(", ")
    )
}

/// What may still be published of orders that are over, of one more: what has been left over for longest is given up
/// where that is too much, so that it never decides whether a certificate is stored.
fn left_over(mut before: Vec<Presented>, more: &[Presented]) -> (Vec<Presented>, Vec<Presented>) {
    before.extend(more.iter().filter(|one| !before.contains(one)).cloned().collect::<Vec<_>>());
    let given_up = acme::keep_newest(&mut before, MAX_LEFT_OVER);
    (before, given_up)
}

fn written(leftover: &[Presented]) -> Option<String> {
    if leftover.is_empty() { None } else { write(&leftover) }
}

/// The names of an edge, as a client orders them.
pub(super) fn names(texts: &[String]) -> Result<Names, String> {
    let (mut names, mut bad) = (Vec::new(), Vec::new());
    for text in texts {
        match Identifier::parse(text) {
            Ok(name) => names.push(name),
            Err(error) => bad.push(error.to_string()),
        }
    }
    if !bad.is_empty() {
        let more = bad.len().saturating_sub(MAX_BAD);
        bad.truncate(MAX_BAD);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return Err(format!("{}{more}", bad.join("; ")));
    }
    Names::try_new(names).map_err(|error| error.to_string())
}

/// How many names that are none are told of.
const MAX_BAD: usize = 5;

/// The way, as a client knows it.
pub(super) fn kind(challenge: &EdgeChallenge) -> ChallengeKind {
    match challenge {
        EdgeChallenge::Http01 { .. } => ChallengeKind::Http01,
        EdgeChallenge::TlsAlpn01 => ChallengeKind::TlsAlpn01,
        EdgeChallenge::Dns01 { .. } => ChallengeKind::Dns01,
    }
}

/// What is the matter at the server of an issuer, and what to do about it.
fn told(what: &str, hint: &str, issuer: &IssuerName) -> String {
    let hint = hint_about(hint, issuer.as_str());
    if hint.is_empty() { what.to_owned() } else { format!("{what}; {hint}") }
}

fn text(presented: &Presented) -> ChallengeText {
    let host = match &presented.name {
        Identifier::Ip(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        other => other.to_string(),
    };
    ChallengeText { host, path: presented.path(), body: presented.key_authorization.clone() }
}

fn pair(presented: &Presented, now: Timestamp) -> Result<Pair, String> {
    let key = SecretKey::generate(KeyKind::P256);
    let signer = SoftwareSigner::try_new(&key).map_err(|error| error.to_string())?;
    let leaf = presented.certificate(&signer, now).map_err(|error| error.to_string())?;
    Ok(Pair { chain: Chain::new(leaf, Vec::new()), key: key.to_bytes() })
}

/// What an order needs of us.
struct EdgeDesk<'a> {
    duty: &'a Duty,
    issuer: &'a IssuerName,
    record: Mutex<&'a mut Record>,
    key: &'a SecretKey,
    /// Why something was not kept, where that is more than words.
    halt: Mutex<Option<Halt>>,
    /// Until when it rests after a failure that is not the server's: that would stop others as well.
    rests: watch::Sender<Option<Timestamp>>,
}

#[async_trait]
impl Desk for EdgeDesk<'_> {
    async fn keep(&self, saved: &Saved) -> Result<(), String> {
        let mut record = self.record.lock().await;
        let work = EdgeWork { order: write(saved), ..record.work().clone() };
        let next = Next { next_key: Some(self.key.to_bytes()), certificate: None, work };
        let step = match (&saved.order, saved.presented.is_empty()) {
            (None, true) => "ordering",
            (Some(_), true) => "ordered",
            (_, false) => "publishing",
        };
        match self.duty.put(&mut record, next, step).await {
            Ok(()) => {
                self.duty.is_hurried.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(halt) => {
                let why = match &halt {
                    Halt::Problem(why) => why.clone(),
                    Halt::Stale => "its record has changed".to_owned(),
                };
                *self.halt.lock().await = Some(halt);
                Err(why)
            }
        }
    }

    async fn publish(&self, presented: &[Presented]) -> Result<(), String> {
        let record = self.record.lock().await;
        self.duty.inputs.standing(&self.duty.key, |standing| "publishing".clone_into(&mut standing.doing));
        let published = self.duty.publish(&record, presented).await;
        self.duty.inputs.standing(&self.duty.key, |standing| ORDERING.clone_into(&mut standing.doing));
        published
    }

    async fn withdraw(&self, presented: &mut Vec<Presented>) -> Result<(), String> {
        let record = self.record.lock().await;
        self.duty.withdraw(&record, presented).await
    }

    fn report(&self, trouble: &Trouble, again: Timestamp) {
        self.rests.send_replace((trouble.pace() != Pace::Soon).then_some(again));
        self.duty.inputs.standing(&self.duty.key, |standing| {
            standing.failures = standing.failures.saturating_add(1);
            standing.problem = Some(told(&trouble.to_string(), &trouble.hint(), self.issuer));
            standing.next = Some(again);
        });
    }

    fn waits(&self, what: Option<&'static str>) {
        let doing = what.unwrap_or(ORDERING);
        self.duty.inputs.standing(&self.duty.key, |standing| doing.clone_into(&mut standing.doing));
    }

    async fn hurried(&self) {
        self.duty.hurry.notified().await;
        self.rests.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(number: usize) -> Presented {
        Presented {
            name: Identifier::parse(&format!("{}.example", "a".repeat(60))).unwrap(),
            kind: ChallengeKind::Dns01,
            token: format!("{number:043}"),
            key_authorization: format!("{number:043}.{}", "t".repeat(43)),
        }
    }

    #[test]
    fn what_could_never_be_withdrawn_keeps_no_certificate_from_being_stored() {
        let (mut leftover, mut given_up) = (Vec::new(), Vec::new());
        // An edge of a hundred names, twenty times renewed by a publisher that withdraws nothing.
        for order in 0..20 {
            let more: Vec<Presented> = (0..100).map(|number| presented(100 * order + number)).collect();
            let (left, gone) = left_over(leftover, &more);
            assert!(left.ends_with(&more), "what came last is withdrawn again");
            assert!(written(&left).unwrap().len() < MAX_EDGE_TEXT);
            given_up.extend(gone);
            leftover = left;
        }
        let all: Vec<Presented> = given_up.into_iter().chain(leftover.clone()).collect();
        assert_eq!(all, (0..2000).map(presented).collect::<Vec<_>>(), "each is kept or said to be given up");
        assert_eq!(left_over(leftover.clone(), &leftover[..3]), (leftover, Vec::new()), "none is kept twice");
        assert_eq!(written(&[]), None);
    }
}
