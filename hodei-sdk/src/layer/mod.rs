//! Decorators of ports: fault injection for tests, and guards around user code.

#[cfg(feature = "testing")]
pub(crate) mod chaos;
#[cfg(feature = "testing")]
pub(crate) mod delegate;
pub(crate) mod guard;
