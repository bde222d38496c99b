//! A ladder of rules: why a chain is believed or refused.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every rule that was asked, each exactly once, and the path from the certificate in question upwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ladder {
    /// Whether no rule is broken.
    pub passed: bool,
    /// Who signed whom.
    pub chain: Vec<Link>,
    /// Every rule.
    pub rungs: Vec<Rung>,
}

/// One step of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// Which certificate.
    pub subject: String,
    /// Who signed it, or who it says should have.
    pub signed_by: String,
    /// Whether that is so.
    pub holds: bool,
}

/// One rule, answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rung {
    /// Its stable name.
    pub rule: String,
    /// What must be so.
    pub asks: String,
    /// What it was asked about; when it is broken, by what.
    pub subject: String,
    /// `pass`, `fail` or `skipped`.
    pub verdict: String,
    /// What was found, or why it was not asked.
    pub found: String,
    /// Where it comes from, and what goes wrong without it.
    pub why: String,
    /// What to do; empty unless it is broken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
    /// When it is broken: what Envoy and rustls would do, why it is so, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
}

impl From<&certs::Ladder> for Ladder {
    fn from(ladder: &certs::Ladder) -> Self {
        let link = |link: &certs::Link| Link {
            subject: link.subject.clone(),
            signed_by: link.signed_by.clone(),
            holds: link.holds,
        };
        let rung = |rung: &certs::Rung| Rung {
            rule: rung.rule.to_owned(),
            asks: rung.asks.to_owned(),
            subject: rung.subject.clone(),
            verdict: match rung.verdict {
                certs::Verdict::Pass => "pass".to_owned(),
                certs::Verdict::Fail => "fail".to_owned(),
                certs::Verdict::Skipped => "skipped".to_owned(),
            },
            found: rung.found.clone(),
            why: rung.why.to_owned(),
            fix: rung.fix.to_owned(),
            sentence: rung.sentence(),
        };
        Self {
            passed: ladder.passed,
            chain: ladder.chain.iter().map(link).collect(),
            rungs: ladder.rungs.iter().map(rung).collect(),
        }
    }
}

impl Ladder {
    /// The rungs that are broken.
    pub fn failures(&self) -> impl Iterator<Item = &Rung> {
        self.rungs.iter().filter(|rung| rung.verdict == "fail")
    }
}
