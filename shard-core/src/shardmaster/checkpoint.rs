//! The shardmaster's rows: which have changed, how they are handed out, and a shardmaster made of them.
//!
//! To freeze is to put the notes of what has changed aside. Whoever is about to change for the first time
//! what the frozen notes still name leaves the row behind as it was, so that the rows handed out are those of
//! the moment of the freeze.

use super::Shardmaster;
use super::history::{CONFIGS_MAX, History, Kept};
use super::moves::{ENDED_MOVES_MAX, EndedMove, Plan};
use super::requests::{REQUESTS_KEPT_MAX, Remembered, Requests};
use super::seats::{self, Seats};
use crate::checkpoint::RowChange;
use crate::cluster_config::{ClusterConfig, ConfigChange, ConfigNum, SHARDMASTER};
use crate::cluster_map::{
    ClusterMap, GroupMembers, MemberStep, Membership, MoveRecord, OwnerRange, Waiting, found, want,
};
use crate::codec::{self, bytes_of};
use crate::moves::{MoveId, SlotEpoch};
use crate::rows::{self, GroupRow, MasterRow, Row, RowError, RowFault, RowOrder};
use crate::session::LogTime;
use crate::shard_store::{Collected, Dirty, RowBudget};
use crate::slot::{SLOTS, Slot};
use bytes::Bytes;
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What has changed since the last freeze, and the checkpoint that is being handed out.
#[derive(Debug, Default)]
pub(super) struct Changes {
    dirty: BTreeSet<MasterRow>,
    /// The rows with growing numbers that no checkpoint has: from here on.
    unsaved: Unsaved,
    frozen: Option<Frozen>,
}

/// The first move, ended move and request of which no checkpoint was begun.
#[derive(Debug, Default)]
struct Unsaved {
    moves: u64,
    ended: u64,
    requests: u64,
}

#[derive(Debug)]
struct Frozen {
    /// As they were: these have changed since, or never had a note.
    left: Vec<RowChange>,
    /// As they are.
    rows: BTreeSet<MasterRow>,
}

/// What the map has once, in its row.
#[derive(Serialize, Deserialize)]
struct MapRow {
    version: u64,
    next_move: u64,
    paused: bool,
    evacuated: BTreeSet<NodeId>,
}

/// A group's row of seats.
#[derive(Serialize, Deserialize)]
struct SeatsRow {
    seats: Seats,
    reported: Option<GroupMembers>,
}

/// As it was before groups told learners from voters.
#[derive(Deserialize)]
struct FirstSeatsRow {
    named: BTreeMap<NodeId, Option<ConfigNum>>,
    follows: ConfigNum,
    members: BTreeSet<NodeId>,
}

impl From<FirstSeatsRow> for SeatsRow {
    fn from(row: FirstSeatsRow) -> SeatsRow {
        let FirstSeatsRow { named, follows, members } = row;
        let (voters, learners) = (members.into_iter().collect(), Vec::new());
        let reported = GroupMembers { follows, step: MemberStep::Settled, voters, learners };
        let reported = Some(reported).filter(|members| members.follows > ConfigNum(0));
        SeatsRow { seats: Seats { named }, reported }
    }
}

impl Shardmaster {
    /// How much has changed since the last freeze.
    pub fn dirty(&self) -> Dirty {
        Dirty { any: !self.changes.dirty.is_empty(), ..Dirty::default() }
    }

    /// Begins a checkpoint of the state as it is now.
    ///
    /// # Panics
    /// If the one before was not collected.
    pub fn freeze(&mut self) {
        assert!(self.changes.frozen.is_none(), "one checkpoint at a time");
        let group = GroupRow { log_time: self.log_time, assigned: 0 }.value(SHARDMASTER);
        let left = vec![Row::Group.put(group)];
        let rows = std::mem::take(&mut self.changes.dirty);
        self.changes.unsaved = self.numbers();
        self.changes.frozen = Some(Frozen { left, rows });
    }

    /// The next rows of the checkpoint that was begun.
    pub fn collect(&mut self, budget: RowBudget) -> Collected {
        let mut rows = Vec::new();
        let Some(mut frozen) = self.changes.frozen.take() else {
            return Collected { rows, done: true };
        };
        let mut bytes = 0;
        while rows.len() < budget.rows.max(1) && (rows.is_empty() || bytes < budget.bytes) {
            let next = frozen.left.pop().or_else(|| {
                let row = frozen.rows.pop_first()?;
                Some(self.row_now(row))
            });
            let Some(change) = next else { return Collected { rows, done: true } };
            if let RowChange::Put { key, body, .. } = &change {
                bytes += key.len() + body.len();
            }
            rows.push(change);
        }
        let done = frozen.left.is_empty() && frozen.rows.is_empty();
        self.changes.frozen = Some(frozen).filter(|_| !done);
        Collected { rows, done }
    }

    fn numbers(&self) -> Unsaved {
        Unsaved {
            moves: self.next_move,
            ended: self.ended.last_key_value().map_or(0, |(order, _)| order + 1),
            requests: self.requests.next().0,
        }
    }

    /// A row is about to go for good. One that no checkpoint has leaves no note: what changes between two
    /// checkpoints is bounded by what there is, not by how much came and went.
    pub(super) fn note_gone(&mut self, row: MasterRow) {
        let Unsaved { moves, ended, requests } = self.changes.unsaved;
        let is_unsaved = match row {
            MasterRow::Move(id) => id >= moves,
            MasterRow::Ended(order) => order >= ended,
            MasterRow::Request(order) => order >= requests,
            _ => false,
        };
        match is_unsaved {
            true => {
                self.changes.dirty.remove(&row);
            }
            false => self.note(row),
        }
    }

    /// A row is about to change.
    pub(super) fn note(&mut self, row: MasterRow) {
        if let Some(mut frozen) = self.changes.frozen.take() {
            if frozen.rows.remove(&row) {
                frozen.left.push(self.row_now(row));
            }
            self.changes.frozen = Some(frozen);
        }
        self.changes.dirty.insert(row);
    }

    fn row_now(&self, row: MasterRow) -> RowChange {
        let body = match row {
            MasterRow::Config(num) => return self.config_row(num),
            MasterRow::Map => Some(bytes_of(&MapRow {
                version: self.map.version,
                next_move: self.next_move,
                paused: self.map.paused,
                evacuated: self.map.evacuated.clone(),
            })),
            MasterRow::Owners(chunk) => self.owners_row(chunk),
            MasterRow::Move(id) => self.map.moves.get(&MoveId(id)).map(bytes_of),
            MasterRow::Waiting(slot) => self.map.waiting.get(&slot).map(bytes_of),
            MasterRow::Ended(order) => self.ended.get(&order).map(bytes_of),
            MasterRow::Request(order) => self.requests.get(order).map(bytes_of),
            MasterRow::Seats(group) => return self.seats_row(group),
            MasterRow::Retired => Some(bytes_of(&self.retired)),
        };
        match body {
            Some(body) => Row::Master(row).put((rows::versioned(), body.freeze().into())),
            None => Row::Master(row).delete(),
        }
    }

    fn config_row(&self, num: u64) -> RowChange {
        let (head, body) = match self.history.kept(num) {
            Some(Kept::Whole(bytes)) => (rows::versioned(), bytes.clone()),
            Some(Kept::Change(bytes)) => (rows::versioned_second(), bytes.clone()),
            None => return Row::Master(MasterRow::Config(num)).delete(),
        };
        Row::Master(MasterRow::Config(num)).put((head, body.into()))
    }

    fn seats_row(&self, group: GroupId) -> RowChange {
        let row = Row::Master(MasterRow::Seats(group));
        let Some(seats) = self.seats.get(&group).cloned() else { return row.delete() };
        let reported = self.map.reported_members(group).cloned();
        let body = bytes_of(&SeatsRow { seats, reported }).freeze();
        row.put((rows::versioned_second(), body.into()))
    }

    /// The owners of a chunk of slots; none if it has none.
    fn owners_row(&self, chunk: u8) -> Option<bytes::BytesMut> {
        let (first, last) = MasterRow::chunk(chunk);
        let ranges = self.map.owners.ranges().iter();
        let within: Vec<OwnerRange> = ranges
            .filter(|range| range.first <= last && range.last >= first)
            .map(|range| OwnerRange {
                first: range.first.max(first),
                last: range.last.min(last),
                ..*range
            })
            .collect();
        (!within.is_empty()).then(|| bytes_of(&within))
    }
}

/// Makes a shardmaster of its rows, which come in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct MasterLoader {
    order: RowOrder,
    /// Once the group's row was there.
    log_time: Option<LogTime>,
    history: Option<(History, ClusterConfig)>,
    /// The founders of the groups of the newest configuration so far.
    founders: BTreeMap<GroupId, Vec<NodeId>>,
    /// Which configuration wants the members of each, and what is reported of them.
    members: BTreeMap<GroupId, Membership>,
    /// Once the map's row was there.
    map: Option<ClusterMap>,
    next_move: u64,
    ended: BTreeMap<u64, EndedMove>,
    requests: Requests,
    seats: BTreeMap<GroupId, Seats>,
    retired: BTreeSet<GroupId>,
}

impl MasterLoader {
    pub(crate) fn row(&mut self, key: &[u8], value: Bytes) -> Result<(), RowFault> {
        let row = Row::of(key)?;
        self.order.follows(key)?;
        match row {
            Row::Group => {
                let GroupRow { log_time, assigned } = GroupRow::read(value, SHARDMASTER)?;
                if assigned != 0 {
                    return Err(RowFault::Value);
                }
                self.log_time = Some(log_time);
                Ok(())
            }
            Row::Master(MasterRow::Config(num)) => self.config(num, value),
            Row::Master(row) => self.part(row, value),
            Row::Slot(_) | Row::Lane(..) | Row::Key(..) | Row::Export(..) | Row::Part(..) => {
                Err(RowFault::Group)
            }
        }
    }

    /// Takes the next configuration, which may be whole, as it once always was, wherever it stands.
    fn config(&mut self, num: u64, mut value: Bytes) -> Result<(), RowFault> {
        let is_change = rows::is_second(&mut value)?;
        let Some((history, newest)) = &mut self.history else {
            if num != 0 || is_change {
                return Err(RowFault::Contradiction);
            }
            let config: ClusterConfig = codec::whole(&value)?;
            // What was there before the first has nothing to check.
            if config != ClusterConfig::default() {
                return Err(RowFault::Value);
            }
            self.history = Some((History::new(), config));
            return Ok(());
        };
        let config = match is_change {
            true => {
                let change: ConfigChange = codec::whole(&value)?;
                change.applied_to(newest).map_err(|_| RowFault::Value)?
            }
            false => {
                let config: ClusterConfig = codec::whole(&value)?;
                config.check().map_err(|_| RowFault::Value)?;
                config.joined()
            }
        };
        if num != history.len() || config.num != ConfigNum(num) || num >= CONFIGS_MAX {
            return Err(RowFault::Contradiction);
        }
        history.push(newest, &config);
        found(&mut self.founders, &config);
        want(&mut self.members, newest, &config);
        *newest = config;
        Ok(())
    }

    fn part(&mut self, row: MasterRow, mut value: Bytes) -> Result<(), RowFault> {
        if let MasterRow::Seats(group) = row {
            return self.seats_row(group, value);
        }
        rows::unversioned(&mut value)?;
        if let MasterRow::Map = row {
            let MapRow { version, next_move, paused, evacuated } = codec::whole(&value)?;
            if next_move == 0 {
                return Err(RowFault::Value);
            }
            self.next_move = next_move;
            self.map = Some(ClusterMap { version, paused, evacuated, ..ClusterMap::default() });
            return Ok(());
        }
        let map = self.map.as_mut().ok_or(RowFault::Orphan)?;
        match row {
            MasterRow::Config(_) | MasterRow::Map | MasterRow::Seats(_) => {}
            MasterRow::Owners(chunk) => {
                let (first, last) = MasterRow::chunk(chunk);
                let ranges: Vec<OwnerRange> = codec::whole(&value)?;
                for range in ranges {
                    let is_range = first <= range.first && range.first <= range.last;
                    let is_owner = range.epoch > SlotEpoch(0) && range.group != SHARDMASTER;
                    if !is_range || range.last > last || !is_owner {
                        return Err(RowFault::Value);
                    }
                    map.owners.set_range(range);
                }
            }
            MasterRow::Move(id) => {
                let record: MoveRecord = codec::whole(&value)?;
                if record.order.id != MoveId(id) || id >= self.next_move {
                    return Err(RowFault::Contradiction);
                }
                map.moves.insert(MoveId(id), record);
            }
            MasterRow::Waiting(slot) => {
                let waiting: Waiting = codec::whole(&value)?;
                map.waiting.insert(slot, waiting);
            }
            MasterRow::Ended(order) => {
                self.ended.insert(order, codec::whole(&value)?);
            }
            MasterRow::Request(order) => {
                let request: Remembered = codec::whole(&value)?;
                if self.requests.knows(request.id) {
                    return Err(RowFault::Contradiction);
                }
                self.requests.remember(order, request);
            }
            MasterRow::Retired => self.retired = codec::whole(&value)?,
        }
        Ok(())
    }

    fn seats_row(&mut self, group: GroupId, mut value: Bytes) -> Result<(), RowFault> {
        let SeatsRow { seats, reported } = match rows::is_second(&mut value)? {
            true => codec::whole(&value)?,
            false => SeatsRow::from(codec::whole::<FirstSeatsRow>(&value)?),
        };
        if reported.is_some() {
            self.members.entry(group).or_default().reported = reported;
        }
        self.seats.insert(group, seats);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Shardmaster, RowError> {
        let missing = |row: Row<'_>| RowError { row: row.key().to_vec(), fault: RowFault::Missing };
        let log_time = self.log_time.ok_or_else(|| missing(Row::Group))?;
        let (history, newest) =
            self.history.ok_or_else(|| missing(Row::Master(MasterRow::Config(0))))?;
        let mut master = Shardmaster::new();
        (master.log_time, master.history) = (log_time, history);
        master.changes.dirty.clear();
        let Some(map) = self.map else {
            // Nothing has happened yet, or all of it before slots could move.
            if newest.num > ConfigNum(0) {
                master.begin_map(newest);
            }
            return Ok(master);
        };
        let contradiction = || {
            let row = Row::Master(MasterRow::Map).key().to_vec();
            RowError { row, fault: RowFault::Contradiction }
        };
        master.map =
            ClusterMap { config: newest, founders: self.founders, members: self.members, ..map };
        let is_bounded =
            self.requests.len() <= REQUESTS_KEPT_MAX && self.ended.len() <= ENDED_MOVES_MAX;
        let is_whole = master.map.config.groups.keys().eq(self.seats.keys());
        let is_unused = master.map.config.groups.keys().all(|g| !self.retired.contains(g));
        let is_ended = self.ended.values().all(|ended| ended.record.is_reported());
        if master.map.check().is_err() || !is_bounded || !is_whole || !is_unused || !is_ended {
            return Err(contradiction());
        }
        master.next_move = self.next_move;
        master.ended = self.ended;
        master.requests = self.requests;
        master.seats = self.seats;
        master.retired = self.retired;
        master.plan = Plan::of(&master.map, log_time);
        master.changes.unsaved = master.numbers();
        Ok(master)
    }
}

impl Shardmaster {
    /// The map begins with every slot where the configuration wants it: each group gives itself the slots
    /// that its bootstrap configuration says (scenario K1).
    pub(super) fn begin_map(&mut self, config: ClusterConfig) {
        self.touch();
        for range in &config.slots {
            let (first, last, group) = (range.first, range.last, range.group);
            self.map.owners.set_range(OwnerRange { first, last, group, epoch: SlotEpoch(1) });
        }
        (0..SLOTS).step_by(256).for_each(|slot| self.note(MasterRow::owners_of(Slot(slot))));
        self.seats = seats::first(&config);
        let groups: Vec<GroupId> = config.groups.keys().copied().collect();
        groups.into_iter().for_each(|group| self.note(MasterRow::Seats(group)));
        found(&mut self.map.founders, &config);
        self.map.config = config;
    }
}
