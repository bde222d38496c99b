//! P2 as nodes see it: certificates from a running control plane over mTLS, each caller authorised, each certificate
//! and its audit events on the disk before it is answered.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use certs::{Csr, KeyKind, SecretKey};
use futures::{StreamExt, stream};
use kit::{Identity, Renewals};
use serde_json::json;
use tokio::time::sleep;

use crate::{bound::Bound, clock::micros_each, served::Served};

/// Nodes, each with a connection of its own.
const NODES: usize = 512;
/// Certificates that each asks for in one round: what one node may ask for at once, less a reserve.
const EACH: usize = 8;
/// Until each may ask so often again.
const PAUSE: Duration = Duration::from_secs(9);
/// Clients that ask at the same time.
const IN_FLIGHT: usize = 64;
/// Signatures of the bound in one round.
const COUNT: usize = 2000;

/// Microseconds for each certificate, and certificates for each synchronisation of the disk, in one round.
pub(crate) struct Round {
    pub(crate) served: f64,
    pub(crate) full: f64,
    pub(crate) per_commit: f64,
}

/// Measures `rounds` times, by turns with the bound.
pub(crate) async fn measure(rounds: usize, bound: &Bound) -> anyhow::Result<Vec<Round>> {
    let served = Served::boot("limits-p2").await;
    let world = &served.world;
    let names: Vec<String> = (0..NODES).map(|number| format!("n{number}")).collect();
    let bodies = names.iter().map(|name| json!({ "node": name, "identities": [world.id(name)] }));
    world.enroll_all(bodies).await;
    let signer = world.keys().world();
    let mut open = Vec::with_capacity(NODES);
    for name in &names {
        let identity = Identity::of(&signer.leaf(&world.node_id(name)));
        open.push(Renewals::open(world.ports().xds, &identity).await.map_err(|ended| anyhow!("{ended:?}"))?);
    }
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let requests: Vec<Vec<u8>> =
            (0..NODES * EACH).map(|_| Csr::build(&SecretKey::generate(KeyKind::P256))).collect();
        let work = open.iter_mut().zip(requests.chunks(EACH));
        let (before, commits) = (served.used()?, served.metric("credence_store_commits_total").await);
        let answered = stream::iter(work)
            .map(async |(connection, requests)| {
                for request in requests {
                    let chain = connection.renew(request.clone()).await;
                    chain.map_err(|ended| anyhow!("{ended:?}"))?;
                }
                anyhow::Ok(requests.len())
            })
            .buffer_unordered(IN_FLIGHT)
            .collect::<Vec<_>>()
            .await;
        let used = served.used()? - before;
        let commits = served.metric("credence_store_commits_total").await - commits;
        let count = answered.into_iter().sum::<anyhow::Result<usize>>()?;
        ensure!(count == NODES * EACH, "each request has its certificate");
        let full = micros_each(COUNT, || (0..COUNT).for_each(|_| bound.full()));
        // The first round warms up.
        if round > 0 {
            samples.push(Round {
                served: used.as_secs_f64() * 1e6 / count as f64,
                full,
                per_commit: count as f64 / commits,
            });
        }
        if round < rounds {
            sleep(PAUSE).await;
        }
    }
    drop(open);
    served.world.finish().await;
    Ok(samples)
}
