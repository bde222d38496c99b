//! Clusters.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proto::envoy::{
    config::{
        cluster::v3::{
            self as envoy,
            circuit_breakers::Thresholds,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig as EnvoyEdsConfig, LbPolicy},
        },
        core::v3::{
            HealthCheck as EnvoyHealthCheck, Http1ProtocolOptions, Http2ProtocolOptions,
            HttpProtocolOptions as CommonHttpOptions,
            health_check::{self, HealthChecker},
        },
    },
    extensions::upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
        },
    },
    r#type::v3::CodecClientType,
};

use spiffe::SpiffeId;

use super::{Defaults, Denied, ads, duration, endpoints, pack, tls};
use crate::{
    TypeUrl,
    model::{
        CircuitBreakers, ClientMtls, Cluster, ClusterMtls, ClusterType, HealthCheck, LoadBalancing,
        OutlierDetection,
    },
};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const UNHEALTHY_THRESHOLD: u32 = 3;
const HEALTHY_THRESHOLD: u32 = 2;

/// The name of the EDS resource of a cluster.
pub(crate) fn eds_name(cluster: &Cluster) -> &str {
    let config = cluster.eds_cluster_config.as_ref();
    config.and_then(|config| config.service_name.as_deref()).unwrap_or(&cluster.name)
}

/// The client side of mTLS, if there is one.
fn client(cluster: &Cluster) -> Option<&ClientMtls> {
    match &cluster.mtls {
        Some(ClusterMtls::On(mtls)) => Some(mtls),
        Some(ClusterMtls::Off) | None => None,
    }
}

/// Whether it shows a certificate.
pub(super) fn has_client(cluster: &Cluster) -> bool {
    client(cluster).is_some()
}

/// The endpoints and secrets that it names.
pub(super) fn references(cluster: &Cluster, defaults: &Defaults) -> Vec<(TypeUrl, Arc<str>)> {
    let mut references = Vec::new();
    if cluster.cluster_type == ClusterType::Eds {
        references.push((TypeUrl::Endpoints, eds_name(cluster).into()));
    }
    if let Some(mtls) = client(cluster) {
        references.extend(tls::references(mtls.identity.as_ref(), defaults));
    }
    references
}

/// Whether a cluster takes `id` for a server.
pub(crate) fn names_server(cluster: &Cluster, id: &SpiffeId) -> bool {
    client(cluster).is_some_and(|mtls| mtls.server.contains(id))
}

/// Whether a cluster becomes another resource when `after` are refused instead of `before`.
pub(crate) fn is_touched(cluster: &Cluster, before: &Denied, after: &Denied) -> bool {
    client(cluster).is_some_and(|mtls| after.differs_for(&mtls.server, before))
}

pub(super) fn cluster(cluster: &Cluster, defaults: &Defaults, denied: &Denied) -> envoy::Cluster {
    let is_eds = cluster.cluster_type == ClusterType::Eds;
    let http2 = cluster.http2.unwrap_or(false);
    let alpn: &[&str] = if http2 { &["h2"] } else { &[] };
    let discovery = match cluster.cluster_type {
        ClusterType::Eds => DiscoveryType::Eds,
        ClusterType::Static => DiscoveryType::Static,
        ClusterType::StrictDns => DiscoveryType::StrictDns,
    };
    let service_name = if eds_name(cluster) == cluster.name { "" } else { eds_name(cluster) };
    envoy::Cluster {
        name: cluster.name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        eds_cluster_config: is_eds
            .then(|| EnvoyEdsConfig { eds_config: Some(ads()), service_name: service_name.to_owned() }),
        load_assignment: (!is_eds).then(|| endpoints::assignment(&cluster.name, &cluster.endpoints)),
        connect_timeout: Some(duration(cluster.connect_timeout.unwrap_or(CONNECT_TIMEOUT))),
        lb_policy: lb_policy(cluster.load_balancing_policy.unwrap_or(LoadBalancing::RoundRobin)).into(),
        health_checks: cluster.health_checks.iter().map(|check| health_check(check, http2)).collect(),
        // An address that was taken away goes at once, healthy or not.
        ignore_health_on_host_removal: !cluster.health_checks.is_empty(),
        circuit_breakers: cluster.circuit_breakers.as_ref().map(circuit_breakers),
        outlier_detection: cluster.outlier_detection.as_ref().map(outlier_detection),
        transport_socket: client(cluster).map(|mtls| tls::upstream(mtls, alpn, defaults, denied)),
        typed_extension_protocol_options: HashMap::from([(
            HTTP_OPTIONS.to_owned(),
            pack(&http_options(cluster, http2, defaults)),
        )]),
        ..Default::default()
    }
}

fn lb_policy(policy: LoadBalancing) -> LbPolicy {
    match policy {
        LoadBalancing::RoundRobin => LbPolicy::RoundRobin,
        LoadBalancing::LeastRequest => LbPolicy::LeastRequest,
        LoadBalancing::RingHash => LbPolicy::RingHash,
        LoadBalancing::Random => LbPolicy::Random,
        LoadBalancing::Maglev => LbPolicy::Maglev,
    }
}

fn http_options(cluster: &Cluster, http2: bool, defaults: &Defaults) -> HttpProtocolOptions {
    let protocol = if http2 {
        ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
    } else {
        ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
    };
    HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            max_requests_per_connection: cluster.max_requests_per_connection,
            max_connection_duration: client(cluster).map(|_| duration(defaults.max_connection)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..Default::default()
    }
}

fn health_check(check: &HealthCheck, http2: bool) -> EnvoyHealthCheck {
    EnvoyHealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        // Envoy's default is 60 s, whatever the interval: an idle cluster would notice a death very late.
        no_traffic_interval: Some(duration(check.interval)),
        unhealthy_threshold: Some(check.unhealthy_threshold.unwrap_or(UNHEALTHY_THRESHOLD)),
        healthy_threshold: Some(check.healthy_threshold.unwrap_or(HEALTHY_THRESHOLD)),
        health_checker: checker(check, http2),
        ..Default::default()
    }
}

fn checker(check: &HealthCheck, http2: bool) -> Option<HealthChecker> {
    if let Some(http) = &check.http_health_check {
        let codec = if http2 { CodecClientType::Http2 } else { CodecClientType::Http1 };
        return Some(HealthChecker::HttpHealthCheck(health_check::HttpHealthCheck {
            path: http.path.clone(),
            host: http.host.clone().unwrap_or_default(),
            codec_client_type: codec.into(),
            ..Default::default()
        }));
    }
    if let Some(grpc) = &check.grpc_health_check {
        return Some(HealthChecker::GrpcHealthCheck(health_check::GrpcHealthCheck {
            service_name: grpc.service_name.clone().unwrap_or_default(),
            authority: grpc.authority.clone().unwrap_or_default(),
            ..Default::default()
        }));
    }
    check.tcp_health_check.map(|_| HealthChecker::TcpHealthCheck(health_check::TcpHealthCheck::default()))
}

fn circuit_breakers(limits: &CircuitBreakers) -> envoy::CircuitBreakers {
    let thresholds = Thresholds {
        max_connections: limits.max_connections,
        max_pending_requests: limits.max_pending_requests,
        max_requests: limits.max_requests,
        max_retries: limits.max_retries,
        track_remaining: true,
        ..Default::default()
    };
    envoy::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

fn outlier_detection(detection: &OutlierDetection) -> envoy::OutlierDetection {
    envoy::OutlierDetection {
        consecutive_5xx: detection.consecutive5xx,
        consecutive_gateway_failure: detection.consecutive_gateway_failure,
        // Envoy counts gateway failures without acting on them unless told to.
        enforcing_consecutive_gateway_failure: detection.consecutive_gateway_failure.map(|_| 100),
        interval: detection.interval.map(duration),
        base_ejection_time: detection.base_ejection_time.map(duration),
        max_ejection_percent: detection.max_ejection_percent,
        ..Default::default()
    }
}
