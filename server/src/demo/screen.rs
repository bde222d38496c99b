//! What the demo shows while it runs: lines that stay, and under them, on a terminal, a few that are redrawn.

use std::io::{IsTerminal, Write, stdout};

/// Writes to standard output; redraws only where that is a terminal.
pub(super) struct Screen {
    live: bool,
    drawn: usize,
}

impl Screen {
    /// For this process's standard output.
    pub(super) fn new() -> Self {
        Self { live: stdout().is_terminal(), drawn: 0 }
    }

    /// Whether lines are redrawn in place.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) {
        self.clear();
        self.write(&format!("{line}\n"));
    }

    /// Lines that the next call replaces; where nothing can be replaced, they are simply written.
    pub(super) fn draw(&mut self, lines: &[String]) {
        self.clear();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // Without wrapping, so that a line is one row to erase on a narrow terminal too.
        self.write(&if self.live { format!("\x1b[?7l{text}\x1b[?7h") } else { text });
        self.drawn = if self.live { lines.len() } else { 0 };
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            // Up by the lines that were drawn, and erase from there down.
            self.write(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn write(&self, text: &str) {
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}
