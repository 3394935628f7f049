use std::collections::VecDeque;

use crate::executor::{Chunk, weight};

/// The chunks of one attempt that the platform has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Spool {
    batches: VecDeque<(u64, Vec<Chunk>)>,
    end: u64,
}

impl Spool {
    /// Numbers the chunks and keeps them; returns the number of the first.
    pub(super) fn push(&mut self, chunks: Vec<Chunk>) -> u64 {
        let first = self.end;
        self.end += chunks.len() as u64;
        self.batches.push_back((first, chunks));
        first
    }

    /// Drops batches that lie wholly below `next`; returns the permits they held.
    pub(super) fn acknowledge(&mut self, next: u64) -> usize {
        let mut freed = 0;
        while let Some((first, chunks)) = self.batches.front() {
            if first + chunks.len() as u64 > next {
                break;
            }
            freed += weight(chunks);
            self.batches.pop_front();
        }
        freed
    }

    /// The batches that are kept, in order.
    pub(super) fn batches(&self) -> impl Iterator<Item = &(u64, Vec<Chunk>)> {
        self.batches.iter()
    }

    /// The first number that is kept.
    pub(super) fn first(&self) -> u64 {
        self.batches.front().map_or(self.end, |(first, _)| *first)
    }

    /// The number of the next chunk.
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}
