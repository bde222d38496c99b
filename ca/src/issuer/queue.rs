//! Who is next: whoever has the least life remaining.

use std::collections::{BTreeMap, HashMap, HashSet};

use certs::Timestamp;
use spiffe::{IssueError, IssuedSvid, NodeId, Spend, SpiffeId, SvidRequest};
use tokio::sync::oneshot;

use crate::ports::Remaining;

/// How many requests wait at most; of more, those that can wait longest are told to come again.
pub(crate) const MAX_WAITING: usize = 16_384;

/// A request and whoever waits for its answer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: SvidRequest,
    /// The request signed with its key (PKCS#10, DER), where an issuer elsewhere is to be asked.
    pub(crate) csr: Vec<u8>,
    /// Another issuer was to sign it, and rests.
    pub(crate) is_fallback: bool,
    pub(crate) reply: oneshot::Sender<Result<IssuedSvid, IssueError>>,
}

/// Requests by the end of what they replace. One that replaces nothing is as urgent as one that ends now.
///
/// Two requests that spend the same go one after the other, so that the second gets what the first was issued.
#[derive(Debug)]
pub(crate) struct Queue {
    jobs: BTreeMap<(Timestamp, u64), Job>,
    arrivals: u64,
    limit: usize,
    spending: HashSet<String>,
    remembered: HashMap<(SpiffeId, Option<NodeId>), Timestamp>,
}

impl Queue {
    /// A queue that knows from the journal what leaves are out there. Each is looked at once: after that,
    /// whoever asks again knows better.
    pub(crate) fn new(remaining: Vec<Remaining>) -> Self {
        let remembered = remaining
            .into_iter()
            .map(|remaining| ((remaining.id, remaining.node), remaining.not_after))
            .collect();
        Self { jobs: BTreeMap::new(), arrivals: 0, limit: MAX_WAITING, spending: HashSet::new(), remembered }
    }

    /// Takes a job in. Past [`MAX_WAITING`] the one that can wait longest must leave, which may be this one:
    /// whoever has little life left is never turned away for somebody who has more.
    #[must_use]
    pub(crate) fn push(&mut self, job: Job, now: Timestamp) -> Option<Job> {
        let remembered = self.remembered.remove(&(job.request.id.clone(), job.request.node.clone()));
        let deadline = job.request.deadline.or(remembered).unwrap_or(now).max(now);
        self.arrivals += 1;
        self.jobs.insert((deadline, self.arrivals), job);
        if self.jobs.len() > self.limit { self.jobs.pop_last().map(|(_, job)| job) } else { None }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The next job that may begin. Jobs whose asker went away are dropped.
    pub(crate) fn pop(&mut self) -> Option<Job> {
        loop {
            let free = |job: &Job| spent(job).is_none_or(|name| !self.spending.contains(&name));
            let key = self.jobs.iter().find(|(_, job)| free(job)).map(|(key, _)| *key)?;
            let job = self.jobs.remove(&key)?;
            if job.reply.is_closed() {
                continue;
            }
            self.spending.extend(spent(&job));
            return Some(job);
        }
    }

    /// The job that spent `name` has ended.
    pub(crate) fn spent(&mut self, name: &str) {
        self.spending.remove(name);
    }
}

/// What the job uses up.
fn spent(job: &Job) -> Option<String> {
    job.request.spend.as_ref().map(Spend::name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use certs::{Serial, SpkiHash};
    use spiffe::{Purpose, TokenSpend};

    use super::*;
    use crate::testing::request;

    type Answer = oneshot::Receiver<Result<IssuedSvid, IssueError>>;

    fn job(path: &str, change: impl FnOnce(&mut SvidRequest)) -> (Job, Answer) {
        let mut request = request(path, Purpose::Delivery);
        change(&mut request);
        let (reply, answer) = oneshot::channel();
        (Job { request, csr: Vec::new(), is_fallback: false, reply }, answer)
    }

    fn names(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|job| job.request.id.path().to_owned()).collect()
    }

    #[test]
    fn the_least_remaining_life_goes_first() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let after = |secs: u64| now + Duration::from_secs(secs);
        let known = |path: &str, secs: u64| {
            let request = request(path, Purpose::Delivery);
            Remaining {
                id: request.id,
                node: request.node,
                profile: request.profile,
                tenant: request.tenant,
                serial: Serial::random(),
                authority: spiffe::AuthorityId::of(SpkiHash([1; 32])),
                issued: now,
                not_after: after(secs),
            }
        };
        let mut queue = Queue::new(vec![known("/known-50", 50), known("/known-20", 20)]);
        let mut answers = Vec::new();
        for (path, deadline) in [
            ("/in-30", Some(after(30))),
            ("/known-50", None),
            ("/new", None),
            ("/known-20", None),
            ("/late", Some(now - Duration::from_secs(9))),
            ("/in-10", Some(after(10))),
            ("/known-50", None),
        ] {
            let (job, answer) = job(path, |request| request.deadline = deadline);
            answers.push(answer);
            assert!(queue.push(job, now).is_none());
        }
        let order = names(&mut queue);
        assert_eq!(order, ["/new", "/late", "/known-50", "/in-10", "/known-20", "/in-30", "/known-50"]);
    }

    #[test]
    fn under_overload_those_who_can_wait_longest_make_room() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let mut queue = Queue { limit: 3, ..Queue::new(Vec::new()) };
        let mut answers = Vec::new();
        let mut push = |path: &str, secs: u64| {
            let (job, answer) = job(path, |request| request.deadline = Some(now + Duration::from_secs(secs)));
            answers.push(answer);
            queue.push(job, now).map(|job| job.request.id.path().to_owned())
        };
        for (path, secs, turned_away) in [
            ("/in-50", 50, None),
            ("/in-40", 40, None),
            ("/in-30", 30, None),
            // A node that is about to fall silent goes before workloads that have time.
            ("/credence/node/web-1", 5, Some("/in-50")),
            ("/in-60", 60, Some("/in-60")),
            ("/in-10", 10, Some("/in-40")),
        ] {
            assert_eq!(push(path, secs).as_deref(), turned_away, "{path}");
        }
        assert_eq!(names(&mut queue), ["/credence/node/web-1", "/in-10", "/in-30"]);
    }

    #[test]
    fn one_token_is_spent_by_one_job_at_a_time() {
        let now = Timestamp::EPOCH;
        let mut queue = Queue::new(Vec::new());
        let mut answers = Vec::new();
        for (path, token) in [("/a", "t1"), ("/b", "t1"), ("/c", "t2")] {
            let spend = Spend::Token(TokenSpend { token_id: token.to_owned(), spki: SpkiHash([0; 32]) });
            let (job, answer) = job(path, |request| request.spend = Some(spend));
            answers.push(answer);
            assert!(queue.push(job, now).is_none());
        }
        assert_eq!(names(&mut queue), ["/a", "/c"]);
        queue.spent("t2");
        assert_eq!(names(&mut queue), [""; 0]);
        queue.spent("t1");
        assert_eq!(names(&mut queue), ["/b"]);
    }

    #[test]
    fn nothing_is_issued_for_whoever_went_away() {
        let mut queue = Queue::new(Vec::new());
        let (gone, answer) = job("/gone", |_| {});
        let (here, _answer) = job("/here", |_| {});
        assert!(queue.push(gone, Timestamp::EPOCH).is_none());
        assert!(queue.push(here, Timestamp::EPOCH).is_none());
        drop(answer);
        assert_eq!(names(&mut queue), ["/here"]);
    }
}
