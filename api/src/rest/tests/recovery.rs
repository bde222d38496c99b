//! Recovery windows, for operators.

use std::sync::atomic::{AtomicBool, Ordering};

use spiffe::{NodeId, RecoveryRefusal};

use super::*;
use crate::ports::{Expired, Recovered, RecoveryStore, RecoveryWindow, StoreError};

#[tokio::test]
async fn a_recovery_window_is_off_by_default_lists_who_expired_and_ends_by_itself() {
    let world = world().await;
    let shown = world.get("/api/v1/recovery").await.body;
    assert_eq!(
        (&shown["open"], &shown["expired_count"], &shown["window"]),
        (&json!(false), &json!(0), &Value::Null)
    );
    for (wanted, word) in [
        (json!({"window": "8d"}), "parameter"),
        (json!({"window": "0s"}), "parameter"),
        (json!({"window": "24h", "reach": "91d"}), "parameter"),
        (json!({"window": "24h", "reach": "soon"}), "parameter"),
        (json!({"window": "24h", "reason": "two\nlines"}), "parameter"),
    ] {
        let body = wanted.to_string();
        world.refuses(request("POST", "/api/v1/recovery", "application/json", body), 400, word).await;
    }
    let close = |query: &str| request("DELETE", &format!("/api/v1/recovery{query}"), "application/json", "");
    world.refuses(close(""), 404, "not-found").await;
    world.refuses(close("?reason=two%0Alines"), 400, "parameter").await;
    world.refuses(close(&format!("?reason={}", "x".repeat(501))), 400, "parameter").await;

    let wanted = json!({"window": "24h", "reason": "power cut"});
    let mut dry = wanted.clone();
    dry["dry_run"] = json!(true);
    let planned = world.json("POST", "/api/v1/recovery", dry).await.body;
    assert_eq!((&planned["open"], &planned["window"]["reach"]), (&json!(false), &json!("7d")));
    let opened = world.json("POST", "/api/v1/recovery", wanted.clone()).await.body;
    assert_eq!((&opened["open"], &opened["window"]["reason"]), (&json!(true), &json!("power cut")));
    for path in ["/api/v1/status", "/api/v1/recovery", "/api/v1/proxies", "/api/v1/authorities", "/readyz"] {
        let answer = world.get(path).await;
        let banner = answer.headers.get(RECOVERY).unwrap_or_else(|| panic!("{path} does not say so"));
        assert!(banner.to_str().unwrap().starts_with("recovery window is OPEN for 1d more"), "{banner:?}");
    }
    assert_eq!(world.get("/api/v1/status").await.body["recovery"]["reason"], "power cut");
    let kept = Recoveries::load(Arc::new(world.store.clone())).await.unwrap();
    assert!(kept.open(world.clock.now()).is_some(), "a restart forgets it");
    world.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(world.get("/api/v1/recovery").await.body["open"], false, "it ends by itself");
    let status = world.get("/api/v1/status").await;
    assert!(!status.headers.contains_key(RECOVERY) && status.body["recovery"].is_null());

    world.json("POST", "/api/v1/recovery", wanted).await;
    assert_eq!(world.send(close("?reason=enough")).await.status, StatusCode::OK);
    let shown = world.get("/api/v1/recovery").await.body;
    assert!(shown["open"] == false && shown["window"]["closed"].is_string(), "{shown}");
    let actions: Vec<Action> = world
        .store
        .events()
        .into_iter()
        .map(|event| event.action)
        .filter(|one| *one != Action::CallRefuse)
        .collect();
    assert_eq!(actions, [Action::RecoveryOpen, Action::RecoveryOpen, Action::RecoveryClose]);
}

/// Keeps what it is told, and is never done with one change: whoever asked is gone by then.
struct Cut(MemoryStore);

#[async_trait::async_trait]
impl RecoveryStore for Cut {
    async fn recovery(&self) -> Result<Option<RecoveryWindow>, StoreError> {
        self.0.recovery().await
    }

    async fn open_recovery(
        &self,
        window: RecoveryWindow,
        event: Event,
    ) -> Result<RecoveryWindow, StoreError> {
        self.0.open_recovery(window, event).await?;
        std::future::pending().await
    }

    async fn close_recovery(&self, event: Event) -> Result<(), StoreError> {
        self.0.close_recovery(event).await?;
        std::future::pending().await
    }

    async fn expired(
        &self,
        domain: &TrustDomain,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Expired>, StoreError> {
        self.0.expired(domain, since, now).await
    }

    async fn recovered(&self, window: u64) -> Result<Vec<Recovered>, StoreError> {
        self.0.recovered(window).await
    }
}

/// Lets a call go on until `done`, and drops it then: its client has gone.
async fn cut(call: impl Future<Output = Answer>, done: impl AsyncFn() -> bool) {
    let mut call = Box::pin(call);
    while !done().await {
        tokio::select! {
            biased;
            answer = &mut call => panic!("it came to its end: {}", answer.body),
            () = tokio::task::yield_now() => {}
        }
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_no_difference_behind() {
    let world = world_with(|store| Arc::new(Cut(store))).await;
    let wanted = json!({"window": "1h"}).to_string();
    let open = || world.send(request("POST", "/api/v1/recovery", JSON, wanted.clone()));
    let close = || world.send(request("DELETE", "/api/v1/recovery", JSON, ""));
    let kept =
        async || Recoveries::load(Arc::new(world.store.clone())).await.unwrap().open(world.clock.now());
    cut(open(), async || kept().await.is_some()).await;
    // The next who asks hears what is kept, and may close it.
    assert_eq!(world.get("/api/v1/recovery").await.body["open"], true);
    assert!(world.get("/api/v1/status").await.headers.contains_key(RECOVERY));
    cut(close(), async || kept().await.is_none()).await;
    world.refuses(request("DELETE", "/api/v1/recovery", JSON, ""), 404, "not-found").await;
    assert!(!world.get("/api/v1/status").await.headers.contains_key(RECOVERY));
}

/// Cannot be read from the moment when a window is open.
struct Blind {
    store: MemoryStore,
    is_blind: AtomicBool,
}

impl Blind {
    fn see(&self) -> Result<&MemoryStore, StoreError> {
        match self.is_blind.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("told to fail".into())),
            false => Ok(&self.store),
        }
    }
}

#[async_trait::async_trait]
impl RecoveryStore for Blind {
    async fn recovery(&self) -> Result<Option<RecoveryWindow>, StoreError> {
        self.see()?.recovery().await
    }

    async fn open_recovery(
        &self,
        window: RecoveryWindow,
        event: Event,
    ) -> Result<RecoveryWindow, StoreError> {
        self.is_blind.store(true, Ordering::Relaxed);
        self.store.open_recovery(window, event).await
    }

    async fn close_recovery(&self, event: Event) -> Result<(), StoreError> {
        self.store.close_recovery(event).await
    }

    async fn expired(
        &self,
        domain: &TrustDomain,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Expired>, StoreError> {
        self.see()?.expired(domain, since, now).await
    }

    async fn recovered(&self, window: u64) -> Result<Vec<Recovered>, StoreError> {
        self.see()?.recovered(window).await
    }
}

#[tokio::test]
async fn a_window_that_is_open_is_answered_so_though_nothing_can_be_read_then() {
    let world = world_with(|store| Arc::new(Blind { store, is_blind: AtomicBool::new(false) })).await;
    let opened = world.json("POST", "/api/v1/recovery", json!({"window": "1h"})).await;
    assert_eq!((opened.status, &opened.body["open"]), (StatusCode::OK, &json!(true)), "{}", opened.body);
    let another = world.json("POST", "/api/v1/recovery", json!({"window": "1h"})).await;
    assert_eq!(another.status, StatusCode::SERVICE_UNAVAILABLE);
    let opens = |event: &Event| event.action == Action::RecoveryOpen;
    assert_eq!(world.store.events().iter().filter(|event| opens(event)).count(), 1);
}

#[tokio::test]
async fn who_expired_is_listed_with_what_keeps_it_away() {
    let world = world().await;
    let (now, day) = (world.clock.now(), Duration::from_secs(24 * 3600));
    let expire = |name: &str, ago: Duration, barred| {
        world.store.expire(Expired { node: NodeId::parse(name).unwrap(), at: now - ago, barred });
    };
    expire("old", day * 8, None);
    expire("stolen", day, Some(RecoveryRefusal::Stolen));
    expire("revoked", day, Some(RecoveryRefusal::Revoked));
    expire("back", day, None);
    expire("blocked", day, None);
    expire("web-1", day, None);
    let block = json!({"id": "spiffe://td.example/credence/node/blocked", "reason": "stolen"});
    assert_eq!(world.json("POST", "/api/v1/identities/block", block).await.status, StatusCode::OK);
    let listed = |answer: &Value| -> Vec<(String, String)> {
        let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let all = answer["expired"].as_array().unwrap().iter();
        all.map(|one| {
            assert_eq!(one["may_come_back"], one["because"].is_null(), "{one}");
            (text(one, "node"), text(one, "because"))
        })
        .collect()
    };
    let closed = world.get("/api/v1/recovery").await.body;
    assert_eq!((&closed["expired_count"], &closed["waiting_count"]), (&json!(6), &json!(0)));
    assert!(listed(&closed).iter().all(|(_, because)| !because.is_empty()), "{closed:#}");

    let wanted = json!({"window": "1h", "dry_run": true});
    let planned = world.json("POST", "/api/v1/recovery", wanted).await.body;
    assert_eq!(planned["waiting_count"], 2, "{planned:#}");
    world.json("POST", "/api/v1/recovery", json!({"window": "1h"})).await;
    let back = Recovered { node: NodeId::parse("back").unwrap(), at: now, until: now + day };
    world.store.recover(1, back);
    let open = world.get("/api/v1/recovery").await.body;
    let expected = [
        ("old", "its certificate ended longer ago than 7d"),
        ("stolen", "its certificate is from an authority whose key is believed to be stolen"),
        ("revoked", "its certificate is revoked"),
        ("back", "node came back in this window already"),
        ("blocked", "its identity is blocked"),
        ("web-1", ""),
    ];
    assert_eq!(listed(&open), expected.map(|(node, because)| (node.to_owned(), because.to_owned())));
    assert_eq!((&open["waiting_count"], &open["recovered_count"]), (&json!(1), &json!(1)), "{open:#}");
    assert_eq!(open["recovered"][0]["node"], "back");
}
