//! Nodes and their proxies.

use std::path::PathBuf;

use api::calls::Standing;
use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser},
};

use super::{ChangeArgs, ListArgs, ServerArgs};

/// `proxy`.
#[derive(Debug, Clone, Subcommand)]
pub enum ProxyCommand {
    /// Write a node's binding and print the line that joins it
    #[command(
        after_help = "Examples:\n  credence proxy enroll web-1\n  credence proxy enroll web-1 -n production \
                            --label app=web --identity spiffe://prod.example/web --ttl 1h"
    )]
    Enroll(EnrollArgs),
    /// Print the Envoy bootstrap of a node
    Bootstrap(BootstrapArgs),
    /// List nodes and how they stand
    #[command(
        after_help = "Examples:\n  credence proxy list -n production\n  credence proxy list --state offline -o json"
    )]
    List(ProxyListArgs),
    /// One node: what it was sent, acknowledged and refused
    Show(ProxyShowArgs),
    /// Watch one node, or all, until Ctrl-C
    Watch(WatchArgs),
    /// Have an issuer sign the leaves of a node's workloads, or whoever does by default
    #[command(
        after_help = "Examples:\n  credence proxy issuer pay-1 corp\n  credence proxy issuer pay-1 --default\n\nIts leaves \
                            are replaced: of an issuer beside the built-in one when every connected node has\n\
                            acknowledged its root. credence issuer list says who signs."
    )]
    Issuer(ProxyIssuerArgs),
    /// Send a node everything again on its open streams; restarts nothing
    Reload(NodeChangeArgs),
    /// Remove a node's binding: its streams end and it cannot renew
    Remove(NodeChangeArgs),
}

/// `proxy enroll`.
#[derive(Debug, Clone, Args)]
pub struct EnrollArgs {
    /// The node's id
    pub node: String,
    /// Its namespace [default: default; with --replace the one it has]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// A label that selectors match; can be repeated [default: none; with --replace those it has]
    #[arg(long = "label", value_name = "K=V")]
    pub labels: Vec<String>,
    /// Take away the labels it has
    #[arg(long, requires = "replace", conflicts_with = "labels")]
    pub no_labels: bool,
    /// A workload identity it speaks for, the first being its default [default: spiffe://TD/NAMESPACE/NODE; with
    /// --replace those it has]
    #[arg(long = "identity", value_name = "ID")]
    pub identities: Vec<String>,
    /// The issuer that signs their leaves [default: whoever does by default; with --replace the one that is named now]
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// How long the join token is good, such as 10m, at most 24h [default: enrolment.token_ttl of the server]
    #[arg(long, value_name = "D")]
    pub ttl: Option<String>,
    /// Write the binding of a node that is enrolled already anew; what is not given stays as it is
    #[arg(long)]
    pub replace: bool,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `proxy issuer`.
#[derive(Debug, Clone, Args)]
#[group(id = "who", required = true, multiple = false, args = ["issuer", "default"])]
pub struct ProxyIssuerArgs {
    /// The node
    pub node: String,
    /// The issuer: builtin, or one with a role
    pub issuer: Option<String>,
    /// Whoever signs by default
    #[arg(long)]
    pub default: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `proxy bootstrap`.
#[derive(Debug, Clone, Args)]
pub struct BootstrapArgs {
    /// The node
    pub node: String,
    /// Where discovery is served; default: the host of the management address, port 18000
    #[arg(long, value_name = "HOST:18000")]
    pub discovery: Option<String>,
    /// The agent's state directory on the node
    #[arg(long, default_value = "/var/lib/credence-agent", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The port of Envoy's admin page on 127.0.0.1
    #[arg(long, default_value_t = 9901, value_name = "PORT")]
    pub envoy_admin_port: u16,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `proxy list`.
#[derive(Debug, Clone, Args)]
pub struct ProxyListArgs {
    /// One namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only those that stand so, as column SYNC says; online are those that are not OFFLINE
    #[arg(long, ignore_case = true, value_parser = PossibleValuesParser::new(states()))]
    pub state: Option<String>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// The words for how nodes stand, and as listings show them.
fn states() -> Vec<PossibleValue> {
    let value = |one: Standing| match one {
        Standing::NotSent => PossibleValue::new(one.word()).alias("not sent"),
        _ => PossibleValue::new(one.word()),
    };
    Standing::ALL.map(value).to_vec()
}

/// `proxy show`.
#[derive(Debug, Clone, Args)]
pub struct ProxyShowArgs {
    /// The node
    pub node: String,
    /// Show which document caused each resource
    #[arg(long, conflicts_with = "config")]
    pub explain: bool,
    /// Show the exact configuration
    #[arg(long)]
    pub config: bool,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `proxy watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// One node; default: all
    pub node: Option<String>,
    /// How often to look, such as 1s
    #[arg(long, default_value = "1s", value_name = "D")]
    pub interval: String,
    /// End when every node watched is SYNCED
    #[arg(long)]
    pub until_synced: bool,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A change of one node.
#[derive(Debug, Clone, Args)]
pub struct NodeChangeArgs {
    /// The node
    pub node: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
