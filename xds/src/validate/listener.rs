//! Rules on listeners.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Findings, check_identity};
use crate::{
    model::{ChainMatch, Filter, Listener, MtlsMode, node::At},
    translate::{ACME_TLS, Defaults, listener_mode},
};

pub(super) fn check(listener: &Listener, at: &At<'_>, defaults: &Defaults, findings: &mut Findings) {
    check_tls(listener, &at.key("tls"), findings);
    check_mtls(listener, &at.key("mtls"), defaults, findings);
    let chains = at.key("filterChains");
    if listener.filter_chains.is_empty() {
        let message = format!("listener {:?} has no filter chain", listener.name);
        findings.refuse(
            &chains,
            "filter-chains",
            message,
            "add one with an http_connection_manager or tcp_proxy",
        );
    }
    let mut taken: BTreeMap<Connections, usize> = BTreeMap::new();
    for (index, chain) in listener.filter_chains.iter().enumerate() {
        let at = chains.index(index);
        if chain.filters.len() != 1 {
            let message = format!("filter chain has {} filters, exactly one is needed", chain.filters.len());
            let hint = "each of the known filters ends its chain; write one chain for each";
            findings.refuse(&at.key("filters"), "terminal-filter", message, hint);
        }
        for (position, filter) in chain.filters.iter().enumerate() {
            check_filter(filter, &at.key("filters").index(position).key("config"), findings);
        }
        if let Some(matching) = &chain.matching {
            check_match(matching, &at.key("match"), findings);
            let is_edge = listener.tls.as_ref().is_some_and(|tls| tls.edge.is_some());
            if is_edge && matching.application_protocols.iter().any(|protocol| protocol == ACME_TLS) {
                let at = at.key("match").key("applicationProtocols");
                let message = format!("{ACME_TLS} is what ACME servers ask for");
                findings.refuse(&at, "acme-protocol", message, "take it away: Credence answers them");
            }
        }
        for connection in connections(chain.matching.as_ref()) {
            let (message, hint) = match taken.insert(connection, index) {
                None => continue,
                Some(earlier) if earlier == index => {
                    ("names the same connections twice".to_owned(), "name each value of its match once")
                }
                Some(earlier) => {
                    let earlier = chains.index(earlier).cite();
                    let message = format!("takes connections that the chain at {earlier} takes already");
                    (message, "make the matches differ")
                }
            };
            findings.refuse(&at, "overlapping-chains", message, hint);
            break;
        }
    }
}

/// Server name, protocol and source range. A range is told by its address and length, however it is spelled.
type Connections = (String, String, Option<(IpAddr, u8)>);

/// Every combination that a match names; Envoy refuses to have one twice.
fn connections(matching: Option<&ChainMatch>) -> Vec<Connections> {
    let or_any = |values: &[String]| if values.is_empty() { vec![String::new()] } else { values.to_vec() };
    let Some(matching) = matching else { return vec![Default::default()] };
    let mut all = Vec::new();
    for server in or_any(&matching.server_names) {
        for protocol in or_any(&matching.application_protocols) {
            for range in or_any(&matching.source_prefix_ranges) {
                all.push((server.clone(), protocol.clone(), range_of(&range)));
            }
        }
    }
    all
}

/// `None` for any; a range that cannot be read is refused by its own rule.
fn range_of(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    Some((address.parse().ok()?, length.parse().ok()?))
}

fn check_tls(listener: &Listener, at: &At<'_>, findings: &mut Findings) {
    let Some(tls) = &listener.tls else { return };
    if tls.certificate.is_some() == tls.edge.is_some() {
        let message = "exactly one of certificate and edge says what is shown".to_owned();
        let hint = "certificate names an imported secret, edge a certificate that Credence obtains";
        findings.refuse(at, "tls-certificate", message, hint);
    }
}

fn check_mtls(listener: &Listener, at: &At<'_>, defaults: &Defaults, findings: &mut Findings) {
    let Some(mtls) = &listener.mtls else { return };
    if listener.tls.is_some() {
        let message = "a listener has either tls or mtls".to_owned();
        let hint = "tls shows a certificate to everybody; mtls asks for one in turn";
        findings.refuse(at, "tls-and-mtls", message, hint);
        return;
    }
    if listener_mode(listener, defaults) == MtlsMode::Off {
        let given = [("identity", mtls.identity.is_some()), ("allow", !mtls.allow.is_empty())];
        for (name, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            let message = format!("{name} means nothing when mtls is off");
            findings.refuse(&at.key(name), "mtls-off", message, "write mode: strict, or take it away");
        }
    }
    if let Some(id) = &mtls.identity {
        check_identity(id, defaults, &at.key("identity"), findings);
    }
    for (index, id) in mtls.allow.iter().enumerate() {
        check_identity(id, defaults, &at.key("allow").index(index), findings);
    }
}

fn check_filter(filter: &Filter, at: &At<'_>, findings: &mut Findings) {
    let Filter::Http(http) = filter else { return };
    let mut seen = BTreeMap::new();
    for (index, upgrade) in http.upgrades.iter().enumerate() {
        if seen.insert(upgrade.to_ascii_lowercase(), index).is_some() {
            let message = format!("upgrade {upgrade:?} is given twice");
            findings.refuse(&at.key("upgrades").index(index), "duplicate-value", message, "");
        }
    }
}

fn check_match(matching: &ChainMatch, at: &At<'_>, findings: &mut Findings) {
    for (index, name) in matching.server_names.iter().enumerate() {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        let fault = match name.as_str() {
            "" => Some("is empty"),
            _ if rest.contains('*') => Some("may have a * only as its whole first label"),
            _ if name.chars().any(|c| c.is_ascii_uppercase()) => {
                Some("has capital letters, and would never match")
            }
            _ if !rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) => {
                Some("is no host name")
            }
            _ => None,
        };
        if let Some(fault) = fault {
            let hint = "write a host name in lower case, as shop.example.com or *.example.com";
            let at = at.key("serverNames").index(index);
            findings.refuse(&at, "server-name", format!("server name {name:?} {fault}"), hint);
        }
    }
    for (index, protocol) in matching.application_protocols.iter().enumerate() {
        if protocol.is_empty() {
            let at = at.key("applicationProtocols").index(index);
            findings.refuse(&at, "application-protocol", "application protocol is empty", "");
        }
    }
    for (index, range) in matching.source_prefix_ranges.iter().enumerate() {
        if let Some(fault) = cidr_fault(range) {
            let at = at.key("sourcePrefixRanges").index(index);
            findings.refuse(&at, "cidr", format!("{range:?} {fault}"), "write ADDRESS/LENGTH, as 10.0.0.0/8");
        }
    }
}

fn cidr_fault(range: &str) -> Option<String> {
    let Some((address, length)) = range.split_once('/') else { return Some("has no /LENGTH".to_owned()) };
    let Ok(address) = address.parse::<IpAddr>() else { return Some("has no IP address".to_owned()) };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length.parse::<u32>().ok().filter(|length| *length <= longest) else {
        return Some(format!("has no length of 0 to {longest}"));
    };
    // Envoy cuts them off, so that two ranges that look different may be the same.
    let host_bits = match address {
        IpAddr::V4(address) => address.to_bits().checked_shl(length).unwrap_or(0) != 0,
        IpAddr::V6(address) => address.to_bits().checked_shl(length).unwrap_or(0) != 0,
    };
    host_bits.then(|| format!("has bits beyond its length of {length}"))
}
