//! A value in a line of COPY's text format. Null is `\N`, which no escaped value is.

use bytes::BufMut;

/// COPY's text escapes. UTF-8 has no byte below 0x80 inside a character, so bytes can be looked at singly.
pub fn put_escaped(out: &mut impl BufMut, bytes: &[u8]) {
    let mut clean = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let escape = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.put_slice(&bytes[clean..index]);
        out.put_slice(&[b'\\', escape]);
        clean = index + 1;
    }
    out.put_slice(&bytes[clean..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_value_is_escaped() {
        let mut out = Vec::new();
        put_escaped(&mut out, b"a\tb\\N\r\n\x00\xff");
        assert_eq!(out, b"a\\tb\\\\N\\r\\n\x00\xff");
    }
}
