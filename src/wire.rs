//! What the wires have in common: streams, certificates, and texts with `%2F` in them.

pub mod certificate;
pub mod percent;
pub mod stream;
pub mod validity;
