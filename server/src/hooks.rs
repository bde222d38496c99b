//! Hooks: a command or an address that hears of what an operator must not be surprised by.
//!
//! What there is to tell is read from what the metrics are read from, so that neither forgets what the other knows.
//!
//! ```text
//! Seen (what ends), CaStatus (barrier), renewals that fail --notices--> Telling (PURE) --Tell--> command | https
//!                                                                          ^---------- Told ------'
//! ```
//!
//! A hook that fails or hangs holds up nobody but itself. Start reading at [`Notice`], then [`telling`] (what is told
//! when), then [`Herald`] (the loop).

mod command;
mod herald;
mod https;
mod notice;
mod teller;
mod telling;

pub(crate) use self::command::{User, run as run_command, unusable, unusable_for};
pub(crate) use self::herald::{Desk, Herald, HookStatus, Watched};
pub use self::notice::Topic;
pub(crate) use self::teller::Teller;
