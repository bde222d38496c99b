//! From text to [`Config`].

mod names;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use certs::{Profile, format_duration, parse_duration};
use proto::text::{Content, Key, Node, read};
use spiffe::TrustDomain;

pub(crate) use self::names::nearest;
use super::{Config, ConfigProblem, DefaultMtls, Lifetimes, Listen, LogFormat};

const MAX_FILE_BYTES: usize = 1 << 20;
/// How long a revocation list lives, at least and unless configured.
const LEAST_LIST_LIFE: Duration = ca::lists::LEAST_LIFE;
/// How long one may live at most: a month.
const MAX_LIST_LIFE: Duration = Duration::from_secs(30 * 86_400);
const PREFIX: &str = "CREDENCE_";
const SECTIONS: &[&str] = &[
    "trust_domain",
    "server",
    "enrolment",
    "storage",
    "secrets",
    "ca",
    "issuers",
    "defaults",
    "edges",
    "hooks",
    "observability",
    "cache",
    "service_discovery",
    "security",
];
/// Keys of the requirements that are understood and cannot be honoured yet.
const NOT_YET: &[&str] = &[
    "cache",
    "service_discovery",
    "security",
    "observability.tracing",
    "storage.connection_string",
    "storage.pool_size",
    "server.grpc.tls.cert_path",
    "server.grpc.tls.key_path",
];

/// The variables that overlay the file: `CREDENCE_SERVER__GRPC__PORT=18000` sets `server.grpc.port`. Whatever octets the
/// others hold is nobody's business here; the values of ours are judged by [`parse`].
#[must_use]
pub fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, OsString)> {
    variables
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| {
            let path = name.strip_prefix(PREFIX).unwrap_or_default().to_lowercase();
            SECTIONS.contains(&path.split("__").next().unwrap_or_default())
        })
        .collect()
}

/// Reads a configuration and its overlay. Relative paths count from `base`, the file's own directory.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn parse(
    source_name: &str,
    text: &str,
    overlay: &[(String, OsString)],
    base: &Path,
    dev: bool,
) -> Result<Config, Vec<ConfigProblem>> {
    let problem = |message: String, place| {
        vec![ConfigProblem {
            source_name: source_name.to_owned(),
            place,
            path: String::new(),
            message,
            hint: None,
        }]
    };
    if text.len() > MAX_FILE_BYTES {
        return Err(problem(
            format!("the file has {} bytes, at most {MAX_FILE_BYTES} are allowed", text.len()),
            None,
        ));
    }
    let mut tree = read(text).map_err(|error| {
        problem(error.reason.to_string(), error.position.map(|position| (position.line, position.column)))
    })?;
    let (mut from_environment, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, value) in overlay {
        let path = name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase().replace("__", ".");
        let Some(value) = value.to_str() else {
            problems.push(ConfigProblem {
                source_name: name.clone(),
                place: None,
                path,
                message: "the value is not UTF-8".to_owned(),
                hint: Some(format!("write {name} in UTF-8, or unset it")),
            });
            continue;
        };
        set(&mut tree, &path.split('.').collect::<Vec<_>>(), value);
        from_environment.insert(path, name.clone());
    }
    let mut reader = Reader { source_name, from_environment, base, dev, problems };
    let config = reader.config(&tree);
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(reader.problems),
    }
}

fn set(node: &mut Node, path: &[&str], value: &str) {
    let [first, rest @ ..] = path else { return };
    if !matches!(node.content, Content::Map(_)) {
        node.content = Content::Map(Vec::new());
    }
    let Content::Map(entries) = &mut node.content else { return };
    let index = entries.iter().position(|(key, _)| key.name == *first).unwrap_or_else(|| {
        let key = Key { position: None, name: (*first).to_owned() };
        entries.push((key, Node { position: None, content: Content::Null }));
        entries.len() - 1
    });
    let child = &mut entries[index].1;
    if rest.is_empty() {
        // A scalar as YAML would read it, so that numbers and booleans are what they look like.
        *child = read(value).unwrap_or(Node { position: None, content: Content::Text(value.to_owned()) });
        child.position = None;
    } else {
        set(child, rest, value);
    }
}

pub(super) struct Reader<'a> {
    source_name: &'a str,
    from_environment: BTreeMap<String, String>,
    pub(super) base: &'a Path,
    dev: bool,
    problems: Vec<ConfigProblem>,
}

/// A map whose keys are taken one by one; what is left is unknown.
pub(super) struct Section<'t> {
    path: String,
    pub(super) entries: Vec<&'t (Key, Node)>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<&'t Node> {
        self.known.push(key);
        let index = self.entries.iter().position(|(found, _)| found.name == key)?;
        let (_, node) = self.entries.remove(index);
        (!matches!(node.content, Content::Null)).then_some(node)
    }
}

impl Reader<'_> {
    pub(super) fn refuse(
        &mut self,
        node: &Node,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let source_name = self.from_environment.get(path).cloned();
        self.problems.push(ConfigProblem {
            place: node
                .position
                .filter(|_| source_name.is_none())
                .map(|position| (position.line, position.column)),
            source_name: source_name.unwrap_or_else(|| self.source_name.to_owned()),
            path: path.to_owned(),
            message: message.into(),
            hint,
        });
    }

    pub(super) fn section<'t>(&mut self, node: Option<&'t Node>, path: &str) -> Section<'t> {
        let mut section = Section { path: path.to_owned(), entries: Vec::new(), known: Vec::new() };
        match node.map(|node| (node, &node.content)) {
            None | Some((_, Content::Null)) => {}
            Some((_, Content::Map(entries))) => section.entries = entries.iter().collect(),
            Some((node, _)) => {
                self.refuse(node, path, format!("expected a map, found {}", kind(node)), None);
            }
        }
        section
    }

    pub(super) fn sub<'t>(&mut self, parent: &mut Section<'t>, key: &'static str) -> Section<'t> {
        let path = parent.path_of(key);
        let node = parent.take(key);
        self.section(node, &path)
    }

    /// Whatever was not taken is either known and not built, or unknown.
    pub(super) fn close(&mut self, section: Section<'_>) {
        for (key, node) in &section.entries {
            let path = section.path_of(&key.name);
            let at = Node { position: key.position.or(node.position), content: Content::Null };
            if NOT_YET.contains(&path.as_str()) {
                self.refuse(
                    &at,
                    &path,
                    format!("{path} is known, not in this version"),
                    Some("leave it out".to_owned()),
                );
                continue;
            }
            let not_yet = NOT_YET.iter().filter_map(|path| path.strip_prefix(&format!("{}.", section.path)));
            let nearest = nearest(&key.name, section.known.iter().copied().chain(not_yet));
            self.refuse(
                &at,
                &path,
                format!("unknown key {:?}", key.name),
                nearest.map(|name| format!("did you mean {name:?}?")),
            );
        }
    }

    fn config(&mut self, tree: &Node) -> Option<Config> {
        let mut top = self.section(Some(tree), "");
        let trust_domain = self.trust_domain(&mut top, tree);
        let mut server = self.sub(&mut top, "server");
        let grpc = self.grpc(&mut server);
        let rest = {
            let mut rest = self.sub(&mut server, "rest");
            let listen = self.listen(&mut rest, 8080);
            self.close(rest);
            listen
        };
        let names = self.names(&mut server);
        self.close(server);
        let mut enrolment_section = self.sub(&mut top, "enrolment");
        let enrolment = self.listen(&mut enrolment_section, 18001);
        let token_ttl = self.duration(
            &mut enrolment_section,
            "token_ttl",
            Duration::from_secs(600),
            Duration::from_secs(10),
            Duration::from_secs(86_400),
        );
        self.close(enrolment_section);
        let (data_dir, anchor_file) = self.storage(&mut top);
        let (kek, slots, admin_dir) = self.secrets(&mut top);
        let (lifetimes, revocation_lists) = self.ca(&mut top);
        let issuers = self.issuers(&mut top, lifetimes.issuing);
        let (default_mtls, max_connection) = self.defaults(&mut top);
        let dns_commands = self.edges(&mut top);
        let hooks = self.hooks(&mut top);
        let (probes, log_level, log_format) = self.observability(&mut top);
        self.close(top);
        let config = Config {
            trust_domain: trust_domain?,
            grpc,
            enrolment,
            rest,
            probes,
            names,
            data_dir,
            kek,
            slots,
            anchor_file,
            admin_dir,
            lifetimes,
            revocation_lists,
            issuers,
            token_ttl,
            default_mtls,
            max_connection,
            dns_commands,
            hooks,
            log_level,
            log_format,
            dev: self.dev,
        };
        self.doors_are_apart(&config);
        self.dev_is_local(&config);
        self.hooks_get_no_descriptor(&config);
        self.edges_get_no_descriptor(&config);
        Some(config)
    }

    /// Two doors cannot listen at one place.
    fn doors_are_apart(&mut self, config: &Config) {
        let doors = [
            ("server.grpc", Some(config.grpc)),
            ("server.rest", Some(config.rest)),
            ("enrolment", Some(config.enrolment)),
            ("observability.metrics", config.probes),
        ];
        let doors: Vec<(&str, Listen)> =
            doors.into_iter().filter_map(|(name, listen)| Some((name, listen?))).collect();
        let meet = |one: &Listen, other: &Listen| {
            // All addresses of IPv6 are those of IPv4 too.
            let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
            let is_same = one.address == other.address
                || covers(one.address, other.address)
                || covers(other.address, one.address);
            one.port != 0 && one.port == other.port && is_same
        };
        for (place, (name, listen)) in doors.iter().enumerate() {
            let other = doors[..place].iter().find(|(_, other)| meet(listen, other));
            if let Some((other, _)) = other {
                let node = Node { position: None, content: Content::Null };
                self.refuse(
                    &node,
                    &format!("{name}.port"),
                    format!("port {} is that of {other} as well", listen.port),
                    Some("give each a port of its own".to_owned()),
                );
            }
        }
    }

    /// Switches that are unsafe by choice never leave the host.
    fn dev_is_local(&mut self, config: &Config) {
        if !config.dev {
            return;
        }
        for address in config.own_addresses() {
            if !address.ip().is_loopback() {
                let node = Node { position: None, content: Content::Null };
                self.refuse(
                    &node,
                    "server",
                    format!("--dev listens on loopback only, not on {address}"),
                    Some("leave out --dev, or configure loopback addresses".to_owned()),
                );
            }
        }
    }

    fn trust_domain(&mut self, top: &mut Section<'_>, tree: &Node) -> Option<TrustDomain> {
        let Some(node) = top.take("trust_domain") else {
            let hint = "write a name of your own, such as trust_domain: prod.example".to_owned();
            self.refuse(tree, "trust_domain", "trust_domain is missing", Some(hint));
            return None;
        };
        let text = self.text(node, "trust_domain")?;
        TrustDomain::parse(&text)
            .map_err(|error| {
                let lower = text.to_lowercase();
                let hint = TrustDomain::parse(&lower)
                    .is_ok()
                    .then(|| format!("SPIFFE trust domains are lower case; write {lower:?}"));
                self.refuse(node, "trust_domain", error.to_string(), hint);
            })
            .ok()
    }

    fn grpc(&mut self, server: &mut Section<'_>) -> Listen {
        let mut grpc = self.sub(server, "grpc");
        let listen = self.listen(&mut grpc, 18000);
        let mut tls = self.sub(&mut grpc, "tls");
        if let Some(node) = tls.take("enabled") {
            match node.content {
                Content::Bool(true) => {}
                _ => self.refuse(
                    node,
                    "server.grpc.tls.enabled",
                    "xDS is served over mutual TLS only; it cannot be switched off",
                    Some("leave the key out, or write true".to_owned()),
                ),
            }
        }
        self.close(tls);
        self.close(grpc);
        listen
    }

    fn listen(&mut self, section: &mut Section<'_>, default_port: u16) -> Listen {
        let mut listen = Listen { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: default_port };
        let path = section.path_of("address");
        if let Some(node) = section.take("address")
            && let Some(text) = self.text(node, &path)
        {
            match text.parse() {
                Ok(address) => listen.address = address,
                Err(_) => self.refuse(
                    node,
                    &path,
                    format!("{text:?} is not an IP address"),
                    Some("write an address of this host, such as 127.0.0.1 or 0.0.0.0".to_owned()),
                ),
            }
        }
        let path = section.path_of("port");
        if let Some(node) = section.take("port") {
            match &node.content {
                Content::Number(number)
                    if number.as_u64().is_some_and(|port| port <= u64::from(u16::MAX)) =>
                {
                    listen.port = u16::try_from(number.as_u64().unwrap_or_default()).unwrap_or_default();
                }
                _ => self.refuse(node, &path, "a port is a number from 0 to 65535", None),
            }
        }
        listen
    }

    fn names(&mut self, server: &mut Section<'_>) -> Vec<String> {
        let default = || ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let Some(node) = server.take("names") else { return default() };
        let Content::List(items) = &node.content else {
            self.refuse(
                node,
                "server.names",
                format!("expected a list of names, found {}", kind(node)),
                None,
            );
            return default();
        };
        if items.is_empty() {
            self.refuse(
                node,
                "server.names",
                "the list is empty: whoever calls by a name could not tell whom it reaches".to_owned(),
                Some("name what agents and operators call this server by, or leave the line out".to_owned()),
            );
        }
        let mut names = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("server.names[{index}]");
            let Some(name) = self.text(item, &path) else { continue };
            let is_dns = !name.is_empty()
                && name.len() <= 253
                && name.split('.').all(|label| {
                    !label.is_empty()
                        && label.len() <= 63
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                });
            if is_dns || name.parse::<IpAddr>().is_ok() {
                names.push(name);
            } else {
                self.refuse(item, &path, format!("{name:?} is neither a DNS name nor an IP address"), None);
            }
        }
        names
    }

    fn storage(&mut self, top: &mut Section<'_>) -> (PathBuf, Option<PathBuf>) {
        let mut storage = self.sub(top, "storage");
        if let Some(node) = storage.take("type")
            && let Some(kind) = self.text(node, "storage.type")
        {
            match kind.as_str() {
                "sqlite" | "embedded" => {}
                "postgres" | "etcd" | "redis" => self.refuse(
                    node,
                    "storage.type",
                    format!("storage type {kind} is known, not in this version"),
                    Some("write sqlite".to_owned()),
                ),
                _ => self.refuse(
                    node,
                    "storage.type",
                    format!("unknown storage type {kind:?}"),
                    Some("write sqlite".to_owned()),
                ),
            }
        }
        let path = self.path(&mut storage, "path", "credence-data");
        let anchor = storage.take("anchor_file").and_then(|node| self.text(node, "storage.anchor_file"));
        self.close(storage);
        (path, anchor.map(|text| self.base.join(text)))
    }

    pub(super) fn path(&mut self, section: &mut Section<'_>, key: &'static str, default: &str) -> PathBuf {
        let path = section.path_of(key);
        let text = section.take(key).and_then(|node| self.text(node, &path));
        self.base.join(text.as_deref().unwrap_or(default))
    }

    fn ca(&mut self, top: &mut Section<'_>) -> (Lifetimes, Option<Duration>) {
        let mut ca = self.sub(top, "ca");
        let dev = self.dev;
        let mut of = |reader: &mut Self, key, profile: Profile| {
            let min = if dev { Duration::from_secs(5) } else { profile.min_lifetime() };
            reader.duration(&mut ca, key, profile.default_lifetime(), min, profile.max_lifetime())
        };
        let lifetimes = Lifetimes {
            root: of(self, "root_lifetime", Profile::Root),
            issuing: of(self, "issuing_lifetime", Profile::Issuing),
            leaf: of(self, "leaf_lifetime", Profile::Workload),
            node: of(self, "node_lifetime", Profile::Node),
            operator: of(self, "operator_lifetime", Profile::Operator),
            server: of(self, "server_lifetime", Profile::Server),
        };
        let lists = self.revocation_lists(&mut ca, &lifetimes);
        self.close(ca);
        self.lives_hold(&lifetimes);
        (lifetimes, lists)
    }

    /// A list that ends refuses everybody, so a proxy that is cut off from us must lose its own leaf before its lists.
    fn revocation_lists(&mut self, ca: &mut Section<'_>, lifetimes: &Lifetimes) -> Option<Duration> {
        let are_on = match ca.take("revocation_lists") {
            None => false,
            Some(node) => match node.content {
                Content::Bool(are_on) => are_on,
                _ => {
                    self.refuse(node, "ca.revocation_lists", "expected true or false", None);
                    false
                }
            },
        };
        let leaves = 2 * lifetimes.leaf;
        let least = if self.dev { leaves } else { leaves.max(LEAST_LIST_LIFE) };
        let (default, max) = (LEAST_LIST_LIFE.max(least), MAX_LIST_LIFE);
        let life = self.duration(ca, "revocation_list_lifetime", default, least, max);
        are_on.then_some(life)
    }

    /// Whether every authority outlives what it signs for long enough, in development mode too: else the answer to
    /// "until when does this survive" would be "not until its renewal".
    fn lives_hold(&mut self, lifetimes: &Lifetimes) {
        let leaves = [
            ("ca.leaf_lifetime", lifetimes.leaf),
            ("ca.node_lifetime", lifetimes.node),
            ("ca.server_lifetime", lifetimes.server),
        ];
        let longest = leaves.into_iter().max_by_key(|(_, life)| *life).unwrap_or(leaves[0]);
        for (key, life, (child, child_life), factor) in [
            ("ca.issuing_lifetime", lifetimes.issuing, longest, ca::ISSUING_FACTOR),
            ("ca.root_lifetime", lifetimes.root, ("ca.issuing_lifetime", lifetimes.issuing), 2),
        ] {
            let least = child_life * factor;
            if life < least {
                let (node, length) = (Node { position: None, content: Content::Null }, format_duration);
                let message = format!(
                    "{} is less than {factor} x the {} of {child}, which is {}",
                    length(life),
                    length(child_life),
                    length(least)
                );
                let hint = format!(
                    "write at least {}, or a {child} of at most {}",
                    length(least),
                    length(life / factor)
                );
                self.refuse(&node, key, message, Some(hint));
            }
        }
    }

    fn defaults(&mut self, top: &mut Section<'_>) -> (DefaultMtls, Duration) {
        let mut defaults = self.sub(top, "defaults");
        let mut mtls = DefaultMtls::Strict;
        if let Some(node) = defaults.take("mtls") {
            match &node.content {
                Content::Text(text) if text == "strict" => {}
                Content::Text(text) if text == "permissive" => mtls = DefaultMtls::Permissive,
                Content::Text(text) if text == "off" => mtls = DefaultMtls::Off,
                Content::Bool(false) => mtls = DefaultMtls::Off,
                _ => self.refuse(node, "defaults.mtls", "mtls is strict, permissive or off", None),
            }
        }
        let least = Duration::from_secs(if self.dev { 1 } else { 60 });
        let age = xds::translate::MAX_CONNECTION_DURATION;
        let max = Duration::from_secs(24 * 3600);
        let max_connection = self.duration(&mut defaults, "max_connection_duration", age, least, max);
        self.close(defaults);
        (mtls, max_connection)
    }

    fn observability(&mut self, top: &mut Section<'_>) -> (Option<Listen>, String, Option<LogFormat>) {
        let mut observability = self.sub(top, "observability");
        let mut metrics = self.sub(&mut observability, "metrics");
        let enabled = match metrics.take("enabled") {
            None => true,
            Some(node) => match node.content {
                Content::Bool(enabled) => enabled,
                _ => {
                    self.refuse(node, "observability.metrics.enabled", "expected true or false", None);
                    true
                }
            },
        };
        let listen = self.listen(&mut metrics, 9090);
        if enabled && !listen.address.is_loopback() {
            let node = Node { position: None, content: Content::Null };
            self.refuse(
                &node,
                "observability.metrics.address",
                format!("plain HTTP on {} would show metrics to everybody", listen.address),
                Some("listen on loopback; the same paths are served with authentication on the management port".to_owned()),
            );
        }
        self.close(metrics);
        let mut logging = self.sub(&mut observability, "logging");
        let level = match logging.take("level") {
            Some(node) => {
                let text =
                    self.text(node, "observability.logging.level").unwrap_or_else(|| "info".to_owned());
                if let Some(wrong) = wrong_level(&text) {
                    let begun =
                        LEVELS.into_iter().find(|level| wrong.to_ascii_lowercase().starts_with(level));
                    let hint = match begun.or_else(|| nearest(wrong, LEVELS.into_iter())) {
                        Some(level) => format!("did you mean {level:?}?"),
                        None => {
                            format!(
                                "write one of {}; of one part, such as credence_xds=debug,info",
                                LEVELS.join(", ")
                            )
                        }
                    };
                    let message = format!("{wrong:?} is no log level");
                    self.refuse(node, "observability.logging.level", message, Some(hint));
                }
                text
            }
            None => "info".to_owned(),
        };
        let mut format = None;
        if let Some(node) = logging.take("format") {
            match self.text(node, "observability.logging.format").as_deref() {
                Some("json") => format = Some(LogFormat::Json),
                Some("text") => format = Some(LogFormat::Text),
                _ => self.refuse(node, "observability.logging.format", "a log format is json or text", None),
            }
        }
        self.close(logging);
        self.close(observability);
        (enabled.then_some(listen), level, format)
    }

    pub(super) fn duration(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let path = section.path_of(key);
        let Some(node) = section.take(key) else { return default };
        let Some(text) = self.text(node, &path) else { return default };
        let Some(length) = parse_duration(&text) else {
            self.refuse(
                node,
                &path,
                format!("{text:?} is not a duration"),
                Some("write a number and ms, s, m, h or d, such as 12h".to_owned()),
            );
            return default;
        };
        if length < min || length > max {
            let hint = if length < min && !self.dev {
                Some("shorter lives need serve --dev".to_owned())
            } else {
                None
            };
            self.refuse(
                node,
                &path,
                format!("{text} is outside {} to {}", format_duration(min), format_duration(max)),
                hint,
            );
        }
        length
    }

    pub(super) fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        if let Content::Text(text) = &node.content {
            return Some(text.clone());
        }
        self.refuse(node, path, format!("expected a text, found {}", kind(node)), None);
        None
    }
}

pub(super) fn kind(node: &Node) -> &'static str {
    match node.content {
        Content::Null => "nothing",
        Content::Bool(_) => "true or false",
        Content::Number(_) => "a number",
        Content::Text(_) => "a text",
        Content::List(_) => "a list",
        Content::Map(_) => "a map",
    }
}

/// The levels of log lines, and none of them.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The part of a filter of log lines that is none, if one is: a word alone is a level, and one of a part of the program
/// stands behind `=`. What reads it later takes a word that is no level for the name of a part, and is silent then.
fn wrong_level(filter: &str) -> Option<&str> {
    filter.split(',').find_map(|part| {
        let (target, level) =
            part.rsplit_once('=').map_or((None, part), |(target, level)| (Some(target), level));
        let is_target = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
        };
        match target {
            Some(target) if !is_target(target) => Some(part),
            _ if LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) => None,
            _ => Some(level),
        }
    })
}

#[cfg(test)]
mod tests;
