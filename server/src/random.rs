//! Randomness of the operating system: session ids, nonces, seeds. Never used inside a core.

use std::fs::File;
use std::io::{self, Read};

/// `N` random bytes.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A random number.
pub fn number() -> io::Result<u64> {
    bytes().map(u64::from_le_bytes)
}

/// `N` random bytes as lower-case hexadecimal digits.
pub fn hex<const N: usize>() -> io::Result<String> {
    Ok(bytes::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
