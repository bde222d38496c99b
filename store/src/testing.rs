//! A sweep: does a secret stand anywhere it should not, in any of the forms that it takes on its way into files,
//! logs and answers? And the seal alone, for benchmarks.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use uuid::Uuid;

use crate::{
    keyring::new_id,
    seal::{self, Place, SealingKey},
};

/// Seals and opens records under a key of its own, without a store.
#[derive(Debug)]
pub struct Sealing {
    key: SealingKey,
    store: Uuid,
}

impl Sealing {
    /// With a new key.
    #[must_use]
    pub fn new() -> Self {
        let key = SealingKey::new(new_id(), zeroize::Zeroizing::new(seal::random()));
        Self { key, store: new_id() }
    }

    fn place(&self) -> Place<'_> {
        Place {
            store: self.store,
            tenant: "default",
            class: "tls",
            kind: "secret",
            id: "shop/web",
            version: 1,
        }
    }

    /// The record that a store would write.
    #[must_use]
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        seal::seal(&self.key, &self.place(), plaintext, &seal::random())
    }

    /// Whether a record of [`Sealing::seal`] opens.
    #[must_use]
    pub fn opens(&self, record: &[u8]) -> bool {
        seal::open(&self.key, &self.place(), record).is_ok()
    }
}

impl Default for Sealing {
    fn default() -> Self {
        Self::new()
    }
}

/// The secrets to look for, in each of their forms.
#[derive(Default)]
pub struct Sweep {
    forms: Vec<Form>,
}

struct Form {
    name: String,
    encoding: &'static str,
    bytes: Vec<u8>,
}

/// A secret where it should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was found, by the name it was given.
    pub name: String,
    /// In which form: `raw`, `hex`, `HEX`, `base64`, `base64url`.
    pub encoding: &'static str,
    /// In which file or text.
    pub place: PathBuf,
    /// How far from its beginning.
    pub offset: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) in {} at {}", self.name, self.encoding, self.place.display(), self.offset)
    }
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.forms.iter().map(|form| (&form.name, form.encoding)).collect();
        f.debug_struct("Sweep").field("forms", &names).finish()
    }
}

impl Sweep {
    /// Looks for nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for `secret` too: raw, in hexadecimal of both cases, and in both alphabets of base64 at each of the
    /// three positions that it can have inside a longer text.
    ///
    /// # Panics
    /// When the secret is so short that it would be found by chance.
    #[must_use]
    pub fn with(mut self, name: &str, secret: &[u8]) -> Self {
        assert!(secret.len() >= 12, "{name} is too short to be looked for");
        let mut add = |encoding, bytes: Vec<u8>| {
            self.forms.push(Form { name: name.to_owned(), encoding, bytes });
        };
        add("raw", secret.to_vec());
        add("hex", hex::encode(secret).into_bytes());
        add("HEX", hex::encode_upper(secret).into_bytes());
        for skipped in 0..3 {
            // Whole groups of three bytes only: what stands beside them depends on the neighbours.
            let whole = (secret.len() - skipped) / 3 * 3;
            let aligned = &secret[skipped..skipped + whole];
            add("base64", STANDARD_NO_PAD.encode(aligned).into_bytes());
            add("base64url", URL_SAFE_NO_PAD.encode(aligned).into_bytes());
        }
        self
    }

    /// Searches a text or bytes.
    #[must_use]
    pub fn search(&self, place: &Path, bytes: &[u8]) -> Vec<Finding> {
        let find = |form: &Form| {
            let offset = position(bytes, &form.bytes)?;
            Some(Finding {
                name: form.name.clone(),
                encoding: form.encoding,
                place: place.to_owned(),
                offset,
            })
        };
        self.forms.iter().filter_map(find).collect()
    }

    /// Searches a file, or every file below a directory.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn search_path(&self, path: &Path) -> io::Result<Vec<Finding>> {
        if !path.is_dir() {
            return Ok(self.search(path, &fs::read(path)?));
        }
        let mut findings = Vec::new();
        for entry in fs::read_dir(path)? {
            findings.extend(self.search_path(&entry?.path())?);
        }
        Ok(findings)
    }
}

/// Skips from first byte to first byte, which the standard library finds fast.
fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(step) = haystack.get(from..)?.iter().position(|byte| byte == first) {
        let at = from + step;
        if haystack[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_form_anywhere() {
        let secret: Vec<u8> = (100..132).collect();
        let sweep = Sweep::new().with("scalar", &secret);
        let check = |bytes: Vec<u8>, expected: &str| {
            let found = sweep.search(Path::new("x"), &bytes);
            assert!(found.iter().any(|one| one.encoding == expected), "{expected}");
        };
        for before in 0..4 {
            let mut longer = vec![100; before];
            longer.extend_from_slice(&secret);
            longer.push(7);
            check(longer.clone(), "raw");
            check(hex::encode(&longer).into_bytes(), "hex");
            check(hex::encode_upper(&longer).into_bytes(), "HEX");
            check(STANDARD_NO_PAD.encode(&longer).into_bytes(), "base64");
            check(URL_SAFE_NO_PAD.encode(&longer).into_bytes(), "base64url");
        }
        let mut other = secret;
        other[20] ^= 1;
        assert_eq!(sweep.search(Path::new("x"), &other), []);
        assert!(!format!("{sweep:?}").contains("100"));
    }
}
