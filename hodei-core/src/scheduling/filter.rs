//! Whether a placement class can run on a worker or provider at all, by labels, size, image, secrets and limits.

use super::context::WorkerInfo;
use super::queue::PlacementClass;
use crate::job::{JobResources, Labels};
use crate::provider::ProviderProfile;

/// Whether labels and size let a class run on a worker at all, even on an empty one.
pub(super) fn suits(class: &PlacementClass, labels: &Labels, size: &JobResources) -> bool {
    class.resources.exceeds(size).is_none() && class.constraints.iter().all(|c| c.is_met_by(labels))
}

/// Whether a class could run on a worker; `profile` is that of its provider, if it is known.
pub(super) fn suits_worker(
    class: &PlacementClass,
    info: &WorkerInfo,
    profile: Option<&ProviderProfile>,
) -> bool {
    let is_plain = !class.image && class.secrets.is_empty();
    profile.map_or(is_plain, |profile| may_take(class, profile, info.worker.labels()))
        && suits(class, info.worker.labels(), &info.worker.capacity().resources)
}

/// Whether a class could run on the workers that a provider creates.
pub(super) fn suits_provider(class: &PlacementClass, profile: &ProviderProfile) -> bool {
    may_take(class, profile, &profile.labels) && suits(class, &profile.labels, &profile.capacity.resources)
}

fn may_take(class: &PlacementClass, profile: &ProviderProfile, labels: &Labels) -> bool {
    let is_held = || class.resources.limit().is_none() || profile.may_be_limited(labels);
    (!class.image || profile.runs_images)
        && is_held()
        && class.secrets.iter().all(|secret| profile.may_have(secret))
}
