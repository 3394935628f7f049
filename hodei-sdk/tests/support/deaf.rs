//! A proxy of a server that silently drops the data of its open connections from a chosen moment on, like a firewall
//! that has lost its state. Both ends stay connected, and new connections work.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A listener that forwards to a server.
pub(crate) struct DeafWay {
    pub(crate) port: u16,
    /// Number of times that the open connections were silenced.
    cuts: watch::Sender<u32>,
    _accepts: JoinSet<()>,
}

impl DeafWay {
    /// Starts in front of a server on this port of this machine.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cuts, told) = watch::channel(0);
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let ((asks, hears), (answers, takes)) = (client.into_split(), server.into_split());
                let now = *told.borrow();
                connections.spawn(copy(asks, takes, told.clone(), now));
                connections.spawn(copy(answers, hears, told.clone(), now));
            }
        });
        Self { port, cuts, _accepts: accepts }
    }

    /// Silences all open connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cuts: watch::Receiver<u32>, since: u32) {
    let mut buffer = vec![0; 64 << 10];
    let piped = async {
        loop {
            let count = from.read(&mut buffer).await?;
            if *cuts.borrow() > since {
                if count == 0 {
                    std::future::pending::<()>().await;
                }
                // The connection stays open and is read, so that neither end notices.
                continue;
            }
            if count == 0 {
                return io::Result::Ok(());
            }
            to.write_all(&buffer[..count]).await?;
        }
    };
    let _ = piped.await;
}
