//! Revoking one certificate.

use ca::{ListStatus, ListsStatus, Withdrawn};
use certs::Profile;

use super::*;
use crate::sources::ListUptake;

const HOUR: Duration = Duration::from_secs(3600);

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td.example{path}")).unwrap()
}

fn texts(value: &Value) -> String {
    value.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// Lists that live a week, of the authority that signs in these tests.
fn lists(world: &World) -> ListsStatus {
    let now = world.clock.now();
    let list = ListStatus {
        authority: AuthorityId::of(certs::SpkiHash([1; 32])),
        number: 4,
        made: now,
        ends: now + 168 * HOUR,
        due: Some(now + 84 * HOUR),
        revoked: 2,
    };
    ListsStatus { lists: vec![list], is_shown: true, ..ListsStatus::default() }
}

impl World {
    async fn revoke(&self, serial: &certs::Serial, body: Value) -> Answer {
        self.json("POST", &format!("/api/v1/certificates/{serial}/revoke"), body).await
    }
}

#[tokio::test]
async fn without_lists_it_says_who_accepts_the_certificate_until_when() {
    let world = world().await;
    let serial = world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await;
    let plan = world.revoke(&serial, json!({"dry_run": true})).await;
    assert_eq!(plan.status, StatusCode::OK, "{}", plan.body);
    assert_eq!(plan.body["certificate"]["state"], "issued");
    assert!(texts(&plan.body["steps"]).contains("give the proxy of web-1 another"), "{}", plan.body);
    let limits = texts(&plan.body["limits"]);
    assert!(limits.contains(&(world.clock.now() + HOUR).to_string()), "{limits}");
    assert!(limits.contains("ca.revocation_lists") && limits.contains("identity block"), "{limits}");
    assert!(world.journal.events().iter().all(|event| event.action != Action::CertificateRevoke));

    let done = world.revoke(&serial, json!({"code": "key-compromise", "reason": "laptop lost"})).await;
    assert_eq!(done.body["certificate"]["state"], "revoked", "{}", done.body);
    assert!(done.body["uptake"].is_null());
    let event = world.journal.events().pop().unwrap();
    assert_eq!((event.action, event.reason.as_str()), (Action::CertificateRevoke, "laptop lost"));
    assert_eq!(event.details["code"], "key-compromise");
    assert_eq!(event.actor.to_string(), "spiffe://td.example/credence/operator/ann");
    let shown = world.get(&format!("/api/v1/certificates/{serial}")).await;
    assert_eq!(shown.body["state"], "revoked", "{}", shown.body);
    let again = world.revoke(&serial, json!({})).await;
    assert_eq!((again.status, &again.body["detail"]), (StatusCode::CONFLICT, &again.body["detail"]));
    assert!(again.body.to_string().contains("was revoked at"), "{}", again.body);
}

#[tokio::test]
async fn with_lists_it_waits_for_the_proxies() {
    let world = world().await;
    let serial = world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await;
    *world.revoking.lists.lock().unwrap() = Some(lists(&world));
    *world.revoking.uptake.lock().unwrap() = ListUptake { proxies: 3, acknowledged: 3, waiting: vec![] };
    let plan = world.revoke(&serial, json!({"dry_run": true})).await;
    assert!(texts(&plan.body["steps"]).contains("after 5 s at the latest"), "{}", plan.body);
    assert!(texts(&plan.body["limits"]).contains("connections that are open already"), "{}", plan.body);
    let done = world.revoke(&serial, json!({})).await;
    assert_eq!(done.body["uptake"]["acknowledged"], 3, "{}", done.body);
    assert!(done.body["took_ms"].is_number());

    // Somebody lags: named, when patience has ended.
    tokio::time::pause();
    let other = world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await;
    let waiting = vec!["web-2".to_owned()];
    *world.revoking.uptake.lock().unwrap() = ListUptake { proxies: 3, acknowledged: 2, waiting };
    let done = world.revoke(&other, json!({})).await;
    assert_eq!(done.body["uptake"]["waiting"], json!(["web-2"]), "{}", done.body);

    // What ends is listed, and what is wrong is said.
    let endings = world.get("/api/v1/expiries?within=8d").await;
    let crl = endings.body["items"].as_array().unwrap().iter().find(|one| one["kind"] == "crl").unwrap();
    assert_eq!(crl["in_secs"], 168 * 3600);
    let withdrawn =
        Withdrawn { since: world.clock.now(), because: AuthorityId::of(certs::SpkiHash([1; 32])) };
    let lists = ListsStatus { is_shown: false, withdrawn: Some(withdrawn), ..lists(&world) };
    *world.revoking.lists.lock().unwrap() = Some(lists);
    let status = world.get("/api/v1/status").await;
    assert!(texts(&status.body["warnings"]).contains("revocation lists are WITHDRAWN"), "{}", status.body);
    let third = world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await;
    let done = world.revoke(&third, json!({})).await;
    assert!(texts(&done.body["limits"]).contains("withdrawn since"), "{}", done.body);
    assert!(done.body["uptake"].is_null());
}

#[tokio::test]
async fn certificates_of_nodes_and_operators_concern_our_doors_alone() {
    let world = world().await;
    let node = world.issued(id("/credence/node/web-1"), Profile::Node, Some("web-1"), HOUR).await;
    let plan = world.revoke(&node, json!({"dry_run": true})).await;
    assert!(texts(&plan.body["steps"]).contains("credence proxy enroll web-1 --replace"), "{}", plan.body);
    world.issued(id("/credence/node/web-1"), Profile::Node, Some("web-1"), HOUR).await;
    let plan = world.revoke(&node, json!({"dry_run": true})).await;
    assert!(!texts(&plan.body["steps"]).contains("enroll"), "it has a newer one: {}", plan.body);

    let ann = id("/credence/operator/ann");
    let own = world.peer.as_ref().unwrap().svid().serial().clone();
    let own = world.planted(own, ann.clone(), Profile::Operator, None, HOUR).await;
    let newer = world.issued(ann, Profile::Operator, None, HOUR).await;
    let refused = world.revoke(&own, json!({})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.body);
    let done = world.revoke(&newer, json!({})).await;
    assert_eq!(done.status, StatusCode::OK, "what a thief of a copy has renewed: {}", done.body);
}

#[tokio::test]
async fn refuses_what_cannot_be_revoked_and_changes_nothing() {
    let world = world().await;
    let serial = world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await;
    let check = async |path: &str, body: Value, status: u16, words: &str| {
        let answer = world.json("POST", &format!("/api/v1/certificates/{path}/revoke"), body).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.body);
        assert!(answer.body.to_string().contains(words), "{path}: {}", answer.body);
    };
    check("zz", json!({}), 400, "not hexadecimal").await;
    check("00", json!({}), 400, "not positive").await;
    check(&"ab".repeat(21), json!({}), 400, "21 octets").await;
    check("0a0b", json!({}), 404, "certificate 0a0b").await;
    check("0a0b0c0d", json!({}), 404, "certificate 0a0b0c0d").await;
    check("0a0b0", json!({}), 400, "has 5 hexadecimal digits, and 8 at least").await;
    check(&serial.to_string(), json!({"code": "ca-compromise"}), 400, "is no reason").await;
    check(&serial.to_string(), json!({"now": true}), 400, "now").await;
    world.clock.advance(HOUR + Duration::from_secs(1));
    check(&serial.to_string(), json!({}), 409, "expired at").await;
    assert!(world.journal.events().iter().all(|event| event.action != Action::CertificateRevoke));
}

#[tokio::test]
async fn the_beginning_of_a_serial_number_is_enough_where_no_other_begins_so() {
    let world = world().await;
    let serial = world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await;
    let start = &serial.to_string()[..9];
    let shown = world.get(&format!("/api/v1/certificates/{start}")).await;
    assert_eq!(shown.body["serial"], serial.to_string(), "{}", shown.body);
    let body = json!({"dry_run": true});
    let plan = world.json("POST", &format!("/api/v1/certificates/{start}/revoke"), body).await;
    assert_eq!(plan.body["certificate"]["serial"], serial.to_string(), "{}", plan.body);
    let done = world.json("POST", &format!("/api/v1/certificates/{start}/revoke"), json!({})).await;
    assert_eq!(done.body["certificate"]["state"], "revoked", "{}", done.body);
    // Two that begin alike: both are listed, and neither is touched.
    let twin = |last: u8| certs::Serial::from_bytes(&[0x0a, 1, 2, 3, 4, last]).unwrap();
    for last in [1, 2] {
        world.planted(twin(last), id("/api"), Profile::Workload, None, HOUR).await;
    }
    let path = "/api/v1/certificates/0a010203/revoke";
    let refused = world.json("POST", path, json!({})).await;
    let words = refused.body.to_string();
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{words}");
    assert!([1, 2].iter().all(|last| words.contains(&twin(*last).to_string())), "{words}");
    let whole = world.get(&format!("/api/v1/certificates/{}", twin(2))).await;
    assert_eq!(
        (&whole.body["serial"], &whole.body["state"]),
        (&json!(twin(2).to_string()), &json!("issued"))
    );
}

#[tokio::test]
async fn without_lists_the_status_says_which_revoked_certificates_are_believed() {
    let world = world().await;
    let warned = async || world.get("/api/v1/status").await.body["warnings"].to_string();
    world.plant_root().await;
    let node = id("/credence/node/web-1");
    let serials = [
        world.issued(id("/web"), Profile::Workload, Some("web-1"), HOUR).await,
        world.issued(id("/api"), Profile::Workload, Some("web-1"), 2 * HOUR).await,
        world.issued(node, Profile::Node, Some("web-1"), HOUR).await,
    ];
    assert!(!warned().await.contains("revocation lists are off"), "{}", warned().await);
    for serial in &serials {
        let done = world.revoke(serial, json!({})).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.body);
    }
    let (first, last) = (world.clock.now() + HOUR, world.clock.now() + 2 * HOUR);
    let both = format!("2 revoked certificates, the first of which ends at {first} and the last at {last}:");
    let said = warned().await;
    assert!(said.contains("revocation lists are off, and proxies believe") && said.contains(&both), "{said}");
    *world.revoking.lists.lock().unwrap() = Some(lists(&world));
    assert!(!warned().await.contains("revocation lists are off"), "{}", warned().await);
    let status = world.get("/api/v1/status").await.body;
    assert_eq!(status["still_revoked"]["certificates"], 2, "{status}");
    *world.revoking.lists.lock().unwrap() = None;
    world.clock.advance(HOUR + Duration::from_secs(1));
    let said = warned().await;
    assert!(said.contains(&format!("1 revoked certificate, which ends at {last}:")), "{said}");
    world.clock.advance(HOUR);
    assert!(!warned().await.contains("revocation lists are off"), "{}", warned().await);
}
