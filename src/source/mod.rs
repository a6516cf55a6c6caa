//! Where transactions come from. A source delivers [`Event`](crate::change::Event)s in commit order and is told how far
//! the target has durably come; it knows nothing of any target.

pub mod postgres;
