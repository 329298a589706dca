//! What every service is started with: security and bounds, metrics, traces, and what its health depends on.

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::{Shell, ShellArgs};
use crate::config::Problems;
use crate::metrics::{Metrics, MetricsArgs};
use crate::security::Plaintext;
use crate::traces::{TraceArgs, Traces};
use crate::{Drain, Error};

/// Settings of every service.
#[derive(Debug, Clone, Default, Args)]
pub struct ServiceArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would take the place of the command's own")]
    pub shell: ShellArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would take the place of the command's own")]
    pub metrics: MetricsArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would take the place of the command's own")]
    pub traces: TraceArgs,
}

/// What a service tells of itself, and what it depends on.
pub(super) struct Telling {
    pub(super) metrics: Metrics,
    pub(super) traces: Traces,
    /// Where metrics are to be read.
    pub(super) page: MetricsArgs,
    dependencies: Vec<(String, watch::Receiver<usize>)>,
}

impl ServiceArgs {
    /// Whether plaintext was asked for by this name.
    pub fn allows_plaintext(&self, name: Plaintext) -> bool {
        self.shell.security.allows(name)
    }
}

impl Telling {
    pub(super) fn new(name: &'static str) -> Telling {
        Telling {
            metrics: Metrics::new(name),
            traces: Traces::off(),
            page: MetricsArgs::default(),
            dependencies: Vec::new(),
        }
    }

    /// Tells the health of the dependencies, each when it changes, until the drain begins.
    pub(super) fn follow(&mut self, reporter: &HealthReporter, drain: &Drain) {
        for (name, mut open) in std::mem::take(&mut self.dependencies) {
            let (reporter, drain) = (reporter.clone(), drain.clone());
            tokio::spawn(async move {
                let follow = async {
                    loop {
                        let is_there = *open.borrow_and_update() > 0;
                        let status = if is_there { ServingStatus::Serving } else { ServingStatus::NotServing };
                        reporter.set_service_status(&name, status).await;
                        if open.changed().await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = follow => {}
                    () = drain.started() => {}
                }
                let mut reporter = reporter;
                // Watches get their end.
                reporter.clear_service_status(&name).await;
            });
        }
    }

    /// Serves the page of metrics, if one is wanted, until the result is dropped.
    ///
    /// # Errors
    /// [`Error::Listen`] naming an address that cannot be had.
    pub(super) async fn serve(
        &self,
        serving: watch::Receiver<bool>,
        drain: Drain,
    ) -> Result<Option<impl Drop + use<>>, Error> {
        let Some(listener) = self.page.listen().await? else { return Ok(None) };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let is_serving = move || *serving.borrow() && !drain.has_started();
        tokio::spawn(self.metrics.clone().serve(listener, is_serving, stopped));
        Ok(Some(stop.drop_guard()))
    }
}

impl Shell {
    /// A server with these settings; notes all that is wrong with them.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, where traces are asked for.
    pub fn build(
        name: &'static str,
        args: &ServiceArgs,
        listener: &TcpListener,
        problems: &mut Problems,
    ) -> Option<Shell> {
        args.metrics.check(problems, args.allows_plaintext(Plaintext::Metrics));
        args.traces.check(problems, args.allows_plaintext(Plaintext::Traces));
        let listen = problems.check("--listen", listener.local_addr())?;
        let config = args.shell.check(listen, problems)?;
        let mut shell = Shell::with(name, config);
        // A URL that is none is a problem already noted.
        if let Ok(Some(collector)) = args.traces.endpoint() {
            let credentials = args.traces.credentials(problems)?;
            let traces = Traces::new(name, &collector, &credentials, args.traces.trace_sample);
            shell.telling.traces = problems.check("--traces", traces)?;
        }
        shell.telling.page = args.metrics.clone();
        shell.counters.register(&shell.telling.metrics);
        shell.telling.traces.register(&shell.telling.metrics);
        Some(shell)
    }

    /// Where the service's instruments are registered.
    pub fn metrics(&self) -> Metrics {
        self.telling.metrics.clone()
    }

    /// Where its spans begin.
    pub fn traces(&self) -> Traces {
        self.telling.traces.clone()
    }

    /// Has the health of `name` say whether this number is above zero.
    pub fn depends_on(&mut self, name: impl Into<String>, open: watch::Receiver<usize>) {
        self.telling.dependencies.push((name.into(), open));
    }
}
