//! A command that is told: no shell, an empty environment, one JSON object on its standard input.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::fs::{Access, access};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

/// The most that is kept of what it prints; the rest is thrown away.
const MAX_OUTPUT: usize = 4096;
/// How long it is read on after the command has ended: whoever left its process group may keep the pipes open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most characters of it that are shown.
const MAX_SHOWN: usize = 200;

/// Why a program cannot be run by us, as far as its file tells, on this host and now: it is looked at before there is
/// anything to tell.
pub(crate) fn unusable(program: &Path) -> Option<String> {
    unusable_by_anybody(program).or_else(|| {
        let error = access(program, Access::EXEC_OK).err()?;
        Some(format!("{} may not be executed by our user: {error}", program.display()))
    })
}

/// The same of a server that runs as another user.
pub(crate) fn unusable_for(program: &Path, user: User) -> Option<String> {
    if rustix::process::geteuid().as_raw() == user.id {
        return unusable(program);
    }
    unusable_by_anybody(program).or_else(|| {
        let is_barred =
            |path: &&Path| fs::metadata(path).is_ok_and(|found| !user.may_execute(&Modes::of(&found)));
        let (shown, barred, id) = (program.display(), program.ancestors().find(is_barred)?, user.id);
        Some(if barred == program {
            format!("{shown} may not be executed by user {id}")
        } else {
            format!("{shown}: {} may not be entered by user {id}", barred.display())
        })
    })
}

/// Whose process runs a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    id: u32,
    group: u32,
}

impl User {
    /// Whoever owns a data directory, as its server does.
    pub(crate) fn owner_of(directory: &fs::Metadata) -> Self {
        Self { id: directory.uid(), group: directory.gid() }
    }

    /// Which other groups he is in is not known: he may what they may, but for root's, which no service is in.
    fn may_execute(self, modes: &Modes) -> bool {
        let mask = match self {
            Self { id: 0, .. } => 0o111,
            Self { id, .. } if id == modes.user => 0o100,
            Self { group, .. } if group == modes.group => 0o010,
            _ if modes.group == 0 => 0o001,
            _ => 0o011,
        };
        modes.mode & mask != 0
    }
}

/// Who may do what with a file.
struct Modes {
    user: u32,
    group: u32,
    mode: u32,
}

impl Modes {
    fn of(found: &fs::Metadata) -> Self {
        Self { user: found.uid(), group: found.gid(), mode: found.permissions().mode() }
    }
}

fn unusable_by_anybody(program: &Path) -> Option<String> {
    let shown = program.display();
    match fs::metadata(program) {
        Err(error) => Some(format!("{shown}: {error}")),
        Ok(found) if !found.is_file() => Some(format!("{shown} is not a file")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some(format!("{shown} is not executable")),
        Ok(_) => None,
    }
}

/// Runs it to its end. It has taken the notice if it exits with 0. What it started ends with it, also when it is given
/// up; what has left its process group lives on, and is not waited for.
///
/// # Errors
/// In words: it cannot be run, or exits otherwise, with the last line that it printed to standard error.
pub(crate) async fn run(words: &[String], json: &[u8]) -> Result<(), String> {
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
    let (mut printed, mut words) = (Vec::new(), Vec::new());
    let status = {
        let mut pipes =
            pin!(async { tokio::join!(feed, drain(output, &mut printed), drain(errors, &mut words)) });
        let mut end = pin!(end);
        tokio::select! {
            status = &mut end => {
                let is_failed = !status.as_ref().is_ok_and(ExitStatus::success);
                if is_failed {
                    let _ = timeout(LAST_WORDS, pipes).await;
                }
                status
            }
            _ = &mut pipes => end.await,
        }
    };
    let status = status.map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&words);
    let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let last: String = last.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    let why = if last.is_empty() { String::new() } else { format!(": {last}") };
    Err(format!("{program} ended with {status}{why}"))
}

/// Reads to the end, and keeps the first [`MAX_OUTPUT`] octets. What cannot be read is not shown.
async fn drain(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; MAX_OUTPUT];
    while let Ok(octets @ 1..) = from.read(&mut piece).await {
        let room = MAX_OUTPUT - kept.len();
        kept.extend_from_slice(&piece[..octets.min(room)]);
    }
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

    #[test]
    fn a_program_is_looked_at_before_it_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        let check = |words: &str| {
            let why = unusable(&path).unwrap();
            assert!(why.contains(words) && why.contains("page"), "{why}");
        };
        check("No such file");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        check("not executable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(unusable(&path), None);
        assert!(unusable(folder.path()).unwrap().contains("not a file"));
        // Executable, but not by its owner: unless he is root.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o611)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(unusable(&path).is_none(), is_root, "{:?}", unusable(&path));
    }

    /// The likeliest mistake is a program of root's that the server's user may not execute, and root does not notice it.
    #[test]
    fn what_the_user_of_the_server_may_not_execute_is_seen_by_whoever_looks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let ours = User::owner_of(&fs::metadata(&path).unwrap());
        let other = User { id: ours.id + 1, group: ours.group + 1 };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(unusable_for(&path, ours), None);
        let why = unusable_for(&path, other).unwrap();
        assert!(why.ends_with(&format!("page may not be executed by user {}", other.id)), "{why}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let why = unusable_for(&path, other).unwrap();
        let expected = format!("page: {} may not be entered by", folder.path().display());
        assert!(why.contains(&expected), "{why}");
    }

    #[test]
    fn a_user_may_execute_what_its_mode_opens_to_him_and_to_groups_that_he_may_be_in() {
        let check = |user: u32, group: u32, mode: u32, expected: bool| {
            let may = User { id: 998, group: 997 }.may_execute(&Modes { user, group, mode });
            assert_eq!(may, expected, "{user}:{group} {mode:o}");
        };
        check(0, 0, 0o700, false);
        check(0, 0, 0o750, false);
        check(0, 0, 0o755, true);
        check(998, 0, 0o700, true);
        check(998, 0, 0o655, false);
        check(0, 997, 0o750, true);
        check(0, 997, 0o745, false);
        check(0, 27, 0o750, true);
        check(0, 27, 0o700, false);
        let root = User { id: 0, group: 0 };
        assert!(root.may_execute(&Modes { user: 998, group: 997, mode: 0o100 }));
        assert!(!root.may_execute(&Modes { user: 0, group: 0, mode: 0o644 }));
    }

    #[tokio::test]
    async fn a_command_gets_the_json_and_nothing_of_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        let script = format!("/bin/cat > {0}; /usr/bin/env >> {0}; pwd >> {0}", file.display());
        run(&shell(&script), b"{\"event\":\"test\"}\n").await.unwrap();
        let told = fs::read_to_string(&file).unwrap();
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
        timeout(Duration::from_secs(30), left).await.expect("whom it left holds it up").unwrap();
    }

    #[tokio::test]
    async fn one_that_starts_a_daemon_is_judged_by_its_own_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // It has a session of its own when it writes its id, and keeps all three pipes open.
        let daemon = format!(
            "/usr/bin/setsid -f /bin/sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec /bin/sleep 60'; \
             while [ ! -e {0} ]; do :; done; echo up >&2",
            file.display()
        );
        let judge = async |end: &str| {
            let began = tokio::time::Instant::now();
            let judged =
                run(&shell(&format!("PATH=/bin:/usr/bin; {daemon}; {end}")), &vec![b'x'; 1 << 20]).await;
            let pid = fs::read_to_string(&file).unwrap().trim().parse::<i32>().unwrap();
            fs::remove_file(&file).unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the daemon lives on");
            assert!(began.elapsed() < Duration::from_secs(30), "it was waited for");
            judged
        };
        assert_eq!(judge("exit 0").await, Ok(()));
        assert_eq!(judge("exit 7").await.unwrap_err(), "/bin/sh ended with exit status: 7: up");
    }

    #[tokio::test]
    async fn one_that_is_given_up_ends_with_everything_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("/bin/sleep 1000 & echo $! > {}; wait", file.display());
        let words = shell(&script);
        let mut running = Box::pin(run(&words, b"{}"));
        let pid = loop {
            let _ = timeout(Duration::from_millis(20), &mut running).await;
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse::<i32>() {
                break pid;
            }
        };
        drop(running);
        let gone = async {
            while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("what it started outlives it");
    }
}
