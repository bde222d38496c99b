//! Where a proxy listens, and whom it lets in.

use std::{net::IpAddr, num::NonZeroU16, time::Duration};

use serde_json::{Value, json};
use spiffe::{EdgeName, SecretName, SpiffeId};

use super::decode::{Field, Reader, list, nearest, object, words};
use super::node::{Node, Scalar};

object! {
    /// One address that a proxy listens on.
    pub struct Listener {
        /// Its name, unique on every node that it reaches.
        pub name: String = "name",
        /// The IP address to listen on; 0.0.0.0 means all.
        pub address: IpAddr = "address",
        /// The TCP port.
        pub port: NonZeroU16 = "port",
        /// What is done with connections; the first chain that matches takes one.
        pub filter_chains: Vec<FilterChain> = "filterChains",
        /// Whom it lets in. Absent: strict, unless the server is configured otherwise.
        pub mtls: Option<ListenerMtls> = "mtls",
        /// TLS for clients without certificates, instead of `mtls`.
        pub tls: Option<ListenerTls> = "tls",
    }
}

object! {
    /// A certificate is shown, and clients are asked for none. Exactly one of `certificate` and `edge`.
    pub struct ListenerTls {
        /// The imported secret that holds it with its key, as NAMESPACE/NAME; the node must be granted it.
        pub certificate: Option<SecretName> = "certificate",
        /// The edge whose certificate it is, which Credence obtains and renews: credence edge add.
        pub edge: Option<EdgeName> = "edge",
    }
}

impl ListenerTls {
    /// The name of the secret that is shown.
    pub(crate) fn secret(&self) -> Option<String> {
        let imported = self.certificate.as_ref().map(SecretName::to_uri);
        imported.or_else(|| self.edge.as_ref().map(EdgeName::to_uri))
    }
}

object! {
    /// What is done with connections that match.
    pub struct FilterChain {
        /// Which connections; absent: all.
        pub matching: Option<ChainMatch> = "match",
        /// Exactly one filter, which ends the chain.
        pub filters: Vec<Filter> = "filters",
    }
}

object! {
    /// Which connections a chain takes.
    pub struct ChainMatch {
        /// TLS server names (SNI), exact or as *.example.com.
        pub server_names: Vec<String> = "serverNames",
        /// TLS application protocols (ALPN).
        pub application_protocols: Vec<String> = "applicationProtocols",
        /// Where the connection comes from, as 10.0.0.0/8.
        pub source_prefix_ranges: Vec<String> = "sourcePrefixRanges",
    }
}

/// The last filter of a chain, named as Envoy names it.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// `envoy.filters.network.http_connection_manager`
    Http(Box<HttpFilter>),
    /// `envoy.filters.network.tcp_proxy`
    Tcp(TcpFilter),
}

/// The name of [`Filter::Http`].
pub const HTTP_FILTER: &str = "envoy.filters.network.http_connection_manager";
/// The name of [`Filter::Tcp`].
pub const TCP_FILTER: &str = "envoy.filters.network.tcp_proxy";
const FILTERS: &[&str] = &[HTTP_FILTER, TCP_FILTER];

object! {
    /// HTTP.
    pub struct HttpFilter {
        /// The name among `routes` that says where requests go.
        pub route_config: String = "routeConfig",
        /// What statistics are called; default: the listener's name.
        pub stat_prefix: Option<String> = "statPrefix",
        /// The `server` header of answers; default: envoy.
        pub server_name: Option<String> = "serverName",
        /// How many proxies in front of this one are believed about the client's address; default 0.
        pub xff_num_trusted_hops: Option<u32> = "xffNumTrustedHops",
        /// A connection without requests is closed after this; default 1h.
        pub idle_timeout: Option<Duration> = "idleTimeout",
        /// A request must have arrived whole after this; default: no limit.
        pub request_timeout: Option<Duration> = "requestTimeout",
        /// A stream without bytes is closed after this; default 5m.
        pub stream_idle_timeout: Option<Duration> = "streamIdleTimeout",
        /// The most kilobytes of request headers; default 60.
        pub max_request_headers_kb: Option<u32> = "maxRequestHeadersKb",
        /// The most streams at once on one HTTP/2 connection; default 100.
        pub max_concurrent_streams: Option<u32> = "maxConcurrentStreams",
        /// Protocols that a connection may be upgraded to, as websocket.
        pub upgrades: Vec<String> = "upgrades",
    }
}

object! {
    /// Bytes, passed on as they are.
    pub struct TcpFilter {
        /// The name among `clusters` that connections go to.
        pub cluster: String = "cluster",
        /// What statistics are called; default: the listener's name.
        pub stat_prefix: Option<String> = "statPrefix",
        /// A connection without bytes is closed after this; default 1h.
        pub idle_timeout: Option<Duration> = "idleTimeout",
    }
}

impl Field for Filter {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let fields = reader.object(node, &["name", "config"])?;
        let name: String = fields.take("name", reader)?;
        match name.as_str() {
            HTTP_FILTER => fields.take("config", reader).map(Box::new).map(Self::Http),
            TCP_FILTER => fields.take("config", reader).map(Self::Tcp),
            _ => {
                let full = FILTERS.iter().find(|full| full.ends_with(&format!(".{name}"))).copied();
                let hint = match full.or_else(|| nearest(&name, FILTERS)) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("known filters: {}", list(FILTERS)),
                };
                let node = fields.find("name")?;
                reader.below(super::path::Step::Key("name".into()), |reader| {
                    reader.refuse(node, "enum", format!("unknown filter {name:?}"), hint)
                })
            }
        }
    }

    fn schema() -> Value {
        let filter = |name: &str, config: Value| {
            json!({
                "type": "object",
                "properties": {"name": {"const": name}, "config": config},
                "required": ["name", "config"],
                "additionalProperties": false,
            })
        };
        json!({"oneOf": [filter(HTTP_FILTER, HttpFilter::schema()), filter(TCP_FILTER, TcpFilter::schema())]})
    }
}

words! {
    /// Whom a listener lets in.
    pub enum MtlsMode {
        /// Only peers with a certificate of this trust domain.
        Strict = "strict",
        /// Those, and plaintext too.
        Permissive = "permissive",
        /// Plaintext only.
        Off = "off",
    }
}

/// Whom a listener lets in and as whom it presents itself. `mtls: off` is short for `mtls: {mode: off}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerMtls {
    /// Default: that of the server, which is strict.
    pub mode: Option<MtlsMode>,
    /// Whose certificate is shown; default: the node's first identity.
    pub identity: Option<SpiffeId>,
    /// Who may connect; empty: every workload of the trust domain.
    pub allow: Vec<SpiffeId>,
}

object! {
    /// The long form.
    struct ListenerMtlsFields {
        /// strict, permissive or off; default strict.
        pub mode: Option<MtlsMode> = "mode",
        /// Whose certificate is shown; default: the node's first identity.
        pub identity: Option<SpiffeId> = "identity",
        /// Who may connect; empty: every workload of the trust domain.
        pub allow: Vec<SpiffeId> = "allow",
    }
}

impl Field for ListenerMtls {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(Scalar::Text(_)) = node.scalar() {
            let mode = Some(MtlsMode::read(node, reader)?);
            return Some(Self { mode, identity: None, allow: Vec::new() });
        }
        let ListenerMtlsFields { mode, identity, allow } = Field::read(node, reader)?;
        Some(Self { mode, identity, allow })
    }

    fn schema() -> Value {
        json!({"oneOf": [MtlsMode::schema(), ListenerMtlsFields::schema()]})
    }
}
