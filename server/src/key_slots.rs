//! What the configuration names to open the store, held against the key slots that the store has. No key is asked here:
//! what the slots said, and which secrets only another process finds, is told by whoever asked (PURE).

use std::path::Path;

use api::wire;
use store::{SlotHealth, SlotKind, SlotStatus};

use crate::{
    config::{Config, KekSource},
    init::PRIMARY,
};

/// A key slot of the store, as whoever asked its key found it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) name: String,
    /// The word for what opens it.
    pub(crate) kind: String,
    health: SlotHealth,
}

impl From<&SlotStatus> for Held {
    fn from(slot: &SlotStatus) -> Self {
        Self { name: slot.name.clone(), kind: slot.kind.to_string(), health: slot.health.clone() }
    }
}

impl From<&wire::KeySlot> for Held {
    fn from(slot: &wire::KeySlot) -> Self {
        let health = match slot.state.as_str() {
            "opens" => SlotHealth::Opens,
            "fails" => SlotHealth::Fails(slot.problem.clone().unwrap_or_default()),
            _ => SlotHealth::Offline,
        };
        Self { name: slot.name.clone(), kind: slot.kind.clone(), health }
    }
}

/// The key of the configuration by which a slot is opened, if one is.
pub(crate) fn named_in(config: &Config, name: &str) -> Option<&'static str> {
    if config.slots.iter().any(|slot| slot.name == name) {
        return Some("secrets.slots");
    }
    // What `init` made the first slot for names no slot.
    (name == PRIMARY && config.kek.is_some()).then_some("secrets")
}

/// What is named and opens nothing, each with what to do. A key on a token or in Vault may be out of reach for a while:
/// of those it is only said where no slot is.
pub(crate) fn idle(config: &Config, slots: &[Held], is_handed_over: fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(KekSource::File(path) | KekSource::PassphraseFile(path)) = &config.kek
        && !slots
            .iter()
            .any(|slot| is_opened_by_kek(config, slot) || is_kek_elsewhere(config, slot, is_handed_over))
    {
        let but = if config.slots.is_empty() { "" } else { " but those that secrets.slots names" };
        found.push(format!(
            "{} opens no key slot{but}: put the right key back, or take it out of the configuration",
            path.display()
        ));
    }
    for named in &config.slots {
        let name = &named.name;
        let Some(slot) = slots.iter().find(|slot| slot.name == *name) else {
            found.push(format!(
                "secrets.slots names key slot {name}, which the store does not have: credence kek add-slot {name}, or \
                 take it out of the configuration"
            ));
            continue;
        };
        let is_at_hand = matches!(named.source, KekSource::File(_) | KekSource::PassphraseFile(_));
        if let (SlotHealth::Fails(why), true) = (&slot.health, is_at_hand) {
            found.push(format!(
                "what secrets.slots names for key slot {name} does not open it ({why}): put the right key back; where it \
                 is lost, credence kek remove-slot {name}, and credence kek add-slot {name} with another"
            ));
        }
    }
    found
}

/// The slots that nothing opens which the configuration names.
pub(crate) fn unnamed<'a>(
    config: &Config,
    slots: &'a [Held],
    is_handed_over: fn(&Path) -> bool,
) -> Vec<&'a Held> {
    let is_known = |slot: &Held| {
        let is_named = config.slots.iter().any(|named| named.name == slot.name);
        is_named || is_opened_by_kek(config, slot) || is_kek_elsewhere(config, slot, is_handed_over)
    };
    slots.iter().filter(|slot| !is_known(slot)).collect()
}

/// Whether it opens, by the key that names no slot. A key that stands there twice is that of the slot which it names.
fn is_opened_by_kek(config: &Config, slot: &Held) -> bool {
    let names = config.slots.iter().find(|named| named.name == slot.name);
    let is_his = names.is_none_or(|named| config.kek.as_ref() == Some(&named.source));
    config.kek.is_some() && is_his && slot.health == SlotHealth::Opens
}

/// Whether it may be opened by a key that names no slot and that was not asked.
fn is_kek_elsewhere(config: &Config, slot: &Held, is_handed_over: fn(&Path) -> bool) -> bool {
    match &config.kek {
        Some(KekSource::Token { .. }) => slot.kind == SlotKind::Token.to_string(),
        Some(KekSource::Transit(_)) => slot.kind == SlotKind::Transit.to_string(),
        // One that stood in a pipe is not tried again: the slot was asked by nobody.
        Some(KekSource::PassphraseFile(path)) => {
            slot.kind == SlotKind::Passphrase.to_string()
                && slot.health == SlotHealth::Offline
                && is_handed_over(path)
        }
        Some(KekSource::File(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(secrets: &str) -> Config {
        let text = format!("trust_domain: td.example\n{secrets}");
        crate::config::parse("test", &text, &[], Path::new("/"), true).unwrap()
    }

    fn slot(name: &str, kind: SlotKind, health: SlotHealth) -> Held {
        Held { name: name.into(), kind: kind.to_string(), health }
    }

    fn is_descriptor(path: &Path) -> bool {
        path.starts_with("/dev/fd")
    }

    #[test]
    fn knows_where_the_configuration_names_a_slot() {
        let slots = config("secrets:\n  slots:\n    - {name: hsm, kek_file: a}\n");
        assert_eq!(named_in(&slots, "hsm"), Some("secrets.slots"));
        assert_eq!((named_in(&slots, "other"), named_in(&slots, PRIMARY)), (None, None));
        assert_eq!(named_in(&config(""), PRIMARY), Some("secrets"));
    }

    #[test]
    fn says_of_each_key_that_opens_nothing_what_to_do() {
        let file = |name, health| slot(name, SlotKind::KeyFile, health);
        let wrong = || SlotHealth::Fails("wrong key".into());
        let check = |config: &Config, slots: &[Held], expected: &[&str]| {
            let found = idle(config, slots, is_descriptor);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found:?}");
            }
        };
        let plain = config("");
        check(&plain, &[file(PRIMARY, SlotHealth::Opens), file("recovery", SlotHealth::Offline)], &[]);
        // Another name than that which `init` gives.
        check(&plain, &[file("first", SlotHealth::Opens)], &[]);
        check(&plain, &[file(PRIMARY, wrong())], &["credence.kek opens no key slot"]);
        let two = config("secrets:\n  slots:\n    - {name: a, kek_file: a}\n    - {name: b, kek_file: b}\n");
        check(&two, &[file("a", SlotHealth::Opens), file("b", SlotHealth::Opens)], &[]);
        check(&two, &[file("a", SlotHealth::Opens)], &["credence kek add-slot b"]);
        let fails = [file("a", SlotHealth::Opens), file("b", wrong())];
        check(&two, &fails, &["does not open it (wrong key): put the right key back"]);
        // A passphrase that could not be read was not tried.
        check(&two, &[file("a", SlotHealth::Opens), file("b", SlotHealth::Offline)], &[]);
        let both = config("secrets:\n  kek_file: a\n  slots:\n    - {name: b, kek_file: b}\n");
        check(&both, &[file(PRIMARY, SlotHealth::Opens), file("b", SlotHealth::Opens)], &[]);
        check(&both, &[file(PRIMARY, SlotHealth::Offline), file("b", SlotHealth::Opens)], &["/a opens no"]);
        let twice = config("secrets:\n  kek_file: b\n  slots:\n    - {name: b, kek_file: b}\n");
        check(&twice, &[file("b", SlotHealth::Opens)], &[]);
        // A passphrase from a pipe is not read again, and opens the store all the same.
        let word = config("secrets: {passphrase_file: /dev/fd/3}\n");
        let of = |health| [slot(PRIMARY, SlotKind::Passphrase, health)];
        check(&word, &of(SlotHealth::Offline), &[]);
        assert!(unnamed(&word, &of(SlotHealth::Offline), is_descriptor).is_empty());
        check(&word, &of(wrong()), &["/dev/fd/3 opens no key slot"]);
        // A file that is gone is not.
        let gone = config("secrets: {passphrase_file: /nowhere/word}\n");
        check(&gone, &of(SlotHealth::Offline), &["/nowhere/word opens no key slot"]);
        let token =
            "secrets:\n  slots:\n    - name: t\n      pkcs11: {module: /m, token: t, key: k, pin_file: p}\n";
        check(&config(token), &[slot("t", SlotKind::Token, wrong())], &[]);
        check(&config(token), &[], &["credence kek add-slot t"]);
    }

    #[test]
    fn names_the_slots_that_no_configuration_names() {
        let file = |name, health| slot(name, SlotKind::KeyFile, health);
        let check = |config: &Config, slots: &[Held], expected: &[&str]| {
            let found: Vec<&str> =
                unnamed(config, slots, is_descriptor).iter().map(|slot| slot.name.as_str()).collect();
            assert_eq!(found, expected);
        };
        let plain = config("");
        check(
            &plain,
            &[file("first", SlotHealth::Opens), file("recovery", SlotHealth::Offline)],
            &["recovery"],
        );
        let named = config("secrets:\n  slots:\n    - {name: a, kek_file: a}\n");
        check(&named, &[file("a", SlotHealth::Offline), file("old", SlotHealth::Offline)], &["old"]);
        // Nobody asked the token which slot it opens.
        let token = config("secrets:\n  pkcs11: {module: /m, token: t, key: k, pin_file: p}\n");
        check(&token, &[slot("hsm", SlotKind::Token, SlotHealth::Offline)], &[]);
        check(&token, &[file("old", SlotHealth::Offline)], &["old"]);
    }
}
