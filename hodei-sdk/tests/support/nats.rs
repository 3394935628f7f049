//! A NATS server for a test, started from the installed program.
#![allow(dead_code, reason = "no test uses all of it")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server, killed when it is dropped.
pub(crate) struct Nats {
    program: PathBuf,
    port: u16,
    /// Arguments of the server besides its address.
    arguments: Vec<String>,
    child: Option<Child>,
    /// The directory of JetStream, kept over restarts.
    streams: Option<tempfile::TempDir>,
}

impl Nats {
    /// Starts a server. If it is not installed, returns `None`, or fails if `HODEI_TEST_REQUIRE` names `nats`.
    pub(crate) fn start() -> Option<Self> {
        let mut nats = Self::absent()?;
        nats.up();
        Some(nats)
    }

    /// Returns a server that is not started.
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

    /// Starts a server whose arguments require credentials.
    pub(crate) fn guarded(arguments: &[&'static str]) -> Option<Self> {
        let mut nats = Self::absent()?;
        nats.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        nats.up();
        Some(nats)
    }

    /// Starts a server with JetStream.
    pub(crate) fn with_streams() -> Option<Self> {
        let mut nats = Self::absent()?;
        let dir = tempfile::tempdir().unwrap();
        nats.arguments = vec!["-js".to_owned(), "-sd".to_owned(), dir.path().display().to_string()];
        nats.streams = Some(dir);
        nats.up();
        Some(nats)
    }

    /// Returns the URL of the server.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Returns the URL with the credentials of a user.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("nats://{user}@127.0.0.1:{}", self.port)
    }

    /// Starts the server.
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

    /// Kills the server.
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
