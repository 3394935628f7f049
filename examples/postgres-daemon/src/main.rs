//! A custom daemon. Any number of them, on any number of machines, can share one database. Clients and workers can use
//! any of them, and a stopped daemon hands over to the others.
//!
//! `postgres-daemon DATABASE_URL ADDRESS PATH_OF_HODEI_AGENT`, with a URL such as postgres://USER@HOST/DATABASE and an
//! address such as 127.0.0.1:7443. Serves until it is interrupted.
#![allow(clippy::print_stderr, reason = "an example")]

use hodei_sdk::grpc::{GrpcServer, Listener};
use hodei_sdk::{Hodei, OnShutdown, ProcessOptions, ProcessProvider, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name| arguments.next().ok_or_else(|| format!("the argument {name} is missing"));
    let (store, address) = (argument("DATABASE_URL")?, argument("ADDRESS")?);
    let agent = argument("PATH_OF_HODEI_AGENT")?;

    let listener = TcpListener::bind(address).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut settings = Settings::default();
    // The other daemons continue the running jobs.
    settings.on_shutdown = OnShutdown::Leave;
    let options = ProcessOptions::new(agent, &url);
    let hodei = Hodei::builder()
        .url(store)
        .settings(settings)
        .advertise(&url)
        .provider(move |context| ProcessProvider::new(context, options))
        .start()
        .await?;

    let stop = CancellationToken::new();
    // This token allows everything. Keep a real one in a file that only its owner can read.
    let token = std::env::var("HODEI_TOKEN")?;
    let mut server =
        std::pin::pin!(GrpcServer::new(&hodei).token(&token).serve(Listener::Tcp(listener), stop.clone()));
    eprintln!("listening on {url}");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = &mut server => return Ok(served?),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        () = hodei.stopped() => return Err("a part of the platform failed".into()),
    }
    hodei.shutdown().await;
    stop.cancel();
    server.await?;
    Ok(())
}
