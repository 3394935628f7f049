//! Calls of the C library that the standard library does not offer, such as `posix_spawn` with a new session.
//!
//! This is the only file of the project with unsafe code. Each block states why it is sound, and the interface is safe.
//! It needs glibc 2.34, for `posix_spawn_file_actions_addclosefrom_np`.
#![expect(
    unsafe_code,
    reason = "posix_spawn(3) and wait4(2) have no safe interface that sets all that a job needs"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_short};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;

/// The lowest descriptor that a program does not inherit.
const FIRST_CLOSED_FD: c_int = 3;

/// A program and its initial state. It leads a new session and process group, has the default disposition of every
/// signal, an empty signal mask, and only the descriptors 0 to 2. Everything else it inherits from the thread that
/// starts it.
#[derive(Debug)]
pub(in crate::executor) struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    dir: Option<CString>,
    stdio: [Arc<OwnedFd>; 3],
}

impl Program {
    /// Prepares the program at this absolute path. `argv` starts with its name. `dir` is its working directory, by
    /// default that of the caller. `stdio` becomes its standard input, output and error.
    ///
    /// # Errors
    /// `InvalidInput` if a text contains a zero byte, and the error of the system if no descriptors are left.
    pub(in crate::executor) fn new(
        path: &Path,
        argv: &[OsString],
        env: &BTreeMap<OsString, OsString>,
        dir: Option<&Path>,
        stdio: [Arc<OwnedFd>; 3],
    ) -> io::Result<Self> {
        let [stdin, stdout, stderr] = stdio;
        let variable = |(name, value): (&OsString, &OsString)| {
            text(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))
        };
        Ok(Self {
            path: text(path.as_os_str())?,
            argv: argv.iter().map(|argument| text(argument)).collect::<io::Result<_>>()?,
            env: env.iter().map(variable).collect::<io::Result<_>>()?,
            dir: dir.map(|dir| text(dir.as_os_str())).transpose()?,
            stdio: [above_standard(stdin)?, above_standard(stdout)?, above_standard(stderr)?],
        })
    }

    /// Starts the program. Blocks while the system loads it, and returns once it runs or has failed.
    ///
    /// # Errors
    /// The error of chdir(2) or execve(2); nothing runs then.
    pub(in crate::executor) fn start(&self) -> io::Result<Pid> {
        let attributes = Attributes::of_a_job()?;
        let mut actions = Actions::none()?;
        for (from, to) in self.stdio.iter().zip(0..) {
            actions.duplicate(from, to)?;
        }
        actions.close_from(FIRST_CLOSED_FD)?;
        if let Some(dir) = &self.dir {
            actions.change_dir(dir)?;
        }
        let (argv, env) = (pointers(&self.argv), pointers(&self.env));
        let mut pid = 0;
        // SAFETY: every pointer is to a value that lives until the call has returned, both arrays end with a null
        // pointer, and posix_spawn writes to none of the strings.
        check(unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.path.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                argv.as_ptr(),
                env.as_ptr(),
            )
        })?;
        Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn returned no process"))
    }
}

/// The usage of a child and of its descendants that were waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::executor) struct Used {
    /// Processor time in user and system mode.
    pub(in crate::executor) cpu: Duration,
    /// The largest resident set of one process, in bytes.
    pub(in crate::executor) peak_memory_bytes: u64,
}

/// Waits for the end of a child and releases its number.
///
/// # Errors
/// `ECHILD` if it is not a child of this process, or another call reaped it.
pub(in crate::executor) fn reap(pid: Pid) -> io::Result<Used> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: a null status is allowed, and only this call writes to the usage.
        let reaped =
            unsafe { libc::wait4(pid.as_raw_nonzero().get(), ptr::null_mut(), 0, usage.as_mut_ptr()) };
        if reaped >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all zeroes is a valid value, and wait4 has overwritten it.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_usec).unwrap_or(0).saturating_mul(1000),
        )
    };
    let peak_kilobytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
    Ok(Used {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak_memory_bytes: peak_kilobytes.saturating_mul(1024),
    })
}

/// Marks all open descriptors beyond the standard streams as not inheritable. For the first line of a `main`: this
/// program may have inherited foreign descriptors, such as that of a lock. Jobs never inherit any. Has no effect before
/// Linux 5.11.
pub fn inherit_no_descriptors() {
    let first = libc::c_uint::try_from(FIRST_CLOSED_FD).unwrap_or(libc::c_uint::MAX);
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(0);
    if flags != 0 {
        // SAFETY: with this flag the call closes nothing: it sets the close-on-exec flag of each descriptor.
        unsafe { libc::close_range(first, libc::c_uint::MAX, flags) };
    }
}

/// Restores the default action of SIGCHLD, so that children can be waited for. For the first line of a `main`: if the
/// parent of this program ignores SIGCHLD, the kernel would discard the exit status of children.
pub fn wait_for_children() {
    // SAFETY: the default action is not a function, and this program has no handler yet.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Makes the allocator return each allocation of 256 KiB or more to the system when it is freed, in this process from
/// now on. By default glibc raises that threshold to the largest allocation ever freed, and a small live allocation
/// then keeps the large ones before it: a daemon that took 1,000 jobs of 1 MB each held 2.7 GB, and 0.1 GB with this.
pub fn return_large_memory() {
    // SAFETY: the call changes a number of the allocator, under its lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
    }
}

/// Size from which allocations are returned. Buffers of output are smaller.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: c_int = 256 << 10;

/// Attributes of a spawn, destroyed when dropped.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn of_a_job() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initializes the value, unless it fails.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let this = &raw mut attributes.0;
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        let flags = flags as c_short | libc::POSIX_SPAWN_SETSID;
        let (none, all) = signal_sets();
        // SAFETY: the attributes are initialized, and the calls copy the sets.
        check(unsafe { libc::posix_spawnattr_setflags(this, flags) })?;
        // SAFETY: as above.
        check(unsafe { libc::posix_spawnattr_setsigmask(this, &raw const none) })?;
        // SAFETY: as above.
        check(unsafe { libc::posix_spawnattr_setsigdefault(this, &raw const all) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialized, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// Returns the set of no signals and that of all signals. sigfillset(3) omits the signals that glibc uses itself, which
/// posix_spawn would then leave ignored in the program.
fn signal_sets() -> (libc::sigset_t, libc::sigset_t) {
    let (mut none, mut all) = (MaybeUninit::zeroed(), MaybeUninit::zeroed());
    // SAFETY: a set of signals is an array of bits, of which each value is valid; SIGKILL and SIGSTOP, which keep their
    // disposition, are skipped by posix_spawn.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        ptr::write_bytes(all.as_mut_ptr(), 0xff, 1);
        (none.assume_init(), all.assume_init())
    }
}

/// Actions of a spawn, destroyed when dropped.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn none() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initializes the value, unless it fails.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn duplicate(&mut self, from: &OwnedFd, to: c_int) -> io::Result<()> {
        // SAFETY: the actions are initialized; descriptors are used in the child only.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from.as_raw_fd(), to) })
    }

    fn close_from(&mut self, first: c_int) -> io::Result<()> {
        // SAFETY: as above; the child has descriptors of its own.
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, first) })
    }

    fn change_dir(&mut self, dir: &CStr) -> io::Result<()> {
        // SAFETY: as above; the call copies the path.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, dir.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: they are initialized, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// Returns pointers to the strings, terminated by a null pointer. Valid as long as the strings are.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

fn check(number: c_int) -> io::Result<()> {
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(number)) }
}

fn text(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "an argument, a variable or a path contains a zero byte")
    })
}

/// Returns the file with a descriptor of 3 or more, which the three standard ones do not overwrite: a host program may
/// have closed its own standard input.
fn above_standard(file: Arc<OwnedFd>) -> io::Result<Arc<OwnedFd>> {
    if file.as_raw_fd() >= FIRST_CLOSED_FD {
        return Ok(file);
    }
    Ok(Arc::new(rustix::io::fcntl_dupfd_cloexec(&file, FIRST_CLOSED_FD)?))
}
