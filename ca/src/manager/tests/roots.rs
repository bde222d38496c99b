//! The replacement of a root through the whole crate: store, machine, issuer, what is published.

use std::collections::BTreeSet;

use certs::{Chain, Usage};
use spiffe::{SvidError, verify_svid};

use super::*;
use crate::{
    dependents::{Acknowledged, BundleFile, Dependent, Holding, Presence},
    rotation::{Refusal, Step},
};

pub(super) fn wish(step: Step) -> Wish {
    Wish { step, leave_behind: BTreeSet::new(), automatic: false, alone: false }
}

pub(super) fn asked() -> Asked {
    Asked { actor: Actor::Host, reason: "drill".to_owned() }
}

/// A connected node that acknowledged `roots`, shows a leaf of `authority`, and knows us by `proven`.
pub(super) fn node(roots: &[AuthorityId], leaf: &IssuedSvid, proven: &[AuthorityId]) -> Dependent {
    let set = |ids: &[AuthorityId]| ids.iter().copied().collect::<BTreeSet<_>>();
    let id = TrustDomain::parse("td").unwrap().id("/web").unwrap();
    let until = leaf.chain.leaf().not_after();
    Dependent {
        name: "web-1".to_owned(),
        presence: Presence::Here,
        known: Some(Acknowledged {
            roots: Some(set(roots)),
            lists: None,
            refusal: None,
            proven: set(proven),
            file: BundleFile::Unknown,
        }),
        holds: vec![Holding { id, authority: leaf.authority, serial: None, until }],
    }
}

pub(super) fn root_of(handle: &Handle) -> AuthorityId {
    handle.anchor().borrow().root.unwrap()
}

pub(super) fn check(chain: &Chain, trust: &Trust, now: Timestamp) -> Result<(), SvidError> {
    verify_svid(chain, trust, now, Usage::Client).map(drop)
}

#[tokio::test]
async fn a_root_is_replaced_and_no_leaf_is_ever_without_its_root() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let old = root_of(&handle);
            let before = issue(&handle, "/web").await;
            let trusts = |chain: &Chain| check(chain, &handle.trust().borrow().clone(), world.clock.now());

            let status = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap();
            let new = status.other.unwrap();
            assert_eq!(
                handle.trust().borrow().own().authorities().len(),
                2,
                "the next root is in the bundle"
            );
            assert_eq!(issue(&handle, "/web").await.authority, before.authority, "and signs nothing");

            world.dependents.set(vec![node(&[old], &before, &[old])]);
            let refused = handle.rotate_root(wish(Step::Activate), asked()).await.unwrap_err();
            assert!(matches!(refused, RotateError::Refused(Refusal::Laggards { .. })), "{refused:?}");
            world.dependents.set(vec![node(&[old, new], &before, &[old])]);
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            let anchor = handle.anchor().borrow().clone();
            assert_eq!((anchor.root, anchor.previous), (Some(new), Some(old)));
            let after = issue(&handle, "/web").await;
            trusts(&after.chain).unwrap();
            trusts(&before.chain).unwrap();

            // Whoever knows the old root only verifies the same leaf by the other certificate of its authority.
            let by_old = Chain::new(after.chain.leaf().clone(), vec![anchor.cross.clone().unwrap()]);
            let roots = handle.trust().borrow().own().authorities().to_vec();
            let only_old =
                roots.into_iter().filter(|root| AuthorityId::of(root.spki_hash()) == old).collect();
            let only_old = Trust::new(TrustBundle::new(world.policy.trust_domain.clone(), only_old, 1));
            check(&by_old, &only_old, world.clock.now()).unwrap();
            assert!(check(&after.chain, &only_old, world.clock.now()).is_err());

            world.dependents.set(vec![node(&[old, new], &after, &[old])]);
            let refused = handle.rotate_root(wish(Step::Finish), asked()).await.unwrap_err();
            assert!(refused.to_string().contains("1 that would break"), "not proven: {refused}");
            world.dependents.set(vec![node(&[old, new], &after, &[old, new])]);
            let refused = handle.rotate_root(wish(Step::Finish), asked()).await.unwrap_err();
            assert!(matches!(refused, RotateError::Refused(Refusal::Settling { .. })), "{refused:?}");
            world.after(3601);
            handle.rotate_root(wish(Step::Finish), asked()).await.unwrap();
            assert_eq!(handle.drain().borrow().generation, 0, "a planned rotation ends no connection");
            assert_eq!(handle.trust().borrow().own().authorities().len(), 1);
            assert_eq!(handle.anchor().borrow().cross, None);
            assert_eq!(
                world.store.key_count(),
                2,
                "the keys of the old root and its authority are destroyed"
            );
            trusts(&after.chain).unwrap();
            assert!(trusts(&before.chain).is_err());
        })
        .await;
}

#[tokio::test]
async fn a_rotation_outlives_the_process_and_can_be_rolled_back() {
    let world = World::new().await;
    let (old, before) = world.life(async |handle| (root_of(&handle), issue(&handle, "/web").await)).await;
    let new = world
        .life(async |handle| handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap())
        .await;
    world.dependents.set(vec![node(&[old, new], &before, &[old])]);
    world
        .life(async |handle| {
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            assert_eq!(root_of(&handle), new);
        })
        .await;
    world
        .life(async |handle| {
            handle.rotate_root(wish(Step::Rollback), asked()).await.unwrap();
            assert_eq!(root_of(&handle), old);
            assert_eq!(issue(&handle, "/web").await.authority, before.authority, "the old one signs again");
        })
        .await;
}

#[tokio::test]
async fn a_stolen_key_opens_nothing_and_what_it_signed_for_us_may_still_come_for_more() {
    let world = World::new().await;
    let (stolen, known, forged, borrowed) = world
        .life(async |handle| {
            let known = issue(&handle, "/web").await;
            // What a thief makes with the key of the issuing authority: right in every respect but the journal.
            let key = world.store.load_key(known.authority).await.unwrap();
            let signer = certs::SoftwareSigner::try_new(&key).unwrap();
            let issuing = known.chain.intermediates()[0].clone();
            let template = certs::Template {
                profile: certs::Profile::Workload,
                serial: Serial::random(),
                validity: certs::Validity::starting(world.clock.now(), Duration::from_secs(3600), None),
                public_key: SecretKey::generate(KeyKind::P256).public().clone(),
                subject: None,
                uri: "spiffe://td/web".to_owned(),
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
            };
            let make = |template: &certs::Template| {
                let leaf = certs::sign(template, Some(&issuing), &signer).unwrap();
                let made = Chain::new(leaf, vec![issuing.clone()]);
                check(&made, &handle.trust().borrow().clone(), world.clock.now()).unwrap();
                made
            };
            // He may have a key of ours as well, and write another name to it under the number that we gave it.
            let leaf = known.chain.leaf();
            let borrowed = make(&certs::Template {
                serial: leaf.serial().clone(),
                public_key: certs::PublicKey::from_spki_der(leaf.spki_der()).unwrap(),
                uri: "spiffe://td/payments".to_owned(),
                ..template.clone()
            });
            (known.authority, known, make(&template), borrowed)
        })
        .await;
    // Somebody lags, so that the first moments can be looked at.
    world.dependents.set(vec![node(&[], &known, &[])]);
    world
        .life(async |handle| {
            let status = handle.emergency(stolen, asked()).await.unwrap();
            assert!(status.emergency.is_some());
            let trust = handle.trust().borrow().clone();
            check(&known.chain, &trust, world.clock.now()).unwrap();
            for made in [&forged, &borrowed] {
                let refused = check(made, &trust, world.clock.now()).unwrap_err();
                assert_eq!(refused.rule(), "tainted-key");
            }
            assert_eq!(handle.drain().borrow().generation, 0, "the thief could come back");
            world.after(15);
            until(&handle, |status| status.active.is_some_and(|active| active != stolen)).await;
            world.after(45);
            until(&handle, |status| {
                let signs = status.active.is_some_and(|active| active != stolen);
                signs && status.authorities.iter().filter(|one| one.place == Place::Root).count() == 1
            })
            .await;
            let trust = handle.trust().borrow().clone();
            check(&issue(&handle, "/web").await.chain, &trust, world.clock.now()).unwrap();
            assert!(check(&known.chain, &trust, world.clock.now()).is_err(), "the old root is gone");
            assert!(matches!(handle.emergency(stolen, asked()).await, Err(RotateError::NotFound(_))));
            let sequence = trust.own().sequence();
            assert_eq!(*handle.drain().borrow(), Drain { generation: 1, bundle: sequence });
        })
        .await;
    let drain = world.life(async |handle| *handle.drain().borrow()).await;
    assert_eq!(drain.generation, 1, "a process that comes back drains nothing again");
    let taints = world.store.events().iter().filter(|event| event.action == Action::AuthorityTaint).count();
    assert_eq!(taints, 2, "the named authority and its root");
}

fn issuing_of(handle: &Handle) -> AuthorityId {
    handle.active().borrow().unwrap().id
}

/// A root is prepared and signs, with everybody on it.
async fn replace(world: &World, handle: &Handle) -> (AuthorityId, AuthorityId) {
    let (old, leaf) = (root_of(handle), issue(handle, "/web").await);
    let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
    world.dependents.set(vec![node(&[old, new], &leaf, &[old])]);
    handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
    (old, new)
}

#[tokio::test]
async fn a_theft_after_a_rollback_is_a_theft() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, _) = replace(&world, &handle).await;
            handle.rotate_root(wish(Step::Rollback), asked()).await.unwrap();
            assert_eq!(root_of(&handle), old);
            world.after(3600);
            until(&handle, |status| status.active.is_some()).await;
            let stolen = issuing_of(&handle);
            assert!(handle.emergency(stolen, asked()).await.unwrap().emergency.is_some());
            world.after(15);
            until(&handle, |status| status.active.is_some_and(|active| active != stolen)).await;
            issue(&handle, "/web").await;
        })
        .await;
}

#[tokio::test]
async fn a_theft_that_is_on_record_is_answered_by_itself_once_the_store_can_be_read_again() {
    let world = World::new().await;
    world
        .life(async |handle| {
            until(&handle, |status| status.active.is_some()).await;
            let stolen = issuing_of(&handle);
            world.store.fail(Call::Leaves);
            let answer = handle.emergency(stolen, asked()).await;
            assert!(matches!(answer, Err(RotateError::Failed(_))), "{answer:?}");
            let taints = |event: &Event| event.action == Action::AuthorityTaint;
            assert_eq!(
                world.store.events().iter().filter(|event| taints(event)).count(),
                2,
                "it is on record"
            );
            // Nobody asks again, and the first try to read fails as well.
            world.after(2);
            world.store.heal(Call::Leaves);
            world.after(2);
            until(&handle, |status| status.active.is_some_and(|active| active != stolen)).await;
            issue(&handle, "/web").await;
        })
        .await;
}

#[tokio::test]
async fn a_step_that_fails_is_tried_again_after_its_pause_and_no_sooner() {
    let world = World::new().await;
    world.life(async |handle| until(&handle, |status| status.active.is_some()).await).await;
    world.store.fail(Call::Insert);
    world.after(183 * DAY);
    world
        .life(async |_| {
            for _ in 0..300 {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                world.after(2);
            }
        })
        .await;
    // Of the root and of the issuing authority: at once, after a minute, and after 2 and 4 more.
    let tried = world.store.failed(Call::Insert);
    assert!((6..=8).contains(&tried), "{tried} times in ten minutes");
}

#[tokio::test]
async fn a_theft_in_the_middle_of_a_rotation_leaves_somebody_who_signs() {
    // The root that signs: the one before takes over at once, and the stolen one goes.
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, new) = replace(&world, &handle).await;
            let status = handle.emergency(new, asked()).await.unwrap();
            assert!(status.emergency.is_some(), "{status:?}");
            until(&handle, |_| root_of(&handle) == old).await;
            let trust = handle.trust().borrow().clone();
            check(&issue(&handle, "/web").await.chain, &trust, world.clock.now()).unwrap();
            world.after(60);
            until(&handle, |status| status.authorities.iter().all(|one| one.id != new)).await;
        })
        .await;
    // The one that retired: it goes within the minute although somebody depends on it.
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, new) = replace(&world, &handle).await;
            assert!(handle.emergency(old, asked()).await.unwrap().emergency.is_some());
            issue(&handle, "/web").await;
            world.after(60);
            until(&handle, |status| status.authorities.iter().all(|one| one.id != old)).await;
            assert_eq!(root_of(&handle), new);
        })
        .await;
    // One that has signed nothing is dropped.
    let world = World::new().await;
    world
        .life(async |handle| {
            let old = root_of(&handle);
            let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
            let status = handle.emergency(new, asked()).await.unwrap();
            assert_eq!((status.phase.as_str(), status.root), ("steady", Some(old)));
        })
        .await;
}

#[tokio::test]
async fn what_a_retired_issuing_authority_signed_may_still_come_for_more_in_an_emergency() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let earlier = issue(&handle, "/web").await;
            let now_signs = handle.rotate_issuing(Actor::Host, "").await.unwrap();
            assert_ne!(earlier.authority, now_signs);
            world.dependents.set(vec![node(&[], &earlier, &[])]);
            handle.emergency(now_signs, asked()).await.unwrap();
            let trust = handle.trust().borrow().clone();
            check(&earlier.chain, &trust, world.clock.now()).unwrap();
        })
        .await;
}

#[tokio::test]
async fn an_issuing_authority_made_between_two_roots_is_vouched_for_by_the_one_before() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, _) = replace(&world, &handle).await;
            let roots = handle.trust().borrow().own().authorities().to_vec();
            handle.rotate_issuing(Actor::Host, "").await.unwrap();
            let after = issue(&handle, "/web").await;
            let cross = handle.anchor().borrow().cross.clone().expect("a way back");
            let only_old =
                roots.into_iter().filter(|root| AuthorityId::of(root.spki_hash()) == old).collect();
            let only_old = Trust::new(TrustBundle::new(world.policy.trust_domain.clone(), only_old, 1));
            check(&Chain::new(after.chain.leaf().clone(), vec![cross]), &only_old, world.clock.now())
                .unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_step_that_was_kept_and_not_read_back_is_taken_up_where_the_store_says() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, leaf) = (root_of(&handle), issue(&handle, "/web").await);
            let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
            world.dependents.set(vec![node(&[old, new], &leaf, &[old])]);
            // The change is made; what is read after it fails.
            world.store.fail(Call::LoadKey);
            let failed = handle.rotate_root(wish(Step::Activate), asked()).await;
            assert!(matches!(failed, Err(RotateError::Failed(_))), "{failed:?}");
            world.store.heal(Call::LoadKey);
            world.after(3600);
            until(&handle, |_| root_of(&handle) == new).await;
            until(&handle, |status| status.active.is_some_and(|active| active != leaf.authority)).await;
            assert_ne!(issue(&handle, "/web").await.authority, leaf.authority);
        })
        .await;
}

#[tokio::test]
async fn a_root_that_is_prepared_and_was_not_read_back_waits_for_every_proxy_all_the_same() {
    for is_automatic in [false, true] {
        let world = World::new().await;
        world
            .life(async |handle| {
                let (old, leaf) = (root_of(&handle), issue(&handle, "/web").await);
                world.dependents.set(vec![node(&[old], &leaf, &[old])]);
                world.store.fail(Call::Load);
                if is_automatic {
                    world.after(183 * DAY);
                    while world.store.failed(Call::Load) == 0 {
                        tokio::task::yield_now().await;
                    }
                } else {
                    let failed = handle.rotate_root(wish(Step::Prepare), asked()).await;
                    assert!(matches!(failed, Err(RotateError::Failed(_))), "{failed:?}");
                }
                world.store.heal(Call::Load);
                let activate = wish(Step::Activate);
                if is_automatic {
                    world.after(60);
                    let status = until(&handle, |status| {
                        status.rotation.as_ref().is_some_and(|rotation| rotation.phase == "prepared")
                    });
                    assert_eq!(status.await.rotation.as_ref().unwrap().laggards.len(), 1);
                } else {
                    let (_, step) = handle.simulate_root(wish(Step::Rollback)).await.unwrap();
                    assert!(matches!(step, rotation::Action::Withdraw(_)), "{step:?}");
                }
                let refused = handle.rotate_root(activate, asked()).await;
                assert!(
                    matches!(refused, Err(RotateError::Refused(Refusal::Laggards { .. }))),
                    "{refused:?}"
                );
                assert_eq!(root_of(&handle), old);
            })
            .await;
    }
}

#[tokio::test]
async fn a_step_that_stands_is_answered_as_done_though_it_was_not_read_back_at_once() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let old = root_of(&handle);
            world.store.fail_once(Call::Load);
            let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
            world.store.fail_once(Call::Load);
            let status = handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            assert_eq!((status.root, status.other), (Some(new), Some(old)));
            assert_eq!(root_of(&handle), new);
            assert_ne!(issue(&handle, "/web").await.authority, old);
            // One that does not stand is not.
            world.store.fail(Call::Transition);
            let failed = handle.rotate_root(wish(Step::Rollback), asked()).await;
            assert!(matches!(failed, Err(RotateError::Failed(_))), "{failed:?}");
            assert_eq!(root_of(&handle), new);
        })
        .await;
}

#[tokio::test]
async fn a_root_that_cannot_return_leaves_one_authority_behind_however_often_it_is_tried() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, _) = replace(&world, &handle).await;
            // What signed under it is too old by now.
            world.after(29 * DAY + DAY / 2);
            world.store.fail(Call::Transition);
            for _ in 0..3 {
                handle.rotate_root(wish(Step::Rollback), asked()).await.unwrap_err();
            }
            let below = |records: Vec<AuthorityRecord>| {
                records.iter().filter(|one| one.parent == Some(old)).map(|one| one.state).collect::<Vec<_>>()
            };
            assert_eq!(below(world.store.load().await.unwrap()), [Retired, Prepared]);
            world.store.heal(Call::Transition);
            handle.rotate_root(wish(Step::Rollback), asked()).await.unwrap();
            assert_eq!(root_of(&handle), old);
            assert_eq!(below(world.store.load().await.unwrap()), [Removed, Active]);
            issue(&handle, "/web").await;
        })
        .await;
}

#[tokio::test]
async fn nodes_that_are_only_awaited_are_counted_as_such() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, leaf) = (root_of(&handle), issue(&handle, "/web").await);
            let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
            let here = node(&[old, new], &leaf, &[old]);
            let left = Dependent { name: "web-2".into(), presence: Presence::JustLeft, ..here.clone() };
            let away =
                Dependent { name: "web-3".into(), presence: Presence::Away, known: None, ..here.clone() };
            world.dependents.set(vec![here, left, away]);
            let (status, plan) = handle.simulate_root(wish(Step::Activate)).await.unwrap();
            assert!(matches!(plan, rotation::Action::Activate { .. }), "{plan:?}");
            let tally = status.tally;
            assert_eq!((tally.connected, tally.awaited, tally.bundle, tally.holders), (2, 1, 2, 3));
        })
        .await;
}

#[tokio::test]
async fn the_end_of_old_connections_is_told_as_finish_judges_it_when_laggards_are_left_behind() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (old, leaf) = (root_of(&handle), issue(&handle, "/web").await);
            let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
            let here = node(&[old, new], &leaf, &[old]);
            let dead = Dependent { name: "dead".into(), presence: Presence::Away, ..here.clone() };
            world.dependents.set(vec![here, dead.clone()]);
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            let renewed = issue(&handle, "/web").await;
            world.dependents.set(vec![node(&[old, new], &renewed, &[old, new]), dead]);

            let leave = Wish { leave_behind: ["dead".to_owned()].into(), ..wish(Step::Finish) };
            let refused = handle.rotate_root(leave.clone(), asked()).await.unwrap_err();
            let RotateError::Refused(Refusal::Settling { until }) = refused else { panic!("{refused:?}") };
            world.after(100);
            let later = handle.rotate_root(leave, asked()).await.unwrap_err();
            assert_eq!(later.to_string(), RotateError::Refused(Refusal::Settling { until }).to_string());
            let (status, _) = handle.simulate_root(wish(Step::Taint)).await.unwrap();
            assert_eq!((status.laggards.len(), status.settles), (1, Some(until)));
        })
        .await;
}
