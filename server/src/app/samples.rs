//! The numbers that are read from the parts' read models when somebody scrapes.

use std::{collections::BTreeSet, sync::Arc};

use api::{
    calls::{Pauses, Recoveries},
    expiry::{Ending, first_of_each_kind},
};
use ca::CaStatus;
use ca::clock::Reading;
use certs::{Clock, Timestamp};
use sds::SdsStatus;
use spiffe::IssuerName;
use tokio::sync::watch;
use xds::{Board, Counters, Traffic};

use super::{
    accounts::Accounts, adapters::Ready, board::Summary, sealing::SealerStatus, upstreams::UpstreamDesk,
};
use crate::{
    hooks::{HookStatus, Teller},
    lookout::Seen,
    metrics::{Sample, SampleValue},
    own_certificate::OwnStatus,
};

/// How many of a kind get a series of their own: those that end first.
const MAX_NAMED: usize = 20;
const SURVIVES: &str =
    "Seconds until the first node of an identity has no valid leaf if its issuer stays down";
const EXPIRY: &str = "Seconds until it expires; negative when it has";

/// Where the numbers come from.
pub(super) struct Sources {
    pub(super) seen: watch::Receiver<Arc<Seen>>,
    pub(super) ready: Arc<Ready>,
    pub(super) hooks: (Arc<[Arc<Teller>]>, watch::Receiver<Vec<HookStatus>>),
    pub(super) recoveries: Recoveries,
    pub(super) pauses: Pauses,
    pub(super) ca: watch::Receiver<Arc<CaStatus>>,
    pub(super) sds: watch::Receiver<Arc<SdsStatus>>,
    pub(super) own: watch::Receiver<OwnStatus>,
    pub(super) counters: Arc<Counters>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) delivery: Arc<Board>,
    pub(super) sealed: watch::Receiver<SealerStatus>,
    pub(super) findings: watch::Receiver<Arc<Vec<store::Finding>>>,
    pub(super) store: store::Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) time: watch::Receiver<Reading>,
    pub(super) issuers: Arc<UpstreamDesk>,
    pub(super) accounts: Accounts,
}

impl Sources {
    /// All of them, now.
    pub(super) fn sample(&self) -> Vec<Sample> {
        let mut samples = self.expiries();
        samples.extend(self.readiness());
        samples.extend(barrier(&self.ca.borrow(), self.clock.now()));
        samples.extend(self.renewals());
        samples.extend(self.delivery());
        samples.extend(self.sealing());
        samples.extend(self.writes());
        samples.extend(self.revocation());
        samples.extend(self.time());
        samples.extend(self.hooks());
        samples.extend(self.issuers());
        samples
    }

    /// Issuers beside the built-in one.
    fn issuers(&self) -> Vec<Sample> {
        let flag = |is: bool| if is { 1.0 } else { 0.0 };
        let mut samples = Vec::new();
        for (name, standing) in self.issuers.all() {
            let of = || vec![("issuer", name.to_string())];
            samples.extend([
                gauge("issuer_failures", "Failures of an issuer in a row", of(), f64::from(standing.failures)),
                gauge("issuer_down", "1 while an issuer cannot be asked", of(), flag(standing.problem.is_some())),
                gauge(
                    "issuer_at_risk",
                    "1 while the authority that signs has passed 70 % of its life, and its issuer signed no successor",
                    of(),
                    flag(standing.is_at_risk),
                ),
                gauge(
                    "issuer_warned",
                    "1 while somebody should look at an issuer before it becomes a problem: credence issuer list",
                    of(),
                    flag(!standing.warnings.is_empty()),
                ),
            ]);
        }
        samples.extend(self.leaves());
        for (name, standing) in self.accounts.standings().iter() {
            let failures = f64::from(standing.failures);
            let of = vec![("issuer", name.to_string())];
            samples.push(gauge("issuer_failures", "Failures of an issuer in a row", of, failures));
        }
        samples
    }

    /// Who signs leaves of workloads by default, and where they move; nothing while the built-in issuer signs them all.
    fn leaves(&self) -> Vec<Sample> {
        let leaves = api::sources::Upstreams::leaves(self.issuers.as_ref());
        let mut samples = Vec::new();
        for (name, health) in &leaves.health {
            let stands_in = if health.stands_in.is_some() { 1.0 } else { 0.0 };
            let of = vec![("issuer", name.to_string())];
            samples.push(gauge(
                "issuer_replaced",
                "1 while another issuer signs leaves in the place of one that rests after failures",
                of,
                stands_in,
            ));
        }
        let of = |name: &IssuerName| vec![("issuer", name.to_string())];
        let percent = |name: &IssuerName, percent: u8| {
            gauge(
                "issuer_leaves_percent",
                "How many of a hundred leaves whose bindings name no issuer are of this one",
                of(name),
                f64::from(percent),
            )
        };
        if leaves.default.current.is_builtin() && leaves.default.migration.is_none() {
            return samples;
        }
        samples.push(percent(&leaves.default.current, 100 - leaves.moved));
        if let Some(migration) = &leaves.default.migration {
            samples.push(percent(&migration.to, leaves.moved));
            samples.push(gauge(
                "issuer_migration_stopped",
                "1 while trouble has stopped the way of leaves to an issuer: credence issuer list",
                of(&migration.to),
                if migration.stopped.is_some() { 1.0 } else { 0.0 },
            ));
        }
        samples
    }

    /// Only where revocation lists are wanted.
    fn revocation(&self) -> Vec<Sample> {
        let Some(lists) = self.ca.borrow().lists.clone() else { return Vec::new() };
        let revoked: usize = lists.lists.iter().map(|list| list.revoked).sum();
        let withdrawn = if lists.is_shown { 0.0 } else { 1.0 };
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let revoked = revoked as f64;
        vec![
            gauge(
                "revocation_lists_withdrawn",
                "1 while proxies are shown no revocation list although lists are on",
                vec![],
                withdrawn,
            ),
            gauge("revoked_certificates", "Certificates on the newest revocation lists", vec![], revoked),
        ]
    }

    /// The soonest of each kind by name, and how many of each kind there are: no fleet makes more series than that.
    fn expiries(&self) -> Vec<Sample> {
        let (now, seen) = (self.clock.now(), self.seen.borrow().clone());
        let labels =
            |ending: &Ending| vec![("kind", ending.kind.word().to_owned()), ("name", ending.label())];
        let (soonest, counts) = first_of_each_kind(&seen.endings, MAX_NAMED);
        let left = |at: Timestamp| seconds(at.millis_since(now));
        let mut samples: Vec<Sample> = soonest
            .into_iter()
            .map(|ending| gauge("expiry_seconds", EXPIRY, labels(ending), left(ending.ends)))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        samples.extend(counts.into_iter().map(|(kind, count)| {
            let labels = vec![("kind", kind.word().to_owned())];
            gauge("expiries", "How many things of a kind expire", labels, count as f64)
        }));
        let mut most_used: Vec<Ending> =
            seen.endings.iter().filter(|ending| ending.kind.is_missed()).cloned().collect();
        most_used.sort_by(|a, b| b.used(now).total_cmp(&a.used(now)));
        samples.extend(first_of_each_kind(&most_used, MAX_NAMED).0.into_iter().map(|ending| {
            let help = "How much of its life is used, from 0 to 1; more when it has expired";
            gauge("life_used_ratio", help, labels(ending), ending.used(now))
        }));
        let by_hand = seen.endings.iter().filter(|ending| ending.waits_for_operator(now)).take(MAX_NAMED);
        samples.extend(by_hand.map(|ending| {
            let help = "1 for what nothing replaces by itself and has used half of its life";
            gauge("waits_for_operator", help, labels(ending), 1.0)
        }));
        samples.extend(seen.survivals.iter().take(MAX_NAMED).map(|one| {
            let labels = vec![("id", one.identity.to_string())];
            gauge("identity_survives_seconds", SURVIVES, labels, left(one.until))
        }));
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let identities = seen.survivals.len() as f64;
        samples.push(gauge("identities", "Identities with an unexpired leaf", vec![], identities));
        if let Some(at) = seen.at {
            let help = "Seconds since everything that expires was read; grows while a store cannot be read";
            samples.push(gauge("expiries_age_seconds", help, vec![], seconds(now.millis_since(at))));
        }
        samples
    }

    fn readiness(&self) -> Vec<Sample> {
        let reasons = self.ready.reasons();
        let ready = if reasons.is_empty() { 1.0 } else { 0.0 };
        let paused = if self.pauses.current(self.clock.now()).is_some() { 1.0 } else { 0.0 };
        let recovery = if self.recoveries.open(self.clock.now()).is_some() { 1.0 } else { 0.0 };
        let mut samples = vec![
            gauge("ready", "Whether the process is ready", vec![], ready),
            gauge("rollouts_paused", "Whether operators paused automatic rotation", vec![], paused),
            gauge("recovery_open", "Whether nodes may come back with expired certificates", vec![], recovery),
        ];
        let parts: BTreeSet<&str> = reasons.iter().map(|reason| reason.part).collect();
        samples.extend(parts.into_iter().map(|part| {
            gauge("not_ready", "Parts that are not ready", vec![("part", part.to_owned())], 1.0)
        }));
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
            counter(
                "leaves_expired",
                "Leaves in use that ended without a successor",
                vec![],
                counters.expired,
            ),
            gauge(
                "leaves_at_risk",
                "Leaves in use past 70 % of their life without a successor",
                vec![],
                at_risk,
            ),
            counter(
                "secrets_refused",
                "Secret names asked for and not granted",
                vec![],
                counters.refused_names,
            ),
        ]
    }

    fn writes(&self) -> Vec<Sample> {
        let written = self.store.written();
        let help = "Commits of the store, each of which synchronised the disk";
        vec![
            counter("store_commits", help, vec![], written.commits),
            counter("store_changes", "Changes that those commits made durable", vec![], written.changes),
        ]
    }

    fn hooks(&self) -> Vec<Sample> {
        let (tellers, status) = &self.hooks;
        let status = status.borrow();
        let of = |(teller, status): (&Arc<Teller>, &HookStatus)| {
            let name = || vec![("hook", teller.config.name.clone())];
            let told = |outcome: &str, value| {
                let labels = [name(), vec![("outcome", outcome.to_owned())]].concat();
                counter(
                    "hook_notices",
                    "Notices that hooks were told, by whether they took them",
                    labels,
                    value,
                )
            };
            #[expect(clippy::cast_precision_loss, reason = "a count")]
            let waiting = status.waiting as f64;
            [
                told("taken", status.told),
                told("failed", status.failed),
                gauge("hook_waiting", "Notices that wait for a hook", name(), waiting),
            ]
        };
        tellers.iter().zip(status.iter()).flat_map(of).collect()
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

    fn time(&self) -> [Sample; 2] {
        let reading = *self.time.borrow();
        let skew =
            "Seconds that the system's clock is ahead of what it should say; negative when it is behind";
        let stopped = if reading.is_stopped() { 1.0 } else { 0.0 };
        [
            gauge("clock_skew_seconds", skew, vec![], seconds(reading.skew_millis)),
            gauge(
                "clock_stopped",
                "Whether nothing is signed because of the system's clock",
                vec![],
                stopped,
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

/// Whether a step of the root's rotation waits, and for how many.
fn barrier(ca: &CaStatus, now: Timestamp) -> Vec<Sample> {
    let rotation = ca.rotation.as_ref();
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let laggards = rotation.map_or(0, |rotation| rotation.laggards.len()) as f64;
    let help = "Nodes and operators who would break by the next step of the root's rotation";
    let mut samples = vec![gauge("rotation_laggards", help, vec![], laggards)];
    samples.extend(rotation.and_then(|rotation| rotation.barrier).map(|barrier| {
        let help = "Seconds for which a step of the root's rotation has been waiting for laggards";
        let labels = vec![("step", barrier.step.word().to_owned())];
        gauge("rotation_waiting_seconds", help, labels, seconds(now.millis_since(barrier.since)))
    }));
    samples
}

#[expect(clippy::cast_precision_loss, reason = "a metric in seconds")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ca::{
        RotationStatus, Tally,
        dependents::{Laggard, Reason},
        rotation::{Barrier, Step},
    };

    use super::*;

    #[test]
    fn a_barrier_is_counted_while_somebody_is_in_the_way_and_absent_otherwise() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let status = |barrier: Option<Barrier>, laggards: Vec<Laggard>| CaStatus {
            rotation: Some(RotationStatus {
                phase: "prepared".into(),
                standing: String::new(),
                root: None,
                other: None,
                is_automatic: true,
                emergency: None,
                is_at_risk: false,
                due: Vec::new(),
                since: None,
                tally: Tally::default(),
                laggards,
                barrier,
                settles: None,
                needless: Vec::new(),
            }),
            ..CaStatus::default()
        };
        let read = |ca: &CaStatus| -> Vec<(String, f64)> {
            let samples = barrier(ca, now + Duration::from_secs(90)).into_iter();
            let value = |sample: Sample| match sample.value {
                SampleValue::Gauge(value) => (format!("{}{:?}", sample.name, sample.labels), value),
                SampleValue::Counter(_) => panic!("{sample:?}"),
            };
            samples.map(value).collect()
        };
        let none = [("rotation_laggards[]".to_owned(), 0.0)];
        assert_eq!(read(&CaStatus::default()), none);
        assert_eq!(read(&status(None, Vec::new())), none);
        let laggard =
            Laggard { name: "web-1".into(), is_connected: true, reason: Reason::BundleNotAcknowledged };
        let stuck = status(Some(Barrier { step: Step::Activate, since: now }), vec![laggard]);
        assert_eq!(
            read(&stuck),
            [
                ("rotation_laggards[]".to_owned(), 1.0),
                ("rotation_waiting_seconds[(\"step\", \"activate\")]".to_owned(), 90.0),
            ]
        );
    }
}
