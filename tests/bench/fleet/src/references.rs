//! What a resource names: an Envoy asks for that next.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use prost::{Message, Name};
use prost_types::Any;
use proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::{TransportSocket, transport_socket},
        listener::v3::{Filter, Listener, filter},
        route::v3::{RouteConfiguration, route, route_action},
    },
    extensions::{
        filters::network::{
            http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter,
            },
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
        transport_sockets::tls::v3::{
            CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext,
            common_tls_context::ValidationContextType,
        },
    },
};
use xds::TypeUrl;

/// Texts and references that are remembered; past it they are read anew.
const MAX_REMEMBERED: usize = 200_000;

/// What a resource needs, in the order in which it says so.
pub(crate) type References = Vec<(TypeUrl, Arc<str>)>;

/// Names, versions and references that many nodes hold alike are kept once.
#[derive(Debug, Default)]
pub(crate) struct Library(Mutex<Shelves>);

#[derive(Debug, Default)]
struct Shelves {
    texts: HashSet<Arc<str>>,
    references: HashMap<(TypeUrl, Arc<str>), Arc<References>>,
}

impl Library {
    /// The shared copy of a text.
    pub(crate) fn text(&self, text: &str) -> Arc<str> {
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shelves.texts.get(text) {
            return Arc::clone(known);
        }
        if shelves.texts.len() >= MAX_REMEMBERED {
            shelves.texts.clear();
        }
        let text: Arc<str> = text.into();
        shelves.texts.insert(Arc::clone(&text));
        text
    }

    /// What the resource of this version, a content hash, names. Secrets name nothing and are not remembered.
    ///
    /// # Errors
    /// When it is not a message of its type.
    pub(crate) fn references(
        &self,
        type_url: TypeUrl,
        version: &Arc<str>,
        content: &[u8],
    ) -> Result<Arc<References>, prost::DecodeError> {
        if !matches!(type_url, TypeUrl::Cluster | TypeUrl::Listener | TypeUrl::Route) {
            return Ok(Arc::default());
        }
        let key = (type_url, Arc::clone(version));
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).references.get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let read: References = read(type_url, content)?
            .into_iter()
            .map(|(type_url, name)| (type_url, self.text(&name)))
            .collect();
        let read = Arc::new(read);
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelves.references.len() >= MAX_REMEMBERED {
            shelves.references.clear();
        }
        shelves.references.insert(key, Arc::clone(&read));
        Ok(read)
    }
}

fn read(type_url: TypeUrl, content: &[u8]) -> Result<Vec<(TypeUrl, String)>, prost::DecodeError> {
    let mut names = match type_url {
        TypeUrl::Cluster => of_cluster(&Cluster::decode(content)?),
        TypeUrl::Listener => of_listener(&Listener::decode(content)?)?,
        TypeUrl::Route => of_routes(&RouteConfiguration::decode(content)?),
        TypeUrl::Endpoints | TypeUrl::Secret | TypeUrl::Extension => Vec::new(),
    };
    names.sort();
    names.dedup();
    Ok(names)
}

fn of_cluster(cluster: &Cluster) -> Vec<(TypeUrl, String)> {
    let mut names = of_socket(cluster.transport_socket.as_ref());
    if cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())) {
        let service = cluster.eds_cluster_config.as_ref().map(|eds| eds.service_name.as_str());
        let service = service.filter(|name| !name.is_empty()).unwrap_or(&cluster.name);
        names.push((TypeUrl::Endpoints, service.to_owned()));
    }
    names
}

fn of_listener(listener: &Listener) -> Result<Vec<(TypeUrl, String)>, prost::DecodeError> {
    let mut names = Vec::new();
    for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
        names.extend(of_socket(chain.transport_socket.as_ref()));
        for filter in &chain.filters {
            names.extend(of_filter(filter)?);
        }
    }
    Ok(names)
}

fn of_filter(filter: &Filter) -> Result<Vec<(TypeUrl, String)>, prost::DecodeError> {
    let mut names = Vec::new();
    match &filter.config_type {
        Some(filter::ConfigType::ConfigDiscovery(_)) => names.push((TypeUrl::Extension, filter.name.clone())),
        Some(filter::ConfigType::TypedConfig(any)) => {
            if let Some(manager) = unpack::<HttpConnectionManager>(any)? {
                match manager.route_specifier {
                    Some(RouteSpecifier::Rds(rds)) => names.push((TypeUrl::Route, rds.route_config_name)),
                    Some(RouteSpecifier::RouteConfig(routes)) => names.extend(of_routes(&routes)),
                    Some(RouteSpecifier::ScopedRoutes(_)) | None => {}
                }
                let discovered = manager.http_filters.into_iter().filter(|filter| {
                    matches!(filter.config_type, Some(http_filter::ConfigType::ConfigDiscovery(_)))
                });
                names.extend(discovered.map(|filter| (TypeUrl::Extension, filter.name)));
            } else if let Some(proxy) = unpack::<TcpProxy>(any)? {
                match proxy.cluster_specifier {
                    Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => names.push((TypeUrl::Cluster, name)),
                    Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
                        names.extend(weighted.clusters.into_iter().map(|one| (TypeUrl::Cluster, one.name)));
                    }
                    None => {}
                }
            }
        }
        None => {}
    }
    Ok(names)
}

fn of_routes(routes: &RouteConfiguration) -> Vec<(TypeUrl, String)> {
    let actions =
        routes.virtual_hosts.iter().flat_map(|host| &host.routes).filter_map(|route| match &route.action {
            Some(route::Action::Route(action)) => action.cluster_specifier.as_ref(),
            _ => None,
        });
    actions
        .flat_map(|specifier| match specifier {
            route_action::ClusterSpecifier::Cluster(name) => vec![name.clone()],
            route_action::ClusterSpecifier::WeightedClusters(weighted) => {
                weighted.clusters.iter().map(|one| one.name.clone()).collect()
            }
            _ => Vec::new(),
        })
        .map(|name| (TypeUrl::Cluster, name))
        .collect()
}

fn of_socket(socket: Option<&TransportSocket>) -> Vec<(TypeUrl, String)> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) =
        socket.and_then(|one| one.config_type.as_ref())
    else {
        return Vec::new();
    };
    let downstream =
        unpack::<DownstreamTlsContext>(any).ok().flatten().and_then(|tls| tls.common_tls_context);
    let upstream = || unpack::<UpstreamTlsContext>(any).ok().flatten().and_then(|tls| tls.common_tls_context);
    downstream.or_else(upstream).map(of_tls).unwrap_or_default()
}

fn of_tls(tls: CommonTlsContext) -> Vec<(TypeUrl, String)> {
    let context = match tls.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => Some(secret),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.validation_context_sds_secret_config
        }
        _ => None,
    };
    let secrets = tls.tls_certificate_sds_secret_configs.into_iter().chain(context);
    secrets.map(|secret| (TypeUrl::Secret, secret.name)).collect()
}

fn unpack<M: Message + Name + Default>(any: &Any) -> Result<Option<M>, prost::DecodeError> {
    if any.type_url == M::type_url() { M::decode(any.value.as_slice()).map(Some) } else { Ok(None) }
}
