//! A control plane whose system clock a test moves, by libfaketime: it is put in front of the C library of that one
//! process and reads what to say from a file, at each look.

use std::path::PathBuf;

use certs::Timestamp;

use crate::{TestWorld, not_run};

/// The file, in the folder in which the control plane runs.
const FILE: &str = "faketime";

/// What the system clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeTime {
    /// The truth.
    Right,
    /// So many seconds more than the truth.
    Off(i64),
    /// This, and it stands still.
    Frozen(Timestamp),
}

impl FakeTime {
    /// What a world's control plane is started with, so that [`FakeTime::set`] moves its clock. Says so loudly when
    /// there is no libfaketime; then a test returns, and in CI fails.
    ///
    /// # Panics
    /// See above.
    #[must_use]
    pub fn environment() -> Option<Vec<(&'static str, String)>> {
        let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let library = folders
            .iter()
            .map(|folder| PathBuf::from(folder).join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists());
        let Some(library) = library else {
            not_run("there is no libfaketime (apt-get install faketime)");
            return None;
        };
        let set = |name, value: &str| (name, value.to_owned());
        Some(vec![
            ("LD_PRELOAD", library.display().to_string()),
            set("FAKETIME_TIMESTAMP_FILE", FILE),
            set("FAKETIME_NO_CACHE", "1"),
            // Timers go on: of a clock that people set, they know nothing.
            set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            set("NO_FAKE_STAT", "1"),
            set("TZ", "UTC"),
        ])
    }

    /// Sets the clock of the world's control plane, which runs or will be started.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(self, world: &TestWorld) {
        let text = match self {
            Self::Right => "+0".to_owned(),
            Self::Off(secs) => format!("{secs:+}"),
            Self::Frozen(at) => at.floor_secs().to_string().replace('T', " ").replace('Z', ""),
        };
        let (path, new) = (world.sandbox().path(FILE), world.sandbox().path("faketime.new"));
        // It is read at any moment: never half of it.
        let written = std::fs::write(&new, text + "\n").and_then(|()| std::fs::rename(&new, &path));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
