use std::{fs, path::PathBuf};

use prost::Message;
use prost_types::Any;
use proto::{pgv, text};

use super::*;
use crate::model;

pub(super) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document that is good: golden inputs and examples.
pub(crate) fn good_documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["xds/tests/golden", "docs/examples"] {
        for entry in fs::read_dir(workspace().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn defaults() -> Defaults {
    Defaults::strict(TrustDomain::parse("prod.example").unwrap())
}

pub(super) fn to_json(made: &Made) -> serde_json::Value {
    let any = Any { type_url: made.type_url.as_str().to_owned(), value: made.content.clone() };
    let name = made.type_url.as_str().rsplit_once('/').unwrap().1;
    let descriptor = text::descriptor(name).unwrap();
    let message = prost_reflect::DynamicMessage::decode(descriptor, any.value.as_slice()).unwrap();
    serde_json::json!({
        "type": made.type_url.word(),
        "name": &*made.name,
        "origin": made.origin.to_string(),
        "needs": made.references.iter().map(|(kind, name)| format!("{} {name}", kind.word())).collect::<Vec<_>>(),
        "resource": text::to_json(&message).unwrap(),
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "golden files are refreshed by one variable")]
fn documents_become_the_resources_of_the_golden_files() {
    let bless = std::env::var("CREDENCE_BLESS").is_ok();
    for (name, source) in good_documents() {
        let documents = model::parse(&name, &source).unwrap_or_else(|problems| panic!("{problems}"));
        let made: Vec<_> = documents
            .iter()
            .flat_map(|document| translate(document, &defaults(), &Denied::default()))
            .collect();
        let json =
            serde_json::to_string_pretty(&made.iter().map(to_json).collect::<Vec<_>>()).unwrap() + "\n";
        let golden = workspace().join(format!("xds/tests/golden/{name}.json"));
        if bless {
            fs::write(&golden, &json).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert!(expected == json, "{name}: differs from {}; refresh with CREDENCE_BLESS=1", golden.display());
    }
}

#[test]
fn good_documents_break_no_rule_of_envoy() {
    for (name, source) in good_documents() {
        for document in model::parse(&name, &source).unwrap() {
            for made in translate(&document, &defaults(), &Denied::default()) {
                let any = Any { type_url: made.type_url.as_str().to_owned(), value: made.content };
                assert_eq!(pgv::validate_any(&any), [], "{name}: {}", made.name);
            }
        }
    }
}

#[test]
fn equal_documents_give_equal_bytes() {
    for (name, source) in good_documents() {
        let make = || {
            let documents = model::parse(&name, &source).unwrap();
            documents
                .iter()
                .flat_map(|document| translate(document, &defaults(), &Denied::default()))
                .collect::<Vec<_>>()
        };
        assert_eq!(make(), make());
    }
}

#[test]
fn config_sources_are_the_same_bytes_everywhere() {
    // envoy#47309: a secret under another ConfigSource is another secret. This is field 6 `ads`, field 6 api V3.
    assert_eq!(ads().encode_to_vec(), [0x1a, 0x00, 0x30, 0x02]);
}

/// No field of the proxy's own machine (security-reliability.md 46): files, environment, other configuration servers.
fn check_harmless(value: &serde_json::Value) {
    const FORBIDDEN: [&str; 7] = [
        "filename",
        "environment_variable",
        "watched_directory",
        "path",
        "path_config_source",
        "api_config_source",
        "inline_bytes",
    ];
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(check_harmless),
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                let is_path_of_url =
                    key == "path" && value.as_str().is_some_and(|path| path.starts_with('/'));
                assert!(!FORBIDDEN.contains(&key.as_str()) || is_path_of_url, "{key}: {value}");
                check_harmless(value);
            }
        }
        _ => {}
    }
}

/// Small numbers from a seed (xorshift).
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// Changes one value somewhere below.
fn mutate(value: &mut serde_json::Value, draws: &mut Draws) {
    let strange = [
        serde_json::json!(null),
        serde_json::json!(0),
        serde_json::json!(1),
        serde_json::json!(4_294_967_295_u32),
        serde_json::json!(true),
        serde_json::json!(""),
        serde_json::json!("/"),
        serde_json::json!("*"),
        serde_json::json!("0s"),
        serde_json::json!("1ms"),
        serde_json::json!("a b\nc"),
        serde_json::json!("\u{0}"),
        serde_json::json!("x".repeat(20_000)),
        serde_json::json!("::1"),
        serde_json::json!([]),
        serde_json::json!({}),
    ];
    let inside = draws.below(5) > 0;
    match value {
        serde_json::Value::Object(fields) if inside && !fields.is_empty() => {
            let key = fields.keys().nth(draws.below(fields.len())).unwrap().clone();
            if draws.below(12) == 0 {
                fields.remove(&key);
            } else {
                mutate(&mut fields[&key], draws);
            }
        }
        serde_json::Value::Array(items) if inside && !items.is_empty() => {
            let index = draws.below(items.len());
            if draws.below(8) == 0 {
                items.push(items[index].clone());
            } else {
                mutate(&mut items[index], draws);
            }
        }
        _ => *value = strange[draws.below(strange.len())].clone(),
    }
}

#[test]
fn whatever_is_accepted_becomes_resources_that_envoy_accepts() {
    let context = crate::validate::tests::context();
    let good: Vec<_> = good_documents()
        .iter()
        .flat_map(|(name, source)| model::parse(name, source).unwrap())
        .map(|document| document.source.to_json())
        .collect();
    let mut draws = Draws(0x5eed);
    let mut accepted = 0;
    for _ in 0..3000 {
        let mut document = good[draws.below(good.len())].clone();
        for _ in 0..=draws.below(2) {
            mutate(&mut document["spec"], &mut draws);
        }
        let Ok(documents) = model::parse("mutated", &document.to_string()) else { continue };
        for document in documents {
            if crate::catalog::check(vec![document.clone()], context.clone()).is_err() {
                continue;
            }
            accepted += 1;
            for made in translate(&document, &context.defaults, &Denied::default()) {
                let any = Any { type_url: made.type_url.as_str().to_owned(), value: made.content.clone() };
                assert_eq!(pgv::validate_any(&any), []);
                check_harmless(&to_json(&made)["resource"]);
            }
        }
    }
    assert!(accepted > 100, "only {accepted} were accepted");
}

#[test]
fn examples_are_accepted_as_they_are() {
    for entry in fs::read_dir(workspace().join("docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let context = crate::validate::Context::strict(TrustDomain::parse("prod.example").unwrap());
        let documents = model::parse(&path.to_string_lossy(), &text).unwrap();
        crate::catalog::check(documents, context).unwrap_or_else(|problems| panic!("{problems}"));
    }
}
