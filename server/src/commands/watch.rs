//! What is shown again and again, as it changes.

use std::time::Duration;

use serde::Serialize;

use crate::{
    cli::Format,
    output::{self, Exit, Failure},
};

/// How often something is looked at unless asked otherwise.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How wide a bar is.
const BAR: usize = 20;

/// How something is shown while it changes.
pub(super) struct Watch {
    /// How to print it.
    pub(super) format: Format,
    /// Between two looks.
    pub(super) every: Duration,
}

impl Watch {
    /// Shows what `look` finds whenever it differs from what was shown last, until `is_over` says so of it or
    /// somebody presses Ctrl-C, or nobody read the last change any more. A person sees the last one only; programs get
    /// one after the other.
    ///
    /// # Errors
    /// As `look`.
    pub(super) async fn run<T: Serialize>(
        &self,
        look: impl AsyncFn() -> Result<T, Failure>,
        text: impl Fn(&T) -> String,
        is_over: impl Fn(&T) -> bool,
    ) -> Result<Exit, Failure> {
        let mut shown = String::new();
        loop {
            let found = look().await?;
            let now = match self.format {
                Format::Table => text(&found),
                format => output::structured(format, &found)?,
            };
            if now != shown {
                if output::is_terminal() && self.format == Format::Table && !shown.is_empty() {
                    output::clear();
                }
                match self.format {
                    Format::Table => output::say(now.trim_end()),
                    Format::Json | Format::Yaml => output::say_stored(now.trim_end()),
                }
                shown = now;
            }
            // Whoever left, as `head` does, waits for nothing more.
            if is_over(&found) || !output::is_read() {
                return Ok(Exit::Ok);
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
            }
        }
    }
}

/// How much of a whole is there.
pub(super) fn bar(part: usize, whole: usize) -> String {
    let filled = (BAR * part.min(whole)).checked_div(whole).unwrap_or(BAR);
    format!("[{}{}] {part}/{whole}", "#".repeat(filled), ".".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_of_nothing_is_full() {
        assert_eq!(bar(0, 0), "[####################] 0/0");
        assert_eq!(bar(3, 4), "[###############.....] 3/4");
    }
}
