//! P13: what encryption at rest costs: writing imported secrets, and reading all of them when a server starts.
//!
//! The product cannot store a secret in the clear, and gets no switch for it. So "without" is the same work less what
//! sealing and opening cost, measured apart on the same bytes.

use std::{collections::BTreeSet, hint::black_box, sync::Arc};

use anyhow::{Context, ensure};
use api::ports::{NewSecret, SecretStore};
use audit::{Action, Actor, Event};
use certs::{Imported, SecretBytes};
use futures::{StreamExt, stream};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use spiffe::{SecretName, SpiffeId, Tenant};
use store::testing::Sealing;

use crate::{
    authority::{DOMAIN, now},
    clock::{self, micros_each},
    durable::{self, Durable},
    report::{Goal, Loss, Report, Row, median},
};

/// Secrets in the store, each written once in a round.
const COUNT: usize = 1000;
/// Bytes of a secret: those of a key and a chain of two certificates.
const BYTES: usize = 2048;
/// Writes under way at once.
const IN_FLIGHT: usize = 64;

/// Microseconds for each secret in one round.
struct Round {
    write: f64,
    load: f64,
    seal: f64,
    open: f64,
    gcm: f64,
}

/// Measures everything `rounds` times, by turns.
pub(crate) fn run(rounds: usize) -> anyhow::Result<Report> {
    let runtime = durable::runtime()?;
    let durable = runtime.block_on(Durable::open())?;
    let sealing = Sealing::new();
    let random = SystemRandom::new();
    let mut plain = vec![0; BYTES];
    random.fill(&mut plain).ok().context("the system random generator answers")?;
    let record = sealing.seal(&plain);
    runtime.block_on(write(&durable, &plain))?;
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = clock::process();
        runtime.block_on(write(&durable, &plain))?;
        let write = clock::process() - start;
        let start = clock::process();
        let loaded = runtime.block_on(durable.store.secrets())?;
        let load = clock::process() - start;
        ensure!(loaded.len() == COUNT, "{} of {COUNT} secrets were loaded", loaded.len());
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / COUNT as f64;
        samples.push(Round {
            write: each(write),
            load: each(load),
            seal: micros_each(COUNT, || {
                (0..COUNT).for_each(|_| {
                    black_box(sealing.seal(black_box(&plain)));
                });
            }),
            open: micros_each(COUNT, || (0..COUNT).for_each(|_| assert!(sealing.opens(black_box(&record))))),
            gcm: micros_each(COUNT, || (0..COUNT).for_each(|_| gcm(black_box(&plain), &random))),
        });
    }
    runtime.block_on(durable.close())?;
    Ok(report(&samples))
}

/// AES-256-GCM of the same bytes, under a key of its own for each record as sealing has it.
fn gcm(plain: &[u8], random: &SystemRandom) {
    let mut key = [0; 32];
    assert!(random.fill(&mut key).is_ok(), "the system random generator answers");
    let key = UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are an AES-256 key");
    let mut sealed = plain.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let tag = LessSafeKey::new(key).seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed);
    black_box((sealed, tag.is_ok()));
}

async fn write(durable: &Durable, plain: &[u8]) -> anyhow::Result<()> {
    let grants = Arc::new(BTreeSet::from([SpiffeId::parse(&format!("spiffe://{DOMAIN}/web"))?]));
    let written = stream::iter(0..COUNT).map(async |number| {
        let name = SecretName::from_path(&format!("shop/secret-{number}")).context("a name")?;
        let secret = NewSecret {
            tenant: Tenant::default(),
            name,
            grants: BTreeSet::clone(&grants),
            created: now(),
            value: Imported::Generic(SecretBytes::new(plain.to_vec().into())),
        };
        let event = Event::done(now(), Actor::Host, Action::SecretSet, format!("shop/secret-{number}"));
        durable.store.put_secret(secret, None, event).await?;
        anyhow::Ok(())
    });
    let mut answers = written.buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

fn report(samples: &[Round]) -> Report {
    let each = |of: &dyn Fn(&Round) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let shown = |of: &dyn Fn(&Round) -> f64| format!("{:.1} us", median(each(of)));
    let rows = vec![
        Row::new(
            "secrets written per processor second, 64 in flight",
            shown(&|round| round.write),
            format!("without sealing {}", shown(&|round| round.write - round.seal)),
            each(&|round| (round.write - round.seal) / round.write),
            Some(Goal::AtLeast(0.93)),
        ),
        Row::new(
            "sealing a record of 2 KiB",
            shown(&|round| round.seal),
            format!("AES-256-GCM {}", shown(&|round| round.gcm)),
            each(&|round| round.seal / round.gcm),
            Some(Goal::AtMost(4.0)),
        ),
        Row::new(
            "loading 1000 secrets, each",
            shown(&|round| round.load),
            format!("without opening {}", shown(&|round| round.load - round.open)),
            each(&|round| round.load / (round.load - round.open)),
            Some(Goal::AtMost(1.5)),
        ),
    ];
    let lost = vec![
        Loss {
            to: "deriving the record's key and commitment, its salt and its place",
            micros: median(each(&|round| round.seal - round.gcm)),
        },
        Loss { to: "AES-256-GCM", micros: median(each(&|round| round.gcm)) },
    ];
    let notes = vec![
        "\"Without\" is the same work less what sealing costs alone: the product has no switch for it."
            .to_owned(),
        "Each write also enters the record's version and hash in the audit chain, in both columns."
            .to_owned(),
    ];
    Report { benchmark: "P13", rounds: samples.len(), lost, rows, notes }
}
