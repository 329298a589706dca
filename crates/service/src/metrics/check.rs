//! `--check-health`: the service's own binary asks the one that runs whether it serves, for images without a shell or a client.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::MetricsArgs;
use crate::Error;

/// A service that does not answer a question this small in time does not serve.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than the answer has.
const MOST: u64 = 4096;

impl MetricsArgs {
    /// Asks `/healthz` at the address of `--metrics`; one that stands for all interfaces is asked on loopback.
    ///
    /// # Errors
    /// [`Error::Config`] without `--metrics`; [`Error::Health`] where nobody answers or the service does not serve.
    pub async fn check_health(&self) -> Result<(), Error> {
        let Some(address) = &self.metrics else {
            return Err(Error::Config(vec![
                "--check-health asks at the address of --metrics, which is not given".into(),
            ]));
        };
        let asked = address.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
        let fail = |what: String| Error::Health { address: asked.clone(), what };
        let answer = tokio::time::timeout(PATIENCE, ask(&asked)).await;
        let answer = answer.map_err(|_| fail(format!("no answer within {} s", PATIENCE.as_secs())))?;
        let answer = answer.map_err(|error| fail(error.to_string()))?;
        match answer.split_whitespace().nth(1) {
            Some("200") => Ok(()),
            Some("503") => Err(fail("not serving".into())),
            _ => Err(fail("what answers is no service of semlink".into())),
        }
    }
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::net::TcpListener;

    use super::super::Metrics;
    use super::*;

    fn at(address: String) -> MetricsArgs {
        MetricsArgs { metrics: Some(address), check_health: true }
    }

    #[tokio::test]
    async fn health_is_what_the_page_says() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::new(AtomicBool::new(false));
        let is_serving = {
            let serving = serving.clone();
            move || serving.load(Ordering::Relaxed)
        };
        tokio::spawn(Metrics::new("test").serve(listener, is_serving, std::future::pending()));
        // As the images have it: all interfaces.
        let args = at(format!("0.0.0.0:{}", address.port()));
        let refused = args.check_health().await.unwrap_err().to_string();
        assert!(refused.ends_with("not serving") && refused.contains(&address.to_string()), "{refused}");
        serving.store(true, Ordering::Relaxed);
        args.check_health().await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_and_no_address_are_told() {
        // A port that nobody has: it was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = at(free.to_string()).check_health().await.unwrap_err();
        assert!(
            matches!(&refused, Error::Health { .. }) && refused.to_string().contains(&free.to_string()),
            "{refused}"
        );
        let refused = MetricsArgs::default().check_health().await.unwrap_err();
        assert!(matches!(refused, Error::Config(_)), "{refused}");
    }
}
