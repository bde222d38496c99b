//! P3: every leaf of a running control plane is replaced at once, with a new key each, from the command to the last
//! acknowledgement of the proxies that hold them; and over a window, as when leaves are renewed in their time.

use std::time::Duration;

use anyhow::{Context, ensure};
use kit::{
    Rest, all,
    fleet::{Fleet, Tally, Until},
};
use serde_json::json;

use crate::{
    bound::Bound,
    clock::micros_each,
    report::{Goal, Report, Row, median},
    served::{self, Served},
    window,
};

/// Proxies, each with one secret of its own.
const NODES: usize = 1000;
const LONG: Duration = Duration::from_secs(180);
/// Leaves of the bound in one round.
const COUNT: usize = 2000;
const SECRET: &str = "default";

/// Microseconds for each leaf in one round.
struct Round {
    rotation: f64,
    bound: f64,
    millis: f64,
}

/// Measures `rounds` rotations, by turns with the bound.
pub(crate) fn run(rounds: usize) -> anyhow::Result<Report> {
    let runtime = served::runtime()?;
    let bound = Bound::try_new()?;
    let samples = runtime.block_on(measure(rounds, &bound))?;
    let windows = runtime.block_on(window::measure(rounds))?;
    Ok(report(&samples, &windows))
}

async fn measure(rounds: usize, bound: &Bound) -> anyhow::Result<Vec<Round>> {
    let served = Served::boot("limits-p3").await;
    let world = &served.world;
    let mut fleet = world.start_fleet(NODES, "web").await;
    all(&mut fleet, Until::Connected, LONG).await;
    all(&mut fleet, leaf_from(&active(world.rest()).await?), LONG).await;
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let before = served.used()?;
        let active = replace_authority(world.rest()).await?;
        let seen = all(&mut fleet, leaf_from(&active), LONG).await;
        let used = served.used()? - before;
        held_by_all(&mut fleet, &active).await?;
        let bound = micros_each(COUNT, || {
            (0..COUNT).for_each(|_| {
                bound.generate();
                bound.sign();
                bound.sign();
                bound.verify();
            });
        });
        // The first round warms up.
        if round > 0 {
            let rotation = used.as_secs_f64() * 1e6 / NODES as f64;
            samples.push(Round { rotation, bound, millis: seen.times.max as f64 });
        }
    }
    drop(fleet);
    served.world.finish().await;
    Ok(samples)
}

/// No leaf is left that another authority signed, and no rule of the protocol was broken.
async fn held_by_all(fleet: &mut Fleet, active: &str) -> anyhow::Result<()> {
    let tally = fleet.tally(Tally::Leaf { secret: SECRET.into() }).await?;
    ensure!(tally.get(active) == Some(&NODES), "not all hold a leaf of {active}: {tally:?}");
    let broken = fleet.summary().await?.broken;
    ensure!(broken.is_empty(), "rules were broken: {broken:?}");
    Ok(())
}

pub(crate) fn leaf_from(authority: &str) -> Until {
    Until::LeafFrom { secret: SECRET.into(), authority: authority.into() }
}

pub(crate) async fn active(rest: &Rest) -> anyhow::Result<String> {
    let listed = rest.get("/api/v1/authorities").await;
    let items = listed["items"].as_array().context("a list of authorities")?;
    let signs = items.iter().find(|one| one["place"] == "intermediate" && one["state"] == "active");
    let id = signs.and_then(|one| one["id"].as_str());
    Ok(id.context("an issuing authority is active")?.to_owned())
}

/// Answers which issuing authority signs next, once it does.
pub(crate) async fn replace_authority(rest: &Rest) -> anyhow::Result<String> {
    let before = active(rest).await?;
    rest.post("/api/v1/authorities/rotate", &json!({ "reason": "benchmark" })).await;
    Ok(kit::eventually("another authority signs", async || match active(rest).await {
        Ok(found) if found != before => Ok(found),
        other => Err(other),
    })
    .await)
}

fn report(samples: &[Round], windows: &[window::Round]) -> Report {
    let each = |of: &dyn Fn(&Round) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let middle = |of: &dyn Fn(&Round) -> f64| median(each(of));
    let mut rows = vec![Row::new(
        format!("{NODES} leaves replaced at once, to the last acknowledgement"),
        format!("{:.1} us each", middle(&|round| round.rotation)),
        format!("key + 2 sign + verify {:.1} us", middle(&|round| round.bound)),
        each(&|round| round.rotation / round.bound),
        Some(Goal::AtMost(1.4)),
    )];
    let of = |of: fn(&window::Round) -> f64| windows.iter().map(of).collect::<Vec<_>>();
    rows.push(Row::new(
        format!(
            "{} leaves renewed over {:.1} s: the busiest 100 ms",
            window::NODES,
            median(of(|round| round.seconds))
        ),
        format!("{:.1} ms", median(of(|round| round.peak))),
        format!("all of them, {:.1} ms", median(of(|round| round.mean))),
        of(|round| round.peak / round.mean),
        Some(Goal::AtMost(1.5)),
    ));
    let notes = vec![
        format!("From when the new authority was seen to sign to the last acknowledgement: {:.0} ms.", middle(&|round| round.millis)),
        "Of the server's process, journal and audit log on its disk included. Sending by bare TLS is not in the \
         reference, which makes the goal harder to meet."
            .to_owned(),
    ];
    Report { benchmark: "P3", rounds: samples.len(), lost: Vec::new(), rows, notes }
}
