//! How long a caller waits for its answer.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// Of a call, in its headers: see gRPC over HTTP/2, "Timeout".
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The time that a call gives for its answer, if it says so; what is no timeout says nothing. A call's metadata are its headers (`as_ref`).
pub fn of_call(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if value.is_empty() || value.len() > 8 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = value.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// When the first of these times is over, from now on; `most` bounds them all.
pub fn first(most: Duration, others: impl IntoIterator<Item = Option<Duration>>) -> Instant {
    Instant::now() + others.into_iter().flatten().fold(most, Duration::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples are those of the gRPC specification's grammar: at most eight digits and a unit.
    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let parsed = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, text.parse().expect("a value"));
            of_call(&headers)
        };
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("40m", Duration::from_millis(40)),
            ("50u", Duration::from_micros(50)),
            ("1n", Duration::from_nanos(1)),
            ("250m", Duration::from_millis(250)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
        for text in ["", "S", "m", "1", "1s", "1x", "1 S", "-1S", "1.5S", "123456789S", "+1S"] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(of_call(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_time_counts() {
        let seconds = Duration::from_secs;
        let now = Instant::now();
        assert_eq!(first(seconds(9), [None, Some(seconds(5)), Some(seconds(7))]), now + seconds(5));
        assert_eq!(first(seconds(9), [None, Some(seconds(10))]), now + seconds(9));
    }
}
