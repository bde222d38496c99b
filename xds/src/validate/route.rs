//! Rules on route tables.

use std::collections::BTreeMap;

use super::{Findings, check_choice, check_regex, template, unique};
use crate::model::{
    HeaderMatch, QueryMatch, Route, RouteAction, RouteMatch, RouteTable, VirtualHost, decode::nearest,
    node::At,
};

/// The largest body that Envoy answers with by itself.
const MAX_BODY_BYTES: usize = 4096;
/// Envoy ignores conditions that it does not know.
const RETRY_CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn check(table: &RouteTable, at: &At<'_>, findings: &mut Findings) {
    let hosts = at.key("virtualHosts");
    unique(table.virtual_hosts.iter().map(|host| &host.name), &hosts, "virtual host", findings);
    let mut domains: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (index, host) in table.virtual_hosts.iter().enumerate() {
        let at = hosts.index(index);
        if host.domains.is_empty() {
            let message = format!("virtual host {:?} has no domain", host.name);
            findings.refuse(&at.key("domains"), "domain", message, "write [\"*\"] for all hosts");
        }
        for (position, domain) in host.domains.iter().enumerate() {
            let at = at.key("domains").index(position);
            if let Some(fault) = domain_fault(domain) {
                let hint = "write a host name, *.example.com, example.* or *";
                findings.refuse(&at, "domain", format!("domain {domain:?} {fault}"), hint);
            }
            if let Some((host, position)) = domains.insert(domain.to_ascii_lowercase(), (index, position)) {
                let earlier = hosts.index(host).key("domains").index(position).cite();
                let message = format!("domain {domain:?} is there already, at {earlier}");
                findings.refuse(&at, "duplicate-domain", message, "a domain belongs to one virtual host");
            }
        }
        check_host(host, &at, findings);
    }
}

fn domain_fault(domain: &str) -> Option<&'static str> {
    let rest = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(domain);
    if domain.is_empty() {
        Some("is empty")
    } else if rest.contains('*') {
        Some("may have one *, at its beginning or end")
    } else if domain.contains("://") || domain.contains('/') {
        Some("has a scheme or a path")
    } else if domain.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some("has a space")
    } else {
        None
    }
}

fn check_host(host: &VirtualHost, at: &At<'_>, findings: &mut Findings) {
    template::check_added(&host.request_headers_to_add, &at.key("requestHeadersToAdd"), findings);
    template::check_added(&host.response_headers_to_add, &at.key("responseHeadersToAdd"), findings);
    template::check_removed(&host.request_headers_to_remove, &at.key("requestHeadersToRemove"), findings);
    template::check_removed(&host.response_headers_to_remove, &at.key("responseHeadersToRemove"), findings);
    let routes = at.key("routes");
    for (index, route) in host.routes.iter().enumerate() {
        check_route(route, &routes.index(index), findings);
        let shadow =
            host.routes[..index].iter().position(|earlier| shadows(&earlier.matching, &route.matching));
        if let Some(earlier) = shadow {
            let message = format!(
                "never used: the route at {} takes all of its requests",
                routes.index(earlier).cite()
            );
            findings.warn(&routes.index(index), "shadowed-route", message, "move it up, before the other");
        }
    }
}

/// Whether every request that fits `later` fits `earlier` before.
fn shadows(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    let unconditional = earlier.headers.is_empty() && earlier.query_parameters.is_empty();
    let same_case = earlier.case_sensitive == later.case_sensitive;
    let wanted = later.prefix.as_deref().or(later.path.as_deref());
    match (&earlier.prefix, &earlier.path, wanted) {
        (Some(prefix), _, _) if prefix == "/" && unconditional => true,
        (Some(prefix), _, Some(wanted)) => unconditional && same_case && wanted.starts_with(prefix),
        (None, Some(path), _) => unconditional && same_case && later.path.as_ref() == Some(path),
        _ => false,
    }
}

fn check_route(route: &Route, at: &At<'_>, findings: &mut Findings) {
    let actions = [
        ("route", route.action.is_some()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
    ];
    check_choice(&actions, false, at, findings);
    check_match(&route.matching, &at.key("match"), findings);
    template::check_added(&route.request_headers_to_add, &at.key("requestHeadersToAdd"), findings);
    template::check_added(&route.response_headers_to_add, &at.key("responseHeadersToAdd"), findings);
    template::check_removed(&route.request_headers_to_remove, &at.key("requestHeadersToRemove"), findings);
    template::check_removed(&route.response_headers_to_remove, &at.key("responseHeadersToRemove"), findings);
    if let Some(action) = &route.action {
        check_action(action, &at.key("route"), findings);
    }
    if let Some(redirect) = &route.redirect {
        let at = at.key("redirect");
        let given = [("path", redirect.path.is_some()), ("prefixRewrite", redirect.prefix_rewrite.is_some())];
        check_choice(&given, true, &at, findings);
        let changes = given.iter().any(|(_, is_given)| *is_given)
            || redirect.https == Some(true)
            || redirect.host.is_some()
            || redirect.port.is_some();
        if !changes {
            let message = "redirect changes nothing, and would go round in circles";
            findings.refuse(&at, "redirect", message, "give https, host, port, path or prefixRewrite");
        }
    }
    if let Some(body) = route.direct_response.as_ref().and_then(|answer| answer.body.as_ref())
        && body.len() > MAX_BODY_BYTES
    {
        let message = format!("body has {} bytes, at most {MAX_BODY_BYTES} are allowed", body.len());
        findings.refuse(&at.key("directResponse").key("body"), "body", message, "serve it from a cluster");
    }
}

fn check_match(matching: &RouteMatch, at: &At<'_>, findings: &mut Findings) {
    let paths = [
        ("prefix", matching.prefix.is_some()),
        ("path", matching.path.is_some()),
        ("regex", matching.regex.is_some()),
    ];
    check_choice(&paths, false, at, findings);
    for (key, path) in [("prefix", &matching.prefix), ("path", &matching.path)] {
        let Some(path) = path else { continue };
        if !path.starts_with('/') {
            findings.refuse(&at.key(key), "path", format!("{path:?} does not begin with \"/\""), "");
        }
        if path.contains(['?', '#']) {
            let message = format!("{path:?} has a query or fragment, which paths are matched without");
            findings.refuse(&at.key(key), "path", message, "use queryParameters");
        }
    }
    if let Some(expression) = &matching.regex {
        check_regex(expression, &at.key("regex"), findings);
        if matching.case_sensitive.is_some() {
            let message = "caseSensitive does not apply to regex";
            findings.refuse(&at.key("caseSensitive"), "regex", message, "begin the expression with (?i)");
        }
    }
    for (index, header) in matching.headers.iter().enumerate() {
        check_header_match(header, &at.key("headers").index(index), findings);
    }
    for (index, parameter) in matching.query_parameters.iter().enumerate() {
        check_query_match(parameter, &at.key("queryParameters").index(index), findings);
    }
}

fn check_header_match(header: &HeaderMatch, at: &At<'_>, findings: &mut Findings) {
    let conditions = [
        ("exact", header.exact.is_some()),
        ("prefix", header.prefix.is_some()),
        ("suffix", header.suffix.is_some()),
        ("contains", header.contains.is_some()),
        ("regex", header.regex.is_some()),
        ("present", header.present.is_some()),
    ];
    check_choice(&conditions, true, at, findings);
    if let Some(expression) = &header.regex {
        check_regex(expression, &at.key("regex"), findings);
    }
}

fn check_query_match(parameter: &QueryMatch, at: &At<'_>, findings: &mut Findings) {
    let conditions = [
        ("exact", parameter.exact.is_some()),
        ("prefix", parameter.prefix.is_some()),
        ("regex", parameter.regex.is_some()),
        ("present", parameter.present.is_some()),
    ];
    check_choice(&conditions, true, at, findings);
    if let Some(expression) = &parameter.regex {
        check_regex(expression, &at.key("regex"), findings);
    }
}

fn check_action(action: &RouteAction, at: &At<'_>, findings: &mut Findings) {
    let clusters =
        [("cluster", action.cluster.is_some()), ("weightedClusters", !action.weighted_clusters.is_empty())];
    check_choice(&clusters, false, at, findings);
    let sum: u64 = action.weighted_clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if !action.weighted_clusters.is_empty() && (sum == 0 || sum > u64::from(u32::MAX)) {
        let message = format!("weights add up to {sum}, 1 to {} is allowed", u32::MAX);
        findings.refuse(&at.key("weightedClusters"), "weights", message, "as in 90 and 10");
    }
    if let Some(policy) = &action.retry_policy {
        let at = at.key("retryPolicy").key("retryOn");
        for condition in policy.retry_on.split(',').map(str::trim) {
            if !RETRY_CONDITIONS.contains(&condition) {
                let hint = match nearest(condition, RETRY_CONDITIONS) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("known conditions: {}", RETRY_CONDITIONS.join(", ")),
                };
                findings.refuse(&at, "retry-on", format!("unknown condition {condition:?}"), hint);
            }
        }
    }
    for (index, policy) in action.hash_policy.iter().enumerate() {
        let given = [
            ("header", policy.header.is_some()),
            ("queryParameter", policy.query_parameter.is_some()),
            ("sourceIp", policy.source_ip == Some(true)),
        ];
        check_choice(&given, false, &at.key("hashPolicy").index(index), findings);
    }
}
