//! Which folder may name what.

use crate::sources::{code_lines, product, report, sources};

/// A folder, and the words that no file in it may have.
const LAWS: &[(&str, &[&str])] = &[
    (
        "hodei-core/src/",
        &[
            "tokio::",
            "sqlx::",
            "tonic::",
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "SystemTime",
            "Instant",
        ],
    ),
    ("hodei-core/src/job/", &["crate::scheduling", "crate::port", "crate::provider"]),
    ("hodei-core/src/port/", &["crate::scheduling", "crate::invariant"]),
    ("hodei-agent/src/", &["hodei_sdk", "std::sync::mpsc"]),
    ("hodei-agent/src/session/ledger.rs", &["crate::connection", "Clock"]),
    (
        "hodei-sdk/src/app/",
        &[
            "crate::storage",
            "crate::bus",
            "crate::provider",
            "crate::layer",
            "crate::testing",
            "crate::platform",
            "crate::grpc",
            "crate::client",
            "crate::wire",
            "sqlx::",
            "tonic::",
        ],
    ),
    ("hodei-sdk/src/seam/", &["crate::app", "crate::storage", "crate::bus", "crate::client", "crate::grpc"]),
    (
        "hodei-sdk/src/client/",
        &["crate::storage", "crate::bus", "crate::provider", "crate::layer", "crate::grpc"],
    ),
    (
        "hodei-sdk/src/storage/",
        &["crate::app", "crate::bus", "crate::provider", "crate::layer", "crate::platform"],
    ),
    (
        "hodei-sdk/src/bus/",
        &["crate::app", "crate::storage", "crate::provider", "crate::layer", "crate::platform"],
    ),
    (
        "hodei-sdk/src/provider/",
        &["crate::app", "crate::storage", "crate::bus", "crate::layer", "crate::platform"],
    ),
    (
        "hodei-sdk/src/layer/",
        &["crate::app", "crate::storage", "crate::bus", "crate::provider", "crate::platform"],
    ),
];

#[test]
fn imports_point_inward() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (folder, names) in LAWS.iter().filter(|(folder, _)| path.starts_with(folder)) {
            let own = product(&text);
            for name in names.iter().filter(|name| code_lines(own).any(|line| line.contains(**name))) {
                broken.push(format!("{path} names {name}, which nothing in {folder} may"));
            }
        }
    }
    report(&broken);
}
