//! The house rules that a machine can check.
#[test]
fn workspace_has_its_members() {
    assert!(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../raft-core")).is_dir());
}
