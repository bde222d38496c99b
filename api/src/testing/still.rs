//! Sources that answer what they are told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use audit::Event;
use certs::{SpkiHash, Timestamp};
use spiffe::{AuthorityId, NodeId};

use crate::{
    calls::{CallError, Caller},
    expiry::{LeafFact, LeafFacts},
    sources::{
        Delivery, Hooks, ListUptake, MetricsText, NextRotation, Readiness, Renewals, Revoking, Rotation,
    },
    wire,
};

/// Nodes as a test wants them to stand, and everything else at rest.
#[derive(Clone, Default)]
pub struct Still {
    /// How nodes stand; a node that is not in it is offline.
    pub nodes: Arc<Mutex<BTreeMap<NodeId, wire::ProxyStatus>>>,
    /// What nodes make of their leaves.
    pub leaves: Arc<Mutex<Vec<LeafFact>>>,
    /// The parts that are not ready.
    pub not_ready: Arc<Mutex<Vec<String>>>,
}

impl Delivery for Still {
    fn status(&self, node: &NodeId) -> wire::ProxyStatus {
        let offline = || wire::ProxyStatus { sync: "OFFLINE".into(), ..wire::ProxyStatus::default() };
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned().unwrap_or_else(offline)
    }

    fn resync(&self, node: &NodeId) -> usize {
        self.status(node).streams
    }

    fn uptake(&self, node: &NodeId, _: &xds::Snapshot, _: &[xds::TypeUrl]) -> xds::Uptake {
        if self.status(node).connected { xds::Uptake::Acknowledged } else { xds::Uptake::Offline }
    }

    fn drain_time(&self, node: &NodeId) -> Option<Duration> {
        self.status(node).connected.then_some(Duration::from_secs(5))
    }

    fn shown_authorities(&self, _: &NodeId) -> Vec<AuthorityId> {
        Vec::new()
    }
}

impl LeafFacts for Still {
    fn facts(&self) -> Vec<LeafFact> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Renewals for Still {
    fn failing(&self) -> Vec<wire::FailedRenewal> {
        Vec::new()
    }
}

impl Readiness for Still {
    fn not_ready(&self) -> Vec<String> {
        self.not_ready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Hooks for Still {
    /// One that takes everything, one that takes nothing, and one that is always being told something.
    fn hooks(&self) -> Vec<wire::Hook> {
        let hook = |name: &str| wire::Hook {
            name: name.into(),
            on: vec!["expiry".into()],
            way: "command".into(),
            waiting: 0,
            told: 0,
            failed: 0,
            last: None,
            last_error: None,
        };
        ["page", "broken", "busy"].map(hook).to_vec()
    }

    async fn test(&self, name: &str) -> Result<wire::HookTested, CallError> {
        let tested = |taken, reason: &str| wire::HookTested {
            name: name.to_owned(),
            taken,
            took_ms: 1,
            reason: reason.to_owned(),
        };
        match name {
            "page" => Ok(tested(true, "")),
            "broken" => Ok(tested(false, "answered 500")),
            "busy" => {
                let why = "is being told something, ask again".to_owned();
                Err(CallError::Conflict { what: "hook", name: name.to_owned(), why })
            }
            _ => Err(CallError::NotFound { what: "hook", name: name.to_owned() }),
        }
    }
}

impl MetricsText for Still {
    fn render(&self) -> String {
        "# EOF\n".into()
    }
}

/// An issuing authority that is replaced without a trace.
#[derive(Default)]
pub struct StillRotation {
    /// How the rotation of the root stands; nothing until it was looked at.
    pub root: Mutex<Option<ca::RotationStatus>>,
    /// What is not replaced here.
    pub by_hand: Mutex<Option<ca::ByHand>>,
}

#[async_trait]
impl Rotation for StillRotation {
    fn next(&self) -> Option<NextRotation> {
        let is_ours = self.by_hand().is_none();
        is_ours.then(|| NextRotation { active: AuthorityId::of(SpkiHash([1; 32])), at: Timestamp::EPOCH })
    }

    async fn rotate_issuing(&self, _: &Caller, _: &str) -> Result<AuthorityId, CallError> {
        Ok(AuthorityId::of(SpkiHash([2; 32])))
    }

    fn laggards(&self) -> Vec<ca::dependents::Laggard> {
        Vec::new()
    }

    fn root_status(&self) -> Option<ca::RotationStatus> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn rotate_root(
        &self,
        _: &Caller,
        _: ca::rotation::Wish,
        _: &str,
    ) -> Result<ca::RotationStatus, CallError> {
        self.root_status().ok_or_else(|| CallError::stopped("authority"))
    }

    async fn simulate_root(
        &self,
        _: ca::rotation::Wish,
    ) -> Result<(ca::RotationStatus, ca::rotation::Action), CallError> {
        Err(CallError::stopped("authority"))
    }

    async fn emergency(
        &self,
        _: &Caller,
        _: AuthorityId,
        _: &str,
        _: bool,
    ) -> Result<ca::RotationStatus, CallError> {
        Err(CallError::stopped("authority"))
    }

    fn by_hand(&self) -> Option<ca::ByHand> {
        *self.by_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn request(
        &self,
        caller: &Caller,
        _: bool,
        _: &str,
    ) -> Result<ca::ports::AuthorityRequest, CallError> {
        let id = AuthorityId::of(SpkiHash([3; 32]));
        let by = caller.actor.to_string();
        Ok(ca::ports::AuthorityRequest { id, csr: vec![0x30, 0], created: Timestamp::EPOCH, by })
    }

    async fn drop_request(&self, _: &Caller, _: &str) -> Result<AuthorityId, CallError> {
        Ok(AuthorityId::of(SpkiHash([3; 32])))
    }

    async fn install(&self, _: &Caller, wanted: ca::Install, _: &str) -> Result<ca::Installed, CallError> {
        let ders: Vec<&[u8]> = wanted.ders.iter().map(Vec::as_slice).collect();
        let wanted = certs::Wanted {
            now: Timestamp::EPOCH,
            key: SpkiHash([3; 32]),
            leaf_life: Duration::ZERO,
            domain: "spiffe://td.example",
            root: None,
            taken: &[],
            tainted: &[],
        };
        Err(CallError::Chain(Box::new(certs::explain_brought(&ders, &wanted).0)))
    }
}

/// Revokes what a test asks for, with lists as the test says.
pub struct StillRevoking {
    /// Where revocations go.
    pub revocations: Arc<dyn ca::ports::Revocations>,
    /// How lists stand.
    pub lists: Arc<Mutex<Option<ca::ListsStatus>>>,
    /// How far proxies are.
    pub uptake: Arc<Mutex<ListUptake>>,
}

#[async_trait]
impl Revoking for StillRevoking {
    fn lists(&self) -> Option<ca::ListsStatus> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn revoke(&self, wanted: ca::Revoke, event: Event) -> Result<(), ca::RevokeRefusal> {
        let ca::Revoke { authority, serial, reason } = wanted;
        let (at, not_after) = (event.at, Timestamp::MAX);
        let revoked = ca::ports::Revoked { authority, serial, at, reason, not_after };
        Ok(self.revocations.revoke(revoked, Timestamp::EPOCH, event).await?)
    }

    async fn uptake(&self) -> Result<ListUptake, CallError> {
        Ok(self.uptake.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
