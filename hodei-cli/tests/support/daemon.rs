//! Starts a daemon for the tests of one program. The daemon ends with that program, even after a panic or a kill.
#![allow(dead_code, reason = "each test uses a part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

pub(crate) struct Daemon {
    url: String,
    token_file: PathBuf,
    /// Input of the daemon's shell, which stops the daemon when this closes at the end of the tests.
    _alive: ChildStdin,
}

/// Points a command to the daemon that the tests of this program share.
#[allow(dead_code, reason = "each test uses one of the two")]
pub(crate) fn place(command: &mut Command) {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| start(&[])).take(command);
}

/// Points a command to another shared daemon, whose shell runs `prelude` before it starts the daemon.
#[allow(dead_code, reason = "each test uses one of the two")]
pub(crate) fn place_after(prelude: &str, command: &mut Command) {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| start_after(prelude, &[])).take(command);
}

impl Daemon {
    /// Points a command to this daemon.
    pub(crate) fn take(&self, command: &mut Command) {
        command.env("HODEI_SERVER", &self.url).env("HODEI_TOKEN_FILE", &self.token_file);
    }
}

/// Starts a daemon with additional options.
pub(crate) fn start(options: &[&str]) -> Daemon {
    start_after("", options)
}

/// Starts a daemon by a shell that runs `prelude` first.
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
    let mut child = shell.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.next().unwrap().unwrap();
    let url = ready.strip_prefix("listening on ").unwrap_or_else(|| panic!("{ready}")).to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    let alive = child.stdin.take().unwrap();
    std::thread::spawn(move || child.wait());
    Daemon { url, token_file: dir.join("token"), _alive: alive }
}
