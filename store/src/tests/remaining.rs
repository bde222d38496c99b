//! What is remembered of the newest certificates, beside what the table says.

use std::time::Duration;

use ca::ports::{CertificateFilter, Intent, IssueOutcome, Journal, ResultRecord, Revocations, Revoked};
use certs::{Profile, RevocationReason, Serial, SpkiHash, Timestamp};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use spiffe::{AuthorityId, Purpose, RequestId, SpiffeId, Tenant};

use super::*;

fn authority() -> AuthorityId {
    AuthorityId::of(SpkiHash([7; 32]))
}

fn serial(number: u8) -> Serial {
    Serial::from_random([number; 20])
}

fn at(secs: u64) -> Timestamp {
    now() + Duration::from_secs(secs)
}

async fn intend(store: &Store, number: u8, path: u8, from: u64, life: u64) {
    let intent = Intent {
        serial: serial(number),
        authority: authority(),
        epoch: store.epoch(),
        tbs_sha256: [number; 32],
        id: SpiffeId::parse(&format!("spiffe://td/w{path}")).unwrap(),
        profile: Profile::Workload,
        tenant: Tenant::default(),
        node: None,
        purpose: Purpose::Delivery,
        spki: SpkiHash([number; 32]),
        not_before: at(from),
        not_after: at(from + life),
        at: at(from),
        request_id: RequestId::random(),
    };
    store.record_intent(intent, None, event(Action::CertificateIntent, "w")).await.unwrap();
}

async fn end(store: &Store, number: u8, is_good: bool, when: u64) {
    let outcome = match is_good {
        true => IssueOutcome::Issued(vec![vec![number]]),
        false => IssueOutcome::Failed("no".into()),
    };
    let result = ResultRecord { serial: serial(number), authority: authority(), outcome, at: at(when) };
    store.record_result(result, event(Action::CertificateIssue, "w")).await.unwrap();
}

/// The same as the table says it.
async fn listed(store: &Store, when: u64) -> Vec<Serial> {
    let filter =
        CertificateFilter { newest_only: true, valid_at: Some(at(when)), ..CertificateFilter::default() };
    let rows = store.certificates(&filter).await.unwrap();
    let counted = rows.into_iter().filter(|row| row.revoked.is_none());
    let mut serials: Vec<Serial> = counted.map(|row| row.intent.serial).collect();
    serials.sort();
    serials
}

async fn remaining(store: &Store, when: u64) -> Vec<Serial> {
    let mut serials: Vec<Serial> =
        store.remaining(at(when)).await.unwrap().into_iter().map(|one| one.serial).collect();
    serials.sort();
    serials
}

#[tokio::test]
async fn a_result_counts_that_comes_after_the_first_look_though_later_ones_were_there_before() {
    let world = World::new().await;
    for number in 1..=3 {
        intend(&world.store, number, number, 0, 900).await;
    }
    end(&world.store, 3, true, 1).await;
    assert_eq!(remaining(&world.store, 1).await, [serial(3)]);
    end(&world.store, 1, true, 2).await;
    assert_eq!(remaining(&world.store, 2).await, [serial(1), serial(3)]);
    end(&world.store, 2, true, 3).await;
    assert_eq!(remaining(&world.store, 3).await, [serial(1), serial(2), serial(3)]);
}

#[tokio::test]
async fn it_is_what_the_table_says_however_rows_come_and_processes_end() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new().await;
        let (mut made, mut pending, mut when) = (0_u8, Vec::new(), 0_u64);
        for step in 0..120 {
            when += random.random_range(0..30_u64);
            match random.random_range(0..10) {
                0..4 if made < 250 => {
                    made += 1;
                    let life = [40, 900, 90_000][random.random_range(0..3)];
                    intend(&world.store, made, random.random_range(0..5), when, life).await;
                    pending.push(made);
                }
                4..8 if !pending.is_empty() => {
                    let number = pending.swap_remove(random.random_range(0..pending.len()));
                    end(&world.store, number, random.random_range(0..4) > 0, when).await;
                }
                8 if made > 0 && random.random_range(0..3) == 0 => {
                    let revoked = Revoked {
                        authority: authority(),
                        serial: serial(random.random_range(1..=made)),
                        at: at(when),
                        reason: RevocationReason::Superseded,
                        not_after: at(when + 90_000),
                    };
                    // Once is enough, and says so.
                    let _ =
                        world.store.revoke(revoked, at(when), event(Action::CertificateRevoke, "w")).await;
                }
                9 if random.random_range(0..6) == 0 => {
                    world = World::open(world.close().await).await;
                    // What was under way has lost its process.
                    pending.clear();
                }
                _ => {}
            }
            assert_eq!(
                remaining(&world.store, when).await,
                listed(&world.store, when).await,
                "seed {seed} step {step}"
            );
        }
        world.close().await;
    }
}
