//! TLS, client certificates and tokens, end to end; what is wrong with a client is told to it and to the log, and others do not notice.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use semlink_proto::v1::link_client::LinkClient;
use semlink_service::security::{ClientArgs, Credentials, ServerArgs, ServerSecurity};
use semlink_service::shell::{Counters, Outcome, Reason};
use semlink_service::{Shell, ShellArgs};
use support::lab::{Authority, Identity, Lab, checked, write};
use support::log::Log;
use support::{Beside, Manner, Service, frame, stop_the_clock, transmit, transmit_as};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

const SEND: &str = "send-token-for-these-tests";
const CONTROL: &str = "control-token-for-these-tests";
const EXPIRED: &str = "expired-token-for-these-tests";
const BOUND: &str = "bound-token-for-these-tests";

/// A service with its files, and clients of it.
struct Setting {
    lab: Lab,
    authority: Authority,
    service: Service,
    address: SocketAddr,
    security: ServerSecurity,
    counters: Counters,
}

impl Setting {
    /// TLS with a certificate for `localhost`, changed by the test.
    async fn start(change: impl FnOnce(&Lab, &Authority, &mut ServerArgs)) -> Setting {
        let (lab, authority) = (Lab::new(), Authority::new("the authority"));
        let (tls_cert, tls_key) = write(&lab, "server", &authority.issue());
        let mut args = ServerArgs { tls_cert, tls_key, ..ServerArgs::default() };
        lab.write("ca.pem", &authority.pem);
        change(&lab, &authority, &mut args);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let config = checked(|problems| ShellArgs { security: args, ..ShellArgs::default() }.check(address, problems));
        let (security, shell) = (config.security.clone(), Shell::with("test", config));
        let counters = shell.counters();
        let service = Service::start_shell(listener, shell, Manner::Tells);
        Setting { lab, authority, service, address, security, counters }
    }

    fn trusting(&self) -> ClientArgs {
        ClientArgs { ca: Some(self.lab.path("ca.pem")), ..ClientArgs::default() }
    }

    fn with_token(&self, token: &str, args: ClientArgs) -> Credentials {
        let token_file = Some(self.lab.write("token", format!("{token}\n")));
        checked(|problems| ClientArgs { token_file, ..args }.check(problems))
    }

    fn with_certificate(&self, identity: &Identity) -> ClientArgs {
        let (cert, key) = write(&self.lab, "client", identity);
        ClientArgs { cert, key, ..self.trusting() }
    }

    async fn connect(&self, args: &ClientArgs) -> Result<Channel, String> {
        self.connect_as(&checked(|problems| args.check(problems))).await
    }

    /// By name, for the certificate; to the address, as `localhost` may be another.
    async fn connect_as(&self, credentials: &Credentials) -> Result<Channel, String> {
        connect(credentials, &format!("https://localhost:{}", self.address.port()), self.address).await
    }

    fn authentication(&self, reason: &'static str) -> u64 {
        self.counters.authentication_refused.get_or_create(&Reason { reason }).get()
    }

    fn handshakes(&self) -> u64 {
        self.counters.connections_refused.get_or_create(&Reason { reason: "handshake" }).get()
    }

    fn rereads(&self, result: &'static str) -> u64 {
        self.counters.rereads.get_or_create(&Outcome { result }).get()
    }
}

async fn connect(credentials: &Credentials, url: &str, address: SocketAddr) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL").connect_timeout(Duration::from_secs(60));
    credentials.connect(endpoint, Some(address)).await.map_err(|error| {
        let mut told = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            told = format!("{told}: {error}");
            cause = error.source();
        }
        told
    })
}

/// In TLS 1.3 a client learns after its handshake that its certificate was refused: by the connection, or by the first call on it.
async fn is_cut_off(connected: Result<Channel, String>) {
    if let Ok(channel) = connected {
        transmit(channel).await.expect_err("the connection was refused");
    }
}

/// Lets the time pass in which a peer's address gets no second line in the log.
async fn another_line_may_be_written() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn tls_with_an_authority_that_signed_the_server_and_no_other() {
    let log = Log::capture();
    let setting = Setting::start(|_, _, _| {}).await;
    let good = setting.connect(&setting.trusting()).await.expect("a connection");
    let other = setting.lab.write("other.pem", Authority::new("another").pem);
    let error =
        setting.connect(&ClientArgs { ca: Some(other), ..ClientArgs::default() }).await.expect_err("not trusted");
    assert!(error.contains("UnknownIssuer"), "{error}");
    // The system's authorities do not know it either, or there are none.
    setting.connect(&ClientArgs::default()).await.expect_err("not trusted");
    let trusting = checked(|problems| setting.trusting().check(problems));
    let elsewhere = format!("https://other.example:{}", setting.address.port());
    let error = connect(&trusting, &elsewhere, setting.address).await.expect_err("another name");
    assert!(error.contains("not valid for name"), "{error}");
    transmit(good).await.expect("served meanwhile");
    // Plaintext to a TLS port.
    connect(&Credentials::none(), &setting.service.url, setting.address).await.map(drop).unwrap_or_default();
    while setting.handshakes() < 3 {
        tokio::task::yield_now().await;
    }
    log.has(&["WARN", "peer=127.0.0.1:", "handshake"]);
    transmit(setting.connect(&setting.trusting()).await.expect("a connection")).await.expect("served after");
    setting.service.stop().await;
}

#[tokio::test]
async fn an_expired_server_is_not_trusted() {
    let log = Log::capture();
    let setting = Setting::start(|lab, authority, _| drop(write(lab, "server", &authority.issue_until(2001)))).await;
    let error = setting.connect(&setting.trusting()).await.expect_err("expired");
    assert!(error.contains("expired") || error.contains("Expired"), "{error}");
    // Its operator learns of it by those who leave.
    while setting.handshakes() < 1 {
        tokio::task::yield_now().await;
    }
    log.has(&["WARN", "peer=127.0.0.1:", "handshake"]);
    setting.service.stop().await;
}

#[tokio::test]
async fn mutual_tls_takes_clients_with_a_valid_certificate_only() {
    let log = Log::capture();
    let setting = Setting::start(|lab, _, args| args.tls_client_ca = Some(lab.path("ca.pem"))).await;
    let valid = setting.with_certificate(&setting.authority.issue());
    let good = setting.connect(&valid).await.expect("a connection");
    transmit(good.clone()).await.expect("served");

    let (other, expired) = (Authority::new("another").issue(), setting.authority.issue_until(2001));
    for (identity, why) in
        [(None, "peer sent no certificates"), (Some(&other), "UnknownIssuer"), (Some(&expired), "certificate expired")]
    {
        let args = identity.map_or_else(|| setting.trusting(), |identity| setting.with_certificate(identity));
        let before = setting.handshakes();
        another_line_may_be_written().await;
        is_cut_off(setting.connect(&args).await).await;
        while setting.handshakes() == before {
            tokio::task::yield_now().await;
        }
        log.has(&["WARN", "peer=127.0.0.1:", "handshake", why]);
    }

    transmit(good).await.expect("served meanwhile");
    let valid = setting.with_certificate(&setting.authority.issue());
    transmit(setting.connect(&valid).await.expect("a connection")).await.expect("served after");
    setting.service.stop().await;
}

#[tokio::test]
async fn a_silent_client_does_not_keep_a_tls_connection() {
    let log = Log::capture();
    let setting = Setting::start(|_, _, _| {}).await;
    let began = tokio::time::Instant::now();
    let mut silent = tokio::net::TcpStream::connect(setting.address).await.expect("a connection");
    let mut slow = tokio::net::TcpStream::connect(setting.address).await.expect("a connection");
    // The beginning of a handshake, never the rest.
    tokio::io::AsyncWriteExt::write_all(&mut slow, &[22, 3, 1]).await.expect("sent");
    transmit(setting.connect(&setting.trusting()).await.expect("a connection")).await.expect("served meanwhile");
    let _steps = stop_the_clock();
    for tcp in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(tcp, &mut rest).await;
    }
    assert!((5..=6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    tokio::time::resume();
    assert_eq!(setting.handshakes(), 2);
    log.has(&["WARN", "peer=127.0.0.1:", "handshake", "within 5 s"]);
    transmit(setting.connect(&setting.trusting()).await.expect("a connection")).await.expect("served after");
    setting.service.stop().await;
}

/// A setting with tokens; client certificates are asked for.
async fn guarded(client: &mut Option<Identity>) -> Setting {
    Setting::start(|lab, authority, args| {
        let bound = authority.issue();
        let file = format!(
            "# role token\nsend {SEND}\ncontrol,subscribe {CONTROL}\nsend {EXPIRED} expires=2001-01-01T00:00:00Z\n\
             send {BOUND} certificate={}\n",
            bound.fingerprint
        );
        args.tokens = Some(lab.write("tokens", file));
        args.tls_client_ca = Some(lab.path("ca.pem"));
        *client = Some(bound);
    })
    .await
}

/// A call with these headers `authorization`.
async fn call(channel: &Channel, headers: &[String]) -> Result<(), tonic::Status> {
    let mut request = Request::new(futures::stream::iter([frame(7, 42)]));
    for header in headers {
        request.metadata_mut().append("authorization", header.parse().expect("ASCII"));
    }
    LinkClient::new(channel.clone()).transmit(request).await.map(drop)
}

#[tokio::test]
async fn each_wrong_token_is_refused_for_its_reason() {
    let log = Log::capture();
    let mut bound = None;
    let setting = guarded(&mut bound).await;
    let bound = bound.expect("a certificate");
    let args = setting.with_certificate(&setting.authority.issue());

    let good = setting.with_token(SEND, args.clone());
    let channel = setting.connect_as(&good).await.expect("a connection");
    let unknown = "another-token-for-these-tests";
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    for (headers, code, reason, told) in [
        (vec![], Code::Unauthenticated, "missing", "authorization: Bearer"),
        (vec![format!("Basic {SEND}")], Code::Unauthenticated, "malformed", "not of the form"),
        (bearer(unknown), Code::Unauthenticated, "unknown", "not one of this server's"),
        (bearer(EXPIRED), Code::Unauthenticated, "expired", "expired"),
        (bearer(CONTROL), Code::PermissionDenied, "role", "role send"),
        // Replayed from elsewhere.
        (bearer(BOUND), Code::Unauthenticated, "certificate", "another client certificate"),
        // The good one, and another that some proxy might look at.
        ([bearer(SEND), bearer(unknown)].concat(), Code::Unauthenticated, "malformed", "not of the form"),
    ] {
        let before = setting.authentication(reason);
        another_line_may_be_written().await;
        let status = call(&channel, &headers).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(told), "{status}");
        assert_eq!(setting.authentication(reason), before + 1, "{reason}");
        log.has(&["WARN", "peer=127.0.0.1:", &format!("reason=\"{reason}\""), "/semlink.v1.Link/Transmit", told]);
        transmit_as(channel.clone(), &good).await.expect("served meanwhile");
    }

    let owner = setting.with_token(BOUND, setting.with_certificate(&bound));
    transmit_as(setting.connect_as(&owner).await.expect("a connection"), &owner).await.expect("from where it belongs");
    // Health needs none.
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.expect("health");
    for secret in [SEND, CONTROL, EXPIRED, BOUND, unknown] {
        assert!(!log.text().contains(secret), "a token in the log");
    }
    setting.service.stop().await;
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_is_one_line_in_the_log() {
    let log = Log::capture();
    let mut bound = None;
    let setting = guarded(&mut bound).await;
    let wrong =
        setting.with_token("another-token-for-these-tests", setting.with_certificate(&setting.authority.issue()));
    let channel = setting.connect_as(&wrong).await.expect("a connection");
    tokio::time::pause();
    for _ in 0..100 {
        transmit_as(channel.clone(), &wrong).await.expect_err("refused");
    }
    tokio::time::resume();
    assert_eq!(setting.authentication("unknown"), 100);
    assert_eq!(log.text().lines().filter(|line| line.contains("unknown")).count(), 1, "{}", log.text());
    transmit_as(channel, &setting.with_token(SEND, setting.trusting())).await.expect("others are served");
    setting.service.stop().await;
}

#[tokio::test]
async fn a_certificate_changes_under_an_open_stream() {
    let log = Log::capture();
    let setting = Setting::start(|_, _, _| {}).await;
    let mut beside = Beside::open(setting.connect(&setting.trusting()).await.expect("a connection")).await;

    let new = Authority::new("the new authority");
    let new_ca = ClientArgs { ca: Some(setting.lab.write("new-ca.pem", &new.pem)), ..ClientArgs::default() };
    setting.connect(&new_ca).await.expect_err("not yet");
    write(&setting.lab, "server", &new.issue());
    setting.security.reread(&setting.counters);
    assert_eq!((setting.rereads("ok"), setting.rereads("failed")), (1, 0));
    transmit(setting.connect(&new_ca).await.expect("the new certificate")).await.expect("served");
    setting.connect(&setting.trusting()).await.expect_err("the old one is gone");
    beside.goes_on().await;

    // Neither half a pair nor garbage replaces a pair that works, and each is told once.
    for broken in [new.issue().key, "garbage".to_owned()] {
        setting.lab.write("server.key", broken);
        setting.security.reread(&setting.counters);
        setting.security.reread(&setting.counters);
        transmit(setting.connect(&new_ca).await.expect("what was there before")).await.expect("served");
    }
    assert_eq!((setting.rereads("ok"), setting.rereads("failed")), (1, 2));
    log.has(&["WARN", "server.key", "old contents stay in use"]);
    beside.goes_on().await;
    drop(beside);
    setting.service.stop().await;
}

/// As Kubernetes changes secrets: the name stays, what it leads to is another; nobody calls, the server looks by itself.
#[cfg(unix)]
#[tokio::test]
async fn tokens_change_behind_a_symbolic_link() {
    let setting = Setting::start(|lab, _, args| {
        lab.write("tokens-1", format!("send {SEND}\n"));
        lab.write("tokens-2", "send the-next-token-for-these-tests\n");
        std::os::unix::fs::symlink(lab.path("tokens-1"), lab.path("tokens")).expect("a link");
        args.tokens = Some(lab.path("tokens"));
    })
    .await;
    let old = setting.with_token(SEND, setting.trusting());
    let channel = setting.connect_as(&old).await.expect("a connection");
    transmit_as(channel.clone(), &old).await.expect("served");
    std::os::unix::fs::symlink(setting.lab.path("tokens-2"), setting.lab.path("swap")).expect("a link");
    std::fs::rename(setting.lab.path("swap"), setting.lab.path("tokens")).expect("swapped");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3)).await;
    tokio::time::resume();
    while setting.rereads("ok") == 0 {
        tokio::task::yield_now().await;
    }
    let status = transmit_as(channel.clone(), &old).await.expect_err("gone");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    // The client's file changes, too, under its open connection.
    setting.lab.write("token", "the-next-token-for-these-tests");
    old.reread();
    transmit_as(channel, &old).await.expect("the new one");
    setting.service.stop().await;
}
