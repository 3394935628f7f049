//! Test tools: conformance suites for adapters, scripted workers, fault injection, and a simulation of the whole
//! platform.

pub mod conformance;
pub mod simulation;

pub use crate::layer::chaos::{ChaosBus, ChaosLogStore, ChaosStore, Fault, Faults};
pub use crate::provider::test::{ScriptedJob, TestCloud, TestWorkerProvider, WorkerFault};
