//! Our PostgreSQL connections: libpq's conventions for saying where and how, TLS, authentication, and one
//! [`Session`] that speaks the wire protocol: SQL, raw COPY frames, logical replication.
//!
//! One client for everything, over the `postgres-protocol` codec: the published clients do not do replication, and
//! a COPY relayed frame by frame costs a tenth of the processor time of one that is unpacked and packed again.

pub mod advisory;
pub mod connect;
pub mod conninfo;
pub mod copy;
pub mod copy_text;
pub mod dump;
pub mod quote;
pub mod replication;
pub mod session;
pub mod tls;
