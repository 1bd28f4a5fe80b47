//! Hash slots, bit for bit as Redis Cluster (cluster.c keyHashSlot; cluster-spec "Hash tags").

use raft_core::id_type;

id_type! {
    /// One of the 16384 hash slots.
    Slot(u16)
}

/// Slots there are.
pub const SLOTS: u16 = 16384;

const CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, as Redis Cluster uses.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The slot of a key: of the text between the first `{` and the first `}` after it, if that is not
/// empty, else of the whole key.
pub fn hash_slot(key: &[u8]) -> Slot {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|b| *b == b'}').filter(|close| *close > 0).map(|close| &rest[..close])
    });
    Slot(crc16(tag.unwrap_or(key)) % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b93_hash_tags_as_redis_has_them() {
        for (key, slot) in [
            ("123456789", 12739),
            ("", 0),
            ("foo", 12182),
            ("{user1000}.following", 3443),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
        ] {
            assert_eq!(hash_slot(key.as_bytes()), Slot(slot), "{key}");
        }
    }
}
