//! Rules on clusters.

use super::{Findings, check_choice, check_identity, endpoints, is_loopback};
use crate::{
    model::{Cluster, ClusterMtls, ClusterType, HealthCheck, node::At},
    translate::Defaults,
};

pub(super) fn check(cluster: &Cluster, at: &At<'_>, defaults: &Defaults, findings: &mut Findings) {
    let inline = at.key("endpoints");
    match cluster.cluster_type {
        ClusterType::Eds => {
            if !cluster.endpoints.is_empty() {
                let message = format!("EDS cluster {:?} has endpoints of its own", cluster.name);
                let hint = "put them into an Endpoints document of its name, or write type: STATIC";
                findings.refuse(&inline, "endpoints", message, hint);
            }
        }
        ClusterType::Static | ClusterType::StrictDns => {
            if cluster.endpoints.is_empty() {
                let kind = cluster.cluster_type.word();
                let message = format!("{kind} cluster {:?} has no endpoints", cluster.name);
                findings.refuse(
                    &inline,
                    "endpoints",
                    message,
                    "add endpoints: [{address, port}], or write type: EDS",
                );
            }
            if cluster.eds_cluster_config.is_some() {
                let message = "edsClusterConfig is for clusters of type EDS";
                findings.refuse(&at.key("edsClusterConfig"), "endpoints", message, "write type: EDS");
            }
            endpoints::check(
                &cluster.endpoints,
                &inline,
                cluster.cluster_type == ClusterType::Static,
                findings,
            );
        }
    }
    if let Some(service) = cluster.eds_cluster_config.as_ref().and_then(|config| config.service_name.as_ref())
        && let Some(fault) = super::name_fault(service)
    {
        let at = at.key("edsClusterConfig").key("serviceName");
        findings.refuse(&at, "name", format!("name {service:?} {fault}"), super::NAME_HINT);
    }
    if cluster.health_checks.len() > 1 {
        let message = format!(
            "cluster {:?} has {} health checks, Envoy runs one",
            cluster.name,
            cluster.health_checks.len()
        );
        findings.refuse(&at.key("healthChecks").index(1), "health-checks", message, "keep one of them");
    }
    for (index, check) in cluster.health_checks.iter().enumerate() {
        check_health(check, cluster.http2.unwrap_or(false), &at.key("healthChecks").index(index), findings);
    }
    check_mtls(cluster, at, defaults, findings);
}

fn check_health(check: &HealthCheck, http2: bool, at: &At<'_>, findings: &mut Findings) {
    let checks = [
        ("httpHealthCheck", check.http_health_check.is_some()),
        ("tcpHealthCheck", check.tcp_health_check.is_some()),
        ("grpcHealthCheck", check.grpc_health_check.is_some()),
    ];
    check_choice(&checks, false, at, findings);
    if let Some(http) = &check.http_health_check
        && !http.path.starts_with('/')
    {
        let message = format!("path {:?} does not begin with \"/\"", http.path);
        findings.refuse(&at.key("httpHealthCheck").key("path"), "path", message, "");
    }
    if check.grpc_health_check.is_some() && !http2 {
        let message = "grpcHealthCheck needs HTTP/2";
        findings.refuse(
            &at.key("grpcHealthCheck"),
            "grpc-needs-http2",
            message,
            "write http2: true in the cluster",
        );
    }
}

fn check_mtls(cluster: &Cluster, at: &At<'_>, defaults: &Defaults, findings: &mut Findings) {
    let mtls_at = at.key("mtls");
    match &cluster.mtls {
        Some(ClusterMtls::Off) => {}
        Some(ClusterMtls::On(mtls)) => {
            if mtls.server.is_empty() {
                let message = format!("nobody is named whom cluster {:?} may talk to", cluster.name);
                let hint = format!("write server: [spiffe://{}/NAME]", defaults.trust_domain);
                findings.refuse(&mtls_at.key("server"), "mtls-server", message, hint);
            }
            for (index, id) in mtls.server.iter().enumerate() {
                check_identity(id, defaults, &mtls_at.key("server").index(index), findings);
            }
            if let Some(id) = &mtls.identity {
                check_identity(id, defaults, &mtls_at.key("identity"), findings);
            }
        }
        None => {
            if let Some(open) = cluster.endpoints.iter().find(|endpoint| !is_loopback(&endpoint.address)) {
                warn_plaintext(cluster, &open.address, at, findings);
            }
        }
    }
}

/// The loud warning about traffic that everybody on the way can read and change.
pub(super) fn warn_plaintext(cluster: &Cluster, address: &str, at: &At<'_>, findings: &mut Findings) {
    let message = format!("PLAINTEXT: cluster {:?} sends to {address} without mTLS", cluster.name);
    let hint = "write mtls: {server: [SPIFFE ID]}, or mtls: off if it is meant so";
    findings.warn(at, "plaintext-upstream", message, hint);
}
