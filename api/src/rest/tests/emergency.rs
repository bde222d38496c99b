//! The answer to a stolen key, as it is asked for again and again, and what the key signed.

use ca::{
    ports::{Authorities, AuthorityRecord, AuthorityState, Place, Taint},
    testing::Call,
};

use super::*;

/// The authority under which certificates are planted.
fn planted() -> AuthorityId {
    AuthorityId::of(certs::SpkiHash([1; 32]))
}

impl World {
    /// A root of that name, active, and a rotation that stands still.
    pub(super) async fn plant_root(&self) {
        let issuer = FakeIssuer::new("td.example", Arc::new(self.clock.clone()));
        let now = self.clock.now();
        let record = AuthorityRecord {
            id: planted(),
            place: Place::Root,
            state: AuthorityState::Active,
            certificate: issuer.trust().own().authorities()[0].clone(),
            parent: None,
            created: now,
            activated: Some(now),
            retired: None,
            removed: None,
            automatic: true,
            tainted: None,
            stolen: None,
            cross: None,
            offline: None,
            between: Vec::new(),
            arrivals: 1,
        };
        let key = certs::SecretKey::generate(certs::Profile::Root.key_kind());
        let event = Event::done(now, Actor::System, Action::AuthorityPrepare, "planted");
        self.journal.insert(vec![(record, key)], vec![event]).await.unwrap();
        *self.rotation.root.lock().unwrap() = Some(ca::RotationStatus {
            phase: "resting".into(),
            standing: String::new(),
            root: Some(planted()),
            other: None,
            is_automatic: true,
            emergency: None,
            is_at_risk: false,
            due: Vec::new(),
            since: None,
            tally: ca::Tally::default(),
            laggards: Vec::new(),
            barrier: None,
            settles: None,
            needless: Vec::new(),
        });
    }

    async fn steal(&self) {
        let event = Event::done(self.clock.now(), Actor::System, Action::AuthorityTaint, "planted");
        let stolen = self.journal.taint(vec![planted()], Taint::Stolen, self.clock.now(), vec![event]).await;
        stolen.unwrap();
    }
}

#[tokio::test]
async fn how_far_an_emergency_is_can_be_asked_at_any_time() {
    let world = world().await;
    let path = format!("/api/v1/authorities/{}/emergency", planted());
    world.refuses(request("GET", &path, JSON, ""), 404, "not-found").await;
    world.refuses(request("GET", "/api/v1/authorities/what/emergency", JSON, ""), 400, "parameter").await;
    world.plant_root().await;
    world.refuses(request("GET", &format!("{path}?page=2"), JSON, ""), 400, "parameter").await;
    let web = SpiffeId::parse("spiffe://td.example/web").unwrap();
    world.issued(web.clone(), certs::Profile::Workload, Some("web-1"), Duration::from_secs(600)).await;
    let calm = world.get(&path).await.body;
    assert_eq!(
        (&calm["stage"], &calm["since"], &calm["unexpired"]),
        (&json!("none"), &Value::Null, &json!(1))
    );
    assert_eq!(calm["root"], planted().to_string());
    let shown = world.get("/api/v1/authorities").await.body;
    assert!(shown["items"][0]["tainted_since"].is_null(), "{shown}");
    world.steal().await;
    let shown = world.get("/api/v1/authorities").await.body;
    assert!(shown["items"][0]["tainted_since"].is_string(), "{shown}");
    let stolen = world.get(&path).await.body;
    assert_eq!((&stolen["stage"], &stolen["left_behind_count"]), (&json!("replacing"), &json!(0)));
    assert_eq!(stolen["since"], world.clock.now().to_string());
    world.clock.advance(Duration::from_secs(601));
    assert_eq!(world.get(&path).await.body["unexpired"], 0, "what has ended needs no successor");
}

#[tokio::test]
async fn a_step_that_is_taken_is_answered_so_though_not_all_about_it_can_be_read() {
    let world = world().await;
    world.plant_root().await;
    let now = world.clock.now();
    world.rotation.root.lock().unwrap().as_mut().unwrap().emergency = Some(now);
    let path = "/api/v1/authorities/root/rotation";
    let step = async || world.json("POST", path, json!({"step": "finish"})).await;
    let whole = step().await;
    assert_eq!((whole.status, &whole.body["signed"]), (StatusCode::OK, &json!(0)), "{}", whole.body);
    world.journal.fail(Call::Leaves);
    let taken = step().await;
    assert_eq!(taken.status, StatusCode::OK, "{}", taken.body);
    let remark = taken.body["remarks"][0].as_str().unwrap();
    assert!(remark.starts_with("the step is taken") && remark.ends_with("credence ca status"), "{remark}");
    assert_eq!(world.get(path).await.status, StatusCode::SERVICE_UNAVAILABLE, "who only looks hears why");
}

#[tokio::test]
async fn what_an_authority_signed_is_listed_newest_first_by_pages() {
    let world = world().await;
    let path = format!("/api/v1/authorities/{}/signed", planted());
    world.refuses(request("GET", &path, JSON, ""), 404, "not-found").await;
    world.plant_root().await;
    let id = |path: &str| SpiffeId::parse(&format!("spiffe://td.example/{path}")).unwrap();
    let hour = Duration::from_secs(3600);
    let mut serials = Vec::new();
    for (name, profile, node) in [
        ("credence/node/web-1", certs::Profile::Node, Some("web-1")),
        ("web", certs::Profile::Workload, Some("web-1")),
        ("credence/operator/ann", certs::Profile::Operator, None),
    ] {
        serials.push(world.issued(id(name), profile, node, hour).await.to_string());
        world.clock.advance(Duration::from_secs(1));
    }
    serials.reverse();
    let first = world.get(&format!("{path}?limit=2")).await.body;
    let rest = world.get(&format!("{path}?limit=2&after={}", first["next"].as_str().unwrap())).await.body;
    assert_eq!((&first["next"], &rest["next"]), (&json!("2"), &Value::Null));
    let items: Vec<&Value> =
        [&first, &rest].into_iter().flat_map(|page| page["items"].as_array().unwrap()).collect();
    let listed: Vec<&str> = items.iter().map(|one| one["serial"].as_str().unwrap()).collect();
    assert_eq!(listed, serials);
    assert!(items.iter().all(|one| one["expired"] == false && one["replaced"] == false), "{items:?}");
    assert_eq!((&items[0]["class"], &items[2]["node"]), (&json!("operator"), &json!("web-1")));
    world.clock.advance(hour);
    assert!(
        world.get(&path).await.body["items"].as_array().unwrap().iter().all(|one| one["expired"] == true)
    );
    for wrong in ["limit=0", "limit=x", "page=1"] {
        world.refuses(request("GET", &format!("{path}?{wrong}"), JSON, ""), 400, "parameter").await;
    }
}
