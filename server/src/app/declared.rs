//! Whether the store holds exactly the issuers that the configuration says (PURE but for [`hold`]).
//!
//! The store is the truth: what it holds came there by a command that tried it whole, with credentials that stand in no
//! file. So the section `issuers` adds nothing. Where it differs the server does not start, and says with which
//! command, or by which text of the section, the two become equal.

use std::{collections::BTreeSet, path::Path};

use anyhow::anyhow;
use api::ports::{AcmeIssuer, AcmeStore, Issuer, IssuerStore, VaultLogin, VaultSettings};
use certs::{Certificate, certificates_from_pem};
use spiffe::IssuerName;
use store::Store;

use crate::{
    config::{
        AnchorConfig, Config, ConfigProblem, IssuerConfig, IssuerKind, Place,
        issuers::{IssuerFacts, acme_facts, exact, vault_facts},
    },
    serve::BadConfig,
};

/// What `issuer update` changes; of a Vault, and of nothing else.
const UPDATABLE: [&str; 5] =
    ["vault.addresses", "vault.issuer", "vault.lifetime", "vault.trust_anchor", "vault.fallback"];
/// What stands where a credential is to be named, which is in no file that we know.
const CREDENTIAL: &str = "CREDENTIAL_FILE";
/// The same for a root of which the SHA-256 alone is said.
const ROOT: &str = "ROOT_PEM_FILE";
const EXTERNAL_KEY: &str = "EXTERNAL_KEY_FILE";

/// What the store holds beside the built-in issuer.
#[derive(Debug, Default)]
struct Held {
    vaults: Vec<Issuer>,
    acmes: Vec<AcmeIssuer>,
    /// Those whose records do not open.
    closed: Vec<String>,
}

/// An issuer of the configuration, with the SHA-256 of its root; an ACME server has none.
#[derive(Debug)]
struct Declared<'a> {
    issuer: &'a IssuerConfig,
    anchor: [u8; 32],
}

/// One thing that differs, and by what it would not.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    place: Place,
    message: String,
    hint: String,
}

/// Holds what the configuration says against the store. Nothing is compared where it has no section `issuers`.
///
/// # Errors
/// [`BadConfig`] with everything that differs; when the store cannot read.
pub(super) async fn hold(config: &Config, path: &Path, store: &Store) -> anyhow::Result<()> {
    let Some(issuers) = config.issuers.as_deref() else { return Ok(()) };
    let (mut declared, mut found) = (Vec::new(), Vec::new());
    for issuer in issuers {
        match fingerprint(issuer) {
            Ok(anchor) => declared.push(Declared { issuer, anchor }),
            Err(difference) => found.push(difference),
        }
    }
    // Whatever is compared beside a root that cannot be read would be said to be missing.
    if found.is_empty() {
        found = differences(&declared, &held(store).await?);
    }
    if found.is_empty() {
        tracing::info!(issuers = issuers.len(), "the store holds the issuers of the configuration");
        return Ok(());
    }
    let problem = |difference: Difference| ConfigProblem {
        source_name: path.display().to_string(),
        place: difference.place.position,
        path: difference.place.key,
        message: difference.message,
        hint: Some(difference.hint).filter(|hint| !hint.is_empty()),
    };
    let advice =
        "without the section issuers nothing is compared and the server starts: take it out, start, run the \
                  commands above, and put it back"
            .to_owned();
    Err(BadConfig { path: path.to_owned(), problems: found.into_iter().map(problem).collect(), advice }
        .into())
}

async fn held(store: &Store) -> anyhow::Result<Held> {
    let failed = |error: api::ports::StoreError| anyhow!("cannot read the issuers: {error}");
    let vaults = store.issuers().await.map_err(failed)?;
    let acmes = store.acme_issuers().await.map_err(failed)?;
    let vaults: Vec<Issuer> = vaults.into_iter().map(|kept| kept.issuer).collect();
    let acmes: Vec<AcmeIssuer> = acmes.into_iter().map(|kept| kept.issuer).collect();
    let open: BTreeSet<&str> =
        vaults.iter().map(|one| one.name.as_str()).chain(acmes.iter().map(|one| one.name.as_str())).collect();
    let names = store.issuer_names().await.map_err(failed)?;
    let closed = names.into_iter().filter(|name| !open.contains(name.as_str())).collect();
    Ok(Held { vaults, acmes, closed })
}

/// The SHA-256 of the root that an issuer is to sign under.
fn fingerprint(issuer: &IssuerConfig) -> Result<[u8; 32], Difference> {
    let file = match &issuer.kind {
        IssuerKind::Acme(_) => return Ok([0; 32]),
        IssuerKind::Vault { anchor: AnchorConfig::Sha256(hash), .. } => return Ok(*hash),
        IssuerKind::Vault { anchor: AnchorConfig::File(file), .. } => file,
    };
    let refused = |why: String| Difference {
        place: Place { key: format!("{}.vault.trust_anchor", issuer.place.key), ..issuer.place.clone() },
        message: format!("the root of issuer {} cannot be read: {}: {why}", issuer.name, file.display()),
        hint: "name the PEM file with the root alone, or write \"sha256:HEX\" of it".to_owned(),
    };
    let pem = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    let ders = certificates_from_pem(&pem).map_err(|error| refused(error.to_string()))?;
    let [der] = ders.as_slice() else {
        return Err(refused(format!("{} certificates stand in it", ders.len())));
    };
    let root = Certificate::from_der(der).map_err(|error| refused(error.to_string()))?;
    Ok(root.fingerprint())
}

/// Everything that differs: by the order of the configuration, then what the store alone has.
fn differences(declared: &[Declared<'_>], held: &Held) -> Vec<Difference> {
    let mut found: Vec<Difference> = declared.iter().filter_map(|one| difference(one, held)).collect();
    let is_declared = |name: &str| declared.iter().any(|one| one.issuer.name.as_str() == name);
    let unsaid = held.vaults.iter().map(as_declared).chain(held.acmes.iter().map(acme_as_declared));
    for kept in unsaid.filter(|kept| !is_declared(kept.name.as_str())) {
        let name = &kept.name;
        found.push(Difference {
            place: whole(),
            message: format!("the store holds issuer {name}, which does not stand here"),
            hint: format!("credence issuer remove {name}\n  or write in the section: {}", kept.to_yaml()),
        });
    }
    for name in held.closed.iter().filter(|name| !is_declared(name)) {
        found.push(Difference { place: whole(), ..closed(name) });
    }
    found
}

/// What differs of one that stands in the configuration.
fn difference(one: &Declared<'_>, held: &Held) -> Option<Difference> {
    let (name, place) = (&one.issuer.name, one.issuer.place.clone());
    if held.closed.iter().any(|closed| closed == name.as_str()) {
        return Some(Difference { place, ..closed(name.as_str()) });
    }
    let kept_vault = held.vaults.iter().find(|kept| kept.name == *name);
    let kept_acme = held.acmes.iter().find(|kept| kept.name == *name);
    let (kept, there) = match (kept_vault, kept_acme) {
        (Some(kept), _) => {
            let (print, fallback) = (kept.anchor.fingerprint(), kept.fallback.as_ref());
            (as_declared(kept), vault_facts(&kept.vault, &print, fallback))
        }
        (None, Some(kept)) => (acme_as_declared(kept), acme_facts(&kept.acme)),
        (None, None) => {
            let message = format!("issuer {name} is not in the store");
            return Some(Difference { place, message, hint: add_line(one.issuer) });
        }
    };
    let here = match &one.issuer.kind {
        IssuerKind::Vault { vault, fallback, .. } => vault_facts(vault, &one.anchor, fallback.as_ref()),
        IssuerKind::Acme(acme) => acme_facts(acme),
    };
    let keys = differing(&here, &there);
    if keys.is_empty() {
        return None;
    }
    let shown = |facts: &IssuerFacts, key: &str| {
        facts.get(key).map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"))
    };
    let told: Vec<String> = keys
        .iter()
        .map(|key| format!("{key} is {} here and {} there", shown(&here, key), shown(&there, key)))
        .collect();
    let command = match (&one.issuer.kind, kept_vault) {
        (IssuerKind::Vault { vault, anchor, fallback }, Some(kept))
            if keys.iter().all(|key| UPDATABLE.contains(key)) =>
        {
            update_line(name, &keys, (vault, anchor, fallback.as_ref()), &kept.vault)
        }
        _ => format!("credence issuer remove {name} && {}", add_line(one.issuer)),
    };
    Some(Difference {
        place,
        message: format!("issuer {name} is another in the store: {}", told.join("; ")),
        hint: format!("{command}\n  or write in the section: {}", kept.to_yaml()),
    })
}

fn differing(here: &IssuerFacts, there: &IssuerFacts) -> Vec<&'static str> {
    let keys: BTreeSet<&'static str> = here.keys().chain(there.keys()).copied().collect();
    keys.into_iter().filter(|key| here.get(key) != there.get(key)).collect()
}

fn whole() -> Place {
    Place { key: "issuers".to_owned(), position: None }
}

fn closed(name: &str) -> Difference {
    Difference {
        place: Place::default(),
        message: format!(
            "the record of issuer {name} in the store does not open, so nobody can say whether it is what stands here"
        ),
        hint: "the log above says why; restore the store from a backup".to_owned(),
    }
}

/// What the section would say of one that is kept.
fn as_declared(kept: &Issuer) -> IssuerConfig {
    let anchor = AnchorConfig::Sha256(kept.anchor.fingerprint());
    let kind = IssuerKind::Vault { vault: kept.vault.clone(), anchor, fallback: kept.fallback.clone() };
    IssuerConfig { name: kept.name.clone(), kind, place: Place::default() }
}

fn acme_as_declared(kept: &AcmeIssuer) -> IssuerConfig {
    let kind = IssuerKind::Acme(kept.acme.clone());
    IssuerConfig { name: kept.name.clone(), kind, place: Place::default() }
}

/// A command, word by word, and what stands in it instead of what is in no file that we know.
struct Line(Vec<String>);

impl Line {
    fn new(words: &[&str], name: &IssuerName) -> Self {
        let words = ["credence", "issuer"].iter().chain(words).map(|word| (*word).to_owned());
        Self(words.chain([name.to_string()]).collect())
    }

    fn flag(&mut self, flag: &str, value: &str) {
        self.0.extend([flag.to_owned(), shell(value)]);
    }

    fn flags<'v>(&mut self, flag: &str, values: impl IntoIterator<Item = &'v String>) {
        values.into_iter().for_each(|value| self.flag(flag, value));
    }

    fn anchor(&mut self, anchor: &AnchorConfig) {
        match anchor {
            AnchorConfig::File(path) => self.flag("--trust-anchor", &path.to_string_lossy()),
            AnchorConfig::Sha256(_) => self.flag("--trust-anchor", ROOT),
        }
    }

    fn end(self) -> String {
        self.0.join(" ")
    }
}

/// A word as a shell reads it.
fn shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn add_line(issuer: &IssuerConfig) -> String {
    let (vault, anchor, fallback) = match &issuer.kind {
        IssuerKind::Vault { vault, anchor, fallback } => (vault, anchor, fallback),
        IssuerKind::Acme(acme) => {
            let mut line = Line::new(&["add", "acme"], &issuer.name);
            line.flag("--directory", &acme.directory);
            line.flag("--ca-file", &acme.ca_file.to_string_lossy());
            line.flags("--contact", &acme.contacts);
            line.flags("--agree-terms", &acme.agreed);
            if let Some(id) = &acme.external {
                line.flag("--external-key-id", id);
                line.flag("--external-key-file", EXTERNAL_KEY);
            }
            line.flags("--profile", &acme.profile);
            return line.end();
        }
    };
    let mut line = Line::new(&["add", "vault"], &issuer.name);
    line.flags("--addr", &vault.addresses);
    line.flag("--ca-file", &vault.ca_file.to_string_lossy());
    line.flags("--namespace", &vault.namespace);
    line.flag("--mount", &vault.mount);
    line.flag("--issuer", &vault.issuer);
    match &vault.role {
        Some(role) => line.flag("--role", role),
        None => line.flag("--lifetime", &exact(vault.lifetime)),
    }
    line.anchor(anchor);
    if let Some(fallback) = fallback {
        line.flag("--fallback", fallback.as_str());
    }
    line.flag("--login", vault.login.word());
    match &vault.login {
        VaultLogin::Token => {}
        VaultLogin::AppRole { mount, role_id } => {
            line.flag("--login-mount", mount);
            line.flag("--role-id", role_id);
        }
        VaultLogin::Certificate { mount, role, chain, key } => {
            line.flag("--login-mount", mount);
            line.flags("--login-role", role);
            line.flag("--client-certificate", &chain.to_string_lossy());
            line.flag("--client-key", &key.to_string_lossy());
        }
        VaultLogin::Jwt { mount, role, file } | VaultLogin::Kubernetes { mount, role, file } => {
            line.flag("--login-mount", mount);
            line.flag("--login-role", role);
            line.flag("--token-path", &file.to_string_lossy());
        }
    }
    if vault.login.credential().is_some() {
        line.flag("--credential-file", CREDENTIAL);
    }
    line.end()
}

/// The command that changes what is kept, where a command changes that.
fn update_line(
    name: &IssuerName,
    keys: &[&str],
    (wanted, anchor, fallback): (&VaultSettings, &AnchorConfig, Option<&IssuerName>),
    kept: &VaultSettings,
) -> String {
    let mut line = Line::new(&["update"], name);
    for key in keys {
        match *key {
            "vault.addresses" => {
                line.flags("--addr", &wanted.addresses);
                // A credential goes to no address that it was not given for.
                let is_elsewhere = wanted.addresses.iter().any(|address| !kept.addresses.contains(address));
                if is_elsewhere && wanted.login.credential().is_some() {
                    line.flag("--credential-file", CREDENTIAL);
                }
            }
            "vault.issuer" => line.flag("--issuer", &wanted.issuer),
            "vault.lifetime" => line.flag("--lifetime", &exact(wanted.lifetime)),
            "vault.fallback" => match fallback {
                Some(fallback) => line.flag("--fallback", fallback.as_str()),
                None => line.0.push("--no-fallback".to_owned()),
            },
            _ => line.anchor(anchor),
        }
    }
    line.end()
}

#[cfg(test)]
mod tests;
