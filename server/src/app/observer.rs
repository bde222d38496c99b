//! Who depends on which authority, put together from what the parts have seen: delivery (acknowledgements and
//! handshakes), secrets (leaves), the journal (everybody else).

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::Arc,
    time::Duration,
};

use api::node::NodeDoor;
use async_trait::async_trait;
use ca::{
    dependents::{Acknowledged, Awaiting, BundleFile, Dependent, Dependents, Holding, Presence, Sighting},
    ports::{Journal, JournalError, Unexpired},
};
use certs::{Profile, Timestamp};
use sds::{LeafStatus, SdsStatus};
use spiffe::{AuthorityId, Bindings, BlockList, NodeId, SpiffeId, Trust};
use tokio::sync::watch;
use xds::{Board, NodeStatus, ResourceStatus, StreamStatus, TypeUrl};

/// Observes nodes and operators.
pub(super) struct Observer {
    pub(super) board: Arc<Board>,
    pub(super) bindings: watch::Receiver<Arc<Bindings>>,
    pub(super) blocks: watch::Receiver<Arc<BlockList>>,
    /// When this process began to serve.
    pub(super) began: Timestamp,
    /// How long leaves live.
    pub(super) leaf_lifetime: Duration,
    /// How many streams are let in within a second, for ever.
    pub(super) admitted_per_second: u32,
    pub(super) sds: watch::Receiver<Arc<SdsStatus>>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) nodes: Arc<NodeDoor>,
    pub(super) trust: watch::Receiver<Arc<Trust>>,
}

#[async_trait]
impl Dependents for Observer {
    async fn observe(&self, unexpired: &[Unexpired], now: Timestamp) -> Result<Vec<Dependent>, JournalError> {
        let sds = self.sds.borrow().clone();
        let nodes = self.board.nodes();
        let fleet = self.bindings.borrow().len();
        let awaiting = Awaiting::new(self.began, self.leaf_lifetime, fleet, self.admitted_per_second);
        let served: BTreeMap<&NodeId, (Presence, &NodeStatus)> = nodes
            .iter()
            .map(|node| (&node.node, (awaiting.presence(&self.sighting(node), now), node)))
            .filter(|(_, (presence, _))| *presence != Presence::Away)
            .collect();
        let mut of_nodes: BTreeMap<&NodeId, Vec<&Unexpired>> = BTreeMap::new();
        for leaf in unexpired {
            if let Some(node) = &leaf.node {
                of_nodes.entry(node).or_default().push(leaf);
            }
        }
        // Each leaf is looked at once: this is asked every second, of the whole fleet.
        let mut wanted: BTreeMap<&NodeId, Vec<&LeafStatus>> = BTreeMap::new();
        for leaf in sds.leaves().filter(|leaf| leaf.wanted) {
            wanted.entry(&leaf.node).or_default().push(leaf);
        }
        let (none, nothing) = (Vec::new(), Vec::new());
        let seen = |node: &NodeStatus| Seen {
            leaves: wanted.get(&node.node).unwrap_or(&nothing),
            unexpired: of_nodes.get(&node.node).unwrap_or(&none),
            file: self.file(&node.node),
        };
        let mut all: Vec<Dependent> =
            served.values().map(|(presence, node)| served_one(node, *presence, &sds, &seen(node))).collect();
        let expected = match awaiting.is_beginning(now) {
            true => self.expected(now).await?,
            false => BTreeSet::new(),
        };
        let away = of_nodes
            .keys()
            .map(|node| (*node, Presence::Away))
            .chain(expected.iter().map(|node| (node, Presence::Expected)));
        // Of both the latter counts.
        let away: BTreeMap<&NodeId, Presence> = away.filter(|(node, _)| !served.contains_key(node)).collect();
        all.extend(away.into_iter().map(|(node, presence)| Dependent {
            name: node.to_string(),
            presence,
            known: None,
            holds: of_nodes.get(node).unwrap_or(&none).iter().map(|leaf| holding(leaf)).collect(),
        }));
        all.extend(operators(&*self.journal, now).await?);
        Ok(all)
    }
}

impl Observer {
    fn sighting(&self, node: &NodeStatus) -> Sighting {
        let open = node.streams.iter().filter(|_| node.is_connected);
        let is_blocked =
            node.streams.iter().any(|stream| self.blocks.borrow().contains(&stream.certificate_id));
        Sighting {
            since: open.map(|stream| stream.since).min(),
            last_seen: node.last_seen,
            has_asked: contexts(&node.streams).next().is_some(),
            had_asked: node.before.is_some(),
            may_return: !is_blocked && self.bindings.borrow().enabled(&node.node).is_some(),
        }
    }

    /// Nodes that the process before may have served.
    async fn expected(&self, now: Timestamp) -> Result<BTreeSet<NodeId>, JournalError> {
        let rows = self.journal.remaining(now).await?;
        let (bindings, blocks) = (self.bindings.borrow().clone(), self.blocks.borrow().clone());
        let nodes = rows.into_iter().filter(|row| row.profile == Profile::Node && !blocks.contains(&row.id));
        Ok(nodes.filter_map(|row| row.node).filter(|node| bindings.enabled(node).is_some()).collect())
    }

    /// The bundle file of a node, as its agent reported it last.
    fn file(&self, node: &NodeId) -> BundleFile {
        match self.nodes.reported_bundle(node) {
            None => BundleFile::Unknown,
            Some(report) if report.bundle == Some(self.trust.borrow().own().content_hash()) => {
                BundleFile::Current
            }
            Some(_) => BundleFile::Stale,
        }
    }
}

/// Operators, each by the newest certificate that is not revoked: the command line replaces the one before, and one that
/// was revoked may have been a thief's.
async fn operators(journal: &dyn Journal, now: Timestamp) -> Result<Vec<Dependent>, JournalError> {
    let remaining = journal.remaining(now).await?;
    let operators = remaining.into_iter().filter(|one| one.profile == Profile::Operator);
    Ok(operators
        .map(|one| Dependent {
            name: one.id.path().trim_start_matches("/credence/").to_owned(),
            presence: Presence::Away,
            known: None,
            holds: vec![Holding {
                id: one.id,
                authority: one.authority,
                serial: Some(one.serial),
                until: one.not_after,
            }],
        })
        .collect())
}

fn holding(leaf: &Unexpired) -> Holding {
    Holding { id: leaf.id.clone(), authority: leaf.authority, serial: None, until: leaf.not_after }
}

/// What the other parts know of a node.
struct Seen<'a> {
    /// The leaves that its streams want.
    leaves: &'a [&'a LeafStatus],
    /// What the journal knows of it.
    unexpired: &'a [&'a Unexpired],
    file: BundleFile,
}

/// A node that is served: what it acknowledged counts; where a stream acknowledged nothing, or not what another one did,
/// what the journal knows.
fn served_one(node: &NodeStatus, presence: Presence, sds: &SdsStatus, seen: &Seen<'_>) -> Dependent {
    let mut holds = Vec::new();
    if presence != Presence::Here {
        // Which of its leaves it asked for ended with its streams.
        holds.extend(seen.unexpired.iter().map(|leaf| holding(leaf)));
    }
    let streams = node.before.as_ref().filter(|_| presence == Presence::JustLeft).map(slice::from_ref);
    let streams = streams.unwrap_or(&node.streams);
    let mut known: BTreeSet<&SpiffeId> = BTreeSet::new();
    for leaf in seen.leaves {
        let acknowledged = leaf.acknowledged_authority.zip(leaf.acknowledged_until);
        if let Some((authority, until)) = acknowledged {
            let serial = leaf.acknowledged.clone();
            holds.push(Holding { id: leaf.identity.clone(), authority, serial, until });
        }
        // The streams of a node may be those of several proxies.
        if acknowledged.is_none() || streams.iter().any(|stream| lacks(stream, leaf)) {
            let same = seen.unexpired.iter().filter(|known| known.id == leaf.identity);
            holds.extend(same.map(|leaf| holding(leaf)));
        }
        known.insert(&leaf.identity);
    }
    for stream in streams.iter().chain(node.streams.iter().filter(|_| node.before.is_some())) {
        let (authority, until) = (stream.certificate_authority, stream.certificate_expires);
        holds.push(Holding { id: stream.certificate_id.clone(), authority, serial: None, until });
    }
    let mut roots: Option<BTreeSet<AuthorityId>> = None;
    let mut lists: Option<BTreeMap<AuthorityId, u64>> = None;
    for context in contexts(streams) {
        let acknowledged = acknowledged(context, sds);
        roots = Some(match roots {
            None => acknowledged.roots,
            Some(before) => before.intersection(&acknowledged.roots).copied().collect(),
        });
        lists = match (lists, acknowledged.lists) {
            (Some(before), Some(now)) => Some(in_both(&before, &now)),
            (one, None) | (None, one) => one,
        };
    }
    let refusal = contexts(streams).find_map(|context| context.nack.as_ref()).map(|nack| nack.words.clone());
    Dependent {
        name: node.node.to_string(),
        presence,
        known: (presence != Presence::Expected).then(|| Acknowledged {
            roots,
            lists,
            refusal,
            proven: node.proven_roots.keys().copied().collect(),
            file: seen.file,
        }),
        holds,
    }
}

/// Whether a stream wants a leaf by a name by which it has not taken the newest that its node acknowledged.
fn lacks(stream: &StreamStatus, leaf: &LeafStatus) -> bool {
    secrets(slice::from_ref(stream)).any(|resource| {
        let newest = leaf.names.get(resource.name.as_str());
        newest.is_some_and(|newest| match newest {
            Some(version) => resource.acked.as_deref() != Some(version.as_str()),
            None => true,
        })
    })
}

/// The validation contexts that streams hold.
fn contexts(streams: &[StreamStatus]) -> impl Iterator<Item = &ResourceStatus> {
    secrets(streams).filter(|resource| is_context(&resource.name))
}

fn secrets(streams: &[StreamStatus]) -> impl Iterator<Item = &ResourceStatus> {
    let types = streams.iter().flat_map(|stream| &stream.types);
    types.filter(|one| one.type_url == TypeUrl::Secret.as_str()).flat_map(|one| &one.resources)
}

/// What a node acknowledged of one context.
struct Taken {
    roots: BTreeSet<AuthorityId>,
    lists: Option<BTreeMap<AuthorityId, u64>>,
}

/// What stands in the context that a node acknowledged: what is on offer, or nothing that is known. It may check
/// against lists that are not known either.
fn acknowledged(context: &ResourceStatus, sds: &SdsStatus) -> Taken {
    let offered = sds.context(&context.name);
    match offered.filter(|offered| context.acked.as_deref() == Some(offered.version.as_str())) {
        Some(offered) => Taken { roots: offered.roots.clone(), lists: offered.lists.clone() },
        // Envoy's SPIFFE validator checks against no lists; while they are on this name does not exist.
        None if is_spiffe_validator(&context.name) => Taken { roots: BTreeSet::new(), lists: None },
        None => Taken { roots: BTreeSet::new(), lists: Some(BTreeMap::new()) },
    }
}

/// The lists that stand in both contexts, each by the older one.
fn in_both(
    one: &BTreeMap<AuthorityId, u64>,
    other: &BTreeMap<AuthorityId, u64>,
) -> BTreeMap<AuthorityId, u64> {
    one.iter().filter_map(|(id, number)| Some((*id, *number.min(other.get(id)?)))).collect()
}

fn is_spiffe_validator(name: &str) -> bool {
    name.split_once('?').map_or(name, |(base, _)| base) == "ALL"
}

/// Whether a name of a secret means a validation context (DESIGN section 5, "Names in SDS").
fn is_context(name: &str) -> bool {
    let base = name.split_once('?').map_or(name, |(base, _)| base);
    match base.strip_prefix("spiffe://") {
        Some(rest) => !rest.contains('/'),
        None => matches!(base, "ROOTCA" | "ALL"),
    }
}

#[cfg(test)]
mod tests {
    use audit::{Action, Actor, Event};
    use ca::{
        ports::{Intent, IssueOutcome, ResultRecord},
        testing::MemoryStore,
    };
    use certs::{Serial, SpkiHash};
    use sds::LeafPhase;
    use spiffe::{Purpose, RequestId, Tenant};
    use xds::{Sync, TypeStatus, Version};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000)
    }

    async fn issued(journal: &MemoryStore, operator: &str, number: u32) -> Serial {
        let mut serial = [1; 20];
        serial[16..].copy_from_slice(&number.to_be_bytes());
        let (serial, authority) = (Serial::from_random(serial), AuthorityId::of(SpkiHash([1; 32])));
        let intent = Intent {
            serial: serial.clone(),
            authority,
            epoch: 1,
            tbs_sha256: [0; 32],
            id: SpiffeId::parse(&format!("spiffe://td/credence/operator/{operator}")).unwrap(),
            profile: Profile::Operator,
            tenant: Tenant::default(),
            node: None,
            purpose: Purpose::Operator,
            spki: SpkiHash([2; 32]),
            not_before: now(),
            not_after: now() + Duration::from_secs(3600),
            at: now(),
            request_id: RequestId::random(),
        };
        let event = || Event::done(now(), Actor::System, Action::CertificateIssue, "planted");
        let outcome = IssueOutcome::Issued(Vec::new());
        let result = ResultRecord { serial: serial.clone(), authority, outcome, at: now() };
        journal.record_intent(intent, None, event()).await.unwrap();
        journal.record_result(result, event()).await.unwrap();
        serial
    }

    #[tokio::test]
    async fn an_operator_counts_by_the_newest_certificate_however_often_another_one_renewed() {
        let journal = MemoryStore::new();
        let of_ann = issued(&journal, "ann", 0).await;
        let mut of_eve = None;
        for number in 1..=10_000 {
            of_eve = Some(issued(&journal, "eve", number).await);
        }
        let mut operators = operators(&journal, now()).await.unwrap();
        operators.sort_by(|one, other| one.name.cmp(&other.name));
        let counted: Vec<_> = operators
            .iter()
            .map(|operator| (operator.name.as_str(), operator.holds[0].serial.clone()))
            .collect();
        assert_eq!(counted, [("operator/ann", Some(of_ann)), ("operator/eve", of_eve)]);
    }

    /// A stream with one secret on it.
    fn stream(name: &str, acked: Option<&Version>) -> StreamStatus {
        let (name, acked) = (name.to_owned(), acked.map(ToString::to_string));
        let secret = ResourceStatus { name, sync: Sync::Synced, sent: None, acked, nack: None };
        StreamStatus {
            id: 1,
            since: now(),
            remote: "127.0.0.1:1".parse().unwrap(),
            certificate_expires: Timestamp::MAX,
            certificate_id: SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap(),
            certificate_authority: authority(9),
            server_root: None,
            service: "ADS".into(),
            variant: "delta".into(),
            agent: String::new(),
            agent_version: String::new(),
            drain_secs: None,
            responses: 1,
            types: vec![TypeStatus {
                word: TypeUrl::Secret.word().to_owned(),
                type_url: TypeUrl::Secret.as_str().to_owned(),
                sync: Sync::Synced,
                at: now(),
                resources: vec![secret],
            }],
        }
    }

    fn authority(number: u8) -> AuthorityId {
        AuthorityId::of(SpkiHash([number; 32]))
    }

    #[test]
    fn a_leaf_is_replaced_when_every_stream_that_wants_it_has_taken_the_new_one() {
        let (old, new, other) = (Version::of(b"old"), Version::of(b"new"), Version::of(b"by another name"));
        let (node, identity) = (NodeId::parse("web-1").unwrap(), SpiffeId::parse("spiffe://td/web").unwrap());
        let known = |number| Unexpired {
            id: identity.clone(),
            node: Some(node.clone()),
            profile: Profile::Workload,
            authority: authority(number),
            not_after: now(),
        };
        let (before, after) = (known(1), known(2));
        let check = |streams: Vec<StreamStatus>, expected: &[u8]| {
            let names = [("default", Some(&new)), ("spiffe://td/web", Some(&other)), ("default?g=1", None)];
            let leaf = LeafStatus {
                node: node.clone(),
                identity: identity.clone(),
                phase: LeafPhase::Held,
                wanted: true,
                serial: None,
                authority: None,
                issued: None,
                not_after: None,
                at_risk: false,
                next_request: None,
                failures: 0,
                last_error: None,
                acknowledged: None,
                acknowledged_authority: Some(authority(2)),
                acknowledged_until: Some(now()),
                names: names.map(|(name, version)| (name.into(), version.cloned())).into(),
                refusal: None,
            };
            let seen = Seen { leaves: &[&leaf], unexpired: &[&before, &after], file: BundleFile::Current };
            let status = NodeStatus {
                node: node.clone(),
                is_connected: true,
                last_seen: now(),
                revision: 1,
                sync: Sync::Synced,
                streams,
                before: None,
                proven_roots: BTreeMap::new(),
            };
            let dependent = served_one(&status, Presence::Here, &SdsStatus::default(), &seen);
            let held = dependent.holds.iter().filter(|one| one.id == identity).map(|one| one.authority);
            let expected = expected.iter().map(|number| authority(*number)).collect::<BTreeSet<_>>();
            assert_eq!(held.collect::<BTreeSet<_>>(), expected, "{status:?}");
        };
        let taken = || stream("default", Some(&new));
        check(vec![taken()], &[2]);
        check(vec![taken(), stream("default", Some(&new)), stream("spiffe://td/web", Some(&other))], &[2]);
        check(vec![taken(), stream("ROOTCA", None)], &[2]);
        for (name, acked) in [
            ("default", Some(&old)),
            ("default", None),
            ("spiffe://td/web", Some(&old)),
            ("default?g=1", None),
        ] {
            check(vec![taken(), stream(name, acked)], &[1, 2]);
            check(vec![stream(name, acked), taken()], &[1, 2]);
        }
    }
}
