use api::ports::{BlockStore, NodeStore, StoreError, StoredToken};
use audit::{AuditFilter, AuditLog, AuditRow};
use certs::SpkiHash;
use spiffe::{Binding, BindingState, NodeId, SpiffeId, Tenant};
use sqlx::Executor;

use super::{promises::meddle, *};

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn binding(name: &str) -> Binding {
    Binding {
        node: node(name),
        tenant: Default::default(),
        namespace: Default::default(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        identities: vec![SpiffeId::parse("spiffe://td/web").unwrap()],
        issuer: None,
        state: BindingState::Enabled,
        created: now(),
    }
}

pub(crate) fn token(id: &str, name: &str, expires: Timestamp) -> StoredToken {
    StoredToken {
        id: id.into(),
        mac: [7; 32],
        tenant: Default::default(),
        node: node(name),
        author: "alice".into(),
        created: now(),
        expires,
        spent: None,
        revoked: None,
        failures: 0,
    }
}

/// A binding with its join token.
pub(crate) fn enrolment(name: &str) -> (Binding, StoredToken) {
    let soon = Timestamp::from_unix_secs(now().unix_secs() + 600);
    (binding(name), token("T1", name, soon))
}

async fn enroll(store: &Store, name: &str, id: &str, replace: bool) -> Result<(), StoreError> {
    let soon = Timestamp::from_unix_secs(now().unix_secs() + 600);
    store.enroll(&binding(name), &token(id, name, soon), replace, event(Action::ProxyEnroll, name)).await
}

async fn audit(store: &Store) -> Vec<AuditRow> {
    store.list(&AuditFilter::default()).await.unwrap()
}

#[tokio::test]
async fn binding_and_token_are_written_together() {
    let world = World::new().await;
    let store = &world.store;
    let changed = store.changes(Topic::Bindings);
    enroll(store, "web-1", "T1", false).await.unwrap();
    assert!(changed.has_changed().unwrap());
    assert_eq!(store.bindings().await.unwrap(), [binding("web-1")]);
    assert!(matches!(
        enroll(store, "web-1", "T2", false).await,
        Err(StoreError::Exists { what: "node", .. })
    ));
    assert_eq!(store.token("T2").await.unwrap(), None);
    assert!(matches!(
        enroll(store, "web-2", "T1", false).await,
        Err(StoreError::Exists { what: "token", .. })
    ));
    assert_eq!(store.bindings().await.unwrap().len(), 1);
    let tenant = Tenant::parse("acme").unwrap();
    let theirs = Binding { tenant: tenant.clone(), ..binding("web-1") };
    let (_, join) = enrolment("web-1");
    let join = StoredToken { id: "T4".into(), tenant, ..join };
    assert!(matches!(
        store.enroll(&theirs, &join, true, event(Action::ProxyEnroll, "web-1")).await,
        Err(StoreError::Exists { what: "node", .. })
    ));
    assert_eq!(store.bindings().await.unwrap(), [binding("web-1")], "another tenant replaces nothing");
    assert_eq!(store.token("T1").await.unwrap().unwrap().revoked, None);
    enroll(store, "web-1", "T3", true).await.unwrap();
    assert_eq!(store.token("T1").await.unwrap().unwrap().revoked, Some(now()));
    assert_eq!(store.token("T3").await.unwrap().unwrap().revoked, None);
    store.remove(&node("web-1"), event(Action::ProxyRemove, "web-1")).await.unwrap();
    assert_eq!(store.token("T3").await.unwrap().unwrap().revoked, Some(now()));
    let again = store.remove(&node("web-1"), event(Action::ProxyRemove, "web-1")).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })));
    assert_eq!(audit(store).await.len(), 4);
}

#[tokio::test]
async fn fifth_wrong_secret_burns_the_token_once() {
    let world = World::new().await;
    let store = &world.store;
    enroll(store, "web-1", "T1", false).await.unwrap();
    for count in 1..=6 {
        let burned = event(Action::TokenBurn, "T1");
        assert_eq!(store.token_failure("T1", burned).await.unwrap(), count);
        assert_eq!(store.token("T1").await.unwrap().unwrap().revoked.is_some(), count >= 5, "{count}");
    }
    let burns = audit(store).await.into_iter().filter(|row| row.event.action == Action::TokenBurn).count();
    assert_eq!(burns, 1);
    let unknown = store.token_failure("T9", event(Action::TokenBurn, "T9")).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn tokens_are_listed_until_a_day_past_their_end() {
    let world = World::new().await;
    let store = &world.store;
    let at = |secs: i64| Timestamp::from_unix_secs(now().unix_secs() + secs);
    for (name, ends) in [("a", at(60)), ("b", at(-86_400)), ("c", at(-86_401))] {
        let made = event(Action::ProxyEnroll, name);
        store.enroll(&binding(name), &token(name, name, ends), false, made).await.unwrap();
    }
    let ids: Vec<String> = store.tokens().await.unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!(ids, ["a", "b"]);
    store.revoke_token("a", event(Action::TokenRevoke, "a")).await.unwrap();
    assert_eq!(store.token("a").await.unwrap().unwrap().revoked, Some(now()));
    let unknown = store.revoke_token("z", event(Action::TokenRevoke, "z")).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "token", .. })));
    assert_ne!(SpkiHash([1; 32]), SpkiHash([2; 32]));
}

#[tokio::test]
async fn tokens_that_can_be_used_are_neither_spent_nor_revoked_nor_past_their_end() {
    let world = World::new().await;
    let store = &world.store;
    let at = |secs: i64| Timestamp::from_unix_secs(now().unix_secs() + secs);
    for (name, ends) in [("a", at(60)), ("b", at(0)), ("c", at(1)), ("d", at(60)), ("e", at(60))] {
        let made = event(Action::ProxyEnroll, name);
        store.enroll(&binding(name), &token(name, name, ends), false, made).await.unwrap();
    }
    store.revoke_token("d", event(Action::TokenRevoke, "d")).await.unwrap();
    let spend = "UPDATE tokens SET spent = 1, spent_spki = zeroblob(32) WHERE id = 'e'";
    meddle(&world.place).await.execute(spend).await.unwrap();
    let unused = store.unused_tokens(now()).await.unwrap();
    assert_eq!(unused.iter().map(|token| token.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test]
async fn token_key_outlives_the_process() {
    let world = World::new().await;
    let key = world.store.token_key().await.unwrap();
    assert_ne!(key, [0; 32]);
    let place = world.close().await;
    let world = World::open(place).await;
    assert_eq!(world.store.token_key().await.unwrap(), key);
    assert_eq!(world.store.epoch(), 2);
}

#[tokio::test]
async fn blocks_are_set_once_and_lifted_once() {
    let world = World::new().await;
    let store = &world.store;
    let id = SpiffeId::parse("spiffe://td/web").unwrap();
    let changed = store.changes(Topic::Blocks);
    store.block(&id, "stolen", false, event(Action::IdentityBlock, "web")).await.unwrap();
    assert!(changed.has_changed().unwrap());
    let twice = store.block(&id, "again", false, event(Action::IdentityBlock, "web")).await;
    assert!(matches!(twice, Err(StoreError::Exists { .. })));
    let blocks = store.blocks().await.unwrap();
    let mut expected = spiffe::Block { since: now(), reason: "stolen".to_owned(), is_enforced: false };
    assert_eq!(blocks.iter().collect::<Vec<_>>(), [(&id, &expected)]);
    assert!(blocks.enforced().is_empty());
    // It can be made to hold on open connections, and not be made to hold less.
    let kept = store.block(&id, "", true, event(Action::IdentityBlock, "web")).await.unwrap();
    let twice = store.block(&id, "again", true, event(Action::IdentityBlock, "web")).await;
    assert!(matches!(twice, Err(StoreError::Exists { .. })));
    let less = store.block(&id, "again", false, event(Action::IdentityBlock, "web")).await;
    assert!(matches!(less, Err(StoreError::Exists { .. })));
    expected.is_enforced = true;
    assert_eq!(kept, expected);
    let blocks = store.blocks().await.unwrap();
    assert_eq!(blocks.iter().collect::<Vec<_>>(), [(&id, &expected)]);
    assert!(blocks.enforced().contains(&id));
    // Sessions are ended as often as it is asked for, under a number that nobody gets twice.
    assert!(!blocks.is_evicted(&id));
    let other = SpiffeId::parse("spiffe://td/other").unwrap();
    let unknown = store.evict(&other, event(Action::IdentityBlock, "other")).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "{unknown:?}");
    for generation in [1, 2] {
        let kept = store.evict(&id, event(Action::IdentityBlock, "web")).await.unwrap();
        assert_eq!(kept.generation, generation);
        let blocks = store.blocks().await.unwrap();
        assert!(blocks.is_evicted(&id));
        assert_eq!(blocks.evicted(), [(id.clone(), generation)].into());
    }
    store.unblock(&id, event(Action::IdentityUnblock, "web")).await.unwrap();
    let freed = store.blocks().await.unwrap();
    assert!(!freed.is_evicted(&id) && freed.evicted() == [(id.clone(), 2)].into());
    assert!(!store.blocks().await.unwrap().contains(&id));
    let twice = store.unblock(&id, event(Action::IdentityUnblock, "web")).await;
    assert!(matches!(twice, Err(StoreError::NotFound { .. })));
    assert_eq!(audit(store).await.len(), 6);
}
