//! Our own server certificate: asked for like any other, renewed by itself, put in place without a restart.
//! Its key lives in memory only; after a restart there is a new one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context;
use ca::{
    Anchor,
    clock::{Reading, is_bridged},
};
use certs::{Clock, Profile, SecretKey, Timestamp};
use sds::schedule::{Jitter, Life, retry_in};
use serde::Serialize;
use spiffe::{
    ActiveAuthority, IssuedSvid, Purpose, RequestId, SpiffeId, SvidIssuer, SvidRequest, Tenant, Trust,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{lifecycle::Guard, presentation::OwnCertificate};

/// When the authority that signed us was replaced, we follow within this time.
const AFTER_ROTATION: Duration = Duration::from_secs(1);

/// What is known of our own certificate.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OwnStatus {
    /// Its serial number.
    pub serial: Option<String>,
    /// When it was issued.
    pub issued: Option<Timestamp>,
    /// When it ends.
    pub not_after: Option<Timestamp>,
    /// Failed renewals since the process started.
    pub failures: u64,
    /// The last failure, until the next success.
    pub last_error: Option<String>,
}

impl OwnStatus {
    /// The life of the certificate in place.
    pub(crate) fn life(&self) -> Option<Life> {
        Some(Life { issued: self.issued?, expires: self.not_after? })
    }
}

/// Keeps our own certificate fresh.
pub(crate) struct OwnRenewal {
    pub(crate) issuer: Arc<dyn SvidIssuer>,
    pub(crate) own: Arc<OwnCertificate>,
    pub(crate) id: SpiffeId,
    pub(crate) names: Vec<String>,
    pub(crate) lifetime: Duration,
    pub(crate) trust: watch::Receiver<Arc<Trust>>,
    pub(crate) anchor: watch::Receiver<Arc<Anchor>>,
    pub(crate) authority: watch::Receiver<Option<ActiveAuthority>>,
    pub(crate) status: watch::Sender<OwnStatus>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How far the system's clock is to be believed.
    pub(crate) time: watch::Receiver<Reading>,
    /// Dropped when the first certificate is in place.
    pub(crate) unready: Option<Guard>,
}

impl OwnRenewal {
    /// Runs until `shutdown`. A failure never takes the certificate that is in place away.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut held: Option<(IssuedSvid, SecretKey)> = None;
        let mut failures = 0;
        let mut due = self.clock.now();
        let mut was_behind = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.clock.sleep_until(due) => {}
                changed = self.authority.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    due = due.min(self.clock.now() + Jitter::random().of(AFTER_ROTATION));
                    continue;
                }
                Ok(()) = self.trust.changed() => {
                    if self.is_revoked(held.as_ref()) {
                        due = self.clock.now();
                    }
                    self.show(held.as_ref());
                    continue
                }
                Ok(()) = self.time.changed() => {
                    // A clock that was ahead was set right, perhaps: whoever goes by it does not believe what we hold yet.
                    let behind = self.time.borrow_and_update().behind();
                    let is_behind = behind.is_some_and(|behind| is_bridged(behind, self.lifetime));
                    if is_behind && !was_behind {
                        due = self.clock.now();
                    }
                    was_behind = is_behind;
                    continue
                }
                Ok(()) = self.anchor.changed() => { self.show(held.as_ref()); continue }
            }
            let now = self.clock.now();
            let life = held.as_ref().map(|(issued, _)| life_of(issued));
            match self.renew(life).await {
                Ok(next) => {
                    failures = 0;
                    let next_life = life_of(&next.0);
                    held = Some(next);
                    due = next_life.renew_at(Jitter::random());
                    self.unready = None;
                }
                Err(error) => {
                    failures += 1;
                    let remaining = life.map(|life| life.remaining(now)).filter(|left| !left.is_zero());
                    due = self.clock.now() + retry_in(failures, remaining, Jitter::random());
                    tracing::warn!(error = format!("{error:#}"), next = %due, "own certificate was not renewed");
                    self.status.send_modify(|status| {
                        status.failures += 1;
                        status.last_error = Some(format!("{error:#}"));
                    });
                }
            }
        }
    }

    /// A certificate with a new key, proven to belong together.
    async fn renew(&self, current: Option<Life>) -> anyhow::Result<(IssuedSvid, SecretKey)> {
        let key = SecretKey::generate(Profile::Server.key_kind());
        let (ip_addresses, dns_names) = split_names(&self.names);
        let issued = self
            .issuer
            .issue(SvidRequest {
                id: self.id.clone(),
                profile: Profile::Server,
                public_key: key.public().clone(),
                lifetime: self.lifetime,
                dns_names,
                ip_addresses,
                tenant: Tenant::default(),
                node: None,
                issuer: None,
                purpose: Purpose::Server,
                deadline: current.map(|life| life.expires),
                spend: None,
                request_id: RequestId::random(),
            })
            .await
            .context("cannot get our own certificate")?;
        let (trust, anchor) = (self.trust.borrow().clone(), self.anchor.borrow().clone());
        self.own.install(&issued.chain, &key, &trust, &anchor)?;
        let not_after = issued.chain.leaf().not_after();
        self.status.send_modify(|status| {
            status.serial = Some(issued.chain.leaf().serial().to_string());
            status.issued = Some(issued.issued);
            status.not_after = Some(not_after);
            status.last_error = None;
        });
        tracing::info!(serial = %issued.chain.leaf().serial(), %not_after, "own certificate renewed");
        Ok((issued, key))
    }

    fn is_revoked(&self, held: Option<&(IssuedSvid, SecretKey)>) -> bool {
        let trust = self.trust.borrow().clone();
        held.is_some_and(|(issued, _)| trust.is_revoked(issued.authority, issued.chain.leaf().serial()))
    }

    /// Shows what is held in the ways that roots allow now: one came, or one went.
    fn show(&self, held: Option<&(IssuedSvid, SecretKey)>) {
        let Some((issued, key)) = held else { return };
        let (trust, anchor) = (self.trust.borrow().clone(), self.anchor.borrow().clone());
        if let Err(error) = self.own.install(&issued.chain, key, &trust, &anchor) {
            tracing::error!(%error, "own certificate cannot be shown");
        }
    }
}

fn life_of(issued: &IssuedSvid) -> Life {
    Life { issued: issued.issued, expires: issued.chain.leaf().not_after() }
}

/// Addresses and DNS names apart.
pub(crate) fn split_names(names: &[String]) -> (Vec<IpAddr>, Vec<String>) {
    let addresses = names.iter().filter_map(|name| name.parse().ok()).collect();
    let dns = names.iter().filter(|name| name.parse::<IpAddr>().is_err()).cloned().collect();
    (addresses, dns)
}
