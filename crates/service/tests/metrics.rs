//! The page that Prometheus scrapes, as a client sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use semlink_service::metrics::{BatchMetrics, Metrics, PeerMetrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

struct Server {
    address: std::net::SocketAddr,
    serving: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn serve(metrics: Metrics) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Arc::new(AtomicBool::new(true));
    let (stop, stopped) = oneshot::channel::<()>();
    let health = Arc::clone(&serving);
    let task = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        metrics.serve(listener, move || health.load(Ordering::Relaxed), shutdown).await;
    });
    Server { address, serving, stop, task }
}

/// Head and body of the answer to these bytes.
async fn ask(server: &Server, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

async fn get(server: &Server, path: &str) -> (String, String) {
    ask(server, &format!("GET {path} HTTP/1.1\r\nhost: semlink\r\n\r\n")).await
}

#[tokio::test]
async fn a_scrape_is_open_metrics() {
    let metrics = Metrics::new("semlink-test");
    let (batches, next) = (BatchMetrics::default(), PeerMetrics::default());
    batches.register(&metrics, "encoder");
    next.register(&metrics);
    for size in [1.0, 3.0, 64.0] {
        batches.size.observe(size);
    }
    next.resent.inc_by(5);
    next.waiting.set(2);
    let server = serve(metrics.clone()).await;
    let (head, page) = get(&server, "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");

    // Read as the standard says: TYPE before samples, each sample NAME{LABELS} VALUE, an end.
    let mut kinds = std::collections::BTreeMap::new();
    let (text, end) = page.split_at(page.len() - "# EOF\n".len());
    assert_eq!(end, "# EOF\n");
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert!(kinds.insert(name, kind).is_none(), "{name} has two types");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let family = ["_total", "_info", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|family| kinds.contains_key(family)));
            assert!(family.is_some() || kinds.contains_key(name), "{line} has no type");
        }
    }
    for line in [
        r#"semlink_batch_size_bucket{model="encoder",le="1.0"} 1"#,
        r#"semlink_batch_size_bucket{model="encoder",le="4.0"} 2"#,
        r#"semlink_batch_size_bucket{model="encoder",le="+Inf"} 3"#,
        r#"semlink_batch_size_sum{model="encoder"} 68.0"#,
        "semlink_next_resent_frames_total 5",
        "semlink_next_waiting_frames 2",
    ] {
        assert!(page.lines().any(|on_page| on_page == line), "{line} is not on {page}");
    }
    for described in metrics.described() {
        assert!(page.contains(&described.name), "{} is not on {page}", described.name);
    }
}

#[tokio::test]
async fn health_is_what_the_service_says() {
    let server = serve(Metrics::new("semlink-test")).await;
    assert!(get(&server, "/healthz").await.0.starts_with("HTTP/1.1 200 "));
    server.serving.store(false, Ordering::Relaxed);
    assert!(get(&server, "/healthz").await.0.starts_with("HTTP/1.1 503 "));
    for request in ["GET / HTTP/1.1", "GET /metrics/ HTTP/1.1", "POST /metrics HTTP/1.1", "DELETE /healthz HTTP/1.1"] {
        let (head, _) = ask(&server, &format!("{request}\r\nhost: semlink\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{request}: {head}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_turned_away_and_others_are_served() {
    let server = serve(Metrics::new("semlink-test")).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for nonsense in ["\0\0\0\0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &long] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // It may be closed while we write.
        let _ = stream.write_all(nonsense.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(get(&server, "/healthz").await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let server = serve(Metrics::new("semlink-test")).await;
    // As many as are let in at a time, and more.
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        silent.push(stream);
    }
    let (head, _) = get(&server, "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for mut stream in silent {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn it_ends_with_the_service() {
    let server = serve(Metrics::new("semlink-test")).await;
    get(&server, "/metrics").await;
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
