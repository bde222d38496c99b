//! Journal and authorities in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use audit::{AuditError, AuditFilter, AuditLog, AuditRow, Event, Head};
use certs::{Profile, SecretKey, Serial, SpkiHash, Timestamp};
use spiffe::{
    AuthorityId, IssuerName, NodeId, RecoveryRefusal, RecoverySpend, Spend, TokenRefusal, TokenSpend,
};

use crate::ports::{
    Authorities, AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState, CertificateFilter,
    CertificateRow, CertificateState, DefaultIssuer, Intent, IssueOutcome, Issued, Journal, JournalError,
    LeafAnswer, LeafIssuer, LeafOutcome, LeafRequest, LeafStore, Leaves, ListRecord, MAX_REVOKED,
    MAX_UNKNOWN, Place, Remaining, ResultRecord, Revocations, RevokeError, Revoked, Taint, Transition,
    Unexpired,
};

/// Certificates that are answered at once, as by the store.
const PAGE: usize = 10_000;

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Journal::record_intent`], before anything is written.
    Intent,
    /// [`Journal::record_result`], before anything is written.
    Result,
    /// [`Journal::unexpired_leaves`].
    Leaves,
    /// [`Authorities::load`].
    Load,
    /// [`Authorities::insert`].
    Insert,
    /// [`Authorities::transition`].
    Transition,
    /// [`Authorities::load_key`].
    LoadKey,
    /// [`Revocations::keep_list`], before anything is written.
    KeepList,
    /// [`LeafStore::set_leaf_issuers`], before anything is written.
    LeafIssuers,
    /// [`LeafStore::set_default_issuer`], before anything is written.
    DefaultIssuer,
    /// [`AuditLog::append`], before anything is written.
    Append,
}

struct Token {
    expires: Timestamp,
    revoked: bool,
    spent: Option<SpkiHash>,
    issuance: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Not,
    Unknown,
    Known,
}

#[derive(Default)]
struct State {
    rows: Vec<CertificateRow>,
    index: HashMap<(AuthorityId, Serial), usize>,
    tokens: HashMap<String, Token>,
    /// How many recovery windows there were, and the end of the last one while it is open.
    windows: u64,
    recovery: Option<Timestamp>,
    /// Nodes with an enabled binding, and since when.
    bound: HashMap<NodeId, Timestamp>,
    recovered: HashMap<(u64, NodeId), Token>,
    authorities: Vec<AuthorityRecord>,
    keys: BTreeMap<AuthorityId, SecretKey>,
    request: Option<AuthorityRequest>,
    revoked: Vec<Revoked>,
    numbers: BTreeMap<AuthorityId, u64>,
    lists: Vec<ListRecord>,
    default_issuer: Option<DefaultIssuer>,
    leaf_issuers: Vec<LeafIssuer>,
    /// With whether an answer came, and whether one that says what became of it.
    requests: Vec<(LeafRequest, Answered)>,
    events: Vec<Event>,
    failing: HashSet<Call>,
    failing_once: HashSet<Call>,
    failed: HashMap<Call, usize>,
}

/// A journal and authorities that live as long as the process. Clones share one state, so that "the process
/// ended and began again" is a second manager on a clone.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reachable(&self, call: Call) -> Result<MutexGuard<'_, State>, String> {
        let mut state = self.state();
        if state.failing.contains(&call) || state.failing_once.remove(&call) {
            *state.failed.entry(call).or_default() += 1;
            return Err(format!("{call:?} fails in this test"));
        }
        Ok(state)
    }

    /// How often `call` was tried while it failed.
    #[must_use]
    pub fn failed(&self, call: Call) -> usize {
        self.state().failed.get(&call).copied().unwrap_or_default()
    }

    /// Makes `call` fail from now on.
    pub fn fail(&self, call: Call) {
        self.state().failing.insert(call);
    }

    /// Makes `call` fail the next time, and work again after that.
    pub fn fail_once(&self, call: Call) {
        self.state().failing_once.insert(call);
    }

    /// Makes `call` work again.
    pub fn heal(&self, call: Call) {
        self.state().failing.remove(&call);
    }

    /// Plants a join token.
    pub fn add_token(&self, id: &str, expires: Timestamp) {
        let token = Token { expires, revoked: false, spent: None, issuance: None };
        self.state().tokens.insert(id.to_owned(), token);
    }

    /// Revokes a join token.
    pub fn revoke_token(&self, id: &str) {
        if let Some(token) = self.state().tokens.get_mut(id) {
            token.revoked = true;
        }
    }

    /// Opens a recovery window until then, and answers its number; closes the one that is open.
    pub fn open_recovery(&self, until: Timestamp) -> u64 {
        let mut state = self.state();
        state.windows += 1;
        state.recovery = Some(until);
        state.windows
    }

    /// Closes the recovery window that is open.
    pub fn close_recovery(&self) {
        self.state().recovery = None;
    }

    /// Binds a node from `created` on, or removes it.
    pub fn bind(&self, node: &NodeId, created: Option<Timestamp>) {
        let bound = &mut self.state().bound;
        match created {
            Some(created) => drop(bound.insert(node.clone(), created)),
            None => drop(bound.remove(node)),
        }
    }

    /// Every event that was written with a change, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// Every list that was kept, oldest first.
    #[must_use]
    pub fn kept_lists(&self) -> Vec<ListRecord> {
        self.state().lists.clone()
    }

    /// How many authorities' keys are kept.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.state().keys.len()
    }
}

impl State {
    fn refuse_stolen(&self, authority: AuthorityId) -> Result<(), JournalError> {
        let is_stolen = |record: &AuthorityRecord| record.id == authority && record.stolen.is_some();
        if self.authorities.iter().any(is_stolen) {
            let reason = format!("the key of authority {authority} is believed to be stolen");
            return Err(JournalError::Unavailable(reason));
        }
        Ok(())
    }

    /// Whether the spend is accepted.
    fn judge(&self, spend: &Spend, now: Timestamp) -> Result<(), JournalError> {
        match spend {
            Spend::Token(spend) => self.judge_token(spend, now),
            Spend::Recovery(spend) => self.judge_recovery(spend, now),
        }
    }

    /// Remembers for which key it was spent, and for which row.
    fn spend(&mut self, spend: Spend, at: Timestamp, index: usize) {
        let (spki, issuance) = (Some(spend.spki()), Some(index));
        match spend {
            Spend::Token(spend) => {
                if let Some(token) = self.tokens.get_mut(&spend.token_id) {
                    (token.spent, token.issuance) = (spki, issuance);
                }
            }
            Spend::Recovery(spend) => {
                let token = Token { expires: at, revoked: false, spent: spki, issuance };
                self.recovered.insert((spend.window, spend.node), token);
            }
        }
    }

    fn judge_recovery(&self, spend: &RecoverySpend, now: Timestamp) -> Result<(), JournalError> {
        if self.windows != spend.window || self.recovery.is_none_or(|until| until <= now) {
            return Err(RecoveryRefusal::Closed.into());
        }
        let bound = self.bound.get(&spend.node).ok_or(RecoveryRefusal::NotBound)?;
        if let Some(earlier) = self.recovered.get(&(spend.window, spend.node.clone())) {
            if earlier.spent != Some(spend.spki) {
                return Err(RecoveryRefusal::Spent.into());
            }
            self.issued_before(earlier.issuance)?;
        }
        let of_node = |row: &&CertificateRow| {
            row.intent.profile == Profile::Node
                && row.intent.node.as_ref() == Some(&spend.node)
                && row.state == CertificateState::Issued
        };
        let newest = self.rows.iter().rev().find(of_node).filter(|row| row.intent.serial == spend.replaces);
        let newest = newest.ok_or(RecoveryRefusal::Superseded)?;
        if newest.intent.at < *bound {
            return Err(RecoveryRefusal::NotBound.into());
        }
        if newest.revoked.is_some() {
            return Err(RecoveryRefusal::Revoked.into());
        }
        if self.is_stolen(newest.intent.authority) { Err(RecoveryRefusal::Stolen.into()) } else { Ok(()) }
    }

    /// What a filter asks for, newest first, without regard to its limit.
    fn filtered(&self, filter: &CertificateFilter) -> Vec<CertificateRow> {
        let mut seen = HashSet::new();
        self.rows
            .iter()
            .rev()
            .filter(|row| {
                !filter.newest_only
                    || row.state == CertificateState::Issued
                        && seen.insert((row.intent.id.clone(), row.intent.node.clone()))
            })
            .filter(|row| matches(filter, &row.intent) && (!filter.revoked_only || row.revoked.is_some()))
            .skip(filter.offset)
            .cloned()
            .collect()
    }

    /// Whether the key of an authority, or of the one above it, is believed to be stolen.
    fn is_stolen(&self, authority: AuthorityId) -> bool {
        let record = |id: AuthorityId| self.authorities.iter().find(|record| record.id == id);
        let own = record(authority);
        let above = own.and_then(|own| own.parent).and_then(record);
        own.into_iter().chain(above).any(|record| record.stolen.is_some())
    }

    /// Refuses with the certificate of this row, if it was issued.
    fn issued_before(&self, index: Option<usize>) -> Result<(), JournalError> {
        match index.map(|index| &self.rows[index]) {
            Some(row) if row.state == CertificateState::Issued => Err(JournalError::AlreadyIssued {
                chain: row.chain.clone(),
                authority: row.intent.authority,
                issued: row.intent.at,
            }),
            _ => Ok(()),
        }
    }

    fn judge_token(&self, spend: &TokenSpend, now: Timestamp) -> Result<(), JournalError> {
        let token = self.tokens.get(&spend.token_id).ok_or(TokenRefusal::Unknown)?;
        if token.revoked {
            return Err(TokenRefusal::Revoked.into());
        }
        if token.expires <= now {
            return Err(TokenRefusal::Expired.into());
        }
        match token.spent {
            Some(spki) if spki != spend.spki => return Err(TokenRefusal::Spent.into()),
            _ => {}
        }
        self.issued_before(token.issuance)
    }
}

#[async_trait]
impl Journal for MemoryStore {
    async fn record_intent(
        &self,
        intent: Intent,
        spend: Option<Spend>,
        event: Event,
    ) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::Intent).map_err(JournalError::Unavailable)?;
        state.refuse_stolen(intent.authority)?;
        let key = (intent.authority, intent.serial.clone());
        if state.index.contains_key(&key) {
            return Err(JournalError::SerialTaken(intent.serial));
        }
        let index = state.rows.len();
        if let Some(spend) = spend {
            state.judge(&spend, intent.at)?;
            state.spend(spend, intent.at, index);
        }
        state.index.insert(key, index);
        let state_now = CertificateState::Unknown;
        state.rows.push(CertificateRow {
            intent,
            state: state_now,
            finished: None,
            revoked: None,
            chain: Vec::new(),
        });
        state.events.push(event);
        Ok(())
    }

    async fn record_result(&self, result: ResultRecord, event: Event) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::Result).map_err(JournalError::Unavailable)?;
        if matches!(result.outcome, IssueOutcome::Issued(_)) {
            state.refuse_stolen(result.authority)?;
        }
        let index = state.index.get(&(result.authority, result.serial.clone())).copied();
        let row = index
            .and_then(|index| state.rows.get_mut(index))
            .filter(|row| row.state == CertificateState::Unknown)
            .ok_or(JournalError::NoIntent(result.serial))?;
        row.finished = Some(result.at);
        match result.outcome {
            IssueOutcome::Issued(chain) => {
                row.state = CertificateState::Issued;
                row.chain = chain;
            }
            IssueOutcome::Failed(reason) => row.state = CertificateState::Failed(reason),
        }
        state.events.push(event);
        Ok(())
    }

    async fn unexpired_leaves(&self, authority: AuthorityId, now: Timestamp) -> Result<Leaves, JournalError> {
        let state = self.reachable(Call::Leaves).map_err(JournalError::Unavailable)?;
        let mut leaves = Leaves::default();
        for row in state.rows.iter().filter(|row| {
            row.intent.authority == authority
                && row.intent.not_after >= now
                && !matches!(row.state, CertificateState::Failed(_))
        }) {
            leaves.count += 1;
            leaves.last = leaves.last.max(Some(row.intent.not_after));
        }
        for (request, _) in state.requests.iter().filter(|(request, answered)| {
            request.authority == authority && request.not_after >= now && *answered != Answered::Known
        }) {
            leaves.count += 1;
            leaves.last = leaves.last.max(Some(request.not_after));
        }
        Ok(leaves)
    }

    async fn unexpired(
        &self,
        authorities: &[AuthorityId],
        now: Timestamp,
    ) -> Result<Vec<Unexpired>, JournalError> {
        let state = self.reachable(Call::Leaves).map_err(JournalError::Unavailable)?;
        let mut found: Vec<Unexpired> = Vec::new();
        for row in state.rows.iter().filter(|row| is_unexpired(row, authorities, now)) {
            let Intent { id, node, profile, authority, not_after, .. } = row.intent.clone();
            let same = |one: &&mut Unexpired| one.id == id && one.node == node && one.authority == authority;
            match found.iter_mut().find(same) {
                Some(known) => known.not_after = known.not_after.max(not_after),
                None => found.push(Unexpired { id, node, profile, authority, not_after }),
            }
        }
        Ok(found)
    }

    async fn issued(&self, authorities: &[AuthorityId], now: Timestamp) -> Result<Vec<Issued>, JournalError> {
        let state = self.reachable(Call::Leaves).map_err(JournalError::Unavailable)?;
        let rows = state.rows.iter().filter(|row| is_unexpired(row, authorities, now));
        let issued = rows.filter(|row| row.state == CertificateState::Issued);
        Ok(issued
            .map(|row| Issued { serial: row.intent.serial.clone(), tbs_sha256: row.intent.tbs_sha256 })
            .collect())
    }

    async fn certificates(&self, filter: &CertificateFilter) -> Result<Vec<CertificateRow>, JournalError> {
        let mut rows = self.state().filtered(filter);
        rows.truncate(if filter.limit == 0 { PAGE } else { filter.limit.min(PAGE) });
        Ok(rows)
    }

    async fn remaining(&self, now: Timestamp) -> Result<Vec<Remaining>, JournalError> {
        let mut filter = CertificateFilter { newest_only: true, valid_at: Some(now), ..Default::default() };
        let state = self.state();
        let mut rows = state.filtered(&filter);
        rows.retain(|row| row.revoked.is_none());
        filter = CertificateFilter { newest_only: false, profile: Some(Profile::Operator), ..filter };
        for row in state.filtered(&filter) {
            if row.state == CertificateState::Issued
                && row.revoked.is_none()
                && rows.iter().all(|known| known.intent.id != row.intent.id)
            {
                rows.push(row);
            }
        }
        let remaining = |row: CertificateRow| Remaining {
            id: row.intent.id,
            node: row.intent.node,
            profile: row.intent.profile,
            tenant: row.intent.tenant,
            serial: row.intent.serial,
            authority: row.intent.authority,
            issued: row.intent.at,
            not_after: row.intent.not_after,
        };
        Ok(rows.into_iter().map(remaining).collect())
    }
}

#[async_trait]
impl AuditLog for MemoryStore {
    async fn append(&self, events: Vec<Event>) -> Result<(), AuditError> {
        let mut state = self.reachable(Call::Append).map_err(AuditError::Unavailable)?;
        state.events.extend(events);
        Ok(())
    }

    async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, AuditError> {
        let (mut head, mut rows) = (Head::GENESIS, Vec::new());
        for event in self.state().events.clone() {
            let row = head.next(event);
            head = Head { sequence: row.sequence, hash: row.hash };
            rows.push(row);
        }
        rows.reverse();
        rows.retain(|row| filter.matches(row));
        Ok(rows)
    }
}

#[async_trait]
impl LeafStore for MemoryStore {
    async fn default_issuer(&self) -> Result<DefaultIssuer, JournalError> {
        Ok(self.state().default_issuer.clone().unwrap_or_default())
    }

    async fn set_default_issuer(&self, next: DefaultIssuer, events: Vec<Event>) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::DefaultIssuer).map_err(JournalError::Unavailable)?;
        state.default_issuer = Some(next);
        state.events.extend(events);
        Ok(())
    }

    async fn leaf_issuers(&self) -> Result<Vec<LeafIssuer>, JournalError> {
        Ok(self.state().leaf_issuers.clone())
    }

    async fn set_leaf_issuers(&self, all: Vec<LeafIssuer>, events: Vec<Event>) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::LeafIssuers).map_err(JournalError::Unavailable)?;
        state.leaf_issuers = all;
        state.leaf_issuers.sort_by(|one, other| one.source.cmp(&other.source));
        state.events.extend(events);
        Ok(())
    }

    async fn record_request(&self, request: LeafRequest, event: Event) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::Intent).map_err(JournalError::Unavailable)?;
        if state.requests.iter().any(|(known, _)| known.spki == request.spki) {
            return Err(JournalError::Unavailable(format!("key {} was asked for before", request.spki)));
        }
        state.requests.push((request, Answered::Not));
        state.events.push(event);
        Ok(())
    }

    async fn record_answer(&self, answer: LeafAnswer, event: Event) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::Result).map_err(JournalError::Unavailable)?;
        let LeafAnswer { spki, outcome, at } = answer;
        let open = |(request, answered): &&(LeafRequest, Answered)| {
            request.spki == spki && *answered == Answered::Not
        };
        let request = state.requests.iter().find(open).map(|(request, _)| request.clone());
        let request = request.ok_or(JournalError::NoRequest(spki))?;
        let answered = match outcome {
            LeafOutcome::Issued(signed) => {
                let key = (request.authority, signed.serial.clone());
                if state.index.contains_key(&key) {
                    return Err(JournalError::SerialTaken(signed.serial));
                }
                let index = state.rows.len();
                state.index.insert(key, index);
                state.rows.push(CertificateRow {
                    intent: Intent {
                        serial: signed.serial,
                        authority: request.authority,
                        epoch: request.epoch,
                        tbs_sha256: signed.tbs_sha256,
                        id: request.id,
                        profile: Profile::Workload,
                        tenant: request.tenant,
                        node: request.node,
                        purpose: request.purpose,
                        spki,
                        not_before: signed.not_before,
                        not_after: signed.not_after,
                        at: request.at,
                        request_id: request.request_id,
                    },
                    state: CertificateState::Issued,
                    finished: Some(at),
                    revoked: None,
                    chain: signed.chain,
                });
                Answered::Known
            }
            LeafOutcome::Failed(_) => Answered::Known,
            LeafOutcome::Unknown(_) => Answered::Unknown,
        };
        for (_, known) in state.requests.iter_mut().filter(|(request, _)| request.spki == spki) {
            *known = answered;
        }
        state.events.push(event);
        Ok(())
    }

    async fn unknown_leaves(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LeafRequest>, JournalError> {
        let state = self.state();
        let is_unknown = |(request, answered): &&(LeafRequest, Answered)| {
            *answered != Answered::Known
                && request.issuer == *issuer
                && request.at < before
                && request.not_after >= now
        };
        let found = state.requests.iter().rev().filter(is_unknown).map(|(request, _)| request.clone());
        Ok(found.take(MAX_UNKNOWN).collect())
    }
}

fn is_unexpired(row: &CertificateRow, authorities: &[AuthorityId], now: Timestamp) -> bool {
    authorities.contains(&row.intent.authority)
        && row.intent.not_after >= now
        && !matches!(row.state, CertificateState::Failed(_))
}

fn matches(filter: &CertificateFilter, intent: &Intent) -> bool {
    filter.serial.as_ref().is_none_or(|serial| *serial == intent.serial)
        && filter.serial_start.as_ref().is_none_or(|start| start.is_of(&intent.serial))
        && filter.id.as_ref().is_none_or(|id| *id == intent.id)
        && filter.node.as_ref().is_none_or(|node| Some(node) == intent.node.as_ref())
        && filter.profile.is_none_or(|profile| profile == intent.profile)
        && (filter.authorities.is_empty() || filter.authorities.contains(&intent.authority))
        && filter.valid_at.is_none_or(|at| intent.not_after >= at)
}

#[async_trait]
impl Authorities for MemoryStore {
    async fn load(&self) -> Result<Vec<AuthorityRecord>, AuthorityError> {
        Ok(self.reachable(Call::Load).map_err(AuthorityError::Unavailable)?.authorities.clone())
    }

    async fn insert(
        &self,
        authorities: Vec<(AuthorityRecord, SecretKey)>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Insert).map_err(AuthorityError::Unavailable)?;
        let mut after = state.authorities.clone();
        for (record, _) in &authorities {
            if after.iter().any(|known| known.id == record.id) {
                return Err(AuthorityError::Exists(record.id));
            }
            after.push(record.clone());
        }
        check_one_active(&after)?;
        state.authorities = after;
        state.keys.extend(authorities.into_iter().map(|(record, key)| (record.id, key)));
        state.events.extend(events);
        Ok(())
    }

    async fn transition(
        &self,
        transitions: Vec<Transition>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Transition).map_err(AuthorityError::Unavailable)?;
        let mut after = state.authorities.clone();
        for step in &transitions {
            let record = after
                .iter_mut()
                .find(|record| record.id == step.id)
                .ok_or(AuthorityError::NotFound(step.id))?;
            if record.state != step.from || !step.from.may_become(step.to) {
                return Err(AuthorityError::Conflict(step.id));
            }
            record.state = step.to;
            match step.to {
                AuthorityState::Prepared => {}
                AuthorityState::Active => (record.activated, record.retired) = (Some(step.at), None),
                AuthorityState::Retired => record.retired = Some(step.at),
                AuthorityState::Removed => record.removed = Some(step.at),
            }
        }
        check_one_active(&after)?;
        state.authorities = after;
        for step in transitions.iter().filter(|step| step.to == AuthorityState::Removed) {
            state.keys.remove(&step.id);
        }
        state.events.extend(events);
        Ok(())
    }

    async fn taint(
        &self,
        authorities: Vec<AuthorityId>,
        why: Taint,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Transition).map_err(AuthorityError::Unavailable)?;
        for id in &authorities {
            let known = state.authorities.iter_mut().find(|record| record.id == *id);
            let known = known.ok_or(AuthorityError::NotFound(*id))?;
            known.tainted.get_or_insert(at);
            if why == Taint::Stolen {
                known.stolen.get_or_insert(at);
            }
        }
        state.events.extend(events);
        Ok(())
    }

    async fn load_key(&self, id: AuthorityId) -> Result<SecretKey, AuthorityError> {
        let state = self.reachable(Call::LoadKey).map_err(AuthorityError::Unavailable)?;
        state.keys.get(&id).map(SecretKey::copy_for_tests).ok_or(AuthorityError::NotFound(id))
    }

    async fn request(&self) -> Result<Option<AuthorityRequest>, AuthorityError> {
        Ok(self.state().request.clone())
    }

    async fn put_request(
        &self,
        request: AuthorityRequest,
        key: SecretKey,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Insert).map_err(AuthorityError::Unavailable)?;
        let id = request.id;
        if let Some(before) = state.request.replace(request) {
            state.keys.remove(&before.id);
        }
        state.keys.insert(id, key);
        state.events.extend(events);
        Ok(())
    }

    async fn drop_request(&self, id: AuthorityId, events: Vec<Event>) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Insert).map_err(AuthorityError::Unavailable)?;
        state.request.take_if(|request| request.id == id).ok_or(AuthorityError::NoRequest)?;
        state.keys.remove(&id);
        state.events.extend(events);
        Ok(())
    }

    async fn give_up_key(
        &self,
        id: AuthorityId,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Insert).map_err(AuthorityError::Unavailable)?;
        let is_here = state.keys.contains_key(&id);
        let mut roots = state.authorities.iter_mut().filter(|record| record.place == Place::Root && is_here);
        let root = roots.find(|record| record.id == id).ok_or(AuthorityError::NotFound(id))?;
        root.offline = Some(at);
        state.keys.remove(&id);
        state.events.extend(events);
        Ok(())
    }

    async fn install(
        &self,
        issuing: AuthorityRecord,
        root: Option<AuthorityRecord>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.reachable(Call::Insert).map_err(AuthorityError::Unavailable)?;
        if state.request.as_ref().is_none_or(|request| request.id != issuing.id) {
            return Err(AuthorityError::NoRequest);
        }
        let mut after = state.authorities.clone();
        if let Some(root) = root {
            match after.iter_mut().find(|known| known.id == root.id) {
                None => after.push(root),
                Some(known) if known.state == AuthorityState::Removed && known.tainted.is_none() => {
                    let arrivals = known.arrivals + 1;
                    *known = AuthorityRecord { arrivals, ..root };
                }
                Some(_) => return Err(AuthorityError::Exists(root.id)),
            }
        }
        if after.iter().any(|known| known.id == issuing.id) {
            return Err(AuthorityError::Exists(issuing.id));
        }
        after.push(issuing);
        check_one_active(&after)?;
        state.authorities = after;
        state.request = None;
        state.events.extend(events);
        Ok(())
    }
}

#[async_trait]
impl Revocations for MemoryStore {
    async fn revoke(&self, revoked: Revoked, since: Timestamp, event: Event) -> Result<(), RevokeError> {
        let mut state = self.state();
        let is_same = |one: &&Revoked| one.authority == revoked.authority && one.serial == revoked.serial;
        if let Some(known) = state.revoked.iter().find(is_same) {
            return Err(RevokeError::Already(known.at));
        }
        if state.revoked.iter().filter(|one| one.not_after >= since).count() >= MAX_REVOKED {
            return Err(RevokeError::Full);
        }
        if let Some(index) = state.index.get(&(revoked.authority, revoked.serial.clone())).copied() {
            state.rows[index].revoked = Some(revoked.at);
        }
        state.revoked.push(revoked);
        state.events.push(event);
        Ok(())
    }

    async fn revoked(&self, since: Timestamp) -> Result<Vec<Revoked>, JournalError> {
        Ok(self.state().revoked.iter().filter(|one| one.not_after >= since).cloned().collect())
    }

    async fn reserve_list(&self, authority: AuthorityId, _: Timestamp) -> Result<u64, JournalError> {
        let mut state = self.state();
        let number = state.numbers.entry(authority).or_default();
        *number += 1;
        Ok(*number)
    }

    async fn keep_list(&self, list: ListRecord, event: Event) -> Result<(), JournalError> {
        let mut state = self.reachable(Call::KeepList).map_err(JournalError::Unavailable)?;
        let is_reserved = state.numbers.get(&list.authority).is_some_and(|last| list.number <= *last);
        let goes_back = |one: &ListRecord| one.authority == list.authority && one.number >= list.number;
        if !is_reserved || state.lists.iter().any(goes_back) {
            return Err(JournalError::NotReserved { authority: list.authority, number: list.number });
        }
        state.lists.push(list);
        state.events.push(event);
        Ok(())
    }

    async fn lists(&self) -> Result<Vec<ListRecord>, JournalError> {
        let mut newest: BTreeMap<AuthorityId, ListRecord> = BTreeMap::new();
        for list in &self.state().lists {
            if newest.get(&list.authority).is_none_or(|known| known.number < list.number) {
                newest.insert(list.authority, list.clone());
            }
        }
        Ok(newest.into_values().collect())
    }
}

fn check_one_active(authorities: &[AuthorityRecord]) -> Result<(), AuthorityError> {
    let mut places = HashSet::new();
    match authorities
        .iter()
        .find(|record| record.state == AuthorityState::Active && !places.insert(record.place))
    {
        Some(second) => Err(AuthorityError::Conflict(second.id)),
        None => Ok(()),
    }
}
