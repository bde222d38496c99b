//! The keys that seal the store, and what is done when the store is not what it was.

use audit::{Action, Event};

use super::{CallError, Caller, Calls};
use crate::{
    sealing::Removal,
    wire::{self, RotatedKey},
};

impl Calls {
    /// Key slots and data keys.
    ///
    /// # Errors
    /// When the store or the configuration cannot be read.
    pub async fn sealing(&self) -> Result<wire::Sealing, CallError> {
        self.sealing.status().await
    }

    /// Adds the key slot that the server's configuration names, and proves that it opens the store.
    ///
    /// # Errors
    /// When it exists, is not configured, or its key cannot be used.
    pub async fn add_slot(&self, caller: &Caller, wanted: &wire::AddSlot) -> Result<wire::Done, CallError> {
        let event = self.key_event(caller, Action::KekSlotAdd, &wanted.name, &wanted.reason);
        self.sealing.add_slot(&wanted.name, wanted.dry_run, event).await?;
        let word = if wanted.dry_run { "would add" } else { "added" };
        let summary = format!("{word} key slot {}: any one slot opens the store", wanted.name);
        Ok(wire::Done { dry_run: wanted.dry_run, summary })
    }

    /// Removes a key slot.
    ///
    /// # Errors
    /// When there is none, it is the last, no other opens with what the server's configuration names, or only slots in
    /// Vault would be left.
    pub async fn remove_slot(
        &self,
        caller: &Caller,
        name: &str,
        reason: &str,
        insecure_single_slot: bool,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let event = self.key_event(caller, Action::KekSlotRemove, name, reason);
        let event = accepted(event, insecure_single_slot);
        let removal = Removal { instead: None, insecure_single_slot, dry_run };
        // Asked first: nothing may fail once it is removed.
        let named = self.sealing.configured(name)?;
        self.sealing.remove_slot(name, removal, event).await?;
        let word = if dry_run { "would remove" } else { "removed" };
        let named = named.map_or_else(String::new, |place| {
            format!("; {place} still leads to that key, which opens nothing more: change that too")
        });
        let summary = format!(
            "{word} key slot {name}: its key opens this store no more, and copies made before still; \
             \"credence kek rotate root\" and \"rotate data\" leave those behind{named}"
        );
        Ok(wire::Done { dry_run, summary })
    }

    /// Replaces a key-encryption key, the root key, or data keys.
    ///
    /// # Errors
    /// As the single steps say.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        wanted: &wire::RotateKey,
    ) -> Result<wire::KeyRotation, CallError> {
        let (dry_run, reason) = (wanted.dry_run, &wanted.reason);
        let insecure_single_slot = wanted.insecure_single_slot;
        let steps = match &wanted.key {
            RotatedKey::Slot { from, to: None } => {
                let event = self.key_event(caller, Action::KekSlotRewrap, from, reason);
                self.sealing.rewrap_slot(from, dry_run, event).await?;
                vec![
                    format!("wrap the root key for key slot {from} with the latest version of its key"),
                    format!("prove that {from} opens the store by it"),
                    "put it in the place of what the slot held".to_owned(),
                ]
            }
            RotatedKey::Slot { from, to: Some(to) } => {
                if from == to {
                    let why = "the new slot needs a name of its own".into();
                    return Err(CallError::Parameter { what: "to", why });
                }
                let remove = self.key_event(caller, Action::KekSlotRemove, from, reason);
                let remove = accepted(remove, insecure_single_slot);
                // Before anything is added that would then be left over.
                let removal = Removal { instead: Some(to), insecure_single_slot, dry_run: true };
                self.sealing.remove_slot(from, removal, remove.clone()).await?;
                let named = self.sealing.configured(from)?;
                let add = self.key_event(caller, Action::KekSlotAdd, to, reason);
                self.sealing.add_slot(to, dry_run, add).await?;
                if !dry_run {
                    let removal = Removal { instead: None, insecure_single_slot, dry_run };
                    let removed = self.sealing.remove_slot(from, removal, remove).await;
                    removed.map_err(|error| half_rotated(from, to, &error))?;
                }
                let mut steps = vec![
                    format!("add key slot {to} from where credence.yaml says"),
                    format!("prove that {to} opens the store"),
                    format!("remove key slot {from}"),
                ];
                steps.extend(named.map(|place| format!("left to you: take {from} out of {place}")));
                steps
            }
            RotatedKey::Root { leave_behind } => {
                let event = self.key_event(caller, Action::RootKeyRotate, "root", reason);
                let event = accepted(event, insecure_single_slot);
                let mut left_to_you = Vec::new();
                for name in leave_behind {
                    let named = self.sealing.configured(name)?;
                    left_to_you.extend(named.map(|place| format!("left to you: take {name} out of {place}")));
                }
                self.sealing.rotate_root(leave_behind, insecure_single_slot, dry_run, event).await?;
                let mut steps = vec![
                    "make a root key and wrap it for every slot".to_owned(),
                    "wrap every data key under it, in one transaction".to_owned(),
                ];
                steps.extend(leave_behind.iter().map(|name| format!("remove key slot {name}")));
                steps.extend(left_to_you);
                steps
            }
            RotatedKey::Data { class } => {
                let event = self.key_event(caller, Action::DataKeyPrepare, "data", reason);
                let classes = self.sealing.rotate_data(class.as_deref(), dry_run, event).await?;
                vec![
                    format!("make the next data key of {}", classes.join(", ")),
                    "seal every record anew, 200 at a time, while everything serves".to_owned(),
                    "destroy the old data key when it seals nothing any more".to_owned(),
                ]
            }
        };
        Ok(wire::KeyRotation { dry_run, steps })
    }

    /// Takes the store as it is: what stopped signing is written down as accepted.
    ///
    /// # Errors
    /// When there is nothing to accept, no reason is given, or the store cannot write.
    pub async fn accept_store(
        &self,
        caller: &Caller,
        wanted: &wire::AcceptStore,
    ) -> Result<wire::Done, CallError> {
        if wanted.reason.trim().is_empty() {
            return Err(CallError::Parameter { what: "reason", why: "it is empty".into() });
        }
        let findings = self.sealing.store().findings;
        if findings.is_empty() {
            return Err(CallError::NotFound { what: "finding", name: "about the store".into() });
        }
        if !wanted.dry_run {
            let event = self.key_event(caller, Action::StoreAccept, "store", &wanted.reason);
            self.sealing.accept(event.with("findings", findings.join("; "))).await?;
        }
        let word = if wanted.dry_run { "would accept" } else { "accepted" };
        // Nobody can say what an older copy lacks: it is what would.
        let summary = format!(
            "{word}: {}; signing goes on; of an older copy, what was done after it is undone (blocks, revocations, \
             enrolments, documents): do again what is to hold",
            findings.join("; ")
        );
        Ok(wire::Done { dry_run: wanted.dry_run, summary })
    }

    fn key_event(&self, caller: &Caller, action: Action, object: &str, reason: &str) -> Event {
        let mut event = caller.event(self.clock.now(), action, object);
        event.reason = reason.to_owned();
        event
    }
}

/// What was accepted beside stands in the audit log.
fn accepted(event: Event, insecure_single_slot: bool) -> Event {
    if insecure_single_slot { event.with("insecure_single_slot", true) } else { event }
}

/// The new slot stands, and the old one too: the same command again would be refused, by the new one's name.
fn half_rotated(from: &str, to: &str, error: &CallError) -> CallError {
    tracing::warn!(slot = from, %error, "key slot is not removed, and the one in its place stands");
    let why = format!(
        "was added and stands, and {from} was not removed: {error}; what is left to do: credence kek remove-slot {from}",
        error = error.told()
    );
    CallError::Conflict { what: "key slot", name: to.to_owned(), why }
}
