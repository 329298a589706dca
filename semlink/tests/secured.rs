//! The commands with services that ask for TLS, client certificates and tokens, and the line that says what is missing.

mod support;

use std::fs;
use std::net::TcpListener as Port;
use std::path::PathBuf;
use std::process::Output;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use semlink_channel::SnrDb;
use semlink_service::security::{ClientArgs, ServerArgs};
use support::{assets, listener, path, semlink, stderr, stdout, sweep_json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SEND: &str = "token-of-the-role-send-only";
const BOTH: &str = "token-of-send-and-control";

/// A transmitter, an emulator that asks for certificates, too, and a receiver in plaintext; all on loopback.
struct Secured {
    dir: TempDir,
    transmitter: String,
    emulator: String,
    _runtime: Runtime,
}

impl Secured {
    fn start() -> Secured {
        let dir = assets();
        let file = |name: &str, contents: &str| -> PathBuf {
            let path = dir.path().join(name);
            fs::write(&path, contents).expect("a file");
            path
        };
        let authority = authority();
        file("ca.pem", &authority.1);
        file("other.pem", &self::authority().1);
        for name in ["server", "client"] {
            let (chain, key) = issue(&authority.0);
            file(&format!("{name}.pem"), &chain);
            file(&format!("{name}.key"), &key);
        }
        let tokens = file("tokens", &format!("send {SEND}\nsend,control {BOTH}\n"));
        file("send", SEND);
        file("both", BOTH);
        let at = |name: &str| Some(dir.path().join(name));
        let server = ServerArgs {
            tls_cert: at("server.pem"),
            tls_key: at("server.key"),
            tokens: Some(tokens),
            ..Default::default()
        };

        let runtime = Runtime::new().expect("a runtime");
        let (receiver, receiver_url) = listener(&runtime);
        let (emulator, emulator_url) = listener(&runtime);
        let (transmitter, transmitter_url) = listener(&runtime);
        let (emulator_url, transmitter_url) =
            (emulator_url.replace("http:", "https:"), transmitter_url.replace("http:", "https:"));
        let bundle = dir.path().join("bundle");
        let forever = std::future::pending::<()>;
        runtime.spawn(semlink_receiver::serve(receiver, semlink_receiver::Config::new(&bundle), forever()));
        let snr = SnrDb::try_new(7.0).expect("an SNR");
        let mut config = semlink_channel_emulator::Config::new(receiver_url, snr);
        config.service.shell.security = ServerArgs { tls_client_ca: at("ca.pem"), ..server.clone() };
        runtime.spawn(semlink_channel_emulator::serve(emulator, config, forever()));
        let rate = "64".parse().expect("a rate");
        let mut config = semlink_transmitter::Config::new(emulator_url.clone(), &bundle, rate);
        config.service.shell.security = server;
        config.client =
            ClientArgs { ca: at("ca.pem"), cert: at("client.pem"), key: at("client.key"), token_file: at("send") };
        runtime.spawn(semlink_transmitter::serve(transmitter, config, forever()));
        let pixels = image::GrayImage::from_fn(28, 28, |x, y| image::Luma([((9 * x) ^ (7 * y)) as u8]));
        pixels.save(dir.path().join("image.png")).expect("an image");
        Secured { dir, transmitter: transmitter_url, emulator: emulator_url, _runtime: runtime }
    }

    fn file(&self, name: &str) -> String {
        path(&self.dir, name)
    }

    /// The flags of these names, each with the file that goes with it.
    fn flags(&self, flags: &[(&str, &str)]) -> Vec<String> {
        flags.iter().flat_map(|(flag, file)| [(*flag).to_owned(), self.file(file)]).collect()
    }

    fn send(&self, flags: &[(&str, &str)]) -> Output {
        let arguments = ["send".to_owned(), "--to".to_owned(), self.transmitter.clone(), self.file("image.png")];
        semlink(arguments.into_iter().chain(self.flags(flags)))
    }

    fn set(&self, flags: &[(&str, &str)]) -> Output {
        let arguments = ["channel", "set", "--snr-db", "3", "--control", &self.emulator].map(str::to_owned);
        semlink(arguments.into_iter().chain(self.flags(flags)))
    }
}

/// Signs certificates; and its own in PEM.
fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(params, key), pem)
}

/// Certificate and key for loopback.
fn issue(issuer: &Issuer<'static, KeyPair>) -> (String, String) {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, issuer).expect("a certificate").pem(), key.serialize_pem())
}

/// Fails with status 1 and one line that has all of these.
#[track_caller]
fn refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().next().unwrap_or_default();
    assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} not in: {text}");
}

const CA: (&str, &str) = ("--ca", "ca.pem");
const CERT: (&str, &str) = ("--cert", "client.pem");
const KEY: (&str, &str) = ("--key", "client.key");

#[test]
fn with_certificates_and_tokens_all_commands_work() {
    let secured = Secured::start();
    let token = ("--token-file", "both");
    let sent = stdout(&secured.send(&[CA, ("--token-file", "send")]));
    assert!(sent.contains("k = 64"), "{sent}");
    let set = stdout(&secured.set(&[CA, CERT, KEY, token]));
    assert!(set.contains('3'), "{set}");
    let (data, out) = (secured.file("data"), secured.file("out"));
    let flags = ["--data", &data, "--out", &out, "--snr", "10", "--channel", "awgn"].map(str::to_owned);
    let urls = ["sweep", "--to", &secured.transmitter, "--control", &secured.emulator].map(str::to_owned);
    let swept = semlink(urls.into_iter().chain(flags).chain(secured.flags(&[CA, CERT, KEY, token])));
    stdout(&swept);
    assert_eq!(sweep_json(&out)["points"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_is_missing_or_wrong_is_said_in_one_line() {
    let secured = Secured::start();
    let (url, control) = (secured.transmitter.as_str(), secured.emulator.as_str());
    let token = ("--token-file", "send");
    // The transmitter is awaited by its first answer; from here on it is there.
    stdout(&secured.send(&[CA, token]));
    refused(&secured.send(&[token]), &[url, "TLS", "--ca"]);
    refused(&secured.send(&[("--ca", "other.pem"), token]), &[url, "TLS", "--ca"]);
    refused(&secured.send(&[CA]), &[url, "--token-file"]);
    refused(&secured.send(&[CA, ("--token-file", "nowhere")]), &["--token-file", "nowhere"]);
    refused(&secured.send(&[CA, CERT, token]), &["--cert", "--key"]);
    refused(&secured.set(&[CA, CERT, KEY, token]), &[control, "role"]);
    // The emulator asks for a certificate.
    refused(&secured.set(&[CA, token]), &[control, "--cert"]);

    // A port behind which nobody speaks TLS, and a place to which plaintext is not sent.
    let dead = Port::bind("127.0.0.1:0").expect("a port");
    let plain = format!("https://{}", dead.local_addr().expect("an address"));
    let answer = std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut client, _) = dead.accept().expect("a client");
        client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
    });
    let image = secured.file("image.png");
    refused(&semlink(["send", "--to", &plain, &image, "--ca", &secured.file("ca.pem")]), &[&plain, "TLS at all"]);
    answer.join().expect("no panic");
    refused(&semlink(["send", "--to", "http://192.0.2.1:9", &image]), &["192.0.2.1", "plaintext", "--plaintext next"]);
}
