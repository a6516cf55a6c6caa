//! Who may do what through the HTTP door.

mod visitor;

pub use crate::credentials::{Right, Role};
pub use visitor::{By, Visitor};
