//! What a program without lanes may do: the one of `make bench-lanes`, which shows what lanes cost.

use crate::config::Command;
use crate::standalone::RunError;
use shard_core::session::IS_EXACTLY_ONCE;
use std::io::{self, Write};

/// Lets every other program go on. This one says what it is, and has no part in data that somebody keeps.
///
/// # Errors
/// If it was asked for more than a new embedded cluster.
pub fn check(command: &Command) -> Result<(), RunError> {
    if IS_EXACTLY_ONCE {
        return Ok(());
    }
    // Nobody may be reading.
    let _ = writeln!(
        io::stderr(),
        "WARNING: this flotilla was built without lanes: it does writes twice when they are sent twice. It is for \
         `make bench-lanes` and for nothing else."
    );
    match may_run(command) {
        true => Ok(()),
        false => Err(RunError::Sentence(
            "this program was built without lanes and runs `flotilla dev` with a --dir that does not exist yet, nothing \
             else: build it without the feature without-lanes"
                .to_string(),
        )),
    }
}

fn may_run(command: &Command) -> bool {
    match command {
        Command::Dev(args) => !args.dir.exists(),
        Command::Inspect(_) | Command::Admin(_) => true,
        Command::Node(_) | Command::Router(_) | Command::Recover(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cli;
    use clap::Parser;

    #[test]
    fn it_runs_a_new_embedded_cluster_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = folder.path().display().to_string();
        let new = folder.path().join("new").display().to_string();
        let may = |words: &[&str]| {
            let words = ["flotilla"].iter().chain(words);
            may_run(&Cli::try_parse_from(words).expect("a command").command)
        };
        assert!(may(&["dev", "--dir", &new]));
        assert!(!may(&["dev", "--dir", &old]));
        assert!(!may(&["node", "--id", "1", "--dir", &new, "--cluster-file", "cluster.toml"]));
        assert!(!may(&["router", "--listen", "127.0.0.1:0", "--cluster-file", "x"]));
        assert!(!may(&["recover", &new, "--group", "1"]));
        assert!(may(&["inspect", &old]));
        assert!(may(&["admin", "status"]));
    }
}
