use prost_types::Any;
use proto::pgv;
use serde_json::Value;

use super::*;
use crate::{
    model,
    translate::{
        Defaults, Denied, Made,
        tests::{defaults, to_json},
        translate,
    },
};

const EDGE: &str = "
apiVersion: v1
kind: ProxyConfig
metadata: {name: edge}
spec:
  listeners:
    - name: https
      address: 0.0.0.0
      port: 443
      tls: {edge: shop}
      filterChains:
        - match: {serverNames: [shop.example, \"*.shop.example\"]}
          filters: [{name: envoy.filters.network.http_connection_manager, config: {routeConfig: site}}]
        - match: {serverNames: [shop.example], sourcePrefixRanges: [10.0.0.0/8]}
          filters: [{name: envoy.filters.network.http_connection_manager, config: {routeConfig: site}}]
        - filters: [{name: envoy.filters.network.http_connection_manager, config: {routeConfig: site}}]
    - name: http
      address: 0.0.0.0
      port: 80
      mtls: off
      filterChains:
        - filters: [{name: envoy.filters.network.http_connection_manager, config: {routeConfig: plain}}]
  routes:
    - name: site
      virtualHosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, directResponse: {status: 200}}]}]
    - name: plain
      virtualHosts:
        - name: shop
          domains: [shop.example, \"*.shop.example\", \"Other.Example:*\"]
          routes: [{match: {prefix: /}, redirect: {https: true}}]
        - {name: acme-challenge, domains: [known.example], routes: []}
";

fn names() -> (Tenant, Namespace, EdgeName) {
    (Tenant::default(), Namespace::default(), EdgeName::parse("shop").unwrap())
}

fn text(host: &str) -> ChallengeText {
    let path = format!("/.well-known/acme-challenge/{host}");
    ChallengeText { host: host.to_owned(), path, body: "token.thumbprint".to_owned() }
}

fn texts(hosts: &[&str]) -> Challenges {
    let (tenant, namespace, _) = names();
    let mut all = Challenges::default();
    hosts.iter().for_each(|host| all.show_text(&tenant, &namespace, "plain", text(host)));
    all
}

fn certificates(server_names: &[&str]) -> Challenges {
    let (tenant, namespace, edge) = names();
    let mut all = Challenges::default();
    server_names.iter().for_each(|name| all.show_certificate(&tenant, &namespace, &edge, name));
    all
}

fn made(challenges: Challenges) -> Vec<Made> {
    let documents = model::parse("edge", EDGE).unwrap_or_else(|problems| panic!("{problems}"));
    let defaults = Defaults { challenges, ..defaults() };
    let all: Vec<Made> =
        documents.iter().flat_map(|document| translate(document, &defaults, &Denied::default())).collect();
    for made in &all {
        let any = Any { type_url: made.type_url.as_str().to_owned(), value: made.content.clone() };
        assert_eq!(pgv::validate_any(&any), [], "{}", made.name);
    }
    all
}

fn found(all: &[Made], name: &str) -> Value {
    to_json(all.iter().find(|made| *made.name == *name).unwrap())
}

/// The resources that differ from those without challenges.
fn changed(challenges: Challenges) -> Vec<String> {
    let without = made(Challenges::default());
    let with = made(challenges);
    let pairs = without.iter().zip(&with).filter(|(before, after)| before.content != after.content);
    pairs.map(|(_, after)| after.name.to_string()).collect()
}

#[test]
fn certificates_are_shown_in_chains_beside_those_that_stay_as_they_are() {
    let before = found(&made(Challenges::default()), "https");
    let after = found(&made(certificates(&["shop.example", "www.shop.example"])), "https");
    let chains = |listener: &Value| listener["resource"]["filter_chains"].as_array().unwrap().clone();
    let (old, new) = (chains(&before), chains(&after));
    assert_eq!(new[..old.len()], old, "no connection ends");
    assert_eq!(before["resource"]["listener_filters"], after["resource"]["listener_filters"]);
    assert_eq!(before["resource"]["listener_filters"][0]["name"], "envoy.filters.listener.tls_inspector");
    let [default, named] = &new[old.len()..] else { panic!("{new:?}") };
    assert_eq!(default["filter_chain_match"], serde_json::json!({"application_protocols": ["acme-tls/1"]}));
    let expected = serde_json::json!({
        "application_protocols": ["acme-tls/1"], "server_names": ["*.shop.example", "shop.example"],
    });
    assert_eq!(named["filter_chain_match"], expected, "each server name once, or Envoy refuses it");
    for chain in [default, named] {
        let tls = &chain["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(tls["alpn_protocols"], serde_json::json!(["acme-tls/1"]));
        let secrets = tls["tls_certificate_sds_secret_configs"].as_array().unwrap();
        let secrets: Vec<&str> = secrets.iter().map(|secret| secret["name"].as_str().unwrap()).collect();
        assert_eq!(secrets, ["edge://shop/shop.example", "edge://shop/www.shop.example"]);
    }
    let needs = after["needs"].as_array().unwrap();
    for name in ["edge://shop", "edge://shop/shop.example", "edge://shop/www.shop.example"] {
        assert!(needs.contains(&Value::from(format!("SDS {name}"))), "{needs:?}");
    }
    assert_eq!(changed(certificates(&["shop.example"])), ["https"]);
}

#[test]
fn texts_stand_before_every_other_route_and_take_no_host_from_another() {
    let table = found(&made(texts(&["a.shop.example", "known.example", "other.example"])), "plain");
    let hosts = table["resource"]["virtual_hosts"].as_array().unwrap();
    for host in hosts {
        let routes = host["routes"].as_array().unwrap();
        let paths: Vec<&str> =
            routes.iter().take(3).map(|route| route["match"]["path"].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            ["a.shop.example", "known.example", "other.example"]
                .map(|host| format!("/.well-known/acme-challenge/{host}"))
        );
        assert_eq!(routes[0]["direct_response"]["body"]["inline_string"], "token.thumbprint");
    }
    assert_eq!(hosts[0]["routes"][3]["redirect"]["https_redirect"], true);
    // `other.example` with a port is the first host's already, and Envoy takes no domain twice.
    assert_eq!(hosts[2]["domains"], serde_json::json!(["other.example"]));
    assert_eq!(hosts[2]["name"], "acme-challenge-", "no name twice either");
    let none_of_its_own = found(&made(texts(&["shop.example", "a.shop.example"])), "plain");
    assert_eq!(none_of_its_own["resource"]["virtual_hosts"].as_array().unwrap().len(), 2);
    assert_eq!(changed(texts(&["shop.example"])), ["plain"]);
}

#[test]
fn the_source_of_edges_is_the_same_bytes_everywhere() {
    // envoy#47309. Fields 3 `ads` and 6 api V3, and 4, the time out of one second.
    use prost::Message;
    assert_eq!(edge_source().encode_to_vec(), [0x1a, 0x00, 0x22, 0x02, 0x08, 0x01, 0x30, 0x02]);
}

#[test]
fn only_documents_that_show_something_are_made_anew() {
    let document = &model::parse("edge", EDGE).unwrap()[0];
    let check = |before: &Challenges, after: &Challenges, expected: bool| {
        assert_eq!(Challenges::differ(before, after, document), expected);
        assert_eq!(Challenges::differ(after, before, document), expected);
    };
    let nothing = Challenges::default();
    check(&nothing, &nothing, false);
    check(&nothing, &texts(&["shop.example"]), true);
    check(&nothing, &certificates(&["shop.example"]), true);
    check(&texts(&["shop.example"]), &texts(&["other.example"]), true);
    let (tenant, namespace, _) = names();
    let mut elsewhere = Challenges::default();
    elsewhere.show_text(&tenant, &Namespace::parse("elsewhere").unwrap(), "plain", text("shop.example"));
    elsewhere.show_text(&tenant, &namespace, "another-table", text("shop.example"));
    elsewhere.show_certificate(&tenant, &namespace, &EdgeName::parse("another").unwrap(), "shop.example");
    check(&nothing, &elsewhere, false);
}

#[test]
fn a_domain_takes_the_hosts_that_envoy_says_it_does() {
    let check = |domain: &str, host: &str, expected: bool| {
        assert_eq!(takes(domain, host), expected, "{domain} {host}");
    };
    check("*", "shop.example", true);
    check("shop.example", "shop.example", true);
    check("SHOP.example", "shop.example", true);
    check("shop.example:80", "shop.example", false);
    check("*.example", "shop.example", true);
    check("*.shop.example", "shop.example", false);
    check("*shop.example", "shop.example", false);
    check("*-shop.example", "a-shop.example", true);
    check("shop.*", "shop.example", true);
    check("shop.example*", "shop.example", false);
    check("other.*", "shop.example", false);
}
