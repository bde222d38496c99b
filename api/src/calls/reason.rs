//! Why somebody does something: one line of text, which goes to the audit log and to other operators' terminals.

use spiffe::is_unprintable;

use super::CallError;

/// The longest, in characters.
const MAX_REASON: usize = 500;

/// Checks a reason that somebody gives; it may be empty.
///
/// # Errors
/// When it has more than one line or 500 characters, or one that no terminal prints. What is around it does not count.
pub fn check_reason(reason: &str) -> Result<(), CallError> {
    let reason = reason.trim();
    let length = reason.chars().count();
    let why = match reason.chars().find(|one| is_unprintable(*one)) {
        Some('\n' | '\r') => "a reason is one line".to_owned(),
        Some(one) => format!("a reason can be printed: it has U+{:04X}", u32::from(one)),
        None if length > MAX_REASON => {
            format!("a reason has at most {MAX_REASON} characters, and this one {length}")
        }
        None => return Ok(()),
    };
    Err(CallError::Parameter { what: "reason", why })
}
