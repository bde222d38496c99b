//! Log lines: JSON for machines, text for people, constant messages with fields. To standard error, so that what a
//! command answers stays apart.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Starts logging at `level` (as `info` or `credence_xds=debug,info`).
///
/// # Errors
/// When the level is no filter, or logging was started before.
pub(crate) fn start(level: &str, format: Option<LogFormat>) -> anyhow::Result<()> {
    let filter =
        EnvFilter::builder().parse(level).with_context(|| format!("{level:?} is not a log level"))?;
    let format =
        format.unwrap_or(if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry
            .with(
                fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(std::io::stderr),
            )
            .try_init(),
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal();
            registry
                .with(fmt::layer().with_ansi(colour).with_target(false).with_writer(std::io::stderr))
                .try_init()
        }
    }
    .context("logging was started before")
}
