//! Slots are added and removed, and the root key that all of them hold is replaced, each in one transaction.

use async_trait::async_trait;
use audit::Event;
use sqlx::SqliteConnection;
use thiserror::Error;
use uuid::Uuid;

use super::{MAX_SLOTS, NewSlot, Slot, SlotHealth, SlotSource, SlotStatus, UnlockError};
use crate::{
    Store,
    kek::{Cost, KekError, KekSource, SlotKind},
    keyring::new_root,
    rollback::{ROOT_KEY, SLOT},
    row::uuid,
    seal::{SealError, SealingKey},
    writer::{Change, Fault, Refusal, Tx},
};

/// Whether a change may leave slots of Vault's Transit engine only: whoever loses that Vault loses the store with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyTransit {
    /// It may not.
    Refused,
    /// Somebody has said that he wants it.
    Accepted,
}

/// Whether slots of Transit only would be left.
pub(crate) fn are_transit_only(kinds: impl IntoIterator<Item = SlotKind>) -> bool {
    let mut kinds = kinds.into_iter().peekable();
    kinds.peek().is_some() && kinds.all(|kind| kind == SlotKind::Transit)
}

/// Why keys were not changed.
#[derive(Debug, Error)]
pub enum RotationError {
    /// The key-encryption key was not taken.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// A slot did not open.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// There is a slot of that name.
    #[error("key slot {0} exists already")]
    SlotExists(String),
    /// There is none.
    #[error("key slot {0} does not exist")]
    NoSlot(String),
    /// No more slots are taken.
    #[error("store has {MAX_SLOTS} key slots already")]
    TooManySlots,
    /// What the new slot holds did not come out of it again.
    #[error("key slot {0} was made and does not open: nothing was kept")]
    NotProven(String),
    /// It is the last slot.
    #[error("key slot {0} is the last one: without it nothing opens the store")]
    LastSlot(String),
    /// Only slots of Transit would be left.
    #[error(
        "without key slot {0} only Vault's Transit opens the store: whoever loses that Vault loses everything"
    )]
    OnlyTransit(String),
    /// Its key has no versions, so that it could be wrapped anew by the same key.
    #[error("key slot {slot} is a {kind}, whose key has no versions")]
    NoVersions {
        /// The slot.
        slot: String,
        /// What opens it.
        kind: SlotKind,
    },
    /// No other slot opens with what the server is given.
    #[error("no other slot than {slot} opens with what the configuration names: {others}")]
    WouldLockOut {
        /// The slot that was to be removed.
        slot: String,
        /// How the others stand.
        others: String,
    },
    /// Slots would be left with the old root key.
    #[error("key slot {0} is not at hand and would no longer open")]
    SlotNotAtHand(String),
    /// There is no data key to follow.
    #[error("there is no data key of class {0}")]
    NoKey(&'static str),
    /// A record cannot be opened to be sealed anew.
    #[error("sealed {row} cannot be sealed anew")]
    Record {
        /// Which.
        row: String,
        /// Why.
        source: SealError,
    },
    /// The store cannot write.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
}

impl RotationError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Kek(error) => error.hint(),
            Self::Unlock(error) => error.hint(),
            Self::SlotExists(_) => "choose another name; a slot is never overwritten".into(),
            Self::NoSlot(_) => "`credence kek status` lists the slots".into(),
            Self::TooManySlots => "remove one first".into(),
            Self::NotProven(_) => "look at its source and try again".into(),
            Self::LastSlot(_) => "add another slot first".into(),
            Self::OnlyTransit(_) => {
                "add a recovery slot first: `credence kek add-slot`; --insecure-single-slot does without".into()
            }
            Self::NoVersions { slot, .. } => {
                format!("replace it by another slot: credence kek rotate slot {slot} --to NAME")
            }
            Self::WouldLockOut { .. } => {
                "name another slot in secrets.slots of credence.yaml and see that it opens: `credence kek status`"
                    .into()
            }
            Self::SlotNotAtHand(_) => {
                "name it in secrets.slots of credence.yaml for this once, or leave it behind by name".into()
            }
            Self::NoKey(_) => "`credence kek status` lists the data keys".into(),
            Self::Record { .. } => "restore that record; the others go on once it is mended".into(),
            Self::Unavailable(_) => "look at the server's log".into(),
        }
    }
}

impl Refusal for RotationError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }
}

/// A slot, the root key that it wraps, and what is recorded of it.
struct InsertSlot(Slot, Uuid, Event);

#[async_trait]
impl Change for InsertSlot {
    type Answer = ();
    type Refusal = RotationError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<RotationError>> {
        let slots = Slot::load(tx.sql()).await?;
        if slots.iter().any(|slot| slot.name == self.0.name) {
            return Err(Fault::Refused(RotationError::SlotExists(self.0.name)));
        }
        if slots.len() >= MAX_SLOTS {
            return Err(Fault::Refused(RotationError::TooManySlots));
        }
        // Wrapping takes seconds with a passphrase or a token: meanwhile the root key may have been replaced.
        if tx.keyring().root().id != self.1 {
            let reason = "the root key was replaced meanwhile, ask again";
            return Err(Fault::Refused(RotationError::Unavailable(reason.into())));
        }
        self.0.insert(tx.sql()).await?;
        tx.record(self.2.with("slot_kind", self.0.kind).with("key_id", &self.0.key_id));
        Ok(())
    }
}

struct DeleteSlot {
    name: String,
    only_transit: OnlyTransit,
    event: Event,
}

#[async_trait]
impl Change for DeleteSlot {
    type Answer = ();
    type Refusal = RotationError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<RotationError>> {
        let slots = Slot::load(tx.sql()).await?;
        let Some(slot) = slots.iter().find(|slot| slot.name == self.name) else {
            return Err(Fault::Refused(RotationError::NoSlot(self.name)));
        };
        if slots.len() == 1 {
            return Err(Fault::Refused(RotationError::LastSlot(self.name)));
        }
        let left = slots.iter().filter(|other| other.id != slot.id).map(|other| other.kind);
        if self.only_transit == OnlyTransit::Refused && are_transit_only(left) {
            return Err(Fault::Refused(RotationError::OnlyTransit(self.name)));
        }
        delete_slot(tx.sql(), slot.id).await?;
        tx.key_destroyed();
        tx.record(self.event.with("slot_kind", slot.kind).with(SLOT, slot.id));
        Ok(())
    }
}

/// A slot whose root key was wrapped anew, and which root key that is.
struct RewrapSlot(Slot, Uuid, Event);

#[async_trait]
impl Change for RewrapSlot {
    type Answer = ();
    type Refusal = RotationError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<RotationError>> {
        let Self(slot, root, event) = self;
        if !Slot::load(tx.sql()).await?.iter().any(|kept| kept.id == slot.id) {
            return Err(Fault::Refused(RotationError::NoSlot(slot.name)));
        }
        // As for a new slot.
        if tx.keyring().root().id != root {
            let reason = "the root key was replaced meanwhile, ask again";
            return Err(Fault::Refused(RotationError::Unavailable(reason.into())));
        }
        slot.update(tx.sql()).await?;
        tx.key_destroyed();
        let event = event.with("slot_kind", slot.kind).with("key_id", &slot.key_id);
        tx.record(match slot.version() {
            Some(version) => event.with("key_version", version),
            None => event,
        });
        Ok(())
    }
}

async fn delete_slot(connection: &mut SqliteConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM key_slots WHERE id = ?")
        .bind(id.as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

/// Replaces the root key: every slot that stays holds the new one, every data key is wrapped by it, all at once. A slot
/// that is not among those would hold the old key, and open nothing any more.
pub(crate) struct ReplaceRoot {
    root: SealingKey,
    slots: Vec<Slot>,
    left_behind: Vec<Uuid>,
    event: Event,
}

#[async_trait]
impl Change for ReplaceRoot {
    type Answer = ();
    type Refusal = RotationError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<RotationError>> {
        let id = self.root.id;
        let mut known: Vec<Uuid> = self.slots.iter().map(|slot| slot.id).collect();
        known.extend(&self.left_behind);
        known.sort();
        let kept = sqlx::query("SELECT id FROM key_slots").fetch_all(tx.sql()).await?;
        let mut kept = kept.iter().map(|row| uuid(row, "id")).collect::<Result<Vec<_>, _>>()?;
        kept.sort();
        // Not by their number: one that was added while another was removed leaves as many.
        if kept != known {
            let reason = "slots were added or removed meanwhile, ask again";
            return Err(Fault::Refused(RotationError::Unavailable(reason.into())));
        }
        let (keyring, rows) = tx.keyring().wrap_anew(self.root);
        sqlx::query("UPDATE store SET root_key = ?").bind(id.as_bytes().as_slice()).execute(tx.sql()).await?;
        for slot in &self.slots {
            slot.update(tx.sql()).await?;
        }
        for slot in self.left_behind {
            delete_slot(tx.sql(), slot).await?;
        }
        for row in &rows {
            row.update(tx.sql()).await?;
        }
        tx.set_keyring(keyring);
        tx.key_destroyed();
        tx.record(self.event.with(ROOT_KEY, id).with("data_keys", rows.len()));
        Ok(())
    }
}

impl Store {
    /// Adds a key slot and proves that it opens before it is kept. A key file or key on a token that does not
    /// exist is made.
    ///
    /// # Errors
    /// See [`RotationError`]; whichever it is, no slot was added.
    pub async fn add_slot(&self, name: &str, source: KekSource, event: Event) -> Result<(), RotationError> {
        let _alone = self.changing_slots().await;
        if self.slots().await?.iter().any(|slot| slot.name == name) {
            return Err(RotationError::SlotExists(name.into()));
        }
        let new = NewSlot { name: name.into(), source, cost: Cost::default() };
        let fresh = match &new.source {
            KekSource::File(path) if path.symlink_metadata().is_err() => Some(path.clone()),
            _ => None,
        };
        let added = self.prove_and_insert(&new, event).await;
        match (&added, fresh) {
            // Whether a commit that was not answered stands cannot be known: then its key stays.
            (Ok(()) | Err(RotationError::Unavailable(_)), _) | (Err(_), None) => {}
            // A key that opens nothing: best effort, a further attempt would use it.
            (Err(_), Some(path)) => drop(std::fs::remove_file(path)),
        }
        added
    }

    async fn prove_and_insert(&self, new: &NewSlot, event: Event) -> Result<(), RotationError> {
        let (keyring, apart) = (self.keyring(), self.apart());
        let slot = Slot::make(keyring.root(), self.id(), new, apart, true, event.at).await?;
        // Asked anew, as at the next start.
        let proof = slot.open(self.id(), keyring.root().id, &new.source, apart).await?;
        if !proof.is_some_and(|root| keyring.root().is(root.expose())) {
            return Err(RotationError::NotProven(new.name.clone()));
        }
        self.write(InsertSlot(slot, keyring.root().id, event)).await
    }

    /// Whether [`Store::remove_slot`] would do it.
    ///
    /// # Errors
    /// When it would not.
    pub async fn may_remove_slot(
        &self,
        name: &str,
        sources: &[SlotSource],
        only_transit: OnlyTransit,
    ) -> Result<(), RotationError> {
        let slots = self.slots().await?;
        if !slots.iter().any(|slot| slot.name == name) {
            return Err(RotationError::NoSlot(name.into()));
        }
        if slots.len() == 1 {
            return Err(RotationError::LastSlot(name.into()));
        }
        let left = slots.iter().filter(|slot| slot.name != name).map(|slot| slot.kind);
        if only_transit == OnlyTransit::Refused && are_transit_only(left) {
            return Err(RotationError::OnlyTransit(name.into()));
        }
        let status = self.slot_status(sources).await?;
        let others: Vec<&SlotStatus> = status.iter().filter(|slot| slot.name != name).collect();
        if others.iter().any(|slot| slot.health == SlotHealth::Opens) {
            return Ok(());
        }
        let others = others.iter().map(|slot| format!("{} {}", slot.name, word(&slot.health)));
        let others = others.collect::<Vec<_>>().join(", ");
        Err(RotationError::WouldLockOut { slot: name.into(), others })
    }

    /// Removes a key slot, unless it is the last, or no other opens with `sources`.
    ///
    /// # Errors
    /// See [`RotationError`].
    pub async fn remove_slot(
        &self,
        name: &str,
        sources: &[SlotSource],
        only_transit: OnlyTransit,
        event: Event,
    ) -> Result<(), RotationError> {
        let _alone = self.changing_slots().await;
        self.may_remove_slot(name, sources, only_transit).await?;
        self.write(DeleteSlot { name: name.into(), only_transit, event }).await
    }

    /// Whether a slot could be replaced by one that `kind` opens, as far as is known before that one exists.
    ///
    /// # Errors
    /// When it could not.
    pub async fn may_replace_slot(
        &self,
        name: &str,
        kind: SlotKind,
        only_transit: OnlyTransit,
    ) -> Result<(), RotationError> {
        let slots = self.slots().await?;
        if !slots.iter().any(|slot| slot.name == name) {
            return Err(RotationError::NoSlot(name.into()));
        }
        let left = slots.iter().filter(|slot| slot.name != name).map(|slot| slot.kind);
        if only_transit == OnlyTransit::Refused && are_transit_only(left.chain([kind])) {
            return Err(RotationError::OnlyTransit(name.into()));
        }
        Ok(())
    }

    /// The slot of that name, if its key has versions.
    async fn versioned(&self, name: &str) -> Result<Slot, RotationError> {
        let mut slots = self.slots().await?.into_iter();
        let slot =
            slots.find(|slot| slot.name == name).ok_or_else(|| RotationError::NoSlot(name.to_owned()))?;
        match slot.kind {
            SlotKind::Transit => Ok(slot),
            kind @ (SlotKind::KeyFile | SlotKind::Passphrase | SlotKind::Token) => {
                Err(RotationError::NoVersions { slot: slot.name, kind })
            }
        }
    }

    /// Whether [`Store::rewrap_slot`] could do it.
    ///
    /// # Errors
    /// When it could not.
    pub async fn may_rewrap_slot(&self, name: &str) -> Result<(), RotationError> {
        self.versioned(name).await.map(drop)
    }

    /// Wraps the root key anew with the latest version of the key of that slot, and proves that it comes out again
    /// before anything is kept. What the slot holds is not asked for: the root key is in memory.
    ///
    /// # Errors
    /// See [`RotationError`]; whichever it is, the slot is what it was.
    pub async fn rewrap_slot(
        &self,
        name: &str,
        source: &KekSource,
        event: Event,
    ) -> Result<(), RotationError> {
        let _alone = self.changing_slots().await;
        let mut slot = self.versioned(name).await?;
        if source.kind() != slot.kind {
            return Err(RotationError::NotProven(slot.name));
        }
        let (keyring, apart) = (self.keyring(), self.apart());
        slot.wrap(keyring.root(), self.id(), source, apart).await?;
        let proof = slot.open(self.id(), keyring.root().id, source, apart).await?;
        if !proof.is_some_and(|root| keyring.root().is(root.expose())) {
            return Err(RotationError::NotProven(slot.name));
        }
        self.write(RewrapSlot(slot, keyring.root().id, event)).await
    }

    /// The slots that a new root key would be wrapped for, and those that it would leave behind.
    async fn split_slots(
        &self,
        sources: &[SlotSource],
        left_behind: &[String],
        only_transit: OnlyTransit,
    ) -> Result<(Vec<Slot>, Vec<Slot>), RotationError> {
        let slots = self.slots().await?;
        if let Some(name) = left_behind.iter().find(|name| !slots.iter().any(|slot| slot.name == **name)) {
            return Err(RotationError::NoSlot(name.clone()));
        }
        let (left, stay): (Vec<_>, Vec<_>) =
            slots.into_iter().partition(|slot| left_behind.contains(&slot.name));
        if let Some(first) = left.first()
            && only_transit == OnlyTransit::Refused
            && are_transit_only(stay.iter().map(|slot| slot.kind))
        {
            return Err(RotationError::OnlyTransit(first.name.clone()));
        }
        let status = self.slot_status(sources).await?;
        let opens =
            |slot: &Slot| status.iter().any(|one| one.name == slot.name && one.health == SlotHealth::Opens);
        if let Some(slot) = stay.iter().find(|slot| !opens(slot)) {
            return Err(RotationError::SlotNotAtHand(slot.name.clone()));
        }
        if stay.is_empty() {
            let name = left.first().map(|slot| slot.name.clone()).unwrap_or_default();
            return Err(RotationError::LastSlot(name));
        }
        Ok((stay, left))
    }

    /// Whether [`Store::rotate_root`] would do it.
    ///
    /// # Errors
    /// When it would not.
    pub async fn may_rotate_root(
        &self,
        sources: &[SlotSource],
        left_behind: &[String],
        only_transit: OnlyTransit,
    ) -> Result<(), RotationError> {
        self.split_slots(sources, left_behind, only_transit).await.map(drop)
    }

    /// Replaces the root key. Every slot must be at hand, for it holds the root key; those of `left_behind` are
    /// removed instead.
    ///
    /// # Errors
    /// See [`RotationError`].
    pub async fn rotate_root(
        &self,
        sources: &[SlotSource],
        left_behind: &[String],
        only_transit: OnlyTransit,
        event: Event,
    ) -> Result<(), RotationError> {
        let _alone = self.changing_slots().await;
        let change = self.wrapped_for_slots(sources, left_behind, only_transit, event).await?;
        self.write(change).await
    }

    /// A new root key, wrapped for every slot that stays.
    pub(crate) async fn wrapped_for_slots(
        &self,
        sources: &[SlotSource],
        left_behind: &[String],
        only_transit: OnlyTransit,
        event: Event,
    ) -> Result<ReplaceRoot, RotationError> {
        let (mut stay, left) = self.split_slots(sources, left_behind, only_transit).await?;
        let (root, apart) = (new_root(), self.apart());
        let (store, keyring) = (self.id(), self.keyring());
        for slot in &mut stay {
            let mut proven = false;
            for one in sources {
                let named = one.name.as_ref().is_none_or(|name| *name == slot.name);
                if !named || one.source.kind() != slot.kind {
                    continue;
                }
                let held = slot.open(store, keyring.root().id, &one.source, apart).await?;
                if !held.is_some_and(|held| keyring.root().is(held.expose())) {
                    continue;
                }
                slot.wrap(&root, store, &one.source, apart).await?;
                let proof = slot.open(store, root.id, &one.source, apart).await?;
                proven = proof.is_some_and(|opened| root.is(opened.expose()));
                break;
            }
            if !proven {
                return Err(RotationError::NotProven(slot.name.clone()));
            }
        }
        let left_behind = left.iter().map(|slot| slot.id).collect();
        Ok(ReplaceRoot { root, slots: stay, left_behind, event })
    }

    async fn slots(&self) -> Result<Vec<Slot>, RotationError> {
        let read = async { Slot::load(&mut *self.read().await?).await };
        read.await.map_err(unavailable)
    }

    /// The slots, each asked anew: one opens only if it holds the root key that is in memory.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn slot_status(&self, sources: &[SlotSource]) -> Result<Vec<SlotStatus>, RotationError> {
        loop {
            let keyring = self.keyring();
            let slots = self.slots().await?;
            let status = super::status(self.id(), keyring.root(), &slots, sources, self.apart()).await;
            // Else the slots may be those of the one root key, and this the other.
            if self.keyring().root().id == keyring.root().id {
                return Ok(status);
            }
        }
    }
}

fn word(health: &SlotHealth) -> String {
    match health {
        SlotHealth::Opens => "opens".into(),
        SlotHealth::Fails(why) => format!("fails: {why}"),
        SlotHealth::Offline => "is offline".into(),
    }
}

fn unavailable(error: sqlx::Error) -> RotationError {
    RotationError::Unavailable(error.to_string())
}
