//! One Kafka Metadata request by hand: an open port does not mean that the broker has joined its cluster.
//! Not a client: it reads whether a broker is listed, nothing else.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail};

use crate::services::http::connect;

const METADATA_API: u16 = 3;
/// The first version in which "no topics" can be asked for.
const METADATA_VERSION: u16 = 1;
const CORRELATION: u32 = 0x7769_6e64;
/// More than the answer of one broker without topics ever needs.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Fails unless the broker on this port says that at least one broker is alive.
pub fn expect_broker(port: u16) -> Result<()> {
    let mut stream = connect(port)?;
    stream.write_all(&request()).context("sending the metadata request")?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).context("reading the length of the answer")?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_ANSWER_BYTES {
        bail!("an answer of {length} bytes: not a Kafka broker");
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).context("reading the answer")?;
    match brokers_in(&answer)? {
        0 => bail!("no broker has joined yet"),
        _ => Ok(()),
    }
}

/// Length, then the header (api, version, correlation, client id), then an empty array of topics.
fn request() -> Vec<u8> {
    let client = b"windrow-xtask";
    let mut body = Vec::new();
    body.extend(METADATA_API.to_be_bytes());
    body.extend(METADATA_VERSION.to_be_bytes());
    body.extend(CORRELATION.to_be_bytes());
    body.extend((client.len() as u16).to_be_bytes());
    body.extend(client);
    body.extend(0_u32.to_be_bytes());
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// The answer begins with the correlation and the number of brokers.
fn brokers_in(answer: &[u8]) -> Result<u32> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(answer.get(at..at + 4)?.try_into().ok()?)) };
    match (word(0), word(4)) {
        (Some(CORRELATION), Some(brokers)) => Ok(brokers),
        _ => bail!("an answer that is not Kafka's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_says_its_own_length() {
        let request = request();
        let said = u32::from_be_bytes(request[..4].try_into().unwrap()) as usize;
        assert_eq!(said, request.len() - 4);
    }

    #[test]
    fn brokers_are_counted_and_foreign_answers_refused() {
        let answer = |correlation: u32, brokers: u32| [correlation.to_be_bytes(), brokers.to_be_bytes()].concat();
        assert_eq!(brokers_in(&answer(CORRELATION, 1)).unwrap(), 1);
        assert_eq!(brokers_in(&answer(CORRELATION, 0)).unwrap(), 0);
        assert!(brokers_in(&answer(1, 1)).is_err());
        assert!(brokers_in(b"HTTP").is_err());
    }
}
