//! Wire types: Envoy's, from one pinned source, and our own `credence.v1`; the descriptors of all of them; text
//! (YAML, JSON) to messages and back; and Envoy's validation rules.
//!
//! It knows nothing of ours: not what a node or a tenant is, and never which resource is right. `build.rs` makes
//! [`envoy`], [`credence`] and [`FILE_DESCRIPTOR_SET`]; start reading there.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

mod generated;
mod path;
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

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;

    #[test]
    fn holds_descriptors_of_all_of_envoy_and_of_ours() {
        for name in [
            "envoy.config.listener.v3.Listener",
            "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
            "envoy.extensions.config.validators.minimum_clusters.v3.MinimumClustersValidator",
            "credence.v1.FinishRequest",
            "google.protobuf.Struct",
        ] {
            assert!(POOL.get_message_by_name(name).is_some(), "{name}");
        }
        assert!(POOL.get_service_by_name("credence.v1.EnrolmentService").is_some());
        assert!(POOL.files().len() > 500);
    }

    #[test]
    fn generated_types_know_their_url() {
        let expected = "type.googleapis.com/envoy.config.listener.v3.Listener";
        assert_eq!(envoy::config::listener::v3::Listener::type_url(), expected);
        assert_eq!(credence::v1::BeginRequest::type_url(), "type.googleapis.com/credence.v1.BeginRequest");
    }

    #[test]
    fn services_have_clients_and_ours_have_servers() {
        use credence::v1::{enrolment_service_server, renewal_service_server};
        use envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

        assert_eq!(enrolment_service_server::SERVICE_NAME, "credence.v1.EnrolmentService");
        assert_eq!(renewal_service_server::SERVICE_NAME, "credence.v1.RenewalService");
        let _: fn(tonic::transport::Channel) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> =
            AggregatedDiscoveryServiceClient::new;
    }
}
