//! What operators declare, in Credence's own words, before Envoy's. Text in, documents out; every later problem
//! still finds its line.
//!
//! It does not know which nodes exist, nor what Envoy makes of a document: `validate` and `translate` do.
//! Start at [`parse`] and [`Document`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spiffe::{Binding, Labels, NODE_LABEL, Namespace, Tenant};

mod cluster;
pub(crate) mod decode;
mod listener;
pub(crate) mod node;
mod path;
mod problem;
mod route;
pub(crate) mod scalar;
mod yaml;

#[cfg(test)]
mod tests;

pub use self::cluster::{
    CircuitBreakers, ClientMtls, Cluster, ClusterMtls, ClusterType, EdsClusterConfig, EdsConfig, Endpoint,
    GrpcHealthCheck, HealthCheck, HttpHealthCheck, LoadBalancing, Locality, Nothing, OutlierDetection,
};
pub use self::listener::{
    ChainMatch, Filter, FilterChain, HTTP_FILTER, HttpFilter, Listener, ListenerMtls, ListenerTls, MtlsMode,
    TCP_FILTER, TcpFilter,
};
pub use self::node::{Place, Source};
pub use self::path::{FieldPath, Step};
pub use self::problem::{Problem, Problems, Warning};
pub use self::route::{
    DirectResponse, HashPolicy, HeaderMatch, HeaderToAdd, QueryMatch, Redirect, RedirectCode, RetryPolicy,
    Route, RouteAction, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
};
pub use self::yaml::{MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_DOCUMENTS, MAX_VALUES};

use self::decode::{Field, Reader, object, words};
use self::node::Node;

words! {
    /// The sort of a document.
    #[derive(PartialOrd, Ord, Serialize, Deserialize)]
    pub enum Kind {
        /// Listeners, routes and clusters for the nodes that a selector matches.
        ProxyConfig = "ProxyConfig",
        /// The addresses of one EDS cluster.
        Endpoints = "Endpoints",
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Names one document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentKey {
    /// Whose.
    pub tenant: Tenant,
    /// Of which namespace.
    pub namespace: Namespace,
    /// Of which kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} of {}", self.tenant)
    }
}

/// A document that is well formed. Whether it makes sense is for `validate` to say.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its name.
    pub key: DocumentKey,
    /// Labels of the document itself; they select nothing.
    pub labels: Labels,
    /// What it says.
    pub spec: Spec,
    /// Where it was written.
    pub source: Arc<Source>,
}

impl Document {
    /// Whether a node with this binding gets it by itself. `Endpoints` come with the clusters that want them.
    #[must_use]
    pub fn reaches(&self, binding: &Binding) -> bool {
        if self.key.tenant != binding.tenant || self.key.namespace != binding.namespace {
            return false;
        }
        match &self.spec {
            Spec::Endpoints(_) => false,
            Spec::ProxyConfig(config) => {
                config.selector.as_ref().is_none_or(|selector| binding.matches(&selector.match_labels))
            }
        }
    }

    /// The one node that its selector names, if it names one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match &self.spec {
            Spec::Endpoints(_) => None,
            Spec::ProxyConfig(config) => {
                config.selector.as_ref()?.match_labels.get(NODE_LABEL).map(String::as_str)
            }
        }
    }

    /// Something that is wrong with it because of what stands beside it, at the place of its name.
    #[must_use]
    pub fn problem(&self, rule: &str, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        let name = FieldPath::default().key("metadata").key("name");
        node::At::new(&self.source, name).problem(rule, message, hint)
    }
}

/// What a document says, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// See [`ProxyConfig`].
    ProxyConfig(ProxyConfig),
    /// See [`Endpoints`].
    Endpoints(Endpoints),
}

object! {
    /// Listeners, routes and clusters for the nodes of its namespace that the selector matches.
    pub struct ProxyConfig {
        /// Which nodes; absent: all of the namespace.
        pub selector: Option<Selector> = "selector",
        /// Where they listen.
        pub listeners: Vec<Listener> = "listeners",
        /// Where requests go.
        pub routes: Vec<RouteTable> = "routes",
        /// What they go to.
        pub clusters: Vec<Cluster> = "clusters",
    }
}

object! {
    /// Which nodes a document reaches.
    #[derive(Eq)]
    pub struct Selector {
        /// The labels that a node must carry, all of them.
        pub match_labels: BTreeMap<String, String> = "matchLabels",
    }
}

object! {
    /// The addresses of the EDS cluster that has this document's name.
    pub struct Endpoints {
        /// The addresses; an empty list is a cluster that answers 503.
        pub endpoints: Vec<Endpoint> = "endpoints",
    }
}

object! {
    /// The name of a document.
    pub struct Metadata {
        /// Its name; of `Endpoints`, the name of the cluster.
        pub name: DocumentName = "name",
        /// Its namespace; default: where it is applied to, else default.
        pub namespace: Option<Namespace> = "namespace",
        /// Labels of the document itself; they select nothing.
        pub labels: BTreeMap<String, String> = "labels",
    }
}

/// A name of a document: what a cluster may be called, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentName(pub Arc<str>);

impl Field for DocumentName {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let name = String::read(node, reader)?;
        match crate::validate::name_fault(&name) {
            None => Some(Self(name.into())),
            Some(fault) => {
                reader.refuse(node, "name", format!("name {name:?} {fault}"), crate::validate::NAME_HINT)
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$"})
    }
}

impl Field for Namespace {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let name = String::read(node, reader)?;
        match Self::parse(&name) {
            Ok(namespace) => Some(namespace),
            Err(fault) => reader.refuse(node, "namespace", format!("namespace {name:?}: {fault}"), ""),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"})
    }
}

words! {
    /// The version of the vocabulary.
    pub enum ApiVersion {
        /// The only one.
        V1 = "v1",
    }
}

const KEYS: &[&str] = &["apiVersion", "kind", "metadata", "spec"];

/// For whom documents are read, where they do not say it.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Whose they are.
    pub tenant: Tenant,
    /// The namespace of those that name none.
    pub namespace: Namespace,
}

/// Reads every document of a YAML stream or JSON text, for the default tenant and namespace.
///
/// # Errors
/// All problems of form: syntax, duplicate and unknown fields, types, limits.
pub fn parse(source_name: &str, text: &str) -> Result<Vec<Document>, Problems> {
    parse_in(&Scope::default(), source_name, text)
}

/// The same for `scope`.
///
/// # Errors
/// As [`parse`].
pub fn parse_in(scope: &Scope, source_name: &str, text: &str) -> Result<Vec<Document>, Problems> {
    let file: Arc<str> = source_name.into();
    let (roots, mut problems) = yaml::read(&file, text);
    let mut documents = Vec::with_capacity(roots.len());
    for root in roots {
        let mut reader = Reader::new(&file);
        documents.extend(document(scope, &root, &mut reader).map(|(key, labels, spec)| {
            let source = Arc::new(Source::new(file.clone(), root));
            Document { key, labels, spec, source }
        }));
        problems.append(&mut reader.problems);
    }
    if problems.is_empty() { Ok(documents) } else { Err(Problems::sorted(problems)) }
}

fn document(scope: &Scope, root: &Node, reader: &mut Reader<'_>) -> Option<(DocumentKey, Labels, Spec)> {
    let fields = reader.object(root, KEYS)?;
    let version = fields.take::<ApiVersion>("apiVersion", reader);
    let kind = fields.take::<Kind>("kind", reader);
    let metadata = fields.take::<Metadata>("metadata", reader);
    let spec = match kind? {
        Kind::ProxyConfig => fields.take("spec", reader).map(Spec::ProxyConfig),
        Kind::Endpoints => fields.take("spec", reader).map(Spec::Endpoints),
    };
    let Metadata { name, namespace, labels } = metadata?;
    version?;
    let key = DocumentKey {
        tenant: scope.tenant.clone(),
        namespace: namespace.unwrap_or_else(|| scope.namespace.clone()),
        kind: kind?,
        name: name.0,
    };
    Some((key, labels, spec?))
}

/// The JSON Schema of all kinds.
#[must_use]
pub fn schema() -> Value {
    let kind = |kind: Kind, spec: Value| {
        json!({
            "type": "object",
            "properties": {
                "apiVersion": ApiVersion::schema(),
                "kind": {"const": kind.word()},
                "metadata": Metadata::schema(),
                "spec": spec,
            },
            "required": KEYS,
            "additionalProperties": false,
        })
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Credence documents",
        "oneOf": [
            kind(Kind::ProxyConfig, ProxyConfig::schema()),
            kind(Kind::Endpoints, Endpoints::schema()),
        ],
    })
}
