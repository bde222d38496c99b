use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn at(secs: u64) -> Timestamp {
    START + Duration::from_secs(secs)
}

/// Something to tell, by its name.
fn notice(event: Topic, name: &str) -> Arc<Notice> {
    let test = Notice::test(name, START);
    Arc::new(Notice { event, id: name.to_owned(), remembered_until: at(1_000), ..test })
}

fn interest(topics: &[Topic]) -> Interest {
    Interest { topics: topics.iter().copied().collect(), after: None }
}

fn begin(interests: Vec<Interest>) -> Telling {
    Telling::new(interests.into_iter().map(|interest| (interest, BTreeMap::new())).collect(), START)
}

/// What was done, in short words.
fn words(actions: Vec<Action>) -> Vec<String> {
    let word = |action| match action {
        Action::Tell { hook, notice } => format!("tell {hook} {}", notice.id),
        Action::Remember { hook, notice } => format!("remember {hook} {}", notice.id),
    };
    actions.into_iter().map(word).collect()
}

#[test]
fn each_hook_is_told_everything_on_its_list_once_and_one_after_the_other() {
    let mut machine = begin(vec![interest(&[Topic::Expiry, Topic::Issuer]), interest(&[Topic::Barrier])]);
    let all = vec![
        notice(Topic::Expiry, "a"),
        notice(Topic::Barrier, "b"),
        notice(Topic::Issuer, "c"),
        notice(Topic::Expiry, "d"),
    ];
    let mut check = |secs, event, expected: &[&str]| {
        assert_eq!(words(machine.step(event, at(secs))), expected, "at {secs}");
    };
    let looked = |notices: &[Arc<Notice>]| Event::Looked(notices.to_vec());
    let told = |hook, taken| Event::Told { hook, taken };
    check(0, looked(&all), &["tell 0 a", "tell 1 b"]);
    check(1, looked(&all), &[]);
    check(2, told(0, true), &["remember 0 a", "tell 0 c"]);
    check(2, told(1, true), &["remember 1 b"]);
    // What was not taken waits behind what was not tried, and the hook is left alone for a while.
    check(3, told(0, false), &[]);
    check(4, Event::Tick, &[]);
    check(5, Event::Tick, &["tell 0 d"]);
    check(5, told(0, false), &[]);
    check(8, looked(&all), &[]);
    check(9, Event::Tick, &["tell 0 c"]);
    check(9, told(0, true), &["remember 0 c", "tell 0 d"]);
    // What does not hold any more is not told again; what is told stays told while it holds.
    check(10, told(0, false), &[]);
    check(11, looked(&all[..3]), &[]);
    check(100, Event::Tick, &[]);
    check(200, looked(&all), &["tell 0 d"]);
    check(200, told(0, true), &["remember 0 d"]);
    check(5_000, looked(&all), &[]);
    check(5_001, looked(&[]), &[]);
    check(5_002, looked(&all[..1]), &["tell 0 a"]);
}

#[test]
fn what_an_earlier_process_told_is_not_told_again() {
    let told = BTreeMap::from([("a".to_owned(), at(100))]);
    let mut machine = Telling::new(vec![(interest(&[Topic::Expiry]), told)], START);
    let all = vec![notice(Topic::Expiry, "a"), notice(Topic::Expiry, "b")];
    assert_eq!(machine.deadline(), None);
    assert_eq!(words(machine.step(Event::Looked(all), at(50))), ["tell 0 b"]);
}

#[test]
fn pauses_double_and_end_at_five_minutes() {
    let secs: Vec<u64> = (1..12).map(|failures| pause(failures).as_secs()).collect();
    assert_eq!(secs, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
}

/// Under any order of events the invariants of the module hold.
#[test]
fn holds_its_invariants_on_random_walks() {
    let topics = [&[Topic::Expiry][..], &[Topic::Barrier, Topic::Issuer], &Topic::NAMED];
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut machine = begin(topics.iter().map(|topics| interest(topics)).collect());
        let pool: Vec<Arc<Notice>> = (0..40)
            .map(|number| {
                let event = Topic::NAMED[random.random_range(0..3)];
                Arc::new(Notice {
                    remembered_until: at(1_000_000),
                    ..(*notice(event, &format!("n{number}"))).clone()
                })
            })
            .collect();
        let mut now = START;
        let mut busy = [None::<Arc<Notice>>, None, None];
        let mut taken: [BTreeSet<String>; 3] = Default::default();
        let mut quiet_until = [START; 3];
        for _ in 0..200 {
            now = match (machine.deadline(), random.random_bool(0.4)) {
                (Some(deadline), true) => deadline.max(now),
                _ => now + Duration::from_millis(random.random_range(0..4_000)),
            };
            let hook = random.random_range(0..3_usize);
            let event = match random.random_range(0..4) {
                0 => {
                    let some = pool.iter().filter(|_| random.random_bool(0.5));
                    Event::Looked(some.cloned().collect())
                }
                1 if busy[hook].is_some() => Event::Told { hook, taken: random.random_bool(0.6) },
                _ => Event::Tick,
            };
            if let Event::Told { hook, taken: is_taken } = &event {
                let done = busy[*hook].take().unwrap();
                if *is_taken {
                    assert!(taken[*hook].insert(done.id.clone()), "seed {seed}: {} taken twice", done.id);
                } else {
                    quiet_until[*hook] = now + FIRST_PAUSE;
                }
            }
            for action in machine.step(event.clone(), now) {
                match action {
                    Action::Tell { hook, notice } => {
                        assert!(busy[hook].is_none(), "seed {seed}: two at once");
                        assert!(topics[hook].contains(&notice.event), "seed {seed}: {notice:?}");
                        assert!(!taken[hook].contains(&notice.id), "seed {seed}: told again");
                        assert!(quiet_until[hook] <= now, "seed {seed}: no pause after a failure");
                        busy[hook] = Some(notice);
                    }
                    Action::Remember { hook, notice } => {
                        assert!(matches!(event, Event::Told { hook: told, taken: true } if told == hook));
                        assert!(taken[hook].contains(&notice.id), "seed {seed}");
                    }
                }
            }
            // Whoever is free and has something to hear is asked at the deadline at the latest.
            for (hook, busy) in busy.iter().enumerate() {
                if busy.is_none() && machine.waiting(hook) > 0 {
                    let deadline = machine.deadline().unwrap();
                    assert!(deadline <= now + LONGEST_PAUSE, "seed {seed}");
                }
            }
        }
    }
}
