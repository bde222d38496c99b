//! The trouble of an ACME server, as edges and their proxies see it: limits, outages, orders that are stuck, and a server
//! of ours that is killed again and again. The certificate in use is shown all the while, and no renewal costs two.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use acme::{Account, Client, OrderStatus, Settings, Url};
use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{Clock, Signer, SoftwareSigner, Timestamp};
use futures::future::join_all;
use http::{Response, header};
use http_body_util::Full;
use kit::{
    Asked, Fault, KeptAccount, Knot, Line, Looks, Pebble, PebbleOptions, Relay, SystemClock, TestWorld,
    Upstream, WorldOptions, envoy, http_date, probe, within,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use server::sandbox::ProxyOptions;
use tokio::{
    sync::watch,
    time::{Instant, interval, timeout},
};

/// How long orders may take here, on a machine that is shared.
const ORDER: Duration = Duration::from_secs(90);
/// How soon an edge has its certificate when the trouble has ended.
const RECOVERY: Duration = Duration::from_secs(45);
/// For how long a server that limits wants to be left alone: longer than a restart of ours takes.
const LIMIT: Duration = Duration::from_secs(60);
/// Where Pebble has its terms.
const TERMS: &str = "data:text/plain,Do%20what%20thou%20wilt";

async fn add_issuer(world: &TestWorld, name: &str, pebble: &Pebble, address: SocketAddr) {
    let (directory, file) = (pebble.directory_at(address), pebble.ca_file().display().to_string());
    let add = ["issuer", "add", "acme", name, "--directory", &directory, "--ca-file", &file];
    world.command(&[&add[..], &["--agree-terms", TERMS]].concat()).await;
}

async fn edge(world: &TestWorld, name: &str) -> Value {
    world.rest().get(&format!("/api/v1/edges/{name}")).await
}

async fn renew(world: &TestWorld, name: &str) {
    world.rest().post(&format!("/api/v1/edges/{name}/renew"), &json!({})).await;
}

fn serial(edge: &Value) -> Option<String> {
    edge["certificate"]["serial"].as_str().map(str::to_owned)
}

/// The edge, when it has another certificate than `before` and nothing is the matter.
async fn obtained(world: &TestWorld, name: &str, before: Option<&str>, bound: Duration) -> Value {
    within(bound, &format!("edge {name} has its certificate"), async || match edge(world, name).await {
        shown if shown["state"] == "valid" && serial(&shown).as_deref() != before => Ok(shown),
        shown => Err(shown),
    })
    .await
}

/// What the ACME server itself has of an account that our server keeps: how many orders of each status and name. Nothing
/// is asked for on the way. It is asked at the address that our server knows: accounts are named by it.
async fn listed(
    pebble: &Pebble,
    address: SocketAddr,
    account: &KeptAccount,
) -> BTreeMap<String, Vec<OrderStatus>> {
    let url = Url::parse(&pebble.directory_at(address)).unwrap();
    let client = Client::new(&Settings::new(url, pebble.ca_file()), Arc::new(SystemClock));
    let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::try_new(&account.key).unwrap());
    assert!(!account.is_changing_key);
    let found = client.find(&*signer).await.unwrap();
    let account =
        Account { url: found.filter(|found| found.is_valid).expect("the account is usable").url, signer };
    let mut all: BTreeMap<String, Vec<OrderStatus>> = BTreeMap::new();
    for url in client.orders(&account).await.unwrap() {
        let order = client.order(&account, &url).await.unwrap();
        let names: Vec<String> = order.names.iter().map(ToString::to_string).collect();
        all.entry(names.join(" ")).or_default().push(order.status);
    }
    all
}

fn valid(orders: &BTreeMap<String, Vec<OrderStatus>>, name: &str) -> usize {
    orders.get(name).map_or(0, |all| all.iter().filter(|status| **status == OrderStatus::Valid).count())
}

/// What is the matter with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matter {
    /// It limits, and says for how many seconds.
    Seconds,
    /// It limits, and says until when.
    Date,
    /// It answers everything by 503.
    Busy,
    /// Nobody listens.
    Gone,
    /// It has all that it asked for, and the order stays `pending`.
    Looks,
    /// The order stays `processing`.
    Works,
    /// The order stays `processing`, and becomes `invalid`.
    Fails,
}

const MATTERS: [Matter; 7] =
    [Matter::Seconds, Matter::Date, Matter::Busy, Matter::Gone, Matter::Looks, Matter::Works, Matter::Fails];

impl Matter {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn domain(self) -> String {
        format!("{}.example", self.name())
    }

    /// It ends when the server said that it would.
    fn is_limit(self) -> bool {
        matches!(self, Self::Seconds | Self::Date)
    }

    /// What operators are told of it, in the list of edges.
    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Seconds | Self::Date => ("problem", "too many orders"),
            Self::Busy => ("problem", "status 503"),
            Self::Gone => ("problem", "cannot reach"),
            Self::Looks => ("doing", "the server looks whether the names are ours"),
            Self::Works | Self::Fails => ("doing", "the server makes the certificate"),
        }
    }
}

/// What a server does now, and what it was asked.
#[derive(Debug, Default)]
struct Conduct {
    is_in_trouble: bool,
    /// Until when it limits.
    until: Option<Timestamp>,
    /// When orders were asked for.
    orders: Vec<Timestamp>,
    /// The order that becomes invalid.
    failing: Option<String>,
}

fn answer(status: u16, retry_after: Option<String>, body: &Value) -> Fault {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status.try_into().unwrap();
    if let Some(after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
    }
    Fault::Answer(response)
}

/// As if nothing had been looked at yet.
fn pending(body: &mut Value) {
    if body["status"] == "valid" || body["status"] == "ready" {
        body["status"] = "pending".into();
    }
    for challenge in body["challenges"].as_array_mut().into_iter().flatten() {
        challenge["status"] = "processing".into();
    }
}

fn processing(body: &mut Value) {
    body["status"] = "processing".into();
    body.as_object_mut().unwrap().remove("certificate");
}

fn invalid(body: &mut Value) {
    body["status"] = "invalid".into();
    body["error"] = json!({
        "type": "urn:ietf:params:acme:error:serverInternal", "detail": "the signing module broke down",
    });
}

fn judge(matter: Matter, conduct: &mut Conduct, asked: &Asked) -> Fault {
    let now = SystemClock.now();
    let path = asked.path.as_str();
    if path == "/order-plz" {
        conduct.orders.push(now);
    }
    let limits = || json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many orders" });
    let order = |start: &str| path.strip_prefix(start).map(str::to_owned);
    match matter {
        Matter::Seconds | Matter::Date if path == "/order-plz" => match conduct.until {
            Some(until) if now < until => {
                let said = match matter {
                    Matter::Date => http_date(until),
                    _ => until.since(now).as_secs().saturating_add(1).to_string(),
                };
                answer(429, Some(said), &limits())
            }
            _ => Fault::None,
        },
        Matter::Busy if conduct.is_in_trouble => answer(503, None, &Value::Null),
        Matter::Looks if conduct.is_in_trouble => match path {
            path if path.starts_with("/authZ/") || path.starts_with("/my-order/") => Fault::Change(pending),
            _ => Fault::None,
        },
        Matter::Works if conduct.is_in_trouble => match path {
            // Only what was finalised has a certificate.
            path if path.starts_with("/finalize-order/") => {
                conduct.failing = order("/finalize-order/");
                Fault::Change(processing)
            }
            _ if order("/my-order/").is_some_and(|id| conduct.failing.as_ref() == Some(&id)) => {
                Fault::Change(processing)
            }
            _ => Fault::None,
        },
        Matter::Fails => match (order("/finalize-order/"), order("/my-order/")) {
            // It says that it has the request, and drops it.
            (Some(id), _) if conduct.is_in_trouble => {
                let finalize = format!("https://{}{path}", asked.header("host"));
                conduct.failing = Some(id);
                let body = json!({
                    "status": "processing", "identifiers": [{ "type": "dns", "value": matter.domain() }],
                    "authorizations": [], "finalize": finalize,
                });
                answer(200, None, &body)
            }
            (_, Some(id)) if conduct.failing.as_ref() == Some(&id) => match conduct.is_in_trouble {
                true => Fault::Change(processing),
                false => Fault::Change(invalid),
            },
            _ => Fault::None,
        },
        _ => Fault::None,
    }
}

/// One server with its trouble, before the same Pebble: with an account, an edge and a listener of its own.
struct Troubled {
    matter: Matter,
    conduct: Arc<Mutex<Conduct>>,
    line: Line,
    _relay: Relay,
    /// Where its certificate is shown.
    shown_at: SocketAddr,
}

impl Troubled {
    async fn start(matter: Matter, pebble: &Pebble, shown_at: SocketAddr) -> Self {
        let conduct = Arc::new(Mutex::new(Conduct::default()));
        let judged = Arc::clone(&conduct);
        let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
            judge(matter, &mut judged.lock().unwrap(), asked)
        })
        .await;
        let line = Line::start(relay.address()).await;
        Self { matter, conduct, line, _relay: relay, shown_at }
    }

    fn begin(&self) {
        let mut conduct = self.conduct.lock().unwrap();
        conduct.is_in_trouble = true;
        conduct.until = Some((SystemClock.now() + LIMIT).floor_secs());
        if self.matter == Matter::Gone {
            self.line.cut();
        }
    }

    fn end(&self) {
        self.conduct.lock().unwrap().is_in_trouble = false;
        self.line.mend();
    }

    fn until(&self) -> Option<Timestamp> {
        self.conduct.lock().unwrap().until.filter(|_| self.matter.is_limit())
    }

    fn orders(&self) -> Vec<Timestamp> {
        self.conduct.lock().unwrap().orders.clone()
    }

    /// The list of edges says what is the matter.
    async fn is_told(&self, world: &TestWorld) {
        let name = self.matter.name();
        let (field, words) = self.matter.told();
        within(ORDER, &format!("{name} is told"), async || {
            let all = world.rest().get("/api/v1/edges").await;
            let of_it = |one: &&Value| one["name"] == name.as_str();
            let shown =
                all["items"].as_array().into_iter().flatten().find(of_it).cloned().unwrap_or(all.clone());
            let next = shown["next"].as_str().and_then(Timestamp::parse_rfc3339);
            // It is said when it is tried again, and a limit is kept to.
            let waits = self.until().is_none_or(|until| next.is_some_and(|next| next >= until));
            let is_said = shown[field].as_str().is_some_and(|said| said.contains(words));
            if is_said && waits { Ok(()) } else { Err(shown) }
        })
        .await;
    }
}

/// Each edge at a listener of its own, and one that answers for all of them.
fn document(troubled: &[Troubled], plain: SocketAddr, upstream: SocketAddr) -> String {
    let listener = |one: &Troubled| {
        let (name, at) = (one.matter.name(), one.shown_at);
        format!(
            "    - {{name: {name}, address: {}, port: {}, tls: {{edge: {name}}}, filterChains: {}}}\n",
            at.ip(),
            at.port(),
            chain("site")
        )
    };
    let listeners: String = troubled.iter().map(listener).collect();
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: edge}}
spec:
  selector: {{matchLabels: {{app: edge}}}}
  listeners:
{listeners}    - {{name: http, address: {}, port: {}, mtls: off, filterChains: {}}}
  routes:
    - name: site
      virtualHosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: site}}}}]}}]
    - name: plain
      virtualHosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, redirect: {{https: true}}}}]}}]
  clusters:
    - {{name: site, type: STATIC, endpoints: [{{address: {}, port: {}}}]}}
"#,
        plain.ip(),
        plain.port(),
        chain("plain"),
        upstream.ip(),
        upstream.port(),
    )
}

fn chain(routes: &str) -> String {
    format!(
        "[{{filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: {routes}}}}}]}}]"
    )
}

/// What each listener shows, whenever that changes: `None` while it shows nothing.
type Shown = Mutex<BTreeMap<Matter, Vec<Option<String>>>>;

async fn look(troubled: &[Troubled], shown: &Shown) {
    let mut pace = interval(Duration::from_millis(250));
    loop {
        pace.tick().await;
        for one in troubled {
            let serial = probe(one.shown_at).await.map(|shown| shown.serial);
            let mut shown = shown.lock().unwrap();
            let seen = shown.entry(one.matter).or_default();
            if seen.last() != Some(&serial) {
                seen.push(serial);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_outages_and_stuck_orders_cost_no_certificate_survive_a_kill_and_end_by_themselves() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot("edge-trouble", options).await;
    let upstream = Upstream::start("from the shop").await;
    let ports = TestWorld::free_ports(MATTERS.len() + 1);
    let plain = ports[MATTERS.len()];
    let looks = Looks { http: plain, tls: plain, resolver: None };
    let Some(pebble) = Pebble::start_at(&PebbleOptions::default(), looks).await else {
        return world.finish().await;
    };
    let proxy = ProxyOptions {
        identities: vec![world.id("edge")],
        labels: vec!["app=edge".to_owned()],
        ..ProxyOptions::default()
    };
    world.start_proxy_with("edge", proxy).await;
    let mut troubled = Vec::new();
    for (matter, port) in MATTERS.into_iter().zip(&ports) {
        troubled.push(Troubled::start(matter, &pebble, *port).await);
    }
    world.rest().apply(&document(&troubled, plain, upstream.address())).await;
    let add = async |one: &Troubled| {
        let (name, domain) = (one.matter.name(), one.matter.domain());
        add_issuer(&world, &name, &pebble, one.line.address()).await;
        let add = ["edge", "add", &name, "--listener", &name, "--domain", &domain, "--issuer", &name];
        let way = ["--challenge", "http-01", "--http-listener", "http", "--profile", "default"];
        world.command(&[&add[..], &way].concat()).await;
        serial(&obtained(&world, &name, None, ORDER).await).unwrap()
    };
    let firsts = join_all(troubled.iter().map(add)).await;
    world.synced("edge").await;

    let shown = Shown::default();
    let story = async {
        within(ORDER, "each listener shows its certificate", async || {
            let seen = shown.lock().unwrap().clone();
            let is_first = |(one, first): (&Troubled, &String)| {
                seen.get(&one.matter).and_then(|all| all.last().cloned()).flatten().as_ref() == Some(first)
            };
            if troubled.iter().zip(&firsts).all(is_first) { Ok(()) } else { Err(seen) }
        })
        .await;
        shown.lock().unwrap().clear();

        // Limits run out by themselves: they begin when the others, which can be slow, are where they shall be.
        let (limiting, lasting): (Vec<&Troubled>, Vec<&Troubled>) =
            troubled.iter().partition(|one| one.matter.is_limit());
        for some in [&lasting, &limiting] {
            for one in some {
                one.begin();
                renew(&world, &one.matter.name()).await;
            }
            join_all(some.iter().map(|one| one.is_told(&world))).await;
        }
        let (code, table, _) = world.run(&["edge", "list", "-o", "table"]).await;
        assert_eq!(code, 0, "{table}");
        for one in &troubled {
            assert!(table.contains(one.matter.told().1), "{:?}: {table}", one.matter);
        }
        world.kill().await;
        world.start().await;
        let shows_the_first = |one: &Troubled| {
            let place = troubled.iter().position(|other| other.matter == one.matter).unwrap();
            let seen = shown.lock().unwrap()[&one.matter].clone();
            assert_eq!(seen, [Some(firsts[place].clone())], "{:?}", one.matter);
        };
        join_all(limiting.iter().map(|one| one.is_told(&world))).await;
        for one in &limiting {
            // Whoever is in a hurry does not come sooner than the server said.
            renew(&world, &one.matter.name()).await;
            shows_the_first(one);
            if let Some(until) = one.until().filter(|until| SystemClock.now() > *until) {
                panic!("too slow to see that {:?} is kept to until {until}", one.matter);
            }
        }
        join_all(lasting.iter().map(|one| one.is_told(&world))).await;
        lasting.iter().for_each(|one| shows_the_first(one));

        let ended = Instant::now();
        troubled.iter().for_each(Troubled::end);
        let recovers = async |(one, first): (&Troubled, &String)| {
            let (name, bound) = (one.matter.name(), RECOVERY + LIMIT);
            let second = serial(&obtained(&world, &name, Some(first), bound).await).unwrap();
            let after = ended.elapsed();
            within(ORDER, &format!("{name} is shown"), async || {
                let seen = shown.lock().unwrap()[&one.matter].clone();
                // One after the other, and not for a moment nothing.
                if seen == [Some(first.clone()), Some(second.clone())] { Ok(()) } else { Err(seen) }
            })
            .await;
            after
        };
        let times = join_all(troubled.iter().zip(&firsts).map(recovers)).await;
        for (one, after) in troubled.iter().zip(times) {
            println!(
                "{:?}: has its certificate {:.1} s after its trouble ended",
                one.matter,
                after.as_secs_f64()
            );
            // The first, and of the renewal: one that is refused, and one when the server lets us.
            if let Some(until) = one.until() {
                let orders = one.orders();
                assert_eq!(orders.len(), 3, "{:?}: {orders:?}", one.matter);
                assert!(orders[2] >= until, "{:?}: {orders:?}, and not before {until}", one.matter);
            }
        }
        world.kill().await;
        let accounts = world.accounts().await;
        assert_eq!(accounts.len(), troubled.len());
        for one in &troubled {
            let (name, domain) = (one.matter.name(), one.matter.domain());
            let account = accounts.iter().find(|account| account.name == name).unwrap();
            let orders = listed(&pebble, one.line.address(), account).await;
            // What Pebble was not told to finalise stays as it is.
            let all = if one.matter == Matter::Fails { 3 } else { 2 };
            assert_eq!(valid(&orders, &domain), 2, "{name}: {orders:?}");
            assert_eq!(orders[&domain].len(), all, "{name}: {orders:?}");
        }
        world.finish().await;
    };
    tokio::select! {
        () = story => {}
        () = look(&troubled, &shown) => {}
    }
}

/// What becomes of requests while the server is killed: most go through.
fn mishap(random: &mut StdRng) -> Fault {
    let limits = || json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many" });
    match random.random_range(0..100) {
        0..3 => Fault::LoseRequest,
        3..9 => Fault::LoseReply,
        9..11 => answer(503, Some("1".to_owned()), &Value::Null),
        11..13 => answer(429, Some("1".to_owned()), &limits()),
        _ => Fault::None,
    }
}

/// A server that is killed is back within this.
const RESTART: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_leave_one_valid_order_of_each_renewal_and_accounts_that_work() {
    const ZONE: &str = "shop.example";
    let (kills, seed) = (if kit::is_full() { 100 } else { 6 }, rand::random::<u64>());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let Some(knot) = Knot::start(ZONE).await else { return };
    let mut world = TestWorld::boot("edge-kills", WorldOptions::default()).await;
    let ports = TestWorld::free_ports(7);
    let looks = Looks { http: ports[6], tls: ports[6], resolver: Some(knot.address()) };
    let Some(pebble) = Pebble::start_at(&PebbleOptions::default(), looks).await else {
        return world.finish().await;
    };
    let faults = Arc::new(Mutex::new(None::<StdRng>));
    let seen = watch::Sender::new(0_usize);
    let (judged, counted) = (Arc::clone(&faults), seen.clone());
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |_: &Asked| {
        counted.send_modify(|count| *count += 1);
        judged.lock().unwrap().as_mut().map_or(Fault::None, mishap)
    })
    .await;
    let names: Vec<String> = (0..6).map(|number| format!("shop-{number}")).collect();
    let listeners = names.iter().zip(&ports).map(|(name, at)| {
        let (address, port) = (at.ip(), at.port());
        format!("    - {{name: {name}, address: {address}, port: {port}, tls: {{edge: {name}}}, filterChains: {}}}\n", chain("site"))
    });
    let document = format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: edge}}\nspec:\n  selector: {{matchLabels: {{app: edge}}}}\n  \
         listeners:\n{}  routes:\n    - name: site\n      virtualHosts: [{{name: all, domains: [\"*\"], routes: [{{match: \
         {{prefix: /}}, redirect: {{https: true}}}}]}}]\n",
        listeners.collect::<String>()
    );
    world.rest().apply(&document).await;
    let key = world.sandbox().path("update.key");
    fs::write(&key, STANDARD.encode(Knot::SECRET)).unwrap();
    let (key, server) = (key.display().to_string(), knot.address().to_string());
    let add = async |name: &String| {
        let domain = format!("{name}.{ZONE}");
        add_issuer(&world, name, &pebble, relay.address()).await;
        let add = ["edge", "add", name, "--listener", name, "--domain", &domain, "--issuer", name];
        let way =
            ["--challenge", "dns-01", "--profile", "default", "--dns-server", &server, "--dns-zone", ZONE];
        let by = ["--dns-key", Knot::KEY, "--dns-key-file", &key];
        world.command(&[&add[..], &way, &by].concat()).await;
    };
    join_all(names.iter().map(add)).await;

    // Killed while the first certificates are obtained, and while each next one is.
    let mut wanted: BTreeMap<&String, usize> = names.iter().map(|name| (name, 1)).collect();
    *faults.lock().unwrap() = Some(StdRng::seed_from_u64(random.random()));
    let mut restarts = Vec::new();
    for _ in 0..kills {
        let (more, late) = (random.random_range(0..60), random.random_range(0..40));
        let count = *seen.borrow() + more;
        // So many requests later, if so many come; and a moment after that.
        let _ = timeout(Duration::from_secs(3), seen.subscribe().wait_for(|seen| *seen >= count)).await;
        tokio::time::sleep(Duration::from_millis(late)).await;
        world.kill().await;
        let begun = Instant::now();
        world.start().await;
        restarts.push(begun.elapsed());
        for name in &names {
            renew(&world, name).await;
            *wanted.get_mut(name).unwrap() += 1;
        }
    }
    *faults.lock().unwrap() = None;
    // Whoever waits until it is tried again goes on at once; who has a certificate begins nothing.
    for name in &names {
        if edge(&world, name).await["state"] == "failing" {
            renew(&world, name).await;
            *wanted.get_mut(name).unwrap() += 1;
        }
    }
    let settle = async |name: &String| {
        within(ORDER, &format!("edge {name} is settled"), async || match edge(&world, name).await {
            shown if shown["state"] == "valid" && shown.get("doing").is_none() => Ok(shown),
            shown => Err(shown),
        })
        .await
    };
    let settled = join_all(names.iter().map(settle)).await;
    let rows = world.audit().await;
    let had = |name: &str| -> Vec<String> {
        let of_it = |row: &&Value| {
            row["action"] == "edge-obtain" && row["details"]["step"] == "obtained" && row["object"] == name
        };
        rows.iter().filter(of_it).map(|row| row["details"]["serial"].to_string()).collect()
    };
    for name in &names {
        let (code, out, words) = world.run(&["issuer", "test", name]).await;
        assert!(code == 0 && out.contains("is found by its key"), "{out} {words}");
    }
    world.kill().await;
    let accounts = world.accounts().await;
    let (mut orders_made, mut certificates) = (0, 0);
    for (name, shown) in names.iter().zip(&settled) {
        let account = accounts.iter().find(|account| account.name == *name).unwrap();
        let orders = listed(&pebble, relay.address(), account).await;
        let domain = format!("{name}.{ZONE}");
        let (valid, had) = (valid(&orders, &domain), had(name));
        assert_eq!(
            valid,
            had.len(),
            "seed {seed}: {name}: an order became valid in vain, {orders:?} {had:?}"
        );
        assert_eq!(had.iter().collect::<BTreeSet<_>>().len(), had.len(), "seed {seed}: {name}: {had:?}");
        assert!((1..=wanted[name]).contains(&valid), "seed {seed}: {name}: {valid} of {}", wanted[name]);
        // The last row comes first.
        assert!(had.first().unwrap().contains(&serial(shown).unwrap()), "seed {seed}: {shown} {had:?}");
        orders_made += orders[&domain].len();
        certificates += valid;
    }
    let slowest = restarts.iter().max().unwrap();
    assert!(*slowest < RESTART, "{slowest:?}");
    println!(
        "{kills} kills of {} edges: {orders_made} orders, {certificates} of them valid, each a renewal; the slowest restart took {:.1} s",
        names.len(),
        slowest.as_secs_f64()
    );
    world.finish().await;
}

/// A server that loses the account, as one does that is restored from nothing: whoever looks reads which command helps,
/// and that command gives the edge its next certificate, without another name or another edge.
#[tokio::test(flavor = "multi_thread")]
async fn account_that_the_server_has_lost_is_registered_again_and_the_edge_goes_on_by_it() {
    const ZONE: &str = "shop.example";
    let Some(knot) = Knot::start(ZONE).await else { return };
    let world = TestWorld::boot("edge-lost", WorldOptions::default()).await;
    let ports = TestWorld::free_ports(2);
    let looks = Looks { http: ports[1], tls: ports[1], resolver: Some(knot.address()) };
    let Some(mut pebble) = Pebble::start_at(&PebbleOptions::default(), looks).await else {
        return world.finish().await;
    };
    add_issuer(&world, "le", &pebble, pebble.address()).await;
    let document = format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: edge}}\nspec:\n  selector: {{matchLabels: {{app: edge}}}}\n  \
         listeners:\n    - {{name: shop, address: {}, port: {}, tls: {{edge: shop}}, filterChains: {}}}\n  routes:\n    - \
         name: site\n      virtualHosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, redirect: \
         {{https: true}}}}]}}]\n",
        ports[0].ip(),
        ports[0].port(),
        chain("site"),
    );
    world.rest().apply(&document).await;
    let key = world.sandbox().path("update.key");
    fs::write(&key, STANDARD.encode(Knot::SECRET)).unwrap();
    let (key, server) = (key.display().to_string(), knot.address().to_string());
    let domain = format!("shop.{ZONE}");
    let add = ["edge", "add", "shop", "--listener", "shop", "--domain", &domain, "--issuer", "le"];
    let way = ["--challenge", "dns-01", "--profile", "default", "--dns-server", &server, "--dns-zone", ZONE];
    let by = ["--dns-key", Knot::KEY, "--dns-key-file", &key];
    world.command(&[&add[..], &way, &by].concat()).await;
    let first = serial(&obtained(&world, "shop", None, ORDER).await);

    let again = ["issuer", "credentials", "le", "--register-again", "--reason", "restored"];
    let (code, _, words) = world.run(&again).await;
    assert!(code == 5 && words.contains("nothing to register again"), "{code} {words}");
    pebble.restart().await;
    renew(&world, "shop").await;
    within(ORDER, "the edge says what helps", async || match edge(&world, "shop").await {
        shown if shown["problem"].as_str().is_some_and(|why| why.contains("--register-again")) => Ok(()),
        shown => Err(shown),
    })
    .await;
    // Another key is no way out, and does not hold the edge up.
    let (code, _, words) = world.run(&["issuer", "credentials", "le", "--new-account-key"]).await;
    assert!(code == 1 && words.contains("le --register-again"), "{code} {words}");
    let issuer = async || world.rest().get("/api/v1/issuers/le").await;
    let shown = issuer().await;
    assert_eq!(shown["state"], "ready", "{shown:#}");
    assert!(shown["problem"].as_str().unwrap().contains("neither the key"), "{shown:#}");
    let (code, out, words) = world.run(&["issuer", "test", "le"]).await;
    assert!(code == 1 && (out + &words).contains("le --register-again"), "{code} {words}");

    let (code, out, words) = world.run(&again).await;
    assert!(code == 0 && out.contains("✓ account"), "{code} {out} {words}");
    world.audit_says(&["issuer-set", "registered-again", "restored"]).await;
    let made = issuer().await;
    assert_eq!((&made["state"], &made["problem"]), (&"ready".into(), &Value::Null), "{made:#}");
    assert_ne!(made["acme"]["account"], shown["acme"]["account"], "{made:#}");
    obtained(&world, "shop", first.as_deref(), RECOVERY).await;
    world.finish().await;
}
