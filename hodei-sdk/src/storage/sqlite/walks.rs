//! The statement for one page of jobs: one index walk per state, independent of the size of the table. Also the
//! interruption of abandoned statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hodei_core::job::JobStatus;
use hodei_core::port::JobFilter;

use crate::storage::shared::column;

/// Returns the statement for a page of `select`: ?1 tenant, ?2 after, ?3 limit, then each label and its value.
pub(super) fn statement(select: &str, filter: &JobFilter) -> String {
    if filter.statuses.is_empty() && filter.labels.is_empty() {
        return format!("{select} WHERE tenant = ?1 AND jobs.id < ?2 ORDER BY jobs.id DESC LIMIT ?3");
    }
    let is_wanted = |status: &&JobStatus| filter.statuses.is_empty() || filter.statuses.contains(status);
    let (ended, open): (Vec<JobStatus>, Vec<JobStatus>) =
        JobStatus::ALL.iter().filter(is_wanted).partition(|status| status.is_terminal());
    let mut walks: Vec<String> =
        ended.iter().map(|status| walk_of_ended(column::status(*status), filter.labels.len())).collect();
    if !open.is_empty() {
        walks.push(walk_of_open(&open, filter.labels.len()));
    }
    let walks: Vec<String> = walks.iter().map(|walk| format!("SELECT id FROM ({walk})")).collect();
    format!(
        "{select} WHERE jobs.id IN (SELECT id FROM ({}) ORDER BY id DESC LIMIT ?3) ORDER BY jobs.id DESC LIMIT ?3",
        walks.join(" UNION ALL ")
    )
}

/// Returns the number of a label's parameter.
fn parameter(label: usize) -> usize {
    4 + 2 * label
}

fn walk_of_ended(status: i16, labels: usize) -> String {
    if labels == 0 {
        return format!(
            "SELECT id FROM jobs WHERE tenant = ?1 AND status = {status} AND ended_at IS NOT NULL AND id < ?2 \
             ORDER BY id DESC LIMIT ?3"
        );
    }
    let others: String = (1..labels)
        .map(|label| {
            let at = parameter(label);
            format!(
                " AND EXISTS (SELECT 1 FROM ended_labels AS o WHERE o.tenant = ?1 AND o.label = ?{at} \
                 AND o.value = ?{} AND o.status = {status} AND o.job = l.job)",
                at + 1
            )
        })
        .collect();
    // An older version does not know of these rows and may have left those of jobs that it forgot.
    format!(
        "SELECT l.job AS id FROM ended_labels AS l WHERE l.tenant = ?1 AND l.label = ?4 AND l.value = ?5 \
         AND l.status = {status} AND l.job < ?2 AND EXISTS (SELECT 1 FROM jobs WHERE jobs.id = l.job){others} \
         ORDER BY l.job DESC LIMIT ?3"
    )
}

fn walk_of_open(statuses: &[JobStatus], labels: usize) -> String {
    let statuses: Vec<String> = statuses.iter().map(|status| column::status(*status).to_string()).collect();
    let labels: String = (0..labels)
        .map(|label| {
            let at = parameter(label);
            format!(
                " AND EXISTS (SELECT 1 FROM json_each(spec, '$.labels') AS label \
                 WHERE label.key = ?{at} AND label.value = ?{})",
                at + 1
            )
        })
        .collect();
    format!(
        "SELECT jobs.id AS id FROM jobs JOIN specs ON specs.job = jobs.id WHERE tenant = ?1 AND ended_at IS NULL \
         AND jobs.id < ?2 AND status IN ({}){labels} ORDER BY jobs.id DESC LIMIT ?3",
        statuses.join(", ")
    )
}

/// Interrupts the statement of a reader that is dropped before the answer.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    is_gone: Arc<AtomicBool>,
    is_answered: bool,
}

impl Interrupt {
    /// Returns the progress handler, which says whether the statement may continue.
    pub(super) fn goes_on(&self) -> impl FnMut() -> bool + Send + 'static {
        let is_gone = self.is_gone.clone();
        move || !is_gone.load(Ordering::Relaxed)
    }

    /// Records that the answer has arrived.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        if !self.is_answered {
            self.is_gone.store(true, Ordering::Relaxed);
        }
    }
}
