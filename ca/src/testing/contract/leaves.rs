//! Leaves that other issuers sign.

use std::future::Future;

use certs::{Serial, SpkiHash};
use spiffe::{IssuerName, NodeId, Purpose, RequestId, SpiffeId, Tenant};

use super::{StoreFixture, after, authority, chain, event, now};
use crate::ports::{
    AuthorityState, CertificateFilter, CertificateState, DefaultIssuer, JournalError, LeafAnswer, LeafIssuer,
    LeafOutcome, LeafRequest, Leaves, Migration, SignedLeaf, Source,
};

/// Holds what keeps leaves of other issuers against its contract; `factory` makes an empty one.
///
/// # Panics
/// Where the contract is broken.
pub async fn leaves_contract<F, Fut, S>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: StoreFixture,
{
    issuers(&factory().await).await;
    defaults(&factory().await).await;
    requests(&factory().await).await;
}

fn named(name: &str) -> IssuerName {
    IssuerName::parse(name).expect("test names parse")
}

async fn issuers(store: &dyn StoreFixture) {
    let leaves = store.leaves();
    assert_eq!(leaves.leaf_issuers().await.expect("issuers"), []);
    let before = store.events().await.len();
    let one = |name, generation, state, secs| LeafIssuer {
        source: Source { name: named(name), generation },
        state,
        since: after(secs),
        is_hurried: secs == 3,
    };
    let first = [
        one("b", 0, AuthorityState::Active, 1),
        one("a", 1, AuthorityState::Prepared, 2),
        one("a", 0, AuthorityState::Active, 2),
    ];
    leaves.set_leaf_issuers(first.to_vec(), vec![event("one"), event("two")]).await.expect("set");
    let [b, next, a] = first;
    assert_eq!(
        leaves.leaf_issuers().await.expect("issuers"),
        [a, next, b],
        "all of them, by name and generation"
    );
    let second = vec![one("b", 0, AuthorityState::Retired, 3)];
    leaves.set_leaf_issuers(second.clone(), vec![event("three")]).await.expect("set");
    assert_eq!(leaves.leaf_issuers().await.expect("issuers"), second, "and no others");
    let objects: Vec<String> = store.events().await.split_off(before).into_iter().map(|e| e.object).collect();
    assert_eq!(objects, ["one", "two", "three"]);
}

async fn defaults(store: &dyn StoreFixture) {
    let leaves = store.leaves();
    assert_eq!(leaves.default_issuer().await.expect("default"), DefaultIssuer::default());
    let before = store.events().await.len();
    let migration = Migration {
        to: named("corp"),
        stages: vec![5, 100],
        stage: 1,
        since: after(1),
        hold: std::time::Duration::from_millis(1500),
        stopped: Some("too many".to_owned()),
        is_hurried: true,
    };
    for next in [
        DefaultIssuer { migration: Some(migration), ..DefaultIssuer::default() },
        DefaultIssuer { current: named("corp"), migration: None, left: [named("lab")].into() },
    ] {
        leaves.set_default_issuer(next.clone(), vec![event("set")]).await.expect("set");
        assert_eq!(leaves.default_issuer().await.expect("default"), next);
    }
    assert_eq!(store.events().await.len(), before + 2);
}

fn request(key: u8, secs: u64) -> LeafRequest {
    LeafRequest {
        issuer: named("corp"),
        role: "svid".to_owned(),
        authority: authority(7),
        epoch: 3,
        id: SpiffeId::parse("spiffe://td/web").expect("test identities parse"),
        tenant: Tenant::default(),
        node: Some(NodeId::parse("web-1").expect("test nodes parse")),
        purpose: Purpose::Renewal,
        spki: SpkiHash([key; 32]),
        not_after: after(secs),
        at: now(),
        request_id: RequestId::from_random([key; 8]),
    }
}

fn answer(key: u8, outcome: LeafOutcome) -> LeafAnswer {
    LeafAnswer { spki: SpkiHash([key; 32]), outcome, at: after(1) }
}

fn issued(serial: u8, secs: u64) -> LeafOutcome {
    LeafOutcome::Issued(SignedLeaf {
        serial: Serial::from_random([serial; 20]),
        tbs_sha256: [serial; 32],
        not_before: now(),
        not_after: after(secs),
        chain: chain(),
    })
}

async fn requests(store: &dyn StoreFixture) {
    let (leaves, journal) = (store.leaves(), store.journal());
    for key in 1..=4 {
        leaves.record_request(request(key, 100), event("asked")).await.expect("request");
    }
    let again = leaves.record_request(request(1, 100), event("again")).await;
    assert!(matches!(again, Err(JournalError::Unavailable(_))), "a key is asked for once: {again:?}");
    assert_eq!(journal.certificates(&CertificateFilter::default()).await.expect("rows"), []);
    let count = async |secs| journal.unexpired_leaves(authority(7), after(secs)).await.expect("leaves");
    assert_eq!(
        count(100).await,
        Leaves { count: 4, last: Some(after(100)) },
        "what may have been signed counts"
    );
    assert_eq!(count(101).await, Leaves::default());

    leaves.record_answer(answer(1, issued(1, 50)), event("issued")).await.expect("answer");
    let failed = LeafOutcome::Failed("no such role".to_owned());
    leaves.record_answer(answer(2, failed.clone()), event("failed")).await.expect("answer");
    let unknown = LeafOutcome::Unknown("no answer".to_owned());
    leaves.record_answer(answer(3, unknown), event("unknown")).await.expect("answer");
    for key in [1, 2, 3, 9] {
        let twice = leaves.record_answer(answer(key, failed.clone()), event("twice")).await;
        assert_eq!(twice, Err(JournalError::NoRequest(SpkiHash([key; 32]))), "one answer to each request");
    }
    let taken = leaves.record_answer(answer(4, issued(1, 50)), event("taken")).await;
    assert_eq!(taken, Err(JournalError::SerialTaken(Serial::from_random([1; 20]))), "a number is given once");

    let rows = journal.certificates(&CertificateFilter::default()).await.expect("rows");
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    let intent = &row.intent;
    assert_eq!((&row.state, row.finished), (&CertificateState::Issued, Some(after(1))));
    assert_eq!((intent.authority, intent.epoch, intent.at), (authority(7), 3, now()));
    assert_eq!((intent.not_before, intent.not_after), (now(), after(50)), "as it was signed");
    assert_eq!((intent.spki, intent.tbs_sha256), (SpkiHash([1; 32]), [1; 32]));
    assert_eq!((&intent.serial, intent.purpose), (&Serial::from_random([1; 20]), Purpose::Renewal));
    assert_eq!((&row.chain, &intent.request_id), (&chain(), &RequestId::from_random([1; 8])));
    let remaining = journal.remaining(after(50)).await.expect("remaining");
    assert_eq!(remaining.len(), 1, "what was issued is like any other certificate: {remaining:?}");
    assert_eq!(count(0).await, Leaves { count: 3, last: Some(after(100)) }, "one issued, two unknown");

    let unknown = async |name, before, at| {
        let found = leaves.unknown_leaves(&named(name), after(before), after(at)).await.expect("unknown");
        found.into_iter().map(|one| one.spki.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(unknown("corp", 1, 0).await, [4, 3], "newest first");
    assert_eq!(unknown("corp", 0, 0).await, [0_u8; 0], "those that were asked for later may get an answer");
    assert_eq!(unknown("corp", 1, 101).await, [0_u8; 0], "what is over is of no interest");
    assert_eq!(unknown("other", 1, 0).await, [0_u8; 0]);
    let found = leaves.unknown_leaves(&named("corp"), after(1), now()).await.expect("unknown");
    assert_eq!(found[0], request(4, 100), "it reads back as it was written");
    let objects: Vec<String> = store.events().await.into_iter().map(|event| event.object).collect();
    let expected = ["asked", "asked", "asked", "asked", "issued", "failed", "unknown"];
    assert_eq!(objects, expected, "events come and go with their transaction");
}
