//! What the keeper does about authorities that somebody else signs: a request goes out, a chain comes in.

use audit::{Action as Done, Actor, Event as Row};
use certs::{Brought, Ladder, SpkiHash, Timestamp, Wanted, explain_brought};
use spiffe::AuthorityId;

use super::{Begun, Keeper, PATIENCE};
use crate::{
    authority::{event, make_request, records},
    dependents::Dependents,
    lifecycle,
    manager::{Asked, RotateError},
    ports::{AuthorityRecord, AuthorityRequest, AuthorityState, Place},
    rotation::{Event, Step, Wish},
    status::RotationStatus,
};

/// A chain for the pending request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The certificates, DER: the issuing authority first, then those above it up to the root, which may be left out
    /// when it is the one that signs now.
    pub ders: Vec<Vec<u8>>,
    /// With another root: whether its rotation goes on by itself as the gates open.
    pub automatic: bool,
    /// Whether only to say what would happen.
    pub dry_run: bool,
}

/// What was installed, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The issuing authority.
    pub issuing: AuthorityId,
    /// Its last second.
    pub not_after: Timestamp,
    /// How many authorities stand between it and its root.
    pub between: usize,
    /// Its root.
    pub root: AuthorityId,
    /// Whether that root is another than the one that signs: it enters the bundle, prepared.
    pub is_new_root: bool,
    /// With another root: whether the root before vouches for the issuing authority too.
    pub has_way_back: bool,
    /// Every rule, answered.
    pub ladder: Ladder,
    /// The rotation of the root after it.
    pub rotation: RotationStatus,
}

impl Keeper {
    /// The pending request; makes one when there is none, or in its place when another is wanted. One that was made for
    /// an issuer is nobody's to have signed elsewhere: who asks for a request gets another.
    pub(super) async fn request_authority(
        &mut self,
        renew: bool,
        asked: Asked,
    ) -> Result<AuthorityRequest, RotateError> {
        let is_ours = |request: &AuthorityRequest| {
            request.by != Actor::System.to_string() || asked.actor == Actor::System
        };
        if let Some(request) = self.request.clone().filter(|request| !renew && is_ours(request)) {
            return Ok(request);
        }
        let now = self.deps.clock.now();
        let failed = |error: &dyn std::fmt::Display| RotateError::Failed(error.to_string());
        let made = make_request(&self.deps.policy, &asked.actor, now).map_err(|error| failed(&error))?;
        let (request, key) = made;
        let mut row = Row::done(now, asked.actor, Done::AuthorityRequest, request.id.to_string());
        if let Some(before) = &self.request {
            row = row.with("instead_of", before.id);
        }
        row.reason = asked.reason;
        let kept = self.deps.authorities.put_request(request.clone(), key, vec![row]).await;
        kept.map_err(|error| failed(&error))?;
        tracing::info!(authority_id = %request.id, "request for an issuing authority is made");
        self.request = Some(request.clone());
        self.publish_status();
        Ok(request)
    }

    pub(super) async fn drop_request(&mut self, asked: Asked) -> Result<AuthorityId, RotateError> {
        let id = self.request.as_ref().ok_or(RotateError::NoRequest)?.id;
        let now = self.deps.clock.now();
        let mut row = Row::done(now, asked.actor, Done::AuthorityRequestDrop, id.to_string());
        row.reason = asked.reason;
        let dropped = self.deps.authorities.drop_request(id, vec![row]).await;
        dropped.map_err(|error| RotateError::Failed(error.to_string()))?;
        tracing::info!(authority_id = %id, "request for an issuing authority is dropped, its key destroyed");
        self.request = None;
        self.publish_status();
        Ok(id)
    }

    /// Takes a chain for the pending request. Under the root that signs the authority signs at once; under another one
    /// it waits, prepared, for the gates of the root's rotation.
    pub(super) async fn install(
        &mut self,
        wanted: Install,
        asked: Asked,
        dependents: &dyn Dependents,
    ) -> Result<Installed, RotateError> {
        let key = self.requested_key()?;
        // What could not sign before the clock is put right would be kept, and the request for it gone.
        if !wanted.dry_run {
            self.in_time().map_err(|error| RotateError::Failed(error.to_string()))?;
        }
        let now = self.deps.clock.now();
        let (ladder, brought) = self.examine(&wanted.ders, key, now);
        let Some(brought) = brought else { return Err(RotateError::Chain(Box::new(ladder))) };
        let (issuing, root) = (AuthorityId::of(key), AuthorityId::of(brought.root.spki_hash()));
        let is_new_root = self.roots.active().is_none_or(|active| active.id != root);
        let not_after = brought.issuing.not_after();
        let between = brought.intermediates.len();
        let before = self.look(dependents).await?;
        if is_new_root {
            self.bring_root(brought, &wanted, &asked, dependents).await?;
        } else if !wanted.dry_run {
            self.bring_issuing(brought, asked).await?;
        }
        // What is done is done, also when it cannot be seen now who depends on what.
        let seen = self.observe(dependents).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "who depends on authorities is not known after a chain came, and told as before it");
            before
        });
        self.publish_rotation(&seen);
        let has_way_back = match self.record(issuing) {
            Ok(record) => record.cross.is_some(),
            Err(_) => !self.is_root_offline(),
        };
        let rotation = self.rotation_status(&seen);
        Ok(Installed { issuing, not_after, between, root, is_new_root, has_way_back, ladder, rotation })
    }

    fn requested_key(&self) -> Result<SpkiHash, RotateError> {
        let request = self.request.as_ref().ok_or(RotateError::NoRequest)?;
        let csr =
            certs::Csr::from_der(&request.csr).map_err(|error| RotateError::Failed(error.to_string()))?;
        Ok(csr.public_key().hash())
    }

    /// Asks every rule.
    fn examine(&self, ders: &[Vec<u8>], key: SpkiHash, now: Timestamp) -> (Ladder, Option<Brought>) {
        let roots = || self.records.iter().filter(|record| record.place == Place::Root);
        let active = roots().find(|root| root.state == AuthorityState::Active);
        let taken: Vec<(SpkiHash, &str)> =
            roots().filter_map(|root| Some((root.certificate.spki_hash(), taken(root)?))).collect();
        let tainted = self.records.iter().filter(|record| record.tainted.is_some());
        let tainted: Vec<SpkiHash> = tainted.map(|record| record.certificate.spki_hash()).collect();
        let domain = self.deps.policy.trust_domain.to_uri();
        let wanted = Wanted {
            now,
            key,
            leaf_life: self.deps.policy.lifetimes.longest_renewed(),
            domain: &domain,
            root: active.map(|root| &root.certificate),
            taken: &taken,
            tainted: &tainted,
        };
        let ders: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
        explain_brought(&ders, &wanted)
    }

    /// Another root: prepared by the machine of the root's rotation, or refused by it.
    async fn bring_root(
        &mut self,
        brought: Brought,
        wanted: &Install,
        asked: &Asked,
        dependents: &dyn Dependents,
    ) -> Result<(), RotateError> {
        let wish = Wish {
            step: Step::Prepare,
            leave_behind: std::collections::BTreeSet::new(),
            automatic: wanted.automatic,
            alone: true,
        };
        if wanted.dry_run {
            self.simulate_root(&wish, dependents).await?;
            return Ok(());
        }
        let seen = self.look(dependents).await?;
        self.arriving = Some(brought);
        let done = self.drive_roots(Event::Wanted(wish), &seen, asked).await;
        self.arriving = None;
        done
    }

    /// Another issuing authority under the root that signs: kept, then activated by the machine of issuing authorities.
    async fn bring_issuing(&mut self, brought: Brought, asked: Asked) -> Result<(), RotateError> {
        let now = self.deps.clock.now();
        let failed = |error: &dyn std::fmt::Display| RotateError::Failed(error.to_string());
        let (record, _) = records(brought, now);
        let row = event(Done::AuthorityInstall, &record, now, asked.actor.clone(), &asked.reason);
        let kept = self.deps.authorities.install(record.clone(), None, vec![row]).await;
        kept.map_err(|error| failed(&error))?;
        self.request = None;
        let id = record.id;
        let prepared =
            lifecycle::Event::Prepared { id, created: now, not_after: record.certificate.not_after() };
        self.records.push(record);
        self.settle_lists().await;
        self.publish_again();
        self.on_behalf = Some(asked);
        self.drive(prepared).await;
        // Proxies that check against revocation lists need a moment to acknowledge its list.
        let until = now + PATIENCE;
        while self.machine.is_barred() && self.deps.clock.now() < until {
            let look = self.machine.deadline().unwrap_or(until).min(until);
            self.deps.clock.sleep_until(look).await;
            self.drive(lifecycle::Event::Tick).await;
        }
        let asked = self.on_behalf.take();
        match self.machine.active() {
            Some(active) if active == id => Ok(()),
            _ if self.machine.is_barred() => {
                self.begun = asked.map(|asked| Begun { asked, reply: None, until });
                Err(self.is_behind())
            }
            _ => Err(RotateError::Kept { authority: id, why: self.last_failure.clone().unwrap_or_default() }),
        }
    }
}

/// Why the key of a root may not be brought again, if so.
fn taken(root: &AuthorityRecord) -> Option<&'static str> {
    match root.state {
        _ if root.tainted.is_some() => Some("is tainted"),
        AuthorityState::Prepared => Some("is prepared already"),
        AuthorityState::Retired => Some(
            "is the root that goes: roll back to let it sign again, or, if it was rolled back, finish first and bring it \
             then",
        ),
        AuthorityState::Removed if root.offline.is_none() => {
            Some("was a root of ours, and its key is destroyed")
        }
        AuthorityState::Active | AuthorityState::Removed => None,
    }
}
