//! `hodei`, the command line.

mod args;
mod error;
mod exit;
mod job_json;
mod output;
mod run;

use std::process::ExitCode;

use clap::Parser;

/// Runs jobs: on this machine at once, with no server.
#[derive(Debug, Parser)]
#[command(name = "hodei", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run one job here, stream its output, and exit with its exit code.
    Run(Box<args::RunArgs>),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = !error.use_stderr();
            // Whoever closed our output does not want the help.
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(exit::OWN_FAILURE) };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HODEI_LOG").unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Command::Run(args) = cli.command;
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(error::CliError::Runtime)
        .and_then(|runtime| runtime.block_on(run::run(*args)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hodei: {error}");
            ExitCode::from(exit::OWN_FAILURE)
        }
    }
}
