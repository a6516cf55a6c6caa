//! SHA-256, as `sha256sum` prints it: 64 lower-case hexadecimal digits.

use aws_lc_rs::digest::{Context, SHA256};

/// The hash of what has been given to it so far.
#[derive(Clone)]
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256(Context::new(&SHA256))
    }
}

impl Sha256 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> String {
        data_encoding::HEXLOWER.encode(self.0.finish().as_ref())
    }
}

impl Sha256 {
    /// The first half of the hash, as bytes: for telling things apart, where nobody forges them.
    pub fn half(self) -> [u8; 16] {
        let hash = self.0.finish();
        let mut half = [0; 16];
        half.copy_from_slice(&hash.as_ref()[..16]);
        half
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::default();
    hash.update(bytes);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_sha256sum_prints() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::default().finish(), empty);
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
