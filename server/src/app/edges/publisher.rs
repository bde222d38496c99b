//! Who publishes TXT records for DNS-01: a program of this host, or a name server that takes updates.

mod update;

use std::{future::Future, path::PathBuf, time::Duration};

use acme::Presented;
use api::ports::DnsPublisher;
use certs::{Clock, SecretBytes};

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

/// Does it with each of these.
///
/// # Errors
/// In words, of the first that is not done.
pub(super) async fn carry_out(
    publisher: &DnsPublisher,
    allowed: &[PathBuf],
    key: Option<&SecretBytes>,
    clock: &dyn Clock,
    deed: Deed,
    presented: &[Presented],
) -> Result<(), String> {
    for one in presented {
        let (record, value) = (one.record_name(), one.record_value());
        match publisher {
            DnsPublisher::Command { program } if !allowed.contains(program) => {
                return Err(format!(
                    "{} is none of edges.dns_commands in credence.yaml any more: name it there",
                    program.display()
                ));
            }
            DnsPublisher::Command { program } => {
                let program = program.to_string_lossy().into_owned();
                let words = [program.clone(), deed.word().to_owned(), record, value];
                in_time(&program, run_command(&words, b"")).await?;
            }
            DnsPublisher::Update { server, zone, key: name, algorithm } => {
                let zone = Zone::parse(server, zone, name, algorithm)?;
                let key = key.ok_or("the key that signs updates is missing")?;
                in_time(server, zone.send(deed, &record, &value, key, clock.now())).await?;
            }
        }
    }
    Ok(())
}

async fn in_time(who: &str, done: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let done = tokio::time::timeout(TIMEOUT, done).await;
    done.map_err(|_| format!("{who} did not end within {} s", TIMEOUT.as_secs()))?
}
