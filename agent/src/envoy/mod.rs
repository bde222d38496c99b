//! An Envoy beside us: find one, install one, keep one running, read what it says of itself.
//!
//! It knows no configuration (that is [`crate::bootstrap`]) and starts nothing by itself.

mod admin;
mod find;
mod install;
mod supervise;

pub use self::admin::{Admin, AdminError, CertificateInfo};
pub use self::find::{EnvoyVersion, find, version};
pub use self::install::{InstallError, Notice, Release, install, installed};
pub use self::supervise::{DRAIN_TIME, Phase, SuperviseError, Supervisor, drain_arguments};

#[cfg(test)]
mod tests;
