//! The dashboard as a browser's requests see it, without a browser.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use semlink_channel::SnrDb;
use serde_json::{Value, json};
use support::{Chain, assets, command, listener, path};
use tokio::sync::oneshot;

/// What a page may weigh, everything.
const WEIGHT: usize = 150_000;
/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `semlink dashboard`; killed with the value.
struct Dashboard {
    process: Child,
    address: SocketAddr,
    _output: BufReader<ChildStdout>,
}

/// An answer: status, headers in lower case, body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// An open page: its events.
struct Page(BufReader<TcpStream>);

impl Dashboard {
    fn start(transmitter: &str, emulator: &str, more: &[&str]) -> Dashboard {
        let urls = ["dashboard", "--to", transmitter, "--control", emulator, "--listen", "127.0.0.1:0"];
        let mut process = command().args(urls).args(more).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address = line.split("://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        Dashboard { address: address.parse().expect("an address"), process, _output: output }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a listening dashboard");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    fn raw(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).expect("a request");
        // A body that is refused need not be taken.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let (host, length) = (self.address, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.raw(&head, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", b"")
    }

    /// As the page's own script asks.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.request(method, path, "x-semlink: 1\r\ncontent-type: application/json\r\n", body.to_string().as_bytes())
    }

    /// Opens a page.
    fn page(&self, headers: &str) -> Page {
        let mut stream = self.connect();
        let host = self.address;
        write!(stream, "GET /events HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n").expect("a request");
        Page(BufReader::new(stream))
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Page {
    /// The next event of this name that is as wanted.
    fn until(&mut self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = std::time::Instant::now();
        let (mut line, mut event) = (String::new(), String::new());
        let mut last = Value::Null;
        loop {
            line.clear();
            let read = self.0.read_line(&mut line);
            assert!(matches!(read, Ok(1..)) && begin.elapsed() < PATIENCE, "{read:?}, the last {name} was {last}");
            if let Some(named) = line.strip_prefix("event: ") {
                event = named.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| event == name) {
                last = serde_json::from_str(data).expect("JSON");
                if is_wanted(&last) {
                    return last;
                }
            }
        }
    }
}

/// Services with a bundle of random weights, and a dashboard with images.
fn started(more: &[&str]) -> (tempfile::TempDir, Chain, Dashboard) {
    let dir = assets();
    let chain = Chain::start(&dir.path().join("bundle"));
    let data = path(&dir, "data");
    let dashboard = Dashboard::start(&chain.transmitter, &chain.emulator, &[&["--data", &data], more].concat());
    (dir, chain, dashboard)
}

#[test]
fn a_page_needs_nothing_from_elsewhere_and_is_light() {
    let (_dir, _chain, dashboard) = started(&[]);
    let index = dashboard.get("/");
    assert_eq!(index.status, 200);
    let mut weight = index.body.len();
    let mut names: Vec<String> = ["href=\"", "src=\""]
        .iter()
        .flat_map(|attribute| index.body.split(attribute).skip(1))
        .map(|rest| rest.split('"').next().expect("a name").to_owned())
        .collect();
    names.push("charts.js".to_owned());
    assert_eq!(names.len(), 4, "{names:?}");
    for name in names {
        let part = dashboard.get(&format!("/{name}"));
        assert_eq!(part.status, 200, "{name}");
        // The name space of SVG is no address.
        let text = part.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{name}");
        weight += part.body.len();
    }
    assert!(weight <= WEIGHT, "{weight} bytes");
    assert!(index.head.contains("default-src 'none'; script-src 'self'"), "{}", index.head);
    assert_eq!(dashboard.get("/nothing").status, 404);
}

#[test]
fn a_page_shows_the_link_and_changes_its_channel() {
    let (_dir, _chain, dashboard) = started(&[]);
    let mut page = dashboard.page("");
    let settings = page.until("settings", |now| now["channel"].is_object() && now["codec"].is_object());
    assert_eq!((&settings["transmitter"]["up"], &settings["emulator"]["up"]), (&true.into(), &true.into()));
    assert_eq!((&settings["channel"]["snr_db"], &settings["codec"]["default_uses"]), (&7.0.into(), &64.into()));
    let live =
        page.until("live", |now| now["frame"].is_object() && !now["recent"].as_array().expect("a list").is_empty());
    let frame = &live["frame"];
    assert_eq!((frame["sent"].as_array().map(Vec::len), &frame["symbols"]), (Some(128), &64.into()));
    let recent = &live["recent"][0];
    let image = dashboard.get(&format!("/{}", recent["image"].as_str().expect("an address")));
    assert!(image.status == 200 && image.head.contains("image/png"), "{}", image.head);
    assert!(recent["decided"]["right"].is_boolean() && recent["truth"].is_string(), "{recent}");

    let told = dashboard.ask("POST", "/api/channel", &json!({"kind": "rician", "k_factor_db": 40.0, "snr_db": -3.5}));
    let told: Value = serde_json::from_str(&told.body).expect("JSON");
    let live = page.until("live", |now| now["frame"]["version"] == told["version"]);
    assert_eq!(live["frame"]["snr_db_requested"], -3.5);
    // 64 symbols of noise: a deviation of 0.54 dB; the line of sight adds little.
    let realised = live["frame"]["snr_db_realised"].as_f64().expect("a number");
    assert!((realised + 3.5).abs() < 3.0, "{realised}");
    page.until("live", |now| {
        now["curve"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|point| point["channel"] == "rician" && point["snr_db"] == -4)
    });

    assert_eq!(dashboard.ask("POST", "/api/feed", &json!({"rate": "8"})).status, 204);
    page.until("live", |now| now["recent"][0]["decided"]["uses"] == 8);
    assert_eq!(dashboard.ask("POST", "/api/feed", &json!({"paused": true})).status, 204);
    page.until("live", |now| now["figures"]["images_per_second"] == 0.0);
    assert_eq!(dashboard.ask("DELETE", "/api/channel", &Value::Null).status, 200);
    let settings = page.until("settings", |now| now["channel"]["kind"] == "awgn");
    assert_eq!(settings["channel"]["snr_db"], 7.0);
}

#[test]
fn a_limit_is_drawn_for_the_channel_as_it_is() {
    let dir = assets();
    let manifest = dir.path().join("bundle/bundle.json");
    let mut described: Value = serde_json::from_slice(&std::fs::read(&manifest).expect("a manifest")).expect("JSON");
    described["clean_accuracy"] = 0.9.into();
    std::fs::write(&manifest, described.to_string()).expect("a manifest");
    let chain = Chain::start(&dir.path().join("bundle"));
    let dashboard = Dashboard::start(&chain.transmitter, &chain.emulator, &["--data", &path(&dir, "data")]);
    let mut page = dashboard.page("");
    for kind in ["awgn", "rayleigh"] {
        dashboard.ask("POST", "/api/channel", &json!({"kind": kind}));
        let settings = page.until("settings", |now| now["limit"]["channel"] == kind && now["limit"]["uses"] == 64);
        let channel = semlink_channel::ChannelConfig {
            kind: kind.parse().expect("a kind"),
            ..semlink_channel::ChannelConfig::rayleigh(SnrDb::try_new(-15.0).expect("an SNR"))
        };
        let uses = semlink_channel::ChannelUses::try_new(64).expect("uses");
        let expected = semlink_channel::limit::accuracy(0.9, 10, &channel, uses).expect("a limit");
        let found = settings["limit"]["points"].as_array().expect("points").iter().find(|point| point[0] == -15.0);
        let found = found.expect("a point")[1].as_f64().expect("a number");
        assert!((found - expected).abs() < 1e-9, "{kind}: {found}, expected {expected}");
    }
}

#[test]
fn a_sweep_fills_the_curve_and_gives_the_channel_back() {
    let (_dir, _chain, dashboard) = started(&[]);
    let mut page = dashboard.page("");
    page.until("settings", |now| now["channel"].is_object() && now["codec"].is_object());
    let order = json!({"snr": "-10,10", "channels": ["rayleigh", "awgn"], "images": 12});
    assert_eq!(dashboard.ask("POST", "/api/sweep", &order).status, 202);
    let settings = page.until("settings", |now| {
        let is_back = now["channel"]["snr_db"] == 7.0 && now["channel"]["kind"] == "awgn";
        now["sweep"]["running"] == false && now["sweep"]["of"] == 48 && is_back
    });
    let sweep = &settings["sweep"];
    let points: Vec<_> = sweep["points"]
        .as_array()
        .expect("points")
        .iter()
        .map(|p| (&p["channel"], &p["snr_db"], &p["images"]))
        .collect();
    let twelve = Value::from(12);
    let expected = [("awgn", -10.0), ("awgn", 10.0), ("rayleigh", -10.0), ("rayleigh", 10.0)]
        .map(|(kind, db)| (Value::from(kind), Value::from(db)));
    assert_eq!(points, expected.iter().map(|(kind, db)| (kind, db, &twelve)).collect::<Vec<_>>());
    assert_eq!((&sweep["answered"], &sweep["error"]), (&48.into(), &"".into()));

    // A long one is stopped; meanwhile nobody else changes the channel.
    let long = json!({"snr": "-20:20:0.1", "channels": ["rayleigh"], "images": 12});
    assert_eq!(dashboard.ask("POST", "/api/sweep", &long).status, 202);
    page.until("settings", |now| now["sweep"]["running"] == true && now["channel"]["kind"] == "rayleigh");
    for (path, body) in [("/api/channel", json!({"snr_db": 3.0})), ("/api/sweep", long)] {
        let refused = dashboard.ask("POST", path, &body);
        assert!(refused.status >= 400 && refused.body.contains("stop it first"), "{path}: {}", refused.body);
    }
    assert_eq!(dashboard.ask("DELETE", "/api/sweep", &Value::Null).status, 204);
    let settings = page.until("settings", |now| now["sweep"]["running"] == false && now["channel"]["kind"] == "awgn");
    assert_eq!((&settings["sweep"]["error"], &settings["channel"]["snr_db"]), (&"stopped".into(), &7.0.into()));
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let (dir, _chain, dashboard) = started(&["--max-image-bytes", "20000"]);
    let png = semlink_codec::testing::png(1);
    let own = "x-semlink: 1\r\n";
    let decided = dashboard.request("POST", "/api/classify", own, &png);
    assert!(decided.status == 200 && decided.body.contains("\"confidence\""), "{}", decided.body);
    for (file, status, said) in [
        (b"no image".to_vec(), 400, "not an image in a known format"),
        (png[..png.len() / 2].to_vec(), 400, ""),
        (Vec::new(), 400, ""),
        (vec![0; 20_001], 413, "more than 20000 bytes"),
    ] {
        let refused = dashboard.request("POST", "/api/classify", own, &file);
        assert!(refused.status == status && refused.body.contains(said), "{}: {}", refused.status, refused.body);
    }
    for (path, body, said) in [
        ("/api/channel", json!({"snr_db": 500.0}), "snr_db"),
        ("/api/channel", json!({"snr_db": null, "k_factor_db": -99.0}), "k_factor_db"),
        ("/api/channel", json!({"coherence": -1}), "coherence"),
        ("/api/channel", json!({"kind": "tidal"}), "tidal"),
        ("/api/channel", json!({"csi": "guess"}), "guess"),
        ("/api/channel", json!({"snr": 3.0}), "snr"),
        ("/api/feed", json!({"rate": "63"}), "63"),
        ("/api/feed", json!({"rate": "fast"}), "fast"),
        ("/api/feed", json!({"images_per_second": 0.0}), "0.1 to 1000"),
        ("/api/feed", json!({"images_per_second": 1e9}), "0.1 to 1000"),
        ("/api/sweep", json!({"snr": "a:b", "channels": ["awgn"], "images": 1}), "a:b"),
        ("/api/sweep", json!({"snr": "1", "channels": [], "images": 1}), "channel"),
        ("/api/sweep", json!({"snr": "1", "channels": ["awgn"], "images": 13}), "1 to 12"),
        ("/api/sweep", json!({"snr": "-20:20:0.01", "channels": ["awgn"], "images": 1}), "500"),
    ] {
        let refused = dashboard.ask("POST", path, &body);
        let told: Value = serde_json::from_str(&refused.body).expect("JSON");
        let error = told["error"].as_str().expect("an error");
        assert!(
            (400..500).contains(&refused.status) && error.contains(said),
            "{path} {body}: {} {error}",
            refused.status
        );
    }
    let mut page = dashboard.page("");
    let settings = page.until("settings", |now| now["channel"].is_object());
    assert_eq!((&settings["channel"]["version"], &settings["feed"]["rate"]), (&0.into(), &"".into()));
    // Without images of its own a page still shows and changes the link.
    drop(dir);
}

#[test]
fn foreign_pages_get_nothing() {
    let (_dir, _chain, dashboard) = started(&["--host", "edge.example"]);
    let json = "content-type: application/json\r\n";
    let refused = dashboard.request("POST", "/api/channel", json, br#"{"snr_db": 3.0}"#);
    assert!(refused.status == 403 && refused.body.contains("x-semlink"), "{}", refused.body);
    let named =
        |host: &str| dashboard.raw(&format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"), b"").status;
    assert_eq!((named("evil.example"), named("localhost.evil.example:80"), named("")), (403, 403, 403));
    assert_eq!((named("localhost:1"), named("[::1]:1"), named("edge.example")), (200, 200, 200));
    assert!(!dashboard.get("/").head.contains("access-control-allow"));
}

#[test]
fn tokens_are_asked_for_as_the_services_do() {
    let dir = assets();
    let tokens = path(&dir, "tokens");
    std::fs::write(&tokens, "subscribe a-token-to-look-with\nsubscribe,send,control a-token-for-everything\n")
        .expect("tokens");
    let chain = Chain::start(&dir.path().join("bundle"));
    let data = path(&dir, "data");
    let dashboard = Dashboard::start(&chain.transmitter, &chain.emulator, &["--data", &data, "--tokens", &tokens]);
    // The page itself holds no secret; it asks for the token.
    assert_eq!(
        (dashboard.get("/").status, dashboard.get("/events").status, dashboard.get("/images/0").status),
        (200, 401, 401)
    );
    let cookie = |token: &str| dashboard.ask("POST", "/api/token", &json!({ "token": token }));
    assert_eq!(cookie("a-token-that-is-not-known").status, 401);
    let cookie = |token: &str| {
        let told = cookie(token);
        assert_eq!(told.status, 204, "{}", told.body);
        let line = told.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
        assert!(line.contains("httponly") && line.contains("samesite=strict") && !line.contains("a-token"), "{line}");
        format!("cookie: {}\r\n", line.split(';').next().expect("a pair"))
    };
    let (look, all) = (cookie("a-token-to-look-with"), cookie("a-token-for-everything"));
    dashboard.page(&look).until("settings", |now| now["tokens"] == true);
    let change = |headers: &str| {
        let headers = format!("x-semlink: 1\r\ncontent-type: application/json\r\n{headers}");
        dashboard.request("POST", "/api/channel", &headers, br#"{"snr_db": 3.0}"#).status
    };
    assert_eq!(
        (change(&look), change(&all), change("authorization: Bearer a-token-for-everything\r\n")),
        (403, 200, 200)
    );
}

#[test]
fn two_pages_agree_and_a_third_that_does_not_read_holds_up_nobody() {
    let (_dir, chain, dashboard) = started(&["--images-per-second", "200"]);
    let (mut first, mut second, _third) = (dashboard.page(""), dashboard.page(""), dashboard.page(""));
    // Both pull at the slider; the emulator has the last word, and all hear it.
    std::thread::scope(|scope| {
        for offset in [0, 1] {
            let dashboard = &dashboard;
            scope.spawn(move || {
                for step in 0..100 {
                    let snr_db = f64::from(2 * (step % 10) + offset);
                    assert_eq!(dashboard.ask("POST", "/api/channel", &json!({ "snr_db": snr_db })).status, 200);
                }
            });
        }
    });
    let told = dashboard.ask("POST", "/api/channel", &json!({"snr_db": 12.5}));
    let told: Value = serde_json::from_str(&told.body).expect("JSON");
    for page in [&mut first, &mut second] {
        let settings = page.until("settings", |now| now["channel"]["version"] == told["version"]);
        assert_eq!(settings["channel"]["snr_db"], 12.5);
        let live = page.until("live", |now| now["frame"]["version"] == told["version"]);
        assert_eq!(live["figures"]["failed"], 0, "{live}");
    }
    // 201 changes, none lost and none twice.
    assert_eq!(told["version"], 201);
    drop(chain);
}

#[test]
fn a_service_that_leaves_is_named_and_its_return_is_seen() {
    let dir = assets();
    let bundle = dir.path().join("bundle");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (receiver, receiver_url) = listener(&runtime);
    runtime.spawn(semlink_receiver::serve(receiver, semlink_receiver::Config::new(&bundle), std::future::pending()));
    let start = |service: &str, next: &str, port: Option<&str>| {
        let bound = match port {
            Some(url) => {
                runtime.block_on(tokio::net::TcpListener::bind(url.trim_start_matches("http://"))).expect("its port")
            }
            None => listener(&runtime).0,
        };
        let url = format!("http://{}", bound.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { stopped.await.unwrap_or_default() };
        let task = if service == "emulator" {
            let config = semlink_channel_emulator::Config::new(next.to_owned(), SnrDb::try_new(7.0).expect("an SNR"));
            runtime.spawn(semlink_channel_emulator::serve(bound, config, shutdown))
        } else {
            let config = semlink_transmitter::Config::new(next.to_owned(), &bundle, "64".parse().expect("a rate"));
            runtime.spawn(semlink_transmitter::serve(bound, config, shutdown))
        };
        (url, stop, task)
    };
    let end = |stop: oneshot::Sender<()>, task: tokio::task::JoinHandle<_>| {
        stop.send(()).expect("a running service");
        let ended: Result<(), semlink_service::Error> = runtime.block_on(task).expect("no panic");
        ended.expect("a clean end");
    };
    let (emulator, stop_emulator, emulator_task) = start("emulator", &receiver_url, None);
    let (transmitter, stop_transmitter, transmitter_task) = start("transmitter", &emulator, None);
    let dashboard = Dashboard::start(&transmitter, &emulator, &["--data", &path(&dir, "data")]);
    let mut page = dashboard.page("");
    let flows = |page: &mut Page| {
        page.until("settings", |now| ["transmitter", "emulator", "link"].iter().all(|who| now[who]["up"] == true));
        page.until("live", |now| now["recent"][0]["decided"].is_object());
    };
    flows(&mut page);

    end(stop_emulator, emulator_task);
    let settings = page.until("settings", |now| now["emulator"]["up"] == false);
    assert!(settings["emulator"]["why"].as_str().expect("a text").contains(&emulator), "{settings}");
    assert_eq!(settings["transmitter"]["up"], true);
    let refused = dashboard.ask("POST", "/api/channel", &json!({"snr_db": 3.0}));
    assert!(refused.status == 503 && refused.body.contains(&emulator), "{}", refused.body);
    let (_, _stop_emulator, _task) = start("emulator", &receiver_url, Some(&emulator));
    flows(&mut page);

    end(stop_transmitter, transmitter_task);
    let settings = page.until("settings", |now| now["transmitter"]["up"] == false);
    assert!(settings["transmitter"]["why"].as_str().expect("a text").contains(&transmitter), "{settings}");
    assert_eq!(settings["emulator"]["up"], true);
    let (_, _stop_transmitter, _task) = start("transmitter", &emulator, Some(&transmitter));
    flows(&mut page);
}

#[test]
fn nothing_is_sent_while_no_page_is_open() {
    let (_dir, chain, dashboard) = started(&["--images-per-second", "100"]);
    let frames = || {
        let listed = support::semlink(["channel", "list", "--json", "--control", &chain.emulator]);
        let link: Value = serde_json::from_str(support::stdout(&listed).trim()).expect("JSON");
        link["frames"].as_u64().expect("a number")
    };
    // The transmitter's own trial of the link, at most.
    assert!(frames() <= 1, "{}", frames());
    let mut page = dashboard.page("");
    page.until("live", |now| now["recent"].as_array().is_some_and(|recent| recent.len() >= 5));
    assert!(frames() >= 5);
    drop(page);
}
