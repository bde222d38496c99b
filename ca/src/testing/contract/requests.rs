//! Requests for authorities that somebody else signs, and what comes back.

use super::{StoreFixture, after, event, made, now};
use crate::ports::{
    AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState, Place, Taint, Transition,
};

pub(super) async fn contract<S: StoreFixture>(store: &S) {
    let authorities = store.authorities();
    let before = store.events().await.len();
    let (active, active_key) = made(Place::Root, AuthorityState::Active);
    authorities.insert(vec![(active.clone(), active_key)], vec![event("root")]).await.expect("insert");
    let request = |record: &AuthorityRecord| AuthorityRequest {
        id: record.id,
        csr: vec![0x30, 0],
        created: now(),
        by: "host".to_owned(),
    };
    assert_eq!(authorities.request().await, Ok(None));
    let (first, first_key) = made(Place::Issuing, AuthorityState::Prepared);
    let (second, second_key) = made(Place::Issuing, AuthorityState::Prepared);
    let no_key = |id| Err(AuthorityError::NotFound(id));
    authorities.put_request(request(&first), first_key, vec![event("first")]).await.expect("request");
    authorities.put_request(request(&second), second_key, vec![event("second")]).await.expect("request");
    assert_eq!(authorities.request().await, Ok(Some(request(&second))), "one at a time");
    assert_eq!(
        authorities.load_key(first.id).await.map(drop),
        no_key(first.id),
        "the other key is destroyed"
    );
    assert!(authorities.load_key(second.id).await.is_ok());
    let refused = Err(AuthorityError::NoRequest);
    assert_eq!(authorities.drop_request(first.id, vec![event("no")]).await, refused);
    assert_eq!(authorities.install(first.clone(), None, vec![event("no")]).await, refused);
    authorities.drop_request(second.id, vec![event("drop")]).await.expect("drop");
    assert_eq!(authorities.request().await, Ok(None));
    assert_eq!(authorities.load_key(second.id).await.map(drop), no_key(second.id));

    // A chain comes back: the authority takes the key of the request, its root comes without one.
    let (third, third_key) = made(Place::Issuing, AuthorityState::Prepared);
    let (root, _) = made(Place::Root, AuthorityState::Prepared);
    let root = AuthorityRecord { offline: Some(now()), ..root };
    let third = AuthorityRecord { between: vec![active.certificate.clone()], parent: Some(root.id), ..third };
    authorities.put_request(request(&third), third_key, vec![event("third")]).await.expect("request");
    let taken = Some(AuthorityRecord { offline: Some(now()), ..active.clone() });
    assert_eq!(
        authorities.install(third.clone(), taken, vec![event("no")]).await,
        Err(AuthorityError::Exists(active.id)),
        "all or nothing"
    );
    assert_eq!(authorities.request().await, Ok(Some(request(&third))));
    authorities.install(third.clone(), Some(root.clone()), vec![event("install")]).await.expect("install");
    let loaded = authorities.load().await.expect("load");
    assert_eq!(loaded.iter().find(|record| record.id == root.id), Some(&root));
    assert_eq!(loaded.iter().find(|record| record.id == third.id), Some(&third));
    assert_eq!(authorities.request().await, Ok(None));
    assert!(authorities.load_key(third.id).await.is_ok());
    assert_eq!(authorities.load_key(root.id).await.map(drop), no_key(root.id));

    // What was removed may be brought again, and counts as another arrival.
    let gone = [root.id, third.id].map(|id| Transition {
        id,
        from: AuthorityState::Prepared,
        to: AuthorityState::Removed,
        at: after(1),
    });
    authorities.transition(gone.to_vec(), vec![event("withdraw")]).await.expect("withdraw");
    let (fourth, fourth_key) = made(Place::Issuing, AuthorityState::Prepared);
    authorities.put_request(request(&fourth), fourth_key, vec![event("fourth")]).await.expect("request");
    authorities.install(fourth, Some(root.clone()), vec![event("again")]).await.expect("again");
    let loaded = authorities.load().await.expect("load");
    let again = loaded.iter().find(|record| record.id == root.id).expect("the root");
    assert_eq!((again.arrivals, again.state, again.removed), (2, AuthorityState::Prepared, None));
    // But not one that was tainted.
    authorities.taint(vec![root.id], Taint::Planned, after(2), vec![event("taint")]).await.expect("taint");
    let gone =
        Transition { id: root.id, from: AuthorityState::Prepared, to: AuthorityState::Removed, at: after(3) };
    authorities.transition(vec![gone], vec![event("remove")]).await.expect("remove");
    let (fifth, fifth_key) = made(Place::Issuing, AuthorityState::Prepared);
    authorities.put_request(request(&fifth), fifth_key, vec![event("fifth")]).await.expect("request");
    assert_eq!(
        authorities.install(fifth, Some(root.clone()), vec![event("no")]).await,
        Err(AuthorityError::Exists(root.id))
    );
    // The key of a root goes elsewhere; an issuing authority keeps its own.
    let given = authorities.give_up_key(active.id, after(4), vec![event("give up")]).await;
    given.expect("give up");
    let loaded = authorities.load().await.expect("load");
    let root = loaded.iter().find(|record| record.id == active.id).expect("the root");
    assert_eq!((root.offline, root.state), (Some(after(4)), AuthorityState::Active));
    assert_eq!(authorities.load_key(active.id).await.map(drop), no_key(active.id));
    for id in [active.id, third.id] {
        let again = authorities.give_up_key(id, after(5), vec![event("no")]).await;
        assert_eq!(again, no_key(id));
    }
    let objects: Vec<String> = store.events().await.split_off(before).into_iter().map(|e| e.object).collect();
    assert_eq!(
        objects,
        [
            "root", "first", "second", "drop", "third", "install", "withdraw", "fourth", "again", "taint",
            "remove", "fifth", "give up"
        ]
    );
}
