//! `flotilla`: the program. Arguments in, one sentence and exit code 1 when it cannot go on.

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
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Dev(args) => server::dev::run(args),
        Command::Node(args) => server::standalone::node(args),
        Command::Router(args) => server::standalone::router(args),
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
