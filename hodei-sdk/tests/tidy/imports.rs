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
    ("hodei-sdk/src/app/", &["crate::testing", "crate::platform", "crate::wire", "sqlx::", "tonic::"]),
    ("hodei-sdk/src/seam/", &["crate::app", "crate::platform", "crate::wire"]),
    ("hodei-sdk/src/client/", &["crate::app", "crate::platform"]),
    ("hodei-sdk/src/grpc/", &["crate::seam"]),
    ("hodei-sdk/src/wire/", &["crate::app", "crate::platform"]),
    ("hodei-sdk/src/storage/", &["crate::app", "crate::seam", "crate::platform"]),
    ("hodei-sdk/src/bus/", &["crate::app", "crate::seam", "crate::platform"]),
    ("hodei-sdk/src/provider/", &["crate::app", "crate::seam", "crate::platform"]),
    ("hodei-sdk/src/secrets/", &["crate::app", "crate::seam", "crate::platform"]),
    ("hodei-sdk/src/artifacts/", &["crate::app", "crate::seam", "crate::platform"]),
    ("hodei-sdk/src/layer/", &["crate::app", "crate::seam", "crate::platform"]),
];

/// Folders of the SDK that never name each other: the adapters, and what faces outward.
const APART: [&str; 8] = ["storage", "bus", "provider", "secrets", "artifacts", "layer", "client", "grpc"];
/// Folders of the SDK that name none of those.
const INNER: [&str; 2] = ["app", "seam"];

#[test]
fn adapters_stand_apart() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let Some(folder) = path.strip_prefix("hodei-sdk/src/").and_then(|path| path.split('/').next()) else {
            continue;
        };
        if !APART.contains(&folder) && !INNER.contains(&folder) {
            continue;
        }
        for other in APART.iter().filter(|other| **other != folder) {
            let name = format!("crate::{other}::");
            if code_lines(product(&text)).any(|line| line.contains(&name)) {
                broken.push(format!("{path} names {name}, which no file in {folder}/ may"));
            }
        }
    }
    report(&broken);
}

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
