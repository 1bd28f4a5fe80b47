//! Where log lines go: standard error, one line each.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is a level or a tracing filter; a wrong one is told in a sentence.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log: '{filter}' is no level or filter: {error}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // Told with `eprintln!`, which panics: a log that nobody reads must not end the program.
        .log_internal_errors(false)
        .init();
    Ok(())
}
