//! A daemon of your own: start it as often as you like, on as many machines as you like, over one database. Clients and
//! workers may use any of them, and one that is stopped hands over to the others.
//!
//! `postgres-daemon postgres://USER@HOST/DATABASE 127.0.0.1:PORT PATH_OF_HODEI_AGENT`. Serves until it is interrupted.
#![allow(clippy::print_stderr, reason = "an example")]

use hodei_sdk::grpc::{GrpcServer, Listener};
use hodei_sdk::{Hodei, OnShutdown, ProcessOptions, ProcessProvider, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what| arguments.next().ok_or_else(|| format!("say {what}"));
    let (store, address) = (argument("which database")?, argument("where to listen")?);
    let agent = argument("where the program hodei-agent is")?;

    let listener = TcpListener::bind(address).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut settings = Settings::default();
    // The other daemons go on with what runs.
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
    // Who shows this token may do everything; a real one is kept in a file that only its owner reads.
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
