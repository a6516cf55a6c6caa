//! Archives of change files: written from a real production server's log, looked at and tended, and replayed.

mod built;
mod check;
mod circle;
mod damage;
mod elsewhere;
mod foreign;
mod format;
mod full;
mod kills;
mod origin;
mod packed;
mod packs;
mod production;
mod pruning;
mod replay;
mod sealed;
mod spill;
mod syncdata;
mod through;
mod untrusted;
mod verbs;
mod wal2json;
mod writer;
