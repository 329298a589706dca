//! Bundles that change while the services run: nothing fails, and what cannot be served with is not taken.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{ClassifyResponse, Error};
use support::air::{Air, Arrived};
use support::log::Log;
use support::{Service, bundle, classify_all, config, decided, receiver, request, transmitter};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Channel;

const IMAGES: u64 = 12;

/// A directory that leads to a bundle, changed as Kubernetes changes a mounted volume: its files are links through `..data`, which is swapped.
struct Mount(TempDir);

impl Mount {
    fn new(bundle: &Path) -> Mount {
        let mount = Mount(TempDir::new().expect("a directory"));
        mount.swap(bundle);
        for file in fs::read_dir(bundle).expect("a bundle") {
            let name = file.expect("an entry").file_name();
            symlink(Path::new("..data").join(&name), mount.path().join(&name)).expect("a link");
        }
        mount
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn swap(&self, bundle: &Path) {
        let next = self.path().join("..data_tmp");
        symlink(bundle, &next).expect("a link");
        fs::rename(&next, self.path().join("..data")).expect("a swap");
    }
}

/// What a transmitter and a receiver with this bundle make of the images.
async fn decisions(bundle: &Path) -> Vec<(u64, u32, String, u32)> {
    let receiver = receiver(bundle).await;
    let transmitter = transmitter(config(receiver.url(), bundle)).await;
    let mut client = TransmitterClient::new(transmitter.channel().await);
    let decisions = classify_all(&mut client, (0..IMAGES).map(request)).await.iter().map(decided).collect();
    transmitter.stop().await;
    receiver.stop().await;
    decisions
}

/// One image through a transmitter whose next hop the test is; trial frames meanwhile are refused.
async fn through(client: &mut TransmitterClient<Channel>, air: &mut Air) -> (String, ClassifyResponse) {
    let mut codec = String::new();
    let next = async {
        loop {
            let arrived = air.frame().await;
            if arrived.frame.trial {
                refuse(arrived);
                continue;
            }
            codec.clone_from(&arrived.frame.codec_id);
            break arrived.decide(1);
        }
    };
    let (answer, ()) = tokio::join!(client.classify(request(1)), next);
    (codec, answer.expect("a decision").into_inner())
}

fn refuse(arrived: Arrived) {
    let error = Error { code: Code::FailedPrecondition as i32, message: "no such codec here".to_owned() };
    arrived.report(|report| report.error = Some(error));
}

/// The next trial frame.
async fn trial(air: &mut Air) -> Arrived {
    let arrived = air.frame().await;
    assert!(arrived.frame.trial, "an image's frame");
    arrived
}

#[tokio::test]
async fn receiver_first_then_transmitter_and_no_image_fails() {
    let ((first, old), (second, new)) = (bundle(1), bundle(2));
    let (before, after) = (decisions(first.path()).await, decisions(second.path()).await);
    assert_ne!(old.codec_id, new.codec_id);
    assert_ne!(before, after, "the codecs decide alike, which shows nothing");
    let [at_receiver, at_transmitter] = [Mount::new(first.path()), Mount::new(first.path())];
    let receiver = receiver(at_receiver.path()).await;
    let transmitter = transmitter(config(receiver.url(), at_transmitter.path())).await;
    let mut client = TransmitterClient::new(transmitter.channel().await);
    // And back again: the receiver still holds the codec before.
    for (dir, from, to) in [(second.path(), &before, &after), (first.path(), &after, &before)] {
        at_receiver.swap(dir);
        at_transmitter.swap(dir);
        loop {
            let answers = classify_all(&mut client, (0..IMAGES).map(request)).await;
            let now: Vec<_> = answers.iter().map(decided).collect();
            for ((now, from), to) in now.iter().zip(from).zip(to) {
                assert!(now == from || now == to, "{now:?} is neither {from:?} nor {to:?}");
            }
            if now == *to {
                break;
            }
        }
    }
    transmitter.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn a_codec_is_taken_once_a_frame_of_it_was_decided_and_the_one_before_helps_out() {
    let ((first, old), (second, new)) = (bundle(1), bundle(2));
    let mount = Mount::new(first.path());
    let mut air = Air::start().await;
    let transmitter = transmitter(config(air.service.url(), mount.path())).await;
    let mut client = TransmitterClient::new(transmitter.channel().await);
    assert_eq!(through(&mut client, &mut air).await.0, old.codec_id);

    mount.swap(second.path());
    let tried = trial(&mut air).await;
    assert_eq!(tried.frame.codec_id, new.codec_id);
    refuse(tried);
    assert_eq!(through(&mut client, &mut air).await.0, old.codec_id, "refused, it is not used");
    // It is tried again, until a receiver holds it.
    trial(&mut air).await.decide(0);
    while through(&mut client, &mut air).await.0 != new.codec_id {}

    // A receiver behind the same name that does not hold it yet: the image goes out once more, with the codec before.
    let mut codecs = Vec::new();
    let next = async {
        let refused = air.frame().await;
        codecs.push(refused.frame.codec_id.clone());
        refuse(refused);
        let arrived = air.frame().await;
        codecs.push(arrived.frame.codec_id.clone());
        arrived.decide(3);
    };
    let (answer, ()) = tokio::join!(client.classify(request(4)), next);
    assert_eq!(answer.expect("a decision").into_inner().decision.map(|decision| decision.index), Some(3));
    assert_eq!(codecs, [new.codec_id, old.codec_id]);
    transmitter.stop().await;
    air.service.stop().await;
}

#[tokio::test]
async fn a_bundle_that_changes_while_it_is_read_is_refused_until_it_is_whole() {
    let log = Log::capture();
    let ((first, old), (second, new)) = (bundle(1), bundle(2));
    let dir = TempDir::new().expect("a directory");
    let names: Vec<PathBuf> =
        fs::read_dir(first.path()).expect("a bundle").map(|file| file.expect("an entry").file_name().into()).collect();
    let put = |from: &TempDir, name: &Path| {
        fs::copy(from.path().join(name), dir.path().join(name)).expect("a copy");
    };
    names.iter().for_each(|name| put(&first, name));
    let receiver = receiver(dir.path()).await;
    let transmitter = transmitter(config(receiver.url(), dir.path())).await;
    let mut client = TransmitterClient::new(transmitter.channel().await);
    let before: Vec<_> = classify_all(&mut client, (0..IMAGES).map(request)).await.iter().map(decided).collect();

    // The manifest of one bundle and the weights of another: as if it were being copied.
    let manifest = Path::new(semlink_codec::MANIFEST_FILE);
    let weights: Vec<&PathBuf> = names.iter().filter(|name| name.as_path() != manifest).collect();
    weights.iter().for_each(|name| put(&second, name));
    let refused = "cannot be served; the codec before it stays";
    while log.lines(&[refused, &dir.path().display().to_string()]).len() < 2 {
        let now: Vec<_> = classify_all(&mut client, (0..IMAGES).map(request)).await.iter().map(decided).collect();
        assert_eq!(now, before);
    }
    let why = log.lines(&[refused]);
    assert!(why.iter().all(|line| line.contains("safetensors")), "{why:?}");

    put(&second, manifest);
    while log.lines(&["codec taken", &new.codec_id]).is_empty() {
        let answers = classify_all(&mut client, (0..IMAGES).map(request)).await;
        answers.iter().for_each(|answer| drop(decided(answer)));
    }
    assert!(log.lines(&["codec taken", &old.codec_id]).is_empty());
    transmitter.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn a_receiver_serves_transmitters_of_two_codecs_at_once() {
    let ((first, _), (second, _)) = (bundle(1), bundle(2));
    let expected = [decisions(first.path()).await, decisions(second.path()).await];
    let bundles = vec![first.path().to_owned(), second.path().to_owned()];
    let receiver = Service::start(|listener, shutdown| async move {
        let config = semlink_receiver::Config { bundles, ..semlink_receiver::Config::new("") };
        semlink_receiver::serve(listener, config, shutdown.asked()).await.expect("a receiver");
    })
    .await;
    let mut transmitters = Vec::new();
    for dir in [&first, &second] {
        transmitters.push(transmitter(config(receiver.url(), dir.path())).await);
    }
    let mut clients = Vec::new();
    for transmitter in &transmitters {
        clients.push(TransmitterClient::new(transmitter.channel().await));
    }
    let [one, two] = &mut clients[..] else { panic!("two clients") };
    let (one, two) =
        tokio::join!(classify_all(one, (0..IMAGES).map(request)), classify_all(two, (0..IMAGES).map(request)));
    let decisions = [one, two].map(|answers| answers.iter().map(decided).collect::<Vec<_>>());
    assert_eq!(decisions, expected);
    for transmitter in transmitters {
        transmitter.stop().await;
    }
    receiver.stop().await;
}
