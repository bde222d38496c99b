//! One hook, and one telling.

use std::sync::Arc;

use certs::{Timestamp, format_duration};
use serde::Serialize;
use spiffe::TrustDomain;
use tokio::{sync::Semaphore, time::timeout};

use super::{command, https, notice::Notice};
use crate::config::{HookConfig, HookTarget};

/// The version of the JSON that hooks get: fields are added to it, never given another meaning.
const VERSION: u32 = 1;

/// What stands around a notice.
#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    at: String,
    trust_domain: &'a str,
    #[serde(flatten)]
    notice: &'a Notice,
}

/// Tells one hook, one thing at a time.
pub(crate) struct Teller {
    pub(crate) config: HookConfig,
    trust_domain: TrustDomain,
    free: Semaphore,
}

impl Teller {
    /// Of a hook as it is configured.
    pub(crate) fn new(config: HookConfig, trust_domain: TrustDomain) -> Arc<Self> {
        Arc::new(Self { config, trust_domain, free: Semaphore::new(1) })
    }

    /// `command` or `https`.
    pub(crate) fn way(&self) -> &'static str {
        match self.config.target {
            HookTarget::Command(_) => "command",
            HookTarget::Url { .. } => "https",
        }
    }

    /// Tells it, after what it is being told already.
    ///
    /// # Errors
    /// In words, when it did not take the notice in its time.
    pub(crate) async fn tell(&self, notice: &Notice, now: Timestamp) -> Result<(), String> {
        let Ok(_one) = self.free.acquire().await else { return Err("it is gone".to_owned()) };
        self.tell_now(notice, now).await
    }

    /// Tells it, unless it is being told something else: then nothing is answered.
    pub(crate) async fn try_tell(&self, notice: &Notice, now: Timestamp) -> Option<Result<(), String>> {
        let _one = self.free.try_acquire().ok()?;
        Some(self.tell_now(notice, now).await)
    }

    async fn tell_now(&self, notice: &Notice, now: Timestamp) -> Result<(), String> {
        let (json, limit) = (self.json(notice, now), self.config.timeout);
        let told = async {
            match &self.config.target {
                HookTarget::Command(words) => command::run(words, &json).await,
                HookTarget::Url { url, ca_file } => https::post(url, ca_file, json, limit).await,
            }
        };
        let late = || Err(format!("not done within {}", format_duration(limit)));
        timeout(limit, Box::pin(told)).await.unwrap_or_else(|_| late())
    }

    fn json(&self, notice: &Notice, now: Timestamp) -> Vec<u8> {
        let (at, trust_domain) = (now.to_string(), self.trust_domain.as_str());
        let envelope = Envelope { version: VERSION, at, trust_domain, notice };
        let mut json = serde_json::to_vec(&envelope).expect("texts and numbers have a JSON form");
        json.push(b'\n');
        json
    }
}
