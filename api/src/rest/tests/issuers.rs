//! `/issuers`.

use ca::{
    dependents::Laggard,
    ports::{Authorities, AuthorityRecord, AuthorityState, Place, Transition},
};
use certs::certificates_to_pem;
use fixtures::TestAuthority;
use spiffe::IssuerName;

use super::*;

fn anchor() -> String {
    certificates_to_pem([TestAuthority::root("corp", Timestamp::from_unix_secs(1_800_000_000)).der()])
}

pub(super) fn wanted(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut wanted = json!({
        "name": name,
        "vault": {
            "addresses": ["https://vault.example:8200"],
            "ca_file": "/etc/credence/vault-ca.pem",
            "mount": "pki",
            "issuer": "0bd4d8ba-7c2f-4f6e-b6a4-0a1f6b6f3a11",
            "login": {"method": "approle", "mount": "approle", "role_id": "credence"},
        },
        "credential": "s3cret",
        "anchor": anchor(),
    });
    change(&mut wanted);
    wanted
}

#[tokio::test]
async fn issuer_is_added_shown_changed_and_removed_and_its_credential_never_comes_out() {
    let world = world().await;
    let dry =
        world.json("POST", "/api/v1/issuers", wanted("corp", |wanted| wanted["dry_run"] = json!(true))).await;
    assert_eq!((dry.status, dry.body["dry_run"].as_bool()), (StatusCode::OK, Some(true)), "{}", dry.body);
    assert_eq!(world.get("/api/v1/issuers/corp").await.status, StatusCode::NOT_FOUND);

    let corp = wanted("corp", |_| {});
    let first = corp["anchor"].clone();
    let added = world.json("POST", "/api/v1/issuers", corp).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    let next = "added issuer corp: nothing is signed by it before: credence issuer migrate --to corp";
    assert_eq!(added.body["summary"], next);
    let again = world.json("POST", "/api/v1/issuers", wanted("corp", |_| {})).await;
    assert_eq!(again.status, StatusCode::CONFLICT);

    // Of its own root each time, but for one that is the same Vault under another name.
    let same = world.json("POST", "/api/v1/issuers", wanted("twin", |twin| twin["anchor"] = first)).await;
    assert_eq!(same.status, StatusCode::CONFLICT, "{}", same.body);

    let listed = world.get("/api/v1/issuers").await;
    let names: Vec<_> =
        listed.body["items"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["builtin", "corp"]);
    assert!(!listed.body.to_string().contains("s3cret"));

    let change = json!({"issuer": "other", "lifetime": "10d"});
    let changed = world.json("PATCH", "/api/v1/issuers/corp", change).await;
    assert_eq!(changed.body["issuer"]["vault"]["issuer"], "other", "{}", changed.body);
    assert_eq!(changed.body["issuer"]["vault"]["lifetime"], "10d");
    assert_eq!(changed.body["issuer"]["version"], 2);

    let moved = json!({"addresses": ["https://elsewhere.example:8200"]});
    let refused = world.json("PATCH", "/api/v1/issuers/corp", moved).await;
    assert_eq!(
        refused.status,
        StatusCode::BAD_REQUEST,
        "a credential goes where it was given for: {}",
        refused.body
    );
    let moved = json!({"addresses": ["https://elsewhere.example:8200"], "credential": "another"});
    let moved = world.json("PATCH", "/api/v1/issuers/corp", moved).await;
    assert_eq!(moved.body["issuer"]["version"], 3, "{}", moved.body);

    let tested = world.json("POST", "/api/v1/issuers/corp/test", json!({})).await;
    assert_eq!(tested.body["passed"], true, "{}", tested.body);
    let migrated =
        world.json("POST", "/api/v1/issuers/migrate", json!({"to": "corp", "dry_run": true})).await;
    assert_eq!(migrated.status, StatusCode::OK, "{}", migrated.body);

    let removed = world.call("DELETE", "/api/v1/issuers/corp", "", "").await;
    assert_eq!(removed.body["summary"], "removed issuer corp and its credentials", "{}", removed.body);
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_what_to_do_and_nothing_is_kept() {
    let world = world().await;
    for (what, body) in [
        ("addresses", wanted("a", |wanted| wanted["vault"]["addresses"] = json!([]))),
        ("addresses", wanted("a", |wanted| wanted["vault"]["addresses"] = json!(["http://vault:8200"]))),
        ("ca_file", wanted("a", |wanted| wanted["vault"]["ca_file"] = json!("vault-ca.pem"))),
        (
            "login",
            wanted("a", |wanted| {
                wanted["vault"]["login"] =
                    json!({"method": "jwt", "mount": "jwt", "role": "r", "file": "token"});
                wanted["credential"] = Value::Null;
            }),
        ),
        ("mount", wanted("a", |wanted| wanted["vault"]["mount"] = json!("pki/../sys"))),
        ("issuer", wanted("a", |wanted| wanted["vault"]["issuer"] = json!("a/b"))),
        ("login", wanted("a", |wanted| wanted["vault"]["login"]["mount"] = json!(""))),
        ("lifetime", wanted("a", |wanted| wanted["vault"]["lifetime"] = json!("soon"))),
        ("role", wanted("a", |wanted| wanted["vault"]["role"] = json!("a/b"))),
        (
            "lifetime",
            wanted("a", |wanted| {
                (wanted["vault"]["role"], wanted["vault"]["lifetime"]) = (json!("svid"), json!("10d"));
            }),
        ),
        ("credential", wanted("a", |wanted| wanted["credential"] = Value::Null)),
        (
            "credential",
            wanted("a", |wanted| (wanted["is_wrapped"], wanted["dry_run"]) = (json!(true), json!(true))),
        ),
        ("anchor", wanted("a", |wanted| wanted["anchor"] = json!("no PEM"))),
        ("name", wanted("A", |_| {})),
    ] {
        let answer = world.json("POST", "/api/v1/issuers", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {}", answer.body);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{what} is not valid")), "{what}: {detail}");
    }
    let reserved = world.json("POST", "/api/v1/issuers", wanted("builtin", |_| {})).await;
    assert_eq!(reserved.status, StatusCode::CONFLICT);

    *world.vault.fault.lock().unwrap() = Some("Vault is sealed".into());
    let refused = world.json("POST", "/api/v1/issuers", wanted("corp", |_| {})).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
    assert_eq!(refused.body["detail"], "issuer corp cannot work: Vault is sealed");
    assert_eq!(refused.body["errors"][0]["fix"], "unseal it");
    assert_eq!(world.get("/api/v1/issuers/corp").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn issuer_that_is_being_asked_for_our_next_authority_stays() {
    let world = world().await;
    world.json("POST", "/api/v1/issuers", wanted("corp", |_| {})).await;
    *world.vault.is_asked.lock().unwrap() = true;
    let refused = world.call("DELETE", "/api/v1/issuers/corp", "", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    *world.vault.is_asked.lock().unwrap() = false;
    let removed = world.call("DELETE", "/api/v1/issuers/corp", "", "").await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
}

/// Where an issuer stands with the leaves of workloads.
fn standing(state: AuthorityState) -> Option<ca::LeafIssuerStatus> {
    let laggard = Laggard {
        name: "web-1".into(),
        is_connected: true,
        reason: ca::dependents::Reason::BundleNotAcknowledged,
    };
    Some(ca::LeafIssuerStatus {
        source: ca::ports::Source { name: IssuerName::parse("corp").unwrap(), generation: 0 },
        is_hurried: false,
        state,
        since: Timestamp::from_unix_secs(1_800_000_000),
        waits_for: if state == AuthorityState::Prepared { vec![laggard] } else { Vec::new() },
        leaves: None,
    })
}

#[tokio::test]
async fn issuer_of_leaves_says_where_it_stands_and_stays_while_leaves_of_it_may_be_in_use() {
    let world = world().await;
    let wanted = |name| wanted(name, |wanted| wanted["vault"]["role"] = json!("svid"));
    let added = world.json("POST", "/api/v1/issuers", wanted("corp")).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    let vault = &added.body["issuer"]["vault"];
    assert_eq!((&vault["role"], vault.get("lifetime")), (&json!("svid"), None), "{vault}");
    let shown = async || world.get("/api/v1/issuers/corp").await.body;
    let idle = shown().await;
    assert_eq!((&idle["state"], &idle["leaves"]["unexpired"]), (&json!("idle"), &json!(0)), "{idle}");
    let id = idle["authority"].as_str().unwrap().to_owned();

    let migrate = |to: &str| json!({"to": to, "dry_run": true});
    let planned = world.json("POST", "/api/v1/issuers/migrate", migrate("corp")).await;
    assert!(planned.body["summary"].as_str().unwrap().contains("every connected"), "{}", planned.body);

    *world.vault.leaves.lock().unwrap() = standing(AuthorityState::Prepared);
    let unknown = ca::ports::LeafRequest {
        issuer: IssuerName::parse("corp").unwrap(),
        role: "svid".into(),
        authority: id.parse().unwrap(),
        epoch: 1,
        id: SpiffeId::parse("spiffe://td/web").unwrap(),
        tenant: Tenant::default(),
        node: None,
        purpose: spiffe::Purpose::Renewal,
        spki: certs::SpkiHash([1; 32]),
        not_after: Timestamp::from_unix_secs(1_800_000_100),
        at: Timestamp::from_unix_secs(1_800_000_000),
        request_id: RequestId::from_random([1; 8]),
    };
    world.vault.unknown.lock().unwrap().push(unknown);
    let prepared = shown().await;
    assert_eq!(prepared["state"], "prepared", "{prepared}");
    assert_eq!(prepared["leaves"]["waits_for"][0]["name"], "web-1", "{prepared}");
    assert_eq!(prepared["leaves"]["unknown"][0]["request_id"], "0101010101010101", "{prepared}");

    for (state, word, told) in [
        (AuthorityState::Prepared, "prepared", "migrate to another issuer"),
        (AuthorityState::Active, "signs", "migrate to another issuer"),
        (AuthorityState::Retired, "retired", "unexpired leaves"),
    ] {
        *world.vault.leaves.lock().unwrap() = standing(state);
        assert_eq!(shown().await["state"], word);
        let removed = world.call("DELETE", "/api/v1/issuers/corp", "", "").await;
        assert_eq!(removed.status, StatusCode::CONFLICT, "{}", removed.body);
        assert!(removed.body["detail"].as_str().unwrap().contains(told), "{}", removed.body);
        let changed = world.json("PATCH", "/api/v1/issuers/corp", json!({"issuer": "other"})).await;
        assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
    }
    *world.vault.leaves.lock().unwrap() = standing(AuthorityState::Active);
    let again = world.json("POST", "/api/v1/issuers/migrate", migrate("corp")).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.body);
    let back = world.json("POST", "/api/v1/issuers/migrate", migrate("builtin")).await;
    assert!(
        back.body["summary"].as_str().unwrap().contains("our root stands in every bundle"),
        "{}",
        back.body
    );

    let emergency = json!({"authority": id, "dry_run": true});
    let refused = world.json("POST", "/api/v1/authorities/emergency", emergency).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
    assert!(
        refused.body["detail"].as_str().unwrap().contains("issuer migrate --to builtin --now"),
        "{}",
        refused.body
    );
    let signed = world.get(&format!("/api/v1/authorities/{id}/signed")).await;
    assert_eq!((signed.status, &signed.body["items"]), (StatusCode::OK, &json!([])), "{}", signed.body);
    assert_eq!(world.get("/api/v1/authorities/00000000000000aa/signed").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_cannot_be_of_a_migration_is_said_and_what_would_be_is_planned() {
    let world = world().await;
    let role = |name| wanted(name, |wanted| wanted["vault"]["role"] = json!("svid"));
    for wanted in [role("corp"), wanted("upper", |_| {})] {
        let added = world.json("POST", "/api/v1/issuers", wanted).await;
        assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    }
    let migrate = async |body: Value| {
        let mut body = body;
        body["dry_run"] = json!(true);
        world.json("POST", "/api/v1/issuers/migrate", body).await
    };
    let planned =
        migrate(json!({"from": "builtin", "to": "corp", "stages": [5, 25, 100], "hold": "10m"})).await;
    let summary = planned.body["summary"].as_str().unwrap();
    assert!(summary.contains("5 %, 25 %, 100 % of identities") && summary.contains("10m"), "{summary}");
    for (body, status, told) in [
        (json!({"from": "corp", "to": "corp"}), StatusCode::CONFLICT, "builtin does"),
        (json!({"from": "upper", "to": "builtin"}), StatusCode::CONFLICT, "does not sign"),
        (json!({"to": "corp", "stages": [25, 5]}), StatusCode::BAD_REQUEST, "do not ascend"),
        (json!({"to": "corp", "stages": [5], "now": true}), StatusCode::FORBIDDEN, "ca emergency"),
        (json!({"to": "builtin", "now": true}), StatusCode::CONFLICT, "signs the leaves"),
        (json!({"to": "corp", "automatic": true}), StatusCode::BAD_REQUEST, "our own authorities"),
        (json!({"to": "corp", "hold": "soon"}), StatusCode::BAD_REQUEST, "no duration"),
        (json!({"to": "upper", "stages": [5, 100]}), StatusCode::BAD_REQUEST, "issuers with a role"),
        (json!({"to": "upper", "now": true}), StatusCode::BAD_REQUEST, "ca emergency"),
        (json!({"to": "upper", "from": "corp"}), StatusCode::CONFLICT, "does not sign our authorities"),
        (json!({"to": "nobody"}), StatusCode::NOT_FOUND, "nobody"),
        (json!({"to": "corp", "from": "builtn"}), StatusCode::NOT_FOUND, "issuer builtn does not exist"),
        (json!({"to": "corp", "form": "builtin"}), StatusCode::BAD_REQUEST, "form"),
    ] {
        let refused = migrate(body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
        assert!(refused.body.to_string().contains(told), "{body}: {}", refused.body);
    }
    // By bindings alone: it is left all the same.
    let left = migrate(json!({"from": "corp", "to": "builtin", "now": true})).await;
    assert_eq!(left.status, StatusCode::OK, "{}", left.body);
    assert!(left.body["summary"].as_str().unwrap().contains("replaced at once"), "{}", left.body);
    let abort = async || world.json("POST", "/api/v1/issuers/migrate/abort", json!({"dry_run": true})).await;
    let nothing = abort().await;
    assert_eq!(nothing.status, StatusCode::CONFLICT, "{}", nothing.body);
    assert!(nothing.body["detail"].as_str().unwrap().contains("is not under way"), "{}", nothing.body);
    *world.vault.default.lock().unwrap() = ca::ports::DefaultIssuer {
        migration: Some(ca::ports::Migration {
            to: IssuerName::parse("corp").unwrap(),
            stages: vec![5, 100],
            stage: 1,
            since: Timestamp::from_unix_secs(1_800_000_000),
            hold: Duration::from_secs(60),
            stopped: Some("6 of 7 leaves failed".into()),
            is_hurried: false,
        }),
        ..ca::ports::DefaultIssuer::default()
    };
    let corp = world.get("/api/v1/issuers/corp").await.body;
    let shown = (&corp["migration"]["stopped"], &corp["migration"]["stages"], &corp["is_default"]);
    assert_eq!(shown, (&json!("6 of 7 leaves failed"), &json!([5, 100]), &json!(false)), "{corp}");
    let aborted = abort().await;
    assert!(aborted.body["summary"].as_str().unwrap().starts_with("would have builtin"), "{}", aborted.body);
    let resumed = world.json("POST", "/api/v1/issuers/migrate/resume", json!({"dry_run": true})).await;
    assert_eq!(resumed.status, StatusCode::OK, "{}", resumed.body);
}

#[tokio::test]
async fn binding_names_an_issuer_of_leaves_and_that_stays_while_it_does() {
    let world = world().await;
    let role = |name: &str, fallback: Value| {
        wanted(name, |wanted| {
            wanted["vault"]["role"] = json!("svid");
            wanted["fallback"] = fallback;
        })
    };
    for (fallback, told) in [("corp", "in its own place"), ("nobody", "no issuer with a role")] {
        let refused = world.json("POST", "/api/v1/issuers", role("corp", json!(fallback))).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
        assert!(refused.body["detail"].as_str().unwrap().contains(told), "{}", refused.body);
    }
    let added = world.json("POST", "/api/v1/issuers", role("corp", json!("builtin"))).await;
    assert_eq!(added.body["issuer"]["fallback"], "builtin", "{}", added.body);
    let told = |answer: &Value| answer["summary"].as_str().unwrap().to_owned();
    assert!(told(&added.body).ends_with("; builtin signs in its place while it fails"), "{}", added.body);
    let alone = world.json("PATCH", "/api/v1/issuers/corp", json!({"fallback": "", "dry_run": true})).await;
    assert!(
        told(&alone.body).ends_with("; nobody signs in its place any more while it fails"),
        "{}",
        alone.body
    );
    let upper = wanted("upper", |wanted| wanted["fallback"] = json!("builtin"));
    let refused = world.json("POST", "/api/v1/issuers", upper).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("without a role"), "{}", refused.body);
    world.json("POST", "/api/v1/issuers", wanted("upper", |_| {})).await;

    for (issuer, status) in [("nobody", StatusCode::NOT_FOUND), ("upper", StatusCode::BAD_REQUEST)] {
        let refused = world.json("POST", "/api/v1/proxies", json!({"node": "web-1", "issuer": issuer})).await;
        assert_eq!(refused.status, status, "{}", refused.body);
    }
    let enrolled = world.json("POST", "/api/v1/proxies", json!({"node": "web-1", "issuer": "corp"})).await;
    assert_eq!(enrolled.body["proxy"]["issuer"], "corp", "{}", enrolled.body);
    assert_eq!(world.get("/api/v1/issuers/corp").await.body["named_by"], 1);
    // Another binding in its place names the same one, unless it says otherwise.
    let replace = json!({"node": "web-1", "identities": ["spiffe://td.example/web"], "replace": true});
    let replaced = world.json("POST", "/api/v1/proxies", replace).await;
    assert_eq!(replaced.body["proxy"]["issuer"], "corp", "{}", replaced.body);
    let remove = async || world.call("DELETE", "/api/v1/issuers/corp", "", "").await;
    let refused = remove().await;
    assert!(refused.body["detail"].as_str().unwrap().contains("binding of web-1"), "{}", refused.body);

    let put = async |body: Value| world.json("PUT", "/api/v1/proxies/web-1/issuer", body).await;
    assert_eq!(put(json!({"issuer": "corp"})).await.status, StatusCode::CONFLICT);
    let planned = put(json!({"dry_run": true})).await;
    assert!(planned.body["summary"].as_str().unwrap().contains("would sign"), "{}", planned.body);
    assert_eq!(put(json!({"issuer": "builtin", "reason": "no Vault"})).await.status, StatusCode::OK);
    assert_eq!(world.get("/api/v1/proxies/web-1").await.body["issuer"], "builtin");
    assert_eq!(put(json!({})).await.status, StatusCode::OK);
    assert_eq!(world.get("/api/v1/proxies/web-1").await.body.get("issuer"), None);
    assert_eq!(remove().await.status, StatusCode::OK);
}

#[tokio::test]
async fn issuer_whose_record_does_not_open_is_removed_by_its_name_unless_somebody_needs_it() {
    let world = world().await;
    let remove =
        async |query: &str| world.call("DELETE", &format!("/api/v1/issuers/corp{query}"), "", "").await;
    world
        .json("POST", "/api/v1/issuers", wanted("corp", |wanted| wanted["vault"]["role"] = json!("svid")))
        .await;
    world.json("POST", "/api/v1/proxies", json!({"node": "web-1", "issuer": "corp"})).await;
    world.kept_issuers.damage(&IssuerName::parse("corp").unwrap());
    assert_eq!(world.get("/api/v1/issuers/corp").await.status, StatusCode::NOT_FOUND);
    let refused = remove("").await;
    assert!(refused.body["detail"].as_str().unwrap().contains("binding of web-1"), "{}", refused.body);
    world.json("PUT", "/api/v1/proxies/web-1/issuer", json!({})).await;
    let planned = remove("?dry_run=true").await;
    let summary = "would remove issuer corp, whose record does not open";
    assert_eq!(planned.body["summary"], summary, "{}", planned.body);
    let removed = remove("").await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
    assert_eq!(remove("").await.status, StatusCode::NOT_FOUND);
}

/// An authority that is kept, of which only where it stands counts.
fn record(certificate: certs::Certificate, place: Place, state: AuthorityState) -> AuthorityRecord {
    let at = Timestamp::from_unix_secs(1_800_000_000);
    AuthorityRecord {
        id: AuthorityId::of(certificate.spki_hash()),
        place,
        state,
        certificate,
        parent: None,
        created: at,
        activated: Some(at),
        retired: None,
        removed: None,
        automatic: true,
        tainted: None,
        stolen: None,
        cross: None,
        offline: None,
        between: Vec::new(),
        arrivals: 1,
    }
}

impl World {
    async fn keep(&self, record: AuthorityRecord) {
        let key = certs::SecretKey::generate(certs::Profile::Root.key_kind());
        let event = Event::done(self.clock.now(), Actor::System, Action::AuthorityPrepare, "planted");
        self.journal.insert(vec![(record, key)], vec![event]).await.unwrap();
    }
}

#[tokio::test]
async fn every_listing_names_the_one_day_on_which_an_issuer_is_asked_for_the_next_authority() {
    let world = world().await;
    let now = world.clock.now();
    let certificate = || certs::Certificate::from_der(TestAuthority::root("corp", now).der()).unwrap();
    let (root, issuing) = (certificate(), certificate());
    let corp = wanted("corp", |corp| corp["anchor"] = json!(certificates_to_pem([root.der()])));
    let added = world.json("POST", "/api/v1/issuers", corp).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);

    // Its root is prepared: a second time there is nothing to be done.
    let migrate = || json!({"to": "corp", "dry_run": true});
    let root = record(root, Place::Root, AuthorityState::Prepared);
    world.keep(root.clone()).await;
    let again = world.json("POST", "/api/v1/issuers/migrate", migrate()).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.body);
    assert!(again.body["detail"].as_str().unwrap().contains("is on its way already"), "{}", again.body);

    let event = |what| Event::done(now, Actor::System, what, "planted");
    let (from, to) = (AuthorityState::Prepared, AuthorityState::Active);
    let turn = Transition { id: root.id, from, to, at: now };
    world.journal.transition(vec![turn], vec![event(Action::AuthorityActivate)]).await.unwrap();
    let issuing = record(issuing, Place::Issuing, AuthorityState::Active);
    let issuing = AuthorityRecord { parent: Some(root.id), ..issuing };
    world.keep(issuing.clone()).await;
    let next = now + Duration::from_secs(86_400);
    *world.vault.next.lock().unwrap() = Some(next);
    let ends = issuing.certificate.not_after();
    *world.rotation.by_hand.lock().unwrap() = Some(ca::ByHand { authority: issuing.id, due: ends, ends });
    *world.rotation.root.lock().unwrap() = Some(ca::RotationStatus {
        phase: "steady".into(),
        standing: String::new(),
        root: Some(root.id),
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
    let day = json!(next.to_string());
    assert_eq!(world.get("/api/v1/issuers/corp").await.body["next"], day);
    let rollouts = world.get("/api/v1/rollouts").await.body;
    assert_eq!((&rollouts["planned"][0]["at"], &rollouts["planned"][0]["issuer"]), (&day, &json!("corp")));
    let shown = world.get("/api/v1/authorities/root/rotation").await.body;
    assert_eq!((&shown["by_hand"]["due"], &shown["by_hand"]["is_due"]), (&day, &json!(false)), "{shown}");
    assert_eq!(shown["by_hand"]["issuer"], "corp");
    let listed = world.get("/api/v1/authorities").await.body;
    assert_eq!(listed["items"][1]["rotates_at"], day, "{listed}");
    let planned = world.json("POST", "/api/v1/issuers/migrate", migrate()).await;
    assert!(planned.body["summary"].as_str().unwrap().contains("it signs already"), "{}", planned.body);
}

#[tokio::test]
async fn nobody_is_to_bring_what_an_issuer_is_asked_for_by_itself() {
    let world = world().await;
    let now = world.clock.now();
    let certificate = || certs::Certificate::from_der(TestAuthority::root("corp", now).der()).unwrap();
    let (root, issuing) = (certificate(), certificate());
    let pem = certificates_to_pem([root.der()]);
    let offline = Some(now);
    let root = AuthorityRecord { offline, ..record(root, Place::Root, AuthorityState::Active) };
    let issuing = record(issuing, Place::Issuing, AuthorityState::Active);
    let issuing = AuthorityRecord { parent: Some(root.id), ..issuing };
    world.keep(root.clone()).await;
    world.keep(issuing.clone()).await;
    let life = issuing.certificate.not_after().since(now);
    world.clock.advance(life.mul_f64(0.6));

    let advice = async || {
        let listed = world.get("/api/v1/expiries?within=1s").await.body;
        let of_it = |one: &&Value| one["name"] == issuing.id.to_string();
        let advice = listed["items"].as_array().unwrap().iter().find(of_it).map(|one| one["advice"].clone());
        let warned = world.get("/api/v1/status").await.body["warnings"].to_string();
        assert_eq!(warned.contains(&issuing.id.to_string()), advice.is_some(), "{warned}");
        advice
    };
    let bring = "credence ca csr, have it signed by the key of the root, credence ca install FILE";
    assert_eq!(advice().await, Some(json!(bring)), "nobody else signs it");
    let builtin = async || world.get("/api/v1/issuers/builtin").await.body;
    let shown = builtin().await;
    assert_eq!((&shown["state"], &shown["authority"]), (&json!("offline"), &json!(issuing.id.to_string())));
    let corp = wanted("corp", |corp| corp["anchor"] = json!(pem));
    assert_eq!(world.json("POST", "/api/v1/issuers", corp).await.status, StatusCode::OK);
    assert_eq!(advice().await, None, "it is asked for by itself");
    assert_eq!(builtin().await["state"], "idle", "it is corp's");
    *world.vault.is_at_risk.lock().unwrap() = true;
    let look = "credence issuer list says why its issuer has signed no successor";
    assert_eq!(advice().await, Some(json!(look)));
    let next = record(certificate(), Place::Issuing, AuthorityState::Prepared);
    world.keep(AuthorityRecord { parent: Some(root.id), ..next }).await;
    assert_eq!(advice().await, None, "it is there");
}
