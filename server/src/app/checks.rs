//! What was tried, for people.

use api::wire::IssuerCheck;

/// Checks in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Checks(pub(super) Vec<IssuerCheck>);

impl Checks {
    pub(super) fn add(&mut self, rule: &str, verdict: &str, found: String, advice: String) {
        self.0.push(IssuerCheck { rule: rule.into(), verdict: verdict.into(), found, advice });
    }

    pub(super) fn passed(&mut self, rule: &str, found: String) {
        self.add(rule, "passed", found, String::new());
    }

    pub(super) fn failed(&mut self, rule: &str, found: String, advice: impl Into<String>) {
        self.add(rule, "failed", found, advice.into());
    }

    pub(super) fn warning(&mut self, rule: &str, found: String, advice: impl Into<String>) {
        self.add(rule, "warning", found, advice.into());
    }

    pub(super) fn has_failed(&self) -> bool {
        self.0.iter().any(|check| check.verdict == "failed")
    }

    pub(super) fn skip(&mut self, rules: &[&str]) {
        for rule in rules {
            self.add(rule, "skipped", "not tried, because something before it failed".into(), String::new());
        }
    }
}
