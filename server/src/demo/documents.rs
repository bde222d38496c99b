//! What the two proxies of the demo are told.

use std::net::SocketAddr;

/// `payments`: mTLS only, for `web` alone.
pub(super) fn payments(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: payments}}
spec:
  selector: {{matchLabels: {{app: payments}}}}
  listeners:
    - name: payments
      address: {}
      port: {}
      mtls: {{mode: strict, allow: ["spiffe://demo.test/web"]}}
      filterChains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              config: {{routeConfig: payments}}
  routes:
    - name: payments
      virtualHosts:
        - name: all
          domains: ["*"]
          routes:
            - match: {{prefix: "/"}}
              route: {{cluster: till}}
  clusters:
    - name: till
      type: STATIC
      endpoints: [{{address: {}, port: {}}}]
"#,
        listen.ip(),
        listen.port(),
        upstream.ip(),
        upstream.port()
    )
}

/// `web`: open in front, mTLS towards `payments`. Two more routes show what does not work: speaking as somebody
/// else, and believing somebody else.
pub(super) fn web(listen: SocketAddr, payments: SocketAddr) -> String {
    let cluster = |name: &str, identity: &str, server: &str| {
        format!(
            r#"    - name: {name}
      type: STATIC
      maxRequestsPerConnection: 10
      mtls: {{identity: "spiffe://demo.test/{identity}", server: ["spiffe://demo.test/{server}"]}}
      endpoints: [{{address: {}, port: {}}}]
"#,
            payments.ip(),
            payments.port()
        )
    };
    let clusters = [
        cluster("payments", "web", "payments"),
        cluster("as-intruder", "intruder", "payments"),
        cluster("to-impostor", "visitor", "somebody-else"),
    ]
    .concat();
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  listeners:
    - name: web
      address: {}
      port: {}
      mtls: {{mode: permissive, identity: "spiffe://demo.test/web"}}
      filterChains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              config: {{routeConfig: web}}
  routes:
    - name: web
      virtualHosts:
        - name: all
          domains: ["*"]
          routes:
            - match: {{prefix: "/as-intruder"}}
              route: {{cluster: as-intruder}}
            - match: {{prefix: "/to-impostor"}}
              route: {{cluster: to-impostor}}
            - match: {{prefix: "/"}}
              route: {{cluster: payments}}
  clusters:
{clusters}"#,
        listen.ip(),
        listen.port()
    )
}
