//! Which of our chains an address is shown (PURE), while two roots are in force.
//!
//! After a root was replaced, everybody is shown the chain that leads to the new root. Who cannot verify it answers
//! with an alert, and its address is shown, *once*, the chain by which the root before vouches for the same
//! certificate. Nobody has said who he is at that point, so the memory goes by address; and since many may share
//! one, each alert pays for one handshake only: the others behind the same address still prove the new root, and
//! whoever was given the way back is tried with the new root again when it next connects.
//!
//! ```text
//! new root --alert, the chain is not believed--> one handshake is owed to the address --taken--> new root again
//!                                                  ^-- by one that did not need it --'
//! ```

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use certs::Timestamp;

use super::crowd::network_of;
use crate::presentation::Shown;

/// How long a handshake stays owed: longer than clients wait between two tries.
const OWED_FOR: Duration = Duration::from_secs(90);
/// How many handshakes one address may be owed.
const OWED_TO_ONE: u32 = 64;
/// How many addresses are remembered; those owed longest make room.
const ADDRESSES: usize = 4096;

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The client does not believe the chain that it was shown.
    Disbelieved { from: IpAddr, shown: Shown },
    /// The way back was shown and helped nobody: the handshake was not finished, or by a client that has proven the
    /// active root before. What it took was another's.
    WasNotNeeded { from: IpAddr },
}

#[derive(Debug, Clone, Copy)]
struct Owed {
    handshakes: u32,
    until: Timestamp,
}

/// The handshakes that are owed.
#[derive(Debug, Default)]
pub(crate) struct Fallbacks {
    owed: BTreeMap<IpAddr, Owed>,
}

impl Fallbacks {
    /// What the next handshake of this address is shown. Asking takes what is owed.
    pub(crate) fn choose(&mut self, from: IpAddr, now: Timestamp) -> Shown {
        let from = network_of(from);
        let Some(owed) = self.owed.get_mut(&from) else { return Shown::Active };
        owed.handshakes -= 1;
        let is_late = owed.until <= now;
        if is_late || owed.handshakes == 0 {
            self.owed.remove(&from);
        }
        if is_late { Shown::Active } else { Shown::Cross }
    }

    /// Takes one event.
    pub(crate) fn step(&mut self, event: Event, now: Timestamp) {
        let from = match event {
            Event::Disbelieved { from, shown: Shown::Active } | Event::WasNotNeeded { from } => {
                network_of(from)
            }
            // It believes neither: the way back is no way for it.
            Event::Disbelieved { shown: Shown::Cross, .. } => return,
        };
        if self.owed.len() >= ADDRESSES && !self.owed.contains_key(&from) {
            self.make_room(now);
        }
        let owed = self.owed.entry(from).or_insert(Owed { handshakes: 0, until: now });
        if owed.until <= now {
            owed.handshakes = 0;
        }
        owed.handshakes = (owed.handshakes + 1).min(OWED_TO_ONE);
        owed.until = now + OWED_FOR;
    }

    fn make_room(&mut self, now: Timestamp) {
        self.owed.retain(|_, owed| now < owed.until);
        if self.owed.len() >= ADDRESSES {
            let oldest = self.owed.iter().min_by_key(|(_, owed)| owed.until).map(|(from, _)| *from);
            oldest.and_then(|oldest| self.owed.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(secs: u64) -> Timestamp {
        START + Duration::from_secs(secs)
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_alert_pays_for_one_handshake_of_its_address() {
        let mut machine = Fallbacks::default();
        let disbelieved = |from, shown| Event::Disbelieved { from, shown };
        let (here, there) = (v4(1), v4(2));
        assert_eq!(machine.choose(here, at(0)), Shown::Active);
        machine.step(disbelieved(here, Shown::Active), at(0));
        assert_eq!(machine.choose(there, at(1)), Shown::Active, "another address");
        assert_eq!(machine.choose(here, at(1)), Shown::Cross);
        assert_eq!(machine.choose(here, at(1)), Shown::Active, "the next one may prove the new root");
        // Two who do not know the new root behind one address.
        machine.step(disbelieved(here, Shown::Active), at(2));
        machine.step(disbelieved(here, Shown::Active), at(3));
        assert_eq!(
            [(); 3].map(|()| machine.choose(here, at(4))),
            [Shown::Cross, Shown::Cross, Shown::Active]
        );
        // Who does not believe the way back is not shown it again.
        machine.step(disbelieved(here, Shown::Cross), at(5));
        assert_eq!(machine.choose(here, at(5)), Shown::Active);
        // One that did not need it gives it back.
        machine.step(disbelieved(here, Shown::Active), at(6));
        assert_eq!(machine.choose(here, at(6)), Shown::Cross);
        machine.step(Event::WasNotNeeded { from: here }, at(6));
        assert_eq!(machine.choose(here, at(7)), Shown::Cross);
        // What nobody takes is forgotten, all of it.
        machine.step(disbelieved(here, Shown::Active), at(10));
        machine.step(disbelieved(here, Shown::Active), at(10));
        assert_eq!([(); 2].map(|()| machine.choose(here, at(100))), [Shown::Active; 2]);
        assert!(machine.owed.is_empty());
        machine.step(disbelieved("2001:db8::1".parse().unwrap(), Shown::Active), at(200));
        assert_eq!(machine.choose("2001:db8::2".parse().unwrap(), at(200)), Shown::Cross, "one network");
    }

    /// Under any order of events: no more handshakes go back than alerts paid for; none later than the last alert of
    /// its address allows; the memory is bounded.
    #[test]
    fn holds_its_invariants_on_random_walks() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut machine = Fallbacks::default();
            let (mut now, mut paid, mut last) = (START, BTreeMap::new(), BTreeMap::new());
            for _ in 0..300 {
                now = now + Duration::from_millis(random.random_range(0..20_000));
                let from = v4(random.random_range(0..6));
                if random.random_bool(0.5) {
                    let shown = if random.random_bool(0.8) { Shown::Active } else { Shown::Cross };
                    machine.step(Event::Disbelieved { from, shown }, now);
                    if shown == Shown::Active {
                        *paid.entry(from).or_insert(0) += 1;
                        last.insert(from, now);
                    }
                } else if machine.choose(from, now) == Shown::Cross {
                    let paid: &mut i32 = paid.entry(from).or_default();
                    *paid -= 1;
                    assert!(*paid >= 0, "seed {seed}: {from} was shown the way back unpaid");
                    assert!(now.since(last[&from]) < OWED_FOR, "seed {seed}: too late");
                }
                assert!(machine.owed.values().all(|owed| (1..=OWED_TO_ONE).contains(&owed.handshakes)));
            }
        }
    }

    #[test]
    fn remembers_a_bounded_number_of_addresses() {
        let mut machine = Fallbacks::default();
        for number in 0..4_200 {
            machine.step(
                Event::Disbelieved { from: v4(number), shown: Shown::Active },
                at(u64::from(number) / 1000),
            );
        }
        assert_eq!(machine.owed.len(), ADDRESSES);
        assert_eq!(machine.choose(v4(4_199), at(10)), Shown::Cross);
        for _ in 0..200 {
            machine.step(Event::Disbelieved { from: v4(4_199), shown: Shown::Active }, at(10));
        }
        let shown = (0..200).filter(|_| machine.choose(v4(4_199), at(10)) == Shown::Cross).count();
        assert_eq!(shown, OWED_TO_ONE as usize);
    }
}
