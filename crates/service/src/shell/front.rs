//! What every call passes before its service: token, compression, a permit at the door, its deadline.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{self, AbortHandle, Abortable, BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::body::{self, Account, Answer, Held, Messages, OpenCall};
use super::call::Calls;
use super::counters::count;
use super::quiet::Quiet;
use super::{Counters, Gates, Limits, Peer};
use crate::security::ServerSecurity;
use crate::{deadline, retry};

/// When a client that found no room may try again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

tokio::task_local! {
    /// Ends the task that works on an HTTP/2 stream, from within it.
    static TASK: AbortHandle;
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    pub(super) security: ServerSecurity,
    pub(super) counters: Counters,
    pub(super) quiet: Quiet,
    pub(super) gates: Gates,
    /// A permit for each connection.
    pub(super) connections: Arc<Semaphore>,
    /// A permit for each call.
    pub(super) door: Arc<Semaphore>,
}

/// The front of one connection.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    pub(super) calls: Arc<Calls>,
}

/// Runs the HTTP/2 streams of a connection as tasks that can be ended one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams;

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (handle, registration) = AbortHandle::new_pair();
        tokio::spawn(TASK.scope(handle, Abortable::new(stream, registration)));
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        if crate::security::is_open_to_all(request.uri().path()) {
            let answer = self.shared.routes.clone().oneshot(request);
            return answer.map(|answer| answer.map(|answer| answer.map(Answer::plain))).boxed();
        }
        match self.admit(&request) {
            Ok(permit) => self.watched(request, permit).map(Ok).boxed(),
            Err(status) => future::ready(Ok(refusal(status))).boxed(),
        }
    }
}

impl Front {
    /// Lets a call in, before anything of its body is read.
    fn admit(&self, request: &Request<Incoming>) -> Result<OwnedSemaphorePermit, Status> {
        let Front { shared, peer, .. } = self;
        let path = request.uri().path();
        if let Err(refusal) = shared.security.check(path, request.headers(), peer.certificate) {
            count(&shared.counters.authentication_refused, refusal.reason);
            if let Some(swallowed) = shared.quiet.may_tell(peer.address) {
                let (peer, reason) = (peer.address, refusal.reason);
                tracing::warn!(%peer, path, reason, swallowed, "call refused: {}", refusal.status.message());
            }
            return Err(refusal.status);
        }
        if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            self.account().refused_message("compressed", path);
            return Err(compressed());
        }
        if let Some(status) = shared.gates.get(path).and_then(|gate| gate()) {
            return Err(status);
        }
        Arc::clone(&shared.door).try_acquire_owned().map_err(|_| {
            shared.counters.calls_refused.inc();
            if let Some(swallowed) = shared.quiet.may_tell(peer.address) {
                tracing::warn!(peer = %peer.address, path, swallowed, "call refused: --max-calls are open");
            }
            let message = format!("{}: {} calls are open, as many as it takes", shared.name, shared.limits.calls);
            retry::exhausted(message, RETRY_AFTER)
        })
    }

    fn account(&self) -> Account {
        Account { shared: Arc::clone(&self.shared), peer: self.peer.clone() }
    }

    fn watched(
        &self,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = Response<Answer>> + Send + 'static {
        self.shared.counters.calls.inc();
        let open = OpenCall { shared: Arc::clone(&self.shared), _permit: permit };
        let place = self.calls.enter(request.uri().path());
        let account = self.account();
        let time = deadline::of_call(request.headers());
        let request = request.map(|body| body::Request::new(body, Arc::clone(&place.call), account.clone()));
        let answer = self.shared.routes.clone().oneshot(request);
        async move {
            // This is polled by the task of the call's stream.
            if let Ok(task) = TASK.try_with(AbortHandle::clone) {
                place.call.runs_in(task);
            }
            let answer = match time {
                Some(time) => match tokio::time::timeout(time, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return refusal(Status::deadline_exceeded("the call's own deadline has passed")),
                },
                None => answer.await,
            };
            // It cannot fail.
            let answer = answer.unwrap_or_else(|never| match never {});
            account.look_at(answer.headers(), &place.call.path);
            answer
                .map(|body| Answer::watched(body, Held { place, account, messages: Messages::default(), _open: open }))
        }
    }
}

fn refusal(status: Status) -> Response<Answer> {
    status.into_http::<tonic::body::Body>().map(Answer::plain)
}

/// Images are compressed already and symbols cannot be; and what is not inflated cannot be a bomb.
pub(super) fn compressed() -> Status {
    Status::unimplemented("compressed messages are not taken; send them as they are (identity)")
}
