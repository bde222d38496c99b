//! One named, typed, versioned item, encoded once; every stream sends the same bytes.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use prost::Message;
use prost_types::Any;

/// The resource types that are served, in the order in which they are sent: make before break
/// (the xDS protocol page, "Eventual consistency considerations").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TypeUrl {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.core.v3.TypedExtensionConfig`
    Extension,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
}

impl TypeUrl {
    /// All of them, in sending order.
    pub const ALL: [Self; 6] =
        [Self::Cluster, Self::Endpoints, Self::Secret, Self::Listener, Self::Extension, Self::Route];

    /// The full URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The full URL, shared.
    #[must_use]
    pub(crate) fn shared(self) -> Arc<str> {
        static SHARED: LazyLock<[Arc<str>; TypeUrl::ALL.len()]> =
            LazyLock::new(|| TypeUrl::ALL.map(|known| known.as_str().into()));
        SHARED[self as usize].clone()
    }

    /// Reads a full URL; `None` for types that are not served.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == url)
    }

    /// The short word for tables and metrics: CDS, EDS, SDS, LDS, ECDS, RDS.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Extension => "ECDS",
            Self::Route => "RDS",
        }
    }

    /// Whether an absent resource is deleted by not being in a state-of-the-world response, and an empty
    /// subscription means all (the xDS protocol page, "Deleting Resources", "Wildcard").
    #[must_use]
    pub fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A content hash of at most 22 characters: equal content, equal version, on every replica and after a restart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Of public content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self::from_hash(blake3::hash(content))
    }

    /// Of secret content: keyed, so that nobody can test guesses against a version (xds.md 146).
    #[must_use]
    pub fn keyed(key: &[u8; 32], content: &[u8]) -> Self {
        Self::from_hash(blake3::keyed_hash(key, content))
    }

    fn from_hash(hash: blake3::Hash) -> Self {
        Self(URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..16]).into())
    }

    /// The text that goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An immutable resource. Its two wire forms are built once, as whole protobuf fields, so that a response is a
/// chain of shared segments. Shared as `Arc<Resource>`.
pub struct Resource {
    type_url: TypeUrl,
    name: Arc<str>,
    version: Version,
    /// Field 2 of DiscoveryResponse: `resources`, one Any.
    sotw_field: Bytes,
    /// Field 2 of DeltaDiscoveryResponse: `resources`, one Resource with name, version and Any.
    delta_field: Bytes,
    references: Vec<(TypeUrl, Arc<str>)>,
}

impl Resource {
    /// Wraps the encoded message `content` of type `type_url`. `references` are the resources it needs: EDS and
    /// SDS of a cluster, RDS, SDS and ECDS of a listener.
    #[must_use]
    pub fn new(
        type_url: TypeUrl,
        name: impl Into<Arc<str>>,
        content: Vec<u8>,
        references: Vec<(TypeUrl, Arc<str>)>,
    ) -> Self {
        let version = Version::of(&content);
        Self::with_version(type_url, name, version, content, references)
    }

    /// The same for content whose version the caller computed: secrets, by [`Version::keyed`].
    #[must_use]
    pub fn with_version(
        type_url: TypeUrl,
        name: impl Into<Arc<str>>,
        version: Version,
        content: Vec<u8>,
        references: Vec<(TypeUrl, Arc<str>)>,
    ) -> Self {
        let name = name.into();
        let any = Any { type_url: type_url.as_str().to_owned(), value: content };
        let delta = proto::envoy::service::discovery::v3::Resource {
            name: name.to_string(),
            version: version.to_string(),
            resource: Some(any),
            ..Default::default()
        };
        let delta_field = field(2, &delta);
        let sotw_field = delta.resource.as_ref().map(|any| field(2, any)).unwrap_or_default();
        Self { type_url, name, version, sotw_field, delta_field, references }
    }

    /// Its type.
    #[must_use]
    pub fn type_url(&self) -> TypeUrl {
        self.type_url
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its content hash.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Field 2 of a DiscoveryResponse, tag and length included.
    #[must_use]
    pub fn sotw_field(&self) -> &Bytes {
        &self.sotw_field
    }

    /// Field 2 of a DeltaDiscoveryResponse, tag and length included.
    #[must_use]
    pub fn delta_field(&self) -> &Bytes {
        &self.delta_field
    }

    /// What it needs.
    #[must_use]
    pub fn references(&self) -> &[(TypeUrl, Arc<str>)] {
        &self.references
    }

    /// The message as an Any, decoded back: for inspection of public types.
    #[must_use]
    pub fn to_any(&self) -> Option<Any> {
        let delta =
            proto::envoy::service::discovery::v3::DeltaDiscoveryResponse::decode(self.delta_field.clone())
                .ok()?;
        delta.resources.into_iter().next()?.resource
    }
}

impl PartialEq for Resource {
    /// Equal name and content; content is compared by its version.
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.type_url == other.type_url && self.name == other.name
    }
}

impl Eq for Resource {}

impl fmt::Debug for Resource {
    /// Type, name, version and length; never content, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ({} bytes)", self.type_url.word(), self.name, self.version, self.sotw_field.len())
    }
}

fn field(number: u32, message: &impl Message) -> Bytes {
    let mut buffer = Vec::with_capacity(message.encoded_len() + 8);
    prost::encoding::message::encode(number, message, &mut buffer);
    buffer.into()
}
