//! What resources may be called.

/// The longest name in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 128;
/// What to do about a bad name.
pub(crate) const NAME_HINT: &str = "names have 1 to 128 letters, digits, \"_\", \"-\", \".\" and \":\", and begin with a letter, digit or \"_\"";

/// What is wrong with a name. Names end up in statistics, in tables and in paths, so they are kept plain.
pub(crate) fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        return Some(format!("has {} bytes, at most {MAX_NAME_BYTES} are allowed", name.len()));
    }
    let bad = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':')));
    match bad {
        Some(bad) => Some(format!("has {bad:?}")),
        None if name.starts_with(['-', '.', ':']) => Some("begins with a punctuation mark".to_owned()),
        None => None,
    }
}
