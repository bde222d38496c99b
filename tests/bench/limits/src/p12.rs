//! P12: leaves that a Vault signs, 32 under way, beside a bare client that makes the same calls; and pushes to streams
//! beside a Vault that is slow, or away.

use std::{hint::black_box, sync::Arc, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use certs::{Csr, KeyKind, Profile, SecretKey};
use kit::SystemClock;
use spiffe::{NodeId, Purpose, RequestId, SpiffeId, SvidRequest, Tenant};
use tokio::time::Instant;

use crate::{
    authority::DOMAIN,
    bare::{self, Bare},
    beside,
    clock::{self, micros_each},
    durable::{self, Durable},
    outside::{self, Outside},
    report::{Goal, Loss, Report, Row, median},
    served::{self, used_by},
    stub::Stub,
};

/// Certificates in one round.
const COUNT: usize = 2000;
/// Requests under way at once.
const IN_FLIGHT: usize = 32;

/// One kind of work in one round, for each certificate.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Microseconds of processor time.
    micros: f64,
    /// Certificates in a second of the time of day.
    rate: f64,
}

/// One round.
struct Round {
    product: Cost,
    bare: Cost,
    /// The product's client alone: nothing is checked, nothing kept.
    client: Cost,
    /// Microseconds of the first check of an answer, and of making a request.
    check: f64,
    request: f64,
    /// Microseconds of the stub for each certificate of the product.
    stub: f64,
}

/// Measures everything `rounds` times, by turns.
pub(crate) fn run(rounds: usize) -> anyhow::Result<Report> {
    let runtime = durable::runtime()?;
    let samples = runtime.block_on(measure(rounds))?;
    drop(runtime);
    let pushes = served::runtime()?.block_on(beside::measure(rounds))?;
    Ok(report(&samples, &pushes))
}

async fn measure(rounds: usize) -> anyhow::Result<Vec<Round>> {
    let durable = Durable::open_by(Arc::new(SystemClock)).await?;
    let stub = Stub::start(DOMAIN).await?;
    let outside = Outside::open(&durable, &stub).await?;
    let mut bare = Bare::open(&stub, IN_FLIGHT).await?;
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let sample = one(&durable, &stub, &outside, &mut bare).await?;
        // The first round warms up.
        if round > 0 {
            samples.push(sample);
        }
    }
    outside.close().await;
    drop(bare);
    durable.close().await?;
    Ok(samples)
}

async fn one(durable: &Durable, stub: &Stub, outside: &Outside, bare: &mut Bare) -> anyhow::Result<Round> {
    let keys: Vec<SecretKey> = (0..COUNT).map(|_| SecretKey::generate(KeyKind::P256)).collect();
    let requests: Vec<SvidRequest> =
        keys.iter().enumerate().map(|(number, key)| request(number, key)).collect::<Result<_, _>>()?;
    let mut csrs = Vec::with_capacity(COUNT);
    let making = micros_each(COUNT, || csrs.extend(keys.iter().map(Csr::build)));
    let life = Profile::Workload.default_lifetime().as_secs();
    let bodies: Vec<Bytes> =
        csrs.iter().zip(&requests).map(|(csr, request)| bare::body(csr, request.id.as_str(), life)).collect();
    let asked: Vec<_> = requests.iter().cloned().zip(csrs).collect();

    let (before, signing) = (durable.store.written().changes, used_by(stub.process()?)?);
    let product = cost(outside.issue(requests.into_iter().zip(keys).collect(), IN_FLIGHT)).await?;
    let signing = used_by(stub.process()?)? - signing;
    let changes = durable.store.written().changes - before;
    ensure!(changes == 2 * COUNT as u64, "a certificate is two changes, and {COUNT} were {changes}");
    let bare = cost(bare.ask(bodies)).await?;
    let mut signed = Vec::new();
    let client = cost(async {
        signed = outside.vault.call(&asked, IN_FLIGHT).await?;
        anyhow::Ok(())
    })
    .await?;

    let answers: Vec<_> =
        asked.into_iter().map(|(request, csr)| outside::asked(&request, csr)).zip(signed).collect();
    let mut faults = Vec::new();
    let check = micros_each(COUNT, || {
        for (asked, signed) in answers {
            faults.extend(black_box(outside.vault.check(signed, &asked)).err());
        }
    });
    ensure!(faults.is_empty(), "{} answers do not hold: {}", faults.len(), faults[0]);
    let stub = signing.as_secs_f64() * 1e6 / COUNT as f64;
    Ok(Round { product, bare, client, check, request: making, stub })
}

/// What `work` costs this process, and how long it takes.
async fn cost(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Cost> {
    let (start, began) = (clock::process(), Instant::now());
    work.await?;
    let (used, took) = (clock::process() - start, began.elapsed());
    let each = |time: Duration| time.as_secs_f64() / COUNT as f64;
    Ok(Cost { micros: each(used) * 1e6, rate: 1.0 / each(took) })
}

fn request(number: usize, key: &SecretKey) -> anyhow::Result<SvidRequest> {
    Ok(SvidRequest {
        id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/ns/shop/service-{number}"))?,
        profile: Profile::Workload,
        public_key: key.public().clone(),
        lifetime: Profile::Workload.default_lifetime(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        tenant: Tenant::default(),
        node: Some(NodeId::parse("web-1")?),
        issuer: None,
        purpose: Purpose::Delivery,
        deadline: None,
        spend: None,
        request_id: RequestId::random(),
    })
}

fn report(samples: &[Round], pushes: &[beside::Round]) -> Report {
    let each = |of: &dyn Fn(&Round) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let middle = |of: &dyn Fn(&Round) -> f64| median(each(of));
    let mut rows = vec![
        Row::new(
            format!("request -> durable leaf of a Vault, {IN_FLIGHT} in flight"),
            format!("{:.1} us", middle(&|round| round.product.micros)),
            format!("the same calls alone {:.1} us", middle(&|round| round.bare.micros)),
            each(&|round| round.product.micros / round.bare.micros),
            Some(Goal::AtMost(1.5)),
        ),
        Row::new(
            "the same, certificates per second",
            format!("{:.0}", middle(&|round| round.product.rate)),
            format!("calls {:.0}", middle(&|round| round.bare.rate)),
            each(&|round| round.product.rate / round.bare.rate),
            Some(Goal::AtLeast(0.9)),
        ),
        Row::new(
            "our client alone, answers read",
            format!("{:.1} us", middle(&|round| round.client.micros)),
            format!("the same calls alone {:.1} us", middle(&|round| round.bare.micros)),
            each(&|round| round.client.micros / round.bare.micros),
            None,
        ),
    ];
    rows.extend(beside::rows(pushes));
    let lost = vec![
        Loss {
            to: "our client: the session's token, JSON, PEM and certificates read",
            micros: middle(&|round| round.client.micros - round.bare.micros),
        },
        Loss { to: "the request, signed with the leaf's key", micros: middle(&|round| round.request) },
        Loss {
            to: "whether the answer is what was asked for, before the issuer's own check",
            micros: middle(&|round| round.check),
        },
        Loss {
            to: "policy, queue, the issuer's own check, two records and two audit events on the disk",
            micros: middle(&|round| round.product.micros - round.client.micros - round.request - round.check),
        },
    ];
    let mut notes = vec![format!(
        "The stub took {:.0} us of its own process for each certificate; it and we share the processors.",
        middle(&|round| round.stub)
    )];
    notes.extend(beside::notes(pushes));
    Report { benchmark: "P12", rounds: samples.len(), lost, rows, notes }
}
