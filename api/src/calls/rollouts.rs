//! What is replaced by itself, and the pause of it.

use std::{sync::Arc, time::Duration};

use audit::Action;
use ca::Pause;
use certs::{Timestamp, format_duration, parse_duration};
use tokio::sync::watch;

use super::{CallError, Caller, Calls, check_reason};
use crate::{ports::PauseStore, wire};

/// The longest pause.
pub const MAX_PAUSE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The pause as it is kept, and as the keeper of authorities hears of it.
#[derive(Clone)]
pub struct Pauses {
    store: Arc<dyn PauseStore>,
    published: watch::Sender<Option<Arc<Pause>>>,
}

impl Pauses {
    /// Reads what is kept.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn load(store: Arc<dyn PauseStore>) -> Result<Self, CallError> {
        let pause = store.pause().await?.map(Arc::new);
        Ok(Self { store, published: watch::Sender::new(pause) })
    }

    /// The pause, as it changes; whether it has ended by itself is for its reader to see.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Pause>>> {
        self.published.subscribe()
    }

    /// The pause that holds at `now`.
    #[must_use]
    pub fn current(&self, now: Timestamp) -> Option<Arc<Pause>> {
        self.published.borrow().clone().filter(|pause| pause.is_on(now))
    }

    async fn set(&self, pause: Option<Pause>, event: audit::Event) -> Result<(), CallError> {
        self.store.set_pause(pause.clone(), event).await?;
        self.published.send_replace(pause.map(Arc::new));
        Ok(())
    }
}

impl Calls {
    /// What is replaced by itself next, and whether that is paused.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_rollouts(&self) -> Result<wire::Rollouts, CallError> {
        let now = self.clock.now();
        let next = self.next_replacement().await?.map(|next| wire::PlannedRollout {
            what: "intermediate".to_owned(),
            authority: next.authority.to_string(),
            at: next.at.to_string(),
            in_secs: next.at.millis_since(now).div_euclid(1000),
            issuer: next.issuer.map(|issuer| issuer.to_string()),
        });
        Ok(wire::Rollouts { paused: self.paused(), planned: next.into_iter().collect() })
    }

    /// The pause that holds now.
    #[must_use]
    pub fn paused(&self) -> Option<wire::Paused> {
        let now = self.clock.now();
        let pause = self.pauses.current(now)?;
        Some(wire::Paused {
            reason: pause.reason.clone(),
            by: pause.by.clone(),
            since: pause.since.to_string(),
            until: pause.until.to_string(),
            in_secs: pause.until.millis_since(now).div_euclid(1000),
        })
    }

    /// The pause in one line of visible ASCII.
    pub(crate) fn pause_banner(&self) -> Option<String> {
        let now = self.clock.now();
        Some(visible(&self.pauses.current(now)?.banner(now)))
    }

    /// Stops replacing authorities by itself for a while. A pause that holds already is replaced by this one.
    ///
    /// # Errors
    /// When the reason or the time is none, or the store cannot write.
    pub async fn pause_rollouts(
        &self,
        caller: &Caller,
        wanted: &wire::PauseRollouts,
    ) -> Result<wire::Done, CallError> {
        let bad = |what, why: &str| Err(CallError::Parameter { what, why: why.to_owned() });
        if !wanted.all {
            return bad("all", "only all rollouts can be paused together: write true");
        }
        check_reason(&wanted.reason)?;
        let reason = wanted.reason.trim();
        if reason.is_empty() {
            return bad("reason", "a pause needs a reason");
        }
        let length = parse_duration(&wanted.length);
        let Some(length) = length.filter(|length| !length.is_zero() && *length <= MAX_PAUSE) else {
            return bad("for", "a pause lasts for a time such as 4h, at most 7d");
        };
        let now = self.clock.now();
        let pause = Pause {
            reason: reason.to_owned(),
            by: caller.actor.to_string(),
            since: now,
            until: now + length,
        };
        let instead = self.pauses.current(now).map(|old| format!(", instead of until {}", old.until));
        let until = pause.until;
        if !wanted.dry_run {
            let mut event = caller.event(now, Action::RolloutPause, "all").with("until", until);
            reason.clone_into(&mut event.reason);
            self.pauses.set(Some(pause), event).await?;
        }
        let word = if wanted.dry_run { "would pause" } else { "paused" };
        let summary = format!(
            "{word} automatic rotation of authorities for {}, until {until}{}; leaves, nodes and our own certificate \
             are renewed as before",
            format_duration(length),
            instead.unwrap_or_default()
        );
        Ok(wire::Done { dry_run: wanted.dry_run, summary })
    }

    /// Ends the pause before its time.
    ///
    /// # Errors
    /// When nothing is paused, or the store cannot write.
    pub async fn resume_rollouts(
        &self,
        caller: &Caller,
        wanted: &wire::ResumeRollouts,
    ) -> Result<wire::Done, CallError> {
        let now = self.clock.now();
        if self.pauses.current(now).is_none() {
            return Err(CallError::NotFound { what: "pause of", name: "automatic rotation".to_owned() });
        }
        if !wanted.dry_run {
            let mut event = caller.event(now, Action::RolloutResume, "all");
            event.reason.clone_from(&wanted.reason);
            self.pauses.set(None, event).await?;
        }
        let word = if wanted.dry_run { "would resume" } else { "resumed" };
        Ok(wire::Done {
            dry_run: wanted.dry_run,
            summary: format!("{word} automatic rotation: what is due follows now"),
        })
    }
}

/// What a header can hold of a banner.
pub(super) fn visible(banner: &str) -> String {
    banner.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}
