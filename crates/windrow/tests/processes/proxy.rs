//! A connection that can be cut: forwards TCP from an address to another while it is open, and counts what comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::{JoinHandle, JoinSet};

use crate::deployment::{PATIENCE, variable};

/// The address of which the broker tells those who come by the proxy is one: its tests take turns.
static KAFKA: Mutex<()> = Mutex::const_new(());

pub fn address(text: &str) -> SocketAddr {
    text.trim_start_matches("http://").parse().unwrap()
}

/// Closed at first: connections are refused.
pub struct Proxy {
    pub listen: SocketAddr,
    to: SocketAddr,
    open: Option<JoinHandle<()>>,
    came_back: Arc<AtomicU64>,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Proxy {
    pub fn new(listen: SocketAddr, to: SocketAddr) -> Self {
        Self { listen, to, open: None, came_back: Arc::default(), turn: None }
    }

    /// The way to the broker that `cargo xtask test` started.
    pub async fn to_kafka() -> Self {
        let turn = KAFKA.lock().await;
        let (listen, to) = (variable("WINDROW_TEST_KAFKA_PROXY"), variable("WINDROW_TEST_KAFKA_PROXIED"));
        let mut proxy = Self::new(address(&listen), address(&to));
        proxy.turn = Some(turn);
        proxy
    }

    /// Bytes that were answered so far.
    pub fn came_back(&self) -> u64 {
        self.came_back.load(Ordering::Relaxed)
    }

    /// Takes connections from now on.
    pub async fn open(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.listen).await {
                Ok(listener) => break listener,
                // The test before has ended, and its listener is about to.
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.listen),
            }
            tokio::task::yield_now().await;
        };
        let (to, came_back) = (self.to, self.came_back.clone());
        self.open = Some(tokio::spawn(async move {
            // Dropped with this task, and with it all connections.
            let mut connections = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                connections.spawn(forward(from, to, came_back.clone()));
            }
        }));
    }

    /// Cuts what is connected, and refuses from now on.
    pub async fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            let _ = open.await;
        }
    }
}

async fn forward(mut from: TcpStream, to: SocketAddr, came_back: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut to = TcpStream::connect(to).await?;
    let ((mut asked, mut told), (mut answers, mut ask)) = (from.split(), to.split());
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = answers.read(&mut buffer).await?;
            if n == 0 {
                return told.shutdown().await;
            }
            came_back.fetch_add(n as u64, Ordering::Relaxed);
            told.write_all(&buffer[..n]).await?;
        }
    };
    let there = async {
        tokio::io::copy(&mut asked, &mut ask).await?;
        ask.shutdown().await
    };
    tokio::try_join!(there, back).map(drop)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}
