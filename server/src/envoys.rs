//! Which Envoy this host has, and getting one: the search path and the cache folder enter here.

use std::path::{Path, PathBuf};

use agent::envoy::{InstallError, Notice, Release};

/// The folder that installed Envoys are kept in: `$XDG_CACHE_HOME/credence`, else `~/.cache/credence`.
#[must_use]
pub fn cache_directory() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("credence")
}

/// An Envoy: where the caller says, else on the search path, else in the cache.
#[must_use]
pub fn find(explicit: Option<&Path>) -> Option<PathBuf> {
    agent::envoy::find(explicit, std::env::var_os("PATH").as_deref(), &cache_directory())
}

/// Installs the pinned Envoy into the cache.
///
/// # Errors
/// As [`agent::envoy::install`] says, with its hint.
pub async fn install(say: &(dyn Fn(Notice) + Send + Sync)) -> Result<PathBuf, InstallError> {
    agent::envoy::install(&cache_directory(), &Release::PINNED, say).await
}
