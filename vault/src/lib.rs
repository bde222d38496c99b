//! A client of a HashiCorp Vault, as Credence needs it: authorities that its PKI engine signs below one of its issuers,
//! leaves that it signs by a role, and slots of key-encryption keys in its Transit engine.
//!
//! It knows no identity, no store and no configuration file: what is asked for is told to it, and what comes back are
//! values of `certs`. It asks no environment, has no clock of its own and spawns nothing. A token goes to the addresses
//! that were configured, and to nobody else: redirects are not followed but one, from a standby to another of them.
//!
//! Start reading at [`Trouble`] (what can be the matter, and what to do about it), then [`judge`] (what an answer
//! means), [`Session`] (how a token is got and kept) and [`pki::check`] (what is taken of what Vault signs).
//!
//! ```text
//! Request --Client--> transport --TLS--> Vault --> judge --> Answer --> pki, transit --> certs
//!            ^ token     '--fail-over, 307     '--> Trouble
//!         Keeper: Session.step(event, now) -> log in, renew, look at what the token may do
//! ```

mod address;
mod answer;
mod breadth;
mod client;
mod file;
mod login;
pub mod pki;
mod policy;
mod request;
mod secret;
mod session;
pub mod transit;
mod transport;
mod trouble;

pub use self::address::{Address, AddressError, Addresses, MAX_ADDRESSES};
pub use self::answer::{Answer, Reply, judge};
pub use self::breadth::{Breadth, MAX_NAMED, Surplus, judge_acl, judge_probes, probes};
pub use self::client::{Client, Keeper, Status, read_secret};
pub use self::login::{Credentials, IdentityFiles, SERVICE_ACCOUNT_TOKEN, SecretId, Unwrapped};
pub use self::policy::{Policy, Rule};
pub use self::request::{MAX_NAME, Mount, Name, NameError, Request};
pub use self::secret::{MAX_SECRET, Secret, SecretError};
pub use self::session::{
    Action, BREADTH_AGAIN, BREADTH_EVERY, BREADTH_SOON, CALM, Event, Failure, Grant, Jitter, MAX_PAUSE,
    MAX_REFUSED_PAUSE, MIN_REFUSED_PAUSE, Means, NotLoggedIn, Session, Warning,
};
pub use self::transport::{MAX_ANSWER, MAX_IN_FLIGHT, Settings};
pub use self::trouble::{MAX_RETRY_AFTER, Remedy, RetryAfter, Said, Trouble};
