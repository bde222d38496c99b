use std::os::unix::ffi::OsStringExt;

use super::*;

fn problems(text: &str) -> Vec<String> {
    match parse("credence.yaml", text, &[], Path::new("/x"), false) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn absent_keys_have_safe_defaults() {
    let config = parse("credence.yaml", "trust_domain: td", &[], Path::new("/x"), false).unwrap();
    assert!(config.own_addresses().iter().all(|address| address.ip().is_loopback()));
    assert_eq!(config.grpc.port, 18000);
    assert_eq!(config.default_mtls, DefaultMtls::Strict);
    assert_eq!(config.kek, Some(crate::config::KekSource::File("/x/credence.kek".into())));
    assert_eq!(config.max_connection, Duration::from_secs(3600));
    assert_eq!(config.lifetimes.leaf, Duration::from_secs(12 * 3600));
}

#[test]
fn the_file_that_init_writes_reads_back() {
    let config = parse("a", "trust_domain: td", &[], Path::new("/x"), false).unwrap();
    assert_eq!(parse("b", &config.to_yaml(), &[], Path::new("/y"), false), Ok(config.clone()));
    let lists = Config { revocation_lists: Some(Duration::from_secs(8 * 86_400)), ..config };
    assert_eq!(parse("b", &lists.to_yaml(), &[], Path::new("/y"), false), Ok(lists));
}

#[test]
fn all_problems_come_at_once_with_their_places() {
    let text = "trust_domain: Prod.Example\nserver:\n  grpc:\n    prot: 1\n    tls: {enabled: false}\n  rest: {port: 70000}\nsecurity: {auth: {type: jwt}}\nstorage: {type: postgres}\nca: {leaf_lifetime: 12s}\n";
    assert_eq!(
        problems(text),
        [
            "trust domain \"Prod.Example\" has capital letters (credence.yaml:1:15, trust_domain)",
            "xDS is served over mutual TLS only; it cannot be switched off (credence.yaml:5:20, server.grpc.tls.enabled)",
            "unknown key \"prot\" (credence.yaml:4:5, server.grpc.prot)",
            "a port is a number from 0 to 65535 (credence.yaml:6:16, server.rest.port)",
            "storage type postgres is known, not in this version (credence.yaml:8:17, storage.type)",
            "12s is outside 10m to 1d (credence.yaml:9:21, ca.leaf_lifetime)",
            "security is known, not in this version (credence.yaml:7:1, security)",
        ]
    );
}

#[test]
fn an_authority_that_does_not_outlive_its_leaves_is_refused_with_the_numbers() {
    let check = |ca: &str, dev: bool, expected: &[&str]| {
        let text = format!("trust_domain: td\nca: {ca}");
        let read = parse("c.yaml", &text, &[], Path::new("/x"), dev);
        let problems: Vec<String> = read.err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert_eq!(problems, expected, "{ca}");
    };
    let short =
        "4d23h is less than 6 x the 20h of ca.leaf_lifetime, which is 5d (c.yaml, ca.issuing_lifetime)";
    let lives = "{leaf_lifetime: 20h, node_lifetime: 1h, issuing_lifetime: 119h59m}";
    for dev in [false, true] {
        check(lives, dev, &[short]);
        check("{leaf_lifetime: 20h, node_lifetime: 1h, issuing_lifetime: 5d}", dev, &[]);
    }
    check(
        "{leaf_lifetime: 10s, node_lifetime: 20s, server_lifetime: 5s, issuing_lifetime: 2m, root_lifetime: 3m}",
        true,
        &["3m is less than 2 x the 2m of ca.issuing_lifetime, which is 4m (c.yaml, ca.root_lifetime)"],
    );
}

#[test]
fn revocation_lists_are_an_opt_in_and_outlive_two_leaves() {
    let check = |ca: &str, dev: bool, expected: Result<Option<u64>, &str>| {
        let text = format!("trust_domain: td\nca: {ca}");
        let read = parse("c.yaml", &text, &[], Path::new("/x"), dev);
        let read = read.map(|config| config.revocation_lists.map(|life| life.as_secs()));
        let read = read.map_err(|problems| problems[0].to_string());
        assert_eq!(read, expected.map_err(str::to_owned), "{ca}");
    };
    let week = 7 * 86_400;
    check("{}", false, Ok(None));
    check("{revocation_list_lifetime: 8d}", false, Ok(None));
    check("{revocation_lists: true}", false, Ok(Some(week)));
    check("{revocation_lists: true, revocation_list_lifetime: 8d}", false, Ok(Some(8 * 86_400)));
    let short = "6d is outside 7d to 30d (c.yaml:2:56, ca.revocation_list_lifetime)";
    check("{revocation_lists: true, revocation_list_lifetime: 6d}", false, Err(short));
    check("{revocation_lists: true, revocation_list_lifetime: 1d}", true, Ok(Some(86_400)));
    let short = "10s is outside 20s to 30d (c.yaml:2:76, ca.revocation_list_lifetime)";
    let text = "{leaf_lifetime: 10s, revocation_lists: true, revocation_list_lifetime: 10s}";
    check(text, true, Err(short));
    let wrong = "expected true or false (c.yaml:2:24, ca.revocation_lists)";
    check("{revocation_lists: on-demand}", false, Err(wrong));
}

#[test]
fn a_log_level_is_one_and_a_misspelt_one_is_said_and_not_silence() {
    for level in ["info", "WARN", "off", "credence_xds=debug,info", "server::app=trace"] {
        let text = format!("trust_domain: td\nobservability: {{logging: {{level: \"{level}\"}}}}");
        assert_eq!(parse("f", &text, &[], Path::new("/"), false).unwrap().log_level, level);
        assert!(tracing_subscriber::EnvFilter::builder().parse(level).is_ok());
    }
    let refused = |level: &str, words: &str, hint: &str| {
        let text = format!("trust_domain: td\nobservability: {{logging: {{level: \"{level}\"}}}}");
        let problems = parse("f", &text, &[], Path::new("/"), false).unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            format!("{words} is no log level (f:2:34, observability.logging.level)")
        );
        assert!(problems[0].hint.as_ref().unwrap().contains(hint), "{problems:?}");
    };
    refused("warning", "\"warning\"", "did you mean \"warn\"");
    refused("verbose", "\"verbose\"", "error, warn, info");
    refused("credence_xds", "\"credence_xds\"", "credence_xds=debug");
    refused("credence_xds=foo,info", "\"foo\"", "debug");
    refused("=info", "\"=info\"", "info");
    refused("info,", "\"\"", "error, warn");
}

#[test]
fn two_doors_are_not_at_one_place() {
    let check = |text: &str, expected: &[&str]| {
        let text = format!("trust_domain: td\n{text}");
        let read = parse("f", &text, &[], Path::new("/"), false);
        let problems: Vec<String> = read.err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert_eq!(problems, expected, "{text}");
    };
    check("enrolment: {port: 18000}", &["port 18000 is that of server.grpc as well (f, enrolment.port)"]);
    check("enrolment: {port: 18000, address: 127.0.0.2}", &[]);
    check(
        "enrolment: {port: 8080, address: 0.0.0.0}",
        &["port 8080 is that of server.rest as well (f, enrolment.port)"],
    );
    check("enrolment: {port: 8080, address: 0.0.0.0}\nserver: {rest: {address: \"::1\"}}", &[]);
    check(
        "enrolment: {port: 8080, address: \"::\"}",
        &["port 8080 is that of server.rest as well (f, enrolment.port)"],
    );
    check("server: {grpc: {port: 0}, rest: {port: 0}}", &[]);
    check("server: {grpc: {port: 9090}}\nobservability: {metrics: {enabled: false}}", &[]);
}

#[test]
fn a_server_has_a_name() {
    let read = parse("f", "trust_domain: td\nserver:\n  names: []\n", &[], Path::new("/"), false);
    let problems = read.unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "the list is empty: whoever calls by a name could not tell whom it reaches (f:3:10, server.names)"
    );
    let read = parse("f", "trust_domain: td\nserver:\n  names: [a.example]\n", &[], Path::new("/"), false);
    assert_eq!(read.unwrap().names, ["a.example"]);
}

#[test]
fn the_environment_overlays_the_file() {
    let overlay = environment(
        [("CREDENCE_SERVER__GRPC__PORT", "19000"), ("CREDENCE_LIMBO_JSON", "x"), ("HOME", "/")]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    let config =
        parse("f", "trust_domain: td\nserver: {grpc: {port: 1}}", &overlay, Path::new("/"), false).unwrap();
    assert_eq!(config.grpc.port, 19000);
    let overlay = vec![("CREDENCE_SERVER__GRPC__PORT".to_owned(), "many".into())];
    let problems = parse("f", "trust_domain: td", &overlay, Path::new("/"), false).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "a port is a number from 0 to 65535 (CREDENCE_SERVER__GRPC__PORT, server.grpc.port)"
    );
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_by_name_if_it_is_ours_and_nothing_to_us_else() {
    let odd = || OsString::from_vec(vec![b'x', 0xff]);
    let overlay = environment(
        [
            ("LESS_TERMCAP".into(), odd()),
            (odd(), "x".into()),
            ("CREDENCE_SERVER__GRPC__PORT".into(), odd()),
            (OsString::from_vec(b"CREDENCE_SERVER__\xff".to_vec()), "1".into()),
        ]
        .into_iter(),
    );
    let problems = parse("f", "trust_domain: td", &overlay, Path::new("/"), false).unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let [value, name] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(value, "the value is not UTF-8 (CREDENCE_SERVER__GRPC__PORT, server.grpc.port)");
    assert!(name.contains("CREDENCE_SERVER__\u{fffd}"), "{name}");
}

#[test]
fn development_mode_stays_on_loopback() {
    let text = "trust_domain: td\nserver: {grpc: {address: 0.0.0.0}}";
    assert!(parse("f", text, &[], Path::new("/"), false).is_ok());
    assert!(parse("f", text, &[], Path::new("/"), true).is_err());
}
