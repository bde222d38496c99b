//! Somebody else's certification authority, run by the `openssl` command as its owner would: it knows nothing of ours,
//! and we see nothing of it but what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// An authority whose key lies in a folder of its own.
#[derive(Debug)]
pub struct Corp {
    folder: TempDir,
    /// The certificates from it up to its root, PEM.
    chain: String,
    key: PathBuf,
    passphrase: Option<PathBuf>,
}

const SETTINGS: &str = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nO = Example Corp\nCN = placeholder\n\
                        [authority]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n\
                        subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n\
                        [root]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n\
                        subjectKeyIdentifier = hash\n";

/// Runs `openssl`, which must succeed.
fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("openssl does not run: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {errors}");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
    let settings = fs::write(folder.path().join("settings.cnf"), SETTINGS);
    settings.unwrap_or_else(|error| panic!("settings of openssl: {error}"));
    folder
}

impl Corp {
    /// A root of that name; `key` is what `openssl req -newkey` takes, such as `rsa:3072`, and further options.
    ///
    /// # Panics
    /// When `openssl` is missing or refuses.
    #[must_use]
    pub fn root(name: &str, key: &[&str]) -> Self {
        let folder = folder();
        let subject = format!("/O=Example Corp/CN={name}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-newkey"];
        arguments.extend_from_slice(key);
        arguments.extend([
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "3650",
            "-config",
            "settings.cnf",
            "-extensions",
            "root",
            "-subj",
            &subject,
        ]);
        openssl(folder.path(), &arguments);
        let (chain, key) = (read(&folder.path().join("ca.pem")), folder.path().join("ca.key"));
        Self { folder, chain, key, passphrase: None }
    }

    /// One whose certificate and encrypted key stand in one file, beside the file with the passphrase.
    #[must_use]
    pub fn exported(file: &Path, passphrase: &Path) -> Self {
        let chain = read(file);
        let end = chain.find("-----BEGIN ENCRYPTED").unwrap_or(chain.len());
        let (chain, key) = (chain[..end].to_owned(), file.to_owned());
        Self { folder: folder(), chain, key, passphrase: Some(passphrase.to_owned()) }
    }

    /// Another authority below this one, on P-256.
    ///
    /// # Panics
    /// When `openssl` refuses.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let folder = folder();
        let subject = format!("/O=Example Corp/CN={name}");
        openssl(
            folder.path(),
            &[
                "req",
                "-nodes",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-keyout",
                "ca.key",
                "-out",
                "ca.csr",
                "-config",
                "settings.cnf",
                "-subj",
                &subject,
            ],
        );
        let signed = self.x509(
            &folder.path().join("ca.csr"),
            &["-extfile", "settings.cnf", "-extensions", "authority", "-days", "1000"],
        );
        let key = folder.path().join("ca.key");
        Self { folder, chain: format!("{signed}{}", self.chain), key, passphrase: None }
    }

    /// Signs a request as it asks for, for 30 days; answers the chain from it up to the root.
    ///
    /// # Panics
    /// When `openssl` refuses.
    #[must_use]
    pub fn sign(&self, request: &Path) -> String {
        let signed = self.x509(request, &["-copy_extensions", "copyall", "-days", "30"]);
        format!("{signed}{}", self.chain)
    }

    /// The certificates from it up to its root, PEM.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    fn x509(&self, request: &Path, more: &[&str]) -> String {
        let path = self.folder.path();
        let own = fs::write(path.join("own.pem"), &self.chain);
        own.unwrap_or_else(|error| panic!("own certificate: {error}"));
        let (request, key) = (request.display().to_string(), self.key.display().to_string());
        let passphrase = self.passphrase.as_ref().map(|file| format!("file:{}", file.display()));
        let mut arguments = vec![
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "own.pem",
            "-CAkey",
            &key,
            "-out",
            "signed.pem",
            "-sha384",
        ];
        if let Some(passphrase) = &passphrase {
            arguments.extend(["-passin", passphrase]);
        }
        arguments.extend_from_slice(more);
        openssl(path, &arguments);
        read(&path.join("signed.pem"))
    }
}
