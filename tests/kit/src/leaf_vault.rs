//! A Vault that signs the leaves of one world, by a role and with a login that may do what Credence asks for and nothing
//! else.

use certs::{Certificate, certificates_from_pem};
use serde_json::{Value, json};

use crate::{TestWorld, Vault, VaultPki};

/// Its role.
pub const ROLE: &str = "svid";
/// Its policy and login.
const LOGIN: &str = "credence";

/// The Vault, its root and the login.
#[derive(Debug)]
pub struct LeafVault {
    /// The Vault.
    pub vault: Vault,
    /// The root that signs.
    pub pki: VaultPki,
    role_id: String,
}

impl LeafVault {
    /// With a root of its own; the root and the secret id stand in the world's folder, as `anchor.pem` and `secret-id`.
    /// `None`, and said loudly, where there is no Vault.
    ///
    /// # Panics
    /// When it does not do what it is told.
    pub async fn start(world: &TestWorld) -> Option<Self> {
        let vault = Vault::start().await?;
        let pki = vault.pki("pki").await;
        vault.role("pki", ROLE, world.domain(), json!({})).await;
        write(world, "anchor.pem", &pki.root);
        let (role_id, secret_id) = vault.approle(LOGIN, &[LOGIN], json!({})).await;
        write(world, "secret-id", &secret_id);
        let corp = Self { vault, pki, role_id };
        corp.grant(world, ROLE).await;
        Some(corp)
    }

    /// Whom its leaves lead to.
    ///
    /// # Panics
    /// When its root cannot be read.
    #[must_use]
    pub fn roots(&self) -> Vec<Certificate> {
        roots(&self.pki.root)
    }

    /// Writes the policy that is printed for a role.
    ///
    /// # Panics
    /// When none is printed.
    pub async fn grant(&self, world: &TestWorld, role: &str) {
        let print = ["issuer", "add", "vault", "corp", "--issuer", &self.pki.issuer, "--role", role];
        self.grant_printed(world, &[&print[..], &["--print-policy"]].concat()).await;
    }

    /// Writes the policy that a command prints.
    ///
    /// # Panics
    /// When it prints none.
    pub async fn grant_printed(&self, world: &TestWorld, command: &[&str]) {
        let (code, policy, words) = world.run(command).await;
        assert_eq!(code, 0, "{words}");
        self.vault.policy(LOGIN, &policy).await;
    }

    /// `issuer add vault` with a role, and with further words; its exit code, what it says, and what is wrong.
    pub async fn add(
        &self,
        world: &TestWorld,
        name: &str,
        role: &str,
        further: &[&str],
    ) -> (i32, String, String) {
        let (ca_file, addresses) = (self.vault.ca_file().display().to_string(), self.vault.addresses());
        let words = ["issuer", "add", "vault", name, "--addr", &addresses[0], "--ca-file", &ca_file];
        let of = ["--issuer", &self.pki.issuer, "--role", role, "--trust-anchor", "anchor.pem"];
        let login = ["--login", "approle", "--role-id", &self.role_id, "--credential-file", "secret-id"];
        world.run(&[&words[..], &of, &login, further].concat()).await
    }

    /// Has the engine make another root; its id. The root stands in the world's folder under the name of `file`, and is
    /// answered, too.
    ///
    /// # Panics
    /// When it makes none.
    pub async fn another_root(&self, world: &TestWorld, file: &str) -> (String, Vec<Certificate>) {
        let root = json!({ "common_name": "Corp root 2", "key_type": "ec", "key_bits": 256, "ttl": "8760h" });
        let made = self.vault.write("pki/root/generate/internal", root).await;
        let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        write(world, file, &text("certificate"));
        (text("issuer_id"), roots(&text("certificate")))
    }

    /// Has the engine make another authority below its root; its id.
    ///
    /// # Panics
    /// When it makes none.
    pub async fn below(&self, common_name: &str) -> String {
        let key = json!({ "common_name": common_name, "key_type": "ec", "key_bits": 256 });
        let made = self.vault.write("pki/intermediate/generate/internal", key).await;
        let request = json!({
            "csr": made["csr"], "common_name": common_name, "exclude_cn_from_sans": true, "ttl": "4380h",
            "max_path_length": 0,
        });
        let root = &self.pki.issuer;
        let signed = self.vault.write(&format!("pki/issuer/{root}/sign-intermediate"), request).await;
        let chain = json!({ "certificate": signed["certificate"] });
        let taken = self.vault.write("pki/intermediate/set-signed", chain).await;
        let id = taken["imported_issuers"][0].as_str().unwrap_or_else(|| panic!("{taken}"));
        id.to_owned()
    }
}

/// One issuer as it is listed.
///
/// # Panics
/// When it is not.
pub async fn listed_issuer(world: &TestWorld, name: &str) -> Value {
    let listed = world.command(&["issuer", "list"]).await;
    let all = listed.as_array().cloned().unwrap_or_default();
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{listed:#}")).clone()
}

fn write(world: &TestWorld, name: &str, text: &str) {
    let path = world.sandbox().path(name);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn roots(pem: &str) -> Vec<Certificate> {
    let ders = certificates_from_pem(pem.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let root = |der: &Vec<u8>| Certificate::from_der(der).unwrap_or_else(|error| panic!("{error}"));
    ders.iter().map(root).collect()
}
