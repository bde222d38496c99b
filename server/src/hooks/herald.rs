//! Tells hooks what there is to tell (SHELL around [`Telling`]), and answers operators how that goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::{
    calls::{CallError, reason_text},
    ports::{HookStore, Told},
    sources::{Hooks, Renewals},
    wire,
};
use async_trait::async_trait;
use audit::{Action as Done, Actor, AuditLog, Event as Row, Outcome};
use ca::CaStatus;
use certs::{Clock, Timestamp};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Teller,
    notice::{Barrier, Concerned, Failing, Notice, notices},
    telling::{Action, Event, Interest, Telling},
};
use crate::lookout::Seen;

/// How often it is looked for what there is to tell.
const LOOK: Duration = Duration::from_secs(5);
/// Of short lives a twentieth, but never less.
const LEAST_LOOK: Duration = Duration::from_millis(500);

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) seen: watch::Receiver<Arc<Seen>>,
    pub(crate) ca: watch::Receiver<Arc<CaStatus>>,
    pub(crate) renewals: Arc<dyn Renewals>,
}

/// How a hook stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct HookStatus {
    /// What waits for it.
    pub(crate) waiting: usize,
    /// How often it took something.
    pub(crate) told: u64,
    /// How often it did not.
    pub(crate) failed: u64,
    /// When it took something last.
    pub(crate) last: Option<Timestamp>,
    /// Why it did not take what it was told last.
    pub(crate) last_error: Option<String>,
}

/// The part that tells.
pub(crate) struct Herald {
    pub(crate) tellers: Arc<[Arc<Teller>]>,
    pub(crate) watched: Watched,
    pub(crate) store: Arc<dyn HookStore>,
    pub(crate) audit: Arc<dyn AuditLog>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Between two looks, where lives are short.
    pub(crate) period: Duration,
    pub(crate) status: watch::Sender<Vec<HookStatus>>,
}

impl Herald {
    /// Tells until `shutdown`; what is being told then is given up, and told again by the next process.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let every = self.period.clamp(LEAST_LOOK, LOOK);
        let mut machine = self.begin().await;
        let mut failing = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut next_look = self.clock.now();
        let mut event = Event::Tick;
        loop {
            let now = self.clock.now();
            if next_look <= now && matches!(event, Event::Tick) {
                event = Event::Looked(self.look(&mut failing, now));
                next_look = now + every;
            }
            for action in machine.step(event, now) {
                match action {
                    Action::Tell { hook, notice } => {
                        let teller = Arc::clone(&self.tellers[hook]);
                        running.push(Box::pin(async move {
                            let taken = teller.tell(&notice, now).await;
                            (hook, notice, taken)
                        }));
                    }
                    Action::Remember { hook, notice } => self.remember(hook, &notice).await,
                }
            }
            self.publish(&machine);
            let due = machine.deadline().map_or(next_look, |due| due.min(next_look));
            event = tokio::select! {
                () = shutdown.cancelled() => return,
                Some((hook, notice, taken)) = running.next(), if !running.is_empty() => {
                    self.conclude(hook, &notice, &taken, machine.failures(hook)).await;
                    Event::Told { hook, taken: taken.is_ok() }
                }
                () = self.clock.sleep_until(due) => Event::Tick,
            };
        }
    }

    async fn begin(&self) -> Telling {
        let told = self.store.told().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what hooks were told is not known, they may be told again");
            Vec::new()
        });
        let hooks = self.tellers.iter().map(|teller| {
            let own = told.iter().filter(|one| one.hook == teller.config.name);
            let own = own.map(|one| (one.id.clone(), one.until)).collect();
            let interest = Interest { topics: teller.config.topics.clone(), after: teller.config.after };
            (interest, own)
        });
        Telling::new(hooks.collect(), self.clock.now())
    }

    fn look(&self, failing: &mut BTreeMap<&'static str, Timestamp>, now: Timestamp) -> Vec<Arc<Notice>> {
        let (seen, ca) = (self.watched.seen.borrow().clone(), self.watched.ca.borrow().clone());
        let failures = failures(&self.watched.renewals.failing(), ca.last_failure.as_deref());
        let classes: BTreeSet<&str> = failures.iter().map(|(class, _)| *class).collect();
        failing.retain(|class, _| classes.contains(class));
        let failed: Vec<Failing> = failures
            .into_iter()
            .map(|(class, concerned)| {
                let since = *failing.entry(class).or_insert(now);
                Failing { class, since, concerned }
            })
            .collect();
        let found = notices(&seen.endings, barrier(&ca).as_ref(), &failed, now);
        found.into_iter().map(Arc::new).collect()
    }

    /// Leaves the traces of one telling. A hook that fails again and again leaves one row in the audit log.
    async fn conclude(&self, hook: usize, notice: &Notice, taken: &Result<(), String>, failures: u32) {
        let name = &self.tellers[hook].config.name;
        let now = self.clock.now();
        self.status.send_modify(|all| match (all.get_mut(hook), taken) {
            (Some(status), Ok(())) => {
                (status.told, status.last, status.last_error) = (status.told + 1, Some(now), None);
            }
            (Some(status), Err(why)) => {
                (status.failed, status.last_error) = (status.failed + 1, Some(why.clone()));
            }
            (None, _) => {}
        });
        let Err(why) = taken else {
            tracing::info!(hook = name, notice = notice.id, "hook was told");
            return;
        };
        tracing::warn!(hook = name, notice = notice.id, reason = why, "hook did not take what it was told");
        if failures == 0 {
            let row = Row { outcome: Outcome::Failed, reason: why.clone(), ..self.row(name, notice, now) };
            if let Err(error) = self.audit.append(vec![row]).await {
                tracing::warn!(%error, hook = name, "that a hook fails is not in the audit log");
            }
        }
    }

    async fn remember(&self, hook: usize, notice: &Notice) {
        let name = &self.tellers[hook].config.name;
        let told = Told { hook: name.clone(), id: notice.id.clone(), until: notice.remembered_until };
        if let Err(error) = self.store.remember_told(told, self.row(name, notice, self.clock.now())).await {
            tracing::warn!(%error, hook = name, notice = notice.id, "that a hook was told is not kept, it may hear it again");
        }
    }

    fn row(&self, hook: &str, notice: &Notice, now: Timestamp) -> Row {
        Row::done(now, Actor::System, Done::HookTell, hook).with("notice", &notice.id)
    }

    fn publish(&self, machine: &Telling) {
        self.status.send_modify(|all| {
            for (hook, status) in all.iter_mut().enumerate() {
                status.waiting = machine.waiting(hook);
            }
        });
    }
}

/// What fails, by class.
fn failures(failing: &[wire::FailedRenewal], rotation: Option<&str>) -> Vec<(&'static str, Vec<Concerned>)> {
    let of = |class: &'static str| {
        let mine = failing.iter().filter(|one| one.class == class);
        let concerned = mine.map(|one| {
            let node = one.node.as_ref().map(|node| format!("@{node}")).unwrap_or_default();
            Concerned { name: format!("{}{node}", one.name), reason: one.message.clone() }
        });
        (class, concerned.collect::<Vec<_>>())
    };
    let authority = rotation.map(|why| Concerned { name: "authority".to_owned(), reason: why.to_owned() });
    [of("workload"), of("server"), ("authority", authority.into_iter().collect())]
        .into_iter()
        .filter(|(_, concerned)| !concerned.is_empty())
        .collect()
}

fn barrier(ca: &CaStatus) -> Option<Barrier> {
    let rotation = ca.rotation.as_ref()?;
    let found = rotation.barrier?;
    let laggards = rotation
        .laggards
        .iter()
        .map(|one| Concerned { name: one.name.clone(), reason: reason_text(&one.reason) })
        .collect();
    Some(Barrier {
        step: found.step,
        since: found.since,
        phase_since: rotation.since.unwrap_or(found.since),
        root: rotation.other.map(|id| id.to_string()).unwrap_or_default(),
        laggards,
    })
}

/// What operators ask of hooks.
pub(crate) struct Desk {
    pub(crate) tellers: Arc<[Arc<Teller>]>,
    pub(crate) status: watch::Receiver<Vec<HookStatus>>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Hooks for Desk {
    fn hooks(&self) -> Vec<wire::Hook> {
        let all = self.status.borrow();
        let shown = self.tellers.iter().zip(all.iter()).map(|(teller, status)| wire::Hook {
            name: teller.config.name.clone(),
            on: teller.config.topics.iter().map(|topic| topic.word().to_owned()).collect(),
            way: teller.way().to_owned(),
            waiting: status.waiting,
            told: status.told,
            failed: status.failed,
            last: status.last.map(|at| at.to_string()),
            last_error: status.last_error.clone(),
        });
        shown.collect()
    }

    async fn test(&self, name: &str) -> Result<wire::HookTested, CallError> {
        let missing = || CallError::NotFound { what: "hook", name: name.to_owned() };
        let teller = self.tellers.iter().find(|teller| teller.config.name == name).ok_or_else(missing)?;
        let began = self.clock.now();
        let told = teller.try_tell(&Notice::test(name, began), began).await;
        let busy = || CallError::Conflict {
            what: "hook",
            name: name.to_owned(),
            why: "is being told something, ask again".to_owned(),
        };
        let told = told.ok_or_else(busy)?;
        let took = self.clock.now().since(began);
        Ok(wire::HookTested {
            name: name.to_owned(),
            taken: told.is_ok(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            reason: told.err().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests;
