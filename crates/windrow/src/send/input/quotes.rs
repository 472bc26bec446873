//! Whether a CSV file ends within quotes. The parser takes such a file for whole: one stray quote, and all that follows
//! is the text of one cell.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a reader is, by the rules that the parser follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    CellStart,
    Plain,
    Quoted,
    /// After a quote within quotes: another one is a quote of the text, anything else ends the quoting.
    MaybeClosed,
}

/// The line at which the quotes were opened that a reader is in; 0 outside of quotes.
#[derive(Debug, Clone, Default)]
pub struct OpenQuote(Arc<AtomicU64>);

impl OpenQuote {
    /// The line, from 1, if what was read so far ends within quotes.
    pub fn line(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|line| *line > 0)
    }

    /// The same, and forgets it.
    pub fn take(&self) -> Option<u64> {
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|line| *line > 0)
    }

    fn set(&self, line: u64) {
        self.0.store(line, Ordering::Relaxed);
    }
}

/// Hands on what it reads, and follows the quotes in it.
pub struct Quotes<R> {
    inner: R,
    delimiter: u8,
    state: State,
    line: u64,
    open: OpenQuote,
}

impl<R: Read> Quotes<R> {
    pub fn new(inner: R, delimiter: u8) -> (Self, OpenQuote) {
        let open = OpenQuote::default();
        (Self { inner, delimiter, state: State::CellStart, line: 1, open: open.clone() }, open)
    }

    fn follow(&mut self, byte: u8) {
        let ends_cell = byte == self.delimiter || byte == b'\n' || byte == b'\r';
        self.state = match (self.state, byte) {
            (State::CellStart, b'"') => {
                self.open.set(self.line);
                State::Quoted
            }
            (State::Quoted, b'"') => State::MaybeClosed,
            (State::Quoted, _) => State::Quoted,
            (State::MaybeClosed, b'"') => State::Quoted,
            (State::CellStart | State::Plain | State::MaybeClosed, _) => {
                self.open.set(0);
                if ends_cell { State::CellStart } else { State::Plain }
            }
        };
        self.line += u64::from(byte == b'\n');
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        buffer[..n].iter().for_each(|byte| self.follow(*byte));
        if n == 0 && self.state == State::MaybeClosed {
            self.open.set(0);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_at_the_end(text: &str) -> Option<u64> {
        let (mut quotes, open) = Quotes::new(text.as_bytes(), b',');
        io::copy(&mut quotes, &mut io::sink()).unwrap();
        open.line()
    }

    #[test]
    fn quotes_that_nobody_closes_are_found_where_they_were_opened() {
        assert_eq!(open_at_the_end("a,b\n1,\"x\n2,y\n3,z\n"), Some(2));
        assert_eq!(open_at_the_end("a,b\n1,\"x\"\"\n2,y\n"), Some(2), "a doubled quote is a quote of the text");
        assert_eq!(open_at_the_end("\""), Some(1));
    }

    #[test]
    fn what_is_well_quoted_or_not_quoted_at_all_is_whole() {
        for text in
            ["", "a,b\n", "\"a\",\"b\"", "\"a\nb\",c\n", "5\" pipe,x\n", "\"a\"\"b\",\"\"\n", "\"\"", "x,\"y\"z\"\n"]
        {
            assert_eq!(open_at_the_end(text), None, "{text:?}");
        }
    }
}
