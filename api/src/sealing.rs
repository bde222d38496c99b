//! The port to the keys that seal the store. `server` connects it to the store and to what its configuration names.

use async_trait::async_trait;
use audit::Event;

use crate::{calls::CallError, wire};

/// How a slot is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removal<'a> {
    /// The slot that takes its place: it is taken as there.
    pub instead: Option<&'a str>,
    /// Slots of Vault's Transit engine only may be left.
    pub insecure_single_slot: bool,
    /// Only look whether it could be.
    pub dry_run: bool,
}

/// Keys of the store. Whatever adds a slot takes its key from where the server's own configuration says, never from
/// the caller.
#[async_trait]
pub trait Sealing: Send + Sync {
    /// How it stands; every source is asked anew.
    ///
    /// # Errors
    /// When the store or the configuration cannot be read.
    async fn status(&self) -> Result<wire::Sealing, CallError>;

    /// Adds the slot of that name, proven to open; with `dry_run`, only looks whether it could be.
    ///
    /// # Errors
    /// When it exists, is not configured, or its key cannot be used.
    async fn add_slot(&self, name: &str, dry_run: bool, event: Event) -> Result<(), CallError>;

    /// Where the server's configuration names the slot, if it does.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    fn configured(&self, name: &str) -> Result<Option<String>, CallError>;

    /// Removes the slot of that name.
    ///
    /// # Errors
    /// When there is none, it is the last, no other opens, or only slots in Vault would be left and nobody wants that.
    async fn remove_slot(&self, name: &str, removal: Removal<'_>, event: Event) -> Result<(), CallError>;

    /// Wraps the root key of the slot anew with the latest version of its key; with `dry_run`, only looks whether that
    /// could be.
    ///
    /// # Errors
    /// When there is none, its key has no versions, or cannot be used.
    async fn rewrap_slot(&self, name: &str, dry_run: bool, event: Event) -> Result<(), CallError>;

    /// Replaces the root key; with `dry_run`, only looks whether it could be.
    ///
    /// # Errors
    /// When a slot is neither at hand nor left behind, or only slots in Vault would be left and nobody wants that.
    async fn rotate_root(
        &self,
        leave_behind: &[String],
        insecure_single_slot: bool,
        dry_run: bool,
        event: Event,
    ) -> Result<(), CallError>;

    /// Begins to replace the data keys of one class or all; answers the classes.
    ///
    /// # Errors
    /// When there is no such class, or the store cannot write.
    async fn rotate_data(
        &self,
        class: Option<&str>,
        dry_run: bool,
        event: Event,
    ) -> Result<Vec<String>, CallError>;

    /// Whether the store is what it was.
    fn store(&self) -> wire::StoreState;

    /// Takes the store as it is.
    ///
    /// # Errors
    /// When the store cannot write.
    async fn accept(&self, event: Event) -> Result<(), CallError>;
}

/// Slots by name in memory, of a configuration that names every slot but `unknown`. Those whose names begin with `vault`
/// are in one. While there is one called `stays`, none can be removed.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug)]
pub struct MemorySealing {
    slots: std::sync::Mutex<std::collections::BTreeSet<String>>,
    /// What the store is found to be.
    pub state: std::sync::Mutex<wire::StoreState>,
}

#[cfg(any(test, feature = "testing"))]
impl Default for MemorySealing {
    /// One slot, `primary`.
    fn default() -> Self {
        Self {
            slots: std::sync::Mutex::new(["primary".to_owned()].into()),
            state: std::sync::Mutex::default(),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl MemorySealing {
    fn slots(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<String>> {
        self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(any(test, feature = "testing"))]
#[async_trait]
impl Sealing for MemorySealing {
    async fn status(&self) -> Result<wire::Sealing, CallError> {
        let slot = |name: &String| wire::KeySlot {
            name: name.clone(),
            kind: "key-file".into(),
            key_id: String::new(),
            created: String::new(),
            state: "opens".into(),
            problem: None,
            stale: false,
            ends: None,
            version: None,
            latest_version: None,
            minimum_version: None,
        };
        Ok(wire::Sealing {
            slots: self.slots().iter().map(slot).collect(),
            root_key: String::new(),
            data_keys: Vec::new(),
            rows_on_old_key: 0,
            warnings: Vec::new(),
        })
    }

    async fn add_slot(&self, name: &str, dry_run: bool, _: Event) -> Result<(), CallError> {
        if name == "unknown" {
            return Err(CallError::NotFound { what: "key slot", name: name.into() });
        }
        let mut slots = self.slots();
        if slots.contains(name) {
            return Err(CallError::Exists { what: "key slot", name: name.into() });
        }
        if !dry_run {
            slots.insert(name.into());
        }
        Ok(())
    }

    fn configured(&self, name: &str) -> Result<Option<String>, CallError> {
        Ok((name == "recovery").then(|| "secrets.slots of credence.yaml".to_owned()))
    }

    async fn remove_slot(&self, name: &str, removal: Removal<'_>, _: Event) -> Result<(), CallError> {
        let mut slots = self.slots();
        if !slots.contains(name) {
            return Err(CallError::NotFound { what: "key slot", name: name.into() });
        }
        let mut left =
            slots.iter().map(String::as_str).filter(|slot| *slot != name).chain(removal.instead).peekable();
        if left.peek().is_none() {
            return Err(CallError::Policy("it is the last one".into()));
        }
        if !removal.insecure_single_slot && left.all(|slot| slot.starts_with("vault")) {
            return Err(CallError::Policy("only Vault would open the store".into()));
        }
        if !removal.dry_run {
            if slots.contains("stays") {
                return Err(CallError::Unavailable { part: "key slot", why: "the one that stays".into() });
            }
            slots.remove(name);
        }
        Ok(())
    }

    async fn rewrap_slot(&self, name: &str, _: bool, _: Event) -> Result<(), CallError> {
        if !self.slots().contains(name) {
            return Err(CallError::NotFound { what: "key slot", name: name.into() });
        }
        if name.starts_with("vault") {
            return Ok(());
        }
        Err(CallError::Policy("its key has no versions".into()))
    }

    async fn rotate_root(&self, _: &[String], _: bool, _: bool, _: Event) -> Result<(), CallError> {
        Ok(())
    }

    async fn rotate_data(&self, class: Option<&str>, _: bool, _: Event) -> Result<Vec<String>, CallError> {
        Ok(vec![class.unwrap_or("ca").into()])
    }

    fn store(&self) -> wire::StoreState {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    async fn accept(&self, _: Event) -> Result<(), CallError> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).findings.clear();
        Ok(())
    }
}
