//! A schedule drawn from a seed.

use raft_core::random::Random;

/// The largest group.
const VOTERS_MAX: u64 = 5;
/// Steps of one schedule.
const STEPS: usize = 40;

/// Two replicas, the smaller first.
pub type Link = (u64, u64);

/// One step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every replica that is up is handed these commands; whoever does not lead refuses them.
    Propose {
        /// In order.
        commands: Vec<String>,
        /// Loses power in the end, and with it all that it would have written in this step.
        loses: Option<u64>,
    },
    /// Two election timeouts pass, then this replica's election timer runs out if it hears no
    /// leader.
    Campaign {
        /// Who.
        at: u64,
        /// A replica that reaches nobody, and for which no time passes: it goes on leading if it
        /// did.
        still: Option<u64>,
    },
    /// Messages on these links are lost from now on.
    Cut(Vec<Link>),
    /// All links work again, and time passes.
    Heal,
    /// Power loss. All that was said is on the disk.
    Crash(u64),
    /// Starts from its disk, and time passes.
    Restart(u64),
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Replicas `1..=voters`.
    pub voters: u64,
    /// In order.
    pub steps: Vec<Step>,
}

/// Draws steps, knowing what is up and what is cut.
struct Draw {
    random: Random,
    voters: u64,
    down: Vec<u64>,
    cut: Vec<Link>,
    commands: u64,
}

impl Schedule {
    /// The schedule of a seed.
    pub fn from_seed(seed: u64) -> Schedule {
        let mut random = Random::new(seed);
        let voters = [3, 3, VOTERS_MAX][random.below(3) as usize];
        let mut draw = Draw { random, voters, down: Vec::new(), cut: Vec::new(), commands: 0 };
        let mut steps = vec![Step::Campaign { at: draw.replica(), still: None }];
        while steps.len() < STEPS {
            steps.push(draw.step());
        }
        // In the end everything works, and both must have come to the same.
        steps.extend(std::mem::take(&mut draw.down).into_iter().map(Step::Restart));
        steps.push(Step::Heal);
        steps.extend((1..=voters).map(|at| Step::Campaign { at, still: None }));
        steps.push(draw.propose(None));
        Schedule { voters, steps }
    }
}

impl Draw {
    fn replica(&mut self) -> u64 {
        1 + self.random.below(self.voters)
    }

    fn step(&mut self) -> Step {
        match self.random.below(20) {
            0..=6 => self.propose(None),
            7 | 8 => {
                let loses = Some(self.replica()).filter(|id| !self.down.contains(id));
                self.down.extend(loses);
                self.propose(loses)
            }
            9..=12 => {
                let still = self.unreachable();
                // A replica for which no time passes does not campaign either.
                let at = self.replica();
                Step::Campaign { at, still: still.filter(|id| *id != at) }
            }
            13 | 14 => self.cut(),
            15 | 16 => {
                self.cut.clear();
                Step::Heal
            }
            17 => self.crash(),
            _ => self.restart(),
        }
    }

    fn propose(&mut self, loses: Option<u64>) -> Step {
        let count = 1 + self.random.below(3);
        let commands = (0..count).map(|n| format!("c{}", self.commands + n));
        let commands = commands.collect();
        self.commands += count;
        Step::Propose { commands, loses }
    }

    /// One side of a partition, one pair that cannot talk, or one replica alone.
    fn cut(&mut self) -> Step {
        let kind = self.random.below(3);
        let (one, other) = (self.replica(), self.replica());
        let side = self.random.below(1 << self.voters);
        let apart = |a: u64, b: u64| match kind {
            0 => (side >> (a - 1)) & 1 != (side >> (b - 1)) & 1,
            1 => (a, b) == (one.min(other), one.max(other)),
            _ => a == one || b == one,
        };
        let pairs = (1..=self.voters).flat_map(|a| (a + 1..=self.voters).map(move |b| (a, b)));
        let links: Vec<Link> = pairs.filter(|(a, b)| apart(*a, *b)).collect();
        self.cut.extend(&links);
        self.cut.sort_unstable();
        self.cut.dedup();
        Step::Cut(links)
    }

    fn crash(&mut self) -> Step {
        let id = self.replica();
        if !self.down.contains(&id) {
            self.down.push(id);
        }
        Step::Crash(id)
    }

    fn restart(&mut self) -> Step {
        match self.down.len() {
            0 => self.propose(None),
            len => Step::Restart(self.down.remove(self.random.below(len as u64) as usize)),
        }
    }

    /// Mostly, a replica without a single link to another, if there is one.
    fn unreachable(&mut self) -> Option<u64> {
        let cut = |id: u64| self.cut.iter().filter(|(a, b)| *a == id || *b == id).count() as u64;
        let alone: Vec<u64> = (1..=self.voters).filter(|id| cut(*id) == self.voters - 1).collect();
        let id = *alone.get(self.random.below(alone.len().max(1) as u64) as usize)?;
        (self.random.below(4) > 0).then_some(id)
    }
}
