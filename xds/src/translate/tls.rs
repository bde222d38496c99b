//! TLS contexts. Between identities: TLS 1.3 only, no resumption (it would skip verification), exact matchers of
//! identities. Always names of secrets and never keys.

use std::sync::Arc;

use proto::envoy::{
    config::core::v3::{ConfigSource, TransportSocket, transport_socket},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
        SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        downstream_tls_context::SessionTicketKeysType,
        subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};
use spiffe::{SpiffeId, TrustDomain};

use super::{Defaults, Denied, ads, pack};
use crate::{TypeUrl, model::ClientMtls};

const SOCKET: &str = "envoy.transport_sockets.tls";
/// The secret that is the asking node's first identity.
const DEFAULT_SECRET: &str = "default";
/// The first path segment that no workload has.
const RESERVED: &str = "credence";

/// What a listener shows and asks for.
pub(super) fn downstream(
    identity: Option<&SpiffeId>,
    allow: &[SpiffeId],
    alpn: &[&str],
    defaults: &Defaults,
) -> TransportSocket {
    socket(pack(&DownstreamTlsContext {
        common_tls_context: Some(common(identity, clients(allow, defaults), alpn, defaults)),
        require_client_certificate: Some(true),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
        ..Default::default()
    }))
}

/// What a listener shows to clients without certificates: one of these, by the name that a client asks for. Clients from elsewhere may be older, so TLS
/// 1.2 is spoken too; nobody is verified, so a session that is resumed skips nothing. What is shown here hangs from none
/// of our authorities, and is no other secret after an emergency of theirs.
pub(super) fn one_sided(certificates: &[String], source: &ConfigSource, alpn: &[&str]) -> TransportSocket {
    let params = TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..Default::default()
    };
    let secret = |name: &String| SdsSecretConfig { name: name.clone(), sds_config: Some(source.clone()) };
    socket(pack(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(params),
            tls_certificate_sds_secret_configs: certificates.iter().map(secret).collect(),
            alpn_protocols: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
            ..Default::default()
        }),
        require_client_certificate: Some(false),
        ..Default::default()
    }))
}

/// What a client shows and asks for. A server that is refused is asked for no more: changed so, the cluster takes
/// new connections for its next requests, and none to that server.
pub(super) fn upstream(
    mtls: &ClientMtls,
    alpn: &[&str],
    defaults: &Defaults,
    denied: &Denied,
) -> TransportSocket {
    socket(pack(&UpstreamTlsContext {
        common_tls_context: Some(common(
            mtls.identity.as_ref(),
            denied.servers(&mtls.server, &defaults.trust_domain),
            alpn,
            defaults,
        )),
        sni: mtls.sni.clone().unwrap_or_default(),
        max_session_keys: Some(0),
        ..Default::default()
    }))
}

/// The secrets that a context names.
pub(super) fn references(identity: Option<&SpiffeId>, defaults: &Defaults) -> [(TypeUrl, Arc<str>); 2] {
    [
        (TypeUrl::Secret, defaults.drains.secret(secret_name(identity)).into()),
        (TypeUrl::Secret, defaults.drains.secret(&defaults.trust_domain.to_uri()).into()),
    ]
}

fn socket(context: prost_types::Any) -> TransportSocket {
    TransportSocket {
        name: SOCKET.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

fn common(
    identity: Option<&SpiffeId>,
    peers: Vec<MatchPattern>,
    alpn: &[&str],
    defaults: &Defaults,
) -> CommonTlsContext {
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: peers.into_iter().map(uri_matcher).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(&defaults.trust_domain.to_uri(), defaults)),
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(secret_name(identity), defaults)],
        alpn_protocols: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}

/// Whom a listener takes for a client. Who is blocked is refused behind the handshake, by the filter: another
/// matcher would be another listener, and end everybody's connections.
fn clients(allow: &[SpiffeId], defaults: &Defaults) -> Vec<MatchPattern> {
    match allow {
        [] => vec![any_workload(&defaults.trust_domain)],
        named => named.iter().map(|peer| MatchPattern::Exact(peer.as_str().to_owned())).collect(),
    }
}

fn secret_name(identity: Option<&SpiffeId>) -> &str {
    identity.map_or(DEFAULT_SECRET, SpiffeId::as_str)
}

fn secret(name: &str, defaults: &Defaults) -> SdsSecretConfig {
    SdsSecretConfig { name: defaults.drains.secret(name), sds_config: Some(ads()) }
}

fn uri_matcher(pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() }),
        ..Default::default()
    }
}

/// Every identity of `domain` but those under the reserved path. A prefix cannot say that, and RE2 knows no
/// lookahead, so the first segments that differ from the reserved one are written out.
fn any_workload(domain: &TrustDomain) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher { regex: workload_regex(domain), ..Default::default() })
}

/// Everything behind `spiffe://DOMAIN/` that does not begin with the reserved segment. What an identity may be made
/// of is decided where identities are issued; here one class of them is told from another. Short, because Envoy
/// refuses expressions whose program is long (`re2.max_program_size.error_level`, 100 unless the bootstrap says more),
/// and RE2 has no "but not".
fn workload_regex(domain: &TrustDomain) -> String {
    // What may stand instead of the slash behind the reserved word.
    let mut differs = "[!-.0-~]".to_owned();
    let mut shorter = String::new();
    for (position, letter) in RESERVED.char_indices().rev() {
        differs = format!("(?:{}|{letter}{differs})", any_but(letter));
        // The reserved word's own beginnings are names like any other; the whole word is not.
        shorter = match (position + 1 == RESERVED.len(), shorter.is_empty()) {
            (true, _) => String::new(),
            (false, true) => letter.to_string(),
            (false, false) => format!("{letter}(?:{shorter})?"),
        };
    }
    let domain = domain.as_str().replace('.', "\\.");
    format!("spiffe://{domain}/(?:{differs}[!-~]*|{shorter})")
}

/// A class of all printable characters but one.
fn any_but(without: char) -> String {
    let (before, after) = (u32::from(without) - 1, u32::from(without) + 1);
    let letter = |code| char::from_u32(code).unwrap_or(without);
    format!("[!-{}{}-~]", letter(before), letter(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(domain: &str) -> regex::Regex {
        let domain = TrustDomain::parse(domain).unwrap();
        regex::Regex::new(&format!("^(?:{})$", workload_regex(&domain))).unwrap()
    }

    #[test]
    fn any_workload_is_any_identity_of_the_domain_but_the_reserved_ones() {
        let regex = matcher("prod.example");
        let check = |id: &str, expected: bool| assert_eq!(regex.is_match(id), expected, "{id}");
        for path in
            ["a", "web", "c", "cr", "credenc", "credence-x", "credences", "Credence", "x/credence", "c/d"]
        {
            check(&format!("spiffe://prod.example/{path}"), true);
        }
        for path in ["credences/server", "credenc/server", "crexence/node/n", "ns/prod/sa/web", "_", "-", "."]
        {
            check(&format!("spiffe://prod.example/{path}"), true);
        }
        for path in ["", "credence", "credence/", "credence/server", "credence/node/n", "credence/operator/o"]
        {
            check(&format!("spiffe://prod.example/{path}"), false);
        }
        for id in
            ["spiffe://prod.example", "spiffe://prod.example.evil.test/web", "spiffe://prodxexample/web"]
        {
            check(id, false);
        }
        check("xspiffe://prod.example/web", false);
        check("spiffe://prod.example/we b", false);
    }

    #[test]
    fn every_first_segment_but_the_reserved_one_matches() {
        let regex = matcher("d");
        for at in 0..RESERVED.len() {
            for letter in "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz".chars() {
                let changed: String =
                    RESERVED.chars().enumerate().map(|(i, c)| if i == at { letter } else { c }).collect();
                assert_eq!(
                    regex.is_match(&format!("spiffe://d/{changed}")),
                    changed != RESERVED,
                    "{changed}"
                );
            }
        }
    }
}
