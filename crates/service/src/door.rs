//! The permit at the door: how much may be under way in a service, counted so that memory stays within bounds.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that go with one place.
const BYTES: usize = 16 << 10;

/// Lets messages in while there is room. A message takes a place for each 16 KiB that it begins, so that a house full of large ones holds
/// no more memory than one full of small ones; one that is larger than the house takes all of it. Clones are the same door.
#[derive(Debug, Clone)]
pub struct Door {
    places: Arc<Semaphore>,
    all: usize,
}

/// Places taken; given back when it is dropped.
pub type Permit = OwnedSemaphorePermit;

impl Door {
    /// The most places that a door can have.
    pub const MOST: usize =
        if Semaphore::MAX_PERMITS < u32::MAX as usize { Semaphore::MAX_PERMITS } else { u32::MAX as usize };

    /// A door to this many places, 1 to [`Door::MOST`].
    pub fn new(places: usize) -> Door {
        let all = places.clamp(1, Door::MOST);
        Door { places: Arc::new(Semaphore::new(all)), all }
    }

    /// Waits until there is room for a message of this length, in the order of arrival.
    pub async fn enter(&self, bytes: usize) -> Option<Permit> {
        // The door is never closed: there is always a permit.
        Arc::clone(&self.places).acquire_many_owned(self.weight(bytes)).await.ok()
    }

    /// In at once, or not at all.
    pub fn try_enter(&self, bytes: usize) -> Option<Permit> {
        Arc::clone(&self.places).try_acquire_many_owned(self.weight(bytes)).ok()
    }

    /// Whether there is no room for anything.
    pub fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    fn weight(&self, bytes: usize) -> u32 {
        // At most `MOST`, which is at most 2^32 - 1.
        bytes.div_ceil(BYTES).clamp(1, self.all) as u32
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[test]
    fn a_message_takes_a_place_for_each_16_kib() {
        let door = Door::new(4);
        let three = door.try_enter((32 << 10) + 1).expect("room for three");
        assert!(door.try_enter((16 << 10) + 1).is_none());
        let one = door.try_enter(0).expect("room for one");
        assert!(door.is_full() && door.try_enter(1).is_none());
        drop((three, one));
        let all = door.try_enter(usize::MAX).expect("the whole house");
        assert!(door.is_full());
        drop(all);
        assert!(!door.is_full());
    }

    #[tokio::test]
    async fn small_ones_do_not_overtake_a_large_one_that_waits() {
        let door = Door::new(2);
        let first = door.enter(1).await;
        let mut large = Box::pin(door.enter(32 << 10));
        assert!(poll!(&mut large).is_pending());
        let mut small = Box::pin(door.enter(1));
        assert!(poll!(&mut small).is_pending());
        drop(first);
        let large = large.await;
        assert!(poll!(&mut small).is_pending());
        drop(large);
        assert!(small.await.is_some());
    }
}
