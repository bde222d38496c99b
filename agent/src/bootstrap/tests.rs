use proto::{envoy::config::bootstrap::v3::Bootstrap as EnvoyBootstrap, pgv, text::parse_as};

use super::*;

fn paths() -> SecretPaths {
    let root = Path::new("/var/lib/credence-agent");
    let current = root.join("certs/current");
    SecretPaths {
        chain: current.join("chain.pem"),
        key: current.join("key.pem"),
        bundle: current.join("bundle.pem"),
        watched: root.join("certs"),
        node_secret: root.join("sds-node.json"),
        bundle_secret: root.join("sds-bundle.json"),
    }
}

fn bootstrap(server: &str, discovery: Discovery) -> Bootstrap {
    Bootstrap {
        node: NodeId::parse("n").unwrap(),
        namespace: Namespace::parse("shop").unwrap(),
        xds_server: ServerAddress::parse(server).unwrap(),
        server_id: SpiffeId::parse("spiffe://prod.example/credence/server").unwrap(),
        admin_port: 0,
        discovery,
        paths: paths(),
    }
}

/// Compares with a golden file; `CREDENCE_BLESS=1` refreshes it.
fn check(name: &str, value: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bootstrap/golden").join(name);
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    #[expect(clippy::disallowed_methods, reason = "the one variable that refreshes golden files")]
    if std::env::var("CREDENCE_BLESS").is_ok() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, golden, "{name}: run with CREDENCE_BLESS=1 if this is meant");
}

#[test]
fn looks_as_reviewed_and_passes_the_rules_of_envoy() {
    let cases = [
        ("delta.json", "10.0.0.1:18000", Discovery::Delta),
        ("sotw-by-name.json", "credence.internal:18000", Discovery::Sotw),
    ];
    for (name, server, discovery) in cases {
        let value = bootstrap(server, discovery).to_json();
        check(name, &value);
        let parsed: EnvoyBootstrap = parse_as(&value.to_string()).unwrap();
        assert_eq!(pgv::validate_typed(&parsed), [], "{name}");
        assert_eq!(parsed.node.unwrap().id, "n");
    }
    check("sds-node.json", &node_secret(&paths()));
    check("sds-bundle.json", &bundle_secret(&paths()));
    for file in [node_secret(&paths()), bundle_secret(&paths())] {
        let parsed: proto::envoy::service::discovery::v3::DiscoveryResponse =
            parse_as(&file.to_string()).unwrap();
        assert_eq!(pgv::validate_typed(&parsed), []);
        assert_eq!(parsed.resources.len(), 1);
    }
}

#[test]
fn every_text_is_quoted_and_tls_is_1_3_only() {
    let text = bootstrap("[::1]:18000", Discovery::Delta).to_json();
    assert_eq!(text["node"]["id"], Value::String("n".into()));
    let tls = &text["static_resources"]["clusters"][0]["transport_socket"]["typed_config"];
    let params = &tls["common_tls_context"]["tls_params"];
    assert_eq!(params["tls_minimum_protocol_version"], params["tls_maximum_protocol_version"]);
    assert_eq!(params["tls_minimum_protocol_version"], "TLSv1_3");
    assert!(tls.get("sni").is_none());
}
