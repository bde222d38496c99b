use super::*;
use crate::testing::Random;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
}

fn named(name: &str) -> IssuerName {
    IssuerName::parse(name).unwrap()
}

fn begin(to: &str, stages: &[u8]) -> Begin {
    let hold = Duration::from_secs(30);
    Begin { from: None, to: named(to), stages: stages.to_vec(), hold, is_hurried: false }
}

fn signing(names: &[&str]) -> BTreeSet<IssuerName> {
    names.iter().copied().map(named).collect()
}

fn machine(names: &[&str]) -> Migrations {
    Migrations::resume(DefaultIssuer::default(), signing(names))
}

/// Has what an operator wants kept.
fn wish(machine: &mut Migrations, wish: MigrationWish, now: u64) -> Option<Action> {
    let next = machine.judge(&wish, at(now)).unwrap();
    assert_eq!(machine.step(Event::Wanted(next.clone()), at(now)), Some(Action::Keep(next.clone())));
    machine.step(Event::Kept(next), at(now))
}

fn moved(machine: &Migrations) -> Option<(u8, bool)> {
    machine.division().share.map(|share| (share.percent, share.is_lenient))
}

fn seen(behind: usize, issued: u64, failed: u64) -> Event {
    Event::Seen(Followers { total: 10, behind, waits_for: Vec::new(), issued, failed })
}

/// What is kept now, as the machine has just asked.
fn keep(machine: &mut Migrations, action: Option<Action>, now: u64) -> Option<Action> {
    let Some(Action::Keep(next)) = action else { panic!("nothing is to be kept: {action:?}") };
    machine.step(Event::Kept(next), at(now))
}

#[test]
fn all_move_at_once_when_the_other_may_sign_and_at_once_to_the_built_in_one() {
    let mut machine = machine(&[]);
    assert_eq!(wish(&mut machine, MigrationWish::Begin(begin("corp", &[])), 0), None);
    assert_eq!((moved(&machine), machine.deadline()), (None, None), "it may not sign yet");
    let arrived = machine.step(Event::MaySign(signing(&["corp"])), at(5));
    assert_eq!(keep(&mut machine, arrived, 5), None);
    let whole = DefaultIssuer { current: named("corp"), migration: None, left: BTreeSet::new() };
    assert_eq!((machine.state(), machine.deadline()), (&whole, None));

    let begin = Begin { is_hurried: true, ..begin("builtin", &[]) };
    let back = wish(&mut machine, MigrationWish::Begin(begin), 9);
    assert_eq!(keep(&mut machine, back, 9), None);
    let left = DefaultIssuer { left: [named("corp")].into(), ..DefaultIssuer::default() };
    assert_eq!(machine.state(), &left);
    // Moving to it again is to trust it again.
    let again = machine.judge(&MigrationWish::Begin(self::begin("corp", &[])), at(10)).unwrap();
    assert!(again.left.is_empty());
    let other = machine.judge(&MigrationWish::Begin(self::begin("lab", &[])), at(10)).unwrap();
    assert_eq!(other.left, left.left);
}

#[test]
fn whoever_is_not_to_be_trusted_is_left_from_wherever_leaves_are_of_it() {
    let hurried = |from: Option<&str>, to: &str| {
        MigrationWish::Begin(Begin { from: from.map(named), is_hurried: true, ..begin(to, &[]) })
    };
    let left = |name: &str| DefaultIssuer { left: [named(name)].into(), ..DefaultIssuer::default() };
    let mut moving = machine(&["corp", "lab"]);
    assert_eq!(moving.judge(&hurried(None, "corp"), at(0)), Err(WishRefusal::LeavesBuiltin));
    // By bindings alone, or from before.
    assert_eq!(moving.judge(&hurried(Some("corp"), "builtin"), at(0)), Ok(left("corp")));
    assert_eq!(
        moving.judge(&hurried(None, "builtin"), at(0)),
        Err(WishRefusal::Already(IssuerName::builtin()))
    );
    wish(&mut moving, MigrationWish::Begin(begin("corp", &[25, 100])), 0);
    // On the way to it: back, and whoever signs is not asked to leave.
    for from in [None, Some("corp")] {
        assert_eq!(moving.judge(&hurried(from, "builtin"), at(1)), Ok(left("corp")));
    }
    let aside = moving.judge(&hurried(Some("lab"), "builtin"), at(1)).unwrap();
    assert_eq!((aside.migration, aside.left), (moving.state().migration.clone(), [named("lab")].into()));
    let elsewhere = WishRefusal::NotFrom { current: IssuerName::builtin(), said: named("corp") };
    assert_eq!(moving.judge(&hurried(Some("corp"), "lab"), at(1)), Err(elsewhere));
}

#[test]
fn a_stage_is_over_when_all_have_acknowledged_and_it_was_held() {
    let mut machine = machine(&[]);
    assert_eq!(wish(&mut machine, MigrationWish::Begin(begin("corp", &[5, 100])), 0), None);
    assert_eq!(moved(&machine), None);
    let look = Some(Action::Look(named("corp")));
    // The gate took an hour: the stage counts from here.
    assert_eq!(machine.step(Event::MaySign(signing(&["corp"])), at(3600)), look);
    assert_eq!(moved(&machine), Some((5, false)));
    assert_eq!(machine.step(seen(0, 7, 1), at(3600)), None);
    assert_eq!(machine.deadline(), Some(at(3601)));
    for now in [3601, 3629] {
        assert_eq!(machine.step(Event::Tick, at(now)), look);
        assert_eq!(machine.step(seen(0, 9, 1), at(now)), None, "it is held");
    }
    assert_eq!(machine.step(Event::Tick, at(3700)), look);
    assert_eq!(machine.step(seen(1, 9, 1), at(3700)), None, "one is behind");
    assert_eq!(machine.step(Event::Paused(Some(at(3800))), at(3700)), None);
    assert_eq!(machine.step(Event::Tick, at(3701)), look);
    assert_eq!(machine.step(seen(0, 9, 1), at(3701)), None, "a pause holds it");
    assert_eq!(machine.step(Event::Tick, at(3800)), look);
    let next = machine.step(seen(0, 9, 1), at(3800));
    assert_eq!(keep(&mut machine, next, 3800), look);
    assert_eq!(moved(&machine), Some((100, false)));
    assert_eq!(machine.step(seen(0, 9, 1), at(3800)), None);
    assert_eq!(machine.step(Event::Tick, at(3830)), look);
    let arrived = machine.step(seen(0, 99, 1), at(3830));
    assert_eq!(keep(&mut machine, arrived, 3830), None);
    assert_eq!(machine.state().current, named("corp"));
    assert_eq!(moved(&machine), None);
}

#[test]
fn trouble_stops_it_and_takes_the_stage_back() {
    let mut machine = machine(&["corp"]);
    let look = Some(Action::Look(named("corp")));
    assert_eq!(wish(&mut machine, MigrationWish::Begin(begin("corp", &[5, 50, 100])), 0), look);
    // Failures from before are no trouble of this stage.
    assert_eq!(machine.step(seen(3, 1000, 90), at(0)), None);
    assert_eq!(machine.step(Event::Tick, at(31)), look);
    let next = machine.step(seen(0, 1100, 90), at(31));
    assert_eq!(keep(&mut machine, next, 31), look);
    for (now, issued, failed) in [(31, 1100, 90), (40, 1110, 94), (90, 1200, 94), (100, 1203, 97)] {
        assert_eq!(machine.step(seen(2, issued, failed), at(now)), None, "too few within a minute, at {now}");
        assert_eq!(machine.step(Event::Tick, at(now + 1)), look);
    }
    let stop = machine.step(seen(2, 1210, 99), at(101));
    assert_eq!(keep(&mut machine, stop, 101), None);
    let why = machine.state().migration.clone().unwrap().stopped.unwrap();
    assert_eq!(why, "5 of 105 leaves within 60 s failed or were refused");
    assert_eq!((moved(&machine), machine.deadline()), (Some((5, true)), None));
    assert_eq!(machine.step(Event::Tick, at(9999)), None, "nothing goes on by itself");

    assert_eq!(wish(&mut machine, MigrationWish::Resume, 10_000), look);
    assert_eq!(moved(&machine), Some((50, false)));
    assert_eq!(machine.step(seen(2, 1500, 99), at(10_000)), None);
    assert_eq!(wish(&mut machine, MigrationWish::Abort, 10_010), None);
    assert_eq!((machine.state(), moved(&machine)), (&DefaultIssuer::default(), None));
}

#[test]
fn few_failures_among_many_are_no_trouble() {
    let mut machine = machine(&["corp"]);
    let look = Some(Action::Look(named("corp")));
    assert_eq!(wish(&mut machine, MigrationWish::Begin(begin("corp", &[100])), 0), look);
    assert_eq!(machine.step(seen(9, 0, 0), at(0)), None);
    assert_eq!(machine.step(Event::Tick, at(1)), look);
    assert_eq!(machine.step(seen(9, 495, 9), at(1)), None, "1.8 %");
    assert_eq!(machine.step(Event::Tick, at(2)), look);
    assert!(matches!(machine.step(seen(9, 495, 12), at(2)), Some(Action::Keep(_))), "2.4 %");
}

#[test]
fn a_last_stage_of_less_than_all_stays_until_more_is_said() {
    let mut machine = machine(&["corp"]);
    let look = Some(Action::Look(named("corp")));
    assert_eq!(wish(&mut machine, MigrationWish::Begin(begin("corp", &[5])), 0), look);
    for now in [0, 100, 200] {
        assert_eq!(machine.step(seen(0, 1, 0), at(now)), None);
        assert_eq!(machine.step(Event::Tick, at(now + 100)), look);
    }
    assert_eq!(machine.step(seen(0, 1, 0), at(300)), None);
    let less = machine.judge(&MigrationWish::Begin(begin("corp", &[4, 100])), at(300));
    assert_eq!(less, Err(WishRefusal::Shrinks(5)));
    assert_eq!(wish(&mut machine, MigrationWish::Begin(begin("corp", &[20, 100])), 300), look);
    assert_eq!(moved(&machine), Some((20, false)));
}

#[test]
fn what_cannot_be_is_said() {
    use WishRefusal as R;
    let begins = |to: &str, stages: &[u8]| MigrationWish::Begin(begin(to, stages));
    let from = |from: &str| MigrationWish::Begin(Begin { from: Some(named(from)), ..begin("corp", &[]) });
    let idle = machine(&["corp", "lab"]);
    let refused = |machine: &Migrations, wish: &MigrationWish| machine.judge(wish, at(0)).unwrap_err();
    assert_eq!(refused(&idle, &begins("builtin", &[])), R::Already(named("builtin")));
    assert_eq!(refused(&idle, &MigrationWish::Abort), R::Nothing);
    assert_eq!(refused(&idle, &MigrationWish::Resume), R::Nothing);
    let not_from = R::NotFrom { current: named("builtin"), said: named("lab") };
    assert_eq!(refused(&idle, &from("lab")), not_from);
    assert!(idle.judge(&from("builtin"), at(0)).is_ok());
    let many: Vec<u8> = (1..=21).collect();
    for stages in [&[0][..], &[5, 5], &[25, 5], &[5, 101], &many] {
        assert_eq!(refused(&idle, &begins("corp", stages)), R::Stages(stages.to_vec()));
    }
    let of_corp = DefaultIssuer { current: named("corp"), ..DefaultIssuer::default() };
    let of_corp = Migrations::resume(of_corp, signing(&["corp", "lab"]));
    let hurried = MigrationWish::Begin(Begin { is_hurried: true, ..begin("lab", &[100]) });
    assert_eq!(refused(&of_corp, &hurried), R::HurriedStages);

    let mut moving = machine(&["corp", "lab"]);
    wish(&mut moving, begins("corp", &[5, 100]), 0);
    assert_eq!(refused(&moving, &begins("lab", &[])), R::UnderWay(named("corp")));
    assert_eq!(refused(&moving, &MigrationWish::Resume), R::NotStopped(named("corp")));
    // Whoever signs is wanted again: that is the same as to call it off.
    assert_eq!(moving.judge(&begins("builtin", &[]), at(0)), Ok(DefaultIssuer::default()));
    // Nothing has moved to one that may not sign: it may be another.
    let mut waiting = machine(&[]);
    wish(&mut waiting, begins("corp", &[5, 100]), 0);
    assert_eq!(waiting.judge(&begins("lab", &[]), at(0)).unwrap().migration.unwrap().to, named("lab"));
}

#[test]
fn a_wish_that_is_not_kept_is_gone_and_what_comes_by_itself_comes_again() {
    let mut waiting = machine(&[]);
    wish(&mut waiting, MigrationWish::Begin(begin("corp", &[])), 0);
    let arrived = waiting.step(Event::MaySign(signing(&["corp"])), at(0));
    assert!(matches!(arrived, Some(Action::Keep(_))));
    assert_eq!(waiting.step(Event::KeepFailed, at(0)), None);
    assert_eq!(waiting.deadline(), Some(at(10)));
    assert_eq!(waiting.step(Event::Tick, at(9)), None);
    assert_eq!(waiting.step(Event::Tick, at(10)), arrived);

    let mut machine = machine(&["corp"]);
    let next = machine.judge(&MigrationWish::Begin(begin("corp", &[5, 100])), at(0)).unwrap();
    assert_eq!(machine.step(Event::Wanted(next.clone()), at(0)), Some(Action::Keep(next.clone())));
    assert_eq!(machine.step(Event::KeepFailed, at(0)), None);
    assert_eq!((machine.deadline(), machine.step(Event::Tick, at(10))), (None, None));
    // What is said while something is written comes after it, kept or not.
    assert_eq!(machine.step(Event::Wanted(next.clone()), at(11)), Some(Action::Keep(next.clone())));
    let whole = machine.judge(&MigrationWish::Begin(begin("corp", &[])), at(11)).unwrap();
    assert_eq!(machine.step(Event::Wanted(whole.clone()), at(11)), None);
    assert_eq!(machine.step(Event::KeepFailed, at(11)), Some(Action::Keep(whole)));
    assert_eq!(machine.step(Event::KeepFailed, at(11)), None);
    assert_eq!(machine.step(Event::Wanted(next.clone()), at(11)), Some(Action::Keep(next.clone())));
    let calmed = machine.judge(&MigrationWish::Abort, at(11)).unwrap();
    assert_eq!(machine.step(Event::Wanted(calmed.clone()), at(11)), None);
    assert_eq!(machine.step(Event::Kept(next), at(12)), Some(Action::Keep(calmed)));
}

#[test]
fn whatever_happens_nobody_moves_to_one_that_may_not_sign_and_none_passes_a_leaf_that_is_behind() {
    let names = ["builtin", "corp", "lab"].map(named);
    for seed in 0..400 {
        let (mut random, mut now) = (Random::new(seed), 0);
        let mut machine = machine(&[]);
        let mut may_sign = BTreeSet::new();
        let mut pending: Option<Action> = None;
        let (mut issued, mut failed) = (0, 0);
        // What the last look said, since the last change.
        let mut behind = None;
        for _ in 0..300 {
            now += random.below(20);
            let before = (machine.state().clone(), moved(&machine));
            let mut is_operator = false;
            let answered = if random.once_in(4) { None } else { pending.take() };
            let event = match answered {
                Some(Action::Keep(_)) if random.once_in(6) => Event::KeepFailed,
                Some(Action::Keep(next)) => Event::Kept(next),
                Some(Action::Look(_)) => {
                    issued += random.below(100);
                    failed += if random.once_in(9) { random.below(9) } else { 0 };
                    let count = if random.once_in(2) { 0 } else { 3 };
                    behind = Some(count);
                    seen(count, issued, failed)
                }
                None if random.once_in(3) => {
                    let all: [&[u8]; 4] = [&[], &[5], &[5, 25, 100], &[50, 100]];
                    let stages = *random.of(&all);
                    let begin =
                        Begin { is_hurried: random.once_in(4), ..begin(random.of(&names).as_str(), stages) };
                    let wishes = [MigrationWish::Abort, MigrationWish::Resume, MigrationWish::Begin(begin)];
                    match machine.judge(random.of(&wishes), at(now)) {
                        Ok(next) => {
                            is_operator = true;
                            Event::Wanted(next)
                        }
                        Err(_) => Event::Tick,
                    }
                }
                None if random.once_in(3) => {
                    may_sign = names[1..].iter().filter(|_| random.once_in(2)).cloned().collect();
                    Event::MaySign(may_sign.clone())
                }
                None => Event::Tick,
            };
            let is_kept = matches!(event, Event::Kept(_));
            let action = machine.step(event, at(now));
            assert!(pending.is_none() || action.is_none(), "seed {seed}: one thing at a time");
            if let Some(Action::Keep(next)) = &action
                && !is_operator
                && let state = if is_kept { machine.state() } else { &before.0 }
                && let (Some(was), is) = (&state.migration, &next.migration)
                && was.stopped.is_none()
                && !was.stages.is_empty()
                && is.as_ref().is_none_or(|is| is.stage > was.stage)
                && is.as_ref().is_none_or(|is| is.to == was.to && is.stages == was.stages)
                && next.current == was.to
            {
                assert_eq!(behind, Some(0), "seed {seed}: {was:?} -> {next:?}");
            }
            if let Some(Action::Look(name)) = &action {
                assert!(name.is_builtin() || may_sign.contains(name), "seed {seed}");
            }
            pending = pending.or(action);
            if is_kept {
                behind = None;
            }
            let division = machine.division();
            for name in division.share.iter().map(|share| &share.to) {
                assert!(name.is_builtin() || may_sign.contains(name), "seed {seed}: moved to {name}");
            }
            let moves = machine.watched().is_some();
            assert!(!moves || pending.is_some() || machine.deadline().is_some(), "seed {seed}: stuck");
        }
    }
}
