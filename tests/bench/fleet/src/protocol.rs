//! What is said on standard input and answered on standard output.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// One command. On the wire it stands on a line of its own beside an `id`, which the answer carries too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Adds nodes and begins to enrol and connect them. Answers at once.
    Start(Start),
    /// Waits until something holds for all nodes, or for those named; answers with [`Waited`].
    Wait(Wait),
    /// Stops a part of the nodes' behaviour until [`Command::Thaw`].
    Freeze {
        /// Which nodes; all of them when empty.
        #[serde(default)]
        nodes: Vec<String>,
        /// What.
        what: Part,
    },
    /// Undoes [`Command::Freeze`]: what came meanwhile is taken in the order in which it came.
    Thaw {
        /// Which nodes; all of them when empty.
        #[serde(default)]
        nodes: Vec<String>,
    },
    /// Closes the nodes' connections and opens none until [`Command::Resume`]. They keep what they hold.
    Stop {
        /// Which nodes; all of them when empty.
        #[serde(default)]
        nodes: Vec<String>,
    },
    /// Lets stopped nodes connect again.
    Resume {
        /// Which nodes; all of them when empty.
        #[serde(default)]
        nodes: Vec<String>,
    },
    /// Renews the nodes' own certificates now, before they are due.
    Renew {
        /// Which nodes; all of them when empty.
        #[serde(default)]
        nodes: Vec<String>,
    },
    /// Answers with a [`NodeReport`] of each node, by its name.
    Report {
        /// Which nodes; all of them when empty.
        #[serde(default)]
        nodes: Vec<String>,
    },
    /// Answers with a [`Summary`] of all nodes.
    Summary,
    /// Counts the nodes by what they hold: `{"VERSION": 999, "": 1}`, the empty text for those that hold nothing.
    Tally {
        /// By what.
        of: Tally,
    },
    /// Ends the program; so does the end of its standard input.
    Exit,
}

/// Which nodes there are, and where they connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Where discovery and renewal are served.
    pub xds: SocketAddr,
    /// Where nodes enrol that bring a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<SocketAddr>,
    /// From where nodes come back whose certificates have ended: all from this address, as behind one router; each
    /// from its own unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover_from: Option<IpAddr>,
    /// The trust domain.
    pub trust_domain: String,
    /// The roots that the nodes trust at first, as PEM.
    pub roots: String,
    /// Names that every node wants by SDS, whether or not what it is sent refers to them.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Whether nodes hold a call for news, as agents do: another bundle and early renewals follow at once.
    #[serde(default)]
    pub news: bool,
    /// How many enrolments and handshakes may be under way at once; 64 unless said.
    #[serde(default = "at_once")]
    pub at_once: usize,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
}

fn at_once() -> usize {
    64
}

/// One node: enrolled by a token, or with a certificate that it brings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlan {
    /// Its name.
    pub node: String,
    /// Its namespace, told as `node.cluster`; `default` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Its certificate chain as PEM, leaf first, with `key`, instead of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The key of `chain`, PKCS#8 in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What can be frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Responses are neither applied nor acknowledged; the stream stays open.
    Acks,
    /// The bundle by which the node knows the server stays as it is: renewals report its old hash.
    Bundle,
    /// The node's own certificate is not renewed.
    Renewal,
}

/// A resource type, by its short word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the words of the xDS protocol")]
pub enum Type {
    Cds,
    Eds,
    Sds,
    Lds,
    Ecds,
    Rds,
}

/// What to wait for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// What must hold.
    pub until: Until,
    /// For which nodes; for all of them when empty.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// For how long to wait at most, in milliseconds.
    pub within_ms: u64,
    /// From when times are counted, in milliseconds since 1970; from the arrival of the command unless said. What
    /// held before counts as 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
}

/// Something that can hold for a node. Authorities are named by their ids, as `ca status` shows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum Until {
    /// It has a stream on which it was answered.
    Connected,
    /// It has no stream.
    Disconnected,
    /// It has acknowledged a resource.
    Holds {
        /// Of this type.
        r#type: Type,
        /// Of this name.
        name: String,
        /// At exactly this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// At another than this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        other_than: Option<String>,
    },
    /// It holds no resource of that name.
    Lacks {
        /// Of this type.
        r#type: Type,
        /// Of this name.
        name: String,
    },
    /// The leaf of this secret was signed by that authority, or hangs from that root.
    LeafFrom {
        /// The secret's name.
        secret: String,
        /// The authority.
        authority: String,
    },
    /// The validation context of this name holds that root.
    Trusts {
        /// The secret's name.
        secret: String,
        /// The root.
        authority: String,
    },
    /// The validation context of this name does not hold that root.
    Distrusts {
        /// The secret's name.
        secret: String,
        /// The root.
        authority: String,
    },
    /// Its own certificate was signed by that authority, or hangs from that root.
    NodeFrom {
        /// The authority.
        authority: String,
    },
    /// The bundle by which it knows the server holds that root.
    BundleHas {
        /// The root.
        authority: String,
    },
}

/// By what nodes are counted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tally {
    /// By the version of a resource.
    Version {
        /// Of this type.
        r#type: Type,
        /// Of this name.
        name: String,
    },
    /// By who signed the leaf of this secret.
    Leaf {
        /// The secret's name.
        secret: String,
    },
    /// By who signed the node's own certificate.
    Node,
    /// By what the nodes do.
    Stage,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    /// Whether it held for every node in time.
    pub met: bool,
    /// For how many nodes it held.
    pub count: usize,
    /// For how many not.
    pub missing: usize,
    /// The first of those, at most 20.
    pub names: Vec<String>,
    /// When it held for them, in milliseconds.
    pub times: Times,
}

/// How times are spread, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Half of the nodes were not later.
    pub p50: i64,
    /// Nine of ten were not later.
    pub p90: i64,
    /// All but one in a hundred were not later.
    pub p99: i64,
    /// The last.
    pub max: i64,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It has no certificate yet.
    Enrolling,
    /// Its enrolment was refused: it does nothing more.
    Refused,
    /// It has no stream, and tries.
    Connecting,
    /// It has a stream.
    Connected,
    /// It was told to stop.
    Stopped,
}

/// A rule that a server must keep, checked on every response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A nonce is new on its stream, and the server's counter in it grows.
    Nonce,
    /// Nothing is sent that was not asked for.
    Unasked,
    /// What was acknowledged is not sent again, unless it was asked for again or something that it depends on came.
    Duplicate,
    /// A version that was replaced does not come back.
    WentBack,
    /// What uses a cluster comes after the cluster.
    MissingReference,
    /// What is in use is not removed.
    BreakBeforeMake,
    /// Everything parses, and a key belongs to its leaf.
    Unreadable,
    /// The node's leaves hold under the roots that it has at that moment.
    Mistrusted,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// By what.
    pub what: String,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Streams that were opened.
    pub streams: u64,
    /// Connections that were opened for streams.
    pub connections: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Responses, each acknowledged.
    pub responses: u64,
    /// Resources in them that were news.
    pub resources: u64,
    /// Resources that came again unchanged, as they may.
    pub repeats: u64,
    /// Removals.
    pub removals: u64,
    /// Renewals of the node's certificate that worked.
    pub renewals: u64,
    /// Renewals that did not.
    pub renewals_failed: u64,
    /// How often nodes came back with certificates that had ended.
    pub recoveries: u64,
    /// How often they were not let in.
    pub recoveries_failed: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Self) {
        self.streams += other.streams;
        self.connections += other.connections;
        self.failures += other.failures;
        self.responses += other.responses;
        self.resources += other.resources;
        self.repeats += other.repeats;
        self.removals += other.removals;
        self.renewals += other.renewals;
        self.renewals_failed += other.renewals_failed;
        self.recoveries += other.recoveries;
        self.recoveries_failed += other.recoveries_failed;
    }
}

/// A certificate, in few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafReport {
    /// Its serial number.
    pub serial: String,
    /// Who signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// From which root it hangs, as far as the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: i64,
}

/// How one node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// What it does.
    pub stage: Stage,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Its own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<LeafReport>,
    /// The roots by which it knows the server.
    pub bundle: Vec<String>,
    /// The leaves that it holds, by the names of their secrets.
    pub leaves: BTreeMap<String, LeafReport>,
    /// The roots that it holds peers against, by the names of their secrets.
    pub roots: BTreeMap<String, Vec<String>>,
    /// The versions that it has acknowledged, by type and name.
    pub held: BTreeMap<Type, BTreeMap<String, String>>,
    /// What it asked for by name and was not answered.
    pub unanswered: Vec<(Type, String)>,
    /// Counters.
    pub counters: Counters,
    /// Broken rules, the first 32.
    pub violations: Vec<Violation>,
    /// What went wrong last; stays when it goes right again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// How all nodes stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are.
    pub nodes: usize,
    /// How many do what.
    pub stages: BTreeMap<Stage, usize>,
    /// Names that were asked for and not answered, over all nodes.
    pub unanswered: usize,
    /// Counters, over all nodes.
    pub counters: Counters,
    /// How often each rule was broken, over all nodes.
    pub broken: BTreeMap<Rule, u64>,
    /// The first broken rules, with the node's name, at most 20.
    pub violations: Vec<(String, Violation)>,
    /// The last errors of nodes that are not connected, at most 20.
    pub errors: Vec<(String, String)>,
    /// Resident memory of the program, in bytes.
    pub memory_bytes: u64,
}
