//! Archives of change files: written from a real production server's log, looked at and tended, and replayed.

mod built;
mod damage;
mod foreign;
mod format;
mod pruning;
mod verbs;
mod writer;
