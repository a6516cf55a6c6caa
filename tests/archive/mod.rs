//! Archives of change files: written by a real production server's log, looked at, and replayed.

mod writer;
