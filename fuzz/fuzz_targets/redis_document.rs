//! No bytes in the place of a document make its mapping into rows panic.
#![no_main]

#[path = "../bodies/redis.rs"]
#[allow(dead_code)]
mod redis;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    redis::document(data);
});
