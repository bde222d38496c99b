//! Rules on endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Findings;
use crate::model::{Endpoint, node::At};

/// `numeric` tells EDS and static clusters, which take IP addresses, from those that resolve host names.
pub(super) fn check(endpoints: &[Endpoint], at: &At<'_>, numeric: bool, findings: &mut Findings) {
    let mut first: BTreeMap<(&str, u16), usize> = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = at.index(index);
        check_address(&endpoint.address, numeric, &at.key("address"), findings);
        if endpoint.weight == Some(0) {
            let message = "weight 0 is not allowed, 1 is the least";
            findings.refuse(
                &at.key("weight"),
                "weights",
                message,
                "take the endpoint away to send it nothing",
            );
        }
        // A list may be long: the position of the earlier one is only looked up for a message.
        if let Some(earlier) = first.insert((&endpoint.address, endpoint.port.get()), index) {
            let message =
                format!("{}:{} is there already, as item {}", endpoint.address, endpoint.port, earlier + 1);
            findings.refuse(&at, "duplicate-endpoint", message, "give it once, with a weight");
        }
    }
    check_priorities(endpoints, at, findings);
    // Envoy's balancers by hash add up all of a priority, the others each locality of it.
    let mut sums: BTreeMap<_, u64> = BTreeMap::new();
    for endpoint in endpoints {
        *sums.entry(endpoint.priority.unwrap_or(0)).or_default() += u64::from(endpoint.weight.unwrap_or(1));
    }
    if let Some(sum) = sums.into_values().find(|sum| *sum > u64::from(u32::MAX)) {
        let message = format!("weights of one priority add up to {sum}, at most {} is allowed", u32::MAX);
        findings.refuse(at, "weights", message, "make them smaller");
    }
}

fn check_address(address: &str, numeric: bool, at: &At<'_>, findings: &mut Findings) {
    if address.parse::<IpAddr>().is_ok() {
        return;
    }
    if numeric {
        let hint = "write an IPv4 or IPv6 address; host names are for clusters of type STRICT_DNS";
        findings.refuse(at, "address", format!("{address:?} is not an IP address"), hint);
        return;
    }
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let name = address.strip_suffix('.').unwrap_or(address);
    if name.len() > 253 || !name.split('.').all(label_fits) {
        let hint = "write a name without scheme, port and path";
        findings.refuse(at, "address", format!("{address:?} is no host name"), hint);
    }
}

/// Envoy fails over from one priority to the next, and refuses gaps (xds.md 101).
fn check_priorities(endpoints: &[Endpoint], at: &At<'_>, findings: &mut Findings) {
    let used: BTreeSet<u32> = endpoints.iter().map(|endpoint| endpoint.priority.unwrap_or(0)).collect();
    let gap = used.iter().zip(0u32..).find(|(priority, expected)| *priority != expected);
    if let Some((priority, expected)) = gap {
        let index = endpoints.iter().position(|endpoint| endpoint.priority == Some(*priority)).unwrap_or(0);
        let message = format!("priority {priority} is used, and priority {expected} is not");
        findings.refuse(
            &at.index(index).key("priority"),
            "priority-gap",
            message,
            "count priorities from 0, without gaps",
        );
    }
}
