//! What commands print: results to standard output, everything else to standard error. The only file that prints.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use api::{
    problem::{self, Fault, Problem},
    wire,
};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use spiffe::is_unprintable;

use crate::cli::Format;

/// How a command ended, as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// It was asked wrongly.
    Usage = 2,
    /// A policy forbids it.
    Refused = 3,
    /// What it was about does not exist.
    NotFound = 4,
    /// Somebody else changed it, or it exists already.
    Conflict = 5,
    /// The server cannot be reached, or cannot answer now.
    Unavailable = 6,
    /// Some of it was done.
    Partial = 7,
}

impl Exit {
    /// What programs read of a failure that no server has named.
    fn word(self) -> &'static str {
        match self {
            Self::Ok | Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Partial => "partial",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the shell sees.
    pub exit: Exit,
    /// What is wrong; lower case, no full stop.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Everything wrong with a text, if it was the text.
    pub faults: Vec<Fault>,
    /// Finds the call in the server's log and audit.
    pub request_id: Box<str>,
    /// The last word of the problem's type; empty where no server has said one.
    pub word: Box<str>,
    /// Every rule that was asked, if it was a chain of certificates.
    pub ladder: Option<Box<wire::Ladder>>,
}

impl Failure {
    /// A failure with something to do about it.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let (message, hint) = (message.into(), hint.into());
        Self {
            exit,
            message,
            hint,
            faults: Vec::new(),
            request_id: Box::default(),
            word: Box::default(),
            ladder: None,
        }
    }

    /// What the command line itself has wrong.
    #[must_use]
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    /// Prints it to standard error: for people, or as the one line that ends what programs read.
    pub fn print(&self, format: Format) {
        match format {
            Format::Table => self.print_lines(),
            Format::Json | Format::Yaml => note(&self.to_object()),
        }
    }

    /// The failure in one line of JSON, which is YAML as well, by the names of the API's problem documents.
    fn to_object(&self) -> String {
        let is_bare = self.message.is_empty();
        let detail = self.faults.first().filter(|_| is_bare).map_or(&self.message, |fault| &fault.message);
        let word = if self.word.is_empty() { self.exit.word() } else { &self.word };
        let error = Reported {
            type_uri: problem::type_uri(word),
            detail,
            hint: &self.hint,
            request_id: &self.request_id,
            errors: &self.faults,
            exit: self.exit as u8,
        };
        escaped(serde_json::json!({ "error": error }).to_string())
    }

    fn print_lines(&self) {
        for fault in &self.faults {
            note(&format!("credence: error: {}", place(fault)));
            if !fault.fix.is_empty() {
                note(&format!("credence: hint: {}", fault.fix));
            }
        }
        if self.faults.is_empty() || self.exit != Exit::Failed {
            note(&format!("credence: error: {}", self.message));
        }
        if !self.hint.is_empty() && self.faults.is_empty() {
            note(&format!("credence: hint: {}", self.hint));
        }
        if !self.request_id.is_empty() && matches!(self.exit, Exit::Unavailable | Exit::Failed) {
            note(&format!("credence: request id: {}", self.request_id));
        }
    }
}

/// A failure for programs.
#[derive(Debug, Serialize)]
struct Reported<'a> {
    #[serde(rename = "type")]
    type_uri: String,
    detail: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    hint: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
    exit: u8,
}

/// A fault as one line: what, then where.
#[must_use]
pub fn place(fault: &Fault) -> String {
    let mut place = fault.file.clone();
    if fault.line > 0 {
        place.push_str(&format!(":{}:{}", fault.line, fault.column));
    }
    if !fault.path.is_empty() {
        place.push_str(&format!(", {}", fault.path));
    }
    if place.is_empty() { fault.message.clone() } else { format!("{} ({place})", fault.message) }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = exit_of(&problem);
        Self {
            exit,
            word: problem.word().into(),
            hint: in_options(&problem),
            message: problem.detail,
            faults: problem.errors,
            request_id: problem.request_id.into(),
            ladder: problem.ladder,
        }
    }
}

/// Fields of the API that commands have other words for.
const OPTIONS: [(&str, &str); 35] = [
    ("addresses", "--addr"),
    ("agree_terms", "--agree-terms"),
    ("all", "--all"),
    ("anchor", "--trust-anchor"),
    ("authority", "--authority"),
    ("automatic", "--automatic"),
    ("ca_file", "--ca-file"),
    ("challenge", "--challenge"),
    ("challenge.algorithm", "--dns-algorithm"),
    ("challenge.key", "--dns-key"),
    ("challenge.listener", "--http-listener"),
    ("challenge.program", "--dns-command"),
    ("challenge.server", "--dns-server"),
    ("challenge.zone", "--dns-zone"),
    ("contacts", "--contact"),
    ("credential", "--credential-file"),
    ("dns_key", "--dns-key-file"),
    ("domains", "--domain"),
    ("external_key", "--external-key-file"),
    ("external_key_id", "--external-key-id"),
    ("fallback", "--fallback"),
    ("for", "--for"),
    ("from", "--from"),
    ("grant", "--grant"),
    ("grants", "--grant"),
    ("hold", "--hold"),
    ("lifetime", "--lifetime"),
    ("listener", "--listener"),
    ("login", "what --login takes"),
    ("mount", "--mount"),
    ("namespace", "--namespace"),
    ("prune", "--prune"),
    ("reason", "--reason"),
    ("stages", "--stage"),
    ("ttl_secs", "--ttl"),
];

/// What to do about a problem, by the option where a field is to be corrected.
fn in_options(problem: &Problem) -> String {
    let field = problem.hint.strip_prefix("correct the ").filter(|_| problem.word() == "parameter");
    let option = OPTIONS.iter().find(|(of_api, _)| field == Some(*of_api));
    option.map_or_else(|| problem.hint.clone(), |(_, option)| format!("correct {option}"))
}

/// The exit code of a problem: by its word where the contract says more than the status does.
#[must_use]
pub fn exit_of(problem: &Problem) -> Exit {
    match (problem.word(), problem.status) {
        ("syntax" | "invalid-document" | "invalid-chain", _) => Exit::Failed,
        ("parameter" | "content-type" | "too-large" | "no-method", _) => Exit::Usage,
        (_, 401 | 403) => Exit::Refused,
        (_, 404) => Exit::NotFound,
        (_, 409 | 412) => Exit::Conflict,
        (_, 429 | 502..=504) => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

/// Prints a result, without what a terminal would obey. A reader that has gone away is no error of ours.
pub fn say(text: &str) {
    put(&printable(text));
}

/// Prints a text as it is stored; on a terminal, as [`say`] does.
pub fn say_stored(text: &str) {
    if is_terminal() { say(&text.replace("\r\n", "\n")) } else { put(text) }
}

/// Clears a terminal and goes to its first line.
pub fn clear() {
    put("\x1b[2J\x1b[H");
}

fn put(text: &str) {
    LOSS.note(writeln!(io::stdout().lock(), "{text}"));
}

static LOSS: Loss = Loss::new();

/// Whether somebody may still read what is printed: not when standard output failed, or its reader has gone away.
pub fn is_read() -> bool {
    !LOSS.is_gone.load(Ordering::Relaxed)
}

/// The first failure to print a result: what was done stays done, but nobody has read what came of it, such as a join
/// line that is shown once.
struct Loss {
    failure: OnceLock<String>,
    /// Whether nobody reads any more, be it that he has gone away.
    is_gone: AtomicBool,
}

impl Loss {
    const fn new() -> Self {
        Self { failure: OnceLock::new(), is_gone: AtomicBool::new(false) }
    }

    fn note(&self, printed: io::Result<()>) {
        let Err(error) = printed else { return };
        self.is_gone.store(true, Ordering::Relaxed);
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = self.failure.set(error.to_string());
        }
    }

    fn failure(&self) -> Option<Failure> {
        let message = format!("cannot write the result to standard output: {}", self.failure.get()?);
        let hint = "what was asked for may be done already: look before it is done again";
        Some(Failure::new(Exit::Failed, message, hint))
    }
}

/// How the process ends: as the command did, unless a part of its result could not be printed.
///
/// # Errors
/// When standard output failed, as a full disk does. A reader that has gone away is no error of ours.
pub fn ended(exit: Exit) -> Result<Exit, Failure> {
    LOSS.note(io::stdout().flush());
    LOSS.failure().map_or(Ok(exit), Err)
}

/// Prints a remark beside the result.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// `text` with a sign in the place of each character that a terminal would obey: whoever wrote it, it is shown and
/// not done. Lines and tabs stay.
fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |letter: char| is_unprintable(letter) && !matches!(letter, '\n' | '\t');
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_bad(c) { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

/// A value that stands in a line of its own: whoever wrote it, it begins no other.
fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Whether there is somebody who can be asked.
#[must_use]
pub fn is_anybody_there() -> bool {
    io::stdin().is_terminal()
}

/// Asks a yes-or-no question on the terminal. Without a terminal the answer is no.
#[must_use]
pub fn confirmed(question: &str) -> bool {
    let (mut stderr, stdin) = (io::stderr().lock(), io::stdin());
    if !is_anybody_there() {
        return false;
    }
    let _ = write!(stderr, "{} [y/N] ", printable(question));
    let _ = stderr.flush();
    let mut line = String::new();
    stdin.read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// Whether standard output is a person.
#[must_use]
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A value as JSON or YAML.
///
/// # Errors
/// When it has no text form, which none of our types does.
pub fn structured<T: Serialize>(format: Format, value: &T) -> Result<String, Failure> {
    let failed = |error: String| Failure::new(Exit::Failed, format!("cannot print the answer: {error}"), "");
    match format {
        Format::Table | Format::Json => {
            let text = serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))?;
            Ok(escaped(text))
        }
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| failed(error.to_string())),
    }
}

/// JSON in which nothing is left that a terminal would obey: such characters stand in texts only, where they may be
/// escaped.
fn escaped(json: String) -> String {
    let is_bad = |letter: char| is_unprintable(letter) && letter != '\n';
    if !json.contains(is_bad) {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match is_bad(letter) {
            true => text.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => text.push(letter),
        }
    }
    text
}

/// Prints `value` as `format` asks; `table` makes it for people.
///
/// # Errors
/// As [`structured`].
pub fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    match format {
        Format::Table => say(table(value).trim_end()),
        Format::Json | Format::Yaml => say_stored(structured(format, value)?.trim_end()),
    }
    Ok(())
}

/// A table without lines, for people and for `awk`.
#[must_use]
pub fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().map(|header| header.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    table.trim_fmt()
}

/// What is known of one thing, a line for each.
#[must_use]
pub fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    rows.iter().map(|(what, value)| format!("{what:<width$}  {}\n", one_line(value))).collect()
}

/// How many columns a person sees; 100 where that is not known.
#[must_use]
pub fn width() -> usize {
    Table::new().width().map_or(100, usize::from).clamp(40, 140)
}

/// `text` in lines of at most `width` columns where its words allow it: the first begins after `first` blanks, the
/// others after `rest`.
#[must_use]
pub fn wrapped(text: &str, width: usize, first: usize, rest: usize) -> String {
    let (mut lines, mut line, mut is_empty) = (Vec::new(), " ".repeat(first), true);
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(rest)));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The word by which a value without fields is written for programs.
#[must_use]
pub fn word<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    text.trim_matches('"').to_owned()
}

/// A number of things: `1 node`, `2 nodes`.
#[must_use]
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Says beside an empty table that there is nothing, and what to do about it.
pub fn remark_if_empty<T>(format: Format, items: &[T], remark: &str) {
    if format == Format::Table && items.is_empty() {
        note(&format!("credence: {remark}"));
    }
}

/// Seconds until something, for people: `3h20m`, or `expired 5m ago`.
#[must_use]
pub fn left(secs: i64) -> String {
    let length = certs::format_duration(std::time::Duration::from_secs(secs.unsigned_abs()));
    if secs < 0 { format!("expired {length} ago") } else { length }
}

#[cfg(test)]
mod tests {
    use api::calls::CallError;

    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let stale = || CallError::Stale { what: "document", name: "x".into(), expected: 1, actual: 2 };
        for (error, expected) in [
            (CallError::Syntax(Vec::new()), 1),
            (CallError::Invalid(Vec::new()), 1),
            (CallError::Parameter { what: "limit", why: "it is 0".into() }, 2),
            (CallError::ContentType { found: String::new() }, 2),
            (CallError::TooLarge { limit: 1 }, 2),
            (CallError::NoCredential, 3),
            (CallError::Policy("no".into()), 3),
            (CallError::Forbidden { id: String::new(), operation: String::new() }, 3),
            (CallError::NotFound { what: "node", name: String::new() }, 4),
            (CallError::NoRoute("/x".into()), 4),
            (CallError::Exists { what: "issuer", name: String::new() }, 5),
            (CallError::Conflict { what: "token", name: String::new(), why: String::new() }, 5),
            (stale(), 5),
            (CallError::Unavailable { part: "store", why: String::new() }, 6),
            (CallError::TimedOut(std::time::Duration::ZERO), 6),
            (CallError::RateLimited { retry_after: std::time::Duration::ZERO }, 6),
        ] {
            let failure = Failure::from(Problem::new(&error, "id"));
            assert_eq!(failure.exit as u8, expected, "{error}");
        }
    }

    #[test]
    fn programs_read_a_failure_as_one_line_with_the_words_of_the_api() {
        let read = |failure: &Failure| {
            let line = failure.to_object();
            assert!(!line.contains('\n') && !line.contains('\x1b'), "{line}");
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&line).unwrap(), read);
            read["error"].clone()
        };
        let found = read(&Failure::from(Problem::new(&CallError::Policy("no\x1b[2J\n".into()), "00ff")));
        assert_eq!((&found["type"], &found["exit"]), (&"urn:credence:problem:policy".into(), &3.into()));
        assert_eq!((&found["detail"], &found["request_id"]), (&"no\x1b[2J\n".into(), &"00ff".into()));
        assert!(found["hint"].is_string() && found["errors"].is_null(), "{found}");
        let found = read(&Failure::usage("no", ""));
        assert_eq!((&found["type"], &found["hint"]), (&"urn:credence:problem:usage".into(), &().into()));
        // Where only the text is wrong, the first fault says what.
        let fault = Fault {
            file: "web.yaml".into(),
            line: 3,
            column: 1,
            path: String::new(),
            value: String::new(),
            rule: "required".into(),
            message: "a name is missing".into(),
            fix: String::new(),
        };
        let found = read(&Failure { faults: vec![fault], ..Failure::new(Exit::Failed, "", "") });
        assert_eq!(found["detail"], "a name is missing");
        assert_eq!(found["errors"][0]["file"], "web.yaml");
    }

    #[test]
    fn what_is_to_be_corrected_is_named_as_commands_have_it() {
        let hint = |error: CallError| Failure::from(Problem::new(&error, "id")).hint;
        let of = |what| hint(CallError::Parameter { what, why: "no".into() });
        assert_eq!((of("anchor"), of("name")), ("correct --trust-anchor".into(), "correct the name".into()));
        assert_eq!(hint(CallError::Policy("no".into())).find("--"), None);
        let all = include_str!("cli_help.txt");
        for (_, option) in OPTIONS {
            let option = option.split(' ').find(|word| word.starts_with("--")).unwrap();
            assert!(all.contains(option), "{option}");
        }
    }

    #[test]
    fn faults_say_what_then_where() {
        let mut fault = Fault {
            file: "web.yaml".into(),
            line: 3,
            column: 15,
            path: "spec.routes[0].name".into(),
            value: String::new(),
            rule: "required".into(),
            message: "a name is missing".into(),
            fix: String::new(),
        };
        assert_eq!(place(&fault), "a name is missing (web.yaml:3:15, spec.routes[0].name)");
        (fault.line, fault.path) = (0, String::new());
        assert_eq!(place(&fault), "a name is missing (web.yaml)");
    }

    #[test]
    fn what_a_server_tells_is_shown_and_not_obeyed() {
        assert_eq!(printable("größe 漢\n\tx"), "größe 漢\n\tx");
        assert_eq!(printable("\x1b[2Ja\u{202e}b\u{9b}\r"), "\u{fffd}[2Ja\u{fffd}b\u{fffd}\u{fffd}");
        let text = table(&["labels"], [vec!["app=web\nweb-2  SYNCED\x1b[1A".into()]]);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines, ["LABELS", "app=web web-2  SYNCED\u{fffd}[1A"]);
        assert_eq!(facts(&[("labels", "a=b\nstate  good".into())]), "labels  a=b state  good\n");
    }

    #[test]
    fn json_and_yaml_hold_every_character_and_escape_what_a_terminal_obeys() {
        let value = vec!["\x1b[2J\u{9b}\u{7f}\u{202e}ü\n".to_owned()];
        let text = structured(Format::Json, &value).unwrap();
        assert!(!text.contains(|c| is_unprintable(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), value);
        let text = structured(Format::Yaml, &value).unwrap();
        assert_eq!(serde_saphyr::from_str::<Vec<String>>(&text).unwrap(), value, "{text:?}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn a_result_that_nobody_could_read_is_a_failure_and_a_reader_that_left_is_none() {
        let loss = Loss::new();
        loss.note(Ok(()));
        assert!(!loss.is_gone.load(Ordering::Relaxed));
        loss.note(Err(io::ErrorKind::BrokenPipe.into()));
        assert!(loss.failure().is_none() && loss.is_gone.load(Ordering::Relaxed));
        loss.note(Err(io::Error::other("no space left")));
        loss.note(Err(io::Error::other("later")));
        let failure = loss.failure().unwrap();
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.message, "cannot write the result to standard output: no space left");
    }

    #[test]
    fn tables_are_plain() {
        let text = table(&["name", "state"], [vec!["web".into(), "SYNCED".into()]]);
        assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), ["NAME  STATE", "web   SYNCED"]);
        assert_eq!((left(90), left(-3600)), ("1m30s".into(), "expired 1h ago".into()));
        let rows = [("edge", "shop.example".to_owned()), ("next", "-".to_owned())];
        assert_eq!(facts(&rows), "edge  shop.example\nnext  -\n");
    }
}
