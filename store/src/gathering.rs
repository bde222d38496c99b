//! When a group of changes is whole: what is known to come at once is waited for.
//!
//! A certificate is two changes, its intent and its result, and between them lies one signature. A commit that does
//! not wait for results that are being signed leaves each of them to a synchronisation of its own, and the disk is the
//! slowest thing there is. So an open transaction waits for them, while it takes in whatever else comes; a change that
//! is alone waits for nothing.

use std::time::Duration;

/// How long a transaction stays open at most for changes that are known to come.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// What a change has to do with another of the same matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Nothing.
    Alone,
    /// Another one follows at once, if this one stands.
    First,
    /// It is the one that follows.
    Last,
}

/// How many changes are known to come.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    coming: u32,
}

impl Gathering {
    /// A change has come.
    pub(crate) fn take(&mut self, part: Part) {
        if part == Part::Last {
            self.coming = self.coming.saturating_sub(1);
        }
    }

    /// A change stands, and whoever made it is about to hear so.
    pub(crate) fn keep(&mut self, part: Part) {
        if part == Part::First {
            self.coming = self.coming.saturating_add(1);
        }
    }

    /// Nothing is known to come.
    pub(crate) fn is_whole(&self) -> bool {
        self.coming == 0
    }

    /// They were waited for in vain, and are not waited for again.
    pub(crate) fn give_up(&mut self) {
        self.coming = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Step {
        Take(Part),
        Keep(Part),
        GiveUp,
    }
    use Part::{Alone, First, Last};
    use Step::{GiveUp, Keep, Take};

    #[test]
    fn a_group_is_whole_when_every_first_part_that_stands_has_its_last() {
        let check = |steps: &[Step], whole: bool| {
            let mut gathering = Gathering::default();
            for step in steps {
                match *step {
                    Take(part) => gathering.take(part),
                    Keep(part) => gathering.keep(part),
                    GiveUp => gathering.give_up(),
                }
            }
            assert_eq!(gathering.is_whole(), whole);
        };
        check(&[], true);
        check(&[Take(Alone), Keep(Alone)], true);
        check(&[Take(First)], true);
        check(&[Take(First), Keep(First)], false);
        check(&[Take(First), Keep(First), Take(Last)], true);
        check(&[Keep(First), Keep(First), Take(Last), Keep(Last)], false);
        check(&[Keep(First), GiveUp], true);
        // What comes after it was given up takes nothing away from others for good.
        check(&[Keep(First), GiveUp, Take(Last), Keep(First)], false);
        check(&[Take(Last), Take(Last), Keep(First)], false);
    }
}
