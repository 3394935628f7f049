//! The areas of the public handle, one for each subject. Each calls its seam.

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
