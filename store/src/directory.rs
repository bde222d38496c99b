//! The data directory: who may look into it, on which file systems it may lie, and the lock that keeps a second
//! process out.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};
use thiserror::Error;

/// The database's name in the data directory.
pub(crate) const DATABASE: &str = "credence.db";
pub(crate) const LOCK: &str = "credence.lock";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// There is none.
    #[error("data directory {} does not exist", .0.display())]
    Missing(PathBuf),
    /// There is one, without a database.
    #[error("data directory {} holds no database", .0.display())]
    Empty(PathBuf),
    /// Something else is there.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// Where a new one was to be made, there is something already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Others could look into it.
    #[error("{} has mode {mode:04o}, nobody but its owner may have access", path.display())]
    Mode {
        /// Which file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it.
    #[error("{} belongs to user {owner}, we are user {ours}", path.display())]
    Owner {
        /// Which file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// A file system that does not keep locks and synchronised writes as a local disk does.
    #[error("data directory {} lies on {kind}, a network file system", path.display())]
    Network {
        /// Which directory.
        path: PathBuf,
        /// The sort of file system.
        kind: &'static str,
    },
    /// Another process uses it.
    #[error("data directory {} is in use by {}", path.display(), holder(*pid))]
    InUse {
        /// Which directory.
        path: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

impl DirectoryError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Missing(_) | Self::Empty(_) => {
                "run `credence init` first, or name the right directory".into()
            }
            Self::NotDirectory(_) => "name a directory".into(),
            Self::Exists(path) => {
                format!("nothing is ever overwritten: choose another path, or move {} away", path.display())
            }
            Self::Mode { path, .. } => format!("run `chmod go= {}`", path.display()),
            Self::Owner { path, ours, .. } => format!("run `chown -R {ours} {}`", path.display()),
            Self::Network { .. } => "put the data directory on a local disk".into(),
            Self::InUse { pid, .. } => {
                let other = holder(*pid);
                format!(
                    "one process serves one data directory: stop {other} first, or configure another and other ports"
                )
            }
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                "make room on its disk, then try again".into()
            }
            Self::Io { .. } => "look at the permissions of the directories above it".into(),
        }
    }
}

/// Whether a store can be made in a directory: nothing is in it, or nothing but the lock of somebody who was ended before
/// he had made anything.
#[must_use]
pub fn is_free(directory: &Path) -> bool {
    fs::read_dir(directory)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)))
}

/// Makes the data directory, or takes an empty one that a service manager or a volume mount has made.
pub(crate) fn create(directory: &Path) -> Result<(), DirectoryError> {
    let io = |source| DirectoryError::Io { path: directory.into(), source };
    match fs::DirBuilder::new().mode(0o700).recursive(false).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !directory.is_dir() {
                return Err(DirectoryError::NotDirectory(directory.into()));
            }
            for entry in fs::read_dir(directory).map_err(io)? {
                let entry = entry.map_err(io)?;
                if entry.file_name() != LOCK {
                    return Err(DirectoryError::Exists(entry.path()));
                }
            }
        }
        Err(error) => return Err(io(error)),
        Ok(()) => {}
    }
    check_file_system(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(io)?;
    check_private(directory)
}

/// Checks a data directory that should hold a database, and changes nothing.
pub(crate) fn check(directory: &Path) -> Result<(), DirectoryError> {
    let io = |source| DirectoryError::Io { path: directory.into(), source };
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DirectoryError::Missing(directory.into()));
        }
        Err(error) => return Err(io(error)),
        Ok(facts) if !facts.is_dir() => return Err(DirectoryError::NotDirectory(directory.into())),
        Ok(_) => {}
    }
    check_private(directory)?;
    check_file_system(directory)?;
    let database = directory.join(DATABASE);
    if !database.try_exists().map_err(io)? {
        return Err(DirectoryError::Empty(directory.into()));
    }
    check_private(&database)
}

fn check_private(path: &Path) -> Result<(), DirectoryError> {
    let facts = fs::metadata(path).map_err(|source| DirectoryError::Io { path: path.into(), source })?;
    let ours = rustix::process::geteuid().as_raw();
    if facts.uid() != ours {
        return Err(DirectoryError::Owner { path: path.into(), owner: facts.uid(), ours });
    }
    let mode = facts.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DirectoryError::Mode { path: path.into(), mode });
    }
    Ok(())
}

fn check_file_system(directory: &Path) -> Result<(), DirectoryError> {
    let facts = rustix::fs::statfs(directory)
        .map_err(|error| DirectoryError::Io { path: directory.into(), source: error.into() })?;
    // The kernel's numbers have 32 bits; the field is wider on some machines, and signed on some.
    match network_file_system(facts.f_type as u32) {
        Some(kind) => Err(DirectoryError::Network { path: directory.into(), kind }),
        None => Ok(()),
    }
}

/// The name of a file system that lies on other machines, by its number in `linux/magic.h`.
fn network_file_system(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "nfs",
        0x517b | 0xfe53_4d42 => "smb",
        0xff53_4d42 => "cifs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x00c3_6400 => "ceph",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x564c => "ncp",
        0x0bd0_0bd0 => "lustre",
        0x0116_1970 => "gfs2",
        0x7461_636f => "ocfs2",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "fhgfs",
        _ => return None,
    })
}

/// Writes the names in a directory to the disk.
pub(crate) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes an empty file that only we may read.
pub(crate) fn create_private(path: &Path) -> Result<(), DirectoryError> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DirectoryError::Exists(path.into()))
        }
        Err(source) => Err(DirectoryError::Io { path: path.into(), source }),
    }
}

/// Who uses a data directory, if another process does. Where none does it is held for the moment of looking.
pub(crate) fn in_use(directory: &Path) -> Option<DirectoryError> {
    if !directory.join(LOCK).exists() {
        return None;
    }
    DirectoryLock::acquire(directory).err().filter(|error| matches!(error, DirectoryError::InUse { .. }))
}

/// What a change of an ordinary size takes: many pages of the write-ahead log, a secret, a document.
const ROOM: u64 = 1 << 20;

/// Whether there is room in a data directory, whoever limits it: the disk or a quota.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    directory: PathBuf,
    /// What a test says instead of the file system.
    #[cfg(test)]
    told: Option<Told>,
}

/// What taking room comes to, as a test says at the time.
#[cfg(test)]
#[derive(Clone)]
struct Told(std::sync::Arc<dyn Fn() -> rustix::io::Result<()> + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl Room {
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
            #[cfg(test)]
            told: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn told(
        directory: &Path,
        told: impl Fn() -> rustix::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { directory: directory.into(), told: Some(Told(std::sync::Arc::new(told))) }
    }

    /// The database that needs it.
    pub(crate) fn database(&self) -> PathBuf {
        self.directory.join(DATABASE)
    }

    /// Whether a change of an ordinary size would find it. Where the file system does not tell before it is written to,
    /// the answer is yes.
    pub(crate) fn is_there(&self) -> io::Result<bool> {
        match self.take(ROOM) {
            Ok(()) => Ok(true),
            Err(Errno::NOSPC | Errno::DQUOT) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::ISDIR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes so many octets for a moment.
    fn take(&self, octets: u64) -> rustix::io::Result<()> {
        #[cfg(test)]
        if let Some(told) = &self.told {
            return told.0();
        }
        // A file without a name is gone when it is closed, however we end.
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.directory, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, octets)
    }
}

/// The exclusive use of a data directory, until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    file: File,
    directory: PathBuf,
    is_signed: bool,
}

impl DirectoryLock {
    /// Takes the lock, or says who holds it. Writes nothing into an existing lock file.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, DirectoryError> {
        loop {
            let lock = Self::acquire_once(directory)?;
            if lock.is_in_place() {
                return Ok(lock);
            }
        }
    }

    /// Whether what is locked is what the next process would find: whoever made it in vain has removed it between our
    /// opening and our locking it.
    fn is_in_place(&self) -> bool {
        let inode = |facts: fs::Metadata| (facts.dev(), facts.ino());
        match (self.file.metadata().map(inode), fs::metadata(self.directory.join(LOCK)).map(inode)) {
            (Ok(held), Ok(found)) => held == found,
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }

    fn acquire_once(directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK);
        let io = |source| DirectoryError::Io { path: path.clone(), source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, directory: directory.into(), is_signed: false }),
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                (&mut file).take(20).read_to_string(&mut text).map_err(io)?;
                Err(DirectoryError::InUse { path: directory.into(), pid: text.trim().parse().ok() })
            }
            Err(error) => Err(io(error.into())),
        }
    }

    /// Writes our process id where a second process looks for it.
    pub(crate) fn sign(&mut self) -> io::Result<()> {
        self.is_signed = true;
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A stale process id would mislead; the lock itself ends with the file's closing.
        if self.is_signed {
            let _ = self.file.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_number() {
        for (magic, expected) in [
            (0x6969, Some("nfs")),
            (0xfe53_4d42, Some("smb")),
            (0xff53_4d42, Some("cifs")),
            (0x6573_5546, Some("fuse")),
            (0xef53, None),
            (0x5846_5342, None),
            (0x9123_683e, None),
            (0x0102_1994, None),
            (0x794c_7630, None),
        ] {
            assert_eq!(network_file_system(magic), expected, "{magic:#x}");
        }
    }

    #[test]
    fn only_one_holds_the_lock_and_says_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(in_use(folder.path()).is_none() && !folder.path().join(LOCK).exists());
        let mut first = DirectoryLock::acquire(folder.path()).unwrap();
        assert!(in_use(folder.path()).is_some());
        let check = |expected: &str| {
            let error = DirectoryLock::acquire(folder.path()).unwrap_err();
            assert!(error.to_string().ends_with(expected), "{error}");
        };
        check("is in use by another process");
        first.sign().unwrap();
        check(&format!("is in use by process {}", std::process::id()));
        drop(first);
        assert!(in_use(folder.path()).is_none());
        DirectoryLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn room_is_looked_for_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Room::of(folder.path()).is_there().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_and_an_exhausted_quota_have_no_room_and_what_cannot_be_asked_is_an_error() {
        let check = |taken: Result<(), Errno>, expected: Option<bool>| {
            let room = Room::told(Path::new("/"), move || taken);
            assert_eq!(room.is_there().ok(), expected, "{taken:?}");
        };
        check(Ok(()), Some(true));
        check(Err(Errno::NOSPC), Some(false));
        check(Err(Errno::DQUOT), Some(false));
        check(Err(Errno::OPNOTSUPP), Some(true));
        check(Err(Errno::INVAL), Some(true));
        check(Err(Errno::MFILE), None);
        check(Err(Errno::IO), None);
        check(Err(Errno::ROFS), None);
    }

    /// In memory, where more than there is at all is refused before any of it is taken.
    #[test]
    fn a_file_system_is_asked_for_room_that_it_does_not_have() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let facts = rustix::fs::statvfs(folder.path()).unwrap();
        assert!(facts.f_blocks > 0, "/dev/shm is a tmpfs without a limit");
        let room = Room::of(folder.path());
        assert_eq!(room.take((facts.f_blocks + 1) * facts.f_frsize), Err(Errno::NOSPC));
        assert_eq!(room.take(1), Ok(()));
    }

    #[test]
    fn takes_an_empty_directory_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data");
        assert!(matches!(check(&directory), Err(DirectoryError::Missing(_))));
        create(&directory).unwrap();
        create(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(check(&directory), Err(DirectoryError::Empty(_))));
        fs::write(directory.join("x"), "").unwrap();
        let error = create(&directory).unwrap_err();
        assert!(error.to_string().ends_with("data/x exists already"), "{error}");
        assert!(matches!(create(&directory.join("x")), Err(DirectoryError::NotDirectory(_))));
        fs::set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(check(&directory), Err(DirectoryError::Mode { mode: 0o750, .. })));
    }
}
