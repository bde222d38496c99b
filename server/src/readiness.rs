//! Whether our own trust lasts (PURE): readiness ends *before* our certificates do, so that whoever balances load
//! or pages somebody hears of it while everything still works; and it comes back by itself.
//!
//! An operator's certificate near its end is no reason here: nobody but its owner is cut off, and `status` warns.

use std::time::Duration;

use certs::{Timestamp, format_duration};
use sds::schedule::Life;
use spiffe::AuthorityId;

/// With this much life left, a renewal that fails is a reason; of a short life half is enough.
const SOON: Duration = Duration::from_secs(300);

/// What the judgement goes by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The life of our own certificate; `None` before the first.
    pub(crate) own: Option<Life>,
    /// Why its renewal fails, if it does.
    pub(crate) own_failure: Option<String>,
    /// The issuing authority that signs, and when it ends.
    pub(crate) issuing: Option<(AuthorityId, Timestamp)>,
    /// How much life it needs to sign.
    pub(crate) least_remaining: Duration,
}

/// Why the process is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    /// What is not: one of few words, for metrics.
    pub(crate) part: &'static str,
    /// Why.
    pub(crate) why: String,
}

/// Every reason, none if our own trust lasts.
pub(crate) fn judge(facts: &Facts, now: Timestamp) -> Vec<Reason> {
    own_certificate(facts, now).into_iter().chain(issuing_authority(facts, now)).collect()
}

fn own_certificate(facts: &Facts, now: Timestamp) -> Option<Reason> {
    let life = facts.own?;
    let (left, length) = (life.remaining(now), life.length());
    // It is renewed at half of its life: with a quarter left something is wrong, whatever the renewal says.
    let is_late = left < length / 4;
    let is_failing = facts.own_failure.is_some() && left < SOON.min(length / 2);
    if !is_late && !is_failing {
        return None;
    }
    let because = facts.own_failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let why = if life.is_over(now) {
        format!("our own certificate ended at {}{because}", life.expires)
    } else {
        format!("our own certificate ends in {} and is not renewed{because}", format_duration(left))
    };
    Some(Reason { part: "own certificate", why })
}

fn issuing_authority(facts: &Facts, now: Timestamp) -> Option<Reason> {
    let part = "issuing authority";
    let Some((id, ends)) = facts.issuing else {
        return Some(Reason { part, why: "no issuing authority is active".to_owned() });
    };
    let left = ends.since(now);
    (left < facts.least_remaining).then(|| Reason {
        part,
        why: format!(
            "issuing authority {id} has {} left and needs {} to sign",
            format_duration(left),
            format_duration(facts.least_remaining)
        ),
    })
}

#[cfg(test)]
mod tests {
    use certs::SpkiHash;

    use super::*;

    const HOUR: u64 = 3600;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
    }

    #[test]
    fn readiness_ends_before_our_trust_does_and_comes_back() {
        let id = AuthorityId::of(SpkiHash([1; 32]));
        let facts = |length: u64, failure: Option<&str>| Facts {
            own: Some(Life { issued: at(0), expires: at(length) }),
            own_failure: failure.map(str::to_owned),
            issuing: Some((id, at(1000 * HOUR))),
            least_remaining: Duration::from_secs(24 * HOUR),
        };
        let (own, issuing) = ("own certificate", "issuing authority");
        let failing = Some("issuer is unavailable");
        // Life in seconds, failure, age, what is not ready.
        let table: &[(u64, Option<&str>, u64, &[&str])] = &[
            (12 * HOUR, None, 0, &[]),
            (12 * HOUR, failing, 6 * HOUR, &[]),
            (12 * HOUR, failing, 9 * HOUR, &[]),
            (12 * HOUR, failing, 9 * HOUR + 1, &[own]),
            (12 * HOUR, None, 9 * HOUR + 1, &[own]),
            (12 * HOUR, failing, 13 * HOUR, &[own]),
            // Ten minutes: five of them are left at half life, and failing then is a reason.
            (600, None, 301, &[]),
            (600, failing, 300, &[]),
            (600, failing, 301, &[own]),
            (600, None, 451, &[own]),
            (12, failing, 6, &[]),
            (12, failing, 7, &[own]),
            (12 * HOUR, None, 976 * HOUR, &[own]),
            (10_000 * HOUR, None, 976 * HOUR, &[]),
            (10_000 * HOUR, None, 976 * HOUR + 1, &[issuing]),
            (12 * HOUR, failing, 1001 * HOUR, &[own, issuing]),
        ];
        for (length, failure, age, expected) in table {
            let reasons = judge(&facts(*length, *failure), at(*age));
            let parts: Vec<_> = reasons.iter().map(|reason| reason.part).collect();
            assert_eq!(parts, *expected, "{length} {failure:?} {age}: {reasons:?}");
        }
        // Renewed: the same facts with a new life heal.
        let renewed =
            Facts { own: Some(Life { issued: at(9 * HOUR), expires: at(21 * HOUR) }), ..facts(1, None) };
        assert!(judge(&renewed, at(9 * HOUR + 2)).is_empty());
        let why = judge(&facts(12 * HOUR, failing), at(11 * HOUR))[0].why.clone();
        assert_eq!(why, "our own certificate ends in 1h and is not renewed: issuer is unavailable");
        assert_eq!(judge(&Facts { issuing: None, ..facts(12 * HOUR, None) }, at(1))[0].part, issuing);
        // Before the first certificate there is a guard that says so.
        assert!(judge(&Facts { own: None, ..facts(12 * HOUR, None) }, at(1)).is_empty());
    }
}
