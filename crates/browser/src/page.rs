//! A page: what is loaded into it, asked of it and seen of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::network::{Problem, Request, exception};
use crate::pipe::Pipe;
use crate::{Error, PATIENCE, shown};

/// A page of a browser. It is closed when this is dropped.
#[derive(Debug)]
pub struct Page {
    pipe: Arc<Pipe>,
    context: String,
    target: String,
    session: String,
}

/// What `prefers-color-scheme` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark text on a light ground.
    Light,
    /// Light text on a dark ground.
    Dark,
}

/// Answers with the value of a condition once it is truthy, or with what it was at last. Looks whenever the document changes, and every 20
/// ms for what changes without it, such as the value of a control.
const WAIT: &str = "new Promise(resolve => {
    const begin = performance.now();
    let busy = false, ended = false, last = null;
    const look = async () => {
        if (busy || ended) return;
        busy = true;
        let value = null;
        try { value = await (() => (CONDITION))(); last = value === undefined ? null : value; } catch (error) { last = String(error); }
        busy = false;
        if (!value && performance.now() - begin < LIMIT) return;
        ended = true;
        observer.disconnect();
        clearInterval(timer);
        resolve({ok: Boolean(value), last});
    };
    const observer = new MutationObserver(look);
    observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
    const timer = setInterval(look, 20);
    look();
})";

impl Page {
    pub(crate) fn open(pipe: Arc<Pipe>, context: String) -> Result<Page, Error> {
        let wanted = json!({"url": "about:blank", "browserContextId": context, "newWindow": true});
        let made = pipe.call(None, "Target.createTarget", wanted)?;
        let target = string(&made, "targetId", "Target.createTarget")?;
        let attached =
            pipe.call(None, "Target.attachToTarget", json!({"targetId": target.as_str(), "flatten": true}))?;
        let session = string(&attached, "sessionId", "Target.attachToTarget")?;
        let page = Page { pipe, context, target, session };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}))?;
        }
        // As if it were the page in front: it has the focus and is drawn.
        page.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}))?;
        page.viewport(1280, 900)?;
        Ok(page)
    }

    pub(crate) fn call(&self, method: &str, params: Value) -> Result<Value, Error> {
        self.pipe.call(Some(&self.session), method, params)
    }

    /// Loads an address and waits until the document and what it names have loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] with what the browser says, [`Error::Late`].
    pub fn navigate(&self, url: &str) -> Result<(), Error> {
        let before = self.observe(|seen| seen.loads)?;
        let answer = self.call("Page.navigate", json!({"url": url}))?;
        if let Some(message) = answer.get("errorText").and_then(Value::as_str) {
            return Err(Error::Load { url: shown(url), message: message.to_owned() });
        }
        let loaded = |seen: &mut crate::network::Observed| (seen.loads > before).then_some(());
        self.pipe.observe(PATIENCE, &self.session, &format!("{} has loaded", shown(url)), loaded)
    }

    /// Loads the page again.
    ///
    /// # Errors
    ///
    /// [`Error::Late`].
    pub fn reload(&self) -> Result<(), Error> {
        let before = self.observe(|seen| seen.loads)?;
        self.call("Page.reload", json!({}))?;
        self.pipe
            .observe(PATIENCE, &self.session, "the page has loaded again", |seen| (seen.loads > before).then_some(()))
    }

    /// The value of an expression; promises are awaited.
    ///
    /// # Errors
    ///
    /// [`Error::Script`] if it throws, [`Error::Value`] if it gives another type.
    pub fn evaluate<T: DeserializeOwned>(&self, script: &str) -> Result<T, Error> {
        self.evaluate_in(None, PATIENCE, script)
    }

    /// [`Page::evaluate`] in a world of this number.
    pub(crate) fn evaluate_in<T: DeserializeOwned>(
        &self,
        world: Option<u64>,
        patience: Duration,
        script: &str,
    ) -> Result<T, Error> {
        let mut params =
            json!({"expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        if let (Some(world), Some(params)) = (world, params.as_object_mut()) {
            params.insert("contextId".into(), world.into());
        }
        let answer = self.pipe.call_within(patience, Some(&self.session), "Runtime.evaluate", params)?;
        if let Some(details) = answer.get("exceptionDetails") {
            return Err(Error::Script { script: shown(script), message: exception(details) });
        }
        let value = answer.pointer("/result/value").cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|source| Error::Value { script: shown(script), source })
    }

    /// A world of its own in the page: the same document, other variables. It lasts until the page loads another document.
    pub(crate) fn world(&self) -> Result<u64, Error> {
        const METHOD: &str = "Page.createIsolatedWorld";
        let tree = self.call("Page.getFrameTree", json!({}))?;
        let frame = tree.pointer("/frameTree/frame/id").and_then(Value::as_str);
        let frame = frame.ok_or(Error::Answer { method: "Page.getFrameTree".into(), missing: "frame" })?;
        let made = self.call(METHOD, json!({"frameId": frame, "worldName": "semlink-browser"}))?;
        let world = made.get("executionContextId").and_then(Value::as_u64);
        world.ok_or(Error::Answer { method: METHOD.into(), missing: "executionContextId" })
    }

    /// Waits until an expression is truthy and gives its value. One that throws counts as false; promises are awaited. Goes on over a change
    /// of the document.
    ///
    /// # Errors
    ///
    /// [`Error::Late`] with the last value, [`Error::Script`] for what is no expression.
    pub fn wait_for<T: DeserializeOwned>(&self, condition: &str, within: Duration) -> Result<T, Error> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let script = WAIT.replace("LIMIT", &left.as_millis().to_string()).replace("CONDITION", condition);
            // Longer than it waits itself: a page that hangs is told as one.
            let answer: Value = match self.evaluate_in(None, left + PATIENCE, &script) {
                Ok(answer) => answer,
                // The document was left in the middle of it.
                Err(Error::Refused { .. }) if !left.is_zero() => continue,
                Err(other) => return Err(other),
            };
            let last = answer.get("last").cloned().unwrap_or_default();
            if answer.get("ok") != Some(&Value::Bool(true)) {
                return Err(Error::Late { what: format!("{}, at last {last}", shown(condition)), after: within });
            }
            return serde_json::from_value(last).map_err(|source| Error::Value { script: shown(condition), source });
        }
    }

    /// Sets the size of the page, as on a telephone: the page says itself how wide it wants to be laid out, and scroll bars take no room.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn viewport(&self, width: u32, height: u32) -> Result<(), Error> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800});
        self.call("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// Sets what `prefers-color-scheme` says; `None` for what the browser was started with.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn color_scheme(&self, scheme: Option<Scheme>) -> Result<(), Error> {
        let value = match scheme {
            Some(Scheme::Light) => "light",
            Some(Scheme::Dark) => "dark",
            None => "",
        };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Takes the network away from the page, loopback as well, or gives it back.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn offline(&self, offline: bool) -> Result<(), Error> {
        let conditions = json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.call("Network.emulateNetworkConditions", conditions).map(drop)
    }

    /// Makes the page's processor so many times slower; 1 is as it is.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn slow_down(&self, times: f64) -> Result<(), Error> {
        self.call("Emulation.setCPUThrottlingRate", json!({"rate": times})).map(drop)
    }

    /// Chooses files in the file input that fits the selector.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without such an element.
    pub fn choose_files(&self, selector: &str, files: &[impl AsRef<Path>]) -> Result<(), Error> {
        let document = self.call("DOM.getDocument", json!({"depth": 0}))?;
        let root = document.pointer("/root/nodeId").cloned().unwrap_or_default();
        let found = self.call("DOM.querySelector", json!({"nodeId": root, "selector": selector}))?;
        match found.get("nodeId").and_then(Value::as_u64) {
            Some(node) if node > 0 => {
                self.call("DOM.setFileInputFiles", json!({"nodeId": node, "files": paths(files)})).map(drop)
            }
            _ => Err(Error::Missing(selector.to_owned())),
        }
    }

    /// A picture of what is to be seen in the viewport, as PNG.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn screenshot(&self) -> Result<Vec<u8>, Error> {
        const METHOD: &str = "Page.captureScreenshot";
        let answer = self.call(METHOD, json!({"format": "png"}))?;
        let data = answer.get("data").and_then(Value::as_str).and_then(|data| BASE64.decode(data).ok());
        data.ok_or(Error::Answer { method: METHOD.into(), missing: "data" })
    }

    /// Every request so far.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn requests(&self) -> Result<Vec<Request>, Error> {
        self.observe(|seen| seen.requests.iter().map(|(_, request)| request.clone()).collect())
    }

    /// Addresses that were asked for and do not begin with `origin`; `data:` and `blob:`, which are no network, are left out.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn fetched_elsewhere(&self, origin: &str) -> Result<Vec<String>, Error> {
        let own = format!("{}/", origin.trim_end_matches('/'));
        let here = |url: &str| [own.as_str(), "data:", "blob:"].iter().any(|start| url.starts_with(start));
        Ok(self.requests()?.into_iter().map(|request| request.url).filter(|url| !here(url)).collect())
    }

    /// What the page complained of since it was last asked: exceptions, `console.error`, failed requests. They no longer count for
    /// [`Page::finish`].
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn take_problems(&self) -> Result<Vec<Problem>, Error> {
        // Complaints that are under way come before the answer.
        self.evaluate::<Value>("null")?;
        self.observe(|seen| std::mem::take(&mut seen.problems))
    }

    /// Closes the page.
    ///
    /// # Errors
    ///
    /// [`Error::Problems`] if it complained of anything.
    pub fn finish(self) -> Result<(), Error> {
        let problems = self.take_problems()?;
        if problems.is_empty() { Ok(()) } else { Err(Error::Problems(problems)) }
    }

    /// Stops counting requests, for measurements that this would disturb.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn stop_watching_network(&self) -> Result<(), Error> {
        self.call("Network.disable", json!({})).map(drop)
    }

    fn observe<T>(&self, look: impl Fn(&mut crate::network::Observed) -> T) -> Result<T, Error> {
        self.pipe.observe(PATIENCE, &self.session, "the page", |seen| Some(look(seen)))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Best effort: the browser may have gone.
        self.pipe.call(None, "Target.closeTarget", json!({"targetId": self.target})).ok();
        self.pipe.call(None, "Target.disposeBrowserContext", json!({"browserContextId": self.context})).ok();
        self.pipe.forget(&self.session);
    }
}

/// As the protocol takes them, absolute where they exist.
pub(crate) fn paths(files: &[impl AsRef<Path>]) -> Vec<PathBuf> {
    files.iter().map(|file| file.as_ref().canonicalize().unwrap_or_else(|_| file.as_ref().to_owned())).collect()
}

fn string(value: &Value, field: &'static str, method: &str) -> Result<String, Error> {
    let text = value.get(field).and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| Error::Answer { method: method.to_owned(), missing: field })
}
