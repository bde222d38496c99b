//! The section `secrets`: what opens the store. It names files and tokens, and holds nothing secret itself.

use std::path::PathBuf;

use proto::text::{Content, Node};

use super::{
    KekSource, SlotConfig,
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
                    "write one of kek_file, passphrase_file, pkcs11".to_owned(),
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

    /// The one of `kek_file`, `passphrase_file` and `pkcs11` that a section has.
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
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, KekSource, parse};

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
}
