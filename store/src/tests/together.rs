//! Records of the journal that are written by one statement: each is refused alone.

use std::time::Duration;

use audit::{AuditFilter, AuditLog};
use ca::ports::{
    CertificateFilter, CertificateState, Intent, IssueOutcome, Journal, JournalError, LeafAnswer,
    LeafOutcome, LeafRequest, LeafStore, ResultRecord, Revocations, Revoked, SignedLeaf,
};
use certs::{Profile, RevocationReason, Serial, SpkiHash};
use spiffe::{AuthorityId, IssuerName, Purpose, RequestId, SpiffeId, Tenant};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use tokio::task::JoinSet;

use super::*;
use crate::{
    journal::{FINISH, listing},
    leaves::{ANSWER, FORGET, INSERT_SIGNED, REQUEST_KEPT},
    many::AT_ONCE,
};

const OURS: &str = "00000000000000aa";
const OTHER: &str = "00000000000000bb";
const STOLEN: &str = "00000000000000ff";

fn authority(text: &str) -> AuthorityId {
    text.parse().unwrap()
}

/// The top bit of its first octet is set from 128 on, as in numbers that others have drawn.
fn serial(number: u8) -> Serial {
    Serial::from_bytes(&[number; 19]).unwrap()
}

#[derive(Clone)]
enum Record {
    Intent(u8, &'static str, Profile),
    Result(u8, &'static str),
    /// A leaf that another issuer is asked for, by the number of its key.
    Request(u8),
    /// What it answered: a certificate with this serial number, or none.
    Answer(u8, Option<u8>),
}

impl Record {
    fn intent(number: u8, signs: &'static str) -> Self {
        Self::Intent(number, signs, Profile::Workload)
    }

    async fn write(self, store: Store) -> Result<(), JournalError> {
        match self {
            Self::Intent(number, signs, profile) => {
                let intent = Intent {
                    serial: serial(number),
                    authority: authority(signs),
                    epoch: 1,
                    tbs_sha256: [number; 32],
                    id: SpiffeId::parse(&format!("spiffe://td/w{number}")).unwrap(),
                    profile,
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
            Self::Request(number) => {
                let request = LeafRequest {
                    issuer: IssuerName::parse("corp").unwrap(),
                    role: "svid".to_owned(),
                    authority: authority(OTHER),
                    epoch: 1,
                    id: SpiffeId::parse(&format!("spiffe://td/w{number}")).unwrap(),
                    tenant: Tenant::default(),
                    node: None,
                    purpose: Purpose::Delivery,
                    spki: SpkiHash([number; 32]),
                    not_after: now(),
                    at: now(),
                    request_id: RequestId::random(),
                };
                let event = event(Action::CertificateIntent, &format!("intent {number}"));
                store.record_request(request, event).await
            }
            Self::Answer(number, signed) => {
                let signed = signed.map(|of| SignedLeaf {
                    serial: serial(of),
                    tbs_sha256: [of; 32],
                    not_before: now(),
                    not_after: now(),
                    chain: vec![vec![of; 3], vec![1, 2]],
                });
                let outcome =
                    signed.map_or_else(|| LeafOutcome::Failed("no".to_owned()), LeafOutcome::Issued);
                let answer = LeafAnswer { spki: SpkiHash([number; 32]), outcome, at: now() };
                let event = event(Action::CertificateIssue, &format!("result {number}"));
                store.record_answer(answer, event).await
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

fn taken(number: u8) -> String {
    format!("serial number {} is taken", serial(number))
}

fn not_open(number: u8) -> String {
    format!("no open intent has serial number {}", serial(number))
}

fn stolen() -> String {
    format!("journal is unavailable: the key of authority {STOLEN} is believed to be stolen")
}

/// Writes behind the store's back, while it is closed.
async fn meddle(place: &Place, sql: &str) {
    let mut database = promises::meddle(place).await;
    database.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    database.close().await.unwrap();
}

/// One that is stolen since `at`, or not at all; of any other nobody has heard, which is no matter of the journal's.
async fn know_authority(place: &Place, at: &str) {
    let insert = format!(
        "INSERT INTO authorities (id, tenant, place, state, certificate, created, stolen)
         VALUES ('{STOLEN}', 'default', 'issuing', 'active', x'00', 0, {at})"
    );
    meddle(place, &insert).await;
}

/// How many rows of the audit log are about intents, and how many about results.
async fn audited(world: &World) -> (usize, usize) {
    let rows = world.store.list(&AuditFilter::default()).await.unwrap();
    let objects = |word: &str| rows.iter().filter(|row| row.event.object.starts_with(word)).count();
    assert!(world.store.integrity().await.unwrap().audit_broken.is_none());
    (objects("intent"), objects("result"))
}

#[tokio::test]
async fn of_many_that_are_written_together_each_is_refused_alone() {
    let place = Place::made().await;
    know_authority(&place, "1").await;
    let mut intents: Vec<Record> = (1..151).map(|number| Record::intent(number, OURS)).collect();
    intents[69] = Record::intent(70, STOLEN);
    let (world, refused) = group(place, &intents).await;
    assert_eq!(refused, [(69, stolen())]);

    // Taken ones, and a number of another authority, which is free.
    let intents: Vec<Record> =
        (141..181).map(|number| Record::intent(number, if number == 146 { OTHER } else { OURS })).collect();
    let (world, refused) = group(world.close().await, &intents).await;
    let expected: Vec<_> =
        (0..10).filter(|at| *at != 5).map(|at| (usize::from(at), taken(141 + at))).collect();
    assert_eq!(refused, expected);

    // The same twice at once: the first has it.
    let (world, refused) = group(
        world.close().await,
        &[Record::intent(200, OURS), Record::intent(201, OURS), Record::intent(200, OURS)],
    )
    .await;
    assert_eq!(refused, [(2, taken(200))]);

    // Results of what was intended, of what was not, and once more.
    let results: Vec<Record> = (60..80).chain([170]).map(|number| Record::Result(number, OURS)).collect();
    let (world, refused) = group(world.close().await, &results).await;
    assert_eq!(refused, [(10, not_open(70))]);
    let (world, refused) = group(world.close().await, &results[..3]).await;
    assert_eq!(refused, [(0, not_open(60)), (1, not_open(61)), (2, not_open(62))]);
    let mixed = [Record::Result(80, OURS), Record::intent(210, OURS), Record::Result(80, OURS)];
    let (world, refused) = group(world.close().await, &mixed).await;
    assert_eq!(refused, [(2, not_open(80))]);

    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 149 + 31 + 2 + 1);
    let issued: Vec<_> = rows.iter().filter(|row| row.state == CertificateState::Issued).collect();
    assert_eq!(issued.len(), 21);
    for row in issued {
        let number = row.intent.spki.0[0];
        assert_eq!((&row.intent.serial, &row.chain), (&serial(number), &vec![vec![number; 3], vec![1, 2]]));
    }
    // What was refused has left no row, and what stands has one each, in order.
    assert_eq!(audited(&world).await, (rows.len(), 21));
}

#[tokio::test]
async fn of_leaves_that_another_issuer_is_asked_for_together_each_is_refused_alone() {
    let asked_before =
        |number: u8| format!("journal is unavailable: key {} was asked for before", SpkiHash([number; 32]));
    let no_request = |number: u8| JournalError::NoRequest(SpkiHash([number; 32])).to_string();
    let requests: Vec<Record> = (1..151).map(Record::Request).collect();
    let (world, refused) = group(Place::made().await, &requests).await;
    assert_eq!(refused, []);
    // Two that were asked for before, and the same key twice at once.
    let again = [Record::Request(1), Record::Request(2), Record::Request(201), Record::Request(202)];
    let (world, refused) = group(world.close().await, &again).await;
    assert_eq!(refused, [(0, asked_before(1)), (1, asked_before(2))]);
    let (world, refused) = group(world.close().await, &[Record::Request(203), Record::Request(203)]).await;
    assert_eq!(refused, [(1, asked_before(203))]);

    // One number for two keys, one key that nobody asked for, and one without a certificate.
    let mut answers: Vec<Record> = (1..101).map(|number| Record::Answer(number, Some(number))).collect();
    answers[49] = Record::Answer(50, Some(10));
    answers[59] = Record::Answer(60, None);
    answers.push(Record::Answer(220, Some(220)));
    answers.push(Record::Answer(221, None));
    let (world, refused) = group(world.close().await, &answers).await;
    assert_eq!(refused, [(49, taken(10)), (100, no_request(220)), (101, no_request(221))]);
    // Whose number was taken still waits for its answer; the others have theirs.
    let again = [Record::Answer(1, Some(111)), Record::Answer(50, Some(50)), Record::Answer(60, Some(60))];
    let (world, refused) = group(world.close().await, &again).await;
    assert_eq!(refused, [(0, no_request(1)), (2, no_request(60))]);
    let (world, refused) =
        group(world.close().await, &[Record::Answer(101, Some(1)), Record::Answer(101, None)]).await;
    assert_eq!(refused, [(0, taken(1))]);

    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 99);
    for row in &rows {
        let number = row.intent.spki.0[0];
        assert_eq!((&row.intent.serial, &row.state), (&serial(number), &CertificateState::Issued));
        assert_eq!(row.intent.id.as_str(), format!("spiffe://td/w{number}"));
        assert_eq!(row.chain, [vec![number; 3], vec![1, 2]]);
    }
    assert_eq!(audited(&world).await, (153, 101));
}

/// The whole way of one number by itself, and of two together.
#[tokio::test]
async fn a_serial_number_whose_top_bit_is_set_is_written_once_and_read_back() {
    let world = World::new().await;
    let alone = [Record::intent(0xff, OURS), Record::Result(0xff, OURS)];
    for record in alone {
        record.clone().write(world.store.clone()).await.unwrap();
        record.write(world.store.clone()).await.unwrap_err();
    }
    let two = |record: fn(u8) -> Record| [record(0x80), record(0xf0)];
    let (world, refused) = group(world.close().await, &two(|number| Record::intent(number, OURS))).await;
    assert_eq!(refused, []);
    let (world, refused) = group(world.close().await, &two(|number| Record::Result(number, OURS))).await;
    assert_eq!(refused, []);
    let issued = world.store.issued(&[authority(OURS)], now()).await.unwrap();
    let issued: Vec<_> = issued.into_iter().map(|one| (one.serial, one.tbs_sha256)).collect();
    assert_eq!(issued, [0xff, 0x80, 0xf0].map(|number| (serial(number), [number; 32])));
    assert_eq!(world.store.remaining(now()).await.unwrap().len(), 3);
    assert_eq!(audited(&world).await, (3, 3));
    let revoked = Revoked {
        authority: authority(OURS),
        serial: serial(0xff),
        at: now(),
        reason: RevocationReason::Superseded,
        not_after: now(),
    };
    world.store.revoke(revoked.clone(), now(), event(Action::CertificateRevoke, "x")).await.unwrap();
    assert_eq!(world.store.revoked(now()).await.unwrap(), [revoked]);
}

#[tokio::test]
async fn a_result_under_a_key_that_was_stolen_since_its_intent_is_refused_among_others() {
    let place = Place::made().await;
    know_authority(&place, "NULL").await;
    let signs = |number: u8| if number == 3 { STOLEN } else { OURS };
    let intents: Vec<Record> = (1..6).map(|number| Record::intent(number, signs(number))).collect();
    let (world, refused) = group(place, &intents).await;
    assert_eq!(refused, []);
    let place = world.close().await;
    meddle(&place, "UPDATE authorities SET stolen = 1").await;
    let results: Vec<Record> = (1..6).map(|number| Record::Result(number, signs(number))).collect();
    let (world, refused) = group(place, &results).await;
    assert_eq!(refused, [(2, stolen())]);
    assert_eq!(world.store.issued(&[authority(OURS)], now()).await.unwrap().len(), 4);
    assert_eq!(world.store.issued(&[authority(STOLEN)], now()).await.unwrap(), []);
    assert_eq!(audited(&world).await, (5, 4));
}

#[tokio::test]
async fn while_something_is_found_each_of_many_is_refused_but_our_own_certificate() {
    let world = World::new().await;
    world.store.plant(&["default"], "value").await;
    let place = world.close().await;
    let row = "class = 'tls' AND kind = 'secret' AND id = 'default/a'";
    meddle(&place, &format!("UPDATE sealed SET version = 7 WHERE {row}")).await;
    let mut intents: Vec<Record> = (1..6).map(|number| Record::intent(number, OURS)).collect();
    intents[2] = Record::Intent(3, OURS, Profile::Server);
    let (world, refused) = group(place, &intents).await;
    let finding = world.store.findings().borrow()[0].to_string();
    let why = format!(
        "journal is unavailable: STORE_ROLLBACK, nothing is signed until an operator has looked: {finding}"
    );
    let expected: Vec<_> = [0, 1, 3, 4].into_iter().map(|at| (at, why.clone())).collect();
    assert_eq!(refused, expected);
    // Nor does anybody else come to sign, or go.
    let moved = world.store.set_leaf_issuers(Vec::new(), Vec::new()).await.unwrap_err();
    assert_eq!(moved.to_string(), why);
    assert_eq!(audited(&world).await, (1, 0));
}

/// A statement of many fails as a whole: whoever is to blame is found alone, and costs nobody else anything.
#[tokio::test]
async fn of_many_one_that_the_database_cannot_write_fails_alone() {
    let place = Place::made().await;
    let guilty = |event: &str| {
        format!(
            "CREATE TRIGGER guilty_{event} BEFORE {event} ON certificates
             WHEN new.spki = x'{0}' BEGIN SELECT raise(ABORT, 'no {event} of this one'); END",
            "03".repeat(32)
        )
    };
    let fails = |event: &str| {
        let why = format!(
            "journal is unavailable: error returned from database: (code: 1811) no {event} of this one"
        );
        vec![(2, why)]
    };
    meddle(&place, &guilty("INSERT")).await;
    let intents: Vec<Record> = (1..6).map(|number| Record::intent(number, OURS)).collect();
    let (world, refused) = group(place, &intents).await;
    assert_eq!(refused, fails("INSERT"));
    assert_eq!(audited(&world).await, (4, 0));
    let place = world.close().await;
    meddle(&place, "DROP TRIGGER guilty_INSERT").await;
    let (world, refused) = group(place, &intents[2..3]).await;
    assert_eq!(refused, []);

    let place = world.close().await;
    meddle(&place, &guilty("UPDATE")).await;
    let results: Vec<Record> = (1..6).map(|number| Record::Result(number, OURS)).collect();
    let (world, refused) = group(place, &results).await;
    assert_eq!(refused, fails("UPDATE"));
    let issued = world.store.issued(&[authority(OURS)], now()).await.unwrap();
    assert_eq!(issued.len(), 4);
    assert_eq!(audited(&world).await, (5, 4));
}

/// A certificate without its request's answer would be half of a change: whoever is to blame is found alone, with nothing
/// left of it.
#[tokio::test]
async fn an_answer_of_which_one_half_cannot_be_written_fails_alone_and_whole() {
    let requests: Vec<Record> = (1..6).map(Record::Request).collect();
    let (world, refused) = group(Place::made().await, &requests).await;
    assert_eq!(refused, []);
    let place = world.close().await;
    let guilty = format!(
        "CREATE TRIGGER guilty BEFORE UPDATE ON leaf_requests
         WHEN new.spki = x'{}' BEGIN SELECT raise(ABORT, 'not this one'); END",
        "02".repeat(32)
    );
    meddle(&place, &guilty).await;
    let mut answers: Vec<Record> = (1..6).map(|number| Record::Answer(number, Some(number))).collect();
    answers[3] = Record::Answer(4, None);
    let (world, refused) = group(place, &answers).await;
    let why = "journal is unavailable: error returned from database: (code: 1811) not this one".to_owned();
    assert_eq!(refused, [(1, why)]);
    assert_eq!(world.store.certificates(&CertificateFilter::default()).await.unwrap().len(), 3);
    assert_eq!(audited(&world).await, (5, 4));
    // It still waits for its answer.
    let place = world.close().await;
    meddle(&place, "DROP TRIGGER guilty").await;
    let (world, refused) = group(place, &answers[1..2]).await;
    assert_eq!(refused, []);
    assert_eq!(world.store.certificates(&CertificateFilter::default()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_serial_number_or_its_beginning_is_looked_up_by_the_index_of_each_authority() {
    let place = Place::made().await;
    let mut database = promises::meddle(&place).await;
    let serial = Serial::from_random([7; 20]);
    let start = serial.to_string()[..12].parse().unwrap();
    let all = CertificateFilter::default;
    for filter in [
        CertificateFilter { serial: Some(serial), ..all() },
        CertificateFilter { serial_start: Some(start), ..all() },
    ] {
        let listed = listing(&filter).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {}", listed.sql().as_str());
        let plan = database.fetch_all(AssertSqlSafe(explain)).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let is_looked_up = |step: &String| {
            step.starts_with("SEARCH c USING INDEX sqlite_autoindex_certificates")
                && step.contains("(authority=? AND serial")
        };
        assert!(steps.iter().any(is_looked_up), "{steps:?}");
        assert!(!steps.iter().any(|step| step.starts_with("SCAN c")), "{steps:?}");
    }
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
        let plan = database.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {FORGET}"))).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        assert!(steps.iter().all(|step| !step.starts_with("SCAN")), "{steps:?}");
        for many in [&ANSWER, &INSERT_SIGNED] {
            let explain = format!("EXPLAIN QUERY PLAN {}", many.sql(rows));
            let plan = database.fetch_all(AssertSqlSafe(explain)).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
            let of_requests: Vec<_> = steps.iter().filter(|step| step.contains("leaf_requests")).collect();
            assert!(
                matches!(&of_requests[..], [one] if one.starts_with("SEARCH leaf_requests USING INDEX")),
                "{rows}: {steps:?}"
            );
        }
    }
}

#[tokio::test]
async fn requests_are_forgotten_a_week_after_their_leaves_ended_and_certificates_stay() {
    let records = [Record::Request(1), Record::Request(2), Record::Request(3)];
    let (world, refused) = group(Place::made().await, &records).await;
    assert_eq!(refused, []);
    for answer in [Record::Answer(1, Some(9)), Record::Answer(2, None)] {
        answer.write(world.store.clone()).await.unwrap();
    }
    let week = now() + REQUEST_KEPT;
    let kept = async || {
        let row = sqlx::query("SELECT count(*) AS kept FROM leaf_requests");
        row.fetch_one(&mut *world.store.read().await.unwrap()).await.unwrap().get::<i64, _>("kept")
    };
    assert!(!world.store.forget_requests(week).await.unwrap());
    assert_eq!(kept().await, 3, "all of them ended at this moment");
    assert!(!world.store.forget_requests(week + Duration::from_secs(1)).await.unwrap());
    assert_eq!(kept().await, 0);
    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    Record::Request(1).write(world.store.clone()).await.unwrap();
}
