//! Recovery windows, and who could come back in them, in the store.

use std::time::Duration;

use api::ports::{Expired, Recovered, RecoveryStore, RecoveryWindow, StoreError};
use audit::{AuditFilter, AuditLog};
use ca::{
    ports::{Intent, IssueOutcome, Journal, ResultRecord, Revocations, Revoked},
    testing::StoreFixture,
};
use certs::{Profile, RevocationReason, Serial, SpkiHash, Validity};
use spiffe::{
    AuthorityId, NodeId, Purpose, RecoveryRefusal, RecoverySpend, RequestId, Spend, Tenant, TrustDomain,
};
use sqlx::{Connection, Executor};

use super::{promises::meddle, tamper::Fixture, *};

const LIFE: Duration = Duration::from_secs(600);

fn later(secs: u64) -> Timestamp {
    now() + Duration::from_secs(secs)
}

fn domain() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

fn window() -> RecoveryWindow {
    RecoveryWindow {
        id: 0,
        reason: "power cut".into(),
        by: "spiffe://td/credence/operator/ann".into(),
        opened: now(),
        until: later(3600),
        closed: None,
        reach: Duration::from_secs(86_400),
    }
}

/// Issues node `web-1` a certificate that begins at `at`.
async fn issue(store: &Store, serial: u8, at: Timestamp, spend: Option<RecoverySpend>) {
    let (serial, authority) = (Serial::from_random([serial; 20]), AuthorityId::of(SpkiHash([1; 32])));
    let node = NodeId::parse("web-1").unwrap();
    let intent = Intent {
        serial: serial.clone(),
        authority,
        epoch: 1,
        tbs_sha256: [0; 32],
        id: domain().node_id(&node),
        profile: Profile::Node,
        tenant: Tenant::default(),
        node: Some(node),
        purpose: if spend.is_some() { Purpose::Recovery } else { Purpose::NodeRenewal },
        spki: spend.as_ref().map_or(SpkiHash([0; 32]), |spend| spend.spki),
        not_before: at - Validity::BACKDATE,
        not_after: at + LIFE,
        at,
        request_id: RequestId::random(),
    };
    let spend = spend.map(Spend::Recovery);
    store.record_intent(intent, spend, event(Action::CertificateIntent, "intent")).await.unwrap();
    let outcome = IssueOutcome::Issued(vec![b"leaf".to_vec(), b"issuer".to_vec()]);
    let result = ResultRecord { serial, authority, outcome, at };
    store.record_result(result, event(Action::NodeRecover, "issued")).await.unwrap();
}

#[tokio::test]
async fn a_window_outlives_the_process_and_is_audited_by_its_number() {
    let world = World::new().await;
    assert_eq!(world.store.recovery().await.unwrap(), None);
    let close = |secs| Event { at: later(secs), ..event(Action::RecoveryClose, "nodes") };
    let missing = world.store.close_recovery(close(0)).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    let open = |at: u64| Event { at: later(at), ..event(Action::RecoveryOpen, "nodes") };
    let first = world.store.open_recovery(window(), open(0)).await.unwrap();
    assert_eq!(first, RecoveryWindow { id: 1, ..window() });
    let world = World::open(world.close().await).await;
    assert_eq!(world.store.recovery().await.unwrap(), Some(first));
    // Another one takes its place; it is closed before its time, and what has ended cannot be closed.
    let second = RecoveryWindow { opened: later(10), ..window() };
    let second = world.store.open_recovery(second, open(10)).await.unwrap();
    assert_eq!(second.id, 2);
    world.store.close_recovery(close(20)).await.unwrap();
    let world = World::open(world.close().await).await;
    let closed = RecoveryWindow { closed: Some(later(20)), ..second };
    assert_eq!(world.store.recovery().await.unwrap(), Some(closed));
    assert!(world.store.close_recovery(close(21)).await.is_err());
    let third = RecoveryWindow { opened: later(30), until: later(40), ..window() };
    world.store.open_recovery(third, open(30)).await.unwrap();
    assert!(world.store.close_recovery(close(40)).await.is_err(), "it has ended by itself");
    let rows = world.store.list(&AuditFilter::default()).await.unwrap();
    let mut windows: Vec<_> = rows
        .iter()
        .filter(|row| row.event.action == Action::RecoveryOpen)
        .map(|row| row.event.details["recovery_window"].clone())
        .collect();
    windows.sort();
    assert_eq!(windows, ["1", "2", "3"]);
    world.close().await;
}

#[tokio::test]
async fn who_expired_is_listed_with_what_bars_it_and_who_came_back_with_its_new_end() {
    let fixture = Fixture(World::new().await);
    let store = &fixture.0.store;
    let listed = async |since: u64, at: u64| {
        let listed = store.expired(&domain(), later(since), later(at)).await.unwrap();
        listed.into_iter().map(|one| (one.node.to_string(), one.at, one.barred)).collect::<Vec<_>>()
    };
    let web = |at, barred| vec![("web-1".to_owned(), at, barred)];
    issue(store, 1, now(), None).await;
    issue(store, 2, later(60), None).await;
    assert_eq!(listed(0, 700).await, [], "nobody knows such a node");
    fixture.bind(now()).await;
    assert_eq!(listed(0, 659).await, [], "its newest certificate lives");
    assert_eq!(listed(0, 660).await, web(later(660), None));
    assert_eq!(listed(661, 700).await, [], "it ended before what is asked for");
    let disabled = async |state: &str| {
        let mut connection = meddle(&fixture.0.place).await;
        let update = format!("UPDATE bindings SET state = '{state}'");
        connection.execute(sqlx::AssertSqlSafe(update)).await.unwrap();
        connection.close().await.unwrap();
    };
    disabled("disabled").await;
    assert_eq!(listed(0, 700).await, []);
    disabled("enabled").await;
    fixture.unbind().await;
    fixture.bind(later(61)).await;
    assert_eq!(listed(0, 700).await, [], "it is another node's");
    fixture.unbind().await;
    fixture.bind(now()).await;

    let window = store.open_recovery(window(), event(Action::RecoveryOpen, "nodes")).await.unwrap();
    assert_eq!(store.recovered(window.id).await.unwrap(), []);
    let node = NodeId::parse("web-1").unwrap();
    let (replaces, spki) = (Serial::from_random([2; 20]), SpkiHash([9; 32]));
    let spend =
        RecoverySpend { window: window.id, node: node.clone(), replaces, spki, from: "192.0.2.7".into() };
    issue(store, 3, later(800), Some(spend)).await;
    assert_eq!(listed(0, 900).await, []);
    let back = Recovered { node, at: later(800), until: later(800) + LIFE };
    assert_eq!(store.recovered(window.id).await.unwrap(), [back]);

    let revoked = Revoked {
        authority: AuthorityId::of(SpkiHash([1; 32])),
        serial: Serial::from_random([3; 20]),
        at: later(900),
        reason: RevocationReason::KeyCompromise,
        not_after: later(800) + LIFE,
    };
    store.revoke(revoked, now(), event(Action::CertificateFail, "revoked")).await.unwrap();
    assert_eq!(listed(0, 1400).await, web(later(1400), Some(RecoveryRefusal::Revoked)));
    let expected = Expired {
        node: NodeId::parse("web-1").unwrap(),
        at: later(1400),
        barred: Some(RecoveryRefusal::Revoked),
    };
    assert_eq!(store.expired(&domain(), now(), later(1400)).await.unwrap(), [expected]);
    fixture.0.close().await;
}
