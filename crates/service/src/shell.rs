//! A gRPC server with health, reflection and a graceful end.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
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
/// HTTP/2 windows in bytes, as at the peers.
const WINDOW: u32 = 1 << 20;

/// A server that is being put together.
pub struct Shell {
    name: &'static str,
    routes: RoutesBuilder,
    health: Health,
    drain: Drain,
}

/// Sets what grpc.health.v1 answers.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Shell {
    /// A server with health and reflection (v1), not serving until [`Health::serving`] or [`Shell::serve`] says so.
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
        Self { name, routes, health: Health { reporter, services: Vec::new() }, drain: Drain::new() }
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
        self.health.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Told to the services' streams: begins with the shutdown.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Serves until `shutdown` ends: then health says not-serving, the [`Drain`] begins, open calls finish, at most for ten seconds.
    ///
    /// # Errors
    /// [`Error::Serve`] when the server fails.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { name, routes, health, drain } = self;
        let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
        health.serving().await;
        tracing::info!(service = name, address, "serving");
        let stop = {
            let drain = drain.clone();
            async move {
                shutdown.await;
                tracing::info!(service = name, "draining");
                health.not_serving().await;
                drain.begin();
            }
        };
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop);
        let deadline = async {
            drain.started().await;
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
    /// Everything serves.
    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// Nothing does.
    pub async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in self.services.iter().copied().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
