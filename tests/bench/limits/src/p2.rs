//! P2: durable issuance by a real store, 64 requests under way: intent and result of each certificate, with an audit
//! event each, are on the disk before anybody sees it. Once in process, without a door, and once over mTLS.

use std::sync::Arc;

use anyhow::ensure;
use ca::testing::Core;
use futures::{StreamExt, stream};
use spiffe::SvidIssuer;

use crate::{
    authority::{self, Requests},
    bound::Bound,
    clock::{self, micros_each},
    durable::{self, Durable},
    p1, renewals,
    report::{Goal, Loss, Report, Row, median},
    served,
};

/// Certificates in one round.
const COUNT: usize = 2000;
/// Requests under way at once.
const IN_FLIGHT: usize = 64;

/// Microseconds for each certificate, and certificates for each commit, in one round.
struct Round {
    durable: f64,
    core: f64,
    full: f64,
    per_commit: f64,
}

/// Measures everything `rounds` times, by turns.
pub(crate) fn run(rounds: usize) -> anyhow::Result<Report> {
    let runtime = durable::runtime()?;
    let durable = runtime.block_on(Durable::open())?;
    let core = Core::of(runtime.block_on(authority::open(Arc::default()))?.0);
    let requests = Requests::new();
    let bound = Bound::try_new()?;
    runtime.block_on(issue(&durable, &requests))?;
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (before, start) = (durable.store.written(), clock::process());
        runtime.block_on(issue(&durable, &requests))?;
        let (after, used) = (durable.store.written(), clock::process() - start);
        ensure!(after.changes - before.changes == 2 * COUNT as u64, "a certificate is two changes");
        samples.push(Round {
            durable: used.as_secs_f64() * 1e6 / COUNT as f64,
            core: p1::issue(&core, &requests, COUNT)?,
            full: micros_each(COUNT, || (0..COUNT).for_each(|_| bound.full())),
            per_commit: COUNT as f64 / (after.commits - before.commits) as f64,
        });
    }
    runtime.block_on(durable.close())?;
    drop(runtime);
    let over_mtls = served::runtime()?.block_on(renewals::measure(rounds, &bound))?;
    Ok(report(&samples, &over_mtls))
}

async fn issue(durable: &Durable, requests: &Requests) -> anyhow::Result<()> {
    let asked = stream::iter(0..COUNT).map(async |number| {
        durable.handle.issue(requests.read(number)?).await?;
        anyhow::Ok(())
    });
    let mut answers = asked.buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

fn report(samples: &[Round], over_mtls: &[renewals::Round]) -> Report {
    let served = |of: &dyn Fn(&renewals::Round) -> f64| over_mtls.iter().map(of).collect::<Vec<_>>();
    let each = |of: &dyn Fn(&Round) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let middle = |of: &dyn Fn(&Round) -> f64| median(each(of));
    let rows = vec![
        Row::new(
            "request -> durable leaf, over mTLS",
            format!("{:.1} us", median(served(&|round| round.served))),
            format!("2 verify + 2 sign {:.1} us", median(served(&|round| round.full))),
            served(&|round| round.served / round.full),
            Some(Goal::AtMost(2.0)),
        ),
        Row::new(
            "certificates per commit, over mTLS, 64 clients",
            format!("{:.1}", median(served(&|round| round.per_commit))),
            "one synchronisation".to_owned(),
            served(&|round| round.per_commit),
            Some(Goal::AtLeast(30.0)),
        ),
        Row::new(
            "request -> durable leaf, in process",
            format!("{:.1} us", middle(&|round| round.durable)),
            format!("2 verify + 2 sign {:.1} us", middle(&|round| round.full)),
            each(&|round| round.durable / round.full),
            None,
        ),
        Row::new(
            "certificates per commit, 64 in flight",
            format!("{:.1}", middle(&|round| round.per_commit)),
            "one synchronisation".to_owned(),
            each(&|round| round.per_commit),
            None,
        ),
    ];
    let lost = vec![
        Loss {
            to: "TLS, HTTP/2, gRPC and authorisation of the caller",
            micros: median(served(&|round| round.served)) - middle(&|round| round.durable),
        },
        Loss {
            to: "two journal records and two audit events, on the disk",
            micros: middle(&|round| round.durable - round.core),
        },
        Loss {
            to: "issuance beside its signatures (see p1)",
            micros: middle(&|round| round.core - round.full),
        },
    ];
    let notes = vec![
        "Over mTLS: of the server's process; handshakes are done before, clients cost it nothing.".to_owned(),
        "64 in flight allow 32 certificates per commit: each is an intent and a result.".to_owned(),
    ];
    Report { benchmark: "P2", rounds: samples.len(), lost, rows, notes }
}
