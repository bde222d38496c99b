//! The outside anchor: one file, best on another volume, that holds the newest end of the audit chain. A store that
//! was put back as a whole, with a chain that is valid in itself, is older than its anchor.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use audit::Head;
use certs::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What an anchor file holds, as one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anchor {
    /// Of which store.
    pub(crate) store: Uuid,
    /// The number of the newest audit row.
    pub(crate) sequence: u64,
    /// Its hash, in hexadecimal.
    pub(crate) hash: String,
    /// When it was written.
    pub(crate) at: Timestamp,
}

impl Anchor {
    pub(crate) fn new(store: Uuid, head: Head, at: Timestamp) -> Self {
        Self { store, sequence: head.sequence, hash: hex::encode(head.hash), at }
    }

    /// Reads the file; `None` if there is none yet.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a complete file in the place of the old one, synchronised.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let mut file =
            fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        serde_json::to_writer(&file, self).map_err(io::Error::other)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => crate::directory::sync(folder),
            _ => crate::directory::sync(Path::new(".")),
        }
    }
}
