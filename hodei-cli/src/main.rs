//! `hodei`, the command line.

mod cmd;
mod data_dir;
mod error;
mod exit;
mod job_json;
mod limits;
#[cfg(test)]
mod reference;
mod spec_args;
mod target;
mod term;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::term::show::{Format, tell, visible};

/// Runs jobs: on this machine at once, or by a daemon.
#[derive(Debug, Parser)]
#[command(name = "hodei", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    target: target::Target,
    /// How to show things: a table for people, JSON for programs.
    #[arg(
        long,
        global = true,
        default_value = "table",
        value_name = "table|json",
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    output: Format,
    #[command(subcommand)]
    command: cmd::Command,
}

/// Reads the command line. Clap itself sees no conflict between what stands before a subcommand and what stands behind it.
fn parse() -> Result<Cli, clap::Error> {
    let names_server = std::env::var_os(target::SERVER_VARIABLE).is_some_and(|url| !url.is_empty())
        || std::env::args_os().take_while(|arg| arg != "--").any(|arg| is_server_flag(&arg));
    let passes_over = names_server && std::env::var_os(target::DATA_DIR_VARIABLE).is_some();
    let command = if passes_over { without_data_dir_variable(Cli::command()) } else { Cli::command() };
    let mut matches = command.try_get_matches()?;
    if passes_over && takes(&matches, "data_dir") && !is_said(&matches, "data_dir") {
        tell("HODEI_DATA_DIR is passed over: a server is named, and has the jobs");
    }
    if is_said(&matches, "server") && is_said(&matches, "data_dir") {
        let why = "--server cannot be used with --data-dir: each says where the jobs are";
        return Err(Cli::command().error(ErrorKind::ArgumentConflict, why));
    }
    Cli::from_arg_matches_mut(&mut matches)
}

fn is_server_flag(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| text == "--server" || text.starts_with("--server="))
}

/// A server that is named wins over a data directory that the environment names.
fn without_data_dir_variable(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_id().as_str() {
        "data_dir" => argument.env(None::<&'static str>),
        _ => argument,
    });
    command.mut_subcommands(without_data_dir_variable)
}

/// Whether the command that was said knows an argument.
fn takes(matches: &ArgMatches, name: &str) -> bool {
    matches.try_contains_id(name).is_ok()
        || matches.subcommand().is_some_and(|(_, within)| takes(within, name))
}

fn is_said(matches: &ArgMatches, name: &str) -> bool {
    let here =
        matches.try_contains_id(name).is_ok() && matches.value_source(name) == Some(ValueSource::CommandLine);
    here || matches.subcommand().is_some_and(|(_, within)| is_said(within, name))
}

fn main() -> ExitCode {
    hodei_sdk::wait_for_children();
    end_without_threads();
    if let Some(code) = cmd::run::guard::guard(target::local_options) {
        return code;
    }
    if let Err(error) = arguments_are_text() {
        tell(&error);
        return ExitCode::from(exit::OWN_FAILURE);
    }
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = !error.use_stderr();
            // Whoever closed our output does not want the help.
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(exit::OWN_FAILURE) };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HODEI_LOG")
        .unwrap_or_else(|_| "error,hodei_sdk::client=warn,hodei_agent::executor=warn".into());
    // A line that cannot be written is no reason to end.
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
    lines.with_env_filter(filter).without_time().init();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(error::CliError::Runtime)
        .and_then(|runtime| runtime.block_on(cmd::run(&cli.target, cli.output, cli.command)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tell(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Ends this program where the system gives its runtime no thread, which panics: the rest of it would wait for that thread.
/// Other panics are caught, or end it.
fn end_without_threads() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if !(text.contains("spawn") && text.contains("thread")) {
            return others(panic);
        }
        tell(format_args!("the system gives this program no thread: {text}. See `ulimit -u`"));
        std::process::exit(exit::OWN_FAILURE.into());
    }));
}

/// Jobs are stored as text; which argument is not is worth saying.
fn arguments_are_text() -> Result<(), error::CliError> {
    for (number, argument) in std::env::args_os().enumerate() {
        if argument.to_str().is_none() {
            let shown = visible(&argument.to_string_lossy());
            return Err(error::CliError::Argument { number, shown });
        }
    }
    Ok(())
}
