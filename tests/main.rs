//! The integration tests, one binary: a scenario per file, against servers that they start themselves.

mod harness;

mod cli;
mod demo;
mod harness_works;
mod tidy;
