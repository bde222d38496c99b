use certs::Timestamp;
use spiffe::{BindingState, EdgeName};

use super::*;
use crate::{
    model::{self, Kind},
    translate::{Challenges, Drains},
    validate::tests::context,
};

fn binding(node: &str, labels: &[(&str, &str)], identities: &[&str]) -> Binding {
    Binding {
        node: NodeId::parse(node).unwrap(),
        tenant: Tenant::default(),
        namespace: Namespace::default(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        identities: identities.iter().map(|id| SpiffeId::parse(id).unwrap()).collect(),
        issuer: None,
        state: BindingState::Enabled,
        created: Timestamp::from_unix_secs(0),
    }
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// `web-1`, `web-2` (app=web) and `pay` (app=pay).
fn bindings() -> Bindings {
    Bindings::new([
        binding("web-1", &[("app", "web")], &["spiffe://prod.example/web"]),
        binding("web-2", &[("app", "web")], &["spiffe://prod.example/web"]),
        binding("pay", &[("app", "pay")], &["spiffe://prod.example/pay"]),
    ])
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::new(context());
    catalog.bind(&bindings());
    catalog
}

fn puts(text: &str) -> Vec<Change> {
    let documents = model::parse("doc.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    documents.into_iter().map(|document| Change::Put(Box::new(document))).collect()
}

fn key(kind: Kind, name: &str) -> DocumentKey {
    DocumentKey { tenant: Tenant::default(), namespace: Namespace::default(), kind, name: name.into() }
}

/// A document with one TCP listener and its EDS cluster, which speaks mTLS if it is called `e`.
fn config(name: &str, selector: &str, port: u16, cluster: &str) -> String {
    let mtls = if cluster == "e" { "{server: [spiffe://prod.example/web]}" } else { "off" };
    format!(
        "---\napiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {selector}}}\n  \
         listeners:\n    - name: {name}\n      address: 127.0.0.1\n      port: {port}\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.tcp_proxy, config: {{cluster: {cluster}}}}}]\n  \
         clusters: [{{name: {cluster}, type: EDS, mtls: {mtls}}}]\n"
    )
}

fn endpoints(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\nspec:\n  endpoints: [{{address: 127.0.0.1, port: {port}}}]\n"
    )
}

/// What a node gets, but for the filters that every listener has.
fn names(views: &Views, of: &str) -> Vec<String> {
    let Some(snapshot) = views.get(&node(of)) else { return Vec::new() };
    let types = TypeUrl::ALL.into_iter().filter(|type_url| *type_url != TypeUrl::Extension);
    let resources = types.flat_map(|type_url| snapshot.of(type_url).values());
    resources.map(|resource| format!("{} {}", resource.type_url().word(), resource.name())).collect()
}

fn rules(problems: &Problems) -> Vec<&str> {
    problems.0.iter().map(|problem| problem.rule.as_str()).collect()
}

#[test]
fn a_document_that_is_older_than_a_rule_on_what_envoy_takes_stays_effective_and_is_not_taken_anew() {
    let table = |value: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: r}}\nspec:\n  routes:\n    - name: r\n      virtualHosts:\n        \
             - {{name: h, domains: [\"*\"], requestHeadersToAdd: [{{name: a, value: \"{value}\"}}]}}\n{more}"
        )
    };
    let (old, no_cluster) = (table("%REQUEST_ID%", ""), "  clusters: [{name: c, type: STATIC}]\n");
    let mut catalog = Catalog::new(context());
    assert_eq!(rules(&catalog.apply(puts(&old)).unwrap_err()), ["header-value"]);
    assert_eq!(
        rules(&catalog.restore(puts(&table("%REQUEST_ID%", no_cluster))).unwrap_err()),
        ["endpoints"],
        "what cannot be served at all is said"
    );
    let restored = catalog.restore(puts(&old)).unwrap();
    assert_eq!(restored.warnings.iter().map(|one| one.0.rule.as_str()).collect::<Vec<_>>(), ["header-value"]);
    catalog.bind(&bindings());
    assert_eq!(names(&catalog.views(), "web-1"), ["RDS r"]);
    assert_eq!(rules(&catalog.apply(puts(&old)).unwrap_err()), ["header-value"]);
    catalog.apply(puts(&table("%REQ(x-request-id)%", ""))).unwrap();
}

#[test]
fn documents_reach_the_nodes_that_their_selector_matches() {
    let mut catalog = catalog();
    let applied = catalog.apply(puts(&(config("in", "{app: web}", 1, "c") + &endpoints("c", 9)))).unwrap();
    assert_eq!(names(&applied.views, "web-1"), ["CDS c", "EDS c", "LDS in"]);
    assert_eq!(names(&applied.views, "pay"), Vec::<String>::new());
    assert_eq!(applied.views.view_of[&node("web-1")], applied.views.view_of[&node("web-2")]);
    let web = vec![node("web-1"), node("web-2")];
    assert_eq!(
        applied.reaches,
        [(key(Kind::ProxyConfig, "in"), web.clone()), (key(Kind::Endpoints, "c"), web),]
    );
    // And those only that it matches afterwards.
    let applied = catalog.apply(puts(&config("in", "{app: pay}", 1, "c"))).unwrap();
    assert_eq!(names(&applied.views, "web-1"), Vec::<String>::new());
    assert_eq!(names(&applied.views, "pay"), ["CDS c", "EDS c", "LDS in"]);
    assert_eq!(applied.reaches[0].1, [node("pay"), node("web-1"), node("web-2")]);
    let applied = catalog.apply(vec![Change::Delete(key(Kind::ProxyConfig, "in"))]).unwrap();
    assert_eq!(names(&applied.views, "pay"), Vec::<String>::new());
}

/// As `expose --on` writes it.
#[test]
fn a_document_that_names_a_node_reaches_that_one_among_nodes_with_the_same_labels() {
    let listeners = |views: &Views, of: &str| {
        let snapshot = views.get(&node(of)).unwrap();
        snapshot.of(TypeUrl::Listener).keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    for labels in [&[][..], &[("app", "web")]] {
        let all = ["a-1", "b-1", "c-1"];
        let identity = &["spiffe://prod.example/web"];
        let mut catalog = Catalog::new(context());
        catalog.bind(&Bindings::new(all.map(|node| binding(node, labels, identity))));
        for (name, on, port) in [("first", "a-1", 1), ("second", "b-1", 2), ("third", "b-1", 3)] {
            let named = config(name, &format!("{{credence/node: {on}}}"), port, name);
            let applied = catalog.apply(puts(&named)).unwrap();
            assert_eq!(applied.reaches[0].1, [node(on)]);
        }
        let views = catalog.views();
        assert_eq!(listeners(&views, "a-1"), ["first"]);
        assert_eq!(listeners(&views, "b-1"), ["second", "third"]);
        assert_eq!(listeners(&views, "c-1"), [""; 0]);
        // From one to the other, and to all.
        catalog.apply(puts(&config("second", "{credence/node: c-1}", 2, "second"))).unwrap();
        assert_eq!(listeners(&catalog.views(), "b-1"), ["third"]);
        assert_eq!(listeners(&catalog.views(), "c-1"), ["second"]);
        catalog.apply(puts(&config("second", "{}", 2, "second"))).unwrap();
        assert_eq!(listeners(&catalog.views(), "a-1"), ["first", "second"]);
        assert_eq!(listeners(&catalog.views(), "c-1"), ["second"]);
    }
}

#[test]
fn one_changed_endpoint_is_encoded_and_hashed_once() {
    let mut catalog = Catalog::new(context());
    let many = (0..1000).map(|i| {
        let app = if i % 2 == 0 { "web" } else { "pay" };
        binding(&format!("n{i}"), &[("app", app)], &["spiffe://prod.example/web"])
    });
    catalog.bind(&Bindings::new(many));
    let mut text = String::new();
    for i in 0..50u16 {
        text += &config(
            &format!("l{i}"),
            if i % 2 == 0 { "{app: web}" } else { "{app: pay}" },
            1000 + i,
            &format!("c{i}"),
        );
        text += &endpoints(&format!("c{i}"), 1);
    }
    let before = catalog.apply(puts(&text)).unwrap().views;
    assert_eq!(before.snapshots.len(), 2);
    let (encoded, hashed) = (catalog.counters().encoded(), catalog.counters().hashed());
    let after = catalog.apply(puts(&endpoints("c4", 2))).unwrap().views;
    assert_eq!((catalog.counters().encoded() - encoded, catalog.counters().hashed() - hashed), (1, 1));
    // The other class is the same allocation, and the touched one shares all but one resource.
    let (web, pay) = (node("n0"), node("n1"));
    assert!(Arc::ptr_eq(before.get(&pay).unwrap(), after.get(&pay).unwrap()));
    let (old, new) = (before.get(&web).unwrap(), after.get(&web).unwrap());
    let differing: Vec<_> = TypeUrl::ALL
        .into_iter()
        .flat_map(|kind| new.of(kind).values())
        .filter(|now| !old.get(now.type_url(), now.name()).is_some_and(|then| Arc::ptr_eq(then, now)))
        .map(|resource| resource.name().to_string())
        .collect();
    assert_eq!(differing, ["c4"]);
}

#[test]
fn an_unchanged_document_changes_nothing() {
    let mut catalog = catalog();
    let text = config("in", "{app: web}", 1, "c") + &endpoints("c", 9);
    let before = catalog.apply(puts(&text)).unwrap().views;
    assert!(catalog.plan(puts(&text)).unwrap().nodes.is_empty());
    let after = catalog.apply(puts(&text)).unwrap().views;
    let (old, new) = (before.get(&node("web-1")).unwrap(), after.get(&node("web-1")).unwrap());
    for kind in TypeUrl::ALL {
        assert!(new.of(kind).iter().all(|(name, now)| Arc::ptr_eq(now, old.get(kind, name).unwrap())));
    }
}

#[test]
fn a_cluster_without_endpoints_gets_empty_ones_until_it_has_some() {
    let mut catalog = catalog();
    let applied = catalog.apply(puts(&config("in", "{app: web}", 1, "c"))).unwrap();
    assert_eq!(applied.warnings[0].0.rule, "no-endpoints");
    let empty = applied.views.get(&node("web-1")).unwrap().get(TypeUrl::Endpoints, "c").unwrap().clone();
    let applied = catalog.apply(puts(&endpoints("c", 9))).unwrap();
    assert!(applied.warnings.is_empty());
    let full = applied.views.get(&node("web-1")).unwrap().get(TypeUrl::Endpoints, "c").unwrap().clone();
    assert_ne!(empty.version(), full.version());
    let applied = catalog.apply(vec![Change::Delete(key(Kind::Endpoints, "c"))]).unwrap();
    assert_eq!(applied.warnings[0].0.rule, "no-endpoints");
    let again = applied.views.get(&node("web-1")).unwrap().get(TypeUrl::Endpoints, "c").unwrap().clone();
    assert_eq!(empty.version(), again.version());
}

#[test]
fn a_bad_change_leaves_everything_as_it_was() {
    let mut catalog = catalog();
    let before =
        catalog.apply(puts(&(config("a", "{app: web}", 1, "c") + &endpoints("c", 9)))).unwrap().views;
    let mut refused = |changes: Vec<Change>, expected: &[&str]| {
        let problems = catalog.apply(changes).unwrap_err();
        assert_eq!(rules(&problems), expected, "{problems}");
        assert_eq!(catalog.views().revision, before.revision);
        assert!(Arc::ptr_eq(
            catalog.views().get(&node("web-1")).unwrap(),
            before.get(&node("web-1")).unwrap()
        ));
    };
    // Names and addresses are taken once per node; both documents are named.
    refused(puts(&config("b", "{app: web}", 1, "d")), &["conflicting-address"]);
    refused(puts(&config("b", "{app: web}", 2, "c")), &["conflicting-name"]);
    refused(puts(&config("b", "{}", 2, "c")), &["conflicting-name"]);
    refused(vec![Change::Delete(key(Kind::ProxyConfig, "zz"))], &["not-found"]);
    refused([puts(&endpoints("c", 1)), puts(&endpoints("c", 2))].concat(), &["duplicate-document"]);
}

#[test]
fn the_same_names_are_fine_on_different_nodes() {
    let mut catalog = catalog();
    catalog.apply(puts(&(config("a", "{app: web}", 1, "c") + &endpoints("c", 9)))).unwrap();
    catalog.apply(puts(&config("b", "{app: pay}", 1, "c"))).unwrap();
}

#[test]
fn documents_may_share_clusters_and_lose_none_that_is_used() {
    let mut catalog = catalog();
    let shared = "apiVersion: v1\nkind: ProxyConfig\nmetadata: {name: shared}\nspec:\n  clusters: [{name: s, type: EDS, mtls: off}]\n";
    let user =
        config("user", "{app: web}", 1, "s").replace("  clusters: [{name: s, type: EDS, mtls: off}]\n", "");
    let problems = catalog.apply(puts(&user)).unwrap_err();
    assert_eq!(rules(&problems), ["dangling-reference"]);
    catalog.apply(puts(&format!("{shared}{user}"))).unwrap();
    let problems = catalog.apply(vec![Change::Delete(key(Kind::ProxyConfig, "shared"))]).unwrap_err();
    assert_eq!(rules(&problems), ["dangling-reference"]);
    assert_eq!((&*problems.0[0].file, problems.0[0].line), ("doc.yaml", 17));
    // Moved away from the nodes that use it, it is missing too.
    let moved = shared.replace("spec:", "spec:\n  selector: {matchLabels: {app: pay}}");
    assert_eq!(rules(&catalog.apply(puts(&moved)).unwrap_err()), ["dangling-reference"]);
}

#[test]
fn identities_must_be_bound_to_every_node_that_is_reached() {
    let mut catalog = catalog();
    let text = config("in", "{}", 1, "c")
        .replace("port: 1\n", "port: 1\n      mtls: {identity: spiffe://prod.example/web}\n");
    let problems = catalog.apply(puts(&text)).unwrap_err();
    assert_eq!(rules(&problems), ["identity-not-bound"]);
    assert!(problems.0[0].message.contains("node pay"), "{problems}");
    assert_eq!((problems.0[0].line, problems.0[0].column), (11, 24));
    catalog.apply(puts(&text.replace("matchLabels: {}", "matchLabels: {app: web}"))).unwrap();
}

#[test]
fn our_own_addresses_are_refused_on_our_own_host_only() {
    let mut context = context();
    context.own_addresses = vec!["127.0.0.1:8080".parse().unwrap()];
    let mut catalog = Catalog::new(context);
    catalog.bind(&bindings());
    let text = config("in", "{app: web}", 8080, "c").replace("127.0.0.1", "0.0.0.0") + &endpoints("c", 9);
    let plan = catalog.plan(puts(&text)).unwrap();
    assert_eq!(plan.warnings[0].0.rule, "own-address");
    catalog.set_local_nodes(BTreeSet::from([node("web-2")]));
    let problems = catalog.apply(puts(&text)).unwrap_err();
    assert_eq!(rules(&problems), ["own-address"]);
    assert_eq!((problems.0[0].line, &*problems.0[0].path), (10, "spec.listeners[0].port"));
    catalog.apply(puts(&text.replace("port: 8080", "port: 8081"))).unwrap();
}

#[test]
fn a_plan_names_what_each_node_would_get_and_does_nothing() {
    let mut catalog = catalog();
    catalog.apply(puts(&(config("in", "{app: web}", 1, "c") + &endpoints("c", 9)))).unwrap();
    let plan = catalog.plan(puts(&(config("in", "{app: web}", 2, "d") + &endpoints("c", 10)))).unwrap();
    let [planned] = plan.nodes.as_slice() else { panic!("{plan:?}") };
    assert_eq!(planned.nodes, [node("web-1"), node("web-2")]);
    let told: Vec<_> = planned
        .changes
        .iter()
        .map(|c| {
            format!(
                "{}{} {} {}",
                u8::from(c.before.is_some()),
                u8::from(c.after.is_some()),
                c.type_url.word(),
                c.name
            )
        })
        .collect();
    assert_eq!(told, ["10 CDS c", "01 CDS d", "10 EDS c", "01 EDS d", "11 LDS in"]);
    assert_eq!(names(&catalog.views(), "web-1"), ["CDS c", "EDS c", "LDS in"]);
}

#[test]
fn every_resource_is_explained_by_its_document() {
    let mut catalog = catalog();
    catalog.apply(puts(&config("in", "{app: web}", 1, "c"))).unwrap();
    let told: Vec<_> = catalog
        .explain(&node("web-1"))
        .unwrap()
        .into_iter()
        .map(|e| {
            let cause = e.cause.map(|c| format!("{} {} {}", c.document, c.path, c.place)).unwrap_or_default();
            format!("{} {} <- {cause}", e.type_url.word(), e.name)
        })
        .collect();
    assert_eq!(
        told,
        [
            "CDS c <- ProxyConfig default/in spec.clusters[0] doc.yaml:13:14",
            "EDS c <- ",
            "LDS in <- ProxyConfig default/in spec.listeners[0] doc.yaml:8:7",
            "ECDS credence/identity-block-tcp <- ",
        ]
    );
    assert!(catalog.explain(&node("nobody")).is_none());
}

#[test]
fn a_binding_that_does_not_fit_keeps_what_the_node_had() {
    let mut catalog = catalog();
    catalog.apply(puts(&(config("a", "{app: web}", 1, "c") + &config("b", "{tier: x}", 1, "d")))).unwrap();
    let both = binding("pay", &[("app", "web"), ("tier", "x")], &["spiffe://prod.example/pay"]);
    let web = binding("web-1", &[("app", "web"), ("tier", "x")], &["spiffe://prod.example/web"]);
    let rebound = catalog.bind(&Bindings::new([both, web]));
    let refused: Vec<_> =
        rebound.refused.iter().map(|(node, problems)| (node.to_string(), rules(problems))).collect();
    assert_eq!(
        refused,
        [("pay".to_owned(), vec!["conflicting-address"]), ("web-1".to_owned(), vec!["conflicting-address"]),]
    );
    assert_eq!(names(&rebound.views, "web-1"), ["CDS c", "EDS c", "LDS a"]);
    assert_eq!(names(&rebound.views, "pay"), Vec::<String>::new());
    assert!(rebound.views.get(&node("web-2")).is_none());
    // Mending the documents mends the nodes.
    let applied = catalog.apply(puts(&config("b", "{tier: x}", 2, "d"))).unwrap();
    assert_eq!(names(&applied.views, "pay"), ["CDS c", "CDS d", "EDS c", "EDS d", "LDS a", "LDS b"]);
}

#[test]
fn a_new_node_costs_no_encoding() {
    let mut catalog = catalog();
    catalog.apply(puts(&(config("in", "{app: web}", 1, "c") + &endpoints("c", 9)))).unwrap();
    let encoded = catalog.counters().encoded();
    let more = bindings()
        .iter()
        .cloned()
        .chain([binding("web-3", &[("app", "web")], &["spiffe://prod.example/web"])])
        .collect::<Vec<_>>();
    let rebound = catalog.bind(&Bindings::new(more));
    assert_eq!(names(&rebound.views, "web-3"), ["CDS c", "EDS c", "LDS in"]);
    assert_eq!(catalog.counters().encoded(), encoded);
}

fn blocked(names: &[&str]) -> Denied {
    let id = |name: &&str| SpiffeId::parse(&format!("spiffe://prod.example/{name}")).unwrap();
    Denied::new(names.iter().map(id).collect())
}

#[test]
fn a_block_is_one_resource_for_all_nodes_and_changes_no_listener() {
    let mut catalog = Catalog::new(context());
    let many = (0..1000).map(|i| {
        binding(&format!("n{i}"), &[("app", &format!("a{}", i % 10))], &["spiffe://prod.example/web"])
    });
    catalog.bind(&Bindings::new(many));
    let all: String = (0..10u16)
        .map(|i| config(&format!("l{i}"), &format!("{{app: a{i}}}"), 1000 + i, if i < 2 { "e" } else { "c" }))
        .collect();
    let before = catalog.apply(puts(&all)).unwrap().views;
    let denied = blocked(&["web"]);
    let web = SpiffeId::parse("spiffe://prod.example/web").unwrap();
    let concerned = catalog.concerned(&web);
    assert_eq!((concerned.clusters, concerned.cluster_nodes), (200, 200), "the clusters called e");
    assert_eq!((concerned.tcp_listeners, concerned.tcp_nodes.len()), (1000, 1000));
    assert_eq!(catalog.concerned(&SpiffeId::parse("spiffe://prod.example/x").unwrap()).clusters, 0);
    let encoded = catalog.counters().encoded();
    let after = catalog.deny(denied);
    // Two filters, and the two documents with a cluster that has it for a server.
    assert_eq!(catalog.counters().encoded() - encoded, 2 + 2 * 2);
    let filter = |views: &Views, of: &str| {
        views.get(&node(of)).unwrap().get(TypeUrl::Extension, crate::translate::TCP_BLOCK).unwrap().clone()
    };
    for i in 0..1000 {
        let name = format!("n{i}");
        assert!(Arc::ptr_eq(&filter(&after, "n0"), &filter(&after, &name)), "{name} has a copy of its own");
        let listeners = |views: &Views| views.get(&node(&name)).unwrap().of(TypeUrl::Listener).clone();
        assert_eq!(listeners(&before), listeners(&after));
        let clusters = |views: &Views| views.get(&node(&name)).unwrap().of(TypeUrl::Cluster).clone();
        assert_eq!(clusters(&before) == clusters(&after), i % 10 >= 2, "{name}");
    }
    assert_ne!(filter(&before, "n0").version(), filter(&after, "n0").version());
    let freed = catalog.deny(Denied::default());
    assert_eq!(filter(&before, "n0"), filter(&freed, "n0"));
}

#[test]
fn a_drain_replaces_what_has_a_generation_and_a_plan_of_it_nothing() {
    let mut catalog = catalog();
    let secured = config("in", "{app: web}", 1, "e");
    let open = config("out", "{app: pay}", 2, "c")
        .replace("      filterChains", "      mtls: off\n      filterChains");
    let before = catalog.apply(puts(&(secured + &open))).unwrap().views;
    let drains = Drains::new(1, std::collections::BTreeMap::new());
    let changed = |planned: &[PlannedNodes]| -> Vec<String> {
        let of = |one: &PlannedNodes| {
            let words =
                one.changes.iter().map(|change| format!("{} {}", change.type_url.word(), change.name));
            format!("{}: {}", one.nodes[0], words.collect::<Vec<_>>().join(", "))
        };
        let mut lines: Vec<String> = planned.iter().map(of).collect();
        lines.sort();
        lines
    };
    // A plaintext chain may lead to a certificate under the stolen key.
    let expected = ["pay: LDS out", "web-1: CDS e, LDS in"];
    assert_eq!(changed(&catalog.plan_drain(drains.clone())), expected);
    assert!(plan::diff(&before, &catalog.views()).is_empty());
    assert_eq!((before.drained, catalog.views().drained), (0, 0), "a plan begins nothing");
    let after = catalog.drain(drains.clone());
    assert_eq!(after.drained, 1);
    assert_eq!(changed(&plan::diff(&before, &after)), expected);
    let filter = |views: &Views| {
        views.get(&node("pay")).unwrap().get(TypeUrl::Extension, crate::translate::TCP_BLOCK).unwrap().clone()
    };
    assert!(Arc::ptr_eq(&filter(&before), &filter(&after)));
    assert!(catalog.plan_drain(drains).is_empty(), "the same generation once more");
}

/// A seeded walk: whatever is applied, deleted, bound, blocked and drained, incremental views are those of a catalog
/// built at once.
#[test]
fn incremental_views_equal_those_built_at_once() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut walked = catalog();
    let mut bound = bindings();
    let (mut denied, mut drains) = (Denied::default(), Drains::default());
    for step in 0..300 {
        let name = ["a", "b", "d"][usize::try_from(draw(3)).unwrap()];
        let selectors = [
            "{app: web}",
            "{app: pay}",
            "{}",
            "{app: none}",
            "{credence/node: web-1}",
            "{credence/node: web-2}",
            "{credence/node: pay, app: web}",
        ];
        let selector = selectors[usize::try_from(draw(7)).unwrap()];
        let port = u16::try_from(draw(4)).unwrap() + 1;
        let changes = match draw(8) {
            0 | 1 => puts(&config(name, selector, port, ["c", "e"][usize::try_from(draw(2)).unwrap()])),
            2 => puts(&endpoints(["c", "e"][usize::try_from(draw(2)).unwrap()], port)),
            3 => vec![Change::Delete(key(Kind::ProxyConfig, name))],
            4 => vec![Change::Delete(key(Kind::Endpoints, "c"))],
            5 => {
                denied = blocked([&[][..], &["x"], &["x", "web"]][usize::try_from(draw(3)).unwrap()]);
                walked.deny(denied.clone());
                Vec::new()
            }
            6 => {
                let all = drains.all() + draw(2);
                let mut sessions = drains.sessions().clone();
                let id = ["web", "x"][usize::try_from(draw(2)).unwrap()];
                let later = sessions.values().max().copied().unwrap_or_default() + 1;
                sessions.insert(SpiffeId::parse(&format!("spiffe://prod.example/{id}")).unwrap(), later);
                drains = Drains::new(all, sessions);
                walked.drain(drains.clone());
                Vec::new()
            }
            _ => {
                let app = ["web", "pay", "x"][usize::try_from(draw(3)).unwrap()];
                let moved = binding("pay", &[("app", app)], &["spiffe://prod.example/pay"]);
                bound = Bindings::new(bound.iter().cloned().chain([moved]));
                walked.bind(&bound);
                Vec::new()
            }
        };
        let _ = walked.apply(changes);
        if !walked.state.refused.is_empty() {
            continue;
        }
        let mut fresh = Catalog::new(context());
        fresh.deny(denied.clone());
        fresh.drain(drains.clone());
        fresh.bind(&bound);
        let all = walked.documents().map(|document| Change::Put(Box::new(document.clone()))).collect();
        let built = fresh.apply(all).unwrap_or_else(|problems| panic!("step {step}: {problems}")).views;
        let views = walked.views();
        assert_eq!(
            views.snapshots.len(),
            views.view_of.values().collect::<BTreeSet<_>>().len(),
            "step {step}"
        );
        for node in bound.iter().map(|binding| &binding.node) {
            let content = |views: &Views| {
                let snapshot = views.get(node).unwrap();
                TypeUrl::ALL
                    .into_iter()
                    .flat_map(|kind| {
                        snapshot
                            .of(kind)
                            .values()
                            .map(|r| (r.name().clone(), r.version().clone()))
                            .collect::<Vec<_>>()
                    })
                    .collect::<Vec<_>>()
            };
            assert_eq!(content(&views), content(&built), "step {step}, {node}");
            // Each document has a listener of its name, for whoever its selector matches.
            let binding = bound.get(node).unwrap();
            let reached = walked.documents().filter(|document| document.reaches(binding));
            let reached: Vec<_> = reached.map(|document| document.key.name.to_string()).collect();
            let snapshot = views.get(node).unwrap();
            let listeners: Vec<_> = snapshot.of(TypeUrl::Listener).keys().map(ToString::to_string).collect();
            assert_eq!(listeners, reached, "step {step}, {node}");
        }
    }
}

/// An edge with a listener for each way to show that a name is ours.
fn edge(name: &str, selector: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {selector}}}\n  \
         listeners:\n    - name: https\n      address: 127.0.0.1\n      port: {port}\n      tls: {{edge: shop}}\n      \
         filterChains:\n        - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: site}}}}]\n    \
         - name: http\n      address: 127.0.0.1\n      port: {}\n      mtls: off\n      filterChains:\n        - filters: \
         [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: site}}}}]\n  routes:\n    \
         - {{name: site, virtualHosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, directResponse: \
         {{status: 200}}}}]}}]}}\n",
        port + 1
    )
}

#[test]
fn challenges_change_what_shows_them_also_in_documents_that_come_later_and_go_without_a_trace() {
    let mut catalog = catalog();
    catalog.apply(puts(&(edge("edge", "{app: web}", 10) + &config("in", "{app: web}", 1, "c")))).unwrap();
    let before = catalog.views();
    let mut challenges = Challenges::default();
    let shop = EdgeName::parse("shop").unwrap();
    challenges.show_certificate(&Tenant::default(), &Namespace::default(), &shop, "shop.example");
    let during = catalog.challenge(challenges.clone());
    assert!(during.revision > before.revision);
    assert_eq!(*catalog.challenges(), challenges);
    let get = |views: &Views, of: &str, kind, name| views.get(&node(of)).unwrap().get(kind, name).cloned();
    let (old, new) = (
        get(&before, "web-1", TypeUrl::Listener, "https").unwrap(),
        get(&during, "web-1", TypeUrl::Listener, "https").unwrap(),
    );
    assert_ne!(old.version(), new.version());
    for (kind, name) in [(TypeUrl::Listener, "in"), (TypeUrl::Route, "site"), (TypeUrl::Cluster, "c")] {
        let (old, new) = (get(&before, "web-1", kind, name), get(&during, "web-1", kind, name));
        assert!(Arc::ptr_eq(&old.unwrap(), &new.unwrap()), "{name}");
    }
    // A proxy that comes to the edge meanwhile shows them too.
    let later = catalog.apply(puts(&edge("edge-2", "{app: pay}", 10))).unwrap().views;
    let names = |listener: &Resource| {
        listener.references().iter().map(|(_, name)| name.to_string()).collect::<Vec<_>>()
    };
    let shown = names(&get(&later, "pay", TypeUrl::Listener, "https").unwrap());
    assert!(shown.contains(&"edge://shop/shop.example".to_owned()), "{shown:?}");
    let after = catalog.challenge(Challenges::default());
    for of in ["web-1", "pay"] {
        let listener = get(&after, of, TypeUrl::Listener, "https").unwrap();
        assert_eq!(listener.version(), old.version(), "{of}");
    }
}

#[test]
fn listeners_are_found_with_what_an_edge_depends_on() {
    let mut catalog = catalog();
    catalog.apply(puts(&(edge("edge", "{app: web}", 10) + &config("in", "{app: pay}", 1, "c")))).unwrap();
    let (tenant, namespace) = (Tenant::default(), Namespace::default());
    let facts = |name: &str| {
        let found = catalog.edge_listeners(&tenant, &namespace, |listener| listener.name == name);
        found
            .into_iter()
            .map(|one| (one.edge.map(|edge| edge.to_string()), one.is_plain, one.tables))
            .collect::<Vec<_>>()
    };
    assert_eq!(facts("https"), [(Some("shop".to_owned()), false, vec!["site".to_owned()])]);
    assert_eq!(facts("http"), [(None, true, vec!["site".to_owned()])]);
    assert_eq!(facts("in"), [(None, false, vec![])], "strict");
    assert_eq!(facts("nobody"), []);
    let elsewhere = Namespace::parse("elsewhere").unwrap();
    assert_eq!(catalog.edge_listeners(&tenant, &elsewhere, |_| true), []);
}
