//! The static agent in an image with only BusyBox: without a C library and its resolver.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hodei_sdk::{JobSpec, JobStatus};
use programs::{Daemon, agent_of, text};
use rustix::process::{Pid, Signal, kill_process};

/// Returns the agent that `.ci/static` built; `None` if there is none.
fn static_agent() -> Option<PathBuf> {
    let agent = std::env::var_os("HODEI_STATIC_AGENT").map(PathBuf::from);
    if agent.is_none() {
        let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.contains("static"), "HODEI_STATIC_AGENT names no agent");
        eprintln!("skipped: HODEI_STATIC_AGENT names no static agent (see .ci/static)");
    }
    agent
}

/// Whether this test can run a program in a directory as its root.
fn has_images() -> bool {
    let can = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !can {
        let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.contains("mount"), "no mount namespace can be made here");
        eprintln!("skipped: no mount namespace can be made here");
    }
    can
}

/// Creates an image with an agent, and returns a script that runs the agent in it and gives it the daemon's address by
/// name.
fn image(root: &Path, agent: &Path, hosts: &str, resolv: &str) -> PathBuf {
    for dir in ["bin", "dev", "etc", "proc", "tmp"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "ls", "pwd"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::copy(agent, root.join("hodei-agent")).unwrap();
    std::fs::write(root.join("etc/hosts"), hosts).unwrap();
    std::fs::write(root.join("etc/resolv.conf"), resolv).unwrap();
    let script = root.join("run");
    let root = root.display();
    let lines = format!(
        "#!/bin/sh\n\
         for word; do\n\
         case $word in http://127.0.0.1:*) word=http://hodei.test:${{word##*:}};; esac\n\
         set -- \"$@\" \"$word\"; shift\n\
         done\n\
         exec unshare -m sh -c 'mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev && \
         exec chroot {root} /hodei-agent \"$@\"' sh \"$@\"\n"
    );
    std::fs::write(&script, lines).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Runs jobs in the image, and measures the idle agent.
async fn runs_jobs(agent: &Path, hosts: &str, resolv: &str) {
    let (dir, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = image(root.path(), agent, hosts, resolv);
    let daemon = Daemon::start(dir.path(), 0, &["--agent", script.to_str().unwrap()]);
    let hodei = daemon.connect(dir.path()).await;
    let line = "cat in > out; echo $(ls /) in $(pwd)";
    let first = JobSpec::shell("echo hello > made").output("made".parse().unwrap()).build().unwrap();
    let first = hodei.submit(first).await.unwrap();
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, first.wait()).await.expect("no agent comes").unwrap();
    let input = format!("{}/made:w/in", first.id()).parse().unwrap();
    let spec = JobSpec::shell(line).working_dir("w").input(input).output("w/out".parse().unwrap());
    let job = hodei.submit(spec.build().unwrap()).await.unwrap();
    let ended = tokio::time::timeout(limit, job.wait()).await.unwrap().unwrap();
    let (said, _) = text(&job).await;
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1), "{said}");
    assert!(said.starts_with("bin dev etc hodei-agent proc run tmp") && said.ends_with("/w\n"), "{said}");
    let kept = job.artifact(&"w/out".parse().unwrap()).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, b"hello\n");
    // The agent is idle then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let agent = agent_of(ended.worker().unwrap()).as_raw_nonzero();
    let calls = dir.path().join("calls");
    let mut trace = Command::new("strace");
    trace.args(["-f", "-e", "trace=clone,clone3,fork,vfork", "-p", &agent.to_string(), "-o"]);
    let mut trace = trace.arg(&calls).stderr(Stdio::piped()).spawn().unwrap();
    let mut attached = BufReader::new(trace.stderr.take().unwrap());
    let mut said = String::new();
    attached.read_line(&mut said).unwrap();
    let is_watched = said.contains("attached");
    hodei.submit(JobSpec::command(["pwd"]).build().unwrap()).await.unwrap().wait().await.unwrap();
    let _ = kill_process(Pid::from_child(&trace), Signal::INT);
    trace.wait().unwrap();
    if is_watched {
        let calls = std::fs::read_to_string(&calls).unwrap();
        // A fork would copy the memory of the agent for each job.
        let is_fork =
            |line: &&str| line.contains("fork(") || line.contains("clone") && !line.contains("CLONE_VM");
        assert!(calls.contains("CLONE_VFORK") && calls.lines().find(is_fork).is_none(), "{calls}");
    } else {
        eprintln!("skipped: strace cannot show how jobs are started: {}", said.trim());
    }
    let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    eprintln!("the static agent takes {kilobytes} kB when it is idle");
    assert!(kilobytes <= 12_000, "{kilobytes} kB");
    hodei.workers().drain(ended.worker().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_static_agent_resolves_names_of_the_hosts_file() {
    let Some(agent) = static_agent().filter(|_| has_images()) else { return };
    runs_jobs(&agent, "127.0.0.1 localhost hodei.test\n", "nameserver 127.0.0.9\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_static_agent_resolves_names_by_dns() {
    let Some(agent) = static_agent().filter(|_| has_images()) else { return };
    let socket = UdpSocket::bind("127.0.0.8:53").unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer(&question[..length]), from);
        }
    });
    runs_jobs(&agent, "", "nameserver 127.0.0.8\n").await;
}

/// Answers a DNS question: every name has the address 127.0.0.1 and no IPv6 address (RFC 1035, section 4).
fn answer(question: &[u8]) -> Vec<u8> {
    let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap();
    let is_a = question[name_end + 1..name_end + 3] == [0, 1];
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(&question[12..name_end + 5]);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

#[test]
fn the_static_agent_is_small_and_needs_no_library() {
    let Some(agent) = static_agent() else { return };
    let bytes = std::fs::metadata(&agent).unwrap().len();
    eprintln!("the static agent has {bytes} bytes");
    assert!(bytes <= 8_000_000, "{bytes} bytes");
    let needs = Command::new("ldd").arg(&agent).output().unwrap();
    let needs = String::from_utf8(needs.stdout).unwrap();
    assert!(needs.contains("statically linked"), "{needs}");
}
