//! Who takes up how much room: one address must not keep the others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Places that addresses share. An address gets one more only while more places are free than it holds already:
/// alone it can have half of them, two have a third each, and a newcomer always finds room.
#[derive(Debug)]
pub(crate) struct Crowd {
    places: usize,
    /// What one address may hold even if nobody else is there.
    each: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    pub(crate) fn new(places: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { places, each, held: Mutex::default() })
    }

    /// A place for `address`, if there is one for it.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network_of(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.by_address.get(&address).copied().unwrap_or_default();
        if own >= self.each || own >= self.places.saturating_sub(held.total) {
            return None;
        }
        held.total += 1;
        held.by_address.insert(address, own + 1);
        Some(Place { crowd: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.crowd.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= 1;
        let left = held.by_address.get(&self.address).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            held.by_address.remove(&self.address);
        } else {
            held.by_address.insert(self.address, left);
        }
    }
}

/// An IPv6 host owns 64 bits of addresses: they count as one.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        },
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn fill(crowd: &Arc<Crowd>, address: IpAddr) -> Vec<Place> {
        std::iter::from_fn(|| crowd.enter(address)).take(10_000).collect()
    }

    #[test]
    fn a_newcomer_finds_room_however_many_one_address_holds() {
        let crowd = Crowd::new(2_000, usize::MAX);
        let greedy = fill(&crowd, v4(1));
        assert_eq!(greedy.len(), 1_000);
        let second = fill(&crowd, v4(2));
        assert_eq!(second.len(), 500);
        assert!(crowd.enter(v4(3)).is_some());
        drop(greedy);
        assert!(crowd.enter(v4(1)).is_some(), "what was given back can be had again");
        drop(second);
        assert_eq!(crowd.held.lock().unwrap().total, 0);
        assert!(crowd.held.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn an_address_has_its_bound_and_an_ipv6_network_is_one() {
        let crowd = Crowd::new(2_000, 10);
        assert_eq!(fill(&crowd, v4(1)).len(), 10);
        let hosts: Vec<_> = (0..20_u128)
            .filter_map(|host| crowd.enter(IpAddr::V6((0x2001_0db8_u128 << 96 | host).into())))
            .collect();
        assert_eq!(hosts.len(), 10);
    }
}
