//! Documents to Envoy's resources. Pure: equal documents give equal bytes, on every replica and in every version
//! that does not say otherwise.
//!
//! A document's resources do not depend on the node that gets them: what differs by node (its own certificate) is
//! a secret's name, `default`. So one translation serves all nodes.

use std::{sync::Arc, time::Duration};

use prost::{Message, Name};
use prost_types::Any;
use proto::envoy::config::{
    cluster::v3::Cluster,
    core::v3::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
        config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
    },
    endpoint::v3::ClusterLoadAssignment,
    listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use spiffe::TrustDomain;

use crate::{
    TypeUrl,
    model::{Document, FieldPath, MtlsMode, ProxyConfig, Spec},
};

mod block;
mod challenge;
mod cluster;
mod drain;
mod endpoints;
mod http;
mod listener;
mod origin;
mod route;
mod tls;

#[cfg(test)]
mod tests;

pub use self::block::{Denied, HTTP_BLOCK, TCP_BLOCK};
pub(crate) use self::challenge::ACME_TLS;
use self::challenge::Shown;
pub use self::challenge::{ChallengeText, Challenges, EDGE_FETCH_TIMEOUT};
pub(crate) use self::cluster::{eds_name, is_touched, names_server};
pub use self::drain::Drains;
pub(crate) use self::endpoints::empty as empty_endpoints;
pub(crate) use self::listener::{may_hold_session, mode as listener_mode};
pub(crate) use self::origin::origin;

/// No connection between proxies outlives this unless the configuration says otherwise, so that none outlives its
/// certificate for long (security-reliability.md 3.2).
pub const MAX_CONNECTION_DURATION: Duration = Duration::from_secs(3600);

/// What documents leave to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The one trust domain of this deployment.
    pub trust_domain: TrustDomain,
    /// The mode of listeners that do not name one.
    pub mtls: MtlsMode,
    /// The greatest age of connections between proxies.
    pub max_connection: Duration,
    /// How often connections between them had to end before that.
    pub drains: Drains,
    /// Whether proxies check against revocation lists, which hold for this trust domain alone.
    pub revocation_lists: bool,
    /// What proxies answer ACME servers now.
    pub challenges: Challenges,
}

impl Defaults {
    /// Strict mTLS in `trust_domain`.
    #[must_use]
    pub fn strict(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            mtls: MtlsMode::Strict,
            max_connection: MAX_CONNECTION_DURATION,
            drains: Drains::default(),
            revocation_lists: false,
            challenges: Challenges::default(),
        }
    }
}

/// One resource, encoded, and the part of the document that it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its name.
    pub name: Arc<str>,
    /// The encoded message.
    pub content: Vec<u8>,
    /// What it needs: see [`crate::Resource::references`].
    pub references: Vec<(TypeUrl, Arc<str>)>,
    /// What it was made from.
    pub origin: FieldPath,
}

/// Every resource of a document, in the order of sending, while `denied` are refused.
#[must_use]
pub fn translate(document: &Document, defaults: &Defaults, denied: &Denied) -> Vec<Made> {
    let spec = FieldPath::default().key("spec");
    match &document.spec {
        Spec::Endpoints(endpoints) => {
            vec![made(&endpoints::assignment(&document.key.name, &endpoints.endpoints), spec)]
        }
        Spec::ProxyConfig(config) => {
            let shown = defaults.challenges.of(&document.key);
            proxy_config(config, &spec, shown, defaults, denied)
        }
    }
}

fn proxy_config(
    config: &ProxyConfig,
    spec: &FieldPath,
    shown: Option<&Shown>,
    defaults: &Defaults,
    denied: &Denied,
) -> Vec<Made> {
    let mut all = Vec::with_capacity(config.clusters.len() + config.listeners.len() + config.routes.len());
    for (index, cluster) in config.clusters.iter().enumerate() {
        let made = made(&cluster::cluster(cluster, defaults, denied), spec.key("clusters").index(index));
        all.push(Made { references: cluster::references(cluster, defaults), ..made });
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let made = made(
            &listener::listener(listener, &config.clusters, shown, defaults),
            spec.key("listeners").index(index),
        );
        all.push(Made { references: listener::references(listener, shown, defaults), ..made });
    }
    for (index, table) in config.routes.iter().enumerate() {
        let mut answers = route::table(table);
        if let Some(shown) = shown {
            shown.answer(table, &mut answers);
        }
        all.push(made(&answers, spec.key("routes").index(index)));
    }
    all
}

/// Whether a document's resources are others with other drain generations.
pub(crate) fn is_drained(document: &Document, before: &Defaults, after: &Defaults) -> bool {
    let Spec::ProxyConfig(config) = &document.spec else { return false };
    let generations = |defaults| {
        let of = |listener| listener::generations(listener, &config.clusters, defaults);
        config.listeners.iter().map(of).collect::<Vec<_>>()
    };
    let all_differ = before.drains.all() != after.drains.all();
    (all_differ && config.clusters.iter().any(cluster::has_client))
        || generations(before) != generations(after)
}

/// A message that is a resource.
trait Named: Message {
    const TYPE: TypeUrl;
    fn resource_name(&self) -> &str;
}

macro_rules! named {
    ($message:ty, $type_url:expr, $field:ident) => {
        impl Named for $message {
            const TYPE: TypeUrl = $type_url;
            fn resource_name(&self) -> &str {
                &self.$field
            }
        }
    };
}

named!(Cluster, TypeUrl::Cluster, name);
named!(ClusterLoadAssignment, TypeUrl::Endpoints, cluster_name);
named!(Listener, TypeUrl::Listener, name);
named!(RouteConfiguration, TypeUrl::Route, name);

fn made<M: Named>(message: &M, origin: FieldPath) -> Made {
    let name = message.resource_name().into();
    Made { type_url: M::TYPE, name, content: message.encode_to_vec(), references: Vec::new(), origin }
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// The one source of everything: the stream itself. Its bytes never change, since Envoy keeps secrets by name *and*
/// source (envoy#47309).
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

fn socket_address(address: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}
