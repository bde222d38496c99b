//! Nobody is surprised: what ends is listed, and a pause of rotation holds, is said everywhere, and ends.

use std::{process::Stdio, time::Duration};

use kit::{
    Config, Load, LoadPlan, Pair, TestWorld, WorldOptions, all, envoy, eventually,
    fleet::{Part, Until},
    within,
};
use serde_json::Value;
use server::config::{HookConfig, HookTarget, Topic};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
    time::timeout,
};

/// Past half of the issuing authority's life.
const LONG: Duration = Duration::from_secs(120);

/// An authority that is due after 70 s, and held back by a pause until 84 s at most.
fn short_lives(config: &mut Config) {
    config.lifetimes.issuing = Duration::from_secs(140);
    config.lifetimes.leaf = Duration::from_secs(12);
    config.lifetimes.node = Duration::from_secs(20);
    config.lifetimes.server = Duration::from_secs(20);
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_rotation_and_no_renewal_and_every_screen_says_so() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), adjust: short_lives };
    let mut world = TestWorld::boot("pause", options).await;
    let planned = world.command(&["rollout", "list"]).await;
    let (authority, due) = (text(&planned, "/planned/0/authority"), text(&planned, "/planned/0/at"));
    assert!(!authority.is_empty() && planned["paused"].is_null(), "{planned:#}");

    let pause = ["rollout", "pause", "--all", "--reason", "Black Friday", "--for", "4h"];
    let dry = world.command(&[&pause[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry["dry_run"], true, "{dry:#}");
    assert!(world.command(&["rollout", "list"]).await["paused"].is_null(), "a dry run paused it");
    world.command(&[&pause[..], &["--yes"]].concat()).await;

    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    // It is kept: the process may end meanwhile.
    world.kill().await;
    world.start().await;
    let screens: [&[&str]; 5] =
        [&["status"], &["ca", "show"], &["rollout", "list"], &["proxy", "list"], &["identity", "list"]];
    for screen in screens {
        let output = world.sandbox().output(screen).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("automatic rotation is PAUSED") && said.contains("Black Friday"),
            "{screen:?}: {said}"
        );
    }
    assert_eq!(text(&world.command(&["status"]).await, "/paused/reason"), "Black Friday");

    within(LONG, "a leaf renewed by the old authority after that was due for replacement", async || {
        let listed = world.rest().get("/api/v1/certificates?class=workload&limit=100").await;
        let late = |one: &Value| text(one, "/issued") > due && text(one, "/purpose") == "renewal";
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        match items.iter().find(|one| late(one)) {
            Some(one) if text(one, "/authority") == authority => Ok(()),
            Some(one) => panic!("rotated although it is paused: {one:#}"),
            None => Err(listed),
        }
    })
    .await;
    let planned = world.command(&["rollout", "list"]).await;
    assert_eq!(text(&planned, "/planned/0/authority"), authority, "{planned:#}");
    assert!(text(&planned, "/planned/0/at") > due, "the pause does not show in the plan: {planned:#}");

    world.command(&["rollout", "resume", "--reason", "over", "--yes"]).await;
    eventually("what was due follows", async || {
        let planned = world.command(&["rollout", "list"]).await;
        let next = text(&planned, "/planned/0/authority").to_owned();
        if next != authority && planned["paused"].is_null() { Ok(()) } else { Err(planned) }
    })
    .await;
    for action in ["rollout-pause", "rollout-resume"] {
        let rows = world.rest().get(&format!("/api/v1/audit?action={action}")).await;
        assert_eq!(rows["items"].as_array().unwrap().len(), 1, "{rows:#}");
    }
    load.finish_unharmed(100).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_ends_is_listed_and_each_identity_says_how_long_it_survives() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let mut world =
        TestWorld::boot("expiries", WorldOptions { envoy: Some(envoy), ..WorldOptions::default() }).await;
    let _pair = Pair::start(&mut world).await;
    world.command(&["proxy", "enroll", "later-1", "--yes"]).await;
    let kinds = async |within: &str| {
        let found = world.command(&["status", "--expiring", within]).await;
        let items = found.as_array().unwrap().clone();
        let ends: Vec<i64> = items.iter().map(|one| one["in_secs"].as_i64().unwrap()).collect();
        assert!(ends.is_sorted(), "{found:#}");
        let mut kinds: Vec<String> = items.iter().map(|one| text(one, "/kind").to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    assert_eq!(kinds("1h").await, ["token"]);
    assert_eq!(kinds("7d").await, ["node", "server", "token", "workload"]);
    let all = ["intermediate", "node", "operator", "root", "server", "token", "workload"];
    assert_eq!(kinds("400d").await, all);

    let web = world.id("web");
    eventually("the leaf in use is acknowledged", async || {
        let shown = world.command(&["identity", "show", &web]).await;
        let secs = shown["survives_secs"].as_i64().unwrap_or_default();
        let acknowledged = shown["leaves"].as_array().is_some_and(|leaves| {
            !leaves.is_empty() && leaves.iter().all(|leaf| leaf["acknowledged"] == true)
        });
        if acknowledged && (11 * 3600..=12 * 3600).contains(&secs) { Ok(()) } else { Err(shown) }
    })
    .await;
    world.finish().await;
}

/// A node that does not acknowledge holds a step up: metrics count it, and `rollout watch` names it until all is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_for_a_laggard_is_counted_and_watched_by_name() {
    let world = TestWorld::boot("barrier", WorldOptions::default()).await;
    let mut fleet = world.start_fleet(2, "web").await;
    all(&mut fleet, Until::Connected, LONG).await;
    let root = world.command(&["ca", "status"]).await["root"].as_str().unwrap().to_owned();
    let bundle = format!("spiffe://{}", world.domain());
    all(&mut fleet, Until::Trusts { secret: bundle, authority: root }, LONG).await;
    assert_eq!(world.metric("credence_rotation_laggards").await, 0.0);

    fleet.freeze(&["n1"], Part::Acks).await.unwrap();
    world.command(&["ca", "rotate", "root", "prepare", "--yes"]).await;
    let mut watch = Command::new(world.sandbox().program())
        .args(["rollout", "watch"])
        .current_dir(world.sandbox().path(""))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(watch.stdout.take().unwrap()).lines();
    let names_it = |line: &str| line.trim().starts_with("n1 ") && line.contains("has not acknowledged");
    let named = async {
        while let Some(line) = shown.next_line().await.unwrap() {
            if names_it(&line) {
                return true;
            }
        }
        false
    };
    assert!(timeout(LONG, named).await.unwrap(), "the laggard is not named");
    eventually("the step that waits is counted", async || {
        let laggards = world.metric("credence_rotation_laggards").await;
        let text = world.metrics().await;
        let line =
            text.lines().find(|line| line.starts_with("credence_rotation_waiting_seconds")).unwrap_or("");
        let waited = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or_default();
        let is_there = line.contains("step=\"activate\"") && waited > 0.0;
        if is_there && (laggards - 1.0).abs() < 0.1 { Ok(()) } else { Err(line.to_owned()) }
    })
    .await;
    let refused = world.run(&["ca", "rotate", "root", "activate", "--yes"]).await;
    assert!(refused.0 == 3 && refused.2.contains("n1"), "{refused:?}");

    world.command(&["ca", "rotate", "root", "rollback", "--yes"]).await;
    fleet.thaw(&["n1"]).await.unwrap();
    let mut rest = String::new();
    shown.into_inner().read_to_string(&mut rest).await.unwrap();
    assert!(watch.wait().await.unwrap().success() && rest.contains("no other is prepared"), "{rest}");
    let metrics = world.metrics().await;
    assert!(!metrics.contains("credence_rotation_waiting_seconds{"), "{metrics}");
    drop(fleet);
    world.finish().await;
}

/// One hook writes what it hears to a file, one never takes anything.
fn hooks(config: &mut Config) {
    short_lives(config);
    let file = config.data_dir.with_file_name("told.jsonl").to_string_lossy().into_owned();
    let hook = |name: &str, words: &[&str]| HookConfig {
        name: name.to_owned(),
        topics: Topic::NAMED.into_iter().collect(),
        target: HookTarget::Command(words.iter().map(|word| (*word).to_owned()).collect()),
        timeout: Duration::from_secs(5),
        after: Some(Duration::from_secs(1)),
    };
    config.hooks = vec![hook("file", &["/usr/bin/tee", "-a", &file]), hook("broken", &["/bin/false"])];
}

/// A node that does not renew is told of at 70 % and 80 % of its certificate's life, once each, over a restart too.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_hear_once_of_a_life_that_ends_and_of_a_step_that_waits() {
    let mut world = TestWorld::boot("hooks", WorldOptions { envoy: None, adjust: hooks }).await;
    let tested = world.command(&["hook", "test", "file"]).await;
    assert_eq!(tested["taken"], true, "{tested:#}");
    let (code, told, _) = world.run(&["hook", "test", "broken"]).await;
    assert!(code == 1 && told.contains("did not take it"), "{code} {told}");
    assert_eq!(world.run(&["hook", "test", "nobody"]).await.0, 4);

    let mut fleet = world.start_fleet(2, "web").await;
    all(&mut fleet, Until::Connected, LONG).await;
    fleet.freeze(&["n1"], Part::Renewal).await.unwrap();
    let sleeper = world.node_id("n1");
    let file = world.sandbox().path("told.jsonl");
    let heard = |event: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|one| one["event"] == event).collect()
    };
    let parts = || -> Vec<u64> {
        let of_it = heard("expiry").into_iter().filter(|one| one["name"] == sleeper.as_str());
        of_it.filter_map(|one| one["threshold_percent"].as_u64()).collect()
    };
    let hears = |expected: &[u64]| if parts() == expected { Ok(()) } else { Err(parts()) };
    within(LONG, "70 % is told", async || hears(&[70])).await;
    // Told is told once it is on record: killed before that, it would be told again.
    world.audit_says(&["hook-tell", "file", "done", &sleeper]).await;
    world.kill().await;
    world.start().await;
    within(LONG, "80 % is told", async || hears(&[70, 80])).await;
    fleet.thaw(&["n1"]).await.unwrap();

    fleet.freeze(&["n0"], Part::Acks).await.unwrap();
    world.command(&["ca", "rotate", "root", "prepare", "--yes"]).await;
    let told = within(LONG, "the step that waits is told", async || heard("barrier").pop().ok_or(())).await;
    assert_eq!((text(&told, "/kind"), text(&told, "/concerned/0/name")), ("activate", "n0"), "{told:#}");
    assert_eq!(heard("test").len(), 1);
    assert_eq!(heard("barrier").len(), 1);

    // Who fails is counted and audited, and held nothing up.
    let listed = world.command(&["hook", "list"]).await;
    let broken = listed.as_array().unwrap().iter().find(|one| one["name"] == "broken").unwrap();
    assert!(broken["failed"].as_u64() > Some(0) && broken["told"] == 0, "{listed:#}");
    let metrics = world.metrics().await;
    assert!(metrics.contains("credence_hook_notices_total{hook=\"broken\",outcome=\"failed\"}"), "{metrics}");
    for (action, outcome) in [("hook-tell", "done"), ("hook-tell", "failed"), ("hook-test", "done")] {
        let rows = world.rest().get(&format!("/api/v1/audit?action={action}&limit=500")).await;
        let rows = rows["items"].as_array().cloned().unwrap_or_default();
        assert!(rows.iter().any(|row| row["outcome"] == outcome), "{action} {outcome}: {rows:#?}");
    }
    drop(fleet);
    world.finish().await;
}
