//! The HTTP door, asked over real connections.

mod access;
mod client;
