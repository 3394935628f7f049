//! A daemon for the tests of one program; it ends with it, whatever becomes of them.
#![allow(dead_code, reason = "no test uses all of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

pub(crate) struct Daemon {
    url: String,
    token_file: PathBuf,
    /// Its shell stops it when this closes, as it does at the end of the tests.
    _alive: ChildStdin,
}

/// Sends a command to the daemon.
#[allow(dead_code, reason = "not every test of this folder has this one")]
pub(crate) fn place(command: &mut Command) {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| start(&[])).take(command);
}

/// Sends a command to another daemon, which a shell started after it did this.
#[allow(dead_code, reason = "not every test of this folder has this one")]
pub(crate) fn place_after(prelude: &str, command: &mut Command) {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| start_after(prelude, &[])).take(command);
}

impl Daemon {
    /// Sends a command to this daemon.
    pub(crate) fn take(&self, command: &mut Command) {
        command.env("HODEI_SERVER", &self.url).env("HODEI_TOKEN_FILE", &self.token_file);
    }
}

/// A daemon with some options more.
pub(crate) fn start(options: &[&str]) -> Daemon {
    start_after("", options)
}

/// The same, started by a shell after it did this.
fn start_after(prelude: &str, options: &[&str]) -> Daemon {
    let program = Path::new(env!("CARGO_BIN_EXE_hodei")).with_file_name("hodei-daemon");
    assert!(program.is_file(), "{} is not built: run `cargo build --workspace`", program.display());
    let dir = tempfile::tempdir().unwrap().keep();
    let line = format!(
        "{prelude}\ndir=$1; shift; \
         \"$0\" --data-dir \"$dir\" --listen 127.0.0.1:0 --orphan-timeout 10s --drain-timeout 0s \"$@\" & \
         read end; kill $!; wait $!; rm -rf \"$dir\""
    );
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &line])
        .arg(program)
        .arg(&dir)
        .args(options)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    // A job should see what it sees without a daemon.
    let mut child = shell.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.next().unwrap().unwrap();
    let url = ready.strip_prefix("listening on ").unwrap_or_else(|| panic!("{ready}")).to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    let alive = child.stdin.take().unwrap();
    std::thread::spawn(move || child.wait());
    Daemon { url, token_file: dir.join("token"), _alive: alive }
}
