//! Whose turn it is, where several edges want the same names of one account. Servers answer who orders names that are
//! ordered already with the order that there is (Boulder does), so that two edges would have one order, and one of them a
//! certificate of the other's key.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use acme::{Names, Saved, Url};
use certs::{Clock, Timestamp};
use tokio::sync::{Mutex as Turnstile, OwnedMutexGuard, watch};

use super::lock;

/// From how many on those that nobody has in hand are forgotten.
const MAX_TURNS: usize = 4096;
/// How many orders are remembered of which somebody has the certificate.
const MAX_SPENT: usize = 16;

/// An account, and names in their order.
type Key = (String, Vec<String>);

/// By account and names.
#[derive(Default)]
pub(super) struct Turns(Mutex<BTreeMap<Key, Arc<Turn>>>);

/// Of one account and its names.
#[derive(Default)]
pub(super) struct Turn {
    /// Fair: who has had it comes after everybody who waits.
    stile: Arc<Turnstile<()>>,
    waiting: watch::Sender<usize>,
    spent: Mutex<VecDeque<Url>>,
}

/// Nobody else orders these names as long as there is it.
pub(super) struct Held {
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    pub(super) fn of(&self, account: &Url, names: &Names) -> Arc<Turn> {
        let mut names: Vec<String> = names.as_slice().iter().map(ToString::to_string).collect();
        names.sort();
        let mut all = lock(&self.0);
        if all.len() >= MAX_TURNS {
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(all.entry((account.to_string(), names)).or_default())
    }
}

impl Turn {
    /// Unless somebody has it, or waits for it.
    pub(super) fn try_take(&self) -> Option<Held> {
        Arc::clone(&self.stile).try_lock_owned().ok().map(|guard| Held { _guard: guard })
    }

    pub(super) async fn take(&self) -> Held {
        let _waiting = Waiting::new(&self.waiting);
        Held { _guard: Arc::clone(&self.stile).lock_owned().await }
    }

    /// Comes back when somebody waits for it while an order rests: `rests` says until when, if it does.
    pub(super) async fn is_better_given(&self, rests: &watch::Sender<Option<Timestamp>>, clock: &dyn Clock) {
        let (mut rests, mut waiting) = (rests.subscribe(), self.waiting.subscribe());
        loop {
            let until = *rests.borrow_and_update();
            let does_rest = until.is_some_and(|until| clock.now() < until);
            if does_rest && *waiting.borrow_and_update() > 0 {
                return;
            }
            tokio::select! {
                _ = waiting.changed() => {}
                _ = rests.changed() => {}
            }
        }
    }

    /// The certificate of this order is somebody's.
    pub(super) fn spend(&self, order: Url) {
        let mut spent = lock(&self.spent);
        spent.push_back(order);
        let surplus = spent.len().saturating_sub(MAX_SPENT);
        spent.drain(..surplus);
    }

    /// What is stored of an order, without the order if somebody else has its certificate by now.
    pub(super) fn unspent(&self, mut saved: Saved) -> Saved {
        if saved.order.as_ref().is_some_and(|order| lock(&self.spent).contains(order)) {
            saved.order = None;
        }
        saved
    }
}

/// Counts one who waits.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use acme::{ChallengeKind, Failures, Identifier, Wanted};
    use certs::ManualClock;
    use futures::FutureExt;

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn url(path: &str) -> Url {
        Url::parse(&format!("https://acme.example/{path}")).unwrap()
    }

    fn names(all: &[&str]) -> Names {
        Names::try_new(all.iter().map(|name| Identifier::parse(name).unwrap()).collect()).unwrap()
    }

    #[tokio::test]
    async fn who_wants_the_same_names_of_one_account_waits() {
        let turns = Turns::default();
        let turn = turns.of(&url("acct/1"), &names(&["a.example", "b.example"]));
        let held = turn.try_take().unwrap();
        let same = turns.of(&url("acct/1"), &names(&["b.example", "a.example"]));
        assert!(same.try_take().is_none());
        for (account, others) in [("acct/2", &["a.example", "b.example"][..]), ("acct/1", &["a.example"])] {
            assert!(turns.of(&url(account), &names(others)).try_take().is_some());
        }
        let mut waits = Box::pin(same.take());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        assert!(turn.try_take().is_none(), "whoever waits comes first");
        drop(waits.await);
        assert!(turn.try_take().is_some());
    }

    #[tokio::test]
    async fn it_is_given_to_who_waits_as_long_as_an_order_rests() {
        let (turn, rests, clock) = (Turn::default(), watch::Sender::new(None), ManualClock::new(START));
        let _held = turn.try_take().unwrap();
        let mut given = Box::pin(turn.is_better_given(&rests, &clock));
        let mut waits = Box::pin(turn.take());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(given.as_mut().now_or_never().is_none(), "it is at work");
        rests.send_replace(Some(START + Duration::from_secs(60)));
        assert!(given.as_mut().now_or_never().is_some());
        drop(waits);
        let mut given = Box::pin(turn.is_better_given(&rests, &clock));
        assert!(given.as_mut().now_or_never().is_none(), "nobody waits any more");
        clock.advance(Duration::from_secs(60));
        let mut waits = Box::pin(turn.take());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(given.as_mut().now_or_never().is_none(), "it is at work again");
    }

    #[test]
    fn an_order_whose_certificate_is_anothers_is_not_gone_on_with() {
        let turn = Turn::default();
        let wanted = Wanted::try_new(url("acct/1"), names(&["a.example"]), ChallengeKind::Http01).unwrap();
        let saved = |order: &str| Saved {
            wanted: wanted.clone(),
            is_asking: false,
            order: Some(url(order)),
            is_replaces_refused: false,
            breakdowns: 0,
            presented: Vec::new(),
            presented_at: None,
            failures: Failures::default(),
            stumbled: None,
        };
        turn.spend(url("order/1"));
        assert_eq!(turn.unspent(saved("order/1")).order, None);
        assert_eq!(turn.unspent(saved("order/2")), saved("order/2"));
    }
}
