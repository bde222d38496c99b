//! Wire types: Envoy's, from one pinned source, and our own `credence.v1`; the descriptors of all of them; text
//! (YAML, JSON) to messages and back; and Envoy's validation rules.
//!
//! It knows nothing of ours: not what a node or a tenant is, and never which resource is right. `build.rs` makes
//! [`envoy`], [`credence`] and [`FILE_DESCRIPTOR_SET`]; start reading there.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

mod generated;
pub mod pgv;
mod redact;
mod sensitive;
pub mod text;

pub use generated::{credence, envoy, google, udpa, xds};

/// Every file of Envoy's API and of ours, with all options, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));

/// The descriptors of [`FILE_DESCRIPTOR_SET`]. Decoded at first use, which costs some tens of milliseconds: a
/// command that does not need them must not touch them.
pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build script wrote a set that protox had linked")
});
