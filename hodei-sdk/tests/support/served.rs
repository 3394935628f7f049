//! A platform with a gRPC server, for tests.
#![allow(dead_code, reason = "no test uses all of it")]

use std::path::PathBuf;
use std::time::Duration;

use hodei_sdk::grpc::{GrpcServer, Listener};
use hodei_sdk::port::ClockExt;
use hodei_sdk::{ConnectOptions, Hodei, ProcessOptions, ProcessProvider, Settings, SystemClock};
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "correct horse battery staple";

/// A platform and its server.
pub(crate) struct Served {
    pub(crate) hodei: Hodei,
    pub(crate) url: String,
    pub(crate) stop: CancellationToken,
    pub(crate) server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) async fn local() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::of(listener, Hodei::local().await.unwrap())
    }

    /// Starts a platform whose workers are processes.
    pub(crate) async fn with_processes(settings: Settings) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ProcessOptions::new(agent(), format!("http://{}", listener.local_addr().unwrap()));
        let make = |context| ProcessProvider::new(context, options);
        let hodei = Hodei::builder().settings(settings).provider(make).start().await.unwrap();
        Self::of(listener, hodei)
    }

    pub(crate) fn of(listener: tokio::net::TcpListener, hodei: Hodei) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let served = GrpcServer::new(&hodei).token(TOKEN).serve(Listener::Tcp(listener), stop.clone());
        #[allow(clippy::disallowed_methods, reason = "the test owns the server")]
        let server = tokio::spawn(served);
        Self { hodei, url, stop, server }
    }

    pub(crate) async fn connect(&self) -> Hodei {
        Hodei::connect_with(self.options()).await.unwrap()
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions { token: Some(TOKEN.into()), ..ConnectOptions::new(&self.url) }
    }

    pub(crate) async fn end(self) {
        self.hodei.shutdown_within(Duration::from_secs(5)).await;
        self.stop.cancel();
        within(self.server).await.unwrap().unwrap();
    }
}

/// Returns the path of the agent program that cargo builds beside the tests of the workspace.
pub(crate) fn agent() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let agent = test.parent().unwrap().parent().unwrap().join("hodei-agent");
    assert!(agent.is_file(), "{} is not built: run `cargo build --workspace`", agent.display());
    agent
}

pub(crate) async fn within<F: Future + Send>(future: F) -> F::Output
where
    F::Output: Send,
{
    SystemClock::default().timeout(Duration::from_secs(30), future).await.unwrap()
}
