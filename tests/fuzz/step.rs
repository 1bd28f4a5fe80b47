//! What libFuzzer chooses decides what a core hears and what its host does: `make prove-fuzz`. Built without it,
//! this plays the files that are named, such as one that was found to fail: `cargo run -p fuzz FILE`.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    harness::raft_fuzz::fuzz_chosen(bytes);
});

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    for file in std::env::args_os().skip(1) {
        let done = harness::raft_fuzz::fuzz_chosen(&std::fs::read(&file)?);
        println!("{}: {done:?}", file.display());
    }
    Ok(())
}
