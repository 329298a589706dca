//! Settings are checked together and all that is wrong is reported together.

use std::fmt::{self, Display};
use std::str::FromStr;

use tokio::net::TcpListener;

use crate::Error;

/// Collects what is wrong with a configuration.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

/// `HOST:PORT` to listen on, in form; whether it can be had shows when it is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress(String);

impl Problems {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a problem with a setting.
    pub fn add(&mut self, setting: &str, problem: impl Display) {
        self.0.push(format!("{setting}: {problem}"));
    }

    /// The value, or `None` with the problem noted.
    pub fn check<T, E: Display>(&mut self, setting: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|problem| self.add(setting, problem)).ok()
    }

    /// The value, or `None` with the problem noted; all of them, if it was several settings' value.
    pub fn include<T>(&mut self, value: Result<T, Error>) -> Option<T> {
        match value {
            Ok(value) => return Some(value),
            Err(Error::Config(problems)) => self.0.extend(problems),
            Err(error) => self.0.push(error.to_string()),
        }
        None
    }

    /// Parses a setting's text; a problem is reported with the text.
    pub fn parse<T: FromStr<Err: Display>>(&mut self, setting: &str, text: &str) -> Option<T> {
        self.check(&format!("{setting} {text:?}"), text.parse())
    }

    /// Notes a number that is not within these bounds.
    pub fn within<T: PartialOrd + Display + Copy>(&mut self, setting: &str, value: T, least: T, most: T) {
        // Not `value < least || value > most`: a NaN is within no bounds.
        if !(least..=most).contains(&value) {
            self.add(setting, format!("{value}, expected {least} to {most}"));
        }
    }

    /// The configuration, if there was no problem.
    ///
    /// # Errors
    /// [`Error::Config`] with all problems.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Error> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Error::Config(self.0)),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or_default();
        // An IPv6 address is written in brackets: without them its last group would be the port.
        let bare =
            host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or_else(|| host.trim_matches(':'));
        let ambiguous = host.contains(':') && !host.starts_with('[');
        if bare.is_empty() || ambiguous || bare.contains(char::is_whitespace) || port.parse::<u16>().is_err() {
            return Err("no address to listen on, expected HOST:PORT, as in 127.0.0.1:50052 or [::]:50052".to_owned());
        }
        Ok(ListenAddress(text.to_owned()))
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Listens on `HOST:PORT`.
///
/// # Errors
/// [`Error::Config`] for what is no address, [`Error::Listen`] naming one that cannot be had.
pub async fn listen(address: &str) -> Result<TcpListener, Error> {
    let mut problems = Problems::new();
    let checked = problems.parse::<ListenAddress>("--listen", address);
    let ListenAddress(address) = problems.finish(checked)?;
    TcpListener::bind(&address).await.map_err(|source| Error::Listen { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported() {
        let mut problems = Problems::new();
        assert_eq!(problems.parse::<u16>("--a", "12"), Some(12));
        assert_eq!(problems.parse::<u16>("--b", "many"), None);
        problems.add("--c", "is not there");
        problems.within("--d", 3, 1, 3);
        problems.within("--e", f64::NAN, 0.0, 1.0);
        assert_eq!(problems.include::<()>(Err(Error::Config(vec!["--f: x".into(), "--g: y".into()]))), None);
        let error = problems.finish(Some(())).unwrap_err().to_string();
        for told in ["--b \"many\": invalid digit", "--c: is not there", "--e: NaN, expected 0 to 1", "--f: x; --g: y"]
        {
            assert!(error.contains(told), "{error}");
        }
        assert!(!error.contains("--a") && !error.contains("--d"), "{error}");
    }

    #[test]
    fn an_address_to_listen_on_has_host_and_port() {
        for text in ["127.0.0.1:0", "localhost:50052", "[::1]:65535"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in ["", ":", "50052", "localhost", ":50052", "::1:50052", "[]:1", "a:65536", "a:-1", "a b:1"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn no_address_is_wrong_configuration_and_a_taken_one_is_not() {
        assert!(matches!(listen("nowhere").await, Err(Error::Config(_))));
        let taken = listen("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = listen(&address).await.unwrap_err();
        assert!(matches!(&error, Error::Listen { .. }) && error.to_string().contains(&address), "{error}");
    }
}
