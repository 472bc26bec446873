//! What a device may send over HTTP: every body is readings, refusals with a reason, or both.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let batch = windrow_gateway::http::parse(body);
    let (seen, bytes) = (batch.seen(), batch.bytes());
    // An array without an end is one more.
    assert!(seen as usize <= body.len() + 1, "{seen} readings");
    // What is kept is bounded by what was sent.
    assert!(bytes <= 64 * (body.len() + 1_024), "{bytes} bytes from {}", body.len());
});
