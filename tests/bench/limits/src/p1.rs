//! P1: a certificate, from the octets of its request to a checked leaf, in process and without storage.

use std::{sync::Arc, thread};

use anyhow::{Context, ensure};
use ca::{
    Manager,
    testing::{Core, FakeDependents},
};
use futures::{StreamExt, stream};
use spiffe::SvidIssuer;
use tokio::{runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{self, Forgetful, Requests},
    bound::Bound,
    clock::{self, micros_each},
    report::{Goal, Loss, Report, Row, median},
    steps::{Parts, Steps},
};

/// Certificates in one slice: short, so that a neighbour on the machine disturbs what is compared alike.
const COUNT: usize = 100;
/// Slices of each kind in one round, by turns.
const SLICES: usize = 20;
/// Requests under way at once, where there is a queue.
const IN_FLIGHT: usize = 64;

/// Measures everything `rounds` times, by turns.
pub(crate) fn run(rounds: usize) -> anyhow::Result<Report> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let journal = Arc::new(Forgetful::default());
    let (manager, store) = runtime.block_on(authority::open(Arc::clone(&journal)))?;
    let core = Core::of(manager);
    let steps = runtime.block_on(Steps::of(&store))?;
    let (manager, _) = runtime.block_on(authority::open(Arc::default()))?;
    let requests = Requests::new();
    let bound = Bound::try_new()?;

    issue(&core, &requests, COUNT)?;
    let before = journal.counts().0;
    let mut samples = Samples::default();
    let queued = Queued::start(&runtime, manager);
    for _ in 0..rounds {
        let mut round = Round::default();
        for _ in 0..SLICES {
            round.core += issue(&core, &requests, COUNT)?;
            round.full += micros_each(COUNT, || (0..COUNT).for_each(|_| bound.full()));
            round.queued += queued.issue(&runtime, &requests)?;
            round.bare += micros_each(COUNT, || {
                (0..COUNT).for_each(|_| {
                    bound.verify();
                    bound.sign();
                });
            });
            round.two += issue_on_two(&core, &requests)?;
            round.parts += steps.measure(COUNT, &bound, &requests)?;
        }
        samples.0.push(round.mean());
    }
    queued.end(&runtime);
    let (intents, results) = journal.counts();
    ensure!(intents - before == 3 * rounds * SLICES * COUNT, "each certificate has one intent");
    ensure!(intents == results, "each intent has one result");
    Ok(samples.report(rounds))
}

/// Microseconds for each of `count` certificates on this thread.
pub(crate) fn issue(core: &Core, requests: &Requests, count: usize) -> anyhow::Result<f64> {
    let runtime = runtime::Builder::new_current_thread().build()?;
    let start = clock::thread();
    runtime.block_on(async {
        for number in 0..count {
            core.issue(requests.read(number)?).await?;
        }
        anyhow::Ok(())
    })?;
    Ok((clock::thread() - start).as_secs_f64() * 1e6 / count as f64)
}

/// The same on each of two threads at once, which share one core: their mean.
fn issue_on_two(core: &Core, requests: &Requests) -> anyhow::Result<f64> {
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| issue(core, requests, COUNT)));
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().ok().context("a thread of the benchmark ended")??;
        }
        Ok(sum / 2.0)
    })
}

/// A running manager, asked through its queue.
struct Queued {
    handle: ca::Handle,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Queued {
    fn start(runtime: &runtime::Runtime, manager: Manager) -> Self {
        let (handle, shutdown) = (manager.handle(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let nobody = Arc::new(FakeDependents::default());
        tasks.spawn_on(manager.run(nobody, shutdown.clone()), runtime.handle());
        Self { handle, tasks, shutdown }
    }

    fn issue(&self, runtime: &runtime::Runtime, requests: &Requests) -> anyhow::Result<f64> {
        let start = clock::thread();
        runtime.block_on(async {
            let asked = stream::iter(0..COUNT).map(async |number| {
                self.handle.issue(requests.read(number)?).await?;
                anyhow::Ok(())
            });
            let mut answers = asked.buffer_unordered(IN_FLIGHT);
            while let Some(answer) = answers.next().await {
                answer?;
            }
            anyhow::Ok(())
        })?;
        Ok((clock::thread() - start).as_secs_f64() * 1e6 / COUNT as f64)
    }

    fn end(mut self, runtime: &runtime::Runtime) {
        self.shutdown.cancel();
        runtime.block_on(async { while self.tasks.join_next().await.is_some() {} });
    }
}

/// Microseconds for each certificate in one round.
#[derive(Debug, Default, Clone, Copy)]
struct Round {
    core: f64,
    queued: f64,
    two: f64,
    full: f64,
    bare: f64,
    parts: Parts,
}

impl Round {
    fn mean(self) -> Self {
        let slices = SLICES as f64;
        Self {
            core: self.core / slices,
            queued: self.queued / slices,
            two: self.two / slices,
            full: self.full / slices,
            bare: self.bare / slices,
            parts: self.parts / slices,
        }
    }
}

#[derive(Debug, Default)]
struct Samples(Vec<Round>);

impl Samples {
    fn each(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.0.iter().map(of).collect()
    }

    fn report(self, rounds: usize) -> Report {
        let shown = |of: fn(&Round) -> f64| format!("{:.1} us", median(self.each(of)));
        let middle = |of: fn(&Round) -> f64| median(self.each(of));
        let full = format!("2 verify + 2 sign {}", shown(|round| round.full));
        let rows = vec![
            Row::new(
                "request -> leaf, one thread",
                shown(|round| round.core),
                full.clone(),
                self.each(|round| round.full / round.core),
                Some(Goal::AtLeast(0.93)),
            ),
            Row::new(
                "the same, by the queue, 64 in flight",
                shown(|round| round.queued),
                full,
                self.each(|round| round.full / round.queued),
                None,
            ),
            Row::new(
                "request -> leaf, one thread",
                shown(|round| round.core),
                format!("verify + sign {}", shown(|round| round.bare)),
                self.each(|round| round.bare / round.core),
                None,
            ),
            Row::new(
                "two threads at once",
                shown(|round| round.two),
                format!("one thread {}", shown(|round| round.core)),
                self.each(|round| 2.0 * round.core / round.two),
                Some(Goal::AtLeast(1.9)),
            ),
        ];
        let lost = vec![
            Loss {
                to: "reading the request, beside its signature",
                micros: middle(|round| round.parts.read),
            },
            Loss {
                to: "assembling the certificate and reading it",
                micros: middle(|round| round.parts.rehearse),
            },
            Loss { to: "lint", micros: middle(|round| round.parts.lint) },
            Loss { to: "putting the signature in its place", micros: middle(|round| round.parts.sign) },
            Loss {
                to: "checking the result, beside its signature",
                micros: middle(|round| round.parts.check),
            },
            Loss {
                to: "policy, serial number, journal records, audit events",
                micros: middle(|round| round.core - round.full - round.parts.sum()),
            },
        ];
        let notes = vec![
            "Peers (step-ca, Go crypto/x509) are not part of this program: not run.".to_owned(),
            "Two threads share one core and its trust; their ratio is of work done per processor second."
                .to_owned(),
        ];
        Report { benchmark: "P1", rounds, lost, rows, notes }
    }
}
