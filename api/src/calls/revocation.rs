//! Revoking one certificate: who refuses it from when on, and who does not.

use std::time::Duration;

use audit::Action;
use ca::{
    ListsStatus, Revoke, RevokeRefusal,
    ports::{Authorities, AuthorityState, CertificateFilter, CertificateRow, Journal, RevokeError},
    revocable,
};
use certs::{Profile, RevocationReason, Serial, SerialStart, Timestamp};
use spiffe::{AuthorityId, Class};

use super::{CallError, Caller, Calls, trust::unavailable};
use crate::{sources::ListUptake, wire};

/// How long an answer waits for the list and for proxies to acknowledge it.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// Rows that are read at a time.
const PAGE: usize = 500;
/// Names of one list in an answer.
const MAX_NAMES: usize = 100;

impl Calls {
    /// Revokes a certificate: our doors refuse it and end its connections, a proxy that shows it gets another, and it
    /// is on the next revocation list, where there are lists. Then the answer waits for the proxies' acknowledgements,
    /// [`PATIENCE`] at most.
    ///
    /// # Errors
    /// When there is no such certificate, it counts no more anyway, or it is the one by which the caller comes.
    pub async fn revoke(
        &self,
        caller: &Caller,
        serial: &str,
        wanted: &wire::Revoke,
    ) -> Result<wire::Revocation, CallError> {
        let bad = |what, why: String| CallError::Parameter { what, why };
        let code: RevocationReason = match wanted.code.as_str() {
            "" => RevocationReason::default(),
            word => word.parse().map_err(|error: certs::UnknownReason| bad("code", error.to_string()))?,
        };
        let row = self.certificate_row(caller, serial).await?;
        let serial = row.intent.serial.clone();
        let now = self.clock.now();
        revocable(&row, now).map_err(|refusal| refused(&serial, refusal))?;
        // Not by the name: whoever stole a copy may have renewed it, and the owner must be able to end that.
        if caller.certificate.as_ref() == Some(&serial) {
            return Err(CallError::Policy(format!(
                "{serial} is your own, by which you come now: you would lock yourself out"
            )));
        }
        let is_newest = self.is_newest(&row).await?;
        let lists = self.revoking.lists();
        let issuer =
            self.outside_authorities().await?.remove(&row.intent.authority).map(|issuer| issuer.name);
        let mut outcome = wire::Revocation {
            dry_run: wanted.dry_run,
            certificate: wire::Certificate {
                issuer: issuer.as_ref().map(ToString::to_string),
                ..super::trust::shown_certificate(&row, now)
            },
            steps: steps(&row, is_newest, lists.as_ref()),
            limits: match &issuer {
                Some(issuer) => vec![format!(
                    "proxies accept it until it ends at {}: it is of issuer {issuer}, which alone revokes what it \
                     signed; credence identity block {} --now makes them refuse every certificate of the identity at \
                     once",
                    row.intent.not_after, row.intent.id
                )],
                None => limits(&row, lists.as_ref()),
            },
            unlisted: None,
            uptake: None,
            took_ms: None,
        };
        if wanted.dry_run {
            return Ok(outcome);
        }
        let mut event = caller
            .event(now, Action::CertificateRevoke, row.intent.id.as_str())
            .with("serial", &serial)
            .with("authority_id", row.intent.authority)
            .with("code", code)
            .with("not_after", row.intent.not_after);
        event.reason.clone_from(&wanted.reason);
        if let Some(node) = &row.intent.node {
            event = event.with("node_id", node);
        }
        let revoke = Revoke { authority: row.intent.authority, serial: serial.clone(), reason: code };
        self.revoking.revoke(revoke, event).await.map_err(|refusal| refused(&serial, refusal))?;
        outcome.certificate = wire::Certificate {
            state: "revoked".to_owned(),
            revoked: Some(now.to_string()),
            ..outcome.certificate
        };
        if lists.is_some_and(|lists| lists.is_shown) {
            // It is revoked whoever has it on a list.
            if let Err(error) = self.await_lists(&serial, &mut outcome).await {
                tracing::warn!(%error, "which proxies have the list of a revocation is not known");
                outcome.limits.push(
                    "which proxies have its list cannot be told now; the server's log says why".to_owned(),
                );
            }
        }
        Ok(outcome)
    }

    async fn certificate_row(&self, caller: &Caller, serial: &str) -> Result<CertificateRow, CallError> {
        if let Some(row) = self.find_certificate(caller, serial).await? {
            return Ok(row);
        }
        let start = serial.parse::<SerialStart>();
        let authorities =
            self.authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
        let is_it = |record: &&ca::ports::AuthorityRecord| {
            let is_meant = start.as_ref().is_ok_and(|start| start.is_of(record.certificate.serial()));
            is_meant && record.state != AuthorityState::Removed
        };
        match authorities.iter().find(is_it) {
            Some(authority) => Err(CallError::Policy(format!(
                "{serial} is authority {id}: ca emergency --authority {id} if its key is stolen, ca rotate if it is to go",
                id = authority.id
            ))),
            None => Err(CallError::NotFound { what: "certificate", name: serial.to_string() }),
        }
    }

    /// Whether it is the last that was issued to its identity at its node.
    async fn is_newest(&self, row: &CertificateRow) -> Result<bool, CallError> {
        let filter = CertificateFilter {
            id: Some(row.intent.id.clone()),
            serial: Some(row.intent.serial.clone()),
            newest_only: true,
            limit: 1,
            ..CertificateFilter::default()
        };
        let rows =
            self.journal.certificates(&filter).await.map_err(|error| unavailable("journal", &error))?;
        Ok(!rows.is_empty())
    }

    /// Waits until the revocation is on a list that no connected proxy is left to acknowledge.
    async fn await_lists(&self, serial: &Serial, outcome: &mut wire::Revocation) -> Result<(), CallError> {
        let start = self.clock.now();
        let settled = async {
            loop {
                let lists = self.revoking.lists().unwrap_or_default();
                let is_listed = lists.is_shown && !lists.unlisted.contains(serial);
                let uptake = self.revoking.uptake().await?;
                if is_listed && uptake.waiting.is_empty() {
                    return Ok::<ListUptake, CallError>(uptake);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let uptake = match tokio::time::timeout(PATIENCE, settled).await {
            Ok(uptake) => uptake?,
            Err(_) => {
                // Everybody may have acknowledged lists that do not name it.
                outcome.unlisted = unlisted(serial, self.revoking.lists().as_ref());
                self.revoking.uptake().await?
            }
        };
        let took = self.clock.now().since(start);
        outcome.took_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        outcome.uptake = Some(wire::ListUptake {
            proxies: uptake.proxies,
            acknowledged: uptake.acknowledged,
            waiting: uptake.waiting.into_iter().take(MAX_NAMES).collect(),
        });
        Ok(())
    }
}

/// The revoked certificates of workloads that have not ended at `now`, of our own authorities: an issuer beside has lists
/// of its own.
///
/// # Errors
/// When the store cannot read.
pub async fn still_revoked(
    authorities: &dyn Authorities,
    journal: &dyn Journal,
    now: Timestamp,
) -> Result<Option<wire::StillRevoked>, CallError> {
    let records = authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
    // What a removed one signed nobody believes.
    let believed = records.iter().filter(|record| record.state != AuthorityState::Removed);
    let ours: Vec<AuthorityId> = believed.map(|record| record.id).collect();
    let (mut ends, mut offset) = (Vec::new(), 0);
    while !ours.is_empty() {
        let filter = CertificateFilter {
            authorities: ours.clone(),
            profile: Some(Profile::Workload),
            valid_at: Some(now),
            revoked_only: true,
            limit: PAGE,
            offset,
            ..CertificateFilter::default()
        };
        let rows = journal.certificates(&filter).await.map_err(|error| unavailable("journal", &error))?;
        ends.extend(rows.iter().map(|row| row.intent.not_after));
        if rows.len() < PAGE {
            break;
        }
        offset += PAGE;
    }
    let ended = ends.iter().min().zip(ends.iter().max());
    Ok(ended.map(|(first, last)| wire::StillRevoked {
        certificates: ends.len(),
        first_ends: first.to_string(),
        last_ends: last.to_string(),
    }))
}

/// Why a revoked certificate is on no list that is shown, if it is on none.
fn unlisted(serial: &Serial, lists: Option<&ListsStatus>) -> Option<String> {
    let lists = lists.filter(|lists| !lists.is_shown || lists.unlisted.contains(serial))?;
    Some(match (&lists.last_failure, lists.is_shown) {
        (Some(failure), _) => failure.clone(),
        (None, false) => "no lists are shown now".to_owned(),
        (None, true) => "its list is still being made".to_owned(),
    })
}

fn refused(serial: &Serial, refusal: RevokeRefusal) -> CallError {
    let (what, name) = ("certificate", serial.to_string());
    match refusal {
        RevokeRefusal::NotFound => CallError::NotFound { what, name },
        RevokeRefusal::NeverIssued(why) => {
            CallError::Conflict { what, name, why: format!("was never issued: {why}") }
        }
        RevokeRefusal::Expired(at) => {
            CallError::Conflict { what, name, why: format!("expired at {at}, nothing accepts it") }
        }
        RevokeRefusal::Store(RevokeError::Already(at)) => {
            CallError::Conflict { what, name, why: format!("was revoked at {at}") }
        }
        RevokeRefusal::Store(error @ RevokeError::Full) => CallError::Policy(format!(
            "{error}: block the identity, or replace the authority (ca emergency) if so many keys are known to others"
        )),
        RevokeRefusal::Store(RevokeError::Unavailable(why)) => CallError::Unavailable { part: "store", why },
        RevokeRefusal::Journal(error) => unavailable("journal", &error),
        RevokeRefusal::Unavailable => CallError::stopped("authority"),
    }
}

/// What is done, in the order in which it takes effect.
fn steps(row: &CertificateRow, is_newest: bool, lists: Option<&ListsStatus>) -> Vec<String> {
    let intent = &row.intent;
    let mut steps = Vec::new();
    match (intent.profile, intent.id.class()) {
        (Profile::Node, Ok(Class::Node(node))) => {
            steps.push("refuse it on 18000 at once, and end its connections".to_owned());
            if is_newest {
                steps.push(format!(
                    "{node} has no other certificate: it is out until it joins again, by credence proxy enroll {node} --replace"
                ));
            }
        }
        (Profile::Operator, _) => {
            steps.push("refuse it on 8080 at once, and end its connections".to_owned());
        }
        (Profile::Server, _) => steps.push("show another of our own at once".to_owned()),
        (_, _) => {
            if let Some(node) = &intent.node {
                steps.push(format!(
                    "give the proxy of {node} another certificate of {}, if it has this one",
                    intent.id
                ));
            }
        }
    }
    if lists.is_some_and(|lists| lists.is_shown) {
        let after = if intent.node.is_some() && intent.profile == Profile::Workload {
            ", once its proxy has acknowledged the other one, and after 5 s at the latest"
        } else {
            ""
        };
        steps.push(format!("list it on a new revocation list of authority {}{after}", intent.authority));
        steps.push("every connected proxy refuses it on new connections when it has that list".to_owned());
    }
    steps
}

/// What it does not do.
fn limits(row: &CertificateRow, lists: Option<&ListsStatus>) -> Vec<String> {
    let intent = &row.intent;
    let (id, end) = (&intent.id, intent.not_after);
    match intent.profile {
        Profile::Workload => {}
        // They know us by a bundle file, and have no list beside it.
        Profile::Server => {
            return vec![format!(
                "proxies and agents accept it as ours until it ends at {end}: whoever has its key can pose as this \
                 server to them until then; ca emergency replaces what they know us by"
            )];
        }
        _ => {
            return vec!["proxies are not concerned: this certificate is shown to Credence alone".to_owned()];
        }
    }
    let because = match lists {
        None => "revocation lists are off: ca.revocation_lists in credence.yaml turns them on".to_owned(),
        Some(lists) if !lists.is_shown => match &lists.withdrawn {
            Some(withdrawn) => format!("revocation lists are withdrawn since {}", withdrawn.since),
            None => "revocation lists are not complete".to_owned(),
        },
        Some(_) => {
            return vec![format!(
                "connections that are open already last until they end, an hour at most; credence identity block {id} \
                 --now refuses every certificate of the identity on them too"
            )];
        }
    };
    vec![format!(
        "proxies accept it until it ends at {end}: {because}; credence identity block {id} --now makes them refuse \
         every certificate of the identity at once"
    )]
}
