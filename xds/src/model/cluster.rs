//! What requests and connections go to.

use std::{num::NonZeroU16, time::Duration};

use serde_json::{Value, json};
use spiffe::SpiffeId;

use super::decode::{Field, Reader, object, words};
use super::node::{Node, Scalar};

words! {
    /// How a cluster gets its addresses.
    pub enum ClusterType {
        /// From an `Endpoints` document, live.
        Eds = "EDS",
        /// From `endpoints` of the cluster, IP addresses.
        Static = "STATIC",
        /// From `endpoints` of the cluster, host names that the proxy resolves.
        StrictDns = "STRICT_DNS",
    }
}

words! {
    /// Which endpoint gets a request.
    pub enum LoadBalancing {
        /// In turn, by weight.
        RoundRobin = "ROUND_ROBIN",
        /// The one of two random ones with fewer requests.
        LeastRequest = "LEAST_REQUEST",
        /// By consistent hash; wants a `hashPolicy` of the route.
        RingHash = "RING_HASH",
        /// Any.
        Random = "RANDOM",
        /// By consistent hash, with a table.
        Maglev = "MAGLEV",
    }
}

object! {
    /// A set of endpoints that do the same.
    pub struct Cluster {
        /// Its name, unique on every node that it reaches.
        pub name: String = "name",
        /// How it gets its addresses.
        pub cluster_type: ClusterType = "type",
        /// For EDS; only ads is known, which is the default.
        pub eds_cluster_config: Option<EdsClusterConfig> = "edsClusterConfig",
        /// Its addresses, for STATIC and STRICT_DNS.
        pub endpoints: Vec<Endpoint> = "endpoints",
        /// Which endpoint gets a request; default ROUND_ROBIN.
        pub load_balancing_policy: Option<LoadBalancing> = "loadBalancingPolicy",
        /// How endpoints are watched by the proxy.
        pub health_checks: Vec<HealthCheck> = "healthChecks",
        /// How much at once.
        pub circuit_breakers: Option<CircuitBreakers> = "circuitBreakers",
        /// When an endpoint that answers badly gets a rest.
        pub outlier_detection: Option<OutlierDetection> = "outlierDetection",
        /// How long connecting may take; default 5s.
        pub connect_timeout: Option<Duration> = "connectTimeout",
        /// A connection is closed after so many requests; default: no limit.
        pub max_requests_per_connection: Option<u32> = "maxRequestsPerConnection",
        /// Whether endpoints speak HTTP/2; default false.
        pub http2: Option<bool> = "http2",
        /// How it is reached: an identity on each side, or off. Absent: in plaintext, with a warning.
        pub mtls: Option<ClusterMtls> = "mtls",
    }
}

object! {
    /// Where the endpoints of an EDS cluster come from.
    pub struct EdsClusterConfig {
        /// Only `{ads: {}}`.
        pub eds_config: Option<EdsConfig> = "edsConfig",
        /// The name of the Endpoints document; default: the cluster's name.
        pub service_name: Option<String> = "serviceName",
    }
}

object! {
    /// The source of endpoints.
    pub struct EdsConfig {
        /// The stream that everything comes from.
        pub ads: Nothing = "ads",
    }
}

/// A mapping without fields: `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nothing;

impl Field for Nothing {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        reader.object(node, &[]).map(|_| Self)
    }

    fn schema() -> Value {
        json!({"type": "object", "maxProperties": 0})
    }
}

object! {
    /// One address.
    pub struct Endpoint {
        /// An IP address; in STRICT_DNS clusters a host name.
        pub address: String = "address",
        /// The port.
        pub port: NonZeroU16 = "port",
        /// Its share among the endpoints of its locality; default 1.
        pub weight: Option<u32> = "weight",
        /// Where it stands.
        pub locality: Option<Locality> = "locality",
        /// Used when those with lower numbers are not healthy enough; default 0, without gaps.
        pub priority: Option<u32> = "priority",
    }
}

object! {
    /// Where an endpoint stands.
    #[derive(Eq, PartialOrd, Ord)]
    pub struct Locality {
        /// Region.
        pub region: Option<String> = "region",
        /// Zone.
        pub zone: Option<String> = "zone",
        /// Anything finer.
        pub sub_zone: Option<String> = "subZone",
    }
}

object! {
    /// How endpoints are watched. Exactly one of the three checks.
    pub struct HealthCheck {
        /// How long an answer may take.
        pub timeout: Duration = "timeout",
        /// How often.
        pub interval: Duration = "interval",
        /// How many failures make an endpoint unhealthy; default 3.
        pub unhealthy_threshold: Option<u32> = "unhealthyThreshold",
        /// How many successes make it healthy again; default 2.
        pub healthy_threshold: Option<u32> = "healthyThreshold",
        /// By an HTTP request.
        pub http_health_check: Option<HttpHealthCheck> = "httpHealthCheck",
        /// By connecting: `{}`.
        pub tcp_health_check: Option<Nothing> = "tcpHealthCheck",
        /// By grpc.health.v1.Health; wants `http2`.
        pub grpc_health_check: Option<GrpcHealthCheck> = "grpcHealthCheck",
    }
}

object! {
    /// By an HTTP request, which must be answered with 200.
    pub struct HttpHealthCheck {
        /// The path.
        pub path: String = "path",
        /// The host header; default: the cluster's name.
        pub host: Option<String> = "host",
    }
}

object! {
    /// By grpc.health.v1.Health.
    pub struct GrpcHealthCheck {
        /// The service that is asked for; default: the whole server.
        pub service_name: Option<String> = "serviceName",
        /// The :authority header; default: the cluster's name.
        pub authority: Option<String> = "authority",
    }
}

object! {
    /// How much at once. Each default is Envoy's: 1024, of retries 3.
    pub struct CircuitBreakers {
        /// Connections.
        pub max_connections: Option<u32> = "maxConnections",
        /// Requests that wait for a connection.
        pub max_pending_requests: Option<u32> = "maxPendingRequests",
        /// Requests.
        pub max_requests: Option<u32> = "maxRequests",
        /// Retries.
        pub max_retries: Option<u32> = "maxRetries",
    }
}

object! {
    /// When an endpoint that answers badly gets a rest.
    pub struct OutlierDetection {
        /// After so many 5xx in a row; default 5.
        pub consecutive5xx: Option<u32> = "consecutive5xx",
        /// After so many 502, 503, 504 in a row.
        pub consecutive_gateway_failure: Option<u32> = "consecutiveGatewayFailure",
        /// How often it is looked at; default 10s.
        pub interval: Option<Duration> = "interval",
        /// How long the first rest lasts; default 30s.
        pub base_ejection_time: Option<Duration> = "baseEjectionTime",
        /// At most so many percent rest; default 10.
        pub max_ejection_percent: Option<u32> = "maxEjectionPercent",
    }
}

/// How a cluster is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterMtls {
    /// `mtls: off`: in plaintext, as intended.
    Off,
    /// With an identity on each side.
    On(ClientMtls),
}

object! {
    /// An identity on each side.
    pub struct ClientMtls {
        /// Whose certificate is shown; default: the node's first identity.
        pub identity: Option<SpiffeId> = "identity",
        /// Who the endpoints may be.
        pub server: Vec<SpiffeId> = "server",
        /// The server name (SNI) that is sent; default: none.
        pub sni: Option<String> = "sni",
    }
}

impl Field for ClusterMtls {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match node.scalar() {
            Some(Scalar::Text("off")) => Some(Self::Off),
            Some(Scalar::Text(_)) => reader.expected(node, "off or a mapping with identity, server"),
            _ => ClientMtls::read(node, reader).map(Self::On),
        }
    }

    fn schema() -> Value {
        json!({"oneOf": [{"const": "off"}, ClientMtls::schema()]})
    }
}
