//! When a full disk is asked whether it has room again, however many changes come meanwhile, and what is said where it
//! cannot be asked.

use std::time::Duration;

use tokio::time::Instant;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(2);

/// The asking of one disk.
#[derive(Debug)]
pub(crate) struct Probe {
    due: Instant,
    /// Why it could not be asked last.
    said: Option<String>,
}

impl Probe {
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: now, said: None }
    }

    /// When it is due, on a full disk.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// The disk was found full, or is being asked.
    pub(crate) fn put_off(&mut self, now: Instant) {
        self.due = now + EVERY;
    }

    /// It could be asked.
    pub(crate) fn answered(&mut self) {
        self.said = None;
    }

    /// Whether it was not said yet that it cannot be asked for this reason.
    pub(crate) fn is_news(&mut self, why: &str) -> bool {
        let is_news = self.said.as_deref() != Some(why);
        self.said = Some(why.to_owned());
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_disk_cannot_be_asked_is_said_once_until_it_could_or_it_is_something_else() {
        let mut probe = Probe::new(Instant::now());
        assert!(probe.is_news("too many open files"));
        assert!(!probe.is_news("too many open files"));
        assert!(probe.is_news("input/output error"));
        assert!(!probe.is_news("input/output error"));
        probe.answered();
        assert!(probe.is_news("input/output error"));
    }
}
