//! From what is kept of an ACME server to a client of it.

use std::{sync::Arc, time::Duration};

use acme::{Client, Settings, Url};
use api::ports::AcmeSettings;
use certs::Clock;

/// How long one request has for an answer. Validation and issuance are not waited for in one, they are looked at.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A client of the server.
///
/// # Errors
/// In words.
pub(super) fn client(acme: &AcmeSettings, clock: &Arc<dyn Clock>) -> Result<Client, String> {
    let mut settings = Settings::new(url(&acme.directory)?, acme.ca_file.clone());
    settings.timeout = TIMEOUT;
    Ok(Client::new(&settings, Arc::clone(clock)))
}

/// A URL of it.
///
/// # Errors
/// In words.
pub(super) fn url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| error.to_string())
}
