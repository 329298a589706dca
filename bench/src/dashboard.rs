//! The dashboard: how fast it shows and changes the link, what it costs the link, what it weighs and whom it keeps out.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::ValueEnum;
use semlink_browser::{Browser, Page, Scheme, accessibility, axe};
use serde_json::{Value, json};

use crate::measure::{median, quantile, row};
use crate::process::{Process, cpu};
use crate::production::chain::{Chain, Setup};
use crate::production::client::{Answers, Ids, Images, Streams};
use crate::results::{Row, record, root};
use crate::rig::runtime;

const TOPIC: &str = "dashboard";
const PATIENCE: Duration = Duration::from_secs(30);
const STARTS: usize = 11;
const MOVES: usize = 40;
/// The load under which a page is watched: that of the production measurements.
const STREAMS: Streams = Streams { streams: 64, connections: 8, outstanding: 8 };
const WARM_UP: Duration = Duration::from_secs(3);
/// A window, and what passes between two until the next setting has settled.
const WINDOW: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_millis(700);
/// Windows with each kind of page, each between two without.
const TURNS: usize = 10;

/// Figures of the link are there, and a frame.
const LIVE: &str = "document.querySelector('#f-accuracy').textContent.endsWith('%')
    && parseFloat(document.querySelector('#f-images').textContent) > 0
    && Number.isFinite(parseFloat(document.querySelector('#f-realised').textContent))";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// From the start of the program to figures on the page.
    Start,
    /// From a move of the slider to frames that meet it.
    Slider,
    /// Updates of the page, and what it costs the link, under load.
    Load,
    /// Bytes of everything that the page loads.
    Weight,
    /// Violations of axe-core's rules and of our own.
    Access,
}

/// `semlink dashboard`, killed when it is dropped.
struct Board {
    child: Child,
    url: String,
}

/// A client that reads the page's events and nothing else.
struct Reader {
    stream: TcpStream,
    events: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

/// Who looks at the page in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Nobody,
    Reader,
    Browser,
}

/// What windows of one kind showed.
#[derive(Debug, Default)]
struct Windows {
    /// Share of the link's images that is missing beside the windows around it.
    losses: Vec<f64>,
    updates: Vec<f64>,
    /// Processors that the dashboard used.
    cores: Vec<f64>,
    bytes: Vec<f64>,
}

pub(crate) fn run(only: Option<Part>) -> Result<()> {
    let program = Browser::find().context("no chromium on PATH; install it, or name one with SEMLINK_CHROMIUM")?;
    let browser = Browser::start(program)?;
    for part in Part::value_variants().iter().copied().filter(|part| only.is_none_or(|only| only == *part)) {
        let rows = match part {
            Part::Start => vec![start(&browser)?],
            Part::Slider => vec![slider(&browser)?],
            Part::Load => load(&browser)?,
            Part::Weight => vec![weight(&browser)?],
            Part::Access => vec![access(&browser)?],
        };
        record(TOPIC, rows)?;
    }
    Ok(())
}

fn command(part: &str) -> String {
    format!("dashboard --only {part}")
}

impl Board {
    /// In front of running services, on a free port, with the sample's images.
    fn start(transmitter: &Process, emulator: &Process) -> Result<Board> {
        let binary = std::env::current_exe()?.with_file_name("semlink");
        ensure!(binary.exists(), "{} is not built: cargo build --release -p semlink", binary.display());
        let data = root().join("assets/sample");
        let mut program = Command::new(&binary);
        program.args(["dashboard", "--to", &transmitter.url(), "--control", &emulator.url()]);
        program.args(["--listen", "127.0.0.1:0", "--data"]).arg(data);
        for (variable, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SEMLINK_")) {
            program.env_remove(variable);
        }
        let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no standard output")?;
        // From here on it ends with this value.
        let mut board = Board { child, url: String::new() };
        let mut told = String::new();
        BufReader::new(out).read_line(&mut told)?;
        let url = told.split_whitespace().find(|word| word.starts_with("http"));
        url.context("it tells no address")?.trim_end_matches([';', '/']).clone_into(&mut board.url);
        Ok(board)
    }

    fn open(&self, browser: &Browser) -> Result<Page> {
        let page = browser.page()?;
        page.navigate(&format!("{}/", self.url))?;
        page.wait_for::<Value>(LIVE, PATIENCE)?;
        Ok(page)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Reader {
    fn open(board: &Board) -> Result<Reader> {
        const EVENT: &[u8] = b"event: live";
        let address = board.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET /events HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        let (events, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (mut from, seen, read) = (stream.try_clone()?, Arc::clone(&events), Arc::clone(&bytes));
        thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            // What may be the beginning of an event's name.
            let mut rest = Vec::new();
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                rest.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let found = rest.windows(EVENT.len()).filter(|window| *window == EVENT).count();
                seen.fetch_add(found as u64, Ordering::Relaxed);
                read.fetch_add(count as u64, Ordering::Relaxed);
                rest.drain(..rest.len().saturating_sub(EVENT.len() - 1));
            }
        });
        Ok(Reader { stream, events, bytes })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Ends its thread.
        self.stream.shutdown(Shutdown::Both).ok();
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)))
}

fn start(browser: &Browser) -> Result<Row> {
    let chain = Chain::start(&Setup::default())?;
    let (mut whole, mut opened) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let page = browser.page()?;
        let begin = Instant::now();
        let board = Board::start(&chain.transmitter, &chain.emulator)?;
        page.navigate(&format!("{}/", board.url))?;
        page.wait_for::<Value>(LIVE, PATIENCE)?;
        whole.push(begin.elapsed().as_secs_f64() * 1e3);
        page.finish()?;
        // Again, by another person, while it runs: the page's own clock.
        let page = browser.page()?;
        page.navigate(&format!("{}/", board.url))?;
        opened.push(page.wait_for::<f64>(&format!("{LIVE} && performance.now()"), PATIENCE)?);
        page.finish()?;
    }
    let (low, high) = range(&whole);
    let what = "page shows live figures after start, from the start of `semlink dashboard`";
    let mut row = row(what, median(whole), "ms", "lower", json!(2000), json!(500), &command("start"));
    row.note = format!(
        "services and {} run already; {low:.0} to {high:.0}, median of {STARTS}; a page opened while it runs: {:.0} ms after its navigation began; \
         figures: accuracy, images a second and realised SNR",
        browser.version(),
        median(opened)
    );
    Ok(row)
}

fn slider(browser: &Browser) -> Result<Row> {
    // From the event's own time, when the pointer went down, to a figure on the other side.
    const WATCH: &str = "(() => {
        let began = 0, low = false;
        window.took = null;
        const shown = document.querySelector('#f-realised');
        document.querySelector('#snr').addEventListener('pointerdown', event => { began = event.timeStamp; window.took = null; }, true);
        document.querySelector('#snr').addEventListener('input', event => { low = event.target.valueAsNumber < 5; }, true);
        new MutationObserver(() => {
            const snr = parseFloat(shown.textContent);
            if (began && (low ? snr < 0 : snr > 10)) { window.took = performance.now() - began; began = 0; }
        }).observe(shown, {subtree: true, childList: true, characterData: true});
        return true;
    })()";
    let chain = Chain::start(&Setup::default())?;
    let board = Board::start(&chain.transmitter, &chain.emulator)?;
    let page = board.open(browser)?;
    page.evaluate::<bool>(WATCH)?;
    let mut times = Vec::with_capacity(MOVES);
    for turn in 0..MOVES {
        // The slider goes from -20 to 30 dB: -10 and 20.
        let share = if turn % 2 == 0 { 0.2 } else { 0.8 };
        page.drag("#snr", share, share, 1)?;
        times.push(page.wait_for::<f64>("window.took", PATIENCE)?);
    }
    page.finish()?;
    let (median, p90, worst) = (quantile(&mut times, 0.5), quantile(&mut times, 0.9), quantile(&mut times, 1.0));
    let what = "a slider move changes the channel, from the pointer to the realised SNR of a frame on the page";
    let mut row = row(what, median, "ms", "lower", json!(500), json!(100), &command("slider"));
    row.note = format!(
        "median of {MOVES} jumps between -10 and 20 dB; 90th percentile {p90:.0}, longest {worst:.0}; 25 images a second, as the page has it; {} on \
         the same 2 cores",
        browser.version()
    );
    Ok(row)
}

/// Visible updates: how often the line below the constellation has changed.
const COUNT_UPDATES: &str = "(() => {
    window.updates = 0;
    new MutationObserver(() => { window.updates += 1; })
        .observe(document.querySelector('#frame-note'), {subtree: true, childList: true, characterData: true});
    return true;
})()";

fn load(browser: &Browser) -> Result<Vec<Row>> {
    let chain = Chain::start(&Setup::default())?;
    let board = Board::start(&chain.transmitter, &chain.emulator)?;
    let idle = idle(browser, &board)?;
    let (images, ids, answers) = (Arc::new(Images::sample()?), Ids::endless(), Arc::new(Answers::default()));
    let url = chain.transmitter.url();
    let (sent, watched) = thread::scope(|scope| {
        let load = scope.spawn(|| runtime()?.block_on(STREAMS.run(&url, &images, &ids, &answers)));
        thread::sleep(WARM_UP);
        let watched = windows(browser, &board, &answers);
        // Whatever happened, or the streams would not end.
        ids.stop();
        (load.join().map_err(|_| anyhow!("the load panicked")), watched)
    });
    sent??;
    let (without, reader, page) = watched?;
    ensure!(answers.failed() == 0, "images failed: {}", answers.errors());
    ensure!(answers.decided() == ids.taken(), "{} images of {}", answers.decided(), ids.taken());

    let loss = |windows: &Windows| 100.0 * median(windows.losses.clone());
    let told = |windows: &Windows| {
        let (low, high) = range(&windows.losses);
        format!(
            "{TURNS} windows of {} s, each compared with those without a page around it: {:.1} to {:.1} %; {:.0} images/s without; the dashboard \
             took {:.2} processors and sent its 25 images a second",
            WINDOW.as_secs(),
            100.0 * low,
            100.0 * high,
            median(without.clone()),
            median(windows.cores.clone())
        )
    };
    let command = command("load");
    let mut rows = Vec::new();
    let what = "updates per second, link under full load, read by a client elsewhere";
    let mut updates = row(what, median(reader.updates.clone()), "1/s", "higher", json!(5), json!(20), &command);
    updates.note = format!(
        "64 streams; all {} images of the load answered; {:.0} kB/s of events; a raw client that reads them, as a browser on another machine would",
        answers.decided(),
        median(reader.bytes.clone()) / 1e3
    );
    rows.push(updates);
    let what = "loss of link throughput with a page open, read by a client elsewhere";
    let mut row_reader = row(what, loss(&reader), "%", "lower", json!(5), json!(1), &command);
    row_reader.note = told(&reader);
    rows.push(row_reader);
    let what = "updates per second seen on the page, link at rest";
    let mut at_rest = row(what, idle, "1/s", "higher", json!(5), json!(20), &command);
    at_rest.note = format!(
        "changes of the last frame's line in {}; at most the 25 images a second that there are",
        browser.version()
    );
    rows.push(at_rest);
    let what = "updates per second seen on the page, link under full load, browser on the same 2 cores";
    let mut seen = row(what, median(page.updates.clone()), "1/s", "higher", json!(5), json!(20), &command);
    seen.note = "the services, 64 streams and the browser share the processors".into();
    rows.push(seen);
    let what = "loss of link throughput with a page open, browser on the same 2 cores";
    let mut row_page = row(what, loss(&page), "%", "lower", Value::Null, Value::Null, &command);
    row_page.note = format!(
        "mostly what the browser itself computes, which without a GPU draws on the processors; {}",
        told(&page)
    );
    rows.push(row_page);
    Ok(rows)
}

/// Updates a second on a page of a link that has nothing else to do.
fn idle(browser: &Browser, board: &Board) -> Result<f64> {
    let page = board.open(browser)?;
    page.evaluate::<bool>(COUNT_UPDATES)?;
    let (begin, wait) = (Instant::now(), 5.0);
    thread::sleep(Duration::from_secs_f64(wait));
    let updates = page.evaluate::<f64>("window.updates")? / begin.elapsed().as_secs_f64();
    page.finish()?;
    Ok(updates)
}

/// Windows without a page, with a reader and with a browser by turns.
fn windows(browser: &Browser, board: &Board, answers: &Answers) -> Result<(Vec<f64>, Windows, Windows)> {
    let window = |kind: Watched| -> Result<(f64, Option<Windows>)> {
        let reader = (kind == Watched::Reader).then(|| Reader::open(board)).transpose()?;
        let page = match kind {
            Watched::Browser => {
                let page = board.open(browser)?;
                page.evaluate::<bool>(COUNT_UPDATES)?;
                // Or the browser would tell of each event.
                page.stop_watching_network()?;
                Some(page)
            }
            _ => None,
        };
        thread::sleep(SETTLE);
        let look = || -> Result<(Instant, u64, f64, f64, f64)> {
            let updates = match (&reader, &page) {
                (Some(reader), _) => reader.events.load(Ordering::Relaxed) as f64,
                (_, Some(page)) => page.evaluate("window.updates")?,
                _ => 0.0,
            };
            let bytes = reader.as_ref().map_or(0, |reader| reader.bytes.load(Ordering::Relaxed));
            Ok((Instant::now(), answers.decided(), updates, cpu(board.child.id())?, bytes as f64))
        };
        let before = look()?;
        thread::sleep(WINDOW);
        let after = look()?;
        let seconds = (after.0 - before.0).as_secs_f64();
        let rate = (after.1 - before.1) as f64 / seconds;
        if let Some(page) = page {
            page.finish()?;
        }
        let seen = Windows {
            losses: Vec::new(),
            updates: vec![(after.2 - before.2) / seconds],
            cores: vec![(after.3 - before.3) / seconds],
            bytes: vec![(after.4 - before.4) / seconds],
        };
        Ok((rate, (kind != Watched::Nobody).then_some(seen)))
    };
    let (mut without, mut reader, mut page) = (Vec::new(), Windows::default(), Windows::default());
    let mut before = window(Watched::Nobody)?.0;
    without.push(before);
    for turn in 0..2 * TURNS {
        let kind = if turn % 2 == 0 { Watched::Reader } else { Watched::Browser };
        let (rate, seen) = window(kind)?;
        let after = window(Watched::Nobody)?.0;
        without.push(after);
        let into = if kind == Watched::Reader { &mut reader } else { &mut page };
        into.losses.push(1.0 - rate / ((before + after) / 2.0));
        if let Some(seen) = seen {
            into.updates.extend(seen.updates);
            into.cores.extend(seen.cores);
            into.bytes.extend(seen.bytes);
        }
        before = after;
    }
    Ok((without, reader, page))
}

fn weight(browser: &Browser) -> Result<Row> {
    let chain = Chain::start(&Setup::default())?;
    let board = Board::start(&chain.transmitter, &chain.emulator)?;
    let page = board.open(browser)?;
    page.wait_for::<Value>("document.querySelectorAll('#recent img').length >= 12", PATIENCE)?;
    let elsewhere = page.fetched_elsewhere(&board.url)?;
    ensure!(elsewhere.is_empty(), "fetched from elsewhere: {elsewhere:?}");
    let requests = page.requests()?;
    page.finish()?;
    let sum = |kinds: &dyn Fn(&str) -> bool| {
        requests.iter().filter(|request| kinds(&request.kind)).map(|request| request.bytes).sum::<u64>() as f64 / 1e3
    };
    let pictures = requests.iter().filter(|request| request.url.contains("/images/")).count();
    let what = "page weight, everything";
    let whole = sum(&|kind| kind != "EventSource");
    let mut row = row(what, whole, "kB", "lower", json!(500), json!(150), &command("weight"));
    row.note = format!(
        "as sent, with headers: document, style, scripts and icon {:.1} kB, {pictures} sample images {:.1} kB; {} requests, none to elsewhere; \
         without the stream of events",
        sum(&|kind| !matches!(kind, "Image" | "EventSource")),
        sum(&|kind| kind == "Image"),
        requests.len()
    );
    Ok(row)
}

fn access(browser: &Browser) -> Result<Row> {
    let file = axe::file().context("SEMLINK_AXE names no axe.min.js")?;
    let chain = Chain::start(&Setup::default())?;
    let board = Board::start(&chain.transmitter, &chain.emulator)?;
    let page = board.open(browser)?;
    page.wait_for::<Value>("document.querySelectorAll('#curve path.interval').length > 0", PATIENCE)?;
    let own = accessibility::check(&page)?;
    let mut found: Vec<String> = own.iter().map(ToString::to_string).collect();
    for (scheme, width) in [(Scheme::Light, 1280), (Scheme::Dark, 1280), (Scheme::Light, 360), (Scheme::Dark, 360)] {
        page.color_scheme(Some(scheme))?;
        page.viewport(width, 900)?;
        let told = axe::check(&page, &file)?;
        found.extend(told.iter().map(|v| format!("{} at {}", v.id, v.selectors.join(", "))));
    }
    page.finish()?;
    found.sort();
    found.dedup();
    let what = "accessibility check (labels, contrast, keyboard order), violations";
    let mut row = row(what, found.len() as f64, "violations", "lower", json!(0), json!(0), &command("access"));
    let told = if found.is_empty() { "none".to_owned() } else { found.join("; ") };
    row.note = format!("axe-core and a check of our own, in light and dark, 1280 and 360 pixels wide: {told}");
    Ok(row)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_reader_counts_events_also_where_they_are_cut_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a reader");
            stream.set_nodelay(true).expect("set");
            for piece in ["event: li", "ve\ndata: 1\n\nevent: settings\n\n", "event: live\n\nevent: live"] {
                stream.write_all(piece.as_bytes()).expect("a reader");
                // It has read this piece before the next comes.
                thread::yield_now();
            }
            // Until it hangs up.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let child = Command::new("true").spawn().expect("it runs");
        let reader = Reader::open(&Board { child, url }).expect("a connection");
        let begin = Instant::now();
        while reader.events.load(Ordering::Relaxed) < 3 {
            assert!(begin.elapsed() < PATIENCE, "{} events", reader.events.load(Ordering::Relaxed));
            thread::yield_now();
        }
        assert!(reader.bytes.load(Ordering::Relaxed) > 50);
        drop(reader);
        server.join().expect("it saw the end");
    }
}
