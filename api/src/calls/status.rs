//! The whole picture in one call.

use std::collections::BTreeMap;

use ca::{
    Health,
    clock::{Reading, State},
};
use certs::Timestamp;
use spiffe::IssuerName;

use super::{CallError, Caller, Calls, ProxyFilter, still_revoked};
use crate::{
    expiry::Ending,
    ports::{DocumentFilter, RevisionState},
    wire,
};

/// The most nodes that the picture holds.
const MAX_SHOWN: usize = 1000;

impl Calls {
    /// The numbers of a front page.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn stats(&self, caller: &Caller) -> Result<wire::Stats, CallError> {
        let now = self.clock.now();
        let expiries = self.next_expiries(&self.endings(caller).await?);
        self.count(caller, now, &expiries).await
    }

    /// Everything that `credence status` shows.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn status(&self, caller: &Caller) -> Result<wire::Status, CallError> {
        let now = self.clock.now();
        let endings = self.endings(caller).await?;
        let expiries = self.next_expiries(&endings);
        let time = *self.time.borrow();
        let still_revoked = still_revoked(&*self.authorities, &*self.journal, now).await?;
        let lists = self.revoking.lists();
        let filter = ProxyFilter { limit: MAX_SHOWN, ..ProxyFilter::default() };
        Ok(wire::Status {
            version: self.facts.version.clone(),
            trust_domain: self.domain.to_string(),
            default_mtls: self.facts.default_mtls.word().to_owned(),
            at: now.to_string(),
            not_ready: self.readiness.not_ready(),
            paused: self.paused(),
            recovery: self.open_window(),
            warnings: warnings(&expiries)
                .into_iter()
                .chain(by_hand(&endings, now))
                .chain(still_revoked.as_ref().filter(|_| lists.is_none()).map(unlisted))
                .chain(list_warnings(lists))
                .chain((time.state == State::Drifting).then(|| time.to_string()))
                .chain(replaced_issuers(&self.upstreams.leaves().health))
                .collect(),
            still_revoked,
            stats: self.count(caller, now, &expiries).await?,
            expiries,
            failing_renewals: self.renewals.failing(),
            clock: clock_state(&time),
            store: self.sealing.store(),
            proxies: self.list_proxies(caller, &filter).await.items,
        })
    }

    async fn count(
        &self,
        caller: &Caller,
        now: Timestamp,
        expiries: &[wire::Expiry],
    ) -> Result<wire::Stats, CallError> {
        let filter = DocumentFilter { tenant: Some(caller.tenant.clone()), ..DocumentFilter::default() };
        let newest = self.documents.newest(&filter).await?;
        let unused = self.nodes.unused_tokens(now).await?;
        let unused = unused.iter().filter(|token| token.tenant == caller.tenant).count();
        let mut stats = wire::Stats {
            configs: newest.len(),
            drafts: newest.iter().filter(|document| document.state == RevisionState::Draft).count(),
            revision: self.configs.views().revision,
            blocked: self.configs.blocks().iter().count(),
            unused_tokens: unused,
            failing_renewals: self.renewals.failing().len(),
            ..wire::Stats::default()
        };
        for binding in self.configs.bindings().iter().filter(|binding| binding.tenant == caller.tenant) {
            let status = self.delivery.status(&binding.node);
            stats.proxies += 1;
            stats.connected += usize::from(status.connected);
            stats.synced += usize::from(status.sync == "SYNCED");
            stats.refusing += usize::from(status.sync == "NACK");
        }
        let mut next: BTreeMap<String, i64> = BTreeMap::new();
        for expiry in expiries {
            let soonest = next.entry(expiry.class.clone()).or_insert(i64::MAX);
            *soonest = (*soonest).min(expiry.in_secs);
        }
        stats.next_expiry_secs = next;
        Ok(stats)
    }
}

/// What nothing renews by itself, from half of its life on.
fn by_hand(endings: &[Ending], now: Timestamp) -> impl Iterator<Item = String> {
    endings.iter().filter(move |ending| ending.waits_for_operator(now)).map(|ending| {
        let (kind, name, ends) = (ending.kind.word(), &ending.name, ending.ends);
        format!(
            "{kind} {name} ends at {ends} and nothing replaces it by itself: {}",
            ending.advice.unwrap_or_default()
        )
    })
}

/// Whose leaves another issuer signs: no renewal fails by that, and nobody would notice.
fn replaced_issuers(health: &BTreeMap<IssuerName, Health>) -> Vec<String> {
    let replaced = health.iter().filter_map(|(name, health)| {
        let (by, failures) = (health.stands_in.as_ref()?, health.failures);
        let why = health.problem.as_deref().unwrap_or("it does not answer");
        Some(format!(
            "issuer {name} gives no leaves, and {by} signs in its place; {failures} failures in a row, the last: {why}"
        ))
    });
    replaced.collect()
}

/// What is said where nothing tells proxies what was revoked.
fn unlisted(revoked: &wire::StillRevoked) -> String {
    format!(
        "revocation lists are off, and proxies believe {revoked}: ca.revocation_lists turns them on, credence identity \
         block ID --now has every certificate of an identity refused"
    )
}

/// What is wrong with revocation lists, where they are wanted.
fn list_warnings(lists: Option<ca::ListsStatus>) -> Vec<String> {
    let Some(lists) = lists else { return Vec::new() };
    let withdrawn = lists.withdrawn.map(|withdrawn| {
        format!(
            "revocation lists are WITHDRAWN since {}, proxies accept revoked certificates: the list of {} is missing or \
             about to end, and cannot be renewed",
            withdrawn.since, withdrawn.because
        )
    });
    let failing = lists.last_failure.map(|why| format!("a revocation list is not renewed: {why}"));
    withdrawn.into_iter().chain(failing).collect()
}

/// With this much left an operator is told.
const OPERATOR_SOON: i64 = 7 * 24 * 60 * 60;

/// An operator's certificate is renewed when its owner calls: nothing else of ours ends with it.
fn warnings(expiries: &[wire::Expiry]) -> Vec<String> {
    let soon = |one: &&wire::Expiry| one.class == "operator" && one.in_secs < OPERATOR_SOON;
    let warning = |one: &wire::Expiry| match one.in_secs {
        ..0 => format!(
            "certificate of {} ended at {}: credence init --reissue-admin on the host",
            one.name, one.at
        ),
        _ => format!(
            "certificate of {} ends at {}: any command of its owner past half of its life renews it",
            one.name, one.at
        ),
    };
    expiries.iter().filter(soon).map(warning).collect()
}

fn clock_state(time: &Reading) -> wire::ClockState {
    let since = match time.state {
        State::Stopped { since, .. } => Some(since.to_string()),
        State::Good | State::Drifting => None,
    };
    wire::ClockState {
        state: time.word().to_owned(),
        skew_millis: time.skew_millis,
        since,
        problem: (time.state != State::Good).then(|| time.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_signs_in_whose_place_and_why() {
        let name = |text: &str| IssuerName::parse(text).unwrap();
        let rests = Health {
            failures: 3,
            problem: Some("vault is sealed".into()),
            stands_in: Some(name("spare")),
            ..Health::default()
        };
        let health = BTreeMap::from([(name("corp"), rests), (name("other"), Health::default())]);
        let told = replaced_issuers(&health);
        let expected = "issuer corp gives no leaves, and spare signs in its place; 3 failures in a row, the last: vault is \
                        sealed";
        assert_eq!(told, [expected]);
    }
}
