//! From what the configuration names to what opens key slots. Secrets are read from files and descriptors here, and
//! nowhere else on the way: no argument, environment variable or call of the API carries one.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use certs::Clock;
use store::{SlotSource, TokenKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    config::{Config, KekSource},
    transit::TransitKey,
};

/// How sources are asked that are somewhere else.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) clock: Arc<dyn Clock>,
    /// How long one use may take.
    pub(crate) patience: Duration,
    /// Whether secrets are taken from pipes too: those hold one once only, and keep whoever reads them for as long as
    /// somebody may write.
    pub(crate) pipes: Pipes,
}

/// What becomes of a secret that stands in no regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pipes {
    /// It is read: somebody put it there for this.
    Read,
    /// It is left where it is, with a problem that names it.
    Left,
}

/// The least length of a passphrase.
const MIN_PASSPHRASE: usize = 12;
/// The least length of the passphrase of an exported key.
const MIN_EXPORT_PASSPHRASE: usize = 16;
/// The most bytes of a passphrase or PIN.
const MAX_SECRET: usize = 4096;

/// A passphrase or PIN that is not where somebody said, or is none. Nothing of it is ever repeated.
#[derive(Debug, Error)]
pub(crate) enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the {what} from {}", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    /// It stood in a pipe, which is read at a start only.
    #[error("the {what} in {} is not read again: it is no regular file", path.display())]
    Pipe { what: &'static str, path: PathBuf },
    /// There is none, or too much to be one.
    #[error("the {what} in {} has {length} bytes", path.display())]
    Length { what: &'static str, path: PathBuf, length: usize },
    /// A passphrase that is soon found out.
    #[error("the passphrase in {} is shorter than {least} characters", path.display())]
    Short { path: PathBuf, least: usize },
    /// Others would read the first line only.
    #[error("the passphrase in {} is more than one line", path.display())]
    Lines { path: PathBuf },
}

impl SecretError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Unreadable { what, .. } => {
                format!(
                    "put the {what} there, for the user to read who runs this; or name the file that has it"
                )
            }
            Self::Pipe { what, .. } => format!("put the {what} into a file, or restart the server"),
            Self::Length { what, .. } => {
                format!("write the {what} there as one line of 1 to {MAX_SECRET} bytes")
            }
            Self::Short { .. } => "take a longer one: whoever has what it opens may try for years".to_owned(),
            Self::Lines { .. } => "write it as one line".to_owned(),
        }
    }
}

/// Everything that `config` names. What cannot be read is left out with a warning, if something else can: one slot
/// is enough.
///
/// # Errors
/// When nothing can be read.
pub(crate) fn sources(config: &Config, asking: &Asking) -> anyhow::Result<Vec<SlotSource>> {
    let named = config.slots.iter().map(|slot| (Some(slot.name.clone()), &slot.source));
    let all = config.kek.iter().map(|kek| (None, kek)).chain(named);
    let (mut read, mut first_problem) = (Vec::new(), None);
    for (name, kek) in all {
        match source(kek, asking) {
            Ok(source) => read.push(SlotSource { name, source }),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a key cannot be read");
                first_problem.get_or_insert(error);
            }
        }
    }
    match first_problem {
        Some(problem) if read.is_empty() => Err(problem),
        _ => Ok(read),
    }
}

/// What one entry names.
///
/// # Errors
/// When its secret cannot be read.
pub(crate) fn source(kek: &KekSource, asking: &Asking) -> anyhow::Result<store::KekSource> {
    Ok(match kek {
        KekSource::File(path) => store::KekSource::File(path.clone()),
        KekSource::PassphraseFile(path) => {
            let text = secret("passphrase", path, asking.pipes)?;
            if asking.pipes == Pipes::Read && is_open_to_others(path) {
                tracing::warn!(path = %path.display(), "the file of a passphrase is open to others: chmod 600");
            }
            // Octets that begin a character of UTF-8.
            if text.iter().filter(|octet| **octet & 0xc0 != 0x80).count() < MIN_PASSPHRASE {
                return Err(SecretError::Short { path: path.clone(), least: MIN_PASSPHRASE }.into());
            }
            store::KekSource::Passphrase(text)
        }
        KekSource::Token { module, token, key, pin_file } => store::KekSource::Token(TokenKey {
            module: module.clone(),
            token: token.clone(),
            key: key.clone(),
            pin: secret("PIN", pin_file, asking.pipes)?,
        }),
        // Its files are read when it is asked: what opens no store today may do so in a moment.
        KekSource::Transit(transit) => store::KekSource::Transit(Arc::new(TransitKey::new(
            transit.clone(),
            Arc::clone(&asking.clock),
            asking.patience,
        ))),
    })
}

/// The passphrase of an exported key.
///
/// # Errors
/// When it cannot be read, or is shorter than it must be for a file that somebody may try for years.
pub(crate) fn export_passphrase(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text = secret("passphrase", path, Pipes::Read)?;
    // Others read the first line only, and would not open what all of them seal.
    if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Err(SecretError::Lines { path: path.to_owned() }.into());
    }
    if text.len() < MIN_EXPORT_PASSPHRASE {
        return Err(SecretError::Short { path: path.to_owned(), least: MIN_EXPORT_PASSPHRASE }.into());
    }
    Ok(text)
}

/// A secret without the line ends behind it.
fn secret(what: &'static str, path: &Path, pipes: Pipes) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let named = || path.to_owned();
    // It is not even opened, which a writer at the other end would notice.
    if pipes == Pipes::Left && is_stream(path) {
        return Err(SecretError::Pipe { what, path: named() });
    }
    let text = fs::read(path).map_err(|source| SecretError::Unreadable { what, path: named(), source })?;
    let text = Zeroizing::new(text);
    let end = text.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    if end == 0 || end > MAX_SECRET {
        return Err(SecretError::Length { what, path: named(), length: end });
    }
    Ok(Zeroizing::new(text[..end].to_vec()))
}

/// Whether a secret stands where only the process finds it that is started with it: in a descriptor, a pipe, or a
/// credential of systemd. Nobody else can tell whether it is right.
pub(crate) fn is_handed_over(path: &Path) -> bool {
    let is_handed =
        ["/dev/fd", "/proc/self/fd", "/run/credentials"].iter().any(|folder| path.starts_with(folder));
    is_handed || is_stream(path)
}

/// Whether what stands there is read once, by whoever comes first: a pipe, a socket or a device.
fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| {
        let kind = found.file_type();
        kind.is_fifo() || kind.is_socket() || kind.is_char_device()
    })
}

/// Whether others of this host may read a file. What a process is handed at its start is not meant.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    fn asking(pipes: Pipes) -> Asking {
        Asking { clock: Arc::new(crate::clock::SystemClock), patience: crate::transit::PATIENT, pipes }
    }

    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, "correct horse battery staple").unwrap();
        for (mode, is_open) in [(0o600, false), (0o400, false), (0o644, true), (0o640, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(&path), is_open, "{mode:o}");
        }
        assert!(!is_open_to_others(folder.path()), "it is no file");
    }

    #[test]
    fn a_folder_is_no_passphrase_that_is_handed_over() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        for (path, is_handed) in [
            (folder.path(), false),
            (&folder.path().join("nothing"), false),
            (&pipe, true),
            (Path::new("/dev/null"), true),
            (Path::new("/dev/fd/63"), true),
        ] {
            assert_eq!(is_handed_over(path), is_handed, "{}", path.display());
        }
        for pipes in [Pipes::Left, Pipes::Read] {
            let error = secret("passphrase", folder.path(), pipes).unwrap_err();
            assert!(matches!(error, SecretError::Unreadable { .. }), "{error}");
        }
    }

    #[test]
    fn a_pipe_is_read_at_a_start_only_and_keeps_nobody_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let named = KekSource::PassphraseFile(pipe.clone());
        // Somebody holds it open, and may write at any time.
        let writer = fs::File::options().read(true).write(true).open(&pipe).unwrap();
        for left in [
            named.clone(),
            KekSource::Token {
                module: "m".into(),
                token: "t".into(),
                key: "k".into(),
                pin_file: pipe.clone(),
            },
        ] {
            let (done, seen) = mpsc::channel();
            thread::spawn(move || done.send(source(&left, &asking(Pipes::Left)).unwrap_err().to_string()));
            let error = seen.recv_timeout(Duration::from_secs(20)).expect("it waits for the pipe");
            let is_named = error.contains(pipe.to_str().unwrap());
            assert!(is_named && error.contains("is no regular file"), "{error}");
        }
        drop(writer);
        let (done, seen) = mpsc::channel();
        thread::spawn(move || done.send(source(&named, &asking(Pipes::Read)).unwrap().kind()));
        // Each of the two waits for the other.
        thread::spawn(move || fs::write(pipe, "correct horse battery\n"));
        let kind = seen.recv_timeout(Duration::from_secs(20)).expect("it is read at a start");
        assert_eq!(kind, store::SlotKind::Passphrase);
    }

    #[test]
    fn reads_secrets_from_files_and_names_the_file_when_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let asking = asking(Pipes::Left);
        let path = folder.path().join("phrase");
        let check = |text: &str, expected: Result<(), &str>| {
            fs::write(&path, text).unwrap();
            let read = source(&KekSource::PassphraseFile(path.clone()), &asking);
            match (read, expected) {
                (Ok(store::KekSource::Passphrase(read)), Ok(())) => {
                    assert_eq!(&**read, text.trim_end().as_bytes())
                }
                (Err(error), Err(expected)) => {
                    let error = format!("{error:#}");
                    assert!(error.contains(expected) && !error.contains("horse"), "{error}");
                }
                (read, _) => panic!("{text:?}: {read:?}"),
            }
        };
        check("correct horse battery\r\n", Ok(()));
        check("short horse", Err("is shorter than 12 characters"));
        check("\n", Err("has 0 bytes"));
        check(&"x".repeat(5000), Err("has 5000 bytes"));
        fs::write(&path, "correct horse battery\nstaple\n").unwrap();
        let error = export_passphrase(&path).unwrap_err().to_string();
        assert!(error.contains("is more than one line") && !error.contains("horse"), "{error}");
        fs::remove_file(&path).unwrap();
        let error = source(&KekSource::PassphraseFile(path), &asking).unwrap_err();
        assert!(error.to_string().contains("cannot read the passphrase from"), "{error}");
        let hint = crate::host::failed(&error).hint;
        assert!(hint.contains("put the passphrase there"), "of no file that `credence init` makes: {hint}");
    }
}
