//! `flotilla`: the program. Arguments in, one sentence and exit code 1 when it cannot go on. `inspect` has
//! exit codes of its own ([`server::inspect`]).

use clap::Parser;
use server::config::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come this way too.
            let _ = error.print();
            let inspects = std::env::args_os().nth(1).is_some_and(|word| word == "inspect");
            return match error.use_stderr() {
                true if inspects => ExitCode::from(server::inspect::NOT_LOOKED),
                true => ExitCode::FAILURE,
                false => ExitCode::SUCCESS,
            };
        }
    };
    if !matches!(cli.command, Command::Inspect(_)) {
        server::last_words::install();
    }
    let checked = server::without_lanes::check(&cli.command);
    let result = match cli.command {
        _ if checked.is_err() => checked,
        Command::Dev(args) => server::dev::run(args),
        Command::Node(args) => server::standalone::node(args),
        Command::Router(args) => server::standalone::router(args),
        Command::Recover(args) => server::recover::run(args),
        Command::Admin(args) => server::admin::run(args),
        Command::Inspect(args) => return server::inspect::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `eprintln!` panics if nobody reads standard error any more.
            let _ = writeln!(std::io::stderr(), "flotilla: {error}");
            ExitCode::FAILURE
        }
    }
}
