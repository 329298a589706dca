//! Three services that can go away and come back, a dashboard in front of them, and a browser's pages of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use semlink_browser::{Browser, Page};
use semlink_channel::SnrDb;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{assets, command, listener, path, semlink, stdout};

/// For whatever is to happen on the page. Measurements tell how fast it is; here it is to happen at all, on a busy machine, too.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Of an image file, for these pages.
pub(crate) const MAX_IMAGE_BYTES: usize = 100_000;

/// The page has heard of a frame and of an answer.
pub(crate) const LIVE: &str = "document.querySelectorAll('#recent li').length > 2 && parseFloat(document.querySelector('#f-images').textContent) > 0
    && /symbols/.test(document.querySelector('#frame-note').textContent)";
/// dB of the last frame, as the page shows it.
pub(crate) const REALISED: &str = "parseFloat(document.querySelector('#f-realised').textContent)";

/// A service on a runtime of its own, so that it can go away and come back.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    pub(crate) runtime: Option<Runtime>,
}

/// Three services and a dashboard in front of them.
pub(crate) struct Show {
    pub(crate) dir: TempDir,
    pub(crate) receiver: Service,
    pub(crate) emulator: Service,
    pub(crate) transmitter: Service,
    pub(crate) dashboard: Dashboard,
    // Last: pages go before it.
    pub(crate) browser: Arc<Browser>,
}

/// `semlink dashboard`, killed when it is dropped.
pub(crate) struct Dashboard {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Service {
    pub(crate) fn start(serve: impl FnOnce(&Runtime, TcpListener)) -> Service {
        let runtime = Runtime::new().expect("a runtime");
        let (listener, url) = listener(&runtime);
        let address = listener.local_addr().expect("an address");
        serve(&runtime, listener);
        Service { address, url, runtime: Some(runtime) }
    }

    /// As if its process had been killed.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// On the same port.
    pub(crate) fn again(&mut self, serve: impl FnOnce(&Runtime, TcpListener)) {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("the port is free again");
        serve(&runtime, listener);
        self.runtime = Some(runtime);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Dashboard {
    pub(crate) fn start(flags: &[&str]) -> Dashboard {
        let mut dashboard = command();
        dashboard.arg("dashboard").args(flags);
        let mut child = dashboard.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut told = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut told).expect("a line");
        let url = told.split_whitespace().find(|word| word.starts_with("http")).expect("an address");
        Dashboard { url: url.trim_end_matches(';').trim_end_matches('/').to_owned(), child }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Show {
    /// `None` where there is no browser.
    pub(crate) fn start() -> Option<Show> {
        Show::with(&[])
    }

    pub(crate) fn with(flags: &[&str]) -> Option<Show> {
        let browser = Browser::shared().expect("the browser starts")?;
        let dir = assets();
        // With it, there is a limit to draw.
        let manifest = dir.path().join("bundle/bundle.json");
        let mut described: Value = serde_json::from_slice(&fs::read(&manifest).expect("a manifest")).expect("JSON");
        described["clean_accuracy"] = json!(0.9);
        fs::write(&manifest, described.to_string()).expect("a manifest");

        let receiver = Service::start(serve_receiver(&dir));
        let emulator = Service::start(serve_emulator(&receiver.url));
        let transmitter = Service::start(serve_transmitter(&dir, &emulator.url));
        let (most, data) = (MAX_IMAGE_BYTES.to_string(), path(&dir, "data"));
        let urls = ["--to", &transmitter.url, "--control", &emulator.url, "--listen", "127.0.0.1:0", "--data", &data];
        let dashboard = Dashboard::start(&[&urls[..], &["--max-image-bytes", &most], flags].concat());
        Some(Show { dir, receiver, emulator, transmitter, dashboard, browser })
    }

    /// A page with figures on it.
    pub(crate) fn page(&self) -> Page {
        let page = self.browser.page().expect("a page");
        page.navigate(&format!("{}/", self.dashboard.url)).expect("it loads");
        wait(&page, LIVE);
        page
    }

    /// The channel as the emulator has it.
    pub(crate) fn channel(&self) -> Value {
        let told = stdout(&semlink(["channel", "get", "--json", "--control", &self.emulator.url]));
        serde_json::from_str(&told).expect("JSON")
    }

    pub(crate) fn snr_db(&self) -> f64 {
        self.channel()["snr_db"].as_f64().expect("an SNR")
    }

    pub(crate) fn file(&self, name: &str, contents: &[u8]) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).expect("a file");
        path
    }
}

pub(crate) fn serve_receiver(dir: &TempDir) -> impl FnOnce(&Runtime, TcpListener) + use<> {
    let config = semlink_receiver::Config::new(dir.path().join("bundle"));
    move |runtime, listener| drop(runtime.spawn(semlink_receiver::serve(listener, config, std::future::pending())))
}

pub(crate) fn serve_emulator(next: &str) -> impl FnOnce(&Runtime, TcpListener) + use<> {
    let config = semlink_channel_emulator::Config::new(next.to_owned(), SnrDb::try_new(7.0).expect("an SNR"));
    move |runtime, listener| {
        drop(runtime.spawn(semlink_channel_emulator::serve(listener, config, std::future::pending())));
    }
}

pub(crate) fn serve_transmitter(dir: &TempDir, next: &str) -> impl FnOnce(&Runtime, TcpListener) + use<> {
    let rate = "64".parse().expect("a rate");
    let config = semlink_transmitter::Config::new(next.to_owned(), dir.path().join("bundle"), rate);
    move |runtime, listener| drop(runtime.spawn(semlink_transmitter::serve(listener, config, std::future::pending())))
}

/// Waits for a condition on the page and gives its value.
pub(crate) fn wait(page: &Page, condition: &str) -> Value {
    page.wait_for(condition, SOON).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn text(page: &Page, selector: &str) -> String {
    page.evaluate(&format!("document.querySelector('{selector}').textContent")).expect("text")
}

/// Waits for a text that matches.
pub(crate) fn wait_text(page: &Page, selector: &str, pattern: &str) -> String {
    let text = format!("document.querySelector('{selector}').textContent");
    let found = wait(page, &format!("/{pattern}/.test({text}) && {text}"));
    found.as_str().expect("text").to_owned()
}

/// Requests that fail are told on the console, too: these were meant to.
pub(crate) fn forgive(page: &Page, statuses: &[&str]) {
    for problem in page.take_problems().expect("problems") {
        let meant = problem.source == "network" && statuses.iter().any(|status| problem.text.contains(status));
        assert!(meant, "{problem}");
    }
}
