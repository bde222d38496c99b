//! Rules on all documents that reach the same nodes: names and addresses are taken once, and every reference
//! resolves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use spiffe::SpiffeId;

use super::{Context, Findings, cluster::warn_plaintext, is_loopback};
use crate::{
    TypeUrl,
    model::{
        Cluster, ClusterMtls, ClusterType, Document, DocumentKey, Filter, ProxyConfig, Spec, decode::nearest,
        node::At,
    },
    translate::eds_name,
};

/// One document of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) document: &'a Document,
    pub(crate) config: &'a ProxyConfig,
}

impl<'a> Member<'a> {
    pub(crate) fn of(document: &'a Document) -> Option<Self> {
        match &document.spec {
            Spec::ProxyConfig(config) => Some(Self { document, config }),
            Spec::Endpoints(_) => None,
        }
    }

    fn spec(&self) -> At<'a> {
        At::spec(&self.document.source)
    }
}

/// A reference from one resource to another.
pub(crate) struct Reference<'a> {
    pub(crate) type_url: TypeUrl,
    pub(crate) name: &'a str,
    pub(crate) at: At<'a>,
}

/// The route tables and clusters that a document names.
pub(crate) fn references_of<'a>(member: Member<'a>) -> Vec<Reference<'a>> {
    let mut references = Vec::new();
    let spec = member.spec();
    for (index, listener) in member.config.listeners.iter().enumerate() {
        for (chain_index, chain) in listener.filter_chains.iter().enumerate() {
            for (filter_index, filter) in chain.filters.iter().enumerate() {
                let at = spec.key("listeners").index(index).key("filterChains").index(chain_index);
                let at = at.key("filters").index(filter_index).key("config");
                references.push(match filter {
                    Filter::Http(http) => Reference {
                        type_url: TypeUrl::Route,
                        name: &http.route_config,
                        at: at.key("routeConfig"),
                    },
                    Filter::Tcp(tcp) => {
                        Reference { type_url: TypeUrl::Cluster, name: &tcp.cluster, at: at.key("cluster") }
                    }
                });
            }
        }
    }
    for (index, table) in member.config.routes.iter().enumerate() {
        for (host_index, host) in table.virtual_hosts.iter().enumerate() {
            for (route_index, route) in host.routes.iter().enumerate() {
                let Some(action) = &route.action else { continue };
                let at = spec.key("routes").index(index).key("virtualHosts").index(host_index);
                let at = at.key("routes").index(route_index).key("route");
                let direct = action.cluster.iter().map(|name| (name.as_str(), at.key("cluster")));
                let weighted = action.weighted_clusters.iter().enumerate().map(|(index, cluster)| {
                    (cluster.name.as_str(), at.key("weightedClusters").index(index).key("name"))
                });
                let both = direct.chain(weighted);
                references.extend(both.map(|(name, at)| Reference { type_url: TypeUrl::Cluster, name, at }));
            }
        }
    }
    references
}

/// The identities that a document makes its nodes speak for.
pub(crate) fn identities_of<'a>(member: Member<'a>) -> Vec<(&'a SpiffeId, At<'a>)> {
    let spec = member.spec();
    let listeners = member.config.listeners.iter().enumerate().filter_map(|(index, listener)| {
        let id = listener.mtls.as_ref()?.identity.as_ref()?;
        Some((id, spec.key("listeners").index(index).key("mtls").key("identity")))
    });
    let clusters =
        member.config.clusters.iter().enumerate().filter_map(|(index, cluster)| match &cluster.mtls {
            Some(ClusterMtls::On(mtls)) => {
                Some((mtls.identity.as_ref()?, spec.key("clusters").index(index).key("mtls").key("identity")))
            }
            Some(ClusterMtls::Off) | None => None,
        });
    listeners.chain(clusters).collect()
}

/// What a set of documents offers, with the document of each name.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeSet {
    /// The document of each resource.
    pub(crate) owners: BTreeMap<(TypeUrl, Arc<str>), DocumentKey>,
    /// EDS names that its clusters want.
    pub(crate) eds: BTreeSet<Arc<str>>,
}

impl NodeSet {
    /// Collects what `members` offer; conflicts are reported by the names of both documents.
    pub(crate) fn collect(members: &[Member<'_>], findings: &mut Findings) -> Self {
        let mut set = Self::default();
        let mut places: BTreeMap<(TypeUrl, Arc<str>), At<'_>> = BTreeMap::new();
        let mut addresses: BTreeMap<SocketAddr, (String, DocumentKey, At<'_>)> = BTreeMap::new();
        for member in members {
            let key = &member.document.key;
            for (type_url, name, at) in offers(*member) {
                let resource = (type_url, Arc::<str>::from(name));
                match (set.owners.get(&resource), places.get(&resource)) {
                    // Two of one document are told by the rules on documents.
                    (Some(other), Some(place)) if other != key => {
                        let message = format!(
                            "{} {name:?} of {key} is a name that {other} uses too, at {}; both reach the same node",
                            noun(type_url),
                            place.cite()
                        );
                        findings.refuse(
                            &at,
                            "conflicting-name",
                            message,
                            "rename one, or make the selectors differ",
                        );
                    }
                    _ => {
                        places.insert(resource.clone(), at);
                        set.owners.insert(resource, key.clone());
                    }
                }
            }
            for (index, listener) in member.config.listeners.iter().enumerate() {
                let address = SocketAddr::new(listener.address, listener.port.get());
                let at = member.spec().key("listeners").index(index).key("port");
                match addresses.get(&address) {
                    Some((other, document, place)) => {
                        let message = format!(
                            "listener {:?} of {key} wants {address}, which listener {other:?} of {document} has, at {}",
                            listener.name,
                            place.cite()
                        );
                        findings.refuse(&at, "conflicting-address", message, "choose another port");
                    }
                    None => {
                        addresses.insert(address, (listener.name.clone(), key.clone(), at));
                    }
                }
            }
            let clusters = member.config.clusters.iter();
            let eds = clusters.filter(|cluster| cluster.cluster_type == ClusterType::Eds);
            set.eds.extend(eds.map(|cluster| Arc::<str>::from(eds_name(cluster))));
        }
        set
    }

    /// Reports references of `member` that the set does not resolve.
    pub(crate) fn check_references(&self, member: Member<'_>, findings: &mut Findings) {
        for reference in references_of(member) {
            let wanted = (reference.type_url, Arc::<str>::from(reference.name));
            if self.owners.contains_key(&wanted) {
                continue;
            }
            let of_type = self.owners.keys().filter(|(type_url, _)| *type_url == reference.type_url);
            let known: Vec<&str> = of_type.map(|(_, name)| &**name).collect();
            let noun = noun(reference.type_url);
            let hint = match nearest(reference.name, &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None if known.is_empty() => format!("add a {noun} of this name"),
                None => format!("known here: {}", known[..known.len().min(10)].join(", ")),
            };
            let message = format!("{noun} {:?} does not exist", reference.name);
            findings.refuse(&reference.at, "dangling-reference", message, hint);
        }
    }

    /// Warns about EDS clusters without addresses, and about those with addresses that are reached in plaintext.
    /// `endpoints` finds the document of an EDS name; `only` leaves the clusters of other EDS names out.
    pub(crate) fn check_endpoints<'d>(
        member: Member<'_>,
        only: Option<&str>,
        endpoints: impl Fn(&str) -> Option<&'d Document>,
        findings: &mut Findings,
    ) {
        for (index, cluster) in member.config.clusters.iter().enumerate() {
            let concerned = only.is_none_or(|only| eds_name(cluster) == only);
            if cluster.cluster_type != ClusterType::Eds || !concerned {
                continue;
            }
            let at = member.spec().key("clusters").index(index);
            match endpoints(eds_name(cluster)) {
                None => {
                    let name = eds_name(cluster);
                    let message = format!("cluster {:?} has no endpoints yet, and answers 503", cluster.name);
                    let hint =
                        format!("apply an Endpoints document with the name {name:?} in the same namespace");
                    findings.warn(&at, "no-endpoints", message, hint);
                }
                Some(document) => check_plaintext(cluster, document, &at, findings),
            }
        }
    }

    /// Reports addresses that our own listeners hold, if the nodes are on our host.
    pub(crate) fn check_own_addresses(
        member: Member<'_>,
        local: bool,
        context: &Context,
        findings: &mut Findings,
    ) {
        for (index, listener) in member.config.listeners.iter().enumerate() {
            let wanted = SocketAddr::new(listener.address, listener.port.get());
            let Some(held) = context.own_addresses.iter().find(|held| collide(wanted, **held)) else {
                continue;
            };
            let at = member.spec().key("listeners").index(index).key("port");
            if local {
                let message = format!(
                    "listener {:?} wants {wanted}, but Credence itself listens on {held} of the same host",
                    listener.name
                );
                findings.refuse(&at, "own-address", message, "choose another port for the listener");
            } else {
                let message = format!(
                    "Credence itself listens on {held}: a proxy on this host could not take {wanted}"
                );
                findings.warn(&at, "own-address", message, "choose another port, or run the proxy elsewhere");
            }
        }
    }
}

fn check_plaintext(cluster: &Cluster, document: &Document, at: &At<'_>, findings: &mut Findings) {
    let Spec::Endpoints(spec) = &document.spec else { return };
    let open = spec.endpoints.iter().find(|endpoint| !is_loopback(&endpoint.address));
    if let (None, Some(open)) = (&cluster.mtls, open) {
        warn_plaintext(cluster, &open.address, at, findings);
    }
}

/// Whether two sockets on one host cannot both be bound. Addresses of this host that are neither loopback nor
/// unspecified collide only with themselves and with the unspecified one.
fn collide(wanted: SocketAddr, held: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    wanted.port() == held.port() && (wanted.ip() == held.ip() || any(wanted.ip()) || any(held.ip()))
}

fn offers<'a>(member: Member<'a>) -> Vec<(TypeUrl, &'a str, At<'a>)> {
    let spec = member.spec();
    let at = |list, index| spec.key(list).index(index).key("name");
    let config = member.config;
    let listeners =
        config.listeners.iter().enumerate().map(|(i, l)| (TypeUrl::Listener, &*l.name, at("listeners", i)));
    let routes = config.routes.iter().enumerate().map(|(i, r)| (TypeUrl::Route, &*r.name, at("routes", i)));
    let clusters =
        config.clusters.iter().enumerate().map(|(i, c)| (TypeUrl::Cluster, &*c.name, at("clusters", i)));
    listeners.chain(routes).chain(clusters).collect()
}

fn noun(type_url: TypeUrl) -> &'static str {
    match type_url {
        TypeUrl::Cluster => "cluster",
        TypeUrl::Endpoints => "endpoints",
        TypeUrl::Secret => "secret",
        TypeUrl::Listener => "listener",
        TypeUrl::Extension => "extension",
        TypeUrl::Route => "route table",
    }
}
