//! Drain generations: names that change so that connections which were opened before end, and nothing else about a
//! resource.
//!
//! Envoy ends the connections of a filter chain, within its drain time, when another takes its place; and takes new
//! connections for further requests when another cluster does. So a generation stands in the names of secrets
//! (`NAME?g=N`), whose sources stay the same bytes, and in the names of chains. What Envoy does with each was measured:
//! `docs/explanation/draining.md`.

use std::collections::BTreeMap;

use spiffe::SpiffeId;

/// How often connections had to end, since the beginning. Generations only grow: one that went back would be another
/// name once more, and end everybody's connections for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drains {
    all: u64,
    sessions: BTreeMap<SpiffeId, u64>,
}

impl Drains {
    /// `all` is the generation of every connection between proxies; `sessions` that of the TCP sessions of one
    /// identity, which share their chains with those of others.
    #[must_use]
    pub fn new(all: u64, sessions: BTreeMap<SpiffeId, u64>) -> Self {
        Self { all, sessions }
    }

    /// The generation of every connection between proxies.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.all
    }

    /// The generations of the TCP sessions of identities.
    #[must_use]
    pub fn sessions(&self) -> &BTreeMap<SpiffeId, u64> {
        &self.sessions
    }

    /// The name of a secret in the generation of all connections.
    pub(super) fn secret(&self, name: &str) -> String {
        generation(name, self.all)
    }

    /// The generation of a chain that may hold TCP sessions of those for whom `may_hold` says so.
    pub(super) fn of_chain(&self, may_hold: impl Fn(&SpiffeId) -> bool) -> u64 {
        let sessions = self.sessions.iter().filter(|(id, _)| may_hold(id));
        self.all + sessions.map(|(_, generation)| *generation).max().unwrap_or_default()
    }
}

/// `NAME?g=N`; the name itself in the first generation.
pub(super) fn generation(name: &str, generation: u64) -> String {
    match generation {
        0 => name.to_owned(),
        later => format!("{name}?g={later}"),
    }
}

#[cfg(test)]
mod tests;
