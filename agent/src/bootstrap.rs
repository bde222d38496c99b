//! What an Envoy is started with, and the files that give it its own certificate (PURE).
//!
//! Everything is JSON with quoted strings: in YAML an unquoted `n` is a boolean, and Envoy exits. TLS says 1.3
//! explicitly: left alone, Envoy as a client speaks at most 1.2, which our listeners refuse.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spiffe::{Namespace, NodeId, SpiffeId};

use crate::ServerAddress;

/// The name of the cluster through which Envoy talks to Credence.
pub const XDS_CLUSTER: &str = "credence_xds";
/// The name of the file-based secret with the node's certificate.
pub const NODE_SECRET: &str = "credence_node";
/// The name of the file-based secret with the bundle that vouches for Credence.
pub const BUNDLE_SECRET: &str = "credence_bundle";

const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const TLS_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// "Every identity of the trust domain but the reserved ones" is an expression of which each letter counts; Envoy's
/// own limit of 100 would refuse it, and with it every listener that names nobody.
const RE2_LIMIT: &str = "re2.max_program_size.error_level";
/// The longest trust domain has 255 letters, and the rest of the expression is about 130 long.
const RE2_PROGRAM_SIZE: u32 = 1_000;
const CONNECTION_LIMIT: &str = "envoy.resource_monitors.global_downstream_max_connections";
const CONNECTION_LIMIT_TYPE: &str = "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// Which variant of the discovery protocol Envoy is told to speak. Both are served alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discovery {
    /// Incremental: only differences travel.
    #[default]
    Delta,
    /// State of the world: whole sets travel.
    Sotw,
}

/// Where the files of one node stand. All paths are absolute or all relative to where Envoy is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPaths {
    /// The node's chain, PEM.
    pub chain: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The bundle, PEM.
    pub bundle: PathBuf,
    /// The directory whose entries are moved into place when any of the three changes.
    pub watched: PathBuf,
    /// The file that [`node_secret`] is written to.
    pub node_secret: PathBuf,
    /// The file that [`bundle_secret`] is written to.
    pub bundle_secret: PathBuf,
}

/// What a bootstrap is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// What Envoy says as `node.id`; must be the node of its certificate.
    pub node: NodeId,
    /// What it says as `node.cluster`, for people to read: the binding decides.
    pub namespace: Namespace,
    /// Where discovery is served.
    pub xds_server: ServerAddress,
    /// Whom Envoy must find there.
    pub server_id: SpiffeId,
    /// The port of Envoy's admin page on 127.0.0.1; 0 lets the system choose (start Envoy with
    /// `--admin-address-path` to learn which).
    pub admin_port: u16,
    /// Which protocol variant.
    pub discovery: Discovery,
    /// Where the certificate files are.
    pub paths: SecretPaths,
}

impl Bootstrap {
    /// As Envoy reads it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let api_type = match self.discovery {
            Discovery::Delta => "DELTA_GRPC",
            Discovery::Sotw => "GRPC",
        };
        let ads = json!({ "ads": {}, "resource_api_version": "V3" });
        json!({
            "node": { "id": self.node.as_str(), "cluster": self.namespace.as_str() },
            "admin": { "address": socket_address("127.0.0.1", self.admin_port) },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": api_type,
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": XDS_CLUSTER } }],
                },
                "lds_config": ads,
                "cds_config": ads,
            },
            "static_resources": { "clusters": [self.xds_cluster()] },
            "overload_manager": {
                "resource_monitors": [{
                    "name": CONNECTION_LIMIT,
                    "typed_config": {
                        "@type": CONNECTION_LIMIT_TYPE,
                        "max_active_downstream_connections": "50000",
                    },
                }],
            },
            "layered_runtime": {
                "layers": [
                    { "name": "credence", "static_layer": { RE2_LIMIT: RE2_PROGRAM_SIZE } },
                    { "name": "admin", "admin_layer": {} },
                ],
            },
        })
    }

    fn xds_cluster(&self) -> Value {
        json!({
            "name": XDS_CLUSTER,
            "type": discovery_type(&self.xds_server),
            "connect_timeout": "5s",
            "load_assignment": load_assignment(&self.xds_server),
            "typed_extension_protocol_options": {
                HTTP_OPTIONS: {
                    "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
                    "explicit_http_config": {
                        "http2_protocol_options": {
                            "connection_keepalive": { "interval": "30s", "timeout": "10s" },
                        },
                    },
                },
            },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": TLS_TYPE,
                    // A resumed session would skip the server's look at a certificate that it may have blocked.
                    "max_session_keys": 0,
                    "common_tls_context": self.tls_context(),
                },
            },
        })
    }

    fn tls_context(&self) -> Value {
        json!({
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519MLKEM768", "X25519", "P-256"],
            },
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [file_secret(NODE_SECRET, &self.paths.node_secret)],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{
                        "san_type": "URI",
                        "matcher": { "exact": self.server_id.as_str() },
                    }],
                },
                "validation_context_sds_secret_config": file_secret(BUNDLE_SECRET, &self.paths.bundle_secret),
            },
        })
    }
}

/// The same bootstrap with another address of the server. `None` if it is no bootstrap of ours.
#[must_use]
pub fn with_server(bootstrap: &Value, server: &ServerAddress) -> Option<Value> {
    let mut next = bootstrap.clone();
    let clusters = next.pointer_mut("/static_resources/clusters")?.as_array_mut()?;
    let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == XDS_CLUSTER)?.as_object_mut()?;
    cluster.insert("type".to_owned(), discovery_type(server).into());
    cluster.insert("load_assignment".to_owned(), load_assignment(server));
    Some(next)
}

/// The same bootstrap with another port of the admin page. `None` if that is not at a port.
#[must_use]
pub fn with_admin_port(bootstrap: &Value, port: u16) -> Option<Value> {
    let mut next = bootstrap.clone();
    *next.pointer_mut("/admin/address/socket_address/port_value")? = port.into();
    Some(next)
}

fn discovery_type(server: &ServerAddress) -> &'static str {
    if server.is_literal() { "STATIC" } else { "STRICT_DNS" }
}

fn load_assignment(server: &ServerAddress) -> Value {
    json!({
        "cluster_name": XDS_CLUSTER,
        "endpoints": [{
            "lb_endpoints": [{
                "endpoint": { "address": socket_address(server.host(), server.port()) },
            }],
        }],
    })
}

/// The SDS file with the node's certificate. It names the PEM files and the directory to watch; Envoy reads chain
/// and key again, together, when an entry is moved into that directory.
#[must_use]
pub fn node_secret(paths: &SecretPaths) -> Value {
    secret(json!({
        "@type": SECRET_TYPE,
        "name": NODE_SECRET,
        "tls_certificate": {
            "certificate_chain": { "filename": text(&paths.chain) },
            "private_key": { "filename": text(&paths.key) },
            "watched_directory": { "path": text(&paths.watched) },
        },
    }))
}

/// The SDS file with the bundle, watched like [`node_secret`].
#[must_use]
pub fn bundle_secret(paths: &SecretPaths) -> Value {
    secret(json!({
        "@type": SECRET_TYPE,
        "name": BUNDLE_SECRET,
        "validation_context": {
            "trusted_ca": { "filename": text(&paths.bundle) },
            "watched_directory": { "path": text(&paths.watched) },
        },
    }))
}

fn secret(resource: Value) -> Value {
    json!({ "resources": [resource] })
}

fn file_secret(name: &str, file: &Path) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "path_config_source": { "path": text(file) },
            "resource_api_version": "V3",
        },
    })
}

fn socket_address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
