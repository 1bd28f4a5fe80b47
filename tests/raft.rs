//! The golden scripts of `golden/raft`, one per section of the paper or per scenario. After a change
//! that is meant: `UPDATE_GOLDENFILES=1 cargo test -p tests --test raft`, then read the difference.

use harness::raft_script::RaftScript;
use std::path::{Path, PathBuf};

/// Runs every script, and names all that differ rather than the first.
#[test]
fn scripts() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/raft");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("golden/raft")
        .map(|file| file.expect("a file").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "the scripts are gone from {}", dir.display());
    let failed: Vec<String> = paths.iter().filter_map(|path| failure(path)).collect();
    assert!(failed.is_empty(), "scripts that differ:\n{}", failed.join("\n"));
}

fn failure(path: &Path) -> Option<String> {
    let run = || goldenscript::run(&mut RaftScript::default(), path);
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{}: {error}", path.display())),
        Err(_) => Some(format!("{}: see above", path.display())),
    }
}
