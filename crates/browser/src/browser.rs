//! The browser's process.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Error;
use crate::page::Page;
use crate::pipe::Pipe;

/// Names under which it is installed.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// How long it may take to end by itself.
const GOODBYE: Duration = Duration::from_secs(10);

/// Two descriptors more than its standard ones: 3 it reads, 4 it writes. A shell gives them, which needs no unsafe code.
const ON_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// No window, no calls home, and no name but loopback's leads anywhere.
const FLAGS: [&str; 21] = [
    "--remote-debugging-pipe",
    "--headless=new",
    // It runs as root in containers, where its sandbox does not start; it sees our own pages only.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE [::1]",
    "--no-proxy-server",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--password-store=basic",
    // Pages in the background run as the one in front does.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--window-size=1280,900",
];

/// A browser without a window. It ends, and its folder goes, when this is dropped.
#[derive(Debug)]
pub struct Browser {
    pipe: Arc<Pipe>,
    child: Mutex<Child>,
    version: String,
    // After the process in the order of dropping: it writes there to the last.
    _profile: TempDir,
}

impl Browser {
    /// The installed browser: that of `SEMLINK_CHROMIUM`, else the first on `PATH` of `chromium`, `chromium-browser` and `google-chrome`.
    pub fn find() -> Option<PathBuf> {
        if let Some(named) = env::var_os("SEMLINK_CHROMIUM").filter(|named| !named.is_empty()) {
            return Some(named.into());
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&path).collect();
        NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
    }

    /// The browser of all tests that run at the same time, started by the first of them. `None`, with a message, where none is installed:
    /// the test skips.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] and what [`Browser::start`] says where one is installed and does not start.
    pub fn shared() -> Result<Option<Arc<Browser>>, Error> {
        static SHARED: Mutex<Weak<Browser>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(browser) = shared.upgrade() {
            return Ok(Some(browser));
        }
        let Some(program) = Browser::find() else {
            eprintln!("skipped: no chromium on PATH; install it, or name one with SEMLINK_CHROMIUM");
            return Ok(None);
        };
        let browser = Arc::new(Browser::start(program)?);
        *shared = Arc::downgrade(&browser);
        Ok(Some(browser))
    }

    /// Starts this browser with an empty profile and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it cannot be run, [`Error::Gone`] if it ends at once, [`Error::Late`] if it does not answer.
    pub fn start(program: impl Into<PathBuf>) -> Result<Browser, Error> {
        let program = program.into();
        let failed = |source| Error::Start { program: program.clone(), source };
        let profile = tempfile::Builder::new().prefix("semlink-browser-").tempdir().map_err(failed)?;
        let mut command = Command::new("sh");
        command.args(["-c", ON_PIPES]).arg(&program).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(std::io::Error::other("no pipes")));
        };
        // From here on the process ends with the value.
        let pipe = Pipe::new(to, from);
        let mut browser = Browser { pipe, child: Mutex::new(child), version: String::new(), _profile: profile };
        let told = browser.pipe.call(None, "Browser.getVersion", json!({}));
        let told = told.map_err(|error| match error {
            Error::Gone(what) => Error::Gone(format!("{}: {what}", program.display())),
            other => other,
        })?;
        browser.version = told.get("product").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(browser)
    }

    /// Name and version, e.g. `Chrome/156.0.8078.108`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The process, of which its other processes are children.
    pub fn process(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// An empty page of 1280 by 900 pixels with cookies, storage and cache of its own.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn page(&self) -> Result<Page, Error> {
        const METHOD: &str = "Target.createBrowserContext";
        let made = self.pipe.call(None, METHOD, json!({"disposeOnDetach": true}))?;
        let context = made.get("browserContextId").and_then(Value::as_str);
        let context = context.ok_or(Error::Answer { method: METHOD.into(), missing: "browserContextId" })?;
        Page::open(Arc::clone(&self.pipe), context.to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Best effort: it may have ended already.
        self.pipe.call_within(GOODBYE, None, "Browser.close", json!({})).ok();
        let ended = self.pipe.close(GOODBYE);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if !ended {
            child.kill().ok();
        }
        child.wait().ok();
    }
}
