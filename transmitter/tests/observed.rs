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
use semlink_proto::v1::{ClassifyRequest, ClassifyResponse, Decision, Timings};
use semlink_service::ServiceArgs;
use support::log::Log;
use support::page::Page;
use support::{Service, bundle, classify_all, config, receiver_with, request};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const IMAGES: u64 = 24;
const SNR_DB: f32 = 6.0;

/// One of an answer's timings.
type Microseconds = fn(&Timings) -> u64;

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
            let Some(Value::StringValue(name)) = name.and_then(|name| name.value.clone()?.value) else {
                panic!("spans of a service without a name")
            };
            let name = name.trim_start_matches("semlink-").to_owned();
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
    /// Of each, in this order.
    pages: [Page; 3],
    spans: Collector,
    _log: Log,
}

impl Observed {
    /// What is traced of images that bring no trace along is this fraction.
    async fn start(trace_sample: f64) -> Observed {
        let log = Log::capture();
        let (bundle, _) = bundle(7);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let collector = format!("http://{}", listener.local_addr().expect("an address"));
        let spans = Collector::default();
        let service = TraceServiceServer::new(spans.clone());
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let observe = |service: &mut ServiceArgs| {
            Page::on_any_port(service);
            service.traces.traces = Some(collector.clone());
            service.traces.trace_sample = trace_sample;
        };
        let mut receiver = semlink_receiver::Config::new(bundle.path());
        observe(&mut receiver.service);
        let receiver = receiver_with(receiver).await;
        let receiver_page = Page::of(&log, 1).await;
        let snr = SnrDb::try_new(SNR_DB).expect("an SNR");
        let mut emulator = semlink_channel_emulator::Config::new(receiver.url(), snr);
        observe(&mut emulator.service);
        let emulator = Service::start(|listener, shutdown| async move {
            semlink_channel_emulator::serve(listener, emulator, shutdown.asked()).await.expect("an emulator");
        })
        .await;
        let emulator_page = Page::of(&log, 2).await;
        let mut settings = config(emulator.url(), bundle.path());
        observe(&mut settings.service);
        let transmitter = support::transmitter(settings).await;
        let pages = [Page::of(&log, 3).await, emulator_page, receiver_page];
        Observed { transmitter, emulator, receiver, pages, spans, _log: log }
    }

    async fn client(&self) -> TransmitterClient<tonic::transport::Channel> {
        TransmitterClient::new(self.transmitter.channel().await)
    }

    /// All spans of these services, which end with it.
    async fn stop(self) -> Vec<(String, Span)> {
        self.transmitter.stop().await;
        self.emulator.stop().await;
        self.receiver.stop().await;
        self.spans.0.lock().expect("no panic").clone()
    }
}

#[tokio::test]
async fn the_metrics_of_all_services_agree_with_the_answers() {
    let observed = Observed::start(0.0).await;
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
    let timings: Vec<_> = links.iter().map(|link| link.timings.expect("timings")).collect();
    let decisions: Vec<_> = answers.iter().map(|answer| answer.decision.as_ref().expect("a decision")).collect();
    let uses: f64 = links.iter().map(|link| f64::from(link.uses)).sum();
    let confidence: f64 = decisions.iter().map(|decision| f64::from(decision.confidence)).sum();
    let right = |(answer, decision): &(&ClassifyResponse, &&Decision)| {
        answer.id.is_multiple_of(2) && u64::from(decision.index) == answer.id % 10
    };
    let right = answers.iter().zip(&decisions).filter(right).count() as f64;
    let (n, snr_db) = (IMAGES as f64, f64::from(SNR_DB));

    let [transmitter, emulator, receiver] = &observed.pages;
    let transmitter = transmitter.samples().await;
    for (series, expected) in [
        (r#"images_total{code="OK"}"#, n),
        (r#"images_total{code="INVALID_ARGUMENT"}"#, 1.0),
        ("answer_seconds_count", n),
        ("channel_uses_sum", uses),
        ("channel_uses_count", n),
        (r#"symbols_total{kind="payload"}"#, uses),
        (r#"rate_images_total{uses="32"}"#, n / 3.0),
        (r#"rate_images_total{uses="64"}"#, n - n / 3.0),
        ("confidence_sum", confidence),
        ("labelled_images_total", n / 2.0),
        ("correct_images_total", right),
        ("estimated_snr_db_sum", n * snr_db),
        ("last_estimated_snr_db", snr_db),
        ("in_flight_images", 0.0),
    ] {
        transmitter.assert(&format!("semlink_transmitter_{series}"), expected);
    }
    let phases: [(&str, Microseconds); 7] = [
        ("queue", |timings| timings.queue_us),
        ("prepare", |timings| timings.prepare_us),
        ("encode", |timings| timings.encode_us),
        ("link", |timings| timings.link_us),
        ("channel", |timings| timings.channel_us),
        ("decode_queue", |timings| timings.decode_queue_us),
        ("decode", |timings| timings.decode_us),
    ];
    let seconds = |us: Microseconds| timings.iter().map(us).sum::<u64>() as f64 / 1e6;
    for (phase, us) in phases {
        let of_phase = |what: &str| format!(r#"semlink_transmitter_phase_seconds_{what}{{phase="{phase}"}}"#);
        transmitter.assert(&of_phase("count"), n);
        transmitter.assert(&of_phase("sum"), seconds(us));
    }
    // The image that is none is part of a batch, too.
    transmitter.assert(r#"semlink_batch_size_sum{model="encoder"}"#, n + 1.0);
    transmitter.assert("semlink_next_waiting_frames", 0.0);

    let emulator = emulator.samples().await;
    for (series, expected) in [
        (r#"frames_total{link="default"}"#, n),
        (r#"symbols_total{link="default"}"#, uses),
        ("requested_snr_db_sum", n * snr_db),
        (r#"last_requested_snr_db{link="default"}"#, snr_db),
        ("realised_snr_db_count", n),
        ("channel_seconds_sum", seconds(|timings| timings.channel_us)),
    ] {
        emulator.assert(&format!("semlink_emulator_{series}"), expected);
    }
    // Over 24 frames of 32 or 64 symbols, the mean of 10 log10 of a chi-square with about 100 degrees of freedom has a deviation of 0.13 dB.
    let realised = emulator.get("semlink_emulator_realised_snr_db_sum") / n;
    assert!((realised - snr_db).abs() < 0.7, "{realised} dB");

    let receiver = receiver.samples().await;
    for (series, expected) in [
        (r#"frames_total{code="OK"}"#, n),
        ("channel_uses_sum", uses),
        ("confidence_sum", confidence),
        ("repeated_frames_total", 0.0),
        ("last_snr_db", snr_db),
        (r#"phase_seconds_sum{phase="queue"}"#, seconds(|timings| timings.decode_queue_us)),
        (r#"phase_seconds_sum{phase="decode"}"#, seconds(|timings| timings.decode_us)),
    ] {
        receiver.assert(&format!("semlink_receiver_{series}"), expected);
    }
    receiver.assert(r#"semlink_batch_size_sum{model="decoder"}"#, n);
    for label in decisions.iter().map(|decision| &decision.label).collect::<BTreeSet<_>>() {
        let count = decisions.iter().filter(|decision| decision.label == *label).count();
        receiver.assert(&format!(r#"semlink_receiver_decisions_total{{class="{label}"}}"#), count as f64);
    }
    observed.stop().await;
}

#[tokio::test]
async fn one_trace_follows_an_image_through_all_services() {
    // Whether something is traced is the caller's choice alone.
    let observed = Observed::start(0.0).await;
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

#[tokio::test]
async fn each_image_of_a_stream_that_brings_no_trace_begins_its_own() {
    let observed = Observed::start(1.0).await;
    let mut client = observed.client().await;
    let answers = classify_all(&mut client, (0..IMAGES).map(request)).await;
    assert_eq!(answers.len() as u64, IMAGES);
    let mut traces = BTreeMap::<Vec<u8>, Vec<(String, String)>>::new();
    for (service, span) in observed.stop().await {
        // Nobody came before.
        assert_eq!(span.parent_span_id.is_empty(), span.name == "classify", "{}", span.name);
        traces.entry(span.trace_id).or_default().push((service, span.name));
    }
    assert_eq!(traces.len() as u64, IMAGES);
    for spans in traces.values_mut() {
        spans.sort();
        let names = spans.iter().map(|(service, name)| format!("{service} {name}"));
        let expected = [
            "channel-emulator channel",
            "channel-emulator transmit",
            "receiver decide",
            "receiver decode",
            "receiver queue",
            "transmitter classify",
            "transmitter encode",
            "transmitter prepare",
            "transmitter queue",
            "transmitter transmit",
        ];
        assert_eq!(names.collect::<Vec<_>>(), expected);
    }
}
