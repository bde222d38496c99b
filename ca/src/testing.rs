//! Fakes of the ports, and the contract that fakes and the real store both keep.
//!
//! [`MemoryStore`] can be told to fail, so that tests see what happens half-way.

mod contract;
mod core;
mod memory;
mod observer;
#[cfg(test)]
mod vault;

use certs::{Profile, SecretKey};
use spiffe::{Class, NodeId, Purpose, RequestId, SpiffeId, SvidRequest, Tenant};

pub use self::contract::{
    StoreFixture, authorities_contract, journal_contract, leaves_contract, revocations_contract,
};
pub use self::core::Core;
pub use self::memory::{Call, MemoryStore};
pub use self::observer::FakeDependents;
#[cfg(test)]
pub(crate) use self::vault::{FakeVault, Manner};
#[cfg(test)]
pub(crate) use fixtures::Random;

/// A request that the default policy allows for `spiffe://td` and `path`, with a new key whose private half is
/// thrown away; workloads are for node `web-1`.
///
/// # Panics
/// When `path` is none.
#[must_use]
pub fn request(path: &str, purpose: Purpose) -> SvidRequest {
    let id = SpiffeId::parse(&format!("spiffe://td{path}")).expect("test paths parse");
    let (profile, node) = match id.class() {
        Ok(Class::Node(node)) => (Profile::Node, Some(node)),
        Ok(Class::Server) => (Profile::Server, None),
        Ok(Class::Operator(_)) => (Profile::Operator, None),
        Ok(Class::Workload) | Err(_) => (Profile::Workload, NodeId::parse("web-1").ok()),
    };
    SvidRequest {
        id,
        profile,
        public_key: SecretKey::generate(profile.key_kind()).public().clone(),
        lifetime: profile.default_lifetime(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        tenant: Tenant::default(),
        node,
        issuer: None,
        purpose,
        deadline: None,
        spend: None,
        request_id: RequestId::random(),
    }
}

/// `tests/run --full` runs every count of the reliability programme, `tests/run` a tenth.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the test command tells by this variable how much to run")]
pub(crate) fn full() -> bool {
    std::env::var("CREDENCE_FULL").is_ok_and(|value| value == "1")
}
