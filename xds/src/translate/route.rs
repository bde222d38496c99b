//! Route tables.

use proto::envoy::{
    config::{
        core::v3::{
            DataSource, HeaderValue, HeaderValueOption, data_source, header_value_option::HeaderAppendAction,
        },
        route::v3::{
            self as envoy,
            header_matcher::HeaderMatchSpecifier,
            query_parameter_matcher::QueryParameterMatchSpecifier,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            route::Action,
            route_action::{
                ClusterSpecifier, HashPolicy as EnvoyHashPolicy, HostRewriteSpecifier,
                hash_policy::{ConnectionProperties, Header, PolicySpecifier, QueryParameter},
            },
            route_match::PathSpecifier,
            weighted_cluster::ClusterWeight,
        },
    },
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};

use super::duration;
use crate::model::{
    DirectResponse, HashPolicy, HeaderMatch, HeaderToAdd, QueryMatch, Redirect, RedirectCode, Route,
    RouteAction, RouteMatch, RouteTable, VirtualHost,
};

pub(super) fn table(table: &RouteTable) -> envoy::RouteConfiguration {
    envoy::RouteConfiguration {
        name: table.name.clone(),
        virtual_hosts: table.virtual_hosts.iter().map(virtual_host).collect(),
        // That clusters exist was checked here; Envoy might still wait for one.
        validate_clusters: Some(false),
        ..Default::default()
    }
}

fn virtual_host(host: &VirtualHost) -> envoy::VirtualHost {
    envoy::VirtualHost {
        name: host.name.clone(),
        domains: host.domains.clone(),
        routes: host.routes.iter().map(route).collect(),
        request_headers_to_add: headers(&host.request_headers_to_add),
        request_headers_to_remove: host.request_headers_to_remove.clone(),
        response_headers_to_add: headers(&host.response_headers_to_add),
        response_headers_to_remove: host.response_headers_to_remove.clone(),
        ..Default::default()
    }
}

fn route(route: &Route) -> envoy::Route {
    let forward = route.action.as_ref().map(|action| Action::Route(route_action(action)));
    let redirect = route.redirect.as_ref().map(|to| Action::Redirect(redirect(to)));
    let answer = route.direct_response.as_ref().map(|answer| Action::DirectResponse(direct_response(answer)));
    envoy::Route {
        name: route.name.clone().unwrap_or_default(),
        r#match: Some(route_match(&route.matching)),
        action: forward.or(redirect).or(answer),
        request_headers_to_add: headers(&route.request_headers_to_add),
        request_headers_to_remove: route.request_headers_to_remove.clone(),
        response_headers_to_add: headers(&route.response_headers_to_add),
        response_headers_to_remove: route.response_headers_to_remove.clone(),
        ..Default::default()
    }
}

fn route_match(matching: &RouteMatch) -> envoy::RouteMatch {
    let prefix = matching.prefix.clone().map(PathSpecifier::Prefix);
    let path = matching.path.clone().map(PathSpecifier::Path);
    let expression = matching.regex.as_deref().map(regex).map(PathSpecifier::SafeRegex);
    envoy::RouteMatch {
        path_specifier: prefix.or(path).or(expression),
        case_sensitive: matching.case_sensitive,
        headers: matching.headers.iter().map(header_match).collect(),
        query_parameters: matching.query_parameters.iter().map(query_match).collect(),
        ..Default::default()
    }
}

fn header_match(matching: &HeaderMatch) -> envoy::HeaderMatcher {
    let patterns = [
        matching.exact.clone().map(MatchPattern::Exact),
        matching.prefix.clone().map(MatchPattern::Prefix),
        matching.suffix.clone().map(MatchPattern::Suffix),
        matching.contains.clone().map(MatchPattern::Contains),
        matching.regex.as_deref().map(regex).map(MatchPattern::SafeRegex),
    ];
    let specifier = match patterns.into_iter().flatten().next() {
        Some(pattern) => HeaderMatchSpecifier::StringMatch(string(pattern)),
        None => HeaderMatchSpecifier::PresentMatch(matching.present.unwrap_or(true)),
    };
    envoy::HeaderMatcher {
        name: matching.name.clone(),
        invert_match: matching.invert.unwrap_or(false),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

fn query_match(matching: &QueryMatch) -> envoy::QueryParameterMatcher {
    let patterns = [
        matching.exact.clone().map(MatchPattern::Exact),
        matching.prefix.clone().map(MatchPattern::Prefix),
        matching.regex.as_deref().map(regex).map(MatchPattern::SafeRegex),
    ];
    let specifier = match patterns.into_iter().flatten().next() {
        Some(pattern) => QueryParameterMatchSpecifier::StringMatch(string(pattern)),
        None => QueryParameterMatchSpecifier::PresentMatch(matching.present.unwrap_or(true)),
    };
    envoy::QueryParameterMatcher {
        name: matching.name.clone(),
        query_parameter_match_specifier: Some(specifier),
    }
}

fn route_action(action: &RouteAction) -> envoy::RouteAction {
    let specifier = match &action.cluster {
        Some(cluster) => ClusterSpecifier::Cluster(cluster.clone()),
        None => ClusterSpecifier::WeightedClusters(weighted(action)),
    };
    envoy::RouteAction {
        cluster_specifier: Some(specifier),
        timeout: action.timeout.map(duration),
        idle_timeout: action.idle_timeout.map(duration),
        prefix_rewrite: action.prefix_rewrite.clone().unwrap_or_default(),
        host_rewrite_specifier: action.host_rewrite.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        retry_policy: action.retry_policy.as_ref().map(|policy| envoy::RetryPolicy {
            retry_on: policy.retry_on.clone(),
            num_retries: policy.num_retries,
            per_try_timeout: policy.per_try_timeout.map(duration),
            ..Default::default()
        }),
        hash_policy: action.hash_policy.iter().map(hash_policy).collect(),
        ..Default::default()
    }
}

fn weighted(action: &RouteAction) -> envoy::WeightedCluster {
    let weight = |name: &str, weight| ClusterWeight {
        name: name.to_owned(),
        weight: Some(weight),
        ..Default::default()
    };
    let clusters = action.weighted_clusters.iter();
    envoy::WeightedCluster {
        clusters: clusters.map(|cluster| weight(&cluster.name, cluster.weight)).collect(),
        ..Default::default()
    }
}

fn hash_policy(policy: &HashPolicy) -> EnvoyHashPolicy {
    let header = |header_name| PolicySpecifier::Header(Header { header_name, ..Default::default() });
    let query = |name| PolicySpecifier::QueryParameter(QueryParameter { name });
    let address = |source_ip| PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip });
    let by_header = policy.header.clone().map(header);
    let by_query = policy.query_parameter.clone().map(query);
    let policy_specifier = by_header.or(by_query).or(policy.source_ip.map(address));
    EnvoyHashPolicy { terminal: false, policy_specifier }
}

fn redirect(redirect: &Redirect) -> envoy::RedirectAction {
    let code = match redirect.response_code.unwrap_or(RedirectCode::MovedPermanently) {
        RedirectCode::MovedPermanently => RedirectResponseCode::MovedPermanently,
        RedirectCode::Found => RedirectResponseCode::Found,
        RedirectCode::SeeOther => RedirectResponseCode::SeeOther,
        RedirectCode::TemporaryRedirect => RedirectResponseCode::TemporaryRedirect,
        RedirectCode::PermanentRedirect => RedirectResponseCode::PermanentRedirect,
    };
    let path = redirect.path.clone().map(PathRewriteSpecifier::PathRedirect);
    let prefix = redirect.prefix_rewrite.clone().map(PathRewriteSpecifier::PrefixRewrite);
    envoy::RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        port_redirect: redirect.port.map_or(0, |port| port.get().into()),
        response_code: code.into(),
        strip_query: redirect.strip_query.unwrap_or(false),
        scheme_rewrite_specifier: redirect.https.map(SchemeRewriteSpecifier::HttpsRedirect),
        path_rewrite_specifier: path.or(prefix),
    }
}

fn direct_response(answer: &DirectResponse) -> envoy::DirectResponseAction {
    let body = answer.body.clone().map(|text| DataSource {
        specifier: Some(data_source::Specifier::InlineString(text)),
        ..Default::default()
    });
    envoy::DirectResponseAction { status: answer.status, body, ..Default::default() }
}

fn headers(headers: &[HeaderToAdd]) -> Vec<HeaderValueOption> {
    let option = |header: &HeaderToAdd| {
        let action = match header.append {
            Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
            Some(false) | None => HeaderAppendAction::OverwriteIfExistsOrAdd,
        };
        let pair =
            HeaderValue { key: header.name.clone(), value: header.value.clone(), ..Default::default() };
        HeaderValueOption { header: Some(pair), append_action: action.into(), ..Default::default() }
    };
    headers.iter().map(option).collect()
}

fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}
