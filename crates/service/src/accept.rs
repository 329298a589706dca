//! Connections of listeners beside gRPC: up to a number at a time, more wait to be accepted.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// What a listener rests after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections, each on a task of `tasks` and at most `most` at a time, until `shutdown` ends. `what` they are for, for the log.
pub(crate) async fn accept<F>(
    what: &str,
    listener: &TcpListener,
    most: usize,
    tasks: &TaskTracker,
    shutdown: impl Future<Output = ()>,
    mut serve: impl FnMut(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(most));
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            // It is never closed.
            let place = Arc::clone(&room).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut shutdown => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                let served = serve(stream, address);
                tasks.spawn(async move {
                    let _place = place;
                    served.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "{what}: a connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
