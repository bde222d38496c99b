//! The HTTP connection manager.

use proto::envoy::{
    config::core::v3::{Http2ProtocolOptions, HttpProtocolOptions},
    extensions::filters::{
        http::router::v3::Router,
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter as EnvoyFilter, Rds,
            http_connection_manager::{
                CodecType, ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails,
                UpgradeConfig,
            },
            http_filter,
        },
    },
};

use super::{Defaults, HTTP_BLOCK, ads, block, duration, pack};
use crate::model::HttpFilter;

const ROUTER: &str = "envoy.filters.http.router";
/// Streams of one HTTP/2 connection, unless the document says otherwise.
const MAX_CONCURRENT_STREAMS: u32 = 100;

pub(super) fn manager(
    http: &HttpFilter,
    listener: &str,
    secured: bool,
    defaults: &Defaults,
) -> HttpConnectionManager {
    // What a client says of its own certificate is never passed on; what we saw of it is.
    let forwarding =
        if secured { ForwardClientCertDetails::SanitizeSet } else { ForwardClientCertDetails::Sanitize };
    HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: http.stat_prefix.as_deref().unwrap_or(listener).to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: http.route_config.clone(),
        })),
        http_filters: vec![
            EnvoyFilter {
                name: HTTP_BLOCK.to_owned(),
                config_type: Some(http_filter::ConfigType::ConfigDiscovery(block::http_source())),
                ..Default::default()
            },
            router(),
        ],
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: http.idle_timeout.map(duration),
            max_connection_duration: Some(duration(defaults.max_connection)),
            ..Default::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: Some(http.max_concurrent_streams.unwrap_or(MAX_CONCURRENT_STREAMS)),
            ..Default::default()
        }),
        server_name: http.server_name.clone().unwrap_or_default(),
        max_request_headers_kb: http.max_request_headers_kb,
        stream_idle_timeout: http.stream_idle_timeout.map(duration),
        request_timeout: http.request_timeout.map(duration),
        use_remote_address: Some(true),
        xff_num_trusted_hops: http.xff_num_trusted_hops.unwrap_or(0),
        forward_client_cert_details: forwarding.into(),
        set_current_client_cert_details: secured
            .then(|| SetCurrentClientCertDetails { uri: true, ..Default::default() }),
        upgrade_configs: http
            .upgrades
            .iter()
            .map(|upgrade| UpgradeConfig { upgrade_type: upgrade.clone(), ..Default::default() })
            .collect(),
        // Routes must see the path that the upstream will see.
        normalize_path: Some(true),
        merge_slashes: true,
        ..Default::default()
    }
}

/// The filter that ends every chain of HTTP filters.
pub(super) fn router() -> EnvoyFilter {
    EnvoyFilter {
        name: ROUTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..Default::default()
    }
}
