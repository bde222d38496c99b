use spiffe::{RequestId, SpiffeId, Tenant};

use super::*;
use crate::Action;

fn full() -> Event {
    let id = SpiffeId::parse("spiffe://td/credence/operator/ann").unwrap();
    Event::refused(
        Timestamp::from_unix_millis(1_800_000_000_123),
        Actor::Identity { id },
        Action::CallRefuse,
        "ProxyConfig default/web",
        "role viewer may not apply",
    )
    .with("serial", "4f00")
    .with("node_id", "web-1")
    .for_tenant(Tenant::parse("blue").unwrap())
    .in_request(RequestId::from_random([7; 8]))
}

fn rows() -> Vec<AuditRow> {
    let mut head = Head::GENESIS;
    [Event::done(Timestamp::EPOCH, Actor::Host, Action::Init, "td"), full(), full()]
        .into_iter()
        .map(|event| {
            let row = head.next(event);
            head = Head { sequence: row.sequence, hash: row.hash };
            row
        })
        .collect()
}

/// Frozen: a change here breaks the chain of every data directory that exists.
#[test]
fn bytes_and_hashes_stay_as_they_were_written() {
    let plain = Event::done(Timestamp::from_unix_millis(1), Actor::Host, Action::Init, "td");
    assert_eq!(
        hex::encode(plain.canonical_bytes()),
        "0100000000000000010100000004696e697400000000076465666175\
         6c740000000274640000000000000000000000000000000001"
    );
    let hashes: Vec<String> = rows().iter().map(|row| hex::encode(row.hash)).collect();
    assert_eq!(hashes, FROZEN_HASHES);
}

/// Computed by another program from the description of the format alone.
const FROZEN_HASHES: [&str; 3] = [
    "89abbdb48b5b39652b4dc85d15dd1c2715b7627b81c01107f4d0286a62457b6a",
    "afc9793cc6efc41d2112d7184d67b9289e827f8c9da9e0cb17042d2c6e050971",
    "fefbfc67d34b4bd2ee4ca4a7776f9d4b193e03711db7d672352b910cfdac9f5e",
];

#[test]
fn every_field_counts() {
    let original = full().canonical_bytes();
    let edits: [fn(&mut Event); 11] = [
        |event| event.at = Timestamp::EPOCH,
        |event| event.actor = Actor::System,
        |event| event.action = Action::Start,
        |event| event.outcome = Outcome::Failed,
        |event| event.tenant = Tenant::default(),
        |event| event.object.push('x'),
        |event| event.reason.clear(),
        |event| drop(event.details.remove("serial")),
        |event| event.request_id = None,
        |event| event.count = 2,
        // The same letters, cut at another place.
        |event| {
            event.object.push('r');
            event.reason.remove(0);
        },
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let mut event = full();
        edit(&mut event);
        assert_ne!(event.canonical_bytes(), original, "edit {number}");
    }
    let stranger =
        Event { actor: Actor::Stranger { address: "spiffe://td/credence/operator/ann".into() }, ..full() };
    assert_ne!(stranger.canonical_bytes(), original);
}

#[test]
fn edits_show_at_the_row_where_they_were_made() {
    let good = rows();
    let end = verify_chain(Head::GENESIS, &good).unwrap();
    assert_eq!(end, Head { sequence: 3, hash: good[2].hash });

    let check = |edit: fn(&mut Vec<AuditRow>), sequence: u64| {
        let mut rows = rows();
        edit(&mut rows);
        assert_eq!(verify_chain(Head::GENESIS, &rows), Err(Broken { sequence }));
    };
    check(|rows| rows[1].event.count = 5, 2);
    check(|rows| drop(rows.remove(1)), 3);
    check(|rows| drop(rows.remove(0)), 2);
    check(|rows| rows.swap(1, 2), 3);
    check(|rows| rows[2].sequence = 4, 4);
    check(
        |rows| {
            let doubled = rows[2].clone();
            rows.push(doubled);
        },
        3,
    );
    // Truncation shows against a head that is kept elsewhere, and pages can be checked one by one.
    assert_ne!(verify_chain(Head::GENESIS, &good[..2]), Ok(end));
    let middle = Head { sequence: 1, hash: good[0].hash };
    assert_eq!(verify_chain(middle, &good[1..]), Ok(end));
}
