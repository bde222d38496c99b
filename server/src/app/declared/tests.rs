use std::time::Duration;

use api::ports::AcmeSettings;
use certs::{Clock, Timestamp};
use fixtures::TestAuthority;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::{clock::SystemClock, config::parse};

fn name(text: &str) -> IssuerName {
    IssuerName::parse(text).unwrap()
}

fn root() -> Certificate {
    Certificate::from_der(TestAuthority::root("td", SystemClock.now()).der()).unwrap()
}

fn settings() -> VaultSettings {
    VaultSettings {
        addresses: vec!["https://vault.example:8200".into()],
        ca_file: "/ca.pem".into(),
        namespace: None,
        mount: "pki".into(),
        issuer: "i-1".into(),
        role: None,
        lifetime: Duration::from_secs(30 * 86_400),
        login: VaultLogin::AppRole { mount: "approle".into(), role_id: "our role".into() },
    }
}

fn kept(called: &str, vault: VaultSettings, root: &Certificate) -> Issuer {
    let at = Timestamp::from_unix_secs(0);
    Issuer {
        name: name(called),
        vault,
        anchor: root.clone(),
        signer: root.clone(),
        generation: 0,
        earlier: vec![],
        fallback: None,
        created: at,
        updated: at,
        version: 1,
    }
}

fn server() -> AcmeSettings {
    AcmeSettings {
        directory: "https://acme.example/d".into(),
        ca_file: "/ca.pem".into(),
        contacts: vec!["mailto:a@b".into()],
        agreed: None,
        external: None,
        profile: None,
    }
}

fn account(called: &str, acme: AcmeSettings) -> AcmeIssuer {
    let at = Timestamp::from_unix_secs(0);
    AcmeIssuer {
        name: name(called),
        acme,
        account: None,
        is_changing_key: false,
        created: at,
        updated: at,
        version: 1,
    }
}

/// What differs between a section and a store.
fn compared(issuers: &[IssuerConfig], held: &Held) -> Vec<Difference> {
    let declared: Vec<Declared<'_>> = issuers
        .iter()
        .map(|issuer| Declared {
            issuer,
            anchor: fingerprint(issuer).unwrap_or_else(|error| panic!("{error:?}")),
        })
        .collect();
    differences(&declared, held)
}

/// One difference, with everything that its words must have in them; or none.
fn check(what: &str, issuers: &[IssuerConfig], held: &Held, expected: &[&[&str]]) {
    let found = compared(issuers, held);
    let texts: Vec<String> = found.iter().map(|one| format!("{}\n{}", one.message, one.hint)).collect();
    assert_eq!(found.len(), expected.len(), "{what}: {texts:#?}");
    for (text, words) in texts.iter().zip(expected) {
        for word in *words {
            assert!(text.contains(word), "{what}: {word:?} is not in\n{text}");
        }
    }
}

type Change<'a> = &'a dyn Fn(&mut VaultSettings);

#[test]
fn each_difference_is_named_with_the_command_that_ends_it() {
    let root = root();
    let hash = format!("sha256:{}", hex::encode(root.fingerprint()));
    let vault = |vault: VaultSettings| IssuerConfig {
        name: name("corp"),
        ..as_declared(&kept("corp", vault, &root))
    };
    let with = |change: &dyn Fn(&mut VaultSettings)| {
        let mut changed = settings();
        change(&mut changed);
        vault(changed)
    };
    let same = [with(&|_| {})];
    let store = || Held { vaults: vec![kept("corp", settings(), &root)], ..Held::default() };
    check("nothing on either side", &[], &Held::default(), &[]);
    check("equal", &same, &store(), &[]);
    let spelled = with(&|vault| vault.addresses = vec!["https://VAULT.example:8200/".into()]);
    check("another spelling of an address", &[spelled], &store(), &[]);

    let add = "credence issuer add vault corp --addr https://vault.example:8200 --ca-file /ca.pem --mount pki \
               --issuer i-1 --lifetime 30d --trust-anchor ROOT_PEM_FILE --login approle --login-mount approle \
               --role-id 'our role' --credential-file CREDENTIAL_FILE";
    check("only in the file", &same, &Held::default(), &[&["issuer corp is not in the store", add]]);
    let item = format!(
        "- {{name: \"corp\", vault: {{addresses: [\"https://vault.example:8200\"], ca_file: \"/ca.pem\", mount: \
         \"pki\", issuer: \"i-1\", lifetime: 30d, trust_anchor: \"{hash}\", login: {{method: approle, mount: \
         \"approle\", role_id: \"our role\"}}}}}}"
    );
    let only =
        ["the store holds issuer corp, which does not stand here", "credence issuer remove corp\n", &item];
    check("only in the store", &[], &store(), &[&only]);

    let updates: &[(Change<'_>, &str, &str)] = &[
        (
            &|vault| vault.issuer = "i-2".into(),
            "vault.issuer is \"i-2\" here and \"i-1\" there",
            "credence issuer update corp --issuer i-2\n",
        ),
        (
            &|vault| vault.lifetime = Duration::from_secs(93_784),
            "vault.lifetime is \"93784000ms\" here and \"30d\" there",
            "credence issuer update corp --lifetime 93784000ms\n",
        ),
        (
            &|vault| vault.addresses = vec!["https://b:1".into()],
            "vault.addresses is \"https://b:1\" here",
            "credence issuer update corp --addr https://b:1 --credential-file CREDENTIAL_FILE\n",
        ),
    ];
    for (change, told, command) in updates {
        check(command, &[with(change)], &store(), &[&[told, command, &item]]);
    }
    let mut fewer = store();
    fewer.vaults[0].vault.addresses.push("https://b:1".into());
    let command = "credence issuer update corp --addr https://vault.example:8200\n";
    check("no address is new", &same, &fewer, &[&[command]]);
    let both = with(&|vault| (vault.issuer, vault.lifetime) = ("i-2".into(), Duration::from_secs(3600)));
    let command = "credence issuer update corp --issuer i-2 --lifetime 1h\n";
    check("two of one issuer", &[both], &store(), &[&["vault.issuer", "vault.lifetime", command]]);

    let others: &[(Change<'_>, &str)] = &[
        (&|vault| vault.mount = "other".into(), "vault.mount is \"other\" here and \"pki\" there"),
        (&|vault| vault.ca_file = "/b".into(), "vault.ca_file is \"/b\""),
        (&|vault| vault.namespace = Some("n".into()), "vault.namespace is \"n\" here and nothing there"),
        (&|vault| vault.role = Some("svid".into()), "vault.role is \"svid\" here and nothing there"),
        (
            &|vault| vault.login = VaultLogin::Token,
            "vault.login.method is \"token\" here and \"approle\" there",
        ),
        (
            &|vault| vault.login = VaultLogin::AppRole { mount: "approle".into(), role_id: "b".into() },
            "vault.login.role_id is \"b\"",
        ),
    ];
    for (change, told) in others {
        let command = "credence issuer remove corp && credence issuer add vault corp --addr";
        check(told, &[with(change)], &store(), &[&[told, command, &item]]);
    }
    // The life of authorities is nothing to who signs leaves.
    let leaves = |life: u64| {
        let mut vault = settings();
        (vault.role, vault.lifetime) = (Some("svid".into()), Duration::from_secs(life));
        vault
    };
    let held = Held { vaults: vec![kept("corp", leaves(1), &root)], ..Held::default() };
    check("a life of authorities beside a role", &[vault(leaves(2))], &held, &[]);
    let falls = |fallback: Option<&str>| {
        let mut one = kept("corp", leaves(1), &root);
        one.fallback = fallback.map(name);
        one
    };
    let held = Held { vaults: vec![falls(Some("lab"))], ..Held::default() };
    let differs =
        ["vault.fallback is nothing here and \"lab\" there", "credence issuer update corp --no-fallback\n"];
    check("nobody signs in its place", &[as_declared(&falls(None))], &held, &[&differs]);
    let command = "credence issuer update corp --fallback builtin\n";
    check("another does", &[as_declared(&falls(Some("builtin")))], &held, &[&[command, "fallback: \"lab\""]]);
    check("the same does", &[as_declared(&falls(Some("lab")))], &held, &[]);
}

#[test]
fn an_acme_server_is_removed_and_added_and_a_name_is_of_one_kind() {
    let le = |acme: AcmeSettings| acme_as_declared(&account("le", acme));
    let store = || Held { acmes: vec![account("le", server())], ..Held::default() };
    check("equal", &[le(server())], &store(), &[]);
    let bound = AcmeSettings {
        agreed: Some("data:text/plain,Do what".into()),
        external: Some("kid".into()),
        profile: Some("short".into()),
        ..server()
    };
    let add = "credence issuer add acme le --directory https://acme.example/d --ca-file /ca.pem --contact mailto:a@b \
               --agree-terms 'data:text/plain,Do what' --external-key-id kid --external-key-file EXTERNAL_KEY_FILE \
               --profile short";
    check("only in the file", &[le(bound.clone())], &Held::default(), &[&["is not in the store", add]]);
    let words = [
        "acme.agree_terms is \"data:text/plain,Do what\" here and nothing there",
        "acme.profile is \"short\"",
        "credence issuer remove le && credence issuer add acme le",
    ];
    check("other settings", &[le(bound)], &store(), &[&words]);
    check(
        "only in the store",
        &[],
        &store(),
        &[&["credence issuer remove le\n", "- {name: \"le\", acme: {"]],
    );
    let vault = as_declared(&kept("le", settings(), &root()));
    let words = ["acme.directory is nothing here", "remove le && credence issuer add vault le"];
    check("another kind", &[vault], &store(), &[&words]);
}

#[test]
fn a_record_that_does_not_open_is_named_as_such_on_either_side() {
    let held = Held { closed: vec!["corp".into()], ..Held::default() };
    let words = ["the record of issuer corp in the store does not open", "restore the store from a backup"];
    check("in the file", &[as_declared(&kept("corp", settings(), &root()))], &held, &[&words]);
    check("not in the file", &[], &held, &[&words]);
}

#[test]
fn a_root_that_cannot_be_read_is_said_at_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let check = |file: &str, content: &str, expected: &str| {
        let path = folder.path().join(file);
        if !content.is_empty() {
            std::fs::write(&path, content).unwrap();
        }
        let kind = IssuerKind::Vault { vault: settings(), anchor: AnchorConfig::File(path), fallback: None };
        let place = Place { key: "issuers[0]".into(), position: Some((3, 5)) };
        let issuer = IssuerConfig { name: name("corp"), kind, place };
        let error = fingerprint(&issuer).unwrap_err();
        assert!(error.message.contains(expected), "{error:?}");
        assert_eq!(
            (error.place.key.as_str(), error.place.position),
            ("issuers[0].vault.trust_anchor", Some((3, 5)))
        );
    };
    check("missing", "", "No such file");
    check("empty", "x", "no certificate");
    let root = root();
    let pem = certs::certificates_to_pem([root.der()]);
    check("two", &pem.repeat(2), "2 certificates");
    let path = folder.path().join("one");
    std::fs::write(&path, pem).unwrap();
    let kind = IssuerKind::Vault { vault: settings(), anchor: AnchorConfig::File(path), fallback: None };
    let issuer = IssuerConfig { name: name("corp"), kind, place: Place::default() };
    assert_eq!(fingerprint(&issuer), Ok(root.fingerprint()));
}

/// A text of `length` characters out of `from`, which begins with no dot.
fn text(random: &mut StdRng, from: &[char]) -> String {
    let first = *['a', 'Z', '7', '-'].choose(random).unwrap();
    let length = random.random_range(0..12);
    std::iter::once(first).chain((0..length).map(|_| *from.choose(random).unwrap())).collect()
}

fn random_vault(random: &mut StdRng) -> VaultSettings {
    let name: Vec<char> = "abcXYZ019-_.".chars().collect();
    // What a path or a public half of a role may have in it.
    let any: Vec<char> = "ab9 '\"\\#{}[]:,&*!|>%@`~é✓\u{1f600}\t-".chars().collect();
    let mount = |random: &mut StdRng| format!("{}/{}", text(random, &name), text(random, &name));
    let file = |random: &mut StdRng| format!("/{}", text(random, &any)).into();
    let login = match random.random_range(0..5) {
        0 => VaultLogin::Token,
        1 => VaultLogin::AppRole { mount: mount(random), role_id: text(random, &any) },
        2 => VaultLogin::Certificate {
            mount: mount(random),
            role: random.random_bool(0.5).then(|| text(random, &name)),
            chain: file(random),
            key: file(random),
        },
        3 => VaultLogin::Jwt { mount: mount(random), role: text(random, &name), file: file(random) },
        _ => VaultLogin::Kubernetes { mount: mount(random), role: text(random, &name), file: file(random) },
    };
    let address = |random: &mut StdRng| {
        let port = ["", ":8200", ":443", "/"].choose(random).copied().unwrap_or_default();
        format!(
            "https://{}{port}",
            ["vault.example", "127.0.0.1", "[::1]", "Vault.Example"].choose(random).unwrap()
        )
    };
    let mut addresses = vec![address(random)];
    let more = address(random);
    if vault::Address::parse(&more).ok() != vault::Address::parse(&addresses[0]).ok() {
        addresses.push(more);
    }
    VaultSettings {
        addresses,
        ca_file: file(random),
        namespace: random.random_bool(0.5).then(|| mount(random)),
        mount: mount(random),
        issuer: text(random, &name),
        role: random.random_bool(0.5).then(|| text(random, &name)),
        lifetime: Duration::from_millis(random.random_range(60_000..400 * 86_400_000)),
        login,
    }
}

/// Whatever the store holds can be written in the section, and is then found to be equal.
#[test]
fn a_section_made_from_what_is_kept_reads_back_and_is_equal() {
    let root = root();
    let any: Vec<char> = "ab9 '\"\\#{}[]:,&*é✓%".chars().collect();
    for seed in 0..2000 {
        let mut random = StdRng::seed_from_u64(seed);
        let word = |random: &mut StdRng| random.random_bool(0.5).then(|| text(random, &any));
        let acme = AcmeSettings {
            directory: format!("https://{}", text(&mut random, &any)),
            ca_file: format!("/{}", text(&mut random, &any)).into(),
            contacts: (0..random.random_range(0..3)).map(|_| text(&mut random, &any)).collect(),
            agreed: word(&mut random),
            external: word(&mut random),
            profile: word(&mut random),
        };
        let held = Held {
            vaults: vec![kept("corp", random_vault(&mut random), &root)],
            acmes: vec![account("le", acme)],
            closed: vec![],
        };
        let items = [as_declared(&held.vaults[0]).to_yaml(), acme_as_declared(&held.acmes[0]).to_yaml()];
        let section = format!("trust_domain: td\nissuers:\n  {}\n  {}\n", items[0], items[1]);
        let config = parse("f", &section, &[], Path::new("/x"), false)
            .unwrap_or_else(|problems| panic!("seed {seed}: {section}\n{problems:#?}"));
        let found = compared(config.issuers.as_deref().unwrap(), &held);
        assert!(found.is_empty(), "seed {seed}: {section}\n{found:#?}");
    }
}
