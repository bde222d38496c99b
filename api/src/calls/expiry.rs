//! What ends and when, and how long identities survive without their issuer.

use std::time::Duration;

use spiffe::SpiffeId;

use super::{CallError, Caller, Calls, error};
use crate::{
    expiry::{Ending, Hold, holds, survivals},
    wire,
};

impl Calls {
    /// Everything that ends within `within` of now, has ended without a successor, or waits for an operator, soonest
    /// first; everything if `within` is absent.
    ///
    /// # Errors
    /// When a store cannot read.
    pub async fn list_expiries(
        &self,
        caller: &Caller,
        within: Option<Duration>,
        limit: usize,
        offset: usize,
    ) -> Result<wire::Page<wire::Expiring>, CallError> {
        let now = self.clock.now();
        let endings = self.expiries.collect(now).await?;
        let own = endings.iter().filter(|ending| concerns(ending, caller));
        let concerns = |ending: &&Ending| {
            within.is_none_or(|within| ending.ends <= now + within || ending.waits_for_operator(now))
        };
        let mut soon = own.filter(concerns).skip(offset);
        let items = soon.by_ref().take(limit).map(|ending| shown(ending, now)).collect();
        Ok(wire::Page { items, next: soon.next().map(|_| (offset + limit).to_string()) })
    }

    /// Everything that ends and concerns the caller.
    pub(super) async fn endings(&self, caller: &Caller) -> Result<Vec<Ending>, CallError> {
        let endings = self.expiries.collect(self.clock.now()).await?;
        Ok(endings.into_iter().filter(|ending| concerns(ending, caller)).collect())
    }

    /// The soonest end of each kind of certificate.
    pub(super) fn next_expiries(&self, endings: &[Ending]) -> Vec<wire::Expiry> {
        let now = self.clock.now();
        let (first, _) = crate::expiry::first_of_each_kind(endings, 1);
        first
            .into_iter()
            .map(|ending| {
                let shown = shown(ending, now);
                wire::Expiry { class: shown.kind, name: shown.name, at: shown.at, in_secs: shown.in_secs }
            })
            .collect()
    }

    /// One identity: who speaks for it, whether it is blocked, and until when it survives without its issuer.
    ///
    /// # Errors
    /// When there is no such identity, or the journal cannot read.
    pub async fn show_identity(&self, caller: &Caller, text: &str) -> Result<wire::IdentityShown, CallError> {
        let id = error::id("identity", SpiffeId::parse(text))?;
        let listed = self.list_identities(caller, Some(text))?.items;
        let missing = || CallError::NotFound { what: "identity", name: id.to_string() };
        let identity = listed.into_iter().find(|one| one.id == id.as_str()).ok_or_else(missing)?;
        let now = self.clock.now();
        let held = holds(&*self.journal, &self.configs.bindings(), &*self.leaves, now).await?;
        let held: Vec<Hold> =
            held.into_iter().filter(|hold| hold.identity == id && hold.tenant == caller.tenant).collect();
        let survival = survivals(&held).into_iter().next();
        Ok(wire::IdentityShown {
            identity,
            survives_until: survival.as_ref().map(|survival| survival.until.to_string()),
            survives_secs: survival
                .as_ref()
                .map(|survival| survival.until.millis_since(now).div_euclid(1000)),
            leaves: held
                .into_iter()
                .map(|hold| wire::HeldLeaf {
                    node: hold.node.to_string(),
                    until: hold.until.to_string(),
                    in_secs: hold.until.millis_since(now).div_euclid(1000),
                    acknowledged: hold.is_acknowledged,
                })
                .collect(),
        })
    }
}

/// What belongs to the whole deployment concerns every operator.
fn concerns(ending: &Ending, caller: &Caller) -> bool {
    ending.tenant.as_ref().is_none_or(|tenant| *tenant == caller.tenant)
}

fn shown(ending: &Ending, now: certs::Timestamp) -> wire::Expiring {
    let percent = (ending.used(now) * 100.0).clamp(0.0, 100.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let used_percent = percent as u32;
    wire::Expiring {
        kind: ending.kind.word().to_owned(),
        name: ending.name.clone(),
        node: ending.node.as_ref().map(ToString::to_string),
        state: ending.state.clone(),
        began: ending.began.to_string(),
        at: ending.ends.to_string(),
        in_secs: ending.millis_left(now).div_euclid(1000),
        used_percent,
        advice: ending.advice.filter(|_| ending.waits_for_operator(now)).map(str::to_owned),
    }
}
