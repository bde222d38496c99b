//! The section `secrets`: what opens the store. It names files and tokens, and holds nothing secret itself.

use std::path::PathBuf;

use proto::text::{Content, Node};

use vault::{Address, Addresses, Mount, Name, SERVICE_ACCOUNT_TOKEN};

use super::{
    KekSource, SlotConfig, TransitConfig, TransitLogin,
    read::{Reader, Section, kind},
};

/// The longest name of a slot.
const MAX_NAME: usize = 64;

/// Whether `name` can name a key slot.
fn is_slot_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

impl Reader<'_> {
    pub(super) fn secrets(&mut self, top: &mut Section<'_>) -> (Option<KekSource>, Vec<SlotConfig>, PathBuf) {
        let mut secrets = self.sub(top, "secrets");
        let named = secrets.take("slots");
        let mut kek = self.source(&mut secrets);
        if kek.is_none() && named.is_none() {
            kek = Some(KekSource::File(self.base.join("credence.kek")));
        }
        let slots = named.map(|node| self.slots(node)).unwrap_or_default();
        let admin_dir = self.path(&mut secrets, "admin_dir", "credence-admin");
        self.close(secrets);
        (kek, slots, admin_dir)
    }

    fn slots(&mut self, node: &Node) -> Vec<SlotConfig> {
        let Content::List(items) = &node.content else {
            self.refuse(node, "secrets.slots", format!("expected a list, found {}", kind(node)), None);
            return Vec::new();
        };
        let mut slots: Vec<SlotConfig> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let mut section = self.section(Some(item), &format!("secrets.slots[{index}]"));
            let path = section.path_of("name");
            let name = section.take("name").and_then(|node| self.text(node, &path));
            let source = self.source(&mut section);
            let problem = match (&name, &source) {
                (None, _) => Some(("a slot has a name", "write name: recovery, or another".to_owned())),
                (Some(name), _) if !is_slot_name(name) => Some((
                    "a slot's name is 1 to 64 of a-z, 0-9, -, _ and .",
                    "write such as recovery or hsm-1".to_owned(),
                )),
                (Some(name), _) if slots.iter().any(|slot| slot.name == *name) => {
                    Some(("two slots have this name", "give each a name of its own".to_owned()))
                }
                (Some(_), None) => Some((
                    "a slot says what opens it",
                    "write one of kek_file, passphrase_file, pkcs11, transit".to_owned(),
                )),
                (Some(_), Some(_)) => None,
            };
            if let Some((message, hint)) = problem {
                self.refuse(item, &path, message, Some(hint));
            }
            self.close(section);
            if let (Some(name), Some(source)) = (name, source) {
                slots.push(SlotConfig { name, source });
            }
        }
        slots
    }

    /// The one of `kek_file`, `passphrase_file`, `pkcs11` and `transit` that a section has.
    fn source(&mut self, section: &mut Section<'_>) -> Option<KekSource> {
        let mut found = Vec::new();
        let path = section.path_of("kek_file");
        if let Some(node) = section.take("kek_file") {
            let text = self.text(node, &path).unwrap_or_default();
            found.push((node, path, KekSource::File(self.base.join(text))));
        }
        let path = section.path_of("passphrase_file");
        if let Some(node) = section.take("passphrase_file") {
            let text = self.text(node, &path).unwrap_or_default();
            found.push((node, path, KekSource::PassphraseFile(self.base.join(text))));
        }
        let path = section.path_of("pkcs11");
        if let Some(node) = section.take("pkcs11") {
            let source = self.token(node, &path);
            found.push((node, path, source));
        }
        let path = section.path_of("transit");
        if let Some(node) = section.take("transit") {
            let source = self.transit(node, &path);
            // What is wrong with it is said; it is a source all the same, so that nothing else is missing.
            found.push((
                node,
                path,
                source.map_or_else(|| KekSource::File(PathBuf::new()), KekSource::Transit),
            ));
        }
        if let Some((node, path, _)) = found.get(1) {
            let (node, path) = (*node, path.clone());
            self.refuse(
                node,
                &path,
                "another key is given too; one of them is enough",
                Some("further keys stand in secrets.slots, each with the name of its slot".to_owned()),
            );
        }
        found.into_iter().next().map(|(_, _, source)| source)
    }

    fn token(&mut self, node: &Node, path: &str) -> KekSource {
        let mut section = self.section(Some(node), path);
        let mut text = |reader: &mut Self, key: &'static str| {
            let path = section.path_of(key);
            match section.take(key) {
                Some(node) => reader.text(node, &path).unwrap_or_default(),
                None => {
                    let hint = "a token has module, token, key and pin_file".to_owned();
                    reader.refuse(node, &path, format!("{key} is missing"), Some(hint));
                    String::new()
                }
            }
        };
        let (module, token) = (text(self, "module"), text(self, "token"));
        let (key, pin_file) = (text(self, "key"), text(self, "pin_file"));
        self.close(section);
        KekSource::Token { module: self.base.join(module), token, key, pin_file: self.base.join(pin_file) }
    }

    /// A key in Vault, and one login.
    fn transit(&mut self, node: &Node, path: &str) -> Option<TransitConfig> {
        let mut section = self.section(Some(node), path);
        let addresses = self.addresses(&mut section, node);
        let ca_file = self.needed(&mut section, node, "ca_file", "the file with what vouches for this Vault");
        let namespace = self.named(&mut section, "namespace", Mount::parse);
        let mount = self.named(&mut section, "mount", Mount::parse).or_else(|| Mount::parse("transit").ok());
        let key = self.needed(&mut section, node, "key", "the key's name in Transit");
        let key_path = section.path_of("key");
        let key = key.and_then(|(node, text)| self.parsed(node, &key_path, Name::parse(&text)));
        let login = self.login(&mut section, node);
        self.close(section);
        Some(TransitConfig {
            addresses: addresses?,
            ca_file: self.base.join(ca_file?.1),
            namespace,
            mount: mount?,
            key: key?,
            login: login?,
        })
    }

    pub(super) fn addresses(&mut self, section: &mut Section<'_>, node: &Node) -> Option<Addresses> {
        let path = section.path_of("addresses");
        let hint = || Some("write addresses: [\"https://vault.example:8200\"]".to_owned());
        let Some(list) = section.take("addresses") else {
            self.refuse(node, &path, "addresses is missing", hint());
            return None;
        };
        let Content::List(items) = &list.content else {
            self.refuse(list, &path, format!("expected a list, found {}", kind(list)), hint());
            return None;
        };
        let mut read = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let text = self.text(item, &path)?;
            read.push(self.parsed(item, &path, Address::parse(&text))?);
        }
        self.parsed(list, &path, Addresses::try_new(read))
    }

    /// The one of `approle`, `certificate`, `kubernetes` and `token_file` that a section has.
    fn login(&mut self, section: &mut Section<'_>, node: &Node) -> Option<TransitLogin> {
        let mut found = Vec::new();
        let path = section.path_of("approle");
        if let Some(node) = section.take("approle") {
            found.push((node, path.clone(), self.approle(node, &path)));
        }
        let path = section.path_of("certificate");
        if let Some(node) = section.take("certificate") {
            found.push((node, path.clone(), self.certificate(node, &path)));
        }
        let path = section.path_of("kubernetes");
        if let Some(node) = section.take("kubernetes") {
            found.push((node, path.clone(), self.kubernetes(node, &path)));
        }
        let path = section.path_of("token_file");
        if let Some(node) = section.take("token_file") {
            let file = self.text(node, &path).map(|text| self.base.join(text));
            found.push((node, path, file.map(|token_file| TransitLogin::Token { token_file })));
        }
        if let Some((node, path, _)) = found.get(1) {
            let (node, path) = (*node, path.clone());
            self.refuse(node, &path, "another login is given too; one of them is enough", None);
        }
        if found.is_empty() {
            let hint = "write one of approle, certificate, kubernetes, token_file".to_owned();
            self.refuse(node, &section.path_of("approle"), "nothing says how to log in", Some(hint));
        }
        found.into_iter().next().and_then(|(.., login)| login)
    }

    fn approle(&mut self, node: &Node, path: &str) -> Option<TransitLogin> {
        let mut section = self.section(Some(node), path);
        let mount = self.named(&mut section, "mount", Mount::parse).or_else(|| Mount::parse("approle").ok());
        let role_id = self.needed(&mut section, node, "role_id", "the public half of the role");
        let secret = "the file with the secret id; the secret id itself never stands here";
        let secret = self.needed(&mut section, node, "secret_id_file", secret);
        self.close(section);
        let (role_id, secret_id_file) = (role_id?.1, self.base.join(secret?.1));
        Some(TransitLogin::AppRole { mount: mount?, role_id, secret_id_file })
    }

    fn certificate(&mut self, node: &Node, path: &str) -> Option<TransitLogin> {
        let mut section = self.section(Some(node), path);
        let mount = self.named(&mut section, "mount", Mount::parse).or_else(|| Mount::parse("cert").ok());
        let role = self.named(&mut section, "role", Name::parse);
        let chain =
            self.needed(&mut section, node, "chain_file", "the client certificate with its chain, PEM");
        let key = self.needed(&mut section, node, "key_file", "its key");
        self.close(section);
        let (chain_file, key_file) = (self.base.join(chain?.1), self.base.join(key?.1));
        Some(TransitLogin::Certificate { mount: mount?, role, chain_file, key_file })
    }

    fn kubernetes(&mut self, node: &Node, path: &str) -> Option<TransitLogin> {
        let mut section = self.section(Some(node), path);
        let mount =
            self.named(&mut section, "mount", Mount::parse).or_else(|| Mount::parse("kubernetes").ok());
        let role = self.needed(&mut section, node, "role", "the role of the login in Vault");
        let role_path = section.path_of("role");
        let role = role.and_then(|(node, text)| self.parsed(node, &role_path, Name::parse(&text)));
        let token_file = self.path(&mut section, "token_file", SERVICE_ACCOUNT_TOKEN);
        self.close(section);
        Some(TransitLogin::Kubernetes { mount: mount?, role: role?, token_file })
    }

    /// A text that must be there, with the place where it stands.
    pub(super) fn needed<'t>(
        &mut self,
        section: &mut Section<'t>,
        node: &Node,
        key: &'static str,
        meaning: &str,
    ) -> Option<(&'t Node, String)> {
        let path = section.path_of(key);
        let Some(found) = section.take(key) else {
            self.refuse(node, &path, format!("{key} is missing"), Some(format!("write {key}: {meaning}")));
            return None;
        };
        self.text(found, &path).map(|text| (found, text))
    }

    /// A name of Vault's that may be left out.
    pub(super) fn named<T>(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, vault::NameError>,
    ) -> Option<T> {
        let path = section.path_of(key);
        let node = section.take(key)?;
        let text = self.text(node, &path)?;
        self.parsed(node, &path, parse(&text))
    }

    pub(super) fn parsed<T>(
        &mut self,
        node: &Node,
        path: &str,
        parsed: Result<T, impl std::fmt::Display>,
    ) -> Option<T> {
        parsed.map_err(|error| self.refuse(node, path, error.to_string(), None)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, KekSource, TransitLogin, parse};

    fn read(secrets: &str) -> Result<Config, Vec<String>> {
        let text = format!("trust_domain: td\nsecrets:\n{secrets}\n");
        parse("f", &text, &[], Path::new("/x"), false)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn slots_name_what_opens_them() {
        let config = read(
            "  kek_file: a\n  slots:\n    - {name: recovery, passphrase_file: /dev/fd/3}\n    - name: hsm\n      pkcs11: {module: /m.so, token: t, key: k, pin_file: p}",
        )
        .unwrap();
        assert_eq!(config.kek, Some(KekSource::File("/x/a".into())));
        assert_eq!(config.slots[0].source, KekSource::PassphraseFile("/dev/fd/3".into()));
        let token = KekSource::Token {
            module: "/m.so".into(),
            token: "t".into(),
            key: "k".into(),
            pin_file: "/x/p".into(),
        };
        assert_eq!((config.slots[1].name.as_str(), &config.slots[1].source), ("hsm", &token));
        assert_eq!(parse("g", &config.to_yaml(), &[], Path::new("/y"), false).as_ref(), Ok(&config));
        let only = read("  slots:\n    - {name: hsm, kek_file: b}").unwrap();
        assert_eq!(only.kek, None, "no default beside named slots");
        assert_eq!(parse("g", &only.to_yaml(), &[], Path::new("/y"), false), Ok(only));
    }

    #[test]
    fn refuses_slots_that_say_too_much_or_too_little() {
        let check = |secrets: &str, expected: &str| {
            let problems = read(secrets).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}");
        };
        check("  kek_file: a\n  passphrase_file: b", "another key is given too");
        check("  slots: a", "expected a list");
        check("  slots: [{kek_file: a}]", "a slot has a name");
        check("  slots: [{name: A, kek_file: a}]", "1 to 64 of a-z");
        check("  slots: [{name: a}]", "says what opens it");
        check("  slots: [{name: a, kek_file: a}, {name: a, kek_file: b}]", "two slots have this name");
        check("  slots: [{name: a, pkcs11: {module: m, token: t, key: k}}]", "pin_file is missing");
        check(
            "  slots: [{name: a, pkcs11: {module: m, token: t, key: k, pin_file: p, pin: 1234}}]",
            "unknown key \"pin\"",
        );
        check("  slots: [{name: a, passphrase: secret}]", "unknown key \"passphrase\"");
    }

    /// A slot in Vault, with `login` in it.
    fn transit(login: &str) -> String {
        format!(
            "  slots:\n    - name: vault\n      transit: {{addresses: [\"https://vault.example:8200\"], ca_file: ca.pem, key: credence, {login}}}"
        )
    }

    #[test]
    fn a_slot_in_vault_says_where_it_is_and_how_to_log_in() {
        let check = |login: &str, expected: &TransitLogin| {
            let config = read(&transit(login)).unwrap_or_else(|problems| panic!("{login}: {problems:?}"));
            let KekSource::Transit(found) = &config.slots[0].source else { panic!("{config:?}") };
            assert_eq!(&found.login, expected);
            assert_eq!((found.mount.as_str(), found.key.as_str()), ("transit", "credence"));
            assert_eq!((found.ca_file.as_path(), &found.namespace), (Path::new("/x/ca.pem"), &None));
            assert_eq!(parse("g", &config.to_yaml(), &[], Path::new("/y"), false).as_ref(), Ok(&config));
        };
        let (mount, name) =
            (|text| vault::Mount::parse(text).unwrap(), |text| vault::Name::parse(text).unwrap());
        check(
            "approle: {role_id: 4711, secret_id_file: s}".replace("4711", "\"4711\"").as_str(),
            &TransitLogin::AppRole {
                mount: mount("approle"),
                role_id: "4711".into(),
                secret_id_file: "/x/s".into(),
            },
        );
        check(
            "certificate: {role: r, chain_file: c, key_file: k, mount: team/cert}",
            &TransitLogin::Certificate {
                mount: mount("team/cert"),
                role: Some(name("r")),
                chain_file: "/x/c".into(),
                key_file: "/x/k".into(),
            },
        );
        check(
            "kubernetes: {role: credence}",
            &TransitLogin::Kubernetes {
                mount: mount("kubernetes"),
                role: name("credence"),
                token_file: vault::SERVICE_ACCOUNT_TOKEN.into(),
            },
        );
        check("token_file: /run/t", &TransitLogin::Token { token_file: "/run/t".into() });
        let named = read(&transit("token_file: t, mount: a/b, namespace: team")).unwrap();
        let KekSource::Transit(found) = &named.slots[0].source else { panic!("{named:?}") };
        assert_eq!((found.mount.as_str(), found.namespace.as_ref().unwrap().as_str()), ("a/b", "team"));
        assert_eq!(parse("g", &named.to_yaml(), &[], Path::new("/y"), false), Ok(named));
    }

    #[test]
    fn refuses_a_slot_in_vault_that_says_too_much_or_too_little() {
        let check = |secrets: &str, expected: &str| {
            let problems = read(secrets).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{secrets}: {problems:?}");
        };
        check(&transit("mount: x"), "nothing says how to log in");
        check(&transit("token_file: a, kubernetes: {role: r}"), "another login is given too");
        check(&transit("approle: {secret_id_file: s}"), "role_id is missing");
        check(&transit("approle: {role_id: r}"), "secret_id_file is missing");
        check(&transit("approle: {role_id: r, secret_id: hvs}"), "unknown key \"secret_id\"");
        check(&transit("certificate: {chain_file: c}"), "key_file is missing");
        check(&transit("kubernetes: {}"), "role is missing");
        check(&transit("token: hvs.secret"), "unknown key \"token\"");
        check(&transit("token_file: t, mount: ../sys"), "is no name in Vault");
        check(&transit("token_file: t").replace("credence", "a/b"), "is no name in Vault");
        check(&transit("token_file: t").replace("key: credence, ", ""), "key is missing");
        check(&transit("token_file: t").replace("https", "http"), "is not https");
        check(
            &transit("token_file: t").replace("[\"https://vault.example:8200\"]", "[]"),
            "no address of a Vault",
        );
        check(&transit("token_file: t").replace("ca_file: ca.pem, ", ""), "ca_file is missing");
        let both = transit("token_file: t").replace("      transit", "      kek_file: k\n      transit");
        check(&both, "another key is given too");
    }
}
