//! The structure of the house, held by tests: who may know whom, and who may touch private bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository's root")
}

/// DESIGN's table: a crate may depend on these of ours, and on no others. Development dependencies are free.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("certs", &[]),
    ("proto", &[]),
    ("fixtures", &["certs"]),
    ("spiffe", &["certs", "proto"]),
    ("audit", &["spiffe", "certs"]),
    ("vault", &["certs"]),
    ("acme", &["certs"]),
    ("ca", &["audit", "spiffe", "certs", "proto"]),
    ("xds", &["audit", "spiffe", "proto"]),
    ("sds", &["xds", "audit", "spiffe", "certs", "proto"]),
    ("api", &["ca", "xds", "sds", "audit", "spiffe", "certs", "proto"]),
    ("store", &["api", "sds", "ca", "xds", "audit", "spiffe", "certs", "proto"]),
    ("agent", &["sds", "xds", "spiffe", "certs", "proto"]),
];

/// Programs and tests: they see everything, and no library sees them.
const OUTERMOST: &[&str] = &["server", "kit", "suites", "fleet", "limits"];

#[test]
fn every_edge_between_our_crates_is_one_that_the_design_draws() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_KNOW.iter().map(|(name, known)| (*name, known.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name =
            package["name"].as_str().unwrap().strip_prefix("credence-").expect("packages are credence-*");
        seen.insert(name);
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(target) = dependency["name"].as_str().unwrap().strip_prefix("credence-") else {
                continue;
            };
            if dependency["kind"] == "dev" {
                continue;
            }
            let fine = if OUTERMOST.contains(&name) {
                name != "server" || !OUTERMOST.contains(&target)
            } else {
                allowed.get(name).is_some_and(|known| known.contains(target))
            };
            if !fine {
                wrong.push(format!("{name} -> {target}"));
            }
        }
    }
    assert!(seen.contains("server") && seen.contains("certs"), "the packages were not found: {seen:?}");
    assert!(wrong.is_empty(), "edges that DESIGN does not draw: {wrong:?}");
}

/// Reading private bytes is allowed in these files, each for the reason beside it.
const MAY_EXPOSE: &[(&str, &str)] = &[
    ("agent/src/files.rs", "writes the node's key file"),
    ("certs/src/signer.rs", "signs"),
    ("sds/src/secret.rs", "encodes the secret for its owner"),
    ("server/src/app/edges/publisher/update.rs", "hands the key of a name server to what signs updates"),
    ("server/src/tls.rs", "loads keys into the TLS library"),
    ("store/src/seal.rs", "seals"),
    ("vault/src/secret.rs", "hands tokens, and what is to be wrapped, to Vault"),
];

#[test]
fn private_bytes_are_read_in_seven_files_only() {
    let mut found = BTreeSet::new();
    for file in rust_files(&root()) {
        let text = fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        // The definition itself, and tests, which must look at what must not leak.
        if relative == "certs/src/secret.rs"
            || relative.contains("tests")
            || relative.starts_with("certs/fixtures/")
        {
            continue;
        }
        let product = text.split("#[cfg(test)]").next().unwrap_or("");
        if product
            .lines()
            .any(|line| line.contains(".expose_secret()") && !line.trim_start().starts_with("//"))
        {
            found.insert(relative);
        }
    }
    let expected: BTreeSet<String> = MAY_EXPOSE.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, expected);
}

#[test]
fn only_the_door_and_the_binary_spawn() {
    let mut found = Vec::new();
    for file in rust_files(&root()) {
        let relative = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if relative.starts_with("server/") || relative.contains("tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap_or("");
        if product.contains("tokio::spawn(") || product.contains("task::spawn(") {
            found.push(relative);
        }
    }
    assert!(found.is_empty(), "libraries offer `run`, server spawns: {found:?}");
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().expect("entries have names").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files.extend(rust_files(&path));
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files
}
