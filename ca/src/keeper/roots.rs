//! What the keeper does about roots: observe, step the machine, carry out, publish.

use std::collections::BTreeSet;

use audit::{Action as Done, Actor};
use certs::Timestamp;
use spiffe::AuthorityId;

use super::Keeper;
use crate::{
    authority::{PrepareError, cross_sign, event, make_issuing, make_root, records},
    dependents::{Acknowledged, Dependent, Dependents, Laggard, Presence},
    manager::{Asked, RotateError, vouched},
    ports::{AuthorityError, AuthorityRecord, AuthorityState, Place, Taint, Transition},
    rotation::{Action, Event, Observed, Phase, Refusal, Root, Wish},
    status::{RotationStatus, Tally},
};

/// The most laggards that an audit row names.
const MAX_NAMED: usize = 20;

/// What was observed before a step.
#[derive(Debug, Default)]
pub(super) struct Seen {
    dependents: Vec<Dependent>,
    of_old: BTreeSet<AuthorityId>,
    has_root_key: bool,
    can_sign: bool,
    can_return: bool,
    has_way_back: bool,
    is_paused: bool,
    is_clock_stopped: bool,
}

impl Seen {
    fn observed(&self) -> Observed<'_> {
        Observed {
            dependents: &self.dependents,
            of_old: &self.of_old,
            has_root_key: self.has_root_key,
            can_sign: self.can_sign,
            can_return: self.can_return,
            has_way_back: self.has_way_back,
            is_paused: self.is_paused,
            is_clock_stopped: self.is_clock_stopped,
        }
    }
}

impl Keeper {
    /// Steps the machine as time passes.
    pub(super) async fn look_after_roots(&mut self, dependents: &dyn Dependents) {
        let seen = match self.look(dependents).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "no rotation goes on");
                self.roots.step(Event::Blind, Seen::default().observed(), self.deps.clock.now());
                return;
            }
        };
        let asked = Asked { actor: Actor::System, reason: "its gate is open".to_owned() };
        // What fails is logged, and tried again by the machine.
        let _ = self.drive_roots(Event::Tick, &seen, &asked).await;
        self.publish_rotation(&seen);
    }

    pub(super) async fn rotate_root(
        &mut self,
        wish: Wish,
        asked: Asked,
        dependents: &dyn Dependents,
    ) -> Result<RotationStatus, RotateError> {
        let seen = self.look(dependents).await?;
        let needless = self.roots.needless(&wish, seen.observed(), self.deps.clock.now());
        let done = self.drive_roots(Event::Wanted(wish), &seen, &asked).await;
        // What is done is done, also when it cannot be seen now who depends on what.
        let seen = self.observe(dependents).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "who depends on authorities is not known after a step, and told as before it");
            seen
        });
        self.publish_rotation(&seen);
        done.map(|()| RotationStatus { needless, ..self.rotation_status(&seen) })
    }

    /// What a step would do, by the judgement that the step itself goes by, and where the rotation stands without it.
    pub(super) async fn simulate_root(
        &mut self,
        wish: &Wish,
        dependents: &dyn Dependents,
    ) -> Result<(RotationStatus, Action), RotateError> {
        let failed = |error: PrepareError| RotateError::Failed(error.to_string());
        if wish.step.needs_time() {
            self.in_time().map_err(failed)?;
        }
        let seen = self.look(dependents).await?;
        let now = self.deps.clock.now();
        let action = self.roots.judge(wish, seen.observed(), now)?;
        if let Action::Return { old, .. } = action {
            self.returns_by(old, now).map_err(failed)?;
        }
        let needless = self.roots.needless(wish, seen.observed(), now);
        Ok((RotationStatus { needless, ..self.rotation_status(&seen) }, action))
    }

    /// Taints `authority`, its root and everything under that root, and lets the machine replace them.
    pub(super) async fn emergency(
        &mut self,
        authority: AuthorityId,
        asked: Asked,
        dependents: &dyn Dependents,
    ) -> Result<RotationStatus, RotateError> {
        let settled = self.settle().await;
        // One on record is not recorded again; a new one is, whatever can be read.
        if self.is_theft_unread {
            settled?;
        }
        let root = self.endangered(authority).await?;
        if root.stolen.is_none() {
            self.taint_all_under(root.id, authority, &asked).await?;
            let seen = self.look(dependents).await?;
            self.drive_roots(Event::Tick, &seen, &asked).await?;
        }
        let seen = self.observe(dependents).await?;
        self.publish_rotation(&seen);
        Ok(self.rotation_status(&seen))
    }

    /// Whether [`Keeper::emergency`] would begin, and how far the root is.
    pub(super) async fn simulate_emergency(
        &mut self,
        authority: AuthorityId,
        dependents: &dyn Dependents,
    ) -> Result<RotationStatus, RotateError> {
        self.settle().await?;
        self.endangered(authority).await?;
        Ok(self.rotation_status(&self.observe(dependents).await?))
    }

    /// The root that has to go when the key of `authority` is stolen, if anything can take its place.
    async fn endangered(&self, authority: AuthorityId) -> Result<AuthorityRecord, RotateError> {
        // One that has left may still have certificates out that verify, as long as its root stands in the bundle.
        let record = self.record(authority).map_err(|_| RotateError::NotFound(authority))?;
        let root = self.record(record.parent.unwrap_or(record.id));
        let root = root.map_err(|_| RotateError::NotFound(authority))?.clone();
        match root.state {
            AuthorityState::Removed => Err(RotateError::NotFound(authority)),
            AuthorityState::Active if root.stolen.is_none() && !self.is_replaceable(root.id).await => {
                Err(Refusal::NoSuccessor.into())
            }
            _ => Ok(root),
        }
    }

    /// Whether another root can take over from `root`, which signs: one is prepared, the one before can return, or
    /// its key is here to vouch for a new one.
    async fn is_replaceable(&self, root: AuthorityId) -> bool {
        match self.roots.phase() {
            Phase::Prepared { new } if self.can_sign_below(new) => true,
            Phase::Active { old } if self.roots.may_return(old) && self.can_return(old).await => true,
            Phase::Steady | Phase::Prepared { .. } | Phase::Active { .. } => {
                self.root_key(root).await.is_ok()
            }
        }
    }

    /// Whether a prepared root has an issuing authority that is young enough.
    fn can_sign_below(&self, root: AuthorityId) -> bool {
        let next = self.newest_below(root, AuthorityState::Prepared).ok();
        let next = next.and_then(|id| self.record(id).ok());
        next.is_some_and(|record| self.can_sign(record, self.deps.clock.now()))
    }

    /// Whether a retired root can sign again: by an issuing authority that is still good, or by one that it signs.
    async fn can_return(&self, old: AuthorityId) -> bool {
        self.usable_below(old, self.deps.clock.now()).is_some() || self.root_key(old).await.is_ok()
    }

    async fn taint_all_under(
        &mut self,
        root: AuthorityId,
        named: AuthorityId,
        asked: &Asked,
    ) -> Result<(), RotateError> {
        let now = self.deps.clock.now();
        let is_below = |record: &&AuthorityRecord| {
            (record.id == root || record.parent == Some(root)) && record.state != AuthorityState::Removed
        };
        let below: Vec<AuthorityId> = self.records.iter().filter(is_below).map(|record| record.id).collect();
        let mut rows = Vec::new();
        for id in &below {
            let record = self.record(*id).map_err(|_| RotateError::NotFound(*id))?;
            let row = event(Done::AuthorityTaint, record, now, asked.actor.clone(), &asked.reason);
            rows.push(row.with("named", named));
        }
        let kept = self.deps.authorities.taint(below, Taint::Stolen, now, rows).await;
        self.is_unsettled = true;
        kept.map_err(|error| RotateError::Failed(error.to_string()))?;
        self.is_theft_unread = true;
        self.settle().await?;
        tracing::warn!(authority_id = %named, root = %root, "authority is tainted, its root is being replaced");
        Ok(())
    }

    /// Reads back what a change may have left unread. Whoever judges does this first: what is observed, is so of the
    /// phase that the machine stands in.
    async fn settle(&mut self) -> Result<(), RotateError> {
        if !self.is_unsettled {
            return Ok(());
        }
        if let Err(error) = self.settle_records(None).await {
            tracing::warn!(%error, "authorities are not read now");
            return Err(RotateError::Failed(error.to_string()));
        }
        self.tell_the_machine(self.deps.clock.now());
        Ok(())
    }

    /// What is observed before a step, by the newest records.
    pub(super) async fn look(&mut self, dependents: &dyn Dependents) -> Result<Seen, RotateError> {
        self.settle().await?;
        self.observe(dependents).await
    }

    /// Who depends on the root that is being replaced. While none is, nobody has to be asked.
    pub(super) async fn observe(&self, dependents: &dyn Dependents) -> Result<Seen, RotateError> {
        let has_root_key = match self.roots.outgoing() {
            Some(root) => self.root_key(root.id).await.is_ok(),
            None => false,
        };
        let now = self.deps.clock.now();
        let (mut can_sign, mut can_return, mut has_way_back) = (true, true, true);
        match self.roots.phase() {
            Phase::Steady => {}
            Phase::Prepared { new } => {
                let next = self.newest_below(new, AuthorityState::Prepared).ok();
                let next = next.and_then(|id| self.record(id).ok());
                can_sign = next.is_some_and(|record| self.can_sign(record, now));
                has_way_back = next.is_some_and(|record| record.cross.is_some());
            }
            Phase::Active { old } => can_return = self.can_return(old).await,
        }
        let is_paused = self.pause.borrow().as_ref().is_some_and(|pause| now < pause.until);
        let is_clock_stopped = self.time.borrow().is_stopped();
        let of_old = self.leading_to(self.roots.outgoing().map(|root| root.id));
        let seen = Seen {
            dependents: Vec::new(),
            of_old,
            has_root_key,
            can_sign,
            can_return,
            has_way_back,
            is_paused,
            is_clock_stopped,
        };
        if self.roots.phase() == Phase::Steady {
            return Ok(seen);
        }
        let ids: Vec<AuthorityId> = seen.of_old.iter().copied().collect();
        let failed = |error: crate::ports::JournalError| RotateError::Failed(error.to_string());
        let unexpired = self.deps.journal.unexpired(&ids, now).await.map_err(failed)?;
        let dependents = self.with_lists(dependents.observe(&unexpired, now).await.map_err(failed)?);
        Ok(Seen { dependents, ..seen })
    }

    /// Whether an authority has the life left that signing needs, and time to be replaced.
    fn can_sign(&self, record: &AuthorityRecord, now: Timestamp) -> bool {
        record.certificate.not_after().since(now) >= 2 * self.deps.policy.least_remaining()
    }

    /// The issuing authority by which a retired root can sign again: one that was made for that and did not come to
    /// sign, or the one that it had.
    fn usable_below(&self, root: AuthorityId, now: Timestamp) -> Option<AuthorityId> {
        let states = [AuthorityState::Prepared, AuthorityState::Retired];
        let mut newest = states.into_iter().filter_map(|state| self.newest_below(root, state).ok());
        let usable = |id: &AuthorityId| self.record(*id).is_ok_and(|record| self.can_sign(record, now));
        newest.find(usable)
    }

    /// The same, or nothing where one is to be made for it.
    fn returns_by(&self, root: AuthorityId, now: Timestamp) -> Result<Option<AuthorityId>, PrepareError> {
        if let Some(id) = self.usable_below(root, now) {
            return Ok(Some(id));
        }
        // A new one would sign before anybody has its list. Where a key is stolen, nothing waits for lists.
        if self.is_checked() && self.roots.emergency().is_none() {
            return Err(PrepareError::NoListedAuthority(root));
        }
        self.in_time()?;
        Ok(None)
    }

    /// `root` and every authority that it signed.
    fn leading_to(&self, root: Option<AuthorityId>) -> BTreeSet<AuthorityId> {
        let Some(root) = root else { return BTreeSet::new() };
        let below = |record: &&AuthorityRecord| record.id == root || record.parent == Some(root);
        self.records.iter().filter(below).map(|record| record.id).collect()
    }

    /// Steps the machine once, and carries out what it says. The next step needs a fresh look.
    pub(super) async fn drive_roots(
        &mut self,
        event: Event,
        seen: &Seen,
        asked: &Asked,
    ) -> Result<(), RotateError> {
        let now = self.deps.clock.now();
        let mut wanted = None;
        for action in self.roots.step(event, seen.observed(), now) {
            match action {
                Action::Refuse(refusal) => return Err(refusal.into()),
                Action::AtRisk => tracing::error!(
                    standing = self.roots.standing(),
                    "root has passed three quarters of its life and its replacement is stuck"
                ),
                action => wanted = Some(action),
            }
        }
        let Some(action) = wanted else { return Ok(()) };
        let before = Root::all(&self.records);
        if let Err(error) = self.carry_out_root(&action, asked).await {
            tracing::warn!(%error, "step of the root's rotation failed");
            self.last_failure = Some(error.to_string());
            self.is_unsettled = true;
            self.roots.step(Event::Failed, seen.observed(), now);
            // The step may stand although its answer, or what was read after it, is lost: the store says.
            if self.settle().await.is_err() || Root::all(&self.records) == before {
                return Err(RotateError::Failed(error.to_string()));
            }
        } else {
            self.tell_the_machine(now);
        }
        self.last_failure = None;
        // Another root means other issuing authorities.
        self.drive(crate::lifecycle::Event::Tick).await;
        Ok(())
    }

    /// Feeds the machine the roots as they are kept now.
    fn tell_the_machine(&mut self, now: Timestamp) {
        self.roots.step(Event::Kept(Root::all(&self.records)), Seen::default().observed(), now);
    }

    async fn carry_out_root(&mut self, action: &Action, asked: &Asked) -> Result<(), PrepareError> {
        match action {
            Action::Prepare { automatic, alone: _ } => {
                self.in_time()?;
                if self.arriving.is_some() {
                    self.prepare_brought(*automatic, asked).await
                } else {
                    self.prepare_root(*automatic, asked).await
                }
            }
            Action::Activate { new, old, left_behind } => {
                self.activate_root(*new, *old, left_behind, asked).await
            }
            Action::Taint(old) => self.taint_root(*old, asked).await,
            Action::Finish { old, left_behind } => self.remove_root(*old, left_behind, asked).await,
            Action::Withdraw(new) => self.remove_root(*new, &[], asked).await,
            Action::Return { old, new } => self.return_root(*old, *new, asked).await,
            Action::Refuse(_) | Action::AtRisk => Ok(()),
        }
    }

    async fn root_key(&self, id: AuthorityId) -> Result<certs::SecretKey, PrepareError> {
        if self.record(id)?.offline.is_some() {
            return Err(AuthorityError::NotFound(id).into());
        }
        Ok(self.deps.authorities.load_key(id).await?)
    }

    /// The root and the issuing authority that were brought, the latter signed by the old root too if its key is here.
    async fn prepare_brought(&mut self, automatic: bool, asked: &Asked) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let brought = self.arriving.take().ok_or(PrepareError::NoRoot)?;
        let old = self.roots.active().map(|root| root.id).ok_or(PrepareError::NoRoot)?;
        let (issuing, root) = records(brought, now);
        let cross = match self.record(old)?.offline {
            Some(_) => None,
            None => {
                let key = self.root_key(old).await?;
                Some(cross_sign(&self.deps.policy, &issuing, self.record(old)?, &key, now)?)
            }
        };
        let (root, issuing) = (AuthorityRecord { automatic, ..root }, AuthorityRecord { cross, ..issuing });
        let row = |action, record| event(action, record, now, asked.actor.clone(), &asked.reason);
        let mut of_issuing = row(Done::AuthorityInstall, &issuing);
        if issuing.cross.is_some() {
            of_issuing = of_issuing.with("also_signed_by", old);
        }
        let rows = vec![row(Done::AuthorityPrepare, &root), of_issuing];
        tracing::info!(authority_id = %root.id, "root that was brought is prepared and enters the bundle");
        self.deps.authorities.install(issuing, Some(root), rows).await?;
        self.request = None;
        self.settle_records(None).await
    }

    /// A root, an issuing authority under it, and that authority signed by the old root too if its key is here.
    async fn prepare_root(&mut self, automatic: bool, asked: &Asked) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let old = self.roots.active().map(|root| root.id).ok_or(PrepareError::NoRoot)?;
        let old_key = match self.record(old)?.offline {
            Some(_) => None,
            None => Some(self.root_key(old).await?),
        };
        let (root, root_key) = make_root(&self.deps.policy, now)?;
        let root = AuthorityRecord { automatic, ..root };
        let (issuing, issuing_key) = make_issuing(&self.deps.policy, &root, &root_key, now)?;
        let cross = match &old_key {
            None => None,
            Some(key) => Some(cross_sign(&self.deps.policy, &issuing, self.record(old)?, key, now)?),
        };
        let issuing = AuthorityRecord { cross, ..issuing };
        let row = |record| event(Done::AuthorityPrepare, record, now, asked.actor.clone(), &asked.reason);
        let of_issuing = match issuing.cross {
            Some(_) => row(&issuing).with("also_signed_by", old),
            None => row(&issuing),
        };
        let rows = vec![row(&root), of_issuing];
        tracing::info!(authority_id = %root.id, "next root is prepared and enters the bundle");
        self.deps.authorities.insert(vec![(root, root_key), (issuing, issuing_key)], rows).await?;
        self.settle_records(None).await
    }

    async fn activate_root(
        &mut self,
        new: AuthorityId,
        old: AuthorityId,
        left_behind: &[Laggard],
        asked: &Asked,
    ) -> Result<(), PrepareError> {
        let below = self.newest_below(new, AuthorityState::Prepared)?;
        let ends: Vec<AuthorityId> = [Some(old), self.machine.active()].into_iter().flatten().collect();
        self.switch(&[new, below], &ends, left_behind, asked).await
    }

    /// The old root signs again, by the issuing authority that it had if that has enough of its life left.
    async fn return_root(
        &mut self,
        old: AuthorityId,
        new: AuthorityId,
        asked: &Asked,
    ) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let below = match self.returns_by(old, now)? {
            Some(id) => id,
            None => {
                let key = self.root_key(old).await?;
                let (issuing, key) = make_issuing(&self.deps.policy, self.record(old)?, &key, now)?;
                let id = issuing.id;
                let actor = asked.actor.clone();
                let row = event(Done::AuthorityPrepare, &issuing, now, actor, &asked.reason);
                self.deps.authorities.insert(vec![(issuing.clone(), key)], vec![row]).await?;
                self.records.push(issuing);
                id
            }
        };
        let ends: Vec<AuthorityId> = [Some(new), self.machine.active()].into_iter().flatten().collect();
        self.switch(&[old, below], &ends, &[], asked).await
    }

    /// Lets `begins` sign and `ends` retire, in one transaction.
    async fn switch(
        &mut self,
        begins: &[AuthorityId],
        ends: &[AuthorityId],
        left_behind: &[Laggard],
        asked: &Asked,
    ) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let mut transitions = Vec::new();
        let mut rows = Vec::new();
        let steps = ends.iter().map(|id| (*id, AuthorityState::Retired, Done::AuthorityRetire));
        let steps =
            steps.chain(begins.iter().map(|id| (*id, AuthorityState::Active, Done::AuthorityActivate)));
        for (id, to, action) in steps {
            let record = self.record(id)?;
            transitions.push(Transition { id, from: record.state, to, at: now });
            let row = event(action, record, now, asked.actor.clone(), &asked.reason);
            rows.push(with_left_behind(row, left_behind));
        }
        self.deps.authorities.transition(transitions, rows).await?;
        tracing::info!(authority_id = %begins[0], left_behind = left_behind.len(), "root signs now");
        self.settle_records(begins.last().copied()).await
    }

    async fn taint_root(&mut self, old: AuthorityId, asked: &Asked) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let row = event(Done::AuthorityTaint, self.record(old)?, now, asked.actor.clone(), &asked.reason);
        self.deps.authorities.taint(vec![old], Taint::Planned, now, vec![row]).await?;
        tracing::info!(authority_id = %old, "root is tainted, what it signed is replaced at once");
        self.settle_records(self.machine.active()).await
    }

    /// Takes a root and everything under it away, keys included.
    async fn remove_root(
        &mut self,
        root: AuthorityId,
        left_behind: &[Laggard],
        asked: &Asked,
    ) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let mut transitions = Vec::new();
        let mut rows = Vec::new();
        for id in self.leading_to(Some(root)) {
            let record = self.record(id)?;
            if record.state == AuthorityState::Removed {
                continue;
            }
            transitions.push(Transition { id, from: record.state, to: AuthorityState::Removed, at: now });
            let row = event(Done::AuthorityRemove, record, now, asked.actor.clone(), &asked.reason);
            rows.push(with_left_behind(row, left_behind));
        }
        self.deps.authorities.transition(transitions, rows).await?;
        tracing::info!(authority_id = %root, left_behind = left_behind.len(), "root left the bundle");
        self.settle_records(self.machine.active()).await
    }

    fn newest_below(&self, root: AuthorityId, state: AuthorityState) -> Result<AuthorityId, PrepareError> {
        let below = self.records.iter().filter(|one| one.parent == Some(root) && one.state == state);
        let newest = below.max_by_key(|record| record.created).map(|record| record.id);
        newest.ok_or_else(|| AuthorityError::NotFound(root).into())
    }

    /// Takes the records as the store holds them, and shows everybody who signs now.
    async fn settle_records(&mut self, signs: Option<AuthorityId>) -> Result<(), PrepareError> {
        self.is_unsettled = true;
        self.records = self.deps.authorities.load().await?;
        self.request = self.deps.authorities.request().await?;
        let issuing = self.records.iter().find(|record| {
            record.place == Place::Issuing
                && record.state == AuthorityState::Active
                && record.tainted.is_none()
                && signs.is_none_or(|signs| signs == record.id)
        });
        let authority = match issuing.cloned() {
            Some(record) => Some(self.signing_authority(&record).await?),
            None => None,
        };
        let known = vouched(&self.deps, &self.records).await;
        self.vouched = known.map_err(|error| AuthorityError::Unavailable(error.to_string()))?;
        self.machine = self.issuing_machine().after(&self.machine);
        self.end_what_is_overtaken();
        self.settle_lists().await;
        self.publish(authority);
        (self.is_unsettled, self.is_theft_unread) = (false, false);
        Ok(())
    }

    /// Whoever asked for another issuing authority did so under a root that signs no more: what follows by itself under
    /// the next one is not on his account.
    fn end_what_is_overtaken(&mut self) {
        let mut roots = self.records.iter().filter(|one| one.place == Place::Root);
        let root = roots.find(|one| one.state == AuthorityState::Active).map(|one| one.id);
        let mut prepared = self.records.iter().filter(|one| {
            one.place == Place::Issuing && one.state == AuthorityState::Prepared && one.parent == root
        });
        if self.begun.is_some() && prepared.next().is_none() {
            self.answer(Err(RotateError::Failed("another root took over meanwhile".to_owned())));
            self.begun = None;
        }
    }

    pub(super) fn publish_rotation(&mut self, seen: &Seen) {
        self.rotation = Some(self.rotation_status(seen));
        self.publish_status();
    }

    pub(super) fn rotation_status(&self, seen: &Seen) -> RotationStatus {
        let now = self.deps.clock.now();
        let active = self.roots.active().map(|root| root.id);
        let (phase, other, since) = match self.roots.phase() {
            Phase::Steady => ("steady", None, None),
            Phase::Prepared { new } => ("prepared", Some(new), self.record(new).ok().map(|one| one.created)),
            Phase::Active { old } => ("active", Some(old), self.record(old).ok().and_then(|one| one.retired)),
        };
        let new = match self.roots.phase() {
            Phase::Prepared { new } => Some(new),
            Phase::Steady | Phase::Active { .. } => active,
        };
        let laggards = self.roots.behind(seen.observed(), now);
        // As `finish` will judge it, whether they are replaced or left behind: a laggard is in the way by itself.
        let in_the_way = laggards.iter().map(|laggard| laggard.name.clone()).collect();
        RotationStatus {
            phase: phase.to_owned(),
            standing: self.roots.standing(),
            root: active,
            other,
            is_automatic: self.roots.is_automatic(),
            emergency: self.roots.emergency(),
            is_at_risk: self.roots.is_at_risk(),
            due: self.roots.due(),
            since,
            tally: tally(seen, new, now),
            laggards,
            barrier: self.roots.barrier(),
            settles: self.roots.settles(seen.observed(), &in_the_way, now),
            needless: Vec::new(),
        }
    }
}

fn tally(seen: &Seen, new: Option<AuthorityId>, now: Timestamp) -> Tally {
    // Those that are expected count as connected that have acknowledged nothing: as such they are in the way.
    let served = seen.dependents.iter().filter(|one| one.is_served()).count();
    let here = seen.dependents.iter().filter(|one| one.presence == Presence::Here).count();
    let known = || seen.dependents.iter().filter_map(|one| one.known.as_ref());
    let trusts = |one: &&Acknowledged| match (&one.roots, new) {
        (Some(roots), Some(new)) => roots.contains(&new),
        (None, _) | (_, None) => true,
    };
    let holds_old = |one: &&Dependent| {
        one.holds.iter().any(|held| seen.of_old.contains(&held.authority) && held.until >= now)
    };
    let holders = seen.dependents.len();
    Tally {
        connected: served,
        awaited: served - here,
        bundle: known().filter(trusts).count(),
        holders,
        renewed: holders - seen.dependents.iter().filter(holds_old).count(),
        proven: known().filter(|one| new.is_some_and(|new| one.proven.contains(&new))).count(),
    }
}

/// The event, with the names of those who were not waited for.
pub(super) fn with_left_behind(row: audit::Event, left_behind: &[Laggard]) -> audit::Event {
    if left_behind.is_empty() {
        return row;
    }
    let names: Vec<&str> = left_behind.iter().map(|one| one.name.as_str()).take(MAX_NAMED).collect();
    row.with("left_behind_count", left_behind.len()).with("left_behind", names.join(" "))
}
