//! Makes the wire types: compiles the `.proto` files of the package `envoy-types` (pinned and checksummed by
//! Cargo.lock, downloaded by cargo, never compiled) and our own with protox, writes one descriptor set with all
//! of them, and Rust types for the part that Credence touches by type. No protoc, no copies of others' files.
#![expect(clippy::disallowed_methods, reason = "a build script is configured by its environment")]

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PACKAGE: &str = "envoy-types";
const IMPORT_ROOTS: [&str; 8] = [
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "cel-spec/proto",
    "opentelemetry-proto",
    "client_model",
    "ratelimit/api",
];

/// Files of Envoy that get Rust types, with all that they import. The rest is reached through the descriptor set.
const TYPED: [&str; 25] = [
    "envoy/admin/v3/config_dump.proto",
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/cluster/v3/cds.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/endpoint/v3/eds.proto",
    "envoy/service/extension/v3/config_discovery.proto",
    "envoy/service/listener/v3/lds.proto",
    "envoy/service/route/v3/rds.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/service/status/v3/csds.proto",
];
const OURS: [&str; 1] = ["credence/v1/node.proto"];

/// Messages that can hold a private key or a token, directly or as bytes of an `Any`: `src/redact.rs` writes
/// their `Debug`.
const REDACTED: [&str; 5] = [
    ".envoy.config.core.v3.DataSource",
    ".envoy.config.core.v3.TransportSocket",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
    ".credence.v1.FinishRequest",
];

fn main() -> Outcome<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Cargo.toml pins the package by `=`, so that it changes whenever the package's version does.
    for input in ["build.rs", "Cargo.toml", "credence"] {
        println!("cargo:rerun-if-changed={input}");
    }

    let sources = Sources::locate(&here)?;
    let everything = sources.compile(&sources.all_files()?)?;
    fs::write(out.join("descriptors.binpb"), &everything)?;

    let typed = sources.compile(&TYPED.map(String::from))?;
    write_types(&typed, &out.join("envoy"), false)?;
    let ours = sources.compile(&OURS.map(String::from))?;
    write_types(&ours, &out.join("credence"), true)?;
    Ok(())
}

fn write_types(descriptors: &[u8], folder: &Path, with_servers: bool) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    let set: prost_types::FileDescriptorSet = prost::Message::decode(descriptors)?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // What `Any` carries as `@type`.
    config.type_name_domain(["."], "type.googleapis.com");
    // Equal messages have equal bytes.
    config.btree_map([".envoy.config.rbac.v3.RBAC.policies"]);
    config.skip_debug(REDACTED);
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(with_servers)
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(folder)
        .include_file("mod.rs")
        .compile_fds_with_config(set, config)?;
    Ok(())
}

/// Where the `.proto` files are.
struct Sources {
    import_roots: Vec<PathBuf>,
}

impl Sources {
    fn locate(here: &Path) -> Outcome<Self> {
        let tree = package_folder(here)?.join("proto");
        let mut import_roots: Vec<_> = IMPORT_ROOTS.iter().map(|root| tree.join(root)).collect();
        if let Some(absent) = import_roots.iter().find(|root| !root.is_dir()) {
            return Err(format!("{PACKAGE} has no folder {}", absent.display()).into());
        }
        import_roots.push(here.to_owned());
        Ok(Self { import_roots })
    }

    /// Import paths of all files, in an order that protox can take.
    fn all_files(&self) -> Outcome<Vec<String>> {
        let mut names: Vec<String> = OURS.map(String::from).to_vec();
        let (_, theirs) = self.import_roots.split_last().ok_or("no import roots")?;
        for root in theirs {
            walk(root, root, &mut names)?;
        }
        // protox resolves a relative name (`config.core.v3.X` in `envoy.extensions.a`) against every package that
        // it has seen, protoc only against those that the file imports. What declares `envoy.extensions.config`
        // therefore comes last.
        names.sort_by_key(|name| (name.starts_with("envoy/extensions/config/"), name.clone()));
        Ok(names)
    }

    /// Compiles files to an encoded descriptor set, imports first. Encoded by protox itself: its typed descriptor
    /// set drops extension options, and with them every validation rule.
    fn compile(&self, names: &[String]) -> Outcome<Vec<u8>> {
        let mut together = self.compiler();
        let mut apart = Vec::new();
        for name in names {
            if together.open_file(name).is_err() {
                // Still confused by what others declared: on its own it sees only what it imports.
                let mut alone = self.compiler();
                alone.open_file(name).map_err(|error| format!("{error:?}"))?;
                apart.push(alone.encode_file_descriptor_set());
            }
        }
        let mut sets = vec![together.encode_file_descriptor_set()];
        sets.append(&mut apart);
        merge(&sets)
    }

    fn compiler(&self) -> protox::Compiler {
        let mut chain = ChainFileResolver::new();
        for root in &self.import_roots {
            chain.add(IncludeFileResolver::new(root.clone()));
        }
        chain.add(GoogleFileResolver::new());
        let mut compiler = protox::Compiler::with_file_resolver(Corrected(chain));
        compiler.include_imports(true).include_source_info(false);
        compiler
    }
}

/// The one file that protox cannot resolve even alone, with its relative name written out.
struct Corrected(ChainFileResolver);

impl FileResolver for Corrected {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let file = self.0.open_file(name)?;
        match (name, file.source()) {
            ("envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto", Some(source)) => {
                let relative = " common.dynamic_forward_proxy.v3.";
                let full = " .envoy.extensions.common.dynamic_forward_proxy.v3.";
                File::from_source(name, &source.replace(relative, full))
            }
            _ => Ok(file),
        }
    }
}

/// The folder of the package, as cargo has it; cargo downloads it when the machine does not have it yet.
fn package_folder(here: &Path) -> Outcome<PathBuf> {
    let manifest = here.join("Cargo.toml");
    let metadata = cargo_metadata(&manifest, &["--offline"]).or_else(|_| cargo_metadata(&manifest, &[]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let found = metadata["packages"]
        .as_array()
        .and_then(|all| all.iter().find(|package| package["name"] == PACKAGE))
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or_else(|| format!("cargo metadata does not name {PACKAGE}"))?;
    Ok(Path::new(found).parent().ok_or("a manifest without a folder")?.to_owned())
}

fn cargo_metadata(manifest: &Path, more: &[&str]) -> Outcome<Vec<u8>> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(manifest)
        .args(more)
        .output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

fn walk(root: &Path, folder: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "proto")
            && let Ok(relative) = path.strip_prefix(root)
        {
            names.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

/// Joins encoded `FileDescriptorSet`s; the first definition of a file wins. Works on bytes, because decoding into
/// typed descriptors would lose the extension options.
fn merge(sets: &[Vec<u8>]) -> Outcome<Vec<u8>> {
    let mut seen = HashSet::new();
    let mut merged = Vec::new();
    for set in sets {
        let mut rest = set.as_slice();
        while !rest.is_empty() {
            let entry = rest;
            let file = take_field(&mut rest)?;
            let name = take_field(&mut &*file)?;
            if seen.insert(name) {
                merged.extend_from_slice(&entry[..entry.len() - rest.len()]);
            }
        }
    }
    Ok(merged)
}

/// Reads one length-delimited field: `file` of a set, or `name`, which protox writes first, of a file.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Outcome<&'a [u8]> {
    let (tag, kind) = prost::encoding::decode_key(bytes)?;
    if tag != 1 || kind != prost::encoding::WireType::LengthDelimited {
        return Err("not a descriptor set as protox writes it".into());
    }
    let length = usize::try_from(prost::encoding::decode_varint(bytes)?)?;
    let (field, rest) = bytes.split_at_checked(length).ok_or("a truncated descriptor set")?;
    *bytes = rest;
    Ok(field)
}
