//! The key-encryption key: where it comes from and what is demanded of it. It wraps the root key and nothing else,
//! lives outside the database, and is forgotten as soon as the root key is unwrapped; on a token, or held by somebody
//! else, it never comes here.

mod remote;
mod token;

use std::{
    fmt,
    fs::File,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use argon2::{Algorithm, Argon2, Params, Version};
use rustix::fs::OFlags;
use thiserror::Error;
use zeroize::Zeroizing;

pub(crate) use self::{remote::Envelope, token::KeyFacts};
pub use self::{
    remote::{Outlook, RemoteError, RemoteKey, RemoteState, Unwrapped, Wrapped},
    token::{TokenError, TokenKey},
};
use crate::seal::random;

/// Where the key-encryption key comes from.
#[derive(Clone)]
pub enum KekSource {
    /// A file of exactly 32 bytes, mode 0400, ours, apart from the database.
    File(PathBuf),
    /// A passphrase, stretched by Argon2id. The caller has read it from a file descriptor or a credential, never
    /// from arguments or the environment.
    Passphrase(Zeroizing<Vec<u8>>),
    /// A key on a PKCS#11 token, which it never leaves.
    Token(TokenKey),
    /// A key in Vault's Transit engine, which it never leaves.
    Transit(Arc<dyn RemoteKey>),
}

impl KekSource {
    /// Which sort of slot it opens.
    #[must_use]
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::File(_) => SlotKind::KeyFile,
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Token(_) => SlotKind::Token,
            Self::Transit(_) => SlotKind::Transit,
        }
    }
}

impl fmt::Display for KekSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "key file {}", path.display()),
            Self::Passphrase(_) => f.write_str("passphrase"),
            Self::Token(key) => key.fmt(f),
            Self::Transit(key) => key.fmt(f),
        }
    }
}

impl fmt::Debug for KekSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The sorts of key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// Opened by a key file.
    KeyFile,
    /// Opened by a passphrase.
    Passphrase,
    /// Opened by a key on a PKCS#11 token.
    Token,
    /// Opened by a key in Vault's Transit engine.
    Transit,
}

impl SlotKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase => "passphrase",
            Self::Token => "pkcs11",
            Self::Transit => "transit",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::KeyFile, Self::Passphrase, Self::Token, Self::Transit]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a guess at a passphrase costs: the parameters of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// The least that is accepted, when a slot is made and when it is read: 64 MiB, 3 passes, 4 lanes.
    pub const FLOOR: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// The most that is accepted: a database must not be able to ask for all memory of the machine.
    pub const CEILING: Self = Self { memory_kib: 4 * 1024 * 1024, passes: 64, lanes: 64 };

    /// Whether it lies between [`Cost::FLOOR`] and [`Cost::CEILING`].
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        let within = |value, floor, ceiling| (floor..=ceiling).contains(&value);
        within(self.memory_kib, Self::FLOOR.memory_kib, Self::CEILING.memory_kib)
            && within(self.passes, Self::FLOOR.passes, Self::CEILING.passes)
            && within(self.lanes, Self::FLOOR.lanes, Self::CEILING.lanes)
    }
}

impl Default for Cost {
    /// 256 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self { memory_kib: 256 * 1024, passes: 3, lanes: 4 }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB, {} passes, {} lanes", self.memory_kib / 1024, self.passes, self.lanes)
    }
}

/// Why a key-encryption key was not taken.
#[derive(Debug, Error)]
pub enum KekError {
    /// Nothing at that path.
    #[error("key file {} does not exist", .0.display())]
    Missing(PathBuf),
    /// A file of that name exists where a new one was to be made.
    #[error("key file {} exists already and is never overwritten", .0.display())]
    Exists(PathBuf),
    /// A symbolic link, whose target somebody else may change.
    #[error("key file {} is a symbolic link", .0.display())]
    Symlink(PathBuf),
    /// A directory, pipe or device.
    #[error("key file {} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// Others could read it, or it could be changed.
    #[error("key file {} has mode {mode:04o}, it must be 0400", path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it.
    #[error("key file {} belongs to user {owner}, we are user {ours}", path.display())]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// Not 32 bytes.
    #[error("key file {} has {length} bytes, a key has exactly 32", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// How many bytes.
        length: u64,
    },
    /// Next to the data that it protects: whoever copies one copies both.
    #[error("key file {} lies in the data directory {}", path.display(), directory.display())]
    BesideDatabase {
        /// Which file.
        path: PathBuf,
        /// The data directory.
        directory: PathBuf,
    },
    /// The operating system refused.
    #[error("key file {} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An empty passphrase.
    #[error("passphrase is empty")]
    EmptyPassphrase,
    /// Cheaper than the floor, or dearer than the ceiling.
    #[error("passphrase would be stretched with {0}, at least {floor} and at most {ceiling} are allowed",
        floor = Cost::FLOOR, ceiling = Cost::CEILING)]
    Cost(Cost),
    /// There was not enough memory to stretch the passphrase.
    #[error("passphrase cannot be stretched with {0}")]
    Stretch(Cost),
    /// The token or its key cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Whoever holds the key could not be asked, or does not do it.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl KekError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Missing(_) => {
                "name the key file that `credence init` made, or restore it from its backup; without \
                                 it or another key slot the sealed keys cannot be read"
                    .into()
            }
            Self::Exists(path) => {
                format!("choose another path, or move {} away if nothing needs it", path.display())
            }
            Self::Symlink(_) => "name the file itself".into(),
            Self::NotRegular(_) | Self::Length { .. } => "name the file that `credence init` made".into(),
            Self::Mode { path, .. } => format!("run `chmod 0400 {}`", path.display()),
            Self::Owner { path, ours, .. } => format!("run `chown {ours} {}`", path.display()),
            Self::BesideDatabase { .. } => "keep the key file on another path, best on another volume".into(),
            Self::Io { .. } => "look at the permissions of the directories above it".into(),
            Self::EmptyPassphrase => "give the passphrase through a file descriptor or a credential".into(),
            Self::Cost(_) => "the slot was weakened or damaged: open the store with another slot".into(),
            Self::Stretch(_) => "free memory, or open the store with a key file".into(),
            Self::Token(error) => error.hint(),
            Self::Remote(error) => error.hint.clone(),
        }
    }
}

pub(crate) type Bytes = Zeroizing<[u8; 32]>;

/// Reads a key file, refusing whatever makes it less than a secret. With `directory`, it may not lie in there.
pub(crate) fn read_key_file(path: &Path, directory: Option<&Path>) -> Result<Bytes, KekError> {
    if let Some(directory) = directory {
        check_apart(path, directory)?;
    }
    let io = |source| KekError::Io { path: path.into(), source };
    // Non-blocking, so that a pipe in its place is refused instead of waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags | OFlags::RDONLY, rustix::fs::Mode::empty());
    let file = File::from(match opened {
        Err(rustix::io::Errno::NOENT) => return Err(KekError::Missing(path.into())),
        Err(rustix::io::Errno::LOOP) => return Err(KekError::Symlink(path.into())),
        other => other.map_err(|error| io(error.into()))?,
    });
    let facts = file.metadata().map_err(io)?;
    if !facts.is_file() {
        return Err(KekError::NotRegular(path.into()));
    }
    let mode = facts.permissions().mode() & 0o7777;
    if mode != 0o400 {
        return Err(KekError::Mode { path: path.into(), mode });
    }
    let ours = rustix::process::geteuid().as_raw();
    if facts.uid() != ours {
        return Err(KekError::Owner { path: path.into(), owner: facts.uid(), ours });
    }
    if facts.len() != 32 {
        return Err(KekError::Length { path: path.into(), length: facts.len() });
    }
    let mut bytes = Zeroizing::new([0; 32]);
    (&file).read_exact(bytes.as_mut_slice()).map_err(io)?;
    Ok(bytes)
}

/// Makes a key file of 32 random bytes, mode 0400, synchronised to the disk.
pub(crate) fn create_key_file(path: &Path, directory: Option<&Path>) -> Result<Bytes, KekError> {
    if let Some(directory) = directory {
        check_apart(path, directory)?;
    }
    let io = |source| KekError::Io { path: path.into(), source };
    let bytes: Bytes = Zeroizing::new(random());
    let mut file = match File::options().write(true).create_new(true).mode(0o400).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(KekError::Exists(path.into()));
        }
        other => other.map_err(io)?,
    };
    file.set_permissions(std::fs::Permissions::from_mode(0o400)).map_err(io)?;
    file.write_all(bytes.as_slice()).and_then(|()| file.sync_all()).map_err(io)?;
    crate::directory::sync(&parent(path)).map_err(io)?;
    Ok(bytes)
}

/// Stretches a passphrase.
pub(crate) fn stretch(passphrase: &[u8], salt: &[u8; 16], cost: Cost) -> Result<Bytes, KekError> {
    if passphrase.is_empty() {
        return Err(KekError::EmptyPassphrase);
    }
    if !cost.is_allowed() {
        return Err(KekError::Cost(cost));
    }
    let params =
        Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| KekError::Cost(cost))?;
    let mut bytes = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, bytes.as_mut_slice())
        .map_err(|_| KekError::Stretch(cost))?;
    Ok(bytes)
}

fn check_apart(path: &Path, directory: &Path) -> Result<(), KekError> {
    // Neither may exist yet; then its text has to do.
    let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
    let io = |source| KekError::Io { path: path.into(), source };
    let folder = real(&parent(path)).map_err(io)?;
    if folder.starts_with(real(directory).map_err(io)?) {
        return Err(KekError::BesideDatabase { path: path.into(), directory: directory.into() });
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn key_file_is_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credence.kek");
        let made = create_key_file(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
        assert_eq!(*read_key_file(&path, None).unwrap(), *made);
        assert!(matches!(create_key_file(&path, None), Err(KekError::Exists(_))));
    }

    #[test]
    fn refuses_key_files_that_are_no_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, mode: u32, length: usize, expected: &str| {
            let path = folder.path().join(name);
            fs::write(&path, vec![1; length]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_key_file(&path, None).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.hint().is_empty());
        };
        check("a", 0o600, 32, "has mode 0600, it must be 0400");
        check("b", 0o440, 32, "has mode 0440");
        check("c", 0o404, 32, "has mode 0404");
        check("d", 0o400, 31, "has 31 bytes, a key has exactly 32");
        check("e", 0o400, 33, "has 33 bytes");
        check("f", 0o400, 0, "has 0 bytes");
    }

    #[test]
    fn refuses_links_pipes_folders_and_the_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        assert!(matches!(read_key_file(&path, None), Err(KekError::Missing(_))));
        create_key_file(&path, None).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_key_file(&link, None), Err(KekError::Symlink(_))));
        assert!(matches!(read_key_file(folder.path(), None), Err(KekError::NotRegular(_))));
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(read_key_file(&pipe, None), Err(KekError::NotRegular(_))));
        for directory in [folder.path().to_owned(), folder.path().join("x/..")] {
            fs::create_dir_all(folder.path().join("x")).unwrap();
            assert!(matches!(read_key_file(&path, Some(&directory)), Err(KekError::BesideDatabase { .. })));
        }
        assert!(read_key_file(&path, Some(&folder.path().join("x"))).is_ok());
    }

    #[test]
    fn refuses_cheap_and_ruinous_stretching() {
        let check =
            |cost: Cost| assert!(matches!(stretch(b"p", &[0; 16], cost), Err(KekError::Cost(_))), "{cost}");
        check(Cost { memory_kib: Cost::FLOOR.memory_kib - 1, ..Cost::FLOOR });
        check(Cost { passes: 2, ..Cost::FLOOR });
        check(Cost { lanes: 3, ..Cost::FLOOR });
        check(Cost { memory_kib: u32::MAX, ..Cost::FLOOR });
        check(Cost { passes: 65, ..Cost::FLOOR });
        assert!(matches!(stretch(b"", &[0; 16], Cost::FLOOR), Err(KekError::EmptyPassphrase)));
        assert_ne!(
            *stretch(b"p", &[0; 16], Cost::FLOOR).unwrap(),
            *stretch(b"q", &[0; 16], Cost::FLOOR).unwrap()
        );
    }
}
