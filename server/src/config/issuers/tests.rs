use std::path::Path;

use super::*;
use crate::config::parse;

fn read(issuers: &str) -> Result<Config, Vec<String>> {
    let text = format!("trust_domain: td\n{issuers}\n");
    parse("f", &text, &[], Path::new("/x"), false)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// A Vault with `login`, and `more` beside it.
fn vault(login: &str, more: &str) -> String {
    format!(
        "issuers:\n  - name: corp\n    vault: {{addresses: [\"https://vault.example\"], ca_file: /ca.pem, issuer: i-1, \
         trust_anchor: root.pem, login: {{{login}}}{more}}}"
    )
}

fn acme(more: &str) -> String {
    format!(
        "issuers: [{{name: le, acme: {{directory: \"https://acme.example/d\", ca_file: /ca.pem{more}}}}}]"
    )
}

fn the_vault(issuers: &str) -> (VaultSettings, AnchorConfig) {
    let config = read(issuers).unwrap_or_else(|problems| panic!("{issuers}: {problems:?}"));
    assert_eq!(parse("g", &config.to_yaml(), &[], Path::new("/y"), false).as_ref(), Ok(&config), "{issuers}");
    match &config.issuers.unwrap()[0].kind {
        IssuerKind::Vault { vault, anchor, .. } => (vault.clone(), anchor.clone()),
        IssuerKind::Acme(acme) => panic!("{acme:?}"),
    }
}

#[test]
fn without_the_section_nothing_is_said_and_an_empty_one_says_that_there_is_none() {
    assert_eq!(read("").unwrap().issuers, None);
    for none in ["issuers: []", "issuers: [{name: builtin, type: builtin}]"] {
        let config = read(none).unwrap();
        assert_eq!(config.issuers.as_deref(), Some([].as_slice()), "{none}");
        assert_eq!(parse("g", &config.to_yaml(), &[], Path::new("/y"), false), Ok(config));
    }
}

#[test]
fn an_issuer_says_what_its_command_takes_and_no_secret() {
    let (found, anchor) = the_vault(&vault("method: token", ""));
    assert_eq!(found.addresses, ["https://vault.example:443"]);
    assert_eq!((found.mount.as_str(), found.issuer.as_str(), &found.role), ("pki", "i-1", &None));
    assert_eq!(found.lifetime, Duration::from_secs(30 * 86_400), "as issuing authorities live here");
    assert_eq!(anchor, AnchorConfig::File("/x/root.pem".into()));
    let (found, _) = the_vault(&vault("method: token", ", mount: a/b, namespace: team/, lifetime: 93784s"));
    assert_eq!((found.mount.as_str(), found.namespace.as_deref()), ("a/b", Some("team")));
    assert_eq!(found.lifetime, Duration::from_secs(93_784), "to the second");
    let hash = "ab".repeat(32);
    let named = vault("method: token", ", role: svid").replace("root.pem", &format!("\"sha256:{hash}\""));
    let (found, anchor) = the_vault(&named);
    assert_eq!((found.role.as_deref(), anchor), (Some("svid"), AnchorConfig::Sha256([0xab; 32])));

    let check = |login: &str, expected: VaultLogin| {
        assert_eq!(the_vault(&vault(login, "")).0.login, expected, "{login}");
    };
    let text = str::to_owned;
    check(
        "method: approle, role_id: \"4711\"",
        VaultLogin::AppRole { mount: text("approle"), role_id: text("4711") },
    );
    check(
        "method: certificate, chain_file: /c, key_file: /k",
        VaultLogin::Certificate { mount: text("cert"), role: None, chain: "/c".into(), key: "/k".into() },
    );
    check(
        "method: jwt, mount: a/jwt, role: r, token_file: /t",
        VaultLogin::Jwt { mount: text("a/jwt"), role: text("r"), file: "/t".into() },
    );
    check(
        "method: kubernetes, role: r",
        VaultLogin::Kubernetes {
            mount: text("kubernetes"),
            role: text("r"),
            file: SERVICE_ACCOUNT_TOKEN.into(),
        },
    );

    let config =
        read(&acme(", contacts: [\"mailto:a@b\"], agree_terms: t, external_key_id: k, profile: p")).unwrap();
    assert_eq!(parse("g", &config.to_yaml(), &[], Path::new("/y"), false).as_ref(), Ok(&config));
    let IssuerKind::Acme(found) = &config.issuers.as_ref().unwrap()[0].kind else { panic!("{config:?}") };
    assert_eq!(
        (found.contacts.as_slice(), found.external.as_deref()),
        (["mailto:a@b".to_owned()].as_slice(), Some("k"))
    );
}

#[test]
fn refuses_what_says_too_much_or_too_little_each_at_its_place() {
    let check = |issuers: &str, expected: &str| {
        let problems = read(issuers).err().unwrap_or_default();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{issuers}: {problems:?}");
    };
    check("issuers:", "expected a list, found nothing");
    check("issuers: {}", "expected a list, found a map");
    check("issuers: [{acme: {}}]", "name is missing (f:2:11, issuers[0].name)");
    check("issuers: [{name: corp}]", "nothing says what this issuer is");
    check("issuers: [{name: corp, type: vault}]", "does not fit");
    check("issuers: [{name: corp, type: step}]", "unknown issuer type \"step\"");
    check(&acme("").replace("name: le", "name: le, vault: {}"), "one of vault and acme");
    check(&acme("").replace("name: le", "name: builtin"), "always there");
    check(&acme("").replace("name: le", "name: L E"), "issuers[0].name");
    check(&acme(", external_key: abc"), "unknown key \"external_key\"");
    check(&acme(", contacts: mailto:a@b"), "expected a list");
    check(&acme("").replace("/ca.pem", "ca.pem"), "ca.pem is not absolute");
    check(&acme("").replace("directory: \"https://acme.example/d\", ", ""), "directory is missing");
    let twice = acme("").replace("[{", "[{name: le, acme: {directory: \"https://d\", ca_file: /c}}, {");
    check(&twice, "two issuers have the name le");
    let issuer = vault("method: token", "");
    check(&issuer.replace("https", "http"), "is not https");
    check(&issuer.replace("issuer: i-1, ", ""), "issuer is missing");
    check(&issuer.replace("trust_anchor: root.pem, ", ""), "trust_anchor is missing");
    check(&issuer.replace("root.pem", "\"sha256:abc\""), "64 hexadecimal digits");
    check(&vault("method: token", ", lifetime: 30"), "expected a text");
    check(&vault("method: token", ", lifetime: 5s"), "no duration of a minute or more");
    check(&vault("method: token", ", role: svid, lifetime: 1d"), "signs leaves");
    check(&vault("method: token", ", credential: hvs"), "unknown key \"credential\"");
    check(&vault("", ""), "method is missing");
    check(&vault("method: ldap, user: a", ""), "unknown method \"ldap\"");
    check(&vault("method: token, token: hvs", ""), "unknown key \"token\" (f:4:");
    check(&vault("method: approle", ""), "role_id is missing");
    check(&vault("method: approle, role_id: r, secret_id: s", ""), "unknown key \"secret_id\"");
    check(&vault("method: jwt, role: r", ""), "token_file is missing");
    check(&vault("method: kubernetes", ""), "role is missing");
    check(&vault("method: certificate, chain_file: c, key_file: /k", ""), "c is not absolute");
}

#[test]
fn the_example_of_the_reference_reads() {
    let page = include_str!("../../../../docs/reference/configuration.md");
    let example = page.split("```yaml\n").find(|block| block.starts_with("issuers:")).unwrap();
    let config = read(example.split("```").next().unwrap()).unwrap();
    assert_eq!(config.issuers.map(|issuers| issuers.len()), Some(2));
}
