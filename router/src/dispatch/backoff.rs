//! Waiting longer after each failure, at random, so that a thousand routers do not return as one.

/// The first wait after a failure, before jitter.
const BACKOFF_NS_MIN: u64 = 5_000_000;
/// The longest wait.
const BACKOFF_NS_MAX: u64 = 250_000_000;

/// A seeded generator (SplitMix64): jitter and session ids, repeatable in tests.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
    id_state: u64,
}

impl Random {
    /// Both halves of the seed go into session ids, so that they have 128 unguessable bits.
    pub(super) fn new(seed: [u64; 2]) -> Random {
        Random { state: seed[0], id_state: seed[1] }
    }

    fn mix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 for a bound of 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        Random::mix(&mut self.state).checked_rem(bound).unwrap_or(0)
    }

    /// 128 bits for a session id.
    pub(super) fn id(&mut self) -> u128 {
        let high = Random::mix(&mut self.state);
        u128::from(high) << 64 | u128::from(Random::mix(&mut self.id_state))
    }
}

/// Exponential back-off with jitter. The failures of one moment count once: a thousand requests that
/// meet the same dead leader are one piece of news.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: u64,
}

impl Backoff {
    /// When the next attempt may go.
    pub(super) fn until(&self) -> u64 {
        self.until
    }

    /// Whether an attempt may go now.
    pub(super) fn ready(&self, now: u64) -> bool {
        self.until <= now
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// There is news of where to try: the next attempt need not wait.
    pub(super) fn retry_now(&mut self) {
        self.until = 0;
    }

    /// Something failed.
    pub(super) fn fail(&mut self, now: u64, random: &mut Random) {
        if !self.ready(now) {
            return;
        }
        let full = BACKOFF_NS_MIN.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_NS_MAX);
        self.until = now.saturating_add(full / 2 + random.below(full / 2 + 1));
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w08_waits_grow_are_bounded_and_count_once_per_moment() {
        let (mut backoff, mut random) = (Backoff::default(), Random::new([1, 2]));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..40 {
            backoff.fail(now, &mut random);
            backoff.fail(now, &mut random);
            waits.push(backoff.until() - now);
            now = backoff.until();
        }
        for (i, wait) in waits.iter().enumerate() {
            let full = (BACKOFF_NS_MIN << i.min(10)).min(BACKOFF_NS_MAX);
            assert!((full / 2..=full).contains(wait), "wait {i} is {wait}");
        }
        backoff.reset();
        assert!(backoff.ready(0));
    }

    #[test]
    fn x09_ids_differ_when_only_one_half_of_the_seed_does() {
        let ids: Vec<u128> = [[1, 2], [1, 3], [2, 2]].map(|seed| Random::new(seed).id()).to_vec();
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }
}
