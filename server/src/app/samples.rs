//! The numbers that are read from the parts' read models when somebody scrapes.

use std::sync::Arc;

use ca::{CaStatus, ports::AuthorityState};
use certs::{Clock, Timestamp};
use sds::SdsStatus;
use tokio::sync::watch;
use xds::{Board, Counters, Traffic};

use super::{board::Summary, sealing::SealerStatus, secrets::SecretExpiries};
use crate::{
    metrics::{Sample, SampleValue},
    own_certificate::OwnStatus,
};

const EXPIRY: &str = "Seconds until it expires; negative when it has";

/// Where the numbers come from.
pub(super) struct Sources {
    pub(super) ca: watch::Receiver<Arc<CaStatus>>,
    pub(super) sds: watch::Receiver<Arc<SdsStatus>>,
    pub(super) own: watch::Receiver<OwnStatus>,
    pub(super) operator: Option<(String, Timestamp)>,
    pub(super) counters: Arc<Counters>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) delivery: Arc<Board>,
    pub(super) sealed: watch::Receiver<SealerStatus>,
    pub(super) secrets: watch::Receiver<SecretExpiries>,
    pub(super) findings: watch::Receiver<Arc<Vec<store::Finding>>>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Sources {
    /// All of them, now.
    pub(super) fn sample(&self) -> Vec<Sample> {
        let mut samples = self.expiries();
        samples.extend(self.renewals());
        samples.extend(self.delivery());
        samples.extend(self.sealing());
        samples
    }

    fn expiries(&self) -> Vec<Sample> {
        let now = self.clock.now();
        let expiry = |kind: &str, name: String, at: Timestamp| {
            #[expect(clippy::cast_precision_loss, reason = "a metric in seconds")]
            let seconds = at.millis_since(now) as f64 / 1000.0;
            gauge("expiry_seconds", EXPIRY, vec![("kind", kind.to_owned()), ("name", name)], seconds)
        };
        let ca = self.ca.borrow().clone();
        let mut samples: Vec<Sample> = ca
            .authorities
            .iter()
            .filter(|authority| authority.state != AuthorityState::Removed)
            .map(|authority| expiry("authority", authority.id.to_string(), authority.not_after))
            .collect();
        if let Some(at) = self.own.borrow().not_after {
            samples.push(expiry("server", "server".to_owned(), at));
        }
        if let Some((name, at)) = &self.operator {
            samples.push(expiry("operator", name.clone(), *at));
        }
        // The next one only: a label per secret would have no bound.
        if let Some((name, at)) = self.secrets.borrow().0.iter().min_by_key(|(_, at)| *at) {
            samples.push(expiry("secret", name.clone(), *at));
        }
        // One number for all leaves, and one for all nodes: a label per node would have no bound.
        if let Some(at) = self.sds.borrow().next_expiry() {
            samples.push(expiry("workload", "next".to_owned(), at));
        }
        if let Some(at) = Summary::of(&self.delivery).next_expiry {
            samples.push(expiry("node", "next".to_owned(), at));
        }
        samples
    }

    fn renewals(&self) -> Vec<Sample> {
        let sds = self.sds.borrow().clone();
        let counters = sds.counters();
        let rotations = |kind: &str, value| {
            counter(
                "leaf_rotations",
                "Leaves replaced by newer ones",
                vec![("cause", kind.to_owned())],
                value,
            )
        };
        let failed = |class: &str, value| {
            counter("renewals_failed", "Renewals that failed", vec![("class", class.to_owned())], value)
        };
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let at_risk = sds.leaves().filter(|leaf| leaf.at_risk).count() as f64;
        vec![
            rotations("deadline", counters.rotations),
            rotations("forced", counters.rotations_forced),
            failed("workload", counters.failures),
            failed("server", self.own.borrow().failures),
            counter("leaves_expired", "Leaves that ended without a successor", vec![], counters.expired),
            gauge("leaves_at_risk", "Leaves past 70 % of their life without a successor", vec![], at_risk),
            counter(
                "secrets_refused",
                "Secret names asked for and not granted",
                vec![],
                counters.refused_names,
            ),
        ]
    }

    fn sealing(&self) -> Vec<Sample> {
        let sealed = self.sealed.borrow().clone();
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let of = |name, help, count: usize| gauge(name, help, vec![], count as f64);
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let rows = sealed.rows_on_old_key as f64;
        let help = "Sealed records whose data key is no longer the active one";
        vec![
            gauge("rows_on_old_key", help, vec![], rows),
            of(
                "key_slots",
                "Key slots of the store; one alone is one lost key from the loss of the store",
                sealed.slots,
            ),
            of("key_slots_failing", "Key slots that their source does not open", sealed.failing),
            of(
                "store_rollback",
                "Ways in which the store is not what it was; signing stops",
                self.findings.borrow().len(),
            ),
        ]
    }

    fn delivery(&self) -> Vec<Sample> {
        let tally = self.traffic.read();
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let streams = tally.streams_open as f64;
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let of_nodes = |state: &str, value: usize| {
            gauge("proxies", "Proxies by state", vec![("state", state.to_owned())], value as f64)
        };
        let summary = Summary::of(&self.delivery);
        vec![
            of_nodes("connected", summary.connected),
            of_nodes("synced", summary.synced),
            of_nodes("refusing", summary.refusing),
            counter("xds_resources_encoded", "Resources encoded", vec![], self.counters.encoded()),
            counter("xds_resources_hashed", "Resources hashed", vec![], self.counters.hashed()),
            counter("xds_responses_sent", "Discovery responses sent", vec![], tally.responses),
            counter("xds_resources_sent", "Resources in discovery responses", vec![], tally.resources_sent),
            gauge("xds_streams_open", "Open discovery streams", vec![], streams),
            counter("xds_acks", "Responses that proxies applied", vec![], tally.acks),
            counter("xds_nacks", "Responses that proxies refused", vec![], tally.nacks),
        ]
    }
}

fn gauge(name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample { name, help, labels, value: SampleValue::Gauge(value) }
}

fn counter(
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    value: u64,
) -> Sample {
    Sample { name, help, labels, value: SampleValue::Counter(value) }
}
