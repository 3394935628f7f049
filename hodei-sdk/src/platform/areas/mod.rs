//! What the handle hands out: one area a subject, each over its seam.

mod artifacts;
mod events;
mod jobs;
mod queue;
mod secrets;
mod tokens;
mod workers;

pub use artifacts::Artifacts;
pub use events::Events;
pub use jobs::Jobs;
pub use queue::Queue;
pub use secrets::Secrets;
pub use tokens::Tokens;
pub use workers::Workers;
