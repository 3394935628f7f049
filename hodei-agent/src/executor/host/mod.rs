//! The host side of the executor: processes, marks, control groups and removal of files. Nothing here depends on job
//! specs.

pub(in crate::executor) mod account;
pub(in crate::executor) mod cgroup;
pub(in crate::executor) mod children;
pub(in crate::executor) mod main_process;
pub(in crate::executor) mod marks;
pub(in crate::executor) mod memory_score;
pub(in crate::executor) mod mounts;
pub(in crate::executor) mod names;
pub(in crate::executor) mod peak;
pub(in crate::executor) mod pidfd;
pub(in crate::executor) mod posix;
pub(in crate::executor) mod procfs;
pub(in crate::executor) mod removal;
pub(in crate::executor) mod survivors;
