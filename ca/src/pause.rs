//! Operators' wish that no authority is replaced by itself for a while.

use certs::{Timestamp, format_duration};

/// A pause of what goes on by itself: replacements of authorities at half of their lives, and the steps of one that
/// is under way. Renewals of leaves, of nodes' certificates and of our own go on; so does what an operator asks for.
///
/// It ends by itself. No pause carries an authority past the point where it must be replaced to keep signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Pause {
    /// Whether it holds at `now`.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// One line for every screen.
    #[must_use]
    pub fn banner(&self, now: Timestamp) -> String {
        format!(
            "automatic rotation is PAUSED for {} more, until {}, by {}: {}",
            format_duration(self.until.since(now)),
            self.until,
            self.by,
            self.reason
        )
    }
}
