//! Who publishes TXT records for DNS-01: a program of this host, or a name server that takes updates.

mod everywhere;
mod update;

use std::{future::Future, path::PathBuf, time::Duration};

use acme::Presented;
use api::ports::DnsPublisher;
use certs::{Clock, SecretBytes};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

pub(super) use self::update::Zone;
use crate::hooks::run_command;

/// How long one record may take.
const TIMEOUT: Duration = Duration::from_secs(25);

/// What is done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Publish,
    Withdraw,
}

impl Deed {
    fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Withdraw => "withdraw",
        }
    }
}

/// How many records are worked on at a time.
const AT_A_TIME: usize = 8;

/// Who publishes, and with what.
pub(super) struct Publisher<'a> {
    pub(super) how: &'a DnsPublisher,
    /// The programs that may be run.
    pub(super) allowed: &'a [PathBuf],
    /// What signs updates.
    pub(super) key: Option<&'a SecretBytes>,
    pub(super) clock: &'a dyn Clock,
}

impl Publisher<'_> {
    /// Does it with each of these, also after one of them failed. Each is taken out of `presented` when it is done, so
    /// that it is known also where this is stopped half-way.
    ///
    /// # Errors
    /// In words, of the first that is not done.
    pub(super) async fn carry_out(&self, deed: Deed, presented: &mut Vec<Presented>) -> Result<(), String> {
        let all = presented.clone();
        let mut waiting: Vec<BoxFuture<'_, (&Presented, Result<(), String>)>> =
            all.iter().map(|one| Box::pin(async move { (one, self.one(deed, one).await) }) as _).collect();
        let (mut running, mut outcome) = (FuturesUnordered::new(), Ok(()));
        loop {
            while running.len() < AT_A_TIME
                && let Some(next) = waiting.pop()
            {
                running.push(next);
            }
            match running.next().await {
                Some((one, done)) => {
                    if done.is_ok() {
                        presented.retain(|other| other != one);
                    }
                    outcome = outcome.and(done);
                }
                None => return outcome,
            }
        }
    }

    /// Comes back when these can be found, whichever name server somebody asks. What a program publishes it may wait for
    /// itself.
    ///
    /// # Errors
    /// In words, of a name server that does not have them by `until`.
    pub(super) async fn await_everywhere(
        &self,
        presented: &[Presented],
        until: Instant,
    ) -> Result<(), String> {
        let DnsPublisher::Update { server, zone, key, algorithm } = self.how else { return Ok(()) };
        let zone = Zone::parse(server, zone, key, algorithm)?;
        let records: Vec<(String, String)> =
            presented.iter().map(|one| (one.record_name(), one.record_value())).collect();
        zone.await_everywhere(&records, everywhere::PORT, until).await
    }

    async fn one(&self, deed: Deed, presented: &Presented) -> Result<(), String> {
        let (record, value) = (presented.record_name(), presented.record_value());
        match self.how {
            DnsPublisher::Command { program } if !self.allowed.contains(program) => Err(format!(
                "{} is none of edges.dns_commands in credence.yaml any more: name it there",
                program.display()
            )),
            DnsPublisher::Command { program } => {
                let program = program.to_string_lossy().into_owned();
                let words = [program.clone(), deed.word().to_owned(), record, value];
                in_time(&program, run_command(&words, b"")).await
            }
            DnsPublisher::Update { server, zone, key: name, algorithm } => {
                let zone = Zone::parse(server, zone, name, algorithm)?;
                let key = self.key.ok_or("the key that signs updates is missing")?;
                in_time(server, zone.send(deed, &record, &value, key, self.clock.now())).await
            }
        }
    }
}

async fn in_time(who: &str, done: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let done = tokio::time::timeout(TIMEOUT, done).await;
    done.map_err(|_| format!("{who} did not end within {} s", TIMEOUT.as_secs()))?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use acme::{ChallengeKind, Identifier};

    use super::*;
    use crate::clock::SystemClock;

    fn presented(name: &str) -> Presented {
        Presented {
            name: Identifier::parse(name).unwrap(),
            kind: ChallengeKind::Dns01,
            token: "token".to_owned(),
            key_authorization: "token.thumb".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_done_is_known_though_something_else_fails() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("dns");
        let text = "#!/bin/sh\ncase $2 in *bad*) echo not found >&2; exit 1;; esac\n";
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let allowed = [program.clone()];
        let how = DnsPublisher::Command { program };
        let publisher = Publisher { how: &how, allowed: &allowed, key: None, clock: &SystemClock };
        let names: Vec<String> = (0..20).map(|number| format!("{number}.example")).collect();
        let mut all: Vec<Presented> = names.iter().map(|name| presented(name)).collect();
        all.insert(7, presented("bad.example"));
        let why = publisher.carry_out(Deed::Withdraw, &mut all).await.unwrap_err();
        assert!(why.contains("not found"), "{why}");
        assert_eq!(all, [presented("bad.example")]);
    }
}
