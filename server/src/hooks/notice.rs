//! What there is to tell, as it is told (PURE).

use std::time::Duration;

use api::expiry::{Ending, ExpiryKind};
use ca::rotation::Step;
use certs::{Timestamp, format_duration};
use serde::Serialize;

/// How long `activate` may wait for laggards before hooks hear of it.
const ACTIVATE_MAY_WAIT: Duration = Duration::from_secs(30 * 60);
/// How long `finish` may: who is away may keep a certificate of the old root for a day.
const FINISH_MAY_WAIT: Duration = Duration::from_secs(25 * 60 * 60);
/// How long an issuer may fail.
const ISSUER_MAY_FAIL: Duration = Duration::from_secs(10 * 60);
/// The most names that one notice carries.
const MAX_NAMES: usize = 20;
/// For how long it is remembered that something was told.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a hook can hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// A life has reached a part of itself and was not renewed.
    Expiry,
    /// A step of the root's rotation waits for laggards for too long.
    Barrier,
    /// An issuer has been failing for too long.
    Issuer,
    /// `credence hook test`.
    Test,
}

impl Topic {
    /// Those that a configuration may name.
    pub const NAMED: [Self; 3] = [Self::Expiry, Self::Barrier, Self::Issuer];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Expiry => "expiry",
            Self::Barrier => "barrier",
            Self::Issuer => "issuer",
            Self::Test => "test",
        }
    }
}

/// The parts of a life, in percent, at which hooks hear of it.
fn thresholds(kind: ExpiryKind) -> &'static [u32] {
    match kind {
        // A join token is made to end.
        ExpiryKind::Token => &[],
        // A list is signed anew at half of its life, and withdrawn at three quarters.
        ExpiryKind::Crl => &[50],
        // Its server says when it is renewed; a tenth of its life before its end at the latest.
        ExpiryKind::Edge => &[80, 90],
        ExpiryKind::Root
        | ExpiryKind::Intermediate
        | ExpiryKind::Server
        | ExpiryKind::Node
        | ExpiryKind::Workload
        | ExpiryKind::Operator
        | ExpiryKind::Secret
        | ExpiryKind::Kek => &[70, 80],
    }
}

/// Somebody whom a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Concerned {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// One thing to tell, as it stands in the JSON that hooks get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Notice {
    pub(crate) event: Topic,
    /// The same for the same thing, also after a restart: whoever hears it twice can tell.
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threshold_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ends: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) concerned: Vec<Concerned>,
    pub(crate) message: String,
    /// Until when it is remembered that it was told.
    #[serde(skip)]
    pub(crate) remembered_until: Timestamp,
    /// Since when it holds, if that decides, and how long it may.
    #[serde(skip)]
    pub(crate) held: Option<(Timestamp, Duration)>,
}

impl Notice {
    fn new(event: Topic, id: String, kind: &str, name: &str, message: String, now: Timestamp) -> Self {
        Self {
            event,
            id,
            kind: kind.to_owned(),
            name: name.to_owned(),
            node: None,
            threshold_percent: None,
            began: None,
            ends: None,
            since: None,
            count: None,
            concerned: Vec::new(),
            message,
            remembered_until: now + REMEMBERED,
            held: None,
        }
    }

    /// Whether a hook that lets things last for `after` hears of it now.
    pub(crate) fn is_ripe(&self, after: Option<Duration>, now: Timestamp) -> bool {
        self.held.is_none_or(|(since, may)| now.since(since) >= after.unwrap_or(may))
    }

    /// For `credence hook test`.
    pub(crate) fn test(hook: &str, now: Timestamp) -> Self {
        let message = format!("this is a test of hook {hook}: nothing is wrong");
        Self::new(Topic::Test, format!("test/{hook}/{}", now.unix_millis()), "test", hook, message, now)
    }
}

/// A step that waits for laggards.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    pub(crate) step: Step,
    /// Since when it waits without a break.
    pub(crate) since: Timestamp,
    /// Since when the rotation stands where it stands: names the wait beyond a restart.
    pub(crate) phase_since: Timestamp,
    /// The root that comes or goes.
    pub(crate) root: String,
    pub(crate) laggards: Vec<Concerned>,
}

/// An issuer of which something fails.
#[derive(Debug, Clone)]
pub(crate) struct Failing {
    /// Which class of certificate it does not renew.
    pub(crate) class: &'static str,
    pub(crate) since: Timestamp,
    pub(crate) concerned: Vec<Concerned>,
}

/// Everything that there is to tell, soonest end first.
pub(crate) fn notices(
    endings: &[Ending],
    barrier: Option<&Barrier>,
    failing: &[Failing],
    now: Timestamp,
) -> Vec<Notice> {
    let mut notices: Vec<Notice> = barrier.map(|barrier| waiting(barrier, now)).into_iter().collect();
    notices.extend(failing.iter().map(|failing| failed(failing, now)));
    notices.extend(endings.iter().filter_map(|ending| ends(ending, now)));
    notices
}

/// The highest part of its life that it has reached: whoever hears of 80 % need not hear of 70 % at once with it.
fn ends(ending: &Ending, now: Timestamp) -> Option<Notice> {
    let percent = ending.used(now) * 100.0;
    let reached = thresholds(ending.kind).iter().copied().filter(|part| percent >= f64::from(*part)).max()?;
    let (kind, label, end) = (ending.kind.word(), ending.label(), ending.ends);
    let left = match ending.millis_left(now) {
        left if left > 0 => format!("ends in {}", format_duration(end.since(now))),
        _ => "has ended".to_owned(),
    };
    let message = format!("{kind} {label} has used {reached} % of its life and was not renewed; it {left}");
    let id = format!("expiry/{kind}/{label}/{reached}/{}", end.unix_millis());
    Some(Notice {
        node: ending.node.as_ref().map(ToString::to_string),
        threshold_percent: Some(reached),
        began: Some(ending.began.to_string()),
        ends: Some(end.to_string()),
        remembered_until: end.max(now) + REMEMBERED,
        ..Notice::new(Topic::Expiry, id, kind, &ending.name, message, now)
    })
}

fn waiting(barrier: &Barrier, now: Timestamp) -> Notice {
    let (step, count) = (barrier.step.word(), barrier.laggards.len());
    let message = format!(
        "{step} of the root's rotation has waited {} for {}",
        format_duration(Duration::from_secs(now.since(barrier.since).as_secs())),
        crate::output::count(count, "laggard", "laggards")
    );
    let id = format!("barrier/{step}/{}/{}", barrier.root, barrier.phase_since.unix_millis());
    let may = if barrier.step == Step::Activate { ACTIVATE_MAY_WAIT } else { FINISH_MAY_WAIT };
    Notice {
        since: Some(barrier.since.to_string()),
        count: Some(count),
        concerned: barrier.laggards.iter().take(MAX_NAMES).cloned().collect(),
        held: Some((barrier.since, may)),
        ..Notice::new(Topic::Barrier, id, step, &barrier.root, message, now)
    }
}

fn failed(failing: &Failing, now: Timestamp) -> Notice {
    let (class, count) = (failing.class, failing.concerned.len());
    let last = failing.concerned.first().map(|one| format!(": {}", one.reason)).unwrap_or_default();
    let message = format!(
        "the issuer has failed for {} to renew {} of class {class}{last}",
        format_duration(Duration::from_secs(now.since(failing.since).as_secs())),
        crate::output::count(count, "certificate", "certificates")
    );
    let id = format!("issuer/{class}/builtin/{}", failing.since.unix_millis());
    Notice {
        since: Some(failing.since.to_string()),
        count: Some(count),
        concerned: failing.concerned.iter().take(MAX_NAMES).cloned().collect(),
        held: Some((failing.since, ISSUER_MAY_FAIL)),
        ..Notice::new(Topic::Issuer, id, class, "builtin", message, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(secs: u64) -> Timestamp {
        START + Duration::from_secs(secs)
    }

    fn ending(kind: ExpiryKind) -> Ending {
        let (name, state, tenant) = ("web-1".to_owned(), None, None);
        Ending { kind, name, node: None, state, tenant, began: START, ends: at(1000), advice: None }
    }

    #[test]
    fn the_highest_part_that_is_reached_is_told() {
        for (kind, secs, expected) in [
            (ExpiryKind::Node, 699, None),
            (ExpiryKind::Node, 700, Some("expiry/node/web-1/70/1800001000000")),
            (ExpiryKind::Node, 799, Some("expiry/node/web-1/70/1800001000000")),
            (ExpiryKind::Node, 800, Some("expiry/node/web-1/80/1800001000000")),
            (ExpiryKind::Root, 2000, Some("expiry/root/web-1/80/1800001000000")),
            (ExpiryKind::Kek, 750, Some("expiry/kek/web-1/70/1800001000000")),
            (ExpiryKind::Edge, 799, None),
            (ExpiryKind::Edge, 900, Some("expiry/edge/web-1/90/1800001000000")),
            (ExpiryKind::Token, 990, None),
            (ExpiryKind::Crl, 499, None),
            (ExpiryKind::Crl, 500, Some("expiry/crl/web-1/50/1800001000000")),
        ] {
            let told = notices(&[ending(kind)], None, &[], at(secs));
            let ids: Vec<&str> = told.iter().map(|notice| notice.id.as_str()).collect();
            assert_eq!(ids, expected.into_iter().collect::<Vec<_>>(), "{kind:?} at {secs}");
        }
        let told = notices(&[ending(ExpiryKind::Node)], None, &[], at(700));
        let json = serde_json::to_value(&told[0]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "event": "expiry", "id": "expiry/node/web-1/70/1800001000000", "kind": "node", "name": "web-1",
                "threshold_percent": 70, "began": "2027-01-15T08:00:00Z", "ends": "2027-01-15T08:16:40Z",
                "message": "node web-1 has used 70 % of its life and was not renewed; it ends in 5m",
            })
        );
    }

    #[test]
    fn a_wait_is_told_once_it_is_long_and_is_the_same_wait_after_a_restart() {
        let laggard = Concerned { name: "web-1".into(), reason: "has not acknowledged".into() };
        let barrier = |step, since| Barrier {
            step,
            since: at(since),
            phase_since: START,
            root: "00ff".into(),
            laggards: vec![laggard.clone(); 30],
        };
        let notice = |step, since| notices(&[], Some(&barrier(step, since)), &[], at(1800)).remove(0);
        let activate = notice(Step::Activate, 0);
        assert!(activate.is_ripe(None, at(1800)) && !activate.is_ripe(None, at(1799)));
        assert!(activate.is_ripe(Some(Duration::from_secs(5)), at(5)));
        assert!(!notice(Step::Finish, 0).is_ripe(None, at(24 * 3600)));
        assert!(notice(Step::Finish, 0).is_ripe(None, at(25 * 3600)));
        assert_eq!(activate.id, notice(Step::Activate, 1000).id);
        assert_eq!((activate.count, activate.concerned.len()), (Some(30), MAX_NAMES));
        assert_eq!(activate.message, "activate of the root's rotation has waited 30m for 30 laggards");
    }

    #[test]
    fn one_is_one() {
        let concerned = Concerned { name: "web".into(), reason: "no authority signs".into() };
        let laggards = vec![concerned.clone()];
        let barrier =
            Barrier { step: Step::Finish, since: START, phase_since: START, root: "00ff".into(), laggards };
        let failing = Failing { class: "workload", since: START, concerned: vec![concerned] };
        let told = notices(&[], Some(&barrier), &[failing], at(86_400));
        let said: Vec<&str> = told.iter().map(|notice| notice.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "finish of the root's rotation has waited 1d for 1 laggard",
                "the issuer has failed for 1d to renew 1 certificate of class workload: no authority signs",
            ]
        );
    }
}
