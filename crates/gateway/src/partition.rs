//! Which partition a device's readings go to: murmur2 of its id, as Java's default partitioner does it, so that other
//! producers of the same devices agree.

use windrow_protocol::PartitionId;

/// The partition of a device among `partitions` (at least 1).
pub fn partition_of(device: &str, partitions: i32) -> PartitionId {
    let positive = murmur2(device.as_bytes()) & 0x7fff_ffff;
    PartitionId((positive % partitions.max(1).unsigned_abs()) as i32)
}

/// Austin Appleby's MurmurHash2, 32 bits, with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ k >> 24).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafkas_own_tests() {
        // org.apache.kafka.common.utils.UtilsTest
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn a_device_stays_in_its_partition() {
        assert_eq!(partition_of("foobar", 7), partition_of("foobar", 7));
        assert!((0..1_000).all(|i| (0..7).contains(&partition_of(&format!("d{i}"), 7).0)));
    }
}
