//! What a node tells about itself, and what can be waited for.

use std::collections::BTreeMap;

use certs::{Certificate, Timestamp};
use spiffe::AuthorityId;
use xds::TypeUrl;

use super::{Node, State};
use crate::{
    material::{Leaf, Material},
    protocol::{Counters, LeafReport, NodeReport, Rule, Stage, Tally, Type, Until, Violation},
};

/// Of what the summary of a fleet is made.
pub(crate) struct Brief {
    pub(crate) stage: Stage,
    pub(crate) unanswered: usize,
    pub(crate) counters: Counters,
    pub(crate) broken: BTreeMap<Rule, u64>,
    pub(crate) first: Option<Violation>,
    pub(crate) last_error: Option<String>,
}

impl Type {
    fn url(self) -> TypeUrl {
        match self {
            Self::Cds => TypeUrl::Cluster,
            Self::Eds => TypeUrl::Endpoints,
            Self::Sds => TypeUrl::Secret,
            Self::Lds => TypeUrl::Listener,
            Self::Ecds => TypeUrl::Extension,
            Self::Rds => TypeUrl::Route,
        }
    }

    fn of(url: TypeUrl) -> Self {
        match url {
            TypeUrl::Cluster => Self::Cds,
            TypeUrl::Endpoints => Self::Eds,
            TypeUrl::Secret => Self::Sds,
            TypeUrl::Listener => Self::Lds,
            TypeUrl::Extension => Self::Ecds,
            TypeUrl::Route => Self::Rds,
        }
    }
}

impl Node {
    /// Since when something holds; `None` while it does not.
    pub(crate) fn since(&self, until: &Until) -> Option<Timestamp> {
        let state = self.state();
        let in_stage = |stage| (state.stage == stage).then_some(state.since);
        match until {
            Until::Connected => in_stage(Stage::Connected),
            Until::Disconnected => (state.stage != Stage::Connected).then_some(state.since),
            Until::Holds { r#type, name, version, other_than } => {
                let held = state.holding.held(r#type.url(), name)?;
                let fits = version.as_deref().is_none_or(|version| *version == *held.version)
                    && other_than.as_deref().is_none_or(|other| *other != *held.version);
                fits.then_some(held.at)
            }
            Until::Lacks { r#type, name } => {
                state.holding.held(r#type.url(), name).is_none().then_some(Timestamp::EPOCH)
            }
            Until::LeafFrom { secret, authority } => {
                let (leaf, at) = state.holding.leaf(secret)?;
                state.hangs_from(leaf, authority).then_some(at)
            }
            Until::Trusts { secret, authority } => {
                let (roots, at) = state.holding.roots(secret)?;
                ids(roots).contains(authority).then_some(at)
            }
            Until::Distrusts { secret, authority } => {
                let (roots, at) = state.holding.roots(secret)?;
                (!ids(roots).contains(authority)).then_some(at)
            }
            Until::NodeFrom { authority } => {
                let leaf = &state.identity.as_ref()?.leaf;
                state.hangs_from(leaf, authority).then_some(state.certified_at)
            }
            Until::BundleHas { authority } => {
                ids(state.bundle.authorities()).contains(authority).then_some(state.bundle_at)
            }
        }
    }

    /// Under what the node is counted.
    pub(crate) fn tally(&self, of: &Tally) -> String {
        let state = self.state();
        let signer = |leaf: &Leaf| leaf.authority().map(|id| id.to_string());
        match of {
            Tally::Version { r#type, name } => {
                state.holding.held(r#type.url(), name).map(|held| held.version.to_string())
            }
            Tally::Leaf { secret } => state.holding.leaf(secret).and_then(|(leaf, _)| signer(leaf)),
            Tally::Node => state.identity.as_ref().and_then(|identity| signer(&identity.leaf)),
            Tally::Stage => {
                serde_json::to_value(state.stage).ok().and_then(|stage| stage.as_str().map(str::to_owned))
            }
        }
        .unwrap_or_default()
    }

    /// For the summary.
    pub(crate) fn brief(&self) -> Brief {
        let state = self.state();
        Brief {
            stage: state.stage,
            unanswered: state.holding.unanswered().count(),
            counters: state.all_counters(),
            broken: state.holding.broken().clone(),
            first: state.holding.violations().first().cloned(),
            last_error: state.last_error.clone(),
        }
    }

    /// Everything.
    pub(crate) fn report(&self) -> NodeReport {
        let state = self.state();
        let mut leaves = BTreeMap::new();
        let mut roots = BTreeMap::new();
        for (name, held) in state.holding.all(TypeUrl::Secret) {
            match &held.material {
                Material::Leaf(leaf) => {
                    leaves.insert(name.to_string(), state.leaf(leaf));
                }
                Material::Roots(held) => {
                    roots.insert(name.to_string(), ids(held));
                }
                Material::Other => {}
            }
        }
        let held = TypeUrl::ALL.into_iter().map(|url| {
            let versions = state.holding.all(url).iter();
            (
                Type::of(url),
                versions.map(|(name, held)| (name.to_string(), held.version.to_string())).collect(),
            )
        });
        NodeReport {
            stage: state.stage,
            since_ms: state.since.unix_millis(),
            certificate: state.identity.as_ref().map(|identity| state.leaf(&identity.leaf)),
            bundle: ids(state.bundle.authorities()),
            leaves,
            roots,
            held: held.collect(),
            unanswered: state
                .holding
                .unanswered()
                .map(|(url, name)| (Type::of(url), name.to_string()))
                .collect(),
            counters: state.all_counters(),
            violations: state.holding.violations().to_vec(),
            last_error: state.last_error.clone(),
        }
    }
}

impl State {
    fn all_counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.add(&self.holding.counters());
        counters
    }

    /// Every root that the node knows, from wherever.
    fn known_roots(&self, leaf: &Leaf) -> Vec<Certificate> {
        let mut roots = self.bundle.authorities().to_vec();
        if let Some((held, _)) = self.holding.roots(&leaf.id.trust_domain().to_uri()) {
            roots.extend_from_slice(held);
        }
        roots
    }

    fn root(&self, leaf: &Leaf) -> Option<AuthorityId> {
        leaf.root(&self.known_roots(leaf))
    }

    fn hangs_from(&self, leaf: &Leaf, authority: &str) -> bool {
        let is = |id: Option<AuthorityId>| id.is_some_and(|id| id.to_string() == authority);
        is(leaf.authority()) || is(self.root(leaf))
    }

    fn leaf(&self, leaf: &Leaf) -> LeafReport {
        let certificate = leaf.chain.leaf();
        LeafReport {
            serial: certificate.serial().to_string(),
            authority: leaf.authority().map(|id| id.to_string()),
            root: self.root(leaf).map(|id| id.to_string()),
            expires_ms: certificate.not_after().unix_millis(),
        }
    }
}

fn ids(roots: &[Certificate]) -> Vec<String> {
    roots.iter().map(|root| AuthorityId::of(root.spki_hash()).to_string()).collect()
}
