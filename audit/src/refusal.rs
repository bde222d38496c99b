//! The port through which whoever refuses something says so.

use std::fmt;

use crate::Event;

/// Where refusals go. The far side gathers them to one row per (peer, reason) and minute (DESIGN section 1,
/// promise 8), so a stranger cannot fill the disk; whoever refuses needs no such care.
pub trait Refusals: Send + Sync + fmt::Debug {
    /// Takes the event. Never blocks and never fails; what does not fit is counted by the far side.
    fn refuse(&self, event: Event);
}
