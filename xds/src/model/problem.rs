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

/// Something that is accepted and should be read by a person first: plans and `check` say it loudly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Warning(pub Problem);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
