//! Listeners: a chain in strict mode asks for a certificate, in permissive mode it stands twice, for TLS and for
//! plaintext. With an imported certificate it asks for none.

use std::{sync::Arc, time::Duration};

use proto::envoy::{
    config::{
        core::v3::CidrRange,
        listener::v3::{self as envoy, filter, listener_filter},
    },
    extensions::filters::{
        listener::tls_inspector::v3::TlsInspector,
        network::tcp_proxy::v3::{TcpProxy, tcp_proxy},
    },
};
use spiffe::SpiffeId;

use super::{
    Defaults, HTTP_BLOCK, Shown, TCP_BLOCK, ads, block, challenge::edge_source, cluster::names_server, drain,
    duration, http, pack, socket_address, tls,
};
use crate::{
    TypeUrl,
    model::{
        ChainMatch, Cluster, Filter, FilterChain, HTTP_FILTER, Listener, ListenerTls, MtlsMode, TCP_FILTER,
        TcpFilter,
    },
};

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
/// How long a handshake may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The mode of a listener; one with a certificate for everybody asks nobody for one.
pub(crate) fn mode(listener: &Listener, defaults: &Defaults) -> MtlsMode {
    if listener.tls.is_some() {
        return MtlsMode::Off;
    }
    listener.mtls.as_ref().and_then(|mtls| mtls.mode).unwrap_or(defaults.mtls)
}

/// Which half of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// With certificates on both sides.
    Mutual,
    /// With a certificate of its own, for clients without one.
    Tls,
    Plaintext,
}

impl Half {
    fn name(self) -> &'static str {
        match self {
            Self::Mutual => "mtls",
            Self::Tls => "tls",
            Self::Plaintext => "plaintext",
        }
    }
}

/// The chains that Envoy gets: the index of the one in the document, and which half of it.
fn halves(listener: &Listener, defaults: &Defaults) -> Vec<(usize, Half)> {
    let mode = mode(listener, defaults);
    let mut halves = Vec::new();
    for (index, chain) in listener.filter_chains.iter().enumerate() {
        if listener.tls.is_some() {
            halves.push((index, Half::Tls));
            continue;
        }
        if mode != MtlsMode::Off {
            halves.push((index, Half::Mutual));
        }
        // Plaintext has neither server name nor ALPN: such a half would never match.
        let only_tls = chain.matching.as_ref().is_some_and(needs_tls);
        if mode == MtlsMode::Off || (mode == MtlsMode::Permissive && !only_tls) {
            halves.push((index, Half::Plaintext));
        }
    }
    halves
}

/// Which chain of the document each chain of the resource was made from.
pub(super) fn chain_origins(listener: &Listener, defaults: &Defaults) -> Vec<usize> {
    halves(listener, defaults).into_iter().map(|(index, _)| index).collect()
}

/// Whether a half of a chain may hold TCP sessions of `id`: as a client that is admitted, or to a server. Clusters of
/// other documents are not looked at, and may name anybody.
fn may_hold(listener: &Listener, (index, half): (usize, Half), clusters: &[Cluster], id: &SpiffeId) -> bool {
    let admits = |listener: &Listener| {
        listener.mtls.as_ref().is_none_or(|mtls| mtls.allow.is_empty() || mtls.allow.contains(id))
    };
    listener.filter_chains[index].filters.iter().any(|filter| match filter {
        Filter::Http(_) => false,
        Filter::Tcp(tcp) => {
            let cluster = clusters.iter().find(|cluster| cluster.name == tcp.cluster);
            half == Half::Mutual && admits(listener)
                || cluster.is_none_or(|cluster| names_server(cluster, id))
        }
    })
}

/// Whether a listener may hold TCP sessions of `id`, which no filter ends.
pub(crate) fn may_hold_session(
    listener: &Listener,
    clusters: &[Cluster],
    id: &SpiffeId,
    defaults: &Defaults,
) -> bool {
    halves(listener, defaults).into_iter().any(|half| may_hold(listener, half, clusters, id))
}

/// The drain generations of its chains, in the order of the resource.
pub(super) fn generations(listener: &Listener, clusters: &[Cluster], defaults: &Defaults) -> Vec<u64> {
    let of = |half| defaults.drains.of_chain(|id| may_hold(listener, half, clusters, id));
    halves(listener, defaults).into_iter().map(of).collect()
}

fn needs_tls(matching: &ChainMatch) -> bool {
    !matching.server_names.is_empty() || !matching.application_protocols.is_empty()
}

pub(super) fn listener(
    listener: &Listener,
    clusters: &[Cluster],
    shown: Option<&Shown>,
    defaults: &Defaults,
) -> envoy::Listener {
    // At an edge from its first day: a chain for an ACME server can be added then, and the listener stays.
    let inspects = mode(listener, defaults) == MtlsMode::Permissive
        || listener.tls.as_ref().is_some_and(|tls| tls.edge.is_some())
        || listener.filter_chains.iter().any(|chain| chain.matching.as_ref().is_some_and(needs_tls));
    let generations = generations(listener, clusters, defaults).into_iter();
    let chains = halves(listener, defaults).into_iter().zip(generations);
    envoy::Listener {
        name: listener.name.clone(),
        address: Some(socket_address(&listener.address.to_string(), listener.port.get())),
        filter_chains: chains
            .map(|((index, half), generation)| chain(listener, index, half, generation, defaults))
            .chain(shown.into_iter().flat_map(|shown| shown.chains(listener)))
            .collect(),
        listener_filters: if inspects { vec![tls_inspector()] } else { Vec::new() },
        ..Default::default()
    }
}

/// The route tables, filters and secrets that it names.
pub(super) fn references(
    listener: &Listener,
    shown: Option<&Shown>,
    defaults: &Defaults,
) -> Vec<(TypeUrl, Arc<str>)> {
    let filters = listener.filter_chains.iter().flat_map(|chain| &chain.filters);
    let mut references: Vec<(TypeUrl, Arc<str>)> = filters
        .flat_map(|filter| match filter {
            Filter::Http(http) => {
                vec![(TypeUrl::Route, http.route_config.as_str().into()), block::reference(HTTP_BLOCK)]
            }
            Filter::Tcp(_) => vec![block::reference(TCP_BLOCK)],
        })
        .collect();
    if mode(listener, defaults) != MtlsMode::Off {
        references.extend(tls::references(identity(listener), defaults));
    }
    let certificate = listener.tls.as_ref().and_then(ListenerTls::secret);
    let challenges = shown.into_iter().flat_map(|shown| shown.secrets(listener));
    references.extend(certificate.into_iter().chain(challenges).map(|name| (TypeUrl::Secret, name.into())));
    references.sort();
    references.dedup();
    references
}

fn identity(listener: &Listener) -> Option<&SpiffeId> {
    listener.mtls.as_ref().and_then(|mtls| mtls.identity.as_ref())
}

fn chain(
    listener: &Listener,
    index: usize,
    half: Half,
    generation: u64,
    defaults: &Defaults,
) -> envoy::FilterChain {
    let FilterChain { matching, filters } = &listener.filter_chains[index];
    let is_mutual = half == Half::Mutual;
    let is_http = filters.iter().any(|filter| matches!(filter, Filter::Http(_)));
    let alpn: &[&str] = if is_http { &["h2", "http/1.1"] } else { &[] };
    let allow = listener.mtls.as_ref().map(|mtls| mtls.allow.as_slice()).unwrap_or_default();
    let transport_protocol = match (mode(listener, defaults), half) {
        (MtlsMode::Permissive, Half::Mutual) => "tls",
        (MtlsMode::Permissive, Half::Plaintext) => "raw_buffer",
        (MtlsMode::Permissive, Half::Tls) | (MtlsMode::Strict | MtlsMode::Off, _) => "",
    };
    let socket = match half {
        Half::Mutual => Some(tls::downstream(identity(listener), allow, alpn, defaults)),
        Half::Tls => {
            let certificate = listener.tls.as_ref().and_then(ListenerTls::secret);
            let is_edge = listener.tls.as_ref().is_some_and(|tls| tls.edge.is_some());
            let source = if is_edge { edge_source() } else { ads() };
            Some(tls::one_sided(certificate.as_slice(), &source, alpn))
        }
        Half::Plaintext => None,
    };
    envoy::FilterChain {
        name: drain::generation(&format!("{index}-{}", half.name()), generation),
        filter_chain_match: chain_match(matching.as_ref(), transport_protocol),
        filters: filters
            .iter()
            .flat_map(|filter| network_filters(filter, &listener.name, is_mutual, defaults))
            .collect(),
        transport_socket_connect_timeout: socket.is_some().then(|| duration(HANDSHAKE_TIMEOUT)),
        transport_socket: socket,
        ..Default::default()
    }
}

fn chain_match(matching: Option<&ChainMatch>, transport_protocol: &str) -> Option<envoy::FilterChainMatch> {
    if matching.is_none() && transport_protocol.is_empty() {
        return None;
    }
    let mut out =
        envoy::FilterChainMatch { transport_protocol: transport_protocol.to_owned(), ..Default::default() };
    if let Some(matching) = matching {
        out.server_names.clone_from(&matching.server_names);
        out.application_protocols.clone_from(&matching.application_protocols);
        out.source_prefix_ranges = matching.source_prefix_ranges.iter().map(|range| cidr(range)).collect();
    }
    Some(out)
}

/// A range that validation has read already.
fn cidr(range: &str) -> CidrRange {
    let (address, length) = range.split_once('/').unwrap_or((range, ""));
    CidrRange { address_prefix: address.to_owned(), prefix_len: length.parse().ok() }
}

/// A filter of the document, behind the one that refuses who is blocked unless it has that inside.
fn network_filters(
    filter: &Filter,
    listener: &str,
    is_mutual: bool,
    defaults: &Defaults,
) -> Vec<envoy::Filter> {
    let named = |name: &str, config| envoy::Filter { name: name.to_owned(), config_type: Some(config) };
    let typed = filter::ConfigType::TypedConfig;
    match filter {
        Filter::Http(http) => {
            vec![named(HTTP_FILTER, typed(pack(&http::manager(http, listener, is_mutual, defaults))))]
        }
        Filter::Tcp(tcp) => vec![
            named(TCP_BLOCK, filter::ConfigType::ConfigDiscovery(block::tcp_source())),
            named(TCP_FILTER, typed(pack(&tcp_config(tcp, listener, defaults)))),
        ],
    }
}

fn tcp_config(tcp: &TcpFilter, listener: &str, defaults: &Defaults) -> TcpProxy {
    TcpProxy {
        stat_prefix: tcp.stat_prefix.as_deref().unwrap_or(listener).to_owned(),
        idle_timeout: tcp.idle_timeout.map(duration),
        // Plaintext ones too: what they lead to may be mTLS, with an identity that is replaced or blocked meanwhile.
        max_downstream_connection_duration: Some(duration(defaults.max_connection)),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(tcp.cluster.clone())),
        ..Default::default()
    }
}

fn tls_inspector() -> envoy::ListenerFilter {
    envoy::ListenerFilter {
        name: TLS_INSPECTOR.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack(&TlsInspector::default()))),
        ..Default::default()
    }
}
