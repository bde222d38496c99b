//! What an operator gives of an issuer: settings, credential and root, judged before anybody is asked.

use std::{path::PathBuf, time::Duration};

use certs::{Certificate, SecretBytes, certificates_from_pem, is_self_signed, parse_duration};
use zeroize::Zeroizing;

use super::super::{CallError, Calls};
use crate::{
    ports::{VaultLogin, VaultSettings},
    wire,
};

/// The most addresses of one issuer.
const MAX_ADDRESSES: usize = 8;
/// The most bytes of a credential.
const MAX_CREDENTIAL: usize = 16 * 1024;

impl Calls {
    /// Where a Vault is and what it is to sign, as far as words alone say.
    pub(super) fn settings(&self, wanted: wire::VaultIssuer) -> Result<VaultSettings, CallError> {
        let wrong = |what: &'static str, why: String| CallError::Parameter { what, why };
        if wanted.addresses.is_empty() || wanted.addresses.len() > MAX_ADDRESSES {
            let why = format!("{} are given, 1 to {MAX_ADDRESSES} are taken", wanted.addresses.len());
            return Err(wrong("addresses", why));
        }
        for address in &wanted.addresses {
            if !address.starts_with("https://") || address.len() > 255 {
                return Err(wrong("addresses", format!("{address:?} is not https://HOST:PORT")));
            }
        }
        let of_login = login_files(&wanted.login).into_iter().map(|file| ("login", file));
        for (what, file) in std::iter::once(("ca_file", &wanted.ca_file)).chain(of_login) {
            if !file.is_absolute() {
                return Err(wrong(what, format!("{} is not absolute: the server reads it", file.display())));
            }
        }
        let is_segment = |text: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !text.is_empty() && text.len() <= 128 && !text.starts_with('.') && text.chars().all(is_allowed)
        };
        let is_path = |text: &str| text.len() <= 255 && text.split('/').all(is_segment);
        if !is_path(&wanted.mount) {
            return Err(wrong("mount", format!("{:?} is no path of a Vault", wanted.mount)));
        }
        if !is_segment(&wanted.issuer) {
            return Err(wrong("issuer", format!("{:?} is no id of an issuer", wanted.issuer)));
        }
        if let Some(role) = wanted.role.as_deref().filter(|text| !is_segment(text)) {
            return Err(wrong("role", format!("{role:?} is no name of a role")));
        }
        if wanted.role.is_some() && wanted.lifetime.is_some() {
            let why = "leaves live as long as all leaves do here (ca.leaf_lifetime)".to_owned();
            return Err(wrong("lifetime", why));
        }
        if let Some(namespace) = wanted.namespace.as_deref().filter(|text| !is_path(text)) {
            return Err(wrong("namespace", format!("{namespace:?} is no namespace of a Vault")));
        }
        if let Some(mount) = login_mount(&wanted.login).filter(|text| !is_path(text)) {
            return Err(wrong("login", format!("{mount:?} is no path of a Vault")));
        }
        let lifetime = match &wanted.lifetime {
            None => self.upstreams.lifetime(),
            Some(text) => {
                let why = || wrong("lifetime", format!("{text:?} is no duration, such as 30d"));
                parse_duration(text).filter(|life| *life >= Duration::from_secs(60)).ok_or_else(why)?
            }
        };
        Ok(VaultSettings {
            addresses: wanted.addresses,
            ca_file: wanted.ca_file,
            namespace: wanted.namespace,
            mount: wanted.mount,
            issuer: wanted.issuer,
            role: wanted.role,
            lifetime,
            login: wanted.login,
        })
    }
}

fn login_mount(login: &VaultLogin) -> Option<&str> {
    match login {
        VaultLogin::Token => None,
        VaultLogin::AppRole { mount, .. }
        | VaultLogin::Certificate { mount, .. }
        | VaultLogin::Jwt { mount, .. }
        | VaultLogin::Kubernetes { mount, .. } => Some(mount),
    }
}

/// The files of the server's host that a login reads.
fn login_files(login: &VaultLogin) -> Vec<&PathBuf> {
    match login {
        VaultLogin::Token | VaultLogin::AppRole { .. } => Vec::new(),
        VaultLogin::Certificate { chain, key, .. } => vec![chain, key],
        VaultLogin::Jwt { file, .. } | VaultLogin::Kubernetes { file, .. } => vec![file],
    }
}

pub(super) fn credential(login: &VaultLogin, given: Option<&wire::Hidden>) -> Result<SecretBytes, CallError> {
    let wrong = |why: String| CallError::Parameter { what: "credential", why };
    match (login.credential(), given) {
        (Some(what), None) => Err(wrong(format!("login by {} needs {what}", login.word()))),
        (None, Some(_)) => Err(wrong(format!("login by {} takes none", login.word()))),
        (None, None) => Ok(SecretBytes::new(Zeroizing::new(Vec::new()))),
        (Some(_), Some(text)) => {
            let trimmed = text.as_bytes().trim_ascii();
            if trimmed.is_empty() || trimmed.len() > MAX_CREDENTIAL {
                return Err(wrong(format!(
                    "it has {} bytes, 1 to {MAX_CREDENTIAL} are taken",
                    trimmed.len()
                )));
            }
            Ok(SecretBytes::new(Zeroizing::new(trimmed.to_vec())))
        }
    }
}

pub(super) fn unwrappable(login: &VaultLogin, is_wrapped: bool, dry_run: bool) -> Result<(), CallError> {
    let wrong = |why: &str| Err(CallError::Parameter { what: "credential", why: why.into() });
    match (is_wrapped, login) {
        (false, _) => Ok(()),
        (true, _) if dry_run => wrong("a wrapped one can be unwrapped once, and not by a dry run"),
        (true, VaultLogin::AppRole { .. }) => Ok(()),
        (true, _) => wrong("secret ids only come wrapped"),
    }
}

/// One self-signed certificate.
pub(super) fn anchor(pem: &str) -> Result<Certificate, CallError> {
    let wrong = |why: String| CallError::Parameter { what: "anchor", why };
    let ders = certificates_from_pem(pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let [der] = ders.as_slice() else {
        return Err(wrong(format!("{} certificates are given, the root alone is taken", ders.len())));
    };
    let root = Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
    if !is_self_signed(&root) {
        return Err(wrong(format!("{:?} is not self-signed: give the root above it", root.subject())));
    }
    Ok(root)
}
