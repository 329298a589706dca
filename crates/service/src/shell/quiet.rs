//! Log lines that a flood of bad peers cannot multiply.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One line for each address in this time.
const PAUSE: Duration = Duration::from_secs(5);
/// Addresses remembered; beyond them all others share one line.
const ADDRESSES: usize = 1024;

/// Says when a line about a peer may be written.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<HashMap<Option<IpAddr>, Last>>);

#[derive(Debug)]
struct Last {
    at: Instant,
    swallowed: u64,
}

impl Quiet {
    /// Lines about this peer's address that were swallowed since its last one, if one may be written now.
    pub(super) fn may_tell(&self, peer: SocketAddr) -> Option<u64> {
        let mut lasts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut key = Some(peer.ip());
        if !lasts.contains_key(&key) && lasts.len() >= ADDRESSES {
            lasts.retain(|_, last| now.duration_since(last.at) < PAUSE);
            if lasts.len() >= ADDRESSES {
                key = None;
            }
        }
        match lasts.get_mut(&key) {
            Some(last) if now.duration_since(last.at) < PAUSE => {
                last.swallowed += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.swallowed))
            }
            None => {
                lasts.insert(key, Last { at: now, swallowed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_told_of_once_in_a_while_with_the_number_of_lines_that_were_not_written() {
        let quiet = Quiet::default();
        let peer = |port| SocketAddr::from(([192, 0, 2, 1], port));
        assert_eq!(quiet.may_tell(peer(1)), Some(0));
        for port in 2..12 {
            assert_eq!(quiet.may_tell(peer(port)), None);
        }
        assert_eq!(quiet.may_tell(SocketAddr::from(([192, 0, 2, 2], 1))), Some(0));
        tokio::time::advance(PAUSE).await;
        assert_eq!(quiet.may_tell(peer(1)), Some(10));
        assert_eq!(quiet.may_tell(peer(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn very_many_peers_share_a_line() {
        let quiet = Quiet::default();
        let told =
            (0..10_000_u32).filter(|host| quiet.may_tell(SocketAddr::from((host.to_be_bytes(), 1))).is_some()).count();
        assert_eq!(told, ADDRESSES + 1);
    }
}
