//! Which Envoy to start.

use std::{
    ffi::OsStr,
    fmt, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Release, installed};

/// Looks for an Envoy: where the caller says, else on the search path, else in the cache. `search_path` is the
/// value of `PATH`, which only the program may read.
#[must_use]
pub fn find(explicit: Option<&Path>, search_path: Option<&OsStr>, cache: &Path) -> Option<PathBuf> {
    if let Some(path) = explicit {
        return is_program(path).then(|| path.to_owned());
    }
    let on_path = search_path
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join("envoy"))
        .find(|path| is_program(path));
    on_path.or_else(|| installed(cache, &Release::PINNED))
}

pub(super) fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// A version of Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion(pub u32, pub u32, pub u32);

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl EnvoyVersion {
    /// Finds the version in what Envoy says of itself: `HASH/1.40.0/Clean/RELEASE/BoringSSL`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.split(['/', ' ', '\n']).find_map(|part| {
            let numbers: Vec<u32> = part
                .split('-')
                .next()?
                .split('.')
                .map(|number| number.parse().ok())
                .collect::<Option<_>>()?;
            match numbers[..] {
                [major, minor, patch] => Some(Self(major, minor, patch)),
                _ => None,
            }
        })
    }
}

/// Asks a program for its version.
///
/// # Errors
/// When it cannot be started, does not answer within 10 s, or is no Envoy.
pub async fn version(program: &Path) -> io::Result<EnvoyVersion> {
    let output =
        timeout(Duration::from_secs(10), Command::new(program).arg("--version").kill_on_drop(true).output())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    EnvoyVersion::parse(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not say a version as Envoy does"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_out_of_what_envoy_says() {
        let check = |text: &str, expected| assert_eq!(EnvoyVersion::parse(text), expected, "{text}");
        check(
            "envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n",
            Some(EnvoyVersion(1, 40, 0)),
        );
        check("abc/1.41.0-dev/Modified/DEBUG/BoringSSL", Some(EnvoyVersion(1, 41, 0)));
        check("nginx", None);
    }

    #[test]
    fn looks_where_told_then_on_the_path_then_in_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let directory = folder.path().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let path = directory.join("envoy");
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let cache = folder.path().join("cache");
        let nowhere = folder.path().join("nowhere");
        assert_eq!(find(None, Some(nowhere.as_os_str()), &cache), None);
        let cached = program(&format!("cache/envoy-{}", Release::PINNED.version));
        assert_eq!(find(None, Some(nowhere.as_os_str()), &cache), Some(cached));
        let on_path = program("bin");
        let search_path = std::env::join_paths([&nowhere, &folder.path().join("bin")]).unwrap();
        assert_eq!(find(None, Some(&search_path), &cache), Some(on_path));
        let told = program("told");
        assert_eq!(find(Some(&told), Some(&search_path), &cache), Some(told));
        assert_eq!(find(Some(&nowhere), Some(&search_path), &cache), None);
    }
}
