//! The program `credence`: everything else put together.
//!
//! `app` is the composition root, `door` the accept loops, `tls` who passes a handshake, `commands` what people
//! type. Nothing below this crate has a clock, spawns, or reads the environment.

mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub mod demo;
pub mod doctor;
mod door;
pub mod envoys;
mod hooks;
pub mod host;
mod http_get;
pub mod init;
mod key_slots;
mod keys;
mod lifecycle;
mod logging;
mod lookout;
mod metrics;
mod opening;
pub mod output;
pub mod own_certificate;
mod presentation;
mod readiness;
mod refusals;
pub mod sandbox;
pub mod serve;
mod timekeeper;
pub mod tls;
mod transit;
