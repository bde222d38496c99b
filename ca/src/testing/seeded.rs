//! Numbers that look random and are the same in every run, and how many of them a run wants.

use std::time::Duration;

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From zero to `bound`, which is not among them.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// The same for places in a list.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// As many octets.
    pub(crate) fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }

    /// A length of time from `least` to `most`, both included, to the millisecond; short ones as often as long ones.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let millis =
            |length: Duration| u64::try_from(length.as_millis()).expect("lives end before the universe");
        let (least, most) = (millis(least), millis(most));
        if least >= most {
            return Duration::from_millis(most);
        }
        let span = most - least + 1;
        let magnitude = self.below(u64::from(64 - span.leading_zeros()));
        Duration::from_millis(least + self.below(span.min(2 << magnitude)))
    }
}

/// `tests/run --full` runs every count of the reliability programme, `tests/run` a tenth.
#[expect(clippy::disallowed_methods, reason = "the test command tells by this variable how much to run")]
pub(crate) fn full() -> bool {
    std::env::var("CREDENCE_FULL").is_ok_and(|value| value == "1")
}
