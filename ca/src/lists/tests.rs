use certs::SpkiHash;

use super::*;

const DAY: u64 = 86_400;

fn id(number: u32) -> AuthorityId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    AuthorityId::of(SpkiHash(key))
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
}

fn settings() -> Settings {
    Settings::new(Duration::from_secs(8 * DAY))
}

/// These, each with whether it has signed.
fn issuers(all: &[(u32, bool)]) -> Event {
    Event::Issuers(all.iter().map(|(number, has_signed)| (id(*number), *has_signed)).collect())
}

fn made(number: u32, now: Timestamp) -> Event {
    Event::Made(id(number), Made { at: now, ends: now + Duration::from_secs(8 * DAY) })
}

/// A machine that shows the list of authority 1, made at second 0.
fn running() -> Lists {
    let mut machine = Lists::resume(settings(), []);
    assert_eq!(machine.step(issuers(&[(1, true)]), at(0)), [Action::Make(id(1))]);
    assert_eq!(machine.step(made(1, at(0)), at(0)), [Action::Show]);
    machine
}

#[test]
fn makes_the_next_list_at_half_of_its_life_and_shows_it() {
    let mut machine = running();
    assert_eq!(machine.deadline(), Some(at(4 * DAY)));
    assert_eq!(machine.step(Event::Tick, at(4 * DAY - 1)), []);
    assert_eq!(machine.step(Event::Tick, at(4 * DAY)), [Action::Make(id(1))]);
    assert_eq!(machine.step(Event::Tick, at(4 * DAY + 1)), [], "one try at a time");
    assert_eq!(machine.step(made(1, at(4 * DAY + 1)), at(4 * DAY + 1)), [Action::Show]);
    assert_eq!(machine.deadline(), Some(at(8 * DAY + 1)));
}

#[test]
fn shows_lists_together_or_not_at_all() {
    let mut machine = Lists::resume(settings(), []);
    let all = [Action::Make(id(1)), Action::Make(id(2))];
    assert_eq!(machine.step(issuers(&[(1, true), (2, true)]), at(0)), all);
    assert_eq!(machine.step(made(1, at(0)), at(0)), []);
    assert_eq!(machine.step(Event::Failed(id(2)), at(0)), [], "nothing was shown, nothing is withdrawn");
    assert!(!machine.is_shown());
    assert_eq!(machine.deadline(), Some(at(60)));
    assert_eq!(machine.step(Event::Tick, at(60)), [Action::Make(id(2))]);
    assert_eq!(machine.step(made(2, at(60)), at(60)), [Action::Show]);
    // One that goes takes its list with it.
    assert_eq!(machine.step(issuers(&[(2, true)]), at(70)), [Action::Show]);
    assert_eq!(machine.step(issuers(&[(2, true)]), at(71)), []);
}

#[test]
fn an_authority_that_signs_nothing_yet_holds_no_list_back() {
    let mut machine = running();
    assert_eq!(machine.step(issuers(&[(1, true), (2, false)]), at(10)), [Action::Make(id(2))]);
    assert_eq!(machine.step(Event::Failed(id(2)), at(10)), []);
    assert!(machine.is_shown());
    // Once it signs without a list, whoever checks would refuse its leaves.
    let now = at(20);
    assert_eq!(machine.step(issuers(&[(1, true), (2, true)]), now), [Action::Make(id(2))]);
    assert_eq!(machine.step(Event::Failed(id(2)), now), [Action::Withdraw(id(2))]);
    assert_eq!(machine.step(Event::Tick, at(140)), [Action::Make(id(2))]);
    assert_eq!(machine.step(made(2, at(140)), at(140)), [Action::Show]);
}

#[test]
fn a_list_that_cannot_be_renewed_is_withdrawn_with_the_others_at_three_quarters() {
    let mut machine = running();
    machine.step(issuers(&[(1, true), (2, true)]), at(DAY));
    machine.step(made(2, at(DAY)), at(DAY));
    let mut now = at(4 * DAY);
    assert_eq!(machine.step(Event::Tick, now), [Action::Make(id(1))]);
    for wait in [60, 120, 240, 480, 900, 900] {
        assert_eq!(machine.step(Event::Failed(id(1)), now), [], "what is shown stays while it is fresh");
        now = now + Duration::from_secs(wait);
        assert_eq!(machine.deadline(), Some(now));
        assert_eq!(machine.step(Event::Tick, now), [Action::Make(id(1))]);
    }
    assert_eq!(machine.step(Event::Tick, at(5 * DAY)), [Action::Make(id(2))], "the other one goes on");
    assert_eq!(machine.step(made(2, at(5 * DAY)), at(5 * DAY)), []);
    assert_eq!(machine.step(Event::Failed(id(1)), at(6 * DAY - 10)), [Action::Show], "fresh enough still");
    assert_eq!(machine.deadline(), Some(at(6 * DAY)), "three quarters come before the next try");
    assert_eq!(machine.step(Event::Tick, at(6 * DAY)), [Action::Withdraw(id(1))]);
    assert!(!machine.is_shown());
    assert_eq!(machine.step(Event::Tick, at(6 * DAY + 1)), [], "said once");
    let now = at(6 * DAY + 890);
    assert_eq!(machine.step(Event::Tick, now), [Action::Make(id(1))]);
    assert_eq!(machine.step(made(1, now), now), [Action::Show], "and they come back by themselves");
}

#[test]
fn a_revocation_is_listed_when_its_successor_is_in_use_and_soon_at_the_latest() {
    let mut machine = running();
    assert_eq!(machine.step(Event::Revoked(id(1), at(15)), at(10)), []);
    assert_eq!(machine.deadline(), Some(at(15)));
    assert_eq!(machine.step(Event::Revoked(id(1), at(17)), at(12)), []);
    assert_eq!(machine.step(Event::Tick, at(15)), [Action::Make(id(1))], "both are on it");
    // What is revoked while a list is being made wants the next one.
    assert_eq!(machine.step(Event::Revoked(id(1), at(20)), at(15)), []);
    assert_eq!(machine.step(made(1, at(15)), at(15)), [Action::Show]);
    assert_eq!(machine.deadline(), Some(at(20)));
    assert_eq!(machine.step(Event::Replaced(id(1)), at(16)), []);
    assert_eq!(machine.deadline(), Some(at(16) + SETTLE));
    let now = at(16) + SETTLE;
    assert_eq!(machine.step(Event::Tick, now), [Action::Make(id(1))]);
    machine.step(made(1, now), now);
    assert_eq!(machine.step(Event::Replaced(id(1)), at(30)), [], "nothing is wanted");
    assert_eq!(machine.deadline(), Some(now + Duration::from_secs(4 * DAY)));
    assert_eq!(machine.step(Event::Revoked(id(9), at(31)), at(30)), [], "nobody's");
}

#[test]
fn goes_on_with_what_was_made_before() {
    let kept = Made { at: at(0), ends: at(8 * DAY) };
    let mut machine = Lists::resume(settings(), [(id(1), kept), (id(7), kept)]);
    assert_eq!(
        machine.step(issuers(&[(1, true)]), at(DAY)),
        [Action::Show],
        "the one that went is forgotten"
    );
    let mut machine = Lists::resume(settings(), [(id(1), kept)]);
    assert_eq!(machine.step(issuers(&[(1, true)]), at(5 * DAY)), [Action::Make(id(1))]);
    assert_eq!(machine.step(Event::Failed(id(1)), at(5 * DAY)), [Action::Show], "it is fresh enough");
    let mut machine = Lists::resume(settings(), [(id(1), kept)]);
    assert_eq!(machine.step(issuers(&[(1, true)]), at(7 * DAY)), [Action::Make(id(1))]);
    assert_eq!(machine.step(Event::Failed(id(1)), at(7 * DAY)), []);
    assert!(!machine.is_shown(), "one that is about to end is never shown");
}

/// What the store holds, and what proxies were shown last.
#[derive(Default)]
struct World {
    issuers: BTreeMap<AuthorityId, bool>,
    kept: BTreeMap<AuthorityId, Made>,
    /// Revocations that are on no list, by the hour until which they must be on one.
    unlisted: BTreeMap<AuthorityId, Vec<Timestamp>>,
    shown: Option<BTreeMap<AuthorityId, Made>>,
    failing: bool,
    failed: bool,
    counts: [u32; 3],
}

impl World {
    fn carry_out(&mut self, action: Action, now: Timestamp) -> Option<Event> {
        match action {
            Action::Make(id) if self.failing => {
                self.failed = true;
                Some(Event::Failed(id))
            }
            Action::Make(id) => {
                let made = Made { at: now, ends: now + Duration::from_secs(8 * DAY) };
                self.kept.insert(id, made);
                self.unlisted.remove(&id);
                self.counts[0] += 1;
                Some(Event::Made(id, made))
            }
            Action::Show => {
                let fresh = self.kept.iter().filter(|(_, made)| now < made.withdrawn());
                self.shown = Some(fresh.map(|(id, made)| (*id, *made)).collect());
                self.counts[1] += 1;
                None
            }
            Action::Withdraw(id) => {
                assert!(self.failed, "{id} is withdrawn although nothing failed");
                self.shown = None;
                self.counts[2] += 1;
                None
            }
        }
    }

    fn check(&self, machine: &Lists, now: Timestamp) {
        assert_eq!(machine.is_shown(), self.shown.is_some());
        for (id, _) in self.issuers.iter().filter(|(_, has_signed)| **has_signed) {
            let Some(shown) = &self.shown else { break };
            let made = shown.get(id).expect("what is shown is complete");
            assert!(now < made.withdrawn(), "a list that is about to end is shown");
            assert_eq!(made, &self.kept[id], "the newest is shown");
        }
        let due = self.unlisted.values().flatten();
        assert!(self.failed || due.min().is_none_or(|by| *by > now), "a revocation is late");
        assert!(machine.deadline().is_none_or(|deadline| deadline > now), "nothing due is left undone");
    }
}

#[test]
fn a_random_walk_keeps_the_invariants() {
    let mut seed = 0x0c41_5eed_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut world = World { issuers: BTreeMap::from([(id(0), true)]), ..World::default() };
    let mut machine = Lists::resume(settings(), []);
    let (mut now, mut authorities) = (at(0), 1);
    let mut events = vec![Event::Issuers(world.issuers.clone())];
    for _ in 0..40_000_u32 {
        while let Some(event) = events.pop() {
            for action in machine.step(event, now) {
                events.extend(world.carry_out(action, now));
            }
        }
        world.check(&machine, now);
        if !world.failing && world.shown.is_some() && world.unlisted.is_empty() {
            world.failed = false;
        }
        match random(12) {
            // Fails for a while, or works again.
            0 if world.failing => world.failing = random(30) > 0,
            0 => world.failing = random(4) == 0,
            1 => {
                let victim = *world.issuers.keys().next().unwrap();
                let by = now + Duration::from_secs(5);
                world.unlisted.entry(victim).or_default().push(by);
                events.push(Event::Revoked(victim, by));
            }
            2 => events.push(Event::Replaced(*world.issuers.keys().next().unwrap())),
            3 => {
                if random(2) == 0 && world.issuers.len() < 5 {
                    world.issuers.insert(id(authorities), false);
                    authorities += 1;
                } else if random(2) == 0 && world.issuers.len() > 1 {
                    let (gone, _) = world.issuers.pop_first().unwrap();
                    world.kept.remove(&gone);
                    world.unlisted.remove(&gone);
                } else if let Some(has_signed) = world.issuers.values_mut().find(|signed| !**signed) {
                    *has_signed = true;
                }
                events.push(Event::Issuers(world.issuers.clone()));
            }
            // A crash: what was shown is shown on, until the next process says otherwise.
            4 if random(20) == 0 => {
                machine = Lists::resume(settings(), world.kept.clone());
                machine.open(&world.unlisted.keys().copied().collect(), now);
                world.shown = None;
                events = vec![Event::Issuers(world.issuers.clone())];
            }
            5..=8 => {
                now = machine.deadline().unwrap();
                events.push(Event::Tick);
            }
            _ => {
                let next = now + Duration::from_secs(random(DAY));
                now = next.min(machine.deadline().unwrap());
                events.push(Event::Tick);
            }
        }
    }
    assert!(world.counts.iter().all(|count| *count > 100), "{:?}", world.counts);
}
