//! `hodei secret put` at a pseudo-terminal.
#![allow(clippy::unwrap_used, reason = "a test over real programs")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Opens a terminal; returns the end that types, and the end of the programs.
fn terminal() -> (File, File) {
    let typist = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&typist).unwrap();
    unlockpt(&typist).unwrap();
    let name = ptsname(&typist, Vec::new()).unwrap();
    let programs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (typist.into(), programs)
}

fn is_shown(terminal: &File) -> bool {
    tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO)
}

/// Starts the program and waits for its prompt.
fn asked(dir: &Path, terminal: &File) -> (Child, BufReader<impl Read>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    command.args(["secret", "put", "db", "--data-dir"]).arg(dir);
    command.stdin(OwnedFd::from(terminal.try_clone().unwrap())).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut prompt = String::new();
    said.read_line(&mut prompt).unwrap();
    assert_eq!(prompt, "hodei: type the value of `db` and press Enter; it is not shown\n");
    assert!(!is_shown(terminal));
    (child, said)
}

#[test]
fn the_terminal_does_not_show_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (mut typist, programs) = terminal();
    let (mut child, _said) = asked(dir.path(), &programs);
    typist.write_all(b"swordfish\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(is_shown(&programs));
    let mut shown = [0; 64];
    let length = typist.read(&mut shown).unwrap();
    assert_eq!(shown[..length], *b"\r\n");

    let mut job = Command::new(env!("CARGO_BIN_EXE_hodei"));
    job.args(["run", "--secret", "db", "--data-dir"]).arg(dir.path());
    let output = job.args(["--", "sh", "-c", "wc -c < $HODEI_SECRETS_DIR/db"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "9", "{output:?}");
}

#[test]
fn the_terminal_is_hidden_again_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (mut typist, programs) = terminal();
    let (mut child, mut said) = asked(dir.path(), &programs);
    kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    let mut modes = tcgetattr(&programs).unwrap();
    modes.local_modes.insert(LocalModes::ECHO);
    tcsetattr(&programs, OptionalActions::Now, &modes).unwrap();
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    let mut prompt = String::new();
    said.read_line(&mut prompt).unwrap();
    assert!(prompt.contains("type the value") && !is_shown(&programs), "{prompt}");
    typist.write_all(b"swordfish\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_terminal_is_restored_after_an_interrupt_or_too_much_input() {
    let dir = tempfile::tempdir().unwrap();
    let (mut typist, programs) = terminal();
    let (mut child, _said) = asked(dir.path(), &programs);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(is_shown(&programs));

    for typed in [
        [b"x".repeat(5000), b"\n".to_vec()].concat(),
        b"first line\nsecond line".to_vec(),
        b"a line of a key\n".repeat(1500),
    ] {
        let (mut child, mut said) = asked(dir.path(), &programs);
        typist.write_all(&typed).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(125));
        assert!(is_shown(&programs));
        let mut error = String::new();
        said.read_line(&mut error).unwrap();
        assert!(error.contains("hodei secret put db < FILE"), "{error}");
        // The next reader of the terminal, such as a shell, must not get the rest.
        let next = rustix::fs::fcntl_getfl(&programs).unwrap() | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&programs, next).unwrap();
        let rest = (&programs).read(&mut [0; 64]).unwrap_err();
        assert_eq!(rest.kind(), std::io::ErrorKind::WouldBlock);
        rustix::fs::fcntl_setfl(&programs, next - rustix::fs::OFlags::NONBLOCK).unwrap();
    }
}
