//! The newest issued certificate of each identity and node, remembered: everybody who looks at what ends asks for all of
//! them again and again, while the journal keeps every generation. After the first time only rows that came since are
//! read, by their place in the journal.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ca::ports::Remaining;
use certs::{Profile, Serial, Timestamp};
use spiffe::{AuthorityId, NodeId, SpiffeId};
use sqlx::{AssertSqlSafe, Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    Store,
    row::{decode, from_word, number, optional_parsed, parsed, serial, time},
};

/// How long after an intent its result may come. An intent without one that is older than this, by those that follow
/// it, has lost its process.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How long what has ended is remembered after the moment that was asked for last: longer than anybody looks back.
const KEPT: Duration = Duration::from_secs(25 * 60 * 60);
/// Among how many of the newest rows those without a result are looked for, the first time.
const MAX_PENDING: u64 = 65_536;

const COLUMNS: &str =
    "SELECT c.sequence, c.id, c.node, c.profile, c.tenant, c.serial, c.authority, c.at, c.not_after, c.state
       FROM certificates c";
/// Keeps a row `c` if it was issued, and no newer one of the same identity and node was.
pub(crate) const NEWEST: &str = "c.state = 'issued' AND NOT EXISTS (SELECT 1 FROM certificates n
    WHERE n.id = c.id AND n.node IS c.node AND n.state = 'issued' AND n.sequence > c.sequence)";

/// A row of the journal, as far as it says who holds what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Its place in the journal.
    sequence: i64,
    standing: Standing,
    certificate: Remaining,
}

/// What became of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Issued,
    Failed,
    /// Nothing so far.
    Unknown,
}

/// What is remembered (PURE): a function of the rows that it was told of.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    known: HashMap<(SpiffeId, Option<NodeId>), Entry>,
    /// Every row up to here has been told with its result, or will never get one.
    mark: i64,
    /// Nothing that ended at this moment or later is missing; `None` before the first rows were told.
    since: Option<Timestamp>,
}

impl Newest {
    /// Whether what ended at `at` or later is all here.
    fn reaches(&self, at: Timestamp) -> bool {
        self.since.is_some_and(|since| since <= at)
    }

    /// Behind which row to read on, where what ended at `at` or later is all here.
    fn mark(&self, at: Timestamp) -> Option<i64> {
        self.reaches(at).then_some(self.mark)
    }

    /// Begins anew with the newest certificates that ended at `since` or later. Rows behind `mark` are told afterwards.
    fn begin(since: Timestamp, newest: Vec<Entry>, mark: i64) -> Self {
        let known = newest.into_iter().map(|entry| (entry.pair(), entry));
        Self { known: known.collect(), mark, since: Some(since) }
    }

    /// Takes all rows behind `mark`, in their order. Of two that looked at the same time the one may have read them before
    /// the other.
    fn follow(&mut self, mark: i64, rows: Vec<Entry>) {
        let Some(last) = rows.last().map(|row| row.sequence) else { return };
        let latest = rows.iter().map(|row| row.certificate.issued).max();
        let is_pending = |row: &&Entry| {
            row.standing == Standing::Unknown && latest <= Some(row.certificate.issued + PATIENCE)
        };
        // Those between were not read; those up to the mark are told already.
        if mark <= self.mark {
            self.mark = self.mark.max(rows.iter().find(is_pending).map_or(last, |row| row.sequence - 1));
        }
        for row in rows.into_iter().filter(|row| row.standing == Standing::Issued) {
            let pair = row.pair();
            if self.known.get(&pair).is_none_or(|known| known.sequence < row.sequence) {
                self.known.insert(pair, row);
            }
        }
    }

    /// The operators whose newest certificate is `revoked`, as far as it has not ended at `at`.
    fn revoked_operators(&self, at: Timestamp, revoked: &HashSet<(AuthorityId, Serial)>) -> Vec<SpiffeId> {
        if revoked.is_empty() {
            return Vec::new();
        }
        let operators = self
            .known
            .values()
            .map(|entry| &entry.certificate)
            .filter(|one| one.profile == Profile::Operator);
        let ended = operators
            .filter(|one| one.not_after >= at && revoked.contains(&(one.authority, one.serial.clone())));
        ended.map(|one| one.id.clone()).collect()
    }

    /// What has not ended at `at` and is not `revoked`, soonest first. Forgets what ended long before.
    fn at(&mut self, at: Timestamp, revoked: &HashSet<(AuthorityId, Serial)>) -> Vec<Remaining> {
        let horizon = at - KEPT;
        if self.since.is_some_and(|since| since < horizon) {
            self.since = Some(horizon);
            self.known.retain(|_, entry| entry.certificate.not_after >= horizon);
        }
        let all = self.known.values().map(|entry| &entry.certificate);
        let counted = all.filter(|one| {
            one.not_after >= at
                && (revoked.is_empty() || !revoked.contains(&(one.authority, one.serial.clone())))
        });
        // Sorted before they are copied, and as they lie: a look that goes on for ever needs no second room for all.
        let mut remaining: Vec<&Remaining> = counted.collect();
        remaining.sort_unstable_by_key(|one| one.not_after);
        remaining.into_iter().cloned().collect()
    }
}

impl Entry {
    fn pair(&self) -> (SpiffeId, Option<NodeId>) {
        (self.certificate.id.clone(), self.certificate.node.clone())
    }

    fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let standing = match row.try_get::<&str, _>("state")? {
            "issued" => Standing::Issued,
            "failed" => Standing::Failed,
            "unknown" => Standing::Unknown,
            other => return Err(decode("state", format!("unknown state {other}"))),
        };
        let certificate = Remaining {
            id: parsed(row, "id")?,
            node: optional_parsed(row, "node")?,
            profile: from_word(row, "profile")?,
            tenant: parsed(row, "tenant")?,
            serial: serial(row)?,
            authority: parsed(row, "authority")?,
            issued: time(row, "at")?,
            not_after: time(row, "not_after")?,
        };
        Ok(Self { sequence: row.try_get("sequence")?, standing, certificate })
    }
}

impl Store {
    /// See [`ca::ports::Journal::remaining`].
    pub(crate) async fn list_remaining(&self, now: Timestamp) -> Result<Vec<Remaining>, sqlx::Error> {
        let mut connection = self.read().await?;
        loop {
            let known = self.newest_certificates().mark(now);
            let begun = match known {
                Some(_) => None,
                None => Some(begin(&mut connection, now - KEPT).await?),
            };
            let mark = known.or(begun.as_ref().map(|begun| begun.mark)).unwrap_or_default();
            let query = format!("{COLUMNS} WHERE c.sequence > ? ORDER BY c.sequence");
            let rows = sqlx::query(AssertSqlSafe(query)).bind(mark).fetch_all(&mut *connection).await?;
            let rows = rows.iter().map(Entry::read).collect::<Result<_, _>>()?;
            let revoked = sqlx::query("SELECT authority, serial FROM revocations WHERE not_after >= ?")
                .bind(now.unix_millis())
                .fetch_all(&mut *connection)
                .await?;
            let revoked = revoked.iter().map(|row| Ok((parsed(row, "authority")?, serial(row)?)));
            let revoked = revoked.collect::<Result<_, sqlx::Error>>()?;
            let (mut remaining, operators) = {
                let mut newest = self.newest_certificates();
                if let Some(begun) = begun.filter(|_| !newest.reaches(now)) {
                    *newest = begun;
                }
                newest.follow(mark, rows);
                // Somebody else who looks back less far may have begun anew in between.
                if !newest.reaches(now) {
                    continue;
                }
                (newest.at(now, &revoked), newest.revoked_operators(now, &revoked))
            };
            for operator in operators {
                remaining.extend(newest_of_operator(&mut connection, &operator, now).await?);
                remaining.sort_by_key(|one| one.not_after);
            }
            return Ok(remaining);
        }
    }
}

/// The newest certificate of an operator that has not ended at `now` and is not revoked.
async fn newest_of_operator(
    connection: &mut SqliteConnection,
    operator: &SpiffeId,
    now: Timestamp,
) -> Result<Option<Remaining>, sqlx::Error> {
    let query = format!(
        "{COLUMNS} WHERE c.id = ? AND c.profile = 'operator' AND c.state = 'issued' AND c.not_after >= ?
            AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.authority = c.authority AND r.serial = c.serial)
          ORDER BY c.sequence DESC LIMIT 1"
    );
    let found = sqlx::query(AssertSqlSafe(query))
        .bind(operator.as_str())
        .bind(now.unix_millis())
        .fetch_optional(connection)
        .await?;
    found.map(|row| Ok(Entry::read(&row)?.certificate)).transpose()
}

/// Begins with what ended at `since` or later. What is issued while the others are read stands behind the mark, and is
/// told once more.
async fn begin(connection: &mut SqliteConnection, since: Timestamp) -> Result<Newest, sqlx::Error> {
    let mark = sqlx::query(
        "WITH last AS (SELECT sequence, state, at FROM certificates ORDER BY sequence DESC LIMIT ?1)
         SELECT coalesce((SELECT min(sequence) - 1 FROM last
                           WHERE state = 'unknown' AND at + ?2 >= (SELECT max(at) FROM last)),
                         (SELECT max(sequence) FROM last), 0) AS mark",
    )
    .bind(number(MAX_PENDING))
    .bind(i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX))
    .fetch_one(&mut *connection)
    .await?
    .try_get("mark")?;
    let query = format!("{COLUMNS} WHERE c.not_after >= ? AND {NEWEST}");
    let query = sqlx::query(AssertSqlSafe(query)).bind(since.unix_millis());
    let rows = query.fetch_all(connection).await?;
    Ok(Newest::begin(since, rows.iter().map(Entry::read).collect::<Result<_, _>>()?, mark))
}

#[cfg(test)]
mod tests {
    use certs::SpkiHash;
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use spiffe::Tenant;

    use super::*;

    const HOUR: u64 = 3600;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
    }

    fn entry(sequence: i64, path: u32, standing: Standing, from: u64, to: u64) -> Entry {
        let serial = Serial::from_random([u8::try_from(sequence % 251).unwrap(); 20]);
        let certificate = Remaining {
            id: SpiffeId::parse(&format!("spiffe://td/{path}")).unwrap(),
            node: None,
            profile: Profile::Workload,
            tenant: Tenant::default(),
            serial,
            authority: AuthorityId::of(SpkiHash([1; 32])),
            issued: at(from),
            not_after: at(to),
        };
        Entry { sequence, standing, certificate }
    }

    #[test]
    fn reads_again_from_the_first_row_that_waits_for_its_result() {
        use Standing::{Failed, Issued, Unknown};
        for (standings, times, mark) in [
            (vec![], vec![], 7),
            (vec![Issued, Failed, Issued], vec![0, 0, 0], 10),
            (vec![Issued, Unknown, Issued], vec![0, 0, 0], 8),
            (vec![Unknown, Unknown, Issued], vec![0, 0, 0], 7),
            // Nobody waits for ever: whoever meant it has ended long ago.
            (vec![Unknown, Issued, Issued], vec![0, 0, 601], 10),
            (vec![Unknown, Unknown, Issued], vec![0, 2, 601], 8),
            (vec![Unknown], vec![0], 7),
        ] {
            let mut newest = Newest::begin(at(0), Vec::new(), 7);
            let rows = standings.iter().zip(&times).enumerate();
            let row = |(place, (standing, from)): (usize, (&Standing, &u64))| {
                entry(8 + i64::try_from(place).unwrap(), 1, *standing, *from, HOUR)
            };
            newest.follow(7, rows.map(row).collect());
            assert_eq!(newest.mark, mark, "{standings:?} at {times:?}");
        }
    }

    #[test]
    fn rows_that_were_read_at_another_time_move_the_mark_over_nothing_and_not_back() {
        use Standing::{Issued, Unknown};
        let row = |sequence, standing| entry(sequence, 1, standing, 0, HOUR);
        let mut newest = Newest::begin(at(0), Vec::new(), 7);
        newest.follow(9, vec![row(10, Issued)]);
        assert_eq!((newest.mark, newest.known.len()), (7, 1), "8 and 9 were not read");
        newest.follow(7, vec![row(8, Issued), row(9, Issued), row(10, Issued)]);
        assert_eq!(newest.mark, 10);
        newest.follow(7, vec![row(8, Unknown), row(9, Unknown)]);
        assert_eq!(newest.mark, 10, "their results were told");
        assert_eq!(newest.at(at(0), &HashSet::new())[0].serial, row(10, Issued).certificate.serial);
    }

    #[test]
    fn what_somebody_looks_back_at_is_here_or_is_read_again() {
        let mut newest = Newest::default();
        assert!(!newest.reaches(at(0)), "nothing was read");
        newest = Newest::begin(at(0), vec![entry(1, 1, Standing::Issued, 0, HOUR)], 1);
        assert!(newest.reaches(at(0)) && newest.reaches(at(HOUR)));
        assert!(!newest.reaches(at(0) - Duration::from_secs(1)));
        assert_eq!(newest.at(at(HOUR), &HashSet::new()).len(), 1, "its last second counts");
        assert_eq!(newest.at(at(HOUR + 1), &HashSet::new()), []);
        assert_eq!(newest.at(at(HOUR), &HashSet::new()).len(), 1, "it is kept");
        assert_eq!(newest.at(at(27 * HOUR), &HashSet::new()), []);
        assert!(newest.known.is_empty(), "not for ever");
        assert!(!newest.reaches(at(HOUR)) && newest.reaches(at(2 * HOUR)));
    }

    /// What a table says by itself.
    fn plain(table: &[Entry], at: Timestamp, revoked: &HashSet<(AuthorityId, Serial)>) -> Vec<Serial> {
        let mut last: HashMap<_, &Entry> = HashMap::new();
        for row in table.iter().filter(|row| row.standing == Standing::Issued) {
            last.insert(row.pair(), row);
        }
        let all = last.into_values().map(|row| &row.certificate);
        let counted =
            all.filter(|one| one.not_after >= at && !revoked.contains(&(one.authority, one.serial.clone())));
        let mut serials: Vec<Serial> = counted.map(|one| one.serial.clone()).collect();
        serials.sort();
        serials
    }

    /// However rows come, end, fail and are revoked, and whenever somebody asks: the answer is that of the whole table.
    #[test]
    fn a_walk_never_differs_from_the_whole_table() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut table, mut revoked): (Vec<Entry>, HashSet<_>) = (Vec::new(), HashSet::new());
            let (mut newest, mut now, mut late) = (Newest::default(), 30 * HOUR, None);
            for step in 0..240 {
                now += random.random_range(0..400_u64);
                match random.random_range(0..8) {
                    0..4 if table.len() < 250 => {
                        let life = [60, HOUR, 40 * HOUR][random.random_range(0..3)];
                        let sequence = i64::try_from(table.len()).unwrap() + 1;
                        table.push(entry(
                            sequence,
                            random.random_range(0..6),
                            Standing::Unknown,
                            now,
                            now + life,
                        ));
                    }
                    4..6 => {
                        let young = table.iter_mut().filter(|row| {
                            row.standing == Standing::Unknown && row.certificate.issued + PATIENCE > at(now)
                        });
                        let is_good = random.random_range(0..4) > 0;
                        for row in young.take(random.random_range(1..4)) {
                            row.standing = if is_good { Standing::Issued } else { Standing::Failed };
                        }
                    }
                    6 if !table.is_empty() && step % 5 == 0 => {
                        let row = &table[random.random_range(0..table.len())].certificate;
                        revoked.insert((row.authority, row.serial.clone()));
                    }
                    _ => {}
                }
                let asked =
                    at(now) - Duration::from_secs([0, 0, 24 * HOUR, 26 * HOUR][random.random_range(0..4)]);
                if !newest.reaches(asked) {
                    let since = asked - KEPT;
                    let mark = table.iter().find(|row| row.standing == Standing::Unknown);
                    let mark = mark.map_or(table.len() as i64, |row| row.sequence - 1);
                    let mut last: HashMap<_, Entry> = HashMap::new();
                    for row in table.iter().filter(|row| row.standing == Standing::Issued) {
                        last.insert(row.pair(), row.clone());
                    }
                    let rows = last.into_values().filter(|row| row.certificate.not_after >= since);
                    newest = Newest::begin(since, rows.collect(), mark);
                }
                // Somebody who looked at the same time read before, and comes after.
                let read =
                    (newest.mark, table.iter().filter(|row| row.sequence > newest.mark).cloned().collect());
                let (mark, rows): (i64, Vec<Entry>) = read;
                if random.random_range(0..4) == 0 {
                    late = Some((mark, rows.clone()));
                }
                newest.follow(mark, rows);
                if random.random_range(0..4) == 0
                    && let Some((mark, rows)) = late.take()
                {
                    newest.follow(mark, rows);
                }
                let answer = newest.at(asked, &revoked);
                assert!(answer.is_sorted_by_key(|one| one.not_after), "seed {seed} step {step}");
                let mut serials: Vec<Serial> = answer.into_iter().map(|one| one.serial).collect();
                serials.sort();
                assert_eq!(serials, plain(&table, asked, &revoked), "seed {seed} step {step}");
            }
        }
    }
}
