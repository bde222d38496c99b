//! The whole picture in one call.

use std::collections::BTreeMap;

use ca::ports::{AuthorityState, CertificateFilter, CertificateRow, Place};
use certs::{Profile, Timestamp};

use super::{
    CallError, Caller, Calls, ProxyFilter, tokens,
    trust::{class_word, unavailable},
};
use crate::{
    ports::{DocumentFilter, RevisionState},
    wire,
};

/// The most nodes and certificates that the picture holds.
const MAX_SHOWN: usize = 1000;

impl Calls {
    /// The numbers of a front page.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn stats(&self, caller: &Caller) -> Result<wire::Stats, CallError> {
        let now = self.clock.now();
        let expiries = self.expiries(caller, now).await?;
        self.count(caller, now, &expiries).await
    }

    /// Everything that `credence status` shows.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn status(&self, caller: &Caller) -> Result<wire::Status, CallError> {
        let now = self.clock.now();
        let expiries = self.expiries(caller, now).await?;
        let filter = ProxyFilter { limit: MAX_SHOWN, ..ProxyFilter::default() };
        Ok(wire::Status {
            version: self.facts.version.clone(),
            trust_domain: self.domain.to_string(),
            at: now.to_string(),
            not_ready: self.readiness.not_ready(),
            stats: self.count(caller, now, &expiries).await?,
            expiries,
            failing_renewals: self.renewals.failing(),
            store: self.sealing.store(),
            proxies: self.list_proxies(caller, &filter).items,
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
        let unused = self.nodes.tokens().await?;
        let unused = unused.iter().filter(|token| tokens::state(token, now) == "unused").count();
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

    /// The next end of each class of certificate, ours and the operators' included, soonest first.
    async fn expiries(&self, caller: &Caller, now: Timestamp) -> Result<Vec<wire::Expiry>, CallError> {
        let mut found = Vec::new();
        let records = self.authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
        for record in records.iter().filter(|record| record.state == AuthorityState::Active) {
            let class = match record.place {
                Place::Root => Profile::Root,
                Place::Issuing => Profile::Issuing,
            };
            found.push(expiry(class, record.id.to_string(), record.certificate.not_after(), now));
        }
        for class in [Profile::Server, Profile::Node, Profile::Workload, Profile::Operator] {
            let filter = CertificateFilter {
                profile: Some(class),
                valid_at: Some(now),
                newest_only: true,
                limit: MAX_SHOWN,
                ..CertificateFilter::default()
            };
            let rows = self.journal.certificates(&filter).await;
            let rows = rows.map_err(|error| unavailable("journal", &error))?;
            // A workload's certificate without a node is the probe of `credence verify`: nobody renews it.
            let is_kept = |row: &&CertificateRow| class != Profile::Workload || row.intent.node.is_some();
            let own = rows.iter().filter(|row| row.intent.tenant == caller.tenant).filter(is_kept);
            if let Some(row) = own.min_by_key(|row| row.intent.not_after) {
                found.push(expiry(class, row.intent.id.to_string(), row.intent.not_after, now));
            }
        }
        found.sort_by_key(|expiry| expiry.in_secs);
        Ok(found)
    }
}

fn expiry(class: Profile, name: String, at: Timestamp, now: Timestamp) -> wire::Expiry {
    let in_secs = at.millis_since(now).div_euclid(1000);
    wire::Expiry { class: class_word(class).to_owned(), name, at: at.to_string(), in_secs }
}
