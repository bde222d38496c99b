use proptest::prelude::*;
use serde_json::json;

use super::*;
// Messages are compared by `==` in `assert!`: the `Debug` of a dynamic message prints its descriptor, which for a
// recursive type has no end.
use crate::envoy::config::listener::v3::{Listener, filter::ConfigType};
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;

const LISTENER: &str = r#"
name: ingress
address: { socket_address: { address: 0.0.0.0, port_value: 8443 } }
filterChains:
- transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        tls_params: { tls_minimum_protocol_version: TLSv1_3 }
        tls_certificate_sds_secret_configs:
        - name: spiffe://prod.example.org/ingress
          sds_config: { ads: {}, resource_api_version: V3 }
  filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      stat_prefix: ingress
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stream_idle_timeout: 300s
      rds: { route_config_name: main, config_source: { ads: {}, resource_api_version: V3 } }
      http_filters:
      - name: envoy.filters.http.router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          dynamic_stats: true
"#;

const CLUSTER: &str = r#"
name: backend
type: EDS
connect_timeout: 0.250s
eds_cluster_config: { eds_config: { ads: {}, resource_api_version: V3 } }
metadata: { filter_metadata: { credence: { tenant: default, weights: [1, 2.5, null, true, {a: b}] } } }
circuit_breakers: { thresholds: [{ max_connections: 4294967295 }] }
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 100 } }
"#;

const SECRET: &str = r#"
name: spiffe://prod.example.org
validation_context:
  custom_validator_config:
    name: envoy.tls.cert_validator.spiffe
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig
      trust_domains:
      - { name: prod.example.org, trust_bundle: { inline_bytes: "AAEC/w==" } }
"#;

fn type_named(name: &str) -> MessageDescriptor {
    descriptor(&format!("envoy.{name}")).unwrap()
}

fn listener() -> MessageDescriptor {
    type_named("config.listener.v3.Listener")
}

/// The first problem of a text, as it is printed.
fn first_problem(name: &str, text: &str) -> String {
    let Err(Problems(problems)) = parse(&type_named(name), text) else { panic!("accepted {text}") };
    problems[0].to_string()
}

#[test]
fn reads_listener_with_nested_extensions() {
    let listener: Listener = parse_as(LISTENER).unwrap();
    let Some(ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("no typed config")
    };
    let manager: HttpConnectionManager = any.to_msg().unwrap();
    assert_eq!(manager.stat_prefix, "ingress");
    assert_eq!(manager.http_filters.len(), 1);
}

#[test]
fn keeps_resources_through_text_and_bytes() {
    for (name, text) in [
        ("config.listener.v3.Listener", LISTENER),
        ("config.cluster.v3.Cluster", CLUSTER),
        ("extensions.transport_sockets.tls.v3.Secret", SECRET),
    ] {
        let descriptor = type_named(name);
        let first = parse(&descriptor, text).unwrap().message;
        let bytes = first.encode_to_vec();
        let decoded = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).unwrap();
        let yaml = to_yaml(&decoded).unwrap();
        assert!(parse(&descriptor, &yaml).unwrap().message == first, "{yaml}");
        let json = to_json(&decoded).unwrap();
        assert!(to_dynamic(&descriptor, &json).unwrap() == first, "{json}");
        assert!(parse(&descriptor, &json.to_string()).unwrap().message == first);
    }
}

#[test]
fn reads_the_same_as_prost_reflect() {
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(true);
    for (name, text) in [("config.listener.v3.Listener", LISTENER), ("config.cluster.v3.Cluster", CLUSTER)] {
        let theirs = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
            DynamicMessage::deserialize_with_options(type_named(name), deserializer, &options)
        });
        assert!(parse(&type_named(name), text).unwrap().message == theirs.unwrap());
    }
}

#[test]
fn writes_proto_field_names_and_opens_extensions() {
    let yaml = to_yaml(&parse(&listener(), LISTENER).unwrap().message).unwrap();
    assert!(yaml.contains("filter_chains:"), "{yaml}");
    assert!(yaml.contains("dynamic_stats: true"), "{yaml}");
}

#[test]
fn names_line_column_and_path() {
    let check = |text: &str, expected: &str| {
        assert_eq!(first_problem("config.listener.v3.Listener", text), expected, "{text}");
    };
    check(
        &LISTENER.replace("stat_prefix", "stat_prefx"),
        "line 18 column 7: filterChains[0].filters[0].typed_config.stat_prefx: \
         envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager has no field \
         \"stat_prefx\"; did you mean \"stat_prefix\"?",
    );
    check(
        "name: a\naddress:\n  socket_address: {port_value: many}",
        "line 3 column 32: address.socket_address.port_value: invalid digit found in string",
    );
    check(
        "{name: a, address: {pipe: {path: /a}, socket_address: {address: b}}}",
        "line 1 column 39: address.socket_address: \"socket_address\" excludes \"pipe\", which is given too",
    );
    check("{stat_prefix: a, statPrefix: b}", "line 1 column 18: statPrefix: \"stat_prefix\" is given twice");
    check("filter_chains: {}", "line 1 column 16: filter_chains: expected a list, found a map");
    check("filter_chains: [1]", "line 1 column 17: filter_chains[0]: expected a map, found a number");
    check("name: [a]", "line 1 column 7: name: expected a single value, found a list");
    check(
        "listener_filters: [{name: a, typed_config: {}}]",
        "line 1 column 44: listener_filters[0].typed_config: an extension needs \"@type\", for instance \
         \"type.googleapis.com/envoy...\"",
    );
    check(
        "listener_filters: [{name: a, typed_config: {'@type': type.googleapis.com/envoy.Nothing}}]",
        "line 1 column 54: listener_filters[0].typed_config.@type: unknown type \
         \"type.googleapis.com/envoy.Nothing\"",
    );
    check(
        "traffic_direction: SIDEWAYS",
        "line 1 column 20: traffic_direction: unrecognized enum value 'SIDEWAYS'",
    );
}

#[test]
fn reports_all_problems_at_once() {
    let Err(Problems(problems)) = parse(&listener(), "{nam: a, filter_chains: [{x: 1}, {filters: 3}]}")
    else {
        panic!("accepted")
    };
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["nam", "filter_chains[0].x", "filter_chains[1].filters"]);
}

#[test]
fn paths_of_values_are_as_written() {
    let value = json!({"filterChains": [{}, {"filters": [{"typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "clustr": "a"}}]}]});
    let Err(Problems(problems)) = to_dynamic(&listener(), &value) else { panic!("accepted") };
    assert_eq!(problems[0].path, "filterChains[1].filters[0].typedConfig.clustr");
    assert_eq!(problems[0].position, None);
}

#[test]
fn finds_the_place_of_a_violation() {
    let text = LISTENER.replace("8443", "70000").replace("stat_prefix: ingress", "stat_prefix: ''");
    let parsed = parse(&listener(), &text).unwrap();
    let places: Vec<_> = crate::pgv::validate(&parsed.message)
        .into_iter()
        .map(|violation| (violation.path.clone(), parsed.positions.find(&violation.path).unwrap().line))
        .collect();
    assert_eq!(
        places,
        [
            ("address.socket_address.port_value".to_owned(), 3),
            ("filter_chains[0].filters[0].typed_config.stat_prefix".to_owned(), 18),
        ]
    );
}

#[test]
fn absent_field_is_placed_at_its_message() {
    let parsed = parse(&listener(), "name: a\naddress:\n  socket_address: {address: b}\n").unwrap();
    let position = parsed.positions.find("address.socket_address.port_specifier").unwrap();
    assert_eq!((position.line, position.column), (3, 19));
}

#[test]
fn null_is_an_absent_field() {
    let parsed = parse(&listener(), "{name: ~, address: null, filter_chains: null}").unwrap();
    assert!(parsed.message == DynamicMessage::new(listener()));
}

#[test]
fn reads_well_known_types_in_extensions() {
    let check = |text: &str, is_good: bool| {
        let descriptor = descriptor("google.protobuf.Any").unwrap();
        assert_eq!(parse(&descriptor, text).is_ok(), is_good, "{text}");
    };
    check("{'@type': type.googleapis.com/google.protobuf.Duration, value: 3s}", true);
    check("{'@type': type.googleapis.com/google.protobuf.Duration, value: 3}", false);
    check("{'@type': type.googleapis.com/google.protobuf.Duration, seconds: 3}", false);
    check("{'@type': type.googleapis.com/google.protobuf.StringValue, value: a, more: b}", false);
    check("{'@type': example.org/google.protobuf.StringValue, value: a}", false);
    check("{'@type': [], value: a}", false);
    check("[]", false);
}

#[test]
fn reads_json_text() {
    let name = |text: &str| parse_as::<Listener>(text).map(|listener| listener.name);
    assert_eq!(name("{\n\t\"name\":\t\"a\\/b \\ud83d\\ude00\"}\n").unwrap(), "a/b \u{1f600}");
    assert_eq!(name("{\"name\":\"a\",}").unwrap(), "a");
    assert!(name("{\"name\":\"a\"").is_err());
    assert!(name("{\"name\":\"a\",\"name\":\"b\"}").is_err());
}

#[test]
fn refuses_hostile_text() {
    let check = |text: &str, expected: &str| {
        let found = first_problem("config.listener.v3.Listener", text);
        assert!(found.contains(expected), "{found}");
    };
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    check(&laughs, "copied by aliases");
    check(&format!("name: {}{}", "[".repeat(100_000), "]".repeat(100_000)), "nested deeper");
    check(&format!("name: {}{}", "{a: ".repeat(200), "}".repeat(200)), "nested deeper");
    check(&"- ".repeat(10_000), "nested deeper");
    check(
        &format!(
            "a: &a {}1{}\nb: &b {}*a{}\n",
            "[".repeat(50),
            "]".repeat(50),
            "[".repeat(50),
            "]".repeat(50)
        ),
        "nested deeper",
    );
    check(&format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(1000)), "copied by aliases");
    check(&format!("filter_chains: [{}]", "{},".repeat(MAX_NODES)), "more than 500000 values");
    check(&" ".repeat(MAX_BYTES + 1), "more than the 8388608 allowed");
    check("name: a\n---\nname: b\n", "more than one document");
    check("&a {name: *a}", "alias to a value that is not complete");
    check("name: !!binary aGk=", "tag");
    check("? [a]\n: b\n", "a key must be a text");
    check("", "expected a map, found nothing");
}

#[test]
fn aliases_copy_values() {
    let listener: Listener =
        parse_as("name: &n a\nstat_prefix: *n\naddress: {socket_address: &s {address: b}}\n").unwrap();
    assert_eq!(listener.stat_prefix, "a");
}

#[test]
fn plain_scalars_follow_the_core_schema() {
    let check = |text: &str, expected: serde_json::Value| {
        assert_eq!(yaml::read(text).unwrap().to_value(), expected, "{text}");
    };
    for text in ["null", "~", "Null", ""] {
        check(text, json!(null));
    }
    check("[true, False, yes, on, 'true', !!str true]", json!([true, false, "yes", "on", "true", "true"]));
    check("[1, -1, +1, 0x1f, 0o17, 007]", json!([1, -1, 1, 31, 15, 7]));
    check("[18446744073709551615, -9223372036854775808]", json!([u64::MAX, i64::MIN]));
    check("[1.5, .5, 1., 1e3, -2.5E-1]", json!([1.5, 0.5, 1.0, 1000.0, -0.25]));
    check("[.inf, -.INF, .nan]", json!(["Infinity", "-Infinity", "NaN"]));
    check(
        "[1.2.3.4, 300s, 0x, 1e, ., 1e999, 0xg, e5, .e5]",
        json!(["1.2.3.4", "300s", "0x", "1e", ".", "1e999", "0xg", "e5", ".e5"]),
    );
    check("a: |\n  b\n  c\nd: >-\n  e\n  f\n", json!({"a": "b\nc\n", "d": "e f"}));
}

#[test]
fn written_text_reads_as_text() {
    let texts = [
        "",
        "~",
        "null",
        "NULL",
        "true",
        "False",
        "yes",
        "1",
        "-1",
        "+1",
        "007",
        "0x1f",
        "0o17",
        "1.5",
        ".5",
        "1.",
        "1e3",
        ".inf",
        "-.inf",
        ".NaN",
        "NaN",
        "a: b",
        "- a",
        "#a",
        "a #b",
        " a",
        "a ",
        "\t",
        "\n",
        "a\n",
        "a\r\nb",
        "!a",
        "&a",
        "*a",
        "<<",
        "=",
        "[a]",
        "{a}",
        "'a'",
        "\"a\"",
        "%a",
        "@a",
        "`a`",
        "---",
        "...",
        "?",
        "|",
        ">",
        "\u{feff}a",
        "\u{85}",
        "\u{2028}",
        "\0",
        "2001-01-01",
        "1_000",
        "0b11",
        "12:30:45",
    ];
    for text in texts {
        let listener = Listener { name: text.to_owned(), ..Default::default() };
        let yaml = to_yaml(&from_typed(&listener).unwrap()).unwrap();
        assert_eq!(parse_as::<Listener>(&yaml).unwrap().name, text, "{yaml}");
    }
}

#[test]
fn refuses_deep_values() {
    let mut value = json!({});
    for _ in 0..100 {
        value = json!([value]);
    }
    let Err(Problems(problems)) = to_dynamic(&listener(), &json!({ "name": value })) else {
        panic!("accepted")
    };
    assert_eq!(problems[0].reason, Reason::TooDeep);
}

#[test]
fn takes_messages_up_to_the_depth() {
    let nested = |levels| format!("{}{{any: true}}{}", "{not_rule: ".repeat(levels), "}".repeat(levels));
    let permission = type_named("config.rbac.v3.Permission");
    let parsed = parse(&permission, &nested(MAX_DEPTH - 1)).unwrap();
    let rules: Vec<_> =
        crate::pgv::validate(&parsed.message).iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, ["depth"]);
    let parsed = parse(&permission, &nested(60)).unwrap();
    assert_eq!(crate::pgv::validate(&parsed.message), []);
    assert_eq!(
        first_problem("config.rbac.v3.Permission", &nested(MAX_DEPTH)).matches("nested deeper").count(),
        1
    );
}

#[test]
fn takes_deep_structures() {
    let mut text = "1".to_owned();
    for level in 0..MAX_DEPTH - 10 {
        text = if level % 2 == 0 { format!("[{text}]") } else { format!("{{a: {text}}}") };
    }
    // The wire form of such values is two or three messages per level, and protobuf allows a hundred.
    let text = format!("{{metadata: {{filter_metadata: {{a: {{b: {text}}}}}}}}}");
    assert!(first_problem("config.listener.v3.Listener", &text).contains("recursion limit"));
}

#[test]
fn errors_do_not_show_secrets() {
    let text = "name: a\ntls_certificate: {private_key: {inline_bytes: '!!hunter2!!'}}\n";
    let found = first_problem("extensions.transport_sockets.tls.v3.Secret", text);
    assert!(!found.contains("hunter2"), "{found}");
    assert!(found.contains("tls_certificate.private_key.inline_bytes"), "{found}");
}

#[test]
fn errors_are_short() {
    let text = format!("traffic_direction: {}", "x".repeat(100_000));
    assert!(first_problem("config.listener.v3.Listener", &text).len() < 400);
    let text = format!("{{? {} : 1}}", "x".repeat(100_000));
    assert!(first_problem("config.listener.v3.Listener", &text).len() < 600);
}

#[test]
fn unknown_extension_cannot_be_written() {
    let listener = Listener {
        name: "a".to_owned(),
        listener_filters: vec![crate::envoy::config::listener::v3::ListenerFilter {
            config_type: Some(crate::envoy::config::listener::v3::listener_filter::ConfigType::TypedConfig(
                prost_types::Any { type_url: "type.googleapis.com/nothing".to_owned(), value: vec![1] },
            )),
            ..Default::default()
        }],
        ..Default::default()
    };
    let message = from_typed(&listener).unwrap();
    assert!(to_yaml(&message).is_err());
    assert!(to_json(&message).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_in_any_field_survives(
        name in any::<String>(),
        prefix in any::<String>(),
        number in any::<u32>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        key in any::<String>(),
    ) {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
        let value = json!({
            "name": name, "connect_timeout": format!("{number}s"),
            "alt_stat_name": prefix,
            "metadata": {"filter_metadata": {"": {key: prefix}}},
            "circuit_breakers": {"thresholds": [{"max_connections": number}]},
            "transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": prefix,
                "common_tls_context": {"validation_context": {"trusted_ca": {"inline_bytes": encoded}}},
            }},
        });
        let descriptor = type_named("config.cluster.v3.Cluster");
        let first = to_dynamic(&descriptor, &value).unwrap();
        let decoded = DynamicMessage::decode(descriptor.clone(), first.encode_to_vec().as_slice()).unwrap();
        let yaml = to_yaml(&decoded).unwrap();
        prop_assert!(parse(&descriptor, &yaml).map(|it| it.message) == Ok(first.clone()), "{}", yaml);
        let json = to_json(&decoded).unwrap().to_string();
        prop_assert!(parse(&descriptor, &json).map(|it| it.message) == Ok(first), "{}", json);
    }

    #[test]
    fn any_input_gets_an_answer(text in "[\\[\\]{}:,&*!'\"a@0-9 \n-]{0,80}") {
        let _ = parse(&listener(), &text);
    }
}
