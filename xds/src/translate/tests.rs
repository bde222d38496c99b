use std::{fs, path::PathBuf};

use prost::Message;
use prost_types::Any;
use proto::{pgv, text};

use super::*;
use crate::model;

fn workspace() -> PathBuf {
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

fn to_json(made: &Made) -> serde_json::Value {
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
        let made: Vec<_> = documents.iter().flat_map(|document| translate(document, &defaults())).collect();
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
            for made in translate(&document, &defaults()) {
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
            documents.iter().flat_map(|document| translate(document, &defaults())).collect::<Vec<_>>()
        };
        assert_eq!(make(), make());
    }
}

#[test]
fn config_sources_are_the_same_bytes_everywhere() {
    // envoy#47309: a secret under another ConfigSource is another secret. This is field 6 `ads`, field 6 api V3.
    assert_eq!(ads().encode_to_vec(), [0x1a, 0x00, 0x30, 0x02]);
}
