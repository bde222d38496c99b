//! Fakes of the ports, and the contract that fakes and the real store both keep.
//!
//! [`MemoryStore`] can be told to fail, so that tests see what happens half-way.

mod contract;
mod memory;

pub use self::contract::{StoreFixture, authorities_contract, journal_contract};
pub use self::memory::{Call, MemoryStore};
