use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::testing::Random;

use AuthorityState::{Active, Prepared, Retired};

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
}

fn named(name: &str) -> IssuerName {
    IssuerName::parse(name).unwrap()
}

fn source(name: &str) -> Source {
    Source { name: named(name), generation: 0 }
}

fn wanted(names: &[&str]) -> Event {
    Event::Wanted(Wanted { sources: names.iter().copied().map(source).collect(), ..Wanted::default() })
}

const SETTINGS: Settings = Settings {
    grace: Duration::from_secs(120),
    look: Duration::from_secs(1),
    settle: Duration::from_secs(60),
    retry: Duration::from_secs(10),
};

fn member(name: &str, state: AuthorityState, since: u64) -> LeafIssuer {
    LeafIssuer { source: source(name), state, since: at(since), is_hurried: false }
}

fn machine() -> Delegation {
    Delegation::resume(SETTINGS, Vec::new(), at(0))
}

fn leaves(count: u64, last: u64) -> Leaves {
    Leaves { count, last: Some(at(last)) }
}

/// Steps, and has whatever is to be kept kept.
fn keeps(machine: &mut Delegation, event: Event, now: u64, expected: &[LeafIssuer]) -> Option<Action> {
    assert_eq!(machine.step(event, at(now)), Some(Action::Keep(expected.to_vec())));
    machine.step(Event::Kept(expected.to_vec()), at(now))
}

/// With `corp` active since second 5.
fn signing() -> Delegation {
    let mut machine = machine();
    let look = Some(Action::Look(source("corp")));
    let prepared = [member("corp", Prepared, 0)];
    assert_eq!(keeps(&mut machine, wanted(&["corp"]), 0, &prepared), look);
    let active = [member("corp", Active, 5)];
    assert_eq!(machine.step(Event::Behind(source("corp")), at(0)), None);
    assert_eq!(machine.deadline(), Some(at(1)));
    assert_eq!(machine.step(Event::Tick, at(5)), look);
    assert_eq!(keeps(&mut machine, Event::Clear(source("corp")), 5, &active), None);
    machine
}

#[test]
fn signs_nothing_before_somebody_looked_and_found_nobody_behind() {
    let machine = signing();
    assert_eq!(machine.active(&named("corp")), Some(&source("corp")));
    assert_eq!(machine.deadline(), None);
}

#[test]
fn back_to_the_built_in_one_waits_for_nobody_and_the_root_stays_until_the_last_leaf() {
    let mut machine = signing();
    let retired = [member("corp", Retired, 100)];
    assert_eq!(keeps(&mut machine, wanted(&[]), 100, &retired), None);
    assert_eq!((machine.active(&named("corp")), machine.deadline()), (None, Some(at(220))));
    let count = |at| Some(Action::Count { source: source("corp"), at });
    assert_eq!(machine.step(Event::Tick, at(220)), count(at(100)));
    assert_eq!(machine.step(Event::Counted(source("corp"), leaves(2, 500)), at(220)), None);
    assert_eq!(machine.deadline(), Some(at(621)));
    assert_eq!(machine.step(Event::Tick, at(621)), count(at(501)));
    assert_eq!(machine.step(Event::CountFailed(source("corp")), at(621)), None);
    assert_eq!(machine.step(Event::Tick, at(631)), count(at(511)));
    let none = Event::Counted(source("corp"), Leaves::default());
    assert_eq!(keeps(&mut machine, none, 631, &[]), None);
    assert_eq!((machine.members(), machine.deadline()), (&[][..], None));
}

#[test]
fn the_one_that_signs_goes_on_until_the_next_one_may() {
    let mut machine = signing();
    let both = [member("corp", Active, 5), member("other", Prepared, 50)];
    let look = Some(Action::Look(source("other")));
    assert_eq!(keeps(&mut machine, wanted(&["corp", "other"]), 50, &both), look);
    assert_eq!(machine.active(&named("corp")), Some(&source("corp")));
    let turned = [member("corp", Active, 5), member("other", Active, 60)];
    assert_eq!(machine.step(Event::Behind(source("other")), at(51)), None);
    assert_eq!(machine.step(Event::Tick, at(59)), look);
    assert_eq!(keeps(&mut machine, Event::Clear(source("other")), 60, &turned), None);
    let left = [member("corp", Retired, 65), member("other", Active, 60)];
    assert_eq!(keeps(&mut machine, wanted(&["other"]), 65, &left), None);
    // The one before is wanted again: it goes through the gate again, nobody knows who came meanwhile.
    let back = [member("corp", Prepared, 70), member("other", Retired, 70)];
    let look = Some(Action::Look(source("corp")));
    assert_eq!(keeps(&mut machine, wanted(&["corp"]), 70, &back), look);
}

fn next(name: &str) -> Source {
    Source { name: named(name), generation: 1 }
}

#[test]
fn another_root_of_the_same_issuer_takes_over_when_its_gate_opens() {
    let mut machine = signing();
    let of = |state, since| LeafIssuer { source: next("corp"), ..member("corp", state, since) };
    let wants = || Event::Wanted(Wanted { sources: [next("corp")].into(), ..Wanted::default() });
    let both = [member("corp", Active, 5), of(Prepared, 10)];
    assert_eq!(keeps(&mut machine, wants(), 10, &both), Some(Action::Look(next("corp"))));
    assert_eq!(machine.step(Event::Behind(next("corp")), at(10)), None);
    assert_eq!(machine.active(&named("corp")), Some(&source("corp")));
    assert_eq!(
        machine.step(wants(), at(11)),
        Some(Action::Look(next("corp"))),
        "nothing changes by saying it again"
    );
    let turned = [member("corp", Retired, 12), of(Active, 12)];
    assert_eq!(keeps(&mut machine, Event::Clear(next("corp")), 12, &turned), None);
    assert_eq!(machine.active(&named("corp")), Some(&next("corp")));
    // Back to the one before: it is prepared, and the newer one signs until then.
    let back = [member("corp", Prepared, 20), of(Active, 12)];
    assert_eq!(keeps(&mut machine, wanted(&["corp"]), 20, &back), Some(Action::Look(source("corp"))));
    let turned = [member("corp", Active, 21), of(Retired, 21)];
    assert_eq!(keeps(&mut machine, Event::Clear(source("corp")), 21, &turned), None);
}

#[test]
fn one_that_is_left_in_a_hurry_goes_when_nobody_shows_it_whatever_has_not_ended() {
    let mut machine = signing();
    assert_eq!(machine.step(Event::Paused(Some(at(9999))), at(90)), None);
    let left = Event::Wanted(Wanted { left: [named("corp")].into(), ..Wanted::default() });
    let hurried = [LeafIssuer { is_hurried: true, ..member("corp", Retired, 100) }];
    let seek = Some(Action::Seek(source("corp")));
    assert_eq!(keeps(&mut machine, left, 100, &hurried), None, "what is under way arrives first");
    assert_eq!(machine.deadline(), Some(at(160)));
    assert_eq!(machine.step(Event::Tick, at(160)), seek);
    assert_eq!(machine.step(Event::Shown(source("corp")), at(160)), None);
    assert_eq!(machine.deadline(), Some(at(161)));
    assert_eq!(machine.step(Event::Tick, at(161)), seek);
    assert_eq!(keeps(&mut machine, Event::Unseen(source("corp")), 162, &[]), None);
    assert_eq!(machine.deadline(), None);

    // After a start nobody is asked before proxies are back. Wanted again, it is as any other.
    let mut machine = Delegation::resume(SETTINGS, hurried.to_vec(), at(500));
    let count = Some(Action::Count { source: source("corp"), at: at(380) });
    assert_eq!(machine.step(Event::Tick, at(500)), count);
    assert_eq!(machine.step(Event::Counted(source("corp"), leaves(1, 9000)), at(500)), None);
    assert_eq!(machine.deadline(), Some(at(560)));
    assert_eq!(machine.step(Event::Tick, at(560)), seek);
    let back = [member("corp", Prepared, 570)];
    assert_eq!(machine.step(wanted(&["corp"]), at(570)), None);
    let look = keeps(&mut machine, Event::Unseen(source("corp")), 570, &back);
    assert_eq!(look, Some(Action::Look(source("corp"))));
}

#[test]
fn no_pause_holds_the_gate_of_whoever_is_to_sign_in_a_hurry() {
    let mut machine = machine();
    assert_eq!(machine.step(Event::Paused(Some(at(900))), at(0)), None);
    let sources: BTreeSet<_> = [source("corp")].into();
    let hurried = Event::Wanted(Wanted { sources, is_hurried: true, ..Wanted::default() });
    let prepared = [member("corp", Prepared, 0)];
    assert_eq!(keeps(&mut machine, hurried, 0, &prepared), Some(Action::Look(source("corp"))));
}

#[test]
fn whoever_was_prepared_and_is_not_wanted_any_more_signs_nothing() {
    let mut machine = machine();
    let prepared = [member("corp", Prepared, 0)];
    let look = keeps(&mut machine, wanted(&["corp"]), 0, &prepared);
    assert_eq!(look, Some(Action::Look(source("corp"))));
    // It is said while somebody looks, and wins over what is found.
    assert_eq!(machine.step(wanted(&[]), at(1)), None);
    assert_eq!(keeps(&mut machine, Event::Clear(source("corp")), 2, &[member("corp", Retired, 2)]), None);
    assert_eq!(machine.step(Event::Tick, at(3)), None);
    assert_eq!(machine.active(&named("corp")), None);
}

#[test]
fn what_stands_already_changes_nothing() {
    let mut machine = signing();
    assert_eq!(machine.step(wanted(&["corp"]), at(9)), None);
    let mut machine = self::machine();
    assert_eq!(machine.step(wanted(&[]), at(9)), None);
}

#[test]
fn a_pause_holds_the_gate_and_a_failed_write_is_tried_again_ever_later() {
    let mut machine = machine();
    assert_eq!(machine.step(Event::Paused(Some(at(40))), at(0)), None);
    let prepared = [member("corp", Prepared, 0)];
    assert_eq!(keeps(&mut machine, wanted(&["corp"]), 0, &prepared), None);
    assert_eq!(machine.deadline(), Some(at(40)));
    assert_eq!(machine.step(Event::Tick, at(40)), Some(Action::Look(source("corp"))));
    let keep = Some(Action::Keep(vec![member("corp", Active, 41)]));
    assert_eq!(machine.step(Event::Clear(source("corp")), at(41)), keep);
    for (now, until) in [(41, 51), (51, 71), (71, 111)] {
        assert_eq!(machine.step(Event::KeepFailed, at(now)), None);
        assert_eq!(machine.deadline(), Some(at(until)));
        assert_eq!(
            machine.step(Event::Tick, at(until)),
            Some(Action::Look(source("corp"))),
            "looked at anew"
        );
        let again = Some(Action::Keep(vec![member("corp", Active, until)]));
        assert_eq!(machine.step(Event::Clear(source("corp")), at(until)), again);
    }
}

/// The world around the machine: what is kept, and until when leaves of each issuer live.
#[derive(Default)]
struct Around {
    kept: Vec<LeafIssuer>,
    leaves: BTreeMap<Source, u64>,
    /// Looked at and found clear, since it was prepared.
    cleared: BTreeSet<Source>,
    /// Nobody showed a leaf of it, since it is left in a hurry.
    unseen: BTreeSet<Source>,
}

impl Around {
    fn keep(&mut self, next: &[LeafIssuer], now: u64) {
        for one in next {
            let is_other =
                |other: &&LeafIssuer| other.source.name == one.source.name && other.source != one.source;
            let others: Vec<_> = next.iter().filter(is_other).map(|other| other.state).collect();
            assert!(one.state != Active || !others.contains(&Active), "two roots of one sign: {next:?}");
            let before = self.kept.iter().find(|known| known.source == one.source).map(|known| known.state);
            match one.state {
                Active if before != Some(Active) => {
                    assert_eq!(before, Some(Prepared), "{next:?}");
                    assert!(self.cleared.remove(&one.source), "{next:?}");
                }
                Prepared if before != Some(Prepared) => drop(self.cleared.remove(&one.source)),
                Retired if before != Some(Retired) => drop(self.unseen.remove(&one.source)),
                _ => {}
            }
            assert!(!one.is_hurried || one.state == Retired, "{next:?}");
        }
        for gone in self.kept.iter().filter(|known| !next.iter().any(|one| one.source == known.source)) {
            assert_eq!(gone.state, Retired);
            let last = self.leaves.get(&gone.source).copied().unwrap_or(0);
            let is_left = gone.is_hurried && self.unseen.contains(&gone.source);
            assert!(last < now || is_left, "{gone:?} leaves at {now}, its last leaf lives until {last}");
        }
        self.kept = next.to_vec();
    }
}

#[test]
fn whatever_happens_in_whatever_order_nobody_is_left_with_a_leaf_that_is_not_believed() {
    let all: Vec<Source> = ["a", "b", "c"]
        .into_iter()
        .flat_map(|name| [0, 1].map(|generation| Source { name: named(name), generation }))
        .collect();
    for seed in 0..600 {
        let (mut random, mut around, mut now) = (Random::new(seed), Around::default(), 0);
        let mut machine = machine();
        let mut pending: Option<Action> = None;
        for _ in 0..300 {
            now += random.below(40);
            for one in machine.members().iter().filter(|one| one.state == Active) {
                if random.once_in(2) {
                    // A request that was written down lives as long as what it may bring.
                    around.leaves.insert(one.source.clone(), now + 60);
                }
            }
            // An answer may take its time.
            let answered = if random.once_in(4) { None } else { pending.take() };
            let event = match answered {
                Some(Action::Look(source)) if random.once_in(3) => {
                    around.cleared.insert(source.clone());
                    Event::Clear(source)
                }
                Some(Action::Look(source)) => Event::Behind(source),
                Some(Action::Seek(source)) if random.once_in(3) => {
                    around.unseen.insert(source.clone());
                    Event::Unseen(source)
                }
                Some(Action::Seek(source)) => Event::Shown(source),
                Some(Action::Keep(_)) if random.once_in(5) => Event::KeepFailed,
                Some(Action::Keep(next)) => {
                    around.keep(&next, now);
                    Event::Kept(next)
                }
                Some(Action::Count { source, .. }) if random.once_in(5) => Event::CountFailed(source),
                Some(Action::Count { source, at: when }) => {
                    let last = around.leaves.get(&source).copied().filter(|last| at(*last) >= when);
                    let found = Leaves { count: u64::from(last.is_some()), last: last.map(at) };
                    Event::Counted(source, found)
                }
                None if random.once_in(3) => {
                    let mut sources = BTreeMap::new();
                    for _ in 0..random.below(4) {
                        let source = random.of(&all).clone();
                        sources.insert(source.name.clone(), source);
                    }
                    let sources: BTreeSet<_> = sources.into_values().collect();
                    let is_free = |source: &&Source| !sources.iter().any(|one| one.name == source.name);
                    let free = all.iter().find(is_free).filter(|_| random.once_in(3));
                    let left = free.map(|source| source.name.clone()).into_iter().collect();
                    Event::Wanted(Wanted { left, sources, is_hurried: random.once_in(4) })
                }
                None if random.once_in(6) => {
                    Event::Paused(random.once_in(2).then(|| at(now + random.below(100))))
                }
                None => Event::Tick,
            };
            let action = machine.step(event, at(now));
            assert!(pending.is_none() || action.is_none(), "seed {seed}: one thing at a time");
            pending = pending.or(action);
            assert_eq!(machine.members(), around.kept, "seed {seed}");
            let stands = machine.members().iter().any(|one| one.state != Active);
            assert!(!stands || pending.is_some() || machine.deadline().is_some(), "seed {seed}: stuck");
        }
    }
}
