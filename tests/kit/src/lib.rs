//! Everything that a whole-system test needs: a control plane and real Envoys as processes, strangers, loads, and
//! readers of what they say. Each world has its own ports, folder and trust domain, so that tests run side by side.
//!
//! It fails a test by panicking, with the last value that it saw; nothing here waits without a bound. What a world
//! left behind is kept under `target/evidence/NAME` when its test fails. Start reading at [`TestWorld`].
//!
//! ```text
//! TestWorld --sandbox--> credence serve, credence agent --> Envoy --Admin--> stats, config_dump, certs
//!     |--Rest--> 8080   |--Enrolment--> 18001   |--XdsClient--> 18000   |--authority()--> good and bad certificates
//! ```

#![expect(clippy::panic, reason = "a kit for tests tells what it saw by panicking")]

mod account;
mod authority;
mod corp;
mod documents;
mod enrolment;
mod eventually;
mod faketime;
mod hold;
mod http_date;
mod issued;
mod jwt;
mod kept;
mod knot;
mod kubernetes;
mod leaf_vault;
mod line;
mod load;
mod many;
mod mesh;
mod netns;
mod pair;
mod pebble;
mod peer;
mod recorder;
mod relay;
mod rest;
mod resume;
mod revocation;
mod search;
mod soft_hsm;
mod thorough;
mod tls;
mod traffic;
mod upstream;
mod vault;
mod world;
mod xds;

pub use agent::envoy::Admin;
pub use fleet;
pub use server::{clock::SystemClock, config::Config};

pub use self::account::KeptAccount;
pub use self::authority::Keys;
pub use self::corp::Corp;
pub use self::documents::{back, endpoints, front};
pub use self::enrolment::{Enrolled, Enrolment, JoinAnswer, Renewals, renew};
pub use self::eventually::{PATIENCE, eventually, within};
pub use self::faketime::FakeTime;
pub use self::hold::{HeldSync, IdleConnection};
pub use self::http_date::http_date;
pub use self::issued::kept_keys;
pub use self::jwt::jwt_by;
pub use self::kept::{Kept, Speaks};
pub use self::knot::Knot;
pub use self::kubernetes::Kubernetes;
pub use self::leaf_vault::{LeafVault, ROLE, listed_issuer};
pub use self::line::Line;
pub use self::load::{Load, LoadPlan, LoadReport, get};
pub use self::many::all;
pub use self::mesh::Mesh;
pub use self::netns::NetworkNamespace;
pub use self::pair::Pair;
pub use self::pebble::{Challenges, Looks, Pebble, PebbleOptions, pebble_programs};
pub use self::peer::{RustlsPeer, rustls_refuses_server};
pub use self::recorder::{Asked, Recorder, silence};
pub use self::relay::{Fault, Relay};
pub use self::rest::{Answer, Rest};
pub use self::resume::{Resumer, Shook};
pub use self::search::{Needle, Sighting, search};
pub use self::soft_hsm::SoftHsm;
pub use self::thorough::{is_full, not_run};
pub use self::tls::{
    Identity, Outcome, Shown, connect, https, plaintext, probe, shakes_hands, strikes_tls12, try_http,
    try_stream,
};
pub use self::traffic::{Echo, Front, Kind, SESSION, STREAM, Traffic};
pub use self::upstream::Upstream;
pub use self::vault::{Vault, VaultPki, vault_program};
pub use self::world::{Envoy, Node, TestWorld, WorldOptions, envoy, workspace};
pub use self::xds::{
    CDS, DeltaStream, EDS, LDS, RDS, SDS, SotwStream, XdsClient, generic_of, ports_of, secret_of,
};
