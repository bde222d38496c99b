//! The node's state directory: the only file of this crate that writes a private key.
//!
//! ```text
//! STATE/  0700, everything inside 0600
//!   node.json                     who the node is and where it renews
//!   envoy.json                    what Envoy is started with
//!   sds-node.json sds-bundle.json name the files below for Envoy
//!   certs/0000000002/             chain.pem key.pem bundle.pem, never changed once written
//!   certs/current -> 0000000002   replaced by one rename
//!   joining/TOKEN-ID.pem          the key of an enrolment whose answer has not come yet
//! ```
//! Chain, key and bundle change together because `current` is one symbolic link and a rename replaces it: Envoy
//! watches `certs/` for entries that are moved into it, and reads all files again then.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{
    Certificate, Chain, KeyKind, SecretKey, Timestamp, Validity, certificates_from_pem, certificates_to_pem,
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use sds::schedule::Life;
use serde::{Deserialize, Serialize};
use spiffe::{Namespace, NodeId, SpiffeId, TrustBundle, TrustDomain};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    Pin, ServerAddress,
    bootstrap::{
        Bootstrap, Discovery, SecretPaths, bundle_secret, node_secret, with_admin_port, with_server,
    },
    join::with_causes,
};

const NODE: &str = "node.json";
const ENVOY: &str = "envoy.json";
const CERTS: &str = "certs";
const CURRENT: &str = "current";
const JOINING: &str = "joining";
/// Where enrolment is served unless configured otherwise.
const ENROLMENT_PORT: u16 = 18001;
/// The largest file that is read back.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The system refuses.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// To do what.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another agent works on the same directory.
    #[error("{} is used by another agent", .0.display())]
    InUse(PathBuf),
    /// The directory is open to others, and neither empty nor a node's.
    #[error("{} is there for others too", .0.display())]
    Shared(PathBuf),
    /// Nothing was joined from here yet, or not to the end.
    #[error("{} holds no node: it has not joined yet", .0.display())]
    NotJoined(PathBuf),
    /// A file is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl StateError {
    /// What to do about it, if more can be said than the error says.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { path, source, .. } if is_full(source) => Some(format!(
                "the disk that holds {} is full: make room, then do the same again; nothing is lost",
                path.display()
            )),
            Self::Io { .. } => None,
            Self::InUse(path) => Some(format!(
                "stop the other agent, or give this one its own directory instead of {}",
                path.display()
            )),
            Self::Shared(path) => Some(format!(
                "name a directory of the node's own, which is made, such as {}; a directory that only the agent uses is \
                 closed by chmod go= {}",
                path.join("credence-agent").display(),
                path.display()
            )),
            Self::NotJoined(_) => Some("run the line that `credence proxy enroll NODE` prints".to_owned()),
            Self::Damaged { .. } => {
                Some("ask for a new line by `credence proxy enroll NODE` and join again".to_owned())
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { what, path, source }
}

/// Who the node is and where it belongs: what it learned by joining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Its name.
    pub node_id: NodeId,
    /// The identity in its certificate.
    pub spiffe_id: SpiffeId,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The namespace of its binding when it joined.
    pub namespace: Namespace,
    /// Where discovery and renewal are served.
    pub xds_server: ServerAddress,
    /// Whom it must find there.
    pub server_id: SpiffeId,
    /// By what it knew the enrolment server.
    pub pin: Pin,
    /// Where it joined, and comes back when its certificate has ended. Nodes of older versions did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment_server: Option<ServerAddress>,
}

impl Membership {
    /// Where enrolment is served: where the node joined, else on the usual port beside discovery.
    #[must_use]
    pub fn enrolment(&self) -> ServerAddress {
        self.enrolment_server.clone().unwrap_or_else(|| self.xds_server.with_port(ENROLMENT_PORT))
    }
}

/// The node's certificate with its key, and whom it trusts.
#[derive(Debug)]
pub struct Credentials {
    /// Leaf first.
    pub chain: Chain,
    /// The key of the leaf.
    pub key: SecretKey,
    /// The roots of the trust domain.
    pub bundle: TrustBundle,
}

impl Credentials {
    /// From issue to end. The issue is found from the leaf, which every issuer of ours backdates alike; but no further
    /// than to the beginning of its own certificate, and so not at all under one that was signed elsewhere a moment
    /// ago. `now`, when it was issued already, is the other bound.
    #[must_use]
    pub fn life(&self, now: Timestamp) -> Life {
        let leaf = self.chain.leaf();
        let expires = leaf.not_after();
        Life { issued: (leaf.not_before() + Validity::BACKDATE).min(now).min(expires), expires }
    }
}

/// One node's directory, locked for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
}

impl SecretPaths {
    /// Where an agent with the state directory `root` keeps what Envoy needs; the directory need not be here.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let certs = root.join(CERTS);
        let current = certs.join(CURRENT);
        Self {
            chain: current.join("chain.pem"),
            key: current.join("key.pem"),
            bundle: current.join("bundle.pem"),
            watched: certs,
            node_secret: root.join("sds-node.json"),
            bundle_secret: root.join("sds-bundle.json"),
        }
    }
}

impl StateDir {
    /// The same of a node that has joined: where none has, nothing is made and nothing changed.
    ///
    /// # Errors
    /// Those of [`StateDir::open`], and when no node has joined.
    pub fn open_joined(root: &Path) -> Result<Self, StateError> {
        let node = root.join(NODE);
        if !node.try_exists().map_err(failed("look at", &node))? {
            return Err(StateError::NotJoined(root.to_owned()));
        }
        Self::open(root)
    }

    /// Makes the directory if it is not there, closes it to others if it is empty or a node's, and locks it.
    ///
    /// # Errors
    /// When it cannot be made or written, others use it, or another agent has it.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        let root = std::path::absolute(root).map_err(failed("find", root))?;
        close_directory(&root)?;
        make_directory(&root.join(CERTS))?;
        make_directory(&root.join(JOINING))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(root)),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The bootstrap for Envoy, once a node has joined.
    #[must_use]
    pub fn envoy_config(&self) -> PathBuf {
        self.root.join(ENVOY)
    }

    /// Where Envoy finds what it needs.
    #[must_use]
    pub fn secret_paths(&self) -> SecretPaths {
        SecretPaths::below(&self.root)
    }

    /// The key for the enrolment by this token: the one of an earlier try, or a new one, which is on disk before
    /// anybody hears of it. The same token with the same key gets the same certificate.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn joining_key(&self, token_id: &str) -> Result<(SecretKey, KeyOrigin), StateError> {
        let path = self.joining_path(token_id);
        // Older versions left an empty one behind where the disk was full. Nobody has heard of a key that is not there.
        if !is_gone_or_empty(&path)? {
            return Ok((read_key(&path)?, KeyOrigin::EarlierTry));
        }
        let key = SecretKey::generate(KeyKind::P256);
        write_private_key(&path, &key)?;
        Ok((key, KeyOrigin::New))
    }

    /// Forgets every key of an unfinished enrolment.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn forget_joining_keys(&self) -> Result<(), StateError> {
        let directory = self.root.join(JOINING);
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let path = entry.map_err(failed("read", &directory))?.path();
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    fn joining_path(&self, token_id: &str) -> PathBuf {
        let safe: String = token_id.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        self.root.join(JOINING).join(format!("{safe}.pem"))
    }

    /// Writes everything that a joined node needs; the certificate takes effect last, by one rename.
    ///
    /// # Errors
    /// When something cannot be written; then the node is what it was before, or must join again.
    pub fn join(
        &self,
        membership: &Membership,
        credentials: &Credentials,
        envoy: EnvoyOptions,
    ) -> Result<(), StateError> {
        let files = self.envoy_files(membership, envoy);
        files.write_membership()?;
        for (path, content) in files.contents() {
            write_json(&path, &content)?;
        }
        self.install(credentials)
    }

    /// What an Envoy of this node is started with.
    #[must_use]
    pub fn envoy_files(&self, membership: &Membership, options: EnvoyOptions) -> EnvoyFiles {
        EnvoyFiles { root: self.root.clone(), membership: membership.clone(), options }
    }

    /// Puts the next certificate, key and bundle in place, all at once. The version before stays beside it, for a
    /// reader that has just followed the old link. Older ones go; one that cannot be removed is left to the next time.
    ///
    /// # Errors
    /// When something cannot be written; then the old version is still in place.
    pub fn install(&self, credentials: &Credentials) -> Result<(), StateError> {
        let certs = self.root.join(CERTS);
        let versions = versions(&certs)?;
        let number = versions.last().map_or(1, |(last, _)| last + 1);
        let name = format!("{number:010}");
        let directory = certs.join(&name);
        let current = certs.join(CURRENT);
        let before = fs::read_link(&current).ok();
        write_version(&directory, credentials).and_then(|()| self.point(&current, &name)).inspect_err(
            |_| {
                // Nobody follows it: no key stays behind that no renewal would remove before it succeeds.
                let _ = fs::remove_dir_all(&directory);
            },
        )?;
        // From here on Envoy reads the next version, whatever fails: an error would have us take it for not there.
        let synchronised = sync_directory(&certs);
        let olds = versions.iter().map(|(_, old)| old);
        let olds = olds.filter(|old| before.as_deref() != old.file_name().map(Path::new));
        let removed = olds.map(|old| fs::remove_dir_all(old).map_err(failed("remove", old)));
        for error in std::iter::once(synchronised).chain(removed).filter_map(Result::err) {
            tracing::warn!(
                error = with_causes(&error),
                "certificate is in place, but not all is tidy behind it"
            );
        }
        Ok(())
    }

    /// Has `current` lead to the version of that name.
    fn point(&self, current: &Path, name: &str) -> Result<(), StateError> {
        let next = self.root.join(".current.new");
        remove_if_there(&next)?;
        symlink(name, &next).map_err(failed("link", &next))?;
        fs::rename(&next, current).map_err(failed("replace", current))
    }

    /// What is here.
    ///
    /// # Errors
    /// When no node has joined, or a file is missing or damaged, or they do not belong together.
    pub fn load(&self) -> Result<(Membership, Credentials), StateError> {
        let path = self.root.join(NODE);
        let paths = self.secret_paths();
        if !path.exists() || !paths.chain.exists() {
            return Err(StateError::NotJoined(self.root.clone()));
        }
        let membership: Membership = serde_json::from_slice(&read(&path)?).map_err(damaged(&path))?;
        let chain = read_certificates(&paths.chain)?;
        let chain = Chain::from_ders(chain.iter().map(Vec::as_slice)).map_err(damaged(&paths.chain))?;
        let roots = read_certificates(&paths.bundle)?
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(damaged(&paths.bundle))?;
        let key = read_key(&paths.key)?;
        if key.public().spki_der() != chain.leaf().spki_der() {
            return Err(damaged(&paths.key)("it is not the key of the certificate beside it"));
        }
        if chain.leaf().uri_names() != [membership.spiffe_id.as_str().as_bytes()] {
            return Err(damaged(&paths.chain)(format!(
                "it is not a certificate of {}",
                membership.spiffe_id
            )));
        }
        let bundle = TrustBundle::new(membership.trust_domain.clone(), roots, 0);
        Ok((membership, Credentials { chain, key, bundle }))
    }
}

/// The files that Envoy is started with, beside the certificate: what a node learned by joining is enough to make them.
#[derive(Debug, Clone)]
pub struct EnvoyFiles {
    root: PathBuf,
    membership: Membership,
    options: EnvoyOptions,
}

impl EnvoyFiles {
    /// The same of a node that has learned something else.
    #[must_use]
    pub fn of(self, membership: Membership) -> Self {
        Self { membership, ..self }
    }

    /// Writes again what is gone or empty, and says what that was. What somebody changed stays as it is.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn restore(&self) -> Result<Vec<PathBuf>, StateError> {
        let mut restored = Vec::new();
        for (path, content) in self.contents() {
            if !is_gone_or_empty(&path)? {
                continue;
            }
            write_json(&path, &content)?;
            restored.push(path);
        }
        Ok(restored)
    }

    /// Keeps the port of the admin page that was chosen, if one was, in the bootstrap for Envoy; says whether that changed
    /// anything. All else stays.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not ours: then it is left as it is.
    pub fn move_admin_page(&self) -> Result<bool, StateError> {
        let Some(port) = self.options.admin_port else { return Ok(false) };
        let config = self.root.join(ENVOY);
        let held = serde_json::from_slice(&read(&config)?).map_err(damaged(&config))?;
        let next = with_admin_port(&held, port)
            .ok_or_else(|| damaged(&config)("it has no admin page as this program would write it"))?;
        if held == next {
            return Ok(false);
        }
        write_json(&config, &next)?;
        Ok(true)
    }

    /// Keeps where the server is now, in the bootstrap for Envoy and in what the node knows; says whether that changed
    /// anything. All else in the bootstrap stays.
    ///
    /// # Errors
    /// When a file cannot be written; then the same may be tried again. When there is a bootstrap that is not ours: then
    /// nothing was written.
    pub fn relocate(&self) -> Result<bool, StateError> {
        let (node, config) = (self.root.join(NODE), self.root.join(ENVOY));
        if is_gone_or_empty(&config)? {
            let [.., (path, content)] = self.contents();
            write_json(&path, &content)?;
        } else {
            let held = serde_json::from_slice(&read(&config)?).map_err(damaged(&config))?;
            let Some(next) = with_server(&held, &self.membership.xds_server) else {
                let what = "it does not say where the server is, as this program would".to_owned();
                return Err(StateError::Damaged { path: config, what });
            };
            if held == next {
                let before: Membership = serde_json::from_slice(&read(&node)?).map_err(damaged(&node))?;
                if before == self.membership {
                    return Ok(false);
                }
            } else {
                write_json(&config, &next)?;
            }
        }
        // Last, so that whoever tries again after a failure finds that there is something left to do.
        self.write_membership()?;
        Ok(true)
    }

    fn write_membership(&self) -> Result<(), StateError> {
        let node = serde_json::to_value(&self.membership).expect("names serialize");
        write_json(&self.root.join(NODE), &node)
    }

    fn contents(&self) -> [(PathBuf, serde_json::Value); 3] {
        let (node, paths) = (&self.membership, SecretPaths::below(&self.root));
        let secrets = (node_secret(&paths), bundle_secret(&paths));
        let named = (paths.node_secret.clone(), paths.bundle_secret.clone());
        let bootstrap = Bootstrap {
            node: node.node_id.clone(),
            namespace: node.namespace.clone(),
            xds_server: node.xds_server.clone(),
            server_id: node.server_id.clone(),
            admin_port: self.options.admin_port.unwrap_or(0),
            discovery: self.options.discovery,
            paths,
        };
        [(named.0, secrets.0), (named.1, secrets.1), (self.root.join(ENVOY), bootstrap.to_json())]
    }
}

/// Whether there is nothing to be read. What cannot be looked at may be there.
fn is_gone_or_empty(path: &Path) -> Result<bool, StateError> {
    match fs::metadata(path) {
        Ok(file) => Ok(file.len() == 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), StateError> {
    let mut text = serde_json::to_string_pretty(value).expect("values made here serialize");
    text.push('\n');
    write_private(path, text.as_bytes())
}

/// Writes a private key as PEM into a file of mode 0600, by renaming a complete one into place.
///
/// # Errors
/// When it cannot be written; then what stood there stands there still.
pub fn write_private_key(path: &Path, key: &SecretKey) -> Result<(), StateError> {
    write_private(path, key_pem(key).as_bytes())
}

/// Writes a file of mode 0600 by renaming a complete one into place.
///
/// # Errors
/// When it cannot be written; then what stood there stands there still.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let next = PathBuf::from(next);
    remove_if_there(&next)?;
    write_new(&next, content).inspect_err(|_| {
        // What is half there takes room from the next try, which removes it anyway.
        let _ = fs::remove_file(&next);
    })?;
    fs::rename(&next, path).map_err(failed("replace", path))?;
    sync_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Reads a private key as [`write_private_key`] writes it.
///
/// # Errors
/// When it cannot be read, or is no key that Credence works with.
pub fn read_private_key(path: &Path) -> Result<SecretKey, StateError> {
    read_key(path)
}

/// Whether a key was made for this try or found from an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// Made now.
    New,
    /// Left by a try whose answer never came.
    EarlierTry,
}

/// What an operator may choose about the node's Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnvoyOptions {
    /// The port of its admin page on 127.0.0.1; 0 lets the system choose. `None` leaves it as it is, at first to the
    /// system.
    pub admin_port: Option<u16>,
    /// Which discovery protocol it speaks.
    pub discovery: Discovery,
}

fn key_pem(key: &SecretKey) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(key.expose_secret()));
    // Large enough from the beginning: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(encoded.len() * 2 + 128));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

fn read_key(path: &Path) -> Result<SecretKey, StateError> {
    let text = Zeroizing::new(read(path)?);
    let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(damaged(path))?;
    let octets = Zeroizing::new(der.secret_pkcs8_der().to_vec());
    SecretKey::from_pkcs8_der(octets).map_err(damaged(path))
}

fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>, StateError> {
    certificates_from_pem(&read(path)?).map_err(damaged(path))
}

fn damaged<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Damaged { path, what: error.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    let size = fs::metadata(path).map_err(failed("read", path))?.len();
    if size > MAX_FILE_BYTES {
        return Err(damaged(path)(format!("it has {size} bytes, at most {MAX_FILE_BYTES} are read")));
    }
    fs::read(path).map_err(failed("read", path))
}

/// Writes a certificate with its key and the bundle into a directory of their own.
fn write_version(directory: &Path, credentials: &Credentials) -> Result<(), StateError> {
    make_directory(directory)?;
    write_new(&directory.join("chain.pem"), credentials.chain.to_pem().as_bytes())?;
    write_new(&directory.join("key.pem"), key_pem(&credentials.key).as_bytes())?;
    let roots = credentials.bundle.authorities().iter().map(Certificate::der);
    write_new(&directory.join("bundle.pem"), certificates_to_pem(roots).as_bytes())?;
    sync_directory(directory)
}

/// Makes the directory of a node, or closes one that nobody else can miss. Whoever names `/etc` by mistake keeps it as
/// it is.
fn close_directory(root: &Path) -> Result<(), StateError> {
    let mode = match fs::metadata(root) {
        Ok(found) => found.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make_directory(root),
        Err(error) => return Err(failed("look at", root)(error)),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let mut entries = fs::read_dir(root).map_err(failed("read", root))?;
    // A sticky one, such as /tmp, is there for everybody, also while it is empty.
    let is_unused = entries.next().is_none() && mode & 0o1000 == 0;
    let is_ours =
        || read(&root.join(NODE)).is_ok_and(|node| serde_json::from_slice::<Membership>(&node).is_ok());
    if is_unused || is_ours() { make_directory(root) } else { Err(StateError::Shared(root.to_owned())) }
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("close to others", path))
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("make", path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

fn remove_if_there(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), StateError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("flush", path))
}

/// The versions on disk with their numbers, oldest first.
fn versions(certs: &Path) -> Result<Vec<(u64, PathBuf)>, StateError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(certs).map_err(failed("read", certs))? {
        let path = entry.map_err(failed("read", certs))?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
