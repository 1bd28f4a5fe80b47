//! The state machines: scripts of `golden/shard`, and seeds against a model.
//!
//! Recorded anew with `UPDATE_GOLDENFILES=1 cargo test -p tests --test shard`.

use harness::shard_script::ShardScript;

#[test]
fn golden_scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/shard");
    let mut scripts: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|script| script.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {dir}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut ShardScript::default(), &script).unwrap();
    }
}
