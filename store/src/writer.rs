//! The one writer of a database: takes what is queued, carries it out in one transaction, synchronises once, and
//! only then answers. A transaction that knows of more to come at once waits for it, within a bound (`gathering`).
//!
//! Each change runs inside a savepoint of its own: one that is refused is undone alone. One that is a single statement
//! has nothing to undo. Each statement is a way to the database's thread and back, which costs more than what it does
//! there: so audit rows are written with those of the neighbours by one statement, and changes of a kind that comes in
//! numbers are put off until their group is whole, and then written by one statement too.
//!
//! When the disk fails, the writer writes no more: what a failed synchronisation left behind cannot be known, so it is
//! never tried again.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use audit::{Actor, AuditRow, Event, Head};
use certs::Timestamp;
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection, SqlitePool};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit_log,
    directory::{DirectoryLock, Room},
    gathering::{Gathering, PATIENCE, Part},
    keyring::Keyring,
    ledger::{Entry, Ledger, Print, RowFault, RowKey},
    live::Live,
    many::AT_ONCE,
    probe::Probe,
    rollback::Finding,
    sqlite::{self, pragma},
};

/// How many changes wait at most.
pub(crate) const QUEUE: usize = 1024;
/// How many changes share a transaction at most.
const GROUP: usize = 256;

/// What a reader can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Bindings of nodes.
    Bindings,
    /// Blocked identities.
    Blocks,
    /// Documents.
    Documents,
    /// Imported secrets.
    Secrets,
    /// Issuers beside the built-in one.
    Issuers,
    /// Certificates for public names.
    Edges,
}

const TOPICS: usize = 6;

/// How soon it is tried again to empty the write-ahead log where that was held up.
const EMPTY_AGAIN: Duration = Duration::from_secs(30);
/// How long each try waits for readers: nothing is written meanwhile, so nothing is signed.
const EMPTY_WAIT: Duration = Duration::from_millis(50);

/// One counter per topic, raised after each commit that touched it.
#[derive(Debug)]
pub(crate) struct Topics([watch::Sender<u64>; TOPICS]);

impl Topics {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| watch::Sender::new(0)))
    }

    pub(crate) fn subscribe(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0[topic as usize].subscribe()
    }

    fn bump(&self, touched: [bool; TOPICS]) {
        for (sender, _) in self.0.iter().zip(touched).filter(|(_, touched)| *touched) {
            sender.send_modify(|count| *count += 1);
        }
    }
}

/// Why a change did not happen: refused for a reason of its own, or by the database.
#[derive(Debug)]
pub(crate) enum Fault<R> {
    Refused(R),
    Database(sqlx::Error),
}

impl<R> From<sqlx::Error> for Fault<R> {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// A port's error, which must be able to say that the store is away.
pub(crate) trait Refusal: Send + Sized + 'static {
    fn unavailable(reason: String) -> Self;
}

/// Something to be written, with its audit events, all or nothing.
#[async_trait]
pub(crate) trait Change: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    type Refusal: Refusal;
    /// Whether it has to do with another change that follows at once.
    const PART: Part = Part::Alone;

    /// Whether it is one statement beside its audit rows, which refuses by changing nothing, and reads no audit row: it
    /// then needs no savepoint. So nothing may fail once the statement has written, and what it answers is not decoded:
    /// whoever asked would hear that it was not, and no audit row would tell of what stands.
    fn is_one_statement(&self) -> bool {
        false
    }

    /// Whether it is one statement, and may share it with others of its kind ([`Change::carry_out_together`]). It is then
    /// put off until the group is whole, or a change of another sort comes.
    fn comes_in_numbers(&self) -> bool {
        false
    }

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Self::Answer, Fault<Self::Refusal>>;

    /// Carries out several, at most [`AT_ONCE`], each of which may be refused alone, and answers in their order. `None` when
    /// these must be carried out one after another. An error means that none was carried out: each is then carried out
    /// alone. So here too nothing may fail once a statement has written, and what it answers is not decoded.
    async fn carry_out_together(_: &[Self], _: &mut Tx<'_>) -> Result<Outcomes<Self>, sqlx::Error> {
        Ok(None)
    }
}

/// What became of several changes of a kind.
pub(crate) type Outcomes<C> = Option<Vec<Result<<C as Change>::Answer, <C as Change>::Refusal>>>;

/// What is answered to one change for this fault, unless its whole group cannot stand.
pub(crate) fn refusal<R: Refusal>(fault: Fault<R>) -> Result<R, sqlx::Error> {
    match fault {
        Fault::Refused(refusal) => Ok(refusal),
        Fault::Database(error) if breaks_group(&error) => Err(error),
        Fault::Database(error) => Ok(R::unavailable(error.to_string())),
    }
}

/// What a change works with.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    connection: &'a mut SqliteConnection,
    live: &'a Live,
    state: State,
}

/// What a savepoint undoes beside the database.
#[derive(Debug, Clone)]
struct State {
    head: Head,
    touched: [bool; TOPICS],
    destroyed: bool,
    keyring: Arc<Keyring>,
    entries: Vec<Entry>,
    /// Audit rows that are still to be written: before the next savepoint, or the commit.
    rows: Vec<AuditRow>,
}

impl Tx<'_> {
    pub(crate) fn sql(&mut self) -> &mut SqliteConnection {
        self.connection
    }

    /// Raises the topic's counter after the commit.
    pub(crate) fn touch(&mut self, topic: Topic) {
        self.state.touched[topic as usize] = true;
    }

    /// The keys, with what this transaction changed about them.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.state.keyring.clone()
    }

    /// Has everybody work with these keys after the commit.
    pub(crate) fn set_keyring(&mut self, keyring: Keyring) {
        self.state.keyring = Arc::new(keyring);
    }

    /// What the store holds in memory as of the last commit.
    pub(crate) fn live(&self) -> &Live {
        self.live
    }

    /// The end of the audit chain, as this process wrote it.
    pub(crate) fn head(&self) -> Head {
        self.state.head
    }

    /// Goes on with the chain from another end than the one that was written last.
    pub(crate) fn continue_from(&mut self, head: Head) {
        self.state.head = head;
    }

    /// What this transaction did to sealed records so far.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.state.entries
    }

    /// Whether a row is what was written last, in this transaction or before it: others of the same group have
    /// written already what no ledger of a commit knows.
    pub(crate) fn judge(&self, key: &RowKey, found: Option<Print>) -> Result<(), RowFault> {
        match &*Entry::of_row(&self.state.entries, key) {
            [] => self.live.judge(key, found),
            here => Ledger::default().after(here).judge(key, found),
        }
    }

    /// Every row that is not what was written last.
    pub(crate) fn compare(&self, found: &BTreeMap<RowKey, Print>) -> Vec<(RowKey, RowFault)> {
        self.live.ledger(|ledger| ledger.after(&self.state.entries).compare(found))
    }

    /// Enters what was done to a sealed record in the audit chain, on account of whoever caused it.
    pub(crate) fn enter(&mut self, entry: Entry, at: Timestamp, actor: Actor) {
        self.record(entry.event(at, actor));
        self.state.entries.push(entry);
    }

    /// Has the write-ahead log emptied after the commit, so that destroyed keys do not linger there.
    pub(crate) fn key_destroyed(&mut self) {
        self.state.destroyed = true;
    }

    /// Appends an event to the audit chain. Its row is written before the commit, and not seen by what this change
    /// reads.
    pub(crate) fn record(&mut self, event: Event) {
        let row = self.state.head.next(audit_log::bounded(event));
        self.state.head = Head { sequence: row.sequence, hash: row.hash };
        self.state.rows.push(row);
    }

    /// Writes the audit rows that are due.
    async fn write_rows(&mut self) -> Result<(), sqlx::Error> {
        audit_log::insert(self.connection, &std::mem::take(&mut self.state.rows)).await
    }

    /// Carries out what was put off, by few statements.
    async fn together(&mut self, members: &mut [Member]) -> Result<(), sqlx::Error> {
        let mut kinds: Vec<(TypeId, Vec<&mut Member>)> = Vec::new();
        for member in members {
            let kind = member.queued.kind();
            match kinds.iter_mut().find(|(known, members)| *known == kind && members.len() < AT_ONCE) {
                Some((_, members)) => members.push(member),
                None => kinds.push((kind, vec![member])),
            }
        }
        for (_, mut members) in kinds {
            let Some((first, others)) = members.split_first_mut() else { continue };
            let queued = others.iter_mut().map(|member| member.queued.as_mut()).collect();
            let stays = first.queued.carry_out_together(queued, self).await?;
            members.into_iter().zip(stays).for_each(|(member, stays)| member.stays = stays);
        }
        Ok(())
    }

    /// Carries out a change that is undone alone when it is refused. Whether what it did stays.
    async fn undoably(&mut self, queued: &mut dyn Queued) -> Result<bool, sqlx::Error> {
        self.write_rows().await?;
        self.connection.execute("SAVEPOINT change").await?;
        let before = self.state.clone();
        let stays = queued.carry_out(self).await?;
        if !stays {
            self.state = before;
            self.connection.execute("ROLLBACK TO change").await?;
        }
        self.connection.execute("RELEASE change").await?;
        Ok(stays)
    }
}

/// A change in the queue, whatever its answer.
#[async_trait]
pub(crate) trait Queued: Any + Send {
    /// See [`Change::is_one_statement`].
    fn is_one_statement(&self) -> bool;
    /// See [`Change::comes_in_numbers`].
    fn comes_in_numbers(&self) -> bool;
    /// Those of one kind can be carried out together.
    fn kind(&self) -> TypeId;
    /// Whether what it did stays.
    async fn carry_out(&mut self, tx: &mut Tx<'_>) -> Result<bool, sqlx::Error>;
    /// Of this one and others of its kind, in their order: whether what each did stays.
    async fn carry_out_together(
        &mut self,
        others: Vec<&mut dyn Queued>,
        tx: &mut Tx<'_>,
    ) -> Result<Vec<bool>, sqlx::Error>;
    /// What it has to do with another change.
    fn part(&self) -> Part;
    /// Sends the answer, or that nothing was kept.
    fn settle(self: Box<Self>, failed: Option<&str>);
}

struct Pending<C: Change> {
    change: Option<C>,
    outcome: Option<Result<C::Answer, C::Refusal>>,
    reply: oneshot::Sender<Result<C::Answer, C::Refusal>>,
}

#[async_trait]
impl<C: Change> Queued for Pending<C> {
    fn is_one_statement(&self) -> bool {
        self.change.as_ref().is_some_and(Change::is_one_statement)
    }

    fn comes_in_numbers(&self) -> bool {
        self.change.as_ref().is_some_and(Change::comes_in_numbers)
    }

    fn kind(&self) -> TypeId {
        TypeId::of::<C>()
    }

    async fn carry_out(&mut self, tx: &mut Tx<'_>) -> Result<bool, sqlx::Error> {
        let Some(change) = self.change.take() else { return Ok(false) };
        self.outcome = Some(match change.carry_out(tx).await {
            Ok(answer) => Ok(answer),
            Err(fault) => Err(refusal(fault)?),
        });
        Ok(matches!(self.outcome, Some(Ok(_))))
    }

    async fn carry_out_together(
        &mut self,
        others: Vec<&mut dyn Queued>,
        tx: &mut Tx<'_>,
    ) -> Result<Vec<bool>, sqlx::Error> {
        let others = others.into_iter().map(|other| -> &mut dyn Any { other });
        let others = others.map(|other| other.downcast_mut::<Self>().expect("others are of the same kind"));
        let mut all: Vec<&mut Self> = std::iter::once(self).chain(others).collect();
        let changes: Vec<C> = all.iter_mut().filter_map(|pending| pending.change.take()).collect();
        let outcomes = match changes.len() {
            1 => None,
            _ => match C::carry_out_together(&changes, tx).await {
                Ok(outcomes) => outcomes,
                Err(error) if breaks_group(&error) => return Err(error),
                // One of them is to blame, and is found alone.
                Err(_) => None,
            },
        };
        let mut stays = Vec::with_capacity(all.len());
        match outcomes {
            Some(outcomes) => {
                for (pending, outcome) in all.into_iter().zip(outcomes) {
                    stays.push(outcome.is_ok());
                    pending.outcome = Some(outcome);
                }
            }
            None => {
                for (pending, change) in all.into_iter().zip(changes) {
                    pending.change = Some(change);
                    stays.push(pending.carry_out(tx).await?);
                }
            }
        }
        Ok(stays)
    }

    fn part(&self) -> Part {
        C::PART
    }

    fn settle(self: Box<Self>, failed: Option<&str>) {
        let Self { outcome, reply, .. } = *self;
        let answer = match (failed, outcome) {
            (None, Some(outcome)) => outcome,
            (failed, _) => {
                Err(C::Refusal::unavailable(failed.unwrap_or("change was not carried out").into()))
            }
        };
        // Whoever asked may have gone; the change stands all the same.
        let _ = reply.send(answer);
    }
}

/// Queues changes and waits for their answers.
#[derive(Debug, Clone)]
pub(crate) struct Queue(mpsc::Sender<Box<dyn Queued>>);

impl Queue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Box<dyn Queued>>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Answers once the change is durable. A full queue is an answer too: more waiting would not make the disk
    /// faster.
    pub(crate) async fn write<C: Change>(&self, change: C) -> Result<C::Answer, C::Refusal> {
        let (reply, answer) = oneshot::channel();
        let pending: Pending<C> = Pending { change: Some(change), outcome: None, reply };
        self.0.try_send(Box::new(pending)).map_err(|error| {
            C::Refusal::unavailable(match error {
                mpsc::error::TrySendError::Full(_) => format!("{QUEUE} changes are waiting to be written"),
                mpsc::error::TrySendError::Closed(_) => "store is closed".into(),
            })
        })?;
        answer.await.unwrap_or_else(|_| Err(C::Refusal::unavailable("store is closed".into())))
    }
}

/// Why the writer ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("database cannot be written any more: {reason}")]
pub struct WriterError {
    /// What the database said when it failed.
    pub reason: String,
}

/// The writer of one store. `server` runs it in a task of its own and ends it last.
#[derive(Debug)]
pub struct Writer {
    pub(crate) connection: SqliteConnection,
    pub(crate) queue: mpsc::Receiver<Box<dyn Queued>>,
    pub(crate) live: Arc<Live>,
    pub(crate) head: Head,
    pub(crate) topics: Arc<Topics>,
    pub(crate) broken: watch::Sender<Option<String>>,
    /// Whether the disk had no room for what was written last.
    pub(crate) full: watch::Sender<bool>,
    /// When the write-ahead log is to be emptied at the latest, since a key was destroyed and readers held it up.
    pub(crate) empty_log_at: Option<Instant>,
    pub(crate) room: Room,
    pub(crate) probe: Probe,
    pub(crate) readers: SqlitePool,
    pub(crate) lock: Arc<DirectoryLock>,
    pub(crate) gathering: Gathering,
}

/// A change of the group that is being written, and whether what it did stays.
struct Member {
    queued: Box<dyn Queued>,
    stays: bool,
}

impl Writer {
    /// Writes until `shutdown`, then what is queued still, and closes the database.
    ///
    /// # Errors
    /// When the disk failed. Until `shutdown` every change was then answered with that failure, so that what does
    /// not need to write went on.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), WriterError> {
        loop {
            let is_broken = self.broken.borrow().is_some();
            let probe_at = (*self.full.borrow() && !is_broken).then(|| self.probe.due());
            let empty_log_at = self.empty_log_at.filter(|_| !is_broken);
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    self.queue.close();
                    self.queue.recv().await
                }
                () = sleep_until(empty_log_at.unwrap_or_else(Instant::now)), if empty_log_at.is_some() => {
                    self.empty_log().await;
                    continue;
                }
                () = sleep_until(probe_at.unwrap_or_else(Instant::now)), if probe_at.is_some() => {
                    self.look_for_room().await;
                    continue;
                }
                queued = self.queue.recv() => queued,
            };
            let Some(first) = first else { break };
            self.write(first, &shutdown).await;
        }
        self.close().await
    }

    async fn write(&mut self, first: Box<dyn Queued>, shutdown: &CancellationToken) {
        let mut group = Vec::new();
        self.gathering.take(first.part());
        group.push(Member { queued: first, stays: false });
        let broken = self.broken.borrow().clone();
        let failed = match broken {
            Some(reason) => Some(reason),
            None => match self.transact(&mut group, shutdown).await {
                Ok(state) => {
                    // Where no audit row was written there may have been nothing to write, which a full disk has room for.
                    let is_written = state.head != self.head;
                    self.head = state.head;
                    self.live.commit(state.keyring, state.entries, state.head);
                    let standing = group.iter().filter(|member| member.stays).count();
                    self.live.count(u64::try_from(standing).unwrap_or_default());
                    if is_written {
                        self.full.send_if_modified(std::mem::take);
                    }
                    self.topics.bump(state.touched);
                    if state.destroyed {
                        self.empty_log().await;
                    }
                    None
                }
                Err(error) => {
                    if primary_code(&error) == Some(SQLITE_BUSY) {
                        self.join_waiting(&mut group);
                    }
                    let reason = self.abort(&error).await;
                    if primary_code(&error) == Some(SQLITE_CONSTRAINT) {
                        self.look_at_the_end().await;
                    }
                    Some(reason)
                }
            },
        };
        self.gathering.close();
        for Member { queued, stays } in group {
            if stays && failed.is_none() {
                self.gathering.keep(queued.part());
            }
            queued.settle(failed.as_deref());
        }
    }

    /// Another program holds the database, and was waited for. Whoever is in the queue hears so now: each would wait
    /// as long for the same answer.
    fn join_waiting(&mut self, group: &mut Vec<Member>) {
        while group.len() < GROUP
            && let Ok(queued) = self.queue.try_recv()
        {
            self.gathering.take(queued.part());
            group.push(Member { queued, stays: false });
        }
    }

    /// One transaction around the whole group, one savepoint around each change that needs one. The group grows while
    /// it is written.
    async fn transact(
        &mut self,
        group: &mut Vec<Member>,
        shutdown: &CancellationToken,
    ) -> Result<State, sqlx::Error> {
        self.connection.execute("BEGIN IMMEDIATE").await?;
        let state = State {
            head: self.head,
            touched: [false; TOPICS],
            destroyed: false,
            keyring: self.live.keyring(),
            entries: Vec::new(),
            rows: Vec::new(),
        };
        let mut tx = Tx { connection: &mut self.connection, live: &self.live, state };
        let mut deadline = None;
        // How many of the group were carried out; the others are put off.
        let mut done = 0;
        while let Some((member, before)) = group.split_last_mut() {
            if !member.queued.comes_in_numbers() {
                tx.together(&mut before[done..]).await?;
                member.stays = match member.queued.is_one_statement() {
                    true => member.queued.carry_out(&mut tx).await?,
                    false => tx.undoably(member.queued.as_mut()).await?,
                };
                done = group.len();
            }
            if group.len() >= GROUP {
                break;
            }
            let next = next(&mut self.queue, &mut self.gathering, &mut deadline, shutdown).await;
            let Some(queued) = next else { break };
            self.gathering.take(queued.part());
            group.push(Member { queued, stays: false });
        }
        tx.together(&mut group[done..]).await?;
        tx.write_rows().await?;
        let state = tx.state;
        self.connection.execute("COMMIT").await?;
        Ok(state)
    }

    /// Ends the transaction without a trace. Answers whether that is certain.
    async fn roll_back(&mut self) -> bool {
        match self.connection.execute("ROLLBACK").await {
            Ok(_) => true,
            // SQLite has rolled back by itself.
            Err(rollback) => primary_code(&rollback) == Some(SQLITE_ERROR),
        }
    }

    /// Undoes the group. Unless it was only that the disk is full, that another program holds the database for too long,
    /// or that somebody else has written an audit row, nothing is written from now on.
    pub(crate) async fn abort(&mut self, error: &sqlx::Error) -> String {
        let is_full = lacks_room(error, &self.room);
        let undone = self.roll_back().await;
        let reason = if is_full { "disk is full".to_owned() } else { error.to_string() };
        tracing::error!(%reason, "changes were not written");
        if is_full && !self.full.send_replace(true) {
            self.probe.put_off(Instant::now());
        }
        let passes =
            is_full || matches!(primary_code(error), Some(SQLITE_BUSY | SQLITE_LOCKED | SQLITE_CONSTRAINT));
        if !(undone && passes) {
            self.write_no_more(&reason);
        }
        reason
    }

    /// The first reason stays: what comes after it follows from it.
    pub(crate) fn write_no_more(&self, reason: &str) {
        self.full.send_if_modified(std::mem::take);
        self.broken.send_if_modified(|broken| {
            let is_first = broken.is_none();
            broken.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }

    /// Whoever waits for room on a full disk need not ask for a change to learn that there is some: where a change of
    /// an ordinary size would fit, the page that holds the schema's version is written as it is.
    pub(crate) async fn look_for_room(&mut self) {
        self.probe.put_off(Instant::now());
        match self.room.is_there() {
            Ok(true) => {}
            Ok(false) => return self.probe.answered(),
            Err(error) => return self.cannot_ask(&error.to_string()),
        }
        let version = match pragma(&mut self.connection, "PRAGMA user_version").await {
            Ok(version) => version,
            Err(error) => return self.cannot_ask(&error.to_string()),
        };
        self.probe.answered();
        let same = format!("BEGIN IMMEDIATE; PRAGMA user_version = {version}; COMMIT");
        match self.connection.execute(AssertSqlSafe(same)).await {
            Ok(_) => {
                tracing::info!("the disk has room again");
                self.full.send_replace(false);
            }
            // Nothing was to be written, so nothing is said as often as it is tried.
            Err(error) if primary_code(&error) == Some(SQLITE_BUSY) || lacks_room(&error, &self.room) => {
                if !self.roll_back().await {
                    self.write_no_more(&error.to_string());
                }
            }
            Err(error) => {
                self.abort(&error).await;
            }
        }
    }

    fn cannot_ask(&mut self, error: &str) {
        if self.probe.is_news(error) {
            tracing::warn!(error, "cannot look whether the disk has room again");
        }
    }

    /// Of a whole group only the audit rows can stand in the way of others: what a change runs into by itself is its own
    /// refusal. So somebody else has written to the log, which nobody may.
    async fn look_at_the_end(&mut self) {
        match audit_log::head(&mut self.connection).await {
            Ok(end) if end != self.head => {
                self.live.add(vec![Finding::AuditEnd { found: end.sequence, known: self.head.sequence }]);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "end of the audit log is not read now"),
        }
    }

    /// What a destroyed key sealed goes, and the key with it. Where readers hold the log up, it is tried again: other
    /// checkpoints write over what stands in the log, and do not empty it.
    pub(crate) async fn empty_log(&mut self) {
        let emptied = self.try_to_empty_log().await;
        let was_waiting = self.empty_log_at.take().is_some();
        let held_up = match emptied {
            Ok(true) => return,
            Ok(false) => "somebody reads for long".to_owned(),
            Err(error) => error.to_string(),
        };
        self.empty_log_at = Some(Instant::now() + EMPTY_AGAIN);
        if !was_waiting {
            tracing::warn!(
                because = held_up,
                "write-ahead log is not emptied yet: it may hold a destroyed key"
            );
        }
    }

    async fn try_to_empty_log(&mut self) -> Result<bool, sqlx::Error> {
        self.set_patience(EMPTY_WAIT).await?;
        let held_up: Result<i64, _> =
            sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut self.connection).await;
        self.set_patience(sqlite::PATIENCE).await?;
        Ok(held_up? == 0)
    }

    /// How long our statements wait for others that hold the database.
    async fn set_patience(&mut self, patience: Duration) -> Result<(), sqlx::Error> {
        let statement = format!("PRAGMA busy_timeout = {}", patience.as_millis());
        self.connection.execute(AssertSqlSafe(statement)).await.map(drop)
    }

    async fn close(self) -> Result<(), WriterError> {
        self.readers.close().await;
        let broken = self.broken.borrow().clone();
        let closed = self.connection.close().await;
        drop(self.lock);
        match (broken, closed) {
            (Some(reason), _) => Err(WriterError { reason }),
            (None, Err(error)) => Err(WriterError { reason: error.to_string() }),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// What else belongs to the group: what waits already, else what is known or likely to come, until `deadline`.
async fn next(
    queue: &mut mpsc::Receiver<Box<dyn Queued>>,
    gathering: &mut Gathering,
    deadline: &mut Option<Instant>,
    shutdown: &CancellationToken,
) -> Option<Box<dyn Queued>> {
    if let Ok(next) = queue.try_recv() {
        return Some(next);
    }
    let wait = gathering.wait()?;
    let now = Instant::now();
    let deadline = (now + wait).min(*deadline.get_or_insert(now + PATIENCE));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        next = queue.recv() => next,
        () = sleep_until(deadline) => {
            gathering.give_up();
            None
        }
    }
}

const SQLITE_ERROR: i32 = 1;
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_NOMEM: i32 = 7;
const SQLITE_READONLY: i32 = 8;
pub(crate) const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
pub(crate) const SQLITE_FULL: i32 = 13;
pub(crate) const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_CONSTRAINT: i32 = 19;
const SQLITE_NOTADB: i32 = 26;
const SQLITE_IOERR_WRITE: i32 = SQLITE_IOERR | 3 << 8;
const SQLITE_IOERR_SHMSIZE: i32 = SQLITE_IOERR | 19 << 8;

/// SQLite's extended result code.
fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// The low byte of it.
pub(crate) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    Some(extended_code(error)? & 0xff)
}

/// Whether nothing failed but that there was no room. To SQLite a full disk is one, but an exhausted quota is an error of
/// writing, and so is a full disk where the log's index grows. What a failed synchronisation left behind stays unknown,
/// whatever it failed for.
fn lacks_room(error: &sqlx::Error, room: &Room) -> bool {
    match extended_code(error) {
        Some(SQLITE_FULL) => true,
        Some(SQLITE_IOERR_WRITE | SQLITE_IOERR_SHMSIZE) => room.is_there().is_ok_and(|is_there| !is_there),
        _ => false,
    }
}

/// Whether the database itself failed, so that the other changes of the group cannot stand either.
fn breaks_group(error: &sqlx::Error) -> bool {
    match primary_code(error) {
        Some(code) => matches!(
            code,
            SQLITE_NOMEM
                | SQLITE_READONLY
                | SQLITE_IOERR
                | SQLITE_CORRUPT
                | SQLITE_FULL
                | SQLITE_CANTOPEN
                | SQLITE_NOTADB
        ),
        None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_)),
    }
}
