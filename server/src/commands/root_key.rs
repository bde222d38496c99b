//! `ca root export`: moves the key of the root out, on the host, with the server stopped.
//!
//! No call of the API ever shows a private key, not even an encrypted one: whoever could ask for that with an
//! operator's certificate would have it for good. Here the store is opened with its key-encryption key, so that nobody
//! gets what he could not read already.
//!
//! ```text
//! audit row -> FILE.part -> read back, open, compare -> FILE, never over another -> read back, open, compare
//!           -> synchronise FILE and its folder -> audit row with its hash -> destroy the key
//! ```
//! Killed anywhere, by a power cut too, the key is in the store, or FILE is complete, on its disk, and was proven;
//! given again, the command goes on from what it finds.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use audit::{Action, Actor, AuditLog, Event};
use ca::ports::{Authorities, AuthorityRecord, AuthorityState, Place};
use certs::{Certificate, Clock, SecretKey, SpkiHash, certificates_from_pem, certificates_to_pem};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use store::Store;
use zeroize::Zeroizing;

use super::not_done;
use crate::{
    cli::{RootExportArgs, RootKeyCommand},
    clock::SystemClock,
    host, init, keys,
    output::{self, Exit, Failure},
    serve,
};

/// The largest file that is read back.
const MAX_FILE: u64 = 64 * 1024;

/// What became of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Exported {
    dry_run: bool,
    root: String,
    expires: String,
    file: PathBuf,
    /// SHA-256 of the file; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Whether the key is still in the store.
    key_is_here: bool,
}

struct Wanted {
    out: PathBuf,
    passphrase: Zeroizing<Vec<u8>>,
    keep: bool,
    dry_run: bool,
    reason: String,
}

pub(super) async fn run(command: RootKeyCommand) -> Result<Exit, Failure> {
    let RootKeyCommand::Export(args) = command;
    export(&args).await
}

async fn export(args: &RootExportArgs) -> Result<Exit, Failure> {
    serve::harden();
    let passphrase = keys::export_passphrase(&args.passphrase_file).map_err(|error| host::failed(&error))?;
    let config = serve::load_config(args.config.path(), false).map_err(|error| host::failed(&error))?;
    let question = "destroy the root's key in the store once the file is proven? Credence then keeps an issuing authority only";
    if !args.dry_run && !args.keep && !args.yes && !output::confirmed(question) {
        let hint = "--yes does it without asking, --keep only writes the file, --dry-run only shows it";
        return Err(not_done(output::is_anybody_there(), hint));
    }
    let wanted = Wanted {
        out: args.out.clone(),
        passphrase,
        keep: args.keep,
        dry_run: args.dry_run,
        reason: args.reason.clone(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = clock.clone();
    let done = init::with_store(&config, &clock, async |store: Store| {
        Ok(carry_out(&store, &wanted, now.as_ref()).await)
    });
    let exported = Box::pin(done).await.map_err(|error| host::failed(&error))??;
    output::show(args.output, &exported, text)?;
    Ok(Exit::Ok)
}

fn text(exported: &Exported) -> String {
    let (root, file) = (&exported.root, exported.file.display());
    if exported.dry_run {
        return format!(
            "would write the key of root {root} to {file}, prove it, and destroy it in the store"
        );
    }
    let sha256 = exported.sha256.as_deref().unwrap_or_default();
    let proven = format!("{file} holds root {root} and its key, opened and compared; sha256 {sha256}");
    if exported.key_is_here {
        return format!(
            "{proven}\nthe key is still in the store: give the command again without --keep to destroy it"
        );
    }
    format!(
        "{proven}\nthe key is destroyed in the store; older copies of the database still hold it, sealed: destroy them\n\
         the next issuing authority: credence ca csr, have it signed, credence ca install FILE"
    )
}

async fn carry_out(store: &Store, wanted: &Wanted, clock: &dyn Clock) -> Result<Exported, Failure> {
    let unavailable = |error: &dyn std::fmt::Display| Failure::new(Exit::Unavailable, error.to_string(), "");
    let records = store.load().await.map_err(|error| unavailable(&error))?;
    let root = exportable(&records)?;
    let mut exported = Exported {
        dry_run: wanted.dry_run,
        root: root.id.to_string(),
        expires: root.certificate.not_after().to_string(),
        file: wanted.out.clone(),
        sha256: None,
        key_is_here: true,
    };
    if wanted.dry_run {
        return Ok(exported);
    }
    let row = |action| {
        let event = Event::done(clock.now(), Actor::Host, action, root.id.to_string());
        let mut event = event.with("file", wanted.out.display());
        event.reason.clone_from(&wanted.reason);
        event
    };
    if fs::symlink_metadata(&wanted.out).is_err() {
        // Before there is such a file anywhere, the log says who asked for it.
        let begun = store.append(vec![row(Action::AuthorityExport).with("state", "begun")]).await;
        begun.map_err(|error| unavailable(&error))?;
        let key = store.load_key(root.id).await.map_err(|error| unavailable(&error))?;
        write(&wanted.out, &root.certificate, &key, &wanted.passphrase)?;
    }
    let sha256 = prove(&wanted.out, &root.certificate, &wanted.passphrase).map_err(|why| {
        let message = format!("{} is not the export of root {}: {why}", wanted.out.display(), root.id);
        Failure::new(
            Exit::Conflict,
            message,
            "nothing was destroyed: name another file, or give its passphrase",
        )
    })?;
    // Also what was here before, such as a copy on another disk, may be in memory only.
    synchronise(&wanted.out)?;
    let event = |action| row(action).with("sha256", &sha256);
    store.append(vec![event(Action::AuthorityExport)]).await.map_err(|error| unavailable(&error))?;
    if !wanted.keep {
        let given = store.give_up_key(root.id, clock.now(), vec![event(Action::AuthorityKeyRemove)]).await;
        given.map_err(|error| unavailable(&error))?;
        exported.key_is_here = false;
    }
    exported.sha256 = Some(sha256);
    Ok(exported)
}

/// The one root that is in use, with its key here.
fn exportable(records: &[AuthorityRecord]) -> Result<&AuthorityRecord, Failure> {
    let roots: Vec<&AuthorityRecord> = records
        .iter()
        .filter(|record| record.place == Place::Root && record.state != AuthorityState::Removed)
        .collect();
    let [root] = roots[..] else {
        let message = format!("{} roots are in use, a rotation of the root is under way", roots.len());
        return Err(Failure::new(Exit::Refused, message, "finish it or roll it back: credence ca status"));
    };
    match root.offline {
        None => Ok(root),
        Some(since) => {
            let message = format!("the key of root {} is kept elsewhere since {since}", root.id);
            Err(Failure::new(Exit::Conflict, message, "it is not here, so nothing is to be exported"))
        }
    }
}

/// Writes a new file, complete and proven before it takes its name, and never over another.
fn write(path: &Path, root: &Certificate, key: &SecretKey, passphrase: &[u8]) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(Exit::Failed, message, "nothing was destroyed: name a file where you may write")
    };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    match fs::remove_file(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    let text = format!("{}{}", certificates_to_pem([root.der()]), key.to_encrypted_pem(passphrase));
    let written = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    let placed = written()
        .map_err(|error| error.to_string())
        .and_then(|()| prove(&part, root, passphrase))
        .and_then(|_| {
            renameat_with(CWD, &part, CWD, path, RenameFlags::NOREPLACE).map_err(|error| error.to_string())
        });
    if let Err(error) = placed {
        let _ = fs::remove_file(&part);
        return Err(failed(&error));
    }
    Ok(())
}

/// Has the file and its name on their disk.
fn synchronise(path: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("{} is not safe on its disk: {error}", path.display());
        Failure::new(Exit::Failed, message, "nothing was destroyed: name a file where you may write")
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for path in [path, directory] {
        fs::File::open(path).and_then(|opened| opened.sync_all()).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Reads the file back, opens the key in it and compares it; answers the hash of the file.
fn prove(path: &Path, root: &Certificate, passphrase: &[u8]) -> Result<String, String> {
    use std::io::Read;
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
    read.map_err(|error| error.to_string())?;
    let certificates = certificates_from_pem(&text).map_err(|error| error.to_string())?;
    if certificates.first().map(Vec::as_slice) != Some(root.der()) {
        return Err("its certificate is another".to_owned());
    }
    let key = SecretKey::from_encrypted_pem(&text, passphrase).map_err(|error| error.to_string())?;
    if key.public().spki_der() != root.spki_der() {
        return Err("its key is another".to_owned());
    }
    // SHA-256, of the whole file this time.
    Ok(SpkiHash::of(&text).to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use audit::AuditFilter;

    use super::*;
    use crate::config::{self, Config};

    const PHRASE: &[u8] = b"correct horse battery staple";

    struct Installation {
        folder: tempfile::TempDir,
        config: Config,
    }

    impl Installation {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config =
                config::parse("test", "trust_domain: td.example", &[], folder.path(), false).unwrap();
            let path = folder.path().join("credence.yaml");
            init::initialise(&config, None, &path, Arc::new(SystemClock)).await.unwrap();
            Self { folder, config }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        async fn export(&self, name: &str, phrase: &[u8], keep: bool) -> Result<Exported, Failure> {
            let wanted = Wanted {
                out: self.path(name),
                passphrase: Zeroizing::new(phrase.to_vec()),
                keep,
                dry_run: false,
                reason: "drill".to_owned(),
            };
            self.with(async |store| carry_out(&store, &wanted, &SystemClock).await).await
        }

        async fn with<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            init::with_store(&self.config, &clock, async |store| Ok(work(store).await)).await.unwrap()
        }

        /// Whether the root's key is in the store, and since when it is kept elsewhere.
        async fn root_key(&self) -> (bool, bool) {
            self.with(async |store| {
                let records = store.load().await.unwrap();
                let root = records.into_iter().find(|record| record.place == Place::Root).unwrap();
                (store.load_key(root.id).await.is_ok(), root.offline.is_some())
            })
            .await
        }
    }

    #[tokio::test]
    async fn the_key_is_destroyed_only_after_the_file_was_proven_and_the_command_goes_on_from_what_it_finds()
    {
        let here = Installation::new().await;
        // What an earlier try left when it was killed.
        fs::write(here.path("root.pem.part"), "half").unwrap();
        let kept = here.export("root.pem", PHRASE, true).await.unwrap();
        assert!(kept.key_is_here && kept.sha256.is_some(), "{kept:?}");
        assert_eq!(here.root_key().await, (true, false));
        let mode = fs::metadata(here.path("root.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!here.path("root.pem.part").exists());
        let before = fs::read(here.path("root.pem")).unwrap();
        // Another passphrase does not open it: the operator has not got what he needs.
        let refused = here.export("root.pem", b"another passphrase", false).await.unwrap_err();
        assert_eq!(refused.exit, Exit::Conflict);
        assert!(refused.message.contains("does not open"), "{}", refused.message);
        assert_eq!(here.root_key().await, (true, false));
        let gone = here.export("root.pem", PHRASE, false).await.unwrap();
        assert!(!gone.key_is_here && gone.sha256 == kept.sha256, "{gone:?}");
        assert_eq!(fs::read(here.path("root.pem")).unwrap(), before, "never written again");
        assert_eq!(here.root_key().await, (false, true));
        let again = here.export("other.pem", PHRASE, false).await.unwrap_err();
        assert!(again.exit == Exit::Conflict && again.message.contains("kept elsewhere"), "{again:?}");
        assert!(!here.path("other.pem").exists());
        let rows = here.with(async |store| store.list(&AuditFilter::default()).await.unwrap()).await;
        let exports = rows.iter().rev().filter(|row| row.event.action == Action::AuthorityExport);
        let said: Vec<_> = exports.map(|row| row.event.details.contains_key("sha256")).collect();
        assert_eq!(said, [false, true, true], "begun, proven, and proven again before it was destroyed");
    }

    #[tokio::test]
    async fn a_file_of_somebody_else_is_left_alone_and_nothing_is_destroyed() {
        let here = Installation::new().await;
        fs::write(here.path("notes.txt"), "mine").unwrap();
        let refused = here.export("notes.txt", PHRASE, false).await.unwrap_err();
        assert_eq!(refused.exit, Exit::Conflict);
        assert_eq!(fs::read_to_string(here.path("notes.txt")).unwrap(), "mine");
        let refused = here.export("missing/root.pem", PHRASE, false).await.unwrap_err();
        assert!(refused.exit == Exit::Failed && refused.hint.contains("nothing was destroyed"));
        // The export of another root.
        let there = Installation::new().await;
        there.export("root.pem", PHRASE, true).await.unwrap();
        fs::copy(there.path("root.pem"), here.path("theirs.pem")).unwrap();
        let refused = here.export("theirs.pem", PHRASE, false).await.unwrap_err();
        assert!(refused.message.contains("its certificate is another"), "{}", refused.message);
        assert_eq!(here.root_key().await, (true, false));
    }
}
