use api::ports::{DocumentChange, DocumentFilter, DocumentStore, RevisionState, StoreError, StoredDocument};
use audit::{AuditFilter, AuditLog};
use uuid::Uuid;

use super::*;

fn change(name: &str, text: &str, expected: Option<u64>, apply: bool) -> DocumentChange {
    DocumentChange::Put {
        tenant: Default::default(),
        namespace: Default::default(),
        kind: "ProxyConfig".into(),
        name: name.into(),
        text: text.into(),
        expected,
        apply,
    }
}

async fn commit(store: &Store, changes: Vec<DocumentChange>) -> Result<Vec<StoredDocument>, StoreError> {
    store.commit(changes, "alice", "because", event(Action::DocumentPut, "ProxyConfig")).await
}

async fn put(store: &Store, name: &str, text: &str, expected: Option<u64>, apply: bool) -> StoredDocument {
    commit(store, vec![change(name, text, expected, apply)]).await.unwrap().remove(0)
}

async fn texts(store: &Store) -> (Vec<String>, Vec<String>) {
    let all = DocumentFilter::default();
    let only = |found: Vec<StoredDocument>| found.into_iter().map(|one| one.text).collect();
    (only(store.newest(&all).await.unwrap()), only(store.effective(&all).await.unwrap()))
}

#[tokio::test]
async fn draft_waits_beside_the_effective_revision() {
    let world = World::new().await;
    let store = &world.store;
    let mut changed = store.changes(Topic::Documents);
    let first = put(store, "web", "one", Some(0), false).await;
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert_eq!(first.id.get_version_num(), 7);
    assert_eq!((first.revision, first.state), (1, RevisionState::Draft));
    assert_eq!((first.author.as_str(), first.reason.as_str(), first.at), ("alice", "because", now()));
    assert_eq!(texts(store).await, (vec!["one".into()], vec![]));

    let apply = DocumentChange::Apply { id: first.id, expected: Some(1) };
    let applied = commit(store, vec![apply.clone()]).await.unwrap().remove(0);
    assert_eq!((applied.revision, applied.state, applied.text.as_str()), (2, RevisionState::Applied, "one"));
    let second = put(store, "web", "two", Some(2), false).await;
    assert_eq!((second.id, second.revision), (first.id, 3));
    assert_eq!(texts(store).await, (vec!["two".into()], vec!["one".into()]));
    assert_eq!(store.get(first.id).await.unwrap(), Some(second));

    let stale = commit(store, vec![apply]).await.unwrap_err();
    assert_eq!(stale.to_string(), "document ProxyConfig default/web is at revision 3, not 1");
    let again = DocumentChange::Apply { id: first.id, expected: None };
    assert_eq!(commit(store, vec![again.clone()]).await.unwrap()[0].revision, 4);
    assert_eq!(commit(store, vec![again]).await.unwrap()[0].revision, 4, "applying twice changes nothing");
    assert_eq!(texts(store).await, (vec!["two".into()], vec!["two".into()]));
}

#[tokio::test]
async fn expected_revision_is_insisted_on() {
    let world = World::new().await;
    let store = &world.store;
    put(store, "web", "one", None, true).await;
    let refused =
        async |expected| commit(store, vec![change("web", "two", expected, true)]).await.unwrap_err();
    assert!(matches!(refused(Some(0)).await, StoreError::Exists { .. }));
    assert!(matches!(refused(Some(7)).await, StoreError::Conflict { expected: 7, actual: 1, .. }));
    let absent = commit(store, vec![change("api", "x", Some(3), true)]).await.unwrap_err();
    assert!(matches!(absent, StoreError::Conflict { expected: 3, actual: 0, .. }));
    let unknown = DocumentChange::Delete { id: Uuid::nil(), expected: None };
    assert!(matches!(commit(store, vec![unknown]).await, Err(StoreError::NotFound { .. })));
    assert_eq!(put(store, "web", "two", Some(1), true).await.revision, 2);
}

#[tokio::test]
async fn all_changes_of_a_commit_happen_or_none() {
    let world = World::new().await;
    let store = &world.store;
    put(store, "web", "one", None, true).await;
    let changes =
        vec![change("a", "1", None, true), change("b", "2", None, true), change("web", "x", Some(9), true)];
    commit(store, changes).await.unwrap_err();
    assert_eq!(texts(store).await.0, ["one"]);
    let rows = store.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 2, "a refused change leaves no row");
    let made =
        commit(store, vec![change("a", "1", None, true), change("b", "2", None, false)]).await.unwrap();
    assert_eq!(made.iter().map(|one| one.revision).collect::<Vec<_>>(), [2, 3]);
    let rows = store.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows[0].event.details["revision"], "2-3");
}

#[tokio::test]
async fn deleted_name_is_free_and_its_history_stays() {
    let world = World::new().await;
    let store = &world.store;
    let first = put(store, "web", "one", None, true).await;
    let gone = commit(store, vec![DocumentChange::Delete { id: first.id, expected: Some(1) }])
        .await
        .unwrap()
        .remove(0);
    assert_eq!((gone.state, gone.revision), (RevisionState::Deleted, 2));
    assert_eq!(texts(store).await, (vec![], vec![]));
    assert_eq!(store.get(first.id).await.unwrap().unwrap().state, RevisionState::Deleted);
    let again = commit(store, vec![DocumentChange::Delete { id: first.id, expected: None }]).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })));

    let second = put(store, "web", "new", Some(0), true).await;
    assert_ne!(second.id, first.id);
    let history = async |before, limit| {
        let (tenant, namespace) = (Default::default(), Default::default());
        let found = store.history(&tenant, &namespace, "ProxyConfig", "web", before, limit).await.unwrap();
        found.into_iter().map(|one| (one.revision, one.text)).collect::<Vec<_>>()
    };
    let all = [(3, "new".to_owned()), (2, String::new()), (1, "one".to_owned())];
    assert_eq!(history(None, 10).await, all);
    assert_eq!(history(None, 1).await, all[..1]);
    assert_eq!(history(Some(3), 1).await, all[1..2]);
    assert_eq!(history(Some(2), 10).await, all[2..]);
    assert_eq!(history(Some(u64::MAX), 10).await, all);
    assert_eq!(history(Some(1), 10).await, []);
}

#[tokio::test]
async fn lists_filter_and_continue() {
    let world = World::new().await;
    let store = &world.store;
    let names = ["a", "b", "c", "d", "e"];
    commit(store, names.map(|name| change(name, name, None, true)).to_vec()).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let filter = DocumentFilter { limit: 2, after, ..Default::default() };
        let page = store.newest(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.into_iter().map(|one| one.name));
    }
    seen.sort();
    assert_eq!(seen, names);
    let count = async |filter: DocumentFilter| store.effective(&filter).await.unwrap().len();
    assert_eq!(count(DocumentFilter { name: Some("c".into()), ..Default::default() }).await, 1);
    assert_eq!(count(DocumentFilter { kind: Some("Endpoints".into()), ..Default::default() }).await, 0);
    let other = spiffe::Tenant::parse("other").unwrap();
    assert_eq!(count(DocumentFilter { tenant: Some(other), ..Default::default() }).await, 0);
    let other = spiffe::Namespace::parse("other").unwrap();
    assert_eq!(count(DocumentFilter { namespace: Some(other), ..Default::default() }).await, 0);
}
