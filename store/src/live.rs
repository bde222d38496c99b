//! What an open store holds in memory, as of its last commit: the keys, the ledger of sealed records, the end of
//! the audit chain, and what was found wrong.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use audit::Head;
use tokio::sync::watch;

use crate::{
    keyring::Keyring,
    ledger::{Entry, Ledger, Print, RowFault, RowKey},
    rollback::Finding,
};

/// The most findings that are kept and shown.
const MAX_FINDINGS: usize = 100;

/// What was written since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Commits; each synchronised the disk once. The database's own housekeeping comes on top: about one more in 4000
    /// pages.
    pub commits: u64,
    /// Changes in them that stand.
    pub changes: u64,
}

#[derive(Debug)]
pub(crate) struct Live {
    commits: AtomicU64,
    changes: AtomicU64,
    keyring: ArcSwap<Keyring>,
    ledger: RwLock<Ledger>,
    head: watch::Sender<Head>,
    findings: watch::Sender<Arc<Vec<Finding>>>,
}

impl Live {
    pub(crate) fn new(keyring: Keyring, ledger: Ledger, head: Head, mut findings: Vec<Finding>) -> Self {
        findings.truncate(MAX_FINDINGS);
        Self {
            commits: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            keyring: ArcSwap::from_pointee(keyring),
            ledger: RwLock::new(ledger),
            head: watch::Sender::new(head),
            findings: watch::Sender::new(Arc::new(findings)),
        }
    }

    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.keyring.load_full()
    }

    pub(crate) fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    pub(crate) fn findings(&self) -> watch::Receiver<Arc<Vec<Finding>>> {
        self.findings.subscribe()
    }

    /// Adds what was found, as far as there is room, and says so in the log. Answers what of it is new.
    pub(crate) fn add(&self, found: Vec<Finding>) -> Vec<Finding> {
        let mut new = Vec::new();
        self.findings.send_if_modified(|all| {
            for finding in found {
                let is_known = all.iter().chain(&new).any(|known| finding.is_same_as(known));
                if all.len() + new.len() < MAX_FINDINGS && !is_known {
                    new.push(finding);
                }
            }
            if !new.is_empty() {
                Arc::make_mut(all).extend_from_slice(&new);
            }
            !new.is_empty()
        });
        for finding in &new {
            tracing::error!(%finding, hint = finding.hint(), "STORE_ROLLBACK: signing stops");
        }
        new
    }

    /// Takes these findings back, and no other that has come meanwhile.
    pub(crate) fn remove(&self, accepted: &[Finding]) {
        self.findings.send_if_modified(|all| {
            let before = all.len();
            Arc::make_mut(all).retain(|finding| !accepted.contains(finding));
            all.len() != before
        });
    }

    pub(crate) fn written(&self) -> Written {
        Written {
            commits: self.commits.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
        }
    }

    /// Counts a commit of so many changes.
    pub(crate) fn count(&self, changes: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(changes, Ordering::Relaxed);
    }

    /// What a commit brought. Called by the writer, before anybody hears that it happened.
    pub(crate) fn commit(&self, keyring: Arc<Keyring>, entries: Vec<Entry>, head: Head) {
        self.keyring.store(keyring);
        if !entries.is_empty() {
            let mut ledger = self.ledger.write().unwrap_or_else(PoisonError::into_inner);
            entries.into_iter().for_each(|entry| ledger.apply(entry));
        }
        self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
    }

    pub(crate) fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.ledger.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn judge(&self, key: &RowKey, found: Option<Print>) -> Result<(), RowFault> {
        self.ledger(|ledger| ledger.judge(key, found))
    }
}
