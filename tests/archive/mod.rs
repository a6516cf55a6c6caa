//! Archives of change files: who fills them, who reads them, who looks after them.

mod kills;
mod origin;
mod replay;
mod untrusted;
