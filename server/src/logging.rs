//! Where log lines go: standard error, one line each.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What a bare word may be. To the filter any other is the name of a target, which silences all else.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

fn check_words(filter: &str) -> Result<(), String> {
    let bare = |part: &&str| !part.contains(['=', '[']);
    let wrong = filter.split(',').map(str::trim).filter(bare).find(|word| !LEVELS.contains(word));
    match wrong {
        None => Ok(()),
        Some(word) => Err(format!(
            "--log: '{word}' is no level; these are: {}, or a filter like server=debug",
            LEVELS.join(", ")
        )),
    }
}

/// Starts logging. `filter` is a level, or levels for parts of the program; a wrong one is told in a sentence.
pub fn start(filter: &str) -> Result<(), String> {
    check_words(filter)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the help offers is what is taken.
    #[test]
    fn the_help_names_every_level() {
        use clap::CommandFactory;
        let mut cli = crate::config::Cli::command();
        cli.build();
        for command in ["dev", "node", "router"] {
            let command = cli.find_subcommand(command).unwrap();
            let log = command.get_arguments().find(|arg| arg.get_id() == "log").unwrap();
            let help = log.get_help().unwrap().to_string();
            for word in LEVELS.into_iter().chain(["info,server=debug"]) {
                assert!(help.contains(word), "`{word}` is not in: {help}");
            }
            assert_eq!(check_words("info,server=debug"), Ok(()));
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_by_name() {
        for good in ["info", "off", "info,server=debug", "server=trace", "warn, raft_core=info"] {
            assert_eq!(check_words(good), Ok(()), "{good}");
        }
        for (wrong, word) in [("inof", "inof"), ("loud", "loud"), ("info,debg", "debg"), ("", "")] {
            let said = check_words(wrong).expect_err(wrong);
            assert!(said.starts_with(&format!("--log: '{word}' is no level")), "{said}");
        }
    }
}
