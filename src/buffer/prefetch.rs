//! Read-ahead while the reader goes on: a thread of its own fetches the next window of a reader that is about to use up
//! the last. Whoever needs what is under way waits for it instead of fetching it twice, and whoever needs what nobody has
//! begun with fetches it: the thread may wait for another file's filesystem, even for this very reader.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::file::State;
use super::{BLOCK_SIZE, Buffers, File, lock};
use crate::backing::Backing;
use crate::cache::Stream;
use crate::types::ByteRange;

/// What waits to be fetched.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    queue: Mutex<Queue>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Blocks of the jobs, and of the one that is being done.
    blocks: u64,
    /// There is a thread, and it is to go on.
    runs: bool,
}

/// Blocks of a file that are fetched ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coming {
    /// The first, and one past the last.
    pub(super) blocks: (u64, u64),
    /// The thread is at it.
    pub(super) begun: bool,
}

/// Blocks of a file that are under way. Over when it is dropped, be it by a panic.
#[derive(Debug)]
struct Job {
    file: Arc<File>,
    source: Arc<dyn Backing>,
    /// The first, and one past the last.
    blocks: (u64, u64),
    epoch: u64,
}

impl Drop for Job {
    fn drop(&mut self) {
        let (first, end) = self.blocks;
        lock(&self.file.buffers.prefetch.queue).blocks -= end - first;
        let mut state = self.file.lock();
        state.coming.retain(|coming| coming.blocks != self.blocks);
        drop(state);
        self.file.arrived.notify_all();
    }
}

/// The thread. Ends when it is dropped, after what it is reading.
#[derive(Debug)]
pub(super) struct Prefetcher {
    buffers: Arc<Buffers>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetcher {
    /// Starts the thread.
    pub(super) fn start(buffers: &Arc<Buffers>) -> std::io::Result<Prefetcher> {
        let mine = Arc::clone(buffers);
        let thread = std::thread::Builder::new().name("iolens-ahead".to_owned());
        lock(&buffers.prefetch.queue).runs = true;
        let thread = thread.spawn(move || mine.prefetch_until_stopped())?;
        Ok(Prefetcher {
            buffers: Arc::clone(buffers),
            thread: Some(thread),
        })
    }
}

impl Prefetcher {
    pub(super) fn tell_to_stop(&self) {
        self.buffers.stop_prefetching();
    }

    /// Whether it still reads.
    pub(super) fn is_running(&self) -> bool {
        let running = |thread: &JoinHandle<()>| !thread.is_finished();
        self.thread.as_ref().is_some_and(running)
    }

    /// Nobody waits for its end.
    pub(super) fn abandon(&mut self) {
        self.thread = None;
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.tell_to_stop();
        if let Some(thread) = self.thread.take() {
            // It has nothing to lose.
            let _ = thread.join();
        }
    }
}

impl Buffers {
    fn prefetch_until_stopped(&self) {
        while let Some(job) = self.next_job() {
            job.file.note_begun(job.blocks);
            // A bug that shows itself here costs a window, not all readers their read-ahead.
            if catch_unwind(AssertUnwindSafe(|| job.file.prefetch(&job))).is_err() {
                log::error!("a bug in iolens: a read-ahead panicked");
            }
        }
    }

    /// Nothing is fetched ahead any more but with what a reader misses; nobody waits for what was.
    fn stop_prefetching(&self) {
        let mut queue = lock(&self.prefetch.queue);
        queue.runs = false;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(jobs);
        self.prefetch.woken.notify_one();
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = lock(&self.prefetch.queue);
        loop {
            if !queue.runs {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            let waited = self.prefetch.woken.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[cfg(test)]
    pub(super) fn prefetches(&self) -> bool {
        lock(&self.prefetch.queue).runs
    }

    /// Whether so many blocks more may be under way: a quarter of all at most.
    fn may_prefetch(&self, blocks: u64) -> bool {
        let most = self.block_count() as u64 / 4;
        let queue = lock(&self.prefetch.queue);
        queue.runs && queue.blocks + blocks <= most
    }

    fn enqueue(&self, job: Job) {
        let mut queue = lock(&self.prefetch.queue);
        queue.blocks += job.blocks.1 - job.blocks.0;
        match queue.runs {
            true => queue.jobs.push_back(job),
            false => {
                drop(queue);
                drop(job);
                return;
            }
        }
        drop(queue);
        self.prefetch.woken.notify_one();
    }
}

/// What is to be fetched.
struct Next {
    blocks: (u64, u64),
    epoch: u64,
    size: u64,
}

impl File {
    /// Has the next window fetched, if the reader who asks for `range` will soon come to it. Returns how many bytes
    /// that is.
    pub(super) fn fetch_following(
        self: &Arc<Self>,
        source: &Arc<dyn Backing>,
        stream: &Mutex<Stream>,
        range: ByteRange,
    ) -> u64 {
        let mut stream = lock(stream);
        let Some(next) = stream.following(range) else {
            return 0;
        };
        if next.len() > self.buffers.ahead_max()
            || !self
                .buffers
                .may_prefetch(next.len().div_ceil(BLOCK_SIZE as u64))
        {
            return 0;
        }
        stream.follow(next);
        drop(stream);
        let Some(Next {
            blocks,
            epoch,
            size,
        }) = self.lock().expect(next)
        else {
            return 0;
        };
        self.buffers.enqueue(Job {
            file: Arc::clone(self),
            source: Arc::clone(source),
            blocks,
            epoch,
        });
        size
    }

    /// Whether something of a range is under way.
    #[must_use]
    pub fn is_coming(&self, range: ByteRange) -> bool {
        let size = BLOCK_SIZE as u64;
        let blocks = (range.start / size, range.end.div_ceil(size));
        self.lock().is_coming(blocks)
    }

    /// The thread is at these blocks.
    fn note_begun(&self, blocks: (u64, u64)) {
        let mut state = self.lock();
        let coming = state.coming.iter_mut();
        coming
            .filter(|coming| coming.blocks == blocks)
            .for_each(|coming| coming.begun = true);
    }

    /// Blocks that nobody has begun with are not fetched ahead.
    pub(super) fn call_off(&self, blocks: (u64, u64)) {
        let mut queue = lock(&self.buffers.prefetch.queue);
        let mine = |job: &Job| job.file.id == self.id && job.blocks == blocks;
        let found = queue.jobs.iter().position(mine);
        let job = found.and_then(|at| queue.jobs.remove(at));
        drop(queue);
        match job {
            Some(_) => self.lock().note_in_vain(blocks),
            // On its way into the queue, or out of it.
            None => std::thread::yield_now(),
        }
    }

    fn prefetch(&self, job: &Job) {
        let (first, end) = job.blocks;
        let count = |blocks: u64| usize::try_from(blocks).unwrap_or(usize::MAX);
        let mut slots = self.buffers.take(count(end - first));
        if slots.is_empty() {
            self.lock().note_in_vain(job.blocks);
            return;
        }
        let at = first * BLOCK_SIZE as u64;
        let nothing = ByteRange::at(at, 0);
        match self.load(&slots, at, &*job.source, nothing, &mut []) {
            Ok(got) => self.put_in(&slots, (first, first), got, job.epoch),
            // Told to the reader, when it comes there.
            Err(_) => {
                self.buffers.give_back(&std::mem::take(&mut slots));
                self.lock().note_in_vain(job.blocks);
            }
        }
    }
}

impl State {
    /// What of a range is neither here nor under way, in one piece from the first such block on; it is under way from
    /// now on.
    fn expect(&mut self, range: ByteRange) -> Option<Next> {
        let size = BLOCK_SIZE as u64;
        let file_end = self.cache.source_size();
        let (mut first, mut end) = (range.start / size, range.end.min(file_end).div_ceil(size));
        for coming in &self.coming {
            // The last window may end within the block that this one begins with.
            let coming = coming.blocks;
            if (coming.0..coming.1).contains(&first) {
                first = coming.1;
            } else if coming.0 < end && end <= coming.1 {
                end = coming.0;
            }
        }
        let blocks = self.cache.absent((first, end))?;
        if self.is_coming(blocks) {
            return None;
        }
        self.coming.push(Coming {
            blocks,
            begun: false,
        });
        Some(Next {
            blocks,
            epoch: self.cache.epoch(),
            size: (blocks.1 * size).min(file_end) - blocks.0 * size,
        })
    }

    /// These blocks were told as fetched ahead when they were asked for, and are not fetched.
    fn note_in_vain(&mut self, (first, end): (u64, u64)) {
        let size = BLOCK_SIZE as u64;
        let file_end = self.cache.source_size();
        self.told_in_vain += (end * size).min(file_end).saturating_sub(first * size);
    }

    /// Of so many bytes fetched ahead, those that have not been told.
    pub(super) fn not_yet_told(&mut self, ahead: u64) -> u64 {
        let told = ahead.min(self.told_in_vain);
        self.told_in_vain -= told;
        ahead - told
    }

    /// Whether any of these blocks is under way.
    fn is_coming(&self, blocks: (u64, u64)) -> bool {
        self.coming.iter().any(|coming| coming.overlaps(blocks))
    }

    /// What is under way of these bytes, if anything is.
    pub(super) fn awaited(&self, missing: &[ByteRange]) -> Option<Coming> {
        let size = BLOCK_SIZE as u64;
        let awaited = |coming: &&Coming| {
            let mut blocks = missing
                .iter()
                .map(|range| (range.start / size, range.end.div_ceil(size)));
            blocks.any(|blocks| coming.overlaps(blocks))
        };
        self.coming.iter().find(awaited).copied()
    }
}

impl Coming {
    fn overlaps(&self, (first, end): (u64, u64)) -> bool {
        self.blocks.0 < end && first < self.blocks.1
    }
}
