//! What `build.rs` writes. Its documentation is that of the `.proto` files.

#[expect(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated"
)]
mod code {
    include!(concat!(env!("OUT_DIR"), "/envoy/mod.rs"));
    /// Our own services: enrolment and renewal of nodes.
    pub mod credence {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/credence/credence.v1.rs"));
        }
    }
}

pub(crate) use code::validate;
pub use code::{credence, envoy, google, udpa, xds};
