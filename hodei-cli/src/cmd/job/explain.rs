//! `hodei job explain`: shows the scheduling decisions about a job in words.

use hodei_sdk::event::Charge;
use hodei_sdk::job::{JobState, WaitReason};
use hodei_sdk::scheduling::{Behind, Placement, SchedulingDecision};
use hodei_sdk::{JobStatus, Outcome};
use serde_json::{Value, json};

use crate::cmd::job::place::OneArgs;
use crate::error::CliError;
use crate::job_json::job_json;
use crate::target::Target;
use crate::term::show::{Format, lines, print, seconds, shown, table, visible};

pub(super) async fn run(target: &Target, format: Format, args: OneArgs) -> Result<u8, CliError> {
    let hodei = target.open(args.place.dir()).await?;
    let decision = hodei.jobs().explain(args.id).await?;
    let is_waiting = decision.job.status() == JobStatus::Pending;
    let troubles = if is_waiting { hodei.queue().status().await?.troubles } else { Vec::new() };
    explain(&decision, &troubles, format)?;
    Ok(0)
}

/// Prints the decisions about a job. For a job that waits, `troubles` are the reasons why no worker comes.
fn explain(decision: &SchedulingDecision, troubles: &[String], format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return print(&format!("{}\n", decision_json(decision, troubles)));
    }
    let job = &decision.job;
    let mut text = format!("{} ({}) is {}", job.id(), shown(&job.spec().name()), job.status());
    text.push_str(&format!("{}.\n", why(decision)));
    for trouble in troubles {
        text.push_str(&format!("{}.\n", visible(trouble)));
    }
    if decision.placements.is_empty() {
        text.push_str("It has not been assigned to a worker.\n");
        return print(&text);
    }
    let mut table =
        table(&["ATTEMPT", "WORKER", "ASSIGNED", "STARTED", "ENDED", "SCORE", "CHARGED TO", "RESULT"]);
    for placement in &decision.placements {
        let end = placement.end.as_ref();
        let time =
            |at: Option<hodei_sdk::time::Timestamp>| at.map_or("-".into(), |at| seconds(&at.to_string()));
        table.add_row([
            placement.attempt.to_string(),
            placement.worker.to_string(),
            time(Some(placement.assigned_at)),
            time(placement.started_at),
            time(end.map(|end| end.at)),
            score(placement),
            end.and_then(|end| end.charge).map_or("-", charged).to_owned(),
            result(placement),
        ]);
    }
    text.push_str(&lines(&table));
    print(&text)
}

/// Returns the text behind the job's state: since when, and why.
fn why(decision: &SchedulingDecision) -> String {
    let job = &decision.job;
    match job.state() {
        JobState::Created { until, reason: WaitReason::NotBefore } => {
            format!(": it must not run before {until}")
        }
        JobState::Created { until, reason: WaitReason::Backoff } => {
            format!(": its attempt {} failed, the next is due at {until}", job.attempt())
        }
        JobState::Pending { since } => match &decision.waiting {
            Some(class) if class.jobs > 1 => {
                let (cause, others) = (class.cause.as_str(), class.jobs - 1);
                {
                    let first = class.head.map(|head| format!(", {head} is first")).unwrap_or_default();
                    format!(" since {since}: {cause} ({others} more wait for the same reason{first})")
                }
            }
            Some(class) => format!(" since {since}: {}", class.cause.as_str()),
            None => format!(" since {since}: it can run, and the next round of scheduling assigns it"),
        },
        JobState::Assigned(at) if at.cancel_requested => ": it was asked to stop".into(),
        JobState::Assigned(_) => decision
            .behind
            .as_ref()
            .map_or_else(|| ": a worker has it, and has not reported its start".into(), queue_place),
        JobState::Running { assignment, .. } if assignment.cancel_requested => {
            ": it was asked to stop".into()
        }
        JobState::Running { started_at, .. } => format!(" since {started_at}"),
        JobState::Ended(ending) => format!(" since {}{}", ending.at, verdict(&ending.outcome)),
    }
}

/// Describes the job's place in the queue of its worker.
fn queue_place(behind: &Behind) -> String {
    let next = if behind.is_next { "next " } else { "" };
    let job = behind.job.map_or_else(|| "a job of another tenant".to_owned(), |job| format!("job {job}"));
    let others = match behind.others {
        0 => String::new(),
        1 => " and 1 other".to_owned(),
        others => format!(" and {others} others"),
    };
    format!(": {next}on worker {}, behind {job}{others}", behind.worker)
}

fn verdict(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(cause) => format!(": {}", visible(&cause.to_string())),
        _ => String::new(),
    }
}

/// Describes the result of an attempt: the last column, since it may be long.
fn result(placement: &Placement) -> String {
    match placement.end.as_ref().map(|end| &end.outcome) {
        None => "-".into(),
        Some(None) if placement.started_at.is_some() => "stopped by the platform".into(),
        Some(None) => "given back".into(),
        Some(Some(Outcome::Failed(cause))) => visible(&cause.to_string()),
        Some(Some(Outcome::Succeeded)) => "succeeded".into(),
        Some(Some(Outcome::Cancelled)) => "cancelled".into(),
        Some(Some(Outcome::TimedOut)) => "timed out".into(),
    }
}

fn charged(charge: Charge) -> &'static str {
    match charge {
        Charge::User => "the job's retries",
        Charge::Infrastructure => "the platform's retries",
        Charge::Nobody => "no budget",
    }
}

fn score(placement: &Placement) -> String {
    let parts: Vec<_> =
        placement.score.parts.iter().map(|(strategy, part)| format!("{strategy} {part:.2}")).collect();
    match parts.len() {
        0 => "-".into(),
        1 => parts.concat(),
        _ => format!("{:.2} = {}", placement.score.total(), parts.join(" + ")),
    }
}

fn decision_json(decision: &SchedulingDecision, troubles: &[String]) -> Value {
    let placements: Vec<_> = decision.placements.iter().map(placement_json).collect();
    let waiting = match (decision.job.state(), &decision.waiting) {
        (JobState::Created { until, reason }, _) => {
            Some(json!({ "why": waits_for(*reason), "until": until.to_string() }))
        }
        (_, Some(class)) => Some(json!({
            "why": class.cause.as_str(),
            "head": class.head.map(|head| head.to_string()),
            "jobs": class.jobs,
        })),
        _ => None,
    };
    let behind = decision.behind.as_ref().map(|behind| {
        json!({
            "worker_id": behind.worker.to_string(),
            "is_next": behind.is_next,
            "job_id": behind.job.map(|job| job.to_string()),
            "others": behind.others,
        })
    });
    let (job, placed) = (job_json(&decision.job), placements);
    json!({ "job": job, "waiting": waiting, "behind": behind, "troubles": troubles, "placements": placed })
}

fn waits_for(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::NotBefore => "it must not run before that time",
        WaitReason::Backoff => "its last attempt failed, and the next is due at that time",
    }
}

fn placement_json(placement: &Placement) -> Value {
    let end = placement.end.as_ref();
    let result = end.map(|end| match &end.outcome {
        None if placement.started_at.is_some() => "STOPPED",
        None => "GIVEN_BACK",
        Some(Outcome::Succeeded) => "SUCCEEDED",
        Some(Outcome::Failed(_)) => "FAILED",
        Some(Outcome::Cancelled) => "CANCELLED",
        Some(Outcome::TimedOut) => "TIMED_OUT",
    });
    let cause = end.and_then(|end| match &end.outcome {
        Some(Outcome::Failed(cause)) => Some(cause),
        _ => None,
    });
    let parts: serde_json::Map<String, Value> =
        placement.score.parts.iter().map(|(strategy, part)| (strategy.to_string(), json!(part))).collect();
    json!({
        "attempt": placement.attempt,
        "worker_id": placement.worker.to_string(),
        "assigned_at": placement.assigned_at.to_string(),
        "started_at": placement.started_at.map(|at| at.to_string()),
        "ended_at": end.map(|end| end.at.to_string()),
        "result": result,
        "cause": cause.map(|cause| cause.kind().as_str()),
        "message": cause.map(ToString::to_string),
        "charged_to": end.and_then(|end| end.charge),
        "score": placement.score.total(),
        "score_parts": parts,
    })
}
