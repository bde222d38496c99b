//! Records of the journal that are written by one statement: each is refused alone.

use audit::{AuditFilter, AuditLog};
use ca::ports::{
    CertificateFilter, CertificateState, Intent, IssueOutcome, Journal, JournalError, ResultRecord,
};
use certs::{Profile, Serial, SpkiHash};
use spiffe::{AuthorityId, Purpose, RequestId, SpiffeId, Tenant};
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::task::JoinSet;

use super::*;
use crate::{journal::FINISH, many::AT_ONCE};

const STOLEN: &str = "00000000000000ff";

fn authority(text: &str) -> AuthorityId {
    text.parse().unwrap()
}

fn serial(number: u8) -> Serial {
    Serial::from_random([number; 20])
}

#[derive(Clone)]
enum Record {
    Intent(u8, &'static str),
    Result(u8, &'static str),
}

impl Record {
    async fn write(self, store: Store) -> Result<(), JournalError> {
        match self {
            Self::Intent(number, signs) => {
                let intent = Intent {
                    serial: serial(number),
                    authority: authority(signs),
                    epoch: 1,
                    tbs_sha256: [number; 32],
                    id: SpiffeId::parse(&format!("spiffe://td/w{number}")).unwrap(),
                    profile: Profile::Workload,
                    tenant: Tenant::default(),
                    node: None,
                    purpose: Purpose::Delivery,
                    spki: SpkiHash([number; 32]),
                    not_before: now(),
                    not_after: now(),
                    at: now(),
                    request_id: RequestId::random(),
                };
                let event = event(Action::CertificateIntent, &format!("intent {number}"));
                store.record_intent(intent, None, event).await
            }
            Self::Result(number, signs) => {
                let outcome = IssueOutcome::Issued(vec![vec![number; 3], vec![1, 2]]);
                let (serial, authority) = (serial(number), authority(signs));
                let result = ResultRecord { serial, authority, outcome, at: now() };
                store
                    .record_result(result, event(Action::CertificateIssue, &format!("result {number}")))
                    .await
            }
        }
    }
}

/// Queues everything while nobody writes, so that it is one group; answers what was refused, by its place.
async fn group(place: Place, records: &[Record]) -> (World, Vec<(usize, String)>) {
    let (store, writer) = open(place.open_options()).await.unwrap();
    let mut waiting = JoinSet::new();
    for (number, record) in records.iter().cloned().enumerate() {
        let writes = record.write(store.clone());
        waiting.spawn(async move { (number, writes.await) });
        // Each comes into the queue before the next.
        tokio::task::yield_now().await;
    }
    let world = World::run(place, (store, writer));
    let answers = waiting.join_all().await;
    assert_eq!(world.store.written().commits, 1);
    let refused = answers.into_iter().filter_map(|(number, answer)| Some((number, answer.err()?)));
    let mut refused: Vec<_> = refused.map(|(number, error)| (number, error.to_string())).collect();
    refused.sort();
    (world, refused)
}

#[tokio::test]
async fn of_many_that_are_written_together_each_is_refused_alone() {
    const OURS: &str = "00000000000000aa";
    let place = Place::made().await;
    // An authority that is stolen, and one that nobody has heard of, which is no matter of the journal's.
    let mut other = promises::meddle(&place).await;
    let insert = format!(
        "INSERT INTO authorities (id, tenant, place, state, certificate, created, stolen)
         VALUES ('{STOLEN}', 'default', 'issuing', 'active', x'00', 0, 1)"
    );
    other.execute(AssertSqlSafe(insert)).await.unwrap();
    drop(other);

    let mut intents: Vec<Record> = (0..150).map(|number| Record::Intent(number, OURS)).collect();
    intents[70] = Record::Intent(70, STOLEN);
    let (world, refused) = group(place, &intents).await;
    assert!(matches!(&refused[..], [(70, why)] if why.contains("believed to be stolen")), "{refused:?}");

    // Taken ones, and a number of another authority, which is free.
    let intents: Vec<Record> = (140..180)
        .map(|number| Record::Intent(number, if number == 145 { "00000000000000bb" } else { OURS }))
        .collect();
    let (world, refused) = group(world.close().await, &intents).await;
    let places: Vec<usize> = refused.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [0, 1, 2, 3, 4, 6, 7, 8, 9]);
    assert!(refused.iter().all(|(_, why)| why.contains("taken")), "{refused:?}");

    // The same twice at once: the first has it.
    let (world, refused) = group(
        world.close().await,
        &[Record::Intent(200, OURS), Record::Intent(201, OURS), Record::Intent(200, OURS)],
    )
    .await;
    assert!(matches!(&refused[..], [(2, why)] if why.contains("taken")), "{refused:?}");

    // Results of what was intended, of what was not, and once more.
    let results: Vec<Record> = (60..80).map(|number| Record::Result(number, OURS)).collect();
    let (world, refused) = group(world.close().await, &results).await;
    assert!(matches!(&refused[..], [(10, _)]), "{refused:?}");
    let (world, refused) = group(world.close().await, &results[..3]).await;
    assert_eq!(refused.len(), 3);
    let mixed = [Record::Result(80, OURS), Record::Intent(210, OURS), Record::Result(80, OURS)];
    let (world, refused) = group(world.close().await, &mixed).await;
    assert!(matches!(&refused[..], [(2, _)]), "{refused:?}");

    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 149 + 31 + 2 + 1);
    let issued: Vec<_> = rows.iter().filter(|row| row.state == CertificateState::Issued).collect();
    assert_eq!(issued.len(), 20);
    for row in issued {
        let number = row.intent.spki.0[0];
        assert_eq!((&row.intent.serial, &row.chain), (&serial(number), &vec![vec![number; 3], vec![1, 2]]));
    }
    // What was refused has left no row, and what stands has one each, in order.
    let audited = world.store.list(&AuditFilter::default()).await.unwrap();
    let objects = |word: &str| audited.iter().filter(|row| row.event.object.starts_with(word)).count();
    assert_eq!((objects("intent"), objects("result")), (rows.len(), 20));
    assert!(world.store.integrity().await.unwrap().audit_broken.is_none());
}

#[tokio::test]
async fn results_are_looked_up_however_many_there_are() {
    let place = Place::made().await;
    let mut database = promises::meddle(&place).await;
    for rows in [1, 2, 3, 64, AT_ONCE] {
        let explain = format!("EXPLAIN QUERY PLAN {}", FINISH.sql(rows));
        let plan = database.fetch_all(AssertSqlSafe(explain)).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let of_certificates: Vec<_> = steps.iter().filter(|step| step.contains("certificates")).collect();
        assert!(
            matches!(&of_certificates[..], [one] if one.starts_with("SEARCH certificates USING INDEX")),
            "{rows}: {steps:?}"
        );
    }
}
