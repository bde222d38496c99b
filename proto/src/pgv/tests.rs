use prost_reflect::{Kind, MapKey};

use super::*;
use crate::envoy::config::core::v3::HeaderValue;
use crate::generated::validate::FieldRules;
use crate::text;

/// The rules that a value breaks, with field rules written as in a `.proto` file.
fn broken(rules: &str, kind: &Kind, value: &Value) -> Vec<Violation> {
    let rules: FieldRules = text::parse_as(rules).unwrap();
    let mut walk = Walk::default();
    walk.value(value, &ValuePlan::read(&rules, kind));
    walk.violations
}

/// Asserts which rule a value breaks; `""` for none.
fn check_kind(rules: &str, kind: &Kind, value: &Value, expected: &str) {
    let found: Vec<_> = broken(rules, kind, value).iter().map(|violation| violation.rule).collect();
    assert_eq!(found.join(" "), expected, "{rules}");
}

fn check_text(rules: &str, value: &str, expected: &str) {
    check_kind(&format!("string: {{{rules}}}"), &Kind::String, &Value::String(value.into()), expected);
}

#[test]
fn judges_text() {
    check_text("const: a", "a", "");
    check_text("const: a", "b", "string.const");
    check_text("len: 2", "äö", "");
    check_text("len: 2", "a", "string.len");
    check_text("min_len: 2", "äö", "");
    check_text("min_len: 2", "ä", "string.min_len");
    check_text("max_len: 2", "äö", "");
    check_text("max_len: 2", "abc", "string.max_len");
    check_text("len_bytes: 2", "ä", "");
    check_text("len_bytes: 2", "a", "string.len_bytes");
    check_text("min_bytes: 2", "ä", "");
    check_text("min_bytes: 2", "a", "string.min_bytes");
    check_text("max_bytes: 2", "ä", "");
    check_text("max_bytes: 2", "äa", "string.max_bytes");
    check_text("pattern: '^[a-z]+$'", "abc", "");
    check_text("pattern: '^[a-z]+$'", "abc1", "string.pattern");
    check_text("pattern: '^[a-z]+$'", "abc\n", "string.pattern");
    check_text("pattern: '('", "abc", "string.pattern");
    check_text("prefix: /", "/a", "");
    check_text("prefix: /", "a/", "string.prefix");
    check_text("suffix: /", "a/", "");
    check_text("suffix: /", "/a", "string.suffix");
    check_text("contains: b", "abc", "");
    check_text("contains: b", "ac", "string.contains");
    check_text("not_contains: b", "ac", "");
    check_text("not_contains: b", "abc", "string.not_contains");
    check_text("in: [a, b]", "b", "");
    check_text("in: [a, b]", "c", "string.in");
    check_text("not_in: [a, b]", "c", "");
    check_text("not_in: [a, b]", "b", "string.not_in");
    check_text("min_len: 2, ignore_empty: true", "", "");
    check_text("min_len: 2, ignore_empty: true", "a", "string.min_len");
    check_text("min_len: 4, prefix: /", "a", "string.min_len string.prefix");
}

#[test]
fn judges_formats() {
    let check = |rule: &str, good: &[&str], bad: &[&str]| {
        let key = rule.split(':').next().unwrap();
        for text in good {
            check_text(rule, text, "");
        }
        for text in bad {
            assert_eq!(
                broken(&format!("string: {{{rule}}}"), &Kind::String, &Value::String((*text).into()))[0].rule,
                format!("string.{key}"),
                "{rule} {text:?}"
            );
        }
    };
    check("ip: true", &["127.0.0.1", "::1"], &["", "127.1", "a", "127.0.0.1:80"]);
    check("ipv4: true", &["127.0.0.1"], &["::1", "256.0.0.1"]);
    check("ipv6: true", &["::1", "fe80::1"], &["127.0.0.1", "[::1]"]);
    check("hostname: true", &["a", "a-b.example.org", "a."], &["", "-a", "a-", "a..b", "a_b", "ä"]);
    check("hostname: true", &[&"a".repeat(63)], &[&"a".repeat(64), &"a.".repeat(200)]);
    check("address: true", &["example.org", "10.0.0.1", "::1"], &["", "a b", "a:b"]);
    check("email: true", &["a.b+c@example.org"], &["a", "a@", "@a", "a b@c", ".a@b", "a@b_c"]);
    check(
        "uri: true",
        &["https://a/b?c#d", "urn:a", "spiffe://a/b"],
        &["", "/a", "a b:c", "1a:b", "a:%zz", "a:b c"],
    );
    check("uri_ref: true", &["", "/a", "a", "?a=b", "https://a", "#a"], &["a b", "%z", "1a:b", "a#b#c"]);
    check(
        "uuid: true",
        &["01234567-89ab-cdef-0123-456789ABCDEF"],
        &["", "0123456789abcdef0123456789abcdef", "0123456g-89ab-cdef-0123-456789abcdef"],
    );
    check("well_known_regex: HTTP_HEADER_NAME", &[":path", "x-a", "a,b"], &["", "a b", "a:b", "a\n", "ä"]);
    check("well_known_regex: HTTP_HEADER_VALUE", &["", "a b", "a\tb", "ä"], &["a\nb", "a\u{7f}", "\0"]);
    check("well_known_regex: HTTP_HEADER_NAME, strict: false", &["", "a b", "ä"], &["a\n", "a\r", "\0"]);
    check("well_known_regex: HTTP_HEADER_VALUE, strict: false", &["", "a\u{1}"], &["a\nb"]);
    check_text("ip: false", "a", "");
}

#[test]
fn judges_bytes() {
    let check = |rules: &str, value: &[u8], expected: &str| {
        let value = Value::Bytes(value.to_vec().into());
        check_kind(&format!("bytes: {{{rules}}}"), &Kind::Bytes, &value, expected);
    };
    check("const: YQ==", b"a", "");
    check("const: YQ==", b"b", "bytes.const");
    check("len: 1", b"a", "");
    check("len: 1", b"", "bytes.len");
    check("min_len: 1", b"a", "");
    check("min_len: 1", b"", "bytes.min_len");
    check("max_len: 1", b"a", "");
    check("max_len: 1", b"ab", "bytes.max_len");
    check("pattern: '^a+$'", b"aa", "");
    check("pattern: '^a+$'", b"a\xff", "bytes.pattern");
    check("prefix: YQ==", b"ab", "");
    check("prefix: YQ==", b"ba", "bytes.prefix");
    check("suffix: YQ==", b"ba", "");
    check("suffix: YQ==", b"ab", "bytes.suffix");
    check("contains: YQ==", b"bab", "");
    check("contains: YQ==", b"b", "bytes.contains");
    check("in: [YQ==]", b"a", "");
    check("in: [YQ==]", b"b", "bytes.in");
    check("not_in: [YQ==]", b"b", "");
    check("not_in: [YQ==]", b"a", "bytes.not_in");
    check("ip: true", &[0; 16], "");
    check("ip: true", &[0; 5], "bytes.ip");
    check("ipv4: true", &[0; 4], "");
    check("ipv4: true", &[0; 16], "bytes.ipv4");
    check("ipv6: true", &[0; 16], "");
    check("ipv6: true", &[0; 4], "bytes.ipv6");
    check("min_len: 1, ignore_empty: true", b"", "");
}

#[test]
fn judges_numbers_of_every_kind() {
    let kinds = [
        ("float", Kind::Float, Value::F32 as fn(f32) -> Value),
        ("double", Kind::Double, |number| Value::F64(number.into())),
        ("int32", Kind::Int32, |number| Value::I32(number as i32)),
        ("int64", Kind::Int64, |number| Value::I64(number as i64)),
        ("uint32", Kind::Uint32, |number| Value::U32(number as u32)),
        ("uint64", Kind::Uint64, |number| Value::U64(number as u64)),
        ("sint32", Kind::Sint32, |number| Value::I32(number as i32)),
        ("sint64", Kind::Sint64, |number| Value::I64(number as i64)),
        ("fixed32", Kind::Fixed32, |number| Value::U32(number as u32)),
        ("fixed64", Kind::Fixed64, |number| Value::U64(number as u64)),
        ("sfixed32", Kind::Sfixed32, |number| Value::I32(number as i32)),
        ("sfixed64", Kind::Sfixed64, |number| Value::I64(number as i64)),
    ];
    for (name, kind, to_value) in kinds {
        let check = |rules: &str, number: f32, expected: &str| {
            let expected = if expected.is_empty() { String::new() } else { format!("{name}.{expected}") };
            check_kind(&format!("{name}: {{{rules}}}"), &kind, &to_value(number), &expected);
        };
        check("const: 3", 3.0, "");
        check("const: 3", 4.0, "const");
        check("lt: 3", 2.0, "");
        check("lt: 3", 3.0, "lt");
        check("lte: 3", 3.0, "");
        check("lte: 3", 4.0, "lte");
        check("gt: 3", 4.0, "");
        check("gt: 3", 3.0, "gt");
        check("gte: 3", 3.0, "");
        check("gte: 3", 2.0, "gte");
        check("gte: 3, lt: 5", 4.0, "");
        check("gte: 3, lt: 5", 5.0, "lt");
        check("gte: 3, lt: 5", 2.0, "gte");
        // The upper bound below the lower one: outside.
        check("lt: 3, gt: 5", 2.0, "");
        check("lt: 3, gt: 5", 6.0, "");
        check("lt: 3, gt: 5", 4.0, "gt");
        check("lte: 3, gte: 5", 4.0, "gte");
        check("in: [1, 2]", 2.0, "");
        check("in: [1, 2]", 3.0, "in");
        check("not_in: [1, 2]", 3.0, "");
        check("not_in: [1, 2]", 2.0, "not_in");
        check("gt: 3, ignore_empty: true", 0.0, "");
        check("gt: 3, ignore_empty: true", 1.0, "gt");
    }
    check_kind("uint64: {lt: 18446744073709551615}", &Kind::Uint64, &Value::U64(u64::MAX), "uint64.lt");
    check_kind("double: {lte: 1}", &Kind::Double, &Value::F64(f64::NAN), "double.lte");
}

#[test]
fn judges_bools_and_enums() {
    check_kind("bool: {const: true}", &Kind::Bool, &Value::Bool(true), "");
    check_kind("bool: {const: true}", &Kind::Bool, &Value::Bool(false), "bool.const");
    let kind = Kind::Enum(POOL.get_enum_by_name("envoy.config.core.v3.TrafficDirection").unwrap());
    let check = |rules: &str, number: i32, expected: &str| {
        check_kind(&format!("enum: {{{rules}}}"), &kind, &Value::EnumNumber(number), expected);
    };
    check("defined_only: true", 2, "");
    check("defined_only: true", 3, "enum.defined_only");
    check("defined_only: false", 3, "");
    check("const: 1", 1, "");
    check("const: 1", 2, "enum.const");
    check("in: [1]", 1, "");
    check("in: [1]", 2, "enum.in");
    check("not_in: [1]", 2, "");
    check("not_in: [1]", 1, "enum.not_in");
}

/// Reads a value of a message type.
fn message(name: &str, text: &str) -> DynamicMessage {
    text::parse(&text::descriptor(name).unwrap(), text).unwrap().message
}

#[test]
fn judges_times_wrappers_and_extensions() {
    let check = |rules: &str, name: &str, text: &str, expected: &str| {
        let name = format!("google.protobuf.{name}");
        let kind = Kind::Message(text::descriptor(&name).unwrap());
        check_kind(rules, &kind, &Value::Message(message(&name, text)), expected);
    };
    let hour = "1970-01-01T01:00:00Z";
    check("duration: {const: 1s}", "Duration", "1s", "");
    check("duration: {const: 1s}", "Duration", "1.000000001s", "duration.const");
    check("duration: {gt: 0s}", "Duration", "0.000000001s", "");
    check("duration: {gt: 0s}", "Duration", "0s", "duration.gt");
    check("duration: {gt: 0s}", "Duration", "-1s", "duration.gt");
    check("duration: {gte: 0.001s}", "Duration", "0.001s", "");
    check("duration: {gte: 0.001s}", "Duration", "0.0009s", "duration.gte");
    check("duration: {lt: 1s}", "Duration", "1s", "duration.lt");
    check("duration: {lte: 1s}", "Duration", "1s", "");
    check("duration: {in: [1s, 2s]}", "Duration", "3s", "duration.in");
    check("duration: {not_in: [1s, 2s]}", "Duration", "2s", "duration.not_in");
    check("timestamp: {gt: '1970-01-01T00:00:00Z'}", "Timestamp", hour, "");
    check("timestamp: {lt: '1970-01-01T00:00:00Z'}", "Timestamp", hour, "timestamp.lt");
    check("timestamp: {const: '1970-01-01T00:00:00Z'}", "Timestamp", hour, "timestamp.const");
    check("uint32: {lte: 3}", "UInt32Value", "3", "");
    check("uint32: {lte: 3}", "UInt32Value", "4", "uint32.lte");
    check("string: {min_len: 1}", "StringValue", "''", "string.min_len");
    check("bool: {const: true}", "BoolValue", "false", "bool.const");
    check("bytes: {min_len: 1}", "BytesValue", "''", "bytes.min_len");
    let any = "{'@type': type.googleapis.com/google.protobuf.Duration, value: 1s}";
    check("any: {in: [type.googleapis.com/google.protobuf.Duration]}", "Any", any, "");
    check("any: {in: [type.googleapis.com/google.protobuf.Empty]}", "Any", any, "any.in");
    check("any: {not_in: [type.googleapis.com/google.protobuf.Duration]}", "Any", any, "any.not_in");
    check("any: {not_in: [type.googleapis.com/google.protobuf.Empty]}", "Any", any, "");
}

#[test]
fn judges_lists_and_maps() {
    let list = |rules: &str, items: &[u32]| {
        let rules: FieldRules = text::parse_as(rules).unwrap();
        // Any list field serves: the rules are the test's.
        let field = text::descriptor("google.protobuf.FileDescriptorProto").unwrap();
        let field = field.get_field_by_name("public_dependency").unwrap();
        let Shape::List { bounds, .. } = Shape::read(&field, &rules) else { panic!("not a list") };
        let items: Vec<_> = items.iter().map(|item| Value::U32(*item)).collect();
        bounds.list(&items).iter().map(|broken| broken.rule).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list("repeated: {min_items: 1}", &[1]), "");
    assert_eq!(list("repeated: {min_items: 1}", &[]), "repeated.min_items");
    assert_eq!(list("repeated: {min_items: 2, ignore_empty: true}", &[]), "");
    assert_eq!(list("repeated: {min_items: 2, ignore_empty: true}", &[1]), "repeated.min_items");
    assert_eq!(list("repeated: {max_items: 1}", &[1]), "");
    assert_eq!(list("repeated: {max_items: 1}", &[1, 2]), "repeated.max_items");
    assert_eq!(list("repeated: {unique: true}", &[1, 2]), "");
    assert_eq!(list("repeated: {unique: true}", &[1, 2, 1]), "repeated.unique");

    let map = |rules: &str, pairs: usize| {
        let rules: FieldRules = text::parse_as(rules).unwrap();
        let field = text::descriptor("envoy.config.core.v3.Metadata").unwrap();
        let field = field.get_field_by_name("filter_metadata").unwrap();
        let Shape::Map { bounds, .. } = Shape::read(&field, &rules) else { panic!("not a map") };
        bounds.pairs(pairs).iter().map(|broken| broken.rule).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(map("map: {min_pairs: 1}", 1), "");
    assert_eq!(map("map: {min_pairs: 1, no_sparse: true}", 0), "map.min_pairs");
    assert_eq!(map("map: {min_pairs: 1, ignore_empty: true}", 0), "");
    assert_eq!(map("map: {max_pairs: 1}", 2), "map.max_pairs");
}

/// Paths and rules that a message of Envoy breaks.
fn check_message(name: &str, text: &str, expected: &[(&str, &str)]) {
    let found = validate(&message(&format!("envoy.{name}"), text));
    let found: Vec<_> = found.iter().map(|violation| (violation.path.as_str(), violation.rule)).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn judges_messages_of_envoy() {
    let check = check_message;
    check("config.core.v3.SocketAddress", "{address: a, port_value: 65535}", &[]);
    check(
        "config.core.v3.SocketAddress",
        "{port_value: 65536}",
        &[("address", "string.min_len"), ("port_value", "uint32.lte")],
    );
    check("config.core.v3.SocketAddress", "{address: a}", &[("port_specifier", "oneof.required")]);
    check("config.core.v3.Address", "{}", &[("address", "oneof.required")]);
    check(
        "config.listener.v3.Listener",
        "{filter_chains: [{}, {filters: [{name: a}, {}]}]}",
        &[("filter_chains[1].filters[1].name", "string.min_len")],
    );
    // An unset member of a oneof is not required, an unset message is.
    check("config.core.v3.TypedExtensionConfig", "{name: a}", &[("typed_config", "message.required")]);
    check(
        "config.core.v3.ExtensionConfigSource",
        "{}",
        &[("config_source", "message.required"), ("type_urls", "repeated.min_items")],
    );
    check(
        "config.core.v3.Metadata",
        "{filter_metadata: {'': {}}}",
        &[("filter_metadata[]", "string.min_len")],
    );
    check("type.v3.Percent", "{value: -0.5}", &[("value", "double.gte")]);
    check(
        "config.cluster.v3.Cluster",
        "{name: a, connect_timeout: 0s}",
        &[("connect_timeout", "duration.gt")],
    );
    check("config.cluster.v3.Cluster", "{name: a, lb_policy: 6}", &[]);
    check("config.cluster.v3.Cluster", "{name: a, lb_policy: 99}", &[("lb_policy", "enum.defined_only")]);
    // A principal in a list, of a message in a map, recursive.
    check(
        "config.rbac.v3.RBAC",
        "{policies: {a: {permissions: [{any: true}], principals: [{not_id: {any: false}}]}, \
          b: {permissions: [], principals: [{}]}}}",
        &[
            ("policies[a].principals[0].not_id.any", "bool.const"),
            ("policies[b].permissions", "repeated.min_items"),
            ("policies[b].principals[0].identifier", "oneof.required"),
        ],
    );
}

#[test]
fn looks_into_extensions() {
    let any = |inner: &str| format!("{{name: a, typed_config: {inner}}}");
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                   HttpConnectionManager";
    check_message(
        "config.listener.v3.Filter",
        &any(&format!(
            "{{'@type': {manager}, rds: {{route_config_name: a, config_source: {{ads: {{}}}}}}, http_filters: \
             [{{typed_config: {{'@type': {manager}, stat_prefix: a, http_filters: [{{}}]}}}}]}}"
        )),
        &[
            ("typed_config.stat_prefix", "string.min_len"),
            ("typed_config.http_filters[0].name", "string.min_len"),
            ("typed_config.http_filters[0].typed_config.http_filters[0].name", "string.min_len"),
            ("typed_config.http_filters[0].typed_config.route_specifier", "oneof.required"),
        ],
    );
}

#[test]
fn refuses_unknown_and_broken_extensions() {
    let check = |url: &str, value: &[u8], expected: &str| {
        let any = Any { type_url: url.to_owned(), value: value.to_vec() };
        assert_eq!(validate_any(&any).iter().map(|it| it.rule).collect::<Vec<_>>(), [expected], "{url}");
    };
    check("", b"", "any.type");
    check("type.googleapis.com/envoy.Nothing", b"", "any.type");
    check("envoy.config.listener.v3.Listener", b"", "any.type");
    check("type.googleapis.com/envoy.config.listener.v3.Listener", b"\xff", "any.value");
}

#[test]
fn stops_at_a_depth() {
    let mut any = Any { type_url: "type.googleapis.com/google.protobuf.Empty".to_owned(), value: vec![] };
    for _ in 0..1000 {
        any = Any::from_msg(&any).unwrap();
    }
    let found = validate_any(&any);
    assert_eq!(found.iter().map(|violation| violation.rule).collect::<Vec<_>>(), ["depth"]);
}

#[test]
fn stops_at_a_number_of_violations() {
    let text = format!("{{filters: [{}]}}", "{},".repeat(5000));
    assert_eq!(validate(&message("envoy.config.listener.v3.FilterChain", &text)).len(), MAX_VIOLATIONS);
}

#[test]
fn judges_generated_types() {
    assert_eq!(validate_typed(&HeaderValue { key: "a".to_owned(), ..Default::default() }), []);
    let found = validate_typed(&HeaderValue::default());
    assert_eq!(found[0].to_string(), "key: must have at least 1 character, found \"\" (string.min_len)");
}

#[test]
fn violations_do_not_show_secrets() {
    let rules: FieldRules = text::parse_as("string: {prefix: x}").unwrap();
    let mut walk = Walk { secret: true, ..Walk::default() };
    walk.value(&Value::String("hunter2".into()), &ValuePlan::read(&rules, &Kind::String));
    assert_eq!(walk.violations[0].value, "[redacted]");
    let certificate = text::descriptor("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").unwrap();
    let plan = plan::of(&certificate).unwrap();
    assert!(plan.fields.iter().any(|field| field.field.name() == "private_key" && field.secret));
}

#[test]
fn every_rule_of_envoy_is_understood() {
    let mut count = 0;
    let mut check = |at: &str, plan: &ValuePlan, kind: &Kind| {
        let Some(rules) = &plan.check else { return };
        count += 1;
        assert!(rules.is_sound_for(kind), "{at}");
    };
    for message in POOL.all_messages().filter(|message| message.full_name().starts_with("envoy.")) {
        let Some(plan) = plan::of(&message) else { continue };
        for field in &plan.fields {
            let (at, kind) = (field.field.full_name(), field.field.kind());
            match &field.shape {
                Shape::Single => check(at, &field.value, &kind),
                Shape::List { items, .. } => check(at, items, &kind),
                Shape::Map { keys, values, .. } => {
                    let entry = kind.as_message().unwrap();
                    check(at, keys, &entry.map_entry_key_field().kind());
                    check(at, values, &entry.map_entry_value_field().kind());
                }
            }
        }
    }
    assert!(count > 850, "{count}");
}

#[test]
fn map_keys_stand_in_paths() {
    assert_eq!(check::key_text(&MapKey::Bool(true)), "true");
    assert_eq!(check::key_text(&MapKey::I64(-1)), "-1");
    assert_eq!(check::key_text(&MapKey::String("a.b".into())), "a.b");
}
