//! What an operator sees of an image on its way through the three services: metrics of each, and one trace.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use semlink_channel::SnrDb;
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{ClassifyRequest, ClassifyResponse};
use semlink_service::ServiceArgs;
use support::log::Log;
use support::{Service, bundle, classify_all, config, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const IMAGES: u64 = 24;
const SNR_DB: f32 = 6.0;

/// Keeps the spans that it gets, with the names of their services.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let resource = of_service.resource.unwrap_or_default();
            let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
            let name = format!("{:?}", name.and_then(|name| name.value.clone()?.value));
            let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().expect("no panic").extend(spans.map(|span| (name.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The three services, each with metrics and traces.
struct Observed {
    transmitter: Service,
    emulator: Service,
    receiver: Service,
    /// Where the metrics of each are, in this order.
    pages: [String; 3],
    spans: Collector,
    _log: Log,
}

impl Observed {
    async fn start() -> Observed {
        let log = Log::capture();
        let (bundle, _) = bundle(7);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let collector = format!("http://{}", listener.local_addr().expect("an address"));
        let spans = Collector::default();
        let service = TraceServiceServer::new(spans.clone());
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let observe = |service: &mut ServiceArgs| {
            service.metrics.metrics = Some("127.0.0.1:0".to_owned());
            service.traces.traces = Some(collector.clone());
            // Whether something is traced is the caller's choice alone.
            service.traces.trace_sample = 0.0;
        };
        let mut receiver = semlink_receiver::Config::new(bundle.path());
        observe(&mut receiver.service);
        let receiver = Service::start(|listener, shutdown| async move {
            semlink_receiver::serve(listener, receiver, shutdown.asked()).await.expect("a receiver");
        })
        .await;
        let receiver_page = page(&log, 1).await;
        let snr = SnrDb::try_new(SNR_DB).expect("an SNR");
        let mut emulator = semlink_channel_emulator::Config::new(receiver.url(), snr);
        observe(&mut emulator.service);
        let emulator = Service::start(|listener, shutdown| async move {
            semlink_channel_emulator::serve(listener, emulator, shutdown.asked()).await.expect("an emulator");
        })
        .await;
        let emulator_page = page(&log, 2).await;
        let mut settings = config(emulator.url(), bundle.path());
        observe(&mut settings.service);
        let transmitter = support::transmitter(settings).await;
        let pages = [page(&log, 3).await, emulator_page, receiver_page];
        Observed { transmitter, emulator, receiver, pages, spans, _log: log }
    }

    async fn client(&self) -> TransmitterClient<tonic::transport::Channel> {
        TransmitterClient::new(self.transmitter.channel().await)
    }

    /// The samples of a service's page, by name and labels.
    async fn samples(&self, page: usize) -> BTreeMap<String, f64> {
        let mut stream = TcpStream::connect(&self.pages[page]).await.expect("a page");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: semlink\r\n\r\n").await.expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("a page");
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
    }

    /// All spans of these services, which end with it.
    async fn stop(self) -> Vec<(String, Span)> {
        self.transmitter.stop().await;
        self.emulator.stop().await;
        self.receiver.stop().await;
        self.spans.0.lock().expect("no panic").clone()
    }
}

/// Where the metrics of the service that was started as the n-th are, as its log says.
async fn page(log: &Log, n: usize) -> String {
    loop {
        if let Some(line) = log.lines(&[" metrics address="]).get(n - 1) {
            let address = line.split("address=").nth(1).expect("an address");
            return address.trim_matches('"').to_owned();
        }
        tokio::task::yield_now().await;
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-3 * (1.0 + b.abs())
}

#[tokio::test]
async fn the_metrics_of_all_services_agree_with_the_answers() {
    let observed = Observed::start().await;
    let mut client = observed.client().await;
    // Every second one with its class, of which a codec with random weights meets some.
    let labelled = |id: u64| ClassifyRequest {
        label: id.is_multiple_of(2).then_some(id as u32 % 10),
        uses: id.is_multiple_of(3).then_some(32),
        ..request(id)
    };
    let answers = classify_all(&mut client, (0..IMAGES).map(labelled)).await;
    let bad = ClassifyRequest { image: Default::default(), ..request(99) };
    client.classify(bad).await.expect_err("no image");

    let links: Vec<_> = answers.iter().map(|answer| answer.link.expect("facts")).collect();
    let uses: f64 = links.iter().map(|link| f64::from(link.uses)).sum();
    let confidence: f64 = answers.iter().map(|a| f64::from(a.decision.as_ref().expect("a decision").confidence)).sum();
    let right = |answer: &&ClassifyResponse| {
        answer.id.is_multiple_of(2) && answer.decision.as_ref().is_some_and(|d| u64::from(d.index) == answer.id % 10)
    };
    let n = IMAGES as f64;
    let name = |service: &str, rest: &str| format!("semlink_{service}_{rest}");
    let [transmitter, emulator, receiver] =
        [observed.samples(0).await, observed.samples(1).await, observed.samples(2).await];
    let expected = [
        (&transmitter, name("transmitter", r#"images_total{code="OK"}"#), n),
        (&transmitter, name("transmitter", r#"images_total{code="INVALID_ARGUMENT"}"#), 1.0),
        (&transmitter, name("transmitter", "channel_uses_sum"), uses),
        (&transmitter, name("transmitter", "channel_uses_count"), n),
        (&transmitter, name("transmitter", r#"rate_images_total{uses="32"}"#), n / 3.0),
        (&transmitter, name("transmitter", r#"rate_images_total{uses="64"}"#), n - n / 3.0),
        (&transmitter, name("transmitter", "confidence_sum"), confidence),
        (&transmitter, name("transmitter", "labelled_images_total"), n / 2.0),
        (&transmitter, name("transmitter", "correct_images_total"), answers.iter().filter(right).count() as f64),
        (&transmitter, name("transmitter", "last_estimated_snr_db"), f64::from(SNR_DB)),
        (&transmitter, name("transmitter", "in_flight_images"), 0.0),
        // The image that is none is part of a batch, too.
        (&transmitter, r#"semlink_batch_size_sum{model="encoder"}"#.to_owned(), n + 1.0),
        (&emulator, name("emulator", r#"frames_total{link="default"}"#), n),
        (&emulator, name("emulator", r#"symbols_total{link="default"}"#), uses),
        (&emulator, name("emulator", "requested_snr_db_sum"), n * f64::from(SNR_DB)),
        (&emulator, name("emulator", "realised_snr_db_count"), n),
        (&receiver, name("receiver", r#"frames_total{code="OK"}"#), n),
        (&receiver, name("receiver", "channel_uses_sum"), uses),
        (&receiver, name("receiver", "confidence_sum"), confidence),
        (&receiver, name("receiver", "repeated_frames_total"), 0.0),
        (&receiver, r#"semlink_batch_size_sum{model="decoder"}"#.to_owned(), n),
    ];
    for (samples, series, value) in expected {
        let found = samples.get(&series).copied().unwrap_or_else(|| panic!("{series} is not there: {samples:#?}"));
        assert!(close(found, value), "{series} is {found}, expected {value}");
    }
    for phase in ["queue", "prepare", "encode", "link", "channel", "decode_queue", "decode"] {
        let count = format!(r#"semlink_transmitter_phase_seconds_count{{phase="{phase}"}}"#);
        assert_eq!(transmitter.get(&count), Some(&n), "{count}");
    }
    // Over 24 frames of 32 or 64 symbols, the mean of 10 log10 of a chi-square with about 100 degrees of freedom has a deviation of 0.13 dB.
    let realised = emulator["semlink_emulator_realised_snr_db_sum"] / n;
    assert!((realised - f64::from(SNR_DB)).abs() < 0.7, "{realised} dB");
    observed.stop().await;
}

#[tokio::test]
async fn one_trace_follows_an_image_through_all_services() {
    let observed = Observed::start().await;
    let mut client = observed.client().await;
    let mut traced = Request::new(request(3));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    traced.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    let answer = client.classify(traced).await.expect("a decision").into_inner();
    // This one brings none, and begins none.
    client.classify(request(4)).await.expect("a decision");

    let spans = observed.stop().await;
    let trace: BTreeSet<&[u8]> = spans.iter().map(|(_, span)| span.trace_id.as_slice()).collect();
    let expected: [u8; 16] = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    assert_eq!(trace, BTreeSet::from([&expected[..]]));
    let found = |service: &str, name: &str| {
        let mut found = spans.iter().filter(|(of, span)| of.contains(service) && span.name == name);
        let (_, span) = found.next().unwrap_or_else(|| panic!("no {name} of the {service} among {spans:#?}"));
        assert!(found.next().is_none(), "{name} of the {service} twice");
        span
    };
    let way = [
        found("transmitter", "classify"),
        found("transmitter", "transmit"),
        found("emulator", "channel"),
        found("emulator", "transmit"),
        found("receiver", "decide"),
    ];
    assert_eq!(way[0].parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    for pair in way.windows(2) {
        assert_eq!(pair[1].parent_span_id, pair[0].span_id, "{} after {}", pair[1].name, pair[0].name);
        assert!(pair[1].start_time_unix_nano >= pair[0].start_time_unix_nano);
    }
    for (service, name, parent) in [
        ("transmitter", "queue", way[0]),
        ("transmitter", "prepare", way[0]),
        ("transmitter", "encode", way[0]),
        ("receiver", "queue", way[4]),
        ("receiver", "decode", way[4]),
    ] {
        assert_eq!(found(service, name).parent_span_id, parent.span_id, "{name}");
    }
    let attribute = |span: &Span, key: &str| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == key);
        attribute.and_then(|a| a.value.clone()?.value).unwrap_or_else(|| panic!("{} has no {key}", span.name))
    };
    let decision = answer.decision.expect("a decision");
    let label = Value::StringValue(decision.label);
    assert_eq!(attribute(way[0], "semlink.decision"), label);
    assert_eq!(attribute(way[4], "semlink.decision"), label);
    assert_eq!(attribute(way[0], "semlink.id"), Value::IntValue(3));
    assert_eq!(attribute(way[0], "semlink.uses"), Value::IntValue(64));
    assert_eq!(attribute(way[2], "semlink.symbols"), Value::IntValue(64));
    assert_eq!(attribute(way[2], "semlink.snr_db_requested"), Value::DoubleValue(f64::from(SNR_DB)));
}
