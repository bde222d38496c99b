//! Whoever a test says depends on authorities.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use certs::Timestamp;

use crate::{
    dependents::{Dependent, Dependents},
    ports::{JournalError, Unexpired},
};

/// Dependents that a test writes down; at first there are none. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct FakeDependents(Arc<Mutex<Vec<Dependent>>>);

impl FakeDependents {
    /// From now on these are all.
    pub fn set(&self, dependents: Vec<Dependent>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = dependents;
    }
}

#[async_trait]
impl Dependents for FakeDependents {
    async fn observe(&self, _: &[Unexpired], _: Timestamp) -> Result<Vec<Dependent>, JournalError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
