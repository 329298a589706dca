//! Tokens of a server: who may call what.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::tls::{Fingerprint, digest};

/// A shorter one could be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 4096;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Images and frames: `Transmitter`, `Link`.
    Send,
    /// The channel: `ChannelControl`.
    Control,
    /// What was decided: `Decisions`.
    Subscribe,
}

/// The tokens of a file, by the SHA-256 of the secret.
///
/// Looking a digest up in a table takes time that depends on digests, not on secrets: who measures it learns at best how a digest
/// begins, and cannot make up a token whose digest begins like that and use the knowledge, as SHA-256 cannot be inverted. Secrets of
/// the file are never compared byte by byte.
#[derive(Default)]
pub(super) struct Tokens(HashMap<[u8; 32], Token>);

#[derive(Debug)]
struct Token {
    roles: Vec<Role>,
    expires: Option<SystemTime>,
    certificate: Option<Fingerprint>,
    line: usize,
}

/// Why a call may not be made.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// For the counter.
    pub(crate) reason: &'static str,
    pub(crate) status: Status,
}

/// What a call needs.
enum Need {
    Nothing,
    AnyToken,
    Role(Role),
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Send => "send",
            Role::Control => "control",
            Role::Subscribe => "subscribe",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Role {
    /// Says nothing of the text: it may be a token in the wrong column.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Role, &'static str> {
        [Role::Send, Role::Control, Role::Subscribe]
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or("unknown role, expected send, control or subscribe, several with ',' and without blanks")
    }
}

/// Closed by default: a service that nobody thought of here needs the strongest role.
fn need(path: &str) -> Need {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    match service.unwrap_or_default() {
        "grpc.health.v1.Health" => Need::Nothing,
        "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => Need::AnyToken,
        "semlink.v1.Transmitter" | "semlink.v1.Link" => Need::Role(Role::Send),
        "semlink.v1.Decisions" => Need::Role(Role::Subscribe),
        _ => Need::Role(Role::Control),
    }
}

/// Whether a call is answered whatever the state of the service and of the caller: a health check.
pub(crate) fn is_open_to_all(path: &str) -> bool {
    matches!(need(path), Need::Nothing)
}

impl Tokens {
    /// All faults of the file, each with its line and none with a secret.
    pub(super) fn parse(contents: &[u8]) -> Result<Tokens, Vec<String>> {
        let text = str::from_utf8(contents).map_err(|_| vec!["not UTF-8 text".to_owned()])?;
        let (mut tokens, mut faults) = (HashMap::<[u8; 32], Token>::new(), Vec::new());
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            match entry(text, line) {
                Ok((key, token)) => {
                    if let Some(first) = tokens.insert(key, token) {
                        faults.push(format!("line {line}: the token of line {} again", first.line));
                    }
                }
                Err(fault) => faults.push(format!("line {line}: {fault}")),
            }
        }
        if tokens.is_empty() && faults.is_empty() {
            faults.push("no token: nobody could call; expected lines ROLE TOKEN".to_owned());
        }
        if faults.is_empty() { Ok(Tokens(tokens)) } else { Err(faults) }
    }

    /// Whether a call with these headers, from a client with this certificate, may be made.
    pub(super) fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        certificate: Option<Fingerprint>,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let role = match need(path) {
            Need::Nothing => return Ok(()),
            Need::AnyToken => None,
            Need::Role(role) => Some(role),
        };
        let unknown = |reason, message: &str| Refusal { reason, status: Status::unauthenticated(message) };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or_else(|| {
            unknown("missing", "this call needs a token: send the header `authorization: Bearer TOKEN`")
        })?;
        let secret = value.to_str().ok().and_then(bearer).filter(|_| values.next().is_none());
        let secret = secret
            .ok_or_else(|| unknown("malformed", "the header `authorization` is not of the form `Bearer TOKEN`"))?;
        let token = self.0.get(&<[u8; 32]>::from(Sha256::digest(secret)));
        let token = token.ok_or_else(|| unknown("unknown", "the token is not one of this server's"))?;
        if token.expires.is_some_and(|expires| expires <= now) {
            return Err(unknown("expired", "the token has expired"));
        }
        if token.certificate.is_some() && token.certificate != certificate {
            return Err(unknown(
                "certificate",
                "the token belongs to another client certificate than this connection's",
            ));
        }
        match role.filter(|role| !token.roles.contains(role)) {
            None => Ok(()),
            Some(role) => {
                let status = Status::permission_denied(format!("the token has not the role {role} that {path} needs"));
                Err(Refusal { reason: "role", status })
            }
        }
    }
}

/// One line that is neither empty nor a comment.
fn entry(text: &str, line: usize) -> Result<([u8; 32], Token), String> {
    let mut fields = text.split_whitespace();
    let roles = fields.next().unwrap_or_default();
    let roles = roles.split(',').map(str::parse::<Role>).collect::<Result<Vec<_>, _>>()?;
    let secret = fields.next().ok_or("no token after the roles")?;
    let key = match secret.strip_prefix("sha256:") {
        Some(hex) => digest(hex).map_err(|fault| format!("sha256: {fault}"))?,
        None => {
            check_secret(secret)?;
            Sha256::digest(secret).into()
        }
    };
    let mut token = Token { roles, expires: None, certificate: None, line };
    for field in fields {
        match field.split_once('=') {
            Some(("expires", time)) if token.expires.is_none() => {
                let time = humantime::parse_rfc3339(time)
                    .map_err(|_| "expires: expected a time in UTC, as in 2027-01-31T00:00:00Z")?;
                token.expires = Some(time);
            }
            Some(("certificate", hex)) if token.certificate.is_none() => {
                token.certificate = Some(hex.parse().map_err(|fault| format!("certificate: {fault}"))?);
            }
            _ => {
                return Err(
                    "a third or later field is neither expires=TIME nor certificate=SHA256, each once".to_owned()
                );
            }
        }
    }
    Ok((key, token))
}

/// Whether a secret can be a token; the fault does not show it.
pub(super) fn check_secret(secret: &str) -> Result<(), String> {
    if !(SHORTEST..=LONGEST).contains(&secret.len()) {
        return Err(format!("the token has {} characters, expected {SHORTEST} to {LONGEST}", secret.len()));
    }
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token has characters other than visible ASCII".to_owned());
    }
    Ok(())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, secret) = value.split_once(' ')?;
    let secret = secret.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-secret-of-enough-length";

    fn check(tokens: &str, path: &str, header: Option<&str>) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        let tokens = Tokens::parse(tokens.as_bytes()).map_err(|faults| panic!("{faults:?}")).unwrap();
        tokens.check(path, &headers, None, SystemTime::now()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn each_service_needs_its_role_and_what_is_unknown_needs_control() {
        let header = format!("Bearer {SECRET}");
        for (role, allowed) in [
            ("send", &["semlink.v1.Transmitter/Classify", "semlink.v1.Link/Transmit"][..]),
            (
                "control",
                &["semlink.v1.ChannelControl/SetChannel", "grpc.channelz.v1.Channelz/GetServers", "nobody/knows"],
            ),
            ("subscribe", &["semlink.v1.Decisions/Subscribe"]),
        ] {
            let tokens = format!("{role} {SECRET}");
            for path in [
                "semlink.v1.Transmitter/Classify",
                "semlink.v1.Link/Transmit",
                "semlink.v1.ChannelControl/SetChannel",
                "semlink.v1.Decisions/Subscribe",
                "grpc.channelz.v1.Channelz/GetServers",
                "nobody/knows",
            ] {
                let expected = if allowed.contains(&path) { Ok(()) } else { Err("role") };
                assert_eq!(check(&tokens, &format!("/{path}"), Some(&header)), expected, "{role} {path}");
            }
            let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
            assert_eq!(check(&tokens, reflection, Some(&header)), Ok(()));
            assert_eq!(check(&tokens, reflection, None), Err("missing"));
            assert_eq!(check(&tokens, "/grpc.health.v1.Health/Check", None), Ok(()));
        }
        assert_eq!(check(&format!("send,control {SECRET}"), "/x/y", Some(&header)), Ok(()));
    }

    #[test]
    fn a_token_may_be_kept_as_its_digest_and_may_expire() {
        // printf a-secret-of-enough-length | sha256sum
        let digest = Sha256::digest(SECRET).iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let path = "/semlink.v1.Link/Transmit";
        let bearer = format!("bearer {SECRET}");
        assert_eq!(check(&format!("send sha256:{digest}"), path, Some(&bearer)), Ok(()));
        assert_eq!(check(&format!("send sha256:{digest}"), path, Some(&format!("Bearer {digest}"))), Err("unknown"));
        assert_eq!(check(&format!("send {SECRET} expires=2000-01-01T00:00:00Z"), path, Some(&bearer)), Err("expired"));
        assert_eq!(check(&format!("send {SECRET} expires=2999-01-01T00:00:00Z"), path, Some(&bearer)), Ok(()));
        for malformed in ["Basic YTpi", "Bearer", "Bearer ", SECRET] {
            assert_eq!(check(&format!("send {SECRET}"), path, Some(malformed)), Err("malformed"), "{malformed}");
        }
    }

    #[test]
    fn every_fault_is_told_with_its_line_and_without_a_secret() {
        let file = "# roles\n\nsend short-secret\nreceive another-secret-of-length\nsend\nsend,control a-secret-of-enough-length\n\
            send the-third-secret-here expires=tomorrow\nsend the-fourth-secret-here colour=red\nsend sha256:xyz\n\
            subscribe a-secret-of-enough-length\nan-unfortunate-secret-column send\nsend the-fifth-secret-here certificate=12\n";
        let faults = Tokens::parse(file.as_bytes()).err().unwrap();
        let lines: Vec<&str> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(
            lines,
            ["line 3", "line 4", "line 5", "line 7", "line 8", "line 9", "line 10", "line 11", "line 12"],
            "{faults:?}"
        );
        assert!(!faults.concat().contains("secret"), "{faults:?}");
        assert!(Tokens::parse(b"# nothing\n").is_err());
        assert!(Tokens::parse(&[0xff]).is_err());
    }
}
