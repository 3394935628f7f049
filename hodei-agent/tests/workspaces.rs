//! Removal of workspaces with any content, directories for temporary files, scripts and working directories.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/platform.rs"]
mod platform;

use std::path::Path;
use std::time::Duration;

use hodei_agent::{Leftovers, SystemClock};
use hodei_core::job::{JobSpec, Outcome};
use hodei_core::port::{Clock, ClockExt};
use platform::Platform;

/// Nests 20,000 directories: a path to the lowest is longer than the system allows.
const NEST_DEEP: &str = "p=$(printf 'd/%.0s' $(seq 2000)); \
                    for i in 1 2 3 4 5 6 7 8 9 10; do mkdir -p $p && cd -P $p || exit 1; done; echo > file";

/// Creates a million names of a thousand files in a thousand directories.
const FILL_WIDE: &str = "mkdir t && (cd t && seq -f f%g 1000 | xargs touch) && \
                    for i in 1 2 3 4 5 6 7 8 9 10; do cp -al t u && mv u t/$i || exit 1; done";

async fn until_gone(platform: &Platform) {
    for _ in 0..6000 {
        if platform.left_over().is_empty() {
            return;
        }
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} remain", platform.left_over());
}

#[tokio::test]
async fn a_workspace_of_any_depth_is_removed_and_the_agent_goes_on() {
    let mut platform = Platform::start(1).await;
    for (number, line) in [
        (1, NEST_DEEP.to_owned()),
        (2, "n=$(printf 'n%.0s' $(seq 255)); for i in $(seq 40); do mkdir $n && cd -P $n; done".to_owned()),
        // The mount is too deep for a path.
        (3, format!("{NEST_DEEP}; mkdir m; mount --bind / m || true")),
        (4, "mkdir -p a/b/c; touch a/b/c/$(printf '\\377'); chmod 0 a/b/c a/b a".to_owned()),
    ] {
        platform.assign(number, JobSpec::shell(&line)).await;
        let (ended, report) = platform.report().await;
        assert_eq!((ended, report.outcome), (number, Outcome::Succeeded), "{line}");
        until_gone(&platform).await;
    }
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn a_workspace_of_a_million_entries_is_removed_while_other_jobs_run() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell(FILL_WIDE)).await;
    let (ended, report) = platform.report().await;
    assert_eq!((ended, report.outcome), (1, Outcome::Succeeded));
    for number in 2..5 {
        platform.assign(number, JobSpec::command(["true"])).await;
        let (ended, report) = platform.report().await;
        assert_eq!((ended, report.outcome), (number, Outcome::Succeeded));
    }
    assert!(!platform.left_over().is_empty(), "the jobs waited for the removal");
    until_gone(&platform).await;
}

#[tokio::test]
async fn a_workspace_of_any_depth_left_by_a_killed_agent_is_removed_by_the_next() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell(format!("{NEST_DEEP}; sleep 60"))).await;
    let made = platform.workspaces.path().join("made/when-missing");
    while std::fs::read_dir(&made).map_or(0, Iterator::count) == 0 {
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    SystemClock::default().sleep(Duration::from_millis(300)).await;
    // Hides the workspace from the agent, as if it was killed before the removal.
    let left = platform.workspaces()[0].clone();
    let aside = made.join("aside");
    std::fs::rename(&left, &aside).unwrap();
    platform.cancel(1, Duration::ZERO).await;
    platform.report().await;
    std::fs::rename(&aside, &left).unwrap();
    let of_worker = Leftovers::of_worker(&platform.marks);
    let removed = tokio::task::spawn_blocking(move || of_worker.remove_workspaces(&made));
    SystemClock::default().timeout(Duration::from_secs(20), removed).await.unwrap().unwrap();
    assert!(platform.left_over().is_empty());
}

fn lines(platform: &Platform) -> Vec<String> {
    String::from_utf8(platform.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn temporary_files_are_in_a_directory_of_the_attempt_and_removed_with_it() {
    let mut platform = Platform::start(1).await;
    let line = "echo $TMPDIR; ls -A $TMPDIR; stat -c %a $TMPDIR; test $TMPDIR != $PWD && mktemp";
    for number in 1..=2 {
        platform.log_seen = 0;
        platform.assign(number, JobSpec::shell(line)).await;
        assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded);
        assert!(platform.left_over().is_empty());
    }
    let said = lines(&platform);
    assert_eq!((said.len(), &said[1], &said[4]), (6, &"700".to_owned(), &"700".to_owned()), "{said:?}");
    for (dir, file) in [(&said[0], &said[2]), (&said[3], &said[5])] {
        assert!(file.starts_with(&format!("{dir}/")), "{said:?}");
        // The name is short: the path of a socket below it may have at most 107 bytes.
        assert!(Path::new(dir).file_name().unwrap().len() <= 26, "{said:?}");
        assert!(!Path::new(file).exists(), "{file}");
    }
    // Its content is removed like that of a workspace.
    platform.assign(3, JobSpec::shell(format!("cd $TMPDIR && {{ {NEST_DEEP}; }}"))).await;
    assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded);
    until_gone(&platform).await;
    (platform.stdout, platform.log_seen) = (Vec::new(), 0);
    platform.assign(4, JobSpec::shell("echo $TMPDIR").env("TMPDIR", "/var/tmp")).await;
    platform.report().await;
    assert_eq!(lines(&platform), ["/var/tmp"], "the spec overrides it");
}

#[tokio::test]
async fn an_empty_directory_for_temporary_files_is_reused_unless_it_was_removed() {
    let mut platform = Platform::start(1).await;
    for (number, line) in
        [(1, "echo $TMPDIR"), (2, "echo $TMPDIR; rmdir $TMPDIR"), (3, "echo $TMPDIR; touch $TMPDIR/a")]
    {
        platform.log_seen = 0;
        platform.assign(number, JobSpec::shell(line)).await;
        platform.report().await;
    }
    let said = lines(&platform);
    assert!(said[0] == said[1] && said[1] != said[2], "{said:?}");
    let base = platform.workspaces.path().join("made/when-missing");
    platform.assign(4, JobSpec::shell("true")).await;
    platform.report().await;
    // Like a clean-up service.
    for entry in std::fs::read_dir(&base).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    platform.assign(5, JobSpec::shell("test -d $TMPDIR").working_dir("/")).await;
    assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded);
    let left = platform.kill().await;
    assert_eq!(std::fs::read_dir(left.path().join("made/when-missing")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_script_is_alone_in_a_private_directory_with_the_extension_of_its_interpreter() {
    let look = "echo ${0##*/}; cd ${0%/*}; stat -c %a .; ls -A; test $PWD != $TMPDIR && ls -A $TMPDIR";
    for (spec, name) in [
        (JobSpec::script(look), "script.sh"),
        (JobSpec::script(format!("#!/usr/bin/env sh\n{look}")), "script.sh"),
        (JobSpec::script(look).script_extension("tool"), "script.tool"),
        (JobSpec::script(look).interpreter("/bin/sh").env("TMPDIR", "/nowhere"), "script.sh"),
    ] {
        let mut platform = Platform::start(1).await;
        platform.run(spec).await;
        assert_eq!(lines(&platform), [name, "700", name]);
        assert!(platform.left_over().is_empty());
    }
    let mut platform = Platform::start(1).await;
    // A foreign module in the shared directory for temporary files must not be imported.
    let planted = std::env::temp_dir().join(format!("planted{}.py", std::process::id()));
    std::fs::write(&planted, "print('planted')").unwrap();
    let source = format!("import planted{}", std::process::id());
    let report = platform.run(JobSpec::script(source).interpreter("python3")).await;
    std::fs::remove_file(planted).unwrap();
    assert_eq!((report.exit_code, platform.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&platform.stderr).contains("script.py"));
}

#[tokio::test]
async fn an_absolute_working_directory_is_created_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().canonicalize().unwrap().join("made/ä b");
    let mut platform = Platform::start(1).await;
    let line = "pwd; test -d $HODEI_WORKSPACE && echo > file";
    let report = platform.run(JobSpec::shell(line).working_dir(there.to_str().unwrap())).await;
    assert_eq!((report.outcome, lines(&platform)), (Outcome::Succeeded, vec![there.display().to_string()]));
    assert!(there.join("file").exists() && platform.left_over().is_empty());
}

#[tokio::test]
async fn reused_directories_are_like_new_ones() {
    let mut platform = Platform::start(1).await;
    let looks = "stat -c %a . $TMPDIR; ls -A . $TMPDIR";
    let leave = [
        "true",
        "true",
        "touch left $TMPDIR/left",
        "mkdir left; mkdir $TMPDIR/left; rmdir left",
        "chmod 711 . $TMPDIR",
        "touch left; rm left; chmod 711 .; chmod 700 .",
        "true",
    ];
    let mut expected = None;
    for (number, line) in (1..).zip(leave) {
        (platform.stdout, platform.log_seen) = (Vec::new(), 0);
        platform.assign(number, JobSpec::shell(format!("({looks}) | grep -v '^/'; {line}"))).await;
        assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded, "{line}");
        let seen = lines(&platform);
        assert_eq!(*expected.get_or_insert(seen.clone()), seen, "before {line}");
        // Long enough for the next change to have a different time.
        SystemClock::default().sleep(Duration::from_millis(70)).await;
    }
}

#[tokio::test]
async fn a_job_that_locks_the_directory_of_workspaces_does_not_stop_others() {
    let mut platform = Platform::start(1).await;
    // As root this always succeeds: permissions do not apply.
    for (number, line) in (1..).zip(["cd ..; chmod 000 .", "echo > left; cd ..; chmod 000 .", "true"]) {
        platform.assign(number, JobSpec::shell(line)).await;
        assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded, "{line}");
    }
}
