//! What Credence remembers: documents, bindings, tokens, blocks, authorities with their sealed keys, the journal of
//! issuances, what was revoked and the audit chain, in one SQLite database in one directory that one process holds.
//!
//! This crate implements the ports of `api`, `ca` and `audit` and knows none of their reasons. It never sees a leaf
//! key, never stores a token's secret, and holds private bytes only sealed.
//!
//! Start reading at [`initialise`] and [`open`]; how a change becomes durable stands in `writer`, what a secret
//! looks like on the disk in `seal`, which keys
//! open it in `keyring`, `slots` and `rotation`, and how an older store shows in `rollback`.
//!
//! ```text
//! Store (ports) --change, answer channel--> Writer: BEGIN, savepoint per change + audit row, COMMIT, sync --> answers
//!       \--- reads --> pool of readers                 \--> topics: bindings, blocks, documents
//! ```

mod acme;
mod anchor;
mod audit_log;
mod authorities;
mod blocks;
mod directory;
mod documents;
mod edges;
mod gathering;
mod hooks;
mod integrity;
mod issuers;
mod journal;
mod kek;
mod kept;
mod keyring;
mod leaves;
mod ledger;
mod live;
mod many;
mod newest;
mod nodes;
mod pause;
mod probe;
mod recovery;
mod revocations;
mod rollback;
mod rotation;
mod row;
mod schema;
mod seal;
mod sealed;
mod secrets;
mod slots;
mod sqlite;
mod writer;

pub use self::directory::{DirectoryError, is_free};
pub use self::integrity::Integrity;
pub use self::kek::{
    Cost, KekError, KekSource, Outlook, RemoteError, RemoteKey, RemoteState, SlotKind, TokenError, TokenKey,
    Unwrapped, Wrapped,
};
pub use self::keyring::{Class, KeyState};
pub use self::ledger::RowFault;
pub use self::live::Written;
pub use self::rollback::{AnchorStatus, Finding};
pub use self::rotation::{BATCH, DataKeyStatus, Progress, SealingStatus};
pub use self::seal::SealError;
pub use self::secrets::MAX_SECRETS;
pub use self::slots::{
    MAX_SLOTS, NewSlot, OnlyTransit, RotationError, SlotHealth, SlotSource, SlotStatus, UnlockError,
};
pub use self::sqlite::{
    InitError, InitOptions, OpenError, OpenOptions, SchemaFound, Store, in_use, initialise, open, schema_of,
};
pub use self::writer::{Topic, Writer, WriterError};

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;
