//! A NATS server for a test, started from the installed program.
#![allow(dead_code, reason = "no test uses all of it")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server; it ends with this.
pub(crate) struct Nats {
    program: PathBuf,
    port: u16,
    /// What it is started with, beside where it listens.
    arguments: Vec<String>,
    child: Option<Child>,
    /// What JetStream keeps, over its restarts.
    streams: Option<tempfile::TempDir>,
}

impl Nats {
    /// Starts one, or says that it is not installed; then it fails when `HODEI_TEST_REQUIRE` names `nats`.
    pub(crate) fn start() -> Option<Self> {
        let mut nats = Self::absent()?;
        nats.up();
        Some(nats)
    }

    /// One that is not there yet.
    pub(crate) fn absent() -> Option<Self> {
        let paths = ["/usr/sbin/nats-server", "/usr/local/bin/nats-server", "/usr/bin/nats-server"];
        let Some(program) = paths.into_iter().find(|path| Path::new(path).is_file()) else {
            let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|service| service == "nats"), "nats-server is not installed");
            eprintln!("skipped: nats-server is not installed");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { program: program.into(), port, arguments: Vec::new(), child: None, streams: None })
    }

    /// Starts one that takes only who signs in by these arguments.
    pub(crate) fn guarded(arguments: &[&'static str]) -> Option<Self> {
        let mut nats = Self::absent()?;
        nats.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        nats.up();
        Some(nats)
    }

    /// Starts one that keeps streams.
    pub(crate) fn with_streams() -> Option<Self> {
        let mut nats = Self::absent()?;
        let dir = tempfile::tempdir().unwrap();
        nats.arguments = vec!["-js".to_owned(), "-sd".to_owned(), dir.path().display().to_string()];
        nats.streams = Some(dir);
        nats.up();
        Some(nats)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it is, for somebody.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("nats://{user}@127.0.0.1:{}", self.port)
    }

    /// Starts it.
    pub(crate) fn up(&mut self) {
        let mut command = Command::new(&self.program);
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string()])
            .args(&self.arguments)
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("nats-server did not start");
    }

    /// Kills it.
    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.down();
    }
}
