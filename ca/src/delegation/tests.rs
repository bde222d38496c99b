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

const SETTINGS: Settings = Settings {
    grace: Duration::from_secs(120),
    look: Duration::from_secs(1),
    retry: Duration::from_secs(10),
};

fn member(name: &str, state: AuthorityState, since: u64) -> LeafIssuer {
    LeafIssuer { name: named(name), state, since: at(since) }
}

fn machine() -> Delegation {
    Delegation::resume(SETTINGS, Vec::new())
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
    let look = Some(Action::Look(named("corp")));
    let prepared = [member("corp", Prepared, 0)];
    assert_eq!(keeps(&mut machine, Event::Wanted(Some(named("corp"))), 0, &prepared), look);
    let active = [member("corp", Active, 5)];
    assert_eq!(machine.step(Event::Behind(named("corp")), at(0)), None);
    assert_eq!(machine.deadline(), Some(at(1)));
    assert_eq!(machine.step(Event::Tick, at(5)), look);
    assert_eq!(keeps(&mut machine, Event::Clear(named("corp")), 5, &active), None);
    machine
}

#[test]
fn signs_nothing_before_somebody_looked_and_found_nobody_behind() {
    let machine = signing();
    assert_eq!((machine.active(), machine.prepared()), (Some(&named("corp")), None));
    assert_eq!(machine.deadline(), None);
}

#[test]
fn back_to_the_built_in_one_waits_for_nobody_and_the_root_stays_until_the_last_leaf() {
    let mut machine = signing();
    let retired = [member("corp", Retired, 100)];
    assert_eq!(keeps(&mut machine, Event::Wanted(None), 100, &retired), None);
    assert_eq!((machine.active(), machine.deadline()), (None, Some(at(220))));
    let count = |at| Some(Action::Count { name: named("corp"), at });
    assert_eq!(machine.step(Event::Tick, at(220)), count(at(100)));
    assert_eq!(machine.step(Event::Counted(named("corp"), leaves(2, 500)), at(220)), None);
    assert_eq!(machine.deadline(), Some(at(621)));
    assert_eq!(machine.step(Event::Tick, at(621)), count(at(501)));
    assert_eq!(machine.step(Event::CountFailed(named("corp")), at(621)), None);
    assert_eq!(machine.step(Event::Tick, at(631)), count(at(511)));
    let none = Event::Counted(named("corp"), Leaves::default());
    assert_eq!(keeps(&mut machine, none, 631, &[]), None);
    assert_eq!((machine.members(), machine.deadline()), (&[][..], None));
}

#[test]
fn the_one_that_signs_goes_on_until_the_next_one_may() {
    let mut machine = signing();
    let both = [member("corp", Active, 5), member("other", Prepared, 50)];
    let look = Some(Action::Look(named("other")));
    assert_eq!(keeps(&mut machine, Event::Wanted(Some(named("other"))), 50, &both), look);
    assert_eq!(machine.active(), Some(&named("corp")));
    let turned = [member("corp", Retired, 60), member("other", Active, 60)];
    assert_eq!(machine.step(Event::Behind(named("other")), at(51)), None);
    assert_eq!(machine.step(Event::Tick, at(59)), look);
    assert_eq!(keeps(&mut machine, Event::Clear(named("other")), 60, &turned), None);
    // The one before is wanted again: it goes through the gate again, nobody knows who came meanwhile.
    let back = [member("corp", Prepared, 70), member("other", Active, 60)];
    let look = Some(Action::Look(named("corp")));
    assert_eq!(keeps(&mut machine, Event::Wanted(Some(named("corp"))), 70, &back), look);
}

#[test]
fn whoever_was_prepared_and_is_not_wanted_any_more_signs_nothing() {
    let mut machine = machine();
    let prepared = [member("corp", Prepared, 0)];
    let look = keeps(&mut machine, Event::Wanted(Some(named("corp"))), 0, &prepared);
    assert_eq!(look, Some(Action::Look(named("corp"))));
    // It is said while somebody looks, and wins over what is found.
    assert_eq!(machine.step(Event::Wanted(None), at(1)), None);
    assert_eq!(keeps(&mut machine, Event::Clear(named("corp")), 2, &[member("corp", Retired, 2)]), None);
    assert_eq!(machine.step(Event::Tick, at(3)), None);
    assert_eq!(machine.active(), None);
}

#[test]
fn what_stands_already_changes_nothing() {
    let mut machine = signing();
    assert_eq!(machine.step(Event::Wanted(Some(named("corp"))), at(9)), None);
    let mut machine = self::machine();
    assert_eq!(machine.step(Event::Wanted(None), at(9)), None);
}

#[test]
fn a_pause_holds_the_gate_and_a_failed_write_is_tried_again_ever_later() {
    let mut machine = machine();
    assert_eq!(machine.step(Event::Paused(Some(at(40))), at(0)), None);
    let prepared = [member("corp", Prepared, 0)];
    assert_eq!(keeps(&mut machine, Event::Wanted(Some(named("corp"))), 0, &prepared), None);
    assert_eq!(machine.deadline(), Some(at(40)));
    assert_eq!(machine.step(Event::Tick, at(40)), Some(Action::Look(named("corp"))));
    let keep = Some(Action::Keep(vec![member("corp", Active, 41)]));
    assert_eq!(machine.step(Event::Clear(named("corp")), at(41)), keep);
    for (now, until) in [(41, 51), (51, 71), (71, 111)] {
        assert_eq!(machine.step(Event::KeepFailed, at(now)), None);
        assert_eq!(machine.deadline(), Some(at(until)));
        assert_eq!(machine.step(Event::Tick, at(until)), Some(Action::Look(named("corp"))), "looked at anew");
        let again = Some(Action::Keep(vec![member("corp", Active, until)]));
        assert_eq!(machine.step(Event::Clear(named("corp")), at(until)), again);
    }
}

/// The world around the machine: what is kept, and until when leaves of each issuer live.
#[derive(Default)]
struct Around {
    kept: Vec<LeafIssuer>,
    leaves: BTreeMap<IssuerName, u64>,
    /// Looked at and found clear, since it was prepared.
    cleared: BTreeSet<IssuerName>,
}

impl Around {
    fn keep(&mut self, next: &[LeafIssuer], now: u64) {
        let in_state = |state| next.iter().filter(|one| one.state == state).count();
        assert!(in_state(Prepared) <= 1 && in_state(Active) <= 1, "{next:?}");
        for one in next {
            let before = self.kept.iter().find(|known| known.name == one.name).map(|known| known.state);
            match one.state {
                Active if before != Some(Active) => {
                    assert_eq!(before, Some(Prepared), "{next:?}");
                    assert!(self.cleared.remove(&one.name), "{next:?}");
                }
                Prepared if before != Some(Prepared) => drop(self.cleared.remove(&one.name)),
                _ => {}
            }
        }
        for gone in self.kept.iter().filter(|known| !next.iter().any(|one| one.name == known.name)) {
            assert_eq!(gone.state, Retired);
            let last = self.leaves.get(&gone.name).copied().unwrap_or(0);
            assert!(last < now, "{gone:?} leaves at {now}, its last leaf lives until {last}");
        }
        self.kept = next.to_vec();
    }
}

#[test]
fn whatever_happens_in_whatever_order_nobody_is_left_with_a_leaf_that_is_not_believed() {
    let names = ["a", "b", "c"].map(named);
    for seed in 0..400 {
        let (mut random, mut around, mut now) = (Random::new(seed), Around::default(), 0);
        let mut machine = machine();
        let mut pending: Option<Action> = None;
        for _ in 0..300 {
            now += random.below(40);
            if let Some(active) = machine.active().cloned().filter(|_| random.once_in(2)) {
                // A request that was written down lives as long as what it may bring.
                around.leaves.insert(active, now + 60);
            }
            // An answer may take its time.
            let answered = if random.once_in(4) { None } else { pending.take() };
            let event = match answered {
                Some(Action::Look(name)) if random.once_in(3) => {
                    around.cleared.insert(name.clone());
                    Event::Clear(name)
                }
                Some(Action::Look(name)) => Event::Behind(name),
                Some(Action::Keep(_)) if random.once_in(5) => Event::KeepFailed,
                Some(Action::Keep(next)) => {
                    around.keep(&next, now);
                    Event::Kept(next)
                }
                Some(Action::Count { name, .. }) if random.once_in(5) => Event::CountFailed(name),
                Some(Action::Count { name, at: when }) => {
                    let last = around.leaves.get(&name).copied().filter(|last| at(*last) >= when);
                    let found = Leaves { count: u64::from(last.is_some()), last: last.map(at) };
                    Event::Counted(name, found)
                }
                None if random.once_in(3) => {
                    let wanted = random.once_in(2).then(|| random.of(&names).clone());
                    Event::Wanted(wanted)
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
