//! Commands on whole groups: DBSIZE, FLUSHALL, INFO of a process without keys, and those that move
//! leaderships. Pure: work in,
//! answers in, work out.
//!
//! They are not atomic over slots: a write of another client may land in a slot that was already
//! flushed.

use crate::admin::AdminRun;
use crate::backend::{Answered, Refusal, Target, Work};
use crate::commands::Barrier;
use crate::info::KeysElsewhere;
use crate::redirect::Scope;
use crate::reply::{Reply, UNFIT_ANSWER, op_error_text, refusal_text};
use shard_core::cluster_config::SHARDMASTER;
use shard_core::op::{Op, Outcome};
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::{ClusterView, GroupAnswer, GroupQuery, TransferAnswer};
use shard_core::{GroupId, NodeId};

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
    Transfer { to: NodeId },
    Info { ask: Box<KeysElsewhere>, keys: u64, expires: u64, unanswered: usize },
    Admin(Box<AdminRun>),
}

/// What is left to do for a barrier after an answer.
pub type Asks = Vec<(Target, Work)>;

impl BarrierRun {
    /// Begins: what is to be submitted first. `scope` is what DBSIZE and FLUSHALL are about.
    pub fn start(
        barrier: Barrier,
        view: &ClusterView,
        node: Option<NodeId>,
        scope: &Scope,
    ) -> (BarrierRun, Asks) {
        let config = &view.map.config;
        let (step, query) = match barrier {
            Barrier::Transfer { group, to } if config.groups.contains_key(&group) => {
                return BarrierRun::transfer(to, vec![group]);
            }
            Barrier::Transfer { group, .. } => {
                return BarrierRun::refused(format!("ERR There is no group {group}"));
            }
            Barrier::Failover => {
                return match (node, node.map(|node| followed_groups(view, node))) {
                    (Some(node), Some(groups)) if !groups.is_empty() => {
                        BarrierRun::transfer(node, groups)
                    }
                    (Some(_), _) => BarrierRun::refused(NOT_A_REPLICA.into()),
                    (None, _) => BarrierRun::refused(A_ROUTER.into()),
                };
            }
            Barrier::Info(ask) => return BarrierRun::info(ask),
            Barrier::Admin(wish) => {
                return match AdminRun::start(*wish, view, node) {
                    Ok((run, asks)) => BarrierRun::admin(run, asks),
                    Err(text) => BarrierRun::refused(text.into_owned()),
                };
            }
            Barrier::DbSize => (Step::Count { keys: 0 }, GroupQuery::KeyCount),
            Barrier::FlushAll => {
                let none = vec![false; usize::from(SLOTS)];
                let mut assigned = none.clone();
                let owners = view.map.owners.ranges();
                let owners = owners.iter().filter(|range| scope.has(range.group));
                owners.for_each(|range| mark(&mut assigned, (range.first, range.last)));
                (
                    Step::Ask { owned: none.clone(), occupied: none, assigned },
                    GroupQuery::OccupiedSlots,
                )
            }
        };
        let asks: Asks = config
            .shard_groups()
            .filter(|group| scope.has(*group))
            .map(|group| (Target::Group(group), Work::Query(query.clone())))
            .collect();
        let mut run = BarrierRun { waiting: asks.len(), refusals: Refusals::default(), step };
        let counts_none = matches!((&run.step, scope), (Step::Count { .. }, Scope::Own(_)));
        if asks.is_empty() && !counts_none {
            run.refusals.note_error(scope.empty_text());
        }
        (run, asks)
    }

    fn transfer(to: NodeId, groups: Vec<GroupId>) -> (BarrierRun, Asks) {
        let step = Step::Transfer { to };
        let run = BarrierRun { waiting: groups.len(), refusals: Refusals::default(), step };
        let ask = |group| (Target::Group(group), Work::Transfer(to));
        (run, groups.into_iter().map(ask).collect())
    }

    fn info(ask: Box<KeysElsewhere>) -> (BarrierRun, Asks) {
        let query = |group: &GroupId| (Target::Group(*group), Work::Glance(GroupQuery::KeyCount));
        let asks: Asks = ask.groups.iter().map(query).collect();
        let unanswered = ask.unled;
        let step = Step::Info { ask, keys: 0, expires: 0, unanswered };
        (BarrierRun { waiting: asks.len(), refusals: Refusals::default(), step }, asks)
    }

    fn admin(run: AdminRun, asks: Asks) -> (BarrierRun, Asks) {
        let step = Step::Admin(Box::new(run));
        (BarrierRun { waiting: asks.len(), refusals: Refusals::default(), step }, asks)
    }

    fn refused(text: String) -> (BarrierRun, Asks) {
        let step = Step::Flush { todo: Vec::new() };
        let mut run = BarrierRun { waiting: 0, refusals: Refusals::default(), step };
        run.refusals.note_error(text);
        (run, Asks::new())
    }

    /// Takes one answer; returns what is to be submitted next.
    pub fn answer(&mut self, answer: Answered) -> Asks {
        self.waiting = self.waiting.saturating_sub(1);
        match (&mut self.step, answer) {
            (Step::Admin(run), answer) => {
                let asks = run.answer(answer);
                self.waiting += asks.len();
                return asks;
            }
            (
                Step::Info { keys, expires, .. },
                Answered::Group(GroupAnswer::KeyCount { keys: more, expires: more_expires }),
            ) => {
                *keys = keys.saturating_add(more);
                *expires = expires.saturating_add(more_expires);
            }
            (Step::Info { unanswered, .. }, _) => *unanswered += 1,
            // It may have begun, and who will lead is not known: no code that says "not executed".
            (Step::Transfer { to }, Answered::Refused(Refusal::ClusterDown)) => {
                self.refusals.note_error(format!(
                    "TIMEOUT the group did not tell the outcome in time, node {to} may or may not \
                     come to lead it"
                ));
            }
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
            (Step::Transfer { to }, Answered::Group(GroupAnswer::Transfer(answer))) => match answer
            {
                TransferAnswer::Leads => self.refusals.note_done(),
                TransferAnswer::GivenUp { group, leader } => self.refusals.note_error(format!(
                    "ERR The transfer to node {to} was given up: node {leader} leads group {group}"
                )),
                TransferAnswer::NotVoter => {
                    self.refusals.note_error(format!("ERR Node {to} is no voter of the group"));
                }
                TransferAnswer::Unfit => self.refusals.note_error(format!(
                    "ERR Node {to} cannot lead now: it is not reachable, or its disk is too slow"
                )),
            },
            (Step::Flush { .. }, Answered::Outcome(Outcome::Error(error))) => {
                self.refusals.note_error(op_error_text(error).into_owned());
            }
            (Step::Flush { .. }, Answered::Outcome(_)) => {
                self.refusals.note_done();
            }
            (
                _,
                Answered::Outcome(_) | Answered::Group(_) | Answered::Master(_) | Answered::Met(_),
            ) => {
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
        // Leadership is asked for again without harm: nothing is half done.
        let write = !matches!(self.step, Step::Transfer { .. });
        match (self.refusals.text(write), &self.step) {
            (_, Step::Admin(run)) => run.reply(),
            (Some(error), _) => Reply::error(error),
            (None, Step::Info { ask, keys, expires, unanswered }) => {
                Reply::Verbatim(ask.text(*keys, *expires, *unanswered))
            }
            (None, Step::Count { keys }) => {
                Reply::Integer(i64::try_from(*keys).unwrap_or(i64::MAX))
            }
            (None, Step::Ask { .. } | Step::Flush { .. } | Step::Transfer { .. }) => Reply::OK,
        }
    }
}

/// The shard groups in which a node has a seat and, as far as known, does not lead.
fn followed_groups(view: &ClusterView, node: NodeId) -> Vec<GroupId> {
    let leads =
        |group: &GroupId| view.leaders.get(group).is_some_and(|led| led.leader == Some(node));
    let is_voter = |group: GroupId| view.map.voters(group).contains(&node);
    let groups = view.map.config.groups.keys().copied();
    groups.filter(|group| *group != SHARDMASTER && is_voter(*group) && !leads(group)).collect()
}

/// As Redis words it for a master.
const NOT_A_REPLICA: &str = "ERR You should send CLUSTER FAILOVER to a replica";
const A_ROUTER: &str = "ERR This is a router: send CLUSTER FAILOVER to the node that is to lead";

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
pub(crate) const PARTLY_DONE: &str =
    "TIMEOUT a group did not answer, a part of the keys was written and a part was not";

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::cluster_config::{ClusterConfig, GroupConfig};
    use shard_core::wire::LeaderView;

    /// A FLUSHALL of one group with keys in every slot, and what it asks after the first answer.
    fn flush() -> (BarrierRun, Asks) {
        let mut config = ClusterConfig::default();
        config.groups.insert(GroupId(1), GroupConfig { voters: Vec::new(), weight: 1 });
        config.assign_evenly();
        let view = ClusterView::of_config(&config);
        let (mut run, asks) = BarrierRun::start(Barrier::FlushAll, &view, None, &Scope::All);
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

    #[test]
    fn info_counts_the_keys_of_all_groups_or_says_that_it_cannot() {
        let count = |keys| Answered::Group(GroupAnswer::KeyCount { keys, expires: 1 });
        let refused = Answered::Refused(Refusal::ClusterDown);
        for (unled, second, text) in [
            (0, count(3), "db0:keys=5,expires=2,avg_ttl=0\r\n"),
            (0, refused, "unanswered_groups:1\r\n"),
            (1, count(3), "unanswered_groups:1\r\n"),
        ] {
            let groups = vec![GroupId(1), GroupId(2)];
            let mut info = Box::<KeysElsewhere>::default();
            (info.groups, info.unled) = (groups, unled);
            let (mut run, asks) =
                BarrierRun::start(Barrier::Info(info), &ClusterView::default(), None, &Scope::All);
            assert_eq!(asks.len(), 2);
            let glance = |(_, work): &(Target, Work)| matches!(work, Work::Glance(_));
            assert!(asks.iter().all(glance), "INFO does not wait for a leader that hangs");
            run.answer(count(2));
            assert!(!run.is_answered());
            run.answer(second);
            assert_eq!((run.is_answered(), run.reply()), (true, Reply::Verbatim(text.into())));
        }
    }

    #[test]
    fn a_failover_asks_for_every_group_that_the_node_follows() {
        let (one, two) = (NodeId(1), NodeId(2));
        let mut view = ClusterView::default();
        for (group, leader) in [(0, two), (1, one), (2, two), (3, two)] {
            let voters = if group == 3 { vec![two] } else { vec![one, two] };
            view.map.config.groups.insert(GroupId(group), GroupConfig { voters, weight: 1 });
            // `Term` belongs to a crate that is not named here.
            let leader = LeaderView { leader: Some(leader), term: Default::default() };
            view.leaders.insert(GroupId(group), leader);
        }
        let (mut run, asks) = BarrierRun::start(Barrier::Failover, &view, Some(one), &Scope::All);
        assert_eq!(asks, [(Target::Group(GroupId(2)), Work::Transfer(one))]);
        assert!(!run.is_answered());
        run.answer(Answered::Group(GroupAnswer::Transfer(TransferAnswer::Leads)));
        assert_eq!((run.is_answered(), run.reply()), (true, Reply::OK));
        let reply = |barrier, node| {
            let (run, asks) = BarrierRun::start(barrier, &view, node, &Scope::All);
            assert!(asks.is_empty() && run.is_answered());
            run.reply()
        };
        let nowhere = NodeId(9);
        assert_eq!(reply(Barrier::Failover, Some(nowhere)), Reply::error(NOT_A_REPLICA));
        assert_eq!(reply(Barrier::Failover, None), Reply::error(A_ROUTER));
        let unknown = Barrier::Transfer { group: GroupId(9), to: one };
        assert_eq!(reply(unknown, None), Reply::error("ERR There is no group 9"));
    }

    #[test]
    fn a_transfer_tells_why_not() {
        let mut view = ClusterView::default();
        let seats = GroupConfig { voters: vec![NodeId(1)], weight: 1 };
        view.map.config.groups.insert(GroupId(4), seats);
        let told = |answer| Answered::Group(GroupAnswer::Transfer(answer));
        for (answer, text) in [
            (told(TransferAnswer::Leads), None),
            (told(TransferAnswer::NotVoter), Some("ERR Node 7 is no voter of the group")),
            (
                told(TransferAnswer::Unfit),
                Some("ERR Node 7 cannot lead now: it is not reachable, or its disk is too slow"),
            ),
            (
                told(TransferAnswer::GivenUp { group: GroupId(4), leader: NodeId(1) }),
                Some("ERR The transfer to node 7 was given up: node 1 leads group 4"),
            ),
            (
                Answered::Refused(Refusal::ClusterDown),
                Some(
                    "TIMEOUT the group did not tell the outcome in time, node 7 may or may not come \
                     to lead it",
                ),
            ),
        ] {
            let barrier = Barrier::Transfer { group: GroupId(4), to: NodeId(7) };
            let (mut run, asks) = BarrierRun::start(barrier, &view, None, &Scope::All);
            assert_eq!(asks, [(Target::Group(GroupId(4)), Work::Transfer(NodeId(7)))]);
            run.answer(answer);
            assert_eq!(run.reply(), text.map_or(Reply::OK, Reply::error));
        }
    }
}
