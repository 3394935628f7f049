//! `hodei-daemon`: serves a platform with a data directory and worker processes.

mod adopt;
mod certs;
mod config;
mod descriptors;
mod listen;
#[cfg(test)]
mod reference;
mod serve;
mod signals;
mod token;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use config::{Command, Config, Flags};

/// Time for the removal of workspaces at the end. The next start removes the rest.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // An agent that outlives this process must not hold descriptors of its caller, such as a lock.
    hodei_sdk::inherit_no_descriptors();
    hodei_sdk::wait_for_children();
    hodei_sdk::return_large_memory();
    let flags = Flags::parse();
    match &flags.command {
        Some(Command::Certs(args)) => return report(certs::make(args)),
        Some(Command::Adopt(args)) => return report(adopt::adopt(args)),
        None => {}
    }
    let done = Config::load(flags).map_err(serve::DaemonError::from).and_then(|config| {
        // A log line that cannot be written must not end the daemon.
        let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
        let lines = lines.with_env_filter(log_filter(&config)).with_filter_reloading();
        let filter = lines.reload_handle();
        lines.init();
        let log = move |config: &Config| {
            if let Err(error) = filter.reload(log_filter(config)) {
                tracing::error!(%error, "log_level is not changed: the filter cannot be replaced");
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(serve::DaemonError::Runtime)?;
        let done = runtime.block_on(serve::run(config, log));
        runtime.shutdown_timeout(REMOVAL_TIMEOUT);
        done
    });
    match done {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn log_filter(config: &Config) -> EnvFilter {
    let filter = EnvFilter::builder().parse_lossy(&config.log_level);
    // The NATS client logs errors that the platform retries.
    match "async_nats=off".parse() {
        Ok(quiet) if !config.log_level.contains("async_nats") => filter.add_directive(quiet),
        _ => filter,
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "hodei-daemon: {error}");
    ExitCode::FAILURE
}

fn report(done: Result<String, impl std::error::Error>) -> ExitCode {
    match done {
        Ok(text) => {
            let _ = write!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}
