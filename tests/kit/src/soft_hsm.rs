//! A token that holds keys and does not give them away: SoftHSM2, as Debian packs it, with tokens of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::not_run;

/// Tokens in a folder of their own, which is gone when this is dropped.
#[derive(Debug)]
pub struct SoftHsm {
    module: PathBuf,
    folder: TempDir,
}

impl SoftHsm {
    /// Without any token yet. Says so loudly when there is no SoftHSM2; then a test returns, and in CI fails.
    ///
    /// # Panics
    /// See above.
    #[must_use]
    pub fn start() -> Option<Self> {
        let modules = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"];
        let Some(module) = modules.iter().map(PathBuf::from).find(|path| path.exists()) else {
            not_run("there is no SoftHSM2 (apt-get install softhsm2)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let this = Self { module, folder };
        let tokens = this.path("tokens");
        let settings = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        let made = fs::create_dir(&tokens).and_then(|()| fs::write(this.path("softhsm2.conf"), settings));
        made.unwrap_or_else(|error| panic!("{}: {error}", tokens.display()));
        Some(this)
    }

    /// The library that speaks for it.
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// A file in its folder, beside the tokens.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a process is started with that is to find these tokens and no others.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("SOFTHSM2_CONF", self.path("softhsm2.conf").display().to_string())]
    }

    /// Makes a token that is empty.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_token(&self, label: &str, pin: &str) {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "56785678", "--pin", pin])
            .envs(self.environment())
            .output();
        let made = made.unwrap_or_else(|error| panic!("softhsm2-util: {error}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Takes all of its tokens away, or puts them back.
    ///
    /// # Panics
    /// When they are so already.
    pub fn plug(&self, is_in: bool) {
        let (inside, outside) = (self.path("tokens"), self.path("unplugged"));
        let moved = if is_in {
            fs::remove_dir(&inside).and_then(|()| fs::rename(outside, &inside))
        } else {
            fs::rename(&inside, outside).and_then(|()| fs::create_dir(&inside))
        };
        moved.unwrap_or_else(|error| panic!("tokens in {}: {error}", inside.display()));
    }
}
