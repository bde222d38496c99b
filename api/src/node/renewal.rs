//! A node's next certificate: over mTLS by the one it replaces, and with a new key.

use std::sync::Arc;

use audit::{Action, Actor};
use certs::{Csr, Profile};
use proto::credence::v1::{
    RenewRequest, RenewResponse, SyncRequest, SyncResponse, renewal_service_server::RenewalService,
};
use spiffe::{IssuedSvid, NodeId, Peer, Purpose, RequestId, SvidRequest, Tenant};
use tonic::{Request, Response, Status};

use super::{Call, Limiter, NodeDoor, Refusal, ders};

/// The renewal service.
pub struct Renewal {
    pub(super) door: Arc<NodeDoor>,
    callers: Limiter<NodeId>,
    /// Apart: waiting for news never keeps a node from renewing.
    pub(super) syncing: Limiter<NodeId>,
}

impl Renewal {
    pub(super) fn new(door: Arc<NodeDoor>) -> Self {
        Self { callers: Limiter::new(&door.settings), syncing: Limiter::new(&door.settings), door }
    }

    fn call(&self, peer: Option<&Peer>) -> Call {
        let actor = match peer {
            Some(peer) => Actor::Identity { id: peer.id().clone() },
            None => Actor::Stranger { address: "unknown".to_owned() },
        };
        Call {
            id: RequestId::random(),
            action: Action::RenewalRefuse,
            object: peer.map_or_else(|| "renewal".to_owned(), |peer| peer.id().to_string()),
            actor,
            now: self.door.inputs.clock.now(),
            tenant: Tenant::default(),
        }
    }

    async fn renew_for(
        &self,
        call: &mut Call,
        peer: Option<&Peer>,
        request: &RenewRequest,
    ) -> Result<RenewResponse, Refusal> {
        let peer = peer.ok_or(Refusal::NoPeer)?;
        let node = peer.node().ok_or(Refusal::NoPeer)?;
        self.callers.take(node, call.now)?;
        // A connection is cut at the end of its certificate; there is no grace for a call that outran it.
        if call.now >= peer.svid().not_after() {
            return Err(Refusal::Expired);
        }
        let (binding, id) = self.door.entitled(node)?;
        if !binding.admits(peer.svid()) {
            return Err(Refusal::Outlived(node.clone()));
        }
        call.tenant = binding.tenant.clone();
        let key = Csr::from_der(&request.csr_der)?.public_key().clone();
        if key.hash() == peer.svid().spki() {
            return Err(Refusal::SameKey);
        }
        let svid = self
            .door
            .issue(SvidRequest {
                id,
                profile: Profile::Node,
                public_key: key,
                lifetime: self.door.settings.lifetime,
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
                tenant: binding.tenant,
                node: Some(node.clone()),
                issuer: None,
                purpose: Purpose::NodeRenewal,
                deadline: Some(peer.svid().not_after()),
                spend: None,
                request_id: call.id.clone(),
            })
            .await?;
        tracing::info!(
            request_id = %call.id, node_id = %node, serial = %svid.chain.leaf().serial(),
            authority_id = %svid.authority, "node certificate renewed"
        );
        Ok(self.answer(&svid, &request.bundle_sha256))
    }

    fn answer(&self, svid: &IssuedSvid, held_bundle: &[u8]) -> RenewResponse {
        let trust = self.door.trust();
        let is_held = held_bundle == trust.own().content_hash();
        RenewResponse {
            chain_der: ders(svid.chain.certificates()),
            bundle_der: if is_held { Vec::new() } else { ders(trust.own().authorities()) },
            not_after_unix_ms: svid.chain.leaf().not_after().unix_millis(),
        }
    }
}

#[tonic::async_trait]
impl RenewalService for Renewal {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let mut call = self.call(peer.as_deref());
        let result = self.renew_for(&mut call, peer.as_deref(), request.get_ref()).await;
        result.map(Response::new).map_err(|refusal| self.door.refused(call, &refusal))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let extensions = request.extensions();
        let peer = extensions.get::<Arc<Peer>>().cloned();
        // Without a connection that says when it ends, the call ends by itself.
        let ending = extensions.get::<xds::ConnectionDrain>().map(|drain| drain.going_away().clone());
        let mut call = self.call(peer.as_deref());
        let ending = ending.unwrap_or_default();
        let result = self.sync_for(&mut call, peer.as_deref(), request.get_ref(), ending).await;
        result.map(Response::new).map_err(|refusal| match refusal {
            // A matter between two calls of one node; nothing for the audit.
            Refusal::Superseded(_) => refusal.to_status(&call.id),
            refusal => self.door.refused(call, &refusal),
        })
    }
}
