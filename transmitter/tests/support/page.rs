//! The page of metrics of a running service.

use std::collections::BTreeMap;
use std::time::Duration;

use semlink_service::ServiceArgs;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::log::Log;

/// Far longer than anything takes.
pub(crate) const LATE: Duration = Duration::from_secs(120);

/// Where a service's metrics are.
pub(crate) struct Page(String);

/// What a page says, by name and labels.
pub(crate) struct Samples(BTreeMap<String, f64>);

impl Page {
    /// Asks for a page on a port of the system's choice.
    pub(crate) fn on_any_port(service: &mut ServiceArgs) {
        service.metrics.metrics = Some("127.0.0.1:0".to_owned());
    }

    /// That of the service that was started as the n-th of those with one, as its log says.
    pub(crate) async fn of(log: &Log, n: usize) -> Page {
        loop {
            if let Some(line) = log.lines(&[" metrics address="]).get(n - 1) {
                let address = line.split("address=").nth(1).expect("an address");
                return Page(address.trim_matches('"').to_owned());
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn samples(&self) -> Samples {
        let mut stream = TcpStream::connect(&self.0).await.expect("a page");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: semlink\r\n\r\n").await.expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("a page");
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Samples(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// Waits until a series has at least this value.
    pub(crate) async fn reaches(&self, series: &str, value: f64) {
        let reached = async {
            while self.samples().await.find(series).is_none_or(|found| found < value) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LATE, reached).await.unwrap_or_else(|_| panic!("{series} does not reach {value}"));
    }
}

impl Samples {
    /// The value of a series, if it has one yet.
    pub(crate) fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    #[track_caller]
    pub(crate) fn get(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("{series} is not there: {:#?}", self.0))
    }

    /// Asserts a value, up to what is lost when numbers are printed and added.
    #[track_caller]
    pub(crate) fn assert(&self, series: &str, expected: f64) {
        let found = self.get(series);
        assert!((found - expected).abs() <= 1e-3 * (1.0 + expected.abs()), "{series} is {found}, expected {expected}");
    }
}
