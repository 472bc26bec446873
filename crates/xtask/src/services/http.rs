//! One plain HTTP GET on loopback, to see whether a server answers. Not a client for anything else.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long one probe may take on each read and write.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a port on loopback with the timeouts of a probe.
pub fn connect(port: u16) -> Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream =
        TcpStream::connect_timeout(&address, PROBE_TIMEOUT).with_context(|| format!("connecting {address}"))?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    Ok(stream)
}

/// Fails unless a GET of `path` is answered with status 200.
pub fn expect_ok(port: u16, path: &str) -> Result<()> {
    let mut stream = connect(port)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).context("reading the status line")?;
    if status.split_whitespace().nth(1) != Some("200") {
        bail!("GET {path} answered {:?}", status.trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answering(status_line: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            assert_eq!(request, "GET /health HTTP/1.0\r\n");
            (&stream).write_all(status_line.as_bytes()).unwrap();
        });
        port
    }

    #[test]
    fn only_status_200_is_healthy() {
        expect_ok(answering("HTTP/1.1 200 OK\r\n\r\n"), "/health").unwrap();
        let error = expect_ok(answering("HTTP/1.1 503 Service Unavailable\r\n\r\n"), "/health").unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }
}
