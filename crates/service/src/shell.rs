//! A gRPC server with health, reflection and a graceful end.

mod args;
mod body;
mod call;
mod connection;
mod counters;
mod front;
mod quiet;
mod service;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder as Reflection;

pub use args::{Limits, ShellArgs, ShellConfig};
pub use counters::{Counters, Outcome, Reason};
pub use service::ServiceArgs;

use crate::security::{Fingerprint, ServerSecurity};
use crate::{Drain, Error};
use front::Shared;
use service::Telling;

/// Files of certificates and tokens are looked at so often.
const REREAD: Duration = Duration::from_secs(2);

/// A server that is being put together.
pub struct Shell {
    name: &'static str,
    routes: RoutesBuilder,
    statuses: Statuses,
    health: Health,
    drain: Drain,
    config: ShellConfig,
    counters: Counters,
    telling: Telling,
    gates: Gates,
}

/// What refuses calls of a method, by its path.
type Gates = HashMap<&'static str, Box<dyn Fn() -> Option<Status> + Send + Sync>>;

/// Who makes a call; in the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Of the client's certificate, where one was asked for.
    pub certificate: Option<Fingerprint>,
    /// Whether the connection has TLS.
    pub encrypted: bool,
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
    /// A server for loopback, see [`Shell::with`].
    pub fn new(name: &'static str) -> Self {
        Shell::with(name, ShellConfig::default())
    }

    /// A server with health and reflection (v1 and v1alpha). Its health says serving from the first call on, unless
    /// [`Shell::health_reporter`] says otherwise.
    pub fn with(name: &'static str, config: ShellConfig) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        let mut routes = RoutesBuilder::default();
        routes.add_service(health);
        // Generic tools ask for the one or the other.
        match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => {
                routes.add_service(v1).add_service(v1alpha);
            }
            // The descriptors were compiled together with this program.
            (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "reflection is not available"),
        }
        Self {
            name,
            routes,
            statuses: Statuses { reporter, services: Vec::new(), told: Mutex::default() },
            health: Health(watch::Sender::new(true)),
            drain: Drain::new(),
            config,
            counters: Counters::default(),
            telling: Telling::new(name),
            gates: Gates::new(),
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

    /// Has calls of this method (`/package.Service/Method`) refused as `gate` says, before anything of their body is read: a service that is
    /// full has to be able to say so cheaply. It cannot reserve anything, so the service still looks for itself.
    #[must_use]
    pub fn gate(mut self, path: &'static str, gate: impl Fn() -> Option<Status> + Send + Sync + 'static) -> Self {
        self.gates.insert(path, Box::new(gate));
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

    /// What it counts; for a registry of metrics.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Serves until `shutdown` ends: then health says not-serving, the [`Drain`] begins, open calls finish, at most for
    /// [`Limits::drain`].
    ///
    /// # Errors
    /// [`Error::Listen`] when the address for metrics cannot be had. What goes wrong with a connection ends that connection.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { name, routes, statuses, health, drain, config, counters, mut telling, gates } = self;
        let ShellConfig { limits, security } = config;
        let _page = telling.serve(health.0.subscribe(), drain.clone()).await?;
        telling.follow(&statuses.reporter, &drain);
        let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
        statuses.set(health.is_serving()).await;
        tracing::info!(service = name, address, %security, "serving");
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        // Connections end with this future, however it ends.
        let _cut = cut.clone().drop_guard();
        let (drained_within, rereads) = (limits.drain, reread(security.clone(), counters.clone()));
        let shared = Arc::new(Shared {
            name,
            routes: routes.routes().prepare(),
            connections: Arc::new(Semaphore::new(limits.connections)),
            door: Arc::new(Semaphore::new(limits.calls)),
            limits,
            security,
            counters,
            quiet: quiet::Quiet::default(),
            gates,
        });
        let server = async {
            tokio::select! {
                () = shutdown => {}
                () = connection::accept(&listener, &shared, &drain, &tasks, &cut) => {}
                () = rereads => {}
            }
            // From here on nobody can connect.
            drop(listener);
            tracing::info!(service = name, "draining");
            statuses.end().await;
            drain.begin();
            tasks.close();
            tasks.wait().await;
        };
        let deadline = async {
            statuses.follow(&health, &drain).await;
            tokio::time::sleep(drained_within).await;
        };
        let ended = tokio::select! {
            () = server => true,
            () = deadline => false,
        };
        if !ended {
            tracing::warn!(service = name, "open streams were cut off at the drain deadline");
            cut.cancel();
            tasks.wait().await;
        }
        telling.traces.shutdown().await;
        tracing::info!(service = name, "stopped");
        Ok(())
    }
}

/// What generic tools learn: all of this project's services and messages, and what those are made of.
fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(semlink_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Looks at the files of certificates and tokens from time to time, for ever.
pub(crate) async fn reread(security: ServerSecurity, counters: Counters) {
    if !security.has_files() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(REREAD).await;
        let (security, counters) = (security.clone(), counters.clone());
        // On a thread where a file system that hangs holds nobody up. A panic in it: the next look tries again.
        let _ = tokio::task::spawn_blocking(move || security.reread(&counters)).await;
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
