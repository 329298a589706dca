//! A model on threads of its own, fed through a bounded queue, each taking whatever is queued as one batch.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::metrics::BatchMetrics;

/// Bounds of a [`Batcher`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that may wait.
    pub queue: usize,
    /// Jobs of one batch.
    pub batch: usize,
    /// Time that a batch should take at most: as many jobs as that allows, going by the last batches, but at least one.
    pub latency: Duration,
    /// Threads, each with a batch of its own.
    pub workers: usize,
}

/// The way to the model's threads, which end when the last clone is gone.
///
/// A thread works on its batch alone: batches side by side keep all processors busy, where one batch on all of them would have them wait
/// for its slowest part again and again. Batches adapt to the load: an idle model takes a job alone and at once; what arrives meanwhile is the next batch, up to what
/// [`Limits::latency`] allows.
#[derive(Debug)]
pub struct Batcher<I, O> {
    jobs: mpsc::Sender<Job<I, O>>,
    metrics: BatchMetrics,
}

/// The job was lost because the model panicked on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model failed on this input; see the log")]
pub struct Lost;

/// What came of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done<O> {
    /// The model's answer.
    pub output: O,
    /// From its submission to the start of its batch.
    pub waited: Duration,
}

#[derive(Debug)]
struct Job<I, O> {
    input: I,
    submitted: Instant,
    reply: oneshot::Sender<Done<O>>,
}

/// What a thread works with.
struct Worker<I, O, F> {
    /// One thread at a time waits for jobs.
    queue: Arc<Mutex<mpsc::Receiver<Job<I, O>>>>,
    limits: Limits,
    metrics: BatchMetrics,
    work: Arc<F>,
}

/// How many jobs the next batch may have.
#[derive(Debug)]
struct Size {
    limits: Limits,
    now: usize,
}

impl Size {
    fn new(limits: Limits) -> Size {
        // How long a job takes is not known yet.
        Size { limits, now: 1 }
    }

    /// Learns from a batch. It grows at most twofold, as larger batches have not been seen.
    fn learn(&mut self, jobs: usize, took: Duration) {
        let each = took.as_secs_f64() / jobs.max(1) as f64;
        let fitting = self.limits.latency.as_secs_f64() / each.max(1e-9);
        // Whole jobs; the conversion saturates.
        self.now = (fitting as usize).clamp(1, self.limits.batch.max(1)).min(self.now.max(jobs).saturating_mul(2));
    }
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// Starts the threads. `work` answers each input, in order; inputs beyond its answers are lost.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(
        name: &str,
        limits: Limits,
        metrics: BatchMetrics,
        work: impl Fn(Vec<I>) -> Vec<O> + Send + Sync + 'static,
    ) -> io::Result<Batcher<I, O>> {
        let (jobs, queue) = mpsc::channel::<Job<I, O>>(limits.queue.max(1));
        let (queue, work) = (Arc::new(Mutex::new(queue)), Arc::new(work));
        for _ in 0..limits.workers.max(1) {
            let (queue, work) = (Arc::clone(&queue), Arc::clone(&work));
            let worker = Worker { queue, limits, metrics: metrics.clone(), work };
            // Those that were started before one is refused end, as the queue does.
            thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?;
        }
        Ok(Batcher { jobs, metrics })
    }

    /// Waits for room in the queue, then for the answer. Given up, the job is not begun.
    ///
    /// # Errors
    /// [`Lost`] when the model panicked.
    pub async fn submit(&self, input: I) -> Result<Done<O>, Lost> {
        let (reply, answer) = oneshot::channel();
        let submitted = Instant::now();
        self.jobs.send(Job { input, submitted, reply }).await.map_err(|_| Lost)?;
        self.metrics.queue.set((self.jobs.max_capacity() - self.jobs.capacity()) as i64);
        answer.await.map_err(|_| Lost)
    }
}

impl<I, O, F: Fn(Vec<I>) -> Vec<O>> Worker<I, O, F> {
    /// Until the queue ends.
    fn run(self) {
        let mut size = Size::new(self.limits);
        let mut waiting = Vec::new();
        while self.take(&mut waiting, size.now) > 0 {
            // Nobody waits any more for a call that was cancelled or is late.
            let taken = waiting.len();
            waiting.retain(|job| !job.reply.is_closed());
            self.metrics.dropped.inc_by((taken - waiting.len()) as u64);
            if !waiting.is_empty() {
                let (jobs, took) = self.answer(&mut waiting);
                size.learn(jobs, took);
            }
        }
    }

    /// Waits for jobs and takes what is there, but leaves the other threads their share. None: there will be no more.
    fn take(&self, waiting: &mut Vec<Job<I, O>>, most: usize) -> usize {
        // Nothing panics while it is locked.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let share = queue.len().div_ceil(self.limits.workers.max(1));
        let taken = queue.blocking_recv_many(waiting, share.clamp(1, most));
        self.metrics.queue.set(queue.len() as i64);
        taken
    }

    /// Works on a batch; tells its size and how long it took.
    fn answer(&self, batch: &mut Vec<Job<I, O>>) -> (usize, Duration) {
        let start = Instant::now();
        let mut inputs = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        for Job { input, submitted, reply } in batch.drain(..) {
            inputs.push(input);
            replies.push((reply, start.saturating_duration_since(submitted)));
        }
        let jobs = inputs.len();
        // A panic costs its batch (the replies are dropped), not the service; the hook has logged it.
        let outputs = catch_unwind(AssertUnwindSafe(|| (self.work)(inputs))).unwrap_or_else(|_| {
            self.metrics.panics.inc();
            Vec::new()
        });
        let took = start.elapsed();
        self.metrics.size.observe(jobs as f64);
        self.metrics.seconds.observe(took.as_secs_f64());
        if let Some((_, longest)) = replies.first() {
            self.metrics.wait_seconds.observe(longest.as_secs_f64());
        }
        for ((reply, waited), output) in replies.into_iter().zip(outputs) {
            // A failed send: the caller left meanwhile.
            let _ = reply.send(Done { output, waited });
        }
        (jobs, took)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;

    use futures::future::join_all;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(3600);

    /// A batcher that waits for a token before each batch and answers with (input, size of its batch).
    fn gated(limits: Limits) -> (Batcher<u32, (u32, usize)>, blocking::Sender<()>) {
        let (gate, token) = blocking::channel();
        let token = Mutex::new(token);
        let batcher = Batcher::spawn("test-model", limits, BatchMetrics::default(), move |inputs: Vec<u32>| {
            token.lock().expect("no panic").recv().expect("the test opens the gate");
            let size = inputs.len();
            inputs.into_iter().map(|input| (input, size)).collect()
        })
        .expect("a thread");
        (batcher, gate)
    }

    #[tokio::test]
    async fn what_queues_meanwhile_is_the_next_batch_up_to_the_limit() {
        let (batcher, gate) = gated(Limits { queue: 100, batch: 8, latency: AMPLE, workers: 1 });
        let mut answers = join_all((0..20).map(|i| batcher.submit(i)));
        // The model holds its first batch at the closed gate, all other jobs are queued.
        assert!(futures::poll!(&mut answers).is_pending());
        for _ in 0..20 {
            gate.send(()).expect("an open gate");
        }
        let answers: Vec<(u32, usize)> =
            answers.await.into_iter().map(|answer| answer.expect("an answer").output).collect();
        let inputs: Vec<u32> = answers.iter().map(|(input, _)| *input).collect();
        assert_eq!(inputs, (0..20).collect::<Vec<u32>>());
        // It begins with one, then at most doubles, up to the limit.
        let expected = [1, 2, 2, 4, 4, 4, 4].into_iter().chain([8; 8]).chain([5; 5]);
        let sizes: Vec<usize> = answers.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, expected.collect::<Vec<usize>>());
    }

    #[tokio::test]
    async fn a_lone_job_does_not_wait_for_company() {
        let (batcher, gate) = gated(Limits { queue: 4, batch: 64, latency: AMPLE, workers: 1 });
        gate.send(()).expect("an open gate");
        assert_eq!(batcher.submit(7).await.map(|done| done.output), Ok((7, 1)));
    }

    #[tokio::test]
    async fn a_panic_costs_its_batch_only() {
        let batcher = Batcher::spawn(
            "test-model",
            Limits { queue: 4, batch: 1, latency: AMPLE, workers: 1 },
            BatchMetrics::default(),
            |inputs: Vec<u32>| {
                assert_ne!(inputs, [13], "unlucky");
                inputs
            },
        )
        .expect("a thread");
        assert_eq!(batcher.submit(13).await, Err(Lost));
        assert_eq!(batcher.submit(14).await.map(|done| done.output), Ok(14));
    }

    #[test]
    fn a_batch_has_as_many_jobs_as_its_time_allows() {
        let mut size = Size::new(Limits { queue: 1000, batch: 64, latency: Duration::from_millis(10), workers: 1 });
        // A job takes a millisecond: ten of them.
        for expected in [2, 4, 8, 10, 10] {
            size.learn(size.now, Duration::from_millis(size.now as u64));
            assert_eq!(size.now, expected);
        }
        // Slower: fewer, down to one.
        size.learn(10, Duration::from_millis(100));
        assert_eq!(size.now, 1);
        size.learn(1, Duration::from_secs(1));
        assert_eq!(size.now, 1);
        // Fast: up to the limit of jobs.
        for _ in 0..10 {
            size.learn(size.now, Duration::from_micros(size.now as u64));
        }
        assert_eq!(size.now, 64);
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_is_not_begun() {
        let (batcher, gate) = gated(Limits { queue: 100, batch: 8, latency: AMPLE, workers: 1 });
        let mut first = Box::pin(batcher.submit(1));
        assert!(futures::poll!(&mut first).is_pending());
        let mut left = Box::pin(batcher.submit(2));
        assert!(futures::poll!(&mut left).is_pending());
        drop(left);
        let mut third = Box::pin(batcher.submit(3));
        assert!(futures::poll!(&mut third).is_pending());
        for _ in 0..3 {
            gate.send(()).expect("an open gate");
        }
        assert_eq!(first.await.map(|done| done.output), Ok((1, 1)));
        // The second was taken out: the third is alone or, at most, in a batch without it.
        assert_eq!(third.await.map(|done| done.output), Ok((3, 1)));
    }

    #[tokio::test]
    async fn batches_run_side_by_side_and_share_what_waits() {
        // Both threads have to be in their batches at once for either to end.
        let meeting = std::sync::Barrier::new(2);
        let limits = Limits { queue: 100, batch: 8, latency: AMPLE, workers: 2 };
        let work = move |inputs: Vec<u32>| {
            meeting.wait();
            inputs
        };
        let batcher = Batcher::spawn("test-model", limits, BatchMetrics::default(), work).expect("threads");
        let answers = join_all((0..2).map(|i| batcher.submit(i))).await;
        let answers: Vec<u32> = answers.into_iter().map(|answer| answer.expect("an answer").output).collect();
        assert_eq!(answers, [0, 1]);
    }
}
