//! Files of others: certificates, keys, tokens. They may be anything by the time they are read.

use std::{path::Path, time::Duration};

use tokio::{
    fs::{File, metadata},
    io::AsyncReadExt,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::Trouble;

/// The first `at_most` bytes of a file, links followed, within `limit`: a file may lie where nobody answers. What is no
/// file is not opened: a pipe would wait for a writer, and a device never end.
///
/// # Errors
/// [`Trouble::File`].
pub(crate) async fn read(
    path: &Path,
    at_most: usize,
    limit: Duration,
) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    within(path, limit, async {
        let found = metadata(path).await.map_err(|error| error.to_string())?;
        if !found.is_file() {
            return Err("is not a regular file".to_owned());
        }
        let file = File::open(path).await.map_err(|error| error.to_string())?;
        // With room to spare: a buffer that grows leaves the old one behind.
        let length = usize::try_from(found.len()).unwrap_or(usize::MAX).min(at_most);
        let mut bytes = Zeroizing::new(Vec::with_capacity(length + 64));
        file.take(at_most as u64).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
        Ok(bytes)
    })
    .await
}

async fn within<T>(
    path: &Path,
    limit: Duration,
    reading: impl Future<Output = Result<T, String>>,
) -> Result<T, Trouble> {
    let late = |_| Err(format!("could not be read within {limit:?}"));
    let read = timeout(limit, reading).await.unwrap_or_else(late);
    read.map_err(|reason| Trouble::File { file: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_file_is_not_opened_and_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let limit = Duration::from_secs(60);
        let refused = async |name: &str, words: &str| match read(&place(name), 8, limit).await {
            Err(Trouble::File { file, reason }) => {
                assert_eq!(file, place(name));
                assert!(reason.contains(words), "{name}: {reason}");
            }
            other => panic!("{name}: {other:?}"),
        };
        std::fs::create_dir(place("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, place("pipe"), rustix::fs::Mode::RUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", place("device")).unwrap();
        std::os::unix::fs::symlink(place("pipe"), place("link-to-pipe")).unwrap();
        for name in ["folder", "pipe", "device", "link-to-pipe"] {
            refused(name, "is not a regular file").await;
        }
        refused("absent", "No such file").await;
        std::fs::write(place("file"), "0123456789").unwrap();
        std::os::unix::fs::symlink(place("file"), place("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&place(name), 8, limit).await.unwrap().as_slice(), b"01234567", "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_file_that_does_not_come() {
        let begun = tokio::time::Instant::now();
        let late =
            within(Path::new("far"), Duration::from_secs(3), std::future::pending::<Result<(), _>>()).await;
        let reason = "could not be read within 3s".to_owned();
        assert_eq!(late, Err(Trouble::File { file: "far".into(), reason }));
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
