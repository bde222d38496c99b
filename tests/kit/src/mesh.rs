//! A mesh of pairs: each `web-N`, open in front, speaks mTLS to its `pay-N`, over HTTP and over TCP.

use std::{net::SocketAddr, time::Duration};

use server::sandbox::ProxyOptions;

use crate::{Echo, Envoy, Front, TestWorld, Upstream, load::get, within};

/// All of them join from one address, which may do so only so often: those that are refused come again.
const JOINED: Duration = Duration::from_secs(180);

/// Twice as many proxies as pairs, and the two services behind all of them.
#[derive(Debug)]
pub struct Mesh {
    fronts: Vec<Front>,
    _upstream: Upstream,
    _echo: Echo,
}

impl Mesh {
    /// Starts `pairs` pairs, in turn with each of `envoys`, and waits until a request has come through each.
    ///
    /// # Panics
    /// When none comes through.
    pub async fn start(world: &mut TestWorld, pairs: usize, envoys: &[Envoy]) -> Self {
        let (upstream, echo) = (Upstream::start("paid").await, Echo::start().await);
        let (mut fronts, mut documents) = (Vec::new(), Vec::new());
        let mut next = envoys.iter().cycle();
        let ports = TestWorld::free_ports(4 * pairs);
        let mut ports = ports.chunks(2).map(|two| Front { http: two[0], tcp: two[1] });
        for number in 0..pairs {
            let (web, pay) = (format!("web-{number}"), format!("pay-{number}"));
            for node in [&pay, &web] {
                let options = ProxyOptions {
                    identities: vec![world.id(node)],
                    labels: vec![format!("app={node}")],
                    envoy: next.next().map(|envoy| envoy.path.clone()),
                    ..ProxyOptions::default()
                };
                world.start_proxy_with(node, options).await;
            }
            let (Some(front), Some(behind)) = (ports.next(), ports.next()) else { break };
            let (web_id, pay_id) = (world.id(&web), world.id(&pay));
            documents.push(document(&Proxy {
                name: &pay,
                listen: behind,
                listener: &format!("{{mode: strict, allow: [{web_id:?}]}}"),
                target: Front { http: upstream.address(), tcp: echo.address() },
                cluster: "off",
            }));
            documents.push(document(&Proxy {
                name: &web,
                listen: front,
                listener: "off",
                target: behind,
                cluster: &format!("{{identity: {web_id:?}, server: [{pay_id:?}]}}"),
            }));
            fronts.push(front);
        }
        world.rest().apply(&documents.join("---\n")).await;
        for front in &fronts {
            within(JOINED, "a request through a pair is answered", async || {
                match get(front.http, "/").await {
                    Ok((status, text)) if status.is_success() && text == "paid" => Ok(()),
                    other => Err(other),
                }
            })
            .await;
        }
        Self { fronts, _upstream: upstream, _echo: echo }
    }

    /// Where traffic goes in.
    #[must_use]
    pub fn fronts(&self) -> &[Front] {
        &self.fronts
    }
}

struct Proxy<'a> {
    name: &'a str,
    listen: Front,
    listener: &'a str,
    target: Front,
    cluster: &'a str,
}

fn document(proxy: &Proxy<'_>) -> String {
    let Proxy { name, listener, cluster, .. } = proxy;
    let cluster = |kind: &str, to: SocketAddr| {
        format!(
            "    - {{name: {name}-{kind}, type: STATIC, mtls: {cluster}, endpoints: [{{address: {}, port: {}}}]}}\n",
            to.ip(),
            to.port()
        )
    };
    let listener = |kind: &str, at: SocketAddr, filter: &str| {
        format!(
            "    - name: {name}-{kind}\n      address: {}\n      port: {}\n      mtls: {listener}\n      \
             filterChains: [{{filters: [{filter}]}}]\n",
            at.ip(),
            at.port()
        )
    };
    let http = listener(
        "http",
        proxy.listen.http,
        &format!("{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: {name}}}}}"),
    );
    let tcp = listener(
        "tcp",
        proxy.listen.tcp,
        &format!("{{name: envoy.filters.network.tcp_proxy, config: {{cluster: {name}-tcp}}}}"),
    );
    let clusters = [cluster("http", proxy.target.http), cluster("tcp", proxy.target.tcp)].concat();
    format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: {name}}}\nspec:\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  listeners:\n{http}{tcp}  routes:\n    - name: {name}\n      \
         virtualHosts:\n        - name: all\n          domains: [\"*\"]\n          \
         routes: [{{match: {{prefix: /}}, route: {{cluster: {name}-http, timeout: 0s}}}}]\n  clusters:\n{clusters}"
    )
}
