//! PostgreSQL as a source: a logical replication slot read through the `pgoutput` plugin.

pub mod pgoutput;
