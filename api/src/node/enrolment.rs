//! A node's first certificate, against a join token (security reference 3.3, protocol v1); or its next one after its
//! last has ended, while operators let nodes come back.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use audit::{Action, Actor, Event};
use certs::{Csr, Profile, PublicKey, SpkiHash};
use proto::credence::v1::{
    BeginRequest, BeginResponse, FinishRequest, FinishResponse, enrolment_service_server::EnrolmentService,
};
use ring::rand::{SecureRandom, SystemRandom};
use spiffe::{
    Binding, IssuedSvid, NodeId, Purpose, RecoveryRefusal, RequestId, Spend, SpiffeId, SvidRequest, Tenant,
    TokenRefusal, TokenSpend,
    attestation::{
        COOKIE_LIFE, Claim, EXPORTER_OCTETS, JoinToken, MAX_WRONG_SECRETS, METHOD_EXPIRED, METHOD_JOIN_TOKEN,
        NONCE_OCTETS, Subject,
    },
};
use tonic::{Extensions, Request, Response, Status};

use super::{Call, Limiter, NodeDoor, Refusal, TlsExporter, ders};

/// The enrolment service: the only thing on its port.
pub struct Enrolment {
    pub(super) door: Arc<NodeDoor>,
    callers: Limiter<IpAddr>,
    /// Apart from the others: nodes that come back never keep a new one from joining.
    recovering: Limiter<IpAddr>,
}

/// How a node proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    JoinToken,
    Expired,
}

impl Method {
    fn parse(word: &str) -> Result<Self, Refusal> {
        match word {
            METHOD_JOIN_TOKEN => Ok(Self::JoinToken),
            METHOD_EXPIRED => Ok(Self::Expired),
            other => Err(Refusal::Method(other.chars().take(64).collect())),
        }
    }
}

/// What every applicant has proven: that it holds the key to certify, on this connection, for this challenge.
pub(super) struct Proven {
    pub(super) key: PublicKey,
    pub(super) nonce: [u8; NONCE_OCTETS],
    pub(super) exporter: [u8; EXPORTER_OCTETS],
    pub(super) tenant: Tenant,
}

impl Enrolment {
    pub(super) fn new(door: Arc<NodeDoor>) -> Self {
        let settings = &door.settings;
        Self { callers: Limiter::new(settings), recovering: Limiter::wide(settings), door }
    }

    fn call(&self, extensions: &Extensions) -> Call {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let remote = extensions.get::<SocketAddr>().copied().unwrap_or(unknown);
        Call {
            id: RequestId::random(),
            action: Action::EnrolRefuse,
            actor: Actor::stranger(remote),
            now: self.door.inputs.clock.now(),
            tenant: Tenant::default(),
            object: "enrolment".to_owned(),
        }
    }

    /// Lets a caller in that does not come too often, and says what it comes for. Whoever asks to come back while no
    /// window is open is refused before it is counted: a thousand behind one address all hear why they wait.
    fn admit(&self, call: &Call, extensions: &Extensions, method: &str) -> Result<Method, Refusal> {
        let remote = extensions.get::<SocketAddr>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::ip);
        let method = Method::parse(method);
        let limiter = match method {
            Ok(Method::Expired) if self.door.recovery(call.now).is_none() => {
                return Err(RecoveryRefusal::Closed.into());
            }
            Ok(Method::Expired) => &self.recovering,
            Ok(Method::JoinToken) | Err(_) => &self.callers,
        };
        limiter.take(&limited_as(remote), call.now)?;
        method
    }

    fn challenge(&self, call: &Call, request: &BeginRequest) -> Result<BeginResponse, Refusal> {
        let tenant = Tenant::parse(&request.tenant).map_err(|_| Refusal::Tenant)?;
        let hash = &request.spki_sha256;
        let spki = SpkiHash(hash.as_slice().try_into().map_err(|_| Refusal::KeyHash(hash.len()))?);
        let mut nonce = [0; NONCE_OCTETS];
        SystemRandom::new().fill(&mut nonce).expect("the system random generator answers");
        let expires = call.now + COOKIE_LIFE;
        let subject = Subject { method: &request.method, tenant: &tenant, spki };
        Ok(BeginResponse {
            nonce: nonce.to_vec(),
            cookie: self.door.cookies.seal(&nonce, subject, expires),
            expires_unix_ms: expires.unix_millis(),
            xds_server: self.door.settings.xds_server.clone(),
        })
    }

    async fn enrol(
        &self,
        call: &mut Call,
        exporter: Option<TlsExporter>,
        request: &FinishRequest,
    ) -> Result<FinishResponse, Refusal> {
        let Proven { key, .. } = self.proven(call, exporter, request)?;
        let spend = |token: &JoinToken| {
            Spend::Token(TokenSpend { token_id: token.id().to_owned(), spki: key.hash() })
        };
        let token = JoinToken::parse(&request.join_token)?;
        call.object = format!("token {}", token.id());
        if token.tenant().as_str() != request.tenant {
            return Err(TokenRefusal::Unknown.into());
        }
        call.tenant = token.tenant().clone();
        let node = self.spendable(call, &token, key.hash()).await?;
        call.object = format!("node {node}");
        let (binding, id) = self.door.entitled(&node)?;
        if binding.tenant != call.tenant {
            return Err(Refusal::NotBound(node));
        }
        let svid = self
            .door
            .issue(SvidRequest {
                id: id.clone(),
                profile: Profile::Node,
                public_key: key.clone(),
                lifetime: self.door.settings.lifetime,
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
                tenant: binding.tenant.clone(),
                node: Some(node.clone()),
                issuer: None,
                purpose: Purpose::Enrolment,
                deadline: None,
                spend: Some(spend(&token)),
                request_id: call.id.clone(),
            })
            .await?;
        tracing::info!(
            request_id = %call.id, actor = %call.actor, node_id = %node, serial = %svid.chain.leaf().serial(),
            authority_id = %svid.authority, "node enrolled"
        );
        Ok(self.answer(&svid, &id, &binding))
    }

    /// The key that the caller holds, has bound to this connection, and was challenged for.
    pub(super) fn proven(
        &self,
        call: &Call,
        exporter: Option<TlsExporter>,
        request: &FinishRequest,
    ) -> Result<Proven, Refusal> {
        let TlsExporter(exporter) = exporter.ok_or(Refusal::NoExporter)?;
        let tenant = Tenant::parse(&request.tenant).map_err(|_| Refusal::Tenant)?;
        let key = Csr::from_der(&request.csr_der)?.public_key().clone();
        let (method, spki) = (request.method.as_str(), key.hash());
        let nonce =
            self.door.cookies.open(&request.cookie, Subject { method, tenant: &tenant, spki }, call.now)?;
        let claim = Claim { nonce: &nonce, exporter: &exporter, spki, method, tenant: &tenant };
        claim.verify(&key, &request.proof)?;
        Ok(Proven { key, nonce, exporter, tenant })
    }

    /// Which node the token enrols, if it may be spent for this key. A wrong secret is counted; the fifth burns it.
    async fn spendable(&self, call: &Call, token: &JoinToken, spki: SpkiHash) -> Result<NodeId, Refusal> {
        let store = &self.door.inputs.store;
        let (key, stored) = (store.token_key().await?, store.token(token.id()).await?);
        let stored = stored.ok_or(TokenRefusal::Unknown)?;
        let judged = stored.judge(token, &key, spki, call.now);
        if judged == Err(TokenRefusal::WrongSecret) {
            let reason = format!("{MAX_WRONG_SECRETS} wrong secrets");
            let event = Event::done(call.now, call.actor.clone(), Action::TokenBurn, call.object.clone());
            let burned =
                Event { reason, ..event.for_tenant(call.tenant.clone()).in_request(call.id.clone()) };
            store.token_failure(token.id(), burned).await?;
        }
        judged?;
        Ok(stored.node)
    }

    pub(super) fn answer(&self, svid: &IssuedSvid, id: &SpiffeId, binding: &Binding) -> FinishResponse {
        let trust = self.door.trust();
        FinishResponse {
            chain_der: ders(svid.chain.certificates()),
            bundle_der: ders(trust.own().authorities()),
            spiffe_id: id.to_string(),
            node_id: binding.node.to_string(),
            namespace: binding.namespace.to_string(),
            trust_domain: id.trust_domain().to_string(),
            xds_server: self.door.settings.xds_server.clone(),
            not_after_unix_ms: svid.chain.leaf().not_after().unix_millis(),
            server_id: id.trust_domain().server_id().to_string(),
        }
    }
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        let call = self.call(request.extensions());
        let admitted = self.admit(&call, request.extensions(), &request.get_ref().method);
        match admitted.and_then(|_| self.challenge(&call, request.get_ref())) {
            Ok(answer) => Ok(Response::new(answer)),
            Err(refusal) => Err(self.door.refused(call, &refusal)),
        }
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        let mut call = self.call(request.extensions());
        let exporter = request.extensions().get::<TlsExporter>().copied();
        let result = match self.admit(&call, request.extensions(), &request.get_ref().method) {
            Ok(Method::JoinToken) => self.enrol(&mut call, exporter, request.get_ref()).await,
            Ok(Method::Expired) => self.recover(&mut call, exporter, request.get_ref()).await,
            Err(refusal) => Err(refusal),
        };
        result.map(Response::new).map_err(|refusal| self.door.refused(call, &refusal))
    }
}

/// An IPv6 host owns 64 bits of addresses: its whole prefix shares one bucket.
fn limited_as(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => IpAddr::V4(mapped),
            None => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        },
        IpAddr::V4(_) => remote,
    }
}
