//! Decorators of ports.

#[cfg(feature = "testing")]
pub(crate) mod chaos;
#[cfg(feature = "testing")]
pub(crate) mod delegate;
pub(crate) mod guard;
