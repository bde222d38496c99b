//! Authorities that somebody else signs, through the whole crate.

use certs::{Chain, Csr};
use fixtures::{Blueprint, TestAuthority, TestKey, TestKeyKind, der};

use super::{
    roots::{asked, check, node, root_of, wish},
    *,
};
use crate::{
    dependents::{BundleFile, Dependent, Reason},
    keeper::Install,
    ports::AuthorityRequest,
    rotation::{Refusal, Step},
};

fn enterprise(now: Timestamp) -> TestAuthority {
    let key = TestKey::generate(TestKeyKind::P384);
    let name = der::name("Example Corp", "Corp Root");
    TestAuthority::from_blueprint(Blueprint::authority(&name, &key, &name, None, None, now), key, None)
}

/// What `above` signs for a request, with a name of its own choice.
fn signed(
    request: &AuthorityRequest,
    above: &TestAuthority,
    now: Timestamp,
    change: impl FnOnce(Blueprint) -> Blueprint,
) -> Vec<u8> {
    let spki = Csr::from_der(&request.csr).unwrap().public_key().spki_der().to_vec();
    let any = TestKey::generate(TestKeyKind::P256);
    let made = Blueprint { spki, ..above.authority_blueprint("Corp Mesh Issuing", &any, Some(0), now) };
    change(made.with_key_ids(Some(&above.key().spki_der()))).sign(above.key())
}

fn install(ders: &[&[u8]]) -> Install {
    Install { ders: ders.iter().map(|der| der.to_vec()).collect(), automatic: false, dry_run: false }
}

fn with_file(mut node: Dependent, file: BundleFile) -> Dependent {
    node.known.as_mut().unwrap().file = file;
    node
}

/// From our own root to the enterprise's, whose key we never see.
async fn move_to(handle: &Handle, world: &World, corp: &TestAuthority) -> AuthorityId {
    let old = root_of(handle);
    let before = issue(handle, "/web").await;
    let request = handle.request(false, asked()).await.unwrap();
    let issuing = signed(&request, corp, world.clock.now(), |made| made);
    let installed = handle.install(install(&[&issuing, corp.der()]), asked()).await.unwrap();
    let new = installed.root;
    let node = node(&[old, new], &before, &[old]);
    world.dependents.set(vec![with_file(node.clone(), BundleFile::Current)]);
    handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
    let mut after = with_file(node, BundleFile::Current);
    after.holds[0].authority = installed.issuing;
    after.known.as_mut().unwrap().proven.insert(new);
    world.dependents.set(vec![after]);
    assert!(handle.rotate_root(wish(Step::Finish), asked()).await.is_err());
    world.after(3601);
    handle.rotate_root(wish(Step::Finish), asked()).await.unwrap();
    installed.issuing
}

#[tokio::test]
async fn a_request_outlives_the_process_and_is_replaced_or_dropped_by_word_only() {
    let world = World::new().await;
    let first = world.life(async |handle| handle.request(false, asked()).await.unwrap()).await;
    world
        .life(async |handle| {
            assert_eq!(handle.request(false, asked()).await, Ok(first.clone()), "the same one again");
            let pending = handle.status().borrow().request.clone().unwrap();
            assert_eq!((pending.authority, pending.by.as_str()), (first.id, "host"));
            let second = handle.request(true, asked()).await.unwrap();
            assert_ne!(second.id, first.id);
            assert!(world.store.load_key(first.id).await.is_err(), "the key of the first is destroyed");
            assert_eq!(handle.drop_request(asked()).await, Ok(second.id));
            assert_eq!(handle.drop_request(asked()).await, Err(RotateError::NoRequest));
            let nothing = handle.install(install(&[]), asked()).await;
            assert!(matches!(nothing, Err(RotateError::NoRequest)));
            assert_eq!(handle.status().borrow().request, None);
        })
        .await;
    assert_eq!(world.store.key_count(), 2, "root and issuing authority");
    let actions: Vec<_> = world.store.events().iter().map(|event| event.action).collect();
    let (request, dropped) = (Action::AuthorityRequest, Action::AuthorityRequestDrop);
    assert_eq!(actions[5..], [request, request, dropped]);
}

#[tokio::test]
async fn another_root_enters_by_the_gates_and_its_authority_signs_with_all_between_them() {
    let world = World::new().await;
    let corp = enterprise(world.clock.now());
    world
        .life(async |handle| {
            let old = root_of(&handle);
            let before = issue(&handle, "/web").await;
            let now = world.clock.now();
            let between = TestAuthority::from_blueprint(
                corp.authority_blueprint("Corp Policy", &TestKey::generate(TestKeyKind::P256), Some(1), now),
                TestKey::generate(TestKeyKind::P256),
                Some(&corp),
            );
            // The key in the certificate is the one that was thrown away: such a chain does not hold.
            let request = handle.request(false, asked()).await.unwrap();
            let wrong = signed(&request, &between, now, |made| made);
            let refused = handle.install(install(&[&wrong, between.der(), corp.der()]), asked()).await;
            let Err(RotateError::Chain(ladder)) = refused else { panic!("{refused:?}") };
            assert!(ladder.failures().any(|rung| rung.rule == "bad-signature"), "{ladder:#?}");
            assert_eq!(handle.request(false, asked()).await, Ok(request.clone()), "the request stays");

            let key = TestKey::generate(TestKeyKind::P256);
            let made = corp.authority_blueprint("Corp Policy", &key, Some(1), now);
            let between = TestAuthority::from_blueprint(made, key, Some(&corp));
            let issuing = signed(&request, &between, now, |made| made);
            let ders: [&[u8]; 3] = [&issuing, between.der(), corp.der()];
            let planned = Install { dry_run: true, ..install(&ders) };
            let planned = handle.install(planned, asked()).await.unwrap();
            assert!(planned.is_new_root && planned.has_way_back, "{planned:?}");
            assert_eq!(handle.trust().borrow().own().authorities().len(), 1, "nothing happened");
            let installed = handle.install(install(&ders), asked()).await.unwrap();
            assert_eq!((installed.rotation.phase.as_str(), installed.between), ("prepared", 1));
            let new = installed.root;
            assert_eq!(handle.trust().borrow().own().authorities().len(), 2);
            assert_eq!(issue(&handle, "/web").await.authority, before.authority, "it signs nothing yet");
            assert_eq!(handle.drop_request(asked()).await, Err(RotateError::NoRequest), "it was answered");

            // A second chain while the first waits: the step that is due is named.
            let second = handle.request(false, asked()).await.unwrap();
            let third = enterprise(now);
            let other = signed(&second, &third, now, |made| made);
            let refused = handle.install(install(&[&other, third.der()]), asked()).await.unwrap_err();
            assert!(refused.to_string().contains("due is activate or rollback"), "{refused}");
            handle.drop_request(asked()).await.unwrap();

            // The old root's key is here, so that it vouches for the new authority, whatever its name.
            world.dependents.set(vec![node(&[old, new], &before, &[old])]);
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            let anchor = handle.anchor().borrow().clone();
            assert_eq!((anchor.root, anchor.previous), (Some(new), Some(old)));
            let after = issue(&handle, "/web").await;
            assert_eq!(after.chain.intermediates().len(), 2, "the authority between is sent along");
            let trust = handle.trust().borrow().clone();
            check(&after.chain, &trust, now).unwrap();
            let only_old = trust.own().authorities().iter();
            let only_old =
                only_old.filter(|root| AuthorityId::of(root.spki_hash()) == old).cloned().collect();
            let only_old = Trust::new(TrustBundle::new(world.policy.trust_domain.clone(), only_old, 1));
            let by_old = Chain::new(after.chain.leaf().clone(), vec![anchor.cross.clone().unwrap()]);
            check(&by_old, &only_old, now).unwrap();
            assert!(check(&after.chain, &only_old, now).is_err());
        })
        .await;
}

#[tokio::test]
async fn without_the_roots_key_a_successor_is_brought_and_nothing_goes_by_itself() {
    let world = World::new().await;
    let corp = enterprise(world.clock.now());
    let first = world.life(async |handle| move_to(&handle, &world, &corp).await).await;
    assert_eq!(world.store.key_count(), 1, "the issuing authority's and nothing else");
    world
        .life(async |handle| {
            let status = handle.status().borrow().clone();
            let by_hand = status.by_hand.unwrap();
            assert_eq!((by_hand.authority, status.next_rotation), (first, None));
            for refused in [
                handle.rotate_issuing(Actor::Host, "drill").await.map(drop),
                handle.rotate_root(wish(Step::Prepare), asked()).await.map(drop),
            ] {
                assert_eq!(refused, Err(RotateError::Refused(Refusal::NoRootKey)));
            }
            for answer in [handle.simulate_emergency(first).await, handle.emergency(first, asked()).await] {
                assert_eq!(answer.map(drop), Err(RotateError::Refused(Refusal::NoSuccessor)));
            }

            // Others sign below that root too, and none of them says who is ours.
            let now = world.clock.now();
            let theirs = corp.issuing("td", now);
            let key = TestKey::generate(TestKeyKind::P256);
            let leaf = theirs.leaf_blueprint("spiffe://td/web", &key, now).sign(theirs.key());
            let stranger = Chain::from_ders([leaf.as_slice(), theirs.der()]).unwrap();
            let refused = check(&stranger, &handle.trust().borrow().clone(), now).unwrap_err();
            assert_eq!(refused.rule(), "strange-issuer");

            // Past its half nothing happens but that it is said.
            world.clock.advance(by_hand.due.since(world.clock.now()) + Duration::from_secs(3600));
            assert_eq!(issue(&handle, "/web").await.authority, first);
            let request = handle.request(false, asked()).await.unwrap();
            let now = world.clock.now();
            let second = signed(&request, &corp, now, |made| Blueprint {
                not_after: corp.certificate().not_after(),
                ..made
            });
            // The root need not be in the file: it is the one that signs.
            let installed = handle.install(install(&[&second]), asked()).await.unwrap();
            assert!(!installed.is_new_root);
            let leaf = issue(&handle, "/web").await;
            assert_eq!(leaf.authority, installed.issuing, "it signs at once");
            check(&leaf.chain, &handle.trust().borrow().clone(), now).unwrap();
            let events = world.store.events();
            let mut actors = events.iter().filter(|event| event.action == Action::AuthorityActivate);
            assert_eq!(actors.next_back().unwrap().actor, Actor::Host, "on the operator's account");
        })
        .await;
    world
        .life(async |handle| {
            assert_eq!(handle.status().borrow().by_hand.map(|due| due.authority == first), Some(false));
        })
        .await;
}

#[tokio::test]
async fn a_chain_that_is_not_activated_is_kept_and_goes_on_after_a_restart() {
    let world = World::new().await;
    let corp = enterprise(world.clock.now());
    world.life(async |handle| move_to(&handle, &world, &corp).await).await;
    let next = world
        .life(async |handle| {
            let request = handle.request(false, asked()).await.unwrap();
            let next = signed(&request, &corp, world.clock.now(), |made| Blueprint {
                not_after: corp.certificate().not_after(),
                ..made
            });
            world.store.fail(Call::Transition);
            let failed = handle.install(install(&[&next]), asked()).await.unwrap_err();
            assert!(
                matches!(&failed, RotateError::Kept { authority, .. } if *authority == request.id),
                "{failed}"
            );
            world.store.heal(Call::Transition);
            request.id
        })
        .await;
    world.life(async |handle| drop(until(&handle, |status| status.active == Some(next)).await)).await;
}

#[tokio::test]
async fn where_nobody_vouches_for_us_each_node_must_know_the_new_root_first() {
    let world = World::new().await;
    let first = enterprise(world.clock.now());
    world.life(async |handle| move_to(&handle, &world, &first).await).await;
    let second = enterprise(world.clock.now());
    world
        .life(async |handle| {
            let (old, now) = (root_of(&handle), world.clock.now());
            let before = issue(&handle, "/web").await;
            let request = handle.request(false, asked()).await.unwrap();
            let issuing = signed(&request, &second, now, |made| made);
            let ders: [&[u8]; 2] = [&issuing, second.der()];
            let installed = handle.install(install(&ders), asked()).await.unwrap();
            assert!(installed.is_new_root && !installed.has_way_back);
            let one = node(&[old, installed.root], &before, &[old]);
            world.dependents.set(vec![with_file(one.clone(), BundleFile::Stale)]);
            let refused = handle.rotate_root(wish(Step::Activate), asked()).await.unwrap_err();
            let RotateError::Refused(Refusal::Laggards { laggards, .. }) = refused else {
                panic!("{refused}")
            };
            assert_eq!(laggards[0].reason, Reason::FileStale);
            world.dependents.set(vec![with_file(one.clone(), BundleFile::Current)]);
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            assert_eq!(handle.anchor().borrow().cross, None, "nobody vouches for us");
            // Back to a root whose key was never here: its authority is still good.
            handle.rotate_root(wish(Step::Rollback), asked()).await.unwrap();
            assert_eq!(root_of(&handle), old);
            let leaf = issue(&handle, "/web").await;
            assert_eq!(leaf.authority, before.authority);
            handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap_err();
        })
        .await;
}

#[tokio::test]
async fn who_asks_for_a_request_gets_none_that_an_issuer_is_about_to_answer() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let by_itself = || Asked { actor: Actor::System, reason: "issuer corp".into() };
            let issuers = handle.request(false, by_itself()).await.unwrap();
            assert_eq!(handle.request(false, by_itself()).await.unwrap().id, issuers.id, "tried again");
            let operators = handle.request(false, asked()).await.unwrap();
            assert_ne!(operators.id, issuers.id);
            assert_eq!(handle.request(false, asked()).await.unwrap().id, operators.id);
            // The issuer sees whose it is, and leaves it alone.
            assert_eq!(handle.request(false, by_itself()).await.unwrap().by, asked().actor.to_string());
        })
        .await;
}

#[tokio::test]
async fn a_root_of_our_own_follows_an_enterprises_where_an_operator_says_so() {
    let world = World::new().await;
    let corp = enterprise(world.clock.now());
    world.life(async |handle| move_to(&handle, &world, &corp).await).await;
    world
        .life(async |handle| {
            let old = root_of(&handle);
            let before = issue(&handle, "/web").await;
            let alone = Wish { alone: true, ..wish(Step::Prepare) };
            handle.simulate_root(alone.clone()).await.unwrap();
            assert_eq!(world.store.key_count(), 1, "asked about, nothing is made");
            let prepared = handle.rotate_root(alone, asked()).await.unwrap();
            let new = prepared.other.unwrap();
            let stale = with_file(node(&[old, new], &before, &[old]), BundleFile::Stale);
            world.dependents.set(vec![stale]);
            let refused = handle.rotate_root(wish(Step::Activate), asked()).await.unwrap_err();
            assert!(matches!(refused, RotateError::Refused(Refusal::Laggards { .. })), "{refused}");
            let current = with_file(node(&[old, new], &before, &[old]), BundleFile::Current);
            world.dependents.set(vec![current]);
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            assert_eq!(root_of(&handle), new);
            assert_eq!(handle.anchor().borrow().cross, None, "nobody vouches for us");
            let leaf = issue(&handle, "/web").await;
            check(&leaf.chain, &handle.trust().borrow().clone(), world.clock.now()).unwrap();
            assert!(handle.status().borrow().by_hand.is_none(), "its key is here");
        })
        .await;
}

#[tokio::test]
async fn a_root_may_be_brought_again_after_it_was_rolled_back() {
    let world = World::new().await;
    let corp = enterprise(world.clock.now());
    world
        .life(async |handle| {
            let mut sequence = handle.trust().borrow().own().sequence();
            for _ in 0..3 {
                let request = handle.request(false, asked()).await.unwrap();
                let issuing = signed(&request, &corp, world.clock.now(), |made| made);
                handle.install(install(&[&issuing, corp.der()]), asked()).await.unwrap();
                let prepared = handle.trust().borrow().own().sequence();
                handle.rotate_root(wish(Step::Rollback), asked()).await.unwrap();
                let withdrawn = handle.trust().borrow().own().sequence();
                assert!(sequence < prepared && prepared < withdrawn, "{sequence} {prepared} {withdrawn}");
                sequence = withdrawn;
            }
        })
        .await;
}

#[tokio::test]
async fn a_stolen_authority_of_a_distant_root_is_answered_by_one_that_was_brought() {
    let world = World::new().await;
    let corp = enterprise(world.clock.now());
    let stolen = world.life(async |handle| move_to(&handle, &world, &corp).await).await;
    let other = enterprise(world.clock.now());
    world.dependents.set(Vec::new());
    world
        .life(async |handle| {
            let request = handle.request(false, asked()).await.unwrap();
            let issuing = signed(&request, &other, world.clock.now(), |made| made);
            handle.install(install(&[&issuing, other.der()]), asked()).await.unwrap();
            let status = handle.emergency(stolen, asked()).await.unwrap();
            assert!(status.emergency.is_some() || status.phase == "steady", "{status:?}");
            until(&handle, |status| status.active == Some(request.id)).await;
            until(&handle, |status| {
                status.authorities.iter().filter(|one| one.place == Place::Root).count() == 1
            })
            .await;
            // And never comes back.
            let again = handle.request(false, asked()).await.unwrap();
            let issuing = signed(&again, &corp, world.clock.now(), |made| made);
            let refused = handle.install(install(&[&issuing, corp.der()]), asked()).await;
            let Err(RotateError::Chain(ladder)) = refused else { panic!("{refused:?}") };
            assert!(ladder.failures().any(|rung| rung.rule == "root-key"), "{ladder:#?}");
        })
        .await;
}
