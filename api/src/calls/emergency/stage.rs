//! How far the answer to a stolen key is (PURE).

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody has called the key stolen.
    None,
    /// The root, and everything below it, is being replaced.
    Replacing,
    /// The root is out of the bundle; connections that were opened under it are being ended.
    Draining,
    /// Every connected proxy has acknowledged that they end.
    Done,
}

impl Stage {
    /// As it is shown.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Replacing => "replacing",
            Self::Draining => "draining",
            Self::Done => "done",
        }
    }
}

/// By what was said of the root, whether it left the bundle, and whether nobody is left who must hear of the drain.
pub(super) fn stage(is_stolen: bool, is_removed: bool, is_drained: bool) -> Stage {
    match (is_stolen, is_removed, is_drained) {
        (false, ..) => Stage::None,
        (true, false, _) => Stage::Replacing,
        (true, true, false) => Stage::Draining,
        (true, true, true) => Stage::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_counts_only_of_a_stolen_root_that_has_left() {
        let check = |facts: [bool; 3], expected| {
            assert_eq!(stage(facts[0], facts[1], facts[2]).word(), expected, "{facts:?}");
        };
        for is_drained in [false, true] {
            check([false, false, is_drained], "none");
            check([false, true, is_drained], "none");
            check([true, false, is_drained], "replacing");
        }
        check([true, true, false], "draining");
        check([true, true, true], "done");
    }
}
