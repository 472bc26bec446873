//! What a log record may hold: the block decoder takes any bytes, and what it takes can be looked at row by row.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windrow_wire::block::{MAX_ROWS, decode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(block) = decode(bytes) else { return };
    assert!(block.row_count <= MAX_ROWS);
    assert_eq!(block.times_us.len(), block.row_count);
    assert_eq!(block.device_index.len(), block.row_count);
    for device in &block.device_index {
        assert!((*device as usize) < block.devices.len(), "a reading of no device");
    }
    if let Some(seqs) = &block.seqs {
        assert_eq!(seqs.rows(block.row_count).count(), block.row_count);
    }
});
