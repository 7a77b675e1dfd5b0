//! How much room a step gets for its segments, from what the steps before needed. [T5]

use std::collections::VecDeque;

use crate::base_segments::Room;

/// Steps that are looked back on.
const STEPS: usize = 128;

/// What the last steps needed.
#[derive(Default)]
pub struct RoomKeeper {
    needed: VecDeque<Room>,
}

impl FromIterator<Room> for RoomKeeper {
    fn from_iter<I: IntoIterator<Item = Room>>(needed: I) -> Self {
        RoomKeeper { needed: needed.into_iter().collect() }
    }
}

impl RoomKeeper {
    /// What the last steps needed, in order.
    pub fn needed(&self) -> Vec<Room> {
        self.needed.iter().copied().collect()
    }

    /// What a step needed.
    pub fn note(&mut self, needed: Room) {
        if self.needed.len() == STEPS {
            self.needed.pop_front();
        }
        self.needed.push_back(needed);
    }

    /// An eighth more than any of the last steps needed; `None` before the first one. Multiples of 64 segments and 16
    /// tokens, so that sizes seldom change, and kernels that read vectors need not make a copy first.
    pub fn guess(&self) -> Option<Room> {
        let segments = self.needed.iter().map(|room| room.segments).max()?;
        let tokens = self.needed.iter().map(|room| room.tokens).max()?;
        let more = |number: i64, multiple: i64| (number + number / 8 + 1 + multiple - 1) / multiple * multiple;
        Some(Room { segments: more(segments, 64), tokens: more(tokens, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_what_was_needed() {
        let mut keeper = RoomKeeper::default();
        assert_eq!(keeper.guess(), None);
        keeper.note(Room { segments: 800, tokens: 100 });
        keeper.note(Room { segments: 700, tokens: 120 });
        assert_eq!(keeper.guess(), Some(Room { segments: 960, tokens: 144 }));
        // Never less than was needed, and forgotten in time.
        for _ in 0..STEPS {
            keeper.note(Room { segments: 1, tokens: 1 });
        }
        assert_eq!(keeper.guess(), Some(Room { segments: 64, tokens: 16 }));
    }
}
