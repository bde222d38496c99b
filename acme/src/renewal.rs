//! When a certificate is renewed (PURE): at a point of the window that the server suggests (RFC 9773), chosen once; where
//! it suggests none, at two thirds of its life.
//!
//! ```text
//! Tick --due--> Ask --Told(window)--> asked again when the server says; Renew at start + part * (end - start)
//!                '----Absent----> Renew at 2/3 of life        '--Failed--> what was told stands, asked again later
//! ```

use std::{fmt, time::Duration};

use certs::{Certificate, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Jitter, RetryAfter, Trouble, Window, jws::encode};

/// How soon a server is asked again at the earliest, whatever it says (RFC 9773 4.3.3).
pub const MIN_ASK: Duration = Duration::from_secs(60);
/// How soon at the latest.
pub const MAX_ASK: Duration = Duration::from_secs(24 * 3600);
/// How soon when it does not say.
pub const ASK: Duration = Duration::from_secs(6 * 3600);
/// How long a certificate is kept at least, or a tenth of what was left of its life when it was obtained, if that is
/// less: a server whose windows are always over must not have certificates ordered without a pause.
pub const MIN_KEPT: Duration = Duration::from_secs(3600);

/// By what a server knows a certificate that is to be renewed (RFC 9773 4.1): who issued it, and its number.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CertificateId(String);

impl CertificateId {
    /// Of a certificate; `None` if it does not say who issued it.
    #[must_use]
    pub fn of(certificate: &Certificate) -> Option<Self> {
        let authority = certificate.authority_key_id()?;
        // The octets of the DER INTEGER, which begins with a zero where the number would else be negative.
        let mut serial = certificate.serial().as_bytes().to_vec();
        if serial.first().is_some_and(|octet| octet & 0x80 != 0) {
            serial.insert(0, 0);
        }
        Some(Self(format!("{}.{}", encode(authority), encode(serial))))
    }

    /// As it stands in URLs and in an order's `replaces`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewalEvent {
    /// Nothing but time passed.
    Tick,
    /// The server suggests a window, and when to ask again.
    Told {
        /// When.
        window: Window,
        /// When to ask again, if it says so.
        retry_after: Option<RetryAfter>,
    },
    /// The server suggests nothing, ever.
    Absent,
    /// It could not be asked.
    Failed {
        /// When to ask again, if it says so.
        retry_after: Option<RetryAfter>,
    },
}

impl RenewalEvent {
    /// Of why the server could not be asked.
    #[must_use]
    pub fn of(trouble: &Trouble) -> Self {
        Self::Failed { retry_after: trouble.retry_after() }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewalAction {
    /// Store [`Renewal`] as it is now: a point in a window is chosen once.
    Keep,
    /// Ask the server for its window.
    Ask,
    /// Renew now. Said once.
    Renew,
}

/// When one certificate is renewed. Stored as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    not_before: Timestamp,
    not_after: Timestamp,
    obtained: Timestamp,
    /// Which point of a window is ours.
    part: Jitter,
    window: Option<Window>,
    ask_at: Option<Timestamp>,
    #[serde(skip)]
    is_asking: bool,
    failures: u32,
    is_due: bool,
}

impl Renewal {
    /// Of a certificate that was just obtained. `part` chooses the point in the window, once.
    #[must_use]
    pub fn new(certificate: &Certificate, part: Jitter, now: Timestamp) -> Self {
        Self::of_life(certificate.not_before(), certificate.not_after(), part, now)
    }

    fn of_life(not_before: Timestamp, not_after: Timestamp, part: Jitter, now: Timestamp) -> Self {
        Self {
            not_before,
            not_after,
            obtained: now,
            part,
            window: None,
            ask_at: Some(now),
            is_asking: false,
            failures: 0,
            is_due: false,
        }
    }

    /// When it is renewed, as far as is known now. Whatever a server suggests, that is never later than a tenth of its
    /// life before its end, and never sooner than [`MIN_KEPT`] after it was obtained.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        let life = self.not_after.since(self.not_before);
        let at = match &self.window {
            Some(window) => window.start + self.part.of(window.end.since(window.start)),
            // A little sooner by the same part, so that not all are renewed at once.
            None => self.not_before + life.mul_f64(2.0 / 3.0) - self.part.of(life / 20),
        };
        // What was obtained just before its end is kept for a while too, and not to its end.
        let kept = MIN_KEPT.min(self.not_after.since(self.obtained) / 10);
        at.min(self.not_after - life / 10).max(self.obtained + kept)
    }

    /// Whether [`RenewalAction::Renew`] was said, also before a restart.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// What the server suggested last.
    #[must_use]
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// When [`RenewalEvent::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.is_due {
            return None;
        }
        let ask = if self.is_asking { None } else { self.ask_at };
        Some(self.at().min(ask.unwrap_or(Timestamp::MAX)))
    }

    /// Takes one event.
    pub fn step(&mut self, event: RenewalEvent, now: Timestamp) -> Vec<RenewalAction> {
        let before = self.clone();
        match event {
            RenewalEvent::Tick => {}
            RenewalEvent::Told { window, retry_after } => {
                self.window = Some(window);
                self.failures = 0;
                let pause = retry_after.map_or(ASK, |after| after.from_now(now));
                self.asked(now + pause.clamp(MIN_ASK, MAX_ASK));
            }
            RenewalEvent::Absent => {
                self.window = None;
                self.asked(now + MAX_ASK);
            }
            RenewalEvent::Failed { retry_after } => {
                let doubled = MIN_ASK.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(ASK);
                self.failures = self.failures.saturating_add(1);
                let said = retry_after.map(|after| after.from_now(now)).unwrap_or_default();
                self.asked(now + doubled.max(said.min(MAX_ASK)));
            }
        }
        let mut actions = Vec::new();
        if !self.is_due && self.at() <= now {
            self.is_due = true;
            actions.push(RenewalAction::Renew);
        } else if !self.is_due && !self.is_asking && self.ask_at.is_some_and(|at| at <= now) {
            self.is_asking = true;
            actions.push(RenewalAction::Ask);
        }
        if self.differs_from(&before) {
            actions.insert(0, RenewalAction::Keep);
        }
        actions
    }

    fn asked(&mut self, again: Timestamp) {
        self.is_asking = false;
        self.ask_at = Some(again);
    }

    /// Whether something changed that is stored.
    fn differs_from(&self, before: &Self) -> bool {
        *self != Self { is_asking: self.is_asking, ..before.clone() }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
    const DAY: u64 = 24 * 3600;

    fn at(secs: u64) -> Timestamp {
        START + Duration::from_secs(secs)
    }

    fn window(start: u64, end: u64) -> Window {
        Window { start: at(start), end: at(end), explanation: None }
    }

    fn told(window: Window, retry_after: u64) -> RenewalEvent {
        RenewalEvent::Told { window, retry_after: Some(RetryAfter::In(Duration::from_secs(retry_after))) }
    }

    /// Ninety days from the start; our point is the middle.
    fn renewal() -> Renewal {
        Renewal::of_life(START, at(90 * DAY), Jitter::new(u32::MAX / 2), START)
    }

    #[test]
    fn it_is_renewed_at_one_point_of_the_window_however_often_that_is_asked() {
        let mut it = renewal();
        assert_eq!(it.step(RenewalEvent::Tick, START), [RenewalAction::Ask]);
        assert_eq!(it.step(RenewalEvent::Tick, START), []);
        let event = told(window(60 * DAY, 62 * DAY), 21600);
        assert_eq!(it.step(event.clone(), START), [RenewalAction::Keep]);
        let chosen = it.at();
        assert_eq!(chosen.since(START).as_secs().div_ceil(60), 61 * DAY / 60);
        assert_eq!(it.deadline(), Some(at(21600)));
        assert_eq!(it.step(RenewalEvent::Tick, at(21600)), [RenewalAction::Ask]);
        assert_eq!(it.step(event, at(21600)), [RenewalAction::Keep]);
        // What is stored chooses the same point.
        let mut stored: Renewal = serde_json::from_str(&serde_json::to_string(&it).unwrap()).unwrap();
        assert_eq!((it.at(), stored.at()), (chosen, chosen));
        assert_eq!(stored.step(RenewalEvent::Tick, chosen), [RenewalAction::Keep, RenewalAction::Renew]);
        assert_eq!(stored.step(RenewalEvent::Tick, chosen + Duration::from_secs(9)), []);
        assert_eq!(stored.deadline(), None);
    }

    #[test]
    fn a_window_in_the_past_means_now_and_one_beyond_the_end_is_not_waited_for() {
        let mut revoked = renewal();
        revoked.step(RenewalEvent::Tick, at(DAY));
        let actions = revoked.step(told(window(DAY - 7200, DAY - 3600), 60), at(DAY));
        assert_eq!(actions, [RenewalAction::Keep, RenewalAction::Renew]);
        let mut odd = renewal();
        odd.step(RenewalEvent::Tick, START);
        odd.step(told(window(900 * DAY, 901 * DAY), 60), START);
        assert_eq!(odd.at(), at(81 * DAY));
    }

    #[test]
    fn a_server_whose_windows_are_always_over_has_one_certificate_ordered_an_hour() {
        let check = |ahead: u64, left: u64, pause: u64| {
            let mut now = START;
            for number in 1..=50 {
                let (begin, end) = (now - Duration::from_secs(ahead), now + Duration::from_secs(left));
                let mut it = Renewal::of_life(begin, end, Jitter::new(number * 70_000_000), now);
                let obtained = now;
                let mut event = RenewalEvent::Tick;
                // A restart after each step changes nothing.
                loop {
                    let actions = it.step(event, now);
                    it = serde_json::from_str(&serde_json::to_string(&it).unwrap()).unwrap();
                    event = RenewalEvent::Tick;
                    if actions.contains(&RenewalAction::Renew) {
                        break;
                    }
                    if actions.contains(&RenewalAction::Ask) {
                        let past = |secs| now - Duration::from_secs(secs);
                        let window = Window { start: past(7200), end: past(3600), explanation: None };
                        event = told(window, 60);
                    } else {
                        let next = it.deadline().unwrap();
                        assert!(next > now, "no time passes");
                        now = next;
                    }
                }
                assert_eq!(now.since(obtained), Duration::from_secs(pause), "certificate {number}");
                assert!(now < end, "certificate {number}");
            }
        };
        check(3600, 90 * DAY, 3600);
        check(0, 6 * 3600, 2160);
        check(60, 300, 30);
        // Handed out just before their end, past the point that is the latest otherwise.
        check(89 * DAY, DAY, 3600);
        check(90 * DAY, 600, 60);
    }

    #[test]
    fn without_a_suggestion_it_is_two_thirds_of_its_life_or_what_was_suggested_last() {
        let mut it = renewal();
        it.step(RenewalEvent::Tick, START);
        it.step(RenewalEvent::Absent, START);
        // Two thirds, and half of a twentieth sooner.
        let part = it.at().since(START).as_secs_f64() / (90 * DAY) as f64;
        assert!((part - (2.0 / 3.0 - 0.025)).abs() < 0.001, "{part}");
        assert_eq!(it.deadline(), Some(at(DAY)));
        it.step(RenewalEvent::Tick, at(DAY));
        it.step(told(window(30 * DAY, 31 * DAY), 3600), at(DAY));
        let chosen = it.at();
        let mut now = at(DAY + 3600);
        for pause in [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600] {
            assert_eq!(it.step(RenewalEvent::Tick, now), [RenewalAction::Ask]);
            it.step(RenewalEvent::Failed { retry_after: None }, now);
            assert_eq!(it.deadline(), Some(now + Duration::from_secs(pause)));
            now = now + Duration::from_secs(pause);
        }
        assert_eq!(it.at(), chosen);
    }

    #[test]
    fn the_id_of_a_certificate_keeps_the_zero_of_a_number_with_its_top_bit_set() {
        let now = START;
        let authority = fixtures::TestAuthority::root("acme", now);
        let key = fixtures::TestKey::generate(fixtures::TestKeyKind::P256);
        for (serial, end) in [(vec![0x00, 0x87, 0x65, 0x43, 0x21], "AIdlQyE"), (vec![0x7f, 0x01], "fwE")] {
            let mut blueprint = authority.leaf_blueprint("urn:x", &key, now);
            blueprint.serial = serial;
            let made = Certificate::from_der(&blueprint.sign(authority.key())).unwrap();
            let id = CertificateId::of(&made).unwrap();
            let expected = format!("{}.{end}", encode(made.authority_key_id().unwrap()));
            assert_eq!(id.as_str(), expected);
        }
        let blueprint = authority.leaf_blueprint("urn:x", &key, now);
        let bare = blueprint.without(fixtures::oid::AUTHORITY_KEY_ID).sign(authority.key());
        assert_eq!(CertificateId::of(&Certificate::from_der(&bare).unwrap()), None);
    }

    #[test]
    fn whatever_a_server_suggests_it_is_renewed_once_before_its_end_and_asked_at_a_bounded_pace() {
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut it = Renewal::of_life(START, at(90 * DAY), Jitter::new(random.random()), START);
            let (mut now, mut asked, mut renewed) = (START, None::<Timestamp>, 0);
            let mut event = RenewalEvent::Tick;
            for _ in 0..3000 {
                let mut next = RenewalEvent::Tick;
                for action in it.step(event, now) {
                    match action {
                        RenewalAction::Keep => {}
                        RenewalAction::Renew => renewed += 1,
                        RenewalAction::Ask => {
                            assert!(asked.is_none_or(|before| now.since(before) >= MIN_ASK), "seed {seed}");
                            asked = Some(now);
                            let (start, length) =
                                (random.random_range(0..200 * DAY), random.random_range(1..9 * DAY));
                            let after = random.random_range(0..9 * DAY);
                            next = match random.random_range(0..4) {
                                0 => RenewalEvent::Absent,
                                1 => RenewalEvent::Failed { retry_after: None },
                                2 => told(window(start, start + length), after),
                                _ => RenewalEvent::Failed {
                                    retry_after: Some(RetryAfter::In(Duration::from_secs(after))),
                                },
                            };
                        }
                    }
                }
                if matches!(next, RenewalEvent::Tick) {
                    let Some(deadline) = it.deadline() else { break };
                    assert!(deadline > now, "seed {seed}: no time passes");
                    now = deadline;
                }
                event = next;
            }
            assert_eq!(renewed, 1, "seed {seed}");
            assert!(now <= at(81 * DAY), "seed {seed}: {now}");
        }
    }
}
