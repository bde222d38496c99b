//! Revocation through the whole crate: store, machine, what is published to doors and proxies.

use std::collections::{BTreeMap, BTreeSet};

use certs::{Chain, RevocationReason, Usage};
use spiffe::{RevocationLists, SvidError, verify_svid};

use super::{roots::asked, *};
use crate::{
    Revoke,
    dependents::{Acknowledged, BundleFile, Dependent, Holding, Presence, Reason},
    ports::{ListRecord, RevokeError},
    rotation::{Action as Planned, Step},
};

const WEEK: u64 = 7 * DAY;

impl World {
    /// A deployment whose proxies check against lists that live a week.
    async fn with_lists() -> Self {
        let mut world = Self::uninitialised();
        world.policy.lists = Some(Duration::from_secs(WEEK));
        Manager::initialise(&world.deps(), Actor::Host).await.unwrap();
        world
    }

    fn lists(&self) -> Vec<ListRecord> {
        self.store.kept_lists()
    }
}

fn shown(handle: &Handle, now: Timestamp) -> Option<RevocationLists> {
    handle.trust().borrow().lists().shown(now).cloned()
}

/// The numbers of the lists that proxies are shown.
fn numbers(handle: &Handle, now: Timestamp) -> Vec<u64> {
    shown(handle, now).map(|lists| lists.numbers().into_values().collect()).unwrap_or_default()
}

async fn revoke(handle: &Handle, leaf: &IssuedSvid) -> Result<(), RevokeRefusal> {
    let serial = leaf.chain.leaf().serial().clone();
    let event = Event::done(Timestamp::EPOCH, Actor::Host, Action::CertificateRevoke, serial.to_string());
    let wanted = Revoke { authority: leaf.authority, serial, reason: RevocationReason::KeyCompromise };
    handle.revoke(wanted, event).await.map(drop)
}

fn check(chain: &Chain, handle: &Handle, now: Timestamp) -> Result<(), SvidError> {
    verify_svid(chain, &handle.trust().borrow(), now, Usage::Client).map(drop)
}

/// A connected node that acknowledged these lists and shows this leaf.
fn node(lists: Option<BTreeMap<AuthorityId, u64>>, leaf: &IssuedSvid) -> Dependent {
    let certificate = leaf.chain.leaf();
    let (serial, until) = (Some(certificate.serial().clone()), certificate.not_after());
    let id = TrustDomain::parse("td").unwrap().id("/web").unwrap();
    Dependent {
        name: "web-1".to_owned(),
        presence: Presence::Here,
        known: Some(Acknowledged {
            roots: None,
            lists,
            refusal: None,
            proven: BTreeSet::new(),
            file: BundleFile::Unknown,
        }),
        holds: vec![Holding { id, authority: leaf.authority, serial, until }],
    }
}

async fn until_shown(handle: &Handle, wanted: impl Fn(&Trust) -> bool) {
    let mut trust = handle.trust();
    trust.wait_for(|trust| wanted(trust)).await.unwrap();
}

#[tokio::test]
async fn without_lists_a_revoked_certificate_is_refused_at_our_doors_only() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let (good, bad) = (issue(&handle, "/web").await, issue(&handle, "/web").await);
            check(&bad.chain, &handle, world.clock.now()).unwrap();
            revoke(&handle, &bad).await.unwrap();
            assert_eq!(check(&bad.chain, &handle, world.clock.now()).unwrap_err().rule(), "revoked");
            check(&good.chain, &handle, world.clock.now()).unwrap();
            assert!(matches!(
                revoke(&handle, &bad).await,
                Err(RevokeRefusal::Store(RevokeError::Already(_)))
            ));
            assert_eq!(shown(&handle, world.clock.now()), None);
            assert!(world.lists().is_empty());
        })
        .await;
    let last = world.store.events().pop().unwrap();
    assert_eq!(last.action, Action::CertificateRevoke);
    // The next process knows.
    world
        .life(async |handle| {
            let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
            let revoked = rows.iter().find(|row| row.revoked.is_some()).unwrap();
            let chain = Chain::from_ders(revoked.chain.iter().map(Vec::as_slice)).unwrap();
            assert_eq!(check(&chain, &handle, world.clock.now()).unwrap_err().rule(), "revoked");
            world.after(DAY);
            let late = IssuedSvid { authority: revoked.intent.authority, issued: world.clock.now(), chain };
            assert!(matches!(revoke(&handle, &late).await, Err(RevokeRefusal::Expired(_))));
        })
        .await;
}

#[tokio::test]
async fn a_revoked_certificate_is_listed_when_its_successor_is_in_use() {
    let world = World::with_lists().await;
    world
        .life(async |handle| {
            let now = || world.clock.now();
            assert_eq!(numbers(&handle, now()), [1], "there is a list before anybody asks");
            let (old, new) = (issue(&handle, "/web").await, issue(&handle, "/web").await);
            world.dependents.set(vec![node(Some(BTreeMap::new()), &old)]);
            revoke(&handle, &old).await.unwrap();
            assert!(check(&old.chain, &handle, now()).is_err(), "our doors refuse it at once");
            assert_eq!(numbers(&handle, now()), [1], "its proxy shows it still");
            let unlisted = |status: &CaStatus| status.lists.as_ref().unwrap().unlisted.len();
            assert_eq!(unlisted(&handle.status().borrow().clone()), 1);
            world.dependents.set(vec![node(Some(BTreeMap::new()), &new)]);
            for _ in 0..3 {
                world.clock.advance(Duration::from_millis(250));
                tokio::task::yield_now().await;
            }
            until(&handle, |status| unlisted(status) == 0).await;
            let lists = shown(&handle, now()).unwrap();
            assert_eq!(lists.numbers().into_values().collect::<Vec<_>>(), [2]);
            assert!(lists.all()[0].crl.revokes(old.chain.leaf().serial()));
            assert!(!lists.all()[0].crl.revokes(new.chain.leaf().serial()));

            // A proxy that never acknowledges another holds nothing up for longer than that.
            revoke(&handle, &new).await.unwrap();
            let begun = now();
            while unlisted(&handle.status().borrow().clone()) > 0 {
                world.clock.advance(Duration::from_millis(250));
                tokio::task::yield_now().await;
                assert!(now() <= begun + Duration::from_secs(6));
            }
            assert!(now() >= begun + Duration::from_secs(5));
        })
        .await;
    let numbers: Vec<_> = world.lists().iter().map(|list| list.number).collect();
    assert_eq!(numbers, [1, 2, 3], "each number once");
    // The next process goes on with the same list.
    world.life(async |handle| assert_eq!(numbers_of(&handle, &world), [3])).await;
    assert_eq!(world.lists().len(), 3);
}

fn numbers_of(handle: &Handle, world: &World) -> Vec<u64> {
    numbers(handle, world.clock.now())
}

#[tokio::test]
async fn what_was_revoked_before_a_crash_is_listed_by_the_next_process() {
    let world = World::with_lists().await;
    let leaf = world
        .life(async |handle| {
            let leaf = issue(&handle, "/web").await;
            world.store.fail(Call::KeepList);
            revoke(&handle, &leaf).await.unwrap();
            world.after(5);
            until(&handle, |status| status.lists.as_ref().unwrap().last_failure.is_some()).await;
            leaf
        })
        .await;
    world.store.heal(Call::KeepList);
    world
        .life(async |handle| {
            let lists = shown(&handle, world.clock.now()).unwrap();
            assert!(lists.all()[0].crl.revokes(leaf.chain.leaf().serial()));
        })
        .await;
    let numbers: Vec<_> = world.lists().iter().map(|list| list.number).collect();
    assert_eq!(numbers, [1, 3], "the number of the list that was lost is used no more");
}

#[tokio::test]
async fn lists_are_renewed_at_half_of_their_lives_and_withdrawn_together_before_one_ends() {
    let world = World::with_lists().await;
    world
        .life(async |handle| {
            world.after(WEEK / 2);
            until_shown(&handle, |trust| {
                trust.lists().shown(world.clock.now()).is_some_and(|lists| lists.all()[0].number == 2)
            })
            .await;
            let end = shown(&handle, world.clock.now()).unwrap().end().unwrap();
            assert_eq!(end, world.clock.now() + Duration::from_secs(WEEK));

            // The key does not open any more.
            world.store.fail(Call::LoadKey);
            world.after(WEEK * 3 / 4 - 1);
            until(&handle, |status| status.lists.as_ref().unwrap().last_failure.is_some()).await;
            assert!(shown(&handle, world.clock.now()).is_some(), "fresh enough");
            world.after(1);
            until_shown(&handle, |trust| trust.lists().shown(world.clock.now()).is_none()).await;
            assert_eq!(*handle.trust().borrow().lists(), Lists::Withdrawn);
            let status = handle.status().borrow().clone();
            let status = status.lists.as_ref().unwrap();
            assert!(!status.is_shown && status.withdrawn.is_some(), "{status:?}");

            // They come back by themselves.
            world.store.heal(Call::LoadKey);
            world.after(900);
            until_shown(&handle, |trust| trust.lists().shown(world.clock.now()).is_some()).await;
            assert_eq!(handle.status().borrow().lists.as_ref().unwrap().withdrawn, None);
        })
        .await;
}

#[tokio::test]
async fn the_next_issuing_authority_signs_when_proxies_have_its_list() {
    let world = World::with_lists().await;
    world
        .life(async |handle| {
            let before = issue(&handle, "/web").await;
            let had = shown(&handle, world.clock.now()).unwrap().numbers();
            world.dependents.set(vec![node(Some(had), &before)]);
            let asked = async { handle.rotate_issuing(Actor::Host, "drill").await };
            let look = async {
                until_shown(&handle, |trust| {
                    trust.lists().shown(world.clock.now()).is_some_and(|lists| lists.all().len() == 2)
                })
                .await;
                assert_eq!(issue(&handle, "/web").await.authority, before.authority, "it signs nothing yet");
                for _ in 0..10 {
                    world.after(1);
                    tokio::task::yield_now().await;
                }
            };
            let (refused, ()) = tokio::join!(asked, look);
            let Err(RotateError::Behind { next, laggards, .. }) = &refused else { panic!("{refused:?}") };
            assert_eq!(laggards[0].name, "web-1");
            assert_eq!(laggards[0].reason, Reason::ListNotAcknowledged);
            let records = world.store.load().await.unwrap();
            let waits = records.iter().find(|record| record.state == Prepared).unwrap();
            assert_eq!(*next, waits.id);
            assert!(refused.as_ref().unwrap_err().to_string().contains("when 1 proxy more"), "{refused:?}");
            // Whoever asks again is told how far it is, and nothing else is begun.
            assert_eq!(handle.rotate_issuing(Actor::Host, "again").await, refused);
            assert_eq!(world.store.load().await.unwrap().len(), records.len());

            let both = shown(&handle, world.clock.now()).unwrap().numbers();
            world.dependents.set(vec![node(Some(both), &before)]);
            world.after(1);
            until(&handle, |status| status.active != Some(before.authority)).await;
            let after = issue(&handle, "/web").await;
            assert_ne!(after.authority, before.authority);
            assert_eq!(
                shown(&handle, world.clock.now()).unwrap().all().len(),
                2,
                "the old one's leaves verify"
            );
            // Whoever asked was told to wait, and is named all the same.
            let rows = world.store.events();
            let activated = rows.iter().rfind(|row| row.action == Action::AuthorityActivate).unwrap();
            assert_eq!((&activated.actor, activated.reason.as_str()), (&Actor::Host, "drill"));

            // One that went takes its list along, when no leaf needs it.
            world.after(DAY);
            until(&handle, |status| issuing(status).len() == 1).await;
            assert_eq!(numbers(&handle, world.clock.now()).len(), 1);
            check(&after.chain, &handle, world.clock.now() - Duration::from_secs(DAY)).unwrap();
        })
        .await;
}

#[tokio::test]
async fn what_follows_by_itself_under_another_root_is_on_nobodys_account_who_asked_under_the_one_before() {
    let world = World::with_lists().await;
    world
        .life(async |handle| {
            let before = issue(&handle, "/web").await;
            let had = shown(&handle, world.clock.now()).unwrap().numbers();
            world.dependents.set(vec![node(Some(had), &before)]);
            let asked_for = async { handle.rotate_issuing(Actor::Host, "drill").await };
            let look = async {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                    world.after(1);
                }
            };
            let (refused, ()) = tokio::join!(asked_for, look);
            assert!(matches!(refused, Err(RotateError::Behind { .. })), "{refused:?}");
            // Meanwhile the key is stolen.
            handle.emergency(before.authority, asked()).await.unwrap();
            for _ in 0..30 {
                world.after(5);
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
            }
            let taken_over = issue(&handle, "/web").await.authority;
            assert_ne!(taken_over, before.authority);
            world.dependents.set(Vec::new());
            let rows = world.store.events().len();
            world.after(16 * DAY);
            until(&handle, |status| status.active.is_some_and(|active| active != taken_over)).await;
            let of_authorities =
                [Action::AuthorityPrepare, Action::AuthorityActivate, Action::AuthorityRetire];
            let rows = world.store.events().split_off(rows);
            let rows: Vec<_> = rows.iter().filter(|row| of_authorities.contains(&row.action)).collect();
            assert!(rows.len() > 1 && rows.iter().all(|row| row.actor == Actor::System), "{rows:?}");
        })
        .await;
}

#[tokio::test]
async fn the_next_root_waits_for_the_list_of_what_it_signed() {
    let world = World::with_lists().await;
    world
        .life(async |handle| {
            let wish = |step| Wish { step, leave_behind: BTreeSet::new(), automatic: false, alone: false };
            let asked = || Asked { actor: Actor::Host, reason: "drill".to_owned() };
            let leaf = issue(&handle, "/web").await;
            let old = handle.anchor().borrow().root.unwrap();
            let had = shown(&handle, world.clock.now()).unwrap().numbers();
            let status = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap();
            let new = status.other.unwrap();
            let both = shown(&handle, world.clock.now()).unwrap().numbers();
            assert_eq!(both.len(), 2, "the list comes with the bundle");
            let knows = |lists| {
                let mut node = node(Some(lists), &leaf);
                node.known.as_mut().unwrap().roots = Some([old, new].into());
                vec![node]
            };
            world.dependents.set(knows(had));
            let refused = handle.rotate_root(wish(Step::Activate), asked()).await;
            assert!(matches!(refused, Err(RotateError::Refused(Refusal::Laggards { .. }))), "{refused:?}");
            world.dependents.set(knows(both));
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            let after = issue(&handle, "/web").await;
            assert!(shown(&handle, world.clock.now()).unwrap().numbers().contains_key(&after.authority));
        })
        .await;
}

#[tokio::test]
async fn a_dry_run_is_judged_as_the_step_itself_also_where_lists_stand_in_the_way() {
    let world = World::with_lists().await;
    world
        .life(async |handle| {
            let wish = |step| Wish { step, leave_behind: BTreeSet::new(), automatic: false, alone: false };
            let asked = || Asked { actor: Actor::Host, reason: "drill".to_owned() };
            let (status, plan) = handle.simulate_root(wish(Step::Prepare)).await.unwrap();
            assert_eq!((plan, status.other), (Planned::Prepare { automatic: false, alone: false }, None));
            let old = handle.anchor().borrow().root.unwrap();
            let new = handle.rotate_root(wish(Step::Prepare), asked()).await.unwrap().other.unwrap();
            handle.rotate_root(wish(Step::Activate), asked()).await.unwrap();
            let (_, plan) = handle.simulate_root(wish(Step::Rollback)).await.unwrap();
            assert_eq!(plan, Planned::Return { old, new });
            // What it could sign again by has gone, and proxies have no list of another.
            world.after(2 * DAY);
            until(&handle, |status| issuing(status).len() == 1).await;
            let simulated = handle.simulate_root(wish(Step::Rollback)).await.map(drop);
            let failed = handle.rotate_root(wish(Step::Rollback), asked()).await.map(drop);
            assert!(
                matches!(&failed, Err(RotateError::Failed(why)) if why.contains("revocation list")),
                "{failed:?}"
            );
            assert_eq!(simulated, failed);
        })
        .await;
}
