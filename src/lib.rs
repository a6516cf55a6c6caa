//! pgdiode moves **transactions** one way, from a source to a target, and commits how far it has come
//! **together with** the data.
//!
//! ```text
//!            source                       heart                      target
//!   socket -> frame -> message -> Change -> pump -> Batch -> one target transaction -> commit
//!      ^                                                          (rows + position)       |
//!      +----------------------------------- confirm <-------------------------------------+
//! ```
//!
//! The floors, top of the list at the bottom of the house; arrows only point down (`tests/tidy.rs` checks):
//!
//! - words: [`change`], [`keyspace`], [`position`], [`digest`], [`error`], [`nearest`], [`secret`]
//! - wires: [`pg`] and [`redis`], our connections to servers, [`store`], where objects lie, and [`archive`], the change files;
//!   below them [`wire`], what they have in common
//! - ends: [`source`] and [`target`], ignorant of each other
//! - heart: [`plan`], [`pump`], generic over both ends, no I/O of their own
//! - house: [`config`], [`pipeline`], [`snapshot`], [`schedule`], [`verify`], [`status`], [`audit`], [`lock`], [`checkpoint`], [`custody`], [`credentials`], [`demo`]
//! - doors: [`cli`], [`http`]
//!
//! `ARCHITECTURE.md` tells the way of one change through these rooms.

pub mod archive;
pub mod audit;
pub mod change;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod custody;
pub mod daemon;
pub mod demo;
pub mod digest;
pub mod error;
pub mod http;
pub mod keyspace;
pub mod lock;
pub mod nearest;
pub mod pg;
pub mod pipeline;
pub mod plan;
pub mod position;
pub mod preflight;
pub mod pump;
pub mod redis;
pub mod schedule;
pub mod secret;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod store;
pub mod target;
pub mod verify;
pub mod wire;
