//! Daemon, agents and clients over TLS, with the certificates of `hodei-daemon certs`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hodei_sdk::{ConnectOptions, Hodei, JobSpec, JobStatus, TlsFiles};
use programs::{Daemon, program};

/// Runs `hodei-daemon certs` in a directory.
fn certs(dir: &Path) -> Output {
    Command::new(program("hodei-daemon")).arg("certs").arg(dir).output().unwrap()
}

/// Writes the configuration that `certs` prints to a file; returns its path.
fn configured(dir: &Path) -> String {
    let made = certs(&dir.join("tls"));
    assert!(made.status.success(), "{made:?}");
    let config = dir.join("daemon.toml");
    std::fs::write(&config, &made.stdout).unwrap();
    config.display().to_string()
}

fn tls(certs: &Path) -> TlsFiles {
    let file = |name: &str| Some(certs.join(name));
    TlsFiles { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") }
}

async fn connect(daemon: &Daemon, dir: &Path, tls: TlsFiles) -> Result<Hodei, hodei_sdk::Error> {
    let token_file = Some(dir.join("token"));
    Hodei::connect_with(ConnectOptions { token_file, tls, ..ConnectOptions::new(&daemon.url) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_needs_a_certificate_and_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let config = configured(dir.path());
    let daemon = Daemon::start(dir.path(), 0, &["--config", &config]);
    assert!(daemon.url.starts_with("https://127.0.0.1:"), "{}", daemon.url);
    let files = tls(&dir.path().join("tls"));
    let arguments = |files: &TlsFiles| {
        let flags = [("--ca-file", &files.ca), ("--cert-file", &files.cert), ("--key-file", &files.key)];
        let said = flags
            .into_iter()
            .filter_map(|(flag, file)| Some([flag.to_owned(), file.as_ref()?.display().to_string()]));
        said.flatten().chain(["run", "--", "echo", "hello"].map(str::to_owned)).collect::<Vec<_>>()
    };
    let run = |files: &TlsFiles| {
        let arguments = arguments(files);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        daemon.hodei(dir.path(), &arguments).output().unwrap()
    };
    let ran = run(&files);
    assert_eq!((ran.status.code(), &ran.stdout[..]), (Some(0), &b"hello\n"[..]), "{ran:?}");
    let none = TlsFiles { cert: None, key: None, ..files.clone() };
    for (how, files) in [("without a certificate", none), ("without an authority", TlsFiles::default())] {
        let refused = run(&files);
        assert_eq!(refused.status.code(), Some(125), "{how}: {refused:?}");
    }
    let none = run(&TlsFiles { ca: Some(config.clone().into()), ..files.clone() });
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(said.contains("daemon.toml has no certificate in PEM"), "{said}");
    let plain = daemon.url.replacen("https", "http", 1);
    let token_file = Some(dir.path().join("token"));
    let refused = Hodei::connect_with(ConnectOptions { token_file, ..ConnectOptions::new(plain) }).await;
    assert!(refused.is_err(), "a connection without TLS is refused");
    let wrong =
        ConnectOptions { token: Some("wrong".into()), tls: files, ..ConnectOptions::new(&daemon.url) };
    let refused = Hodei::connect_with(wrong).await.unwrap_err().to_string();
    assert!(refused.contains("the token is not known"), "a certificate does not replace a token: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_tls_connections_keep_no_client_out() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &["--config", &configured(dir.path())]);
    let address = daemon.url.strip_prefix("https://").unwrap();
    let start = Instant::now();
    // More than the daemon's concurrent handshakes and its accept queue together.
    let silent: Vec<_> = (0..400).map(|_| TcpStream::connect(address).unwrap()).collect();
    connect(&daemon, dir.path(), tls(&dir.path().join("tls"))).await.unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}, and a handshake may take 10 s");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_rotated_during_a_running_job() {
    let (dir, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = configured(dir.path());
    let mut daemon = Daemon::start(dir.path(), 0, &["--config", &config]);
    let (now, before) = (dir.path().join("tls"), dir.path().join("before"));
    let hodei = connect(&daemon, dir.path(), tls(&now)).await.unwrap();
    let line = "cd $WORK; echo first; while [ ! -e go ]; do sleep 0.05; done; echo last";
    let spec = JobSpec::shell(line).env("WORK", work.path().display().to_string()).build().unwrap();
    let job = hodei.submit(spec).await.unwrap();
    while job.get().await.unwrap().status() != JobStatus::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Replaces the files with those of another authority.
    std::fs::rename(&now, &before).unwrap();
    assert!(certs(&now).status.success());
    connect(&daemon, dir.path(), tls(&now)).await.unwrap();
    assert!(
        connect(&daemon, dir.path(), tls(&before)).await.is_err(),
        "the daemon does not accept the old authority"
    );
    assert_eq!(job.get().await.unwrap().status(), JobStatus::Running, "existing connections stay");
    // Clients and agents that reconnect use the new files.
    let port = daemon.port();
    daemon.kill();
    let again = Daemon::start(dir.path(), port, &["--config", &config]);
    let hodei = connect(&again, dir.path(), tls(&now)).await.unwrap();
    std::fs::write(work.path().join("go"), "").unwrap();
    let ended =
        tokio::time::timeout(Duration::from_secs(30), hodei.job(job.id()).wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1));
    // An invalid file does not replace the certificate in use.
    std::fs::write(now.join("server.pem"), "not a certificate").unwrap();
    connect(&again, dir.path(), tls(&now)).await.unwrap();
}

#[test]
fn certificates_are_made_once_and_their_keys_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("deep/tls");
    let first = certs(&tls);
    let suggested = String::from_utf8(first.stdout).unwrap();
    for key in ["tls_cert", "tls_key", "tls_ca", "tls_client_ca", "tls_agent_cert", "tls_agent_key"] {
        assert!(suggested.contains(&format!("{key} = \"{}", tls.display())), "{suggested}");
    }
    let read = |name: &str| std::fs::read(tls.join(name)).unwrap();
    let mode = |name: &str| std::fs::metadata(tls.join(name)).unwrap().permissions().mode() & 0o777;
    let before = ["ca.pem", "ca.key", "server.pem", "client.pem"].map(read);
    for key in ["ca.key", "server.key", "client.key"] {
        assert_eq!(mode(key), 0o600, "{key}");
    }
    std::fs::remove_file(tls.join("server.pem")).unwrap();
    assert!(certs(&tls).status.success());
    let after = ["ca.pem", "ca.key", "server.pem", "client.pem"].map(read);
    assert_eq!(before.iter().zip(&after).map(|(a, b)| a == b).collect::<Vec<_>>(), [true, true, false, true]);
}

#[test]
fn existing_certificates_are_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    assert!(certs(dir.path()).status.success());
    let named =
        Command::new(program("hodei-daemon")).arg("certs").arg(dir.path()).args(["--host", "db"]).output();
    let named = named.unwrap();
    assert!(
        !named.status.success() && String::from_utf8_lossy(&named.stderr).contains("delete it to create it")
    );
    // A user who keeps the authority's key elsewhere must not get another authority.
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let before = std::fs::read(dir.path().join("ca.pem")).unwrap();
    let refused = certs(dir.path());
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("put the key back")
    );
    assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), before);
}

#[test]
fn a_reachable_address_needs_tls_and_tls_needs_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let mut daemon = Command::new(program("hodei-daemon"));
        daemon.arg("--data-dir").arg(dir.path()).arg("--agent").arg(program("hodei-agent")).args(arguments);
        let output = daemon.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = said(&["--listen", "192.0.2.1:7443"]);
    assert!(code == Some(1) && error.contains("can be reached from other machines"), "{error}");
    let (_, error) = said(&["--tls-cert", "x.pem"]);
    assert!(error.contains("tls_cert: needs tls_key as well"), "{error}");
    let (_, error) = said(&["--tls-ca", "x.pem"]);
    assert!(error.contains("tls_ca: needs tls_cert and tls_key as well"), "{error}");
    let missing: PathBuf = dir.path().join("missing.pem");
    let missing = missing.display().to_string();
    let (_, error) = said(&["--tls-cert", &missing, "--tls-key", &missing]);
    assert!(error.contains("missing.pem cannot be used for TLS"), "{error}");
}
