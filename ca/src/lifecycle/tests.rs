use std::collections::BTreeSet;

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
    Settings::new(Duration::from_secs(30 * DAY), Duration::from_secs(DAY))
}

fn prepared(number: u32, created: Timestamp) -> Event {
    Event::Prepared { id: id(number), created, not_after: created + Duration::from_secs(30 * DAY) }
}

/// That nobody is in the way of a prepared authority, which then becomes active.
fn passes(machine: &mut Lifecycle, new: u32, old: Option<u32>, now: Timestamp) {
    let activate = [Action::Activate { new: id(new), old: old.map(id) }];
    assert_eq!(machine.step(Event::Clear(id(new)), now), activate);
}

/// A machine whose authority 1 was activated at second 0.
fn running() -> Lifecycle {
    let mut machine = Lifecycle::resume(settings(), &[]);
    assert_eq!(machine.step(Event::Tick, at(0)), [Action::Prepare]);
    assert_eq!(machine.step(prepared(1, at(0)), at(0)), [Action::Look(id(1))]);
    passes(&mut machine, 1, None, at(0));
    assert_eq!(machine.step(Event::Activated(id(1)), at(0)), []);
    machine
}

fn leaves(count: u64, last: u64) -> Leaves {
    Leaves { count, last: Some(at(last)) }
}

#[test]
fn replaces_the_issuing_authority_at_half_of_its_life() {
    let mut machine = running();
    assert_eq!(machine.deadline(), Some(at(15 * DAY)));
    assert_eq!(machine.step(Event::Tick, at(15 * DAY - 1)), []);
    assert_eq!(machine.step(Event::Tick, at(15 * DAY)), [Action::Prepare]);
    assert_eq!(machine.step(Event::Tick, at(15 * DAY + 1)), [], "one try at a time");
    assert_eq!(machine.active(), Some(id(1)));
    let now = at(15 * DAY + 2);
    assert_eq!(machine.step(prepared(2, now), now), [Action::Look(id(2))]);
    passes(&mut machine, 2, Some(1), now);
    assert_eq!(machine.active(), Some(id(1)), "until the change is kept");
    assert_eq!(machine.step(Event::Activated(id(2)), now), []);
    assert_eq!(machine.active(), Some(id(2)));
    assert_eq!(machine.next_rotation(), Some(at(30 * DAY + 2)));
}

#[test]
fn keeps_a_retired_authority_until_a_grace_after_its_last_leaf() {
    let mut machine = running();
    assert_eq!(machine.step(Event::RotationRequested, at(10)), [Action::Prepare]);
    machine.step(prepared(2, at(10)), at(10));
    passes(&mut machine, 2, Some(1), at(10));
    machine.step(Event::Activated(id(2)), at(10));
    assert_eq!(machine.deadline(), Some(at(130)));
    assert_eq!(machine.step(Event::Tick, at(130)), [Action::CountLeaves { id: id(1), at: at(10) }]);
    assert_eq!(machine.step(Event::Counted(id(1), leaves(3, 5000)), at(130)), []);
    assert_eq!(machine.deadline(), Some(at(5121)));
    assert_eq!(machine.step(Event::Tick, at(5121)), [Action::CountLeaves { id: id(1), at: at(5001) }]);
    assert_eq!(machine.step(Event::CountFailed(id(1)), at(5121)), []);
    assert_eq!(machine.deadline(), Some(at(5181)));
    assert_eq!(machine.step(Event::Tick, at(5181)).len(), 1);
    let remove = [Action::Remove { id: id(1), from: AuthorityState::Retired }];
    assert_eq!(machine.step(Event::Counted(id(1), Leaves::default()), at(5181)), remove);
    assert_eq!(machine.step(Event::RemoveFailed(id(1)), at(5181)), []);
    assert_eq!(machine.step(Event::Tick, at(5241)), [Action::CountLeaves { id: id(1), at: at(5121) }]);
    assert_eq!(machine.step(Event::Counted(id(1), Leaves::default()), at(5241)), remove);
    assert_eq!(machine.step(Event::Removed(id(1)), at(5241)), []);
    assert_eq!(machine.deadline(), machine.next_rotation());
}

#[test]
fn backs_off_while_preparing_fails_and_an_operator_may_cut_the_wait_short() {
    let mut machine = running();
    let mut now = at(15 * DAY);
    assert_eq!(machine.step(Event::Tick, now), [Action::Prepare]);
    for wait in [60, 120, 240, 480, 900, 900] {
        assert_eq!(machine.step(Event::PrepareFailed, now), []);
        let until = now + Duration::from_secs(wait);
        assert_eq!(machine.deadline(), Some(until));
        now = until;
        assert_eq!(machine.step(Event::Tick, now), [Action::Prepare]);
    }
    assert_eq!(machine.active(), Some(id(1)), "the old one signs on");
    machine.step(Event::PrepareFailed, now);
    assert_eq!(machine.step(Event::RotationRequested, now), [Action::Prepare]);
    // A refused wish is not tried again by itself before the half life.
    let mut machine = running();
    assert_eq!(machine.step(Event::RotationRequested, at(5)), [Action::Prepare]);
    assert_eq!(machine.step(Event::PrepareFailed, at(5)), []);
    assert_eq!(machine.step(Event::Tick, at(65)), []);
    assert_eq!(machine.deadline(), Some(at(15 * DAY)));
}

#[test]
fn uses_what_was_prepared_before_activation_failed() {
    let mut machine = running();
    machine.step(Event::RotationRequested, at(5));
    machine.step(prepared(2, at(5)), at(5));
    passes(&mut machine, 2, Some(1), at(5));
    assert_eq!(machine.step(Event::ActivateFailed, at(5)), []);
    assert_eq!(machine.step(Event::Tick, at(65)), [Action::Look(id(2))]);
    passes(&mut machine, 2, Some(1), at(65));
    machine.step(Event::ActivateFailed, at(65));
    // Too old by now: another is made, and this one leaves unused.
    let late = at(16 * DAY);
    assert_eq!(machine.step(Event::Tick, late), [Action::Prepare]);
    assert_eq!(machine.step(prepared(3, late), late), [Action::Look(id(3))]);
    passes(&mut machine, 3, Some(1), late);
    assert_eq!(
        machine.step(Event::Activated(id(3)), late),
        [Action::Remove { id: id(2), from: AuthorityState::Prepared }]
    );
}

#[test]
fn waits_at_the_barrier_for_laggards_and_not_past_the_point_where_signing_ends() {
    let mut machine = running();
    assert_eq!(machine.step(Event::RotationRequested, at(10)), [Action::Prepare]);
    assert_eq!(machine.step(prepared(2, at(10)), at(10)), [Action::Look(id(2))]);
    assert_eq!(machine.step(Event::Behind(id(2)), at(10)), []);
    assert!(machine.is_barred() && !machine.is_at_risk(at(10)));
    assert_eq!(machine.deadline(), Some(at(11)));
    assert_eq!(machine.step(Event::Tick, at(11)), [Action::Look(id(2))]);
    assert_eq!(machine.step(Event::RotationRequested, at(11)), [], "it is under way");
    passes(&mut machine, 2, Some(1), at(11));
    machine.step(Event::Activated(id(2)), at(11));
    assert!(!machine.is_barred());

    // By itself, from half of its life: at risk at three quarters, without laggards' consent at nine tenths.
    let mut machine = running();
    machine.step(Event::Tick, at(15 * DAY));
    machine.step(prepared(2, at(15 * DAY)), at(15 * DAY));
    machine.step(Event::Behind(id(2)), at(15 * DAY));
    assert!(!machine.is_at_risk(at(22 * DAY)) && machine.is_at_risk(at(23 * DAY)));
    assert_eq!(machine.step(Event::Tick, at(27 * DAY - 1)), [Action::Look(id(2))]);
    assert_eq!(machine.step(Event::Behind(id(2)), at(27 * DAY - 1)), []);
    assert_eq!(machine.step(Event::Tick, at(27 * DAY)), [Action::Look(id(2))]);
    let activate = [Action::Activate { new: id(2), old: Some(id(1)) }];
    assert_eq!(machine.step(Event::Behind(id(2)), at(27 * DAY)), activate);

    // Of an authority that lives six lives of a leaf, two of which it needs to sign: at three fifths.
    let short = Settings::new(Duration::from_secs(6 * DAY), Duration::from_secs(2 * DAY));
    let mut machine = Lifecycle::resume(short, &[]);
    let six_days = |number, now: Timestamp| Event::Prepared {
        id: id(number),
        created: now,
        not_after: now + Duration::from_secs(6 * DAY),
    };
    machine.step(Event::Tick, at(0));
    machine.step(six_days(1, at(0)), at(0));
    assert_eq!(machine.step(Event::Behind(id(1)), at(0)), [Action::Activate { new: id(1), old: None }]);
    machine.step(Event::Activated(id(1)), at(0));
    assert_eq!(machine.step(Event::Tick, at(3 * DAY)), [Action::Prepare]);
    machine.step(six_days(2, at(3 * DAY)), at(3 * DAY));
    let must_go = 6 * DAY - 2 * DAY * 12 / 10;
    assert_eq!(machine.step(Event::Behind(id(2)), at(must_go - 1)), []);
    assert_eq!(machine.step(Event::Tick, at(must_go)), [Action::Look(id(2))]);
    assert_eq!(machine.step(Event::Behind(id(2)), at(must_go)), activate);
}

/// What the store would hold, beside the machine.
#[derive(Default)]
struct World {
    records: BTreeMap<AuthorityId, (AuthorityState, Timestamp, Timestamp, Option<Timestamp>)>,
    last_leaf: BTreeMap<AuthorityId, Timestamp>,
    removed: BTreeSet<AuthorityId>,
    made: u32,
    removals: u32,
    rotations: u32,
    /// Whether somebody would refuse what a prepared authority signs.
    has_laggards: bool,
    past_laggards: u32,
}

impl World {
    fn resume(&self) -> Lifecycle {
        let mut machine = Lifecycle::resume(settings(), &[]);
        for (id, (state, created, not_after, retired)) in &self.records {
            let check = retired.map_or(Timestamp::MAX, |retired| retired + settings().grace());
            let member = Member { state: *state, created: *created, not_after: *not_after, check };
            machine.members.insert(*id, member);
        }
        machine
    }

    fn carry_out(&mut self, action: Action, now: Timestamp, fails: bool) -> Event {
        match action {
            Action::Prepare if fails => Event::PrepareFailed,
            Action::Prepare => {
                self.made += 1;
                let not_after = now + Duration::from_secs(30 * DAY);
                self.records.insert(id(self.made), (AuthorityState::Prepared, now, not_after, None));
                Event::Prepared { id: id(self.made), created: now, not_after }
            }
            Action::Look(id) if fails || self.has_laggards => Event::Behind(id),
            Action::Look(id) => Event::Clear(id),
            Action::Activate { .. } if fails => Event::ActivateFailed,
            Action::Activate { new, old } => {
                assert_eq!(self.records[&new].0, AuthorityState::Prepared);
                if let (true, Some(old)) = (self.has_laggards, old) {
                    let late = self.records[&old].1 + Duration::from_secs(27 * DAY);
                    assert!(now >= late, "a laggard was not waited for");
                    self.past_laggards += 1;
                }
                self.records.entry(new).and_modify(|record| record.0 = AuthorityState::Active);
                if let Some(old) = old {
                    assert_eq!(self.records[&old].0, AuthorityState::Active);
                    self.records.entry(old).and_modify(|record| {
                        record.0 = AuthorityState::Retired;
                        record.3 = Some(now);
                    });
                    self.rotations += 1;
                }
                Event::Activated(new)
            }
            Action::CountLeaves { id, .. } if fails => Event::CountFailed(id),
            Action::CountLeaves { id, at } => {
                let last = self.last_leaf.get(&id).copied().filter(|last| *last >= at);
                Event::Counted(id, Leaves { count: u64::from(last.is_some()), last })
            }
            Action::Remove { id, .. } if fails => Event::RemoveFailed(id),
            Action::Remove { id, from } => {
                let record = self.records.remove(&id).unwrap();
                assert_eq!(record.0, from);
                assert_ne!(from, AuthorityState::Active);
                if let Some(last) = self.last_leaf.get(&id) {
                    assert!(now > *last + settings().grace(), "a leaf depended on it");
                }
                if let Some(retired) = record.3 {
                    assert!(now >= retired + settings().grace());
                }
                assert!(self.removed.insert(id));
                self.removals += 1;
                Event::Removed(id)
            }
        }
    }

    fn check(&self, machine: &Lifecycle, now: Timestamp) {
        let active: Vec<_> =
            self.records.iter().filter(|(_, record)| record.0 == AuthorityState::Active).collect();
        assert_eq!(active.len(), 1, "exactly one authority is active");
        assert_eq!(machine.active(), Some(*active[0].0));
        assert!(machine.members.keys().all(|id| !self.removed.contains(id)), "removed comes back");
        assert!(machine.members.keys().eq(self.records.keys()), "machine and store know the same");
        for (id, last) in &self.last_leaf {
            assert!(*last < now || self.records.contains_key(id), "an unexpired leaf lost its authority");
        }
        assert!(self.records.len() < 40, "old authorities pile up");
        assert!(machine.deadline().is_some_and(|deadline| deadline > now), "nothing due is left undone");
    }
}

#[test]
fn a_random_walk_keeps_the_invariants() {
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut world = World::default();
    let mut machine = world.resume();
    let mut now = at(0);
    let mut events = vec![Event::Tick];
    for step in 0..30_000_u32 {
        let failing = step > 10 && random(4) == 0;
        if step > 10 && random(40) == 0 {
            world.has_laggards = random(3) == 0;
        }
        while let Some(event) = events.pop() {
            for action in machine.step(event, now) {
                events.push(world.carry_out(action, now, failing && random(2) == 0));
            }
            // A crash between an action and what the machine hears of it.
            if step > 10 && random(200) == 0 {
                machine = world.resume();
                events = vec![Event::Tick];
            }
        }
        world.check(&machine, now);
        match random(10) {
            0 => events.push(Event::RotationRequested),
            1..=4 => {
                let active = machine.active().unwrap();
                let lifetime = [15, 600, 12 * 3600, 24 * 3600][usize::try_from(random(4)).unwrap()];
                let end = (now + Duration::from_secs(lifetime)).min(world.records[&active].2);
                let last = world.last_leaf.entry(active).or_insert(end);
                *last = (*last).max(end);
                events.push(Event::Tick);
            }
            5..=6 => {
                now = machine.deadline().unwrap();
                events.push(Event::Tick);
            }
            _ => {
                now = now + Duration::from_secs(random(DAY));
                events.push(Event::Tick);
            }
        }
    }
    assert!(world.rotations > 500 && world.removals > 500, "{} {}", world.rotations, world.removals);
    assert!(world.past_laggards > 10, "{}", world.past_laggards);
}

#[test]
fn without_the_roots_key_nothing_is_made_and_what_was_brought_is_used() {
    let mut machine = Lifecycle { can_make: false, ..running() };
    assert_eq!(machine.next_rotation(), None);
    assert_eq!(machine.due_by_hand(), Some(at(15 * DAY)));
    assert_eq!(machine.deadline(), None);
    assert_eq!(machine.step(Event::Tick, at(16 * DAY)), []);
    assert_eq!(machine.step(Event::RotationRequested, at(16 * DAY)), []);
    assert_eq!(machine.step(Event::Tick, at(29 * DAY)), [], "not even at its end");
    let now = at(20 * DAY);
    assert_eq!(machine.step(prepared(2, now), now), [Action::Look(id(2))]);
    passes(&mut machine, 2, Some(1), now);
    assert_eq!(machine.step(Event::ActivateFailed, now), []);
    let retry = machine.deadline().unwrap();
    assert_eq!(machine.step(Event::Tick, retry), [Action::Look(id(2))]);
    passes(&mut machine, 2, Some(1), retry);
    assert_eq!(machine.step(Event::Activated(id(2)), retry), []);
    assert_eq!(machine.due_by_hand(), Some(at(35 * DAY)));
    assert_eq!(running().due_by_hand(), None, "with the key it goes by itself");
}

#[test]
fn a_pause_puts_off_what_goes_on_by_itself_and_no_further_than_signing_allows() {
    let paused = |until: Option<u64>, now: u64, machine: &mut Lifecycle| {
        assert_eq!(machine.step(Event::Paused(until.map(|secs| at(secs * DAY))), at(now * DAY)), []);
    };
    let mut machine = running();
    paused(Some(17), 14, &mut machine);
    assert_eq!(machine.deadline(), Some(at(17 * DAY)), "the pause ends by itself");
    assert_eq!(machine.step(Event::Tick, at(15 * DAY)), []);
    assert_eq!(machine.step(Event::Tick, at(17 * DAY)), [Action::Prepare]);

    // Resumed, what is due follows at once.
    let mut machine = running();
    paused(Some(17), 14, &mut machine);
    assert_eq!(machine.step(Event::Paused(None), at(16 * DAY)), [Action::Prepare]);

    // Before half of its life it changes nothing; past 3/5 it holds nothing back.
    let mut machine = running();
    paused(Some(12), 10, &mut machine);
    assert_eq!(machine.next_rotation(), Some(at(15 * DAY)));
    paused(Some(25), 14, &mut machine);
    assert_eq!(machine.next_rotation(), Some(at(18 * DAY)));
    assert_eq!(machine.step(Event::Tick, at(18 * DAY)), [Action::Prepare]);

    // What an operator asks for is not automatic.
    let mut machine = running();
    paused(Some(17), 14, &mut machine);
    assert_eq!(machine.step(Event::RotationRequested, at(14 * DAY)), [Action::Prepare]);
}
