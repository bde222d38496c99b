//! The rules that every response is held against.

use std::{collections::HashSet, sync::Arc};

use certs::Timestamp;
use xds::TypeUrl;

use super::{Holding, MAX_VIOLATIONS, Material};
use crate::{
    protocol::{Rule, Violation},
    references::References,
};

/// The nonces of one stream. Those of Credence are `STREAM.COUNT` in hexadecimal, and the count grows by one.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    seen: HashSet<String>,
    last: Option<(u64, u64)>,
}

impl Nonces {
    /// Whether `nonce` may come next.
    fn fits(&mut self, nonce: &str) -> bool {
        let read = |text: &str| u64::from_str_radix(text, 16).ok();
        let counted = nonce.split_once('.').and_then(|(stream, count)| Some((read(stream)?, read(count)?)));
        let fits = match (self.last, counted) {
            (Some((stream, last)), Some((of, count))) => of == stream && count == last + 1,
            (None, Some((_, count))) => count == 1,
            // Of another server: new is all that can be asked.
            (_, None) => !nonce.is_empty() && self.seen.insert(nonce.to_owned()),
        };
        self.last = counted.or(self.last);
        fits
    }
}

impl Holding {
    pub(super) fn check_nonce(&mut self, nonce: &str, now: Timestamp) {
        if self.nonces.as_mut().is_some_and(|nonces| !nonces.fits(nonce)) {
            self.note(Rule::Nonce, now, format!("nonce {nonce}"));
        }
    }

    /// A route or listener that uses a cluster comes after it.
    pub(super) fn check_references(
        &mut self,
        type_url: TypeUrl,
        name: &str,
        references: &References,
        now: Timestamp,
    ) {
        let clusters = references.iter().filter(|(child, _)| *child == TypeUrl::Cluster);
        let missing = clusters.filter(|(_, cluster)| !self.of(TypeUrl::Cluster).held.contains_key(cluster));
        let missing: Vec<Arc<str>> = missing.map(|(_, cluster)| Arc::clone(cluster)).collect();
        for cluster in missing {
            let what = format!("{} {name} uses cluster {cluster}, which is not there", type_url.word());
            self.note(Rule::MissingReference, now, what);
        }
    }

    /// A cluster or route table that was removed is used by nothing that is held.
    pub(super) fn check_unused(&mut self, type_url: TypeUrl, name: &Arc<str>, now: Timestamp) {
        if !matches!(type_url, TypeUrl::Cluster | TypeUrl::Route) {
            return;
        }
        let gone = (type_url, Arc::clone(name));
        let user = [TypeUrl::Listener, TypeUrl::Route].into_iter().find_map(|parent| {
            let mut held = self.of(parent).held.iter();
            held.find(|(_, held)| held.references.contains(&gone)).map(|(user, _)| (parent, Arc::clone(user)))
        });
        if let Some((parent, user)) = user {
            let what =
                format!("{} {name} was removed while {} {user} uses it", type_url.word(), parent.word());
            self.note(Rule::BreakBeforeMake, now, what);
        }
    }

    /// Every leaf holds under the roots of its own trust domain, where the node has them.
    pub(super) fn check_leaves(&mut self, now: Timestamp) {
        let mut broken = Vec::new();
        for (name, held) in &self.of(TypeUrl::Secret).held {
            let Material::Leaf(leaf) = &held.material else { continue };
            let Some((roots, _)) = self.roots(&leaf.id.trust_domain().to_uri()) else { continue };
            if let Err(error) = leaf.verify(roots, now) {
                broken.push(format!("SDS {name}, serial {}: {error}", leaf.chain.leaf().serial()));
            }
        }
        for what in broken {
            self.note(Rule::Mistrusted, now, what);
        }
    }

    pub(super) fn note(&mut self, rule: Rule, now: Timestamp, what: String) {
        *self.broken.entry(rule).or_default() += 1;
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { rule, at_ms: now.unix_millis(), what });
        }
    }
}
