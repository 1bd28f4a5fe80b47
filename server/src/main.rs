//! `flotilla`: the program.
fn main() {}
