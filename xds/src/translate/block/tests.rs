use std::fs;

use prost_types::Any;
use proto::pgv;

use super::*;
use crate::{
    model,
    translate::{
        tests::{defaults, to_json, workspace},
        translate,
    },
};

const CLUSTERS: &str = "
apiVersion: v1
kind: ProxyConfig
metadata: {name: callers}
spec:
  clusters:
    - name: pay
      type: STATIC
      endpoints: [{address: 10.0.0.1, port: 1}]
      mtls: {server: [spiffe://prod.example/pay]}
    - name: pay-or-batch
      type: STATIC
      endpoints: [{address: 10.0.0.1, port: 1}]
      mtls: {server: [spiffe://prod.example/pay, spiffe://prod.example/batch]}
    - name: batch
      type: STATIC
      endpoints: [{address: 10.0.0.1, port: 1}]
      mtls: {server: [spiffe://prod.example/batch]}
    - name: plaintext
      type: STATIC
      endpoints: [{address: 127.0.0.1, port: 1}]
      mtls: off
";

fn denied(names: &[&str]) -> Denied {
    let id = |name: &&str| SpiffeId::parse(&format!("spiffe://prod.example/{name}")).unwrap();
    Denied::new(names.iter().map(id).collect())
}

fn made(denied: &Denied) -> Vec<Made> {
    let documents = model::parse("callers", CLUSTERS).unwrap_or_else(|problems| panic!("{problems}"));
    let clusters = documents.iter().flat_map(|document| translate(document, &defaults(), denied));
    denied.filters().into_iter().chain(clusters).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "golden files are refreshed by one variable")]
fn whom_proxies_refuse_stands_in_the_golden_files() {
    let bless = std::env::var("CREDENCE_BLESS").is_ok();
    for (name, names) in [("nobody", &[][..]), ("pay", &["pay"]), ("pay-and-web", &["web", "pay"])] {
        let all = made(&denied(names));
        for made in &all {
            let any = Any { type_url: made.type_url.as_str().to_owned(), value: made.content.clone() };
            assert_eq!(pgv::validate_any(&any), [], "{}", made.name);
        }
        let json = serde_json::to_string_pretty(&all.iter().map(to_json).collect::<Vec<_>>()).unwrap() + "\n";
        let golden = workspace().join(format!("xds/tests/golden/blocked/{name}.json"));
        if bless {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(&golden, &json).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert!(expected == json, "{name}: differs from {}; refresh with CREDENCE_BLESS=1", golden.display());
    }
}

#[test]
fn only_clusters_that_would_take_a_blocked_server_change() {
    let before = made(&denied(&[]));
    let check = |names: &[&str], expected: &[&str]| {
        let after = made(&denied(names));
        let changed = before.iter().zip(&after).filter(|(before, after)| before.content != after.content);
        let changed: Vec<_> = changed.map(|(before, _)| &*before.name).collect();
        assert_eq!(changed, expected, "{names:?}");
    };
    check(&[], &[]);
    check(&["pay"], &[HTTP_BLOCK, TCP_BLOCK, "pay", "pay-or-batch"]);
    check(&["batch"], &[HTTP_BLOCK, TCP_BLOCK, "pay-or-batch", "batch"]);
    check(&["web"], &[HTTP_BLOCK, TCP_BLOCK]);
}

#[test]
fn a_cluster_whose_every_server_is_blocked_takes_nobody() {
    let domain = defaults().trust_domain;
    let servers = |names: &[&str]| {
        let named = [SpiffeId::parse("spiffe://prod.example/pay").unwrap()];
        denied(names).servers(&named, &domain)
    };
    let exact = |name: &str| vec![MatchPattern::Exact(format!("spiffe://prod.example/{name}"))];
    assert_eq!(servers(&["web"]), exact("pay"));
    assert_eq!(servers(&["pay"]), exact(NOBODY));
    let nobody = SpiffeId::parse(&format!("spiffe://prod.example/{NOBODY}")).unwrap();
    assert!(nobody.class().is_err(), "somebody may be issued a certificate of this name");
}

#[test]
fn equal_blocks_have_equal_bytes() {
    for _ in 0..20 {
        assert_eq!(made(&denied(&["a", "b", "c"])), made(&denied(&["c", "a", "b"])));
    }
}
