//! Where requests go.

use std::{num::NonZeroU16, time::Duration};

use super::decode::{object, words};

object! {
    /// A table of routes, which listeners name as their `routeConfig`.
    pub struct RouteTable {
        /// Its name, unique on every node that it reaches.
        pub name: String = "name",
        /// By host; a request takes the one whose domain fits best.
        pub virtual_hosts: Vec<VirtualHost> = "virtualHosts",
    }
}

object! {
    /// The routes of some domains.
    pub struct VirtualHost {
        /// Its name, unique in the table.
        pub name: String = "name",
        /// Host names, with or without port: exact, *.example.com, example.*, or * for all others.
        pub domains: Vec<String> = "domains",
        /// The first that matches is taken.
        pub routes: Vec<Route> = "routes",
        /// Headers that are set on requests.
        pub request_headers_to_add: Vec<HeaderToAdd> = "requestHeadersToAdd",
        /// Headers that are taken from requests.
        pub request_headers_to_remove: Vec<String> = "requestHeadersToRemove",
        /// Headers that are set on answers.
        pub response_headers_to_add: Vec<HeaderToAdd> = "responseHeadersToAdd",
        /// Headers that are taken from answers.
        pub response_headers_to_remove: Vec<String> = "responseHeadersToRemove",
    }
}

object! {
    /// What happens with requests that match. Exactly one of `route`, `redirect` and `directResponse`.
    pub struct Route {
        /// What statistics and logs call it.
        pub name: Option<String> = "name",
        /// Which requests.
        pub matching: RouteMatch = "match",
        /// They go to a cluster.
        pub action: Option<RouteAction> = "route",
        /// They are sent elsewhere.
        pub redirect: Option<Redirect> = "redirect",
        /// They are answered by the proxy.
        pub direct_response: Option<DirectResponse> = "directResponse",
        /// Headers that are set on requests.
        pub request_headers_to_add: Vec<HeaderToAdd> = "requestHeadersToAdd",
        /// Headers that are taken from requests.
        pub request_headers_to_remove: Vec<String> = "requestHeadersToRemove",
        /// Headers that are set on answers.
        pub response_headers_to_add: Vec<HeaderToAdd> = "responseHeadersToAdd",
        /// Headers that are taken from answers.
        pub response_headers_to_remove: Vec<String> = "responseHeadersToRemove",
    }
}

object! {
    /// Which requests. Exactly one of `prefix`, `path` and `regex`; headers and query parameters must all match too.
    pub struct RouteMatch {
        /// The path begins so.
        pub prefix: Option<String> = "prefix",
        /// The path is exactly so, without query.
        pub path: Option<String> = "path",
        /// The whole path, without query, matches this RE2 expression.
        pub regex: Option<String> = "regex",
        /// Whether capitals matter in `prefix` and `path`; default true.
        pub case_sensitive: Option<bool> = "caseSensitive",
        /// What headers must be; `:method` is the method.
        pub headers: Vec<HeaderMatch> = "headers",
        /// What query parameters must be.
        pub query_parameters: Vec<QueryMatch> = "queryParameters",
    }
}

object! {
    /// What a header must be. At most one of the conditions; without one it must be there.
    pub struct HeaderMatch {
        /// The header.
        pub name: String = "name",
        /// It is exactly so.
        pub exact: Option<String> = "exact",
        /// It begins so.
        pub prefix: Option<String> = "prefix",
        /// It ends so.
        pub suffix: Option<String> = "suffix",
        /// It has this in it.
        pub contains: Option<String> = "contains",
        /// The whole value matches this RE2 expression.
        pub regex: Option<String> = "regex",
        /// It is there (true) or not (false).
        pub present: Option<bool> = "present",
        /// The opposite is wanted; default false.
        pub invert: Option<bool> = "invert",
    }
}

object! {
    /// What a query parameter must be. At most one of the conditions; without one it must be there.
    pub struct QueryMatch {
        /// The parameter.
        pub name: String = "name",
        /// It is exactly so.
        pub exact: Option<String> = "exact",
        /// It begins so.
        pub prefix: Option<String> = "prefix",
        /// The whole value matches this RE2 expression.
        pub regex: Option<String> = "regex",
        /// It is there (true) or not (false).
        pub present: Option<bool> = "present",
    }
}

object! {
    /// Requests go to a cluster. Exactly one of `cluster` and `weightedClusters`.
    pub struct RouteAction {
        /// The name among `clusters`.
        pub cluster: Option<String> = "cluster",
        /// Several, each with its share.
        pub weighted_clusters: Vec<WeightedCluster> = "weightedClusters",
        /// The whole answer must have come after this; default 15s, 0s means no limit.
        pub timeout: Option<Duration> = "timeout",
        /// A stream without bytes is closed after this.
        pub idle_timeout: Option<Duration> = "idleTimeout",
        /// What the matched prefix is replaced with.
        pub prefix_rewrite: Option<String> = "prefixRewrite",
        /// What the host header is replaced with.
        pub host_rewrite: Option<String> = "hostRewrite",
        /// What failed requests are tried again for; default: none is.
        pub retry_policy: Option<RetryPolicy> = "retryPolicy",
        /// What RING_HASH and MAGLEV hash.
        pub hash_policy: Vec<HashPolicy> = "hashPolicy",
    }
}

object! {
    /// One of several clusters.
    pub struct WeightedCluster {
        /// The name among `clusters`.
        pub name: String = "name",
        /// Its share of the sum of all weights.
        pub weight: u32 = "weight",
    }
}

object! {
    /// When a request is tried again.
    pub struct RetryPolicy {
        /// Envoy's conditions, as 5xx,connect-failure.
        pub retry_on: String = "retryOn",
        /// How often; default 1.
        pub num_retries: Option<u32> = "numRetries",
        /// How long each try may take.
        pub per_try_timeout: Option<Duration> = "perTryTimeout",
    }
}

object! {
    /// What requests are told apart by. Exactly one.
    pub struct HashPolicy {
        /// A header.
        pub header: Option<String> = "header",
        /// A query parameter.
        pub query_parameter: Option<String> = "queryParameter",
        /// The client's address.
        pub source_ip: Option<bool> = "sourceIp",
    }
}

words! {
    /// The status of a redirect.
    pub enum RedirectCode {
        /// 301
        MovedPermanently = "MOVED_PERMANENTLY",
        /// 302
        Found = "FOUND",
        /// 303
        SeeOther = "SEE_OTHER",
        /// 307
        TemporaryRedirect = "TEMPORARY_REDIRECT",
        /// 308
        PermanentRedirect = "PERMANENT_REDIRECT",
    }
}

object! {
    /// Requests are sent elsewhere.
    pub struct Redirect {
        /// To https.
        pub https: Option<bool> = "https",
        /// To this host.
        pub host: Option<String> = "host",
        /// To this port.
        pub port: Option<NonZeroU16> = "port",
        /// To this path.
        pub path: Option<String> = "path",
        /// To this in place of the matched prefix.
        pub prefix_rewrite: Option<String> = "prefixRewrite",
        /// With this status; default MOVED_PERMANENTLY.
        pub response_code: Option<RedirectCode> = "responseCode",
        /// Without the query.
        pub strip_query: Option<bool> = "stripQuery",
    }
}

object! {
    /// Requests are answered by the proxy.
    pub struct DirectResponse {
        /// The HTTP status.
        pub status: u32 = "status",
        /// The body.
        pub body: Option<String> = "body",
    }
}

object! {
    /// A header that is set.
    pub struct HeaderToAdd {
        /// The header.
        pub name: String = "name",
        /// The value; %COMMAND% of Envoy's access log where it is known to be harmless, %% for %.
        pub value: String = "value",
        /// Beside a value that is there (true) or in its place (false); default false.
        pub append: Option<bool> = "append",
    }
}
