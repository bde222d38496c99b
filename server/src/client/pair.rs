//! The operator's key and certificate on disk, replaced while other commands may run.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use certs::{Chain, SecretKey};

use super::{CERTIFICATE, KEY, REISSUE, chain, operator_id, parse_chain, read_key};
use crate::output::{Exit, Failure};

const NEXT_CERTIFICATE: &str = "operator.crt.next";
const LOCK: &str = ".lock";

/// Held while the files of an admin directory are replaced: commands may run side by side.
pub(super) fn alone_in(directory: &Path) -> io::Result<fs::File> {
    let file = lock_file(directory)?;
    file.try_lock()?;
    Ok(file)
}

/// The same for whoever cannot do without, and waits.
pub(crate) fn in_turn_in(directory: &Path) -> io::Result<fs::File> {
    let file = lock_file(directory)?;
    file.lock()?;
    Ok(file)
}

fn lock_file(directory: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    options.create(true).truncate(false).write(true).mode(0o600).open(directory.join(LOCK))
}

/// Takes up a replacement that was interrupted between its two renames: the new key has its name, and its certificate
/// waits beside it.
pub(super) fn take_up_interrupted(directory: &Path) {
    let next = directory.join(NEXT_CERTIFICATE);
    let (Ok(_alone), Ok(waiting)) = (alone_in(directory), chain(&next)) else { return };
    let Ok(key) = read_key(&directory.join(KEY)) else { return };
    let is_of_key = |chain: &Chain| chain.leaf().spki_hash() == key.public().hash();
    // At the first init there is none yet.
    let is_in_place = chain(&directory.join(CERTIFICATE)).is_ok_and(|held| is_of_key(&held));
    if !is_in_place && is_of_key(&waiting) {
        // What fails here is said when the pair is read.
        let _ = fs::rename(&next, directory.join(CERTIFICATE));
    }
}

/// Puts a key and its chain in place: both are complete on disk before either takes its name. A certificate that is
/// not for this key, or not for the same operator, never replaces one that works.
pub(super) fn replace(directory: &Path, key: &SecretKey, pem: &str) -> Result<(), Failure> {
    check(directory, key, pem)?;
    put(directory, key, pem).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot write into {}: {error:#}", directory.display()), REISSUE)
    })
}

/// The same without a look at what it replaces.
pub(crate) fn put(directory: &Path, key: &SecretKey, pem: &str) -> anyhow::Result<()> {
    let (new_key, new_certificate) = (directory.join("operator.key.next"), directory.join(NEXT_CERTIFICATE));
    agent::files::write_private_key(&new_key, key)?;
    agent::files::write_private(&new_certificate, pem.as_bytes())?;
    for (new, name) in [(new_key, KEY), (new_certificate, CERTIFICATE)] {
        let path = directory.join(name);
        fs::rename(&new, &path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    Ok(())
}

fn check(directory: &Path, key: &SecretKey, pem: &str) -> Result<(), Failure> {
    let wrong = |why: String| Failure::new(Exit::Failed, format!("the new certificate {why}"), "");
    let new = parse_chain(pem.as_bytes()).map_err(wrong)?;
    if new.leaf().spki_hash() != key.public().hash() {
        return Err(wrong("is for another key".to_owned()));
    }
    let held = operator_id(&chain(&directory.join(CERTIFICATE))?, directory)?;
    match operator_id(&new, directory)? {
        id if id == held => Ok(()),
        other => Err(wrong(format!("is of {other}, not of {held}"))),
    }
}
