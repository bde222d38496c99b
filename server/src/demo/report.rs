//! What the demo measured, and whether it proves what it promises.

use std::time::Duration;

use serde::Serialize;

/// The demo passes with at least this many requests for each second of its duration.
const REQUESTS_PER_SECOND: f64 = 50.0;
/// And at least this many leaf rotations of their own accord in each minute.
const ROTATIONS_PER_MINUTE: f64 = 20.0;

/// The versions that took part.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Versions {
    pub(super) credence: String,
    pub(super) envoy: String,
}

/// One step of the demo.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) started_s: f64,
    pub(super) duration_s: f64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) proven: bool,
    pub(super) detail: String,
}

/// How long after its issuance a new serial was seen in a new handshake, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latency {
    /// Of measured values, by nearest rank.
    pub(super) fn of(mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index into a short list"
            )]
            let index = ((millis.len() as f64 * share).ceil() as usize).clamp(1, millis.len().max(1)) - 1;
            millis.get(index).copied().unwrap_or_default()
        };
        Self { p50: rank(0.5), p99: rank(0.99), max: rank(1.0) }
    }
}

/// What one proxy showed to the neutral client.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ProxyReport {
    pub(super) node_id: String,
    pub(super) spiffe_id: String,
    pub(super) serials_seen: usize,
}

/// Everything, as `--json` writes it. Every figure is measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) passed: bool,
    pub(super) interrupted: bool,
    pub(super) versions: Versions,
    pub(super) duration_s: f64,
    pub(super) requests_total: u64,
    pub(super) requests_failed: u64,
    pub(super) new_handshakes: u64,
    pub(super) phases: Vec<Phase>,
    pub(super) leaf_rotations: u64,
    pub(super) leaf_rotations_forced: u64,
    pub(super) ca_rotations: u64,
    pub(super) restarts: u64,
    pub(super) wrong_identity_refused: bool,
    pub(super) plaintext_refused: bool,
    pub(super) rotation_to_new_handshake_ms: Latency,
    pub(super) proxies: Vec<ProxyReport>,
}

impl Report {
    /// Each promise with what was measured and whether it held.
    pub(super) fn verdicts(&self, duration: Duration) -> Vec<(&'static str, String, bool)> {
        let seconds = duration.as_secs_f64();
        let wanted_requests = (REQUESTS_PER_SECOND * seconds).ceil();
        let wanted_rotations = (ROTATIONS_PER_MINUTE * seconds / 60.0).floor();
        vec![
            (
                "requests through web to payments",
                format!("{} (at least {wanted_requests:.0})", self.requests_total),
                self.requests_total as f64 >= wanted_requests,
            ),
            ("failed requests", self.requests_failed.to_string(), self.requests_failed == 0),
            (
                "leaves renewed by their own deadline",
                format!(
                    "{} (at least {wanted_rotations:.0}); {} more were forced",
                    self.leaf_rotations, self.leaf_rotations_forced
                ),
                self.leaf_rotations as f64 >= wanted_rotations,
            ),
            ("issuing authority replaced", format!("{}x", self.ca_rotations), self.ca_rotations >= 1),
            ("control plane killed and restarted", format!("{}x", self.restarts), self.restarts >= 1),
            (
                "serials that each proxy showed to a neutral client",
                self.proxies
                    .iter()
                    .map(|proxy| format!("{} {}", proxy.node_id, proxy.serials_seen))
                    .collect::<Vec<_>>()
                    .join(", "),
                !self.proxies.is_empty() && self.proxies.iter().all(|proxy| proxy.serials_seen >= 2),
            ),
            (
                "wrong identity refused, by server and by client",
                yes(self.wrong_identity_refused),
                self.wrong_identity_refused,
            ),
            (
                "plaintext refused, on xDS and on payments",
                yes(self.plaintext_refused),
                self.plaintext_refused,
            ),
            (
                "new serial on a new handshake after",
                format!(
                    "p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
                    self.rotation_to_new_handshake_ms.p50,
                    self.rotation_to_new_handshake_ms.p99,
                    self.rotation_to_new_handshake_ms.max
                ),
                true,
            ),
        ]
    }
}

fn yes(it_is: bool) -> String {
    if it_is { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_takes_the_nearest_rank() {
        let latency = Latency::of((1..=100).map(f64::from).collect());
        assert_eq!((latency.p50, latency.p99, latency.max), (50.0, 99.0, 100.0));
        let one = Latency::of(vec![7.0]);
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
        assert_eq!(Latency::of(vec![]).max, 0.0);
    }

    #[test]
    fn one_failed_request_fails_the_demo() {
        let mut report = Report {
            requests_total: 6000,
            leaf_rotations: 25,
            ca_rotations: 1,
            restarts: 1,
            wrong_identity_refused: true,
            plaintext_refused: true,
            proxies: vec![ProxyReport {
                node_id: "web".into(),
                spiffe_id: "spiffe://td/web".into(),
                serials_seen: 2,
            }],
            ..Report::default()
        };
        let held =
            |report: &Report| report.verdicts(Duration::from_secs(60)).iter().all(|(_, _, held)| *held);
        assert!(held(&report));
        report.requests_failed = 1;
        assert!(!held(&report));
    }
}
