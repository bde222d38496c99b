//! What the test command tells by the environment: where programs are, how thorough to be, and whether anything may be
//! left out.

use std::io::Write;

pub(crate) fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment where programs are")]
    let value = std::env::var(name);
    value.ok()
}

/// Whether what has a count runs in full: `CREDENCE_FULL=1`.
#[must_use]
pub fn is_full() -> bool {
    variable("CREDENCE_FULL").is_some_and(|full| full == "1")
}

/// Says loudly that a test does not run, and why; then it returns. The words stand in the output of the test command
/// whether or not it shows what tests print.
///
/// # Panics
/// With `CREDENCE_REQUIRE_ENVOY` set, as in CI, where nothing may be left out.
pub fn not_run(why: &str) {
    assert!(variable("CREDENCE_REQUIRE_ENVOY").is_none(), "NOT RUN: {why}");
    tell(why);
}

/// The same of what belongs to a full run alone.
///
/// # Panics
/// In a full run.
pub(crate) fn left_out(why: &str) {
    assert!(!is_full(), "NOT RUN: {why}");
    tell(why);
}

fn tell(why: &str) {
    // Not by `eprintln`, which the test harness keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "\n*** NOT RUN: {why} ***\n");
}
