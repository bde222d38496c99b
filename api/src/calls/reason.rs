//! Why somebody does something: one line of text, which goes to the audit log and to other operators' terminals.

use spiffe::is_unprintable;

use super::CallError;

/// The longest, in characters.
const MAX_REASON: usize = 200;

/// Checks a reason that somebody gives; it may be empty.
///
/// # Errors
/// When it has more than one line or 200 characters, or one that no terminal prints.
pub(crate) fn check_reason(reason: &str) -> Result<(), CallError> {
    if reason.chars().count() <= MAX_REASON && !reason.chars().any(is_unprintable) {
        return Ok(());
    }
    let why = format!("a reason is one line of at most {MAX_REASON} characters, all of which can be printed");
    Err(CallError::Parameter { what: "reason", why })
}
