//! Settings of the shell.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::config::Problems;
use crate::security::{ServerArgs, ServerSecurity};

/// Security and bounds of a server.
#[derive(Debug, Clone, Args)]
pub struct ShellArgs {
    /// TLS and tokens
    #[command(flatten)]
    pub security: ServerArgs,

    /// Connections that may be open; one more is closed at once
    #[arg(long, env = "SEMLINK_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024)]
    pub max_connections: usize,

    /// Calls and streams that may be open, health checks apart; one more is refused with RESOURCE_EXHAUSTED and retry advice
    #[arg(long, env = "SEMLINK_MAX_CALLS", value_name = "N", default_value_t = 4096)]
    pub max_calls: usize,

    /// Seconds after which a stream ends whose client sends nothing while nothing is under way, or does not take its answers
    #[arg(long, env = "SEMLINK_IDLE_TIMEOUT", value_name = "SECONDS", default_value_t = 300.0)]
    pub idle_timeout: f64,

    /// Seconds that open calls may take to end at a shutdown
    #[arg(long, env = "SEMLINK_DRAIN_TIMEOUT", value_name = "SECONDS", default_value_t = 10.0)]
    pub drain_timeout: f64,
}

/// How much a server takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Connections that may be open.
    pub connections: usize,
    /// Calls and streams that may be open, health checks apart.
    pub calls: usize,
    /// How long a client may do nothing.
    pub idle: Duration,
    /// How long open calls may take to end at a shutdown.
    pub drain: Duration,
    /// How long a connection may take for its TLS handshake, and again until it has begun to speak HTTP/2.
    pub handshake: Duration,
}

/// Checked settings of a shell. The default is for loopback: no TLS, no tokens.
#[derive(Debug, Clone, Default)]
pub struct ShellConfig {
    /// How much it takes.
    pub limits: Limits,
    /// What it asks of clients.
    pub security: ServerSecurity,
}

impl Default for ShellArgs {
    /// What a command line without flags gives; the environment is not read.
    fn default() -> Self {
        let Limits { connections, calls, idle, drain, .. } = Limits::default();
        ShellArgs {
            security: ServerArgs::default(),
            max_connections: connections,
            max_calls: calls,
            idle_timeout: idle.as_secs_f64(),
            drain_timeout: drain.as_secs_f64(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            calls: 4096,
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(10),
            handshake: Duration::from_secs(5),
        }
    }
}

impl ShellArgs {
    /// The settings, with all that is wrong noted; files are read. `listen` is where the server listens.
    pub fn check(&self, listen: SocketAddr, problems: &mut Problems) -> Option<ShellConfig> {
        const MOST: usize = 1 << 20;
        const LONGEST: f64 = 7.0 * 24.0 * 3600.0;
        problems.within("--max-connections", self.max_connections, 1, MOST);
        problems.within("--max-calls", self.max_calls, 1, MOST);
        problems.within("--idle-timeout", self.idle_timeout, 1.0, LONGEST);
        problems.within("--drain-timeout", self.drain_timeout, 0.0, LONGEST);
        let security = self.security.check(listen, problems)?;
        let limits = Limits {
            connections: self.max_connections.clamp(1, MOST),
            calls: self.max_calls.clamp(1, MOST),
            // Out of range: a problem already noted.
            idle: Duration::try_from_secs_f64(self.idle_timeout).unwrap_or_default(),
            drain: Duration::try_from_secs_f64(self.drain_timeout).unwrap_or_default(),
            ..Limits::default()
        };
        Some(ShellConfig { limits, security })
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn the_default_is_what_a_command_line_without_flags_gives() {
        let command = ShellArgs::augment_args(clap::Command::new("test"));
        let parsed = ShellArgs::from_arg_matches(&command.get_matches_from(["test"])).unwrap();
        assert_eq!(format!("{parsed:?}"), format!("{:?}", ShellArgs::default()));
        let loopback = "127.0.0.1:1".parse().unwrap();
        let mut problems = Problems::new();
        assert_eq!(parsed.check(loopback, &mut problems).map(|config| config.limits), Some(Limits::default()));
        problems.finish(Some(())).unwrap();
    }

    #[test]
    fn every_number_has_its_bounds() {
        let args = ShellArgs {
            max_connections: 0,
            max_calls: 0,
            idle_timeout: f64::NAN,
            drain_timeout: -1.0,
            ..ShellArgs::default()
        };
        let mut problems = Problems::new();
        args.check("127.0.0.1:1".parse().unwrap(), &mut problems);
        let error = problems.finish(Some(())).unwrap_err().to_string();
        for flag in ["--max-connections: 0", "--max-calls: 0", "--idle-timeout: NaN", "--drain-timeout: -1"] {
            assert!(error.contains(flag), "{error}");
        }
    }
}
