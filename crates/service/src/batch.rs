//! A model on its own thread, fed through a bounded queue, taking whatever is queued as one batch.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use tokio::sync::{mpsc, oneshot};

/// Bounds of a [`Batcher`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that may wait.
    pub queue: usize,
    /// Jobs of one batch.
    pub batch: usize,
}

/// The way to the model's thread, which ends when the last clone is gone.
///
/// Batches adapt to the load: an idle model takes a job alone and at once; what arrives meanwhile is the next batch.
#[derive(Debug)]
pub struct Batcher<I, O> {
    jobs: mpsc::Sender<Job<I, O>>,
}

/// The job was lost because the model panicked on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model failed on this input; see the log")]
pub struct Lost;

#[derive(Debug)]
struct Job<I, O> {
    input: I,
    reply: oneshot::Sender<O>,
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// Starts the thread. `work` answers each input, in order; inputs beyond its answers are lost.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(
        name: &str,
        limits: Limits,
        mut work: impl FnMut(Vec<I>) -> Vec<O> + Send + 'static,
    ) -> io::Result<Batcher<I, O>> {
        let (jobs, mut queue) = mpsc::channel::<Job<I, O>>(limits.queue.max(1));
        let batch = limits.batch.max(1);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut waiting = Vec::with_capacity(batch);
            while queue.blocking_recv_many(&mut waiting, batch) > 0 {
                // Nobody waits any more for a cancelled call.
                waiting.retain(|job| !job.reply.is_closed());
                let (inputs, replies): (Vec<I>, Vec<_>) = waiting.drain(..).map(|job| (job.input, job.reply)).unzip();
                if inputs.is_empty() {
                    continue;
                }
                // A panic costs its batch (the replies are dropped), not the service; the hook has logged it.
                let outputs = catch_unwind(AssertUnwindSafe(|| work(inputs))).unwrap_or_default();
                for (reply, output) in replies.into_iter().zip(outputs) {
                    // A failed send: the caller left meanwhile.
                    let _ = reply.send(output);
                }
            }
        })?;
        Ok(Batcher { jobs })
    }

    /// Waits for room in the queue, then for the answer.
    ///
    /// # Errors
    /// [`Lost`] when the model panicked.
    pub async fn submit(&self, input: I) -> Result<O, Lost> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { input, reply }).await.map_err(|_| Lost)?;
        answer.await.map_err(|_| Lost)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;

    use futures::future::join_all;

    use super::*;

    /// A batcher that waits for a token before each batch and answers with (input, size of its batch).
    fn gated(limits: Limits) -> (Batcher<u32, (u32, usize)>, blocking::Sender<()>) {
        let (gate, token) = blocking::channel();
        let batcher = Batcher::spawn("test-model", limits, move |inputs: Vec<u32>| {
            token.recv().expect("the test opens the gate");
            let size = inputs.len();
            inputs.into_iter().map(|input| (input, size)).collect()
        })
        .expect("a thread");
        (batcher, gate)
    }

    #[tokio::test]
    async fn what_queues_meanwhile_is_the_next_batch_up_to_the_limit() {
        let (batcher, gate) = gated(Limits { queue: 100, batch: 8 });
        let mut answers = join_all((0..20).map(|i| batcher.submit(i)));
        // The model holds its first batch at the closed gate, all other jobs are queued.
        assert!(futures::poll!(&mut answers).is_pending());
        for _ in 0..20 {
            gate.send(()).expect("an open gate");
        }
        let answers: Vec<(u32, usize)> = answers.await.into_iter().map(|answer| answer.expect("an answer")).collect();
        let inputs: Vec<u32> = answers.iter().map(|(input, _)| *input).collect();
        assert_eq!(inputs, (0..20).collect::<Vec<u32>>());
        let first = answers[0].1;
        let expected = (0..20).map(|i| if i < first { first } else { (20 - first - (i - first) / 8 * 8).min(8) });
        let sizes: Vec<usize> = answers.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, expected.collect::<Vec<usize>>());
    }

    #[tokio::test]
    async fn a_lone_job_does_not_wait_for_company() {
        let (batcher, gate) = gated(Limits { queue: 4, batch: 64 });
        gate.send(()).expect("an open gate");
        assert_eq!(batcher.submit(7).await, Ok((7, 1)));
    }

    #[tokio::test]
    async fn a_panic_costs_its_batch_only() {
        let batcher = Batcher::spawn("test-model", Limits { queue: 4, batch: 1 }, |inputs: Vec<u32>| {
            assert_ne!(inputs, [13], "unlucky");
            inputs
        })
        .expect("a thread");
        assert_eq!(batcher.submit(13).await, Err(Lost));
        assert_eq!(batcher.submit(14).await, Ok(14));
    }
}
