//! Commands on every slot: DBSIZE and FLUSHALL. Pure: work in, answers in, work out.
//!
//! They are not atomic over slots: a write of another client may land in a slot that was already
//! flushed.

use crate::backend::{Answered, Refusal, Target, Work};
use crate::commands::Barrier;
use crate::reply::{Reply, UNFIT_ANSWER, op_error_text, refusal_text};
use shard_core::cluster_config::ClusterConfig;
use shard_core::op::{Op, Outcome};
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::{GroupAnswer, GroupQuery};

/// How many slots of one FLUSHALL are under way at once.
const FLUSHES_MAX: usize = 256;

/// A barrier command from its start to its reply.
#[derive(Debug)]
pub struct BarrierRun {
    waiting: usize,
    refusals: Refusals,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Count { keys: u64 },
    Ask { owned: Vec<bool>, occupied: Vec<bool>, assigned: Vec<bool> },
    Flush { todo: Vec<Slot> },
}

/// What is left to do for a barrier after an answer.
pub type Asks = Vec<(Target, Work)>;

impl BarrierRun {
    /// Begins: what is to be submitted first.
    pub fn start(barrier: Barrier, config: &ClusterConfig) -> (BarrierRun, Asks) {
        let (step, query) = match barrier {
            Barrier::DbSize => (Step::Count { keys: 0 }, GroupQuery::KeyCount),
            Barrier::FlushAll => {
                let none = vec![false; usize::from(SLOTS)];
                let mut assigned = none.clone();
                config
                    .slots
                    .iter()
                    .for_each(|range| mark(&mut assigned, (range.first, range.last)));
                (
                    Step::Ask { owned: none.clone(), occupied: none, assigned },
                    GroupQuery::OccupiedSlots,
                )
            }
        };
        let asks: Asks = config
            .shard_groups()
            .map(|group| (Target::Group(group), Work::Query(query.clone())))
            .collect();
        let mut run = BarrierRun { waiting: asks.len(), refusals: Refusals::default(), step };
        if asks.is_empty() {
            run.refusals.note(Refusal::ClusterDown);
        }
        (run, asks)
    }

    /// Takes one answer; returns what is to be submitted next.
    pub fn answer(&mut self, answer: Answered) -> Asks {
        self.waiting = self.waiting.saturating_sub(1);
        match (&mut self.step, answer) {
            (_, Answered::Refused(refusal)) => self.refusals.note(refusal),
            (Step::Count { keys }, Answered::Group(GroupAnswer::KeyCount { keys: more, .. })) => {
                *keys = keys.saturating_add(more);
            }
            (
                Step::Ask { owned, occupied, .. },
                Answered::Group(GroupAnswer::OccupiedSlots { owned: has, occupied: full }),
            ) => {
                has.into_iter().for_each(|range| mark(owned, range));
                full.into_iter().for_each(|range| mark(occupied, range));
            }
            (Step::Flush { .. }, Answered::Outcome(Outcome::Error(error))) => {
                self.refusals.note_error(op_error_text(error).into_owned());
            }
            (Step::Flush { .. }, Answered::Outcome(_)) => {
                self.refusals.note_done();
            }
            (_, Answered::Outcome(_) | Answered::Group(_)) => {
                self.refusals.note_error(UNFIT_ANSWER.into());
            }
        }
        self.next()
    }

    fn next(&mut self) -> Asks {
        if let Step::Ask { owned, occupied, assigned } = &self.step {
            // A refused question leaves everything as it is: nothing was flushed yet.
            if self.waiting > 0 || self.refusals.any() {
                return Asks::new();
            }
            // A slot on its way between two groups is reported by neither: it is flushed unseen.
            let todo = (0..SLOTS)
                .filter(|slot| {
                    let at = usize::from(*slot);
                    occupied[at] || (assigned[at] && !owned[at])
                })
                .map(Slot)
                .collect();
            self.step = Step::Flush { todo };
        }
        let Step::Flush { todo } = &mut self.step else { return Asks::new() };
        let mut asks = Asks::new();
        // Once a part failed so does the command. To go on would be to wait out a request's deadline
        // for every window of slots of a group that is down.
        if self.refusals.any() {
            todo.clear();
        }
        while self.waiting < FLUSHES_MAX
            && let Some(slot) = todo.pop()
        {
            self.waiting += 1;
            asks.push((Target::Slot(slot), Work::Op(Op::FlushSlot)));
        }
        asks
    }

    /// Whether everything is answered.
    pub fn is_answered(&self) -> bool {
        self.waiting == 0
    }

    /// The reply, once everything is answered.
    pub fn reply(&self) -> Reply {
        match (self.refusals.text(true), &self.step) {
            (Some(error), _) => Reply::error(error),
            (None, Step::Count { keys }) => {
                Reply::Integer(i64::try_from(*keys).unwrap_or(i64::MAX))
            }
            (None, Step::Ask { .. } | Step::Flush { .. }) => Reply::OK,
        }
    }
}

fn mark(slots: &mut [bool], (first, last): (Slot, Slot)) {
    let last = usize::from(last.0).min(slots.len() - 1);
    if let Some(range) = slots.get_mut(usize::from(first.0)..=last) {
        range.fill(true);
    }
}

/// How the parts of a command that went to several slots failed.
#[derive(Debug, Default)]
pub struct Refusals {
    first: Option<Refusal>,
    unknown: Option<u64>,
    error: Option<String>,
    done: bool,
}

impl Refusals {
    /// A part was not answered by its group.
    pub fn note(&mut self, refusal: Refusal) {
        if let Refusal::Unknown { waited_ms } = refusal {
            self.unknown.get_or_insert(waited_ms);
        }
        self.first.get_or_insert(refusal);
    }

    /// A part was refused by its group.
    pub fn note_error(&mut self, text: String) {
        self.error.get_or_insert(text);
    }

    /// A part was executed.
    pub fn note_done(&mut self) {
        self.done = true;
    }

    /// Whether a part failed.
    pub fn any(&self) -> bool {
        self.first.is_some() || self.error.is_some()
    }

    /// What the client is told, if a part failed. When another part of a write was executed, no code
    /// may say that nothing was: clients would take the whole as not executed and send it again.
    pub fn text(&self, write: bool) -> Option<String> {
        if let Some(waited_ms) = self.unknown {
            return Some(crate::reply::unknown_text(waited_ms));
        }
        match (self.first, &self.error) {
            (Some(_), _) if write && self.done => Some(PARTLY_DONE.into()),
            (Some(refusal), _) => Some(refusal_text(&refusal).into_owned()),
            (None, error) => error.clone(),
        }
    }
}

/// For a write over several slots of which only a part was executed.
const PARTLY_DONE: &str =
    "TIMEOUT a group did not answer, a part of the keys was written and a part was not";

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::GroupId;
    use shard_core::cluster_config::GroupConfig;

    /// A FLUSHALL of one group with keys in every slot, and what it asks after the first answer.
    fn flush() -> (BarrierRun, Asks) {
        let mut config = ClusterConfig::default();
        config.groups.insert(GroupId(1), GroupConfig { voters: Vec::new(), weight: 1 });
        config.assign_evenly();
        let (mut run, asks) = BarrierRun::start(Barrier::FlushAll, &config);
        assert_eq!(asks, [(Target::Group(GroupId(1)), Work::Query(GroupQuery::OccupiedSlots))]);
        let all = vec![(Slot(0), Slot(SLOTS - 1))];
        let answer = GroupAnswer::OccupiedSlots { owned: all.clone(), occupied: all };
        let asks = run.answer(Answered::Group(answer));
        (run, asks)
    }

    #[test]
    fn a_flush_visits_each_occupied_slot_a_window_at_a_time() {
        let (mut run, asks) = flush();
        assert_eq!(asks.len(), FLUSHES_MAX);
        let mut visited = asks.len();
        while !run.is_answered() {
            visited += run.answer(Answered::Outcome(Outcome::Ok)).len();
        }
        assert_eq!((visited, run.reply()), (usize::from(SLOTS), Reply::OK));
    }

    #[test]
    fn a_flush_begins_no_more_slots_after_a_refusal() {
        for (done, text) in [(0, "CLUSTERDOWN The cluster is down"), (1, PARTLY_DONE)] {
            let (mut run, asks) = flush();
            for _ in 0..done {
                assert_eq!(run.answer(Answered::Outcome(Outcome::Ok)).len(), 1);
            }
            for _ in &asks {
                assert_eq!(run.answer(Answered::Refused(Refusal::ClusterDown)), []);
            }
            assert!(run.is_answered());
            assert_eq!(run.reply(), Reply::error(text));
        }
    }
}
