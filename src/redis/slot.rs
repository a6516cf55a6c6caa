//! Which slot of a cluster a key is in: what its name, or the part of it in braces, hashes to.
//!
//! Source: the Redis cluster specification, which takes CRC-16 of the XMODEM kind.

/// A cluster has so many slots.
pub const SLOTS: u16 = 16_384;

const TABLE: [u16; 256] = table();

pub fn slot(key: &[u8]) -> u16 {
    let hashed = tag(key).unwrap_or(key);
    let crc =
        hashed.iter().fold(0_u16, |crc, byte| (crc << 8) ^ TABLE[usize::from(crc.to_be_bytes()[0] ^ byte)]);
    crc % SLOTS
}

/// What stands between the first brace and the next that closes it, where that is anything.
fn tag(key: &[u8]) -> Option<&[u8]> {
    let rest = &key[key.iter().position(|byte| *byte == b'{')? + 1..];
    let tag = &rest[..rest.iter().position(|byte| *byte == b'}')?];
    (!tag.is_empty()).then_some(tag)
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte: u16 = 0;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_the_specification_puts_them() {
        // The specification's own check value, and keys of its tutorial.
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"hello"), 866);
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn what_stands_in_braces_decides() {
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
        assert_eq!(slot(b"{foo"), super::slot(&[b"{foo".as_slice()].concat()));
    }
}
