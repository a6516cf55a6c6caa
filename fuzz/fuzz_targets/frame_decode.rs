//! No bytes make the frame decoder panic; a frame's body is what follows its header.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pgdiode::source::postgres::pgoutput::{self, Frame};

fuzz_target!(|data: &[u8]| {
    match pgoutput::decode_frame(Bytes::copy_from_slice(data)) {
        Ok(Frame::XLogData { body, .. }) => assert_eq!(body, data[25..]),
        Ok(Frame::Keepalive { .. }) => assert_eq!(data.len(), 18),
        Err(malformed) => assert!(malformed.offset <= data.len()),
    }
});
