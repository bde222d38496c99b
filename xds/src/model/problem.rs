//! What is wrong with a document, where, and what to do about it: the one error type of validation.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// One thing that keeps documents from being accepted. Text is lower case, without full stop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file, or whatever the text came from.
    pub file: Arc<str>,
    /// Line in it, from 1; 0 when the problem has no place in a text.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The field, as the document spells it; empty for the whole document.
    pub path: String,
    /// What stands there, shortened.
    pub value: String,
    /// The stable name of the rule.
    pub rule: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl Problem {
    /// What to do: the hint, or what the rule asks for where the message says nearly all.
    #[must_use]
    pub fn fix(&self) -> &str {
        if !self.hint.is_empty() {
            return &self.hint;
        }
        match self.rule.as_str() {
            "range" => "write a number in that range",
            "type" => "write what is expected there",
            "path" => "begin it with \"/\"",
            "duplicate-value" => "remove one of the two",
            "namespace" => "write a name, such as production",
            rule if rule.starts_with("syntax") => "correct the YAML there",
            rule if rule.starts_with("limit") => "split it into several documents",
            _ => "correct it there; the JSON Schema of documents says what may stand where",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{}:{}", self.message, self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        f.write_str(")")
    }
}

/// All problems that were found, never only the first. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// In the order of files and lines; equal ones once.
    #[must_use]
    pub(crate) fn sorted(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Rules that only say what Envoy takes.
const OF_ENVOY: [&str; 4] = ["header-value", "overlapping-chains", "regex", "weights"];

impl Problem {
    /// Whether it is only that Envoy would refuse what was made of it, and keep what it has: nobody else is the worse for
    /// it.
    #[must_use]
    pub fn is_of_envoy(&self) -> bool {
        OF_ENVOY.contains(&self.rule.as_str())
    }
}

/// Something that is accepted and should be read by a person first: plans and `check` say it loudly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Warning(pub Problem);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
