//! `ca emergency`: the answer to a stolen key, from the first step to the report.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use api::wire;
use serde::Serialize;

use super::{may_go_on, rotation};
use crate::{
    cli::EmergencyArgs,
    client::{Client, encode},
    output::{self, Exit, Failure, note},
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long proxies are waited for that have not acknowledged that connections end, or are away.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many looks in a row may fail: certificates change on both sides in this very minute.
const MAX_MISSED: u32 = 60;
/// Certificates that are printed; the report has all.
const PRINTED: usize = 50;

/// What is written down in the end.
#[derive(Debug, Serialize)]
struct Report {
    status: wire::EmergencyStatus,
    certificates: Vec<wire::SignedCertificate>,
}

pub(super) async fn run(args: &EmergencyArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let mut wanted =
        wire::Emergency { authority: args.authority.clone(), dry_run: true, reason: args.reason.clone() };
    let planned: wire::EmergencyStatus = client.post("/authorities/emergency", &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, |planned| match planned.stage.as_str() {
            "none" => plan(planned),
            _ => format!("{}\n", progress(planned)),
        })?;
        return Ok(Exit::Ok);
    }
    if !args.change.yes && planned.stage == "none" {
        note(&plan(&planned));
        may_go_on(&args.change, "treat its key as stolen?")?;
    }
    if let Some(file) = &args.report {
        try_out(file)?;
    }
    wanted.dry_run = false;
    let begun: wire::EmergencyStatus = client.post("/authorities/emergency", &wanted).await?;
    let status = watch(&client, begun).await?;
    let path = format!("/authorities/{}/signed", encode(&args.authority));
    let certificates: Vec<wire::SignedCertificate> = client.get_all(&path).await?;
    let report = Report { status, certificates };
    if let Some(file) = &args.report {
        write(file, &report)?;
        note(&format!(
            "credence: {} certificates are listed in {}",
            report.certificates.len(),
            file.display()
        ));
    }
    output::show(args.change.output, &report, text)?;
    let is_whole = report.status.left_behind_count == 0 && is_drained(&report.status);
    Ok(if is_whole { Exit::Ok } else { Exit::Partial })
}

/// Whether every proxy knows that its connections are to end. One that is away just now comes back in a moment, if it
/// comes.
fn is_drained(now: &wire::EmergencyStatus) -> bool {
    now.stage == "done" && now.drained.as_ref().is_some_and(|found| found.acknowledged == found.proxies)
}

/// Looks until it is done, and says beside the result how far it is.
async fn watch(client: &Client, begun: wire::EmergencyStatus) -> Result<wire::EmergencyStatus, Failure> {
    let path = format!("/authorities/{}/emergency", encode(&begun.authority));
    let (mut now, mut said, mut missed, mut drained) = (begun, String::new(), 0, Duration::ZERO);
    loop {
        let progress = progress(&now);
        if progress != said {
            note(&progress);
            said = progress;
        }
        if is_drained(&now) || drained >= PATIENCE {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
        if now.stage != "replacing" {
            drained += LOOK;
        }
        match client.get(&path).await {
            Ok(next) => (now, missed) = (next, 0),
            Err(failure) if failure.exit == Exit::Unavailable && missed < MAX_MISSED => missed += 1,
            Err(failure) => return Err(failure),
        }
    }
}

fn progress(now: &wire::EmergencyStatus) -> String {
    match now.stage.as_str() {
        "replacing" => {
            let tally = &now.rotation.tally;
            let awaited = rotation::awaited(tally).map_or_else(String::new, |words| format!(" ({words})"));
            format!(
                "credence: {}; bundle acknowledged by {}/{}{awaited}, certificates of {}/{} replaced",
                now.rotation.standing, tally.bundle, tally.connected, tally.renewed, tally.holders,
            )
        }
        _ => {
            let (acknowledged, proxies) = now
                .drained
                .as_ref()
                .map_or((0, now.drain.proxies), |found| (found.acknowledged, found.proxies));
            format!(
                "credence: the stolen root is out; the end of connections is acknowledged by {acknowledged}/{proxies}"
            )
        }
    }
}

fn plan(planned: &wire::EmergencyStatus) -> String {
    let drain = &planned.drain;
    format!(
        "treats the key of {} as stolen, and replaces its root {} with everything below it:\n  \
         1. they sign nothing more\n  \
         2. a new root and issuing authority enter every bundle, and sign after 15 s at the latest\n  \
         3. {} unexpired certificates are issued again at once, those that most proxies show first\n  \
         4. the old root leaves the bundle 45 s after that at the latest; who lags then must enrol again\n  \
         5. then every connection between proxies that was opened before is ended: {} and {} on {} are replaced; \
         {drain}; requests go on beside that, TCP sessions and long streams end\n",
        planned.authority,
        planned.root,
        planned.unexpired,
        output::count(drain.listeners, "listener", "listeners"),
        output::count(drain.clusters, "cluster", "clusters"),
        output::count(drain.proxies, "proxy", "proxies"),
    )
}

fn text(report: &Report) -> String {
    let Report { status, certificates } = report;
    let replaced = certificates.iter().filter(|one| one.replaced).count();
    let open: Vec<_> = certificates.iter().filter(|one| !one.replaced && !one.expired).collect();
    let drained = status.drained.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
    let mut text = format!(
        "root {} is out of every bundle; connections that were opened under it end {}; acknowledged by {drained}\n\
         {} certificates were signed under it: {replaced} replaced, {} unexpired and not replaced\n",
        status.root,
        status.drain,
        certificates.len(),
        open.len(),
    );
    if status.left_behind_count > 0 {
        text.push_str(&format!(
            "LEFT BEHIND, to be enrolled again: {}{}\n",
            status.left_behind.join(", "),
            if status.left_behind_count > status.left_behind.len() { ", ..." } else { "" },
        ));
    }
    if !open.is_empty() {
        let rows = open.iter().take(PRINTED).map(|one| {
            let node = super::dash(one.node.as_deref());
            vec![one.serial.clone(), one.class.clone(), one.id.clone(), node, one.not_after.clone()]
        });
        text.push_str(&output::table(&["serial", "class", "identity", "node", "ends"], rows));
        text.push('\n');
    }
    if open.len() > PRINTED {
        text.push_str(&format!("and {} more: --report FILE lists them all\n", open.len() - PRINTED));
    }
    text
}

/// Whether a report can be written there, before anything is done that it is to tell of. One that is there stays.
fn try_out(file: &Path) -> Result<(), Failure> {
    let failed = |error: String| {
        let message = format!("cannot write {}: {error}", file.display());
        Failure::new(Exit::Failed, message, "nothing was begun: give --report a file that can be written")
    };
    if file.is_dir() {
        return Err(failed("it is a directory".to_owned()));
    }
    let (trial, _) = beside(file).map_err(|error| failed(error.to_string()))?;
    fs::remove_file(&trial).map_err(|error| failed(error.to_string()))
}

/// Whole or not at all: an interrupted command leaves the report of before.
fn write(file: &Path, report: &Report) -> Result<(), Failure> {
    let failed = |error: String| {
        let message = format!("cannot write {}: {error}", file.display());
        Failure::new(Exit::Failed, message, "give the command again with another --report")
    };
    let json = serde_json::to_vec_pretty(report).map_err(|error| failed(error.to_string()))?;
    let (next, mut written) = beside(file).map_err(|error| failed(error.to_string()))?;
    let put =
        written.write_all(&json).and_then(|()| written.sync_all()).and_then(|()| fs::rename(&next, file));
    put.map_err(|error| {
        let _ = fs::remove_file(&next);
        failed(error.to_string())
    })
}

/// A new private file beside `file`, by a name that nobody's file has.
fn beside(file: &Path) -> io::Result<(PathBuf, File)> {
    let mut path = file.as_os_str().to_owned();
    path.push(format!(".{:016x}", rand::random::<u64>()));
    let made = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path.into(), made))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn certificate(serial: &str, replaced: bool, expired: bool) -> wire::SignedCertificate {
        wire::SignedCertificate {
            serial: serial.into(),
            issuer: None,
            authority: "a".into(),
            class: "workload".into(),
            id: "spiffe://td/web".into(),
            node: Some("web-1".into()),
            issued: "2026-01-01T00:00:00Z".into(),
            not_after: "2026-01-01T12:00:00Z".into(),
            expired,
            replaced,
        }
    }

    #[test]
    fn says_how_many_were_replaced_and_names_who_was_left_behind() {
        let status = wire::EmergencyStatus {
            root: "r".into(),
            stage: "done".into(),
            left_behind: vec!["web-1".into()],
            left_behind_count: 1,
            ..Default::default()
        };
        let certificates = vec![
            certificate("01", true, false),
            certificate("02", false, false),
            certificate("03", false, true),
        ];
        let text = text(&Report { status, certificates });
        for words in
            ["3 certificates", "1 replaced, 1 unexpired and not replaced", "LEFT BEHIND", "web-1", "02"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("03"), "what has expired is in nobody's way: {text}");
    }

    #[test]
    fn nodes_that_are_only_awaited_are_called_that() {
        let now = |awaited| {
            let tally = wire::RotationTally { connected: 5, bundle: 3, awaited, ..Default::default() };
            let rotation = wire::RootRotation { tally, ..Default::default() };
            progress(&wire::EmergencyStatus { stage: "replacing".into(), rotation, ..Default::default() })
        };
        assert!(now(2).contains("by 3/5 (2 are not connected now, and are awaited), cert"), "{}", now(2));
        assert!(now(1).contains("(1 is not connected now"), "{}", now(1));
        assert!(now(0).contains("by 3/5, cert"), "{}", now(0));
    }

    #[test]
    fn a_plan_says_what_ends_where_and_how_soon() {
        let drain = wire::Drain {
            proxies: 3,
            listeners: 4,
            clusters: 1,
            within: vec![wire::DrainTime { secs: 5, proxies: 2 }],
            untold: vec!["edge".into()],
            untold_count: 1,
        };
        let plan = plan(&wire::EmergencyStatus { drain, unexpired: 9, ..Default::default() });
        for words in [
            "9 unexpired",
            "4 listeners and 1 cluster on 3 proxies",
            "within 5 s on 2 proxies",
            "there: edge",
        ] {
            assert!(plan.contains(words), "{words}: {plan}");
        }
    }

    #[test]
    fn a_report_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stolen.json");
        let report =
            Report { status: Default::default(), certificates: vec![certificate("01", true, false)] };
        write(&file, &report).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read["certificates"][0]["serial"], "01");
        assert!(write(Path::new("/nonexistent/x"), &report).is_err());
        // That it can be is known before, and leaves one that is there as it is.
        let held = fs::read(&file).unwrap();
        // What others have beside it is theirs.
        let theirs = ["stolen.json.trial", "stolen.json.next"].map(|name| folder.path().join(name));
        for path in &theirs {
            fs::write(path, "theirs").unwrap();
        }
        try_out(&file).unwrap();
        assert!(fs::read(&file).unwrap() == held);
        write(&file, &report).unwrap();
        assert!(theirs.iter().all(|path| fs::read(path).unwrap() == b"theirs"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        for refused in [Path::new("/nonexistent/x"), folder.path()] {
            assert!(try_out(refused).unwrap_err().hint.contains("nothing was begun"), "{refused:?}");
        }
    }
}
