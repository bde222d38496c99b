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
        // What a clock that was behind said at the last try.
        let mut tried_by = None;
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
                    // A clock that was ahead was set right, perhaps, in one step or several: whoever goes by it does not
                    // believe what we hold yet. A try that brought nothing better is not made each time that it is read.
                    let by = self.clock_behind();
                    if by.is_some_and(|by| begins_after(held.as_ref(), by)) && (tried_by.is_none() || by < tried_by) {
                        due = self.clock.now();
                    }
                    continue
                }
                Ok(()) = self.anchor.changed() => { self.show(held.as_ref()); continue }
            }
            let now = self.clock.now();
            let life = held.as_ref().map(|(issued, _)| life_of(issued));
            tried_by = self.clock_behind();
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

    /// What the system's clock says while it is behind, where what we hold can be good by it as well.
    fn clock_behind(&self) -> Option<Timestamp> {
        let behind = self.time.borrow().behind()?;
        is_bridged(behind, self.lifetime).then(|| self.clock.now() - behind)
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

fn begins_after(held: Option<&(IssuedSvid, SecretKey)>, by: Timestamp) -> bool {
    held.is_some_and(|(issued, _)| issued.chain.leaf().not_before() > by)
}

/// Addresses and DNS names apart.
pub(crate) fn split_names(names: &[String]) -> (Vec<IpAddr>, Vec<String>) {
    let addresses = names.iter().filter_map(|name| name.parse().ok()).collect();
    let dns = names.iter().filter(|name| name.parse::<IpAddr>().is_err()).cloned().collect();
    (addresses, dns)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::atomic::{AtomicU64, Ordering},
    };

    use ca::clock::{State, Why};
    use certs::ManualClock;
    use spiffe::{IssueError, TrustDomain, fake::FakeIssuer};

    use super::*;

    const HOUR: u64 = 3600;

    /// A system's clock that somebody sets: so many seconds behind.
    #[derive(Debug)]
    struct Set(ManualClock, AtomicU64);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            self.0.now() - Duration::from_secs(self.1.load(Ordering::Relaxed))
        }

        fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            self.0.sleep_until(at)
        }
    }

    struct World {
        clock: ManualClock,
        wall: Arc<Set>,
        issuer: Arc<FakeIssuer>,
        time: watch::Sender<Reading>,
        shutdown: CancellationToken,
    }

    impl World {
        /// The clock is read when it is so many seconds behind; answers how often a certificate was asked for so far.
        async fn reads(&self, behind: u64) -> usize {
            self.wall.1.store(behind, Ordering::Relaxed);
            let state = State::Stopped { why: Why::Stepped, since: self.clock.now() };
            let skew_millis = -1000 * i64::try_from(behind).unwrap();
            self.time.send_replace(Reading { state, skew_millis });
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            self.issuer.seen().len()
        }
    }

    /// Where our own certificate is renewed by an authority of yesterday, while `body` goes on.
    async fn renewing(body: impl AsyncFnOnce(&World)) {
        let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
        let wall = Arc::new(Set(clock.clone(), AtomicU64::new(24 * HOUR)));
        let issuer = Arc::new(FakeIssuer::new("td", wall.clone()));
        wall.1.store(0, Ordering::Relaxed);
        let (_trust, trust) = watch::channel(Arc::new(issuer.trust()));
        let (_anchor, anchor) = watch::channel(Arc::default());
        let (_authority, authority) = watch::channel(None);
        let (time, reading) = watch::channel(Reading::default());
        let world = World { clock, wall, issuer, time, shutdown: CancellationToken::new() };
        let renewal = OwnRenewal {
            issuer: world.issuer.clone(),
            own: Arc::default(),
            id: TrustDomain::parse("td").unwrap().server_id(),
            names: vec!["localhost".into()],
            lifetime: Duration::from_secs(12 * HOUR),
            trust,
            anchor,
            authority,
            status: watch::Sender::default(),
            clock: Arc::new(world.clock.clone()),
            time: reading,
            unready: None,
        };
        let steered = async {
            body(&world).await;
            world.shutdown.cancel();
        };
        tokio::join!(renewal.run(world.shutdown.clone()), steered).0.unwrap();
    }

    #[tokio::test]
    async fn follows_a_clock_that_goes_back_in_several_steps() {
        renewing(async |world| {
            assert_eq!(world.reads(0).await, 1);
            assert_eq!(world.reads(HOUR).await, 2);
            assert_eq!(world.reads(HOUR).await, 2, "what is held is good by it");
            assert_eq!(world.reads(3 * HOUR).await, 3, "and by an earlier one it is not");
            assert_eq!(world.reads(2 * HOUR).await, 3);
            assert_eq!(world.reads(19 * HOUR).await, 3, "by one so early none can be good too");
            assert_eq!(world.reads(3 * HOUR).await, 3);
        })
        .await;
    }

    #[tokio::test]
    async fn a_clock_that_goes_back_has_a_try_that_failed_made_again_after_its_pause() {
        renewing(async |world| {
            assert_eq!(world.reads(0).await, 1);
            world.issuer.fail_with(Some(IssueError::Unavailable("down".into())));
            assert_eq!(world.reads(HOUR).await, 2);
            for _ in 0..5 {
                assert_eq!(world.reads(HOUR).await, 2, "not each time that the clock is read");
            }
            world.issuer.fail_with(None);
            world.clock.advance(Duration::from_secs(HOUR));
            assert_eq!(world.reads(2 * HOUR).await, 3);
            assert_eq!(world.reads(2 * HOUR).await, 3);
        })
        .await;
    }
}
