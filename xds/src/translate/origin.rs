//! From a field of a resource back to the field of the document that it was made from.

use super::{Defaults, Made, endpoints, listener};
use crate::{
    TypeUrl,
    model::{Document, Endpoint, FieldPath, Spec, Step},
};

/// Fields that documents call otherwise than the camel case of Envoy's name.
const RENAMED: &[(&str, &str)] = &[
    ("typed_config", "config"),
    ("transport_socket", "mtls"),
    ("key", "name"),
    ("header_name", "header"),
    ("host_redirect", "host"),
    ("port_redirect", "port"),
    ("path_redirect", "path"),
    ("https_redirect", "https"),
    ("host_rewrite_literal", "hostRewrite"),
    ("upgrade_configs", "upgrades"),
    ("http2_protocol_options", "maxConcurrentStreams"),
    ("safe_regex", "regex"),
    ("filter_chain_match", "match"),
    ("consecutive_5xx", "consecutive5xx"),
    ("cluster_name", "name"),
];

/// The field of the document, or its nearest ancestor that was written.
pub(crate) fn origin(document: &Document, made: &Made, path: &str, defaults: &Defaults) -> FieldPath {
    let mut walk = Walk { document, at: made.origin.clone() };
    let mut steps = steps(path).into_iter().peekable();
    // Where the shape of the resource is not that of the document.
    match (&document.spec, made.type_url) {
        (Spec::ProxyConfig(config), TypeUrl::Listener) => {
            if let Some((_, index)) = steps.next_if(|(name, _)| name == "filter_chains") {
                let listener = config.listeners.iter().find(|listener| *listener.name == *made.name);
                let origins =
                    listener.map(|listener| listener::chain_origins(listener, defaults)).unwrap_or_default();
                let index = index.and_then(|index| origins.get(index).copied()).unwrap_or(0);
                if steps.next_if(|(name, _)| name == "transport_socket").is_some() {
                    walk.field("transport_socket", None);
                } else {
                    walk.field("filter_chains", Some(index));
                }
            }
        }
        (Spec::ProxyConfig(config), TypeUrl::Cluster) => {
            if steps.next_if(|(name, _)| name == "load_assignment").is_some() {
                let cluster = config.clusters.iter().find(|cluster| *cluster.name == *made.name);
                let endpoints = cluster.map(|cluster| cluster.endpoints.as_slice()).unwrap_or_default();
                return walk.endpoint(endpoints, &mut steps);
            }
        }
        (Spec::Endpoints(spec), _) => return walk.endpoint(&spec.endpoints, &mut steps),
        (Spec::ProxyConfig(_), _) => {}
    }
    for (name, index) in steps {
        walk.field(&name, index);
    }
    walk.at
}

type ProtoStep = (String, Option<usize>);

/// `virtual_hosts[0].name` as names with indices.
fn steps(path: &str) -> Vec<ProtoStep> {
    let mut steps: Vec<ProtoStep> = Vec::new();
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        match (part.strip_suffix(']'), steps.last_mut()) {
            (Some(index), Some(last)) => last.1 = index.parse().ok(),
            _ => steps.push((part.to_owned(), None)),
        }
    }
    steps
}

struct Walk<'a> {
    document: &'a Document,
    at: FieldPath,
}

impl Walk<'_> {
    /// Follows a field of the resource; stays where it is when the document has nothing like it.
    fn field(&mut self, name: &str, index: Option<usize>) {
        let renamed = RENAMED.iter().find(|(proto, _)| *proto == name).map(|(_, ours)| (*ours).to_owned());
        let key = renamed.unwrap_or_else(|| camel(name));
        if self.enter(Step::Key(key.into()))
            && let Some(index) = index
        {
            self.enter(Step::Index(index));
        }
    }

    /// Goes there if the document has it.
    fn enter(&mut self, step: Step) -> bool {
        let there = match step {
            Step::Key(key) => self.at.key(key),
            Step::Index(index) => self.at.index(index),
        };
        let found = self.document.source.has(&there);
        if found {
            self.at = there;
        }
        found
    }

    /// Below an assignment: localities of endpoints are groups that the document does not have.
    fn endpoint(mut self, all: &[Endpoint], steps: &mut impl Iterator<Item = ProtoStep>) -> FieldPath {
        let mut index_of =
            |name: &str| steps.next().filter(|(found, _)| found == name).and_then(|(_, index)| index);
        let locality = index_of("endpoints");
        let member = index_of("lb_endpoints");
        let groups = endpoints::groups(all);
        let group = locality.and_then(|locality| groups.get(locality)).map(|(_, members)| members);
        self.enter(Step::Key("endpoints".into()));
        if let Some(&index) = group.and_then(|members| members.get(member.unwrap_or(0))) {
            self.enter(Step::Index(index));
        }
        for (name, index) in steps {
            match name.as_str() {
                "load_balancing_weight" => self.field("weight", None),
                "port_value" => self.field("port", None),
                _ => self.field(&name, index),
            }
        }
        self.at
    }
}

/// `stat_prefix` as `statPrefix`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}
