//! The program `credence`: everything else put together.
//!
//! `app` is the composition root, `door` the accept loops, `tls` who passes a handshake, `commands` what people
//! type. Nothing below this crate has a clock, spawns, or reads the environment.

pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
mod lifecycle;
mod metrics;
pub mod output;
pub mod own_certificate;
mod refusals;
pub mod tls;
