//! `hodei`, the command line: reads the arguments, runs one command and exits with its code.

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

/// Run jobs on this machine, or through a daemon.
#[derive(Debug, Parser)]
#[command(name = "hodei", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    target: target::Target,
    /// Set the format of the output: a table for people, JSON for programs.
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

/// Parses the arguments. It checks for conflicts itself, since clap sees none between arguments before and after a
/// subcommand.
fn parse() -> Result<Cli, clap::Error> {
    let names_server = std::env::var_os(target::SERVER_VARIABLE).is_some_and(|url| !url.is_empty())
        || std::env::args_os().take_while(|arg| arg != "--").any(|arg| is_server_flag(&arg));
    let ignores_data_dir = names_server && std::env::var_os(target::DATA_DIR_VARIABLE).is_some();
    let command = if ignores_data_dir { without_data_dir_variable(Cli::command()) } else { Cli::command() };
    let mut matches = command.try_get_matches()?;
    if ignores_data_dir && takes(&matches, "data_dir") && !is_given(&matches, "data_dir") {
        tell("HODEI_DATA_DIR is ignored, since --server or HODEI_SERVER names a daemon");
    }
    if is_given(&matches, "server") && is_given(&matches, "data_dir") {
        let why = "--server cannot be used with --data-dir: each says where the jobs are, so give only one";
        return Err(Cli::command().error(ErrorKind::ArgumentConflict, why));
    }
    Cli::from_arg_matches_mut(&mut matches)
}

fn is_server_flag(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| text == "--server" || text.starts_with("--server="))
}

/// Makes clap ignore HODEI_DATA_DIR: a server that is named wins over it.
fn without_data_dir_variable(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_id().as_str() {
        "data_dir" => argument.env(None::<&'static str>),
        _ => argument,
    });
    command.mut_subcommands(without_data_dir_variable)
}

/// Whether the given command has an argument of this name.
fn takes(matches: &ArgMatches, name: &str) -> bool {
    matches.try_contains_id(name).is_ok()
        || matches.subcommand().is_some_and(|(_, within)| takes(within, name))
}

/// Whether the command line, not the environment, gives an argument.
fn is_given(matches: &ArgMatches, name: &str) -> bool {
    let here =
        matches.try_contains_id(name).is_ok() && matches.value_source(name) == Some(ValueSource::CommandLine);
    here || matches.subcommand().is_some_and(|(_, within)| is_given(within, name))
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
            let is_help = !error.use_stderr();
            // If standard output is closed, the help has no reader.
            let _ = error.print();
            return if is_help { ExitCode::SUCCESS } else { ExitCode::from(exit::OWN_FAILURE) };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HODEI_LOG")
        .unwrap_or_else(|_| "error,hodei_sdk::client=warn,hodei_agent::executor=warn".into());
    // A log line that cannot be written must not end the program.
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

/// Exits when the runtime panics since it cannot start a thread: the other threads would wait for that one forever.
/// Other panics keep their usual handling.
fn end_without_threads() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if !(text.contains("spawn") && text.contains("thread")) {
            return others(panic);
        }
        tell(format_args!("a thread cannot be started: {text}. Raise the limit of processes (`ulimit -u`)"));
        std::process::exit(exit::OWN_FAILURE.into());
    }));
}

/// Checks that all arguments are UTF-8, as jobs are stored as text; the error names the first that is not.
fn arguments_are_text() -> Result<(), error::CliError> {
    for (number, argument) in std::env::args_os().enumerate() {
        if argument.to_str().is_none() {
            let shown = visible(&argument.to_string_lossy());
            return Err(error::CliError::Argument { number, shown });
        }
    }
    Ok(())
}
