//! Waiting for something to become true, with a bound and with the last value in the failure.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// How long most things may take. Generous, because several worlds share the machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is `Ok`, for at most [`PATIENCE`].
///
/// # Panics
/// With the last `Err` when the time is over.
pub async fn eventually<T, E: Debug>(what: &str, probe: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, probe).await
}

/// Like [`eventually`], with another bound.
///
/// # Panics
/// With the last `Err` when the time is over.
pub async fn within<T, E: Debug>(
    bound: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + bound;
    let mut last = None;
    let mut pace = PACE;
    loop {
        match timeout_at(end, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => last = Some(error),
            Err(_) => panic!("{what}: not within {bound:?}; the last answer was {last:#?}"),
        }
        if Instant::now() + pace >= end {
            panic!("{what}: not within {bound:?}; the last answer was {last:#?}");
        }
        sleep(pace).await;
        pace = (pace * 3 / 2).min(Duration::from_millis(250));
    }
}
