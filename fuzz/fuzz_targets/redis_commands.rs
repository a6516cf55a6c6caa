//! No bytes make the reader of a Redis server's replication stream panic, nor what it takes of their meaning.
#![no_main]

#[path = "../bodies/redis.rs"]
#[allow(dead_code)]
mod redis;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    redis::commands(data, |_| ());
});
