//! One suite a port. Call it with a maker of fresh, empty instances of your own adapter.
