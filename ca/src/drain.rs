//! When connections that were opened under a stolen key have to end.

use crate::ports::{AuthorityRecord, AuthorityState, Place};

/// How often every connection between proxies had to end. Published as `watch<Drain>`.
///
/// It is read from the authorities themselves, so that it survives a crash and never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drain {
    /// How many roots left the bundle whose key was believed to be stolen.
    pub generation: u64,
    /// The sequence number of the bundle without them. Whoever was served an older one may still take a certificate of
    /// the thief's; what is opened then would outlive the drain.
    pub bundle: u64,
}

impl Drain {
    /// As `records` say it; `bundle` is the sequence number of the bundle that they make.
    pub(crate) fn of(records: &[AuthorityRecord], bundle: u64) -> Self {
        let gone = records.iter().filter(|record| {
            record.place == Place::Root && record.state == AuthorityState::Removed && record.stolen.is_some()
        });
        Self { generation: u64::try_from(gone.count()).unwrap_or(u64::MAX), bundle }
    }
}
