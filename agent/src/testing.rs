//! A small trust domain and a server that can lose answers, for the tests of this crate.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin as StdPin,
    sync::{Arc, Mutex},
    time::Duration,
};

use certs::{
    Certificate, Chain, Clock, Csr, Profile, PublicKey, SecretKey, Serial, SoftwareSigner, SpkiHash,
    Template, Timestamp, Usage, Validity, sign,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use proto::credence::v1::{
    BeginRequest, BeginResponse, FinishRequest, FinishResponse, RenewRequest, RenewResponse, SyncRequest,
    SyncResponse,
    enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
    renewal_service_server::{RenewalService, RenewalServiceServer},
};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme, server::danger};
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::{
    NodeId, Tenant, Trust, TrustBundle, TrustDomain,
    attestation::{Claim, METHOD_EXPIRED, OldKeyClaim},
    verify_svid,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tonic::{Request, Response, Status};
use tower::ServiceExt;

use crate::{Credentials, Membership, Pin, ServerAddress, StateDir, StateError, connect::ClientIdentity};

pub(crate) const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A clock that jumps to wherever somebody wants to sleep until: pauses cost nothing.
#[derive(Debug)]
pub(crate) struct LeapingClock(Mutex<Timestamp>);

impl LeapingClock {
    pub(crate) fn start(now: Timestamp) -> Arc<dyn Clock> {
        Arc::new(Self(Mutex::new(now)))
    }
}

impl Clock for LeapingClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn sleep_until(&self, at: Timestamp) -> StdPin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut now = self.0.lock().unwrap();
        *now = at.max(*now);
        Box::pin(tokio::task::yield_now())
    }
}

/// What is logged on this thread while its guard lives, a line for each event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<Vec<String>>>);

impl Logged {
    /// Listens on this thread.
    pub(crate) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    /// The lines so far that hold `text`.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

impl tracing::Subscriber for Logged {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.level() <= &tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut |field: &tracing::field::Field, value: &dyn fmt::Debug| {
            line.push_str(&format!(" {field}={value:?}"));
        });
        self.0.lock().unwrap().push(line);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The system's time, for tests with programs that have no other.
#[derive(Debug)]
pub(crate) struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "a real Envoy goes by the real time")]
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
    }

    fn sleep_until(&self, at: Timestamp) -> StdPin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(at.since(self.now())))
    }
}

/// Root, issuing authority, and what they sign.
pub(crate) struct TestAuthority {
    pub(crate) domain: TrustDomain,
    pub(crate) root: Certificate,
    issuing: Certificate,
    signer: SoftwareSigner,
}

impl TestAuthority {
    pub(crate) fn new(domain: &str, now: Timestamp) -> Self {
        let domain = TrustDomain::parse(domain).unwrap();
        let make = |profile: Profile, above: Option<(&Certificate, &SoftwareSigner)>| {
            let key = SecretKey::generate(profile.key_kind());
            let signer = SoftwareSigner::try_new(&key).unwrap();
            let within =
                above.map(|(c, _)| Validity { not_before: c.not_before(), not_after: c.not_after() });
            let template = Template {
                profile,
                serial: Serial::random(),
                validity: Validity::starting(now, profile.default_lifetime(), within),
                public_key: key.public().clone(),
                subject: Some(("Credence".into(), format!("{domain} {profile:?}"))),
                uri: domain.to_uri(),
                dns_names: vec![],
                ip_addresses: vec![],
            };
            let certificate =
                sign(&template, above.map(|(c, _)| c), above.map_or(&signer, |(_, s)| s)).unwrap();
            (certificate, signer)
        };
        let (root, root_signer) = make(Profile::Root, None);
        let (issuing, signer) = make(Profile::Issuing, Some((&root, &root_signer)));
        Self { domain, root, issuing, signer }
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin(self.root.spki_hash())
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), vec![self.root.clone()], 0)
    }

    pub(crate) fn issue(&self, path: &str, key: &PublicKey, now: Timestamp, life: Duration) -> Chain {
        let template = Template {
            profile: Profile::Node,
            serial: Serial::random(),
            validity: Validity::starting(now, life, None),
            public_key: key.clone(),
            subject: None,
            uri: format!("{}{path}", self.domain.to_uri()),
            dns_names: vec![],
            ip_addresses: vec![],
        };
        Chain::new(sign(&template, Some(&self.issuing), &self.signer).unwrap(), vec![self.issuing.clone()])
    }

    pub(crate) fn credentials(&self, path: &str, now: Timestamp, life: Duration) -> Credentials {
        let key = SecretKey::generate(certs::KeyKind::P256);
        Credentials { chain: self.issue(path, key.public(), now, life), key, bundle: self.bundle() }
    }

    pub(crate) fn membership(&self, node: &str, server: &str) -> Membership {
        let node_id = NodeId::parse(node).unwrap();
        Membership {
            spiffe_id: self.domain.node_id(&node_id),
            node_id,
            trust_domain: self.domain.clone(),
            namespace: spiffe::Namespace::default(),
            xds_server: ServerAddress::parse(server).unwrap(),
            server_id: self.domain.server_id(),
            pin: self.pin(),
            enrolment_server: Some(ServerAddress::parse(server).unwrap()),
        }
    }
}

/// Opens a directory that was just let go. A child that another test is about to start holds the lock for a moment
/// longer, between its fork and its exec.
pub(crate) fn reopen(path: &std::path::Path) -> StateDir {
    loop {
        match StateDir::open(path) {
            Err(StateError::InUse(_)) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// What the server does with the next request for a certificate. When the list is empty, it answers.
#[derive(Debug)]
pub(crate) enum Turn {
    LoseAnswer,
    Refuse(Status),
    AnswerWith(fn(&mut FinishResponse)),
}

/// A control plane of one node, `web-1`, which keeps what it saw.
pub(crate) struct FakeServer {
    pub(crate) authority: TestAuthority,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) life: Duration,
    /// Where it says that discovery is served; `None` beside enrolment.
    pub(crate) discovery: Option<String>,
    /// Under which path it presents itself.
    pub(crate) path: &'static str,
    pub(crate) presents_root: bool,
    /// Why it lets no certificate in.
    pub(crate) refuses: Option<CertificateError>,
    /// The bundle that nodes should hold, and whether they should renew; `None` as of servers that know no such
    /// call.
    pub(crate) news: watch::Sender<Option<(TrustBundle, bool)>>,
    listener: TcpListener,
    cut: Notify,
    pub(crate) seen: Mutex<Seen>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) turns: VecDeque<Turn>,
    /// What the next requests for a challenge are refused with.
    pub(crate) begins: VecDeque<Status>,
    pub(crate) issued: HashMap<String, (SpkiHash, Chain)>,
    pub(crate) finishes: u32,
    pub(crate) renewals: Vec<SpkiHash>,
    /// The hashes of bundles that nodes said they hold.
    pub(crate) reports: Vec<Vec<u8>>,
    pub(crate) client_serials: Vec<Serial>,
    /// How often a call for news was answered that there is no such call.
    pub(crate) unknown_calls: u32,
    /// The keys of nodes that came back with a certificate that had ended.
    pub(crate) comebacks: Vec<SpkiHash>,
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeServer")
    }
}

#[derive(Clone, Copy)]
struct Exporter([u8; 32]);

impl FakeServer {
    pub(crate) async fn start(now: Timestamp) -> Self {
        Self {
            authority: TestAuthority::new("td", now),
            clock: LeapingClock::start(now),
            life: DAY,
            discovery: None,
            path: "/credence/server",
            presents_root: true,
            refuses: None,
            news: watch::Sender::new(None),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            cut: Notify::new(),
            seen: Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> ServerAddress {
        ServerAddress::parse(&self.listener.local_addr().unwrap().to_string()).unwrap()
    }

    pub(crate) fn script(&self, turns: impl IntoIterator<Item = Turn>) {
        self.seen.lock().unwrap().turns.extend(turns);
    }

    /// Serves one connection after the other while `work` runs.
    pub(crate) async fn during<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = Box::pin(work) => done,
            () = Box::pin(self.serve()) => unreachable!("the server ends with the test"),
        }
    }

    /// Ends the next connection at once, as when nobody is there to answer.
    pub(crate) async fn refuse_one(&self) {
        drop(self.listener.accept().await.unwrap());
    }

    async fn serve(self: &Arc<Self>) {
        loop {
            let (tcp, _) = self.listener.accept().await.unwrap();
            let (chain, key) = self.own_certificate();
            let acceptor =
                tokio_rustls::TlsAcceptor::from(Arc::new(server_config(&chain, &key, self.refuses.clone())));
            let tls = match acceptor.accept(tcp).into_fallible().await {
                Ok(tls) => tls,
                // Whoever is refused must be able to read why.
                Err((_, mut tcp)) => {
                    let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
                    continue;
                }
            };
            let session = tls.get_ref().1;
            let mut exporter = [0; 32];
            session.export_keying_material(&mut exporter, spiffe::attestation::EXPORTER_LABEL, None).unwrap();
            if let Some(ders) = session.peer_certificates() {
                let client = Chain::from_ders(ders.iter().map(AsRef::as_ref)).unwrap();
                let trust = Trust::new(self.authority.bundle());
                verify_svid(&client, &trust, self.clock.now(), Usage::Client).unwrap();
                self.seen.lock().unwrap().client_serials.push(client.leaf().serial().clone());
            }
            let routes = tonic::service::Routes::new(EnrolmentServiceServer::from_arc(self.clone()))
                .add_service(RenewalServiceServer::from_arc(self.clone()));
            let service = routes.map_request(move |mut request: http::Request<_>| {
                request.extensions_mut().insert(Exporter(exporter));
                request
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service));
            tokio::select! {
                _ = connection => {}
                () = self.cut.notified() => {}
            }
        }
    }

    /// A fresh certificate for each connection: the clock may have leapt past the end of the last one.
    fn own_certificate(&self) -> (Chain, SecretKey) {
        let key = SecretKey::generate(certs::KeyKind::P256);
        let chain = self.authority.issue(self.path, key.public(), self.clock.now(), DAY);
        let extra = if self.presents_root { vec![self.authority.root.clone()] } else { vec![] };
        let intermediates = chain.intermediates().iter().cloned().chain(extra).collect();
        let chain = Chain::new(chain.leaf().clone(), intermediates);
        (chain, key)
    }

    async fn turn(&self) -> Result<Option<fn(&mut FinishResponse)>, Status> {
        let turn = self.seen.lock().unwrap().turns.pop_front();
        match turn {
            None => Ok(None),
            Some(Turn::AnswerWith(change)) => Ok(Some(change)),
            Some(Turn::Refuse(status)) => Err(status),
            Some(Turn::LoseAnswer) => {
                self.cut.notify_one();
                std::future::pending().await
            }
        }
    }
}

pub(crate) fn server_config(
    chain: &Chain,
    key: &SecretKey,
    refuses: Option<CertificateError>,
) -> rustls::ServerConfig {
    let identity = ClientIdentity::new(chain, key);
    let certified = rustls::client::ResolvesClientCert::resolve(&identity, &[], &[]).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyClient { refuses }))
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Takes any client, or none: the fake looks at certificates itself.
#[derive(Debug)]
struct AnyClient {
    refuses: Option<CertificateError>,
}

impl danger::ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<danger::ClientCertVerified, rustls::Error> {
        match &self.refuses {
            Some(why) => Err(rustls::Error::InvalidCertificate(why.clone())),
            None => Ok(danger::ClientCertVerified::assertion()),
        }
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn ders(chain: &Chain) -> Vec<Vec<u8>> {
    chain.certificates().map(|one| one.der().to_vec()).collect()
}

#[tonic::async_trait]
impl EnrolmentService for FakeServer {
    async fn begin(&self, _: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        if let Some(refused) = self.seen.lock().unwrap().begins.pop_front() {
            return Err(refused);
        }
        let nonce = Serial::random().as_bytes().to_vec();
        let expires = self.clock.now() + Duration::from_secs(60);
        Ok(Response::new(BeginResponse {
            cookie: nonce.clone(),
            nonce,
            expires_unix_ms: expires.unix_millis(),
            xds_server: self.discovery.clone().unwrap_or_else(|| self.address().to_string()),
        }))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        let Exporter(exporter) = *request.extensions().get::<Exporter>().unwrap();
        let finish = request.into_inner();
        self.seen.lock().unwrap().finishes += 1;
        let csr = Csr::from_der(&finish.csr_der).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let spki = csr.public_key().hash();
        let tenant = Tenant::parse(&finish.tenant).unwrap();
        let claim = Claim {
            nonce: &finish.cookie,
            exporter: &exporter,
            spki,
            method: &finish.method,
            tenant: &tenant,
        };
        claim.verify(csr.public_key(), &finish.proof).map_err(|_| Status::permission_denied("proof"))?;
        if finish.method == METHOD_EXPIRED {
            let (nonce, certificate) = (&finish.cookie, finish.expired_certificate_der.as_slice());
            let old = OldKeyClaim { nonce, exporter: &exporter, spki, certificate, tenant: &tenant };
            let key =
                PublicKey::from_spki_der(Certificate::from_der(certificate).unwrap().spki_der()).unwrap();
            old.verify(&key, &finish.old_proof).map_err(|_| Status::permission_denied("old proof"))?;
            self.seen.lock().unwrap().comebacks.push(spki);
        }
        let chain = {
            let mut seen = self.seen.lock().unwrap();
            let authority = &self.authority;
            let (key, chain) = seen.issued.entry(finish.join_token).or_insert_with(|| {
                (spki, authority.issue("/credence/node/web-1", csr.public_key(), self.clock.now(), self.life))
            });
            if *key != spki {
                return Err(Status::permission_denied("refused, id 0123456789abcdef"));
            }
            chain.clone()
        };
        let change = self.turn().await?;
        let membership = self.authority.membership("web-1", &self.address().to_string());
        let mut answer = FinishResponse {
            chain_der: ders(&chain),
            bundle_der: vec![self.authority.root.der().to_vec()],
            spiffe_id: membership.spiffe_id.to_string(),
            node_id: "web-1".into(),
            trust_domain: "td".into(),
            xds_server: membership.xds_server.to_string(),
            not_after_unix_ms: chain.leaf().not_after().unix_millis(),
            server_id: membership.server_id.to_string(),
            namespace: "shop".into(),
        };
        if let Some(change) = change {
            change(&mut answer);
        }
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl RenewalService for FakeServer {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let renew = request.into_inner();
        let csr = Csr::from_der(&renew.csr_der).unwrap();
        self.turn().await?;
        self.seen.lock().unwrap().renewals.push(csr.public_key().hash());
        let chain =
            self.authority.issue("/credence/node/web-1", csr.public_key(), self.clock.now(), self.life);
        // Whoever was told to renew has done so now.
        self.news
            .send_if_modified(|news| news.as_mut().is_some_and(|(_, renew)| std::mem::replace(renew, false)));
        let bundle =
            self.news.borrow().as_ref().map_or_else(|| self.authority.bundle(), |news| news.0.clone());
        let known = renew.bundle_sha256 == bundle.content_hash();
        let roots = bundle.authorities().iter().map(|root| root.der().to_vec());
        Ok(Response::new(RenewResponse {
            chain_der: ders(&chain),
            bundle_der: if known { vec![] } else { roots.collect() },
            not_after_unix_ms: chain.leaf().not_after().unix_millis(),
        }))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let held = request.into_inner().bundle_sha256;
        let mut news = self.news.subscribe();
        if news.borrow().is_none() {
            self.seen.lock().unwrap().unknown_calls += 1;
            return Err(Status::unimplemented("an older server"));
        }
        self.seen.lock().unwrap().reports.push(held.clone());
        let differs = |news: &Option<(TrustBundle, bool)>| {
            news.as_ref().is_none_or(|(bundle, renew)| held != bundle.content_hash() || *renew)
        };
        let Some((bundle, renew)) = news.wait_for(differs).await.unwrap().clone() else {
            return Err(Status::unavailable("shutting down"));
        };
        let is_held = held == bundle.content_hash();
        let roots = bundle.authorities().iter().map(|root| root.der().to_vec());
        Ok(Response::new(SyncResponse { bundle_der: if is_held { vec![] } else { roots.collect() }, renew }))
    }
}
