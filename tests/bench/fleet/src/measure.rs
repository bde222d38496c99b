//! How times are spread.

use crate::protocol::Times;

impl Times {
    /// Of milliseconds in any order; zeros of none.
    #[must_use]
    pub fn of(mut millis: Vec<i64>) -> Self {
        millis.sort_unstable();
        // The smallest value that at least `part` of a hundred do not exceed.
        let rank = |part: usize| {
            let rank = (millis.len() * part).div_ceil(100).max(1);
            millis.get(rank - 1).copied().unwrap_or_default()
        };
        Self { p50: rank(50), p90: rank(90), p99: rank(99), max: rank(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sorted_list() {
        let check = |millis: Vec<i64>, [p50, p90, p99, max]: [i64; 4]| {
            assert_eq!(Times::of(millis), Times { p50, p90, p99, max });
        };
        check(vec![], [0, 0, 0, 0]);
        check(vec![7], [7, 7, 7, 7]);
        check(vec![3, 1, 2], [2, 3, 3, 3]);
        check((1..=1000).rev().collect(), [500, 900, 990, 1000]);
    }
}
