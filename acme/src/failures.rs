//! What failed, how often, and when it is tried again (PURE). A serializable value: a restart does not make it forget
//! what a server said.

use std::{collections::BTreeMap, time::Duration};

use certs::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Pace, Trouble};

/// The most kinds of failure that are counted.
const MAX_CODES: usize = 64;

/// A random part of one, drawn by the shell: spreads what would otherwise happen at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Jitter(u32);

impl Jitter {
    /// Nothing of the whole.
    pub const NONE: Self = Self(0);
    /// Practically the whole.
    pub const FULL: Self = Self(u32::MAX);

    /// From 32 random bits.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) fn of(self, whole: Duration) -> Duration {
        whole.mul_f64(f64::from(self.0) / f64::from(u32::MAX))
    }
}

impl Pace {
    /// The first pause, which doubles, and the longest one.
    #[must_use]
    pub fn pauses(self) -> (Duration, Duration) {
        let (first, longest) = match self {
            Self::Soon => (1, 15 * 60),
            Self::Publication => (30, 5 * 60),
            // An authority lets five validations of a name fail in an hour: these are the first, and 5, 15 and 35
            // minutes later.
            Self::Validation => (5 * 60, 12 * 3600),
            Self::Limit => (15 * 60, 24 * 3600),
            Self::Operator => (3600, 24 * 3600),
        };
        (Duration::from_secs(first), Duration::from_secs(longest))
    }
}

/// The last failure, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// Its code, see [`Trouble::code`].
    pub code: String,
    /// What was the matter.
    pub text: String,
    /// What to do about it.
    pub hint: String,
    /// When.
    pub at: Timestamp,
}

/// Failures since the last success.
///
/// | pace | first pause | longest |
/// |---|---|---|
/// | soon | 1 s | 15 min |
/// | publication | 30 s | 5 min |
/// | validation | 5 min | 12 h |
/// | limit | 15 min | 24 h |
/// | operator | 1 h | 24 h |
///
/// Each kind of failure has its own count; the pause doubles with it, and jitter takes off up to a quarter. Where the
/// server says when to come again, its pause is taken, and never a shorter one, up to
/// [`MAX_RETRY_AFTER`](crate::MAX_RETRY_AFTER).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    counts: BTreeMap<String, (Pace, u32)>,
    last: Option<LastFailure>,
    next: Option<Timestamp>,
    not_before: Option<Timestamp>,
}

impl Failures {
    /// Counts one, and says when to try again.
    pub fn note(&mut self, trouble: &Trouble, jitter: Jitter, now: Timestamp) -> Timestamp {
        let (code, pace) = (trouble.code(), trouble.pace());
        let is_new = !self.counts.contains_key(code);
        if is_new && self.counts.len() == MAX_CODES {
            self.counts.clear();
        }
        let (_, count) = self.counts.entry(code.to_owned()).or_insert((pace, 0));
        let said = trouble.retry_after().map(|after| after.from_now(now));
        // A server that says when need not be guessed at.
        let (first, longest) = if said.is_some() { Pace::Soon.pauses() } else { pace.pauses() };
        let doubled = first.saturating_mul(2_u32.saturating_pow((*count).min(20))).min(longest);
        *count = count.saturating_add(1);
        let pause = doubled - jitter.of(doubled / 4);
        let before = self.not_before.filter(|at| *at > now);
        self.not_before = said.map(|said| now + said).max(before);
        // Not all at the same moment either.
        let said = said.map(|said| said + jitter.of((said / 10).min(Duration::from_secs(60))));
        let next = (now + pause.max(said.unwrap_or_default())).max(self.not_before.unwrap_or(now));
        self.next = Some(next);
        self.last = Some(LastFailure {
            code: code.to_owned(),
            text: trouble.to_string(),
            hint: trouble.hint(),
            at: now,
        });
        next
    }

    /// What failed for a fault on the way works again.
    pub(crate) fn went_on(&mut self) {
        self.counts.retain(|_, (pace, _)| *pace != Pace::Soon);
    }

    /// Something else is tried: nothing is left but when the server lets us come again.
    pub(crate) fn only_what_was_said(&self) -> Self {
        Self { next: self.not_before, not_before: self.not_before, ..Self::default() }
    }

    /// How often it failed in this way since the last success.
    #[must_use]
    pub fn count(&self, code: &str) -> u32 {
        self.counts.get(code).map_or(0, |(_, count)| *count)
    }

    /// How often it failed in any way.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.counts.values().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<&LastFailure> {
        self.last.as_ref()
    }

    /// When it is tried again.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// When it may be tried again at the earliest, because the server said so.
    #[must_use]
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// Somebody has changed something: the next try is now, or when the server lets us.
    pub(crate) fn hurry(&mut self, now: Timestamp) -> Timestamp {
        let next = now.max(self.not_before.unwrap_or(now));
        self.next = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChallengeKind, Problem, ProblemKind, RetryAfter};

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn refused(kind: ProblemKind, retry_after: Option<RetryAfter>) -> Trouble {
        Trouble::Problem { status: 400, problem: Problem::new(kind, "no"), retry_after }
    }

    #[test]
    fn each_kind_of_failure_has_its_own_pauses() {
        let mut all = Failures::default();
        let mut check = |kind, pauses: &[u64]| {
            for pause in pauses {
                let next = all.note(&refused(kind, None), Jitter::NONE, START);
                assert_eq!(next.since(START).as_secs(), *pause, "{kind}");
            }
            assert_eq!(all.count(kind.name()) as usize, pauses.len());
        };
        check(ProblemKind::ServerInternal, &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        check(ProblemKind::Unauthorized, &[300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 43200]);
        check(ProblemKind::Caa, &[300, 600]);
        check(ProblemKind::RateLimited, &[900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400]);
        check(ProblemKind::Malformed, &[3600, 7200]);
        let unpublished =
            Trouble::NotPublished { challenge: ChallengeKind::Http01, why: "by nobody".to_owned() };
        for pause in [30, 60, 120, 240, 300, 300] {
            let next = all.note(&unpublished, Jitter::NONE, START);
            assert_eq!(next.since(START).as_secs(), pause, "no authority was told of it");
        }
        let stored = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Failures>(&stored).unwrap(), all);
        all.went_on();
        assert_eq!((all.count("serverInternal"), all.count("caa")), (0, 2));
    }

    #[test]
    fn it_is_never_tried_sooner_than_the_server_says_in_either_form() {
        for after in
            [RetryAfter::In(Duration::from_secs(7200)), RetryAfter::At(START + Duration::from_secs(7200))]
        {
            for jitter in [Jitter::NONE, Jitter::FULL] {
                let mut all = Failures::default();
                let next = all.note(&refused(ProblemKind::RateLimited, Some(after)), jitter, START);
                let late = next.since(START).as_secs() - 7200;
                assert_eq!(late, if jitter == Jitter::FULL { 60 } else { 0 });
                assert_eq!(all.hurry(START).since(START).as_secs(), 7200, "nobody hurries a server");
            }
        }
        // Weeks are believed, years are not.
        let mut all = Failures::default();
        let years = RetryAfter::In(Duration::from_secs(u32::MAX.into()));
        let next = all.note(&refused(ProblemKind::RateLimited, Some(years)), Jitter::NONE, START);
        assert_eq!(next.since(START), crate::MAX_RETRY_AFTER);
        assert_eq!(Failures::default().hurry(START), START);
    }
}
