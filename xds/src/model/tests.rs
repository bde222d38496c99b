use super::*;

/// Section 6.3 of the requirements, byte for byte.
const EXAMPLE: &str = include_str!("../../../docs/examples/example-service.yaml");

#[test]
fn the_example_of_the_requirements_is_read_as_it_is_written() {
    let documents = parse("example.yaml", EXAMPLE).unwrap();
    let [document] = documents.as_slice() else { panic!("one document") };
    assert_eq!(document.key.to_string(), "ProxyConfig production/example-service");
    let Spec::ProxyConfig(config) = &document.spec else { panic!("a ProxyConfig") };
    assert_eq!(config.listeners[0].port.get(), 8080);
    let Filter::Http(http) = &config.listeners[0].filter_chains[0].filters[0] else { panic!("HTTP") };
    assert_eq!(http.route_config, "example_routes");
    assert_eq!(config.routes[0].virtual_hosts[0].routes[0].matching.prefix.as_deref(), Some("/api"));
    assert_eq!(config.clusters[0].cluster_type, ClusterType::Eds);
    assert_eq!(config.clusters[0].health_checks[0].interval, std::time::Duration::from_secs(10));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "golden files are refreshed by one variable")]
fn the_schema_is_the_golden_file() {
    let file =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/documents.schema.json");
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var("CREDENCE_BLESS").is_ok() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(golden == text, "the vocabulary changed; refresh {} with CREDENCE_BLESS=1", file.display());
}

#[test]
fn a_document_is_told_in_json_as_it_was_written() {
    let documents = parse("example.yaml", EXAMPLE).unwrap();
    let json = documents[0].source.to_json();
    assert_eq!(json["spec"]["clusters"][0]["edsClusterConfig"]["edsConfig"]["ads"], serde_json::json!({}));
    let again = parse("again.json", &json.to_string()).unwrap();
    assert_eq!(again[0].spec, documents[0].spec);
    assert_eq!(again[0].key, documents[0].key);
}

#[test]
fn text_without_documents_has_none() {
    for text in ["", "\n", "# nothing\n", "---\n---\n", "...\n"] {
        assert!(parse("empty", text).unwrap().is_empty(), "{text:?}");
    }
}

#[test]
fn what_is_not_read_as_it_was_meant_is_told_how_to_be_written() {
    let check = |domains: &str, expected: (&str, &str)| {
        let text = EXAMPLE.replace("domains: [\"example.com\"]", &format!("domains: {domains}"));
        let problems = parse("bad.yaml", &text).unwrap_err().0;
        let found: Vec<_> = problems.iter().map(|one| (one.message.as_str(), one.hint.as_str())).collect();
        assert_eq!(found, [expected], "{domains}");
    };
    check("\"*\"", ("expected a list, found the text \"*\"", "write a list: [\"*\"]"));
    check("shop", ("expected a list, found the text \"shop\"", "write a list: [\"shop\"]"));
    let quotes = "a word that begins with * or & needs quotes, such as \"*\" or \"*.example.com\"";
    let nameless =
        "not YAML: while scanning an anchor or alias, did not find expected alphabetic or numeric character";
    check("*", (nameless, quotes));
    check("[*.example.com]", ("not YAML: while parsing node, found unknown anchor", quotes));
    let deep = "no field of a document is that deep: close what was opened before";
    for levels in [40, 100, 5000] {
        check(&("[".repeat(levels) + &"]".repeat(levels)), ("nested deeper than 32 levels", deep));
    }
}

#[test]
fn only_what_is_no_text_without_quotes_is_to_be_written_without_them() {
    let hint = |port: &str| {
        let text = EXAMPLE.replace("port: 8080", &format!("port: {port}"));
        parse("bad.yaml", &text).unwrap_err().0.remove(0).hint
    };
    assert_eq!(hint("\"8080\""), "write 8080 without quotes, if it is one");
    assert_eq!(hint("\"*\""), "");
}
