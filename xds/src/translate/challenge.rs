//! What proxies answer an ACME server that looks whether a name is ours: a text at a path of a route table (HTTP-01, RFC
//! 8555 8.3), before any other route of it; or certificates in chains of their own, beside those of the edge, for who
//! asks for `acme-tls/1` (TLS-ALPN-01, RFC 8737). All of it is there for minutes, and public.
//!
//! Chains are added to a listener that else stays as it is, so that Envoy ends no connection of it. It takes a chain by
//! the server name first and never comes back to one without, so a chain with server names needs one of ours beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proto::envoy::{
    config::{
        core::v3::{ConfigSource, DataSource, HttpProtocolOptions, data_source},
        listener::v3::{self as listener, filter},
        route::v3::{self as route, route::Action, route_match::PathSpecifier},
    },
    extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager,
        http_connection_manager::{CodecType, RouteSpecifier},
    },
};
use spiffe::{EdgeName, Namespace, Tenant};

use super::{ads, duration, http, listener::HANDSHAKE_TIMEOUT, pack, tls};
use crate::model::{Document, DocumentKey, HTTP_FILTER, Listener, ProxyConfig, RouteTable, Spec};

/// The application protocol by which the certificates are asked for.
pub(crate) const ACME_TLS: &str = "acme-tls/1";

/// How long a proxy holds a listener back for the certificate of an edge that does not come: until there is one, it must
/// be there to answer ACME servers.
pub const EDGE_FETCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the certificates of edges come from; these bytes never change either.
pub(super) fn edge_source() -> ConfigSource {
    ConfigSource { initial_fetch_timeout: Some(duration(EDGE_FETCH_TIMEOUT)), ..ads() }
}

/// What is shown now, by the namespace of the proxies that show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenges(BTreeMap<(Tenant, Namespace), Shown>);

/// What is shown in one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// By route table.
    texts: BTreeMap<String, BTreeSet<ChallengeText>>,
    /// The server names of each edge.
    certificates: BTreeMap<EdgeName, BTreeSet<String>>,
}

/// A text that proxies answer with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChallengeText {
    /// The host that is asked.
    pub host: String,
    /// At exactly this path.
    pub path: String,
    /// With this.
    pub body: String,
}

impl Challenges {
    /// Answers with a text at this route table.
    pub fn show_text(&mut self, tenant: &Tenant, namespace: &Namespace, table: &str, text: ChallengeText) {
        let shown = self.0.entry((tenant.clone(), namespace.clone())).or_default();
        shown.texts.entry(table.to_owned()).or_default().insert(text);
    }

    /// Shows the secret [`EdgeName::challenge_uri`] wherever the edge is shown.
    pub fn show_certificate(
        &mut self,
        tenant: &Tenant,
        namespace: &Namespace,
        edge: &EdgeName,
        server_name: &str,
    ) {
        let shown = self.0.entry((tenant.clone(), namespace.clone())).or_default();
        shown.certificates.entry(edge.clone()).or_default().insert(server_name.to_owned());
    }

    pub(super) fn of(&self, document: &DocumentKey) -> Option<&Shown> {
        self.0.get(&(document.tenant.clone(), document.namespace.clone()))
    }

    /// Whether a document's resources are others with other challenges.
    pub(crate) fn differ(before: &Self, after: &Self, document: &Document) -> bool {
        let Spec::ProxyConfig(config) = &document.spec else { return false };
        let (before, after) = (before.of(&document.key), after.of(&document.key));
        if before == after {
            return false;
        }
        let of = |shown: Option<&Shown>| shown.map(|shown| shown.of(config));
        of(before).unwrap_or_default() != of(after).unwrap_or_default()
    }
}

impl Shown {
    /// Only what concerns this configuration.
    fn of(&self, config: &ProxyConfig) -> Self {
        let is_table = |name: &String| config.routes.iter().any(|table| table.name == *name);
        let is_edge =
            |edge: &EdgeName| config.listeners.iter().any(|listener| shown_edge(listener) == Some(edge));
        let texts = self.texts.iter().filter(|(table, _)| is_table(table));
        let certificates = self.certificates.iter().filter(|(edge, _)| is_edge(edge));
        Self {
            texts: texts.map(|(table, texts)| (table.clone(), texts.clone())).collect(),
            certificates: certificates.map(|(edge, names)| (edge.clone(), names.clone())).collect(),
        }
    }

    /// The secrets that a listener shows beside its certificate.
    pub(super) fn secrets(&self, listener: &Listener) -> Vec<String> {
        let Some(edge) = shown_edge(listener) else { return Vec::new() };
        let names = self.certificates.get(edge).into_iter().flatten();
        names.map(|name| edge.challenge_uri(name)).collect()
    }

    /// The chains that show them, behind all others.
    pub(super) fn chains(&self, listener: &Listener) -> Vec<listener::FilterChain> {
        let secrets = self.secrets(listener);
        if secrets.is_empty() {
            return Vec::new();
        }
        let matches = listener.filter_chains.iter().filter_map(|chain| chain.matching.as_ref());
        let named: BTreeSet<String> =
            matches.flat_map(|matching| matching.server_names.iter().cloned()).collect();
        let mut chains = vec![chain("acme-challenge", Vec::new(), &secrets)];
        if !named.is_empty() {
            chains.push(chain("acme-challenge-named", named.into_iter().collect(), &secrets));
        }
        chains
    }

    /// Puts the answers of a table before everything else in it.
    pub(super) fn answer(&self, table: &RouteTable, made: &mut route::RouteConfiguration) {
        let Some(texts) = self.texts.get(&table.name) else { return };
        let answers: Vec<route::Route> = texts.iter().map(answer).collect();
        for host in &mut made.virtual_hosts {
            host.routes.splice(0..0, answers.iter().cloned());
        }
        let takes = |host: &str| {
            let mut domains = table.virtual_hosts.iter().flat_map(|one| &one.domains);
            domains.any(|domain| takes(domain, host))
        };
        let strangers: BTreeSet<&String> =
            texts.iter().map(|text| &text.host).filter(|host| !takes(host)).collect();
        if !strangers.is_empty() {
            let mut name = "acme-challenge".to_owned();
            while made.virtual_hosts.iter().any(|host| host.name == name) {
                name.push('-');
            }
            // Envoy compares domains without regard to case, and takes none twice.
            let known: BTreeSet<String> = made
                .virtual_hosts
                .iter()
                .flat_map(|host| &host.domains)
                .map(|one| one.to_ascii_lowercase())
                .collect();
            let domains = strangers.into_iter().flat_map(|host| [host.clone(), format!("{host}:*")]);
            let domains = domains.filter(|domain| !known.contains(domain)).collect();
            made.virtual_hosts.push(route::VirtualHost {
                name,
                domains,
                routes: answers,
                ..Default::default()
            });
        }
    }
}

/// The edge that a listener shows.
fn shown_edge(listener: &Listener) -> Option<&EdgeName> {
    listener.tls.as_ref()?.edge.as_ref()
}

fn chain(name: &str, server_names: Vec<String>, secrets: &[String]) -> listener::FilterChain {
    // Who asks so wants the handshake and nothing else. A filter that answers by itself would do so before the handshake
    // and end it; this one waits for a request, for a moment, and knows no route.
    let manager = HttpConnectionManager {
        stat_prefix: "acme-challenge".to_owned(),
        codec_type: CodecType::Http1.into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(route::RouteConfiguration::default())),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(duration(HANDSHAKE_TIMEOUT)),
            ..Default::default()
        }),
        http_filters: vec![http::router()],
        ..Default::default()
    };
    let filter = listener::Filter {
        name: HTTP_FILTER.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    };
    listener::FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            server_names,
            application_protocols: vec![ACME_TLS.to_owned()],
            ..Default::default()
        }),
        filters: vec![filter],
        transport_socket: Some(tls::one_sided(secrets, &edge_source(), &[ACME_TLS])),
        transport_socket_connect_timeout: Some(duration(HANDSHAKE_TIMEOUT)),
        ..Default::default()
    }
}

fn answer(text: &ChallengeText) -> route::Route {
    let body = DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.body.clone())),
        ..Default::default()
    };
    route::Route {
        name: "acme-challenge".to_owned(),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Path(text.path.clone())),
            ..Default::default()
        }),
        action: Some(Action::DirectResponse(route::DirectResponseAction {
            status: 200,
            body: Some(body),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Whether a domain of a virtual host takes requests to `host`, as Envoy reads it.
fn takes(domain: &str, host: &str) -> bool {
    let domain = domain.to_ascii_lowercase();
    match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        (Some(suffix), _) => host.len() > suffix.len() && host.ends_with(suffix) || suffix.is_empty(),
        (None, Some(prefix)) => host.len() > prefix.len() && host.starts_with(prefix),
        (None, None) => domain == host,
    }
}

#[cfg(test)]
mod tests;
