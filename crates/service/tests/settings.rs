//! Settings of security: what is wrong with them is told, and no secret is.

mod support;

use std::net::SocketAddr;

use semlink_service::ShellConfig;
use semlink_service::security::{ClientArgs, Credentials, Plaintext, Secret, ServerArgs};
use support::lab::{Authority, Lab, checked, faults, write};
use tonic::Request;

const SEND: &str = "send-token-for-these-tests";

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn plaintext_beyond_loopback_is_asked_for_by_name() {
    let lab = Lab::new();
    let everywhere: SocketAddr = "0.0.0.0:50051".parse().expect("an address");
    let tokens = Some(lab.write("tokens", format!("send {SEND}\n")));
    let open = ServerArgs::default();
    let told = faults(|problems| open.check(everywhere, problems));
    assert!(told.contains("--listen 0.0.0.0:50051") && told.contains("--plaintext listen"), "{told}");
    let told = faults(|problems| ServerArgs { tokens: tokens.clone(), ..open.clone() }.check(everywhere, problems));
    assert!(told.contains("tokens"), "{told}");
    let other = ServerArgs { plaintext: vec![Plaintext::Next, Plaintext::Metrics], ..open.clone() };
    faults(|problems| other.check(everywhere, problems));
    let asked = ServerArgs { plaintext: vec![Plaintext::Listen], tokens, ..open.clone() };
    assert_eq!(checked(|problems| asked.check(everywhere, problems)).to_string(), "plaintext, tokens");
    for loopback in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        checked(|problems| open.check(loopback.parse().expect("an address"), problems));
    }

    let credentials = Credentials::none();
    for (url, allowed, good) in [
        ("http://localhost:1", false, true),
        ("http://127.0.0.1:1", false, true),
        ("http://[::1]:1", false, true),
        ("http://192.0.2.1:1", false, false),
        ("http://localhost.example:1", false, false),
        ("http://receiver:1", false, false),
        ("http://receiver:1", true, true),
        ("https://receiver:1", false, true),
        ("https://192.0.2.1:1", false, true),
        ("ftp://localhost:1", true, false),
    ] {
        let checked = credentials.check_next(&url.parse().expect("a URL"), allowed);
        assert_eq!(checked.is_ok(), good, "{url}: {checked:?}");
    }
    let next = "http://receiver:1".parse().expect("a URL");
    assert!(credentials.check_next(&next, false).expect_err("refused").contains("--plaintext next"));
    credentials.with_plaintext(true).check_next(&next, false).expect("allowed");
}

#[test]
fn every_fault_of_the_settings_is_told() {
    let lab = Lab::new();
    let (garbage, absent) = (lab.write("garbage", "nothing"), lab.path("absent"));
    let identity = Authority::new("a").issue();
    let key = Some(lab.write("server.key", &identity.key));
    let chain = Some(lab.write("server.pem", &identity.chain));

    let args = ServerArgs { tls_cert: Some(garbage.clone()), tls_key: Some(absent.clone()), ..ServerArgs::default() };
    let told = faults(|problems| args.check(loopback(), problems));
    assert!(told.contains("--tls-key") && told.contains("absent"), "{told}");
    let args = ServerArgs { tls_cert: Some(garbage.clone()), tls_key: Some(garbage.clone()), ..ServerArgs::default() };
    let told = faults(|problems| args.check(loopback(), problems));
    assert!(told.contains("--tls-cert") && told.contains("--tls-key"), "{told}");
    let args = ServerArgs { tls_key: key.clone(), ..ServerArgs::default() };
    assert!(faults(|problems| args.check(loopback(), problems)).contains("--tls-key: needs --tls-cert"));
    let args = ServerArgs { tls_client_ca: chain.clone(), ..ServerArgs::default() };
    assert!(faults(|problems| args.check(loopback(), problems)).contains("--tls-client-ca: needs"));
    let args = ServerArgs { tokens: Some(lab.write("bad", "send short\nnobody x\n")), ..ServerArgs::default() };
    let told = faults(|problems| args.check(loopback(), problems));
    assert!(told.contains("line 1") && told.contains("line 2"), "{told}");

    let args = ClientArgs { cert: chain, token_file: Some(lab.write("empty", "")), ..ClientArgs::default() };
    let told = faults(|problems| args.check(problems));
    assert!(told.contains("--cert: needs --key") && told.contains("--token-file"), "{told}");
    let args = ClientArgs { ca: Some(garbage), ..ClientArgs::default() };
    assert!(faults(|problems| args.check(problems)).contains("no certificate in PEM"));
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let lab = Lab::new();
    let identity = Authority::new("a").issue();
    let (tls_cert, tls_key) = write(&lab, "server", &identity);
    let args = ServerArgs {
        tls_cert: tls_cert.clone(),
        tls_key: tls_key.clone(),
        tokens: Some(lab.write("tokens", format!("send {SEND}\n"))),
        ..ServerArgs::default()
    };
    let server = checked(|problems| args.check(loopback(), problems));
    let client_args = ClientArgs {
        cert: tls_cert,
        key: tls_key,
        token_file: Some(lab.write("token", SEND)),
        ..ClientArgs::default()
    };
    // Without a certificate: a machine without authorities has none to check a server with.
    let client = checked(|problems| ClientArgs { cert: None, key: None, ..client_args.clone() }.check(problems));
    let mut request = Request::new(());
    client.authorise(&mut request);
    assert_eq!(
        request.metadata().get("authorization").expect("a token").to_str().expect("text"),
        format!("Bearer {SEND}")
    );
    let config = ShellConfig { security: server.clone(), ..ShellConfig::default() };
    let secret = Secret::new(SEND);
    let printed =
        format!("{args:?} {server:?} {server} {client_args:?} {client:?} {request:?} {config:?} {secret:?} {secret}");
    assert!(!printed.contains(SEND), "{printed}");
    assert!(!printed.contains("PRIVATE KEY"), "{printed}");
    assert!(printed.contains("redacted") && printed.contains("Sensitive"), "{printed}");
}
