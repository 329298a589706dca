//! A gRPC server with health, reflection and a graceful end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::{Drain, Error};

/// How long open streams may take to end after shutdown began.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// A peer that went without a goodbye is noticed after both of these.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls and streams that one connection may have open; a client queues what is beyond it.
const MAX_CALLS: u32 = 1024;
/// HTTP/2 windows in bytes, as at the peers: several frames of the largest size, so that a sender need not wait for each to be read.
const WINDOW: u32 = 4 << 20;
/// Bytes of an HTTP/2 frame that a sender may send: a large message in one instead of in 32.
const MAX_FRAME: u32 = 1 << 20;

/// A server that is being put together.
pub struct Shell {
    name: &'static str,
    routes: RoutesBuilder,
    statuses: Statuses,
    health: Health,
    drain: Drain,
}

/// Sets what grpc.health.v1 answers for a shell's services; cheap to clone.
#[derive(Debug, Clone)]
pub struct Health(watch::Sender<bool>);

/// What a running server tells grpc.health.v1.
struct Statuses {
    reporter: HealthReporter,
    /// Without "", which means all.
    services: Vec<&'static str>,
    told: Mutex<Told>,
}

/// What clients know.
#[derive(Default)]
struct Told {
    serving: Option<bool>,
    /// From here on nothing serves, whatever a service says.
    ending: bool,
}

impl Shell {
    /// A server with health and reflection (v1). Its health says serving from the first call on, unless [`Shell::health_reporter`] says
    /// otherwise.
    pub fn new(name: &'static str) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        let mut routes = RoutesBuilder::default();
        routes.add_service(health);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(semlink_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        match reflection {
            Ok(reflection) => {
                routes.add_service(reflection);
            }
            // The descriptors were compiled together with this program.
            Err(error) => tracing::error!(%error, "reflection is not available"),
        }
        Self {
            name,
            routes,
            statuses: Statuses { reporter, services: Vec::new(), told: Mutex::default() },
            health: Health(watch::Sender::new(true)),
            drain: Drain::new(),
        }
    }

    /// Adds a service.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.statuses.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Told to the services' streams: begins with the shutdown.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// For a service that is not ready at once, or may cease to be.
    pub fn health_reporter(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `shutdown` ends: then health says not-serving, the [`Drain`] begins, open calls finish, at most for ten seconds.
    ///
    /// # Errors
    /// [`Error::Serve`] when the server fails.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { name, routes, statuses, health, drain } = self;
        let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
        statuses.set(health.is_serving()).await;
        tracing::info!(service = name, address, "serving");
        let stop = async {
            shutdown.await;
            tracing::info!(service = name, "draining");
            statuses.end().await;
            drain.begin();
        };
        let server = Server::builder()
            .max_concurrent_streams(MAX_CALLS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(MAX_FRAME)
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop);
        let deadline = async {
            statuses.follow(&health, &drain).await;
            tokio::time::sleep(DRAIN_DEADLINE).await;
        };
        tokio::select! {
            served = server => served.map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Error::Serve { service: name, message: format!("{error}{cause}") }
            })?,
            () = deadline => tracing::warn!(service = name, "open streams were cut off at the drain deadline"),
        }
        tracing::info!(service = name, "stopped");
        Ok(())
    }
}

impl Health {
    /// All services are ready.
    pub fn serving(&self) {
        self.0.send_replace(true);
    }

    /// None is.
    pub fn not_serving(&self) {
        self.0.send_replace(false);
    }

    fn is_serving(&self) -> bool {
        *self.0.borrow()
    }
}

impl Statuses {
    async fn set(&self, serving: bool) {
        self.tell(&mut *self.told.lock().await, serving).await;
    }

    async fn end(&self) {
        let mut told = self.told.lock().await;
        told.ending = true;
        self.tell(&mut told, false).await;
    }

    /// Clients that watch hear of changes only.
    async fn tell(&self, told: &mut Told, serving: bool) {
        let serving = serving && !told.ending;
        if told.serving.replace(serving) == Some(serving) {
            return;
        }
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in self.names() {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Tells each change of `health` until the drain begins, then ends the watches of clients.
    async fn follow(&self, health: &Health, drain: &Drain) {
        let mut said = health.0.subscribe();
        let mut drained = pin!(drain.started());
        loop {
            let serving = *said.borrow_and_update();
            self.set(serving).await;
            tokio::select! {
                biased;
                () = &mut drained => break,
                // It cannot fail: `health` holds the sender.
                _ = said.changed() => {}
            }
        }
        // Watches would stay open until the deadline. They get the last status, then their end.
        let mut reporter = self.reporter.clone();
        for service in self.names() {
            reporter.clear_service_status(service).await;
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.services.iter().copied().chain([""])
    }
}
