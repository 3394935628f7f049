//! A proxy of a server that holds back data in one or both directions while it is shut, without losing any.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A listener that forwards to a server.
pub(crate) struct Valve {
    pub(crate) url: String,
    /// Whether data passes to the server and from it.
    open: Arc<watch::Sender<[bool; 2]>>,
    /// Number of bytes sent to the server.
    sent: Arc<AtomicU64>,
    /// Number of accepted connections.
    made: Arc<AtomicU64>,
    _accepts: JoinSet<()>,
}

impl Valve {
    /// Starts in front of a server on this port of this machine.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = Arc::new(watch::channel([true; 2]).0);
        let sent = Arc::new(AtomicU64::new(0));
        let made = Arc::new(AtomicU64::new(0));
        let (told, counted, mut accepts) = (open.clone(), sent.clone(), JoinSet::new());
        let new = made.clone();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                new.fetch_add(1, Ordering::Relaxed);
                let ((asks, hears), (answers, takes)) = (client.into_split(), server.into_split());
                connections.spawn(copy(asks, takes, told.subscribe(), 0, counted.clone()));
                connections.spawn(copy(answers, hears, told.subscribe(), 1, Arc::default()));
            }
        });
        Self { url, open, sent, made, _accepts: accepts }
    }

    /// Returns the number of connections to the server.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes sent to the server.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Opens or shuts the directions to the server and from it.
    pub(crate) fn set(&self, open: [bool; 2]) {
        self.open.send_replace(open);
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut open: watch::Receiver<[bool; 2]>,
    way: usize,
    passed: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 64 << 10];
    let piped = async {
        loop {
            let count = from.read(&mut buffer).await?;
            // Data in transit waits until the valve opens, and so does the end of the stream.
            let _ = open.wait_for(|open| open[way]).await;
            if count == 0 {
                return io::Result::Ok(());
            }
            to.write_all(&buffer[..count]).await?;
            passed.fetch_add(count as u64, Ordering::Relaxed);
        }
    };
    let _ = piped.await;
}
