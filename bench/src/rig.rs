//! What the emulator is measured with: a Link behind it, streams of frames into it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use semlink_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use crate::process::Process;
use crate::raw::{self, Frames, Reports};

/// HTTP/2 windows of client and sink: not theirs but the emulator's are to be the limit.
const WINDOW: u32 = 16 << 20;
/// Bytes that may come in one HTTP/2 frame: a large message in few.
const FRAME: u32 = 256 << 10;
/// Before the first window of a measurement.
const WARM_UP: Duration = Duration::from_secs(1);
/// Of one rate; the median of several counts.
const PERIOD: Duration = Duration::from_millis(800);

/// A Link that reports each frame at once; it runs on a thread of its own until the program ends.
pub(crate) struct Sink(SocketAddr);

/// Streams of equal frames, each on a connection of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) streams: usize,
    /// Frames that each stream has under way.
    pub(crate) outstanding: usize,
    /// Of each frame.
    pub(crate) symbols: usize,
    /// Each stream has a link of its own, "busy-0" and so on; else all take the default one.
    pub(crate) own_links: bool,
}

/// One stream, one frame at a time.
pub(crate) struct PingPong {
    ask: mpsc::Sender<()>,
    reports: Reports,
    symbols: usize,
}

/// What a load reached.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Frames per second in each period.
    pub(crate) frames: Vec<f64>,
    /// Of the emulator, in all periods together: seconds of processor time per second, and per frame.
    pub(crate) cores: f64,
    pub(crate) frame: f64,
}

/// The channel emulator's release binary, with AWGN of 10 dB, in front of `next`.
pub(crate) fn emulator(next: &str) -> Result<Process> {
    Process::service("semlink-channel-emulator", &["--next", next, "--channel", "awgn", "--snr-db", "10"])
}

/// Client and sink have a thread each, as if they were processes of their own.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

impl Sink {
    pub(crate) fn start() -> Result<Sink> {
        let runtime = runtime()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            let server = Server::builder()
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_frame_size(FRAME)
                .add_service(raw::Sink)
                .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
            if let Err(error) = runtime.block_on(server) {
                eprintln!("the sink ended: {error}");
            }
        });
        Ok(Sink(address))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .tcp_nodelay(true);
    endpoint.connect().await.with_context(|| url.to_owned())
}

/// That a frame went through, as a whole.
fn check(report: &v1::FrameReport, symbols: usize) -> Result<()> {
    if let Some(error) = &report.error {
        bail!("frame {}: {}", report.id, error.message);
    }
    // The sink counts by the length of the message, of which symbols are not all.
    ensure!(report.uses as usize >= symbols, "frame {} arrived with {} symbols", report.id, report.uses);
    Ok(())
}

impl Load {
    /// The rates of `periods` in a row, after a warm-up; `cpu` tells the emulator's processor time.
    pub(crate) async fn run(&self, url: &str, periods: usize, cpu: impl Fn() -> Result<f64>) -> Result<Rates> {
        let done = Arc::new(AtomicU64::new(0));
        // Its end ends them.
        let mut streams = JoinSet::new();
        for stream in 0..self.streams {
            streams.spawn(drive(url.to_owned(), stream as u64, *self, Arc::clone(&done)));
        }
        let watch = async {
            tokio::time::sleep(WARM_UP).await;
            let now = || anyhow::Ok((Instant::now(), done.load(Ordering::Relaxed), cpu()?));
            let first = now()?;
            let mut before = first;
            let mut rates = Vec::with_capacity(periods);
            for _ in 0..periods {
                tokio::time::sleep(PERIOD).await;
                let after = now()?;
                rates.push((after.1 - before.1) as f64 / (after.0 - before.0).as_secs_f64());
                before = after;
            }
            let cpu = before.2 - first.2;
            let (seconds, frames) = ((before.0 - first.0).as_secs_f64(), (before.1 - first.1) as f64);
            Ok(Rates { frames: rates, cores: cpu / seconds, frame: cpu / frames })
        };
        tokio::select! {
            rates = watch => rates,
            // None of them ends by itself.
            ended = streams.join_next() => {
                ended.context("no streams")???;
                bail!("a stream ended")
            }
        }
    }
}

/// Keeps the load's frames under way, until it is aborted or something fails.
async fn drive(url: String, stream: u64, load: Load, done: Arc<AtomicU64>) -> Result<()> {
    let mut channel = connect(&url).await?;
    let (ask, asked) = mpsc::channel(load.outstanding);
    for _ in 0..load.outstanding {
        ask.send(()).await?;
    }
    let link = if load.own_links { format!("busy-{stream}") } else { "default".to_owned() };
    let mut reports = Frames::new(stream, load.symbols).transmit(&mut channel, &link, asked).await?;
    loop {
        for report in reports.next().await? {
            check(&report, load.symbols)?;
            done.fetch_add(1, Ordering::Relaxed);
            ask.send(()).await?;
        }
    }
}

impl PingPong {
    pub(crate) async fn open(url: &str, stream: u64, symbols: usize) -> Result<PingPong> {
        let (ask, asked) = mpsc::channel(1);
        // The first frame goes with the call: a server may answer only then.
        ask.send(()).await?;
        let reports = Frames::new(stream, symbols).transmit(&mut connect(url).await?, "default", asked).await?;
        let mut opened = PingPong { ask, reports, symbols };
        opened.report().await?;
        Ok(opened)
    }

    async fn report(&mut self) -> Result<()> {
        loop {
            if let Some(report) = self.reports.next().await?.first() {
                return check(report, self.symbols);
            }
        }
    }

    /// Microseconds that each of `count` frames took, from sending it to its report.
    pub(crate) async fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.ask.send(()).await?;
            self.report().await?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sink_reports_what_a_load_sends() {
        let sink = Sink::start().expect("a sink");
        let url = sink.url();
        for symbols in [64, 65_536] {
            let (rates, times) = runtime()
                .expect("a runtime")
                .block_on(async {
                    let load = Load { streams: 2, outstanding: 4, symbols, own_links: false };
                    let rates = load.run(&url, 1, || Ok(0.0)).await?.frames;
                    anyhow::Ok((rates, PingPong::open(&url, 0, symbols).await?.round_trips(3).await?))
                })
                .expect("reports");
            assert!(rates.iter().all(|rate| *rate > 0.0) && times.len() == 3, "{rates:?}");
        }
    }
}
