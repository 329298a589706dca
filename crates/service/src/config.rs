//! Settings are checked together and all that is wrong is reported together.

use std::fmt::Display;
use std::str::FromStr;

use tokio::net::TcpListener;

use crate::Error;

/// Collects what is wrong with a configuration.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

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

    /// Parses a setting's text.
    pub fn parse<T: FromStr<Err: Display>>(&mut self, setting: &str, text: &str) -> Option<T> {
        self.check(setting, text.parse())
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

/// Listens on `HOST:PORT`.
///
/// # Errors
/// [`Error::Listen`] naming the address.
pub async fn listen(address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address: address.to_owned(), source })
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
        let error = problems.finish(Some(())).unwrap_err().to_string();
        assert!(error.contains("--b: invalid digit") && error.contains("--c: is not there"), "{error}");
    }
}
