//! The start state of a job's process: independent of the state of the program that starts it, and the same in
//! `hodei run` and by a daemon, with limits and without.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "support/daemon.rs"]
mod daemon;

/// State that a job must not inherit: ignored signals (except TERM, which ends the daemon of the test), descriptors,
/// one of them with a lock, a umask, and a changed environment.
const PRELUDE: &str = "trap '' HUP INT QUIT USR1 USR2 WINCH ALRM CHLD TSTP TTIN TTOU PIPE\n\
                       exec 7</dev/null 9</ && flock -s 9\n\
                       umask 0077; unset HOME USER TZ; export STRANGE=1\n\
                       ulimit -Sn 500";

/// Runs a job in each way; returns the name of the way and the output of the job.
fn by_each_way(argv: &[&str]) -> Vec<(String, String)> {
    let mut said = Vec::new();
    for by_daemon in [false, true] {
        for limits in [&[][..], &["--pids", "200"]] {
            let mut command = Command::new("/bin/sh");
            let line = format!("{PRELUDE}\nexec env --block-signal=USR1,RTMIN+3,CHLD \"$0\" \"$@\"");
            let line = if by_daemon { "exec \"$0\" \"$@\"" } else { &line };
            command.args(["-c", line, env!("CARGO_BIN_EXE_hodei"), "run"]).args(limits).arg("--").args(argv);
            if by_daemon {
                daemon::place_after(PRELUDE, &mut command);
            }
            let output = command.stdin(Stdio::null()).output().unwrap();
            let name = format!("{argv:?} {limits:?}, by a daemon: {by_daemon}");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            said.push((name, String::from_utf8(output.stdout).unwrap()));
        }
    }
    said
}

#[test]
fn every_signal_has_its_default_and_none_is_blocked() {
    for (name, said) in by_each_way(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]) {
        let masks: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(masks, ["0000000000000000"; 2], "{name}: {said}");
    }
}

#[test]
fn a_signal_that_the_platform_ignores_ends_a_job() {
    for (name, said) in
        by_each_way(&["sh", "-c", "sh -c 'kill -HUP $$'; echo $?; sh -c 'kill -PIPE $$'; echo $?"])
    {
        assert_eq!(said, "129\n141\n", "{name}");
    }
}

#[test]
fn a_job_has_three_descriptors() {
    // The fourth descriptor is that of the listed directory.
    for (name, said) in by_each_way(&["ls", "/proc/self/fd"]) {
        assert_eq!(said, "0\n1\n2\n3\n", "{name}");
    }
    for (name, said) in by_each_way(&["readlink", "/proc/self/fd/0"]) {
        assert_eq!(said, "/dev/null\n", "{name}");
    }
}

#[test]
fn a_job_leads_a_session_and_a_group_of_its_own() {
    for (name, said) in by_each_way(&["sh", "-c", "cut -d' ' -f1,5,6,7 /proc/$$/stat"]) {
        let numbers: Vec<i32> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [pid, group, session, terminal] = numbers[..] else { panic!("{name}: {said}") };
        assert_eq!((group, session, terminal), (pid, pid, 0), "{name}");
    }
}

#[test]
fn a_job_does_not_inherit_the_umask() {
    for (name, said) in by_each_way(&["sh", "-c", "umask"]) {
        assert_eq!(said, "0022\n", "{name}");
    }
    // The program keeps its own umask: only its user can read the files that it creates.
    let dir = tempfile::tempdir().unwrap();
    let line = "umask 0077; \"$0\" run --data-dir \"$1/made\" -- sh -c 'umask' && stat -c %a \"$1/made\"";
    let output =
        Command::new("/bin/sh").args(["-c", line, env!("CARGO_BIN_EXE_hodei")]).arg(dir.path()).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), "0022\n700\n");
}

#[test]
fn a_job_inherits_the_limits_of_the_program() {
    for (name, said) in by_each_way(&["sh", "-c", "ulimit -Sn; ulimit -Hn"]) {
        let soft = said.lines().next();
        assert_eq!(soft, Some("500"), "{name}: {said}");
    }
}

#[test]
fn a_job_inherits_the_niceness_of_the_program() {
    let output =
        Command::new("nice").args(["-n", "7", env!("CARGO_BIN_EXE_hodei"), "run", "--", "nice"]).output();
    let here = Command::new("nice").output().unwrap().stdout;
    let here: i32 = String::from_utf8(here).unwrap().trim().parse().unwrap();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(said.trim().parse::<i32>().unwrap(), (here + 7).min(19));
}

#[test]
fn the_kernel_kills_a_job_before_its_agent_for_want_of_memory() {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let expected = (own.trim().parse::<i32>().unwrap().max(0) + 100).min(1000);
    // The agent has the score of the job while it starts the job, so the job polls until that is over.
    let line = "read -r own </proc/self/oom_score_adj; tries=0
        until read -r above </proc/$PPID/oom_score_adj && [ $above -lt $own ] || [ $tries = 500 ]; do
            sleep 0.01; tries=$((tries + 1))
        done
        echo $own; echo $above";
    for (name, said) in by_each_way(&["sh", "-c", line]) {
        let scores: Vec<i32> = said.lines().map(|score| score.parse().unwrap()).collect();
        assert_eq!(scores[0], expected, "{name}: {said}");
        assert!(scores[1] < scores[0], "{name}: {said}");
    }
}

#[test]
fn the_environment_is_the_same_for_every_way_to_start_a_job() {
    let own = ["HODEI_ATTEMPT", "HODEI_JOB_ID", "HODEI_OWNER", "HODEI_WORKER_ID"];
    for (name, said) in by_each_way(&["env"]) {
        // The shell that starts a job with limits sets some of these, and a workspace sets another.
        let mut names: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_", "HODEI_WORKSPACE"].contains(name));
        names.sort_unstable();
        let expected: Vec<&str> = own.into_iter().chain(["HOME", "LANG", "PATH", "TMPDIR", "USER"]).collect();
        assert_eq!(names, expected, "{name}: {said}");
    }
}

#[test]
fn home_and_user_come_from_the_account_and_the_time_zone_from_the_program() {
    let account = Command::new("sh").args(["-c", "getent passwd \"$(id -u)\""]).output().unwrap().stdout;
    let account = String::from_utf8(account).unwrap();
    let account: Vec<&str> = account.trim().split(':').collect();
    for (name, said) in by_each_way(&["sh", "-c", "echo $USER $HOME ${TZ-unset}"]) {
        assert_eq!(said, format!("{} {} unset\n", account[0], account[5]), "{name}");
    }
    let said = |zone: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
        command.args(["run", "--shell", "date +%Z; echo ${TZ-unset}"]).env("TZ", zone);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(said("XYZ-3"), "XYZ\nXYZ-3\n");
    assert_eq!(said(""), "UTC\n\n", "an empty TZ is UTC, also if the machine has another zone");
}

#[test]
fn a_user_without_an_account_has_no_name() {
    let (uid, line) = ("54321", "echo \"${USER-none} ${HOME-none}\"; id -u");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", env!("CARGO_BIN_EXE_hodei")]);
    command.args(["run", "--shell", line]).current_dir("/").env_remove("USER").env_remove("HOME");
    let output = command.output().unwrap();
    if !output.status.success() && !rustix::process::geteuid().is_root() {
        eprintln!("skipped: this test cannot become another user here");
        return;
    }
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "none none\n54321\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_job_begins_in_its_directory() {
    for (name, said) in by_each_way(&["sh", "-c", "pwd -P; echo $HODEI_WORKSPACE"]) {
        let dirs: Vec<&str> = said.lines().collect();
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let expected = if dirs[1].is_empty() { here.to_str().unwrap() } else { dirs[1] };
        assert_eq!(dirs[0], expected, "{name}");
    }
}

#[test]
fn a_job_has_a_control_group_for_itself() {
    if !std::path::Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists() {
        eprintln!("skipped: there are no control groups of version 1 here");
        return;
    }
    // A thread of the agent is in the group while it starts the job, so the job polls until it is alone.
    let line = "group=$(sed -n 's/.*:pids://p' /proc/self/cgroup); echo $group; tries=0
        count() { found=0; while read -r _; do found=$((found + 1)); done </sys/fs/cgroup/pids$group/cgroup.procs; }
        until count && [ $found = 1 ] || [ $tries = 500 ]; do sleep 0.01; tries=$((tries + 1)); done
        echo $found";
    for (name, said) in by_each_way(&["sh", "-c", line]) {
        let (group, count) = said.trim().split_once('\n').unwrap();
        assert!(group.contains("hodei-") && count == "1", "{name}: {said}");
    }
}

/// Runs a shell line in a terminal of its own; returns the output and the duration.
fn in_a_terminal(line: &str) -> (String, Duration) {
    let line = line.replace("hodei", env!("CARGO_BIN_EXE_hodei"));
    let start = Instant::now();
    let mut script = Command::new("timeout");
    script.args(["-s", "KILL", "20", "script", "-qec", &line, "/dev/null"]).stdin(Stdio::null());
    let output = script.env_remove("HODEI_SERVER").output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), start.elapsed())
}

#[test]
fn a_job_has_no_terminal() {
    for line in [
        "hodei run -- sh -c 'read x </dev/tty'; echo ended with $?",
        "hodei run --pids 100 -- sh -c 'read x </dev/tty'; echo ended with $?",
        "hodei run -- sh -c 'echo to a terminal >/dev/tty; exit 2'; echo ended with $?",
        "hodei run -- sh -c 'stty -F /dev/tty sane || exit 2'; echo ended with $?",
    ] {
        let (said, took) = in_a_terminal(line);
        assert!(said.contains("ended with 2") && said.contains("/dev/tty"), "{line}: {said}");
        assert!(!said.contains("to a terminal"), "{line}: {said}");
        assert!(took < Duration::from_secs(10), "{line}: {took:?}");
    }
}

#[test]
fn a_parent_that_ignores_sigchld_changes_no_exit_code() {
    let line = format!("trap '' CHLD; exec {} run --shell 'echo once; exit 3'", env!("CARGO_BIN_EXE_hodei"));
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(3), &b"once\n"[..]), "{output:?}");
}
