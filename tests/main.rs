//! The integration tests, one binary: a scenario per file, against servers that they start themselves.

mod harness;

mod chaos;
mod cli;
mod harness_works;
mod stream;
mod tidy;
