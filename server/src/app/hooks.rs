//! The hooks of the configuration, as parts of the process.

use std::sync::Arc;

use certs::Clock;
use store::Store;
use tokio::sync::watch;

use crate::{
    config::Config,
    hooks::{Desk, Herald, HookStatus, Teller, Watched},
    lookout,
};

/// What tells them, unless there are none, and what answers operators.
pub(super) fn open(
    config: &Config,
    store: &Store,
    watched: Watched,
    clock: Arc<dyn Clock>,
) -> (Option<Herald>, Desk) {
    let tellers: Arc<[Arc<Teller>]> =
        config.hooks.iter().map(|hook| Teller::new(hook.clone(), config.trust_domain.clone())).collect();
    let status = watch::Sender::new(vec![HookStatus::default(); tellers.len()]);
    let desk = Desk { tellers: tellers.clone(), status: status.subscribe(), clock: clock.clone() };
    let herald = (!tellers.is_empty()).then(|| Herald {
        tellers,
        watched,
        store: Arc::new(store.clone()),
        audit: Arc::new(store.clone()),
        clock,
        period: lookout::period(&config.lifetimes),
        status,
    });
    (herald, desk)
}
