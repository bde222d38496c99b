//! What an open store holds in memory, as of its last commit: the keys, the ledger of sealed records, the end of
//! the audit chain, and what was found wrong.

use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use audit::Head;
use tokio::sync::watch;

use crate::{
    keyring::Keyring,
    ledger::{Entry, Ledger, Print, RowFault, RowKey},
    rollback::Finding,
};

#[derive(Debug)]
pub(crate) struct Live {
    keyring: ArcSwap<Keyring>,
    ledger: RwLock<Ledger>,
    head: watch::Sender<Head>,
    findings: watch::Sender<Arc<Vec<Finding>>>,
}

impl Live {
    pub(crate) fn new(keyring: Keyring, ledger: Ledger, head: Head) -> Self {
        Self {
            keyring: ArcSwap::from_pointee(keyring),
            ledger: RwLock::new(ledger),
            head: watch::Sender::new(head),
            findings: watch::Sender::default(),
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

    pub(crate) fn set_findings(&self, findings: Vec<Finding>) {
        self.findings.send_replace(Arc::new(findings));
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
