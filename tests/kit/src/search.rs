//! Looks for secrets where none may be: raw, in hexadecimal and in base64, at every alignment.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD, engine::general_purpose::URL_SAFE_NO_PAD};

/// What is looked for.
#[derive(Clone)]
pub struct Needle {
    /// What people call it.
    pub name: String,
    /// The octets; at least 16, so that no sighting is chance.
    pub octets: Vec<u8>,
}

impl std::fmt::Debug for Needle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Needle({}, {} octets)", self.name, self.octets.len())
    }
}

impl Needle {
    /// Any octets.
    #[must_use]
    pub fn new(name: impl Into<String>, octets: &[u8]) -> Self {
        assert!(octets.len() >= 16, "too short to look for");
        Self { name: name.into(), octets: octets.to_vec() }
    }

    /// The private scalar inside a PKCS#8 or SEC1 elliptic curve key: the OCTET STRING of 32 or 48 octets that
    /// follows the version 1 (RFC 5915 3).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn scalar(name: impl Into<String>, der: &[u8]) -> Self {
        let found = [32u8, 48].into_iter().find_map(|length| {
            let mark = [2, 1, 1, 4, length];
            let at = der.windows(mark.len()).position(|window| window == mark)? + mark.len();
            der.get(at..at + usize::from(length))
        });
        Self::new(name, found.unwrap_or_else(|| panic!("no elliptic curve key")))
    }

    /// Every way in which it may be written.
    fn patterns(&self) -> Vec<(&'static str, Vec<u8>)> {
        let lower = hex::encode(&self.octets);
        let mut patterns = vec![
            ("raw", self.octets.clone()),
            ("upper case hexadecimal", lower.to_uppercase().into_bytes()),
            ("hexadecimal", lower.into_bytes()),
        ];
        for shift in 0..3 {
            // Base64 depends on where in a group of three octets the text begins; the edges depend on neighbours.
            let padded = [vec![0; shift], self.octets.clone()].concat();
            for (name, engine) in [("base64", STANDARD_NO_PAD), ("base64url", URL_SAFE_NO_PAD)] {
                let text = engine.encode(&padded);
                let whole = &text[if shift == 0 { 0 } else { 4 }..text.len() - 2];
                patterns.push((name, whole.as_bytes().to_vec()));
            }
        }
        patterns
    }
}

/// A secret where none may be.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Which.
    pub needle: String,
    /// In which form.
    pub form: &'static str,
    /// Where.
    pub place: String,
}

/// Looks for `needles` in texts and in every file below `folders`.
#[must_use]
pub fn search(needles: &[Needle], texts: &[(&str, &[u8])], folders: &[&Path]) -> Vec<Sighting> {
    let patterns: Vec<_> = needles.iter().map(|needle| (needle, needle.patterns())).collect();
    let mut found = Vec::new();
    let mut look = |place: &str, hay: &[u8]| {
        for (needle, patterns) in &patterns {
            for (form, pattern) in patterns {
                if contains(hay, pattern) {
                    found.push(Sighting { needle: needle.name.clone(), form, place: place.to_owned() });
                }
            }
        }
    };
    for (place, text) in texts {
        look(place, text);
    }
    for file in folders.iter().flat_map(|folder| files(folder)) {
        if let Ok(content) = std::fs::read(&file) {
            look(&file.display().to_string(), &content);
        }
    }
    found
}

fn contains(hay: &[u8], pattern: &[u8]) -> bool {
    let Some(first) = pattern.first() else { return false };
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|octet| octet == first) {
        let at = from + at;
        if hay[at..].starts_with(pattern) {
            return true;
        }
        from = at + 1;
    }
    false
}

fn files(folder: &Path) -> Vec<PathBuf> {
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_symlink() { Vec::new() } else { files(&path) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_secret_is_seen_in_every_form_and_alignment() {
        let needle = Needle::new("planted", &[0xfb; 32]);
        let clean = search(std::slice::from_ref(&needle), &[("clean", b"nothing here")], &[]);
        assert!(clean.is_empty());
        for shift in 0..3 {
            let hay = [vec![b'x'; shift], needle.octets.clone(), vec![b'y'; 7]].concat();
            for text in [
                hay.clone(),
                hex::encode(&hay).into_bytes(),
                hex::encode_upper(&hay).into_bytes(),
                STANDARD_NO_PAD.encode(&hay).into_bytes(),
                URL_SAFE_NO_PAD.encode(&hay).into_bytes(),
            ] {
                let found = search(std::slice::from_ref(&needle), &[("hay", &text)], &[]);
                assert!(!found.is_empty(), "{}", String::from_utf8_lossy(&text));
            }
        }
    }
}
