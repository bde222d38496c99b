//! A command that is told: no shell, an empty environment, one JSON object on its standard input.

use std::process::Stdio;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// The most that is kept of what it prints; the rest is thrown away.
const MAX_OUTPUT: u64 = 4096;
/// The most characters of it that are shown.
const MAX_SHOWN: usize = 200;

/// Runs it to its end. It has taken the notice if it exits with 0. What it started ends with it, also when it is given
/// up.
///
/// # Errors
/// In words: it cannot be run, or exits otherwise, with the last line that it printed to standard error.
pub(super) async fn run(words: &[String], json: &[u8]) -> Result<(), String> {
    let [program, arguments @ ..] = words else { return Err("the command is empty".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut input) = input {
            // One that does not read what it is told may still do what it is for.
            let _ = input.write_all(json).await;
        }
    };
    let end = async {
        let status = child.wait().await;
        // Whoever it left behind would keep what it prints open.
        drop(group);
        status
    };
    let ((), _, errors, status) = tokio::join!(feed, read(output), read(errors), end);
    let status = status.map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let last: String = last.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    let why = if last.is_empty() { String::new() } else { format!(": {last}") };
    Err(format!("{program} ended with {status}{why}"))
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(mut from) = from {
        // What cannot be read is not shown.
        let _ = (&mut from).take(MAX_OUTPUT).read_to_end(&mut text).await;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The process group of a command: whatever it started ends with it.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_command_gets_the_json_and_nothing_of_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        let script = format!("/bin/cat > {0}; /usr/bin/env >> {0}; pwd >> {0}", file.display());
        run(&shell(&script), b"{\"event\":\"test\"}\n").await.unwrap();
        let told = std::fs::read_to_string(&file).unwrap();
        let mut lines = told.lines();
        assert_eq!(lines.next(), Some("{\"event\":\"test\"}"));
        // What is left is what a shell sets by itself.
        let left: Vec<&str> = lines.collect();
        assert!(
            left.iter()
                .all(|line| ["PWD=", "SHLVL=", "_=", "OLDPWD=", "/"].iter().any(|own| line.starts_with(own))),
            "{left:?}"
        );
        assert_eq!(left.last(), Some(&"/"));
    }

    #[tokio::test]
    async fn what_fails_says_why_in_one_bounded_line() {
        let check = async |words: Vec<String>, expected: &str| {
            let error = run(&words, b"{}").await.unwrap_err();
            assert!(error.contains(expected) && error.len() < 400 && !error.contains('\n'), "{error}");
        };
        check(shell("echo first >&2; echo no such pager >&2; exit 3"), "exit status: 3: no such pager").await;
        check(shell("kill -9 $$"), "signal: 9").await;
        check(vec!["/nonexistent/page".into()], "cannot run /nonexistent/page").await;
        check(shell("printf '\\033[2J%01000d' 7 >&2; exit 1"), "exit status: 1: [2J000").await;
        check(Vec::new(), "empty").await;
    }

    #[tokio::test]
    async fn one_that_prints_much_reads_nothing_or_leaves_others_behind_is_no_trouble() {
        run(&shell("exit 0"), &vec![b'x'; 1 << 20]).await.unwrap();
        run(&shell("/usr/bin/head -c 1000000 /dev/zero; exit 0"), b"{}").await.unwrap();
        let words = shell("/bin/sleep 1000 & exit 0");
        let left = run(&words, b"{}");
        tokio::time::timeout(Duration::from_secs(30), left).await.expect("whom it left holds it up").unwrap();
    }

    #[tokio::test]
    async fn one_that_is_given_up_ends_with_everything_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("/bin/sleep 1000 & echo $! > {}; wait", file.display());
        let words = shell(&script);
        let mut running = Box::pin(run(&words, b"{}"));
        let pid = loop {
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse::<i32>() {
                break pid;
            }
        };
        drop(running);
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("what it started outlives it");
    }
}
