//! Row F11 of the reliability programme: a clock that is wrong, on the real program. Signing stops within 10 s,
//! serving goes on, no certificate is outside its policy by true time, and all heals by itself. Each run is a world of
//! its own with its own seed; `CREDENCE_FULL=1` makes them 20, else there are 2.

#![expect(clippy::panic, reason = "helpers of tests fail the test")]

use std::{cell::Cell, time::Duration};

use certs::{Clock, Timestamp};
use futures::future::join_all;
use kit::{
    DeltaStream, EDS, FakeTime, Identity, Node, Outcome, SystemClock, TestWorld, WorldOptions, back,
    endpoints, eventually, get, is_full, renew, within,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;

/// When signing must have stopped, and gone on.
const BOUND: Duration = Duration::from_secs(10);
/// How far a clock may be off before signing stops.
const LIMIT: Duration = Duration::from_secs(30);
/// How far off it is still followed.
const ALARM: Duration = Duration::from_secs(2);
/// Dates are whole seconds, and the machine is busy.
const ROUNDING: Duration = Duration::from_secs(2);
const UNAVAILABLE: i32 = 14;
const RESOURCE_EXHAUSTED: i32 = 8;
const UPSTREAM: &str = "web-upstream";

/// How many runs of each fault there are.
fn runs() -> u64 {
    if is_full() { 20 } else { 2 }
}

struct Watched {
    world: TestWorld,
    node: Node,
    /// Nodes that renew, one after another: each may only ask so often.
    renewing: Vec<Node>,
    next: Cell<usize>,
    stream: DeltaStream,
    /// Distinguishes one change of the configuration from the next.
    port: u16,
}

impl Watched {
    async fn boot(name: &'static str, environment: Vec<(&'static str, String)>) -> Self {
        let mut world = TestWorld::boot_in(name, WorldOptions::default(), environment).await;
        FakeTime::Right.set(&world);
        world.rest().apply(&back("web", TestWorld::free_port(), &[])).await;
        let node = world.node_of("alice", "web", &["alice"]).await;
        let mut renewing = Vec::new();
        for number in 0..4 {
            renewing.push(world.node(&format!("renews-{number}"), &["bob"]).await);
        }
        let stream = open(&mut world, &node).await;
        Self { world, node, renewing, next: Cell::default(), stream, port: 1000 }
    }

    /// A change of the configuration reaches a stream that is open, and a connection that is new.
    async fn serves(&mut self) {
        self.port += 1;
        let changed = endpoints(UPSTREAM, "default", &[([127, 0, 0, 1], self.port).into()]);
        self.world.rest().apply(&changed).await;
        let wanted = self.port.to_string();
        let seen = |port: &Result<Vec<u32>, String>| *port == Ok(vec![self.port.into()]);
        let mut last = Err(String::new());
        while !seen(&last) {
            let answer =
                self.stream.next().await.unwrap_or_else(|status| panic!("{wanted}, {last:?}: {status}"));
            self.stream.ack(&answer).await;
            last = ports(&answer);
        }
        let mut fresh = open(&mut self.world, &self.node).await;
        let answer = fresh.next().await.unwrap_or_else(|status| panic!("a new connection: {status}"));
        assert!(seen(&ports(&answer)), "{answer:?}");
    }

    async fn renew(&self) -> Result<Identity, Outcome> {
        within(BOUND, "one of the nodes may ask", async || {
            let number = self.next.replace(self.next.get() + 1) % self.renewing.len();
            match renew(self.world.ports().xds, &self.renewing[number].identity).await {
                Err(outcome @ Outcome::Grpc { code: RESOURCE_EXHAUSTED, .. }) => Err(outcome),
                answer => Ok(answer),
            }
        })
        .await
    }

    /// How the server says that its clock stands.
    async fn state(&self, wanted: &str) -> Value {
        within(BOUND, &format!("the clock is {wanted}"), async || {
            let clock = self.world.rest().get("/api/v1/status").await["clock"].clone();
            if clock["state"] == wanted { Ok(clock) } else { Err(clock) }
        })
        .await
    }

    async fn refuses_to_sign(&self) {
        let answer = self.renew().await;
        assert!(matches!(answer, Err(Outcome::Grpc { code: UNAVAILABLE, .. })), "{answer:?}");
        assert!(self.world.metric("credence_clock_stopped").await > 0.0);
        let (status, _) = get(self.world.ports().probes, "/readyz").await.expect("the probes answer");
        assert_eq!(status.as_u16(), 503);
    }

    async fn signs(&self) {
        let renewed = within(BOUND, "signing goes on", async || self.renew().await).await;
        assert!(renewed.leaf().not_after() > Timestamp::EPOCH);
    }

    /// What was issued, by serial number.
    async fn issued(&self) -> Vec<Value> {
        let listed = self.world.rest().get("/api/v1/certificates?all=true&limit=500").await;
        let items = listed["items"].as_array().expect("a list").clone();
        assert!(items.len() < 500, "one page holds all");
        items.into_iter().filter(|one| one["state"] == "issued").collect()
    }

    /// Every certificate that is not among `before` was within its policy by *true* time, which was between `began`
    /// and now when it was signed.
    async fn all_within_policy(&self, before: &[Value], began: Timestamp, most: Duration) -> usize {
        let now = SystemClock.now();
        let at = |one: &Value, key: &str| {
            let text = one[key].as_str().unwrap_or_else(|| panic!("no {key}: {one}"));
            Timestamp::parse_rfc3339(text).unwrap_or_else(|| panic!("{key}: {text}"))
        };
        let issued = self.issued().await;
        let known = |one: &Value| before.iter().any(|other| other["serial"] == one["serial"]);
        let new: Vec<&Value> = issued.iter().filter(|one| !known(one)).collect();
        for one in &new {
            assert!(at(one, "expires") <= now + most + ALARM + ROUNDING, "lives too long: {one}");
            assert!(at(one, "issued") + ALARM + ROUNDING >= began, "begins too early: {one}");
        }
        new.len()
    }

    async fn finish(self) {
        drop(self.stream);
        self.world.finish().await;
    }
}

async fn open(world: &mut TestWorld, node: &Node) -> DeltaStream {
    let mut stream = world.xds(node).delta(&node.id, &node.namespace);
    stream.subscribe(EDS, &[UPSTREAM]).await;
    stream
}

fn ports(answer: &proto::envoy::service::discovery::v3::DeltaDiscoveryResponse) -> Result<Vec<u32>, String> {
    kit::ports_of(answer).ok_or_else(|| format!("{answer:?}"))
}

/// The longest life of what these worlds issue without being asked for more: a node's and ours.
const LIFE: Duration = Duration::from_secs(86_400);

/// By how many seconds the clock is set wrong in one run: as the programme says, at both sides of the limit, and
/// anything else, in an order of its own.
fn steps(seed: u64) -> Vec<i64> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut steps = vec![5, -5, 120, -120, 86_400, -86_400];
    let side = if random.random_bool(0.5) { 1 } else { -1 };
    steps.extend([29 * side, -31 * side]);
    steps.push(random.random_range(3..29) * -side);
    steps.extend([random.random_range(32..172_800), -random.random_range(32..172_800)]);
    steps.shuffle(&mut random);
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_wrong_stops_signing_and_nothing_else() {
    let Some(environment) = FakeTime::environment() else { return };
    let (mut done, mut stopped, mut slowest) = (0, 0, (Duration::ZERO, 0));
    for seed in 0..runs() {
        let steps = steps(seed);
        let measured = Box::pin(set_wrong(&steps, environment.clone())).await;
        assert!(measured.iter().all(|(after, _)| *after <= BOUND), "seed {seed}, {steps:?}: {measured:?}");
        (done, stopped) = (done + steps.len(), stopped + measured.len());
        slowest = measured.into_iter().max().map_or(slowest, |worst| worst.max(slowest));
    }
    println!(
        "F11: {} runs, clock set wrong {done} times, {stopped} times past the limit; signing had stopped after {:?} at \
         most ({} s)",
        runs(),
        slowest.0,
        slowest.1
    );
}

/// Answers after how long signing had stopped, and at which steps.
async fn set_wrong(steps: &[i64], environment: Vec<(&'static str, String)>) -> Vec<(Duration, i64)> {
    let mut watched = Watched::boot("clock-steps", environment).await;
    watched.signs().await;
    watched.serves().await;
    let mut measured = Vec::new();
    for &secs in steps {
        let stops = Duration::from_secs(secs.unsigned_abs()) > LIMIT;
        let (began, before) = (SystemClock.now(), watched.issued().await);
        FakeTime::Off(secs).set(&watched.world);
        if stops {
            // Not after a while: the next request is refused.
            watched.refuses_to_sign().await;
            let clock = watched.state("stopped").await;
            measured.push((SystemClock.now().since(began), secs));
            let skew = clock["skew_millis"].as_i64().expect("a number");
            assert!((skew - secs * 1000).abs() < 1500, "{clock}");
            assert!(clock["problem"].as_str().is_some_and(|words| words.contains("NTP")), "{clock}");
        } else {
            let clock = watched.state("drifting").await;
            let skew = watched.world.metric("credence_clock_skew_seconds").await;
            #[expect(clippy::cast_precision_loss, reason = "few seconds")]
            let off = (skew - secs as f64).abs();
            assert!(off < 1.5, "{skew} of {secs}: {clock}");
            assert!(watched.world.metric("credence_clock_stopped").await == 0.0);
            watched.signs().await;
        }
        watched.serves().await;
        let signed = watched.all_within_policy(&before, began, LIFE).await;
        // Our own certificate is to be good by both clocks, where one can be.
        let own = usize::from((-43_200..0).contains(&secs));
        assert!(if stops { signed <= own } else { signed > 0 }, "{secs}: {signed} certificates");
        FakeTime::Right.set(&watched.world);
        watched.state("good").await;
        watched.signs().await;
    }
    watched.world.audit_says(&["clock-stop", "NTP"]).await;
    watched.world.audit_says(&["clock-resume"]).await;
    watched.finish().await;
    measured
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_stands_still_stops_signing_when_it_is_too_far_behind() {
    /// Worlds that stand still beside each other.
    const BESIDE: u64 = 4;
    let Some(environment) = FakeTime::environment() else { return };
    let mut late = Vec::new();
    while (late.len() as u64) < runs() {
        let count = BESIDE.min(runs() - late.len() as u64);
        late.extend(join_all((0..count).map(|_| Box::pin(stand_still(environment.clone())))).await);
    }
    let slowest = late.iter().max().copied().unwrap_or_default();
    println!("F11: {} runs, clock stood still; signing had stopped {slowest:?} later at most", late.len());
}

/// Answers how long after the clock signing had stopped.
async fn stand_still(environment: Vec<(&'static str, String)>) -> Duration {
    let mut watched = Watched::boot("clock-frozen", environment).await;
    let (began, before) = (SystemClock.now(), watched.issued().await);
    FakeTime::Frozen(began).set(&watched.world);
    watched.state("drifting").await;
    watched.signs().await;
    watched.serves().await;
    within(LIMIT + BOUND, "signing stops", async || {
        let clock = watched.world.rest().get("/api/v1/status").await["clock"].clone();
        if clock["state"] == "stopped" { Ok(()) } else { Err(clock) }
    })
    .await;
    let after = SystemClock.now().since(began);
    watched.refuses_to_sign().await;
    watched.serves().await;
    watched.all_within_policy(&before, began, LIFE).await;
    FakeTime::Right.set(&watched.world);
    watched.state("good").await;
    watched.signs().await;
    watched.finish().await;
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_the_records_at_the_start_signs_nothing_until_it_is_right_or_accepted() {
    let Some(environment) = FakeTime::environment() else { return };
    for seed in 0..runs() {
        let mut random = StdRng::seed_from_u64(seed);
        let behind = random.random_range(40..172_800);
        Box::pin(start_behind(behind, environment.clone())).await;
    }
    println!("F11: {} runs, clock behind the records at the start", runs());
}

/// `behind` is how many seconds the clock is behind.
async fn start_behind(behind: i64, environment: Vec<(&'static str, String)>) {
    let mut watched = Watched::boot("clock-behind", environment).await;
    watched.signs().await;
    let (began, before) = (SystemClock.now(), watched.issued().await);
    watched.world.terminate().await;
    FakeTime::Off(-behind).set(&watched.world);
    watched.world.launch(&[]);
    watched.answers().await;
    let clock = watched.state("stopped").await;
    assert!(clock["problem"].as_str().is_some_and(|words| words.contains("--accept-clock")), "{clock}");
    watched.refuses_to_sign().await;
    watched.stream = open(&mut watched.world, &watched.node).await;
    watched.serves().await;
    // Operators on this host are told, by our own certificate, which alone is signed.
    let (code, text, errors) = watched.world.run(&["status"]).await;
    assert!(code == 0 && text.contains("NOT READY") && text.contains("newest record"), "{text} {errors}");
    let signed = watched.all_within_policy(&before, began, LIFE).await;
    assert_eq!(signed, 1, "our own certificate and nothing else");
    FakeTime::Right.set(&watched.world);
    watched.state("good").await;
    watched.signs().await;

    // The records are wrong, an operator says so: from now on the clock counts.
    watched.world.terminate().await;
    FakeTime::Off(-45).set(&watched.world);
    watched.world.launch(&[]);
    watched.answers().await;
    watched.state("stopped").await;
    watched.world.terminate().await;
    watched.world.launch(&["--accept-clock"]);
    watched.answers().await;
    watched.state("good").await;
    watched.signs().await;
    watched.world.audit_says(&["clock-accept", "newest"]).await;
    // It is accepted for good, not for one start.
    watched.world.terminate().await;
    watched.world.start().await;
    watched.signs().await;
    // Right now and wrong before: that needs a restart, as the words say.
    FakeTime::Right.set(&watched.world);
    let clock = watched.state("stopped").await;
    assert!(clock["problem"].as_str().is_some_and(|words| words.contains("restart")), "{clock}");
    watched.world.terminate().await;
    watched.world.start().await;
    watched.signs().await;
    watched.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_ran_ahead_lets_operators_in_who_read_what_to_do() {
    let Some(environment) = FakeTime::environment() else { return };
    let mut random = StdRng::seed_from_u64(0);
    let ahead = random.random_range(600..43_200);
    let mut watched = Box::pin(Watched::boot("clock-ahead", environment)).await;
    watched.world.terminate().await;
    FakeTime::Off(ahead).set(&watched.world);
    watched.world.launch(&[]);
    eventually("the server is ready by its own clock", async || {
        let answer = get(watched.world.ports().probes, "/readyz").await;
        if answer.as_ref().is_ok_and(|(status, _)| status.is_success()) { Ok(()) } else { Err(answer) }
    })
    .await;
    // Set right while it runs, and then before a start that finds records of the future.
    FakeTime::Right.set(&watched.world);
    let clock = watched.state("stopped").await;
    assert!(clock["problem"].as_str().is_some_and(|words| words.contains("restart the server")), "{clock}");
    within(BOUND, "an operator is let in by a certificate that is good by both", async || {
        let (code, text, errors) = watched.world.run(&["status"]).await;
        if code == 0 && text.contains("restart the server") { Ok(()) } else { Err((text, errors)) }
    })
    .await;
    watched.world.terminate().await;
    watched.world.launch(&[]);
    watched.answers().await;
    for command in ["status", "doctor"] {
        let (_, text, errors) = watched.world.run(&[command]).await;
        assert!(text.contains("serve --accept-clock"), "{command}: {text} {errors}");
    }
    watched.refuses_to_sign().await;
    watched.world.terminate().await;
    watched.world.launch(&["--accept-clock"]);
    watched.answers().await;
    watched.state("good").await;
    watched.signs().await;
    watched.finish().await;
}

impl Watched {
    /// The management port answers: the process may not be ready.
    async fn answers(&self) {
        eventually("the server answers", async || {
            let answer =
                self.world.rest().call(http::Method::GET, "/api/v1/status", "", bytes::Bytes::new()).await;
            match answer {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
}
