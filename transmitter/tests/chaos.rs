//! Receiver and emulator killed and restarted, again and again, in the middle of streams: every image is answered once, and as if nothing had
//! happened. `semlink-bench production --only chaos` does the same with processes and 100,000 images.

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use futures::StreamExt as _;
use semlink_channel::SnrDb;
use semlink_proto::v1;
use semlink_service::Error;
use support::{bundle, classify_all, config, decided, request, transmitter};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const STREAMS: u64 = 4;
const IMAGES: u64 = 1200;
const KILLS: u64 = 12;

/// A service on a runtime of its own. Without it the service is gone, wherever it was: to its peers that is a killed process.
struct Killable {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Killable {
    /// Serves on this address, as soon as it is free.
    async fn start<F: Future<Output = Result<(), Error>> + Send + 'static>(
        address: SocketAddr,
        serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
    ) -> Killable {
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                // The last one's socket is about to be closed.
                Err(_) => tokio::task::yield_now().await,
            }
        };
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.spawn(async move {
            serve(tokio::net::TcpListener::from_std(listener).expect("a listener")).await.expect("a service");
        });
        Killable { address, runtime: Some(runtime) }
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn receiver(address: SocketAddr, bundle: &Path) -> Killable {
    let config = semlink_receiver::Config::new(bundle);
    Killable::start(address, |listener| semlink_receiver::serve(listener, config, std::future::pending::<()>())).await
}

async fn emulator(address: SocketAddr, next: SocketAddr) -> Killable {
    let config = semlink_channel_emulator::Config::new(format!("http://{next}"), SnrDb::try_new(0.0).expect("an SNR"));
    Killable::start(address, |listener| semlink_channel_emulator::serve(listener, config, std::future::pending::<()>()))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_is_answered_once_whatever_dies() {
    let (dir, _) = bundle(7);
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut receiver_now = receiver(any, dir.path()).await;
    let mut emulator_now = emulator(any, receiver_now.address).await;
    let (receiver_at, emulator_at) = (receiver_now.address, emulator_now.address);
    let transmitter = transmitter(config(format!("http://{emulator_at}"), dir.path())).await;
    let mut client = v1::transmitter_client::TransmitterClient::new(transmitter.channel().await);
    let expected: BTreeMap<u64, _> = classify_all(&mut client, (0..IMAGES).map(request))
        .await
        .iter()
        .map(|answer| (answer.id, decided(answer)))
        .collect();
    assert_eq!(expected.len() as u64, IMAGES);

    let (all, mut answers) = mpsc::channel(64);
    for stream in 0..STREAMS {
        let (mut client, all) = (client.clone(), all.clone());
        tokio::spawn(async move {
            let (send, images) = mpsc::channel(8);
            tokio::spawn(async move {
                for id in (stream..IMAGES).step_by(STREAMS as usize) {
                    send.send(request(id)).await.expect("an open stream");
                }
            });
            let mut answers = client.classify_stream(ReceiverStream::new(images)).await.expect("a stream").into_inner();
            while let Some(answer) = answers.next().await {
                all.send(answer.expect("an answer")).await.expect("the test");
            }
        });
    }
    drop(all);

    let mut seen = BTreeMap::new();
    let mut sends = 0;
    while let Some(answer) = answers.recv().await {
        sends += answer.link.as_ref().and_then(|link| link.timings).map_or(0, |timings| u64::from(timings.sends));
        assert!(seen.insert(answer.id, decided(&answer)).is_none(), "image {} was answered twice", answer.id);
        let count = seen.len() as u64;
        let round = count / (IMAGES / (KILLS + 1));
        if !count.is_multiple_of(IMAGES / (KILLS + 1)) || round > KILLS {
            continue;
        }
        // Every order of dying and coming back.
        match round % 4 {
            0 => {
                receiver_now.kill();
                receiver_now = receiver(receiver_at, dir.path()).await;
            }
            1 => {
                emulator_now.kill();
                emulator_now = emulator(emulator_at, receiver_at).await;
            }
            2 => {
                receiver_now.kill();
                emulator_now.kill();
                emulator_now = emulator(emulator_at, receiver_at).await;
                receiver_now = receiver(receiver_at, dir.path()).await;
            }
            _ => {
                emulator_now.kill();
                receiver_now.kill();
                receiver_now = receiver(receiver_at, dir.path()).await;
                emulator_now = emulator(emulator_at, receiver_at).await;
            }
        }
    }
    assert_eq!(seen, expected);
    assert!(sends > IMAGES, "{sends} sendings of {IMAGES} images: nothing was under way when a service died");
    transmitter.stop().await;
}
