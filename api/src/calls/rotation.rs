//! The rotation of the root, and the answer to a stolen key.

use std::collections::BTreeSet;

use ca::{
    RotationStatus,
    dependents::{Laggard, Reason},
    rotation::{Action, Step, Wish},
};
use certs::Timestamp;
use spiffe::{AuthorityId, Class};

use super::{CallError, Caller, Calls, trust::unavailable};
use crate::wire;

/// The most laggards that an answer lists.
const MAX_LISTED: usize = 1_000;

impl Calls {
    /// How the rotation of the root stands, and who would break by its next step.
    ///
    /// # Errors
    /// While the process has not looked yet.
    pub async fn root_rotation(&self) -> Result<wire::RootRotation, CallError> {
        let missing = || CallError::Unavailable { part: "authority", why: "it was not looked at yet".into() };
        let status = self.rotation.root_status().ok_or_else(missing)?;
        self.shown_rotation(&status, false).await
    }

    /// Takes a step of the rotation of the root, or says whether it could be taken.
    ///
    /// # Errors
    /// When the step is unknown, not due, or a gate is closed.
    pub async fn rotate_root(
        &self,
        caller: &Caller,
        wanted: &wire::RotateRoot,
    ) -> Result<wire::RootRotation, CallError> {
        let wish = Wish {
            step: step(&wanted.step)?,
            leave_behind: wanted.leave_behind.iter().cloned().collect::<BTreeSet<_>>(),
            automatic: wanted.automatic,
            alone: false,
        };
        if !wanted.dry_run {
            let status = self.rotation.rotate_root(caller, wish, &wanted.reason).await?;
            return Ok(self.kept_rotation(&status).await);
        }
        let (status, action) = self.rotation.simulate_root(wish).await?;
        let plan = Some(plan(&action, &status));
        Ok(wire::RootRotation { plan, ..self.shown_rotation(&status, true).await? })
    }

    /// The same after a step that is kept. Whoever asks again must not take it for one that was not: so what cannot be
    /// read now is left out, and that is said.
    pub(super) async fn kept_rotation(&self, status: &RotationStatus) -> wire::RootRotation {
        match self.shown_rotation(status, false).await {
            Ok(shown) => shown,
            Err(error) => {
                tracing::warn!(%error, "step of the rotation is taken, and not all about it can be told");
                let mut shown = self.plain_rotation(status, false);
                shown.remarks.push(format!(
                    "the step is taken; not all about it can be read now ({}): credence ca status",
                    error.told()
                ));
                shown
            }
        }
    }

    pub(super) async fn shown_rotation(
        &self,
        status: &RotationStatus,
        dry_run: bool,
    ) -> Result<wire::RootRotation, CallError> {
        let signed = match status.emergency {
            None => None,
            Some(_) => {
                let records =
                    self.authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
                let outgoing = if status.phase == "active" { status.other } else { status.root };
                let below = records.iter().filter(|one| one.parent == outgoing || Some(one.id) == outgoing);
                let ids: Vec<AuthorityId> = below.map(|record| record.id).collect();
                let issued = self.journal.issued(&ids, self.clock.now()).await;
                Some(issued.map_err(|error| unavailable("journal", &error))?.len())
            }
        };
        let request = self.authorities.request().await.map_err(|error| unavailable("authorities", &error))?;
        Ok(wire::RootRotation {
            signed,
            by_hand: self.by_hand(self.clock.now()).await?,
            request: request.map(|request| wire::PendingRequest {
                authority: request.id.to_string(),
                made: request.created.to_string(),
                by: request.by,
            }),
            ..self.plain_rotation(status, dry_run)
        })
    }

    /// What the machine says of itself.
    fn plain_rotation(&self, status: &RotationStatus, dry_run: bool) -> wire::RootRotation {
        let text = |time: Timestamp| time.to_string();
        wire::RootRotation {
            phase: status.phase.clone(),
            standing: status.standing.clone(),
            dry_run,
            plan: None,
            remarks: status.needless.iter().map(|name| needless_text(name)).collect(),
            root: status.root.map(|id| id.to_string()),
            other: status.other.map(|id| id.to_string()),
            automatic: status.is_automatic,
            emergency_since: status.emergency.map(text),
            at_risk: status.is_at_risk,
            due: status.due.iter().map(|step| step.word().to_owned()).collect(),
            since: status.since.map(text),
            tally: wire::RotationTally {
                connected: status.tally.connected,
                awaited: status.tally.awaited,
                bundle: status.tally.bundle,
                holders: status.tally.holders,
                renewed: status.tally.renewed,
                proven: status.tally.proven,
            },
            laggards: status.laggards.iter().take(MAX_LISTED).map(shown_laggard).collect(),
            laggard_count: status.laggards.len(),
            barrier: status.barrier.map(|barrier| wire::RotationBarrier {
                step: barrier.step.word().to_owned(),
                since: barrier.since.to_string(),
                waiting_secs: self.clock.now().since(barrier.since).as_secs(),
            }),
            settles: status.settles.map(text),
            signed: None,
            by_hand: None,
            request: None,
        }
    }
}

impl Calls {
    /// The issuing authority whose successor is not made here. One that an issuer signed is asked for by itself, and is
    /// an operator's to see to only when that has come to nothing for long.
    async fn by_hand(&self, now: Timestamp) -> Result<Option<wire::ByHand>, CallError> {
        let Some(by_hand) = self.rotation.by_hand() else { return Ok(None) };
        let upstream = self.upstream_of_now().await?.filter(|(id, ..)| *id == by_hand.authority);
        let (due, is_due, advice, issuer) = match upstream {
            None => (by_hand.due, by_hand.due <= now, super::BRING_INTERMEDIATE.to_owned(), None),
            Some((_, issuer, standing)) => {
                // Its successor is there.
                let Some(next) = standing.next else { return Ok(None) };
                let why = standing.problem.unwrap_or_else(|| "it has not answered yet".to_owned());
                let advice = format!("{why}: credence issuer test {issuer}");
                (next, standing.is_at_risk, advice, Some(issuer.to_string()))
            }
        };
        Ok(Some(wire::ByHand {
            authority: by_hand.authority.to_string(),
            due: due.to_string(),
            is_due,
            ends: by_hand.ends.to_string(),
            ends_in_secs: by_hand.ends.millis_since(now).div_euclid(1000),
            advice,
            issuer,
        }))
    }
}

fn step(word: &str) -> Result<Step, CallError> {
    let steps = [Step::Prepare, Step::Activate, Step::Taint, Step::Finish, Step::Rollback];
    steps.into_iter().find(|step| step.word() == word).ok_or_else(|| CallError::Parameter {
        what: "step",
        why: format!("{word:?} is none of prepare, activate, taint, finish, rollback"),
    })
}

fn needless_text(name: &str) -> String {
    format!("{name} is in nobody's way: leaving it behind changes nothing")
}

/// What `action` does to whom, where the rotation stands as `status` says.
fn plan(action: &Action, status: &RotationStatus) -> wire::RotationPlan {
    let signs = status.root.map_or_else(|| "none".to_owned(), |root| root.to_string());
    let holders = status.tally.holders - status.tally.renewed;
    let (steps, left_behind) = match action {
        Action::Prepare { automatic, alone } => {
            let vouches = match alone {
                true => "nobody vouches for it to those who do not know that root".to_owned(),
                false => format!("{signs} vouches for it too"),
            };
            let then = match automatic {
                true => {
                    "go on by itself, as gates open: it signs once every connected proxy has acknowledged it"
                }
                false => {
                    "wait for credence ca rotate root activate, which every connected proxy has to acknowledge it for"
                }
            };
            let steps = vec![
                format!("make a root with a new key, and an issuing authority under it; {vouches}"),
                format!("put the root into every bundle; {signs} signs on"),
                then.to_owned(),
            ];
            (steps, &[][..])
        }
        Action::Activate { new, old, left_behind } => {
            let then = match status.is_automatic {
                true => format!("finish by itself when nobody depends on {old} any more"),
                false => format!("wait for finish, which takes {old} out, or for rollback"),
            };
            let steps = vec![
                format!("{new} signs instead of {old}, which stays in every bundle and only verifies"),
                format!("replace what {} hold from {old}, spread over ten minutes", holders_text(holders)),
                then,
            ];
            (steps, left_behind.as_slice())
        }
        Action::Taint(old) => {
            let steps = vec![
                format!("replace at once what {} hold from {old}", holders_text(holders)),
                format!("{old} never signs again: no rollback is possible after that"),
            ];
            (steps, &[][..])
        }
        Action::Finish { old, left_behind } => {
            let steps = vec![
                format!("take {old} out of every bundle, with every authority under it"),
                "destroy their keys: no rollback is possible after that".to_owned(),
            ];
            (steps, left_behind.as_slice())
        }
        Action::Withdraw(new) => {
            let steps = vec![
                format!(
                    "take {new} out of every bundle, and destroy its key and that of the authority under it"
                ),
                format!("{signs} signs on; nobody holds anything from {new}"),
            ];
            (steps, &[][..])
        }
        Action::Return { old, new } => {
            let steps = vec![
                format!("{old} signs again instead of {new}, which stays in every bundle and only verifies"),
                format!("replace what was signed under {new}, spread over ten minutes"),
                format!("wait for finish, which takes {new} out; {new} does not sign again"),
            ];
            (steps, &[][..])
        }
        Action::Refuse(_) | Action::AtRisk => (Vec::new(), &[][..]),
    };
    wire::RotationPlan {
        steps,
        left_behind: left_behind.iter().take(MAX_LISTED).map(shown_laggard).collect(),
        left_behind_count: left_behind.len(),
    }
}

fn holders_text(number: usize) -> String {
    if number == 1 { "1 node or operator".to_owned() } else { format!("{number} nodes and operators") }
}

pub(super) fn shown_laggard(laggard: &Laggard) -> wire::Laggard {
    wire::Laggard {
        name: laggard.name.clone(),
        connected: laggard.is_connected,
        reason: reason_text(&laggard.reason),
    }
}

/// Why somebody would break, in words.
#[must_use]
pub fn reason_text(reason: &Reason) -> String {
    match reason {
        Reason::BundleNotAcknowledged => "has not acknowledged a bundle with the new root".to_owned(),
        Reason::NotBack => {
            "has not come back since the server began, and nobody knows what it has: it is awaited for a minute, in \
             a large fleet for longer"
                .to_owned()
        }
        Reason::BundleRefused { words } => format!("refused the bundle with the new root: {words}"),
        Reason::Shows { id, until } => {
            format!("shows a certificate of {id} from the old root, until {until}")
        }
        Reason::MayHold { id, until } if matches!(id.class(), Ok(Class::Operator(_))) => format!(
            "holds a certificate of {id} from the old root, until {until}: any command of this operator replaces it"
        ),
        Reason::MayHold { id, until } => {
            format!("is not connected and may hold a certificate of {id} from the old root, until {until}")
        }
        Reason::FileStale => {
            "holds a bundle file without the new root, and nobody vouches for us towards it without that".to_owned()
        }
        Reason::FileUnknown => {
            "has not said which bundle file it holds, and nobody vouches for us towards it without the new root"
                .to_owned()
        }
        Reason::LockedOut { until } => {
            format!("is not connected and would not know us when it comes back, as it could until {until}")
        }
        Reason::ListNotAcknowledged => {
            "has not acknowledged the revocation list of the next issuing authority".to_owned()
        }
        Reason::NotProven => {
            "has not verified our own certificate under the new root; its trust bundle file \
                              may be stale"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use spiffe::SpiffeId;

    use super::*;

    #[test]
    fn says_of_an_operator_and_not_of_a_node_that_a_command_replaces_the_certificate() {
        let check = |id: &str, words: &str| {
            let id = SpiffeId::parse(id).unwrap();
            let text = reason_text(&Reason::MayHold { id, until: Timestamp::EPOCH });
            assert!(text.ends_with(words), "{text}");
        };
        check("spiffe://td/credence/operator/admin", ": any command of this operator replaces it");
        check("spiffe://td/credence/node/edge", "from the old root, until 1970-01-01T00:00:00Z");
    }

    #[test]
    fn every_step_says_what_it_would_do_and_who_would_break() {
        let id = |first: u8| ca_id(first);
        let status = RotationStatus {
            phase: "prepared".into(),
            standing: String::new(),
            root: Some(id(1)),
            other: Some(id(2)),
            is_automatic: false,
            emergency: None,
            is_at_risk: false,
            due: Vec::new(),
            since: None,
            tally: ca::Tally { holders: 5, renewed: 3, ..Default::default() },
            laggards: Vec::new(),
            barrier: None,
            settles: None,
            needless: Vec::new(),
        };
        let lags = Laggard { name: "web-1".into(), is_connected: true, reason: Reason::NotProven };
        let check = |action: Action, breaks: usize, words: &[&str]| {
            let plan = plan(&action, &status);
            assert_eq!((plan.left_behind.len(), plan.left_behind_count), (breaks, breaks), "{plan:?}");
            let text = plan.steps.join("\n");
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
        };
        let (old, new) = (id(1), id(2));
        let vouches = format!("{old} vouches for it too");
        check(Action::Prepare { automatic: false, alone: false }, 0, &[&vouches, "root activate"]);
        check(Action::Prepare { automatic: true, alone: true }, 0, &["nobody vouches", "by itself"]);
        let activate = Action::Activate { new, old, left_behind: vec![lags.clone()] };
        check(activate, 1, &["signs instead of", "what 2 nodes and operators hold"]);
        check(Action::Taint(old), 0, &["at once", "no rollback"]);
        check(Action::Finish { old, left_behind: vec![lags] }, 1, &["destroy their keys", "no rollback"]);
        check(Action::Withdraw(new), 0, &["destroy its key", &format!("{old} signs on")]);
        check(Action::Return { old, new }, 0, &[&format!("{old} signs again instead of {new}")]);
    }

    fn ca_id(first: u8) -> AuthorityId {
        AuthorityId::of(certs::SpkiHash([first; 32]))
    }
}
