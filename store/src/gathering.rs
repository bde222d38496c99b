//! When a group of changes is whole: what is known to come at once is waited for, and what is likely to come a moment.
//!
//! A certificate is two changes, its intent and its result, and between them lies one signature. A commit that does
//! not wait for results that are being signed leaves each of them to a synchronisation of its own, and the disk is the
//! slowest thing there is. So an open transaction waits for them, while it takes in whatever else comes.
//!
//! Whoever was answered together comes again together, or others in their place: so a group is likely to become as large
//! as the one before it, and is waited for while changes keep coming. A change that is alone waits for nothing.

use std::time::Duration;

/// How long a transaction stays open at most, for what is known or likely to come.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);
/// How long it waits at a time for what is known to come.
const KNOWN: Duration = Duration::from_millis(20);
/// How long it waits at a time for what is only likely to come.
const LIKELY: Duration = Duration::from_millis(3);

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

/// How many changes are known or likely to come.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// Known to come.
    coming: u32,
    /// In the group so far.
    taken: u32,
    /// In the group before.
    before: u32,
}

impl Gathering {
    /// A change has come.
    pub(crate) fn take(&mut self, part: Part) {
        self.taken = self.taken.saturating_add(1);
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

    /// The group is done, and another begins.
    pub(crate) fn close(&mut self) {
        self.before = std::mem::take(&mut self.taken);
    }

    /// How long to wait for the next change; `None` if none is expected.
    pub(crate) fn wait(&self) -> Option<Duration> {
        if self.coming > 0 {
            Some(KNOWN)
        } else if self.taken < self.before {
            Some(LIKELY)
        } else {
            None
        }
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
        Close,
        GiveUp,
    }
    use Part::{Alone, First, Last};
    use Step::{Close, GiveUp, Keep, Take};

    fn check(steps: &[Step], expected: Option<Duration>) {
        let mut gathering = Gathering::default();
        for step in steps {
            match *step {
                Take(part) => gathering.take(part),
                Keep(part) => gathering.keep(part),
                Close => gathering.close(),
                GiveUp => gathering.give_up(),
            }
        }
        assert_eq!(gathering.wait(), expected);
    }

    #[test]
    fn a_group_is_whole_when_every_first_part_that_stands_has_its_last() {
        check(&[], None);
        check(&[Take(Alone), Close, Keep(Alone), Take(Alone)], None);
        check(&[Take(First)], None);
        check(&[Take(First), Close, Keep(First), Take(Alone)], Some(KNOWN));
        check(&[Take(First), Close, Keep(First), Take(Last)], None);
        check(&[Keep(First), Keep(First), Take(Last), Close, Keep(Last), Take(Alone)], Some(KNOWN));
        check(&[Keep(First), GiveUp], None);
        // What comes after it was given up takes nothing away from others for good.
        check(&[Keep(First), GiveUp, Take(Last), Close, Keep(First), Take(Alone)], Some(KNOWN));
        check(&[Take(Last), Take(Last), Close, Keep(First), Take(Alone), Take(Alone)], Some(KNOWN));
    }

    #[test]
    fn as_many_as_came_before_are_waited_for_a_moment_and_no_longer_than_once() {
        let three = [Take(Alone), Take(Alone), Take(Alone), Close];
        let then = |steps: &[Step]| [&three, steps].concat();
        check(&then(&[Take(Alone)]), Some(LIKELY));
        check(&then(&[Take(Alone), Take(First), Take(Alone)]), None);
        check(&then(&[Take(Alone), Take(Alone), Take(Alone), Take(Alone)]), None);
        // One came alone: the next is alone as well.
        check(&then(&[Take(Alone), Close, Take(Alone)]), None);
    }
}
