//! The node side: a client of the control plane, and the keeper of one node's certificate.
//!
//! It makes the node's key and never sends it, joins by a token, renews over mTLS, writes the files that Envoy
//! reads, and finds, starts and reads an Envoy. It knows no command line and prints nothing; it knows nothing of
//! how the server decides.
//!
//! ```text
//! join --18001--> Membership + Credentials --files--> certs/current, envoy.json --> Envoy
//!                                             ^
//! Agent::run --renewal--18000--> Credentials -|
//!           |--recovery--18001--> Credentials -|   (when the certificate has ended, while operators let it)
//!           `--syncing--18000--> bundle -------'
//! ```
//!
//! Start reading at [`join`], then [`StateDir`] (what is on disk), [`renewal`], [`syncing`] and [`recovery`] (when),
//! [`outage`] (what is said of it) and [`Agent`] (the loop).

mod address;
pub mod bootstrap;
mod connect;
pub mod dial;
pub mod ending;
pub mod envoy;
pub mod files;
mod join;
mod link;
mod moving;
pub mod outage;
pub mod recovery;
pub mod renewal;
mod run;
pub mod syncing;
#[cfg(test)]
mod testing;

pub use self::address::{AddressError, Pin, PinError, ServerAddress};
pub use self::connect::{ConnectError, ServerRefusal};
pub use self::files::{Credentials, EnvoyFiles, EnvoyOptions, KeyOrigin, Membership, StateDir, StateError};
pub use self::join::{AnswerError, JoinError, JoinRequest, Progress, Step, join, with_causes};
pub use self::moving::{MoveError, Question};
pub use self::run::{Agent, AgentStatus, RunError};
