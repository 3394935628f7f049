//! Workspaces, inputs and outputs of jobs with real processes.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/platform.rs"]
mod platform;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hodei_agent::SystemClock;
use hodei_core::id::JobId;
use hodei_core::job::{AttemptReport, CauseKind, JobSpec, JobSpecBuilder, Outcome};
use hodei_core::port::{Clock, ClockExt};
use platform::{Fault, Platform, cause, skip};

fn with_input(spec: JobSpecBuilder, path: &str) -> JobSpecBuilder {
    let job = JobId::from_uuid(uuid::Uuid::from_u128(9));
    spec.input(format!("{job}/name:{path}").parse().unwrap())
}

fn put(platform: &Platform, path: &str, content: &str) {
    platform.door.shelf.inputs.lock().unwrap().insert(path.into(), content.into());
}

fn names(report: &AttemptReport) -> Vec<&str> {
    report.artifacts.iter().map(|artifact| artifact.name.as_str()).collect()
}

async fn within<T: Send>(seconds: u64, work: impl Future<Output = T> + Send) -> T {
    let limit = Duration::from_secs(seconds);
    SystemClock::default().timeout(limit, work).await.expect("it takes too long")
}

#[tokio::test]
async fn a_job_runs_in_its_own_workspace_which_is_removed_with_it() {
    let mut platform = Platform::start(1).await;
    let report = platform
        .run(JobSpec::shell("pwd; ls -A; echo $HODEI_WORKSPACE; mkdir -p a/b; touch a/b/c; chmod 0 a"))
        .await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let said = String::from_utf8(platform.stdout.clone()).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let base = platform.workspaces.path().join("made/when-missing");
    assert!(lines.len() == 2 && lines[0].starts_with(base.to_str().unwrap()), "{said}");
    assert_eq!(lines[0], lines[1], "it is empty and named in the environment");
    let left = platform.workspaces.path().to_owned();
    assert!(platform.left_over().is_empty());
    let kept = platform.kill().await;
    assert_eq!(std::fs::read_dir(left.join("made/when-missing")).unwrap().count(), 0);
    drop(kept);
}

#[tokio::test]
async fn a_working_directory_is_made_in_the_workspace() {
    let mut platform = Platform::start(1).await;
    platform.run(JobSpec::shell("realpath --relative-to=$HODEI_WORKSPACE .").working_dir("deep/er")).await;
    assert_eq!(platform.stdout, b"deep/er\n");
}

#[tokio::test]
async fn inputs_are_fetched_before_the_start_and_outputs_are_stored_after_the_end() {
    let mut platform = Platform::start(1).await;
    put(&platform, "in/tool", "#!/bin/sh\necho made by $0");
    put(&platform, "empty", "");
    let spec = JobSpec::shell(
        "test -f empty && mkdir -p out/sub && in/tool > out/b && echo x > out/sub/a && echo no > other",
    );
    let spec = with_input(with_input(spec, "in/tool"), "empty").output("out".parse().unwrap());
    let report = platform.run(spec).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", String::from_utf8_lossy(&platform.stderr));
    assert_eq!(names(&report), ["out/b", "out/sub/a"]);
    let stored = platform.door.shelf.stored();
    let expected = [("out/b", "made by in/tool\n"), ("out/sub/a", "x\n")];
    assert_eq!(stored, expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
    assert_eq!(report.artifacts[1].bytes, 2);
    assert!(platform.left_over().is_empty());
}

#[tokio::test]
async fn a_broken_transfer_is_retried() {
    let mut platform = Platform::start(1).await;
    put(&platform, "in", "0123456789");
    *platform.door.shelf.faults.lock().unwrap() = vec![Fault::Away, Fault::Cut, Fault::Away];
    let spec = with_input(JobSpec::shell("cat in; echo done > out"), "in").output("out".parse().unwrap());
    let report = within(20, platform.run(spec)).await;
    assert_eq!((report.outcome, platform.door.shelf.faults.lock().unwrap().len()), (Outcome::Succeeded, 0));
    assert_eq!((&platform.stdout[..], platform.door.shelf.stored().len()), (&b"0123456789"[..], 1));
}

#[tokio::test]
async fn a_missing_or_corrupt_input_fails_the_job_before_it_starts() {
    for (content, fault, expected) in [
        (None, None, CauseKind::Artifact),
        (Some("content"), Some(Fault::Corrupt), CauseKind::Infrastructure),
    ] {
        let mut platform = Platform::start(1).await;
        content.iter().for_each(|content| put(&platform, "in", content));
        *platform.door.shelf.faults.lock().unwrap() = fault.into_iter().collect();
        let report = platform.run(with_input(JobSpec::shell("echo ran"), "in")).await;
        assert_eq!((cause(&report), platform.stdout.len()), (Some(expected), 0), "{fault:?}");
        assert_eq!(report.started_at, None, "its process never started");
        assert!(platform.left_over().is_empty());
    }
}

#[tokio::test]
async fn two_inputs_at_one_path_fail_the_job() {
    let mut platform = Platform::start(1).await;
    put(&platform, "a", "file");
    put(&platform, "a/b", "below it");
    let report = platform.run(with_input(with_input(JobSpec::shell("true"), "a"), "a/b")).await;
    assert_eq!(cause(&report), Some(CauseKind::Artifact));
}

#[tokio::test]
async fn no_output_leads_out_of_the_workspace() {
    for (line, output) in [
        ("ln -s /etc/passwd out", "out"),
        ("ln -s /etc out", "out/passwd"),
        ("mkdir out; ln -s / out/link", "out/link/etc/passwd"),
        ("mkfifo out", "out"),
        ("true", "out"),
        ("echo > out", "out/below"),
    ] {
        let mut platform = Platform::start(1).await;
        let report = within(10, platform.run(JobSpec::shell(line).output(output.parse().unwrap()))).await;
        assert_eq!(cause(&report), Some(CauseKind::Artifact), "{line}: {report:?}");
        assert!(platform.door.shelf.stored().is_empty() && platform.left_over().is_empty(), "{line}");
    }
    assert!(std::path::Path::new("/etc/passwd").exists(), "the target of a link is not removed");
}

#[tokio::test]
async fn a_build_tree_is_kept_as_far_as_possible_and_the_rest_is_noted() {
    let mut platform = Platform::start(1).await;
    let line = "set -e; umask 022; mkdir -p out/lib out/empty; cd out; echo lib > lib/lib.so.1; chmod 755 lib/lib.so.1
        echo secret > private; chmod 640 private; ln -s lib.so.1 lib/lib.so; ln -s lib dir; ln -s nothing dangling
        ln -s $PWD/private absolute; ln -s ../out/private up; touch \"$(printf 'new\\nline')\"
        ln -s ../../../etc/passwd leads-out; ln -s /etc etc; ln -s dir/../../.. tricky
        mkfifo pipe; touch \"$(printf 'a\\377')\"; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'
        n=$(printf 'n%.0s' $(seq 250)); mkdir -p $n/$n/$n/$n; touch $n/$n/$n/$n/with-more-than-1024-bytes $n/$n/fits";
    let report = platform.run(JobSpec::shell(line).output("out".parse().unwrap())).await;
    let notes = String::from_utf8(platform.stderr.clone()).unwrap();
    assert_eq!(report.outcome, Outcome::Succeeded, "{notes}");
    let kept: Vec<_> =
        report.artifacts.iter().filter(|artifact| !artifact.name.as_str().contains("nnn")).collect();
    let links: Vec<_> = kept.iter().filter(|kept| kept.is_link).map(|kept| kept.name.as_str()).collect();
    let files: Vec<_> =
        kept.iter().filter_map(|kept| Some((kept.name.as_str(), format!("{:o}", kept.mode?)))).collect();
    assert_eq!(links, ["out/absolute", "out/dangling", "out/dir", "out/lib/lib.so", "out/up"]);
    let expected = [("out/lib/lib.so.1", "755"), ("out/new\nline", "644"), ("out/private", "640")];
    assert_eq!(files, expected.map(|(name, mode)| (name, mode.to_owned())));
    assert_eq!(report.artifacts.len(), kept.len() + 1, "{notes}");
    let stored = platform.door.shelf.stored();
    let content =
        |name: &str| stored.iter().find(|(stored, _)| stored == name).map(|(_, content)| content.clone());
    assert_eq!(content("out/lib/lib.so").as_deref(), Some("lib.so.1"));
    assert_eq!(content("out/absolute").as_deref(), Some("../out/private"));
    for note in [
        "`out/leads-out` is a link that leads out of the workspace",
        "`out/etc` is a link",
        "`out/tricky` is a link",
        "`out/pipe` is a named pipe",
        "`out/s` is a socket",
        "has a name that is not UTF-8, or a path that is too long",
    ] {
        assert!(
            notes.contains(&format!("hodei: not kept: {note}")) || notes.contains(note),
            "{note}: {notes}"
        );
    }
    assert_eq!(notes.lines().count(), 7, "{notes}");
    assert!(platform.left_over().is_empty());
}

#[tokio::test]
async fn an_output_that_is_a_link_inside_the_workspace_means_its_target() {
    let mut platform = Platform::start(1).await;
    let line = "mkdir -p build/release; echo x > build/release/a; ln -s build/release out; ln -s out/a one";
    let spec = JobSpec::shell(line).output("out".parse().unwrap()).output("one".parse().unwrap());
    let report = platform.run(spec).await;
    assert_eq!((report.outcome.clone(), names(&report)), (Outcome::Succeeded, vec!["one", "out/a"]));
    assert!(report.artifacts.iter().all(|artifact| !artifact.is_link && artifact.bytes == 2));
}

#[tokio::test]
async fn inputs_keep_their_modes_and_links() {
    let mut platform = Platform::start(1).await;
    for (path, content, kind) in [
        ("plain", "x", (Some(0o640), false)),
        ("bin/tool", "#!/bin/sh\necho runs", (Some(0o755), false)),
        ("bin/link", "tool", (None, true)),
        ("older", "#!/bin/sh", (None, false)),
    ] {
        put(&platform, path, content);
        platform.door.shelf.kinds.lock().unwrap().insert(path.into(), kind);
    }
    let look = "stat -c '%a %n' plain bin/tool older; readlink bin/link; bin/link";
    let spec = ["plain", "bin/tool", "bin/link", "older"].into_iter().fold(JobSpec::shell(look), with_input);
    let report = platform.run(spec).await;
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", String::from_utf8_lossy(&platform.stderr));
    let said = String::from_utf8(platform.stdout.clone()).unwrap();
    assert_eq!(said, "640 plain\n755 bin/tool\n700 older\ntool\nruns\n");
    let mut platform = Platform::start(1).await;
    put(&platform, "link", "../../etc/passwd");
    platform.door.shelf.kinds.lock().unwrap().insert("link".into(), (None, true));
    let report = platform.run(with_input(JobSpec::shell("echo ran"), "link")).await;
    assert_eq!((cause(&report), platform.stdout.len()), (Some(CauseKind::Artifact), 0));
}

#[tokio::test]
async fn no_input_goes_through_a_link_that_is_another_input() {
    for below in [("a/up/out", "../..", true), ("a/up/file", "x", false), ("a/up/deep/file", "x", false)] {
        let mut platform = Platform::start(1).await;
        for (path, content, is_link) in [("a/up", "..", true), below] {
            put(&platform, path, content);
            platform.door.shelf.kinds.lock().unwrap().insert(path.into(), (None, is_link));
        }
        let spec = with_input(with_input(JobSpec::shell("echo ran"), "a/up"), below.0);
        let report = platform.run(spec).await;
        assert_eq!((cause(&report), platform.stdout.len()), (Some(CauseKind::Artifact), 0), "{}", below.0);
    }
}

#[tokio::test]
async fn a_thousand_empty_files_are_kept_fast_and_more_than_ten_thousand_are_refused() {
    let mut platform = Platform::start(1).await;
    let spec = |count: u32| {
        JobSpec::shell(format!("mkdir out; cd out; seq {count} | xargs touch")).output("out".parse().unwrap())
    };
    let clock = SystemClock::default();
    let begun = clock.monotonic();
    platform.assign(1, spec(1000)).await;
    assert_eq!(platform.report().await.1.artifacts.len(), 1000);
    let took = clock.monotonic() - begun;
    assert!(took < Duration::from_secs(2), "{took:?}");
    platform.assign(2, spec(10_001)).await;
    let report = platform.report().await.1;
    let said = format!("{:?}", report.outcome);
    assert!(cause(&report) == Some(CauseKind::Artifact) && said.contains("more than 10000 files"), "{said}");
}

#[tokio::test]
async fn a_failed_job_keeps_the_outputs_that_are_always_kept() {
    let mut platform = Platform::start(1).await;
    let line = "echo log > log; echo out > out; exit 3";
    let spec = JobSpec::shell(line).output("out".parse().unwrap());
    let spec = spec.output("log:always".parse().unwrap()).output("missing:always".parse().unwrap());
    let report = platform.run(spec).await;
    assert_eq!((report.exit_code, names(&report)), (Some(3), vec!["log"]));
    let mut platform = Platform::start(1).await;
    let line = "mkdir out; ln -s /etc/passwd out/link; echo > out/a; exit 3";
    let report = platform.run(JobSpec::shell(line).output("out:always".parse().unwrap())).await;
    assert_eq!((report.exit_code, names(&report)), (Some(3), vec!["out/a"]), "the other files are kept");
    let mut platform = Platform::start(1).await;
    let timed = JobSpec::shell("echo > log; sleep 60").timeout(Duration::from_millis(200));
    let report = platform.run(timed.output("log:always".parse().unwrap())).await;
    assert_eq!((&report.outcome, names(&report)), (&Outcome::TimedOut, vec!["log"]));
}

#[tokio::test]
async fn a_job_is_stopped_during_transfers_of_its_artifacts() {
    for (spec, ran) in [
        (with_input(JobSpec::shell("echo ran"), "in"), false),
        (JobSpec::shell("echo ran; touch out").output("out".parse().unwrap()), true),
    ] {
        let mut platform = Platform::start(1).await;
        put(&platform, "in", "content");
        *platform.door.shelf.faults.lock().unwrap() = vec![Fault::Hang];
        platform.assign(1, spec).await;
        while !platform.door.shelf.faults.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        platform.cancel(1, Duration::ZERO).await;
        let (_, report) = within(5, platform.report()).await;
        assert_eq!((report.outcome, !platform.stdout.is_empty()), (Outcome::Cancelled, ran));
        assert!(platform.left_over().is_empty());
    }
}

#[tokio::test]
async fn a_fenced_attempt_stores_nothing_and_ends() {
    let mut platform = Platform::start(1).await;
    *platform.door.shelf.faults.lock().unwrap() = vec![Fault::Fenced];
    let spec = JobSpec::shell("touch out").output("out".parse().unwrap());
    let report = within(5, platform.run(spec)).await;
    assert_eq!((report.outcome, platform.door.shelf.stored().len()), (Outcome::Cancelled, 0));
}

#[tokio::test]
async fn a_kept_workspace_stays_under_a_name_that_says_so() {
    let mut platform = Platform::start(1).await;
    platform.run(JobSpec::shell("echo hi > file").keep_workspace()).await;
    let left = platform.workspaces();
    let name = format!("hodei-kept-{}.1", platform.attempt(1).job);
    assert!(left.len() == 1 && left[0].file_name().unwrap().to_str() == Some(&name), "{left:?}");
    assert_eq!(std::fs::read(left[0].join("file")).unwrap(), b"hi\n");
}

#[tokio::test]
async fn an_unchanged_workspace_is_reused_for_the_next_job() {
    let mut platform = Platform::start(2).await;
    platform.assign(1, JobSpec::shell("sleep 60")).await;
    for (number, line, spares) in [
        (2, "true", 1),
        (3, "pwd; ls -A; test $PWD = $HODEI_WORKSPACE && touch file", 0),
        (4, "true", 1),
        (5, "chmod 755 .", 0),
        (6, "true", 1),
        (7, "here=$PWD; cd ..; rmdir $here; ln -s / $here", 0),
        (8, "true", 1),
        (9, "here=$PWD; cd ..; rmdir $here; mkdir -m 700 other $here; rmdir other", 0),
        (10, "true", 1),
        // A process outside of the group may still be in it.
        (11, "setsid sleep 1 &", 0),
    ] {
        platform.assign(number, JobSpec::shell(line)).await;
        let (ended, report) = platform.report().await;
        assert_eq!((ended, report.outcome), (number, Outcome::Succeeded), "{line}");
        assert_eq!(platform.workspaces().len(), 1 + spares, "{line}");
    }
    let said = String::from_utf8(platform.stdout.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "it is empty: {said}");
    platform.cancel(1, Duration::ZERO).await;
    assert_eq!(platform.report().await.0, 1);
    assert!(platform.left_over().is_empty());
}

/// Returns whether this test may mount a file system.
fn may_mount(on: &Path) -> bool {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(on).stderr(Stdio::null()).status();
    let is_mounted = mounted.is_ok_and(|status| status.success());
    if is_mounted {
        assert!(Command::new("umount").arg(on).status().unwrap().success());
    } else {
        skip("mount");
    }
    is_mounted
}

#[tokio::test]
async fn the_content_of_mounts_in_a_workspace_is_not_removed() {
    let elsewhere = tempfile::tempdir().unwrap();
    if !may_mount(elsewhere.path()) {
        return;
    }
    std::fs::write(elsewhere.path().join("precious"), "precious").unwrap();
    for through_link in [false, true] {
        let mut platform = Platform::start(1).await;
        if through_link {
            // The path of the mount differs from that of the workspace.
            let (base, real) =
                (platform.workspaces.path().join("made"), platform.workspaces.path().join("real"));
            std::fs::create_dir(&real).unwrap();
            std::os::unix::fs::symlink(real, base).unwrap();
        }
        let line = format!("mkdir 'a b' && mount --bind {} 'a b'", elsewhere.path().display());
        assert_eq!(platform.run(JobSpec::shell(line)).await.outcome, Outcome::Succeeded);
        assert!(platform.left_over().is_empty());
        assert_eq!(std::fs::read(elsewhere.path().join("precious")).unwrap(), b"precious");
    }
}

#[tokio::test]
async fn a_recursive_bind_mount_stays_at_its_source() {
    let (elsewhere, below) = (tempfile::tempdir().unwrap(), "below");
    if !may_mount(elsewhere.path()) {
        return;
    }
    let (at, mut platform) = (elsewhere.path().display(), Platform::start(1).await);
    // The unmount of a shared mount would propagate, unless the mount is made private first.
    let line = format!(
        "set -e; mount -t tmpfs tmpfs {at}; mount --make-shared {at}; mkdir {at}/{below}; \
         mount -t tmpfs tmpfs {at}/{below}; touch {at}/{below}/precious; mkdir m; mount --rbind {at} m"
    );
    let report = platform.run(JobSpec::shell(line)).await;
    let is_there = elsewhere.path().join("below/precious").exists();
    for mounted in [elsewhere.path().join(below), elsewhere.path().to_owned()] {
        let _ = Command::new("umount").arg(mounted).stderr(Stdio::null()).status();
    }
    assert_eq!((report.outcome, is_there), (Outcome::Succeeded, true));
    assert!(platform.left_over().is_empty());
}
