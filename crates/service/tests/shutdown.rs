//! Signals, sent to this very process: alone in its file, so that no other test meets them.
#![cfg(unix)]

use std::process::Command;

use semlink_service::shutdown;

/// Were the process to listen only once the future is polled, the signal would end this test's process.
#[tokio::test]
async fn a_signal_that_comes_before_anybody_waits_is_not_lost() {
    for signal in ["-TERM", "-INT"] {
        let asked = shutdown::signal();
        let sent = Command::new("kill").arg(signal).arg(std::process::id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        asked.await;
    }
}
