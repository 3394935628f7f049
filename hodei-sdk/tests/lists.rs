//! The size of every answer is bounded: lists, events and watches of jobs with large inputs, for a client with
//! defaults.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over a real server and real time")]

#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;

use hodei_proto::v1;
use hodei_proto::v1::access_service_client::AccessServiceClient;
use hodei_proto::v1::job_execution_service_client::JobExecutionServiceClient;
use hodei_sdk::access::{Role, TokenTerms};
use hodei_sdk::job::TenantId;
use hodei_sdk::port::{FeedCursor, JobFilter};
use hodei_sdk::{Hodei, JobSpec};
use prost::Message;
use served::{Served, TOKEN, within};
use tonic::Request;
use tonic::transport::Channel;

/// Maximum bytes of a message that a gRPC client accepts by default.
const DEFAULT_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes of the input of a job.
const INPUT_BYTES: usize = 1 << 20;

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    request
}

async fn channel(served: &Served) -> Channel {
    Channel::from_shared(served.url.clone()).unwrap().connect().await.unwrap()
}

/// Returns the peak memory of this process since the last call, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().to_owned();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Submits waiting jobs, each with an input, a script or an environment of about a megabyte.
async fn submit_large(hodei: &Hodei, count: usize) {
    let far = hodei_sdk::time::Timestamp::from_micros(4_000_000_000_000_000);
    for number in 0..count {
        let spec = match number % 4 {
            0 => JobSpec::script(format!("#!/bin/sh\n{}", "#".repeat(INPUT_BYTES - 100))),
            1 => JobSpec::command(["true"]).env("LONG", "x".repeat(100_000)).stdin(vec![7; INPUT_BYTES]),
            _ => JobSpec::command(["cat"]).stdin(vec![b'x'; INPUT_BYTES]),
        };
        hodei.submit(spec.not_before(far).build().unwrap()).await.unwrap();
    }
}

async fn every_answer_is_bounded(served: &Served, count: usize) {
    submit_large(&served.hodei, count).await;
    let mut jobs = JobExecutionServiceClient::new(channel(served).await);
    peak();
    let before = peak();
    let (mut listed, mut token) = (BTreeSet::new(), String::new());
    loop {
        let request = v1::ListRequest { page_size: 1000, page_token: token, ..v1::ListRequest::default() };
        let answer = jobs.list(asked(request)).await.unwrap().into_inner();
        assert!(answer.encoded_len() < DEFAULT_MESSAGE_BYTES);
        for job in answer.jobs {
            let spec = job.spec.unwrap();
            assert!(spec.stdin.is_empty() && spec.env.is_empty() && spec.encoded_len() < 4096);
            listed.insert(job.id);
        }
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), count);
    let grown = peak().saturating_sub(before);
    assert!(grown < 40, "a list of {count} MB took {grown} MiB");
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let request = v1::ListEventsRequest { cursor, limit: 1000, ..v1::ListEventsRequest::default() };
        let answer = jobs.list_events(asked(request)).await.unwrap().into_inner();
        if answer.events.is_empty() && seen >= count * 2 {
            break;
        }
        seen += answer.events.len();
        assert!(answer.events.is_empty() || answer.events.len() < 100);
        cursor = answer.next_cursor;
    }
    // All changes since the beginning, and each job by its id.
    let request = v1::WatchRequest { cursor: Some(String::new()), ..v1::WatchRequest::default() };
    let mut watched = jobs.watch(asked(request)).await.unwrap().into_inner();
    let mut left = listed.clone();
    while !left.is_empty() {
        for job in within(watched.message()).await.unwrap().unwrap().jobs {
            left.remove(&job.id);
        }
    }
    let cursors = listed.iter().map(|id| v1::JobCursor { job_id: id.clone(), after_version: 0 }).collect();
    let request = v1::WatchRequest { jobs: cursors, ..v1::WatchRequest::default() };
    let mut watched = jobs.watch(asked(request)).await.unwrap().into_inner();
    while !listed.is_empty() {
        for job in within(watched.message()).await.unwrap().unwrap().jobs {
            listed.remove(&job.id);
        }
    }
    // The list of a handle reads all pages.
    let filter = JobFilter { limit: 5000, ..JobFilter::default() };
    for hodei in [&served.connect().await, &served.hodei] {
        let page = hodei.jobs().list(filter.clone()).await.unwrap();
        assert_eq!((page.jobs.len(), page.next), (count, None));
        assert!(!hodei.events().read(&FeedCursor::default(), 10).await.unwrap().events.is_empty());
    }
}

async fn served_on(url: &str) -> Served {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    Served::of(listener, Hodei::open(url).await.unwrap())
}

/// One test for both stores, since each measures the memory of the process.
#[tokio::test(flavor = "multi_thread")]
async fn answers_about_jobs_with_large_inputs_are_bounded() {
    let count = std::env::var("HODEI_LISTED").map_or(6, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let served = served_on(&format!("sqlite:{}", dir.path().display())).await;
    every_answer_is_bounded(&served, count).await;
    served.end().await;
    if let Some(server) = postgres::server() {
        let served = served_on(&server.database().await).await;
        every_answer_is_bounded(&served, count).await;
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_listed_in_pages() {
    let served = Served::local().await;
    let terms = TokenTerms { name: "n".repeat(120), role: Role::Viewer, tenant: TenantId::new("t") };
    for _ in 0..8000 {
        served.hodei.tokens().create(terms.clone(), None).await.unwrap();
    }
    let mut access = AccessServiceClient::new(channel(&served).await);
    let answer = access.list_tokens(asked(v1::ListTokensRequest::default())).await.unwrap().into_inner();
    assert!(answer.encoded_len() < DEFAULT_MESSAGE_BYTES / 2 && !answer.next_page_token.is_empty());
    assert_eq!(served.connect().await.tokens().list().await.unwrap().len(), 8000);
    served.end().await;
}
