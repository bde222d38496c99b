//! Rules on headers that are set and removed. Values are templates in Envoy, some of which read the proxy's
//! environment and files: only commands about the request and the connection are let through.

use super::Findings;
use crate::model::{HeaderToAdd, decode::nearest, node::At};

/// What a value may ask for.
const COMMANDS: &[&str] = &[
    "REQ",
    "RESP",
    "PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_FLAGS",
    "ROUTE_NAME",
    "START_TIME",
    "STREAM_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_HOST",
    "UPSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TLS_CIPHER",
    "REQUESTED_SERVER_NAME",
];
/// Those that need an argument, and those that may have one.
const WITH_ARGUMENT: &[&str] = &["REQ", "RESP"];
const MAY_HAVE_ARGUMENT: &[&str] = &["START_TIME", "DOWNSTREAM_PEER_CERT_V_END"];
/// What we set ourselves, and nobody else may.
const CLIENT_CERTIFICATE: &str = "x-forwarded-client-cert";

pub(super) fn check_added(headers: &[HeaderToAdd], at: &At<'_>, findings: &mut Findings) {
    for (index, header) in headers.iter().enumerate() {
        let at = at.index(index);
        check_name(&header.name, &at.key("name"), findings);
        check_value(&header.value, &at.key("value"), findings);
    }
}

pub(super) fn check_removed(headers: &[String], at: &At<'_>, findings: &mut Findings) {
    for (index, header) in headers.iter().enumerate() {
        check_name(header, &at.index(index), findings);
    }
}

fn check_name(name: &str, at: &At<'_>, findings: &mut Findings) {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        let message = format!("header {name:?} cannot be changed here");
        findings.refuse(at, "header-name", message, "use hostRewrite or prefixRewrite of the route");
    } else if name.eq_ignore_ascii_case(CLIENT_CERTIFICATE) {
        let message = format!("header {name:?} says who the client is, and is set by Credence alone");
        findings.refuse(at, "header-name", message, "add another header with %DOWNSTREAM_PEER_URI_SAN%");
    }
}

fn check_value(value: &str, at: &At<'_>, findings: &mut Findings) {
    let mut rest = value;
    while let Some(start) = rest.find('%') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let name = rest.split(|c: char| !(c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())).next();
        let name = name.unwrap_or_default();
        let arguments = &rest[name.len()..];
        let end = match arguments.strip_prefix('(') {
            Some(inside) => inside.find(')').map(|close| close + 2),
            None => Some(0),
        };
        let closed = end.and_then(|end| arguments.get(end..)).and_then(|after| after.strip_prefix('%'));
        let Some(after) = closed.filter(|_| !name.is_empty()) else {
            let message = format!("{value:?} has a % that begins no %COMMAND%");
            return findings.refuse(at, "header-value", message, "write %% for a percent sign");
        };
        if name == "REQUEST_ID" {
            let message = "Envoy has no command %REQUEST_ID% here";
            findings.refuse(at, "header-value", message, "write %REQ(x-request-id)%");
            rest = after;
            continue;
        }
        if !COMMANDS.contains(&name) {
            let hint = match nearest(name, COMMANDS) {
                Some(near) => format!("did you mean %{near}%?"),
                None => format!("known commands: {}", COMMANDS.join(", ")),
            };
            findings.refuse(at, "header-value", format!("command %{name}% is not allowed"), hint);
            rest = after;
            continue;
        }
        let has_argument = arguments.starts_with('(') && !arguments.starts_with("()");
        let fits = if WITH_ARGUMENT.contains(&name) {
            has_argument
        } else {
            !arguments.starts_with('(') || MAY_HAVE_ARGUMENT.contains(&name)
        };
        if !fits {
            let (message, hint) = match WITH_ARGUMENT.contains(&name) {
                true => ("needs an argument", format!("write %{name}(HEADER)%")),
                false => ("takes no argument", format!("write %{name}%")),
            };
            findings.refuse(at, "header-value", format!("command %{name}% {message}"), hint);
        }
        let argument = &arguments[..arguments.len() - after.len() - 1];
        if fits && WITH_ARGUMENT.contains(&name) && !names_headers(argument) {
            let message = format!("command %{name}% takes the name of a header, and no {argument}");
            let hint = format!(
                "write %{name}(HEADER)%, or %{name}(HEADER?OTHER)% for another one where that is not there"
            );
            findings.refuse(at, "header-value", message, hint);
        }
        rest = after;
    }
}

/// Whether `argument`, with its parentheses, names one header, or one and another in its place.
fn names_headers(argument: &str) -> bool {
    let inside = argument.trim_start_matches('(').trim_end_matches(')');
    let is_token = |name: &str| {
        let name = name.strip_prefix(':').unwrap_or(name);
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte))
    };
    let parts: Vec<&str> = inside.split('?').collect();
    parts.len() <= 2 && parts.iter().all(|name| is_token(name))
}
