//! The epoch of a lease.

/// The fencing number of a lease; 0 before the lease is first taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);
