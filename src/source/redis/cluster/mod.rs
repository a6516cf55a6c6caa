//! A cluster as one source: which nodes there are, and reading keys wherever they are now.
//!
//! ```text
//! topology.rs   CLUSTER NODES, CLUSTER SLOTS  -> primaries, who owns which slot, which slots are on the move
//! nodes.rs      keys -> their slots' owners -> MULTI .. EXEC a slot; MOVED and ASK followed
//! ```
//!
//! Each primary has a history of its own, and what two of them say is in no order. So a history only says which keys were
//! written; what a key holds is asked of the node that owns its slot by then (decision 34).

mod nodes;
mod topology;

pub use self::nodes::{Nodes, at};
pub use self::topology::{Primary, Topology};
