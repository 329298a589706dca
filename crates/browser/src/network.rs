//! What a page fetches and what it complains of.

use std::fmt;

use serde_json::Value;

/// One request of a page, a redirected one counted again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Its address.
    pub url: String,
    /// What for: `Document`, `Script`, `Stylesheet`, `Image`, `Fetch`, `EventSource` and so on.
    pub kind: String,
    /// Status of the answer, once it has begun.
    pub status: Option<u16>,
    /// Bytes of the answer as they came over the network so far, headers with them.
    pub bytes: u64,
    /// The answer is there as a whole.
    pub finished: bool,
    /// Why it failed.
    pub failed: Option<String>,
}

/// Something that a page complained of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Who says so: `exception`, `console`, or a part of the browser such as `network` or `security`.
    pub source: String,
    /// What it says.
    pub text: String,
    /// Where, if known.
    pub url: Option<String>,
}

/// What the browser told about a page.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// How many documents have loaded.
    pub(crate) loads: u64,
    pub(crate) requests: Vec<(String, Request)>,
    pub(crate) problems: Vec<Problem>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.text)?;
        match &self.url {
            Some(url) => write!(f, " ({url})"),
            None => Ok(()),
        }
    }
}

impl Observed {
    pub(crate) fn take(&mut self, method: &str, params: &Value) {
        match method {
            "Page.loadEventFired" => self.loads += 1,
            "Network.requestWillBeSent" => {
                let url = text(params, "/request/url");
                let request = Request { url, kind: text(params, "/type"), ..Request::default() };
                self.requests.push((text(params, "/requestId"), request));
            }
            "Network.webSocketCreated" => {
                let request = Request { url: text(params, "/url"), kind: "WebSocket".into(), ..Request::default() };
                self.requests.push((text(params, "/requestId"), request));
            }
            "Network.responseReceived" => {
                let status = params.pointer("/response/status").and_then(Value::as_u64);
                let headers = number(params, "/response/encodedDataLength");
                self.change(params, |request| {
                    request.status = status.and_then(|status| u16::try_from(status).ok());
                    request.bytes = headers;
                });
            }
            "Network.dataReceived" => {
                // Of a stream that goes on, only its decoded length is told.
                let encoded = number(params, "/encodedDataLength");
                let more = if encoded > 0 { encoded } else { number(params, "/dataLength") };
                self.change(params, |request| request.bytes += more);
            }
            "Network.loadingFinished" => {
                // The sum, which is more exact than its parts.
                let bytes = number(params, "/encodedDataLength");
                self.change(params, |request| (request.bytes, request.finished) = (bytes, true));
            }
            "Network.loadingFailed" => {
                let why = text(params, "/errorText");
                self.change(params, |request| request.failed = Some(why.clone()));
            }
            "Runtime.exceptionThrown" => {
                let details = params.get("exceptionDetails").unwrap_or(&Value::Null);
                self.complain("exception", exception(details), text(details, "/url"));
            }
            "Runtime.consoleAPICalled" if matches!(text(params, "/type").as_str(), "error" | "assert") => {
                let values = params.get("args").and_then(Value::as_array);
                let values = values.into_iter().flatten().map(printed).collect::<Vec<_>>();
                self.complain("console", values.join(" "), text(params, "/stackTrace/callFrames/0/url"));
            }
            "Log.entryAdded" if text(params, "/entry/level") == "error" => {
                let source = text(params, "/entry/source");
                self.complain(&source, text(params, "/entry/text"), text(params, "/entry/url"));
            }
            _ => (),
        }
    }

    fn complain(&mut self, source: &str, text: String, url: String) {
        self.problems.push(Problem { source: source.to_owned(), text, url: Some(url).filter(|url| !url.is_empty()) });
    }

    /// The latest of this id: a redirected request keeps it.
    fn change(&mut self, params: &Value, mut change: impl FnMut(&mut Request)) {
        let id = text(params, "/requestId");
        if let Some((_, request)) = self.requests.iter_mut().rev().find(|(of, _)| *of == id) {
            change(request);
        }
    }
}

/// What an exception says, with the place where the browser tells it.
pub(crate) fn exception(details: &Value) -> String {
    let described = text(details, "/exception/description");
    if !described.is_empty() {
        return described;
    }
    let value = details.pointer("/exception/value").map(Value::to_string).unwrap_or_default();
    format!("{} {value}", text(details, "/text")).trim().to_owned()
}

/// A value as the console shows it.
fn printed(value: &Value) -> String {
    let described = text(value, "/description");
    match value.get("value") {
        Some(Value::String(text)) => text.clone(),
        Some(other) if described.is_empty() => other.to_string(),
        _ => described,
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The protocol says numbers of bytes as floating-point numbers, and -1 where it does not know.
fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_default().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_redirected_request_is_two_and_bytes_belong_to_the_last() {
        let mut seen = Observed::default();
        for url in ["http://a/", "http://b/"] {
            let params = json!({"requestId": "1", "request": {"url": url}, "type": "Document"});
            seen.take("Network.requestWillBeSent", &params);
        }
        seen.take(
            "Network.responseReceived",
            &json!({"requestId": "1", "response": {"status": 200, "encodedDataLength": 90}}),
        );
        seen.take("Network.dataReceived", &json!({"requestId": "1", "encodedDataLength": 0, "dataLength": 500}));
        seen.take("Network.loadingFinished", &json!({"requestId": "1", "encodedDataLength": 120.0}));
        let urls: Vec<_> = seen.requests.iter().map(|(_, r)| (r.url.as_str(), r.bytes, r.status)).collect();
        assert_eq!(urls, [("http://a/", 0, None), ("http://b/", 120, Some(200))]);
    }

    #[test]
    fn warnings_are_no_problems() {
        let mut seen = Observed::default();
        seen.take("Runtime.consoleAPICalled", &json!({"type": "warning", "args": []}));
        seen.take("Log.entryAdded", &json!({"entry": {"level": "info", "source": "network", "text": "x"}}));
        seen.take(
            "Runtime.consoleAPICalled",
            &json!({"type": "error", "args": [{"value": "lost"}, {"value": 3, "type": "number"}]}),
        );
        let told: Vec<String> = seen.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["console: lost 3"]);
    }
}
