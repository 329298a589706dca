//! A stream of requests answered while it is read: one answer to each, in whatever order.
//!
//! Each stream has a task of its own, so that work and its permits never wait for a client that does not take its answers: such a client
//! fills its own stream's places and no one else's.

use std::sync::Arc;

use futures::stream::{BoxStream, FuturesUnordered};
use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

/// Answers that a client gets, each holding one of its stream's places until it is taken.
type Answers<A> = mpsc::UnboundedSender<(Result<A, Status>, Option<OwnedSemaphorePermit>)>;

/// Reads requests until they end, break or `stop` ends, has at most `in_flight` of them unanswered or their answers untaken, and gives the answers
/// as they are ready. What was read is answered; a stream that broke ends with its status after that.
///
/// When the client leaves, what is under way is dropped.
pub fn answer<Q, A, F>(
    requests: impl Stream<Item = Result<Q, Status>> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
    in_flight: usize,
    handler: impl FnMut(Q) -> F + Send + 'static,
) -> BoxStream<'static, Result<A, Status>>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let (answers, taken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        tokio::select! {
            () = drive(requests.take_until(stop), in_flight, handler, &answers) => {}
            // The client has left.
            () = answers.closed() => {}
        }
    });
    let taken = futures::stream::unfold(taken, |mut taken| async move { Some((taken.recv().await?, taken)) });
    taken
        .map(move |(answer, place)| {
            drop(place);
            answer
        })
        .boxed()
}

async fn drive<Q, A, F>(
    requests: impl Stream<Item = Result<Q, Status>>,
    in_flight: usize,
    mut handler: impl FnMut(Q) -> F,
    answers: &Answers<A>,
) where
    F: Future<Output = A>,
{
    let places = Arc::new(Semaphore::new(in_flight.clamp(1, Semaphore::MAX_PERMITS)));
    let mut requests = std::pin::pin!(requests);
    let mut under_way = FuturesUnordered::new();
    let mut broken = None;
    let mut place = None;
    let mut reading = true;
    while reading || !under_way.is_empty() {
        tokio::select! {
            free = Arc::clone(&places).acquire_owned(), if reading && place.is_none() => place = free.ok(),
            request = requests.next(), if reading && place.is_some() => match request {
                Some(Ok(request)) => {
                    let (work, place) = (handler(request), place.take());
                    under_way.push(async move { (work.await, place) });
                }
                end => {
                    reading = false;
                    broken = end.and_then(Result::err);
                }
            },
            Some((answer, place)) = under_way.next() => {
                // A failed send: the client has left, and this task is about to end.
                let _ = answers.send((Ok(answer), place));
            }
        }
    }
    if let Some(status) = broken {
        let _ = answers.send((Err(status), None));
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;

    use super::*;

    fn numbers(count: u32) -> impl Stream<Item = Result<u32, Status>> + Send + 'static {
        stream::iter(0..count).map(Ok)
    }

    #[tokio::test]
    async fn each_request_is_answered_and_a_break_is_told_last() {
        let requests = numbers(50).chain(stream::iter([Err(Status::out_of_range("too large"))]));
        let answers = answer(requests, pending(), 8, |number| async move {
            // Some are slower.
            for _ in 0..number % 5 {
                tokio::task::yield_now().await;
            }
            number
        });
        let (mut seen, mut last) = (Vec::new(), None);
        let mut answers = answers;
        while let Some(answer) = answers.next().await {
            assert!(last.is_none(), "an answer after the break");
            match answer {
                Ok(number) => seen.push(number),
                Err(status) => last = Some(status),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        assert_eq!(last.expect("the break").code(), tonic::Code::OutOfRange);
    }

    /// The work of a stream whose answers nobody takes goes on, as far as its places reach: permits that it holds elsewhere come free.
    #[tokio::test]
    async fn a_client_that_takes_no_answers_fills_its_own_places_only() {
        let (door, done) = (Arc::new(Semaphore::new(100)), Arc::new(AtomicUsize::new(0)));
        let mut answers = answer(numbers(1000), pending(), 8, {
            let (door, done) = (Arc::clone(&door), Arc::clone(&done));
            move |number| {
                let (door, done) = (Arc::clone(&door), Arc::clone(&done));
                async move {
                    let _permit = door.acquire_owned().await.expect("an open door");
                    done.fetch_add(1, Ordering::Relaxed);
                    number
                }
            }
        });
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!((done.load(Ordering::Relaxed), door.available_permits()), (8, 100));
        // Each answer that is taken makes room for one more.
        answers.next().await.expect("an answer").expect("a number");
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(done.load(Ordering::Relaxed), 9);
    }

    #[tokio::test]
    async fn a_client_that_leaves_frees_the_work() {
        struct Work(Arc<AtomicUsize>);
        impl Drop for Work {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let under_way = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&under_way);
        let answers = answer(numbers(10), pending(), 4, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            let work = Work(Arc::clone(&counted));
            async move {
                let _work = work;
                pending::<u32>().await
            }
        });
        while under_way.load(Ordering::Relaxed) < 4 {
            tokio::task::yield_now().await;
        }
        drop(answers);
        while under_way.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
