//! Configuration delivery: from what operators declare to what each proxy has acknowledged.
//!
//! Knows names of secrets and never secrets: those enter a session only as opaque [`Resource`]s that a
//! [`SecretSource`] supplies per peer. Knows no store and no issuer.
//!
//! ```text
//! documents --model--> validate --translate--> Resource --> Snapshot --> Views --hub--> Session --> proxy
//!                                                            SecretSource ------------> Session
//!                                                                     status <--ACK/NACK--'
//! ```

pub mod catalog;
mod counters;
mod hub;
mod limits;
pub mod model;
mod refusal;
mod resource;
mod secrets;
mod server;
mod session;
mod snapshot;
mod status;
mod subscription;
pub mod translate;
pub mod validate;
mod wire;

pub use self::counters::Counters;
pub use self::hub::{Hub, Tally, Traffic};
pub use self::limits::Limits;
pub use self::refusal::{Code, Refusal};
pub use self::resource::{Resource, TypeUrl, Version};
pub use self::secrets::{SecretFeed, SecretOffer, SecretSource, SecretView};
pub use self::server::{Aborted, ConnectionDrain, Driving, XdsBody, XdsDeps, XdsServer};
pub use self::session::{Action, DRAIN_TIME_KEY, Event, Method, Note, Opening, Session};
pub use self::snapshot::{Snapshot, ViewId, Views};
pub use self::status::{
    Board, NackStatus, NodeStatus, ResourceStatus, StreamStatus, Sync, TypeStatus, Uptake,
};
pub use self::subscription::{Nack, Nonce, Response};
