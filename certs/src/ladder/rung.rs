//! The value: one rung for each rule, and the board on which they are answered.

use serde::Serialize;

use super::Opinion;

/// What a rule is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The certificate in question.
    First,
    /// Every certificate of the path.
    Each,
    /// Every certificate above the one in question.
    Authorities,
    /// The path as a whole.
    Chain,
}

impl Scope {
    fn words(self) -> &'static str {
        match self {
            Self::First => "first certificate",
            Self::Each => "every certificate",
            Self::Authorities => "every authority",
            Self::Chain => "the chain",
        }
    }
}

/// One rule: what it asks, why, and what to do when it fails.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its stable name, the same as in audit and metrics.
    pub name: &'static str,
    /// What it is asked about.
    pub scope: Scope,
    /// What must be so, as a sentence without its subject.
    pub asks: &'static str,
    /// Where the rule comes from and what goes wrong without it.
    pub why: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

/// How a rule was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It could not be asked, or has nothing to say here.
    Skipped,
}

/// One rule, answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rung {
    /// The stable name of the rule.
    pub rule: &'static str,
    /// What must be so.
    pub asks: &'static str,
    /// Which certificates it was asked about; when it fails, those that break it.
    pub subject: String,
    /// How it was answered.
    pub verdict: Verdict,
    /// What was found, or why it was not asked; mostly empty when it passes.
    pub found: String,
    /// Where the rule comes from and what goes wrong without it.
    pub why: &'static str,
    /// What to do; empty unless it fails.
    pub fix: &'static str,
    /// What Envoy says of it, when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy: Option<Opinion>,
    /// What rustls says of it, when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rustls: Option<Opinion>,
}

impl Rung {
    /// For a rule that fails: what Envoy and rustls would say, why it is so, and what to do.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        let (envoy, rustls) = (self.envoy?, self.rustls?);
        Some(format!("Envoy {envoy}, rustls {rustls}, because {}; {}", self.why, self.fix))
    }
}

/// One step of the path: a certificate and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Which certificate.
    pub subject: String,
    /// Who signed it, or who it says should have.
    pub signed_by: String,
    /// Whether that is so.
    pub holds: bool,
}

/// Every rule, each exactly once, in the order in which it was asked; and the path, step by step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ladder {
    /// Whether no rule failed.
    pub passed: bool,
    /// Who signed whom, the certificate in question first.
    pub chain: Vec<Link>,
    /// Every rule.
    pub rungs: Vec<Rung>,
}

impl Ladder {
    /// Whether no rule failed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.passed
    }

    /// The rungs that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Rung> {
        self.rungs.iter().filter(|rung| rung.verdict == Verdict::Fail)
    }

    /// The first rung that failed.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Rung> {
        self.failures().next()
    }

    /// Whether Envoy lets it pass all the same: it refuses when one failed rule makes it; `None` when that is not
    /// known of one of them.
    #[must_use]
    pub fn passes_envoy(&self) -> Option<bool> {
        conclude(self.failures().filter_map(|rung| rung.envoy))
    }

    /// As [`Self::passes_envoy`], of rustls.
    #[must_use]
    pub fn passes_rustls(&self) -> Option<bool> {
        conclude(self.failures().filter_map(|rung| rung.rustls))
    }
}

fn conclude(opinions: impl Iterator<Item = Opinion>) -> Option<bool> {
    let opinions: Vec<Opinion> = opinions.collect();
    if opinions.iter().any(|one| matches!(one, Opinion::Refuses(_))) {
        return Some(false);
    }
    (!opinions.contains(&Opinion::Unknown)).then_some(true)
}

/// A ladder while it is being answered: every rule passes until something is said against it.
#[derive(Debug, Clone)]
pub struct Board {
    rungs: Vec<Rung>,
    chain: Vec<Link>,
}

impl Board {
    /// One rung for each rule.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        Self { rungs: Vec::new(), chain: Vec::new() }.with(rules)
    }

    /// One rung for each rule of the verifier, to be answered by [`super::explain_on`].
    #[must_use]
    pub fn of_chains() -> Self {
        Self::new(super::RULES)
    }

    /// More rules, at the end. One that is there already is not asked twice.
    #[must_use]
    pub fn with(mut self, rules: &[Rule]) -> Self {
        for rule in rules {
            if self.rungs.iter().any(|rung| rung.rule == rule.name) {
                continue;
            }
            self.rungs.push(Rung {
                rule: rule.name,
                asks: rule.asks,
                subject: rule.scope.words().to_owned(),
                verdict: Verdict::Pass,
                found: String::new(),
                why: rule.why,
                fix: rule.fix,
                envoy: None,
                rustls: None,
            });
        }
        self
    }

    /// Answers a rule: `subject` breaks it. What others say is what they say of the first that does.
    pub fn fail(
        &mut self,
        rule: &str,
        subject: &str,
        found: impl Into<String>,
        (envoy, rustls): (Opinion, Opinion),
    ) {
        let index = self.rungs.iter().position(|rung| rung.rule == rule);
        let index = index.or_else(|| self.rungs.iter().position(|rung| rung.rule == "other"));
        let Some(rung) = index.and_then(|index| self.rungs.get_mut(index)) else { return };
        let found = found.into();
        if rung.verdict != Verdict::Fail {
            (rung.verdict, rung.envoy, rung.rustls) = (Verdict::Fail, Some(envoy), Some(rustls));
            (rung.subject, rung.found) = (subject.to_owned(), found);
            return;
        }
        if rung.subject != subject && !rung.subject.contains(&format!("{subject},")) {
            rung.subject = format!("{}, {subject}", rung.subject);
        }
        if !rung.found.contains(&found) && rung.found.len() < MAX_FOUND {
            rung.found = format!("{}; {found}", rung.found);
        }
    }

    /// A rule that cannot be asked.
    pub fn skip(&mut self, rule: &str, reason: &str) {
        for rung in self.rungs.iter_mut().filter(|rung| rung.rule == rule && rung.verdict == Verdict::Pass) {
            (rung.verdict, rung.found) = (Verdict::Skipped, reason.to_owned());
        }
    }

    /// Something worth knowing about a rule that holds.
    pub fn remark(&mut self, rule: &str, found: &str) {
        for rung in self.rungs.iter_mut().filter(|rung| rung.rule == rule && rung.verdict == Verdict::Pass) {
            found.clone_into(&mut rung.found);
        }
    }

    /// Every rule that has not failed cannot be asked.
    pub fn skip_rest(&mut self, reason: &str) {
        let names: Vec<&str> = self.rungs.iter().map(|rung| rung.rule).collect();
        names.into_iter().for_each(|name| self.skip(name, reason));
    }

    /// Whether a rule has failed.
    #[must_use]
    pub fn has_failed_at(&self, rule: &str) -> bool {
        self.rungs.iter().any(|rung| rung.rule == rule && rung.verdict == Verdict::Fail)
    }

    /// Whether one has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.rungs.iter().any(|rung| rung.verdict == Verdict::Fail)
    }

    pub(super) fn set_chain(&mut self, chain: Vec<Link>) {
        self.chain = chain;
    }

    /// The answered ladder.
    #[must_use]
    pub fn finish(self) -> Ladder {
        for rung in &self.rungs {
            debug_assert!(rung.verdict == Verdict::Fail || rung.envoy.is_none(), "{}", rung.rule);
        }
        let clear = |mut rung: Rung| {
            if rung.verdict != Verdict::Fail {
                rung.fix = "";
            }
            rung
        };
        Ladder {
            passed: !self.has_failed(),
            chain: self.chain,
            rungs: self.rungs.into_iter().map(clear).collect(),
        }
    }
}

/// The most octets of what was found that a rung keeps before it stops taking more.
const MAX_FOUND: usize = 1024;
