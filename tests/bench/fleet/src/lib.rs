//! Simulated nodes: thousands of proxies in one process, with identities of their own and real mTLS, that hold the
//! control plane against the rules of the protocol.
//!
//! Each node enrols with a join token (or brings a certificate), opens one delta stream of the aggregated service on
//! a TLS 1.3 connection of its own, asks as an Envoy does (all clusters and listeners; endpoints, routes, secrets
//! and extensions by the names in what it got), acknowledges everything, comes back with what it holds when it is
//! told to go, and renews its certificate by the agent's rules, with a new key, or asks to come back with it once it
//! has ended (freeze its renewal to let it end). Against a server on loopback each
//! node has an address of its own, so that what the server grants to an address is granted to a node.
//!
//! Every response is checked ([`Rule`]): nonces in order, nothing unasked, nothing twice, no version that comes back,
//! clusters before what uses them and no removal of what is in use, keys that belong to their leaves, and leaves that
//! hold under the roots which the node has at that moment. A broken rule is reported, and the response acknowledged
//! all the same. A document that an operator changes *back* looks like a version that comes back: do not do that in
//! front of a fleet.
//!
//! It knows nothing of how the control plane works, and does not configure it.
//!
//! # The program
//!
//! `credence-fleet` reads one JSON object per line ([`Command`]) and answers each on a line of its own, with the same
//! `id`; answers to `wait` come when they are ready. It ends with its standard input.
//!
//! ```text
//! > {"id":1,"do":"start","xds":"127.0.0.1:18000","enrolment":"127.0.0.1:18001","trust_domain":"prod.example",
//!    "roots":"-----BEGIN CERTIFICATE-----...","secrets":["default","spiffe://prod.example"],
//!    "nodes":[{"node":"n0","token":"..."},{"node":"n1","token":"..."}]}           (on one line)
//! < {"id":1,"ok":{"nodes":2}}
//! > {"id":2,"do":"wait","until":{"what":"connected"},"within_ms":30000}
//! < {"id":2,"ok":{"met":true,"count":2,"missing":0,"names":[],"times":{"p50":40,"p90":55,"p99":55,"max":55}}}
//! > {"id":3,"do":"tally","of":{"what":"leaf","secret":"default"}}
//! < {"id":3,"ok":{"5f0c7a1be2d94410":2}}
//! > {"id":4,"do":"freeze","nodes":["n1"],"what":"acks"}
//! < {"id":4,"ok":{"nodes":1}}
//! > {"id":5,"do":"wait","until":{"what":"leaf_from","secret":"default","authority":"77aa..."},"within_ms":5000}
//! < {"id":5,"ok":{"met":false,"count":1,"missing":1,"names":["n1"],"times":{"p50":12,"p90":12,"p99":12,"max":12}}}
//! > {"id":6,"do":"summary"}
//! < {"id":6,"ok":{"nodes":2,"stages":{"connected":2},"broken":{},"violations":[],...}}
//! ```
//!
//! # From a test
//!
//! ```no_run
//! # async fn example(start: fleet::Start) -> anyhow::Result<()> {
//! use std::time::Duration;
//!
//! use fleet::{Fleet, Until};
//!
//! let mut fleet = Fleet::spawn(&Fleet::program()?)?;
//! fleet.start(start).await?;
//! let waited = fleet.wait(Until::Connected, Duration::from_secs(60)).await?;
//! assert!(waited.met, "{waited:?}");
//! assert!(fleet.summary().await?.broken.is_empty());
//! # Ok(()) }
//! ```
//!
//! Start reading at `holding` (what a node wants, holds and checks; pure), then `node` (the shell around it).

mod certify;
mod connection;
mod driver;
mod holding;
mod material;
mod measure;
mod node;
mod program;
mod protocol;
mod references;

pub use self::driver::Fleet;
pub use self::program::run;
pub use self::protocol::*;
