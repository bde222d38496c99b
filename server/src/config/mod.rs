//! `credence.yaml`: one file, read once. Unknown keys are refused, all problems are reported at once, each with
//! its place and what to write instead. Secrets never stand in it; they come from files that it names.

mod edges;
mod hooks;
pub(crate) mod issuers;
mod read;
mod slots;

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use certs::{Profile, format_duration};
use spiffe::TrustDomain;
use thiserror::Error;
use vault::{Addresses, Mount, Name};

pub use self::hooks::{HookConfig, HookTarget};
pub use self::issuers::{AnchorConfig, IssuerConfig, IssuerKind, Place};
pub(crate) use self::read::nearest;
pub use self::read::{environment, parse};
pub use crate::hooks::Topic;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigProblem {
    /// The file, or the environment variable.
    pub source_name: String,
    /// Line and column, where the value stands in the file.
    pub place: Option<(u64, u64)>,
    /// The key, as `server.grpc.port`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.message, self.source_name)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if self.path.is_empty() { write!(f, ")") } else { write!(f, ", {})", self.path) }
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address; loopback unless configured.
    pub address: IpAddr,
    /// The port; 0 lets the system choose, for tests.
    pub port: u16,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// From where the key-encryption key comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekSource {
    /// A file of 32 random octets.
    File(PathBuf),
    /// A passphrase, read from a file or file descriptor path such as `/dev/fd/3`.
    PassphraseFile(PathBuf),
    /// A key on a PKCS#11 token.
    Token {
        /// The module, a shared library.
        module: PathBuf,
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
        /// Where the PIN is read from: a file, or a descriptor such as `/dev/fd/3`.
        pin_file: PathBuf,
    },
    /// A key in the Transit engine of a Vault.
    Transit(TransitConfig),
}

/// A key in the Transit engine of a Vault, and how we log in there. These credentials are no issuer's: they stand
/// outside the store, which they open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitConfig {
    /// Where it answers; several are the nodes of one cluster.
    pub addresses: Addresses,
    /// The certificates that vouch for it.
    pub ca_file: PathBuf,
    /// The namespace, where Vault has them.
    pub namespace: Option<Mount>,
    /// Where Transit is mounted. Default `transit`.
    pub mount: Mount,
    /// The key's name.
    pub key: Name,
    /// How we log in.
    pub login: TransitLogin,
}

/// How we log in to a Vault whose key opens the store. Every file is read again at each use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransitLogin {
    /// By a role id and a secret id.
    AppRole {
        /// Where the method is mounted. Default `approle`.
        mount: Mount,
        /// Which role: its public half.
        role_id: String,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
    /// By a client certificate.
    Certificate {
        /// Where the method is mounted. Default `cert`.
        mount: Mount,
        /// Which role; without, Vault tries all.
        role: Option<Name>,
        /// The chain, PEM, leaf first.
        chain_file: PathBuf,
        /// Its key.
        key_file: PathBuf,
    },
    /// By the token of a Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted. Default `kubernetes`.
        mount: Mount,
        /// Which role.
        role: Name,
        /// The file with the token. Default where Kubernetes puts it.
        token_file: PathBuf,
    },
    /// By a token in a file that somebody keeps fresh.
    Token {
        /// The file.
        token_file: PathBuf,
    },
}

impl KekSource {
    /// The files that hold something secret.
    #[must_use]
    pub fn secret_files(&self) -> Vec<&PathBuf> {
        match self {
            Self::File(path) | Self::PassphraseFile(path) => vec![path],
            Self::Token { pin_file, .. } => vec![pin_file],
            Self::Transit(transit) => match &transit.login {
                TransitLogin::AppRole { secret_id_file, .. } => vec![secret_id_file],
                TransitLogin::Certificate { chain_file, key_file, .. } => vec![chain_file, key_file],
                TransitLogin::Kubernetes { token_file, .. } | TransitLogin::Token { token_file } => {
                    vec![token_file]
                }
            },
        }
    }
}

/// A key slot, by name, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotConfig {
    /// The slot's name in the store.
    pub name: String,
    /// What opens it.
    pub source: KekSource,
}

/// What happens to a listener whose document says nothing of mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultMtls {
    /// Only mTLS. The default.
    Strict,
    /// mTLS and plaintext.
    Permissive,
    /// Plaintext.
    Off,
}

/// How long each class of certificate lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The root.
    pub root: Duration,
    /// An issuing authority; replaced by itself at half of it.
    pub issuing: Duration,
    /// A workload's leaf.
    pub leaf: Duration,
    /// A node's certificate.
    pub node: Duration,
    /// An operator's certificate.
    pub operator: Duration,
    /// Our own.
    pub server: Duration,
}

impl Lifetimes {
    /// The section `ca`, with what differs from the defaults; nothing if nothing does.
    fn to_yaml(self, lists: Option<Duration>) -> String {
        let lists = lists.map_or_else(String::new, |life| {
            format!("  revocation_lists: true\n  revocation_list_lifetime: {}\n", format_duration(life))
        });
        let lines: String = [
            ("root_lifetime", self.root, Profile::Root),
            ("issuing_lifetime", self.issuing, Profile::Issuing),
            ("leaf_lifetime", self.leaf, Profile::Workload),
            ("node_lifetime", self.node, Profile::Node),
            ("operator_lifetime", self.operator, Profile::Operator),
            ("server_lifetime", self.server, Profile::Server),
        ]
        .into_iter()
        .filter(|(_, length, profile)| *length != profile.default_lifetime())
        .map(|(key, length, _)| format!("  {key}: {}\n", format_duration(length)))
        .chain([lists])
        .collect();
        if lines.is_empty() { lines } else { format!("ca:\n{lines}\n") }
    }
}

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The one trust domain.
    pub trust_domain: TrustDomain,
    /// xDS, SDS and renewal of node certificates. Default 127.0.0.1:18000.
    pub grpc: Listen,
    /// Enrolment. Default 127.0.0.1:18001.
    pub enrolment: Listen,
    /// Management. Default 127.0.0.1:8080.
    pub rest: Listen,
    /// Probes and metrics, plain HTTP. Default 127.0.0.1:9090; `None` when switched off.
    pub probes: Option<Listen>,
    /// Names that our own certificate carries. Default localhost, 127.0.0.1, ::1.
    pub names: Vec<String>,
    /// The data directory. Default ./credence-data.
    pub data_dir: PathBuf,
    /// Opens whichever slot it fits. Default: the file ./credence.kek; none if `secrets.slots` names some instead.
    pub kek: Option<KekSource>,
    /// Further slots, by name. One that does not open is reported; one that opens is enough.
    pub slots: Vec<SlotConfig>,
    /// Holds the newest end of the audit chain, best on another volume. Default: none; then a rollback of the whole
    /// store is not noticed.
    pub anchor_file: Option<PathBuf>,
    /// Where `init` put the operator's certificate, for the commands on this host. Default ./credence-admin.
    pub admin_dir: PathBuf,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// How long a join token lives unless asked otherwise. Default 10 minutes, at most 24 hours.
    pub token_ttl: Duration,
    /// How long revocation lists live that proxies check against. Default: none, there are no lists.
    pub revocation_lists: Option<Duration>,
    /// The issuers that the store must hold beside the built-in one. Default: none is said, and nothing is compared.
    pub issuers: Option<Vec<IssuerConfig>>,
    /// For listeners that do not say. Default strict.
    pub default_mtls: DefaultMtls,
    /// The greatest age of connections between proxies.
    pub max_connection: Duration,
    /// Programs of this host that may publish TXT records for edges. Default: none.
    pub dns_commands: Vec<PathBuf>,
    /// Who is told of what must surprise nobody. Default: nobody.
    pub hooks: Vec<HookConfig>,
    /// The least level that is logged, as `info` or `credence_xds=debug,info`. Default `info`.
    pub log_level: String,
    /// Default text on a terminal, JSON elsewhere.
    pub log_format: Option<LogFormat>,
    /// Development mode: short lives are allowed, listeners must be on loopback. Never from the file.
    pub dev: bool,
}

impl Config {
    /// Every address we listen on, for the check that no document takes one away.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<std::net::SocketAddr> {
        [Some(self.grpc), Some(self.enrolment), Some(self.rest), self.probes]
            .into_iter()
            .flatten()
            .map(|listen| (listen.address, listen.port).into())
            .collect()
    }

    /// The file that says what this configuration says, as `init` writes it.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let kek = self.kek.as_ref().map_or_else(String::new, |source| format!("  {}\n", source_yaml(source)));
        let slots: String = self
            .slots
            .iter()
            .map(|slot| format!("    - {{name: \"{}\", {}}}\n", slot.name, source_yaml(&slot.source)))
            .collect();
        let slots = if slots.is_empty() { slots } else { format!("  slots:\n{slots}") };
        let anchor = self
            .anchor_file
            .as_deref()
            .map_or_else(String::new, |path| format!("\n  anchor_file: {}", quoted(path)));
        let probes = self.probes.map_or("enabled: false".to_owned(), |listen| {
            format!("enabled: true\n    address: \"{}\"\n    port: {}", listen.address, listen.port)
        });
        let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
        format!(
            "# Credence. Every key, its default and its meaning: docs/reference/configuration.md\n\
             trust_domain: {domain}\n\n\
             server:\n  \
               names: [{names}]\n  \
               grpc:\n    address: \"{grpc_address}\"\n    port: {grpc_port}\n  \
               rest:\n    address: \"{rest_address}\"\n    port: {rest_port}\n\n\
             enrolment:\n  address: \"{enrolment_address}\"\n  port: {enrolment_port}\n\n\
             storage:\n  type: sqlite\n  path: {data}{anchor}\n\n\
             secrets:\n{kek}{slots}  admin_dir: {admin}\n\n\
             {defaults}{lifetimes}{issuers}{edges}{hooks}observability:\n  metrics:\n    {probes}\n  logging:\n    level: \"{level}\"\n",
            defaults = self.defaults_to_yaml(),
            lifetimes = self.lifetimes.to_yaml(self.revocation_lists),
            issuers = self.issuers_to_yaml(),
            edges = self.edges_to_yaml(),
            hooks = self.hooks_to_yaml(),
            domain = self.trust_domain,
            names = names.join(", "),
            grpc_address = self.grpc.address,
            grpc_port = self.grpc.port,
            rest_address = self.rest.address,
            rest_port = self.rest.port,
            enrolment_address = self.enrolment.address,
            enrolment_port = self.enrolment.port,
            data = quoted(&self.data_dir),
            admin = quoted(&self.admin_dir),
            level = self.log_level,
        )
    }
}

impl Config {
    /// The section `hooks`; nothing if there are none.
    fn hooks_to_yaml(&self) -> String {
        let hooks: String = self.hooks.iter().map(HookConfig::to_yaml).collect();
        if hooks.is_empty() { hooks } else { format!("hooks:\n{hooks}\n") }
    }

    /// The section `defaults`, with what differs from the defaults; nothing if nothing does.
    fn defaults_to_yaml(&self) -> String {
        if self.max_connection == xds::translate::MAX_CONNECTION_DURATION {
            return String::new();
        }
        format!("defaults:\n  max_connection_duration: {}\n\n", format_duration(self.max_connection))
    }
}

/// Every path in double quotes, so that the same text stands in a block and in a flow map.
fn source_yaml(source: &KekSource) -> String {
    match source {
        KekSource::File(path) => format!("kek_file: {}", quoted(path)),
        KekSource::PassphraseFile(path) => format!("passphrase_file: {}", quoted(path)),
        KekSource::Token { module, token, key, pin_file } => format!(
            "pkcs11: {{module: {}, token: {token:?}, key: {key:?}, pin_file: {}}}",
            quoted(module),
            quoted(pin_file)
        ),
        KekSource::Transit(transit) => transit.to_yaml(),
    }
}

impl TransitConfig {
    /// As one line, as [`source_yaml`].
    fn to_yaml(&self) -> String {
        let addresses: Vec<String> =
            self.addresses.as_slice().iter().map(|address| format!("\"{address}\"")).collect();
        let namespace = self
            .namespace
            .as_ref()
            .map_or_else(String::new, |namespace| format!(", namespace: {namespace:?}"));
        let login = match &self.login {
            TransitLogin::AppRole { mount, role_id, secret_id_file } => format!(
                "approle: {{mount: {mount:?}, role_id: {role_id:?}, secret_id_file: {}}}",
                quoted(secret_id_file)
            ),
            TransitLogin::Certificate { mount, role, chain_file, key_file } => {
                let role = role.as_ref().map_or_else(String::new, |role| format!("role: {role:?}, "));
                format!(
                    "certificate: {{mount: {mount:?}, {role}chain_file: {}, key_file: {}}}",
                    quoted(chain_file),
                    quoted(key_file)
                )
            }
            TransitLogin::Kubernetes { mount, role, token_file } => format!(
                "kubernetes: {{mount: {mount:?}, role: {role:?}, token_file: {}}}",
                quoted(token_file)
            ),
            TransitLogin::Token { token_file } => format!("token_file: {}", quoted(token_file)),
        };
        format!(
            "transit: {{addresses: [{}], ca_file: {}{namespace}, mount: {:?}, key: {:?}, {login}}}",
            addresses.join(", "),
            quoted(&self.ca_file),
            self.mount,
            self.key
        )
    }
}

fn quoted(path: &std::path::Path) -> String {
    serde_json::to_string(&path.to_string_lossy()).unwrap_or_default()
}
