//! Bundles that change while the services run: nothing fails, and what cannot be served with is not taken.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use semlink_codec::{Half, MANIFEST_FILE};
use semlink_proto::v1::transmitter_client::TransmitterClient;
use semlink_proto::v1::{ClassifyResponse, Error};
use support::air::{Air, Arrived};
use support::endless::{Decided, Endless, IMAGES};
use support::log::Log;
use support::page::{LATE, Page};
use support::{Service, bundle, classify_all, config, decided, receiver, receiver_with, request, transmitter};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Channel;

const OK: &str = r#"semlink_bundle_reloads_total{result="ok"}"#;
const REFUSED: &str = r#"semlink_bundle_reloads_total{result="refused"}"#;

/// A receiver and a transmitter, each with a bundle of its own and metrics.
struct Pair {
    receiver: Service,
    transmitter: Service,
    at_receiver: Page,
    at_transmitter: Page,
    log: Log,
}

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

impl Pair {
    async fn start(receiver_bundle: &Path, transmitter_bundle: &Path) -> Pair {
        let log = Log::capture();
        let mut receiver = semlink_receiver::Config::new(receiver_bundle);
        Page::on_any_port(&mut receiver.service);
        let receiver = receiver_with(receiver).await;
        let at_receiver = Page::of(&log, 1).await;
        let mut settings = config(receiver.url(), transmitter_bundle);
        Page::on_any_port(&mut settings.service);
        let transmitter = transmitter(settings).await;
        let at_transmitter = Page::of(&log, 2).await;
        Pair { receiver, transmitter, at_receiver, at_transmitter, log }
    }

    async fn stop(self) {
        self.transmitter.stop().await;
        self.receiver.stop().await;
    }
}

/// Asserts that each image was decided as one of these codecs decides it.
#[track_caller]
fn assert_of(answers: &[Decided], codecs: &[&[Decided]]) {
    assert!(!answers.is_empty(), "nothing was answered");
    for answer in answers {
        assert!(codecs.iter().any(|codec| codec[answer.0 as usize] == *answer), "{answer:?} is of another codec");
    }
}

/// Replaces a bundle file by file, each by renaming, the manifest last.
fn replace(dir: &Path, by: &Path) {
    for name in [Half::Encoder.file_name(), Half::Decoder.file_name(), MANIFEST_FILE] {
        let next = dir.join("next");
        fs::copy(by.join(name), &next).expect("a copy");
        fs::rename(next, dir.join(name)).expect("a replacement");
    }
}

/// A directory with the files of this bundle.
fn copy(bundle: &Path) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    replace(dir.path(), bundle);
    dir
}

/// What a transmitter and a receiver with this bundle make of the images.
async fn decisions(bundle: &Path) -> Vec<Decided> {
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
    let arrived = tokio::time::timeout(LATE, air.frame()).await.expect("a trial");
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
async fn a_stream_goes_on_while_its_bundles_are_replaced_file_by_file() {
    let ((first, _), (second, new)) = (bundle(1), bundle(2));
    let (before, after) = (decisions(first.path()).await, decisions(second.path()).await);
    let (receivers, transmitters) = (copy(first.path()), copy(first.path()));
    let pair = Pair::start(receivers.path(), transmitters.path()).await;
    let mut stream = Endless::start(&pair.transmitter).await;

    replace(receivers.path(), second.path());
    assert_of(&stream.during(pair.at_receiver.reaches(OK, 1.0)).await, &[&before]);
    pair.at_receiver.samples().await.assert("semlink_bundle_codecs", 2.0);
    replace(transmitters.path(), second.path());
    assert_of(&stream.during(pair.at_transmitter.reaches(OK, 1.0)).await, &[&before, &after]);
    assert_of(&stream.fresh().await, &[&after]);

    let images = stream.stop().await as f64;
    let samples = pair.at_transmitter.samples().await;
    samples.assert(r#"semlink_transmitter_images_total{code="OK"}"#, images);
    samples.assert("semlink_transmitter_fallback_images_total", 0.0);
    samples.assert(&format!(r#"semlink_bundle_codec{{codec_id="{}"}}"#, new.codec_id), 1.0);
    // A trial is no frame of an image.
    pair.at_receiver.samples().await.assert(r#"semlink_receiver_frames_total{code="OK"}"#, images);
    pair.stop().await;
}

#[tokio::test]
async fn a_transmitter_that_is_ahead_of_its_receiver_waits_for_it() {
    let ((first, old), (second, new)) = (bundle(1), bundle(2));
    let (before, after) = (decisions(first.path()).await, decisions(second.path()).await);
    let [receivers, transmitters] = [Mount::new(first.path()), Mount::new(first.path())];
    let pair = Pair::start(receivers.path(), transmitters.path()).await;
    let mut stream = Endless::start(&pair.transmitter).await;

    transmitters.swap(second.path());
    assert_of(&stream.during(pair.at_transmitter.reaches(REFUSED, 1.0)).await, &[&before]);
    assert_of(&stream.fresh().await, &[&before]);
    let told = pair.log.lines(&["WARN", "does not come through yet", &new.codec_id, &old.codec_id]);
    assert_eq!(told.len(), 1, "{told:?}");
    let samples = pair.at_receiver.samples().await;
    assert_eq!(
        samples.find(r#"semlink_receiver_frames_total{code="FAILED_PRECONDITION"}"#),
        None,
        "a trial is no image"
    );

    receivers.swap(second.path());
    assert_of(&stream.during(pair.at_transmitter.reaches(OK, 1.0)).await, &[&before, &after]);
    assert_of(&stream.fresh().await, &[&after]);
    stream.stop().await;
    pair.stop().await;
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
    // A channel that loses the trial says nothing about the codec.
    trial(&mut air).await.report(|report| {
        report.error = Some(Error { code: Code::DataLoss as i32, message: "the link lost the frame".to_owned() });
    });
    assert_eq!(through(&mut client, &mut air).await.0, old.codec_id, "lost, it is not used");
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
async fn a_bundle_that_is_not_whole_is_refused_and_counted_until_it_is() {
    let ((first, _), (second, new)) = (bundle(1), bundle(2));
    let (before, after) = (decisions(first.path()).await, decisions(second.path()).await);
    let dir = copy(first.path());
    let pair = Pair::start(dir.path(), dir.path()).await;
    let mut stream = Endless::start(&pair.transmitter).await;
    let weights = [Half::Encoder, Half::Decoder].map(Half::file_name);
    let put = |bundle: &TempDir, name: &str, spoil: fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(bundle.path().join(name)).expect("a file");
        spoil(&mut bytes);
        // In place, not by renaming.
        fs::write(dir.path().join(name), bytes).expect("a file");
    };
    let whole = |_: &mut Vec<u8>| ();
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("a byte") ^= 1;

    // As a copy of the second goes on; then damaged, then with half a manifest.
    for step in ["half-written", "of another bundle", "damaged", "half a manifest"] {
        let [by_receiver, by_transmitter] = [pair.at_receiver.samples().await, pair.at_transmitter.samples().await];
        match step {
            "half-written" => weights.iter().for_each(|name| put(&second, name, half)),
            "of another bundle" => weights.iter().for_each(|name| put(&second, name, whole)),
            "damaged" => weights.iter().for_each(|name| put(&first, name, flip)),
            _ => put(&first, MANIFEST_FILE, half),
        }
        let refused = async {
            pair.at_receiver.reaches(REFUSED, by_receiver.get(REFUSED) + 1.0).await;
            pair.at_transmitter.reaches(REFUSED, by_transmitter.get(REFUSED) + 1.0).await;
        };
        assert_of(&stream.during(refused).await, &[&before]);
    }
    let path = dir.path().display().to_string();
    let told = pair.log.lines(&["WARN", "cannot be served; the codec before it stays", &path]);
    for named in ["encoder.safetensors", "decoder.safetensors", MANIFEST_FILE] {
        assert!(told.iter().any(|line| line.contains(named)), "{named} is not in {told:?}");
    }
    for page in [&pair.at_receiver, &pair.at_transmitter] {
        page.samples().await.assert("semlink_bundle_codecs", 1.0);
    }

    replace(dir.path(), second.path());
    assert_of(&stream.during(pair.at_transmitter.reaches(OK, 1.0)).await, &[&before, &after]);
    assert_of(&stream.fresh().await, &[&after]);
    for page in [&pair.at_receiver, &pair.at_transmitter] {
        page.samples().await.assert(&format!(r#"semlink_bundle_codec{{codec_id="{}"}}"#, new.codec_id), 1.0);
    }
    stream.stop().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_receiver_serves_transmitters_of_two_codecs_at_once() {
    let ((first, _), (second, _)) = (bundle(1), bundle(2));
    let expected = [decisions(first.path()).await, decisions(second.path()).await];
    let bundles = vec![first.path().to_owned(), second.path().to_owned()];
    let receiver = receiver_with(semlink_receiver::Config { bundles, ..semlink_receiver::Config::new("") }).await;
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
