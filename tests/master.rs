//! The shardmaster: scripts of `golden/master`. Seeds are beside its code, in
//! `shard-core/src/shardmaster/tests.rs`.
//!
//! Recorded anew with `UPDATE_GOLDENFILES=1 cargo test -p tests --test master`.

use harness::master_script::MasterScript;

#[test]
fn golden_scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/master");
    let mut scripts: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|script| script.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {dir}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut MasterScript::default(), &script).unwrap();
    }
}
