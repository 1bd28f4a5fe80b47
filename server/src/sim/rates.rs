//! Which faults a run has, and how often: drawn from the seed, since what one fault hides shows when it is rare.

use super::random::Random;

/// Faults of one run. Times are milliseconds between two of a kind on average, shares are of a thousand; 0 is
/// never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages of moves, maps and heartbeats that are lost.
    pub loss: u64,
    /// Such that come twice.
    pub twice: u64,
    /// Such that come much later.
    pub late: u64,
    /// A link between nodes breaks.
    pub link_ms: u64,
    /// One way between two nodes is cut for a while.
    pub cut_ms: u64,
    /// A node loses power and starts again.
    pub crash_ms: u64,
    /// A node does nothing for a while.
    pub pause_ms: u64,
    /// A router's link to a node breaks.
    pub router_ms: u64,
    /// The longest sync of a disk.
    pub sync_ms: u64,
    /// A clock is wrong by so much, for some time. Milliseconds.
    pub clock_off_ms: i64,
    /// The administrator says something.
    pub admin_ms: u64,
    /// The administrator drains groups.
    pub drains: bool,
}

impl Rates {
    /// Drawn for a run. Every eighth one has no fault at all.
    pub fn draw(random: &mut Random) -> Rates {
        let calm = random.below(8) == 0;
        let mut pick = |of: [u64; 4]| if calm { 0 } else { of[random.below(4) as usize] };
        let (loss, twice, late) =
            (pick([0, 20, 100, 300]), pick([0, 20, 100, 300]), pick([0, 20, 100, 300]));
        let (link_ms, cut_ms) = (pick([0, 0, 700, 200]), pick([0, 0, 1500, 600]));
        let (crash_ms, pause_ms) = (pick([0, 2500, 1200, 600]), pick([0, 0, 3000, 1000]));
        let (router_ms, sync_ms) = (pick([0, 0, 1000, 300]), pick([1, 3, 20, 100]).max(1));
        let off = pick([0, 0, 1000, 300_000_000_000]) as i64;
        let clock_off_ms = if random.below(3) == 0 { -off } else { off };
        let admin_ms = [80, 200, 400, 900][random.below(4) as usize];
        let drains = random.below(8) == 0;
        Rates {
            drains,
            loss,
            twice,
            late,
            link_ms,
            cut_ms,
            crash_ms,
            pause_ms,
            router_ms,
            sync_ms,
            clock_off_ms,
            admin_ms,
        }
    }

    /// None but the time that a sync takes: clients are answered whatever the administrator does.
    pub fn is_calm(&self) -> bool {
        Rates { sync_ms: 0, admin_ms: 0, drains: false, ..*self } == Rates::default()
    }

    /// The same without faults.
    #[must_use]
    pub fn healed(&self) -> Rates {
        Rates { sync_ms: 1, admin_ms: self.admin_ms, drains: self.drains, ..Rates::default() }
    }
}
