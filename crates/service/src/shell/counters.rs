//! What the shell counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

/// Numbers of a shell; a clone is the same numbers.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were closed because of what they are: full, handshake, preface, protocol.
    pub connections_refused: Family<Reason, Counter>,
    /// Calls without a right to be made: missing, malformed, unknown, expired, certificate, role.
    pub authentication_refused: Family<Reason, Counter>,
    /// Calls that are open.
    pub calls: Gauge,
    /// Calls for which there was no room.
    pub calls_refused: Counter,
    /// Calls whose messages are not read: too large, compressed.
    pub messages_refused: Family<Reason, Counter>,
    /// Calls ended because their client did nothing: idle, slow (within a message), unread (answers not taken).
    pub stalled: Family<Reason, Counter>,
    /// Changed certificates and tokens: used, failed.
    pub rereads: Family<Outcome, Counter>,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// One word.
    pub reason: &'static str,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok` or `failed`.
    pub result: &'static str,
}

impl Counters {
    /// Registers them, those that are still zero, too.
    pub fn register(&self, metrics: &Metrics) {
        for (family, reasons) in [
            (&self.connections_refused, &["full", "handshake", "preface", "protocol"][..]),
            (&self.authentication_refused, &["missing", "malformed", "unknown", "expired", "certificate", "role"]),
            (&self.messages_refused, &["size", "compressed"]),
            (&self.stalled, &["idle", "slow", "unread"]),
        ] {
            for reason in reasons {
                drop(family.get_or_create(&Reason { reason }));
            }
        }
        for result in ["ok", "failed"] {
            drop(self.rereads.get_or_create(&Outcome { result }));
        }
        metrics.add("semlink_connections", "Connections that are open", self.connections.clone());
        metrics.add(
            "semlink_connections_refused",
            "Connections closed by the server: full (--max-connections), handshake (TLS), preface (no HTTP/2 in time), protocol (malformed HTTP/2)",
            self.connections_refused.clone(),
        );
        metrics.add(
            "semlink_authentication_refused",
            "Calls refused for their token: missing, malformed, unknown, expired, certificate (bound to another), role",
            self.authentication_refused.clone(),
        );
        metrics.add("semlink_calls", "Calls and streams that are open, without health checks", self.calls.clone());
        metrics.add("semlink_calls_refused", "Calls refused at --max-calls", self.calls_refused.clone());
        metrics.add(
            "semlink_messages_refused",
            "Calls ended for a message that is not read: size (over the limit), compressed",
            self.messages_refused.clone(),
        );
        metrics.add(
            "semlink_stalled_calls",
            "Calls ended after --idle-timeout: idle (nothing sent, nothing under way), slow (within a message), unread (answers not taken)",
            self.stalled.clone(),
        );
        metrics.add(
            "semlink_security_files_reread",
            "Changed certificates and tokens: ok (in use), failed (the old stay in use)",
            self.rereads.clone(),
        );
    }

    pub(crate) fn reread(&self, same: bool, replaced: bool) {
        if !same {
            self.rereads.get_or_create(&Outcome { result: if replaced { "ok" } else { "failed" } }).inc();
        }
    }
}

/// One more for this reason.
pub(super) fn count(family: &Family<Reason, Counter>, reason: &'static str) {
    family.get_or_create(&Reason { reason }).inc();
}
