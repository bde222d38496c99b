//! The section `issuers`: which issuers the store must hold beside the built-in one, and what is not secret of them.
//! It adds and changes none; a server whose store holds others is not started (`app::declared`).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use api::ports::{AcmeSettings, MAX_CONTACTS, MAX_ISSUERS, VaultLogin, VaultSettings};
use certs::{format_duration, parse_duration};
use proto::text::{Content, Node};
use spiffe::IssuerName;
use vault::{Address, Mount, Name, SERVICE_ACCOUNT_TOKEN};

use super::{
    Config,
    read::{Reader, Section, kind},
};

/// The most issuers: of each kind as many as the store keeps.
const MAX_DECLARED: usize = 2 * MAX_ISSUERS;
/// What a fingerprint is written with.
const SHA256: &str = "sha256:";
/// The ways to log in to a Vault.
const METHODS: &str = "token, approle, certificate, jwt or kubernetes";

/// An issuer that the store must hold, exactly so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerConfig {
    /// Its name.
    pub name: IssuerName,
    /// What and where it is.
    pub kind: IssuerKind,
    /// Where that is said.
    pub place: Place,
}

/// Where an item stands in the file. Two that say the same are equal wherever they stand.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Its key, as `issuers[0]`.
    pub key: String,
    /// Line and column.
    pub position: Option<(u64, u64)>,
}

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

/// What an issuer is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKind {
    /// A Vault that signs our issuing authorities, or leaves by a role.
    Vault {
        /// Everything that `issuer add vault` takes, but for what is secret.
        vault: VaultSettings,
        /// The root that what it signs must lead to.
        anchor: AnchorConfig,
        /// Who signs leaves in its place while it rests.
        fallback: Option<IssuerName>,
    },
    /// An ACME server.
    Acme(AcmeSettings),
}

/// Which root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnchorConfig {
    /// The one in this file, PEM; read at the start.
    File(PathBuf),
    /// The one whose certificate has this SHA-256.
    Sha256([u8; 32]),
}

/// A fact of an issuer by its key in the section, as text that two are compared by.
pub(crate) type IssuerFacts = BTreeMap<&'static str, String>;

impl IssuerConfig {
    /// Its item of the list, on one line.
    pub(crate) fn to_yaml(&self) -> String {
        let body = match &self.kind {
            IssuerKind::Vault { vault, anchor, fallback } => {
                format!("vault: {{{}}}", vault_yaml(vault, anchor, fallback.as_ref()))
            }
            IssuerKind::Acme(acme) => format!("acme: {{{}}}", acme_yaml(acme)),
        };
        format!("- {{name: {}, {body}}}", quoted(self.name.as_str()))
    }
}

impl Config {
    /// The section; nothing if there is none.
    pub(super) fn issuers_to_yaml(&self) -> String {
        match self.issuers.as_deref() {
            None => String::new(),
            Some([]) => "issuers: []\n\n".to_owned(),
            Some(issuers) => {
                let items: String = issuers.iter().map(|one| format!("  {}\n", one.to_yaml())).collect();
                format!("issuers:\n{items}\n")
            }
        }
    }
}

/// What of a Vault is compared, by the keys of the section. What an issuer with a role has as the life of authorities
/// is used for nothing.
pub(crate) fn vault_facts(
    vault: &VaultSettings,
    anchor: &[u8; 32],
    fallback: Option<&IssuerName>,
) -> IssuerFacts {
    let addresses: Vec<String> = vault.addresses.iter().map(|text| canonical(text)).collect();
    let mut facts = IssuerFacts::from([
        ("vault.addresses", addresses.join(" ")),
        ("vault.ca_file", vault.ca_file.display().to_string()),
        ("vault.mount", vault.mount.clone()),
        ("vault.issuer", vault.issuer.clone()),
        ("vault.trust_anchor", format!("{SHA256}{}", hex::encode(anchor))),
        ("vault.login.method", vault.login.word().to_owned()),
    ]);
    facts.extend(fallback.map(|name| ("vault.fallback", name.to_string())));
    facts.extend(vault.namespace.clone().map(|namespace| ("vault.namespace", namespace)));
    match &vault.role {
        Some(role) => facts.insert("vault.role", role.clone()),
        None => facts.insert("vault.lifetime", exact(vault.lifetime)),
    };
    facts.extend(login_facts(&vault.login));
    facts
}

fn login_facts(login: &VaultLogin) -> Vec<(&'static str, String)> {
    const MOUNT: &str = "vault.login.mount";
    const ROLE: &str = "vault.login.role";
    match login {
        VaultLogin::Token => vec![],
        VaultLogin::AppRole { mount, role_id } => {
            vec![(MOUNT, mount.clone()), ("vault.login.role_id", role_id.clone())]
        }
        VaultLogin::Certificate { mount, role, chain, key } => {
            let role = role.clone().map(|role| (ROLE, role));
            let files = [
                ("vault.login.chain_file", chain.display().to_string()),
                ("vault.login.key_file", key.display().to_string()),
            ];
            [(MOUNT, mount.clone())].into_iter().chain(role).chain(files).collect()
        }
        VaultLogin::Jwt { mount, role, file } | VaultLogin::Kubernetes { mount, role, file } => vec![
            (MOUNT, mount.clone()),
            (ROLE, role.clone()),
            ("vault.login.token_file", file.display().to_string()),
        ],
    }
}

/// What of an ACME server is compared, by the keys of the section.
pub(crate) fn acme_facts(acme: &AcmeSettings) -> IssuerFacts {
    let mut facts = IssuerFacts::from([
        ("acme.directory", acme.directory.clone()),
        ("acme.ca_file", acme.ca_file.display().to_string()),
        ("acme.contacts", acme.contacts.join(" ")),
    ]);
    facts.extend(acme.agreed.clone().map(|terms| ("acme.agree_terms", terms)));
    facts.extend(acme.external.clone().map(|id| ("acme.external_key_id", id)));
    facts.extend(acme.profile.clone().map(|profile| ("acme.profile", profile)));
    facts
}

/// An address as it is written when it was read: two spellings of one are the same.
fn canonical(address: &str) -> String {
    Address::parse(address).map_or_else(|_| address.to_owned(), |address| address.to_string())
}

/// A life as text that reads back as exactly this.
pub(crate) fn exact(life: Duration) -> String {
    let short = format_duration(life);
    if parse_duration(&short) == Some(life) { short } else { format!("{}ms", life.as_millis()) }
}

fn vault_yaml(vault: &VaultSettings, anchor: &AnchorConfig, fallback: Option<&IssuerName>) -> String {
    let anchor = match anchor {
        AnchorConfig::File(path) => quoted(&path.to_string_lossy()),
        AnchorConfig::Sha256(hash) => quoted(&format!("{SHA256}{}", hex::encode(hash))),
    };
    let mut parts = vec![
        format!("addresses: {}", list(&vault.addresses)),
        format!("ca_file: {}", quoted(&vault.ca_file.to_string_lossy())),
    ];
    parts.extend(vault.namespace.as_deref().map(|text| format!("namespace: {}", quoted(text))));
    parts.push(format!("mount: {}, issuer: {}", quoted(&vault.mount), quoted(&vault.issuer)));
    parts.push(match &vault.role {
        Some(role) => format!("role: {}", quoted(role)),
        None => format!("lifetime: {}", exact(vault.lifetime)),
    });
    parts.push(format!("trust_anchor: {anchor}"));
    parts.extend(fallback.map(|name| format!("fallback: {}", quoted(name.as_str()))));
    let mut login = vec![format!("method: {}", vault.login.word())];
    let facts = login_facts(&vault.login).into_iter();
    login.extend(facts.map(|(key, value)| {
        let key = key.rsplit('.').next().unwrap_or(key);
        format!("{key}: {}", quoted(&value))
    }));
    parts.push(format!("login: {{{}}}", login.join(", ")));
    parts.join(", ")
}

fn acme_yaml(acme: &AcmeSettings) -> String {
    let mut parts = vec![
        format!("directory: {}", quoted(&acme.directory)),
        format!("ca_file: {}", quoted(&acme.ca_file.to_string_lossy())),
    ];
    if !acme.contacts.is_empty() {
        parts.push(format!("contacts: {}", list(&acme.contacts)));
    }
    parts.extend(acme.agreed.as_deref().map(|text| format!("agree_terms: {}", quoted(text))));
    parts.extend(acme.external.as_deref().map(|text| format!("external_key_id: {}", quoted(text))));
    parts.extend(acme.profile.as_deref().map(|text| format!("profile: {}", quoted(text))));
    parts.join(", ")
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// In double quotes, whatever it looks like.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

impl Reader<'_> {
    /// The issuers that the store must hold. `None` without the section: then nothing is compared.
    pub(super) fn issuers(&mut self, top: &mut Section<'_>, issuing: Duration) -> Option<Vec<IssuerConfig>> {
        let is_written = top.entries.iter().any(|(key, _)| key.name == "issuers");
        let Some(node) = top.take("issuers") else {
            if is_written {
                let node = Node { position: None, content: Content::Null };
                let hint = "write [] if there is to be none but the built-in one, or leave the section out";
                self.refuse(&node, "issuers", "expected a list, found nothing", Some(hint.to_owned()));
            }
            return None;
        };
        let Content::List(items) = &node.content else {
            self.refuse(node, "issuers", format!("expected a list, found {}", kind(node)), None);
            return None;
        };
        if items.len() > MAX_DECLARED {
            let message = format!("{} are too many, at most {MAX_DECLARED}", items.len());
            self.refuse(node, "issuers", message, None);
        }
        let mut issuers: Vec<IssuerConfig> = Vec::new();
        for (index, item) in items.iter().take(MAX_DECLARED).enumerate() {
            let path = format!("issuers[{index}]");
            let Some(issuer) = self.issuer(item, &path, issuing) else { continue };
            if issuers.iter().any(|one| one.name == issuer.name) {
                let hint = "give each a name of its own".to_owned();
                self.refuse(item, &path, format!("two issuers have the name {}", issuer.name), Some(hint));
            }
            issuers.push(issuer);
        }
        Some(issuers)
    }

    /// One of them; nothing for the built-in one, which may be written and is always there.
    fn issuer(&mut self, item: &Node, path: &str, issuing: Duration) -> Option<IssuerConfig> {
        let mut section = self.section(Some(item), path);
        let hint = "write name: corp, and vault: {...} or acme: {...}";
        let name = self.needed(&mut section, item, "name", "the name that issuer add was or is to be given");
        let name_path = section.path_of("name");
        let name = name.and_then(|(node, text)| self.parsed(node, &name_path, IssuerName::parse(&text)));
        let is_builtin = name.as_ref().is_some_and(|name| name.as_str() == IssuerName::BUILTIN);
        let type_path = section.path_of("type");
        let told = section.take("type").and_then(|node| Some((node, self.text(node, &type_path)?)));
        let (vault_path, acme_path) = (section.path_of("vault"), section.path_of("acme"));
        let (vault, acme) = (section.take("vault"), section.take("acme"));
        let word = match (vault, acme) {
            (Some(_), None) => "vault",
            (None, Some(_)) => "acme",
            (None, None) => "builtin",
            (Some(_), Some(node)) => {
                self.refuse(node, &acme_path, "an issuer is one of vault and acme", Some(hint.to_owned()));
                return None;
            }
        };
        if let Some((node, told)) = told.as_ref().filter(|(_, told)| told != word) {
            let message = match told.as_str() {
                "builtin" | "vault" | "acme" => format!("type {told} does not fit what stands beside it"),
                _ => format!("unknown issuer type {told:?}"),
            };
            self.refuse(node, &type_path, message, Some(hint.to_owned()));
        } else if word == "builtin" && told.is_none() && !is_builtin {
            self.refuse(item, path, "nothing says what this issuer is", Some(hint.to_owned()));
        } else if word != "builtin" && is_builtin {
            let hint = Some("give it another name".to_owned());
            self.refuse(item, &name_path, "builtin is the name of the one that is always there", hint);
        }
        let found = match (vault, acme) {
            (Some(node), _) => self.vault_issuer(node, &vault_path, issuing),
            (None, Some(node)) => self.acme_issuer(node, &acme_path).map(IssuerKind::Acme),
            (None, None) => None,
        };
        self.close(section);
        let position = item.position.map(|position| (position.line, position.column));
        Some(IssuerConfig { name: name?, kind: found?, place: Place { key: path.to_owned(), position } })
    }

    fn vault_issuer(&mut self, node: &Node, path: &str, issuing: Duration) -> Option<IssuerKind> {
        let mut section = self.section(Some(node), path);
        let addresses = self.addresses(&mut section, node);
        let ca_file = self.host_file(&mut section, node, "ca_file", None);
        let namespace = self.named(&mut section, "namespace", Mount::parse);
        let mount = self.named(&mut section, "mount", Mount::parse).or_else(|| Mount::parse("pki").ok());
        let id = self.needed(
            &mut section,
            node,
            "issuer",
            "the id of the issuer in Vault: vault list MOUNT/issuers",
        );
        let id_path = section.path_of("issuer");
        let id = id.and_then(|(node, text)| self.parsed(node, &id_path, Name::parse(&text)));
        let role = self.named(&mut section, "role", Name::parse);
        let lifetime = self.authority_life(&mut section, role.is_some()).unwrap_or(issuing);
        let anchor = self.anchor(&mut section, node);
        let fallback = self.issuer_fallback(&mut section, role.is_some());
        let login = self.issuer_login(&mut section, node);
        self.close(section);
        let vault = VaultSettings {
            addresses: addresses?.as_slice().iter().map(ToString::to_string).collect(),
            ca_file: ca_file?,
            namespace: namespace.map(|namespace| namespace.to_string()),
            mount: mount?.to_string(),
            issuer: id?.to_string(),
            role: role.map(|role| role.to_string()),
            lifetime,
            login: login?,
        };
        Some(IssuerKind::Vault { vault, anchor: anchor?, fallback })
    }

    /// Who signs leaves in its place.
    fn issuer_fallback(&mut self, section: &mut Section<'_>, has_role: bool) -> Option<IssuerName> {
        let path = section.path_of("fallback");
        let node = section.take("fallback")?;
        if !has_role {
            let hint = "leave it out: no leaf waits for an issuer that signs our authorities".to_owned();
            self.refuse(node, &path, "an issuer without a role signs no leaves", Some(hint));
            return None;
        }
        let text = self.text(node, &path)?;
        self.parsed(node, &path, IssuerName::parse(&text))
    }

    /// How long an authority that it signs shall live.
    fn authority_life(&mut self, section: &mut Section<'_>, has_role: bool) -> Option<Duration> {
        let path = section.path_of("lifetime");
        let node = section.take("lifetime")?;
        if has_role {
            let hint = "leave it out: leaves live as long as all do here (ca.leaf_lifetime)".to_owned();
            self.refuse(node, &path, "an issuer with a role signs leaves", Some(hint));
            return None;
        }
        let text = self.text(node, &path)?;
        let life = parse_duration(&text).filter(|life| *life >= Duration::from_secs(60));
        if life.is_none() {
            let hint = Some("write such as 30d".to_owned());
            self.refuse(node, &path, format!("{text:?} is no duration of a minute or more"), hint);
        }
        life
    }

    /// A path of a PEM file, or a fingerprint.
    fn anchor(&mut self, section: &mut Section<'_>, node: &Node) -> Option<AnchorConfig> {
        let meaning = "the PEM file with the root that it signs under, or \"sha256:HEX\" of it";
        let path = section.path_of("trust_anchor");
        let (node, text) = self.needed(section, node, "trust_anchor", meaning)?;
        let Some(digits) = text.strip_prefix(SHA256) else {
            return Some(AnchorConfig::File(self.base.join(text)));
        };
        let hash = hex::decode(digits).ok().and_then(|octets| octets.try_into().ok());
        if hash.is_none() {
            let hint = Some("credence issuer list -o json shows it as anchor_sha256".to_owned());
            self.refuse(node, &path, "a SHA-256 has 64 hexadecimal digits", hint);
        }
        hash.map(AnchorConfig::Sha256)
    }

    fn issuer_login(&mut self, section: &mut Section<'_>, node: &Node) -> Option<VaultLogin> {
        let mut login = self.sub(section, "login");
        let path = login.path_of("method");
        let meaning = format!("{METHODS}, as issuer add --login takes it");
        let method = self.needed(&mut login, node, "method", &meaning);
        let mount = |reader: &mut Self, login: &mut Section<'_>, default: &str| {
            let given = reader.named(login, "mount", Mount::parse).map(|mount| mount.to_string());
            given.unwrap_or_else(|| default.to_owned())
        };
        let role = |reader: &mut Self, login: &mut Section<'_>| {
            let path = login.path_of("role");
            let (node, text) = reader.needed(login, node, "role", "the role of the login in Vault")?;
            reader.parsed(node, &path, Name::parse(&text)).map(|role| role.to_string())
        };
        let found = match method.as_ref().map(|(_, method)| method.as_str()) {
            None => {
                login.entries.clear(); // whatever else there is depends on the method
                None
            }
            Some("token") => Some(VaultLogin::Token),
            Some("approle") => {
                let mount = mount(self, &mut login, "approle");
                let role_id = self.needed(&mut login, node, "role_id", "the public half of the role");
                role_id.map(|(_, role_id)| VaultLogin::AppRole { mount, role_id })
            }
            Some("certificate") => {
                let mount = mount(self, &mut login, "cert");
                let role = self.named(&mut login, "role", Name::parse).map(|role| role.to_string());
                let chain = self.host_file(&mut login, node, "chain_file", None);
                let key = self.host_file(&mut login, node, "key_file", None);
                chain.zip(key).map(|(chain, key)| VaultLogin::Certificate { mount, role, chain, key })
            }
            Some("jwt") => {
                let (mount, role) = (mount(self, &mut login, "jwt"), role(self, &mut login));
                let file = self.host_file(&mut login, node, "token_file", None);
                role.zip(file).map(|(role, file)| VaultLogin::Jwt { mount, role, file })
            }
            Some("kubernetes") => {
                let (mount, role) = (mount(self, &mut login, "kubernetes"), role(self, &mut login));
                let file = self.host_file(&mut login, node, "token_file", Some(SERVICE_ACCOUNT_TOKEN));
                role.zip(file).map(|(role, file)| VaultLogin::Kubernetes { mount, role, file })
            }
            Some(other) => {
                let message = format!("unknown method {other:?}");
                let at = method.as_ref().map_or(node, |(node, _)| node);
                self.refuse(at, &path, message, Some(format!("write {METHODS}")));
                login.entries.clear();
                None
            }
        };
        self.close(login);
        found
    }

    fn acme_issuer(&mut self, node: &Node, path: &str) -> Option<AcmeSettings> {
        let mut section = self.section(Some(node), path);
        let directory = self.needed(&mut section, node, "directory", "the URL of its directory");
        let ca_file = self.host_file(&mut section, node, "ca_file", None);
        let contacts = self.contacts(&mut section);
        let mut text = |reader: &mut Self, key: &'static str| {
            let path = section.path_of(key);
            section.take(key).and_then(|node| reader.text(node, &path))
        };
        let (agreed, external) = (text(self, "agree_terms"), text(self, "external_key_id"));
        let profile = text(self, "profile");
        self.close(section);
        Some(AcmeSettings { directory: directory?.1, ca_file: ca_file?, contacts, agreed, external, profile })
    }

    fn contacts(&mut self, section: &mut Section<'_>) -> Vec<String> {
        let path = section.path_of("contacts");
        let Some(node) = section.take("contacts") else { return Vec::new() };
        let hint = || Some("write contacts: [\"mailto:ops@example.com\"]".to_owned());
        let Content::List(items) = &node.content else {
            self.refuse(node, &path, format!("expected a list, found {}", kind(node)), hint());
            return Vec::new();
        };
        if items.len() > MAX_CONTACTS {
            self.refuse(node, &path, format!("{} are too many, at most {MAX_CONTACTS}", items.len()), None);
        }
        let items = items.iter().take(MAX_CONTACTS).enumerate();
        items.filter_map(|(index, item)| self.text(item, &format!("{path}[{index}]"))).collect()
    }

    /// A file that the server reads, kept by its absolute path.
    fn host_file(
        &mut self,
        section: &mut Section<'_>,
        node: &Node,
        key: &'static str,
        default: Option<&str>,
    ) -> Option<PathBuf> {
        let path = section.path_of(key);
        if let Some(default) = default
            && !section.entries.iter().any(|(found, _)| found.name == key)
        {
            let _ = section.take(key);
            return Some(PathBuf::from(default));
        }
        let (node, text) = self.needed(section, node, key, "a file of this host, by its absolute path")?;
        if !text.starts_with('/') {
            let hint = Some("write the path that issuer add was or is to be given".to_owned());
            self.refuse(node, &path, format!("{text} is not absolute"), hint);
            return None;
        }
        Some(PathBuf::from(text))
    }
}

#[cfg(test)]
mod tests;
