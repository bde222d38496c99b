//! From what is kept of an issuer to a session at its Vault.

use std::{sync::Arc, time::Duration};

use api::ports::{VaultLogin, VaultSettings};
use certs::SecretBytes;
use vault::{
    Address, Addresses, Client, Credentials, IdentityFiles, Keeper, Mount, Name, Policy, Secret, SecretId,
    Settings, pki::Issuer,
};

use super::UpstreamInputs;

/// How long one node of a Vault has for an answer: an operator's call waits for several.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The authority of a Vault that signs.
///
/// # Errors
/// In words.
pub(super) fn issuer(vault: &VaultSettings) -> Result<Issuer, String> {
    authority(vault, &vault.issuer)
}

/// An authority of the same mount, by its id.
///
/// # Errors
/// In words.
pub(super) fn authority(vault: &VaultSettings, id: &str) -> Result<Issuer, String> {
    let mount = Mount::parse(&vault.mount).map_err(|error| error.to_string())?;
    let id = Name::parse(id).map_err(|error| error.to_string())?;
    Ok(Issuer { mount, id })
}

/// The role by which it signs leaves, if it does.
///
/// # Errors
/// In words.
pub(super) fn role(vault: &VaultSettings) -> Result<Option<Name>, String> {
    vault.role.as_deref().map(Name::parse).transpose().map_err(|error| error.to_string())
}

/// A client of a Vault and the keeper of its session, which does nothing before it runs.
///
/// # Errors
/// In words.
pub(super) fn open(
    inputs: &UpstreamInputs,
    vault: &VaultSettings,
    credential: &SecretBytes,
) -> Result<(Client, Keeper), String> {
    let addresses = vault.addresses.iter().map(|text| Address::parse(text)).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.and_then(Addresses::try_new).map_err(|error| error.to_string())?;
    let mut settings = Settings::new(addresses, vault.ca_file.clone());
    settings.timeout = TIMEOUT;
    let namespace = vault.namespace.as_deref().map(Mount::parse).transpose();
    settings.namespace = namespace.map_err(|error| error.to_string())?;
    let issuer = issuer(vault)?;
    let domain = inputs.domain.as_str();
    let policy = match role(vault)? {
        Some(role) => Policy::leaves(&issuer.mount, [&issuer.id], &role, domain),
        None => Policy::authorities(&issuer.mount, &issuer.id, domain),
    };
    let narrow = Some((policy, vec![issuer.mount]));
    let credentials = credentials(&vault.login, credential)?;
    Ok(Client::new(settings, credentials, narrow, Arc::clone(&inputs.clock)))
}

fn credentials(login: &VaultLogin, credential: &SecretBytes) -> Result<Credentials, String> {
    let mount = |text: &str| Mount::parse(text).map_err(|error| error.to_string());
    let name = |text: &str| Name::parse(text).map_err(|error| error.to_string());
    let secret = || Secret::of(credential).map_err(|error| format!("the credential {error}"));
    Ok(match login {
        VaultLogin::Token => Credentials::Token(Arc::new(secret()?)),
        VaultLogin::AppRole { mount: at, role_id } => Credentials::AppRole {
            mount: mount(at)?,
            role: None,
            role_id: Secret::of_text(role_id).map_err(|error| format!("the role id {error}"))?,
            secret_id: SecretId::Plain(secret()?),
        },
        VaultLogin::Certificate { mount: at, role, chain, key } => Credentials::Certificate {
            mount: mount(at)?,
            role: role.as_deref().map(name).transpose()?,
            files: IdentityFiles { chain: chain.clone(), key: key.clone() },
        },
        VaultLogin::Jwt { mount: at, role, file } => {
            Credentials::Jwt { mount: mount(at)?, role: Some(name(role)?), file: file.clone() }
        }
        VaultLogin::Kubernetes { mount: at, role, file } => {
            Credentials::Kubernetes { mount: mount(at)?, role: name(role)?, file: file.clone() }
        }
    })
}
