//! P3, spread: leaves are renewed in their time, each at a moment of its own between 40 and 50 % of its life. How much
//! busier than all of them is the busiest tenth of a second?

use std::time::Duration;

use anyhow::ensure;
use kit::{WorldOptions, all, fleet::Until};
use tokio::time::{Instant, sleep_until};

use crate::{
    p3,
    served::{Served, Threads},
};

/// Proxies, each with one secret of its own.
pub(crate) const NODES: usize = 1000;
/// How long a leaf lives: its renewals are spread over a tenth of that.
const LIFE: Duration = Duration::from_secs(60);
/// What is compared.
const TICK: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(180);

/// Milliseconds of the server's processor time in 100 ms, in one window of renewals.
pub(crate) struct Round {
    pub(crate) peak: f64,
    pub(crate) mean: f64,
    /// How long the window was.
    pub(crate) seconds: f64,
}

/// Measures as many windows.
pub(crate) async fn measure(rounds: usize) -> anyhow::Result<Vec<Round>> {
    let options = WorldOptions { adjust: |config| config.lifetimes.leaf = LIFE, ..WorldOptions::default() };
    let served = Served::boot_with("limits-p3-window", options).await;
    let rest = served.world.rest();
    let mut fleet = served.world.start_fleet(NODES, "web").await;
    all(&mut fleet, Until::Connected, LONG).await;
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        // All leaves begin at once, so that the window is as narrow as it can be.
        let active = p3::replace_authority(rest).await?;
        all(&mut fleet, p3::leaf_from(&active), LONG).await;
        let start = Instant::now() + LIFE.mul_f64(0.35);
        let (mut before, mut ticks) = (Threads::default(), Vec::new());
        for number in 0..=LIFE.mul_f64(0.2).as_millis() / TICK.as_millis() {
            sleep_until(start + TICK * u32::try_from(number)?).await;
            let now = served.threads()?;
            if number > 0 {
                ticks.push(now.since(&before).as_secs_f64() * 1e3);
            }
            before = now;
        }
        samples.push(Round::of(&ticks));
    }
    let broken = fleet.summary().await?.broken;
    ensure!(broken.is_empty(), "rules were broken: {broken:?}");
    drop(fleet);
    served.world.finish().await;
    Ok(samples)
}

impl Round {
    /// The window is where the middle nine tenths of the work are.
    fn of(ticks: &[f64]) -> Self {
        let total: f64 = ticks.iter().sum();
        let mut sum = 0.0;
        let within = |tick: &&f64| {
            let before = sum;
            sum += **tick;
            before >= total * 0.05 && sum <= total * 0.95
        };
        let window: Vec<f64> = ticks.iter().filter(within).copied().collect();
        Self {
            peak: window.iter().copied().fold(0.0, f64::max),
            mean: window.iter().sum::<f64>() / window.len() as f64,
            seconds: TICK.as_secs_f64() * window.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_where_the_work_is() {
        let ticks = [vec![0.0; 50], vec![10.0; 40], vec![20.0], vec![10.0; 40], vec![0.0; 100]].concat();
        let round = Round::of(&ticks);
        assert_eq!(round.peak, 20.0);
        assert!((10.0..10.3).contains(&round.mean), "{}", round.mean);
        assert!((7.0..7.7).contains(&round.seconds), "{}", round.seconds);
    }
}
