use audit::{Actor, Event as AuditEvent};

use super::*;
use crate::testing::Random;

const START: i64 = 1_800_000_000_000;
const DAY: i64 = 86_400_000;

fn wall(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(START + millis)
}

/// After `elapsed` milliseconds, of a clock that is off by so many.
fn sample(elapsed: i64, off: i64) -> Sample {
    let boot = Duration::from_secs(5000) + Duration::from_millis(u64::try_from(elapsed).unwrap());
    Sample { wall: wall(elapsed + off), boot }
}

#[test]
fn a_clock_that_is_off_raises_an_alarm_then_stops_signing_and_heals() {
    use Action::{Alarm, Calm, Resume, Stop};
    let mut machine = Timekeeping::begin(sample(0, 0));
    // Milliseconds since the start, how far the clock is off, what is done, the state, and how far the time that is
    // gone by is off.
    let table: &[(i64, i64, &[Action], &str, i64)] = &[
        (1000, 0, &[], "good", 0),
        (2000, 2000, &[], "good", 2000),
        (3000, 2001, &[Alarm], "drifting", 0),
        (4000, -5000, &[], "drifting", 0),
        (5000, -2000, &[Calm], "good", -2000),
        (6000, 30_000, &[Alarm], "drifting", 0),
        // A little further and nothing is signed by it any more.
        (7000, 30_001, &[Stop], "stopped", 0),
        (8000, DAY, &[], "stopped", 0),
        (9000, -DAY, &[], "stopped", 0),
        (10_000, -30_000, &[Resume], "drifting", 0),
        (11_000, 0, &[Calm], "good", 0),
        // It jumps straight from right to wrong, and back.
        (12_000, -120_000, &[Stop], "stopped", 0),
        (13_000, 100, &[Resume], "good", 100),
        // It stands still from here on: after 30 s that is too much.
        (23_000, -9_900, &[Alarm], "drifting", 0),
        (43_000, -29_900, &[], "drifting", 0),
        (44_000, -30_900, &[Stop], "stopped", 0),
        // A night of suspension counts on both clocks.
        (44_000 + DAY / 3, -30_900, &[], "stopped", 0),
        (44_001 + DAY / 3, 0, &[Resume], "good", 0),
    ];
    for (elapsed, off, actions, word, believed) in table {
        let now = sample(*elapsed, *off);
        assert_eq!(machine.step(Event::Tick, now), *actions, "after {elapsed} ms");
        let reading = machine.reading(now);
        assert_eq!((reading.word(), reading.skew_millis), (*word, *off), "after {elapsed} ms");
        assert_eq!(machine.time(now), wall(elapsed + believed), "after {elapsed} ms");
        assert_eq!(reading.stopped().is_some(), *word == "stopped");
    }
}

#[test]
fn a_clock_behind_what_is_on_record_signs_nothing_until_it_has_passed_that() {
    let started = |newest: i64| {
        let mut machine = Timekeeping::begin(sample(0, 0));
        let actions = machine.step(Event::Recorded(wall(newest)), sample(0, 0));
        (machine, actions)
    };
    assert_eq!(started(-DAY).1, [], "records of the past say nothing");
    assert_eq!(started(30_000).1, []);
    let (mut machine, actions) = started(30_001);
    assert_eq!(actions, [Action::Stop]);
    let text = machine.reading(sample(0, 0)).stopped().unwrap();
    assert!(text.contains(&wall(30_001).to_string()) && text.contains("--accept-clock"), "{text}");
    // The time cannot be before the record, and goes on from there.
    assert_eq!(machine.time(sample(0, 0)), wall(30_001));
    assert_eq!(machine.time(sample(5000, 0)), wall(35_001));
    assert_eq!(machine.step(Event::Tick, sample(30_000, 0)), []);
    assert_eq!(machine.step(Event::Tick, sample(30_001, 0)), [Action::Resume]);
    assert_eq!(machine.time(sample(30_002, 0)), wall(30_002), "from here on the clock is believed again");
    assert_eq!(machine.reading(sample(30_002, 0)).skew_millis, 0);

    // A clock that begins in 1970 and is set right while the server runs.
    let (mut machine, _) = started(40 * DAY);
    assert_eq!(machine.step(Event::Tick, sample(9000, 0)), []);
    assert_eq!(machine.step(Event::Tick, sample(10_000, 41 * DAY)), [Action::Resume]);
    assert_eq!(machine.step(Event::Tick, sample(11_000, 41 * DAY)), [], "and that is where it should be");
    assert_eq!(machine.step(Event::Tick, sample(12_000, 0)), [Action::Stop]);
}

#[test]
fn only_records_since_the_clock_was_believed_anew_count() {
    let row = |at: i64, action: Audited| AuditRow {
        sequence: 1,
        event: AuditEvent::done(wall(at), Actor::System, action, "x"),
        hash: [0; 32],
    };
    let of = |rows: &[(i64, Audited)]| {
        newest(&rows.iter().map(|(at, action)| row(*at, *action)).collect::<Vec<_>>())
    };
    assert_eq!(of(&[]), None);
    // The last row stands first.
    let some = Audited::CertificateIssue;
    assert_eq!(of(&[(3, some), (9, some), (1, some)]), Some(wall(9)));
    for anew in [Audited::ClockResume, Audited::ClockAccept] {
        assert_eq!(of(&[(3, some), (2, anew), (DAY, some)]), Some(wall(3)));
        assert_eq!(of(&[(2, anew), (DAY, some)]), Some(wall(2)));
    }
    assert_eq!(of(&[(3, some), (2, Audited::ClockStop), (DAY, some)]), Some(wall(DAY)));
}

/// The world of the walk: true time, a clock that goes wrong in every way, and a server that is started again.
struct World {
    elapsed: i64,
    /// How far the clock is off.
    off: i64,
    /// It stands still.
    frozen: bool,
    /// How far it was off when the server last took it to be right.
    base: i64,
    /// The newest time that the server has written down.
    newest: i64,
    machine: Timekeeping,
}

impl World {
    fn now(&self) -> Sample {
        sample(self.elapsed, self.off)
    }

    fn pass(&mut self, millis: i64) {
        self.elapsed += millis;
        if self.frozen {
            self.off -= millis;
        }
    }

    fn restart(&mut self) -> Vec<Action> {
        self.machine = Timekeeping::begin(self.now());
        self.base = self.off;
        self.machine.step(Event::Recorded(wall(self.newest)), self.now())
    }
}

#[test]
fn a_random_walk_never_signs_by_a_clock_that_was_moved() {
    let mut tally = [0_u32; 4];
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let machine = Timekeeping::begin(sample(0, 0));
        let mut world = World { elapsed: 0, off: 0, frozen: false, base: 0, newest: 0, machine };
        for step in 0..400 {
            let place = format!("seed {seed}, step {step}");
            let millis = |random: &mut Random, most: u64| i64::try_from(random.below(most)).unwrap();
            let most = if random.once_in(20) { 100_000 } else { 2000 };
            world.pass(millis(&mut random, most));
            let mut restarted = false;
            match random.below(16) {
                0 => world.off += millis(&mut random, 120_000) - 60_000,
                1 => world.off += millis(&mut random, 4 * DAY as u64) - 2 * DAY,
                2 => world.off += millis(&mut random, 6000) - 3000,
                3 => world.off = 0,
                4 => world.off = world.base,
                5 => world.frozen = true,
                6 | 7 => world.frozen = false,
                8 if random.once_in(4) => restarted = true,
                _ => {}
            }
            let before = world.machine.state;
            let time_before = world.machine.time(world.now());
            let actions =
                if restarted { world.restart() } else { world.machine.step(Event::Tick, world.now()) };
            let (now, time) = (world.now(), world.machine.time(world.now()));
            assert!(actions.len() <= 1, "{place}");
            for action in &actions {
                tally[*action as usize] += 1;
            }
            let moved = (world.off - world.base).abs();
            match (before, world.machine.state) {
                (State::Stopped { why: Why::Behind { newest }, .. }, State::Good) if !restarted => {
                    assert!(
                        now.wall >= newest || now.wall.millis_since(time_before).abs() <= 30_000,
                        "{place}"
                    );
                    world.base = world.off;
                }
                (_, State::Stopped { why: Why::Behind { newest }, .. }) => {
                    assert!(now.wall < newest, "{place}");
                    assert!(time >= newest, "{place}: the time is before what is on record");
                }
                (_, State::Stopped { why: Why::Stepped, .. }) => {
                    assert!(moved > 30_000, "{place}: stopped, and moved by {moved} ms only");
                    assert_eq!(time, wall(world.elapsed + world.base), "{place}: time goes on as before");
                }
                (_, State::Drifting) => {
                    assert!((2001..=30_000).contains(&moved), "{place}: {moved}");
                    assert_eq!(time, wall(world.elapsed + world.base), "{place}: time goes on as before");
                }
                (_, State::Good) => assert!(moved <= 2000, "{place}: {moved}"),
            }
            // What is written down is written by the time that is gone by.
            world.newest = world.newest.max(time.millis_since(wall(0)));
            assert!(
                world.machine.step(Event::Tick, now).is_empty(),
                "{place}: nothing moves, nothing happens"
            );
        }
    }
    assert!(tally.iter().all(|count| *count > 500), "alarms, calms, stops, resumes: {tally:?}");
}
