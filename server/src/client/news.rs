//! What the server says of its trust beside any answer: which bundle is in force, and whether the operator's
//! certificate leads to a root that no longer signs.

use std::sync::{PoisonError, atomic::Ordering};

use api::rest::{BUNDLE_SHA256, RENEW};
use http::{HeaderMap, Request, header};
use http_body_util::Full;

use super::{ANSWER_TIMEOUT, BUNDLE, Client, parse_bundle};
use crate::output::{Exit, Failure, note};

impl Client {
    /// Takes over what the server says of its trust beside an answer: while a root is being replaced, the next
    /// commands must know the new one before the old one is gone.
    pub(super) async fn hear(&self, headers: &HeaderMap) {
        if headers.contains_key(RENEW) && !self.told.swap(true, Ordering::Relaxed) {
            *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.directory.clone());
        }
        let told = headers.get(BUNDLE_SHA256).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let held = hex::encode(*self.held.lock().unwrap_or_else(PoisonError::into_inner));
        if told.is_empty() || told == held {
            return;
        }
        let taken = tokio::time::timeout(ANSWER_TIMEOUT, self.take_bundle(told)).await;
        match taken {
            Ok(Ok(())) => note("credence: bundle.crt replaced: the server's roots have changed"),
            Ok(Err(failure)) => note(&format!("credence: bundle.crt was not replaced: {}", failure.message)),
            Err(_) => note("credence: bundle.crt was not replaced: no answer"),
        }
    }

    async fn take_bundle(&self, hash: &str) -> Result<(), Failure> {
        let failed = |why: String| Failure::new(Exit::Failed, why, "");
        let request = Request::get("/api/v1/bundle")
            .header(header::HOST, &self.endpoint)
            .body(Full::default())
            .map_err(|error| failed(error.to_string()))?;
        let (status, _, pem) = self.exchange(request).await?;
        if !status.is_success() {
            return Err(failed(status.to_string()));
        }
        let bundle = parse_bundle(&pem, &self.domain).map_err(failed)?;
        if hex::encode(bundle.content_hash()) != hash {
            return Err(failed("the server sent another bundle than it named".to_owned()));
        }
        agent::files::write_private(&self.directory.join(BUNDLE), &pem)
            .map_err(|error| failed(error.to_string()))?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = bundle.content_hash();
        self.reload()
    }
}
