//! The driver on pages of its own, served on loopback.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use semlink_browser::{Browser, Error, Page, Scheme};

const SOON: Duration = Duration::from_secs(10);

/// A browser and a page in it that shows this document; `None` where no browser is installed.
fn page(html: &str) -> Option<(Arc<Browser>, Page)> {
    let browser = Browser::shared().expect("it starts")?;
    let page = browser.page().expect("a page");
    page.navigate(&document(html)).expect("it loads");
    Some((browser, page))
}

/// An address that holds the document.
fn document(html: &str) -> String {
    let bytes = html.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    format!("data:text/html;charset=utf-8,{bytes}")
}

/// Answers requests of any number of connections with what `answer` gives for their path: head and body.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), answer) = (stream, answer.clone()) else { continue };
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                let _ = lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
                answer(first.split(' ').nth(1).unwrap_or_default(), &mut stream);
            });
        }
    });
    format!("http://{address}")
}

fn respond(stream: &mut TcpStream, status: &str, kind: &str, body: &str) {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n");
    // The browser may have gone.
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).ok();
}

#[test]
fn values_promises_and_exceptions_come_back() {
    let Some((_browser, page)) = page("<p id=p>text</p>") else { return };
    let numbers: Vec<f64> = page.evaluate("[1, 2.5]").expect("numbers");
    assert_eq!(numbers, [1.0, 2.5]);
    let late: String = page
        .evaluate(
            "new Promise(resolve => requestAnimationFrame(() => resolve(document.querySelector('p').textContent)))",
        )
        .expect("text");
    assert_eq!(late, "text");
    assert_eq!(page.evaluate::<Option<bool>>("undefined").expect("nothing"), None);
    let error = page.evaluate::<bool>("missing.x").expect_err("no such variable");
    assert!(matches!(&error, Error::Script { message, .. } if message.contains("missing is not defined")), "{error}");
    let error = page.evaluate::<bool>("'text'").expect_err("another type");
    assert!(matches!(error, Error::Value { .. }), "{error}");
    page.finish().expect("no complaints");
}

#[test]
fn a_condition_is_waited_for_over_changes_of_the_document_and_told_when_it_stays_away() {
    let Some((_browser, page)) = page("<p>0</p><script>
        let n = 0; const more = () => { document.querySelector('p').textContent = ++n; if (n < 30) requestAnimationFrame(more); }; more();
    </script>") else {
        return;
    };
    let n: String = page
        .wait_for("+document.querySelector('p').textContent >= 20 && document.querySelector('p').textContent", SOON)
        .expect("it comes");
    assert!(n.parse::<u32>().expect("a number") >= 20);
    // What throws is not yet true; what is no expression never will be.
    page.evaluate::<bool>("setTimeout(() => document.body.innerHTML = '<b>here</b>', 50) > 0").expect("a timer");
    let text: String = page.wait_for("document.querySelector('b').textContent", SOON).expect("it comes");
    assert_eq!(text, "here");
    let error = page.wait_for::<bool>("1 +", SOON).expect_err("no expression");
    assert!(matches!(error, Error::Script { .. }), "{error}");
    let error = page.wait_for::<bool>("document.querySelector('i').hidden", Duration::from_millis(100));
    let error = error.expect_err("it is not there").to_string();
    assert!(error.contains("100ms") && error.contains("TypeError"), "{error}");
    // Another document in the middle of the wait.
    page.navigate(&serve(|_, stream| respond(stream, "200 OK", "text/html", "<p>anew"))).expect("it loads");
    page.evaluate::<bool>("window.old = true, setTimeout(() => location.reload(), 50) > 0").expect("a timer");
    page.wait_for::<bool>("!window.old", SOON).expect("the new document");
}

#[test]
fn pointer_and_keys_do_what_a_person_does() {
    let Some((_browser, page)) = page(
        "<input id=text> <input id=range type=range min=0 max=100 value=0 style='width: 300px'> <button id=go>go</button>
        <div style='position: relative'><button id=under>under</button><div id=over style='position: absolute; inset: 0'></div></div>
        <script>
            window.inputs = []; window.clicks = [];
            range.addEventListener('input', () => inputs.push(+range.value));
            go.addEventListener('click', event => clicks.push(event.isTrusted));
        </script>",
    ) else {
        return;
    };
    page.fill("#text", "-3.5 dB").expect("typed");
    assert_eq!(page.evaluate::<String>("text.value").expect("text"), "-3.5 dB");
    page.fill("#text", "x").expect("typed over");
    assert_eq!(page.evaluate::<String>("text.value").expect("text"), "x");
    page.press("Tab").expect("a key");
    page.press("ArrowRight").expect("a key");
    page.press("End").expect("a key");
    assert_eq!(page.evaluate::<Vec<f64>>("inputs").expect("numbers"), [1.0, 100.0]);
    page.press("Tab").expect("a key");
    page.press("Space").expect("a key");
    page.press("Enter").expect("a key");
    page.click("#go").expect("a click");
    assert_eq!(page.evaluate::<Vec<bool>>("clicks").expect("clicks"), [true; 3]);
    page.press("Shift+Tab").expect("a key");
    assert_eq!(page.evaluate::<String>("document.activeElement.id").expect("an id"), "range");
    page.drag("#range", 1.0, 0.5, 10).expect("dragged");
    let values: Vec<f64> = page.evaluate("inputs").expect("numbers");
    assert!(values.len() > 6 && (45.0..55.0).contains(values.last().expect("one")), "{values:?}");

    let error = page.click("#under").expect_err("covered");
    assert!(matches!(&error, Error::Covered { by, .. } if by.contains("over")), "{error}");
    assert!(matches!(page.click("#none"), Err(Error::Missing(_))));
    assert!(matches!(page.press("Hyper"), Err(Error::Key(_))));
    page.finish().expect("no complaints");
}

#[test]
fn files_are_chosen_and_dropped() {
    let Some((_browser, page)) = page(
        "<input type=file multiple id=file> <div id=drop style='width: 200px; height: 100px'></div> <script>
            window.got = [];
            const take = async files => { for (const f of files) got.push(`${f.name}: ${await f.text()}`); };
            file.addEventListener('change', () => take(file.files));
            drop.addEventListener('dragover', event => event.preventDefault());
            drop.addEventListener('drop', event => { event.preventDefault(); take(event.dataTransfer.files); });
        </script>",
    ) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("of {name}")).expect("a file");
        path
    };
    page.choose_files("#file", &[path("a"), path("b")]).expect("chosen");
    page.wait_for::<bool>("got.length === 2", SOON).expect("read");
    page.drop_files("#drop", &[path("c")]).expect("dropped");
    page.wait_for::<bool>("got.length === 3", SOON).expect("read");
    assert_eq!(page.evaluate::<Vec<String>>("got").expect("texts"), ["a: of a", "b: of b", "c: of c"]);
    assert!(matches!(page.choose_files("#none", &[path("a")]), Err(Error::Missing(_))));
}

#[test]
fn window_and_colours_are_set_and_seen() {
    let Some((_browser, page)) = page(
        "<meta name=viewport content='width=device-width'><style>
            :root { background: rgb(250, 250, 250) } @media (prefers-color-scheme: dark) { :root { background: rgb(10, 10, 10) } }
        </style>",
    ) else {
        return;
    };
    for (scheme, level) in [(Scheme::Dark, 10), (Scheme::Light, 250)] {
        page.color_scheme(Some(scheme)).expect("set");
        page.viewport(360, 500).expect("set");
        assert_eq!(page.evaluate::<[u32; 2]>("[innerWidth, innerHeight]").expect("numbers"), [360, 500]);
        let picture = image::load_from_memory(&page.screenshot().expect("a picture")).expect("PNG").to_rgb8();
        assert_eq!((picture.dimensions(), picture.get_pixel(100, 100).0), ((360, 500), [level; 3]));
    }
}

#[test]
fn everything_that_is_fetched_is_weighed_and_told() {
    let origin = serve(|path, stream| match path {
        "/" => respond(
            stream,
            "200 OK",
            "text/html",
            "<script src=/script></script><img src=http://elsewhere.example/x.png>",
        ),
        "/script" => {
            respond(stream, "200 OK", "text/javascript", &format!("/*{}*/ window.ran = true;", "x".repeat(5000)))
        }
        _ => respond(stream, "404 Not Found", "text/plain", "no"),
    });
    let Some(browser) = Browser::shared().expect("it starts") else { return };
    let page = browser.page().expect("a page");
    page.navigate(&format!("{origin}/")).expect("it loads");
    page.wait_for::<bool>("window.ran", SOON).expect("the script ran");
    let requests = page.requests().expect("requests");
    let script = requests.iter().find(|r| r.url == format!("{origin}/script")).expect("the script");
    assert!((5000..5400).contains(&script.bytes), "{script:?}");
    assert_eq!((script.kind.as_str(), script.status, script.finished), ("Script", Some(200), true));
    let elsewhere = page.fetched_elsewhere(&origin).expect("addresses");
    assert_eq!(elsewhere, ["http://elsewhere.example/x.png"]);
    // And nothing came from there.
    let failed = requests.iter().find(|r| r.url == elsewhere[0]).and_then(|r| r.failed.clone());
    assert_eq!(failed.as_deref(), Some("net::ERR_NAME_NOT_RESOLVED"));
    assert!(matches!(page.finish(), Err(Error::Problems(_))), "a picture is missing");
}

#[test]
fn a_stream_of_events_is_counted_while_it_goes_on() {
    let origin = serve(|path, stream| {
        if path == "/" {
            let html = "<p></p><script>new EventSource('/events').onmessage = e => document.querySelector('p').textContent = e.data</script>";
            return respond(stream, "200 OK", "text/html", html);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("a reader");
        for n in 0..1000 {
            stream.write_all(format!("data: {n}\n\n").as_bytes()).expect("a reader");
        }
        // Open until the page goes.
        std::io::copy(stream, &mut std::io::sink()).ok();
    });
    let Some(browser) = Browser::shared().expect("it starts") else { return };
    let page = browser.page().expect("a page");
    page.navigate(&format!("{origin}/")).expect("it loads, whatever the events do");
    page.wait_for::<bool>("document.querySelector('p').textContent === '999'", SOON).expect("the last event");
    let requests = page.requests().expect("requests");
    let events = requests.iter().find(|r| r.kind == "EventSource").expect("the stream");
    assert!(!events.finished && events.bytes >= 10_000, "{events:?}");
    page.finish().expect("no complaints");
}

#[test]
fn complaints_are_collected_until_they_are_taken() {
    let Some((_browser, page)) = page(
        "<script>console.warn('hm'); console.error('lost', 3); setTimeout(() => { throw new Error('thrown') })</script>",
    ) else {
        return;
    };
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(page.take_problems().expect("problems").iter().map(ToString::to_string));
    }
    assert!(told[0].starts_with("console: lost 3") && told[1].contains("exception: Error: thrown"), "{told:?}");
    page.evaluate::<bool>("Promise.reject(new Error('alone')) && true").expect("a value");
    page.evaluate::<bool>("new Promise(resolve => setTimeout(() => resolve(true), 0))").expect("a turn");
    let error = page.finish().expect_err("a promise was rejected").to_string();
    assert!(error.contains("alone"), "{error}");
}

#[test]
fn a_page_without_network_does_not_reach_loopback() {
    let origin = serve(|_, stream| respond(stream, "200 OK", "text/html", "<p>here"));
    let Some(browser) = Browser::shared().expect("it starts") else { return };
    let page = browser.page().expect("a page");
    page.navigate(&origin).expect("it loads");
    let reached = "fetch('/').then(() => true, () => false)";
    page.offline(true).expect("set");
    assert!(!page.evaluate::<bool>(reached).expect("an answer"));
    page.offline(false).expect("set");
    assert!(page.evaluate::<bool>(reached).expect("an answer"));
    let error = page.navigate("http://127.0.0.1:1/").expect_err("nobody listens");
    assert!(matches!(error, Error::Load { .. }), "{error}");
}

#[test]
fn pages_share_nothing_and_both_are_drawn() {
    let origin = serve(|_, stream| respond(stream, "200 OK", "text/html", "<p>here"));
    let Some(browser) = Browser::shared().expect("it starts") else { return };
    let pages = [browser.page().expect("a page"), browser.page().expect("another")];
    for page in &pages {
        page.navigate(&origin).expect("it loads");
        let fresh: bool = page.evaluate("localStorage.x === undefined && (localStorage.x = 1, true)").expect("a value");
        assert!(fresh);
    }
    for page in &pages {
        let frames = "new Promise(resolve => { let n = 0; const next = () => ++n === 5 ? resolve(n) : requestAnimationFrame(next); next() })";
        assert_eq!(page.evaluate::<u32>(frames).expect("frames"), 5);
        assert!(
            page.evaluate::<bool>("document.visibilityState === 'visible' && document.hasFocus()").expect("a value")
        );
    }
}

#[test]
fn a_slow_page_takes_longer_for_the_same_work() {
    let Some((_browser, page)) = page("") else { return };
    let work = "(() => { const begin = performance.now(); let x = 0; for (let i = 0; i < 2e7; i++) x += i % 7; return performance.now() - begin })()";
    let least = |page: &Page| (0..3).map(|_| page.evaluate::<f64>(work).expect("a time")).fold(f64::MAX, f64::min);
    let usual = least(&page);
    page.slow_down(8.0).expect("set");
    let slow = least(&page);
    assert!(slow > 2.0 * usual, "{usual} ms, then {slow} ms");
}

#[test]
fn what_is_no_browser_is_an_error_and_no_wait() {
    let error = Browser::start("/nonexistent/chromium").expect_err("no such file");
    assert!(matches!(&error, Error::Gone(what) if what.contains("/nonexistent/chromium")), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_of_a_browser_that_is_dropped() {
    let Some(program) = Browser::find() else { return };
    let browser = Browser::start(program).expect("it starts");
    let process = browser.process();
    let command = std::fs::read(format!("/proc/{process}/cmdline")).expect("a process");
    let command = String::from_utf8_lossy(&command).into_owned();
    let folder =
        command.split(&['\0', ' '][..]).find_map(|word| word.strip_prefix("--user-data-dir=")).expect("a folder");
    assert!(std::path::Path::new(folder).is_dir() && browser.version().contains('/'), "{}", browser.version());
    let page = browser.page().expect("a page");
    drop(browser);
    assert!(!std::path::Path::new(folder).exists(), "{folder}");
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    // A page that outlives it says so.
    assert!(matches!(page.evaluate::<bool>("true"), Err(Error::Gone(_))));
}
