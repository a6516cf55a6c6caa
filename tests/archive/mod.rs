//! Archives of change files, and what looks at them and tends them.

mod built;
mod damage;
mod format;
mod pruning;
mod verbs;
