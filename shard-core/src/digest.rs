//! A number that two equal states share: how tests and replicas compare what they hold.

/// FNV-1a over 64 bits: the same on every machine and in every version. It is no defence against
/// somebody who looks for two states with one digest, only against our own mistakes.
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a string of bytes with its length, so that neighbours cannot run into each other.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.numbers(&[bytes.len() as u64]);
        self.mix(bytes);
    }

    pub(crate) fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.mix(&number.to_le_bytes());
        }
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
