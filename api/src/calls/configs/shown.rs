//! Whether the certificates that listeners show are there for the nodes that show them. Envoy takes a listener without
//! its certificate all the same, and closes the connections that come: so whoever applies one hears of it first.

use certs::{Imported, Timestamp};
use sds::ImportedSecret;
use spiffe::{BindingState, SecretName};
use xds::model::{Document, Spec, Warning};

use super::Manager;
use crate::calls::{CallError, error::count};

/// The most nodes that a warning names.
const MAX_NAMED: usize = 3;

impl Manager {
    /// A warning for each certificate that a listener of `documents` shows, and that a node which they reach does not
    /// get, or whose time has not come by `now`.
    pub(super) async fn unserved(
        &self,
        documents: &[Document],
        now: Timestamp,
    ) -> Result<Vec<Warning>, CallError> {
        let shown: Vec<_> = documents.iter().flat_map(shown).collect();
        if shown.is_empty() {
            return Ok(Vec::new());
        }
        let secrets = self.stores.secrets.secrets().await?;
        let warning = |(document, listener, name): (&Document, &str, &SecretName)| {
            let Some(why) = self.missing(document, name, &secrets) else {
                return too_early(document, listener, name, &secrets, now);
            };
            let message = format!(
                "listener {listener:?} shows secret {name}, {why}: nodes take the listener all the same, and close every \
                 connection to it"
            );
            let hint = "first set the secret and grant it to an identity of these nodes: credence secret set";
            Some(Warning(document.problem("certificate-not-there", message, hint)))
        };
        Ok(shown.into_iter().filter_map(warning).collect())
    }

    /// Why the nodes of a document do not get a certificate, if so.
    fn missing(&self, document: &Document, name: &SecretName, secrets: &[ImportedSecret]) -> Option<String> {
        let Some(secret) = of(document, name, secrets) else {
            return Some("which does not exist".to_owned());
        };
        if matches!(secret.value, Imported::Generic(_)) {
            return Some("which holds no certificate".to_owned());
        }
        let (bindings, blocks) = (self.bindings.borrow(), self.blocks.borrow());
        let grants = &secret.facts.grants;
        let without: Vec<&str> = bindings
            .iter()
            .filter(|binding| binding.state == BindingState::Enabled && document.reaches(binding))
            .filter(|binding| {
                !binding.identities.iter().any(|id| grants.contains(id) && !blocks.contains(id))
            })
            .map(|binding| binding.node.as_str())
            .collect();
        let named = without.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
        match without.len().checked_sub(MAX_NAMED) {
            _ if without.is_empty() => None,
            Some(more @ 1..) => {
                let more = count(more, "more node", "more nodes");
                Some(format!("which is granted to no identity of {named} and {more}"))
            }
            _ => Some(format!("which is granted to no identity of {named}")),
        }
    }
}

/// A warning of a certificate whose time has not come.
fn too_early(
    document: &Document,
    listener: &str,
    name: &SecretName,
    secrets: &[ImportedSecret],
    now: Timestamp,
) -> Option<Warning> {
    let begins = of(document, name, secrets)?.value.not_before().filter(|begins| *begins > now)?;
    let message = format!(
        "listener {listener:?} shows secret {name}, whose certificate begins at {begins} only: until then whoever verifies \
         it refuses it"
    );
    let hint = "set a certificate that is valid now: credence secret rotate";
    Some(Warning(document.problem("certificate-too-early", message, hint)))
}

/// The secret of that name, as the document's owner has it.
fn of<'a>(
    document: &Document,
    name: &SecretName,
    secrets: &'a [ImportedSecret],
) -> Option<&'a ImportedSecret> {
    secrets.iter().find(|one| one.facts.tenant == document.key.tenant && one.facts.name == *name)
}

/// The listeners that show a secret, each with its document.
pub(super) fn listeners_with<'a>(
    documents: impl Iterator<Item = &'a Document>,
    secret: &SecretName,
) -> Vec<String> {
    let all = documents.flat_map(shown).filter(|(_, _, name)| *name == secret);
    all.map(|(document, listener, _)| format!("listener {listener} of {}", document.key)).collect()
}

/// The imported certificates that the listeners of a document show, each with the name of the listener.
fn shown(document: &Document) -> impl Iterator<Item = (&Document, &str, &SecretName)> {
    let listeners = match &document.spec {
        Spec::ProxyConfig(config) => config.listeners.as_slice(),
        Spec::Endpoints(_) => &[],
    };
    let tls = listeners.iter().filter_map(|one| Some((one, one.tls.as_ref()?)));
    tls.filter_map(move |(listener, tls)| Some((document, listener.name.as_ref(), tls.certificate.as_ref()?)))
}
