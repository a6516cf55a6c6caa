//! A status for people: aligned, with colours only where they are wanted.
