//! Documents that most suites need: a service behind its proxy, and a proxy in front of it.

use std::{fmt::Write, net::SocketAddr};

/// `NAME` of nodes `app=NAME`: mTLS only, for `allow`, in front of an upstream whose addresses come by EDS as the
/// cluster `NAME-upstream`.
#[must_use]
pub fn back(name: &str, listen: SocketAddr, allow: &[&str]) -> String {
    let (ip, port) = (listen.ip(), listen.port());
    let allow: Vec<String> = allow.iter().map(|id| format!("{id:?}")).collect();
    let allow = allow.join(", ");
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  listeners:
    - name: {name}
      address: {ip}
      port: {port}
      mtls: {{mode: strict, allow: [{allow}]}}
      filterChains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              config: {{routeConfig: {name}}}
  routes:
    - name: {name}
      virtualHosts:
        - name: all
          domains: ["*"]
          routes:
            - match: {{prefix: "/"}}
              route: {{cluster: {name}-upstream}}
  clusters:
    - name: {name}-upstream
      type: EDS
      edsClusterConfig: {{edsConfig: {{ads: {{}}}}}}
"#
    )
}

/// `NAME` of nodes `app=NAME`: plaintext in front, mTLS as `identity` towards `server` at `target`.
#[must_use]
pub fn front(name: &str, listen: SocketAddr, identity: &str, server: &str, target: SocketAddr) -> String {
    let (ip, port) = (listen.ip(), listen.port());
    let (target_ip, target_port) = (target.ip(), target.port());
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  listeners:
    - name: {name}
      address: {ip}
      port: {port}
      mtls: {{mode: permissive, identity: "{identity}"}}
      filterChains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              config: {{routeConfig: {name}}}
  routes:
    - name: {name}
      virtualHosts:
        - name: all
          domains: ["*"]
          routes:
            - match: {{prefix: "/"}}
              route: {{cluster: {name}-target}}
  clusters:
    - name: {name}-target
      type: STATIC
      maxRequestsPerConnection: 10
      mtls: {{identity: "{identity}", server: ["{server}"]}}
      endpoints: [{{address: {target_ip}, port: {target_port}}}]
"#
    )
}

/// The addresses of one EDS cluster.
#[must_use]
pub fn endpoints(name: &str, namespace: &str, addresses: &[SocketAddr]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  endpoints:\n"
    );
    for address in addresses {
        let _ = writeln!(text, "    - {{address: {}, port: {}}}", address.ip(), address.port());
    }
    text
}
