use certs::SpkiHash;
use spiffe::{SpiffeId, TrustDomain};

use super::*;
use crate::dependents::{Acknowledged, BundleFile, Holding, Presence, Reason};

const DAY: u64 = 86_400;
const MAX_CONNECTION: u64 = 3_600;

fn id(number: u32) -> AuthorityId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    AuthorityId::of(SpkiHash(key))
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
}

fn settings() -> Settings {
    Settings { max_connection: Duration::from_secs(MAX_CONNECTION), retry: Duration::from_secs(60) }
}

fn root(number: u32, state: AuthorityState, created: u64) -> Root {
    Root {
        id: id(number),
        state,
        created: at(created),
        not_after: at(created + 360 * DAY),
        retired: None,
        tainted: None,
        stolen: None,
        automatic: true,
    }
}

fn authority_one() -> AuthorityId {
    id(1)
}

fn workload(name: &str) -> SpiffeId {
    TrustDomain::parse("td").unwrap().id(&format!("/{name}")).unwrap()
}

/// A connected node that acknowledged `trusts`, shows a leaf of `shows`, and proved itself under `proven`.
fn node(name: &str, trusts: &[u32], shows: u32, proven: &[u32]) -> Dependent {
    let ids = |numbers: &[u32]| numbers.iter().map(|number| id(*number)).collect::<BTreeSet<_>>();
    Dependent {
        name: name.to_owned(),
        presence: Presence::Here,
        known: Some(Acknowledged {
            roots: Some(ids(trusts)),
            lists: None,
            refusal: None,
            proven: ids(proven),
            file: BundleFile::Unknown,
        }),
        holds: vec![Holding { id: workload(name), authority: id(shows), serial: None, until: at(400 * DAY) }],
    }
}

fn offline(name: &str, holds: u32, until: u64) -> Dependent {
    let holds = vec![Holding { id: workload(name), authority: id(holds), serial: None, until: at(until) }];
    Dependent { name: name.to_owned(), presence: Presence::Away, known: None, holds }
}

fn seen<'a>(dependents: &'a [Dependent], of_old: &'a BTreeSet<AuthorityId>) -> Observed<'a> {
    Observed {
        dependents,
        of_old,
        has_root_key: true,
        can_sign: true,
        can_return: true,
        has_way_back: true,
        is_paused: false,
        is_clock_stopped: false,
    }
}

fn wish(step: Step) -> Wish {
    Wish { step, leave_behind: BTreeSet::new(), automatic: false, alone: false }
}

fn leaving(step: Step, names: &[&str]) -> Wish {
    Wish { leave_behind: names.iter().map(|name| (*name).to_owned()).collect(), ..wish(step) }
}

fn one() -> BTreeSet<AuthorityId> {
    BTreeSet::from([id(1)])
}

fn prepared(automatic: bool) -> Rotation {
    let next = Root { automatic, ..root(2, AuthorityState::Prepared, 10) };
    Rotation::resume(settings(), vec![root(1, AuthorityState::Active, 0), next])
}

fn activated(automatic: bool, at_secs: u64) -> Rotation {
    let old = Root { retired: Some(at(at_secs)), ..root(1, AuthorityState::Retired, 0) };
    Rotation::resume(settings(), vec![old, Root { automatic, ..root(2, AuthorityState::Active, 10) }])
}

#[test]
fn prepares_by_itself_at_half_of_a_roots_life_and_not_before() {
    let mut machine = Rotation::resume(settings(), vec![root(1, AuthorityState::Active, 0)]);
    let old = one();
    assert_eq!(machine.deadline(), Some(at(180 * DAY)));
    assert_eq!(machine.step(Event::Tick, seen(&[], &old), at(180 * DAY - 1)), []);
    let actions = machine.step(Event::Tick, seen(&[], &old), at(180 * DAY));
    assert_eq!(actions, [Action::Prepare { automatic: true, alone: false }]);
    assert_eq!(machine.deadline(), None, "one action at a time");
    assert_eq!(machine.step(Event::Failed, seen(&[], &old), at(180 * DAY)), []);
    assert_eq!(machine.deadline(), Some(at(180 * DAY + 60)));
    // Each failure is followed by a longer pause, though the roots are read again before each try.
    let again = vec![root(1, AuthorityState::Active, 0)];
    for (failed, next) in [(60, 180), (180, 420), (420, 900)] {
        let (failed, next) = (at(180 * DAY + failed), at(180 * DAY + next));
        machine.step(Event::Kept(again.clone()), seen(&[], &old), failed);
        assert_eq!(machine.step(Event::Tick, seen(&[], &old), failed).len(), 1);
        machine.step(Event::Failed, seen(&[], &old), failed);
        assert_eq!(machine.deadline(), Some(next));
        // Nor does reading them in between bring the next try forward.
        machine.step(Event::Kept(again.clone()), seen(&[], &old), failed);
        assert_eq!(machine.deadline(), Some(next));
    }
    // A step that is done begins anew.
    machine.step(Event::Kept(prepared(true).roots), seen(&[], &old), at(180 * DAY + 901));
    machine.step(Event::Failed, seen(&[], &old), at(180 * DAY + 902));
    assert_eq!(machine.deadline(), Some(at(180 * DAY + 962)));
    // Without the root's key, or while it is paused, nothing is begun; an operator hears why, and may bring one.
    let mut machine = Rotation::resume(settings(), vec![root(1, AuthorityState::Active, 0)]);
    let offline = Observed { has_root_key: false, ..seen(&[], &old) };
    assert_eq!(machine.step(Event::Tick, offline, at(200 * DAY)), []);
    let refused = machine.step(Event::Wanted(wish(Step::Prepare)), offline, at(200 * DAY));
    assert_eq!(refused, [Action::Refuse(Refusal::NoRootKey)]);
    let alone = Event::Wanted(Wish { alone: true, ..wish(Step::Prepare) });
    let begun = machine.clone().step(alone, offline, at(200 * DAY));
    assert_eq!(begun, [Action::Prepare { automatic: false, alone: true }]);
    let paused = Observed { is_paused: true, ..seen(&[], &old) };
    assert_eq!(machine.step(Event::Tick, paused, at(201 * DAY)), []);
    assert_eq!(machine.step(Event::Tick, paused, at(270 * DAY)), [Action::AtRisk]);
    assert_eq!(machine.step(Event::Tick, paused, at(271 * DAY)), [], "said once");
    assert!(machine.is_at_risk());
}

#[test]
fn activation_waits_for_every_node_that_is_served_and_for_no_other() {
    let old = one();
    let activate = |left_behind| Action::Activate { new: id(2), old: id(1), left_behind };
    let behind = [node("a", &[1, 2], 1, &[]), node("b", &[1], 1, &[]), offline("c", 1, 400 * DAY)];
    let mut machine = prepared(false);
    let laggard = Laggard { name: "b".into(), is_connected: true, reason: Reason::BundleNotAcknowledged };
    let refusal =
        Refusal::Laggards { step: Step::Activate, laggards: vec![laggard.clone()], needless: vec![] };
    let wanted = |wish| Event::Wanted(wish);
    let now = at(100);
    assert_eq!(
        machine.step(wanted(wish(Step::Activate)), seen(&behind, &old), now),
        [Action::Refuse(refusal)]
    );
    // Somebody who is in nobody's way may be named too, and is not left behind by it.
    let more = leaving(Step::Activate, &["b", "z"]);
    assert_eq!(machine.needless(&more, seen(&behind, &old), now), ["z"]);
    assert_eq!(machine.needless(&leaving(Step::Rollback, &["b"]), seen(&behind, &old), now), ["b"]);
    let only = leaving(Step::Activate, &["z"]);
    let misspelled = machine.judge(&only, seen(&behind, &old), now).unwrap_err();
    assert_eq!(misspelled.to_string(), "activate waits for 1 that would break; z is not among them");
    assert_eq!(machine.step(wanted(more), seen(&behind, &old), now), [activate(vec![laggard.clone()])]);
    assert_eq!(
        machine.step(wanted(wish(Step::Rollback)), seen(&behind, &old), now),
        [Action::Refuse(Refusal::Busy)]
    );
    // By itself only where it was begun by itself.
    let ready = [node("a", &[1, 2], 1, &[]), offline("c", 1, 400 * DAY)];
    assert_eq!(prepared(false).step(Event::Tick, seen(&ready, &old), now), []);
    assert_eq!(prepared(true).step(Event::Tick, seen(&ready, &old), now), [activate(Vec::new())]);
    assert_eq!(prepared(true).step(Event::Tick, seen(&behind, &old), now), []);
    // Whose connection has just broken is where it was, and of whom the process before served nobody knows yet.
    let gone =
        |name: &str, trusts: &[u32]| Dependent { presence: Presence::JustLeft, ..node(name, trusts, 1, &[]) };
    assert_eq!(prepared(true).step(Event::Tick, seen(&[gone("d", &[1])], &old), now), []);
    assert_eq!(
        prepared(true).step(Event::Tick, seen(&[gone("d", &[1, 2])], &old), now),
        [activate(Vec::new())]
    );
    let expected = [Dependent { presence: Presence::Expected, ..offline("d", 1, 400 * DAY) }];
    assert_eq!(prepared(true).step(Event::Tick, seen(&expected, &old), now), []);
    let laggards = vec![Laggard { name: "d".into(), is_connected: false, reason: Reason::NotBack }];
    assert_eq!(
        prepared(false).step(wanted(wish(Step::Activate)), seen(&expected, &old), now),
        [Action::Refuse(Refusal::Laggards { step: Step::Activate, laggards, needless: vec![] })]
    );
    // A node that asked for no bundle cannot be broken by one.
    let mut none = node("d", &[], 1, &[]);
    none.known.as_mut().unwrap().roots = None;
    assert_eq!(prepared(true).step(Event::Tick, seen(&[none], &old), now), [activate(Vec::new())]);
    // Stuck at 75 % it is at risk; at 90 % it goes on with the laggards named, whoever began it.
    let mut machine = prepared(false);
    assert_eq!(machine.step(Event::Tick, seen(&behind, &old), at(270 * DAY)), [Action::AtRisk]);
    assert_eq!(machine.step(Event::Tick, seen(&behind, &old), at(323 * DAY)), []);
    assert_eq!(machine.step(Event::Tick, seen(&behind, &old), at(324 * DAY)), [activate(vec![laggard])]);
}

#[test]
fn tells_since_when_a_step_waits_for_laggards() {
    let old = one();
    let (behind, ready) = ([node("a", &[1], 1, &[])], [node("a", &[1, 2], 1, &[])]);
    let mut machine = prepared(false);
    let mut check = |now: u64, nodes: &[Dependent], expected: Option<(Step, u64)>| {
        machine.step(Event::Tick, seen(nodes, &old), at(now));
        let barrier = machine.barrier().map(|barrier| (barrier.step, barrier.since));
        assert_eq!(barrier, expected.map(|(step, since)| (step, at(since))), "at {now}");
    };
    check(100, &behind, Some((Step::Activate, 100)));
    check(200, &behind, Some((Step::Activate, 100)));
    check(300, &ready, None);
    check(400, &behind, Some((Step::Activate, 400)));
    // What nobody could see tells nothing; another phase begins anew.
    machine.step(Event::Blind, seen(&[], &old), at(450));
    assert_eq!(machine.barrier().map(|barrier| barrier.since), Some(at(400)));
    let roots = activated(false, 460).roots;
    machine.step(Event::Kept(roots), seen(&ready, &old), at(460));
    assert_eq!(machine.barrier(), None);
    machine.step(Event::Tick, seen(&ready, &old), at(500));
    assert_eq!(machine.barrier(), Some(Barrier { step: Step::Finish, since: at(500) }));
}

#[test]
fn where_nobody_vouches_for_us_activation_waits_for_every_node_that_would_not_know_us() {
    let (old, now) = (one(), at(100));
    let with = |file| {
        let mut node = node("a", &[1, 2], 1, &[]);
        node.known.as_mut().unwrap().file = file;
        node
    };
    let away = |id: &str, until: u64| Dependent {
        name: "away".to_owned(),
        presence: Presence::Away,
        known: None,
        holds: vec![Holding { id: workload(id), authority: authority_one(), serial: None, until: at(until) }],
    };
    let check = |dependent: Dependent, expected: Option<Reason>| {
        let all = [dependent];
        let observed = Observed { has_way_back: false, ..seen(&all, &old) };
        let reasons: Vec<Reason> =
            prepared(false).behind(observed, now).into_iter().map(|laggard| laggard.reason).collect();
        assert_eq!(reasons, expected.into_iter().collect::<Vec<_>>());
        assert_eq!(prepared(false).behind(seen(&all, &old), now), [], "with a way back nobody is locked out");
    };
    check(with(BundleFile::Current), None);
    check(with(BundleFile::Stale), Some(Reason::FileStale));
    check(with(BundleFile::Unknown), Some(Reason::FileUnknown));
    let until = at(500);
    check(away("credence/node/away", 500), Some(Reason::LockedOut { until }));
    check(away("credence/node/away", 50), None);
    check(away("web", 500), None);
    check(away("credence/operator/ann", 500), None);
    // What waited too long to sign is not activated, whoever asks.
    let observed = Observed { can_sign: false, ..seen(&[], &old) };
    let refused = prepared(true).step(Event::Wanted(wish(Step::Activate)), observed, now);
    assert_eq!(refused, [Action::Refuse(Refusal::TooOld)]);
    // It makes room for another one, where the old root can vouch for that.
    assert_eq!(prepared(true).step(Event::Tick, observed, now), [Action::Withdraw(id(2))]);
    assert_eq!(prepared(false).step(Event::Tick, observed, now), [], "who began it by hand decides");
    assert_eq!(prepared(false).step(Event::Tick, observed, at(324 * DAY)), [Action::Withdraw(id(2))]);
    let observed = Observed { has_root_key: false, ..observed };
    assert_eq!(prepared(true).step(Event::Tick, observed, at(324 * DAY)), [Action::AtRisk]);
    // An old root whose key is elsewhere signs again only if an authority of it still can.
    let observed = Observed { can_return: false, ..seen(&[], &old) };
    let refused = activated(false, 100).step(Event::Wanted(wish(Step::Rollback)), observed, at(200));
    assert_eq!(refused, [Action::Refuse(Refusal::NoRootKey)]);
}

#[test]
fn finishing_waits_for_everybody_by_name_and_for_the_age_of_connections() {
    let old = one();
    let check = |dependent: Dependent, expected: Reason| {
        let is_connected = dependent.known.is_some();
        let mut machine = activated(true, 100);
        let finish = Event::Wanted(wish(Step::Finish));
        let laggard = Laggard { name: dependent.name.clone(), is_connected, reason: expected };
        assert_eq!(
            machine.step(finish, seen(&[dependent], &old), at(200 + MAX_CONNECTION)),
            [Action::Refuse(Refusal::Laggards {
                step: Step::Finish,
                laggards: vec![laggard],
                needless: vec![]
            })]
        );
    };
    let (until, id_of) = (at(400 * DAY), workload);
    check(node("a", &[1], 2, &[2]), Reason::BundleNotAcknowledged);
    check(node("a", &[1, 2], 1, &[2]), Reason::Shows { id: id_of("a"), until });
    check(node("a", &[1, 2], 2, &[1]), Reason::NotProven);
    check(offline("c", 1, 400 * DAY), Reason::MayHold { id: id_of("c"), until });

    // What expired binds nobody; connections that were opened before still count.
    let clear = [node("a", &[1, 2], 2, &[1, 2]), offline("c", 1, 150)];
    let mut machine = activated(true, 100);
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), at(500)), []);
    let until = at(500 + MAX_CONNECTION);
    let refused = machine.step(Event::Wanted(wish(Step::Finish)), seen(&clear, &old), at(600));
    assert_eq!(refused, [Action::Refuse(Refusal::Settling { until })]);
    // Somebody who falls back begins to count anew.
    let fell_back = [node("a", &[1, 2], 1, &[1, 2])];
    assert_eq!(machine.step(Event::Tick, seen(&fell_back, &old), at(700)), []);
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), at(800)), []);
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), until), []);
    // Naming it shortens that only while it is in the way.
    let named = Event::Wanted(leaving(Step::Finish, &["a", "c", "nobody"]));
    let refused = machine.step(named, seen(&clear, &old), until);
    assert!(matches!(refused[..], [Action::Refuse(Refusal::Settling { .. })]), "{refused:?}");
    let finish = [Action::Finish { old: id(1), left_behind: Vec::new() }];
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), at(800 + MAX_CONNECTION)), finish);
    // One begun by an operator waits for the command.
    let mut machine = activated(false, 100);
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), at(500)), []);
    let late = at(600 + MAX_CONNECTION);
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), late), []);
    assert_eq!(machine.step(Event::Wanted(wish(Step::Finish)), seen(&clear, &old), late), finish);
}

#[test]
fn a_rotation_can_be_rolled_back_until_nothing_depends_on_the_old_root() {
    let old = one();
    let back = |machine: &mut Rotation, dependents: &[Dependent]| {
        machine.step(Event::Wanted(wish(Step::Rollback)), seen(dependents, &old), at(200))
    };
    let depends = [node("a", &[1, 2], 1, &[])];
    assert_eq!(back(&mut prepared(false), &depends), [Action::Withdraw(id(2))]);
    let returns = [Action::Return { old: id(1), new: id(2) }];
    assert_eq!(back(&mut activated(false, 100), &depends), returns);
    // Once: whoever asks again after a lost answer does not get the root back that he left.
    let roots = vec![
        root(1, AuthorityState::Active, 0),
        Root { retired: Some(at(150)), ..root(2, AuthorityState::Retired, 100) },
    ];
    let again = back(&mut Rotation::resume(settings(), roots), &depends);
    let [Action::Refuse(refusal @ Refusal::OutOfOrder { due, .. })] = &again[..] else { panic!("{again:?}") };
    assert_eq!(*due, [Step::Taint, Step::Finish]);
    assert!(refusal.to_string().contains("was rolled back and still verifies"), "{refusal}");
    let drained = [node("a", &[1, 2], 2, &[2])];
    assert_eq!(back(&mut activated(false, 100), &drained), [Action::Refuse(Refusal::Drained)]);
    let steady = &mut Rotation::resume(settings(), vec![root(1, AuthorityState::Active, 0)]);
    let out_of_order = back(steady, &depends);
    assert!(
        matches!(&out_of_order[..], [Action::Refuse(Refusal::OutOfOrder { due, .. })] if *due == [Step::Prepare])
    );
}

#[test]
fn a_stolen_key_is_replaced_within_a_minute_whoever_lags() {
    let old = one();
    let stolen = |state, retired: Option<u64>| Root {
        tainted: Some(at(1000)),
        stolen: Some(at(1000)),
        retired: retired.map(at),
        ..root(1, state, 0)
    };
    let lags = [node("a", &[1], 1, &[])];
    let paused = Observed { is_paused: true, ..seen(&lags, &old) };
    let mut machine = Rotation::resume(settings(), vec![stolen(AuthorityState::Active, None)]);
    let prepare = Action::Prepare { automatic: true, alone: false };
    assert_eq!(machine.step(Event::Tick, paused, at(1000)), [prepare]);
    let next = root(2, AuthorityState::Prepared, 1000);
    let mut machine = Rotation::resume(settings(), vec![stolen(AuthorityState::Active, None), next]);
    assert_eq!(machine.emergency(), Some(at(1000)));
    assert_eq!(machine.step(Event::Tick, paused, at(1014)), []);
    assert!(matches!(
        &machine.step(Event::Tick, paused, at(1015))[..],
        [Action::Activate { left_behind, .. }] if left_behind.len() == 1
    ));
    let next = root(2, AuthorityState::Active, 1000);
    let roots = vec![stolen(AuthorityState::Retired, Some(1015)), next];
    let mut machine = Rotation::resume(settings(), roots.clone());
    assert_eq!(machine.step(Event::Tick, paused, at(1015)), []);
    assert_eq!(machine.step(Event::Tick, paused, at(1059)), []);
    let refused = machine.step(Event::Wanted(wish(Step::Rollback)), paused, at(1059));
    assert_eq!(refused, [Action::Refuse(Refusal::Emergency)]);
    assert!(matches!(
        &machine.step(Event::Tick, paused, at(1060))[..],
        [Action::Finish { left_behind, .. }] if left_behind.len() == 1
    ));
    // With nobody behind it does not wait at all, for connections neither: they are drained.
    let clear = [node("a", &[1, 2], 2, &[2])];
    let mut machine = Rotation::resume(settings(), roots);
    let finish = [Action::Finish { old: id(1), left_behind: Vec::new() }];
    assert_eq!(machine.step(Event::Tick, seen(&clear, &old), at(1020)), finish);
    // The times count from the step before, however late that came: nodes need them to follow.
    let late = |state| Root { created: at(1100), ..root(2, state, 1100) };
    let mut machine = Rotation::resume(
        settings(),
        vec![stolen(AuthorityState::Active, None), late(AuthorityState::Prepared)],
    );
    assert_eq!(machine.step(Event::Tick, paused, at(1114)), []);
    assert!(matches!(&machine.step(Event::Tick, paused, at(1115))[..], [Action::Activate { .. }]));
    let roots = vec![stolen(AuthorityState::Retired, Some(1115)), late(AuthorityState::Active)];
    let mut machine = Rotation::resume(settings(), roots.clone());
    // The process ended here, and nobody has come back yet when it begins again.
    assert_eq!(machine.step(Event::Tick, paused, at(1500)), []);
    assert_eq!(machine.step(Event::Tick, paused, at(1544)), []);
    assert!(matches!(&machine.step(Event::Tick, paused, at(1545))[..], [Action::Finish { .. }]));
    // While the clock is stopped nobody can be issued anything: nothing goes, and what is left counts from its end.
    let stopped = Observed { is_clock_stopped: true, ..paused };
    let mut machine = Rotation::resume(settings(), roots);
    assert_eq!(machine.step(Event::Tick, paused, at(1115)), []);
    assert_eq!(machine.step(Event::Tick, stopped, at(1200)), []);
    assert_eq!(machine.step(Event::Tick, stopped, at(90_000)), []);
    assert_eq!(machine.step(Event::Tick, paused, at(90_001)), []);
    assert_eq!(machine.step(Event::Tick, paused, at(90_045)), []);
    assert!(matches!(&machine.step(Event::Tick, paused, at(90_046))[..], [Action::Finish { .. }]));
    let taken = vec![stolen(AuthorityState::Active, None), root(2, AuthorityState::Prepared, 1000)];
    for roots in [vec![stolen(AuthorityState::Active, None)], taken] {
        let mut machine = Rotation::resume(settings(), roots);
        assert_eq!(machine.step(Event::Tick, stopped, at(90_000)), []);
    }
    // A failed try is repeated at once, and not after the pause of a planned rotation.
    let mut machine = Rotation::resume(settings(), vec![stolen(AuthorityState::Active, None)]);
    assert_eq!(machine.step(Event::Tick, paused, at(1000)).len(), 1);
    machine.step(Event::Failed, paused, at(1000));
    assert_eq!(machine.deadline(), Some(at(1001)));
    for _ in 0..20 {
        machine.step(Event::Failed, paused, at(2000));
    }
    assert_eq!(machine.deadline(), Some(at(2030)), "and never waits for long");
    // A prepared one that cannot sign any more is no way out: it goes by itself, or by hand without the old key.
    let next = root(2, AuthorityState::Prepared, 0);
    let too_old = Observed { can_sign: false, ..paused };
    let prepared = || Rotation::resume(settings(), vec![stolen(AuthorityState::Active, None), next]);
    assert_eq!(prepared().step(Event::Tick, too_old, at(1000)), [Action::Withdraw(id(2))]);
    let no_key = Observed { has_root_key: false, ..too_old };
    assert_eq!(prepared().step(Event::Tick, no_key, at(1000)), []);
    let rolled_back = prepared().step(Event::Wanted(wish(Step::Rollback)), no_key, at(1000));
    assert_eq!(rolled_back, [Action::Withdraw(id(2))]);
    // A planned taint is no emergency: it only hurries.
    let planned =
        Root { tainted: Some(at(2000)), retired: Some(at(100)), ..root(1, AuthorityState::Retired, 0) };
    let machine = Rotation::resume(settings(), vec![planned, root(2, AuthorityState::Active, 10)]);
    assert_eq!(machine.emergency(), None);
    assert_eq!(machine.due(), [Step::Finish], "and never signs again");
}

#[test]
fn a_key_that_is_stolen_in_the_middle_of_a_rotation_is_got_rid_of() {
    let stolen = |root: Root| Root { tainted: Some(at(1000)), stolen: Some(at(1000)), ..root };
    let old = || Root { retired: Some(at(100)), ..root(1, AuthorityState::Retired, 0) };
    let new = || root(2, AuthorityState::Active, 10);
    let of_old = one();
    let lags = [node("a", &[1, 2], 1, &[1])];
    let tick = |roots: Vec<Root>, secs: u64| {
        let mut machine = Rotation::resume(settings(), roots);
        machine.step(Event::Tick, seen(&lags, &of_old), at(secs))
    };
    // A prepared one has signed nothing.
    let next = stolen(root(2, AuthorityState::Prepared, 10));
    assert_eq!(tick(vec![root(1, AuthorityState::Active, 0), next], 1000), [Action::Withdraw(id(2))]);
    // The one that retired goes within the minute, whoever lags.
    let mut machine = Rotation::resume(settings(), vec![stolen(old()), new()]);
    assert_eq!(machine.step(Event::Tick, seen(&lags, &of_old), at(1000)), []);
    assert_eq!(machine.step(Event::Tick, seen(&lags, &of_old), at(1044)), []);
    let finishes = machine.step(Event::Tick, seen(&lags, &of_old), at(1045));
    assert!(matches!(&finishes[..], [Action::Finish { .. }]), "{finishes:?}");
    // The one that signs: the root before takes over again, unless it is tainted itself or its key is elsewhere.
    let returns = [Action::Return { old: id(1), new: id(2) }];
    assert_eq!(tick(vec![old(), stolen(new())], 1000), returns);
    let hurried = Root { tainted: Some(at(500)), ..old() };
    let finishes = tick(vec![hurried, stolen(new())], 1000);
    assert!(matches!(&finishes[..], [Action::Finish { old, .. }] if *old == id(1)), "{finishes:?}");
    // Back again, the stolen one is the outgoing one; and an old rollback does not hide a new theft.
    let gone = stolen(Root { retired: Some(at(1000)), ..root(2, AuthorityState::Retired, 10) });
    let roots = vec![root(1, AuthorityState::Active, 0), gone];
    assert_eq!(Rotation::resume(settings(), roots).emergency(), Some(at(1000)));
    let again = Root { retired: Some(at(50)), ..root(1, AuthorityState::Active, 0) };
    let prepares = tick(vec![stolen(again)], 1000);
    assert_eq!(prepares, [Action::Prepare { automatic: true, alone: false }]);
}

#[test]
fn a_fleet_that_comes_and_goes_does_not_hold_up_the_end_of_a_rotation() {
    let of_old = one();
    let mut machine = activated(true, 100);
    let settled = 100 + MAX_CONNECTION;
    assert_eq!(machine.step(Event::Tick, seen(&[node("a", &[1, 2], 2, &[2])], &of_old), at(100)), []);
    for number in 0..60 {
        // Each moment a new name, and one that has just connected and acknowledged nothing yet.
        let fresh = node(&format!("n{number}"), &[1, 2], 2, &[2]);
        let opening = node("a", &[], 2, &[2]);
        let now = at(100 + number * MAX_CONNECTION / 60);
        assert_eq!(machine.step(Event::Tick, seen(&[fresh, opening], &of_old), now), []);
    }
    let last = [node("a", &[1, 2], 2, &[2]), node("last", &[1, 2], 2, &[2])];
    assert_eq!(
        machine.step(Event::Tick, seen(&last, &of_old), at(settled)),
        [Action::Finish { old: id(1), left_behind: Vec::new() }]
    );
}

#[test]
fn a_rotation_that_is_never_finished_is_at_risk_and_looked_at_ever_less() {
    let of_old = one();
    let lags = [node("a", &[1, 2], 1, &[1])];
    let mut machine = activated(false, 100);
    machine.step(Event::Tick, seen(&lags, &of_old), at(100));
    assert_eq!(machine.deadline(), Some(at(101)));
    machine.step(Event::Tick, seen(&lags, &of_old), at(100 + DAY));
    assert_eq!(machine.deadline(), Some(at(130 + DAY)));
    assert_eq!(machine.step(Event::Tick, seen(&lags, &of_old), at(10 + 270 * DAY)), [Action::AtRisk]);
    // Past half of the new root's life it ends by itself as soon as nobody is in the way.
    let clear = [node("a", &[1, 2], 2, &[1, 2])];
    let now = at(10 + 271 * DAY);
    assert_eq!(
        machine.step(Event::Tick, seen(&clear, &of_old), now),
        [Action::Finish { old: id(1), left_behind: Vec::new() }]
    );
}

/// What the store would hold and a fleet would do, beside the machine.
struct World {
    roots: Vec<Root>,
    fleet: Vec<Dependent>,
    has_way_back: bool,
    removed: BTreeSet<AuthorityId>,
    made: u32,
    finished: u32,
    rolled_back: u32,
}

impl World {
    fn active(&self) -> AuthorityId {
        self.roots.iter().find(|root| root.state == AuthorityState::Active).unwrap().id
    }

    fn of_old(&self) -> BTreeSet<AuthorityId> {
        let retired = self.roots.iter().find(|root| root.state == AuthorityState::Retired);
        BTreeSet::from([retired.map_or_else(|| self.active(), |root| root.id)])
    }

    fn set(&mut self, id: AuthorityId, state: AuthorityState, now: Timestamp) {
        let root = self.roots.iter_mut().find(|root| root.id == id).unwrap();
        assert!(root.state.may_become(state), "{:?} -> {state:?}", root.state);
        root.state = state;
        match state {
            AuthorityState::Retired => root.retired = Some(now),
            AuthorityState::Active => root.retired = None,
            AuthorityState::Prepared | AuthorityState::Removed => {}
        }
    }

    fn carry_out(&mut self, action: &Action, wish: Option<&Wish>, now: Timestamp) {
        let leaves = |name: &String| wish.is_some_and(|wish| wish.leave_behind.contains(name));
        match action {
            Action::Prepare { automatic, alone } => {
                assert!(*alone == wish.is_some_and(|wish| wish.alone));
                self.made += 1;
                let state = AuthorityState::Prepared;
                let (id, created, not_after) = (id(self.made), now, now + Duration::from_secs(360 * DAY));
                let (retired, tainted, stolen) = (None, None, None);
                let automatic = *automatic;
                self.roots.push(Root { id, state, created, not_after, retired, tainted, stolen, automatic });
            }
            Action::Activate { new, old, left_behind } => {
                let outgoing = *self.roots.iter().find(|root| root.id == *old).unwrap();
                let is_ending = now >= outgoing.at_part(0.9);
                for one in behind_activation(&self.fleet, *new, self.has_way_back, now) {
                    assert!(left_behind.contains(&one), "{one:?} would break unnamed");
                    assert!(is_ending || leaves(&one.name), "{one:?} was not waited for");
                }
                self.set(*old, AuthorityState::Retired, now);
                self.set(*new, AuthorityState::Active, now);
            }
            Action::Finish { old, left_behind } => {
                let of_old = self.of_old();
                for one in behind_finish(&self.fleet, &of_old, self.active(), now) {
                    assert!(left_behind.contains(&one) && leaves(&one.name), "{one:?} breaks");
                }
                let retired = self.roots.iter().find(|root| root.id == *old).unwrap().retired.unwrap();
                assert!(now >= retired + settings().max_connection, "connections may be open");
                self.set(*old, AuthorityState::Removed, now);
                self.finished += 1;
            }
            Action::Withdraw(new) => {
                self.set(*new, AuthorityState::Removed, now);
                self.rolled_back += 1;
            }
            Action::Return { old, new } => {
                self.set(*new, AuthorityState::Retired, now);
                self.set(*old, AuthorityState::Active, now);
                self.rolled_back += 1;
            }
            Action::Taint(old) => {
                let root = self.roots.iter_mut().find(|root| root.id == *old).unwrap();
                root.tainted = Some(now);
            }
            Action::Refuse(_) | Action::AtRisk => unreachable!("nothing to carry out"),
        }
        let gone: Vec<_> = self.roots.iter().filter(|root| root.state == AuthorityState::Removed).collect();
        for root in gone {
            assert!(self.removed.insert(root.id), "what was removed never comes back");
        }
        self.roots.retain(|root| root.state != AuthorityState::Removed);
        let active = self.roots.iter().filter(|root| root.state == AuthorityState::Active);
        assert_eq!(active.count(), 1, "one root is active");
        assert!(self.roots.len() <= 2, "the bundle holds two roots at most");
    }
}

#[test]
fn a_random_walk_keeps_the_invariants() {
    let mut seed = 0xc0ffee_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut world = World {
        roots: vec![root(1, AuthorityState::Active, 0)],
        fleet: ["a", "b", "c"].iter().map(|name| node(name, &[1], 1, &[1])).collect(),
        has_way_back: true,
        removed: BTreeSet::new(),
        made: 1,
        finished: 0,
        rolled_back: 0,
    };
    let mut machine = Rotation::resume(settings(), world.roots.clone());
    let mut now = at(0);
    for _ in 0..20_000_u32 {
        // The fleet follows, falls behind, leaves and comes back.
        let bundle: BTreeSet<AuthorityId> = world.roots.iter().map(|root| root.id).collect();
        let active = world.active();
        let pick = usize::try_from(random(3)).unwrap();
        let dependent = &mut world.fleet[pick];
        match (random(13), &mut dependent.known) {
            (0, _) => (dependent.presence, dependent.known) = (Presence::Away, None),
            (12, None) => dependent.presence = Presence::Expected,
            (12, Some(_)) => dependent.presence = Presence::JustLeft,
            (1..=4, Some(known)) => known.roots = Some(bundle),
            (5..=7, Some(known)) => {
                known.proven.insert(active);
                dependent.holds[0].authority = active;
                dependent.holds[0].until = now + Duration::from_secs(DAY / 2);
            }
            (8, Some(known)) => known.roots = None,
            (10, Some(known)) => known.file = BundleFile::Current,
            (11, Some(known)) => known.file = BundleFile::Stale,
            (9, known) => {
                let (roots, proven) = (Some(BTreeSet::new()), BTreeSet::new());
                let file = BundleFile::Unknown;
                *known = Some(Acknowledged { roots, lists: None, refusal: None, proven, file });
                dependent.presence = Presence::Here;
            }
            _ => {}
        }
        now = match random(5) {
            0 => machine.deadline().unwrap_or(now).max(now),
            1 => now + Duration::from_secs(random(2 * DAY)),
            _ => now + Duration::from_secs(random(60)),
        };
        let steps = [Step::Prepare, Step::Activate, Step::Taint, Step::Finish, Step::Rollback];
        let wish = (random(3) == 0).then(|| Wish {
            step: steps[usize::try_from(random(5)).unwrap()],
            leave_behind: if random(4) == 0 { BTreeSet::from(["a".to_owned()]) } else { BTreeSet::new() },
            automatic: random(2) == 0,
            alone: random(4) == 0,
        });
        // Now and then the root before vouches for nobody, and its key is elsewhere.
        world.has_way_back = random(8) != 0;
        let event = wish.clone().map_or(Event::Tick, Event::Wanted);
        let of_old = world.of_old();
        let fleet = world.fleet.clone();
        let has_root_key = random(8) != 0;
        let observed = Observed { has_way_back: world.has_way_back, has_root_key, ..seen(&fleet, &of_old) };
        let actions = machine.step(event, observed, now);
        assert!(actions.len() <= 1);
        let is_in_the_way = !machine.behind(observed, now).is_empty();
        assert_eq!(machine.barrier().is_some(), is_in_the_way);
        for action in actions {
            if matches!(action, Action::Refuse(_) | Action::AtRisk) {
                continue;
            }
            let is_made = matches!(action, Action::Prepare { alone: false, .. });
            assert!(!is_made || has_root_key, "a root was made without the key of the one before");
            if random(6) == 0 {
                machine.step(Event::Failed, seen(&fleet, &of_old), now);
                continue;
            }
            world.carry_out(&action, wish.as_ref(), now);
            // A crash between the action and what the machine hears of it.
            if random(10) == 0 {
                machine = Rotation::resume(settings(), world.roots.clone());
            } else {
                machine.step(Event::Kept(world.roots.clone()), seen(&fleet, &of_old), now);
            }
        }
        assert!(machine.deadline().is_some(), "the machine never falls asleep");
    }
    assert!(world.finished > 30 && world.rolled_back > 30, "{} {}", world.finished, world.rolled_back);
}
