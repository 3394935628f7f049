//! Limits the size of answers: by default, gRPC clients accept 4 MiB.

use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::job::Job;
use hodei_proto::convert::job_to_wire;
use hodei_proto::v1;
use prost::Message;

use crate::wire::event::event_to_wire;

/// Maximum bytes of one answer; a single larger item is sent alone.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Maximum bytes of a spec that an event has in full. As JSON it may have six times as many.
const MAX_EVENT_SPEC_BYTES: usize = 512 << 10;

/// Returns the number of leading items that fit into one answer; at least one if there is any.
pub(super) fn fitting<M: Message>(items: &[M]) -> usize {
    crate::batch::fitting(items.iter().map(Message::encoded_len), items.len(), MAX_ANSWER_BYTES)
}

/// Sorts items by key. Returns the page after the token `after`, and the token of the next page, empty at the end.
pub(super) fn page<M: Message>(
    items: impl IntoIterator<Item = M>,
    after: &str,
    key: impl Fn(&M) -> &str,
) -> (Vec<M>, String) {
    let mut items: Vec<M> = items.into_iter().filter(|item| after.is_empty() || key(item) > after).collect();
    items.sort_by(|one, other| key(one).cmp(key(other)));
    let fits = fitting(&items);
    let next = if fits < items.len() { items.get(fits.wrapping_sub(1)).map(&key) } else { None };
    let next = next.unwrap_or_default().to_owned();
    items.truncate(fits);
    (items, next)
}

/// Returns the jobs that fit into one answer, and whether these are all.
pub(super) fn jobs<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> (Vec<v1::Job>, bool) {
    let mut jobs: Vec<v1::Job> = jobs.into_iter().map(job_to_wire).collect();
    let (all, fits) = (jobs.len(), fitting(&jobs));
    jobs.truncate(fits);
    (jobs, fits == all)
}

/// Returns the wire form of an event. A spec over the limit is shortened as in lists of jobs.
pub(super) fn event(envelope: &Envelope) -> v1::Event {
    match &envelope.event {
        DomainEvent::JobCreated { job, tenant, spec, retry_of } if spec.size() > MAX_EVENT_SPEC_BYTES => {
            let (tenant, spec) = (tenant.clone(), std::sync::Arc::new(spec.listing()));
            let event = DomainEvent::JobCreated { job: *job, tenant, spec, retry_of: *retry_of };
            event_to_wire(&Envelope { event, ..envelope.clone() })
        }
        _ => event_to_wire(envelope),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_end() {
        let item = |number: usize| v1::Token {
            id: format!("{number:06}"),
            name: "n".repeat(1000),
            ..v1::Token::default()
        };
        let all = || (0..3000).rev().map(item);
        let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (items, next) = page(all(), &after, |token| &token.id);
            assert!(items.iter().map(Message::encoded_len).sum::<usize>() <= MAX_ANSWER_BYTES);
            seen.extend(items.into_iter().map(|token| token.id));
            pages += 1;
            if next.is_empty() {
                break;
            }
            after = next;
        }
        assert_eq!((seen.len(), pages), (3000, 3));
        assert!(seen.is_sorted());
        assert_eq!(page(Vec::<v1::Token>::new(), "", |token| &token.id), (Vec::new(), String::new()));
    }
}
