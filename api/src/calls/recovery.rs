//! Nodes whose certificates have ended may come back for a while, if an operator says so.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use audit::Action;
use certs::{Timestamp, format_duration, parse_duration};
use spiffe::{BlockList, NodeId, RecoveryRefusal, TrustDomain};
use tokio::sync::{Mutex, MutexGuard, watch};

use super::{CallError, Caller, Calls, check_reason, rollouts::visible};
use crate::{
    ports::{Expired, RecoveryStore, RecoveryWindow},
    wire,
};

/// The longest window.
pub const MAX_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long ago a certificate may have ended unless said.
pub const DEFAULT_REACH: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long ago at most; older ones are not listed either.
pub const MAX_REACH: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The most nodes that an answer lists.
const MAX_LISTED: usize = 1_000;

/// The newest window as it is kept, and as the node door hears of it.
#[derive(Clone)]
pub struct Recoveries {
    store: Arc<dyn RecoveryStore>,
    published: watch::Sender<Option<Arc<RecoveryWindow>>>,
    /// So that what is published last is what was written last.
    changing: Arc<Mutex<()>>,
}

impl Recoveries {
    /// Reads what is kept.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn load(store: Arc<dyn RecoveryStore>) -> Result<Self, CallError> {
        let window = store.recovery().await?.map(Arc::new);
        Ok(Self { store, published: watch::Sender::new(window), changing: Arc::default() })
    }

    /// Waits for its turn to change the window, and publishes what is kept: whoever asked last may have gone between
    /// the two.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, CallError> {
        let turn = self.changing.lock().await;
        let kept = self.store.recovery().await?;
        self.published.send_if_modified(|published| {
            let is_new = published.as_deref() != kept.as_ref();
            if is_new {
                *published = kept.map(Arc::new);
            }
            is_new
        });
        Ok(turn)
    }

    /// The newest window, as it changes; whether it has ended by itself is for its reader to see.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<RecoveryWindow>>> {
        self.published.subscribe()
    }

    /// The window that is open at `now`.
    #[must_use]
    pub fn open(&self, now: Timestamp) -> Option<Arc<RecoveryWindow>> {
        self.published.borrow().clone().filter(|window| window.is_open(now))
    }
}

/// Who expired, before a window that is open or planned, and who came back in it.
struct Standing<'a> {
    domain: &'a TrustDomain,
    blocks: &'a BlockList,
    window: Option<&'a RecoveryWindow>,
    back: BTreeSet<&'a NodeId>,
    now: Timestamp,
}

impl Standing<'_> {
    /// Why a node stays away; nothing if it may come back.
    fn bar(&self, one: &Expired) -> Option<String> {
        if let Some(refusal) = one.barred {
            return Some(refusal.to_string());
        }
        if self.blocks.contains(&self.domain.node_id(&one.node)) {
            return Some("its identity is blocked".to_owned());
        }
        let Some(window) = self.window else { return Some(RecoveryRefusal::Closed.to_string()) };
        // Whoever expired again after coming back waits for another window.
        if self.back.contains(&one.node) {
            return Some(RecoveryRefusal::Spent.to_string());
        }
        (self.now.since(one.at) > window.reach)
            .then(|| format!("its certificate ended longer ago than {}", format_duration(window.reach)))
    }

    /// Fills in the part of the answer that is about them.
    fn show(&self, expired: &[Expired], answer: &mut wire::Recovery) {
        answer.expired_count = expired.len();
        answer.waiting_count = expired.iter().filter(|one| self.bar(one).is_none()).count();
        let shown = expired.iter().take(MAX_LISTED).map(|one| {
            let because = self.bar(one);
            wire::ExpiredNode {
                node: one.node.to_string(),
                expired: one.at.to_string(),
                ago_secs: self.now.since(one.at).as_secs(),
                may_come_back: because.is_none(),
                because,
            }
        });
        answer.expired = shown.collect();
    }
}

impl Calls {
    /// Whether nodes may come back, which ones have expired, and which came back in the newest window.
    ///
    /// # Errors
    /// When a store cannot read.
    pub async fn recovery(&self) -> Result<wire::Recovery, CallError> {
        drop(self.recoveries.turn().await?);
        self.shown_recovery().await
    }

    async fn shown_recovery(&self) -> Result<wire::Recovery, CallError> {
        let now = self.clock.now();
        let window = self.recoveries.published.borrow().clone();
        let recovered = match &window {
            Some(window) => self.recoveries.store.recovered(window.id).await?,
            None => Vec::new(),
        };
        let open = window.as_deref().filter(|window| window.is_open(now));
        let mut answer = wire::Recovery {
            open: open.is_some(),
            window: window.as_ref().map(|window| shown_window(window, now)),
            recovered_count: recovered.len(),
            ..wire::Recovery::default()
        };
        let back = recovered.iter().map(|one| &one.node).collect();
        self.show_standing(open, back, now, &mut answer).await?;
        let shown = recovered.iter().take(MAX_LISTED).map(|one| wire::RecoveredNode {
            node: one.node.to_string(),
            at: one.at.to_string(),
            until: one.until.to_string(),
        });
        answer.recovered = shown.collect();
        Ok(answer)
    }

    /// The window that is open now.
    #[must_use]
    pub fn open_window(&self) -> Option<wire::RecoveryWindow> {
        let now = self.clock.now();
        self.recoveries.open(now).map(|window| shown_window(&window, now))
    }

    /// The window that is open, in one line of visible ASCII.
    pub(crate) fn recovery_banner(&self) -> Option<String> {
        let now = self.clock.now();
        Some(visible(&self.recoveries.open(now)?.banner(now)))
    }

    /// Fills in which enabled nodes have expired, those first that ended first, and what keeps each away.
    async fn show_standing(
        &self,
        window: Option<&RecoveryWindow>,
        back: BTreeSet<&NodeId>,
        now: Timestamp,
        answer: &mut wire::Recovery,
    ) -> Result<(), CallError> {
        let expired = self.recoveries.store.expired(&self.domain, now - MAX_REACH, now).await?;
        let blocks = self.configs.blocks();
        Standing { domain: &self.domain, blocks: &blocks, window, back, now }.show(&expired, answer);
        Ok(())
    }

    /// Lets nodes come back for a while. A window that is open already is closed by this one, and whoever came back
    /// in it may do so again.
    ///
    /// # Errors
    /// When a time or the reason is none, or the store cannot write.
    pub async fn open_recovery(
        &self,
        caller: &Caller,
        wanted: &wire::OpenRecovery,
    ) -> Result<wire::Recovery, CallError> {
        let bad = |what, why: &str| CallError::Parameter { what, why: why.to_owned() };
        let length =
            parse_duration(&wanted.window).filter(|length| (!length.is_zero()) && *length <= MAX_WINDOW);
        let length =
            length.ok_or_else(|| bad("window", "a window lasts for a time such as 24h, at most 7d"))?;
        let reach = match &wanted.reach {
            None => Some(DEFAULT_REACH),
            Some(text) => parse_duration(text).filter(|reach| !reach.is_zero() && *reach <= MAX_REACH),
        };
        let reach =
            reach.ok_or_else(|| bad("reach", "it reaches back for a time such as 7d, at most 90d"))?;
        check_reason(&wanted.reason)?;
        let reason = wanted.reason.trim();
        let _alone = self.recoveries.turn().await?;
        let now = self.clock.now();
        let window = RecoveryWindow {
            id: 0,
            reason: reason.to_owned(),
            by: caller.actor.to_string(),
            opened: now,
            until: now + length,
            closed: None,
            reach,
        };
        // Nothing is read once it is open: whoever heard of an error would open another one.
        let shown = Some(shown_window(&window, now));
        let mut answer = wire::Recovery { window: shown, ..wire::Recovery::default() };
        self.show_standing(Some(&window), BTreeSet::new(), now, &mut answer).await?;
        if wanted.dry_run {
            return Ok(answer);
        }
        let mut event = caller
            .event(now, Action::RecoveryOpen, "nodes")
            .with("until", window.until)
            .with("reach", format_duration(reach));
        reason.clone_into(&mut event.reason);
        let window = self.recoveries.store.open_recovery(window, event).await?;
        tracing::warn!(until = %window.until, "nodes may come back with expired certificates");
        answer.open = true;
        answer.window = Some(shown_window(&window, now));
        self.recoveries.published.send_replace(Some(Arc::new(window)));
        Ok(answer)
    }

    /// Ends the window before its time.
    ///
    /// # Errors
    /// When none is open, the reason is none, or the store cannot write.
    pub async fn close_recovery(
        &self,
        caller: &Caller,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        check_reason(reason)?;
        let reason = reason.trim();
        let _alone = self.recoveries.turn().await?;
        let now = self.clock.now();
        let missing = || CallError::NotFound { what: "open recovery", name: "window".to_owned() };
        let open = self.recoveries.open(now).ok_or_else(missing)?;
        if !dry_run {
            let mut event =
                caller.event(now, Action::RecoveryClose, "nodes").with("recovery_window", open.id);
            reason.clone_into(&mut event.reason);
            self.recoveries.store.close_recovery(event).await?;
            tracing::info!(recovery_window = open.id, "recovery window closed");
            let closed = RecoveryWindow { closed: Some(now), ..(*open).clone() };
            self.recoveries.published.send_replace(Some(Arc::new(closed)));
        }
        let word = if dry_run { "would close" } else { "closed" };
        let summary =
            format!("{word} the recovery window: expired nodes stay away until they are enrolled anew");
        Ok(wire::Done { dry_run, summary })
    }
}

fn shown_window(window: &RecoveryWindow, now: Timestamp) -> wire::RecoveryWindow {
    wire::RecoveryWindow {
        reason: window.reason.clone(),
        by: window.by.clone(),
        opened: window.opened.to_string(),
        until: window.until.to_string(),
        closed: window.closed.map(|at| at.to_string()),
        in_secs: window.until.millis_since(now).div_euclid(1000),
        reach: format_duration(window.reach),
    }
}
