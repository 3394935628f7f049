//! A proxy of a server that cuts a connection at a chosen point of a request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The point at which the next request is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    None,
    /// Before the request arrives.
    Request,
    /// After the request is done, before its answer arrives.
    Answer,
    /// After the request arrives, without waiting for its answer.
    Wait,
}

const CUTS: [Cut; 4] = [Cut::None, Cut::Request, Cut::Answer, Cut::Wait];

/// A listener that forwards to a server.
pub(crate) struct Cutter {
    pub(crate) port: u16,
    next: Arc<AtomicU8>,
    _accepts: JoinSet<()>,
}

impl Cutter {
    /// Starts in front of a server on this port of this machine.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let next = Arc::new(AtomicU8::new(Cut::None as u8));
        let (told, mut accepts) = (next.clone(), JoinSet::new());
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                connections.spawn(pass(client, server, told.clone()));
            }
        });
        Self { port, next, _accepts: accepts }
    }

    /// Cuts the connection of the next request.
    pub(crate) fn cut(&self, cut: Cut) {
        self.next.store(cut as u8, Ordering::SeqCst);
    }

    /// Whether the cut has happened.
    pub(crate) fn has_cut(&self) -> bool {
        self.next.load(Ordering::SeqCst) == Cut::None as u8
    }
}

async fn pass(client: TcpStream, server: TcpStream, next: Arc<AtomicU8>) {
    let ((mut asks, mut hears), (mut answers, mut takes)) = (client.into_split(), server.into_split());
    let to_server = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = read(&mut asks, &mut buffer).await?;
            let cut = CUTS[next.swap(Cut::None as u8, Ordering::SeqCst) as usize];
            if cut != Cut::Request {
                takes.write_all(&buffer[..count]).await?;
            }
            if cut != Cut::None {
                return Ok::<_, io::Error>(cut);
            }
        }
    };
    let cut = tokio::select! {
        cut = to_server => cut,
        _ = copy(&mut answers, &mut hears) => return,
    };
    if let Ok(Cut::Answer) = cut {
        let _ = read(&mut answers, &mut [0; 1024]).await;
    }
}

async fn read(from: &mut OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    match from.read(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

async fn copy(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = read(from, &mut buffer).await?;
        to.write_all(&buffer[..count]).await?;
    }
}
