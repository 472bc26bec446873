//! Free ports on loopback.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Result, bail};

/// Finds `count` different ports of `range` that nobody listens on, beginning at a random one so that two checkouts
/// rarely meet. They are free when this returns; a server that loses the race for one says so in its log.
pub fn find_free(count: usize, range: Range<u16>) -> Result<Vec<u16>> {
    let length = u64::from(range.end - range.start);
    let first = RandomState::new().hash_one(count) % length;
    let mut held = Vec::new();
    for step in 0..length {
        // Below range.end, so it fits.
        let port = range.start + ((first + step) % length) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    bail!("no {count} free ports on 127.0.0.1 from {} to {}", range.start, range.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_of_the_range() {
        let found = find_free(3, 29_000..29_500).unwrap();
        assert!(found.iter().all(|port| (29_000..29_500).contains(port)));
        assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2]);
    }

    #[test]
    fn a_port_in_use_is_not_chosen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = find_free(1, port..port + 1).unwrap_err();
        assert!(error.to_string().contains("no 1 free ports"), "{error}");
    }
}
