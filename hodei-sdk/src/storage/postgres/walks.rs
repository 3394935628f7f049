//! The statement for one page of jobs: one index walk per state, independent of the size of the tables.

use hodei_core::job::JobStatus;
use hodei_core::port::JobFilter;

use crate::storage::shared::column;

/// Returns the statement for a page of some columns: $1 tenant, $2 after, $3 limit; with labels, $4 all of them as
/// JSON, then each label and its value.
pub(super) fn statement(columns: &str, filter: &JobFilter) -> String {
    let is_wanted = |status: &&JobStatus| filter.statuses.is_empty() || filter.statuses.contains(status);
    let (ended, open): (Vec<JobStatus>, Vec<JobStatus>) =
        JobStatus::ALL.iter().filter(is_wanted).partition(|status| status.is_terminal());
    let labels = filter.labels.len();
    let mut walks = Vec::new();
    if filter.statuses.is_empty() && labels == 0 {
        walks.push(walk("SELECT id FROM hodei.history WHERE tenant = $1 AND id < $2", "id"));
    } else {
        walks.extend(ended.iter().map(|status| walk_of_ended(column::status(*status), labels)));
    }
    if !open.is_empty() {
        walks.push(walk_of_open(&open, labels));
    }
    format!(
        "WITH page AS MATERIALIZED (SELECT id FROM ({}) walks ORDER BY id DESC LIMIT $3) {columns}\
         (SELECT o.id, o.tenant, o.record FROM page p JOIN hodei.jobs o ON o.id = p.id \
         UNION ALL SELECT h.id, h.tenant, h.record FROM page p JOIN hodei.history h ON h.id = p.id) j \
         JOIN hodei.specs s ON s.job = j.id ORDER BY j.id DESC LIMIT $3",
        walks.join(" UNION ALL ")
    )
}

fn walk(select: &str, id: &str) -> String {
    format!("({select} ORDER BY {id} DESC LIMIT $3)")
}

fn walk_of_ended(status: i16, labels: usize) -> String {
    if labels == 0 {
        let select =
            format!("SELECT id FROM hodei.history WHERE tenant = $1 AND status = {status} AND id < $2");
        return walk(&select, "id");
    }
    let others: String = (1..labels)
        .map(|label| {
            let at = 5 + 2 * label;
            format!(
                " AND EXISTS (SELECT 1 FROM hodei.ended_labels o WHERE o.tenant = $1 AND o.label = ${at} \
                 AND o.value = ${} AND o.status = {status} AND o.job = l.job)",
                at + 1
            )
        })
        .collect();
    // An older daemon does not know of these rows and may have left those of jobs that it forgot.
    let select = format!(
        "SELECT l.job AS id FROM hodei.ended_labels l WHERE l.tenant = $1 AND l.label = $5 AND l.value = $6 \
         AND l.status = {status} AND l.job < $2 AND EXISTS (SELECT 1 FROM hodei.history h WHERE h.id = l.job){others}"
    );
    walk(&select, "l.job")
}

fn walk_of_open(statuses: &[JobStatus], labels: usize) -> String {
    let statuses: Vec<String> = statuses.iter().map(|status| column::status(*status).to_string()).collect();
    let labels = if labels == 0 {
        ""
    } else {
        " AND EXISTS (SELECT 1 FROM hodei.specs s WHERE s.job = o.id AND s.labels @> $4::jsonb)"
    };
    let select = format!(
        "SELECT o.id FROM hodei.jobs o WHERE o.tenant = $1 AND o.id < $2 AND o.status IN ({}){labels}",
        statuses.join(", ")
    );
    walk(&select, "o.id")
}
