use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn at(secs: u64) -> Timestamp {
    START + Duration::from_secs(secs)
}

fn grant(secs: u64) -> Grant {
    Grant { ttl: Some(Duration::from_secs(secs)), is_renewable: true, uses: None }
}

fn entered(secs: u64) -> Event {
    Event::Entered { grant: grant(secs), jitter: Jitter::NONE }
}

fn renewed(secs: u64) -> Event {
    Event::Renewed { grant: grant(secs), jitter: Jitter::NONE }
}

fn enter_failed(failure: Failure) -> Event {
    Event::EnterFailed { failure, jitter: Jitter::NONE }
}

fn renew_failed(failure: Failure) -> Event {
    Event::RenewFailed { failure, jitter: Jitter::NONE }
}

fn refused(generation: u64) -> Event {
    Event::TokenRefused { generation, jitter: Jitter::NONE }
}

/// A machine, and steps written as: at which second, what happens, what is done, when the next is due.
struct Table(Session);

impl Table {
    fn new(means: Means) -> Self {
        Self(Session::new(means, START))
    }

    fn check(&mut self, secs: u64, event: Event, actions: &[Action], deadline: Option<u64>) {
        assert_eq!(self.0.step(event, at(secs)), actions, "at {secs}: {event:?}");
        assert_eq!(self.0.deadline(), deadline.map(at), "at {secs}: {event:?}");
    }
}

#[test]
fn logs_in_renews_at_two_thirds_and_logs_in_anew_near_the_longest_life() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, Event::Tick, &[], None);
    it.check(1, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(601));
    it.check(600, Event::Tick, &[], Some(601));
    it.check(601, Event::Tick, &[Action::Renew], Some(901));
    it.check(602, renewed(900), &[], Some(1202));
    it.check(1202, Event::Tick, &[Action::Renew], Some(1502));
    // Shorter than it was when it was new: no renewal goes beyond, so the next step is a login.
    it.check(1202, renewed(300), &[], Some(1402));
    it.check(1402, Event::Tick, &[Action::Enter], Some(1502));
    it.check(1403, entered(900), &[Action::Adopt { generation: 2 }, Action::CheckBreadth], Some(2003));
}

#[test]
fn a_batch_token_is_replaced_and_never_renewed() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    let batch = Grant { ttl: Some(Duration::from_secs(900)), is_renewable: false, uses: None };
    let event = Event::Entered { grant: batch, jitter: Jitter::NONE };
    it.check(0, event, &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(600));
    it.check(600, Event::Tick, &[Action::Enter], Some(900));
    it.check(600, enter_failed(Failure::Transient(None)), &[], Some(601));
    it.check(601, Event::Tick, &[Action::Enter], Some(900));
    // Until something better is in hand, what is held is used, to its end.
    it.check(900, Event::Tick, &[Action::Forget], None);
    it.check(901, enter_failed(Failure::Transient(None)), &[], Some(903));
}

#[test]
fn a_renewal_that_vault_refuses_becomes_a_login_and_one_that_it_cannot_answer_is_tried_again() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(600));
    it.check(600, Event::Tick, &[Action::Renew], Some(900));
    it.check(600, renew_failed(Failure::Transient(None)), &[], Some(601));
    it.check(601, Event::Tick, &[Action::Renew], Some(900));
    it.check(601, renew_failed(Failure::Transient(Some(Duration::from_secs(40)))), &[], Some(641));
    it.check(641, Event::Tick, &[Action::Renew], Some(900));
    it.check(641, renew_failed(Failure::Refused), &[Action::Enter], Some(900));
    it.check(642, entered(900), &[Action::Adopt { generation: 2 }, Action::CheckBreadth], Some(1242));
    it.check(1242, Event::Tick, &[Action::Renew], Some(1542));
    it.check(1242, renew_failed(Failure::InvalidToken), &[Action::Forget, Action::Enter], None);
}

#[test]
fn a_token_that_vault_does_not_know_is_replaced_at_once_and_then_not_again_and_again() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(600));
    it.check(10, refused(1), &[Action::Forget, Action::Enter], None);
    // Others who used the same token say so later.
    it.check(10, refused(1), &[], None);
    it.check(11, entered(900), &[Action::Adopt { generation: 2 }, Action::CheckBreadth], Some(611));
    it.check(11, refused(1), &[], Some(611));
    // The second token is refused as well: not the token is at fault.
    it.check(12, refused(2), &[Action::Forget], Some(42));
    it.check(42, Event::Tick, &[Action::Enter], None);
    it.check(42, entered(900), &[Action::Adopt { generation: 3 }, Action::CheckBreadth], Some(642));
    it.check(200, refused(3), &[Action::Forget, Action::Enter], None);
}

#[test]
fn credentials_that_vault_refuses_alarm_once_and_are_tried_ever_more_slowly() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    let alarm = [Action::Alarm(NotLoggedIn::CredentialsRefused)];
    it.check(0, enter_failed(Failure::Refused), &alarm, Some(30));
    assert_eq!(it.0.reason(), Some(NotLoggedIn::CredentialsRefused));
    it.check(30, Event::Tick, &[Action::Enter], None);
    it.check(30, enter_failed(Failure::Refused), &[], Some(90));
    it.check(90, Event::Tick, &[Action::Enter], None);
    it.check(90, enter_failed(Failure::Refused), &[], Some(210));
    // Other credentials are tried at once.
    it.check(100, Event::CredentialsChanged(Means::LogsIn), &[Action::Enter], None);
    it.check(100, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(700));
    assert_eq!(it.0.reason(), None);
}

#[test]
fn a_wrapped_secret_id_is_opened_once() {
    let mut it = Table::new(Means::Wrapped);
    it.check(0, Event::Tick, &[Action::Unwrap], None);
    let failed = |failure| Event::UnwrapFailed { failure, jitter: Jitter::NONE };
    it.check(0, failed(Failure::Transient(None)), &[], Some(1));
    it.check(1, Event::Tick, &[Action::Unwrap], None);
    let opened = Event::Unwrapped { uses: Some(5), ends: Some(at(7200)) };
    let warnings = [
        Action::Warn(Warning::SecretIdUses(5)),
        Action::Warn(Warning::SecretIdEnds(at(7200))),
        Action::Enter,
    ];
    it.check(1, opened, &warnings, None);
    it.check(1, enter_failed(Failure::Transient(None)), &[], Some(3));
    it.check(3, Event::Tick, &[Action::Enter], None);

    let mut spent = Table::new(Means::Wrapped);
    spent.check(0, Event::Tick, &[Action::Unwrap], None);
    spent.check(0, failed(Failure::Refused), &[Action::Alarm(NotLoggedIn::WrappedSpent)], None);
    spent.check(9, Event::Tick, &[], None);
    spent.check(10, Event::CredentialsChanged(Means::Wrapped), &[Action::Unwrap], None);
}

#[test]
fn a_given_token_is_renewed_as_long_as_that_goes_and_then_somebody_must_come() {
    let mut it = Table::new(Means::Token);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(600));
    it.check(600, Event::Tick, &[Action::Renew], Some(900));
    let ends = Action::Warn(Warning::TokenEnds(at(900)));
    it.check(600, renewed(300), &[ends], Some(900));
    it.check(900, Event::Tick, &[Action::Forget, Action::Alarm(NotLoggedIn::TokenEnded)], None);
    it.check(901, Event::CredentialsChanged(Means::Token), &[Action::Enter], None);
    it.check(901, entered(900), &[Action::Adopt { generation: 2 }, Action::CheckBreadth], Some(1501));
    // One node does not know it: it is looked up once more, and another knows it.
    it.check(902, refused(2), &[Action::Forget, Action::Enter], None);
    it.check(903, entered(897), &[Action::Adopt { generation: 3 }, Action::CheckBreadth], Some(1501));
    // Soon again: with a pause. Then nobody knows it.
    it.check(904, refused(3), &[Action::Forget], Some(934));
    it.check(934, Event::Tick, &[Action::Enter], None);
    it.check(934, enter_failed(Failure::InvalidToken), &[Action::Alarm(NotLoggedIn::TokenRevoked)], None);
    it.check(5000, Event::Tick, &[], None);

    let mut root = Table::new(Means::Token);
    root.check(0, Event::Tick, &[Action::Enter], None);
    let endless = Grant { ttl: None, is_renewable: false, uses: Some(3) };
    let event = Event::Entered { grant: endless, jitter: Jitter::NONE };
    let uses = Action::Warn(Warning::TokenUses(3));
    root.check(0, event, &[Action::Adopt { generation: 1 }, uses, Action::CheckBreadth], Some(3600));
    root.check(3600, Event::Tick, &[Action::CheckBreadth], Some(7200));
    root.check(3601, Event::BreadthUnknown { stands: true }, &[], Some(3661));
    root.check(3661, Event::Tick, &[Action::CheckBreadth], Some(7261));
    root.check(3662, Event::BreadthWanted, &[Action::CheckBreadth], Some(7262));
    root.check(3663, Event::BreadthUnknown { stands: false }, &[], Some(3668));

    let mut blind = Table::new(Means::Token);
    blind.check(0, Event::Tick, &[Action::Enter], None);
    let unknown = Action::Warn(Warning::TokenUnknown);
    let adopted = [Action::Adopt { generation: 1 }, unknown, Action::CheckBreadth];
    blind.check(0, enter_failed(Failure::Refused), &adopted, Some(3600));

    let mut dead = Table::new(Means::Token);
    dead.check(0, Event::Tick, &[Action::Enter], None);
    dead.check(0, enter_failed(Failure::InvalidToken), &[Action::Alarm(NotLoggedIn::TokenRevoked)], None);
}

#[test]
fn other_credentials_replace_what_is_in_flight_and_what_is_held_is_used_meanwhile() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, Event::CredentialsChanged(Means::LogsIn), &[], None);
    it.check(1, entered(900), &[Action::Enter], None);
    it.check(1, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(601));
    it.check(601, Event::Tick, &[Action::Renew], Some(901));
    it.check(602, Event::CredentialsChanged(Means::LogsIn), &[], Some(901));
    it.check(603, renewed(900), &[Action::Enter], Some(901));
    assert!(it.0.is_held());
    it.check(
        604,
        enter_failed(Failure::Refused),
        &[Action::Alarm(NotLoggedIn::CredentialsRefused)],
        Some(634),
    );
    assert!(it.0.is_held());
}

#[test]
fn a_given_token_that_is_not_known_replaces_none_that_works() {
    let mut it = Table::new(Means::Token);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(600));
    it.check(10, Event::CredentialsChanged(Means::Token), &[Action::Enter], Some(900));
    let alarm = [Action::Alarm(NotLoggedIn::TokenRevoked)];
    it.check(11, enter_failed(Failure::InvalidToken), &alarm, Some(900));
    assert!(it.0.is_held());
    // To its end, or until Vault does not know it either.
    it.check(900, Event::Tick, &[Action::Forget], None);
    assert_eq!(it.0.reason(), Some(NotLoggedIn::TokenRevoked));
    it.check(901, Event::CredentialsChanged(Means::Token), &[Action::Enter], None);
    it.check(901, entered(900), &[Action::Adopt { generation: 2 }, Action::CheckBreadth], Some(1501));
}

/// Under any order of events: one thing in flight at a time; nothing is renewed that is not held; nothing is held
/// past its end, nor given up for what others of its kind came to; no token is lost by the word of one node;
/// generations only grow; a deadline that is met makes progress; logins that fail or do not help come
/// more and more slowly, and nobody waits forever but for other credentials.
#[test]
fn holds_its_invariants_on_random_walks() {
    for seed in 0..2000 {
        let mut random = StdRng::seed_from_u64(seed);
        let means = [Means::LogsIn, Means::Wrapped, Means::Token];
        let mut machine = Session::new(means[random.random_range(0..3)], START);
        let (mut now, mut flying, mut generation) = (START, None::<Action>, 0);
        let (mut halted, mut entered_at) = (false, Vec::new());
        let mut untried = false;
        for _ in 0..80 {
            now = match (machine.deadline(), random.random_bool(0.7)) {
                (Some(deadline), true) => deadline.max(now),
                _ => now + Duration::from_millis(random.random_range(0..200_000)),
            };
            let event = random_event(&mut random, means, now, generation);
            let is_answer = matches!(
                (event, flying),
                (Event::Unwrapped { .. } | Event::UnwrapFailed { .. }, Some(Action::Unwrap))
                    | (Event::Entered { .. } | Event::EnterFailed { .. }, Some(Action::Enter))
                    | (Event::Renewed { .. } | Event::RenewFailed { .. }, Some(Action::Renew))
            );
            if is_answer {
                flying = None;
            }
            if let Event::CredentialsChanged(_) = event {
                (halted, entered_at, untried) = (false, Vec::new(), true);
            }
            let is_over = machine.ends().is_some_and(|ends| ends <= now);
            let is_failure = matches!(event, Event::EnterFailed { .. } | Event::UnwrapFailed { .. });
            for action in machine.step(event, now) {
                match action {
                    Action::Unwrap | Action::Enter | Action::Renew => {
                        assert_eq!(flying, None, "seed {seed}: two things at once");
                        assert!(!halted, "seed {seed}: goes on with what cannot work");
                        assert!(action != Action::Renew || machine.is_held(), "seed {seed}: renews nothing");
                        if action == Action::Enter {
                            entered_at.push(now);
                        }
                        flying = Some(action);
                    }
                    Action::Adopt { generation: new } => {
                        assert_eq!(new, generation + 1, "seed {seed}");
                        (generation, untried) = (new, false);
                    }
                    Action::Alarm(reason) => {
                        let is_by_hearsay = reason == NotLoggedIn::TokenRevoked && !is_failure;
                        assert!(!is_by_hearsay, "seed {seed}: {event:?} ends a token that was not looked up");
                        let is_tried =
                            matches!(reason, NotLoggedIn::CredentialsRefused | NotLoggedIn::NotVouched);
                        halted = !is_tried;
                    }
                    Action::Forget => {
                        let is_kept = is_failure && untried && !is_over;
                        assert!(!is_kept, "seed {seed}: {event:?} throws away a token that works");
                    }
                    Action::CheckBreadth | Action::Warn(_) => {}
                }
            }
            assert!(machine.ends().is_none_or(|ends| now < ends), "seed {seed}: held past its end");
            assert!(machine.deadline().is_none_or(|at| at > now), "seed {seed}: {now} {event:?} spins");
            let waits = flying.is_some() || halted || machine.is_held();
            assert!(machine.deadline().is_some() || waits, "seed {seed}: waits for nothing");
            assert_eq!(machine.reason().is_some(), !machine.is_held(), "seed {seed}");
        }
    }
}

fn random_event(random: &mut StdRng, means: [Means; 3], now: Timestamp, generation: u64) -> Event {
    let jitter = Jitter::new(random.random());
    let ttl = random.random_bool(0.9).then(|| Duration::from_secs(random.random_range(1..2000)));
    let uses = random.random_bool(0.1).then(|| random.random_range(1..9));
    let grant = Grant { ttl, is_renewable: random.random_bool(0.7), uses };
    let asked = random.random_bool(0.2).then(|| Duration::from_secs(random.random_range(0..2000)));
    let failure = match random.random_range(0..5) {
        0 => Failure::InvalidToken,
        1 => Failure::Refused,
        2 => Failure::NotVouched,
        _ => Failure::Transient(asked),
    };
    match random.random_range(0..12) {
        0 | 1 => Event::Tick,
        2 => Event::Unwrapped { uses, ends: uses.map(|_| now + Duration::from_secs(60)) },
        3 => Event::UnwrapFailed { failure, jitter },
        4 => Event::Entered { grant, jitter },
        5 => Event::EnterFailed { failure, jitter },
        6 => Event::Renewed { grant, jitter },
        7 => Event::RenewFailed { failure, jitter },
        8 => Event::BreadthUnknown { stands: uses.is_some() },
        9 => Event::BreadthWanted,
        10 => {
            Event::TokenRefused { generation: generation.saturating_sub(random.random_range(0..2)), jitter }
        }
        _ if random.random_bool(0.5) => Event::CredentialsChanged(means[random.random_range(0..3)]),
        _ => Event::Tick,
    }
}

#[test]
fn who_cannot_be_vouched_for_alarms_once_and_is_back_within_a_minute_of_an_outage() {
    let mut it = Table::new(Means::LogsIn);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, enter_failed(Failure::NotVouched), &[Action::Alarm(NotLoggedIn::NotVouched)], Some(30));
    let mut now = 30;
    for _ in 0..20 {
        it.check(now, Event::Tick, &[Action::Enter], None);
        it.check(now, enter_failed(Failure::NotVouched), &[], Some(now + 60));
        now += 60;
    }
    // Whatever else is refused then is said as what it is.
    it.check(now, Event::Tick, &[Action::Enter], None);
    let alarm = [Action::Alarm(NotLoggedIn::CredentialsRefused)];
    it.check(now, enter_failed(Failure::Refused), &alarm, Some(now + 900));
}

/// However often Vault takes the credentials and then does not know the token: two logins a minute, at most.
#[test]
fn never_storms_a_vault_that_forgets_every_token() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let means = if seed % 2 == 0 { Means::LogsIn } else { Means::Token };
        let mut machine = Session::new(means, START);
        let (mut now, mut logins) = (START, 0_u32);
        let mut events = vec![Event::Tick];
        while now < at(3600) {
            let Some(event) = events.pop() else {
                now = machine.deadline().map_or(now, |deadline| deadline.max(now));
                events.push(Event::Tick);
                continue;
            };
            let jitter = Jitter::new(random.random());
            for action in machine.step(event, now) {
                match action {
                    Action::Enter => {
                        logins += 1;
                        events.push(Event::Entered { grant: grant(900), jitter });
                    }
                    Action::Adopt { generation } => events.push(Event::TokenRefused { generation, jitter }),
                    _ => {}
                }
            }
        }
        assert!((60..=170).contains(&logins), "seed {seed}: {logins} logins in an hour");
    }
}

#[test]
fn a_token_that_ends_while_another_is_tried_is_no_alarm() {
    let mut it = Table::new(Means::Token);
    it.check(0, Event::Tick, &[Action::Enter], None);
    it.check(0, entered(900), &[Action::Adopt { generation: 1 }, Action::CheckBreadth], Some(600));
    it.check(900, Event::CredentialsChanged(Means::Token), &[Action::Forget, Action::Enter], None);
    it.check(900, enter_failed(Failure::Transient(None)), &[], Some(901));
    it.check(901, Event::Tick, &[Action::Enter], None);
    it.check(901, entered(900), &[Action::Adopt { generation: 2 }, Action::CheckBreadth], Some(1501));
}
