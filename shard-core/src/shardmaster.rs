//! The state machine of group 0: where slots are to be, where they are, and the moves from the one to
//! the other.
//!
//! It decides and orders; groups carry out and report. Nothing on the way of a request waits for it.
//!
//! # Invariants
//! - Same entries, same state and same answers, on every replica (scenario K4).
//! - A configuration has one number more than the one before it and never changes. Administrators make
//!   them, nobody else does: neither reports nor the ends of moves (scenario K1).
//! - A refused op changes nothing.
//! - A slot has one unfinished move at most, which goes from its owner; numbers of moves and epochs of a slot
//!   only grow. Whatever is kept of a move is kept until both its sides have said how it ended.
//! - Absent on purpose: time but as log time, ways to take a slot from a group that does not answer, and
//!   anything about which node leads what.

mod checkpoint;
mod dry;
mod history;
mod members;
mod moves;
mod op;
mod query;
mod requests;
mod seats;
mod target;
#[cfg(test)]
mod tests;

pub(crate) use self::checkpoint::MasterLoader;
pub use self::dry::{PlanReason, PlannedMove};
pub use self::moves::{BACK_OFF_MS_MAX, BACK_OFF_MS_MIN, ENDED_MOVES_MAX, EndedMove};
pub use self::op::{
    Cancel, MasterDone, MasterError, MasterOp, MasterRequest, MoveReport, RequestId, Side,
    WEIGHT_MAX,
};
pub use self::query::{MasterQuery, MasterReport};
pub use self::requests::REQUESTS_KEPT_MAX;
pub use self::seats::Seats;

use self::checkpoint::Changes;
use self::history::{CONFIGS_MAX, History};
use self::moves::Plan;
use self::requests::{Remembered, Requests};
use self::target::{Draft, Wanted, slots_of};
use crate::cluster_config::{ClusterConfig, ConfigNum, GROUPS_MAX, NODES_MAX};
use crate::cluster_map::{ClusterMap, found};
use crate::codec::{EntryBatch, EntryItem, bytes_of};
use crate::digest::Digest;
use crate::op::Outcome;
use crate::rows::MasterRow;
use crate::session::LogTime;
use crate::slot::Slot;
use crate::wire::{Answer, GroupAnswer, GroupQuery};
use raft_core::types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// What group 0 keeps.
#[derive(Debug)]
pub struct Shardmaster {
    log_time: LogTime,
    /// Every configuration there ever was; the newest one is in the map. Number 0, without groups and
    /// with every slot unassigned, is there from the start.
    history: History,
    map: ClusterMap,
    /// The number of the next move.
    next_move: u64,
    /// Moves that are only shown, by the order of their ends.
    ended: BTreeMap<u64, EndedMove>,
    requests: Requests,
    /// Of every group there is.
    seats: BTreeMap<GroupId, Seats>,
    /// Groups that there were.
    retired: BTreeSet<GroupId>,
    /// No part of the state: follows from the map.
    plan: Plan,
    /// No part of the state: what of it the next checkpoint has to tell.
    changes: Changes,
    /// The entry being applied has raised the map's version.
    touched: bool,
}

impl Default for Shardmaster {
    fn default() -> Shardmaster {
        Shardmaster::new()
    }
}

impl Shardmaster {
    /// One that knows configuration 0.
    pub fn new() -> Shardmaster {
        let mut master = Shardmaster {
            log_time: LogTime(0),
            history: History::new(),
            map: ClusterMap::default(),
            next_move: 1,
            ended: BTreeMap::new(),
            requests: Requests::default(),
            seats: BTreeMap::new(),
            retired: BTreeSet::new(),
            plan: Plan::default(),
            changes: Changes::default(),
            touched: false,
        };
        master.note(MasterRow::Config(0));
        master
    }

    /// Applies a committed entry: one answer per item, in order. Whatever can be moved then is ordered; an
    /// entry without items does that alone, at its stamp.
    pub fn apply(&mut self, batch: EntryBatch) -> Vec<Answer> {
        self.log_time = self.log_time.max(batch.stamp);
        self.touched = false;
        let answers = batch
            .items
            .into_iter()
            .map(|item| match item {
                EntryItem::Bootstrap(config) => self.bootstrap(config),
                EntryItem::Master(request) => Answer::Master(self.request(&request)),
                EntryItem::Group(GroupQuery::Master(query)) => {
                    Answer::Group(GroupAnswer::Master(Box::new(self.query(&query))))
                }
                EntryItem::Lane(_)
                | EntryItem::Group(_)
                | EntryItem::Assign { .. }
                | EntryItem::Move(_) => Answer::Invalid,
            })
            .collect();
        self.plan();
        answers
    }

    /// The newest stamp applied.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// The newest configuration.
    pub fn newest(&self) -> &ClusterConfig {
        &self.map.config
    }

    /// Whether a move of this number was ever ordered, as far as is known here.
    pub fn has_ordered(&self, id: crate::moves::MoveId) -> bool {
        (1..self.next_move).contains(&id.0)
    }

    /// What subscribers are told.
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Which nodes may have a seat in each group.
    pub fn seats(&self) -> &BTreeMap<GroupId, Seats> {
        &self.seats
    }

    /// The configuration of that number, the same for ever; the newest for `None` and for numbers
    /// that are not given out yet (scenario K5). Decodes up to 255 differences.
    pub fn config(&self, num: Option<ConfigNum>) -> ClusterConfig {
        match num.filter(|num| *num < self.map.config.num) {
            Some(num) => self.history.get(num),
            None => self.map.config.clone(),
        }
    }

    /// A number that replicas with the same state share. Reads all of it.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        digest.numbers(&[self.log_time.0, self.next_move]);
        self.history.bytes().for_each(|config| digest.bytes(config));
        digest.bytes(&bytes_of(&self.map));
        digest.bytes(&bytes_of(&self.ended));
        digest.bytes(&bytes_of(&self.seats));
        digest.bytes(&bytes_of(&self.retired));
        for request in self.requests.iter() {
            digest.bytes(&bytes_of(&request));
        }
        digest.value()
    }

    /// The first configuration gets number 1 whatever it says of itself; a second one changes
    /// nothing, since every leader proposes it until it has applied one (scenario K7).
    fn bootstrap(&mut self, config: ClusterConfig) -> Answer {
        let is_small = config.groups.len() <= GROUPS_MAX + 1 && config.nodes.len() <= NODES_MAX;
        if config.check().is_err() || !is_small {
            return Answer::Invalid;
        }
        if self.history.len() == 1 {
            let config = ClusterConfig { num: ConfigNum(1), ..config.joined() };
            self.history.push(&self.map.config, &config);
            self.note(MasterRow::Config(1));
            self.begin_map(config);
        }
        Answer::Done { outcome: Outcome::Ok, log_time: self.log_time }
    }

    /// Carries out a wish once.
    fn request(&mut self, request: &MasterRequest) -> Result<MasterDone, MasterError> {
        let Some(id) = request.id else { return self.execute(&request.op) };
        let mut digest = Digest::new();
        digest.bytes(&bytes_of(&request.op));
        let digest = digest.value();
        if let Some(answer) = self.requests.answer(id, digest) {
            return answer;
        }
        let done = self.execute(&request.op)?;
        let (next, oldest) = self.requests.next();
        if let Some(oldest) = oldest {
            self.note_gone(MasterRow::Request(oldest));
            self.requests.forget(oldest);
        }
        self.note(MasterRow::Request(next));
        self.requests.remember(next, Remembered { id, digest, done, at: self.log_time });
        Ok(done)
    }

    fn execute(&mut self, op: &MasterOp) -> Result<MasterDone, MasterError> {
        if self.map.config.num == ConfigNum(0) {
            return Err(MasterError::NoConfiguration);
        }
        if let Some(draft) = self.draft(op) {
            return self.commit(draft?);
        }
        let mut count = 0;
        match op {
            MasterOp::Pause => self.set_paused(true),
            MasterOp::Resume => {
                self.forget_cancelled();
                self.set_paused(false);
            }
            MasterOp::Cancel(cancel) => count = self.cancel(cancel)?,
            MasterOp::SetEvacuated { node, evacuated } => self.set_evacuated(*node, *evacuated)?,
            MasterOp::Report(report) => self.report(report)?,
            MasterOp::GroupConf { group, members } => self.group_conf(*group, members)?,
            MasterOp::AddNode { .. }
            | MasterOp::ForgetNode { .. }
            | MasterOp::CreateGroup { .. }
            | MasterOp::DrainGroup { .. }
            | MasterOp::RemoveGroup { .. }
            | MasterOp::MoveSlots { .. }
            | MasterOp::AssignSlots { .. }
            | MasterOp::UnassignSlots { .. }
            | MasterOp::SetMembers { .. }
            | MasterOp::ChangeMembers { .. }
            | MasterOp::ReplaceNode { .. }
            | MasterOp::SetWeight { .. }
            | MasterOp::Rebalance { .. } => unreachable!("they have drafts"),
        }
        Ok(self.done(None, count))
    }

    fn done(&self, group: Option<GroupId>, count: u32) -> MasterDone {
        MasterDone { config: self.map.config.num, version: self.map.version, group, count }
    }

    /// Makes a configuration of a draft, if it differs from the newest one.
    fn commit(&mut self, draft: Draft) -> Result<MasterDone, MasterError> {
        let Draft { mut config, group, wanted } = draft;
        let mut moved = Vec::new();
        if config != self.map.config {
            if self.history.len() >= CONFIGS_MAX {
                return Err(MasterError::NoNumberLeft(self.history.len()));
            }
            config.num = ConfigNum(self.history.len());
            if config.slots != self.map.config.slots {
                let (old, new) = (self.map.config.slot_table(), config.slot_table());
                let differ = (0..).zip(old.iter().zip(&new)).filter(|(_, (old, new))| old != new);
                moved = differ.map(|(number, _)| Slot(number)).collect();
            }
            self.history.push(&self.map.config, &config);
            self.note(MasterRow::Config(config.num.0));
            self.set_config(config);
        }
        self.forget_waiting(&moved);
        match wanted {
            Wanted::Nothing => {}
            Wanted::Slots(ranges) => {
                let slots = slots_of(&ranges)?;
                self.forget_waiting(&slots);
                slots.into_iter().for_each(|slot| self.place(slot));
            }
            Wanted::All => self.forget_cancelled(),
        }
        moved.iter().for_each(|slot| self.place(*slot));
        Ok(self.done(group, moved.len() as u32))
    }

    /// Puts the next configuration in its place, with what follows from it.
    fn set_config(&mut self, config: ClusterConfig) {
        self.touch();
        let gone = self.map.config.groups.keys().filter(|g| !config.groups.contains_key(g));
        for group in gone.copied().collect::<Vec<_>>() {
            self.note(MasterRow::Retired);
            self.retired.insert(group);
            self.note(MasterRow::Seats(group));
            self.seats.remove(&group);
        }
        let renamed = config.groups.iter().filter(|(group, seats)| {
            let before = self.map.config.groups.get(group);
            before.is_none_or(|before| before.voters != seats.voters)
        });
        for (group, seats) in renamed.collect::<Vec<_>>() {
            self.note(MasterRow::Seats(*group));
            self.seats.entry(*group).or_default().name(config.num, &seats.voters);
        }
        found(&mut self.map.founders, &config);
        self.map.want_members(&config);
        self.map.evacuated.retain(|node| config.nodes.contains_key(node));
        self.map.config = config;
    }

    fn set_paused(&mut self, paused: bool) {
        if self.map.paused != paused {
            self.touch();
            self.map.paused = paused;
        }
    }

    fn set_evacuated(&mut self, node: NodeId, evacuated: bool) -> Result<(), MasterError> {
        if !self.map.config.nodes.contains_key(&node) {
            return Err(MasterError::UnknownNode(node));
        }
        if self.map.evacuated.contains(&node) != evacuated {
            self.touch();
            match evacuated {
                true => self.map.evacuated.insert(node),
                false => self.map.evacuated.remove(&node),
            };
        }
        Ok(())
    }

    fn is_retired(&self, group: GroupId) -> bool {
        self.retired.contains(&group)
    }

    /// The map is about to change: one version for all changes of an entry.
    fn touch(&mut self) {
        self.note(MasterRow::Map);
        if !self.touched {
            self.touched = true;
            self.map.version += 1;
        }
    }
}
