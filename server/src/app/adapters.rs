//! Where ports meet what stands behind them, if that takes more than a line.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use api::{
    calls::{CallError, Caller, reason_text},
    expiry::{LeafFact, LeafFacts},
    node::{NodeSettings, RECOVERY_CALLS_AT_ONCE, RECOVERY_CALLS_PER_SECOND},
    sources::{MetricsText, NextRotation, Readiness as ReadinessPort, Renewals, Rotation},
    wire,
};
use async_trait::async_trait;
use axum::{Router, body::Body};
use ca::{
    ByHand, CaStatus, Install, Installed, RotateError, RotationStatus,
    clock::Reading,
    dependents::Laggard,
    ports::AuthorityRequest,
    rotation::{self, Refusal, Wish},
};
use certs::Clock;
use http::Request;
use hyper::body::Incoming;
use sds::SdsStatus;
use spiffe::AuthorityId;
use tokio::sync::watch;
use tower::ServiceExt;
use xds::{
    XdsServer,
    model::MtlsMode,
    translate::{Challenges, Defaults, Drains},
    validate::Context,
};

use crate::{
    config::{Config, DefaultMtls},
    door::Service,
    lifecycle::Readiness,
    metrics::Metrics,
    own_certificate::OwnStatus,
    readiness::{Facts, Reason, judge},
};

/// What documents are read against; connections are in the drain generation `drained`.
pub(super) fn context(config: &Config, drained: u64) -> Context {
    Context {
        defaults: Defaults {
            trust_domain: config.trust_domain.clone(),
            mtls: default_mtls(config),
            max_connection: config.max_connection,
            drains: Drains::new(drained, BTreeMap::new()),
            revocation_lists: config.revocation_lists.is_some(),
            challenges: Challenges::default(),
        },
        own_addresses: config.own_addresses(),
        local_nodes: BTreeSet::new(),
    }
}

/// What a listener is that says nothing of it.
pub(super) fn default_mtls(config: &Config) -> MtlsMode {
    match config.default_mtls {
        DefaultMtls::Strict => MtlsMode::Strict,
        DefaultMtls::Permissive => MtlsMode::Permissive,
        DefaultMtls::Off => MtlsMode::Off,
    }
}

/// What enrolment and renewal are bounded by.
pub(super) fn node_settings() -> NodeSettings {
    NodeSettings {
        lifetime: Duration::ZERO,
        xds_server: String::new(),
        calls_per_second: 1,
        calls_at_once: 10,
        recovery_calls_per_second: RECOVERY_CALLS_PER_SECOND,
        recovery_calls_at_once: RECOVERY_CALLS_AT_ONCE,
        authority_spread: Duration::ZERO,
        cookie_key: rand::random(),
    }
}

/// A router as a door's service.
pub(super) fn service(router: Router) -> Service {
    Service::new(tower::service_fn(move |request: Request<Incoming>| router.clone().oneshot(request)))
}

/// Discovery by its own paths, and what else comes in on the same port.
pub(super) fn xds_service(xds: XdsServer, others: Router) -> Service {
    Service::new(tower::service_fn(move |request: Request<Incoming>| {
        let (xds, others) = (xds.clone(), others.clone());
        async move {
            if request.uri().path().starts_with("/envoy.") {
                Ok::<_, Infallible>(xds.call(request).map(Body::new))
            } else {
                others.oneshot(request).await
            }
        }
    }))
}

/// Steers the authority for operators.
pub(super) struct CaRotation(pub(super) ca::Handle);

#[async_trait]
impl Rotation for CaRotation {
    fn next(&self) -> Option<NextRotation> {
        let status = self.0.status().borrow().clone();
        Some(NextRotation { active: status.active?, at: status.next_rotation? })
    }

    async fn rotate_issuing(&self, caller: &Caller, reason: &str) -> Result<AuthorityId, CallError> {
        self.0.rotate_issuing(caller.actor.clone(), reason).await.map_err(refused)
    }

    fn laggards(&self) -> Vec<Laggard> {
        self.0.status().borrow().laggards.clone()
    }

    fn root_status(&self) -> Option<RotationStatus> {
        self.0.status().borrow().rotation.clone()
    }

    async fn rotate_root(
        &self,
        caller: &Caller,
        wish: Wish,
        reason: &str,
    ) -> Result<RotationStatus, CallError> {
        self.0.rotate_root(wish, asked(caller, reason)).await.map_err(refused)
    }

    async fn simulate_root(&self, wish: Wish) -> Result<(RotationStatus, rotation::Action), CallError> {
        self.0.simulate_root(wish).await.map_err(refused)
    }

    async fn emergency(
        &self,
        caller: &Caller,
        authority: AuthorityId,
        reason: &str,
        dry_run: bool,
    ) -> Result<RotationStatus, CallError> {
        let answer = if dry_run {
            self.0.simulate_emergency(authority).await
        } else {
            self.0.emergency(authority, asked(caller, reason)).await
        };
        answer.map_err(refused)
    }

    fn by_hand(&self) -> Option<ByHand> {
        self.0.status().borrow().by_hand
    }

    async fn request(
        &self,
        caller: &Caller,
        renew: bool,
        reason: &str,
    ) -> Result<AuthorityRequest, CallError> {
        self.0.request(renew, asked(caller, reason)).await.map_err(refused)
    }

    async fn drop_request(&self, caller: &Caller, reason: &str) -> Result<AuthorityId, CallError> {
        self.0.drop_request(asked(caller, reason)).await.map_err(refused)
    }

    async fn install(&self, caller: &Caller, wanted: Install, reason: &str) -> Result<Installed, CallError> {
        self.0.install(wanted, asked(caller, reason)).await.map_err(refused)
    }
}

fn asked(caller: &Caller, reason: &str) -> ca::Asked {
    ca::Asked { actor: caller.actor.clone(), reason: reason.to_owned() }
}

/// The most laggards that an error names; the status lists them all.
const MAX_NAMED: usize = 5;

/// The first of `laggards`, with their reasons.
fn named(laggards: &[Laggard]) -> String {
    let first = laggards.iter().take(MAX_NAMED);
    let names: Vec<String> = first.map(|one| format!("{} {}", one.name, reason_text(&one.reason))).collect();
    let more = match laggards.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    names.join("; ") + &more
}

pub(super) fn refused(error: RotateError) -> CallError {
    let (what, name) = ("rotation of", "the root".to_owned());
    match error {
        RotateError::Refused(Refusal::Laggards { step, laggards, needless }) => {
            let stray = match needless.as_slice() {
                [] => String::new(),
                names => format!(" ({} is not among them)", names.join(", ")),
            };
            CallError::Policy(format!(
                "{} would break: {}{stray}; it goes on when these are up to date, or without them by --leave-behind NAME",
                step.word(),
                named(&laggards)
            ))
        }
        RotateError::Refused(
            refusal @ (Refusal::Settling { .. }
            | Refusal::NoRootKey
            | Refusal::NoSuccessor
            | Refusal::TooOld
            | Refusal::Emergency),
        ) => CallError::Policy(refusal.to_string()),
        RotateError::Refused(refusal @ (Refusal::OutOfOrder { .. } | Refusal::Drained | Refusal::Busy)) => {
            CallError::Conflict { what, name, why: format!("is not at that step: {refusal}") }
        }
        RotateError::NoRequest => {
            CallError::NotFound { what: "request for", name: "an authority".to_owned() }
        }
        RotateError::Chain(ladder) => CallError::Chain(ladder),
        RotateError::NotFound(id) => CallError::NotFound { what: "authority", name: id.to_string() },
        RotateError::Behind { ref laggards, .. } => {
            let waits = match laggards.is_empty() {
                true => String::new(),
                false => format!("; it waits for {}", named(laggards)),
            };
            let why = format!("is under way: {error}{waits}");
            CallError::Conflict { what: "replacement of", name: "the issuing authority".to_owned(), why }
        }
        RotateError::Kept { authority, why } => CallError::Conflict {
            what: "authority",
            name: authority.to_string(),
            why: format!("is installed and kept; it is tried again by itself to have it sign: {why}"),
        },
        RotateError::Failed(why) => CallError::Unavailable { part: "authority", why },
        RotateError::Unavailable => CallError::stopped("authority"),
    }
}

/// What renewals fail, workloads' and ours.
pub(super) struct FailingRenewals {
    pub(super) sds: watch::Receiver<Arc<SdsStatus>>,
    pub(super) own: watch::Receiver<OwnStatus>,
}

impl Renewals for FailingRenewals {
    fn failing(&self) -> Vec<wire::FailedRenewal> {
        let sds = self.sds.borrow().clone();
        let leaves = sds.leaves().filter(|leaf| leaf.failures > 0).map(|leaf| wire::FailedRenewal {
            class: "workload".to_owned(),
            name: leaf.identity.to_string(),
            node: Some(leaf.node.to_string()),
            at: String::new(),
            failures: leaf.failures,
            message: leaf.last_error.clone().unwrap_or_default(),
            expires: leaf.not_after.map(|at| at.to_string()),
        });
        let own = self.own.borrow().clone();
        let own = own.last_error.map(|message| wire::FailedRenewal {
            class: "server".to_owned(),
            name: "server".to_owned(),
            node: None,
            at: String::new(),
            failures: u32::try_from(own.failures).unwrap_or(u32::MAX),
            message,
            expires: own.not_after.map(|at| at.to_string()),
        });
        leaves.chain(own).collect()
    }
}

/// Ready when every part has served its first truth, the store can write and is what it was, the clock can be believed
/// and our own trust lasts.
pub(super) struct Ready {
    pub(super) readiness: Readiness,
    pub(super) broken: watch::Receiver<Option<String>>,
    pub(super) full: watch::Receiver<bool>,
    pub(super) findings: watch::Receiver<Arc<Vec<store::Finding>>>,
    pub(super) own: watch::Receiver<OwnStatus>,
    pub(super) ca: watch::Receiver<Arc<CaStatus>>,
    pub(super) least_remaining: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) time: watch::Receiver<Reading>,
}

impl Ready {
    /// Every reason why not.
    pub(super) fn reasons(&self) -> Vec<Reason> {
        let missing = self.readiness.missing().into_iter();
        let mut reasons: Vec<Reason> = missing
            .map(|part| Reason { part, why: format!("{part} has not served its first truth") })
            .collect();
        reasons.extend(
            self.broken.borrow().as_ref().map(|why| Reason { part: "store", why: format!("store: {why}") }),
        );
        reasons.extend(self.full.borrow().then(|| Reason {
            part: "store",
            why: "store: the disk is full; it goes on by itself once there is room".to_owned(),
        }));
        let findings = self.findings.borrow().clone();
        reasons.extend(findings.first().map(|finding| Reason {
            part: "store",
            why: format!("STORE_ROLLBACK, nothing is signed: {finding}"),
        }));
        let now = self.clock.now();
        reasons.extend(self.time.borrow().stopped().map(|why| Reason { part: "clock", why }));
        reasons.extend(judge(&self.facts(), now));
        reasons
    }

    fn facts(&self) -> Facts {
        let (own, ca) = (self.own.borrow().clone(), self.ca.borrow().clone());
        let active = ca.authorities.iter().find(|authority| Some(authority.id) == ca.active);
        Facts {
            own: own.life(),
            own_failure: own.last_error,
            issuing: active.map(|authority| (authority.id, authority.not_after)),
            least_remaining: self.least_remaining,
        }
    }
}

impl ReadinessPort for Ready {
    fn not_ready(&self) -> Vec<String> {
        self.reasons().into_iter().map(|reason| reason.why).collect()
    }
}

/// What nodes make of their leaves, as `sds` sees it.
pub(super) struct SdsLeaves(pub(super) watch::Receiver<Arc<SdsStatus>>);

impl LeafFacts for SdsLeaves {
    fn facts(&self) -> Vec<LeafFact> {
        let status = self.0.borrow().clone();
        let facts = status.leaves().map(|leaf| LeafFact {
            node: leaf.node.clone(),
            identity: leaf.identity.clone(),
            is_wanted: leaf.wanted,
            acknowledged: leaf.acknowledged.clone(),
        });
        facts.collect()
    }
}

/// The metrics as text.
pub(super) struct MetricsPage(pub(super) Arc<Metrics>);

impl MetricsText for MetricsPage {
    fn render(&self) -> String {
        self.0.to_text()
    }
}
