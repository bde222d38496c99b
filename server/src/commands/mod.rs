//! What the operator's commands do. Each is a few calls and a table; the rules are the server's.

use api::wire;

use crate::{
    cli::{ChangeArgs, Operate},
    output::{self, Exit, Failure},
};

mod acme;
mod brought;
mod check;
mod documents;
mod edge;
mod emergency;
mod expiry;
mod expose;
mod hooks;
mod issuer;
mod kek;
mod ladders;
mod proxies;
mod recovery;
mod revoke;
mod rollouts;
mod root_key;
mod rotation;
mod secret;
mod status;
mod texts;
mod trust;
mod verify;
mod watch;

/// Carries out a command of the operator.
///
/// # Errors
/// With what is wrong, what to do, and the exit code.
pub async fn run(command: Operate) -> Result<Exit, Failure> {
    match command {
        Operate::Status(args) => status::run(&args).await,
        Operate::Check(args) => check::run(&args),
        Operate::Apply(args) => documents::apply(&args).await,
        Operate::Diff(args) => documents::diff(&args).await,
        Operate::Get(args) => documents::get(&args).await,
        Operate::Delete(args) => documents::delete(&args).await,
        Operate::History(args) => documents::history(&args).await,
        Operate::Rollback(args) => documents::rollback(&args).await,
        Operate::Verify(args) => verify::run(&args).await,
        Operate::Expose(args) => expose::run(&args).await,
        Operate::Proxy(command) => proxies::run(command).await,
        Operate::Ca(command) => trust::ca(command).await,
        Operate::Issuer(command) => issuer::run(command).await,
        Operate::Edge(command) => edge::run(command).await,
        Operate::Cert(command) => trust::cert(command).await,
        Operate::Identity(command) => trust::identity(command).await,
        Operate::Rollout(command) => rollouts::run(command).await,
        Operate::Recover(args) => recovery::run(&args).await,
        Operate::Hook(command) => hooks::run(command).await,
        Operate::Token(command) => trust::token(command).await,
        Operate::Secret(command) => secret::run(command).await,
        Operate::Kek(command) => kek::run(command).await,
        Operate::Audit(command) => trust::audit(command).await,
    }
}

/// Asks before a change, unless it was told not to or there is nobody to ask: a program that gives no `--yes` is
/// refused for what ends things, and trusted with the rest.
fn may_go_on(change: &ChangeArgs, question: &str) -> Result<(), Failure> {
    if change.yes || output::confirmed(question) {
        return Ok(());
    }
    Err(not_done(output::is_anybody_there(), "--yes does it without asking, --dry-run only shows it"))
}

/// What somebody hears who said no, or who could not be asked.
fn not_done(was_asked: bool, hint: &str) -> Failure {
    let message = match was_asked {
        true => "not done",
        false => "not done: it needs a yes, and standard input is no terminal to ask on; a script adds --yes",
    };
    Failure::new(Exit::Usage, message, hint)
}

/// Prints what was done to one thing.
fn done(change: &ChangeArgs, done: &wire::Done) -> Result<Exit, Failure> {
    output::show(change.output, done, |done| done.summary.clone())?;
    Ok(Exit::Ok)
}

/// The `dry_run` of a change as a query.
fn dry(change: &ChangeArgs) -> &'static str {
    if change.dry_run { "?dry_run=true" } else { "" }
}

fn dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn parse_duration(what: &str, text: &str) -> Result<std::time::Duration, Failure> {
    certs::parse_duration(text).ok_or_else(|| {
        Failure::usage(
            format!("{what} {text:?} is not a duration"),
            "write a number and s, m, h or d, such as 90s",
        )
    })
}

/// The pause of automatic rotation in one line.
fn pause_line(pause: &wire::Paused) -> String {
    let left = output::left(pause.in_secs);
    format!(
        "automatic rotation is PAUSED for {left} more, until {}, by {}: {}",
        pause.until, pause.by, pause.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_nobody_answers_for_hears_what_to_add() {
        let said = |was_asked| not_done(was_asked, "hint");
        assert_eq!((said(true).message.as_str(), said(true).exit), ("not done", Exit::Usage));
        let unasked = said(false);
        assert!(
            unasked.message.starts_with("not done: ") && unasked.message.ends_with("a script adds --yes")
        );
        assert_eq!((unasked.exit, unasked.hint.as_str()), (Exit::Usage, "hint"));
    }
}
