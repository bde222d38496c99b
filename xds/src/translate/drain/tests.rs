use serde_json::Value;

use super::*;
use crate::{
    model::{self, Document},
    translate::{
        Defaults, Denied, Made, is_drained,
        tests::{defaults, good_documents, to_json},
        translate,
    },
};

fn drained(all: u64, sessions: &[(&str, u64)]) -> Defaults {
    let id = |name: &str| SpiffeId::parse(&format!("spiffe://prod.example/{name}")).unwrap();
    let sessions = sessions.iter().map(|(name, generation)| (id(name), *generation)).collect();
    Defaults { drains: Drains::new(all, sessions), ..defaults() }
}

fn made(document: &Document, defaults: &Defaults) -> Vec<Made> {
    translate(document, defaults, &Denied::default())
}

/// A resource without its generations.
fn first_generation(value: Value, generation: u64) -> Value {
    let suffix = format!("?g={generation}");
    serde_json::from_str(&value.to_string().replace(&suffix, "")).unwrap()
}

#[test]
fn a_generation_is_in_the_names_of_every_secret_and_chain_and_nowhere_else() {
    let mut seen = 0;
    for (name, source) in good_documents() {
        for document in model::parse(&name, &source).unwrap() {
            let (before, after) = (made(&document, &defaults()), made(&document, &drained(7, &[])));
            assert_eq!(before.len(), after.len(), "{name}");
            let mut differ = false;
            for (old, new) in before.iter().zip(&after) {
                let (old_json, new_json) = (to_json(old), to_json(new));
                let names = new_json.to_string();
                let without = first_generation(new_json["resource"].clone(), 7);
                assert_eq!(without, old_json["resource"], "{name}: {}", old.name);
                // Secrets are named by what uses them and by what the resource says that it needs.
                let secrets = names.matches("\"sds_config\"").count();
                let generations = names.matches("?g=7\"").count();
                assert!(generations >= secrets, "{name}: {}: {names}", old.name);
                let chains = new_json["resource"]["filter_chains"].as_array().cloned().unwrap_or_default();
                for chain in &chains {
                    assert!(chain["name"].as_str().unwrap().ends_with("?g=7"), "{name}: {chain}");
                }
                seen += secrets;
                differ |= old.content != new.content;
            }
            assert_eq!(differ, is_drained(&document, &defaults(), &drained(7, &[])), "{name}");
        }
    }
    assert!(seen > 10, "{seen} secrets are too few to say anything");
}

const SESSIONS: &str = "
apiVersion: v1
kind: ProxyConfig
metadata: {name: ledger}
spec:
  listeners:
    - {name: for-all, address: 10.0.0.1, port: 1, filterChains: [{filters: [&tcp {name: envoy.filters.network.tcp_proxy, config: {cluster: books}}]}]}
    - {name: for-web, address: 10.0.0.1, port: 2, mtls: {allow: [spiffe://prod.example/web]}, filterChains: [{filters: [{name: envoy.filters.network.tcp_proxy, config: {cluster: books}}]}]}
    - {name: http, address: 10.0.0.1, port: 3, filterChains: [{filters: [{name: envoy.filters.network.http_connection_manager, config: {routeConfig: r}}]}]}
    - {name: to-pay, address: 10.0.0.1, port: 4, mtls: off, filterChains: [{filters: [{name: envoy.filters.network.tcp_proxy, config: {cluster: pay}}]}]}
    - {name: elsewhere, address: 10.0.0.1, port: 5, mtls: off, filterChains: [{filters: [{name: envoy.filters.network.tcp_proxy, config: {cluster: other-document}}]}]}
  routes:
    - {name: r, virtualHosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: books}}]}]}
  clusters:
    - {name: books, type: STATIC, endpoints: [{address: 127.0.0.1, port: 1}], mtls: off}
    - {name: pay, type: STATIC, endpoints: [{address: 10.0.0.2, port: 1}], mtls: {server: [spiffe://prod.example/pay]}}
";

#[test]
fn an_eviction_replaces_the_chains_that_may_hold_sessions_of_the_identity_and_no_cluster() {
    let source = SESSIONS.replace("&tcp ", "");
    let document =
        model::parse("sessions", &source).unwrap_or_else(|problems| panic!("{problems}")).remove(0);
    let before = made(&document, &defaults());
    let check = |evicted: &[(&str, u64)], expected: &[&str]| {
        let after = made(&document, &drained(0, evicted));
        let changed = before.iter().zip(&after).filter(|(before, after)| before.content != after.content);
        let changed: Vec<_> = changed.map(|(before, _)| &*before.name).collect();
        assert_eq!(changed, expected, "{evicted:?}");
        assert_eq!(is_drained(&document, &defaults(), &drained(0, evicted)), !expected.is_empty());
        // What secures a chain stays: nothing is asked for anew.
        assert!(after.iter().all(|made| !made.references.iter().any(|(_, name)| name.contains('?'))));
    };
    check(&[], &[]);
    check(&[("web", 1)], &["for-all", "for-web", "elsewhere"]);
    check(&[("pay", 1)], &["for-all", "to-pay", "elsewhere"]);
    check(&[("x", 1)], &["for-all", "elsewhere"]);
    // Another eviction of the same identity is another generation, and of two the later one counts.
    let chain = |evicted: &[(&str, u64)]| {
        let made = made(&document, &drained(2, evicted));
        let listener = made.iter().find(|made| &*made.name == "for-web").unwrap();
        to_json(listener)["resource"]["filter_chains"][0]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(chain(&[("web", 3), ("x", 9)]), "0-mtls?g=5");
    assert_eq!(chain(&[("web", 10), ("x", 9)]), "0-mtls?g=12");
}
