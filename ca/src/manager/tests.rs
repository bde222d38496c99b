use std::time::Duration;

use certs::{Certificate, KeyKind, ManualClock, SecretKey, Timestamp};
use spiffe::{Purpose, Spend, TokenRefusal, TokenSpend, TrustDomain};

use super::*;
use crate::{
    AuthorityStatus,
    policy::Lifetimes,
    ports::{CertificateFilter, CertificateState},
    testing::{Call, FakeDependents, MemoryStore, request},
};

const DAY: u64 = 86_400;

#[derive(Debug, Default)]
struct Heard(std::sync::Mutex<Vec<Event>>);

impl Refusals for Heard {
    fn refuse(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// What outlives a process.
struct World {
    store: MemoryStore,
    clock: ManualClock,
    heard: Arc<Heard>,
    policy: Policy,
    dependents: FakeDependents,
}

impl World {
    fn uninitialised() -> Self {
        let trust_domain = TrustDomain::parse("td").unwrap();
        Self {
            store: MemoryStore::new(),
            clock: ManualClock::new(Timestamp::from_unix_secs(1_800_000_000)),
            heard: Arc::default(),
            policy: Policy {
                trust_domain,
                lifetimes: Lifetimes::default(),
                max_connection: Duration::from_secs(3600),
                lists: None,
                dev: false,
            },
            dependents: FakeDependents::default(),
        }
    }

    async fn new() -> Self {
        let world = Self::uninitialised();
        Manager::initialise(&world.deps(), Actor::Host).await.unwrap();
        world
    }

    fn deps(&self) -> Deps {
        Deps {
            authorities: Arc::new(self.store.clone()),
            journal: Arc::new(self.store.clone()),
            revocations: Arc::new(self.store.clone()),
            clock: Arc::new(self.clock.clone()),
            refusals: Arc::clone(&self.heard) as Arc<dyn Refusals>,
            policy: self.policy.clone(),
            epoch: 1,
        }
    }

    /// One life of the process: runs a manager while `body` goes on, and kills it after.
    async fn life<T>(&self, body: impl AsyncFnOnce(Handle) -> T) -> T {
        let manager = Manager::open(self.deps()).await.unwrap();
        let handle = manager.handle();
        tokio::select! {
            () = Box::pin(manager.run(Arc::new(self.dependents.clone()), CancellationToken::new())) => unreachable!("nothing shuts it down"),
            result = body(handle) => result,
        }
    }

    fn after(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    async fn states(&self) -> Vec<AuthorityState> {
        self.store
            .load()
            .await
            .unwrap()
            .iter()
            .filter(|record| record.place == Place::Issuing)
            .map(|record| record.state)
            .collect()
    }
}

/// Waits until the published status is as `wanted`.
async fn until(handle: &Handle, wanted: impl Fn(&CaStatus) -> bool) -> Arc<CaStatus> {
    let mut status = handle.status();
    Arc::clone(&*status.wait_for(|status| wanted(status)).await.unwrap())
}

fn issuing(status: &CaStatus) -> Vec<&AuthorityStatus> {
    status.authorities.iter().filter(|authority| authority.place == Place::Issuing).collect()
}

async fn issue(handle: &Handle, path: &str) -> IssuedSvid {
    handle.issue(request(path, Purpose::Delivery)).await.unwrap()
}

mod brought;
mod clock;
mod lists;
mod profiles;
mod roots;

use AuthorityState::{Active, Prepared, Removed, Retired};

#[tokio::test]
async fn init_makes_a_root_and_an_issuing_authority_once() {
    let world = World::uninitialised();
    assert!(matches!(Manager::open(world.deps()).await, Err(OpenError::NotInitialised)));
    let records = Manager::initialise(&world.deps(), Actor::Host).await.unwrap();
    let kinds: Vec<_> = records
        .iter()
        .map(|record| certs::PublicKey::from_spki_der(record.certificate.spki_der()).unwrap().kind())
        .collect();
    assert_eq!(kinds, [KeyKind::P384, KeyKind::P256]);
    assert_eq!(records[1].parent, Some(records[0].id));
    let actions: Vec<_> = world.store.events().iter().map(|event| event.action).collect();
    let (prepare, activate) = (Action::AuthorityPrepare, Action::AuthorityActivate);
    assert_eq!(actions, [Action::Init, prepare, activate, prepare, activate]);
    let again = Manager::initialise(&world.deps(), Actor::Host).await;
    assert!(matches!(again, Err(OpenError::AlreadyInitialised(_))));

    let mut other = world.deps();
    other.policy.trust_domain = TrustDomain::parse("other").unwrap();
    assert!(matches!(Manager::open(other).await, Err(OpenError::WrongTrustDomain { .. })));
    let mut hasty = world.deps();
    hasty.policy.lifetimes.workload = Duration::from_secs(5);
    assert!(matches!(Manager::open(hasty).await, Err(OpenError::Policy { .. })));
}

#[tokio::test]
async fn the_issuing_authority_is_replaced_at_half_life_and_goes_when_its_last_leaf_has_expired() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let first = issue(&handle, "/web").await;
            let root = handle.trust().borrow().own().clone();
            world.after(15 * DAY - 3600);
            let late = issue(&handle, "/late").await;
            assert_eq!(late.authority, first.authority);

            let mut active = handle.active();
            active.mark_unchanged();
            world.after(3600);
            active.changed().await.unwrap();
            let next = issue(&handle, "/web").await;
            assert_eq!(Some(next.authority), active.borrow().map(|active| active.id));
            assert_ne!(next.authority, first.authority);
            let keys = |svid: &IssuedSvid| svid.chain.intermediates()[0].spki_hash();
            assert_ne!(keys(&next), keys(&late), "a new key");
            assert_eq!(*handle.trust().borrow().own(), root, "the bundle stays as it was");

            world.after(120);
            let status = until(&handle, |status| issuing(status)[0].leaves.is_some()).await;
            assert_eq!(issuing(&status)[0].state, Retired);
            assert_eq!(issuing(&status)[0].leaves.unwrap().last, Some(late.chain.leaf().not_after()));
            // 11 hours later the leaf ends; two clock allowances later its authority goes.
            world.after(11 * 3600);
            tokio::task::yield_now().await;
            assert_eq!(world.states().await, [Retired, Active]);
            assert_eq!(world.store.key_count(), 3);
            let judged =
                |svid: &IssuedSvid| roots::check(&svid.chain, &handle.trust().borrow().clone(), svid.issued);
            assert_eq!((judged(&late), judged(&next)), (Ok(()), Ok(())));
            world.after(1);
            until(&handle, |status| issuing(status).len() == 1).await;
            assert_eq!(judged(&late).unwrap_err().rule(), "strange-issuer", "it is ours no more");
            assert_eq!(judged(&next), Ok(()));
            assert_eq!(world.states().await, [Removed, Active]);
            assert_eq!(world.store.key_count(), 2, "its key is destroyed");
        })
        .await;
    let actions: Vec<_> = world
        .store
        .events()
        .iter()
        .map(|event| event.action)
        .filter(|a| a.word().starts_with("auth"))
        .collect();
    assert_eq!(
        actions[4..],
        [
            Action::AuthorityPrepare,
            Action::AuthorityActivate,
            Action::AuthorityRetire,
            Action::AuthorityRemove
        ]
    );
}

#[tokio::test]
async fn an_operator_rotates_now_and_hears_why_not() {
    let world = World::new().await;
    let operator = || Actor::Identity { id: world.policy.trust_domain.operator_id("ann").unwrap() };
    world
        .life(async |handle| {
            let before = issue(&handle, "/web").await;
            let new = handle.rotate_issuing(operator(), "drill").await.unwrap();
            assert_eq!(handle.active().borrow().map(|active| active.id), Some(new));
            let after = issue(&handle, "/web").await;
            assert_eq!((before.authority == new, after.authority), (false, new));
            let events = world.store.events();
            let activate = events.iter().rev().find(|e| e.action == Action::AuthorityActivate).unwrap();
            assert_eq!((&activate.actor, activate.reason.as_str()), (&operator(), "drill"));

            for call in [Call::Insert, Call::Transition, Call::LoadKey] {
                world.store.fail(call);
                let answer = handle.rotate_issuing(operator(), "drill").await;
                assert!(matches!(answer, Err(RotateError::Failed(_))), "{call:?}: {answer:?}");
                assert!(handle.status().borrow().last_failure.is_some());
                assert_eq!(issue(&handle, "/web").await.authority, new, "the old one signs on");
                world.store.heal(call);
            }
            handle.rotate_issuing(operator(), "drill").await.unwrap();
            assert_eq!(handle.status().borrow().last_failure, None);
        })
        .await;
}

#[tokio::test]
async fn a_new_process_goes_on_wherever_the_last_one_ended() {
    let world = World::new().await;
    let first = world.life(async |handle| issue(&handle, "/web").await).await;

    // It ended between preparing and activating: the prepared one is used.
    world.store.fail(Call::Transition);
    world.life(async |handle| handle.rotate_issuing(Actor::Host, "x").await.unwrap_err()).await;
    assert_eq!(world.states().await, [Active, Prepared]);
    world.store.heal(Call::Transition);
    world
        .life(async |handle| {
            until(&handle, |status| status.active != Some(first.authority)).await;
            assert_eq!(world.states().await, [Retired, Active]);
        })
        .await;

    // It ended while one was retired: that is kept as long as its leaf lives, and no longer.
    world.after(3600);
    world
        .life(async |handle| {
            until(&handle, |status| issuing(status)[0].leaves.is_some()).await;
            assert_eq!(world.states().await, [Retired, Active]);
        })
        .await;
    world.after(12 * 3600);
    world
        .life(async |handle| {
            until(&handle, |status| issuing(status).len() == 1).await;
            assert_eq!(world.states().await, [Removed, Active]);
        })
        .await;

    // It ended after a removal, and was away past half of the life of the next: one signs all the same.
    world.after(20 * DAY);
    let before = world
        .life(async |handle| {
            until(&handle, |status| issuing(status).len() == 2).await;
            assert_eq!(world.states().await, [Removed, Retired, Active]);
            issue(&handle, "/web").await.authority
        })
        .await;

    // Away until every issuing authority had expired: nothing is lost but time.
    world.after(100 * DAY);
    world
        .life(async |handle| {
            until(&handle, |status| status.active != Some(before)).await;
            assert_ne!(issue(&handle, "/web").await.authority, before);
        })
        .await;
}

#[tokio::test]
async fn when_no_successor_can_be_made_the_old_one_stops_in_time() {
    let world = World::new().await;
    world
        .life(async |handle| {
            world.store.fail(Call::Insert);
            world.after(29 * DAY - 60);
            until(&handle, |status| status.last_failure.is_some()).await;
            issue(&handle, "/web").await;
            world.after(120);
            let late = handle.issue(request("/web", Purpose::Delivery)).await;
            assert!(matches!(late, Err(IssueError::Unavailable(_))), "{late:?}");
            world.store.heal(Call::Insert);
            world.after(900);
            until(&handle, |status| status.last_failure.is_none()).await;
            issue(&handle, "/web").await;
        })
        .await;
}

#[tokio::test]
async fn what_the_store_says_wins_over_what_the_process_remembers() {
    let world = World::new().await;
    world
        .life(async |stale| {
            let new = world.life(async |other| other.rotate_issuing(Actor::Host, "x").await.unwrap()).await;
            assert_ne!(stale.active().borrow().map(|active| active.id), Some(new));
            assert!(stale.rotate_issuing(Actor::Host, "y").await.is_err());
            until(&stale, |status| status.active == Some(new)).await;
            assert_eq!(issue(&stale, "/web").await.authority, new);
            stale.rotate_issuing(Actor::Host, "z").await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_join_token_is_spent_once_and_answers_the_same_key_with_the_same_certificate() {
    let world = World::new().await;
    world.store.add_token("tok", world.clock.now() + Duration::from_secs(600));
    let enrol = |key: &SecretKey| {
        let mut asked = request("/credence/node/web-1", Purpose::Enrolment);
        asked.public_key = key.public().clone();
        asked.spend =
            Some(Spend::Token(TokenSpend { token_id: "tok".to_owned(), spki: key.public().hash() }));
        asked
    };
    let (mine, thief) = (SecretKey::generate(KeyKind::P256), SecretKey::generate(KeyKind::P256));
    world
        .life(async |handle| {
            let racing = (0..16).map(|_| handle.issue(enrol(&mine)));
            let answers = futures::future::join_all(racing).await;
            let serial = |svid: &IssuedSvid| svid.chain.leaf().serial().clone();
            let mut serials = BTreeSet::new();
            let mut fresh = 0;
            for answer in answers {
                match answer {
                    Ok(svid) => {
                        fresh += 1;
                        serials.insert(serial(&svid));
                    }
                    Err(IssueError::AlreadyIssued(svid)) => {
                        serials.insert(serial(&svid));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!((fresh, serials.len()), (1, 1));
            let rows = world.store.events();
            let row = rows.iter().rfind(|row| row.action == Action::NodeEnrol).unwrap();
            assert_eq!(
                (row.object.as_str(), &row.details["token_id"]),
                ("spiffe://td/credence/node/web-1", &"tok".to_owned())
            );
            let theft = handle.issue(enrol(&thief)).await;
            assert_eq!(theft.unwrap_err(), IssueError::Token(TokenRefusal::Spent));
        })
        .await;
}

#[tokio::test]
async fn refusals_are_heard_and_leave_no_row_in_the_journal() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let mut asked = request("/web", Purpose::Delivery);
            asked.lifetime = Duration::from_secs(30 * DAY);
            assert!(matches!(handle.issue(asked).await, Err(IssueError::Refused(_))));
            // The key of an authority that was replaced long ago is refused still.
            let old: Certificate = world.store.load().await.unwrap()[1].certificate.clone();
            handle.rotate_issuing(Actor::Host, "x").await.unwrap();
            let mut asked = request("/web", Purpose::Delivery);
            asked.public_key = certs::PublicKey::from_spki_der(old.spki_der()).unwrap();
            assert!(matches!(handle.issue(asked).await, Err(IssueError::Refused(_))));
        })
        .await;
    let heard = std::mem::take(&mut *world.heard.0.lock().unwrap());
    assert_eq!(heard.len(), 2);
    assert!(heard.iter().all(|event| event.object == "spiffe://td/web"));
    assert!(world.store.certificates(&CertificateFilter::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_crash_between_intent_and_result_leaves_a_row_of_unknown_outcome_that_holds_its_authority() {
    let world = World::new().await;
    world.store.fail(Call::Result);
    world
        .life(async |handle| {
            let answer = handle.issue(request("/web", Purpose::Delivery)).await;
            assert!(matches!(answer, Err(IssueError::Unavailable(_))));
            handle.rotate_issuing(Actor::Host, "x").await.unwrap();
        })
        .await;
    world.store.heal(Call::Result);
    world.after(3600);
    world
        .life(async |handle| {
            until(&handle, |status| issuing(status)[0].leaves.is_some_and(|leaves| leaves.count == 1)).await;
            let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
            assert_eq!(rows[0].state, CertificateState::Unknown);
            assert!(rows[0].chain.is_empty());
        })
        .await;
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let world = World::new().await;
    world
        .life(async |handle| {
            let asked =
                (0..300).map(|number| handle.issue(request(&format!("/w{number}"), Purpose::Delivery)));
            let answers = futures::future::join_all(asked).await;
            assert!(answers.iter().all(Result::is_ok));
        })
        .await;
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way_and_turns_the_rest_away() {
    let world = World::new().await;
    let manager = Manager::open(world.deps()).await.unwrap();
    let handle = manager.handle();
    let shutdown = CancellationToken::new();
    let asked = (0..200).map(|number| handle.issue(request(&format!("/w{number}"), Purpose::Delivery)));
    let stop = async {
        tokio::task::yield_now().await;
        shutdown.cancel();
    };
    let ((), answers, ()) = tokio::join!(
        manager.run(Arc::new(FakeDependents::default()), shutdown.clone()),
        futures::future::join_all(asked),
        stop
    );
    let issued = answers.iter().filter(|answer| answer.is_ok()).count();
    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.state == CertificateState::Issued).count(), issued);
    assert!(rows.iter().all(|row| row.state == CertificateState::Issued), "nothing is left half-way");
    assert!(matches!(
        handle.issue(request("/web", Purpose::Delivery)).await,
        Err(IssueError::Unavailable(_))
    ));
    assert_eq!(handle.rotate_issuing(Actor::Host, "x").await, Err(RotateError::Unavailable));
}

#[test]
fn a_manager_can_be_run_by_a_server_of_many_threads() {
    fn spawnable<T: Send + 'static>(_: fn(Manager, Arc<dyn Dependents>, CancellationToken) -> T) {}
    spawnable(Manager::run);
}

#[tokio::test]
async fn status_reads_back_from_json() {
    let world = World::new().await;
    let manager = Manager::open(world.deps()).await.unwrap();
    let status = manager.handle().status().borrow().clone();
    assert_eq!(status.authorities.len(), 2);
    assert!(status.next_rotation.is_some());
    let text = serde_json::to_string(&*status).unwrap();
    assert_eq!(serde_json::from_str::<CaStatus>(&text).unwrap(), *status);
}
