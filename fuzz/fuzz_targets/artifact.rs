//! Paths of workspaces, and artifacts as people name them: what is read stays inside, and comes back as it was written.
#![no_main]

use hodei_core::artifact::{ArtifactInput, ArtifactOutput, Digest, WorkspacePath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(path) = text.parse::<WorkspacePath>() {
        let inside = std::path::Path::new(path.as_str());
        assert!(inside.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{path}");
        assert_eq!(path.names().collect::<Vec<_>>().join("/"), path.as_str());
        assert_eq!(path.as_str().parse(), Ok(path));
    }
    if let Ok(output) = text.parse::<ArtifactOutput>() {
        assert_eq!(output.to_string().parse(), Ok(output));
    }
    if let Ok(input) = text.parse::<ArtifactInput>() {
        assert_eq!(input.to_string().parse(), Ok(input));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
});
