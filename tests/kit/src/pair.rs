//! The smallest mesh: `web`, open in front, speaks mTLS to `pay`, which admits nobody else and has one upstream.

use std::net::SocketAddr;

use server::sandbox::ProxyOptions;

use crate::{Envoy, TestWorld, Upstream, back, endpoints, eventually, front, load::get};

/// Two proxies and what stands behind them.
#[derive(Debug)]
pub struct Pair {
    /// Where `web` takes plain HTTP.
    pub web: SocketAddr,
    /// Where `pay` takes mTLS.
    pub pay: SocketAddr,
    /// Behind `pay`; answers `paid`.
    pub upstream: Upstream,
}

impl Pair {
    /// Starts both with the Envoy of the world, and waits for the first request to come through.
    pub async fn start(world: &mut TestWorld) -> Self {
        Self::start_with(world, None, None).await
    }

    /// Starts both, each with its own Envoy.
    ///
    /// # Panics
    /// When no request comes through.
    pub async fn start_with(world: &mut TestWorld, web: Option<&Envoy>, pay: Option<&Envoy>) -> Self {
        let pair = Self {
            web: TestWorld::free_port(),
            pay: TestWorld::free_port(),
            upstream: Upstream::start("paid").await,
        };
        for (node, envoy) in [("pay", pay), ("web", web)] {
            let options = ProxyOptions {
                identities: vec![world.id(node)],
                labels: vec![format!("app={node}")],
                envoy: envoy.map(|envoy| envoy.path.clone()),
                ..ProxyOptions::default()
            };
            world.start_proxy_with(node, options).await;
        }
        world.rest().apply(&pair.documents(world)).await;
        pair.answers(world, "paid").await;
        pair
    }

    /// What both are told.
    #[must_use]
    pub fn documents(&self, world: &TestWorld) -> String {
        [
            back("pay", self.pay, &[&world.id("web")]),
            endpoints("pay-upstream", "default", &[self.upstream.address()]),
            front("web", self.web, &world.id("web"), &world.id("pay"), self.pay),
        ]
        .join("---\n")
    }

    /// Waits until a request through both is answered with `body`.
    pub async fn answers(&self, world: &mut TestWorld, body: &str) {
        let what = format!("a request through both proxies is answered {body:?}");
        eventually(&what, async || match get(self.web, "/").await {
            Ok((status, text)) if status.is_success() && text == body => Ok(()),
            other => Err(other),
        })
        .await;
        if let Some(gone) = world.sandbox_mut().ended() {
            panic!("{gone}");
        }
    }
}
