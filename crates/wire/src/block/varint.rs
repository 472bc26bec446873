//! Protobuf's variable-length integers and zigzag.

use super::BlockError;

/// Appends a varint.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a varint at the front of `bytes` and advances past it.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Result<u64, BlockError> {
    // Short ones are by far the most common: a steady period's delta, a dictionary index.
    match **bytes {
        [a, ref rest @ ..] if a < 0x80 => {
            *bytes = rest;
            Ok(u64::from(a))
        }
        [a, b, ref rest @ ..] if b < 0x80 => {
            *bytes = rest;
            Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
        }
        [a, b, c, ref rest @ ..] if c < 0x80 => {
            *bytes = rest;
            Ok(u64::from(a & 0x7f) | u64::from(b & 0x7f) << 7 | u64::from(c) << 14)
        }
        _ => take_long(bytes),
    }
}

fn take_long(bytes: &mut &[u8]) -> Result<u64, BlockError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        if i == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Ok(value);
        }
    }
    Err(BlockError::Malformed("varint runs past its end"))
}

pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_and_zigzag_round_trip(value in any::<u64>(), signed in any::<i64>()) {
            let mut out = Vec::new();
            put(&mut out, value);
            let mut bytes = out.as_slice();
            prop_assert_eq!(take(&mut bytes).unwrap(), value);
            prop_assert!(bytes.is_empty());
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }

    #[test]
    fn a_varint_without_end_is_refused() {
        assert!(take(&mut [0xff; 9].as_slice()).is_err());
        assert!(take(&mut [0xff; 11].as_slice()).is_err());
        assert!(take(&mut [].as_slice()).is_err());
    }
}
