//! Connections without a token, up to the limit of descriptors: clients with a token still get an answer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hodei_sdk::{ConnectOptions, Hodei, JobSpec, JobStatus, TlsFiles};
use programs::{Daemon, program, text};

/// Connection preface of HTTP/2 (RFC 9113, section 3.4) with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// A HEADERS frame of stream 1 that announces further headers, which never follow.
const HALF_A_REQUEST: &[u8] = b"\x00\x00\x03\x01\x00\x00\x00\x00\x01\x82\x86\x84";
/// The start of a TLS record with a handshake of 512 bytes.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// Opens `size` connections that each send some bytes.
fn crowd(daemon: &Daemon, size: usize, sends: &[&[u8]]) -> Vec<TcpStream> {
    let address = daemon.url.rsplit('/').next().unwrap();
    let bytes = sends.concat();
    let come = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        // The daemon may have closed the connection already.
        let _ = stream.write_all(&bytes);
        stream
    };
    (0..size).map(come).collect()
}

/// Checks that a client with a token gets an answer, and that a new agent connects and runs a job.
async fn is_served(daemon: &Daemon, dir: &Path, tls: TlsFiles) {
    let start = Instant::now();
    let token_file = Some(dir.join("token"));
    let options = ConnectOptions { token_file, tls, ..ConnectOptions::new(&daemon.url) };
    let hodei = tokio::time::timeout(Duration::from_secs(5), Hodei::connect_with(options)).await;
    let hodei = hodei.expect("no answer within 5 s").unwrap();
    let job = hodei.submit(JobSpec::shell("echo served").build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(15), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), text(&job).await.0.as_str()), (JobStatus::Succeeded, "served\n"));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_client_out_of_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::with_files(dir.path(), "256", &[]);
    let silent = crowd(&daemon, 251, &[]);
    is_served(&daemon, dir.path(), TlsFiles::default()).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_client_out_of_many_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::with_files(dir.path(), "1024", &[]);
    let silent = crowd(&daemon, 1_100, &[]);
    is_served(&daemon, dir.path(), TlsFiles::default()).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_keeps_no_client_out() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::with_files(dir.path(), "256", &[]);
    let half = [crowd(&daemon, 130, &[PREFACE]), crowd(&daemon, 130, &[PREFACE, HALF_A_REQUEST])];
    is_served(&daemon, dir.path(), TlsFiles::default()).await;
    drop(half);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_tls_handshake_keeps_no_client_out() {
    let (dir, tls) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = std::process::Command::new(program("hodei-daemon")).arg("certs").arg(tls.path()).output();
    assert!(made.unwrap().status.success());
    let file = |name: &str| tls.path().join(name).display().to_string();
    // Clients need no certificate.
    let arguments =
        ["--tls-cert", &file("server.pem"), "--tls-key", &file("server.key"), "--tls-ca", &file("ca.pem")];
    let daemon = Daemon::with_files(dir.path(), "256", &arguments);
    let half = [crowd(&daemon, 126, &[]), crowd(&daemon, 126, &[HALF_A_HELLO])];
    let files = TlsFiles { ca: Some(tls.path().join("ca.pem")), ..TlsFiles::default() };
    is_served(&daemon, dir.path(), files).await;
    drop(half);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_token_is_closed_and_one_with_a_token_stays() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let hodei = daemon.connect(dir.path()).await;
    let (mut silent, start) = (crowd(&daemon, 1, &[PREFACE]), Instant::now());
    silent[0].set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut said = Vec::new();
    // The daemon sends its settings, then closes the connection.
    silent[0].read_to_end(&mut said).unwrap();
    let took = start.elapsed();
    assert!(Duration::from_secs(9) < took && took < Duration::from_secs(12), "{took:?}");
    let job = hodei.submit(JobSpec::command(["true"]).build().unwrap()).await.unwrap();
    assert_eq!(job.wait().await.unwrap().status(), JobStatus::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_raises_its_soft_limit_and_its_jobs_have_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::with_files(dir.path(), "256:2048", &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["2048", "2048"]);
    let job = daemon.connect(dir.path()).await;
    let job = job.submit(JobSpec::shell("ulimit -Sn; ulimit -Hn").build().unwrap()).await.unwrap();
    job.wait().await.unwrap();
    assert_eq!(text(&job).await.0, "256\n2048\n");
}
