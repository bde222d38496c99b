//! The keys that seal the store: operators' calls meet the store, with the sources that the configuration names at
//! that moment; and the task that carries rotations on and asks every hour whether the store is what it was.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use api::{
    calls::CallError,
    expiry::{Ending, ExpiryKind, ExpirySource},
    sealing::{Removal, Sealing},
    wire,
};
use async_trait::async_trait;
use audit::Event;
use certs::{Clock, Timestamp};
use store::{
    Class, OnlyTransit, Progress, RotationError, SlotHealth, SlotKind, SlotSource, SlotStatus, Store,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::waiting::read_again;
use crate::{
    config::Config,
    key_slots::{self, Held, named_in},
    keys::{self, Asking, Pipes},
    serve::load_config,
    transit::{BRISK, PATIENT},
};

/// How often the store is compared with its audit log and anchor, and forgets what nobody needs any more.
const COMPARE: Duration = Duration::from_secs(3600);
/// When a rotation that could not go on is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// The most characters of what is shown of a source's words.
const MAX_WORDS: usize = 400;

/// What the task says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct SealerStatus {
    /// Records that a data key seals which is no longer the active one.
    pub(super) rows_on_old_key: u64,
    /// Key slots.
    pub(super) slots: usize,
    /// Key slots that their source does not open.
    pub(super) failing: usize,
    /// Those whose key has an end.
    pub(super) endings: Vec<Ending>,
}

/// When keys of key slots end, as far as their sources say so.
pub(super) struct SlotEndings(pub(super) watch::Receiver<SealerStatus>);

#[async_trait]
impl ExpirySource for SlotEndings {
    async fn endings(&self, _: Timestamp) -> Result<Vec<Ending>, CallError> {
        Ok(self.0.borrow().endings.clone())
    }
}

fn ending(slot: &SlotStatus) -> Option<Ending> {
    Some(Ending {
        kind: ExpiryKind::Kek,
        name: slot.name.clone(),
        node: None,
        state: None,
        tenant: None,
        began: slot.created,
        ends: slot.ends?,
        advice: Some("credence kek add-slot with another key, then credence kek remove-slot"),
    })
}

/// Carries rotations of data keys on, and watches over the store.
pub(super) struct Sealer {
    pub(super) store: Store,
    /// As it could be read last.
    pub(super) config: Config,
    /// Read anew at each look: slots come and go while we run.
    pub(super) config_path: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) wake: Arc<Notify>,
    pub(super) status: watch::Sender<SealerStatus>,
}

impl Sealer {
    /// Until `shutdown`. Begins with what an earlier process left half done.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        if let Err(error) = self.store.note_findings().await {
            tracing::warn!(%error, "what was found wrong at the start is not in the audit log");
        }
        loop {
            if let Err(error) = self.store.check_rollback().await {
                tracing::warn!(%error, "store was not compared with its audit log");
            }
            self.forget_requests(&shutdown).await;
            let next = self.clock.now() + COMPARE;
            let mut look = true;
            loop {
                let finished = self.carry_on(&shutdown).await;
                let until = if finished { next } else { next.min(self.clock.now() + RETRY) };
                // A Vault that does not answer holds up neither a rotation nor the end.
                if std::mem::take(&mut look) {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = self.look_at_slots() => {}
                    }
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.wake.notified() => look = true,
                    () = self.clock.sleep_until(until) => {}
                }
                if self.clock.now() >= next {
                    break;
                }
            }
        }
    }

    /// What nobody needs any more of what issuers were asked for; others write in between.
    async fn forget_requests(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            match self.store.forget_requests(self.clock.now()).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "requests for leaves that have ended are still kept");
                    return;
                }
            }
        }
    }

    /// Step by step, each a transaction of its own, so that other changes come in between. Answers whether nothing
    /// is left.
    async fn carry_on(&self, shutdown: &CancellationToken) -> bool {
        loop {
            let step = self.store.advance().await;
            if let Ok(count) = self.store.rows_on_old_key().await {
                self.status.send_modify(|status| status.rows_on_old_key = count);
            }
            match step {
                Ok(Progress::Done) => return true,
                Ok(step) => tracing::info!(?step, "data keys"),
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%error, cause, hint = error.hint(), "data key cannot be followed yet");
                    return false;
                }
            }
            if shutdown.is_cancelled() {
                return true;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn look_at_slots(&mut self) {
        read_again(&mut self.config, &self.config_path);
        // A descriptor can be read once only: what was given at the start is not asked again here.
        let asking = Asking { clock: self.clock.clone(), patience: PATIENT, pipes: Pipes::Left };
        let Ok(sources) = keys::sources(&self.config, &asking) else { return };
        if let Ok(slots) = self.store.slot_status(&sources).await {
            let failing = slots.iter().filter(|slot| matches!(slot.health, SlotHealth::Fails(_))).count();
            for slot in &slots {
                if let SlotHealth::Fails(why) = &slot.health {
                    tracing::warn!(slot = slot.name, why, "a key slot would not open the store now");
                }
                for warning in &slot.warnings {
                    tracing::warn!(slot = slot.name, warning, "a key slot opens the store");
                }
            }
            self.status.send_modify(|status| {
                (status.slots, status.failing) = (slots.len(), failing);
                status.endings = slots.iter().filter_map(ending).collect();
            });
        }
    }
}

/// What the calls work with.
pub(super) struct StoreKeys {
    pub(super) store: Store,
    /// Read anew at each call that needs a source.
    pub(super) config_path: PathBuf,
    pub(super) dev: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) wake: Arc<Notify>,
    pub(super) status: watch::Receiver<SealerStatus>,
}

impl StoreKeys {
    fn config(&self) -> Result<Config, CallError> {
        load_config(&self.config_path, self.dev).map_err(|error| CallError::Conflict {
            what: "configuration",
            name: self.config_path.display().to_string(),
            why: format!("cannot be read: {error:#}"),
        })
    }

    fn sources(&self) -> Result<Vec<SlotSource>, CallError> {
        let unreadable = |error: anyhow::Error| CallError::Policy(shorten(&format!("{error:#}")));
        keys::sources(&self.config()?, &self.asking(Pipes::Left)).map_err(unreadable)
    }

    fn asking(&self, pipes: Pipes) -> Asking {
        Asking { clock: self.clock.clone(), patience: BRISK, pipes }
    }

    /// What the configuration says opens the slot of that name.
    fn named(&self, name: &str) -> Result<store::KekSource, CallError> {
        let config = self.config()?;
        let slot = config.slots.iter().find(|slot| slot.name == name).ok_or_else(|| {
            CallError::Policy(format!(
                "key slot {name} is not in secrets.slots of {}: name it there, with what opens it",
                self.config_path.display()
            ))
        })?;
        keys::source(&slot.source, &self.asking(Pipes::Read))
            .map_err(|error| CallError::Policy(shorten(&format!("{error:#}"))))
    }
}

/// By blame, with what to do about it.
fn refused(error: RotationError) -> CallError {
    let words = || {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        shorten(&format!("{error}{cause}; {}", error.hint()))
    };
    match &error {
        RotationError::SlotExists(name) => CallError::Exists { what: "key slot", name: name.clone() },
        RotationError::NoSlot(name) => CallError::NotFound { what: "key slot", name: name.clone() },
        RotationError::NoKey(class) => CallError::NotFound { what: "data key", name: (*class).into() },
        RotationError::Unavailable(why) => CallError::Unavailable { part: "store", why: why.clone() },
        RotationError::Kek(_)
        | RotationError::Unlock(_)
        | RotationError::TooManySlots
        | RotationError::NotProven(_)
        | RotationError::LastSlot(_)
        | RotationError::OnlyTransit(_)
        | RotationError::NoVersions { .. }
        | RotationError::WouldLockOut { .. }
        | RotationError::SlotNotAtHand(_)
        | RotationError::Record { .. } => CallError::Policy(words()),
    }
}

fn only_transit(insecure_single_slot: bool) -> OnlyTransit {
    if insecure_single_slot { OnlyTransit::Accepted } else { OnlyTransit::Refused }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_WORDS).collect()
}

#[async_trait]
impl Sealing for StoreKeys {
    async fn status(&self) -> Result<wire::Sealing, CallError> {
        // Without any source the slots are shown as offline.
        let sources = self.sources().unwrap_or_default();
        let found = self.store.sealing(&sources).await.map_err(refused)?;
        let held: Vec<Held> = found.slots.iter().map(Held::from).collect();
        let mut warnings = self
            .config()
            .map(|config| key_slots::idle(&config, &held, keys::is_handed_over))
            .unwrap_or_default();
        if found.slots.len() < 2 {
            warnings.push(
                "there is one key slot only: a lost key is the loss of the store; add another".to_owned(),
            );
        }
        let stale = |slot: &SlotStatus| match (slot.version, &slot.key) {
            (Some(version), Some(key)) => format!(
                "key slot {name} was made by version {version} of {}, the key to use is version {} of {}: credence kek \
                 rotate slot {name}",
                slot.key_id,
                key.latest,
                key.key_id,
                name = slot.name
            ),
            _ => format!("key slot {} has another key by now: add it anew under another name", slot.name),
        };
        warnings.extend(found.slots.iter().filter(|slot| slot.stale).map(stale));
        for slot in &found.slots {
            warnings.extend(
                slot.warnings.iter().map(|warning| format!("key slot {}: {}", slot.name, shorten(warning))),
            );
        }
        if !found.slots.is_empty() && found.slots.iter().all(|slot| slot.kind == SlotKind::Transit) {
            warnings.push(
                "only Vault opens the store, whoever loses it loses everything: credence kek add-slot recovery"
                    .to_owned(),
            );
        }
        let slots = found.slots.into_iter().map(|slot| {
            let (state, problem) = match slot.health {
                SlotHealth::Opens => ("opens", None),
                SlotHealth::Fails(why) => ("fails", Some(shorten(&why))),
                SlotHealth::Offline => ("offline", None),
            };
            wire::KeySlot {
                name: slot.name,
                kind: slot.kind.to_string(),
                key_id: slot.key_id,
                created: slot.created.to_string(),
                state: state.to_owned(),
                problem,
                stale: slot.stale,
                ends: slot.ends.map(|ends| ends.to_string()),
                version: slot.version,
                latest_version: slot.key.as_ref().map(|key| key.latest),
                minimum_version: slot.key.as_ref().map(|key| key.minimum),
            }
        });
        let data_keys = found.data_keys.into_iter().map(|key| wire::DataKey {
            id: key.id.to_string(),
            tenant: key.tenant,
            class: key.class.word().to_owned(),
            version: key.version,
            state: key.state.word().to_owned(),
            records: key.records,
        });
        Ok(wire::Sealing {
            slots: slots.collect(),
            root_key: found.root.to_string(),
            data_keys: data_keys.collect(),
            rows_on_old_key: found.rows_on_old_key,
            warnings,
        })
    }

    async fn add_slot(&self, name: &str, dry_run: bool, event: Event) -> Result<(), CallError> {
        let source = self.named(name)?;
        if dry_run {
            let slots = self.store.slot_status(&[]).await.map_err(refused)?;
            let exists = slots.iter().any(|slot| slot.name == name);
            return if exists { Err(refused(RotationError::SlotExists(name.into()))) } else { Ok(()) };
        }
        self.store.add_slot(name, source, event).await.map_err(refused)?;
        self.wake.notify_one();
        Ok(())
    }

    fn configured(&self, name: &str) -> Result<Option<String>, CallError> {
        let (config, path) = (self.config()?, self.config_path.display());
        Ok(named_in(&config, name).map(|key| format!("{key} of {path}")))
    }

    async fn remove_slot(&self, name: &str, removal: Removal<'_>, event: Event) -> Result<(), CallError> {
        let only_transit = only_transit(removal.insecure_single_slot);
        if let Some(instead) = removal.instead {
            let kind = self.named(instead)?.kind();
            return self.store.may_replace_slot(name, kind, only_transit).await.map_err(refused);
        }
        let sources = self.sources()?;
        if removal.dry_run {
            return self.store.may_remove_slot(name, &sources, only_transit).await.map_err(refused);
        }
        self.store.remove_slot(name, &sources, only_transit, event).await.map_err(refused)?;
        self.wake.notify_one();
        Ok(())
    }

    async fn rewrap_slot(&self, name: &str, dry_run: bool, event: Event) -> Result<(), CallError> {
        self.store.may_rewrap_slot(name).await.map_err(refused)?;
        let source = self.named(name)?;
        if dry_run {
            return Ok(());
        }
        self.store.rewrap_slot(name, &source, event).await.map_err(refused)?;
        self.wake.notify_one();
        Ok(())
    }

    async fn rotate_root(
        &self,
        leave_behind: &[String],
        insecure_single_slot: bool,
        dry_run: bool,
        event: Event,
    ) -> Result<(), CallError> {
        let (sources, only_transit) = (self.sources()?, only_transit(insecure_single_slot));
        if dry_run {
            return self.store.may_rotate_root(&sources, leave_behind, only_transit).await.map_err(refused);
        }
        self.store.rotate_root(&sources, leave_behind, only_transit, event).await.map_err(refused)?;
        self.wake.notify_one();
        Ok(())
    }

    async fn rotate_data(
        &self,
        class: Option<&str>,
        dry_run: bool,
        event: Event,
    ) -> Result<Vec<String>, CallError> {
        let words = || Class::ALL.map(Class::word).join(", ");
        let class = class
            .map(|word| {
                Class::parse(word).ok_or_else(|| CallError::Parameter {
                    what: "class",
                    why: format!("{word:?} is none of {}", words()),
                })
            })
            .transpose()?;
        if dry_run {
            return Ok(class.map_or_else(|| Class::ALL.to_vec(), |one| vec![one]))
                .map(|classes| classes.into_iter().map(|one| one.word().to_owned()).collect());
        }
        let made = self.store.prepare_data_keys(class, event).await.map_err(refused)?;
        self.wake.notify_one();
        if made.is_empty() {
            return Err(CallError::Conflict {
                what: "data key",
                name: class.map_or("of any class", Class::word).to_owned(),
                why: "is being followed already".to_owned(),
            });
        }
        Ok(made.into_iter().map(|one| one.word().to_owned()).collect())
    }

    fn store(&self) -> wire::StoreState {
        let status = self.status.borrow().clone();
        let anchor = match self.store.anchor() {
            None => {
                "none: a rollback of the whole store would not be noticed; see storage.anchor_file".to_owned()
            }
            Some(anchor) => match (anchor.problem, anchor.at) {
                (Some(problem), _) => format!("cannot be written: {problem}"),
                (None, Some(at)) => format!("holds audit row {} since {at}", anchor.sequence),
                (None, None) => "not written yet".to_owned(),
            },
        };
        let findings = self.store.findings().borrow().clone();
        let advice: BTreeSet<&str> = findings.iter().map(store::Finding::hint).collect();
        wire::StoreState {
            findings: findings.iter().map(ToString::to_string).collect(),
            advice: advice.into_iter().map(str::to_owned).collect(),
            anchor,
            slots: status.slots,
            rows_on_old_key: status.rows_on_old_key,
        }
    }

    async fn accept(&self, event: Event) -> Result<(), CallError> {
        Ok(self.store.accept(event).await?)
    }
}
