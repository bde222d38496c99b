use spiffe::TrustDomain;

use super::*;
use crate::{catalog, model};

pub(crate) fn context() -> Context {
    Context::strict(TrustDomain::parse("prod.example").unwrap())
}

/// All problems of a text, as `line:column rule path`.
fn problems(text: &str) -> Vec<Problem> {
    let checked = model::parse("bad.yaml", text).and_then(|documents| catalog::check(documents, context()));
    checked.map_or_else(|problems| problems.0, |_| Vec::new())
}

fn check(text: &str, expected: &[&str]) {
    let found = problems(text);
    let told: Vec<_> =
        found.iter().map(|p| format!("{}:{} {} {}", p.line, p.column, p.rule, p.path)).collect();
    assert_eq!(told, expected, "{text}\n{found:#?}");
    for problem in found {
        assert_eq!(&*problem.file, "bad.yaml");
        assert!(!problem.message.is_empty() && !problem.message.ends_with('.'), "{problem}");
    }
}

/// A `ProxyConfig` whose spec begins in line 4, column 7 (`  spec` is line 4).
fn config(spec: &str) -> String {
    format!("apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: x}}\nspec:\n{spec}")
}

/// One listener with one HTTP filter, whose config is `extra` beside `routeConfig`.
fn http(extra: &str) -> String {
    config(&format!(
        "  listeners:\n    - name: l\n      address: 127.0.0.1\n      port: 80\n      filterChains:\n        - filters:\n            \
         - name: envoy.filters.network.http_connection_manager\n              config:\n                routeConfig: r\n\
         {extra}  routes:\n    - {{name: r, virtualHosts: []}}\n"
    ))
}

/// One route, in line 9 of the text.
fn route(route: &str) -> String {
    config(&format!(
        "  routes:\n    - name: r\n      virtualHosts:\n        - {{name: h, domains: [\"*\"], routes: [\n{route}\n]}}\n\
         \x20 clusters:\n    - {{name: c, type: STATIC, endpoints: [{{address: 127.0.0.1, port: 1}}]}}\n"
    ))
}

/// One cluster, in line 6.
fn cluster(cluster: &str) -> String {
    config(&format!("  clusters:\n    - {cluster}\n"))
}

fn endpoints(list: &str) -> String {
    format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{name: c}}\nspec:\n  endpoints:\n{list}")
}

#[test]
fn syntax_is_refused_where_it_breaks() {
    check("apiVersion: v1\nkind: [ProxyConfig\nmetadata: {}\n", &["3:9 syntax "]);
    check("apiVersion: v1\n  kind: x\n", &["2:7 syntax "]);
    check("apiVersion: v1\nkind: \"ProxyConfig\nspec: {}\n", &["3:1 syntax "]);
    check(
        "a: 1\na: 2\n",
        &[
            "1:1 unknown-field a",
            "1:1 required apiVersion",
            "1:1 required kind",
            "1:1 required metadata",
            "2:1 duplicate-key ",
        ],
    );
    check("apiVersion: !!str v1\nkind: ProxyConfig\n", &["1:19 syntax.tag "]);
    check("? [a]\n: b\n", &["1:3 syntax.key "]);
    check("spec: *nothing\n", &["1:7 syntax "]);
}

#[test]
fn every_document_of_a_stream_is_read_and_all_problems_told() {
    let text = "apiVersion: v2\nkind: ProxyConfig\nmetadata: {name: a}\nspec: {}\n---\nbroken: [\n---\n# nothing\n---\n\
                apiVersion: v1\nkind: Proxyconfig\nmetadata: {name: b}\nspec: {}\n";
    check(text, &["1:13 enum apiVersion", "6:9 syntax ", "11:7 enum kind"]);
}

#[test]
fn unknown_fields_are_refused_with_what_was_meant() {
    check(&config("  listener: []\n"), &["5:3 unknown-field spec.listener"]);
    check(
        &cluster("{name: c, type: EDS, loadbalancingPolicy: RANDOM}"),
        &["6:28 unknown-field spec.clusters[0].loadbalancingPolicy"],
    );
    check(
        &http("                route_config: r\n"),
        &["14:17 unknown-field spec.listeners[0].filterChains[0].filters[0].config.route_config"],
    );
    let found = problems(&cluster("{name: c, type: EDS, loadbalancingPolicy: RANDOM}"));
    assert_eq!(found[0].hint, "did you mean \"loadBalancingPolicy\"?");
    let found = problems(&config("  zzz: 1\n"));
    assert_eq!(found[0].hint, "known fields here: selector, listeners, routes, clusters");
}

#[test]
fn types_are_checked_and_never_guessed() {
    check(
        &config("  listeners:\n    - {name: 1, address: 127.0.0.1, port: \"80\", filterChains: {}}\n"),
        &[
            "6:14 type spec.listeners[0].name",
            "6:43 type spec.listeners[0].port",
            "6:63 type spec.listeners[0].filterChains",
        ],
    );
    check(
        &config("  listeners: [{name: l, address: localhost, port: 70000}]\n"),
        &["5:34 address spec.listeners[0].address", "5:51 range spec.listeners[0].port"],
    );
    check(
        &cluster("{name: c, type: eds, connectTimeout: 5}"),
        &["6:23 enum spec.clusters[0].type", "6:44 duration spec.clusters[0].connectTimeout"],
    );
    check(&config("  listeners:\n"), &[]);
    check(
        &config("  listeners: [{name: l}]\n"),
        &["5:15 required spec.listeners[0].address", "5:15 required spec.listeners[0].port"],
    );
    let found = problems(&config("  selector: {matchLabels: {app: 1}}\n"));
    assert_eq!(found[0].hint, "write \"1\", with quotes");
    check(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {name: \"a b\"}\nspec: {}\n",
        &["3:18 name metadata.name"],
    );
    check("[]\n", &["1:1 type "]);
}

#[test]
fn names_are_unique_and_plain() {
    let text = config(
        "  clusters:\n    - &c {name: c, type: EDS, mtls: off}\n    - *c\n    - {name: \"a/b\", type: EDS, mtls: off}\n",
    );
    check(&text, &["7:7 duplicate-name spec.clusters[1].name", "8:14 name spec.clusters[2].name"]);
}

#[test]
fn references_must_resolve() {
    check(
        &http("").replace("name: r,", "name: rr,"),
        &["13:30 dangling-reference spec.listeners[0].filterChains[0].filters[0].config.routeConfig"],
    );
    check(
        &route("{match: {prefix: /}, route: {cluster: d}}"),
        &["9:39 dangling-reference spec.routes[0].virtualHosts[0].routes[0].route.cluster"],
    );
    check(
        &route(
            "{match: {prefix: /}, route: {weightedClusters: [{name: c, weight: 1}, {name: gone, weight: 1}]}}",
        ),
        &["9:78 dangling-reference spec.routes[0].virtualHosts[0].routes[0].route.weightedClusters[1].name"],
    );
    let tcp = "  listeners:\n    - name: l\n      address: 127.0.0.1\n      port: 80\n      filterChains:\n        - filters:\n            \
               - {name: envoy.filters.network.tcp_proxy, config: {cluster: nowhere}}\n";
    check(
        &config(tcp),
        &["11:73 dangling-reference spec.listeners[0].filterChains[0].filters[0].config.cluster"],
    );
}

#[test]
fn rules_of_envoy_are_told_at_the_line_of_the_document() {
    // Inside the Any of the HTTP connection manager.
    check(
        &http("                maxRequestHeadersKb: 9000\n"),
        &["14:38 uint32.lte spec.listeners[0].filterChains[0].filters[0].config.maxRequestHeadersKb"],
    );
    check(
        &http("                serverName: \"a\\nb\"\n"),
        &["14:29 string.well_known_regex spec.listeners[0].filterChains[0].filters[0].config.serverName"],
    );
    check(
        &http("                statPrefix: \"\"\n"),
        &["14:29 string.min_len spec.listeners[0].filterChains[0].filters[0].config.statPrefix"],
    );
    check(
        &http("                maxConcurrentStreams: 0\n"),
        &["14:39 uint32.gte spec.listeners[0].filterChains[0].filters[0].config.maxConcurrentStreams"],
    );
    // Inside the Any of a TLS context.
    let sni = "x".repeat(300);
    check(
        &cluster(&format!("{{name: c, type: EDS, mtls: {{sni: {sni}, server: [spiffe://prod.example/a]}}}}")),
        &["6:40 string.max_bytes spec.clusters[0].mtls.sni"],
    );
    // And outside of one.
    check(
        &cluster("{name: c, type: EDS, mtls: off, connectTimeout: 0s}"),
        &["6:55 duration.gt spec.clusters[0].connectTimeout"],
    );
    check(
        &cluster(
            "{name: c, type: EDS, mtls: off, healthChecks: [{timeout: 0s, interval: 1s, tcpHealthCheck: {}}]}",
        ),
        &["6:64 duration.gt spec.clusters[0].healthChecks[0].timeout"],
    );
    check(
        &route("{match: {prefix: /}, directResponse: {status: 99}}"),
        &["9:47 uint32.gte spec.routes[0].virtualHosts[0].routes[0].directResponse.status"],
    );
    check(
        &route(
            "{match: {prefix: /}, route: {cluster: c}, requestHeadersToAdd: [{name: \"a b\\n\", value: x}]}",
        ),
        &[
            "9:72 string.well_known_regex spec.routes[0].virtualHosts[0].routes[0].requestHeadersToAdd[0].name",
        ],
    );
    check(
        &cluster("{name: c, type: EDS, mtls: off, outlierDetection: {maxEjectionPercent: 101}}"),
        &["6:78 uint32.lte spec.clusters[0].outlierDetection.maxEjectionPercent"],
    );
}

#[test]
fn listeners_and_chains_do_not_collide() {
    let filter = "{name: envoy.filters.network.tcp_proxy, config: {cluster: c}}";
    let clusters = "  clusters: [{name: c, type: EDS, mtls: off}]\n";
    let listener = |name: &str, chains: &str| {
        format!("    - {{name: {name}, address: 127.0.0.1, port: 80, filterChains: [{chains}]}}\n")
    };
    let one = format!("{{filters: [{filter}]}}");
    let two = format!("  listeners:\n{}{}{clusters}", listener("a", &one), listener("b", &one));
    check(&config(&two), &["7:43 conflicting-address spec.listeners[1].port"]);
    let twice = format!("  listeners:\n{}{clusters}", listener("a", &format!("{one}, {one}")));
    check(&config(&twice), &["6:138 overlapping-chains spec.listeners[0].filterChains[1]"]);
    let matching = |what: &str| {
        let chain = format!("{{match: {{{what}}}, filters: [{filter}]}}");
        format!("  listeners:\n{}{clusters}", listener("a", &chain))
    };
    for what in [
        "serverNames: [a.example, a.example]",
        "sourcePrefixRanges: [10.0.0.0/8, 10.0.0.0/8]",
        "sourcePrefixRanges: [10.0.0.0/8, 10.0.0.0/08]",
        "sourcePrefixRanges: [\"2001:db8::/32\", \"2001:0db8::/32\"]",
        "applicationProtocols: [h2, h2]",
    ] {
        check(&config(&matching(what)), &["6:62 overlapping-chains spec.listeners[0].filterChains[0]"]);
    }
    check(
        &config(&matching(
            "serverNames: [a.example, b.example], sourcePrefixRanges: [10.0.0.0/8, 10.0.0.0/9]",
        )),
        &[],
    );
    let none = format!("  listeners:\n{}{clusters}", listener("a", ""));
    check(&config(&none), &["6:61 filter-chains spec.listeners[0].filterChains"]);
    let both =
        format!("  listeners:\n{}{clusters}", listener("a", &format!("{{filters: [{filter}, {filter}]}}")));
    check(&config(&both), &["6:72 terminal-filter spec.listeners[0].filterChains[0].filters"]);
    let matches = format!(
        "{{match: {{serverNames: [A.example, \"a*.example\"], sourcePrefixRanges: [10.0.0.0, 10.0.0.0/33, 10.1.2.3/8, 10.0.0.0/8]}}, filters: [{filter}]}}"
    );
    let matches = format!("  listeners:\n{}{clusters}", listener("a", &matches));
    check(
        &config(&matches),
        &[
            "6:85 server-name spec.listeners[0].filterChains[0].match.serverNames[0]",
            "6:96 server-name spec.listeners[0].filterChains[0].match.serverNames[1]",
            "6:132 cidr spec.listeners[0].filterChains[0].match.sourcePrefixRanges[0]",
            "6:142 cidr spec.listeners[0].filterChains[0].match.sourcePrefixRanges[1]",
            "6:155 cidr spec.listeners[0].filterChains[0].match.sourcePrefixRanges[2]",
        ],
    );
    check(
        &config(
            "  listeners: [{name: l, address: 127.0.0.1, port: 1, filterChains: [{filters: [{name: http_connection_manager, config: {}}]}]}]\n",
        ),
        &["5:87 enum spec.listeners[0].filterChains[0].filters[0].name"],
    );
}

#[test]
fn an_imported_certificate_is_named_well_and_not_beside_mtls() {
    let listener = |more: &str| {
        let filter = "{name: envoy.filters.network.tcp_proxy, config: {cluster: c}}";
        config(&format!(
            "  listeners:\n    - {{name: l, address: 127.0.0.1, port: 80, {more}, filterChains: [{{filters: [{filter}]}}]}}\n  clusters: [{{name: c, type: EDS, mtls: off}}]\n"
        ))
    };
    check(&listener("tls: {certificate: default/shop}"), &[]);
    check(&listener("tls: {certificate: \"secret://default/shop\"}"), &[]);
    let wrong = "6:66 secret-name spec.listeners[0].tls.certificate";
    for name in ["shop", "default/Shop", "a/b/c", "https://default/shop", "/etc/shop.pem", "\"\""] {
        check(&listener(&format!("tls: {{certificate: {name}}}")), &[wrong]);
    }
    check(&listener("tls: {edge: shop.example}"), &[]);
    for none_or_both in ["{}", "{certificate: default/shop, edge: shop}"] {
        check(&listener(&format!("tls: {none_or_both}")), &["6:52 tls-certificate spec.listeners[0].tls"]);
    }
    check(&listener("tls: {edge: Shop}"), &["6:59 edge-name spec.listeners[0].tls.edge"]);
    for mtls in ["strict", "off", "{allow: [spiffe://prod.example/a]}"] {
        let both = listener(&format!("tls: {{certificate: default/shop}}, mtls: {mtls}"));
        check(&both, &["6:87 tls-and-mtls spec.listeners[0].mtls"]);
    }
}

#[test]
fn identities_belong_to_workloads_of_the_trust_domain() {
    let mtls = |mtls: &str| cluster(&format!("{{name: c, type: EDS, mtls: {mtls}}}"));
    check(&mtls("{server: [web]}"), &["6:44 spiffe-id spec.clusters[0].mtls.server[0]"]);
    check(
        &mtls("{server: [spiffe://other.example/web]}"),
        &["6:44 trust-domain spec.clusters[0].mtls.server[0]"],
    );
    check(
        &mtls("{server: [spiffe://prod.example/credence/server]}"),
        &["6:44 reserved-identity spec.clusters[0].mtls.server[0]"],
    );
    check(&mtls("{server: []}"), &["6:43 mtls-server spec.clusters[0].mtls.server"]);
    check(&mtls("on"), &["6:34 type spec.clusters[0].mtls"]);
    check(
        &http("").replace("port: 80", "port: 80\n      mtls: {mode: off, allow: [spiffe://prod.example/a]}"),
        &["9:32 mtls-off spec.listeners[0].mtls.allow"],
    );
    check(
        &http("").replace("port: 80", "port: 80\n      mtls: strikt"),
        &["9:13 enum spec.listeners[0].mtls"],
    );
}

#[test]
fn routes_are_checked() {
    let at = "spec.routes[0].virtualHosts[0].routes[0]";
    let one = |text: &str, place: &str, rule: &str, path: &str| {
        check(&route(text), &[&format!("{place} {rule} {at}{path}")]);
    };
    one("{match: {prefix: /}}", "9:1", "one-of", "");
    one("{match: {prefix: /}, route: {cluster: c}, redirect: {https: true}}", "9:1", "one-of", "");
    one("{match: {}, route: {cluster: c}}", "9:9", "one-of", ".match");
    one("{match: {prefix: api}, route: {cluster: c}}", "9:18", "path", ".match.prefix");
    one("{match: {path: /a?b}, route: {cluster: c}}", "9:16", "path", ".match.path");
    one("{match: {regex: \"(a\"}, route: {cluster: c}}", "9:17", "regex", ".match.regex");
    one("{match: {regex: \"(?=a)\"}, route: {cluster: c}}", "9:17", "regex", ".match.regex");
    one("{match: {regex: \"(a{1000}){1000}\"}, route: {cluster: c}}", "9:17", "regex", ".match.regex");
    one(
        "{match: {prefix: /, headers: [{name: a, exact: b, prefix: c}]}, route: {cluster: c}}",
        "9:31",
        "one-of",
        ".match.headers[0]",
    );
    one("{match: {prefix: /}, route: {}}", "9:29", "one-of", ".route");
    one(
        "{match: {prefix: /}, route: {weightedClusters: [{name: c, weight: 0}]}}",
        "9:48",
        "weights",
        ".route.weightedClusters",
    );
    one(
        "{match: {prefix: /}, route: {cluster: c, retryPolicy: {retryOn: \"5xx,conect-failure\"}}}",
        "9:65",
        "retry-on",
        ".route.retryPolicy.retryOn",
    );
    one("{match: {prefix: /}, redirect: {}}", "9:32", "redirect", ".redirect");
    one(
        "{match: {prefix: /}, route: {cluster: c}, requestHeadersToAdd: [{name: x-forwarded-client-cert, value: a}]}",
        "9:72",
        "header-name",
        ".requestHeadersToAdd[0].name",
    );
    for value in [
        "%ENVIRONMENT(HOME)%",
        "%FILE_CONTENT(/etc/passwd)%",
        "100%",
        "%REQ(a",
        "%%%",
        "%REQ%",
        "%REQ()%",
        "%PROTOCOL(a)%",
        "%REQUEST_ID%",
        "%REQ(A?B?C)%",
        "%REQ(a b)%",
        "%REQ(:)%",
        "%RESP(a?)%",
    ] {
        let text = format!(
            "{{match: {{prefix: /}}, route: {{cluster: c}}, requestHeadersToAdd: [{{name: a, value: \"{value}\"}}]}}"
        );
        one(&text, "9:82", "header-value", ".requestHeadersToAdd[0].value");
    }
    let hosts = "  routes:\n    - name: r\n      virtualHosts:\n        - {name: a, domains: [x.example, \"a*b\"]}\n        - {name: b, domains: [X.example]}\n        - {name: c, domains: []}\n";
    check(
        &config(hosts),
        &[
            "8:42 domain spec.routes[0].virtualHosts[0].domains[1]",
            "9:31 duplicate-domain spec.routes[0].virtualHosts[1].domains[0]",
            "10:30 domain spec.routes[0].virtualHosts[2].domains",
        ],
    );
}

#[test]
fn clusters_and_endpoints_are_checked() {
    let one = |text: &str, expected: &str| check(&cluster(text), &[expected]);
    one("{name: c, type: STATIC}", "6:7 endpoints spec.clusters[0].endpoints");
    one(
        "{name: c, type: EDS, mtls: off, endpoints: [{address: 127.0.0.1, port: 1}]}",
        "6:50 endpoints spec.clusters[0].endpoints",
    );
    one(
        "{name: c, type: STATIC, endpoints: [{address: db.example, port: 1}]}",
        "6:53 address spec.clusters[0].endpoints[0].address",
    );
    one(
        "{name: c, type: STRICT_DNS, mtls: off, endpoints: [{address: \"http://db\", port: 1}]}",
        "6:68 address spec.clusters[0].endpoints[0].address",
    );
    one(
        "{name: c, type: EDS, mtls: off, healthChecks: [{timeout: 1s, interval: 1s}]}",
        "6:54 one-of spec.clusters[0].healthChecks[0]",
    );
    one(
        "{name: c, type: EDS, mtls: off, healthChecks: [{timeout: 1s, interval: 1s, grpcHealthCheck: {}}]}",
        "6:99 grpc-needs-http2 spec.clusters[0].healthChecks[0].grpcHealthCheck",
    );
    let probe = "{timeout: 1s, interval: 1s, tcpHealthCheck: {}}";
    one(
        &format!("{{name: c, type: EDS, mtls: off, healthChecks: [{probe}, {probe}]}}"),
        "6:103 health-checks spec.clusters[0].healthChecks[1]",
    );
    let list = "    - {address: 127.0.0.1, port: 1}\n    - {address: 127.0.0.1, port: 1}\n    - {address: host, port: 2, weight: 0}\n    - {address: \"::1\", port: 3, priority: 2}\n";
    check(
        &endpoints(list),
        &[
            "7:7 duplicate-endpoint spec.endpoints[1]",
            "8:17 address spec.endpoints[2].address",
            "8:40 weights spec.endpoints[2].weight",
            "9:43 priority-gap spec.endpoints[3].priority",
        ],
    );
}

#[test]
fn bombs_and_giants_are_refused() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in ["b", "c", "d", "e", "f", "g"].iter().zip(["a", "b", "c", "d", "e", "f"]) {
        bomb += &format!("{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]\n");
    }
    let rules = |text: &str| problems(text).into_iter().map(|problem| problem.rule).collect::<Vec<_>>();
    assert_eq!(rules(&bomb), ["limit.values"]);
    assert_eq!(rules(&("a: ".to_owned() + &"[".repeat(40) + &"]".repeat(40))), ["limit.depth"]);
    assert!(!rules(&("a: ".to_owned() + &"[".repeat(100_000))).is_empty());
    assert_eq!(rules(&format!("a: \"{}\"\n", "x".repeat(model::MAX_DOCUMENT_BYTES))), ["limit.bytes"]);
    assert!(rules(&"a: 1\n---\n".repeat(model::MAX_DOCUMENTS + 1)).contains(&"limit.documents".to_owned()));
}

fn warnings(text: &str) -> Vec<String> {
    let documents = model::parse("good.yaml", text).unwrap();
    let warnings = catalog::check(documents, context()).unwrap_or_else(|problems| panic!("{problems}"));
    warnings.into_iter().map(|Warning(p)| format!("{}:{} {} {}", p.line, p.column, p.rule, p.path)).collect()
}

#[test]
fn plaintext_beyond_this_host_is_told_loudly() {
    let static_to = |address: &str, more: &str| {
        warnings(&cluster(&format!(
            "{{name: c, type: STATIC, endpoints: [{{address: {address}, port: 1}}]{more}}}"
        )))
    };
    assert_eq!(static_to("10.0.0.1", ""), ["6:7 plaintext-upstream spec.clusters[0]"]);
    assert_eq!(static_to("10.0.0.1", ", mtls: off"), Vec::<String>::new());
    assert_eq!(static_to("127.0.0.1", ""), Vec::<String>::new());
    let eds = cluster("{name: c, type: EDS}");
    assert_eq!(warnings(&eds), ["6:7 no-endpoints spec.clusters[0]"]);
    let with = |address: &str| {
        format!("{eds}---\n{}", endpoints(&format!("    - {{address: {address}, port: 1}}\n")))
    };
    assert_eq!(warnings(&with("10.0.0.1")), ["6:7 plaintext-upstream spec.clusters[0]"]);
    assert_eq!(warnings(&with("127.0.0.1")), Vec::<String>::new());
    assert_eq!(warnings(&endpoints("")), ["3:18 unused-endpoints metadata.name"]);
}

#[test]
fn a_route_that_is_never_used_is_told() {
    let text =
        route("{match: {prefix: /a}, route: {cluster: c}},\n{match: {prefix: /a/b}, route: {cluster: c}}");
    assert_eq!(warnings(&text), ["10:1 shadowed-route spec.routes[0].virtualHosts[0].routes[1]"]);
}
