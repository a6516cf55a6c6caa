//! Archives of change files: who fills them, who reads them, who looks after them.

mod built;
mod damage;
mod format;
mod kills;
mod origin;
mod pruning;
mod replay;
mod syncdata;
mod untrusted;
mod verbs;
mod writer;
