use certs::Validity;

use super::*;
use crate::{
    clock::{State, Why},
    rotation::Step,
};

#[tokio::test]
async fn nothing_but_our_own_certificate_is_signed_while_the_clock_is_wrong() {
    let world = World::new().await;
    let (time, reading) = watch::channel(Reading::default());
    let manager = Manager::open(world.deps()).await.unwrap().minding(reading);
    let handle = manager.handle();
    let asked = || Asked { actor: Actor::Host, reason: String::new() };
    let authority = active(&world.store.load().await.unwrap(), Place::Issuing).unwrap().id;
    let body = async {
        issue(&handle, "/web").await;
        for why in [Why::Stepped, Why::Behind { newest: world.clock.now() }] {
            let since = world.clock.now();
            time.send_replace(Reading { state: State::Stopped { why, since }, skew_millis: -90_000 });
            for (path, purpose) in [
                ("/web", Purpose::Renewal),
                ("/credence/node/web-1", Purpose::NodeRenewal),
                ("/credence/operator/ann", Purpose::Operator),
            ] {
                let answer = handle.issue(request(path, purpose)).await;
                let Err(IssueError::Unavailable(words)) = answer else { panic!("{path}: {answer:?}") };
                assert!(words.contains("NTP"), "{words}");
            }
            // Without it nobody could connect to look.
            handle.issue(request("/credence/server", Purpose::Server)).await.unwrap();
            let rotated = handle.rotate_issuing(Actor::Host, "").await;
            assert!(matches!(rotated, Err(RotateError::Failed(_))), "{rotated:?}");
            for step in [Step::Prepare, Step::Activate, Step::Finish] {
                let wish = Wish { step, leave_behind: BTreeSet::new(), automatic: false, alone: false };
                let simulated = handle.simulate_root(wish.clone()).await.map(drop);
                let rotated = handle.rotate_root(wish, asked()).await;
                assert_eq!(
                    simulated,
                    rotated.clone().map(drop),
                    "asked about it is what it is when it is done"
                );
                assert!(
                    matches!(&rotated, Err(RotateError::Failed(why)) if why.contains("NTP")),
                    "{rotated:?}"
                );
            }
            for answer in
                [handle.simulate_emergency(authority).await, handle.emergency(authority, asked()).await]
            {
                assert!(matches!(answer, Err(RotateError::Failed(_))), "{answer:?}");
            }
        }
        // A little off is an alarm and no more.
        time.send_replace(Reading { state: State::Drifting, skew_millis: 5000 });
        issue(&handle, "/web").await;
        handle.rotate_issuing(Actor::Host, "").await.unwrap();
    };
    tokio::select! {
        () = Box::pin(manager.run(Arc::new(world.dependents.clone()), CancellationToken::new())) => unreachable!("nothing shuts it down"),
        () = Box::pin(body) => {}
    }
    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 4, "what was not signed was not intended either");
}

#[tokio::test]
async fn our_own_certificate_is_good_by_a_clock_that_is_behind_as_well_as_by_the_time_to_go_by() {
    let world = World::new().await;
    let (time, reading) = watch::channel(Reading::default());
    let manager = Manager::open(world.deps()).await.unwrap().minding(reading);
    let handle = manager.handle();
    world.after(3 * DAY);
    let (now, since) = (world.clock.now(), world.clock.now());
    let hours = |hours: i64| hours * 3_600_000;
    let body = async {
        let check = async |state: State, skew_millis: i64, begins_by: i64, lives: u64| {
            time.send_replace(Reading { state, skew_millis });
            let asked = SvidRequest {
                lifetime: Duration::from_secs(12 * 3600),
                ..request("/credence/server", Purpose::Server)
            };
            let leaf = handle.issue(asked).await.unwrap().chain.leaf().clone();
            let backdate = i64::try_from(Validity::BACKDATE.as_millis()).unwrap();
            assert_eq!(leaf.not_before().millis_since(now), begins_by - backdate, "{skew_millis}");
            assert_eq!(leaf.not_after().since(now), Duration::from_secs(lives * 3600), "{skew_millis}");
        };
        for why in [Why::Stepped, Why::Behind { newest: now }] {
            let stopped = State::Stopped { why, since };
            check(stopped, hours(-1), hours(-1), 12).await;
            check(stopped, hours(-12), hours(-12), 12).await;
            // No certificate of a server lives for longer than a day.
            check(stopped, hours(-18), hours(-18), 6).await;
            // Too far apart to be good by both: then by the one that everything else goes by.
            check(stopped, hours(-19), 0, 12).await;
            check(stopped, hours(-24 * 365), 0, 12).await;
            // Never for the future, and so for nobody who sets the clock ahead.
            check(stopped, hours(1), 0, 12).await;
        }
        check(State::Drifting, -20_000, 0, 12).await;
        check(State::Good, hours(-1), 0, 12).await;
    };
    tokio::select! {
        () = Box::pin(manager.run(Arc::new(world.dependents.clone()), CancellationToken::new())) => unreachable!("nothing shuts it down"),
        () = Box::pin(body) => {}
    }
}

#[tokio::test]
async fn no_authority_is_made_by_itself_while_the_clock_is_wrong_and_lists_are_made_all_the_same() {
    let mut world = World::new().await;
    world.policy.lists = Some(Duration::from_secs(7 * DAY));
    let since = world.clock.now();
    let stopped = Reading { state: State::Stopped { why: Why::Stepped, since }, skew_millis: 90_000 };
    let (time, reading) = watch::channel(stopped);
    let manager = Manager::open(world.deps()).await.unwrap().minding(reading);
    let handle = manager.handle();
    let body = async {
        world.after(15 * DAY);
        // The list is renewed at half of its life; the authority would be at half of its own.
        let is_renewed = |status: &CaStatus| status.lists.as_ref().unwrap().lists[0].made > since;
        let status = until(&handle, |status| status.last_failure.is_some() && is_renewed(status)).await;
        assert!(status.last_failure.as_ref().unwrap().contains("NTP"), "{status:?}");
        assert_eq!(world.states().await, [Active]);
        time.send_replace(Reading::default());
        world.after(3600);
        until(&handle, |status| issuing(status).len() == 2).await;
    };
    tokio::select! {
        () = Box::pin(manager.run(Arc::new(world.dependents.clone()), CancellationToken::new())) => unreachable!("nothing shuts it down"),
        () = Box::pin(body) => {}
    }
}
