use std::collections::VecDeque;

use certs::SecretKey;
use fixtures::World;
use prost::Message;
use prost_types::Any;
use proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::{DataSource, data_source::Specifier},
        listener::v3::{Filter, FilterChain, Listener, filter},
        route::v3::{
            Route, RouteAction, RouteConfiguration, VirtualHost, route, route_action::ClusterSpecifier,
        },
    },
    extensions::{
        filters::network::http_connection_manager::v3::{
            HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
        },
        transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret},
    },
    service::discovery::v3::Resource,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn holding() -> Holding {
    Holding::new(Arc::default(), vec!["default".into()])
}

fn pack(message: &impl prost::Name) -> Any {
    Any { type_url: full_url(message), value: message.encode_to_vec() }
}

fn full_url<M: prost::Name>(_: &M) -> String {
    M::type_url()
}

fn cluster(name: &str) -> Vec<u8> {
    let kind = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
    Cluster { name: name.to_owned(), cluster_discovery_type: Some(kind), ..Default::default() }
        .encode_to_vec()
}

fn listener(name: &str, routes: &str) -> Vec<u8> {
    let rds = Rds { route_config_name: routes.to_owned(), ..Default::default() };
    let manager =
        HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), ..Default::default() };
    let filter =
        Filter { config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))), ..Default::default() };
    let chain = FilterChain { filters: vec![filter], ..Default::default() };
    Listener { name: name.to_owned(), filter_chains: vec![chain], ..Default::default() }.encode_to_vec()
}

fn routes(name: &str, cluster: &str) -> Vec<u8> {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    let route = Route { action: Some(route::Action::Route(action)), ..Default::default() };
    let host = VirtualHost { routes: vec![route], ..Default::default() };
    RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() }
        .encode_to_vec()
}

fn response(count: u64, type_url: TypeUrl, resources: &[(&str, &str, Vec<u8>)], removed: &[&str]) -> Event {
    let resources = resources.iter().map(|(name, version, content)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        resource: Some(Any { type_url: type_url.as_str().to_owned(), value: content.clone() }),
        ..Default::default()
    });
    Event::Received(Box::new(DeltaDiscoveryResponse {
        type_url: type_url.as_str().to_owned(),
        nonce: format!("7.{count:x}"),
        resources: resources.collect(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }))
}

/// Runs events; answers every request and the rules that were broken.
fn run(events: Vec<Event>) -> (Vec<DeltaDiscoveryRequest>, Vec<Rule>) {
    let mut holding = holding();
    let mut requests = Vec::new();
    for event in std::iter::once(Event::Opened).chain(events) {
        requests.extend(holding.step(event, NOW));
    }
    (requests, holding.broken.keys().copied().collect())
}

#[test]
fn asks_for_what_it_is_told_of_and_says_what_it_holds_when_it_comes_back() {
    let (requests, broken) = run(vec![
        response(1, TypeUrl::Cluster, &[("c", "1", cluster("c"))], &[]),
        response(2, TypeUrl::Endpoints, &[("c", "5", vec![])], &[]),
        response(3, TypeUrl::Listener, &[("l", "1", listener("l", "r"))], &[]),
        response(4, TypeUrl::Route, &[("r", "1", routes("r", "c"))], &[]),
        Event::Ended,
        Event::Opened,
        response(1, TypeUrl::Cluster, &[], &["c"]),
    ]);
    assert_eq!(broken, [Rule::BreakBeforeMake]);
    let said = |at: usize| {
        let request = &requests[at];
        let word = TypeUrl::parse(&request.type_url).unwrap().word();
        let mut held: Vec<_> = request.initial_resource_versions.iter().collect();
        held.sort();
        format!(
            "{word} +{:?} -{:?} {} {held:?}",
            request.resource_names_subscribe, request.resource_names_unsubscribe, request.response_nonce
        )
    };
    let said: Vec<String> = (0..requests.len()).map(said).collect();
    assert_eq!(
        said,
        [
            "CDS +[] -[]  []",
            "LDS +[] -[]  []",
            "SDS +[\"default\"] -[]  []",
            "CDS +[] -[] 7.1 []",
            "EDS +[\"c\"] -[]  []",
            "EDS +[] -[] 7.2 []",
            "LDS +[] -[] 7.3 []",
            "RDS +[\"r\"] -[]  []",
            "RDS +[] -[] 7.4 []",
            "CDS +[] -[]  [(\"c\", \"1\")]",
            "LDS +[] -[]  [(\"l\", \"1\")]",
            "EDS +[\"c\"] -[]  [(\"c\", \"5\")]",
            "SDS +[\"default\"] -[]  []",
            "RDS +[\"r\"] -[]  [(\"r\", \"1\")]",
            "CDS +[] -[] 7.1 []",
            "EDS +[] -[\"c\"]  []",
        ]
    );
}

#[test]
fn finds_each_way_to_break_a_rule_and_nothing_in_what_is_right() {
    let check = |events: Vec<Event>, expected: &[Rule]| {
        let shown = format!("{events:?}");
        let (requests, broken) = run(events);
        assert_eq!(broken, expected, "{shown}");
        let acks = requests.iter().filter(|request| !request.response_nonce.is_empty()).count();
        assert_eq!(acks, shown.matches("nonce: \"7.").count(), "every response is acknowledged: {shown}");
    };
    let c = |version| ("c", version, cluster("c"));
    let eds = |version| ("c", version, vec![]);
    let clusters = |count, version| response(count, TypeUrl::Cluster, &[c(version)], &[]);
    let endpoints = |count, version| response(count, TypeUrl::Endpoints, &[eds(version)], &[]);

    check(vec![clusters(1, "1"), endpoints(2, "1"), endpoints(3, "2")], &[]);
    // Warmed again with its cluster, or asked for again.
    check(vec![clusters(1, "1"), endpoints(2, "1"), clusters(3, "2"), endpoints(4, "1")], &[]);
    check(vec![clusters(1, "1"), endpoints(2, "1"), Event::Ended, Event::Opened, endpoints(1, "1")], &[]);

    check(vec![clusters(1, "1"), clusters(3, "2")], &[Rule::Nonce]);
    check(vec![clusters(2, "1")], &[Rule::Nonce]);
    check(vec![clusters(1, "1"), endpoints(1, "1")], &[Rule::Nonce]);
    check(vec![endpoints(1, "1")], &[Rule::Unasked]);
    check(vec![clusters(1, "1"), endpoints(2, "1"), endpoints(3, "1")], &[Rule::Duplicate]);
    check(vec![clusters(1, "1"), Event::Ended, Event::Opened, clusters(1, "1")], &[Rule::Duplicate]);
    check(vec![clusters(1, "1"), clusters(2, "2"), clusters(3, "1")], &[Rule::WentBack]);
    let lds = |count| response(count, TypeUrl::Listener, &[("l", "1", listener("l", "r"))], &[]);
    let rds = |count| response(count, TypeUrl::Route, &[("r", "1", routes("r", "c"))], &[]);
    check(vec![lds(1), rds(2)], &[Rule::MissingReference]);
    check(
        vec![clusters(1, "1"), lds(2), rds(3), response(4, TypeUrl::Cluster, &[], &["c"])],
        &[Rule::BreakBeforeMake],
    );
    check(vec![clusters(1, "1"), response(2, TypeUrl::Cluster, &[], &["c"])], &[]);
    check(vec![response(1, TypeUrl::Cluster, &[("c", "1", vec![0xff])], &[])], &[Rule::Unreadable]);
    // Under way when it was no longer wanted.
    check(
        vec![
            clusters(1, "1"),
            endpoints(2, "1"),
            response(3, TypeUrl::Cluster, &[], &["c"]),
            endpoints(4, "2"),
        ],
        &[],
    );
}

fn inline(bytes: Vec<u8>) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() })
}

fn leaf(chain: &[Vec<u8>], key_pem: &str) -> Vec<u8> {
    let certificate = TlsCertificate {
        certificate_chain: inline(certs::certificates_to_pem(chain.iter().map(Vec::as_slice)).into_bytes()),
        private_key: inline(key_pem.as_bytes().to_vec()),
        ..Default::default()
    };
    Secret { r#type: Some(secret::Type::TlsCertificate(certificate)), ..Default::default() }.encode_to_vec()
}

fn context(root: &[u8]) -> Vec<u8> {
    let context = CertificateValidationContext {
        trusted_ca: inline(certs::certificates_to_pem([root]).into_bytes()),
        ..Default::default()
    };
    Secret { r#type: Some(secret::Type::ValidationContext(context)), ..Default::default() }.encode_to_vec()
}

fn pem(key: &SecretKey) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(key.expose_secret())
    )
}

#[test]
fn holds_leaves_against_their_keys_and_the_roots_of_that_moment() {
    let (ours, theirs) = (World::new("one.test", NOW), World::new("one.test", NOW));
    let credential = ours.leaf("spiffe://one.test/web");
    let key =
        SecretKey::from_pkcs8_der(zeroize::Zeroizing::new(credential.key().rustls().secret_der().to_vec()))
            .unwrap();
    let good = leaf(credential.ders(), &pem(&key));
    let other = leaf(credential.ders(), &pem(&SecretKey::generate(certs::KeyKind::P256)));
    let check = |secrets: Vec<(&str, &str, Vec<u8>)>, expected: &[Rule]| {
        let mut holding = Holding::new(Arc::default(), vec!["default".into(), "spiffe://one.test".into()]);
        holding.step(Event::Opened, NOW);
        for (at, secret) in secrets.into_iter().enumerate() {
            holding.step(response(at as u64 + 1, TypeUrl::Secret, &[secret], &[]), NOW);
        }
        let broken: Vec<Rule> = holding.broken.keys().copied().collect();
        assert_eq!(broken, expected, "{:?}", holding.violations);
        holding
    };
    let roots = |world: &World| context(world.root().certificate().der());
    let held = check(vec![("spiffe://one.test", "1", roots(&ours)), ("default", "1", good.clone())], &[]);
    let (leaf, _) = held.leaf("default").unwrap();
    let (trusted, _) = held.roots("spiffe://one.test").unwrap();
    assert_eq!(leaf.authority().unwrap(), spiffe::AuthorityId::of(ours.issuing().certificate().spki_hash()));
    assert_eq!(leaf.root(trusted).unwrap(), spiffe::AuthorityId::of(ours.root().certificate().spki_hash()));
    check(vec![("default", "1", good.clone())], &[]);
    check(vec![("default", "1", other)], &[Rule::Unreadable]);
    check(
        vec![("spiffe://one.test", "1", roots(&theirs)), ("default", "1", good.clone())],
        &[Rule::Mistrusted],
    );
    check(
        vec![
            ("spiffe://one.test", "1", roots(&ours)),
            ("default", "1", good),
            ("spiffe://one.test", "2", roots(&theirs)),
        ],
        &[Rule::Mistrusted],
    );
}

/// A server that keeps the rules, as simple as one can be.
#[derive(Default)]
struct Honest {
    world: BTreeMap<(TypeUrl, String), (String, Vec<u8>)>,
    changes: u64,
    count: u64,
    all: BTreeSet<TypeUrl>,
    wanted: BTreeSet<(TypeUrl, String)>,
    sent: BTreeMap<(TypeUrl, String), String>,
    asked: BTreeSet<(TypeUrl, String)>,
    queue: VecDeque<Event>,
    unacknowledged: VecDeque<String>,
}

impl Honest {
    fn put(&mut self, type_url: TypeUrl, name: &str, content: Vec<u8>) {
        self.changes += 1;
        self.world.insert((type_url, name.to_owned()), (format!("v{}", self.changes), content));
    }

    fn change(&mut self, random: &mut StdRng) {
        let pick = |random: &mut StdRng| format!("{}", random.random_range(0..4));
        let n = pick(random);
        let (c, l, r) = (format!("c{n}"), format!("l{n}"), format!("r{n}"));
        match random.random_range(0..6) {
            0 => self.put(TypeUrl::Cluster, &c, cluster(&c)),
            1 => self.put(TypeUrl::Endpoints, &c, vec![]),
            2 => self.put(TypeUrl::Secret, "default", Secret::default().encode_to_vec()),
            3 => {
                // Whole, so that nothing refers to what is not there.
                if !self.world.contains_key(&(TypeUrl::Cluster, c.clone())) {
                    self.put(TypeUrl::Cluster, &c, cluster(&c));
                }
                self.put(TypeUrl::Route, &r, routes(&r, &c));
                self.put(TypeUrl::Listener, &l, listener(&l, &r));
            }
            4 => {
                for gone in [(TypeUrl::Listener, l), (TypeUrl::Route, r), (TypeUrl::Cluster, c)] {
                    self.world.remove(&gone);
                }
            }
            _ => {
                self.world.remove(&(TypeUrl::Endpoints, c));
            }
        }
        self.pump();
    }

    /// Hears all of an opening before it answers: what is gone may be in use by what it has not heard of yet.
    fn hear(&mut self, requests: Vec<DeltaDiscoveryRequest>) {
        requests.into_iter().for_each(|request| self.note(request));
        self.pump();
    }

    fn note(&mut self, request: DeltaDiscoveryRequest) {
        let type_url = TypeUrl::parse(&request.type_url).unwrap();
        if !request.response_nonce.is_empty() {
            assert_eq!(Some(request.response_nonce), self.unacknowledged.pop_front());
            return;
        }
        if type_url.is_full_state() {
            assert!(self.all.insert(type_url), "{type_url} is asked for twice");
        }
        for (name, version) in request.initial_resource_versions {
            self.sent.insert((type_url, name), version);
        }
        for name in request.resource_names_subscribe {
            assert!(self.wanted.insert((type_url, name.clone())), "{name} is asked for twice");
            self.asked.insert((type_url, name));
        }
        for name in request.resource_names_unsubscribe {
            assert!(self.wanted.remove(&(type_url, name.clone())), "{name} was not asked for");
            self.sent.remove(&(type_url, name));
        }
    }

    /// Queues every difference: updates in order, then what is gone or was never there, users first.
    fn pump(&mut self) {
        for type_url in TypeUrl::ALL {
            let covered = |key: &(TypeUrl, String)| self.all.contains(&key.0) || self.wanted.contains(key);
            let due: Vec<_> = self
                .world
                .iter()
                .filter(|(key, (version, _))| {
                    let news = self.asked.contains(*key) || self.sent.get(*key) != Some(version);
                    key.0 == type_url && covered(key) && news
                })
                .map(|(key, (version, content))| (key.clone(), version.clone(), content.clone()))
                .collect();
            if due.is_empty() {
                continue;
            }
            for (key, version, _) in &due {
                self.sent.insert(key.clone(), version.clone());
                self.asked.remove(key);
                let child = (TypeUrl::Endpoints, key.1.clone());
                if type_url == TypeUrl::Cluster && self.wanted.contains(&child) {
                    self.asked.insert(child);
                }
            }
            let due: Vec<_> =
                due.iter().map(|(key, version, content)| (&*key.1, &**version, content.clone())).collect();
            self.send(type_url, &due, &[]);
        }
        for type_url in
            [TypeUrl::Listener, TypeUrl::Route, TypeUrl::Cluster, TypeUrl::Endpoints, TypeUrl::Secret]
        {
            let asked = self.asked.iter().filter(|key| !self.world.contains_key(*key));
            let names: BTreeSet<String> = self
                .sent
                .keys()
                .filter(|key| !self.world.contains_key(*key))
                .chain(asked)
                .filter(|key| key.0 == type_url)
                .map(|key| key.1.clone())
                .collect();
            for name in &names {
                self.sent.remove(&(type_url, name.clone()));
                self.asked.remove(&(type_url, name.clone()));
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if !names.is_empty() {
                self.send(type_url, &[], &names);
            }
        }
    }

    fn send(&mut self, type_url: TypeUrl, due: &[(&str, &str, Vec<u8>)], removed: &[&str]) {
        self.count += 1;
        self.queue.push_back(response(self.count, type_url, due, removed));
    }

    fn reconnect(&mut self) {
        let world = std::mem::take(&mut self.world);
        *self = Self { world, changes: self.changes, ..Self::default() };
    }
}

/// Under any order of changes, deliveries and reconnects of a server that keeps the rules: no rule seems broken,
/// every response is acknowledged once and in order, nothing is asked for twice, and in the end the node holds what
/// the server has.
#[test]
fn holds_its_invariants_on_random_walks() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut holding, mut server) = (holding(), Honest::default());
        let deliver = |holding: &mut Holding, server: &mut Honest| {
            let Some(event) = server.queue.pop_front() else { return false };
            if let Event::Received(response) = &event {
                server.unacknowledged.push_back(response.nonce.clone());
            }
            server.hear(holding.step(event, NOW));
            true
        };
        server.hear(holding.step(Event::Opened, NOW));
        for _ in 0..80 {
            match *[0, 0, 1, 1, 1, 2].choose(&mut random).unwrap() {
                0 => server.change(&mut random),
                1 => drop(deliver(&mut holding, &mut server)),
                _ if random.random_bool(0.2) => {
                    server.reconnect();
                    holding.step(Event::Ended, NOW);
                    assert_eq!(holding.step(response(1, TypeUrl::Cluster, &[], &[]), NOW), []);
                    server.hear(holding.step(Event::Opened, NOW));
                }
                _ => {}
            }
        }
        while deliver(&mut holding, &mut server) {}
        assert!(holding.broken.is_empty(), "seed {seed}: {:#?}", holding.violations);
        assert!(server.unacknowledged.is_empty(), "seed {seed}");
        let unanswered: Vec<_> = holding.unanswered().collect();
        assert!(unanswered.is_empty(), "seed {seed}: {unanswered:?}");
        for type_url in TypeUrl::ALL {
            let covered = |key: &(TypeUrl, String)| type_url.is_full_state() || server.wanted.contains(key);
            let has: BTreeMap<String, String> = server
                .world
                .iter()
                .filter(|(key, _)| key.0 == type_url && covered(key))
                .map(|(key, (version, _))| (key.1.clone(), version.clone()))
                .collect();
            let held: BTreeMap<String, String> = holding
                .all(type_url)
                .iter()
                .map(|(name, held)| (name.to_string(), held.version.to_string()))
                .collect();
            assert_eq!(held, has, "seed {seed}: {}", type_url.word());
        }
    }
}
