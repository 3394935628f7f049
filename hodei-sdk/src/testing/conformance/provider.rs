//! Conformance suite for providers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{ArtifactParts, ConnectError, Connection, TransferError};
use hodei_core::id::{StoreId, WorkerId};
use hodei_core::port::{Clock, ClockExt, WorkerProvider};
use hodei_proto::v1;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::world::Maker;
use crate::clock::SystemClock;
use crate::ids::SystemIds;
use crate::link::WorkerDoor;
use crate::provider::ProviderContext;
use crate::task::Tasks;

/// A door that records which workers connect.
#[derive(Debug, Default)]
struct RecordingDoor(Mutex<Vec<WorkerId>>);

#[async_trait]
impl WorkerDoor for RecordingDoor {
    async fn open(&self, worker: WorkerId, _: Uuid) -> Result<Connection, ConnectError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        Err(ConnectError::Unavailable("the suite only records connections".into()))
    }

    async fn fetch(&self, _: WorkerId, _: v1::FetchRequest) -> Result<ArtifactParts, TransferError> {
        Err(TransferError::Fenced)
    }

    async fn store(&self, _: WorkerId, _: mpsc::Receiver<v1::StoreRequest>) -> Result<(), TransferError> {
        Err(TransferError::Fenced)
    }

    async fn issue_token(&self, worker: WorkerId) -> Result<String, ConnectError> {
        Ok(format!("{worker}.no-server-takes-it"))
    }
}

/// Checks the contract of a [`WorkerProvider`] whose agents connect through the door of its context. `make` returns a
/// fresh one.
///
/// # Panics
/// When the provider breaks the contract.
pub async fn provider<P: WorkerProvider>(make: impl Fn(ProviderContext) -> P) {
    let (maker, clock, tasks) = (Maker::new(4), SystemClock::default(), Tasks::new());
    let owner = StoreId::from_uuid(maker.uuid());
    let door = Arc::new(RecordingDoor::default());
    let (door_of, clock_of, ids) = (door.clone(), Arc::new(clock), Arc::new(SystemIds::default()));
    let provider = make(ProviderContext {
        machine: None,
        is_durable: true,
        owner,
        door: door_of,
        clock: clock_of,
        ids,
        tasks: tasks.clone(),
        exits: Arc::default(),
        host: None,
    });
    let profile = provider.profile();
    assert!(!profile.name.is_empty() && profile.max_workers > 0 && profile.capacity.slots > 0);
    assert_eq!(provider.list(owner).await.expect("a list"), [], "a fresh provider has no worker");

    let mut order = maker.order(owner);
    order.capacity = profile.capacity;
    let reference = provider.create(&order).await.expect("a worker");
    assert_eq!(provider.create(&order).await.expect("the same"), reference, "an order is carried out once");
    let listed = provider.list(owner).await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].worker, listed[0].order, &listed[0].exited), (order.worker, order.id, &None));
    let others = provider.list(StoreId::from_uuid(maker.uuid())).await.expect("a list");
    assert_eq!(others, [], "a worker belongs to its owner alone");
    let has_connected = || door.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&order.worker);
    for _ in 0..500 {
        if has_connected() {
            break;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    assert!(has_connected(), "its agent connects");

    provider.destroy(order.worker, Duration::ZERO).await.expect("an end");
    assert_eq!(provider.list(owner).await.expect("a list"), []);
    provider.destroy(order.worker, Duration::ZERO).await.expect("a second destroy of the worker");
    provider
        .destroy(WorkerId::from_uuid(maker.uuid()), Duration::ZERO)
        .await
        .expect("a destroy of an unknown worker");
    clock.timeout(Duration::from_secs(10), tasks.shutdown()).await.expect("its tasks end with the platform");
}
