//! P12, beside: what a Vault that is slow, or away, costs the streams that have nothing to do with it. Hundreds of
//! proxies wait for leaves of it while configuration is pushed to others.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, anyhow, ensure};
use futures::future::try_join_all;
use kit::{
    CDS, DeltaStream, EDS, Identity, Line, TestWorld, XdsClient, all, back, endpoints,
    fleet::{Fleet, Tally, Until},
};
use serde_json::{Value, json};
use spiffe::AuthorityId;
use tokio::time::{Instant, sleep_until};

use crate::{
    p3::{active, leaf_from},
    report::{Goal, Row, median},
    served::Served,
    stub::{ISSUER, ROLE, Stub},
};

/// Proxies with one leaf each, all of which are to be of the Vault at once.
const NODES: usize = 300;
/// Streams of others, to which configuration is pushed.
const STREAMS: usize = 16;
/// Pushes in one round of each kind, one after the other.
const PUSHES: usize = 100;
/// By how much answers of the Vault are late.
const LATE: Duration = Duration::from_millis(250);
/// Between the beginnings of two: an operator may call fifty times a second.
const EVERY: Duration = Duration::from_millis(25);
const LONG: Duration = Duration::from_secs(180);
/// The service whose endpoints change, and its cluster.
const WATCHED: &str = "watched";
const UPSTREAM: &str = "watched-upstream";

/// Milliseconds within which 99 of 100 pushes were acknowledged, in one round.
pub(crate) struct Round {
    /// Before each of the two, with nobody waiting.
    alone: [f64; 2],
    slow: f64,
    away: f64,
    /// Leaves that came while pushes went on beside the slow one.
    leaves: usize,
}

/// Measures everything `rounds` times, by turns.
pub(crate) async fn measure(rounds: usize) -> anyhow::Result<Vec<Round>> {
    let served = Served::boot("limits-p12").await;
    let world = &served.world;
    let stub = Stub::start(world.domain()).await?;
    let line = Line::start(stub.address).await;
    add(world, &stub, &line).await?;
    world.rest().apply(&back(WATCHED, TestWorld::free_port(), &[])).await;
    world.rest().apply(&endpoints(UPSTREAM, "default", &[address(0)])).await;
    let mut streams = watch(world).await?;
    let mut fleet = world.start_fleet(NODES, "web").await;
    all(&mut fleet, Until::Connected, LONG).await;
    let (builtin, outside) =
        (active(world.rest()).await?, AuthorityId::of(stub.signer.spki_hash()).to_string());
    all(&mut fleet, leaf_from(&builtin), LONG).await;
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let first = push(world, &mut streams).await?;
        line.slow(LATE);
        migrate(world, "stub").await?;
        let slow = push(world, &mut streams).await?;
        let leaves = held(&mut fleet, &outside).await?;
        line.mend();
        all(&mut fleet, leaf_from(&outside), LONG).await;
        migrate(world, "builtin").await?;
        all(&mut fleet, leaf_from(&builtin), LONG).await;

        let second = push(world, &mut streams).await?;
        line.cut();
        migrate(world, "stub").await?;
        let away = push(world, &mut streams).await?;
        let failures = issuer(world, "stub").await?["failures"].as_u64();
        ensure!(failures > Some(0), "nobody found the issuer away");
        ensure!(held(&mut fleet, &outside).await? == 0, "an issuer that was away signed");
        migrate(world, "builtin").await?;
        line.mend();
        all(&mut fleet, leaf_from(&builtin), LONG).await;
        // The first round warms up.
        if round > 0 {
            samples.push(Round { alone: [first, second], slow, away, leaves });
        }
    }
    let broken = fleet.summary().await?.broken;
    ensure!(broken.is_empty(), "rules were broken: {broken:?}");
    drop((fleet, streams));
    served.world.finish_beside(std::slice::from_ref(&stub.root)).await;
    Ok(samples)
}

async fn add(world: &TestWorld, stub: &Stub, line: &Line) -> anyhow::Result<()> {
    std::fs::write(world.sandbox().path("stub-token"), "stub")?;
    let (address, file) =
        (format!("https://{}", line.address()), |name| stub.file(name).display().to_string());
    let (ca_file, anchor) = (file("ca.pem"), file("anchor.pem"));
    let who = ["issuer", "add", "vault", "stub", "--addr", &address, "--ca-file", &ca_file];
    let what = ["--issuer", ISSUER, "--role", ROLE, "--trust-anchor", &anchor];
    let login = ["--login", "token", "--credential-file", "stub-token"];
    let (code, out, words) = world.run(&[&who[..], &what, &login].concat()).await;
    ensure!(code == 0, "the stub is no issuer: {out} {words}");
    Ok(())
}

async fn issuer(world: &TestWorld, name: &str) -> anyhow::Result<Value> {
    let listed = world.command(&["issuer", "list"]).await;
    let found = listed.as_array().into_iter().flatten().find(|one| one["name"] == name).cloned();
    found.with_context(|| format!("no issuer {name}: {listed}"))
}

/// Has it sign the leaves of workloads, and waits until it is asked.
async fn migrate(world: &TestWorld, name: &str) -> anyhow::Result<()> {
    world.command(&["issuer", "migrate", "--to", name, "--yes"]).await;
    if name != "builtin" {
        kit::eventually("the issuer signs", async || match issuer(world, name).await {
            Ok(one) if one["state"] == "signs" => Ok(()),
            other => Err(other),
        })
        .await;
    }
    Ok(())
}

/// How many proxies hold a leaf of that authority.
async fn held(fleet: &mut Fleet, authority: &str) -> anyhow::Result<usize> {
    let tally = fleet.tally(Tally::Leaf { secret: "default".into() }).await?;
    Ok(tally.get(authority).copied().unwrap_or_default())
}

fn address(number: u16) -> SocketAddr {
    ([127, 0, 0, 1], 10_000 + number).into()
}

/// Streams with connections of their own, that hold the endpoints.
async fn watch(world: &TestWorld) -> anyhow::Result<Vec<DeltaStream>> {
    let names: Vec<String> = (0..STREAMS).map(|number| format!("{WATCHED}-{number}")).collect();
    let identity = world.id(WATCHED);
    let bodies = names
        .iter()
        .map(|name| json!({ "node": name, "identities": [identity], "labels": { "app": WATCHED } }));
    world.enroll_all(bodies).await;
    let signer = world.keys().world();
    let open = names.iter().map(async |name| {
        let identity = Identity::of(&signer.leaf(&world.node_id(name)));
        let mut stream = XdsClient::new(world.ports().xds, &identity).delta(name, "default");
        for (type_url, names) in [(CDS, &[][..]), (EDS, &[UPSTREAM][..])] {
            stream.subscribe(type_url, names).await;
            acknowledged(&mut stream, type_url).await?;
        }
        anyhow::Ok(stream)
    });
    try_join_all(open).await
}

async fn acknowledged(stream: &mut DeltaStream, type_url: &str) -> anyhow::Result<()> {
    let response = stream.next().await.map_err(|status| anyhow!("the stream ended: {status}"))?;
    ensure!(response.type_url == type_url, "{} came instead of {type_url}", response.type_url);
    stream.ack(&response).await;
    Ok(())
}

/// Changes an endpoint again and again; from each call of the operator to the acknowledgement of each stream.
async fn push(world: &TestWorld, streams: &mut [DeltaStream]) -> anyhow::Result<f64> {
    let mut millis = Vec::with_capacity(PUSHES * STREAMS);
    for number in 0..PUSHES {
        let other = endpoints(UPSTREAM, "default", &[address(u16::try_from(number)? + 1)]);
        let began = Instant::now();
        let seen = try_join_all(streams.iter_mut().map(async |stream| {
            acknowledged(stream, EDS).await?;
            anyhow::Ok(began.elapsed().as_secs_f64() * 1e3)
        }));
        let (_, seen) = tokio::join!(world.rest().apply(&other), seen);
        millis.extend(seen?);
        sleep_until(began + EVERY).await;
    }
    // So that the first change of the next round is one.
    let back = endpoints(UPSTREAM, "default", &[address(0)]);
    let seen = try_join_all(streams.iter_mut().map(|stream| acknowledged(stream, EDS)));
    let (_, seen) = tokio::join!(world.rest().apply(&back), seen);
    seen?;
    millis.sort_by(f64::total_cmp);
    Ok(millis[(millis.len() * 99).div_ceil(100) - 1])
}

/// What they say.
pub(crate) fn rows(samples: &[Round]) -> Vec<Row> {
    let each = |of: &dyn Fn(&Round) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let row = |what: String, of: fn(&Round) -> f64, before: usize| {
        Row::new(
            what,
            format!("{:.1} ms", median(each(&of))),
            format!("alone {:.1} ms", median(each(&|round| round.alone[before]))),
            each(&|round| of(round) / round.alone[before]),
            Some(Goal::AtMost(1.1)),
        )
    };
    let late = LATE.as_millis();
    vec![
        row(
            format!(
                "p99 of {PUSHES} pushes to {STREAMS} streams, call to acknowledgement, Vault {late} ms late"
            ),
            |round| round.slow,
            0,
        ),
        row("the same, Vault away".to_owned(), |round| round.away, 1),
    ]
}

/// What a reader must know of them.
pub(crate) fn notes(samples: &[Round]) -> Vec<String> {
    let leaves = median(samples.iter().map(|round| round.leaves as f64).collect());
    vec![format!(
        "Pushes are of the time of day, each with its commit. {NODES} proxies were to have leaves of the Vault \
         meanwhile: {leaves:.0} came from the slow one, none from the one that was away."
    )]
}
