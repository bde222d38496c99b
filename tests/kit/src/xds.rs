//! A discovery client that does what it is told, right or wrong.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures::stream;
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::{
    envoy::{
        config::{
            core::v3::{Node, address::Address, data_source::Specifier, socket_address::PortSpecifier},
            endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
        },
        extensions::transport_sockets::tls::v3::{Secret, secret},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status as RpcStatus,
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{Identity, connect};

/// Clusters.
pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints.
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Routes.
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Secrets.
pub const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

const PATIENCE: Duration = Duration::from_secs(20);

/// One mTLS connection to the xDS port.
#[derive(Debug, Clone)]
pub struct XdsClient {
    client: AggregatedDiscoveryServiceClient<Channel>,
}

impl XdsClient {
    /// Connects as `identity`; the connection is made at the first stream.
    #[must_use]
    pub fn new(address: SocketAddr, identity: &Identity) -> Self {
        let identity = identity.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let identity = identity.clone();
            async move {
                let tls = connect(address, Some(&identity), &[b"h2"]).await;
                tls.map(TokioIo::new).map_err(|outcome| std::io::Error::other(format!("{outcome:?}")))
            }
        });
        let channel = Endpoint::from_static("http://credence").connect_with_connector_lazy(connector);
        Self { client: AggregatedDiscoveryServiceClient::new(channel) }
    }

    /// Opens a delta stream of the aggregated service that says it is `node`.
    #[must_use]
    pub fn delta(&self, node: &str, cluster: &str) -> DeltaStream {
        let (send, receive) = mpsc::channel(64);
        let requests = stream::unfold(receive, async |mut receive: mpsc::Receiver<DeltaDiscoveryRequest>| {
            receive.recv().await.map(|request| (request, receive))
        });
        let node = Node { id: node.to_owned(), cluster: cluster.to_owned(), ..Node::default() };
        let mut client = self.client.clone();
        // The server sends headers only after the first message; opening must not wait for them.
        let mut opening = JoinSet::new();
        opening.spawn(async move { client.delta_aggregated_resources(requests).await });
        DeltaStream { send, answers: Answers::Opening(opening), node: Some(node) }
    }

    /// Opens a state-of-the-world stream of the aggregated service that says it is `node`.
    #[must_use]
    pub fn sotw(&self, node: &str, cluster: &str) -> SotwStream {
        let (send, receive) = mpsc::channel(64);
        let requests = stream::unfold(receive, async |mut receive: mpsc::Receiver<DiscoveryRequest>| {
            receive.recv().await.map(|request| (request, receive))
        });
        let node = Node { id: node.to_owned(), cluster: cluster.to_owned(), ..Node::default() };
        let mut client = self.client.clone();
        let mut opening = JoinSet::new();
        opening.spawn(async move { client.stream_aggregated_resources(requests).await });
        SotwStream { send, answers: Answers::Opening(opening), node: Some(node) }
    }
}

type Opening<A> = JoinSet<Result<tonic::Response<Streaming<A>>, Status>>;

enum Answers<A> {
    Opening(Opening<A>),
    Open(Box<Streaming<A>>),
}

impl<A: Send + 'static> Answers<A> {
    async fn next(&mut self, bound: Duration) -> Result<A, Status> {
        let wait = async {
            if let Self::Opening(opening) = self {
                let opened = opening.join_next().await.and_then(Result::ok);
                let streaming =
                    opened.unwrap_or_else(|| Err(Status::internal("kit: not opened")))?.into_inner();
                *self = Self::Open(Box::new(streaming));
            }
            let Self::Open(streaming) = self else { return Err(Status::internal("not open")) };
            streaming.message().await?.ok_or_else(|| Status::new(Code::Ok, "the stream ended"))
        };
        timeout(bound, wait).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("kit: nothing came")))
    }
}

/// A delta stream.
pub struct DeltaStream {
    send: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Answers<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

impl std::fmt::Debug for DeltaStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaStream").finish_non_exhaustive()
    }
}

impl DeltaStream {
    /// Sends any request.
    pub async fn request(&mut self, mut request: DeltaDiscoveryRequest) {
        if let Some(node) = self.node.take() {
            request.node = Some(node);
        }
        // A stream that has ended tells why by `next`.
        let _ = self.send.send(request).await;
    }

    /// Subscribes to names; to everything of the type with none.
    pub async fn subscribe(&mut self, type_url: &str, names: &[&str]) {
        self.request(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Subscribes as a client that holds these versions from before.
    pub async fn resume(&mut self, type_url: &str, names: &[&str], held: BTreeMap<String, String>) {
        self.request(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            initial_resource_versions: held.into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Acknowledges.
    pub async fn ack(&mut self, response: &DeltaDiscoveryResponse) {
        self.request(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Refuses, with these words.
    pub async fn nack(&mut self, response: &DeltaDiscoveryResponse, words: &str) {
        self.request(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(RpcStatus { code: 13, message: words.to_owned(), details: vec![] }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// The next response.
    ///
    /// # Errors
    /// The status that ended the stream; DEADLINE_EXCEEDED "kit: nothing came" after 20 s.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        self.answers.next(PATIENCE).await
    }

    /// The next response within `bound`.
    ///
    /// # Errors
    /// As [`DeltaStream::next`].
    pub async fn next_within(&mut self, bound: Duration) -> Result<DeltaDiscoveryResponse, Status> {
        self.answers.next(bound).await
    }
}

/// A state-of-the-world stream.
pub struct SotwStream {
    send: mpsc::Sender<DiscoveryRequest>,
    answers: Answers<DiscoveryResponse>,
    node: Option<Node>,
}

impl std::fmt::Debug for SotwStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SotwStream").finish_non_exhaustive()
    }
}

impl SotwStream {
    /// Asks for names of a type; for everything with none.
    pub async fn ask(&mut self, type_url: &str, names: &[&str]) {
        let request = DiscoveryRequest {
            node: self.node.take(),
            type_url: type_url.to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DiscoveryRequest::default()
        };
        let _ = self.send.send(request).await;
    }

    /// The next response.
    ///
    /// # Errors
    /// As [`DeltaStream::next`].
    pub async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        self.answers.next(PATIENCE).await
    }
}

/// The value inside the first secret of a response, which must be a generic one.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn generic_of(response: &DeltaDiscoveryResponse) -> Vec<u8> {
    let resource = response.resources.first().and_then(|resource| resource.resource.as_ref());
    let any = resource.unwrap_or_else(|| panic!("the response has no resource: {response:?}"));
    let secret = Secret::decode(any.value.as_ref()).unwrap_or_else(|error| panic!("secret: {error}"));
    let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
        panic!("the secret is no generic one");
    };
    match generic.secret.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes.to_vec(),
        other => panic!("not inline: {}", other.is_some()),
    }
}

/// The ports of the addresses inside the first resource of a response, which must be those of a cluster.
#[must_use]
pub fn ports_of(response: &DeltaDiscoveryResponse) -> Option<Vec<u32>> {
    let any = response.resources.first()?.resource.as_ref()?;
    let assignment = ClusterLoadAssignment::decode(any.value.as_ref()).ok()?;
    let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    endpoints
        .map(|endpoint| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { return None };
            let Some(Address::SocketAddress(socket)) = &endpoint.address.as_ref()?.address else {
                return None;
            };
            match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => Some(port),
                _ => None,
            }
        })
        .collect()
}

/// The chain and key inside the first secret of a response, both PEM.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn secret_of(response: &DeltaDiscoveryResponse) -> (Vec<u8>, Vec<u8>) {
    let resource = response.resources.first().and_then(|resource| resource.resource.as_ref());
    let any = resource.unwrap_or_else(|| panic!("the response has no resource: {response:?}"));
    let secret = Secret::decode(any.value.as_ref()).unwrap_or_else(|error| panic!("secret: {error}"));
    let Some(secret::Type::TlsCertificate(certificate)) = secret.r#type else {
        panic!("the secret is no certificate");
    };
    let inline = |source: Option<proto::envoy::config::core::v3::DataSource>| match source
        .and_then(|source| source.specifier)
    {
        Some(Specifier::InlineBytes(bytes)) => bytes.to_vec(),
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        other => panic!("not inline: {}", other.is_some()),
    };
    (inline(certificate.certificate_chain), inline(certificate.private_key))
}
