//! A seeded generator for election timeouts, and for whoever tests with chance: the same seed gives the
//! same elections, so a run can be replayed. It is no source of secrets.

use crate::types::Now;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, every seed a good one.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 below 0. The modulo's bias is below 2^-32 for ends below 2^32.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// A duration in `min..=max`, or `min` if that is the greater.
    pub fn between(&mut self, min: Now, max: Now) -> Now {
        min + self.below(max.saturating_sub(min).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_sequence_and_the_bounds_hold() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.between(500, 1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|t| (500..=1000).contains(t)));
        assert!(draw(7).iter().any(|t| *t < 550) && draw(7).iter().any(|t| *t > 950));
        assert_eq!(Random::new(1).between(5, 5), 5);
    }
}
