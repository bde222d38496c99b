//! Revokes certificates for operators, and says how far proxies are with the lists.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    calls::CallError,
    sources::{ListUptake, Revoking},
};
use async_trait::async_trait;
use audit::Event;
use ca::{
    ListsStatus, Revoke, RevokeRefusal,
    dependents::{Acknowledged, Dependents, Presence},
};
use certs::Clock;
use spiffe::AuthorityId;

use super::observer::Observer;

/// The authority, and who checks against its lists.
pub(super) struct CaRevoking {
    pub(super) ca: ca::Handle,
    pub(super) observer: Arc<Observer>,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Revoking for CaRevoking {
    fn lists(&self) -> Option<ListsStatus> {
        self.ca.status().borrow().lists.clone()
    }

    async fn revoke(&self, wanted: Revoke, event: Event) -> Result<(), RevokeRefusal> {
        self.ca.revoke(wanted, event).await.map(drop)
    }

    async fn uptake(&self) -> Result<ListUptake, CallError> {
        let now = self.clock.now();
        let shown = self.ca.trust().borrow().lists().shown(now).map(spiffe::RevocationLists::numbers);
        let seen = self.observer.observe(&[], now).await;
        let seen =
            seen.map_err(|error| CallError::Unavailable { part: "journal", why: error.to_string() })?;
        let mut uptake = ListUptake::default();
        for one in &seen {
            let known = one.known.as_ref().filter(|known| known.roots.is_some());
            let Some(known) = known.filter(|_| one.presence == Presence::Here) else { continue };
            uptake.proxies += 1;
            if has(known, shown.as_ref()) {
                uptake.acknowledged += 1;
            } else {
                uptake.waiting.push(one.name.clone());
            }
        }
        Ok(uptake)
    }
}

/// Whether a proxy checks against these lists or newer ones; against none, if none are shown.
fn has(known: &Acknowledged, shown: Option<&BTreeMap<AuthorityId, u64>>) -> bool {
    match (&known.lists, shown) {
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
        (Some(lists), Some(shown)) => {
            shown.iter().all(|(id, number)| lists.get(id).is_some_and(|held| held >= number))
        }
    }
}
