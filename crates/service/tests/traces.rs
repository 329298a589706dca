//! Traces, as a collector sees them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use semlink_service::config::Problems;
use semlink_service::metrics::Metrics;
use semlink_service::security::{Credentials, ServerArgs};
use semlink_service::traces::{TraceArgs, Traces};
use semlink_service::{Shell, ShellArgs};
use support::lab::{Authority, Identity, Lab};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

/// Keeps what it gets, with the name of the service it came from.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let attributes = texts(&of_service.resource.unwrap().attributes);
            assert!(attributes.contains_key("service.version") && attributes["service.instance.id"].len() == 32);
            let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let named = spans.map(|span| (attributes["service.name"].clone(), span));
            self.0.lock().unwrap().extend(named);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// The page of metrics of a service whose only span went to this collector, named `localhost`, with the authorities of a file.
async fn sent_over_tls(port: u16, ca: &Path) -> String {
    let (traces, traces_ca) = (Some(format!("https://localhost:{port}")), Some(ca.to_owned()));
    let args = TraceArgs { traces, traces_ca, ..TraceArgs::default() };
    let mut problems = Problems::new();
    args.check(&mut problems, false);
    let credentials = args.credentials(&mut problems);
    let credentials = problems.finish(credentials).expect("an authority");
    let endpoint = args.endpoint().unwrap().expect("a collector was given");
    let traces = Traces::new("test", &endpoint, &credentials, 1.0).unwrap();
    let metrics = Metrics::new("test");
    traces.register(&metrics);
    drop(traces.start("work", None));
    traces.shutdown().await;
    metrics.encode()
}

/// Takes TLS connections only.
async fn tls_collector(lab: &Lab, identity: &Identity) -> (Collector, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tls_cert, tls_key) = (lab.write("server.pem", &identity.chain), lab.write("server.key", &identity.key));
    let security = ServerArgs { tls_cert: Some(tls_cert), tls_key: Some(tls_key), ..ServerArgs::default() };
    let mut problems = Problems::new();
    let config = ShellArgs { security, ..ShellArgs::default() }.check(address, &mut problems);
    let shell = Shell::with("collector", problems.finish(config).expect("an identity"));
    let collector = Collector::default();
    let shell = shell.add_service(TraceServiceServer::new(collector.clone()));
    tokio::spawn(shell.serve(listener, std::future::pending()));
    (collector, address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_a_trusted_certificate_gets_spans_and_another_none() {
    let (lab, authority) = (Lab::new(), Authority::new("the authority"));
    let (collector, port) = tls_collector(&lab, &authority.issue()).await;
    let page = sent_over_tls(port, &lab.write("ca.pem", &authority.pem)).await;
    assert!(page.contains("semlink_trace_exported_spans_total 1\n"), "{page}");
    assert_eq!(collector.0.lock().unwrap().len(), 1);
    let page = sent_over_tls(port, &lab.write("other.pem", &Authority::new("another").pem)).await;
    assert!(page.contains("semlink_trace_failed_spans_total 1\n"), "{page}");
    assert_eq!(collector.0.lock().unwrap().len(), 1);
}

async fn collector() -> (Collector, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    let args = TraceArgs { traces: Some(url), ..TraceArgs::default() };
    (collector, args.endpoint().unwrap().expect("a collector was given"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_across_three_hops() {
    let (collector, endpoint) = collector().await;
    let hop = |name| Traces::new(name, &endpoint, &Credentials::none(), 0.0).unwrap();
    let (transmitter, emulator, receiver) =
        (Traces::new("transmitter", &endpoint, &Credentials::none(), 1.0).unwrap(), hop("emulator"), hop("receiver"));
    {
        let mut classify = transmitter.start("classify", None);
        classify.set("semlink.uses", 16_i64);
        classify.phase("encode", Instant::now(), Duration::from_millis(2));
        let transmit = classify.call("transmit");
        let travels = transmit.traceparent().expect("it is traced");
        let channel = emulator.follow("channel", &travels);
        let onward = channel.call("transmit");
        let mut decide = receiver.follow("decide", &onward.traceparent().expect("it is traced"));
        drop(decide.child("decode"));
        decide.fail(&Status::data_loss("gone"));
    }
    for traces in [&transmitter, &emulator, &receiver] {
        traces.shutdown().await;
    }
    let spans = collector.0.lock().unwrap().clone();
    let named = |service: &str, name: &str| {
        let mut found = spans.iter().filter(|(of, span)| of == service && span.name == name);
        let (_, span) = found.next().unwrap_or_else(|| panic!("no span {service}: {name}"));
        assert!(found.next().is_none(), "two spans {service}: {name}");
        span
    };
    let way = [
        ("transmitter", "classify"),
        ("transmitter", "transmit"),
        ("emulator", "channel"),
        ("emulator", "transmit"),
        ("receiver", "decide"),
        ("receiver", "decode"),
    ];
    assert_eq!(spans.len(), way.len() + 1);
    let traces: BTreeSet<&[u8]> = spans.iter().map(|(_, span)| &span.trace_id[..]).collect();
    assert_eq!(traces.len(), 1, "one trace");
    assert!(named("transmitter", "classify").parent_span_id.is_empty(), "it begins there");
    for pair in way.windows(2) {
        let (before, after) = (named(pair[0].0, pair[0].1), named(pair[1].0, pair[1].1));
        assert_eq!(after.parent_span_id, before.span_id, "{pair:?}");
    }
    let classify = named("transmitter", "classify");
    assert_eq!(texts(&classify.attributes)["semlink.uses"], "16");
    let encode = named("transmitter", "encode");
    assert_eq!(encode.parent_span_id, classify.span_id);
    assert_eq!(encode.end_time_unix_nano - encode.start_time_unix_nano, 2_000_000);
    let decide = named("receiver", "decide");
    assert_eq!(texts(&decide.attributes)["rpc.grpc.status_code"], (tonic::Code::DataLoss as i32).to_string());
    assert_eq!(decide.status.as_ref().map(|status| (status.code, status.message.as_str())), Some((2, "gone")));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_brings_a_trace_decides() {
    let (collector, endpoint) = collector().await;
    let (never, always) = (
        Traces::new("never", &endpoint, &Credentials::none(), 0.0).unwrap(),
        Traces::new("always", &endpoint, &Credentials::none(), 1.0).unwrap(),
    );
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert!(never.start("sampled", Some(sampled)).is_traced());
    assert!(!always.start("unsampled", Some(unsampled)).is_traced());
    assert!(!never.start("root", None).is_traced());
    // A hop behind never begins a trace of its own.
    for nothing in ["", "nonsense", unsampled] {
        let span = always.follow("hop", nothing);
        assert!(!span.is_traced() && span.child("child").traceparent().is_none(), "{nothing}");
    }
    // What is no trace context counts as none.
    assert!(always.start("fresh", Some("nonsense")).is_traced());
    never.shutdown().await;
    always.shutdown().await;
    let spans = collector.0.lock().unwrap().clone();
    let names: BTreeSet<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["fresh", "sampled"]));
    let (_, span) = spans.iter().find(|(_, span)| span.name == "sampled").unwrap();
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_disturbs_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let args = TraceArgs { traces: Some(format!("http://{gone}")), ..TraceArgs::default() };
    let traces = Traces::new("test", &args.endpoint().unwrap().unwrap(), &Credentials::none(), 1.0).unwrap();
    let metrics = Metrics::new("test");
    traces.register(&metrics);
    for _ in 0..10 {
        assert!(traces.start("work", None).is_traced());
    }
    traces.shutdown().await;
    let page = metrics.encode();
    assert!(page.contains("semlink_trace_failed_spans_total 10\n"), "{page}");
    assert!(page.contains("semlink_trace_exported_spans_total 0\n"), "{page}");
    // Afterwards there are none, and no panic.
    assert!(!traces.start("late", None).is_traced());
    traces.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_beyond_the_queue_are_counted() {
    // It accepts connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let args = TraceArgs { traces: Some(format!("http://{}", mute.local_addr().unwrap())), ..TraceArgs::default() };
    let traces = Traces::new("test", &args.endpoint().unwrap().unwrap(), &Credentials::none(), 1.0).unwrap();
    let metrics = Metrics::new("test");
    traces.register(&metrics);
    for _ in 0..10_000 {
        drop(traces.start("work", None));
    }
    let page = metrics.encode();
    let dropped = page.lines().find_map(|line| line.strip_prefix("semlink_trace_dropped_spans_total ")).unwrap();
    let dropped: u64 = dropped.parse().unwrap();
    // 4096 wait; meanwhile the thread may have taken a few batches out.
    assert!((1..=10_000 - 4096).contains(&dropped), "{dropped}");
    // Now nobody answers any more, instead of late.
    drop(mute);
    traces.shutdown().await;
}
