//! A connection that can be cut: forwards TCP from an address to another while it is open.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Closed at first: connections are refused.
pub struct Proxy {
    pub listen: SocketAddr,
    to: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn new(listen: SocketAddr, to: SocketAddr) -> Self {
        Self { listen, to, open: None }
    }

    /// Takes connections from now on.
    pub async fn open(&mut self) {
        let (listener, to) = (TcpListener::bind(self.listen).await.unwrap(), self.to);
        self.open = Some(tokio::spawn(async move {
            // Dropped with this task, and with it all connections.
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut to = TcpStream::connect(to).await?;
                    tokio::io::copy_bidirectional(&mut from, &mut to).await
                });
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
